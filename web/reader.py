"""What API and pages show, and the one protocol through which they get it.

Times are milliseconds since 1970 in UTC, money is minor units. Only `OrderDetail` carries personal data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from orders.fact import Person


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One order in a list. No personal data."""

    id: str
    number: str
    status: str  # code, "out_for_delivery"
    status_text: str  # "Out for Delivery"
    moved_at: int
    currency: str = ""
    total: int = 0
    service: str = ""
    tier: str = ""
    flags: tuple[str, ...] = ()  # "held", "incomplete", "unknown", "finance", ...


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    decision: str  # "approve" | "review" | "decline"
    decided_by: str  # "model" | "fallback" | "person"
    at: int
    fraud: float  # probabilities, 0..1
    late: float
    shortage: float
    priority: float  # 0..1
    loss: int  # expected, minor units
    version: str  # of the model or of the rules
    reasons: tuple[str, ...] = ()  # in words, strongest first
    in_force: bool = True  # knows all that is known now


class ItemLine(msgspec.Struct, frozen=True, kw_only=True):
    line: str
    sku: str
    title: str
    quantity: int
    price: int
    note: str = ""  # "2 cancelled", "waits for stock", ...


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    carrier: str
    tracking: str
    status: str
    eta_from: int = 0
    eta_until: int = 0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What was said, or was to be said, to the customer about this order."""

    effect: str
    template: str
    channel: str
    outcome: str  # "asked" while nothing is known yet
    at: int
    about: str = ""  # the parcel or refund it speaks of
    repeatable: bool = False  # it was asked for and has been answered: a person may want it said once more


class Moment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of an order's timeline."""

    at: int
    kind: str  # "fact" | "decision" | "effect" | "timer"
    title: str
    by: str  # who reported or decided: a source, "model", a person
    detail: tuple[str, ...] = ()  # reasons and outcomes in words
    tone: str = ""  # "" | "good" | "warn" | "bad"


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A call of which nobody can tell whether it happened."""

    effect: str
    title: str
    at: int  # of the last attempt


class OrderDetail(Row, frozen=True, kw_only=True):
    """Everything about one order."""

    customer: str
    person: Person | None
    placed_at: int
    promised: int
    captured: int
    refunded: int
    failures: int = 0  # payments that failed
    holds: tuple[str, ...] = ()  # reasons, in words
    hold_ids: tuple[str, ...] = ()  # the same, as a release names them
    doubts: tuple[Doubt, ...] = ()
    contradictions: tuple[str, ...] = ()  # for finance, in words
    decision: Decision | None = None
    lines: tuple[ItemLine, ...] = ()
    sourcing: tuple[str, ...] = ()  # where its parcels come from and how they go, and why so, in words; empty: nothing was to choose
    parcels: tuple[Parcel, ...] = ()
    messages: tuple[Message, ...] = ()
    reached: dict[str, int] = {}  # milestone -> when, of the six that people know
    timeline: tuple[Moment, ...] = ()  # oldest first


class ParkedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be read. Its bytes are shown to operators only: they may be anything."""

    id: str
    reason: str
    detail: str  # names the field, never its value
    processor: str
    topic: str
    partition: int
    offset: int
    at: int
    size: int
    version: str = ""  # of the program that could not read it; "": not known


class Waiting(Row, frozen=True, kw_only=True):
    """An order in a queue for a person. No personal data."""

    queue: str  # "review" | "finance"
    since: int
    due: int = 0  # to be decided by then; 0: nobody has set a time
    escalated: bool = False  # its time passed, and the team was told
    fraud: float = 0.0
    priority: float = 0.0
    loss: int = 0  # expected, minor units
    reasons: tuple[str, ...] = ()  # in words
    claimed_by: str = ""
    claimed_until: int = 0


class Hold(msgspec.Struct, frozen=True):
    id: str  # what a release names
    text: str


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """Who said what about the same thing."""

    by: str
    at: int
    said: tuple[str, ...]
    counts: bool  # the one that is believed


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of money."""

    id: str  # what finance names when it has settled it
    title: str
    at: int
    variants: tuple[Variant, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who decides about an order has to see."""

    order: OrderDetail
    waiting: Waiting | None  # None: it is not in this queue (any more)
    holds: tuple[Hold, ...] = ()
    checks: tuple[str, ...] = ()  # what shop and gateway found odd, in words
    troubles: tuple[Trouble, ...] = ()
    owed: int = 0  # of a cancelled order, not refunded yet


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Totals since `init` over all lanes, exact across crashes: accepted = done + parked + waiting."""

    accepted: int = 0  # records in the log
    done: int = 0
    parked: int = 0  # ever; `parked_now` of them wait for a person
    waiting: int = 0  # in the log, not yet read
    parked_now: int = 0
    facts: int = 0  # of the records done, those of the orders lanes
    duplicates: int = 0
    orders: dict[str, int] = {}  # by status code
    messages: dict[str, dict[str, int]] = {}  # channel -> outcome -> how many
    unknown: int = 0
    held: int = 0
    scores: int = 0
    fallback_scores: int = 0
    behind: dict[str, int] = {}  # processor -> records of its topic that its lanes have not read yet
    oldest: dict[str, int] = {}  # processor -> when the first of them was written, of the lane that is furthest behind
    flags: dict[str, int] = {}  # "held", "finance", "incomplete", ... -> orders
    scheduled: int = 0  # customers for whom something is still to be said or tried


class Reader(Protocol):
    """Looks, and never blocks the loop. Raises ConnectionError or TimeoutError when the store cannot be asked."""

    async def order(self, order_id: str) -> OrderDetail | None: ...

    async def orders(self, tag: str, limit: int, before: tuple[int, str] | None = None) -> Sequence[Row]:
        """Those with this tag (a status code or a flag; "" for all), the last moved first; `before`: (moved_at, id) of the last seen."""

    async def find(self, text: str) -> Sequence[Row]:
        """Those with this ID or number, or of this payment, tracking number or customer; nothing else is indexed."""

    async def parked(self, reason: str, limit: int) -> Sequence[ParkedRow]:
        """Of this reason ("" for any), the newest first."""

    async def counters(self) -> Counters: ...

    async def reviews(self, queue: str, limit: int) -> Sequence[Waiting]:
        """What waits in "review" or "finance", the most urgent first; who has claimed it is not known here."""

    async def evidence(self, order_id: str, queue: str) -> Evidence | None: ...


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One message as a stand-in of the demo received it."""

    at: int
    channel: str  # "email" | "sms" | "push" | "webhook" | "systems"
    to: str
    subject: str = ""
    text: str = ""
    effect: str = ""


class Mailbox(Protocol):
    """What the demo's stand-ins received; only there in the demo."""

    async def received(self, limit: int) -> Sequence[Received]:
        """The newest first."""
