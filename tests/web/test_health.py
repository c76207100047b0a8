"""Alive, ready, draining: told from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from metrics import Metrics
from web.health import Health, HealthServer
from web.identity import only


class Process:
    def __init__(self) -> None:
        self.why: list[str] = []
        self.degraded: list[str] = []
        self.metrics = Metrics()
        self.health = Health(self.metrics, lambda: self.why, lambda: self.degraded, stuck_s=0.6)
        self.server = HealthServer(self.health, 0)

    def get(self, path: str) -> httpx.Response:
        """Blocking, for use from a thread while the loop cannot answer anything."""
        return httpx.get(f"http://127.0.0.1:{self.server.port}{path}", timeout=5)

    async def ask(self, path: str) -> httpx.Response:
        return await asyncio.to_thread(self.get, path)

    async def seen(self) -> None:
        """Until the loop has looked at what the test changed."""
        before = self.health._last_beat
        async with asyncio.timeout(5):
            while self.health._last_beat == before:
                await asyncio.sleep(0.01)


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    made = Process()
    made.server.start()
    made.health.start()
    yield made
    await made.health.close()
    made.server.close()


async def test_not_ready_says_why_until_nothing_is_missing(process: Process) -> None:
    process.why = ["partition facts/3 is not acquired"]
    await process.seen()
    answer = await process.ask("/readyz")
    assert answer.status_code == 503 and answer.json()["why"] == process.why
    process.why = []
    await process.seen()
    assert (await process.ask("/readyz")).json() == {"ready": True, "why": [], "degraded": []}


async def test_degraded_is_ready_and_says_so(process: Process) -> None:
    process.degraded = ["Ray is absent: scoring in this process"]
    await process.seen()
    answer = await process.ask("/readyz")
    assert answer.status_code == 200 and answer.json()["degraded"] == process.degraded
    assert "orderflow_degradation_level 1.0" in (await process.ask("/metrics")).text


async def test_draining_is_not_ready_at_once_and_still_alive(process: Process) -> None:
    assert (await process.ask("/readyz")).status_code == 200
    process.health.drain()
    assert (await process.ask("/readyz")).json()["why"] == ["draining"]
    assert (await process.ask("/healthz")).status_code == 200


async def test_metrics_show_readiness_as_it_is_now(process: Process) -> None:
    assert "orderflow_ready 1.0" in (await process.ask("/metrics")).text
    process.why = ["no"]
    await process.seen()
    answer = await process.ask("/metrics")
    assert "orderflow_ready 0.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_a_stuck_loop_is_told_while_it_is_stuck_and_forgiven_when_it_moves(process: Process) -> None:
    assert (await process.ask("/healthz")).status_code == 200
    told: list[int] = []
    freed = threading.Event()

    def ask_until_told() -> None:
        for _ in range(200):
            told.append(process.get("/healthz").status_code)
            if told[-1] == 503:
                break
        told.append(process.get("/readyz").status_code)
        freed.set()

    thread = threading.Thread(target=ask_until_told)
    thread.start()
    freed.wait(20)  # this blocks the loop: nothing else runs on it until the thread has seen a 503
    thread.join()
    assert told[-2:] == [503, 503]
    async with asyncio.timeout(5):
        while (await process.ask("/healthz")).status_code != 200:
            await asyncio.sleep(0.01)


async def test_a_process_that_has_not_started_is_not_ready() -> None:
    assert Health(Metrics()).readiness()[1]["why"] == ["starting"]


async def test_nothing_else_is_served(process: Process) -> None:
    assert (await process.ask("/")).status_code == 404
    assert (await process.ask("/metrics?x=1")).status_code == 200


async def test_it_listens_on_loopback_and_a_taken_port_is_an_error(process: Process) -> None:
    with pytest.raises(OSError, match="in use"):
        HealthServer(process.health, process.server.port).start()


async def test_with_a_token_metrics_ask_for_it_and_probes_do_not(process: Process) -> None:
    with pytest.raises(ValueError, match="token"):
        HealthServer(process.health, 0, "0.0.0.0")
    server = HealthServer(process.health, 0, people=only("s3cret"))
    server.start()
    url = f"http://127.0.0.1:{server.port}"
    assert (await asyncio.to_thread(httpx.get, f"{url}/healthz")).status_code == 200
    assert (await asyncio.to_thread(httpx.get, f"{url}/metrics")).status_code == 401
    shown = {"authorization": "Bearer s3cret"}
    assert (await asyncio.to_thread(httpx.get, f"{url}/metrics", headers=shown)).status_code == 200
    server.close()
