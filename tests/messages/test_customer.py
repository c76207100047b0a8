"""The customer as a join: blocks, frees, requests, consents, attempts and outcomes in any order give the same bytes."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.customer import (
    EARLIER,
    SPAN_MS,
    Customer,
    NewerState,
    adopt,
    consented,
    decode,
    encode,
    horizon,
    join,
    merge,
)
from messages.journal import Answered, AnyEntry, Claimed, Closed, Forgotten, decode_entry, encode_entry
from orders.fact import Person
from orders.request import (
    AnyCustomer,
    ConsentReported,
    MessageBlocked,
    MessageFreed,
    MessageRequested,
    ProfileReported,
    ReceiptReported,
)

KEY = "lumi:c"
DAY = 24 * 3_600_000
Part = AnyCustomer | AnyEntry


def asked(effect: str, at: int = 10, fields: dict[str, str] | None = None) -> MessageRequested:
    return MessageRequested(
        at=at,
        effect=effect,
        order="lumi:1",
        customer=KEY,
        template="order_placed",
        channel="email",
        kind="transactional",
        fields=fields or {"order_number": "1"},
        person=Person(email="ada@example.invalid"),
        milestone_at=5,
        expires=10 * DAY,
    )


def blocked(effect: str, block: str, at: int = 20) -> MessageBlocked:
    return MessageBlocked(at=at, effect=effect, order="lumi:1", customer=KEY, block=block, reason="not_wanted")


def freed(effect: str, *blocks: str, at: int = 30) -> MessageFreed:
    return MessageFreed(at=at, effect=effect, order="lumi:1", customer=KEY, blocks=blocks)


def claimed(effect: str, number: int = 1, at: int = 40) -> Claimed:
    return Claimed(key=KEY, at=at, effect=effect, number=number, channel="email", deadline=at + 30, body_hash="h")


def answered(effect: str, outcome: str, number: int = 1, at: int = 50) -> Answered:
    return Answered(key=KEY, at=at, effect=effect, number=number, outcome=outcome)


def closed(effect: str, word: str, at: int = 60) -> Closed:
    return Closed(key=KEY, at=at, effect=effect, word=word, channel="email")


def take(customer: Customer, part: Part) -> None:
    if isinstance(part, Claimed | Answered | Closed | Forgotten):
        adopt(customer, decode_entry(encode_entry(part)))
    else:
        merge(customer, part)


def fold(*parts: Part) -> Customer:
    customer = Customer()
    for part in parts:
        take(customer, part)
    return customer


EFFECTS = st.sampled_from(["e1", "e2"])
TIMES = st.sampled_from([1, 10, 20, 30, DAY + 15, 2 * DAY])
SOON = st.sampled_from([1, 10, 20, 30])  # what is told of one attempt is told within a day
RECORDS = st.one_of(
    st.builds(lambda e, at, f: asked(e, at, {"order_number": f}), EFFECTS, TIMES, st.sampled_from(["1", "2"])),
    st.builds(blocked, EFFECTS, st.sampled_from(["b1", "b2"]), TIMES),
    st.builds(lambda e, b, at: freed(e, *b, at=at), EFFECTS, st.lists(st.sampled_from(["b1", "b2"])), TIMES),
    st.builds(
        lambda e, at, r: ReceiptReported(at=at, customer=KEY, effect=e, channel="email", receipt=r),
        EFFECTS,
        TIMES,
        st.sampled_from(["delivered", "opened"]),
    ),
    st.builds(
        lambda at, g, k: ConsentReported(at=at, customer=KEY, channel="sms", granted=g, kind=k),
        TIMES,
        st.booleans(),
        st.sampled_from(["*", "alert"]),
    ),
    st.builds(
        lambda at, v, n: ProfileReported(at=at, customer=KEY, system="shop", person=Person(name=n), version=v),
        TIMES,
        st.integers(0, 1),
        st.sampled_from(["A", "B"]),
    ),
)
ENTRIES = st.one_of(
    st.builds(claimed, EFFECTS, st.integers(1, 2), SOON),
    st.builds(answered, EFFECTS, st.sampled_from(["unknown", "retryable", "rejected", "sent"]), st.integers(1, 2), SOON),
    st.builds(closed, EFFECTS, st.sampled_from(["sent", "unknown", "observed"]), TIMES),
)
PARTS = st.one_of(RECORDS, ENTRIES)


def shuffled_and_repeated(parts: list[Part], rng: random.Random) -> list[Part]:
    out = parts + [rng.choice(parts) for _ in range(rng.randrange(6)) if parts]
    rng.shuffle(out)
    return out


@settings(max_examples=500, deadline=None)
@given(st.lists(PARTS, max_size=14), st.randoms(use_true_random=False))
def test_any_order_any_repetition_any_stop_and_restart_gives_the_same_bytes(parts: list[Part], rng: random.Random) -> None:
    expected = encode(fold(*parts))
    customer = Customer()
    for part in shuffled_and_repeated(parts, rng):
        take(customer, part)
        if rng.random() < 0.3:
            customer = decode(encode(customer))
        if rng.random() < 0.3:
            customer = customer.copy()
    assert encode(customer) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PARTS, max_size=12),
    st.lists(RECORDS, max_size=3),
    st.sampled_from([15, 25, DAY, DAY + 40, 3 * DAY]),
    st.randoms(use_true_random=False),
)
def test_forgetting_commutes_with_whatever_comes_before_and_with_records_that_come_later(
    parts: list[Part], later: list[Part], until: int, rng: random.Random
) -> None:
    customer = fold(*parts)
    forgotten = Forgotten(key=KEY, at=9 * DAY, before=horizon(customer, until))
    take(customer, forgotten)
    for part in later:
        take(customer, part)
    again = fold(*shuffled_and_repeated([*parts, forgotten, *later], rng))
    assert encode(again) == encode(customer)


def test_every_permutation_of_a_message_life_is_the_same() -> None:
    life: list[Part] = [
        asked("e1"),
        blocked("e1", "b1"),
        freed("e1", "b1"),
        claimed("e1"),
        answered("e1", "unknown"),
        answered("e1", "sent", at=55),
        closed("e1", "sent"),
    ]
    assert len({encode(fold(*order)) for order in itertools.permutations(life)}) == 1


def test_blocks_are_an_observed_remove_set() -> None:
    def reason(*parts: Part) -> str:
        return fold(asked("e1"), *parts).messages["e1"].blocked

    assert reason() == ""
    assert reason(blocked("e1", "b1")) == "not_wanted"
    assert reason(blocked("e1", "b1"), freed("e1", "b1")) == ""
    assert reason(freed("e1", "b1"), blocked("e1", "b1")) == ""  # a free may come first
    assert reason(blocked("e1", "b1"), blocked("e1", "b2"), freed("e1", "b1")) == "not_wanted"
    assert reason(blocked("e1", "b1"), freed("e1", "b1"), blocked("e1", "b1")) == ""  # the same block again lifts nothing


def test_an_outcome_only_gets_better_known() -> None:
    words = ["unknown", "retryable", "rejected", "sent"]
    for known in itertools.permutations(words):
        customer = fold(asked("e1"), claimed("e1"), *(answered("e1", word) for word in known))
        assert customer.messages["e1"].attempts[0].outcome == "sent"


def test_personal_data_of_a_message_is_gone_when_it_has_ended() -> None:
    ended = fold(asked("e1"), closed("e1", "sent"), asked("e1", at=70))
    assert b"ada@" not in encode(ended)
    assert ended.messages["e1"].order == "lumi:1"


def test_the_latest_request_of_one_effect_is_the_one_in_force() -> None:
    for order in itertools.permutations([asked("e1", 10, {"a": "1"}), asked("e1", 12, {"a": "2"}), asked("e1", 11, {"a": "3"})]):
        content = fold(*order).messages["e1"].content
        assert content is not None
        assert content.fields == {"a": "2"}


def test_who_never_said_anything_did_not_opt_out() -> None:
    assert consented(Customer(), "sms", "alert")


def test_what_is_open_is_not_forgotten() -> None:
    customer = fold(asked("open", at=10), asked("done", at=20), closed("done", "sent", at=30))
    assert horizon(customer, 3 * DAY) == 10
    take(customer, closed("open", "expired", at=40))
    assert horizon(customer, 3 * DAY) == 3 * DAY
    assert horizon(customer, SPAN_MS + 35) == 10
    take(customer, Forgotten(key=KEY, at=9 * DAY, before=3 * DAY))
    assert customer.messages == {}
    take(customer, asked("done", at=20))
    assert customer.messages == {}


def test_a_state_of_a_later_version_is_refused() -> None:
    blob = encode(fold(asked("e1")))
    assert encode(decode(blob)) == blob
    with pytest.raises(NewerState, match="version 7"):
        decode(b"\x07" + blob[1:])


def test_of_what_it_was_asked_to_say_the_latest_is_kept_whatever_came_first() -> None:
    wishes = [asked("e1", at, {"state": f"{at % 23}"}) for at in range(10, 70)]
    ends = []
    for seed in range(20):
        parts = random.Random(seed).sample(wishes, len(wishes))
        cut = seed * 3
        ends.append(fold(*parts).messages["e1"])
        if 0 < cut < len(parts):
            ends.append(join(fold(*parts[:cut]).messages["e1"], fold(*parts[cut:]).messages["e1"]))
    assert all(end == ends[0] for end in ends)
    assert [at for at, _ in ends[0].earlier] == list(range(69 - EARLIER, 69))


def test_what_a_message_was_asked_to_say_before_is_kept_until_it_has_ended() -> None:
    first, paid, first_again = asked("e1", 10), asked("e1", 20, {"state": "paid"}), asked("e1", 30)
    kept = fold(first, paid).messages["e1"]
    assert kept.content is not None
    assert (kept.content.fields, [(at, c.fields) for at, c in kept.earlier]) == ({"state": "paid"}, [(10, {"order_number": "1"})])
    again = fold(first, paid, first_again).messages["e1"]
    assert [(at, c.fields) for at, c in again.earlier] == [(20, {"state": "paid"})]
    over = fold(first, paid, closed("e1", "sent")).messages["e1"]
    assert (over.content, over.earlier) == (None, ())
