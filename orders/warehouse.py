"""What a warehouse has to do for an order: pick, pack, hand over; at which location and in whose turn.

An order is in none, one or several stages, each at a location. `stages` says which, for the index; `jobs` says all that a
clerk needs. Both look at the same few functions, and at `orders.plan.stopped`: what may not be picked is never to be picked.
"""

from __future__ import annotations

import msgspec

from orders.allocation import sourced
from orders.fact import Line, Quantity
from orders.plan import stopped, turn, unpicked
from orders.policy import Policy
from orders.state import Order
from orders.view import Parcel, View, view, wanted, where

TO_PICK, TO_PACK, PACKED = "to_pick", "to_pack", "packed"  # packed: waits for its label or its carrier
MISSING = "missing"  # a picker did not find some of it
STOPPED = "stopped"  # begun, and must not go on
STAGES = (TO_PICK, TO_PACK, PACKED, MISSING, STOPPED)
STAFF = "staff"  # the system that people's facts name


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """So many of one line."""

    line: str
    sku: str
    title: str
    quantity: int


class Box(msgspec.Struct, frozen=True, kw_only=True):
    parcel: str
    items: tuple[Task, ...]
    carrier: str = ""
    tracking: str = ""
    has_label: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done for one order at one location in one stage. No personal data. Times in ms."""

    order: str
    number: str
    stage: str
    location: str
    turn: int  # earlier goes first
    since: int  # when it could first be picked
    service: str
    tier: str
    tasks: tuple[Task, ...] = ()
    boxes: tuple[Box, ...] = ()  # packed and not yet with the carrier
    next_parcel: str = ""  # what the next parcel is called
    why: str = ""  # stopped: "held", "incomplete", "undecided" or "cancelled"


def stages(v: View) -> tuple[tuple[str, str], ...]:
    """Stage and location, wherever this order has something to be done. Cheap: a worker asks it of every order it touches."""
    placed = v.placed
    if placed is None or placed.backfilled or v.all_shipped or v.all_returned:
        return ()
    why = stopped(v)
    if not v.picked and not v.parcels:
        return () if why else tuple([(TO_PICK, location) for location in unpicked(v)])
    waiting = {(PACKED, where(v, parcel)) for parcel in v.parcels.values() if waits(parcel)}
    if why:
        return tuple(sorted({(STOPPED, location) for location in v.picked} | {(STOPPED, location) for _, location in waiting}))
    found = waiting | {(TO_PICK, location) for location in unpicked(v)}
    boxed = in_boxes(v)
    for line in v.lines:
        location = place(v, line)
        if location is not None and location in v.picked:
            if left(v, line, boxed):
                found.add((TO_PACK, location))
            if missing(v, line, boxed):
                found.add((MISSING, location))
    return tuple(sorted(found))


def jobs(order: Order, policy: Policy, v: View | None = None) -> list[Job]:
    """One for each of its stages."""
    v = v or view(order)
    found = stages(v)
    if not found or v.placed is None:
        return []
    boxed, due, since, next_one = in_boxes(v), turn(v, policy), queued_at(v), next_parcel(order)
    ways = sourced(v, order, policy).ways
    made = []
    for stage, location in found:
        tasks = [task(line, _amount(v, stage, line, boxed)) for line in v.lines if place(v, line) == location]
        boxes = [box(v, parcel) for parcel in v.parcels.values() if waits(parcel) and where(v, parcel) == location]
        job = Job(
            order=v.id,
            number=v.placed.number,
            stage=stage,
            location=location,
            turn=due,
            since=since,
            service=ways[location].service if location in ways else v.placed.service,
            tier=v.placed.tier,
            tasks=tuple(t for t in tasks if t.quantity > 0),
            boxes=tuple(boxes) if stage in (PACKED, STOPPED) else (),
            next_parcel=next_one,
            why=("cancelled" if v.cancelled else stopped(v)) if stage == STOPPED else "",
        )
        made.append(job)
    return made


def _amount(v: View, stage: str, line: Line, boxed: dict[str, int] | None) -> int:
    if stage == TO_PICK:
        return wanted(v, line)
    if stage == MISSING:
        return missing(v, line, boxed)
    return left(v, line, boxed) if stage in (TO_PACK, STOPPED) else 0


def queued_at(v: View) -> int:
    """When an order could first be picked. Its turn is at most `overtake_ms` before this, and never after."""
    return v.paid_at or v.first_at


def place(v: View, line: Line) -> str | None:
    """Where a line lies; None: nowhere yet."""
    reservation = v.reserved.get(line.line)
    return None if reservation is None else reservation.location


def waits(parcel: Parcel) -> bool:
    """Whether it is packed and not yet with the carrier."""
    return parcel.packed_at > 0 and not parcel.shipped_at


def in_boxes(v: View) -> dict[str, int] | None:
    """How many of each line are packed or gone; None: everything."""
    sums: dict[str, int] = {}
    for parcel in v.parcels.values():
        if parcel.packed_at or parcel.shipped_at:
            if not parcel.lines:
                return None
            for q in parcel.lines:
                sums[q.line] = sums.get(q.line, 0) + q.quantity
    return sums


def missing(v: View, line: Line, boxed: dict[str, int] | None) -> int:
    """How many of a line were not found, as far as they are still needed."""
    if boxed is None or not v.pick_short:
        return 0
    return min(v.pick_short.get(line.line, 0), max(0, wanted(v, line) - boxed.get(line.line, 0)))


def left(v: View, line: Line, boxed: dict[str, int] | None) -> int:
    """How many of a picked line are in no parcel yet."""
    if boxed is None:
        return 0
    return max(0, wanted(v, line) - boxed.get(line.line, 0)) - missing(v, line, boxed)


def task(line: Line, quantity: int) -> Task:
    return Task(line=line.line, sku=line.sku, title=line.title, quantity=quantity)


def box(v: View, parcel: Parcel) -> Box:
    """What is in a parcel; one that names no lines holds the whole order."""
    held = parcel.lines or tuple(Quantity(line=x.line, quantity=wanted(v, x)) for x in v.lines)
    lines = {line.line: line for line in v.lines}
    items = tuple(task(lines[q.line], q.quantity) for q in held if q.line in lines and q.quantity > 0)
    label = bool(getattr(parcel, "label", ""))
    return Box(parcel=parcel.id, items=items, carrier=parcel.carrier, tracking=parcel.tracking, has_label=label)


def next_parcel(order: Order) -> str:
    """ "P1", "P2", …: stable, so that packing one twice is packing it once; never the name of one that was retracted."""
    made = [object[1:] for kind, system, object in order.facts if kind == "ParcelPacked" and system == STAFF]
    return f"P{max((int(number) for number in made if number.isdecimal()), default=0) + 1}"


def packed_as(order: Order, parcel: str) -> str:
    """What our clerk called a parcel when it was packed: a parcel gets its tracking number for a name; "" for others' parcels."""
    for (kind, system, object), variants in order.facts.items():
        if kind == "ParcelPacked" and system == STAFF and parcel in (object, variants[0].parcel):  # type: ignore[attr-defined]
            return object
    return ""
