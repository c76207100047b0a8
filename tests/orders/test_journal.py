"""State = fold of facts and journal entries, in any order and however often each is met (promise 2)."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orders.decision import Decision
from orders.effect import Attempt, Effect, effect_id, join_effects
from orders.journal import (
    Answered,
    AnyEntry,
    Claimed,
    Closed,
    Decided,
    Ended,
    JournalRecord,
    Offered,
    Retired,
    TimerFired,
    Withdrawn,
    adopt,
    decode_record,
    encode_record,
)
from orders.merge import join, key_hash, merge
from orders.state import Order, decode, encode
from orders.view import view
from tests.orders.lives import EACH, LIFE, ORDER, T0, captured, reports

PICK = "warehouse.pick in_progress main"
PICK_ID = effect_id(ORDER, "in_progress", "main", "warehouse.pick")


def decision(number: int, verdict: str = "approve", fraud: int = 100) -> Decision:
    return Decision(
        number=number,
        at=T0 + number,
        verdict=verdict,
        by="model",
        knew=b"12345678",
        since=T0,
        fraud=fraud,
        model="m1",
        reasons=("velocity",),
    )


def claimed(attempt: int, at: int = T0 + 10) -> Claimed:
    return Claimed(at=at, id=PICK_ID, effect=PICK, attempt=attempt, deadline=at + 30, body_hash=f"h{attempt}", mode="live")


def ended(attempt: int, kind: str, at: int = T0 + 20, **more: Any) -> Ended:
    return Ended(at=at, id=PICK_ID, effect=PICK, attempt=attempt, kind=kind, **more)


def offered(turns: int = 0, at: int = T0) -> Offered:
    return Offered(at=at, id=PICK_ID, action="warehouse.pick", milestone="in_progress", instance="main", turns=turns)


ENTRIES: tuple[AnyEntry, ...] = (
    Decided(at=T0 + 1, decision=decision(1)),
    Decided(at=T0 + 2, decision=decision(2, "review", 5000)),
    Closed(at=T0 + 5, effects=("notify.email order_placed", "notify.push delivered")),
    Closed(at=T0 + 4, effects=("notify.email order_placed",)),
    offered(),
    Withdrawn(at=T0 + 6, id=PICK_ID, effect=PICK, turns=1),
    offered(turns=2, at=T0 + 8),
    claimed(1),
    ended(1, "unknown"),
    ended(1, "retryable", after=T0 + 99, reason="busy"),
    claimed(2, T0 + 100),
    ended(2, "sent", T0 + 120, reference="wms-1"),
    Answered(at=T0 + 9, id="x", effect="stock.reserve paid 1"),
    TimerFired(at=T0 + 7, timer="delay"),
    TimerFired(at=T0 + 9, timer="delay"),
)
RETIRED = Retired(at=T0 + 10**9, status="delivered", covered=tuple(sorted(key_hash((type(f).__name__, f.system, f.object)) for f in LIFE)))

pieces = st.tuples(reports, st.lists(st.sampled_from(ENTRIES), max_size=10), st.booleans()).map(
    lambda t: [*t[0], *t[1], *([RETIRED] if t[2] else [])]
)


def take(order: Order, piece: Any) -> Order:
    return merge(order, piece) if hasattr(piece, "order") else adopt(order, piece)


@settings(max_examples=250)
@given(pieces, st.randoms(use_true_random=False))
def test_facts_and_entries_in_any_order_and_repetition_fold_to_the_same_bytes(all_pieces: list[Any], rng: random.Random) -> None:
    straight = Order(ORDER)
    for piece in all_pieces:
        straight = take(straight, piece)
    expected = encode(straight)
    for _ in range(6):
        arrivals = all_pieces + [rng.choice(all_pieces) for _ in range(3)]
        rng.shuffle(arrivals)
        cut = rng.randrange(len(arrivals) + 1)
        halves = []
        for half in (arrivals[:cut], arrivals[cut:]):
            order = Order(ORDER)
            for piece in half:
                order = take(order, piece)
                if rng.random() < 0.2:
                    order = decode(encode(order))
            halves.append(order)
        assert encode(join(*halves)) == expected
        assert encode(join(halves[1], halves[0])) == expected


def test_the_later_decision_is_in_force_however_the_entries_come() -> None:
    first, second = ENTRIES[0], ENTRIES[1]
    for entries in ((first, second), (second, first), (second, first, second)):
        order = Order(ORDER)
        for entry in entries:
            order = adopt(order, entry)
        assert order.decision is not None
        assert order.decision.number == 2


def test_an_effect_offered_again_after_its_withdrawal_is_open() -> None:
    order = Order(ORDER)
    for entry in (offered(turns=2, at=T0 + 8), Withdrawn(at=T0 + 6, id=PICK_ID, effect=PICK, turns=1), offered()):
        order = adopt(order, entry)
    effect = order.ledger[PICK]
    assert (effect.open, effect.turns, effect.offered_at) == (True, 2, T0)


def test_a_better_outcome_of_one_attempt_replaces_a_worse_one_never_the_other_way() -> None:
    words = ["unknown", "retryable", "rejected", "sent"]
    for worse, better in pairwise(words):
        for entries in ((ended(1, worse), ended(1, better)), (ended(1, better), ended(1, worse))):
            order = adopt(Order(ORDER), claimed(1))
            for entry in entries:
                order = adopt(order, entry)
            assert order.ledger[PICK].attempts[0].outcome == better
            assert order.ledger[PICK].attempts[0].body_hash == "h1"


attempts = st.builds(
    Attempt,
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(["", "unknown", "retryable", "rejected", "sent"]),
    st.integers(0, 2),
    st.integers(0, 2),
)
effects = st.builds(
    lambda at, closed, closed_at, made, turns: Effect(
        PICK_ID,
        "warehouse.pick",
        "in_progress",
        "main",
        at,
        closed,
        closed_at,
        tuple({a.number: a for a in made}[n] for n in sorted({a.number for a in made})),
        "",
        turns,
    ),
    st.integers(0, 3),
    st.sampled_from(["", "withdrawn"]),
    st.integers(0, 2),
    st.lists(attempts, max_size=3),
    st.integers(0, 3),
)


@settings(max_examples=300)
@given(effects, effects, effects)
def test_what_is_known_of_effects_joins_like_a_semilattice(a: Effect, b: Effect, c: Effect) -> None:
    assert join_effects(a, b) == join_effects(b, a)
    assert join_effects(join_effects(a, b), c) == join_effects(a, join_effects(b, c))
    assert join_effects(a, a) == a


def test_an_entry_survives_its_journal() -> None:
    record = JournalRecord(ORDER, [*ENTRIES, RETIRED])
    assert decode_record(encode_record(record)) == record


def test_a_retired_order_keeps_names_keys_and_outcomes_and_forgets_people() -> None:
    order = Order(ORDER)
    for piece in (*LIFE, *ENTRIES):
        order = take(order, piece)
    order = adopt(order, RETIRED)
    assert order.facts == {}
    assert order.persons == {}
    assert order.ledger[PICK].attempts[-1].outcome == "sent"
    assert order.ledger[PICK].id == PICK_ID
    assert set(order.closed) == {"notify.email order_placed", "notify.push delivered"}
    assert view(order).status.value == "delivered"
    assert view(order).ended


def test_a_retired_order_takes_duplicates_without_a_change_and_keeps_what_is_new() -> None:
    order = Order(ORDER)
    for piece in (*LIFE, RETIRED):
        order = take(order, piece)
    before = encode(order)
    for fact in LIFE:
        order = merge(order, fact)
    assert encode(order) == before
    order = merge(order, EACH[7])
    assert view(order).disputed == 4999
    assert merge(order, captured(1, object="pi_9")).facts.keys() > order.facts.keys()
