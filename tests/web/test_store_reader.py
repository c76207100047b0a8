"""From facts through a real lane and a real store to what the API shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from connectors.fake_shop import FakeShop
from connectors.store import LaneId, Store
from connectors.valkey import EmbeddedValkey
from messages.render import Brand, Renderer
from messages.way_back import WayBack
from metrics import Metrics
from model import rules, score
from model.features import features
from orders.fact import Fact, Person, ReviewDecided, decode_fact, encode_fact
from orders.policy import Policy
from orders.request import MessageRequested, ReferenceLinked
from streams.clock import VirtualClock
from streams.customers import CustomersProcessor
from streams.dispatch import Dispatcher, Modes
from streams.lane import Lane
from streams.orders import OrdersProcessor
from streams.partition import partition_of
from streams.processor import Chunk, Processor, Record, Scores
from streams.references import ReferencesProcessor
from tests.orders.lives import placed
from tests.web.fake_reader import ListLog
from web.acts import Acts
from web.desk import Desk, Held, Verdict
from web.evidence import urgency
from web.problem import Refusal
from web.reader import OrderDetail
from web.store_reader import StoreReader

PARTITIONS = 2
ORDERS = 60
WRITTEN = 1_790_000_000_000  # when what nobody has read yet was written
SIGNS = {"avs_mismatch": 1.0, "cvc_mismatch": 1.0, "ship_bill_mismatch": 1.0, "ip_far": 1.0}  # enough for a person to look at it
ODD = [placed(order=f"lumi:odd-{n}", object=f"odd-{n}", total=9_000 * n, signals=SIGNS) for n in range(1, 6)]


class Rules:
    """The rules, answering as the model would."""

    async def score(self, rows: NDArray[np.float32]) -> Scores:
        return score.unpack(rules.score(rows))


class Ends(ListLog):
    """A log whose partitions of `facts` hold so many records; nothing was ever written to the other topics."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = dict.fromkeys(range(PARTITIONS), 0)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {p: (0, end if topic == "facts" else 0) for p, end in self.ends.items()}

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Record]:
        return [Record(start, b"lumi:1", b"{}", WRITTEN)]


class World:
    def __init__(self, store: Store) -> None:
        self.store, self.log, self.facts = store, Ends(), [*FakeShop(5).stream(ORDERS), *ODD]
        self.reader = StoreReader(store, self.log, 0, PARTITIONS, shops=["lumi"])  # type: ignore[arg-type]
        self.clock = VirtualClock(max(fact.at for fact in self.facts) + 1000)

    async def run(self) -> None:
        """All facts, and one record per partition that nobody can read."""
        for p in range(PARTITIONS):
            rows: list[tuple[bytes, bytes]] = [(f.order.encode(), encode_fact(f)) for f in self._of(p)] + [(b"lumi:1", b"{")]
            await self.lane(OrdersProcessor(features), p, rows)
            self.log.ends[p] = len(rows) + 3

    async def tell(self, processor: Processor, *requests: tuple[str, msgspec.Struct]) -> None:
        """Requests with their keys, each to the lane of its partition."""
        rows = [(key.encode(), msgspec.json.encode(request)) for key, request in requests]
        for p in range(PARTITIONS):
            await self.lane(processor, p, [row for row in rows if partition_of(row[0], PARTITIONS) == p])

    async def lane(self, processor: Processor, p: int, rows: list[tuple[bytes, bytes]]) -> None:
        dispatcher = Dispatcher({}, self.clock, Modes())
        lane_id = LaneId(processor.name, 0, p)
        await self.store.place(lane_id, 0, "log", sends=True)
        lane = Lane(
            lane_id,
            processor,
            store=self.store,
            publisher=self.log,
            clock=self.clock,
            channels=dispatcher,
            dispatch=dispatcher,
            scorer=Rules(),
        )
        await lane.acquire()
        lane.start(lambda its, error: None)
        for first in range(0, len(rows), 100):
            some = rows[first : first + 100]
            records = [Record(first + i, key, value, self.clock.now()) for i, (key, value) in enumerate(some)]
            lane.offer(Chunk(processor.topic, p, first, first + len(some), records))
        async with asyncio.timeout(20):
            while lane.position != len(rows):
                await asyncio.sleep(0.01)
        await lane.quiesce(5)

    def _of(self, p: int) -> Sequence[Fact]:
        return [fact for fact in self.facts if partition_of(fact.order.encode(), PARTITIONS) == p]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    made = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


@pytest.fixture
async def world(server: EmbeddedValkey) -> AsyncIterator[World]:
    store = Store.from_url(server.url)
    await store.start()
    made = World(store)
    if not (await store.standing([LaneId("orders", 0, 0)]))[0].sequence:
        await made.run()
    else:  # a test before this one ran them
        made.log.ends = {
            s.lane.partition: (s.offset or 0) + 3 for s in await store.standing([LaneId("orders", 0, p) for p in range(PARTITIONS)])
        }
    yield made
    await store.close()


async def test_every_order_of_the_shop_is_found_and_tells_its_story(world: World) -> None:
    for order_id in {fact.order for fact in world.facts}:
        detail = await world.reader.order(order_id)
        assert isinstance(detail, OrderDetail) and detail.id == order_id
        assert [m.at for m in detail.timeline] == sorted(m.at for m in detail.timeline)
        kinds = {m.kind for m in detail.timeline}
        assert "fact" in kinds
        if detail.number:
            assert "decision" in kinds and detail.decision is not None and detail.decision.reasons is not None
            assert detail.reached["order_placed"] == detail.placed_at
    assert await world.reader.order("lumi:none") is None


async def test_lists_by_status_agree_with_the_orders_in_them(world: World) -> None:
    counters = await world.reader.counters()
    for status, count in counters.orders.items():
        rows = await world.reader.orders(status, 500)
        assert len(rows) == count and {row.status for row in rows} == {status}
    every = await world.reader.orders("", 500)
    assert len(every) == sum(counters.orders.values()) >= ORDERS
    assert [row.moved_at for row in every] == sorted((row.moved_at for row in every), reverse=True)
    assert [row.id for row in await world.reader.orders("", 5)] == [row.id for row in every[:5]]


async def test_lists_go_on_where_a_page_ended(world: World) -> None:
    for tag in ("", "delivered"):
        every = [row.id for row in await world.reader.orders(tag, 500)]
        seen: list[str] = []
        before = None
        while page := await world.reader.orders(tag, 7, before):
            seen += [row.id for row in page]
            before = page[-1].moved_at, page[-1].id
        assert seen == every


async def test_a_row_says_the_same_as_its_order(world: World) -> None:
    for row in await world.reader.orders("", 20):
        detail = await world.reader.order(row.id)
        assert detail is not None
        assert (row.status, row.total, row.flags) == (detail.status, detail.total, detail.flags)


@pytest.mark.parametrize("queue", ["review", "finance"])
async def test_a_queue_holds_every_order_with_its_flag_and_the_same_as_its_evidence(world: World, queue: str) -> None:
    rows = await world.reader.reviews(queue, 500)
    flagged = {row.id for row in await world.reader.orders("", 500) if queue in row.flags}
    assert {row.id for row in rows} == flagged and flagged
    assert list(rows) == sorted(rows, key=urgency) and await world.reader.reviews(queue, 1) == rows[:1]
    for row in rows:
        found = await world.reader.evidence(row.id, queue)
        assert found is not None and found.waiting == row and row.reasons
        assert found.holds if queue == "review" else found.troubles
        assert not row.due or row.due == row.since + Policy().review_sla_ms
    others = [row.id for row in await world.reader.orders("", 500) if queue not in row.flags]
    for order_id in others[:5]:
        found = await world.reader.evidence(order_id, queue)
        assert found is not None and found.waiting is None
    assert await world.reader.evidence("lumi:none", queue) is None


async def test_of_a_hundred_reviewers_who_claim_one_order_one_has_it_and_only_they_decide(world: World) -> None:
    desk = Desk(world.reader, world.store, Acts(world.log, world.clock), Metrics())  # type: ignore[arg-type]
    order_id = (await desk.rows("review"))[0].id
    answers = await asyncio.gather(*(desk.claim(order_id, f"reviewer {n}") for n in range(100)), return_exceptions=True)
    (won,) = [answer for answer in answers if isinstance(answer, Held)]
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"claimed"}
    assert (await desk.rows("review"))[0].claimed_by == won.claimed_by
    written = len(world.log.records)
    verdict = Verdict(decision="approve", reason="known customer")
    with pytest.raises(Refusal, match="claimed"):
        await desk.decide(order_id, "somebody else", verdict)
    await desk.decide(order_id, won.claimed_by, verdict)
    (fact,) = [decode_fact(value) for topic, _, value in world.log.records[written:] if topic == "facts"]
    assert isinstance(fact, ReviewDecided) and (fact.order, fact.by) == (order_id, won.claimed_by)
    assert order_id not in [row.id for row in await desk.rows("review")]
    await world.store.unclaim(order_id, won.claimed_by)


async def test_counters_add_up_and_know_what_waits_in_the_log(world: World) -> None:
    counters = await world.reader.counters()
    assert counters.waiting == 3 * PARTITIONS
    assert counters.accepted == counters.done + counters.parked + counters.waiting == len(world.facts) + PARTITIONS + 3 * PARTITIONS
    assert counters.facts == len(world.facts)
    assert counters.behind == {"intake": 0, "orders": 3 * PARTITIONS, "references": 0, "stock": 0, "customers": 0}
    assert counters.oldest == {"orders": WRITTEN}
    assert counters.flags["incomplete"] == PARTITIONS and "shipped" not in counters.flags
    assert counters.scores > 0 and counters.parked_now == PARTITIONS


async def test_parked_records_say_where_they_came_from_and_not_what_is_in_them(world: World) -> None:
    rows = await world.reader.parked("", 10)
    assert len(rows) == PARTITIONS
    for row in rows:
        assert (row.reason, row.processor, row.topic, row.size) == ("malformed", "orders", "facts", 1)
    assert await world.reader.parked("schema", 10) == []
    marked = await world.reader.order("lumi:1")
    assert marked is not None and "incomplete" in marked.flags


async def test_an_order_is_found_by_its_id_its_number_its_parcels_its_payments_and_its_customer(world: World) -> None:
    one, other = sorted({fact.order for fact in world.facts})[:2]
    at = world.clock.now()
    linked = [("tracking", "1Z9", one), ("payment", "pi_1", one), ("payment", "pi_2", one), ("payment", "pi_2", other)]
    linked += [("number", "1001", one), ("number", "1001", other)]  # two shops count alike
    asked = MessageRequested(
        at=at, effect="e", order=other, customer="lumi:c9", template="order_placed", channel="email", kind="transactional", fields={},
        person=Person(), milestone_at=at, expires=at + 1,
    )  # fmt: skip
    links = [(f"{kind}:{v}", ReferenceLinked(at=at, kind=kind, value=v, order=order, since=at)) for kind, v, order in linked]
    await world.tell(ReferencesProcessor(), *links)
    await world.tell(CustomersProcessor(Renderer(Brand(), WayBack([b"0123456789abcdef"]))), ("lumi:c9", asked))
    own = one.partition(":")[2]
    numbers = ((own, {one}), (f"#{own}", {one}), ("1001", {one, other}), ("#1001", {one, other}))
    for text, orders in (
        *numbers,
        (one, {one}),
        ("1Z9", {one}),
        ("1z 9", {one}),
        ("pi_1", {one}),
        ("pi_2", {one, other}),
        ("lumi:c9", {other}),
    ):
        assert {row.id for row in await world.reader.find(text)} == orders, text
    for text in ("", "pi_", "ana@example.invalid", "payment:pi_1", "\ud800"):
        assert await world.reader.find(text) == []
