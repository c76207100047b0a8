"""The orders lane on a virtual clock, with everything delayed, repeated, lost: an independent checker holds the promises."""

from __future__ import annotations

import random
from typing import Any

import pytest

import orders.merge
import orders.plan
import streams.orders
from orders.effect import effect_id
from orders.fact import Fact, FactParked, FactUnparked, Quantity, Tracking
from orders.policy import TRIGGERS, Policy, Trigger
from orders.sourcing import Location, Rate, Table
from orders.state import VARIANTS, encode
from tests.closed_loop.checker import check_rest, check_run
from tests.closed_loop.world import World, replay
from tests.orders.lives import (
    DAY,
    HOUR,
    LIFE,
    MINUTE,
    ORDER,
    T0,
    cancel,
    captured,
    failed,
    hold,
    packed,
    placed,
    refunded,
    release,
    retract,
    review,
    scanned,
    short,
)

SHIPPED = scanned(Tracking.IN_TRANSIT, T0 + 30 * HOUR)
DELIVERED = scanned(Tracking.DELIVERED, T0 + 2 * DAY)
PARKED = FactParked(order=ORDER, system="orderflow", object="bad", at=T0 + MINUTE, reason="schema")
UNPARKED = FactUnparked(order=ORDER, system="staff", object="bad", at=T0 + 20 * HOUR, by="sam")

SCENARIOS: dict[str, list[Fact]] = {
    "smooth": [placed(), captured(), packed(), SHIPPED, DELIVERED],
    "held and released": [placed(), captured(), packed(), hold(at=T0 + 2 * MINUTE), release("h1", at=T0 + 9 * HOUR), SHIPPED],
    "held for good": [placed(), captured(), packed(), hold(at=T0 + 2 * MINUTE)],
    "corrected amounts": [
        placed(),
        captured(100),
        captured(4999, version=1),
        captured(77, object="pi_2"),
        captured(1, object="pi_2", authority=1),
    ],
    "contradicted times": [placed(), captured(), captured(at=T0 + HOUR), captured(4000, at=T0 + 2 * HOUR)],
    "cancelled": [placed(), captured(), packed(), cancel()],
    "cancelled and refunded": [placed(), captured(), cancel(), refunded(4999, at=T0 + DAY)],
    "cancel races ship": [placed(), captured(), packed(), cancel(at=T0 + HOUR), SHIPPED],
    "failed, then paid": [placed(), failed(), failed(at=T0 + 2 * MINUTE, object="pi_x"), captured(at=T0 + HOUR)],
    "incomplete for a while": [placed(), captured(), packed(), PARKED, UNPARKED],
    "incomplete": [placed(), captured(), PARKED],
    "reviewed": [placed(), captured(), packed(), review(True, at=T0 + 5 * HOUR)],
    "declined by a person": [placed(), captured(), review(False, at=T0 + 5 * HOUR)],
    "paid in parts": [placed(), captured(2000), captured(2999, object="pi_2", at=T0 + 3 * HOUR), packed()],
    "an invoice": [placed(prepaid=True), packed(), SHIPPED],
    "for nothing": [placed(total=0), packed(), SHIPPED, DELIVERED],
    "backordered": [placed(), captured(), short(system="wms:lumi", object="short-1")],
    "two parcels": [
        *(placed(), captured(), packed(lines=(Quantity(line="1", quantity=2),)), packed("P2", lines=(Quantity(line="2", quantity=1),))),
        *(SHIPPED, scanned(Tracking.IN_TRANSIT, T0 + 40 * HOUR, "P2"), scanned(Tracking.OUT_FOR_DELIVERY, T0 + 41 * HOUR, "P2"), DELIVERED),
    ],
    "back again": [
        placed(),
        captured(),
        packed(),
        SHIPPED,
        scanned(Tracking.EXCEPTION, T0 + 40 * HOUR),
        scanned(Tracking.RETURNED, T0 + 3 * DAY),
    ],
    "retracted": [placed(), captured(), captured(10, object="pi_9"), retract("PaymentCaptured", "stripe:lumi", "pi_9")],
}
# fraud before and after the payment is known
FRAUDS = {
    "approve": (0.1, 0.1),
    "review until paid": (0.5, 0.1),
    "decline until paid": (0.95, 0.1),
    "review once paid": (0.1, 0.5),
    "decline once paid": (0.1, 0.95),
}


def runs_of(facts: list[Fact], fraud: tuple[float, float], seeds: range, **more: Any) -> list[dict[str, Any]]:
    return [World(facts, seed, fraud=fraud, **more).run() for seed in seeds]


def broken(runs: list[dict[str, Any]], ability: str = "neither") -> list[str]:
    return [line for run in runs for line in check_run(run, ability)] + check_rest(runs)


@pytest.mark.parametrize("fraud", FRAUDS.values(), ids=FRAUDS.keys())
@pytest.mark.parametrize("facts", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_whatever_arrives_when_the_promises_hold(facts: list[Fact], fraud: tuple[float, float]) -> None:
    runs = runs_of(facts, fraud, range(8))
    assert broken(runs) == []


@pytest.mark.parametrize("facts", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_an_order_that_nobody_reviews_ends_the_same_whatever_arrives_when(facts: list[Fact]) -> None:
    for fraud in (FRAUDS["review once paid"], FRAUDS["review until paid"]):
        runs = runs_of(facts, fraud, range(6), policy=Policy(retire_after_ms=0, review_expiry="cancel", review_sla_ms=HOUR))
        assert broken(runs) == []


@pytest.mark.parametrize("ability", ["keyed", "lookup"])
@pytest.mark.parametrize("facts", [SCENARIOS["smooth"], SCENARIOS["cancelled"]], ids=["smooth", "cancelled"])
def test_an_unknown_outcome_is_tried_again_only_where_the_provider_can_tell(facts: list[Fact], ability: str) -> None:
    worlds = [World(facts, seed, trouble=0.5, ability=ability) for seed in range(12)]
    runs = [world.run() for world in worlds]
    assert [line for run in runs for line in check_run(run, ability)] == []
    for world in worlds:
        for bodies in world.sent.values():
            assert len(set(bodies)) == 1 or ability == "lookup"


BY_ACCOUNTS = Policy(
    retire_after_ms=0,
    served=dict.fromkeys(("warehouse.pick", "warehouse.cancel", "carrier.label", "carrier.void", "payment.refund"), "systems"),
    writes_back=("shopify:lumi",),
)


@pytest.mark.parametrize("ability", ["neither", "keyed"])
@pytest.mark.parametrize("facts", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_promises_hold_where_accounts_do_it_and_the_shop_is_told(facts: list[Fact], ability: str) -> None:
    for seed in range(6):
        world = World(facts, seed, policy=BY_ACCOUNTS, ability=ability, label="UPS 1Z-P1 0a1b", channel="systems")
        run = world.run()
        assert check_run(run, ability) == []
        assert replay(run, ORDER, random.Random(seed)) == world.stored[ORDER]
        for bodies in world.sent.values():
            assert len(bodies) == 1 or (ability == "keyed" and len(set(bodies)) == 1)


RATES = [Rate(carrier="ups", location=name, base_minor=base, transit_ms=DAY) for name, base in (("main", 500), ("east", 400))]
SOURCED = Policy(retire_after_ms=0, sourcing=Table(locations=(Location("main"), Location("east")), rates=tuple(RATES)))


@pytest.mark.parametrize("facts", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_promises_hold_where_a_table_of_rates_says_where_from(facts: list[Fact]) -> None:
    runs = runs_of(facts, FRAUDS["approve"], range(6), policy=SOURCED)
    assert broken(runs) == []


UNPAID = [placed(), failed()]


@pytest.mark.parametrize("policy", [Policy(retire_after_ms=0), SOURCED], ids=["one place", "a table of rates"])
@pytest.mark.parametrize("facts", [UNPAID, *SCENARIOS.values()], ids=["unpaid", *SCENARIOS.keys()])
def test_what_stock_says_before_anything_is_reserved_counts_until_the_payment_is_there(facts: list[Fact], policy: Policy) -> None:
    runs = runs_of(facts, FRAUDS["approve"], range(6), policy=policy, scarce=True)
    assert broken(runs) == []
    if facts is not SCENARIOS["backordered"]:
        for rest in (run["rest"] for run in runs):
            assert ("team.notice stock_shortage_risk" in rest["wanted"]) == (not rest["view"]["paid_in_full"])


PUSHES = tuple(Trigger(milestone, "push", milestone) for milestone in ("order_placed", "payment_confirmed", "in_progress"))


@pytest.mark.parametrize("facts", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_no_message_is_false_by_what_is_known_whenever_it_is_claimed(facts: list[Fact]) -> None:
    policy = Policy(retire_after_ms=0, triggers=(*TRIGGERS, *PUSHES))
    for delay in (MINUTE, 2 * HOUR, 3 * DAY):
        runs = runs_of(facts, FRAUDS["approve"], range(8), policy=policy, delay_ms=delay)
        assert any(commit["texts"] for run in runs for commit in run["commits"])
        assert [line for run in runs for line in check_run(run)] == []


def test_in_observe_nothing_leaves_and_nothing_stays_open() -> None:
    for facts in SCENARIOS.values():
        world = World(facts, 3, mode="observe")
        run = world.run()
        assert world.sent == {}
        assert all(commit["claims"] == [] for commit in run["commits"])
        assert not world.cache[ORDER].ledger


@pytest.mark.parametrize("facts", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_record_alone_rebuilds_the_state_byte_for_byte(facts: list[Fact]) -> None:
    for seed in range(4):
        world = World(facts, seed, fraud=(0.5, 0.1))
        run = world.run()
        rng = random.Random(seed)
        for _ in range(4):
            assert replay(run, ORDER, rng) == world.stored[ORDER] == encode(world.cache[ORDER])


def test_an_order_that_ended_long_ago_shrinks_and_stays_harmless() -> None:
    facts = list(LIFE)
    for seed in range(6):
        world = World(facts, seed, policy=Policy(retire_after_ms=40 * DAY), ability="keyed", trouble=0.1)
        run = world.run()
        assert check_run(run, "keyed") == []
        assert len(world.stored[ORDER]) < 1500
        assert world.cache[ORDER].persons == {}
        assert replay(run, ORDER, random.Random(seed)) == world.stored[ORDER]


def test_with_a_review_open_no_pick_and_no_label_is_claimed_in_a_thousand_schedules() -> None:
    for seed in range(1000):
        facts = [SCENARIOS["smooth"], SCENARIOS["corrected amounts"]][seed % 2][:3]
        run = World([*facts, packed()], seed, fraud=(0.5, 0.5), trouble=0.1, ability="keyed").run()
        claimed = {c["effect"] for commit in run["commits"] for c in commit["claims"]}
        assert not claimed & {effect_id(ORDER, "in_progress", "main", "warehouse.pick"), effect_id(ORDER, "packed", "P1", "carrier.label")}
        assert check_run(run, "keyed") == []


# --- the checker sees what it is there to see
def test_the_checker_catches_a_first_wins_dedupe(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_wins(order: Any, key: Any, variants: Any, fact: Any) -> str:
        return "duplicate"

    monkeypatch.setattr(orders.merge, "_vary", first_wins)
    assert any("promise 3: captured" in line for line in broken(runs_of(SCENARIOS["corrected amounts"], (0.1, 0.1), range(8))))


def test_the_checker_catches_a_last_write_by_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_wins(order: Any, key: Any, variants: Any, fact: Any) -> str:
        order.facts = {**order.facts, key: (fact, *variants)[:VARIANTS]}
        return "applied"

    monkeypatch.setattr(orders.merge, "_vary", last_wins)
    found = broken(runs_of(SCENARIOS["corrected amounts"], (0.1, 0.1), range(8)))
    assert any("promise 3: captured" in line for line in found)
    assert any("promise 2" in line for line in found)


@pytest.mark.parametrize("scenario", ["held for good", "incomplete"])
def test_the_checker_catches_a_claim_without_guard(monkeypatch: pytest.MonkeyPatch, scenario: str) -> None:
    monkeypatch.setattr(streams.orders, "guard", lambda effect, v, order: "")
    assert any("promise 6" in line for line in broken(runs_of(SCENARIOS[scenario], (0.1, 0.1), range(12))))


def test_the_checker_catches_an_unknown_that_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.orders.OrdersProcessor, "_ability", lambda self, effect: "keyed")
    runs = runs_of(SCENARIOS["smooth"], (0.1, 0.1), range(12), trouble=0.5)
    assert any("promise 5" in line for line in broken(runs, "neither"))


@pytest.mark.parametrize("scenario", ["smooth", "an invoice", "two parcels", "back again"])
def test_the_checker_catches_published_words_that_are_not_true(monkeypatch: pytest.MonkeyPatch, scenario: str) -> None:
    monkeypatch.setattr(orders.plan, "_stands", lambda *known: {})
    monkeypatch.setattr(orders.plan, "_part", lambda *known: {})
    assert any("text: " in line for line in broken(runs_of(SCENARIOS[scenario], (0.1, 0.1), range(8))))


def test_the_checker_catches_an_open_request_that_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_the_clock(self: Any, name: str, effect: Any, its: Any, now: int) -> bool:
        return bool(its.due and now >= effect.offered_at + HOUR)

    monkeypatch.setattr(streams.orders.OrdersProcessor, "_asks_again", by_the_clock)
    assert any("text: " in line for line in broken(runs_of(SCENARIOS["smooth"], (0.1, 0.1), range(8), delay_ms=HOUR)))
