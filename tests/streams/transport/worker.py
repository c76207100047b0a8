"""A worker process for the fault tests: `python worker.py URL GROUP STORE SESSION_TIMEOUT_S TOPIC...`

Its store is a SQLite file shared by all workers. As the product's store does, it takes a chunk only from the holder of
the partition's newest epoch and only where the last one ended; unlike a log it shows in `notes` what it had to refuse.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from streams.driver import check_start, reposition, trim
from streams.processor import Chunk
from streams.transport import TP
from tests.streams.transport.lanes import make_app

SCHEMA = """
CREATE TABLE IF NOT EXISTS positions (topic TEXT, partition INTEGER, epoch INTEGER, offset INTEGER, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS taken (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, partition INTEGER, offset INTEGER, value BLOB);
CREATE TABLE IF NOT EXISTS notes (pid INTEGER, what TEXT, detail TEXT);
"""


def open_store(path: str | Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")  # processes are killed here, not machines
    db.executescript(SCHEMA)
    return db


class StoreLanes:
    """`Assignments` over the shared store."""

    def __init__(self, store: str) -> None:
        self.db = open_store(store)
        self.held: dict[TP, tuple[int, int]] = {}  # epoch, next offset
        self.mine: frozenset[TP] = frozenset()
        self.acquiring: dict[TP, asyncio.Task[None]] = {}
        self.app = None

    def assigned(self, partitions: frozenset[TP]) -> None:
        self.mine = partitions
        for tp in partitions:
            self._acquire(tp, 0.02)

    async def revoked(self, partitions: frozenset[TP]) -> None:
        self.mine -= partitions
        for tp in partitions:
            if tp in self.acquiring:
                self.acquiring.pop(tp).cancel()
        await asyncio.sleep(0.05)  # lanes come to rest
        for tp in partitions:
            self.held.pop(tp, None)

    def position(self, tp: TP) -> int | None:
        return self.held[tp][1] if tp in self.held else None

    def room(self, tp: TP) -> bool:
        return True

    def next_reading(self, tp: TP, after: float) -> float:
        return 0.0

    def witness(self) -> Mapping[TP, tuple[int, str]]:
        return {tp: (offset, f"store:{epoch}:{offset}") for tp, (epoch, offset) in self.held.items()}

    def mismatch(self, tp: TP, why: str) -> None:
        self.note("mismatch", f"{tp}: {why}")

    def note(self, what: str, detail: str) -> None:
        self.db.execute("INSERT INTO notes VALUES (?, ?, ?)", (os.getpid(), what, detail))

    def _acquire(self, tp: TP, wait_s: float) -> None:
        if tp in self.acquiring:
            self.acquiring.pop(tp).cancel()
        self.held.pop(tp, None)
        self.acquiring[tp] = asyncio.create_task(self._take_token(tp, wait_s))

    async def _take_token(self, tp: TP, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT OR IGNORE INTO positions VALUES (?, ?, 0, 0)", tp)
        self.db.execute("UPDATE positions SET epoch = epoch + 1 WHERE topic = ? AND partition = ?", tp)
        self.held[tp] = self.db.execute("SELECT epoch, offset FROM positions WHERE topic = ? AND partition = ?", tp).fetchone()
        self.db.execute("COMMIT")
        reposition(self.app, tp)

    def take(self, chunk: Chunk) -> None:
        tp = TP(chunk.topic, chunk.partition)
        if tp not in self.held or tp not in self.mine:
            return
        epoch, position = self.held[tp]
        try:
            fresh = trim(chunk, position)
        except LookupError as error:
            self.note("gap", str(error))
            reposition(self.app, tp)
            return
        if fresh is None:
            return
        self.db.execute("BEGIN IMMEDIATE")
        if self.db.execute("SELECT epoch, offset FROM positions WHERE topic = ? AND partition = ?", tp).fetchone() != (epoch, position):
            self.db.execute("ROLLBACK")
            self.note("fenced", f"{tp} at {position}")
            self._acquire(tp, 1.5)  # if it was taken from us, the group tells us within this time
            return
        self.db.executemany(
            "INSERT INTO taken (topic, partition, offset, value) VALUES (?, ?, ?, ?)", [(*tp, r.offset, r.value) for r in fresh.records]
        )
        self.db.execute("UPDATE positions SET offset = ? WHERE topic = ? AND partition = ?", (fresh.next, *tp))
        self.db.execute("COMMIT")
        self.held[tp] = (epoch, fresh.next)


class Notes(logging.Handler):
    def __init__(self, lanes: StoreLanes) -> None:
        super().__init__(logging.WARNING)
        self.lanes = lanes

    def emit(self, record: logging.LogRecord) -> None:
        if "commit refused" in record.getMessage():
            self.lanes.note("refused", "")


async def main() -> None:
    url, group, store, session_timeout_s, *topics = sys.argv[1:]
    lanes = StoreLanes(store)
    logging.getLogger().addHandler(Notes(lanes))
    stop = asyncio.Event()
    app = make_app(url, group, lanes, topics, broker_session_timeout=float(session_timeout_s), broker_commit_interval=0.2)
    check_start(app)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await app.start()
    print("started", flush=True)
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        await asyncio.wait({stopping}, timeout=0.2)
        if app.crashed:
            os._exit(3)
    await app.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(name)s %(message)s")
    asyncio.run(main())
