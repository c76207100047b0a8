"""What the warehouse's pages show, the protocol through which they get it, and that protocol over the store."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from connectors.store import LaneId, Store
from orders import stock
from orders.policy import Policy
from orders.state import Order, decode
from orders.stock import Stock
from orders.warehouse import STAGES, Job, jobs
from streams.partition import partition_of

PAGE = 200  # states read at once
MOST_ORDERS = 4_000  # looked at for one list
MOST_SHELVES = 20_000


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """The first jobs of one stage at one location, whose turn comes first first."""

    location: str
    stage: str
    jobs: tuple[Job, ...]
    total: int  # orders in this stage there
    cut: bool = False  # there are too many to look at: an earlier turn may be missing


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """The stock of one SKU at one location."""

    sku: str
    location: str
    on_hand: int
    reserved: int
    available: int
    waiting: int  # requests that there was not enough for
    counted_at: int = 0  # ms; 0: nobody has told yet
    counted_by: str = ""  # system


class Shelves(msgspec.Struct, frozen=True, kw_only=True):
    """Lowest available first."""

    rows: tuple[Shelf, ...]
    total: int
    cut: bool = False  # there are too many to look at


class Floor(Protocol):
    """Looks, and never blocks the loop. Raises ConnectionError or TimeoutError when the store cannot be asked."""

    async def counts(self) -> dict[str, dict[str, int]]:
        """How many orders are in each stage, by location."""

    async def queue(self, stage: str, location: str, limit: int) -> Queue: ...

    async def order(self, order_id: str) -> Order | None: ...

    async def stock(self, sku: str, location: str) -> Stock | None: ...

    async def shelves(self, search: str, start: int, limit: int) -> Shelves:
        """Those whose SKU contains `search`, whatever its case."""


class StoreFloor:
    """The Floor over the store: every processor has `partitions` lanes, one per partition of its topic."""

    def __init__(self, store: Store, layout: int, partitions: int, policy: Policy) -> None:
        self._store, self._policy = store, policy
        self._orders = [LaneId("orders", layout, p) for p in range(partitions)]
        self._stock = [LaneId("stock", layout, p) for p in range(partitions)]

    async def counts(self) -> dict[str, dict[str, int]]:
        return by_location((await self._store.tag_counts(self._orders)).items())

    async def queue(self, stage: str, location: str, limit: int) -> Queue:
        """Reads by when orders could first be picked. No turn is more than `overtake_ms` before that: what could first be picked
        later than the last kept turn by as much is not looked at, so that a long queue costs no more than its head."""
        tag = f"{stage}:{location}"
        first: list[tuple[int, str, Job]] = []
        cut = False
        for lane in self._orders:
            for start in range(0, 1 << 31, PAGE):
                found = await self._store.first_by_tag(lane, tag, start, PAGE)
                if not found or (len(first) == limit and found[0][0] - self._policy.overtake_ms > first[-1][0]):
                    break
                if start >= MOST_ORDERS // len(self._orders):
                    cut = True
                    break
                states = await self._store.load(lane, [key for _, key in found])
                here = [job for blob in states if blob is not None for job in jobs(decode(blob), self._policy)]
                these = [(job.turn, job.order, job) for job in here if (job.stage, job.location) == (stage, location)]
                first = heapq.nsmallest(limit, [*first, *these], key=lambda entry: entry[:2])
        total = (await self._store.tag_counts(self._orders)).get(tag, 0)
        return Queue(location=location, stage=stage, jobs=tuple(job for *_, job in first), total=total, cut=cut)

    async def order(self, order_id: str) -> Order | None:
        blob = await self._store.state(self._orders[partition_of(order_id.encode(), len(self._orders))], order_id)
        return None if blob is None else decode(blob)

    async def stock(self, sku: str, location: str) -> Stock | None:
        key = f"{sku}@{location}"
        blob = await self._store.state(self._stock[partition_of(key.encode(), len(self._stock))], key)
        return None if blob is None else stock.decode(blob)

    async def shelves(self, search: str, start: int, limit: int) -> Shelves:
        wanted, found, seen = search.casefold(), {}, 0
        for lane in self._stock:
            async for key, blob in self._store.states(lane):
                seen += 1
                if wanted in key.rpartition("@")[0].casefold():
                    found[key] = shelf(key, stock.decode(blob))
                if seen >= MOST_SHELVES:
                    return page_of(found.values(), start, limit, cut=True)
        return page_of(found.values(), start, limit)


def by_location(tags: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for tag, count in tags:
        stage, colon, location = tag.partition(":")
        if colon and stage in STAGES:
            found.setdefault(location, {})[stage] = count
    return dict(sorted(found.items()))


def shelf(key: str, its: Stock) -> Shelf:
    sku, _, location = key.rpartition("@")
    return Shelf(
        sku=sku,
        location=location,
        on_hand=stock.on_hand(its) or 0,
        reserved=its.held,
        available=stock.available(its) or 0,
        waiting=len(its.waiting),
        counted_at=its.level.at if its.level is not None else 0,
        counted_by=its.level.system if its.level is not None else "",
    )


def page_of(shelves: Iterable[Shelf], start: int, limit: int, cut: bool = False) -> Shelves:
    rows: Sequence[Shelf] = sorted(shelves, key=lambda row: (row.available, -row.waiting, row.sku, row.location))
    return Shelves(rows=tuple(rows[start : start + limit]), total=len(rows), cut=cut)
