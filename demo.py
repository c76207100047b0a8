"""The demo: a whole installation on embedded defaults, a seeded shop that feeds it, and a console that shows it.

This process starts the others (stand-ins, worker, gateway), owns the embedded store, and tells the gateway what happens: with signed
webhooks as Shopify, Stripe, a warehouse and UPS would, with facts as a shop of one's own would. It imports neither Faust nor Ray nor
torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

import settings as settings_module
import wire
from connectors.base import Secret
from connectors.delivery import Delivery, encode_delivery
from connectors.fake_shop import FakeShop, Report
from connectors.fake_vendors import LOCATION, SOURCES, FakeVendors, Webhook
from connectors.fake_vendors import SIGNING as WORDS
from connectors.stand_in_vendors import Known, accounts
from connectors.stand_ins import ACCOUNT, PASSWORD, PROJECT, SIGNING
from connectors.store import Store
from meter import read_stats
from orders.fact import Fact, encode_fact
from settings import Settings
from streams.clock import WallClock
from streams.transport import Log

TICK_S = 0.1
READY_S = 60.0
REST_S = 60.0  # after the last report: everything done by then, or it is shown as waiting
STATUS_ORDER = (
    *("order_placed", "on_hold", "payment_failed", "payment_confirmed", "in_progress", "backordered", "partially_shipped", "shipped"),
    *("out_for_delivery", "exception", "partially_delivered", "delivered", "returned", "refunded", "cancelled"),
)
MESSAGES = frozenset({"email", "sms", "push"})  # of the channels; by the others leaves what is said to systems
FEED_CONNECTIONS = 32
TWICE_EVERY, FORGED_EVERY = 40, 97  # of the webhooks, with faults
SIGNED_IN = frozenset({"x-shopify-hmac-sha256", "stripe-signature", "webhook-signature", "credential"})
VENDOR_OF = {source: vendor for vendor, source in SOURCES.items()}
ROLES = ("worker", "gateway", "archive")
DOES = {  # where an account may not do all that its vendor can
    # The warehouse of this world prints its labels itself, whatever we hold: one that we bought would be the parcel's second.
    "ups": ["tracking.subscribe"],
}
POISON = (
    b'{"type":"OrderPlaced","v":1',  # broken JSON
    b'{"type":"PaymentCaptured","order":"lumi:1","system":"pay:lumi","object":"x","at":1795464000000,"amount":"12,50","currency":"EUR"}',
    b'{"type":"ParcelTeleported","order":"lumi:1","system":"dhl:lumi","object":"x","at":1795464000000}',
)


class Options(msgspec.Struct, frozen=True):
    orders: int
    seconds: float
    seed: int
    data: Path | None
    port: int
    faults: bool
    stay: bool
    console: bool


class Feed:
    """Tells what happens at its times: as signed webhooks of vendors or, where the shop speaks our own words, as facts.

    What the gateway does not take is told again. With faults some webhooks come twice, and some with a wrong signature first.
    """

    def __init__(self, shop: FakeShop, orders: int, first: int, url: str, stand_ins: str, log: Log, faults: bool) -> None:
        self.shop, self.orders, self.first, self.log, self.faults = shop, orders, first, log, faults
        self.stand_ins = stand_ins
        limits = httpx.Limits(max_connections=FEED_CONNECTIONS)
        self.client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, limits=limits)
        self.clock = WallClock()
        self.vendors = FakeVendors(shop, {vendor: Secret(word) for vendor, word in WORDS.items()}, self.clock.now)
        self.webhooks = 0
        self.done = False

    async def run(self) -> None:
        if self.faults:
            await self.log.append("facts", [(f"{self.shop.shop}:poison-{n}".encode(), body) for n, body in enumerate(POISON)])
        await self._known(self.vendors.orders(range(self.first)))  # of runs before
        levels = self.shop.levels()
        await self._deliver([self.vendors.levels(levels[at : at + 100]) for at in range(0, len(levels), 100)])
        batch: list[Report] = []
        for report in islice(self.shop.reports(self.orders, self.first), len(levels), None):
            while report.arrives > self.clock.now() or len(batch) >= 2000:
                await self._tell(batch)
                batch = []
                if report.arrives > self.clock.now():
                    await asyncio.sleep(TICK_S)
            batch.append(report)
        await self._tell(batch)
        self.done = True
        await self.client.aclose()

    async def _tell(self, reports: list[Report]) -> None:
        webhooks: list[Webhook] = []
        facts: list[Fact] = []
        others: list[Any] = []
        for report in reports:
            record: Any = report.record
            told = self.vendors.tell(record)
            if told is not None:
                webhooks += told
                facts += filter(None, [self.vendors.checked(record)])
            elif isinstance(record, Fact):
                facts.append(self.vendors.in_own_words(record))
            else:
                others.append(record)
                if report.topic == "customers":
                    others.append(msgspec.structs.replace(record, customer=self.vendors.as_shopify_knows(record.customer)))
        await self._deliver(webhooks)
        if others:  # an app of the shop's own, which writes to our log itself
            now = self.clock.now()
            rows = [Delivery(source="canonical", delivery=f"{now}-{n}", at=now, body=encode_fact(other)) for n, other in enumerate(others)]
            await self.log.append("deliveries", [(f"canonical/{row.delivery}".encode(), encode_delivery(row)) for row in rows])
        for begin in range(0, len(facts), 500):
            body = b"\n".join(encode_fact(fact) for fact in facts[begin : begin + 500])
            await self._post("/v1/facts", body, {"content-type": "application/x-ndjson"})

    async def _deliver(self, webhooks: list[Webhook]) -> None:
        """Those of one moment side by side, as from different computers; of one system they may overtake each other."""
        await self._known(webhooks)
        for begin in range(0, len(webhooks), FEED_CONNECTIONS):
            sent = []
            for webhook in webhooks[begin : begin + FEED_CONNECTIONS]:
                path, self.webhooks = f"/v1/ingest/{webhook.source}", self.webhooks + 1
                if self.faults and self.webhooks % FORGED_EVERY == 0:
                    forged = {name: value[::-1] if name in SIGNED_IN else value for name, value in webhook.headers.items()}
                    answer = await self.client.post(path, content=webhook.body, headers=forged)
                    if answer.status_code != 401:
                        raise wire.Failed(f"the gateway believes a forged webhook: {answer.status_code}")
                twice = 2 if self.faults and self.webhooks % TWICE_EVERY == 0 else 1
                sent += [self._post(path, webhook.body, webhook.headers) for _ in range(twice)]
            await asyncio.gather(*sent)

    async def _known(self, webhooks: list[Webhook]) -> None:
        """What vendors tell, they know: the stand-ins may be asked for it."""
        for begin in range(0, len(webhooks), 500):
            things = [
                Known(VENDOR_OF[webhook.source], json.loads(webhook.body), webhook.headers.get("x-shopify-topic", ""))
                for webhook in webhooks[begin : begin + 500]
            ]
            (await self.client.post(f"{self.stand_ins}/known", content=msgspec.json.encode(things))).raise_for_status()

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        while True:
            try:
                answer = await self.client.post(path, content=body, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                return
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                raise wire.Failed(f"the gateway refuses what the demo sends to {path}: {answer.status_code} {answer.text[:300]}")
            await asyncio.sleep(0.5)


def configuration(folder: Path, port: int, ports: dict[str, int]) -> Path:
    """The file the roles read: everything live, against the stand-ins."""
    hook = f"http://127.0.0.1:{ports['http']}"
    token, receipts = {"env": "ORDERFLOW_STAND_IN"}, "https://shop.invalid/receipts/twilio"
    sms = {"url": hook, "account": ACCOUNT, "token": token, "sender": "+15005550006", "status_callback": receipts}
    signing = {"env": "ORDERFLOW_SIGNING"}
    pace = {"mode": "live", "rate": 500.0}
    connected = {one.vendor: one.account for one in accounts(hook)}
    tree = {
        "data": str(folder),
        "http": {"port": port, "worker_port": 0, "archive_port": 0},
        "brand": {"tracking_base": f"http://127.0.0.1:{port}"},
        "workflow": {"settle_minutes": 0.05, "feedback_after_hours": 0.001, "location": LOCATION},
        "accounts": [
            {
                "name": source,
                "vendor": vendor,
                "secrets": [{"env": f"ORDERFLOW_{vendor.upper()}"}],
                "rate": 5000.0,
                "location": LOCATION,
                "reports_payments": vendor != "shopify",
                "reports_parcels": vendor != "shopify",
                "writes_back": vendor == "shopify",
                "url": connected[vendor].url,
                "credentials": dict.fromkeys(connected[vendor].credentials, token),
                "options": connected[vendor].options,
                "does": DOES.get(vendor, []),
            }
            for vendor, source in SOURCES.items()
        ],
        "channels": {
            "email": {**pace, "port": ports["smtp"], "tls": "off"},
            "sms": {**pace, **sms},
            "push": {**pace, "url": hook, "project": PROJECT, "token": token},
            "webhook": {**pace, "url": f"{hook}/hooks/events", "secret": signing, "private": True},
            "stock": {"mode": "live"},
            "systems": {**pace, "private": True},
        },
        "origin": {"name": "Lumi Zone", "lines": ["Lindenstraße 1"], "city": "Berlin", "postcode": "10115", "country": "DE"},
    }
    path = folder / "orderflow.yaml"
    path.write_text("# written by the demo at each start\n" + yaml.safe_dump(tree))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def installation(
    folder: Path, port: int, options: Options, environ: Mapping[str, str], stopping: asyncio.Future[Any]
) -> AsyncIterator[tuple[Settings, Store, Log]]:
    """Stand-ins, store, log and our roles, until the block ends; given up in mid-start when `stopping` is done."""
    ports_file = folder / "stand_ins.json"
    ports_file.unlink(missing_ok=True)
    (folder / "stats.json").unlink(missing_ok=True)
    environment = {**environ, "ORDERFLOW_STAND_IN": PASSWORD, "ORDERFLOW_SIGNING": SIGNING}
    environment |= {f"ORDERFLOW_{vendor.upper()}": word for vendor, word in WORDS.items()}
    misbehave = "--faults" if options.faults else "--no-faults"
    with (folder / "roles.log").open("ab") as roles_log:
        stand_ins = await wire.role(
            "stand-ins", None, environment, "--folder", str(folder), "--seed", str(options.seed), misbehave, stderr=roles_log
        )
        try:
            await _until(ports_file.exists, "the stand-ins", lambda: stand_ins.returncode is not None or stopping.done(), folder)
            config = configuration(folder, port, json.loads(ports_file.read_text()))
            settings = settings_module.load(config)
            async with wire.store_of(settings) as store, wire.opened(wire.log_of(settings)) as log:
                await wire.lay_out(settings, store, log)
                (folder / "received.jsonl").touch()
                running: dict[str, asyncio.subprocess.Process] = {}
                kept = [asyncio.create_task(wire.keep(name, [name], config, environment, running, roles_log)) for name in ROLES]
                try:
                    given_up = partial(_any_done, [*kept, stopping])
                    await _until(partial(_ready, folder / "stats.json"), "the worker", given_up, folder)
                    async with httpx.AsyncClient(trust_env=False) as client:
                        await _until(partial(_healthy, client, port), "the gateway", given_up, folder)
                    yield settings, store, log
                finally:
                    for task in kept:
                        task.cancel()
                    await wire.end_roles(list(running.values()))
        finally:
            await wire.end_roles([stand_ins])


async def _until(true: Callable[[], bool | Awaitable[bool]], what: str, given_up: Callable[[], bool], folder: Path) -> None:
    for _ in range(int(READY_S / 0.05)):
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        if given_up():
            break
        await asyncio.sleep(0.05)
    tail = (folder / "roles.log").read_text(errors="replace").strip().splitlines()[-5:]
    raise wire.Failed(f"{what} did not come up; the last it said:\n" + "\n".join(tail))


def _any_done(tasks: list[asyncio.Future[Any]]) -> bool:
    return any(task.done() for task in tasks)


def _ready(stats: Path) -> bool:
    return stats.exists() and bool(read_stats(stats)["ready"])


async def _healthy(client: httpx.AsyncClient, port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
    return False


class Picture(msgspec.Struct):
    """What is known at one moment, for the console and, as `result`, for who asked for the run."""

    orders: int = 0
    statuses: dict[str, int] = {}
    tags: dict[str, int] = {}
    facts_in: int = 0
    done: int = 0
    parked: int = 0
    waiting: int = 0
    behind: int = 0
    scores: int = 0
    fallback_scores: int = 0
    messages: dict[str, int] = {}
    effects: dict[str, int] = {}
    duplicates: int = 0

    def result(self, statuses: Mapping[str, int]) -> dict[str, Any]:
        return {
            "orders": sum(statuses.values()),
            "orders_by_status": dict(statuses),
            "facts_in": self.facts_in,
            "done": self.done,
            "parked": self.parked,
            "waiting": self.waiting,
            "messages": self.messages,
            "effects": self.effects,
            "duplicate_messages": self.duplicates,
            "unknown": self.tags.get("unknown", 0),
            "scores": self.scores,
            "fallback_scores": self.fallback_scores,
        }


async def look(settings: Settings, store: Store, log: Log) -> Picture:
    orders = wire.lanes(settings, ["orders"])
    tags = await store.tag_counts(orders)
    behind = waiting = facts_in = 0
    counters = Counter[str]()
    for topic, processor in wire.PROCESSOR_OF.items():
        bounds = await log.bounds(topic)
        for standing in await store.standing(wire.lanes(settings, [processor])):
            end = bounds.get(standing.lane.partition, (0, 0))[1]
            behind += end - (standing.offset or 0)
            if processor == "orders":
                facts_in += end
                waiting += end - (standing.offset or 0)
                counters.update(standing.counts)  # of the same moment as its offset
    left, duplicates = await asyncio.to_thread(_received, settings.folder / "received.jsonl")
    statuses = {name: tags[name] for name in STATUS_ORDER if name in tags}
    model, fallback = counters["model_scores"], counters["fallback_scores"]
    return Picture(
        orders=sum(statuses.values()),
        statuses=statuses,
        tags=tags,
        facts_in=facts_in,
        done=counters["done"],
        parked=counters["parked"],
        waiting=waiting,
        behind=behind,
        scores=model + fallback,
        fallback_scores=fallback,
        messages={channel: count for channel, count in left.items() if channel in MESSAGES},
        effects={channel: count for channel, count in left.items() if channel not in MESSAGES},
        duplicates=duplicates,
    )


def _received(ledger: Path) -> tuple[Counter[str], int]:
    """What left, by channel, and how much of it came a second time, as the stand-ins counted it."""
    by_channel: Counter[str] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    with contextlib.suppress(FileNotFoundError):
        for line in ledger.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                row = msgspec.json.decode(line)
                by_channel[row["channel"]] += 1
                seen[row["channel"], row["effect"]] += 1
    return by_channel, sum(count - 1 for count in seen.values())


def picture_rows(picture: Picture, rate: float, url: str) -> Group:
    flow = Table.grid(padding=(0, 3))
    counts = (f"{picture.waiting} waiting", f"{picture.parked} parked", f"{picture.scores} scores")
    flow.add_row(f"[bold]orderflow[/]  {url}", f"{rate:,.0f} facts/s", *counts)
    statuses = Table(title="orders", title_justify="left", box=None, show_header=False)
    widest = max(picture.statuses.values(), default=1)
    for name, count in picture.statuses.items():
        statuses.add_row(name.replace("_", " "), f"{count:>6}", "[cyan]" + "▇" * max(1, round(40 * count / widest)) + "[/]")
    sent = Table(title="messages and effects that left", title_justify="left", box=None, show_header=False)
    for channel, count in (*sorted(picture.messages.items()), *sorted(picture.effects.items())):
        sent.add_row(channel, f"{count:>6}")
    return Group(flow, "", statuses, "", sent)


async def run(options: Options, environ: Mapping[str, str]) -> dict[str, Any]:
    """Raises wire.Failed with what did not come up."""
    with _folder(options.data) as folder:
        port = options.port or free_port()
        url = f"http://127.0.0.1:{port}"
        screen = Console(stderr=True)
        first = _first(folder, options.orders)
        stopping = await wire.heard(wire.stop_signal)
        with screen.status("starting store, log, Ray, worker and gateway") if options.console else contextlib.nullcontext():
            stack = contextlib.AsyncExitStack()
            settings, store, log = await stack.enter_async_context(installation(folder, port, options, environ, stopping))
        async with stack:
            shop = FakeShop.demo(options.seed, options.orders, options.seconds, WallClock().now())
            shop.start_ms -= first * shop.interval_ms
            stand_ins = f"http://127.0.0.1:{json.loads((folder / 'stand_ins.json').read_text())['http']}"
            feed = Feed(shop, options.orders, first, url, stand_ins, log, options.faults)
            return await _watch(feed, settings, store, log, url, screen if options.console else None, options.stay, stopping)


def _first(folder: Path, orders: int) -> int:
    """Number of the first order of this run: a folder goes on where its last run ended."""
    memory = folder / "demo.json"
    first: int = json.loads(memory.read_text())["next"] if memory.exists() else 0
    memory.write_text(json.dumps({"next": first + orders}))
    return first


@contextlib.contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    if data is not None:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield data.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="orderflow-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _watch(
    feed: Feed, settings: Settings, store: Store, log: Log, url: str, screen: Console | None, stay: bool, stopping: asyncio.Future[Any]
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    feeding = asyncio.create_task(feed.run())
    began, fed_at = loop.time(), 0.0
    before = await look(settings, store, log)
    picture, since, quiet = before, began, 0
    peak = 0
    live = Live(console=screen, refresh_per_second=4) if screen else None
    with live or contextlib.nullcontext():
        while not stopping.done():
            await asyncio.sleep(0.5)
            if feeding.done():
                feeding.result()
                fed_at = fed_at or loop.time()
            now = await look(settings, store, log)
            rate = (now.done - picture.done) / max(loop.time() - since, 1e-6)
            still = now.behind == 0 and (now.messages, now.effects) == (picture.messages, picture.effects)
            quiet = quiet + 1 if still else 0
            picture, since = now, loop.time()
            peak = max(peak, await asyncio.to_thread(memory_pss))
            if live is not None:
                live.update(picture_rows(picture, rate, url))
            if fed_at and not stay and (quiet >= 6 or loop.time() - fed_at > REST_S):
                break
    stopping.cancel()
    feeding.cancel()
    elapsed = (fed_at or loop.time()) - began
    stats = read_stats(settings.folder / "stats.json")
    return {
        **picture.result(picture.statuses),
        "facts_per_second": round((picture.done - before.done) / elapsed, 1),
        "latency_ms": stats["latency_ms"],
        "memory_pss_mb": round(peak / 1e6),
    }


def memory_pss() -> int:
    """Proportional set size of this process and all it started, bytes."""
    from actors.ray_local import process_tree

    total = 0
    for pid in process_tree(os.getpid()):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table(box=None, show_header=False)
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in value.items())
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)
