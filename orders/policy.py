"""What a shop may choose: bands, waiting times, which message goes out on which channel, what its brand is called.

One frozen struct, the same for every order; nothing in it is part of an effect's identity.
"""

from __future__ import annotations

from functools import cached_property

import msgspec

from orders.sourcing import Table

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class Trigger(msgspec.Struct, frozen=True):
    """One cell of the table milestone x channel x template: remove it, and just that message stops."""

    milestone: str
    channel: str  # "email" | "sms" | "push"
    template: str
    kind: str = "transactional"  # message class: "transactional" | "alert" | "feedback"


TRIGGERS = (
    Trigger("order_placed", "email", "order_placed"),
    Trigger("payment_confirmed", "email", "payment_confirmed"),
    Trigger("payment_failed", "email", "payment_failed"),
    Trigger("address_incomplete", "email", "address_incomplete"),
    Trigger("backordered", "email", "backordered"),
    Trigger("shipped", "email", "shipped"),
    Trigger("shipped", "sms", "shipped", "alert"),
    Trigger("shipped", "push", "shipped", "alert"),
    Trigger("delivery_reminder", "sms", "delivery_reminder", "alert"),
    Trigger("out_for_delivery", "push", "out_for_delivery", "alert"),
    Trigger("delivered", "email", "delivered"),
    Trigger("delivered", "push", "delivered", "alert"),
    Trigger("delay", "email", "delay"),
    Trigger("cancelled", "email", "cancelled"),
    Trigger("refunded", "email", "refunded"),
    Trigger("feedback", "email", "feedback", "feedback"),
)

# A message older than this is recorded, not sent; counted from when what it speaks of happened.
MAX_AGE = {
    "order_placed": 2 * DAY,
    "payment_confirmed": 2 * DAY,
    "payment_failed": 2 * DAY,
    "address_incomplete": 7 * DAY,
    "backordered": 7 * DAY,
    "shipped": 3 * DAY,
    "delivery_reminder": 12 * HOUR,
    "out_for_delivery": 10 * HOUR,
    "delivered": 3 * DAY,
    "delay": 3 * DAY,
    "cancelled": 7 * DAY,
    "refunded": 14 * DAY,
    "feedback": 14 * DAY,
}


class Messages(msgspec.Struct, frozen=True, kw_only=True):
    """Every milestone that can be spoken of, with the names of the effects that do."""

    order_placed: tuple[str, ...] = ()
    payment_confirmed: tuple[str, ...] = ()
    payment_failed: tuple[str, ...] = ()
    address_incomplete: tuple[str, ...] = ()
    backordered: tuple[str, ...] = ()
    in_progress: tuple[str, ...] = ()
    shipped: tuple[str, ...] = ()
    delivery_reminder: tuple[str, ...] = ()
    out_for_delivery: tuple[str, ...] = ()
    delivered: tuple[str, ...] = ()
    delay: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    refunded: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ()


class Policy(msgspec.Struct, frozen=True, dict=True, kw_only=True, forbid_unknown_fields=True):
    """Times in ms. Probabilities are compared as they stand in a decision, rounded to 1/10,000."""

    # the three bands of the fraud probability; see `orders.decision.verdict_of` for what happens exactly on a boundary
    approve_below: float = 0.30
    review_above: float = 0.30
    decline_above: float = 0.90
    stock_risk_above: float = 0.60  # probability of shortage from which the inventory team is told

    settle_ms: int = 15 * MINUTE  # a decline that a model alone decided waits so long before anything follows from it
    review_sla_ms: int = 2 * HOUR  # a review that nobody has made by then is escalated; after as long again `review_expiry` follows
    review_expiry: str = "hold"  # "hold": it stays held and the team is told once more; "cancel"
    reminder_lead_ms: int = 3 * HOUR  # a delivery reminder goes out so long before the carrier's window opens
    feedback_after_ms: int = 3 * DAY
    pay_link_ms: int = 30 * DAY  # the link in a message that a payment failed is good for so long after the order's placement
    finance_after_failures: int = 2  # failed payments before the finance team looks at it
    retire_after_ms: int = 90 * DAY  # an ended order shrinks to its remnant so long after its last fact; 0: never
    future_ms: int = 400 * DAY  # a fact dated so much later than the log received it is impossible

    lease_ms: int = 30_000  # a claimed call must have started by then; past it without an outcome it is unknown
    grace_ms: int = 30_000  # so long after the lease a provider may be asked what became of a call
    retry_ms: int = 10_000  # first wait of a call that may be tried again, doubled each time
    retry_most_ms: int = HOUR
    max_attempts: int = 8  # then a person looks at it
    repeat_ms: int = HOUR  # a request to another lane is repeated until answered, at doubling distances
    repeat_most_ms: int = DAY

    overtake_ms: int = 4 * HOUR  # the most urgent order is picked at most so much before its turn (`orders.plan.turn`)

    triggers: tuple[Trigger, ...] = TRIGGERS
    max_age_ms: dict[str, int] = msgspec.field(default_factory=MAX_AGE.copy)

    brand: str = "Lumi Zone"
    tracking_base: str = "https://track.lumi.example"  # the tracking pages; no slash at the end
    link_key: str = ""  # secret: signs the codes in links; without one they can be guessed
    default_location: str = "main"  # stock location of a line that names none
    sourcing: Table = Table()  # where lines come from and what takes their parcels; without rates: the above, and the service ordered

    served: dict[str, str] = {}  # action -> channel, for what goes another way than `orders.plan.CHANNELS` says
    writes_back: tuple[str, ...] = ()  # sources whose shop is told what became of its orders

    def __post_init__(self) -> None:
        if not 0 <= self.approve_below <= self.review_above <= self.decline_above <= 1:
            raise ValueError("policy: 0 <= approve_below <= review_above <= decline_above <= 1 must hold")
        for trigger in self.triggers:
            if trigger.milestone not in Messages.__struct_fields__:
                raise ValueError(f"policy: no message can hang on {trigger.milestone!r}; known are {', '.join(Messages.__struct_fields__)}")
        if self.review_expiry not in ("hold", "cancel"):
            raise ValueError("policy: review_expiry is hold or cancel; no order is approved because nobody looked at it")
        if self.review_sla_ms <= 0:
            raise ValueError("policy: review_sla_ms must be positive")
        if self.lease_ms <= 0 or self.retry_ms <= 0 or self.repeat_ms <= 0:
            raise ValueError("policy: lease_ms, retry_ms and repeat_ms must be positive")

    @cached_property
    def messages(self) -> Messages:
        """milestone -> names of the effects that say it, without their instance."""
        table: dict[str, list[str]] = {}
        for t in self.triggers:
            table.setdefault(t.milestone, []).append(f"notify.{t.channel} {t.milestone}")
        return Messages(**{milestone: tuple(names) for milestone, names in table.items()})

    @cached_property
    def cells(self) -> dict[str, Trigger]:
        """name of a message effect, without its instance -> its cell of the table."""
        return {f"notify.{t.channel} {t.milestone}": t for t in self.triggers}
