"""The outermost layer of every request: who may come in at all, and what every answer carries.

On loopback with nobody configured anybody on the machine may ask, but no web page of another site: a browser says by
`Origin` where a request comes from, and by `Host` whom it believes to talk to (DNS rebinding). Else people have a session
(a cookie, see `web.identity`), and machines show a token, as `Authorization: Bearer …` or as the password that a browser asks for.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from streams.clock import Clock
from web.identity import LOCAL, Actor, People, cookie_of, must
from web.problem import Refusal, encode_json, new_trace_id

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
OPEN = frozenset({"/healthz", "/readyz"})  # probes have no token, and learn nothing from these
SIGNED = "/v1/ingest/"  # vendors show no token and know us by our public name: the signature says who they are
LINKED = ("/track/", "/t/", "/static/track.css", "/static/icon.svg", "/brand.css")  # so do customers: the link that they hold is signed
PAYING = "/pay/"  # as well, and they send a form there
SIGN_IN = "/sign-in"
UNSIGNED = (SIGN_IN, "/static/")  # what somebody needs who is about to sign in
SAFE = ("GET", "HEAD")
FACTS = "/v1/facts"  # says anything about any order
POLICY = (  # what a page of ours may load: our own files, nothing inline and nothing from elsewhere
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A browser holds a form's redirects against the policy too, and paying goes on at the gateway's.
PAYING_POLICY = POLICY.replace(b"form-action 'self'", b"form-action 'self' https:")
# "no-referrer" would make browsers send `Origin: null` with our own forms
HEADERS = [(b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
PAYING_HEADERS = [(b"content-security-policy", PAYING_POLICY), *HEADERS[1:]]


class Door:
    def __init__(self, app: ASGIApp, people: People, clock: Clock) -> None:
        self._app, self._people, self._clock = app, people, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:  # the server's lifespan events
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refusal as refusal:
            if refusal.status == 401 and self._people.sign_in and _wants_page(scope):
                await _send_to_sign_in(scope, send)
            else:
                await _turn_away(refusal, send, basic=not self._people.sign_in)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *(PAYING_HEADERS if scope["path"].startswith(PAYING) else HEADERS)]
            await send(message)

        await self._app(scope, receive, dressed)

    def _check(self, scope: HTTPScope) -> None:
        path, changes = scope["path"], scope["method"] not in SAFE
        if (
            path.startswith(SIGNED)
            or (path.startswith(LINKED) and not changes)
            or (path.startswith(PAYING) and (not changes or scope["method"] == "POST"))
        ):
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._people.guarded and _name(host) not in LOOPBACK:
            raise Refusal(421, "wrong_host", "this server answers on its loopback address only")
        origin = headers.get(b"origin")
        if origin is not None and changes and _authority(origin.decode("latin-1")) != host:
            raise Refusal(403, "foreign_origin", "requests from pages of another site are refused")
        who = self._actor(headers) if self._people.guarded else LOCAL
        if who is not None:
            if changes and path == FACTS:
                must(who, "operator")
            scope["actor"] = who  # type: ignore[typeddict-unknown-key]
        elif path not in OPEN and not (self._people.sign_in and path.startswith(UNSIGNED)):
            raise Refusal(401, "unauthorized", "a token is needed" if not self._people.sign_in else "a token is needed, or a session")

    def _actor(self, headers: dict[bytes, bytes]) -> Actor | None:
        shown = headers.get(b"authorization", b"")
        if shown:
            return self._people.machine(shown)
        return self._people.session(cookie_of(headers.get(b"cookie", b"")), self._clock.now())


def _name(host: str) -> str:
    """The host without its port; IPv6 without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _wants_page(scope: HTTPScope) -> bool:
    accept = dict(scope["headers"]).get(b"accept", b"")
    return scope["method"] in SAFE and not scope["path"].startswith("/v1/") and b"text/html" in accept


async def _send_to_sign_in(scope: HTTPScope, send: Send) -> None:
    query = scope["query_string"].decode("latin-1")
    wanted = quote(scope["path"]) + (f"?{query}" if query else "")
    where = f"{SIGN_IN}?next={quote(wanted, safe='')}".encode()
    start: Any = {"type": "http.response.start", "status": 303, "headers": [(b"location", where), (b"content-length", b"0"), *HEADERS]}
    await send(start)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _turn_away(refusal: Refusal, send: Send, basic: bool) -> None:
    body = encode_json(refusal.problem(new_trace_id()))
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *HEADERS,
    ]
    if refusal.status == 401:
        asked = b'Basic realm="orderflow", charset="UTF-8"' if basic else b'Bearer realm="orderflow"'
        headers.append((b"www-authenticate", asked))
    start: Any = {"type": "http.response.start", "status": refusal.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
