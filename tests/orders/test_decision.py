"""The bands, what a decision knew, and which decision is in force."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.decision import MATTERS, Score, decide, in_force, knowledge, needs_score, verdict_of
from orders.fact import Fact
from orders.journal import Decided, adopt
from orders.policy import Policy
from orders.state import Order
from orders.view import view
from tests.orders.lives import DAY, EACH, LIFE, T0, captured, placed, retract
from tests.orders.test_view import order_of

POLICY = Policy(approve_below=0.3, review_above=0.4, decline_above=0.9)


@pytest.mark.parametrize(
    ("fraud", "verdict"),
    [
        (0, "approve"),
        (2_999, "approve"),
        (3_000, "approve"),  # exactly on approve_below: not below it, but not above review_above either
        (4_000, "approve"),  # exactly on review_above: not above it
        (4_001, "review"),
        (9_000, "review"),  # exactly on decline_above: not above it
        (9_001, "decline"),
        (10_000, "decline"),
    ],
)
def test_the_bands_and_their_boundaries(fraud: int, verdict: str) -> None:
    assert verdict_of(fraud, POLICY) == verdict


@given(st.integers(0, 10_000), st.tuples(*[st.floats(0, 1)] * 3).map(sorted))
def test_every_probability_has_a_verdict_of_the_closed_set_that_never_softens_as_it_grows(fraud: int, bands: list[float]) -> None:
    policy = Policy(approve_below=bands[0], review_above=bands[1], decline_above=bands[2])
    order = ["approve", "review", "decline"]
    assert order.index(verdict_of(fraud, policy)) <= order.index(verdict_of(min(fraud + 1, 10_000), policy))


def test_bands_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="approve_below <= review_above"):
        Policy(approve_below=0.8, review_above=0.5)


SCORE = Score(fraud=5_000, late=1, shortage=2, priority=3, loss=4, reasons=("velocity",), model="m1", fallback=False)


@given(st.integers(0, 10_000), st.booleans(), st.integers(0, 10**13))
def test_a_decision_is_a_pure_function_of_what_is_recorded(fraud: int, fallback: bool, now: int) -> None:
    score = msgspec.structs.replace(SCORE, fraud=fraud, fallback=fallback)
    first = decide(b"knew", score, None, POLICY, now)
    assert first == decide(b"knew", score, None, POLICY, now)
    assert (first.model, first.by, first.knew) == ("m1", "fallback" if fallback else "model", b"knew")
    assert decide(b"more", score, first, POLICY, now + 5).since == first.since  # the verdict has stood since then


def test_a_verdict_that_changed_in_between_stands_only_since_it_came_back() -> None:
    first = decide(b"a", SCORE, None, POLICY, T0)
    second = decide(b"b", msgspec.structs.replace(SCORE, fraud=0), first, POLICY, T0 + 1)
    third = decide(b"c", SCORE, second, POLICY, T0 + 2)
    assert [d.since for d in (first, second, third)] == [T0, T0 + 1, T0 + 2]
    assert [d.number for d in (first, second, third)] == [1, 2, 3]


def _decided(order: Order) -> Order:
    return adopt(order, Decided(at=T0, decision=decide(knowledge(view(order)), SCORE, order.decision, POLICY, T0)))


def test_an_order_is_scored_again_for_each_fact_that_matters_and_for_no_other() -> None:
    base = _decided(order_of(placed()))
    assert not needs_score(base, view(base))
    for fact in EACH:
        order = order_of(placed(), fact)
        order = adopt(order, Decided(at=T0, decision=base.decision))  # type: ignore[arg-type]
        again = needs_score(order, view(order))
        assert again == (isinstance(fact, MATTERS) and fact != placed()), type(fact).__name__


def test_an_order_that_was_not_placed_cannot_be_scored() -> None:
    order = order_of(captured())
    assert not needs_score(order, view(order))


def test_knowledge_depends_on_what_is_known_and_not_on_how_it_came() -> None:
    for facts in ([LIFE[0], LIFE[1], LIFE[5]], [LIFE[5], LIFE[1], LIFE[0], LIFE[1]]):
        assert knowledge(view(order_of(*facts))) == knowledge(view(order_of(LIFE[0], LIFE[1], LIFE[5])))


@pytest.mark.parametrize(
    "other",
    [
        [placed(), captured(1)],
        [placed(), captured(version=1)],
        [placed(), captured(), captured(5, at=T0 + DAY)],
        [placed(), captured(), retract("PaymentCaptured", "stripe:lumi", "pi_1")],
        [placed(person=None), captured()],
    ],
)
def test_another_winning_variant_is_other_knowledge(other: list[Fact]) -> None:
    assert knowledge(view(order_of(*other))) != knowledge(view(order_of(placed(), captured())))


def test_the_join_of_decisions_is_the_later_one() -> None:
    first = decide(b"a", SCORE, None, POLICY, T0)
    second = decide(b"b", SCORE, first, POLICY, T0 - 5)  # a clock that went back does not matter
    third = msgspec.structs.replace(second, fraud=1)
    pairs: list[tuple[Any, Any]] = [(first, second), (second, first), (None, second), (second, None), (second, second)]
    assert all(in_force(a, b) == second for a, b in pairs)
    assert in_force(second, third) == in_force(third, second)
