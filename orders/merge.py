"""Merging: any order of arrival, any repetition, the same state.

`merge` takes in a fact, `join` two states of one order; journal entries merge through `orders.journal.adopt`. All of them
only ever add, keep the greatest, or unite, so they commute, associate and repeat harmlessly.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from orders.compact import TWINS, compact, compact_person
from orders.decision import MATTERS, in_force
from orders.effect import Effect, join_effects
from orders.fact import Fact, FactRetracted, Person
from orders.state import VARIANTS, Key, Order, Remnant, contradictory, rank

MATTERING = frozenset(TWINS[kind] for kind in MATTERS)
RETRACTED = TWINS[FactRetracted]


# What a fact was to the state it met; counted, never stored.
APPLIED = "applied"
LATE = "late"  # new, but something that happened after it was known already
SUPERSEDED = "superseded"  # a lesser variant of something known
CONTRADICTION = "contradiction"
DUPLICATE = "duplicate"


def merge(order: Order, fact: Fact) -> Order:
    """The order with the fact merged in. Raises ValueError for a fact of another order."""
    if fact.order not in ("", order.id):
        raise ValueError("a fact of another order")
    merged = order.fork()
    absorb(merged, fact)
    return merged


def absorb(order: Order, fact: Fact) -> str:
    """`merge` in place, for whoever owns the fork: replaces what it changes, touches nothing that is shared."""
    kind = type(fact)
    key: Key = (kind.__name__, fact.system, fact.object)
    if order.remnant is not None and key_hash(key) in order.remnant.covered:
        return DUPLICATE
    small = compact(fact)
    facts = order.facts
    variants = facts.get(key)
    if variants is None:
        outcome = _add(order, facts, key, small)
    elif small in variants:
        return DUPLICATE
    else:
        outcome = _vary(order, key, variants, small)
    person: Person | None = getattr(fact, "person", None)
    if person is not None:
        order.persons = {**order.persons, small.who: compact_person(person)}  # type: ignore[attr-defined]
        if variants is not None:
            _forget(order)
    kind = type(small)
    if kind in MATTERING:
        order.learned = True
    elif kind is RETRACTED:
        order.learned = order.retracts = True
    return outcome


def _add(order: Order, facts: dict[Key, tuple[Fact, ...]], key: Key, fact: Fact) -> str:
    if not facts:
        order.facts = {key: (fact,)}
        return APPLIED
    last = next(reversed(facts))
    last_at = facts[last][0].at
    order.facts = {**facts, key: (fact,)}
    if (fact.at, key) >= (last_at, last):
        return APPLIED
    order.facts = _by_time(order.facts)
    return LATE


def _vary(order: Order, key: Key, variants: tuple[Fact, ...], fact: Fact) -> str:
    kept = tuple(sorted((*variants, fact), key=rank, reverse=True)[:VARIANTS])
    if kept == variants:
        return SUPERSEDED  # four greater ones are known
    order.facts = {**order.facts, key: kept}
    if kept[0].at != variants[0].at:
        order.facts = _by_time(order.facts)
    if contradictory(kept):
        return CONTRADICTION
    return APPLIED if kept[0] is fact else SUPERSEDED


def _by_time(facts: dict[Key, tuple[Fact, ...]]) -> dict[Key, tuple[Fact, ...]]:
    return dict(sorted(facts.items(), key=_when))


def _when(item: tuple[Key, tuple[Fact, ...]]) -> tuple[int, Key]:
    return (item[1][0].at, item[0])


def _forget(order: Order) -> None:
    """Drops personal data to which no kept variant refers."""
    used = {getattr(fact, "who", "") for variants in order.facts.values() for fact in variants}
    if not order.persons.keys() <= used:
        order.persons = {who: person for who, person in order.persons.items() if who in used}


def key_hash(key: Key) -> bytes:
    """A natural key in 8 bytes, as remnants name it."""
    return blake2b("\x1f".join(key).encode(), digest_size=8).digest()


def join(a: Order, b: Order) -> Order:
    """What either knew. Both must be states of one order."""
    if a.id != b.id:
        raise ValueError("states of different orders")
    joined = a.fork()
    joined.learned = True
    joined.seen = None
    joined.retracts = a.retracts or b.retracts
    facts = dict(a.facts)
    for key, variants in b.facts.items():
        mine = facts.get(key)
        if mine is None:
            facts[key] = variants
        elif mine != variants:
            facts[key] = tuple(sorted({rank(fact): fact for fact in (*mine, *variants)}.values(), key=rank, reverse=True)[:VARIANTS])
    joined.facts = _by_time(facts)
    joined.persons = {**a.persons, **b.persons}
    joined.decision = in_force(a.decision, b.decision)
    joined.closed = earliest(a.closed, b.closed)
    joined.fired = earliest(a.fired, b.fired)
    ledger = dict(a.ledger)
    for name, effect in b.ledger.items():
        ledger[name] = join_effects(ledger[name], effect) if name in ledger else effect
    joined.ledger = ledger
    joined.remnant = join_remnants(a.remnant, b.remnant)
    if joined.remnant is not None:
        shrink(joined)
    _forget(joined)
    return joined


def earliest(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    """The union, each with its earlier time."""
    if not a or not b:
        return a or b
    united = a | b
    if len(united) < len(a) + len(b):
        for name in a.keys() & b.keys():
            united[name] = min(a[name], b[name])
    return united


def join_remnants(a: Remnant | None, b: Remnant | None) -> Remnant | None:
    if a is None or b is None or a == b:
        return b if a is None else a
    later = max(a, b, key=lambda r: (r.at, r.status))
    return Remnant(at=later.at, status=later.status, covered=tuple(sorted({*a.covered, *b.covered})))


def retire(order: Order, remnant: Remnant) -> None:
    """Lets go, in place, of all that the remnant stands for."""
    joined = join_remnants(order.remnant, remnant)
    assert joined is not None
    order.remnant = joined
    shrink(order)
    _forget(order)


def shrink(order: Order) -> None:
    """The canonical form under a remnant: covered facts are gone, effects keep their names and outcomes.

    It forgets field by field, so it does not matter whether something is joined before or after.
    """
    assert order.remnant is not None
    covered = set(order.remnant.covered)
    order.facts = {key: variants for key, variants in order.facts.items() if key_hash(key) not in covered}
    order.decision = None
    order.fired = {}
    order.closed = dict.fromkeys(order.closed, 0)
    order.ledger = {name: bare(effect) for name, effect in order.ledger.items()}
    order.retracts = any(key[0] == "FactRetracted" for key in order.facts)


def bare(effect: Effect) -> Effect:
    """An effect's name, ID and outcomes, without times, hashes and references."""
    attempts: list[Any] = [
        msgspec.structs.replace(a, claimed_at=0, deadline=0, body_hash="", outcome_at=0, after=0, reference="", reason="")
        for a in effect.attempts
    ]
    return msgspec.structs.replace(effect, offered_at=0, closed_at=0, attempts=tuple(attempts))
