"""How long does a signed webhook wait for its 202, and how many a second can there be before that takes 50 ms more than nothing at all?

A shop's orders and their payments, bodies signed beforehand, are sent by `wrk` at steady rates to a real gateway over the embedded
log, with a worker beside it that reads them, decides and commits (effects in observe). Between the rates the same requests go to a
route on the same server that reads the body and answers: what is left of the difference is ours. The 99th percentile is wrk's own,
of whole requests on kept connections.

Afterwards, at a rate that holds, orders are placed among the webhooks and looked for until `/v1/orders/{id}` and the customer's
`/track/{token}` both show them. They are looked for every 20 ms, so a time is up to that much too long, never too short.

    python bench/gateway.py
    python bench/gateway.py --rates 500,1000,2000 --seconds 10 --json
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import httpx
import msgspec
import yaml
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import wire
from bench.installation import _free_port, to_its_end
from bench.machine import machine, versions
from demo import look
from meter import Latencies
from orders.plan import signed
from settings import load

SHOPIFY, STRIPE, SIGNING = "bench-of-shopify", "bench-of-stripe", "bench-of-links-that-are-signed"
CONNECTIONS, THREADS = 64, 2
ALLOWED_MS = 50.0
READY_S = 60.0
PLACED_EVERY_S, LOOKED_EVERY_S, SEEN_WITHIN_S = 0.1, 0.02, 60.0
LUA = """
local lines, at, threads = {}, 0, 0
function setup(thread) thread:set("part", threads); threads = threads + 1 end -- a global of the thread's own state
function init(args)
  local n = 0
  for line in io.lines(args[1]) do
    if math.floor(n / 2) % THREADS == part then lines[#lines + 1] = line end -- an order and its payment
    n = n + 1
  end
end
function delay() return PAUSE_MS * (0.5 + math.random()) end
function request()
  at = at % #lines + 1
  local path, headers, body = lines[at]:match("^(.-)\\t(.-)\\t(.*)$")
  local set = {["content-type"] = "application/json"}
  for name, value in headers:gmatch("([^|=]+)=([^|]*)|") do set[name] = value end
  return wrk.format("POST", path, set, body)
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


class Row(msgspec.Struct):
    rate: int  # wanted, requests per second
    got: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    noop_p99_ms: float
    errors: int

    @property
    def ours_ms(self) -> float:
        return round(self.p99_ms - self.noop_p99_ms, 2)


class Visible(msgspec.Struct):
    """From the first byte of an order's webhook until both pages show it."""

    rate: int  # webhooks per second meanwhile
    got: float
    orders: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    missed: int  # not shown within `SEEN_WITHIN_S`


def _order(number: int, now: int) -> bytes:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now))
    lines = [
        {"id": number * 10 + n, "variant_id": n, "sku": f"SKU-{n}", "title": "Mug", "quantity": 1, "current_quantity": 1, "price": "24.95"}
        for n in range(1, 4)
    ]
    address = {
        "first_name": "Ana",
        "last_name": "Lima",
        "address1": "Rua Nova 1",
        "city": "Lisboa",
        "zip": "1100-001",
        "country_code": "PT",
    }
    order = {
        "id": number,
        "name": f"#{number}",
        "created_at": stamp,
        "updated_at": stamp,
        "currency": "EUR",
        "total_price": "74.85",
        "current_total_price": "74.85",
        "total_outstanding": "74.85",
        "financial_status": "pending",
        "email": f"customer.{number}@example.invalid",
        "customer": {"id": number, "first_name": "Ana", "last_name": "Lima"},
        "customer_locale": "pt-PT",
        "line_items": lines,
        "shipping_address": address,
        "billing_address": address,
        "shipping_lines": [{"title": "Standard", "code": "standard"}],
        "note_attributes": [{"name": f"attribute {n}", "value": "x" * 40} for n in range(20)],  # real bodies are 5 to 10 KB
    }
    return json.dumps(order).encode()


def _payment(number: int, now: int) -> bytes:
    intent = {
        "id": f"pi_{number}",
        "object": "payment_intent",
        "amount": 7485,
        "amount_received": 7485,
        "currency": "eur",
        "created": now,
        "status": "succeeded",
        "metadata": {"order_id": str(number)},
    }
    return json.dumps(
        {"id": f"evt_{number}", "object": "event", "type": "payment_intent.succeeded", "created": now, "data": {"object": intent}}
    ).encode()


def _from_shop(number: int, body: bytes) -> dict[str, str]:
    signature = b64encode(hmac.new(SHOPIFY.encode(), body, hashlib.sha256).digest()).decode()
    return {"x-shopify-hmac-sha256": signature, "x-shopify-topic": "orders/create", "x-shopify-webhook-id": f"w-{number}"}


def _lines(numbers: Iterator[int], count: int, noop: bool) -> Iterator[str]:
    """`path TAB header=value|header=value| TAB body`, an order and its payment in turn; signed now, as Stripe's signature has a time."""
    now = int(time.time())
    for number in itertools.islice(numbers, count // 2 + 1):
        order, payment = _order(number, now), _payment(number, now)
        shop = "|".join(f"{name}={value}" for name, value in _from_shop(number, order).items())
        paid = hmac.new(STRIPE.encode(), f"{now}.".encode() + payment, hashlib.sha256).hexdigest()
        path = "/noop" if noop else "/v1/ingest/shopify"
        yield f"{path}\t{shop}|\t{order.decode()}"
        path = "/noop" if noop else "/v1/ingest/stripe"
        yield f"{path}\tstripe-signature=t={now},v1={paid}|\t{payment.decode()}"


async def _wrk(folder: Path, port: int, rate: int, seconds: float, numbers: Iterator[int], noop: bool) -> list[float]:
    """requests, duration (us), errors, p50, p99, worst (us). Raises wire.Failed."""
    bodies = folder / "bodies.txt"
    bodies.write_text("\n".join(_lines(numbers, int(rate * seconds * 1.3) + 100, noop)) + "\n")
    script = folder / "wrk.lua"
    pause = CONNECTIONS / rate * 1000
    script.write_text(LUA.replace("THREADS", str(THREADS)).replace("PAUSE_MS", f"{pause:.3f}"))
    command = ["wrk", "-t", str(THREADS), "-c", str(CONNECTIONS), "-d", f"{seconds:.0f}s", "--timeout", "5s", "-s", str(script)]
    process = await asyncio.create_subprocess_exec(
        *command, f"http://127.0.0.1:{port}", "--", str(bodies), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    for line in said.decode().splitlines():
        if line.startswith("RESULT "):
            return [float(word) for word in line.split()[1:]]
    raise wire.Failed(f"wrk: {said.decode()[-300:]}")


@contextlib.asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[tuple[Path, int, int]]:
    """Worker, gateway and the no-op server: configuration, port, port."""
    port, worker_port, noop_port = _free_port(), _free_port(), _free_port()
    config = folder / "orderflow.yaml"
    tree = {
        "data": str(folder / "data"),
        "signing": {"env": "BENCH_SIGNING"},
        "http": {"port": port, "worker_port": worker_port},
        "accounts": [
            {"name": "shopify", "vendor": "shopify", "secrets": [{"env": "BENCH_SHOPIFY"}], "rate": 1e6, "reports_payments": False},
            {"name": "stripe", "vendor": "stripe", "secrets": [{"env": "BENCH_STRIPE"}], "rate": 1e6},
        ],
    }
    config.write_text(yaml.safe_dump(tree))
    environment = {**os.environ, "BENCH_SHOPIFY": SHOPIFY, "BENCH_STRIPE": STRIPE, "BENCH_SIGNING": SIGNING}
    roles: list[asyncio.subprocess.Process] = []
    settings = load(config)
    with (folder / "roles.log").open("ab") as said:
        async with wire.store_of(settings) as store, wire.opened(wire.log_of(settings)) as log:
            await wire.lay_out(settings, store, log)
            try:
                roles.append(await wire.role("worker", config, environment, stderr=said))
                roles.append(await wire.role("gateway", config, environment, stderr=said))
                noop = await asyncio.create_subprocess_exec(sys.executable, __file__, "--noop-port", str(noop_port), stderr=said)
                roles.append(noop)
                paths = ((port, "/readyz"), (worker_port, "/readyz"), (noop_port, "/"))
                await _answering([f"http://127.0.0.1:{p}{path}" for p, path in paths], roles, folder / "roles.log")
                yield config, port, noop_port
            finally:
                if roles:
                    await wire.end_roles(roles)


async def _answering(urls: list[str], roles: list[asyncio.subprocess.Process], said: Path) -> None:
    """Raises wire.Failed with the last they said."""
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        for _ in range(int(READY_S / 0.1)):
            ready = 0
            for url in urls:
                with contextlib.suppress(httpx.TransportError):
                    ready += (await client.get(url)).status_code in (200, 202)
            if ready == len(urls):
                return
            if any(role.returncode is not None for role in roles):
                break
            await asyncio.sleep(0.1)
    raise wire.Failed("gateway and worker did not become ready:\n" + "\n".join(said.read_text(errors="replace").splitlines()[-8:]))


async def _visible(folder: Path, config: Path, port: int, rate: int, seconds: float, numbers: Iterator[int]) -> tuple[Visible, int]:
    """And how many deliveries were answered 202. Raises wire.Failed."""
    settings = load(config)
    policy = wire.order_policy(settings, {"BENCH_SIGNING": SIGNING})
    seen, missed = Latencies(), 0
    loop = asyncio.get_running_loop()

    async def look_for(number: int) -> None:
        nonlocal missed
        body, order = _order(number, int(time.time())), f"{settings.shop}:{number}"
        began = loop.time()
        answer = await client.post("/v1/ingest/shopify", content=body, headers=_from_shop(number, body))
        if answer.status_code != 202:
            raise wire.Failed(f"an order was answered {answer.status_code}")
        for path in (f"/v1/orders/{order}", f"/track/{signed(order, 'track', policy)}"):
            while (await client.get(path)).status_code != 200:
                if loop.time() - began > SEEN_WITHIN_S:
                    missed += 1
                    return
                await asyncio.sleep(LOOKED_EVERY_S)
        seen.add(loop.time() - began)

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=SEEN_WITHIN_S) as client:
        load_ = asyncio.create_task(_wrk(folder, port, rate, seconds, numbers, noop=False))
        looking = []
        while not load_.done():
            await asyncio.sleep(PLACED_EVERY_S)
            looking.append(asyncio.create_task(look_for(next(numbers))))
        requests, took_us, errors, *_ = await load_
        await asyncio.gather(*looking)
    p50, p99, worst = (round(seen.quantile(q) * 1000, 1) for q in (0.5, 0.99, 1.0))
    return Visible(rate, round(requests / took_us * 1e6, 1), len(looking), p50, p99, worst, missed), int(requests - errors) + len(looking)


async def measure(rates: list[int], seconds: float, rounds: int, visible_at: int) -> tuple[list[Row], Visible, int]:
    """Rows, how soon orders are seen, and how many deliveries that were answered 202 are not in the log. Raises wire.Failed."""
    if shutil.which("wrk") is None:
        raise wire.Failed("wrk is not installed (Debian package wrk)")
    rows = []
    with tempfile.TemporaryDirectory(prefix="orderflow-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with _running(folder) as (config, port, noop_port):
            numbers = itertools.count(random.randrange(10**9, 10**10) * 1000)
            accepted = (await _wrk(folder, port, min(rates), min(3, seconds), numbers, noop=False))[0]  # not counted: connections, caches
            for rate in rates * rounds:
                noop = await _wrk(folder, noop_port, rate, seconds, numbers, noop=True)
                ours = await _wrk(folder, port, rate, seconds, numbers, noop=False)
                accepted += ours[0] - ours[2]
                requests, took_us, errors, *times = ours
                p50, p99, worst = (us / 1000 for us in times)
                rows.append(Row(rate, round(requests / took_us * 1e6, 1), p50, p99, worst, noop[4] / 1000, int(errors)))
            await _deliveries(config)  # what is left of the highest rate is nothing that this one has to wait for
            visible, more = await _visible(folder, config, port, visible_at, seconds * rounds, numbers)
            lost = int(accepted) + more - await _deliveries(config)
    return rows, visible, max(0, lost)


async def _deliveries(config: Path) -> int:
    """Deliveries in the log, when the worker has read them all. Raises wire.Failed."""
    settings = load(config)
    async with wire.store_of(settings, start=False) as store, wire.opened(wire.log_of(settings)) as log:
        for _ in range(600):
            picture = await look(settings, store, log)
            if picture.behind == 0:
                bounds = await log.bounds("deliveries")
                return sum(end for _, end in bounds.values())
            await asyncio.sleep(0.2)
    raise wire.Failed("the worker does not keep up")


def report(rows: list[Row], visible: Visible, lost: int, console: Console) -> None:
    say = console.print
    say(f"\n{machine()}\n{versions()}\n", highlight=False)
    say("| webhooks/s | got | p50, ms | p99, ms | worst, ms | no-op p99, ms | ours, ms | errors |\n|" + "---|" * 8, highlight=False)
    for row in rows:
        cells = (row.rate, row.got, row.p50_ms, row.p99_ms, row.worst_ms, row.noop_p99_ms, row.ours_ms, row.errors)
        say("| " + " | ".join(f"{cell:,}" for cell in cells) + " |", highlight=False)
    say(f"\naccepted and lost: {lost}; {crossing(rows)}", highlight=False)
    say(
        f"placed until seen on both pages, of {visible.orders:,} orders at {visible.got:,} webhooks/s: p50 {visible.p50_ms:,} ms, "
        f"p99 {visible.p99_ms:,} ms, worst {visible.worst_ms:,} ms; not seen within {SEEN_WITHIN_S:g} s: {visible.missed}",
        highlight=False,
    )


def crossing(rows: list[Row]) -> str:
    """From which rate on the median of ours is above what is allowed."""
    medians = {rate: statistics.median(row.ours_ms for row in rows if row.rate == rate) for rate in sorted({row.rate for row in rows})}
    above = [rate for rate, ours in medians.items() if ours >= ALLOWED_MS]
    if not above:
        return f"ours stays below {ALLOWED_MS:g} ms up to {max(medians):,}/s"
    return f"ours crosses {ALLOWED_MS:g} ms at {above[0]:,}/s"


def _serve_noop(port: int) -> None:
    from litestar.enums import ScopeType
    from litestar.types import Receive, Scope, Send

    from web.app import WebServer

    async def noop(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        more = True
        while more:
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    async def serve() -> None:
        server = WebServer(noop, "127.0.0.1", port)
        await server.start()
        await wire.stop_signal()
        await server.close()

    asyncio.run(serve())


@click.command(help=__doc__)
@click.option("--rates", default="500,1000,2000,3000", show_default=True, help="webhooks per second, one after another")
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(1, 3600))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--visible-at", default=1000, show_default=True, type=click.IntRange(1), help="webhooks per second while orders are looked for"
)
@click.option("--noop-port", default=0, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="one object on the last line")
def main(rates: str, seconds: float, rounds: int, visible_at: int, noop_port: int, as_json: bool) -> None:
    if noop_port:
        _serve_noop(noop_port)
        return
    try:
        rows, visible, lost = to_its_end(measure([int(rate) for rate in rates.split(",")], seconds, rounds, visible_at))
    except wire.Failed as error:
        raise click.ClickException(str(error)) from None
    report(rows, visible, lost, Console(soft_wrap=True))
    if as_json:
        found = {"gateway": msgspec.to_builtins(rows), "visible": msgspec.to_builtins(visible), "lost": lost}
        print(json.dumps({**found, "machine": machine(), "versions": versions()}))


if __name__ == "__main__":
    main()
