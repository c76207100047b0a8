"""From claims to senders and back: modes and stops, slots, what a sender that fails leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from orders.effect import Claim, Outcome
from streams.clock import VirtualClock
from streams.dispatch import RETRY_MAX_MS, Dispatcher, Modes
from streams.lane import Lane

LIVE = Modes(version=3, channels={"email": "live", "sms": "sandbox", "webhook": "stopped"})


class Sent:
    """A sender that answers when it is let, or fails."""

    def __init__(self) -> None:
        self.batches: list[list[Claim]] = []
        self.let = asyncio.Event()
        self.let.set()
        self.error: BaseException | None = None

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        self.batches.append(claims)
        await self.let.wait()
        if self.error is not None:
            raise self.error
        return [Outcome(key=c.key, effect=c.effect, attempt=c.attempt, kind="sent", at=now_ms) for c in claims]


class Owner:
    """What a dispatcher needs of a lane."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def deliver(self, outcomes: list[Outcome]) -> None:
        self.outcomes += outcomes


def claim(n: int, channel: str = "email", lookup: bool = False) -> Claim:
    return Claim(lane="orders.0.0", key=f"k{n}", effect=f"e{n}", channel=channel, attempt=1, deadline=0, body=b"", lookup=lookup)


class World:
    def __init__(self, slots: int = 4, modes: Modes = LIVE) -> None:
        self.email, self.sms, self.clock = Sent(), Sent(), VirtualClock(1000)
        self.dispatcher = Dispatcher({"email": self.email, "sms": self.sms}, self.clock, modes, slots=slots)

    def submit(self, owner: Owner, *claims: Claim) -> None:
        self.dispatcher.submit(cast(Lane, owner), claims)


@pytest.fixture
async def world() -> World:
    return World()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("modes", "email", "sms", "push"),
    [
        (LIVE, "live", "sandbox", "observe"),
        (Modes(stop="wrong prices", channels={"email": "live", "sms": "observe"}), "stopped", "observe", "observe"),
        (Modes(default="live"), "live", "live", "live"),
        (Modes(), "observe", "observe", "observe"),
    ],
)
async def test_the_mode_of_a_channel(modes: Modes, email: str, sms: str, push: str) -> None:
    dispatcher = World(modes=modes).dispatcher
    assert [dispatcher.mode(channel) for channel in ("email", "sms", "push")] == [email, sms, push]
    assert dispatcher.take("email") == (email in ("live", "sandbox"))
    assert not dispatcher.take("push"), "nobody sends there"


async def test_a_stop_counts_at_once_and_names_its_version(world: World) -> None:
    assert world.dispatcher.take("email") and world.dispatcher.version == 3
    world.dispatcher.modes = Modes(version=4, stop="wrong prices", channels=LIVE.channels)
    assert not world.dispatcher.take("email") and world.dispatcher.version == 4


async def test_what_was_claimed_before_a_stop_and_has_not_left_is_not_made(world: World) -> None:
    owner = Owner()
    for _ in range(2):
        assert world.dispatcher.take("email")
    world.submit(owner, claim(1), claim(2, lookup=True))
    world.dispatcher.modes = Modes(version=4, stop="wrong prices", channels=LIVE.channels)
    await until(lambda: len(owner.outcomes) == 2)
    assert world.email.batches == []
    assert [(o.effect, o.kind, o.reason) for o in owner.outcomes] == [("e1", "retryable", "stopped"), ("e2", "unknown", "stopped")]
    world.dispatcher.modes = LIVE
    assert all(world.dispatcher.take("email") for _ in range(4)), "their slots came back"


async def test_no_more_slots_than_the_channel_has_and_each_comes_back_with_its_outcome(world: World) -> None:
    owner = Owner()
    world.email.let.clear()
    assert [world.dispatcher.take("email") for _ in range(5)] == [True] * 4 + [False]
    assert world.dispatcher.take("sms"), "one full channel is no other's business"
    world.submit(owner, *map(claim, range(4)))
    await until(lambda: world.email.batches)
    assert not world.dispatcher.take("email")
    world.email.let.set()
    await until(lambda: len(owner.outcomes) == 4)
    assert [world.dispatcher.take("email") for _ in range(5)] == [True] * 4 + [False]
    world.dispatcher.give(["email"] * 2)
    assert [world.dispatcher.take("email") for _ in range(3)] == [True, True, False]


async def test_a_channel_is_full_while_somebody_waits_for_a_slot_of_it(world: World) -> None:
    for _ in range(4):
        assert world.dispatcher.take("email")
    assert not world.dispatcher.full("email"), "nobody was turned away"
    assert not world.dispatcher.take("email")
    world.dispatcher.retry_at("email", 1000)
    assert world.dispatcher.full("email") and not world.dispatcher.full("sms")
    world.dispatcher.modes = Modes(version=4, stop="wrong prices", channels=LIVE.channels)
    assert not world.dispatcher.full("email"), "a stop is no provider that cannot keep up"
    world.dispatcher.modes = LIVE
    world.dispatcher.give(["email"])
    assert not world.dispatcher.full("email")


async def test_claims_of_one_turn_of_the_loop_are_one_batch_and_go_back_to_their_own_lanes(world: World) -> None:
    one, other = Owner(), Owner()
    world.submit(one, claim(1), claim(2, "sms"))
    world.submit(other, claim(3))
    await until(lambda: len(one.outcomes) == 2 and other.outcomes)
    assert [[c.effect for c in batch] for batch in world.email.batches] == [["e1", "e3"]]
    assert sorted(o.effect for o in one.outcomes) == ["e1", "e2"] and [o.effect for o in other.outcomes] == ["e3"]


async def test_a_sender_that_fails_as_a_whole_leaves_unknowns(world: World) -> None:
    owner = Owner()
    world.email.error = OSError("anna@example.invalid")
    assert world.dispatcher.take("email")
    world.submit(owner, claim(1), claim(2))
    await until(lambda: len(owner.outcomes) == 2)
    assert {(o.kind, o.reason) for o in owner.outcomes} == {("unknown", "sender_failed")}
    assert all("anna" not in repr(o) for o in owner.outcomes)
    assert all(world.dispatcher.take("email") for _ in range(4))


async def test_those_refused_come_again_one_after_another_and_never_too_late(world: World) -> None:
    times = [world.dispatcher.retry_at("email", 1000) for _ in range(2000)]
    assert times == sorted(times) and 1000 < times[0] < 1300
    assert len(set(times)) > 100, "they do not all come at once"
    assert times[-1] <= 1000 + RETRY_MAX_MS
    assert world.dispatcher.take("email")
    assert world.dispatcher.retry_at("email", 1000) == times[0]


async def test_a_closing_dispatcher_waits_for_calls_but_begins_none(world: World) -> None:
    owner = Owner()
    world.email.let.clear()
    world.submit(owner, claim(1))
    await until(lambda: world.email.batches)
    closing = asyncio.create_task(world.dispatcher.close(10))
    await asyncio.sleep(0)
    assert not world.dispatcher.take("email") and world.dispatcher.mode("email") == "stopped"
    assert world.dispatcher.mode("push") == "observe", "what is observed is not opened by a stop"
    world.submit(owner, claim(2))
    await until(lambda: owner.outcomes)
    assert [(o.effect, o.kind) for o in owner.outcomes] == [("e2", "retryable")]
    world.email.let.set()
    await closing
    assert [o.effect for o in owner.outcomes] == ["e2", "e1"]


async def test_a_provider_that_hangs_does_not_hold_up_a_stop(world: World) -> None:
    world.email.let.clear()
    world.submit(Owner(), claim(1))
    await until(lambda: world.email.batches)
    async with asyncio.timeout(5):
        await world.dispatcher.close(0.01)
    await until(lambda: not world.dispatcher._tasks)
