"""The state of one order: facts, decision, effects and fired timers, each of which can only be joined.

Two states of one order join to one that knows what either knew; joining is commutative, associative and idempotent, so a
state is the same bytes whatever the order, repetition and grouping in which its facts and journal entries arrived.
Everything else (status, money, what is wanted and when) is derived, see `orders.view` and `orders.plan`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from orders.compact import NUMBERS, AnyCompact, CompactPerson, encode_compact
from orders.decision import Decision
from orders.effect import Effect
from orders.fact import AT_MAX, AT_MIN, Fact, Person

STATE_VERSION = 1
VARIANTS = 4  # of one natural key are kept

Key: TypeAlias = tuple[str, str, str]  # natural key: kind, system, object
KIND = {kind.__name__: kind for kind in NUMBERS}


class NewerState(Exception):
    """The state was written by a newer version of this program; this one must not touch it. Nothing of it is parked or overwritten."""

    def __init__(self, found: int | str, known: int | str) -> None:
        super().__init__(f"a state of version {found}, this program knows up to {known}: upgrade it")


class Remnant(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What stays of an order long after it ended: enough to recognise every report and effect it ever had.

    It names what it stands for, so it merges like anything else: a fact whose key is covered adds nothing, any other
    fact is kept in full.
    """

    at: int
    status: str
    covered: tuple[bytes, ...]  # hashes of the natural keys it stands for, sorted


class Order:
    """Treat as immutable: whoever changes one works on a `fork` that nobody else has seen."""

    __slots__ = ("closed", "decision", "facts", "fired", "id", "learned", "ledger", "persons", "remnant", "retracts", "seen")

    def __init__(self, id: str) -> None:
        self.id = id
        self.facts: dict[Key, tuple[Fact, ...]] = {}  # greatest variant first; keys in the order their winners happened
        self.persons: dict[str, Person] = {}  # what `who` in a fact stands for
        self.decision: Decision | None = None  # in force
        self.closed: dict[str, int] = {}  # effects closed by the commit that offered them: name -> when
        self.ledger: dict[str, Effect] = {}  # effects that were really offered: name -> what is known of them
        self.fired: dict[str, int] = {}  # timers: name -> the time they were due
        self.remnant: Remnant | None = None
        # derived, not part of the state
        self.retracts = False  # some fact retracts another
        self.learned = False  # something that matters to a decision was merged since `seen`
        self.seen: tuple[str, ...] | None = None  # its tags at the last commit: status first

    def fork(self) -> Order:
        """A copy to be changed; facts, effects and the rest are shared until replaced."""
        other = Order.__new__(Order)
        other.id = self.id
        other.facts = self.facts
        other.persons = self.persons
        other.decision = self.decision
        other.closed = self.closed
        other.ledger = self.ledger
        other.fired = self.fired
        other.remnant = self.remnant
        other.retracts = self.retracts
        other.learned = self.learned
        other.seen = self.seen
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Order) and encode(self) == encode(other)

    __hash__ = None  # type: ignore[assignment]


def sane(fact: Fact) -> bool:
    return AT_MIN <= fact.at < AT_MAX


def rank(fact: Fact) -> tuple[bool, int, int, int, bool, bytes]:
    """The total order of variants of one natural key; the greatest wins."""
    return (sane(fact), fact.authority, fact.version, fact.at, not fact.backfilled, encode_compact(fact))


_PASSING = frozenset({"at", "v", "version", "authority", "backfilled", "order"})  # may differ without contradiction


def contradictory(variants: Sequence[Fact]) -> bool:
    """Whether two variants of the same source version say different things. A newer version corrects, it does not contradict."""
    names = [name for name in variants[0].__struct_fields__ if name not in _PASSING]
    said: dict[int, list[Any]] = {}
    for fact in variants:
        content = [getattr(fact, name) for name in names]
        if said.setdefault(fact.version, content) != content:
            return True
    return False


# --- bytes
class _Stored(msgspec.Struct, array_like=True, gc=False):
    id: str
    facts: list[list[AnyCompact]]
    decision: Decision | None
    closed: list[tuple[int, list[int | str]]]
    ledger: list[Effect]
    fired: dict[str, int]
    remnant: Remnant | None
    persons: dict[str, CompactPerson]  # last and by itself: personal data, and nothing else


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_VERSION = bytes([STATE_VERSION])
_UNKNOWN_KIND = re.compile(r"Invalid value \d+ - at `\$\[1\](\[[^]]*\]){2}\[0\]`")  # the number of a fact's kind


def encode(order: Order) -> bytes:
    """Canonical: equal states give equal bytes. The first byte is the version of this layout."""
    ledger = order.ledger
    return _VERSION + _encode(
        _Stored(
            order.id,
            list(order.facts.values()),  # type: ignore[arg-type]
            order.decision,
            _folded(order.closed) if order.closed else [],
            [ledger[name] for name in sorted(ledger)] if ledger else [],
            order.fired,
            order.remnant,
            order.persons,  # type: ignore[arg-type]
        )
    )


def decode(blob: bytes) -> Order:
    """Raises NewerState for a layout of a later version, msgspec.DecodeError for bytes that are no state."""
    if blob[0] > STATE_VERSION:
        raise NewerState(blob[0], STATE_VERSION)
    try:
        stored = _decode(memoryview(blob)[1:])
    except msgspec.ValidationError as error:
        if _UNKNOWN_KIND.search(str(error)):
            raise NewerState(f"{blob[0]} with a kind of fact that came later", f"{STATE_VERSION} with {len(NUMBERS)} kinds") from None
        raise
    order = Order(stored.id)
    facts: dict[Key, tuple[Fact, ...]] = {}
    for variants in stored.facts:
        first = variants[0]
        name = type(first).__name__
        facts[(name, first.system, first.object)] = tuple(variants)
        if name == "FactRetracted":
            order.retracts = True
    order.facts = facts
    order.persons = stored.persons  # type: ignore[assignment]
    order.decision = stored.decision
    order.closed = _unfolded(stored.closed)
    order.fired = stored.fired
    order.remnant = stored.remnant
    if stored.ledger:
        order.ledger = {effect_name(e.action, e.milestone, e.instance): e for e in stored.ledger}
    return order


# Closed effects are a third of a state: they are kept by when they were closed, and those that nearly every order has by number.
# The numbers are written in every stored state: append only, never reuse one.
_NAMES = (
    *(f"notify.{channel} {milestone}" for milestone in ("order_placed", "payment_confirmed") for channel in ("email", "sms", "push")),
    *(f"notify.{channel} {milestone}" for milestone in ("delivered", "feedback", "delay") for channel in ("email", "sms", "push")),
    *(f"stock.reserve paid {line}" for line in range(1, 9)),
    *(f"stock.check placed {line}" for line in range(1, 9)),
)
_NUMBER = {name: number for number, name in enumerate(_NAMES)}


def _folded(closed: dict[str, int]) -> list[tuple[int, list[int | str]]]:
    number = _NUMBER.get
    times = set(closed.values())
    if len(times) == 1:
        return [(times.pop(), [number(name, name) for name in sorted(closed)])]
    groups: dict[int, list[int | str]] = {at: [] for at in sorted(times)}
    for name in sorted(closed):
        groups[closed[name]].append(number(name, name))
    return list(groups.items())


def _unfolded(stored: list[tuple[int, list[int | str]]]) -> dict[str, int]:
    try:
        return {_NAMES[name] if isinstance(name, int) else name: at for at, names in stored for name in names}
    except IndexError:
        raise NewerState(f"{STATE_VERSION} with names of effects that came later", f"{STATE_VERSION} with {len(_NAMES)} names") from None


def effect_name(action: str, milestone: str, instance: str = "") -> str:
    """How a state names an effect; `orders.effect.effect_id` of the same three gives the ID that leaves."""
    return f"{action} {milestone} {instance}" if instance else f"{action} {milestone}"


def parts(name: str) -> tuple[str, str, str]:
    """action, milestone, instance."""
    action, milestone, *rest = name.split(" ", 2)
    return action, milestone, rest[0] if rest else ""
