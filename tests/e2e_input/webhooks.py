"""Webhooks of two vendors, signed; and vendors that send them from many connections, and again until they are answered 2xx."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import httpx

import wire
from connectors.delivery import decode_delivery
from streams.sqlite_log import EmbeddedLog
from tests.e2e_input.conftest import Installation
from wire import BODIES

SHOPIFY, STRIPE = "shopify-lumi", "stripe-lumi"
LARGE_EVERY = 20  # of a connection's orders one is too large for the log, and lies beside it
LARGE = 1024 * 1024
AGAIN_S = 0.02
ACCEPTED_WITHIN_S = 60.0


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


def placed(number: int, note: str = "") -> bytes:
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
        "note": note,
        "test": False,
    }
    return json.dumps(order).encode()


class Sending(NamedTuple):
    """One delivery, however often it is sent."""

    source: str
    id: str
    body: bytes

    def headers(self, secrets: Mapping[str, str]) -> dict[str, str]:
        if self.source == STRIPE:
            return stripe_headers(self.body, secrets["STRIPE_SECRET"], int(time.time()))
        return shopify_headers(self.body, secrets["SHOPIFY_SECRET"], "orders/create", self.id)


class Feed:
    """Sends from many connections at once until `finish`. Keys are those of the log: source/delivery."""

    def __init__(self, port: int, secrets: Mapping[str, str], connections: int, first: int) -> None:
        """`first`: number of the first order; those of other feeds are a trillion away."""
        self._url, self._secrets, self._first = f"http://127.0.0.1:{port}", secrets, first * 10**12
        self.accepted: dict[str, bytes] = {}  # key -> digest of the body
        self.unanswered: Counter[str] = Counter()  # sent, and nobody told whether it was taken
        self.large = 0
        self.strange: list[str] = []  # answers that a vendor should never get
        self._ending, self._stopped = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(connections)
        self._senders: Sequence[Future[None]] = [self._pool.submit(self._send, number) for number in range(connections)]

    def finish(self) -> None:
        """Returns when all that was begun is accepted. Raises TimeoutError when that takes too long."""
        self._ending.set()
        for sender in self._senders:
            sender.result(ACCEPTED_WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops, whatever is not accepted."""
        self._ending.set()
        self._stopped.set()
        self._pool.shutdown()

    def _send(self, connection: int) -> None:
        with httpx.Client(base_url=self._url, timeout=10, trust_env=False) as client:
            for number in itertools.count(1):
                if self._ending.is_set():
                    return
                sending = self._made(connection, number)
                key = f"{sending.source}/{sending.id}"
                while not self._taken(client, sending, key):
                    if self._stopped.wait(AGAIN_S):
                        return
                self.accepted[key] = _digest(sending.body)

    def _made(self, connection: int, number: int) -> Sending:
        order = self._first + connection * 10**9 + number // 2
        if number % 2:
            return Sending(STRIPE, f"evt_{order}", captured(order, str(order), 2495))
        large = (number // 2 + connection) % LARGE_EVERY == 0
        self.large += large
        return Sending(SHOPIFY, f"w-{order}", placed(order, "x" * LARGE if large else ""))

    def _taken(self, client: httpx.Client, sending: Sending, key: str) -> bool:
        try:
            answer = client.post(f"/v1/ingest/{sending.source}", content=sending.body, headers=sending.headers(self._secrets))
        except httpx.ConnectError:
            return False
        except httpx.TransportError:
            self.unanswered[key] += 1
            return False
        if answer.status_code == 503:
            self.unanswered[key] += 1
        elif answer.status_code not in (202, 429):
            self.strange.append(answer.text)
        return answer.status_code == 202


async def logged(installation: Installation, since: Mapping[int, int]) -> dict[str, list[bytes]]:
    """Digests of the bodies in the log from these offsets on, by key; those that lie beside it are read there."""
    found: dict[str, list[bytes]] = {}
    async with wire.opened(EmbeddedLog(installation.folder / "data" / "log")) as log:
        for partition, (_, end) in (await log.bounds("deliveries")).items():
            for record in await log.read("deliveries", partition, since[partition], end - since[partition]):
                delivery = decode_delivery(record.value)
                body = (installation.settings.folder / BODIES / delivery.beside).read_bytes() if delivery.beside else delivery.body
                assert record.key == f"{delivery.source}/{delivery.delivery}".encode()
                found.setdefault(record.key.decode(), []).append(_digest(body))
    return found


async def ends(installation: Installation) -> dict[int, int]:
    async with wire.opened(EmbeddedLog(installation.folder / "data" / "log")) as log:
        return {partition: end for partition, (_, end) in (await log.bounds("deliveries")).items()}


def faults(feed: Feed, found: Mapping[str, Sequence[bytes]]) -> list[str]:
    """What a finished feed was promised and the log does not hold, or holds otherwise."""
    said = [f"answered: {text}" for text in feed.strange]
    for key, digest in feed.accepted.items():
        copies = found.get(key, ())
        if not copies:
            said.append(f"{key} was accepted and is lost")
        if any(copy != digest for copy in copies):
            said.append(f"{key} is there with other bytes")
        if len(copies) > 1 + feed.unanswered[key]:
            said.append(f"{key} is there {len(copies)} times, {feed.unanswered[key]} of its sendings were not answered")
    return said + [f"{key} was never sent" for key in found.keys() - feed.accepted.keys()]


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
