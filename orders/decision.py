"""Decisions: what the lane made of a score, what it knew then, and whether that is still all there is to know."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from orders.compact import encode_compact
from orders.fact import (
    AddressCorrected,
    OrderPaid,
    OrderPlaced,
    ParcelPacked,
    ParcelScanned,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
    PaymentFailed,
    RiskReported,
    StockShort,
)

if TYPE_CHECKING:
    from orders.policy import Policy

APPROVE, REVIEW, DECLINE = "approve", "review", "decline"
SHARE = 10_000  # probabilities are kept in hundredths of a percent, so that they are stable and short

# What matters to a decision: after a fact of one of these kinds, or another variant of one, the order is laid out for the model
# again, and scored if that reads otherwise. Everything `model.features` reads from a view comes from these kinds.
MATTERS = (
    OrderPlaced,
    AddressCorrected,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentFailed,
    OrderPaid,
    PaymentDisputed,
    StockShort,
    ParcelPacked,
    ParcelScanned,
    RiskReported,
)


class Decision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One decision. Among several of one order the greatest (number, at, content) is in force."""

    number: int  # counts the decisions of this order
    at: int  # ms, by the lane's clock
    verdict: str  # "approve" | "review" | "decline"
    by: str  # "model" | "fallback"; a person's verdict is a fact
    knew: bytes  # digest of what the model was told of the order
    since: int  # ms: since when this verdict has stood without another between
    fraud: int = 0  # probability, 1/10,000
    late: int = 0  # probability, 1/10,000
    shortage: int = 0  # probability, 1/10,000
    priority: int = 0  # 0..10,000
    loss: int = 0  # expected, minor units
    model: str = ""  # version
    reasons: tuple[str, ...] = ()  # codes, strongest first


class Score(msgspec.Struct, frozen=True, gc=False):
    """One row of the scorer's answer, in the units of `Decision`."""

    fraud: int
    late: int
    shortage: int
    priority: int
    loss: int
    reasons: tuple[str, ...]
    model: str
    fallback: bool


def knowledge(row: bytes) -> bytes:
    """Digest of all that a model is told of an order, its row of features; equal for equal knowledge, however it came."""
    return blake2b(row, digest_size=8).digest()


def verdict_of(fraud: int, policy: Policy) -> str:
    """The band of a fraud probability (in 1/10,000).

    Below `approve_below`: approve. At `decline_above` exactly still review; above it: decline. Between, both ends
    included: review, unless it lies at or below `review_above`, where the model is not sure enough to bother a person.
    """
    if fraud > policy.decline_above * SHARE:
        return DECLINE
    if fraud < policy.approve_below * SHARE or fraud <= policy.review_above * SHARE:
        return APPROVE
    return REVIEW


def decide(knew: bytes, score: Score, previous: Decision | None, policy: Policy, now: int) -> Decision:
    """Pure: the same knowledge, score, previous decision, policy and time give the same decision."""
    verdict = verdict_of(score.fraud, policy)
    same = previous is not None and previous.verdict == verdict
    return Decision(
        number=previous.number + 1 if previous else 1,
        at=now,
        verdict=verdict,
        by="fallback" if score.fallback else "model",
        knew=knew,
        since=previous.since if same and previous else now,
        fraud=score.fraud,
        late=score.late,
        shortage=score.shortage,
        priority=score.priority,
        loss=score.loss,
        model=score.model,
        reasons=score.reasons,
    )


def rank(decision: Decision) -> tuple[int, int, bytes]:
    return (decision.number, decision.at, encode_compact(decision))


def in_force(a: Decision | None, b: Decision | None) -> Decision | None:
    """The join of two: whichever is later in the order's count of decisions; any tie is broken by content."""
    if a is None or b is None:
        return b if a is None else a
    if a.number != b.number:
        return a if a.number > b.number else b
    return a if a == b else max(a, b, key=rank)
