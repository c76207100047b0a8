"""F-05 on real lanes: whether stock has enough is known, and told, when an order is placed, not when it is paid."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connectors.store import Store
from model.features import features
from orders.fact import Fact, encode_fact
from orders.policy import Policy
from orders.request import StockLevelReported
from orders.state import decode
from orders.status import Status
from orders.view import View, view
from streams.clock import VirtualClock
from streams.dispatch import Modes
from streams.orders import OrdersProcessor
from streams.stock import StockProcessor
from tests.orders.lives import HOUR, LAMP, MINUTE, ORDER, SHADE, T0, captured, placed
from tests.streams.town import Opinion, Provider, Town
from tests.streams.toy import MemoryLog

LIVE = Modes(channels={"webhook": "live", "stock": "live"})


class Shop:
    def __init__(self, store: Store, modes: Modes = LIVE) -> None:
        clock = VirtualClock(T0 + MINUTE)
        log: Any = MemoryLog(now=clock.now)
        policy = Policy(triggers=(), link_key="key", retire_after_ms=0)
        processors: dict[str, Any] = {"facts": lambda: OrdersProcessor(features, policy, {"webhook": "keyed"}), "stock": StockProcessor}
        self.team = Provider("keyed")
        self.town = Town(store, log, clock, processors, {"webhook": self.team}, modes, Opinion(0.05, 0.0))

    async def has(self, lamps: int, shades: int, at: int = T0) -> None:
        for line, units in ((LAMP, lamps), (SHADE, shades)):
            level = StockLevelReported(at=at, sku=line.sku, location="main", on_hand=units, system="wms")
            await self.town.report("stock", (f"{line.sku}@main", msgspec.json.encode(level)))
        await self.town.rest(until=MINUTE)

    async def hear(self, *facts: Fact) -> View:
        await self.town.report("facts", *[(fact.order, encode_fact(fact)) for fact in facts])
        await self.town.rest(until=HOUR)
        return view(decode((await self.town.states())["orders.0.0"][ORDER]))

    def told(self) -> list[str]:
        return [said["data"]["about"] for claim in self.team.calls if (said := msgspec.json.decode(claim.body))["event"] == "team.notice"]


@pytest.fixture
async def shop(store: Store) -> Shop:
    shop = Shop(store)
    await shop.town.begin()
    await shop.town.wake()
    return shop


async def test_the_inventory_team_hears_of_a_shortage_before_the_order_is_paid(shop: Shop) -> None:
    await shop.has(lamps=LAMP.quantity, shades=SHADE.quantity - 1)
    its = await shop.hear(placed())
    assert shop.told() == ["stock_shortage_risk"]
    assert [(f.line, f.quantity) for f in its.scarce] == [(SHADE.line, SHADE.quantity)]
    assert its.status is Status.ORDER_PLACED and not its.reserved and not its.shortages, "nothing is promised to it, and nothing refused"

    await shop.has(lamps=LAMP.quantity, shades=SHADE.quantity, at=T0 + 2 * HOUR)
    its = await shop.hear(captured())
    assert set(its.reserved) == {LAMP.line, SHADE.line} and not its.short
    assert shop.told() == ["stock_shortage_risk"]


async def test_where_there_is_enough_nobody_hears_anything(shop: Shop) -> None:
    await shop.has(lamps=LAMP.quantity, shades=SHADE.quantity)
    assert not (await shop.hear(placed())).scarce
    assert shop.told() == []


async def test_an_order_that_comes_paid_is_not_asked_about_beforehand(shop: Shop) -> None:
    await shop.has(lamps=LAMP.quantity, shades=0)
    its = await shop.hear(placed(), captured())
    assert not its.scarce and set(its.short) == {SHADE.line}
    assert shop.told() == ["stock_shortage_risk"]


async def test_a_shop_that_only_observes_stock_asks_nothing(store: Store) -> None:
    shop = Shop(store, Modes(channels={"webhook": "live", "stock": "observe"}))
    await shop.town.begin()
    await shop.town.wake()
    assert not (await shop.hear(placed())).scarce
    assert shop.told() == []
