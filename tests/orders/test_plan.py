"""What is wanted, when it may be claimed, and what leaves."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from messages.template import FIELDS, WORDING
from orders import fact as facts
from orders.decision import Decision
from orders.effect import Attempt, Effect, effect_id
from orders.fact import Address, Fact, Line, Quantity, Tracking
from orders.journal import Claimed, Decided, Ended, Offered, adopt
from orders.merge import merge
from orders.plan import TEAMS, answered, body, guard, message, plan, products, repeat_at, request, retry_at, signed, turn
from orders.policy import TRIGGERS, Policy, Trigger
from orders.request import MessageRequested, StockCheckRequested, StockReleaseRequested, StockRequested
from orders.sourcing import Location, Rate, Table
from orders.state import Order, parts
from orders.view import view
from tests.orders.lives import (
    ANNA,
    DAY,
    EACH,
    HOUR,
    LAMP,
    LIFE,
    ORDER,
    SHADE,
    T0,
    authorized,
    cancel,
    captured,
    failed,
    hold,
    packed,
    picked,
    placed,
    refunded,
    release,
    reserved,
    scanned,
    scarce,
    short,
)
from tests.orders.test_view import order_of

POLICY = Policy()


def wants(*facts: Fact, verdict: str = "approve", policy: Policy = POLICY, **more: Any) -> set[str]:
    order = order_of(*facts, verdict=verdict, **more)
    return set(plan(view(order), order, policy).effects)


def timers(*facts: Fact, verdict: str = "approve", **more: Any) -> dict[str, int]:
    order = order_of(*facts, verdict=verdict, **more)
    return plan(view(order), order, POLICY).timers


def test_a_life_wants_what_the_shop_promised_its_customer() -> None:
    assert wants(*LIFE) == {
        "notify.email order_placed",
        "notify.email payment_confirmed",
        "notify.email shipped P1",
        "notify.sms shipped P1",
        "notify.push shipped P1",
        "notify.push out_for_delivery P1",
        "notify.email delivered",
        "notify.push delivered",
        "reference.link payment pi_1",
        "reference.link tracking 1Z-P1",
        "stock.reserve paid 1",
        "stock.reserve paid 2",
        "stock.ship shipped reserve-1",
        "stock.ship shipped reserve-2",
    }


def test_repeated_scans_of_one_tag_want_one_message() -> None:
    again = [scanned(Tracking.OUT_FOR_DELIVERY, T0 + 2 * DAY + i, object=f"scan-{i}") for i in range(3)]
    assert [name for name in wants(*LIFE[:6], *again) if "out_for_delivery" in name] == ["notify.push out_for_delivery P1"]


def test_disabling_one_cell_of_the_table_stops_just_that_message() -> None:
    for cell in TRIGGERS:
        fewer = Policy(triggers=tuple(t for t in TRIGGERS if t != cell))
        gone = wants(*LIFE) - wants(*LIFE, policy=fewer)
        assert gone == {name for name in wants(*LIFE) if name.startswith(f"notify.{cell.channel} {cell.milestone}")}


def test_history_is_linked_and_shown_and_sends_nothing() -> None:
    past = [msgspec.structs.replace(fact, backfilled=True) for fact in (*LIFE, refunded(100))]
    assert {name.partition(" ")[0] for name in wants(*past)} == {"reference.link"}
    assert timers(*past) == {"retire": past[-1].at + POLICY.retire_after_ms}


def test_an_order_whose_shop_numbers_it_otherwise_than_its_id_is_linked_to_its_number() -> None:
    order = order_of(placed(number="B-77"), verdict="approve")
    v = view(order)
    (name,) = (name for name in plan(v, order, POLICY).effects if name.startswith("reference.link"))
    topic, key, link = request(name, "id", v, order, POLICY, T0)
    assert (topic, key) == ("references", "number:B-77")
    assert (link.kind, link.value, link.order) == ("number", "B-77", ORDER)  # type: ignore[attr-defined]


def test_nothing_but_links_is_wanted_before_the_shop_has_spoken() -> None:
    assert wants(*LIFE[1:6], verdict="") == {"reference.link payment pi_1"}


def test_stock_is_asked_for_once_the_money_is_safe_and_nobody_declined() -> None:
    assert "stock.reserve paid 1" not in wants(placed())
    assert "stock.reserve paid 1" in wants(placed(), authorized())
    assert "stock.reserve paid 1" in wants(placed(), captured(), verdict="review")
    for verdict in ("", "decline"):
        assert "stock.reserve paid 1" not in wants(placed(), captured(), verdict=verdict)


# --- picking
def test_until_the_payment_is_there_stock_is_asked_whether_it_would_have_enough() -> None:
    def checks(*facts: Fact, **more: Any) -> set[str]:
        return {name for name in wants(*facts, **more) if name.startswith("stock.check")}

    assert checks(placed()) == {"stock.check placed 1", "stock.check placed 2"}
    for known in ([captured()], [authorized()], [cancel()], [scanned(Tracking.IN_TRANSIT, T0 + HOUR)]):
        assert checks(placed(), *known) == set()
    assert checks(placed(not_applicable=("stock",))) == checks(placed(prepaid=True)) == checks(placed(), verdict="decline") == set()
    assert checks(placed(backfilled=True)) == set()


def test_the_inventory_team_is_told_as_soon_as_stock_says_that_it_has_not_enough() -> None:
    notice = "team.notice stock_shortage_risk"
    assert notice not in wants(placed())
    assert notice in wants(placed(), scarce())
    assert not {notice, *POLICY.messages.backordered} & wants(placed(), scarce(), captured()), "the reservation answers for itself"
    assert not set(POLICY.messages.backordered) & wants(placed(), scarce()), "nothing of it is promised or refused to the customer"


def test_where_there_is_a_table_of_rates_every_place_that_could_send_a_line_is_asked() -> None:
    rates = [Rate(carrier="ups", location=name, base_minor=500, transit_ms=DAY) for name in ("east", "main")]
    sourced = Policy(sourcing=Table(locations=(Location("main"), Location("east")), rates=tuple(rates)))
    asked = {name for name in wants(placed(), policy=sourced) if name.startswith("stock.check")}
    assert asked == {f"stock.check sourced {location}/{line}" for location in ("east", "main") for line in "12"}
    order = order_of(placed())
    topic, key, record = request("stock.check sourced east/2", "", view(order), order, sourced, T0)
    assert (topic, key) == ("stock", f"{SHADE.sku}@east") and isinstance(record, StockCheckRequested)
    assert (record.line, record.quantity) == ("2", SHADE.quantity)
    notice = "team.notice stock_shortage_risk"
    assert notice not in wants(placed(), scarce(), scarce(SHADE, "east"), policy=sourced)
    assert notice in wants(placed(), scarce(), scarce(location="east"), policy=sourced)


def test_picking_follows_only_from_reservations_of_every_line_at_each_location() -> None:
    assert not [n for n in wants(*LIFE[:3]) if "pick" in n]
    picks = [n for n in wants(*LIFE[:2], reserved(LAMP), reserved(SHADE, location="attic")) if "pick" in n]
    assert sorted(picks) == ["warehouse.pick in_progress attic", "warehouse.pick in_progress main"]
    assert not [n for n in wants(*LIFE[:2], reserved(LAMP), short(SHADE)) if "pick" in n]
    assert not [n for n in wants(placed(), reserved(LAMP), reserved(SHADE)) if "pick" in n]  # not paid


def _effect(name: str, **more: Any) -> Effect:
    action, milestone, instance = parts(name)
    return Effect(effect_id(ORDER, milestone, instance, action), action, milestone, instance, T0, **more)


def _guarded(name: str, *facts: Fact, verdict: str = "approve") -> str:
    order = order_of(*facts, verdict=verdict)
    return guard(_effect(name), view(order), order)


PARKED = next(f for f in EACH if isinstance(f, facts.FactParked))


@pytest.mark.parametrize("name", ["warehouse.pick in_progress main", "carrier.label packed P1"])
def test_pick_and_label_wait_for_holds_reviews_missing_reports_and_addresses(name: str) -> None:
    ready = (*LIFE[:5],)
    nowhere = placed(person=msgspec.structs.replace(ANNA, address=Address(country="DE")))
    assert _guarded(name, *ready) == ""
    assert _guarded(name, *ready, hold()) == "held"
    assert _guarded(name, *ready, hold(), release("h1")) == ""
    assert _guarded(name, *ready, PARKED) == "incomplete"
    assert _guarded(name, nowhere, *ready[1:]) == "held"
    assert _guarded(name, *ready, verdict="review") == "held"
    assert _guarded(name, *ready, verdict="decline") == "held"
    assert _guarded(name, *ready, verdict="") == "undecided"
    assert _guarded(name, *ready, cancel()) == "cancelled"
    assert _guarded(name, *LIFE[:6]) == "shipped"


def test_a_refund_waits_for_reports_that_could_not_be_read() -> None:
    assert _guarded("payment.refund cancelled pi_1", *LIFE[:2], cancel()) == ""
    assert _guarded("payment.refund cancelled pi_1", *LIFE[:2], cancel(), PARKED) == "incomplete"
    assert _guarded("payment.refund cancelled pi_1", *LIFE[:2]) == "not_cancelled"


def test_an_urgent_order_that_came_last_is_picked_first_but_nobody_waits_longer_than_allowed() -> None:
    def turn_of(at: int, priority: int) -> int:
        order = order_of(placed(at=at), captured(at=at))
        decision = Decision(number=1, at=at, verdict="approve", by="model", knew=b"", since=at, priority=priority)
        order = adopt(order, Decided(at=at, decision=decision))
        return turn(view(order), POLICY)

    standard = turn_of(T0, 0)
    assert turn_of(T0 + 3 * HOUR, 10_000) < standard  # express, VIP, entered last
    assert turn_of(T0 + 3 * HOUR, 5_000) > standard
    assert turn_of(T0 + POLICY.overtake_ms + 1, 10_000) > standard  # starvation ends here


# --- cancelling
def test_cancelling_before_the_pick_releases_refunds_voids_and_says_so_once() -> None:
    labelled = scanned(Tracking.LABEL_CREATED, T0 + 2 * HOUR)
    assert wants(*LIFE[:5], labelled, cancel(at=T0 + 3 * HOUR)) == {
        "notify.email cancelled",
        "payment.refund cancelled pi_1",
        "carrier.void cancelled P1",
        "stock.release cancelled reserve-1",
        "stock.release cancelled reserve-2",
        "reference.link payment pi_1",
        "reference.link tracking 1Z-P1",
    }


def test_a_cancelled_order_is_refunded_what_is_still_out_per_payment() -> None:
    order = order_of(placed(), captured(3000), captured(1999, object="pi_2"), refunded(1000), cancel(), verdict="approve")
    v = view(order)
    assert {n for n in plan(v, order, POLICY).effects if "refund " in n} == {
        "payment.refund cancelled pi_1",
        "payment.refund cancelled pi_2",
    }
    sent = msgspec.json.decode(body(_effect("payment.refund cancelled pi_1"), v, order, POLICY))
    assert sent["data"]["amount"] == 3000
    assert sent["data"]["currency"] == "EUR"
    assert not [n for n in wants(placed(), captured(), cancel(), refunded(4999)) if n.startswith("payment.refund")]


def test_a_cancellation_that_came_too_late_undoes_nothing() -> None:
    undoing = ("stock.release", "payment.refund", "carrier.void", "notify.email cancelled")
    assert not [n for n in wants(*LIFE[:6], cancel()) if n.startswith(undoing)]


def test_the_warehouse_is_told_when_its_pick_was_for_nothing() -> None:
    picked = facts.ItemsPicked(order=ORDER, system="wms:lumi", object="p", at=T0 + HOUR, location="main")
    assert "team.notice cancelled_after_pick" in wants(*LIFE[:4], picked, cancel(at=T0 + 2 * HOUR))


def test_a_void_waits_until_the_label_it_undoes_is_told_of() -> None:
    label = _effect("carrier.label packed P1")
    order = order_of(*LIFE[:5], cancel(), verdict="approve")
    order = adopt(order, Offered(at=T0, id=label.id, action="carrier.label", milestone="packed", instance="P1"))
    order = adopt(
        order, Claimed(at=T0, id=label.id, effect="carrier.label packed P1", attempt=1, deadline=T0 + 9, body_hash="h", mode="live")
    )
    void = _effect("carrier.void cancelled P1", undoes=label.id)
    assert guard(void, view(order), order) == "undoes_open"
    for kind, blocked in (("unknown", "undoes_open"), ("sent", "")):
        order = adopt(order, Ended(at=T0, id=label.id, effect="carrier.label packed P1", attempt=1, kind=kind))
        assert guard(void, view(order), order) == blocked


def test_a_label_that_was_never_bought_is_not_voided() -> None:
    label = _effect("carrier.label packed P1")
    order = order_of(*LIFE[:5], cancel(), verdict="approve")
    order = adopt(order, Offered(at=T0, id=label.id, action="carrier.label", milestone="packed", instance="P1"))
    order = adopt(
        order, Claimed(at=T0, id=label.id, effect="carrier.label packed P1", attempt=1, deadline=T0 + 9, body_hash="h", mode="live")
    )
    assert "carrier.void cancelled P1" in plan(view(order), order, POLICY).effects  # it may have been
    for kind in ("retryable", "rejected"):
        ended = adopt(order, Ended(at=T0, id=label.id, effect="carrier.label packed P1", attempt=1, kind=kind))
        assert "carrier.void cancelled P1" not in plan(view(ended), ended, POLICY).effects


def test_a_fact_that_says_it_is_done_answers_an_effect_of_which_nobody_told() -> None:
    done = order_of(*LIFE[:5], picked(), scanned(Tracking.LABEL_CREATED, T0 + HOUR), refunded(4999), verdict="approve")
    undone = order_of(*LIFE[:5], verdict="approve")
    for name in ("warehouse.pick in_progress main", "carrier.label packed P1", "payment.refund cancelled pi_1"):
        assert answered(_effect(name), view(done))
        assert not answered(_effect(name), view(undone))


def test_a_released_reservation_that_is_wanted_again_is_asked_for_under_another_name() -> None:
    given_back = facts.StockReleased(
        order=ORDER, system="stock", object="reserve-1", at=T0 + HOUR, line="1", sku="LAMP-1", location="main", quantity=2
    )
    names = wants(*LIFE[:3], given_back)
    assert "stock.reserve paid 1~1" in names
    assert "stock.reserve paid 1" not in names


# --- payment trouble
def test_a_failed_payment_asks_the_customer_and_a_second_one_finance_and_a_success_ends_both() -> None:
    once, twice = failed(), failed(at=T0 + HOUR, object="pi_x")
    assert wants(placed(), once) & {"notify.email payment_failed", "team.notice payment_problem"} == {"notify.email payment_failed"}
    assert {"notify.email payment_failed", "team.notice payment_problem"} <= wants(placed(), once, twice)
    assert not {"notify.email payment_failed", "team.notice payment_problem"} & wants(placed(), once, twice, captured())


def test_every_notice_has_a_team() -> None:
    everything = set().union(*(wants(*LIFE[:n], *extra) for n in range(9) for extra in itertools.combinations(EACH, 2)))
    notices = {parts(name)[1] for name in everything if name.startswith("team.notice")}
    assert {"contradiction", "exception", "dispute", "stock_shortage_risk"} <= notices <= TEAMS.keys()


# --- holds
def test_the_team_is_told_of_each_hold_that_somebody_places_until_it_is_released() -> None:
    def told(*facts: Fact) -> set[str]:
        return {name for name in wants(placed(), captured(), *facts) if name.startswith("team.notice")}

    assert told() == set()
    assert told(hold()) == {"team.notice hold h1"}
    assert told(hold(), hold(object="h2"), release("h1")) == {"team.notice hold h2"}


# --- reviews that nobody makes
LATE, EXPIRED, CANCEL = (f"review_{step} {T0}" for step in ("late", "expired", "cancel"))
CANCELLING = Policy(review_expiry="cancel")


def test_a_review_that_nobody_makes_is_told_of_twice_and_never_approved() -> None:
    def told(*fired: str) -> set[str]:
        wanted = wants(placed(), captured(), verdict="review", fired=dict.fromkeys(fired, T0))
        assert "warehouse.pick in_progress main" not in wanted
        return {name.removeprefix("team.notice ") for name in wanted if name.startswith("team.notice")}

    assert timers(placed(), verdict="review")[LATE] == T0 + POLICY.review_sla_ms
    assert timers(placed(), verdict="review", fired={LATE: T0})[EXPIRED] == T0 + 2 * POLICY.review_sla_ms
    assert told() == {"review"}
    assert told(LATE) == {"review", "review_overdue"}
    assert told(LATE, EXPIRED) == {"review", "review_overdue", "review_expired"}


def test_a_review_that_nobody_makes_cancels_the_order_where_the_shop_says_so() -> None:
    def at(*fired: str, facts: tuple[Fact, ...] = ()) -> tuple[bool, set[str], dict[str, int]]:
        order = order_of(placed(), captured(), *facts, verdict="review", fired=dict.fromkeys(fired, T0 + HOUR))
        v = view(order)
        wanted = plan(v, order, CANCELLING)
        return v.cancelled, set(wanted.effects), wanted.timers

    cancelled, effects, due = at(LATE)
    assert not cancelled and "team.notice review_overdue" in effects and due[CANCEL] == T0 + 2 * CANCELLING.review_sla_ms
    cancelled, effects, due = at(LATE, CANCEL)
    assert cancelled and {"notify.email cancelled", "payment.refund cancelled pi_1"} <= effects and CANCEL not in due
    for saved in (release("review"), LIFE[5]):  # a person let it go; it has left
        cancelled, effects, _ = at(LATE, CANCEL, facts=(saved,))
        assert not cancelled and not {name for name in effects if "cancelled" in name or "review_" in name}
        assert not view(order_of(placed(), captured(), saved, verdict="review", fired=dict.fromkeys((LATE, CANCEL), T0))).cancel_too_late


@pytest.mark.parametrize("over", [release("review"), LIFE[5], cancel()], ids=["released", "shipped", "cancelled"])
def test_who_needs_no_review_any_more_is_not_escalated(over: Fact) -> None:
    assert not {timer for timer in timers(placed(), over, verdict="review") if timer.startswith("review")}
    assert "team.notice review_overdue" not in wants(placed(), over, verdict="review", fired={LATE: T0})


def test_no_policy_approves_what_nobody_looked_at() -> None:
    with pytest.raises(ValueError, match="review_expiry is hold or cancel"):
        Policy(review_expiry="approve")


# --- timers
def test_a_model_that_declines_waits_its_settle_time() -> None:
    assert timers(placed(), verdict="decline") == {f"decline {T0}": T0 + POLICY.settle_ms, "delay": T0 + 5 * DAY}
    settled = {f"decline {T0}": T0 + POLICY.settle_ms}
    assert "payment.refund cancelled pi_1" in wants(placed(), captured(), verdict="decline", fired=settled)


ETA = {"eta_from": T0 + 2 * DAY, "eta_until": T0 + 2 * DAY + 4 * HOUR}


def test_a_delivery_reminder_needs_a_window_moves_with_it_and_ends_with_the_delivery() -> None:
    moved = scanned(Tracking.IN_TRANSIT, T0 + DAY, **ETA)
    assert timers(*LIFE[:5], moved)["delivery_reminder P1"] == ETA["eta_from"] - POLICY.reminder_lead_ms
    later = scanned(Tracking.IN_TRANSIT, T0 + DAY + HOUR, eta_from=T0 + 3 * DAY, eta_until=T0 + 3 * DAY + HOUR)
    assert timers(*LIFE[:5], moved, later)["delivery_reminder P1"] == T0 + 3 * DAY - POLICY.reminder_lead_ms
    assert "delivery_reminder P1" not in timers(*LIFE)
    assert "delivery_reminder P1" not in timers(*LIFE[:6])
    fired = {"delivery_reminder P1": T0}
    assert "notify.sms delivery_reminder P1" in wants(*LIFE[:5], moved, fired=fired)
    assert "notify.sms delivery_reminder P1" not in wants(*LIFE[:5], moved, LIFE[7], fired=fired)


def test_feedback_is_asked_for_some_days_after_delivery_unless_it_came_back() -> None:
    assert timers(*LIFE)["feedback"] == LIFE[7].at + POLICY.feedback_after_ms
    assert "notify.email feedback" in wants(*LIFE, fired={"feedback": T0})
    returned = facts.ReturnReceived(order=ORDER, system="wms:lumi", object="r", at=T0 + 3 * DAY, lines=(Quantity(line="2", quantity=1),))
    assert "feedback" not in timers(*LIFE, returned)


def test_a_promise_that_passes_without_delivery_is_followed_by_a_word() -> None:
    assert timers(placed())["delay"] == T0 + 5 * DAY
    assert "notify.email delay" in wants(placed(), fired={"delay": T0 + 5 * DAY})
    assert "notify.email delay" not in wants(*LIFE, fired={"delay": T0 + 5 * DAY})


def test_a_request_is_repeated_at_growing_distances_from_its_offer() -> None:
    effect = _effect("stock.reserve paid 1")
    at, times = T0, []
    for _ in range(8):
        at = repeat_at(effect, POLICY, at)
        times.append((at - T0) // HOUR)
    assert times == [1, 2, 4, 8, 16, 24, 48, 72]
    assert repeat_at(effect, POLICY, T0 + 1000 * DAY + 1) == T0 + 1001 * DAY


def test_a_retry_waits_as_long_as_the_provider_asked_and_longer_each_time() -> None:
    def made(n: int, after: int = 0) -> Effect:
        return _effect("team.notice review", attempts=tuple(Attempt(i + 1, T0, T0, "h", "retryable", T0, after) for i in range(n)))

    assert [(retry_at(made(n), POLICY) - T0) // 1000 for n in range(1, 5)] == [10, 20, 40, 80]
    assert retry_at(made(20), POLICY) == T0 + POLICY.retry_most_ms
    assert retry_at(made(1, after=T0 + DAY), POLICY) == T0 + DAY


# --- what leaves
def _message(name: str, order: Order) -> MessageRequested:
    action, milestone, instance = parts(name)
    return message(name, effect_id(order.id, milestone, instance, action), view(order), order, POLICY, T0 + 9)


def test_every_message_of_the_table_carries_every_field_its_template_needs() -> None:
    nowhere = placed(person=msgspec.structs.replace(ANNA, address=Address(country="DE")))
    fired = {"delay": T0, "feedback": T0, "delivery_reminder P1": T0}
    orders = [
        order_of(*LIFE[:5], scanned(Tracking.IN_TRANSIT, T0 + DAY, **ETA), verdict="approve", fired=fired),
        order_of(*LIFE, refunded(100), verdict="approve", fired=fired),
        order_of(*LIFE, verdict="approve", fired=fired),
        order_of(placed(), failed(), verdict="approve", fired=fired),
        order_of(placed(), captured(), cancel(), verdict="approve"),
        order_of(placed(), captured(), short(), verdict="approve"),
        order_of(nowhere, verdict="approve"),
    ]
    said = set()
    for order in orders:
        for name in plan(view(order), order, POLICY).effects:
            if name.startswith("notify."):
                sent = _message(name, order)
                missing = set(FIELDS[(sent.template, sent.channel)]) - sent.fields.keys()
                assert not missing, f"{name} lacks {missing}"
                assert all(sent.fields.values())
                assert (sent.order, sent.customer, sent.person.email) == (ORDER, "lumi:77", ANNA.email)
                assert T0 <= sent.milestone_at < sent.expires
                said.add((parts(name)[1], sent.channel))
    assert said == {(t.milestone, t.channel) for t in TRIGGERS}
    assert {(t.template, t.channel) for t in TRIGGERS} <= WORDING.keys()


def test_a_request_travels_as_json_that_the_other_lane_reads() -> None:
    order = order_of(*LIFE, verdict="approve")
    topic, key, sent = request("notify.email shipped P1", "id", view(order), order, POLICY, T0)
    assert (topic, key) == ("customers", "lumi:77")
    assert msgspec.json.decode(msgspec.json.encode(sent), type=MessageRequested) == sent
    assert isinstance(sent, MessageRequested)
    assert sent.person == ANNA
    assert sent.fields["carrier"] == "UPS"
    assert sent.fields["product_name"] == "Desk lamp and Linen shade"


def test_shipping_without_a_tracking_number_says_so_by_leaving_the_field_out() -> None:
    order = order_of(*LIFE[:5], scanned(Tracking.IN_TRANSIT, T0 + DAY, tracking=""), verdict="approve")
    assert "tracking_number" not in _message("notify.email shipped P1", order).fields


def test_a_mail_names_the_items_of_its_parcel() -> None:
    order = order_of(
        *LIFE[:4], packed("P2", lines=(Quantity(line="2", quantity=1),)), scanned(Tracking.IN_TRANSIT, T0 + DAY, "P2"), verdict="approve"
    )
    assert _message("notify.email shipped P2", order).fields["product_name"] == "Linen shade"


# --- how things stand: what chooses between the published words and others
LAMPS, SHADES = (Quantity(line="1", quantity=2),), (Quantity(line="2", quantity=1),)
MOVES = scanned(Tracking.IN_TRANSIT, T0 + DAY)
SPLIT = (*LIFE[:4], packed(lines=LAMPS), packed("P2", lines=SHADES))
COUNTER = placed(not_applicable=("address",))
PLACED_STATES: list[tuple[tuple[Fact, ...], dict[str, str]]] = [
    ((placed(),), {}),
    ((placed(), failed()), {}),
    ((placed(), authorized()), {}),
    ((placed(), captured(100)), {"state": "part_paid"}),
    ((placed(), captured(currency="USD")), {"state": "part_paid"}),
    ((placed(), captured()), {"state": "paid", "ships": "yes"}),
    ((COUNTER, captured()), {"state": "paid"}),
    ((placed(prepaid=True),), {"state": "free", "ships": "yes"}),
    ((placed(total=0),), {"state": "free", "ships": "yes"}),
    ((placed(), MOVES), {"state": "shipped"}),
    ((*SPLIT, MOVES), {"state": "part_shipped"}),
    ((placed(), scanned(Tracking.LOST, T0 + DAY)), {"state": "placed"}),
    (LIFE, {"state": "delivered"}),
    ((placed(), captured(), refunded(4999)), {"state": "placed"}),
    ((placed(), captured(), cancel()), {"state": "cancelled"}),
]


def _stands(name: str, *facts: Fact, verdict: str = "approve", policy: Policy = POLICY) -> dict[str, str]:
    order = order_of(*facts, verdict=verdict)
    fields = message(name, "id", view(order), order, policy, T0).fields
    return {field: fields[field] for field in ("state", "ships", "part", "part_name") if field in fields}


@pytest.mark.parametrize(("facts", "stands"), PLACED_STATES)
def test_the_mail_that_an_order_was_placed_says_how_far_it_is(facts: tuple[Fact, ...], stands: dict[str, str]) -> None:
    assert _stands("notify.email order_placed", *facts) == stands


def test_no_further_mail_is_promised_where_none_is_sent() -> None:
    silent = Policy(triggers=tuple(t for t in TRIGGERS if t.milestone != "shipped"))
    assert _stands("notify.email order_placed", placed(), captured(), policy=silent) == {"state": "paid"}


@pytest.mark.parametrize(
    ("facts", "verdict", "state"),
    [
        (LIFE[:2], "approve", ""),
        (LIFE[:5], "approve", ""),
        (LIFE[:2], "review", "held"),
        ((*LIFE[:2], hold()), "approve", "held"),
        ((*LIFE[:2], hold(), release("h1")), "approve", ""),
        ((*LIFE[:2], short()), "approve", "backordered"),
        ((*LIFE[:2], PARKED), "approve", "incomplete"),
        ((*LIFE[:2], cancel()), "approve", "cancelled"),
        ((*LIFE[:2], refunded(4999)), "approve", "refunded"),
        ((COUNTER, captured()), "approve", "fetched"),
        (LIFE[:6], "approve", "shipped"),
    ],
)
def test_a_confirmed_payment_says_that_items_are_prepared_only_while_they_are(facts: tuple[Fact, ...], verdict: str, state: str) -> None:
    assert _stands("notify.email payment_confirmed", *facts, verdict=verdict).get("state", "") == state


@pytest.mark.parametrize(
    ("tag", "mail", "shipped", "out"),
    [
        (Tracking.IN_TRANSIT, "", "", "past"),
        (Tracking.OUT_FOR_DELIVERY, "", "past", ""),
        (Tracking.DELIVERED, "delivered", "past", "past"),
        (Tracking.ATTEMPT_FAILED, "troubled", "past", "past"),
        (Tracking.RETURNED, "troubled", "past", "past"),
        (Tracking.UNKNOWN, "", "", "past"),
    ],
)
def test_what_is_said_of_a_parcel_follows_its_latest_scan(tag: Tracking, mail: str, shipped: str, out: str) -> None:
    life = (*LIFE[:5], MOVES, scanned(tag, T0 + 2 * DAY))
    names = ("notify.email shipped P1", "notify.push shipped P1", "notify.push out_for_delivery P1")
    assert tuple(_stands(name, *life).get("state", "") for name in names) == (mail, shipped, out)
    assert _stands("notify.sms shipped P1", *life) == {}, "it has shipped, whatever came then"


def test_a_push_says_is_now_only_while_it_is() -> None:
    pushes = Policy(triggers=tuple(Trigger(m, "push", m) for m in ("payment_confirmed", "in_progress", "refunded", "cancelled")))
    for name, life, state in (
        ("payment_confirmed", LIFE[:2], None),
        ("payment_confirmed", LIFE[:3], "past"),
        ("in_progress", LIFE[:3], None),
        ("in_progress", LIFE[:6], "past"),
        ("cancelled", (placed(), cancel()), None),
        ("cancelled", (placed(), captured(), cancel(), refunded(4999)), "past"),
    ):
        assert _stands(f"notify.push {name}", *life, policy=pushes).get("state") == state
    for amount, text in ((100, "Partly Refunded"), (4999, "Refunded")):
        order = order_of(*LIFE, refunded(amount))
        sent = message("notify.push refunded re_1", "id", view(order), order, pushes, T0)
        assert (sent.fields["status_text"], sent.fields.get("state")) == (text, None)


def test_a_parcel_that_is_not_the_whole_order_is_called_a_part_and_by_what_tells_it_from_the_others() -> None:
    def part(parcel: str, *facts: Fact) -> str | None:
        found = {_stands(f"notify.{channel} {said} {parcel}", *facts).get("part_name") for channel, said in kinds}
        assert len(found) == 1
        return found.pop()

    kinds = (("email", "shipped"), ("sms", "shipped"), ("push", "shipped"), ("sms", "delivery_reminder"))
    second = scanned(Tracking.IN_TRANSIT, T0 + DAY, "P2")
    assert part("P1", *LIFE[:6]) is None
    assert part("P1", *LIFE[:4], packed(lines=(*LAMPS, *SHADES)), MOVES) is None
    assert part("P1", *SPLIT, MOVES) == "Desk lamp"
    assert part("P2", *SPLIT, MOVES, second) == "Linen shade"
    one_each = [packed(p, lines=(Quantity(line="1", quantity=1),)) for p in ("P1", "P2")]
    assert [part(p, placed(lines=(LAMP,)), *one_each, MOVES, second) for p in ("P1", "P2")] == ["1Z-P1", "1Z-P2"]
    assert part("P1", placed(), packed(), packed("P2"), MOVES, second) == "1Z-P1", "nobody says what is in which"
    replaced = (packed(), MOVES, scanned(Tracking.RETURNED, T0 + 2 * DAY), scanned(Tracking.IN_TRANSIT, T0 + 3 * DAY, "P2"))
    assert part("P2", placed(), *replaced) is None


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "A"), (2, "A and B"), (3, "A, B and C")])
def test_products_read_like_a_sentence(count: int, text: str) -> None:
    lines = tuple(msgspec.structs.replace(LAMP, line=str(i), title="ABC"[i]) for i in range(count))
    v = view(order_of(placed(lines=lines)))
    assert products(v, ()) == text


def test_stock_is_asked_for_and_given_back_at_its_location_under_the_request_it_undoes() -> None:
    order = order_of(*LIFE[:2], reserved(LAMP, location="attic"), cancel(), verdict="approve")
    v = view(order)
    _, key, asked = request("stock.reserve paid 2", "id-2", v, order, POLICY, T0)
    assert (key, asked) == (
        "SHADE-2@main",
        StockRequested(at=T0, effect="id-2", order=ORDER, line="2", sku="SHADE-2", location="main", quantity=1),
    )
    _, key, undone = request("stock.release cancelled reserve-1", "id-3", v, order, POLICY, T0)
    assert (key, undone) == (
        "LAMP-1@attic",
        StockReleaseRequested(at=T0, effect="id-3", request="reserve-1", order=ORDER, line="1", sku="LAMP-1", location="attic", quantity=2),
    )


def test_a_body_is_the_same_bytes_each_time_and_names_its_effect() -> None:
    order = order_of(*LIFE[:5], verdict="approve")
    label = _effect("carrier.label packed P1")
    sent = body(label, view(order), order, POLICY)
    assert sent == body(label, view(order), order, POLICY)
    read = msgspec.json.decode(sent)
    assert (read["event"], read["id"], read["order"]) == ("carrier.label", label.id, ORDER)
    assert read["data"]["to"]["address"]["postcode"] == "10115"


def test_codes_in_links_depend_on_the_key_and_the_purpose() -> None:
    keyed, other = Policy(link_key="a" * 32), Policy(link_key="b" * 32)
    codes = {signed(ORDER, purpose, policy) for purpose in ("track", "pay") for policy in (keyed, other)}
    assert len(codes) == 4
    assert signed(ORDER, "track", keyed) == signed(ORDER, "track", keyed)


def test_an_effect_has_one_name_that_holds_nothing_from_configuration() -> None:
    assert effect_id(ORDER, "shipped", "P1", "notify.email") == effect_id(ORDER, "shipped", "P1", "notify.email")
    assert len(effect_id(ORDER, "shipped", "P1", "notify.email")) == 16


def test_an_edited_order_gives_back_what_it_does_not_want_any_more() -> None:
    edited = placed(version=1, lines=(LAMP,))
    names = wants(placed(), edited, captured(), reserved(LAMP), reserved(SHADE))
    assert "stock.release cancelled reserve-2" in names
    assert "stock.release cancelled reserve-1" not in names


# --- what the shop is told
WRITES = Policy(writes_back=("shopify:lumi",), link_key="k")


def test_a_shop_that_may_be_told_is_told_of_parcels_and_statuses_and_no_other_is() -> None:
    told = wants(*LIFE, policy=WRITES) - wants(*LIFE)
    assert told == {"shop.fulfil shipped P1", *(f"shop.tag {s}" for s in ("payment_confirmed", "in_progress", "shipped", "delivered"))}
    assert not [n for n in wants(*LIFE, policy=Policy(writes_back=("other",))) if n.startswith("shop.")]
    past = [msgspec.structs.replace(fact, backfilled=True) for fact in LIFE]
    assert not [n for n in wants(*past, policy=WRITES) if n.startswith("shop.")]


def test_tags_only_ever_come_to_those_there_are() -> None:
    known: set[str] = set()
    for end in range(1, len(LIFE) + 1):
        tags = {n for n in wants(*LIFE[:end], policy=WRITES) if n.startswith("shop.tag")}
        assert known <= tags
        known = tags


def test_the_shop_is_told_of_a_parcel_once_it_is_packed_and_has_a_number() -> None:
    before = (*LIFE[:4], packed())
    assert "shop.fulfil shipped P1" not in wants(*before, policy=WRITES)
    number = scanned(Tracking.LABEL_CREATED, T0 + 2 * HOUR)
    assert "shop.fulfil shipped P1" in wants(*before, number, policy=WRITES)
    assert "shop.fulfil shipped P1" not in wants(*LIFE[:4], number, policy=WRITES), "a label alone is paper"
    assert "shop.fulfil shipped P1" not in wants(*before, number, cancel(), policy=WRITES)


def test_the_shop_is_not_told_what_it_told_us() -> None:
    own = msgspec.structs.replace(scanned(Tracking.IN_TRANSIT, T0 + DAY), system="shopify:lumi")
    assert "shop.fulfil shipped P1" not in wants(*LIFE[:5], own, policy=WRITES)
    echo = [  # as it tells of the fulfilment that we made, under a name of its own
        msgspec.structs.replace(packed("F7", T0 + DAY), system="shopify:lumi"),
        msgspec.structs.replace(scanned(Tracking.LABEL_CREATED, T0 + DAY, parcel="F7", tracking="1Z-P1"), system="shopify:lumi"),
    ]
    order = order_of(*LIFE, *echo)
    assert list(view(order).parcels) == ["P1"]
    assert not [n for n in plan(view(order), order, WRITES).effects if n.startswith("shop.fulfil")]
    assert answered(_effect("shop.fulfil shipped P1"), view(order)), "it need not be told again, whatever became of the call"
    assert not answered(_effect("shop.fulfil shipped P1"), view(order_of(*LIFE)))


def test_what_the_shop_is_told_waits_for_a_hold_unless_it_has_left() -> None:
    ready = (*LIFE[:4], packed(), scanned(Tracking.LABEL_CREATED, T0 + 2 * HOUR))
    for life, why in ((ready, ""), ((*ready, hold()), "held"), ((*LIFE, hold()), "")):
        order = order_of(*life)
        assert guard(_effect("shop.fulfil shipped P1"), view(order), order) == why
        assert guard(_effect("shop.tag shipped"), view(order), order) == ""


def said(name: str, *facts: Fact, policy: Policy = WRITES) -> Any:
    order = order_of(*facts)
    return msgspec.json.decode(body(_effect(name), view(order), order, policy))["data"]


def test_bodies_carry_what_their_systems_need() -> None:
    two = (Quantity(line="1", quantity=2),)
    life = (*LIFE[:4], packed(lines=two), *LIFE[5:])
    fulfil = said("shop.fulfil shipped P1", *life)
    assert fulfil["tracking_link"] == f"{WRITES.tracking_base}/track/{signed(ORDER, 'track', WRITES)}"
    assert {name: fulfil[name] for name in ("system", "shop_order", "parcel", "carrier", "tracking", "lines")} == {
        "system": "shopify:lumi",
        "shop_order": "1001",
        "parcel": "P1",
        "carrier": "UPS",
        "tracking": "1Z-P1",
        "lines": [{"line": "1", "quantity": 2}],
    }
    tag = said("shop.tag shipped", *life)
    assert (tag["system"], tag["shop_order"], tag["tags"]) == ("shopify:lumi", "1001", ["orderflow:shipped"])
    pick = said("warehouse.pick in_progress main", *life)
    assert (pick["number"], pick["to"]["address"]["city"]) == ("1001", "Berlin")
    label = said("carrier.label packed P1", *life)
    assert (label["number"], label["value"], label["currency"], label["service"]) == ("1001", 4000, "EUR", "standard")
    assert said("carrier.label packed P1", *LIFE)["value"] == 4999, "a parcel that names no lines holds the whole order"
    refund = said("payment.refund cancelled pi_1", *LIFE)
    assert (refund["payment"], refund["system"], refund["amount"]) == ("pi_1", "stripe:lumi", 4999)


# --- a pick that is taken back
def test_a_pick_that_was_asked_for_is_taken_back_where_an_account_can_until_it_is_picked() -> None:
    pick = _effect("warehouse.pick in_progress main")
    able = Policy(served={"warehouse.cancel": "systems"})
    order = order_of(*LIFE[:4], cancel(), verdict="approve")
    assert not [n for n in plan(view(order), order, able).effects if n.startswith("warehouse.cancel")], "nothing was asked for"
    order = adopt(order, Offered(at=T0, id=pick.id, action=pick.action, milestone=pick.milestone, instance="main"))
    order = adopt(
        order,
        Claimed(at=T0, id=pick.id, effect="warehouse.pick in_progress main", attempt=1, deadline=T0 + 9, body_hash="h", mode="live"),
    )
    name = "warehouse.cancel cancelled main"
    assert name in plan(view(order), order, able).effects
    assert name not in plan(view(order), order, POLICY).effects, "by the signed webhook the notice is all there is"
    took = merge(order, picked(at=T0 + 20 * 60_000))
    assert name not in plan(view(took), took, able).effects, "the goods are out of the shelf: people have to put them back"
    assert "team.notice cancelled_after_pick" in plan(view(took), took, able).effects
    back = _effect(name, undoes=pick.id)
    assert guard(back, view(order), order) == "undoes_open"
    assert msgspec.json.decode(body(back, view(order), order, able))["data"]["location"] == "main"


def test_a_name_too_long_for_a_message_gives_way_to_the_number() -> None:
    many = [Line(line=f"{n}", sku=f"S{n}", quantity=1, price=100, title=f"A lamp of the long-named series {n}") for n in range(1, 9)]
    some = packed("P1", lines=tuple(Quantity(line=x.line, quantity=1) for x in many[:6]))
    scan = scanned(Tracking.IN_TRANSIT, T0 + DAY, "P1", tracking="TRK1")
    facts = [placed(lines=tuple(many), total=800), captured(800), some, scan]
    assert _stands("notify.sms shipped P1", *facts) == {"part": "yes", "part_name": "TRK1"}


def test_a_parcel_packed_and_scanned_under_two_names_is_no_part() -> None:
    everything = tuple(Quantity(line=x.line, quantity=x.quantity) for x in placed().lines)
    scan = scanned(Tracking.IN_TRANSIT, T0 + DAY, "TRK1", tracking="TRK1")
    assert "part" not in _stands("notify.sms shipped TRK1", *LIFE[:2], packed("P1", lines=everything), scan)


def test_what_needed_no_payment_is_given_all_back_with_its_total() -> None:
    facts = [placed(prepaid=True), refunded(4999)]
    assert _stands("notify.email cancelled", *facts, cancel()) == {"state": "refunded"}
    assert "ships" not in _stands("notify.email order_placed", *facts)
