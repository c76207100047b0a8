"""A shop whose customers pay at `/pay/{token}`, for the tests of that page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from metrics import Metrics
from orders.plan import signed, unsigned
from streams.clock import VirtualClock
from tests.web.conftest import POLICY
from tests.web.fake_reader import NOW, FakeReader, ListLog, detail
from web.app import WebServer, make_app
from web.health import Health
from web.identity import only
from web.pay import Till
from web.problem import Refusal
from web.reader import OrderDetail
from web.tracking import Front

ORDER = "lumi:1004"
PAGE = "https://checkout.example.invalid/c/1"


def link(order_id: str = ORDER) -> str:
    return signed(order_id, "pay", POLICY)


@dataclass
class Cashier:
    """Makes checkouts; `down` refuses."""

    asked: list[OrderDetail] = field(default_factory=list)
    down: bool = False

    async def __call__(self, order: OrderDetail) -> str:
        self.asked.append(order)
        if self.down:
            raise Refusal(503, "no_checkout", "not now", retry_after_s=60)
        return PAGE


@dataclass
class Shop:
    client: httpx.AsyncClient
    reader: FakeReader
    clock: VirtualClock
    cashier: Cashier
    log: ListLog
    port: int
    has_checkout: bool = True

    def change(self, **fields: Any) -> None:
        """What is known of the order."""
        self.reader.details[ORDER] = msgspec.structs.replace(self.reader.details[ORDER], **fields)

    def unpaid(self, **fields: Any) -> None:
        """The order as it is after one failed payment, but for `fields`."""
        unpaid = {"status": "payment_failed", "captured": 0, "failures": 1, "reached": {"order_placed": detail().placed_at}}
        self.reader.details[ORDER] = msgspec.structs.replace(detail(), **{**unpaid, **fields})


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    log, reader, metrics, clock, cashier = ListLog(), FakeReader(), Metrics(), VirtualClock(NOW), Cashier()
    health = Health(metrics)
    health.start()
    sink: Any = log
    front = Front("Lumi Zone", "#0a7d5a", "Europe/Lisbon", lambda token: unsigned(token, "track", POLICY))
    till = Till(
        order_of=lambda token: unsigned(token, "pay", POLICY),
        followed=lambda order_id: signed(order_id, "track", POLICY),
        contact="service@shop.invalid",
        life_ms=POLICY.pay_link_ms,
        checkout=lambda order_id: cashier if shop.has_checkout else None,
    )
    app = make_app(sink=sink, reader=reader, clock=clock, metrics=metrics, health=health, front=front, till=till, people=only("staff only"))
    server = WebServer(app, "127.0.0.1", 0, guarded=True)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
        shop = Shop(client, reader, clock, cashier, log, server.port)
        yield shop
    await server.close()
    await health.close()
