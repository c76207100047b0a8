"""Where stock Faust loses events, pinned against the installed version: an upgrade that changes one of these must be noticed.

The numbers are those of the evidence (L1 to L13). If a test here turns red, Faust was repaired or broken: read again what
`streams/driver.py` works around.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.types import TP

from tests.streams.transport import stock

IN = TP("in", 0)


@asynccontextmanager
async def app_on(folder: Path, values: list[bytes], define: Callable[[faust.App, Any], None], **topic: Any) -> AsyncIterator[Any]:
    app = faust.App(
        "trap",
        broker=stock.URL,
        datadir=str(folder),
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        broker_commit_interval=0.05,
        table_standby_replicas=0,
    )
    define(app, app.topic("in", **{"value_serializer": "raw", "value_type": bytes, **topic}))
    app.consumer.records[IN] = list(values)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def committed(app: Any, offset: int) -> None:
    async with asyncio.timeout(20):
        while app.consumer.committed.get(IN, 0) < offset:
            await asyncio.sleep(0.01)
    assert app.consumer.committed[IN] == offset


async def test_l1_an_exception_in_the_agent_acknowledges_its_event(tmp_path: Path) -> None:
    processed: list[bytes] = []

    def define(app: faust.App, topic: Any) -> None:
        @app.agent(topic)
        async def agent(stream: Any) -> None:
            async for value in stream:
                if value == b"2":
                    raise RuntimeError("bug")
                processed.append(value)

    async with app_on(tmp_path, [b"0", b"1", b"2", b"3", b"4"], define) as app:
        await committed(app, 5)
    assert processed == [b"0", b"1", b"3", b"4"]


def test_l3_without_a_committed_offset_an_ack_out_of_order_commits_past_running_events() -> None:
    consumer = stock.bare_consumer()
    consumer._acked[IN] = [7]
    assert consumer._new_offset(IN) == 8


def test_l4_one_unfinished_event_at_the_head_is_skipped() -> None:
    consumer = stock.bare_consumer()
    consumer._committed_offset[IN] = 31
    consumer._acked[IN] = [32]  # 31 is still running
    assert consumer._new_offset(IN) == 33


async def test_l5_the_event_after_a_gap_counts_as_acknowledged() -> None:
    consumer = stock.bare_consumer()
    consumer._committed_offset[IN] = 10
    await consumer._add_gap(IN, 11, 12)  # offset 11 is missing; the consumer calls it with the new record's own offset
    consumer._acked[IN] = [10, 13]  # 12 is still running
    assert consumer._new_offset(IN) == 14


async def test_l6_take_acknowledges_the_whole_batch_it_failed_on(tmp_path: Path) -> None:
    seen: list[bytes] = []
    failures = iter([True])

    def define(app: faust.App, topic: Any) -> None:
        @app.agent(topic)
        async def agent(stream: Any) -> None:
            async for values in stream.take(10, within=0.2):
                if next(failures, False):
                    raise RuntimeError("bug")
                seen.extend(values)

    async with app_on(tmp_path, [b"%d" % i for i in range(25)], define) as app:
        await committed(app, 25)
    assert len(seen) < 25


async def test_l8_sending_does_not_wait_for_delivery(tmp_path: Path) -> None:
    def define(app: faust.App, topic: Any) -> None:
        out = app.topic("out")

        @app.agent(topic)
        async def agent(stream: Any) -> None:
            async for value in stream:
                await out.send(value=value)

    async with app_on(tmp_path, [b"%d" % i for i in range(5)], define) as app:
        await committed(app, 5)
        assert app.producer.attempts == 5  # all of them failed
        assert app.crashed is False


async def test_l10_what_cannot_be_decoded_is_acknowledged_first(tmp_path: Path) -> None:
    processed: list[Any] = []

    def define(app: faust.App, topic: Any) -> None:
        @app.agent(topic)
        async def agent(stream: Any) -> None:
            async for value in stream:
                processed.append(value)

    async with app_on(tmp_path, [b"0", b"1", b"2", b"{bad", b"4", b"5", b"6"], define, value_serializer="json", value_type=int) as app:
        await committed(app, 7)
    assert processed == [0, 1, 2, 4, 5, 6]


L13 = """
import asyncio, sys, types
sys.path.insert(0, sys.argv[1])
import faust, faust.streams
from tests.streams.transport import stock

async def main():
    app = faust.App("trap", broker=stock.URL, datadir=sys.argv[2], store="memory://", web_enabled=False, topic_disable_leader=True,
                    broker_commit_interval=0.05, table_standby_replicas=0)
    seen = []
    @app.agent(app.topic("in", value_serializer="raw", value_type=bytes))
    async def agent(stream):
        async for value in stream:
            seen.append(value)
            if len(seen) == 3:
                while stream.channel.queue.qsize() < 7:
                    await asyncio.sleep(0.01)
                app.consumer_generation_id += 1  # a rebalance; what waits in the queue is of the generation before
    app.consumer.records[stock.TP("in", 0)] = [b"%d" % i for i in range(10)]
    await app.start()
    await asyncio.sleep(1.0)
    print(len(seen), app.consumer.committed.get(stock.TP("in", 0)))
    await app.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize(("no_cython", "outcome"), [("1", "3 10"), ("", "3 3")])
def test_l13_the_pure_python_build_acknowledges_events_of_an_old_generation(no_cython: str, outcome: str, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", L13, root, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={"NO_CYTHON": no_cython, "PATH": ""})
    assert found.stdout.strip() == outcome, found.stderr[-2000:]
