"""The real application on a real port of the loopback address, over readers and logs that live in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from metrics import Metrics
from orders.plan import signed, unsigned
from orders.policy import Policy
from streams.clock import VirtualClock
from tests.web.fake_desk import FakeStore, FakeSwitch, parking
from tests.web.fake_floor import FakeFloor, FakeLabels
from tests.web.fake_reader import NOW, FakeClaims, FakeMailbox, FakeReader, ListLog
from web.app import WebServer, make_app
from web.gateway import Limits
from web.health import Health
from web.identity import People
from web.tracking import Front
from web.warehouse import Warehouse

POLICY = Policy(link_key="a key of the tests, long enough")


def link(order_id: str) -> str:
    """As our messages carry it."""
    return signed(order_id, "track", POLICY)


@dataclass
class Site:
    client: httpx.AsyncClient
    log: ListLog
    reader: FakeReader
    metrics: Metrics
    health: Health
    clock: VirtualClock
    port: int
    floor: FakeFloor
    labels: FakeLabels
    store: FakeStore
    claims: FakeClaims

    async def post(self, body: bytes, content_type: str = "application/json", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/v1/facts", content=body, headers={"content-type": content_type, **named})


@pytest.fixture
def limits() -> Limits:
    """Overridden by tests that need them smaller."""
    return Limits()


@pytest.fixture
def people() -> People:
    """Overridden by tests in which somebody has to sign in."""
    return People()


@pytest.fixture
async def site(limits: Limits, people: People) -> AsyncIterator[Site]:
    log, reader, metrics, clock = ListLog(), FakeReader(), Metrics(), VirtualClock(NOW)
    health = Health(metrics)
    health.start()
    sink: Any = log
    mailbox, front = FakeMailbox(), Front("Lumi Zone", "#0a7d5a", "Europe/Lisbon", lambda token: unsigned(token, "track", POLICY))
    floor, labels, store, claims = FakeFloor(log), FakeLabels(), FakeStore(), FakeClaims()
    app = make_app(
        sink=sink,
        reader=reader,
        clock=clock,
        metrics=metrics,
        health=health,
        mailbox=mailbox,
        people=people,
        front=front,
        warehouse=Warehouse(floor, labels, floor.policy),
        parking=parking(store, log, clock),
        switch=FakeSwitch(store, clock),
        claims=claims,
        limits=limits,
    )
    server = WebServer(app, "127.0.0.1", 0)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
        yield Site(client, log, reader, metrics, health, clock, server.port, floor, labels, store, claims)
    await server.close()
    await health.close()
