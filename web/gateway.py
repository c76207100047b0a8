"""`POST /v1/facts`: checked, appended to the log, and only then answered 202.

Correctness rests on a fact's natural key: a fact that is sent twice is merged once. `Idempotency-Key` is a courtesy on
top of it: the first answer to a key is kept in memory, for as long as there is room and this process lives.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import msgspec
import structlog
from litestar.types import HTTPScope, Receive, Send

from metrics import Metrics
from orders.fact import AnyFact, encode_fact
from streams.clock import Clock
from streams.transport import Log, LogDown
from web.admission import admit
from web.identity import LOCAL, Actor
from web.problem import Refusal, encode_json, new_trace_id

log = structlog.get_logger("gateway")
VENDOR = "api"
KEY_CHARS = 200  # of an Idempotency-Key
LINES_PER_BREATH = 256  # lines checked before others on this loop get their turn


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may ask of us."""

    fact_bytes: int = 256 * 1024  # one fact
    body_bytes: int = 4 * 1024 * 1024  # an NDJSON body
    delivery_bytes: int = 8 * 1024 * 1024  # a vendor's webhook
    logged_bytes: int = 960 * 1024  # of it in the log, with its envelope below the 1 MiB that brokers take; larger ones lie beside it
    drain_bytes: int = 16 * 1024 * 1024
    lines: int = 10_000
    read_s: float = 10.0  # for the whole body, however slowly it drips
    append_s: float = 10.0
    rate: float = 500.0  # requests a second of one caller
    callers: int = 10_000  # remembered
    retry_after_s: int = 2
    remembered: int = 10_000  # answers by Idempotency-Key


class Accepted(msgspec.Struct, frozen=True):
    """Every fact of the request is in the log."""

    accepted: int
    trace_id: str


class Answer(msgspec.Struct, frozen=True, gc=False):
    status: int
    body: bytes
    retry_after_s: int = 0
    outcome: str = "accepted"  # the metric's word

    @property
    def final(self) -> bool:
        """Asking again would be answered the same."""
        return self.status < 500 and self.status != 408


class Bucket:
    """What one source may still bring now: so many a second, twice as many at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._left, self._at = rate, 2 * rate, now

    def take(self, now: float) -> bool:
        self._left = min(2 * self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Callers:
    """A bucket for each caller: name and address; those not heard of for longest are forgotten."""

    def __init__(self, rate: float, most: int) -> None:
        self._rate, self._most = rate, most
        self._known: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def admit(self, caller: tuple[str, str], now: float) -> bool:
        bucket = self._known.get(caller)
        if bucket is None:
            bucket = self._known[caller] = Bucket(self._rate, now)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(caller)
        return bucket.take(now)


class Memory:
    """First answers by Idempotency-Key, the oldest forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[str, tuple[bytes, asyncio.Future[Answer]]] = OrderedDict()

    def get(self, key: str) -> tuple[bytes, asyncio.Future[Answer]] | None:
        return self._known.get(key)

    async def once(
        self, key: str, digest: bytes, take_in: Callable[[], Awaitable[Answer]], trace_id: str, of: str = ""
    ) -> tuple[Answer, bool]:
        """The answer of the first request with this key, and whether that was another one. Raises Refusal for another body.

        `of`: whose keys these are; nobody is given what another one was answered.
        """
        if not 0 < len(key) <= KEY_CHARS:
            raise Refusal(422, "invalid", f"expected 1 to {KEY_CHARS} characters", field="Idempotency-Key")
        key = f"{of}\x1f{key}"
        known = self.get(key)
        if known is not None:
            if known[0] != digest:
                raise Refusal(422, "key_reused", "this key was used with another body", field="Idempotency-Key")
            return await asyncio.shield(known[1]), True
        future = self.begin(key, digest)
        try:
            answer = await take_in()
            future.set_result(answer)
        except BaseException as error:  # cancelled, or a bug: whoever waits on this answer may try again
            future.set_result(refused(Refusal(503, "retry", "the first request with this key failed", retry_after_s=1), trace_id))
            self.forget(key, future)
            raise error
        if not answer.final:
            self.forget(key, future)
        return answer, False

    def begin(self, key: str, digest: bytes) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._known[key] = (digest, future)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
        return future

    def forget(self, key: str, future: asyncio.Future[Answer]) -> None:
        known = self._known.get(key)
        if known is not None and known[1] is future:
            del self._known[key]


class Gateway:
    """An ASGI application for one path."""

    def __init__(self, sink: Log, clock: Clock, metrics: Metrics, limits: Limits | None = None) -> None:
        self._sink, self._clock, self._metrics = sink, clock, metrics
        self._limits = limits or Limits()
        self._memory = Memory(self._limits.remembered)
        self._callers = Callers(self._limits.rate, self._limits.callers)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        trace_id = new_trace_id()
        began = time.monotonic()
        replayed = False
        try:
            if scope["method"] != "POST":
                raise Refusal(405, "method_not_allowed", "only POST is understood here")
            if not self._callers.admit(_caller(scope), began):
                raise Refusal(429, "rate_limited", "more requests than one caller may make", retry_after_s=self._limits.retry_after_s)
            headers = dict(scope["headers"])
            lines = _is_lines(headers.get(b"content-type", b""))
            body = await read_body(headers, receive, self._limits.body_bytes if lines else self._limits.fact_bytes, self._limits)
            began = time.monotonic()
            answer, replayed = await self._once(headers.get(b"idempotency-key"), body, lines, trace_id)
        except Refusal as refusal:
            answer = refused(refusal, trace_id)
        except Gone:
            return
        except Exception as error:  # noqa: BLE001 - a bug; its text may quote the body, so it is not written anywhere
            log.error("request failed", error=type(error).__name__, trace_id=trace_id)
            answer = refused(Refusal(500, "internal", "something went wrong on our side"), trace_id)
        self._metrics.ingest_events(VENDOR, "replayed" if replayed else answer.outcome).inc()
        if answer.status == 202:
            self._metrics.ingest_ack_duration(VENDOR).observe(time.monotonic() - began)
        else:
            log.info("request refused", status=answer.status, outcome=answer.outcome, trace_id=trace_id)
        await respond(send, answer, trace_id)

    # --- once per key
    async def _once(self, raw_key: bytes | None, body: bytes, lines: bool, trace_id: str) -> tuple[Answer, bool]:
        if raw_key is None:
            return await self._take_in(body, lines, trace_id), False
        digest = blake2b(b"L" + body if lines else b"J" + body, digest_size=16).digest()
        return await self._memory.once(raw_key.decode("latin-1"), digest, lambda: self._take_in(body, lines, trace_id), trace_id)

    async def _take_in(self, body: bytes, lines: bool, trace_id: str) -> Answer:
        try:
            now = self._clock.now()
            facts = await self._admit_lines(body, now) if lines else [admit(body, now)]
            await self._append(facts)
        except Refusal as refusal:
            return refused(refusal, trace_id)
        return Answer(status=202, body=encode_json(Accepted(accepted=len(facts), trace_id=trace_id)))

    async def _admit_lines(self, body: bytes, now: int) -> list[AnyFact]:
        """All lines or none: whoever is refused can send the same body again, mended."""
        facts: list[AnyFact] = []
        for number, line in enumerate(body.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                if len(line) > self._limits.fact_bytes:
                    raise _too_large(self._limits.fact_bytes)
                if len(facts) >= self._limits.lines:
                    raise Refusal(413, "too_large", f"more than {self._limits.lines} facts")
                facts.append(admit(line, now))
            except Refusal as refusal:
                refusal.line = number
                raise
            if number % LINES_PER_BREATH == 0:
                await asyncio.sleep(0)
        if not facts:
            raise Refusal(400, "malformed", "the body holds no fact")
        return facts

    async def _append(self, facts: list[AnyFact]) -> None:
        try:
            async with asyncio.timeout(self._limits.append_s):
                await self._sink.append("facts", [(fact.order.encode(), encode_fact(fact)) for fact in facts])
        except (LogDown, TimeoutError):
            raise Refusal(503, "log_down", "nothing was promised; send it again later", retry_after_s=self._limits.retry_after_s) from None


class Gone(Exception):
    """The client left before its body was complete."""


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int, limits: Limits) -> bytes:
    """At most `limit` bytes are kept, whatever is announced or comes in chunks.

    What is above it is read on and thrown away, up to `drain_bytes`: a client whose connection is cut while it is
    still sending never sees the 413. What announces even more is refused before it is read. Raises Refusal, Gone.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and (len(announced) > 12 or int(announced) > limits.drain_bytes):
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.read_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                if message["type"] != "http.request":
                    continue
                part = message.get("body", b"")
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > limits.drain_bytes:
                    raise _too_large(limit)
                else:
                    parts.clear()
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Refusal(408, "too_slow", f"the body did not arrive within {limits.read_s:g} s") from None
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _caller(scope: HTTPScope) -> tuple[str, str]:
    who, client = scope.get("actor", LOCAL), scope.get("client")
    return who.name if isinstance(who, Actor) else "", client[0] if client else ""


def _is_lines(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type in (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"more than {limit} bytes")


OUTCOMES = {
    400: "malformed",
    401: "bad_signature",
    404: "unknown_source",
    408: "too_slow",
    413: "too_large",
    429: "rate_limited",
    503: "log_down",
}


def refused(refusal: Refusal, trace_id: str) -> Answer:
    outcome = "key_reused" if refusal.code == "key_reused" else OUTCOMES.get(refusal.status, "invalid")
    return Answer(status=refusal.status, body=encode_json(refusal.problem(trace_id)), retry_after_s=refusal.retry_after_s, outcome=outcome)


async def respond(send: Send, answer: Answer, trace_id: str) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", trace_id.encode()),
    ]
    if answer.retry_after_s:
        headers.append((b"retry-after", str(answer.retry_after_s).encode()))
    if answer.status == 405:
        headers.append((b"allow", b"POST"))
    if answer.status in (408, 413):
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
