"""What finance has to look at: payments that keep failing, disputes, other currencies, reports that contradict each other. Pure.

A problem is named by what it is made of, so a settled one stays settled, and one that grows (another failure, another
variant) is a new one. Settling is a release like that of a hold: it names the problems, whichever came first.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from orders.compact import encode_compact
from orders.fact import Fact
from orders.state import Key, Order, sane
from orders.view import View

PREFIX = "finance:"  # of every problem's ID: no hold is called so
TOLD = "team.notice payment_problem"  # what the plan wants when payments have failed too often


class Problem(msgspec.Struct, frozen=True):
    id: str
    kind: str  # "payment_failed" | "dispute" | "dispute_lost" | "currency" | "contradiction"
    at: int  # since when, ms
    keys: tuple[Key, ...]  # the facts that it is made of


def suspicious(v: View) -> bool:
    """A quick look: False where `problems` would find none."""
    return bool(v.contradictions or v.currency_conflict or v.disputes or v.disputes_closed or v.failures)


def problems(v: View, order: Order) -> tuple[Problem, ...]:
    """Those that nobody has settled, the oldest first."""
    found: list[Problem] = []
    failed: list[tuple[int, Key]] = []
    for key, variants in order.facts.items():
        fact = variants[0]
        if not sane(fact) or key in v.retracted:
            continue
        if key in v.contradictions:
            found.append(_problem("contradiction", _digest(variants), max(f.at for f in variants), key))
        if key[0] == "PaymentDisputed" and key[2] not in v.disputes_closed:
            found.append(_problem("dispute", key[2], fact.at, key))
        elif key[0] == "DisputeClosed" and not v.disputes_closed[key[2]]:
            found.append(_problem("dispute_lost", key[2], fact.at, key))
        elif key[0] == "PaymentFailed":
            failed.append((fact.at, key))
        if key[0] in _SUMMED and fact.currency != v.currency:  # type: ignore[attr-defined]
            found.append(_problem("currency", f"{key[1]}:{key[2]}", fact.at, key))
    if failed and not v.paid_in_full and not v.cancelled and (TOLD in order.closed or TOLD in order.ledger):
        found.append(Problem(f"{PREFIX}payment_failed:{len(failed)}", "payment_failed", failed[-1][0], tuple(key for _, key in failed)))
    return tuple(sorted((p for p in found if p.id not in v.holds_released), key=lambda p: (p.at, p.id)))


_SUMMED = frozenset({"PaymentAuthorized", "PaymentCaptured", "PaymentRefunded", "OrderPaid"})


def _problem(kind: str, instance: str, at: int, key: Key) -> Problem:
    return Problem(f"{PREFIX}{kind}:{instance}", kind, at, (key,))


def _digest(variants: tuple[Fact, ...]) -> str:
    return blake2b(b"\x1f".join(map(encode_compact, variants)), digest_size=8).hexdigest()
