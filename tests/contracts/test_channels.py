"""What every channel promises, whatever stands behind it. A new line in the registry is tested here at once."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from actors.sender import Sender
from connectors.base import Answer, Secret, SettingsError
from connectors.registry import ABILITIES, CHANNELS, VENDORS, connect
from connectors.stand_in_vendors import accounts
from connectors.stand_ins import PASSWORD, SIGNING, Faults, StandIns
from orders.effect import Claim, Outcome

NOW = 1_795_000_000_000
SHORT_S = 0.3  # a call's whole budget where a test wants it to run out

BODIES: dict[str, dict[str, Any]] = {
    "email": {
        "to": "zoe@example.invalid",
        "from": "Lumi Zone <orders@lumi.example>",
        "reply_to": "care@lumi.example",
        "subject": "Your order",
        "text": "It is on its way.\n",
        "html": "<p>It is on its way.</p>",
        "headers": {"Auto-Submitted": "auto-generated"},
    },
    "sms": {"to": "+15555550100", "text": "It is on its way.", "way_back": "signed"},
    "push": {"token": "device-token-1", "title": "Your order", "body": "It is on its way.", "data": {"order": "lumi:1"}},
    "webhook": {"event": "order.shipped", "data": {"order": "lumi:1"}},
    "systems": {
        "event": "payment.refund",
        "id": "the claim's effect counts",
        "order": "lumi:1",
        "data": {"payment": "pi_1", "amount": 500, "currency": "EUR"},
    },
}
PERSONAL = ("zoe@example.invalid", "+15555550100", "15555550100", "device-token-1", "on its way")

pytestmark = pytest.mark.parametrize("channel", list(CHANNELS))


def claim(channel: str, n: int = 0, **changes: Any) -> Claim:
    effect = changes.pop("effect", f"{channel:_<10}{n:06d}")
    body = msgspec.json.encode({**BODIES[channel], **changes.pop("body", {})})
    known: dict[str, Any] = {"lane": "customers.0.1", "key": f"lumi:c{n}", "attempt": 1, "deadline": NOW + 60_000, "body": body}
    return Claim(effect=effect, channel=channel, **{**known, **changes})


def ability(channel: str) -> str:
    """Of the channel, or of what is asked of the one where each action has its own."""
    return VENDORS["stripe"].actions["payment.refund"].ability.kind if channel == "systems" else ABILITIES[channel]


@pytest.fixture
async def stand_ins() -> AsyncIterator[StandIns]:
    servers = StandIns(clock=lambda: NOW)
    await servers.start()
    yield servers
    await servers.close()


Make = Callable[..., Awaitable[Sender]]


@pytest.fixture
async def make(stand_ins: StandIns, channel: str) -> AsyncIterator[Make]:
    made: list[Sender] = []

    async def sender(*, monotonic: Callable[[], float] | None = None, **settings: Any) -> Sender:
        clock = {} if monotonic is None else {"monotonic": monotonic}
        made.append(Sender(channel, {"rate": 1000.0, **stand_ins.settings(channel), **settings}, **clock))
        await made[-1].start()
        return made[-1]

    yield sender
    for each in made:
        await each.close()


async def send_one(sender: Sender, one: Claim, now: int = NOW) -> Outcome:
    [outcome] = await sender.send([one], now)
    assert (outcome.key, outcome.effect, outcome.attempt) == (one.key, one.effect, one.attempt)
    return outcome


async def test_a_message_that_is_taken_is_sent(channel: str, make: Make, stand_ins: StandIns) -> None:
    outcome = await send_one(await make(), claim(channel))
    assert (outcome.kind, outcome.reason) == ("sent", "")
    [receipt] = stand_ins.received(channel)
    assert receipt.effect == claim(channel).effect
    assert "on its way" in receipt.text or channel in ("webhook", "systems")


async def test_a_refusal_is_rejected_and_says_why(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.script[channel].append("refuse")
    outcome = await send_one(await make(), claim(channel))
    assert outcome.kind == "rejected"
    assert outcome.reason in {"recipient", "content", "refused"}
    assert stand_ins.received(channel) == []


async def test_a_provider_that_asks_for_patience_gets_as_much_as_it_asks_for(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.faults[channel] = Faults(try_later=1.0, retry_after_s=7)
    sender = await make()
    outcome = await send_one(sender, claim(channel))
    assert outcome.kind == "retryable"
    assert outcome.after >= outcome.at + (0 if channel == "email" else 7_000)
    if channel != "email":  # SMTP has no way to name a time
        again = await send_one(sender, claim(channel, 1))
        assert (again.kind, again.reason) == ("retryable", "rate_limited")
        assert stand_ins.tries[channel].total() == 1, "the second did not even ask"


async def test_a_provider_that_is_down_is_asked_again_later(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.script[channel].append("error")
    sender = await make()
    assert (await send_one(sender, claim(channel))).kind == "retryable"
    assert (await send_one(sender, claim(channel))).kind == "sent"
    assert stand_ins.duplicates() == {channel: 0}


@pytest.mark.parametrize("fault", ["hang", "stall"])
async def test_silence_after_the_request_left_is_unknown(channel: str, make: Make, stand_ins: StandIns, fault: str) -> None:
    stand_ins.script[channel].append(fault)
    outcome = await send_one(await make(timeout_s=SHORT_S), claim(channel))
    assert (outcome.kind, outcome.reason) == ("unknown", "timeout")
    assert len(stand_ins.received(channel)) == (1 if fault == "stall" else 0), "from here the two cannot be told apart"


async def test_a_connection_dropped_after_acceptance_is_unknown(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.script[channel].append("drop")
    outcome = await send_one(await make(), claim(channel))
    assert (outcome.kind, outcome.reason) == ("unknown", "dropped")
    assert len(stand_ins.received(channel)) == 1


async def test_only_a_keyed_channel_may_be_asked_twice_without_a_duplicate(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.script[channel].append("drop")
    sender = await make()
    assert (await send_one(sender, claim(channel))).kind == "unknown"
    assert (await send_one(sender, claim(channel, attempt=2))).kind == "sent"
    assert stand_ins.duplicates()[channel] == (0 if ability(channel) == "keyed" else 1)


async def test_a_look_up_says_sent_when_the_provider_has_it_and_frees_it_when_it_has_not(
    channel: str, make: Make, stand_ins: StandIns
) -> None:
    stand_ins.script[channel].extend(["drop", "refuse"])
    sender = await make()
    taken, never = claim(channel, 0), claim(channel, 1, body={"text": "another text"} if channel == "sms" else {})
    assert (await send_one(sender, taken)).kind == "unknown"
    assert (await send_one(sender, never)).kind == "rejected"
    answers = [
        await send_one(sender, msgspec.structs.replace(one, lookup=True), now=NOW + 1000) for one in (taken, never)
    ]  # fmt: skip
    if ability(channel) == "lookup":
        assert [answer.kind for answer in answers] == ["sent", "retryable"]
        assert answers[1].reason == "not_found"
    else:
        assert {(answer.kind, answer.reason) for answer in answers} == {("unknown", "no_lookup")}
    assert len(stand_ins.received(channel)) == 1, "asking sends nothing"


async def test_a_look_up_that_cannot_be_made_leaves_it_unknown(channel: str, make: Make, stand_ins: StandIns) -> None:
    sender = await make()
    await stand_ins.close()
    late = await send_one(sender, claim(channel, lookup=True, deadline=NOW - 1))
    dead = await send_one(sender, claim(channel, lookup=True))
    assert {late.kind, dead.kind} == {"unknown"}, "retryable would set it free to be sent again"


async def test_a_refused_connection_is_retryable_because_nothing_left(channel: str, make: Make, stand_ins: StandIns) -> None:
    sender = await make()
    await stand_ins.close()
    outcome = await send_one(sender, claim(channel))
    assert (outcome.kind, outcome.reason) == ("retryable", "connect")
    assert outcome.after >= outcome.at


async def test_a_name_that_does_not_resolve_is_retryable(channel: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    elsewhere: dict[str, Any] = {
        "email": {"host": "mail.example", "tls": "starttls"},
        "systems": {"accounts": accounts("https://api.example")},
    }
    sender = await make(**elsewhere.get(channel, {"url": "https://api.example/hook"}))
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    outcome = await send_one(sender, claim(channel))
    assert (outcome.kind, outcome.reason) == ("retryable", "dns")


async def test_past_its_deadline_a_claim_does_not_start(channel: str, make: Make, stand_ins: StandIns) -> None:
    outcome = await send_one(await make(), claim(channel, deadline=NOW))
    assert (outcome.kind, outcome.reason) == ("retryable", "deadline")
    assert stand_ins.tries[channel].total() == 0


async def test_a_claim_whose_deadline_passes_in_the_queue_does_not_start(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.script[channel].append("stall")
    sender = await make(concurrency=1, timeout_s=SHORT_S)
    first, second = await sender.send([claim(channel, 0), claim(channel, 1, deadline=NOW + 100)], NOW)
    assert (first.kind, second.kind, second.reason) == ("unknown", "retryable", "deadline")
    assert stand_ins.tries[channel].total() == 1


async def test_a_sandbox_claim_is_answered_without_a_call(channel: str, make: Make, stand_ins: StandIns) -> None:
    outcome = await send_one(await make(), claim(channel, sandbox=True))
    assert (outcome.kind, outcome.reference) == ("sent", "sandbox")
    assert stand_ins.tries[channel].total() == 0


async def test_a_sandbox_claim_goes_to_the_sandbox_if_one_is_configured(channel: str, make: Make, stand_ins: StandIns) -> None:
    other = StandIns(clock=lambda: NOW)
    await other.start()
    sender = await make(sandbox=other.settings(channel))
    await sender.send([claim(channel, 0, sandbox=True), claim(channel, 1)], NOW)
    assert [receipt.effect for receipt in other.received(channel)] == [claim(channel, 0).effect]
    assert [receipt.effect for receipt in stand_ins.received(channel)] == [claim(channel, 1).effect]
    await sender.close()
    await other.close()


async def test_a_body_that_is_not_the_channels_is_rejected_before_anything_leaves(channel: str, make: Make, stand_ins: StandIns) -> None:
    sender = await make()
    for body in (b"", b"[]", b'{"to": 1}', b"\xff"):
        outcome = await send_one(sender, msgspec.structs.replace(claim(channel), body=body))
        assert (outcome.kind, outcome.reason) == ("rejected", "malformed")
    assert stand_ins.tries[channel].total() == 0


async def test_neither_secrets_nor_people_show_in_outcomes_logs_or_reprs(
    channel: str, make: Make, stand_ins: StandIns, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sender = await make(timeout_s=SHORT_S)
    stand_ins.script[channel].extend(["", "refuse", "try_later"])
    outcomes = [await send_one(sender, claim(channel, n)) for n in range(3)]
    sender = await make(timeout_s=SHORT_S)
    stand_ins.script[channel].extend(["hang", "drop", "error"])
    outcomes += [await send_one(sender, claim(channel, n)) for n in range(3, 6)]
    outcomes += [
        await send_one(sender, claim(channel, 6, lookup=True)),
        await send_one(sender, msgspec.structs.replace(claim(channel), body=b"{}")),
    ]
    said = [vars(record) for record in caplog.records]
    shown = "\n".join(
        [caplog.text, repr(said), repr(outcomes), repr(vars(sender.live)), repr(sender.health()), repr(stand_ins.settings(channel))]
    )
    for hidden in (PASSWORD, SIGNING, SIGNING.removeprefix("whsec_"), *PERSONAL):
        assert hidden not in shown
    assert {"event": "not_sent", "channel": channel}.items() <= said[-1].items(), "the log is not silent either"


async def test_a_batch_keeps_its_length_and_order_when_rows_3_and_7_of_64_fail(channel: str, make: Make, stand_ins: StandIns) -> None:
    wrong = {
        "email": {"to": "nobody@example.invalid"},
        "sms": {"to": "+15005550001"},
        "push": {"token": "unregistered-1"},
        "webhook": {"event": 5},
        "systems": {"data": {"payment": "none of Stripe's"}},
    }
    claims = [claim(channel, n, body=wrong[channel] if n in (3, 7) else {}) for n in range(64)]
    outcomes = await (await make()).send(claims, NOW)
    assert [outcome.effect for outcome in outcomes] == [one.effect for one in claims]
    assert [n for n, outcome in enumerate(outcomes) if outcome.kind != "sent"] == [3, 7]
    assert {outcomes[3].kind, outcomes[7].kind} == {"rejected"}
    assert stand_ins.accepted() == {channel: 62}
    assert stand_ins.duplicates() == {channel: 0}


async def test_the_breaker_opens_answers_at_once_and_probes_with_one_call(channel: str, make: Make, stand_ins: StandIns) -> None:
    seconds = 0.0
    sender = await make(monotonic=lambda: seconds, breaker_failures=3, breaker_open_s=10.0)
    stand_ins.faults[channel] = Faults(error=1.0)
    for n in range(3):
        assert (await send_one(sender, claim(channel, n))).reason == "provider_error"
    refused = await sender.send([claim(channel, n) for n in range(3, 13)], NOW)
    assert {(outcome.kind, outcome.reason) for outcome in refused} == {("retryable", "breaker_open")}
    assert all(outcome.after >= outcome.at + 10_000 for outcome in refused)
    assert stand_ins.tries[channel].total() == 3, "nothing was asked while it is open"
    assert list(sender.health()["breakers"].values()) == ["open"]

    seconds = 10.5
    assert list(sender.health()["breakers"].values()) == ["half_open"]
    await sender.send([claim(channel, n, deadline=NOW + 99_000) for n in range(20, 30)], NOW)
    assert stand_ins.tries[channel].total() == 4, "one probe, and it failed"

    seconds = 21.0
    stand_ins.faults[channel] = Faults()
    assert (await send_one(sender, claim(channel, 40))).kind == "sent"
    again = await sender.send([claim(channel, n) for n in range(50, 60)], NOW)
    assert {outcome.kind for outcome in again} == {"sent"}
    assert sender.health()["breakers"] == {}


async def test_the_rate_is_never_exceeded_in_any_second_and_nothing_is_lost(channel: str, make: Make, stand_ins: StandIns) -> None:
    sender = await make(rate=100.0, concurrency=64)
    started: list[float] = []
    call = sender.live.call

    async def noted(one: Claim, now_ms: int, budget_s: float) -> Answer:
        started.append(asyncio.get_running_loop().time())
        return await call(one, now_ms, budget_s)

    sender.live.call = noted  # type: ignore[method-assign]
    outcomes = await sender.send([claim(channel, n) for n in range(150)], NOW)
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert stand_ins.accepted() == {channel: 150}
    assert max(sum(begin <= moment < begin + 1 for moment in started) for begin in started) <= 100


async def test_closing_lets_calls_on_the_wire_end_and_hands_back_the_rest(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.faults[channel] = Faults(slow=1.0, slow_s=0.2)
    sender = await make(concurrency=2)
    batch = asyncio.create_task(sender.send([claim(channel, n) for n in range(8)], NOW))
    while stand_ins.accepted().get(channel, 0) < 2:
        await asyncio.sleep(0.005)
    await sender.close()
    outcomes = await batch
    assert [outcome.kind for outcome in outcomes] == ["sent"] * 2 + ["retryable"] * 6
    assert {outcome.reason for outcome in outcomes[2:]} == {"closed"}


async def test_a_cancelled_caller_does_not_cut_a_call_short(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.faults[channel] = Faults(slow=1.0, slow_s=0.1)
    sender = await make()
    batch = asyncio.create_task(sender.send([claim(channel)], NOW))
    while not stand_ins.accepted():
        await asyncio.sleep(0.005)
    batch.cancel()
    await asyncio.wait([batch])
    await sender.close()
    assert sender.outcomes["sent", ""] == 1


async def test_a_connector_that_breaks_its_word_and_raises_is_unknown(channel: str, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def bug(one: Claim, now_ms: int, budget_s: float) -> Answer:
        raise RuntimeError(f"about {one.body!r}")

    sender = await make()
    sender.live.call = bug  # type: ignore[method-assign]
    outcome = await send_one(sender, claim(channel))
    assert (outcome.kind, outcome.reason) == ("unknown", "bug")
    said = repr([vars(record) for record in caplog.records])
    assert "RuntimeError" in said
    assert not any(personal in said for personal in PERSONAL)


async def test_an_outcome_reason_is_always_of_the_closed_list(channel: str, make: Make, stand_ins: StandIns) -> None:
    stand_ins.faults[channel] = Faults(seed=5, refuse=0.2, try_later=0.1, error=0.1, hang=0.05, drop=0.1, stall=0.05, slow=0.1, slow_s=0.01)
    sender = await make(timeout_s=SHORT_S, breaker_failures=1000, concurrency=32)
    outcomes = await sender.send([claim(channel, n) for n in range(120)], NOW)
    by_effect = {outcome.effect: outcome for outcome in outcomes}
    assert len(by_effect) == 120
    taken = {receipt.effect for receipt in stand_ins.received(channel, limit=1000)}
    for outcome in outcomes:
        assert outcome.kind in {"sent", "rejected", "retryable", "unknown"}
        if outcome.kind == "sent":
            assert outcome.effect in taken
        elif outcome.kind in {"rejected", "retryable"}:
            assert outcome.effect not in taken, "what is said not to have happened has not happened"
    assert stand_ins.duplicates() == {channel: 0}
    if channel != "email":
        assert {outcome.kind for outcome in outcomes} >= {"sent", "rejected", "retryable", "unknown"}


def test_a_wrong_setting_is_refused_by_its_name_and_not_its_value(channel: str, stand_ins: StandIns) -> None:
    good = {
        "email": {"host": "127.0.0.1", "tls": "off"},
        "sms": {"account": "AC1", "token": Secret("hidden"), "sender": "+15005550006"},
        "push": {"project": "p", "token": Secret("hidden")},
        "webhook": {"url": "https://shop.example/hook", "secret": Secret("hidden-and-long-enough-1")},
        "systems": {"accounts": accounts("https://api.example")},
    }[channel]
    connect(channel, good)
    for name, value in (
        ("rat", "hidden"),
        ("timeout_s", 0),
        ("rate", "hidden"),
        ("timeout_s", "hidden"),
        ("breaker_failures", 0),
        ("rate", -1),
    ):
        with pytest.raises(SettingsError, match=name) as error:
            connect(channel, {**good, name: value})
        assert "hidden" not in str(error.value)


def test_every_channel_declares_what_can_be_done_about_an_unknown(channel: str) -> None:
    assert ABILITIES[channel] in {"keyed", "lookup", "neither"}
    assert CHANNELS[channel].ability.kind != "keyed" or CHANNELS[channel].ability.life_s > 0
    assert CHANNELS[channel].pace_per_s > 0
    assert CHANNELS[channel].width > 0
