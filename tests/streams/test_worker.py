"""A worker's partitions: brought up, kept, laid down, taken away; and stopped with a clear word when store and log do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from connectors.store import Commit, Held, LaneId, Store, StoreDown
from orders.effect import Claim, Outcome
from streams import lane as lane_module
from streams import worker as worker_module
from streams.clock import VirtualClock
from streams.dispatch import Dispatcher, Modes
from streams.lane import Limits
from streams.processor import Record
from streams.transport import TP, LogDown
from streams.worker import STEP_S, Worker, journal_sequence
from tests.streams.toy import MemoryLog, Toy, chunk

FACTS = TP("facts", 0)
LANE = LaneId("toy", 0, 0)
LIVE = Modes(channels={"email": "live"})


class Slow:
    """A sender that answers when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.claims: list[Claim] = []

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        self.claims += claims
        await self.let.wait()
        return [Outcome(key=c.key, effect=c.effect, attempt=c.attempt, kind="sent", at=now_ms) for c in claims]


class Counting(Toy):
    """Counts what it had to decode: what was not in the cache."""

    decoded = 0

    @staticmethod
    def decode(blob: bytes) -> Any:
        Counting.decoded += 1
        return msgspec.msgpack.decode(blob)


class World:
    def __init__(self, store: Store) -> None:
        self.store, self.log, self.clock = store, MemoryLog(), VirtualClock(1_000_000)
        self.sender = Slow()
        self.sender.let.set()
        self.crashes: list[BaseException] = []
        self.repositioned: list[TP] = []

    def worker(self, store: Any = None, paces: Mapping[str, float] | None = None) -> Worker:
        return Worker(
            {"facts": Counting},
            layout=0,
            store=store or self.store,
            log=self.log,  # type: ignore[arg-type]
            clock=self.clock,
            dispatcher=Dispatcher({"email": self.sender}, self.clock, LIVE),
            limits=Limits(publish_retry_s=0.01),
            paces=paces,
            crash=self.crashes.append,
            reposition=self.repositioned.append,
        )

    async def facts(self, *values: bytes) -> None:
        end = len(self.log.records.get(FACTS, ()))
        await self.log.append("facts", [(b"k%d" % ((end + n) % 3), value) for n, value in enumerate(values)])

    async def feed(self, worker: Worker) -> None:
        """What a driver does: offers what lies beyond the position."""
        position = worker.position(FACTS)
        assert position is not None
        records: Sequence[Record] = await self.log.read("facts", 0, position, 1000)
        if records:
            worker.offer(chunk(position, *[record.value for record in records]))


@pytest.fixture
async def world(store: Store, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(worker_module, "STOLEN_WAIT_S", 0.05)
    monkeypatch.setattr(worker_module, "RETRY_S", 0.01)
    await store.place(LANE, 0, "id-facts", sends=True)
    return World(store)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


async def up(worker: Worker, world: World) -> None:
    worker.assigned(frozenset({FACTS}))
    await until(lambda: worker.position(FACTS) is not None)


def at(worker: Worker, offset: int) -> Callable[[], bool]:
    return lambda: worker.position(FACTS) == offset


async def test_a_partition_is_offered_to_nobody_before_its_lane_is_acquired(world: World) -> None:
    await world.facts(*[b"x"] * 5)
    worker = world.worker()
    assert not worker.is_ready() and worker.position(FACTS) is None and not worker.room(FACTS)
    worker.assigned(frozenset({FACTS}))
    assert worker.position(FACTS) is None and not worker.is_ready()
    assert FACTS in worker.unpositioned_since
    worker.offer(chunk(0, b"x"))  # a driver that does not listen changes nothing
    await until(worker.is_ready)
    assert worker.position(FACTS) == 0 and worker.room(FACTS) and world.repositioned == [FACTS]
    assert worker.unpositioned_since == {}
    await world.feed(worker)
    await until(at(worker, 5))
    held = worker.lanes[FACTS].held
    assert held is not None and worker.witness() == {FACTS: (5, f"{world.store.id}:{held.epoch}:5")}
    await worker.close()
    assert not worker.is_ready() and worker.position(FACTS) is None
    assert worker.witness() == {FACTS: (5, f"{world.store.id}:{held.epoch}:5")}, "the last word is written after the lanes came to rest"


async def test_what_comes_back_while_its_token_stands_keeps_its_cache(world: World) -> None:
    await world.facts(*[b"x"] * 3)
    worker = world.worker()
    await up(worker, world)
    await world.feed(worker)
    await until(at(worker, 3))
    lane, held = worker.lanes[FACTS], worker.lanes[FACTS].held
    token = held.token if held else ""
    await worker.revoked(frozenset({FACTS}))
    assert worker.lanes == {}
    Counting.decoded = 0
    await up(worker, world)
    assert worker.lanes[FACTS] is lane and lane.held is not None and lane.held.token == token
    await world.facts(*[b"x"] * 3)
    await world.feed(worker)
    await until(at(worker, 6))
    assert Counting.decoded == 0
    await worker.close()


async def test_the_time_spent_in_lanes_that_leave_stays_counted(world: World) -> None:
    worker = world.worker()
    await up(worker, world)
    await world.facts(b"x", b"x", b"x")
    await world.feed(worker)
    await until(at(worker, 3))
    await worker.revoked(frozenset({FACTS}))
    spent = worker.stages()["toy"]
    assert spent["commit"] > 0
    worker.assigned(frozenset())
    assert worker.stages()["toy"] == spent
    await worker.close()


async def test_what_another_worker_had_meanwhile_is_read_from_the_store(world: World) -> None:
    await world.facts(*[b"x"] * 3)
    worker, other = world.worker(), world.worker()
    await up(worker, world)
    await world.feed(worker)
    await until(at(worker, 3))
    await worker.revoked(frozenset({FACTS}))
    await world.facts(*[b"x"] * 3)
    await up(other, world)
    await world.feed(other)
    await until(at(other, 6))
    await other.close()
    await world.facts(*[b"x"] * 3)
    await up(worker, world)
    assert worker.position(FACTS) == 6
    await world.feed(worker)
    await until(at(worker, 9))
    await worker.close()
    assert {key: Toy.decode(blob)["n"] async for key, blob in world.store.states(LANE)} == {"k0": 3, "k1": 3, "k2": 3}


async def test_a_lane_that_was_stolen_is_taken_again_after_a_wait(world: World) -> None:
    await world.facts(*[b"x"] * 3)
    worker = world.worker()
    await up(worker, world)
    first = worker.lanes[FACTS].held
    thief = await world.store.acquire(LANE)
    await world.feed(worker)
    await until(lambda: FACTS in worker.unpositioned_since)
    await until(worker.is_ready)
    held = worker.lanes[FACTS].held
    assert held is not None and first is not None and first is not held and held.epoch > thief.epoch
    await world.feed(worker)
    await until(at(worker, 3))
    await worker.close()
    assert world.crashes == []


async def test_a_store_that_was_away_is_come_back_to(world: World) -> None:
    class Flaky:
        """Loses the next commit, before or after it was made."""

        def __init__(self) -> None:
            self.fail = ""

        async def commit(self, held: Held, commit: Commit) -> None:
            fail, self.fail = self.fail, ""
            if fail == "before":
                raise StoreDown("away")
            await world.store.commit(held, commit)
            if fail == "after":
                raise StoreDown("away")

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

    store = Flaky()
    worker = world.worker(store)
    await world.facts(*[b"x"] * 3)
    await up(worker, world)
    for end, fail in ((3, "before"), (6, "after")):
        store.fail = fail
        await world.feed(worker)
        await until(lambda: not store.fail)
        await until(worker.is_ready)
        await world.feed(worker)
        await until(at(worker, end))
        await world.facts(*[b"x"] * 3)
    await worker.close()
    assert {key: Toy.decode(blob)["n"] async for key, blob in world.store.states(LANE)} == {"k0": 2, "k1": 2, "k2": 2}
    assert world.crashes == []


async def test_a_log_that_is_away_is_waited_for(world: World) -> None:
    real, left = world.log.bounds, [2]

    async def down(topic: str) -> dict[int, tuple[int, int]]:
        left[0] -= 1
        if left[0] >= 0:
            raise LogDown("away")
        return await real(topic)

    world.log.bounds = down  # type: ignore[method-assign]
    worker = world.worker()
    await up(worker, world)
    assert world.crashes == []
    await worker.close()


# --- stopped, and nothing reset
@pytest.mark.parametrize(
    ("case", "reason", "word"),
    [
        ("missing", "log_mismatch", "no position"),
        ("beyond", "log_mismatch", r"position 9 lies outside the log \(0 to 3\)"),
        ("before", "log_mismatch", r"position 0 lies outside the log \(2 to 3\)"),
        ("other", "log_mismatch", "of the topic id-of-another, this log's is id-facts"),
        ("rebuilding", "rebuilding", "cut short"),
        ("back", "store_went_back", "the journal holds sequence 7, the store only 0"),
    ],
)
async def test_a_store_that_does_not_fit_the_log_stops_its_partition_and_nothing_is_reset(
    world: World, case: str, reason: str, word: str
) -> None:
    await world.facts(*[b"x"] * 3)
    meta = f"{LANE.prefix}:m"
    match case:
        case "missing":
            await world.store._client.flushdb()
        case "beyond":
            await world.store._client.hset(meta, "offset", 9)
        case "before":
            world.log.bounds = _first_two_expired(world.log)  # type: ignore[method-assign]
        case "other":
            await world.store._client.hset(meta, "log", "id-of-another")
        case "rebuilding":
            await world.store._client.hset(meta, "mark", "rebuilding")
        case "back":
            for sequence in (6, 7):
                await world.log.append("journal", [(b"toy.0.0", b'{"lane":"toy.0.0","sequence":%d,"at":1,"entries":[]}' % sequence)], 0)
    worker = world.worker()
    worker.assigned(frozenset({FACTS}))
    await until(lambda: worker.stopped)
    assert worker.stopped[FACTS].reason == reason
    with pytest.raises(AssertionError, match=word):
        raise AssertionError(worker.stopped[FACTS].detail)
    assert not worker.is_ready() and worker.position(FACTS) is None
    assert worker.unpositioned_since == {}, "the watchdog must not start it again and again"
    before = await world.store.standing([LANE])
    worker.offer(chunk(0, b"x"))
    await worker.close()
    assert await world.store.standing([LANE]) == before


def _first_two_expired(log: MemoryLog) -> Any:
    real = log.bounds

    async def bounds(topic: str) -> dict[int, tuple[int, int]]:
        return {p: (2 if topic == "facts" else first, end) for p, (first, end) in (await real(topic)).items()}

    return bounds


async def test_a_store_put_back_under_a_running_worker_stops_the_partition(world: World) -> None:
    await world.facts(*[b"x"] * 3)
    worker = world.worker()
    await up(worker, world)
    keys = {key: await world.store._client.dump(key) for key in await world.store._client.keys("{*")}
    await world.feed(worker)
    await until(at(worker, 3))
    for key in await world.store._client.keys("{*"):
        await world.store._client.delete(key)
    for key, blob in keys.items():
        await world.store._client.restore(key, 0, blob or b"")
    await world.facts(b"x")
    await world.feed(worker)
    await until(lambda: worker.stopped)
    assert worker.stopped[FACTS].reason == "store_went_back"
    assert not worker.is_ready() and worker.position(FACTS) is None and world.crashes == []
    await worker.close()


async def test_a_driver_that_cannot_read_at_the_position_stops_the_partition(world: World) -> None:
    worker = world.worker()
    await up(worker, world)
    worker.mismatch(FACTS, "position 0 has expired")
    assert worker.stopped[FACTS].reason == "log_mismatch" and worker.position(FACTS) is None and not worker.is_ready()
    await worker.close()


async def test_an_outbox_of_another_installation_is_not_published(world: World) -> None:
    held = await world.store.acquire(LANE)
    worker = world.worker()
    await up(worker, world)
    await world.facts(b"x")
    world.log.down = True  # committed, and its outbox not published
    await world.feed(worker)
    await until(at(worker, 1))
    (task,) = worker.lanes[FACTS]._publishing.values()
    task.cancel()  # it dies before the log comes back
    await asyncio.wait([task])
    world.log.down = False
    await world.store._client.hset(f"{LANE.prefix}:m", "log", "id-of-another")
    heir = world.worker()
    heir.assigned(frozenset({FACTS}))
    await until(lambda: heir.stopped)
    await heir.close()
    assert world.log.values("out") == []
    await world.store._client.hset(f"{LANE.prefix}:m", "log", held.log)
    heir = world.worker()
    await up(heir, world)
    await until(lambda: world.log.values("out"))
    await heir.close()
    assert world.log.values("out") == [b"k0 1"]


async def calling(world: World, *values: bytes) -> Worker:
    """A worker whose sender is in a call that does not come back before `world.sender.let` is set."""
    world.sender.let.clear()
    await world.facts(*values or (b"send",))
    worker = world.worker()
    await up(worker, world)
    await world.feed(worker)
    await until(lambda: world.sender.claims)
    return worker


async def test_what_came_of_the_last_calls_is_committed_by_a_stop(world: World) -> None:
    worker = await calling(world)
    asyncio.get_running_loop().call_later(0.05, world.sender.let.set)
    await worker._dispatcher.close(5)
    await worker.close()
    assert Toy.decode((await world.store.state(LANE, "k0")) or b"")["sends"] == {"k0-0": {"state": "sent"}}


async def test_a_call_under_way_when_its_partition_leaves_is_waited_for(world: World) -> None:
    """Otherwise every rebalance would leave a handful of messages of which nobody knows whether they were sent."""
    worker = await calling(world, b"send", b"x")
    leaving = asyncio.create_task(worker.revoked(frozenset({FACTS})))
    await world.facts(b"send")
    asyncio.get_running_loop().call_later(0.1, world.sender.let.set)
    await leaving
    assert Toy.decode((await world.store.state(LANE, "k0")) or b"")["sends"] == {"k0-0": {"state": "sent"}}
    assert len(world.sender.claims) == 1


async def test_a_call_that_hangs_keeps_a_partition_from_leaving_only_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "CALLS_S", 0.05)
    worker = await calling(world)
    async with asyncio.timeout(2):
        await worker.revoked(frozenset({FACTS}))
    assert Toy.decode((await world.store.state(LANE, "k0")) or b"")["sends"] == {"k0-0": {"state": "claimed"}}
    world.sender.let.set()


async def test_an_outcome_whose_commit_failed_is_known_to_the_lane_that_comes_back(world: World) -> None:
    worker = await calling(world)
    await world.store.acquire(LANE)  # a thief for a moment
    world.sender.let.set()
    await until(lambda: FACTS in worker.unpositioned_since)
    await until(worker.is_ready)
    async with asyncio.timeout(5):
        while Toy.decode((await world.store.state(LANE, "k0")) or b"")["sends"]["k0-0"]["state"] != "sent":
            await asyncio.sleep(0.005)
    await worker.close()
    assert len(world.sender.claims) == 1


async def test_neighbouring_partitions_are_read_at_different_moments_and_never_twice_for_one_turn(world: World) -> None:
    worker = world.worker(paces={"toy": 0.06})
    worker.assigned(frozenset(TP("facts", partition) for partition in range(4)))
    now = 1000.01
    moments = [worker.next_reading(TP("facts", partition), now) for partition in range(4)]
    assert all(now < moment <= now + 0.06 for moment in moments)
    apart = sorted((moment - moments[0]) % 0.06 for moment in moments)
    assert apart == pytest.approx([0.0, STEP_S, 2 * STEP_S, 3 * STEP_S], abs=1e-6)
    assert worker.next_reading(TP("facts", 0), moments[0] + 0.001) == pytest.approx(moments[0] + 0.06)
    assert worker.next_reading(TP("elsewhere", 0), now) == 0.0
    await worker.close()


async def test_a_bug_outside_of_records_ends_the_worker(world: World) -> None:
    async def broken(topic: str) -> dict[int, tuple[int, int]]:
        raise ZeroDivisionError

    world.log.bounds = broken  # type: ignore[method-assign]
    worker = world.worker()
    worker.assigned(frozenset({FACTS}))
    await until(lambda: world.crashes)
    assert isinstance(world.crashes[0], ZeroDivisionError)
    await asyncio.gather(*worker._raising.values(), return_exceptions=True)
    await worker.close()


# --- how far the journal is
async def test_the_journals_greatest_sequence_is_found_from_its_end_however_far_back() -> None:
    log = MemoryLog()

    async def write(lane: str, sequence: int) -> None:
        await log.append("journal", [(lane.encode(), b'{"lane":"%s","sequence":%d,"entries":[]}' % (lane.encode(), sequence))], 0)

    assert await journal_sequence(log, LANE) == 0  # type: ignore[arg-type]
    for sequence in (1, 3, 4):
        await write("toy.0.0", sequence)
    await write("toy.0.0", 3)  # published again by an heir
    assert await journal_sequence(log, LANE) == 4  # type: ignore[arg-type]
    for sequence in range(700):
        await write("orders.0.0", sequence)
    assert await journal_sequence(log, LANE) == 4  # type: ignore[arg-type]
    assert await journal_sequence(log, LaneId("stock", 0, 0)) == 0  # type: ignore[arg-type]
