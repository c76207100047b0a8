"""Workers that come, go, freeze and die under load, and a checker that compares their store with the log itself."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from streams.transport import Log, LogDown
from tests.streams.transport.worker import open_store

WORKER = Path(__file__).with_name("worker.py")


class Fleet:
    """Worker processes over one store."""

    def __init__(self, url: str, group: str, folder: Path, topics: list[str], session_timeout_s: float = 1.0) -> None:
        self.store = folder / "store.sqlite"
        self.running: list[subprocess.Popen[str]] = []
        self._ready: set[subprocess.Popen[str]] = set()
        self._args = [sys.executable, str(WORKER), url, group, str(self.store), str(session_timeout_s), *topics]
        self._errors = (folder / "workers.log").open("ab")
        self._folder = folder

    def start(self) -> subprocess.Popen[str]:
        worker = subprocess.Popen(self._args, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=self._folder)
        self.running.append(worker)
        return worker

    async def started(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        line = await asyncio.to_thread(worker.stdout.readline)
        self._ready.add(worker)
        assert line == "started\n", (self._folder / "workers.log").read_text()[-4000:]

    def signal(self, worker: subprocess.Popen[str], number: int) -> None:
        worker.send_signal(number)

    async def end(self, worker: subprocess.Popen[str], number: int) -> int:
        self.running.remove(worker)
        worker.send_signal(number)
        code = await asyncio.to_thread(worker.wait, 40)
        assert worker.stdout is not None
        running = worker in self._ready or "started" in worker.stdout.read()
        worker.stdout.close()
        return 0 if code == -signal.SIGTERM and not running else code  # asked to end before it had begun to listen

    async def close(self) -> None:
        for worker in list(self.running):
            await self.end(worker, signal.SIGKILL)
        self._errors.close()

    def notes(self) -> dict[str, int]:
        db = open_store(self.store)
        found = dict(db.execute("SELECT what, count(*) FROM notes GROUP BY what").fetchall())
        db.close()
        return found

    async def catch_up(self, log: Log, topic: str, timeout: float) -> None:
        """Until the store stands at the end of the log."""
        ends = {partition: end for partition, (_, end) in (await log.bounds(topic)).items()}
        db = open_store(self.store)
        deadline = time.monotonic() + timeout
        try:
            while True:
                stand = dict(db.execute("SELECT partition, offset FROM positions WHERE topic = ?", (topic,)).fetchall())
                if all(stand.get(partition, 0) >= end for partition, end in ends.items()):
                    return
                assert time.monotonic() < deadline, (
                    f"stuck at {stand} of {ends}, notes {self.notes()}\n{(self._folder / 'workers.log').read_text()[-3000:]}"
                )
                await asyncio.sleep(0.05)
        finally:
            db.close()

    async def check(self, log: Log, topic: str, acknowledged: set[bytes]) -> int:
        """Each partition's records as the log has them, once, in order; every acknowledged one among them. Returns how many."""
        db = open_store(self.store)
        seen: set[bytes] = set()
        total = 0
        for partition, (_, end) in (await log.bounds(topic)).items():
            expected: list[tuple[int, bytes]] = []
            while len(expected) < end:
                records = await log.read(topic, partition, len(expected), 50_000)
                expected += [(r.offset, r.value) for r in records]
            taken = db.execute(
                "SELECT offset, value FROM taken WHERE topic = ? AND partition = ? ORDER BY seq", (topic, partition)
            ).fetchall()
            assert len(taken) == len(expected), f"{topic}.{partition}: {len(taken)} of {len(expected)}"
            assert taken == expected
            seen.update(value for _, value in taken)
            total += len(taken)
        db.close()
        assert acknowledged <= seen
        return total


class Load:
    """Appends numbered records at a pace, and remembers which of them the log acknowledged."""

    def __init__(self, log: Log, topic: str, per_second: int, size: int = 40) -> None:
        self.acknowledged: set[bytes] = set()
        self.failed = 0
        self._log, self._topic, self._per_second, self._size = log, topic, per_second, size
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    async def _run(self) -> None:
        number = 0
        every = max(1, self._per_second // 50)
        while not self._stop.is_set():
            records = [(b"k%d" % (number + i), b"%d:" % (number + i) + b"x" * self._size) for i in range(every)]
            number += every
            while True:
                try:
                    await self._log.append(self._topic, records)
                    break
                except LogDown:
                    self.failed += 1
                    await asyncio.sleep(0.1)
            self.acknowledged.update(value for _, value in records)
            await asyncio.sleep(0.02)


async def run(
    seed: int,
    url: str,
    new_log: Callable[[], Log],
    folder: Path,
    name: str,
    *,
    seconds: float,
    every: float,
    per_second: int,
    workers: int = 3,
    faults: tuple[str, ...] = ("leave", "kill", "freeze"),
    broker: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, float]:
    """One seed: each fault at least once, then by chance; `broker` (kill and revive) once in the middle."""
    rng = random.Random(seed)
    log = new_log()
    await log.start()
    await log.create({name: 6})
    fleet = Fleet(url, f"{name}-group", folder, [name])
    load = Load(log, name, per_second)
    try:
        for worker in [fleet.start() for _ in range(workers)]:
            await fleet.started(worker)
        began = time.monotonic()
        plan = list(faults)
        rng.shuffle(plan)
        broken, rebalances = broker is None, 0
        while time.monotonic() - began < seconds or plan or not broken:
            await asyncio.sleep(every * rng.uniform(0.5, 1.5))
            if not broken and broker is not None and time.monotonic() - began > seconds / 2:
                broken = True
                await broker()
                continue
            fault = plan.pop() if plan else rng.choice(faults)
            victim = rng.choice(fleet.running)
            if fault == "freeze":
                fleet.signal(victim, signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(1.5, 3.0))  # longer than the session time-out: it wakes as a zombie
                fleet.signal(victim, signal.SIGCONT)
            else:
                code = await fleet.end(victim, signal.SIGTERM if fault == "leave" else signal.SIGKILL)
                assert code in (0, -signal.SIGKILL), f"a worker ended with {code}"
                fleet.start()
            rebalances += 1
        await load.stop()
        stopped = time.monotonic()
        await fleet.catch_up(log, name, 90)
        caught_up = time.monotonic() - stopped
        total = await fleet.check(log, name, load.acknowledged)
        notes = fleet.notes()
        assert not notes.get("mismatch"), "a position was refused"
        return {
            "seed": seed,
            "records": total,
            "rebalances": rebalances,
            "catch_up_s": round(caught_up, 1),
            "failed_appends": load.failed,
            **notes,
        }
    finally:
        await load.stop()
        await fleet.close()
        await log.close()
        for name_ in os.listdir(folder):
            if name_.startswith("store.sqlite"):
                (folder / name_).unlink()
