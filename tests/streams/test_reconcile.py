"""Whatever deliveries were lost: after reconciling, what is known is what a full feed would have told, and nothing is told twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.client import Client
from connectors.delivery import Delivery, decode_delivery, encode_delivery
from connectors.store import Store
from connectors.valkey import EmbeddedValkey
from connectors.vendor import reader
from model.features import features
from orders.fact import FactRetracted
from orders.policy import Policy
from orders.state import decode
from orders.view import view
from streams import reconcile as reconcile_module
from streams.clock import VirtualClock
from streams.dispatch import Modes
from streams.intake import IntakeProcessor
from streams.orders import OrdersProcessor
from streams.reconcile import REPAIRS, Known, Reconciler, Result, reconcile
from streams.references import ReferencesProcessor
from streams.stock import StockProcessor
from tests.connectors.toy_vendors import CARRIER, GATEWAY, SHOP, VENDORS, WAREHOUSE, Stub, account, clients, http, ok, pushed, stub
from tests.streams.town import Opinion, Provider, Town
from tests.streams.toy import MemoryLog

HOUR, DAY = 3_600_000, 86_400_000
T0 = 1_795_464_000_000
NOW = T0 + 2 * DAY
ORDERS = 3
BODIES = Path("bodies")  # nothing here is so large


class Killed(BaseException):
    """Stands for `kill -9`."""


def sale(n: int) -> dict[str, Any]:
    return {"id": f"{n}", "at": T0 + n}


def payment(n: int) -> dict[str, Any]:
    refund = {"refund": 400, "refunded_at": T0 + HOUR + n} if n == 1 else {}
    return {"id": f"p{n}", "order": f"{n}", "at": T0 + 1000 + n, "amount": 1000, **refund}


def parcel(n: int, scans: int = 3) -> dict[str, Any]:
    tags = ("in_transit", "out_for_delivery", "delivered")
    return {"tracking": f"T{n}", "order": f"{n}", "scans": [{"at": T0 + (k + 2) * HOUR + n, "tag": tags[k]} for k in range(scans)]}


def feed() -> list[Delivery]:
    """All that is pushed, in the order it happens; a carrier that pushed would tell the same scans as it answers."""
    told: list[Delivery] = []
    for n in range(ORDERS):
        told.append(pushed(SHOP, {"sold": [sale(n)]}, T0 + n))
        told.append(pushed(GATEWAY, {"paid": [payment(n)]}, T0 + 1000 + n))
        told += [pushed(CARRIER, parcel(n, scans), T0 + DAY) for scans in (1, 2, 3)]
    return told


class Installation:
    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, VirtualClock(NOW)
        self.log = MemoryLog(now=self.clock.now)
        log: Any = self.log
        readers = {f"{each.name}-lumi": reader(each, account(each, ""), BODIES) for each in VENDORS}
        policy = Policy(triggers=(), link_key="key", retire_after_ms=0, repeat_ms=90 * DAY, repeat_most_ms=90 * DAY)
        processors: dict[str, Any] = {
            "deliveries": lambda: IntakeProcessor("deliveries", readers),
            "references": ReferencesProcessor,
            "facts": lambda: OrdersProcessor(features, policy, {"webhook": "keyed"}),
            "stock": StockProcessor,
        }
        modes = Modes(channels={"webhook": "observe", "stock": "observe"})
        self.town = Town(store, log, self.clock, processors, {"webhook": Provider("keyed")}, modes, Opinion(0.05, 0.0))
        self.known = Known(store, 0, 1)
        self.reconciler = Reconciler(self.known, log, store, BODIES, self.clock)

    async def begin(self) -> None:
        await self.town.begin()
        assert not await self.town.wake()

    async def tell(self, *deliveries: Delivery) -> None:
        await self.log.append("deliveries", [(b"", encode_delivery(delivery)) for delivery in deliveries])
        await self.rest()

    async def rest(self) -> None:
        await self.town.rest(until=0)

    async def facts(self) -> dict[str, dict[Any, bytes]]:
        """By order, what wins of each natural key that somebody outside told."""
        found: dict[str, dict[Any, bytes]] = {}
        async for key, blob in self.store.states(self.known.lanes("orders")[0]):
            order = decode(blob)
            told = {name: its[0] for name, its in order.facts.items() if name[1].startswith("toy")}
            found[key] = {name: msgspec.json.encode(fact) for name, fact in told.items()}
        return found

    async def repair(self, asked: Sequence[Client]) -> list[Result]:
        """As `reconcile` does, with the lanes stepped by hand where it would wait for them."""
        carriers = [client for client in asked if client.can("tracking")]
        done = []
        for client in asked:
            result, lacking = await self.reconciler.repair(client, await self.reconciler.ask(client, T0 - DAY, carriers))
            await self.reconciler.count(result.found)
            await self.rest()
            assert not await self.known.missing(lacking)
            done.append(result)
        return done

    def appended(self) -> int:
        return len(self.log.values("deliveries"))


@asynccontextmanager
async def installed(server: EmbeddedValkey) -> AsyncIterator[Installation]:
    store = Store.from_url(server.url)
    await store._client.flushall()
    await store.start()
    made = Installation(store)
    await made.begin()
    yield made
    await store.close()


@pytest.fixture
async def installation(valkey_server: EmbeddedValkey) -> AsyncIterator[Installation]:
    async with installed(valkey_server) as made:
        yield made


def knowing(server: Stub) -> None:
    """The vendors know everything."""
    server.things["sold"] = [sale(n) for n in range(ORDERS)]
    server.things["paid"] = [payment(n) for n in range(ORDERS)]
    server.parcels = {f"T{n}": parcel(n) for n in range(ORDERS)}


FEED = feed()
whole: dict[str, dict[Any, bytes]] = {}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.lists(st.sampled_from(range(len(FEED))), unique=True))
def test_whatever_was_lost_is_found_and_a_second_time_nothing_is(valkey_server: EmbeddedValkey, kept: list[int]) -> None:
    """But for the parcel of which no word ever came: nobody knows that there is one to ask about."""

    async def run() -> None:
        if not whole:
            async with installed(valkey_server) as full:
                await full.tell(*FEED)
                whole.update(await full.facts())
        async with installed(valkey_server) as made, stub() as server, clients(server.url, made.clock.now, SHOP, GATEWAY, CARRIER) as asked:
            knowing(server)
            await made.tell(*(FEED[n] for n in kept))  # in any order
            first = await made.repair(asked)
            assert not any(result.failed for result in first)
            unheard = {f"lumi:{n}" for n in range(ORDERS) if not {5 * n + 2, 5 * n + 3, 5 * n + 4} & set(kept)}
            wanted = {
                order: {key: fact for key, fact in facts.items() if not (order in unheard and key[0] == "ParcelScanned")}
                for order, facts in whole.items()
            }
            assert await made.facts() == wanted
            before, tally = made.appended(), await made.store.tallies(REPAIRS)
            for result in await made.repair(asked):
                assert (result.found, result.appended, result.waiting) == ({}, 0, 0)
            assert made.appended() == before and await made.store.tallies(REPAIRS) == tally
            lost = [FEED[n] for n in range(len(FEED)) if n not in kept]
            assert tally.get("missed_paid", 0) == sum(each.source == "toypay-lumi" for each in lost)
            assert tally.get("missed_order", 0) == sum(each.source == "toyshop-lumi" for each in lost)

    asyncio.run(run())


async def test_a_lost_payment_is_found_once_and_the_order_is_paid_once(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, GATEWAY) as asked:
        knowing(server)
        server.things["paid"] = [payment(0)]
        await made.tell(pushed(SHOP, {"sold": [sale(0)]}, T0))
        (result,) = await made.repair(asked)
        assert result.found == {"missed_paid": 1} and result.appended == 1
        state = await made.store.state(made.known.lanes("orders")[0], "lumi:0")
        assert state is not None and view(decode(state)).captured == 1000 and view(decode(state)).paid_in_full
        delivery = decode_delivery(made.log.values("deliveries")[-1])
        assert delivery.topic == "answer:listing" and delivery.delivery.startswith("poll:") and json.loads(delivery.body)["paid"]
        await made.tell(pushed(GATEWAY, {"paid": [payment(0)]}, NOW))  # the webhook comes after all
        state = await made.store.state(made.known.lanes("orders")[0], "lumi:0")
        assert state is not None and view(decode(state)).captured == 1000
        assert await made.store.tallies(REPAIRS) == {"missed_paid": 1}


async def test_a_refund_and_a_delivery_have_kinds_of_their_own(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, GATEWAY, CARRIER) as asked:
        knowing(server)
        server.things["paid"] = [payment(1)]
        without = {name: value for name, value in payment(1).items() if not name.startswith("refund")}
        await made.tell(
            pushed(SHOP, {"sold": [sale(1)]}, T0), pushed(GATEWAY, {"paid": [without]}, T0), pushed(CARRIER, parcel(1, 1), T0 + 3 * HOUR)
        )
        pay, post = await made.repair(asked)
        assert pay.found == {"missed_refund": 1} and post.found == {"missed_delivery": 1, "missed_other": 1}
        assert server.paths().count("/parcel") == 1
        assert [result.found for result in await made.repair(asked)] == [{}, {}]
        assert server.paths().count("/parcel") == 1, "it has arrived: nobody asks any more"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http(503, b"", "retry-after: 30"), "provider_error"),
        (http(429, b"{}", "retry-after: 30"), "rate_limited"),
        (http(200, b'{"paid": [{"id": "p', length=300), "gateway"),
        (ok({"paid": [{"id": "p9"}]}), "malformed"),
        (http(404, b"{}"), "not_found"),
    ],
    ids=["5xx", "429", "truncated", "unreadable", "404"],
)
async def test_a_vendor_that_fails_half_way_changes_nothing_and_the_others_go_on(
    installation: Installation, answer: bytes, why: str
) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, GATEWAY, SHOP) as asked:
        knowing(server)
        server.raw = lambda path: answer if path.startswith("/paid") and "cursor=2" in path else None
        pay, shop = await made.repair(asked)
        assert (pay.stopped, pay.appended, pay.found) == (why, 0, {})
        assert pay.after_s == (30.0 if b"retry-after" in answer else None)
        assert shop.found == {"missed_order": ORDERS} and not shop.failed
        server.raw = lambda path: None
        again, _ = await made.repair(asked)
        assert again.found == {"missed_paid": ORDERS, "missed_refund": 1}


async def test_one_parcel_that_is_refused_is_passed_over_and_all_that_are_is_the_accounts_trouble(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        knowing(server)
        await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(2)))
        await made.tell(*(pushed(CARRIER, parcel(n, 1), T0 + 3 * HOUR) for n in range(2)))
        server.raw = lambda path: http(400, b"{}") if path.startswith("/parcel") else None
        (result,) = await made.repair(asked)
        assert result.stopped == "refused" and "400" in result.said
        server.raw = lambda path: http(400, b"{}") if "value=T0" in path else None
        (result,) = await made.repair(asked)
        assert not result.failed and result.found == {"missed_delivery": 1, "missed_other": 1}


async def test_killed_at_any_append_a_second_run_ends_the_work(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, GATEWAY, SHOP) as asked:
        knowing(server)
        append, left = made.reconciler.append, 1

        async def cut(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            await append(*arguments)

        monkeypatch.setattr(made.reconciler, "append", cut)
        with pytest.raises(Killed):
            await made.repair(asked)
        monkeypatch.setattr(made.reconciler, "append", append)
        await made.rest()
        first, second = await made.repair(asked)
        assert first.found == {"missed_paid": 1} and second.found == {"missed_order": ORDERS}
        assert [result.found for result in await made.repair(asked)] == [{}, {}]
        assert len((await made.facts())["lumi:1"]) == 3


async def test_a_fact_that_waits_for_its_order_is_not_missing(installation: Installation) -> None:
    """A payment whose order nobody ever names: it waits, it is parked, it is not found again and again."""
    made = installation
    nameless: Any = msgspec.structs.replace(
        GATEWAY,
        answers={
            "listing": msgspec.structs.replace(
                GATEWAY.answers["listing"],
                read=lambda account, listing, at: list(GATEWAY.answers["listing"].read(account, listing, at))[1:],
            )
        },
    )
    async with stub() as server, clients(server.url, made.clock.now, nameless) as asked:
        server.things["paid"] = [payment(0)]
        asking = await made.reconciler.ask(asked[0], 0, [])
        waits = list(nameless.read(asked[0].account, "answer:listing", asking.pages[0].body, NOW))
        assert len(await made.known.missing(waits)) == 1
        await made.log.append("references", [(b"payment:p0", msgspec.json.encode(waits[0]))])
        await made.rest()
        assert await made.known.missing(waits) == []
        await made.town.rest(until=2 * DAY)  # it is parked
        assert await made.known.missing(waits) == []


async def test_a_retraction_is_no_new_word_either(installation: Installation) -> None:
    made = installation
    await made.tell(pushed(SHOP, {"sold": [sale(0)]}, T0))
    fact = FactRetracted(order="lumi:0", system="toypay-lumi", object="p", at=T0, target_system="x", target_object="y", target_type="z")
    assert await made.known.missing([fact]) == [fact]
    await made.log.append("facts", [(b"lumi:0", msgspec.json.encode(fact))])
    await made.rest()
    assert await made.known.missing([fact]) == []
    assert await made.known.missing([msgspec.structs.replace(fact, at=T0 + 5)]) == [], "the same, seen later"


async def test_a_level_is_new_when_it_is_not_what_we_count(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, WAREHOUSE) as asked:
        server.things["counted"] = [{"sku": "mug", "on_hand": 5}]
        assert [(await made.repair(asked))[0].appended for _ in range(2)] == [1, 0]
        server.things["counted"] = [{"sku": "mug", "on_hand": 4}]
        made.clock.move_to(NOW + HOUR)
        assert [(await made.repair(asked))[0].appended for _ in range(2)] == [1, 0]
        assert await made.store.tallies(REPAIRS) == {}, "a count that moves is no missed report"


async def test_lanes_that_are_behind_are_waited_for(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    made = installation
    monkeypatch.setattr(reconcile_module, "LOOK_S", 0.0)
    assert await made.reconciler.calm(5.0)
    await made.log.append("deliveries", [(b"", encode_delivery(FEED[0]))])
    assert not await made.reconciler.calm(0.0)
    async with stub() as server, clients(server.url, made.clock.now, SHOP) as asked:
        knowing(server)
        running = asyncio.create_task(reconcile(made.reconciler, asked, [], T0 - DAY))
        while made.appended() < 3:
            await asyncio.sleep(0)
        assert not running.done()
        await made.rest()
        (result,) = await running
        assert result.waiting == 0 and result.found == {"missed_order": ORDERS}
        server.things["sold"].append(sale(7))
        (late,) = await reconcile(made.reconciler, asked, [], T0 - DAY, wait_s=0.0)
        assert late.waiting == 1, "nobody takes it in"


def test_the_kinds_are_those_of_the_metric() -> None:
    from metrics import Metrics

    kinds: Mapping[str, str] = {kind: kind for kind in (*reconcile_module.KINDS.values(), "missed_delivery", "missed_other")}
    metrics = Metrics()
    for kind in kinds:
        assert metrics.reconcile_repairs._close((kind,)) == (kind,)
