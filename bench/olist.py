"""Do real orders come through? The Olist marketplace's orders of 2016 to 2018 as facts, through the whole pipeline.

Each timestamp of an order is one fact: purchased, paid (one per payment), handed to the carrier, delivered. Its faults stay
in: hand-over before approval, delivery before hand-over, missing approvals, orders without items, payments that differ from
prices. No time is known for a cancellation, so no fact tells of one. What the source cannot know is declared in
`NOT_APPLICABLE`; those checks answer so instead of guessing. Recipients are at example.invalid.

    bench/olist.py DIR [--speed k|max] [--limit N] [--json]
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import click
import duckdb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import demo
import wire
from connectors.store import Store
from meter import read_stats
from orders.fact import Address, Fact, Line, OrderPlaced, ParcelScanned, PaymentCaptured, Person, Tracking, encode_fact
from orders.status import Status
from settings import Settings
from streams.transport import Log

ZONE = "America/Sao_Paulo"  # the timestamps are local times without a zone
SHOP = "olist"
LOOK_S = 0.5
STATS_S = 1.2  # the worker writes what it measured once a second
MOVING_S = 120.0  # nothing moves for so long: given up
NOT_APPLICABLE = {
    "address": "of an address the source has postcode prefix, city and state, no street",
    "stock": "the source has no stock levels",
    "fraud": "the source has no risk signals and no chargebacks",
}

_ORDERS = """
with item as (
    select order_id,
           list((order_item_id, product_id, seller_id, price, freight_value, product_category_name) order by order_item_id) as rows
    from read_parquet($folder || '/order_items.parquet') i left join read_parquet($folder || '/products.parquet') p using (product_id)
    group by order_id
), payment as (
    select order_id, list((payment_sequential, payment_value) order by payment_sequential) as rows
    from read_parquet($folder || '/order_payments.parquet') group by order_id
)
select order_id, order_purchase_timestamp, order_approved_at, order_delivered_carrier_date, order_delivered_customer_date,
       order_estimated_delivery_date, customer_unique_id, customer_zip_code_prefix, customer_city, customer_state,
       coalesce(item.rows, []), coalesce(payment.rows, [])
from read_parquet($folder || '/orders.parquet') o left join read_parquet($folder || '/customers.parquet') c using (customer_id)
    left join item using (order_id) left join payment using (order_id)
order by order_purchase_timestamp, order_id
"""


class _Row(NamedTuple):
    order: str
    purchased: datetime
    approved: datetime | None
    handed_over: datetime | None
    delivered: datetime | None
    estimated: datetime | None
    customer: str
    postcode: int
    city: str
    state: str
    items: list[tuple[int, str, str, float, float, str | None]]
    payments: list[tuple[int, float]]


def facts(folder: Path, limit: int | None = None) -> Iterator[Fact]:
    """All facts of the first `limit` orders (by purchase), sorted by time. Raises FileNotFoundError naming what is missing."""
    rows = _rows(folder, limit)
    told: list[tuple[int, int, int]] = []
    for index, row in enumerate(rows):
        for step, when in enumerate((row.purchased, row.approved, row.handed_over, row.delivered)):
            if when is not None:
                told.append((_ms(when), index, step))
    told.sort()
    for at, index, step in told:
        yield from _STEPS[step](rows[index], at)


def batches(source: Iterable[Fact], speed: float | None, most: int = 1_000) -> Iterator[tuple[float, list[Fact]]]:
    """(seconds after the start, facts due by then): history `speed` times as fast, or without `speed` as fast as it goes."""
    start = due = 0.0
    batch: list[Fact] = []
    for fact in source:
        if speed is not None:
            start = start or fact.at
            moment = (fact.at - start) / 1000 / speed
            if batch and moment > due + 0.05:
                yield due, batch
                batch = []
            if not batch:
                due = moment
        batch.append(fact)
        if len(batch) == most:
            yield due, batch
            batch = []
    if batch:
        yield due, batch


def _rows(folder: Path, limit: int | None) -> list[_Row]:
    for name in ("orders", "order_items", "order_payments", "customers", "products"):
        if not (folder / f"{name}.parquet").is_file():
            raise FileNotFoundError(f"{folder}: no {name}.parquet; give the folder that has Olist's tables as Parquet")
    query = _ORDERS if limit is None else f"{_ORDERS} limit {int(limit)}"
    with duckdb.connect() as connection:
        return [_Row(*row) for row in connection.execute(query, {"folder": str(folder)}).fetchall()]


def _ms(local: datetime) -> int:
    return int(local.replace(tzinfo=_SAO_PAULO).timestamp() * 1000)


_SAO_PAULO = ZoneInfo(ZONE)


def _minor(amount: float) -> int:
    return round(amount * 100)


def _common(row: _Row, at: int, system: str, thing: str) -> dict[str, Any]:
    return {"order": f"{SHOP}:{row.order}", "system": f"{system}:{SHOP}", "object": thing, "at": at}


def _purchased(row: _Row, at: int) -> Iterator[Fact]:
    lines = tuple(
        Line(line=str(item), sku=product, quantity=1, price=_minor(price), title=(category or "").replace("_", " "), location=seller)
        for item, product, seller, price, _, category in row.items
    )
    total = sum(_minor(price) + _minor(freight) for _, _, _, price, freight, _ in row.items)
    yield OrderPlaced(
        **_common(row, at, "shop", row.order),
        number=row.order[:8].upper(),
        customer=f"{SHOP}:{row.customer}",
        currency="BRL",
        total=total or sum(_minor(value) for _, value in row.payments),
        lines=lines,
        person=Person(
            name=f"Customer {row.customer[:6]}",
            email=f"{row.customer}@example.invalid",
            locale="pt-BR",
            zone=ZONE,
            address=Address(city=row.city, region=row.state, postcode=f"{row.postcode:05d}", country="BR"),
        ),
        promised=_ms(row.estimated + timedelta(days=1)) - 1 if row.estimated else 0,  # a date: kept until its end
        not_applicable=tuple(NOT_APPLICABLE),
    )


def _paid(row: _Row, at: int) -> Iterator[Fact]:
    for number, value in row.payments:
        yield PaymentCaptured(**_common(row, at, "pay", f"{row.order}/{number}"), amount=_minor(value), currency="BRL")


def _handed_over(row: _Row, at: int) -> Iterator[Fact]:
    yield ParcelScanned(**_common(row, at, "carrier", f"{row.order}/handed_over"), parcel=row.order, tag=Tracking.IN_TRANSIT)


def _delivered(row: _Row, at: int) -> Iterator[Fact]:
    yield ParcelScanned(**_common(row, at, "carrier", f"{row.order}/delivered"), parcel=row.order, tag=Tracking.DELIVERED)


_STEPS = (_purchased, _paid, _handed_over, _delivered)


def _speed(_: click.Context, __: click.Parameter, value: str) -> float | None:
    if value == "max":
        return None
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise click.BadParameter("a number above 0 (how many times as fast as history), or max")
    return speed


def progress() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("facts"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class Totals(NamedTuple):
    """What was fed."""

    orders: int
    facts: int
    not_applicable: dict[str, int]  # check -> orders whose source declared that it cannot feed it


def totals(source: Sequence[Fact]) -> Totals:
    declared = Counter(check for fact in source if isinstance(fact, OrderPlaced) for check in fact.not_applicable)
    return Totals(len({fact.order for fact in source}), len(source), {check: declared[check] for check in NOT_APPLICABLE})


async def run(folder: Path, speed: float | None, limit: int | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Through log, lanes, model and senders as in the demo: embedded defaults, every channel live against its stand-ins.

    History is appended to `facts` as a topic of the retailer's own would bring it: what cannot be read is parked, not refused.
    Raises wire.Failed with what did not come up or stands still.
    """
    source = await asyncio.to_thread(lambda: list(facts(folder, limit)))
    fed = totals(source)
    with tempfile.TemporaryDirectory(prefix="orderflow-olist-", ignore_cleanup_errors=True) as name:
        data, port = Path(name), demo.free_port()
        options = demo.Options(fed.orders, 0, 7, data, port, faults=False, stay=False, console=False)
        stopping = await wire.heard(wire.stop_signal)
        async with demo.installation(data, port, options, environ, stopping) as (settings, store, log):
            loop = asyncio.get_running_loop()
            began = loop.time()
            with progress() as bar:
                feeding = asyncio.create_task(_feed(source, speed, log, bar))
                try:
                    picture, seconds = await _watch(fed, feeding, settings, store, log, bar, began, stopping)
                finally:
                    feeding.cancel()
            stopping.cancel()
            await asyncio.sleep(STATS_S)
            stats = read_stats(data / "stats.json")
    statuses: dict[str, int] = {status.value: picture.tags[status.value] for status in Status if status.value in picture.tags}
    return {
        **picture.result(statuses),
        "facts_per_second": round(fed.facts / seconds, 1),
        "latency_ms": stats["latency_ms"],
        "not_applicable": fed.not_applicable,
        "reported_orders": fed.orders,
        "reported_facts": fed.facts,
    }


async def _feed(source: Sequence[Fact], speed: float | None, log: Log, bar: Progress) -> None:
    """Appends each fact when it is due. Raises LogDown."""
    task = bar.add_task("appended", total=len(source))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for due, batch in batches(source, speed):
        await asyncio.sleep(max(0.0, began + due - loop.time()))
        await log.append("facts", [(fact.order.encode(), encode_fact(fact)) for fact in batch])
        bar.advance(task, len(batch))


async def _watch(
    fed: Totals,
    feeding: asyncio.Task[None],
    settings: Settings,
    store: Store,
    log: Log,
    bar: Progress,
    began: float,
    stopping: asyncio.Future[Any],
) -> tuple[demo.Picture, float]:
    """Until everything fed has been committed and every lane is at rest; the last picture, and the seconds until the former."""
    task = bar.add_task("committed", total=fed.facts)
    loop = asyncio.get_running_loop()
    seconds, moved, before = 0.0, loop.time(), -1
    while True:
        await asyncio.sleep(LOOK_S)
        if feeding.done():
            feeding.result()
        if stopping.done():
            raise wire.Failed("interrupted")
        picture = await demo.look(settings, store, log)
        settled = picture.facts_in - picture.waiting
        bar.update(task, completed=min(settled, fed.facts))
        if feeding.done() and settled >= fed.facts:
            seconds = seconds or loop.time() - began
            if picture.behind == 0:
                return picture, seconds
        if picture.behind != before or not feeding.done():
            moved, before = loop.time(), picture.behind
        if loop.time() - moved > MOVING_S:
            raise wire.Failed(f"the lanes stand still with {picture.behind} records before them")


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--speed", callback=_speed, default="max", show_default=True, help="times as fast as history, or max")
@click.option("--limit", type=click.IntRange(min=1), help="so many orders, by purchase")
@click.option("--json", "as_json", is_flag=True, help="one object on the last line")
def main(folder: Path, speed: float | None, limit: int | None, as_json: bool) -> None:
    try:
        result = asyncio.run(run(folder, speed, limit, os.environ))
    except (wire.Failed, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from None
    demo.show(result)
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
