"""Silence is measured from the last delivery that was believed, whoever heard it and whoever was restarted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from connectors.store import Store, StoreDown
from connectors.valkey import EmbeddedValkey
from metrics import Metrics
from streams.clock import VirtualClock
from tests.web.fake_reader import NOW, FakeReader, ListLog
from tests.web.test_ingest import INLETS, signed
from web.app import WebServer, make_app
from web.health import Health
from web.heard import HEARD, Heard, Watched

SOURCES = {"shopify-lumi": Watched("shopify", 7200.0), "stripe-lumi": Watched("stripe", 600.0)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def store(server: EmbeddedValkey) -> AsyncIterator[Store]:
    store = Store.from_url(server.url)
    await store._client.flushall()
    await store.start()
    yield store
    await store.close()


def silence(metrics: Metrics, source: str, name: str = "source_silence_seconds") -> float:
    shown = metrics.expose().decode()
    found = re.search(rf'^orderflow_{name}{{source="{source}",vendor="[a-z]+"}} (\S+)$', shown, re.MULTILINE)
    assert found, shown
    return float(found[1])


async def test_silence_grows_until_somebody_speaks_and_outlives_a_restart(store: Store) -> None:
    clock, metrics = VirtualClock(NOW), Metrics()
    heard = Heard(SOURCES, store, clock, metrics)
    await heard.look()
    assert silence(metrics, "stripe-lumi") == 0.0, "it counts from when it was configured"
    clock.move_to(NOW + 60_000)
    heard.note("shopify-lumi")
    clock.move_to(NOW + 90_000)
    await heard.look()
    assert (silence(metrics, "shopify-lumi"), silence(metrics, "stripe-lumi")) == (30.0, 90.0)
    assert silence(metrics, "stripe-lumi", "source_silent_after_seconds") == 600.0

    again = Metrics()
    clock.move_to(NOW + 120_000)
    await Heard(SOURCES, store, clock, again).look()
    assert (silence(again, "shopify-lumi"), silence(again, "stripe-lumi")) == (60.0, 120.0)


async def test_two_gateways_hear_together(store: Store) -> None:
    clock, here, there = VirtualClock(NOW), Metrics(), Metrics()
    one, other = Heard(SOURCES, store, clock, here), Heard(SOURCES, store, clock, there)
    await one.look()
    clock.move_to(NOW + 50_000)
    other.note("stripe-lumi")
    await other.look()
    clock.move_to(NOW + 51_000)
    await one.look()
    assert silence(here, "stripe-lumi") == 1.0


async def test_the_store_is_written_at_most_once_a_look_and_what_it_missed_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, metrics = VirtualClock(NOW), Metrics()
    heard = Heard(SOURCES, store, clock, metrics)
    await heard.look()
    clock.move_to(NOW + 5_000)
    for _ in range(1000):
        heard.note("stripe-lumi")

    async def away(name: str) -> dict[str, int]:
        raise StoreDown("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "times", away)
        await heard.look()
        assert silence(metrics, "stripe-lumi") == 0.0
    await heard.look()
    assert (await store.times(HEARD))["stripe-lumi"] == NOW + 5_000


async def test_the_gateway_hears_whom_it_believes_and_nobody_else() -> None:
    said: list[str] = []
    log: Any = ListLog()
    metrics = Metrics()
    app = make_app(
        sink=log,
        reader=FakeReader(),
        clock=VirtualClock(NOW),
        metrics=metrics,
        health=Health(metrics),
        inlets=INLETS,
        heard=said.append,
    )
    web = WebServer(app, "127.0.0.1", 0)
    await web.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{web.port}", timeout=10) as client:
        body = b'{"order": 1, "text": "gift"}'
        forged = {**signed(body), "x-toy-signature": "AAAA"}
        assert (await client.post("/v1/ingest/toy-lumi", content=body, headers=forged)).status_code == 401
        assert (await client.post("/v1/ingest/nobody", content=body, headers=signed(body))).status_code == 404
        assert said == []
        assert (await client.post("/v1/ingest/toy-lumi", content=body, headers=signed(body))).status_code == 202
        assert (await client.post("/v1/ingest/toy-lumi", content=body, headers=signed(body, topic="weather"))).status_code == 202
    await web.close()
    assert said == ["toy-lumi", "toy-lumi"]
