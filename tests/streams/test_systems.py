"""An order's way through the systems of vendors: picked by the warehouse, labelled, told to the shop, and all of it undone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from actors.sender import Sender
from connectors.registry import VENDORS
from connectors.stand_ins import StandIns
from connectors.store import Store
from model.features import features
from orders.effect import Claim, Outcome, effect_id
from orders.fact import Fact, Tracking, encode_fact
from orders.policy import Policy
from orders.state import Order, decode
from orders.view import View, view
from streams.clock import VirtualClock
from streams.dispatch import Modes
from streams.orders import OrdersProcessor
from tests.orders.lives import DAY, HOUR, LAMP, MINUTE, ORDER, SHADE, T0, cancel, captured, packed, placed, reserved, scanned
from tests.streams.town import Opinion, Town
from tests.streams.toy import MemoryLog

DOES = ("warehouse.pick", "warehouse.cancel", "payment.refund", "carrier.label", "carrier.void", "shop.fulfil", "shop.tag")
NUMBER, FILE = "1Z9", "0123456789abcdef"


class Accounts:
    """The channel: gateway and warehouse are asked by the real sender, over HTTP; carrier and shop say yes."""

    def __init__(self, real: Sender) -> None:
        self.real = real
        self.claims: list[Claim] = []

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        self.claims += claims
        return [await self.one(claim, now_ms) for claim in claims]

    async def one(self, claim: Claim, now: int) -> Outcome:
        event = msgspec.json.decode(claim.body)["event"]
        if event in ("warehouse.pick", "warehouse.cancel", "payment.refund"):
            [outcome] = await self.real.send([claim], now)
            return outcome
        reference = f"UPS {NUMBER} {FILE}" if event == "carrier.label" else ""
        return Outcome(key=claim.key, effect=claim.effect, attempt=claim.attempt, kind="sent", at=now, reference=reference)

    def asked(self, event: str) -> list[dict[str, Any]]:
        said = [msgspec.json.decode(claim.body) for claim in self.claims]
        return [body["data"] for body in said if body["event"] == event]


class Place:
    def __init__(self, town: Town, accounts: Accounts, stand_ins: StandIns) -> None:
        self.town, self.accounts, self.stand_ins = town, accounts, stand_ins

    async def hear(self, *facts: Fact) -> None:
        await self.town.report("facts", *[(fact.order, encode_fact(fact)) for fact in facts])
        await self.town.rest(until=HOUR)

    async def order(self) -> Order:
        states = await self.town.states()
        return decode(states["orders.0.0"][ORDER])

    async def view(self) -> View:
        return view(await self.order())

    def linked(self) -> set[tuple[str, str]]:
        log: Any = self.town.log
        said = [msgspec.json.decode(row.value) for tp, rows in log.records.items() if tp[0] == "references" for row in rows]
        return {(record["kind"], record["value"]) for record in said}


@pytest.fixture
async def place(store: Store) -> AsyncIterator[Place]:
    stand_ins = StandIns(clock=lambda: T0)
    await stand_ins.start()
    real = Sender("systems", {**stand_ins.settings("systems"), "rate": 1000.0, "timeout_s": 0.5})
    await real.start()
    accounts = Accounts(real)
    policy = Policy(
        triggers=(),
        link_key="key",
        retire_after_ms=0,
        repeat_ms=30 * DAY,
        repeat_most_ms=30 * DAY,
        served=dict.fromkeys(DOES, "systems"),
        writes_back=("shopify:lumi",),
    )
    abilities = {name: action.ability.kind for vendor in VENDORS.values() for name, action in vendor.actions.items()}
    clock = VirtualClock(T0 + 5 * MINUTE)
    log: Any = MemoryLog(now=clock.now)
    processors = {"facts": lambda: OrdersProcessor(features, policy, abilities)}
    live = Modes(channels={"systems": "live", "stock": "live"})
    town = Town(store, log, clock, processors, {"systems": accounts}, live, Opinion(0.05, 0.0))  # type: ignore[dict-item]
    await town.begin()
    await town.wake()
    yield Place(town, accounts, stand_ins)
    await real.close()
    await stand_ins.close()


def answered(line: Any) -> Fact:
    """The stock lane's answer to the order's own request."""
    return reserved(line, object=effect_id(ORDER, "paid", line.line, "stock.reserve"), at=T0 + 2 * MINUTE)


READY = (placed(), captured(), answered(LAMP), answered(SHADE))


async def test_a_packed_parcel_gets_its_label_s_number_and_everybody_learns_of_it(place: Place) -> None:
    await place.hear(*READY)
    assert place.stand_ins.vendors.wms.orders["1001"]["orderLines"][0]["itemNumber"] == "LAMP-1"
    await place.hear(packed(at=T0 + 6 * MINUTE))
    parcel = (await place.view()).parcels["P1"]
    assert (parcel.carrier, parcel.tracking, parcel.label, parcel.shipped_at) == ("UPS", NUMBER, FILE, 0)
    assert ("tracking", NUMBER) in place.linked()
    assert [(told["shop_order"], told["tracking"]) for told in place.accounts.asked("shop.fulfil")] == [("1001", NUMBER)]
    assert {tag for told in place.accounts.asked("shop.tag") for tag in told["tags"]} == {
        "orderflow:payment_confirmed",
        "orderflow:in_progress",
    }
    await place.hear(scanned(Tracking.IN_TRANSIT, T0 + HOUR, parcel=NUMBER, tracking=NUMBER))
    v = await place.view()
    assert (list(v.parcels), v.status.value) == (["P1"], "shipped")
    assert len(place.accounts.asked("carrier.label")) == len(place.accounts.asked("shop.fulfil")) == 1


async def test_a_cancelled_order_is_undone_in_every_system_that_had_a_part_in_it(place: Place) -> None:
    await place.hear(*READY)
    await place.hear(packed(at=T0 + 6 * MINUTE))
    await place.hear(cancel(at=T0 + 7 * MINUTE))
    assert place.stand_ins.vendors.wms.orders["1001"]["cancelledFlag"] is True
    [void] = place.accounts.asked("carrier.void")
    assert (void["carrier"], void["tracking"]) == ("UPS", NUMBER)
    [refund] = [receipt for receipt in place.stand_ins.received("systems") if receipt.title == "stripe refunds"]
    assert (refund.effect, "payment_intent=pi_1" in refund.text) == (effect_id(ORDER, "cancelled", "pi_1", "payment.refund"), True)
    assert (await place.view()).parcels["P1"].tracking == "", "the number is nobody's any more"
    assert not [name for name, effect in (await place.order()).ledger.items() if effect.open and effect.action in DOES]


async def test_what_nobody_can_tell_is_asked_under_its_key_or_looked_up_and_made_once(place: Place) -> None:
    place.stand_ins.script["systems"].append("drop")
    await place.hear(*READY)
    pick = (await place.order()).ledger["warehouse.pick in_progress main"]
    assert [(a.outcome, a.lookup) for a in pick.attempts] == [("unknown", False), ("sent", True)]
    place.stand_ins.script["systems"].append("drop")
    await place.hear(cancel(at=T0 + 7 * MINUTE))
    refund = (await place.order()).ledger["payment.refund cancelled pi_1"]
    assert [(a.outcome, a.lookup) for a in refund.attempts] == [("unknown", False), ("sent", False)]
    assert place.stand_ins.duplicates() == {"systems": 0}
    assert place.stand_ins.repeats == 1


async def test_a_warehouse_that_is_down_gets_the_pick_when_it_is_back(place: Place) -> None:
    place.stand_ins.script["systems"].extend(["error", "error"])
    await place.hear(*READY)
    pick = (await place.order()).ledger["warehouse.pick in_progress main"]
    assert [a.outcome for a in pick.attempts] == ["retryable", "retryable", "sent"]
    assert pick.attempts[-1].reference == "1001"
