"""Readers, logs and mailboxes for the tests of the web room, and for looking at its pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import msgspec

from orders.fact import Address, Person
from streams.processor import Record
from streams.transport import LogDown
from web.reader import (
    Counters,
    Decision,
    Evidence,
    Hold,
    ItemLine,
    Message,
    Moment,
    OrderDetail,
    Parcel,
    ParkedRow,
    Received,
    Row,
    Trouble,
    Variant,
    Waiting,
)  # fmt: skip

NOW = 1_795_000_000_000
STATUSES = [
    "order_placed",
    "payment_confirmed",
    "in_progress",
    "shipped",
    "out_for_delivery",
    "delivered",
    "on_hold",
    "payment_failed",
    "backordered",
    "cancelled",
    "refunded",
    "partially_shipped",
]
PERSON = Person(
    name="Ana <script>alert(1)</script> Lima",
    email="ana.lima@example.invalid",
    phone="+351910000001",
    address=Address(lines=("Rua das Flores 12",), city="Porto", postcode="4050-265", country="PT"),
)


DECIDED = Decision(
    decision="approve",
    decided_by="model",
    at=NOW - 3_998_500,
    fraud=0.034,
    late=0.41,
    shortage=0.002,
    priority=0.83,
    loss=440,
    version="champion-1",
    reasons=("The address checks out", "A known customer", "The carrier is late this week"),
)


def row(n: int, status: str | None = None) -> Row:
    status = status or STATUSES[n % len(STATUSES)]
    return Row(
        id=f"lumi:{1000 + n}",
        number=str(1000 + n),
        status=status,
        status_text=status.replace("_", " ").title().replace(" For ", " for "),
        moved_at=NOW - n * 1700,
        currency=("EUR", "JPY", "USD", "KWD")[n % 4],
        total=4990 + n * 731,
        service="express" if n % 5 == 1 else "standard",
        tier="vip" if n % 7 == 2 else "regular",
        flags=("held",) if status == "on_hold" else ("incomplete",) if n % 11 == 5 else (),
    )


def detail(order_id: str = "lumi:1004") -> OrderDetail:
    t = NOW - 4_000_000
    return OrderDetail(
        id=order_id,
        number="1004",
        status="out_for_delivery",
        status_text="Out for Delivery",
        moved_at=NOW,
        currency="EUR",
        total=12990,
        service="express",
        tier="vip",
        flags=("unknown",),
        customer="lumi:c77",
        person=PERSON,
        placed_at=t,
        promised=NOW + 86_400_000,
        captured=12990,
        refunded=0,
        contradictions=("Two reports disagree: payment captured by stripe:lumi, pi_3",),
        decision=DECIDED,
        lines=(
            ItemLine(line="1", sku="LAMP-01", title="Lumi lamp, warm white", quantity=1, price=8990),
            ItemLine(line="2", sku="BULB-E27", title="Bulb E27", quantity=2, price=2000, note="1 cancelled"),
        ),
        parcels=(Parcel(id="p1", carrier="UPS", tracking="1Z999AA10123456784", status="out_for_delivery"),),
        messages=(
            Message(effect="a", template="order_placed", channel="email", outcome="sent", at=t + 2000, repeatable=True),
            Message(effect="b", template="shipped", channel="sms", outcome="unknown", at=t + 9000, about="p1"),
            Message(effect="c", template="shipped", channel="push", outcome="observed", at=t + 9000),
        ),
        reached={
            "order_placed": t,
            "payment_confirmed": t + 60_000,
            "in_progress": t + 90_000,
            "shipped": t + 900_000,
            "out_for_delivery": t + 3_900_000,
        },
        timeline=(
            Moment(at=t, kind="fact", title="Order placed", by="lumi", detail=("129.90 EUR, 3 items",)),
            Moment(
                at=t + 1500,
                kind="decision",
                title="Approved",
                by="model",
                detail=("Fraud 3 %, late 41 %", "The address checks out", "A known customer"),
                tone="good",
            ),
            Moment(at=t + 2000, kind="effect", title="E-mail: Order Placed", by="customers", detail=("sent",), tone="good"),
            Moment(at=t + 60_000, kind="fact", title="Payment captured", by="stripe:lumi", detail=("129.90 EUR",), tone="good"),
            Moment(at=t + 90_000, kind="fact", title="Stock reserved", by="stock", detail=("1 × LAMP-01 at main",)),
            Moment(at=t + 900_000, kind="fact", title="Parcel scanned: in transit", by="ups", detail=("1Z999AA10123456784",)),
            Moment(
                at=t + 901_000,
                kind="effect",
                title="SMS: Shipped",
                by="customers",
                detail=("Nobody can tell whether it was sent: deadline",),
                tone="warn",
            ),
            Moment(at=t + 3_900_000, kind="fact", title="Parcel scanned: out for delivery", by="ups"),
        ),
    )


PARKED = ParkedRow(
    id="malformed/facts/3/17",
    reason="malformed",
    detail="not JSON",
    processor="orders",
    topic="facts",
    partition=3,
    offset=17,
    at=NOW,
    size=12,
)


def waits(n: int, queue: str = "review") -> Waiting:
    """The `n`th of a queue: the first is late, each later one has more time."""
    shown = {name: getattr(row(n, "on_hold"), name) for name in Row.__struct_fields__}
    review = {
        "due": NOW + (n - 1) * 3_000_000 + 90_000,
        "escalated": n == 0,
        "loss": 4200 - n * 100,
        "fraud": 0.62 - n / 50,
        "priority": 0.4,
    }
    reasons = ("the shipping address differs from the billing address", "many orders or attempts in a short time")
    return Waiting(
        **{**shown, "flags": ("held", "review") if queue == "review" else ("finance",)},
        queue=queue,
        since=NOW - 7_300_000 + n * 3_000_000,
        reasons=reasons if queue == "review" else ("the customer disputes 57.21\u00a0EUR",),
        **(review if queue == "review" else {}),
    )


def looked(its: Waiting, **changed: object) -> Evidence:
    decision = msgspec.structs.replace(DECIDED, decision="review", fraud=its.fraud, loss=its.loss, reasons=its.reasons)
    order = msgspec.structs.replace(
        detail(its.id), **{name: getattr(its, name) for name in Row.__struct_fields__}, decision=decision, holds=("a person has to look",)
    )
    said = Variant(by="stripe:lumi", at=NOW - 7_200_000, said=("Amount: 57.21\u00a0EUR",), counts=True)
    variants = (said, msgspec.structs.replace(said, by="shopify:lumi", said=("Amount: 54.00\u00a0EUR",), counts=False))
    values: dict[str, object] = {
        "order": order,
        "waiting": its,
        "holds": (Hold("review", "a person has to look at it"), Hold("h1", "call back")) if its.queue == "review" else (),
        "checks": ("the shipping address differs from the billing address",),
        "troubles": (
            Trouble(id="finance:dispute:dp_1", title="the customer disputes 57.21\u00a0EUR", at=NOW - 7_200_000, variants=(said,)),
            Trouble(id="finance:contradiction:ab", title="stripe:lumi reported “order paid” twice, differently", at=NOW, variants=variants),
        )
        if its.queue == "finance"
        else (),
    }
    return Evidence(**(values | changed))  # type: ignore[arg-type]


class FakeReader:
    """Answers from memory; `fail` makes it raise, `done` counts up when told to."""

    def __init__(self, orders: int = 30) -> None:
        self.rows = [row(n) for n in range(orders)]
        self.details = {"lumi:1004": detail()}
        self.totals = Counters(
            accepted=48_211, done=48_180, parked=3, waiting=28, parked_now=3, facts=40_000, duplicates=912,
            orders={s: (len(STATUSES) - i) ** 2 * 17 for i, s in enumerate(STATUSES)},
            messages={
                "email": {"sent": 8120, "rejected": 4, "observed": 12},
                "sms": {"sent": 2210, "unknown": 2},
                "push": {"sent": 3120, "rejected": 31},
            },
            unknown=2, held=14, scores=10_400, fallback_scores=52,
            behind={"intake": 0, "orders": 26, "references": 0, "stock": 2, "customers": 0}, oldest={"orders": NOW - 4_000, "stock": NOW},
            flags={"held": 14, "finance": 3, "incomplete": 2, "unknown": 2}, scheduled=118,
        )  # fmt: skip
        self.lying: Callable[[], Sequence[ParkedRow]] | None = None  # what is parked, where a test has it elsewhere
        self.references = {"lumi:1004": "1Z999AA10123456784", "lumi:1005": "pi_shared", "lumi:1006": "pi_shared"}
        self.fail: Exception | None = None
        self.waiting = {queue: [waits(n, queue) for n in range(4)] for queue in ("review", "finance")}
        self.files = {(queue, its.id): looked(its) for queue, rows in self.waiting.items() for its in rows}

    async def reviews(self, queue: str, limit: int) -> Sequence[Waiting]:
        self._maybe_fail()
        return self.waiting[queue][:limit]

    async def evidence(self, order_id: str, queue: str) -> Evidence | None:
        self._maybe_fail()
        return self.files.get((queue, order_id))

    async def order(self, order_id: str) -> OrderDetail | None:
        self._maybe_fail()
        return self.details.get(order_id)

    async def orders(self, tag: str, limit: int, before: tuple[int, str] | None = None) -> Sequence[Row]:
        self._maybe_fail()
        found = [r for r in self.rows if not tag or tag == r.status or tag in r.flags]
        return [r for r in found if before is None or (r.moved_at, r.id) < before][:limit]

    async def find(self, text: str) -> Sequence[Row]:
        self._maybe_fail()
        return [r for r in self.rows if text in (r.id, self.references.get(r.id))]

    async def parked(self, reason: str, limit: int) -> Sequence[ParkedRow]:
        self._maybe_fail()
        found = self.lying() if self.lying is not None else [PARKED]
        return [p for p in found if not reason or p.reason == reason][:limit]

    async def counters(self) -> Counters:
        self._maybe_fail()
        return self.totals

    def _maybe_fail(self) -> None:
        if self.fail is not None:
            raise self.fail


class FakeClaims:
    """Claims in memory, on a clock that stands still."""

    def __init__(self) -> None:
        self.by: dict[str, tuple[str, int]] = {}

    async def claim(self, name: str, by: str, ttl_ms: int) -> tuple[str, int]:
        if self.by.get(name, (by, 0))[0] == by:
            self.by[name] = (by, ttl_ms)
        return self.by[name]

    async def unclaim(self, name: str, by: str) -> tuple[str, int]:
        if self.by.get(name, ("", 0))[0] == by:
            del self.by[name]
        return self.by.get(name, ("", 0))

    async def claims(self, names: Sequence[str]) -> list[tuple[str, int]]:
        return [self.by.get(name, ("", 0)) for name in names]


class ListLog:
    """A log that keeps what it is given. `down` refuses, `gate` holds an append back until it is set."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, bytes]] = []
        self.down = False
        self.gate: asyncio.Event | None = None
        self.asked = 0

    @property
    def told(self) -> list[tuple[str, bytes | None, bytes]]:
        """All but the audit."""
        return [record for record in self.records if record[0] != "audit"]

    @property
    def audited(self) -> list[tuple[str, str, str]]:
        """Who did what to which thing."""
        entries = [json.loads(value) for topic, _, value in self.records if topic == "audit"]
        return [(entry["who"], entry["action"], entry["subject"]) for entry in entries]

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, len(self._of(topic)))}

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Record]:
        return [Record(n, key, value, NOW) for n, (key, value) in enumerate(self._of(topic))][start : start + limit]

    def _of(self, topic: str) -> list[tuple[bytes | None, bytes]]:
        return [(key, value) for name, key, value in self.records if name == topic]

    async def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise LogDown("no broker")
        self.records.extend((topic, key, value) for key, value in records)


class FakeMailbox:
    async def received(self, limit: int) -> Sequence[Received]:
        texts = [
            (
                "email",
                "ana.lima@example.invalid",
                "Your Lumi Zone order #1004",
                "Hi Ana, thank you for your order! Your order #1004 has been successfully placed.",
            ),
            ("sms", "+351910000001", "", "Your Lumi Zone order #1004 has shipped! Track it here: http://127.0.0.1:8080/t/x7Kq"),
            ("push", "token-1", "Lumi Zone", "Order #1004 Update: Your package is now Out for Delivery!"),
        ]
        return [
            Received(at=NOW - i * 4000, channel=c, to=to, subject=s, text=t, effect=f"e{i}") for i in range(4) for c, to, s, t in texts
        ][:limit]
