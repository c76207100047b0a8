"""The whole product on real Kafka while workers and the broker come, go, freeze and die."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Kafka
from tests.kafka import chaos

pytestmark = pytest.mark.kafka


@pytest.mark.timeout(280)
async def test_workers_that_leave_die_and_freeze_and_a_broker_that_dies_change_nothing(empty_kafka: Kafka, tmp_path: Path) -> None:
    result = await chaos.run(1, empty_kafka, tmp_path / "1", seconds=12, every=1.5, orders=80)
    print(result)
    assert result["freeze"] >= 1
