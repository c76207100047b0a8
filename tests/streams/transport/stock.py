"""Stock Faust on the smallest log there is: lists in memory. Everything that loses events is Faust's own code."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, ClassVar

from faust.transport import base
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.drivers import TRANSPORTS
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP, ConsumerMessage

URL = "stock://memory"
TRANSPORTS.aliases["stock"] = f"{__name__}:Transport"


class Consumer(FaustConsumer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.records: dict[TP, list[bytes]] = defaultdict(list)
        self.at: dict[TP, int] = defaultdict(int)
        self.committed: dict[TP, int] = {}
        self.tps: set[TP] = set()

    async def subscribe(self, topics: Any) -> None:
        self.tps = {TP(topic, 0) for topic in topics}
        self.add_future(self._assign())

    async def _assign(self) -> None:
        self.app.on_rebalance_start()
        self.app.consumer_generation_id += 1
        await self.on_partitions_assigned(set(self.tps), self.app.consumer_generation_id)

    def assignment(self) -> set[TP]:
        return set(self.tps)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        found = {tp: list(enumerate(self.records[tp]))[self.at[tp] :] for tp in self.tps if len(self.records[tp]) > self.at[tp]}
        for tp in found:
            self.at[tp] = len(self.records[tp])
        if not found:
            await asyncio.sleep(0.01)
        return found

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        offset, value = record
        return ConsumerMessage(tp.topic, 0, offset, 0.0, 0, [], None, value, None, 0, 0, tp, generation_id=self.app.consumer_generation_id)

    async def _commit(self, offsets: Any) -> bool:
        self.committed.update(offsets)
        return True

    async def seek_to_committed(self) -> Any:
        return dict(self.committed)

    async def _seek(self, partition: TP, offset: int) -> None:
        self.at[partition] = offset

    async def seek_wait(self, partitions: Any) -> None: ...

    async def position(self, tp: TP) -> int:
        return self.at[tp]

    def highwater(self, tp: TP) -> int:
        return len(self.records[tp])

    async def highwaters(self, *partitions: TP) -> Any:
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> Any:
        return dict.fromkeys(partitions, 0)

    def topic_partitions(self, topic: str) -> int:
        return 1

    def key_partition(self, topic: str, key: Any, partition: Any = None) -> int:
        return 0

    async def create_topic(self, *args: Any, **kwargs: Any) -> None: ...

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)


class Producer(FaustProducer):
    """Every delivery fails."""

    attempts = 0

    async def send(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        self.attempts += 1
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(ConnectionError("the broker is gone"))
        return failed

    async def flush(self) -> None:
        await self.buffer.flush()

    async def create_topic(self, *args: Any, **kwargs: Any) -> None: ...

    def supports_headers(self) -> bool:
        return True


class Transport(base.Transport):
    Consumer: ClassVar[Any] = Consumer
    Producer: ClassVar[Any] = Producer
    driver_version = "stock"


def bare_consumer() -> Any:
    """A consumer without an app, for its book-keeping alone."""
    consumer: Any = object.__new__(Consumer)
    from intervaltree import IntervalTree

    consumer._gap = defaultdict(IntervalTree)
    consumer._acked = defaultdict(list)
    consumer._acked_index = defaultdict(set)
    consumer._committed_offset = defaultdict(lambda: None)
    consumer.app = SimpleNamespace()
    return consumer
