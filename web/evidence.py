"""What waits for a person and what they need to see of it, in words. Pure, from the state alone."""

from __future__ import annotations

from typing import Any

from model.features import WORDS as REASONS
from orders.decision import SHARE
from orders.fact import Fact
from orders.finance import Problem, problems, suspicious
from orders.money import EXPONENTS
from orders.state import Key, Order, contradictory
from orders.view import View, awaits_review, review_timer, view
from web.explain import HOLDS, TITLES, columns, detail, disagreement
from web.reader import Evidence, Hold, Trouble, Variant, Waiting
from web.words import moment, money, words

_ASIDE = frozenset({"order", "v", "at", "version", "authority", "backfilled", "person"})  # where two reports may differ without saying so


def urgency(its: Waiting) -> tuple[bool, float, int]:
    """What goes first in a queue: what was escalated, then what may cost most and is most urgent, then what has waited longest."""
    loss = its.loss / 10 ** EXPONENTS.get(its.currency, 2)  # in major units: a yen is not a cent; currencies are not converted
    return (not its.escalated, -loss * (1 + its.priority), its.since)


def waiting(order: Order, queue: str, sla_ms: int) -> Waiting | None:
    """None for an order that is not in this queue."""
    return _waiting(view(order), order, queue, sla_ms)


def evidence(order: Order, queue: str, sla_ms: int) -> Evidence:
    v = view(order)
    signals = v.signals
    checks = [REASONS.get(name, words(name)) for name, value in signals.items() if value]
    if v.address_missing:
        checks.append(f"the address lacks {', '.join(words(field).lower() for field in v.address_missing)}")
    return Evidence(
        order=detail(order),
        waiting=_waiting(v, order, queue, sla_ms),
        holds=tuple(Hold(id, HOLDS.get(reason, words(reason))) for id, reason in v.holds.items()),
        checks=tuple(checks),
        troubles=tuple(_trouble(problem, order, v) for problem in problems(v, order)),
        owed=max(0, v.paid - v.refunded) if v.cancelled else 0,
    )


def _waiting(v: View, order: Order, queue: str, sla_ms: int) -> Waiting | None:
    d = v.decision
    shown: dict[str, Any] = {"queue": queue}
    if queue == "review":
        if not awaits_review(v) or d is None:
            return None
        late = review_timer("late", d) in order.fired
        shown |= {"since": d.since, "due": d.since + sla_ms, "escalated": late, "loss": d.loss}
        shown["reasons"] = tuple(REASONS.get(code, words(code)) for code in d.reasons)
    else:
        found = problems(v, order) if suspicious(v) else ()
        if not found:
            return None
        shown |= {"since": found[0].at, "reasons": tuple(_title(problem, order, v) for problem in found)}
    if d is not None:
        shown |= {"fraud": d.fraud / SHARE, "priority": d.priority / SHARE}
    return Waiting(**columns(v, order, v.last_at), **shown)


# --- money
def _trouble(problem: Problem, order: Order, v: View) -> Trouble:
    variants = [its for key in problem.keys for its in _variants(key, order, v)]
    return Trouble(id=problem.id, title=_title(problem, order, v), at=problem.at, variants=tuple(variants))


def _title(problem: Problem, order: Order, v: View) -> str:
    fact: Any = order.facts[problem.keys[0]][0]
    match problem.kind:
        case "payment_failed":
            return f"payment has failed {len(problem.keys)} times"
        case "dispute":
            return f"the customer disputes {money(fact.amount, fact.currency)}"
        case "dispute_lost":
            return "a dispute is lost: the bank has taken the money back"
        case "currency":
            return f"{money(fact.amount, fact.currency)} is in another currency than the order and not counted"
        case _:
            return disagreement(problem.keys[0])


def _variants(key: Key, order: Order, v: View) -> list[Variant]:
    variants = order.facts[key]
    differ = len(variants) > 1 and contradictory(variants)
    return [
        Variant(by=fact.system, at=fact.at, said=_differing(fact, variants) if differ else _told(fact, key, v), counts=number == 0)
        for number, fact in enumerate(variants if differ else variants[:1])
    ]


def _told(fact: Fact, key: Key, v: View) -> tuple[str, ...]:
    title, tell, _ = TITLES[key[0]]
    return (title, *(text for text in (tell(fact, v) if tell is not None else ()) if text))


def _differing(fact: Fact, variants: tuple[Fact, ...]) -> tuple[str, ...]:
    """The fields in which the variants differ, as this one has them."""
    names = [name for name in fact.__struct_fields__ if name not in _ASIDE and len({repr(getattr(other, name)) for other in variants}) > 1]
    return tuple(_field(fact, name) for name in names)


def _field(fact: Any, name: str) -> str:
    value = getattr(fact, name)
    if name in ("amount", "total"):
        return f"{words(name)}: {money(value, fact.currency)}"
    if name == "who":
        return "Customer: other details"
    if name in ("promised", "eta_from", "eta_until"):
        return f"{words(name)}: {moment(value) if value else 'none'}"
    if name == "lines":
        lines = [f"{line.quantity} × {getattr(line, 'sku', line.line)}" for line in value]
        return f"Lines: {', '.join(lines) or 'none'}"
    return f"{words(name)}: {str(value) or 'none'}"
