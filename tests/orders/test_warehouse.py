"""What a warehouse has to do for an order, at which stage and location."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders import fact as facts
from orders.allocation import PICK
from orders.effect import Effect
from orders.fact import Fact, Quantity, Tracking
from orders.plan import guard, plan, stopped, turn
from orders.policy import Policy
from orders.sourcing import Rate, Table
from orders.view import view, wanted
from orders.warehouse import in_boxes, jobs, left, missing, next_parcel, packed_as, queued_at, stages
from tests.orders.lives import (
    HOUR,
    LAMP,
    ORDER,
    SHADE,
    T0,
    cancel,
    captured,
    hold,
    packed,
    picked,
    placed,
    release,
    reports,
    reserved,
    retract,
    scanned,
    short,
)
from tests.orders.test_view import order_of

POLICY = Policy()
READY = (placed(), captured(), reserved(LAMP), reserved(SHADE))


def at(*more: Fact, verdict: str = "approve") -> set[tuple[str, str]]:
    return set(stages(view(order_of(*READY, *more, verdict=verdict))))


def lacks(line: str, quantity: int, version: int = 0) -> facts.ItemsPicked:
    return msgspec.structs.replace(picked(), short=(Quantity(line=line, quantity=quantity),), version=version)


def some(parcel: str, *lines: tuple[str, int]) -> facts.ParcelPacked:
    held = tuple(Quantity(line=line, quantity=quantity) for line, quantity in lines)
    return packed(parcel, T0 + 2 * HOUR, held)


@pytest.mark.parametrize(
    ("what", "more", "expected"),
    [
        ("all reserved and paid", (), {("to_pick", "main")}),
        ("picked", (picked(),), {("to_pack", "main")}),
        ("one of three in a parcel", (picked(), some("P1", ("1", 1))), {("to_pack", "main"), ("packed", "main")}),
        ("all in parcels", (picked(), some("P1", ("1", 1)), some("P2", ("1", 1), ("2", 1))), {("packed", "main")}),
        ("one parcel of two gone", (picked(), some("P1", ("1", 2)), scanned(Tracking.IN_TRANSIT, T0 + 3 * HOUR)), {("to_pack", "main")}),
        ("all gone", (picked(), packed(), scanned(Tracking.IN_TRANSIT, T0 + 3 * HOUR)), set()),
        ("one not found", (lacks("1", 1),), {("to_pack", "main"), ("missing", "main")}),
        ("nothing found", (lacks("1", 2), msgspec.structs.replace(lacks("2", 1), object="other")), {("missing", "main")}),
        ("found later", (lacks("1", 1), msgspec.structs.replace(picked(), version=1)), {("to_pack", "main")}),
        ("held before it is picked", (hold(at=T0 + HOUR),), set()),
        ("held and released", (hold(), release("h1")), {("to_pick", "main")}),
        ("held after it was picked", (picked(), hold(at=T0 + 2 * HOUR)), {("stopped", "main")}),
        ("cancelled after it was packed", (picked(), packed(), cancel(T0 + 3 * HOUR)), {("stopped", "main")}),
        ("from history", (placed(backfilled=True, version=1),), set()),
        ("a report that cannot be read", (facts.FactParked(order=ORDER, system="x", object="y", at=T0, reason="schema"),), set()),
    ],
)  # fmt: skip
def test_the_stages(what: str, more: tuple[Fact, ...], expected: set[tuple[str, str]]) -> None:
    assert at(*more) == expected


@pytest.mark.parametrize("verdict", ["review", "decline", ""])
def test_what_is_not_approved_is_not_to_be_picked(verdict: str) -> None:
    assert at(verdict=verdict) == set()


def test_an_order_that_waits_for_stock_or_payment_is_not_to_be_picked() -> None:
    for those in ((placed(), captured(), reserved(LAMP), short(SHADE)), (placed(), reserved(LAMP), reserved(SHADE))):
        assert stages(view(order_of(*those))) == ()


def test_each_location_has_its_own_lines() -> None:
    both = (placed(), captured(), reserved(LAMP), reserved(SHADE, location="north"))
    tasks = {(j.stage, j.location): [t.line for t in j.tasks] for j in jobs(order_of(*both, verdict="approve"), POLICY)}
    assert tasks == {("to_pick", "main"): ["1"], ("to_pick", "north"): ["2"]}
    assert set(stages(view(order_of(*both, picked(), verdict="approve")))) == {("to_pack", "main"), ("to_pick", "north")}


def test_a_clerk_sees_the_service_that_was_chosen_for_each_location() -> None:
    both = (placed(), captured(), reserved(LAMP), reserved(SHADE, location="north"))
    fast = Rate(carrier="ups", service="express", location="north", base_minor=1, transit_ms=1)
    table = Table(rates=(fast, Rate(carrier="ups", location="main", base_minor=1, transit_ms=1)))
    order = order_of(*both, picked(), verdict="approve")
    assert {j.location: j.service for j in jobs(order, Policy(sourcing=table))} == {"main": "standard", "north": "express"}
    assert {j.service for j in jobs(order, POLICY)} == {"standard"}


@given(reports, st.sampled_from(["approve", "review", "decline"]))
def test_to_pick_is_exactly_what_the_plan_wants_picked_and_nothing_forbids(those: list[Fact], verdict: str) -> None:
    order = order_of(*those, verdict=verdict)
    v = view(order)
    listed = {location for stage, location in stages(v) if stage == "to_pick"}
    names = [name for name in plan(v, order, POLICY).effects if name.startswith(PICK)]
    effect: Any = Effect("e", "warehouse.pick", "in_progress", "", 0)
    free = {name.removeprefix(f"{PICK} ") for name in names if not guard(effect, v, order)}
    assert listed == (set() if v.all_returned else free)
    if stopped(v):
        assert {stage for stage, _ in stages(v)} <= {"stopped"}
    boxed = in_boxes(v)
    for line in v.lines:
        rest, lost = left(v, line, boxed), missing(v, line, boxed)
        assert rest >= 0 and lost >= 0
        assert boxed is None or rest + lost == max(0, wanted(v, line) - boxed.get(line.line, 0))
    assert {(j.stage, j.location) for j in jobs(order, POLICY)} == set(stages(v))


@given(reports)
def test_no_turn_is_further_before_the_queue_than_an_urgent_order_may_overtake(those: list[Fact]) -> None:
    v = view(order_of(*those))
    assert queued_at(v) - POLICY.overtake_ms <= turn(v, POLICY) <= queued_at(v)


def test_parcels_are_numbered_and_a_number_is_never_used_again() -> None:
    staff = [msgspec.structs.replace(some(f"P{n}", ("1", 1)), system="staff") for n in (1, 2)]
    order = order_of(*READY, picked(), *staff)
    assert next_parcel(order_of(*READY)) == "P1" and next_parcel(order) == "P3"
    assert next_parcel(order_of(*READY, *staff, retract("ParcelPacked", "staff", "P2"))) == "P3"
    assert (packed_as(order, "P1"), packed_as(order, "P9")) == ("P1", "")
    renamed = order_of(*READY, staff[0], msgspec.structs.replace(staff[0], parcel="1ZX", version=5))
    assert (packed_as(renamed, "1ZX"), packed_as(renamed, "P1"), list(view(renamed).parcels)) == ("P1", "P1", ["1ZX"])


def test_a_line_that_was_not_found_is_told_to_the_inventory_team_by_name() -> None:
    order = order_of(*READY, lacks("1", 1), verdict="approve")
    assert "team.notice stock_shortage_risk 1" in plan(view(order), order, POLICY).effects
    found = order_of(*READY, lacks("1", 1), msgspec.structs.replace(picked(), version=1), verdict="approve")
    assert not [name for name in plan(view(found), found, POLICY).effects if "stock_shortage_risk" in name]
