"""The live sampler: a sound merge raises nothing, whatever the turns; every kind of broken one is seen; and what it keeps is bounded."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orders import merge as merging
from orders.fact import Fact
from orders.policy import Policy
from orders.state import Order, decode, encode
from streams import convergence
from streams.convergence import SHARE, STALE_MS, Sampler
from streams.orders import OrdersProcessor
from streams.processor import Inputs, Record
from tests.orders.lives import DAY, HOUR, LIFE, MINUTE, T0, captured, placed
from tests.streams.test_orders_processor import Switch, record

# One capture told three ways, one note of every moment: what a merge that looks at arrival would get wrong.
TOLD = (*LIFE, captured(amount=5000, version=2), captured(amount=4998, version=1), placed(at=T0 + MINUTE, version=3))


class Lane:
    """Turns of the orders lane in observe mode, every order sampled."""

    def __init__(self, sampled: int = 1) -> None:
        self.processor = OrdersProcessor(lambda v: (1.0,), Policy(), {}, sampled=sampled)
        self.states: dict[str, Order] = {}
        self.now = T0 + 3 * DAY

    def turn(self, *told: Fact | Record, commits: bool = True) -> None:
        records = [t if isinstance(t, Record) else record(t, i) for i, t in enumerate(told)]
        asked = self.processor.ask(self.states, Inputs("facts", 0, records), self.now)
        result = self.processor.answer(asked, None, self.now, Switch("observe"))
        if commits:
            self.states.update({key: decode(encode(order)) for key, order in result.states.items()})

    @property
    def counts(self) -> tuple[int, int]:
        return self.processor.counts.convergence["checks"], self.processor.counts.convergence["violations"]


def of(order: str, facts: tuple[Fact, ...]) -> list[Fact]:
    return [msgspec.structs.replace(fact, order=order) for fact in facts]


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_a_sound_merge_raises_nothing_whatever_the_turns_and_the_commits_that_fail(rng: random.Random) -> None:
    lane = Lane()
    told = [*TOLD, *rng.choices(TOLD, k=3)]
    rng.shuffle(told)
    waiting: list[Fact | Record] = [*told, Record(99, TOLD[0].order.encode(), b"{", T0)]
    while waiting:
        size = rng.randint(1, 4)
        lane.turn(*waiting[:size], commits=(commits := rng.random() < 0.7))
        if commits:
            waiting = waiting[size:]
    checks, violations = lane.counts
    assert checks >= 1, "the order has ended and was looked at"
    assert not violations


def first_wins(order: Order, key: Any, variants: Any, fact: Fact) -> str:
    return merging.SUPERSEDED


def last_wins(order: Order, key: Any, variants: Any, fact: Fact) -> str:
    order.facts = {**order.facts, key: (fact,)}
    return merging.APPLIED


def as_it_came(facts: Any) -> Any:
    return facts


def counting(order: Order, facts: Any, key: Any, fact: Fact) -> str:
    """Says with each fact as how many it came."""
    order.facts = {**facts, key: (msgspec.structs.replace(fact, version=len(facts)),)}
    return merging.APPLIED


@pytest.mark.parametrize(
    ("name", "broken"),
    [("_vary", first_wins), ("_vary", last_wins), ("_by_time", as_it_came), ("_add", counting)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_broken_merge_is_seen(name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, name, broken)
    lane = Lane()
    for n in range(20):
        told = of(f"lumi:{n}", TOLD)
        random.Random(n).shuffle(told)
        lane.turn(*told)
    checks, violations = lane.counts
    assert checks and violations > checks / 2


def test_an_order_whose_life_was_not_seen_whole_gets_no_verdict() -> None:
    lane, other = Lane(), Lane()
    lane.turn(*LIFE[:2])
    other.states.update(lane.states)
    other.turn(*LIFE[2:])
    assert other.counts == (0, 0), "its beginning was on another worker"
    other.states.clear()
    lane.turn(*LIFE[2:5])
    moved = Lane()
    moved.turn(*LIFE[:2])
    moved.states.update(lane.states)
    moved.turn(*LIFE[5:])
    assert moved.counts == (0, 0), "its middle was"
    lane.turn(*LIFE[5:])
    assert lane.counts == (1, 0)


def test_one_order_in_a_hundred_is_sampled() -> None:
    sampler = Sampler(convergence.Counter())
    found = sum(sampler.sampled(f"lumi:{n}".encode()) for n in range(100_000))
    assert 0.8 * 100_000 / SHARE < found < 1.2 * 100_000 / SHARE


def test_what_is_kept_is_bounded_and_orders_that_never_end_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convergence, "ORDERS_MAX", most := 50)
    lane = Lane()
    for n in range(3 * most):
        lane.turn(*of(f"lumi:{n}", LIFE[:2]))
    kept = lane.processor._sampler._seen
    assert len(kept) == most and "lumi:0" in kept, "those that were there first are seen to their end"
    lane.turn(placed(at=T0 + STALE_MS + HOUR, order="lumi:late"))
    assert len(kept) == most and "lumi:late" in kept and "lumi:0" not in kept


def test_an_order_of_endless_reports_is_let_go() -> None:
    lane = Lane()
    for n in range(convergence.FACTS_MAX + 1):
        lane.turn(captured(version=n))
    assert not lane.processor._sampler._seen
