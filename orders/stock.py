"""The stock of one SKU at one location: what is there, who has some of it, who waits.

The state is a join: records and journal entries may come in any order, any number of times, and give the same bytes. Who
gets the last unit is decided by the lane, and the decision is a journal entry. Each part carries its own time; parts
dated before `horizon` are forgotten and ignored when they come again.

`Stock` is changed in place by `merge` and `adopt`: callers work on a `copy()` and keep it when its commit stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from orders.request import AnyStock, StockLevelReported, StockReleaseRequested, StockRequested, StockShipped
from orders.state import NewerState

STATE_VERSION = 1
OPEN = 1 << 62  # the end of what has not ended


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A journal entry of the stock lane."""

    key: str  # sku@location
    at: int  # ms, by the lane's clock


class Reserved(Entry, frozen=True, tag=True):
    request: str
    quantity: int


class Queued(Entry, frozen=True, tag=True):
    """There was not enough; the request waits, and was told so."""

    request: str


class Forgotten(Entry, frozen=True, tag=True):
    before: int


AnyEntry: TypeAlias = Reserved | Queued | Forgotten

encode_entry = msgspec.json.Encoder().encode
decode_entry = msgspec.json.Decoder(AnyEntry).decode


class Level(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """What a warehouse counted; the greatest wins."""

    version: int
    at: int
    on_hand: int
    system: str


class Release(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    id: str
    at: int
    quantity: int


class Reservation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request and all that became of it. Times in ms, 0: has not happened."""

    requested_at: int = 0
    order: str = ""
    line: str = ""
    quantity: int = 0
    priority: float = 0.0
    reserved_at: int = 0
    reserved: int = 0
    queued_at: int = 0
    shipped_at: int = 0
    shipped: int = 0
    releases: tuple[Release, ...] = ()

    @property
    def released(self) -> int:
        return sum(release.quantity for release in self.releases)

    @property
    def wanted(self) -> int:
        """What is still wanted of it, reserved or not."""
        return 0 if self.shipped_at else max(0, self.quantity - self.released)

    @property
    def held(self) -> int:
        """What of the stock is kept for it."""
        return min(self.wanted, self.reserved) if self.reserved_at else 0

    @property
    def waits(self) -> bool:
        return bool(self.requested_at) and not self.reserved_at and self.wanted > 0


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is written of a stock; the rest is counted from it."""

    level: Level | None
    requests: dict[str, Reservation]
    horizon: int


class Stock:
    """`held`, `left` and `waiting` are counted along, so that a popular SKU costs no more than a rare one."""

    __slots__ = ("changed", "held", "horizon", "left", "level", "requests", "waiting")

    def __init__(self, level: Level | None = None, requests: dict[str, Reservation] | None = None, horizon: int = 0) -> None:
        self.level, self.requests, self.horizon = level, requests or {}, horizon
        self.changed = False  # since it was made
        self._count()

    def copy(self) -> Stock:
        twin = Stock.__new__(Stock)
        twin.level, twin.requests, twin.horizon = self.level, dict(self.requests), self.horizon
        twin.held, twin.left, twin.waiting, twin.changed = self.held, self.left, set(self.waiting), False
        return twin

    def _count(self) -> None:
        counted_at = self.level.at if self.level is not None else 0
        self.held = sum(r.held for r in self.requests.values())
        self.left = sum(r.shipped for r in self.requests.values() if r.shipped_at > counted_at)
        self.waiting = {request for request, r in self.requests.items() if r.waits}

    def _put(self, request: str, part: Reservation, at: int) -> str:
        if at < self.horizon:
            return request
        known = self.requests.get(request, NOTHING)
        new = part if known is NOTHING else join(known, part)
        if new == known:
            return request
        counted_at = self.level.at if self.level is not None else 0
        self.held += new.held - known.held
        self.left += (new.shipped if new.shipped_at > counted_at else 0) - (known.shipped if known.shipped_at > counted_at else 0)
        if new.waits:
            self.waiting.add(request)
        else:
            self.waiting.discard(request)
        self.requests[request] = new
        self.changed = True
        return request

    def _take_level(self, level: Level) -> None:
        if self.level is None or level > self.level:
            self.level = level
            self.changed = True
            self._count()

    def _forget(self, before: int) -> None:
        if before <= self.horizon:
            return
        self.horizon = before
        kept = {request: _since(r, before) for request, r in self.requests.items()}
        self.requests = {request: r for request, r in kept.items() if r != NOTHING}
        self.changed = True
        self._count()


_pack = msgspec.msgpack.Encoder(order="sorted").encode
_unpack = msgspec.msgpack.Decoder(Stored).decode


def encode(stock: Stock) -> bytes:
    return bytes((STATE_VERSION,)) + _pack(Stored(stock.level, stock.requests, stock.horizon))


def decode(blob: bytes) -> Stock:
    """Raises NewerState for a state of a later version."""
    if blob[0] > STATE_VERSION:
        raise NewerState(blob[0], STATE_VERSION)
    stored = _unpack(memoryview(blob)[1:])
    return Stock(stored.level, stored.requests, stored.horizon)


def merge(stock: Stock, record: AnyStock) -> str:
    """Take in one record that may change it; says which request it is about, or ""."""
    if isinstance(record, StockRequested):
        part = Reservation(record.at, record.order, record.line, record.quantity, record.priority)
        return stock._put(record.effect, part, record.at)
    if isinstance(record, StockReleaseRequested):
        release = Release(record.effect, record.at, record.quantity)
        return stock._put(record.request, Reservation(releases=(release,)), record.at)
    if isinstance(record, StockShipped):
        return stock._put(record.request, Reservation(shipped_at=record.at, shipped=record.quantity), record.at)
    if isinstance(record, StockLevelReported):
        stock._take_level(Level(record.version, record.at, record.on_hand, record.system))
        return ""
    raise TypeError(type(record).__name__)


def adopt(stock: Stock, entry: AnyEntry) -> str:
    """Take in one journal entry; says which request it is about, or ""."""
    if isinstance(entry, Reserved):
        return stock._put(entry.request, Reservation(reserved_at=entry.at, reserved=entry.quantity), entry.at)
    if isinstance(entry, Queued):
        return stock._put(entry.request, Reservation(queued_at=entry.at), entry.at)
    if isinstance(entry, Forgotten):
        stock._forget(entry.before)
        return ""
    raise TypeError(type(entry).__name__)


def on_hand(stock: Stock, assume: int | None = 0) -> int | None:
    """What lies there: the level, less what left after it was counted. Without a level `assume`; None: no limit."""
    base = assume if stock.level is None else stock.level.on_hand
    return None if base is None else max(0, base - stock.left)


def available(stock: Stock, assume: int | None = 0) -> int | None:
    """What nobody has yet, never below 0 (a warehouse may count less than was promised); None: no limit."""
    there = on_hand(stock, assume)
    return None if there is None else max(0, there - stock.held)


def allocate(stock: Stock, assume: int | None = 0) -> Iterator[tuple[str, int]]:
    """Which waiting requests can be served now and with how much, the most important first, then the longest waiting.

    A request is served whole or not at all; a smaller one behind it may go first.
    """
    if not stock.waiting:
        return
    known = ((request, stock.requests[request]) for request in stock.waiting)
    waiting = [(-r.priority, r.queued_at or OPEN, r.requested_at, request, r.wanted) for request, r in known]
    left = available(stock, assume)
    for *_, request, wanted in sorted(waiting):
        if left is None:
            yield request, wanted
        elif wanted <= left:
            left -= wanted
            yield request, wanted


def horizon(stock: Stock, before: int) -> int:
    """The latest time up to `before` that no request lies across and that the level has counted: all earlier is over."""
    before = min(before, stock.level.at if stock.level is not None else 0)
    for first, last in sorted((_times(r) for r in stock.requests.values()), key=lambda span: -span[1]):
        if first < before <= last:
            before = first
    return before


# --- joining
def join(a: Reservation, b: Reservation) -> Reservation:
    """Commutative, associative, idempotent. Of what was said twice the later counts, so that forgetting commutes too."""
    asked = max(a, b, key=_request)
    return Reservation(
        *_request(asked),
        *max((a.reserved_at, a.reserved), (b.reserved_at, b.reserved)),
        max(a.queued_at, b.queued_at),
        *max((a.shipped_at, a.shipped), (b.shipped_at, b.shipped)),
        _union(a.releases, b.releases),
    )


def _request(r: Reservation) -> tuple[int, str, str, int, float]:
    return r.requested_at, r.order, r.line, r.quantity, r.priority


def _union(a: tuple[Release, ...], b: tuple[Release, ...]) -> tuple[Release, ...]:
    if not a or not b or a == b:
        return a or b
    return tuple({release.id: release for release in sorted(a + b)}.values())


# --- forgetting
def _since(r: Reservation, before: int) -> Reservation:
    """What of it is dated `before` or later, part by part."""
    asked, reserved, shipped = r.requested_at >= before, r.reserved_at >= before, r.shipped_at >= before
    return Reservation(
        r.requested_at if asked else 0,
        r.order if asked else "",
        r.line if asked else "",
        r.quantity if asked else 0,
        r.priority if asked else 0.0,
        r.reserved_at if reserved else 0,
        r.reserved if reserved else 0,
        r.queued_at if r.queued_at >= before else 0,
        r.shipped_at if shipped else 0,
        r.shipped if shipped else 0,
        tuple(release for release in r.releases if release.at >= before),
    )


def _times(r: Reservation) -> tuple[int, int]:
    times = [at for at in (r.requested_at, r.reserved_at, r.queued_at, r.shipped_at) if at]
    times += [release.at for release in r.releases]
    if r.wanted and r.requested_at:
        times.append(OPEN)
    return min(times), max(times)


NOTHING = Reservation()
