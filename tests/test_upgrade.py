"""Old and new versions side by side: what is newer is read where it can be, refused where it cannot, and never overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.store import Commit, LaneId, Store
from connectors.valkey import EmbeddedValkey
from messages import customer as customer_state
from messages import journal as customer_journal
from messages.render import Brand, Renderer
from messages.way_back import WayBack
from model.features import features
from orders import journal, reference, request, stock
from orders import state as order_state
from orders.compact import NUMBERS
from orders.decision import Decision
from orders.fact import FACT_VERSION, Fact, decode_fact, encode_fact
from orders.merge import absorb
from orders.state import NewerState, Order
from streams.clock import VirtualClock
from streams.customers import CustomersProcessor
from streams.dispatch import Dispatcher, Modes
from streams.lane import decode_parked
from streams.orders import OrdersProcessor
from streams.processor import Chunk, Inputs, Processor, Record
from streams.references import ReferencesProcessor
from streams.stock import StockProcessor
from streams.transport import TP
from streams.worker import Worker
from tests.orders.lives import ANNA, DAY, EACH, HOUR, ORDER, T0, captured, placed
from tests.streams.toy import MemoryLog
from web.app import _refusal

SAMPLES = Path(__file__).parent / "samples" / "states"
KINDS_THEN = 27  # of facts, when the samples of orders were written down; kinds are only ever added
REQUESTS = {
    "stock": request.StockLevelReported(at=T0, sku="LAMP-1", location="main", on_hand=3, system="wms:lumi"),
    "customers": request.ConsentReported(at=T0, customer="lumi:77", channel="sms", granted=False),
    "references": request.ReferenceLinked(at=T0, kind="payment", value="pi_1", order=ORDER, since=T0),
}
KEYS = {"stock": "LAMP-1@main", "customers": "lumi:77", "references": "payment:pi_1"}


def processors() -> dict[str, Processor]:
    renderer = Renderer(Brand(), WayBack([b"0123456789abcdef"]))
    made: list[Processor] = [OrdersProcessor(features), StockProcessor(), CustomersProcessor(renderer), ReferencesProcessor()]
    return {processor.name: processor for processor in made}


def with_fields(thing: Any, **more: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(thing)) | more)


def parked_by(name: str, key: str, value: bytes) -> list[str]:
    its = processors()[name]
    inputs = Inputs(topic=its.topic, partition=0, records=[Record(7, key.encode(), value, T0 + 30 * DAY)])
    return [row.reason for row in its.ask({}, inputs, T0 + 30 * DAY).parked]


# --- facts and requests
@pytest.mark.parametrize("fact", EACH, ids=lambda f: f"{type(f).__name__}-{f.object}")
def test_a_fact_of_the_next_version_is_read_and_its_new_fields_are_ignored(fact: Fact) -> None:
    newer = with_fields(fact, v=FACT_VERSION + 1, novelty={"deep": [1, None]}, another="x")
    assert parked_by("orders", ORDER, newer) == []
    assert msgspec.structs.replace(decode_fact(newer), v=fact.v) == fact


@pytest.mark.parametrize("fact", EACH, ids=lambda f: f"{type(f).__name__}-{f.object}")
def test_a_fact_of_a_version_beyond_that_is_parked(fact: Fact) -> None:
    assert parked_by("orders", ORDER, with_fields(fact, v=FACT_VERSION + 2)) == ["version"]


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_ignore_new_fields_and_park_new_versions(name: str) -> None:
    assert parked_by(name, KEYS[name], with_fields(REQUESTS[name], novelty=1)) == []
    assert parked_by(name, KEYS[name], with_fields(REQUESTS[name], v=2)) == ["version"]


def test_a_field_that_was_taken_away_is_parked_as_schema() -> None:
    body = msgspec.json.decode(encode_fact(captured()))
    del body["amount"]
    assert parked_by("orders", ORDER, msgspec.json.encode(body)) == ["schema"]


# --- states of every version that was ever written
def an_order() -> Order:
    order = Order(ORDER)
    for fact in EACH:
        if NUMBERS[type(fact)] <= KINDS_THEN:
            absorb(order, fact)
    absorb(order, placed(version=2, total=5999))  # another variant of the same report
    decision = Decision(1, T0 + 2, "review", "model", b"0123456789abcdef", T0 + 2, 6100, 40, 7, 900, 3050, "demo-1", ("velocity",))
    for entry in (
        journal.Decided(at=T0 + 2, decision=decision),
        journal.Closed(at=T0 + 3, effects=("notify.email order_placed",), channels=4),
        journal.Offered(at=T0 + 4, id="e1", action="payment.refund", milestone="cancelled", undoes="e0"),
        journal.Claimed(at=T0 + 5, id="e1", effect="payment.refund cancelled", attempt=1, deadline=T0 + 9, body_hash="h", mode="live"),
        journal.Ended(at=T0 + 8, id="e1", effect="payment.refund cancelled", attempt=1, kind="unknown", reason="no_answer"),
        journal.TimerFired(at=T0 + HOUR, timer="settle"),
    ):
        journal.take_in(order, entry)
    return order


def a_stock() -> stock.Stock:
    state = stock.Stock()
    asked = {"order": ORDER, "line": "1", "sku": "LAMP-1", "location": "main", "quantity": 2}
    stock.merge(state, REQUESTS["stock"])
    stock.merge(state, request.StockRequested(at=T0, effect="r1", priority=0.5, **asked))
    stock.merge(state, request.StockRequested(at=T0 + 1, effect="r2", **asked))
    stock.merge(state, request.StockReleaseRequested(at=T0 + 2, effect="x1", request="r1", **asked))
    stock.adopt(state, stock.Reserved(key="LAMP-1@main", at=T0, request="r1", quantity=2))
    stock.adopt(state, stock.Queued(key="LAMP-1@main", at=T0 + 1, request="r2"))
    return state


def a_customer() -> customer_state.Customer:
    state = customer_state.Customer()
    asked = request.MessageRequested(
        at=T0, effect="m1", order=ORDER, customer="lumi:77", template="shipped", channel="email", kind="transactional",
        fields={"carrier": "NorthPost"}, person=ANNA, milestone_at=T0, expires=T0 + DAY,
    )  # fmt: skip
    customer_state.merge(state, asked)
    customer_state.merge(state, msgspec.structs.replace(asked, effect="m2"))
    customer_state.merge(state, REQUESTS["customers"])
    customer_state.merge(state, request.ProfileReported(at=T0, customer="lumi:77", system="shopify:lumi", person=ANNA, version=3))
    customer_state.merge(
        state, request.MessageBlocked(at=T0 + 1, effect="m1", order=ORDER, customer="lumi:77", block="b1", reason="cancelled")
    )
    customer_state.merge(state, request.MessageFreed(at=T0 + 2, effect="m1", order=ORDER, customer="lumi:77", blocks=("b1",)))
    customer_state.merge(state, request.ReceiptReported(at=T0 + 9, customer="lumi:77", effect="m1", channel="email", receipt="delivered"))
    claimed = customer_journal.Claimed(
        key="lumi:77", at=T0 + 3, effect="m1", number=1, channel="email", deadline=T0 + 4, body_hash="h", modes=4
    )
    customer_state.adopt(state, claimed)
    customer_state.adopt(
        state, customer_journal.Answered(key="lumi:77", at=T0 + 5, effect="m1", number=1, outcome="retryable", after=T0 + 6)
    )
    customer_state.adopt(state, customer_journal.Closed(key="lumi:77", at=T0 + 7, effect="m2", word="observed", channel="email"))
    return state


def a_reference() -> reference.Reference:
    state = reference.Reference()
    reference.merge(state, REQUESTS["references"])
    for number in (1, 2):
        fact = msgspec.Raw(encode_fact(captured(order="", object=f"pi_{number}")))
        reference.merge(state, request.FactWaiting(at=T0, kind="payment", value="pi_1", fact=fact))
    waiting = sorted(state.waiting)
    reference.adopt(state, reference.Seen(key="payment:pi_1", at=T0 + 1, fact=waiting[0]))
    reference.adopt(state, reference.Settled(key="payment:pi_1", at=T0 + 2, fact=waiting[1], order=ORDER))
    return state


STATES: Mapping[str, Callable[[], Any]] = {"orders": an_order, "stock": a_stock, "customers": a_customer, "references": a_reference}
VERSIONS = {"orders": order_state, "stock": stock, "customers": customer_state, "references": reference}


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_today_has_the_bytes_that_were_written_down(name: str) -> None:
    """Red: the layout changed. Give it a new version, keep reading the old one, and write down a sample beside the old ones."""
    sample = SAMPLES / f"{name}.{VERSIONS[name].STATE_VERSION}.bin"
    assert processors()[name].encode(STATES[name]()) == sample.read_bytes()


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.bin")), ids=lambda p: p.stem)
def test_a_state_of_every_version_ever_written_says_what_it_said(sample: Path) -> None:
    name = sample.name.partition(".")[0]
    its = processors()[name]
    assert its.encode(its.decode(sample.read_bytes())) == its.encode(STATES[name]())


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_a_newer_version_is_refused_by_its_version(name: str) -> None:
    blob = processors()[name].encode(STATES[name]())
    with pytest.raises(NewerState, match=rf"a state of version {blob[0] + 1}, this program knows up to {blob[0]}: upgrade it"):
        processors()[name].decode(bytes([blob[0] + 1]) + blob[1:])


def test_every_processor_that_keeps_states_has_a_sample() -> None:
    assert {path.name.partition(".")[0] for path in SAMPLES.glob("*.bin")} == set(STATES) == set(processors())


# --- a worker that is older than what it finds
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    made = EmbeddedValkey(tmp_path_factory.mktemp("store"))
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


@pytest.fixture
async def store(server: EmbeddedValkey) -> AsyncIterator[Store]:
    made = Store.from_url(server.url)
    await made._client.flushall()
    await made.start()
    yield made
    await made.close()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


def chunk(partition: int, *facts: Fact) -> Chunk:
    records = [Record(n, fact.order.encode(), encode_fact(fact), T0 + 30 * DAY) for n, fact in enumerate(facts)]
    return Chunk("facts", partition, 0, len(records), records)


async def test_a_partition_with_newer_states_stops_with_a_word_and_nothing_of_it_is_touched(store: Store) -> None:
    """The other partition goes on; what was read is neither parked nor skipped, and the newer version goes on where it was."""
    mine = "lumi:newer"
    lanes = [LaneId("orders", 0, partition) for partition in range(2)]
    for lane in lanes:
        await store.place(lane, 0, "id-facts", sends=True)
    newer = bytes([order_state.STATE_VERSION + 1]) + b"what only the newer one understands"
    await store.commit(await store.acquire(lanes[0]), Commit(states={mine: newer}))
    crashed: list[BaseException] = []
    log = MemoryLog(partitions=2)
    log.records[("facts", 0)] = log.records[("facts", 1)] = [Record(n, b"", b"", 1) for n in range(2)]
    clock = VirtualClock(T0 + 30 * DAY)
    worker = Worker(
        {"facts": lambda: OrdersProcessor(features)}, layout=0, store=store, log=log, clock=clock,
        dispatcher=Dispatcher({}, clock, Modes()), crash=crashed.append,
    )  # fmt: skip
    tps = [TP("facts", partition) for partition in range(2)]
    worker.assigned(frozenset(tps))
    await until(worker.is_ready)
    for lane in worker.lanes.values():
        lane.partitions = 0  # keys may lie anywhere
    worker.offer(chunk(0, placed(order="lumi:before"), placed(order=mine)))
    worker.offer(chunk(1, placed(order="lumi:other"), captured(order="lumi:other")))
    await until(lambda: worker.stopped and worker.lanes[tps[1]].position == 2)

    stopped = worker.stopped[tps[0]]
    assert (stopped.reason, stopped.detail) == (
        "state_version",
        f"a state of version {order_state.STATE_VERSION + 1}, this program knows up to {order_state.STATE_VERSION}: upgrade it",
    )
    assert not worker.is_ready() and worker.position(tps[0]) is None and crashed == []
    assert await store.state(lanes[0], mine) == newer
    assert await store.state(lanes[0], "lumi:before") is None, "nothing of the chunk was taken in"
    standing = {each.lane: each for each in await store.standing(lanes)}
    assert (standing[lanes[0]].offset, standing[lanes[0]].parked) == (0, 0)
    assert (standing[lanes[1]].offset, standing[lanes[1]].parked) == (2, 0)
    await worker.close()


async def test_a_record_after_a_bug_is_still_parked_with_its_bytes(store: Store) -> None:
    """The neighbour of the above: what is no newer state is parked, not a reason to stop."""
    lane = LaneId("orders", 0, 0)
    await store.place(lane, 0, "id-facts", sends=True)
    await store.commit(await store.acquire(lane), Commit(states={"lumi:broken": bytes([order_state.STATE_VERSION]) + b"\xc1"}))
    log = MemoryLog()
    log.records[("facts", 0)] = [Record(n, b"", b"", 1) for n in range(2)]
    clock = VirtualClock(T0 + 30 * DAY)
    worker = Worker(
        {"facts": lambda: OrdersProcessor(features)}, layout=0, store=store, log=log, clock=clock,
        dispatcher=Dispatcher({}, clock, Modes()), crash=lambda error: None,
    )  # fmt: skip
    worker.assigned(frozenset({TP("facts", 0)}))
    await until(worker.is_ready)
    worker.offer(chunk(0, placed(order="lumi:broken"), placed(order="lumi:sound")))
    await until(lambda: worker.lanes[TP("facts", 0)].position == 2)
    await worker.close()
    assert [decode_parked(row).reason for _, _, row in await store.parked_list([lane])] == ["processor_error"]
    assert await store.state(lane, "lumi:sound") is not None


def test_a_page_about_an_order_of_a_newer_version_says_so_instead_of_failing() -> None:
    refusal = _refusal(NewerState(2, 1))
    assert (refusal.status, refusal.code) == (503, "newer_state")
