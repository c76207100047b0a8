"""The Reader over the store: the bytes that a lane committed, decoded and derived when somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence

from connectors.store import LaneId, Standing, Store
from messages.customer import decode as decode_customer
from orders.policy import Policy
from orders.reference import decode as decode_reference
from orders.state import Order, decode
from orders.status import Status
from streams.lane import decode_parked
from streams.partition import partition_of
from streams.transport import Log, LogDown, LogMismatch
from web.evidence import evidence, urgency, waiting
from web.explain import detail, parked_row, row
from web.reader import Counters, Evidence, OrderDetail, ParkedRow, Row, Waiting

CONSIDERED = 1000  # of a queue longer than that, those that have waited longest are put in order
MOST_FOUND = 200  # a person who orders more is rather a shop
MESSAGE_COUNT = "message."  # a lane's counter "message.<channel>.<outcome>"
STATUSES = frozenset(status.value for status in Status)
HEAD_S = 5.0  # how old the age of what waits may be: reading a record costs more than a counter
TOPICS = {"intake": "deliveries", "orders": "facts", "references": "references", "stock": "stock", "customers": "customers"}


class StoreReader:
    """Every processor has `partitions` lanes, one per partition of its topic; `own`: lanes' name -> the retailer's topic they read.

    `shops`: slugs, so that an order is found by the shop's own ID.
    """

    def __init__(
        self,
        store: Store,
        log: Log,
        layout: int,
        partitions: int,
        own: Mapping[str, str] | None = None,
        *,
        shops: Collection[str] = (),
        policy: Policy | None = None,
    ) -> None:
        self._store, self._log, self._layout, self._policy = store, log, layout, policy or Policy()
        self._shops = tuple(shops)
        self._topics = {**TOPICS, **(own or {})}
        self._lanes = {name: [LaneId(name, layout, p) for p in range(partitions)] for name in TOPICS}
        self._orders = self._lanes["orders"]
        self._heads: dict[str, tuple[float, int]] = {}  # processor -> when its head was looked at, and what was found

    async def order(self, order_id: str) -> OrderDetail | None:
        order = await self._order(order_id)
        return None if order is None else detail(order, self._policy)

    async def _order(self, order_id: str) -> Order | None:
        blob = await self._state("orders", order_id)
        return None if blob is None else decode(blob)

    async def orders(self, tag: str, limit: int, before: tuple[int, str] | None = None) -> Sequence[Row]:
        tags = [tag] if tag else [status.value for status in Status]
        pages = await asyncio.gather(*(self._store.by_tag(self._orders, each, limit, before) for each in tags))
        latest = sorted({(score, key, lane) for page in pages for score, key, lane in page}, reverse=True)[:limit]
        found = await self._load(latest)
        return [row(found[key], score) for score, key, _ in latest if key in found]

    async def _load(self, entries: Sequence[tuple[int, str, LaneId]]) -> dict[str, Order]:
        found: dict[str, Order] = {}
        for lane in {lane for _, _, lane in entries}:
            keys = [key for _, key, its in entries if its == lane]
            for key, blob in zip(keys, await self._store.load(lane, keys), strict=True):
                if blob is not None:
                    found[key] = decode(blob)
        return found

    async def reviews(self, queue: str, limit: int) -> Sequence[Waiting]:
        found = await self._load(await self._store.oldest(self._orders, queue, CONSIDERED))
        rows = [its for order in found.values() if (its := waiting(order, queue, self._policy.review_sla_ms)) is not None]
        return sorted(rows, key=urgency)[:limit]

    async def evidence(self, order_id: str, queue: str) -> Evidence | None:
        order = await self._order(order_id)
        return None if order is None else evidence(order, queue, self._policy.review_sla_ms)

    async def find(self, text: str) -> Sequence[Row]:
        number = text.removeprefix("#")
        ids = {text, *(f"{shop}:{number}" for shop in self._shops)}
        for key in (f"number:{number}", f"payment:{text}", f"tracking:{text}", f"tracking:{text.upper().replace(' ', '')}"):
            if (blob := await self._state("references", key)) is not None:
                ids |= decode_reference(blob).links.keys()
        if (blob := await self._state("customers", text)) is not None:
            ids |= {message.order for message in decode_customer(blob).messages.values()}
        blobs = await asyncio.gather(*(self._state("orders", order_id) for order_id in sorted(ids)))
        rows = [row(decode(blob)) for blob in blobs if blob is not None]
        return sorted(rows, key=lambda found: (found.moved_at, found.id), reverse=True)[:MOST_FOUND]

    async def _state(self, processor: str, key: str) -> bytes | None:
        lanes, raw = self._lanes[processor], key.encode(errors="replace")
        return await self._store.state(lanes[partition_of(raw, len(lanes))], raw.decode())

    async def parked(self, reason: str, limit: int) -> Sequence[ParkedRow]:
        await self._find_own()
        every = [lane for lanes in self._lanes.values() for lane in lanes]
        rows = []
        for lane, name, blob in await self._store.parked_list(every, reason, limit):
            rows.append(parked_row(name, lane.processor, decode_parked(blob)))
        return sorted(rows, key=lambda parked: (-parked.at, parked.id))

    async def counters(self) -> Counters:
        await self._find_own()
        standings = {name: await self._store.standing(lanes) for name, lanes in self._lanes.items()}
        tags = await self._store.tag_counts(self._orders)
        totals: dict[str, int] = {}
        for standing in (each for lanes in standings.values() for each in lanes):
            for name, count in standing.counts.items():
                totals[name] = totals.get(name, 0) + count
        messages: dict[str, dict[str, int]] = {}
        for name, count in sorted(totals.items()):
            if name.startswith(MESSAGE_COUNT):
                channel, _, outcome = name.removeprefix(MESSAGE_COUNT).partition(".")
                messages.setdefault(channel, {})[outcome] = count
        behind = {name: await self._behind(name, its) for name, its in standings.items()}
        oldest = {name: await self._oldest(name, its) for name, its in behind.items()}
        waiting = sum(count for its in behind.values() for _, count in its)
        fallback = totals.get("fallback_scores", 0)
        return Counters(
            accepted=totals.get("accepted", 0) + waiting,
            done=totals.get("done", 0),
            parked=totals.get("parked", 0),
            waiting=waiting,
            parked_now=sum(each.parked for its in standings.values() for each in its),
            facts=sum(each.counts.get("done", 0) for each in standings["orders"]),
            duplicates=totals.get("duplicate", 0),
            orders={status.value: tags[status] for status in Status if status in tags},
            messages=messages,
            unknown=tags.get("unknown", 0),
            held=tags.get("held", 0),
            scores=totals.get("model_scores", 0) + fallback,
            fallback_scores=fallback,
            behind={name: sum(count for _, count in its) for name, its in behind.items()},
            oldest={name: at for name, at in oldest.items() if at},
            flags={tag: count for tag, count in tags.items() if tag not in STATUSES},
            scheduled=sum(each.due for each in standings["customers"]),
        )

    async def _find_own(self) -> None:
        """The lanes of the retailer's own topics, which have as many partitions as he likes."""
        for name in self._topics.keys() - self._lanes.keys():
            self._lanes[name] = [LaneId(name, self._layout, p) for p in await self._log.bounds(self._topics[name])]

    async def _behind(self, processor: str, standings: Sequence[Standing]) -> list[tuple[Standing, int]]:
        """By lane the records of its topic that it has not taken in yet."""
        bounds = await self._log.bounds(self._topics[processor])
        return [
            (each, max(0, bounds[each.lane.partition][1] - each.offset))
            for each in standings
            if each.offset is not None and each.lane.partition in bounds
        ]

    async def _oldest(self, processor: str, behind: Sequence[tuple[Standing, int]]) -> int:
        """When the record was written that the lane furthest behind reads next, ms; 0: none waits, or it cannot be read."""
        last, count = max(behind, key=lambda pair: pair[1], default=(None, 0))
        if last is None or last.offset is None or not count:
            self._heads.pop(processor, None)
            return 0
        looked, found = self._heads.get(processor, (0.0, 0))
        now = time.monotonic()
        if not looked or now - looked > HEAD_S:
            found = 0
            with contextlib.suppress(LogDown, LogMismatch):
                head = await self._log.read(self._topics[processor], last.lane.partition, last.offset, 1)
                found = next((int(getattr(record, "timestamp", 0)) for record in head), 0)
            self._heads[processor] = (now, found)
        return found
