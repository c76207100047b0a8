"""Intake: deliveries of outside systems become canonical records on the topics they belong to.

It is a lane like the others, only without states: its position, its outbox and what it parks lie in the same commit, so
that nothing is lost or skipped between a delivery and the facts read out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.delivery import DECODING, Delivery, Ignored, Routed, Unreadable, decode_delivery
from streams.processor import Asked, Channels, Inputs, Outgoing, Parked, Record, Result, Scores

MAX_BODY_BYTES = 8 << 20


Reader = Callable[[Delivery], list[Routed]]


class IntakeProcessor:
    """`readers` by source. A retailer's own topic has one `source` for all of its records, whose values are bodies.

    What a reader ignores is done with: nobody needs to look at it.
    """

    name = "intake"
    stateless = True

    def __init__(self, topic: str, readers: Mapping[str, Reader], source: str = "") -> None:
        self.topic, self._readers, self._source = topic, readers, source
        if source:
            self.name = f"intake-{source}"
        self.ignored = 0

    @staticmethod
    def encode(state: Any) -> bytes:
        raise AssertionError("intake keeps no states")

    @staticmethod
    def decode(blob: bytes) -> Any:
        raise AssertionError("intake keeps no states")

    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        outgoing: list[Outgoing] = []
        parked: list[Parked] = []
        for record in inputs.records:
            try:
                outgoing.extend(Outgoing(*routed) for routed in self._read(record))
            except Ignored:
                self.ignored += 1
            except Unreadable as error:
                parked.append(
                    Parked(error.reason, error.detail, inputs.topic, inputs.partition, record.offset, record.key, record.value or b"", now)
                )
        return Asked(questions=None, work=outgoing, parked=parked)

    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result:
        return Result(states={}, due={}, outbox=asked.work)

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        return Result(states={}, due={}, parked=self.ask(states, inputs, now).parked)

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        return set()

    def mark(self, record: Record) -> None:
        return None

    def _read(self, record: Record) -> list[Routed]:
        value = record.value
        if not value:
            raise Unreadable("malformed", "empty record")
        if len(value) > MAX_BODY_BYTES:
            raise Unreadable("too_large", f"body of {len(value)} bytes, at most {MAX_BODY_BYTES} are read")
        if self._source:
            delivery = Delivery(source=self._source, delivery="", at=record.timestamp, body=value)
        else:
            try:
                delivery = decode_delivery(value)
            except DECODING:
                raise Unreadable("malformed", "delivery envelope") from None
        reader = self._readers.get(delivery.source)
        if reader is None:
            raise Unreadable("unknown_source", "source")
        return reader(delivery)
