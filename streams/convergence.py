"""Whether arrival order really does not matter, looked at while it works: one finished order in a hundred is folded again.

The facts of a sampled order are kept as they came, repetitions included. When it ends they are shuffled, some are repeated, and
all are merged into an empty order, which must be the same bytes as the state. An order whose life was not seen whole (it moved
here from another worker, or was rebuilt, or there was no room for it) is let go without a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from zlib import crc32

import msgspec
import structlog

from orders.fact import Fact, decode_fact, encode_fact
from orders.merge import absorb
from orders.state import Order, encode

SHARE = 100  # one order of so many
ORDERS_MAX, FACTS_MAX = 1000, 100  # what a lane keeps: so many orders, none of more facts; some 4 MB
STALE_MS = 14 * 86_400_000  # an order that began so long before another makes room for it
log = structlog.get_logger("convergence")


class Seen(msgspec.Struct):
    """What came for one order in turns that may yet have to be repeated: a commit that fails takes the last turn's back."""

    facts: list[bytes]
    before: bytes  # digest of its state before the last turn
    kept: int  # facts of the turns before the last
    since: int  # ms, when its first fact happened
    after: bytes = b""


class Sampler:
    """Counts "checks" and "violations" on `counts`."""

    def __init__(self, counts: Counter[str], share: int = SHARE) -> None:
        self._counts, self._share = counts, share
        self._seen: dict[str, Seen] = {}

    def sampled(self, key: bytes) -> bool:
        return crc32(key) % self._share == 0

    def saw(self, before: Order | None, order: Order, facts: Sequence[Fact]) -> None:
        """A turn brought these facts, at least one, in this order, and made `order` of what it was before."""
        was = _digest(before or Order(order.id))
        seen = self._seen.get(order.id)
        if before is None:
            if seen is None and not self._has_room(facts[0].at):
                return
            seen = self._seen[order.id] = Seen([], was, 0, facts[0].at)
        elif seen is None:
            return
        elif seen.after == was:
            seen.before, seen.kept = was, len(seen.facts)
        elif seen.before == was:
            del seen.facts[seen.kept :]
        else:
            del self._seen[order.id]
            return
        seen.facts += map(encode_fact, facts)
        seen.after = _digest(order)
        if len(seen.facts) > FACTS_MAX:
            del self._seen[order.id]

    def ended(self, order: Order) -> None:
        """The order has come to its end: is it what its facts make of it in any other order of arrival?"""
        seen = self._seen.pop(order.id, None)
        if seen is None or order.remnant is not None or seen.after != _digest(order):
            return
        rng = Random(order.id)
        facts = seen.facts + rng.choices(seen.facts, k=min(3, len(seen.facts)))
        rng.shuffle(facts)
        again = Order(order.id)
        for fact in facts:
            absorb(again, decode_fact(fact))
        self._counts["checks"] += 1
        if _digest(again) != seen.after:
            self._counts["violations"] += 1
            log.error("a state depends on the order of arrival", order_id=order.id, facts=len(seen.facts))

    def _has_room(self, at: int) -> bool:
        """Orders that are under way are not pushed out by new ones, or none would be seen to its end; those that never end are."""
        if len(self._seen) < ORDERS_MAX:
            return True
        oldest = next(iter(self._seen))
        if self._seen[oldest].since > at - STALE_MS:
            return False
        del self._seen[oldest]
        return True


def _digest(order: Order) -> bytes:
    """Of what facts alone make of an order; decisions, effects and timers are the lane's own."""
    told = Order(order.id)
    told.facts, told.persons = order.facts, order.persons
    return blake2b(encode(told) + bytes([order.retracts]), digest_size=16).digest()
