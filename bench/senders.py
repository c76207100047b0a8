"""What does one stalled provider do to the other channels, and a minute in which nothing can leave to the whole?

The demo's installation on embedded defaults, everything live against stand-ins without faults. Orders are placed at a steady rate;
after `--before` seconds the named channels' providers take nothing and do not answer for `--stalled` seconds, then they are well
again. A message's time runs from when the journal says that it became wanted to when its provider took it; it counts in the phase
in which it became wanted. At the end everything has left that is still wanted, once.

    python bench/senders.py                                      # e-mail stalls for 30 s: SMS and push go on as before
    python bench/senders.py --channels email,sms,push --stalled 60    # nothing leaves: memory stays bounded, nothing is lost
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import demo
import wire
from bench.installation import samples, to_its_end
from bench.machine import machine, usage, versions
from connectors.fake_shop import FakeShop
from meter import Latencies
from settings import Settings
from streams.clock import WallClock
from streams.transport import Log

PHASES = ("before", "stalled", "after")
STALL = {"hang": 1.0}  # takes nothing, never answers
REST_S = 180.0  # after the last order: what is still on its way by then is said to be


class Row(msgspec.Struct):
    """One channel in one phase."""

    channel: str
    phase: str
    messages: int
    p50_ms: float
    p99_ms: float
    deepest_queue: int  # claims handed to the sender and not yet answered


class Found(msgspec.Struct):
    rows: list[Row]
    worker_rss_mb: dict[str, int]  # the highest by phase
    held_s: dict[str, float]  # backpressure by stage, all phases
    duplicates: int
    unknown: int
    left_over: int  # facts that were not done at the end
    orders: int


class Watch:
    """Once a second: how deep the senders' queues are, how much memory the worker takes, how long stages were held back."""

    def __init__(self, worker: int, port: int) -> None:
        self._worker, self._port = worker, port
        self.phase = PHASES[0]
        self.deepest: Counter[tuple[str, str]] = Counter()
        self.rss: Counter[str] = Counter()
        self.held: dict[str, float] = {}

    async def run(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                self.rss[self.phase] = max(self.rss[self.phase], usage(self._worker).rss)
                for sample in await samples(client, self._port):
                    if sample.name == "orderflow_sender_queue_depth":
                        at = (sample.labels["channel"], self.phase)
                        self.deepest[at] = max(self.deepest[at], int(sample.value))
                    elif sample.name == "orderflow_backpressure_seconds_total":
                        self.held[sample.labels["stage"]] = sample.value
                await asyncio.sleep(1)


async def measure(rate: float, before: float, stalled: float, after: float, channels: list[str], seed: int) -> Found:
    """Raises wire.Failed."""
    seconds = before + stalled + after
    orders = int(rate * seconds)
    with tempfile.TemporaryDirectory(prefix="orderflow-senders-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), demo.free_port()
        options = demo.Options(orders, seconds, seed, folder, port, faults=False, stay=False, console=False)
        stopping: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        async with demo.installation(folder, port, options, os.environ, stopping) as (settings, store, log):
            hook = f"http://127.0.0.1:{json.loads((folder / 'stand_ins.json').read_text())['http']}"
            shop = FakeShop.demo(seed, orders, seconds, WallClock().now())
            feeding = asyncio.create_task(demo.Feed(shop, orders, 0, f"http://127.0.0.1:{port}", hook, log, faults=False).run())
            watch = Watch(*_worker(folder))
            watching = asyncio.create_task(watch.run())
            starts: dict[str, int] = {}
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    for phase, takes, faults in zip(PHASES, (before, stalled, after), ({}, STALL, {}), strict=True):
                        for channel in channels:
                            answer = await client.post(f"{hook}/faults", json={"channel": channel, "faults": faults})
                            answer.raise_for_status()
                        watch.phase, starts[phase] = phase, WallClock().now()
                        await asyncio.sleep(takes)
                await feeding
                picture = await _rest(settings, store, log)
            finally:
                for task in (feeding, watching):
                    task.cancel()
                await asyncio.wait([feeding, watching])
            rows = await _rows(folder, log, starts, watch.deepest)
    return Found(
        rows=rows,
        worker_rss_mb={phase: round(watch.rss[phase] / 2**20) for phase in PHASES},
        held_s=watch.held,
        duplicates=picture.duplicates,
        unknown=picture.tags.get("unknown", 0),
        left_over=picture.behind,
        orders=orders,
    )


def _worker(folder: Path) -> tuple[int, int]:
    """PID and port of the worker, as it names its own files and says in its log."""
    (stats,) = folder.glob("stats-*.json")
    lines = (folder / "roles.log").read_text(errors="replace").splitlines()
    (said,) = [json.loads(line) for line in lines if '"worker runs"' in line]
    return int(stats.stem.rpartition("-")[2]), int(said["port"])


async def _rest(settings: Settings, store: Any, log: Log) -> demo.Picture:
    """Once nothing arrives or leaves any more for five seconds."""
    until, quiet = time.monotonic() + REST_S, 0
    picture = await demo.look(settings, store, log)
    while quiet < 5 and time.monotonic() < until:
        await asyncio.sleep(1)
        now = await demo.look(settings, store, log)
        quiet = quiet + 1 if now.behind == 0 and now.messages == picture.messages else 0
        picture = now
    return picture


async def _rows(folder: Path, log: Log, starts: dict[str, int], deepest: Counter[tuple[str, str]]) -> list[Row]:
    wanted: dict[str, int] = {}
    for partition, (first, _) in (await log.bounds("journal")).items():
        for record in await log.read("journal", partition, first, 10_000_000):
            for of_order in msgspec.json.decode(record.value)["entries"]:  # type: ignore[attr-defined]
                for entry in of_order.get("entries", ()):
                    if entry["type"] == "Offered" and entry["action"].startswith("notify."):
                        wanted.setdefault(entry["id"], entry["at"])
    times = {(channel, phase): Latencies() for channel in sorted(demo.MESSAGES) for phase in PHASES}
    for line in (folder / "received.jsonl").read_bytes().splitlines():
        row = msgspec.json.decode(line)
        at = wanted.get(row["effect"])
        if at is not None and (row["channel"], PHASES[0]) in times and at >= starts[PHASES[0]]:
            phase = max((phase for phase in PHASES if starts[phase] <= at), key=PHASES.index)
            times[row["channel"], phase].add((row["at"] - at) / 1000)
    return [
        Row(channel, phase, its.count, round(its.quantile(0.5) * 1000, 1), round(its.quantile(0.99) * 1000, 1), deepest[channel, phase])
        for (channel, phase), its in times.items()
    ]


def report(found: Found, channels: list[str], console: Console) -> None:
    say = console.print
    say(f"\n{machine()}\n{versions()}\n{found.orders:,} orders; stalled: {', '.join(channels)}\n", highlight=False)
    say("| channel | wanted | messages | p50, ms | p99, ms | deepest queue |\n|" + "---|" * 6, highlight=False)
    for row in found.rows:
        say(f"| {row.channel} | {row.phase} | {row.messages:,} | {row.p50_ms} | {row.p99_ms} | {row.deepest_queue} |", highlight=False)
    rss = ", ".join(f"{phase} {size:,} MB" for phase, size in found.worker_rss_mb.items())
    held = ", ".join(f"{stage} {seconds:g} s" for stage, seconds in sorted(found.held_s.items())) or "nothing"
    say(f"\nworker's memory: {rss}; held back: {held}", highlight=False)
    say(f"doubled: {found.duplicates}; unknown: {found.unknown}; facts not done: {found.left_over}", highlight=False)


@click.command(help=__doc__)
@click.option("--rate", default=10.0, show_default=True, type=click.FloatRange(0.1, 200), help="orders placed per second")
@click.option("--before", default=30.0, show_default=True, type=click.FloatRange(1, 3600))
@click.option("--stalled", default=30.0, show_default=True, type=click.FloatRange(1, 3600))
@click.option("--after", default=30.0, show_default=True, type=click.FloatRange(1, 3600))
@click.option("--channels", default="email", show_default=True, help="whose provider stalls: of email, sms, push")
@click.option("--seed", default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="one object on the last line")
def main(rate: float, before: float, stalled: float, after: float, channels: str, seed: int, as_json: bool) -> None:
    names = channels.split(",")
    if unknown := set(names) - demo.MESSAGES:
        raise click.UsageError(f"--channels: {min(unknown)!r} is none of {', '.join(sorted(demo.MESSAGES))}")
    try:
        found = to_its_end(measure(rate, before, stalled, after, names, seed))
    except wire.Failed as error:
        raise click.ClickException(str(error)) from None
    report(found, names, Console(soft_wrap=True))
    if as_json:
        print(json.dumps({**msgspec.to_builtins(found), "machine": machine(), "versions": versions()}))
    if found.duplicates or found.left_over:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
