"""How many facts a second does the whole pipeline carry on this machine, and what does each part of it cost?

Everything is real and in processes of its own: log (Kafka, or embedded), store with `appendfsync always`, Ray with one scorer,
worker(s) with all five processors; every fact is merged, scored where it changes what is known, decided,
planned and committed durably. Effects stay in observe: decided and recorded, nothing leaves. The log is loaded before the
workers start, so that the feeder costs nothing while they run; time counts from the moment all are ready, and for what they
had not done by then. At the end every order is there, done + parked is what was appended, and a sample's statuses are those
the generator knows to be true. The archive reads the same log behind all this, in a process of its own and in its own time; on two
cores it takes from what the others have, so `--archive` measures it with them.

    python bench/pipeline.py [--orders 100000] [--workers 2] [--partitions 4] [--log kafka|embedded] [--runs 1] [--archive] [--json]

`--orders 1000000` is the form with about 5 million facts.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import wire
from bench.installation import KAFKA, Installation, Plan, installation, stage_rows, to_its_end, workers_of
from bench.machine import NOTHING, Usage, machine, speed, versions
from connectors.fake_shop import FakeShop
from connectors.store import LaneId
from orders.state import decode
from orders.view import view
from streams.partition import partition_of

DAY_MS = 86_400_000
PLACING_MS = 30 * DAY_MS  # all orders are placed within so long: about as long as a life lasts, so every chunk holds all its stages
LIVES_MS = 90 * DAY_MS  # the longest life
LOAD_RECORDS = 4_000
SAMPLE = 500
LOOK_S = 0.4
MEMORY_S = 5.0
LEFT = 0.5  # share of the facts that must be left when all workers are ready
MOVING_S = 120.0  # no lane moves for so long: given up


class Run(msgspec.Struct):
    """One run's figures; what `--json` prints."""

    facts: int
    measured: int  # of them, those that were left when all workers were ready
    orders: int
    facts_per_second: float
    seconds: float
    rest_seconds: float  # until all other lanes had come to rest as well
    cpu_seconds: dict[str, float]  # while it ran, by process
    cpu_us_per_fact: dict[str, float]
    memory_rss_mb: dict[str, int]  # peaks
    memory_pss_mb: dict[str, int]
    disk_mb: dict[str, int]
    store_bytes_per_order: float
    store_peak_mb: int
    stage_seconds: dict[str, dict[str, float]]  # by processor, of all workers
    messages_wanted_per_fact: float
    records_per_fact: dict[str, float]  # lanes' records for each fact
    scores: int
    fallback_scores: int
    rows_per_call: float  # median of the calls to the scorer: the bound of the histogram's bucket
    done: int
    parked: int
    wrong_statuses: int
    checked_statuses: int
    faults: list[str]


def progress(console: Console) -> Progress:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def shop_of(orders: int, seed: int, until_ms: int) -> FakeShop:
    """A shop all of whose lives have ended by `until_ms`."""
    return FakeShop(seed, brief=True, start_ms=until_ms - PLACING_MS - LIVES_MS, interval_ms=max(1, PLACING_MS // orders))


async def load(its: Installation, shop: FakeShop, orders: int, bar: Progress, task: TaskID) -> int:
    """Appends what the shop reports; returns how many records of topic `facts`. Memory is bounded by the orders alive."""
    batches: dict[str, list[tuple[bytes | None, bytes]]] = {}
    facts = count = 0
    for topic, key, value in shop.stream_bytes(orders):
        if topic == "customers":
            continue  # profiles and consents are no facts
        batches.setdefault(topic, []).append((key, value))
        count += 1
        facts += topic == "facts"
        if count % LOAD_RECORDS == 0:
            await asyncio.gather(*(its.log.append(name, records) for name, records in batches.items()))
            batches.clear()
            bar.update(task, completed=facts)
    await asyncio.gather(*(its.log.append(name, records) for name, records in batches.items()))
    bar.update(task, completed=facts, total=facts)
    return facts


class Peaks:
    """The most memory that each part was seen to take."""

    def __init__(self) -> None:
        self.rss: dict[str, int] = {}
        self.pss: dict[str, int] = {}
        self.store = 0

    async def watch(self, its: Installation) -> None:
        while True:
            for name, used in (await asyncio.to_thread(its.usages)).items():
                self.rss[name] = max(self.rss.get(name, 0), used.rss)
                self.pss[name] = max(self.pss.get(name, 0), used.pss)
            self.store = max(self.store, await its.store.used_bytes())
            await asyncio.sleep(MEMORY_S)


async def measure(plan: Plan, orders: int, seed: int, console: Console) -> Run:
    """One run from nothing. Raises wire.Failed."""
    async with installation(plan) as its:
        shop = shop_of(orders, seed, int(time.time() * 1000))
        with progress(console) as bar:
            facts = await load(its, shop, orders, bar, bar.add_task("load the log", total=None))
            empty = await its.store.used_bytes()
            await its.start_workers()
            peaks = Peaks()
            watching = asyncio.create_task(peaks.watch(its))
            try:
                task = bar.add_task("facts", total=facts)
                before, stages = await asyncio.to_thread(its.usages), its.stages()
                began, first = time.monotonic(), (await its.offsets(["orders"]))["orders"]
                done = first
                while done < facts:
                    done = await _moved(its, "orders", done)
                    bar.update(task, completed=done)
                seconds = time.monotonic() - began
                after = await asyncio.to_thread(its.usages)
                await _rest(its)
                rested = time.monotonic() - began
                await asyncio.sleep(1.1)  # the worker writes what it measured once a second
            finally:
                watching.cancel()
                await asyncio.wait([watching])
        return await _figures(its, shop, orders, facts, first, seconds, rested, before, after, stages, peaks, empty)


async def _moved(its: Installation, processor: str, at: int) -> int:
    """Where the lanes stand once they are beyond `at`. Raises wire.Failed when they stay there."""
    for _ in range(int(MOVING_S / LOOK_S)):
        await asyncio.sleep(LOOK_S)
        its.check()
        now = (await its.offsets([processor]))[processor]
        if now > at:
            return now
    raise wire.Failed(f"the lanes of {processor} stand still at {at}:\n" + its.last_words())


async def _rest(its: Installation) -> None:
    """Returns when every lane has read its topic to the end, what the lanes told each other included."""
    names = list(wire.PROCESSOR_OF.values())
    for _ in range(int(MOVING_S / LOOK_S)):
        offsets, ends = await its.offsets(names), await its.ends()
        if all(offsets[name] >= ends[name] for name in names):
            return
        its.check()
        await asyncio.sleep(LOOK_S)
    raise wire.Failed("the lanes do not come to rest:\n" + its.last_words())


async def _figures(
    its: Installation,
    shop: FakeShop,
    orders: int,
    facts: int,
    first: int,
    seconds: float,
    rested: float,
    before: dict[str, Usage],
    after: dict[str, Usage],
    stages: dict[str, dict[str, float]],
    peaks: Peaks,
    empty: int,
) -> Run:
    spent = stage_rows(stages, its.stages())
    counts = await its.store.counters(its.orders)
    tags = await its.store.tag_counts(its.orders)
    standings = await its.store.standing(its.orders)
    states, parked = sum(s.states for s in standings), sum(s.parked for s in standings)
    done, wrong, checked, messages = counts.get("done", 0), 0, 0, 0
    ends = await its.ends()
    facts_in = ends["orders"]
    for n in range(0, orders, max(1, orders // SAMPLE)):
        order = f"{shop.shop}:{n + 100_000}"
        lane = LaneId("orders", its.settings.layout.id, partition_of(order.encode(), its.settings.layout.partitions))
        true = shop.expected(n).status
        if true == "backordered":
            continue  # our own stock lane would say so, and in observe nobody asks it
        blob = (await its.store.load(lane, [order]))[0]
        if blob is None:
            wrong += 1
            continue
        state = decode(blob)
        checked += 1
        wrong += view(state).status.value != true
        messages += sum(name.startswith("notify.") for name in (*state.closed, *state.ledger))
    faults = []
    if states != orders:
        faults.append(f"{states} states of {orders} orders")
    if done + parked != facts_in:
        faults.append(f"{done} done and {parked} parked of {facts_in} facts")
    if wrong:
        faults.append(f"{wrong} of {checked} statuses are not the true ones")
    if sum(tags.values()) < orders:
        faults.append(f"only {sum(tags.values())} tags of {orders} orders")
    cpu = {name: after[name].cpu_s - before.get(name, NOTHING).cpu_s for name in after}
    counted = max(1, facts - first)  # `first` may count what the stock lane has answered by then: no figure of this run holds
    used = await its.store.used_bytes()
    return Run(
        facts=facts_in,
        measured=max(0, facts - first),
        orders=orders,
        facts_per_second=round(counted / seconds, 1),
        seconds=round(seconds, 2),
        rest_seconds=round(rested, 2),
        cpu_seconds={name: round(value, 2) for name, value in cpu.items()},
        cpu_us_per_fact={name: round(value / counted * 1e6, 1) for name, value in cpu.items()},
        memory_rss_mb={name: round(value / 2**20) for name, value in peaks.rss.items()},
        memory_pss_mb={name: round(value / 2**20) for name, value in peaks.pss.items()},
        disk_mb={name: round(value / 2**20) for name, value in (await asyncio.to_thread(its.disk)).items()},
        store_bytes_per_order=round((used - empty) / orders, 1),
        store_peak_mb=round(peaks.store / 2**20),
        stage_seconds=spent,
        messages_wanted_per_fact=round(messages / max(1, checked) * orders / facts_in, 3),
        records_per_fact={name: round(end / facts_in, 3) for name, end in ends.items()},
        scores=counts.get("model_scores", 0) + counts.get("fallback_scores", 0),
        fallback_scores=counts.get("fallback_scores", 0),
        rows_per_call=median_of(await its.batch_sizes()),
        done=done,
        parked=parked,
        wrong_statuses=wrong,
        checked_statuses=checked,
        faults=faults,
    )


def median_of(calls: Mapping[float, float]) -> float:
    """The bound of the bucket where the middle call lies; 0 where there was none."""
    half = max(calls.values(), default=0) / 2
    return next((bound for bound, count in sorted(calls.items()) if count >= half > 0), 0.0)


def report(plan: Plan, runs: list[Run], console: Console) -> None:
    """Tables in Markdown, ready for docs/performance.md."""
    say = console.print
    rates = sorted(run.facts_per_second for run in runs)
    run = sorted(runs, key=lambda run: run.facts_per_second)[len(runs) // 2]
    say(f"\n{machine()}\n{speed()}\n{versions()}", highlight=False)
    archive = "with" if plan.archive else "without"
    say(
        f"log {plan.log}, {plan.partitions} partitions, {plan.workers} worker(s), {archive} archive,"
        f" {run.orders:,} orders, {run.facts:,} facts\n",
        highlight=False,
    )
    rows = [("facts/s, median of runs", f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f}, {len(runs)} runs)")]
    rows += [(f"CPU of {name}", f"{value:.1f} µs per fact ({run.cpu_seconds[name]:.1f} s)") for name, value in run.cpu_us_per_fact.items()]
    rows += [
        (f"peak memory of {name}", f"{value:,} MB RSS, {run.memory_pss_mb[name]:,} MB PSS") for name, value in run.memory_rss_mb.items()
    ]
    rows += [(f"disk: {name}", f"{value:,} MB") for name, value in run.disk_mb.items()]
    rows += [
        ("store per order", f"{run.store_bytes_per_order:,.0f} bytes, peak {run.store_peak_mb:,} MB"),
        ("messages wanted per fact", f"{run.messages_wanted_per_fact}"),
        ("records of each lane per fact", ", ".join(f"{name} {value}" for name, value in run.records_per_fact.items())),
        ("scores per fact", f"{run.scores / run.facts:.2f} ({run.fallback_scores} by the rules)"),
        ("rows in a call to the scorer, median", f"up to {run.rows_per_call:g}"),
        ("until all lanes rested", f"{run.rest_seconds} s"),
        (
            "checks",
            "; ".join(run.faults) or f"{run.orders} states, {run.done} done + {run.parked} parked, {run.checked_statuses} statuses true",
        ),
    ]
    say("| what | of the median run |\n|---|---|", highlight=False)
    for name, value in rows:
        say(f"| {name} | {value} |", highlight=False)
    stages = list(next(iter(run.stage_seconds.values()), {}))
    say("\n| lanes of | " + " | ".join(f"{stage}, s" for stage in stages) + " |\n|---|" + "---|" * len(stages), highlight=False)
    for name, spent in run.stage_seconds.items():
        say(f"| {name} | " + " | ".join(f"{spent[stage]:.2f}" for stage in stages) + " |", highlight=False)


@click.command(help=__doc__)
@click.option("--orders", default=100_000, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=7, show_default=True)
@click.option("--workers", type=click.IntRange(1, 8), help="[default: 2, on the embedded log 1]")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option("--log", "log_", type=click.Choice(["kafka", "embedded"]), default="kafka", show_default=True)
@click.option("--kafka", type=click.Path(path_type=Path), default=KAFKA, help="folder with the script `kafka` and its libs")
@click.option("--archive/--no-archive", default=False, show_default=True)
@click.option("--ray/--no-ray", default=True, show_default=True)
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="one object on the last line")
def main(
    orders: int, seed: int, workers: int | None, partitions: int, log_: str, kafka: Path, archive: bool, ray: bool, runs: int, as_json: bool
) -> None:
    plan = Plan(log=log_, kafka=kafka, partitions=partitions, workers=workers_of(log_, workers), archive=archive, ray=ray)
    console = Console(stderr=True)
    try:
        made = [to_its_end(measure(plan, orders, seed, console)) for _ in range(runs)]
    except wire.Failed as error:
        raise click.ClickException(str(error)) from None
    if any(run.measured < run.facts * LEFT for run in made):
        raise click.ClickException("most facts were done before all workers were ready, so nothing was measured: take more --orders")
    report(plan, made, Console(soft_wrap=True))
    if as_json:
        best: dict[str, Any] = msgspec.to_builtins(sorted(made, key=lambda run: run.facts_per_second)[len(made) // 2])
        print(
            json.dumps(
                {**best, "facts_per_second_runs": [run.facts_per_second for run in made], "machine": machine(), "versions": versions()}
            )
        )
    if any(run.faults for run in made):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
