"""The web application of the gateway process, and the server it runs in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import structlog
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from litestar import Litestar, MediaType, Request, Response, asgi, get
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Receive, Scope, Send, WebSocketReceiveMessage

from connectors.store import StoreDown, StoreRefused
from metrics import Metrics
from orders.state import NewerState
from streams.clock import Clock
from streams.parking import Parking
from streams.transport import Log, LogDown
from web.actions import Actions, action_routes
from web.acts import Acts
from web.api import api_routes
from web.audit import Audit, audit_routes
from web.desk import Claims, Desk
from web.door import LOOPBACK, SIGNED, Door
from web.finding import finding_routes
from web.gateway import Gateway, Limits
from web.health import Health
from web.identity import People, actor
from web.ingest import Ingest, Inlet
from web.live import Live
from web.openapi import document
from web.pages import Pages, page_routes
from web.parked import parked_routes
from web.pay import Till, pay_routes
from web.problem import Refusal, encode_json, new_trace_id
from web.reader import Mailbox, Reader
from web.reviews import review_routes
from web.sending import Switch, sending_routes
from web.signing_in import signing_in_routes
from web.tracking import Front, tracking_routes
from web.warehouse import Warehouse, warehouse_routes

log = structlog.get_logger("web")
VERSION = "0.1.0"
HEADER_BYTES = 32 * 1024
HEADER_MS = 10_000  # for the whole head of a request, however slowly it drips
STOP_S = 10.0


def make_app(
    *,
    sink: Log,
    reader: Reader,
    clock: Clock,
    metrics: Metrics,
    health: Health,
    mailbox: Mailbox | None = None,
    people: People | None = None,
    inlets: Sequence[Inlet] = (),
    bodies: Path = Path("bodies"),
    front: Front | None = None,
    till: Till | None = None,
    warehouse: Warehouse | None = None,
    parking: Parking | None = None,
    switch: Switch | None = None,
    claims: Claims | None = None,
    limits: Limits | None = None,
    heard: Callable[[str], None] = lambda source: None,
) -> ASGIApp:
    """Opens nothing: the application's own tasks run between the server's lifespan events."""
    people = people or People()
    gateway = Gateway(sink, clock, metrics, limits)
    ingest = Ingest(inlets, sink, bodies, clock, metrics, limits, heard)
    pages = Pages(clock, has_mailbox=mailbox is not None)
    live = Live(reader, modes=switch.modes if switch is not None else None)
    acts, audit = Acts(sink, clock), Audit(sink, clock)

    @asgi("/v1/facts", copy_scope=False)
    async def facts(scope: Scope, receive: Receive, send: Send) -> None:
        await gateway(cast("HTTPScope", scope), receive, send)

    @get(["/healthz", "/readyz", "/metrics"])
    async def probes(request: Request[Any, Any, Any]) -> Response[bytes]:
        status, content_type, body = health.answer(request.url.path)
        return Response(body, status_code=status, media_type=content_type)

    described = encode_json(document(VERSION))

    @get("/openapi.json")
    async def openapi() -> Response[bytes]:
        return Response(described, media_type=MediaType.JSON)

    def failed(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        trace_id = new_trace_id()
        refusal = _refusal(error)
        if refusal.status >= 500:  # the class only: the text of an exception may quote personal data
            log.error("request failed", status=refusal.status, error=type(error).__name__, trace_id=trace_id)
        headers = {"retry-after": str(refusal.retry_after_s)} if refusal.retry_after_s else {}
        if request.url.path.startswith("/v1/") or "text/html" not in request.headers.get("accept", ""):
            body = encode_json(refusal.problem(trace_id))
            return Response(body, status_code=refusal.status, media_type=MediaType.JSON, headers=headers)
        html = pages.error(refusal.status, refusal.message, trace_id, actor(request))
        return Response(html, status_code=refusal.status, media_type=MediaType.HTML, headers=headers)

    routes = [facts, probes, openapi, *api_routes(reader), *page_routes(pages, live, reader, mailbox)]
    routes += [*signing_in_routes(people, audit, pages, clock), *audit_routes(audit, pages)]
    routes += [*action_routes(Actions(reader, acts, audit), pages, reader), *finding_routes(pages, reader, clock)]
    if front is not None:
        routes += tracking_routes(front, pages, reader)
        if till is not None:
            routes += pay_routes(front, till, pages, reader, clock)
    if warehouse is not None:
        routes += warehouse_routes(warehouse, pages, acts)
    if parking is not None:
        routes += parked_routes(parking, acts, pages, reader)
    if switch is not None:
        routes += sending_routes(switch, pages, live, acts)
    desk = Desk(reader, claims, acts, metrics) if claims is not None else None
    if desk is not None:
        routes += review_routes(desk, pages, live, clock)
    app = Litestar(
        routes,
        on_startup=[live.start, *([desk.start] if desk is not None else ())],
        on_shutdown=[live.close, *([desk.close] if desk is not None else ())],
        exception_handlers={Exception: failed},
        logging_config=None,
        openapi_config=None,
        debug=False,
    )

    pages.badges = lambda: {**live.now.counters.flags, "parked": live.now.counters.parked_now}
    pages.found({route.path for route in app.routes})
    patience_s = (limits or Limits()).read_s

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"].startswith(SIGNED):
            await ingest(scope, receive, send)
        else:
            await app(scope, patiently(receive, patience_s), send)

    return Door(inside, people, clock)


def patiently(receive: Receive, wait_s: float) -> Receive:
    """For the whole body of a request, however slowly it drips. Raises Refusal (408)."""
    loop = asyncio.get_running_loop()
    end, whole = loop.time() + wait_s, False

    async def received() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        nonlocal whole
        try:
            async with asyncio.timeout_at(None if whole else end):
                message = await receive()
        except TimeoutError:
            raise Refusal(408, "too_slow", f"the body did not arrive within {wait_s:g} s") from None
        whole = whole or not message.get("more_body", False)
        return message

    return received


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, LogDown):
        return Refusal(503, "log_down", "The log takes no records now; try again later", retry_after_s=2)
    if isinstance(error, (StoreDown, StoreRefused, ConnectionError, TimeoutError)):
        return Refusal(503, "store_down", "The store does not answer; try again later", retry_after_s=2)
    if isinstance(error, NewerState):
        return Refusal(503, "newer_state", "A newer version wrote this order; this gateway is to be upgraded")
    if isinstance(error, ValidationException):
        keys = [str(entry.get("key", "")) for entry in error.extra or () if isinstance(entry, dict)]
        return Refusal(422, "invalid", "A parameter is out of bounds", field=keys[0] if keys else "")
    if isinstance(error, HTTPException) and error.status_code < 500:
        message = {404: "Nothing is here", 405: "Not this method"}.get(error.status_code, "The request cannot be understood")
        return Refusal(error.status_code, {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request"), message)
    return Refusal(500, "internal", "Something went wrong on our side")


class WebServer:
    """Serves an ASGI application on the running loop, with the HTTP parsing done in Rust."""

    def __init__(self, app: ASGIApp, host: str, port: int, *, guarded: bool = False) -> None:
        """Port 0 takes a free one. `guarded`: the application asks who comes. Raises ValueError for an address that others can
        reach while it does not."""
        if host not in LOOPBACK and not guarded:
            raise ValueError(f"listening on {host} needs a token: set one, or listen on 127.0.0.1")
        self.host, self.port = host, port
        self._app = app
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it answers. Raises OSError when the address is taken, RuntimeError when the application does not start."""
        # granian binds with SO_REUSEPORT: without this look a second gateway would silently share our connections
        with socket.create_server((self.host, self.port), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET) as free:
            self.port = int(free.getsockname()[1])
        self._server = Server(
            self._app,
            address=self.host,
            port=self.port,
            interface=Interfaces.ASGI,
            websockets=False,
            log_enabled=False,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_MS, max_buffer_size=HEADER_BYTES),
        )
        self._task = asyncio.create_task(self._server.serve(), name="web")
        while not await self._answers():
            if self._task.done():
                raise RuntimeError("the web application did not start") from self._task.exception()
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Lets answers under way finish, at most `STOP_S`."""
        if self._server is not None and self._task is not None:
            self._server.stop()  # type: ignore[no-untyped-call]
            await asyncio.wait([self._task], timeout=STOP_S)
            self._task.cancel()

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
