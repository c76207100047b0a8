"""The one place that speaks HTTP: one attempt, one budget, no redirects, no proxies from the environment.

A connector renders a Request (pure, without credentials), adds its credentials at the last moment and reads the Reply
(pure). What happened to the connection becomes TryLater or Unknown here, by one question: had the first byte of the
request been written?

URLs that customers give are called through a Guard: https only, known ports, and every address the name resolves to
must be public; the call goes to the address that was checked, so a second look-up cannot lead elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import ClassVar, TypeVar

import httpx
import msgspec

from connectors.base import Ability, Answer, ChannelSettings, Reason, Refused, SettingsError, TryLater, Unknown, is_loopback
from orders.effect import Claim

REQUEST_CAP = 1 << 20  # bytes
REPLY_CAP = 1 << 16
CONNECT_S = 5.0
RETRY_AFTER_CAP_S = 24 * 3600.0


class Request(msgspec.Struct, frozen=True):
    """What render made. Its repr names neither path, query, headers nor body: numbers and tokens live there."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def with_headers(self, *headers: tuple[str, str]) -> Request:
        return Request(self.method, self.url, self.headers + headers, self.body)

    def __repr__(self) -> str:
        return f"Request({self.method} {httpx.URL(self.url).host})"


class Reply(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str] = {}  # names in lower case
    body: bytes = b""  # at most `Http.reply_cap` bytes of it
    retry_after_s: float | None = None

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve_name(host: str, port: int) -> list[str]:
    """All addresses of a host. Raises OSError (gaierror) when there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Blocked(Exception):
    """The URL leads where we do not go."""


# Not all of these are "not global" for the ipaddress module, or only since some patch release: transition addresses
# carry an IPv4 address inside, so they could lead home.
NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16"),
        *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)

PRIVATE = tuple(
    ipaddress.ip_network(network) for network in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


class Guard:
    """Where customer-supplied URLs may lead. `private` adds this machine and private networks, there without https and on any port."""

    def __init__(self, *, private: bool = False, ports: frozenset[int] = frozenset({443, 8443}), resolve: Resolve = resolve_name) -> None:
        self.private = private
        self.ports = ports
        self.resolve = resolve

    async def addresses(self, url: httpx.URL) -> list[str]:
        """The checked addresses of a URL. Raises Blocked, or OSError when the name has none."""
        if url.userinfo:
            raise Blocked("userinfo")
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await self.resolve(url.host, port)
        if not found:
            raise socket.gaierror("no address")
        if self.private and all(is_private(address) for address in found):
            return found
        if url.scheme != "https":
            raise Blocked("scheme")
        if port not in self.ports:
            raise Blocked("port")
        if not all(is_public(address) for address in found):
            raise Blocked("address")
        return found


def is_public(address: str) -> bool:
    """Whether an address is one that anybody on the internet may be asked to call."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return ip.is_global and not any(ip in network for network in NEVER)


def is_private(address: str) -> bool:
    """This machine or a private network: not link-local, where a cloud keeps its machines' credentials."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in PRIVATE)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Calls the address that was checked, keeping the name for Host, SNI and the certificate."""

    def __init__(self, guard: Guard, inner: httpx.AsyncBaseTransport) -> None:
        self.guard = guard
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        addresses = await self.guard.addresses(request.url)
        for left, address in enumerate(addresses, start=1 - len(addresses)):
            checked = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # Host is in there, by name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
            try:
                return await self.inner.handle_async_request(checked)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if left == 0:
                    raise
        raise Blocked("address")

    async def aclose(self) -> None:
        await self.inner.aclose()


class Http:
    """A client for one provider. Failures are values; nothing it logs or returns names a URL, a header or a body."""

    def __init__(self, *, connections: int, guard: Guard | None = None, ca_file: str = "", reply_cap: int = REPLY_CAP) -> None:
        """`reply_cap`: bytes of a reply's body that are kept; the rest is not read."""
        self.connections = connections
        self.reply_cap = reply_cap
        self.guard = guard
        self.ca_file = ca_file
        self.client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        # Both write whole URLs (phone numbers in a query) or headers into their logs below this level.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        verify = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else httpx.create_ssl_context(trust_env=False)
        # A guarded client keeps no connection: one to a shared address would belong to the first name that used it.
        idle = 0 if self.guard else self.connections
        limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=idle, keepalive_expiry=20.0)
        transport: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits)
        if self.guard:
            transport = GuardedTransport(self.guard, transport)
        self.client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    async def close(self) -> None:
        if self.client is not None:
            await self.client.aclose()
            self.client = None

    async def send(self, request: Request, budget_s: float, now_ms: int) -> Reply | TryLater | Refused | Unknown:
        """One attempt. A status line that arrived is a Reply, whatever became of the rest of the body."""
        if self.client is None:
            return TryLater(Reason.CLOSED)
        if len(request.body) > REQUEST_CAP:
            return Refused(Reason.TOO_LARGE)
        written = False
        status, headers, body = 0, {}, bytearray()

        async def trace(event: str, info: object) -> None:
            nonlocal written
            written = written or event == "http11.send_request_headers.started"

        fault = Reason.DROPPED
        try:
            async with (
                asyncio.timeout(budget_s),
                self.client.stream(
                    request.method,
                    request.url,
                    headers=[*request.headers, ("Accept-Encoding", "identity")],
                    content=request.body,
                    timeout=httpx.Timeout(None, connect=CONNECT_S),
                    extensions={"trace": trace},
                ) as response,
            ):
                status, headers = response.status_code, {name.lower(): value for name, value in response.headers.items()}
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > self.reply_cap:
                        break
        except TimeoutError:
            fault = Reason.TIMEOUT
        except Blocked:
            return Refused(Reason.BLOCKED_ADDRESS)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            return TryLater(Reason.CONFIGURATION)  # nothing could be written: a header or URL of ours is no good
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            fault = before_the_first_byte(error) if not written else Reason.DROPPED
        if status:
            return Reply(status, headers, bytes(body[: self.reply_cap]), retry_after(headers.get("retry-after", ""), now_ms))
        if written:
            return Unknown(fault)
        return TryLater(Reason.CONNECT if fault is Reason.TIMEOUT else fault)


def before_the_first_byte(error: BaseException | None) -> Reason:
    """Names the failure to connect by what lies at its root."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return Reason.TLS
        if isinstance(error, socket.gaierror):
            return Reason.DNS
        error = error.__cause__ or error.__context__
    return Reason.CONNECT


def retry_after(value: str, now_ms: int) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None when it says nothing we can read."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_CAP_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None  # "-0000": no zone was given
    return min(max(0.0, moment.timestamp() - now_ms / 1000), RETRY_AFTER_CAP_S)


T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T | None:
    """A provider's JSON as a struct, or None when it is something else: a status code must be enough then."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        return None


def require_https(channel: str, url: str) -> None:
    """Credentials travel over https, except to this machine. Raises SettingsError."""
    parts = httpx.URL(url)
    if parts.userinfo or parts.scheme not in ("http", "https"):
        raise SettingsError(f"{channel}: url must be an https URL without credentials")
    if parts.scheme == "http" and not is_loopback(parts.host):
        raise SettingsError(f"{channel}: url must be https (http only on loopback)")


class HttpConnector:
    """The shape of a connector that speaks HTTP: subclasses render and read, this hands things over."""

    ability: ClassVar[Ability]
    pace_per_s: ClassVar[float]
    width: ClassVar[int]
    settings: ChannelSettings

    def __init__(self, http: Http) -> None:
        self.http = http

    async def start(self) -> None:
        await self.http.start()

    async def close(self) -> None:
        await self.http.close()

    def route(self, claim: Claim) -> str:
        return ""

    def render(self, claim: Claim) -> Request:
        """Pure, without credentials. Raises msgspec.MsgspecError or ValueError for a body that is not this channel's."""
        raise NotImplementedError

    def read(self, reply: Reply) -> Answer:
        """Pure."""
        raise NotImplementedError

    def render_lookup(self, claim: Claim) -> Request | None:
        """Asks what became of the claim; None where the provider cannot be asked."""
        return None

    def read_lookup(self, reply: Reply, claim: Claim, now_ms: int) -> Answer:
        """Done, TryLater(NOT_FOUND), or Unknown when the reply proves neither."""
        return Unknown(Reason.NO_LOOKUP)

    async def authorize(self, request: Request, claim: Claim, now_ms: int, budget_s: float) -> Request | TryLater:
        """Adds credentials. What fails here fails before the request's first byte."""
        raise NotImplementedError

    async def call(self, claim: Claim, now_ms: int, budget_s: float) -> Answer:
        began = asyncio.get_running_loop().time()
        try:
            request = self.render_lookup(claim) if claim.lookup else self.render(claim)
        except (msgspec.MsgspecError, ValueError):
            return Refused(Reason.MALFORMED)
        if request is None:
            return Unknown(Reason.NO_LOOKUP)
        ready = await self.authorize(request, claim, now_ms, budget_s)
        if isinstance(ready, TryLater):
            return ready
        left_s = budget_s - (asyncio.get_running_loop().time() - began)
        reply = await self.http.send(ready, left_s, now_ms)
        if not isinstance(reply, Reply):
            return reply
        return self.read_lookup(reply, claim, now_ms) if claim.lookup else self.read(reply)
