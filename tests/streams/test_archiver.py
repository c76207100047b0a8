"""The archive's app: each record once, where the manifest ends the reading goes on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import duckdb
import pytest

from connectors.archive import Archive
from streams.archiver import MAX_WAITING_RECORDS, Archiver, Shelf
from streams.clock import VirtualClock
from streams.processor import Chunk, Record
from streams.transport import TP
from tests.streams.toy import MemoryLog, chunk

ROOT = Path(__file__).parents[2]
FACTS = TP("facts", 0)
repositioned: list[TP] = []
DAY = 86_400_000


async def opened(folder: Path, log: MemoryLog, clock: VirtualClock | None = None) -> tuple[Archiver, list[BaseException]]:
    crashes: list[BaseException] = []
    archiver = Archiver(Archive(folder), log, clock or VirtualClock(DAY), crashes.append, repositioned.append, gather_s=10.0)
    archiver.assigned(frozenset({FACTS}))
    async with asyncio.timeout(5):
        while archiver.position(FACTS) is None and not crashes:
            await asyncio.sleep(0.005)
    return archiver, crashes


async def test_each_record_is_archived_once_over_a_restart_and_can_be_read_with_duckdb(tmp_path: Path) -> None:
    log = MemoryLog()
    await log.append("facts", [(b"k", b"x")] * 9)
    first, _ = await opened(tmp_path, log)
    first.offer(chunk(0, b"x", b"x", b"x"))
    first.offer(chunk(0, b"x", b"x", b"x"))  # handed over twice
    first.offer(chunk(3, b"x", b"x"))
    await first.revoked(frozenset({FACTS}))
    await first.close()
    second, _ = await opened(tmp_path, log)
    assert second.position(FACTS) == 5
    second.offer(chunk(7, b"x", b"x"))  # 5 and 6 are missing
    assert repositioned == [FACTS]
    second.offer(chunk(4, b"x", b"x", b"x", b"x", b"x"))
    await second.close()
    rows = duckdb.sql(f'SELECT "offset" FROM ({Archive(tmp_path).sql("facts")}) ORDER BY 1').fetchall()
    assert [offset for (offset,) in rows] == list(range(9))


async def test_the_query_that_the_documents_show_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MemoryLog()
    await log.append("facts", [(b"lumi:1", b'{"type":"OrderPlaced"}')])
    archiver, _ = await opened(tmp_path / "data" / "archive", log)
    archiver.offer(Chunk("facts", 0, 0, 1, [Record(0, b"lumi:1", b'{"type":"OrderPlaced"}', DAY)]))
    await archiver.close()
    monkeypatch.chdir(tmp_path)
    shown = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "operation.md").read_text(), re.DOTALL)
    assert shown is not None
    exec(shown[1], {})  # as somebody would who reads it
    assert "lumi:1" in capsys.readouterr().out


async def test_a_manifest_that_does_not_fit_the_log_stops_the_archive_loudly(tmp_path: Path) -> None:
    log = MemoryLog()
    await log.append("facts", [(b"k", b"x")] * 3)
    first, _ = await opened(tmp_path, log)
    first.offer(chunk(0, b"x", b"x", b"x"))
    await first.close()
    other, crashes = await opened(tmp_path, MemoryLog())
    assert other.position(FACTS) is None and "manifest" in str(crashes[0])
    await other.close()


async def test_partitions_that_have_waited_long_enough_are_written_a_few_at_a_time_the_oldest_first(tmp_path: Path) -> None:
    """All at once they would hold up the store's disk: its commits would come back hundreds of milliseconds later."""
    log = MemoryLog()
    await log.append("facts", [(b"k", b"x")])
    archiver, _ = await opened(tmp_path, log)
    for number in range(40):
        shelf = archiver._shelves[TP("facts", number)] = Shelf(0)
        shelf.records, shelf.since = list(chunk(0, b"x").records), 100.0 - number
    assert archiver._ripe(105.0) == [TP("facts", n) for n in (39, 38)]
    assert archiver._ripe(61.0) == []
    archiver._shelves[TP("facts", 0)].records *= MAX_WAITING_RECORDS
    assert archiver._ripe(61.0) == [TP("facts", 0)], "one that fills up is written at once"
    assert archiver.held == 1 and not archiver.room(TP("facts", 0))
    archiver._shelves.clear()
    await archiver.close()
