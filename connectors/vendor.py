"""The shape of a vendor's connector: one file, one declaration, pure functions.

    VENDOR = Vendor(
        name="stripe", kind="payments", scheme=StripeSignature(),
        envelope=envelope,                            # headers and body -> topic and delivery ID
        topics={"payment_intent.succeeded": Topic(Event, captured), ...},
        ignored={"payment_intent.created": "nothing has been paid yet", ...},
        answers={"payment_intent": Topic(PaymentIntent, answered)},
        questions={"payment_intents": Question("payment_intents", since, cursor)},   # what is fetched, page by page
        actions={"payment.refund": Action(Ability("keyed", 86_400), refund, refunded)},   # what it does for us
        login=login,                                  # how requests are authorised
        complaint=complaint,                          # an error answer in our words
    )

A topic's function takes the account, the typed body and when it was received, and yields records; it opens nothing, asks no
clock, and keeps to what the vendor said. Its facts carry the vendor's own IDs, so that one thing told twice, pushed or fetched,
is one fact. Bodies are structs that name the fields we read: unknown ones are ignored, a missing one is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import phonenumbers

from connectors.base import Ability, Answer, Secret
from connectors.delivery import DECODING, Delivery, Ignored, Record, Routed, Unreadable, body_of, recorded, routed, stumbled, too_deep
from connectors.http import Reply, Request
from connectors.signature import Scheme
from orders import money
from orders.fact import AT_MAX, AT_MIN, Address, Fact
from orders.request import FactWaiting

MAX_DEPTH = 64  # of a body's JSON: real ones have a dozen
ANSWER = "answer:"  # before the kind of an answer, where a topic stands


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where parcels come from, and what one weighs and measures where nobody says."""

    name: str = ""
    phone: str = ""
    address: Address = Address()
    weight_g: int = 500
    size_mm: tuple[int, int, int] = (300, 200, 100)  # length, width, height


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One configured account of a vendor: a source. Order IDs are `shop` + ":" + the shop's own ID."""

    source: str  # "shopify-lumi": the system that its facts name
    shop: str  # slug of the shop whose orders it speaks of
    authority: int = 0
    reports_payments: bool = True  # a shop's word on payments; False where the gateway itself is connected: nothing counts twice
    reports_parcels: bool = True  # a shop's word on parcels; False where we tell it of them: what comes back is not a second parcel
    order_field: str = "order_id"  # metadata of a payment that names the shop's order
    location: str = "main"  # stock location, where the vendor has only one

    # to ask it for something
    url: str = ""  # base of its API, no slash at the end; empty: `Vendor.url`
    credentials: dict[str, Secret] = {}  # by the vendor's own names: "client_id", "client_secret", "token", ...
    options: dict[str, str] = {}  # what else its API wants to know of the account: "shipper_number", ...
    services: tuple[str, ...] = ()  # of a carrier: which services' labels it makes; empty: all
    origin: Origin = Origin()


class Ask(msgspec.Struct, frozen=True):
    """What an effect for the outside asks for, as `orders.plan.body` renders it."""

    event: str  # the action: "carrier.label", "payment.refund", ...
    id: str  # effect ID, and idempotency key
    order: str  # order ID
    data: msgspec.Raw  # by the action
    at: int = 0  # when it is asked, ms: whoever asks says it, for requests that name a day; no part of what is kept


class Action(msgspec.Struct, frozen=True):
    """One thing a vendor does for us. All three are pure; credentials are added later, by `Vendor.login`.

    `read` gets the reply to `render`'s request; what it makes `Done(reference)` of is kept with the order: for a label
    "carrier tracking-number label-file". `look`, where the ability is "lookup", asks what became of it: `found` reads that.

    Where one request does not do, that of `render` only asks and changes nothing: `then` gets its reply, and makes the request
    that acts, whose reply `read` gets, or knows the answer already. Whatever fails before the request that acts is TryLater.
    """

    ability: Ability
    render: Callable[[Account, Ask], Request]  # raises Unreadable for what cannot be asked, naming the field
    read: Callable[[Account, Ask, Reply], Answer]
    look: Callable[[Account, Ask], Request] | None = None
    found: Callable[[Account, Ask, Reply], Answer] | None = None
    then: Callable[[Account, Ask, Reply], Request | Answer] | None = None
    login: Login | None = None  # a second token that it needs beside the vendor's: asked for with the first, sent with it, kept apart


class Question(msgspec.Struct, frozen=True):
    """What can be fetched: pages of an answer. `value` is an ID, or a time in ms since when, as text."""

    answer: str  # kind in `Vendor.answers`
    render: Callable[[Account, str, str], Request]  # account, value, cursor ("" first); without credentials
    next: Callable[[Reply], str]  # cursor of the next page, "" at the end


class Login(msgspec.Struct, frozen=True):
    """How requests are authorised: `headers` from credentials alone or, where `render` makes a request for a token, with the token.

    `render` makes none for an account whose credentials already hold one.
    """

    headers: Callable[[Account, str], tuple[tuple[str, str], ...]]  # account, token ("" where none is fetched)
    render: Callable[[Account], Request | None] | None = None  # asks for a token; credentials in it
    token: Callable[[Reply], tuple[str, float]] | None = None  # token and its life, seconds; raises Unreadable


class Topic(msgspec.Struct, frozen=True):
    """How one kind of body is read."""

    body: Any  # type of the body, for msgspec
    read: Callable[[Account, Any, int], Iterable[Record]]  # the account, the body, when it was received (ms)


class Envelope(NamedTuple):
    """What a delivery says of itself before it is read."""

    topic: str
    delivery: str  # the vendor's ID of this delivery; "" where it has none


class Guide(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.py init` tells somebody who connects an account."""

    title: str = ""  # "Shopify"
    where: str = ""  # where its webhooks are set up
    signed_with: str = ""  # where the secret that signs them is found; empty: it pushes nothing
    subscribe: tuple[str, ...] = ()  # topics to choose there; empty: all it has
    credentials: Mapping[str, str] = {}  # for what we ask of it: name -> where it is found


class Reasons(Mapping[str, str]):
    """Why topics hold nothing for us. What is true of a family is said once, of "carts/*" or "invoice.*": new ones join it unasked."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self._told = told

    def __getitem__(self, topic: str) -> str:
        family, name = topic, topic
        while name not in self._told:
            cut = max(family.rfind("."), family.rfind("/"))
            if cut < 0:
                raise KeyError(topic)
            family, name = family[:cut], f"{family[: cut + 1]}*"
        return self._told[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    guide: Guide = Guide()
    kind: Literal["shop", "payments", "warehouse", "carrier"]
    scheme: Scheme | None  # how deliveries are signed; None: the vendor pushes nothing, it is polled
    envelope: Callable[[Mapping[str, str], bytes], Envelope]  # headers (names in lower case) and body; raises Unreadable
    topics: Mapping[str, Topic]
    ignored: Mapping[str, str] = {}  # topic -> why it holds nothing for us
    answers: Mapping[str, Topic] = {}  # kind of an answer to what we ask -> how it is read
    url: str = ""  # of its API
    questions: Mapping[str, Question] = {}  # by the name of what is asked: "tracking", "orders_since", ...
    actions: Mapping[str, Action] = {}
    login: Login | None = None
    pace_per_s: float = 4.0  # calls an account stands
    complaint: Callable[[bytes], str] = lambda body: ""  # what an error answer says, in our words; "" for what is none

    def read(self, account: Account, topic: str, body: bytes, at: int) -> list[Record]:
        """Records of one delivery or, with "answer:" before its kind, of one answer. Raises Unreadable, Ignored."""
        answer = topic.startswith(ANSWER)
        its = (self.answers if answer else self.topics).get(topic.removeprefix(ANSWER))
        if its is None:
            raise Ignored(self.ignored.get(topic) or f"{self.name} has no topic {topic!r} that we know")
        records = list(its.read(account, _decoded(body, its.body), at))
        if not records:
            raise Ignored("it says nothing that an order, a stock level or a customer would change by")
        return records

    def route(self, account: Account, topic: str, body: bytes, at: int) -> list[Routed]:
        return [routed(record) for record in self.read(account, topic, body, at)]


def _decoded(body: bytes, kind: Any) -> Any:
    if too_deep(body, MAX_DEPTH):
        raise Unreadable("malformed", f"nested deeper than {MAX_DEPTH}")
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODING as error:
        raise stumbled(error) from None


def reader(vendor: Vendor, account: Account, bodies: Path) -> Callable[[Delivery], list[Routed]]:
    """How intake reads the deliveries of an account; `bodies` is where those lie that are too large for the log."""

    def read(delivery: Delivery) -> list[Routed]:
        body = body_of(delivery, bodies)
        topic = delivery.topic or vendor.envelope(delivery.headers, body).topic
        return vendor.route(account, topic, body, delivery.at)

    return read


def understood(vendor: Vendor, account: Account, raw: bytes, at: int, topic: str = "", answer: str = "") -> list[Record] | str:
    """What a recorded delivery or answer gives: its records, or the vendor's complaint in our words. Raises Unreadable, Ignored.

    `topic` and `answer` say what it is where neither the recording nor its headers do.
    """
    body, headers, told, answered = recorded(raw)
    kind = answer or answered
    if kind and kind not in vendor.answers:
        raise Unreadable("schema", f"no answer of {vendor.name} is called {kind!r}; known: {', '.join(sorted(vendor.answers))}")
    if kind:
        return vendor.complaint(body) or vendor.read(account, ANSWER + kind, body, at)
    try:
        its = topic or told or vendor.envelope(headers, body).topic
        if not its:
            raise Unreadable("schema", f"{vendor.name} pushes nothing, so it is an answer: {', '.join(sorted(vendor.answers))}")
        return vendor.read(account, its, body, at)
    except Unreadable:
        if complaint := vendor.complaint(body):
            return complaint
        raise


# --- what the vendors' functions share
def order_id(account: Account, own: int | str) -> str:
    return f"{account.shop}:{own}"


def waiting(fact: Fact, kind: str, value: str) -> FactWaiting:
    """A fact (its `order` empty) that names a payment or a parcel: the references lane finds its order."""
    return FactWaiting(at=fact.at, kind=kind, value=value, fact=msgspec.Raw(msgspec.json.encode(fact)))


def ms(text: str, field: str) -> int:
    """Milliseconds of an ISO 8601 time; one without an offset is UTC. Raises Unreadable naming the field."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Unreadable("schema", field) from None
    return within(int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000), field)


def within(at: int, field: str) -> int:
    """Raises Unreadable for a time before 2000 or after 2100."""
    if not AT_MIN <= at < AT_MAX:
        raise Unreadable("bounds", field)
    return at


def minor(amount: str | int | float | Decimal, currency: str, field: str) -> int:
    """Minor units of an amount in major units, exactly. Raises Unreadable naming the field."""
    try:
        return money.minor(format(amount, "f") if isinstance(amount, Decimal) else str(amount), currency.upper())
    except KeyError:
        raise Unreadable("currency", field) from None
    except ValueError:
        raise Unreadable("schema", field) from None


def phone(text: str | None, country: str = "") -> str:
    """E.164 of a number as people write it; "" for what is none."""
    try:
        number = phonenumbers.parse(text or "", country or None)
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_possible_number(number):
        return ""
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
