"""Makes claims happen: one attempt each, within a channel's pace, and says what became of them.

A plain class; `handles.py` puts it into a Ray actor. It remembers nothing about what was sent: whether an effect is
still wanted was decided at the claim, whether it is made again is the schedule's to decide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any

from aiolimiter import AsyncLimiter

from actors.breaker import Breaker
from connectors.base import Answer, Connector, Done, Reason, Refused, TryLater, Unknown
from connectors.registry import connect
from orders.effect import Claim, Outcome

log = logging.getLogger("orderflow.sender")

BACKOFF_S = 2.0  # first pause of a failed effect; it doubles with each attempt
BACKOFF_CAP_S = 15 * 60.0
RATE_S = 1.0  # pause of a channel that was told to slow down without being told for how long

# Reasons that say the provider, or the way to it, is unwell. Others are about one message, or about pace.
UNWELL = frozenset(
    {
        *(Reason.CONNECT, Reason.DNS, Reason.TLS, Reason.PROVIDER, Reason.CREDENTIALS, Reason.CONFIGURATION),
        *(Reason.TIMEOUT, Reason.DROPPED, Reason.GATEWAY),
    }
)


class Sender:
    """One channel. Settings are the connector's, with secrets resolved; raises SettingsError naming the field."""

    def __init__(self, channel: str, settings: dict[str, Any], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.channel = channel
        self.monotonic = monotonic
        self.live = connect(channel, settings)
        trial = self.live.settings.sandbox
        self.sandbox: Connector | None = None if trial is None else connect(channel, {**settings, **trial, "sandbox": None})
        common = self.live.settings
        self.slots = asyncio.Semaphore(common.concurrency or self.live.width)
        self.limiter = limiter(common.rate or self.live.pace_per_s)
        self.breakers: dict[tuple[bool, str], Breaker] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.waiting = 0
        self.running: set[asyncio.Task[Outcome]] = set()
        self.queues: set[asyncio.Timeout] = set()  # patience of those not yet on the wire
        self.closing = False

    async def start(self) -> None:
        for connector in self.connectors():
            await connector.start()

    async def close(self) -> None:
        """No new calls start; those on the wire end by themselves, within their budget."""
        self.closing = True
        for patience in self.queues:
            patience.reschedule(asyncio.get_running_loop().time())
        if self.running:
            await asyncio.wait(self.running)
        for connector in self.connectors():
            await connector.close()

    def connectors(self) -> Sequence[Connector]:
        return [self.live] if self.sandbox is None else [self.live, self.sandbox]

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        """One outcome per claim, in their order. `now_ms` is the lane's time at the call; it goes on with our monotonic clock."""
        began = self.monotonic()

        def now() -> int:
            return now_ms + int((self.monotonic() - began) * 1000)

        tasks = [asyncio.create_task(self.one(claim, now)) for claim in claims]
        self.running.update(tasks)
        for task in tasks:
            task.add_done_callback(self.running.discard)
        # A cancelled caller must not cut calls short in mid-request: they end, and their outcome is lost to `unknown`.
        return list(await asyncio.shield(asyncio.gather(*tasks)))

    def health(self) -> dict[str, Any]:
        """For metrics: what waits, what is out, how calls ended, which breakers are not closed."""
        return {
            "waiting": self.waiting,
            "outcomes": {f"{kind}:{reason}": count for (kind, reason), count in self.outcomes.items()},
            "breakers": {route: breaker.state for (_, route), breaker in self.breakers.items() if breaker.state != "closed"},
        }

    async def circuit(self) -> str:
        """Of its breakers the least closed: "open", "half_open" or "closed"."""
        states = {breaker.state for breaker in self.breakers.values()}
        return next((state for state in ("open", "half_open") if state in states), "closed")

    async def one(self, claim: Claim, now: Callable[[], int]) -> Outcome:
        self.waiting += 1
        try:
            answer = await self.attempt(claim, now)
        except Exception as error:  # noqa: BLE001 - a connector promised not to raise: whether anything left is anybody's guess
            log.error("connector raised", extra={**self.about("send_bug", claim), "error": type(error).__name__})
            answer = Unknown(Reason.BUG)
        finally:
            self.waiting -= 1
        outcome = to_outcome(claim, answer, now())
        self.outcomes[outcome.kind, outcome.reason] += 1
        if outcome.kind != "sent":
            log.info("not sent", extra={**self.about("not_sent", claim), "outcome": outcome.kind, "reason": outcome.reason})
        return outcome

    def about(self, event: str, claim: Claim) -> dict[str, Any]:
        """What a log line may say of a claim: no recipient, no text."""
        return {"event": event, "channel": self.channel, "effect": claim.effect, "attempt": claim.attempt}

    async def attempt(self, claim: Claim, now: Callable[[], int]) -> Answer:
        connector = self.sandbox if claim.sandbox else self.live
        if connector is None:
            return Done("sandbox")
        breaker = self.breaker(claim, connector)
        # Look before queueing, so that a batch for a dead provider comes back at once.
        if (wait := breaker.left_s()) > 0:
            return resting(breaker, wait)
        if late := await self.queue(self.slots.acquire(), claim, now):
            return late
        try:
            return await self.queue(self.limiter.acquire(), claim, now) or await self.on_the_wire(claim, connector, breaker, now)
        finally:
            self.slots.release()

    async def queue(self, turn: Awaitable[object], claim: Claim, now: Callable[[], int]) -> TryLater | None:
        """Waits for a turn, not past the deadline and not while closing."""
        try:
            async with asyncio.timeout(max(0.0, (claim.deadline - now()) / 1000)) as patience:
                self.queues.add(patience)
                try:
                    await turn
                finally:
                    self.queues.discard(patience)
        except TimeoutError:
            return TryLater(Reason.CLOSED if self.closing else Reason.DEADLINE)
        return None

    async def on_the_wire(self, claim: Claim, connector: Connector, breaker: Breaker, now: Callable[[], int]) -> Answer:
        if self.closing:
            return TryLater(Reason.CLOSED)
        if now() >= claim.deadline:
            return TryLater(Reason.DEADLINE)
        if wait := breaker.wait_s():
            return resting(breaker, wait)
        try:
            answer = await connector.call(claim, now(), connector.settings.timeout_s)
        except BaseException:
            breaker.failed()
            raise
        judge(breaker, answer)
        return answer

    def breaker(self, claim: Claim, connector: Connector) -> Breaker:
        at = (claim.sandbox, connector.route(claim))
        if at not in self.breakers:
            self.breakers[at] = Breaker(connector.settings.breaker_failures, connector.settings.breaker_open_s, self.monotonic)
        return self.breakers[at]


def limiter(per_s: float) -> AsyncLimiter:
    """At most `per_s` calls in any second: a tenth of it may come at once, the rest flows evenly."""
    if per_s < 10:
        return AsyncLimiter(1, 1 / per_s)
    burst = per_s // 10
    return AsyncLimiter(burst, burst / (per_s - burst))


def resting(breaker: Breaker, wait_s: float) -> TryLater:
    return TryLater(Reason.RATE if breaker.state == "closed" else Reason.BREAKER, wait_s)


def judge(breaker: Breaker, answer: Answer) -> None:
    """What one answer tells about the provider."""
    match answer:
        case Done() | Refused() | TryLater(reason=Reason.NOT_FOUND):
            breaker.succeeded()
        case TryLater(reason=Reason.RATE, after_s=after_s):
            breaker.succeeded()
            breaker.rest(RATE_S if after_s is None else after_s)
        case TryLater(reason=reason, after_s=after_s) if reason in UNWELL:
            breaker.failed()
            if after_s:
                breaker.rest(after_s)
        case Unknown(reason=reason) if reason in UNWELL:
            breaker.failed()
        case _:
            breaker.neither()


def to_outcome(claim: Claim, answer: Answer, at: int) -> Outcome:
    """An answer as the lane merges it. A look-up that could not be made leaves the effect unknown: only "not found" frees it."""
    kind, reason, reference, after = "unknown", "", "", 0
    match answer:
        case Done(reference=reference):
            kind = "sent"
        case TryLater(reason=reason, after_s=after_s):
            kind = "unknown" if claim.lookup and reason is not Reason.NOT_FOUND else "retryable"
            after = at + int(1000 * max(after_s or 0.0, pause_s(claim)))
        case Refused(reason=reason):
            kind = "unknown" if claim.lookup else "rejected"
        case Unknown(reason=reason):
            pass
    return Outcome(
        key=claim.key, effect=claim.effect, attempt=claim.attempt, kind=kind, at=at, after=after, reference=reference, reason=str(reason)
    )


def pause_s(claim: Claim) -> float:
    """Exponential back-off with full jitter, the same for the same attempt: a replay tells the same story."""
    longest: float = min(BACKOFF_CAP_S, BACKOFF_S * 2.0 ** (min(claim.attempt, 16) - 1))
    drawn = int.from_bytes(blake2b(f"{claim.effect}:{claim.attempt}".encode(), digest_size=4).digest()) / 2**32
    return longest * drawn
