"""The references lane: links and waiting facts may come in any order, and no fact is ever dropped."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec
import pytest

from orders.fact import AnyFact, ParcelScanned, PaymentDisputed, Tracking, decode_fact, encode_fact
from orders.reference import Reference
from orders.request import AnyReference, FactWaiting, ReferenceLinked
from streams.processor import Channels, Inputs, Parked, Record, Result
from streams.references import HOUR_MS, ReferencesProcessor

NOW = 1_795_435_200_000
DAY = 24 * HOUR_MS
KEY = "tracking:N1"


class NoChannels(Channels):
    version = 0


class Lane:
    def __init__(self, now: int = NOW) -> None:
        self.processor = ReferencesProcessor(wait=DAY)
        self.now = now
        self.stored: dict[str, bytes] = {}
        self.due: dict[str, int] = {}
        self.facts: list[AnyFact] = []
        self.journal: list[bytes] = []
        self.parked: list[Parked] = []
        self.offset = 100

    def turn(
        self, *requests: AnyReference, records: Sequence[Record] = (), adopted: Sequence[bytes] = (), due: Sequence[str] = ()
    ) -> Result:
        rows = [*records]
        for request in requests:
            rows.append(Record(self.offset, f"{request.kind}:{request.value}".encode(), msgspec.json.encode(request), self.now))
            self.offset += 1
        states = {key: self.processor.decode(blob) for key, blob in self.stored.items()}
        asked = self.processor.ask(states, Inputs("references", 3, rows, adopted=adopted, due=due), self.now)
        result = self.processor.answer(asked, None, self.now, NoChannels())
        assert {key: self.processor.encode(state) for key, state in states.items()} == self.stored, "a cached state was changed"
        self.stored |= {key: self.processor.encode(state) for key, state in result.states.items()}
        self.due |= result.due
        self.facts += [decode_fact(outgoing.value) for outgoing in result.outbox]
        assert all((o.topic, o.key) == ("facts", decode_fact(o.value).order) for o in result.outbox)
        self.journal += result.journal
        self.parked += asked.parked + result.parked
        return result

    def wake(self) -> Result:
        return self.turn(due=[key for key, at in self.due.items() if at and at <= self.now])

    @property
    def reference(self) -> Reference:
        return self.processor.decode(self.stored[KEY])


def scan(name: str = "s1", at: int = NOW) -> ParcelScanned:
    return ParcelScanned(order="", system="northpost", object=name, at=at, parcel="N1", tag=Tracking.IN_TRANSIT, tracking="N1")


def waiting(fact: AnyFact) -> FactWaiting:
    return FactWaiting(at=NOW, kind="tracking", value="N1", fact=msgspec.Raw(encode_fact(fact)))


def link(order: str = "lumi:1", since: int = NOW - DAY, until: int = 0, at: int = NOW) -> ReferenceLinked:
    return ReferenceLinked(at=at, kind="tracking", value="N1", order=order, since=since, until=until)


def named(fact: AnyFact, order: str) -> AnyFact:
    return msgspec.structs.replace(fact, order=order)


def test_a_fact_goes_on_with_its_order_filled_in_whichever_comes_first() -> None:
    for arrivals in itertools.permutations([link(), waiting(scan("s1")), waiting(scan("s2"))]):
        lane = Lane()
        for arrival in arrivals:
            lane.turn(arrival)
        assert {fact.object for fact in lane.facts} == {"s1", "s2"}
        assert named(scan("s1"), "lumi:1") in lane.facts
        assert lane.reference.waiting == {}
        assert lane.due == {KEY: 0}
        assert lane.parked == []


def test_a_fact_about_a_time_that_no_link_covers_waits_and_is_then_parked_with_its_bytes() -> None:
    lane = Lane()
    early = scan("early", at=NOW - 3 * DAY)
    lane.turn(link(), waiting(early))
    assert lane.facts == []
    assert lane.due == {KEY: NOW + DAY}
    lane.now = NOW + DAY
    lane.wake()
    (parked,) = lane.parked
    assert (parked.reason, parked.key) == ("unknown_reference", KEY.encode())
    assert parked.offset < 0
    assert decode_fact(msgspec.json.decode(parked.value, type=FactWaiting).fact) == early
    assert lane.due == {KEY: 0}
    assert lane.reference.waiting == {}


def test_two_facts_parked_by_one_wait_keep_apart() -> None:
    lane = Lane()
    lane.turn(waiting(scan("s1")), waiting(scan("s2")))
    lane.now += DAY
    lane.wake()
    assert len({(parked.topic, parked.partition, parked.offset) for parked in lane.parked}) == 2


def test_a_fact_that_two_orders_claim_is_parked_as_ambiguous() -> None:
    lane = Lane()
    lane.turn(link("lumi:1"), link("lumi:2"))
    lane.turn(waiting(scan()))
    assert [(parked.reason, parked.offset) for parked in lane.parked] == [("ambiguous_reference", 102)]
    assert lane.facts == []


def test_a_waiting_fact_that_becomes_ambiguous_waits_no_longer() -> None:
    lane = Lane()
    lane.turn(waiting(scan()))
    lane.now += 1
    lane.turn(link("lumi:1"), link("lumi:2"))
    assert [parked.reason for parked in lane.parked] == ["ambiguous_reference"]
    assert lane.due == {KEY: 0}


def test_a_number_used_again_later_belongs_to_the_later_order() -> None:
    lane = Lane()
    lane.turn(link("lumi:1", since=NOW - 90 * DAY, until=NOW - 60 * DAY), link("lumi:2", since=NOW - DAY))
    lane.turn(waiting(scan("old", at=NOW - 70 * DAY)), waiting(scan("new")))
    assert {fact.object: fact.order for fact in lane.facts} == {"old": "lumi:1", "new": "lumi:2"}


def test_a_repeat_goes_to_where_the_first_went_even_if_the_reference_became_ambiguous() -> None:
    lane = Lane()
    lane.turn(link(), waiting(scan()))
    lane.turn(link("lumi:2"))
    result = lane.turn(waiting(scan()))
    assert [fact.order for fact in lane.facts] == ["lumi:1", "lumi:1"]
    assert result.states == {}
    assert lane.parked == []


def test_what_was_parked_goes_on_when_a_person_replays_it_and_its_link_is_there() -> None:
    lane = Lane()
    lane.turn(waiting(scan()))
    lane.now += DAY
    lane.wake()
    lane.turn(link())
    (parked,) = lane.parked
    lane.turn(records=[Record(500, parked.key, parked.value)])
    assert lane.facts == [named(scan(), "lumi:1")]
    lane.parked.clear()
    lane.turn(records=[Record(501, parked.key, parked.value)])
    assert len(lane.facts) == 2


def test_a_replay_without_a_link_is_parked_again() -> None:
    lane = Lane()
    lane.turn(waiting(scan()))
    lane.now += DAY
    lane.wake()
    lane.turn(waiting(scan()))
    assert [parked.reason for parked in lane.parked] == ["unknown_reference"] * 2


def test_every_arrival_order_and_chunking_ends_the_same_and_nothing_is_lost() -> None:
    facts = [
        scan("s1"),
        scan("s2", at=NOW + HOUR_MS),
        PaymentDisputed(order="", system="stripe", object="d", at=NOW, amount=1, currency="EUR"),
    ]
    arrivals: list[AnyReference] = [link(), *map(waiting, facts)]
    for order in itertools.permutations(arrivals):
        for cut in range(len(order)):
            lane = Lane()
            lane.turn(*order[:cut])
            lane.turn(*order[cut:], *order[:cut])
            assert {fact.object for fact in lane.facts} == {"s1", "s2", "d"}
            assert lane.reference.waiting == {}


def test_a_state_rebuilt_from_records_and_journal_is_the_same_bytes() -> None:
    lane = Lane()
    arrivals: list[AnyReference] = [waiting(scan("s1")), waiting(scan("early", at=NOW - 9 * DAY)), link(), waiting(scan("s2"))]
    for arrival in arrivals:
        lane.turn(arrival)
        lane.now += 1
    lane.now = NOW + 2 * DAY
    lane.wake()
    for seed in range(20):
        rng = random.Random(seed)
        shuffled, journal = list(arrivals), lane.journal * 2
        rng.shuffle(shuffled)
        rng.shuffle(journal)
        again = Lane(now=lane.now)
        again.turn(*shuffled, adopted=journal)
        assert again.stored == lane.stored


@pytest.mark.parametrize(
    ("key", "value", "reason", "detail"),
    [
        (None, b"{}", "null_key", "key"),
        (KEY.encode(), b"{", "malformed", "value"),
        (
            KEY.encode(),
            b'{"type":"FactWaiting","at":1795435200000,"kind":"tracking","value":"N1","fact":{"type":"No"}}',
            "schema",
            "$.fact",
        ),
        (KEY.encode(), msgspec.json.encode(waiting(named(scan(), "lumi:9"))), "schema", "$.fact.order"),
        (b"tracking:N2", msgspec.json.encode(link()), "wrong_key", "key"),
    ],
)
def test_what_cannot_be_read_is_parked_and_its_neighbours_go_on(key: bytes | None, value: bytes, reason: str, detail: str) -> None:
    lane = Lane()
    good = [Record(1, KEY.encode(), msgspec.json.encode(link())), Record(3, KEY.encode(), msgspec.json.encode(waiting(scan())))]
    lane.turn(records=[good[0], Record(2, key, value), good[1]])
    assert [(parked.reason, parked.detail, parked.offset, parked.value) for parked in lane.parked] == [(reason, detail, 2, value)]
    assert len(lane.facts) == 1
