"""Stripe: what became of payments, as events that it pushes and objects that we fetch to reconcile.

Whose payment it is says `metadata[order_field]` of the object, or of its payment intent where that is expanded; a checkout
session may say it in `client_reference_id`. It is the shop's own ID, or a global one that ends in it. What names no order waits for
its payment intent (where there is none, its charge) to be linked to one; so does what names a number ("#1001"), since two shops
count alike. Whatever names both links them, for good: a payment is never another order's.

- A capture or an authorization is a fact of its payment intent, whoever tells it (the intent, its charge, a listing), and of
  the charge where there is no intent. Its amount is the sum so far and only grows, so the amount is its version. Older charges,
  without `amount_captured`, show what was released uncaptured as refunded: it is taken off.
- A failure is a fact of one attempt: intent and charge, or the time where nothing was charged. The intent knows the bank's
  decline code, so its word outranks the charge's.
- `charge.refunded` tells refunds only where it lists them with their IDs, which API versions since 2022-11-15 and the oldest do
  not; an endpoint of a new one has to be subscribed to `refund.created`, `refund.updated` and `refund.failed`. A refund that failed
  after all, or was cancelled, is retracted. Stripe makes a refund of what it releases uncaptured too; it moves no balance and is
  none of ours.
- An authorization that was cancelled or ran out is retracted: nothing can be captured of it.
- An inquiry (`warning_...`) is a dispute like any other; one that ends without a chargeback, or was prevented, is won.
- A checkout session links its payment intent, which tells what was paid or not. Only where there is none (a subscription's)
  its own total is stated as paid, as a statement of the whole, so that it never adds to a capture.
- Amounts are in minor units as Stripe counts them, which differ from ISO 4217 for three currencies.
- Events of test mode, and of connected accounts, are read like others: which an endpoint is sent is the account's choice.

A fetched object does not say when it was captured or closed: it counts from its creation, and the pushed time outranks that.

Done for us: refunds, and checkout sessions for what is still to be paid. Both go out under the effect's ID as idempotency key, which
Stripe remembers for a day, and name the order in the metadata, so that what they bring about finds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET, UnsetType

from connectors.base import Ability, Answer, Done, Reason, Refused, TryLater, Unknown
from connectors.delivery import DECODING, Ignored, Record, Unreadable, stumbled
from connectors.http import Reply, Request, decode
from connectors.signature import StripeSignature
from connectors.vendor import (
    ANSWER,
    Account,
    Action,
    Ask,
    Envelope,
    Guide,
    Login,
    Question,
    Reasons,
    Topic,
    Vendor,
    order_id,
    waiting,
    within,
)
from orders import money
from orders.bounds import AMOUNT_MAX
from orders.fact import (
    AnyFact,
    DisputeClosed,
    FactRetracted,
    OrderPaid,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    RiskReported,
)
from orders.request import ReferenceLinked

DIGITS = {"ISK": 2, "UGX": 2, "MGA": 0}  # of Stripe's minor unit, where ISO 4217 has another: 0, 0 and 2
RELEASED = frozenset({"expired_uncaptured_charge", "partial_capture"})  # reasons of refunds that gave back no money
UNDONE = frozenset({"failed", "canceled"})  # of a refund
ENDED = {"won": True, "warning_closed": True, "prevented": True, "charge_refunded": True, "lost": False}  # of a dispute: kept the money?
UNTRIED = "payment_intent_authentication_failure"  # the customer failed, and nothing was charged
GLOBAL = re.compile(r"gid://[^/]+/Order/([0-9]+)")  # an order's ID as a shop's GraphQL has it

Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Metadata: TypeAlias = dict[str, str] | list[Any] | None  # a list where PHP has written down an empty one


# --- bodies
class Named(msgspec.Struct):
    """An object that a field names, expanded."""

    id: Id
    metadata: Metadata = None


Expandable: TypeAlias = Id | Named | None


class PaymentError(msgspec.Struct):
    code: str | None = None
    decline_code: str | None = None
    charge: Expandable = None


class Charges(msgspec.Struct):
    data: list[Named]


class Intent(msgspec.Struct):
    id: Id
    created: int
    amount: int
    currency: str
    status: str
    amount_received: int = 0
    amount_capturable: int = 0
    latest_charge: Expandable = None  # API versions before 2022-11-15 list `charges` instead
    charges: Charges | None = None
    last_payment_error: PaymentError | None = None
    metadata: Metadata = None


class Refund(msgspec.Struct):
    created: int
    amount: int
    currency: str
    id: Id = ""  # the oldest API versions have none where a charge lists it
    status: str | None = None  # the oldest API versions have none: it succeeded
    reason: str | None = None
    charge: Expandable = None
    payment_intent: Expandable = None
    balance_transaction: str | Named | UnsetType | None = UNSET
    metadata: Metadata = None


class Refunds(msgspec.Struct):
    data: list[Refund]


class Outcome(msgspec.Struct):
    reason: str | None = None


class Checks(msgspec.Struct):
    """What the card's bank found: "pass", "fail", "unavailable", "unchecked"."""

    address_line1_check: str | None = None
    address_postal_code_check: str | None = None
    cvc_check: str | None = None


class Card(msgspec.Struct):
    checks: Checks | None = None


class Method(msgspec.Struct):
    card: Card | None = None


class Charge(msgspec.Struct):
    id: Id
    created: int
    amount: int
    currency: str
    captured: bool
    status: str | None = None  # the oldest API versions have none; later ones call a success "paid"
    paid: bool | None = None
    amount_captured: int | None = None  # older charges have none
    amount_refunded: int = 0
    refunded: bool = False
    refunds: Refunds | list[Refund] | None = None  # a bare list in the oldest API versions
    payment_intent: Expandable = None
    failure_code: str | None = None
    outcome: Outcome | None = None
    payment_method_details: Method | None = None
    metadata: Metadata = None


class Dispute(msgspec.Struct):
    id: Id
    created: int
    amount: int
    currency: str
    status: str
    charge: Expandable = None
    payment_intent: Expandable = None
    metadata: Metadata = None


class Session(msgspec.Struct):
    id: Id
    created: int | None = None
    amount_total: int | None = None
    currency: str | None = None
    payment_status: str | None = None
    payment_intent: Expandable = None
    client_reference_id: str | None = None
    metadata: Metadata = None


T = TypeVar("T")


class Data(msgspec.Struct, Generic[T]):
    object: T


class Event(msgspec.Struct, Generic[T]):
    created: int
    data: Data[T]


class Listing(msgspec.Struct, Generic[T]):
    data: list[T]


class Head(msgspec.Struct):
    id: Id
    type: Id


_head = msgspec.json.Decoder(Head).decode


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    try:
        head = _head(body)
    except DECODING as error:
        raise stumbled(error) from None
    return Envelope(head.type, head.id)


# --- whose it is
class Payment(NamedTuple):
    """What a fact hangs on: the order, where something names it, else the payment."""

    order: str  # "" where nobody says
    ids: tuple[str, ...]  # of the intent, then of its charges; a fact is the first one's


def _payment(account: Account, thing: Intent | Charge | Refund | Dispute | Session) -> Payment:
    match thing:
        case Intent():
            parts: list[Expandable] = [thing.id, thing.latest_charge, *(thing.charges.data if thing.charges else ())]
        case Charge():
            parts = [thing.payment_intent, thing.id]
        case Session():
            parts = [thing.payment_intent]
        case _:
            parts = [thing.payment_intent, thing.charge]
    said = [thing.metadata, *(part.metadata for part in parts if isinstance(part, Named))]
    own = [metadata.get(account.order_field, "") for metadata in said if isinstance(metadata, dict)]
    if isinstance(thing, Session):
        own.append(thing.client_reference_id or "")
    order = next(filter(None, map(_own_id, own)), "")
    return Payment(order_id(account, order) if order else "", tuple(dict.fromkeys(_id(part) for part in parts if part)))


def _own_id(text: str) -> str:
    """The shop's own ID in what a merchant wrote to name an order; "" where that is another's, or an order's number."""
    text = text.strip()
    if found := GLOBAL.fullmatch(text):
        return found[1]
    return "" if text.startswith(("gid://", "#")) else text


def _id(thing: Expandable) -> str:
    return thing.id if isinstance(thing, Named) else thing or ""


def _told(payment: Payment, *facts: AnyFact) -> Iterator[Record]:
    if not payment.order and not payment.ids:
        raise Ignored("it names neither an order nor a payment")
    for fact in facts:
        yield fact if payment.order else waiting(fact, "payment", payment.ids[0])
    if payment.order and facts:
        yield from _links(payment, facts[0].at)


def _links(payment: Payment, at: int) -> Iterator[Record]:
    for id in payment.ids:
        yield ReferenceLinked(kind="payment", value=id, order=payment.order, since=0, at=at)


def _said(account: Account, payment: Payment, object: str, at: int) -> dict[str, Any]:
    return {"order": payment.order, "system": account.source, "object": object, "at": at, "authority": account.authority}


def _money(amount: int, currency: str) -> dict[str, Any]:
    """Amount in ISO minor units, and currency."""
    code = currency.upper()
    if not money.known(code):
        raise Unreadable("currency", "currency")
    digits = money.EXPONENTS[code]
    minor, rest = divmod(amount * 10**digits, 10 ** DIGITS.get(code, digits))
    if rest:
        raise Unreadable("currency", "amount")  # a fraction of a unit that has none any more
    if not 0 <= minor < AMOUNT_MAX:
        raise Unreadable("bounds", "amount")
    return {"amount": minor, "currency": code}


def _time(seconds: int | None) -> int:
    if seconds is None:
        raise Unreadable("schema", "created")
    return within(seconds * 1000, "created")


# --- payment intents
def intent_captured(account: Account, intent: Intent, at: int) -> Iterator[Record]:
    if intent.amount_received == 0:
        raise Unreadable("schema", "amount_received")  # it succeeded, so that was left out
    payment = _payment(account, intent)
    total = _money(intent.amount_received, intent.currency)
    yield from _told(payment, PaymentCaptured(**_said(account, payment, intent.id, at), version=total["amount"], **total))


def intent_authorized(account: Account, intent: Intent, at: int) -> Iterator[Record]:
    payment = _payment(account, intent)
    total = _money(intent.amount_capturable + intent.amount_received, intent.currency)  # what is captured of it was authorized too
    if total["amount"]:
        yield from _told(payment, PaymentAuthorized(**_said(account, payment, intent.id, at), version=total["amount"], **total))


def intent_failed(account: Account, intent: Intent, at: int) -> Iterator[Record]:
    payment = _payment(account, intent)
    error = intent.last_payment_error or PaymentError()
    attempt = _attempt(intent) or str(at // 1000)
    fact = PaymentFailed(
        **_said(account, payment, f"{intent.id}:{attempt}", at),
        version=1,
        reason=error.decline_code or error.code or "",
        **_money(intent.amount, intent.currency),
    )
    yield from _told(payment, fact)


def intent_cancelled(account: Account, intent: Intent, at: int) -> Iterator[Record]:
    payment = _payment(account, intent)
    if len(payment.ids) > 1:  # else it was cancelled before anything was charged
        yield from _told(payment, _released(account, payment, at))


def intent_fetched(account: Account, intent: Intent, at: int) -> Iterator[Record]:
    if intent.last_payment_error and _attempt(intent):
        yield from intent_failed(account, intent, at)
    if intent.status == "requires_capture":
        yield from intent_authorized(account, intent, at)
    if intent.amount_received:
        yield from intent_captured(account, intent, at)
    if intent.status == "canceled":
        yield from intent_cancelled(account, intent, at)


def _attempt(intent: Intent) -> str:
    """The charge that failed last; "" where the last attempt got to none."""
    error = intent.last_payment_error or PaymentError()
    return _id(error.charge) or ("" if error.code == UNTRIED else _id(intent.latest_charge))


def _released(account: Account, payment: Payment, at: int) -> FactRetracted:
    return _retracted(account, payment, payment.ids[0], PaymentAuthorized, at)


def _retracted(account: Account, payment: Payment, object: str, kind: type[AnyFact], at: int) -> FactRetracted:
    return FactRetracted(
        **_said(account, payment, object, at), target_system=account.source, target_object=object, target_type=kind.__name__
    )


# --- charges
def charge_succeeded(account: Account, charge: Charge, at: int) -> Iterator[Record]:
    payment = _payment(account, charge)
    total = _money(_captured(charge) if charge.captured else charge.amount, charge.currency)
    kind = PaymentCaptured if charge.captured else PaymentAuthorized
    paid = kind(**_said(account, payment, payment.ids[0], at), version=total["amount"], **total)
    yield from _told(payment, paid, *_risk(account, charge, payment))


def _risk(account: Account, charge: Charge, payment: Payment) -> Iterator[RiskReported]:
    """The checks of its card that failed, each a report of its own: one that is told later contradicts none."""
    card = charge.payment_method_details and charge.payment_method_details.card
    checks = card.checks if card and card.checks else Checks()
    failed = {
        "avs_mismatch": "fail" in (checks.address_line1_check, checks.address_postal_code_check),
        "cvc_mismatch": checks.cvc_check == "fail",
    }
    for name, so in failed.items():
        if so:
            yield RiskReported(**_said(account, payment, f"{charge.id}:{name}", _time(charge.created)), signals={name: 1.0})


def charge_captured(account: Account, charge: Charge, at: int) -> Iterator[Record]:
    if charge.amount_captured is None:  # nothing can have been given back yet: what looks so was released by this capture
        charge = msgspec.structs.replace(charge, amount_captured=charge.amount - charge.amount_refunded)
    yield from charge_succeeded(account, charge, at)


def _captured(charge: Charge) -> int:
    if charge.amount_captured is not None:
        return charge.amount_captured
    return charge.amount - sum(refund.amount for refund in _refunds(charge) if _releases(refund))


def _refunds(charge: Charge) -> list[Refund]:
    return charge.refunds.data if isinstance(charge.refunds, Refunds) else charge.refunds or []


def charge_failed(account: Account, charge: Charge, at: int) -> Iterator[Record]:
    payment = _payment(account, charge)
    fact = PaymentFailed(
        **_said(account, payment, ":".join(payment.ids), at),
        reason=(charge.outcome and charge.outcome.reason) or charge.failure_code or "",
        **_money(charge.amount, charge.currency),
    )
    yield from _told(payment, fact)


def charge_expired(account: Account, charge: Charge, at: int) -> Iterator[Record]:
    payment = _payment(account, charge)
    yield from _told(payment, _released(account, payment, at))


def charge_refunded(account: Account, charge: Charge, at: int) -> Iterator[Record]:
    if not charge.captured:
        yield from charge_expired(account, charge, at)
        return
    refunds = [refund for refund in _refunds(charge) if refund.id]
    if not refunds:
        raise Ignored("this API version does not say which refund it was: refund.created and refund.updated tell each")
    payment = _payment(account, charge)
    facts = [_refund(account, refund, payment, _time(refund.created)) for refund in refunds]
    yield from _told(payment, *(fact for fact in facts if fact))


def charge_fetched(account: Account, charge: Charge, at: int) -> Iterator[Record]:
    if charge.status is None and charge.paid is None:
        raise Unreadable("schema", "status")
    status = charge.status or ("paid" if charge.paid else "failed")
    if status == "failed":
        yield from charge_failed(account, charge, at)
    elif status not in ("succeeded", "paid"):
        return
    elif not charge.captured and charge.refunded:
        yield from charge_expired(account, charge, at)
    else:
        yield from charge_succeeded(account, charge, at)
        if charge.captured and any(refund.id for refund in _refunds(charge)):
            yield from charge_refunded(account, charge, at)


# --- refunds
def refund_told(account: Account, refund: Refund, at: int) -> Iterator[Record]:
    if not refund.id:
        raise Unreadable("schema", "id")
    payment = _payment(account, refund)
    fact = _refund(account, refund, payment, at)
    if fact is None:
        raise Ignored("no money has gone back: the refund is under way, or released what was never captured")
    yield from _told(payment, fact)


def _refund(account: Account, refund: Refund, payment: Payment, at: int) -> PaymentRefunded | FactRetracted | None:
    if refund.status in UNDONE:
        return _retracted(account, payment, refund.id, PaymentRefunded, at)
    if refund.status not in (None, "succeeded") or _releases(refund):
        return None
    return PaymentRefunded(**_said(account, payment, refund.id, _time(refund.created)), **_money(refund.amount, refund.currency))


def _releases(refund: Refund) -> bool:
    """Whether it gave back what had not been captured: no money."""
    return refund.reason in RELEASED or (refund.status in (None, "succeeded") and refund.balance_transaction is None)


# --- disputes
def dispute_created(account: Account, dispute: Dispute, at: int) -> Iterator[Record]:
    payment = _payment(account, dispute)
    fact = PaymentDisputed(**_said(account, payment, dispute.id, _time(dispute.created)), **_money(dispute.amount, dispute.currency))
    yield from _told(payment, fact)


def dispute_closed(account: Account, dispute: Dispute, at: int) -> Iterator[Record]:
    if dispute.status not in ENDED:
        raise Unreadable("schema", "status")
    payment = _payment(account, dispute)
    yield from _told(payment, DisputeClosed(**_said(account, payment, dispute.id, at), won=ENDED[dispute.status]))


def dispute_fetched(account: Account, dispute: Dispute, at: int) -> Iterator[Record]:
    yield from dispute_created(account, dispute, at)
    if dispute.status in ENDED:
        yield from dispute_closed(account, dispute, at)


# --- checkout sessions
def session_completed(account: Account, session: Session, at: int) -> Iterator[Record]:
    payment = _session_payment(account, session)
    yield from _links(payment, at)
    if not payment.ids:
        if session.payment_status != "paid" or session.amount_total is None or session.currency is None:
            raise Ignored("it names no payment and nothing was paid")
        yield OrderPaid(**_said(account, payment, session.id, at), **_money(session.amount_total, session.currency))


def session_failed(account: Account, session: Session, at: int) -> Iterator[Record]:
    payment = _session_payment(account, session)
    yield from _links(payment, at)
    if not payment.ids:
        if session.amount_total is None or session.currency is None:
            raise Ignored("it names no payment and no amount")
        yield PaymentFailed(**_said(account, payment, session.id, at), **_money(session.amount_total, session.currency))


def _session_payment(account: Account, session: Session) -> Payment:
    payment = _payment(account, session)
    if not payment.order:
        raise Ignored(f"it names no order by the shop's own ID, neither in client_reference_id nor in metadata[{account.order_field}]")
    return payment


# --- what it does for us
URL = "https://api.stripe.com"
VERSION = "2023-08-16"  # of the API, whatever the account's own is
KEYED = Ability("keyed", life_s=24 * 3600)
PAGE = 100  # the most that Stripe gives at once

Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Refunding(msgspec.Struct):
    payment: str  # payment intent or charge
    amount: int
    currency: str


class Paying(msgspec.Struct):
    """What is to be paid, and where the customer comes back to."""

    number: Text
    amount: int
    currency: str
    success_url: Text
    cancel_url: Text


class Made(msgspec.Struct):
    id: Id
    status: str | None = None
    url: str = ""


def headers(account: Account, token: str) -> tuple[tuple[str, str], ...]:
    return ("Authorization", f"Bearer {account.credentials['key'].reveal()}"), ("Stripe-Version", VERSION)


def refund(account: Account, ask: Ask) -> Request:
    its = _asked(ask, Refunding)
    kind = {"pi_": "payment_intent", "ch_": "charge", "py_": "charge"}.get(its.payment[:3])
    if kind is None:
        raise Unreadable("schema", "data.payment")
    fields: dict[str, str | int] = {
        kind: its.payment,
        "amount": _amount(its.amount, its.currency),
        "metadata[orderflow_effect]": ask.id,
        f"metadata[{account.order_field}]": _own(ask),
    }
    return _posted(account, ask, "refunds", fields)


def refund_made(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status != 200:
        return _declined(reply)
    made = decode(reply.body, Made)
    if made is None:
        return Unknown(Reason.GATEWAY)
    return Refused(Reason.OTHER) if made.status in UNDONE else Done(made.id)


def checkout(account: Account, ask: Ask) -> Request:
    """A session whose page takes what the order still owes; its address is the reference, and good for a day."""
    its = _asked(ask, Paying)
    price, field, own = "line_items[0][price_data]", account.order_field, _own(ask)
    fields: dict[str, str | int] = {
        "mode": "payment",
        "line_items[0][quantity]": 1,
        f"{price}[currency]": its.currency.lower(),
        f"{price}[unit_amount]": _amount(its.amount, its.currency),
        f"{price}[product_data][name]": its.number,
        "success_url": its.success_url,
        "cancel_url": its.cancel_url,
        "client_reference_id": own,
        f"metadata[{field}]": own,
        f"payment_intent_data[metadata][{field}]": own,
    }
    return _posted(account, ask, "checkout/sessions", fields)


def checkout_made(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status != 200:
        return _declined(reply)
    made = decode(reply.body, Made)
    return Unknown(Reason.GATEWAY) if made is None or not made.url.startswith("https://") else Done(made.url)


def _asked(ask: Ask, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(ask.data, type=kind)
    except DECODING as error:
        raise stumbled(error) from None


def _own(ask: Ask) -> str:
    """The order as the shop calls it, and metadata name it."""
    return ask.order.partition(":")[2]


def _amount(minor: int, currency: str) -> int:
    """Stripe's minor units of ours: the inverse of `_money`."""
    code = currency.upper()
    if not money.known(code):
        raise Unreadable("currency", "data.currency")
    if not 0 < minor < AMOUNT_MAX:
        raise Unreadable("bounds", "data.amount")
    digits: int = money.EXPONENTS[code]
    amount, rest = divmod(minor * 10 ** DIGITS.get(code, digits), 10**digits)
    if rest:
        raise Unreadable("currency", "data.amount")
    return int(amount)


def _posted(account: Account, ask: Ask, what: str, fields: Mapping[str, str | int]) -> Request:
    form = ("Content-Type", "application/x-www-form-urlencoded")
    return Request("POST", f"{account.url or URL}/v1/{what}", (form, ("Idempotency-Key", ask.id)), urlencode(fields).encode())


MENDABLE = frozenset(  # by the operator, in the configuration or in Stripe's dashboard
    {"api_key_expired", "secret_key_required", "livemode_mismatch", "testmode_charges_only", "balance_insufficient"}
)


def _declined(reply: Reply) -> Answer:
    """An error reply. Whatever may have been done is done once: the key makes asking again safe."""
    refusal = decode(reply.body, Refusal)
    error = refusal.error if refusal is not None else Problem()
    if error.code == "charge_already_refunded":
        return Done(error.code)
    if error.type == "idempotency_error":
        return Unknown(Reason.OTHER)  # something was asked for under this key before, and not with these words
    if error.code in MENDABLE:
        return TryLater(Reason.CONFIGURATION)
    match reply.status:
        case 401 | 403:
            return TryLater(Reason.CREDENTIALS)
        case 429:
            return TryLater(Reason.RATE, reply.retry_after_s)
        case 409 | 503:
            return TryLater(Reason.PROVIDER, reply.retry_after_s)
        case status if status >= 500:
            return Unknown(Reason.GATEWAY)
        case status if status < 400 or refusal is None:
            return TryLater(Reason.CONFIGURATION)  # that was not Stripe
        case 404:
            return Refused(Reason.GONE)
        case 400:
            return Refused(Reason.CONTENT)
        case _:
            return Refused(Reason.OTHER)


# --- what it is asked
class Page(msgspec.Struct):
    data: list[Named]
    has_more: bool = False


def _since(what: str, **more: str) -> Question:
    def render(account: Account, value: str, cursor: str) -> Request:
        query = {"created[gte]": str(int(value or "0") // 1000), "limit": str(PAGE), **more}
        if cursor:
            query["starting_after"] = cursor
        return Request("GET", f"{account.url or URL}/v1/{what}?{urlencode(query)}")

    return Question(what, render, _next)


def _single(kind: str, what: str) -> Question:
    return Question(
        kind, lambda account, value, cursor: Request("GET", f"{account.url or URL}/v1/{what}/{quote(value, safe='')}"), lambda reply: ""
    )


def _next(reply: Reply) -> str:
    page = decode(reply.body, Page)
    return page.data[-1].id if page is not None and page.has_more and page.data else ""


# --- how bodies hold them
Reading: TypeAlias = Callable[[Account, Any, int], Iterable[Record]]  # account, object, when it happened


def _pushed(kind: Any, read: Reading) -> Topic:
    return Topic(Event[kind], lambda account, event, received: read(account, event.data.object, _time(event.created)))


def _fetched(kind: Any, read: Reading) -> Topic:
    return Topic(kind, lambda account, thing, received: read(account, thing, _time(thing.created)))


def _listed(kind: Any, read: Reading) -> Topic:
    return _each(kind, _fetched(kind, read).read)


def _each(kind: Any, read: Reading) -> Topic:
    def each(account: Account, listing: Listing[Any], received: int) -> Iterator[Record]:
        if not listing.data:
            raise Ignored("the list is empty")
        for thing in listing.data:
            try:
                yield from read(account, thing, received)
            except Ignored:
                continue  # one that holds nothing hides none of the others

    return Topic(Listing[kind], each)


def event_fetched(account: Account, event: msgspec.Raw, received: int) -> Iterable[Record]:
    """An event is told the same way whether it was pushed or fetched."""
    topic = envelope({}, event).topic
    if topic.startswith(ANSWER):
        raise Unreadable("schema", "type")
    return VENDOR.read(account, topic, bytes(event), received)


# --- errors
class Problem(msgspec.Struct):
    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None
    message: str | None = None


class Refusal(msgspec.Struct):
    error: Problem


_refusal = msgspec.json.Decoder(Refusal).decode
_KEY = re.compile(r"api key|provided key", re.IGNORECASE)  # such refusals have a message and no code

CODES = {
    "api_key_expired": "Stripe refuses our key, it has expired: put the account's current secret key into its configuration",
    "secret_key_required": "Stripe refuses our key, it is a publishable one: put a secret or restricted key into its configuration",
    "testmode_charges_only": "This Stripe account may only use test mode: finish its activation in Stripe's dashboard",
    "livemode_mismatch": "The key and the object are of different modes, live and test: use the key of the mode the payment was made in",
    "rate_limit": "Stripe asks us to slow down: nothing was done, and it is tried again later",
    "lock_timeout": "Stripe is busy with another request about the same object: nothing was done, and it is tried again later",
    "charge_already_refunded": "The payment was refunded before: nothing is left to give back",
    "charge_disputed": "The payment is disputed, so it cannot be refunded: answer the dispute in Stripe's dashboard",
    "balance_insufficient": "The Stripe balance does not cover it: add funds in Stripe's dashboard, then try again",
}
KINDS = {
    "api_error": "Stripe has a fault of its own: it is tried again later; if it lasts, see Stripe's status page",
    "card_error": "The bank declined the payment: the customer has to pay again or otherwise",
    "idempotency_error": "Stripe has seen our idempotency key with other parameters and did nothing: report it to the developers",
}


def complaint(body: bytes) -> str:
    try:
        error = _refusal(body).error
    except DECODING:
        return ""
    code = _word(error.decline_code) or _word(error.code)
    named = f" ({code})" if code else ""
    if error.code in CODES:
        return f"{CODES[error.code]}{named}"
    if error.type in KINDS:
        return f"{KINDS[error.type]}{named}"
    if error.code == "resource_missing":
        return f"Stripe knows no such object{named}: check its ID, and that our key is of the same account and mode"
    if error.message and _KEY.search(error.message):
        return f"Stripe refuses our key{named}: check the secret key in the account's configuration and what it may do"
    parameter = f" in its parameter {_word(error.param)}" if _word(error.param) else ""
    return f"Stripe does not accept the request{parameter}{named}: look it up in Stripe's dashboard under Developers, Logs"


def _word(text: str | None) -> str:
    """A name of Stripe's; "" for what could be anything else."""
    return text if text and re.fullmatch(r"[a-z0-9_.\[\]]{1,80}", text) else ""


# --- what holds nothing for us
_REVIEW = "Stripe's own review of a payment: ours decides about the order"
_FAMILIES = {
    "how a customer can pay, not whether: nothing was paid by it": (
        "payment_method setup_intent mandate source customer.source customer.card customer.bank_account financial_connections"
    ),
    "customers are told by the shop": "customer",
    "what is billed is no order of the shop's; what was paid of it is told by its payment": (
        "invoice invoiceitem invoice_payment credit_note quote customer.subscription subscription_schedule "
        "billing billing_portal entitlements"
    ),
    "products, prices and taxes are the shop's own": (
        "product price plan sku coupon promotion_code customer.discount tax_rate tax customer.tax_id"
    ),
    "orders are told by the shop": "order order_return",
    "a page where something can be paid: what was paid there is told by its session and its payment": "payment_link",
    "a device in a store: what was paid on it is told by its payment": "terminal",
    "a customer's money that pays for no order yet: what is paid with it is told by its payment": (
        "cash_balance customer_cash_balance_transaction"
    ),
    "the account's own balance, no order's": "balance balance_settings payout topup transfer application_fee treasury",
    "how the account is set up, no order's": "account capability person recipient",
    "who somebody is, not what was paid": "identity",
    "cards that the account hands out: nothing of what its customers pay": (
        "issuing_authorization issuing_card issuing_cardholder issuing_dispute issuing_personalization_design issuing_token "
        "issuing_transaction issuing_settlement"
    ),
    "a file, a report or a trial of the account's own, no order's": "file reporting sigma climate forwarding test_helpers",
    "a thin event says that something changed and not what: let the endpoint be sent snapshots": "v1 v2",
    "a warning only: a dispute, if there is one, is told when it is opened": "radar.early_fraud_warning",
}

VENDOR = Vendor(
    name="stripe",
    guide=Guide(
        title="Stripe",
        where="Developers > Webhooks > Add endpoint",
        signed_with="the endpoint's signing secret, whsec_...",
        subscribe=(
            "payment_intent.succeeded",
            "payment_intent.amount_capturable_updated",
            "payment_intent.payment_failed",
            "payment_intent.canceled",
            "charge.succeeded",
            "charge.refunded",
            "refund.created",
            "refund.updated",
            "refund.failed",
            "charge.dispute.created",
            "charge.dispute.closed",
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
        ),
        credentials={"key": "Developers > API keys > a restricted key that may write refunds and checkout sessions"},
    ),
    kind="payments",
    scheme=StripeSignature(),
    envelope=envelope,
    topics={
        "payment_intent.succeeded": _pushed(Intent, intent_captured),
        "payment_intent.amount_capturable_updated": _pushed(Intent, intent_authorized),
        "payment_intent.payment_failed": _pushed(Intent, intent_failed),
        "payment_intent.canceled": _pushed(Intent, intent_cancelled),
        "charge.succeeded": _pushed(Charge, charge_succeeded),
        "charge.captured": _pushed(Charge, charge_captured),
        "charge.failed": _pushed(Charge, charge_failed),
        "charge.expired": _pushed(Charge, charge_expired),
        "charge.refunded": _pushed(Charge, charge_refunded),
        "charge.refund.updated": _pushed(Refund, refund_told),
        "refund.created": _pushed(Refund, refund_told),
        "refund.updated": _pushed(Refund, refund_told),
        "refund.failed": _pushed(Refund, refund_told),
        "charge.dispute.created": _pushed(Dispute, dispute_created),
        "charge.dispute.closed": _pushed(Dispute, dispute_closed),
        "checkout.session.completed": _pushed(Session, session_completed),
        "checkout.session.async_payment_succeeded": _pushed(Session, session_completed),
        "checkout.session.async_payment_failed": _pushed(Session, session_failed),
    },
    ignored=Reasons(
        {
            "payment_intent.created": "nothing has been paid yet",
            "payment_intent.processing": "the payment is under way: whether it succeeds is told later",
            "payment_intent.requires_action": "the customer has to confirm the payment: whether it succeeds is told later",
            "payment_intent.partially_funded": "the rest of the transfer is awaited: nothing is captured before it is whole",
            "charge.pending": "the bank has not answered yet",
            "charge.updated": "it changes a charge's description or receipt; what was paid has events of its own",
            "charge.dispute.updated": "evidence or a deadline changed: the dispute is open until it is closed",
            "charge.dispute.funds_withdrawn": "the money follows the dispute, which was told when it was opened",
            "charge.dispute.funds_reinstated": "the money follows the dispute, whose end is told when it is closed",
            "checkout.session.expired": "the customer left without paying",
            "review.opened": _REVIEW,
            "review.closed": _REVIEW,
            **{f"{family}.*": why for why, families in _FAMILIES.items() for family in families.split()},
        }
    ),
    answers={
        "payment_intent": _fetched(Intent, intent_fetched),
        "payment_intents": _listed(Intent, intent_fetched),
        "charge": _fetched(Charge, charge_fetched),
        "charges": _listed(Charge, charge_fetched),
        "refund": _fetched(Refund, refund_told),
        "refunds": _listed(Refund, refund_told),
        "dispute": _fetched(Dispute, dispute_fetched),
        "disputes": _listed(Dispute, dispute_fetched),
        "checkout_session": _fetched(Session, session_completed),
        "checkout_sessions": _listed(Session, session_completed),
        "event": Topic(msgspec.Raw, event_fetched),
        "events": _each(msgspec.Raw, event_fetched),
    },
    url=URL,
    questions={
        "payment_intents": _since("payment_intents"),
        "payment_intent": _single("payment_intent", "payment_intents"),
        "refunds": _since("refunds", **{"expand[]": "data.payment_intent"}),
        "dispute": _single("dispute", "disputes"),
    },
    actions={
        "payment.refund": Action(KEYED, refund, refund_made),
        "payment.checkout": Action(KEYED, checkout, checkout_made),
    },
    login=Login(headers),
    pace_per_s=25.0,
    complaint=complaint,
)
