"""What a clerk in the warehouse tells: picked, packed, labelled, handed over, counted. Each is a fact like any other.

Facts have natural keys ("pick:main", "P1"), so a double click tells the same thing twice and a second clerk cannot make a second
parcel of it. What cannot be is refused in words before it is told: 409 when the order has moved on, 422 when a field is wrong.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from orders.bounds import QUANTITY_MAX
from orders.fact import AnyFact, ItemsPicked, Line, NoteAdded, ParcelPacked, ParcelScanned, Quantity, Tracking
from orders.plan import stopped, unpicked
from orders.request import StockLevelReported
from orders.state import Order
from orders.view import Parcel, View, view, wanted
from orders.warehouse import STAFF, in_boxes, left, next_parcel, packed_as, place
from web.acts import Acts
from web.floor import Floor
from web.problem import Refusal

MOST = 1_000_000_000  # of one SKU in one place
SEEN_S = 2.0  # so long an answer waits for the order to have taken in what was told
LOOK_S = 0.04
TRACKING = re.compile(r"[A-Z0-9-]{4,64}")
WHY = {
    "held": "This order is on hold: put it aside and do not go on until the hold is released",
    "incomplete": "A report about this order could not be read: put it aside until somebody has looked at it",
    "undecided": "This order is not approved yet: put it aside until it is",
    "cancelled": "This order is cancelled: put its items back",
}


class Clerk:
    def __init__(self, floor: Floor, acts: Acts) -> None:
        self._floor, self._acts = floor, acts

    async def find(self, order_id: str) -> tuple[Order, View]:
        """Raises Refusal(404)."""
        order = await self._floor.order(order_id)
        if order is None:
            raise Refusal(404, "not_found", "No order with this ID", order_id=order_id)
        return order, view(order)

    async def picked(self, order_id: str, location: str, short: Sequence[Quantity], by: str) -> None:
        """All was found but `short`. Told again with less of it, the rest was found later."""
        order, v = await self.find(order_id)
        here = {line.line: line for line in v.lines if place(v, line) == location}
        if not here:
            raise Refusal(422, "invalid", "Nothing of this order lies at this location: choose another", field="location")
        lacks = _amounts(short, here, {line: wanted(v, its) for line, its in here.items()}, "short")
        if location in v.picked:
            known = {line: v.pick_short[line] for line in here if v.pick_short.get(line)}
            if lacks == known:
                return  # a double click, or both clerks found the same
            _may_go_on(v)
            if ("ItemsPicked", STAFF, f"pick:{location}") not in order.facts:
                raise Refusal(409, "already_picked", "The warehouse's own system reported this pick: correct it there")
            if not all(lacks.get(line, 0) <= known.get(line, 0) for line in here):
                raise Refusal(409, "already_picked", "This order was picked already: look at it again before you change that")
        else:
            _may_go_on(v)
            if location not in unpicked(v):
                raise Refusal(409, "not_pickable", "This order is not to be picked now: it was shipped, or waits for payment or stock")
        now = self._acts.clock.now()
        some = tuple(Quantity(line=line, quantity=quantity) for line, quantity in sorted(lacks.items()))
        await self._tell(
            f"Picked at {location}",
            by,
            ItemsPicked(order=order_id, system=STAFF, object=f"pick:{location}", at=now, version=now, location=location, short=some),
        )

    async def packed(self, order_id: str, parcel: str, location: str, lines: Sequence[Quantity] | None, by: str) -> None:
        """`lines` None: all that is picked there and in no parcel yet."""
        order, v = await self.find(order_id)
        here = {line.line: line for line in v.lines if place(v, line) == location}
        boxed = in_boxes(v)
        rest = {name: left(v, line, boxed) for name, line in here.items()}
        if packed_as(order, parcel):
            self._packed_before(order, v, parcel, lines)
            return
        _may_go_on(v)
        if location not in v.picked:
            raise Refusal(409, "not_picked", "This order is not picked at this location yet: pick it first")
        expected = next_parcel(order)
        if parcel != expected:
            raise Refusal(409, "not_next", f"The next parcel of this order is {expected}: look at it again", field="parcel")
        if not any(rest.values()):
            raise Refusal(409, "nothing_left", "All of this order that was picked here is in a parcel already")
        inside = rest if lines is None else _amounts(lines, here, rest, "lines")
        held = tuple(Quantity(line=line, quantity=quantity) for line, quantity in inside.items() if quantity)
        if not held:
            raise Refusal(422, "invalid", "A parcel holds at least one item: say how many of each line are in it", field="lines")
        now = self._acts.clock.now()
        told = ParcelPacked(order=order_id, system=STAFF, object=parcel, at=now, parcel=parcel, lines=held)
        await self._tell(f"Packed {parcel}", by, told)

    @staticmethod
    def _packed_before(order: Order, v: View, parcel: str, lines: Sequence[Quantity] | None) -> None:
        """A double click says the same; anything else would be another parcel under the same name."""
        known = v.parcels.get(_name_now(order, parcel))
        same = lines is None or (
            known is not None and {q.line: q.quantity for q in known.lines} == {q.line: q.quantity for q in lines if q.quantity}
        )
        if not same:
            raise Refusal(409, "already_packed", f"Parcel {parcel} was packed already with other items: look at the order again")

    async def handed_over(self, order_id: str, parcel: str, by: str) -> None:
        """For a carrier that does not tell us itself."""
        order, v = await self.find(order_id)
        its = _parcel(order, v, parcel)
        if its.shipped_at:
            return
        _may_go_on(v)
        name = packed_as(order, its.id) or its.id
        told = _scan(order_id, f"{name}:handed_over", its, self._acts.clock.now(), Tracking.IN_TRANSIT)
        await self._tell(f"Handed {name} to its carrier", by, told)

    async def labelled(self, order_id: str, parcel: str, carrier: str, tracking: str, by: str) -> None:
        """A label was written or bought by hand. The parcel is called by its tracking number from then on, as its carrier will call it."""
        carrier, tracking = carrier.strip(), "".join(tracking.split()).upper()
        if not 0 < len(carrier) <= 64 or not carrier.isprintable():
            raise Refusal(422, "invalid", "Say which carrier it is, in at most 64 characters", field="carrier")
        if not TRACKING.fullmatch(tracking):
            raise Refusal(422, "invalid", "A tracking number has 4 to 64 letters and digits: copy it from the label", field="tracking")
        order, v = await self.find(order_id)
        its = _parcel(order, v, parcel)
        name = packed_as(order, its.id) or its.id
        if (its.carrier, its.tracking) == (carrier, tracking):
            return
        if tracking in v.parcels and tracking != its.id:
            raise Refusal(422, "invalid", "Another parcel of this order has this tracking number: copy it from the label", field="tracking")
        if its.tracking and ("ParcelScanned", STAFF, f"{name}:label") not in order.facts:
            raise Refusal(409, "has_label", "The carrier gave this parcel a tracking number already: use that label")
        if not its.shipped_at:
            _may_go_on(v)
        now = self._acts.clock.now()
        facts: list[AnyFact] = []
        called = its.id
        if packed_as(order, its.id):
            called = tracking
            inside = tuple(Quantity(line=q.line, quantity=q.quantity) for q in its.lines)  # as it travels, not as a state keeps it
            facts.append(
                ParcelPacked(order=order_id, system=STAFF, object=name, at=its.packed_at, version=now, parcel=called, lines=inside)
            )
        renamed = Parcel(called, carrier=carrier, tracking=tracking)
        facts.append(_scan(order_id, f"{name}:label", renamed, its.packed_at or now, Tracking.LABEL_CREATED, now))
        over = order.facts.get(("ParcelScanned", STAFF, f"{name}:handed_over"))
        if over is not None:  # it left before its number was typed
            facts.append(_scan(order_id, f"{name}:handed_over", renamed, over[0].at, Tracking.IN_TRANSIT, now))
        await self._tell(f"Wrote the label of {name}", by, *facts)

    async def counted(self, sku: str, location: str, on_hand: int, by: str, reason: str) -> None:
        """So many lie there. A count outranks the levels told before it, whatever their version."""
        for field, text in (("sku", sku), ("location", location)):
            if not 0 < len(text) <= 255 or not text.isprintable():
                raise Refusal(422, "invalid", f"The {field} has 1 to 255 characters", field=field)
        if not 0 <= on_hand <= MOST:
            raise Refusal(422, "invalid", f"On hand is a number from 0 to {MOST}", field="on_hand")
        known = await self._floor.stock(sku, location)
        level = known.level if known is not None else None
        now = self._acts.clock.now()
        before = "" if level is None else str(level.on_hand)
        await self._acts.noted(by, "stock.count", f"{sku}@{location}", before=before, after=str(on_hand), reason=reason[:500])
        await self._acts.tell(
            StockLevelReported(
                sku=sku,
                location=location,
                on_hand=on_hand,
                system=STAFF,
                at=now if level is None else max(now, level.at + 1),
                version=0 if level is None else level.version,
                by=by,
                reason=reason[:500],
            )
        )
        await _until(lambda: self._counted(sku, location, on_hand))

    async def _counted(self, sku: str, location: str, on_hand: int) -> bool:
        known = await self._floor.stock(sku, location)
        return known is not None and known.level is not None and (known.level.on_hand, known.level.system) == (on_hand, STAFF)

    async def _tell(self, what: str, by: str, *facts: AnyFact) -> None:
        """With a note of who did it: the facts themselves name none, so that two who tell the same tell one fact."""
        first = facts[0]
        note = NoteAdded(order=first.order, system=STAFF, object=first.object, at=first.at, version=first.version, text=what, by=by)
        await self._acts.noted(by, "warehouse", first.order, after=what)
        await self._acts.tell(*facts, note)
        await _until(lambda: self._taken_in(facts))

    async def _taken_in(self, facts: Sequence[AnyFact]) -> bool:
        order = await self._floor.order(facts[0].order)
        keys = [(type(fact).__name__, fact.system, fact.object) for fact in facts]
        return order is not None and all(
            any((x.version, x.at) >= (fact.version, fact.at) for x in order.facts.get(key, ()))
            for key, fact in zip(keys, facts, strict=True)
        )


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    """A courtesy to whoever looks next: the log has what was told, so nothing is lost by not waiting."""
    for _ in range(int(SEEN_S / LOOK_S)):
        if await true():
            return
        await asyncio.sleep(LOOK_S)


def _may_go_on(v: View) -> None:
    why = "cancelled" if v.cancelled else stopped(v)
    if why:
        raise Refusal(409, why, WHY[why])


def _name_now(order: Order, parcel: str) -> str:
    """What a parcel that we packed is called by now."""
    variants = order.facts.get(("ParcelPacked", STAFF, packed_as(order, parcel)))
    return parcel if variants is None else variants[0].parcel  # type: ignore[attr-defined]


def _parcel(order: Order, v: View, parcel: str) -> Parcel:
    its = v.parcels.get(_name_now(order, parcel))
    if its is None or not (its.packed_at or its.shipped_at):
        raise Refusal(404, "not_found", "No parcel of this order was packed under this name", field="parcel")
    return its


def _scan(order_id: str, object: str, parcel: Parcel, at: int, tag: Tracking, version: int = 0) -> ParcelScanned:
    return ParcelScanned(
        order=order_id,
        system=STAFF,
        object=object,
        at=at,
        version=version,
        parcel=parcel.id,
        tag=tag,
        carrier=parcel.carrier,
        tracking=parcel.tracking,
    )


def _amounts(some: Sequence[Quantity], lines: Mapping[str, Line], most: Mapping[str, int], field: str) -> dict[str, int]:
    """By line, without those of which there are none. Raises Refusal that names the field."""
    found: dict[str, int] = {}
    for place_, q in enumerate(some):
        if q.line not in lines:
            raise Refusal(422, "invalid", "This order has no such line at this location", field=f"{field}[{place_}].line")
        found[q.line] = found.get(q.line, 0) + q.quantity
        if not 0 <= q.quantity <= QUANTITY_MAX or found[q.line] > most[q.line]:
            raise Refusal(
                422, "invalid", f"There are {most[q.line]} of this line: say a number up to that", field=f"{field}[{place_}].quantity"
            )
    return {line: quantity for line, quantity in found.items() if quantity}
