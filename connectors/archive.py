"""The archive: every record of the input topics and the journal, once, as Parquet files by topic and day.

    <folder>/data/<topic>/<day>/<partition>-<first offset>-<random>.parquet
    <folder>/manifest/<topic>/<partition>/<number>.json

The manifest with the greatest number is the truth about its partition: it names all files and the offset where to go on. A file
that it does not name does not exist. A manifest is created exclusively and complete, so of two writers one learns that it is not
the writer any more, and a crash leaves the archive as it was before the append or as it is after it, never between.

Calls block on the disk: from an event loop use a thread. One caller per partition at a time. Times are ms since 1970, UTC.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

KEPT_MANIFESTS = 3  # of each partition, when they are swept; a reader may still hold an older one
MANY_MANIFESTS = 64  # then they are swept: now and then many at once, as freeing blocks can hold up a disk's other writers
_SANE = range(946_684_800_000, 4_102_444_800_000)  # 2000 to 2100: a time outside opens no day of its own
_TOPIC = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
_DAY_MS = 86_400_000
_SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.large_binary(), nullable=False),
        pa.field("at", pa.timestamp("ms"), nullable=False),
        pa.field("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())])), nullable=False),
    ]
)


class ArchiveLost(Exception):
    """Another writer has appended to this partition: begin again from `next_offset`. Nothing of this append exists."""


class Archived(msgspec.Struct, frozen=True, gc=False):
    """One record as it was archived."""

    offset: int
    key: bytes | None
    value: bytes
    at: int  # ms, by the log
    headers: tuple[tuple[str, bytes], ...] = ()


class DayFile(msgspec.Struct, frozen=True):
    """One Parquet file: records of one partition with offsets from `first` to before `next`."""

    path: str  # below the archive's folder
    day: str  # of its first record
    first: int
    next: int
    records: int


class Manifest(msgspec.Struct, frozen=True):
    number: int
    next: int
    files: tuple[DayFile, ...]  # in the order of their offsets, without overlap
    v: int = 1


class Archive:
    def __init__(self, folder: Path, step: Callable[[str], None] = lambda name: None) -> None:
        """`step` is told before each step of an append, by name: where tests let it die."""
        self.folder = folder
        self._step = step

    def next_offset(self, tp: tuple[str, int]) -> int | None:
        """Where to go on; None for a partition that was never archived."""
        manifest = self.manifest(tp)
        return None if manifest is None else manifest.next

    def append(self, tp: tuple[str, int], records: Sequence[Any], next: int) -> None:
        """Adds records (.offset .key .value .at or .timestamp .headers) in the order of their offsets; `next` is where reading goes on.

        All on disk when it returns. Records below the partition's `next_offset` are there already and left out. Raises
        ArchiveLost, OSError.
        """
        former = self.manifest(tp)
        begin = 0 if former is None else former.next
        fresh = [record for record in records if record.offset >= begin]
        if next <= begin and former is not None:
            return
        files = tuple(self._write_file(tp, part, day) for day, part in _by_day(fresh))
        number = 1 if former is None else former.number + 1
        self._publish(tp, Manifest(number=number, next=next, files=(former.files if former else ()) + files))

    def compact(self, tp: tuple[str, int], before: str) -> int:
        """Joins the files of each day before `before` ("2026-11-23") into one; how many files were joined. Same errors as `append`.

        The old files go with the manifests that name them, so a reader at work goes on.
        """
        former = self.manifest(tp)
        if former is None:
            return 0
        files: list[DayFile] = []
        joined = 0
        for run in _runs(former.files):
            if len(run) == 1 or run[0].day >= before:
                files += run
                continue
            tables = (pq.read_table(self.folder / file.path, schema=_SCHEMA) for file in run)  # one at a time in memory
            files.append(self._write_tables(tp, tables, run[0].day, run[0].first, run[-1].next))
            joined += len(run)
        if joined:
            self._publish(tp, Manifest(number=former.number + 1, next=former.next, files=tuple(files)))
            self._sweep(tp)
        return joined

    def read(self, tp: tuple[str, int], start: int = 0) -> Iterator[list[Archived]]:
        """Each record from `start` on once, in the order of offsets, in lists of at most some thousands; as of one manifest."""
        manifest = self.manifest(tp)
        for file in manifest.files if manifest else ():
            if file.next <= start:
                continue
            with pq.ParquetFile(self.folder / file.path) as parquet:
                for batch in parquet.iter_batches(8192, columns=["offset", "key", "value", "at", "headers"]):
                    whole_ms = batch.set_column(3, "at", batch.column("at").cast(pa.int64()))  # not every ms fits into a datetime
                    rows = zip(*(column.to_pylist() for column in whole_ms.columns), strict=True)
                    records = [
                        Archived(offset, key, value, at, tuple((h["name"], h["value"]) for h in headers))
                        for offset, key, value, at, headers in rows
                        if offset >= start
                    ]
                    if records:
                        yield records

    def partitions(self) -> list[tuple[str, int]]:
        """Every topic and partition that was ever archived."""
        found = (path for path in (self.folder / "manifest").glob("*/*") if path.name.isdigit())
        return sorted((path.parent.name, int(path.name)) for path in found)

    def files(self, topic: str, day: str | None = None) -> list[Path]:
        """The Parquet files of a topic, or of one of its days ("2026-11-23", by the log's time of a file's first record)."""
        manifests = (self.manifest(tp) for tp in self.partitions() if tp[0] == topic)
        return [self.folder / file.path for m in manifests if m for file in m.files if day in (None, file.day)]

    def sql(self, topic: str, day: str | None = None) -> str:
        """A query for DuckDB that gives each record once, to be put into brackets. Its words "at" and "offset" need quotes there."""
        paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in self.files(topic, day))
        if paths:
            return f"SELECT * FROM read_parquet([{paths}], hive_partitioning = false)"  # noqa: S608 - paths of our own making, quoted
        types = {"partition": "INTEGER", "offset": "BIGINT", "key": "BLOB", "value": "BLOB", "at": "TIMESTAMP"}
        columns = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in types.items())
        return f'SELECT NULL::VARCHAR AS topic, {columns}, NULL::STRUCT("name" VARCHAR, "value" BLOB)[] AS headers LIMIT 0'

    def manifest(self, tp: tuple[str, int]) -> Manifest | None:
        """What exists of this partition. Raises ValueError for a manifest that cannot be read: it is never skipped."""
        folder = self._manifests(tp)
        while numbers := _numbers(folder):
            try:
                return msgspec.json.decode((folder / f"{numbers[-1]:08d}.json").read_bytes(), type=Manifest)
            except FileNotFoundError:
                continue  # swept away between the look and the read: there is a newer one
            except msgspec.DecodeError as error:
                raise ValueError(f"manifest {numbers[-1]} of {tp[0]}.{tp[1]} cannot be read: {error}") from None
        return None

    def _manifests(self, tp: tuple[str, int]) -> Path:
        if not _TOPIC.fullmatch(tp[0]):
            raise ValueError("not a topic's name")
        return self.folder / "manifest" / tp[0] / str(tp[1])

    def _write_file(self, tp: tuple[str, int], records: Sequence[Any], day: str) -> DayFile:
        time = "at" if hasattr(records[0], "at") else "timestamp"  # a transport's own records say timestamp
        columns = [
            pa.array([tp[0]] * len(records), pa.string()),
            pa.array([tp[1]] * len(records), pa.int32()),
            pa.array([r.offset for r in records], pa.int64()),
            pa.array([r.key for r in records], pa.binary()),
            pa.array([r.value or b"" for r in records], pa.large_binary()),
            pa.array([getattr(r, time) for r in records], pa.timestamp("ms")),
            pa.array(
                [[{"name": n, "value": v} for n, v in r.headers] if r.headers else [] for r in records], _SCHEMA.field("headers").type
            ),
        ]
        table = pa.Table.from_arrays(columns, schema=_SCHEMA)
        return self._write_tables(tp, (table,), day, records[0].offset, records[-1].offset + 1)

    def _write_tables(self, tp: tuple[str, int], tables: Iterable[Any], day: str, first: int, next_offset: int) -> DayFile:
        path = Path("data", tp[0], day, f"{tp[1]}-{first}-{os.urandom(6).hex()}.parquet")
        _make_folder(self.folder / path.parent)
        self._step("write")
        unfinished = (self.folder / path).with_suffix(".tmp")
        with open(unfinished, "xb") as file:
            records = 0
            with pq.ParquetWriter(file, _SCHEMA, compression="zstd", use_dictionary=["topic", "partition"]) as writer:
                for table in tables:
                    writer.write_table(table)
                    records += len(table)
            self._step("sync")
            file.flush()
            os.fsync(file.fileno())
        self._step("rename")
        unfinished.rename(self.folder / path)
        _sync_folder((self.folder / path).parent)
        return DayFile(path=str(path), day=day, first=first, next=next_offset, records=records)

    def _publish(self, tp: tuple[str, int], manifest: Manifest) -> None:
        """The moment at which the files begin to exist."""
        folder = self._manifests(tp)
        _make_folder(folder)
        unfinished = folder / f"{os.urandom(6).hex()}.tmp"
        self._step("write manifest")
        with open(unfinished, "xb") as file:
            file.write(msgspec.json.encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        self._step("link manifest")
        try:
            os.link(unfinished, folder / f"{manifest.number:08d}.json")
        except FileExistsError:
            raise ArchiveLost(f"{tp[0]}.{tp[1]}: manifest {manifest.number} is another writer's") from None
        finally:
            unfinished.unlink()
        self._step("sync manifest")
        _sync_folder(folder)
        if _numbers(folder)[-1] != manifest.number:  # the name was free because it had been swept away long ago
            raise ArchiveLost(f"{tp[0]}.{tp[1]}: manifest {manifest.number} is older than another writer's")
        self._step("sweep manifests")
        if len(_numbers(folder)) > MANY_MANIFESTS:
            _sweep_manifests(folder)

    def _sweep(self, tp: tuple[str, int]) -> None:
        """Removes files of this partition that none of the kept manifests names: compacted ones, and those of a killed append."""
        folder = self._manifests(tp)
        _sweep_manifests(folder)
        named: set[Path] = set()
        for number in _numbers(folder):
            kept = msgspec.json.decode((folder / f"{number:08d}.json").read_bytes(), type=Manifest)
            named |= {self.folder / file.path for file in kept.files}
        for path in (self.folder / "data" / tp[0]).glob(f"*/{tp[1]}-*"):
            if path not in named:
                path.unlink()
        for path in folder.glob("*.tmp"):
            path.unlink()


def _by_day(records: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Cuts where a new day begins. Offsets are the log's order, so a record of an earlier day stays with its neighbours."""
    if not records:
        return
    time = "at" if hasattr(records[0], "at") else "timestamp"
    begin, day = 0, 0
    for position, record in enumerate(records):
        at = getattr(record, time)
        if at // _DAY_MS > day and at in _SANE:
            if day:
                yield _name(day), records[begin:position]
                begin = position
            day = at // _DAY_MS
    yield _name(day), records[begin:]


def _name(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).date().isoformat()


def _runs(files: Sequence[DayFile]) -> Iterator[list[DayFile]]:
    """Neighbours of one day."""
    run: list[DayFile] = []
    for file in files:
        if run and run[0].day != file.day:
            yield run
            run = []
        run.append(file)
    if run:
        yield run


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.json")) if folder.is_dir() else []


def _sweep_manifests(folder: Path) -> None:
    for number in _numbers(folder)[:-KEPT_MANIFESTS]:
        (folder / f"{number:08d}.json").unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """With its parents, each durable in its own parent."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
