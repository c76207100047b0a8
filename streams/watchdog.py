"""A worker that stands still is worse than one that is gone: the supervisor starts a new one, nobody wakes a sleeper.

Two eyes: a task on the loop looks at lanes and apps, a thread looks at the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

from streams.transport import TP

log = structlog.get_logger("watchdog")
EXIT_CODE = 70
UNPOSITIONED_S = 30.0
TURN_S = 60.0
LOOP_S = 60.0


class Watched(Protocol):
    """A worker, or the archive."""

    @property
    def unpositioned_since(self) -> Mapping[TP, float]: ...  # partitions that are ours and not read yet: loop time

    @property
    def lanes(self) -> Mapping[TP, Any]: ...


class Watchdog:
    """Ends the process when a turn, a partition without a position, or the event loop stands still for too long."""

    def __init__(
        self,
        worker: Watched,
        crashed: Callable[[], BaseException | None],
        *,
        unpositioned_s: float = UNPOSITIONED_S,
        turn_s: float = TURN_S,
        loop_s: float = LOOP_S,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._worker, self._crashed = worker, crashed
        self._unpositioned_s, self._turn_s, self._loop_s = unpositioned_s, turn_s, loop_s
        self._end = end or _end
        self._beat = time.monotonic()
        self._closed = threading.Event()

    def start(self) -> asyncio.Task[None]:
        threading.Thread(target=self._watch_loop, name="watchdog", daemon=True).start()
        return asyncio.create_task(self._watch_lanes(), name="watchdog")

    def close(self) -> None:
        self._closed.set()

    def loop_lag_s(self) -> float:
        """How long ago the loop last came round, beyond its one second."""
        return max(0.0, time.monotonic() - self._beat - 1.0)

    async def _watch_lanes(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed.is_set():
            self._beat = time.monotonic()
            now = loop.time()
            error = self._crashed()
            if error is not None:
                self._end(f"a stream app crashed: {type(error).__name__}")
            for tp, since in self._worker.unpositioned_since.items():
                if now - since > self._unpositioned_s:
                    self._end(f"{tp.topic}.{tp.partition} has had no position for {now - since:.0f} s")
            for lane in self._worker.lanes.values():
                if lane.turn_began is not None and now - lane.turn_began > self._turn_s:
                    self._end(f"lane {lane.id} has stood in one turn for {now - lane.turn_began:.0f} s")
            await asyncio.sleep(1.0)

    def _watch_loop(self) -> None:
        while not self._closed.wait(1.0):
            if time.monotonic() - self._beat > self._loop_s:
                self._end("the event loop stands still")


def _end(why: str) -> None:
    log.critical("worker ends itself", why=why)
    os._exit(EXIT_CODE)
