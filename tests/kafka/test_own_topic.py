"""`examples/own-topic` from end to end: a retailer's own Kafka topic in, orders out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import settings
import wire
from tests.conftest import Kafka
from tests.kafka.installation import Installation, installation

EXAMPLE = Path(wire.__file__).parent / "examples" / "own-topic"
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture
async def shop_orders(empty_kafka: Kafka) -> Kafka:
    """The retailer's topic, with as many partitions as he likes."""
    admin = AIOKafkaAdminClient(bootstrap_servers=empty_kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("shop-orders", 3, 1)])
    await admin.close()
    return empty_kafka


async def test_what_the_shop_writes_to_its_own_topic_becomes_orders(shop_orders: Kafka, tmp_path: Path) -> None:
    example = yaml.safe_load((EXAMPLE / "orderflow.yaml").read_text())
    assert example["sources"] == [{"name": "my-shop", "topic": "shop-orders"}]
    async with installation(tmp_path / "i", shop_orders.bootstrap, sources=example["sources"], channels=example["channels"]) as its:
        await its.start()
        line = [sys.executable, str(EXAMPLE / "produce.py"), shop_orders.bootstrap, "shop-orders", "3"]
        told = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=60, check=True)
        assert told.stdout == "16 records of 3 orders are in shop-orders\n"
        await its.log.append("shop-orders", [(b"free", b'{"type":"OrderPlaced","order":"lumi:10001"'), (None, b"")])
        await its.rest()
        assert await its.statuses() == {f"lumi:{number}": "delivered" for number in (10_000, 10_001, 10_002)}
        assert "LZ-001@main" in await its.states("stock")
        await _operator_sees_it(its)
        await its.stop()
        assert await its.check_states() > 3
        assert (await its.check_sums())["parked"] == 2


async def _operator_sees_it(its: Installation) -> None:
    rows = [row for row in await wire.lag(its.settings) if row["topic"] == "shop-orders"]
    assert [row["lane"] for row in rows] == [f"intake-my-shop.0.{partition}" for partition in range(3)]
    assert sum(row["end"] for row in rows) == 18
    assert sum(row["behind"] for row in rows) == 0
    parked = await wire.parked_list(its.settings, "malformed", 10)
    assert len(parked) == 2
    for row in parked:
        assert row["id"].startswith("malformed/shop-orders/")
    shown, _ = await wire.parked_show(its.settings, max(parked, key=lambda row: row["bytes"])["id"])
    assert json.loads(shown.value + b"}")["order"] == "lumi:10001"


def test_the_examples_configuration_names_a_kafka_and_its_flag() -> None:
    loaded = settings.load(EXAMPLE / "orderflow.yaml")
    assert loaded.log.startswith("kafka://")
    assert not loaded.replicated
