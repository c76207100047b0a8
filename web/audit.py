"""The audit: who did what to which thing, when and why, in a topic of its own, written before whoever did it is answered.

Everybody who lets people or machines change something awaits `audit(request, action, subject, ...)` first: what could not be
written down is not done. The topic is archived like every other; the page and the API show its newest entries.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, get
from litestar.connection import ASGIConnection
from litestar.params import QueryParameter
from litestar.types import ControllerRouterHandler

from streams.clock import Clock
from streams.transport import Log, LogDown
from web.identity import Actor, actor, needs
from web.pages import Pages
from web.problem import Refusal

TOPIC = "audit"
SHOWN = 200
LOOKED_AT = 2_000  # of each partition, from the newest back
Word = Annotated[str, QueryParameter(max_length=64)]
Number = Annotated[int, QueryParameter(ge=1, le=SHOWN)]


class Audited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that somebody did. No personal data of customers."""

    id: str  # of the action: one that was repeated is here once
    at: int  # ms since 1970, UTC
    who: str
    roles: tuple[str, ...] = ()
    action: str  # "order.cancel", "sign_in", ...
    subject: str  # "lumi:1001", "channel:email", ...
    before: str = ""  # what of it was so, in words or codes
    after: str = ""
    reason: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Audited).decode


async def write(
    log: Log, now: int, who: Actor, action: str, subject: str, *, before: str = "", after: str = "", reason: str = "", id: str = ""
) -> None:
    """Returns when the log has the entry. Raises LogDown."""
    entry = Audited(
        id=id or secrets.token_hex(8),
        at=now,
        who=who.name,
        roles=tuple(sorted(who.roles)),
        action=action,
        subject=subject,
        before=before,
        after=after,
        reason=reason,
    )
    await log.append(TOPIC, [(subject.encode(errors="replace"), _encode(entry))])


class Audit:
    def __init__(self, log: Log, clock: Clock) -> None:
        self._log, self._clock = log, clock

    async def __call__(
        self,
        request: ASGIConnection[Any, Any, Any, Any],
        action: str,
        subject: str,
        *,
        before: str = "",
        after: str = "",
        reason: str = "",
        id: str = "",
    ) -> None:
        """Returns when the log has the entry. Raises Refusal (503) while it takes none: do nothing then.

        `id`: of the action, where a repetition of it can be recognised.
        """
        await self.tell(actor(request), action, subject, before=before, after=after, reason=reason, id=id)

    async def tell(self, who: Actor, action: str, subject: str, **words: str) -> None:
        """The same for somebody whom the door does not know. `words` as above."""
        try:
            await write(self._log, self._clock.now(), who, action, subject, **words)
        except LogDown:
            raise Refusal(503, "log_down", "The log takes no records now; nothing was done, try again", retry_after_s=2) from None

    async def newest(self, limit: int, who: str = "", action: str = "") -> list[Audited]:
        """The newest first, by this person and of this action ("" for any); of each partition its last entries are looked at."""
        try:
            bounds = await self._log.bounds(TOPIC)
            parts = await asyncio.gather(*(self._last(partition, first, end) for partition, (first, end) in bounds.items()))
        except LogDown:
            raise Refusal(503, "log_down", "The log does not answer; try again later", retry_after_s=2) from None
        found = {entry.id: entry for part in parts for entry in part if who in ("", entry.who) and action in ("", entry.action)}
        return sorted(found.values(), key=lambda entry: (-entry.at, entry.id))[:limit]

    async def _last(self, partition: int, first: int, end: int) -> list[Audited]:
        start = max(first, end - LOOKED_AT)
        records: Sequence[Any] = await self._log.read(TOPIC, partition, start, LOOKED_AT) if start < end else ()
        found = []
        for record in records:
            try:
                found.append(_decode(record.value))
            except msgspec.DecodeError:
                continue  # nobody but us writes here; what a newer version wrote otherwise is in the archive
        return found


def audit_routes(audit: Audit, pages: Pages) -> list[ControllerRouterHandler]:
    @get("/v1/audit", guards=[needs("operator")])
    async def listed(who: Word = "", action: Word = "", limit: Number = SHOWN) -> Sequence[Audited]:
        return await audit.newest(limit, who, action)

    @get("/audit", media_type=MediaType.HTML, guards=[needs("operator")])
    async def page(request: Request[Any, Any, Any], who: Word = "", action: Word = "") -> str:
        entries = await audit.newest(SHOWN, who, action)
        return pages.render("audit.html", page="audit", actor=actor(request), entries=entries, who=who, action=action)

    return [listed, page]
