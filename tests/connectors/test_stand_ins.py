"""The stand-ins are the judge of duplicates, so they are judged here."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.stand_in_vendors import Web
from connectors.stand_ins import ACCOUNT, CHANNELS, PASSWORD, PROJECT, Faults, StandIns, settings_for

MESSAGES = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
FORM = {
    "content-type": "application/x-www-form-urlencoded",
    "authorization": "Basic " + b64encode(f"{ACCOUNT}:{PASSWORD}".encode()).decode(),
}
BEARER = {"authorization": f"Bearer {PASSWORD}"}
TEXT = {"To": "+15555550100", "From": "+15005550006", "Body": "hello", "StatusCallback": "https://shop.example/r?effect=" + "e" * 16}


async def ask(stand_ins: StandIns, method: str, target: str, headers: dict[str, str], body: bytes) -> Web:
    answer = await stand_ins.respond(method, target, headers, body)
    assert answer is not None
    return answer


@given(st.integers(), st.text(max_size=20), st.integers(1, 9))
def test_a_fault_depends_on_seed_effect_and_try_alone(seed: int, effect: str, nth: int) -> None:
    faults = Faults(seed=seed % 2**31, refuse=0.2, drop=0.3, slow=0.2)
    assert faults.draw(effect, nth) == faults.draw(effect, nth)
    assert Faults().draw(effect, nth) == ""
    assert Faults(stall=1.0).draw(effect, nth) == "stall"


def test_shares_are_kept_over_many_tries() -> None:
    faults = Faults(seed=3, refuse=0.1, try_later=0.2, drop=0.05)
    drawn = [faults.draw(f"effect{n}", 1) for n in range(10_000)]
    for name, share in (("refuse", 0.1), ("try_later", 0.2), ("drop", 0.05), ("", 0.65), ("hang", 0.0)):
        assert abs(drawn.count(name) / 10_000 - share) < 0.02


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"To": ""}, 21604),
        ({"To": "0155555"}, 21211),
        ({"To": "+15005550001"}, 21211),
        ({"To": "+15005550004"}, 21610),
        ({"From": ""}, 21603),
        ({"From": "not a possible sender name"}, 21212),
        ({"From": "", "MessagingServiceSid": "MG1"}, 21701),
        ({"Body": ""}, 21602),
        ({"Body": "x" * 1601}, 21617),
        ({"StatusCallback": "/relative"}, 21609),
        ({"StatusCallback": "https://under_score.example/"}, 21609),
        ({"Boby": "typo"}, 20001),
    ],
)
async def test_twilio_refuses_what_its_specification_does_not_allow(changes: dict[str, str], code: int) -> None:
    stand_ins = StandIns()
    answer = await ask(stand_ins, "POST", MESSAGES, FORM, urlencode({**TEXT, **changes}).encode())
    assert (answer.status, answer.body["code"]) == (400, code)
    assert stand_ins.received() == []


async def test_twilio_wants_its_account_and_token() -> None:
    stand_ins = StandIns()
    wrong = {**FORM, "authorization": "Basic eDp5"}
    assert (await ask(stand_ins, "POST", MESSAGES, wrong, urlencode(TEXT).encode())).status == 401
    assert (await ask(stand_ins, "POST", MESSAGES.replace(ACCOUNT, "AC1"), FORM, urlencode(TEXT).encode())).status == 401
    assert (await ask(stand_ins, "GET", MESSAGES, wrong, b"")).status == 401


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"token": ""},
        {"token": "a", "topic": "b"},
        {"tokn": "a"},
        {"token": "a", "notification": {"titel": "x"}},
        {"token": "a", "notification": {"title": 5}},
        {"token": "a", "data": {"n": 5}},
        {"token": "a", "data": {"google.x": "y"}},
        {"token": "a", "android": {"priority": "urgent"}},
        {"token": "a", "data": {"x": "y" * 5000}},
    ],
)
async def test_fcm_refuses_what_its_specification_does_not_allow(message: Any) -> None:
    stand_ins = StandIns()
    body = json.dumps({"message": message}).encode()
    answer = await ask(stand_ins, "POST", f"/v1/projects/{PROJECT}/messages:send", BEARER, body)
    assert (answer.status, answer.body["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert stand_ins.received() == []


async def test_fcm_wants_its_token_and_project() -> None:
    stand_ins = StandIns()
    body = json.dumps({"message": {"token": "a"}}).encode()
    assert (await ask(stand_ins, "POST", f"/v1/projects/{PROJECT}/messages:send", {}, body)).status == 401
    assert (await ask(stand_ins, "POST", "/v1/projects/other/messages:send", BEARER, body)).status == 404
    assert (await ask(stand_ins, "POST", f"/v1/projects/{PROJECT}/messages:send", BEARER, b"{")).status == 400


async def test_a_second_acceptance_of_one_effect_is_a_duplicate() -> None:
    stand_ins = StandIns()
    for _ in range(3):
        assert (await ask(stand_ins, "POST", MESSAGES, FORM, urlencode(TEXT).encode())).status == 201
    assert (stand_ins.accepted(), stand_ins.duplicates()) == ({"sms": 3}, {"sms": 2})


async def test_what_was_accepted_outlives_the_process_and_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "received.jsonl"
    first = StandIns(ledger=file, clock=lambda: 7)
    await first.start()
    await ask(first, "POST", MESSAGES, FORM, urlencode(TEXT).encode())
    assert len(file.read_bytes().splitlines()) == 1, "written before it was answered"
    await first.close()
    with file.open("ab") as torn:
        torn.write(b'{"channel":"sms","effe')
    second = StandIns(ledger=file, clock=lambda: 8)
    await second.start()
    assert second.accepted() == {"sms": 1}
    listing = await ask(second, "GET", f"{MESSAGES}?{urlencode({'To': TEXT['To']})}", FORM, b"")
    assert [message["body"] for message in listing.body["messages"]] == ["hello"], "a look-up after a restart still finds it"
    await ask(second, "POST", MESSAGES, FORM, urlencode(TEXT).encode())
    assert second.duplicates() == {"sms": 1}
    await second.close()
    third = StandIns(ledger=file)
    await third.start()
    assert third.accepted() == {"sms": 2}, "the line after a torn one is a line of its own"
    await third.close()


async def http(port: int, request: str) -> tuple[int, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.replace("\n", "\r\n").encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


async def test_another_process_can_read_what_was_received_and_change_the_faults() -> None:
    stand_ins = StandIns()
    await stand_ins.start()
    for effect in ("a" * 16, "b" * 16):
        stand_ins.accept("push", effect, "device", "title", "text")
    end = "Host: x\nConnection: close\n\n"
    status, received = await http(stand_ins.http_port, f"GET /received?limit=1&channel=push HTTP/1.1\n{end}")
    assert (status, [receipt["effect"] for receipt in received]) == (200, ["b" * 16])
    status, counts = await http(stand_ins.http_port, f"GET /counts HTTP/1.1\n{end}")
    assert counts == {"accepted": {"push": 2}, "duplicates": {"push": 0}, "webhook_repeats": 0}
    body = json.dumps({"channel": "email", "faults": {"stall": 1.0}})
    status, _ = await http(stand_ins.http_port, f"POST /faults HTTP/1.1\nContent-Length: {len(body)}\n{end}{body}")
    assert (status, stand_ins.faults["email"]) == (200, Faults(stall=1.0))
    body = json.dumps({"channel": "fax", "faults": {}})
    assert (await http(stand_ins.http_port, f"POST /faults HTTP/1.1\nContent-Length: {len(body)}\n{end}{body}"))[0] == 422
    assert (await http(stand_ins.http_port, f"GET /nothing HTTP/1.1\n{end}"))[0] == 404
    await stand_ins.close()


async def test_garbage_ends_its_own_connection_and_no_other() -> None:
    stand_ins = StandIns()
    await stand_ins.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", stand_ins.http_port)
    writer.write(b"\x16\x03\x01 not http\r\n\r\n")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    assert (await http(stand_ins.http_port, "GET /counts HTTP/1.1\nHost: x\nConnection: close\n\n"))[0] == 200
    await stand_ins.close()


def test_settings_for_another_process_name_the_same_ports() -> None:
    stand_ins = StandIns(http_port=8901, smtp_port=8902)
    assert {channel: stand_ins.settings(channel) for channel in CHANNELS} == settings_for(8901, 8902)
