"""How long from a fact's append to its committed status, at a steady pace, and how much of a core does the worker take?

The whole pipeline as in `pipeline.py`: real log, `appendfsync always`, Ray, all lanes, effects in observe; on Kafka with two
workers, one a core, on the embedded log with one. A feeder appends facts at their times (what is due
as soon as the append before is acknowledged; they are made before, so that making them costs nothing here). The log's timestamp
of a record is the time of its append; the worker looks at the clock when the commit of its turn was acknowledged by the store, for
each record of turns of up to 256, for larger ones at their ends: resolution 1 ms, on bins 2 % wide. The paces take turns, round by
round; what counts is the median over the rounds.

Not counted: a warm-up at the highest pace (the broker compiles its own code for the first half minute, on a quarter of a core)
and the first seconds of each pace.

    python bench/latency.py [--rates 2000,5000] [--seconds 20] [--warm-up 30] [--rounds 4] [--workers 2] [--log kafka|embedded] [--json]
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import wire
from bench.installation import KAFKA, Installation, Plan, installation, to_its_end, workers_of
from bench.machine import machine, speed, versions
from bench.pipeline import shop_of
from connectors.fake_shop import FakeShop
from meter import Latencies

TICK_S = 0.01
ORDERS_PER_FACT = 0.25  # a little more than needed: an order has four to five
SETTLE_S = 1.5  # the worker writes what it measured once a second
REST_S = 30.0
LEAD_S = 2.0  # of each pace, before it is measured


class Row(msgspec.Struct):
    rate: int  # wanted, facts per second
    appended: float  # facts per second, as it came out
    p50: float  # ms
    p95: float
    p99: float
    worst: float
    worker_cores: float
    other_cores: dict[str, float]
    feeder_wait_p99: float  # ms that what was due waited for its append, not counted above: the feeder's own delay
    facts: int


class _Record(NamedTuple):
    topic: str
    key: bytes
    value: bytes


def _records(shop: FakeShop, orders: int) -> Iterator[_Record]:
    for topic, key, value in shop.stream_bytes(orders):
        if topic != "customers":
            yield _Record(topic, key, value)


class _Feeder:
    """Appends what is due, one append under way at a time: what falls due meanwhile goes with the next."""

    def __init__(self, its: Installation, records: Iterator[_Record]) -> None:
        self._its, self._records = its, records
        self.waits: list[float] = []  # of the oldest record of each append, from when it was due, seconds

    async def pace(self, rate: int, seconds: float) -> int:
        """`rate` facts a second for so long; returns how many. Raises LogDown."""
        loop = asyncio.get_running_loop()
        began, sent, total = loop.time(), 0, int(rate * seconds)
        appending: asyncio.Future[Any] = loop.create_future()
        appending.set_result(None)
        self.waits = []
        while sent < total:
            now = loop.time()
            due = min(total, int((now - began) * rate))
            if due > sent and appending.done():
                appending.result()
                self.waits.append(now - began - sent / rate)
                batches: dict[str, list[tuple[bytes | None, bytes]]] = {}
                while sent < due:
                    record = next(self._records)
                    batches.setdefault(record.topic, []).append((record.key, record.value))
                    sent += record.topic == "facts"
                appending = asyncio.gather(*(self._its.log.append(topic, batch) for topic, batch in batches.items()))
            await asyncio.sleep(TICK_S)
        await appending
        return sent


async def measure(plan: Plan, rates: list[int], seconds: float, warm_up: float, rounds: int, seed: int) -> list[Row]:
    """One installation, one pace after another. Raises wire.Failed."""
    rows: list[Row] = []
    async with installation(plan) as its:
        facts = max(rates) * warm_up + rounds * sum(rates) * (seconds + LEAD_S)
        orders = int(facts * ORDERS_PER_FACT * 1.05) + 1000
        shop = shop_of(orders, seed, int(time.time() * 1000))
        feeder = _Feeder(its, iter(list(itertools.islice(_records(shop, orders), int(facts * 1.1) + 1000))))
        await its.start_workers()
        await feeder.pace(max(rates), warm_up)
        for rate in rates * rounds:
            await feeder.pace(rate, LEAD_S)
            await _rested(its)
            before, used = its.latencies(), await asyncio.to_thread(its.usages)
            began = time.monotonic()
            sent = await feeder.pace(rate, seconds)
            took = time.monotonic() - began
            after = await asyncio.to_thread(its.usages)
            await _rested(its)
            measured = Latencies.between(before, its.latencies())
            cores = {name: round((after[name].cpu_s - used[name].cpu_s) / took, 3) for name in after}
            p50, p95, p99, worst = (round(measured.quantile(q) * 1000, 1) for q in (0.5, 0.95, 0.99, 1.0))
            worker = cores.pop("worker")
            wait = round(statistics.quantiles(feeder.waits, n=100)[-1] * 1000, 1)
            rows.append(Row(rate, round(sent / took, 1), p50, p95, p99, worst, worker, cores, wait, measured.count))
    return rows


async def _rested(its: Installation) -> None:
    """Every fact is committed and the worker has written what it measured."""
    for _ in range(int(REST_S / 0.1)):
        its.check()
        if (await its.offsets(["orders"]))["orders"] >= (await its.ends())["orders"]:
            await asyncio.sleep(SETTLE_S)
            return
        await asyncio.sleep(0.1)
    raise wire.Failed("the worker does not keep up with this pace:\n" + its.last_words())


def report(plan: Plan, rows: list[Row], console: Console) -> None:
    say = console.print
    say(f"\n{machine()}\n{speed()}\n{versions()}", highlight=False)
    say(
        f"log {plan.log}, {plan.partitions} partitions, {'with' if plan.archive else 'without'} archive, {plan.workers} worker(s)\n",
        highlight=False,
    )
    head: tuple[str, ...] = ("facts/s", "p50, ms", "p95, ms", "p99, ms", "worst, ms", "feeder p99, ms", "worker, cores")
    head += tuple(f"{name}, cores" for name in rows[0].other_cores)
    say("| " + " | ".join(head) + " |\n|" + "---|" * len(head), highlight=False)
    for row in rows:
        cells = (f"{row.appended:,.0f}", row.p50, row.p95, row.p99, row.worst, row.feeder_wait_p99, row.worker_cores)
        say("| " + " | ".join(str(cell) for cell in (*cells, *row.other_cores.values())) + " |", highlight=False)
    for rate, median in medians(rows).items():
        say(f"\nmedian p99 at {rate:,}/s: {median} ms", highlight=False)


def medians(rows: list[Row]) -> dict[int, float]:
    """Median of the p99, ms, by rate."""
    return {rate: statistics.median(row.p99 for row in rows if row.rate == rate) for rate in dict.fromkeys(row.rate for row in rows)}


@click.command(help=__doc__)
@click.option("--rates", default="2000,5000", show_default=True, help="facts per second, one after another")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(1, 3600))
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1, 100))
@click.option("--warm-up", default=30.0, show_default=True, type=click.FloatRange(0, 600))
@click.option("--seed", default=7, show_default=True)
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option("--log", "log_", type=click.Choice(["kafka", "embedded"]), default="kafka", show_default=True)
@click.option("--kafka", type=click.Path(path_type=Path), default=KAFKA, help="folder with the script `kafka` and its libs")
@click.option("--workers", type=click.IntRange(1, 8), help="[default: 2, on the embedded log 1]")
@click.option("--archive/--no-archive", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="one object on the last line")
def main(
    rates: str,
    seconds: float,
    rounds: int,
    warm_up: float,
    seed: int,
    partitions: int,
    log_: str,
    kafka: Path,
    workers: int | None,
    archive: bool,
    as_json: bool,
) -> None:
    plan = Plan(log=log_, kafka=kafka, partitions=partitions, workers=workers_of(log_, workers), archive=archive)
    try:
        rows = to_its_end(measure(plan, [int(rate) for rate in rates.split(",")], seconds, warm_up, rounds, seed))
    except wire.Failed as error:
        raise click.ClickException(str(error)) from None
    report(plan, rows, Console(soft_wrap=True))
    if as_json:
        found = {"p99_ms": medians(rows), "latency": msgspec.to_builtins(rows), "machine": machine(), "versions": versions()}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
