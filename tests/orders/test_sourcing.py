"""Where an order is sourced from: the least of all ways, found by trying every one; whatever the order; and what a table says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence, Set
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders import sourcing
from orders.fact import Address
from orders.sourcing import NOTHING, Choice, Item, Location, Rate, Table, Way, choose, parcel_way, serving, ways
from tests.orders.lives import DAY, HOUR, T0

BERLIN, VIENNA = Address(country="DE", postcode="10115"), Address(country="AT", postcode="1010")
Key = tuple[int, int, int, int, tuple[str, ...], tuple[tuple[str, str, str], ...]]


# --- the least of all, by trying every one
def tried(items: Sequence[Item], ways: Sequence[Way], split: int, promised: int, has: Set[tuple[str, str]]) -> tuple[Key, Any, Any] | None:
    """Every line at every location that `has` it, with every way from there. Shares nothing with `choose` but the words."""
    lines = sorted(items)
    able = [[p for p in {way.location for way in ways} if item.at in ("", p) and (item.line, p) in has] for item in lines]
    found: list[tuple[Key, Any, Any]] = []
    for places in itertools.product(*able):
        for taken in itertools.product(*([way for way in ways if way.location == place] for place in sorted(set(places)))):
            cost = 1000 * split * (len(taken) - 1)
            for way in taken:
                grams = sum(item.grams for item, place in zip(lines, places, strict=True) if place == way.location)
                cost += 1000 * way.base_minor + grams * way.per_kg_minor
            last = max(way.arrives for way in taken)
            late = max(0, last - promised) if promised else 0
            key = (late, cost, len(taken), last, places, tuple(sorted((way.location, way.carrier, way.service) for way in taken)))
            found.append((key, dict(zip((i.line for i in lines), places, strict=True)), {way.location: way for way in taken}))
    return min(found, default=None, key=lambda each: each[0])


names = st.sampled_from(["east", "north", "west"])
few = st.sampled_from([0, 1, 2, 5, 300, 700])  # so few that much is equal
any_way = st.builds(
    Way,
    location=names,
    carrier=st.sampled_from(["ups", "usps"]),
    service=st.sampled_from(["standard", "express"]),
    base_minor=few,
    per_kg_minor=few,
    arrives=st.sampled_from([T0 + DAY, T0 + 2 * DAY, T0 + 5 * DAY]),
)
some_ways = st.lists(any_way, min_size=1, max_size=7, unique_by=lambda way: way[:3])
some_items = st.lists(
    st.builds(Item, line=st.sampled_from("abcd"), grams=st.sampled_from([1, 250, 999, 1000]), at=st.sampled_from(["", "", "", "east"])),
    max_size=4,
    unique_by=lambda item: item.line,
)
splits, promises = st.sampled_from([0, 1, 150]), st.sampled_from([0, 0, T0, T0 + DAY, T0 + 2 * DAY, T0 + 9 * DAY])
pairs = st.sets(st.tuples(st.sampled_from("abcd"), names))


@given(some_items, some_ways, splits, promises, pairs)
def test_it_is_the_least_of_all_ways(items: list[Item], ways: list[Way], split: int, promised: int, short: set[tuple[str, str]]) -> None:
    chosen = choose(items, ways, split, promised, short)
    everywhere = {way.location for way in ways}
    bound = [item for item in items if item.at in everywhere or not item.at]
    may = {(item.line, place) for item in bound for place in everywhere if item.at in ("", place)}
    waits = {item.line for item in bound if not any((item.line, p) in may - short for p in everywhere)}
    if not bound:
        assert chosen == NOTHING
        return
    best = tried(bound, ways, split, promised, {pair for pair in may if pair not in short or pair[0] in waits})
    assert best is not None
    key, places, used = best
    assert (chosen.cost, chosen.places, chosen.ways) == (key[1], places, used)
    assert chosen.waits == waits and chosen.proven


@given(some_items, some_ways, splits, promises, pairs, st.randoms(use_true_random=False))
def test_the_order_of_rates_and_lines_changes_nothing(
    items: list[Item], ways: list[Way], split: int, promised: int, short: set[tuple[str, str]], rng: random.Random
) -> None:
    first = choose(items, ways, split, promised, short)
    rng.shuffle(items)
    rng.shuffle(ways)
    assert choose(items, ways, split, promised, short) == first


@given(some_items, some_ways, splits, promises, st.sets(st.tuples(st.sampled_from("abcd"), names), min_size=3))
def test_whoever_asks_the_best_and_learns_what_is_short_ends_with_the_best_of_what_there_is(
    items: list[Item], ways: list[Way], split: int, promised: int, has: set[tuple[str, str]]
) -> None:
    best = tried(items, ways, split, promised, has) if items else None
    short: set[tuple[str, str]] = set()
    while True:
        chosen = choose(items, ways, split, promised, short)
        missing = set(chosen.places.items()) - has - short
        if not missing:
            break
        short |= missing
    if best is not None:
        assert (chosen.places, chosen.ways, chosen.waits) == (best[1], best[2], frozenset())


# --- what is equal, and what is not
def way(location: str, base: int = 500, days: int = 2, **more: Any) -> Way:
    fields: dict[str, Any] = {"carrier": "ups", "service": "standard", "per_kg_minor": 0, "arrives": T0 + days * DAY, **more}
    return Way(location=location, base_minor=base, **fields)


A, B = Item("a", 1000), Item("b", 1000)


@pytest.mark.parametrize(
    ("what", "ways", "expected"),
    [
        ("the cheaper", [way("east", 600), way("west", 500)], {"a": "west", "b": "west"}),
        ("one parcel before two", [way("east", 0, per_kg_minor=7), way("west", 0, per_kg_minor=7)], {"a": "east", "b": "east"}),
        ("the earlier of two that cost the same", [way("east", days=3), way("west", days=2)], {"a": "west", "b": "west"}),
        ("the first by name when all else is equal", [way("west"), way("east")], {"a": "east", "b": "east"}),
    ],
)  # fmt: skip
def test_ties_have_one_answer(what: str, ways: list[Way], expected: dict[str, str]) -> None:
    assert choose([A, B], ways, 0, 0).places == expected, what


def test_ties_between_lines_go_by_their_names_in_whatever_order_they_come() -> None:
    able, items = [way("east"), way("north"), way("west")], [Item(line, 1) for line in "abc"]
    short = {("a", "east"), ("a", "north"), ("b", "east"), ("c", "west")}  # a: west; b: north or west; c: east or north
    for each in itertools.permutations(items):
        assert choose(each, able, 0, 0, short).places == {"a": "west", "b": "north", "c": "north"}, "not west, west, east"


def test_a_promise_is_kept_at_any_price_and_what_cannot_be_kept_is_missed_by_least() -> None:
    able = [way("east", 100, days=5), way("east", 900, days=2, service="express"), way("west", 2000, days=1)]
    assert choose([A, B], able, 0, 0).ways["east"].base_minor == 100
    assert choose([A, B], able, 0, T0 + 2 * DAY).ways["east"].service == "express"
    assert list(choose([A, B], able, 0, T0 + HOUR).ways) == ["west"], "nobody makes it: the earliest, at any price"


def test_lines_part_only_where_that_saves_more_than_the_split_costs() -> None:
    able = [way("east", 100, per_kg_minor=10), way("west", 100, per_kg_minor=400)]
    only_west = {("b", "east")}
    assert choose([A, B], able, 289, 0, only_west).places == {"a": "east", "b": "west"}
    assert choose([A, B], able, 290, 0, only_west).places == {"a": "west", "b": "west"}, "equal: fewer parcels"


def test_grams_are_counted_exactly() -> None:
    able = [way("east", 100, per_kg_minor=1), way("west", 101)]
    assert list(choose([Item("a", 999)], able, 0, 0).ways) == ["east"]
    assert choose([Item("a", 999)], able, 0, 0).cost == 100_999
    assert list(choose([Item("a", 1001)], able, 0, 0).ways) == ["west"]


def test_a_line_that_nobody_has_waits_and_the_others_go_on() -> None:
    able = [way("east"), way("west", 400)]
    chosen = choose([A, B], able, 100, 0, {("a", "east"), ("a", "west"), ("b", "west")})
    assert (chosen.waits, chosen.places) == ({"a"}, {"a": "east", "b": "east"})


def test_a_line_bound_to_where_nothing_goes_from_is_left_alone() -> None:
    assert choose([Item("a", 1, "attic")], [way("east")], 0, 0) == choose([A], [], 0, 0) == NOTHING


def test_a_search_that_takes_too_long_ends_with_one_answer_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    able, items = [way(f"hall-{n:02d}", 100 + n % 3) for n in range(40)], [Item(f"{n}", 100) for n in range(8)]
    short = {(item.line, way.location) for item in items for way in able if rng.random() < 0.6}
    assert choose(items, able, 0, 0).proven and choose(items, able, 0, 0, short).proven, "orders do not come near it"
    monkeypatch.setattr(sourcing, "LOOKS", 1_000)
    chosen = choose(items, able, 0, 0, short)
    assert not chosen.proven and set(chosen.places.items()).isdisjoint(short) and len(chosen.places) == 8
    for _ in range(8):
        rng.shuffle(able)
        assert choose(items[::-1], able, 0, 0, short) == chosen


def test_a_search_that_would_take_hours_ends() -> None:
    able, items = [way(f"hall-{n:02d}", 100 + n % 3) for n in range(40)], [Item(f"{n}", 100) for n in range(12)]
    short = {(item.line, way.location) for n, item in enumerate(items) for m, way in enumerate(able) if (n * 7 + m * 3) % 11}
    chosen = choose(items, able, 50, 0, short)
    assert not chosen.proven and set(chosen.places.items()).isdisjoint(short)


# --- the table
TABLE = Table(
    split_minor=100,
    unit_g=400,
    weights_g={"LAMP-1": 1200},
    locations=(Location("east", 4 * HOUR), Location("west")),
    rates=(
        Rate(carrier="ups", base_minor=900, transit_ms=3 * DAY),
        Rate(carrier="ups", base_minor=500, transit_ms=2 * DAY, to=("DE", "AT")),
        Rate(carrier="ups", base_minor=450, transit_ms=DAY, to=("DE-10", "DE-12"), location="east"),
        Rate(carrier="ups", base_minor=460, transit_ms=DAY, to=("DE-1",), location="east"),
        Rate(carrier="usps", service="express", base_minor=1900, transit_ms=DAY, location="west", to=("DE",)),
    ),
)


def rated(to: Address, **more: Any) -> set[tuple[str, str, int, int]]:
    return {(w.location, w.carrier, w.base_minor, w.arrives - T0) for w in ways(TABLE, to, T0, **more)}


@pytest.mark.parametrize("rates", [TABLE.rates, TABLE.rates[::-1]], ids=["listed so", "listed otherwise"])
def test_of_several_rates_the_most_exact_counts(rates: tuple[Rate, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TABLE", msgspec.structs.replace(TABLE, rates=rates))
    assert rated(BERLIN) == {("east", "ups", 450, 4 * HOUR + DAY), ("west", "ups", 500, 2 * DAY), ("west", "usps", 1900, DAY)}
    assert ("east", "ups", 460, 4 * HOUR + DAY) in rated(Address(country="de", postcode="1 4 0 0 0"))
    assert rated(VIENNA) == {("east", "ups", 500, 4 * HOUR + 2 * DAY), ("west", "ups", 500, 2 * DAY)}
    assert {base for _, _, base, _ in rated(Address(country="FR"))} == {base for _, _, base, _ in rated(Address())} == {900}


def test_what_is_packed_needs_no_handling_any_more() -> None:
    assert ("east", "ups", 450, DAY) in rated(BERLIN, packed=True)
    assert parcel_way(TABLE, BERLIN, "east", 1200, T0, 0, "standard") == Way("east", "ups", "standard", 450, 0, T0 + DAY)


def service_of(since: int, promised: int, ordered: str) -> str:
    """What takes a gram from west to Berlin."""
    way = parcel_way(TABLE, BERLIN, "west", 1, since, promised, ordered)
    assert way is not None
    return way.service


def test_without_a_promised_date_the_service_that_was_ordered_is_taken() -> None:
    every = ways(TABLE, BERLIN, T0)
    assert {w.service for w in serving(every, "express", 0)} == {"express"}
    assert serving(every, "express", T0 + 9 * DAY) == every, "what was promised is the date"
    assert serving(ways(TABLE, VIENNA, T0), "express", 0), "where there is no such rate, another"
    assert [service_of(T0, promised, "express") for promised in (0, T0 + 9 * DAY)] == ["express", "standard"]


def test_a_parcel_late_in_packing_goes_the_faster_way() -> None:
    promised = T0 + 2 * DAY
    assert service_of(T0, promised, "standard") == "standard"
    assert service_of(T0 + HOUR, promised, "standard") == "express"
    late = parcel_way(TABLE, BERLIN, "west", 1, T0 + 2 * DAY, promised, "standard")
    assert late is not None and late.service == "express", "too late anyway: the earliest"
    assert parcel_way(TABLE, BERLIN, "attic", 1, T0, 0, "standard") is None


@given(some_ways, st.sampled_from([1, 999]), promises, splits)
def test_a_parcel_s_way_is_the_choice_for_an_order_of_that_parcel(ways: list[Way], grams: int, promised: int, split: int) -> None:
    here = [w for w in ways if w.location == ways[0].location]
    best = tried([Item("", grams)], here, split, promised, {("", w.location) for w in here})
    chosen: Choice = choose([Item("", grams)], here, split, promised)
    assert best is not None and chosen.ways == best[2]
