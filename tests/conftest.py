"""What all tests share. Fixtures of one room live in that room's conftest."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The machine is shared and small: a slow example is no failure, and what failed once must fail again.
hypothesis.settings.register_profile("orderflow", deadline=None, print_blob=True)
hypothesis.settings.load_profile("orderflow")

KAFKA = Path(__file__).parents[1].parent / "shared" / "kafka" / "kafka"


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
        subprocess.run([str(KAFKA), *args], check=True, capture_output=True, timeout=90, env={**os.environ, "KAFKA_HEAP": "384m"})


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
    if not KAFKA.exists() or shutil.which("java") is None:
        pytest.skip("no Kafka: neither ORDERFLOW_TEST_KAFKA=host:port nor ../shared/kafka with a Java runtime")
    broker = Kafka(f"127.0.0.1:{_two_free_ports()}", tmp_path_factory.mktemp("kafka"))
    broker.revive()
    try:
        yield broker
    finally:
        broker.stop()
