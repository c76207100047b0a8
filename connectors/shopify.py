"""Shopify: webhooks of an app or of the shop's own settings, and answers of the REST Admin API, as facts; what we tell it of an order.

Every order body is the whole order, so all its topics are read alike, with the refunds and fulfillments it encloses:

- OrderPlaced: money is what the customer sees (presentment), which is also what gateways move. The total is what the order costs
  now plus what was given back of it, so neither an edit nor a refund makes a paid order look unpaid. Of each line it states what
  was ordered; what refunds cancel or take back are facts of their own, and whatever else has left the order is not stated.
- OrderPaid: all of it, or the total less what is outstanding, as of the latest update. Beside captures it counts once: the view
  takes the greater.
- CancelRequested, where the order says when it was cancelled.

Transactions and refunds are payments by the transaction's ID, wherever it is told. Where the gateway itself is connected
(`reports_payments` false) they only say which of the gateway's references belong to the order. A refund's lines are goods that
came back ("return") or are not wanted any more ("cancel"); `legacy_restock` says neither, `no_restock` only that money went back.

A fulfillment is one parcel under its own ID, packed once its status is "success", unless nothing of it is sent. Several numbers may
track it: all are linked to the order, the first is shown. How its shipment stands is told by fulfillments and by fulfillment events;
either way it is one scan for each status, and its earliest report stands, so that a later update which repeats it moves nothing back.
A label is paper only. A cancelled fulfillment never was a parcel, unless it had moved: what has left the house wins.

Holds are those of fulfillment orders. Their webhooks name neither the order nor the time, and a release does not name its hold:
so the fulfillment order is the hold, waits for whoever knows its order (the answer `fulfillment_orders` does), and a second hold
after a release is not seen. A high risk holds the order; a lower one does not let it go, because assessments of several providers
come in any order. An order deleted in the shop is held too: nobody said what is to become of goods and money.

Written back are parcels and tags. Every parcel that we tell it of comes back under the shop's own ID: where we do
(`reports_parcels` false) fulfillments only say whose the tracking numbers are. A parcel takes two requests, because Shopify wants
to hear which of its fulfillment orders the lines belong to. It honours no key, but its fulfillments can be looked through for our
tracking number. Tags are added, never replaced, and a tag that is there already stays one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from connectors.base import Ability, Answer, Done, Reason, Refused, TryLater, Unknown
from connectors.delivery import DECODING, Ignored, Record, Unreadable, stumbled
from connectors.http import Reply, Request, decode
from connectors.signature import BodyHmac
from connectors.vendor import (
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
    minor,
    ms,
    order_id,
    phone,
    waiting,
)
from orders import fact, money
from orders.bounds import AMOUNT_MAX
from orders.fact import AT_MAX, Address, Line, Person, Quantity, Tracking
from orders.request import ConsentReported, ProfileReported, ReferenceLinked

HOLD = "fulfillment_order"  # kind of reference, and what a hold's ID begins with
FEEDBACK = "feedback"  # the only class of messages that marketing consent speaks of: no other is advertising
PART_PAID = frozenset({"partially_paid", "partially_refunded", "refunded"})
BEFORE_PAYMENT = frozenset({"net", "fixed", "fulfillment"})  # payment terms under which goods leave before the money comes
EXPRESS = re.compile(r"\bexpress|\bovernight|\bexpedited|\b(next|same)[ -]?day", re.IGNORECASE)
STRIPE = re.compile(r"\b(?:pi|ch|py)_[A-Za-z0-9]{8,64}\b")  # Stripe's payment intents and charges
REFERENCE = re.compile(r"^[A-Za-z0-9_.:-]{8,64}\Z")  # what other gateways call a payment, if it says anything at all

PAPER = frozenset({"", "label_printed", "label_purchased", "confirmed"})  # "confirmed" stands where nothing else is known
SHIPMENT = {
    "carrier_picked_up": Tracking.IN_TRANSIT,
    "in_transit": Tracking.IN_TRANSIT,
    "out_for_delivery": Tracking.OUT_FOR_DELIVERY,
    "attempted_delivery": Tracking.ATTEMPT_FAILED,
    "ready_for_pickup": Tracking.PICKUP,
    "ready_for_recipient_pickup": Tracking.PICKUP,
    "picked_up": Tracking.DELIVERED,  # by the customer
    "delivered": Tracking.DELIVERED,
    "delayed": Tracking.EXCEPTION,
    "buyer_action_required": Tracking.EXCEPTION,
    "returning_to_sender": Tracking.EXCEPTION,  # on its way back, not there
    "failure": Tracking.EXCEPTION,
}
ASKED = frozenset({"authorization", "emv_authorization", "capture", "sale"})  # money that was to come
MONEY: dict[tuple[str, str], type[fact.PaymentAuthorized | fact.PaymentCaptured | fact.PaymentRefunded]] = {
    ("authorization", "success"): fact.PaymentAuthorized,
    ("emv_authorization", "success"): fact.PaymentAuthorized,  # a card in the shop's own terminal
    ("capture", "success"): fact.PaymentCaptured,
    ("sale", "success"): fact.PaymentCaptured,
    ("refund", "success"): fact.PaymentRefunded,
}
VERSION = "2026-07"  # of the Admin API, unless the account's options name another
PAGE = 50  # bodies of orders are large
MOST = 250  # of anything that Shopify lists at once
YEAR_S = 365 * 24 * 3600
OPEN = frozenset({"open", "in_progress"})  # fulfillment orders that can be fulfilled now
OVER = frozenset({"closed", "cancelled", "incomplete"})  # those that never will be
COMPANIES = {"ups": "UPS", "usps": "USPS", "fedex": "FedEx", "dhl": "DHL Express"}  # as Shopify knows them, to link to their pages
WON = {"won": True, "prevented": True, "lost": False, "accepted": False, "charge_refunded": False}  # disputes that are over


# --- bodies: what we read of them; Shopify sends null for whatever is empty or withheld from the app
ID: TypeAlias = int | str  # a number, its digits, or a global ID that ends with them
Amount: TypeAlias = msgspec.Raw  # "10.00" or 10.0, as it stands there: read digit by digit, never as a float


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that Shopify numbers; some bodies have only its global ID."""

    id: ID | None = None
    admin_graphql_api_id: str | None = None


class Money(msgspec.Struct, frozen=True, kw_only=True):
    amount: Amount
    currency_code: str


class MoneySet(msgspec.Struct, frozen=True, kw_only=True):
    presentment_money: Money | None = None
    shop_money: Money | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    company: str | None = None
    address1: str | None = None
    address2: str | None = None
    city: str | None = None
    province: str | None = None
    province_code: str | None = None
    zip: str | None = None
    country_code: str | None = None
    phone: str | None = None


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    state: str | None = None
    consent_updated_at: str | None = None


class Customer(Object, frozen=True, kw_only=True):
    email: str | None = None
    phone: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    tags: str | None = None
    default_address: Place | None = None
    updated_at: str | None = None
    email_marketing_consent: Consent | None = None
    sms_marketing_consent: Consent | None = None


class Marketing(msgspec.Struct, frozen=True, kw_only=True):
    """Of a customer's consent alone: the topic for e-mail calls the customer otherwise than the one for SMS."""

    customer_id: ID | None = None
    id: ID | None = None
    email_marketing_consent: Consent | None = None
    sms_marketing_consent: Consent | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True):
    id: ID
    quantity: int
    current_quantity: int | None = None
    sku: str | None = None
    variant_id: ID | None = None
    title: str | None = None
    name: str | None = None
    price: Amount
    price_set: MoneySet | None = None
    requires_shipping: bool | None = None


class Shipping(msgspec.Struct, frozen=True, kw_only=True):
    title: str | None = None
    code: str | None = None
    is_removed: bool | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    payment_terms_type: str | None = None


class Unsettled(msgspec.Struct, frozen=True, kw_only=True):
    currency: str | None = None


class UnsettledSet(msgspec.Struct, frozen=True, kw_only=True):
    presentment_money: Unsettled | None = None


class Transaction(Object, frozen=True, kw_only=True):
    order_id: ID | None = None
    kind: str
    status: str
    amount: Amount
    currency: str | None = None
    total_unsettled_set: UnsettledSet | None = None
    created_at: str
    processed_at: str | None = None
    authorization: str | None = None
    payment_id: str | None = None
    error_code: str | None = None
    receipt: msgspec.Raw = msgspec.Raw()


class RefundedItem(msgspec.Struct, frozen=True, kw_only=True):
    line_item_id: ID
    quantity: int
    restock_type: str | None = None
    subtotal_set: MoneySet | None = None


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    amount_set: MoneySet | None = None


class Refund(Object, frozen=True, kw_only=True):
    order_id: ID | None = None
    created_at: str
    refund_line_items: list[RefundedItem] | None = None
    transactions: list[Transaction] | None = None
    total_duties_set: MoneySet | None = None
    order_adjustments: list[Adjustment] | None = None


class FulfilledItem(msgspec.Struct, frozen=True, kw_only=True):
    id: ID
    quantity: int
    requires_shipping: bool | None = None


class Fulfillment(Object, frozen=True, kw_only=True):
    order_id: ID
    status: str | None = None
    created_at: str
    updated_at: str | None = None
    shipment_status: str | None = None
    tracking_company: str | None = None
    tracking_number: str | None = None
    tracking_numbers: list[str | None] | None = None
    line_items: list[FulfilledItem] | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    fulfillment_id: ID
    order_id: ID
    status: str
    happened_at: str
    estimated_delivery_at: str | None = None


class Order(Object, frozen=True, kw_only=True):
    name: str | None = None
    order_number: ID | None = None
    created_at: str
    updated_at: str
    currency: str
    total_price: Amount
    total_price_set: MoneySet | None = None
    current_total_price: Amount = Amount()
    current_total_price_set: MoneySet | None = None
    total_outstanding: Amount = Amount()
    financial_status: str | None = None
    cancelled_at: str | None = None
    cancel_reason: str | None = None
    customer: Customer | None = None
    email: str | None = None
    contact_email: str | None = None
    phone: str | None = None
    customer_locale: str | None = None
    source_name: str | None = None
    tags: str | None = None
    shipping_address: Place | None = None
    billing_address: Place | None = None
    line_items: list[Item]
    shipping_lines: list[Shipping] | None = None
    payment_terms: Terms | None = None
    refunds: list[Refund] | None = None
    fulfillments: list[Fulfillment] | None = None


class Dispute(Object, frozen=True, kw_only=True):
    order_id: ID | None = None
    amount: Amount
    currency: str
    status: str
    initiated_at: str
    finalized_on: str | None = None


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    order_id: ID | None = None
    admin_graphql_api_order_id: str | None = None
    risk_level: str | None = None
    created_at: str | None = None


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    reason: str | None = None


class FulfillmentOrder(msgspec.Struct, frozen=True, kw_only=True):
    """In webhooks its ID is a global one and there is no order; in answers the ID is a number and the order's stands beside it."""

    id: ID
    order_id: ID | None = None
    status: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    fulfillment_holds: list[Hold] | None = None


class PlacedOnHold(msgspec.Struct, frozen=True, kw_only=True):
    fulfillment_order: FulfillmentOrder
    created_fulfillment_hold: Hold | None = None  # there even if the hold is already gone again


class HoldReleased(msgspec.Struct, frozen=True, kw_only=True):
    fulfillment_order: FulfillmentOrder


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    """The event's ID, where sent, is one for all subscriptions that tell of it; the webhook's ID is one for all attempts."""
    topic = headers.get("x-shopify-topic", "")
    if not topic:
        raise Unreadable("schema", "x-shopify-topic")
    return Envelope(topic, headers.get("x-shopify-event-id") or headers.get("x-shopify-webhook-id", ""))


def _about(account: Account, order: str, object: str) -> dict[str, Any]:
    """Whose fact it is; without an order it waits to learn it."""
    return {
        "order": order_id(account, order) if order else "",
        "system": account.source,
        "authority": account.authority,
        "object": object,
    }


def _own(body: Object, field: str = "$.id") -> str:
    return _digits(body.admin_graphql_api_id if body.id is None else body.id, field)


def _digits(id: ID | None, field: str) -> str:
    """Of 1, "1" and "gid://shopify/Order/1" the number. Raises Unreadable naming the field."""
    return _number(str(id).rpartition("/")[2], field)


# --- orders
def ordered(account: Account, body: Order, at: int) -> Iterable[Record]:
    own = _own(body)
    about = _about(account, own, own)
    version = ms(body.updated_at, "$.updated_at")
    currency = _currency(body)
    refunds, fulfillments = body.refunds or [], body.fulfillments or []
    lines, removed = _lines(body, currency)
    total = _total(body, currency)
    terms = (body.payment_terms.payment_terms_type or "").lower() if body.payment_terms is not None else ""
    yield fact.OrderPlaced(
        **about,
        at=ms(body.created_at, "$.created_at"),
        version=version,
        number=(body.name or str(body.order_number or own)).removeprefix("#"),
        customer=_customer(account, body, own),
        currency=currency,
        total=total,
        lines=lines,
        person=_person(body),
        service="express" if any(_fast(line) for line in body.shipping_lines or []) else "standard",
        tier="vip" if _vip(body) else "regular",
        prepaid=total == 0 or terms in BEFORE_PAYMENT,
        signals={"ship_bill_mismatch": 1.0} if _elsewhere(body) else {},
        not_applicable=_not_applicable(body, {line.line for line in lines}),
    )
    paid = _paid(body, total, currency) if account.reports_payments else 0
    if paid:
        yield fact.OrderPaid(**about, at=version, version=version, amount=paid, currency=currency)
    if body.cancelled_at:
        cancelled = ms(body.cancelled_at, "$.cancelled_at")
        yield fact.CancelRequested(**about, at=cancelled, version=version, reason=body.cancel_reason or "")
    elif removed and not any(f.status == "success" for f in fulfillments):
        # Nothing is left of the order, no refund said "cancel", and nothing was sent: it must not be.
        gone = _about(account, own, f"removed:{own}")
        yield fact.LinesCancelled(**gone, at=version, version=version, lines=removed, reason="removed")
    for refund in refunds:
        yield from _refund(account, refund, own, currency)
    for fulfillment in fulfillments:
        yield from _fulfillment(account, fulfillment)


def deleted(account: Account, body: Object, at: int) -> Iterable[Record]:
    own = _own(body)
    yield fact.HoldPlaced(
        **_about(account, own, f"deleted:{own}"),
        at=at,  # it says no time
        reason="shop_deleted",
    )


def assessed(account: Account, body: Assessment, at: int) -> Iterable[Record]:
    order = body.admin_graphql_api_order_id if body.order_id is None else body.order_id
    if order is None:
        raise Ignored("the risk assessment names no order")
    if (body.risk_level or "").lower() != "high":
        raise Ignored("the risk is not high; whether an earlier hold may go is for a person to say")
    own = _digits(order, "$.order_id")
    yield fact.HoldPlaced(
        **_about(account, own, f"risk:{own}"),
        at=ms(body.created_at, "$.created_at") if body.created_at else at,
        reason="shop_risk_high",
    )


def _currency(body: Order) -> str:
    shown = body.total_price_set.presentment_money if body.total_price_set is not None else None
    return _known(shown.currency_code if shown is not None else body.currency)


def _known(currency: str) -> str:
    if not money.known(currency.upper()):
        raise Unreadable("currency", "$.currency")
    return currency.upper()


def _amount(given: MoneySet | None, plain: Amount, body: Order, currency: str, field: str) -> int:
    """Of an amount told in one or two currencies that which is in the order's; the plain one is in the shop's."""
    for told in (given.presentment_money, given.shop_money) if given is not None else ():
        if told is not None and told.currency_code.upper() == currency:
            return _bounded(_minor(told.amount, currency, field), field)
    if body.currency.upper() != currency:
        raise Unreadable("currency", field)
    return _bounded(_minor(plain, currency, field), field)


def _minor(amount: Amount, currency: str, field: str) -> int:
    text = bytes(amount).decode("ascii", "replace")
    return minor(text[1:-1] if text.startswith('"') else text, currency, field)


def _told(amount: Amount) -> bool:
    return bytes(amount) not in (b"", b"null", b'""')


def _bounded(amount: int, field: str) -> int:
    if not 0 <= amount < AMOUNT_MAX:
        raise Unreadable("bounds", field)
    return amount


def _total(body: Order, currency: str) -> int:
    """What is asked for the order in all; of one of which nothing is left, what was asked first."""
    first = _amount(body.total_price_set, body.total_price, body, currency, "$.total_price")
    if not _told(body.current_total_price):
        return first
    now = _amount(body.current_total_price_set, body.current_total_price, body, currency, "$.current_total_price")
    back = sum(
        _minor(t.amount, currency, "$.refunds[...].transactions[...].amount")
        for refund in body.refunds or []
        for t in refund.transactions or []
        if t.kind == "refund" and t.status == "success" and (t.currency or currency).upper() == currency
    )
    return _bounded(now + back, "$.current_total_price") or first


def _paid(body: Order, total: int, currency: str) -> int:
    """What has been paid of the total, whatever was given back since; 0 where that cannot be told."""
    if body.financial_status == "paid":
        return total
    if body.financial_status not in PART_PAID:
        return 0
    told, foreign = _told(body.total_outstanding), currency != body.currency.upper()
    outstanding = _minor(body.total_outstanding, body.currency, "$.total_outstanding") if told else 0  # in the shop's currency only
    if foreign:
        return total if told and not outstanding else 0
    return _bounded(max(total - outstanding, 0), "$.total_outstanding")


def _lines(body: Order, currency: str) -> tuple[tuple[Line, ...], tuple[Quantity, ...]]:
    """The lines as ordered, less what has left the order without a fact of its own; and, if that is all of it, what has left."""
    told: Counter[str] = Counter()
    for refund in body.refunds or []:
        for item in refund.refund_line_items or []:
            if item.restock_type in ("cancel", "return"):
                told[_digits(item.line_item_id, "$.refunds[...].refund_line_items[...].line_item_id")] += item.quantity
    items = [(_digits(x.id, "$.line_items[...].id"), x) for x in body.line_items]
    stated: dict[str, int] = {}
    for line, x in items:
        stated[line] = x.quantity if x.current_quantity is None else min(x.quantity, x.current_quantity + told[line])
    removed: tuple[Quantity, ...] = ()
    if not any(quantity > 0 for quantity in stated.values()):
        stated = {line: x.quantity for line, x in items}
        removed = tuple(Quantity(line=line, quantity=x.quantity) for line, x in items if x.quantity > 0)
        if not removed:
            raise Unreadable("bounds", "$.line_items")
    lines = tuple(
        Line(
            line=line,
            sku=x.sku or _digits(x.variant_id or line, "$.line_items[...].variant_id"),
            quantity=stated[line],
            price=_amount(x.price_set, x.price, body, currency, "$.line_items[...].price"),
            title=x.title or x.name or "",
        )
        for line, x in items
        if stated[line] > 0
    )
    return lines, removed


def _sent(item: Item | FulfilledItem) -> bool:
    return item.requires_shipping is not False


def _customer(account: Account, body: Order, own: str) -> str:
    if body.customer is not None and (body.customer.id or body.customer.admin_graphql_api_id):
        return f"{account.shop}:{_own(body.customer, '$.customer.id')}"
    email = _email(body).lower()
    if not email:
        return f"{account.shop}:order-{own}"  # nobody we could know again
    return f"{account.shop}:{blake2b(email.encode(), key=account.shop.encode()[:64], digest_size=16).hexdigest()}"


def _email(body: Order) -> str:
    of_customer = body.customer.email if body.customer is not None else ""
    return (body.email or body.contact_email or of_customer or "").strip()


def _person(body: Order) -> Person | None:
    customer = body.customer or Customer()
    place = body.shipping_address or Place()
    country = (place.country_code or "").upper()
    named: tuple[Place | Customer, ...] = (place, body.billing_address or Place(), customer)
    numbers = (phone(number, country) for number in (body.phone, place.phone, customer.phone))
    person = Person(
        name=next(filter(None, map(_name, named)), ""),
        email=_email(body),
        phone=next(filter(None, numbers), ""),
        locale=body.customer_locale or "",
        address=_address(place),
    )
    return person if person != Person() else None


def _name(of: Place | Customer) -> str:
    whole = of.name if isinstance(of, Place) else None
    return whole or " ".join(filter(None, (of.first_name, of.last_name)))


def _address(place: Place) -> Address:
    street = tuple(filter(None, (place.address1, place.address2)))
    return Address(
        lines=(place.company, *street) if place.company and street else street,
        city=place.city or "",
        region=place.province_code or place.province or "",
        postcode=place.zip or "",
        country=(place.country_code or "").upper(),
    )


def _elsewhere(body: Order) -> bool:
    """Whether it goes elsewhere than where whoever pays for it lives, by country and postcode as far as both are known."""
    if body.shipping_address is None or body.billing_address is None:
        return False
    ours, theirs = (_area(place) for place in (body.shipping_address, body.billing_address))
    return any(here and there and here != there for here, there in zip(ours, theirs, strict=True))


def _area(place: Place) -> tuple[str, str]:
    """Country and postcode as everybody spells them; of an American one the five digits that all know."""
    country, code = (place.country_code or "").upper(), "".join(filter(str.isalnum, place.zip or "")).upper()
    return country, code[:5] if country == "US" else code


def _fast(line: Shipping) -> bool:
    return not line.is_removed and bool(EXPRESS.search(f"{line.title or ''} {line.code or ''}"))


def _vip(body: Order) -> bool:
    tags = f"{body.tags or ''},{body.customer.tags or '' if body.customer is not None else ''}"
    return "vip" in (tag.strip().lower() for tag in tags.split(","))


def _not_applicable(body: Order, lines: set[str]) -> tuple[str, ...]:
    """What nobody needs to check: there is nothing to send, or the customer fetches it (a way of shipping without an address)."""
    if not any(_sent(x) for x in body.line_items if _digits(x.id, "$.line_items[...].id") in lines):
        return ("address", "stock")
    fetched = body.shipping_address is None and (bool(body.shipping_lines) or body.source_name == "pos")
    return ("address",) if fetched else ()


# --- money
def transacted(account: Account, body: Transaction, at: int) -> Iterable[Record]:
    if body.order_id is None:
        raise Ignored("the transaction names no order")
    records = list(_transaction(account, body, _digits(body.order_id, "$.order_id"), ""))
    if not records and account.reports_payments and not _charged_in(body, ""):
        raise Ignored("the transaction names no currency; the order and its refunds tell what was paid and given back")
    if not records:
        raise Ignored(
            "it moved no money: void, still pending, or a refund that failed"
            if account.reports_payments
            else "the gateway itself reports payments, and this names none of its own references"
        )
    return records


def refunded(account: Account, body: Refund, at: int) -> Iterable[Record]:
    if body.order_id is None:
        raise Ignored("the refund names no order")
    currency = _refunded_in(body)
    records = list(_refund(account, body, _digits(body.order_id, "$.order_id"), currency))
    if not records and account.reports_payments and any(not _charged_in(t, currency) for t in body.transactions or []):
        raise Ignored("the refund names no currency; the order tells what was given back")
    if not records:
        raise Ignored("no money went back yet, and nothing was cancelled or came back")
    return records


def _refunded_in(body: Refund) -> str:
    """The customer's currency by whatever amount is told in it; "" where none is."""
    lines, adjustments = body.refund_line_items or [], body.order_adjustments or []
    for told in (body.total_duties_set, *(x.subtotal_set for x in lines), *(x.amount_set for x in adjustments)):
        if told is not None and told.presentment_money is not None:
            return told.presentment_money.currency_code
    return ""


def disputed(account: Account, body: Dispute, at: int) -> Iterable[Record]:
    if body.order_id is None:
        raise Ignored("the dispute names no order")
    if not account.reports_payments:
        raise Ignored("the gateway itself reports disputes")
    about = _about(account, _digits(body.order_id, "$.order_id"), _own(body))
    currency = _known(body.currency)
    amount = _bounded(_minor(body.amount, currency, "$.amount"), "$.amount")
    yield fact.PaymentDisputed(**about, at=ms(body.initiated_at, "$.initiated_at"), amount=amount, currency=currency)
    won = WON.get(body.status)
    if won is not None:
        yield fact.DisputeClosed(**about, at=ms(body.finalized_on, "$.finalized_on") if body.finalized_on else at, won=won)


def _transaction(account: Account, body: Transaction, order: str, currency: str) -> Iterable[Record]:
    at = ms(body.processed_at or body.created_at, "$.processed_at" if body.processed_at else "$.created_at")
    if not account.reports_payments:
        for value in _references(body):
            yield ReferenceLinked(at=at, kind="payment", value=value, order=order_id(account, order), since=at)
        return
    about, currency = _about(account, order, _own(body)), _charged_in(body, currency)
    made = MONEY.get((body.kind, body.status))
    failed = body.kind in ASKED and body.status in ("failure", "error")
    if not currency or (made is None and not failed):
        return
    currency = _known(currency)
    amount = _bounded(_minor(body.amount, currency, "$.amount"), "$.amount")
    if made is not None:
        yield made(**about, at=at, amount=amount, currency=currency)
    else:
        yield fact.PaymentFailed(**about, at=at, amount=amount, currency=currency, reason=body.error_code or body.status)


def _charged_in(body: Transaction, otherwise: str) -> str:
    """Its own currency; else that of what encloses it, or in which the customer would be charged the rest. "" where none is told."""
    rest = body.total_unsettled_set.presentment_money if body.total_unsettled_set is not None else None
    unsettled = (rest.currency or "").upper() if rest is not None else ""
    return body.currency or otherwise or (unsettled if money.known(unsettled) else "")


def _references(body: Transaction) -> list[str]:
    """What the gateway calls the payment: Stripe's IDs wherever they stand, else the authorization that it gave."""
    told = " ".join((body.authorization or "", body.payment_id or "", bytes(body.receipt).decode(errors="replace")))
    found = list(dict.fromkeys(STRIPE.findall(told)))
    return found or REFERENCE.findall(body.authorization or "")


def _refund(account: Account, body: Refund, order: str, currency: str) -> Iterable[Record]:
    about = {**_about(account, order, _own(body)), "at": ms(body.created_at, "$.created_at")}
    for transaction in body.transactions or []:
        yield from _transaction(account, transaction, order, currency)
    items = [
        (x.restock_type, Quantity(line=_digits(x.line_item_id, "$.refund_line_items[...].line_item_id"), quantity=x.quantity))
        for x in body.refund_line_items or []
        if x.quantity > 0
    ]
    back = tuple(quantity for restocked, quantity in items if restocked == "return")
    if back:
        yield fact.ReturnReceived(**about, lines=back)
    off = tuple(quantity for restocked, quantity in items if restocked == "cancel")
    if off:
        yield fact.LinesCancelled(**about, lines=off, reason="refunded")


# --- parcels
def fulfilled(account: Account, body: Fulfillment, at: int) -> Iterable[Record]:
    records = list(_fulfillment(account, body))
    if not records:
        raise Ignored(
            "nothing is packed: not yet, it failed, or nothing of it is sent"
            if account.reports_parcels
            else "the shop was told of this parcel by us, and it names no tracking number"
        )
    return records


def scanned(account: Account, body: Event, at: int) -> Iterable[Record]:
    if not account.reports_parcels:
        raise Ignored("the shop was told of this parcel by us; how it travels, its carrier says")
    if body.status in PAPER:
        raise Ignored("a label is paper only; fulfillments tell of it")
    happened = ms(body.happened_at, "$.happened_at")
    expected = ms(body.estimated_delivery_at, "$.estimated_delivery_at") if body.estimated_delivery_at else 0
    order, fulfillment = _digits(body.order_id, "$.order_id"), _digits(body.fulfillment_id, "$.fulfillment_id")
    yield fact.ParcelScanned(
        **_scan(account, order, fulfillment, body.status, happened),
        version=_earliest(happened) + 1,  # of one instant the event says more than the fulfillment
        eta_from=expected,
        eta_until=expected,
    )


def _fulfillment(account: Account, body: Fulfillment) -> Iterable[Record]:
    created = ms(body.created_at, "$.created_at")
    updated = ms(body.updated_at, "$.updated_at") if body.updated_at else created
    parcel, order = _own(body), _digits(body.order_id, "$.order_id")
    label = f"{parcel}:label"
    numbers, status = _numbers(body), body.shipment_status or ""
    if body.line_items and not any(_sent(x) for x in body.line_items) and not numbers and status in PAPER:
        return  # a gift card was mailed, a service rendered: there is no parcel, and no label to be bought for one
    items = body.line_items or []
    lines = tuple(Quantity(line=_digits(x.id, "$.line_items[...].id"), quantity=x.quantity) for x in items if x.quantity > 0)
    if body.status == "cancelled" and status not in SHIPMENT:
        if not account.reports_parcels:
            return
        for kind, object in (("ParcelPacked", parcel), ("ParcelScanned", label)):
            gone = _about(account, order, f"{object}:{kind}")
            yield fact.FactRetracted(**gone, at=updated, target_system=account.source, target_object=object, target_type=kind)
        return
    if body.status in ("error", "failure"):
        return
    for number in numbers:
        yield ReferenceLinked(at=updated, kind="tracking", value=number, order=order_id(account, order), since=created)
    if not account.reports_parcels:
        return
    if body.status == "success":
        yield fact.ParcelPacked(**_about(account, order, parcel), at=created, version=updated, parcel=parcel, lines=lines)
        if numbers:
            yield fact.ParcelScanned(
                **_about(account, order, label),
                at=created,
                version=updated,
                parcel=parcel,
                tag=Tracking.LABEL_CREATED,
                carrier=body.tracking_company or "",
                tracking=numbers[0],
                lines=lines,
            )
    if status not in PAPER:
        yield fact.ParcelScanned(**_scan(account, order, parcel, status, updated), version=_earliest(updated), lines=lines)


def _scan(account: Account, order: str, fulfillment: str, status: str, at: int) -> dict[str, Any]:
    return {
        **_about(account, order, f"{fulfillment}:{status[:64]}"),
        "at": at,
        "parcel": fulfillment,
        "tag": SHIPMENT.get(status, Tracking.UNKNOWN),
    }


def _earliest(at: int) -> int:
    """A version by which the earliest report wins: when a status began, not when it was last repeated."""
    return 2 * (AT_MAX - at)


def _numbers(body: Fulfillment | Known) -> list[str]:
    told = (_number_of(number or "") for number in [*(body.tracking_numbers or []), body.tracking_number])
    return [number for number in dict.fromkeys(told) if 0 < len(number) <= 64]


def _number_of(text: str) -> str:
    """As the carrier writes it; people type anything into that field."""
    return "".join(text.split()).upper()


# --- holds
def held(account: Account, body: PlacedOnHold, at: int) -> Iterable[Record]:
    hold = body.created_fulfillment_hold or next(iter(body.fulfillment_order.fulfillment_holds or []), Hold())
    own = _digits(body.fulfillment_order.id, "$.fulfillment_order.id")
    yield waiting(_hold(account, "", own, hold, at), HOLD, own)


def let_go(account: Account, body: HoldReleased, at: int) -> Iterable[Record]:
    own = _digits(body.fulfillment_order.id, "$.fulfillment_order.id")
    released = fact.HoldReleased(
        **_about(account, "", f"{HOLD}:{own}"),
        at=at,
        holds=(f"{HOLD}:{own}",),
        by="shop",
        reason="shop_released",
    )
    yield waiting(released, HOLD, own)


def linked(account: Account, body: FulfillmentOrder, at: int) -> Iterable[Record]:
    if body.order_id is None:
        raise Ignored("the fulfillment order names no order")
    own, order = _digits(body.id, "$.id"), _digits(body.order_id, "$.order_id")
    updated = ms(body.updated_at, "$.updated_at") if body.updated_at else at
    since = ms(body.created_at, "$.created_at") if body.created_at else updated
    yield ReferenceLinked(at=updated, kind=HOLD, value=own, order=order_id(account, order), since=since)
    if body.status == "on_hold":
        yield _hold(account, order, own, next(iter(body.fulfillment_holds or []), Hold()), updated)


def _hold(account: Account, order: str, own: str, hold: Hold, at: int) -> fact.HoldPlaced:
    return fact.HoldPlaced(
        **_about(account, order, f"{HOLD}:{own}"),
        at=at,
        reason=f"shop_{hold.reason or 'hold'}",
    )


# --- customers
def profiled(account: Account, body: Customer, at: int) -> Iterable[Record]:
    own = _own(body)
    place = body.default_address or Place()
    updated = ms(body.updated_at, "$.updated_at") if body.updated_at else at
    person = Person(
        name=_name(body) or _name(place),
        email=body.email or "",
        phone=phone(body.phone, place.country_code or "") or phone(place.phone, place.country_code or ""),
        address=_address(place),
    )
    customer = f"{account.shop}:{own}"
    yield ProfileReported(at=updated, customer=customer, system=account.source, person=person, version=updated)
    yield from _consents(customer, body, updated)


def agreed(account: Account, body: Marketing, at: int) -> Iterable[Record]:
    own = _digits(body.customer_id or body.id, "$.customer_id")
    records = list(_consents(f"{account.shop}:{own}", body, at))
    if not records:
        raise Ignored("the customer neither subscribed nor unsubscribed")
    return records


def _consents(customer: str, body: Customer | Marketing, at: int) -> Iterable[ConsentReported]:
    """Only what somebody said: who never subscribed has not opted out either."""
    for channel, consent in (("email", body.email_marketing_consent), ("sms", body.sms_marketing_consent)):
        state = (consent.state or "").lower() if consent is not None else ""
        if consent is not None and state in ("subscribed", "unsubscribed"):
            said = ms(consent.consent_updated_at, "$.consent_updated_at") if consent.consent_updated_at else at
            yield ConsentReported(at=said, customer=customer, channel=channel, granted=state == "subscribed", kind=FEEDBACK)


# --- answers: the same bodies under their name, one or many
def _one(name: str, body: Any, read: Any) -> Topic:
    def unwrapped(account: Account, answer: Any, at: int) -> Iterable[Record]:
        return read(account, getattr(answer, name), at)  # type: ignore[no-any-return]

    return Topic(msgspec.defstruct(f"One_{name}", [(name, body)], frozen=True), unwrapped)


def _many(name: str, body: Any, read: Any) -> Topic:
    def unwrapped(account: Account, answer: Any, at: int) -> Iterable[Record]:
        for one in getattr(answer, name):
            try:
                yield from read(account, one, at)
            except Ignored:
                continue

    return Topic(msgspec.defstruct(f"Many_{name}", [(name, list[body])], frozen=True), unwrapped)


# --- what we ask it
def _url(account: Account, path: str, **query: str) -> str:
    asked = f"?{urlencode(query)}" if query else ""
    return f"{account.url}/admin/api/{account.options.get('version', VERSION)}/{path}.json{asked}"


def since(what: str, **only: str) -> Callable[[Account, str, str], Request]:
    """All that changed since a time; `only` narrows it, and Shopify takes that with the first page alone."""

    def render(account: Account, value: str, cursor: str) -> Request:
        if cursor:
            return Request("GET", _url(account, what, limit=str(PAGE), page_info=cursor))
        at = datetime.fromtimestamp(min(int(_number(value, "value")), AT_MAX) / 1000, UTC).isoformat()
        return Request("GET", _url(account, what, limit=str(PAGE), updated_at_min=at, order="updated_at asc", **only))

    return render


def of_order(path: str, **query: str) -> Callable[[Account, str, str], Request]:
    """What belongs to an order of the shop, by the shop's own ID."""

    def render(account: Account, value: str, cursor: str) -> Request:
        own = _number(value, "value")
        return Request("GET", _url(account, f"orders/{own}{path}", **({"limit": str(MOST), "page_info": cursor} if cursor else query)))

    return render


_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next\b')


def following(reply: Reply) -> str:
    """Of the page that the Link header calls the next one."""
    link = _NEXT.search(reply.headers.get("link", ""))
    return parse_qs(urlsplit(link.group(1)).query).get("page_info", [""])[0] if link is not None else ""


def _number(text: str, field: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise Unreadable("schema", field)
    return text


def authorised(account: Account, token: str) -> tuple[tuple[str, str], ...]:
    own = account.credentials.get("token")
    return (("X-Shopify-Access-Token", own.reveal() if own is not None else token),)


def token_wanted(account: Account) -> Request | None:
    """For an app of the shop's own organization, which has an ID and a secret instead of a token."""
    if "token" in account.credentials:
        return None
    form = [(name, account.credentials[name].reveal()) for name in ("client_id", "client_secret")]
    body = urlencode([("grant_type", "client_credentials"), *form]).encode()
    return Request("POST", f"{account.url}/admin/oauth/access_token", (("Content-Type", "application/x-www-form-urlencoded"),), body)


class Token(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float


def token_given(reply: Reply) -> tuple[str, float]:
    try:
        token = msgspec.json.decode(reply.body, type=Token)
    except DECODING as error:
        raise stumbled(error) from None
    return token.access_token, token.expires_in


# --- what we tell it
class Shipped(msgspec.Struct, frozen=True):
    line: str
    quantity: int


class Shipment(msgspec.Struct, frozen=True):
    """Of "shop.fulfil". Without lines it is all that is left of the order."""

    shop_order: str
    tracking: str
    carrier: str = ""
    tracking_link: str = ""
    lines: tuple[Shipped, ...] = ()


class Tagging(msgspec.Struct, frozen=True):
    """Of "shop.tag"."""

    shop_order: str
    tags: tuple[str, ...]


class OpenItem(msgspec.Struct, frozen=True):
    id: int
    line_item_id: int
    fulfillable_quantity: int


class OpenOrder(msgspec.Struct, frozen=True):
    """A fulfillment order: what of an order one location is to send."""

    id: int
    status: str
    assigned_location_id: int | None = None
    supported_actions: tuple[str, ...] = ("create_fulfillment",)
    line_items: tuple[OpenItem, ...] = ()


class OpenOrders(msgspec.Struct, frozen=True):
    fulfillment_orders: tuple[OpenOrder, ...]


class Made(msgspec.Struct, frozen=True):
    id: int


class FulfillmentMade(msgspec.Struct, frozen=True):
    fulfillment: Made


class Known(msgspec.Struct, frozen=True):
    id: int
    status: str | None = None
    tracking_number: str | None = None
    tracking_numbers: list[str | None] | None = None


class KnownFulfillments(msgspec.Struct, frozen=True):
    fulfillments: tuple[Known, ...]


D = TypeVar("D")


def _data(ask: Ask, kind: type[D]) -> D:
    try:
        return msgspec.json.decode(ask.data, type=kind)
    except DECODING as error:
        raise stumbled(error) from None


def locations(account: Account, ask: Ask) -> Request:
    """Asks by which locations the order's lines are to be sent."""
    shipment = _data(ask, Shipment)
    if not _number_of(shipment.tracking):
        raise Unreadable("schema", "$.tracking")
    return of_order("/fulfillment_orders")(account, shipment.shop_order, "")


def fulfilment(account: Account, ask: Ask, reply: Reply) -> Request | Answer:
    """Tells of the parcel at the one location that has all its lines.

    What people can still change (a hold, a date to come, another location) may be asked for again; what has been fulfilled or
    cancelled in the shop may not.
    """
    shipment, told = _data(ask, Shipment), decode(reply.body, OpenOrders)
    if reply.status != 200 or told is None:
        answer = _turned_down(reply)
        return answer if isinstance(answer, TryLater) else TryLater(Reason.PROVIDER, reply.retry_after_s)
    left = [x for x in told.fulfillment_orders if x.status not in OVER]
    ready = [x for x in left if x.status in OPEN and "create_fulfillment" in x.supported_actions]
    for location in dict.fromkeys(x.assigned_location_id for x in ready):
        taken = _taken([x for x in ready if x.assigned_location_id == location], shipment.lines)
        if taken:
            break
    else:
        return TryLater(Reason.CONFIGURATION) if _taken(left, shipment.lines) else Refused(Reason.GONE)
    tracking = {"number": _number_of(shipment.tracking), "company": COMPANIES.get(shipment.carrier.lower(), shipment.carrier)}
    if shipment.tracking_link.startswith("https://"):
        tracking["url"] = shipment.tracking_link
    # The customer hears of it from us, not once more from the shop.
    body = {"fulfillment": {"line_items_by_fulfillment_order": taken, "notify_customer": False, "tracking_info": tracking}}
    return Request("POST", _url(account, "fulfillments"), _JSON, msgspec.json.encode(body))


def _taken(orders: list[OpenOrder], lines: tuple[Shipped, ...]) -> list[dict[str, Any]]:
    """Which items of these fulfillment orders make up the lines; none where they do not."""
    wanted: Counter[str] = Counter()
    for line in lines:
        wanted[line.line] += line.quantity
    taken = []
    for order in orders:
        items = []
        for item in order.line_items:
            most = item.fulfillable_quantity
            quantity = min(most, wanted[str(item.line_item_id)]) if lines else most
            if quantity > 0:
                wanted[str(item.line_item_id)] -= quantity
                items.append({"id": item.id, "quantity": quantity})
        if items:
            taken.append({"fulfillment_order_id": order.id, "fulfillment_order_line_items": items})
    return taken if not any(quantity > 0 for quantity in wanted.values()) else []


def fulfilment_made(account: Account, ask: Ask, reply: Reply) -> Answer:
    if 200 <= reply.status < 300:
        made = decode(reply.body, FulfillmentMade)  # a large one may be cut short
        return Done(str(made.fulfillment.id) if made is not None else "")
    return _turned_down(reply)


def told_before(account: Account, ask: Ask) -> Request:
    shop_order = _number(_data(ask, Shipment).shop_order, "$.shop_order")
    fields = "id,status,tracking_number,tracking_numbers"
    return Request("GET", _url(account, f"orders/{shop_order}/fulfillments", limit=str(MOST), fields=fields))


def found_before(account: Account, ask: Ask, reply: Reply) -> Answer:
    """One that was cancelled meanwhile was made too: whoever cancelled it does not want it back."""
    told = decode(reply.body, KnownFulfillments)
    if reply.status != 200 or told is None:
        return Unknown(Reason.PROVIDER)
    ours = _number_of(_data(ask, Shipment).tracking)
    for known in told.fulfillments:
        if known.status not in ("error", "failure") and ours in _numbers(known):
            return Done(str(known.id))
    return Unknown(Reason.NOT_FOUND) if following(reply) else TryLater(Reason.NOT_FOUND)


_JSON = (("Content-Type", "application/json"),)
_TAG = "mutation tag($id: ID!, $tags: [String!]!) { tagsAdd(id: $id, tags: $tags) { node { id } userErrors { field message } } }"


def tagging(account: Account, ask: Ask) -> Request:
    tagging = _data(ask, Tagging)
    if not tagging.tags or not all(0 < len(tag.strip()) <= 40 and "," not in tag for tag in tagging.tags):
        raise Unreadable("schema", "$.tags")
    variables = {"id": f"gid://shopify/Order/{_number(tagging.shop_order, '$.shop_order')}", "tags": tagging.tags}
    return Request(
        "POST", _url(account, "graphql"), (*_JSON, ("X-Request-ID", ask.id)), msgspec.json.encode({"query": _TAG, "variables": variables})
    )


class Throttle(msgspec.Struct, frozen=True, rename="camel"):
    currently_available: float = 0.0
    restore_rate: float = 0.0


class Cost(msgspec.Struct, frozen=True, rename="camel"):
    requested_query_cost: float | None = None
    throttle_status: Throttle = Throttle()


class Extensions(msgspec.Struct, frozen=True):
    code: str = ""
    cost: Cost = Cost()


class GraphError(msgspec.Struct, frozen=True):
    extensions: Extensions = Extensions()


class UserError(msgspec.Struct, frozen=True):
    field: list[str] | None = None


class TagsAdded(msgspec.Struct, frozen=True, rename="camel"):
    node: dict[str, Any] | None = None
    user_errors: tuple[UserError, ...] = ()


class Tagged(msgspec.Struct, frozen=True, rename="camel"):
    tags_add: TagsAdded | None = None


class Graph(msgspec.Struct, frozen=True):
    """An answer may hold data, errors, or both: then the errors are about parts of the data."""

    data: Tagged | None = None
    errors: tuple[GraphError, ...] = ()
    extensions: Extensions = Extensions()


_CODES: dict[str, Answer] = {
    "ACCESS_DENIED": TryLater(Reason.CREDENTIALS),
    "SHOP_INACTIVE": TryLater(Reason.CONFIGURATION),
    "INTERNAL_SERVER_ERROR": Unknown(Reason.GATEWAY),
    "TIMEOUT": Unknown(Reason.GATEWAY),
}


def tagged(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status != 200:
        return _turned_down(reply)
    graph = decode(reply.body, Graph)
    if graph is None:
        return Unknown(Reason.GATEWAY)
    done = graph.data.tags_add if graph.data is not None else None
    if done is not None and done.user_errors:
        return Refused(Reason.GONE if any("id" in (error.field or ()) for error in done.user_errors) else Reason.CONTENT)
    if done is not None and done.node is not None:
        return Done(_data(ask, Tagging).shop_order)
    codes = [error.extensions.code for error in graph.errors]
    if "THROTTLED" in codes:
        cost = graph.extensions.cost
        lacks = (cost.requested_query_cost or 0.0) - cost.throttle_status.currently_available
        return TryLater(Reason.RATE, max(1.0, lacks / cost.throttle_status.restore_rate) if cost.throttle_status.restore_rate > 0 else 1.0)
    if not codes:
        return Unknown(Reason.GATEWAY)
    return next((_CODES[code] for code in codes if code in _CODES), TryLater(Reason.CONFIGURATION))  # another version of the API?


def _turned_down(reply: Reply) -> Answer:
    match reply.status:
        case 401 | 403:
            return TryLater(Reason.CREDENTIALS)
        case 429:
            return TryLater(Reason.RATE, reply.retry_after_s or 2.0)
        case 400 | 406 | 413 | 415 | 422:
            return Refused(Reason.CONTENT)
        case status if 300 <= status < 500:
            return TryLater(Reason.CONFIGURATION, reply.retry_after_s)  # its domain has moved, the shop is frozen, the version is gone
        case _:
            return Unknown(Reason.GATEWAY)


# --- errors
_SCOPE = re.compile(r"approval for ([a-z_]{1,64}) scope")
_COMPLAINTS = (
    (r"invalid api key or access token", "Shopify refuses our access token: check it, or install the app again"),
    (
        r"access.?denied|not approved to access|protected customer data",
        "Shopify denies the app this data: ask for its scope or approval",
    ),
    (r"exceeded .* calls|throttled", "Shopify says that we ask too often: wait a second and ask again"),
    (r"unavailable shop|shop is (frozen|locked|unavailable)|payment required", "Shopify has closed the shop: its owner must open it again"),
    (r"not found", "Shopify does not know what we asked for: check the shop's domain, the API version and the ID"),
    (r"internal server error|service unavailable|gateway timeout|bad gateway", "Shopify has trouble of its own: ask again later"),
)


def complaint(body: bytes) -> str:
    """REST answers `errors` (a text, or texts by field) or `error`; GraphQL a list of errors. What they quote stays out."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""
    errors = (answer.get("errors") or answer.get("error")) if isinstance(answer, dict) else None
    if not errors:
        return ""
    text = msgspec.json.encode(errors).decode().lower()
    scope = _SCOPE.search(text)
    if scope is not None:
        return f"Shopify wants the merchant to approve the scope {scope.group(1)}: add it to the app and install it again"
    for pattern, words in _COMPLAINTS:
        if re.search(pattern, text):
            return words
    fields = sorted(name for name in errors if re.fullmatch(r"[a-z_.]{1,64}", name)) if isinstance(errors, dict) else []
    return f"Shopify refuses what we ask for: check {', '.join(fields) or 'the request'}"


_ORDER = Topic(Order, ordered)
_FULFILLMENT = Topic(Fulfillment, fulfilled)
_DISPUTE = Topic(Dispute, disputed)
_CUSTOMER = Topic(Customer, profiled)
_MARKETING = Topic(Marketing, agreed)


_LOG_IN = "whether a customer can log in at the shop changes no order"
_TAGS = "a customer's tags are not kept here; tag the order where it matters"
_SEGMENT = "marketing's groups of customers change no order"


def _families(why: str, names: str) -> dict[str, str]:
    return {f"{name}/*": why for name in names.split()}


_IGNORED = Reasons(
    {
        "orders/edited": "only what an edit changed; orders/updated carries the whole order",
        "orders/link_requested": "a customer asked for a new link to the order's page; the order is as it was",
        "orders/shopify_protect_eligibility_changed": "who bears the loss of a fraud; the risk assessment says whether to wait",
        "order_transactions/update": "the order and its refunds carry what it changes",
        "tender_transactions/*": "the same money as that of order_transactions/create, told once more",
        "payment_terms/*": "they name no order; the order carries the terms of its payment",
        "payment_schedules/*": "it names no order; transactions and orders/paid tell when the money has come",
        "fulfillment_events/delete": "an event that is gone takes nothing back; the carrier's word stands",
        "fulfillment_orders/*": "how the shop plans its own fulfillment; fulfillments tell what was packed",
        "fulfillment_holds/*": "one of several holds; fulfillment_orders/placed_on_hold and hold_released tell of the first and the last",
        **_families("announces a return; the refund tells what came back", "returns reverse_deliveries reverse_fulfillment_orders"),
        "customers/delete": "the profile stays with its orders; whether it is to be erased, customers/redact says",
        "customers/merge": "orders keep the customer under whom they were placed",
        "customers/redact": "someone must erase this customer's personal data here within 30 days",
        "customers/data_request": "someone must give the shop's owner what is kept of this customer within 30 days",
        "customers/enable": _LOG_IN,
        "customers/disable": _LOG_IN,
        "customers/purchasing_summary": "it sums up orders, which are told themselves",
        "customer.tags_added": _TAGS,
        "customer.tags_removed": _TAGS,
        "customer.joined_segment": _SEGMENT,
        "customer.left_segment": _SEGMENT,
        **_families(_SEGMENT, "customer_groups segments"),
        "customers_whats_app_marketing_consent/*": "nothing is said by WhatsApp here",
        "customer_payment_methods/*": "a card that a customer keeps at the shop; transactions tell what is paid with it",
        "shipping_addresses/*": "the order carries its address; orders/updated tells when it changes",
        **_families(
            "business customers are kept in the shop; orders name who bought",
            "companies company_contacts company_contact_roles company_locations",
        ),
        **_families("nothing is bought yet", "carts checkouts draft_orders"),
        **_families(
            "an agreement on orders to come; each of them is told as an order",
            "subscription_contracts subscription_billing_attempts subscription_billing_cycles subscription_billing_cycle_edits",
        ),
        **_families(
            "orders name and price their lines themselves; no catalogue is kept here",
            "products variants product_listings product_publications product_feeds scheduled_product_listings collections"
            " collection_listings collection_publications inventory_items selling_plan_groups discounts",
        ),
        "inventory_levels/*": "it names no SKU and counts what is left after the shop's own promises; the warehouse counts stock",
        **_families("goods between the shop's own locations; the warehouse counts stock", "inventory_transfers inventory_shipments"),
        "shop/redact": "someone must erase the personal data of this shop's customers here within 30 days",
        **_families(
            "how the shop is set up; an order carries what matters of it",
            "shop themes domains locales locations markets markets_backup_region profiles delivery_promise_settings channels"
            " tax_services checkout_and_accounts_configurations customer_account_settings metafield_definitions metaobjects",
        ),
        "app/uninstalled": "the app was removed from the shop and hears nothing more: install it again, or close the account here",
        "app/scopes_update": "what the app may see has changed; Shopify refuses what it may not, and that is shown",
        **_families("what the shop pays for its apps, not what its customers pay", "app_purchases_one_time app_subscriptions"),
        "bulk_operations/*": "an export is ready; none was asked for from here",
        "audit_events/*": "who used the shop's API; the shop keeps that record",
        **_families(
            "the shop's own finances and who may see them; no customer's money", "finance_app_staff_member finance_kyc_information"
        ),
    }
)

VENDOR = Vendor(
    name="shopify",
    guide=Guide(
        title="Shopify",
        where="Settings > Notifications > Webhooks, format JSON, or the webhooks of a custom app",
        signed_with='below the list of webhooks ("Your webhooks will be signed with ..."); of a custom app its API secret key',
        subscribe=(
            "orders/create",
            "orders/updated",
            "orders/cancelled",
            "order_transactions/create",
            "refunds/create",
            "fulfillments/create",
            "fulfillments/update",
            "orders/risk_assessment_changed",
            "customers/update",
            "customers_email_marketing_consent/update",
            "customers_marketing_consent/update",
        ),
        credentials={"client_id": "Dev Dashboard > your app > Settings", "client_secret": "beside it; it also signs the app's webhooks"},
    ),
    kind="shop",
    scheme=BodyHmac("x-shopify-hmac-sha256"),
    envelope=envelope,
    topics={
        "orders/create": _ORDER,
        "orders/updated": _ORDER,
        "orders/paid": _ORDER,
        "orders/cancelled": _ORDER,
        "orders/fulfilled": _ORDER,
        "orders/partially_fulfilled": _ORDER,
        "orders/delete": Topic(Object, deleted),
        "orders/risk_assessment_changed": Topic(Assessment, assessed),
        "order_transactions/create": Topic(Transaction, transacted),
        "refunds/create": Topic(Refund, refunded),
        "disputes/create": _DISPUTE,
        "disputes/update": _DISPUTE,
        "fulfillments/create": _FULFILLMENT,
        "fulfillments/update": _FULFILLMENT,
        "fulfillment_events/create": Topic(Event, scanned),
        "fulfillment_orders/placed_on_hold": Topic(PlacedOnHold, held),
        "fulfillment_orders/hold_released": Topic(HoldReleased, let_go),
        "customers/create": _CUSTOMER,
        "customers/update": _CUSTOMER,
        "customers_email_marketing_consent/update": _MARKETING,
        "customers_marketing_consent/update": _MARKETING,
    },
    ignored=_IGNORED,
    answers={
        "order": _one("order", Order, ordered),
        "orders": _many("orders", Order, ordered),
        "transaction": _one("transaction", Transaction, transacted),
        "transactions": _many("transactions", Transaction, transacted),
        "refund": _one("refund", Refund, refunded),
        "refunds": _many("refunds", Refund, refunded),
        "fulfillment": _one("fulfillment", Fulfillment, fulfilled),
        "fulfillments": _many("fulfillments", Fulfillment, fulfilled),
        "fulfillment_event": _one("fulfillment_event", Event, scanned),
        "fulfillment_events": _many("fulfillment_events", Event, scanned),
        "fulfillment_order": _one("fulfillment_order", FulfillmentOrder, linked),
        "fulfillment_orders": _many("fulfillment_orders", FulfillmentOrder, linked),
        "dispute": _one("dispute", Dispute, disputed),
        "disputes": _many("disputes", Dispute, disputed),
        "customer": _one("customer", Customer, profiled),
        "customers": _many("customers", Customer, profiled),
    },
    questions={
        "orders_since": Question("orders", since("orders", status="any"), following),
        "customers_since": Question("customers", since("customers"), following),
        "order": Question("order", of_order(""), following),
        "transactions": Question("transactions", of_order("/transactions"), following),
        "fulfillments": Question("fulfillments", of_order("/fulfillments", limit=str(MOST)), following),
        "refunds": Question("refunds", of_order("/refunds", limit=str(MOST)), following),
        "fulfillment_orders": Question("fulfillment_orders", of_order("/fulfillment_orders"), following),
    },
    actions={
        "shop.fulfil": Action(Ability("lookup"), locations, fulfilment_made, look=told_before, found=found_before, then=fulfilment),
        # Shopify keeps no key, but a tag is there once however often it is added: asking again does no harm, at any time.
        "shop.tag": Action(Ability("keyed", YEAR_S), tagging, tagged),
    },
    login=Login(authorised, token_wanted, token_given),
    pace_per_s=2.0,
    complaint=complaint,
)
