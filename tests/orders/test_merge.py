"""The same facts give the same bytes, whatever their order, repetition and grouping."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orders.compact import whole_person
from orders.fact import Fact
from orders.merge import CONTRADICTION, DUPLICATE, LATE, absorb, join, merge
from orders.state import VARIANTS, Order, decode, encode
from orders.view import view
from tests.orders.lives import ANNA, DAY, EACH, LIFE, ORDER, T0, captured, failed, hold, paid, placed, release, reports, retract


def fold(facts: list[Fact] | tuple[Fact, ...]) -> Order:
    order = Order(ORDER)
    for fact in facts:
        order = merge(order, fact)
    return order


def scheduled(facts: list[Fact], rng: random.Random) -> bytes:
    """One schedule: shuffled, some repeated, cut into chunks, each chunk a state of its own that is joined or stored."""
    arrivals = facts + [rng.choice(facts) for _ in range(rng.randrange(4))]
    rng.shuffle(arrivals)
    order = Order(ORDER)
    while arrivals:
        size = rng.randint(1, len(arrivals))
        chunk, arrivals = arrivals[:size], arrivals[size:]
        match rng.randrange(4):
            case 0:
                order = join(order, fold(chunk))
            case 1:
                order = join(fold(chunk), order)
            case 2:
                order = decode(encode(order))
                for fact in chunk:
                    order = merge(order, fact)
            case _:
                for fact in chunk:
                    absorb(order, fact)
    return encode(order)


@settings(max_examples=500)
@given(reports, st.randoms(use_true_random=False))
def test_ten_thousand_schedules_of_arbitrary_reports_give_identical_bytes(facts: list[Fact], rng: random.Random) -> None:
    expected = encode(fold(facts))
    for _ in range(21):
        assert scheduled(facts, rng) == expected


@settings(max_examples=150)
@given(reports, reports, reports)
def test_join_is_commutative_associative_and_idempotent(a: list[Fact], b: list[Fact], c: list[Fact]) -> None:
    x, y, z = fold(a), fold(b), fold(c)
    assert encode(join(x, y)) == encode(join(y, x))
    assert encode(join(join(x, y), z)) == encode(join(x, join(y, z)))
    assert encode(join(x, x)) == encode(x)


def test_all_permutations_of_an_eight_event_life_end_in_the_same_state() -> None:
    expected = encode(fold(LIFE))
    ends = 0

    def walk(order: Order, rest: tuple[Fact, ...]) -> None:
        """Every permutation, sharing the states of common beginnings."""
        nonlocal ends
        for i, fact in enumerate(rest):
            merged = merge(order, fact)
            if len(rest) > 1:
                walk(merged, rest[:i] + rest[i + 1 :])
            else:
                ends += 1
                assert encode(merged) == expected

    walk(Order(ORDER), LIFE)
    assert ends == 40_320


def test_a_fork_of_a_state_leaves_the_original_as_it_was() -> None:
    before = fold(LIFE)
    bytes_before = encode(before)
    for fact in EACH:
        merge(before, fact)
        assert encode(before) == bytes_before


def test_the_same_fact_twice_is_one_fact() -> None:
    order = fold([placed(), captured()])
    assert absorb(order.fork(), captured()) == DUPLICATE
    assert view(order).captured == 4999


def test_a_fact_that_happened_before_others_known_is_late_and_counts_all_the_same() -> None:
    order = fold([LIFE[0], LIFE[7]])
    assert absorb(order, captured()) == LATE
    assert view(order).paid_in_full


def test_the_greatest_authority_then_version_then_time_wins() -> None:
    low = captured(100, at=T0 + 9)
    newer = captured(200, version=1)
    trusted = captured(300, authority=1, at=T0)
    for facts in itertools.permutations([low, newer, trusted]):
        assert view(fold(facts)).captures[0].amount == 300
    assert view(fold([low, newer])).captures[0].amount == 200


def test_two_reports_of_one_key_and_version_that_differ_are_a_contradiction() -> None:
    order = fold([placed(), captured(100)])
    assert absorb(order, captured(200)) == CONTRADICTION
    assert view(order).contradictions == (("PaymentCaptured", "stripe:lumi", "pi_1"),)


def test_a_newer_version_corrects_and_does_not_contradict() -> None:
    assert view(fold([paid(100, version=1), paid(4999, version=2)])).contradictions == ()


def test_the_same_thing_reported_at_another_time_is_no_contradiction() -> None:
    assert view(fold([captured(), captured(at=T0 + DAY)])).contradictions == ()


def test_at_most_four_variants_are_kept_and_they_are_the_greatest() -> None:
    order = fold([captured(amount, at=T0 + amount) for amount in (5, 3, 9, 1, 7, 2)])
    (kept,) = order.facts.values()
    assert [f.amount for f in kept] == [9, 7, 5, 3]  # type: ignore[attr-defined]
    assert len(kept) == VARIANTS


def test_a_time_out_of_sane_bounds_never_wins_whatever_its_authority() -> None:
    for at in (5, 4_102_444_800_000, 1_790_000_000):  # a unit of seconds among them
        order = fold([captured(1, at=at, authority=9, version=9), captured()])
        assert view(order).captured == 4999
        assert view(fold([captured(1, at=at)])).captured == 0


def test_a_retracted_fact_never_was_whether_the_retraction_comes_first_or_last() -> None:
    gone = retract("PaymentCaptured", "stripe:lumi", "pi_1")
    for facts in itertools.permutations([placed(), captured(), gone]):
        assert view(fold(facts)).captured == 0


def test_a_release_that_comes_before_its_hold_releases_it() -> None:
    for facts in ([placed(), hold(), release("h1")], [release("h1"), hold(), placed()]):
        assert view(fold(facts)).holds_placed == {"h1": "call_back"}
        assert "h1" not in view(fold(facts)).holds


def test_a_release_frees_only_the_holds_it_names() -> None:
    v = view(fold([placed(), hold(), hold(object="h2"), release("h1")]))
    assert v.holds == {"h2": "call_back"}


def test_a_fact_of_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="another order"):
        merge(Order("lumi:2"), placed())


def test_personal_data_stands_apart_and_goes_with_the_last_fact_that_said_it() -> None:
    order = fold([placed()])
    assert [whole_person(p) for p in order.persons.values()] == [ANNA] == [view(order).person]
    assert all(getattr(f, "person", None) is None for variants in order.facts.values() for f in variants)
    for version in range(1, 6):  # four corrections later the first is not kept any more
        order = merge(order, placed(version=version, person=msgspec.structs.replace(ANNA, name=f"Anna {version}")))
    assert sorted(p.name for p in order.persons.values()) == ["Anna 2", "Anna 3", "Anna 4", "Anna 5"]
    assert view(order).person.name == "Anna 5"


def test_a_failed_payment_that_is_told_after_a_captured_one_changes_nothing() -> None:
    for facts in itertools.permutations([placed(), failed(), captured()]):
        v = view(fold(facts))
        assert (v.paid_in_full, v.status.value) == (True, "payment_confirmed")


def test_a_zero_is_one_zero_whichever_sign_it_came_with() -> None:
    signed = [placed(signals={"ip_far": zero, "velocity": 2.0}) for zero in (0.0, -0.0)]
    assert encode(fold(signed)) == encode(fold(signed[::-1])) == encode(fold(signed[:1]))
