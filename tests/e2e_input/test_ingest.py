"""Webhooks of vendors through the whole installation: signed at the door, orders at the other end, nothing lost under `kill -9`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e_input.conftest import Installation, until
from tests.e2e_input.webhooks import SHOPIFY, STRIPE, Feed, captured, ends, faults, logged, placed, shopify_headers, stripe_headers

KILLS = 3


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
    since = asyncio.run(ends(installation))
    rng = random.Random(5)
    with Feed(installation.port, installation.environment, connections=4, first=1) as feed:
        for _ in range(KILLS):
            before = len(feed.accepted)
            until(lambda before=before: len(feed.accepted) > before + 20, 60, "the gateway does not come back")  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(until(lambda: gateway_pid(installation)), signal.SIGKILL)
        feed.finish()
    assert len(feed.accepted) > 60
    assert faults(feed, asyncio.run(logged(installation, since))) == []
    installation.rest()
