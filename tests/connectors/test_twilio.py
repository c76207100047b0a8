"""Twilio: what we write fits its specification, what it answers has one meaning."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse

from connectors.base import Answer, Done, Reason, Refused, Secret, SettingsError, TryLater, Unknown
from connectors.http import Reply, Request
from connectors.stand_ins import ACCOUNT, MESSAGING_SERVICE, StandIns
from connectors.twilio import Twilio
from orders.effect import Claim
from tests.connectors.published import published

NOW = 1_795_000_000_000
SAMPLES = Path(__file__).parents[1] / "samples" / "twilio"


def twilio(**settings: Any) -> Twilio:
    return Twilio({"account": ACCOUNT, "token": Secret("hidden"), "sender": "+15005550006", **settings})


def claim(**body: Any) -> Claim:
    known = {"to": "+15555550100", "text": "Hi Zoë, 100 % + more & so on", "way_back": "eff.cust.sig", **body}
    return Claim(lane="l", key="lumi:c1", effect="e" * 16, channel="sms", attempt=1, deadline=NOW, body=msgspec.json.encode(known))


def means(word: list[Any]) -> Answer:
    match word:
        case ["Done", reference]:
            return Done(reference)
        case ["Refused", reason]:
            return Refused(Reason(reason))
        case ["Unknown", reason]:
            return Unknown(Reason(reason))
        case ["TryLater", reason, after]:
            return TryLater(Reason(reason), after)
    raise AssertionError(word)


@pytest.mark.parametrize(
    "case", json.loads((SAMPLES / "replies.json").read_text()), ids=lambda case: f"{case['status']}-{case['means'][1]}"
)
def test_a_reply_has_one_meaning(case: dict[str, Any]) -> None:
    body = json.dumps(case["body"]).encode() if "body" in case else case["text"].encode()
    assert twilio().read(Reply(case["status"], {}, body, case.get("retry_after_s"))) == means(case["means"])


def form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode()))


def test_a_text_becomes_a_form_with_its_way_back_and_without_credentials() -> None:
    request = twilio(status_callback="https://shop.example/receipts?v=1").render(claim())
    assert form(request) == {
        "To": "+15555550100",
        "Body": "Hi Zoë, 100 % + more & so on",
        "From": "+15005550006",
        "StatusCallback": f"https://shop.example/receipts?v=1&effect={'e' * 16}&way_back=eff.cust.sig",
    }
    assert "Authorization" not in dict(request.headers)
    assert b"hidden" not in msgspec.json.encode(request)


def test_the_sid_of_a_messaging_service_takes_the_place_of_a_number() -> None:
    assert "From" not in form(twilio(sender=MESSAGING_SERVICE).render(claim()))
    assert form(twilio(sender=MESSAGING_SERVICE).render(claim()))["MessagingServiceSid"] == MESSAGING_SERVICE


async def test_credentials_are_added_last() -> None:
    request = await twilio().authorize(twilio().render(claim()), claim(), NOW, 1.0)
    assert isinstance(request, Request)
    assert dict(request.headers)["Authorization"] == "Basic " + b64encode(f"{ACCOUNT}:hidden".encode()).decode()


@pytest.mark.parametrize("missing", ["account", "sender", "token"])
def test_what_is_missing_is_named(missing: str) -> None:
    for empty in (None, Secret("") if missing == "token" else ""):
        with pytest.raises(SettingsError, match=missing):
            twilio(**{missing: empty})


def listed(**changes: Any) -> dict[str, Any]:
    known = {"sid": "SM" + "a" * 32, "to": "+15555550100", "body": "Hi Zoë, 100 % + more & so on", "direction": "outbound-api"}
    return {**known, "date_created": "Wed, 18 Nov 2026 06:00:00 +0000", "status": "delivered", **changes}


FOUND, FREE = Done("SM" + "a" * 32), TryLater(Reason.NOT_FOUND)


@pytest.mark.parametrize(
    ("messages", "more", "answer"),
    [
        ([listed()], None, FOUND),
        ([listed(status="failed")], None, FOUND),  # it was accepted: what became of it is a receipt's to tell
        ([listed(date_created=None)], None, FOUND),  # a doubt never sends twice
        ([listed(date_created="nonsense")], None, FOUND),
        ([listed(body="another text")], None, FREE),
        ([listed(direction="inbound")], None, FREE),
        ([listed(date_created="Mon, 16 Nov 2026 06:00:00 +0000")], None, FREE),  # the same words two days ago
        ([], None, FREE),
        ([], "/2010-04-01/...&Page=1", Unknown(Reason.NOT_FOUND)),
        ([listed()], "/2010-04-01/...&Page=1", FOUND),
    ],
)
def test_a_look_up_finds_our_text_within_its_time(messages: list[dict[str, Any]], more: str | None, answer: Answer) -> None:
    reply = Reply(200, {}, json.dumps({"messages": messages, "next_page_uri": more}).encode())
    now = 1_795_000_000_000  # 18 November 2026, 11:06
    assert twilio().read_lookup(reply, claim(), now) == answer


@pytest.mark.parametrize("reply", [Reply(500), Reply(401, {}, b"{}"), Reply(200, {}, b"<html>"), Reply(429), Reply(200, {}, b"{}")])
def test_a_look_up_that_was_not_answered_proves_nothing(reply: Reply) -> None:
    assert isinstance(twilio().read_lookup(reply, claim(), NOW), Unknown)


# --- against the vendor's own specification


@pytest.fixture(scope="module")
def specification() -> OpenAPI:
    return OpenAPI.from_dict(json.loads(published("twilio", "spec", "api_v2010.messages.json")))


def as_specified(request: Request) -> MockRequest:
    parts = urlsplit(request.url)
    return MockRequest(
        "https://api.twilio.com",
        request.method.lower(),
        parts.path,
        args=dict(parse_qsl(parts.query)),
        headers=dict(request.headers),
        content_type=dict(request.headers).get("Content-Type", ""),
        data=request.body,
    )


async def test_what_we_send_is_what_the_specification_describes(specification: OpenAPI) -> None:
    for sender in ("+15005550006", MESSAGING_SERVICE):
        connector = twilio(sender=sender, status_callback="https://shop.example/receipts")
        request = await connector.authorize(connector.render(claim()), claim(), NOW, 1.0)
        assert isinstance(request, Request)
        specification.validate_request(as_specified(request))
        described = specification.spec["paths"]["/2010-04-01/Accounts/{AccountSid}/Messages.json"]["post"]["requestBody"]["content"]
        properties = described["application/x-www-form-urlencoded"]["schema"]["properties"]
        assert form(request).keys() <= set(properties.keys())
    lookup = await connector.authorize(connector.render_lookup(claim()), claim(), NOW, 1.0)
    assert isinstance(lookup, Request)
    specification.validate_request(as_specified(lookup))


async def test_what_the_stand_in_answers_is_what_the_specification_describes(specification: OpenAPI) -> None:
    stand_ins = StandIns(clock=lambda: NOW)
    connector = Twilio(stand_ins.settings("sms"))
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = await connector.authorize(connector.render(claim()), claim(), NOW, 1.0)
    lookup = await connector.authorize(connector.render_lookup(claim()), claim(), NOW, 1.0)
    assert isinstance(request, Request)
    assert isinstance(lookup, Request)
    headers |= {"authorization": dict(request.headers)["Authorization"]}
    for asked, target in ((request, urlsplit(request.url).path), (lookup, f"{urlsplit(lookup.url).path}?{urlsplit(lookup.url).query}")):
        answer = await stand_ins.respond(asked.method, target, headers, asked.body)
        assert answer is not None
        response = MockResponse(data=json.dumps(answer.body).encode(), status_code=answer.status, content_type="application/json")
        specification.validate_response(as_specified(asked), response)
