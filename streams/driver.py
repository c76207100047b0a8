"""What makes Faust fast and safe, for both transports: whole chunks instead of single records, and positions that are asked for.

Stock Faust hands its agent one record at a time through two asyncio tasks and commits what was acknowledged. Here the
consumer hands over chunks (up to 1,024 records of one partition, one Faust message each) and acknowledges nothing:

- where to read comes from `Assignments.position` and is passed to the reader with every call, so a seek that somebody
  overwrites, forgets or makes too late cannot happen, and dropping a chunk means reading it again;
- a partition is offered only while its position is known and there is room for it, so nothing is ever paused or resumed,
  and one slow partition holds up no other;
- what is committed is `Assignments.witness`, at most every second, before and after a revocation, and at a stop.

In any doubt (a rebalance, a resumed flow, a cancelled hand-over) the consumer forgets what it has read and asks for the
position again. So a chunk may be handed over twice, and `trim` cuts off what the receiver has already.
"""

from __future__ import annotations

import abc
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any, cast

import faust
import faust.streams
from faust import types
from faust.transport import drivers
from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import AppT, ConsumerMessage
from faust.types.core import K, V
from faust.types.events import EventT
from faust.types.tuples import Message

from streams.processor import Chunk
from streams.transport import TP, Assignments

CHUNK_RECORDS = 1024
HELD_WAIT_S = 0.01  # when something is held back: its room is looked at again so soon; its lane has work for longer
TURN_WAIT_S = 0.1  # when nothing is: the longest wait for records before positions are looked at again
REVOKE_S = 6.0  # lanes have 5 s to come to rest
COMMIT_S = 5.0
VERSIONS = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}
SCHEMES = {"orderflow-kafka": "streams.kafka:Transport", "orderflow-log": "streams.embedded:Transport"}


class ChunkSchema(faust.Schema[Any, Any]):
    """Hands the chunk to the agent as it is: bytes are decoded, validated and parked by the processors."""

    def compile(self, app: AppT, **kwargs: Any) -> Callable[..., Awaitable[EventT[Any]]]:
        create_event = app.create_event

        async def decode(message: Message, *, propagate: bool = False) -> EventT[Any]:
            return create_event(cast(K, None), cast(V, message.value), None, message)

        return decode


def trim(chunk: Chunk, position: int) -> Chunk | None:
    """What of a chunk goes on at `position`: the chunk, its later part, or None if it was all taken in before.

    Raises LookupError when records between `position` and the chunk are missing: ask the consumer to `reposition`.
    """
    if chunk.first == position:
        return chunk
    if chunk.next <= position:
        return None
    if chunk.first > position:
        raise LookupError(f"{chunk.topic}.{chunk.partition}: at {position}, but the chunk starts at {chunk.first}")
    return Chunk(chunk.topic, chunk.partition, position, chunk.next, [r for r in chunk.records if r.offset >= position])


class Consumer(FaustConsumer):
    """Faust's side of consuming. A transport adds `_read`, `_write_offsets`, `subscribe`, `assignment` and `committed`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next: dict[TP, int] = {}  # what is handed over next; absent: ask for the position
        self._rests: dict[TP, float] = {}  # read to its end, and until when that will do, loop time
        self._ours: frozenset[TP] = frozenset()  # assigned and not yet revoked
        self._unreadable: set[TP] = set()
        self._witnessed: dict[TP, tuple[int, str]] = {}
        self._readings = 0  # counts up when everything is forgotten
        self._committing = asyncio.Lock()

    # --- what a transport brings
    @abc.abstractmethod
    async def _read(self, want: Mapping[TP, int], timeout: float) -> list[Chunk]:
        """At most one chunk of each wanted partition, beginning exactly at the wanted offset; waits at most `timeout` seconds.

        What cannot be read there (expired, not yet written, damaged, another log) goes to `_refuse`.
        """

    @abc.abstractmethod
    async def _write_offsets(self, offsets: Mapping[TP, tuple[int, str]]) -> bool:
        """Commit to the group; False when it did not happen. Raises nothing: the witness is written again in a second."""

    @abc.abstractmethod
    async def committed(self, tp: TP) -> tuple[int, str] | None:
        """The group's offset and metadata of a partition; None if there is none."""

    # --- what the worker calls
    @property
    def assignments(self) -> Assignments:
        return cast(Assignments, cast(Any, self.app).assignments)

    def reposition(self, tp: TP) -> None:
        """Read this partition again from `Assignments.position`: its lane was dropped, or missed something."""
        self._next.pop(tp, None)
        self._rests.pop(tp, None)
        self._unreadable.discard(tp)

    # --- reading
    def _forget(self) -> None:
        self._readings += 1
        self._next.clear()
        self._rests.clear()
        self._unreadable.clear()

    def _refuse(self, tp: TP, why: str) -> None:
        """The log cannot be read at our position: the partition stops, nothing is reset."""
        self._next.pop(tp, None)
        self._unreadable.add(tp)
        self.assignments.mismatch(tp, why)

    def _wanted(self) -> dict[TP, int]:
        """The partitions that may be read now, and where."""
        assignments, want = self.assignments, {}
        for tp in self._ours:
            if tp in self._unreadable:
                continue
            position = assignments.position(tp)
            if position is None:
                self._next.pop(tp, None)
                continue
            at = self._next.setdefault(tp, position)
            if assignments.room(tp):
                want[tp] = at
        return want

    async def _getmany(self, active_partitions: set[types.TP] | None, timeout: float) -> dict[types.TP, list[Chunk]]:
        want = self._wanted()
        if not want or len(want) < len(self._ours) - len(self._unreadable):
            timeout = HELD_WAIT_S
        now = asyncio.get_running_loop().time()
        resting = {tp: until for tp in want if (until := self._rests.get(tp, 0.0)) > now}
        timeout = min([timeout, *(until - now for until in resting.values())])
        want = {tp: at for tp, at in want.items() if tp not in resting}
        if not want:  # never passed on: to some readers an empty set means all partitions
            await asyncio.sleep(timeout)
            return {}
        chunks = await self._read(want, timeout)
        return {types.TP(chunk.topic, chunk.partition): [chunk] for chunk in chunks}

    def _to_message(self, tp: types.TP, record: Any) -> ConsumerMessage:
        chunk: Chunk = record
        return ConsumerMessage(
            chunk.topic,
            chunk.partition,
            chunk.first,
            0.0,
            0,
            None,
            None,
            cast(Any, chunk),
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher runs this. Replaced whole: the stock loop keeps read offsets, gaps and acks of its own."""
        hand_over = self.callback
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait(cast(Any, self.can_resume_flow))
                continue
            readings = self._readings
            chunks = await self._getmany(None, TURN_WAIT_S)
            for tp, (chunk,) in chunks.items():
                if self._readings != readings or not self.flow_active:
                    break  # read across a rebalance: dropped, and read again from where the positions stand then
                if self._next.get(cast(TP, tp)) != chunk.first:
                    continue
                await hand_over(cast(Message, self._to_message(tp, chunk)))
                if self._readings == readings and self._next.get(cast(TP, tp)) == chunk.first:
                    self._next[cast(TP, tp)] = chunk.next
                    if chunk.next >= self.highwater(tp):
                        self._rests[cast(TP, tp)] = self.assignments.next_reading(cast(TP, tp), asyncio.get_running_loop().time())
            await asyncio.sleep(0)  # a reader that has data never really waits; the agents must run

    def on_buffer_full(self, tp: types.TP) -> None:
        """Nothing: agents only move chunks on, what holds back is `Assignments.room`."""

    def on_buffer_drop(self, tp: types.TP) -> None:
        """Nothing: see `on_buffer_full`."""

    # --- positions
    async def perform_seek(self) -> None:
        """Returns at once: Faust's recovery service, which waits for it, dies silently when it takes too long."""

    async def seek_to_committed(self) -> Mapping[types.TP, int]:
        return {}

    async def _seek(self, partition: types.TP, offset: int) -> None:
        self.reposition(cast(TP, partition))

    async def seek_wait(self, partitions: Mapping[types.TP, int]) -> None:
        """Only tables would need it, and there are none."""

    def resume_flow(self) -> None:
        # Faust has just cleared the agents' queues, in the same breath: what lay in them is read again
        self._forget()
        super().resume_flow()

    # --- rebalancing
    async def on_partitions_assigned(self, assigned: set[types.TP], generation_id: int = 0) -> None:
        self._forget()
        self._witnessed.clear()
        self._ours = frozenset(TP(*tp) for tp in assigned)
        if not self.app.should_stop:
            self.assignments.assigned(self._ours)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[types.TP]) -> None:
        await self.commit()  # before Faust stops the flow and we wait for the lanes
        await super().on_partitions_revoked(revoked)
        await self.wait_empty()  # Faust calls it too, but not when it has no assignment any more

    async def wait_empty(self) -> None:
        """Faust asks for this when partitions are revoked and when it stops: the lanes come to rest, the witness is written."""
        leaving, self._ours = self._ours, frozenset()
        self._forget()
        if not leaving:
            return
        await self.commit()
        try:
            await asyncio.wait_for(self.assignments.revoked(leaving), REVOKE_S)
        except TimeoutError:
            self.log.warning("lanes did not come to rest in %s s; their store fences them off", REVOKE_S)
        except Exception as error:
            self.log.exception("revoking failed")
            await self.crash(error)
        await self._commit_witness(leaving)

    # --- committing
    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """The witness, whatever Faust believes to be acknowledged."""
        return await self._commit_witness(self._ours)

    async def _commit_witness(self, partitions: frozenset[TP]) -> bool:
        async with self._committing:
            offsets = {tp: w for tp, w in self.assignments.witness().items() if tp in partitions and self._witnessed.get(tp) != w}
            if not offsets:
                return False
            try:
                done = await asyncio.wait_for(self._write_offsets(offsets), COMMIT_S)
            except TimeoutError:
                self.log.warning("the group's offsets could not be written in %s s", COMMIT_S)
                return False
            if done:
                self._witnessed.update(offsets)
            return done

    async def _commit(self, offsets: Mapping[types.TP, int]) -> bool:
        raise AssertionError("commits go through commit()")

    # --- looking
    async def position(self, tp: types.TP) -> int | None:
        return self._next.get(cast(TP, tp))

    def _new_topicpartition(self, topic: str, partition: int) -> types.TP:
        return types.TP(topic, partition)


def reposition(app: AppT, tp: TP) -> None:
    """`Consumer.reposition` of an app that may not be running yet."""
    consumer = cast(Any, app)._consumer
    if consumer is not None:
        cast(Consumer, consumer).reposition(tp)


def register() -> None:
    """Make the URL schemes known to Faust where the package's entry points are not installed."""
    for scheme, target in SCHEMES.items():
        drivers.TRANSPORTS.aliases.setdefault(scheme, target)


def worker_conf(
    *, session_timeout_s: float = 10.0, check_crcs: bool = True, commit_interval_s: float = 1.0, max_fetch_bytes: int = 1 << 20
) -> dict[str, Any]:
    """Settings that an app on these transports must have; `faust.App(id, broker=..., **worker_conf())`."""
    register()
    return {
        "datadir": f"{tempfile.gettempdir()}/orderflow-faust",  # Faust makes one, nothing is kept in it
        "processing_guarantee": "at_least_once",
        "broker_commit_interval": commit_interval_s,
        "broker_session_timeout": session_timeout_s,
        "broker_heartbeat_interval": session_timeout_s / 4,
        "broker_request_timeout": max(30.0, session_timeout_s),
        "broker_rebalance_timeout": max(10.0, session_timeout_s),
        "broker_max_poll_interval": 120.0,
        "broker_check_crcs": check_crcs,
        "consumer_auto_offset_reset": "none",
        "consumer_max_fetch_size": max_fetch_bytes,
        "producer_acks": -1,
        "producer_linger": 0.0,
        "producer_max_batch_size": 1 << 20,
        "producer_max_request_size": 8 << 20,
        "producer_request_timeout": 30.0,
        "producer_threaded": False,
        "stream_wait_empty": True,
        "stream_buffer_maxsize": 256,
        "stream_publish_on_commit": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "table_standby_replicas": 0,
        "store": "memory://",
        "web_enabled": False,
        "worker_redirect_stdouts": False,
        "cython_optimizations": False,
    }


def check_start(app: faust.App | None = None) -> None:
    """Raises RuntimeError when what is installed, or how the app is set, is not what the transports were built and tested for."""
    if faust.streams._CStreamIterator is None:  # type: ignore[attr-defined]
        raise RuntimeError("Faust runs without its Cython extension (NO_CYTHON, or no wheel for this Python): it would lose events")
    found = {name: version(name) for name in VERSIONS}
    if found != VERSIONS:
        raise RuntimeError(f"the transports are built for {VERSIONS}, but {found} are installed")
    if app is not None:
        _check_conf(app)


def _check_conf(app: faust.App) -> None:
    wrong = [
        name for name, value in worker_conf().items() if name in _FIXED and str(getattr(app.conf, name)) != str(_effective(name, value))
    ]
    if app.conf.broker_commit_interval > 1:
        wrong.append("broker_commit_interval")
    if app.conf.broker_session_timeout > 15:
        wrong.append("broker_session_timeout")
    if app.conf.producer_request_timeout > 60:
        wrong.append("producer_request_timeout")
    if wrong:
        raise RuntimeError(f"Faust settings that lose, double or stall events: {', '.join(sorted(wrong))}; use worker_conf()")


def _effective(name: str, value: Any) -> Any:
    return faust.types.enums.ProcessingGuarantee(value) if name == "processing_guarantee" else value


_FIXED = frozenset(
    {
        "processing_guarantee",
        "consumer_auto_offset_reset",
        "producer_acks",
        "producer_threaded",
        "stream_wait_empty",
        "stream_publish_on_commit",
        "topic_allow_declare",
        "topic_disable_leader",
        "table_standby_replicas",
        "web_enabled",
    }
)
