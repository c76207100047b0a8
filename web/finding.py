"""`/orders`: all orders by status or flag, page by page, and the few words by which one is found."""

from __future__ import annotations

import re
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.types import ControllerRouterHandler

from orders.status import WORDS
from streams.clock import Clock
from web.api import Code
from web.identity import actor
from web.pages import Pages
from web.problem import Refusal
from web.reader import Reader, Row
from web.words import order_url

SHOWN = 50
FLAGS = {"held": "On hold", "incomplete": "Incomplete", "unknown": "Unknown outcome", "finance": "For finance"}
_CURSOR = re.compile(r"([0-9]{1,15})~(\S{1,200})")


def cursor(row: Row) -> str:
    return f"{row.moved_at}~{row.id}"


def read_cursor(text: str) -> tuple[int, str] | None:
    """None for "". Raises Refusal (422) for what `cursor` did not make."""
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise Refusal(422, "invalid", "This is no place in the list: go back to its beginning", field="before")
    return int(found.group(1)), found.group(2)


def finding_routes(pages: Pages, reader: Reader, clock: Clock) -> list[ControllerRouterHandler]:
    @get("/orders", media_type=MediaType.HTML)
    async def orders(request: Request[Any, Any, Any], tag: Code = "") -> Response[str]:
        asked = request.query_params
        text = asked.get("q", "").strip()[:200]
        more = ""
        if text:
            rows = await reader.find(text)
            if len(rows) == 1:
                return Response("", status_code=303, media_type=MediaType.HTML, headers={"location": order_url(rows[0].id)})
        else:
            found = await reader.orders(tag, SHOWN + 1, read_cursor(asked.get("before", "")))
            rows = found[:SHOWN]
            more = cursor(rows[-1]) if len(found) > SHOWN else ""
        html = pages.render(
            "find.html",
            page="orders",
            actor=actor(request),
            rows=rows,
            text=text,
            tag=tag,
            status=tag,
            more=more,
            statuses={status.value: name for status, name in WORDS.items()},
            flags=FLAGS,
            now=clock.now(),
        )
        return Response(html, media_type=MediaType.HTML)

    return [orders]
