"""The outermost layer of every request: who may come in at all, and what every answer carries.

On loopback without a token anybody on the machine may ask, but no web page of another site: a browser says by `Origin`
where a request comes from, and by `Host` whom it believes to talk to (DNS rebinding). Anywhere else a token is needed,
as `Authorization: Bearer …` or as the password that a browser asks for.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from typing import Any
from urllib.parse import urlsplit

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from web.problem import Refusal, encode_json, new_trace_id

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
OPEN = frozenset({"/healthz", "/readyz"})  # probes have no token, and learn nothing from these
SIGNED = "/v1/ingest/"  # vendors show no token and know us by our public name: the signature says who they are
LINKED = ("/track/", "/t/", "/static/track.css", "/static/icon.svg", "/brand.css")  # so do customers: the link that they hold is signed
POLICY = (  # what a page of ours may load: our own files, nothing inline and nothing from elsewhere
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# with "no-referrer" a browser would send `Origin: null` with our own forms, which is what a foreign page can send too
HEADERS = [(b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]


class Door:
    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:  # the server's lifespan events
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refusal as refusal:
            await _turn_away(refusal, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self._app(scope, receive, dressed)

    def _check(self, scope: HTTPScope) -> None:
        if scope["path"].startswith(SIGNED) or (scope["path"].startswith(LINKED) and scope["method"] in ("GET", "HEAD")):
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._token and _name(host) not in LOOPBACK:
            raise Refusal(421, "wrong_host", "this server answers on its loopback address only")
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD") and _authority(origin.decode("latin-1")) != host:
            raise Refusal(403, "foreign_origin", "requests from pages of another site are refused")
        if self._token and scope["path"] not in OPEN and not shows(headers.get(b"authorization", b""), self._token):
            raise Refusal(401, "unauthorized", "a token is needed")


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


def shows(authorization: bytes, token: bytes) -> bool:
    """Whether the header carries the token, as bearer or as the password that a browser asked for; in constant time."""
    scheme, _, value = authorization.partition(b" ")
    shown = b""
    if scheme.lower() == b"bearer":
        shown = value.strip()
    elif scheme.lower() == b"basic":
        with contextlib.suppress(binascii.Error):
            shown = base64.b64decode(value, validate=True).partition(b":")[2]
    return hmac.compare_digest(shown, token)


async def _turn_away(refusal: Refusal, send: Send) -> None:
    body = encode_json(refusal.problem(new_trace_id()))
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *HEADERS,
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="orderflow", charset="UTF-8"'))
    start: Any = {"type": "http.response.start", "status": refusal.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
