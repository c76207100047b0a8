"""What every action and every question of every vendor promises over HTTP, against its stand-in, whatever goes wrong on the way.

A new line in a vendor's `actions` or `questions` is tested here at once. What actions are asked for lies in `tests/samples/actions`.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.base import Answer, Done, Reason, Refused, TryLater, Unknown
from connectors.client import Client
from connectors.delivery import Ignored
from connectors.http import Request
from connectors.registry import VENDORS
from connectors.stand_in_vendors import Known, accounts, gif
from connectors.stand_ins import Faults, StandIns
from connectors.systems import Connected, Systems
from connectors.vendor import ANSWER
from orders.effect import Claim
from tests.connectors.vendors.test_actions import sample

NOW = 1_795_000_000_000
SHORT_S = 0.3  # a call's whole budget where nobody answers
SHOP_ORDER = 450789469

ACTIONS = [(vendor.name, action) for vendor in VENDORS.values() for action in vendor.actions]
QUESTIONS = [(vendor.name, question) for vendor in VENDORS.values() for question in vendor.questions]
HARMLESS = frozenset({"carrier.rate", "address.check"})  # they change nothing at the vendor
each_action = pytest.mark.parametrize(("vendor", "action"), ACTIONS, ids=[f"{v}/{a}" for v, a in ACTIONS])
each_question = pytest.mark.parametrize(("vendor", "question"), QUESTIONS, ids=[f"{v}/{q}" for v, q in QUESTIONS])

SCAN = {
    "trackingNumber": "1Z999AA10123456784",
    "localActivityDate": "20261120",
    "localActivityTime": "101500",
    "gmtActivityDate": "20261120",
    "gmtActivityTime": "091500",
    "gmtOffset": "+01.00",
    "activityStatus": {"type": "D", "code": "FS", "description": "Delivered"},
}
REFUND = {
    "id": 5, "order_id": SHOP_ORDER, "created_at": "2026-11-20T10:00:00+00:00",
    "refund_line_items": [{"line_item_id": 466157049, "quantity": 1, "restock_type": "return"}],
}  # fmt: skip
DELIVERED = {"eventCode": "01", "GMTTimestamp": "2026-11-20T09:15:00Z"}


def shop_order(id: int, updated: str = "2026-11-20T09:00:00+00:00") -> dict[str, Any]:
    lines = [{"id": 466157049, "quantity": 1, "price": "49.99", "sku": "LAMP-1", "title": "Lamp"}]
    return {
        "id": id, "name": f"#{id}", "created_at": updated, "updated_at": updated, "currency": "EUR", "total_price": "49.99",
        "customer": {"id": 7}, "line_items": lines,
    }  # fmt: skip


def stripe_thing(kind: str, id: str, **more: Any) -> dict[str, Any]:
    thing = {"object": kind, "id": id, "created": NOW // 1000, "amount": 4999, "currency": "eur", "metadata": {"order_id": "1001"}}
    return {"data": {"object": thing | more}}


KNOWN = [
    Known("shopify", shop_order(SHOP_ORDER), "orders/create"),
    Known("shopify", {"id": 7, "email": "zoe@example.invalid", "updated_at": "2026-11-20T09:00:00+00:00"}, "customers/update"),
    Known("shopify", REFUND, "refunds/create"),
    Known("stripe", stripe_thing("payment_intent", "pi_3SkExample0001", status="succeeded", amount_received=4999)),
    Known("stripe", stripe_thing("refund", "re_1", status="succeeded", payment_intent="pi_2")),
    Known("stripe", stripe_thing("dispute", "dp_1", status="needs_response", payment_intent="pi_2")),
    Known("wms", {"type": "stock.level", "data": {"levels": [{"sku": "LAMP-1", "on_hand": 7}]}}),
    Known("ups", SCAN),
    Known("usps", {"trackingNumber": "9400100000000000000017", "trackingEvents": [DELIVERED]}),
]  # fmt: skip
VALUES: dict[str, Any] = {  # what is asked for, where it is not a time
    "payment_intent": "pi_3SkExample0001",
    "dispute": "dp_1",
    "order": {"shopify": str(SHOP_ORDER), "wms": "1001"},
    **dict.fromkeys(("transactions", "fulfillments", "refunds", "fulfillment_orders"), str(SHOP_ORDER)),
    "inventory": "LAMP-1",
    "tracking": {"ups": SCAN["trackingNumber"], "usps": "9400100000000000000017"},
}


@pytest.fixture
async def stand_ins() -> AsyncIterator[StandIns]:
    made = StandIns(clock=lambda: NOW)
    made.vendors.know(KNOWN)
    await made.start()
    yield made
    await made.close()


def connected(stand_ins: StandIns, vendor: str) -> Connected:
    [one] = [one for one in accounts(f"http://127.0.0.1:{stand_ins.http_port}") if one.vendor == vendor]
    return one


class Asking:
    """One action of one vendor, asked for as the lanes do."""

    def __init__(self, stand_ins: StandIns, vendor: str, action: str) -> None:
        self.stand_ins, self.vendor, self.action = stand_ins, vendor, action
        self.its = VENDORS[vendor].actions[action]
        self.systems = Systems({"accounts": [connected(stand_ins, vendor)], "private": True})
        self.data = {**sample(vendor)["asks"][action], "system": f"{vendor}-lumi"}
        self.before = 0

    async def __aenter__(self) -> Asking:
        """What has to be there before it is done for real, over the same wire."""
        await self.systems.start()
        if self.action == "carrier.void":
            bought = await Asking.call(
                self, action="carrier.label", data=sample(self.systems.settings.accounts[0].vendor)["asks"]["carrier.label"]
            )
            assert isinstance(bought, Done)
            self.data["tracking"] = bought.reference.split(" ")[1]
        if self.action == "warehouse.cancel":
            assert isinstance(await self.call(action="warehouse.pick", data=sample("wms")["asks"]["warehouse.pick"]), Done)
        self.before = self.effects
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.systems.close()

    async def call(self, lookup: bool = False, budget_s: float = 5.0, action: str = "", data: Any = None) -> Answer:
        action = action or self.action
        body = {"event": action, "id": "", "order": "lumi:1001", "data": self.data if data is None else data}
        claim = Claim(
            lane="orders.0.1", key="lumi:1001", effect=f"{action:_<16}", channel="systems", attempt=1, deadline=NOW + 60_000,
            body=msgspec.json.encode(body), lookup=lookup,
        )  # fmt: skip
        return await self.systems.call(claim, NOW, budget_s)

    @property
    def effects(self) -> int:
        """What the vendor did, as the stand-in counts it, since the asking began."""
        return self.stand_ins.accepted().get("systems", 0) - self.before

    @property
    def once(self) -> int:
        return 0 if self.action in HARMLESS else 1


@each_action
async def test_what_is_asked_for_is_done_once_and_again_only_where_nothing_keeps_it(stand_ins: StandIns, vendor: str, action: str) -> None:
    async with Asking(stand_ins, vendor, action) as asking:
        assert isinstance(await asking.call(), Done)
        assert asking.effects == asking.once
        if asking.its.ability.kind == "keyed":
            assert isinstance(await asking.call(), Done)
            assert asking.effects == asking.once, "it says that asking twice does no more"


@each_action
@pytest.mark.parametrize("fault", ["refuse", "try_later", "error"])
async def test_a_no_is_no_and_leaves_nothing_behind(stand_ins: StandIns, vendor: str, action: str, fault: str) -> None:
    stand_ins.faults["systems"] = Faults(retry_after_s=7)
    async with Asking(stand_ins, vendor, action) as asking:
        stand_ins.script["systems"].append(fault)
        answer = await asking.call()
        assert asking.effects == 0
        match fault:
            case "refuse":
                assert isinstance(answer, Refused)
            case "try_later":
                assert answer == TryLater(Reason.RATE, 7.0)
            case "error":
                assert isinstance(answer, (TryLater, Unknown))
        if isinstance(answer, TryLater):
            assert isinstance(await asking.call(), Done) and asking.effects == asking.once


@each_action
@pytest.mark.parametrize("fault", ["hang", "drop", "stall"])
async def test_what_nobody_knows_is_found_out_as_the_action_says(stand_ins: StandIns, vendor: str, action: str, fault: str) -> None:
    async with Asking(stand_ins, vendor, action) as asking:
        session = asking.systems.sessions[f"{vendor}-lumi"]
        await session.authorized(Request("GET", ""), NOW, 5.0, asking.its.login)  # the budget is for the call, not for the login
        stand_ins.script["systems"].append(fault)
        assert isinstance(await asking.call(budget_s=SHORT_S if fault != "drop" else 5.0), Unknown)
        taken = 0 if fault == "hang" else asking.once
        assert asking.effects == taken
        match asking.its.ability.kind:
            case "keyed":
                assert isinstance(await asking.call(), Done)
            case "lookup":
                found = await asking.call(lookup=True)
                assert found == TryLater(Reason.NOT_FOUND) if taken == 0 else isinstance(found, Done)
                assert isinstance(await asking.call() if taken == 0 else found, Done)
            case "neither":
                assert isinstance(await asking.call(lookup=True), Unknown)
                return
        assert asking.effects == asking.once


@each_action
async def test_asked_as_the_lanes_ask_nothing_happens_twice_in_the_worst_of_networks(vendor: str, action: str) -> None:
    for seed in range(3):
        drawn = random.Random(f"{seed} {vendor} {action}")
        made = StandIns(clock=lambda: NOW, faults=dict.fromkeys(("systems", "questions"), Faults(slow_s=0.001, retry_after_s=0)))
        made.vendors.know(KNOWN)
        await made.start()
        async with Asking(made, vendor, action) as asking:
            made.script["systems"].extend(drawn.choices(("try_later", "error", "drop", "slow"), k=8))
            made.script["questions"].extend(drawn.choices(("try_later", "error", "drop", "slow"), k=8))
            lookup, answer = False, await asking.call()
            while not isinstance(answer, Done):
                assert not isinstance(answer, Refused) and asking.effects <= asking.once
                lookup = isinstance(answer, Unknown) and asking.its.ability.kind == "lookup"
                answer = await asking.call(lookup=lookup)
            assert asking.effects == asking.once and made.duplicates().get("systems", 0) == 0
        await made.close()


# --- questions
def value_of(vendor: str, question: str) -> str:
    found = VALUES.get(question, "0")
    return str(found[vendor] if isinstance(found, dict) else found)


async def pages(stand_ins: StandIns, vendor: str, question: str, budget_s: float = 5.0) -> Any:
    its = VENDORS[vendor]
    client = Client(msgspec.structs.replace(its, pace_per_s=1000.0), connected(stand_ins, vendor).account, lambda: NOW, private=True)
    await client.start()
    try:
        return await client.ask(question, value_of(vendor, question), budget_s)
    finally:
        await client.close()


@each_question
async def test_what_is_asked_is_answered_in_words_that_are_understood(stand_ins: StandIns, vendor: str, question: str) -> None:
    if vendor == "wms":
        async with Asking(stand_ins, vendor, "warehouse.pick") as asking:
            assert isinstance(await asking.call(), Done)
        stand_ins.vendors.wms.orders["1001"]["orderStatus"] = "Picked"
    asked = await pages(stand_ins, vendor, question)
    assert (asked.stopped, asked.said) == (None, "") and asked.pages
    try:
        records = [
            r
            for page in asked.pages
            for r in VENDORS[vendor].read(connected(stand_ins, vendor).account, ANSWER + page.kind, page.body, NOW)
        ]
        assert records
    except Ignored:
        assert question in ("transactions", "fulfillments"), "only these are empty here"


@each_question
@pytest.mark.parametrize(
    ("fault", "stopped"),
    [
        ("refuse", Refused(Reason.OTHER)),
        ("try_later", TryLater(Reason.RATE, 7.0)),
        ("error", TryLater(Reason.PROVIDER)),
        ("drop", TryLater(Reason.DROPPED)),
    ],
)
async def test_a_question_that_is_not_answered_is_asked_again_later(
    stand_ins: StandIns, vendor: str, question: str, fault: str, stopped: Any
) -> None:
    stand_ins.faults["questions"] = Faults(retry_after_s=7)
    stand_ins.script["questions"].append(fault)
    assert (await pages(stand_ins, vendor, question)).stopped == stopped


@pytest.mark.parametrize(("vendor", "question", "count"), [("shopify", "orders_since", 120), ("stripe", "payment_intents", 250)])
async def test_more_than_a_page_is_told_to_its_end_and_each_thing_once(stand_ins: StandIns, vendor: str, question: str, count: int) -> None:
    orders = [Known("shopify", shop_order(n), "orders/create") for n in range(1, count)]
    intents = [Known("stripe", stripe_thing("payment_intent", f"pi_{n:08d}")) for n in range(1, count)]
    stand_ins.vendors.know(orders if vendor == "shopify" else intents)
    asked = await pages(stand_ins, vendor, question)
    found = [thing["id"] for page in asked.pages for thing in json.loads(page.body)["orders" if vendor == "shopify" else "data"]]
    assert len(asked.pages) == 3 and len(found) == len(set(found)) == count


def test_a_label_of_ups_is_a_picture_that_can_be_shown() -> None:
    label = gif("1Z", height=2)
    head, data = label[:30], label[30:-1]
    assert head[:6] == b"GIF89a" and (head[6], head[8]) == (32, 2) == (head[24], head[26]) and label[-1:] == b";"
    assert (head[29], data[-1]) == (2, 0), "codes of three bits, and the end of the blocks"
    assert data[0] == len(data) - 2, "they fit into one block here"
    bits = int.from_bytes(data[1:-1], "little")
    codes = [bits >> 3 * n & 7 for n in range(len(data) * 8 // 3)]
    pixels = [code for code in codes[: codes.index(5)] if code != 4]
    assert pixels[::2] == pixels[1::2] == [int(bit) for bit in f"{ord('1'):08b}{ord('Z'):08b}"] * 2


async def test_what_was_taken_is_remembered_after_a_restart(tmp_path: Path) -> None:
    does = [one for one in ACTIONS if one[1] not in ("carrier.void", "warehouse.cancel")]
    for restarted in (False, True):
        made = StandIns(clock=lambda: NOW, ledger=tmp_path / "received.jsonl")
        made.vendors.know(KNOWN)
        await made.start()
        try:
            for vendor, action in does:
                async with Asking(made, vendor, action) as asking:
                    assert isinstance(await asking.call(lookup=restarted and asking.its.ability.kind == "lookup"), Done), action
                    assert asking.effects == (0 if restarted else asking.once)
        finally:
            await made.close()
