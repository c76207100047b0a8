"""The story of an order, in words."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from orders import fact as facts
from orders.decision import Decision
from orders.effect import effect_id
from orders.fact import AnyFact, Fact
from orders.journal import Claimed, Closed, Decided, Ended, Offered, TimerFired, Withdrawn, take_in
from orders.merge import absorb
from orders.policy import DAY, Policy
from orders.sourcing import Location, Rate, Table
from orders.state import Order
from web.explain import TITLES, detail

T = 1_700_000_000_000
BASE: dict[str, Any] = {"order": "lumi:7", "system": "shop", "at": T}
PERSON = facts.Person(name="Ana", email="ana@example.invalid")


def order_of(*known: Fact) -> Order:
    order = Order("lumi:7")
    for fact in known:
        absorb(order, fact)
    return order


def placed(**changed: object) -> facts.OrderPlaced:
    values = {
        **BASE, "object": "7", "number": "7", "customer": "lumi:c", "currency": "EUR", "total": 4990,
        "lines": (facts.Line(line="1", sku="LAMP", quantity=2, price=2495, title="Lamp"),), "person": PERSON, **changed,
    }  # fmt: skip
    return facts.OrderPlaced(**values)  # type: ignore[arg-type]


def titles(order: Order) -> list[str]:
    return [m.title for m in detail(order).timeline]


def test_every_kind_of_fact_has_its_words() -> None:
    assert set(TITLES) == {kind.__name__ for kind in get_args(AnyFact)}


def test_facts_are_told_in_the_order_they_happened_whatever_the_order_they_came_in() -> None:
    captured = facts.PaymentCaptured(**{**BASE, "system": "stripe", "object": "pi", "at": T + 5}, amount=4990, currency="EUR")
    told = detail(order_of(captured, placed()))
    assert [m.title for m in told.timeline] == ["Order placed", "Payment captured"]
    assert told.timeline[1].detail == ("49.90\u00a0EUR",) and told.timeline[1].by == "stripe"
    assert told.reached == {"order_placed": T, "payment_confirmed": T + 5}
    assert detail(order_of(placed(), captured)) == told


def test_a_decision_gives_its_reasons_in_words() -> None:
    order = order_of(placed())
    decision = Decision(1, T + 1, "review", "model", b"k", T + 1, fraud=6200, late=100, model="m-3", reasons=("avs_mismatch", "velocity"))
    take_in(order, Decided(at=T + 1, decision=decision))
    told = detail(order)
    moment = told.timeline[-1]
    assert (moment.title, moment.kind, moment.tone, moment.by) == ("Sent to review", "decision", "warn", "model m-3")
    assert "why: the billing address was not confirmed (AVS)" in moment.detail
    assert told.decision is not None and told.decision.fraud == 0.62
    assert "a person has to look at it" in told.holds and "held" in told.flags


def test_a_person_outranks_the_model_and_is_named() -> None:
    order = order_of(
        placed(), facts.ReviewDecided(**{**BASE, "object": "r1", "at": T + 9}, approve=True, by="mia", reason="known customer")
    )
    take_in(order, Decided(at=T + 1, decision=Decision(1, T + 1, "decline", "model", b"k", T + 1, fraud=9900, model="m-3")))
    told = detail(order)
    assert told.decision is not None and (told.decision.decision, told.decision.decided_by) == ("approve", "person")
    assert any("by mia" in m.detail for m in told.timeline)


def test_reports_that_disagree_are_shown() -> None:
    a = facts.PaymentCaptured(**{**BASE, "system": "stripe", "object": "pi"}, amount=4990, currency="EUR")
    b = facts.PaymentCaptured(**{**BASE, "system": "stripe", "object": "pi"}, amount=4900, currency="EUR")
    told = detail(order_of(placed(), a, b))
    assert told.contradictions == ("stripe reported “payment captured” twice, differently",)
    assert any(m.tone == "warn" and "reported differently before" in " ".join(m.detail) for m in told.timeline)


def test_an_effect_is_told_from_wish_to_outcome() -> None:
    order = order_of(placed())
    name, id = "warehouse.pick in_progress main", effect_id("lumi:7", "in_progress", "main", "warehouse.pick")
    parts = {"id": id, "effect": name}
    take_in(order, Offered(at=T + 1, id=id, action="warehouse.pick", milestone="in_progress", instance="main"))
    take_in(order, Claimed(at=T + 2, attempt=1, deadline=T + 9, body_hash="h", mode="live", **parts))
    take_in(order, Ended(at=T + 3, attempt=1, kind="unknown", reason="no_answer", **parts))
    take_in(order, Claimed(at=T + 4, attempt=2, deadline=T + 9, body_hash="h", mode="live", lookup=True, **parts))
    take_in(order, Ended(at=T + 5, attempt=2, kind="sent", reference="wms-4", **parts))
    told = detail(order).timeline[1:]
    assert [m.title for m in told] == [
        "Wanted: Warehouse pick main", "Warehouse pick main: attempt 1", "Warehouse pick main: asked what became of it",
    ]  # fmt: skip
    assert told[1].tone == "warn" and "nobody can tell" in told[1].detail[0] and "(no answer)" in told[1].detail[0]
    assert told[1].detail[1] == f"effect {id}", "who finds out what became of it has to name it"
    assert told[2].detail == ("done", "reference wms-4")


@pytest.mark.parametrize("outcome", ["sent", "rejected", "unknown"])
def test_a_message_shows_what_became_of_it(outcome: str) -> None:
    id = effect_id("lumi:7", "shipped", "p1", "notify.sms")
    report = facts.MessageReported(
        **{**BASE, "object": f"{id}:{outcome}", "system": "customers", "at": T + 5}, effect=id, channel="sms", outcome=outcome
    )
    order = order_of(placed(), report)
    take_in(order, Offered(at=T + 1, id=id, action="notify.sms", milestone="shipped", instance="p1"))
    (message,) = detail(order).messages
    assert (message.template, message.channel, message.outcome) == ("shipped", "sms", outcome)


def test_what_a_person_can_do_something_about_has_a_name() -> None:
    hold = facts.HoldPlaced(**{**BASE, "object": "h1", "system": "staff"}, reason="call_back", by="sam")
    id = effect_id("lumi:7", "order_placed", "", "notify.email")
    report = facts.MessageReported(**{**BASE, "object": f"{id}:sent", "system": "customers"}, effect=id, channel="email", outcome="sent")
    again = facts.ResendRequested(**{**BASE, "object": "again", "system": "staff", "at": T + 9}, effect=id, by="sam", reason="lost")
    order = order_of(placed(), hold, report, again)
    refund = effect_id("lumi:7", "cancelled", "pi", "payment.refund")
    take_in(order, Offered(at=T + 1, id=id, action="notify.email", milestone="order_placed", instance=""))
    take_in(order, Offered(at=T + 2, id="second", action="notify.email", milestone="order_placed", instance="~again"))
    take_in(order, Offered(at=T + 3, id=refund, action="payment.refund", milestone="cancelled", instance="pi"))
    name = "payment.refund cancelled pi"
    take_in(order, Claimed(at=T + 4, id=refund, effect=name, attempt=1, deadline=T + 9, body_hash="h", mode="live"))
    assert detail(order).doubts == ()
    take_in(order, Ended(at=T + 5, id=refund, effect=name, attempt=1, kind="unknown"))
    told = detail(order)
    assert told.hold_ids == ("h1", "address_incomplete") and len(told.holds) == 2
    assert [(m.effect, m.about, m.repeatable) for m in told.messages] == [(id, "", True), ("second", "", False)]
    assert [(d.effect, d.title) for d in told.doubts] == [(refund, "Payment refund pi")]


def test_what_was_only_observed_or_withdrawn_says_so() -> None:
    order = order_of(placed())
    take_in(order, Closed(at=T + 1, effects=("notify.email order_placed", "reference.link payment pi")))
    id = effect_id("lumi:7", "refund", "", "payment.refund")
    take_in(order, Offered(at=T + 2, id=id, action="payment.refund", milestone="refund"))
    take_in(order, Withdrawn(at=T + 3, id=id, effect="payment.refund refund", turns=1))
    take_in(order, TimerFired(at=T + 4, timer="delay"))
    told = detail(order)
    assert [m.outcome for m in told.messages] == ["observed"]
    assert titles(order) == [
        "Order placed",
        "Would have been done: these channels only observe",
        "Wanted: Payment refund",
        "Payment refund",
        "Waited for: delay",
    ]
    assert told.timeline[1].detail == ("E-mail “Order Placed”",)
    assert told.timeline[3].detail == ("no longer wanted",)


def test_only_the_detail_knows_the_person() -> None:
    told = detail(order_of(placed()))
    assert told.person is not None and told.person.email == PERSON.email
    story = repr(told.timeline) + repr(told.messages) + repr(told.holds)
    assert "ana@example" not in story and "Ana" not in story


def test_an_order_that_only_others_have_spoken_of_is_shown_too() -> None:
    scan = facts.ParcelScanned(**{**BASE, "system": "ups", "object": "s1"}, parcel="p1", tag=facts.Tracking.IN_TRANSIT, tracking="1Z")
    told = detail(order_of(scan))
    assert [m.title for m in told.timeline] == ["Parcel: In transit"]
    assert told.person is None and told.parcels[0].tracking == "1Z" and told.total == 0


RATES = Table(
    split_minor=150,
    unit_g=1000,
    locations=(Location("east"), Location("west")),
    rates=(
        Rate(carrier="ups", location="east", base_minor=400, per_kg_minor=50, transit_ms=2 * DAY),
        Rate(carrier="usps", location="west", service="express", base_minor=900, transit_ms=DAY),
    ),
)


def sourced_from(*more: Fact, **fields: object) -> tuple[str, ...]:
    both = (facts.Line(line="1", sku="LAMP", quantity=2), facts.Line(line="2", sku="SHADE", quantity=1))
    return detail(order_of(placed(lines=both, **fields), *more), Policy(sourcing=RATES)).sourcing


def short_of(line: str, location: str) -> facts.StockShort:
    its = {**BASE, "system": "stock", "object": f"{line}@{location}"}
    return facts.StockShort(**its, line=line, sku="LAMP", location=location, quantity=1)


def test_where_an_order_is_sourced_from_is_told_with_its_price_and_why() -> None:
    assert sourced_from() == (
        "From east by ups standard: 5.50\u00a0EUR, arrives by 16 Nov",
        "Why: the cheapest, 5.50\u00a0EUR in all",
    )
    assert sourced_from(promised=T + DAY + 1) == (
        "From west by usps express: 9.00\u00a0EUR, arrives by 15 Nov",
        "Why: the cheapest that arrives by 15 Nov, as promised, 9.00\u00a0EUR in all",
    )
    assert sourced_from(short_of("1", "east"), short_of("2", "west"), promised=T + 1) == (
        "1 of 3 items from east by ups standard: 4.50\u00a0EUR, arrives by 16 Nov",
        "2 of 3 items from west by usps express: 9.00\u00a0EUR, arrives by 15 Nov",
        "Why: nothing arrives by 14 Nov: the earliest, 15.00\u00a0EUR in all, with 1.50\u00a0EUR for the split",
    )
    waiting = [short_of("1", place) for place in ("east", "west")]
    assert sourced_from(*waiting)[0] == "From east by ups standard, once it is there: 5.50\u00a0EUR, arrives by 16 Nov"
    assert detail(order_of(placed())).sourcing == detail(order_of(placed()), Policy()).sourcing == ()
