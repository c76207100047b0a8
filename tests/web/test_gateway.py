"""`POST /v1/facts` over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orders.fact import PaymentCaptured, decode_fact
from tests.web.conftest import Site
from tests.web.facts import body, captured, placed
from web.app import WebServer
from web.gateway import Limits

NDJSON = "application/x-ndjson"


async def test_an_accepted_fact_is_in_the_log_keyed_by_its_order_before_the_answer(site: Site) -> None:
    answer = await site.post(body(captured()))
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 1
    ((topic, key, value),) = site.log.records
    assert (topic, key) == ("facts", b"lumi:1001")
    fact = decode_fact(value)
    assert isinstance(fact, PaymentCaptured) and fact.amount == 4990


async def test_the_answer_waits_for_the_log(site: Site) -> None:
    site.log.gate = asyncio.Event()
    request = asyncio.create_task(site.post(body(captured())))
    while not site.log.asked:
        await asyncio.sleep(0)
    assert not request.done() and not site.log.records
    site.log.gate.set()
    assert (await request).status_code == 202


async def test_many_facts_come_as_lines_and_go_as_one_append(site: Site) -> None:
    lines = b"\n".join(body(captured(object=f"pi_{n}")) for n in range(700)) + b"\n\n"
    answer = await site.post(lines, NDJSON)
    assert answer.status_code == 202 and answer.json()["accepted"] == 700
    assert len(site.log.records) == 700 and site.log.asked == 1


async def test_one_bad_line_refuses_all_of_them_and_is_named(site: Site) -> None:
    answer = await site.post(body(captured()) + b"\n" + body(captured(amount="x")), NDJSON)
    assert answer.status_code == 422
    assert answer.json()["line"] == 2 and answer.json()["field"] == "amount"
    assert not site.log.records


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"amount": "49.90"}, "invalid", "amount"),
        ({"amount": 49.9}, "invalid", "amount"),
        ({"amount": None}, "invalid", "amount"),
        ({"amount": -1}, "invalid", "amount"),
        ({"amount": 10**30}, "invalid", "amount"),
        ({"currency": "EURO"}, "currency", "currency"),
        ({"currency": "eur"}, "currency", "currency"),
        ({"at": 5}, "invalid", "at"),
        ({"at": 10**15}, "invalid", "at"),
        ({"at": "yesterday"}, "invalid", "at"),
        ({"order": ""}, "invalid", "order"),
        ({"order": "1001"}, "invalid", "order"),
        ({"order": "lumi:10 01"}, "invalid", "order"),
        ({"object": ""}, "invalid", "object"),
        ({"system": "s" * 5000}, "invalid", "system"),
        ({"v": 99}, "version", "v"),
        ({"authority": 2**60}, "invalid", "authority"),
        ({"type": "PaymentCapturd"}, "unknown_kind", "type"),
        ({"amuont": 1}, "unknown_field", "amuont"),
    ],
)
async def test_what_is_no_fact_is_refused_and_the_field_is_named(site: Site, changed: dict[str, object], code: str, field: str) -> None:
    answer = await site.post(body(captured(**changed)))
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["code"], problem["field"]) == (code, field)
    assert problem["message"] and problem["trace_id"]
    assert not site.log.records


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"lines": [{"line": "1", "sku": "L", "quantity": 0}]}, "lines[...].quantity"),
        ({"lines": [{"line": "1", "sku": "L", "quantity": 1, "colour": "red"}]}, "lines[0].colour"),
        ({"lines": [{"line": "1", "sku": "L"}]}, "lines[0].quantity"),
        ({"lines": []}, "lines"),
        ({"person": {"name": "Ana", "adress": {}}}, "person.adress"),
        ({"person": {"address": {"lines": "Rua 1"}}}, "person.address.lines"),
        ({"person": {"name": "a\u0000b"}}, "person.name"),
        ({"person": {"name": "x" * 20_000}}, "person.name"),
    ],
)
async def test_fields_further_inside_are_named_with_their_path(site: Site, changed: dict[str, object], field: str) -> None:
    answer = await site.post(body(placed(**changed)))
    assert (answer.status_code, answer.json().get("field")) == (422, field)


async def test_a_problem_names_the_order_when_the_body_does(site: Site) -> None:
    assert (await site.post(body(captured(amount="x")))).json()["order_id"] == "lumi:1001"
    assert "order_id" not in (await site.post(body(captured(order="no colon", amount="x")))).json()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"type":"NoteAdded","text":"\xff"}', b'{"a":NaN}', b'{"a":1e999}',
        b'{"a":"\\ud800"}', b"[" * 5000, b'{"a":' * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)  # fmt: skip
async def test_what_is_not_json_or_nests_too_deep_is_refused_in_words(site: Site, raw: bytes) -> None:
    answer = await site.post(raw)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed", "too_deep", "invalid")
    assert not site.log.records


async def test_brackets_inside_strings_do_not_count_as_depth(site: Site) -> None:
    answer = await site.post(body({**captured(), "type": "NoteAdded", "text": "[[[[{{{{" * 20 + '\\" [[[[', "by": "ana"} | {}))
    assert answer.json().get("code") == "unknown_field"  # amount: so it was parsed
    fact = {k: v for k, v in captured().items() if k not in ("amount", "currency")}
    assert (await site.post(body({**fact, "type": "NoteAdded", "text": "[[[[{{{{" * 20, "by": "ana"}))).status_code == 202


async def test_a_log_that_is_down_promises_nothing(site: Site) -> None:
    site.log.down = True
    answer = await site.post(body(captured()))
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["code"] == "log_down"
    site.log.down = False
    assert (await site.post(body(captured()))).status_code == 202


async def test_only_post_is_understood(site: Site) -> None:
    answer = await site.client.get("/v1/facts")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


# --- Idempotency-Key
async def test_a_repeated_key_gets_the_first_answer_and_appends_once(site: Site) -> None:
    first = await site.post(body(captured()), idempotency_key="k1")
    second = await site.post(body(captured()), idempotency_key="k1")
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert len(site.log.records) == 1


async def test_a_repeated_key_with_another_body_is_refused(site: Site) -> None:
    await site.post(body(captured()), idempotency_key="k1")
    answer = await site.post(body(captured(amount=1)), idempotency_key="k1")
    assert answer.status_code == 422 and answer.json()["code"] == "key_reused"
    assert len(site.log.records) == 1


async def test_requests_that_run_side_by_side_under_one_key_append_once(site: Site) -> None:
    site.log.gate = asyncio.Event()
    requests = [asyncio.create_task(site.post(body(captured()), idempotency_key="k1")) for _ in range(20)]
    while not site.log.asked:
        await asyncio.sleep(0)
    site.log.gate.set()
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {202}
    assert len(site.log.records) == 1


async def test_a_failed_append_is_not_remembered(site: Site) -> None:
    site.log.down = True
    assert (await site.post(body(captured()), idempotency_key="k1")).status_code == 503
    site.log.down = False
    assert (await site.post(body(captured()), idempotency_key="k1")).status_code == 202


async def test_a_refusal_is_remembered_like_any_answer(site: Site) -> None:
    first = await site.post(body(captured(amount="x")), idempotency_key="k1")
    second = await site.post(body(captured(amount="x")), idempotency_key="k1")
    assert first.status_code == 422 and first.content == second.content


class TestSmallLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(fact_bytes=2000, body_bytes=4000, lines=5, remembered=3)

    async def test_a_body_announced_too_large_is_refused_before_it_is_read(self, site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/facts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000000\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 413 " in head.splitlines()[0]
        writer.close()

    @pytest.mark.parametrize("chunked", [True, False])
    async def test_a_body_above_the_cap_is_thrown_away_and_its_sender_learns_why(self, site: Site, chunked: bool) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(2500):
                yield b"x" * 4000

        answer = await site.client.post("/v1/facts", content=parts() if chunked else b"x" * 10_000_000)
        assert answer.status_code == 413 and answer.json()["code"] == "too_large"
        assert (await site.post(body(captured()))).status_code == 202

    async def test_a_body_without_an_end_is_cut_off(self, site: Site) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/facts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            async with asyncio.timeout(10):
                while sent < 200 << 20:
                    writer.write(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
                    sent += 1 << 20
                    await writer.drain()
        except ConnectionError:
            pass
        assert sent < 64 << 20
        writer.close()

    async def test_too_many_lines_and_too_long_a_line_are_refused(self, site: Site) -> None:
        note = b'{"type":"NoteAdded"}'
        many = b"\n".join([body(captured(object=f"pi_{n}")) for n in range(6)])
        answer = await site.post(many, NDJSON)
        assert (answer.status_code, answer.json()["line"]) == (413, 6)
        answer = await site.post(note[:-1] + b" " * 2000 + b"}", NDJSON)
        assert (answer.status_code, answer.json()["line"]) == (413, 1)

    async def test_keys_are_forgotten_oldest_first(self, site: Site) -> None:
        for n in range(4):
            await site.post(body(captured()), idempotency_key=f"k{n}")
        assert len(site.log.records) == 4
        await site.post(body(captured()), idempotency_key="k3")
        assert len(site.log.records) == 4  # remembered
        await site.post(body(captured()), idempotency_key="k0")
        assert len(site.log.records) == 5  # forgotten; the natural key makes it harmless


class TestAFastCaller:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(rate=3.0)  # six at once

    async def test_a_caller_that_asks_too_often_is_told_when_to_come_again(self, site: Site) -> None:
        answers = [await site.post(body(captured(object=f"pi_{n}"))) for n in range(6)]
        assert [answer.status_code for answer in answers] == [202] * 6
        refused = max([await site.post(body(captured(object=f"pi_{n}"))) for n in range(6, 30)], key=lambda answer: answer.status_code)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited") and int(refused.headers["retry-after"]) > 0
        assert len(site.log.records) < 30
        assert 'outcome="rate_limited"' in site.metrics.expose().decode()


class TestASlowCaller:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(read_s=0.5)

    @pytest.mark.parametrize("path", ["/v1/facts", "/v1/parked/schema~facts~3~1207:replay", "/parked/schema~facts~3~1207", "/sending"])
    async def test_a_body_that_drips_is_let_go_on_every_route(self, site: Site, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        kind = "application/json" if path.startswith("/v1") else "application/x-www-form-urlencoded"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n{{".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 408 " in head.splitlines()[0]
        writer.close()

    async def test_a_page_that_stays_open_is_not_a_body_that_drips(self, site: Site) -> None:
        heard = b""
        async with site.client.stream("GET", "/live?status=") as answer, asyncio.timeout(10):
            async for part in answer.aiter_bytes():
                heard += part
                if heard.count(b"event: orders") == 1:  # the next one comes with the next tick, later than a body may
                    site.reader.rows.insert(0, site.reader.rows.pop())
                elif heard.count(b"event: orders") > 1:
                    break
        assert heard.count(b"event: orders") > 1


async def test_a_head_above_the_cap_is_refused_and_others_are_served(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST /v1/facts HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000)
    status = await asyncio.wait_for(reader.readline(), 5)  # the head has no end, and is not waited for
    assert status.split()[1:2] in ([b"431"], [b"400"], [])
    writer.close()
    assert (await site.post(body(captured()))).status_code == 202


async def test_a_head_that_drips_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.app.HEADER_MS", 300)

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        """Never asked: the head is not complete."""

    server = WebServer(nothing, "127.0.0.1", 0)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: local")
    status = await asyncio.wait_for(reader.read(), 5)
    assert status == b"" or b" 408 " in status.splitlines()[0]
    writer.close()
    await server.close()


def test_callers_that_were_not_heard_of_for_long_are_forgotten() -> None:
    from web.gateway import Callers

    callers = Callers(rate=0.5, most=2)
    assert callers.admit(("a", ""), 0.0) and not callers.admit(("a", ""), 0.0)
    assert callers.admit(("b", ""), 0.0) and callers.admit(("c", ""), 0.0)
    assert callers.admit(("a", ""), 0.0), "it was forgotten, and begins anew"
    assert callers.admit(("a", ""), 2.0) and not callers.admit(("a", ""), 2.1)


async def test_outcomes_are_counted(site: Site) -> None:
    await site.post(body(captured()), idempotency_key="a")
    await site.post(body(captured()), idempotency_key="a")
    await site.post(body(captured(amount="x")))
    await site.post(b"{")
    site.log.down = True
    await site.post(body(captured()))
    text = site.metrics.expose().decode()
    for outcome in ("accepted", "replayed", "invalid", "malformed", "log_down"):
        assert f'orderflow_ingest_events_total{{outcome="{outcome}",vendor="api"}} 1.0' in text
    assert 'orderflow_ingest_ack_duration_seconds_count{vendor="api"}' in text


async def test_what_is_appended_is_canonical(site: Site) -> None:
    """A repeated field in the body cannot mean one thing to us and another to the next reader."""
    raw = body(captured()).replace(b'"amount": 4990', b'"amount": 1, "amount": 4990')
    assert (await site.post(raw)).status_code == 202
    ((_, _, value),) = site.log.records
    assert value.count(b"amount") == 1 and json.loads(value)["amount"] == 4990
