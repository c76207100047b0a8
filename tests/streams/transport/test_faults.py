"""Processes that die, freeze and leave: nothing lost, nothing skipped, nothing out of turn."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.driver import VERSIONS
from streams.kafka import KafkaLog
from streams.sqlite_log import EmbeddedLog
from streams.transport import TP, LogDown
from tests.conftest import Kafka
from tests.streams.transport import faults
from tests.streams.transport.conftest import OnEmbedded, OnKafka
from tests.streams.transport.lanes import Lanes, make_app, running


async def test_a_killed_worker_is_followed_by_one_that_goes_on_where_the_store_stands(
    transport: OnEmbedded | OnKafka, name: str, tmp_path: Path
) -> None:
    rng = random.Random(11)
    log = transport.new_log()
    await log.start()
    await log.create({name: 4})
    fleet = faults.Fleet(transport.url, name, tmp_path, [name])
    load = faults.Load(log, name, 4000)
    try:
        for _ in range(3):
            worker = fleet.start()
            await fleet.started(worker)
            await asyncio.sleep(rng.uniform(0.3, 1.2))
            await fleet.end(worker, signal.SIGKILL)
        last = fleet.start()
        await fleet.started(last)
        await load.stop()
        await fleet.catch_up(log, name, 60)
        assert await fleet.check(log, name, load.acknowledged) >= len(load.acknowledged) > 0
        assert await fleet.end(last, signal.SIGTERM) == 0
        assert not fleet.notes().get("gap")
    finally:
        await load.stop()
        await fleet.close()
        await log.close()


async def _broker_dies(kafka: Kafka) -> None:
    await asyncio.to_thread(kafka.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(kafka.revive)


@pytest.mark.kafka
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_workers_that_leave_die_and_freeze_lose_nothing(seed: int, kafka: Kafka, name: str, tmp_path: Path) -> None:
    """Seed 2 kills and revives the broker under load as well."""
    breaks = seed == 2 and kafka.ours
    result = await faults.run(
        seed,
        f"orderflow-kafka://{kafka.bootstrap}",
        lambda: KafkaLog(kafka.bootstrap, request_timeout_s=10),
        tmp_path,
        name,
        seconds=10,
        every=2,
        per_second=2000,
        broker=(lambda: _broker_dies(kafka)) if breaks else None,
    )
    assert result["rebalances"] >= 3


@pytest.mark.kafka
async def test_the_broker_refuses_the_commit_of_a_generation_that_is_gone(kafka: Kafka, name: str, tmp_path: Path) -> None:
    log = KafkaLog(kafka.bootstrap)
    await log.start()
    await log.create({name: 2})
    await log.append(name, [(b"k", b"%d" % i) for i in range(100)])
    first, second = Lanes(tmp_path / "1.json"), Lanes(tmp_path / "2.json")
    url = f"orderflow-kafka://{kafka.bootstrap}"
    async with running(make_app(url, name, first, [name])) as one:
        await first.until(lambda: len(first.assignments) == 1)
        consumer: Any = one.consumer
        old = consumer.member.generation
        async with running(make_app(url, name, second, [name])):
            await first.until(lambda: len(first.assignments) == 2)
            assert consumer.member.generation > old
            (mine,) = first.mine
            consumer.member.generation = old  # what a worker still has that was frozen for too long
            assert await consumer._write_offsets({mine: (1, "zombie")}) is False
            await first.until(lambda: len(first.assignments) == 3)  # it joins again by itself
            assert await consumer._write_offsets({next(iter(first.mine)): (50, "alive")}) is True
    await log.close()


@pytest.mark.kafka
async def test_a_leader_that_has_forgotten_the_topics_asks_before_it_assigns(kafka: Kafka, name: str, tmp_path: Path) -> None:
    log = KafkaLog(kafka.bootstrap)
    await log.start()
    await log.create({name: 3})
    lanes = Lanes(tmp_path / "positions.json")
    async with running(make_app(f"orderflow-kafka://{kafka.bootstrap}", name, lanes, [name])) as app:
        await lanes.until(lambda: len(lanes.mine) == 3)
        consumer: Any = app.consumer
        assign = consumer.member._perform_assignment

        async def forgetful(response: Any) -> Any:  # as after a broker that came back and did not know them yet
            consumer._client.cluster._partitions.clear()
            return await assign(response)

        consumer.member._perform_assignment = forgetful
        consumer.member.request_rejoin()
        await lanes.until(lambda: len(lanes.assignments) == 2)
        assert len(lanes.mine) == 3
    await log.close()


@pytest.mark.kafka
async def test_a_produce_that_fails_says_so_and_the_next_one_works(kafka: Kafka, name: str) -> None:
    if not kafka.ours:
        pytest.skip("the broker is not ours to kill")
    log = KafkaLog(kafka.bootstrap, request_timeout_s=2)
    await log.start()
    await log.create({name: 1})
    await log.append(name, [(b"k", b"before")], 0)
    await asyncio.to_thread(kafka.kill)
    with pytest.raises(LogDown):
        await log.append(name, [(b"k", b"lost")], 0)
    await asyncio.to_thread(kafka.revive)
    async with asyncio.timeout(60):
        while True:
            try:
                await log.append(name, [(b"k", b"after")], 0)
                break
            except LogDown:
                continue
    values = [r.value for r in await log.read(name, 0, 0, 100)]
    assert values[0] == b"before"
    assert values[-1] == b"after"
    await log.close()


async def test_a_second_worker_on_one_folder_is_refused_with_a_clear_word(name: str, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log")
    await log.start()
    await log.create({name: 1})
    lanes = Lanes(tmp_path / "positions.json")
    async with running(make_app(f"orderflow-log://{tmp_path}/log", name, lanes, [name])):
        await _refused(log, lanes, name, tmp_path)
    await log.close()


async def _refused(log: EmbeddedLog, lanes: Lanes, name: str, tmp_path: Path) -> None:
    second = [sys.executable, str(faults.WORKER), f"orderflow-log://{tmp_path}/log", name, str(tmp_path / "s"), "1", name]
    refused = await asyncio.to_thread(subprocess.run, second, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert refused.returncode != 0
    assert "is read by another worker" in refused.stderr
    await log.append(name, [(b"k", b"v")])  # appending is for everybody
    await lanes.until(lambda: lanes.values(TP(name, 0)) == [b"v"])


LONG_SEEDS = range(100, 120)
REPORT = Path(__file__).parents[3] / "docs" / "drill-transport.json"


@pytest.fixture(scope="module")
def long_results() -> Iterator[list[dict[str, float]]]:
    """Written to `docs/` when every seed of the long form has passed: the file that is committed with a release."""
    results: list[dict[str, float]] = []
    yield results
    if len(results) == len(LONG_SEEDS):
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(), **VERSIONS}
        REPORT.write_text(json.dumps({"command": "make drill", "machine": machine, "seeds": results}, indent=1) + "\n")


@pytest.mark.kafka
@pytest.mark.drill
@pytest.mark.parametrize("seed", LONG_SEEDS)
async def test_a_rebalance_every_two_seconds_for_a_minute_under_load_loses_nothing(
    seed: int, kafka: Kafka, name: str, tmp_path: Path, long_results: list[dict[str, float]]
) -> None:
    result = await faults.run(
        seed,
        f"orderflow-kafka://{kafka.bootstrap}",
        lambda: KafkaLog(kafka.bootstrap, request_timeout_s=10),
        tmp_path,
        name,
        seconds=60,
        every=2,
        per_second=20_000,
        broker=(lambda: _broker_dies(kafka)) if kafka.ours else None,
    )
    long_results.append(result)
