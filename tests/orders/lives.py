"""Facts and lives of one order for tests: a builder per kind, whole lives, and a strategy for arbitrary reports."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from orders import fact as facts
from orders.fact import Address, Fact, Line, Person, Quantity, Tracking

ORDER = "lumi:1001"
T0 = 1_790_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

ANNA = Person(
    name="Anna Meier",
    email="anna@example.invalid",
    phone="+4930555010",
    locale="de-DE",
    zone="Europe/Berlin",
    address=Address(lines=("Hauptstr. 5",), city="Berlin", postcode="10115", country="DE"),
)
LAMP = Line(line="1", sku="LAMP-1", quantity=2, price=2000, title="Desk lamp")
SHADE = Line(line="2", sku="SHADE-2", quantity=1, price=999, title="Linen shade")


def placed(at: int = T0, **more: Any) -> facts.OrderPlaced:
    values: dict[str, Any] = {
        "order": ORDER,
        "system": "shopify:lumi",
        "object": "1001",
        "at": at,
        "number": "1001",
        "customer": "lumi:77",
        "currency": "EUR",
        "total": 4999,
        "lines": (LAMP, SHADE),
        "person": ANNA,
        "promised": T0 + 5 * DAY,
        "signals": {"velocity": 1.0},
    }
    return facts.OrderPlaced(**(values | more))


def captured(amount: int = 4999, at: int = T0 + MINUTE, object: str = "pi_1", **more: Any) -> facts.PaymentCaptured:
    return facts.PaymentCaptured(
        **({"order": ORDER, "system": "stripe:lumi", "object": object, "at": at, "amount": amount, "currency": "EUR"} | more)
    )


def authorized(amount: int = 4999, at: int = T0 + MINUTE, object: str = "pi_1", **more: Any) -> facts.PaymentAuthorized:
    return facts.PaymentAuthorized(
        **({"order": ORDER, "system": "stripe:lumi", "object": object, "at": at, "amount": amount, "currency": "EUR"} | more)
    )


def failed(at: int = T0 + MINUTE, object: str = "pi_0", amount: int = 4999, **more: Any) -> facts.PaymentFailed:
    return facts.PaymentFailed(
        **({"order": ORDER, "system": "stripe:lumi", "object": object, "at": at, "amount": amount, "currency": "EUR"} | more)
    )


def refunded(amount: int, at: int = T0 + 6 * DAY, object: str = "re_1", **more: Any) -> facts.PaymentRefunded:
    return facts.PaymentRefunded(
        **({"order": ORDER, "system": "stripe:lumi", "object": object, "at": at, "amount": amount, "currency": "EUR"} | more)
    )


def paid(amount: int = 4999, at: int = T0 + MINUTE, version: int = 1, **more: Any) -> facts.OrderPaid:
    values: dict[str, Any] = {
        "order": ORDER,
        "system": "shopify:lumi",
        "object": "1001",
        "at": at,
        "version": version,
        "amount": amount,
        "currency": "EUR",
    }
    return facts.OrderPaid(**(values | more))


def reserved(line: Line = LAMP, at: int = T0 + 2 * MINUTE, location: str = "main", object: str = "", **more: Any) -> facts.StockReserved:
    values: dict[str, Any] = {
        "order": ORDER,
        "system": "stock",
        "object": object or f"reserve-{line.line}",
        "at": at,
        "line": line.line,
        "sku": line.sku,
        "location": location,
        "quantity": line.quantity,
    }
    return facts.StockReserved(**(values | more))


def scarce(line: Line = LAMP, location: str = "main", at: int = T0 + 1) -> facts.StockScarce:
    its: dict[str, Any] = {"object": f"check-{line.line}-{location}", "line": line.line, "sku": line.sku, "quantity": line.quantity}
    return facts.StockScarce(order=ORDER, system="stock", at=at, location=location, **its)


def short(line: Line = LAMP, at: int = T0 + 2 * MINUTE, object: str = "", **more: Any) -> facts.StockShort:
    values: dict[str, Any] = {
        "order": ORDER,
        "system": "stock",
        "object": object or f"reserve-{line.line}",
        "at": at,
        "line": line.line,
        "sku": line.sku,
        "location": "main",
        "quantity": line.quantity,
    }
    return facts.StockShort(**(values | more))


def picked(at: int = T0 + HOUR, location: str = "main") -> facts.ItemsPicked:
    return facts.ItemsPicked(order=ORDER, system="wms:lumi", object=f"pick-{location}", at=at, location=location)


def packed(parcel: str = "P1", at: int = T0 + HOUR, lines: tuple[Quantity, ...] = ()) -> facts.ParcelPacked:
    return facts.ParcelPacked(order=ORDER, system="wms:lumi", object=parcel, at=at, parcel=parcel, lines=lines)


def scanned(tag: Tracking, at: int, parcel: str = "P1", object: str = "", **more: Any) -> facts.ParcelScanned:
    values: dict[str, Any] = {
        "order": ORDER,
        "system": "ups:lumi",
        "object": object or f"{parcel}-{tag.value}-{at}",
        "at": at,
        "parcel": parcel,
        "tag": tag,
        "carrier": "UPS",
        "tracking": f"1Z-{parcel}",
    }
    return facts.ParcelScanned(**(values | more))


def cancel(at: int = T0 + 30 * MINUTE) -> facts.CancelRequested:
    return facts.CancelRequested(order=ORDER, system="shopify:lumi", object="cancel-1001", at=at, reason="customer")


def hold(at: int = T0 + MINUTE, object: str = "h1") -> facts.HoldPlaced:
    return facts.HoldPlaced(order=ORDER, system="staff", object=object, at=at, reason="call_back", by="sam")


def release(*holds: str, at: int = T0 + 2 * MINUTE, object: str = "rel-1") -> facts.HoldReleased:
    return facts.HoldReleased(order=ORDER, system="staff", object=object, at=at, holds=holds, by="sam", reason="checked")


def review(approve: bool, at: int = T0 + 5 * MINUTE, object: str = "rev-1") -> facts.ReviewDecided:
    return facts.ReviewDecided(order=ORDER, system="staff", object=object, at=at, approve=approve, by="kim", reason="looked")


def retract(kind: str, system: str, object: str, at: int = T0 + DAY) -> facts.FactRetracted:
    return facts.FactRetracted(
        order=ORDER, system="staff", object=f"retract-{object}", at=at, target_system=system, target_object=object, target_type=kind
    )


def resend(effect: str, at: int = T0 + 3 * DAY, object: str = "again-1") -> facts.ResendRequested:
    return facts.ResendRequested(order=ORDER, system="staff", object=object, at=at, effect=effect, by="sam", reason="she lost it")


LIFE: tuple[Fact, ...] = (
    placed(),
    captured(),
    reserved(LAMP),
    reserved(SHADE),
    packed(),
    scanned(Tracking.IN_TRANSIT, T0 + DAY),
    scanned(Tracking.OUT_FOR_DELIVERY, T0 + 2 * DAY),
    scanned(Tracking.DELIVERED, T0 + 2 * DAY + 4 * HOUR),
)

# One of every kind, for tables and for odd combinations.
EACH: tuple[Fact, ...] = (
    placed(),
    facts.AddressCorrected(order=ORDER, system="shopify:lumi", object="addr-1", at=T0 + HOUR, person=ANNA),
    authorized(),
    captured(),
    failed(),
    refunded(4999),
    paid(),
    facts.PaymentDisputed(order=ORDER, system="stripe:lumi", object="dp_1", at=T0 + 9 * DAY, amount=4999, currency="EUR"),
    facts.DisputeClosed(order=ORDER, system="stripe:lumi", object="dp_1", at=T0 + 20 * DAY, won=False),
    cancel(),
    facts.LinesCancelled(order=ORDER, system="shopify:lumi", object="lc-1", at=T0 + HOUR, lines=(Quantity(line="2", quantity=1),)),
    reserved(),
    short(SHADE),
    facts.StockReleased(order=ORDER, system="stock", object="reserve-1", at=T0 + DAY, line="1", sku="LAMP-1", location="main", quantity=2),
    picked(),
    packed(lines=(Quantity(line="1", quantity=2),)),
    *(scanned(tag, T0 + DAY + i * HOUR) for i, tag in enumerate(Tracking)),
    hold(),
    release("h1"),
    review(True),
    review(False, object="rev-2"),
    facts.ReturnReceived(order=ORDER, system="wms:lumi", object="ret-1", at=T0 + 8 * DAY),
    facts.MessageReported(order=ORDER, system="customers", object="abc:sent", at=T0 + HOUR, effect="abc", channel="email", outcome="sent"),
    retract("PaymentCaptured", "stripe:lumi", "pi_1"),
    facts.FactParked(order=ORDER, system="orderflow", object="bad-1", at=T0 + HOUR, reason="schema"),
    facts.FactUnparked(order=ORDER, system="staff", object="bad-1", at=T0 + 2 * HOUR, by="sam"),
    facts.NoteAdded(order=ORDER, system="staff", object="n-1", at=T0 + HOUR, text="called", by="sam"),
    facts.FeedbackGiven(order=ORDER, system="survey", object="f-1", at=T0 + 9 * DAY, score=9),
    facts.EffectSettled(
        order=ORDER, system="staff", object="s-1", at=T0 + HOUR, effect="abc", happened=False, by="sam", reason="asked the warehouse"
    ),
    resend("abc"),
    facts.RiskReported(order=ORDER, system="stripe:lumi", object="ch_1", at=T0 + MINUTE, signals={"avs_mismatch": 1.0, "velocity": 2.0}),
)


def variants(fact: Fact) -> st.SearchStrategy[Fact]:
    """The same natural key, said differently: another time, version, authority, amount, or from history."""
    import msgspec

    changes: dict[str, st.SearchStrategy[Any]] = {
        "at": st.sampled_from([fact.at, fact.at + 1, fact.at - HOUR, 5]),
        "version": st.integers(0, 3),
        "authority": st.integers(0, 1),
        "backfilled": st.booleans(),
    }
    if "amount" in fact.__struct_fields__:
        changes["amount"] = st.sampled_from([1, 4999, 5000])
    if "person" in fact.__struct_fields__:
        changes["person"] = st.sampled_from([ANNA, msgspec.structs.replace(ANNA, name="Anna Maier"), Person()])
    return st.fixed_dictionaries({}, optional=changes).map(lambda values: msgspec.structs.replace(fact, **values))


reports: st.SearchStrategy[list[Fact]] = st.lists(st.sampled_from(EACH).flatmap(variants), min_size=1, max_size=14)
