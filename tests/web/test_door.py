"""Who may come in."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx
import pytest

from metrics import Metrics
from streams.clock import VirtualClock
from tests.web.conftest import Site
from tests.web.facts import body, captured
from tests.web.fake_reader import NOW, FakeReader, ListLog
from web.app import WebServer, make_app
from web.health import Health
from web.identity import only

TOKEN = "correct horse"


@pytest.fixture
async def guarded() -> AsyncIterator[httpx.AsyncClient]:
    metrics = Metrics()
    health = Health(metrics)
    health.start()
    app = make_app(sink=ListLog(), reader=FakeReader(), clock=VirtualClock(NOW), metrics=metrics, health=health, people=only(TOKEN))  # type: ignore[arg-type]
    server = WebServer(app, "127.0.0.1", 0, guarded=True)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
    await server.close()
    await health.close()


async def test_without_the_token_nothing_is_shown(guarded: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/orders", "/v1/counters", "/metrics", "/openapi.json", "/static/app.css", "/nowhere"):
        answer = await guarded.get(path)
        assert answer.status_code == 401, path
        assert answer.json()["code"] == "unauthorized" and "www-authenticate" in answer.headers
    assert (await guarded.post("/v1/facts", content=body(captured()))).status_code == 401


async def test_probes_need_no_token(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.get("/healthz")).status_code == 200
    assert (await guarded.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        ("Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode(), 200),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer", 401),
        ("Basic !!!", 401),
        ("Basic " + base64.b64encode(TOKEN.encode()).decode(), 401),
        (TOKEN, 401),
    ],
)
async def test_the_token_comes_as_bearer_or_as_a_browsers_password(guarded: httpx.AsyncClient, shown: str, status: int) -> None:
    assert (await guarded.get("/v1/counters", headers={"authorization": shown})).status_code == status


def test_an_address_that_others_can_reach_needs_a_token() -> None:
    with pytest.raises(ValueError, match="token"):
        WebServer(None, "0.0.0.0", 0)  # type: ignore[arg-type]
    WebServer(None, "0.0.0.0", 0, guarded=True)  # type: ignore[arg-type]
    WebServer(None, "::1", 0)  # type: ignore[arg-type]


async def test_a_page_of_another_site_cannot_post(site: Site) -> None:
    refused = await site.post(body(captured()), origin="https://evil.example")
    assert refused.status_code == 403 and not site.log.records
    assert (await site.post(body(captured()), origin=f"http://127.0.0.1:{site.port}")).status_code == 202


async def test_another_name_for_our_address_is_refused(site: Site) -> None:
    """DNS rebinding: the browser believes that it talks to evil.example, and it does, at 127.0.0.1."""
    assert (await site.client.get("/v1/orders", headers={"host": "evil.example"})).status_code == 421
    assert (await site.client.get("/v1/orders", headers={"host": "localhost:1"})).status_code == 200
    assert (await site.client.get("/v1/orders", headers={"host": "[::1]:80"})).status_code == 200


async def test_every_answer_forbids_foreign_code(site: Site) -> None:
    for path in ("/", "/orders/lumi:1004", "/v1/orders", "/nowhere"):
        answer = await site.client.get(path)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_second_server_on_the_same_port_is_refused(site: Site) -> None:
    with pytest.raises(OSError, match="in use"):
        await WebServer(None, "127.0.0.1", site.port).start()  # type: ignore[arg-type]


async def test_headers_above_the_cap_are_refused(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")
    head = await asyncio.wait_for(reader.read(200), 5)
    assert head == b"" or b" 431 " in head.splitlines()[0] or b" 400 " in head.splitlines()[0]
    writer.close()
