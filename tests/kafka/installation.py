"""A whole installation for tests: a store of its own, topics on a log, stand-ins, and real `run.py worker` processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient

import settings as settings_module
import wire
from connectors.archive import Archive
from connectors.registry import ABILITIES
from connectors.stand_ins import ACCOUNT, PASSWORD, PROJECT, SIGNING, StandIns
from connectors.store import LaneId, Standing, Store
from streams.clock import WallClock
from streams.processor import Processor
from streams.recovery import refold
from streams.transport import Log
from tests.conftest import Kafka

KEYED = ("references", "facts", "stock", "customers")  # topics whose lanes keep states
OURS = {*wire.TOPICS, "shop-orders"}
SETTLED_S = 1.0  # everything read and nothing new for so long: it rests
ENVIRONMENT = {"ORDERFLOW_STAND_IN": PASSWORD, "ORDERFLOW_SIGNING": SIGNING}


class Installation:
    """Made by `installation`. Workers score by the rules and send to the stand-ins."""

    def __init__(self, folder: Path, tree: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "orderflow.yaml"
        self.config.write_text(yaml.safe_dump(dict(tree)))
        self.settings = settings_module.load(self.config)
        self.environment = {**os.environ, **ENVIRONMENT}
        self.workers: list[Process] = []
        self.archive: Process | None = None
        self.ended: list[int] = []  # exit codes of those that ended by themselves
        self.store: Store
        self.log: Log
        self._said = (folder / "workers.log").open("ab")

    # --- workers
    async def start(self, count: int = 1) -> None:
        for _ in range(count):
            self.workers.append(await wire.role("worker", self.config, self.environment, stderr=self._said))
        if self.settings.archive and self.archive is None:
            self.archive = await wire.role("archive", self.config, self.environment, stderr=self._said)

    async def ready(self, timeout: float = 40.0) -> None:
        """Until every worker that was started is in the group and every partition has its lane."""
        async with asyncio.timeout(timeout):
            while len(self.ports()) < len(self.workers):
                await asyncio.sleep(0.1)
            while True:
                whys = await asyncio.gather(*(asyncio.to_thread(readiness, port) for port in self.ports()[-len(self.workers) :]))
                if all(code == 200 for code, _ in whys):
                    return
                await asyncio.sleep(0.1)

    def ports(self) -> list[int]:
        """Where the workers said, in the order of their starts, that their health is to be asked for."""
        said = (self.folder / "workers.log").read_text(errors="replace")
        return [int(port) for port in re.findall(r'"port": (\d+), "event": "worker runs"', said)]

    async def end(self, worker: Process, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.workers.remove(worker)
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(number)
        return await asyncio.wait_for(worker.wait(), 40)

    async def revive(self) -> None:
        """Starts others for those that ended by themselves, as a supervisor does: one that starts while the broker is away gives up."""
        if self.archive is not None and self.archive.returncode is not None:
            self.ended.append(await self.end_archive())
            await self.start(0)
        for worker in [worker for worker in self.workers if worker.returncode is not None]:
            self.ended.append(await self.end(worker))
            await self.start()

    async def stop(self) -> None:
        """All of them leave, in good order."""
        codes = await asyncio.gather(*(self.end(worker) for worker in list(self.workers)))
        if self.archive is not None:
            codes.append(await self.end_archive())
        assert set(codes) <= {0}, f"exit codes {codes}\n{self.said()}"

    async def end_archive(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        assert self.archive is not None
        archive, self.archive = self.archive, None
        with contextlib.suppress(ProcessLookupError):
            archive.send_signal(number)
        return await asyncio.wait_for(archive.wait(), 40)

    async def close(self) -> None:
        if self.archive is not None:
            await self.end_archive(signal.SIGKILL)
        for worker in list(self.workers):
            await self.end(worker, signal.SIGKILL)
        self._said.close()

    def said(self, lines: int = 30) -> str:
        return "\n".join((self.folder / "workers.log").read_text(errors="replace").splitlines()[-lines:])

    # --- records in
    async def append(self, records: Iterable[tuple[str, bytes, bytes]]) -> None:
        by_topic: dict[str, list[tuple[bytes | None, bytes]]] = {}
        for topic, key, value in records:
            by_topic.setdefault(topic, []).append((key, value))
        for topic, its in by_topic.items():
            await self.log.append(topic, its)

    # --- looking
    def made(self) -> dict[str, Callable[[], Processor]]:
        return wire.processors(self.settings, self.environment, ABILITIES)

    async def lanes(self) -> dict[LaneId, str]:
        """Each lane and the topic it reads."""
        found = {}
        for topic, make in self.made().items():
            for partition in await self.log.bounds(topic):
                found[LaneId(make().name, self.settings.layout.id, partition)] = topic
        return found

    async def standings(self) -> list[tuple[Standing, int]]:
        """Where each lane stands, and where its log ends."""
        lanes = await self.lanes()
        ends = {topic: await self.log.bounds(topic) for topic in set(lanes.values())}
        standings = await self.store.standing(list(lanes))
        return [(s, ends[lanes[s.lane]][s.lane.partition][1]) for s in standings]

    async def rest(self, timeout: float = 60.0, soon_s: float = 3.0, revive: bool = False) -> None:
        """Until everything is read, nothing is due within `soon_s`, and it stays so for a moment."""
        deadline = asyncio.get_running_loop().time() + timeout
        quiet, last = 0.0, None
        while quiet < SETTLED_S:
            await asyncio.sleep(0.25)
            now = WallClock().now()
            seen = await self.standings()
            behind = {str(s.lane): (s.offset, end) for s, end in seen if s.offset != end}
            due = {str(s.lane): s.next_due - now for s, _ in seen if s.next_due and s.next_due < now + soon_s * 1000}
            stand = [(s.sequence, s.offset) for s, _ in seen]
            quiet = quiet + 0.25 if not behind and not due and stand == last else 0.0
            last = stand
            if revive:
                await self.revive()
            dead = [worker.returncode for worker in self.workers if worker.returncode is not None]
            late = asyncio.get_running_loop().time() > deadline
            assert not late and not dead, f"does not come to rest: dead {dead}, behind {behind}, due {due}\n{self.said()}"

    async def states(self, topic: str) -> dict[str, bytes]:
        """All states of a topic's lanes, by key."""
        found: dict[str, bytes] = {}
        for lane, its in (await self.lanes()).items():
            if its == topic:
                async for key, blob in self.store.states(lane):
                    found[key] = blob
        return found

    async def decoded(self, topic: str) -> dict[str, Any]:
        decode = self.made()[topic]().decode
        return {key: decode(blob) for key, blob in (await self.states(topic)).items()}

    async def statuses(self) -> dict[str, str]:
        from orders.view import view

        return {key: view(order).status.value for key, order in (await self.decoded("facts")).items()}

    async def check_states(self) -> int:
        """Promise 2: what is stored equals the fold of what was read and journaled. Returns how many states."""
        count = 0
        made = self.made()
        lanes = await self.lanes()
        for standing in await self.store.standing(list(lanes)):
            topic = lanes[standing.lane]
            if topic not in KEYED:
                continue
            stored = {key: blob async for key, blob in self.store.states(standing.lane)}
            folded = await refold(standing.lane, made[topic](), self.log, until=standing.offset)
            differing = sorted(key for key in stored.keys() | folded.keys() if stored.get(key) != folded.get(key))
            if differing:
                history = await self._history(standing.lane, topic, differing[0])
                evidence = self.folder / "differs.msgpack"
                evidence.write_bytes(msgspec.msgpack.encode((stored.get(differing[0]), folded.get(differing[0]), history)))
                pytest.fail(
                    f"{standing.lane}: {len(differing)} of {len(stored)} states differ from their fold, {differing[0]} in {evidence}"
                )
            count += len(stored)
        return count

    async def _history(self, lane: LaneId, topic: str, key: str) -> list[tuple[str, int, bytes]]:
        """All that was read and journaled of one key: topic, offset, value."""
        found = []
        for its in (topic, "journal"):
            first, end = (await self.log.bounds(its))[lane.partition]
            for record in await self.log.read(its, lane.partition, first, end - first):
                if key.encode() in record.key or (its == "journal" and record.key == str(lane).encode() and key.encode() in record.value):
                    found.append((its, record.offset, record.value))
        return found

    async def check_archive(self) -> int:
        """Every topic's archive is its log up to the manifest's end, each record once. Returns how many records."""
        archive = Archive(self.settings.folder / "archive")
        count = 0
        for topic in wire.TOPICS:
            for partition in range(self.settings.layout.partitions):
                kept = [(r.offset, r.key, r.value) for part in archive.read((topic, partition)) for r in part]
                logged = await self.log.read(topic, partition, 0, archive.next_offset((topic, partition)) or 0)
                assert kept == [(r.offset, r.key, r.value) for r in logged], f"the archive of {topic}.{partition} is not its log"
                count += len(kept)
        return count

    async def check_sums(self) -> dict[str, int]:
        """Promise 7: accepted = done + parked + waiting, in every lane. Returns the sums."""
        sums = {"accepted": 0, "done": 0, "parked": 0, "waiting": 0}
        for standing, end in await self.standings():
            counts = standing.counts
            accepted, done, parked = (counts.get(name, 0) for name in ("accepted", "done", "parked"))
            assert standing.offset is not None
            assert accepted == done + parked == standing.offset, f"{standing.lane}: {counts} at {standing.offset}"
            for name, value in (("accepted", end), ("done", done), ("parked", parked), ("waiting", end - standing.offset)):
                sums[name] += value
        assert sums["accepted"] == sums["done"] + sums["parked"] + sums["waiting"]
        return sums


def readiness(port: int) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz; may block."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError:
        return 0, {}
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def installation(
    folder: Path,
    log: str = "embedded",
    *,
    partitions: int = 4,
    stand_ins: StandIns | None = None,
    before: Callable[[Log], Any] | None = None,
    **more: Any,
) -> AsyncIterator[Installation]:
    """`log`: "embedded" or bootstrap servers. Without stand-ins only stock is live. `before` is called with the open log."""
    folder.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {
        "data": str(folder),
        "log": log if log == "embedded" else f"kafka://{log}",
        "group": f"g-{folder.parent.name}-{folder.name}",
        "ray": "off",
        "model": {"weights": str(folder / "none")},  # the rules score: torch would cost each worker two seconds and 200 MB
        "archive": False,
        "replicated": False,
        "kafka": {"session_timeout_s": 1.0},
        "layout": {"partitions": partitions},
        "http": {"worker_port": 0, "archive_port": 0},
        "workflow": {"settle_minutes": 0.02, "feedback_after_hours": 0.001},
        "channels": channels(stand_ins),
        **more,
    }
    its = Installation(folder, tree)
    try:
        async with wire.store_of(its.settings) as store, wire.opened(wire.log_of(its.settings)) as opened:
            its.store, its.log = store, opened
            if before is not None:
                await before(opened)
            await wire.lay_out(its.settings, store, opened)
            try:
                yield its
            finally:
                await its.close()
    finally:
        its._said.close()


def channels(stand_ins: StandIns | None) -> dict[str, Any]:
    stock = {"mode": "live"}
    if stand_ins is None:
        return {"stock": stock}
    url = f"http://127.0.0.1:{stand_ins.http_port}"
    callback = "https://shop.invalid/receipts/twilio"
    token = {"env": "ORDERFLOW_STAND_IN"}
    live = {"mode": "live", "rate": 500.0}
    return {
        "email": {**live, "port": stand_ins.smtp_port, "tls": "off"},
        "sms": {**live, "url": url, "account": ACCOUNT, "token": token, "sender": "+15005550006", "status_callback": callback},
        "push": {**live, "url": url, "project": PROJECT, "token": token},
        "webhook": {**live, "url": f"{url}/hooks/events", "secret": {"env": "ORDERFLOW_SIGNING"}, "private": True},
        "stock": stock,
    }


@contextlib.asynccontextmanager
async def sink(**arguments: Any) -> AsyncIterator[StandIns]:
    """Stand-ins on this loop: the judge of what was sent."""
    made = StandIns(clock=WallClock().now, **arguments)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def _admin(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def holds(kafka: Kafka) -> set[str]:
    """Which of the topics that tests make are there."""
    async with _admin(kafka) as admin:
        return OURS & set(await admin.list_topics())


async def empty(kafka: Kafka) -> None:
    """Deletes them, and waits until they are gone."""
    async with _admin(kafka) as admin:
        while left := OURS & set(await admin.list_topics()):
            await admin.delete_topics(sorted(left))
            await asyncio.sleep(0.1)


def parts(of: Sequence[Any], sizes: Callable[[], int]) -> list[Sequence[Any]]:
    """Consecutive pieces of these sizes."""
    found, at = [], 0
    while at < len(of):
        size = sizes()
        found.append(of[at : at + size])
        at += size
    return found
