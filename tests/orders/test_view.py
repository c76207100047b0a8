"""What facts amount to: money, parcels, cancellation, status."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from orders import fact as facts
from orders.decision import Decision
from orders.effect import effect_id
from orders.fact import Address, Fact, Quantity, Tracking
from orders.journal import Claimed, Decided, Ended, Offered, TimerFired, adopt
from orders.merge import merge
from orders.plan import plan
from orders.policy import Policy
from orders.state import Order
from orders.status import STATUS, WORDS, Status
from orders.view import View, strongest, view
from tests.orders.lives import (
    ANNA,
    DAY,
    EACH,
    HOUR,
    LIFE,
    MINUTE,
    ORDER,
    T0,
    authorized,
    cancel,
    captured,
    failed,
    hold,
    packed,
    paid,
    placed,
    refunded,
    release,
    reserved,
    review,
    scanned,
    short,
)


def order_of(*facts: Fact, verdict: str = "", fired: dict[str, int] | None = None) -> Order:
    order = Order(ORDER)
    for fact in facts:
        order = merge(order, fact)
    if verdict:
        decision = Decision(number=1, at=T0, verdict=verdict, by="model", knew=b"", since=T0)
        order = adopt(order, Decided(at=T0, decision=decision))
    for timer, at in (fired or {}).items():
        order = adopt(order, TimerFired(at=at, timer=timer))
    return order


def seen(*facts: Fact, **more: Any) -> View:
    return view(order_of(*facts, **more))


def test_a_life_walks_through_the_statuses_in_the_order_people_know() -> None:
    statuses = [seen(*LIFE[: i + 1], verdict="approve").status.value for i in range(len(LIFE))]
    assert statuses == [
        "order_placed",
        "payment_confirmed",
        "in_progress",
        "in_progress",
        "in_progress",
        "shipped",
        "out_for_delivery",
        "delivered",
    ]


# --- F-20: every state met by every fact
LIVES: dict[str, tuple[Fact, ...]] = {
    "nothing": (),
    "placed": (placed(),),
    "failed": (placed(), failed()),
    "paid": LIFE[:2],
    "reserved": LIFE[:4],
    "backordered": (*LIFE[:2], short()),
    "held": (*LIFE[:4], hold()),
    "shipped": LIFE[:6],
    "delivered": LIFE,
    "cancelled": (*LIFE[:4], cancel()),
    "refunded": (*LIFE[:2], cancel(), refunded(4999)),
    "returned": (*LIFE, next(f for f in EACH if isinstance(f, facts.ReturnReceived))),
    "retracted": (
        placed(),
        captured(),
        facts.FactRetracted(
            order=ORDER, system="staff", object="r", at=T0, target_system="shopify:lumi", target_object="1001", target_type="OrderPlaced"
        ),
    ),
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_every_state_takes_every_fact_and_has_one_status(life: tuple[Fact, ...]) -> None:
    for verdict, fact in itertools.product(("", "approve", "review", "decline"), EACH):
        order = order_of(*life, fact, verdict=verdict)
        v = view(order)
        assert isinstance(v.status, Status)
        assert (type(fact).__name__, fact.system, fact.object) in order.facts  # kept and shown, whatever it moved
        plan(v, order, Policy())


# What moves the status moves it: (life, fact, status afterwards).
MOVES: list[tuple[str, Fact, str]] = [
    ("nothing", placed(), "order_placed"),
    ("nothing", captured(), "announced"),
    ("placed", captured(), "payment_confirmed"),
    ("placed", paid(), "payment_confirmed"),
    ("placed", failed(), "payment_failed"),
    ("placed", authorized(), "order_placed"),
    ("placed", hold(), "on_hold"),
    ("placed", cancel(), "cancelled"),
    ("failed", captured(), "payment_confirmed"),
    ("paid", failed(), "payment_confirmed"),
    ("paid", reserved(), "in_progress"),
    ("paid", short(), "backordered"),
    ("paid", refunded(4999), "refunded"),
    ("paid", refunded(100), "payment_confirmed"),
    ("backordered", reserved(), "in_progress"),
    ("held", release("h1"), "in_progress"),
    ("held", release("h2"), "on_hold"),
    ("reserved", scanned(Tracking.LABEL_CREATED, T0 + DAY), "in_progress"),
    ("reserved", scanned(Tracking.IN_TRANSIT, T0 + DAY), "shipped"),
    ("reserved", scanned(Tracking.EXCEPTION, T0 + DAY), "exception"),
    ("shipped", scanned(Tracking.OUT_FOR_DELIVERY, T0 + 2 * DAY), "out_for_delivery"),
    ("shipped", scanned(Tracking.ATTEMPT_FAILED, T0 + 2 * DAY), "exception"),
    ("shipped", scanned(Tracking.LOST, T0 + 2 * DAY), "exception"),
    ("shipped", scanned(Tracking.RETURNED, T0 + 2 * DAY), "returned"),
    ("shipped", cancel(), "shipped"),
    ("delivered", scanned(Tracking.IN_TRANSIT, T0 + 3 * DAY), "delivered"),
    ("delivered", cancel(), "delivered"),
    ("delivered", refunded(4999), "refunded"),
    ("cancelled", captured(1), "cancelled"),
    ("cancelled", scanned(Tracking.IN_TRANSIT, T0 + DAY), "shipped"),
    ("refunded", paid(), "refunded"),
]


@pytest.mark.parametrize(("life", "fact", "status"), MOVES, ids=lambda x: type(x).__name__ if isinstance(x, Fact) else x)
def test_what_moves_the_status_moves_it_and_what_does_not_does_not(life: str, fact: Fact, status: str) -> None:
    assert seen(*LIVES[life], fact, verdict="approve").status.value == status


def test_every_status_of_the_table_is_reached_and_has_words() -> None:
    assert {status for _, status in STATUS} | {Status.ANNOUNCED} == set(Status)
    assert WORDS[Status.OUT_FOR_DELIVERY] == "Out for Delivery"


# --- money
def test_captures_are_summed_by_natural_key_and_a_statement_of_the_whole_is_never_added() -> None:
    v = seen(placed(), captured(2000), captured(2000), captured(2999, object="pi_2"), paid(4999))
    assert (v.captured, v.stated_paid, v.paid) == (4999, 4999, 4999)


def test_an_order_is_paid_in_full_when_the_captures_reach_its_total() -> None:
    v = seen(placed(), captured(2000, at=T0 + 1), captured(2999, at=T0 + 2, object="pi_2"))
    assert (v.paid_in_full, v.paid_at) == (True, T0 + 2)
    assert not seen(placed(), captured(4998)).paid_in_full


def test_the_latest_version_of_a_statement_wins() -> None:
    assert seen(placed(), paid(4999, version=1), paid(100, version=2, at=T0)).stated_paid == 100


def test_a_payment_in_another_currency_is_not_summed_but_shown() -> None:
    v = seen(placed(), captured(currency="USD"))
    assert (v.captured, v.currency_conflict) == (0, True)


def test_an_order_without_charge_or_on_invoice_needs_no_payment() -> None:
    assert seen(placed(total=0)).paid_in_full
    assert seen(placed(prepaid=True)).paid_in_full


def test_a_refund_in_part_keeps_the_state_and_the_full_one_makes_it_refunded_and_a_late_paid_changes_nothing() -> None:
    assert seen(*LIFE, refunded(1000), verdict="approve").status is Status.DELIVERED
    for arrival in itertools.permutations([placed(), captured(), refunded(4999), paid(at=T0 + 9 * DAY)]):
        assert seen(*arrival, verdict="approve").status is Status.REFUNDED


# --- parcels
ITEMS = (Quantity(line="1", quantity=2),), (Quantity(line="2", quantity=1),)


def test_three_items_in_two_parcels_go_by_parts() -> None:
    steps: tuple[Fact, ...] = (
        packed("P1", lines=ITEMS[0]),
        packed("P2", lines=ITEMS[1]),
        scanned(Tracking.IN_TRANSIT, T0 + DAY, "P1"),
        scanned(Tracking.IN_TRANSIT, T0 + DAY + 1, "P2"),
        scanned(Tracking.DELIVERED, T0 + 2 * DAY, "P1"),
        scanned(Tracking.DELIVERED, T0 + 3 * DAY, "P2"),
    )
    statuses = [seen(*LIFE[:4], *steps[:n], verdict="approve").status.value for n in range(3, 7)]
    assert statuses == ["partially_shipped", "shipped", "partially_delivered", "delivered"]


def test_a_line_that_was_cancelled_is_not_waited_for() -> None:
    gone = facts.LinesCancelled(order=ORDER, system="shopify:lumi", object="lc", at=T0 + 5, lines=ITEMS[1])
    v = seen(*LIFE[:4], gone, packed("P1", lines=ITEMS[0]), scanned(Tracking.DELIVERED, T0 + DAY), verdict="approve")
    assert v.status is Status.DELIVERED


def test_cancelling_every_line_cancels_the_order() -> None:
    gone = facts.LinesCancelled(order=ORDER, system="shopify:lumi", object="lc", at=T0 + 5, lines=(*ITEMS[0], *ITEMS[1]))
    assert seen(placed(), gone, verdict="approve").cancelled


def test_a_label_alone_has_not_shipped() -> None:
    v = seen(*LIFE[:4], scanned(Tracking.LABEL_CREATED, T0 + DAY), verdict="approve")
    assert (v.shipped_at, v.parcels["P1"].tracking) == (0, "1Z-P1")


# --- cancelling races with shipping
def test_of_a_cancellation_and_a_shipment_the_shipment_wins_in_every_order_and_both_are_recorded() -> None:
    race = (cancel(at=T0 + HOUR), scanned(Tracking.IN_TRANSIT, T0 + 2 * HOUR))
    for arrival in itertools.permutations([*LIFE[:2], *race]):
        v = seen(*arrival, verdict="approve")
        assert (v.cancelled, v.cancel_too_late, v.status) == (False, True, Status.SHIPPED)
        assert v.cancel_at == T0 + HOUR


# --- holds and people
def test_a_person_who_approves_outranks_every_score_earlier_or_later() -> None:
    for verdict in ("review", "decline", "approve"):
        v = seen(*LIFE[:2], review(True), verdict=verdict)
        assert (v.holds, v.verdict, v.verdict_by) == ({}, "approve", "person")
        assert seen(*LIFE[:2], release("review"), verdict=verdict).holds == {}


def test_a_person_who_declines_cancels() -> None:
    v = seen(*LIFE[:2], review(False), verdict="approve")
    assert (v.declined, v.cancelled, v.status) == (True, True, Status.CANCELLED)


def test_of_two_verdicts_of_people_the_later_one_counts_in_any_arrival() -> None:
    said = (review(True, at=T0 + 1), review(False, at=T0 + 2, object="rev-2"))
    for arrival in itertools.permutations([placed(), *said]):
        assert seen(*arrival).verdict == "decline"


def test_a_model_that_declines_alone_holds_until_it_has_settled() -> None:
    v = seen(*LIFE[:2], verdict="decline")
    assert (v.status, v.cancelled, list(v.holds)) == (Status.ON_HOLD, False, ["decline"])
    v = seen(*LIFE[:2], verdict="decline", fired={f"decline {T0}": T0 + 15 * MINUTE})
    assert (v.status, v.cancelled) == (Status.CANCELLED, True)


def test_an_incomplete_address_holds_until_it_is_corrected_or_a_person_lets_it_go() -> None:
    nowhere = msgspec.structs.replace(ANNA, address=Address(lines=("Hauptstr. 5",), city="Berlin", country="DE"))
    v = seen(placed(person=nowhere), verdict="approve")
    assert (v.address_missing, v.status, dict(v.holds)) == (("postcode",), Status.ON_HOLD, {"address_incomplete": "address_incomplete"})
    corrected = facts.AddressCorrected(order=ORDER, system="shopify:lumi", object="a1", at=T0 + HOUR, person=ANNA)
    assert seen(placed(person=nowhere), corrected, verdict="approve").holds == {}
    assert seen(corrected, placed(person=nowhere, at=T0 + 2 * HOUR), verdict="approve").holds == {}
    assert seen(placed(person=nowhere), release("address_incomplete"), verdict="approve").holds == {}


def test_a_parked_report_makes_the_order_incomplete_until_it_is_dealt_with() -> None:
    parked = next(f for f in EACH if isinstance(f, facts.FactParked))
    unparked = next(f for f in EACH if isinstance(f, facts.FactUnparked))
    assert seen(placed(), parked).parked == ("bad-1",)
    for arrival in itertools.permutations([placed(), parked, unparked]):
        assert not seen(*arrival).incomplete


# --- one parcel under several names
BOUGHT = "carrier.label packed P1"


def bought(*facts: Fact, reference: str = "UPS 1Z9 0a1b", kind: str = "sent", voided: bool = False) -> Order:
    order = order_of(*facts)
    for action, milestone, end, said in (
        ("carrier.label", "packed", kind, reference),
        *([("carrier.void", "cancelled", "sent", "")] if voided else []),
    ):
        name, id = f"{action} {milestone} P1", effect_id(ORDER, milestone, "P1", action)
        order = adopt(order, Offered(at=T0, id=id, action=action, milestone=milestone, instance="P1"))
        order = adopt(order, Claimed(at=T0, id=id, effect=name, attempt=1, deadline=T0 + 9, body_hash="h", mode="live"))
        order = adopt(order, Ended(at=T0 + 1, id=id, effect=name, attempt=1, kind=end, reference=said))
    return order


def test_a_label_names_carrier_number_and_file_where_no_fact_told_otherwise() -> None:
    p = view(bought(placed(), packed())).parcels["P1"]
    assert (p.carrier, p.tracking, p.label, p.shipped_at) == ("UPS", "1Z9", "0a1b", 0)
    p = view(bought(placed(), packed(), scanned(Tracking.IN_TRANSIT, T0 + DAY, tracking="USPS-7", carrier="USPS"))).parcels["P1"]
    assert (p.carrier, p.tracking, p.label) == ("USPS", "USPS-7", "0a1b")


@pytest.mark.parametrize("more", [{"reference": "sandbox"}, {"reference": ""}, {"kind": "unknown"}, {"kind": "rejected"}, {"voided": True}])
def test_without_a_label_there_is_no_number(more: dict[str, Any]) -> None:
    p = view(bought(placed(), packed(), **more)).parcels["P1"]
    assert (p.carrier, p.tracking, p.label) == ("", "", "")


def test_a_label_that_could_not_be_kept_has_its_number_all_the_same() -> None:
    p = view(bought(placed(), packed(), reference="UPS 1Z9")).parcels["P1"]
    assert (p.tracking, p.label) == ("1Z9", "")


def test_scans_of_a_number_are_of_the_parcel_that_has_it_whoever_names_it_how() -> None:
    shop = [packed("F7"), scanned(Tracking.LABEL_CREATED, T0 + HOUR, parcel="F7", tracking="1Z9")]
    carrier = scanned(Tracking.DELIVERED, T0 + DAY, parcel="1Z9", tracking="1Z9")
    assert [p.id for p in view(order_of(placed(), *shop, carrier)).parcels.values()] == ["F7"]
    early = scanned(Tracking.IN_TRANSIT, T0 + MINUTE, parcel="1Z9", tracking="1Z9")
    v = view(order_of(placed(), *shop, early, carrier))
    assert [(p.id, p.packed_at > 0, p.delivered_at > 0) for p in v.parcels.values()] == [("1Z9", True, True)]
    assert v.all_delivered
    for told in ([*shop, early, carrier], [early, *shop, carrier], [*shop, carrier]):
        assert list(view(bought(placed(), packed(at=T0 + 2 * HOUR), *told)).parcels) == ["P1"], (
            "it keeps the name its label was bought under"
        )
    other = scanned(Tracking.IN_TRANSIT, T0 + DAY, parcel="1Z8", tracking="1Z8")
    assert len(view(bought(placed(), packed(), other)).parcels) == 2


def test_what_is_said_of_a_voided_number_makes_no_second_parcel() -> None:
    paper = scanned(Tracking.LABEL_CREATED, T0 + HOUR, parcel="1Z9", tracking="1Z9")
    assert list(view(bought(placed(), packed(), paper, voided=True)).parcels) == ["P1"]


def test_a_signal_that_only_one_tells_is_as_that_one_says() -> None:
    assert strongest({"a": -5.0}, {"b": 1.0}) == {"a": -5.0, "b": 1.0}
    assert strongest({"a": 1.0}, {"a": 3.0, "b": 0.0}) == strongest({"a": 3.0, "b": 0.0}, {"a": 1.0}) == {"a": 3.0, "b": 0.0}
