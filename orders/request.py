"""What one lane asks of another: stock, messages, references. Each repeats harmlessly: it carries its effect's ID.

They travel as JSON on the topics `stock` (key `sku@location`), `customers` (key: customer ID) and `references`
(key `kind:value`), together with what outside systems report there (levels, profiles, consent, waiting facts).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orders.fact import Person


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    at: int  # ms
    v: int = 1


# --- topic `stock`, key sku@location
class StockRequested(Request, frozen=True, tag=True):
    effect: str  # effect ID of the request in the order's state
    order: str
    line: str
    sku: str
    location: str
    quantity: int
    priority: float = 0.0  # who is served first when stock comes back


class StockCheckRequested(Request, frozen=True, tag=True):
    """Nothing is reserved yet: is there enough? Answered only where there is not."""

    effect: str
    order: str
    line: str
    sku: str
    location: str
    quantity: int


class StockReleaseRequested(Request, frozen=True, tag=True):
    effect: str  # the release's own effect ID
    request: str  # the request it undoes
    order: str
    line: str
    sku: str
    location: str
    quantity: int


class StockLevelReported(Request, frozen=True, tag=True):
    """What a warehouse counts; the greatest (version, at) wins."""

    sku: str
    location: str
    on_hand: int
    system: str
    version: int = 0
    by: str = ""  # a person counted, and says why
    reason: str = ""


class StockShipped(Request, frozen=True, tag=True):
    """A reserved quantity has left the building: the reservation ends, on_hand falls with it."""

    request: str
    sku: str
    location: str
    quantity: int


AnyStock: TypeAlias = StockRequested | StockCheckRequested | StockReleaseRequested | StockLevelReported | StockShipped


# --- topic `customers`, key customer ID
class MessageRequested(Request, frozen=True, tag=True):
    """Carries all that the message needs; the customer's lane decides whether, how and when it is said."""

    effect: str
    order: str
    customer: str
    template: str  # "order_placed", "payment_confirmed", "shipped", ...
    channel: str  # "email" | "sms" | "push"
    kind: str  # message class: "transactional" | "alert" | "feedback"
    fields: dict[str, str]  # what the template needs; a missing one never sends
    person: Person
    milestone_at: int  # when what it speaks of happened: chooses the dated variant
    expires: int  # ms: later it is recorded, not sent
    not_before: int = 0


class MessageBlocked(Request, frozen=True, tag=True):
    """No longer true. Observed-remove: a `MessageFreed` that names `block` lifts it."""

    effect: str
    order: str
    customer: str
    block: str
    reason: str


class MessageFreed(Request, frozen=True, tag=True):
    effect: str
    order: str
    customer: str
    blocks: tuple[str, ...]


class ProfileReported(Request, frozen=True, tag=True):
    customer: str
    system: str
    person: Person
    version: int = 0


class ConsentReported(Request, frozen=True, tag=True):
    """`granted` false is an opt-out (STOP by SMS, unsubscribe); the latest per (channel, kind) wins."""

    customer: str
    channel: str
    granted: bool
    kind: str = "*"  # message class, or all


class ReceiptReported(Request, frozen=True, tag=True):
    """What the provider says later of a message: "delivered", "opened", "bounced", "complained", "failed"."""

    customer: str
    effect: str
    channel: str
    receipt: str
    reference: str = ""


AnyCustomer: TypeAlias = MessageRequested | MessageBlocked | MessageFreed | ProfileReported | ConsentReported | ReceiptReported


# --- topic `references`, key kind:value
class ReferenceLinked(Request, frozen=True, tag=True):
    """`kind:value` means this order from `since` until `until` (0: open)."""

    kind: str  # "payment", "tracking", ...
    value: str
    order: str
    since: int
    until: int = 0


class FactWaiting(Request, frozen=True, tag=True):
    """A fact that names a reference instead of an order; `fact` is its JSON with an empty `order`."""

    kind: str
    value: str
    fact: msgspec.Raw


AnyReference: TypeAlias = ReferenceLinked | FactWaiting
