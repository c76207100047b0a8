"""The poller: who is asked when, on a clock moved by hand; what a vendor asks for is obeyed; two pollers are one."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from connectors.base import Ability, Answer, Done, Reason, TryLater
from connectors.client import SUBSCRIBE, TRACKING, Client
from connectors.http import Reply, Request
from connectors.valkey import EmbeddedValkey
from connectors.vendor import Account, Action, Ask
from orders.state import decode
from streams import poller as poller_module
from streams.poller import LEASE_MS, LOOK_MS, RECENT_MS, SUBSCRIBED, UNDER_WAY_MS, Paces, Poller
from streams.reconcile import REPAIRS
from tests.connectors.toy_vendors import CARRIER, GATEWAY, SHELVES, SHOP, WAREHOUSE, clients, http, ok, pushed, stub
from tests.streams.test_reconcile import NOW, T0, Installation, installed, knowing, parcel, payment, sale

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
PACES = Paces(5 * MINUTE, HOUR)


@pytest.fixture
async def installation(valkey_server: EmbeddedValkey) -> AsyncIterator[Installation]:
    async with installed(valkey_server) as made:
        yield made


def polling(made: Installation, asked: list[Client], pushing: set[str] | None = None) -> tuple[Poller, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    poller = Poller(asked, pushing or set(), made.reconciler, made.store, made.clock, PACES, lambda *said: told.append(said))
    return poller, told


async def shipped(made: Installation, scans: int = 1, carrier: Any = CARRIER) -> None:
    await made.tell(pushed(SHOP, {"sold": [sale(0)]}, T0), pushed(carrier, parcel(0, scans), NOW))


async def statuses(made: Installation) -> dict[str, int]:
    return await made.store.tag_counts(made.known.lanes("orders"))


async def test_a_parcel_on_the_way_is_asked_about_until_it_has_arrived(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        server.parcels["T0"] = parcel(0, 1)
        await shipped(made)
        poller, told = polling(made, asked)
        await poller.turn()
        assert told == [("toypost", "known")]
        await poller.turn()
        assert len(told) == 1, "not before it is due"
        server.parcels["T0"] = parcel(0, 3)
        job = poller.jobs["toypost-lumi"][TRACKING, "T0"]
        made.clock.move_to(job.due)
        await poller.turn()
        await made.rest()
        assert told[-1] == ("toypost", "new") and (await statuses(made)).get("delivered") == 1
        made.clock.move_to(made.clock.now() + LOOK_MS)
        await poller.turn()
        assert not poller.jobs["toypost-lumi"] and len(told) == 2
        assert await made.store.tallies(REPAIRS) == {}, "nobody had promised to push it"


async def test_a_webhook_and_a_poll_of_one_scan_are_one_event(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        server.parcels["T0"] = parcel(0, 2)
        await shipped(made)
        poller, _ = polling(made, asked)
        await poller.turn()
        await made.rest()
        await made.tell(pushed(CARRIER, parcel(0, 2), NOW))
        state = await made.store.state(made.known.lanes("orders")[0], "lumi:0")
        assert state is not None
        scans = [variants for key, variants in decode(state).facts.items() if key[0] == "ParcelScanned"]
        assert [len(variants) for variants in scans] == [1, 1]


async def test_a_carrier_that_pushes_is_not_polled(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        await shipped(made)
        poller, told = polling(made, asked, pushing={"toypost-lumi"})
        await poller.turn()
        assert told == [] and server.asked == []


async def test_retry_after_is_obeyed_by_the_whole_account(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER, GATEWAY) as asked:
        server.raw = lambda path: http(429, b"{}", "retry-after: 600") if path.startswith("/parcel") else None
        await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(3)))
        await made.tell(*(pushed(CARRIER, parcel(n, 1), NOW) for n in range(3)))
        poller, told = polling(made, asked)
        await poller.turn()
        assert told.count(("toypost", "later")) == 1 and ("toypay", "known") in told, "one call found out for all; the others go on"
        server.raw = lambda path: None
        server.parcels = {f"T{n}": parcel(n, 1) for n in range(3)}
        made.clock.move_to(NOW + 599_000)
        await poller.turn()
        assert server.paths().count("/parcel") == 1
        made.clock.move_to(NOW + 600_000)
        await poller.turn()
        assert server.paths().count("/parcel") == 3, "two that were due, and the third when its turn comes"
        made.clock.move_to(NOW + DAY)
        await poller.turn()
        assert server.paths().count("/parcel") == 6


async def test_an_account_that_fails_is_asked_ever_more_seldom(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, WAREHOUSE) as asked:
        server.raw = lambda path: None if "token" in path else http(500, b"")
        poller, told = polling(made, asked)
        times = []
        for _ in range(60 * 60):
            before = len(told)
            await poller.turn()
            if len(told) > before:
                times.append(made.clock.now())
            made.clock.move_to(made.clock.now() + 1000)
        waits = [b - a for a, b in itertools.pairwise(times)]
        assert waits == sorted(waits) and waits[0] == 30_000 and max(waits) <= 16 * MINUTE and set(told) == {("toystore", "later")}
        server.raw = lambda path: None
        made.clock.move_to(made.clock.now() + DAY)
        await poller.turn()
        assert told[-1][1] == "known"


async def test_a_parcel_that_nobody_knows_is_asked_about_seldom_and_keeps_nobody_else_waiting(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(2)))
        await made.tell(*(pushed(CARRIER, parcel(n, 1), NOW) for n in range(2)))
        server.parcels["T1"] = parcel(1, 1)
        poller, told = polling(made, asked)
        await poller.turn()
        assert sorted(told) == [("toypost", "known"), ("toypost", "not_found")]
        unknown, known = poller.jobs["toypost-lumi"][TRACKING, "T0"], poller.jobs["toypost-lumi"][TRACKING, "T1"]
        assert unknown.due >= known.due > NOW and unknown.failures == 1


async def test_a_warehouse_is_asked_at_a_fixed_pace_and_shops_now_and_then(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, WAREHOUSE, SHOP) as asked:
        poller, told = polling(made, asked)
        for _ in range(60):
            await poller.turn()
            made.clock.move_to(made.clock.now() + MINUTE)
        assert told.count(("toystore", "known")) == 12 and told.count(("toyshop", "known")) == 1
        (since,) = [path for path in server.asked if path.startswith("/sold")]
        assert f"value={NOW - RECENT_MS}&" in since


async def test_after_an_outage_it_asks_from_where_it_was_answered_last(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, SHOP) as asked:
        poller, _ = polling(made, asked)
        await poller.turn()
        made.clock.move_to(NOW + 10 * HOUR)
        await poller.turn()
        assert f"value={NOW - RECENT_MS}&" in server.asked[-1]


async def test_a_lost_webhook_is_repaired_by_itself_and_counted_unless_it_is_only_on_its_way(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, GATEWAY) as asked:
        knowing(server)
        late, fresh = {**payment(0), "at": NOW - UNDER_WAY_MS - 1}, {**payment(2), "at": NOW - UNDER_WAY_MS + 1}
        server.things["paid"] = [late, fresh]
        poller, told = polling(made, asked, pushing={"toypay-lumi"})
        await poller.turn()
        await made.rest()
        assert told == [("toypay", "new")] and await made.store.tallies(REPAIRS) == {"missed_paid": 1}
        assert {key[0] for key in (await made.facts())["lumi:2"]} == {"PaymentCaptured"}


async def test_an_unreadable_answer_is_said_and_the_next_is_asked_for(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(2)))
        await made.tell(*(pushed(CARRIER, parcel(n, 1), NOW) for n in range(2)))
        server.parcels = {"T0": {"tracking": 7}, "T1": parcel(1, 1)}
        poller, told = polling(made, asked)
        before = made.appended()
        await poller.turn()
        await poller.turn()
        assert sorted(told) == [("toypost", "known"), ("toypost", "unreadable")] and made.appended() == before


async def test_one_polls_at_a_time_and_the_other_takes_over(installation: Installation) -> None:
    made, store = installation, installation.store
    assert await store.lease("poller", "a", LEASE_MS) and await store.lease("poller", "a", LEASE_MS)
    assert not await store.lease("poller", "b", LEASE_MS)
    assert await store.lease("poller", "a", 1)
    await asyncio.sleep(0.01)  # the server's clock, not ours
    async with stub() as server, clients(server.url, made.clock.now, WAREHOUSE) as asked:
        first, told = polling(made, asked)
        running = asyncio.create_task(first.run())
        while not told:
            await asyncio.sleep(0.01)
        second, _ = polling(made, asked)
        assert not await store.lease("poller", second._holder, LEASE_MS)
        running.cancel()
        await asyncio.wait([running])
        while not await store.lease("poller", second._holder, LEASE_MS):
            await asyncio.sleep(0.01)


async def test_a_store_that_is_away_is_waited_for(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    made = installation
    monkeypatch.setattr(poller_module, "TURN_S", 0.01)
    monkeypatch.setattr(poller_module, "OUTAGE_S", 0.01)
    async with stub() as server, clients(server.url, made.clock.now, WAREHOUSE) as asked:
        server.things["counted"] = [{"sku": "mug", "on_hand": 5}]
        poller, told = polling(made, asked)
        made.log.down = True
        running = asyncio.create_task(poller.run())
        while not server.paths().count("/counted"):
            await asyncio.sleep(0.01)
        assert told == [] and not running.done()
        made.log.down = False
        while not told:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        assert told == [("toystore", "new")]


async def test_each_thing_that_a_warehouse_has_is_counted_by_asking(installation: Installation) -> None:
    made = installation
    await made.tell(pushed(WAREHOUSE, {"counted": [{"sku": sku, "on_hand": 5} for sku in ("mug", "lamp")]}, T0))
    async with stub() as server, clients(server.url, made.clock.now, SHELVES) as asked:
        server.raw = lambda path: None if "counted" not in path else ok({"counted": []})
        server.things["counted"] = [{"sku": "mug", "on_hand": 4}]
        poller, told = polling(made, asked)
        await poller.turn()
        assert sorted(outcome for _, outcome in told) == ["known", "new", "not_found"], "what it does not know keeps nothing waiting"
        await made.rest()
        told.clear()
        made.clock.move_to(NOW + PACES.warehouse_ms)
        await poller.turn()
        assert sorted(outcome for _, outcome in told) == ["known", "known", "not_found"]


async def test_a_number_that_is_none_of_the_carriers_keeps_nothing_waiting(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, CARRIER) as asked:
        await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(2)))
        await made.tell(*(pushed(CARRIER, parcel(n, 1), NOW) for n in range(2)))
        server.parcels["T1"] = parcel(1, 1)
        server.raw = lambda path: http(400, b"{}") if "value=T0" in path else None
        poller, told = polling(made, asked)
        await poller.turn()
        assert sorted(told) == [("toypost", "known"), ("toypost", "not_found")]


# --- carriers that push what was subscribed to
SUBSCRIPTION_S = 13 * 86_400


def subscribe(account: Account, ask: Ask) -> Request:
    return Request("GET", f"{account.url}/subscribe?value={','.join(msgspec.json.decode(ask.data)['trackings'])}")


def subscribed(account: Account, ask: Ask, reply: Reply) -> Answer:
    return Done(" ".join(json.loads(reply.body)["refused"])) if reply.status == 200 else TryLater(Reason.PROVIDER)


POST = msgspec.structs.replace(CARRIER, actions={SUBSCRIBE: Action(Ability("keyed", SUBSCRIPTION_S), subscribe, subscribed)})


async def test_parcels_are_subscribed_to_once_asked_about_once_and_subscribed_to_anew_before_that_ends(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, POST) as asked:
        server.raw = lambda path: ok({"refused": []}) if path.startswith("/subscribe") else None
        server.parcels["T0"] = parcel(0, 1)
        await shipped(made)
        poller, told = polling(made, asked, pushing={"toypost-lumi"})
        await poller.turn()
        assert told == [("toypost", "subscribed"), ("toypost", "known")], "what happened before it is not pushed"
        for _ in range(20):
            made.clock.move_to(made.clock.now() + DAY // 2)
            await poller.turn()
        assert told == [("toypost", "subscribed"), ("toypost", "known")] and not poller.jobs["toypost-lumi"]
        another, more = polling(made, asked, pushing={"toypost-lumi"})
        await another.turn()
        assert more == [], "what is subscribed to is known to the next poller"
        made.clock.move_to(NOW + SUBSCRIPTION_S * 1000)
        await another.turn()
        assert more == [("toypost", "subscribed")]
        assert await made.store.times(f"{SUBSCRIBED}toypost-lumi") == {"T0": NOW + SUBSCRIPTION_S * 1000}
        await made.tell(pushed(POST, parcel(0, 3), made.clock.now()))
        made.clock.move_to(made.clock.now() + LOOK_MS)
        await another.turn()
        assert await made.store.times(f"{SUBSCRIBED}toypost-lumi") == {}, "it has arrived"


async def test_what_a_carrier_will_not_push_or_cannot_be_asked_to_now_is_polled(installation: Installation) -> None:
    made = installation
    async with stub() as server, clients(server.url, made.clock.now, POST) as asked:
        server.raw = lambda path: ok({"refused": ["T0"]}) if path.startswith("/subscribe") else None
        server.parcels |= {f"T{n}": parcel(n, 1) for n in range(2)}
        await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(2)))
        await made.tell(*(pushed(POST, parcel(n, 1), NOW) for n in range(2)))
        poller, told = polling(made, asked, pushing={"toypost-lumi"})
        await poller.turn()
        assert told.count(("toypost", "known")) == 2
        made.clock.move_to(NOW + LOOK_MS)
        await poller.turn()
        assert [key for _, key in poller.jobs["toypost-lumi"]] == ["T0"], "the other is pushed"
        server.raw = lambda path: http(503, b"") if path.startswith("/subscribe") else None
        made.clock.move_to(NOW + SUBSCRIPTION_S * 1000)
        await poller.turn()
        assert ("toypost", "later") in told and {key for _, key in poller.jobs["toypost-lumi"]} == {"T0", "T1"}
