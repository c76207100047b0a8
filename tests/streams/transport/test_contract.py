"""What both transports promise, tested on both."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from streams.processor import Chunk
from streams.transport import TP, LogMismatch
from tests.streams.transport.conftest import OnEmbedded, OnKafka
from tests.streams.transport.lanes import Lanes, make_app

Transport = OnEmbedded | OnKafka


class Bench:
    """A log with a topic, an app with lanes, and what was written to which partition."""

    def __init__(self, transport: Transport, name: str, folder: Path) -> None:
        self.transport, self.name, self.folder = transport, name, folder
        self.log = transport.new_log()
        self.written: dict[TP, list[bytes]] = {}
        self.apps: list[Any] = []

    async def __aenter__(self) -> Bench:
        await self.log.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        for app in self.apps:
            await app.stop()
        await self.log.close()

    async def create(self, *topics: str, partitions: int = 4) -> None:
        await self.log.create(dict.fromkeys(topics or (self.name,), partitions))

    async def write(self, count: int, topic: str = "", partitions: int = 4, batch: int = 100) -> None:
        """`count` records to each partition."""
        for partition in range(partitions):
            tp = TP(topic or self.name, partition)
            known = self.written.setdefault(tp, [])
            values = [f"{partition}:{len(known) + i}".encode() for i in range(count)]
            for i in range(0, count, batch):
                await self.log.append(tp.topic, [(b"key", value) for value in values[i : i + batch]], partition)
            known.extend(values)

    def lanes(self, start: int | None = 0) -> Lanes:
        return Lanes(self.folder / "positions.json", start)

    async def app(self, lanes: Lanes, *topics: str, body: Any = None, **conf: Any) -> Any:
        app = make_app(self.transport.url, self.name, lanes, topics or (self.name,), body, **conf)
        self.apps.append(app)
        await app.start()
        return app

    async def stop(self, app: Any) -> None:
        self.apps.remove(app)
        await app.stop()

    def complete(self, lanes: Lanes) -> bool:
        return lanes.count == sum(map(len, self.written.values()))

    def check(self, *lanes: Lanes) -> None:
        """Every record once, in the order of its partition."""
        for tp, values in self.written.items():
            assert [value for its in lanes for value in its.values(tp)] == values


@pytest.fixture
async def bench(transport: Transport, name: str, tmp_path: Path) -> Any:
    async with Bench(transport, name, tmp_path) as bench:
        yield bench


async def test_every_partition_comes_whole_and_in_order(bench: Bench) -> None:
    await bench.create()
    await bench.write(2500)
    lanes = bench.lanes()
    await bench.app(lanes)
    await bench.write(300, batch=7)
    await lanes.until(lambda: bench.complete(lanes))
    bench.check(lanes)
    assert lanes.gaps == 0
    assert all(first < next_ for _, first, next_ in lanes.handed)


async def test_keys_go_to_the_partition_of_the_java_client(bench: Bench) -> None:
    from aiokafka.partitioner import murmur2

    await bench.create()
    keys = [f"lumi:{i}".encode() for i in range(200)]
    await bench.log.append(bench.name, [(key, b"v") for key in keys])
    lanes = bench.lanes()
    await bench.app(lanes)
    await lanes.until(lambda: lanes.count == 200)
    for tp, records in lanes.taken.items():
        assert [key for _, key, _ in records] == [key for key in keys if (murmur2(key) & 0x7FFFFFFF) % 4 == tp.partition]


async def test_an_exception_in_the_agent_loses_nothing(bench: Bench) -> None:
    await bench.create()
    await bench.write(3000)
    failures = iter([False, True, False, False, True])

    async def fail(lanes: Lanes, chunk: Chunk) -> None:
        if next(failures, False):
            raise RuntimeError("a bug before the lane has the chunk")

    lanes = bench.lanes()
    await bench.app(lanes, body=fail)
    await lanes.until(lambda: bench.complete(lanes))
    bench.check(lanes)


async def test_a_cancellation_in_the_middle_of_a_chunk_loses_nothing(bench: Bench) -> None:
    await bench.create()
    await bench.write(1500)
    entered, never = asyncio.Event(), asyncio.Event()

    async def hang(lanes: Lanes, chunk: Chunk) -> None:
        if lanes.count >= 1024:
            entered.set()
            await never.wait()

    first = bench.lanes()
    app = await bench.app(first, body=hang)
    await asyncio.wait_for(entered.wait(), 30)
    await bench.stop(app)
    assert not bench.complete(first)
    second = bench.lanes()
    await bench.app(second)
    await second.until(lambda: first.count + second.count == 6000)
    bench.check(first, second)


async def test_a_queue_that_faust_clears_while_it_resumes_is_read_again(bench: Bench) -> None:
    """Faust's recovery may resume twice in one rebalance; the second time it throws away what was fetched since the first."""
    await bench.create(partitions=1)
    await bench.write(5000, partitions=1)
    blocked, go_on = asyncio.Event(), asyncio.Event()

    async def hold(lanes: Lanes, chunk: Chunk) -> None:
        if lanes.count >= 1024:
            blocked.set()
            await go_on.wait()

    lanes = bench.lanes()
    app = await bench.app(lanes, body=hold)
    await asyncio.wait_for(blocked.wait(), 30)
    async with asyncio.timeout(30):
        while not any(topic._queue is not None and topic._queue.qsize() for topic in app.topics):
            await asyncio.sleep(0.01)  # something waits in the agent's queue
    app.flow_control.resume()
    app.consumer.resume_flow()
    go_on.set()
    await lanes.until(lambda: bench.complete(lanes))
    bench.check(lanes)
    assert lanes.gaps == 0


async def test_a_stop_and_a_start_go_on_where_the_store_stands(bench: Bench) -> None:
    await bench.create()
    await bench.write(1200)
    first = bench.lanes()
    app = await bench.app(first)
    await first.until(lambda: first.count > 1000)
    await bench.stop(app)
    assert first.revocations == [first.assignments[0]]
    await bench.write(100)
    second = bench.lanes()
    await bench.app(second)
    await second.until(lambda: first.count + second.count == 4 * 1300)
    bench.check(first, second)
    assert second.gaps == 0


async def test_the_witness_is_committed_while_running_and_at_the_stop(bench: Bench) -> None:
    await bench.create()
    await bench.write(50)
    lanes = bench.lanes()
    app = await bench.app(lanes, broker_commit_interval=0.1)
    tp = TP(bench.name, 2)
    assert await app.consumer.committed(tp) in (None, (0, "store:1:0"), (50, "store:1:50"))
    await lanes.until(lambda: bench.complete(lanes))
    async with asyncio.timeout(20):
        while await app.consumer.committed(tp) != (50, "store:1:50"):
            await asyncio.sleep(0.02)
    await bench.write(10)
    await lanes.until(lambda: bench.complete(lanes))
    await bench.stop(app)
    again = bench.lanes(start=None)
    app = await bench.app(again)
    assert await app.consumer.committed(tp) == (60, "store:1:60")


async def test_the_store_counts_and_not_the_group_not_even_at_offset_zero(bench: Bench) -> None:
    await bench.create()
    await bench.write(300)
    first = bench.lanes()
    app = await bench.app(first)
    await first.until(lambda: bench.complete(first))
    await bench.stop(app)  # the group stands at 300 now
    second = bench.lanes()
    second.positions = {TP(bench.name, p): offset for p, offset in enumerate((0, 1, 150, 299))}
    await bench.app(second)
    await second.until(lambda: second.count == 300 + 299 + 150 + 1)
    assert {tp.partition: records[0][0] for tp, records in second.taken.items()} == {0: 0, 1: 1, 2: 150, 3: 299}


async def test_a_partition_without_a_position_is_offered_nothing_until_it_has_one(bench: Bench) -> None:
    await bench.create()
    await bench.write(100)
    lanes = bench.lanes(start=None)
    late, rest = TP(bench.name, 1), [TP(bench.name, p) for p in (0, 2, 3)]
    lanes.positions = dict.fromkeys(rest, 0)
    await bench.app(lanes)
    await lanes.until(lambda: lanes.count == 300)
    assert late not in lanes.taken
    lanes.positions[late] = 40
    await lanes.until(lambda: lanes.count == 360)
    assert lanes.values(late) == bench.written[late][40:]


async def test_a_lane_that_is_acquired_again_is_read_again_from_its_position(bench: Bench) -> None:
    await bench.create()
    await bench.write(100)
    lanes = bench.lanes()
    app = await bench.app(lanes)
    await lanes.until(lambda: bench.complete(lanes))
    tp = TP(bench.name, 3)
    lanes.positions[tp] = 25  # its store went back
    app.consumer.reposition(tp)
    await lanes.until(lambda: lanes.count == 475)
    assert lanes.values(tp) == bench.written[tp] + bench.written[tp][25:]
    assert [entry for entry in lanes.handed if entry[0] != tp] == [entry for entry in lanes.handed if entry[0] != tp and entry[2] <= 100]


async def test_a_position_beyond_the_end_is_a_mismatch_and_stops_only_its_partition(bench: Bench) -> None:
    await bench.create()
    await bench.write(100)
    bad = TP(bench.name, 0)
    lanes = bench.lanes()
    lanes.positions[bad] = 101
    await bench.app(lanes)
    await lanes.until(lambda: bad in lanes.wrong and lanes.count == 300)
    await bench.write(50)
    await lanes.until(lambda: lanes.count == 450)
    assert bad not in lanes.taken
    assert set(lanes.wrong) == {bad}


async def test_an_expired_position_is_a_mismatch_and_nothing_is_reset(bench: Bench) -> None:
    await bench.create()
    await bench.write(1000, batch=50)
    bad = TP(bench.name, 1)
    await bench.transport.expire(bench.log, bad, 500)
    lanes = bench.lanes()
    lanes.positions = {bad: 250}
    await bench.app(lanes)
    await lanes.until(lambda: bad in lanes.wrong)
    assert bad not in lanes.taken


async def test_another_log_has_another_identity_and_does_not_fit(bench: Bench) -> None:
    await bench.create()
    await bench.write(100)
    ids = await bench.log.topic_ids([bench.name])
    first = bench.lanes()
    app = await bench.app(first)
    await first.until(lambda: bench.complete(first))
    await bench.stop(app)
    await bench.log.close()
    await bench.transport.replace({bench.name: 4})
    bench.log = bench.transport.new_log()
    await bench.log.start()
    assert set(ids) == {bench.name}
    assert (await bench.log.topic_ids([bench.name]))[bench.name] != ids[bench.name]
    second = bench.lanes()
    await bench.app(second)
    await second.until(lambda: len(second.wrong) == 4)
    assert second.count == 0


async def test_bytes_that_nobody_can_read_come_through_as_they_are(bench: Bench) -> None:
    await bench.create(partitions=1)
    noise = random.Random(7).randbytes
    poison = [(None, b"{}"), (b"", b""), (b"\xff\xfe", b"\x00" * 10), (noise(40), noise(900_000)), (b"k", b'{"at": NaN'), (b"k", noise(3))]
    await bench.log.append(bench.name, poison, 0)
    lanes = bench.lanes()
    await bench.app(lanes)
    await lanes.until(lambda: lanes.count == len(poison))
    assert [(key, value) for _, key, value in lanes.taken[TP(bench.name, 0)]] == poison


async def test_a_held_partition_holds_up_no_other_and_goes_on_in_order(bench: Bench) -> None:
    slow, quick = f"{bench.name}-slow", f"{bench.name}-quick"
    await bench.create(slow, quick, partitions=2)
    lanes = bench.lanes()
    lanes.full = {TP(slow, 0), TP(slow, 1), TP(quick, 1)}
    await bench.app(lanes, slow, quick)
    await bench.write(3000, slow, 2)
    await bench.write(3000, quick, 2)
    await lanes.until(lambda: lanes.count == 3000)
    assert set(lanes.taken) == {TP(quick, 0)}
    lanes.full = set()
    await lanes.until(lambda: bench.complete(lanes))
    bench.check(lanes)
    assert lanes.gaps == 0


async def test_a_partition_with_a_pace_is_not_read_before_its_time(bench: Bench) -> None:
    await bench.create(partitions=2)
    lanes = bench.lanes()
    lanes.pace = 0.4
    await bench.app(lanes)
    began = asyncio.get_running_loop().time()
    for _ in range(30):
        await bench.write(1, partitions=2)
        await asyncio.sleep(0.02)
    await lanes.until(lambda: bench.complete(lanes))
    bench.check(lanes)
    paces = (asyncio.get_running_loop().time() - began) / lanes.pace
    for partition in range(2):
        assert sum(tp.partition == partition for tp, _, _ in lanes.handed) <= paces + 2


async def test_a_pace_holds_no_backlog_back_and_no_partition_without_records_another(bench: Bench) -> None:
    await bench.create(partitions=2)
    await bench.write(20_000, partitions=1, batch=500)
    lanes = bench.lanes()
    lanes.pace = 3600.0
    await bench.app(lanes)
    await lanes.until(lambda: bench.complete(lanes))
    await bench.log.append(bench.name, [(b"key", b"first")], 1)  # nothing was read there yet: no need to wait
    await lanes.until(lambda: lanes.values(TP(bench.name, 1)) == [b"first"])
    assert lanes.values(TP(bench.name, 0)) == bench.written[TP(bench.name, 0)]


async def test_what_is_in_flight_is_bounded_by_room(bench: Bench) -> None:
    await bench.create(partitions=1)
    await bench.write(20_000, partitions=1, batch=500)
    tp = TP(bench.name, 0)
    lanes = bench.lanes()

    async def fill(lanes: Lanes, chunk: Chunk) -> None:
        lanes.full.add(tp)

    await bench.app(lanes, body=fill)
    seen = 0
    while seen < 20_000:
        await lanes.until(lambda: lanes.count > seen)  # noqa: B023
        await asyncio.sleep(0.01)
        assert lanes.count - seen <= 3 * 1024  # one taken, one in the agent's queue, one on its way
        seen = lanes.count
        lanes.full.clear()
    bench.check(lanes)


async def test_the_log_reads_from_any_offset_and_knows_its_bounds(bench: Bench) -> None:
    await bench.create()
    await bench.write(250, batch=60)
    assert await bench.log.bounds(bench.name) == dict.fromkeys(range(4), (0, 250))
    for start, limit in ((0, 10), (59, 3), (60, 250), (249, 5), (250, 5)):
        records: Any = await bench.log.read(bench.name, 1, start, limit)
        assert [r.value for r in records] == bench.written[TP(bench.name, 1)][start : start + limit]
        assert [r.offset for r in records] == list(range(start, min(start + limit, 250)))


async def test_a_topic_keeps_its_partition_count(bench: Bench) -> None:
    await bench.create()
    await bench.create()
    with pytest.raises(LogMismatch, match="has 4 partitions, not 5"):
        await bench.create(partitions=5)
