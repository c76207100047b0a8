"""Rebuilding a partition whose store was emptied, put back or exchanged.

States come back from what cannot be lost: the input topic and the lane's journal, each from the archive up to its manifest
and from the log beyond it. Both only merge; nothing is planned until the lane runs again. The partition's sends stay closed
until somebody has looked and says `run.py recover --open`: attempts without an outcome are then unknown, not free.

A lane that keeps no states is placed where its log begins and reads all of it again: what it puts out is known by its keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from connectors.archive import Archive
from connectors.store import Commit, LaneId, Store
from streams.clock import Clock
from streams.lane import Cache, Limits, encode_parked, parked_id, poison, where
from streams.processor import Inputs, Processor, Record, Result
from streams.reading import park_strays, strays, without
from streams.transport import Log, LogMismatch

log_ = structlog.get_logger("recovery")
PART = 1024  # records, or journal entries, merged at once
CACHED = 50_000
TAIL = Limits().unpublished + 1  # so many last commits may not have published all they had for other topics


class Rebuilt(msgspec.Struct, frozen=True):
    """What came back of one lane."""

    lane: LaneId
    records: int
    entries: int
    states: int
    parked: int
    position: int


class _Journaled(msgspec.Struct):
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

    Raises LogMismatch when archive and log together do not hold everything, LogDown, StoreDown, LaneLost.
    """
    topic, partition = processor.topic, lane.partition
    bounds = await log.bounds(topic)
    first, end = bounds.get(partition, (0, 0))
    partitions = 0 if processor.stateless else len(bounds)
    archived = await _archived(archive, topic, partition)
    if archived > end:
        raise LogMismatch(f"{topic}.{partition}: the archive ends at {archived}, the log at {end}: it is the log that is another one")
    position, until = (first, min(first, archived)) if processor.stateless else (end, end)
    ids = await log.topic_ids([topic])
    held = await store.acquire(lane)
    reached = 0  # how far the lost store had come, as the log knows: a sequence is never used twice
    async for journaled in _journal(lane, log, archive):
        reached = max(reached, journaled.sequence)
    await store.wipe(held, position, ids[topic], mark="rebuilding", sequence=reached)
    cache = Cache(CACHED)
    records = entries = 0
    async for inputs, last in _parts(lane, topic, until, reached, log, archive):
        states = await _states(_keys(processor, inputs), cache, store, lane, processor)
        for part, result in merged(processor, states, inputs, clock.now(), partitions):
            rows = {parked_id(row): encode_parked(row) for row in result.parked}
            counts = {"accepted": len(part.records), "done": len(part.records) - len(rows), "parked": len(rows)}
            await store.commit(
                held,
                Commit(
                    states={key: processor.encode(state) for key, state in result.states.items()},
                    due=dict.fromkeys(result.states, clock.now()),
                    parked={name: row for name, row in rows.items() if name not in result.unparked},
                    unparked=[name for name in result.unparked if name not in rows],
                    index=result.index,
                    counts=counts if part.records else {},
                ),
            )
            cache.keep(result.states)
            if last:
                await _publish(log, result)
        records += len(inputs.records)
        entries += len(inputs.adopted)
        progress(records)
    await store.commit(held, Commit(mark=""))
    standing = (await store.standing([lane]))[0]
    return Rebuilt(lane, records, entries, standing.states, standing.parked, position)


async def refold(
    lane: LaneId, processor: Processor, log: Log, archive: Archive | None = None, until: int | None = None
) -> dict[str, bytes]:
    """The states that follow from a lane's records before `until` (None: the log's end) and its journal, in memory and encoded.

    What promise 2 speaks of: at rest they are the store's own, byte for byte.
    """
    bounds = await log.bounds(processor.topic)
    _, end = bounds.get(lane.partition, (0, 0))
    partitions = 0 if processor.stateless else len(bounds)
    states: dict[str, Any] = {}
    async for inputs, _ in _parts(lane, processor.topic, end if until is None else until, 0, log, archive):
        for _, result in merged(processor, states, inputs, 0, partitions):
            states |= result.states
    return {key: processor.encode(state) for key, state in states.items()}


def merged(processor: Processor, states: Mapping[str, Any], inputs: Inputs, now: int, partitions: int = 0) -> list[tuple[Inputs, Result]]:
    """`Processor.rebuild`, in as many parts as it takes: a record that it stumbles over is parked, as its lane parked it, and so is
    one that lies in another of the `partitions` than its key (0: of a processor that does not care).

    Raises what the processor raises for a journal entry: without its entries a state is not the one that was lost.
    """
    away = strays(inputs, [key for key in _keys(processor, inputs) if key not in states], partitions)
    if away:
        here = msgspec.structs.replace(inputs, records=away)
        parked = (here, Result(states={}, due={}, parked=park_strays(inputs, away, now)))
        return [parked, *merged(processor, states, without(inputs, away), now)]
    try:
        return [(inputs, processor.rebuild(states, inputs, now))]
    except Exception as error:
        if not inputs.records:
            raise
        log_.error("processor failed", topic=inputs.topic, error=type(error).__name__, records=len(inputs.records), where=where(error))
        if len(inputs.records) == 1:
            return [(inputs, Result(states={}, due={}, parked=[poison(inputs, inputs.records[0], error, now)]))]
    middle = len(inputs.records) // 2
    done = merged(processor, states, msgspec.structs.replace(inputs, records=inputs.records[:middle]), now)
    for _, result in done:
        states = {**states, **result.states}
    return done + merged(processor, states, msgspec.structs.replace(inputs, records=inputs.records[middle:]), now)


async def _publish(log: Log, result: Result) -> None:
    topics: dict[str, list[tuple[bytes | None, bytes]]] = {}
    for outgoing in result.outbox:
        topics.setdefault(outgoing.topic, []).append((outgoing.key.encode(), outgoing.value))
    for topic, records in topics.items():
        await log.append(topic, records)


async def _parts(
    lane: LaneId, topic: str, until: int, reached: int, log: Log, archive: Archive | None
) -> AsyncIterator[tuple[Inputs, bool]]:
    """All a lane ever took in, records first, then journal entries; True beside those of its last commits."""
    records: list[Record] = []
    async for record in _records(log, archive, topic, lane.partition, until):
        records.append(record)
        if len(records) == PART:
            yield Inputs(topic=topic, partition=lane.partition, records=records), False
            records = []
    if records:
        yield Inputs(topic=topic, partition=lane.partition, records=records), False
    adopted: list[bytes] = []
    tail: list[bytes] = []
    async for journaled in _journal(lane, log, archive):
        (tail if journaled.sequence > reached - TAIL else adopted).extend(bytes(entry) for entry in journaled.entries)
        if len(adopted) >= PART:
            yield Inputs(topic=topic, partition=lane.partition, adopted=adopted), False
            adopted = []
    for part, last in ((adopted, False), (tail, True)):
        for begin in range(0, len(part), PART):
            yield Inputs(topic=topic, partition=lane.partition, adopted=part[begin : begin + PART]), last


async def _journal(lane: LaneId, log: Log, archive: Archive | None) -> AsyncIterator[_Journaled]:
    name = str(lane).encode()
    async for record in _records(log, archive, "journal", lane.partition):
        if record.key == name:
            yield _decode_journaled(record.value)


async def _archived(archive: Archive | None, topic: str, partition: int) -> int:
    """Where the archive of a partition ends; 0: there is none."""
    at = None if archive is None else await asyncio.to_thread(archive.next_offset, (topic, partition))
    return at or 0


async def _states(keys: set[str], cache: Cache, store: Store, lane: LaneId, processor: Processor) -> dict[str, Any]:
    found = {key: state for key in keys if (state := cache.get(key)) is not None}
    missing = [key for key in keys if key not in found]
    for key, blob in zip(missing, await store.load(lane, missing), strict=True):
        if blob is not None:
            found[key] = processor.decode(blob)
    return found


def _keys(processor: Processor, inputs: Inputs) -> set[str]:
    if inputs.adopted:
        return processor.keys_of(inputs.adopted)
    keys = set()
    for record in inputs.records:
        if record.key is not None:
            try:
                keys.add(record.key.decode())
            except UnicodeDecodeError:
                continue  # the processor parks it
    return keys


async def _records(log: Log, archive: Archive | None, topic: str, partition: int, end: int | None = None) -> AsyncIterator[Record]:
    """Everything of a partition up to `end` (None: the log's end now), archived or not, once."""
    first, last = (await log.bounds(topic)).get(partition, (0, 0))
    last = last if end is None else end
    at = await _archived(archive, topic, partition)
    if archive is not None:
        parts = archive.read((topic, partition))
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            for record in part:
                if record.offset < min(at, last):
                    yield Record(record.offset, record.key, record.value, record.at, record.headers)
    if at < min(first, last):
        raise LogMismatch(f"{topic}.{partition}: the archive ends at {at}, the log begins at {first}: what lies between is gone")
    while at < last:
        found: Sequence[Any] = await log.read(topic, partition, at, min(PART * 8, last - at))
        if not found:
            return
        for record in found:
            yield Record(record.offset, record.key, record.value, record.timestamp)
        at = found[-1].offset + 1
