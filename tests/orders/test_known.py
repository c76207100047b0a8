"""What is called known would have changed nothing that matters; what was taken in is known."""

from __future__ import annotations

from functools import reduce

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from orders.fact import Fact, encode_fact
from orders.known import knows, knows_level, knows_link, waits_for
from orders.merge import key_hash, merge, retire
from orders.reference import Reference, Settled, adopt, fact_id
from orders.reference import merge as merge_reference
from orders.request import FactWaiting, ReferenceLinked, StockLevelReported, StockRequested, StockShipped
from orders.state import Key, Order, Remnant, sane
from orders.stock import Reserved, Stock
from orders.stock import adopt as adopt_stock
from orders.stock import merge as merge_stock
from orders.view import view
from tests.orders.lives import EACH, LIFE, ORDER, T0, captured, reports, variants

HOUR = 3_600_000


def of(facts: list[Fact]) -> Order:
    return reduce(merge, facts, Order(ORDER))


def key(fact: Fact) -> Key:
    return (type(fact).__name__, fact.system, fact.object)


def told(order: Order) -> dict[Key, tuple[object, ...]]:
    """By natural key what is believed, but for when it was."""
    passing = {"at", "v", "order", "backfilled"}
    return {
        name: (sane(its[0]), *(getattr(its[0], field) for field in its[0].__struct_fields__ if field not in passing))
        for name, its in order.facts.items()
    }


@given(known=reports, fact=st.sampled_from(EACH).flatmap(variants))
def test_what_is_known_changes_nothing_and_what_was_merged_is_known(known: list[Fact], fact: Fact) -> None:
    order = of(known)
    merged = merge(order, fact)
    if knows(order, fact):
        assert told(merged) == told(order)
        assert (view(merged).status, view(merged).paid, view(merged).refunded) == (
            view(order).status,
            view(order).paid,
            view(order).refunded,
        )
    else:
        assert merged != order
    assert knows(merged, fact) and all(knows(order, each) for each in known)


def test_an_order_nobody_has_heard_of_knows_nothing() -> None:
    assert not any(knows(None, fact) for fact in EACH)


def test_a_remnant_knows_what_it_stands_for_and_no_more() -> None:
    order = of(list(LIFE))
    retire(order, Remnant(at=T0, status="delivered", covered=tuple(sorted(key_hash(key(fact)) for fact in LIFE))))
    assert not order.facts and all(knows(order, fact) for fact in LIFE)
    assert not knows(order, captured(object="pi_2"))


def test_a_time_that_cannot_be_is_not_known_for_one_that_can() -> None:
    order = merge(Order(ORDER), captured(at=5))
    assert not knows(order, captured())


# --- references
LINK = ReferenceLinked(at=T0, kind="payment", value="pi_1", order=ORDER, since=T0)
FACT = msgspec.structs.replace(captured(), order="")
WAITING = FactWaiting(at=T0, kind="payment", value="pi_1", fact=msgspec.Raw(encode_fact(FACT)))
LATER = FactWaiting(at=T0, kind="payment", value="pi_1", fact=msgspec.Raw(encode_fact(msgspec.structs.replace(FACT, at=FACT.at + 5))))


def test_a_link_is_known_by_what_it_links_and_not_by_when_it_was_said() -> None:
    reference = Reference()
    assert not knows_link(None, LINK) and not knows_link(reference, LINK)
    merge_reference(reference, LINK)
    assert knows_link(reference, LINK) and knows_link(reference, msgspec.structs.replace(LINK, at=T0 + 5))
    assert not knows_link(reference, msgspec.structs.replace(LINK, at=T0 + 5, until=T0 + HOUR))
    assert not knows_link(reference, msgspec.structs.replace(LINK, order="lumi:2"))
    assert knows_link(reference, msgspec.structs.replace(LINK, at=T0 - 5, until=T0 + HOUR)), "an older word"


def test_a_fact_waits_or_goes_to_its_order_or_is_new() -> None:
    reference = Reference()
    assert waits_for(None, WAITING) is False and waits_for(reference, WAITING) is False
    merge_reference(reference, WAITING)
    assert waits_for(reference, WAITING) is True and waits_for(reference, LATER) is True, "told again with another time"
    parked = Reference()
    adopt(parked, Settled(key="payment:pi_1", at=T0, fact=fact_id(bytes(WAITING.fact))))
    assert waits_for(parked, WAITING) is True and waits_for(parked, LATER) is False
    merge_reference(reference, LINK)
    assert waits_for(reference, WAITING) == ORDER
    merge_reference(reference, msgspec.structs.replace(LINK, order="lumi:2"))
    assert waits_for(reference, WAITING) is True and waits_for(reference, LATER) is True


# --- stock
def level(on_hand: int, at: int = T0, version: int = 0) -> StockLevelReported:
    return StockLevelReported(at=at, sku="mug", location="main", on_hand=on_hand, system="wms", version=version)


def test_a_level_is_known_when_it_is_what_lies_there_by_our_count() -> None:
    stock = Stock()
    assert not knows_level(None, level(5)) and not knows_level(stock, level(0))
    merge_stock(stock, level(5))
    assert (
        knows_level(stock, level(5, T0 + HOUR)) and not knows_level(stock, level(4, T0 + HOUR)) and knows_level(stock, level(4, T0 - HOUR))
    )
    merge_stock(stock, StockRequested(at=T0, effect="e", order=ORDER, line="1", sku="mug", location="main", quantity=2))
    adopt_stock(stock, Reserved(key="mug@main", at=T0 + 1, request="e", quantity=2))
    merge_stock(stock, StockShipped(at=T0 + 2, request="e", sku="mug", location="main", quantity=2))
    assert knows_level(stock, level(3, T0 + HOUR)) and not knows_level(stock, level(5, T0 + HOUR))
