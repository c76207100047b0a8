"""The desk at which people decide: what waits, who has it, and the facts that come of a decision.

An order is claimed by one reviewer at a time, in the store, for half an hour; whatever its reviewer does prolongs that, and
deciding claims it first. What people decide is a fact; the order's lane takes it in and the order leaves the queue by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from metrics import Metrics
from orders.fact import AnyFact, HoldReleased, NoteAdded, ReviewDecided
from web.acts import STAFF, Acts
from web.live import AWAY
from web.problem import Refusal
from web.reader import Evidence, Reader, Waiting
from web.words import moment

QUEUES = ("review", "finance")
CLAIM_MS = 30 * 60_000
MOST_AT_ONCE = 100
SHOWN = 200  # rows on a page
LOOK_S = 1.0  # pages that are open share one look at the store
HIDE_MS = 5_000  # what was just decided is not shown again while its lane takes that in
MEASURE_S = 60.0

Reason = Annotated[str, Meta(min_length=1, max_length=500, pattern="^[^\\x00]*[^\\s\\x00][^\\x00]*$", description="kept with the order")]
OrderId = Annotated[str, Meta(min_length=1, max_length=512)]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    decision: Literal["approve", "decline"]
    reason: Reason
    confirm: bool = False  # approve although nothing scored it, or a report about it could not be read
    release: Annotated[tuple[str, ...], Meta(max_length=20)] = ()  # IDs of other holds that go too


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same for many orders."""

    orders: Annotated[tuple[OrderId, ...], Meta(min_length=1, max_length=MOST_AT_ONCE)]
    decision: Literal["approve", "decline"]
    reason: Reason
    confirm: bool = False


class Settlement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    problems: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]  # their IDs, all of one order
    reason: Reason


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Who works on an order now."""

    order: str
    claimed_by: str  # "" for nobody
    claimed_until: int = 0


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one order's decision."""

    order: str
    outcome: str  # "decided", or why not: "not_found" "not_waiting" "claimed" "needs_confirm"
    message: str = ""


class Claims(Protocol):
    """`connectors.store.Store`: a claim that one person has, and that ends by itself."""

    async def claim(self, name: str, by: str, ttl_ms: int) -> tuple[str, int]: ...
    async def unclaim(self, name: str, by: str) -> tuple[str, int]: ...
    async def claims(self, names: Sequence[str]) -> list[tuple[str, int]]: ...


class Desk:
    def __init__(self, reader: Reader, claims: Claims, acts: Acts, metrics: Metrics) -> None:
        self._reader, self._claims, self._acts, self._metrics = reader, claims, acts, metrics
        self._looked: dict[str, tuple[float, Sequence[Waiting]]] = {}
        self._decided: dict[str, int] = {}  # just now: order -> when
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._measure(), name="queues")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- looking
    async def rows(self, queue: str, limit: int = SHOWN) -> list[Waiting]:
        """What waits, the most urgent first, and who has claimed it."""
        rows = await self._reader.reviews(queue, limit)
        if limit == SHOWN:
            self._looked[queue] = (time.monotonic(), rows)
        return await self._claimed(rows)

    async def shared(self, queue: str) -> list[Waiting]:
        """The same for pages that stay open: at most a second old."""
        at, rows = self._looked.get(queue, (0.0, ()))
        return await (self._claimed(rows) if time.monotonic() - at < LOOK_S else self.rows(queue))

    async def _claimed(self, rows: Sequence[Waiting]) -> list[Waiting]:
        now = self._acts.clock.now()
        shown = [its for its in rows if its.queue != "review" or not self._just_decided(its.id)]
        claims = await self._claims.claims([its.id for its in shown])
        return [
            msgspec.structs.replace(its, claimed_by=by, claimed_until=now + left) if by else its
            for its, (by, left) in zip(shown, claims, strict=True)
        ]

    def _just_decided(self, order_id: str) -> bool:
        return self._acts.clock.now() - self._decided.get(order_id, 0) < HIDE_MS

    async def evidence(self, order_id: str, queue: str, by: str) -> Evidence | None:
        """Looking at what one has claimed prolongs the claim."""
        found = await self._reader.evidence(order_id, queue)
        if found is None or found.waiting is None or queue != "review":
            return found
        if self._just_decided(order_id):
            return msgspec.structs.replace(found, waiting=None)
        (holder, left), now = (await self._claims.claims([order_id]))[0], self._acts.clock.now()
        if holder == by:
            holder, left = await self._claims.claim(order_id, by, CLAIM_MS)
        claimed = msgspec.structs.replace(found.waiting, claimed_by=holder, claimed_until=now + left if holder else 0)
        return msgspec.structs.replace(found, waiting=claimed)

    # --- claiming
    async def claim(self, order_id: str, by: str) -> Held:
        """Raises Refusal: 404 no such order, 409 nobody has to decide about it, or somebody else does."""
        await self._waits(order_id)
        return await self._take(order_id, by)

    async def release(self, order_id: str, by: str) -> Held:
        """Raises Refusal: 404 no such order, 409 somebody else has it."""
        if await self._reader.evidence(order_id, "review") is None:
            raise _unknown(order_id)
        return self._mine(order_id, by, *await self._claims.unclaim(order_id, by))

    async def _take(self, order_id: str, by: str) -> Held:
        return self._mine(order_id, by, *await self._claims.claim(order_id, by, CLAIM_MS))

    def _mine(self, order_id: str, by: str, holder: str, left: int) -> Held:
        until = self._acts.clock.now() + left
        if holder not in (by, ""):
            message = f"{holder} has this order until {moment(until)}: ask them to let it go, or take another"
            raise Refusal(409, "claimed", message, order_id=order_id)
        return Held(order=order_id, claimed_by=holder, claimed_until=until if holder else 0)

    async def _waits(self, order_id: str) -> Evidence:
        found = await self._reader.evidence(order_id, "review")
        if found is None:
            raise _unknown(order_id)
        if not found.holds or self._just_decided(order_id):
            raise Refusal(409, "not_waiting", "This order is not held (any more): look at its timeline", order_id=order_id)
        return found

    # --- deciding
    async def decide(self, order_id: str, by: str, verdict: Verdict) -> Decided:
        """Raises Refusal: 404, 409 as `claim`, 422 what needs `confirm`, or a hold that it does not have."""
        facts = await self._decision(order_id, by, verdict)
        await self._tell(by, facts)
        return Decided(order=order_id, outcome="decided")

    async def decide_all(self, by: str, verdicts: Verdicts) -> list[Decided]:
        """One fact for each that still waits and that nobody else has; what became of the others stands beside them."""
        one = Verdict(decision=verdicts.decision, reason=verdicts.reason, confirm=verdicts.confirm)
        facts: list[AnyFact] = []
        results: list[Decided] = []
        for order_id in dict.fromkeys(verdicts.orders):
            try:
                facts += await self._decision(order_id, by, one)
                results.append(Decided(order=order_id, outcome="decided"))
            except Refusal as refusal:
                if refusal.status >= 500:
                    raise
                results.append(Decided(order=order_id, outcome=refusal.code, message=refusal.message))
        await self._tell(by, facts)
        return results

    async def _decision(self, order_id: str, by: str, verdict: Verdict) -> list[AnyFact]:
        found = await self._waits(order_id)
        approve = verdict.decision == "approve"
        if approve and not verdict.confirm and (warning := why_confirm(found)):
            raise Refusal(422, "needs_confirm", f"{warning}: confirm that it is approved all the same", field="confirm", order_id=order_id)
        if not {hold.id for hold in found.holds}.issuperset(verdict.release):
            raise Refusal(422, "invalid", "the order has no hold of that ID", field="release", order_id=order_id)
        await self._take(order_id, by)
        at, said = self._acts.clock.now(), {"order": order_id, "system": STAFF, "by": by, "reason": verdict.reason}
        facts: list[AnyFact] = [ReviewDecided(**said, object=self._acts.object(), at=at, approve=approve)]  # type: ignore[arg-type]
        if verdict.release:
            facts.append(HoldReleased(**said, object=self._acts.object(), at=at, holds=verdict.release))  # type: ignore[arg-type]
        return facts

    async def _tell(self, by: str, facts: Sequence[AnyFact]) -> None:
        if facts:
            verdicts = [fact for fact in facts if isinstance(fact, ReviewDecided)]
            words = {True: "approved", False: "declined"}
            noted = self._acts.noted
            await asyncio.gather(
                *(noted(by, "review.decide", x.order, before="held", after=words[x.approve], reason=x.reason) for x in verdicts)
            )
            await self._acts.tell(*facts)
            now = self._acts.clock.now()
            self._decided = {order: at for order, at in self._decided.items() if now - at < HIDE_MS} | {fact.order: now for fact in facts}

    # --- finance
    async def settle(self, order_id: str, by: str, settlement: Settlement) -> Decided:
        """Raises Refusal: 404 no such order, 422 a problem that it does not have."""
        found = await self._reader.evidence(order_id, "finance")
        if found is None:
            raise _unknown(order_id)
        if not {trouble.id for trouble in found.troubles}.issuperset(settlement.problems):
            raise Refusal(422, "invalid", "the order has no problem of that ID (any more)", field="problems", order_id=order_id)
        at, problems = self._acts.clock.now(), ", ".join(settlement.problems)
        await self._acts.noted(by, "finance.settle", order_id, before=problems, after="settled", reason=settlement.reason)
        await self._acts.tell(
            HoldReleased(
                order=order_id,
                system=STAFF,
                object=self._acts.object(),
                at=at,
                holds=settlement.problems,
                by=by,
                reason=settlement.reason,
            )
        )
        return Decided(order=order_id, outcome="decided")

    async def note(self, order_id: str, by: str, text: str) -> None:
        if await self._reader.evidence(order_id, "finance") is None:
            raise _unknown(order_id)
        at = self._acts.clock.now()
        await self._acts.noted(by, "order.note", order_id)
        await self._acts.tell(NoteAdded(order=order_id, system=STAFF, object=self._acts.object(), at=at, text=text, by=by))

    # --- measuring
    async def measure(self) -> None:
        for queue in QUEUES:
            rows = await self._reader.reviews(queue, 1_000)
            oldest = min((its.since for its in rows), default=0)
            self._metrics.review_age(queue).set(max(0, self._acts.clock.now() - oldest) / 1000 if oldest else 0.0)

    async def _measure(self) -> None:
        while True:
            try:
                await self.measure()
            except AWAY:  # the series stands still, as the overview says
                pass
            await asyncio.sleep(MEASURE_S)


def why_confirm(found: Evidence) -> str:
    """What an approval has to be confirmed for, in words; "" for nothing."""
    if found.order.decision is None:
        return "No model or rule has scored this order"
    if "incomplete" in found.order.flags:
        return "A report about this order could not be read"
    return ""


def _unknown(order_id: str) -> Refusal:
    return Refusal(404, "not_found", "No order with this ID", order_id=order_id)
