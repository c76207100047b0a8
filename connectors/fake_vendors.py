"""The fake shop's systems as vendors: what happened, told as signed webhooks of Shopify, Stripe, a warehouse and UPS.

The same lives as the fake shop tells in our own words, in the words of those who would really tell them, each with what it knows
and no more: Shopify has no promised date, UPS has seconds and no order, Stripe has no lines. What makes an order suspicious is told by
whoever can see it: Shopify has two addresses, Stripe the bank's word on the card, and the rest the shop's own check of devices.
Whoever reads the webhooks must find the same status, money and signals as the shop's truth (`tests/connectors/test_fake_vendors.py`).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from hmac import digest
from typing import Any, NamedTuple

import msgspec

from connectors.base import Secret
from connectors.fake_shop import FIRST_NUMBER, FakeShop
from connectors.webhook import sign, signing_key
from orders import fact, money
from orders.fact import Fact, OrderPlaced, Person, Tracking, decode_fact
from orders.request import FactWaiting, Request, StockLevelReported

OWN_EVERY = 3  # one order in so many comes from a shop that speaks our own words
SOURCES = {"shopify": "shopify-lumi", "stripe": "stripe-lumi", "wms": "wms-lumi", "ups": "ups-lumi"}  # vendor -> account
SIGNING = {vendor: f"{vendor} and the demo share this word" for vendor in SOURCES}  # no secret: nothing but the demo believes it
LOCATION = "berlin"  # where the orders of these vendors are served from
OF_CARDS = {"avs_mismatch": "address_postal_code_check", "cvc_mismatch": "cvc_check"}  # signal -> the bank's check that failed
OF_ADDRESSES = "ship_bill_mismatch"
RISKY = 4  # so many signals are a high risk to Shopify
SCANS = {  # type and code
    Tracking.IN_TRANSIT: ("I", "DP"),
    Tracking.OUT_FOR_DELIVERY: ("I", "OT"),
    Tracking.DELIVERED: ("D", "FS"),
    Tracking.ATTEMPT_FAILED: ("X", "L1"),
    Tracking.EXCEPTION: ("X", "EX"),
    Tracking.LOST: ("X", "LO"),
}


class Webhook(NamedTuple):
    source: str
    headers: dict[str, str]
    body: bytes


class FakeVendors:
    """`secrets` by vendor; `now` in ms, for signatures that carry a time."""

    def __init__(self, shop: FakeShop, secrets: dict[str, Secret], now: Callable[[], int]) -> None:
        self._shop, self._secrets, self._now = shop, secrets, now

    def tell(self, record: Fact | Request) -> list[Webhook] | None:
        """The webhooks that say it; none for what these vendors do not say at all, None for what is not theirs to say."""
        if isinstance(record, StockLevelReported):
            return [self._wms("stock.level", record.at, {"levels": [_level(record)]})]
        told = decode_fact(record.fact) if isinstance(record, FactWaiting) else record
        if not isinstance(told, Fact):
            return None
        number = told.order.rpartition(":")[2] or (told.parcel.partition("-")[0] if isinstance(told, fact.ParcelScanned) else "")
        if not number.isdigit() or int(number) % OWN_EVERY == 0:
            return None
        return self._told(told, int(number))

    def orders(self, numbers: Iterable[int]) -> list[Webhook]:
        """As Shopify has told of them: of the fake shop's orders, the first being 0, those that are its to tell."""
        placed = (self._placed(FIRST_NUMBER + n) for n in numbers)
        return [webhook for order in placed for webhook in self.tell(order) or ()]

    @staticmethod
    def in_own_words(told: Fact) -> Fact:
        """As the shop says it that speaks our own words: its money is at Stripe too, and it names a payment as Stripe does."""
        if not isinstance(told, fact.PaymentAuthorized | fact.PaymentCaptured | fact.PaymentFailed):
            return told
        return msgspec.structs.replace(told, object=f"pi_{told.object}")

    @staticmethod
    def checked(record: Fact | Request) -> fact.RiskReported | None:
        """What the shop's own check of devices and addresses tells, in our own words, of an order that Shopify tells of."""
        if not isinstance(record, OrderPlaced) or int(record.number) % OWN_EVERY == 0:
            return None
        signals = {name: value for name, value in record.signals.items() if name not in OF_CARDS and name != OF_ADDRESSES}
        check = fact.RiskReported(order=record.order, system="checks:lumi", object=record.number, at=record.at, signals=signals)
        return check if signals else None

    @staticmethod
    def as_shopify_knows(customer: str) -> str:
        """The ID under which Shopify's orders name the shop's customer: their consents must be found under both."""
        shop, _, index = customer.rpartition(":c")
        return f"{shop}:{int(index) + 1}"

    def levels(self, levels: Sequence[StockLevelReported]) -> Webhook:
        return self._wms("stock.level", levels[0].at, {"levels": [_level(level) for level in levels]})

    def _told(self, told: Fact, number: int) -> list[Webhook] | None:
        match told:
            case OrderPlaced():
                created = self._shopify("orders/updated" if told.version else "orders/create", _order(told, told.at + 1000 * told.version))
                risk = {"order_id": number, "risk_level": "HIGH", "created_at": _iso(told.at)}
                return [created, self._shopify("orders/risk_assessment_changed", risk)] if len(told.signals) >= RISKY else [created]
            case fact.AddressCorrected(person=person):
                return [self._shopify("orders/updated", _order(msgspec.structs.replace(self._placed(number), person=person), told.at))]
            case fact.CancelRequested(reason=reason):
                cancelled = {"cancelled_at": _iso(told.at), "cancel_reason": reason}
                return [self._shopify("orders/cancelled", _order(self._placed(number), told.at) | cancelled)]
            case fact.ReturnReceived():
                lines = self._placed(number).lines
                items = [{"line_item_id": int(x.line), "quantity": x.quantity, "restock_type": "return"} for x in lines]
                back = {"id": number * 10, "order_id": number, "created_at": _iso(told.at), "refund_line_items": items}
                return [self._shopify("refunds/create", back)]
            case fact.PaymentAuthorized() | fact.PaymentCaptured() | fact.PaymentFailed():
                return self._payment(told, number)
            case fact.PaymentRefunded():
                refund = {"id": f"re_{told.object}", "object": "refund", "payment_intent": f"pi_{number}", "status": "succeeded"}
                return [self._stripe("refund.created", told, refund | _amount(told), number)]
            case fact.PaymentDisputed():
                dispute = {"id": f"dp_{told.object}", "object": "dispute", "payment_intent": f"pi_{number}", "status": "needs_response"}
                return [self._stripe("charge.dispute.created", told, dispute | _amount(told), number)]
            case fact.DisputeClosed(won=won):
                paid = self._placed(number)
                status = "won" if won else "lost"
                dispute = {"id": f"dp_{told.object}", "object": "dispute", "payment_intent": f"pi_{number}", "status": status}
                return [self._stripe("charge.dispute.closed", told, dispute | _amount(paid), number)]
            case fact.ItemsPicked():
                return [self._wms("order.picked", told.at, {"order": number, "pick": told.object, "location": LOCATION})]
            case fact.ParcelPacked():
                return [self._wms("order.packed", told.at, _packed(number, told.parcel, told.lines))]
            case fact.ParcelScanned():
                return self._scanned(told, number)
            case _:
                return None

    def _placed(self, number: int) -> OrderPlaced:
        return next(f for f in self._shop.life(number - FIRST_NUMBER) if isinstance(f, OrderPlaced))

    def _payment(self, told: fact.PaymentAuthorized | fact.PaymentCaptured | fact.PaymentFailed, number: int) -> list[Webhook]:
        placed = self._placed(number)
        if told.amount != placed.total:
            return []  # a wrong amount: Stripe's own books do not hold any
        intent: dict[str, Any] = {"id": f"pi_{number}", "object": "payment_intent", "status": "succeeded"}
        intent |= {"latest_charge": f"ch_{told.object}"} | _amount(told)
        if isinstance(told, fact.PaymentFailed):
            error = {"code": "card_declined", "decline_code": told.reason, "charge": f"ch_{told.object}"}
            failed = {"status": "requires_payment_method", "last_payment_error": error}
            return [self._stripe("payment_intent.payment_failed", told, intent | failed, number)]
        if isinstance(told, fact.PaymentAuthorized):
            held = {"status": "requires_capture", "amount_capturable": intent["amount"]}
            return [self._stripe("payment_intent.amount_capturable_updated", told, intent | held, number), *self._charged(told, number)]
        paid = intent | {"amount_received": intent["amount"]}
        return [self._stripe("payment_intent.succeeded", told, paid, number), *self._charged(told, number)]

    def _charged(self, told: fact.PaymentAuthorized | fact.PaymentCaptured, number: int) -> list[Webhook]:
        """The charge behind a payment, where the bank found something."""
        checks = {check: "fail" for name, check in OF_CARDS.items() if self._placed(number).signals.get(name)}
        if not checks:
            return []
        charge: dict[str, Any] = {"id": f"ch_{told.object}", "object": "charge", "payment_intent": f"pi_{number}", "status": "succeeded"}
        charge |= {"captured": isinstance(told, fact.PaymentCaptured), "payment_method_details": {"card": {"checks": checks}}}
        return [self._stripe("charge.succeeded", told, charge | _amount(told), number)]

    def _scanned(self, told: fact.ParcelScanned, number: int) -> list[Webhook]:
        tracking = "1ZLUMI" + told.parcel.replace("-", "").zfill(12)
        if told.tag is Tracking.LABEL_CREATED:
            labelled = {"carrier": "ups", "tracking": tracking}
            return [self._wms("order.packed", told.at, _packed(number, told.parcel, told.lines) | labelled)]
        if told.tag not in SCANS:
            return []
        at = datetime.fromtimestamp(told.at / 1000, UTC)
        kind, code = SCANS[told.tag]
        scan = {
            "trackingNumber": tracking,
            "localActivityDate": f"{at:%Y%m%d}",
            "localActivityTime": f"{at:%H%M%S}",
            "gmtActivityDate": f"{at:%Y%m%d}",
            "gmtActivityTime": f"{at:%H%M%S}",
            "gmtOffset": "+00.00",
            "activityStatus": {"type": kind, "code": code, "description": "as scanned"},
        }
        if told.eta_until:
            scan["scheduledDeliveryDate"] = f"{datetime.fromtimestamp(told.eta_until / 1000, UTC):%Y%m%d}"
        return [Webhook(SOURCES["ups"], {"credential": self._secrets["ups"].reveal()}, json.dumps(scan).encode())]

    # --- how each of them signs
    def _shopify(self, topic: str, content: dict[str, Any]) -> Webhook:
        body = json.dumps(content).encode()
        signature = b64encode(digest(self._secrets["shopify"].reveal().encode(), body, "sha256")).decode()
        headers = {"x-shopify-topic": topic, "x-shopify-webhook-id": _name(body), "x-shopify-hmac-sha256": signature}
        return Webhook(SOURCES["shopify"], headers, body)

    def _stripe(self, kind: str, told: Fact, thing: dict[str, Any], number: int) -> Webhook:
        thing = {"created": told.at // 1000, "metadata": {"order_id": str(number)}} | thing
        event = {"object": "event", "type": kind, "created": told.at // 1000, "data": {"object": thing}}
        body = json.dumps({"id": f"evt_{_name(json.dumps(event).encode())}", **event}).encode()
        seconds = self._now() // 1000
        made = digest(self._secrets["stripe"].reveal().encode(), f"{seconds}.".encode() + body, sha256).hex()
        return Webhook(SOURCES["stripe"], {"stripe-signature": f"t={seconds},v1={made}"}, body)

    def _wms(self, kind: str, at: int, content: dict[str, Any]) -> Webhook:
        body = json.dumps({"type": kind, "timestamp": _iso(at), "data": content}).encode()
        name, seconds = _name(body), str(self._now() // 1000)
        signature = sign(signing_key(self._secrets["wms"]), name, seconds, body)
        return Webhook(SOURCES["wms"], {"webhook-id": name, "webhook-timestamp": seconds, "webhook-signature": signature}, body)


def _name(body: bytes) -> str:
    """The same for the same thing told again: a delivery that comes twice."""
    return blake2b(body, digest_size=12).hexdigest()


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")


def _amount(told: Any) -> dict[str, Any]:
    """Stripe's minor units are ISO's, for the currencies that this shop knows."""
    amount = told.total if isinstance(told, OrderPlaced) else told.amount
    return {"amount": amount, "currency": told.currency.lower()}


def _level(level: StockLevelReported) -> dict[str, Any]:
    return {"sku": level.sku, "location": level.location, "on_hand": level.on_hand, "version": level.version}


def _packed(number: int, parcel: str, lines: Sequence[fact.Quantity]) -> dict[str, Any]:
    return {"order": number, "parcel": parcel, "lines": [{"line": q.line, "quantity": q.quantity} for q in lines]}


def _order(placed: OrderPlaced, updated: int) -> dict[str, Any]:
    def major(minor: int) -> str:
        digits = money.EXPONENTS[placed.currency]
        whole, rest = divmod(minor, 10**digits)
        return f"{whole}.{rest:0{digits}}" if digits else str(whole)

    number = int(placed.order.rpartition(":")[2])
    person = placed.person or Person()
    first, _, last = person.name.partition(" ")
    lines = person.address.lines
    address = {
        "first_name": first,
        "last_name": last,
        "address1": lines[0] if lines else None,
        "address2": lines[1] if len(lines) > 1 else None,
        "city": person.address.city,
        "province_code": person.address.region or None,
        "zip": person.address.postcode or None,
        "country_code": person.address.country,
        "phone": person.phone or None,
    }
    return {
        "id": number,
        "name": f"#{placed.number}",
        "created_at": _iso(placed.at),
        "updated_at": _iso(updated),
        "currency": placed.currency,
        "total_price": major(placed.total),
        "financial_status": "pending",
        "email": person.email,
        "customer_locale": person.locale,
        "customer": {
            "id": int(FakeVendors.as_shopify_knows(placed.customer).rpartition(":")[2]),
            "email": person.email,
            "tags": "VIP" if placed.tier == "vip" else "",
        },
        "shipping_address": address,
        "billing_address": address | ({"zip": "99999", "city": "Elsewhere"} if placed.signals.get(OF_ADDRESSES) else {}),
        "line_items": [
            {
                "id": int(x.line),
                "sku": x.sku,
                "title": x.title,
                "quantity": x.quantity,
                "current_quantity": x.quantity,
                "price": major(x.price),
                "requires_shipping": True,
            }
            for x in placed.lines
        ],
        "shipping_lines": [{"title": "Express" if placed.service == "express" else "Standard", "code": placed.service}],
    }
