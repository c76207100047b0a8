"""What is wanted: effects and timers, from what is known and nothing else. No clock, no I/O.

A wanted effect is its name, `action milestone instance`. What it carries is made when it leaves: `request` for another
lane, `body` for the outside. A trigger is *monotone* (looks at what can only grow) or *guarded*: `guard` looks again,
at the claim, at everything that may have changed since it became wanted.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

import msgspec

from orders.allocation import (
    LABEL,
    PICK,
    RESERVE,
    asking,
    carried,
    checks,
    grams_of,
    held,
    lacking,
    places,
    requests,
    sourced,
    sourced_before,
    waiting,
)
from orders.decision import APPROVE, DECLINE, REVIEW, SHARE
from orders.effect import Effect, effect_id, made
from orders.fact import Line, Tracking
from orders.policy import Policy, Trigger
from orders.request import (
    MessageBlocked,
    MessageFreed,
    MessageRequested,
    ReferenceLinked,
    StockCheckRequested,
    StockReleaseRequested,
    StockRequested,
    StockShipped,
)
from orders.state import Order, effect_name, parts
from orders.status import WORDS, Status
from orders.view import (
    ADDRESS_HOLD,
    REVIEW_HOLD,
    TROUBLE,
    Parcel,
    View,
    awaits_review,
    covers,
    decline_timer,
    line_asked,
    review_timer,
    wanted,
)

RELEASE, LEFT = "stock.release cancelled", "stock.ship shipped"
REFUND, VOID = "payment.refund cancelled", "carrier.void cancelled"
PAYMENT_LINK, TRACKING_LINK, NUMBER_LINK = "reference.link payment", "reference.link tracking", "reference.link number"
UNPICK = "warehouse.cancel cancelled"
FULFIL, TAG = "shop.fulfil shipped", "shop.tag"
RETIRE = "retire"
PART_NAME_MAX = 80  # characters in a message
TEAMS = {  # what a notice is about -> who is told
    "stock_shortage_risk": "inventory",
    "payment_problem": "finance",
    "contradiction": "finance",
    "dispute": "finance",
    "hold": "risk",
    "review": "risk",
    "review_overdue": "risk",
    "review_expired": "risk",
    "exception": "service",
    "cancelled_after_pick": "warehouse",
}
MESSAGE_CHANNELS = {"notify.email": "email", "notify.sms": "sms", "notify.push": "push"}
SYSTEMS = "systems"  # the channel of vendors' accounts that do things for us
SHOP = frozenset({"shop.fulfil", "shop.tag"})
OUTSIDE = SHOP | {"warehouse.pick", "warehouse.cancel", "carrier.label", "carrier.void", "payment.refund", "team.notice"}
CHANNELS = {  # whose mode decides about an effect; links between our own lanes have none
    **MESSAGE_CHANNELS,
    **dict.fromkeys(OUTSIDE, "webhook"),
    **dict.fromkeys(SHOP, SYSTEMS),
    **dict.fromkeys(("stock.check", "stock.reserve", "stock.release", "stock.ship"), "stock"),
    "reference.link": "",
}
UNANSWERED = frozenset({"reference.link", "stock.check", "stock.ship"})  # done when their record is in the outbox
KEPT = frozenset({"stock.reserve", "stock.release"})  # once asked, answered: never withdrawn, but undone by a release


TAGS: list[tuple[Callable[[View], bool], Status]] = [  # what a shop's order is tagged with, each once: what can only grow
    (lambda o: o.paid_in_full, Status.PAYMENT_CONFIRMED),
    (lambda o: bool(o.picked or o.parcels), Status.IN_PROGRESS),
    (lambda o: o.all_shipped, Status.SHIPPED),
    (lambda o: o.all_delivered, Status.DELIVERED),
    (lambda o: o.all_returned, Status.RETURNED),
    (lambda o: o.cancelled, Status.CANCELLED),
    (lambda o: 0 < o.paid <= o.refunded, Status.REFUNDED),
]


class Wanted(msgspec.Struct, gc=False):
    effects: list[str]  # names; one may occur twice
    timers: dict[str, int]  # name -> due, ms; only those that have not fired
    rung: dict[str, int]  # those due by `now`, taken for fired: what follows from them is among the effects


def channel_of(action: str, policy: Policy) -> str:
    """The channel by which an action leaves, "" for links between our own lanes."""
    return policy.served.get(action) or CHANNELS[action]


def plan(view: View, order: Order, policy: Policy, now: int = 0) -> Wanted:
    """Everything this order should have caused by now, made or not, and when to look again without being told anything.

    Without `now` only timers that have fired count. With it, those due by then count as well and are in `rung`, except
    for those after which the order itself is another: a decline that settles, and retirement.
    """
    effects: list[str] = []
    timers: dict[str, int] = {}
    out = Wanted(effects, timers, {})
    say = policy.messages
    fired = order.fired
    placed = view.placed
    for payment in view.payments:
        effects.append(f"{PAYMENT_LINK} {payment.object}")
    if view.disputed or view.dispute_lost:
        effects.append("team.notice dispute")
    if placed is None:
        return out
    if placed.number and placed.number != order.id.partition(":")[2]:
        effects.append(f"{NUMBER_LINK} {placed.number}")
    past = placed.backfilled  # an order from history: linked and shown, but nothing is done about it
    cancelled = view.cancelled
    verdict = view.verdict
    going = not cancelled and not past and verdict != "" and verdict != DECLINE
    decision = order.decision
    if decision is not None and verdict == DECLINE and not view.person_verdict:
        settled = decline_timer(decision)
        if settled not in fired:
            timers[settled] = decision.since + policy.settle_ms

    # payment
    if going:
        effects.extend(say.order_placed)
    paid = view.paid_in_full
    if paid:
        if going and not placed.prepaid and view.paid_live and placed.total:
            effects.extend(say.payment_confirmed)
    elif view.failures and not cancelled and view.failed_live and not past:
        effects.extend(say.payment_failed)
        if view.failures >= policy.finance_after_failures:
            effects.append("team.notice payment_problem")
    if view.currency_conflict or view.contradictions:
        effects.append("team.notice contradiction")

    # stock and warehouse
    reserving: set[str] = set()
    needed: dict[str, str] | None = None  # where there is a table of rates: line -> where it is to be reserved
    arriving = False  # something is asked for at another location than where it is reserved
    if going:
        short: Collection[str] = view.short
        scarce = False
        due = paid or (placed.total > 0 and view.authorized >= placed.total)
        stocked = "stock" not in placed.not_applicable
        if stocked and due:
            if policy.sourcing.rates:
                choice = sourced(view, order, policy)
                needed = places(view, order, policy, choice)
                reserving.update(needed)
                asks = requests(view, order, policy, needed)
                effects.extend(asks.values())
                arriving = any(
                    line in view.reserved and view.reserved[line].location != place and asks.get(line) not in order.closed
                    for line, place in needed.items()
                )
                short = waiting(view, choice)
            else:
                for line in view.lines:
                    if wanted(view, line) > 0:
                        reserving.add(line.line)
                        name = f"{RESERVE} {asking(view, line.line)}"
                        if not order.ledger or name in order.ledger or not sourced_before(view, order, line.line):
                            effects.append(name)
        elif stocked and not view.shipped_at:
            asked = checks(view, policy)
            effects.extend([name for locations in asked.values() for name, _ in locations])
            scarce = bool(view.scarce) and lacking(view, asked)
        if short and not view.shipped_at:
            effects.extend(say.backordered)
        if short or scarce or (decision is not None and decision.shortage > policy.stock_risk_above * SHARE and not view.shipped_at):
            effects.append("team.notice stock_shortage_risk")
        effects.extend([f"team.notice stock_shortage_risk {line}" for line in view.pick_short])
        if view.reserved and paid and not view.shipped_at:
            effects.extend(say.in_progress)
            if not arriving:
                effects.extend([f"{PICK} {location}" for location in unpicked(view)])
    if (view.reservations or view.shortages) and not past:
        _stock(view, order, out, reserving, needed, cancelled, verdict)
    if view.holds and not past:
        if ADDRESS_HOLD in view.holds:
            effects.extend(say.address_incomplete)
        if REVIEW_HOLD in view.holds:
            effects.append("team.notice review")
        if awaits_review(view):
            _review(view, order, policy, out, now)
        for hold in view.holds:
            if hold in view.holds_placed:
                effects.append(f"team.notice hold {hold}")

    # parcels
    if view.parcels:
        _parcels(view, order, policy, out, going, now)
    open_ = not view.all_delivered and not cancelled and not past and not view.all_returned
    if placed.promised and open_ and ("delay" in fired or _rings(out, "delay", placed.promised, now)):
        effects.extend(say.delay)

    # what the shop is told
    if placed.system in policy.writes_back and not past:
        effects.extend(f"{FULFIL} {parcel.id}" for parcel in view.parcels.values() if _left(view, parcel))
        effects.extend(f"{TAG} {status}" for holds, status in TAGS if holds(view))

    # undoing
    if cancelled and not past:
        _undo(view, order, policy, out)
    for refund in view.refunds:
        if not refund.backfilled and not past:
            for message in say.refunded:
                effects.append(f"{message} {refund.object}")
    if view.resends and not past:
        effects.extend(_resends(view, order))
    if policy.retire_after_ms and view.ended and decision is not None and not _waits(view, order):
        timers[RETIRE] = max(view.last_at, decision.at) + policy.retire_after_ms
    return out


def _rings(out: Wanted, timer: str, at: int, now: int) -> bool:
    if at <= now:
        out.rung[timer] = at
        return True
    out.timers[timer] = at
    return False


def _review(view: View, order: Order, policy: Policy, out: Wanted, now: int) -> None:
    """Nobody came in time: the team is told, and after as long again what the policy says. Never an approval."""
    decision = view.decision
    assert decision is not None
    late, expired = review_timer("late", decision), review_timer("expired", decision)
    at = decision.since + policy.review_sla_ms
    if late not in order.fired and not _rings(out, late, at, now):
        return
    out.effects.append("team.notice review_overdue")
    at += policy.review_sla_ms
    if policy.review_expiry == "cancel":
        out.timers[review_timer("cancel", decision)] = at  # once fired, the order is cancelled and awaits nothing
    elif expired in order.fired or _rings(out, expired, at, now):
        out.effects.append("team.notice review_expired")


def _parcels(view: View, order: Order, policy: Policy, out: Wanted, going: bool, now: int) -> None:
    effects, say, fired = out.effects, policy.messages, order.fired
    past = view.placed is not None and view.placed.backfilled
    for parcel in view.parcels.values():
        id = parcel.id
        if parcel.tracking:
            effects.append(f"{TRACKING_LINK} {parcel.tracking}")
        if parcel.shipped_at:
            if parcel.shipped_live:
                for name in say.shipped:
                    effects.append(f"{name} {id}")
            if parcel.out_at and parcel.out_live:
                for name in say.out_for_delivery:
                    effects.append(f"{name} {id}")
            if parcel.tag._value_ in TROUBLE and parcel.shipped_live:
                effects.append(f"team.notice exception {id}")
            if parcel.eta_from and not parcel.delivered_at and not parcel.returned_at and parcel.shipped_live:
                timer = f"delivery_reminder {id}"
                if timer in fired or _rings(out, timer, parcel.eta_from - policy.reminder_lead_ms, now):
                    for name in say.delivery_reminder:
                        effects.append(f"{name} {id}")
        elif going and parcel.packed_at and not parcel.tracking:
            effects.append(f"{LABEL} {id}")
    if view.all_delivered and all(p.delivered_live for p in view.parcels.values()):
        effects.extend(say.delivered)
        content = not view.returned_at and not view.refunded and not view.disputed and not past
        if content and ("feedback" in fired or _rings(out, "feedback", view.delivered_at + policy.feedback_after_ms, now)):
            effects.extend(say.feedback)


def _left(view: View, parcel: Parcel) -> bool:
    """Whether the shop is to be told of a parcel: it is packed, has a number, and is none that the shop itself has told of."""
    return bool(parcel.tracking and (parcel.packed_at or parcel.shipped_at)) and not view.cancelled and not _shop_knows(view, parcel)


def _shop_knows(view: View, parcel: Parcel) -> bool:
    return view.placed is not None and view.placed.system in parcel.systems


def _stock(
    view: View, order: Order, out: Wanted, reserving: set[str], needed: Mapping[str, str] | None, cancelled: bool, verdict: str
) -> None:
    """Reserved stock leaves with its parcel, or is given back once nothing asks for it; a decline that settles keeps it.

    A line that moves keeps what it has, a place in a queue too, until it is reserved where it is needed.
    """
    gone = [p for p in view.parcels.values() if p.shipped_at]
    stays = _stays(view, order, needed) if view.moving else {}
    for f in held(view) if view.moving or view.shortages else view.reserved.values():
        if f.system == "stock":
            line = f.line
            if gone and view.reserved.get(line) == f and (view.all_shipped or line_left(line, gone)):
                out.effects.append(f"{LEFT} {f.object}")
            elif (line not in reserving or (stays and stays.get(line, f) is not f)) and (cancelled or verdict in (APPROVE, REVIEW)):
                out.effects.append(f"{RELEASE} {f.object}")


def _stays(view: View, order: Order, needed: Mapping[str, str] | None) -> dict[str, Any]:
    """Line -> the reservation that what else there is of it makes way for, of those that move."""
    found: dict[str, Any] = {}
    for f in held(view):
        its = view.reserved.get(f.line)
        place = needed.get(f.line) if needed is not None else its.location if its is not None else None
        if f.location == place and view.answered[f.object] == "reserved" and f"{RELEASE} {f.object}" not in order.ledger:
            found.setdefault(f.line, f)
    return found


def answered(effect: Effect, view: View) -> bool:
    """Whether a fact has said what became of an effect: the asked lane's answer, or that what it was to bring about is so."""
    if effect.id in view.answered:
        return True
    if effect.id in view.settled and effect.action in OUTSIDE and view.settled[effect.id].happened:
        return True
    match effect.action:
        case "stock.release":
            return effect.instance in view.released
        case "warehouse.pick":
            return effect.instance in view.picked
        case "carrier.label":
            return effect.instance in view.parcels and bool(view.parcels[effect.instance].tracking)
        case "shop.fulfil":
            return effect.instance in view.parcels and _shop_knows(view, view.parcels[effect.instance])
        case "payment.refund":
            return 0 < view.paid <= view.refunded
    return False


def _waits(view: View, order: Order) -> bool:
    return any(effect.open and not answered(effect, view) for effect in order.ledger.values())


def _undo(view: View, order: Order, policy: Policy, out: Wanted) -> None:
    effects = out.effects
    effects.extend(policy.messages.cancelled)
    if view.captured > view.refunded:
        for capture in view.captures:
            if capture.currency == view.currency:
                effects.append(f"{REFUND} {capture.object}")
    elif view.paid > view.refunded:
        effects.append(REFUND)
    for parcel in view.parcels.values():
        if made(order.ledger.get(f"{LABEL} {parcel.id}"), view) or parcel.tag is Tracking.LABEL_CREATED:
            effects.append(f"{VOID} {parcel.id}")
    asked = [effect for name, effect in order.ledger.items() if name.startswith(PICK) and made(effect, view)]
    if view.picked or asked:
        effects.append("team.notice cancelled_after_pick")
    if "warehouse.cancel" in policy.served:  # by the signed webhook the notice is all there is
        effects.extend(f"{UNPICK} {effect.instance}" for effect in asked if effect.instance not in view.picked)


def unpicked(view: View) -> list[str]:
    """Where there is something to pick, once everything that is wanted is reserved."""
    if view.shipped_at or not view.paid_in_full or view.moving or not all_reserved(view):
        return []
    return sorted({f.location for f in view.reserved.values()} - view.picked.keys())


def _resends(view: View, order: Order) -> list[str]:
    """Messages that people want said once more: such as were really asked for, and of which it is known what became."""
    told = {e.id: e for e in order.ledger.values() if e.action in MESSAGE_CHANNELS and e.id in view.messages}
    again = [(told[f.effect], f.object) for f in view.resends.values() if f.effect in told]
    return [effect_name(e.action, e.milestone, f"{said_of(e.instance, view)}~{object}") for e, object in again]


def said_of(instance: str, view: View) -> str:
    """The parcel or refund that a message speaks of; a repetition carries what a person called it behind a tilde."""
    of, _, again = instance.rpartition("~")
    return of if again in view.resends else instance


def all_reserved(view: View) -> bool:
    return all(x.line in view.reserved for x in view.lines if wanted(view, x) > 0)


def line_left(line: str, parcels: list[Parcel]) -> bool:
    return any(q.line == line for p in parcels for q in p.lines)


# --- the guard: looked at again by the commit that claims
def guard(effect: Effect, view: View, order: Order) -> str:
    """Why an effect that is wanted must still wait; "" when it may be claimed."""
    action = effect.action
    if action in ("team.notice", "shop.tag"):
        return ""
    if action == "shop.fulfil":
        return "held" if view.holds and not view.shipped_at else ""
    if effect.undoes:
        undone = next((e for e in order.ledger.values() if e.id == effect.undoes), None)
        return "undoes_open" if undone is not None and undone.open and not answered(undone, view) and made(undone, view) else ""
    if action == "payment.refund":
        return "incomplete" if view.incomplete else "" if view.cancelled else "not_cancelled"
    return stopped(view) or ("shipped" if view.shipped_at else "")


def stopped(view: View) -> str:
    """Why nobody may pick, pack or hand over an order now; "" when one may."""
    if view.incomplete:
        return "incomplete"
    if view.holds:
        return "held"
    if view.verdict != APPROVE:
        return "undecided"
    return "cancelled" if view.cancelled else ""


def undoes(name: str, order_id: str) -> str:
    """The ID of the effect that this one undoes; "" for most."""
    action, _, instance = parts(name)
    if action == "carrier.void":
        return effect_id(order_id, "packed", instance, "carrier.label")
    if action == "warehouse.cancel":
        return effect_id(order_id, "in_progress", instance, "warehouse.pick")
    return ""


def turn(view: View, policy: Policy) -> int:
    """When an order's turn in the warehouse is: earlier goes first.

    It is when the order could first be picked, brought forward by its priority, at most by `overtake_ms`: an urgent order
    passes those before it, and no order is ever passed by one that came more than `overtake_ms` after it.
    """
    priority = view.decision.priority if view.decision is not None else 0
    return (view.paid_at or view.first_at) - policy.overtake_ms * priority // SHARE


# --- what leaves
def signed(order_id: str, purpose: str, policy: Policy) -> str:
    """The order's ID with a code that cannot be guessed, for links."""
    digest = blake2b(f"{purpose}\x1f{order_id}".encode(), key=policy.link_key.encode()[:64], digest_size=8)
    return f"{order_id}.{digest.hexdigest()}"


def unsigned(token: str, purpose: str, policy: Policy) -> str | None:
    """The order that a link of ours was made for; None for what we did not sign. Compares in constant time."""
    order_id = token.rpartition(".")[0]
    return order_id if hmac.compare_digest(signed(order_id, purpose, policy).encode(), token.encode("utf-8", "replace")) else None


def request(name: str, id: str, view: View, order: Order, policy: Policy, now: int) -> tuple[str, str, msgspec.Struct]:
    """topic, key and record that ask another lane for a wanted effect."""
    action, milestone, instance = parts(name)
    if action == "reference.link":
        value = instance
        since = min((f.at for f in view.payments if f.object == value), default=view.first_at) if milestone == "payment" else view.first_at
        return "references", f"{milestone}:{value}", ReferenceLinked(at=now, kind=milestone, value=value, order=order.id, since=since)
    if action in MESSAGE_CHANNELS:
        return "customers", customer_of(view), message(name, id, view, order, policy, now)
    if action in ("stock.check", "stock.reserve"):
        line = _line(view, milestone, instance)
        assert line is not None
        chosen = unquote(instance.partition("/")[0].partition("~")[0]) if milestone == "sourced" else ""
        location = chosen or line.location or policy.default_location
        key = f"{line.sku}@{location}"
        if action == "stock.check":
            check = StockCheckRequested(
                at=now,
                effect=effect_id(order.id, milestone, instance, action),
                order=order.id,
                line=line.line,
                sku=line.sku,
                location=location,
                quantity=wanted(view, line),
            )
            return "stock", key, check
        priority = view.decision.priority / SHARE if view.decision is not None else 0.0
        asked = StockRequested(
            at=now,
            effect=id,
            order=order.id,
            line=line.line,
            sku=line.sku,
            location=location,
            quantity=wanted(view, line),
            priority=priority,
        )
        return "stock", key, asked
    answer = _answer(view, instance)
    assert answer is not None
    key = f"{answer.sku}@{answer.location}"
    if action == "stock.ship":
        left = StockShipped(at=now, request=answer.object, sku=answer.sku, location=answer.location, quantity=answer.quantity)
        return "stock", key, left
    release = StockReleaseRequested(
        at=now,
        effect=id,
        request=answer.object,
        order=order.id,
        line=answer.line,
        sku=answer.sku,
        location=answer.location,
        quantity=answer.quantity,
    )
    return "stock", key, release


def requestable(name: str, view: View) -> bool:
    """Whether what `request` needs is known: an order edited or retracted since may not have it any more."""
    action, milestone, instance = parts(name)
    if view.placed is None:
        return action == "reference.link"
    if action in ("stock.check", "stock.reserve"):
        return _line(view, milestone, instance) is not None
    return action not in ("stock.release", "stock.ship") or _answer(view, instance) is not None


def customer_of(view: View) -> str:
    """The key of the customer's lane."""
    return view.placed.customer if view.placed is not None else ""


def blocked(effect: Effect, view: View, now: int) -> MessageBlocked:
    """Tells the customer's lane that a message is not true any more; `turns` of the withdrawn effect names the block."""
    return MessageBlocked(
        at=now, effect=effect.id, order=view.id, customer=customer_of(view), block=f"{effect.id}:{effect.turns}", reason="not_wanted"
    )


def freed(effect: Effect, view: View, now: int) -> MessageFreed:
    """Tells it that the message is true again: lifts every block so far."""
    blocks = tuple(f"{effect.id}:{turn}" for turn in range(1, effect.turns, 2))
    return MessageFreed(at=now, effect=effect.id, order=view.id, customer=customer_of(view), blocks=blocks)


def message(name: str, id: str, view: View, order: Order, policy: Policy, now: int) -> MessageRequested:
    """The request for one message, with every field its template may need."""
    action, milestone, whole = parts(name)
    instance = said_of(whole, view)
    cell = policy.cells[f"{action} {milestone}"]
    at = _milestone_at(milestone, instance, view, order)
    placed = view.placed
    assert placed is not None
    base = policy.tracking_base
    fields = {
        "customer_name": view.person.name,
        "order_number": placed.number,
        "tracking_page": _tracking_page(order.id, policy),
        "short_link": f"{base}/t/{signed(order.id, 'track', policy)}",
        "status_text": _status_text(milestone),
        "product_name": products(view, ()),
        "amount": str(view.total),
        "currency": view.currency,
    }
    parcel = view.parcels.get(instance)
    fields.update(_stands(cell, view, parcel, policy))
    since = at if instance == whole else view.resends[whole.rpartition("~")[2]].at  # a repetition is as young as the wish for it
    expires = since + policy.max_age_ms.get(milestone, policy.max_age_ms["order_placed"])
    if parcel is not None:
        fields.update(_part(view, parcel))
        fields["carrier"] = parcel.carrier
        fields["tracking_number"] = parcel.tracking
        fields["tracking_link"] = fields["tracking_page"]
        fields["product_name"] = products(view, tuple(q.line for q in parcel.lines))
        if milestone == "delivery_reminder":
            fields["expected_at"] = str(parcel.eta_from)
            expires = parcel.eta_until or expires
    elif milestone == "payment_failed":
        fields["retry_link"] = f"{base}/pay/{signed(order.id, 'pay', policy)}"
    elif milestone == "feedback":
        fields["feedback_link"] = f"{base}/feedback/{signed(order.id, 'feedback', policy)}"
    elif milestone == "refunded":
        fields["amount"] = str(next((f.amount for f in view.refunds if f.object == instance), view.refunded))
        if not _given_all_back(view):
            fields["status_text"] = "Partly Refunded"
    elif milestone == "backordered":
        fields["product_name"] = products(view, waiting(view, sourced(view, order, policy)))
    return MessageRequested(
        at=now,
        effect=id,
        order=order.id,
        customer=placed.customer,
        template=cell.template,
        channel=cell.channel,
        kind=cell.kind,
        fields={field: value for field, value in fields.items() if value},
        person=view.person,
        milestone_at=at,
        expires=expires,
    )


def _stands(cell: Trigger, view: View, parcel: Parcel | None, policy: Policy) -> dict[str, str]:
    """How things stand where a message's published words may not be true any more: fields that its template chooses words by.

    While the message is open a change of them repeats the request, like that of any other field.
    """
    if cell.channel == "push":
        return {"state": "" if _is_still(cell.milestone, view, parcel) else "past"}
    if cell.channel != "email":
        return {}
    match cell.template:
        case "order_placed":
            state = _placed_state(view)
            told = state in ("paid", "free") and bool(policy.messages.shipped) and _is_sent(view)
            return {"state": state, "ships": "yes" if told else ""}
        case "payment_confirmed":
            return {"state": _unprepared(view)}
        case "shipped" if parcel is not None:
            return {"state": "troubled" if _troubled(parcel) else "delivered" if parcel.delivered_at else ""}
        case "cancelled":
            return {"state": "refunded" if _given_all_back(view) else ""}
        case "delay":
            return {"state": "shipped" if view.shipped_at else ""}
    return {}


def _troubled(parcel: Parcel) -> bool:
    return bool(parcel.returned_at) or parcel.tag._value_ in TROUBLE


def _given_all_back(view: View) -> bool:
    """What was paid; of an order that needs no payment fact, its total."""
    prepaid = view.placed is not None and view.placed.prepaid and not view.paid
    return 0 < (view.total if prepaid else view.paid) <= view.refunded


def _is_still(milestone: str, view: View, parcel: Parcel | None) -> bool:
    """Whether what a push says "is now" so still is the latest word on its order or parcel."""
    if parcel is not None:
        if milestone == "out_for_delivery":
            return parcel.tag is Tracking.OUT_FOR_DELIVERY
        over = parcel.delivered_at or _troubled(parcel) or parcel.tag is Tracking.OUT_FOR_DELIVERY
        return milestone != "shipped" or not over
    return milestone not in _STATUSES or milestone == view.status.value or milestone == "refunded"


def _placed_state(view: View) -> str:
    """How far an order is whose customer is yet to hear that it was placed; "" while its payment is awaited."""
    placed = view.placed
    assert placed is not None
    if view.cancelled:
        return "cancelled"
    if view.all_delivered:
        return "delivered"
    if view.shipped_at:
        gone = [p for p in view.parcels.values() if p.shipped_at]
        moving = [p for p in gone if not p.delivered_at and not _troubled(p)]
        return "placed" if not moving else "shipped" if view.all_shipped and len(moving) == len(gone) else "part_shipped"
    if view.all_returned or _given_all_back(view):
        return "placed"
    if placed.prepaid or not placed.total:
        return "free"
    if view.paid_in_full:
        return "paid"
    return "part_paid" if view.captures or view.paid else ""


def _unprepared(view: View) -> str:
    """Why nobody prepares the items of a paid order for shipment; "" when somebody does."""
    if view.shipped_at:
        return "shipped"
    if _given_all_back(view):
        return "refunded"
    return stopped(view) or ("backordered" if view.short or view.pick_short else "" if _is_sent(view) else "fetched")


def _is_sent(view: View) -> bool:
    """Whether there is anything to send: else it is a service, or the customer fetches it."""
    return view.placed is not None and "address" not in view.placed.not_applicable


def _part(view: View, parcel: Parcel) -> dict[str, str]:
    """That a parcel is but a part of its order, and what tells it from the others: the names of its products, else its number."""
    others = [p for p in view.parcels.values() if p is not parcel and (p.packed_at or p.shipped_at) and not p.returned_at]
    if not parcel.lines:  # one that was packed and has no number may be this one, under the warehouse's name
        others = [p for p in others if p.shipped_at or p.tracking]
    if covers(view, [parcel]) if parcel.lines else not others:
        return {}
    name = products(view, tuple(q.line for q in parcel.lines)) if parcel.lines else ""
    alike = any(not p.lines or products(view, tuple(q.line for q in p.lines)) == name for p in others)
    return {"part": "yes", "part_name": parcel.tracking if alike or not 0 < len(name) <= PART_NAME_MAX else name}


def products(view: View, lines: tuple[str, ...]) -> str:
    """What the named lines (or all) are called: "Lamp", "Lamp and Shade", "Lamp, Shade and Bulb"."""
    titles = [x.title or x.sku for x in view.lines if (not lines or x.line in lines) and wanted(view, x) > 0]
    titles = list(dict.fromkeys(titles))
    return titles[0] if len(titles) == 1 else " and ".join(filter(None, (", ".join(titles[:-1]), *titles[-1:])))


_STATUSES = frozenset(status.value for status in Status)


def _status_text(milestone: str) -> str:
    return WORDS[Status(milestone)] if milestone in _STATUSES else milestone.replace("_", " ").title()


def _milestone_at(milestone: str, instance: str, view: View, order: Order) -> int:
    """When what a message speaks of happened."""
    parcel = view.parcels.get(instance)
    at = 0
    if milestone in ("delay", "feedback"):
        at = order.fired.get(milestone, 0)
    elif milestone == "delivery_reminder":
        at = order.fired.get(f"delivery_reminder {instance}", 0)
    elif milestone == "payment_confirmed":
        at = view.paid_at
    elif milestone == "payment_failed":
        at = view.failed_at
    elif milestone == "shipped" and parcel is not None:
        at = parcel.shipped_at
    elif milestone == "out_for_delivery" and parcel is not None:
        at = parcel.out_at
    elif milestone == "delivered":
        at = view.delivered_at
    elif milestone == "cancelled":
        at = view.cancel_at or view.person_verdict_at
        if not at and view.decision is not None:
            at = order.fired.get(review_timer("cancel", view.decision), view.decision.since)
    elif milestone == "refunded":
        at = next((f.at for f in view.refunds if f.object == instance), 0)
    elif milestone == "backordered":
        at = min((f.at for f in view.short.values()), default=0)
    elif milestone == "in_progress":
        at = max((f.at for f in view.reserved.values()), default=0)
    return at or (view.placed.at if view.placed is not None else view.first_at)


def _line(view: View, milestone: str, instance: str) -> Line | None:
    lines = {x.line: x for x in view.lines}
    return lines.get(line_asked(lines, milestone, instance))


def _answer(view: View, request: str) -> Any:
    """The reservation or shortage in force that answers a request for stock; None if there is none any more."""
    if view.answered.get(request) not in ("reserved", "short"):
        return None
    return next((f for f in (*view.reservations, *view.shortages) if f.object == request), None)


def body(effect: Effect, view: View, order: Order, policy: Policy) -> bytes:
    """Canonical JSON of one effect for the outside, without credentials: {"event", "id", "order", "data"}."""
    data: dict[str, Any] = {"number": view.placed.number if view.placed is not None else "", "milestone": effect.milestone}
    instance = effect.instance
    if effect.action in SHOP:
        data.update(system=view.placed.system if view.placed is not None else "", shop_order=order.id.partition(":")[2])
    if effect.action == "warehouse.pick":
        lines = [x for x in view.lines if x.line in view.reserved and view.reserved[x.line].location == instance]
        data["location"] = instance
        data["turn"] = turn(view, policy)
        chosen = sourced(view, order, policy).ways.get(instance)
        data.update(_service(view, None if chosen is None else (chosen.carrier, chosen.service)))
        data["lines"] = [{"line": x.line, "sku": x.sku, "title": x.title, "quantity": wanted(view, x)} for x in lines]
        data["to"] = view.person
        data["placed"] = view.placed.at if view.placed is not None else view.first_at
    elif effect.action == "warehouse.cancel":
        data.update(location=instance, pick=effect.undoes)
    elif effect.action == "carrier.label":
        parcel = view.parcels[instance]
        data["parcel"] = instance
        by = carried(view, order, policy, parcel)
        data.update(_service(view, by))
        if by is not None:
            data["weight_g"] = grams_of(view, policy, parcel)
        data["lines"] = [{"line": q.line, "quantity": q.quantity} for q in parcel.lines]
        data["to"] = view.person
        data["value"], data["currency"] = _value(view, parcel), view.currency
    elif effect.action == "carrier.void":
        parcel = view.parcels[instance]
        bought = order.ledger.get(f"{LABEL} {instance}")
        data.update(_service(view, carried(view, order, policy, parcel) if bought is not None else None))
        data.update(parcel=instance, tracking=parcel.tracking, carrier=parcel.carrier, label=effect.undoes)
    elif effect.action == "payment.refund":
        outstanding = max(view.paid, view.captured) - view.refunded
        capture = next((f for f in view.captures if f.object == instance), None)
        amount = outstanding if capture is None else min(capture.amount, outstanding)
        data.update(payment=instance, amount=amount, currency=view.currency, system="" if capture is None else capture.system)
    elif effect.action == "shop.fulfil":
        parcel = view.parcels[instance]
        data.update(parcel=instance, carrier=parcel.carrier, tracking=parcel.tracking, tracking_link=_tracking_page(order.id, policy))
        data["lines"] = [{"line": q.line, "quantity": q.quantity} for q in parcel.lines]
    elif effect.action == "shop.tag":
        data["tags"] = [f"orderflow:{effect.milestone}"]
    else:
        data.update(team=TEAMS[effect.milestone], about=effect.milestone, instance=instance)
    return encode_body({"event": effect.action, "id": effect.id, "order": order.id, "data": data})


def _service(view: View, by: tuple[str, str] | None) -> dict[str, str]:
    """What of the data says which account does it."""
    if by is None:
        return {"service": view.placed.service if view.placed is not None else ""}
    return {"carrier": by[0], "service": by[1]}


def _value(view: View, parcel: Parcel) -> int:
    """What the goods in a parcel cost, in minor units; those of the whole order where it names none."""
    prices = {x.line: x.price for x in view.lines}
    if not parcel.lines:
        return sum(x.price * wanted(view, x) for x in view.lines)
    return sum(prices.get(q.line, 0) * q.quantity for q in parcel.lines)


def _tracking_page(order_id: str, policy: Policy) -> str:
    return f"{policy.tracking_base}/track/{signed(order_id, 'track', policy)}"


encode_body = msgspec.json.Encoder(order="deterministic").encode


# --- when to look again
def retry_at(effect: Effect, policy: Policy) -> int:
    """When an effect whose last attempt may be tried again is due: as the provider asked, else at doubling distances."""
    last = effect.attempts[-1]
    wait = min(policy.retry_ms << min(len(effect.attempts) - 1, 30), policy.retry_most_ms)
    return max(last.after, last.outcome_at + wait)


def repeat_at(effect: Effect, policy: Policy, now: int) -> int:
    """When an unanswered request is next repeated, after `now`: at doubling distances from its offer, then at equal ones."""
    wait = policy.repeat_ms
    at = effect.offered_at + wait
    while at <= now:
        if wait >= policy.repeat_most_ms:
            return at + ((now - at) // wait + 1) * wait
        wait = min(wait * 2, policy.repeat_most_ms)
        at = effect.offered_at + wait
    return at
