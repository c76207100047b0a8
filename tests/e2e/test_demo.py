"""The whole installation as a visitor starts it: processes, sockets, kills and stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import demo
import settings as settings_module
import wire
from actors.ray_local import assert_loopback, listening_sockets, process_tree
from connectors.fake_shop import FakeShop
from connectors.stand_ins import Faults, StandIns, settings_for
from meter import read_stats
from orders.fact import Fact, encode_fact
from streams.clock import WallClock
from streams.recovery import refold

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, str(ROOT / "run.py")]
FIELDS = {
    *("orders", "orders_by_status", "facts_in", "done", "parked", "waiting", "messages", "effects", "duplicate_messages", "unknown"),
    *("scores", "fallback_scores", "facts_per_second", "latency_ms"),
}


@contextlib.asynccontextmanager
async def started(*arguments: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of ours; nothing that it started outlives the block."""
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    with (folder / "stderr.log").open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(*RUN, *arguments, cwd=folder, stdin=none, stdout=pipe, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            family = process_tree(process.pid)
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 35)
            except TimeoutError:
                for pid in family:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await process.wait()


async def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := true()):
            await asyncio.sleep(0.1)
    return found


def role(root: int, name: str) -> int | None:
    """The process of one role among those of a demo."""
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"run.py") for word in words) and name.encode() in words:
                return pid
    return None


def stats(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return read_stats(folder / "stats.json")
    return {}


async def result_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    out = await asyncio.wait_for(process.stdout.read(), 240)
    assert await process.wait() == 0
    found: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
    return found


def check(result: dict[str, Any]) -> None:
    assert not FIELDS - result.keys()
    assert result["done"] + result["parked"] + result["waiting"] == result["facts_in"]
    assert result["duplicate_messages"] == 0
    assert result["parked"] >= 3, "the demo feeds three records that nobody can read"
    assert sum(result["orders_by_status"].values()) == result["orders"]
    assert result["messages"]["email"] > 0 and result["scores"] > 0
    assert set(result["messages"]) <= {"email", "sms", "push"}, "what people got"
    assert result["effects"]["systems"] > 0, "the shop was told what became of its orders"
    assert set(result["latency_ms"]) == {"p50", "p95", "p99"} and result["latency_ms"]["p50"] > 0


async def test_a_demo_survives_the_kill_of_its_worker_and_goes_on_with_its_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments = ("--data", str(data), "--port", "0", "--json")

    async with started("demo", "--orders", "30", "--seconds", "8", *arguments, folder=tmp_path) as process:
        await until(lambda: stats(data).get("ready"))
        assert_loopback(process.pid)
        assert len(listening_sockets(process.pid)) > 5, "gateway, worker, stand-ins and Ray listen"
        await until(lambda: len((data / "received.jsonl").read_bytes()) > 2000)
        worker = role(process.pid, "worker")
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        result = await result_of(process)
    check(result)
    assert result["orders"] == 30 and result["waiting"] == 0
    assert "role failed, starting it again" in (tmp_path / "stderr.log").read_text()
    facts = result["facts_in"]

    async with started("demo", "--orders", "10", "--seconds", "5", *arguments, folder=tmp_path) as process:
        result = await result_of(process)
    check(result)
    assert result["orders"] == 40 and result["facts_in"] > facts and result["waiting"] == 0
    assert role(os.getpid(), "worker") is None, "nothing of it is left"

    settings = settings_module.load(data / "orderflow.yaml")
    environment = {"ORDERFLOW_STAND_IN": "x", "ORDERFLOW_SIGNING": "x"}
    async with wire.store_of(settings) as store, wire.opened(wire.log_of(settings)) as log:
        for topic, make in wire.processors(settings, environment, {}).items():
            for standing in await store.standing(wire.lanes(settings, [wire.PROCESSOR_OF[topic]])):
                states = {key: blob async for key, blob in store.states(standing.lane)}
                folded = await refold(standing.lane, make(), log, until=standing.offset)
                assert folded == states, f"{standing.lane}: the states are not the fold of facts and journal"


def test_accounts_of_the_demo_do_what_its_world_leaves_to_us(tmp_path: Path) -> None:
    settings = settings_module.load(demo.configuration(tmp_path, 8080, {"http": 1, "smtp": 2}))
    served = wire.served(settings)
    assert {"payment.refund", "shop.fulfil", "shop.tag"} <= served.keys()
    assert "carrier.label" not in served, "the warehouse labels by itself: a parcel would have two"
    environment = {"ORDERFLOW_STAND_IN": "x", **{f"ORDERFLOW_{vendor.upper()}": "whsec_" + "A" * 32 for vendor in demo.SOURCES}}
    assert {client.account.source for client in wire.clients(settings, environment)} == set(demo.SOURCES.values()), "all can be asked"


async def test_a_worker_under_load_with_a_provider_that_hangs_drains_within_30_seconds(tmp_path: Path) -> None:
    stand_ins = StandIns(faults={"email": Faults(stall=0.5, hang=0.5)}, clock=WallClock().now)
    await stand_ins.start()
    channels = {"email": {"mode": "live", **settings_for(stand_ins.http_port, stand_ins.smtp_port)["email"]}}
    config = tmp_path / "orderflow.yaml"
    config.write_text(json.dumps({"data": str(tmp_path / "data"), "http": {"worker_port": 0}, "channels": channels}))
    settings = settings_module.load(config)
    try:
        async with wire.store_of(settings) as store, wire.opened(wire.log_of(settings)) as log:
            await wire.lay_out(settings, store, log)
            async with started("--config", str(config), "worker", folder=tmp_path) as process:
                shop = FakeShop(5, start_ms=WallClock().now() - 3_600_000, interval_ms=10)
                facts = [report.record for report in shop.reports(300) if isinstance(report.record, Fact)]
                loading = asyncio.create_task(_load(log, facts))
                await until(lambda: sum(stand_ins.tries["email"].values()) >= 3)
                asked = time.monotonic()
                process.terminate()
                code = await asyncio.wait_for(process.wait(), 60)
                took = time.monotonic() - asked
                loading.cancel()
                await asyncio.wait([loading])
            assert code == 0, (tmp_path / "stderr.log").read_text()[-3000:]
            assert took < 30
            assert "worker drains" in (tmp_path / "stderr.log").read_text()
            orders = await store.standing(wire.lanes(settings, ["orders"]))
            assert sum(standing.counts.get("accepted", 0) for standing in orders) == sum(standing.offset or 0 for standing in orders) > 0
    finally:
        await stand_ins.close()


async def _load(log: Any, facts: list[Fact]) -> None:
    """Goes on until it is cancelled; facts that come again are no news but work."""
    while True:
        for begin in range(0, len(facts), 50):
            await log.append("facts", [(fact.order.encode(), encode_fact(fact)) for fact in facts[begin : begin + 50]])
            await asyncio.sleep(0.05)


async def test_a_demo_that_is_stopped_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with started("demo", "--data", str(data), "--port", "0", "--json", folder=tmp_path) as process:
        worker = await until(lambda: role(process.pid, "worker"))
        family = process_tree(process.pid)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 1
    assert worker in family
    left = [pid for pid in family if Path(f"/proc/{pid}").exists() and b"run.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert left == []
    assert "did not come up" in (tmp_path / "stderr.log").read_text()


async def test_a_role_that_cannot_start_is_given_up_with_a_clear_word(tmp_path: Path) -> None:
    config = tmp_path / "orderflow.yaml"
    config.write_text("layout: {partitions: none}\n")
    async with started("--config", str(config), "serve", folder=tmp_path) as process:
        assert await asyncio.wait_for(process.wait(), 60) == 2
    said = (tmp_path / "stderr.log").read_text()
    assert "layout.partitions" in said and "Traceback" not in said


@pytest.mark.parametrize(("codes", "runs", "last"), [([70, 70, 0], 3, 0), ([2], 1, 2), ([70] * 20, 6, 70)])
async def test_a_failed_role_is_started_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, codes: list[int], runs: int, last: int
) -> None:
    class Process:
        def __init__(self, code: int) -> None:
            self.returncode = code

        async def wait(self) -> int:
            return self.returncode

    left, pauses = list(codes), list[float]()

    async def role(*arguments: Any, **more: Any) -> Process:
        return Process(left.pop(0))

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(wire, "role", role)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    running: dict[str, Any] = {}
    assert await wire.keep("worker", ["worker"], None, {}, running) == last
    assert len(codes) - len(left) == runs and running["worker"].returncode == last
    assert pauses == sorted(pauses) and all(0 < pause <= 30 for pause in pauses), "each pause is longer than the one before"
