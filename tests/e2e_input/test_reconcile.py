"""A payment whose webhook never came, through the whole installation: found by the command or by the poller, once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

import settings as settings_module
import wire
from connectors.http import Request
from connectors.registry import VENDORS
from connectors.stand_in_vendors import Known, accounts
from connectors.stand_ins import PASSWORD
from connectors.vendor import Login, Question
from orders.fact import ParcelPacked, ParcelScanned, Quantity, Tracking
from streams.reconcile import REPAIRS
from tests.e2e_input.conftest import Installation, free_ports, until
from tests.e2e_input.test_ingest import post
from tests.e2e_input.webhooks import SHOPIFY, STRIPE, placed, shopify_headers, stripe_headers

KEY = "sk_of-the-gateway"


class Gateway:
    """Answers with all intents that it knows; `status` other than 200 is all it says."""

    def __init__(self) -> None:
        self.intents: list[dict[str, Any]] = []
        self.status, self.asked = 200, 0
        its = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                its.asked += 1
                allowed = self.headers["authorization"] == f"Bearer {KEY}"
                status = its.status if allowed else 401
                body = json.dumps({"object": "list", "has_more": False, "data": its.intents} if status == 200 else {}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A stand-in for Stripe's API, and a Stripe that asks it in the simplest way."""
    made = Gateway()
    question = Question(
        "payment_intents", lambda account, since, cursor: Request("GET", f"{account.url}/v1/payment_intents"), lambda reply: ""
    )
    login = Login(headers=lambda account, token: (("authorization", f"Bearer {account.credentials['secret_key'].reveal()}"),))
    monkeypatch.setitem(VENDORS, "stripe", msgspec.structs.replace(VENDORS["stripe"], questions={"payment_intents": question}, login=login))
    monkeypatch.setenv("STRIPE_KEY", KEY)
    yield made
    made.server.shutdown()
    made.server.server_close()


def configured(installation: Installation, gateway: Gateway, path: Path, **more: Any) -> Path:
    tree = yaml.safe_load(installation.config.read_text())
    stripe = next(account for account in tree["accounts"] if account["name"] == STRIPE)
    stripe |= {"url": gateway.url, "credentials": {"secret_key": {"env": "STRIPE_KEY"}}}
    path.write_text(yaml.safe_dump(tree | more))
    return path


def sold(installation: Installation, number: int, body: bytes = b"") -> str:
    body = body or placed(number)
    headers = shopify_headers(body, installation.environment["SHOPIFY_SECRET"], "orders/create", f"w-{number}")
    assert post(installation, SHOPIFY, body, headers).status_code == 202
    installation.rest()
    return f"lumi:{number}"


def intent(number: int, at_s: int) -> dict[str, Any]:
    return {
        "id": f"pi_{number}", "object": "payment_intent", "amount": 2495, "amount_received": 2495, "currency": "eur", "created": at_s,
        "status": "succeeded", "metadata": {"order_id": str(number)},
    }  # fmt: skip


def repairs(installation: Installation, kind: str = "missed_paid") -> tuple[float, float]:
    """As gateway and worker show them."""
    shown = []
    for client in (installation.web, installation.worker):
        wanted = f'orderflow_reconcile_repairs_total{{kind="{kind}"}} '
        shown.append(sum(float(line.rpartition(" ")[2]) for line in client.get("/metrics").text.splitlines() if line.startswith(wanted)))
    return shown[0], shown[1]


def tally(installation: Installation) -> int:
    return installation.ask(lambda store: store.tallies(REPAIRS)).get("missed_paid", 0)


def ends(installation: Installation) -> list[tuple[int, int]]:
    async def look() -> list[tuple[int, int]]:
        async with wire.opened(wire.log_of(installation.settings)) as log:
            return [bound for topic in ("deliveries", "facts", "references") for bound in (await log.bounds(topic)).values()]

    return asyncio.run(look())


def test_a_settled_payment_without_its_webhook_is_found_once(installation: Installation, gateway: Gateway, tmp_path: Path) -> None:
    number = 7_700_001
    order = sold(installation, number)
    before = tally(installation)
    gateway.intents = [intent(number, int(time.time()))]
    installation.config, own = configured(installation, gateway, tmp_path / "asking.yaml"), installation.config
    try:
        gateway.status = 503
        at_rest = ends(installation)
        said = installation.cli("reconcile", "--since", "24h", code=2).stdout.decode()
        assert "nothing was changed" in said and STRIPE in said and ends(installation) == at_rest
        gateway.status = 200
        first = json.loads(installation.cli("reconcile", "--since", "24h", "--json").stdout)
        assert (first["repairs"], first["found"]) == (1, {"missed_paid": 1}) and first["accounts"][0]["waiting"] == 0
        found = installation.order(order)
        assert found["status"] != "order_placed" and found["captured"] == 2495
        assert "nothing was missing" in installation.cli("reconcile").stdout.decode()
        until(lambda: repairs(installation) == (before + 1, before + 1), what="the metric does not show it")
        assert installation.cli("reconcile", "--source", "nobody", code=2).stderr.startswith(b"configuration: accounts: no account")
        assert b"90m, 24h, 7d" in installation.cli("reconcile", "--since", "yesterday", code=2).stderr
    finally:
        installation.config = own
    assert b"none can be asked" in installation.cli("reconcile", code=2).stderr
    assert KEY not in installation.logs()


def connected(installation: Installation, path: Path) -> Path:
    """The same accounts, with the stand-ins to ask."""
    tree = yaml.safe_load(installation.config.read_text())
    stand_ins = {one.account.source: one.account for one in accounts(installation.providers)}
    for account in tree["accounts"]:
        its = stand_ins[account["name"]]
        account |= {"url": its.url, "options": its.options, "credentials": {name: {"env": "STAND_IN"} for name in its.credentials}}
    path.write_text(yaml.safe_dump(tree))
    return path


def test_what_the_webhooks_of_three_vendors_did_not_say_is_found_by_asking_them_and_once(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", PASSWORD)
    unpaid, unheard, moving = 7_700_011, 7_700_012, 7_700_013
    tracking, now = "1ZLUMI000007700013", int(time.time())
    said = {"order": f"lumi:{moving}", "system": "wms:lumi"}
    order = placed(moving)
    lines = (Quantity(line=str(json.loads(order)["line_items"][0]["id"]), quantity=1),)
    sold(installation, unpaid)
    sold(installation, moving, order)
    paid = json.dumps(
        {"id": "evt_77", "type": "payment_intent.succeeded", "created": now, "data": {"object": intent(moving, now)}}
    ).encode()
    assert post(installation, STRIPE, paid, stripe_headers(paid, installation.environment["STRIPE_SECRET"], now)).status_code == 202
    installation.post(
        ParcelPacked(**said, object="packed", at=now * 1000 - 2000, parcel=tracking, lines=lines),
        ParcelScanned(
            **said,
            object="left",
            at=now * 1000 - 1000,
            parcel=tracking,
            tag=Tracking.IN_TRANSIT,
            carrier="ups",
            tracking=tracking,
            lines=lines,
        ),
    )
    installation.rest()
    assert installation.order(f"lumi:{moving}")["status"] == "shipped"
    at = time.gmtime(now)
    day, clock = time.strftime("%Y%m%d", at), time.strftime("%H%M%S", at)
    scan = {
        **dict.fromkeys(("localActivityDate", "gmtActivityDate"), day), **dict.fromkeys(("localActivityTime", "gmtActivityTime"), clock),
        "trackingNumber": tracking, "gmtOffset": "+00.00", "activityStatus": {"type": "D", "code": "FS"},
    }  # fmt: skip
    known = [
        Known("stripe", {"data": {"object": intent(unpaid, now)}}),
        Known("shopify", json.loads(placed(unheard)), "orders/create"),
        Known("stripe", {"data": {"object": intent(moving, now)}}),  # these two were told
        Known("shopify", json.loads(order), "orders/create"),
        Known("ups", scan),
    ]
    assert httpx.post(f"{installation.providers}/known", content=msgspec.json.encode(known), trust_env=False).status_code == 200
    installation.config, own = connected(installation, tmp_path / "asking.yaml"), installation.config
    try:
        first = json.loads(installation.cli("reconcile", "--since", "24h", "--json").stdout)
        assert first["found"] == {"missed_order": 1, "missed_paid": 1, "missed_delivery": 1}
        assert [account["waiting"] for account in first["accounts"]] == [0, 0, 0]
        assert installation.order(f"lumi:{unpaid}")["captured"] == 2495
        assert installation.order(f"lumi:{unheard}")["status"] == "order_placed"
        assert installation.order(f"lumi:{moving}")["status"] == "delivered"
        assert json.loads(installation.cli("reconcile", "--since", "24h", "--json").stdout)["repairs"] == 0
    finally:
        installation.config = own


def test_the_poller_finds_it_by_itself_and_ends_when_it_is_told(installation: Installation, gateway: Gateway, tmp_path: Path) -> None:
    number = 7_700_002
    order = sold(installation, number)
    before = tally(installation)
    gateway.intents = [intent(number, int(time.time()) - 3600)]
    (port,) = free_ports(1)
    http = {"port": installation.port, "worker_port": installation.worker_port, "poller_port": port}
    settings = settings_module.load(configured(installation, gateway, tmp_path / "asking.yaml", http=http))
    loop, told = asyncio.new_event_loop(), asyncio.Event()

    async def stop() -> None:
        await told.wait()

    codes: list[int] = []
    environment = {**installation.environment, "STRIPE_KEY": KEY}
    thread = threading.Thread(target=lambda: codes.append(loop.run_until_complete(wire.poller(settings, environment, stop))))
    thread.start()
    try:
        until(lambda: installation.order(order)["captured"] == 2495, what="the poller does not find it")
        until(lambda: repairs(installation) == (before + 1, before + 1), what="the metric does not show it")
        shown = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert 'orderflow_polls_total{outcome="new",vendor="stripe"} 1.0' in shown
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200)
    finally:
        loop.call_soon_threadsafe(told.set)
        thread.join(10)
        loop.close()
    assert codes == [0] and gateway.asked == 1


def test_the_gateway_shows_how_long_each_source_is_silent(installation: Installation) -> None:
    sold(installation, 7_700_003)

    def silent(source: str) -> float:
        lines = installation.web.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if "source_silence" in line and source in line), -1.0)

    until(lambda: 0 <= silent(SHOPIFY) < 5, what="nobody heard it")
    assert silent(STRIPE) >= 0
