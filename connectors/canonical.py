"""The canonical source: systems that already speak our facts (a retailer's own topic, `POST /v1/facts`, the demo shop).

One JSON object, an array of them, or one per line. The type says which topic it belongs to.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from orders.fact import AnyFact, Fact
from orders.request import AnyCustomer, AnyReference, AnyStock, FactWaiting, MessageBlocked, MessageFreed, MessageRequested, ReferenceLinked, StockLevelReported


class Routed(NamedTuple):
    """Where a record goes: topic, key, and its bytes."""

    topic: str
    key: str
    value: bytes


class Unreadable(Exception):
    """A delivery that cannot be read: `reason` from the closed list of parking reasons, `detail` names the field."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


_decode = msgspec.json.Decoder(AnyFact | AnyStock | AnyCustomer | AnyReference).decode
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_LANES_ONLY = (MessageRequested, MessageBlocked, MessageFreed)  # what only our own lanes may say


def read(body: bytes) -> list[Routed]:
    """Records of one delivery. Raises Unreadable; then none of its rows is taken, so that a repaired one is whole again."""
    return [_route(row, index) for index, row in enumerate(_rows(body))]


def _rows(body: bytes) -> list[bytes]:
    text = body.strip()
    if text.startswith(b"["):
        try:
            return [bytes(row) for row in _raw_rows(text)]
        except msgspec.DecodeError as error:
            raise Unreadable("malformed", str(error)) from None
    return [line for line in text.splitlines() if line.strip()] if b"\n" in text and not _is_one(text) else [text]


def _is_one(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def _route(row: bytes, index: int) -> Routed:
    try:
        thing = _decode(row)
    except msgspec.ValidationError as error:
        raise Unreadable("schema", f"row {index + 1}: {error}") from None
    except msgspec.DecodeError as error:
        raise Unreadable("malformed", f"row {index + 1}: {error}") from None
    if isinstance(thing, _LANES_ONLY):
        raise Unreadable("schema", f"row {index + 1}: type {type(thing).__name__} is not for sources")
    if isinstance(thing, Fact):
        return Routed("facts", thing.order, row)
    if isinstance(thing, (ReferenceLinked, FactWaiting)):
        return Routed("references", f"{thing.kind}:{thing.value}", row)
    if isinstance(thing, StockLevelReported) or hasattr(thing, "sku"):
        return Routed("stock", f"{thing.sku}@{thing.location}", row)  # type: ignore[union-attr]  # every AnyStock has both
    return Routed("customers", thing.customer, row)
