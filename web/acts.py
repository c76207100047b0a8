"""What people do becomes a fact like any other: appended to the log, acknowledged, and merged by the order's lane."""

from __future__ import annotations

import secrets

from orders.fact import AnyFact, encode_fact
from streams.clock import Clock
from streams.transport import Log, LogDown
from web.problem import Refusal

STAFF = "staff"  # the system that people's facts name


class Acts:
    def __init__(self, sink: Log, clock: Clock) -> None:
        self._sink, self.clock = sink, clock

    def object(self) -> str:
        """A new ID for what a person does."""
        return secrets.token_hex(8)

    async def tell(self, *facts: AnyFact) -> None:
        """Returns when the log has them. Raises Refusal (503) while it takes none."""
        try:
            await self._sink.append("facts", [(fact.order.encode(), encode_fact(fact)) for fact in facts])
        except LogDown:
            raise Refusal(503, "log_down", "The log takes no records now; nothing was done, try again", retry_after_s=2) from None
