"""A sourced order at two warehouses and a carrier, over HTTP: one pick list per location, one label per parcel, whatever dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from actors.sender import Sender
from connectors.registry import VENDORS
from connectors.stand_in_vendors import accounts
from connectors.stand_ins import StandIns
from connectors.store import Store
from connectors.systems import Connected
from model.features import features
from orders.effect import Claim, Outcome, effect_id
from orders.fact import Address, AddressCorrected, Fact, Person, Quantity, encode_fact
from orders.policy import Policy
from orders.request import StockLevelReported
from orders.sourcing import Location, Rate, Table
from orders.state import Order, decode
from streams.clock import VirtualClock
from streams.dispatch import Modes
from streams.orders import OrdersProcessor
from streams.stock import StockProcessor
from tests.orders.lives import DAY, HOUR, LAMP, MINUTE, ORDER, SHADE, T0, cancel, captured, packed, placed
from tests.streams.town import Killed, Opinion, Town
from tests.streams.toy import MemoryLog

SAN_FRANCISCO = Address(lines=("500 Oak Street",), city="San Francisco", region="CA", postcode="94107", country="US")
HONOLULU = Address(lines=("1 Ala Moana",), city="Honolulu", region="HI", postcode="96813", country="US")
ANN = Person(name="Ann Example", phone="+14155550101", email="ann@example.com", address=SAN_FRANCISCO)
TABLE = Table(
    currency="USD",
    locations=(Location("east", 4 * HOUR), Location("west", 4 * HOUR)),
    rates=(
        Rate(carrier="ups", location="east", base_minor=700, per_kg_minor=100, transit_ms=2 * DAY, to=("US",)),
        Rate(carrier="usps", location="east", base_minor=100, transit_ms=2 * DAY, to=("US-96",)),
        Rate(carrier="usps", location="west", base_minor=600, transit_ms=5 * DAY, to=("US",)),
        Rate(carrier="usps", service="express", location="west", base_minor=1900, transit_ms=DAY, to=("US",)),
    ),
)
DOES = ("warehouse.pick", "warehouse.cancel", "carrier.label", "carrier.void")
ORDERED = placed(person=ANN, currency="USD", promised=T0 + 3 * DAY), captured(currency="USD")
PACKED = (
    packed("P1", at=T0 + 6 * MINUTE, lines=(Quantity(line="1", quantity=2),)),
    packed("P2", at=T0 + 6 * MINUTE, lines=(Quantity(line="2", quantity=1),)),
)


class Accounts:
    """The channel as it is; `dies` after so many more labels were bought, before anybody was told."""

    def __init__(self, real: Sender) -> None:
        self.real, self.claims, self.dies = real, list[Claim](), 0

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        self.claims += claims
        outcomes = await self.real.send(claims, now_ms)
        for claim in claims:
            if b'"carrier.label"' in claim.body and self.dies:
                self.dies -= 1
                if not self.dies:
                    raise Killed
        return outcomes

    def asked(self, event: str) -> dict[str, dict[str, Any]]:
        """parcel or location -> what was asked, the latest."""
        said = [msgspec.json.decode(claim.body) for claim in self.claims]
        return {body["data"].get("parcel") or body["data"]["location"]: body["data"] for body in said if body["event"] == event}


class Place:
    def __init__(self, town: Town, channel: Accounts, east: StandIns, west: StandIns) -> None:
        self.town, self.channel, self.east, self.west = town, channel, east, west

    async def hear(self, *facts: Fact, until: int = HOUR) -> None:
        await self.town.report("facts", *[(fact.order, encode_fact(fact)) for fact in facts])
        await self.town.rest(until=until)

    async def order(self) -> Order:
        return decode((await self.town.states())["orders.0.0"][ORDER])

    def labels(self) -> dict[str, list[int]]:
        """Carrier -> how many it sold under each key that it was shown."""
        vendors = self.east.vendors
        return {its.name: [len(numbers) for numbers in its.labels.values()] for its in (vendors.ups, vendors.usps) if its.labels}


def label(parcel: str) -> str:
    return effect_id(ORDER, "packed", parcel, "carrier.label")


@pytest.fixture
async def place(store: Store) -> AsyncIterator[Place]:
    """Two warehouses, each on a stand-in of its own; both carriers on the first."""
    east, west = (StandIns(clock=lambda: T0) for _ in range(2))
    connected: list[Connected] = []
    for name, its in (("east", east), ("west", west)):
        await its.start()
        for one in accounts(f"http://127.0.0.1:{its.http_port}"):
            if one.vendor == "wms":
                account = msgspec.structs.replace(one.account, source=f"wms-{name}", location=name)
                connected.append(msgspec.structs.replace(one, account=account))
            elif its is east and one.vendor in ("ups", "usps"):
                connected.append(one)
    real = Sender("systems", {"accounts": connected, "private": True, "rate": 1000.0, "timeout_s": 0.5})
    await real.start()
    channel = Accounts(real)
    policy = Policy(
        triggers=(), link_key="key", retire_after_ms=0, default_location="east", served=dict.fromkeys(DOES, "systems"), sourcing=TABLE
    )  # fmt: skip
    abilities = {name: action.ability.kind for vendor in VENDORS.values() for name, action in vendor.actions.items()}
    clock = VirtualClock(T0 + 5 * MINUTE)
    log: Any = MemoryLog(now=clock.now)
    processors = {"facts": lambda: OrdersProcessor(features, policy, abilities), "stock": StockProcessor}
    live = Modes(channels={"systems": "live", "stock": "live"})
    town = Town(store, log, clock, processors, {"systems": channel}, live, Opinion(0.05, 0.0))  # type: ignore[dict-item]
    await town.begin()
    await town.wake()
    for sku, location, units in ((LAMP.sku, "east", 5), (SHADE.sku, "east", 0), (LAMP.sku, "west", 1), (SHADE.sku, "west", 5)):
        level = StockLevelReported(at=T0, sku=sku, location=location, on_hand=units, system="wms")
        await town.report("stock", (f"{sku}@{location}", msgspec.json.encode(level)))
    yield Place(town, channel, east, west)
    await real.close()
    await east.close()
    await west.close()


async def test_there_is_one_pick_list_per_location_and_one_label_per_parcel_by_the_chosen_carrier(place: Place) -> None:
    await place.hear(*ORDERED)
    lists = {name: its.vendors.wms.orders["1001"] for name, its in (("east", place.east), ("west", place.west))}
    assert {name: [line["itemNumber"] for line in its["orderLines"]] for name, its in lists.items()} == {
        "east": [LAMP.sku],
        "west": [SHADE.sku],
    }
    await place.hear(*PACKED)
    assert place.labels() == {"ups": [1], "usps": [1]}
    assert {parcel: (its["carrier"], its["service"]) for parcel, its in place.channel.asked("carrier.label").items()} == {
        "P1": ("ups", "standard"),
        "P2": ("usps", "express"),
    }, "standard would arrive too late from the west"
    assert place.east.duplicates() == {"systems": 0} == place.west.duplicates()

    await place.hear(cancel(at=T0 + 7 * MINUTE))
    voids = place.channel.asked("carrier.void")
    assert {parcel: (its["carrier"].lower(), its["service"]) for parcel, its in voids.items()} == {
        "P1": ("ups", "standard"),
        "P2": ("usps", "express"),
    }
    assert all(place.east.vendors.ups.voided.values()) and all(place.east.vendors.usps.cancelled.values())
    assert all(its.vendors.wms.orders["1001"]["cancelledFlag"] for its in (place.east, place.west))


@pytest.mark.parametrize("nth", [1, 2])
async def test_a_worker_that_dies_after_the_call_buys_no_second_label(place: Place, nth: int) -> None:
    await place.hear(*ORDERED)
    place.channel.dies = nth
    with pytest.raises(Killed):
        await place.hear(*PACKED)
    assert place.labels(), "it was bought, and nobody was told"
    await place.town.wake()
    await place.town.rest(until=HOUR)
    assert place.labels() == {"ups": [1], "usps": [1]} and place.east.duplicates() == {"systems": 0}
    calls = [claim.effect for claim in place.channel.claims if b'"carrier.label"' in claim.body]
    assert set(calls) == {label("P1"), label("P2")} and len(calls) > 2, "it was asked again, under the same keys"


async def test_a_label_that_may_have_been_bought_stays_with_its_carrier_wherever_the_parcel_goes_now(place: Place) -> None:
    await place.hear(*ORDERED)
    place.east.script["systems"].append("drop")
    await place.hear(PACKED[0], until=MINUTE // 12)
    assert [a.outcome for a in (await place.order()).ledger["carrier.label packed P1"].attempts] == ["unknown"]
    moved = msgspec.structs.replace(ANN, address=HONOLULU)
    await place.hear(AddressCorrected(order=ORDER, system="shopify:lumi", object="addr", at=T0 + 6 * MINUTE + 1, person=moved))
    attempts = (await place.order()).ledger["carrier.label packed P1"].attempts
    assert [(a.outcome, a.lookup) for a in attempts] == [("unknown", False), ("sent", True)]
    assert place.labels() == {"ups": [1]}, "USPS would be cheaper there, and knows nothing of it"
