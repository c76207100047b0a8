"""What decides between an answer and its deadline; the rest of the handles is tested against a real Ray."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from actors.handles import Lost, _expire


async def test_an_answer_that_came_while_the_loop_was_busy_is_not_late() -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply: Future[Any] = Future()
    reply.set_result(b"scores")
    _expire(answer, reply)
    assert not answer.done()  # the reply's own callback brings it


async def test_without_an_answer_the_deadline_ends_the_wait() -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    _expire(answer, Future())
    assert isinstance(answer.result(), Lost)
