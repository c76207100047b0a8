"""The canonical source: systems that already speak our facts (a retailer's own topic, `POST /v1/facts`, the demo shop).

One JSON object, an array of them, or one per line. The type says which topic it belongs to.
"""

from __future__ import annotations

import msgspec

from connectors.delivery import DECODING, Delivery, Record, Routed, Unreadable, place_of, stumbled
from orders.fact import Fact
from orders.request import MessageBlocked, MessageFreed, MessageRequested

_decode = msgspec.json.Decoder(Record).decode
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_LANES_ONLY = (MessageRequested, MessageBlocked, MessageFreed)  # what only our own lanes may say
ROW_BYTES = 512 * 1024  # of one record: brokers take 1 MiB by default, and none of ours needs a tenth of it


def read(body: bytes) -> list[Routed]:
    """Records of one delivery. Raises Unreadable; then none of its rows is taken, so that a repaired one is whole again."""
    return [_route(row, index) for index, row in enumerate(_rows(body))]


def read_delivery(delivery: Delivery) -> list[Routed]:
    return read(delivery.body)


def _rows(body: bytes) -> list[bytes]:
    text = body.strip()
    if text.startswith(b"["):
        try:
            return [bytes(row) for row in _raw_rows(text)]
        except DECODING as error:
            raise Unreadable("malformed", stumbled(error).detail) from None
    return [line for line in text.splitlines() if line.strip()] if b"\n" in text and not _is_one(text) else [text]


def _is_one(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except DECODING:
        return False
    return True


def _route(row: bytes, index: int) -> Routed:
    if len(row) > ROW_BYTES:
        raise Unreadable("too_large", f"row {index + 1}")
    try:
        thing = _decode(row)
    except DECODING as error:
        found = stumbled(error)
        raise Unreadable(found.reason, f"row {index + 1}: {found.detail}") from None
    if isinstance(thing, _LANES_ONLY):
        raise Unreadable("schema", f"row {index + 1}: $.type")
    if isinstance(thing, Fact) and not thing.order:
        raise Unreadable("null_key", f"row {index + 1}: $.order")
    return Routed(*place_of(thing), row)
