"""The bands, what a decision knew, and which decision is in force."""

from __future__ import annotations

from struct import pack
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.features import features
from orders.decision import MATTERS, Score, decide, in_force, knowledge, verdict_of
from orders.fact import Fact, OrderPaid, ParcelPacked, ParcelScanned, PaymentCaptured, PaymentFailed
from orders.policy import Policy
from orders.view import view
from tests.orders.lives import EACH, LIFE, T0, placed
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


def _told(*facts: Fact) -> tuple[float, ...]:
    """What the model that ships is told."""
    return features(view(order_of(*facts)))


def test_whatever_changes_what_the_model_is_told_is_of_a_kind_that_matters() -> None:
    changing = {type(fact) for fact in EACH if fact != placed() and _told(placed(), fact) != _told(placed())}
    assert changing <= set(MATTERS)
    assert {PaymentCaptured, PaymentFailed, OrderPaid, ParcelPacked, ParcelScanned} <= changing


def test_knowledge_depends_on_what_is_known_and_not_on_how_it_came() -> None:
    rows = [_told(*facts) for facts in ([LIFE[0], LIFE[1], LIFE[5]], [LIFE[5], LIFE[1], LIFE[0], LIFE[1]])]
    assert rows[0] == rows[1]
    assert knowledge(pack("24f", *rows[0])) == knowledge(pack("24f", *rows[1])) != knowledge(pack("24f", *_told(placed())))


def test_the_join_of_decisions_is_the_later_one() -> None:
    first = decide(b"a", SCORE, None, POLICY, T0)
    second = decide(b"b", SCORE, first, POLICY, T0 - 5)  # a clock that went back does not matter
    third = msgspec.structs.replace(second, fraud=1)
    pairs: list[tuple[Any, Any]] = [(first, second), (second, first), (None, second), (second, None), (second, second)]
    assert all(in_force(a, b) == second for a, b in pairs)
    assert in_force(second, third) == in_force(third, second)
