"""What a person does about a parked record, over rows and a log in memory and the real processors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.delivery import Delivery, decode_delivery, encode_delivery
from orders.fact import FactUnparked, PaymentCaptured, decode_fact, encode_fact
from streams.clock import VirtualClock
from streams.lane import decode_parked, parked_id
from streams.parking import NoSuchRecord, NotParked, Parking, StillUnreadable, order_of, put_back
from streams.processor import VERSION, Parked
from tests.web.fake_desk import BROKEN, NOBODYS, ORDER, PAYMENT, REPAIRABLE, FakeStore, parking
from tests.web.fake_reader import NOW, ListLog

RECORD = parked_id(REPAIRABLE)


class Place:
    def __init__(self, *rows: Parked) -> None:
        self.store, self.log = FakeStore(rows or (REPAIRABLE, NOBODYS)), ListLog()
        self.parking: Parking = parking(self.store, self.log, VirtualClock(NOW))


@pytest.fixture
def place() -> Place:
    return Place()


async def test_a_record_is_found_with_what_was_to_be_read(place: Place) -> None:
    found = await place.parking.find(RECORD)
    assert (found.content, found.processor) == (BROKEN, "orders")
    assert found.row == msgspec.structs.replace(REPAIRABLE, version=VERSION), "it says which version could not read it"


def test_a_row_of_before_the_version_was_kept_is_read() -> None:
    old = msgspec.structs.asdict(REPAIRABLE)
    del old["version"]
    assert decode_parked(msgspec.msgpack.encode(old)) == REPAIRABLE and REPAIRABLE.version == ""


@pytest.mark.parametrize("record", ["", "nonsense", "schema/nowhere/0/1", "schema/facts/x/1", "schema/facts/0", "../facts/0/1", "a" * 999])
async def test_what_is_no_id_is_told_from_what_is_gone(place: Place, record: str) -> None:
    with pytest.raises(NoSuchRecord):
        await place.parking.find(record)
    with pytest.raises(NotParked):
        await place.parking.find("schema/facts/0/1")


async def test_what_would_be_parked_again_is_not_replayed_and_the_field_is_named(place: Place) -> None:
    for act in (place.parking.check(RECORD, None), place.parking.replay(RECORD, None, "anna")):
        with pytest.raises(StillUnreadable) as refused:
            await act
        assert (refused.value.reason, refused.value.detail) == ("schema", "$.amount")
    assert not place.log.records and RECORD in place.store.rows


async def test_a_check_of_what_can_be_read_does_nothing(place: Place) -> None:
    again = await place.parking.check(RECORD, encode_fact(PAYMENT))
    assert (again.topic, again.key) == ("facts", ORDER.encode())
    assert not place.log.records and RECORD in place.store.rows


async def test_a_replay_puts_the_record_back_tells_the_order_and_takes_the_row_away(place: Place) -> None:
    await place.parking.replay(RECORD, encode_fact(PAYMENT), "anna: a comma")
    (topic, key, value), (topic2, key2, told) = place.log.records
    assert (topic, key, topic2, key2) == ("facts", ORDER.encode(), "facts", ORDER.encode())
    assert decode_fact(value) == PAYMENT
    fact = decode_fact(told)
    assert isinstance(fact, FactUnparked) and (fact.by, fact.record, fact.at) == ("anna: a comma", RECORD, NOW)
    assert RECORD not in place.store.rows
    with pytest.raises(NotParked):
        await place.parking.replay(RECORD, encode_fact(PAYMENT), "ben")
    assert len(place.log.records) == 2


async def test_a_replay_that_the_log_refuses_can_be_repeated(place: Place) -> None:
    place.log.down = True
    with pytest.raises(Exception, match="no broker"):
        await place.parking.replay(RECORD, encode_fact(PAYMENT), "anna")
    assert RECORD in place.store.rows
    place.log.down = False
    await place.parking.replay(RECORD, encode_fact(PAYMENT), "anna")
    assert isinstance(decode_fact(place.log.records[0][2]), PaymentCaptured)


async def test_a_discard_puts_nothing_back(place: Place) -> None:
    await place.parking.discard(RECORD, "anna: a test of ours")
    ((_, _, told),) = place.log.records
    assert isinstance(decode_fact(told), FactUnparked)
    await place.parking.discard(parked_id(NOBODYS), "anna: rubbish")
    assert len(place.log.records) == 1, "there is no order to tell"
    assert not place.store.rows


async def test_a_bug_that_is_still_there_is_said_without_its_text() -> None:
    class Stumbles:
        def ask(self, *_: object) -> None:
            raise KeyError("Ana Lima")

    place = Place()
    place.parking._processors = {"facts": Stumbles}  # type: ignore[dict-item]
    with pytest.raises(StillUnreadable) as refused:
        await place.parking.check(RECORD, encode_fact(PAYMENT))
    assert str(refused.value) == "it would be parked again, processor_error: KeyError"


def test_a_repaired_delivery_keeps_its_envelope_and_a_broken_envelope_gets_one() -> None:
    delivery = Delivery(source="stripe-lumi", delivery="evt_1", at=7, topic="charge", body=b"{", headers={"stripe-x": "y"}, beside="file")
    row = msgspec.structs.replace(NOBODYS, value=encode_delivery(delivery))
    again = decode_delivery(put_back(row, "malformed/deliveries/0/88", b"{}").value)
    assert again == msgspec.structs.replace(delivery, body=b"{}", beside="")
    made = decode_delivery(put_back(NOBODYS, "malformed/deliveries/0/88", b"{}").value)
    assert (made.source, made.delivery, made.body) == ("canonical", "malformed/deliveries/0/88", b"{}")
    assert put_back(NOBODYS, "r", None) == ("deliveries", NOBODYS.key, NOBODYS.value)


def test_what_came_from_a_topic_of_the_retailers_own_comes_again_as_a_delivery() -> None:
    row = msgspec.structs.replace(REPAIRABLE, topic="shop.orders")
    again = put_back(row, "schema/shop.orders/3/1207", None)
    assert (again.topic, decode_delivery(again.value).body) == ("deliveries", BROKEN)


def test_a_record_without_its_key_goes_to_the_order_it_names() -> None:
    row = msgspec.structs.replace(REPAIRABLE, reason="null_key", key=None, value=encode_fact(PAYMENT))
    assert put_back(row, "r", None).key == ORDER.encode()


@given(topic=st.sampled_from(["facts", "deliveries", "stock"]), key=st.none() | st.binary(max_size=600))
def test_an_order_is_told_only_where_its_lane_can_read_the_key(topic: str, key: bytes | None) -> None:
    order = order_of(msgspec.structs.replace(REPAIRABLE, topic=topic, key=key))
    assert order == "" or (topic == "facts" and order.encode() == key and len(key) <= 512)


def test_bodies_beside_the_log_are_shown(tmp_path: Path) -> None:
    from connectors.delivery import keep_beside
    from streams.parking import content

    name = keep_beside(tmp_path, b"x" * 2000)
    row = msgspec.structs.replace(NOBODYS, value=encode_delivery(Delivery(source="s", delivery="d", at=1, body=b"", beside=name)))
    assert content(row, tmp_path) == b"x" * 2000
    assert content(row, tmp_path / "nowhere") == row.value
