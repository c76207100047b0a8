"""The customers lane: what is said to a person, when, how, and at most once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.customer import Customer, Message
from messages.journal import AnyEntry, Claimed, Closed, decode_entry
from messages.policy import DAY_MS, HOUR_MS, Policy
from messages.render import Brand, Renderer
from messages.way_back import WayBack
from orders.effect import Claim, Outcome
from orders.fact import MessageReported, Person, decode_fact
from orders.request import (
    AnyCustomer,
    ConsentReported,
    MessageBlocked,
    MessageFreed,
    MessageRequested,
    ProfileReported,
    ReceiptReported,
)
from streams.customers import CustomersProcessor, Timing
from streams.processor import Channels, Inputs, Parked, Record, Result

NOW = 1_795_435_200_000  # 2026-11-23 12:00 UTC
KEY = "lumi:c"
PERSON = Person(name="Ada", email="ada@example.invalid", phone="+15005550006", push_token="token-1", locale="en_GB", zone="Europe/Berlin")
FIELDS = {
    "customer_name": "Ada",
    "order_number": "1001",
    "tracking_page": "https://shop.example/o/1001",
    "short_link": "https://l.example/t/1",
    "carrier": "NorthPost",
    "product_name": "Desk Lamp",
    "tracking_number": "NP123",
    "tracking_link": "https://n.example/NP123",
    "status_text": "Shipped",
}
RENDERER = Renderer(Brand(), WayBack([b"0123456789abcdef"]))
TIMING = Timing()
LOST = TIMING.lease + TIMING.grace  # when a claim nobody answered is unknown


class FakeChannels(Channels):
    version = 7

    def __init__(self, **modes: str) -> None:
        self.modes = {"email": "live", "sms": "live", "push": "live"} | modes
        self.slots = 64
        self.taken = 0

    def mode(self, channel: str) -> str:
        return self.modes.get(channel, "observe")

    def take(self, channel: str) -> bool:
        if self.taken >= self.slots:
            return False
        self.taken += 1
        return True

    def retry_at(self, channel: str, now: int) -> int:
        return now + 100


class Lane:
    """A lane without store, log or senders: states are kept encoded, claims are collected, time is moved by hand."""

    def __init__(self, now: int = NOW, abilities: Mapping[str, str] | None = None, policy: Policy | None = None, **modes: str) -> None:
        self.processor = CustomersProcessor(RENDERER, policy, TIMING, abilities, layout=2)
        self.channels = FakeChannels(**modes)
        self.now = now
        self.stored: dict[str, bytes] = {}
        self.due: dict[str, int] = {}
        self.claims: list[Claim] = []
        self.facts: list[MessageReported] = []
        self.journal: list[bytes] = []
        self.parked: list[Parked] = []
        self.tags: set[str] = set()
        self.offset = 0

    def turn(
        self,
        *requests: AnyCustomer,
        records: Sequence[Record] = (),
        due: Sequence[str] = (),
        outcomes: Sequence[Outcome] = (),
        adopted: Sequence[bytes] = (),
    ) -> Result:
        rows = [*records]
        for request in requests:
            rows.append(Record(self.offset, request.customer.encode(), msgspec.json.encode(request), self.now))
            self.offset += 1
        states = {key: self.processor.decode(blob) for key, blob in self.stored.items()}
        asked = self.processor.ask(states, Inputs("customers", 3, rows, due=due, outcomes=outcomes, adopted=adopted), self.now)
        result = self.processor.answer(asked, None, self.now, self.channels)
        assert {key: self.processor.encode(state) for key, state in states.items()} == self.stored, "a cached state was changed"
        self.stored |= {key: self.processor.encode(state) for key, state in result.states.items()}
        self.due |= result.due
        self.claims += result.claims
        for outgoing in result.outbox:
            fact = decode_fact(outgoing.value)
            assert isinstance(fact, MessageReported)
            assert (outgoing.topic, outgoing.key, fact.system) == ("facts", fact.order, "customers")
            assert fact.object == f"{fact.effect}:{fact.outcome}"
            self.facts.append(fact)
        self.journal += result.journal
        self.parked += asked.parked + result.parked
        for key, lost, gained, _ in result.index:
            assert key == KEY
            self.tags = (self.tags - set(lost)) | set(gained)
        return result

    def wake(self) -> Result:
        return self.turn(due=[key for key, at in self.due.items() if at and at <= self.now])

    def wait(self) -> int:
        """Moves to the next thing that is due and wakes."""
        self.now = max(self.now, self.due[KEY])
        self.wake()
        return self.now

    def outcome(self, kind: str, claim: Claim | None = None, **more: Any) -> Result:
        claim = claim or self.claims[-1]
        self.channels.taken -= 1
        answer = Outcome(key=claim.key, effect=claim.effect, attempt=claim.attempt, kind=kind, at=self.now, **more)
        return self.turn(outcomes=[answer])

    @property
    def customer(self) -> Customer:
        return self.processor.decode(self.stored[KEY])

    def message(self, effect: str = "e1") -> Message:
        return self.customer.messages[effect]

    def said(self) -> list[tuple[str, str]]:
        return [(fact.effect, fact.outcome) for fact in self.facts]

    def entries(self) -> list[AnyEntry]:
        return [decode_entry(blob) for blob in self.journal]


def asked(effect: str = "e1", template: str = "order_placed", channel: str = "email", at: int = NOW, **changed: Any) -> MessageRequested:
    request = MessageRequested(
        at=at,
        effect=effect,
        order="lumi:1001",
        customer=KEY,
        template=template,
        channel=channel,
        kind="transactional",
        fields=FIELDS,
        person=PERSON,
        milestone_at=NOW,
        expires=NOW + 2 * DAY_MS,
    )
    return msgspec.structs.replace(request, **changed)


def block(effect: str = "e1", name: str = "b1", at: int = NOW + 1) -> MessageBlocked:
    return MessageBlocked(at=at, effect=effect, order="lumi:1001", customer=KEY, block=name, reason="not_wanted")


def free(effect: str = "e1", *names: str, at: int = NOW + 2) -> MessageFreed:
    return MessageFreed(at=at, effect=effect, order="lumi:1001", customer=KEY, blocks=names or ("b1",))


def opt_out(channel: str = "email", at: int = NOW) -> ConsentReported:
    return ConsentReported(at=at, customer=KEY, channel=channel, granted=False)


def berlin(*when: int) -> int:
    return int(datetime(*when, tzinfo=ZoneInfo("Europe/Berlin")).timestamp() * 1000)  # type: ignore[arg-type,misc]


# --- the way of one message
def test_a_request_is_claimed_rendered_sent_and_reported() -> None:
    lane = Lane()
    lane.turn(asked())
    (claim,) = lane.claims
    assert (claim.lane, claim.key, claim.effect, claim.channel, claim.attempt) == ("customers.2.3", KEY, "e1", "email", 1)
    assert (claim.deadline, claim.sandbox, claim.lookup) == (NOW + TIMING.lease, False, False)
    body = msgspec.json.decode(claim.body)
    assert body["to"] == "ada@example.invalid"
    assert body["text"].startswith("Hi Ada, thank you for your order!")
    (entry,) = lane.entries()
    assert isinstance(entry, Claimed)
    assert entry.modes == 7
    assert lane.due[KEY] == claim.deadline + TIMING.grace
    lane.now += 50
    lane.outcome("sent", reference="provider-1")
    assert lane.facts == [
        MessageReported(order="lumi:1001", system="customers", object="e1:sent", at=NOW + 50, effect="e1", channel="email", outcome="sent")
    ]
    assert lane.due[KEY] == 0
    assert lane.message().content is None
    assert lane.processor.counts == {("email", "order_placed", "sent"): 1}


def test_only_the_first_of_a_kind_reaches_the_customer() -> None:
    lane = Lane()
    lane.turn(asked(), asked(), asked(at=NOW + 5))
    lane.turn(asked(at=NOW + 9))
    lane.outcome("sent")
    lane.turn(asked(at=NOW + 20), asked("e2"))
    assert [claim.effect for claim in lane.claims] == ["e1", "e2"]
    assert lane.said() == [("e1", "sent"), ("e1", "sent")]  # whoever asks again is told again, in the same words
    assert lane.facts[0] == lane.facts[1]


def test_replaying_everything_changes_nothing() -> None:
    lane = Lane()
    life: list[AnyCustomer] = [asked(), block("e2"), asked("e2"), opt_out("sms"), asked("e3", "shipped", "sms")]
    lane.turn(*life)
    lane.outcome("sent")
    stored, claims, journal = dict(lane.stored), len(lane.claims), len(lane.journal)
    for record in life:
        result = lane.turn(record)
        assert result.states == {}
    assert (lane.stored, len(lane.claims), len(lane.journal)) == (stored, claims, journal)


def test_a_rejected_message_is_reported_with_its_reason() -> None:
    lane = Lane()
    lane.turn(asked())
    lane.outcome("rejected", reason="recipient")
    assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("rejected", "recipient")]
    assert lane.due[KEY] == 0


def test_a_retryable_one_is_tried_again_when_it_may_be_and_says_what_is_true_then() -> None:
    lane = Lane()
    lane.turn(asked(template="shipped"))
    after = berlin(2026, 11, 24, 9, 0)
    lane.outcome("retryable", after=after, reason="rate_limited")
    assert lane.due[KEY] == after
    lane.wake()
    assert len(lane.claims) == 1
    lane.wait()
    assert [claim.attempt for claim in lane.claims] == [1, 2]
    assert "shipped today" in msgspec.json.decode(lane.claims[0].body)["text"]
    assert "shipped on 23 November" in msgspec.json.decode(lane.claims[1].body)["text"]
    lane.outcome("sent")
    assert lane.said() == [("e1", "sent")]


def test_retries_back_off_and_end() -> None:
    lane = Lane()
    lane.turn(asked())
    waits = []
    while lane.due[KEY] and len(waits) < 50:
        lane.outcome("retryable", reason="connect")
        if lane.due[KEY]:
            waits.append(lane.due[KEY] - lane.now)
            lane.wait()
    assert waits[:3] == [5_000, 10_000, 20_000]
    assert max(waits) == 15 * 60_000
    assert len(lane.claims) == TIMING.attempts
    assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("rejected", "attempts")]


def test_what_was_not_sent_in_time_expires_and_is_recorded() -> None:
    lane = Lane()
    lane.turn(asked(expires=NOW + 10_000))
    lane.outcome("retryable", after=NOW + HOUR_MS)
    assert lane.due[KEY] == NOW + 10_000
    lane.wait()
    assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("expired", "too_late")]
    assert len(lane.claims) == 1


def test_a_message_without_room_on_its_channel_waits_and_others_are_not_held_up() -> None:
    lane = Lane()
    lane.channels.slots = 1
    lane.turn(asked("e1"), asked("e2"))
    assert len(lane.claims) == 1
    assert lane.due[KEY] == NOW + 100
    lane.outcome("sent")
    lane.now += 100
    lane.wake()
    assert [claim.effect for claim in lane.claims] == ["e1", "e2"]


# --- unknown
def test_a_claim_nobody_answered_is_unknown_and_never_sent_again() -> None:
    lane = Lane()
    lane.turn(asked())
    lane.now += LOST - 1
    lane.wake()
    assert lane.said() == []
    lane.now += 1
    lane.wake()
    assert lane.said() == [("e1", "unknown")]
    assert lane.tags == {"unknown"}
    assert lane.due[KEY] == 0
    lane.now += DAY_MS
    lane.turn(asked(at=lane.now))
    lane.now += 30 * DAY_MS
    lane.turn(asked(at=lane.now))
    assert len(lane.claims) == 1
    assert {outcome for _, outcome in lane.said()} == {"unknown"}
    assert lane.message().content is None
    assert lane.tags == {"unknown"}


def test_an_answer_that_comes_late_still_counts() -> None:
    for kind, expected in (("sent", "sent"), ("rejected", "rejected")):
        lane = Lane()
        lane.turn(asked())
        lane.wait()
        lane.outcome(kind)
        assert [outcome for _, outcome in lane.said()] == ["unknown", expected]
        assert lane.tags == set()
        assert len(lane.claims) == 1


def test_a_late_answer_that_it_was_never_begun_frees_it_for_another_try() -> None:
    lane = Lane()
    lane.turn(asked())
    lane.wait()
    lane.outcome("retryable", reason="deadline")
    lane.wait()
    assert [claim.attempt for claim in lane.claims] == [1, 2]


def test_a_late_answer_counts_even_when_the_message_was_given_up() -> None:
    lane = Lane()
    lane.turn(asked(expires=NOW + HOUR_MS))
    lane.wait()
    lane.now = NOW + HOUR_MS
    lane.turn(opt_out("sms"))
    ended = lane.message().ended
    assert ended is not None
    assert ended.word == "unknown"
    lane.outcome("sent")
    ended = lane.message().ended
    assert ended is not None
    assert ended.word == "sent"
    assert lane.tags == set()


def test_the_latency_of_a_message_runs_from_its_request_or_its_time_to_the_provider_s_word() -> None:
    lane = Lane()
    lane.turn(asked(template="order_placed", at=NOW - 4_000))
    lane.now = NOW + 3_000
    lane.outcome("retryable")
    assert list(lane.processor.accepted) == [], "nobody has taken it yet"
    lane.wait()
    claimed_at = lane.now
    lane.now += 500
    lane.outcome("sent")
    assert list(lane.processor.accepted) == [("email", "transactional", (claimed_at + 500 - (NOW - 4_000)) / 1000)]
    lane.turn(asked(template="order_placed", at=lane.now))
    assert len(lane.processor.accepted) == 1, "it counts once"
    lane = Lane()
    lane.turn(asked(template="order_placed", at=NOW - HOUR_MS, not_before=NOW + 1_000))
    lane.wait()
    lane.now += 2_000
    lane.outcome("sent")
    assert [seconds for _, _, seconds in lane.processor.accepted] == [2.0], "it was not late before it might leave"


def test_a_keyed_channel_is_tried_again_with_the_same_key_and_bytes() -> None:
    lane = Lane(abilities={"email": "keyed"})
    evening = berlin(2026, 11, 23, 23, 59)
    lane.now = evening
    lane.turn(asked(template="shipped", milestone_at=evening - HOUR_MS))
    lane.wait()  # unknown, and it is the next day: the words of a new message would be others
    lane.wait()
    first, second = lane.claims
    assert (second.effect, second.attempt, second.lookup) == (first.effect, 2, False)
    assert second.body == first.body
    assert "shipped today" in msgspec.json.decode(second.body)["text"]
    lane.outcome("sent", second)
    assert {outcome for _, outcome in lane.said()} == {"unknown", "sent"}
    assert lane.tags == set()


def test_an_attempt_is_made_again_in_the_words_it_was_claimed_with_whatever_was_asked_for_since() -> None:
    for ability, channel, template in (("keyed", "email", "order_placed"), ("lookup", "sms", "shipped")):
        lane = Lane(abilities={channel: ability})
        lane.turn(asked(template=template, channel=channel))
        for at, state in enumerate(("paid", "shipped"), 1):
            changed = FIELDS | {"state": state, "part": "yes", "part_name": state}
            lane.turn(asked(template=template, channel=channel, at=NOW + at, fields=changed))
        while len(lane.claims) < 2:
            lane.wait()
        first, second = lane.claims
        assert (second.attempt, second.lookup, second.body) == (2, ability == "lookup", first.body)
        lane.outcome("retryable", second)
        lane.wait()
        if ability == "keyed":
            assert lane.claims[2].body == first.body
        else:  # the provider never had it: what is said next is what is true now
            assert "(shipped) has shipped" in msgspec.json.decode(lane.claims[2].body)["text"]
        lane.outcome("sent", lane.claims[2])
        assert (lane.message().content, lane.message().earlier) == (None, ())


def test_a_claim_in_flight_is_left_alone_by_a_request_that_says_something_else() -> None:
    lane = Lane()
    lane.turn(asked())
    lane.turn(asked(at=NOW + 1, fields=FIELDS | {"state": "paid"}))
    lane.outcome("sent")
    assert len(lane.claims) == 1
    assert lane.said() == [("e1", "sent")]


def test_a_message_says_what_was_last_asked_for_when_it_is_claimed() -> None:
    lane = Lane()
    lane.turn(asked(not_before=NOW + HOUR_MS))
    lane.turn(asked(not_before=NOW + HOUR_MS, at=NOW + 1, fields=FIELDS | {"state": "paid", "ships": "yes"}))
    lane.wait()
    assert "your payment is confirmed" in msgspec.json.decode(lane.claims[0].body)["text"]


def test_a_keyed_message_whose_bytes_would_differ_is_held_instead() -> None:
    lane = Lane(abilities={"email": "keyed"})
    for version, address in enumerate(("ada@example.invalid", "moved@example.invalid")):
        known = ProfileReported(at=NOW, customer=KEY, system="shop", person=Person(email=address), version=version)
        lane.turn(known, asked(person=msgspec.structs.replace(PERSON, email="")))
    lane.wait()
    lane.wait()
    assert len(lane.claims) == 1
    assert lane.tags == {"unknown"}
    assert lane.due[KEY] == 0


def test_after_a_retry_that_was_refused_service_the_bytes_are_still_the_first_ones() -> None:
    lane = Lane(abilities={"email": "keyed"})
    lane.turn(asked())
    lane.outcome("unknown", reason="timeout")
    lane.wait()
    lane.outcome("retryable", reason="connect")
    lane.wait()
    assert len({claim.body for claim in lane.claims}) == 1
    assert [claim.attempt for claim in lane.claims] == [1, 2, 3]


def test_a_keyed_channel_is_not_tried_beyond_the_life_of_its_key_or_of_the_message() -> None:
    for expires in (NOW + DAY_MS // 2, NOW + 5 * DAY_MS):
        lane = Lane(abilities={"email": "keyed"})
        lane.turn(asked(expires=expires))
        lane.wait()
        lane.now = min(NOW + TIMING.key_life, expires)
        lane.wake()
        assert len(lane.claims) == 1


def test_a_channel_with_look_up_is_asked_after_lease_and_grace() -> None:
    lane = Lane(abilities={"sms": "lookup"})
    lane.turn(asked(template="shipped", channel="sms"))
    lane.now += 1_000
    lane.outcome("unknown", reason="timeout")
    assert lane.due[KEY] == NOW + LOST
    lane.wait()
    first, second = lane.claims
    assert (second.lookup, second.attempt, second.body) == (True, 2, first.body)
    lane.outcome("sent", second, reference="SM1")
    assert {outcome for _, outcome in lane.said()} == {"unknown", "sent"}
    assert lane.tags == set()


def test_what_a_look_up_does_not_find_may_be_sent_again() -> None:
    lane = Lane(abilities={"sms": "lookup"})
    lane.turn(asked(template="shipped", channel="sms"))
    lane.wait()
    lane.outcome("retryable", reason="not_found")
    lane.wait()
    assert [(claim.attempt, claim.lookup) for claim in lane.claims] == [(1, False), (2, True), (3, False)]
    assert lane.tags == set()


def test_a_look_up_that_knows_nothing_is_asked_again_and_in_the_end_it_is_held() -> None:
    lane = Lane(abilities={"sms": "lookup"})
    lane.turn(asked(template="shipped", channel="sms"))
    while lane.due[KEY]:
        lane.wait()
        if lane.claims[-1].attempt > len(lane.claims):
            break
    assert all(claim.lookup for claim in lane.claims[1:])
    assert len(lane.claims) > 3
    assert lane.now <= NOW + TIMING.look_up_for + LOST
    assert lane.tags == {"unknown"}


# --- blocks
def test_a_block_keeps_a_message_from_being_claimed_and_a_free_lets_it_go() -> None:
    for arrivals in itertools.permutations([asked(not_before=NOW + HOUR_MS), block(), free()]):
        lane = Lane()
        for arrival in arrivals:
            lane.turn(arrival)
        lane.wait()
        assert len(lane.claims) == 1
    for arrivals in itertools.permutations([asked(not_before=NOW + HOUR_MS), block(), block(name="b2"), free()]):
        lane = Lane()
        for arrival in arrivals:
            lane.turn(arrival)
        lane.now += HOUR_MS
        lane.turn(opt_out("sms"))
        assert lane.claims == []
        assert lane.due[KEY] == 0
        lane.now += 2 * DAY_MS
        lane.turn(opt_out("push"))
        assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("suppressed", "blocked")]


def test_a_block_that_comes_after_the_claim_is_recorded_as_such() -> None:
    lane = Lane()
    lane.turn(asked())
    lane.turn(block())
    lane.outcome("sent")
    assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("sent", "blocked_after_claim")]


def test_a_blocked_message_is_not_tried_again() -> None:
    lane = Lane(abilities={"email": "keyed"})
    lane.turn(asked("e1"), asked("e2"))
    first, second = lane.claims
    lane.outcome("retryable", first)
    lane.outcome("unknown", second)
    lane.turn(block("e1"), block("e2"))
    lane.now += HOUR_MS
    lane.turn(opt_out("sms"))
    assert len(lane.claims) == 2


# --- policy at the claim
def test_an_opt_out_between_wish_and_claim_wins() -> None:
    lane = Lane()
    lane.turn(asked(not_before=NOW + HOUR_MS))
    lane.turn(opt_out())
    lane.now += HOUR_MS
    lane.wake()
    assert lane.claims == []
    assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("suppressed", "preference")]


def test_quiet_hours_hold_a_message_until_the_morning_and_send_it_once() -> None:
    late = berlin(2026, 11, 23, 23, 30)
    lane = Lane(now=late)
    lane.turn(asked(template="shipped", channel="sms"), asked("e2", "shipped", "sms", kind="alert"))
    assert [claim.effect for claim in lane.claims] == ["e2"]
    lane.outcome("sent")
    assert lane.due[KEY] == berlin(2026, 11, 24, 8, 0)
    lane.wait()
    lane.outcome("sent")
    lane.wake()
    assert [claim.effect for claim in lane.claims] == ["e2", "e1"]


def test_what_is_superseded_while_it_is_held_is_never_sent() -> None:
    lane = Lane(now=berlin(2026, 11, 23, 23, 30))
    lane.turn(asked(template="shipped", channel="sms"))
    lane.turn(block())
    lane.now = berlin(2026, 11, 24, 8, 0)
    lane.wake()
    assert lane.claims == []


def test_a_missing_field_is_parked_and_told_never_sent() -> None:
    lane = Lane()
    lane.turn(asked(fields={"order_number": "1001"}))
    assert lane.claims == []
    (parked,) = lane.parked
    assert (parked.reason, parked.detail, parked.offset) == ("template_missing_field", "customer_name", 0)
    assert msgspec.json.decode(parked.value, type=MessageRequested).effect == "e1"
    assert lane.said() == [("e1", "render_error")]
    assert lane.processor.counts == {("email", "order_placed", "render_error"): 1}


def test_a_field_that_cannot_be_sent_is_parked_with_its_bytes_even_later() -> None:
    lane = Lane()
    lane.turn(asked(template="payment_confirmed", not_before=NOW + HOUR_MS, fields=FIELDS | {"tracking_page": "javascript:x"}))
    assert lane.parked == []
    lane.wait()
    (parked,) = lane.parked
    assert (parked.reason, parked.detail) == ("bad_field", "tracking_page")
    assert parked.offset < 0
    assert msgspec.json.decode(parked.value, type=MessageRequested).fields["tracking_page"] == "javascript:x"
    assert lane.said() == [("e1", "render_error")]
    assert lane.channels.taken == 0


def test_the_shipping_mail_waits_for_its_number_or_goes_without() -> None:
    bare = {name: value for name, value in FIELDS.items() if not name.startswith("tracking")}
    patient = Lane()
    patient.turn(asked(template="shipped", fields=bare))
    assert patient.claims == []
    patient.now += HOUR_MS
    patient.turn(asked(template="shipped", at=NOW + HOUR_MS))
    assert "with tracking number NP123" in msgspec.json.decode(patient.claims[0].body)["text"]
    tired = Lane()
    tired.turn(asked(template="shipped", fields=bare))
    assert tired.wait() == NOW + Policy().wait_for_fields
    assert "via NorthPost. We hope" in msgspec.json.decode(tired.claims[0].body)["text"]


def test_a_request_without_channel_takes_the_default_one() -> None:
    lane = Lane()
    lane.turn(opt_out(), asked(template="shipped", channel=""))
    assert [claim.channel for claim in lane.claims] == ["push"]
    lane.outcome("sent")
    assert lane.facts[0].channel == "push"


# --- modes
def test_in_observe_the_message_is_closed_without_rendering_and_going_live_never_sends_it() -> None:
    lane = Lane(email="observe")
    lane.turn(asked(fields={}), asked("e2", not_before=NOW + HOUR_MS), block("e3"), asked("e3"))
    assert lane.said() == [("e1", "observed"), ("e2", "observed"), ("e3", "observed")]
    assert lane.parked == []
    assert all(isinstance(entry, Closed) and entry.modes == 7 for entry in lane.entries())
    lane.channels.modes["email"] = "live"
    lane.now += HOUR_MS
    lane.turn(asked(), asked("e2"), asked("e4"))
    assert [claim.effect for claim in lane.claims] == ["e4"]


def test_sandbox_says_so_in_the_claim_and_stop_claims_nothing() -> None:
    lane = Lane(email="sandbox")
    lane.turn(asked())
    assert lane.claims[0].sandbox
    stopped = Lane(email="stopped")
    stopped.turn(asked())
    assert stopped.claims == []
    assert stopped.due[KEY] == NOW + 100
    stopped.channels.modes["email"] = "live"
    stopped.wait()
    assert len(stopped.claims) == 1


# --- receipts, profile
def test_receipts_go_on_to_the_order_whenever_they_come() -> None:
    receipts = [
        ReceiptReported(at=NOW + n, customer=KEY, effect="e1", channel="email", receipt=r) for n, r in enumerate(("delivered", "opened"))
    ]
    lane = Lane()
    lane.turn(receipts[0])
    assert lane.said() == []
    lane.turn(asked())
    lane.outcome("sent")
    lane.turn(*receipts)
    assert sorted(lane.said()) == [("e1", "delivered"), ("e1", "opened"), ("e1", "sent")]


def test_the_profile_completes_where_a_person_can_be_reached() -> None:
    lane = Lane()
    lane.turn(
        ProfileReported(at=NOW, customer=KEY, system="shop", person=Person(push_token="new-token")),
        asked(template="delivered", channel="push", person=Person()),
    )
    assert msgspec.json.decode(lane.claims[0].body)["token"] == "new-token"
    lane.turn(asked("e2", person=Person()))
    assert [(fact.outcome, fact.reason) for fact in lane.facts] == [("suppressed", "no_contact")]


# --- recovery, promises
def test_a_state_rebuilt_from_records_and_journal_is_the_same_bytes_and_sends_nothing_twice() -> None:
    lane = Lane(abilities={"email": "keyed"})
    life: list[AnyCustomer] = [
        asked(),
        asked("e2", fields={}),
        asked("e3", "shipped", "sms", not_before=NOW + HOUR_MS),
        block("e3"),
        opt_out("push"),
        asked("e4", "delivered", "push"),
        asked("e5"),
    ]
    for record in life:
        lane.turn(record)
        lane.now += 10
    lane.outcome("sent", lane.claims[0])
    lane.outcome("retryable", lane.claims[1], after=NOW + HOUR_MS)
    lane.wait()
    claims = len(lane.claims)
    for seed in range(20):
        rng = random.Random(seed)
        shuffled, journal = list(life), lane.journal * 2
        rng.shuffle(shuffled)
        rng.shuffle(journal)
        again = Lane(now=lane.now, abilities={"email": "keyed"})
        again.turn(*shuffled, adopted=journal)
        assert again.stored == lane.stored
        assert again.claims == []
        assert again.journal == []
        assert again.due == lane.due
    assert len(lane.claims) == claims


EVENTS = st.lists(
    st.sampled_from(
        ["ask1", "ask2", "block1", "free1", "stop", "start", "sent", "unknown", "retryable", "rejected", "wait", "crash", "observe", "live"]
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.sampled_from(["keyed", "lookup", "neither"]), st.randoms(use_true_random=False))
def test_whatever_happens_no_message_is_sent_twice_blocked_or_unasked(events: list[str], ability: str, rng: random.Random) -> None:
    lane = Lane(abilities={"email": ability})
    accepted: dict[str, list[bytes]] = {}
    blocks: set[str] = set()
    open_claims: list[Claim] = []
    consent = True
    for step, event in enumerate(events):
        lane.now += rng.choice((1, 1_000, 40_000))
        before = len(lane.claims)
        if event.startswith("ask"):
            lane.turn(asked(f"e{event[-1]}", at=lane.now))
        elif event == "block1":
            blocks.add(f"step {step}")
            lane.turn(block("e1", f"step {step}", at=lane.now))
        elif event == "free1":
            lane.turn(free("e1", *sorted(blocks), at=lane.now))
            blocks.clear()
        elif event in ("stop", "start"):
            consent = event == "start"
            lane.turn(ConsentReported(at=lane.now, customer=KEY, channel="email", granted=consent))
        elif event in ("observe", "live"):
            lane.channels.modes["email"] = event
            lane.turn()
        elif event == "wait":
            if lane.due.get(KEY):
                lane.wait()
        elif event == "crash":  # the turn is lost with its claims: nothing may have left
            kept = dict(lane.stored), dict(lane.due), len(lane.claims), len(lane.journal)
            lane.turn(asked("e1", at=lane.now))
            lane.stored, lane.due = kept[0], kept[1]
            del lane.claims[kept[2] :]
            del lane.journal[kept[3] :]
        elif open_claims:
            claim = open_claims.pop(0)
            provider = accepted.setdefault(claim.effect, [])
            if claim.lookup:
                lane.outcome("sent" if provider else "retryable", claim)
            else:
                if event == "sent" or (event == "unknown" and rng.random() < 0.5):
                    if not (ability == "keyed" and provider):
                        provider.append(claim.body)
                    else:
                        assert provider == [claim.body], "one key, two bodies"
                lane.outcome(event, claim)
        for claim in lane.claims[before:]:
            open_claims.append(claim)
            if not claim.lookup:
                assert not (claim.effect == "e1" and blocks), "claimed although blocked"
                assert lane.channels.modes["email"] == "live"
                if claim.attempt == 1:
                    assert consent
        assert all(len(bodies) <= 1 for bodies in accepted.values())
    for effect, outcome in lane.said():
        if outcome == "sent":
            assert accepted[effect]


@pytest.mark.parametrize(
    ("key", "value", "reason", "detail"),
    [
        (None, b"{}", "null_key", "key"),
        (KEY.encode(), b"nonsense", "malformed", "value"),
        (KEY.encode(), b'{"type":"MessageRequested","at":1}', "schema", "$"),
        (b"lumi:other", msgspec.json.encode(asked()), "wrong_key", "key"),
        (KEY.encode(), msgspec.json.encode(asked()).replace(b'"expires":', b'"expires":1.5,"x":'), "schema", "$.expires"),
    ],
)
def test_what_cannot_be_read_is_parked_and_its_neighbours_go_on(key: bytes | None, value: bytes, reason: str, detail: str) -> None:
    lane = Lane()
    good = [Record(n, KEY.encode(), msgspec.json.encode(asked(f"e{n}"))) for n in (1, 3)]
    lane.turn(records=[good[0], Record(2, key, value), good[1]])
    assert [(parked.reason, parked.detail, parked.offset) for parked in lane.parked] == [(reason, detail, 2)]
    assert len(lane.claims) == 2


def test_no_personal_data_is_in_the_journal_the_reports_or_the_reasons() -> None:
    lane = Lane()
    lane.turn(asked(), asked("e2", fields={}), asked("e3", person=Person(email="bad address SECRET@x")))
    lane.outcome("sent")
    told = b"".join(lane.journal) + msgspec.json.encode(lane.facts) + msgspec.json.encode([(p.reason, p.detail) for p in lane.parked])
    for secret in (b"ada@", b"Ada", b"15005550006", b"SECRET", b"token-1"):
        assert secret not in told


def test_ended_messages_are_remembered_longer_than_the_topic_and_then_forgotten() -> None:
    lane = Lane()
    lane.turn(asked())
    lane.outcome("sent")
    lane.now += 39 * DAY_MS
    lane.turn(opt_out("sms", at=lane.now))
    assert "e1" in lane.customer.messages
    lane.now += 4 * DAY_MS
    lane.turn(opt_out("push", at=lane.now))
    assert lane.customer.messages == {}
    lane.facts.clear()
    lane.turn(asked())
    assert len(lane.claims) == 1
    assert lane.said() == [("e1", "expired")]
