"""What people do becomes a fact like any other: appended to the log, acknowledged, and merged by the order's lane."""

from __future__ import annotations

import secrets

from connectors.delivery import Record, routed
from streams.clock import Clock
from streams.transport import Log, LogDown
from web.audit import Audit
from web.identity import Actor
from web.problem import Refusal

STAFF = "staff"  # the system that people's facts name


class Acts:
    def __init__(self, sink: Log, clock: Clock) -> None:
        self._sink, self.clock = sink, clock
        self._audit = Audit(sink, clock)

    def object(self) -> str:
        """A new ID for what a person does."""
        return secrets.token_hex(8)

    async def noted(self, by: str, action: str, subject: str, *, before: str = "", after: str = "", reason: str = "") -> None:
        """Before it is done: what the audit cannot be told is not done. `subject`: an order, a record, ... Raises Refusal (503)."""
        await self._audit.tell(Actor(by, frozenset()), action, subject, before=before, after=after, reason=reason)

    async def tell(self, *records: Record) -> None:
        """Returns when the log has them. Raises Refusal (503) while it takes none."""
        by_topic: dict[str, list[tuple[bytes | None, bytes]]] = {}
        for topic, key, value in map(routed, records):
            by_topic.setdefault(topic, []).append((key.encode(), value))
        try:
            for topic, rows in by_topic.items():
                await self._sink.append(topic, rows)
        except LogDown:
            raise Refusal(503, "log_down", "The log takes no records now; nothing was done, try again", retry_after_s=2) from None
