"""The driver's own rules, and the places in Faust and aiokafka that it leans on."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.record._crecords import DefaultRecordBatch, DefaultRecordBatchBuilder, MemoryRecords
from faust.transport.consumer import Consumer as FaustConsumer
from hypothesis import given
from hypothesis import strategies as st

from streams import driver, kafka
from streams.driver import check_start, trim, worker_conf
from streams.kafka import KafkaLog, _Partition
from streams.processor import Chunk, Record
from streams.transport import TP, LogDown
from tests.streams.transport.conftest import Kafka, OnEmbedded, OnKafka
from tests.streams.transport.lanes import Lanes, make_app, running


def chunk(first: int, next_: int) -> Chunk:
    return Chunk("t", 0, first, next_, [Record(o, b"k", b"%d" % o) for o in range(first, next_)])


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=20))
def test_trimming_never_takes_a_record_twice_and_never_leaves_one_out(start: int, spans: list[tuple[int, int]]) -> None:
    position, taken = start, []
    for first, length in spans:
        whole = chunk(first, first + length)
        if first > position:
            with pytest.raises(LookupError):
                trim(whole, position)
            continue
        part = trim(whole, position)
        if part is not None:
            assert part.first == position
            taken += [r.offset for r in part.records]
            position = part.next
    assert taken == list(range(start, position))


def test_the_settings_that_lose_or_double_are_found_at_the_start(tmp_path: Path) -> None:
    check_start(faust.App("fine", broker="orderflow-log:///tmp/none", **worker_conf()))
    for wrong in (
        {"stream_wait_empty": False},
        {"consumer_auto_offset_reset": "earliest"},
        {"broker_commit_interval": 2.8},
        {"broker_session_timeout": 60.0, "broker_request_timeout": 90.0},
        {"producer_request_timeout": 1200.0},
        {"processing_guarantee": "exactly_once"},
        {"web_enabled": True},
        {"topic_allow_declare": True},
    ):
        with pytest.raises(RuntimeError, match=next(iter(wrong))):
            check_start(faust.App("wrong", broker="orderflow-log:///tmp/none", **{**worker_conf(), **wrong}))


def test_a_build_without_cython_or_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(driver.VERSIONS, "aiokafka", "0.13.0")
    with pytest.raises(RuntimeError, match=r"0\.13\.0"):
        check_start()
    monkeypatch.undo()
    monkeypatch.setattr("faust.streams._CStreamIterator", None)
    with pytest.raises(RuntimeError, match="Cython"):
        check_start()


def test_the_members_we_lean_on_are_there() -> None:
    assert list(inspect.signature(FaustConsumer._drain_messages).parameters) == ["self", "fetcher"]
    assert list(inspect.signature(FaustConsumer._getmany).parameters) == ["self", "active_partitions", "timeout"]
    assert {"resume_flow", "perform_seek", "wait_empty", "commit", "on_partitions_revoked"} <= set(vars(FaustConsumer))
    for name in ("check_errors", "commit_offsets", "fetch_committed_offsets", "close"):
        assert callable(getattr(GroupCoordinator, name))
    for name in ("bootstrap", "send", "set_topics", "add_topic", "force_metadata_update", "get_random_node"):
        assert callable(getattr(AIOKafkaClient, name))
    for name in ("base_offset", "next_offset", "is_control_batch", "is_transactional", "producer_id", "validate_crc"):
        assert hasattr(DefaultRecordBatch, name)


async def test_both_producers_are_idempotent_and_wait_for_all_replicas(kafka: Kafka, name: str) -> None:
    app = faust.App(name, broker=f"orderflow-kafka://{kafka.bootstrap}", **worker_conf())
    log = KafkaLog(kafka.bootstrap)
    ours: list[Any] = [app.producer._new_producer(), log._new_producer()]
    for producer in ours:
        assert isinstance(producer, AIOKafkaProducer)
        assert producer._txn_manager is not None
        assert producer._txn_manager.transactional_id is None
        assert producer._sender._acks == -1
        assert producer._message_accumulator._batch_size == 1 << 20
        await producer.stop()


async def test_the_producer_of_an_app_appends_whole_batches(transport: OnEmbedded | OnKafka, name: str, tmp_path: Path) -> None:
    log = transport.new_log()
    await log.start()
    await log.create({name: 3})
    lanes = Lanes(tmp_path / "positions.json")
    async with running(make_app(transport.url, name, lanes, [name])) as app:
        await app.producer.append(name, [(b"k", b"%d" % i) for i in range(5000)], 1)
        await app.producer.append(name, [(b"key-%d" % i, b"x" * 1000) for i in range(3000)])
        await app.producer.append(name, [])
        await lanes.until(lambda: lanes.count == 8000)
    assert lanes.values(TP(name, 1))[:5000] == [b"%d" % i for i in range(5000)]
    assert all(lanes.taken[TP(name, p)] for p in range(3))
    await log.close()


async def test_an_append_that_is_not_acknowledged_in_time_ends_with_a_word() -> None:
    log = KafkaLog("127.0.0.1:1", request_timeout_s=0.5)
    with pytest.raises(LogDown, match="no broker answers"):
        await log.start()
    with pytest.raises(LogDown, match="not open"):
        await log.append("t", [(b"k", b"v")])


# --- taking records out of a broker's answer
def batch(first: int, count: int, *, producer_id: int = -1, transactional: bool = False) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, int(transactional), producer_id, 0, 0, 1 << 20)
    for i in range(count):
        builder.append(i, 1_000 + i, b"k", b"%d" % (first + i), [])
    data = bytearray(builder.build())
    data[0:8] = first.to_bytes(8, "big")
    return bytes(data)


def test_chunks_are_cut_across_batches_and_begin_exactly_where_wanted() -> None:
    partition = _Partition(5)
    partition.add(batch(0, 10) + batch(10, 10) + batch(20, 3), ())
    taken = [[r.offset for r in partition.take(8, True)] for _ in range(4)]
    assert [offset for chunk_ in taken for offset in chunk_] == list(range(5, 23))
    assert partition.at == partition.fetch_at == 23
    assert partition.size == 0


def test_a_batch_cut_off_at_the_end_of_an_answer_is_asked_for_again() -> None:
    partition = _Partition(0)
    whole = batch(10, 10)
    partition.add(batch(0, 10) + whole[:-5], ())
    assert [r.offset for r in partition.take(100, True)] == list(range(10))
    assert partition.fetch_at == 10


def test_records_of_transactions_that_never_happened_are_not_handed_over() -> None:
    partition = _Partition(0)
    dead = batch(3, 4, producer_id=77, transactional=True)
    partition.add(batch(0, 3) + dead + batch(7, 2, producer_id=78, transactional=True), [(77, 3)])
    assert [r.offset for r in partition.take(100, True)] == [0, 1, 2, 7, 8]
    assert partition.at == 9


def test_a_flipped_bit_is_found_when_checksums_are_checked() -> None:
    data = bytearray(batch(0, 10))
    data[-2] ^= 1
    partition = _Partition(0)
    partition.add(bytes(data), ())
    with pytest.raises(ValueError, match="checksum"):
        partition.take(100, True)
    partition = _Partition(0)
    partition.add(bytes(data), ())
    assert len(partition.take(100, False)) == 10


def test_a_batch_gives_its_iterator_only_once() -> None:
    """Why `_Partition.take` wraps it: aiokafka's compiled batch asserts that nothing was read yet."""
    records = MemoryRecords(batch(0, 10))
    first: Any = records.next_batch()
    next(iter(first))
    with pytest.raises(AssertionError):
        iter(first)


class SlowClient:
    """Stands in for a broker that hands out endless batches of one partition."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.cluster = self

    def leader_for_partition(self, tp: Any) -> int:
        return 1

    def force_metadata_update(self) -> None: ...

    async def send(self, node: int, request: Any) -> Any:
        await asyncio.sleep(0)
        ((topic, ((partition, offset, size),)),) = request.topics
        self.asked.append(offset)
        data = b""
        while len(data) < size:
            more = batch(offset, 500)
            data, offset = data + more, offset + 500
        return type("Answer", (), {"API_VERSION": 11, "topics": [(topic, [(partition, 0, 1 << 40, 1 << 40, 0, [], -1, data)])]})


async def test_what_is_fetched_ahead_is_bounded_while_nobody_takes_it() -> None:
    client = SlowClient()
    fetcher = kafka.Fetcher(client, max_bytes=50_000)
    tp = TP("t", 0)
    position = 0
    for _ in range(20):
        (chunk_,) = await fetcher.read({tp: position}, 5.0)
        assert chunk_.first == position
        position = chunk_.next
        for _ in range(20):
            await asyncio.sleep(0)
        assert fetcher._partitions[tp].size <= 2 * 50_000 + 20_000
    asked = len(client.asked)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(client.asked) == asked
    await fetcher.close()


async def test_a_seek_drops_what_was_fetched_and_what_is_on_its_way() -> None:
    client = SlowClient()
    fetcher = kafka.Fetcher(client, max_bytes=50_000)
    tp = TP("t", 0)
    for position in (0, 7000, 3, 0, 100_000, 99_999):
        (found,) = await fetcher.read({tp: position}, 5.0)
        assert (found.first, found.records[0].offset) == (position, position)
    await fetcher.close()


class PacedClient(SlowClient):
    """Has one batch of each partition that it was told of, answers at once if it is asked for one, and otherwise when asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: set[int] = set()
        self.waits: list[tuple[set[int], int]] = []  # of each request: partitions, and how long it may wait, ms

    async def send(self, node: int, request: Any) -> Any:
        ((topic, partitions),) = request.topics
        self.waits.append(({number for number, _, _ in partitions}, request._max_wait_ms))
        if not self.ready & {number for number, _, _ in partitions}:
            await asyncio.sleep(request._max_wait_ms / 1000)
        rows = []
        for number, offset, _ in partitions:
            data = batch(offset, 10) if number in self.ready else b""
            self.ready.discard(number)
            rows.append((number, 0, offset + 10 if data else offset, 0, 0, [], -1, data))
        return type("Answer", (), {"API_VERSION": 11, "topics": [(topic, rows)]})


async def test_what_rests_is_not_asked_for_and_a_question_is_answered_before_the_next_partition_is_wanted() -> None:
    client = PacedClient()
    fetcher = kafka.Fetcher(client)
    quick, idle = TP("t", 0), TP("t", 1)
    client.ready = {0}
    (found,) = await fetcher.read({quick: 0, idle: 0}, 0.1, ahead=False)
    assert (found.partition, found.next) == (0, 10)
    await asyncio.sleep(0.01)
    assert [asked for asked, _ in client.waits] == [{0, 1}], "until when to wait for the other one is said by the next reading"
    assert await fetcher.read({idle: 0}, 0.05, ahead=False) == []  # the quick one is wanted in 50 ms
    asked, wait_ms = client.waits[1]
    assert asked == {1} and wait_ms <= 50 - kafka.RETURN_MS
    assert not fetcher._flying and len(client.waits) == 2, "nothing stands between the quick one and its time"
    client.ready = {0}
    (found,) = await fetcher.read({quick: 10, idle: 0}, 0.1, ahead=False)
    assert (found.first, found.next) == (10, 20)
    await fetcher.close()


async def test_what_is_known_to_be_there_is_asked_for_at_once_though_its_reader_has_a_pace() -> None:
    client = SlowClient()
    fetcher = kafka.Fetcher(client, max_bytes=50_000)
    await fetcher.read({TP("t", 0): 0}, 5.0, ahead=False)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(client.asked) > 1
    await fetcher.close()
