"""What ends a role before it is asked to stop is its exit code, and the first of it is what is told."""

from __future__ import annotations

import asyncio
from typing import Any

import wire


class App:
    crashed = True
    crash_reason = ValueError("the app's own")


async def test_a_task_that_failed_ends_the_role_with_its_error() -> None:
    async def fails() -> None:
        raise KeyError

    crash, app = wire.Crash(), App()
    app_: Any = app
    assert crash.code("worker ends") == 0
    assert crash.of(app_) is App.crash_reason
    task = asyncio.create_task(fails())
    waits = asyncio.create_task(asyncio.sleep(60))
    await asyncio.wait([task])
    crash.of_tasks([waits, task])
    waits.cancel()
    assert crash.happened.is_set()
    assert isinstance(crash.of(app_), KeyError)
    crash(OSError())
    assert isinstance(crash.of(app_), KeyError), "the first is told"
    assert crash.code("worker ends") == 70
