"""The channel of vendors' accounts: who serves what, how requests are authorised, what is kept. Their words have tests of their own."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors import registry
from connectors.base import Ability, Answer, Done, Reason, Refused, Secret, SettingsError, TryLater, Unknown
from connectors.delivery import Unreadable
from connectors.http import Reply, Request
from connectors.signature import BodyHmac
from connectors.systems import Connected, Systems
from connectors.vendor import Account, Action, Ask, Envelope, Login, Vendor
from orders.effect import Claim

NOW = 1_795_000_000_000
BOUGHT = Reply(200, {}, b"label-image")


def render(account: Account, ask: Ask) -> Request:
    if b"unaskable" in bytes(ask.data):
        raise Unreadable("schema", "data.to")
    return Request("POST", f"{account.url}/{ask.event}", (("Idempotency-Key", ask.id),), bytes(ask.data))


def read(account: Account, ask: Ask, reply: Reply) -> Answer:
    match reply.status:
        case 200:
            return Done(f"{account.source} 1Z9", reply.body) if ask.event == "carrier.label" else Done(account.source)
        case 401:
            return TryLater(Reason.CREDENTIALS)
        case _:
            return Refused(Reason.OTHER)


def token(reply: Reply) -> tuple[str, float]:
    return msgspec.json.decode(reply.body, type=tuple[str, float])


DOES = Action(Ability("keyed", 86_400), render, read)
LOOKS = Action(Ability("lookup"), render, read, look=render, found=read)
KEY = Login(lambda account, _: (("Authorization", account.credentials["key"].reveal()),))
OAUTH = Login(
    lambda account, token: (("Authorization", f"Bearer {token}"),),
    render=lambda account: Request("POST", f"{account.url}/token", (), account.credentials["secret"].reveal().encode()),
    token=token,
)


def vendor(name: str, kind: Any, login: Login = KEY, **actions: Action) -> Vendor:
    named = {action.replace("_", "."): what for action, what in actions.items()}
    envelope = Envelope("t", "d")
    return Vendor(
        name=name, kind=kind, scheme=BodyHmac("x"), envelope=lambda headers, body: envelope, topics={}, login=login, actions=named
    )


VENDORS = {
    each.name: each
    for each in (
        vendor("shopify", "shop", shop_tag=DOES, shop_fulfil=DOES),
        vendor("stripe", "payments", payment_refund=DOES),
        vendor("wms", "warehouse", warehouse_pick=LOOKS),
        vendor("ups", "carrier", OAUTH, carrier_label=DOES, carrier_void=DOES),
        vendor("usps", "carrier", carrier_label=DOES, carrier_void=DOES),
    )
}


@pytest.fixture(autouse=True)
def vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "VENDORS", VENDORS)


def one(vendor: str, source: str = "", does: tuple[str, ...] = (), **more: Any) -> Connected:
    known: dict[str, Any] = {
        "shop": "lumi",
        "url": f"https://{vendor}.example",
        "credentials": {"key": Secret("hush"), "secret": Secret("s")},
    }
    account = Account(source=source or f"{vendor}-lumi", **(known | more))
    return Connected(vendor=vendor, account=account, does=does or tuple(VENDORS[vendor].actions))


ALL = [
    one("shopify"),
    one("shopify", "shopify-b2b", shop="b2b"),
    one("stripe", "stripe-b2b", shop="b2b"),
    one("stripe"),
    one("stripe", "stripe-old"),
    one("wms", location="attic"),
    one("wms", "wms-main"),
    one("ups", services=("express",)),
    one("usps"),
    one("ups", "ups-spare", does=("carrier.void",)),
]


def claim(event: str, order: str = "lumi:1", lookup: bool = False, **data: Any) -> Claim:
    body = msgspec.json.encode({"event": event, "id": "e" * 16, "order": order, "data": data})
    return Claim(
        lane="orders.0.1", key=order, effect="e" * 16, channel="systems", attempt=1, deadline=NOW + 9_000, body=body, lookup=lookup
    )


class Wire:
    """Answers requests by hand, and remembers them."""

    def __init__(self, systems: Systems, *replies: Any) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        systems.http.send = self.send  # type: ignore[method-assign]

    async def send(self, request: Request, budget_s: float, now_ms: int) -> Any:
        self.requests.append(request)
        await asyncio.sleep(0)
        return self.replies.pop(0)

    def header(self, n: int, name: str) -> str:
        return dict(self.requests[n].headers)[name]


def systems(*accounts: Connected, **settings: Any) -> Systems:
    return Systems({"accounts": list(accounts or ALL), **settings})


@pytest.mark.parametrize(
    ("asked", "by"),
    [
        (claim("payment.refund"), "stripe-lumi"),
        (claim("payment.refund", "b2b:7"), "stripe-b2b"),
        (claim("payment.refund", system="stripe-old"), "stripe-old"),
        (claim("payment.refund", system="own-topic"), "stripe-lumi"),
        (claim("payment.refund", "other:1"), ""),
        (claim("carrier.label", service="express"), "ups-lumi"),
        (claim("carrier.label", service="standard"), "usps-lumi"),
        (claim("carrier.label"), "ups-lumi"),
        (claim("carrier.void", service="standard", carrier="UPS"), "ups-spare"),
        (claim("carrier.void", service="express", carrier="UPS"), "ups-lumi"),
        (claim("carrier.void", carrier="USPS"), "usps-lumi"),
        (claim("carrier.void", carrier="DHL"), ""),
        (claim("warehouse.pick", location="main"), "wms-main"),
        (claim("warehouse.pick", location="attic"), "wms-lumi"),
        (claim("warehouse.pick", location="elsewhere"), ""),
        (claim("shop.tag", system="shopify-b2b"), "shopify-b2b"),
        (claim("shop.fulfil", system="shopify-lumi"), "shopify-lumi"),
        (claim("shop.tag", system="woo"), ""),
        (claim("team.notice"), ""),
    ],
)
async def test_the_account_that_serves_is_found_by_what_is_asked(asked: Claim, by: str) -> None:
    its = systems()
    assert its.route(asked) == by
    wire = Wire(its, Reply(200, {}, b'["t", 3600]'), BOUGHT) if by.startswith("ups") else Wire(its, BOUGHT)
    answer = await its.call(asked, NOW, 5.0)
    if not by:
        assert answer == TryLater(Reason.CONFIGURATION)
        assert wire.requests == [], "an account may be added: it is the operator's to mend"
    else:
        assert isinstance(answer, Done)
        assert wire.requests[-1].url.startswith("https://" + by.partition("-")[0])


async def test_the_effect_is_the_key_and_the_credentials_come_last() -> None:
    its = systems()
    wire = Wire(its, BOUGHT)
    assert await its.call(claim("payment.refund"), NOW, 5.0) == Done("stripe-lumi")
    assert (wire.header(0, "Idempotency-Key"), wire.header(0, "Authorization")) == ("e" * 16, "hush")


async def test_a_label_is_kept_in_a_file_that_the_reference_names(tmp_path: Path) -> None:
    its = systems(one("usps"), folder=str(tmp_path / "labels"))
    Wire(its, BOUGHT)
    answer = await its.call(claim("carrier.label"), NOW, 5.0)
    assert isinstance(answer, Done)
    carrier, number, file = answer.reference.split(" ")
    assert (carrier, number, answer.keep) == ("usps-lumi", "1Z9", b"")
    assert (tmp_path / "labels" / file).read_bytes() == b"label-image"


async def test_a_label_that_cannot_be_kept_was_bought_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("no folder")
    its = systems(one("usps"), folder=str(tmp_path / "labels"))
    Wire(its, BOUGHT)
    assert await its.call(claim("carrier.label"), NOW, 5.0) == Done("usps-lumi 1Z9")


async def test_without_a_folder_nothing_is_kept_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    its = systems(one("usps"))
    Wire(its, BOUGHT)
    assert await its.call(claim("carrier.label"), NOW, 5.0) == Done("usps-lumi 1Z9")
    assert list(tmp_path.iterdir()) == []


# --- two requests, two tokens
def prepared(account: Account, ask: Ask, reply: Reply) -> Request | Answer:
    return render(account, ask) if reply.status == 200 else TryLater(Reason.PROVIDER)


async def test_an_action_of_two_requests_acts_with_the_second_and_only_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fulfil = Action(Ability("lookup"), lambda a, ask: Request("GET", f"{a.url}/open"), read, look=render, found=read, then=prepared)
    monkeypatch.setitem(VENDORS, "shopify", vendor("shopify", "shop", shop_fulfil=fulfil))
    its = systems(one("shopify"))
    asked = claim("shop.fulfil", system="shopify-lumi")
    wire = Wire(its, Reply(200), Reply(200), Unknown(Reason.TIMEOUT), Reply(503), Reply(200))
    assert await its.call(asked, NOW, 5.0) == Done("shopify-lumi")
    assert [request.url.rpartition("/")[2] for request in wire.requests] == ["open", "shop.fulfil"]
    assert all(wire.header(n, "Authorization") == "hush" for n in (0, 1))
    assert await its.call(asked, NOW, 5.0) == TryLater(Reason.TIMEOUT), "nothing was asked for yet, so it may be asked for again"
    assert await its.call(asked, NOW, 5.0) == TryLater(Reason.PROVIDER)
    looking = claim("shop.fulfil", lookup=True, system="shopify-lumi")
    assert await its.call(looking, NOW, 5.0) == Done("shopify-lumi")
    assert len(wire.requests) == 5, "a look-up is one request"


async def test_a_second_login_is_asked_for_with_the_first_and_travels_beside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paying = Login(
        lambda account, token: (("X-Payment", token),), render=lambda account: Request("POST", f"{account.url}/payment"), token=token
    )
    label = msgspec.structs.replace(DOES, login=paying)
    monkeypatch.setitem(VENDORS, "ups", vendor("ups", "carrier", OAUTH, carrier_label=label))
    its = systems(UPS, folder=str(tmp_path))
    wire = Wire(its, Reply(200, {}, b'["first", 3600]'), Reply(200, {}, b'["paid", 3600]'), BOUGHT, BOUGHT)
    assert isinstance(await its.call(LABEL, NOW, 5.0), Done) and isinstance(await its.call(LABEL, NOW, 5.0), Done)
    assert [request.url.rpartition("/")[2] for request in wire.requests] == ["token", "payment", *["carrier.label"] * 2]
    assert wire.header(1, "Authorization") == "Bearer first"
    assert [(wire.header(n, "Authorization"), wire.header(n, "X-Payment")) for n in (2, 3)] == [("Bearer first", "paid")] * 2


# --- tokens
UPS = one("ups", credentials={"secret": Secret("hush-hush")})
LABEL = claim("carrier.label")


async def test_a_token_is_fetched_once_and_renewed_a_minute_before_it_ends(tmp_path: Path) -> None:
    its = systems(UPS, folder=str(tmp_path))
    wire = Wire(its, Reply(200, {}, b'["first", 3600]'), BOUGHT, BOUGHT, Reply(200, {}, b'["second", 3600]'), BOUGHT)
    for at in (NOW, NOW + 3_539_999, NOW + 3_540_000):
        assert isinstance(await its.call(LABEL, at, 5.0), Done)
    assert [request.url.rpartition("/")[2] for request in wire.requests] == ["token", *["carrier.label"] * 2, "token", "carrier.label"]
    assert [wire.header(n, "Authorization") for n in (1, 2, 4)] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_those_who_come_together_share_one_token(tmp_path: Path) -> None:
    its = systems(UPS, folder=str(tmp_path))
    wire = Wire(its, Reply(200, {}, b'["first", 3600]'), BOUGHT, BOUGHT, BOUGHT)
    await asyncio.gather(*(its.call(LABEL, NOW, 5.0) for _ in range(3)))
    assert sum(request.url.endswith("token") for request in wire.requests) == 1


async def test_a_refused_token_is_dropped_and_a_newer_one_is_not(tmp_path: Path) -> None:
    its = systems(UPS, folder=str(tmp_path))
    wire = Wire(its, Reply(200, {}, b'["first", 3600]'), Reply(401), Reply(200, {}, b'["second", 3600]'), BOUGHT, BOUGHT)
    assert await its.call(LABEL, NOW, 5.0) == TryLater(Reason.CREDENTIALS)
    session = its.sessions["ups-lumi"]
    assert isinstance(await its.call(LABEL, NOW, 5.0), Done)
    session.refused(wire.requests[1])  # the first token's, which was on its way meanwhile
    assert isinstance(await its.call(LABEL, NOW, 5.0), Done)
    assert wire.header(4, "Authorization") == "Bearer second"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (Reply(401), TryLater(Reason.CREDENTIALS)),
        (Reply(400), TryLater(Reason.CREDENTIALS)),
        (Reply(429, retry_after_s=7.0), TryLater(Reason.RATE, 7.0)),
        (Reply(503), TryLater(Reason.PROVIDER)),
        (Reply(200, {}, b"<html>"), TryLater(Reason.PROVIDER)),
        (Unknown(Reason.TIMEOUT), TryLater(Reason.TIMEOUT)),
        (TryLater(Reason.DNS), TryLater(Reason.DNS)),
    ],
)
async def test_without_a_token_nothing_was_asked_for(reply: Any, answer: Answer) -> None:
    its = systems(UPS)
    wire = Wire(its, reply)
    assert await its.call(LABEL, NOW, 5.0) == answer
    assert len(wire.requests) == 1


async def test_credentials_that_are_missing_or_cannot_be_a_header_are_the_operators_to_mend() -> None:
    its = systems(one("usps", credentials={"other": Secret("x")}))
    Wire(its)
    assert await its.call(LABEL, NOW, 5.0) == TryLater(Reason.CREDENTIALS)


# --- looking up, and what is no ask
async def test_only_what_can_be_looked_up_is() -> None:
    its = systems()
    Wire(its, BOUGHT)
    assert await its.call(claim("warehouse.pick", location="main", lookup=True), NOW, 5.0) == Done("wms-main")
    assert await its.call(claim("payment.refund", lookup=True), NOW, 5.0) == Unknown(Reason.NO_LOOKUP)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"event":"payment.refund","id":"e","order":"lumi:1","data":5}'])
async def test_what_is_no_ask_is_refused_before_anything_leaves(body: bytes) -> None:
    its = systems()
    wire = Wire(its)
    broken = msgspec.structs.replace(claim("payment.refund"), body=body)
    assert await its.call(broken, NOW, 5.0) == Refused(Reason.MALFORMED)
    assert its.route(broken) == ""
    assert await its.call(claim("payment.refund", note="unaskable"), NOW, 5.0) == Refused(Reason.MALFORMED)
    assert wire.requests == []


# --- where it may lead
async def test_a_private_address_is_called_only_where_the_channel_says_so() -> None:
    with pytest.raises(SettingsError, match=r"account usps-lumi must be https"):
        systems(one("usps", url="http://127.0.0.1:1"))
    its = systems(one("usps", url="https://127.0.0.1:8443"))
    await its.start()
    assert await its.call(LABEL, NOW, 5.0) == Refused(Reason.BLOCKED_ADDRESS)
    await its.close()
    its = systems(one("usps", url="http://127.0.0.1:1"), private=True)
    await its.start()
    assert await its.call(LABEL, NOW, 5.0) == TryLater(Reason.CONNECT)
    await its.close()


def test_a_vendor_that_nobody_knows_is_named() -> None:
    strange = Connected(vendor="nobody", account=Account(source="x", shop="lumi"), does=())
    with pytest.raises(SettingsError, match="x is of no vendor that we know: nobody"):
        systems(strange)


async def test_neither_credentials_nor_tokens_show(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "labels").write_text("no folder")
    its = systems(UPS, one("usps"), folder=str(tmp_path / "labels"))
    Wire(its, Reply(200, {}, b'["tok-en", 3600]'), BOUGHT)
    await its.call(claim("carrier.label", to={"name": "Zoe"}), NOW, 5.0)
    session = its.sessions["ups-lumi"]
    shown = "\n".join([caplog.text, repr(vars(its)), repr(its.settings), repr(vars(session)), repr(its.settings.accounts)])
    assert "keep_failed" in repr([vars(record) for record in caplog.records])
    assert not [hidden for hidden in ("hush", "tok-en", "Zoe") if hidden in shown]


async def test_a_label_may_be_larger_than_what_other_channels_read(tmp_path: Path) -> None:
    image = b"x" * (1 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(image) + image)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        its = systems(one("usps", url=f"http://127.0.0.1:{port}"), private=True, folder=str(tmp_path))
        await its.start()
        answer = await its.call(LABEL, NOW, 5.0)
        await its.close()
    assert isinstance(answer, Done)
    assert (tmp_path / answer.reference.rpartition(" ")[2]).read_bytes() == image
