"""Webhooks of vendors through the whole installation: signed at the door, orders at the other end, nothing lost under `kill -9`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import random
import signal
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec

import wire
from connectors.delivery import decode_delivery
from streams.sqlite_log import EmbeddedLog
from tests.e2e_input.conftest import PARTITIONS, Installation, until

SHOPIFY, STRIPE = "shopify-lumi", "stripe-lumi"
KILLS = 3


def stripe_headers(body: bytes, secret: str, at: int) -> dict[str, str]:
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"stripe-signature": f"t={at},v1={digest}", "content-type": "application/json"}


def shopify_headers(body: bytes, secret: str, topic: str, id: str) -> dict[str, str]:
    signature = b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()
    return {
        "x-shopify-hmac-sha256": signature,
        "x-shopify-topic": topic,
        "x-shopify-webhook-id": id,
        "x-shopify-shop-domain": "lumi.example",
        "content-type": "application/json",
    }


def captured(number: int, order: str, amount: int) -> bytes:
    now = int(time.time())
    intent = {
        "id": f"pi_{number}",
        "object": "payment_intent",
        "amount": amount,
        "amount_received": amount,
        "currency": "eur",
        "created": now,
        "status": "succeeded",
        "metadata": {"order_id": order},
    }
    event = {"id": f"evt_{number}", "object": "event", "type": "payment_intent.succeeded", "created": now, "data": {"object": intent}}
    return json.dumps(event).encode()


def placed(number: int) -> bytes:
    now = wire.WallClock().now() // 1000
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now))
    order = {
        "id": number,
        "name": f"#{number % 10_000}",
        "order_number": number % 10_000,
        "created_at": stamp,
        "updated_at": stamp,
        "currency": "EUR",
        "total_price": "24.95",
        "current_total_price": "24.95",
        "total_outstanding": "24.95",
        "financial_status": "pending",
        "fulfillment_status": None,
        "cancelled_at": None,
        "email": "ana@example.invalid",
        "phone": None,
        "customer_locale": "pt-PT",
        "customer": {"id": 77, "email": "ana@example.invalid", "first_name": "Ana", "last_name": "Lima"},
        "line_items": [{"id": 1, "sku": "MUG-1", "title": "Mug", "quantity": 1, "current_quantity": 1, "price": "24.95", "variant_id": 5}],
        "shipping_address": {
            "first_name": "Ana",
            "last_name": "Lima",
            "address1": "Rua Nova 1",
            "city": "Lisboa",
            "zip": "1100-001",
            "country_code": "PT",
        },
        "shipping_lines": [{"title": "Standard", "code": "standard"}],
        "test": False,
    }
    return json.dumps(order).encode()


def post(installation: Installation, source: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return installation.web.post(f"/v1/ingest/{source}", content=body, headers=headers)


def paid(installation: Installation, order: str) -> dict[str, Any] | None:
    answer = installation.web.get(f"/v1/orders/{order}")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found if found.get("status") in ("payment_confirmed", "in_progress", "on_hold") else None


def test_a_shopify_order_and_its_stripe_payment_become_one_paid_order(installation: Installation) -> None:
    secret = installation.environment["SHOPIFY_SECRET"]
    number = 820_982_911_946_154_508
    body = placed(number)
    for _ in range(2):
        answer = post(installation, SHOPIFY, body, shopify_headers(body, secret, "orders/create", "w-1"))
        assert answer.status_code == 202, answer.text
    payment = captured(1, str(number), 2495)
    headers = stripe_headers(payment, installation.environment["STRIPE_SECRET"], int(time.time()))
    assert post(installation, STRIPE, payment, headers).json()["outcome"] == "accepted"
    order = until(lambda: paid(installation, f"lumi:{number}"), what="the order is not paid")
    assert order["id"] == f"lumi:{number}"
    forged = captured(2, str(number), 1)
    assert post(installation, STRIPE, forged, headers).status_code == 401


def test_a_signed_body_nobody_can_read_is_parked_and_found_again(installation: Installation) -> None:
    body = b'{"id":"evt_9","object":"event","type":"payment_intent.succeeded","created":"yesterday"}'
    headers = stripe_headers(body, installation.environment["STRIPE_SECRET"], int(time.time()))
    assert post(installation, STRIPE, body, headers).status_code == 202
    rows = until(
        lambda: [n for n, p in installation.parked().items() if p.topic == "deliveries" and b"evt_9" in p.value], what="not parked"
    )
    assert b'"yesterday"' in installation.cli("parked", "show", rows[0]).stdout


def gateway_pid(installation: Installation) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == installation.serving.pid and b"gateway" in words:
            return int(folder.name)
    return 0


def test_what_was_accepted_is_in_the_log_whenever_the_gateway_is_killed(installation: Installation) -> None:
    secret = installation.environment["STRIPE_SECRET"]
    accepted: list[str] = []
    ending = threading.Event()

    def feed(worker: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{installation.port}", timeout=5, trust_env=False) as client:
            for number in range(100_000):
                if ending.is_set():
                    return
                body = captured(worker * 1_000_000 + number, f"kill-{worker}-{number}", 100)
                try:
                    answer = client.post(f"/v1/ingest/{STRIPE}", content=body, headers=stripe_headers(body, secret, int(time.time())))
                    if answer.status_code == 202:
                        accepted.append(json.loads(body)["id"])
                except httpx.TransportError:
                    time.sleep(0.02)

    rng = random.Random(5)
    with ThreadPoolExecutor(4) as pool:
        feeding = [pool.submit(feed, worker) for worker in range(1, 5)]
        for _ in range(KILLS):
            before = len(accepted)
            until(lambda before=before: len(accepted) > before + 20, 60, "the gateway does not come back")  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(until(lambda: gateway_pid(installation)), signal.SIGKILL)
        until(lambda: Installation._ready(installation.web), 60, "the gateway does not come back")
        ending.set()
        for fed in feeding:
            fed.result()

    async def logged() -> set[str]:
        found = set()
        async with wire.opened(EmbeddedLog(installation.folder / "data" / "log")) as log:
            for partition in range(PARTITIONS):
                first, end = (await log.bounds("deliveries"))[partition]
                for record in await log.read("deliveries", partition, first, end - first):
                    with contextlib.suppress(msgspec.MsgspecError):  # other tests leave what nobody can read
                        found.add(decode_delivery(record.value).delivery)
        return found

    lost = set(accepted) - asyncio.run(logged())
    assert len(accepted) > 60 and not lost, f"{len(lost)} of {len(accepted)} accepted deliveries are lost"
    installation.rest()
