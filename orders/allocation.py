"""Allocation: where each line is reserved, what for, and who takes its parcel; by a table of rates where there is one (`orders.sourcing`).

Names of requests for stock stand here as well: a line is asked for again under another name once its reservation was given back.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any
from urllib.parse import quote

from orders.decision import APPROVE
from orders.effect import doubtful, effect_id, made
from orders.policy import Policy
from orders.sourcing import NOTHING, Choice, Item, choose, parcel_way, serving, ways
from orders.state import Order, parts
from orders.view import Parcel, View, wanted, where

RESERVE = "stock.reserve paid"
SOURCED = "stock.reserve sourced"  # the same at a location that the table of rates chose
CHECK, CHECK_AT = "stock.check placed", "stock.check sourced"
PICK, LABEL = "warehouse.pick in_progress", "carrier.label packed"


def held(view: View) -> list[Any]:
    """The stock lane's answers in force: units that are kept for the order, then its places in queues."""
    said = view.answered
    reserved = [f for f in view.reservations if f.system == "stock" and said[f.object] == "reserved"]
    return [*reserved, *[f for f in view.shortages if f.system == "stock" and said[f.object] == "short"]]


def asking(view: View, line: str) -> str:
    """The instance of the request for a line's stock: the line, and how often a reservation of it was given back."""
    if not view.released:
        return line
    times = sum(answer.line == line and answer.quantity > 0 for answer in view.released.values())
    return f"{line}~{times}" if times else line


def sourced_before(view: View, order: Order, line: str) -> bool:
    """Whether a line is reserved by a request of another name, from when there was a table of rates."""
    its = view.reserved.get(line)
    return its is not None and any(effect.id == its.object for effect in order.ledger.values())


def sourced(view: View, order: Order, policy: Policy) -> Choice:
    """Where each line is to come from and how it leaves, as far as the table of rates knows a way and it is known what is short.

    Nobody knows all stock: a location is taken to have a line until it says otherwise, and then the next best is asked. Each
    answer rules out one location for one line, and the first choice that is reserved everywhere is the best of all that could be.
    """
    table, placed = policy.sourcing, view.placed
    if not table.rates or placed is None:
        return NOTHING
    stay = staying(view, order)
    items = [Item(x.line, n * table.grams(x.sku), stay.get(x.line) or x.location) for x in view.lines if (n := wanted(view, x)) > 0]
    able = serving(ways(table, view.said_of.address, sure_at(view)), placed.service, placed.promised)
    return choose(items, able, table.split_minor, placed.promised, _short_at(view))


def checks(view: View, policy: Policy) -> dict[str, list[tuple[str, str]]]:
    """Line -> (effect, location) of every place to be asked whether it has enough while the order awaits its payment."""
    lines = [x for x in view.lines if wanted(view, x) > 0]
    if not policy.sourcing.rates:
        return {x.line: [(f"{CHECK} {x.line}", x.location or policy.default_location)] for x in lines}
    able = sorted({way.location for way in ways(policy.sourcing, view.said_of.address, sure_at(view))})
    found = {}
    for x in lines:
        locations = [x.location] if x.location else able or [policy.default_location]
        found[x.line] = [(f"{CHECK_AT} {_named(location)}/{x.line}", location) for location in locations]
    return found


def lacking(view: View, asked: Mapping[str, list[tuple[str, str]]]) -> bool:
    """Whether some line has not enough at any place that was asked."""
    scarce = {(f.line, f.location) for f in view.scarce}
    return any(all((line, location) in scarce for _, location in places) for line, places in asked.items())


def sure_at(view: View) -> int:
    """When the money was safe and whoever had to approve it had: an order's way through the warehouse begins then."""
    safe, authorized = view.paid_at, 0
    for f in view.authorizations:
        authorized += f.amount if f.currency == view.currency else 0
        if authorized >= view.total:
            safe = min(safe or f.at, f.at)
            break
    return max(safe or view.first_at, view.person_verdict_at if view.person_verdict == APPROVE else 0)


def staying(view: View, order: Order) -> dict[str, str]:
    """Lines that move no more: once picking began anywhere all that are reserved, before it those whose place another system chose."""
    began = bool(view.picked or view.parcels) or any(name.startswith(PICK) for name in order.closed)
    began = began or any(name.startswith(PICK) and made(effect, view) for name, effect in order.ledger.items())
    return {line: f.location for line, f in view.reserved.items() if began or f.system != "stock"}


def _short_at(view: View) -> set[tuple[str, str]]:
    """(line, location) of which the latest word is that there is none."""
    latest: dict[tuple[str, str], tuple[int, bool]] = {}
    for has, answers in ((False, view.shortages), (True, view.reservations)):
        for f in answers:
            latest[f.line, f.location] = max((f.at, has), latest.get((f.line, f.location), (0, False)))
    return {pair for pair, (_, has) in latest.items() if not has}


def places(view: View, order: Order, policy: Policy, choice: Choice) -> dict[str, str]:
    """Line -> where it is to be reserved, of all that are wanted."""
    stay = staying(view, order)
    usual = policy.default_location
    return {x.line: choice.places.get(x.line) or stay.get(x.line) or x.location or usual for x in view.lines if wanted(view, x) > 0}


def waiting(view: View, choice: Choice) -> tuple[str, ...]:
    """Lines that are short wherever they could come from."""
    return tuple([line for line in view.short if line in choice.waits or line not in choice.places])


def requests(view: View, order: Order, policy: Policy, needed: Mapping[str, str]) -> dict[str, str]:
    """Line -> the effect that asks for it where it is needed, by the first name whose request was not given back.

    At the default location that is the name which is used without a table, so that one may be introduced or dropped at any time:
    what has an answer under another name is not asked for again.
    """
    has = {(f.line, f.location) for f in held(view)}
    names = {}
    for line, place in needed.items():
        for times in count():
            again = f"~{times}" if times else ""
            name = f"{RESERVE} {line}{again}" if place == policy.default_location else f"{SOURCED} {_named(place)}{again}/{line}"
            if not view.released or not _given_back(view, order, name):
                break
        if not order.ledger or name in order.ledger or (line, place) not in has:
            names[line] = name
    return names


def _named(place: str) -> str:
    """A location without the signs that end its name in an instance."""
    return quote(place, safe=" ").replace("~", "%7E")


def _given_back(view: View, order: Order, name: str) -> bool:
    action, milestone, instance = parts(name)
    id = effect_id(order.id, milestone, instance, action)
    return id in view.released and view.answered.get(id, "released") == "released"


def carried(view: View, order: Order, policy: Policy, parcel: Parcel) -> tuple[str, str] | None:
    """Carrier and service of a packed parcel's label; None: the shop's service, whoever makes it.

    Once a label may have been bought they are those it was asked of: nobody else can say what became of it, or take it back.
    """
    asked = order.ledger.get(f"{LABEL} {parcel.id}")
    if asked is not None and made(asked, view):
        last = next(a for a in reversed(asked.attempts) if a.outcome in ("", "sent") or a in doubtful(asked, view))
        carrier, _, service = asked_of(last.body_hash).partition(" ")
        return (carrier, service) if service else None
    table, placed = policy.sourcing, view.placed
    if not table.rates or placed is None:
        return None
    to, since = view.said_of.address, parcel.packed_at
    way = parcel_way(table, to, where(view, parcel), grams_of(view, policy, parcel), since, placed.promised, placed.service)
    return None if way is None else (way.carrier, way.service)


def grams_of(view: View, policy: Policy, parcel: Parcel) -> int:
    inside = {q.line: q.quantity for q in parcel.lines}
    return sum((inside.get(x.line, 0) if inside else wanted(view, x)) * policy.sourcing.grams(x.sku) for x in view.lines)


def asked_of(body_hash: str) -> str:
    """The carrier and service that an attempt's hash names behind a slash; "" where no table of rates chose them."""
    return body_hash.partition("/")[2]
