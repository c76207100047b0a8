"""What a worker looks at before it reads a Kafka, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen
from zlib import crc32

import pytest
import yaml
from confluent_kafka import Producer

import wire
from connectors.fake_shop import FakeShop
from orders.fact import encode_fact
from streams.lane import decode_parked
from streams.partition import partition_of
from tests.conftest import Kafka
from tests.kafka.installation import ENVIRONMENT, Installation, installation, readiness

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
RUN = Path(wire.__file__).with_name("run.py")


async def command(its: Installation, *words: str) -> subprocess.CompletedProcess[str]:
    """`run.py` as an operator types it."""
    line = [sys.executable, str(RUN), "--config", str(its.config), *words]
    return await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=60, env=its.environment | ENVIRONMENT)


def configure(its: Installation, **changes: object) -> None:
    its.config.write_text(yaml.safe_dump(yaml.safe_load(its.config.read_text()) | changes))


async def test_too_few_replicas_are_refused_at_init_make_a_worker_unready_and_are_shown_where_they_are_wanted(
    empty_kafka: Kafka, tmp_path: Path
) -> None:
    async with installation(tmp_path / "i", empty_kafka.bootstrap) as its:
        assert await its.log.replication(wire.TOPICS) == (1, 1)  # type: ignore[attr-defined]
        said = []
        for insists in (True, False):
            configure(its, replicated=insists)
            await its.start()
            async with asyncio.timeout(60):
                while len(its.ports()) < 1 + len(said):
                    await asyncio.sleep(0.1)
                while not (answer := await asyncio.to_thread(readiness, its.ports()[-1]))[1] or any(
                    "being acquired" in w for w in answer[1]["why"]
                ):
                    await asyncio.sleep(0.1)
            said.append(answer)
        words = "Kafka keeps 1 replicas, 1 of which acknowledge: 3 and 2 outlive the loss of a broker"
        assert sorted((code, words in body["why"], words in body["degraded"]) for code, body in said) == [
            (200, False, True),
            (503, True, False),
        ]
        await its.stop()

        configure(its, layout={"partitions": 8})
        refused = await command(its, "worker")
        assert refused.returncode == 1
        assert "layout.partitions is 8, but deliveries has 4" in refused.stderr


async def test_init_says_what_three_replicas_need(empty_kafka: Kafka, tmp_path: Path) -> None:
    config = tmp_path / "orderflow.yaml"
    config.write_text(yaml.safe_dump({"data": str(tmp_path / "data"), "log": f"kafka://{empty_kafka.bootstrap}"}))
    line = [sys.executable, str(RUN), "--config", str(config), "init"]
    refused = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "3 brokers are needed, or `replicated: false`" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_serve_starts_as_many_workers_as_wanted_which_share_the_partitions_and_end_with_it(
    empty_kafka: Kafka, tmp_path: Path
) -> None:
    async with installation(tmp_path / "i", empty_kafka.bootstrap) as its:
        configure(its, workers=3, http={"port": 0, "worker_port": 0})
    line = [sys.executable, str(RUN), "--config", str(its.config), "serve"]
    with (its.folder / "workers.log").open("ab") as said:
        serving = await asyncio.create_subprocess_exec(*line, stderr=said, env=its.environment | ENVIRONMENT)
    try:
        lanes: list[set[str]] = []
        async with asyncio.timeout(60):
            while len(lanes) < 3 or not all(lanes) or sum(map(len, lanes)) != 4:
                await asyncio.sleep(0.2)
                assert serving.returncode is None, (its.folder / "workers.log").read_text()
                lanes = [await asyncio.to_thread(lanes_of, port) for port in its.ports()]
        assert set.union(*lanes) == {"0", "1", "2", "3"}
    finally:
        serving.terminate()
        assert await serving.wait() == 0, (its.folder / "workers.log").read_text()
    assert [readiness(port) for port in its.ports()] == [(0, {})] * 3, "all have ended"


def lanes_of(port: int) -> set[str]:
    """Partitions of `facts` that the worker behind this port has; none while it is not ready."""
    if readiness(port)[0] != 200:
        return set()
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return set(re.findall(r'orderflow_consumer_lag_seconds{partition="(\d+)",topic="facts"}', answer.read().decode()))


async def test_what_another_partitioner_puts_elsewhere_is_parked_and_replayed_to_where_it_belongs(
    empty_kafka: Kafka, tmp_path: Path
) -> None:
    """librdkafka's own partitioner is CRC32, not murmur2: a producer that forgets to say so puts most keys on other partitions."""
    shop = FakeShop(3, start_ms=1_795_000_000_000, mix={"regular": 1.0}, brief=True)
    right = {n: partition_of(b"lumi:%d" % (100_000 + n), 4) == crc32(b"lumi:%d" % (100_000 + n)) % 4 for n in range(40)}
    orders = [next(n for n in right if right[n]), next(n for n in right if not right[n])]
    facts = [(fact.order.encode(), encode_fact(fact)) for n in orders for fact in shop.life(n)]
    async with installation(tmp_path / "i", empty_kafka.bootstrap) as its:
        await asyncio.to_thread(produce, empty_kafka.bootstrap, facts)
        astray = {}
        for partition in range(4):
            for record in await its.log.read("facts", partition, 0, 1000):
                if partition_of(record.key, 4) != partition:
                    astray[f"wrong_partition/facts/{partition}/{record.offset}"] = record
        assert {record.key for record in astray.values()} == {facts[-1][0]}
        late = [row for row in await wire.lag(its.settings) if row["behind"]]
        assert late and all(0 <= row["seconds"] < 60 for row in late), "asked from outside: no worker runs"
        await its.start()
        await its.rest()

        rows = {name: decode_parked(row) for _, name, row in await its.store.parked_list(list(await its.lanes()))}
        assert {name: (row.reason, row.key, row.value) for name, row in rows.items()} == {
            name: ("wrong_partition", record.key, record.value) for name, record in astray.items()
        }
        assert (await its.check_sums())["parked"] == len(astray)
        assert (await its.states("facts")).keys() == {facts[0][0].decode()}  # nothing is kept where it does not belong

        listed = json.loads((await command(its, "parked", "list", "--reason", "wrong_partition", "--json")).stdout)
        assert {row["id"] for row in listed["parked"]} == astray.keys()
        for name in astray:
            await wire.parked_settle(its.settings, name, "anna", None, replay=True)
        await its.rest()
        assert await its.store.parked_list(list(await its.lanes())) == []
        assert await its.statuses() == {f"lumi:{100_000 + n}": "delivered" for n in orders}
        await its.stop()
        assert await its.check_states() > 0


def produce(bootstrap: str, facts: Sequence[tuple[bytes, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for key, value in facts:
        producer.produce("facts", value, key)
    assert producer.flush(30) == 0
