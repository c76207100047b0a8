"""Kafka as a Faust transport that hands over chunks: `orderflow-kafka://host:port[;host:port]`, and as a `Log`.

aiokafka brings the client, the group membership and the producer; the fetching is our own (`Fetcher`): it reads where it
is told with every call, takes compiled records out of fetched batches without building a ConsumerRecord each, lets the
broker gather about 10 ms while records flow, and never resets a position. Everything runs on the app's event loop: a
loop that stands still stops sending heartbeats, and its partitions go to somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, ClassVar, NamedTuple, cast

from aiokafka import AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    KafkaError,
    KafkaTimeoutError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust import types
from faust.transport.drivers import aiokafka as stock
from faust.types.transports import ConsumerT, ProducerT

from streams import driver
from streams.driver import CHUNK_RECORDS
from streams.partition import partition_of, split
from streams.processor import Chunk, Record
from streams.transport import TP, LogDown, LogMismatch

GATHER_BYTES = 64 * 1024  # while records flow, the broker answers when it has so much
RETURN_MS = 6  # a request is back so long before the next partition is wanted, lest that one wait for it
GATHER_MS = 20  # ... or after so long
BACKLOG_BYTES = 512 * 1024  # the same while some partition has more than its lane can take: fewer requests, each costs a millisecond
BACKLOG_MS = 50
IDLE_MS = 100  # while none flow, it answers at once when one comes, or after so long
RESPONSE_BYTES = 16 << 20
BACKOFF_S = 0.1
READ_COMMITTED = 1
EARLIEST, LATEST = -2, -1
DAMAGED_TRIES = 3
READ_TRIES = 10
STOP_S = 5.0
KNOW_TRIES = 50

Pair = tuple[bytes | None, bytes]


# --- fetching
class _Batch(NamedTuple):
    batch: Any | None  # None: nothing in it for us (a transaction's marker, or records of an aborted one)
    next: int
    size: int


class _Partition:
    """What is fetched of one partition and not yet handed over."""

    __slots__ = ("at", "batches", "damaged", "fetch_at", "left", "open_", "size", "start")

    def __init__(self, start: int) -> None:
        self.start = start  # where the next chunk begins
        self.at = start  # records before this offset are not wanted
        self.fetch_at = start  # where the next request begins
        self.batches: deque[_Batch] = deque()
        self.open_: Iterator[Any] | None = None  # records left of a batch that did not fit into one chunk
        self.left = _Batch(None, start, 0)
        self.size = 0  # bytes
        self.damaged = 0  # how often in a row

    def add(self, data: bytes, aborted: Sequence[tuple[int, int]]) -> None:
        """A broker's answer. `aborted`: producers and first offsets of transactions that never happened."""
        waiting = deque(sorted(aborted or (), key=lambda entry: entry[1]))
        dead: set[int] = set()
        records = MemoryRecords(data)
        batches: list[_Batch] = []
        while records.has_next():
            batch = records.next_batch()
            next_ = batch.next_offset
            while waiting and waiting[0][1] < next_:
                dead.add(waiting.popleft()[0])
            wanted = True
            if batch.is_control_batch:
                wanted = False
                marker = next(iter(batch), None)
                if marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER:
                    dead.discard(batch.producer_id)
            elif dead and batch.is_transactional and batch.producer_id in dead:
                wanted = False
            batches.append(_Batch(batch if wanted else None, next_, 0))
            self.fetch_at = next_
        share = len(data) // max(1, len(batches))
        self.batches.extend(batch._replace(size=share) for batch in batches)
        self.size += share * len(batches)

    def take(self, limit: int, check_crcs: bool) -> list[Any]:
        """Up to `limit` records; `at` moves behind them. Raises ValueError for a batch that cannot be read."""
        taken: list[Any] = []
        while len(taken) < limit:
            if self.open_ is None:
                if not self.batches:
                    break
                self.left = self.batches.popleft()
                if self.left.batch is None:
                    self._close()
                    continue
                if check_crcs and not self.left.batch.validate_crc():
                    raise ValueError("wrong checksum")
                self.open_ = chain(self.left.batch)  # a batch refuses to be asked for its iterator twice
            wanted = limit - len(taken)
            more = list(islice(self.open_, wanted))
            if len(more) < wanted:
                self._close()
            else:
                self.at = max(self.at, more[-1].offset + 1)
            if more and more[0].offset < self.start:
                more = [r for r in more if r.offset >= self.start]
            taken += more
        return taken

    def _close(self) -> None:
        self.open_ = None
        self.size -= self.left.size
        self.at = max(self.at, self.left.next)


class Fetcher:
    """Reads partitions from their leaders, one request under way per broker, ahead of what is handed over.

    Bounded: of each partition at most twice `max_bytes` are held. Not thread-safe.
    """

    def __init__(self, client: AIOKafkaClient, *, max_bytes: int = 1 << 20, check_crcs: bool = True) -> None:
        self._client = client
        self._max_bytes, self._check_crcs = max_bytes, check_crcs
        self._partitions: dict[TP, _Partition] = {}
        self._want: Mapping[TP, int] = {}
        self._flying: dict[int, asyncio.Task[None]] = {}
        self._arrived = asyncio.Event()
        self._flowing = False
        self._ahead, self._until = True, 0.0
        self.highwater: dict[TP, int] = {}
        self.refused: dict[TP, str] = {}  # what cannot be read, and why; the caller takes it out

    async def close(self) -> None:
        self._want = {}
        tasks = list(self._flying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def keep_only(self, partitions: Iterable[TP]) -> None:
        """Forget what is buffered of all others."""
        kept = set(partitions)
        for tp in [tp for tp in self._partitions if tp not in kept]:
            del self._partitions[tp]

    async def read(self, want: Mapping[TP, int], timeout: float, limit: int = CHUNK_RECORDS, ahead: bool = True) -> list[Chunk]:
        """At most one chunk of each wanted partition, beginning at the wanted offset; waits at most `timeout` seconds.

        `ahead`: what is handed over is asked for again at once; otherwise only where more is known to be there, so that
        the broker gathers what comes until it is wanted.
        """
        for tp, start in want.items():
            partition = self._partitions.get(tp)
            if partition is None or partition.start != start:
                self._partitions[tp] = _Partition(start)
        fresh = not want.keys() <= self._want.keys()
        self._want, self._ahead, self._until = want, ahead, asyncio.get_running_loop().time() + timeout
        chunks = self._take(want, limit)
        self._pump(bool(chunks), fresh)
        if chunks or self.refused or timeout <= 0:
            return chunks
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not chunks and not self.refused:
                    self._arrived.clear()
                    await self._arrived.wait()
                    chunks = self._take(want, limit)
                    self._pump(bool(chunks))
        return chunks

    def _take(self, want: Mapping[TP, int], limit: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        for tp in want:
            partition = self._partitions.get(tp)
            if partition is None or (partition.open_ is None and not partition.batches):
                continue
            try:
                records = partition.take(limit, self._check_crcs)
            except Exception as error:  # noqa: BLE001  checksums, codecs that are not installed, nonsense in a batch
                self._damaged(tp, partition, error)
                continue
            if records:
                if None in [r.value for r in records]:
                    records = [r if r.value is not None else Record(r.offset, r.key, b"", r.timestamp) for r in records]
                chunks.append(Chunk(tp.topic, tp.partition, partition.start, partition.at, records))
                partition.start = partition.at
        return chunks

    def _damaged(self, tp: TP, partition: _Partition, error: Exception) -> None:
        """Fetched again a few times: it may have been damaged on the way."""
        fresh = self._partitions[tp] = _Partition(partition.start)
        fresh.damaged = partition.damaged + 1
        if fresh.damaged >= DAMAGED_TRIES:
            self._refuse(tp, f"what follows offset {partition.at} cannot be read: {type(error).__name__}: {error}")

    def _refuse(self, tp: TP, why: str) -> None:
        self._partitions.pop(tp, None)
        self.refused[tp] = why
        self._arrived.set()

    def passed(self, tp: TP, end: int) -> bool:
        """Everything before `end` was handed over, or was nothing for us."""
        partition = self._partitions.get(tp)
        return partition is not None and partition.at >= end

    # --- requests
    def _pump(self, came: bool, fresh: bool = False) -> None:
        """Ask every broker that is not being asked for what is running low.

        `came`: there is something to hand over; `fresh`: something is wanted that was not before.
        """
        if not (self._ahead or came or fresh or self._left_ms() > RETURN_MS):
            return
        asks: dict[int, dict[TP, int]] = defaultdict(dict)
        for tp in self._want:
            partition = self._partitions.get(tp)
            if partition is None or partition.size > self._max_bytes:
                continue
            if came and not self._ahead and partition.fetch_at >= self.highwater.get(tp, 0):
                continue  # the next reading says until when to wait for it
            leader = self._client.cluster.leader_for_partition(TopicPartition(*tp))
            if leader is None:
                leader = -1
            if leader not in self._flying:
                asks[leader][tp] = partition.fetch_at
        for node, wanted in asks.items():
            idle = not self._flowing and len(wanted) == len(self._want)
            request = self._learn_leaders() if node == -1 else self._fetch(node, wanted, idle)
            self._flying[node] = asyncio.create_task(request, name=f"fetch from broker {node}")

    def _left_ms(self) -> int:
        return int((self._until - asyncio.get_running_loop().time()) * 1000)

    async def _learn_leaders(self) -> None:
        try:
            await self._client.force_metadata_update()
            await asyncio.sleep(BACKOFF_S)
        finally:
            self._landed(-1)

    async def _fetch(self, node: int, wanted: Mapping[TP, int], idle: bool) -> None:
        by_topic: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for tp, offset in wanted.items():
            by_topic[tp.topic].append((tp.partition, offset, self._max_bytes))
        if not self._ahead:
            wait_ms, min_bytes = max(0, self._left_ms() - RETURN_MS), 1
        elif any(partition.size > self._max_bytes for partition in self._partitions.values()):
            wait_ms, min_bytes = BACKLOG_MS, BACKLOG_BYTES
        else:
            wait_ms, min_bytes = (IDLE_MS, 1) if idle else (GATHER_MS, GATHER_BYTES)
        request = FetchRequest(wait_ms, min_bytes, RESPONSE_BYTES, READ_COMMITTED, list(by_topic.items()))
        try:
            healthy = self._receive(await self._client.send(node, request), wanted)
        except KafkaError:
            healthy = False
        try:
            if not healthy:
                self._client.force_metadata_update()
                await asyncio.sleep(BACKOFF_S)
        finally:
            self._landed(node)

    def _receive(self, response: Any, wanted: Mapping[TP, int]) -> bool:
        """False when the broker could not answer for some partition."""
        flowing, healthy = False, True
        modern = response.API_VERSION >= 11
        for topic, partitions in response.topics:
            for number, code, highwater, *rest in partitions:
                tp = TP(topic, number)
                partition = self._partitions.get(tp)
                if partition is None or partition.fetch_at != wanted[tp]:
                    continue  # sought elsewhere in the meantime
                error = for_code(code)
                if code == 0:
                    self.highwater[tp] = highwater
                    if rest[-1]:
                        partition.add(rest[-1], rest[2] if modern else rest[-2])
                        flowing = True
                elif error is OffsetOutOfRangeError:
                    self._refuse(tp, f"position {partition.fetch_at} lies outside the log")
                elif error.retriable or error in (NotLeaderForPartitionError, UnknownTopicOrPartitionError):
                    healthy = False
                else:
                    self._refuse(tp, f"the broker refuses: {error.__name__}")
        self._flowing = flowing
        return healthy

    def _landed(self, node: int) -> None:
        self._flying.pop(node, None)
        self._arrived.set()
        self._pump(self._flowing)


# --- consuming
class _Listener(ConsumerRebalanceListener):
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> Any:
        self._consumer.app.on_rebalance_start()  # now, not when somebody awaits what is returned
        return self._consumer.on_partitions_revoked({types.TP(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        generation = self._consumer.member.generation
        self._consumer.app.consumer_generation_id = generation
        await self._consumer.on_partitions_assigned({types.TP(*tp) for tp in assigned}, generation)


class Member(GroupCoordinator):
    """As leader it assigns what it knows, and aiokafka's own assigns nothing, for minutes, to a group whose topics it does not
    know: after a broker came back, or when joining is quicker than the first answer about the topics."""

    async def _perform_assignment(self, response: Any) -> Any:
        for _ in range(KNOW_TRIES):
            topics = self._subscription.topics
            unknown = [topic for topic in topics if not self._cluster.partitions_for_topic(topic)]
            if not unknown:
                return await super()._perform_assignment(response)
            await self._client.set_topics(topics)
            await self._client.force_metadata_update()
            await asyncio.sleep(BACKOFF_S)
        raise UnknownTopicOrPartitionError(*unknown)


class Consumer(driver.Consumer):
    """A member of the app's group. A commit of a generation that is gone is refused by the broker and answers False."""

    consumer_stopped_errors = ()
    _client: AIOKafkaClient
    _fetcher: Fetcher
    member: Member

    async def on_start(self) -> None:
        conf = self.app.conf
        if conf.broker_session_timeout > conf.broker_request_timeout:
            raise ValueError("broker_session_timeout is longer than broker_request_timeout")
        transport = cast(Transport, self.transport)
        self._client = AIOKafkaClient(
            bootstrap_servers=transport.servers(),
            client_id=conf.broker_client_id,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **stock.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )
        try:
            await self._client.bootstrap()
        except KafkaError as error:
            raise LogDown(f"no broker answers: {type(error).__name__}") from error
        self._subscription = SubscriptionState()
        self._fetcher = Fetcher(self._client, max_bytes=conf.consumer_max_fetch_size, check_crcs=conf.broker_check_crcs)
        self.member = Member(
            self._client,
            self._subscription,
            group_id=conf.id,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            enable_auto_commit=False,
            assignors=(RoundRobinPartitionAssignor,),
        )
        await super().on_start()

    async def on_stop(self) -> None:
        await super().on_stop()
        await self._fetcher.close()
        with contextlib.suppress(KafkaError):  # a group that is gone need not be left
            await self.member.close()
        await self._client.close()

    def close(self) -> None:
        """Faust calls it when a rebalance meets a stop: `on_stop` leaves the group."""

    # --- the group
    async def subscribe(self, topics: Iterable[str]) -> None:
        wanted = set(topics)
        self._client.set_topics(wanted)
        self._subscription.subscribe(topics=wanted, listener=_Listener(self))

    def assignment(self) -> set[types.TP]:
        return {types.TP(*tp) for tp in self._subscription.assigned_partitions()}

    async def committed(self, tp: TP) -> tuple[int, str] | None:
        found = (await self.member.fetch_committed_offsets([TopicPartition(*tp)])).get(TopicPartition(*tp))
        return None if found is None or found.offset < 0 else (found.offset, found.metadata)

    async def _write_offsets(self, offsets: Mapping[TP, tuple[int, str]]) -> bool:
        subscription = self._subscription.subscription
        if subscription is None or subscription.assignment is None:
            return False
        held = self._subscription.assigned_partitions()
        wanted = {TopicPartition(*tp): OffsetAndMetadata(*witness) for tp, witness in offsets.items() if tp in held}
        if not wanted:
            return False
        try:
            await self.member.commit_offsets(subscription.assignment, wanted)
        except CommitFailedError:
            self.log.warning("commit refused: the group has gone on without this worker")
            return False
        except KafkaError as error:
            self.log.warning("offsets not committed: %r", error)
            return False
        return True

    # --- reading
    async def _read(self, want: Mapping[TP, int], timeout: float) -> list[Chunk]:
        self.member.check_errors()
        chunks = await self._fetcher.read(want, timeout, ahead=not any(self._rests.values()))
        while self._fetcher.refused:
            self._refuse(*self._fetcher.refused.popitem())
        return chunks

    def _forget(self) -> None:
        super()._forget()
        fetcher = getattr(self, "_fetcher", None)  # Faust resets a consumer before it starts it
        if fetcher is not None:
            fetcher.keep_only(self._ours)

    async def _getmany(self, active_partitions: set[types.TP] | None, timeout: float) -> dict[types.TP, list[Chunk]]:
        with self._subscription.fetch_context():  # the group expels a member that does not come to fetch
            return await super()._getmany(active_partitions, timeout)

    # --- what Faust may ask
    def highwater(self, tp: types.TP) -> int:
        return self._fetcher.highwater.get(cast(TP, tp), 0)

    async def highwaters(self, *partitions: types.TP) -> Mapping[types.TP, int]:
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: types.TP) -> Mapping[types.TP, int]:
        found = await list_offsets(self._client, [TP(*tp) for tp in partitions], EARLIEST)
        return {tp: found[cast(TP, tp)] for tp in partitions}

    def topic_partitions(self, topic: str) -> int | None:
        return len(self._client.cluster.partitions_for_topic(topic) or ()) or None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        count = self.topic_partitions(topic)
        if partition is not None or count is None or key is None:
            return partition
        return partition_of(key, count)

    async def create_topic(self, topic: str, partitions: int, replication: int, **kwargs: Any) -> None:
        """Topics are made by `run.py init`, never in passing."""


# --- producing
async def append_batches(producer: AIOKafkaProducer, topic: str, records: Sequence[Pair], partition: int, timeout_s: float) -> None:
    """One batch, or more where they do not fit, to one partition; returns when the broker has acknowledged all.

    Raises LogDown, after `timeout_s` at the latest: some may have been written, or may still be (an idempotent producer
    never gives up a batch, it would break its sequence).
    """
    sent: list[asyncio.Future[Any]] = []
    try:
        async with asyncio.timeout(timeout_s):
            batch = producer.create_batch()
            append = batch.append
            for key, value in records:
                if append(timestamp=None, key=key, value=value) is None:
                    batch.close()
                    sent.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    append = batch.append
                    append(timestamp=None, key=key, value=value)
            batch.close()
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            await gather_all(sent)
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogDown(f"the broker did not acknowledge records for {topic}.{partition}: {type(error).__name__}") from error


class Appender:
    """What many append to one partition while a batch of it is under way goes together with the next, in their order.

    aiokafka sends one request per broker and one batch per partition at a time; whoever waits in line there waits a round
    trip for everyone before him: 100 to 500 ms with twelve lanes at 5,000 facts/s.
    """

    def __init__(self, producer: Callable[[], AIOKafkaProducer], timeout_s: float) -> None:
        """`producer` is asked anew for each batch. Raises LogDown when there is none."""
        self._producer, self._timeout_s = producer, timeout_s
        self._next: dict[TP, tuple[list[Pair], asyncio.Future[None]]] = {}
        self._sending: dict[TP, asyncio.Task[None]] = {}
        self._turn = 0

    async def append(self, topic: str, records: Sequence[Pair], partition: int | None = None) -> None:
        """Returns when the broker has acknowledged all; without a partition each goes where its key belongs. Raises LogDown."""
        if not records:
            return
        if partition is not None:
            await self._join(TP(topic, partition), records)
            return
        self._turn += 1
        parts = split(records, await self._count(topic), self._turn)
        await gather_all([self._join(TP(topic, place), part) for place, part in parts.items()])

    async def _count(self, topic: str) -> int:
        try:
            async with asyncio.timeout(self._timeout_s):
                return len(await self._producer().partitions_for(topic))
        except (KafkaError, OSError, TimeoutError) as error:
            raise LogDown(f"no broker knows topic {topic!r}: {type(error).__name__}") from error

    def _join(self, tp: TP, records: Sequence[Pair]) -> asyncio.Future[None]:
        if tp not in self._next:
            self._next[tp] = [], asyncio.get_running_loop().create_future()
        together, done = self._next[tp]
        together.extend(records)
        if tp not in self._sending:
            self._sending[tp] = asyncio.create_task(self._send(tp), name=f"append to {tp.topic}.{tp.partition}")
        return asyncio.shield(done)  # one of them may be cancelled, the others still want to know

    async def _send(self, tp: TP) -> None:
        try:
            while tp in self._next:
                records, done = self._next.pop(tp)
                try:
                    await append_batches(self._producer(), tp.topic, records, tp.partition, self._timeout_s)
                except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                    done.set_exception(error)
                    done.exception()  # nobody may be left to look at it
                else:
                    done.set_result(None)
        finally:
            del self._sending[tp]


async def stop_producer(producer: AIOKafkaProducer, timeout_s: float) -> None:
    """Flushes, but no longer than this: a stop must not wait for a broker that is gone."""
    try:
        async with asyncio.timeout(timeout_s):
            await producer.stop()
    except TimeoutError:
        producer._message_accumulator.fail_all(KafkaTimeoutError())
        await producer._sender.close()
        await producer.client.close()


async def gather_all(calls: Iterable[Any]) -> None:
    """Waits for all, then raises the first error."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class Producer(stock.Producer):
    """Faust's producer, made idempotent, with `append` for whole batches."""

    _appender: Appender

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def append(self, topic: str, records: Sequence[Pair], partition: int | None = None) -> None:
        """Returns when the broker has acknowledged all; without a partition each goes where its key belongs. Raises LogDown."""
        await self._appender.append(topic, records, partition)

    async def on_start(self) -> None:
        self._appender = Appender(self._ensure_producer, self.request_timeout)
        try:
            await super().on_start()
        except KafkaError as error:
            raise LogDown(f"no broker answers: {type(error).__name__}") from error

    async def on_stop(self) -> None:
        producer, self._producer = self._producer, None
        await super().on_stop()
        if producer is not None:
            await stop_producer(producer, STOP_S)


class Transport(stock.Transport):
    Consumer: ClassVar[type[ConsumerT]] = Consumer
    Producer: ClassVar[type[ProducerT]] = Producer

    def servers(self) -> list[str]:
        return stock.server_list(self.url, self.default_port)


# --- the log without a group
class KafkaLog:
    """`streams.transport.Log` over a cluster; acks=all, idempotent."""

    def __init__(
        self,
        bootstrap: str,
        *,
        auth: Mapping[str, Any] | None = None,
        replication: int = 1,
        request_timeout_s: float = 30.0,
        topic_config: Mapping[str, str] | None = None,
    ) -> None:
        """`auth`: aiokafka's security settings. `replication` and `topic_config` are for `create`. Connects nothing."""
        self._common = {"bootstrap_servers": bootstrap, "request_timeout_ms": int(request_timeout_s * 1000), **(auth or {})}
        self._timeout_s, self._replication, self._topic_config = request_timeout_s, replication, dict(topic_config or {})
        self._renewing = asyncio.Lock()
        self._producer: AIOKafkaProducer | None = None
        self._client: AIOKafkaClient | None = None
        self._appender = Appender(self._started, request_timeout_s)

    async def start(self) -> None:
        """Raises LogDown when no broker answers."""
        producer = self._new_producer()
        client = AIOKafkaClient(**self._common)
        try:
            async with asyncio.timeout(self._timeout_s):
                await producer.start()
                await client.bootstrap()
        except (KafkaError, TimeoutError) as error:
            await stop_producer(producer, STOP_S)
            await client.close()
            raise LogDown(f"no broker answers: {type(error).__name__}") from error
        self._producer, self._client = producer, client

    async def close(self) -> None:
        """What was appended before is sent first."""
        producer, self._producer = self._producer, None
        client, self._client = self._client, None
        if producer is not None:
            await stop_producer(producer, STOP_S)
        if client is not None:
            await client.close()

    async def append(self, topic: str, records: Sequence[Pair], partition: int | None = None) -> None:
        producer = self._started()
        try:
            await self._appender.append(topic, records, partition)
        except LogDown:
            await self._renew(producer)
            raise

    def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise LogDown("the connection to Kafka is not open")
        return self._producer

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(**self._common, acks="all", enable_idempotence=True, max_batch_size=1 << 20, max_request_size=8 << 20)

    async def _renew(self, producer: AIOKafkaProducer) -> None:
        """A producer whose sender met a fatal error (its sequence is lost, its ID fenced) never sends again."""
        async with self._renewing:
            sender: Any = producer._sender
            if self._producer is producer and sender.sender_task.done():
                fresh = self._new_producer()
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await fresh.start()
                except (KafkaError, TimeoutError):
                    await stop_producer(fresh, STOP_S)
                    return
                self._producer = fresh
                await stop_producer(producer, STOP_S)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        client = self._open()
        partitions = [TP(topic, number) for number in sorted(await self._partitions(topic))]
        first = await list_offsets(client, partitions, EARLIEST)
        end = await list_offsets(client, partitions, LATEST)
        return {tp.partition: (first[tp], end[tp]) for tp in partitions}

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Any]:
        """Raises LogMismatch where the log cannot be read at `start`."""
        client, tp = self._open(), TP(topic, partition)
        await self._partitions(topic)
        end = (await list_offsets(client, [tp], LATEST))[tp]
        fetcher = Fetcher(client)
        records: list[Any] = []
        try:
            tries = 0
            while len(records) < limit and start < end and not fetcher.passed(tp, end):
                chunks = await fetcher.read({tp: start}, 1.0, limit - len(records))
                if tp in fetcher.refused:
                    raise LogMismatch(f"{topic}.{partition}: {fetcher.refused[tp]}")
                tries = 0 if chunks else tries + 1
                if tries > READ_TRIES:
                    raise LogDown(f"no broker hands out {topic}.{partition}")
                for chunk in chunks:
                    records += chunk.records
                    start = chunk.next
        finally:
            await fetcher.close()
        return records

    async def create(self, topics: Mapping[str, int]) -> None:
        """Raises LogMismatch when one exists with another count."""
        admin = AIOKafkaAdminClient(**self._common)
        await admin.start()
        try:
            for name, count in topics.items():
                wanted = NewTopic(name, count, self._replication, topic_configs=self._topic_config)
                response = await admin.create_topics([wanted])
                for _, code, *rest in response.topic_errors:
                    error = for_code(code)
                    if code and error is not TopicAlreadyExistsError:
                        raise LogDown(f"topic {name!r} cannot be made: {error.__name__} {rest[0] if rest else ''}")
        finally:
            await admin.close()
        for name, count in topics.items():
            found = len(await self._partitions(name))
            if found != count:
                raise LogMismatch(f"topic {name!r} has {found} partitions, not {count}: a layout is never changed under data")

    async def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        client = self._open()
        try:
            response = await client.send(client.get_random_node(), TopicIds(topics))
        except KafkaError as error:
            raise LogDown(f"no broker tells topic IDs: {type(error).__name__}") from error
        return {name: id_ for code, name, id_, *_ in response.topics if code == 0}

    async def replication(self, topics: Sequence[str]) -> tuple[int, int]:
        """The fewest replicas that a partition of these has, and the fewest that must have a record before it is acknowledged."""
        client = self._open()
        for topic in topics:
            await self._partitions(topic)
        admin = AIOKafkaAdminClient(**self._common)
        try:
            await admin.start()
            answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
        except KafkaError as error:
            raise LogDown(f"no broker tells the topics' settings: {type(error).__name__}") from error
        finally:
            await admin.close()
        told = (setting for answer in answers for resource in answer.resources for setting in resource[4])
        in_sync = [int(value) for name, value, *_ in told if name == "min.insync.replicas"]
        replicas = [len(p.replicas) for topic in topics for p in client.cluster._partitions[topic].values()]
        return min(replicas), min(in_sync, default=1)

    def _open(self) -> AIOKafkaClient:
        if self._client is None:
            raise LogDown("the connection to Kafka is not open")
        return self._client

    async def _partitions(self, topic: str) -> frozenset[int]:
        client = self._open()
        for _ in range(50):  # a topic just made takes a moment to be known everywhere
            with contextlib.suppress(KafkaError):
                await client.add_topic(topic)
                known = client.cluster.partitions_for_topic(topic)
                if known and all(client.cluster.leader_for_partition(TopicPartition(topic, p)) not in (None, -1) for p in known):
                    return frozenset(known)
                await client.force_metadata_update()
            await asyncio.sleep(BACKOFF_S)
        raise LogDown(f"no broker knows topic {topic!r}")


async def list_offsets(client: AIOKafkaClient, partitions: Sequence[TP], when: int) -> dict[TP, int]:
    """`when`: EARLIEST or LATEST (of what is committed). Raises LogDown."""
    found: dict[TP, int] = {}
    for attempt in range(20):
        by_node: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for tp in partitions:
            if tp not in found:
                by_node[client.cluster.leader_for_partition(TopicPartition(*tp))][tp.topic].append((tp.partition, when))
        if not by_node:
            return found
        known = {broker.nodeId for broker in client.cluster.brokers()}
        for node, topics in by_node.items():
            if node not in known:
                continue
            with contextlib.suppress(KafkaError):
                response = await client.send(node, OffsetRequest(-1, READ_COMMITTED, list(topics.items())))
                for topic, answers in response.topics:
                    for number, code, *rest in answers:
                        if code == 0:
                            found[TP(topic, number)] = rest[1] if len(rest) > 1 else rest[0][0]
        if len(found) < len(partitions) and attempt:
            with contextlib.suppress(KafkaError):
                await client.force_metadata_update()
            await asyncio.sleep(BACKOFF_S)
    if len(found) < len(partitions):
        raise LogDown("no broker tells the bounds of the log")
    return found


# --- topic IDs: aiokafka speaks Metadata up to version 5, they came with 10
class _Uuid:
    @staticmethod
    def encode(value: uuid.UUID) -> bytes:
        return value.bytes

    @staticmethod
    def decode(data: io.BytesIO) -> str:
        return str(uuid.UUID(bytes=data.read(16)))


class _Metadata12(Response):
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AskMetadata12(RequestStruct):
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Metadata12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicIds(Request[_AskMetadata12]):
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_AskMetadata12]) -> _AskMetadata12:
        return request_struct_class([(uuid.UUID(int=0), name, {}) for name in self._topics], False, False, {})
