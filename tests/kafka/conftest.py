"""The session's broker, without the topics of any installation before and after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Kafka
from tests.kafka.installation import empty, holds


@pytest.fixture
async def empty_kafka(kafka: Kafka) -> AsyncIterator[Kafka]:
    if await holds(kafka):
        pytest.skip(f"the Kafka at {kafka.bootstrap} holds an installation's topics, which these tests would delete")
    yield kafka
    await empty(kafka)
