"""The Reader over the store: the bytes that a lane committed, decoded and derived when somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from connectors.store import LaneId, Standing, Store
from messages.customer import decode as decode_customer
from orders.reference import decode as decode_reference
from orders.state import Order, decode
from orders.status import Status
from streams.lane import decode_parked
from streams.partition import partition_of
from streams.transport import Log
from web.explain import detail, row
from web.reader import Counters, OrderDetail, ParkedRow, Row

MOST_FOUND = 200  # a person who orders more is rather a shop
MESSAGE_COUNT = "message."  # a lane's counter "message.<channel>.<outcome>"


TOPICS = {"intake": "deliveries", "orders": "facts", "references": "references", "stock": "stock", "customers": "customers"}


class StoreReader:
    """Every processor has `partitions` lanes, one per partition of its topic."""

    def __init__(self, store: Store, log: Log, layout: int, partitions: int) -> None:
        self._store, self._log = store, log
        self._lanes = {name: [LaneId(name, layout, p) for p in range(partitions)] for name in TOPICS}
        self._orders = self._lanes["orders"]

    async def order(self, order_id: str) -> OrderDetail | None:
        blob = await self._state("orders", order_id)
        return None if blob is None else detail(decode(blob))

    async def orders(self, tag: str, limit: int, before: tuple[int, str] | None = None) -> Sequence[Row]:
        tags = [tag] if tag else [status.value for status in Status]
        pages = await asyncio.gather(*(self._store.by_tag(self._orders, each, limit, before) for each in tags))
        latest = sorted({(score, key, lane) for page in pages for score, key, lane in page}, reverse=True)[:limit]
        found: dict[str, Order] = {}
        for lane in {lane for _, _, lane in latest}:
            keys = [key for _, key, its in latest if its == lane]
            for key, blob in zip(keys, await self._store.load(lane, keys), strict=True):
                if blob is not None:
                    found[key] = decode(blob)
        return [row(found[key], score) for score, key, _ in latest if key in found]

    async def find(self, text: str) -> Sequence[Row]:
        ids = {text}
        for key in (f"payment:{text}", f"tracking:{text}", f"tracking:{text.upper().replace(' ', '')}"):
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
