"""The pages: overview, one order, messages of the demo. Server-rendered; a little script keeps them moving."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Request, Response, get
from litestar.params import PathParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.types import ControllerRouterHandler

from streams.clock import Clock
from web import words
from web.api import Code, OrderId, find_order
from web.identity import LOCAL, Actor, actor
from web.live import REMEMBERED, Live, Snapshot
from web.overview import alarms, backlog
from web.problem import Refusal
from web.reader import Mailbox, OrderDetail, Reader, Row
from web.runbook import blocks

HERE = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
SHOWN_MESSAGES = 100
NOTHING: Mapping[str, str] = MappingProxyType({})
ORDER = (
    "order_placed",
    "payment_confirmed",
    "in_progress",
    "partially_shipped",
    "shipped",
    "out_for_delivery",
    "partially_delivered",
    "delivered",
)
NAV = (  # page, address, label, and which count of `badges` it wears
    ("overview", "/", "Overview", ""),
    ("orders", "/orders", "Orders", ""),
    ("review", "/reviews", "Reviews", "review"),
    ("finance", "/finance", "Finance", "finance"),
    ("warehouse", "/warehouse", "Warehouse", ""),
    ("stock", "/stock", "Stock", ""),
    ("parked", "/parked", "Parked", "parked"),
    ("sending", "/sending", "Sending", ""),
    ("audit", "/audit", "Audit", ""),
    ("messages", "/messages", "Messages", ""),
)
RUNBOOKS = HERE.parent / "docs" / "runbooks"


class Pages:
    """Renders; knows nothing of HTTP."""

    def __init__(self, clock: Clock, has_mailbox: bool) -> None:
        self._clock = clock
        self.assets = {path.name: (TYPES[path.suffix], path.read_bytes()) for path in (HERE / "static").iterdir()}
        self._env = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        for name in ("words", "channel", "tone", "step", "count", "share", "percent", "money", "iso", "moment", "age", "left", "order_url"):
            self._env.filters[name] = getattr(words, name)
        self._has_mailbox = has_mailbox
        self._paths: Collection[str] = ()
        self.runbooks = {path.stem: path.read_text() for path in sorted(RUNBOOKS.glob("*.md"))}
        self.badges: Callable[[], Mapping[str, int]] = dict
        self._env.globals.update(asset=self._asset, nav=self._nav, milestones=words.MILESTONES, page="", actor=LOCAL)

    def found(self, paths: Collection[str]) -> None:
        """Which addresses there are: what is not there is not linked to."""
        self._paths = paths if self._has_mailbox else {path for path in paths if path != "/messages"}

    def has(self, path: str) -> bool:
        return path in self._paths

    def _nav(self, who: Actor) -> list[tuple[str, str, str, int]]:
        """Page, address, label and how many wait there; what somebody may not see is not linked to."""
        counts = self.badges()
        seen = [entry for entry in NAV if self.has(entry[1]) and (entry[0] != "audit" or who.may("operator"))]
        return [(page, href, label, counts.get(badge, 0)) for page, href, label, badge in seen]

    def overview(self, now: Snapshot, rows: Sequence[Row], status: str, actor: Actor = LOCAL) -> str:
        return self.render("overview.html", page="overview", actor=actor, **self._context(now, rows, status))

    def regions(self, now: Snapshot, rows: Sequence[Row], status: str) -> dict[str, str]:
        context = self._context(now, rows, status)
        return {name: self.render(f"{name}.html", **context) for name in ("numbers", "orders")}

    def order(self, order: OrderDetail, who: Actor, *, said: str = "", problem: str = "", typed: Mapping[str, str] = NOTHING) -> str:
        """`said`: what was just done; `problem`: why what was `typed` was not."""
        more = {"said": said, "problem": problem, "typed": typed, "warning": words.warning(order), "once": secrets.token_hex(8)}
        return self.render("order.html", page="order", o=order, actor=who, **more)

    def order_body(self, order: OrderDetail) -> str:
        return self.render("order_body.html", o=order)

    def messages(self, received: Sequence[Any], actor: Actor = LOCAL) -> str:
        return self.render("messages.html", page="messages", actor=actor, received=received)

    def error(self, status: int, message: str, trace_id: str, actor: Actor = LOCAL) -> str:
        return self.render("error.html", status=status, message=message, trace_id=trace_id, actor=actor)

    def _context(self, now: Snapshot, rows: Sequence[Row], status: str) -> dict[str, Any]:
        line, area = words.spark(now.rates)
        recent = now.rates[-3:]  # a second is a short time: the eye wants three
        flow = {
            "rate": sum(recent) / len(recent) if recent else 0.0,
            "peak": max(now.rates, default=0.0),
            "seconds": REMEMBERED,
            "line": line,
            "area": area,
        }
        return {
            "n": now.counters,
            "flow": flow,
            "stack": _stack(now.counters.orders),
            "rows": rows,
            "status": status,
            "stale": now.stale,
            "now": self._clock.now(),
            "alarms": alarms(now, self._clock.now(), self.has),
            "backlog": backlog(now.counters, self.has),
            "modes": now.modes,
            "told": {**{name: {} for name in (now.modes.channels if now.modes is not None else ())}, **now.counters.messages},
        }

    def _asset(self, name: str) -> str:
        return f"/static/{name}?v={blake2b(self.assets[name][1], digest_size=4).hexdigest()}"

    def render(self, template: str, **context: Any) -> str:
        return self._env.get_template(template).render(**context)


def _stack(orders: dict[str, int]) -> list[dict[str, Any]]:
    """The parts of the bar, along the way first, then what left it."""
    whole = sum(orders.values())
    parts: list[dict[str, Any]] = []
    x = 0.0
    for status in sorted(orders, key=lambda code: (ORDER.index(code) if code in ORDER else len(ORDER), code)):
        width = 1000 * orders[status] / whole if whole else 0.0
        parts.append({"status": status, "count": orders[status], "x": f"{x:.2f}", "width": f"{width:.2f}"})
        x += width
    return parts


def page_routes(pages: Pages, live: Live, reader: Reader, mailbox: Mailbox | None) -> list[ControllerRouterHandler]:
    @get("/", media_type=MediaType.HTML)
    async def overview(request: Request[Any, Any, Any], status: Code = "") -> str:
        return pages.overview(live.now, await live.orders(status), status, actor(request))

    @get("/live")
    async def stream(status: Code = "") -> ServerSentEvent:
        admit(live)
        return ServerSentEvent(events(live.overview(status, lambda now, rows: pages.regions(now, rows, status))))

    @get("/orders/{order_id:str}", media_type=MediaType.HTML)
    async def order(request: Request[Any, Any, Any], order_id: OrderId, done: Code = "") -> str:
        return pages.order(await find_order(reader, order_id), actor(request), said=words.DONE.get(done, ""))

    @get("/orders/{order_id:str}/live")
    async def order_stream(order_id: OrderId) -> ServerSentEvent:
        admit(live)
        await find_order(reader, order_id)
        return ServerSentEvent(events(live.order(order_id, pages.order_body)))

    @get("/messages", media_type=MediaType.HTML)
    async def messages(request: Request[Any, Any, Any]) -> str:
        if mailbox is None:
            raise Refusal(404, "not_found", "There are no stand-ins here: messages really leave")
        return pages.messages(await mailbox.received(SHOWN_MESSAGES), actor(request))

    @get("/runbooks/{name:str}", media_type=MediaType.HTML)
    async def runbook(request: Request[Any, Any, Any], name: Annotated[str, PathParameter()]) -> str:
        if name not in pages.runbooks:
            raise Refusal(404, "not_found", "No such runbook")
        return pages.render("runbook.html", name=name, blocks=blocks(pages.runbooks[name], pages.runbooks), actor=actor(request))

    @get("/static/{name:str}")
    async def asset(name: Annotated[str, PathParameter()]) -> Response[bytes]:
        if name not in pages.assets:
            raise Refusal(404, "not_found", "No such file")
        media_type, content = pages.assets[name]
        return Response(content, media_type=media_type, headers={"cache-control": "public, max-age=31536000, immutable"})

    return [overview, stream, order, order_stream, messages, runbook, asset]


def admit(live: Live) -> None:
    if live.full:
        raise Refusal(503, "too_many", "Too many open pages", retry_after_s=10)


async def events(source: AsyncIterator[tuple[str, str]]) -> AsyncIterator[ServerSentEventMessage]:
    async for region, html in source:
        yield ServerSentEventMessage(event=region, data=html)
