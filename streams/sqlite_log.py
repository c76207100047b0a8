"""The embedded log: topics and partitions in one SQLite file, with Kafka's meaning of offset, group and retention.

Any number of processes append, of each group one process reads and commits (`GroupLock`). What is appended is on disk before
`append` returns: WAL with synchronous=FULL, and one thread that gathers what waits into one transaction, so that one
fsync serves many. Records lie in batches, one row each, with a checksum.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import msgspec

from streams.clock import Clock, WallClock
from streams.partition import split
from streams.processor import Chunk, Record
from streams.transport import TP, LogDown, LogMismatch

FILE = "log.sqlite"
BATCH_RECORDS = 1024  # a row never holds more, so that a chunk never needs a part of a big one
BATCH_BYTES = 1 << 20
GROUP_BYTES = 8 << 20  # one transaction gathers at most so much
BUSY_MS = 10_000
SWEEP_EVERY_MS = 60_000  # retention
SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL, partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS heads (
  topic INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
  topic INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
  at INTEGER NOT NULL, crc INTEGER NOT NULL, blob BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS batches_by_offset ON batches (topic, partition, first);
CREATE TABLE IF NOT EXISTS offsets (
  grp TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, metadata TEXT NOT NULL,
  PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
"""

P = ParamSpec("P")
T = TypeVar("T")
Pair = tuple[bytes | None, bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes | None]).decode  # key, value, key, value, ...


class Head(NamedTuple):
    """One partition: its topic's ID, the first offset still kept and the next to be written."""

    id: str
    first: int
    next: int


class LogTaken(Exception):
    """Another worker process reads this log already."""


class Damaged(LogMismatch):
    """A batch does not have the checksum it was written with."""


class _Topic(NamedTuple):
    number: int
    id: str
    partitions: int


class _Append(NamedTuple):
    parts: dict[int, list[Pair]]
    size: int
    topic: int
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


def connect(folder: Path) -> sqlite3.Connection:
    """Opens the log of a folder, making it if need be. Durable on commit; usable from any one thread at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(folder / FILE, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    with locked(folder):
        db.execute("PRAGMA page_size = 16384")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise LogDown(f"{folder} cannot hold a write-ahead log (a network file system?)")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'offsets'").fetchone():
            db.executescript(SCHEMA)
    db.execute("PRAGMA synchronous = FULL")  # NORMAL loses acknowledged records when the power goes
    db.execute("PRAGMA wal_autocheckpoint = 2048")  # pages: 32 MiB
    db.execute("PRAGMA mmap_size = 268435456")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")  # a deferred one that upgrades fails at once with SQLITE_BUSY_SNAPSHOT
    try:
        yield
    except BaseException:
        if db.in_transaction:  # some errors (a full disk) have rolled back already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time over all processes, woken in turn: SQLite's own waiting polls with growing pauses."""
    with open(folder / "writer.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class GroupLock:
    """Held by the one process that reads a folder for a group; shared by the apps inside that process; gone when the process is."""

    _held: dict[Path, tuple[int, int]] = {}  # file -> its descriptor, how many times taken
    _guard = threading.Lock()

    def __init__(self, folder: Path, group: str) -> None:
        self._file = folder.resolve() / f"{group}.lock"

    def take(self) -> None:
        """Raises LogTaken, naming the process that has it."""
        with self._guard:
            fd, count = self._held.get(self._file, (-1, 0))
            if not count:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                fd = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
                    os.close(fd)
                    raise LogTaken(
                        f"the embedded log in {self._file.parent} is read by another worker (process {owner}) of the group "
                        f"{self._file.stem}; it serves one, use Kafka for more, or stop the other one"
                    ) from None
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
            self._held[self._file] = (fd, count + 1)

    def release(self) -> None:
        with self._guard:
            fd, count = self._held.pop(self._file)
            if count > 1:
                self._held[self._file] = (fd, count - 1)
            else:
                os.close(fd)


class Desk:
    """All but appending: reading, topics, the groups' offsets. Blocking, one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db = connect(folder)
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        self._db.close()

    def heads(self) -> dict[TP, Head]:
        found: dict[TP, Head] = {}
        self._numbers = {}
        sql = "SELECT name, id, number, partition, first, next FROM heads JOIN topics ON number = topic"
        for name, id_, number, partition, first, next_ in self._db.execute(sql):
            found[TP(name, partition)] = Head(id_, first, next_)
            self._numbers[name] = number
        return found

    def read(self, tp: TP, start: int, limit: int, max_bytes: int = BATCH_BYTES) -> tuple[list[Record], int]:
        """Up to `limit` records from `start` on, whole batches of about `max_bytes`, and where reading goes on.

        Raises Damaged for a batch whose checksum is wrong, LogMismatch for a position that has expired.
        """
        number = self._number(tp.topic)
        rows = self._db.execute(
            "SELECT first, count, at, crc, blob FROM batches WHERE topic = ?1 AND partition = ?2 AND first >= "
            "coalesce((SELECT max(first) FROM batches WHERE topic = ?1 AND partition = ?2 AND first <= ?3), 0) ORDER BY first",
            (number, tp.partition, start),
        )
        records: list[Record] = []
        size, at_offset = 0, start
        for first, count, at, crc, blob in rows:
            if first > at_offset:  # batches have no holes between them
                raise LogMismatch(f"position {start} has expired, the log goes on at {first}")
            fresh = first + count - max(first, start)
            if fresh <= 0:
                continue
            if records and (len(records) + fresh > limit or size + len(blob) > max_bytes):
                break
            if zlib.crc32(blob) != crc:
                if records:
                    break  # hand over what is sound; the next call stops here
                raise Damaged(f"batch at offset {first} has a wrong checksum")
            flat = iter(_decode(blob))
            offsets = range(first, first + count)
            records += [Record(o, key, value or b"", at) for o, key, value in zip(offsets, flat, flat, strict=False)]
            size += len(blob)
            at_offset = first + count
        rows.close()
        if records and records[0].offset < start:
            del records[: start - records[0].offset]
        if len(records) > limit:
            del records[limit:]
            at_offset = records[-1].offset + 1
        return records, at_offset

    def committed(self, group: str) -> dict[TP, tuple[int, str]]:
        sql = "SELECT topic, partition, offset, metadata FROM offsets WHERE grp = ?"
        return {TP(topic, partition): (offset, metadata) for topic, partition, offset, metadata in self._db.execute(sql, (group,))}

    def commit(self, group: str, offsets: Mapping[TP, tuple[int, str]]) -> None:
        rows = [(group, topic, partition, offset, metadata) for (topic, partition), (offset, metadata) in offsets.items()]
        with locked(self._folder), transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?, ?)", rows)

    def create(self, topics: Mapping[str, int]) -> None:
        with locked(self._folder), transaction(self._db):
            known = dict(self._db.execute("SELECT name, partitions FROM topics").fetchall())
            for name, partitions in topics.items():
                if known.get(name, partitions) != partitions:
                    raise LogMismatch(
                        f"topic {name!r} has {known[name]} partitions, not {partitions}: a layout is never changed under data"
                    )
                if name not in known:
                    values = (name, uuid.uuid4().hex, partitions)
                    number = self._db.execute("INSERT INTO topics (name, id, partitions) VALUES (?, ?, ?)", values).lastrowid
                    self._db.executemany("INSERT INTO heads VALUES (?, ?, 0, 0)", [(number, p) for p in range(partitions)])

    def topics(self) -> dict[str, _Topic]:
        rows = self._db.execute("SELECT name, number, id, partitions FROM topics")
        return {name: _Topic(number, id_, partitions) for name, number, id_, partitions in rows}

    def _number(self, topic: str) -> int:
        if topic not in self._numbers:
            self.heads()
        try:
            return self._numbers[topic]
        except KeyError:
            raise LogMismatch(_no_topic(topic)) from None


class Writer:
    """The one thread of a process that appends. Everything else waits for it."""

    def __init__(self, folder: Path, clock: Clock, keep_ms: int, keep_bytes: int) -> None:
        self._folder, self._clock = folder, clock
        self._keep_ms, self._keep_bytes = keep_ms, keep_bytes
        self._swept_at = 0
        self._db = connect(folder)
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, append: _Append) -> None:
        self._queue.put(append)

    def close(self) -> None:
        """What was put before is written first."""
        self._queue.put(None)
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        open_ = True
        while open_:
            first = self._queue.get()
            if first is None:
                return
            group, size = [first], first.size
            while size < GROUP_BYTES:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    open_ = False
                    break
                group.append(more)
                size += more.size
            error: Exception | None = None
            try:
                self._write(group)
            except (sqlite3.Error, OSError) as caught:
                error = LogDown(f"the embedded log takes no records: {caught}")
                error.__cause__ = caught
            except Exception as caught:  # noqa: BLE001  a bug must reach whoever waits, not kill the thread in silence
                error = caught
            _answer(group, error)

    def _write(self, group: Sequence[_Append]) -> None:
        merged: dict[tuple[int, int], list[Pair]] = {}
        for append in group:
            for partition, pairs in append.parts.items():
                waiting = merged.get((append.topic, partition))
                if waiting is None:
                    merged[append.topic, partition] = pairs
                else:
                    merged[append.topic, partition] = waiting + pairs
        batches = {tp: [(len(part), _encode(list(chain.from_iterable(part)))) for part in _cut(pairs)] for tp, pairs in merged.items()}
        with locked(self._folder):
            now = self._clock.now()  # inside: no batch is older than the one before it, short of a clock set back
            with transaction(self._db):
                for (topic, partition), blobs in batches.items():
                    self._insert(topic, partition, blobs, now)
            if now - self._swept_at >= SWEEP_EVERY_MS:
                self._swept_at = now
                self._sweep(now)

    def _insert(self, number: int, partition: int, blobs: Sequence[tuple[int, bytes]], now: int) -> None:
        (offset,) = self._db.execute("SELECT next FROM heads WHERE topic = ? AND partition = ?", (number, partition)).fetchone()
        rows = []
        for count, blob in blobs:
            rows.append((number, partition, offset, count, now, zlib.crc32(blob), blob))
            offset += count
        self._db.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._db.execute("UPDATE heads SET next = ? WHERE topic = ? AND partition = ?", (offset, number, partition))

    def _sweep(self, now: int) -> None:
        """Retention by age and, per partition, by size: whole batches from the front, never the newest one."""
        with transaction(self._db):
            for number, partition, next_ in self._db.execute("SELECT topic, partition, next FROM heads").fetchall():
                first = self._first_to_keep(number, partition, next_, now)
                gone = self._db.execute("DELETE FROM batches WHERE topic = ? AND partition = ? AND first < ?", (number, partition, first))
                if gone.rowcount > 0:
                    self._db.execute("UPDATE heads SET first = ? WHERE topic = ? AND partition = ?", (first, number, partition))
        self._db.execute("PRAGMA incremental_vacuum(4096)").fetchall()

    def _first_to_keep(self, number: int, partition: int, next_: int, now: int) -> int:
        kept, size = next_, 0
        sql = "SELECT first, at, length(blob) FROM batches WHERE topic = ? AND partition = ? ORDER BY first DESC"
        for first, at, length in self._db.execute(sql, (number, partition)):
            size += length
            if kept < next_ and (at < now - self._keep_ms or (self._keep_bytes and size > self._keep_bytes)):
                break
            kept = first
        return kept


def _cut(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Parts of at most BATCH_RECORDS and about BATCH_BYTES."""
    start, size = 0, 0
    for i, (key, value) in enumerate(pairs):
        length = len(value) + len(key or b"")
        if i > start and (i - start >= BATCH_RECORDS or size + length > BATCH_BYTES):
            yield pairs[start:i]
            start, size = i, 0
        size += length
    yield pairs[start:]


def _answer(group: Sequence[_Append], error: Exception | None) -> None:
    """One call per event loop wakes all who wait there."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for append in group:
        by_loop.setdefault(append.loop, []).append(append.done)
    for loop, futures in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, futures, error)


def _settle(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


class _Opened(NamedTuple):
    writer: Writer
    desk: Desk
    eye: sqlite3.Connection  # only ever asked whether somebody has written, on the event loop
    thread: ThreadPoolExecutor


class EmbeddedLog:
    """`streams.transport.Log` over a folder."""

    def __init__(self, folder: str | Path, clock: Clock | None = None, keep_ms: int = 7 * 86_400_000, keep_bytes: int = 0) -> None:
        """`keep_ms`, `keep_bytes`: retention, by age and per partition (0: no bound). Opens nothing."""
        self.folder = Path(folder)
        self._clock, self._keep_ms, self._keep_bytes = clock or WallClock(), keep_ms, keep_bytes
        self._opened: _Opened | None = None
        self._topics: dict[str, _Topic] = {}
        self._turn = 0

    async def start(self) -> None:
        """Raises LogDown when the folder cannot hold a log."""
        if self._opened is not None:
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="log-desk")
        try:
            self._opened = await asyncio.get_running_loop().run_in_executor(thread, self._open, thread)
        except (sqlite3.Error, OSError) as error:
            thread.shutdown(wait=False)
            raise LogDown(f"the embedded log in {self.folder} cannot be opened: {error}") from error
        self._topics = await self._call(self._opened.desk.topics)

    async def close(self) -> None:
        """What was appended before is written first."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await asyncio.get_running_loop().run_in_executor(opened.thread, _close, opened)
            opened.thread.shutdown(wait=False)

    async def append(self, topic: str, records: Sequence[Pair], partition: int | None = None) -> None:
        """Raises LogDown; LogMismatch for an unknown topic or partition."""
        if not records:
            return
        known = self._topics.get(topic)
        if known is None:
            self._topics = await self._call(self._open_now.desk.topics)  # another process may have made it
            known = self._topics.get(topic)
        if known is None:
            raise LogMismatch(_no_topic(topic))
        if partition is None:
            self._turn += 1
            parts = split(records, known.partitions, self._turn)
        elif 0 <= partition < known.partitions:
            parts = {partition: list(records)}
        else:
            raise LogMismatch(f"topic {topic!r} has {known.partitions} partitions, there is no {partition}")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._open_now.writer.put(_Append(parts, sum([len(value) for _, value in records]), known.number, loop, done))
        await done

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {tp.partition: (head.first, head.next) for tp, head in (await self.heads()).items() if tp.topic == topic}

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Record]:
        """Raises LogMismatch for an unknown topic, an expired position or a damaged batch."""
        return await self._call(_read, self._open_now.desk, TP(topic, partition), start, limit)

    async def create(self, topics: Mapping[str, int]) -> None:
        """Raises LogMismatch when one exists with another count."""
        await self._call(self._open_now.desk.create, topics)
        self._topics = await self._call(self._open_now.desk.topics)

    async def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        known = await self._call(self._open_now.desk.topics)
        return {topic: known[topic].id for topic in topics if topic in known}

    # --- for the driver
    async def heads(self) -> dict[TP, Head]:
        return await self._call(self._open_now.desk.heads)

    def version(self) -> int:
        """A number that changes when somebody has written. A few microseconds, no reading of the disk."""
        return int(self._open_now.eye.execute("PRAGMA data_version").fetchone()[0])

    async def read_chunks(self, want: Mapping[TP, int], limit: int) -> tuple[list[Chunk], dict[TP, str]]:
        """At most one chunk per partition, and for those that cannot be read, why."""
        return await self._call(_read_chunks, self._open_now.desk, want, limit)

    async def commit(self, group: str, offsets: Mapping[TP, tuple[int, str]]) -> None:
        await self._call(self._open_now.desk.commit, group, offsets)

    async def committed(self, group: str) -> dict[TP, tuple[int, str]]:
        return await self._call(self._open_now.desk.committed, group)

    # ---
    @property
    def _open_now(self) -> _Opened:
        if self._opened is None:
            raise LogDown("the embedded log is not open")
        return self._opened

    def _open(self, thread: ThreadPoolExecutor) -> _Opened:
        desk, eye = Desk(self.folder), connect(self.folder)
        return _Opened(Writer(self.folder, self._clock, self._keep_ms, self._keep_bytes), desk, eye, thread)

    async def _call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """On the desk's thread. What SQLite cannot do now it may do later."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._open_now.thread, partial(function, *args, **kwargs))
        except sqlite3.Error as error:
            raise LogDown(f"the embedded log does not answer: {error}") from error


def _close(opened: _Opened) -> None:
    opened.writer.close()
    opened.desk.close()
    opened.eye.close()


def _no_topic(topic: str) -> str:
    return f"the log has no topic {topic!r}: `run.py init` makes the topics"


def _read(desk: Desk, tp: TP, start: int, limit: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < limit:
        more, start = desk.read(tp, start, limit - len(records))
        if not more:
            break
        records += more
    return records


def _read_chunks(desk: Desk, want: Mapping[TP, int], limit: int) -> tuple[list[Chunk], dict[TP, str]]:
    chunks: list[Chunk] = []
    failed: dict[TP, str] = {}
    for tp, start in want.items():
        try:
            records, next_ = desk.read(tp, start, limit)
        except LogMismatch as error:
            failed[tp] = str(error)
            continue
        if records:
            chunks.append(Chunk(tp.topic, tp.partition, start, next_, records))
    return chunks, failed
