"""The long form of `test_chaos`, run by `make drill`: twenty seeds, something happens every two seconds for a minute.

What came of it is written to docs/drill.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.machine import machine, versions
from tests.conftest import Kafka
from tests.kafka import chaos

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
REPORT = Path(__file__).parents[2] / "docs" / "drill.md"
COLUMNS = {
    "seed": "seed",
    "orders": "orders",
    "accepted": "records",
    "leave": "left",
    "kill": "killed",
    "freeze": "frozen",
    "broker killed": "broker killed",
    "caught_up_s": "at rest after, s",
    "messages": "messages taken",
    "duplicate_messages": "doubled",
    "unknown": "unknown",
}


@pytest.fixture(scope="module")
def rows() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    yield found
    if found:
        REPORT.write_text(report(found))


def report(rows: list[dict[str, Any]]) -> str:
    """A page of its own: what was done, on what, and one line per seed that held."""
    lines = [
        "# Drill",
        "",
        "Written by `make drill` (`tests/kafka/test_drill.py`); do not edit. Three workers and an archive on a real Kafka, a shop that",
        "goes on selling for a minute; every two seconds a worker leaves, is killed (`kill -9`) or frozen beyond its session, and once",
        "the archive and the broker are killed. Each line is a seed after which everything held: accepted = done + parked + waiting in",
        "every lane, every order's status as in a run in which nothing happens, every state equal to the fold of its inputs and journal,",
        "no message doubled. Seeds below 10 send to stand-ins that misbehave, from 10 on messages are observed and the load is ten times",
        "as high. `unknown` are e-mails and pushes of which nobody can tell any more whether they left: shown, and not sent again.",
        "",
        f"{machine()}; {versions()}",
        "",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
async def test_a_minute_of_faults_changes_nothing(seed: int, empty_kafka: Kafka, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    live = seed < 10
    result = await chaos.run(seed, empty_kafka, tmp_path / "i", seconds=60, every=2, orders=600 if live else 6000, live=live, archive=True)
    result["unknown"] = sum(count for name, count in result.get("said", {}).items() if name.startswith("unknown."))
    result["messages"] = sum(result.get("messages", {}).values())
    rows.append(result)
