"""What a person does about a record that could not be read: look at it, try it, put it back, or throw it away.

`run.py parked` and the pages call the same functions. Putting back twice is harmless: what a record says is known by its natural key.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from connectors import canonical
from connectors.delivery import Delivery, Unreadable, body_of, decode_delivery, encode_delivery
from connectors.store import LaneId
from orders.fact import FactUnparked, encode_fact
from streams.clock import Clock
from streams.lane import decode_parked
from streams.orders import KEY_MAX, mark_id
from streams.processor import Inputs, Parked, Processor, Record

KEYED_TOPICS = ("facts", "references", "stock", "customers")
_ID = re.compile(r"[a-z_]{1,64}/([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/-?[0-9]{1,19}")


class NoSuchRecord(Exception):
    """The ID names no place that a record can be parked at."""


class NotParked(Exception):
    """Nothing is parked there, or not any more: somebody has dealt with it."""


class StillUnreadable(Exception):
    """It would be parked again, and would have taken its mark from the order. `detail` names the field."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"it would be parked again, {reason}: {detail}")
        self.reason, self.detail = reason, detail


class Rows(Protocol):
    """What of `connectors.store.Store` is needed here."""

    async def parked(self, lane: LaneId, ids: Sequence[str]) -> list[bytes | None]: ...

    async def unpark(self, lane: LaneId, record: str) -> bool: ...


class Sink(Protocol):
    """What of a log is needed here."""

    async def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None: ...


class Found(NamedTuple):
    row: Parked
    content: bytes  # what was to be read: of a delivery its body
    processor: str


class Again(NamedTuple):
    """How a parked record, or its repaired content, is put back."""

    topic: str
    key: bytes | None
    value: bytes


class Parking:
    """`names`: topic -> whose lanes read it; `processors`: topic -> what makes the processor of one lane of it."""

    def __init__(
        self,
        rows: Rows,
        sink: Sink,
        clock: Clock,
        *,
        names: Mapping[str, str],
        layout: int,
        bodies: Path,
        processors: Mapping[str, Callable[[], Processor]],
    ) -> None:
        self._rows, self._sink, self._clock = rows, sink, clock
        self._names, self._layout, self._bodies, self._processors = names, layout, bodies, processors

    async def find(self, record: str) -> Found:
        """Raises NoSuchRecord, NotParked."""
        lane = self._lane(record)
        (row,) = await self._rows.parked(lane, [record])
        if row is None:
            raise NotParked(f"{record} is not parked (any more)")
        parked = decode_parked(row)
        return Found(parked, content(parked, self._bodies), lane.processor)

    async def check(self, record: str, body: bytes | None) -> Again:
        """What a replay would append. Raises StillUnreadable, NoSuchRecord, NotParked."""
        row = (await self.find(record)).row
        again = put_back(row, record, body)
        processor, now = self._processors[again.topic](), self._clock.now()
        inputs = Inputs(topic=again.topic, partition=row.partition, records=[Record(row.offset, again.key, again.value, now)])
        try:
            found = processor.ask({}, inputs, now).parked
        except Exception as error:  # noqa: BLE001 - the bug that parked it is still there
            raise StillUnreadable("processor_error", type(error).__name__) from None
        if found:
            raise StillUnreadable(found[0].reason, found[0].detail)
        return again

    async def replay(self, record: str, body: bytes | None, by: str) -> Parked:
        """The record, or its repaired content, goes to its topic again; the order learns who did it, and the row goes.

        Returns the row as it was. Raises what `check` does, and LogDown when nothing was done for good: it may be repeated.
        """
        again = await self.check(record, body)
        await self._sink.append(again.topic, [(again.key, again.value)])
        return await self._settled(record, by)

    async def discard(self, record: str, by: str) -> Parked:
        """`by`: who and why. Raises NoSuchRecord, NotParked, LogDown."""
        return await self._settled(record, by)

    async def _settled(self, record: str, by: str) -> Parked:
        row = (await self.find(record)).row
        if order := order_of(row):
            mark = mark_id(row.key or b"", row.value)
            fact = FactUnparked(order=order, system="staff", object=mark, at=self._clock.now(), by=by, record=record)
            await self._sink.append("facts", [(row.key, encode_fact(fact))])
        await self._rows.unpark(self._lane(record), record)
        return row

    def _lane(self, record: str) -> LaneId:
        its = _ID.fullmatch(record)
        if its is None or its[1] not in self._names:
            raise NoSuchRecord(f"{record[:120]!r} is not the ID of a parked record")
        return LaneId(self._names[its[1]], self._layout, int(its[2]))


def order_of(row: Parked) -> str:
    """The order that the record's key names, "" where it names none."""
    if row.topic == "facts" and row.key and len(row.key) <= KEY_MAX:
        with contextlib.suppress(UnicodeDecodeError):
            return row.key.decode()
    return ""


def content(row: Parked, bodies: Path) -> bytes:
    """What was to be read: of a delivery its body."""
    if row.topic == "deliveries":
        with contextlib.suppress(ValueError, msgspec.DecodeError, Unreadable):
            return body_of(decode_delivery(row.value), bodies)
    return row.value


def put_back(row: Parked, record: str, body: bytes | None) -> Again:
    """Pure. `body`: the repaired content; None: as it was."""
    if row.topic == "deliveries":
        if body is None:
            return Again(row.topic, row.key, row.value)
        try:
            delivery = msgspec.structs.replace(decode_delivery(row.value), body=body, beside="")
        except (ValueError, msgspec.DecodeError):
            delivery = Delivery(source="canonical", delivery=record, at=row.at, body=body)
        return Again(row.topic, row.key, encode_delivery(delivery))
    value = row.value if body is None else body
    if row.topic not in KEYED_TOPICS:  # the retailer's own topic is his to write to, not ours
        delivery = Delivery(source="canonical", delivery=record, at=row.at, body=value)
        return Again("deliveries", record.encode(), encode_delivery(delivery))
    if row.reason in ("null_key", "wrong_key"):
        with contextlib.suppress(Unreadable):
            routed = canonical.read(value)
            if len(routed) == 1 and routed[0].topic == row.topic:
                return Again(row.topic, routed[0].key.encode(), value)
    return Again(row.topic, row.key, value)
