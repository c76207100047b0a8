"""The embedded log as a Faust transport: `orderflow-log:///path/to/folder`.

One worker process reads a folder; all partitions of the topics it subscribes to are its own. There is no group to join,
so an assignment is made at once and lasts until the app stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from faust import types
from faust.transport import base
from faust.transport.producer import Producer as FaustProducer
from faust.types import HeadersArg, RecordMetadata
from faust.types.transports import ConsumerT, ProducerT

from streams import driver
from streams.driver import CHUNK_RECORDS
from streams.partition import partition_of
from streams.processor import Chunk
from streams.sqlite_log import EmbeddedLog, GroupLock, Head
from streams.transport import TP, LogDown, LogMismatch

POLL_S = 0.004  # how soon records of another process are seen
IDLE_POLL_S = 0.01
IDLE_AFTER_S = 1.0


class Consumer(driver.Consumer):
    """Reads the folder that the app's URL names. Starting raises LogTaken when another process reads it for the same group."""

    _log: EmbeddedLog

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._log = cast(Transport, self.transport).new_log()
        self._lock = GroupLock(self._log.folder, self.app.conf.id)
        self._assigned: frozenset[TP] = frozenset()
        self._heads: dict[TP, Head] = {}
        self._ids: dict[str, str] = {}  # of the topics when they were assigned
        self._version = -1
        self._busy_at = 0.0

    async def on_start(self) -> None:
        self._lock.take()
        try:
            await self._log.start()
        except BaseException:
            self._lock.release()
            raise
        await super().on_start()

    async def on_stop(self) -> None:
        await super().on_stop()
        self._assigned = frozenset()
        await self._log.close()
        self._lock.release()

    def close(self) -> None:
        """Faust calls it when a rebalance meets a stop; there is nobody to leave."""

    # --- the group of one
    async def subscribe(self, topics: Iterable[str]) -> None:
        wanted = frozenset(topics)
        self._heads = await self._log.heads()
        missing = wanted - {tp.topic for tp in self._heads}
        if missing:
            raise LogMismatch(f"the log has no topics {sorted(missing)}: `run.py init` makes the topics")
        partitions = frozenset(tp for tp in self._heads if tp.topic in wanted)
        self._ids = {tp.topic: head.id for tp, head in self._heads.items() if tp in partitions}
        self.add_future(self._assign(partitions))  # later: assigning waits for this call to return

    async def _assign(self, partitions: frozenset[TP]) -> None:
        self.app.on_rebalance_start()
        if self._assigned:
            await self.on_partitions_revoked(cast(set[types.TP], set(self._assigned)))
        self._assigned = partitions
        self.app.consumer_generation_id += 1
        assigned = {types.TP(*tp) for tp in partitions}
        await self.on_partitions_assigned(assigned, self.app.consumer_generation_id)

    def assignment(self) -> set[types.TP]:
        return {types.TP(*tp) for tp in self._assigned}

    async def committed(self, tp: TP) -> tuple[int, str] | None:
        return (await self._log.committed(self.app.conf.id)).get(tp)

    async def _write_offsets(self, offsets: Mapping[TP, tuple[int, str]]) -> bool:
        try:
            await self._log.commit(self.app.conf.id, offsets)
        except LogDown as error:
            self.log.warning("offsets not committed: %s", error)
            return False
        return True

    # --- reading
    async def _read(self, want: Mapping[TP, int], timeout: float) -> list[Chunk]:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        want = dict(want)
        while True:
            version = self._log.version()
            if version != self._version or any(self._misfit(tp, at) for tp, at in want.items()):
                self._heads, self._version = await self._log.heads(), version
                for tp, at in list(want.items()):
                    why = self._misfit(tp, at)
                    if why:
                        del want[tp]
                        self._refuse(tp, why)
            ready = {tp: at for tp, at in want.items() if at < self._heads[tp].next}
            if ready:
                chunks, failed = await self._log.read_chunks(ready, CHUNK_RECORDS)
                for tp, why in failed.items():
                    self._refuse(tp, why)
                self._busy_at = loop.time()
                return chunks
            now = loop.time()
            if now >= until:
                return []
            await asyncio.sleep(min(until - now, IDLE_POLL_S if now - self._busy_at > IDLE_AFTER_S else POLL_S))

    def _misfit(self, tp: TP, at: int) -> str:
        """Why this position does not fit the log, as far as we have looked; "" when it does."""
        head = self._heads.get(tp)
        if head is None:
            return "the topic is gone from the log"
        if head.id != self._ids.get(tp.topic):
            return f"another log: the topic has the ID {head.id}, not {self._ids.get(tp.topic)}"
        if at > head.next:
            return f"position {at} is beyond the log's end {head.next}"
        if at < head.first:
            return f"position {at} has expired, the log begins at {head.first}"
        return ""

    # --- what Faust may ask
    def highwater(self, tp: types.TP) -> int:
        head = self._heads.get(cast(TP, tp))
        return head.next if head else 0

    async def highwaters(self, *partitions: types.TP) -> Mapping[types.TP, int]:
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: types.TP) -> Mapping[types.TP, int]:
        return {tp: self._heads[cast(TP, tp)].first for tp in partitions}

    def topic_partitions(self, topic: str) -> int | None:
        return sum(tp.topic == topic for tp in self._heads) or None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        count = self.topic_partitions(topic)
        if partition is not None or count is None or key is None:
            return partition
        return partition_of(key, count)

    async def create_topic(self, topic: str, partitions: int, replication: int, **kwargs: Any) -> None:
        """Topics are made by `run.py init`, never in passing."""


class Producer(FaustProducer):
    """Appends to the app's log; `append` returns when the records are on disk."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._log = cast(Transport, self.transport).new_log()

    async def on_start(self) -> None:
        await super().on_start()
        await self._log.start()

    async def on_stop(self) -> None:
        await super().on_stop()
        await self._log.close()

    async def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None:
        """Raises LogDown."""
        await self._log.append(topic, records, partition)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """For Faust's own calls. The log keeps neither headers nor the record's own time."""
        return asyncio.ensure_future(self.send_and_wait(topic, key, value, partition, timestamp, headers))

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        await self.append(topic, [(key, value or b"")], partition)
        place = partition if partition is not None else -1
        return RecordMetadata(topic, place, cast(Any, types.TP(topic, place)), -1, timestamp, 0)

    async def flush(self) -> None:
        await self.buffer.flush()

    async def create_topic(self, topic: str, partitions: int, replication: int, **kwargs: Any) -> None:
        """Topics are made by `run.py init`, never in passing."""

    def supports_headers(self) -> bool:
        return False


class Transport(base.Transport):
    Consumer: ClassVar[type[ConsumerT]] = Consumer
    Producer: ClassVar[type[ProducerT]] = Producer
    driver_version = "orderflow-log=1"

    def new_log(self) -> EmbeddedLog:
        """Each side opens its own; the file is what they share."""
        return EmbeddedLog(self.url[0].path)
