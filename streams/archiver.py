"""The archive's app: every input topic and the journal, once each, into Parquet by partition and day.

Its positions are the archive's own manifests, so that what is written and where to go on can never disagree. It is the
`Assignments` of a Faust app of its own: a slow disk holds back the archive and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any

import structlog

from connectors.archive import Archive
from streams.clock import Clock
from streams.driver import trim
from streams.processor import Chunk
from streams.transport import TP, Log

log = structlog.get_logger("archive")
GATHER_RECORDS = 20_000
TICK_S = 0.5
READ_S = 0.5  # it is in no hurry, and every reading costs
MAX_WAITING_RECORDS = 60_000  # per partition, then it is held back


class Shelf:
    """What of one partition waits to be written."""

    def __init__(self, position: int) -> None:
        self.next = position  # of the log, after what waits
        self.written = position
        self.records: list[Any] = []
        self.since = 0.0


class Archiver:
    def __init__(
        self,
        archive: Archive,
        log_: Log,
        clock: Clock,
        crash: Callable[[BaseException], None],
        reposition: Callable[[TP], None] = lambda tp: None,
        *,
        gather_s: float,
    ) -> None:
        """`reposition` asks the driver to read a partition again from where its shelf stands; what waits `gather_s` is written."""
        self._archive, self._log, self._clock, self._crash = archive, log_, clock, crash
        self._reposition, self._gather_s = reposition, gather_s
        self._compacted = ""  # the day up to which small files were joined
        self._shelves: dict[TP, Shelf] = {}
        self._opening: dict[TP, tuple[asyncio.Task[None], float]] = {}  # and since when, loop time
        self.lanes: dict[TP, Any] = {}  # the watchdog looks at lanes; there are none
        self._writing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    # --- Assignments
    def assigned(self, partitions: frozenset[TP]) -> None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        for tp in partitions:
            if tp not in self._shelves and tp not in self._opening:
                self._opening[tp] = asyncio.create_task(self._open(tp)), asyncio.get_running_loop().time()

    async def revoked(self, partitions: frozenset[TP]) -> None:
        for tp in partitions:
            opening = self._opening.pop(tp, None)
            if opening is not None:
                opening[0].cancel()
        await self._write([tp for tp in partitions if tp in self._shelves])
        for tp in partitions:
            self._shelves.pop(tp, None)

    def position(self, tp: TP) -> int | None:
        shelf = self._shelves.get(tp)
        return None if shelf is None else shelf.next

    def room(self, tp: TP) -> bool:
        shelf = self._shelves.get(tp)
        return shelf is not None and len(shelf.records) < MAX_WAITING_RECORDS

    @property
    def held(self) -> int:
        """Partitions that are not read on until their records are in files."""
        return sum(not self.room(tp) for tp in self._shelves)

    def next_reading(self, tp: TP, after: float) -> float:
        return after + READ_S

    def witness(self) -> Mapping[TP, tuple[int, str]]:
        return {tp: (shelf.written, "archive") for tp, shelf in self._shelves.items()}

    def mismatch(self, tp: TP, why: str) -> None:
        log.error("archive stopped", topic=tp.topic, partition=tp.partition, reason=why)
        self._crash(RuntimeError(f"archive: {tp.topic}.{tp.partition}: {why}"))

    @property
    def unpositioned_since(self) -> Mapping[TP, float]:
        """For the watchdog: partitions that are ours and not read yet."""
        return {tp: since for tp, (_, since) in self._opening.items()}

    @property
    def ready(self) -> bool:
        return self._keeper is not None and not self._opening

    # --- called by the app's agents
    def offer(self, chunk: Chunk) -> None:
        tp = TP(chunk.topic, chunk.partition)
        shelf = self._shelves.get(tp)
        if shelf is None:
            return
        try:
            ours = trim(chunk, shelf.next)
        except LookupError:  # something before it was dropped: read again from where the shelf stands
            self._reposition(tp)
            return
        if ours is None:
            return
        if not shelf.records:
            shelf.since = asyncio.get_running_loop().time()
        shelf.records.extend(ours.records)
        shelf.next = ours.next

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        await self._write(list(self._shelves))

    async def _open(self, tp: TP) -> None:
        position = await asyncio.to_thread(self._archive.next_offset, tp)
        first, end = (await self._log.bounds(tp.topic)).get(tp.partition, (0, 0))
        if position is None:
            position = first
        if not first <= position <= end:
            self.mismatch(tp, f"the manifest goes on at {position}, the log holds {first} to {end}")
            return
        self._shelves[tp] = Shelf(position)
        self._opening.pop(tp, None)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._write(self._ripe(asyncio.get_running_loop().time()))
                await self._compact()
            except Exception as error:  # noqa: BLE001 - whatever keeps it from writing: the process ends and begins again
                self._crash(error)
                return

    def _ripe(self, now: float) -> list[TP]:
        """What to write now: of all that have waited long enough a few, so that the disk and the store beside us never meet a burst."""
        shelves, gather_s = self._shelves, self._gather_s
        full = [tp for tp, s in shelves.items() if len(s.records) >= MAX_WAITING_RECORDS // 2]
        ripe = [tp for tp, s in shelves.items() if s.records and (len(s.records) >= GATHER_RECORDS or now - s.since >= gather_s)]
        ripe.sort(key=lambda tp: shelves[tp].since)
        return list(dict.fromkeys(full + ripe[: ceil(len(shelves) * TICK_S / gather_s)]))

    async def _compact(self) -> None:
        """Once a day the many small files of each day before become one."""
        today = datetime.fromtimestamp(self._clock.now() / 1000, UTC).date().isoformat()
        if today == self._compacted:
            return
        async with self._writing:
            for tp in list(self._shelves):
                await asyncio.to_thread(self._archive.compact, tp, today)
        self._compacted = today

    async def _write(self, partitions: list[TP]) -> None:
        async with self._writing:
            for tp in partitions:
                shelf = self._shelves.get(tp)
                if shelf is None or not shelf.records:
                    continue
                records, shelf.records, goes_on = shelf.records, [], shelf.next
                await asyncio.to_thread(self._archive.append, tp, records, goes_on)
                shelf.written = goes_on
