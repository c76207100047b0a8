"""From claims to the channels' senders and back: slots, modes, batches.

A lane takes a slot when it claims, the dispatcher gives it back with the outcome, so that no more is claimed than a
channel can start now. The schedule of the lanes is the only queue: a stalled channel fills only its own schedule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import structlog

from orders.effect import Claim, Outcome
from streams.clock import Clock
from streams.lane import Lane

log = structlog.get_logger("dispatch")
SLOTS = 64  # in flight per channel and worker
RETRY_MS = 100  # how soon a refused state looks again, times its place in the queue
RETRY_MAX_MS = 30_000


class Modes(msgspec.Struct, frozen=True, kw_only=True):
    """The one versioned document of modes, stops and flags, as it lies in the store."""

    version: int = 0
    stop: str = ""  # why nothing is sent at all; "" means sending is allowed
    default: str = "observe"
    channels: dict[str, str] = {}  # channel -> "observe" | "sandbox" | "live" | "stopped"
    by: str = ""  # who changed it last; "": nobody, it is the configuration's
    at: int = 0  # ms


class Sender(Protocol):
    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        """One attempt each; same length, same order."""


class SendMeters(Protocol):
    def sent(self, claims: Sequence[Claim], outcomes: Sequence[Outcome], seconds: float) -> None:
        """What became of one batch of a channel, and how long that took."""

    def in_flight(self, channel: str, count: int) -> None: ...


class Dispatcher:
    """Implements `streams.processor.Channels` for processors and `streams.lane.Dispatch` for lanes."""

    def __init__(
        self, senders: Mapping[str, Sender], clock: Clock, modes: Modes, meters: SendMeters | None = None, slots: int = SLOTS
    ) -> None:
        self.modes = modes
        self._senders, self._clock, self._meters, self._slots = senders, clock, meters, slots
        self._in_flight: dict[str, int] = dict.fromkeys(senders, 0)
        self._refused: dict[str, int] = {}
        self._pending: dict[str, list[tuple[Lane, Claim]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # --- Channels
    @property
    def version(self) -> int:
        return self.modes.version

    def mode(self, channel: str) -> str:
        mode = self.modes.channels.get(channel, self.modes.default)
        if mode in ("live", "sandbox") and (self._closing or self.modes.stop):
            return "stopped"  # what is observed stays observed: it must not lie open until the stop ends
        return mode

    def take(self, channel: str) -> bool:
        in_flight = self._in_flight.get(channel)
        if in_flight is None or in_flight >= self._slots or self.mode(channel) not in ("live", "sandbox"):
            return False
        self._in_flight[channel] = in_flight + 1
        self._refused[channel] = 0
        return True

    def retry_at(self, channel: str, now: int) -> int:
        place = self._refused.get(channel, 0) + 1
        self._refused[channel] = place
        return now + min(RETRY_MS * (1 + place // self._slots), RETRY_MAX_MS)

    def full(self, channel: str) -> bool:
        """Somebody waits for a slot of a channel that may send."""
        waits = self._refused.get(channel, 0) > 0 and self._in_flight.get(channel, 0) >= self._slots
        return waits and self.mode(channel) in ("live", "sandbox")

    def channels(self) -> Sequence[str]:
        return list(self._senders)

    # --- Dispatch
    def submit(self, lane: Lane, claims: Sequence[Claim]) -> None:
        loop = asyncio.get_running_loop()
        for claim in claims:
            waiting = self._pending.setdefault(claim.channel, [])
            if not waiting:
                loop.call_soon(self._flush, claim.channel)
            waiting.append((lane, claim))

    def give(self, channels: Sequence[str]) -> None:
        for channel in channels:
            self._in_flight[channel] = max(0, self._in_flight.get(channel, 0) - 1)

    async def close(self, timeout: float) -> None:
        """No new calls; waits for those under way, at most so long. What is still out then becomes unknown at its deadline.

        Lanes must go on meanwhile: what the calls brought is theirs to commit.
        """
        self._closing = True
        await asyncio.sleep(0)  # what was submitted in this turn of the loop becomes a task
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()

    def _flush(self, channel: str) -> None:
        batch = self._pending.pop(channel, [])
        if batch:
            task = asyncio.create_task(self._send(channel, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, channel: str, batch: Sequence[tuple[Lane, Claim]]) -> None:
        claims = [claim for _, claim in batch]
        if self._meters:
            self._meters.in_flight(channel, self._in_flight.get(channel, 0))
        began = asyncio.get_running_loop().time()
        try:
            if self.mode(channel) == "stopped":  # stopped between the claim and the log's word that it has it
                outcomes = self._none_made(claims)
            else:
                outcomes = await self._senders[channel].send(claims, self._clock.now())
        except Exception as error:  # noqa: BLE001 - a sender that fails as a whole leaves nobody who knows what it did
            log.error("sender failed", channel=channel, error=type(error).__name__, claims=len(claims))
            outcomes = [_outcome(claim, "unknown", "sender_failed", self._clock.now()) for claim in claims]
        finally:
            self.give([channel] * len(claims))
        if self._meters:
            self._meters.sent(claims, outcomes, asyncio.get_running_loop().time() - began)
            self._meters.in_flight(channel, self._in_flight.get(channel, 0))
        by_lane: dict[Lane, list[Outcome]] = {}
        for (lane, _), outcome in zip(batch, outcomes, strict=True):
            by_lane.setdefault(lane, []).append(outcome)
        for lane, its in by_lane.items():
            lane.deliver(its)

    def _none_made(self, claims: Sequence[Claim]) -> list[Outcome]:
        """A look-up that was not made has found nothing out: only its being "retryable" would free the effect."""
        return [_outcome(claim, "unknown" if claim.lookup else "retryable", "stopped", self._clock.now()) for claim in claims]


def _outcome(claim: Claim, kind: str, reason: str, now: int) -> Outcome:
    return Outcome(key=claim.key, effect=claim.effect, attempt=claim.attempt, kind=kind, at=now, reason=reason)
