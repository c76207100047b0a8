"""`/parked`: records that could not be read, for whoever repairs them, and the same as `/v1/parked` for machines.

A record's ID has slashes; in addresses they are written as `~`. Its bytes are shown to operators only, when they ask for them, and
that somebody asked is noted with the order. Replaying twice has one effect: the second is answered "already".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.params import PathParameter
from litestar.response import Redirect
from litestar.types import ControllerRouterHandler

from orders.fact import NoteAdded
from streams.parking import Found, NoSuchRecord, NotParked, Parking, StillUnreadable, order_of
from web.acts import STAFF, Acts
from web.api import Code
from web.body import json_body, text
from web.explain import parked_row
from web.identity import LOCAL, Actor, actor, form, needs
from web.pages import Pages
from web.problem import Refusal
from web.reader import ParkedRow, Reader

LISTED = 200
EDITED_BYTES = 128 * 1024  # larger ones are repaired with `run.py parked`
SHOWN_BYTES = 4 * 1024  # of what is no text
NOT_KEPT = {"cache-control": "no-store"}
REASON_CHARS = 500
REASONS: dict[str, tuple[str, str]] = {  # reason -> what it means, and what to do about it
    "malformed": ("It is not JSON", "The writer sent something broken. Ask them, repair the text and replay it, or discard it."),
    "schema": ("A field is missing or has the wrong type", "The writer changed its format. Repair the field and replay, or ask them to."),
    "version": ("A newer version wrote it", "Upgrade this installation, then replay the record as it is."),
    "bounds": ("A value that no real order has", "Usually a wrong unit: seconds for milliseconds, euros for cents. Repair it and replay."),
    "currency": ("Not a currency", "Expected is an ISO 4217 code in capitals, as in EUR. Repair it and replay."),
    "null_key": ("It has no key", "The writer does not key by order. Replayed as it is, it goes to the order that it names."),
    "wrong_key": ("Its key names another order", "Replayed as it is, it goes to the order that it names. Tell the writer."),
    "wrong_partition": ("It lay in the wrong partition", "Replay puts it where it belongs. Correct the writer's partitioner."),
    "too_large": ("It is too large", "Find out what filled it; put a smaller one in its place, or discard it."),
    "unknown_source": ("No account of this name is configured", "Add the account to the configuration, restart, and replay it as it is."),
    "missing_body": ("Its body is gone", "The file beside the log was removed. Put it back and replay, or discard the record."),
    "unknown_reference": ("It names what no order has", "Find the order by hand and report it with the order filled in."),
    "ambiguous_reference": ("More than one order has what it names", "Find out which one is meant and report it with the order filled in."),
    "template_missing_field": ("A message lacks a field", "Complete the order at its source, then replay."),
    "processor_error": ("We stumble over it", "A bug of ours. Go back to the version before, then replay it as it is."),
}  # fmt: skip
UNKNOWN_REASON = ("It cannot be read", "See the runbook.")
SAID = {
    "replayed": "Replayed: the record went to its topic again, and is read like any other.",
    "discarded": "Discarded. The order keeps who did it, and why.",
    "already": "Somebody has dealt with this record already. Nothing was done twice.",
}
Name = Annotated[str, PathParameter(max_length=400)]


class ParkedDetail(ParkedRow, frozen=True, kw_only=True):
    """One parked record without its bytes."""

    order: str  # that its key names; marked incomplete until somebody has dealt with the record
    means: str
    advice: str


class ParkedContent(msgspec.Struct, frozen=True, kw_only=True):
    """What was to be read. Personal data, and anything else."""

    id: str
    text: str = ""  # where it is UTF-8
    hex: str = ""  # otherwise


class Repair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body`: the repaired content; none: the record as it was. `by` counts only where nobody signs in."""

    body: str | None = None
    reason: str = ""
    by: str = ""


class Settled(msgspec.Struct, frozen=True):
    id: str
    outcome: str  # "replayed" | "discarded" | "readable" | "already"


def name_of(record: str) -> str:
    """As addresses carry it. No topic's name has a tilde."""
    return record.replace("/", "~")


def record_of(name: str) -> str:
    return name.replace("~", "/")


def means(reason: str) -> tuple[str, str]:
    return REASONS.get(reason, UNKNOWN_REASON)


def described(record: str, found: Found) -> ParkedDetail:
    said, advice = means(found.row.reason)
    fields = msgspec.structs.asdict(parked_row(record, found.processor, found.row))
    return ParkedDetail(**fields, order=order_of(found.row), means=said, advice=advice)


def as_text(content: bytes) -> str | None:
    """None for what people cannot read, or not in one piece."""
    try:
        said = content.decode()
    except UnicodeDecodeError:
        return None
    readable = len(content) <= EDITED_BYTES and all(char.isprintable() or char in "\n\r\t" for char in said)
    return said if readable else None


def dump(content: bytes) -> str:
    """The first bytes as hexadecimal, sixteen a line, with what is readable of them."""
    lines = []
    for at in range(0, min(len(content), SHOWN_BYTES), 16):
        part = content[at : at + 16]
        seen = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:06x}  {part.hex(' '):<47}  {seen}")
    return "\n".join(lines)


def repaired(typed: str, content: bytes) -> bytes | None:
    """What a browser sent of a text area; None when nobody changed it. Browsers end lines with CR LF."""
    plain = typed.replace("\r\n", "\n")
    original = as_text(content)
    return None if original is not None and plain == original.replace("\r\n", "\n") else plain.encode()


class Desk:
    """What page and API have in common."""

    def __init__(self, parking: Parking, acts: Acts) -> None:
        self._parking, self._acts = parking, acts

    async def find(self, record: str) -> Found:
        try:
            return await self._parking.find(record)
        except (NoSuchRecord, NotParked):
            raise Refusal(404, "not_found", "Nothing is parked under this ID (any more)") from None

    async def open(self, record: str, who: Actor) -> Found:
        """With its bytes, which is noted where there is an order to note it with."""
        found = await self.find(record)
        await self._acts.noted(who.name, "parked.open", record)
        order = order_of(found.row)
        if order and found.row.reason != "wrong_partition":  # the key of that one names no order of ours yet
            note = f"opened the parked record {record}"
            await self._acts.tell(
                NoteAdded(order=order, system=STAFF, object=self._acts.object(), at=self._acts.clock.now(), text=note, by=who.name)
            )
        return found

    async def check(self, record: str, body: bytes | None) -> None:
        """Raises Refusal, with the field, for what would be parked again."""
        await self._doing(lambda: self._parking.check(record, body))

    async def replay(self, record: str, body: bytes | None, by: str) -> str:
        async def replay() -> None:
            await self._parking.check(record, body)
            await self._noted("parked.replay", record, by, "as it was" if body is None else "repaired")
            await self._parking.replay(record, body, by)

        return await self._done("replayed", replay)

    async def discard(self, record: str, by: str) -> str:
        async def discard() -> None:
            await self._noted("parked.discard", record, by, "gone")
            await self._parking.discard(record, by)

        return await self._done("discarded", discard)

    async def _done(self, word: str, act: Callable[[], Awaitable[Any]]) -> str:
        try:
            await self._doing(act)
        except NotParked:
            return "already"
        return word

    async def _noted(self, action: str, record: str, by: str, after: str) -> None:
        name, _, reason = by.partition(": ")
        before = (await self._parking.find(record)).row.reason
        await self._acts.noted(name, action, record, before=before, after=after, reason=reason)

    async def _doing(self, act: Callable[[], Awaitable[Any]]) -> None:
        try:
            await act()
        except NoSuchRecord:
            raise Refusal(404, "not_found", "This is not the ID of a parked record") from None
        except StillUnreadable as error:
            said, _ = means(error.reason)
            raise Refusal(422, "still_unreadable", f"{said}: it would be parked again ({error.reason})", field=error.detail) from None


def signed_by(who: Actor, reason: str, by: str = "") -> str:
    """Who did it, and why: what the order keeps."""
    name = by if by and who.name == LOCAL.name else who.name
    return f"{name}: {reason}" if reason else name


def parked_routes(parking: Parking, acts: Acts, pages: Pages, reader: Reader) -> list[ControllerRouterHandler]:
    desk = Desk(parking, acts)

    def answer(html: str, status: int = 200) -> Response[str]:
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=NOT_KEPT)

    def shown(request: Request[Any, Any, Any], record: str, found: Found, **more: Any) -> str:
        context: dict[str, Any] = {
            "opened": False,
            "text": None,
            "dump": "",
            "good": "",
            "bad": "",
            "field": "",
            "typed": None,
            "reason": "",
        }
        if more.pop("open", False):
            context |= {"opened": True, "text": as_text(found.content), "dump": dump(found.content)}
        context |= {"page": "parked", "actor": actor(request), "name": name_of(record), "size": len(found.content), **more}
        return pages.render("parked_record.html", p=described(record, found), **context)

    @get("/parked", media_type=MediaType.HTML)
    async def listed(request: Request[Any, Any, Any], reason: Code = "", done: Code = "") -> str:
        every = await reader.parked("", LISTED)
        rows = await reader.parked(reason, LISTED) if reason else every
        reasons: dict[str, int] = {}
        for row in every:
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
        return pages.render(
            "parked.html",
            page="parked",
            actor=actor(request),
            rows=[(row, name_of(row.id), means(row.reason)) for row in rows],
            reasons=reasons,
            reason=reason,
            cut=len(rows) >= LISTED,
            done=SAID.get(done, ""),
            now=acts.clock.now(),
        )

    @get("/parked/{name:str}")
    async def one(request: Request[Any, Any, Any], name: Name) -> Response[str]:
        record = record_of(name)
        return answer(shown(request, record, await desk.find(record)))

    @post("/parked/{name:str}", guards=[needs("operator")], status_code=200)
    async def act(request: Request[Any, Any, Any], name: Name) -> Response[str] | Redirect:
        record, who, fields = record_of(name), actor(request), await form(request)
        wanted, typed = fields.get("do", ""), fields.get("body")
        if wanted == "show":
            return answer(shown(request, record, await desk.open(record, who), open=True))
        try:
            found = (await parking.find(record)) if wanted in ("check", "replay", "discard") else await desk.find(record)
        except NotParked:
            return Redirect("/parked?done=already", status_code=303)
        except NoSuchRecord:
            raise Refusal(404, "not_found", "This is not the ID of a parked record") from None
        again = {"open": typed is not None, "typed": typed, "reason": fields.get("reason", "")}
        try:
            body = repaired(typed, found.content) if typed is not None else None
            if body is not None and len(body) > EDITED_BYTES:
                raise Refusal(413, "too_large", f"More than {EDITED_BYTES} bytes: repair it with run.py parked", field="body")
            if wanted == "check":
                await desk.check(record, body)
                return answer(shown(request, record, found, good="It can be read now. Nothing was sent yet: replay it.", **again))
            if wanted == "replay":
                reason = text(fields.get("reason", ""), "reason", REASON_CHARS)
                return Redirect(f"/parked?done={await desk.replay(record, body, signed_by(who, reason))}", status_code=303)
            if wanted == "discard":
                reason = text(fields.get("reason", ""), "reason", REASON_CHARS, least=3)
                return Redirect(f"/parked?done={await desk.discard(record, signed_by(who, reason))}", status_code=303)
        except Refusal as refusal:
            if refusal.status not in (413, 422):
                raise
            said = "Say why it is discarded" if refusal.field == "reason" and wanted == "discard" else refusal.message
            return answer(shown(request, record, found, bad=said, field=refusal.field, **again), refusal.status)
        raise Refusal(422, "invalid", "expected show, check, replay or discard", field="do")

    @get("/v1/parked/{name:str}")
    async def described_one(name: Name) -> ParkedDetail:
        record = record_of(name)
        return described(record, await desk.find(record))

    @post("/v1/parked/{name:str}", guards=[needs("operator")], status_code=200)
    async def settle(request: Request[Any, Any, Any], name: Name) -> Response[ParkedContent | Settled]:
        path, _, verb = name.rpartition(":")
        record, who = record_of(path), actor(request)
        if verb == "show":
            content = (await desk.open(record, who)).content
            said = as_text(content)
            return Response(ParkedContent(id=record, text=said or "", hex="" if said is not None else content.hex()), headers=NOT_KEPT)
        if verb not in ("check", "replay", "discard"):
            raise Refusal(404, "not_found", "Known are :show, :check, :replay and :discard")
        asked = await json_body(request, Repair)
        body = None if asked.body is None else asked.body.encode(errors="replace")
        reason = text(asked.reason, "reason", REASON_CHARS, least=3 if verb == "discard" else 0)
        by = signed_by(who, reason, text(asked.by, "by", 64))
        if verb == "replay":
            return Response(Settled(record, await desk.replay(record, body, by)))
        if verb == "discard":
            if body is not None:
                raise Refusal(422, "invalid", "nothing is put in the place of what is discarded", field="body")
            return Response(Settled(record, await desk.discard(record, by)))
        try:
            await desk.check(record, body)
        except NotParked:
            raise Refusal(404, "not_found", "Nothing is parked under this ID (any more)") from None
        return Response(Settled(record, "readable"))

    return [listed, one, act, described_one, settle]
