"""The session's broker, without the topics of any installation before and after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.conftest import Kafka
from wire import TOPICS

OURS = {*TOPICS, "shop-orders"}


@pytest.fixture
async def empty_kafka(kafka: Kafka) -> AsyncIterator[Kafka]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        if OURS & set(await admin.list_topics()):
            pytest.skip(f"the Kafka at {kafka.bootstrap} holds an installation's topics, which tests would delete")
    finally:
        await admin.close()
    yield kafka
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        while left := OURS & set(await admin.list_topics()):
            await admin.delete_topics(sorted(left))
    finally:
        await admin.close()
