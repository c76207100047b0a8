"""Lanes on a real store: nothing lost, nothing doubled, nothing sent before its claim is in the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.store import LaneId, LaneLost, Store, StoreWentBack
from orders.effect import Claim, Outcome
from streams.clock import VirtualClock
from streams.dispatch import Dispatcher, Modes
from streams.lane import DueHead, Lane, Limits, begins_after, decode_parked
from tests.streams.toy import MemoryLog, Toy, chunk

LANE = LaneId("toy", 0, 0)
LIVE = Modes(channels={"email": "live"})


class Sent:
    """A sender that remembers, and answers what it is told to."""

    def __init__(self, log: MemoryLog) -> None:
        self.log, self.claims, self.kind = log, list[Claim](), "sent"
        self.journal_at_call: list[int] = []

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        self.journal_at_call.append(len(self.log.values("journal")))
        self.claims += claims
        return [Outcome(key=c.key, effect=c.effect, attempt=c.attempt, kind=self.kind, at=now_ms) for c in claims]


class World:
    def __init__(self, store: Store) -> None:
        self.store, self.log, self.clock = store, MemoryLog(), VirtualClock(1_000_000)
        self.sender = Sent(self.log)
        self.dispatcher = Dispatcher({"email": self.sender}, self.clock, LIVE)
        self.ended: list[BaseException | None] = []
        self.repositioned = 0

    def lane(self, failpoint: Callable[[str], None] = lambda name: None, limits: Limits | None = None) -> Lane:
        def reposition(lane: Lane) -> None:
            self.repositioned += 1

        return Lane(
            LANE,
            Toy(),
            store=self.store,
            publisher=self.log,
            clock=self.clock,
            channels=self.dispatcher,
            dispatch=self.dispatcher,
            reposition=reposition,
            failpoint=failpoint,
            limits=limits or Limits(publish_retry_s=0.01),
        )

    async def started(self, **kwargs: Any) -> Lane:
        lane = self.lane(**kwargs)
        await lane.acquire()
        lane.start(lambda its, error: self.ended.append(error))
        return lane

    async def state(self, key: str) -> Any:
        blob = await self.store.state(LANE, key)
        return None if blob is None else Toy.decode(blob)


@pytest.fixture
async def world(store: Store) -> World:
    await store.place(LANE, 0, "id-facts", sends=True)
    return World(store)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


def at(lane: Lane, offset: int) -> Callable[[], bool]:
    return lambda: lane.held is not None and lane.held.offset == offset


async def test_a_chunk_becomes_states_output_and_position(world: World) -> None:
    lane = await world.started()
    lane.offer(chunk(0, *[b"x"] * 7))
    await until(at(lane, 7))
    await lane.quiesce(5)
    assert [(await world.state(f"k{n}"))["n"] for n in range(3)] == [3, 2, 2]
    assert world.log.values("out") == [b"k0 1", b"k1 1", b"k2 1", b"k0 2", b"k1 2", b"k2 2", b"k0 3"]
    assert (await world.store.standing([LANE]))[0].counts == {"accepted": 7, "done": 7}


async def test_what_was_taken_in_before_is_cut_off_and_a_hole_is_read_again(world: World) -> None:
    lane = await world.started()
    lane.offer(chunk(0, b"x", b"x", b"x"))
    lane.offer(chunk(0, b"x", b"x", b"x"))  # handed over twice
    lane.offer(chunk(1, b"x", b"x", b"x"))  # one new record
    await until(at(lane, 4))
    lane.offer(chunk(6, b"x"))  # 4 and 5 are missing
    await until(lambda: world.repositioned)
    lane.offer(chunk(4, b"x", b"x", b"x"))
    await until(at(lane, 7))
    await lane.quiesce(5)
    assert sum([(await world.state(f"k{n}"))["n"] for n in range(3)]) == 7


async def test_poison_is_parked_with_its_bytes_and_neighbours_go_on(world: World) -> None:
    lane = await world.started()
    lane.offer(chunk(0, b"x", b"bad", b"x", b"bug", b"x"))
    await until(at(lane, 5))
    await lane.quiesce(5)
    rows = {name: decode_parked(row) for _, name, row in await world.store.parked_list([LANE])}
    assert {(r.reason, r.offset, r.value) for r in rows.values()} == {("malformed", 1, b"bad"), ("processor_error", 3, b"bug")}
    assert (await world.store.standing([LANE]))[0].counts == {"accepted": 5, "done": 3, "parked": 2}
    assert len(world.log.values("out")) == 3
    assert world.log.values("marks") == [b"bug"], "what is parked for a reason of its own was marked by its processor"
    assert all(b"a bug" not in row for _, _, row in await world.store.parked_list([LANE])), "an error's text may hold personal data"


async def test_nothing_but_bugs_ends_the_worker_instead_of_filling_the_parking_lot(world: World) -> None:
    lane = await world.started()
    lane.offer(chunk(0, *[b"bug"] * 200))
    await until(lambda: world.ended)
    assert isinstance(world.ended[0], ValueError)
    assert len(await world.store.parked_list([LANE], limit=1000)) < 100


async def test_a_due_state_is_looked_at_when_its_time_has_come(world: World) -> None:
    lane = await world.started()
    lane.offer(chunk(0, b"later"))
    await until(at(lane, 1))
    lane.nudge()
    await asyncio.sleep(0.05)
    assert (await world.state("k0"))["fired"] == 0
    world.clock.move_to(world.clock.now() + 200)
    lane.nudge()
    async with asyncio.timeout(5):
        while (await world.state("k0"))["fired"] == 0:
            await asyncio.sleep(0.01)
    await lane.quiesce(5)
    assert await world.store.due(LANE, 10) == []


async def test_a_call_leaves_only_when_its_claim_is_in_the_journal(world: World) -> None:
    lane = await world.started()
    world.log.down = True
    lane.offer(chunk(0, b"send"))
    await until(at(lane, 1))
    await asyncio.sleep(0.1)
    assert world.sender.claims == [], "the log does not take the claim, so nothing may leave"
    world.log.down = False
    await until(lambda: world.sender.claims)
    assert world.sender.journal_at_call == [1]
    await until(lambda: lane.held is not None and lane.held.sequence == 2)
    await lane.quiesce(5)
    assert (await world.state("k0"))["sends"] == {"k0-0": {"state": "sent"}}
    assert await world.store.bodies(LANE, ["k0-0:1"]) == [None], "the bytes are kept only as long as the attempt is open"


async def test_a_lane_that_waits_for_the_log_says_so_as_long_as_it_does(world: World) -> None:
    lane = await world.started()
    world.log.down = True
    for n in range(6):  # more commits than may be on their way to the log
        lane.offer(chunk(n, b"x"))
        await asyncio.sleep(0.02)
    await until(lambda: lane.outbox_full)
    world.log.down = False
    await until(at(lane, 6))
    await lane.quiesce(5)
    assert not lane.outbox_full


async def test_closed_sends_look_like_a_stop(world: World) -> None:
    await world.store.set_sends([LANE], sends=False)
    lane = await world.started()
    lane.offer(chunk(0, b"send"))
    await until(at(lane, 1))
    await lane.quiesce(5)
    assert world.sender.claims == [] and (await world.state("k0"))["sends"] == {"k0-0": {"state": "open"}}


async def test_no_more_is_claimed_than_the_channel_can_start(world: World) -> None:
    world.dispatcher = Dispatcher({"email": Hanging()}, world.clock, LIVE, slots=3)
    lane = await world.started()
    lane.offer(chunk(0, *[b"send"] * 10))
    await until(at(lane, 10))
    await until(lambda: len(Hanging.claims) == 3)
    sends = [send["state"] for n in range(3) for send in (await world.state(f"k{n}"))["sends"].values()]
    assert sorted(sends) == ["claimed"] * 3 + ["open"] * 7
    assert len(await world.store.due(LANE, 10)) > 0, "the rest waits in the schedule"
    await lane.quiesce(1)


class Hanging:
    claims: list[Claim] = []

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        Hanging.claims += claims
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_zombie_can_neither_commit_nor_send(world: World) -> None:
    zombie = await world.started()
    zombie.offer(chunk(0, b"x"))
    await until(at(zombie, 1))
    other = await world.started()
    zombie.offer(chunk(1, b"send", b"send"))
    await until(lambda: world.ended)
    assert isinstance(world.ended[0], LaneLost)
    assert world.sender.claims == [] and zombie.position is None
    other.offer(chunk(1, b"x"))
    await until(at(other, 2))
    await other.quiesce(5)
    assert sum([(await world.state(f"k{n}") or {"n": 0})["n"] for n in range(3)]) == 2


async def test_back_pressure_by_count_bytes_and_age(world: World) -> None:
    lane = world.lane(limits=Limits(inbox_records=10, inbox_bytes=1000))
    await lane.acquire()
    assert lane.room
    lane.offer(chunk(0, *[b"x"] * 10))
    assert not lane.room
    await lane.quiesce(1)
    assert lane.room
    lane.offer(chunk(0, b"x" * 2000))
    assert not lane.room


async def test_a_store_that_went_back_is_noticed_and_nothing_is_sent_again(world: World) -> None:
    lane = await world.started()
    lane.offer(chunk(0, b"send"))
    await until(lambda: lane.held is not None and lane.held.sequence == 2)
    await world.store._client.flushall()
    await world.store.place(LANE, 0, "id-facts", sends=True)
    lane.offer(chunk(1, b"x"))
    await until(lambda: world.ended)
    assert isinstance(world.ended[0], StoreWentBack)
    assert len(world.sender.claims) == 1


STEPS = ("before_commit", "after_commit", "after_publish")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_killed_at_every_step_the_end_equals_the_clean_run(world: World, step: str, nth: int) -> None:
    """The lane dies at that step of its nth commit; another takes over from the store. Outputs may repeat, never differ or lack."""
    values: Sequence[bytes] = (b"x", b"send", b"x", b"x", b"send", b"x")
    seen = 0

    def die(name: str) -> None:
        nonlocal seen
        seen += name == step
        if name == step and seen == nth:
            raise Killed

    lane = await world.started(failpoint=die, limits=Limits(chunk_records=2, publish_retry_s=0.01))
    for first in (0, 2, 4):
        lane.offer(chunk(first, *values[first : first + 2]))
    await until(lambda: world.ended or at(lane, 6)())
    await lane.quiesce(1)
    heir = await world.started()
    position = heir.held.offset if heir.held else 0
    assert position is not None
    if position < 6:
        heir.offer(chunk(position, *values[position:]))
    await until(at(heir, 6))
    await asyncio.sleep(0.05)
    await heir.quiesce(5)
    assert sum([(await world.state(f"k{n}"))["n"] for n in range(3)]) == 6
    assert set(world.log.values("out")) == {b"k0 1", b"k1 1", b"k2 1", b"k0 2", b"k1 2", b"k2 2"}
    sent = [claim.effect for claim in world.sender.claims]
    assert len(sent) == len(set(sent)), "an effect left twice"
    journaled = [json.loads(entry)["effect"] for entry in _entries(world.log)]
    assert set(sent) <= set(journaled)


class Killed(BaseException):
    """Stands for `kill -9` at a step: nothing of ours runs afterwards."""


def _entries(log: MemoryLog) -> list[bytes]:
    return [json.dumps(entry).encode() for value in log.values("journal") for entry in json.loads(value)["entries"]]


@given(st.floats(0, 1e6), st.sampled_from([0.05, 0.06, 0.3]), st.floats(0, 1))
def test_turns_begin_at_multiples_of_their_distance_each_shift_at_its_own(moment: float, gather_s: float, share: float) -> None:
    begins = begins_after(moment, gather_s, share * gather_s)
    assert moment - 1e-9 <= begins <= moment + gather_s + 1e-9
    turns = (begins - share * gather_s) / gather_s
    assert abs(turns - round(turns)) < 1e-4
    assert begins_after(moment, 0.0, 0.0) == 0.0, "without a distance at any time"


async def test_no_two_turns_decide_at_the_same_time_though_the_clock_stands_still(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[int] = []
    answer = Toy.answer

    def noted(self: Toy, asked: Any, scores: Any, now: int, channels: Any) -> Any:
        decided.append(now)
        return answer(self, asked, scores, now, channels)

    monkeypatch.setattr(Toy, "answer", noted)
    lane = await world.started()
    for offset in range(3):
        lane.offer(chunk(offset, b"x"))
        await until(at(lane, offset + 1))
    await lane.quiesce(5)
    assert decided == [1_000_000, 1_000_001, 1_000_002]


async def test_what_became_of_calls_waits_for_what_is_read_next_and_records_wait_for_nothing(world: World) -> None:
    lane = await world.started(limits=Limits(gather_s=3600.0, publish_retry_s=0.01))
    lane.offer(chunk(0, b"send"))
    await until(at(lane, 1))
    await until(lambda: lane._outcomes)
    await asyncio.sleep(0.05)
    assert lane.held is not None and lane.held.sequence == 1
    lane.offer(chunk(1, b"x"))
    await until(at(lane, 2))
    assert lane.held.sequence == 2
    assert (await world.state("k0"))["sends"]["k0-0"]["state"] == "sent"
    lane.offer(chunk(2, b"send"))
    await until(at(lane, 3))
    await until(lambda: lane._outcomes)
    await lane.quiesce(5)
    assert (await world.state("k2"))["sends"]["k2-2"]["state"] == "sent", "a lane that comes to rest waits for nothing"


async def test_what_became_of_calls_does_not_wait_for_ever(world: World) -> None:
    lane = await world.started(limits=Limits(gather_s=0.05, publish_retry_s=0.01))
    lane.offer(chunk(0, b"send"))
    await until(at(lane, 1))
    async with asyncio.timeout(5):
        while (await world.state("k0"))["sends"]["k0-0"]["state"] != "sent":
            await asyncio.sleep(0.005)
    await lane.quiesce(5)


def test_what_was_first_in_the_schedule_and_is_put_off_is_first_no_longer() -> None:
    head = DueHead(limit=10)
    head.load([("a", 10), ("b", 20)])
    head.update({"a": 50})
    assert head.first() == 20, "else a lane wakes for nothing, again and again"
    head.update({"b": 40})
    assert head.first() == 40
    head.update({"b": 60, "c": 45})
    assert head.first() == 45 and head.take(50, 10) == ["c", "a"]


def test_the_head_of_the_schedule_knows_when_it_knows_nothing() -> None:
    head = DueHead(limit=3)
    head.load([("a", 10), ("b", 20), ("c", 30)])  # full: there may be more beyond 30
    head.update({"z": 40})
    assert head.take(15, 10) == ["a"]
    head.update({"a": 0, "b": 0, "c": 0})
    assert head.exhausted and head.first() == 30
    head.load([("z", 40)])
    assert head.first() == 40 and not head.exhausted
    head.update({"y": 5, "z": 0})
    assert head.first() == 5 and head.take(5, 10) == ["y"]
