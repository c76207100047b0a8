"""How a checkout is made for the retry-payment page: which gateway is asked, under which key, and what a failure is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import wire
from connectors import registry
from connectors.base import Ability, Answer, Done, Reason, Refused, Secret, TryLater, Unknown
from connectors.delivery import Unreadable
from connectors.http import Reply, Request
from connectors.vendor import Account, Action, Ask, Envelope, Login, Vendor
from orders.plan import signed, unsigned
from orders.policy import DAY, Policy
from settings import Account as Paid
from settings import Brand, Ref, Settings
from streams.clock import VirtualClock
from tests.web.fake_reader import NOW, detail
from web.problem import Refusal
from web.reader import OrderDetail

POLICY = Policy(link_key="a key of the tests, long enough", tracking_base="https://track.example")
ACCOUNT = Account(source="pay-lumi", shop="lumi", url="https://pay.example", credentials={"key": Secret("sk_not_a_real_one")})


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    return Envelope("t", "d")


def render(account: Account, ask: Ask) -> Request:
    if b"unspeakable" in bytes(ask.data):
        raise Unreadable("currency", "$.currency")
    return Request("POST", f"{account.url}/sessions", (("Idempotency-Key", ask.id),), bytes(ask.data))


def read(account: Account, ask: Ask, reply: Reply) -> Answer:
    return Done(reply.body.decode()) if reply.status == 200 else TryLater(Reason.PROVIDER)


GATEWAY = Vendor(
    name="gateway",
    kind="payments",
    scheme=None,
    envelope=envelope,
    topics={},
    actions={wire.CHECKOUT: Action(Ability("keyed", 86_400), render, read)},
    login=Login(lambda account, token: (("Authorization", f"Bearer {account.credentials['key'].reveal()}"),)),
)
MUTE = Vendor(name="mute", kind="payments", scheme=None, envelope=envelope, topics={})


class Line:
    """A connection to the gateway, which gives one page for one key."""

    def __init__(self, answer: Reply | TryLater | Refused | Unknown | None = None) -> None:
        self.answer = answer
        self.sent: list[Request] = []

    async def send(self, request: Request, budget_s: float, now_ms: int) -> Reply | TryLater | Refused | Unknown:
        self.sent.append(request)
        key = dict(request.headers)["Idempotency-Key"]
        return self.answer or Reply(200, body=f"https://pay.example/c/{key}".encode())


def order(**fields: Any) -> OrderDetail:
    return msgspec.structs.replace(detail(), **{"captured": 0, "failures": 1, "total": 4990, **fields})


def checkout(line: Any, clock: VirtualClock | None = None) -> Any:
    return wire.checkout(GATEWAY, ACCOUNT, line, POLICY, clock or VirtualClock(NOW))


async def test_the_gateway_is_asked_for_what_is_due_with_ways_back() -> None:
    line = Line()
    assert (await checkout(line)(order(captured=990))).startswith("https://pay.example/c/")
    (request,) = line.sent
    assert dict(request.headers)["Authorization"] == "Bearer sk_not_a_real_one"
    assert json.loads(request.body) == {
        "amount": 4000,
        "currency": "EUR",
        "number": "1004",
        "order": "lumi:1004",
        "success_url": f"https://track.example/track/{signed('lumi:1004', 'track', POLICY)}",
        "cancel_url": f"https://track.example/pay/{signed('lumi:1004', 'pay', POLICY)}",
    }


async def test_pressing_twice_leads_to_one_page_and_anything_new_to_another() -> None:
    line, clock = Line(), VirtualClock(NOW - NOW % DAY)
    pressed = checkout(line, clock)
    first = await pressed(order())
    clock.move_to(clock.now() + DAY - 1)
    assert await pressed(order()) == first
    assert line.sent[0] == line.sent[1], "the same bytes under the same key"
    others = [await pressed(order(**new)) for new in ({"failures": 2}, {"total": 5000}, {"currency": "USD"}, {"id": "lumi:1005"})]
    clock.move_to(clock.now() + 1)
    others.append(await pressed(order()))  # a gateway's page lives for a day
    assert len({first, *others}) == 6


@pytest.mark.parametrize(
    "answer",
    [
        Reply(500),
        TryLater(Reason.CONNECT),
        Unknown(Reason.TIMEOUT),
        Refused(Reason.TOO_LARGE),
        Reply(200, body=b"javascript:alert(1)"),
        Reply(200, body=b"http://pay.example/c/1"),
        Reply(200),
    ],
)
async def test_no_page_is_a_503_and_names_no_secret(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refusal) as refused:
        await checkout(Line(answer))(order())
    assert refused.value.status == 503
    said = capsys.readouterr()
    assert "sk_not_a_real_one" not in said.out + said.err and "Ana" not in said.out + said.err


async def test_what_the_gateway_cannot_be_asked_is_not_sent() -> None:
    line = Line()
    with pytest.raises(Refusal):
        await checkout(line)(order(currency="unspeakable"))
    assert not line.sent


async def test_each_shop_has_its_own_gateway_and_one_without_credentials_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "VENDORS", {"gateway": GATEWAY, "mute": MUTE})
    paid = Paid(name="pay-lumi", vendor="gateway", credentials={"key": Ref(env="KEY")})
    mute = Paid(name="m", vendor="mute", shop="other", credentials={"key": Ref(env="KEY")})
    settings = Settings(brand=Brand(reply_to="help@lumi.example"), signing=Ref(env="SIGNING"), accounts=(paid, mute))
    environment = {"SIGNING": "a key of the tests, long enough", "KEY": "sk_not_a_real_one"}
    async with wire.till(settings, environment, VirtualClock(NOW)) as till:
        assert till.checkout("lumi:1") is not None
        assert till.checkout("other:1") is None and till.checkout("lumi2:1") is None
        assert till.contact == "help@lumi.example" and till.life_ms == 30 * DAY
        token = signed("lumi:1", "pay", wire.order_policy(settings, environment))
        assert till.order_of(token) == "lumi:1" and till.order_of(till.followed("lumi:1")) is None
        assert unsigned(till.followed("lumi:1"), "track", wire.order_policy(settings, environment)) == "lumi:1"
    listened = msgspec.structs.replace(settings, accounts=(msgspec.structs.replace(paid, credentials={}), mute))
    async with wire.till(listened, environment, VirtualClock(NOW)) as till:
        assert till.checkout("lumi:1") is None
