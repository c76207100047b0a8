"""The simplest worker there can be: lanes that keep what they are handed, and positions in a file."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust

from streams.driver import ChunkSchema, reposition, trim, worker_conf
from streams.processor import Chunk
from streams.transport import TP

Body = Callable[["Lanes", Chunk], Awaitable[None]]


class Lanes:
    """`Assignments`. What it takes in it has: the position in the file moves with it, as a lane's does in its store."""

    def __init__(self, file: Path, start: int | None = 0) -> None:
        self.file, self.start = file, start
        self.taken: dict[TP, list[Any]] = defaultdict(list)
        self.handed: list[tuple[TP, int, int]] = []  # every chunk as it came: partition, first, next
        self.positions: dict[TP, int] = {}
        self.mine: frozenset[TP] = frozenset()
        self.full: set[TP] = set()  # no room
        self.pace = 0.0  # seconds between two readings of a partition
        self.wrong: dict[TP, str] = {}  # mismatches
        self.gaps = 0
        self.assignments: list[frozenset[TP]] = []
        self.revocations: list[frozenset[TP]] = []
        self.app: faust.App | None = None
        self._changed = asyncio.Event()
        if file.exists():
            self.positions = {TP(topic, partition): offset for topic, partition, offset in json.loads(file.read_text())}

    # --- Assignments
    def assigned(self, partitions: frozenset[TP]) -> None:
        self.mine = partitions
        self.assignments.append(partitions)
        if self.start is not None:
            for tp in partitions:
                self.positions.setdefault(tp, self.start)
        self._changed.set()

    async def revoked(self, partitions: frozenset[TP]) -> None:
        self.revocations.append(partitions)
        self.mine -= partitions

    def position(self, tp: TP) -> int | None:
        return self.positions.get(tp) if tp in self.mine else None

    def room(self, tp: TP) -> bool:
        return tp not in self.full

    def next_reading(self, tp: TP, after: float) -> float:
        return after + self.pace if self.pace else 0.0

    def witness(self) -> Mapping[TP, tuple[int, str]]:
        return {tp: (offset, f"store:1:{offset}") for tp, offset in self.positions.items()}

    def mismatch(self, tp: TP, why: str) -> None:
        self.wrong[tp] = why
        self._changed.set()

    # --- the agents
    def take(self, chunk: Chunk) -> None:
        tp = TP(chunk.topic, chunk.partition)
        self.handed.append((tp, chunk.first, chunk.next))
        if tp not in self.mine:
            return
        try:
            fresh = trim(chunk, self.positions[tp])
        except LookupError:
            self.gaps += 1
            assert self.app is not None
            reposition(self.app, tp)
            return
        if fresh is not None:
            self.taken[tp].extend((r.offset, r.key, r.value) for r in fresh.records)
            self.positions[tp] = fresh.next
            self.file.write_text(json.dumps([[*tp, offset] for tp, offset in self.positions.items()]))
        self._changed.set()

    def values(self, tp: TP) -> list[bytes]:
        return [value for _, _, value in self.taken[tp]]

    @property
    def count(self) -> int:
        return sum(map(len, self.taken.values()))

    async def until(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def make_app(url: str, group: str, lanes: Lanes, topics: Iterable[str], body: Body | None = None, **conf: Any) -> faust.App:
    """One agent per topic that moves chunks to their lanes; `body` may misbehave before that."""
    app = faust.App(group, broker=url, **{**worker_conf(session_timeout_s=1.0), **conf})
    app.assignments = lanes
    lanes.app = app
    for name in topics:
        _agent(app, name, lanes, body)
    return app


@asynccontextmanager
async def running(app: faust.App) -> AsyncIterator[faust.App]:
    """Stopped whatever happens: pending services of Faust swallow the cancellation at a test's end."""
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def _agent(app: faust.App, name: str, lanes: Lanes, body: Body | None) -> None:
    @app.agent(app.topic(name, schema=ChunkSchema(), acks=False), name=f"move-{name}")
    async def move(stream: faust.StreamT[Chunk]) -> None:
        async for chunk in stream:
            if body is not None:
                await body(lanes, chunk)
            lanes.take(chunk)
