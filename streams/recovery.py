"""Rebuilding a partition whose store was emptied, put back or exchanged.

States come back from what cannot be lost: the input topic and the lane's journal, each from the archive up to its manifest
and from the log beyond it. Both only merge; nothing is planned until the lane runs again. The partition's sends stay closed
until somebody has looked and says `run.py recover --open`: attempts without an outcome are then unknown, not free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from connectors.archive import Archive
from connectors.store import Commit, LaneId, Store
from streams.clock import Clock
from streams.lane import Cache, encode_parked, parked_id
from streams.processor import Inputs, Processor, Record
from streams.transport import Log, LogMismatch

PART = 1024
CACHED = 50_000


class Rebuilt(msgspec.Struct, frozen=True):
    """What came back of one lane."""

    lane: LaneId
    records: int
    entries: int
    states: int
    position: int


class _Journaled(msgspec.Struct):
    lane: str
    sequence: int
    entries: list[msgspec.Raw]


_decode_journaled = msgspec.json.Decoder(_Journaled).decode


async def rebuild(
    lane: LaneId,
    processor: Processor,
    *,
    store: Store,
    log: Log,
    archive: Archive | None,
    clock: Clock,
    progress: Callable[[int], None] = lambda records: None,
) -> Rebuilt:
    """Replaces all that the store holds of a lane. Its former holder is fenced off; a rebuild that was cut short is begun again.

    Raises LogMismatch when archive and log together do not reach back far enough, StoreDown, LaneLost.
    """
    topic, partition = processor.topic, lane.partition
    end = (await log.bounds(topic)).get(partition, (0, 0))[1]
    ids = await log.topic_ids([topic])
    held = await store.acquire(lane)
    # the entries first, to learn how far the lost store had come: a sequence is never used twice
    journal = [record async for record in _records(log, archive, "journal", partition) if record.key == str(lane).encode()]
    parts = [_decode_journaled(record.value) for record in journal]
    await store.wipe(held, end, ids[topic], mark="rebuilding", sequence=max([part.sequence for part in parts], default=0))
    cache = Cache(CACHED)
    known: set[str] = set()
    records = entries = 0

    async def take_in(inputs: Inputs, keys: set[str]) -> None:
        states = await _states(keys, cache, store, lane, processor)
        made, parked = processor.rebuild(states, inputs, clock.now())
        now = clock.now()
        await store.commit(
            held,
            Commit(
                states={key: processor.encode(state) for key, state in made.items()},
                due=dict.fromkeys(made, now),
                parked={parked_id(row): encode_parked(row) for row in parked},
                counts={"accepted": len(inputs.records), "done": len(inputs.records) - len(parked), "parked": len(parked)},
            ),
        )
        cache.keep(made)
        known.update(made)

    part: list[Record] = []
    async for record in _records(log, archive, topic, partition, end):
        part.append(record)
        if len(part) == PART:
            await take_in(Inputs(topic=topic, partition=partition, records=part), _keys(part))
            records += len(part)
            progress(records)
            part = []
    if part:
        await take_in(Inputs(topic=topic, partition=partition, records=part), _keys(part))
        records += len(part)
    for journaled in parts:
        adopted = [bytes(entry) for entry in journaled.entries]
        entries += len(adopted)
        await take_in(Inputs(topic=topic, partition=partition, adopted=adopted), processor.keys_of(adopted))
    await store.commit(held, Commit(mark=""))
    return Rebuilt(lane, records, entries, len(known), end)


async def _states(keys: set[str], cache: Cache, store: Store, lane: LaneId, processor: Processor) -> dict[str, Any]:
    found = {key: state for key in keys if (state := cache.get(key)) is not None}
    missing = [key for key in keys if key not in found]
    for key, blob in zip(missing, await store.load(lane, missing), strict=True):
        if blob is not None:
            found[key] = processor.decode(blob)
    return found


def _keys(records: Sequence[Record]) -> set[str]:
    keys = set()
    for record in records:
        if record.key is not None:
            try:
                keys.add(record.key.decode())
            except UnicodeDecodeError:
                continue
    return keys


async def _records(log: Log, archive: Archive | None, topic: str, partition: int, end: int | None = None) -> AsyncIterator[Record]:
    """Everything of a partition up to `end` (None: the log's end now), archived or not, once."""
    first, last = (await log.bounds(topic)).get(partition, (0, 0))
    last = last if end is None else end
    at = 0
    if archive is not None:
        parts = archive.read((topic, partition))
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            for record in part:
                if record.offset < last:
                    yield Record(record.offset, record.key, record.value, record.at, record.headers)
        at = await asyncio.to_thread(archive.next_offset, (topic, partition)) or 0
    if at < first:
        raise LogMismatch(f"{topic}.{partition}: the archive ends at {at}, the log begins at {first}: what lies between is gone")
    while at < last:
        found: Sequence[Any] = await log.read(topic, partition, at, min(PART * 8, last - at))
        if not found:
            return
        for record in found:
            yield Record(record.offset, record.key, record.value, record.timestamp)
        at = found[-1].offset + 1
