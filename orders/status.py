"""One status for people, from everything known: read the table aloud, the first line that holds is the answer."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orders.view import View


class Status(StrEnum):
    ANNOUNCED = "announced"  # others have spoken of it, the shop has not yet
    ORDER_PLACED = "order_placed"
    PAYMENT_CONFIRMED = "payment_confirmed"
    IN_PROGRESS = "in_progress"
    SHIPPED = "shipped"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    ON_HOLD = "on_hold"
    PAYMENT_FAILED = "payment_failed"
    BACKORDERED = "backordered"
    PARTIALLY_SHIPPED = "partially_shipped"
    PARTIALLY_DELIVERED = "partially_delivered"
    EXCEPTION = "exception"
    RETURNED = "returned"
    REFUNDED = "refunded"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.DELIVERED, Status.RETURNED, Status.REFUNDED, Status.CANCELLED})  # nothing more is expected

WORDS = {status: status.value.replace("_", " ").title().replace(" For ", " for ").replace("On Hold", "On hold") for status in Status}

STATUS: list[tuple[Callable[[View], bool], Status]] = [
    (lambda o: 0 < o.paid <= o.refunded, Status.REFUNDED),
    (lambda o: o.all_returned, Status.RETURNED),
    (lambda o: o.cancelled, Status.CANCELLED),
    (lambda o: o.all_delivered, Status.DELIVERED),
    (lambda o: o.in_trouble, Status.EXCEPTION),
    (lambda o: o.out_for_delivery, Status.OUT_FOR_DELIVERY),
    (lambda o: o.some_delivered, Status.PARTIALLY_DELIVERED),
    (lambda o: o.all_shipped, Status.SHIPPED),
    (lambda o: o.shipped_at > 0, Status.PARTIALLY_SHIPPED),
    (lambda o: bool(o.holds), Status.ON_HOLD),
    (lambda o: bool(o.short), Status.BACKORDERED),
    (lambda o: bool(o.reserved or o.picked or o.parcels), Status.IN_PROGRESS),
    (lambda o: o.paid_in_full and o.placed is not None and not o.placed.prepaid, Status.PAYMENT_CONFIRMED),
    (lambda o: o.failures > 0 and not o.paid_in_full and o.captured == 0, Status.PAYMENT_FAILED),
    (lambda o: o.placed is not None, Status.ORDER_PLACED),
]


def status_of(view: View) -> Status:
    """The first line of the table that holds."""
    for holds, status in STATUS:
        if holds(view):
            return status
    return Status.ANNOUNCED
