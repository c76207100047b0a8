"""The archive: each record once, whatever dies when, readable by anybody who reads Parquet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.archive import Archive, Archived, ArchiveLost

ROOT = Path(__file__).parents[2]
TP = ("facts", 3)
DAY = 86_400_000
MONDAY = 1_795_392_000_000  # 2026-11-23
STEPS = ["write", "sync", "rename", "write manifest", "link manifest", "sync manifest", "sweep manifests"]


def records(first: int, next_offset: int, at: int = MONDAY) -> list[Archived]:
    return [Archived(n, b"key-%d" % n, b"value-%d" % n, at + n, (("source", b"shop"),)) for n in range(first, next_offset)]


def read(archive: Archive, start: int = 0, tp: tuple[str, int] = TP) -> list[Archived]:
    return [record for batch in archive.read(tp, start) for record in batch]


def test_what_was_appended_is_read_back_in_order_and_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    assert archive.next_offset(TP) is None
    assert read(archive) == []
    archive.append(TP, records(5, 20), 20)
    archive.append(TP, records(20, 30), 32)  # the log has a gap there
    archive.append(TP, records(32, 40), 40)
    assert read(Archive(tmp_path)) == records(5, 30) + records(32, 40)
    assert read(archive, 25) == records(25, 30) + records(32, 40)
    assert Archive(tmp_path).next_offset(TP) == 40


def test_keys_values_and_headers_come_back_as_they_were(tmp_path: Path) -> None:
    odd = [Archived(0, None, b"", MONDAY), Archived(1, b"\x00\xff", b"\xff" * 5000, MONDAY, (("a", b""), ("a", b"\x00")))]
    archive = Archive(tmp_path)
    archive.append(TP, odd, 2)
    assert read(archive) == odd


def test_records_of_a_transport_that_says_timestamp_are_taken_too(tmp_path: Path) -> None:
    class Consumed(NamedTuple):
        offset: int
        key: bytes | None
        value: bytes | None
        timestamp: int
        headers: Any

    archive = Archive(tmp_path)
    archive.append(TP, [Consumed(0, b"k", None, MONDAY, [])], 1)
    assert read(archive) == [Archived(0, b"k", b"", MONDAY)]


def test_what_is_appended_again_is_not_there_twice(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append(TP, records(0, 20), 20)
    archive.append(TP, records(0, 20), 20)
    archive.append(TP, records(10, 30), 30)
    archive.append(TP, records(0, 5), 5)
    assert read(archive) == records(0, 30)
    assert archive.next_offset(TP) == 30


def test_partitions_and_topics_stay_apart(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append(("facts", 0), records(0, 5), 5)
    archive.append(("facts", 11), records(7, 9), 9)
    archive.append(("journal", 0), records(1, 2), 2)
    assert archive.partitions() == [("facts", 0), ("facts", 11), ("journal", 0)]
    assert read(archive, tp=("facts", 11)) == records(7, 9)
    assert len(archive.files("facts")) == 2


def test_a_new_day_begins_a_new_file_and_late_records_stay_with_their_neighbours(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    days = [0, 0, 1, 0, 1, 2]
    appended = [Archived(n, None, b"v", MONDAY + day * DAY) for n, day in enumerate(days)]
    archive.append(TP, appended, len(days))
    assert read(archive) == appended
    manifest = archive.manifest(TP)
    assert manifest is not None
    assert [(file.day, file.first, file.next) for file in manifest.files] == [
        ("2026-11-23", 0, 2),
        ("2026-11-24", 2, 5),
        ("2026-11-25", 5, 6),
    ]
    assert [path.parent.name for path in archive.files("facts", "2026-11-24")] == ["2026-11-24"]


@pytest.mark.parametrize("at", [-(2**62), -1, 0, 2**62])
def test_a_time_that_cannot_be_opens_no_day_of_its_own(tmp_path: Path, at: int) -> None:
    archive = Archive(tmp_path)
    appended = [Archived(0, None, b"v", MONDAY), Archived(1, None, b"v", at), Archived(2, None, b"v", MONDAY)]
    archive.append(TP, appended, 3)
    archive.append(TP, [Archived(3, None, b"v", at)], 4)
    assert read(archive)[:3] == appended
    assert {path.parent.name for path in archive.files("facts")} == {"2026-11-23", "1970-01-01"}


def test_duckdb_reads_each_record_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "it's here")
    archive.append(("facts", 0), records(0, 100), 100)
    archive.append(("facts", 1), records(0, 50, MONDAY + DAY), 50)
    (archive.folder / "data" / "facts" / "2026-11-23" / "0-100-dead.parquet").write_bytes(b"of a killed append")
    found = duckdb.sql(
        f'SELECT partition, count(*), min("offset"), max("offset"), min(strftime("at", \'%Y-%m-%d\')), any_value(headers[1].value)'
        f" FROM ({archive.sql('facts')}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert found == [(0, 100, 0, 99, "2026-11-23", b"shop"), (1, 50, 0, 49, "2026-11-24", b"shop")]
    assert duckdb.sql(archive.sql("facts", "2026-11-24")).fetchall()[0][:4] == ("facts", 1, 0, b"key-0")
    assert duckdb.sql(archive.sql("nothing")).columns == duckdb.sql(archive.sql("facts")).columns
    assert duckdb.sql(archive.sql("nothing")).fetchall() == []


def test_of_two_writers_one_learns_that_it_is_not_the_writer(tmp_path: Path) -> None:
    other = Archive(tmp_path)

    def overtake(step: str) -> None:
        if step == "link manifest":
            other.append(TP, records(10, 20), 20)

    Archive(tmp_path).append(TP, records(0, 10), 10)
    with pytest.raises(ArchiveLost):
        Archive(tmp_path, overtake).append(TP, records(10, 15), 15)
    assert read(other) == records(0, 20)


def test_a_writer_that_slept_long_cannot_use_a_number_that_was_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.archive.MANY_MANIFESTS", 3)
    other = Archive(tmp_path)

    def sleep(step: str) -> None:
        if step == "link manifest":
            for first in range(10, 100, 10):
                other.append(TP, records(first, first + 10), first + 10)

    other.append(TP, records(0, 10), 10)
    with pytest.raises(ArchiveLost):
        Archive(tmp_path, sleep).append(TP, records(10, 15), 15)
    assert read(other) == records(0, 100)
    other.append(TP, records(100, 101), 101)
    assert read(other) == records(0, 101)


DYING = """
import os, signal, sys
from pathlib import Path
from connectors.archive import Archive, Archived

def step(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

records = [Archived(n, b"key-%d" % n, b"value-%d" % n, 1795392000000 + n, (("source", b"shop"),)) for n in range(10, 20)]
archive = Archive(Path(sys.argv[1]), step)
if sys.argv[3] == "append":
    archive.append(("facts", 3), records, 20)
else:
    archive.compact(("facts", 3), "2030-01-01")
"""


def die(folder: Path, step: str, work: str) -> None:
    process = subprocess.run([sys.executable, "-c", DYING, str(folder), step, work], cwd=ROOT, check=False)
    assert process.returncode == -9


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_an_append_is_whole_or_was_not(tmp_path: Path, step: str) -> None:
    archive = Archive(tmp_path)
    archive.append(TP, records(0, 10), 10)
    die(tmp_path, step, "append")
    done = archive.next_offset(TP) == 20
    assert done == (step in ("sync manifest", "sweep manifests"))
    assert read(archive) == records(0, 20 if done else 10)
    archive.append(TP, records(10, 25), 25)
    assert read(archive) == records(0, 25)
    assert duckdb.sql(f"SELECT count(*) FROM ({archive.sql('facts')})").fetchall() == [(25,)]


@pytest.mark.parametrize("step", ["sync", "link manifest", "sync manifest"])
def test_killed_at_any_step_a_compaction_changes_nothing_that_is_read(tmp_path: Path, step: str) -> None:
    archive = Archive(tmp_path)
    for first in range(0, 50, 10):
        archive.append(TP, records(first, first + 10), first + 10)
    die(tmp_path, step, "compact")
    assert read(archive) == records(0, 50)
    archive.append(TP, records(50, 60), 60)
    archive.compact(TP, "2030-01-01")
    assert read(archive) == records(0, 60)
    assert len(archive.files("facts")) == 1


def test_finished_days_become_one_file_each_and_a_reader_at_work_goes_on(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for number in range(12):
        archive.append(TP, records(number * 10, number * 10 + 10, MONDAY + number // 4 * DAY), number * 10 + 10)
    expected = read(archive)
    reading = archive.read(TP)
    begun = next(reading)
    assert archive.compact(TP, "2026-11-25") == 8
    assert begun + [record for batch in reading for record in batch] == expected
    assert read(archive) == expected
    manifest = archive.manifest(TP)
    assert manifest is not None
    assert [(file.day, file.first, file.next) for file in manifest.files[:2]] == [("2026-11-23", 0, 40), ("2026-11-24", 40, 80)]
    assert len(manifest.files) == 6
    assert archive.compact(TP, "2026-11-25") == 0
    archive.append(TP, records(120, 121, MONDAY + 2 * DAY), 121)
    archive.append(TP, records(121, 122, MONDAY + 2 * DAY), 122)
    assert archive.compact(TP, "2026-11-26") == 6
    on_disk = set((tmp_path / "data").rglob("*.parquet"))
    assert set(archive.files("facts")) <= on_disk
    assert len(on_disk) <= 3 + 6  # what the last manifests name; the rest is gone


def test_a_manifest_that_cannot_be_read_stops_and_is_not_skipped(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.append(TP, records(0, 10), 10)
    archive.append(TP, records(10, 20), 20)
    (tmp_path / "manifest" / "facts" / "3" / "00000002.json").write_bytes(b"{torn")
    with pytest.raises(ValueError, match=r"manifest 2 of facts\.3"):
        archive.next_offset(TP)


def test_old_manifests_go_many_at_once_and_the_folder_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.archive.MANY_MANIFESTS", 8)
    archive = Archive(tmp_path)
    left = []
    for number in range(20):
        archive.append(TP, records(number, number + 1), number + 1)
        left.append(len(list((tmp_path / "manifest" / "facts" / "3").iterdir())))
    assert left[:9] == [*range(1, 9), 3] and max(left) == 8
    assert read(archive) == records(0, 20)


@pytest.mark.parametrize("topic", ["../facts", "a/b", "", "Facts", "."])
def test_a_topic_is_never_a_path(tmp_path: Path, topic: str) -> None:
    with pytest.raises(ValueError, match="not a topic"):
        Archive(tmp_path).append((topic, 0), records(0, 1), 1)
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_can_read_the_archive(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.append(TP, records(0, 1), 1)
    assert archive.folder.stat().st_mode & 0o077 == 0


@settings(max_examples=25, deadline=None)
@given(ats=st.lists(st.integers(MONDAY - 3 * DAY, MONDAY + 3 * DAY), min_size=1, max_size=30), data=st.data())
def test_any_cutting_and_repetition_reads_the_same(tmp_path_factory: pytest.TempPathFactory, ats: list[int], data: st.DataObject) -> None:
    archive = Archive(tmp_path_factory.mktemp("archive"))
    log = [Archived(offset, b"k", b"%d" % offset, at) for offset, at in enumerate(ats)]
    while (position := archive.next_offset(TP) or 0) < len(log):
        first = data.draw(st.integers(0, position))
        next_offset = data.draw(st.integers(position + 1, len(log)))
        archive.append(TP, log[first:next_offset], next_offset)
        if data.draw(st.booleans()):
            archive.compact(TP, "2026-11-24")
    assert read(archive) == log
    start = data.draw(st.integers(0, len(log)))
    assert read(archive, start) == log[start:]
