"""The warehouse's lists over a real store: exact at their head, however long the queue is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from connectors.store import Commit, LaneId, Store
from connectors.valkey import EmbeddedValkey
from orders import state, stock
from orders.decision import Decision
from orders.fact import HoldPlaced
from orders.journal import Decided, adopt
from orders.merge import merge
from orders.policy import Policy
from orders.request import StockLevelReported, StockRequested
from orders.state import Order
from orders.stock import Reserved, Stock
from orders.view import view
from orders.warehouse import Job, jobs, queued_at
from streams.orders import tags
from streams.partition import partition_of
from tests.web.fake_floor import HOUR, ready
from tests.web.fake_reader import NOW
from web import floor as floor_module
from web.floor import StoreFloor

PARTITIONS, ORDERS = 2, 300
POLICY = Policy()


def made(n: int, rng: random.Random) -> Order:
    """An order with a priority of its own, to be picked or already picked."""
    order = Order(f"lumi:{n}")
    for fact in ready(n, at=NOW - rng.randrange(200) * HOUR // 10):
        if type(fact).__name__ != "ReviewDecided":
            order = merge(order, fact)
    priority = rng.choice([0, 0, 0, 3_000, 10_000])
    decision = Decision(number=1, at=NOW, verdict="approve", by="model", knew=b"", since=NOW, priority=priority)
    return adopt(order, Decided(at=NOW, decision=decision))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    its = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(its.start())
    yield its
    asyncio.run(its.stop())


@pytest.fixture
async def store(server: EmbeddedValkey) -> AsyncIterator[Store]:
    its = Store.from_url(server.url)
    await its.start()
    await its._client.flushdb()
    yield its
    await its.close()


async def write(store: Store, processor: str, states: dict[str, bytes], index: dict[str, tuple[tuple[str, ...], int]]) -> None:
    for p in range(PARTITIONS):
        lane = LaneId(processor, 0, p)
        await store.place(lane, 0, "log", sends=True)
        held = await store.acquire(lane)
        here = {key: blob for key, blob in states.items() if partition_of(key.encode(), PARTITIONS) == p}
        await store.commit(held, Commit(states=here, index=[(key, (), *index[key]) for key in here if key in index]))


def turns(found: tuple[Job, ...]) -> list[tuple[int, str]]:
    return [(job.turn, job.order) for job in found]


async def test_the_head_of_a_long_queue_is_that_of_the_whole_queue(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    orders = [made(n, rng) for n in range(ORDERS)]
    views = {order.id: view(order) for order in orders}
    index = {o.id: (tags(views[o.id], o)[1:], queued_at(views[o.id])) for o in orders}
    await write(store, "orders", {o.id: state.encode(o) for o in orders}, index)
    monkeypatch.setattr(floor_module, "PAGE", 16)
    loaded: list[int] = []
    load = store.load

    async def counted(lane: LaneId, keys: list[str]) -> list[bytes | None]:
        loaded.append(len(keys))
        return await load(lane, keys)

    monkeypatch.setattr(store, "load", counted)
    floor = StoreFloor(store, 0, PARTITIONS, POLICY)
    expected = sorted((job.turn, job.order) for order in orders for job in jobs(order, POLICY))
    for limit in (1, 20, ORDERS):
        loaded.clear()
        queue = await floor.queue("to_pick", "main", limit)
        assert turns(queue.jobs) == expected[:limit]
        assert (queue.total, queue.cut) == (ORDERS, False)
        assert limit == ORDERS or sum(loaded) < ORDERS, "only as far as an urgent order can overtake"
    assert await floor.counts() == {"main": {"to_pick": ORDERS}}
    assert (await floor.queue("to_pack", "main", 5)).jobs == ()
    found = await floor.order("lumi:7")
    assert found is not None and found.id == "lumi:7" and await floor.order("lumi:none") is None

    monkeypatch.setattr(floor_module, "MOST_ORDERS", 64)
    assert (await floor.queue("to_pick", "main", ORDERS)).cut


async def test_an_order_that_is_held_since_it_was_indexed_is_not_listed(store: Store) -> None:
    order = made(1, random.Random(1))
    held = merge(order, HoldPlaced(order="lumi:1", system="staff", object="h", at=NOW, reason="call back"))
    await write(store, "orders", {order.id: state.encode(held)}, {order.id: (("to_pick:main",), NOW)})
    assert (await StoreFloor(store, 0, PARTITIONS, POLICY).queue("to_pick", "main", 5)).jobs == ()


async def test_shelves_say_what_the_stock_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, bytes] = {}
    for n in range(9):
        its = Stock()
        stock.merge(its, StockLevelReported(at=1, sku=f"SKU-{n}", location="main", on_hand=n, system="wms"))
        for request in ("a", "b"):
            asked = StockRequested(at=2, effect=request, order="lumi:1", line="1", sku=f"SKU-{n}", location="main", quantity=2)
            stock.merge(its, asked)
        if n >= 2:
            stock.adopt(its, Reserved(key=f"SKU-{n}@main", at=3, request="a", quantity=2))
        states[f"SKU-{n}@main"] = stock.encode(its)
    await write(store, "stock", states, {})
    floor = StoreFloor(store, 0, PARTITIONS, POLICY)
    shelves = await floor.shelves("", 0, 5)
    assert [(r.sku, r.on_hand, r.reserved, r.available, r.waiting) for r in shelves.rows] == [
        ("SKU-0", 0, 0, 0, 2),
        ("SKU-2", 2, 2, 0, 1),
        ("SKU-1", 1, 0, 1, 2),
        ("SKU-3", 3, 2, 1, 1),
        ("SKU-4", 4, 2, 2, 1),
    ]
    assert (shelves.total, shelves.cut) == (9, False)
    assert [row.sku for row in (await floor.shelves("ku-8", 0, 5)).rows] == ["SKU-8"]
    one = await floor.stock("SKU-8", "main")
    assert one is not None and stock.on_hand(one) == 8 and await floor.stock("SKU-8", "moon") is None
    monkeypatch.setattr(floor_module, "MOST_SHELVES", 3)
    assert (await floor.shelves("", 0, 5)).cut
