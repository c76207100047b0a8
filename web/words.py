"""How codes, times and amounts read to people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from orders.money import decimal, known
from web.reader import OrderDetail

MILESTONES = (
    ("order_placed", "Order Placed"),
    ("payment_confirmed", "Payment Confirmed"),
    ("in_progress", "In Progress"),
    ("shipped", "Shipped"),
    ("out_for_delivery", "Out for Delivery"),
    ("delivered", "Delivered"),
)
STEP = {code: number for number, (code, _) in enumerate(MILESTONES, 1)} | {
    "payment_failed": 1,
    "on_hold": 2,
    "backordered": 3,
    "partially_shipped": 4,
    "exception": 4,
    "partially_delivered": 5,
    "returned": 6,
    "refunded": 6,
}
CHANNELS = {"email": "E-mail", "sms": "SMS", "push": "Push", "webhook": "Webhook", "systems": "Connected systems", "stock": "Stock"}
DONE = {  # what a page says of an action that was just taken
    "cancel": "The cancellation is on its way.",
    "hold": "The order is being put on hold.",
    "release": "The holds are being released.",
    "approve": "The order is being approved.",
    "decline": "The order is being declined.",
    "note": "Your note is being added.",
    "settle": "What you found out is being taken in.",
    "resend": "The message is being sent once more.",
    "correct_address": "The address is being corrected.",
}
TONES = {"sent": "good", "delivered": "good", "opened": "good", "rejected": "bad", "unknown": "warn", "expired": "warn", "bounced": "bad"}


def words(code: str) -> str:
    """ "out_for_delivery" as people say it."""
    return dict(MILESTONES).get(code) or code.replace("_", " ").replace(".", " ").capitalize()


def channel(code: str) -> str:
    return CHANNELS.get(code, code)


def tone(outcome: str) -> str:
    return TONES.get(outcome, "")


def step(status: str) -> int:
    """How far along the six milestones; 0 for what left the way."""
    return STEP.get(status, 0)


def count(n: float) -> str:
    return f"{n:,.0f}".replace(",", "\u202f")


def share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "0 %"


def percent(p: float) -> str:
    if 0 < p < 0.01:
        return "< 1 %"
    return f"{p:.0%}".replace("%", "\u202f%")


def money(minor: int, currency: str) -> str:
    """ "1 234.50 EUR", the thousands apart by narrow spaces; "" while the currency is not known."""
    if not known(currency):
        return ""
    whole, dot, fraction = decimal(minor, currency).partition(".")
    return f"{int(whole):,}".replace(",", "\u202f") + f"{dot}{fraction}\u00a0{currency}"


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(ms: int) -> str:
    """What stands there without JavaScript, which shows the reader's own zone."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%-d %b %H:%M:%S UTC")


def day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%-d %b")


def age(ms: int, now: int) -> str:
    seconds = max(0, now - ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s" if seconds else "now"


def left(due: int, now: int) -> str:
    """Until a time by which something is to be done: "1 h 05 min left", "12 min late". `queue.js` counts on in the same words."""
    minutes = abs(due - now) // 60_000
    text = f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
    return f"{text} {'left' if due > now else 'late'}"


def order_url(order_id: str) -> str:
    return "/orders/" + quote(order_id, safe="")


def spark(rates: Sequence[float], width: float = 300.0, height: float = 64.0) -> tuple[str, str]:
    """SVG paths of line and area, the newest value at the right."""
    peak = max(rates, default=0.0) or 1.0
    apart = width / max(1, len(rates) - 1)
    points = [f"{i * apart:.1f} {height - 2 - (height - 6) * rate / peak:.1f}" for i, rate in enumerate(rates)]
    line = "M" + " L".join(points) if points else ""
    return line, f"{line} L{width:g} {height:g} L0 {height:g} Z" if points else ""


def warning(order: OrderDetail) -> str:
    """Why somebody should think twice before letting an order go; "" where nothing speaks against it."""
    if order.decision is None:
        return "This order has no score yet: neither the model nor the rules have looked at it"
    if "incomplete" in order.flags:
        return "A report about this order could not be read: what is known of it is incomplete"
    return ""
