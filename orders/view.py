"""What an order's facts and decisions amount to: everything that status, plan, features, pages and the API need.

A view is derived in one pass over the winning facts in the order they happened, then never changed. Nothing here
depends on how or when anything arrived.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from orders import fact as facts
from orders.address import missing_fields
from orders.compact import TWINS, CompactPerson, whole_person
from orders.decision import APPROVE, DECLINE, REVIEW, Decision
from orders.fact import AT_MAX, AT_MIN, Fact, Line, OrderPlaced, Person, Quantity, Tracking
from orders.state import Key, Order, contradictory
from orders.status import Status, status_of

# By value: hashing an enum's member runs Python code, hashing its text does not.
MOVED = frozenset(t.value for t in Tracking) - {"label_created", "unknown", "expired"}  # the carrier has, or had, it
TROUBLE = frozenset({"exception", "attempt_failed", "lost", "damaged", "expired"})
OUT, DELIVERED, RETURNED, UNKNOWN = Tracking.OUT_FOR_DELIVERY, Tracking.DELIVERED, Tracking.RETURNED, Tracking.UNKNOWN
NOBODY: Person = CompactPerson()
EMPTY: Mapping[str, Any] = MappingProxyType({})
NONE: Set[str] = frozenset()
NO_KEYS: Set[Key] = frozenset()

# Holds that follow from what is known; a release may name them like any other hold.
REVIEW_HOLD = "review"
DECLINE_HOLD = "decline"  # a model's decline that still settles
ADDRESS_HOLD = "address_incomplete"


class Parcel(msgspec.Struct, gc=False):
    """One parcel, from what the warehouse packed and the carrier scanned. Times in ms, 0: not yet."""

    id: str
    lines: tuple[Quantity, ...] = ()  # empty: the whole order
    carrier: str = ""
    tracking: str = ""
    tag: Tracking = Tracking.UNKNOWN  # of the latest scan; delivered stays delivered unless it comes back
    tag_at: int = 0
    packed_at: int = 0
    shipped_at: int = 0  # first scan that says the carrier has it
    out_at: int = 0  # first out for delivery
    delivered_at: int = 0
    returned_at: int = 0
    trouble_at: int = 0  # first scan with trouble
    trouble: int = 0  # scans with trouble
    eta_from: int = 0
    eta_until: int = 0
    shipped_live: bool = True  # False: known from history only, sends nothing
    out_live: bool = True
    delivered_live: bool = True
    label: str = ""  # file of the label that we bought for it
    systems: tuple[str, ...] = ()  # who has told of it, in the order of telling


class View(msgspec.Struct, gc=False):
    """A derived order. Read it, do not change it. Times in ms (0: not yet), money in minor units of `currency`.

    A worker makes tens of thousands of views a second: what does not apply to an order shares one immutable default.
    """

    id: str

    # what was ordered
    placed: OrderPlaced | None = None  # the winning variant; None: only others have spoken of this order yet
    said_of: Person = NOBODY  # the latest said of the customer, in compact form; `person` is the same for everybody else
    person_corrected: bool = False
    currency: str = ""
    total: int = 0
    lines: tuple[Line, ...] = ()
    cancelled_lines: Mapping[str, int] = EMPTY  # line -> quantity that is not wanted any more
    address_missing: tuple[str, ...] = ()  # fields that the country needs: "postcode", "country", ...; not asked once something shipped
    first_at: int = 0  # when the first and the latest known fact happened
    last_at: int = 0

    # money
    captures: Sequence[Any] = ()  # PaymentCaptured, oldest first
    authorizations: Sequence[Any] = ()  # PaymentAuthorized, oldest first
    refunds: Sequence[Any] = ()  # PaymentRefunded, oldest first
    payments: Sequence[Any] = ()  # every fact that names a payment object: authorized, captured, failed
    statement: Any = None  # the OrderPaid in force
    authorized: int = 0
    captured: int = 0  # sum by natural key
    refunded: int = 0  # sum by natural key
    stated_paid: int = 0  # "order is paid", a statement of the whole: never added to captures
    paid: int = 0  # the greater of captured and stated
    paid_in_full: bool = False  # or needs no payment
    paid_at: int = 0  # when it became so
    paid_live: bool = True  # False: known from history only, sends nothing
    reported: Mapping[str, float] = EMPTY  # risk signals of RiskReported: name -> the greatest value
    failures: int = 0  # payments that failed
    failed_at: int = 0  # the latest failure
    failed_live: bool = True
    disputes: Mapping[str, int] = EMPTY  # dispute -> amount
    disputes_closed: Mapping[str, bool] = EMPTY  # dispute -> won
    disputed: int = 0  # amounts under open dispute
    dispute_lost: bool = False
    currency_conflict: bool = False  # a payment in another currency than the order's: not summed, shown to finance

    # stock and warehouse
    reservations: Sequence[Any] = ()  # StockReserved
    shortages: Sequence[Any] = ()  # StockShort
    scarce: Sequence[Any] = ()  # StockScarce, told before anything was reserved
    reserved: Mapping[str, Any] = EMPTY  # line -> StockReserved in force, the latest where there are several
    short: Mapping[str, Any] = EMPTY  # line -> StockShort in force, of lines that nothing else is known or asked of
    moving: Set[str] = NONE  # lines that are reserved, and asked for or known at yet another location
    released: Mapping[str, Any] = EMPTY  # request -> StockReleased; of quantity 0: too late, it had left
    picked: Mapping[str, int] = EMPTY  # location -> when
    pick_short: Mapping[str, int] = EMPTY  # line -> quantity the picker did not find

    # answers of other lanes
    answered: Mapping[str, str] = EMPTY  # effect ID -> outcome
    messages: Mapping[str, str] = EMPTY  # effect ID of a message -> its latest outcome or receipt
    settled: Mapping[str, Any] = EMPTY  # effect ID -> the latest EffectSettled about it
    resends: Mapping[str, Any] = EMPTY  # what a person called the repetition -> its ResendRequested

    # parcels
    parcels: Mapping[str, Parcel] = EMPTY
    renamed: Mapping[str, str] = EMPTY  # what else a parcel is called -> its ID here
    shipped_at: int = 0  # the first parcel
    all_shipped: bool = False
    out_for_delivery: bool = False
    delivered_at: int = 0  # the last parcel, when all are there
    some_delivered: bool = False
    all_delivered: bool = False
    returned_lines: Mapping[str, int] = EMPTY
    all_returned: bool = False
    returned_at: int = 0
    in_trouble: bool = False  # the latest word on some parcel is trouble

    # people, holds, decision
    decision: Decision | None = None  # the model's in force
    person_verdict: str = ""  # "" | "approve" | "decline"
    person_verdict_at: int = 0
    verdict: str = ""  # "" | "approve" | "review" | "decline": a person's, else the model's
    verdict_by: str = ""  # "model" | "fallback" | "person"
    holds_placed: Mapping[str, str] = EMPTY  # hold ID -> reason
    holds_released: Set[str] = NONE
    holds: Mapping[str, str] = EMPTY  # in force: hold ID -> reason
    cancel_at: int = 0  # first request to cancel
    cancel_reason: str = ""
    declined: bool = False  # by a person, by a model and settled, or because nobody reviewed it in time
    cancelled: bool = False  # stands: nothing had shipped
    cancel_too_late: bool = False  # asked for, but it had shipped: the parcel won
    ended: bool = False  # nothing more is expected: delivered, returned or cancelled

    # what is wrong with our knowledge
    parked_ids: Set[str] = NONE
    unparked_ids: Set[str] = NONE
    parked: tuple[str, ...] = ()  # reports that could not be read and wait for a person
    incomplete: bool = False  # there are such reports
    contradictions: tuple[Key, ...] = ()  # natural keys (kind, system, object) whose variants contradict each other
    retracted: Set[Key] = NO_KEYS  # natural keys that never were about this order

    # other
    notes: int = 0
    feedback: int | None = None  # the latest score given
    status: Status = Status.ANNOUNCED

    @property
    def signals(self) -> Mapping[str, float]:
        """Risk signals by name, of whoever reports some."""
        return strongest(self.placed.signals, self.reported) if self.placed is not None else self.reported

    @property
    def person(self) -> Person:
        """The latest said of the customer, corrections included."""
        return whole_person(self.said_of)


# --- one handler per kind; facts come oldest first, so "the latest" is plain assignment
_Handler = Callable[[View, Any, dict[str, Person]], None]


def _speaks(f: Any, before: Any) -> bool:
    """Of several statements about a whole (by several systems) the greatest (authority, version, at) speaks."""
    return before is None or (f.authority, f.version, f.at, f.system, f.object) > (
        before.authority,
        before.version,
        before.at,
        before.system,
        before.object,
    )


def _placed(v: View, f: Any, persons: dict[str, Person]) -> None:
    if _speaks(f, v.placed):
        v.placed = f
        v.currency = f.currency
        v.total = f.total
        v.lines = f.lines
        if not v.person_corrected:
            v.said_of = persons.get(f.who, NOBODY)


def _address(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.person_corrected = True
    v.said_of = persons.get(f.who, NOBODY)


def _authorized(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.payments = (*v.payments, f)
    v.authorizations = (*v.authorizations, f)


def _captured(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.payments = (*v.payments, f)
    v.captures = (*v.captures, f)


def _failed(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.payments = (*v.payments, f)
    v.failures += 1
    v.failed_at = f.at
    v.failed_live = not f.backfilled


def _refunded(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.refunds = (*v.refunds, f)


def _paid(v: View, f: Any, persons: dict[str, Person]) -> None:
    if _speaks(f, v.statement):
        v.statement = f


def _disputed(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.disputes = {**v.disputes, f.object: f.amount}


def _dispute_closed(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.disputes_closed = {**v.disputes_closed, f.object: f.won}


def _cancel(v: View, f: Any, persons: dict[str, Person]) -> None:
    if not v.cancel_at:
        v.cancel_at = f.at
        v.cancel_reason = f.reason


def _lines_cancelled(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.cancelled_lines = _more(v.cancelled_lines, f.lines)


def _reserved(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.reservations = (*v.reservations, f)


def _short(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.shortages = (*v.shortages, f)


def _scarce(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.scarce = (*v.scarce, f)


def _released(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.released = {**v.released, f.object: f}


def _picked(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.picked = {f.location: f.at, **v.picked}
    if f.short:
        v.pick_short = _more(v.pick_short, f.short)


def _packed(v: View, f: Any, persons: dict[str, Person]) -> None:
    p = _parcel(v, f)
    if not p.packed_at:
        p.packed_at = f.at
    if f.lines:
        p.lines = f.lines


def _scanned(v: View, f: Any, persons: dict[str, Person]) -> None:
    p = _parcel(v, f)
    if f.carrier:
        p.carrier = f.carrier
    if f.tracking:
        p.tracking = f.tracking
    if f.lines and not p.packed_at:
        p.lines = f.lines
    if f.eta_until:
        p.eta_from = f.eta_from
        p.eta_until = f.eta_until
    tag = f.tag
    at = f.at
    if not p.shipped_at and tag._value_ in MOVED:
        p.shipped_at = at
        p.shipped_live = not f.backfilled
    if tag is OUT:
        if not p.out_at:
            p.out_at = at
            p.out_live = not f.backfilled
    elif tag is DELIVERED:
        if not p.delivered_at:
            p.delivered_at = at
            p.delivered_live = not f.backfilled
    elif tag is RETURNED:
        p.returned_at = p.returned_at or at
    elif tag._value_ in TROUBLE:
        p.trouble += 1
        p.trouble_at = p.trouble_at or at
    if p.returned_at:
        p.tag = RETURNED
    elif p.delivered_at:
        p.tag = DELIVERED
    elif tag is not UNKNOWN:
        p.tag = tag
    p.tag_at = at


def _hold(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.holds_placed = {**v.holds_placed, f.object: f.reason}


def _hold_released(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.holds_released = {*v.holds_released, *f.holds}
    if REVIEW_HOLD in f.holds or DECLINE_HOLD in f.holds:
        v.person_verdict = APPROVE  # a person let it go: no later score takes that back
        v.person_verdict_at = f.at


def _reviewed(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.person_verdict = APPROVE if f.approve else DECLINE
    v.person_verdict_at = f.at


def _returned(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.returned_at = v.returned_at or f.at
    if f.lines:
        v.returned_lines = _more(v.returned_lines, f.lines)
    else:
        v.all_returned = True


def _message(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.messages = {**v.messages, f.effect: f.outcome}


def _parked(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.parked_ids = {*v.parked_ids, f.object}


def _unparked(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.unparked_ids = {*v.unparked_ids, f.object}


def _note(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.notes += 1


def _feedback(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.feedback = f.score


def _risk(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.reported = strongest(v.reported, f.signals)


def strongest(a: Mapping[str, float], b: Mapping[str, float]) -> Mapping[str, float]:
    """Each signal's greatest value."""
    return {name: max(told[name] for told in (a, b) if name in told) for name in {**a, **b}} if a and b else a or b


def _settled(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.settled = {**v.settled, f.effect: f}


def _resend(v: View, f: Any, persons: dict[str, Person]) -> None:
    v.resends = {**v.resends, f.object: f}


def _retracted(v: View, f: Any, persons: dict[str, Person]) -> None:
    pass  # taken into account before the pass: what it names is not looked at


def _parcel(v: View, f: Any) -> Parcel:
    id = f.parcel
    if v.renamed:
        id = v.renamed.get(id, id)
    parcel = v.parcels.get(id)
    if parcel is None:
        parcel = Parcel(id)
        v.parcels = {**v.parcels, id: parcel}
    if f.system not in parcel.systems:
        parcel.systems = (*parcel.systems, f.system)
    return parcel


class Label(NamedTuple):
    """A label that we bought, as the outcome of its effect says: "<carrier> <tracking number> <file>", no file where none was kept."""

    parcel: str
    carrier: str
    tracking: str
    file: str
    voided: bool


def _labels(order: Order) -> list[Label]:
    found = []
    for effect in order.ledger.values():
        if effect.action != "carrier.label" or not effect.attempts or effect.attempts[-1].outcome != "sent":
            continue
        carrier, *said = effect.attempts[-1].reference.split(" ")
        if said:  # a sandbox says less
            void = order.ledger.get(f"carrier.void cancelled {effect.instance}")
            voided = void is not None and bool(void.attempts) and void.attempts[-1].outcome == "sent"
            found.append(Label(effect.instance, carrier, said[0], " ".join(said[1:]), voided))
    return found


def _same(v: View) -> dict[str, str]:
    """Shop, warehouse and carrier each have a name for a parcel; where the number is one it is one parcel, by the name told first."""
    first: dict[str, str] = {}
    for p in sorted(v.parcels.values(), key=lambda p: not p.label):  # what we bought a label for keeps its name
        first.setdefault(p.tracking or p.id, p.id)
    return {p.id: first[p.tracking or p.id] for p in v.parcels.values() if first[p.tracking or p.id] != p.id}


def _more(so_far: Mapping[str, int], lines: tuple[Quantity, ...]) -> dict[str, int]:
    sums = {**so_far}
    for q in lines:
        sums[q.line] = sums.get(q.line, 0) + q.quantity
    return sums


HANDLERS: dict[type[Fact], _Handler] = {
    TWINS[kind]: handler
    for kind, handler in (
        (facts.OrderPlaced, _placed),
        (facts.AddressCorrected, _address),
        (facts.PaymentAuthorized, _authorized),
        (facts.PaymentCaptured, _captured),
        (facts.PaymentFailed, _failed),
        (facts.PaymentRefunded, _refunded),
        (facts.OrderPaid, _paid),
        (facts.PaymentDisputed, _disputed),
        (facts.DisputeClosed, _dispute_closed),
        (facts.CancelRequested, _cancel),
        (facts.LinesCancelled, _lines_cancelled),
        (facts.StockReserved, _reserved),
        (facts.StockShort, _short),
        (facts.StockScarce, _scarce),
        (facts.StockReleased, _released),
        (facts.ItemsPicked, _picked),
        (facts.ParcelPacked, _packed),
        (facts.ParcelScanned, _scanned),
        (facts.HoldPlaced, _hold),
        (facts.HoldReleased, _hold_released),
        (facts.ReviewDecided, _reviewed),
        (facts.ReturnReceived, _returned),
        (facts.MessageReported, _message),
        (facts.FactRetracted, _retracted),
        (facts.FactParked, _parked),
        (facts.FactUnparked, _unparked),
        (facts.NoteAdded, _note),
        (facts.FeedbackGiven, _feedback),
        (facts.EffectSettled, _settled),
        (facts.ResendRequested, _resend),
        (facts.RiskReported, _risk),
    )
}


def view(order: Order) -> View:
    """Everything derived from the order as it is now."""
    v = derive(order)
    conclude(v, order)
    return v


def derive(order: Order) -> View:
    """The part of a view that follows from facts, and from the labels that we bought; `conclude` completes it."""
    labels = _labels(order) if order.ledger else []
    v = _pass(order, labels, {label.tracking: label.parcel for label in labels} if labels else EMPTY)
    if len(v.parcels) > 1 and (same := _same(v)):
        v = _pass(order, labels, {**v.renamed, **same})
    return v


def _pass(order: Order, labels: list[Label], renamed: Mapping[str, str]) -> View:
    v = View(order.id)
    v.renamed = renamed
    persons = order.persons
    gone = NO_KEYS
    if order.retracts:
        gone = v.retracted = _retractions(order)
    handlers = HANDLERS
    first = last = 0
    for key, variants in order.facts.items():
        fact = variants[0]
        at = fact.at
        if at < AT_MIN or at >= AT_MAX or (gone and key in gone):
            continue
        first = first or at
        last = at
        if len(variants) > 1 and contradictory(variants):
            v.contradictions = (*v.contradictions, key)
        handlers[type(fact)](v, fact, persons)
    v.first_at, v.last_at = first, last
    placed = v.placed
    if placed is not None or v.payments or v.refunds or v.statement is not None:
        _money(v)
    if v.disputes or v.disputes_closed:
        v.disputed = sum(amount for dispute, amount in v.disputes.items() if dispute not in v.disputes_closed)
        v.dispute_lost = not all(v.disputes_closed.values())
    if v.reservations or v.shortages:
        _stock(v, order)
    if v.messages:
        v.answered = {**v.answered, **v.messages}
    for label in labels:
        parcel = v.parcels.get(label.parcel)
        if parcel is not None and not label.voided:
            parcel.label = label.file
            parcel.carrier = parcel.carrier or label.carrier
            parcel.tracking = parcel.tracking or label.tracking
    if v.parcels:
        _parcels(v)
    if placed is not None and not v.shipped_at and "address" not in placed.not_applicable:
        v.address_missing = missing_fields(v.said_of.address)
    if v.returned_lines and not v.all_returned:
        v.all_returned = bool(v.lines) and all(v.returned_lines.get(x.line, 0) >= wanted(v, x) for x in v.lines)
    if v.parked_ids:
        v.parked = tuple(sorted(v.parked_ids - v.unparked_ids))
        v.incomplete = bool(v.parked)
    return v


def conclude(v: View, order: Order) -> None:
    """The part that looks at decision, fired timers and holds too; may be called again when only these have changed."""
    decision = order.decision
    v.decision = decision
    declined = False
    if v.person_verdict:
        v.verdict, v.verdict_by = v.person_verdict, "person"
        declined = v.verdict == DECLINE
    elif decision is not None:
        v.verdict, v.verdict_by = decision.verdict, decision.by
        if decision.verdict == DECLINE:
            declined = decline_timer(decision) in order.fired
        elif decision.verdict == REVIEW:  # one that has shipped is not reviewed any more, whenever we learned of either
            declined = not v.shipped_at and review_timer("cancel", decision) in order.fired
    v.declined = declined
    cancel = bool(v.cancel_at) or declined
    if not cancel and v.cancelled_lines and v.lines:
        cancel = all(wanted(v, x) <= 0 for x in v.lines)
    # A cancellation races with the parcel: what has physically left wins, and both stay on record.
    v.cancelled = cancel and not v.shipped_at
    v.cancel_too_late = cancel and bool(v.shipped_at)
    v.ended = v.cancelled or v.all_delivered or v.all_returned
    holds = v.holds_placed
    released = v.holds_released
    if holds and released:
        holds = {hold: reason for hold, reason in holds.items() if hold not in released}
    if not v.ended:
        if v.verdict == REVIEW:
            if REVIEW_HOLD not in released:
                holds = {**holds, REVIEW_HOLD: REVIEW_HOLD}
        elif v.verdict == DECLINE and not declined:
            holds = {**holds, DECLINE_HOLD: DECLINE_HOLD}
        if v.address_missing and not v.shipped_at and ADDRESS_HOLD not in released:
            holds = {**holds, ADDRESS_HOLD: ADDRESS_HOLD}
    v.holds = holds
    if order.remnant is None:
        v.status = status_of(v)
    else:
        v.ended = True
        v.status = Status(order.remnant.status)


def decline_timer(decision: Decision) -> str:
    """What fires when a model's decline has stood for the settle time."""
    return f"decline {decision.since}"


def review_timer(step: str, decision: Decision) -> str:
    """What fires when nobody has reviewed an order in time: "late", then "expired", or "cancel" where the policy says so."""
    return f"review_{step} {decision.since}"


def awaits_review(v: View) -> bool:
    """Whether a person is to decide about it, and still can: it is held for review, is not history and has not left."""
    return REVIEW_HOLD in v.holds and not v.shipped_at and v.placed is not None and not v.placed.backfilled


def wanted(v: View, line: Line) -> int:
    """How many of a line are still wanted."""
    return line.quantity - v.cancelled_lines.get(line.line, 0)


def _retractions(order: Order) -> set[Key]:
    """Keys named by retractions that are themselves in force. A retraction cannot be retracted: report the fact again."""
    return {
        (f.target_type, f.target_system, f.target_object)  # type: ignore[attr-defined]
        for key, (f, *_) in order.facts.items()
        if key[0] == "FactRetracted" and AT_MIN <= f.at < AT_MAX
    }


def _money(v: View) -> None:
    currency = v.currency
    if not currency:
        currency = v.currency = (v.payments or v.refunds or [v.statement])[0].currency
    paid_at = 0
    live = True
    known = v.placed is not None
    for f in v.captures:
        if f.currency != currency:
            v.currency_conflict = True
            continue
        v.captured += f.amount
        if known and not paid_at and v.captured >= v.total:
            paid_at, live = f.at, not f.backfilled
    for f in v.authorizations:
        if f.currency != currency:
            v.currency_conflict = True
        else:
            v.authorized += f.amount
    for f in v.refunds:
        if f.currency != currency:
            v.currency_conflict = True
        else:
            v.refunded += f.amount
    v.paid = v.captured
    statement = v.statement
    if statement is not None:
        if statement.currency != currency:
            v.currency_conflict = True
        else:
            v.stated_paid = statement.amount
            if statement.amount > v.paid:
                v.paid = statement.amount
            if known and statement.amount >= v.total and (not paid_at or statement.at < paid_at):
                paid_at, live = statement.at, not statement.backfilled
    placed = v.placed
    if placed is None:
        return
    if placed.prepaid or placed.total == 0:
        paid_at = paid_at or placed.at
        live = live and not placed.backfilled
    v.paid_at = paid_at
    v.paid_live = live
    v.paid_in_full = paid_at > 0


def _stock(v: View, order: Order) -> None:
    given_back = {request for request, f in v.released.items() if f.quantity} if v.released else NONE
    answered: dict[str, str] = {}
    reserved: dict[str, Any] = {}
    for f in v.reservations:
        if f.object in given_back:
            answered[f.object] = "released"
        else:
            answered[f.object] = "reserved"
            reserved[f.line] = f
    v.reserved = reserved
    if v.shortages:
        short: dict[str, Any] = {}
        for f in v.shortages:
            if f.object in v.released:
                answered[f.object] = "released"
            elif f.object not in answered:  # else the queue was served
                answered[f.object] = "short"
                short[f.line] = f
        v.short = short
    v.answered = answered
    if order.ledger or v.short or len(reserved) < len(answered):
        _moving(v, order)


def _moving(v: View, order: Order) -> None:
    """A line may be known, and asked for, at several locations while it moves from one to another. Only answers to us count."""
    answers, released = v.answered, v.released
    asks = [e for e in order.ledger.values() if e.action == "stock.reserve"]
    open_ = [e for e in asks if e.open and e.id not in answers and e.id not in released]
    if not asks or (not open_ and len(answers) == len(v.reserved)):
        return
    ours = {e.id for e in asks}
    lines = {x.line for x in v.lines} if open_ else NONE
    asked = {line_asked(lines, e.milestone, e.instance) for e in open_}
    in_force = {(f.line, f.object) for f in (*v.reservations, *v.shortages) if f.object in ours and answers[f.object] != "released"}
    times = Counter(line for line, _ in in_force)
    v.moving = {line for line, request in in_force if answers[request] == "reserved" and (times[line] > 1 or line in asked)}
    if v.short:
        v.short = {line: f for line, f in v.short.items() if f.object not in ours or not (line in asked or line in v.moving)}


def line_asked(lines: Container[str], milestone: str, instance: str) -> str:
    """The line that a request for stock is about: "line", "line~times" or, of one that a table of rates chose, "location/line"."""
    if milestone == "sourced":
        return instance.partition("/")[2]
    return instance if instance in lines else instance.rpartition("~")[0]


def _parcels(v: View) -> None:
    shipped_at = delivered_at = returned_at = 0
    moved: list[Parcel] = []
    arrived = back = 0
    for p in v.parcels.values():
        if not p.shipped_at:
            continue
        moved.append(p)
        if not shipped_at or p.shipped_at < shipped_at:
            shipped_at = p.shipped_at
        if p.returned_at:
            back += 1
            returned_at = max(returned_at, p.returned_at)
        elif p.delivered_at:
            arrived += 1
            delivered_at = max(delivered_at, p.delivered_at)
        elif p.tag is OUT:
            v.out_for_delivery = True
        elif p.tag._value_ in TROUBLE:
            v.in_trouble = True
    if not moved:
        return
    v.shipped_at = shipped_at
    v.all_shipped = covers(v, moved)
    if arrived:
        v.some_delivered = True
        if v.all_shipped and arrived == len(moved):
            v.all_delivered = True
            v.delivered_at = delivered_at
    elif back == len(moved):
        v.all_returned = v.all_shipped
        v.returned_at = v.returned_at or returned_at


def where(v: View, parcel: Parcel) -> str:
    """Where a parcel was packed."""
    for q in parcel.lines:
        if q.line in v.reserved:
            return str(v.reserved[q.line].location)
    return next(iter(v.picked), "") or next((str(f.location) for f in v.reserved.values()), "")


def covers(v: View, parcels: list[Parcel]) -> bool:
    """Whether these parcels together hold everything still wanted. A parcel that names no lines holds the whole order."""
    held: dict[str, int] = {}
    for p in parcels:
        if not p.lines:
            return True
        for q in p.lines:
            held[q.line] = held.get(q.line, 0) + q.quantity
    return all(held.get(x.line, 0) >= wanted(v, x) for x in v.lines)
