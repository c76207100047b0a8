"""Facts: what somebody reports about an order, in the past tense.

A fact's identity is its natural key (reporting system, that system's object ID, kind), never the delivery
that carried it: two deliveries of one fact are one fact. Facts travel as JSON on the topic `facts`, keyed by
order ID; `v` is the version of the fact's schema, unknown fields are ignored, a missing required one is an error.

Times are milliseconds since 1970 in UTC. Money is integer minor units (cents, yen) beside its ISO 4217 currency.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

FACT_VERSION = 1
AT_MIN = 946_684_800_000  # 2000-01-01: a fact from before it, or from AT_MAX on, never wins
AT_MAX = 4_102_444_800_000  # 2100-01-01


class Tracking(StrEnum):
    """What a carrier's scan means, whatever the carrier calls it."""

    LABEL_CREATED = "label_created"  # paper only: the parcel has not moved
    IN_TRANSIT = "in_transit"  # the carrier has it
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    ATTEMPT_FAILED = "attempt_failed"
    PICKUP = "pickup"  # waits for the customer at a counter
    EXCEPTION = "exception"
    RETURNED = "returned"
    LOST = "lost"
    DAMAGED = "damaged"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    lines: tuple[str, ...] = ()
    city: str = ""
    region: str = ""
    postcode: str = ""
    country: str = ""  # ISO 3166-1 alpha-2


class Person(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """All personal data of an order, and nothing else, so that it can be kept, sealed and erased by itself."""

    name: str = ""
    email: str = ""
    phone: str = ""  # E.164
    push_token: str = ""
    locale: str = ""  # BCP 47
    zone: str = ""  # IANA time zone
    address: Address = Address()


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    line: str  # the shop's line ID
    sku: str
    quantity: int
    price: int = 0  # minor units, each
    title: str = ""
    location: str = ""  # wanted stock location; empty: the default one


class Quantity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """So many of one order line."""

    line: str
    quantity: int


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What every fact carries. The greatest (authority, version, at, content) of one natural key wins."""

    order: str  # shop slug + ":" + the shop's own ID
    system: str  # the configured source that reports, "stripe:lumi"
    object: str  # that system's own ID of the thing reported
    at: int  # when it happened, by the reporting system
    v: int = FACT_VERSION
    version: int = 0  # the reporting system's version of the object, if it has one
    authority: int = 0  # set at intake from configuration: whose word counts more
    backfilled: bool = False  # history: merged and shown, sends nothing


class OrderPlaced(Fact, frozen=True, tag=True):
    """A statement of the whole order; an edited order is the same fact with a greater version."""

    number: str  # what the customer calls it
    customer: str  # customer ID: shop slug + the shop's ID, else a keyed hash of the e-mail
    currency: str
    total: int  # minor units
    lines: tuple[Line, ...]
    person: Person | None = None
    service: str = "standard"  # "standard" | "express"
    tier: str = "regular"  # "regular" | "vip"
    promised: int = 0  # delivery promised until, ms; 0: no promise
    prepaid: bool = False  # needs no payment fact (invoice, zero total)
    signals: dict[str, float] = {}  # named risk signals the shop or gateway gives: "avs_mismatch", "ip_far", ...
    not_applicable: tuple[str, ...] = ()  # checks this source cannot feed ("address", "stock", "fraud"): they answer not_applicable


class AddressCorrected(Fact, frozen=True, tag=True):
    person: Person


class PaymentAuthorized(Fact, frozen=True, tag=True):
    amount: int
    currency: str


class PaymentCaptured(Fact, frozen=True, tag=True):
    amount: int
    currency: str


class PaymentFailed(Fact, frozen=True, tag=True):
    amount: int
    currency: str
    reason: str = ""


class PaymentRefunded(Fact, frozen=True, tag=True):
    amount: int
    currency: str


class OrderPaid(Fact, frozen=True, tag=True):
    """A statement of the whole, last version wins; never added to captures."""

    amount: int
    currency: str


class PaymentDisputed(Fact, frozen=True, tag=True):
    amount: int
    currency: str


class DisputeClosed(Fact, frozen=True, tag=True):
    won: bool


class CancelRequested(Fact, frozen=True, tag=True):
    reason: str = ""
    by: str = ""


class LinesCancelled(Fact, frozen=True, tag=True):
    lines: tuple[Quantity, ...]
    reason: str = ""


class StockReserved(Fact, frozen=True, tag=True):
    """The stock lane's answer to one request; `object` is the request's effect ID."""

    line: str
    sku: str
    location: str
    quantity: int


class StockShort(Fact, frozen=True, tag=True):
    """The stock lane's other answer: nothing was reserved; it waits in the queue for stock if `queued`."""

    line: str
    sku: str
    location: str
    quantity: int
    queued: bool = True


class StockScarce(Fact, frozen=True, tag=True):
    """The stock lane's answer to a check before anything is reserved, where it has not enough; `object` is the check's effect ID."""

    line: str
    sku: str
    location: str
    quantity: int  # that the order wants


class StockReleased(Fact, frozen=True, tag=True):
    """The stock lane's answer to a release; `object` is the effect ID of the request that was undone."""

    line: str
    sku: str
    location: str
    quantity: int  # all that was given back of it so far; 0: it had been shipped


class ItemsPicked(Fact, frozen=True, tag=True):
    location: str
    short: tuple[Quantity, ...] = ()  # what the picker did not find


class ParcelPacked(Fact, frozen=True, tag=True):
    parcel: str
    lines: tuple[Quantity, ...] = ()  # empty: the whole order


class ParcelScanned(Fact, frozen=True, tag=True):
    """One scan of one parcel by its carrier."""

    parcel: str  # our parcel ID, or the tracking number where there is none
    tag: Tracking
    carrier: str = ""
    tracking: str = ""
    lines: tuple[Quantity, ...] = ()  # empty: the whole order
    eta_from: int = 0
    eta_until: int = 0


class HoldPlaced(Fact, frozen=True, tag=True):
    """`object` is the hold's ID."""

    reason: str
    by: str = ""


class HoldReleased(Fact, frozen=True, tag=True):
    """Names the holds it releases, or the problems that finance has settled (`orders.finance`), so it may arrive before them."""

    holds: tuple[str, ...]
    by: str
    reason: str


class ReviewDecided(Fact, frozen=True, tag=True):
    """A person's verdict outranks every score, earlier or later."""

    approve: bool
    by: str
    reason: str


class ReturnReceived(Fact, frozen=True, tag=True):
    lines: tuple[Quantity, ...] = ()  # empty: the whole order


class MessageReported(Fact, frozen=True, tag=True):
    """The customers lane's answer for one message; `object` is the message's effect ID."""

    effect: str
    channel: str
    outcome: str  # "sent" | "rejected" | "unknown" | "suppressed" | "expired" | "observed" | receipts: "delivered", "opened", ...
    reason: str = ""


class RiskReported(Fact, frozen=True, tag=True):
    """What somebody beside the shop found suspicious: a gateway's card checks, a device or address check. `object` is the check's ID.

    Of several reports, and of what the order was placed with, each signal's greatest value counts.
    """

    signals: dict[str, float]  # named as those of `OrderPlaced`


class FactRetracted(Fact, frozen=True, tag=True):
    """The fact with this natural key never was about this order."""

    target_system: str
    target_object: str
    target_type: str


class FactParked(Fact, frozen=True, tag=True):
    """A report about this order could not be read; `object` is the parked record's ID."""

    reason: str


class FactUnparked(Fact, frozen=True, tag=True):
    """What `FactParked` calls `object` was replayed or discarded; `record` is the ID of its row among the parked ones."""

    by: str = ""
    record: str = ""


class EffectSettled(Fact, frozen=True, tag=True):
    """A person has found out what became of a call of which nobody could tell. It speaks of the attempts made before it."""

    effect: str  # effect ID
    happened: bool  # False: it did not, and is tried again if it is still wanted
    by: str
    reason: str


class NoteAdded(Fact, frozen=True, tag=True):
    text: str
    by: str


class FeedbackGiven(Fact, frozen=True, tag=True):
    score: int


class ResendRequested(Fact, frozen=True, tag=True):
    """A person wants a message said once more; `object` names the repetition, which is an effect of its own."""

    effect: str  # ID of the message that was asked for before
    by: str
    reason: str


AnyFact: TypeAlias = (
    OrderPlaced
    | AddressCorrected
    | PaymentAuthorized
    | PaymentCaptured
    | PaymentFailed
    | PaymentRefunded
    | OrderPaid
    | PaymentDisputed
    | DisputeClosed
    | CancelRequested
    | LinesCancelled
    | StockReserved
    | StockShort
    | StockScarce
    | StockReleased
    | ItemsPicked
    | ParcelPacked
    | ParcelScanned
    | HoldPlaced
    | HoldReleased
    | ReviewDecided
    | ReturnReceived
    | MessageReported
    | FactRetracted
    | FactParked
    | FactUnparked
    | EffectSettled
    | NoteAdded
    | FeedbackGiven
    | ResendRequested
    | RiskReported
)

decode_fact = msgspec.json.Decoder(AnyFact).decode
encode_fact = msgspec.json.Encoder().encode
