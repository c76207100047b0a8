"""What a worker measures of itself: turns of lanes, answers of senders and counts of processors become metrics.

What the demo and the benches read lies in `stats.json` of the data folder, once a second.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from connectors.store import Store
from metrics import Metrics
from orders.effect import Claim, Outcome
from orders.status import Status
from streams.clock import Clock
from streams.dispatch import Dispatcher
from streams.lane import Lane
from streams.processor import Inputs, Processor, Result, Scores
from streams.reconcile import REPAIRS
from streams.worker import Worker

MODES = ("observe", "sandbox", "live", "stopped")
CIRCUIT = ("closed", "half_open", "open")
READ_TRIES, READ_PAUSE_S = 50, 0.002
STOPPED = {"rebuilding": "recovering"}  # every other reason for which a partition stops is a mismatch of what it needs to go on


# What an order in a status waits for; in the others it has ended (`orders.status.ENDED`).
WAITS_FOR = {
    Status.ANNOUNCED: "order",
    Status.ORDER_PLACED: "payment",
    Status.PAYMENT_FAILED: "payment",
    Status.PAYMENT_CONFIRMED: "stock",
    Status.BACKORDERED: "stock",
    Status.IN_PROGRESS: "warehouse",
    Status.PARTIALLY_SHIPPED: "warehouse",
    Status.SHIPPED: "carrier",
    Status.OUT_FOR_DELIVERY: "carrier",
    Status.PARTIALLY_DELIVERED: "carrier",
    Status.EXCEPTION: "carrier",
    Status.ON_HOLD: "person",
}


class Latencies:
    """Times on a logarithmic scale, 2 % wide: percentiles without keeping every value."""

    STEP = math.log(1.02)
    LEAST_S = 1e-4

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.count = 0

    def add(self, seconds: float, times: int = 1) -> None:
        self.bins[math.floor(math.log(max(seconds, self.LEAST_S)) / self.STEP)] += times
        self.count += times

    @classmethod
    def between(cls, before: Mapping[str, int], after: Mapping[str, int]) -> Latencies:
        """What was added between two looks at `bins`, as JSON has them."""
        found = cls()
        found.bins = Counter({int(place): count - before.get(place, 0) for place, count in after.items()})
        found.count = found.bins.total()
        return found

    def quantile(self, q: float) -> float:
        """Seconds; 0.0 before the first value."""
        wanted, seen = q * self.count, 0
        for place in sorted(self.bins):
            seen += self.bins[place]
            if seen >= wanted:
                return math.exp((place + 0.5) * self.STEP)
        return 0.0


class Circuit(Protocol):
    """What of a sender is needed here."""

    async def circuit(self) -> str: ...


class Meter:
    """Implements `streams.lane.Meters` and `streams.dispatch.SendMeters`. One per worker, used on its loop only."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self.metrics, self.clock = metrics, clock
        self.latencies = Latencies()
        self.commit_seconds: Counter[str] = Counter()
        self._seen: WeakKeyDictionary[Processor, dict[str, Counter[Any]]] = WeakKeyDictionary()
        self._lagging: set[tuple[str, str]] = set()

    # --- as things happen
    def turn(self, lane: Lane, inputs: Inputs, scores: Scores | None, result: Result, commit_s: float) -> None:
        name, m = lane.id.processor, self.metrics
        m.lane_commits(name).inc()
        m.lane_commit_duration(name).observe(commit_s)
        self.commit_seconds[name] += commit_s  # type: ignore[assignment]  # a Counter of seconds
        if inputs.records:
            m.lane_chunk(name).observe(len(inputs.records))
        for row in result.parked:
            m.parked_records(row.reason).inc()
            if name == "orders":
                m.facts("parked").inc()
        if scores is not None:
            role = "fallback" if scores.fallback else "champion"
            m.model_batch_size.observe(len(scores.fraud))
            m.model_score_duration(role).observe(lane.score_s)
            m.model_info(scores.version, role).set(1)
        if name == "orders" and inputs.records:
            self._arrived(inputs, result.express)

    def _arrived(self, inputs: Inputs, express: Set[bytes]) -> None:
        """From append to committed status. Records of one millisecond are counted together; a backlog's by its two ends."""
        now, records = self.clock.now(), inputs.records
        if len(records) <= 256:
            times = Counter([(record.timestamp, record.key in express) for record in records])
        else:  # appended one after another: the ends stand for what lies between
            times = Counter[tuple[int, bool]]()
            for end, count in ((records[0], len(records) // 2), (records[-1], len(records) - len(records) // 2)):
                times[end.timestamp, end.key in express] += count
        for (at, fast), count in times.items():
            seconds = max(0.0, (now - at) / 1000)
            self.latencies.add(seconds, count)
            self.metrics.event_to_status("express" if fast else "standard").observe(seconds)

    def lost(self, lane: Lane, why: str) -> None:
        self.metrics.lane_losses(lane.id.processor, why).inc()

    def sent(self, claims: Sequence[Claim], outcomes: Sequence[Outcome], seconds: float) -> None:
        self.metrics.connector_request_duration(claims[0].channel).observe(seconds)
        for claim, outcome in zip(claims, outcomes, strict=True):
            self.metrics.connector_requests(claim.channel, outcome.kind).inc()

    def in_flight(self, channel: str, count: int) -> None:
        self.metrics.sender_queue(channel).set(count)

    # --- once a second: what is a state and not an event
    def look(self, worker: Worker, dispatcher: Dispatcher) -> None:
        m = self.metrics
        standing: Counter[tuple[str, str]] = Counter()
        stalls: dict[str, float] = {}
        lagging: set[tuple[str, str]] = set()
        now = self.clock.now()
        for tp, lane in worker.lanes.items():
            name = lane.id.processor
            stopped = worker.stopped.get(tp)
            state = STOPPED.get(stopped.reason, "mismatch") if stopped else "positioned" if lane.positioned else "unpositioned"
            standing[name, state] += 1
            stalls[name] = max(stalls.get(name, 0.0), lane.turn_s())
            lagging.add((tp.topic, str(tp.partition)))
            oldest = lane.oldest()
            m.consumer_lag(tp.topic, str(tp.partition)).set(max(0.0, (now - oldest) / 1000) if oldest else 0.0)
            if not lane.room:
                m.backpressure("inbox").inc()  # a second, as this look comes once in one
            if lane.outbox_full:
                m.backpressure("outbox").inc()
            self._count(lane.processor)
        for gone in self._lagging - lagging:  # another worker's now: our series must not stand still beside its
            m.consumer_lag.remove(*gone)
        self._lagging = lagging
        for name in {lane.id.processor for lane in worker.lanes.values()}:
            m.lane_stall(name).set(stalls.get(name, 0.0))
            for state in ("positioned", "unpositioned", "recovering", "mismatch"):
                m.partitions(name, state).set(standing[name, state])
        for channel in dispatcher.channels():
            mode = dispatcher.mode(channel)
            for each in MODES:
                m.channel_mode(channel, each).set(mode == each)
            m.sends_stopped(channel).set(mode == "stopped")
            if dispatcher.full(channel):
                m.backpressure("claims").inc()

    def _count(self, processor: Processor) -> None:
        """Processors count what they decide; what came since the last look goes to the metrics."""
        counts = getattr(processor, "counts", None)
        if counts is None:
            return
        if isinstance(counts, Counter):  # the customers lane: (channel, template, outcome)
            self._add(processor, "notifications", counts, lambda key, n: self.metrics.notifications(*key).inc(n))
            accepted: deque[tuple[str, str, float]] = getattr(processor, "accepted", deque())
            while accepted:
                channel, kind, seconds = accepted.popleft()
                self.metrics.notification_latency(channel, kind).observe(seconds)
            return
        m = self.metrics
        self._add(processor, "facts", counts.facts, lambda key, n: m.facts(key).inc(n))
        self._add(processor, "transitions", counts.transitions, lambda key, n: m.transitions(*key).inc(n))
        self._add(processor, "decisions", counts.decisions, lambda key, n: m.decisions(*key).inc(n))
        refolded = {"checks": m.convergence_checks, "violations": m.convergence_violations}
        self._add(processor, "convergence", counts.convergence, lambda key, n: refolded[key].inc(n))

    def _add(self, processor: Processor, what: str, counts: Counter[Any], add: Any) -> None:
        seen = self._seen.setdefault(processor, {}).setdefault(what, Counter())
        for key, count in counts.items():
            if count != seen[key]:
                add(key, count - seen[key])
                seen[key] = count

    async def circuits(self, senders: Mapping[str, Circuit]) -> None:
        """Whether calls pass, as each channel's sender says; one that does not answer keeps what it said last. Every few seconds."""
        for channel, sender in senders.items():
            if (state := await sender.circuit()) in CIRCUIT:
                self.metrics.circuit_state(channel).set(CIRCUIT.index(state))

    async def ask(self, store: Store, worker: Worker) -> None:
        """What only the store knows of our lanes: parked rows, unknown effects, incomplete orders, its memory. Every few seconds."""
        lanes = [lane.id for lane in worker.lanes.values()]
        standings = await store.standing(lanes)
        tags = await store.tag_counts([lane for lane in lanes if lane.processor == "orders"])
        self.metrics.parked_now.set(sum(standing.parked for standing in standings))
        self.metrics.parked_orders.set(tags.get("incomplete", 0))
        self.metrics.unknown_effects.set(tags.get("unknown", 0))
        self.metrics.store_bytes.set(await store.used_bytes())

    async def stalled(self, store: Store, worker: Worker, after_ms: int) -> None:
        """Counts, of our lanes, the orders that came into their status with a report older than `after_ms`. Once a minute."""
        ours = [lane.id for lane in worker.lanes.values() if lane.id.processor == "orders"]
        found = await store.tagged_before(ours, [status.value for status in WAITS_FOR], self.clock.now() - after_ms)
        for status, reason in WAITS_FOR.items():
            self.metrics.stalled_orders(status.value, reason).set(found[status.value])

    def stats(self) -> dict[str, Any]:
        shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        return {
            "latency_ms": {name: round(self.latencies.quantile(share) * 1000, 1) for name, share in shares},
            "latency_bins": self.latencies.bins,
            "commit_seconds": {name: round(seconds, 3) for name, seconds in self.commit_seconds.items()},
        }


class Repairs:
    """The store's tally of what reconciling found, as this process's counter: a command that ended cannot be asked for its own."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seen: Counter[str] = Counter()

    async def look(self, store: Store) -> None:
        """Raises StoreDown, StoreRefused."""
        for kind, count in (await store.tallies(REPAIRS)).items():
            if count > self._seen[kind]:
                self._metrics.reconcile_repairs(kind).inc(count - self._seen[kind])
                self._seen[kind] = count


def write_stats(folder: Path, stats: Mapping[str, Any]) -> None:
    """As `stats-PID.json`, which is `stats.json` too for the worker of a folder that started last.

    Over what was there, for `read_stats`: to free the blocks of a file that is replaced every second, a disk may take
    two hundred milliseconds, in which no commit of the store comes back.
    """
    own = own_stats(folder)
    data = json.dumps(stats).encode()
    if not own.exists():
        own.write_bytes(data)
        link = folder / f"stats.{os.getpid()}.new"
        link.hardlink_to(own)
        link.replace(folder / "stats.json")
        return
    with open(own, "r+b", buffering=0) as file:
        file.write(data.ljust(own.stat().st_size))


def read_stats(path: Path) -> dict[str, Any]:
    """What a worker wrote last. Raises OSError, ValueError for what is no such file."""
    for _ in range(READ_TRIES):
        with contextlib.suppress(json.JSONDecodeError):  # it was just being written
            found: dict[str, Any] = json.loads(path.read_bytes())
            return found
        time.sleep(READ_PAUSE_S)
    raise ValueError(f"{path} does not hold what a worker measured")


def own_stats(folder: Path) -> Path:
    """What this worker alone measured; goes with its process."""
    return folder / f"stats-{os.getpid()}.json"
