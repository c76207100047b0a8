"""A whole installation for the benches: log, store, Ray and workers, each a process of its own as in production.

The workers are `run.py worker` with a configuration file; the log is a real Kafka started here or the embedded one; the
store is the embedded Valkey with `appendfsync always`. Every channel is in observe. All of it ends with the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx
import msgspec
import yaml
from prometheus_client.parser import text_string_to_metric_families

import settings as settings_module
import wire
from actors.ray_local import process_tree
from bench.machine import Usage, folder_bytes, usages
from connectors.store import LaneId, Store
from meter import read_stats
from settings import Settings
from streams.lane import STAGES
from streams.transport import Log

KAFKA = Path(__file__).resolve().parents[2] / "shared" / "kafka"
READY_S = 90.0
T = TypeVar("T")


async def samples(client: httpx.AsyncClient, port: int) -> list[Any]:
    """What a role's `/metrics` shows: `.name`, `.labels`, `.value`."""
    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def to_its_end(bench: Coroutine[Any, Any, T]) -> T:
    """Runs a bench. SIGTERM, too, ends all it has started, and then this process."""

    async def stoppable() -> T:
        its = asyncio.current_task()
        assert its is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, its.cancel)
        return await bench

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


class Plan(msgspec.Struct, frozen=True):
    """What to start."""

    log: str = "kafka"  # "kafka" | "embedded"
    kafka: Path = KAFKA  # folder with the script `kafka` and its libs
    partitions: int = 4
    workers: int = 1
    archive: bool = True
    ray: bool = True


def workers_of(log: str, wanted: int | None) -> int:
    """How many workers a bench starts: one a core of its two, and one only on the embedded log. Raises click.UsageError."""
    if log == "embedded" and (wanted or 1) > 1:
        raise click.UsageError("the embedded log has one worker process: leave --workers away, or take --log kafka")
    return wanted or (1 if log == "embedded" else 2)


class Installation:
    """What is running. `settings` are the first worker's."""

    def __init__(self, plan: Plan, folder: Path, settings: Settings, store: Store, log: Log, broker: Path | None) -> None:
        self.plan, self.folder, self.settings, self.store, self.log = plan, folder, settings, store, log
        self._broker = broker
        self._configs: list[Path] = []
        self._ports: list[int] = []
        self._workers: list[asyncio.subprocess.Process] = []
        self._archive: asyncio.subprocess.Process | None = None

    @property
    def orders(self) -> list[LaneId]:
        return wire.lanes(self.settings, ["orders"])

    async def start_workers(self) -> None:
        """Returns when all say that they are ready. Raises wire.Failed with the last they said."""
        self._log_file = (self.folder / "workers.log").open("ab")
        for number in range(self.plan.workers):
            port = _free_port()
            config = self.folder / f"worker-{number}.yaml"
            _configure(config, self.folder, self.settings.log, self.plan, port)
            self._ports.append(port)
            self._workers.append(await wire.role("worker", config, os.environ, stderr=self._log_file))
            await self._ready(len(self._ports))
        if self.plan.archive:
            self._archive = await wire.role("archive", self.folder / "worker-0.yaml", os.environ, stderr=self._log_file)

    async def _ready(self, count: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            for _ in range(int(READY_S / 0.05)):
                self.check()
                answers = 0
                for port in self._ports[:count]:
                    with contextlib.suppress(httpx.TransportError):
                        answers += (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                if answers == count:
                    return
                await asyncio.sleep(0.05)
        raise wire.Failed("the workers did not become ready:\n" + self.last_words())

    def check(self) -> None:
        """Raises wire.Failed when a worker or the archive has ended."""
        roles = [*self._workers, *([self._archive] if self._archive is not None else [])]
        if any(role.returncode is not None for role in roles):
            raise wire.Failed("a role ended:\n" + self.last_words())

    def last_words(self) -> str:
        return "\n".join((self.folder / "workers.log").read_text(errors="replace").splitlines()[-8:])

    async def stop_workers(self) -> list[int | None]:
        """Their exit codes; the archive goes with them."""
        workers, self._workers = self._workers, []
        archive, self._archive = self._archive, None
        if workers:
            await wire.end_roles(workers)
            if archive is not None:
                await wire.end_roles([archive])
            self._log_file.close()
        return [worker.returncode for worker in workers]

    # --- what is known of it
    def processes(self) -> dict[str, list[int]]:
        """PIDs by what they are: "worker", "archive", "ray", "store", "broker", "feeder" (this process)."""
        found: dict[str, list[int]] = {
            "worker": [w.pid for w in self._workers],
            "archive": [self._archive.pid] if self._archive is not None else [],
            "feeder": [os.getpid()],
            "ray": [],
            "store": [],
            "broker": [],
        }
        if self._broker is not None:
            found["broker"].append(int((self._broker / "pid").read_text()))
        for pid in process_tree(os.getpid()):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith(("valkey", "redis")):
                    found["store"].append(pid)
                elif pid not in found["worker"] and pid != os.getpid() and any(pid in process_tree(worker) for worker in found["worker"]):
                    found["ray"].append(pid)
        return found

    def usages(self) -> dict[str, Usage]:
        return usages(self.processes())

    def disk(self) -> dict[str, int]:
        """Bytes on disk: the store's append-only files, the log, the archive."""
        log = self._broker / "data" if self._broker is not None else self.folder / "log"
        return {"store": folder_bytes(self.folder / "store"), "log": folder_bytes(log), "archive": folder_bytes(self.folder / "archive")}

    def stats(self) -> list[dict[str, Any]]:
        """What each worker measured of itself, at most a second old."""
        return [read_stats(self.folder / f"stats-{worker.pid}.json") for worker in self._workers]

    def stages(self) -> dict[str, dict[str, float]]:
        """Seconds by processor and stage, of all workers."""
        sums: dict[str, Counter[str]] = {}
        for stats in self.stats():
            for name, spent in stats["stages"].items():
                sums.setdefault(name, Counter()).update(spent)
        return {name: dict(spent) for name, spent in sums.items()}

    def latencies(self) -> dict[str, int]:
        """How many facts took how long to their committed status, of all workers, as `meter.Latencies` counts them."""
        return dict(sum((Counter(stats["latency_bins"]) for stats in self.stats()), Counter()))

    async def batch_sizes(self) -> dict[float, float]:
        """Calls to the scorer by rows, of all workers, as `orderflow_model_batch_size` counts them: bound -> calls up to it."""
        found: Counter[float] = Counter()
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for port in self._ports:
                for sample in await samples(client, port):
                    if sample.name == "orderflow_model_batch_size_bucket":
                        found[float(sample.labels["le"])] += int(sample.value)
        return dict(found)

    async def offsets(self, processors: Sequence[str]) -> dict[str, int]:
        """How many records the lanes of each processor have behind them, in all."""
        found = {}
        for name in processors:
            found[name] = sum(standing.offset or 0 for standing in await self.store.standing(wire.lanes(self.settings, [name])))
        return found

    async def ends(self) -> dict[str, int]:
        """How many records lie in each lane's topic, by processor."""
        return {processor: sum(end for _, end in (await self.log.bounds(topic)).values()) for topic, processor in wire.PROCESSOR_OF.items()}


@contextlib.asynccontextmanager
async def installation(plan: Plan, folder: Path | None = None) -> AsyncIterator[Installation]:
    """Log and store run and are laid out; workers are started by `start_workers`. Raises wire.Failed."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orderflow-bench-", ignore_cleanup_errors=True)))
        broker = folder / "broker" if plan.log == "kafka" else None
        log = f"kafka://{stack.enter_context(_kafka(plan.kafka, broker))}" if broker is not None else "embedded"
        config = folder / "bench.yaml"
        _configure(config, folder, log, plan, 0)
        settings = settings_module.load(config)
        async with wire.store_of(settings) as store, wire.opened(wire.log_of(settings)) as log_:
            await wire.lay_out(settings, store, log_)
            its = Installation(plan, folder, settings, store, log_, broker)
            try:
                yield its
            finally:
                await its.stop_workers()


def _configure(path: Path, folder: Path, log: str, plan: Plan, port: int) -> None:
    tree: Mapping[str, Any] = {
        "data": str(folder),
        "log": log,
        "ray": "local" if plan.ray else "off",
        "archive": plan.archive,
        "replicated": False,  # one broker
        "layout": {"partitions": plan.partitions},
        "http": {"worker_port": port, "archive_port": 0},
    }
    path.write_text(yaml.safe_dump(dict(tree)))


@contextlib.contextmanager
def _kafka(home: Path, folder: Path) -> Iterator[str]:
    script = home / "kafka"
    if not script.exists() or shutil.which("java") is None:
        raise wire.Failed(f"no Kafka to bench: {script} (--kafka DIR) and a Java runtime are needed; or take --log embedded")
    port = _free_port(2)
    subprocess.run([str(script), "start", str(folder), str(port)], check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([str(script), "stop", str(folder)], check=False)


def _free_port(in_a_row: int = 1) -> int:
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = 0
            for number in range(in_a_row):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", first + number if first else 0))
                first = first or probe.getsockname()[1]
            return first


def stage_rows(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Seconds per processor and stage between two looks."""
    none = dict.fromkeys(STAGES, 0.0)
    return {name: {stage: round(spent[stage] - before.get(name, none)[stage], 3) for stage in STAGES} for name, spent in after.items()}
