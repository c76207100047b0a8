"""A worker: the lanes of the partitions that the group gave it, brought up, kept going and laid down.

It is the `Assignments` of its Faust app. A partition is offered to nobody until its lane is acquired and its position
fits the log; what does not fit stops that partition and makes the worker not ready, and nothing is reset.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from connectors.store import LaneId, LaneLost, Store, StoreDown, StoreWentBack
from orders.state import NewerState
from streams.clock import Clock
from streams.dispatch import Dispatcher
from streams.lane import STAGES, Lane, Limits, Meters, where
from streams.processor import Chunk, Processor, Scorer
from streams.transport import TP, Log, LogDown

log = structlog.get_logger("worker")
QUIESCE_S = 5.0
STOLEN_WAIT_S = 3.0  # a zombie learns from its group within this time that it has lost the partition
RETRY_S = 0.5
STEP_S = 0.015  # lie the turns of neighbouring partitions apart: the two cores of a machine, and two workers on it, take turns as well
JOURNAL_TAIL = 256  # records looked at from the journal's end, then twice as many, until one of the lane is found


class Stopped(msgspec.Struct, frozen=True):
    """A partition that is not worked on, and what to do about it."""

    tp: TP
    reason: str  # "log_mismatch" | "store_went_back" | "rebuilding" | "state_version"
    detail: str


class Worker:
    def __init__(
        self,
        processors: Mapping[str, Callable[[], Processor]],
        *,
        layout: int,
        store: Store,
        log: Log,
        clock: Clock,
        dispatcher: Dispatcher,
        scorer: Scorer | None = None,
        limits: Limits | None = None,
        paces: Mapping[str, float] | None = None,
        meters: Meters | None = None,
        crash: Callable[[BaseException], None],
        reposition: Callable[[TP], None] = lambda tp: None,
    ) -> None:
        """`processors` by topic, one instance per lane. `crash` ends the process: the supervisor starts it again.

        `paces` by processor: how far apart the turns of its lanes begin, where that is not as `limits` say, seconds.

        `reposition` asks the driver to read a partition again from where its lane stands.
        """
        self.lanes: dict[TP, Lane] = {}
        self.stopped: dict[TP, Stopped] = {}
        self.unpositioned_since: dict[TP, float] = {}
        self.ready = False
        self._processors, self._layout, self._store, self._log = processors, layout, store, log
        self._clock, self._dispatcher, self._scorer = clock, dispatcher, scorer
        self._limits, self._meters, self._crash = limits or Limits(), meters, crash
        self._paces = paces or {}
        self._reposition = reposition
        self._resting: dict[TP, Lane] = {}
        self._raising: dict[TP, asyncio.Task[None]] = {}
        self._spent: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by processor and stage, of lanes that are elsewhere
        self._assigned_once = False
        self._closing = False

    # --- Assignments
    def assigned(self, partitions: frozenset[TP]) -> None:
        self._assigned_once = True
        for tp in partitions:
            if tp not in self.lanes and tp.topic in self._processors:
                self.lanes[tp] = self._resting.pop(tp) if tp in self._resting else self._make(tp)
                self._raise(tp)
        for lane in self._resting.values():  # another worker has them now
            self._spent[lane.id.processor].update(lane.stages)
        self._resting.clear()

    async def revoked(self, partitions: frozenset[TP]) -> None:
        leaving = {tp: lane for tp in partitions if (lane := self.lanes.pop(tp, None)) is not None}
        for tp in leaving:
            task = self._raising.pop(tp, None)
            if task is not None:
                task.cancel()
            self.unpositioned_since.pop(tp, None)
            self.stopped.pop(tp, None)
        await asyncio.gather(*(lane.quiesce(QUIESCE_S) for lane in leaving.values()))
        self._resting.update(leaving)  # with their caches, should they come back while the token is still theirs

    def position(self, tp: TP) -> int | None:
        lane = self.lanes.get(tp)
        return None if lane is None else lane.position

    def room(self, tp: TP) -> bool:
        lane = self.lanes.get(tp)
        return lane is not None and lane.room

    def next_reading(self, tp: TP, after: float) -> float:
        lane = self.lanes.get(tp)
        return 0.0 if lane is None else lane.next_moment(after)

    def witness(self) -> Mapping[TP, tuple[int, str]]:
        found: dict[TP, tuple[int, str]] = {}
        for tp, lane in (*self.lanes.items(), *self._resting.items()):
            held = lane.held
            if held is not None and held.offset is not None:
                found[tp] = (held.offset, f"{self._store.id}:{held.epoch}:{held.offset}")
        return found

    def mismatch(self, tp: TP, why: str) -> None:
        self._stop(tp, "log_mismatch", why)

    # --- called by the app's agents
    def offer(self, chunk: Chunk) -> None:
        lane = self.lanes.get(TP(chunk.topic, chunk.partition))
        if lane is not None and lane.positioned:
            lane.offer(chunk)

    def nudge(self) -> None:
        for lane in self.lanes.values():
            lane.nudge()

    def is_ready(self) -> bool:
        """Every partition given to us has a running lane."""
        return self._assigned_once and not self._closing and not self.stopped and all(lane.positioned for lane in self.lanes.values())

    def stages(self) -> dict[str, dict[str, float]]:
        """Seconds that the lanes of each processor have spent here in each stage of their turns, those that left included."""
        spent = {name: Counter(stages) for name, stages in self._spent.items()}
        for lane in (*self.lanes.values(), *self._resting.values()):
            spent.setdefault(lane.id.processor, Counter()).update(lane.stages)
        return {name: {stage: stages[stage] for stage in STAGES} for name, stages in spent.items()}

    async def close(self) -> None:
        self._closing = True
        await self.revoked(frozenset(self.lanes))

    # --- bringing lanes up
    def _make(self, tp: TP) -> Lane:
        processor = self._processors[tp.topic]()
        gather_s = self._paces.get(processor.name)
        return Lane(
            LaneId(processor.name, self._layout, tp.partition),
            processor,
            phase_s=tp.partition * STEP_S,
            store=self._store,
            publisher=self._log,
            clock=self._clock,
            channels=self._dispatcher,
            dispatch=self._dispatcher,
            scorer=self._scorer,
            limits=self._limits if gather_s is None else msgspec.structs.replace(self._limits, gather_s=gather_s),
            meters=self._meters,
            reposition=lambda lane: self._reposition(tp),
        )

    def _raise(self, tp: TP, wait_s: float = 0.0) -> None:
        self.unpositioned_since.setdefault(tp, asyncio.get_running_loop().time())
        self._raising[tp] = asyncio.create_task(self._bring_up(tp, self.lanes[tp], wait_s), name=f"acquire {tp.topic}.{tp.partition}")

    async def _bring_up(self, tp: TP, lane: Lane, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        while self.lanes.get(tp) is lane:
            try:
                await lane.acquire()
                await self._check(tp, lane)
            except (LaneLost, StoreDown, LogDown) as error:
                log.warning("lane not acquired, trying again", lane=str(lane.id), error=type(error).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            except StoreWentBack as error:
                self._stop(tp, "store_went_back", str(error))
                return
            except Exception as error:
                self._crash(error)
                raise
            break
        if self.lanes.get(tp) is lane and tp not in self.stopped:
            self._reposition(tp)
            lane.start(self._ended)
            self.unpositioned_since.pop(tp, None)

    async def _check(self, tp: TP, lane: Lane) -> None:
        """Does the store's position fit this log, and does the journal end where the store does?"""
        held = lane.held
        assert held is not None
        if held.mark:
            self._stop(tp, "rebuilding", "its rebuild was cut short: `run.py recover` again")
            return
        if held.offset is None:
            why = "the store has no position for it: `run.py recover` rebuilds an emptied store, `run.py init` begins a new one"
            self._stop(tp, "log_mismatch", why)
            return
        its_log = (await self._log.topic_ids([tp.topic])).get(tp.topic)
        if held.log != its_log:
            why = f"the store's position is of the topic {held.log}, this log's is {its_log}: connect the right ones, or `run.py recover`"
            self._stop(tp, "log_mismatch", why)
            return
        bounds = await self._log.bounds(tp.topic)
        first, end = bounds.get(tp.partition, (0, 0))
        if not first <= held.offset <= end:
            self._stop(tp, "log_mismatch", f"position {held.offset} lies outside the log ({first} to {end})")
            return
        if not lane.processor.stateless:
            lane.partitions = len(bounds)
        journaled = 0 if lane.processor.stateless else await journal_sequence(self._log, lane.id)
        if journaled > held.sequence:
            self._stop(tp, "store_went_back", f"the journal holds sequence {journaled}, the store only {held.sequence}: `run.py recover`")

    def _ended(self, lane: Lane, error: BaseException | None) -> None:
        tp = next((tp for tp, its in self.lanes.items() if its is lane), None)
        if tp is None or error is None or self._closing:
            return
        if isinstance(error, StoreWentBack):
            self._stop(tp, "store_went_back", str(error))
        elif isinstance(error, NewerState):
            self._stop(tp, "state_version", str(error))
        elif isinstance(error, LaneLost):
            self._lost(lane, "lane_lost")
            self._raise(tp, STOLEN_WAIT_S)
        elif isinstance(error, StoreDown):
            log.warning("lane lost its store, acquiring again", lane=str(lane.id), error=type(error).__name__)
            self._lost(lane, "store_down")
            self._raise(tp, RETRY_S)
        else:
            log.error("lane failed", lane=str(lane.id), error=type(error).__name__, where=where(error))
            self._crash(error)

    def _lost(self, lane: Lane, why: str) -> None:
        if self._meters is not None:
            self._meters.lost(lane, why)

    def _stop(self, tp: TP, reason: str, detail: str) -> None:
        if tp in self.lanes:
            self._lost(self.lanes[tp], reason)
        self.stopped[tp] = Stopped(tp, reason, detail)
        self.unpositioned_since.pop(tp, None)
        if tp in self.lanes:
            self.lanes[tp].positioned = False
        log.error("partition stopped", topic=tp.topic, partition=tp.partition, reason=reason, detail=detail)


class _Head(msgspec.Struct):
    lane: str
    sequence: int


_head = msgspec.json.Decoder(_Head).decode


async def journal_sequence(log: Log, lane: LaneId, topic: str = "journal") -> int:
    """The greatest commit sequence that the journal holds of a lane; 0 if none. Reads from its end backwards."""
    first, end = (await log.bounds(topic)).get(lane.partition, (0, 0))
    name, span, until = str(lane).encode(), JOURNAL_TAIL, end
    while until > first:
        start = max(first, until - span)
        found = 0
        at = start
        while at < until:
            records: Sequence[object] = await log.read(topic, lane.partition, at, until - at)
            if not records:
                break
            for record in records:
                if record.key == name:  # type: ignore[attr-defined]
                    found = max(found, _head(record.value).sequence)  # type: ignore[attr-defined]
            at = records[-1].offset + 1  # type: ignore[attr-defined]
        if found:
            return found
        until, span = start, span * 2
    return 0
