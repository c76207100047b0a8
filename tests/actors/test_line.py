"""The line by itself: frames of any size, an end that goes, a deadline, and nobody's answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.line import FRAME_MAX, SIZE, Line, listen

FOREVER_S = 300.0


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("line") / "s")


@given(st.lists(st.binary(max_size=300_000), max_size=5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_each_frame_gets_its_answer(path: str, frames: list[bytes]) -> None:
    listen(path, lambda frame: frame[::-1])

    async def talk() -> list[bytes]:
        line = await Line.to(path)
        found = [await line.ask(frame, FOREVER_S) for frame in frames]
        line.close()
        return found

    assert asyncio.run(talk()) == [frame[::-1] for frame in frames]


async def test_many_callers_are_answered_at_once_and_none_gets_another_s_answer(path: str) -> None:
    listen(path, lambda frame: frame * 2)
    lines = [await Line.to(path) for _ in range(8)]

    async def talk(number: int) -> None:
        for turn in range(50):
            said = f"{number}.{turn};".encode()
            assert await lines[number].ask(said, FOREVER_S) == said * 2

    await asyncio.gather(*(talk(number) for number in range(8)))
    for line in lines:
        line.close()


async def test_a_late_answer_is_nobody_s(path: str) -> None:
    going = threading.Event()

    def slow(frame: bytes) -> bytes:
        if frame == b"slow":
            going.wait(30)
        return frame

    listen(path, slow)
    line = await Line.to(path)
    with pytest.raises(TimeoutError, match="deadline"):
        await line.ask(b"slow", 0.02)
    assert line.lost and not line.busy
    going.set()
    with pytest.raises(ConnectionError):
        await line.ask(b"next", FOREVER_S)
    again = await Line.to(path)
    assert await again.ask(b"next", FOREVER_S) == b"next"
    again.close()


async def test_an_answer_that_came_while_the_loop_was_busy_is_not_late(path: str) -> None:
    answered = threading.Event()

    def answer(frame: bytes) -> bytes:
        threading.Timer(0.05, answered.set).start()  # the bytes have left long before
        return frame

    listen(path, answer)
    line = await Line.to(path)
    asking = asyncio.create_task(line.ask(b"rows", 0.001))
    await asyncio.sleep(0)
    answered.wait(30)  # holds the loop beyond the deadline
    assert await asking == b"rows"
    line.close()


async def test_whoever_is_cancelled_leaves_no_answer_behind(path: str) -> None:
    listen(path, lambda frame: frame)
    line = await Line.to(path)
    asking = asyncio.create_task(line.ask(b"one", FOREVER_S))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert line.lost


async def test_an_end_that_goes_is_told_at_once(path: str) -> None:
    with _ends(path) as server:
        line = await Line.to(path)
        told = asyncio.Event()
        line.died = told.set
        other, _ = server.accept()
        asking = asyncio.create_task(line.ask(b"rows", FOREVER_S))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(ConnectionError, match="died"):
            await asking
        await told.wait()
        assert line.lost


async def test_a_line_that_we_close_is_no_death(path: str) -> None:
    listen(path, lambda frame: frame)
    line = await Line.to(path)
    told: list[str] = []
    line.died = lambda: told.append("died")
    line.close()
    await asyncio.sleep(0.05)
    assert not told


async def test_a_frame_that_cannot_be_answered_ends_that_line_and_no_other(path: str) -> None:
    def answer(frame: bytes) -> bytes:
        if frame == b"bad":
            raise ValueError
        return frame

    listen(path, answer)
    good, bad = await Line.to(path), await Line.to(path)
    with pytest.raises(ConnectionError):
        await bad.ask(b"bad", FOREVER_S)
    assert await good.ask(b"good", FOREVER_S) == b"good"
    good.close()


def test_what_is_no_frame_of_ours_is_hung_up_on(path: str) -> None:
    listen(path, lambda frame: frame)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(path)
        stranger.sendall((FRAME_MAX + 1).to_bytes(SIZE))
        assert stranger.recv(1) == b""


async def test_a_path_that_a_killed_one_left_is_taken_over(path: str) -> None:
    Path(path).touch()
    listen(path, lambda frame: frame)
    line = await Line.to(path)
    assert await line.ask(b"rows", FOREVER_S) == b"rows"
    line.close()


@contextlib.contextmanager
def _ends(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        yield server
