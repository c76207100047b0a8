"""The long form of the kills in `test_ingest`, run by `make drill`: forty kills at random moments, many connections, no webhook lost.

What came of it is written to docs/drill-gateway.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from bench.machine import machine, versions
from tests.e2e_input.conftest import PROGRAM, Installation, free_ports, until
from tests.e2e_input.webhooks import Feed, ends, faults, logged

pytestmark = pytest.mark.drill
REPORT = Path(__file__).parents[2] / "docs" / "drill-gateway.md"
SEEDS, KILLS, CONNECTIONS = range(5), 8, 16
COLUMNS = {
    "seed": "seed",
    "kills": "killed",
    "early": "of these while starting",
    "accepted": "accepted",
    "large": "of these beside the log",
    "unanswered": "sent, never answered",
    "doubled": "twice in the log",
    "lost": "lost",
}


@pytest.fixture(scope="module")
def rows() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    yield found
    if len(found) == len(SEEDS):
        REPORT.write_text(report(found))


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Drill of the gateway",
        "",
        "Written by `make drill` (`tests/e2e_input/test_drill.py`); do not edit. Two vendors send signed webhooks from",
        f"{CONNECTIONS} connections and send again what is not answered 2xx, as they do; the gateway is killed (`kill -9`) at random",
        "moments and started again, over the embedded log. Each line is a seed after which everything held: all that was answered 202",
        "is in the log with its bytes, nothing is in it that was not sent, and more than once only what was sent again because nobody",
        "had answered; the worker has read all of it and parked none.",
        "",
        f"{machine()}; {versions()}",
        "",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(f"{row[name]:,}" for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


class Gateway:
    """A second one of the same installation, killed and started at once: `serve` would wait longer and longer and give it up."""

    def __init__(self, installation: Installation, folder: Path, said: IO[bytes]) -> None:
        (self.port,) = free_ports(1)
        tree = yaml.safe_load(installation.config.read_text())
        tree["http"]["port"] = self.port
        for account in tree["accounts"]:
            account["rate"] = 1e6
        self._config = folder / "gateway.yaml"
        self._config.write_text(yaml.safe_dump(tree))
        self._environment, self._said = installation.environment, said
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAM), "--config", str(self._config), "gateway"]
        return subprocess.Popen(command, env=self._environment, stderr=self._said, stdin=subprocess.DEVNULL, start_new_session=True)

    def kill(self) -> None:
        assert self._process.poll() is None, "the gateway ended by itself"
        self._process.kill()
        self._process.wait()

    def again(self) -> None:
        self._process = self._start()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_gateway_killed_again_and_again_loses_nothing_it_accepted(
    seed: int, installation: Installation, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    rng = random.Random(seed)
    since, parked, early = asyncio.run(ends(installation)), len(installation.parked()), 0
    with contextlib.ExitStack() as stack:
        gateway = Gateway(installation, tmp_path, stack.enter_context((tmp_path / "gateway.log").open("ab")))
        stack.callback(gateway.kill)
        feed = stack.enter_context(Feed(gateway.port, installation.environment, CONNECTIONS, first=100 + seed))
        for kill in range(KILLS):
            before = len(feed.accepted)
            if kill and rng.random() < 0.25:  # it has not come up yet, or just now
                time.sleep(rng.uniform(0.2, 2.0))
            else:
                until(lambda before=before: len(feed.accepted) > before + 20, 40, "the gateway does not come back")  # type: ignore[misc]
                time.sleep(rng.uniform(0.0, 1.0))
            early += len(feed.accepted) == before
            gateway.kill()
            gateway.again()
        feed.finish()
    found = asyncio.run(logged(installation, since))
    assert faults(feed, found) == []
    assert feed.large and feed.unanswered
    installation.rest()
    assert len(installation.parked()) == parked
    rows.append(
        {
            "seed": seed,
            "kills": KILLS,
            "early": early,
            "accepted": len(feed.accepted),
            "large": feed.large,
            "unanswered": feed.unanswered.total(),
            "doubled": sum(len(copies) > 1 for copies in found.values()),
            "lost": len(feed.accepted.keys() - found.keys()),
        }
    )
