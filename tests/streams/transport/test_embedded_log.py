"""What only the embedded log promises: durable together, whole or not at all, told when damaged, kept as long as configured."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.clock import VirtualClock
from streams.sqlite_log import BATCH_RECORDS, FILE, EmbeddedLog, GroupLock, LogTaken, connect
from streams.transport import TP, LogDown, LogMismatch
from tests.streams.transport.lanes import Lanes, make_app, running

DAY_MS = 86_400_000


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log", VirtualClock(1_700_000_000_000), keep_ms=2 * DAY_MS)
    await log.start()
    await log.create({"facts": 2})
    yield log
    await log.close()


def clock_of(log: EmbeddedLog) -> VirtualClock:
    clock = log._clock
    assert isinstance(clock, VirtualClock)
    return clock


async def values(log: EmbeddedLog, partition: int = 0, start: int = 0) -> list[bytes]:
    return [r.value for r in await log.read("facts", partition, start, 1_000_000)]


async def test_writers_of_many_processes_and_tasks_share_one_order(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log")
    await log.start()
    await log.create({"facts": 2})
    code = (
        "import asyncio, sys; from streams.sqlite_log import EmbeddedLog\n"
        "async def main(who):\n"
        "    log = EmbeddedLog(sys.argv[1]); await log.start()\n"
        "    for i in range(60): await log.append('facts', [(b'k', b'%d:%d' % (who, i))], 0)\n"
        "    await log.close()\n"
        "asyncio.run(main(int(sys.argv[2])))"
    )
    root = Path(__file__).parents[3]
    others = [subprocess.Popen([sys.executable, "-c", code, str(log.folder), str(who)], cwd=root) for who in (1, 2)]
    await asyncio.gather(*[log.append("facts", [(b"k", b"0:%d" % i)], 0) for i in range(60)])
    for other in others:
        assert await asyncio.to_thread(other.wait, 60) == 0
    found = await values(log)
    assert len(found) == 180
    for who in (0, 1, 2):
        assert [v for v in found if v.startswith(b"%d:" % who)] == [b"%d:%d" % (who, i) for i in range(60)]
    offsets = [r.offset for r in await log.read("facts", 0, 0, 1000)]
    assert offsets == list(range(180))
    await log.close()


async def test_big_appends_are_cut_into_rows_and_small_ones_of_one_moment_share_a_row(log: EmbeddedLog) -> None:
    await log.append("facts", [(b"k", b"%d" % i) for i in range(3 * BATCH_RECORDS + 5)], 0)
    await asyncio.gather(*[log.append("facts", [(b"k", b"%d" % i)], 1) for i in range(200)])
    with sqlite3.connect(log.folder / FILE) as db:
        big = [row[0] for row in db.execute("SELECT count FROM batches WHERE partition = 0 ORDER BY first")]
        small = [row[0] for row in db.execute("SELECT count FROM batches WHERE partition = 1 ORDER BY first")]
    db.close()
    assert big == [BATCH_RECORDS] * 3 + [5]
    assert sum(small) == 200
    assert len(small) < 20
    assert await values(log) == [b"%d" % i for i in range(3 * BATCH_RECORDS + 5)]


async def test_what_was_acknowledged_is_on_disk_in_full_synchronous_mode(log: EmbeddedLog) -> None:
    await log.append("facts", [(b"k", b"v")], 0)
    db = connect(log.folder)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("SELECT next FROM heads WHERE partition = 0").fetchone() == (1,)
    db.close()


async def test_a_full_disk_refuses_with_a_word_leaves_no_half_record_and_recovers(log: EmbeddedLog) -> None:
    await log.append("facts", [(b"k", b"before")], 0)
    assert log._opened is not None
    writer = log._opened.writer._db
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(LogDown, match="takes no records"):
        await log.append("facts", [(b"k", b"x" * 100_000)] * 3, 0)
    assert await log.bounds("facts") == {0: (0, 1), 1: (0, 0)}
    writer.execute("PRAGMA max_page_count = 1000000")
    await log.append("facts", [(b"k", b"after")], 0)
    assert await values(log) == [b"before", b"after"]


async def test_flipped_bytes_are_found_by_their_checksum_and_stop_only_that_partition(log: EmbeddedLog, name: str, tmp_path: Path) -> None:
    for partition in (0, 1):
        for i in range(3):
            await log.append("facts", [(b"k", b"%d" % i)], partition)
    with sqlite3.connect(log.folder / FILE) as db:
        db.execute("UPDATE batches SET blob = zeroblob(length(blob)) WHERE partition = 0 AND first = 1")
    db.close()
    lanes = Lanes(tmp_path / "positions.json")
    async with running(make_app(f"orderflow-log://{log.folder}", name, lanes, ["facts"])):
        await lanes.until(lambda: TP("facts", 0) in lanes.wrong and lanes.count == 4)
    assert "checksum" in lanes.wrong[TP("facts", 0)]
    assert lanes.values(TP("facts", 0)) == [b"0"]
    with pytest.raises(LogMismatch, match="checksum"):
        await log.read("facts", 0, 1, 10)


async def test_retention_takes_whole_batches_by_age_and_never_the_newest(log: EmbeddedLog) -> None:
    await log.append("facts", [(b"k", b"old")] * 10, 0)
    clock_of(log).move_to(clock_of(log).now() + DAY_MS)
    await log.append("facts", [(b"k", b"younger")] * 10, 0)
    clock_of(log).move_to(clock_of(log).now() + DAY_MS + 1)
    await log.append("facts", [(b"k", b"new")], 1)
    assert await log.bounds("facts") == {0: (10, 20), 1: (0, 1)}
    clock_of(log).move_to(clock_of(log).now() + 30 * DAY_MS)
    await log.append("facts", [(b"k", b"newest")], 1)
    assert await log.bounds("facts") == {0: (10, 20), 1: (1, 2)}
    with pytest.raises(LogMismatch, match="expired"):
        await log.read("facts", 0, 3, 10)


async def test_retention_by_size_keeps_the_newest_batches(tmp_path: Path) -> None:
    clock = VirtualClock(1_700_000_000_000)
    log = EmbeddedLog(tmp_path / "log", clock, keep_bytes=250_000)
    await log.start()
    await log.create({"facts": 1})
    for _ in range(5):
        clock.move_to(clock.now() + 61_000)
        await log.append("facts", [(b"k", b"x" * 1000)] * 100, 0)
    assert await log.bounds("facts") == {0: (300, 500)}
    await log.close()


async def test_the_group_keeps_offsets_and_their_metadata(log: EmbeddedLog) -> None:
    await log.commit("g", {TP("facts", 0): (5, "store:1:5")})
    await log.commit("g", {TP("facts", 0): (7, "store:2:7"), TP("facts", 1): (1, "")})
    assert await log.committed("g") == {TP("facts", 0): (7, "store:2:7"), TP("facts", 1): (1, "")}
    assert await log.committed("another") == {}


async def test_unknown_topics_and_partitions_are_refused_and_harm_nobody_else(log: EmbeddedLog) -> None:
    good = log.append("facts", [(b"k", b"v")], 0)
    with pytest.raises(LogMismatch, match="no topic 'nonsense'"):
        await log.append("nonsense", [(b"k", b"v")])
    with pytest.raises(LogMismatch, match="2 partitions, there is no 2"):
        await log.append("facts", [(b"k", b"v")], 2)
    await good
    assert await values(log) == [b"v"]


async def test_a_topic_made_by_another_process_is_found(log: EmbeddedLog) -> None:
    other = EmbeddedLog(log.folder)
    await other.start()
    await other.create({"later": 3})
    await other.close()
    await log.append("later", [(b"k", b"v")])
    assert sum(end for _, end in (await log.bounds("later")).values()) == 1


async def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log")
    with pytest.raises(LogDown, match="not open"):
        await log.append("facts", [(b"k", b"v")])
    await log.start()
    await log.close()
    await log.close()
    with pytest.raises(LogDown, match="not open"):
        await log.bounds("facts")


def test_a_group_s_lock_is_shared_within_a_process_and_nowhere_else(tmp_path: Path) -> None:
    one, two = GroupLock(tmp_path, "g"), GroupLock(tmp_path, "g")
    one.take()
    two.take()
    one.release()
    code = (
        "import sys; from streams.sqlite_log import GroupLock; from pathlib import Path; GroupLock(Path(sys.argv[1]), sys.argv[2]).take()"
    )
    attempt: Any = [sys.executable, "-c", code, str(tmp_path), "g"]
    root = Path(__file__).parents[3]
    assert subprocess.run([*attempt[:-1], "g-archive"], cwd=root, timeout=60).returncode == 0, "another group is another reader"
    refused = subprocess.run(attempt, cwd=root, capture_output=True, text=True, timeout=60)
    assert LogTaken.__name__ in refused.stderr
    two.release()
    assert subprocess.run(attempt, cwd=root, timeout=60).returncode == 0


async def test_records_of_another_process_are_seen_within_milliseconds_and_waiting_costs_little(
    log: EmbeddedLog, name: str, tmp_path: Path
) -> None:
    """The reader polls a counter in shared memory: here we only look that it sees, and how often it looked."""
    lanes = Lanes(tmp_path / "positions.json")
    async with running(make_app(f"orderflow-log://{log.folder}", name, lanes, ["facts"])) as app:
        looked = 0
        eye = app.consumer._log.version

        def count() -> int:
            nonlocal looked
            looked += 1
            return int(eye())

        app.consumer._log.version = count
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(0.5)
        assert looked <= (loop.time() - began) * 300
        await log.append("facts", [(b"k", b"v")], 0)
        await lanes.until(lambda: lanes.count == 1)


pairs = st.lists(st.tuples(st.none() | st.binary(max_size=20), st.binary(max_size=50)), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), pairs), max_size=8), st.integers(0, 100), st.integers(1, 40))
def test_what_is_read_from_anywhere_is_what_was_appended(appends: list[tuple[int, Any]], start: int, limit: int) -> None:
    import tempfile

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = EmbeddedLog(folder)
            await log.start()
            await log.create({"facts": 2})
            expected: list[list[Any]] = [[], []]
            for partition, records in appends:
                await log.append("facts", records, partition)
                expected[partition] += records
            for partition in (0, 1):
                found = await log.read("facts", partition, start, limit)
                assert [(r.key, r.value) for r in found] == expected[partition][start : start + limit]
            await log.close()

    asyncio.run(main())
