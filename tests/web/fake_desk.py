"""Parked records and modes in memory, under the real code that looks at and changes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from connectors import canonical
from connectors.store import LaneId, StoreDown
from model.features import features
from orders.fact import encode_fact
from streams.clock import Clock
from streams.dispatch import Modes
from streams.intake import IntakeProcessor
from streams.lane import encode_parked, parked_id
from streams.modes import ModesDocument, Observed
from streams.orders import OrdersProcessor
from streams.parking import Parking
from streams.processor import Parked
from tests.orders.lives import captured
from tests.web.fake_reader import NOW, ListLog
from web.explain import parked_row
from web.preview import Preview
from web.reader import ParkedRow

ORDER = "lumi:1004"
PAYMENT = captured(at=NOW - 60_000, order=ORDER, object="pi_7", amount=12990)
BROKEN = encode_fact(PAYMENT).replace(b"12990", b'"129,90"')
NAMES = {"deliveries": "intake", "facts": "orders"}
REPAIRABLE = Parked("schema", "$.amount", "facts", 3, 1207, ORDER.encode(), BROKEN, NOW - 50_000)
BINARY = Parked("malformed", "value", "facts", 1, 12, b"lumi:1001", bytes(range(200)), NOW - 90_000)
NOBODYS = Parked("malformed", "delivery envelope", "deliveries", 0, 88, b"x", b"not an envelope", NOW - 300_000)
PARKED = (REPAIRABLE, BINARY, NOBODYS)


class FakeStore:
    """Of a store what parking and the document of modes need. `fail` makes it raise."""

    def __init__(self, parked: Sequence[Parked] = PARKED) -> None:
        self.rows = {parked_id(row): row for row in parked}
        self.version, self.body = 0, b""
        self.fail = False

    async def parked(self, lane: LaneId, ids: Sequence[str]) -> list[bytes | None]:
        self._look()
        return [encode_parked(self.rows[name]) if name in self.rows else None for name in ids]

    async def unpark(self, lane: LaneId, record: str) -> bool:
        return self.rows.pop(record, None) is not None

    async def document(self) -> tuple[int, bytes]:
        self._look()
        return self.version, self.body

    async def put_document(self, expected: int, body: bytes) -> bool:
        if expected != self.version:
            return False
        self.version, self.body = expected + 1, body
        return True

    def listed(self) -> list[ParkedRow]:
        rows = [parked_row(name, NAMES[row.topic], row) for name, row in self.rows.items()]
        return sorted(rows, key=lambda row: -row.at)

    def _look(self) -> None:
        if self.fail:
            raise StoreDown("gone")


def parking(store: FakeStore, log: ListLog, clock: Clock, bodies: Path = Path("nowhere")) -> Parking:
    made: dict[str, Callable[[], Any]] = {
        "facts": lambda: OrdersProcessor(features),
        "deliveries": lambda: IntakeProcessor("deliveries", {"canonical": canonical.read_delivery}),
    }
    return Parking(store, log, clock, names=NAMES, layout=0, bodies=bodies, processors=made)


class FakeSwitch:
    def __init__(self, store: FakeStore, clock: Clock) -> None:
        its: Any = store
        self.document = ModesDocument(
            its, clock, {"email": "live", "sms": "observe", "push": "live", "webhook": "observe", "stock": "observe"}
        )

    async def modes(self) -> Modes:
        return await self.document.read()

    async def change(self, by: str, change: Callable[[Modes], Modes], seen: int | None = None) -> Modes:
        return await self.document.change(by, change, seen)

    async def observed(self, channel: str) -> Observed:
        return Observed({"delivery_reminder": 41, "shipped": 312} if channel == "sms" else {}, orders=2_410)

    async def preview(self, channel: str) -> Preview | None:
        if channel != "sms":
            return None
        shown = Preview(order=ORDER, number="1004", template="shipped", channel="sms", rules=("quiet_hours",), at=NOW)
        text = "Your Lumi Zone order #1004 has shipped! Track it here: https://lumi.example/t/x7Kq"
        return msgspec.structs.replace(shown, to="+351910000001", text=text)
