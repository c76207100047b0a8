"""The sender's own parts: breaker, pace, pauses, and what an answer becomes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.breaker import Breaker
from actors.sender import BACKOFF_CAP_S, Sender, judge, limiter, pause_s, to_outcome
from connectors.base import Done, Reason, Refused, TryLater, Unknown
from connectors.stand_ins import Faults, StandIns
from orders.effect import Claim

NOW = 1_795_000_000_000


def claim(n: int = 0, **changes: Any) -> Claim:
    known: dict[str, Any] = {"lane": "l", "key": "k", "effect": f"{n:016d}", "channel": "sms", "attempt": 1, "deadline": NOW + 60_000}
    return Claim(**{**known, "body": b'{"to":"+15555550100","text":"hello"}', **changes})


# --- breaker


class BreakerMachine(RuleBasedStateMachine):
    """Whatever is said and however time passes: open lets nothing through, half-open one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(3, 10.0, lambda: self.now)
        self.failed_in_a_row = 0
        self.opened_at = -1e9
        self.probes_out = 0

    @rule(seconds=st.floats(0.1, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(end=st.sampled_from(["succeeded", "failed", "neither", "never"]))
    def a_call(self, end: str) -> None:
        state = self.breaker.state
        wait = self.breaker.wait_s()
        if state == "open":
            assert wait > 0
            return
        if state == "half_open" and self.probes_out:
            assert wait > 0, "one probe at a time"
            return
        assert wait == 0
        if end == "never":
            self.probes_out += state == "half_open"
            return
        getattr(self.breaker, end)()
        self.said(end)

    @rule(end=st.sampled_from(["succeeded", "failed", "neither"]))
    def the_probe_comes_back(self, end: str) -> None:
        if self.probes_out:
            getattr(self.breaker, end)()
            self.said(end)

    def said(self, end: str) -> None:
        self.probes_out = 0
        if end == "succeeded":
            self.failed_in_a_row = 0
        elif end == "failed":
            self.failed_in_a_row += 1
            if self.failed_in_a_row >= 3:
                self.opened_at = self.now

    @invariant()
    def it_is_open_exactly_after_three_failures_and_for_ten_seconds(self) -> None:
        if self.failed_in_a_row < 3:
            assert self.breaker.state == "closed"
        else:
            assert self.breaker.state == ("open" if self.now < self.opened_at + 10 else "half_open")


TestBreaker = BreakerMachine.TestCase


def test_a_provider_that_asks_for_patience_gets_it_without_being_called_broken() -> None:
    now = 0.0
    breaker = Breaker(3, 10.0, lambda: now)
    judge(breaker, TryLater(Reason.RATE, 30.0))
    assert (breaker.state, breaker.wait_s()) == ("closed", 30.0)
    now = 30.0
    assert breaker.wait_s() == 0


@pytest.mark.parametrize(
    ("answer", "opens"),
    [
        (TryLater(Reason.CONNECT), True),
        (TryLater(Reason.PROVIDER), True),
        (TryLater(Reason.CREDENTIALS), True),
        (Unknown(Reason.TIMEOUT), True),
        (Unknown(Reason.DROPPED), True),
        (Refused(Reason.RECIPIENT), False),
        (TryLater(Reason.RECIPIENT), False),
        (Done("x"), False),
        (TryLater(Reason.NOT_FOUND), False),
        (Unknown(Reason.NO_LOOKUP), False),
    ],
)
def test_only_what_speaks_of_the_provider_opens_the_breaker(answer: Any, opens: bool) -> None:
    breaker = Breaker(3, 10.0, lambda: 0.0)
    for _ in range(3):
        judge(breaker, answer)
    assert (breaker.state == "open") is opens


# --- pace


@pytest.mark.parametrize("rate", [0.5, 1, 9, 10, 50, 95, 1000])
def test_burst_and_flow_together_never_exceed_the_rate(rate: float) -> None:
    bucket = limiter(rate)
    flow = bucket.max_rate / bucket.time_period
    in_any_second = flow + bucket.max_rate if rate >= 10 else flow
    assert in_any_second == pytest.approx(rate)
    assert bucket.max_rate >= 1, "a call costs one"


# --- outcomes and pauses


@pytest.mark.parametrize(
    ("answer", "lookup", "kind"),
    [
        (Done("ref"), False, "sent"),
        (Done("ref"), True, "sent"),
        (Refused(Reason.RECIPIENT), False, "rejected"),
        (Refused(Reason.RECIPIENT), True, "unknown"),
        (TryLater(Reason.CONNECT), False, "retryable"),
        (TryLater(Reason.CONNECT), True, "unknown"),
        (TryLater(Reason.DEADLINE), True, "unknown"),
        (TryLater(Reason.BREAKER, 5.0), True, "unknown"),
        (TryLater(Reason.NOT_FOUND), True, "retryable"),
        (Unknown(Reason.TIMEOUT), False, "unknown"),
        (Unknown(Reason.NO_LOOKUP), True, "unknown"),
    ],
)
def test_a_look_up_can_only_confirm_or_free(answer: Any, lookup: bool, kind: str) -> None:
    outcome = to_outcome(claim(lookup=lookup), answer, NOW)
    assert outcome.kind == kind
    assert outcome.reference == ("ref" if kind == "sent" else "")
    assert outcome.reason == ("" if kind == "sent" else str(answer.reason))


@given(st.integers(1, 10_000), st.integers(0, 1000))
def test_pauses_grow_are_capped_and_repeatable(attempt: int, n: int) -> None:
    one = claim(n, attempt=attempt)
    assert 0 <= pause_s(one) <= BACKOFF_CAP_S
    assert pause_s(one) == pause_s(one)
    assert pause_s(claim(n, attempt=1)) <= 2


def test_pauses_of_many_effects_are_spread() -> None:
    pauses = sorted(pause_s(claim(n, attempt=5)) for n in range(1000))
    assert pauses[100] < 32 * 0.2
    assert pauses[900] > 32 * 0.8


# --- channels do not wait for each other


async def test_a_stalled_channel_fills_only_its_own_queue() -> None:
    stand_ins = StandIns(faults={"sms": Faults(stall=1.0)}, clock=lambda: NOW)
    await stand_ins.start()
    sms, push = Sender("sms", {**stand_ins.settings("sms"), "concurrency": 2}), Sender("push", stand_ins.settings("push"))
    await sms.start()
    await push.start()
    stuck = asyncio.create_task(sms.send([claim(n) for n in range(8)], NOW))
    while stand_ins.accepted().get("sms", 0) < 2:
        await asyncio.sleep(0.005)
    body = msgspec.json.encode({"token": "device", "title": "t", "body": "b"})
    outcomes = await push.send([claim(n, channel="push", body=body) for n in range(32)], NOW)
    assert {outcome.kind for outcome in outcomes} == {"sent"}
    assert (sms.health()["waiting"], push.health()["waiting"]) == (8, 0)
    await stand_ins.close()
    await stuck
    await sms.close()
    await push.close()


async def test_closing_hands_back_what_is_queued_before_what_is_out_has_ended() -> None:
    stand_ins = StandIns(faults={"sms": Faults(stall=1.0)}, clock=lambda: NOW)
    await stand_ins.start()
    sender = Sender("sms", {**stand_ins.settings("sms"), "concurrency": 1})
    await sender.start()
    out = asyncio.create_task(sender.send([claim(0)], NOW))
    while not stand_ins.accepted():
        await asyncio.sleep(0.005)
    queued = asyncio.create_task(sender.send([claim(1), claim(2)], NOW))
    while sender.health()["waiting"] < 3:
        await asyncio.sleep(0)
    closing = asyncio.create_task(sender.close())
    assert {(outcome.kind, outcome.reason) for outcome in await queued} == {("retryable", "closed")}
    assert not out.done()
    await stand_ins.close()
    await asyncio.gather(out, closing)


async def test_one_broken_webhook_receiver_does_not_stop_the_others() -> None:
    stand_ins = StandIns(clock=lambda: NOW)
    await stand_ins.start()
    settings = stand_ins.settings("webhook")
    dead = {"url": "http://127.0.0.1:1/hook", "secrets": [settings["secret"]]}
    sender = Sender("webhook", {**settings, "subscriptions": {"dead": dead}, "breaker_failures": 2})
    await sender.start()
    broken = msgspec.json.encode({"event": "e", "data": {}, "url": "dead"})
    for n in range(3):
        [outcome] = await sender.send([claim(n, channel="webhook", body=broken)], NOW)
    assert outcome.reason == "breaker_open"
    [outcome] = await sender.send([claim(9, channel="webhook", body=b'{"event":"e","data":{}}')], NOW)
    assert outcome.kind == "sent"
    assert sender.health()["breakers"] == {"dead": "open"}
    assert await sender.circuit() == "open", "the worst of its receivers"
    for breaker in sender.breakers.values():
        breaker.until = 0
    assert await sender.circuit() == "half_open"
    for breaker in sender.breakers.values():
        breaker.succeeded()
    assert await sender.circuit() == "closed"
    await sender.close()
    await stand_ins.close()


async def test_an_empty_batch_is_an_empty_answer() -> None:
    stand_ins = StandIns()
    sender = Sender("email", stand_ins.settings("email") | {"port": 9})
    assert await sender.send([], NOW) == []
