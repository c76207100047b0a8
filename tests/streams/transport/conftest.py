"""The two transports behind one face."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from streams.clock import VirtualClock
from streams.kafka import KafkaLog
from streams.sqlite_log import FILE, EmbeddedLog
from streams.transport import TP, Log
from tests.conftest import Kafka

DAY_MS = 86_400_000
_names = itertools.count()


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
