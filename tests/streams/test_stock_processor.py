"""The stock lane: 50 orders race for 10 units, and whatever way they come 10 are reserved and 40 wait."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orders.fact import AnyFact, StockReleased, StockReserved, StockScarce, StockShort, decode_fact
from orders.request import AnyStock, StockCheckRequested, StockLevelReported, StockReleaseRequested, StockRequested, StockShipped
from orders.stock import Reserved, Stock, available, decode_entry, on_hand
from streams.processor import Channels, Inputs, Record, Result
from streams.stock import DAY_MS, REMEMBER_MS, StockProcessor

NOW = 1_795_435_200_000
KEY = "lamp@main"


class NoChannels(Channels):
    version = 0


class Lane:
    """A lane without store or log: states are kept encoded, as a store keeps them."""

    def __init__(self, processor: StockProcessor | None = None, now: int = NOW) -> None:
        self.processor = processor or StockProcessor()
        self.now = now
        self.stored: dict[str, bytes] = {}
        self.facts: list[AnyFact] = []
        self.journal: list[bytes] = []
        self.parked: list[tuple[str, str]] = []
        self.offset = 0

    def turn(self, *requests: AnyStock, records: Sequence[Record] = (), adopted: Sequence[bytes] = ()) -> Result:
        rows = [*records]
        for request in requests:
            rows.append(Record(self.offset, f"{request.sku}@{request.location}".encode(), msgspec.json.encode(request), self.now))
            self.offset += 1
        states = {key: self.processor.decode(blob) for key, blob in self.stored.items()}
        before = {key: self.processor.encode(state) for key, state in states.items()}
        asked = self.processor.ask(states, Inputs("stock", 0, rows, adopted=adopted), self.now)
        result = self.processor.answer(asked, None, self.now, NoChannels())
        assert {key: self.processor.encode(state) for key, state in states.items()} == before, "a cached state was changed"
        self.stored |= {key: self.processor.encode(state) for key, state in result.states.items()}
        self.facts += [decode_fact(outgoing.value) for outgoing in result.outbox]
        assert all(outgoing.topic == "facts" and outgoing.key == decode_fact(outgoing.value).order for outgoing in result.outbox)
        self.journal += result.journal
        self.parked += [(parked.reason, parked.detail) for parked in asked.parked + result.parked]
        return result

    @property
    def stock(self) -> Stock:
        return self.processor.decode(self.stored[KEY])

    def told(self, kind: type[AnyFact]) -> set[str]:
        return {fact.object for fact in self.facts if isinstance(fact, kind)}


def level(on_hand: int, at: int = NOW) -> StockLevelReported:
    return StockLevelReported(at=at, sku="lamp", location="main", on_hand=on_hand, system="wms")


def asked(number: int, quantity: int = 1, priority: float = 0.0) -> StockRequested:
    return StockRequested(
        at=NOW + number,
        effect=f"r{number}",
        order=f"lumi:{number}",
        line="1",
        sku="lamp",
        location="main",
        quantity=quantity,
        priority=priority,
    )


def checked(number: int, quantity: int = 1, sku: str = "lamp") -> StockCheckRequested:
    its: dict[str, Any] = {"effect": f"c{number}", "order": f"lumi:{number}", "line": "1", "location": "main"}
    return StockCheckRequested(at=NOW + number, sku=sku, quantity=quantity, **its)


def undone(number: int, quantity: int = 1) -> StockReleaseRequested:
    return StockReleaseRequested(
        at=NOW + 900 + number,
        effect=f"u{number}",
        request=f"r{number}",
        order=f"lumi:{number}",
        line="1",
        sku="lamp",
        location="main",
        quantity=quantity,
    )


def left(number: int, quantity: int = 1) -> StockShipped:
    return StockShipped(at=NOW + 2_000 + number, request=f"r{number}", sku="lamp", location="main", quantity=quantity)


def test_a_request_is_answered_by_a_fact_of_its_order() -> None:
    lane = Lane()
    lane.turn(level(1), asked(1), asked(2))
    assert lane.facts == [
        StockReserved(order="lumi:1", system="stock", object="r1", at=NOW, line="1", sku="lamp", location="main", quantity=1),
        StockShort(order="lumi:2", system="stock", object="r2", at=NOW, line="1", sku="lamp", location="main", quantity=1),
    ]


def test_a_check_is_answered_only_where_there_is_not_enough_and_changes_nothing() -> None:
    lane = Lane()
    lane.turn(level(3), asked(1))
    before = dict(lane.stored)
    lane.facts.clear()
    result = lane.turn(checked(2, 2), checked(3, 3), checked(4, 1, sku="never-heard-of"))
    its: dict[str, Any] = {"system": "stock", "line": "1", "location": "main"}
    assert lane.facts == [
        StockScarce(order="lumi:3", object="c3", at=NOW + 3, sku="lamp", quantity=3, **its),
        StockScarce(order="lumi:4", object="c4", at=NOW + 4, sku="never-heard-of", quantity=1, **its),
    ]
    assert lane.stored == before and result.states == {} and not result.journal
    lane.turn(checked(3, 3))
    assert lane.facts[-1] == lane.facts[0], "the same answer again is the same fact"
    lane.turn(asked(5, 2), checked(6))
    assert lane.facts[-1].object == "c6", "what was given away in the same turn is gone"


def test_where_stock_without_a_level_is_unlimited_a_check_of_it_has_no_answer() -> None:
    lane = Lane(StockProcessor(assume=None))
    lane.turn(checked(1, 1000))
    assert lane.facts == [] and lane.stored == {}


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_fifty_orders_race_for_ten_units(rng: random.Random) -> None:
    lane = Lane()
    arrivals: list[AnyStock] = [level(10), *(asked(number, priority=rng.choice((0.0, 0.5))) for number in range(50))]
    arrivals += rng.sample(arrivals, 25)
    rng.shuffle(arrivals)
    while arrivals:
        size = rng.randint(1, 20)
        chunk, arrivals = arrivals[:size], arrivals[size:]
        lane.turn(*chunk)
        lane.now += rng.randrange(3)
    assert len(lane.told(StockReserved)) == 10
    waiting = lane.told(StockShort) - lane.told(StockReserved)
    assert len(waiting) == 40
    assert available(lane.stock) == 0
    assert lane.stock.held == 10
    assert lane.stock.waiting == waiting


def test_when_the_level_was_there_first_nobody_is_told_twice() -> None:
    lane = Lane()
    lane.turn(level(10))
    for number in range(50):
        lane.turn(asked(number))
    assert len(lane.facts) == 50
    assert lane.told(StockReserved) == {f"r{number}" for number in range(10)}


def test_replaying_everything_changes_nothing() -> None:
    lane = Lane()
    arrivals: list[AnyStock] = [level(3), *(asked(number) for number in range(6)), undone(1), left(0)]
    lane.turn(*arrivals)
    before, journal, facts = dict(lane.stored), list(lane.journal), set(map(msgspec.json.encode, lane.facts))
    lane.facts.clear()
    for arrival in arrivals:
        result = lane.turn(arrival)
        assert result.states == {}
    assert lane.stored == before
    assert lane.journal == journal
    assert set(map(msgspec.json.encode, lane.facts)) == facts  # the answers are given again, in the same words


def test_a_release_gives_back_exactly_once_and_the_next_in_the_queue_has_it() -> None:
    lane = Lane()
    lane.turn(level(1), asked(1), asked(2), asked(3))
    lane.turn(undone(1))
    assert lane.told(StockReserved) == {"r1", "r2"}
    lane.turn(undone(1), undone(1))
    assert lane.told(StockReserved) == {"r1", "r2"}
    released = [fact for fact in lane.facts if isinstance(fact, StockReleased)]
    assert {fact.quantity for fact in released} == {1}
    assert len(set(map(msgspec.json.encode, released))) == 1
    assert available(lane.stock) == 0


def test_a_release_that_comes_first_cancels_the_request() -> None:
    lane = Lane()
    lane.turn(level(5), undone(1))
    lane.turn(asked(1))
    assert lane.told(StockReserved) == set()
    assert available(lane.stock) == 5
    assert {fact.quantity for fact in lane.facts if isinstance(fact, StockReleased)} == {1}


def test_giving_back_a_part_keeps_the_rest() -> None:
    lane = Lane()
    lane.turn(level(5), asked(1, quantity=4))
    lane.turn(undone(1, quantity=1))
    assert available(lane.stock) == 2


def test_what_left_the_house_can_not_be_given_back() -> None:
    lane = Lane()
    lane.turn(level(2), asked(1))
    lane.turn(left(1))
    assert (on_hand(lane.stock), available(lane.stock)) == (1, 1)
    lane.turn(undone(1))
    assert [fact.quantity for fact in lane.facts if isinstance(fact, StockReleased)] == [0]
    assert available(lane.stock) == 1


def test_the_queue_is_served_by_priority_then_by_waiting_time_when_stock_comes() -> None:
    lane = Lane()
    lane.turn(asked(1))
    lane.now += 1
    lane.turn(asked(2), asked(3, priority=0.9))
    assert lane.told(StockShort) == {"r1", "r2", "r3"}
    lane.now += 1
    lane.turn(level(1))
    assert lane.told(StockReserved) == {"r3"}
    lane.turn(level(2, at=NOW + 1))
    assert lane.told(StockReserved) == {"r3", "r1"}


def test_an_unknown_sku_has_nothing_unless_configured_otherwise() -> None:
    for assume, count in ((0, 0), (2, 2), (None, 5)):
        lane = Lane(StockProcessor(assume=assume))
        lane.turn(*(asked(number) for number in range(5)))
        assert len(lane.told(StockReserved)) == count


def test_a_state_rebuilt_from_records_and_journal_is_the_same_bytes_and_decides_nothing_anew() -> None:
    lane = Lane()
    arrivals: list[AnyStock] = [level(3), *(asked(number) for number in range(6)), undone(1), left(0), level(4, at=NOW + 5_000)]
    for arrival in arrivals:
        lane.turn(arrival)
        lane.now += 1
    for seed in range(20):
        rng = random.Random(seed)
        again = Lane(now=lane.now)
        shuffled, journal = list(arrivals), lane.journal * 2
        rng.shuffle(shuffled)
        rng.shuffle(journal)
        again.turn(*shuffled, adopted=journal)
        assert again.stored == lane.stored
        assert again.journal == []


Step = tuple[str, int, int]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["ask", "undo", "ship", "again"]), st.integers(0, 7), st.integers(1, 3)), max_size=30),
    st.integers(0, 8),
)
def test_no_more_is_promised_than_there_is(steps: list[Step], there: int) -> None:
    lane = Lane()
    lane.turn(level(there))
    for what, number, quantity in steps:
        if what == "ship":
            kept = lane.stock.requests.get(f"r{number}")
            if kept is not None and kept.held:  # what was given back and leaves all the same is the warehouse's mistake
                lane.turn(left(number, kept.held))
        elif what == "undo":
            lane.turn(undone(number, quantity))
        else:
            lane.turn(asked(number, 1 + number % 3))
        stock = lane.stock
        assert stock.held + stock.left <= there
        free = available(stock)
        assert free is not None
        assert free >= 0
        assert not any(stock.requests[request].wanted <= free for request in stock.waiting), "something waits that could be served"
        promised = [decode_entry(entry) for entry in lane.journal]
        assert len({e.request for e in promised if isinstance(e, Reserved)}) == sum(isinstance(e, Reserved) for e in promised)


def test_closed_requests_are_remembered_longer_than_the_topic_and_then_forgotten() -> None:
    lane = Lane()
    lane.turn(level(9), asked(1), undone(1), asked(2))
    lane.now += REMEMBER_MS
    lane.turn(level(9, at=lane.now))
    assert "r1" in lane.stock.requests
    lane.turn(undone(2))
    lane.now += 10 * DAY_MS
    lane.turn(level(9, at=lane.now))
    assert lane.stock.requests == {}
    lane.facts.clear()
    lane.turn(asked(1))
    assert [(type(fact), getattr(fact, "queued", None)) for fact in lane.facts] == [(StockShort, False)]
    assert available(lane.stock) == 9


@pytest.mark.parametrize(
    ("key", "value", "reason", "detail"),
    [
        (None, b"{}", "null_key", "key"),
        (b"\xff", msgspec.json.encode(level(1)), "malformed", "value"),
        (KEY.encode(), b"", "malformed", "value"),
        (KEY.encode(), b"{", "malformed", "value"),
        (KEY.encode(), b'{"type":"StockLevelReported","x":' + b"[" * 100_000, "malformed", "value"),
        (KEY.encode(), b"[]", "schema", "$"),
        (KEY.encode(), b'{"type":"Nonsense","at":1}', "schema", "$.type"),
        (KEY.encode(), b'{"type":"StockLevelReported","at":"x","sku":"SECRET"}', "schema", "$.at"),
        (KEY.encode(), b" " * (1 << 20) + b"{}", "too_large", "value"),
        (KEY.encode(), msgspec.json.encode(msgspec.structs.replace(level(1), v=2)), "version", "$.v"),
        (KEY.encode(), msgspec.json.encode(msgspec.structs.replace(level(1), at=5)), "bounds", "$.at"),
        (b"other@main", msgspec.json.encode(level(1)), "wrong_key", "key"),
        (KEY.encode(), msgspec.json.encode(level(1)).replace(b'"on_hand":1', b'"on_hand":1' + b"0" * 30), "bounds", "$.on_hand"),
        (KEY.encode(), msgspec.json.encode(asked(1, quantity=0)), "bounds", "$.quantity"),
        (KEY.encode(), msgspec.json.encode(asked(1, quantity=-1)), "bounds", "$.quantity"),
        (KEY.encode(), msgspec.json.encode(asked(1)).replace(b'"quantity":1', b'"quantity":NaN'), "malformed", "value"),
    ],
)
def test_what_cannot_be_read_is_parked_and_its_neighbours_go_on(key: bytes | None, value: bytes, reason: str, detail: str) -> None:
    lane = Lane()
    good = [Record(1, KEY.encode(), msgspec.json.encode(level(1))), Record(3, KEY.encode(), msgspec.json.encode(asked(7)))]
    lane.turn(records=[good[0], Record(2, key, value), good[1]])
    assert lane.parked == [(reason, detail)]
    assert lane.told(StockReserved) == {"r7"}
