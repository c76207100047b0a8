"""The canonical source: systems that already speak our facts (a retailer's own topic, `POST /v1/facts`, the demo shop).

One JSON object, an array of them, or one per line. The type says which topic it belongs to.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from orders.fact import AnyFact, Fact
from orders.request import (
    AnyCustomer,
    AnyReference,
    AnyStock,
    FactWaiting,
    MessageBlocked,
    MessageFreed,
    MessageRequested,
    ReferenceLinked,
    StockLevelReported,
)


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
_DECODING = (msgspec.DecodeError, ValueError, RecursionError)  # what a decoder raises for bytes it cannot read
_LANES_ONLY = (MessageRequested, MessageBlocked, MessageFreed)  # what only our own lanes may say
_FIELD = re.compile(r"(?:field `([^`]*)`)?(?: - at `\$([^`]*)`)?$")
ROW_BYTES = 512 * 1024  # of one record: brokers take 1 MiB by default, and none of ours needs a tenth of it


def read(body: bytes) -> list[Routed]:
    """Records of one delivery. Raises Unreadable; then none of its rows is taken, so that a repaired one is whole again."""
    return [_route(row, index) for index, row in enumerate(_rows(body))]


def _rows(body: bytes) -> list[bytes]:
    text = body.strip()
    if text.startswith(b"["):
        try:
            return [bytes(row) for row in _raw_rows(text)]
        except _DECODING as error:
            raise Unreadable("malformed", _place(error)) from None
    return [line for line in text.splitlines() if line.strip()] if b"\n" in text and not _is_one(text) else [text]


def _is_one(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except _DECODING:
        return False
    return True


def _place(error: Exception) -> str:
    """Where a decoder stumbled, never over what: the field, or the byte."""
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        found = _FIELD.search(text)
        missing, path = (found.group(1), found.group(2)) if found else (None, None)
        return "$" + (path or "") + (f".{missing}" if missing else "")
    byte = re.search(r"\(byte \d+\)$", text)
    return byte.group(0) if byte else "value"


def _route(row: bytes, index: int) -> Routed:
    if len(row) > ROW_BYTES:
        raise Unreadable("too_large", f"row {index + 1}")
    try:
        thing = _decode(row)
    except _DECODING as error:
        reason = "schema" if isinstance(error, msgspec.ValidationError) else "malformed"
        raise Unreadable(reason, f"row {index + 1}: {_place(error)}") from None
    if isinstance(thing, _LANES_ONLY):
        raise Unreadable("schema", f"row {index + 1}: $.type")
    if isinstance(thing, Fact):
        if not thing.order:
            raise Unreadable("null_key", f"row {index + 1}: $.order")
        return Routed("facts", thing.order, row)
    if isinstance(thing, (ReferenceLinked, FactWaiting)):
        return Routed("references", f"{thing.kind}:{thing.value}", row)
    if isinstance(thing, StockLevelReported) or hasattr(thing, "sku"):
        return Routed("stock", f"{thing.sku}@{thing.location}", row)
    return Routed("customers", thing.customer, row)
