"""The Reader over the store: the bytes that a lane committed, decoded and derived when somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from connectors.store import LaneId, Standing, Store
from orders.policy import Policy
from orders.state import Order, decode
from orders.status import Status
from streams.lane import decode_parked
from streams.partition import partition_of
from streams.transport import Log
from web.evidence import evidence, urgency, waiting
from web.explain import detail, row
from web.reader import Counters, Evidence, OrderDetail, ParkedRow, Row, Waiting

CONSIDERED = 1000  # of a queue longer than that, those that have waited longest are put in order
MESSAGE_COUNT = "message."  # a lane's counter "message.<channel>.<outcome>"


TOPICS = {"intake": "deliveries", "orders": "facts", "references": "references", "stock": "stock", "customers": "customers"}


class StoreReader:
    """Every processor has `partitions` lanes, one per partition of its topic."""

    def __init__(self, store: Store, log: Log, layout: int, partitions: int, review_sla_ms: int = Policy().review_sla_ms) -> None:
        self._store, self._log, self._sla_ms = store, log, review_sla_ms
        self._lanes = {name: [LaneId(name, layout, p) for p in range(partitions)] for name in TOPICS}
        self._orders = self._lanes["orders"]

    async def order(self, order_id: str) -> OrderDetail | None:
        order = await self._order(order_id)
        return None if order is None else detail(order)

    async def _order(self, order_id: str) -> Order | None:
        lane = self._orders[partition_of(order_id.encode(), len(self._orders))]
        blob = await self._store.state(lane, order_id)
        return None if blob is None else decode(blob)

    async def orders(self, tag: str, limit: int) -> Sequence[Row]:
        tags = [tag] if tag else [status.value for status in Status]
        pages = await asyncio.gather(*(self._store.by_tag(self._orders, each, limit) for each in tags))
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
        rows = [its for order in found.values() if (its := waiting(order, queue, self._sla_ms)) is not None]
        return sorted(rows, key=urgency)[:limit]

    async def evidence(self, order_id: str, queue: str) -> Evidence | None:
        order = await self._order(order_id)
        return None if order is None else evidence(order, queue, self._sla_ms)

    async def parked(self, reason: str, limit: int) -> Sequence[ParkedRow]:
        every = [lane for lanes in self._lanes.values() for lane in lanes]
        rows = []
        for lane, name, blob in await self._store.parked_list(every, reason, limit):
            parked = decode_parked(blob)
            rows.append(
                ParkedRow(
                    id=name,
                    reason=parked.reason,
                    detail=parked.detail,
                    processor=lane.processor,
                    topic=parked.topic,
                    partition=parked.partition,
                    offset=parked.offset,
                    at=parked.at,
                    size=len(parked.value),
                )
            )
        return sorted(rows, key=lambda parked: (-parked.at, parked.id))

    async def counters(self) -> Counters:
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
        waiting = sum([await self._waiting(name, its) for name, its in standings.items()])
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
        )

    async def _waiting(self, processor: str, standings: Sequence[Standing]) -> int:
        """Records of its topic that no lane has taken in yet."""
        bounds = await self._log.bounds(TOPICS[processor])
        return sum(
            max(0, bounds[each.lane.partition][1] - each.offset)
            for each in standings
            if each.offset is not None and each.lane.partition in bounds
        )
