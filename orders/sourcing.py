"""Where an order is sourced from, and which carrier's service takes each parcel: the cheapest way that keeps the promise. Pure.

A parcel costs what the retailer's table of rates says, and each parcel beyond the first costs the split besides. Of all ways to
give every line a location and every location in use a service, `choose` finds the least of, in this order:

1. when the last parcel arrives, as far as that is later than promised: a promise is kept at any price, and where none can keep
   it the earliest goes first; without a promise this says nothing;
2. the cost, in thousandths of a minor unit, so that grams times a price per kilogram is exact;
3. the number of parcels; when the last of them arrives; the locations' names, line by line; the carriers' and services' names.

No two ways are equal in all of these, so the order of rates, locations and lines changes nothing.

It is a search for the least set of (location, service) pairs, each line going to the cheapest pair of the set that may have it.
Sets are tried by size and cut off where even the cheapest rest costs more than the best found. In the worst case that still
takes exponential time, so it ends after `LOOKS`: then the best found so far stands, and says that nobody has proven it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import msgspec

from orders.fact import AT_MAX, Address

LOOKS = 50_000  # lines looked at, once for each set: some 20 ms; ordinary orders take a hundred
MILLI = 1000  # what a cost counts in a minor unit, and grams in a kilogram


class Location(msgspec.Struct, frozen=True):
    name: str
    handling_ms: int = 0  # from when an order may be picked to when its parcel leaves


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """What a carrier takes for a parcel. Of several that fit one location, carrier and service the most exact counts."""

    carrier: str
    service: str = "standard"
    location: str = ""  # it leaves from; empty: any
    to: tuple[str, ...] = ()  # "DE", or "DE-10" for postcodes that begin so; empty: anywhere
    base_minor: int
    per_kg_minor: int = 0
    transit_ms: int


class Table(msgspec.Struct, frozen=True, dict=True, kw_only=True):
    """What the retailer knows of locations and rates, all in one currency. Without rates nothing is chosen."""

    currency: str = "EUR"  # of all its prices; only compared with each other
    split_minor: int = 0  # what each parcel beyond the first costs besides
    unit_g: int = 500  # what a unit weighs where `weights_g` does not say it
    weights_g: dict[str, int] = {}  # by SKU
    locations: tuple[Location, ...] = ()
    rates: tuple[Rate, ...] = ()

    @cached_property
    def handling(self) -> dict[str, int]:
        return {location.name: location.handling_ms for location in self.locations}

    @cached_property
    def bound(self) -> dict[str, list[tuple[str, Rate]]]:
        """country ("": any) -> (beginning of the postcode, rate)"""
        found: dict[str, list[tuple[str, Rate]]] = {}
        for rate in self.rates:
            for goal in rate.to or ("",):
                country, _, postcode = goal.partition("-")
                found.setdefault(country, []).append((postcode, rate))
        return found

    def grams(self, sku: str) -> int:
        return self.weights_g.get(sku, self.unit_g)


class Way(NamedTuple):
    """How a parcel may leave a location."""

    location: str
    carrier: str
    service: str
    base_minor: int
    per_kg_minor: int
    arrives: int  # ms

    def cost(self, grams: int) -> int:
        """In thousandths of a minor unit."""
        return self.base_minor * MILLI + self.per_kg_minor * grams


class Item(NamedTuple):
    """What of one line is to leave together."""

    line: str
    grams: int
    at: str = ""  # the only location that may have it; empty: any


class Choice(NamedTuple):
    places: dict[str, str]  # line -> location; a line bound to where nothing goes from is not in it
    ways: dict[str, Way]  # location in use -> how its parcel leaves
    waits: frozenset[str]  # lines that are short wherever they could come from
    cost: int  # thousandths of a minor unit
    proven: bool  # that nothing is better


NOTHING = Choice({}, {}, frozenset(), 0, True)


def ways(table: Table, to: Address, since: int, packed: bool = False) -> list[Way]:
    """Every way to an address for what may be picked, or is `packed`, since then."""
    country, postcode = to.country.strip().upper(), "".join(to.postcode.upper().split())
    best: dict[tuple[str, str, str], tuple[tuple[int, bool, bool], Rate]] = {}
    for goal in (country, "") if country else ("",):
        for beginning, rate in table.bound.get(goal, ()):
            if postcode.startswith(beginning):
                exact = (len(beginning), bool(goal), bool(rate.location))
                for location in (rate.location,) if rate.location else table.handling:
                    key = (location, rate.carrier, rate.service)
                    if key not in best or exact > best[key][0]:
                        best[key] = (exact, rate)
    found = []
    for (location, carrier, its), (_, rate) in best.items():
        leaves = since if packed else since + table.handling.get(location, 0)
        found.append(Way(location, carrier, its, rate.base_minor, rate.per_kg_minor, leaves + rate.transit_ms))
    return found


def serving(ways: Sequence[Way], service: str, promised: int) -> Sequence[Way]:
    """What was ordered: with a promised date whatever keeps it, else the service that was ordered, where there is such a way."""
    return ways if promised else [way for way in ways if way.service == service] or ways


def choose(
    items: Iterable[Item], ways: Sequence[Way], split_minor: int, promised: int, short: Set[tuple[str, str]] = frozenset()
) -> Choice:
    """The least way to send these. `short`: (line, location) that are known to have none; a line that all are short of waits anywhere."""
    everywhere = {way.location for way in ways}
    bound = sorted(item for item in items if not item.at or item.at in everywhere)
    if not bound or not ways:
        return NOTHING
    may: list[Set[str]] = []
    waits: set[str] = set()
    for item in bound:
        places = {item.at} if item.at else everywhere
        has = {place for place in places if (item.line, place) not in short}
        if not has:
            waits.add(item.line)
        may.append(has or places)
    soonest: dict[str, int] = {}
    for way in ways:
        soonest[way.location] = min(way.arrives, soonest.get(way.location, AT_MAX))
    ends = max(min(soonest[place] for place in places) for places in may)
    until = max(promised, ends) if promised else AT_MAX
    search = _Search(bound, may, [way for way in ways if way.arrives <= until], split_minor * MILLI)
    cost, places_of, used = search.least()
    return Choice(places_of, used, frozenset(waits), cost, search.looks < LOOKS)


def parcel_way(table: Table, to: Address, location: str, grams: int, since: int, promised: int, service: str) -> Way | None:
    """How a packed parcel leaves a location, by the same rules; None: the table knows no way."""
    here = [way for way in ways(table, to, since, packed=True) if way.location == location]
    return choose([Item("", grams)], serving(here, service, promised), 0, promised).ways.get(location)


_Key = tuple[int, int, int, tuple[str, ...], tuple[tuple[str, str, str], ...]]


class _Search:
    def __init__(self, items: list[Item], may: list[Set[str]], ways: list[Way], split: int) -> None:
        self.items, self.may, self.split = items, may, split
        self.ways = sorted(ways, key=lambda way: (way.base_minor, way))
        self.bases = [0, *accumulate(way.base_minor * MILLI for way in self.ways)]  # sums of the first so many
        self.rest = sum(
            min(way.per_kg_minor for way in self.ways if way.location in places) * item.grams
            for item, places in zip(items, may, strict=True)
        )  # what the weights cost at least
        self.best: tuple[_Key, dict[str, str], dict[str, Way]] | None = None
        self.looks = 0

    def least(self) -> tuple[int, dict[str, str], dict[str, Way]]:
        """Its cost, line -> location, location -> way."""
        cheapest = {way.location: way for way in reversed(self.ways)}
        self.consider(list(cheapest.values()))  # something to begin with
        for size in range(1, min(len(self.items), len(cheapest)) + 1):
            assert self.best is not None
            if self.floor(0, size, size, 0) >= self.best[0][0] and size > self.best[0][1]:
                break
            self.extend([], 0, size, 0)
        assert self.best is not None
        (cost, *_), places, used = self.best
        return cost, places, used

    def floor(self, start: int, more: int, size: int, spent: int) -> int:
        """What a set of `size` costs at least, when `more` of the ways from `start` on join those whose bases are `spent`."""
        return spent + self.bases[start + more] - self.bases[start] + self.split * (size - 1) + self.rest

    def extend(self, chosen: list[Way], start: int, size: int, spent: int) -> None:
        more = size - len(chosen)
        if not more:
            self.consider(chosen)
            return
        for n in range(start, len(self.ways) - more + 1):
            assert self.best is not None
            if (self.floor(n, more, size, spent), size) > self.best[0][:2] or self.looks >= LOOKS:
                return
            way = self.ways[n]
            if all(other.location != way.location for other in chosen):
                self.extend([*chosen, way], n + 1, size, spent + way.base_minor * MILLI)

    def consider(self, chosen: list[Way]) -> None:
        """Each line to the cheapest of these; what none of them goes to is none of them."""
        self.looks += len(self.items)
        cost = 0
        places: dict[str, str] = {}
        for item, may in zip(self.items, self.may, strict=True):
            able = [(way.per_kg_minor * item.grams, way.location) for way in chosen if way.location in may]
            if not able:
                return
            each, places[item.line] = min(able)
            cost += each
        used = {way.location: way for way in chosen if way.location in places.values()}
        cost += sum(way.base_minor for way in used.values()) * MILLI + self.split * (len(used) - 1)
        last = max(way.arrives for way in used.values())
        key = (cost, len(used), last, tuple(places.values()), tuple(sorted(way[:3] for way in used.values())))
        if self.best is None or key < self.best[0]:
            self.best = (key, places, used)
