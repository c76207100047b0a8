"""Orders that are sourced by a table of rates, through the orders lane and the stock lane, whoever of them answers when."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.features import features
from orders.allocation import sourced, sure_at
from orders.decision import Decision
from orders.effect import Outcome
from orders.fact import Address, Fact, Line, LinesCancelled, Person, Quantity, StockShort, encode_fact
from orders.journal import Decided, adopt
from orders.merge import merge
from orders.plan import plan
from orders.policy import Policy
from orders.request import StockLevelReported
from orders.sourcing import Item, Location, Rate, Table, ways
from orders.state import Order
from orders.stock import Stock
from orders.view import View, view
from orders.warehouse import stages
from streams.orders import OrdersProcessor
from streams.processor import Inputs, Outgoing, Record, Scores
from streams.stock import StockProcessor
from tests.orders.lives import DAY, HOUR, MINUTE, T0, authorized, cancel, captured, packed, picked, placed, reserved, review, short
from tests.orders.test_sourcing import tried

TO = Person(name="Zoe", email="zoe@example.invalid", address=Address(lines=("Weg 1",), city="Berlin", postcode="10115", country="DE"))
TABLE = Table(
    split_minor=150,
    unit_g=1000,
    locations=(Location("east"), Location("west"), Location("north", DAY)),
    rates=(
        Rate(carrier="ups", location="east", base_minor=400, per_kg_minor=50, transit_ms=2 * DAY),
        Rate(carrier="usps", location="west", base_minor=500, per_kg_minor=40, transit_ms=3 * DAY),
        Rate(carrier="ups", service="express", location="west", base_minor=1200, per_kg_minor=40, transit_ms=DAY),
        Rate(carrier="ups", location="north", base_minor=700, transit_ms=2 * DAY),
    ),
)
POLICY = Policy(sourcing=TABLE, default_location="east", retire_after_ms=0, repeat_ms=DAY)
PLACES = ("east", "west", "north")
LINES = tuple(Line(line=f"{n}", sku=f"SKU-{n}", quantity=1, price=1000) for n in (1, 2, 3))


class Live:
    version = 1

    def __init__(self) -> None:
        self.modes: dict[str, str] = {}

    def mode(self, channel: str) -> str:
        return self.modes.get(channel, "live")

    def take(self, channel: str) -> bool:
        return True

    def retry_at(self, channel: str, now: int) -> int:
        return now + MINUTE


class Lanes:
    """Both lanes, and the records on their way between them, taken in any order that keeps those of one key in theirs."""

    def __init__(self, rng: random.Random, policy: Policy = POLICY) -> None:
        self.rng, self.policy, self.now, self.offset = rng, policy, T0 + HOUR, 0
        self.processors: dict[str, Any] = {"facts": OrdersProcessor(features, policy), "stock": StockProcessor()}
        self.live = Live()
        self.states: dict[str, dict[str, bytes]] = {"facts": {}, "stock": {}}
        self.way: list[tuple[str, str, bytes]] = []
        self.asked: dict[str, list[dict[str, Any]]] = {}  # effect -> records that asked for it
        self.told: dict[str, set[str]] = {}  # template, or what a notice is about -> effects
        self.claimed: list[dict[str, Any]] = []
        self.statuses: set[str] = set()
        self.shown: set[str] = set()  # locations whose clerks were shown it, to be picked
        self.gaps: list[str] = []  # a line that had been reserved, and was without a reservation for a while

    def hear(self, *facts: Fact) -> None:
        self.way += [("facts", fact.order, encode_fact(fact)) for fact in facts]

    def count(self, levels: Mapping[tuple[str, str], int]) -> None:
        for (sku, place), units in levels.items():
            level = StockLevelReported(at=self.now, sku=sku, location=place, on_hand=units, system="wms", version=self.offset + 1)
            self.way.append(("stock", f"{sku}@{place}", msgspec.json.encode(level)))

    def rest(self) -> None:
        for _ in range(2_000):
            if not self.way:
                return
            self.take()
        raise AssertionError("it never comes to rest")

    def take(self) -> None:
        key = self.rng.choice(sorted({its[:2] for its in self.way}))
        self.turn(*self.way.pop(next(n for n, its in enumerate(self.way) if its[:2] == key)))

    def turn(self, topic: str, key: str, value: bytes, outcomes: tuple[Outcome, ...] = ()) -> None:
        processor, kept = self.processors[topic], self.states[topic]
        self.now += self.rng.randrange(3)  # several things happen in one millisecond
        self.offset += 1
        states = {known: processor.decode(blob) for known, blob in kept.items()}
        records = [Record(self.offset, key.encode(), value, self.now)] if value else []
        asked = processor.ask(states, Inputs(topic, 0, records, outcomes=list(outcomes)), self.now)
        scores = None
        if asked.questions is not None:
            zero = np.zeros(len(asked.questions.rows), np.float32)
            scores = Scores(zero, zero, zero, zero, zero, [()] * len(zero), "toy", False)
        result = processor.answer(asked, scores, self.now, self.live)
        assert not asked.parked and not result.parked
        before = {known: view(state).reserved for known, state in states.items()} if topic == "facts" else {}
        kept |= {known: processor.encode(state) for known, state in result.states.items()}
        for known, lines in before.items():
            v = self.view(known)
            self.statuses.add(v.status.value)
            self.shown |= {location for stage, location in stages(v) if stage == "to_pick"}
            self.gaps += [line for line in lines if line not in v.reserved and not v.cancelled and line not in v.cancelled_lines]
        for out in result.outbox:
            self.send(out)
        for claim in result.claims:
            data = msgspec.json.decode(claim.body)
            self.claimed.append({"event": data["event"], "order": data["order"], **data["data"]})
            self.told.setdefault(data["data"].get("about", ""), set()).add(claim.effect)
            self.turn("facts", key, b"", (Outcome(key=claim.key, effect=claim.effect, attempt=claim.attempt, kind="sent", at=self.now),))

    def send(self, out: Outgoing) -> None:
        record = msgspec.json.decode(out.value)
        if out.topic == "stock":
            if record["type"] == "StockRequested":
                self.asked.setdefault(record["effect"], []).append(record)
            self.way.append((out.topic, out.key, out.value))
        elif out.topic == "facts":
            self.way.append((out.topic, out.key, out.value))
        elif record["type"] == "MessageRequested":
            self.told.setdefault(record["template"], set()).add(record["effect"])

    # --- what is there
    def order(self, id: str = "lumi:1") -> Order:
        found: Order = self.processors["facts"].decode(self.states["facts"][id])
        return found

    def view(self, id: str = "lumi:1") -> View:
        return view(self.order(id))

    def places(self, id: str = "lumi:1") -> dict[str, str]:
        return {line: f.location for line, f in self.view(id).reserved.items()}

    def stocks(self) -> dict[str, Stock]:
        return {key: self.processors["stock"].decode(blob) for key, blob in self.states["stock"].items()}

    def held(self) -> Counter[str]:
        return Counter({key: stock.held for key, stock in self.stocks().items() if stock.held})

    def waiting(self) -> set[str]:
        return {key for key, stock in self.stocks().items() if stock.waiting}

    def said(self, what: str) -> int:
        return len(self.told.get(what, ()))

    def picks(self) -> list[tuple[str, str]]:
        return sorted((c["order"], c["location"]) for c in self.claimed if c["event"] == "warehouse.pick")


def bought(id: str = "lumi:1", lines: tuple[Line, ...] = LINES[:2], **more: Any) -> tuple[Fact, Fact]:
    its = {"order": id, "object": id}
    return placed(lines=lines, person=TO, number=id[5:], promised=0, **its, **more), captured(**its)


def full(*without: tuple[str, str]) -> dict[tuple[str, str], int]:
    """A unit of everything everywhere, but for these (SKU, location)."""
    return {(line.sku, place): 0 if (line.sku, place) in without else 1 for line in LINES for place in PLACES}


def lanes(levels: Mapping[tuple[str, str], int], seed: int = 0, policy: Policy = POLICY) -> Lanes:
    made = Lanes(random.Random(seed), policy)
    made.count(levels)
    made.rest()
    return made


# --- one order
def test_what_is_there_is_reserved_at_the_cheapest_location_and_picked_there_once() -> None:
    its = lanes(full())
    its.hear(*bought())
    its.rest()
    assert its.places() == {"1": "east", "2": "east"} and its.picks() == [("lumi:1", "east")]
    assert [(c["service"], c["carrier"]) for c in its.claimed] == [("standard", "ups")]
    assert {name for name in its.order().ledger if "stock" in name} == {"stock.reserve paid 1", "stock.reserve paid 2"}, (
        "as without a table"
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_short_at_one_location_comes_from_another_and_nobody_is_told(seed: int) -> None:
    its = lanes(full(("SKU-1", "east")), seed)
    its.hear(*bought())
    its.rest()
    assert its.places() == {"1": "west", "2": "west"} and its.picks() == [("lumi:1", "west")]
    assert its.held() == {"SKU-1@west": 1, "SKU-2@west": 1} and not its.waiting()
    assert not its.gaps, "what was reserved is given back once the other is"
    assert its.said("backordered") == its.said("stock_shortage_risk") == 0 and "backordered" not in its.statuses
    assert its.shown <= {"west"}


@pytest.mark.parametrize("seed", range(20))
def test_what_lies_apart_is_picked_once_at_each_location(seed: int) -> None:
    apart = full(("SKU-1", "west"), ("SKU-1", "north"), ("SKU-2", "east"), ("SKU-2", "north"))
    its = lanes(apart, seed)
    its.hear(*bought())
    its.rest()
    assert its.places() == {"1": "east", "2": "west"} and its.picks() == [("lumi:1", "east"), ("lumi:1", "west")]
    lists = {c["location"]: ([line["line"] for line in c["lines"]], c["carrier"]) for c in its.claimed if c["event"] == "warehouse.pick"}
    assert lists == {"east": (["1"], "ups"), "west": (["2"], "usps")}
    assert its.held() == {"SKU-1@east": 1, "SKU-2@west": 1} and not its.waiting() and not its.gaps


@pytest.mark.parametrize("seed", range(20))
def test_what_nobody_has_waits_in_every_queue_and_the_first_to_have_it_sends_it(seed: int) -> None:
    its = lanes(full(*(("SKU-1", place) for place in PLACES)), seed)
    its.hear(*bought())
    its.rest()
    assert its.places() == {"2": "east"} and set(its.view().short) == {"1"}
    assert its.waiting() == {f"SKU-1@{place}" for place in PLACES} and not its.picks()
    assert (its.said("backordered"), its.said("stock_shortage_risk")) == (1, 1)
    its.count({("SKU-1", "north"): 1})
    its.rest()
    assert its.places() == {"1": "north", "2": "north"} and its.picks() == [("lumi:1", "north")]
    assert its.held() == {"SKU-1@north": 1, "SKU-2@north": 1} and not its.waiting() and not its.gaps
    assert its.said("backordered") == 1


levels = st.fixed_dictionaries({(line.sku, place): st.sampled_from([0, 1, 1]) for line in LINES for place in PLACES})


@settings(max_examples=150, deadline=None)
@given(levels, st.sampled_from([0, T0 + 2 * DAY + HOUR, T0 + 30 * DAY]), st.integers(0, 1 << 30), st.sampled_from(["", "west"]))
def test_whatever_is_there_it_ends_with_the_best_that_could_be(
    there: dict[tuple[str, str], int], promised: int, seed: int, bound: str
) -> None:
    lines = (msgspec.structs.replace(LINES[0], location=bound), *LINES[1:])
    its = lanes(there, seed)
    order, paid = bought(lines=lines)
    its.hear(msgspec.structs.replace(order, promised=promised), paid)
    its.rest()
    able, items = ways(TABLE, TO.address, T0 + MINUTE), [Item(line.line, 1000, line.location) for line in lines]
    has = {(line.line, place) for line in lines for place in PLACES if there[line.sku, place]}
    nowhere = {i.line for i in items if not any((i.line, place) in has and i.at in ("", place) for place in PLACES)}
    best = tried(items, able, 150, promised, has | {(line, place) for line in nowhere for place in PLACES})
    assert best is not None
    assert its.places() == {line: place for line, place in best[1].items() if line not in nowhere}
    v = its.view()
    assert set(v.short) == nowhere and not v.moving and its.said("backordered") == bool(nowhere)
    assert its.picks() == ([] if nowhere else [("lumi:1", place) for place in sorted(best[2])])
    assert its.held() == Counter(f"{lines[int(line) - 1].sku}@{place}" for line, place in its.places().items())
    assert not its.gaps and all(len({r["location"] for r in records}) == 1 for records in its.asked.values())


# --- many orders
@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries({(line.sku, place): st.integers(0, 3) for line in LINES for place in PLACES}),
    st.lists(st.sets(st.sampled_from(range(3)), min_size=1), min_size=2, max_size=5),
    st.sets(st.integers(0, 4)),
    st.integers(0, 1 << 30),
)
def test_orders_that_race_leave_no_unit_behind_and_each_is_whole_or_waits_everywhere(
    there: dict[tuple[str, str], int], orders: list[set[int]], cancelled: set[int], seed: int
) -> None:
    its = lanes(there, seed)
    for n, lines in enumerate(orders):
        its.hear(*bought(f"lumi:{n}", tuple(LINES[i] for i in sorted(lines))))
        if n in cancelled:
            its.hear(msgspec.structs.replace(cancel(at=T0 + HOUR), order=f"lumi:{n}"))
    its.rest()
    kept: Counter[str] = Counter()
    for n, wanted in enumerate(orders):
        v, places = its.view(f"lumi:{n}"), its.places(f"lumi:{n}")
        assert not v.moving
        if n in cancelled:
            assert not places and not v.short
        else:
            assert {*places, *v.short} == {LINES[i].line for i in wanted}
            assert its.picks() == [pick for pick in its.picks() if pick[0] != f"lumi:{n}" or not v.short]
        kept.update(f"SKU-{line}@{place}" for line, place in places.items())
    assert its.held() == kept
    assert all(kept[f"{sku}@{place}"] <= units for (sku, place), units in there.items())
    if not any(n not in cancelled and its.view(f"lumi:{n}").short for n in range(len(orders))):
        assert not its.waiting()
    assert all(len({(r["line"], r["location"]) for r in records}) == 1 for records in its.asked.values())


# --- what does not move
GONE = LinesCancelled(order="lumi:1", system="shopify:lumi", object="lc", at=T0 + 2 * HOUR, lines=(Quantity(line="1", quantity=1),))


def test_once_a_pick_list_is_out_nothing_moves_whatever_would_be_cheaper_now() -> None:
    its = lanes(full(("SKU-1", "east")))
    its.hear(*bought())
    its.rest()
    assert its.picks() == [("lumi:1", "west")]
    its.hear(GONE)
    its.rest()
    assert its.places() == {"2": "west"} and its.held() == {"SKU-2@west": 1}
    its.hear(msgspec.structs.replace(picked(location="west"), order="lumi:1"), msgspec.structs.replace(packed("P1"), order="lumi:1"))
    its.rest()
    assert its.places() == {"2": "west"} and its.picks() == [("lumi:1", "west")]


def test_what_is_about_to_move_is_not_picked_where_it_lies() -> None:
    order = Order("lumi:1")
    there = [reserved(line, location="west", order="lumi:1") for line in LINES[:2]]
    for fact in (*bought(), short(LINES[0], location="east", order="lumi:1"), *there):
        order = merge(order, fact)
    order = adopt(order, Decided(at=T0, decision=Decision(number=1, at=T0, verdict="approve", by="model", knew=b"", since=T0)))
    assert "warehouse.pick in_progress west" in plan(view(order), order, POLICY).effects
    order = merge(order, GONE)
    wants = plan(view(order), order, POLICY).effects
    assert "stock.reserve paid 2" in wants and "warehouse.pick in_progress west" not in wants


def test_before_that_what_becomes_cheaper_is_moved_to() -> None:
    its = lanes(full(("SKU-1", "west"), ("SKU-1", "north"), ("SKU-3", "east"), ("SKU-3", "west"), ("SKU-3", "north")))
    its.hear(*bought(lines=LINES))
    its.rest()
    assert its.places() == {"1": "east", "2": "east"} and not its.picks(), "SKU-3 waits"
    its.count({("SKU-3", "west"): 1})
    its.hear(GONE)
    its.rest()
    assert its.places() == {"2": "west", "3": "west"} and its.held() == {"SKU-2@west": 1, "SKU-3@west": 1} and not its.gaps


@pytest.mark.parametrize("seed", range(10))
def test_an_order_that_is_cancelled_while_it_moves_gives_everything_back(seed: int) -> None:
    its = lanes(full(("SKU-1", "east")), seed)
    its.hear(*bought())
    for _ in range(seed + 2):
        if its.way:
            its.take()
    its.hear(msgspec.structs.replace(cancel(at=T0 + HOUR), order="lumi:1"))
    its.rest()
    assert not its.held() and not its.waiting() and not its.places()


# --- names
@pytest.mark.parametrize("first", [POLICY, msgspec.structs.replace(POLICY, sourcing=Table())], ids=["dropped", "introduced"])
@pytest.mark.parametrize("place", ["east", "west"])
def test_a_table_that_is_introduced_or_dropped_leaves_orders_in_the_works_alone(first: Policy, place: str) -> None:
    second = msgspec.structs.replace(POLICY, sourcing=Table() if first is POLICY else TABLE)
    lines = tuple(msgspec.structs.replace(line, location=place if first is not POLICY else "") for line in LINES[:2])
    its = lanes(full(*(("SKU-1", "east") for _ in "x" if place == "west")), policy=first)
    its.hear(*bought(lines=lines))
    its.rest()
    asked = dict(its.asked)
    assert its.places() == {"1": place, "2": place}
    its.processors["facts"] = OrdersProcessor(features, second)
    its.hear(*bought(lines=lines, tier="vip", version=2))
    its.rest()
    assert its.places() == {"1": place, "2": place} and its.asked == asked and its.held() == {f"SKU-1@{place}": 1, f"SKU-2@{place}": 1}


def test_lines_with_odd_names_are_told_apart() -> None:
    names = ("1", "1~1", "west/1", "1@west", "west 1")
    lines = tuple(Line(line=name, sku=f"SKU-{n}", quantity=1) for n, name in enumerate(names))
    its = lanes({(line.sku, "west"): 1 for line in lines})
    its.hear(*bought(lines=lines))
    its.rest()
    assert its.places() == dict.fromkeys(names, "west")
    assert all(len({(r["line"], r["location"]) for r in records}) == 1 for records in its.asked.values())


def test_a_location_that_a_shop_names_may_be_called_anything() -> None:
    odd = "hall ~1/2 %"
    its = lanes({("SKU-1", odd): 1, ("SKU-2", "east"): 1})
    its.hear(*bought(lines=(msgspec.structs.replace(LINES[0], location=odd), LINES[1])))
    its.rest()
    assert its.places() == {"1": odd, "2": "east"} and its.picks() == [("lumi:1", "east"), ("lumi:1", odd)]


def test_the_choice_says_what_the_lanes_did() -> None:
    its = lanes(full(("SKU-1", "east")))
    its.hear(*bought())
    its.rest()
    order = its.order()
    assert sourced(view(order), order, POLICY).places == its.places()
    assert isinstance(its.view().shortages[0], StockShort)


def test_where_stock_is_only_observed_a_warehouse_s_word_says_where_from() -> None:
    its = Lanes(random.Random(0))
    its.live.modes["stock"] = "observe"
    answers = [reserved(line, location="west", system="wms:lumi", order="lumi:1") for line in LINES[:2]]
    its.hear(*bought(), *answers)
    its.rest()
    assert its.places() == {"1": "west", "2": "west"} and its.picks() == [("lumi:1", "west")] and not its.asked


def test_an_order_whose_stock_is_not_asked_for_any_more_is_picked_where_it_lies() -> None:
    its = Lanes(random.Random(0))
    its.live.modes["stock"] = "observe"
    its.hear(*bought(), *[reserved(line, location="west", object=f"r{line.line}", order="lumi:1") for line in LINES[:2]])
    its.rest()
    assert its.picks() == [("lumi:1", "west")], "east would be cheaper, and is asked by nobody"


# --- from when on
def test_the_way_begins_when_the_money_is_safe_and_whoever_had_to_has_approved() -> None:
    order, paid = bought()
    reserve = [authorized(n, at=T0 + n, object=f"a{n}", order="lumi:1") for n in (4000, 999)]
    approved = review(True, at=T0 + HOUR)

    def begins(*facts: Fact) -> int:
        its = Order("lumi:1")
        for fact in facts:
            its = merge(its, msgspec.structs.replace(fact, order="lumi:1"))
        return sure_at(view(its))

    assert begins(order) == T0
    assert begins(order, paid) == T0 + MINUTE == begins(order, paid, review(False, at=T0 + HOUR))
    assert begins(order, *reserve) == T0 + 4000, "what was captured later changes nothing"
    assert begins(order, *reserve, paid) == T0 + 4000 and begins(order, reserve[0], paid) == T0 + MINUTE
    assert begins(order, paid, approved) == T0 + HOUR
