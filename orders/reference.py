"""What one reference (a payment, a tracking number) stands for, and the facts that wait to learn it.

The state is a join: links, waiting facts and journal entries may come in any order, any number of times, and give the
same bytes. A fact that was settled (sent on or parked) no longer waits.

`Reference` is changed in place by `merge` and `adopt`: callers work on a `copy()` and keep it when its commit stands.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias

import msgspec

from orders.request import AnyReference, FactWaiting, ReferenceLinked
from orders.state import NewerState

STATE_VERSION = 1
TOLERANCE_MS = 24 * 3_600_000  # a link may begin up to a day late: clocks, and labels printed after the first scan


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A journal entry of the references lane."""

    key: str  # kind:value
    at: int  # ms, by the lane's clock
    fact: str  # ID of the waiting fact


class Seen(Entry, frozen=True, tag=True):
    """It begins to wait."""


class Settled(Entry, frozen=True, tag=True):
    """It was sent on to `order`, or parked: ""."""

    order: str = ""


AnyEntry: TypeAlias = Seen | Settled

encode_entry = msgspec.json.Encoder().encode
decode_entry = msgspec.json.Decoder(AnyEntry).decode


class Link(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    at: int  # of the report; the latest about an order wins
    since: int
    until: int  # 0: open


class Waiting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    fact: bytes = b""  # JSON
    seen: int = 0


class Settlement(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    at: int
    order: str  # "": parked


class Reference(msgspec.Struct, array_like=True):
    links: dict[str, Link] = {}  # order ID
    waiting: dict[str, Waiting] = {}  # fact ID
    settled: dict[str, Settlement] = {}  # fact ID

    def copy(self) -> Reference:
        return Reference(dict(self.links), dict(self.waiting), dict(self.settled))


_pack = msgspec.msgpack.Encoder(order="sorted").encode
_unpack = msgspec.msgpack.Decoder(Reference).decode


def encode(reference: Reference) -> bytes:
    return bytes((STATE_VERSION,)) + _pack(reference)


def decode(blob: bytes) -> Reference:
    """Raises NewerState for a state of a later version."""
    if blob[0] > STATE_VERSION:
        raise NewerState(blob[0], STATE_VERSION)
    return _unpack(memoryview(blob)[1:])


def fact_id(fact: bytes) -> str:
    """Names a waiting fact by its bytes: another report about the same thing waits beside it."""
    return blake2b(fact, digest_size=9).hexdigest()


def merge(reference: Reference, record: AnyReference) -> None:
    if isinstance(record, ReferenceLinked):
        link, known = Link(record.at, record.since, record.until), reference.links.get(record.order)
        if known is None or link > known:
            reference.links[record.order] = link
    elif isinstance(record, FactWaiting):
        fact = bytes(record.fact)
        _wait(reference, fact_id(fact), Waiting(fact))
    else:
        raise TypeError(type(record).__name__)


def adopt(reference: Reference, entry: AnyEntry) -> None:
    if isinstance(entry, Seen):
        _wait(reference, entry.fact, Waiting(seen=entry.at))
    elif isinstance(entry, Settled):
        new, known = Settlement(entry.at, entry.order), reference.settled.get(entry.fact)
        reference.settled[entry.fact] = new if known is None else max(known, new)
        reference.waiting.pop(entry.fact, None)
    else:
        raise TypeError(type(entry).__name__)


def orders_at(reference: Reference, at: int) -> list[str]:
    """Whose the reference was at that time: one order, or none yet, or nobody can tell which."""
    return sorted(
        order for order, link in reference.links.items() if link.since - TOLERANCE_MS <= at and (not link.until or at <= link.until)
    )


def _wait(reference: Reference, fact: str, part: Waiting) -> None:
    if fact in reference.settled:
        return
    known = reference.waiting.get(fact)
    if known is not None:
        part = Waiting(part.fact or known.fact, max(part.seen, known.seen))
    reference.waiting[fact] = part
