"""The queues for people: `/v1/reviews` for machines, `/reviews` and `/finance` for those who decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import msgspec
from litestar import MediaType, Request, Response, get, post
from litestar.params import PathParameter, QueryParameter
from litestar.response import Redirect, ServerSentEvent
from litestar.types import ControllerRouterHandler

from streams.clock import Clock
from web.admission import read_as
from web.api import Limit
from web.desk import QUEUES, Decided, Desk, Held, Settlement, Verdict, Verdicts, why_confirm
from web.identity import actor, form, needs
from web.live import Live
from web.pages import Pages, admit, events
from web.problem import Refusal
from web.reader import Waiting

Queue = Annotated[str, QueryParameter(pattern=f"^({'|'.join(QUEUES)})$")]
At = Annotated[str, QueryParameter(max_length=512)]
PATHS = {"review": "/reviews", "finance": "/finance"}
ROLES = {"review": "reviewer", "finance": "operator"}  # who may do something about it
TICKED = "also."  # a ticked order's field
HOLD, PROBLEM = "hold.", "problem."

_verdict = msgspec.json.Decoder(Verdict).decode
_verdicts = msgspec.json.Decoder(Verdicts).decode
_settlement = msgspec.json.Decoder(Settlement).decode


class Said(NamedTuple):
    """What became of what somebody just did."""

    problem: str = ""
    results: Sequence[Decided] = ()


def review_routes(desk: Desk, pages: Pages, live: Live, clock: Clock) -> list[ControllerRouterHandler]:
    @get("/v1/reviews")
    async def reviews(queue: Queue = "review", limit: Limit = 50) -> Sequence[Waiting]:
        return await desk.rows(queue, limit)

    @post("/v1/reviews:decide", guards=[needs("reviewer")], status_code=200)
    async def decide_all(request: Request[Any, Any, Any]) -> Sequence[Decided]:
        body = await request.body()
        return await desk.decide_all(actor(request).name, read_as(lambda: _verdicts(body)))

    @post("/v1/reviews/{target:str}", status_code=200)
    async def act(request: Request[Any, Any, Any], target: Annotated[str, PathParameter()]) -> Held | Decided:
        order_id, _, verb = target.rpartition(":")
        role = {"claim": "reviewer", "release": "reviewer", "decide": "reviewer", "settle": "operator"}.get(verb)
        if role is None or not order_id:
            raise Refusal(404, "not_found", "Nothing is here: an order's ID is followed by :claim, :release, :decide or :settle")
        me = actor(request)
        if not me.may(role):
            raise Refusal(403, "forbidden", f"This needs the role {role}")
        if verb == "claim":
            return await desk.claim(order_id, me.name)
        if verb == "release":
            return await desk.release(order_id, me.name)
        body = await request.body()
        if verb == "decide":
            return await desk.decide(order_id, me.name, read_as(lambda: _verdict(body)))
        return await desk.settle(order_id, me.name, read_as(lambda: _settlement(body)))

    async def page(request: Request[Any, Any, Any], queue: str, at: str, said: Said | None = None) -> str:
        me, now = actor(request), clock.now()
        rows = await desk.rows(queue)
        here = next((place for place, its in enumerate(rows) if its.id == at), -1)
        shown = at or (rows[0].id if rows else "")
        return pages.render(
            "queue.html",
            page=queue,
            queue=queue,
            rows=rows,
            now=now,
            path=PATHS[queue],
            current=await desk.evidence(shown, queue, me.name) if shown else None,
            at=shown,
            next=next((its.id for its in [*rows[here + 1 :], *rows[:here]] if its.id != shown), ""),
            said=said or Said(),
            actor=me,
            may=me.may(ROLES[queue]),
            why_confirm=why_confirm,
        )

    @get("/reviews", media_type=MediaType.HTML)
    async def review_page(request: Request[Any, Any, Any], at: At = "") -> str:
        return await page(request, "review", at)

    @get("/finance", media_type=MediaType.HTML)
    async def finance_page(request: Request[Any, Any, Any], at: At = "") -> str:
        return await page(request, "finance", at)

    def stream(request: Request[Any, Any, Any], queue: str, at: str) -> ServerSentEvent:
        admit(live)
        me = actor(request)

        async def render() -> str:
            rows = await desk.shared(queue)
            return pages.render("queue_rows.html", queue=queue, rows=rows, now=clock.now(), path=PATHS[queue], at=at, actor=me)

        return ServerSentEvent(events(live.region("queue", render)))

    @get("/reviews/live")
    async def review_stream(request: Request[Any, Any, Any], at: At = "") -> ServerSentEvent:
        return stream(request, "review", at)

    @get("/finance/live")
    async def finance_stream(request: Request[Any, Any, Any], at: At = "") -> ServerSentEvent:
        return stream(request, "finance", at)

    async def posted(request: Request[Any, Any, Any], queue: str, fields: Mapping[str, str]) -> Response[Any]:
        """Does what the form says; then the next order, the same one, or the page with what went wrong."""
        at = fields.get("order", "")
        said, status = Said(), 200
        try:
            if queue == "review":
                said, onward = await _review(desk, actor(request).name, fields, at)
            else:
                said, onward = await _finance(desk, actor(request).name, fields, at)
        except Refusal as refusal:
            said, status, onward = Said(problem=_in_words(refusal)), refusal.status, at
        if said != Said():
            return Response(await page(request, queue, onward, said), media_type=MediaType.HTML, status_code=status)
        return Redirect(f"{PATHS[queue]}?at={quote(onward, safe='')}" if onward else PATHS[queue], status_code=303)

    @post("/reviews", guards=[needs("reviewer")])
    async def review_posted(request: Request[Any, Any, Any]) -> Response[Any]:
        return await posted(request, "review", await form(request))

    @post("/finance", guards=[needs("operator")])
    async def finance_posted(request: Request[Any, Any, Any]) -> Response[Any]:
        return await posted(request, "finance", await form(request))

    return [
        reviews, decide_all, act, review_page, finance_page, review_stream, finance_stream, review_posted, finance_posted,
    ]  # fmt: skip


async def _review(desk: Desk, by: str, fields: Mapping[str, str], at: str) -> tuple[Said, str]:
    """What is to be shown, and which order comes then."""
    match fields.get("do"):
        case "claim":
            await desk.claim(at, by)
            return Said(), at
        case "release":
            await desk.release(at, by)
            return Said(), at
        case "decide":
            said = {"decision": fields.get("decision", ""), "reason": fields.get("reason", "").strip(), "confirm": "confirm" in fields}
            if ticked := _named(fields, TICKED):
                results = await desk.decide_all(by, read_as(lambda: msgspec.convert({**said, "orders": ticked}, Verdicts)))
                return Said(results=results), ""
            verdict = read_as(lambda: msgspec.convert({**said, "release": _named(fields, HOLD)}, Verdict))
            await desk.decide(at, by, verdict)
            return Said(), fields.get("next", "")
    raise Refusal(422, "invalid", "The form says neither claim, release nor decide", field="do")


async def _finance(desk: Desk, by: str, fields: Mapping[str, str], at: str) -> tuple[Said, str]:
    reason = fields.get("reason", "").strip()
    settlement = read_as(lambda: msgspec.convert({"problems": _named(fields, PROBLEM) or ("",), "reason": reason}, Settlement))
    if fields.get("do") == "note":
        await desk.note(at, by, settlement.reason)
        return Said(), at
    await desk.settle(at, by, settlement)
    return Said(), fields.get("next", "")


def _in_words(refusal: Refusal) -> str:
    if refusal.field == "reason":
        return "Say why, in at most 500 characters"
    return f"{refusal.field}: {refusal.message}" if refusal.code == "invalid" and refusal.field else refusal.message


def _named(fields: Mapping[str, str], prefix: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix) for name in fields if name.startswith(prefix))
