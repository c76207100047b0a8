"""A state that no encoder can write is a poisoned record like any other: found, parked, and its neighbours go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.store import LaneId, Store
from orders.effect import Claim, Outcome
from streams.clock import VirtualClock
from streams.dispatch import SLOTS, Dispatcher, Modes
from streams.lane import Lane, Limits, decode_parked
from streams.processor import Asked, Inputs
from tests.streams.test_lane import LANE, until
from tests.streams.toy import MemoryLog, Toy, chunk

BIG = 1 << 64  # msgpack has 64 bits


class Unwritable(Toy):
    """The value `big` makes a state that cannot be written; every record wants an effect."""

    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        asked = super().ask(states, inputs, now)
        for record in inputs.records:
            if record.value == b"big":
                assert record.key is not None
                asked.work[0][record.key.decode()]["n"] = BIG
        return asked


class Never:
    """A sender that is never reached."""

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        return [Outcome(key=c.key, effect=c.effect, attempt=c.attempt, kind="sent", at=now_ms) for c in claims]


async def test_it_is_parked_and_neither_its_neighbours_nor_the_channels_slots_are_lost(store: Store) -> None:
    await store.place(LANE, 0, "id-facts", sends=True)
    clock = VirtualClock(1_000_000)
    dispatcher = Dispatcher({"email": Never()}, clock, Modes(channels={"email": "live"}))
    ended: list[BaseException | None] = []
    lane = Lane(
        LaneId("toy", 0, 0), Unwritable(), store=store, publisher=MemoryLog(), clock=clock,
        channels=dispatcher, dispatch=dispatcher, limits=Limits(publish_retry_s=0.01),
    )  # fmt: skip
    await lane.acquire()
    lane.start(lambda its, error: ended.append(error))
    for first in (0, 8):
        lane.offer(chunk(first, b"send", b"send", b"send", b"big", b"send", b"send", b"send", b"big"))
    await until(lambda: lane.held is not None and lane.held.offset == 16)
    await until(lambda: not any(dispatcher._in_flight.values()))
    await lane.quiesce(5)
    rows = [decode_parked(row) for _, _, row in await store.parked_list([LANE])]
    assert sorted((row.reason, row.detail, row.offset, row.value) for row in rows) == [
        ("processor_error", "OverflowError", offset, b"big") for offset in (3, 7, 11, 15)
    ]
    assert ended == [None] and (await store.standing([LANE]))[0].counts["done"] == 12
    assert all(dispatcher.take("email") for _ in range(SLOTS)), "as many slots as before"
