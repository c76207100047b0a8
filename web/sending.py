"""`/sending`: what leaves, what is only observed, and who lets it go; the same as `/v1/modes` and `/v1/stop` for machines.

One document in the store says it, that of `run.py go-live`; a change counts in all workers within 2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import msgspec
import structlog
from litestar import MediaType, Request, Response, delete, get, post, put
from litestar.params import PathParameter
from litestar.response import Redirect
from litestar.types import ControllerRouterHandler

from streams.dispatch import Modes
from streams.modes import MODES, Observed, Outdated, in_words, with_mode
from web.acts import Acts
from web.api import Code
from web.body import json_body, text
from web.identity import actor, form, needs
from web.live import Live
from web.pages import Pages
from web.preview import Preview
from web.problem import Refusal

log = structlog.get_logger("sending")
NOT_KEPT = {"cache-control": "no-store"}
REASON_CHARS = 200
MEANS = {
    "observe": "Nothing is sent. What would have been is counted, and never sent later.",
    "sandbox": "Sent to the provider's sandbox, as far as the configuration names one.",
    "live": "Really sent.",
    "stopped": "Nothing is sent. What is wanted waits, and leaves afterwards if it is still true and not too old.",
}
SAID = {
    "changed": "Changed. All workers know within two seconds.",
    "stopped": "Everything is stopped. What is wanted waits.",
    "started": "Sending goes on. What waited leaves if it is still true and not too old.",
}
Name = Annotated[str, PathParameter(max_length=64)]


class Switch(Protocol):
    """What the pages look at and change. Raises StoreDown."""

    async def modes(self) -> Modes: ...

    async def change(self, by: str, change: Callable[[Modes], Modes], seen: int | None = None) -> Modes:
        """Raises streams.modes.Outdated."""

    async def observed(self, channel: str) -> Observed: ...

    async def preview(self, channel: str) -> Preview | None:
        """Of one of the orders that moved last."""


class ModeWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`version`: of the document that whoever asks has seen; none: whatever it is now."""

    mode: str
    version: int | None = None


class StopWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str


def _known(channel: str) -> str:
    if channel not in MODES:
        raise Refusal(404, "not_found", "No channel of this name")
    return channel


def sending_routes(switch: Switch, pages: Pages, live: Live, acts: Acts) -> list[ControllerRouterHandler]:
    def answer(html: str, status: int = 200) -> Response[str]:
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=NOT_KEPT)

    async def change(by: str, how: Callable[[Modes], Modes], seen: int | None = None) -> Modes:
        before = await switch.modes()
        wanted = how(before)
        stops = wanted.stop != "" and wanted.stop != before.stop
        try:
            await acts.noted(by, "modes.change", "sending", before=in_words(before), after=in_words(wanted), reason=wanted.stop)
        except Refusal:
            if not stops:
                raise
            log.warning("everything is stopped without the audit, which the log does not take now", by=by)  # it must work all the same
        try:
            modes = await switch.change(by, how, seen)
        except Outdated:
            raise Refusal(409, "outdated", "Somebody has changed the modes meanwhile: look again", field="version") from None
        log.info("modes changed", version=modes.version, by=by, stop=bool(modes.stop), channels=modes.channels)
        return modes

    def to(channel: str, mode: str) -> Callable[[Modes], Modes]:
        if mode not in MODES[channel]:
            raise Refusal(422, "invalid", f"expected {', '.join(MODES[channel])}", field="mode")
        return lambda modes: with_mode(modes, channel, mode)

    async def overview(
        request: Request[Any, Any, Any], status: int = 200, done: str = "", bad: str = "", reason: str = ""
    ) -> Response[str]:
        modes = await switch.modes()
        told = live.now.counters.messages
        rows = [(name, modes.channels.get(name, modes.default), told.get(name, {})) for name in MODES]
        context = {"modes": modes, "rows": rows, "means": MEANS, "good": SAID.get(done, ""), "bad": bad, "reason": reason}
        waits = live.now.counters.scheduled
        return answer(pages.render("sending.html", page="sending", actor=actor(request), waits=waits, **context), status)

    async def channel_page(
        request: Request[Any, Any, Any], channel: str, bad: str = "", chosen: str = "", status: int = 200
    ) -> Response[str]:
        modes, who = await switch.modes(), actor(request)
        return answer(
            pages.render(
                "sending_channel.html",
                page="sending",
                actor=who,
                channel_code=channel,
                modes=modes,
                mode=modes.channels.get(channel, modes.default),
                chosen=chosen,
                choices=MODES[channel],
                means=MEANS,
                told=live.now.counters.messages.get(channel, {}),
                observed=await switch.observed(channel),
                preview=await switch.preview(channel) if who.may("operator") else None,
                bad=bad,
            ),
            status,
        )

    @get("/sending")
    async def look(request: Request[Any, Any, Any], done: Code = "") -> Response[str]:
        return await overview(request, done=done)

    @post("/sending", guards=[needs("operator")], status_code=200)
    async def stop_or_start(request: Request[Any, Any, Any]) -> Response[str] | Redirect:
        fields, who = await form(request), actor(request).name
        if fields.get("do") == "start":
            await change(who, lambda modes: msgspec.structs.replace(modes, stop=""))
            return Redirect("/sending?done=started", status_code=303)
        try:
            reason = text(fields.get("reason", ""), "reason", REASON_CHARS, least=3)
        except Refusal as refusal:
            return await overview(request, refusal.status, bad="Say why everything is stopped", reason=fields.get("reason", ""))
        await change(who, lambda modes: msgspec.structs.replace(modes, stop=reason))
        return Redirect("/sending?done=stopped", status_code=303)

    @get("/sending/{channel:str}")
    async def one(request: Request[Any, Any, Any], channel: Name) -> Response[str]:
        return await channel_page(request, _known(channel))

    @post("/sending/{channel:str}", guards=[needs("operator")], status_code=200)
    async def turn(request: Request[Any, Any, Any], channel: Name) -> Response[str] | Redirect:
        fields = await form(request)
        mode, seen = fields.get("mode", ""), fields.get("version", "")
        try:
            how = to(_known(channel), mode)
            if mode == "live" and fields.get("confirm", "").strip() != channel:
                raise Refusal(422, "invalid", f"From then on it really sends: write {channel} to confirm", field="confirm")
            await change(actor(request).name, how, int(seen) if seen.isascii() and seen.isdigit() and len(seen) < 19 else None)
        except Refusal as refusal:
            if refusal.status not in (409, 422):
                raise
            return await channel_page(request, channel, refusal.message, mode, refusal.status)
        return Redirect("/sending?done=changed", status_code=303)

    @get("/v1/modes")
    async def modes() -> Modes:
        return await switch.modes()

    @put("/v1/modes/{channel:str}", guards=[needs("operator")])
    async def put_mode(request: Request[Any, Any, Any], channel: Name) -> Modes:
        asked = await json_body(request, ModeWanted)
        return await change(actor(request).name, to(_known(channel), asked.mode), asked.version)

    @put("/v1/stop", guards=[needs("operator")])
    async def stop(request: Request[Any, Any, Any]) -> Modes:
        reason = text((await json_body(request, StopWanted)).reason, "reason", REASON_CHARS, least=3)
        return await change(actor(request).name, lambda modes: msgspec.structs.replace(modes, stop=reason))

    @delete("/v1/stop", guards=[needs("operator")], status_code=200)
    async def start(request: Request[Any, Any, Any]) -> Modes:
        return await change(actor(request).name, lambda modes: msgspec.structs.replace(modes, stop=""))

    return [look, stop_or_start, one, turn, modes, put_mode, stop, start]
