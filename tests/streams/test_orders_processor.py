"""The orders lane's two halves, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from orders.effect import Claim, Outcome, effect_id
from orders.fact import EffectSettled, Fact, FactUnparked, MessageReported, Quantity, Tracking, decode_fact, encode_fact
from orders.finance import problems
from orders.journal import (
    AnyEntry,
    Claimed,
    Closed,
    Decided,
    Ended,
    JournalRecord,
    Offered,
    TimerFired,
    Withdrawn,
    adopt,
    decode_record,
    encode_record,
)
from orders.merge import merge
from orders.policy import Policy
from orders.request import AnyCustomer, AnyReference, AnyStock, MessageBlocked, MessageFreed, MessageRequested, StockRequested
from orders.state import Order, encode
from orders.view import View, view
from streams.orders import OrdersProcessor, mark_id
from streams.processor import Inputs, Parked, Record, Result, Scores
from tests.orders.lives import (
    DAY,
    HOUR,
    LAMP,
    LIFE,
    MINUTE,
    ORDER,
    SHADE,
    T0,
    cancel,
    captured,
    failed,
    hold,
    packed,
    placed,
    refunded,
    release,
    resend,
    reserved,
    review,
    scanned,
)

READ = msgspec.json.Decoder(AnyCustomer | AnyReference | AnyStock)


class Switch:
    """Channels with modes and slots set by hand."""

    version = 7

    def __init__(self, mode: str = "live", slots: int = 64) -> None:
        self.default, self.slots = mode, slots
        self.modes: dict[str, str] = {}

    def mode(self, channel: str) -> str:
        return self.modes.get(channel, self.default)

    def take(self, channel: str) -> bool:
        self.slots -= 1
        return self.slots >= 0

    def retry_at(self, channel: str, now: int) -> int:
        return now + 100


class Lane:
    """A lane without store and log: states are kept, everything else is collected."""

    def __init__(self, mode: str = "live", fraud: float = 0.1, ability: str = "neither", policy: Policy | None = None) -> None:
        self.processor = OrdersProcessor(lambda v: (1.0, float(v.paid)), policy or Policy(), {"webhook": ability})
        self.channels = Switch(mode)
        self.fraud = fraud
        self.fallback = False
        self.states: dict[str, Order] = {}
        self.due: dict[str, int] = {}
        self.tags: dict[str, set[str]] = {}
        self.claims: list[Claim] = []
        self.requests: list[Any] = []
        self.entries: list[AnyEntry] = []
        self.parked: list[Parked] = []
        self.asked = 0
        self.now = T0

    def result(
        self, records: Sequence[Record] = (), due: Sequence[str] = (), outcomes: Sequence[Outcome] = (), adopted: Sequence[bytes] = ()
    ) -> Result:
        asked = self.processor.ask(self.states, Inputs("facts", 3, records, due, outcomes, adopted), self.now)
        scores = None
        if asked.questions:
            n = len(asked.questions.keys)
            assert asked.questions.rows.shape == (n, 2)
            self.asked += n
            flat = np.full(n, self.fraud, np.float32)
            scores = Scores(flat, flat, flat * 0, flat * 1000, flat, [("velocity",)] * n, "m1", self.fallback)
        return self.processor.answer(asked, scores, self.now, self.channels)

    def turn(self, *facts: Fact | Record, now: int = 0, **more: Any) -> Result:
        self.now = now or self.now + 1_000
        records = [f if isinstance(f, Record) else record(f, i) for i, f in enumerate(facts)]
        result = self.result(records, **more)
        for key, order in result.states.items():
            self.states[key] = order
            assert result.due[key] == 0 or result.due[key] > self.now
            self.due[key] = result.due[key]
        for key, lost, gained, _ in result.index:
            had = self.tags.setdefault(key, set())
            assert set(lost) <= had
            assert not set(gained) & had
            had -= set(lost)
            had |= set(gained)
        self.claims += result.claims
        self.requests += [READ.decode(out.value) for out in result.outbox]
        self.entries += [entry for blob in result.journal for entry in decode_record(blob).entries]
        self.parked += result.parked
        return result

    def wait(self, key: str = ORDER) -> Result:
        """Until the next thing is due."""
        assert self.due[key]
        return self.turn(now=self.due[key], due=[key])

    def end(self, claim: Claim, kind: str, **more: Any) -> Result:
        return self.turn(outcomes=[Outcome(key=claim.key, effect=claim.effect, attempt=claim.attempt, kind=kind, at=self.now + 10, **more)])

    def of(self, kind: type) -> list[Any]:
        return [entry for entry in self.entries if isinstance(entry, kind)]

    def asks(self, kind: type) -> list[Any]:
        return [r for r in self.requests if isinstance(r, kind)]

    def claimed(self, action: str) -> list[Claim]:
        ids = {e.id for e in self.of(Offered) if e.action == action}
        return [c for c in self.claims if c.effect in ids]

    @property
    def view(self) -> View:
        return view(self.states[ORDER])


def record(fact: Fact, offset: int = 0, at: int = T0) -> Record:
    return Record(offset, fact.order.encode(), encode_fact(fact), at)


READY = (*LIFE[:2], reserved(LAMP), reserved(SHADE))


# --- bad input
GOOD = encode_fact(captured())
BAD: list[tuple[str, bytes | None, bytes, str, str]] = [
    ("no JSON", b"lumi:1001", b"{", "malformed", "value"),
    ("not UTF-8", b"lumi:1001", b'{"type":"\xff"}', "malformed", "value"),
    ("NaN", b"lumi:1001", GOOD.replace(b"4999", b"NaN"), "malformed", "value"),
    ("wrong type", b"lumi:1001", GOOD.replace(b"4999", b'"anna@example.invalid"'), "schema", "$.amount"),
    ("unknown kind", b"lumi:1001", GOOD.replace(b"PaymentCaptured", b"PaymentImagined"), "schema", "$.type"),
    ("required field gone", b"lumi:1001", GOOD.replace(b'"currency"', b'"currencies"'), "schema", "$"),
    ("unknown version", b"lumi:1001", GOOD.replace(b'{"type"', b'{"v":9,"type"'), "version", "$.v"),
    ("unknown currency", b"lumi:1001", GOOD.replace(b"EUR", b"QQQ"), "currency", "$.currency"),
    ("impossible date", b"lumi:1001", GOOD.replace(str(T0 + MINUTE).encode(), b"1790000060"), "bounds", "$.at"),
    ("far future", b"lumi:1001", GOOD.replace(str(T0 + MINUTE).encode(), str(T0 + 500 * DAY).encode()), "bounds", "$.at"),
    ("infinite signal", b"lumi:1001", encode_fact(placed()).replace(b'"velocity":1.0', b'"velocity":1e999'), "schema", "$.signals[...]"),
    ("10 MB", b"lumi:1001", b'{"type":"NoteAdded","text":"' + b"x" * (10 << 20) + b'"}', "too_large", "value"),
    ("other order", b"lumi:2", GOOD, "wrong_key", "key"),
    ("null key", None, GOOD, "null_key", "key"),
    ("key not UTF-8", b"\xff", GOOD, "malformed", "value"),
    ("deep nesting", b"lumi:1001", b'{"type":"NoteAdded","x":' + b"[" * 100_000, "malformed", "value"),
]


@pytest.mark.parametrize(("key", "value", "reason", "detail"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_record_is_parked_with_its_bytes_and_its_neighbours_go_on(key: bytes | None, value: bytes, reason: str, detail: str) -> None:
    lane = Lane()
    lane.turn(record(placed(), 5), Record(6, key, value, T0), record(captured(object="pi_7"), 7))
    (parked,) = lane.parked
    assert (parked.reason, parked.offset, parked.key, parked.value) == (reason, 6, key, value)
    assert parked.detail == detail or (detail == "$.type" and parked.detail.startswith("$"))
    assert "anna" not in parked.detail
    assert lane.view.captured == 4999
    marked = key is not None and key != b"\xff"
    order = (key or b"").decode(errors="replace")
    assert (order in lane.states and view(lane.states[order]).incomplete) == marked


def test_express_orders_are_named_among_what_changed() -> None:
    lane = Lane()
    changed = lane.turn(placed(service="express"), placed(order="lumi:2"))
    assert changed.express == {ORDER.encode()} and len(changed.states) == 2
    assert lane.turn(captured()).express == {ORDER.encode()}, "also when a later report changes it"


def test_fields_that_nobody_knows_yet_are_ignored() -> None:
    lane = Lane()
    lane.turn(Record(0, b"lumi:1001", GOOD.replace(b'{"type"', b'{"v":2,"colour":"red","type"'), T0))
    assert lane.parked == []
    assert lane.view.captured == 4999


def test_a_poison_report_holds_pick_back_until_it_is_dealt_with_and_its_order_says_so() -> None:
    lane = Lane()
    poison = Record(9, b"lumi:1001", b"{", T0)
    lane.turn(poison, *READY)
    assert "incomplete" in lane.tags[ORDER]
    assert lane.claimed("warehouse.pick") == []
    assert lane.asks(MessageRequested)  # the rest goes on
    lane.turn(poison)  # the same bytes once more are the same mark
    lane.turn(FactUnparked(order=ORDER, system="staff", object=mark_id(b"lumi:1001", b"{"), at=T0 + HOUR, by="sam"))
    assert "incomplete" not in lane.tags[ORDER]
    assert len(lane.claimed("warehouse.pick")) == 1


# --- safety of the cached state, determinism
def test_a_turn_leaves_the_states_it_was_given_as_they_were_and_says_the_same_when_repeated() -> None:
    lane = Lane()
    lane.turn(*READY)
    before = encode(lane.states[ORDER])
    records = [record(f) for f in (packed(), hold(), cancel(), LIFE[5])] + [Record(0, b"lumi:1001", b"{", T0)]
    results = [lane.result(records) for _ in range(2)]
    assert encode(lane.states[ORDER]) == before
    first, second = [(encode(r.states[ORDER]), r.journal, r.outbox, r.due, r.index, [c.body for c in r.claims], r.parked) for r in results]
    assert first == second


def test_states_do_not_depend_on_how_facts_are_cut_into_chunks() -> None:
    ends = []
    for size in (1, 3, 8):
        lane = Lane(mode="observe")
        for i in range(0, 8, size):
            lane.turn(*LIFE[i : i + size], now=T0 + 3 * DAY)
        facts = Order(ORDER)  # what was decided on the way depends on what was known then, and is in the journal
        facts.facts, facts.persons = lane.states[ORDER].facts, lane.states[ORDER].persons
        ends.append(encode(facts))
        rebuilt = Order(ORDER)
        for fact in reversed(LIFE):
            rebuilt = merge(rebuilt, fact)
        for entry in reversed(lane.entries):
            rebuilt = adopt(rebuilt, entry)
        assert encode(rebuilt) == encode(lane.states[ORDER])
    assert len(set(ends)) == 1


def test_a_journal_entry_is_taken_in_by_itself_as_well_as_among_others() -> None:
    """A rebuild cuts the journal anywhere: a decision, or a timer that fired, may come without anything else of its order."""
    lane = Lane()
    for fact in LIFE:
        lane.turn(fact)
    lane.turn(now=T0 + 30 * DAY, due=[ORDER])
    assert {type(entry) for entry in lane.entries} >= {Decided, TimerFired, Offered}
    states: dict[str, Any] = lane.processor.rebuild({}, Inputs("facts", 3, [record(fact) for fact in LIFE]), lane.now).states
    for entry in lane.entries:
        alone = encode_record(JournalRecord(ORDER, [entry]))
        states |= lane.processor.rebuild(states, Inputs("facts", 3, adopted=[alone]), lane.now).states
    assert encode(states[ORDER]) == encode(lane.states[ORDER])


def test_a_record_that_a_bug_meets_makes_its_order_incomplete_and_its_replay_complete_again() -> None:
    lane = Lane()
    lane.turn(*READY)
    met = record(LIFE[-1])
    mark = lane.processor.mark(met)
    assert mark is not None and (mark.topic, mark.key) == ("facts", ORDER)
    fact = decode_fact(mark.value)
    lane.turn(fact)
    assert view(lane.states[ORDER]).incomplete
    assert lane.processor.mark(record(fact)) is None, "a bug that meets every fact of an order would never come to an end"
    lane.turn(FactUnparked(order=ORDER, system="staff", object=mark_id(ORDER.encode(), met.value), at=T0 + HOUR, by="sam"))
    assert not view(lane.states[ORDER]).incomplete


def test_a_repeated_fact_writes_nothing() -> None:
    lane = Lane()
    lane.turn(*READY)
    result = lane.turn(*READY)
    assert (result.states, result.journal, result.outbox) == ({}, [], [])
    assert lane.processor.counts.facts["duplicate"] == 4


def test_an_order_is_asked_about_once_per_turn_and_only_when_something_that_matters_is_new() -> None:
    lane = Lane()
    lane.turn(*READY)
    assert lane.asked == 1
    lane.turn(hold())
    assert lane.asked == 1
    lane.turn(captured(1, object="pi_2"))
    assert lane.asked == 2
    assert [d.decision.number for d in lane.of(Decided)] == [1, 2]


def test_a_report_that_tells_the_model_nothing_new_keeps_the_decision_in_force() -> None:
    lane = Lane()
    lane.turn(placed(), captured())
    decision = lane.states[ORDER].decision
    lane.turn(packed("P1"))  # of a kind that matters, but this lane's model is told only of the money
    assert (lane.asked, lane.states[ORDER].decision) == (1, decision)
    lane.turn(captured(1, object="pi_2"))
    assert lane.asked == 2


def test_what_was_seen_is_counted() -> None:
    lane = Lane()
    lane.turn(placed(), reserved())
    lane.turn(captured(), captured(), captured(5))
    counts = lane.processor.counts
    assert counts.facts == {"applied": 2, "late": 1, "duplicate": 1, "contradiction": 1}
    assert counts.transitions == {
        ("", "in_progress", "applied"): 1,
        ("in_progress", "in_progress", "late"): 1,  # the payment happened before the reservation
        ("in_progress", "in_progress", "contradiction"): 1,
    }
    assert counts.decisions == {("approve", "model"): 2}


# --- decisions
def test_a_fallback_score_is_marked_as_such() -> None:
    lane = Lane()
    lane.fallback = True
    lane.turn(placed())
    assert lane.view.decision is not None
    assert (lane.view.verdict_by, lane.view.decision.model, lane.view.decision.reasons) == ("fallback", "m1", ("velocity",))


def test_a_review_that_nobody_makes_is_escalated_and_told_of_once_and_stays_held() -> None:
    lane = Lane(fraud=0.5)
    lane.turn(*READY)
    since = lane.now
    notices = []
    for periods in (1, 2):
        lane.turn(now=since + periods * Policy().review_sla_ms - 1, due=[ORDER])
        notices.append([e.milestone for e in lane.of(Offered) if e.milestone.startswith("review_")])
        lane.turn(now=since + periods * Policy().review_sla_ms, due=[ORDER])
    notices.append([e.milestone for e in lane.of(Offered) if e.milestone.startswith("review_")])
    assert notices == [[], ["review_overdue"], ["review_overdue", "review_expired"]]
    assert lane.tags[ORDER] - {"unknown"} == {"on_hold", "held", "review", "escalated"}  # nobody answers the notices
    assert lane.claimed("warehouse.pick") == []
    lane.turn(review(True, at=lane.now))
    assert lane.tags[ORDER] - {"unknown"} == {"in_progress", "to_pick:main"}
    assert len(lane.claimed("warehouse.pick")) == 1


def test_a_review_that_nobody_makes_cancels_the_order_where_the_shop_says_so() -> None:
    lane = Lane(fraud=0.5, policy=Policy(review_expiry="cancel"))
    lane.turn(*READY)
    since = lane.now
    lane.turn(now=since + 2 * Policy().review_sla_ms - 1, due=[ORDER])
    assert not lane.view.cancelled
    assert lane.claimed("payment.refund") == []
    lane.turn(now=since + 2 * Policy().review_sla_ms, due=[ORDER])
    assert lane.tags[ORDER] - {"unknown"} == {"cancelled"}
    assert len(lane.claimed("payment.refund")) == 1
    (told,) = [r for r in lane.asks(MessageRequested) if r.template == "cancelled"]
    assert told.milestone_at == since + 2 * Policy().review_sla_ms


def test_payments_that_fail_too_often_are_found_by_finance_until_it_has_settled_them() -> None:
    for mode in ("live", "observe"):
        lane = Lane(mode)
        lane.turn(placed(), failed())
        assert "finance" not in lane.tags[ORDER]
        lane.turn(failed(at=T0 + HOUR, object="pi_x"))
        assert "finance" in lane.tags[ORDER]
        (problem,) = problems(lane.view, lane.states[ORDER])
        lane.turn(release(problem.id, at=T0 + 2 * HOUR))
        assert "finance" not in lane.tags[ORDER]


def test_a_person_who_released_a_review_is_not_overruled_by_a_later_score() -> None:
    lane = Lane(fraud=0.5)
    lane.turn(*READY)
    assert lane.tags[ORDER] == {"on_hold", "held", "review"}
    lane.turn(release("review"))
    lane.fraud = 0.8
    lane.turn(captured(1, object="pi_2"))  # scored again, worse than before
    assert lane.asked == 2
    assert lane.tags[ORDER] == {"in_progress", "to_pick:main"}
    assert len(lane.claimed("warehouse.pick")) == 1


def test_what_a_model_alone_declines_waits_and_is_not_done_if_the_score_turns() -> None:
    lane = Lane(fraud=0.95)
    lane.turn(placed(), captured())
    assert lane.tags[ORDER] == {"on_hold", "held"}
    assert lane.due[ORDER] == lane.now + lane.processor._policy.settle_ms
    lane.fraud = 0.1
    lane.turn(LIFE[2])
    assert lane.of(TimerFired) == []
    lane.turn(captured(1, object="pi_2"))
    lane.wait()
    assert lane.claimed("payment.refund") == []
    assert lane.tags[ORDER] == {"in_progress"}


def test_a_decline_that_a_later_score_confirms_settles_no_later() -> None:
    lane = Lane(fraud=0.95)
    lane.turn(placed(), captured())
    settles = lane.due[ORDER]
    lane.fraud = 0.97
    lane.turn(captured(1, object="pi_2"))
    assert lane.asked == 2
    assert lane.due[ORDER] == settles


def test_a_model_s_decline_that_settled_cancels_refunds_and_tells() -> None:
    lane = Lane(fraud=0.95)
    lane.turn(placed(), captured())
    lane.wait()
    assert lane.tags[ORDER] == {"cancelled"}
    (refund,) = lane.claimed("payment.refund")
    assert msgspec.json.decode(refund.body)["data"]["amount"] == 4999
    assert [m.template for m in lane.asks(MessageRequested)] == ["cancelled"]


# --- effects: observe
def test_in_observe_what_is_wanted_is_closed_by_the_commit_that_finds_it_and_going_live_never_sends_it() -> None:
    lane = Lane(mode="observe")
    lane.turn(*READY)
    assert (lane.claims, [type(r).__name__ for r in lane.requests]) == ([], ["ReferenceLinked"])
    (closed,) = lane.of(Closed)
    assert "warehouse.pick in_progress main" in closed.effects
    assert closed.channels == 7
    lane.channels.default = "live"
    lane.turn(LIFE[5])
    assert {parts.template for parts in lane.asks(MessageRequested)} == {"shipped"}
    assert lane.claimed("warehouse.pick") == []


def test_each_channel_has_a_mode_of_its_own() -> None:
    lane = Lane(mode="observe")
    lane.channels.modes["email"] = "live"
    lane.turn(*LIFE)
    assert {m.channel for m in lane.asks(MessageRequested)} == {"email"}
    assert lane.claims == []


# --- effects: claims
def test_a_claim_carries_bytes_hash_and_deadline_and_its_entry_is_in_the_same_commit() -> None:
    lane = Lane()
    result = lane.turn(*READY)
    (claim,) = result.claims
    (entry,) = lane.of(Claimed)
    assert (claim.lane, claim.key, claim.channel, claim.attempt) == ("orders.0.3", ORDER, "webhook", 1)
    assert claim.effect == effect_id(ORDER, "in_progress", "main", "warehouse.pick") == entry.id
    assert claim.deadline == entry.deadline == lane.now + 30_000
    assert msgspec.json.decode(claim.body)["event"] == "warehouse.pick"
    lane.end(claim, "sent", reference="wms-9")
    assert lane.states[ORDER].ledger[entry.effect].attempts[0].reference == "wms-9"
    lane.turn(LIFE[5])
    assert len(lane.claimed("warehouse.pick")) == 1


def test_nothing_is_claimed_while_a_hold_is_known_and_all_is_when_it_is_released() -> None:
    lane = Lane()
    lane.turn(*READY, hold())
    assert lane.of(Offered)
    assert lane.claimed("warehouse.pick") == []
    lane.turn(release("h1"))
    assert len(lane.claimed("warehouse.pick")) == 1


def test_more_than_the_channel_can_start_waits_and_the_most_urgent_goes_first() -> None:
    lane = Lane()
    orders = [f"lumi:{i}" for i in range(4)]
    lane.channels.slots = 1
    facts = [msgspec.structs.replace(f, order=o, at=f.at - i) for i, o in enumerate(orders) for f in READY]
    lane.turn(*facts)
    (first,) = lane.claims
    assert first.key == orders[-1]  # it was paid first, and came last
    assert all(lane.due[o] == lane.now + 100 for o in orders[:-1])
    lane.channels.slots = 9
    lane.turn(now=lane.now + 100, due=orders)
    assert len(lane.claims) == 4


def test_in_sandbox_claims_say_so_and_a_stop_claims_nothing_but_loses_nothing() -> None:
    lane = Lane(mode="sandbox")
    lane.turn(*READY)
    assert [c.sandbox for c in lane.claims] == [True]
    lane = Lane(mode="stopped")
    lane.turn(*READY)
    assert lane.claims == []
    lane.channels.default = "live"
    lane.wait()
    assert len(lane.claims) == 1


def test_a_retryable_outcome_is_tried_again_when_the_provider_said_with_the_next_number() -> None:
    lane = Lane()
    lane.turn(*READY)
    lane.end(lane.claims[0], "retryable", after=lane.now + HOUR)
    assert lane.due[ORDER] > lane.now
    while len(lane.claims) < 2:
        lane.wait()
    assert lane.now >= lane.claims[0].deadline
    assert lane.claims[1].attempt == 2
    assert lane.claims[1].effect == lane.claims[0].effect


def test_an_attempt_nobody_tells_of_is_unknown_after_its_deadline_and_shown_and_not_made_again() -> None:
    lane = Lane(policy=Policy(retire_after_ms=0))
    lane.turn(*READY)
    while not lane.of(Ended):
        lane.wait()
    (ended,) = lane.of(Ended)
    assert (ended.kind, ended.at) == ("unknown", lane.claims[0].deadline + 30_000)
    assert "unknown" in lane.tags[ORDER]
    for _ in range(12):
        if lane.due[ORDER]:
            lane.wait()
    assert len(lane.claims) == 1
    lane.end(lane.claims[0], "sent")  # told after all
    assert "unknown" not in lane.tags[ORDER]


def settled(lane: Lane, happened: bool, at: int = 0) -> EffectSettled:
    effect = lane.claims[0].effect
    return EffectSettled(
        order=ORDER,
        system="staff",
        object=f"{effect}:{at}",
        at=at or lane.now,
        effect=effect,
        happened=happened,
        by="sam",
        reason="asked them",
    )


def unknown(lane: Lane, *facts: Fact) -> None:
    lane.turn(*(facts or READY))
    lane.end(lane.claims[0], "unknown")
    assert "unknown" in lane.tags[ORDER]


def test_a_person_who_finds_that_it_happened_settles_an_unknown_for_good() -> None:
    lane = Lane()
    unknown(lane)
    lane.turn(settled(lane, True))
    assert "unknown" not in lane.tags[ORDER]
    lane.turn(now=lane.now + DAY, due=[ORDER])
    assert len(lane.claims) == 1


def test_what_a_person_finds_not_to_have_happened_is_tried_again_once() -> None:
    lane = Lane()
    unknown(lane)
    lane.turn(settled(lane, False))
    assert "unknown" not in lane.tags[ORDER]
    while len(lane.claims) < 2:
        lane.wait()
    assert (lane.claims[1].effect, lane.claims[1].attempt) == (lane.claims[0].effect, 2)
    lane.end(lane.claims[1], "unknown")
    assert "unknown" in lane.tags[ORDER], "the finding spoke of the first attempt only"
    lane.turn(now=lane.now + DAY, due=[ORDER])
    assert len(lane.claims) == 2


def test_what_did_not_happen_and_is_no_longer_wanted_is_withdrawn_and_leaves_nothing_to_undo() -> None:
    lane = Lane()
    unknown(lane)
    assert lane.claims[0].effect == next(iter(lane.claimed("warehouse.pick"))).effect
    lane.turn(cancel())
    assert lane.claimed("team.notice"), "it may have been picked: the warehouse is told"
    other = Lane()
    unknown(other)
    other.turn(settled(other, False))
    other.turn(cancel())
    assert other.of(Withdrawn) and not [c for c in other.claimed("team.notice") if b"cancelled_after_pick" in c.body]


@pytest.mark.parametrize(("ability", "lookup"), [("keyed", False), ("lookup", True)])
def test_an_unknown_is_settled_where_the_provider_has_a_key_or_can_be_asked(ability: str, lookup: bool) -> None:
    lane = Lane(ability=ability)
    lane.turn(*READY)
    lane.end(lane.claims[0], "unknown")
    while len(lane.claims) < 2:
        lane.wait()
    assert lane.claims[1].lookup is lookup
    assert (lane.claims[1].effect, lane.claims[1].body) == (lane.claims[0].effect, lane.claims[0].body)


def test_an_unknown_is_not_tried_again_with_other_bytes_under_its_key() -> None:
    lane = Lane(ability="keyed")
    lane.turn(placed(), captured(), cancel())
    (refund,) = lane.claimed("payment.refund")
    lane.end(refund, "unknown")
    lane.turn(refunded(1000))  # part of it went another way: a second call would ask for less
    lane.turn(now=lane.now + DAY, due=[ORDER])
    assert len(lane.claimed("payment.refund")) == 1
    assert "unknown" in lane.tags[ORDER]


def test_an_outcome_of_a_claim_that_was_never_made_is_ignored() -> None:
    lane = Lane()
    lane.turn(*READY)
    before = encode(lane.states[ORDER])
    lane.turn(outcomes=[Outcome(key=ORDER, effect="nobody", attempt=1, kind="sent", at=T0)])
    lane.turn(outcomes=[Outcome(key=ORDER, effect=lane.claims[0].effect, attempt=7, kind="sent", at=T0)])
    lane.turn(outcomes=[Outcome(key="lumi:other", effect="x", attempt=1, kind="sent", at=T0)])
    assert encode(lane.states[ORDER]) == before
    assert "lumi:other" not in lane.states


# --- cancelling
def test_cancelling_before_the_claim_withdraws_it() -> None:
    lane = Lane()
    lane.turn(*READY, hold())
    lane.turn(cancel())
    assert [w.effect for w in lane.of(Withdrawn) if "pick" in w.effect] == ["warehouse.pick in_progress main"]
    lane.turn(release("h1"))
    assert lane.claimed("warehouse.pick") == []


def test_cancelling_after_the_label_voids_it_when_it_is_known_to_be_bought() -> None:
    lane = Lane()
    lane.turn(*READY, packed())
    (label,) = lane.claimed("carrier.label")
    lane.turn(cancel())
    assert lane.claimed("carrier.void") == []
    lane.end(label, "sent")
    (void,) = lane.claimed("carrier.void")
    assert msgspec.json.decode(void.body)["data"]["label"] == label.effect
    assert len(lane.claimed("payment.refund")) == 1
    assert [m.template for m in lane.asks(MessageRequested)].count("cancelled") == 1


def test_cancelling_and_shipping_in_one_turn_the_parcel_wins() -> None:
    lane = Lane()
    lane.turn(*READY, cancel(), LIFE[5])
    assert lane.tags[ORDER] == {"shipped"}
    assert {m.template for m in lane.asks(MessageRequested)} == {"order_placed", "payment_confirmed", "shipped"}


# --- requests to other lanes
def test_stock_is_asked_for_once_per_line_and_again_only_while_nobody_answers() -> None:
    lane = Lane()
    lane.turn(placed(), captured())
    first = lane.asks(StockRequested)
    assert sorted((r.sku, r.quantity) for r in first) == [("LAMP-1", 2), ("SHADE-2", 1)]
    lane.turn(reserved(SHADE, object=first[1].effect if first[1].sku == "SHADE-2" else first[0].effect))
    assert len(lane.asks(StockRequested)) == 2
    assert lane.due[ORDER] <= lane.now + HOUR
    lane.wait()
    assert [r.sku for r in lane.asks(StockRequested)[2:]] == ["LAMP-1"]
    assert lane.asks(StockRequested)[2].effect in {r.effect for r in first}


def test_a_message_that_stops_being_wanted_is_blocked_and_freed_when_it_is_wanted_again() -> None:
    lane = Lane()
    lane.turn(placed(), failed())
    (asked,) = [m for m in lane.asks(MessageRequested) if m.template == "payment_failed"]
    lane.turn(captured())
    (block,) = lane.asks(MessageBlocked)
    assert (block.effect, block.customer, block.order) == (asked.effect, "lumi:77", ORDER)
    assert [w.effect for w in lane.of(Withdrawn)] == ["notify.email payment_failed"]
    lane.turn(captured(100, version=1))  # the gateway corrects: it was far less
    (free,) = lane.asks(MessageFreed)
    assert (free.effect, free.blocks) == (asked.effect, (block.block,))
    lane.turn(captured(4999, version=2))
    assert [b.block for b in lane.asks(MessageBlocked) if b.effect == asked.effect] == [f"{asked.effect}:1", f"{asked.effect}:3"]


def test_an_answered_message_is_neither_repeated_nor_blocked() -> None:
    lane = Lane()
    lane.turn(placed(), failed())
    for asked in lane.asks(MessageRequested):
        told = MessageReported(
            order=ORDER, system="customers", object=f"{asked.effect}:sent", at=T0, effect=asked.effect, channel="email", outcome="sent"
        )
        lane.turn(told)
    lane.turn(captured())
    assert lane.asks(MessageBlocked) == []
    assert all(effect.closed == "" for effect in lane.states[ORDER].ledger.values())


def test_an_open_message_is_asked_for_again_when_what_it_would_say_has_changed() -> None:
    lane = Lane()
    lane.turn(*READY, scanned(Tracking.IN_TRANSIT, T0 + DAY, tracking=""))
    assert all("tracking_number" not in m.fields for m in lane.asks(MessageRequested) if m.template == "shipped")
    asked = len(lane.requests)
    lane.turn(scanned(Tracking.IN_TRANSIT, T0 + DAY + 1))
    again = [r for r in lane.requests[asked:] if isinstance(r, MessageRequested)]
    assert {(m.template, m.channel, m.fields["tracking_number"]) for m in again} == {
        ("shipped", c, "1Z-P1") for c in ("email", "sms", "push")
    }
    assert {m.effect for m in again} <= {m.effect for m in lane.requests[:asked] if isinstance(m, MessageRequested)}


def test_a_message_is_said_once_more_under_another_name_when_a_person_wants_it() -> None:
    lane = Lane()
    lane.turn(*READY, *LIFE[4:6])
    shipped = {m.channel: m for m in lane.asks(MessageRequested) if m.template == "shipped"}
    lane.turn(resend(shipped["sms"].effect))
    assert lane.asks(MessageRequested)[-1].effect in {m.effect for m in shipped.values()}, "it is still on its way"
    lane.turn(told(shipped["sms"]))
    lane.turn(resend(shipped["sms"].effect))  # the same wish, delivered twice
    again = lane.asks(MessageRequested)[-1]
    assert [m.template for m in lane.asks(MessageRequested)].count("shipped") == 4
    assert again.effect not in {m.effect for m in shipped.values()}
    assert (again.channel, again.fields, again.milestone_at) == ("sms", shipped["sms"].fields, shipped["sms"].milestone_at)
    assert again.expires == resend("").at + Policy().max_age_ms["shipped"] > shipped["sms"].expires
    lane.turn(told(again), resend(again.effect, object="again-2", at=T0 + 9 * DAY))
    assert "notify.sms shipped P1~again-2" in lane.states[ORDER].ledger, "a repetition of a repetition is one of the original"


def told(asked: MessageRequested, outcome: str = "sent") -> MessageReported:
    object = f"{asked.effect}:{outcome}"
    return MessageReported(
        order=ORDER, system="customers", object=object, at=T0, effect=asked.effect, channel=asked.channel, outcome=outcome
    )


def test_what_was_never_asked_for_is_not_said_again() -> None:
    lane = Lane()
    lane.turn(placed(), failed())
    (asked,) = [m for m in lane.asks(MessageRequested) if m.template == "payment_failed"]
    lane.turn(captured(), resend(asked.effect))  # withdrawn before anybody heard it
    before = len(lane.asks(MessageRequested))
    lane.turn(resend("nothing", object="again-2"), resend(effect_id(ORDER, "shipped", "P1", "notify.sms"), object="again-3"))
    assert len(lane.asks(MessageRequested)) == before
    assert not [e for e in lane.states[ORDER].ledger.values() if e.milestone == "payment_failed" and e.open]


def test_references_are_linked_once_from_merged_facts() -> None:
    lane = Lane()
    for fact in LIFE:
        lane.turn(fact)
    links = [(r.kind, r.value, r.order) for r in lane.requests if type(r).__name__ == "ReferenceLinked"]
    assert links == [("payment", "pi_1", ORDER), ("tracking", "1Z-P1", ORDER)]


# --- timers
def test_timers_fire_with_the_time_they_were_due_however_late_the_lane_wakes() -> None:
    lane = Lane(mode="observe")
    lane.turn(*LIFE, now=T0 + 3 * DAY)
    assert lane.due[ORDER] == LIFE[7].at + 3 * DAY
    lane.turn(now=T0 + 30 * DAY, due=[ORDER])
    assert [(t.timer, t.at) for t in lane.of(TimerFired)] == [("feedback", LIFE[7].at + 3 * DAY)]
    assert "notify.email feedback" in lane.states[ORDER].closed


def test_a_reminder_is_sent_before_its_window_and_not_when_it_was_delivered_earlier() -> None:
    eta = {"eta_from": T0 + 2 * DAY, "eta_until": T0 + 2 * DAY + 4 * HOUR}
    for delivered in (False, True):
        lane = Lane()
        lane.turn(*READY, scanned(Tracking.IN_TRANSIT, T0 + DAY, **eta), now=T0 + DAY)
        if delivered:
            lane.turn(scanned(Tracking.DELIVERED, T0 + DAY + HOUR))
        lane.turn(now=eta["eta_from"] - 3 * HOUR, due=[ORDER])
        reminders = [m for m in lane.asks(MessageRequested) if m.template == "delivery_reminder"]
        assert len(reminders) == (not delivered)
        assert all(m.expires == eta["eta_until"] for m in reminders)


def test_an_order_that_ended_long_ago_shrinks_to_a_remnant_and_wakes_for_something_new() -> None:
    lane = Lane(mode="observe")
    lane.turn(*LIFE, now=T0 + 3 * DAY)
    while lane.due[ORDER]:
        lane.wait()
    order = lane.states[ORDER]
    assert (order.facts, order.persons, lane.tags[ORDER]) == ({}, {}, {"delivered"})
    assert set(order.closed.values()) == {0}  # which effects there were, not when
    before = encode(order)
    lane.turn(*LIFE)
    assert encode(lane.states[ORDER]) == before
    lane.turn(review(False, at=T0 + 200 * DAY))
    assert lane.tags[ORDER] == {"delivered"}


def test_what_was_known_already_and_what_was_observed_is_counted_in_the_commit() -> None:
    """The pages' figures are exact across crashes only if they lie in the same commit as the position."""
    lane = Lane("observe")
    result = lane.turn(placed(), placed(), placed())
    assert result.counts["duplicate"] == 2
    assert result.counts["message.email.observed"] == 1
    assert lane.turn(captured()).counts["duplicate"] == 0


# --- effects: each by its own channel
BY_ACCOUNTS = Policy(served=dict.fromkeys(("warehouse.pick", "carrier.label", "payment.refund"), "systems"))


def test_what_an_account_does_leaves_by_the_channel_of_systems_in_its_own_mode() -> None:
    lane = Lane(policy=BY_ACCOUNTS)
    lane.channels.modes = {"webhook": "stopped", "systems": "sandbox"}
    (claim,) = lane.turn(*READY, hold()).claims or lane.turn(release("h1")).claims
    assert (claim.channel, claim.sandbox) == ("systems", True)
    assert [entry.mode for entry in lane.of(Claimed)] == ["sandbox"]
    notices = Lane(policy=BY_ACCOUNTS)
    notices.channels.modes = {"systems": "stopped"}
    result = notices.turn(placed(), captured(), failed(), failed(object="pi_9"), hold())
    assert {c.channel for c in result.claims} <= {"webhook"}, "what no account does goes on as before"


def test_a_channel_without_room_keeps_nobody_else_waiting() -> None:
    lane = Lane(policy=BY_ACCOUNTS)
    lane.channels.take = lambda channel: channel != "systems"  # type: ignore[method-assign]
    lane.turn(*READY)
    assert lane.claims == []
    assert lane.due[ORDER] == lane.now + 100


def test_an_action_has_the_ability_of_those_that_do_it() -> None:
    keyed, neither = Lane(policy=BY_ACCOUNTS), Lane(policy=BY_ACCOUNTS)
    for lane, ability in ((keyed, "keyed"), (neither, "neither")):
        lane.processor = OrdersProcessor(lambda v: (1.0, float(v.paid)), BY_ACCOUNTS, {"webhook": "keyed", "warehouse.pick": ability})
        (claim,) = lane.turn(*READY).claims
        lane.end(claim, "unknown")
        if lane.due[ORDER]:
            lane.wait()
    assert [c.attempt for c in keyed.claims] == [1, 2]
    assert [c.attempt for c in neither.claims] == [1]


@pytest.mark.parametrize("ability", ["keyed", "lookup"])
def test_what_may_have_left_by_one_channel_is_not_asked_for_by_another(ability: str) -> None:
    lane = Lane(ability=ability)
    (claim,) = lane.turn(*READY).claims
    lane.end(claim, "unknown")
    lane.processor = OrdersProcessor(
        lambda v: (1.0, float(v.paid)), BY_ACCOUNTS, {"webhook": ability, "warehouse.pick": ability}
    )  # an account was connected meanwhile
    lane.turn(due=[ORDER], now=lane.now + HOUR)
    assert len(lane.claimed("warehouse.pick")) == 1, "neither its key nor its memory is the other's"
    assert "unknown" in lane.tags[ORDER]
    lane.processor = OrdersProcessor(lambda v: (1.0, float(v.paid)), Policy(), {"webhook": ability})
    lane.turn(due=[ORDER], now=lane.now + HOUR)
    assert len(lane.claimed("warehouse.pick")) == 2


# --- labels
def test_a_label_that_was_bought_gives_its_parcel_number_link_and_file() -> None:
    lane = Lane(policy=BY_ACCOUNTS)
    lane.turn(*READY, packed())
    (label,) = [c for c in lane.claims if msgspec.json.decode(c.body)["event"] == "carrier.label"]
    lane.end(label, "sent", reference="UPS 1Z9 0123abcd")
    parcel = view(lane.states[ORDER]).parcels["P1"]
    assert (parcel.carrier, parcel.tracking, parcel.label, parcel.shipped_at) == ("UPS", "1Z9", "0123abcd", 0)
    assert ("tracking", "1Z9") in [(r.kind, r.value) for r in lane.requests if hasattr(r, "kind") and hasattr(r, "value")]
    assert len([c for c in lane.claims if msgspec.json.decode(c.body)["event"] == "carrier.label"]) == 1
    lane.turn(cancel(), due=[ORDER])
    (void,) = [msgspec.json.decode(c.body) for c in lane.claims if msgspec.json.decode(c.body)["event"] == "carrier.void"]
    assert (void["data"]["carrier"], void["data"]["tracking"], void["data"]["label"]) == ("UPS", "1Z9", label.effect)


def test_the_carrier_s_scans_of_a_bought_number_are_of_the_parcel_it_was_bought_for() -> None:
    lane = Lane(policy=BY_ACCOUNTS)
    lane.turn(*READY, packed(lines=(Quantity(line="1", quantity=2),)))
    (label,) = [c for c in lane.claims if msgspec.json.decode(c.body)["event"] == "carrier.label"]
    lane.end(label, "sent", reference="UPS 1Z9 0123abcd")
    lane.turn(scanned(Tracking.IN_TRANSIT, T0 + DAY, parcel="1Z9", tracking="1Z9"))
    v = view(lane.states[ORDER])
    assert list(v.parcels) == ["P1"]
    assert v.parcels["P1"].shipped_at == T0 + DAY
    assert v.status.value == "partially_shipped", "the shade is in no parcel yet"
    assert {m.fields["tracking_number"] for m in lane.asks(MessageRequested) if m.template == "shipped"} == {"1Z9"}
