"""Appends that meet at one partition travel together; `test_contract` shows the same on a real broker."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from streams.kafka import Appender
from streams.transport import LogDown


class Broker:
    """As much of a producer as an appender uses. A batch is acknowledged when the test says so."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, list[bytes]]] = []
        self.unacknowledged: deque[asyncio.Future[None]] = deque()

    def create_batch(self) -> Any:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, partition: int) -> asyncio.Future[None]:
        self.batches.append((topic, partition, batch.values))
        self.unacknowledged.append(asyncio.get_running_loop().create_future())
        return self.unacknowledged[-1]

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1, 2, 3}


class Batch:
    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, *, timestamp: None, key: bytes | None, value: bytes) -> bool:
        self.values.append(value)
        return True

    def close(self) -> None: ...


class World:
    def __init__(self) -> None:
        self.broker = Broker()
        self.appender = Appender(lambda: self.broker, 5.0)  # type: ignore[arg-type, return-value]
        self.appends: list[asyncio.Task[None]] = []

    async def append(self, *values: bytes, partition: int = 0) -> asyncio.Task[None]:
        task = asyncio.create_task(self.appender.append("facts", [(b"k", value) for value in values], partition))
        self.appends.append(task)
        await self.rest()
        return task

    async def acknowledge(self, error: Exception | None = None) -> None:
        acknowledged = self.broker.unacknowledged.popleft()
        if error is None:
            acknowledged.set_result(None)
        else:
            acknowledged.set_exception(error)
        await self.rest()

    async def rest(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    @property
    def done(self) -> list[bool]:
        return [task.done() for task in self.appends]


async def test_what_comes_while_a_batch_is_under_way_goes_together_and_in_order() -> None:
    world = World()
    for value in (b"1", b"2", b"3"):
        await world.append(value)
    await world.append(b"elsewhere", partition=1)
    assert world.broker.batches == [("facts", 0, [b"1"]), ("facts", 1, [b"elsewhere"])], "one batch per partition, none waits for another"
    await world.acknowledge()
    assert world.broker.batches[2:] == [("facts", 0, [b"2", b"3"])]
    assert world.done == [True, False, False, False]
    await world.acknowledge()
    await world.acknowledge()
    await asyncio.gather(*world.appends)


async def test_all_who_went_together_hear_of_a_failure_and_the_next_go_on() -> None:
    world = World()
    await world.append(b"1")
    failed = [await world.append(b"2"), await world.append(b"3")]
    await world.acknowledge()
    await world.acknowledge(KafkaTimeoutError())
    for task in failed:
        with pytest.raises(LogDown, match=r"facts\.0"):
            await task
    after = await world.append(b"4")
    await world.acknowledge()
    await after
    assert [values for _, _, values in world.broker.batches] == [[b"1"], [b"2", b"3"], [b"4"]]


async def test_one_who_gives_up_takes_nobody_with_him() -> None:
    world = World()
    await world.append(b"1")
    gone, other = await world.append(b"2"), await world.append(b"3")
    gone.cancel()
    await world.acknowledge()
    await world.acknowledge()
    await other
    assert world.broker.batches[1][2] == [b"2", b"3"]


async def test_without_a_producer_an_append_says_so_and_does_not_hang() -> None:
    def none() -> Any:
        raise LogDown("the connection to Kafka is not open")

    appender = Appender(none, 5.0)
    async with asyncio.timeout(1):
        for partition in (0, None):
            with pytest.raises(LogDown, match="not open"):
                await appender.append("facts", [(b"k", b"1")], partition)
