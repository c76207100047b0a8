"""The watchdog ends what stands still, and lets alone what is only slow."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.transport import TP
from streams.watchdog import EXIT_CODE, Watchdog
from streams.worker import Worker


class Watched:
    """A worker as the watchdog sees it, and the words with which it was ended."""

    def __init__(self) -> None:
        self.unpositioned_since: dict[TP, float] = {}
        self.lanes: dict[TP, Any] = {}
        self.crash: BaseException | None = None
        self.said: list[str] = []
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def end(self, why: str) -> None:
        self.said.append(why)
        self._loop.call_soon_threadsafe(self.ended.set)

    async def word(self) -> str:
        async with asyncio.timeout(30):
            await self.ended.wait()
        return self.said[0]


@pytest.fixture
async def watched() -> Watched:
    return Watched()


Start = Callable[..., Watchdog]


@pytest.fixture
async def start(watched: Watched) -> AsyncIterator[Start]:
    started: list[tuple[Watchdog, asyncio.Task[None]]] = []

    def begin(**limits: float) -> Watchdog:
        watchdog = Watchdog(cast(Worker, watched), lambda: watched.crash, end=watched.end, **limits)
        started.append((watchdog, watchdog.start()))
        return watchdog

    yield begin
    for watchdog, task in started:
        watchdog.close()
        task.cancel()
        await asyncio.wait([task])


async def test_a_partition_without_a_position_for_too_long_ends_the_worker(watched: Watched, start: Start) -> None:
    watched.unpositioned_since[TP("facts", 3)] = asyncio.get_running_loop().time() - 31
    start()
    assert await watched.word() == "facts.3 has had no position for 31 s"


async def test_a_turn_that_stands_still_ends_the_worker(watched: Watched, start: Start) -> None:
    began = asyncio.get_running_loop().time() - 61
    watched.lanes[TP("facts", 0)] = SimpleNamespace(id="orders.0.0", turn_began=began)
    start()
    assert "lane orders.0.0 has stood in one turn for 61 s" in await watched.word()


async def test_a_crashed_app_ends_the_worker_without_its_words(watched: Watched, start: Start) -> None:
    watched.crash = ValueError("anna@example.invalid")
    start()
    word = await watched.word()
    assert "ValueError" in word and "anna" not in word


async def test_a_loop_that_stands_still_ends_the_worker_from_outside_of_it(watched: Watched, start: Start) -> None:
    start(loop_s=0.2)
    await asyncio.sleep(0)  # the first beat
    until = time.monotonic() + 20
    while not watched.said and time.monotonic() < until:
        time.sleep(0.05)  # the loop is blocked: only the thread can see it
    assert watched.said[0] == "the event loop stands still"


async def test_what_is_only_slow_is_let_alone(watched: Watched, start: Start) -> None:
    now = asyncio.get_running_loop().time()
    watched.unpositioned_since[TP("facts", 0)] = now - 20
    watched.lanes[TP("facts", 0)] = SimpleNamespace(id="orders.0.0", turn_began=now - 20)
    watched.lanes[TP("facts", 1)] = SimpleNamespace(id="orders.0.1", turn_began=None)
    watchdog = start()
    for _ in range(3):
        await asyncio.sleep(0.01)
    assert watched.said == [] and watchdog.loop_lag_s() < 20


def test_a_real_end_is_an_exit_code_that_the_supervisor_restarts() -> None:
    script = "from streams.watchdog import _end; _end('why')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_CODE != 0
    assert "worker ends itself" in done.stdout + done.stderr
