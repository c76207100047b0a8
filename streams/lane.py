"""A lane: the only writer of one partition's state.

Chunks from the log, what is due, and outcomes of claims are taken in one turn after another; lanes of different
partitions overlap, so that the waits of one (Ray, the store's fsync, the log's acknowledgement) are the work of others.

    take in -> load -> ask -> score -> answer -> commit (all or nothing) -> publish -> claims may leave

Whatever goes wrong in a turn, the cache is dropped and nothing was written: the next turn begins from the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from connectors.store import DUE_HEAD, Commit, Held, LaneId, LaneLost, Store, StoreDown, StoreRefused, StoreWentBack
from orders.effect import Claim, Outcome
from orders.state import NewerState
from streams.clock import Clock
from streams.driver import trim
from streams.processor import VERSION, Asked, Channels, Chunk, Inputs, Parked, Processor, Record, Result, Scorer, Scores
from streams.reading import park_strays, strays, without
from streams.transport import LogDown

log = structlog.get_logger("lane")
JOURNAL_RECORD_BYTES = 512 * 1024  # brokers take 1 MiB by default
CALLS_S = 2.0  # of the time in which a lane comes to rest: for the answers to its calls
READING_S = 0.02  # so long a turn waits for what is read at its moment
TOO_MANY_POISONED = 64  # processor errors in a row, without one good record between, that end the worker
STAGES = ("load", "ask", "score", "answer", "encode", "commit", "publish")  # of a turn; all but ask, answer and encode are mostly waits


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one lane's work in flight and memory."""

    chunk_records: int = 8192  # a turn takes at most so many records: the fuller, the more of an order's facts share the work
    gather_s: float = 0.0  # its partition is read so far apart, and what comes otherwise waits for that
    inbox_records: int = 32768
    inbox_bytes: int = 24 << 20
    inbox_age_s: float = 1.0  # while the oldest chunk waits longer, no more is taken in
    due_keys: int = 512  # a turn takes at most so many due states
    due_head: int = DUE_HEAD  # due times held in memory
    cached_states: int = 20_000  # per generation; two generations live
    unpublished: int = 4  # commits whose records are on their way to the log
    publish_retry_s: float = 0.5


class Publisher(Protocol):
    """Where a lane's records go: the app's producer, or a test's list."""

    async def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None: ...


class Dispatch(Protocol):
    def submit(self, lane: Lane, claims: Sequence[Claim]) -> None:
        """Called when the journal record of these claims is acknowledged: now the calls may leave."""

    def give(self, channels: Sequence[str]) -> None:
        """Slots of these channels come back: their claims were never made."""


class Meters(Protocol):
    """What a lane counts. `metrics.py` implements it; tests may pass `NoMeters`."""

    def turn(self, lane: Lane, inputs: Inputs, scores: Scores | None, result: Result, commit_s: float) -> None: ...

    def lost(self, lane: Lane, why: str) -> None: ...


class NoMeters:
    def turn(self, lane: Lane, inputs: Inputs, scores: Scores | None, result: Result, commit_s: float) -> None: ...

    def lost(self, lane: Lane, why: str) -> None: ...


class Cache:
    """Decoded states in two generations: bounded, and a hit costs one dict look-up or two."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.young: dict[str, Any] = {}
        self.old: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        state = self.young.get(key)
        if state is None:
            state = self.old.pop(key, None)
            if state is not None:
                self.young[key] = state
        return state

    def keep(self, states: Mapping[str, Any]) -> None:
        self.young.update(states)
        if len(self.young) > self.limit:
            self.old, self.young = self.young, {}

    def clear(self) -> None:
        self.young, self.old = {}, {}


class DueHead:
    """The earliest due times of a lane. Complete up to `horizon`; what is due later stays in the store."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.times: dict[str, int] = {}
        self.horizon: float = -1.0
        self._first: int | None = None

    def load(self, rows: Sequence[tuple[str, int]]) -> None:
        self.times = dict(rows)
        self.horizon = rows[-1][1] if len(rows) >= self.limit else float("inf")
        self._first = rows[0][1] if rows else None

    def update(self, due: Mapping[str, int]) -> None:
        times, horizon = self.times, self.horizon
        for key, at in due.items():
            before = times.pop(key, None)
            if before is not None and before == self._first:
                self._first = None  # it may be later now: `first` looks for the new one
            if at and at <= horizon:
                times[key] = at
                if self._first is not None and at < self._first:
                    self._first = at
        if len(times) > 2 * self.limit:  # forget the later half; the store has it
            kept = sorted(times.items(), key=lambda row: row[1])[: self.limit]
            self.load(kept)

    def first(self) -> int | None:
        """The earliest time something is due, as far as memory knows; the horizon where it knows nothing earlier."""
        if self._first is None and self.times:
            self._first = min(self.times.values())
        if not self.times:
            return None if self.horizon == float("inf") else int(self.horizon)
        return self._first

    def take(self, now: int, limit: int) -> list[str]:
        first = self.first()
        if first is None or first > now:
            return []
        ready = sorted((at, key) for key, at in self.times.items() if at <= now)[:limit]
        return [key for _, key in ready]

    @property
    def exhausted(self) -> bool:
        return not self.times and self.horizon != float("inf")


class Outbox(msgspec.Struct, array_like=True, gc=False):
    """What one commit publishes, as it lies in the store until the log has acknowledged it."""

    records: list[tuple[str, str, bytes]]  # topic, key, value
    journal: list[bytes]  # whole journal records of this lane

    def __bool__(self) -> bool:
        return bool(self.records or self.journal)


encode_outbox = msgspec.msgpack.Encoder().encode
decode_outbox = msgspec.msgpack.Decoder(Outbox).decode
_encode_parked = msgspec.msgpack.Encoder().encode
decode_parked = msgspec.msgpack.Decoder(Parked).decode


def encode_parked(parked: Parked) -> bytes:
    """With the version of the program that could not read it; in a rebuild, of the one that rebuilds."""
    return _encode_parked(msgspec.structs.replace(parked, version=VERSION))


def parked_id(parked: Parked) -> str:
    """The place it came from names a parked record, so parking it twice parks it once; its reason first, for the store's lists."""
    return f"{parked.reason}/{parked.topic}/{parked.partition}/{parked.offset}"


def poison(inputs: Inputs, record: Record, error: Exception, now: int) -> Parked:
    """A record that a processor stumbles over; the error's text may hold personal data."""
    detail = type(error).__name__
    return Parked("processor_error", detail, inputs.topic, inputs.partition, record.offset, record.key, record.value or b"", now)


def where(error: BaseException) -> str:
    """File, line and function of an error: its text and its locals may hold personal data."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    return " ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frame)


def journal_records(lane: LaneId, sequence: int, at: int, entries: Sequence[bytes]) -> list[bytes]:
    """JSON records `{"lane", "sequence", "at", "entries": [...]}`, none above the log's limit."""
    head = f'{{"lane":"{lane}","sequence":{sequence},"at":{at},"entries":['.encode()
    records: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for entry in entries:
        if size + len(entry) > JOURNAL_RECORD_BYTES and part:
            records.append(head + b",".join(part) + b"]}")
            part, size = [], 0
        part.append(entry)
        size += len(entry) + 1
    if part:
        records.append(head + b",".join(part) + b"]}")
    return records


def begins_after(moment: float, gather_s: float, phase_s: float) -> float:
    """The first of the moments at which turns begin that lies after this one, seconds; 0: turns begin at any time."""
    return ((moment - phase_s) // gather_s + 1) * gather_s + phase_s if gather_s else 0.0


def _counts(inputs: Inputs, result: Result, scores: Scores | None) -> dict[str, int]:
    """Every record is done or parked, never both; a state may be parked without a record (a message that lacks a field)."""
    records = len(inputs.records)
    parked = sum(1 for row in result.parked if row.topic == inputs.topic and row.offset >= 0) if records else 0
    counts = {**result.counts, "accepted": records, "parked": parked, "done": records - parked}
    if scores is not None:
        counts["fallback_scores" if scores.fallback else "model_scores"] = len(scores.fraud)
    return {name: count for name, count in counts.items() if count}


class Lane:
    def __init__(
        self,
        lane: LaneId,
        processor: Processor,
        *,
        store: Store,
        publisher: Publisher,
        clock: Clock,
        channels: Channels,
        dispatch: Dispatch,
        scorer: Scorer | None = None,
        limits: Limits | None = None,
        phase_s: float = 0.0,
        meters: Meters | None = None,
        reposition: Callable[[Lane], None] = lambda lane: None,
        failpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.id = lane
        self.processor = processor
        self.limits = limits or Limits()
        self.meters: Meters = meters or NoMeters()
        self.held: Held | None = None
        self.partitions = 0  # of its topic; 0: keys may lie anywhere
        self.positioned = False  # the driver may read at `position`
        self.turn_began: float | None = None  # loop time; the watchdog looks at it
        self.stages = dict.fromkeys(STAGES, 0.0)  # seconds spent so far
        self.phase_s = phase_s  # how much later than multiples of `gather_s` its turns begin
        self._earliest = 0.0  # loop time of the next turn
        self._decided_at = 0  # ms: no two turns decide at the same time, so that what one asked for is told from what the next asks again
        self.score_s = 0.0  # of the latest call to the scorer
        self._store, self._publisher, self._clock = store, publisher, clock
        self._channels, self._dispatch, self._scorer = channels, dispatch, scorer
        self._reposition, self._failpoint = reposition, failpoint
        self._loop = asyncio.get_running_loop()
        self._cache = Cache(self.limits.cached_states)
        self._head = DueHead(self.limits.due_head)
        self._inbox: deque[Chunk] = deque()
        self._inbox_records = 0
        self._inbox_bytes = 0
        self._oldest = 0.0
        self._outcomes: list[Outcome] = []
        self._slots: list[str] = []  # channels of which the turn under way has taken a slot
        self._calls = 0  # claims that have been made, and of which nobody has told yet what became of them
        self._wake = asyncio.Event()
        self.outbox_full = False  # it waits for the log to take what it has committed
        self._publishing: dict[int, asyncio.Task[None]] = {}
        self._published = 0
        self._turn_oldest = 0
        self._poisoned_in_a_row = 0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    # --- Channels, as this lane's processor sees them: closed sends of a rebuilt partition look like a stop
    @property
    def version(self) -> int:
        return self._channels.version

    def mode(self, channel: str) -> str:
        mode = self._channels.mode(channel)
        if mode in ("live", "sandbox") and (self._stopping or (self.held is not None and not self.held.sends)):
            return "stopped"
        return mode

    def take(self, channel: str) -> bool:
        taken = self.mode(channel) != "stopped" and self._channels.take(channel)
        if taken:
            self._slots.append(channel)
        return taken

    def retry_at(self, channel: str, now: int) -> int:
        return self._channels.retry_at(channel, now)

    # --- what others call
    @property
    def position(self) -> int | None:
        return self.held.offset if self.held is not None and self.positioned else None

    @property
    def room(self) -> bool:
        if self._inbox_records >= self.limits.inbox_records or self._inbox_bytes >= self.limits.inbox_bytes:
            return False
        return not self._inbox or self._loop.time() - self._oldest < self.limits.inbox_age_s

    @property
    def waiting(self) -> int:
        return self._inbox_records

    def turn_s(self) -> float:
        """How long the turn under way has lasted; 0 when none is."""
        return 0.0 if self.turn_began is None else self._loop.time() - self.turn_began

    def oldest(self) -> int:
        """When the oldest record that is not committed yet was appended, ms; 0: nothing waits."""
        if self._turn_oldest:
            return self._turn_oldest
        return self._inbox[0].records[0].timestamp if self._inbox and self._inbox[0].records else 0

    def next_moment(self, after: float) -> float:
        """The first moment after this one at which its partition is read and a turn begins, loop time; 0.0: at any time."""
        return begins_after(after, self.limits.gather_s, self.phase_s)

    def offer(self, chunk: Chunk) -> None:
        """A chunk from the log. What the lane has already is cut off when its turn comes."""
        if not self._inbox:
            self._oldest = self._loop.time()
        self._inbox.append(chunk)
        self._inbox_records += len(chunk.records)
        self._inbox_bytes += sum(len(r.value or b"") for r in chunk.records)
        self._wake.set()

    def deliver(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes.extend(outcomes)
        self._calls = max(0, self._calls - len(outcomes))
        self._wake.set()

    def nudge(self) -> None:
        """Look again at what is due: a clock was moved, slots came free, modes changed."""
        self._wake.set()

    # --- life
    async def acquire(self) -> None:
        """Take the partition's token and learn where to read on; nothing leaves before `start`.

        Raises StoreWentBack if the store is older than what the lane knew, StoreDown.
        """
        self.positioned = False
        before = self.held
        held = await self._store.acquire(self.id, before.token if before else None, before.sequence if before else -1)
        if before is None or held.token != before.token or held.sequence != before.sequence:
            self._cache.clear()
        self.held = held
        self._published = 0
        self._publishing.clear()
        self._head.load(held.due_head)
        self._drop_inbox()
        self._stopping = False

    def start(self, ended: Callable[[Lane, BaseException | None], None]) -> None:
        """What a predecessor left is published, turns begin; the driver may read at `position`. `ended` is told when they end, and why."""
        self.positioned = True
        self._task = asyncio.create_task(self._run(), name=f"lane {self.id}")
        self._task.add_done_callback(lambda task: ended(self, None if task.cancelled() else task.exception()))

    async def quiesce(self, timeout: float) -> None:
        """Finish the turn under way and its publishing, take in outcomes but nothing else; what waits in the inbox is read again later.

        Claims nothing more, and waits for calls under way at most CALLS_S: what comes later nobody hears, and it is unknown.
        """
        self._stopping = True
        self.positioned = False
        self._wake.set()
        if self._task is not None and not self._task.done():
            self._loop.call_later(min(CALLS_S, timeout), self._give_up_calls)
            _, unfinished = await asyncio.wait({self._task}, timeout=timeout)
            if unfinished:
                log.warning("lane did not come to rest in time", lane=str(self.id))
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=1)
        self._drop_inbox()

    def _give_up_calls(self) -> None:
        if self._stopping:
            self._calls = 0
            self._wake.set()

    async def _run(self) -> None:
        """Turns until quiesced. Raises LaneLost or StoreWentBack when the partition is no longer ours to write."""
        try:
            await self._publish_left()
            while not self._stopping or self._outcomes or self._calls:
                await self._gather()
                inputs, span = self._take()
                if inputs is None:
                    await self._sleep()
                    continue
                self.turn_began = self._loop.time()
                self._earliest = self.next_moment(self.turn_began)
                self._turn_oldest = inputs.records[0].timestamp if inputs.records else 0
                try:
                    await self._turn(inputs, span)
                except BaseException:
                    self._outcomes[:0] = inputs.outcomes  # should the lane come back: what was sent is known, not unknown
                    raise
                self.turn_began, self._turn_oldest = None, 0
                if self._head.exhausted:
                    await self._load_head()
            await self._settle()
        except BaseException:
            self.positioned = False
            self._cache.clear()
            raise
        finally:
            self.turn_began, self._turn_oldest = None, 0

    async def _gather(self) -> None:
        """A turn costs a millisecond of work however little it brings, so a lane's partition is read at a pace, and what is read is
        worked on at once. What is due, and what became of calls, goes with what is read next."""
        until = self._earliest + READING_S if self.limits.gather_s else 0.0
        while not self._inbox and not self._stopping and (left := until - self._loop.time()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    # --- one turn
    def _take(self) -> tuple[Inputs | None, tuple[int, int] | None]:
        records: list[Record] = []
        span: tuple[int, int] | None = None
        held = self.held
        assert held is not None
        if self._stopping:
            self._drop_inbox()
        expected = held.offset
        limit = self.limits.chunk_records
        while self._inbox and (span is None or len(records) + len(self._inbox[0].records) <= limit):
            chunk = self._inbox.popleft()
            self._oldest = self._loop.time()
            self._inbox_records -= len(chunk.records)
            self._inbox_bytes -= sum(len(r.value or b"") for r in chunk.records)
            assert expected is not None
            try:
                ours = trim(chunk, expected)
            except LookupError:  # something before it was dropped: read again from where we stand
                self._drop_inbox()
                self._reposition(self)
                break
            if ours is None:
                continue
            records.extend(ours.records)
            span = (span[0] if span else ours.first, ours.next)
            expected = ours.next
        outcomes, self._outcomes = self._outcomes, []
        now = self._clock.now()
        due = [] if self._stopping else self._head.take(now, self.limits.due_keys)
        if span is None and not outcomes and not due:
            return None, None
        return Inputs(topic=self.processor.topic, partition=self.id.partition, records=records, due=due, outcomes=outcomes), span

    async def _turn(self, inputs: Inputs, span: tuple[int, int] | None) -> None:
        self._slots = []
        try:
            asked, scores = await self._ask(inputs)
            began = self._loop.time()
            self._decided_at = max(self._clock.now(), self._decided_at + 1)
            result = self.processor.answer(asked, scores, self._decided_at, self)
            self.stages["answer"] += self._loop.time() - began
            result.parked = list({parked_id(row): row for row in (*asked.parked, *result.parked)}.values())
            commit, outbox = self._encoded(inputs, span, result, scores)
        except (LaneLost, StoreWentBack, StoreDown, StoreRefused, NewerState):
            self._dispatch.give(self._slots)
            raise
        except Exception as error:  # noqa: BLE001 - a bug in a processor may raise anything
            self._dispatch.give(self._slots)
            self._cache.clear()
            await self._isolate(inputs, span, error)
            return
        self._poisoned_in_a_row = 0
        await self._commit(inputs, commit, outbox, result, scores)

    async def _ask(self, inputs: Inputs) -> tuple[Asked, Scores | None]:
        time, stages = self._loop.time, self.stages
        began = time()
        states, new = await self._states(inputs)
        loaded = time()
        now = self._clock.now()
        away = strays(inputs, new, self.partitions)
        asked = self.processor.ask(states, without(inputs, away) if away else inputs, now)
        asked.parked.extend(park_strays(inputs, away, now))
        done = time()
        stages["load"] += loaded - began
        stages["ask"] += done - loaded
        if asked.questions is None or self._scorer is None:
            return asked, None
        scores = await self._scorer.score(asked.questions.rows)
        self.score_s = time() - done
        stages["score"] += self.score_s
        return asked, scores

    async def _states(self, inputs: Inputs) -> tuple[dict[str, Any], list[str]]:
        """The states of all keys of the inputs, and the keys that have none."""
        keys: dict[str, None] = {}
        for record in inputs.records:
            if record.key is not None:
                try:
                    keys[record.key.decode()] = None
                except UnicodeDecodeError:
                    continue  # the processor parks it
        keys.update(dict.fromkeys(inputs.due))
        for outcome in inputs.outcomes:
            keys[outcome.key] = None
        found: dict[str, Any] = {}
        missing: list[str] = []
        get = self._cache.get
        for key in keys:
            state = get(key)
            if state is None:
                missing.append(key)
            else:
                found[key] = state
        new: list[str] = []
        if missing:
            decode = self.processor.decode
            for key, blob in zip(missing, await self._store.load(self.id, missing), strict=True):
                if blob is None:
                    new.append(key)
                else:
                    found[key] = decode(blob)
        return found, new

    def _encoded(self, inputs: Inputs, span: tuple[int, int] | None, result: Result, scores: Scores | None = None) -> tuple[Commit, Outbox]:
        """What the store takes. Raises what an encoder raises for a state that it cannot write."""
        held = self.held
        assert held is not None
        now = self._clock.now()
        encoding = self._loop.time()
        journal = journal_records(self.id, held.sequence + 1, now, result.journal)
        outbox = Outbox([(o.topic, o.key, o.value) for o in result.outbox], journal)
        encode = self.processor.encode
        due = dict(result.due)
        for key in inputs.due:
            due.setdefault(key, 0)
        commit = Commit(
            first=span[0] if span else -1,
            next=span[1] if span else -1,
            states={key: encode(state) for key, state in result.states.items()},
            due=due,
            outbox=encode_outbox(outbox) if outbox else b"",
            trim=self._published,
            parked={parked_id(p): encode_parked(p) for p in result.parked},
            unparked=result.unparked,
            bodies={f"{c.effect}:{c.attempt}": c.body for c in result.claims},
            spent=[f"{o.effect}:{o.attempt}" for o in inputs.outcomes if o.kind != "unknown"],
            index=result.index,
            counts=_counts(inputs, result, scores),
        )
        self.stages["encode"] += self._loop.time() - encoding
        return commit, outbox

    async def _commit(self, inputs: Inputs, commit: Commit, outbox: Outbox, result: Result, scores: Scores | None = None) -> None:
        held = self.held
        assert held is not None
        self._failpoint("before_commit")
        began = self._loop.time()
        try:
            await self._store.commit(held, commit)
        except BaseException:
            self._cache.clear()
            self._dispatch.give([claim.channel for claim in result.claims])
            raise
        self._calls += len(result.claims)
        self._failpoint("after_commit")
        self._cache.keep(result.states)
        self._head.update(commit.due)
        took = self._loop.time() - began
        self.stages["commit"] += took
        self.meters.turn(self, inputs, scores, result, took)
        if outbox:
            await self._make_room()
            sequence = held.sequence
            task = asyncio.create_task(self._publish_then_dispatch(outbox, result.claims))
            self._publishing[sequence] = task
        else:
            self._reap()

    async def _isolate(self, inputs: Inputs, span: tuple[int, int] | None, error: Exception) -> None:
        """A bug met one record or state: find it by halves, park it with its bytes, let its neighbours go on."""
        sizes = {"records": len(inputs.records), "due": len(inputs.due)}
        log.error("processor failed", lane=str(self.id), error=type(error).__name__, where=where(error), **sizes)
        self.meters.lost(self, "processor_error")
        if inputs.outcomes or inputs.due:
            first, rest = self._split_sides(inputs)
            if rest is None:
                await self._postpone(first)
                return
            await self._turn(first, None)
            await self._turn(rest, span)
            return
        records = inputs.records
        assert span is not None
        if len(records) <= 1:
            self._poisoned_in_a_row += 1
            if self._poisoned_in_a_row > TOO_MANY_POISONED:
                raise error
            result = Result(states={}, due={}, parked=[poison(inputs, r, error, self._clock.now()) for r in records])
            result.outbox = [mark for mark in map(self.processor.mark, records) if mark is not None]
            await self._commit(inputs, *self._encoded(inputs, span, result), result)
            return
        middle = len(records) // 2
        cut = records[middle].offset
        await self._turn(msgspec.structs.replace(inputs, records=records[:middle]), (span[0], cut))
        await self._turn(msgspec.structs.replace(inputs, records=records[middle:]), (cut, span[1]))

    def _split_sides(self, inputs: Inputs) -> tuple[Inputs, Inputs | None]:
        """One side of a turn with outcomes, due states and records; None when there is nothing left to split."""
        empty = msgspec.structs.replace(inputs, records=(), due=(), outcomes=())
        if inputs.records:
            return msgspec.structs.replace(inputs, records=()), msgspec.structs.replace(inputs, due=(), outcomes=())
        if len(inputs.outcomes) + len(inputs.due) <= 1:
            return inputs, None
        if inputs.outcomes and inputs.due:
            return msgspec.structs.replace(empty, outcomes=inputs.outcomes), msgspec.structs.replace(empty, due=inputs.due)
        if inputs.outcomes:
            middle = len(inputs.outcomes) // 2
            return (
                msgspec.structs.replace(empty, outcomes=inputs.outcomes[:middle]),
                msgspec.structs.replace(empty, outcomes=inputs.outcomes[middle:]),
            )
        middle = len(inputs.due) // 2
        return msgspec.structs.replace(empty, due=inputs.due[:middle]), msgspec.structs.replace(empty, due=inputs.due[middle:])

    async def _postpone(self, inputs: Inputs) -> None:
        """A state that the processor cannot advance is looked at again in a minute; its attempt's deadline makes it unknown."""
        again = self._clock.now() + 60_000
        keys = list(inputs.due) + [o.key for o in inputs.outcomes]
        result = Result(states={}, due=dict.fromkeys(keys, again))
        inputs = msgspec.structs.replace(inputs, outcomes=())
        await self._commit(inputs, *self._encoded(inputs, None, result), result)

    # --- publishing
    async def _publish_left(self) -> None:
        assert self.held is not None
        for sequence, blob in list(self.held.outbox):
            await self._publish(decode_outbox(blob))
            self._published = max(self._published, sequence)

    async def _publish_then_dispatch(self, outbox: Outbox, claims: Sequence[Claim]) -> None:
        began = self._loop.time()
        try:
            await self._publish(outbox)
        except BaseException:
            self._dispatch.give([claim.channel for claim in claims])
            raise
        self.stages["publish"] += self._loop.time() - began
        self._failpoint("after_publish")
        if claims:
            self._dispatch.submit(self, claims)

    async def _publish(self, outbox: Outbox) -> None:
        """Until the log has it: a lane that cannot publish fills up and holds its topic back, nothing is dropped."""
        topics: dict[str, list[tuple[bytes | None, bytes]]] = {}
        for topic, key, value in outbox.records:
            topics.setdefault(topic, []).append((key.encode(), value))
        appends = [self._append(topic, records, None) for topic, records in topics.items()]
        if outbox.journal:
            appends.append(self._append("journal", [(str(self.id).encode(), value) for value in outbox.journal], self.id.partition))
        await asyncio.gather(*appends)  # they travel in one request

    async def _append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None) -> None:
        while True:
            try:
                await self._publisher.append(topic, records, partition)
                return
            except LogDown as error:
                log.warning("log does not take records, trying again", lane=str(self.id), topic=topic, error=str(error))
                await asyncio.sleep(self.limits.publish_retry_s)

    def _reap(self) -> None:
        for sequence in sorted(self._publishing):
            task = self._publishing[sequence]
            if not task.done():
                return  # in order: a later one is trimmed only with those before it
            del self._publishing[sequence]
            task.result()
            self._published = max(self._published, sequence)

    async def _make_room(self) -> None:
        self._reap()
        try:
            while len(self._publishing) >= self.limits.unpublished:
                self.outbox_full = True
                await asyncio.wait([self._publishing[min(self._publishing)]])
                self._reap()
        finally:
            self.outbox_full = False

    async def _settle(self) -> None:
        if self._publishing:
            await asyncio.wait(self._publishing.values())
        self._reap()

    # --- waiting
    async def _sleep(self) -> None:
        self._reap()
        first = self._head.first()
        timeout = None if first is None or self._stopping else max(0.0, min((first - self._clock.now()) / 1000, 5.0))
        self._wake.clear()
        try:
            if self._inbox or self._outcomes or (self._stopping and not self._calls):
                return
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            if self._head.exhausted:
                await self._load_head()

    async def _load_head(self) -> None:
        self._head.load(await self._store.due(self.id, self.limits.due_head))

    def _drop_inbox(self) -> None:
        self._inbox.clear()
        self._inbox_records = self._inbox_bytes = 0
