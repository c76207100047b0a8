"""A whole installation stepped by hand: real processors, lanes, worker checks and store; a log; senders that remember.

One lane takes one turn at a time and all that follows from it (publishing, calls, outcomes) is awaited before the next, so
a life is the same at every run and can be cut at any step. A cut raises `Killed`: what was in memory is gone, `wake` makes
new lanes on what the store and the log hold, as a new process would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.store import LaneId, Store
from model.score import Scores
from orders.effect import Claim, Outcome
from streams.clock import VirtualClock
from streams.dispatch import Dispatcher, Modes
from streams.lane import Lane
from streams.processor import Chunk, Processor, Scorer
from streams.transport import TP, Log
from streams.worker import Stopped, Worker

YEAR_MS = 366 * 86_400_000


class Killed(BaseException):
    """Stands for `kill -9`: nothing of ours runs afterwards."""


class Opinion:
    """A model with one opinion about every order."""

    def __init__(self, fraud: float, priority: float) -> None:
        self.fraud, self.priority = fraud, priority

    async def score(self, rows: NDArray[np.float32]) -> Scores:
        n = len(rows)
        zero, fraud, priority = (np.full(n, share, np.float32) for share in (0.0, self.fraud, self.priority))
        return Scores(fraud, zero, zero, zero, priority, [()] * n, f"model-{self.fraud}-{self.priority}", fallback=False)


class Provider:
    """One outside system: remembers what it took, and answers look-ups. `cut` may kill before or after it took something."""

    def __init__(self, ability: str, cut: Callable[[str], None] = lambda step: None) -> None:
        self.ability, self.cut = ability, cut
        self.taken: dict[str, bytes] = {}
        self.calls: list[Claim] = []
        self.twice: list[str] = []

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        return [self._one(claim, now_ms) for claim in claims]

    def _one(self, claim: Claim, now: int) -> Outcome:
        self.cut("before_call")
        known = claim.effect in self.taken
        if claim.lookup:
            kind = "sent" if known else "retryable"
        else:
            self.calls.append(claim)
            if known and (self.ability != "keyed" or self.taken[claim.effect] != claim.body):
                self.twice.append(claim.effect)
            self.taken.setdefault(claim.effect, claim.body)
            kind = "sent"
        self.cut("after_call")
        return Outcome(key=claim.key, effect=claim.effect, attempt=claim.attempt, kind=kind, at=now)

    def copy(self) -> Provider:
        twin = Provider(self.ability)
        twin.taken, twin.calls, twin.twice = dict(self.taken), list(self.calls), list(self.twice)
        return twin


class Town:
    def __init__(
        self,
        store: Store,
        log: Log,
        clock: VirtualClock,
        processors: Mapping[str, Callable[[], Processor]],
        providers: Mapping[str, Provider],
        modes: Modes,
        scorer: Scorer,
        partitions: int = 1,
        failpoint: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.store, self.log, self.clock, self.processors = store, log, clock, processors
        self.providers, self.modes, self.scorer, self.partitions = providers, modes, scorer, partitions
        self.failpoint = failpoint
        self.lanes: dict[TP, Lane] = {}
        self.dispatcher: Dispatcher
        self.wrong: list[BaseException] = []

    @property
    def ids(self) -> list[LaneId]:
        return [LaneId(make().name, 0, p) for make in self.processors.values() for p in range(self.partitions)]

    async def begin(self) -> None:
        """First positions, as `run.py init` writes them."""
        ids = await self.log.topic_ids(list(self.processors))
        for topic, make in self.processors.items():
            for p in range(self.partitions):
                await self.store.place(LaneId(make().name, 0, p), 0, ids[topic], sends=True)

    async def wake(self) -> dict[TP, Stopped]:
        """A new process: its lanes, and which of them it refuses to run."""
        self.dispatcher = Dispatcher(self.providers, self.clock, self.modes)
        worker = Worker(
            self.processors,
            layout=0,
            store=self.store,
            log=self.log,
            clock=self.clock,
            dispatcher=self.dispatcher,
            scorer=self.scorer,
            crash=self.wrong.append,
        )
        self.lanes = {}
        for topic in self.processors:
            for p in range(self.partitions):
                lane = worker._make(TP(topic, p))
                lane._failpoint = self.failpoint
                await lane.acquire()
                await worker._check(TP(topic, p), lane)
                if TP(topic, p) not in worker.stopped:
                    await lane._publish_left()
                    self.lanes[TP(topic, p)] = lane
        return worker.stopped

    async def step(self, tp: TP, lane: Lane) -> bool:
        """One turn and all that follows from it; False when there is nothing to do now."""
        assert lane.held is not None and lane.held.offset is not None
        at = lane.held.offset
        records: Sequence[Any] = await self.log.read(tp.topic, tp.partition, at, 256)
        if records:
            lane.offer(Chunk(tp.topic, tp.partition, at, records[-1].offset + 1, records))
        if lane._head.exhausted:
            await lane._load_head()
        inputs, span = lane._take()
        if inputs is None:
            return False
        await lane._turn(inputs, span)
        await lane._settle()
        while self.dispatcher._tasks or self.dispatcher._pending:
            await asyncio.sleep(0)  # what was submitted becomes a task at the end of this turn of the loop
            for ended in await asyncio.gather(*self.dispatcher._tasks, return_exceptions=True):
                if isinstance(ended, Killed):
                    raise ended
        return True

    async def rest(self, until: int = YEAR_MS) -> None:
        """Until nothing is unread and nothing is due within `until` ms of now; the clock moves on to what is due."""
        last = self.clock.now() + until
        for _ in range(5000):
            moved = False
            for tp, lane in self.lanes.items():
                moved |= await self.step(tp, lane)
            if moved:
                continue
            due = min((at for lane in self.lanes.values() if (at := lane._head.first()) is not None), default=last + 1)
            if due > last:
                return
            self.clock.move_to(due)
        busy = {str(lane.id): (at - self.clock.now(), lane._head.take(at, 3)) for lane in self.lanes.values() if (at := lane._head.first())}
        raise AssertionError(f"it does not come to rest: {busy}")

    async def report(self, topic: str, *records: tuple[str, bytes]) -> None:
        await self.log.append(topic, [(key.encode(), value) for key, value in records])

    # --- what is there in the end
    async def states(self) -> dict[str, dict[str, bytes]]:
        return {str(lane): {key: blob async for key, blob in self.store.states(lane)} for lane in self.ids}

    async def journal(self) -> list[dict[str, Any]]:
        """All entries in the order of the log, each with its lane's processor, and its effect's name where it has one."""
        entries: list[dict[str, Any]] = []
        for p in range(self.partitions):
            _, end = (await self.log.bounds("journal")).get(p, (0, 0))
            rows: Sequence[Any] = await self.log.read("journal", p, 0, end) if end else []
            for row in rows:
                record = json.loads(row.value)
                for entry in record["entries"]:
                    for each in entry.get("entries", [entry]):
                        entries.append({"lane": record["lane"], "sequence": record["sequence"], **each})
        return entries

    @property
    def twice(self) -> list[str]:
        return [effect for provider in self.providers.values() for effect in provider.twice]
