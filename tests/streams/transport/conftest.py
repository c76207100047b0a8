"""A real broker per test session, and the two transports behind one face."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from streams.clock import VirtualClock
from streams.kafka import KafkaLog
from streams.sqlite_log import FILE, EmbeddedLog
from streams.transport import TP, Log

SHARED = Path(__file__).parents[3].parent / "shared" / "kafka" / "kafka"
DAY_MS = 86_400_000
_names = itertools.count()


class Kafka:
    """The broker of this test session. `kill` and `revive` only where we started it."""

    def __init__(self, bootstrap: str, folder: Path | None = None) -> None:
        self.bootstrap, self._folder = bootstrap, folder

    @property
    def ours(self) -> bool:
        return self._folder is not None

    def kill(self) -> None:
        self._run("kill", str(self._folder))

    def revive(self) -> None:
        self._run("start", str(self._folder), self.bootstrap.rpartition(":")[2])

    def stop(self) -> None:
        self._run("stop", str(self._folder))

    def _run(self, *args: str) -> None:
        subprocess.run([str(SHARED), *args], check=True, capture_output=True, timeout=90, env={**os.environ, "KAFKA_HEAP": "384m"})


def _two_free_ports() -> int:
    """The first of two neighbours: the script puts the controller on the next one."""
    for port in range(19_500 + os.getpid() % 400 * 20, 32_000, 2):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    outside = os.environ.get("ORDERFLOW_TEST_KAFKA")
    if outside:
        yield Kafka(outside)
        return
    if not SHARED.exists() or shutil.which("java") is None:
        pytest.skip("no Kafka: neither ORDERFLOW_TEST_KAFKA=host:port nor ../shared/kafka with a Java runtime")
    broker = Kafka(f"127.0.0.1:{_two_free_ports()}", tmp_path_factory.mktemp("kafka"))
    broker.revive()
    try:
        yield broker
    finally:
        broker.stop()


class OnEmbedded:
    name = "embedded"

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, VirtualClock(1_700_000_000_000)
        self.url = f"orderflow-log://{folder}"

    def new_log(self) -> Log:
        return EmbeddedLog(self.folder, self.clock, keep_ms=7 * DAY_MS)

    async def expire(self, log: Log, tp: TP, before: int) -> None:
        """Records before `before` vanish. Retention takes whole batches, so `before` must be the start of one."""
        self.clock.move_to(self.clock.now() + 8 * DAY_MS)
        await log.append(tp.topic, [(b"new", b"new")], tp.partition)
        assert (await log.bounds(tp.topic))[tp.partition][0] >= before

    async def replace(self, topics: Mapping[str, int]) -> None:
        """Another log comes in the place of this one; nothing may have it open."""
        for path in self.folder.glob(f"{FILE}*"):
            path.unlink()
        log = self.new_log()
        await log.start()
        await log.create(topics)
        await log.close()


class OnKafka:
    name = "kafka"

    def __init__(self, broker: Kafka) -> None:
        self.broker = broker
        self.url = f"orderflow-kafka://{broker.bootstrap}"

    def new_log(self) -> Log:
        return KafkaLog(self.broker.bootstrap)

    async def expire(self, log: Log, tp: TP, before: int) -> None:
        from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
        from aiokafka.structs import TopicPartition

        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(*tp): RecordsToDelete(before_offset=before)})
        await admin.close()

    async def replace(self, topics: Mapping[str, int]) -> None:
        from aiokafka.admin import AIOKafkaAdminClient

        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        await admin.delete_topics(list(topics))
        while set(topics) & set(await admin.list_topics()):
            continue
        await admin.close()
        log = self.new_log()
        await log.start()
        await log.create(topics)
        await log.close()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> OnEmbedded | OnKafka:
    if request.param == "embedded":
        return OnEmbedded(tmp_path / "log")
    return OnKafka(request.getfixturevalue("kafka"))


@pytest.fixture
def name() -> str:
    """A topic and group nobody used before."""
    return f"t{os.getpid()}-{next(_names)}"
