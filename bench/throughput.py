"""How many events a second does one process carry through Kafka: stock Faust, Quix Streams and our transport, the same job?

The job: parse a JSON event, keep state per order, write one JSON result, at least once. State is in memory for Faust and
us and in Quix's own store (without changelog, its faster way) for Quix. Rounds are interleaved; every run starts from a
new group and a new output topic, is read back and compared with what a plain loop over the same events computes: missing,
doubled, out of turn, wrong. Rates are counted between the first and the last append by the broker's clock.

    python bench/throughput.py [--events 1000000] [--runs 3] [--workers 2] [--kafka DIR] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import math
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streams.partition import partition_of
from streams.processor import Chunk
from streams.transport import TP

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("placed", "paid", "packed", "shipped", "delivered")
LIVE_ORDERS = 2_000  # lives under way at any time
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


# --- the job
class Item(msgspec.Struct, gc=False):
    price: float = 0.0


class Event(msgspec.Struct, gc=False):
    """What the job reads of an event."""

    type: str
    order_id: str
    at: int
    ts: float
    price: float = 0.0
    freight: float = 0.0
    value: float = 0.0
    installments: int = 0
    items: tuple[Item, ...] = ()


class Order(msgspec.Struct, gc=False):
    count: int = 0
    price: float = 0.0
    freight: float = 0.0
    paid: float = 0.0
    items: int = 0
    inst: int = 0
    first: int = 0
    last: int = 0


class Result(msgspec.Struct, gc=False):
    order_id: str
    status: str
    count: int
    score: float
    ts: float


decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode
decode_result = msgspec.json.Decoder(Result).decode


def apply(state: dict[str, Any] | None, event: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job on plain dicts, as Faust and Quix hand them over; also what the check computes."""
    if state is None:
        state = {"count": 0, "price": 0.0, "freight": 0.0, "paid": 0.0, "items": 0, "inst": 0, "first": event["at"], "last": 0}
    kind = event["type"]
    state["count"] += 1
    state["last"] = event["at"]
    if kind == "placed":
        state["price"] += event["price"]
        state["freight"] += event["freight"]
        state["items"] += len(event["items"])
    elif kind == "paid":
        state["paid"] += event["value"]
        state["inst"] = max(state["inst"], event["installments"])
    price, freight, paid = state["price"], state["freight"], state["paid"]
    score = _score(price, freight, paid, state["inst"], state["items"], state["last"] - state["first"], state["count"])
    return state, {"order_id": event["order_id"], "status": kind, "count": state["count"], "score": score, "ts": event["ts"]}


def _score(price: float, freight: float, paid: float, inst: int, items: int, age: int, count: int) -> float:
    z = (
        -2.1
        + 0.31 * math.log1p(price)
        + 1.7 * freight / (price + freight + 1.0)
        + 0.08 * inst
        + 0.21 * items
        - 0.004 * age / 3.6e6
        + 0.05 * (paid - price - freight) / (paid + 1.0)
        + 0.17 * count
    )
    return int(1e6 / (1.0 + math.exp(-z)) + 0.5) / 1e6


def results_of(states: dict[bytes, Order], records: Sequence[Any]) -> list[tuple[bytes, bytes]]:
    """The same sums on structs, a chunk at a time."""
    out: list[tuple[bytes, bytes]] = []
    get, log1p, exp = states.get, math.log1p, math.exp
    for record in records:
        key = record.key
        event = decode(record.value)
        order = get(key)
        at = event.at
        if order is None:
            order = states[key] = Order(first=at)
        kind = event.type
        order.count = count = order.count + 1
        order.last = at
        if kind == "placed":
            order.price += event.price
            order.freight += event.freight
            order.items += len(event.items)
        elif kind == "paid":
            order.paid += event.value
            order.inst = max(order.inst, event.installments)
        price, freight, paid = order.price, order.freight, order.paid
        z = (
            -2.1
            + 0.31 * log1p(price)
            + 1.7 * freight / (price + freight + 1.0)
            + 0.08 * order.inst
            + 0.21 * order.items
            - 0.004 * (at - order.first) / 3.6e6
            + 0.05 * (paid - price - freight) / (paid + 1.0)
            + 0.17 * count
        )
        out.append((key, encode(Result(event.order_id, kind, count, int(1e6 / (1.0 + exp(-z)) + 0.5) / 1e6, event.ts))))
    return out


def events(count: int, size: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Orders living side by side, each event about `size` bytes of JSON."""
    rng = random.Random(seed)
    at, number = 1_700_000_000_000, 0
    live: list[tuple[str, int, float]] = []
    for _ in range(count):
        at += rng.randrange(20)
        if len(live) < LIVE_ORDERS:
            number += 1
            live.append((f"lumi:{seed:x}{number:09d}", 0, round(rng.uniform(5, 400), 2)))
        place = rng.randrange(len(live))
        order, stage, price = live[place]
        event: dict[str, Any] = {"type": KINDS[stage], "order_id": order, "at": at, "ts": at / 1000}
        if stage == 0:
            items = [{"sku": f"SKU-{rng.randrange(9999):04d}", "quantity": 1, "price": price} for _ in range(rng.randrange(1, 4))]
            event |= {"price": price, "freight": round(price / 11, 2), "items": items, "customer": f"lumi:c{rng.randrange(10**6)}"}
        elif stage == 1:
            event |= {"value": round(price * 1.09, 2), "installments": rng.randrange(1, 7), "method": "card"}
        else:
            event |= {"location": f"WH-{rng.randrange(9)}", "tracking": f"{rng.getrandbits(64):016x}"}
        event["note"] = "n" * max(0, size - 12 - len(json.dumps(event, separators=(",", ":"))))
        if stage + 1 < len(KINDS):
            live[place] = (order, stage + 1, price)
        else:
            live[place] = live[-1]
            live.pop()
        yield order, event


# --- workers: each runs until it is told to stop
async def _until_sigterm() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def run_faust(bootstrap: str, group: str, source: str, target: str, go: Path) -> None:
    import mode.loop

    mode.loop.use("uvloop")
    import faust

    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=str(go.parent),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        producer_linger=0.005,
        broker_commit_interval=1.0,
    )
    inbox = app.topic(source, key_type=bytes, value_serializer="json")
    outbox = app.topic(target, key_type=bytes, value_serializer="json")
    states: dict[str, Any] = {}

    @app.agent(inbox)
    async def job(stream: Any) -> None:
        async for event in stream:
            order = event["order_id"]
            states[order], result = apply(states.get(order), event)
            await outbox.send(key=order.encode(), value=result)

    async def main() -> None:
        await app.start()
        await _until_sigterm()
        await app.stop()

    asyncio.run(main())


def run_quix(bootstrap: str, group: str, source: str, target: str, go: Path) -> None:
    from quixstreams import Application, State

    app = Application(
        broker_address=bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=str(go.parent / group),
        loglevel="WARNING",
        commit_interval=1.0,
        producer_extra_config={"linger.ms": 5},
    )

    def job(event: dict[str, Any], state: State[Any, Any]) -> dict[str, Any]:
        state_, result = apply(state.get("order"), event)
        state.set("order", state_)
        return result

    app.dataframe(app.topic(source, value_deserializer="json")).apply(job, stateful=True).to_topic(
        app.topic(target, value_serializer="json")
    )
    app.run()


class BenchLanes:
    """Lanes without a store: a chunk's position counts when the broker has acknowledged its results, and is the group's offset."""

    def __init__(self, go: Path, target: str) -> None:
        self.go, self.target = go, target
        self.app: Any = None
        self.read_from: dict[TP, int] = {}
        self.done: dict[TP, int] = {}
        self.inboxes: dict[TP, asyncio.Queue[Chunk]] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self._gone = False

    def assigned(self, partitions: frozenset[TP]) -> None:
        for tp in partitions:
            self.tasks.append(asyncio.create_task(self._lane(tp)))
        self.tasks.append(asyncio.create_task(self._say_ready()))

    async def _say_ready(self) -> None:
        while not self._gone:
            self._gone = self.go.exists()
            await asyncio.sleep(0.02)

    async def revoked(self, partitions: frozenset[TP]) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        self.read_from.clear()
        self.inboxes.clear()

    def position(self, tp: TP) -> int | None:
        return self.read_from.get(tp) if self._gone else None

    def room(self, tp: TP) -> bool:
        return self.inboxes[tp].qsize() < 4

    def next_reading(self, tp: TP, after: float) -> float:
        return 0.0

    def witness(self) -> Mapping[TP, tuple[int, str]]:
        return {tp: (offset, "") for tp, offset in self.done.items()}

    def mismatch(self, tp: TP, why: str) -> None:
        raise RuntimeError(f"{tp}: {why}")

    def offer(self, chunk: Chunk) -> None:
        from streams.driver import trim

        tp = TP(chunk.topic, chunk.partition)
        fresh = trim(chunk, self.read_from[tp]) if tp in self.read_from else None
        if fresh is not None:
            self.read_from[tp] = fresh.next
            self.inboxes[tp].put_nowait(fresh)

    async def _lane(self, tp: TP) -> None:
        inbox = self.inboxes[tp] = asyncio.Queue()
        committed = await self.app.consumer.committed(tp)
        self.read_from[tp] = committed[0] if committed else 0
        states: dict[bytes, Order] = {}
        publish = self.app.producer.append
        under_way: asyncio.Task[None] | None = None
        while True:
            chunk = await inbox.get()
            results = results_of(states, chunk.records)
            if under_way is not None:
                await under_way
            under_way = asyncio.create_task(self._publish(publish(self.target, results, tp.partition), tp, chunk.next))

    async def _publish(self, sending: Any, tp: TP, next_: int) -> None:
        await sending
        self.done[tp] = next_


def run_orderflow(bootstrap: str, group: str, source: str, target: str, go: Path) -> None:
    import uvloop

    uvloop.install()
    import faust

    from streams.driver import ChunkSchema, check_start, worker_conf

    app: Any = faust.App(group, broker=f"orderflow-kafka://{bootstrap}", **worker_conf())
    check_start(app)
    lanes = BenchLanes(go, target)
    app.assignments, lanes.app = lanes, app

    @app.agent(app.topic(source, schema=ChunkSchema(), acks=False))
    async def job(stream: Any) -> None:
        async for chunk in stream:
            lanes.offer(chunk)

    async def main() -> None:
        await app.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        go.with_name(f"ready-{os.getpid()}").touch()
        await _until_sigterm()
        await app.stop()

    asyncio.run(main())


# --- the bench
class Run(NamedTuple):
    system: str
    per_second: float
    cpu_us: float  # of the workers, per event
    peak_mb: float  # of the largest worker
    faults: dict[str, int]


class Broker:
    def __init__(self, home: Path, folder: Path) -> None:
        self._script, self._folder = home / "kafka", folder
        self.bootstrap = f"127.0.0.1:{_two_free_ports()}"

    def __enter__(self) -> Broker:
        subprocess.run(
            [str(self._script), "start", str(self._folder), self.bootstrap.rpartition(":")[2]], check=True, stdout=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run([str(self._script), "stop", str(self._folder)], check=False)


def _two_free_ports() -> int:
    for port in range(29_092, 30_000, 2):
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port
    raise SystemExit("no free ports for a broker")


def _usage(pid: int) -> tuple[float, float]:
    """CPU seconds so far and peak memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS, peak / 1024


class Bench:
    def __init__(self, bootstrap: str, folder: Path, partitions: int, size: int, seed: int) -> None:
        self.bootstrap, self.folder, self.partitions, self.size, self.seed = bootstrap, folder, partitions, size, seed
        self.number = 0

    async def fill(self, topic: str, count: int) -> dict[str, list[tuple[str, float]]]:
        """Writes the events; what every result must be, by order."""
        from streams.kafka import KafkaLog

        log = KafkaLog(self.bootstrap)
        await log.start()
        await log.create({topic: self.partitions})
        expected: dict[str, list[tuple[str, float]]] = {}
        states: dict[str, Any] = {}
        parts: list[list[tuple[bytes | None, bytes]]] = [[] for _ in range(self.partitions)]
        for order, event in events(count, self.size, self.seed):
            states[order], result = apply(states.get(order), event)
            expected.setdefault(order, []).append((result["status"], result["score"]))
            key = order.encode()
            place = partition_of(key, self.partitions)
            parts[place].append((key, encode(event)))
            if len(parts[place]) == 1000:
                await log.append(topic, parts[place], place)
                parts[place] = []
        for place, part in enumerate(parts):
            await log.append(topic, part, place)
        await log.close()
        return expected

    async def run(self, system: str, source: str, count: int, expected: Mapping[str, list[tuple[str, float]]], workers: int) -> Run:
        from streams.kafka import KafkaLog

        self.number += 1
        target = f"out-{self.number}-{system}"
        log = KafkaLog(self.bootstrap, topic_config={"message.timestamp.type": "LogAppendTime"})
        await log.start()
        await log.create({target: self.partitions})
        folder = self.folder / target
        folder.mkdir()
        go = folder / "go"
        args = [sys.executable, __file__, "--worker", system, self.bootstrap, f"group-{target}", source, target, str(go)]
        errors = (folder / "errors").open("wb")
        processes = [subprocess.Popen(args, cwd=folder, stdout=errors, stderr=errors) for _ in range(workers)]
        try:
            if system == "orderflow":
                while len(list(folder.glob("ready-*"))) < workers:
                    await asyncio.sleep(0.05)
                    self._alive(processes, folder)
                await asyncio.sleep(3.0 if workers > 1 else 0.5)  # the group comes to rest: no rebalance in the run
                go.touch()
            began: list[float] = []
            while True:
                done = sum(end for _, end in (await log.bounds(target)).values())
                if done and not began:
                    began = [_usage(p.pid)[0] for p in processes]
                if done >= count:
                    break
                self._alive(processes, folder)
                await asyncio.sleep(0.05)
            usage = [_usage(p.pid) for p in processes]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()
            errors.close()
        first, last, faults = await self._check(log, target, expected)
        await log.close()
        cpu = sum(now for now, _ in usage) - sum(began)
        return Run(
            f"{system} x{workers}" if workers > 1 else system,
            count / (last - first) * 1000,
            cpu / count * 1e6,
            max(mb for _, mb in usage),
            faults,
        )

    def _alive(self, processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
        for process in processes:
            if process.poll() is not None:
                raise SystemExit(f"a worker ended with {process.returncode}:\n{(folder / 'errors').read_text()[-3000:]}")

    async def _check(self, log: Any, target: str, expected: Mapping[str, list[tuple[str, float]]]) -> tuple[int, int, dict[str, int]]:
        """The times of the first and last append, and what is not as it should be."""
        faults = {"missing": 0, "doubled": 0, "out_of_turn": 0, "wrong": 0}
        seen: dict[str, int] = {}
        first, last = 1 << 62, 0
        for partition, (start, end) in (await log.bounds(target)).items():
            while start < end:
                records = await log.read(target, partition, start, 100_000)
                first, last = min(first, records[0].timestamp), max(last, records[-1].timestamp)
                start = records[-1].offset + 1
                for record in records:
                    result = decode_result(record.value)
                    order, count = result.order_id, result.count
                    before = seen.get(order, 0)
                    if count <= before:
                        faults["doubled"] += 1
                        continue
                    faults["out_of_turn"] += count != before + 1
                    seen[order] = count
                    status, score = expected[order][count - 1]
                    faults["wrong"] += status != result.status or abs(score - result.score) > 1.5e-6
        faults["missing"] = sum(len(results) - seen.get(order, 0) for order, results in expected.items())
        return first, last, faults


async def bench(args: argparse.Namespace, broker: Broker, folder: Path) -> list[Run]:
    base = Bench(broker.bootstrap, folder, args.partitions, args.size, args.seed)
    many = await base.fill("events", args.events)
    few = await base.fill("events-few", args.faust_events) if "faust" in args.systems else {}
    plan: list[tuple[str, int]] = [(system, 1) for system in args.systems]
    if args.workers > 1:
        plan.append(("orderflow", args.workers))
    runs: list[Run] = []
    for _ in range(args.runs):
        for system, workers in plan:
            faust = system == "faust"
            source, count, expected = ("events-few", args.faust_events, few) if faust else ("events", args.events, many)
            run = await base.run(system, source, count, expected, workers)
            runs.append(run)
            faults = ", ".join(f"{value} {name}" for name, value in run.faults.items() if value) or "checked"
            print(f"  {run.system:<14}{run.per_second:>10,.0f} /s  {run.cpu_us:6.1f} us CPU  {run.peak_mb:5.0f} MB  {faults}", flush=True)
    return runs


def report(args: argparse.Namespace, runs: Sequence[Run]) -> None:
    libraries = " ".join(f"{name} {version(name)}" for name in ("faust-streaming", "quixstreams", "aiokafka", "uvloop"))
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}")
    sizes = f"{args.events:,} events of about {args.size} bytes ({args.faust_events:,} for stock Faust)"
    print(f"{sizes}, {args.partitions} partitions, seed {args.seed}, {args.runs} runs\n")
    print("| system | events/s, median | range | us CPU per event | peak MB |\n|---|---|---|---|---|")
    median: dict[str, float] = {}
    for system in dict.fromkeys(run.system for run in runs):
        its = [run for run in runs if run.system == system]
        rates = sorted(run.per_second for run in its)
        median[system] = statistics.median(rates)
        cpu = statistics.median(run.cpu_us for run in its)
        row = (f"{median[system]:,.0f}", f"{rates[0]:,.0f} to {rates[-1]:,.0f}", f"{cpu:.1f}", f"{max(run.peak_mb for run in its):.0f}")
        print(f"| {system} | {' | '.join(row)} |")
    for other, goal in (("faust", 30), ("quix", 4)):
        if other in median and "orderflow" in median:
            print(f"\norderflow is {median['orderflow'] / median[other]:.1f} x {other} (must: {goal} x)")
    two = f"orderflow x{args.workers}"
    if two in median:
        print(f"\n{args.workers} workers carry {median[two] / median['orderflow']:.2f} x one (must: 1.6 x)")
    if args.json:
        rates_ = {system: round(rate) for system, rate in median.items() if not system.startswith("orderflow x")}
        faults = {name: sum(run.faults[name] for run in runs) for name in ("missing", "doubled", "out_of_turn", "wrong")}
        print(json.dumps({"events_per_second": rates_, "workers": {two: round(median[two])} if two in median else {}, "faults": faults}))


def main() -> None:
    if "--worker" in sys.argv:
        system, bootstrap, group, source, target, go = sys.argv[sys.argv.index("--worker") + 1 :]
        {"faust": run_faust, "quix": run_quix, "orderflow": run_orderflow}[system](bootstrap, group, source, target, Path(go))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--faust-events", type=int, default=60_000, help="stock Faust takes minutes for a million")
    parser.add_argument("--size", type=int, default=500, help="bytes of an event, about")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="2: measure two of our workers as well")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--systems", type=lambda text: text.split(","), default=["faust", "quix", "orderflow"])
    parser.add_argument("--kafka", type=Path, default=ROOT.parent / "shared" / "kafka", help="folder with the script `kafka` and its libs")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    if not (args.kafka / "kafka").exists() or shutil.which("java") is None:
        raise SystemExit(f"no Kafka to bench: {args.kafka} (--kafka DIR) and a Java runtime are needed")
    folder = Path(tempfile.mkdtemp(prefix="orderflow-bench-"))
    try:
        with Broker(args.kafka, folder / "broker") as broker:
            runs = asyncio.run(bench(args, broker, folder))
        report(args, runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
