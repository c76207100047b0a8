"""An order in words: what was reported, what was decided and why, what was done about it. Pure.

Everything comes from the state alone, so two replicas of the product tell the same story about the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from model.features import WORDS as REASONS
from orders.allocation import sourced
from orders.decision import SHARE
from orders.decision import Decision as StoredDecision
from orders.effect import Attempt, Effect, doubtful, effect_id
from orders.fact import Fact
from orders.finance import PREFIX as FINANCE
from orders.plan import OUTSIDE, answered, said_of
from orders.policy import Policy
from orders.sourcing import MILLI
from orders.state import Key, Order, contradictory
from orders.status import WORDS
from orders.view import View, view, wanted
from streams.orders import tags
from streams.processor import Parked
from web.reader import Decision, Doubt, ItemLine, Message, Moment, OrderDetail, Parcel, ParkedRow, Row
from web.words import CHANNELS, day, moment, money, percent, words

GOOD, WARN, BAD = "good", "warn", "bad"
VERDICTS = {"approve": ("Approved", GOOD), "review": ("Sent to review", WARN), "decline": ("Declined", BAD)}
INSIDE = ("reference.", "stock.check", "stock.ship")  # between our own lanes: of no interest to people
HOLDS = {
    "review": "a person has to look at it",
    "decline": "declined by the model, not yet final",
    "address_incomplete": "the address is incomplete",
}
OUTCOME = {
    "sent": ("done", GOOD),
    "rejected": ("refused", BAD),
    "retryable": ("not now, tried again later", ""),
    "unknown": ("nobody can tell whether it happened; not repeated by itself", WARN),
    "": ("under way", ""),
}
TIMERS = {
    "review_late": "Nobody has reviewed it in time",
    "review_expired": "Still nobody has reviewed it",
    "review_cancel": "Cancelled: nobody has reviewed it",
}
CLOSED = {
    "withdrawn": "no longer wanted",
    "expired": "too late to be of use",
    "suppressed": "not allowed by the customer's consent or hours",
    "answered": "answered",
}


def row(order: Order, moved_at: int = 0) -> Row:
    """`moved_at`: as the index has it, if it was found there."""
    v = view(order)
    return Row(**columns(v, order, moved_at or v.last_at))


def parked_row(record: str, processor: str, row: Parked) -> ParkedRow:
    return ParkedRow(
        id=record,
        reason=row.reason,
        detail=row.detail,
        processor=processor,
        topic=row.topic,
        partition=row.partition,
        offset=row.offset,
        at=row.at,
        size=len(row.value),
        version=row.version,
    )


def detail(order: Order, policy: Policy | None = None) -> OrderDetail:
    v = view(order)
    return OrderDetail(
        **columns(v, order, v.last_at),
        customer=v.placed.customer if v.placed is not None else "",
        person=v.person if v.placed is not None else None,
        placed_at=v.placed.at if v.placed is not None else 0,
        promised=v.placed.promised if v.placed is not None else 0,
        captured=v.paid,
        refunded=v.refunded,
        failures=v.failures,
        holds=tuple(HOLDS.get(reason, words(reason)) for reason in v.holds.values()),
        hold_ids=tuple(v.holds),
        doubts=tuple(_doubts(order, v)),
        contradictions=tuple(disagreement(key) for key in v.contradictions),
        decision=_decision(order.decision, v) if order.decision is not None else None,
        lines=tuple(_line(v, line) for line in v.lines),
        sourcing=tuple(_sourcing(order, v, policy)) if policy is not None else (),
        parcels=tuple(
            Parcel(id=p.id, carrier=p.carrier, tracking=p.tracking, status=p.tag.value, eta_from=p.eta_from, eta_until=p.eta_until)
            for p in v.parcels.values()
        ),
        messages=tuple(sorted(_messages(order, v), key=lambda m: (m.at, m.effect))),
        reached=_reached(v),
        timeline=tuple(sorted(_timeline(order, v), key=lambda m: m.at)),
    )


def columns(v: View, order: Order, moved_at: int) -> dict[str, Any]:
    """The fields of a Row."""
    placed = v.placed
    return {
        "id": v.id,
        "number": placed.number if placed is not None else "",
        "status": v.status.value,
        "status_text": WORDS[v.status],
        "moved_at": moved_at,
        "currency": v.currency,
        "total": v.total,
        "service": placed.service if placed is not None else "",
        "tier": placed.tier if placed is not None else "",
        "flags": tuple([tag for tag in tags(v, order)[1:] if ":" not in tag]),
    }


def _reached(v: View) -> dict[str, int]:
    times = {
        "order_placed": v.placed.at if v.placed is not None else 0,
        "payment_confirmed": v.paid_at,
        "in_progress": min([f.at for f in v.reserved.values()] + list(v.picked.values()), default=0),
        "shipped": v.shipped_at,
        "out_for_delivery": min([p.out_at for p in v.parcels.values() if p.out_at], default=0),
        "delivered": v.delivered_at,
    }
    return {name: at for name, at in times.items() if at}


def _line(v: View, line: Any) -> ItemLine:
    notes = []
    if line.line in v.cancelled_lines:
        notes.append(f"{line.quantity - wanted(v, line)} cancelled")
    if line.line in v.short:
        notes.append("waits for stock")
    elif line.line in v.reserved and not v.shipped_at:
        notes.append("reserved")
    return ItemLine(line=line.line, sku=line.sku, title=line.title, quantity=line.quantity, price=line.price, note=", ".join(notes))


def _sourcing(order: Order, v: View, policy: Policy) -> Iterator[str]:
    """A line for each parcel and, where they are several or a date was promised, one for why it is these."""
    choice, table = sourced(v, order, policy), policy.sourcing
    if v.placed is None or v.placed.backfilled or v.cancelled or not choice.ways:
        return
    last = max(way.arrives for way in choice.ways.values())
    for place, way in sorted(choice.ways.items()):
        lines = [x for x in v.lines if choice.places.get(x.line) == place]
        grams = sum(wanted(v, x) * table.grams(x.sku) for x in lines)
        waits = ", once it is there" if any(x.line in choice.waits for x in lines) else ""
        what = f"{sum(wanted(v, x) for x in lines)} of {sum(wanted(v, x) for x in v.lines)} items from" if len(choice.ways) > 1 else "From"
        cost = money(-(-way.cost(grams) // MILLI), table.currency)
        yield f"{what} {place} by {way.carrier} {way.service}{waits}: {cost}, arrives by {day(way.arrives)}"
    promised = v.placed.promised
    best = "the cheapest" if choice.proven else "the cheapest that was found in time"
    if promised:
        kept = (
            f"{best} that arrives by {day(promised)}, as promised"
            if last <= promised
            else f"nothing arrives by {day(promised)}: the earliest"
        )
    else:
        kept = best
    split = f", with {money(table.split_minor * (len(choice.ways) - 1), table.currency)} for the split" if len(choice.ways) > 1 else ""
    yield f"Why: {kept}, {money(-(-choice.cost // MILLI), table.currency)} in all{split}"


def _decision(d: StoredDecision, v: View) -> Decision:
    by_person = v.verdict_by == "person"
    return Decision(
        decision=v.verdict if by_person else d.verdict,
        decided_by=v.verdict_by or d.by,
        at=v.person_verdict_at if by_person else d.at,
        fraud=d.fraud / SHARE,
        late=d.late / SHARE,
        shortage=d.shortage / SHARE,
        priority=d.priority / SHARE,
        loss=d.loss,
        version=d.model,
        reasons=tuple(REASONS.get(code, words(code)) for code in d.reasons),
    )


def disagreement(key: Key) -> str:
    kind, system, _ = key
    return f"{system} reported “{TITLES[kind][0].lower()}” twice, differently"


def _messages(order: Order, v: View) -> Iterator[Message]:
    for name, at in order.closed.items():
        action, milestone, instance = _named(name)
        if action.startswith("notify."):
            effect_key = effect_id(order.id, milestone, instance, action)
            yield Message(effect=effect_key, template=milestone, about=instance, channel=action[7:], outcome="observed", at=at)
    for effect in order.ledger.values():
        if effect.action.startswith("notify."):
            outcome = v.messages.get(effect.id) or effect.closed or "asked"
            yield Message(
                effect=effect.id,
                template=effect.milestone,
                about=said_of(effect.instance, v),
                repeatable=effect.id in v.messages,
                channel=effect.action[7:],
                outcome=outcome,
                at=effect.offered_at,
            )


def _doubts(order: Order, v: View) -> Iterator[Doubt]:
    """Calls outside that a person may settle; what became of a message is for the customer's lane to say."""
    for effect in order.ledger.values():
        if effect.action in OUTSIDE and effect.open and not answered(effect, v) and (doubt := doubtful(effect, v)):
            title = _effect_title(effect.action, effect.milestone, effect.instance)
            yield Doubt(effect=effect.id, title=title, at=doubt[-1].claimed_at)


# --- timeline
def _timeline(order: Order, v: View) -> Iterator[Moment]:
    for key, variants in order.facts.items():
        yield _fact(key, variants, v)
    if order.decision is not None:
        d = order.decision
        title, tone = VERDICTS[d.verdict]
        chances = f"fraud {percent(d.fraud / SHARE)}, late {percent(d.late / SHARE)}, shortage {percent(d.shortage / SHARE)}"
        reasons = tuple(f"why: {REASONS.get(code, words(code))}" for code in d.reasons)
        yield Moment(at=d.at, kind="decision", title=title, by=f"{d.by} {d.model}", detail=(chances, *reasons), tone=tone)
    observed: dict[int, list[str]] = {}
    for name, at in order.closed.items():
        action, milestone, instance = _named(name)
        if not action.startswith(INSIDE):
            observed.setdefault(at, []).append(_effect_title(action, milestone, instance))
    for at, those in observed.items():
        yield Moment(
            at=at, kind="effect", title="Would have been done: these channels only observe", by="plan", detail=tuple(sorted(those))
        )
    for effect in order.ledger.values():
        if not effect.action.startswith(INSIDE):
            yield from _effect(effect)
    for name, at in order.fired.items():
        timer = name.partition(" ")[0]
        yield Moment(at=at, kind="timer", title=TIMERS.get(timer) or f"Waited for: {words(timer).lower()}", by="schedule")
    if order.remnant is not None:
        yield Moment(
            at=order.remnant.at, kind="timer", title="Closed: details were removed", by="schedule", detail=(words(order.remnant.status),)
        )


def _fact(key: Key, variants: tuple[Fact, ...], v: View) -> Moment:
    fact = variants[0]
    title, tell, tone = TITLES[key[0]]
    said = list(tell(fact, v)) if tell is not None else []
    if key[0] in SAYS_ITSELF:
        title = f"{title}: {said.pop(0)}"
    if key[0] == "HoldReleased" and all(hold.startswith(FINANCE) for hold in fact.holds):  # type: ignore[attr-defined]
        title = "Settled by finance"
    if key in v.retracted:
        said.append("retracted: it was not about this order")
    if len(variants) > 1 and contradictory(variants):
        said.append("reported differently before; this report counts")
        tone = WARN
    if fact.backfilled:
        said.append("from history")
    return Moment(at=fact.at, kind="fact", title=title, by=fact.system, detail=tuple(text for text in said if text), tone=tone)


def _effect(effect: Effect) -> Iterator[Moment]:
    title = _effect_title(effect.action, effect.milestone, effect.instance)
    if effect.offered_at:
        yield Moment(at=effect.offered_at, kind="effect", title=f"Wanted: {title}", by="plan")
    for attempt in effect.attempts:
        yield _attempt(title, attempt, effect.id)
    if effect.closed:
        closed = CLOSED.get(effect.closed, words(effect.closed))
        yield Moment(at=effect.closed_at, kind="effect", title=title, by="plan", detail=(closed,))


def _attempt(title: str, attempt: Attempt, effect: str) -> Moment:
    text, tone = OUTCOME.get(attempt.outcome, (words(attempt.outcome), ""))
    if attempt.reason:
        text = f"{text} ({words(attempt.reason).lower()})"
    said = [text]
    if attempt.reference:
        said.append(f"reference {attempt.reference}")
    if attempt.outcome == "unknown":
        said.append(f"effect {effect}")  # what a person names who finds out
    verb = "Asked what became of it" if attempt.lookup else f"Attempt {attempt.number}"
    return Moment(
        at=attempt.outcome_at or attempt.claimed_at,
        kind="effect",
        title=f"{title}: {verb.lower()}",
        by="sender",
        detail=tuple(said),
        tone=tone,
    )


def _effect_title(action: str, milestone: str, instance: str) -> str:
    verb, _, rest = action.partition(".")
    if verb == "notify":
        return f"{CHANNELS.get(rest, rest)} “{words(milestone)}”"
    title = words(f"{verb} {rest}") if verb != "team" else f"Notice: {words(milestone).lower()}"
    if action == "shop.tag":
        title = f"{title}: {words(milestone).lower()}"
    return f"{title} {instance}" if instance else title


def _named(name: str) -> tuple[str, str, str]:
    action, milestone, *rest = name.split(" ", 2)
    return action, milestone, rest[0] if rest else ""


def _amount(f: Any, v: View) -> list[str]:
    return [money(f.amount, f.currency)]


def _reason(f: Any, v: View) -> list[str]:
    return [f.reason, f"by {f.by}" if getattr(f, "by", "") else ""]


def _quantities(f: Any, v: View) -> list[str]:
    titles = {line.line: line.title or line.sku for line in v.lines}
    return [f"{q.quantity} × {titles.get(q.line, q.line)}" for q in f.lines] or ["the whole order"]


def _stock(f: Any, v: View) -> list[str]:
    return [f"{f.quantity} × {f.sku} at {f.location or 'the default location'}"]


def _scan(f: Any, v: View) -> list[str]:
    eta = f"expected until {moment(f.eta_until)}" if f.eta_until else ""
    return [words(f.tag.value), f"{f.carrier} {f.tracking}".strip(), eta]


SAYS_ITSELF = frozenset({"ParcelScanned", "ReviewDecided", "DisputeClosed", "MessageReported"})  # their first detail belongs to the title
_Tell = Callable[[Any, View], list[str]]
TITLES: dict[str, tuple[str, _Tell | None, str]] = {
    "OrderPlaced": ("Order placed", lambda f, v: [money(f.total, f.currency), f"{sum(x.quantity for x in f.lines)} items"], ""),
    "AddressCorrected": ("Address corrected", None, ""),
    "PaymentAuthorized": ("Payment authorised", _amount, ""),
    "PaymentCaptured": ("Payment captured", _amount, GOOD),
    "PaymentFailed": ("Payment failed", lambda f, v: [money(f.amount, f.currency), f.reason], BAD),
    "PaymentRefunded": ("Refunded", _amount, ""),
    "OrderPaid": ("Order paid", _amount, GOOD),
    "PaymentDisputed": ("Payment disputed", _amount, BAD),
    "DisputeClosed": ("Dispute closed", lambda f, v: ["won" if f.won else "lost"], ""),
    "CancelRequested": ("Cancellation asked for", _reason, WARN),
    "LinesCancelled": ("Items cancelled", lambda f, v: [*_quantities(f, v), f.reason], WARN),
    "StockReserved": ("Stock reserved", _stock, ""),
    "StockShort": ("Out of stock", _stock, WARN),
    "StockScarce": ("Not enough in stock", _stock, WARN),
    "StockReleased": ("Stock released", _stock, ""),
    "ItemsPicked": ("Items picked", lambda f, v: [f.location, *(f"{q.quantity} of {q.line} not found" for q in f.short)], ""),
    "ParcelPacked": ("Parcel packed", lambda f, v: [f.parcel, *_quantities(f, v)], ""),
    "ParcelScanned": ("Parcel", _scan, ""),
    "HoldPlaced": ("Put on hold", _reason, WARN),
    "HoldReleased": ("Hold released", _reason, GOOD),
    "ReviewDecided": ("Review", lambda f, v: ["approved" if f.approve else "declined", f.reason, f"by {f.by}"], ""),
    "ReturnReceived": ("Return received", _quantities, ""),
    "MessageReported": ("Message", lambda f, v: [f"{CHANNELS.get(f.channel, f.channel)}: {words(f.outcome).lower()}", words(f.reason)], ""),
    "FactRetracted": (
        "Report retracted",
        lambda f, v: [f"{TITLES[f.target_type][0].lower() if f.target_type in TITLES else f.target_type} by {f.target_system}"],
        WARN,
    ),
    "FactParked": ("A report could not be read", lambda f, v: [words(f.reason)], WARN),
    "FactUnparked": ("A parked report was dealt with", lambda f, v: [f"by {f.by}" if f.by else ""], GOOD),
    "EffectSettled": ("Found out", lambda f, v: ["it happened" if f.happened else "it did not happen", f.reason, f"by {f.by}"], ""),
    "RiskReported": ("Risk signals", lambda f, v: [REASONS.get(name, words(name)) for name in sorted(f.signals) if f.signals[name]], WARN),
    "NoteAdded": ("Note", lambda f, v: [f.text, f"by {f.by}"], ""),
    "ResendRequested": ("A message is to be said once more", _reason, ""),
    "FeedbackGiven": ("Feedback", lambda f, v: [f"{f.score} points"], ""),
}
