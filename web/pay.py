"""Where a customer pays after a payment failed: `/pay/{token}`, the link in our message.

The page says what is due and has one button, which leads to the gateway's own page; no card is ever seen here. Paid is paid: from
then on the link only says so. A link that is too old, an order that is off or still being looked at, and a shop whose gateway we
cannot ask each say what the customer can do. No personal data: links are forwarded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from litestar import MediaType, Response, get, post
from litestar.response import Redirect
from litestar.types import ControllerRouterHandler

from streams.clock import Clock
from web.pages import Pages
from web.problem import Refusal
from web.reader import OrderDetail, Reader
from web.tracking import LOST, NOT_KEPT, SAID, Front, Token
from web.words import money

OFF = ("cancelled", "refunded", "returned")
PAID = ("Already paid", "Thank you: nothing is left to pay for this order.")
LATE = ("This link has expired", "Please write to us if you still want your order.")
ALONE = ("Please write to us", "This order is not paid in full yet, and we cannot take the payment here.")
FAILED = ("Your payment did not go through", "Nothing is lost, and nothing was charged. You can try again, also with another card.")
OPEN = ("Your order is not paid yet", "We prepare it as soon as it is.")
AGAIN = ("That did not work", "Nothing was charged. Please try again in a minute, or write to us.")


class Checkout(Protocol):
    async def __call__(self, order: OrderDetail) -> str:
        """The URL at which the gateway takes what is due; the same one while nothing has changed. Raises Refusal (503)."""


class Till(NamedTuple):
    """What the page needs beside the front."""

    order_of: Callable[[str], str | None]  # token -> order ID
    followed: Callable[[str], str]  # order ID -> token of its tracking page
    contact: str  # where customers write to
    life_ms: int  # of a link, from the order's placement
    checkout: Callable[[str], Checkout | None]  # order ID -> its shop's gateway; None: there is none that we can ask


class Owed(NamedTuple):
    headline: str
    said: str
    due: str = ""  # "" where nothing is to be paid here
    write: bool = False  # the customer is better off writing to us


def owed(order: OrderDetail, now: int, life_ms: int, has_checkout: bool) -> Owed:
    """Raises KeyError for an order of which the shop has not told us."""
    if order.status in OFF:
        return Owed(*SAID[order.status])
    if "payment_confirmed" in order.reached:
        return Owed(*PAID)
    if order.decision is not None and order.decision.decision == "decline":
        return Owed(*SAID["on_hold"])  # it may end here: no money is taken for it
    if now - order.placed_at > life_ms:
        return Owed(*LATE, write=True)
    amount = money(due(order), order.currency) if due(order) > 0 else ""
    if not has_checkout or not amount:
        return Owed(*ALONE, write=True)
    return Owed(*(FAILED if order.status == "payment_failed" else OPEN), due=amount)


def due(order: OrderDetail) -> int:
    """Minor units."""
    return order.total - order.captured


def pay_routes(front: Front, till: Till, pages: Pages, reader: Reader, clock: Clock) -> list[ControllerRouterHandler]:
    def answer(html: str, status: int = 200) -> Response[str]:
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=NOT_KEPT)

    def lost() -> Response[str]:
        return answer(pages.render("lost.html", brand=front, message=LOST), 404)

    def page(order: OrderDetail, said: Owed, status: int = 200) -> Response[str]:
        followed = f"/track/{till.followed(order.id)}"
        return answer(pages.render("pay.html", brand=front, number=order.number, o=said, followed=followed, contact=till.contact), status)

    async def found(token: str) -> tuple[OrderDetail, Owed, Checkout | None] | None:
        order_id = till.order_of(token)
        order = await reader.order(order_id) if order_id is not None else None
        if order is None or order.status not in SAID:
            return None
        checkout = till.checkout(order.id)
        return order, owed(order, clock.now(), till.life_ms, checkout is not None), checkout

    @get("/pay/{token:str}", media_type=MediaType.HTML)
    async def look(token: Token) -> Response[str]:
        its = await found(token)
        return lost() if its is None else page(its[0], its[1])

    # The form has no fields and whoever sends it is nobody: the token is all that it says, and it moves no money by itself.
    @post("/pay/{token:str}", media_type=MediaType.HTML, status_code=200)
    async def pay(token: Token) -> Response[str] | Redirect:
        its = await found(token)
        if its is None:
            return lost()
        order, said, checkout = its
        if checkout is None or not said.due:
            return page(order, said)
        try:
            url = await checkout(order)
        except Refusal as refusal:
            return page(order, Owed(*AGAIN, due=said.due, write=True), refusal.status)
        return Redirect(url, status_code=303, headers=NOT_KEPT)

    return [look, pay]
