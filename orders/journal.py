"""What the orders lane decided, as entries of its journal. Each is a piece of state and merges like a fact.

One JSON object per order and commit: `{"key": order ID, "entries": [...]}`. A state that was lost is rebuilt from facts
and entries, in any order and however often each is met, and equals the lost one byte for byte.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orders.decision import Decision, in_force
from orders.effect import Attempt, Effect, join_effects
from orders.merge import earliest, retire, shrink
from orders.state import Order, Remnant, effect_name


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    at: int  # ms, by the lane's clock; a timer's own due time


class Decided(Entry, frozen=True, tag=True):
    """A score and what was made of it, with what it knew."""

    decision: Decision


class Closed(Entry, frozen=True, tag=True):
    """Effects offered and closed by one commit: observed, or (references) done with their record in the outbox."""

    effects: tuple[str, ...]  # names
    channels: int = 0  # version of the document of modes, stops and flags


class Offered(Entry, frozen=True, tag=True):
    """An effect became wanted; `turns` > 0: again."""

    id: str
    action: str
    milestone: str
    instance: str = ""
    undoes: str = ""
    turns: int = 0
    channels: int = 0


class Withdrawn(Entry, frozen=True, tag=True):
    """An effect stopped being wanted before it was claimed, or, for a message, before we knew what became of it."""

    id: str
    effect: str  # name
    turns: int


class Claimed(Entry, frozen=True, tag=True):
    """One attempt may leave once this entry is acknowledged by the log."""

    id: str
    effect: str  # name
    attempt: int
    deadline: int
    body_hash: str
    mode: str  # "sandbox" | "live"
    lookup: bool = False  # asks what became of an earlier attempt
    channels: int = 0


class Ended(Entry, frozen=True, tag=True):
    """What became of one attempt."""

    id: str
    effect: str  # name
    attempt: int
    kind: str  # "sent" | "rejected" | "retryable" | "unknown"
    after: int = 0
    reference: str = ""
    reason: str = ""


class Answered(Entry, frozen=True, tag=True):
    """The fact that answered this effect goes with the order's retirement; the effect stays closed."""

    id: str
    effect: str  # name
    turns: int = 0


class TimerFired(Entry, frozen=True, tag=True):
    timer: str


class Retired(Entry, frozen=True, tag=True):
    """The order ended long ago and shrinks to its remnant."""

    status: str
    covered: tuple[bytes, ...]


AnyEntry: TypeAlias = Decided | Closed | Offered | Withdrawn | Claimed | Ended | Answered | TimerFired | Retired


class JournalRecord(msgspec.Struct, frozen=True, gc=False):
    key: str
    entries: list[AnyEntry]


encode_record = msgspec.json.Encoder().encode
decode_record = msgspec.json.Decoder(JournalRecord).decode


def adopt(order: Order, entry: AnyEntry) -> Order:
    """The order with the entry merged in."""
    adopted = order.fork()
    take_in(adopted, entry)
    return adopted


def take_in(order: Order, entry: AnyEntry) -> None:
    """`adopt` in place, for whoever owns the fork."""
    if isinstance(entry, Closed):
        new = dict.fromkeys(entry.effects, entry.at)
        order.closed = earliest(order.closed, new) if order.closed else new
    elif isinstance(entry, Decided):
        order.decision = in_force(order.decision, entry.decision)
    elif isinstance(entry, TimerFired):
        order.fired = earliest(order.fired, {entry.timer: entry.at})
    elif isinstance(entry, Retired):
        retire(order, Remnant(at=entry.at, status=entry.status, covered=entry.covered))
    else:
        name, effect = _piece(entry)
        known = order.ledger.get(name)
        order.ledger = {**order.ledger, name: effect if known is None else join_effects(known, effect)}
    if order.remnant is not None:
        shrink(order)


def _piece(entry: Offered | Withdrawn | Answered | Claimed | Ended) -> tuple[str, Effect]:
    """What one entry alone says of its effect; what it does not say stays empty and joins with the rest."""
    if isinstance(entry, Offered):
        return effect_name(entry.action, entry.milestone, entry.instance), Effect(
            id=entry.id,
            action=entry.action,
            milestone=entry.milestone,
            instance=entry.instance,
            offered_at=entry.at,
            undoes=entry.undoes,
            turns=entry.turns,
        )
    action, milestone, *rest = entry.effect.split(" ", 2)
    instance = rest[0] if rest else ""
    if isinstance(entry, Withdrawn | Answered):
        return entry.effect, Effect(
            id=entry.id,
            action=action,
            milestone=milestone,
            instance=instance,
            offered_at=0,
            closed="withdrawn" if isinstance(entry, Withdrawn) else "answered",
            closed_at=entry.at,
            turns=entry.turns,
        )
    if isinstance(entry, Claimed):
        attempt = Attempt(
            number=entry.attempt, claimed_at=entry.at, deadline=entry.deadline, body_hash=entry.body_hash, lookup=entry.lookup
        )
    else:
        attempt = Attempt(
            number=entry.attempt,
            claimed_at=0,
            deadline=0,
            body_hash="",
            outcome=entry.kind,
            outcome_at=entry.at,
            after=entry.after,
            reference=entry.reference,
            reason=entry.reason,
        )
    return entry.effect, Effect(id=entry.id, action=action, milestone=milestone, instance=instance, offered_at=0, attempts=(attempt,))
