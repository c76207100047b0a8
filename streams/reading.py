"""Reading the records of a lane: what cannot be read is parked with a reason, the field's name, and its bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from typing import TypeVar

import msgspec

from orders.request import Request
from streams.partition import misplaced
from streams.processor import Inputs, Parked, Record

MAX_RECORD_BYTES = 1 << 20
EARLIEST, LATEST = 946_684_800_000, 4_102_444_800_000  # 2000 and 2100: outside, somebody's clock or unit is wrong
GREATEST = 1 << 62  # of any whole number: states are written with 64 bits
REQUEST_VERSION = 1

R = TypeVar("R", bound=Request)
_FIELD = re.compile(r"`(\$[^`]*)`$")


class Unreadable(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def read(
    inputs: Inputs, decode: Callable[[bytes], R], key_of: Callable[[R], str], now: int, parked: list[Parked]
) -> Iterator[tuple[Record, str, R]]:
    """The readable records with their keys; the others are appended to `parked`."""
    for record in inputs.records:
        try:
            yield record, *_read(record, decode, key_of)
        except Unreadable as error:
            parked.append(park(inputs, record, error.reason, error.detail, now))


def strays(inputs: Inputs, new: Sequence[str], partitions: int) -> list[Record]:
    """The records whose key belongs to another partition. `new`: keys without a state; the others were looked at when they were new."""
    away = misplaced(new, inputs.partition, partitions) if new and partitions else ()
    return [r for r in inputs.records if r.key is not None and r.key.decode(errors="replace") in away] if away else []


def park_strays(inputs: Inputs, away: Sequence[Record], now: int) -> list[Parked]:
    return [park(inputs, record, "wrong_partition", "key", now) for record in away]


def without(inputs: Inputs, away: Sequence[Record]) -> Inputs:
    gone = {record.offset for record in away}
    return msgspec.structs.replace(inputs, records=[r for r in inputs.records if r.offset not in gone])


def park(inputs: Inputs, record: Record, reason: str, detail: str, now: int) -> Parked:
    return Parked(reason, detail, inputs.topic, inputs.partition, record.offset, record.key, record.value or b"", now)


def park_later(inputs: Inputs, name: str, key: str, value: bytes, reason: str, detail: str, now: int) -> Parked:
    """What is parked long after it was read has no offset any more: it gets a negative one, always the same for `name`."""
    offset = -1 - (int.from_bytes(blake2b(f"{key}\x1f{name}".encode(), digest_size=6).digest()))
    return Parked(reason, detail, inputs.topic, inputs.partition, offset, key.encode(), value, now)


@cache
def _numbers(kind: type[Request]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type is int)


def _read(record: Record, decode: Callable[[bytes], R], key_of: Callable[[R], str]) -> tuple[str, R]:
    if record.key is None:
        raise Unreadable("null_key", "key")
    if not record.value:
        raise Unreadable("malformed", "value")
    if len(record.value) > MAX_RECORD_BYTES:
        raise Unreadable("too_large", "value")
    try:
        request = decode(record.value)
        key = record.key.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(*unreadable(error)) from None
    if request.v > REQUEST_VERSION:
        raise Unreadable("version", "$.v")
    if not EARLIEST <= request.at < LATEST:
        raise Unreadable("bounds", "$.at")
    for name in _numbers(type(request)):
        if not -GREATEST < getattr(request, name) < GREATEST:
            raise Unreadable("bounds", f"$.{name}")
    if key != key_of(request):
        raise Unreadable("wrong_key", "key")
    return key, request


def unreadable(error: Exception) -> tuple[str, str]:
    """Reason and field of what a decoder raised: "schema" with the field, or "malformed"."""
    if isinstance(error, msgspec.ValidationError):
        field = _FIELD.search(str(error))  # the rest of the text may quote the value
        return "schema", field.group(1) if field else "$"
    return "malformed", "value"
