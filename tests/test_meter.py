"""What a worker says of itself is true: ages, series that go when their partition goes, counts that never fall, closed sets that close."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import metrics as metrics_module
import wire
from connectors.store import LaneId, Store
from meter import WAITS_FOR, Latencies, Meter, own_stats, read_stats, write_stats
from metrics import OTHER, PARKED, Metrics
from orders.effect import Claim, Outcome
from orders.status import ENDED, Status
from streams.clock import VirtualClock
from streams.dispatch import Dispatcher, Modes
from streams.lane import Lane
from streams.orders import OrdersProcessor
from streams.processor import Chunk, Inputs, Parked, Record, Result
from streams.transport import TP
from streams.worker import Stopped, Worker
from tests.streams.toy import MemoryLog, Toy

NOW = 1_795_464_000_000
ROOT = Path(metrics_module.__file__).parent
TP0, TP1 = TP("facts", 0), TP("facts", 1)


class Counting(Toy):
    """A customers lane's processor, as far as the meter looks at it."""

    name = "customers"

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.accepted: deque[tuple[str, str, float]] = deque()


class World:
    def __init__(self) -> None:
        self.metrics, self.clock = Metrics(), VirtualClock(NOW)
        self.meter = Meter(self.metrics, self.clock)
        self.dispatcher = Dispatcher({"email": cast(Any, None), "sms": cast(Any, None)}, self.clock, Modes(channels={"email": "live"}))
        self.worker = Worker(
            {},
            layout=0,
            store=cast(Store, None),
            log=cast(Any, MemoryLog()),
            clock=self.clock,
            dispatcher=self.dispatcher,
            crash=lambda e: None,
        )

    def lane(self, tp: TP, processor: Any = None) -> Lane:
        lane = self.worker.lanes[tp] = Lane(
            LaneId("orders", 0, tp.partition), processor or Toy(), store=cast(Store, None), publisher=MemoryLog(), clock=self.clock,
            channels=self.dispatcher, dispatch=self.dispatcher,
        )  # fmt: skip
        return lane

    def look(self) -> dict[str, float]:
        """Series and their values."""
        self.meter.look(self.worker, self.dispatcher)
        return self.shown()

    def shown(self) -> dict[str, float]:
        lines = [line for line in self.metrics.expose().decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0].removeprefix("orderflow_"): float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
async def world() -> World:
    return World()


def lag(partition: int) -> str:
    return f'consumer_lag_seconds{{partition="{partition}",topic="facts"}}'


async def test_a_record_that_waits_for_42_seconds_reads_42(world: World) -> None:
    lane = world.lane(TP0)
    world.lane(TP1)
    lane.offer(Chunk("facts", 0, 0, 2, [Record(0, b"k", b"v", NOW - 2_000), Record(1, b"k", b"v", NOW)]))
    world.clock.move_to(NOW + 40_000)
    shown = world.look()
    assert shown[lag(0)] == pytest.approx(42, abs=1) and shown[lag(1)] == 0


async def test_the_series_of_a_partition_that_left_vanish(world: World) -> None:
    world.lane(TP0)
    world.lane(TP1)
    assert {lag(0), lag(1)} <= set(world.look())
    del world.worker.lanes[TP1]
    shown = world.look()
    assert lag(0) in shown and lag(1) not in shown
    world.lane(TP1)
    assert lag(1) in world.look()


async def test_counts_do_not_fall_when_a_lane_is_made_anew_or_comes_back(world: World) -> None:
    first, second = Counting(), Counting()
    series = 'notifications_total{channel="email",outcome="sent",template="shipped"}'
    world.lane(TP0, first)
    first.counts["email", "shipped", "sent"] = 5
    assert world.look()[series] == 5
    assert world.look()[series] == 5, "what was counted is not counted again"
    world.lane(TP0, second)
    second.counts["email", "shipped", "sent"] = 3
    assert world.look()[series] == 8
    world.lane(TP0, first)
    first.counts["email", "shipped", "sent"] = 6
    assert world.look()[series] == 9


def test_an_order_that_has_ended_waits_for_nothing() -> None:
    assert set(Status) - set(WAITS_FOR) == ENDED


async def test_a_state_that_depends_on_arrival_is_counted_and_none_reads_0(world: World) -> None:
    processor = OrdersProcessor(lambda v: (1.0,))
    world.lane(TP0, processor)
    assert world.look()["convergence_violations_total"] == 0
    processor.counts.convergence.update({"checks": 7, "violations": 2})
    shown = world.look()
    assert (shown["convergence_checks_total"], shown["convergence_violations_total"]) == (7, 2)
    assert world.look()["convergence_violations_total"] == 2, "what was counted is not counted again"


async def test_partitions_are_counted_by_what_they_are(world: World) -> None:
    world.lane(TP0).positioned = True
    for number, reason in enumerate(("log_mismatch", "state_version", "rebuilding"), 1):
        tp = TP("facts", number)
        world.lane(tp)
        world.worker.stopped[tp] = Stopped(tp, reason, "why")
    world.lane(TP("facts", 9))
    shown = world.look()
    states = {
        state: shown[f'partitions{{processor="orders",state="{state}"}}']
        for state in ("positioned", "unpositioned", "recovering", "mismatch")
    }
    assert states == {"positioned": 1, "unpositioned": 1, "recovering": 1, "mismatch": 2}


async def test_a_turn_that_stands_still_is_seen(world: World) -> None:
    lane = world.lane(TP0)
    assert world.look()['lane_stall_seconds{processor="orders"}'] == 0
    lane.turn_began = asyncio.get_running_loop().time() - 30
    assert world.look()['lane_stall_seconds{processor="orders"}'] == pytest.approx(30, abs=1)


async def test_modes_and_stops_are_gauges(world: World) -> None:
    shown = world.look()
    assert shown['channel_mode{channel="email",mode="live"}'] == 1 and shown['channel_mode{channel="sms",mode="observe"}'] == 1
    assert shown['sends_stopped{channel="email"}'] == 0
    world.dispatcher.modes = Modes(stop="wrong prices", channels={"email": "live"})
    shown = world.look()
    assert shown['sends_stopped{channel="email"}'] == 1 and shown['channel_mode{channel="email",mode="live"}'] == 0


async def test_a_turn_counts_its_records_parked_rows_and_the_time_to_their_status(world: World) -> None:
    lane = world.lane(TP0)
    records = [Record(n, b"k", b"v", NOW - 100) for n in range(4)]
    parked = [Parked("schema", "$.amount", "facts", 0, 3, b"k", b"v", NOW), Parked("a new one", "", "facts", 0, 2, b"k", b"v", NOW)]
    world.meter.turn(lane, Inputs("facts", 0, records), None, Result(states={}, due={}, parked=parked), 0.004)
    shown = world.shown()
    assert shown['parked_records_total{reason="schema"}'] == 1 and shown[f'parked_records_total{{reason="{OTHER}"}}'] == 1
    assert shown['facts_total{outcome="parked"}'] == 2
    assert shown['lane_commits_total{processor="orders"}'] == 1
    assert world.meter.stats()["latency_ms"]["p99"] == pytest.approx(100, rel=0.03)


async def test_what_an_express_order_waits_for_its_status_is_counted_by_itself(world: World) -> None:
    lane, express = world.lane(TP0), {b"express"}
    records = [Record(n, key, b"v", NOW - 100) for n, key in enumerate((b"express", b"standard", b"nobody", b"unchanged"))]
    world.meter.turn(lane, Inputs("facts", 0, records), None, Result(states={}, due={}, express=express), 0.004)
    shown = world.shown()
    assert shown['event_to_status_seconds_count{class="express"}'] == 1
    assert shown['event_to_status_seconds_count{class="standard"}'] == 1  # the three others, of one millisecond
    backlog = [Record(n, b"express", b"v", NOW - 100) for n in range(5000)]
    world.meter.turn(lane, Inputs("facts", 0, backlog), None, Result(states={}, due={}, express=express), 0.004)
    assert world.shown()['event_to_status_seconds_count{class="express"}'] == 2
    assert world.meter.stats()["latency_ms"]["p99"] == pytest.approx(100, rel=0.03) and world.meter.latencies.count == 5004


async def test_late_and_contradictory_reports_are_transitions_from_a_status_to_itself(world: World) -> None:
    processor = OrdersProcessor(lambda v: (1.0,))
    world.lane(TP0, processor)
    processor.counts.transitions.update({("", "order_placed", "applied"): 2, ("shipped", "shipped", "late"): 1})
    shown = world.look()
    assert shown['transitions_total{from="",outcome="applied",to="order_placed"}'] == 2
    assert shown['transitions_total{from="shipped",outcome="late",to="shipped"}'] == 1


def held(shown: dict[str, float]) -> dict[str, float]:
    return {name.split('"')[1]: value for name, value in shown.items() if name.startswith("backpressure_seconds_total")}


async def test_each_stage_that_is_held_back_is_counted_as_long_as_it_is(world: World) -> None:
    lane = world.lane(TP0)
    assert held(world.look()) == {}
    lane.outbox_full = True
    assert held(world.look()) == {"outbox": 1}
    lane.outbox_full = False
    while world.dispatcher.take("email"):
        pass
    world.dispatcher.retry_at("email", NOW)
    assert held(world.look()) == {"outbox": 1, "claims": 1}
    world.dispatcher.give(["email"])
    lane.offer(Chunk("facts", 0, 0, lane.limits.inbox_records, [Record(0, b"k", b"v")] * lane.limits.inbox_records))
    assert held(world.look()) == {"outbox": 1, "claims": 1, "inbox": 1}


async def test_the_archive_s_process_counts_the_partitions_that_wait_for_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def sleep(seconds: float) -> None:
        nonlocal turns
        turns += 1
        if turns > 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    metrics = Metrics()
    with pytest.raises(asyncio.CancelledError):
        await wire.keep_held(cast(Any, SimpleNamespace(held=2)), metrics)
    assert 'orderflow_backpressure_seconds_total{stage="archive"} 6.0' in metrics.expose().decode()


async def test_a_message_s_latency_is_counted_by_channel_and_class_and_once(world: World) -> None:
    processor = Counting()
    world.lane(TP0, processor)
    processor.accepted.append(("email", "transactional", 7.0))
    for _ in range(2):
        shown = world.look()
        assert shown['notification_latency_seconds_sum{channel="email",class="transactional"}'] == 7.0
        assert shown['notification_latency_seconds_count{channel="email",class="transactional"}'] == 1


class Says:
    def __init__(self, state: str) -> None:
        self.state = state

    async def circuit(self) -> str:
        return self.state


async def test_a_circuit_is_shown_as_its_sender_says_and_as_last_known_when_it_says_nothing(world: World) -> None:
    email = Says("open")
    await world.meter.circuits({"email": email, "sms": Says("half_open"), "push": Says("closed"), "systems": Says("")})
    shown = {name: value for name, value in world.shown().items() if name.startswith("connector_circuit_state")}
    assert shown == {f'connector_circuit_state{{vendor="{channel}"}}': n for channel, n in (("email", 2), ("sms", 1), ("push", 0))}
    email.state = ""
    await world.meter.circuits({"email": email})
    assert world.shown()['connector_circuit_state{vendor="email"}'] == 2


async def test_every_answer_of_a_sender_is_counted_as_what_it_was(world: World) -> None:
    claims = [Claim(lane="l", key="k", effect=str(n), channel="email", attempt=1, deadline=0, body=b"") for n in range(3)]
    kinds = ("sent", "sent", "unknown")
    world.meter.sent(
        claims, [Outcome(key="k", effect=c.effect, attempt=1, kind=kind, at=0) for c, kind in zip(claims, kinds, strict=True)], 0.1
    )
    shown = world.shown()
    assert shown['connector_requests_total{outcome="sent",vendor="email"}'] == 2
    assert shown['connector_requests_total{outcome="unknown",vendor="email"}'] == 1


def test_percentiles_are_within_two_percent() -> None:
    latencies = Latencies()
    for ms in range(1, 1001):
        latencies.add(ms / 1000)
    assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.02) and latencies.quantile(0.99) == pytest.approx(0.99, rel=0.02)
    assert Latencies().quantile(0.5) == 0.0


def test_what_is_written_down_replaces_what_was_and_leaves_nothing_else(tmp_path: Path) -> None:
    for stats in ({"turn": 10}, {"turn": 100, "more": [1]}, {"turn": 1}):
        write_stats(tmp_path, stats)
        assert read_stats(tmp_path / "stats.json") == read_stats(own_stats(tmp_path)) == stats
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["stats.json", own_stats(tmp_path).name])
    inode = own_stats(tmp_path).stat().st_ino
    write_stats(tmp_path, {"turn": 2})
    assert own_stats(tmp_path).stat().st_ino == inode, "a file replaced every second makes the disk free blocks, and commits wait for that"


def test_stats_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "stats.json").write_text("{")
    with pytest.raises(ValueError, match=r"stats\.json does not hold"):
        read_stats(tmp_path / "stats.json")


# --- closed sets
PARKING = {"Unreadable": 0, "Parked": 0, "park": 2, "park_later": 4}  # which argument is the reason
RETURNING = {"violation", "_trouble", "unreadable", "_reason"}  # functions that return a reason, by itself or first
TEXTS = {"Unrenderable": 0}
UNPARKED = {"outdated", "no_contact", "changed"}  # of what cannot be rendered: expired, suppressed, held


def literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.Tuple) and node.elts:
        yield from literals(node.elts[0])


def reasons_in_code() -> set[str]:
    found: set[str] = set()
    for room in ("orders", "messages", "connectors", "streams"):
        for path in (ROOT / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
                place = {**PARKING, **TEXTS}.get(name)
                if isinstance(node, ast.Call) and place is not None and len(node.args) > place:
                    found.update(literals(node.args[place]))
                inside = isinstance(node, ast.FunctionDef) and (node.name in RETURNING or path.name == "bounds.py")
                for inner in ast.walk(node) if inside else ():
                    if isinstance(inner, ast.Return) and inner.value is not None:
                        found.update(literals(inner.value))
    return found - UNPARKED


def test_every_reason_for_parking_that_the_code_knows_is_a_label() -> None:
    reasons = reasons_in_code()
    assert {
        "malformed",
        "schema",
        "version",
        "currency",
        "wrong_partition",
        "processor_error",
        "ambiguous_reference",
        "bad_field",
    } <= reasons
    assert {reason for reason in reasons if PARKED(reason) == OTHER} == set()


def test_the_list_of_reasons_names_none_that_does_not_occur() -> None:
    closed = cast(Any, PARKED).__closure__
    known = next(cell.cell_contents for cell in closed if isinstance(cell.cell_contents, frozenset))
    assert known - reasons_in_code() == set()


def test_the_reasons_for_which_lanes_are_lost_are_labels(world: World) -> None:
    series = SimpleNamespace(id=SimpleNamespace(processor="orders"))
    world.meter.lost(cast(Lane, series), "processor_error")
    assert world.shown()['lane_losses_total{processor="orders",reason="processor_error"}'] == 1
