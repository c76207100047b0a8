"""Webhooks: signed by the convention, one key per effect, called only where customers may point us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.base import Answer, Done, Reason, Refused, Secret, SettingsError, TryLater
from connectors.http import Guard, Reply, Request
from connectors.stand_ins import SIGNING, StandIns
from connectors.webhook import Webhook, sign, signing_key
from orders.effect import Claim
from tests.connectors.published import published

NOW = 1_795_000_000_000
SAMPLES = Path(__file__).parents[1] / "samples" / "webhook"
OLD = "whsec_" + "b2xkIHNlY3JldCBvbGQgc2VjcmV0IG9sZCBzZWNyZXQ="


def webhook(**settings: Any) -> Webhook:
    return Webhook({"url": "https://shop.example/hook", "secret": Secret(SIGNING), **settings})


def claim(**body: Any) -> Claim:
    known = {"event": "order.shipped", "data": {"order": "lumi:1", "total": 10}, **body}
    return Claim(lane="l", key="k", effect="e" * 16, channel="webhook", attempt=1, deadline=NOW, body=msgspec.json.encode(known))


async def signed(connector: Webhook, one: Claim) -> dict[str, str]:
    request = await connector.authorize(connector.render(one), one, NOW, 1.0)
    assert isinstance(request, Request)
    return dict(request.headers)


@pytest.mark.parametrize("case", json.loads((SAMPLES / "replies.json").read_text()), ids=lambda case: str(case["status"]))
def test_a_reply_has_one_meaning(case: dict[str, Any]) -> None:
    word, *rest = case["means"]
    expected: Answer
    match word:
        case "Done":
            expected = Done()
        case "Refused":
            expected = Refused(Reason(rest[0]))
        case _:
            expected = TryLater(Reason(rest[0]), rest[1])
    assert webhook().read(Reply(case["status"], {}, b"", case.get("retry_after_s"))) == expected


def test_the_published_vector_is_signed_as_published() -> None:
    for case in json.loads(published("custom-store", "vectors", "standard-webhooks.json"))["cases"]:
        key = signing_key(Secret(case["secret"]))
        assert sign(key, case["webhook-id"], str(case["webhook-timestamp"]), case["body"].encode()) == case["webhook-signature"]


async def test_every_attempt_has_the_same_key_and_bytes_and_its_own_time() -> None:
    connector = webhook()
    first, second = claim(), msgspec.structs.replace(claim(), attempt=2)
    assert connector.render(first) == connector.render(second)
    headers = await signed(connector, first)
    assert headers["webhook-id"] == headers["Idempotency-Key"] == "e" * 16
    assert headers["webhook-timestamp"] == "1795000000"
    assert json.loads(connector.render(first).body) == {"type": "order.shipped", "data": {"order": "lumi:1", "total": 10}}


async def test_while_a_secret_is_being_changed_both_sign() -> None:
    connector = webhook(older_secrets=[Secret(OLD)])
    body = connector.render(claim()).body
    headers = await signed(connector, claim())
    both = [sign(signing_key(Secret(secret)), "e" * 16, "1795000000", body) for secret in (SIGNING, OLD)]
    assert headers["webhook-signature"].split(" ") == both


async def test_a_named_subscription_has_its_own_url_and_secret_and_an_unknown_one_goes_nowhere() -> None:
    connector = webhook(subscriptions={"erp": {"url": "https://erp.example/in", "secrets": [Secret(OLD)]}})
    named = claim(url="erp")
    assert connector.render(named).url == "https://erp.example/in"
    assert connector.route(named) == "erp"
    expected = sign(signing_key(Secret(OLD)), "e" * 16, "1795000000", connector.render(named).body)
    assert (await signed(connector, named))["webhook-signature"] == expected
    assert await connector.call(claim(url="nobody"), NOW, 1.0) == TryLater(Reason.CONFIGURATION)


async def test_a_receiver_that_resolves_inside_is_refused() -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["169.254.169.254"]

    connector = Webhook({"url": "https://shop.example/hook", "secret": Secret(SIGNING)}, Guard(resolve=inside))
    await connector.start()
    assert await connector.call(claim(), NOW, 1.0) == Refused(Reason.BLOCKED_ADDRESS)
    await connector.close()


async def test_the_stand_in_takes_a_key_once_and_notices_other_bytes_under_it() -> None:
    stand_ins = StandIns(clock=lambda: NOW)
    await stand_ins.start()
    connector = Webhook(stand_ins.settings("webhook"))
    await connector.start()
    assert [await connector.call(claim(), NOW, 5.0) for _ in range(3)] == [Done()] * 3
    assert (stand_ins.accepted(), stand_ins.repeats) == ({"webhook": 1}, 2)
    assert isinstance(await connector.call(claim(data={"order": "lumi:2"}), NOW, 5.0), TryLater)
    assert await connector.call(claim(), NOW + 301_000, 5.0) == TryLater(Reason.CONFIGURATION), "a signature of another time"
    wrong = Webhook({**stand_ins.settings("webhook"), "secret": Secret(OLD)})
    await wrong.start()
    assert await wrong.call(claim(), NOW, 5.0) == TryLater(Reason.CONFIGURATION)
    for each in (connector, wrong):
        await each.close()
    await stand_ins.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"url": "https://a.example", "secret": None}, "url needs a secret"),
        ({"url": "https://a.example", "secret": Secret("short")}, "secret of url"),
        ({"url": "https://a.example", "secret": Secret("whsec_!!")}, "secret of url"),
        ({"url": "http://a.example", "secret": Secret(SIGNING)}, "https"),
        ({"subscriptions": {"erp": {"url": "https://a.example", "secrets": []}}}, "subscription erp needs"),
        ({"subscriptions": {"erp": {"url": "https://a.example"}}}, "secrets"),
    ],
)
def test_unsafe_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Webhook(settings)
