"""The bytes of a state: canonical, versioned, short."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import orders.state
from orders.compact import NUMBERS, TWINS, compact, whole
from orders.fact import AnyFact, Fact, decode_fact
from orders.journal import Closed, Decided, adopt
from orders.merge import merge
from orders.state import STATE_VERSION, NewerState, Order, contradictory, decode, encode
from tests.orders.lives import EACH, LIFE, ORDER, T0, placed
from tests.orders.test_journal import ENTRIES, decision


def test_a_state_survives_its_bytes() -> None:
    order = Order(ORDER)
    for fact in EACH:
        order = merge(order, fact)
        again = decode(encode(order))
        assert again == order
        assert list(again.facts) == list(order.facts)
        assert again.persons == order.persons


def test_a_life_of_five_facts_with_decision_and_effects_takes_at_most_1100_bytes() -> None:
    order = Order(ORDER)
    for fact in (LIFE[0], LIFE[1], LIFE[2], LIFE[5], LIFE[7]):
        order = merge(order, fact)
    names = ("notify.email order_placed", "notify.email payment_confirmed", "notify.email shipped P1", "notify.sms shipped P1")
    order = adopt(order, Closed(at=T0, effects=names))
    order = adopt(
        order,
        Closed(at=T0 + 1, effects=("notify.push shipped P1", "notify.email delivered", "notify.push delivered", "stock.reserve paid 1")),
    )
    order = adopt(order, Decided(at=T0, decision=decision(4)))
    assert len(encode(order)) <= 1100


def test_a_state_of_a_newer_layout_is_refused_with_its_version() -> None:
    blob = encode(merge(Order(ORDER), placed()))
    with pytest.raises(NewerState, match=f"version {STATE_VERSION + 1}"):
        decode(bytes([STATE_VERSION + 1]) + blob[1:])


def test_every_kind_of_fact_has_a_number_of_its_own_and_a_compact_form() -> None:
    kinds = set(AnyFact.__args__)
    assert kinds == set(NUMBERS) == set(TWINS)
    assert len(set(NUMBERS.values())) == len(kinds)


GOLDEN = Path(__file__).parent / "golden"


def test_facts_and_states_of_every_older_version_are_read_as_what_they_were() -> None:
    """When a version is added, its files are added beside these, which are never written again; kinds added since stand at the end."""
    reports = [decode_fact(line) for line in (GOLDEN / "facts-1.jsonl").read_bytes().splitlines()]
    assert reports == list(EACH[: len(reports)])
    order = Order(ORDER)
    for piece in (*reports, *ENTRIES):
        order = merge(order, piece) if isinstance(piece, Fact) else adopt(order, piece)
    assert encode(order).hex() == (GOLDEN / "state-1.hex").read_text().strip()


@pytest.mark.parametrize("fact", EACH, ids=lambda f: f"{type(f).__name__}-{f.object}")
def test_a_compact_fact_is_the_same_fact_without_order_and_person(fact: Fact) -> None:
    small = compact(fact)
    assert isinstance(small, type(fact))
    assert small.order == ""
    assert whole(small, ORDER, getattr(fact, "person", None)) == fact
    assert compact(small) is small


def test_a_different_person_behind_the_same_report_is_a_contradiction() -> None:
    other = msgspec.structs.replace(placed(), person=None)
    assert contradictory([compact(placed()), compact(other)])


def test_an_effect_whose_name_came_later_is_told_from_bytes_that_are_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(ORDER)
    order.closed = {"stock.check placed 8": 7, "stock.reserve paid 1": 7}
    blob = encode(order)
    assert decode(blob).closed == order.closed
    monkeypatch.setattr("orders.state._NAMES", orders.state._NAMES[:-1])
    with pytest.raises(NewerState, match=r"names of effects that came later.*upgrade it"):
        decode(blob)


def test_a_kind_of_fact_that_came_later_is_told_from_bytes_that_are_no_state() -> None:
    blob = encode(merge(Order(ORDER), compact(EACH[-1])))
    number = NUMBERS[type(EACH[-1])]
    assert blob.count(bytes([0x9A, number])) == 1
    with pytest.raises(NewerState, match=r"a kind of fact that came later.*upgrade it"):
        decode(blob.replace(bytes([0x9A, number]), bytes([0x9A, 0x7F])))
    with pytest.raises(msgspec.ValidationError):
        decode(blob.replace(b"stripe:lumi", b"stripe:lum\x01")[:-4] + b"\x01\x01\x01\x01")
