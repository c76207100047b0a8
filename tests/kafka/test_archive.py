"""`run.py archive`: every record once in its files, whatever ends the process, and the workers beside it never notice."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

import wire
from connectors.archive import Archive
from connectors.fake_shop import FakeShop
from streams.clock import WallClock
from tests.conftest import Kafka
from tests.kafka.installation import Installation, installation
from tests.kafka.test_start import command

pytestmark = [pytest.mark.timeout(180)]


async def through(its: Installation) -> None:
    shop = FakeShop.demo(5, 40, 2, WallClock().now())
    records = list(shop.stream_bytes(40))
    await its.start()
    await its.ready()
    for part in (records[: len(records) // 3], records[len(records) // 3 :]):
        await its.append(part)
        while not list((its.folder / "archive").rglob("*.parquet")):
            await asyncio.sleep(0.1)
        assert await its.end_archive(signal.SIGKILL) == -signal.SIGKILL  # with what it had not written yet
        await its.start(0)
    await its.rest()
    while await asyncio.to_thread(missing, its, await ends(its)):
        await asyncio.sleep(0.2)
    if its.settings.log == "embedded":
        assert its.archive is not None
        assert f"read by another worker (process {its.archive.pid})" in (await command(its, "archive")).stderr
    await its.stop()
    assert await its.check_archive() == sum((await ends(its)).values())


async def ends(its: Installation) -> dict[tuple[str, int], int]:
    """How many records the log holds, by topic and partition."""
    return {(topic, p): end for topic in wire.TOPICS for p, (_, end) in (await its.log.bounds(topic)).items()}


def missing(its: Installation, ends: dict[tuple[str, int], int]) -> int:
    """How many of them are in no file yet."""
    archive = Archive(its.folder / "archive")
    return sum(end - (archive.next_offset(tp) or 0) for tp, end in ends.items())


async def test_on_the_embedded_log(tmp_path: Path) -> None:
    async with installation(tmp_path / "i", archive=True, archive_gather_s=1.0) as its:
        await through(its)


@pytest.mark.kafka
async def test_on_kafka(empty_kafka: Kafka, tmp_path: Path) -> None:
    async with installation(tmp_path / "i", empty_kafka.bootstrap, archive=True, archive_gather_s=1.0) as its:
        await through(its)
