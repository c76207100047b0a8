"""Asking a vendor: pages to their end, credentials kept, and one clear word for each way in which an answer does not come."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from connectors import client as client_module
from connectors.base import Reason, Refused, Secret, TryLater
from connectors.client import Client, Page, askable
from connectors.http import Request
from connectors.vendor import Login, Question
from tests.connectors.toy_vendors import CARRIER, GATEWAY, TOKEN_LIFE_S, account, clients, http, ok, stub

NOW = 1_795_464_000_000


class Now:
    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> int:
        return self.at


def paid(number: int) -> dict[str, Any]:
    return {"id": f"p{number}", "order": str(number), "at": NOW + number, "amount": 1000}


async def test_all_pages_are_asked_for_with_one_login() -> None:
    async with stub() as server, clients(server.url, Now(), GATEWAY) as (client,):
        server.things["paid"] = [paid(n) for n in range(5)]
        asked = await client.ask("payment_intents", str(NOW + 1))
        assert asked.stopped is None
        assert [thing["id"] for page in asked.pages for thing in json.loads(page.body)["paid"]] == ["p1", "p2", "p3", "p4"]
        assert {page.kind for page in asked.pages} == {"listing"} and server.tokens == 1


async def test_a_token_is_renewed_before_it_ends_and_after_a_refusal() -> None:
    now = Now()
    async with stub() as server, clients(server.url, now, GATEWAY) as (client,):
        await client.ask("payment_intents", "0")
        now.at += int((TOKEN_LIFE_S - 61) * 1000)
        await client.ask("payment_intents", "0")
        assert server.tokens == 1
        now.at += 2000
        assert (await client.ask("payment_intents", "0")).stopped is None
        assert server.tokens == 2
        server.valid.clear()
        refused = await client.ask("payment_intents", "0")
        assert refused.stopped == TryLater(Reason.CREDENTIALS) and "credentials" in refused.said
        assert (await client.ask("payment_intents", "0")).stopped is None
        assert server.tokens == 3


@pytest.mark.parametrize(
    ("answer", "stopped"),
    [
        (http(500, b"oops"), TryLater(Reason.PROVIDER)),
        (http(503, b"", "retry-after: 90"), TryLater(Reason.PROVIDER, 90.0)),
        (http(429, b"{}", "retry-after: 17"), TryLater(Reason.RATE, 17.0)),
        (http(404, b"{}"), TryLater(Reason.NOT_FOUND)),
        (http(403, b"{}"), TryLater(Reason.CREDENTIALS)),
        (http(400, b"{}"), Refused(Reason.OTHER)),
        (http(302, b"", "location: https://elsewhere.example/"), Refused(Reason.OTHER)),
        (http(200, b'{"paid": [{"id"', length=400), TryLater(Reason.GATEWAY)),
        (http(200, b'{"paid": [{"id"'), TryLater(Reason.GATEWAY)),
        (http(200, b"<html>maintenance</html>"), TryLater(Reason.GATEWAY)),
        (http(200, b'{"next": 7}'), TryLater(Reason.GATEWAY)),
        (http(200, b'{"complaint": "not today"}'), TryLater(Reason.PROVIDER)),
    ],
    ids=["500", "503", "429", "404", "403", "400", "redirect", "cut", "truncated", "page", "cursor", "complaint"],
)
async def test_what_is_no_answer_stops_at_once_and_says_when_to_go_on(answer: bytes, stopped: TryLater | Refused) -> None:
    async with stub() as server, clients(server.url, Now(), GATEWAY) as (client,):
        server.things["paid"] = [paid(n) for n in range(5)]
        server.raw = lambda path: answer if "cursor=2" in path else None
        asked = await client.ask("payment_intents", "0")
        assert asked.stopped == stopped and len(asked.pages) == 1
        assert sum("cursor=2" in path for path in server.asked) == 1 and "cursor=4" not in server.asked[-1], "one attempt"
        assert asked.said == "The toy says: not today" or "complaint" not in answer.decode()


@pytest.mark.parametrize(
    "again",
    [{"paid": [paid(0), paid(1)], "next": "2"}, {"paid": [paid(0), paid(1)], "next": "5"}],
    ids=["back to a page that was read", "another name for the same page"],
)
async def test_pages_that_go_in_a_circle_end(again: dict[str, Any]) -> None:
    async with stub() as server, clients(server.url, Now(), GATEWAY) as (client,):
        server.things["paid"] = [paid(n) for n in range(5)]
        first = {"paid": [paid(0), paid(1)], "next": again["next"]}
        server.raw = lambda path: None if "token" in path else ok(again if "cursor=2" in path or "cursor=5" in path else first)
        asked = await client.ask("payment_intents", "0")
        assert asked.stopped == TryLater(Reason.GATEWAY) and asked.said and len(server.asked) <= 4


async def test_a_dead_server_and_a_silent_one_are_words() -> None:
    async with clients("http://127.0.0.1:9", Now(), GATEWAY) as (client,):
        assert (await client.ask("payment_intents", "0")).stopped == TryLater(Reason.CONNECT)
    async with stub() as server, clients(server.url, Now(), GATEWAY) as (client,):
        server.raw = lambda path: None if "token" in path else b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n"
        assert isinstance((await client.ask("payment_intents", "0", budget_s=0.3)).stopped, TryLater)


async def test_an_answer_or_an_asking_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE_CAP", 64)
    async with stub() as server, clients(server.url, Now(), GATEWAY) as (client,):
        server.things["paid"] = [paid(n) for n in range(5)]
        assert (await client.ask("payment_intents", "0")).stopped == Refused(Reason.TOO_LARGE)
    monkeypatch.setattr(client_module, "PAGE_CAP", 1 << 20)
    async with stub() as server, clients(server.url, Now(), GATEWAY) as (client,):
        monkeypatch.setattr(client_module, "ASKING_CAP", 200)
        server.things["paid"] = [paid(n) for n in range(5)]
        assert (await client.ask("payment_intents", "0")).stopped == Refused(Reason.TOO_LARGE)
        monkeypatch.setattr(client_module, "ASKING_CAP", 1 << 20)
        monkeypatch.setattr(client_module, "PAGES", 2)
        asked = await client.ask("payment_intents", "0")
        assert asked.stopped == TryLater(Reason.GATEWAY) and asked.said == "more than 2 pages"


async def test_credentials_follow_a_cursor_nowhere_else() -> None:
    away = Question(
        "listing",
        lambda account, value, cursor: Request("GET", cursor or f"{account.url}/paid?value=0"),
        GATEWAY.questions["payment_intents"].next,
    )
    vendor = msgspec.structs.replace(GATEWAY, questions={"payment_intents": away})
    async with stub() as server, stub() as thief, clients(server.url, Now(), vendor) as (client,):
        server.raw = lambda path: None if "token" in path else ok({"paid": [paid(0)], "next": f"{thief.url}/paid"})
        asked = await client.ask("payment_intents", "0")
        assert asked.stopped == Refused(Reason.BLOCKED_ADDRESS) and thief.asked == []


async def test_a_missing_credential_and_a_login_that_fails_are_the_operators_to_mend() -> None:
    async with stub() as server:
        client = Client(GATEWAY, account(GATEWAY, server.url, secret=""), Now())
        await client.start()
        assert (await client.ask("payment_intents", "0")).stopped == TryLater(Reason.CREDENTIALS) and server.asked == []
        await client.close()
        async with clients(server.url, Now(), GATEWAY) as (other,):
            for raw, wanted in ((http(401, b"{}"), Reason.CREDENTIALS), (http(500, b""), Reason.PROVIDER), (ok({}), Reason.PROVIDER)):
                server.raw = lambda path, raw=raw: raw if "token" in path else None  # type: ignore[misc]
                assert (await other.ask("payment_intents", "0")).stopped == TryLater(wanted)


def test_an_account_is_asked_only_where_there_is_something_to_show() -> None:
    url, credentials = "http://127.0.0.1:1", {"secret": 1}
    assert askable(GATEWAY, url, credentials) and askable(msgspec.structs.replace(GATEWAY, url=url), "", credentials)
    assert not askable(GATEWAY, url, {}) and askable(msgspec.structs.replace(GATEWAY, login=None), url, {})
    assert not askable(GATEWAY, "", credentials)
    assert not askable(msgspec.structs.replace(GATEWAY, questions={}), url, credentials)


def test_a_name_means_a_time_with_one_kind_of_vendor_and_an_id_with_another() -> None:
    question = GATEWAY.questions["payment_intents"]
    both = {"refunds": question, "orders_since": question, "orders": question}
    asked = {
        kind: Client(msgspec.structs.replace(GATEWAY, kind=kind, questions=both), account(GATEWAY, "http://127.0.0.1:1"), Now()).by_time
        for kind in ("shop", "payments", "warehouse", "carrier")
    }
    assert asked == {"shop": ("orders_since",), "payments": ("refunds",), "warehouse": ("orders",), "carrier": ()}


async def test_a_token_that_the_credentials_hold_already_is_not_asked_for() -> None:
    nothing: Any = lambda account: None  # noqa: E731
    ready = Login(headers=lambda account, token: (("authorization", f"Bearer {token or 'ready'}"),), render=nothing)
    async with stub() as server, clients(server.url, Now(), msgspec.structs.replace(GATEWAY, login=ready)) as (client,):
        server.valid.add("ready")
        assert (await client.ask("payment_intents", "0")).stopped is None and server.tokens == 0


def test_an_answer_becomes_a_delivery_named_by_its_bytes(tmp_path: Any) -> None:
    small, large = Page("listing", b"{}", NOW), Page("listing", b'"' + b"x" * (1 << 20) + b'"', NOW)
    delivery = small.delivery("toypay-lumi", tmp_path)
    assert (delivery.topic, delivery.body, delivery.beside) == ("answer:listing", b"{}", "")
    assert delivery.delivery == Page("listing", b"{}", NOW + 1).delivery("toypay-lumi", tmp_path).delivery
    beside = large.delivery("toypay-lumi", tmp_path)
    assert beside.body == b"" and (tmp_path / beside.beside).read_bytes() == large.body


async def test_secrets_are_shown_by_nothing() -> None:
    async with stub() as server, clients(server.url, Now(), CARRIER) as (client,):
        await client.ask("tracking", "T1")
        assert [token.text for token in client.session._tokens.values()] == [Secret("t1")]
        assert "t1" not in repr(vars(client.session)) and "of-the-toy" not in repr(client.account)
