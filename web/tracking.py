"""What a customer sees: `/track/{token}`, one order in plain words, for whoever holds the link that our messages carry.

The token is the order's ID and a code only we can make (`orders.plan.signed`). The page shows the way of the order, its parcels and
what is in them; no name, address or price, because links are forwarded. It needs no script, loads two small files, and says the same
as the staff's page, because both are derived from the same state when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Annotated, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from litestar import MediaType, Response, get
from litestar.params import PathParameter
from litestar.response import Redirect
from litestar.types import ControllerRouterHandler

from web.pages import Pages
from web.reader import OrderDetail, Parcel, Reader
from web.words import MILESTONES

LOST = "This link leads to no order. Please use the link in our latest message to you."
Token = Annotated[str, PathParameter(max_length=256)]
NOT_KEPT = {"cache-control": "no-store", "x-robots-tag": "noindex, nofollow"}
SAID: dict[str, tuple[str, str]] = {  # status -> headline, and what it means for the customer
    "order_placed": ("We have your order", "As soon as your payment is confirmed we prepare it."),
    "payment_failed": ("Your payment did not go through", "Nothing is lost: please pay with the link in our message."),
    "payment_confirmed": ("Your payment is confirmed", "We are preparing your order."),
    "on_hold": ("We are checking your order", "This can take a little longer. You need to do nothing unless we write to you."),
    "backordered": ("We are waiting for stock", "Part of your order is not in our warehouse yet. We send it as soon as it is."),
    "in_progress": ("We are preparing your order", "It leaves our warehouse soon."),
    "partially_shipped": ("Part of your order is on its way", "The rest follows in another parcel."),
    "shipped": ("Your order is on its way", ""),
    "out_for_delivery": ("Your order comes today", "The carrier has it on the van."),
    "partially_delivered": ("Part of your order has arrived", "The rest is on its way."),
    "delivered": ("Your order has arrived", "We hope you like it."),
    "exception": ("There is a problem with the delivery", "We are looking into it with the carrier and will write to you."),
    "returned": ("Your order came back to us", "We will write to you about what happens next."),
    "refunded": ("We have paid you back", "It can take a few days until your bank shows it."),
    "cancelled": ("Your order is cancelled", ""),
}
ADDRESS = ("We need your full address", "Something is missing in it. Please reply to our message with the complete address.")
PARCEL = {
    "label_created": "being packed",
    "in_transit": "on its way",
    "out_for_delivery": "comes today",
    "delivered": "delivered",
    "attempt_failed": "nobody was there; the carrier tries again",
    "pickup": "waits for you at the carrier's counter",
    "exception": "delayed",
    "returned": "came back to us",
    "lost": "lost; we are looking into it",
    "damaged": "damaged; we are looking into it",
    "expired": "no news from the carrier",
}


class Step(NamedTuple):
    text: str
    at: str  # "" while it is still to come
    now: bool


class Tracked(NamedTuple):
    number: str
    headline: str
    said: str
    steps: tuple[Step, ...]
    parcels: tuple[tuple[str, str, str, str], ...]  # carrier, tracking number, what it does, when it is expected
    items: tuple[tuple[int, str], ...]
    promised: str


def tracked(order: OrderDetail, zone: str) -> Tracked:
    """`zone`: for a customer of whom none is known. Raises KeyError for an order of which the shop has not told us."""
    headline, said = SAID[order.status]
    if order.status == "on_hold" and any("address" in reason for reason in order.holds):
        headline, said = ADDRESS
    place = _zone(order.person.zone if order.person else "", zone)
    last = max((number for number, (code, _) in enumerate(MILESTONES) if code in order.reached), default=-1)
    steps = tuple(
        Step(text, _moment(order.reached[code], place) if code in order.reached else "", number == last)
        for number, (code, text) in enumerate(MILESTONES)
    )
    expected = order.status not in ("delivered", "cancelled", "refunded", "returned")
    return Tracked(
        number=order.number,
        headline=headline,
        said=said,
        steps=steps,
        parcels=tuple(_parcel(parcel, place) for parcel in order.parcels),
        items=tuple((line.quantity, line.title or line.sku) for line in order.lines),
        promised=_day(order.promised, place) if order.promised and expected else "",
    )


def _parcel(parcel: Parcel, zone: tzinfo) -> tuple[str, str, str, str]:
    does = PARCEL.get(parcel.status, "on its way")
    expected = _day(parcel.eta_until, zone) if parcel.eta_until and parcel.status in ("label_created", "in_transit", "exception") else ""
    return parcel.carrier.upper(), parcel.tracking, does, expected


def _zone(*names: str) -> tzinfo:
    for name in names:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):  # none is known, or none that exists
            continue
    return UTC


def _moment(ms: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(ms / 1000, zone).strftime("%-d %B, %H:%M")


def _day(ms: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(ms / 1000, zone).strftime("%A, %-d %B")


class Front(NamedTuple):
    """The shop as its customers know it, and how a link of ours is read."""

    name: str
    colour: str  # "#4f46e5"
    zone: str
    order_of: Callable[[str], str | None]  # token -> order ID


def tracking_routes(front: Front, pages: Pages, reader: Reader) -> list[ControllerRouterHandler]:
    def answer(html: str, status: int = 200) -> Response[str]:
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=NOT_KEPT)

    def lost() -> Response[str]:
        return answer(pages.render("lost.html", brand=front, message=LOST), 404)

    @get("/track/{token:str}", media_type=MediaType.HTML)
    async def track(token: Token) -> Response[str]:
        order_id = front.order_of(token)
        order = await reader.order(order_id) if order_id is not None else None
        if order is None or order.status not in SAID:
            return lost()
        return answer(pages.render("track.html", brand=front, t=tracked(order, front.zone)))

    @get("/t/{token:str}", media_type=MediaType.HTML)
    async def short(token: Token) -> Response[str] | Redirect:
        if front.order_of(token) is None:
            return lost()
        return Redirect(f"/track/{token}", status_code=302)

    @get("/brand.css", media_type=MediaType.TEXT)
    async def colours() -> Response[str]:
        css = f":root {{ --brand: {front.colour}; }}\n"
        return Response(css, media_type="text/css; charset=utf-8", headers={"cache-control": "public, max-age=300"})

    return [track, short, colours]
