"""Effects: what we make happen outside, once. Their IDs, attempts and how records of them merge.

An effect is open in the state of the lane that owns it until its outcome is merged. Everything a lane writes about
an effect is also a journal entry; entries and state merge by the same join, so that a state rebuilt from the log
equals the one that was lost.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from orders.view import View


def effect_id(order: str, milestone: str, instance: str, action: str) -> str:
    """The one name of an effect, and its idempotency key: 16 characters, nothing from configuration in it."""
    packed = f"{order}\x1f{milestone}\x1f{instance}\x1f{action}".encode()
    return urlsafe_b64encode(blake2b(packed, digest_size=12).digest()).decode()


class Attempt(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """One claimed try. `outcome` "" while nobody knows yet; ranks "" < unknown < retryable < rejected < sent."""

    number: int
    claimed_at: int
    deadline: int  # ms: a call not started by then must not start; past it without an outcome it is unknown
    body_hash: str  # of the rendered bytes; behind an @ the channel they left by, where it is another than "webhook", or a / follows:
    # the carrier and service of a label, where a table of rates chose them
    outcome: str = ""
    outcome_at: int = 0
    after: int = 0  # retryable: not before, ms
    reference: str = ""  # the provider's own ID of what it accepted
    reason: str = ""
    lookup: bool = False  # it asked what became of an earlier attempt


class Effect(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What the owning lane knows of one effect."""

    id: str
    action: str  # verb and channel: "notify.email", "stock.reserve", "warehouse.pick", ...
    milestone: str
    instance: str  # parcel, refund, attempt, operator action; "" when there is but one
    offered_at: int
    closed: str = ""  # "" | "observed" | "withdrawn" | "expired" | "suppressed" | "answered"
    closed_at: int = 0
    attempts: tuple[Attempt, ...] = ()
    undoes: str = ""  # waits until that effect is sent or rejected
    turns: int = 0  # counts how often it stopped or started being wanted: odd is withdrawn. The greater one knows more

    @property
    def open(self) -> bool:
        """Neither closed nor answered by its provider. A withdrawn one may be offered again."""
        return not self.closed and not (self.attempts and self.attempts[-1].outcome in FINAL)


OUTCOMES = {"": 0, "unknown": 1, "retryable": 2, "rejected": 3, "sent": 4}  # the greater one wins
FINAL = frozenset({"sent", "rejected"})


def join_attempts(a: Attempt, b: Attempt) -> Attempt:
    """What either knows of one attempt: the claim as it was made, and the greater outcome with its particulars."""
    if a == b:
        return a
    claim = max(a, b, key=lambda x: (x.claimed_at, x.deadline, x.body_hash, x.lookup))
    end = max(a, b, key=lambda x: (OUTCOMES[x.outcome], x.outcome_at, x.after, x.reference, x.reason))
    return Attempt(
        number=a.number,
        claimed_at=claim.claimed_at,
        deadline=claim.deadline,
        body_hash=claim.body_hash,
        outcome=end.outcome,
        outcome_at=end.outcome_at,
        after=end.after,
        reference=end.reference,
        reason=end.reason,
        lookup=claim.lookup,
    )


def join_effects(a: Effect, b: Effect) -> Effect:
    """What either knows of one effect. Commutative, associative, idempotent."""
    if a == b:
        return a
    attempts = {attempt.number: attempt for attempt in a.attempts}
    for attempt in b.attempts:
        known = attempts.get(attempt.number)
        attempts[attempt.number] = attempt if known is None else join_attempts(known, attempt)
    end = max(a, b, key=lambda x: (x.turns, x.closed, x.closed_at))
    offered = [x.offered_at for x in (a, b) if x.offered_at]
    return Effect(
        id=a.id or b.id,
        action=a.action or b.action,
        milestone=a.milestone or b.milestone,
        instance=a.instance or b.instance,
        offered_at=min(offered, default=0),
        closed=end.closed,
        closed_at=end.closed_at,
        attempts=tuple(attempts[number] for number in sorted(attempts)),
        undoes=max(a.undoes, b.undoes),
        turns=end.turns,
    )


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a lane hands to a channel's Sender once the claim's journal record is acknowledged."""

    lane: str  # "orders.0.3": where the outcome goes back to
    key: str  # the state that owns it: order ID or customer ID
    effect: str  # effect ID = idempotency key
    channel: str  # "email" | "sms" | "push" | "webhook" | "systems"
    attempt: int
    deadline: int  # ms by the lane's clock
    body: bytes  # rendered request, without credentials; kept with the attempt
    sandbox: bool = False
    lookup: bool = False  # ask what became of it instead of making it


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What became of one claim."""

    key: str
    effect: str
    attempt: int
    kind: str  # "sent" | "rejected" | "retryable" | "unknown"
    at: int
    after: int = 0  # retryable: not before, ms
    reference: str = ""
    reason: str = ""  # closed list of codes; never personal data


def doubtful(effect: Effect, view: View) -> list[Attempt]:
    """The attempts that may have happened; of those made before a person found that it had not happened, none."""
    said = view.settled.get(effect.id)
    found = -1 if said is None or said.happened else said.at
    return [a for a in effect.attempts if a.outcome == "unknown" and a.claimed_at > found]


def made(effect: Effect | None, view: View) -> bool:
    """Whether it happened, or may have."""
    return effect is not None and (any(a.outcome in ("", "sent") for a in effect.attempts) or bool(doubtful(effect, view)))
