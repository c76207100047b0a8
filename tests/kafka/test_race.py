"""F-22: what there is is given away once, however many lanes and workers want it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from orders import stock as stock_state
from orders.fact import Address, CancelRequested, Fact, Line, OrderPlaced, PaymentCaptured, Person, encode_fact
from orders.request import StockLevelReported, StockReleaseRequested, StockRequested
from orders.stock import Reserved, Stock, decode_entry
from streams.clock import WallClock
from streams.partition import partition_of
from tests.conftest import Kafka
from tests.kafka.installation import Installation, installation

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
ORDERS, UNITS = 50, 10
SKU, PLACE = "LZ-LAST", "main"
KEY = f"{SKU}@{PLACE}"

PERSON = Person(
    name="Anna Weber",
    email="anna.weber@example.invalid",
    locale="de-DE",
    zone="Europe/Berlin",
    address=Address(lines=("Lindenstraße 5",), city="Berlin", postcode="10115", country="DE"),
)


def order(number: int, at: int) -> list[Fact]:
    id = f"lumi:{number}"
    line = Line(line="1", sku=SKU, quantity=1, price=4990, title="Aurora Desk Lamp", location=PLACE)
    placed = OrderPlaced(
        order=id,
        system="shop:lumi",
        object=str(number),
        at=at,
        number=str(number),
        customer=f"lumi:c{number}",
        currency="EUR",
        total=4990,
        lines=(line,),
        person=PERSON,
    )
    return [placed, PaymentCaptured(order=id, system="pay:lumi", object=f"p-{number}", at=at + 1, amount=4990, currency="EUR")]


def records(facts: list[Fact]) -> list[tuple[str, bytes, bytes]]:
    return [("facts", fact.order.encode(), encode_fact(fact)) for fact in facts]


async def lamps(its: Installation) -> Stock:
    found: Stock = (await its.decoded("stock"))[KEY]
    return found


async def given(its: Installation) -> list[str]:
    """The requests that were ever served, as the journal has it; never more than there are units at one time."""
    partition = partition_of(KEY.encode(), 4)
    entries: list[msgspec.Raw] = []
    for record in await its.log.read("journal", partition, 0, 1_000_000):
        if record.key.startswith(b"stock."):
            entries += msgspec.json.decode(record.value, type=_Journaled).entries
    return [entry.request for entry in map(decode_entry, entries) if isinstance(entry, Reserved) and entry.key == KEY]


class _Journaled(msgspec.Struct):
    entries: list[msgspec.Raw]


async def test_fifty_orders_race_for_ten_units_and_exactly_ten_get_one(empty_kafka: Kafka, tmp_path: Path) -> None:
    async with installation(tmp_path / "i", empty_kafka.bootstrap) as its:
        now = WallClock().now()
        level = StockLevelReported(at=now, sku=SKU, location=PLACE, on_hand=UNITS, system="wms:lumi", version=1)
        counted = [("stock", KEY.encode(), encode_fact(level))]
        facts = [fact for number in range(ORDERS) for fact in order(number, now)]
        random.Random(3).shuffle(facts)

        await its.append(counted)
        await its.start(3)
        await its.ready()
        await asyncio.gather(*(its.append(records([fact])) for fact in facts))  # each by itself: it is a race
        await its.rest()

        assert Counter((await its.statuses()).values())["backordered"] == ORDERS - UNITS
        stock = await lamps(its)
        assert (stock.held, len(stock.waiting), stock_state.available(stock)) == (UNITS, ORDERS - UNITS, 0)
        first = await given(its)
        assert len(first) == len(set(first)) == UNITS

        served = [r.order for request, r in stock.requests.items() if request in first]
        cancels: list[Fact] = [
            CancelRequested(order=id, system="shop:lumi", object=f"c-{id}", at=WallClock().now(), reason="no longer wanted")
            for id in served[:3]
        ]
        await its.append(records(cancels * 2))
        await its.rest()
        stock = await lamps(its)
        assert [len(r.releases) for r in stock.requests.values() if r.order in served[:3]] == [1, 1, 1]
        assert (stock.held, len(stock.waiting), stock_state.available(stock)) == (UNITS, ORDERS - UNITS - 3, 0)
        again = await given(its)
        assert len(again) == len(set(again)) == UNITS + 3
        assert Counter((await its.statuses()).values())["backordered"] == ORDERS - UNITS - 3

        before = {topic: await its.states(topic) for topic in ("facts", "stock", "references", "customers")}
        asked = [r for p in range(4) for r in await its.log.read("stock", p, 0, 100_000)]
        kinds = {type(msgspec.json.decode(r.value, type=StockRequested | StockReleaseRequested | StockLevelReported)) for r in asked}
        assert kinds == {StockRequested, StockReleaseRequested, StockLevelReported}
        await its.append([*counted, *records(facts), *records(cancels), *(("stock", r.key, r.value) for r in asked)])
        await its.rest()
        assert {topic: await its.states(topic) for topic in before} == before
        assert await given(its) == again

        await its.stop()
        assert await its.check_states() > 0
        assert (await its.check_sums())["waiting"] == 0
