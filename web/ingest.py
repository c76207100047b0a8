"""`POST /v1/ingest/{source}`: a vendor's webhook, believed by its signature, kept as raw bytes, and only then answered 202.

The order of things is the promise: signature over the raw bytes, append, acknowledgement of the log, answer, and last the memory
of the delivery's ID. Who is told 202 is believed to be done: vendors retry what is not, and delete subscriptions that fail for long,
so a signed body that nobody can read is taken in too, and parked by intake. Correctness rests on the facts' natural keys; the memory
of delivery IDs only spares work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import structlog
from litestar.types import HTTPScope, Receive, Send

from connectors.base import Secret
from connectors.delivery import Delivery, Unreadable, encode_delivery, keep_beside
from connectors.signature import Sent, Verdict
from connectors.vendor import Envelope, Vendor
from metrics import Metrics
from streams.clock import Clock
from streams.transport import Log, LogDown
from web.door import SIGNED
from web.gateway import Answer, Bucket, Gone, Limits, Memory, read_body, refused, respond
from web.problem import Refusal, encode_json, new_trace_id

log = structlog.get_logger("ingest")
KEPT_HEADERS = 32  # of a delivery, those whose names begin as its vendor's do; none of them holds a secret but the signature's
KEPT_HEADER_CHARS = 512


class Inlet(msgspec.Struct, frozen=True, kw_only=True):
    """A configured source that pushes."""

    source: str
    vendor: Vendor
    secrets: Sequence[Secret]
    rate: float = 200.0  # deliveries a second that are taken, as many again at once


class Taken(msgspec.Struct, frozen=True):
    """The delivery is in the log, or there was nothing in it for us."""

    outcome: str  # "accepted" | "duplicate" | "ignored"
    trace_id: str


class Ingest:
    """An ASGI application for `/v1/ingest/{source}`."""

    def __init__(
        self,
        inlets: Sequence[Inlet],
        sink: Log,
        bodies: Path,
        clock: Clock,
        metrics: Metrics,
        limits: Limits | None = None,
        heard: Callable[[str], None] = lambda source: None,
    ) -> None:
        """`bodies`: folder for what is too large for the log. `heard` is given the source of each delivery that was believed."""
        self._heard = heard
        self._inlets = {inlet.source: inlet for inlet in inlets}
        self._sink, self._bodies, self._clock, self._metrics = sink, bodies, clock, metrics
        self._limits = limits or Limits()
        self._memory = Memory(self._limits.remembered)
        self._buckets = {inlet.source: Bucket(inlet.rate, time.monotonic()) for inlet in inlets}

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        trace_id = new_trace_id()
        inlet = self._inlets.get(scope["path"].removeprefix(SIGNED))
        began = time.monotonic()
        try:
            if inlet is None:
                raise Refusal(404, "unknown_source", "no such source is configured; `accounts` in the configuration names them")
            if scope["method"] != "POST":
                raise Refusal(405, "method_not_allowed", "only POST is understood here")
            if not self._buckets[inlet.source].take(began):
                raise Refusal(429, "rate_limited", "more deliveries than this source may bring", retry_after_s=self._limits.retry_after_s)
            body = await read_body(dict(scope["headers"]), receive, self._limits.delivery_bytes, self._limits)
            began = time.monotonic()
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            answer = await self._take_in(inlet, headers, body, trace_id)
        except Refusal as refusal:
            answer = refused(refusal, trace_id)
        except Gone:
            return
        except Exception as error:  # noqa: BLE001 - a bug; its text may quote the body, so it is not written anywhere
            log.error("delivery failed", error=type(error).__name__, trace_id=trace_id)
            answer = refused(Refusal(500, "internal", "something went wrong on our side"), trace_id)
        vendor = inlet.vendor.name if inlet is not None else ""
        self._metrics.ingest_events(vendor, answer.outcome).inc()
        if answer.status == 202:
            if inlet is not None:
                self._heard(inlet.source)
            self._metrics.ingest_ack_duration(vendor).observe(time.monotonic() - began)
        else:
            source = inlet.source if inlet is not None else ""
            log.info("delivery refused", source=source, status=answer.status, outcome=answer.outcome, trace_id=trace_id)
        await respond(send, answer, trace_id)

    async def _take_in(self, inlet: Inlet, headers: Mapping[str, str], body: bytes, trace_id: str) -> Answer:
        vendor, now = inlet.vendor, self._clock.now()
        assert vendor.scheme is not None
        verdict = vendor.scheme.check(Sent(headers, body), inlet.secrets, now)
        if verdict is not Verdict.GOOD:  # which of the ways it is wrong is ours to know: the counter's word is one for all
            log.info("signature refused", source=inlet.source, verdict=verdict.value, trace_id=trace_id)
            raise Refusal(401, "bad_signature", "the signature does not fit the body, the secret or the time")
        try:
            envelope = vendor.envelope(headers, body)
        except Unreadable:
            envelope = Envelope("", "")  # intake meets the same, and parks it with its bytes
        if envelope.topic and envelope.topic not in vendor.topics:
            return _taken("ignored", trace_id)
        digest = blake2b(body, digest_size=16).digest()
        key = f"{inlet.source}/{envelope.delivery or digest.hex()}"
        known = self._memory.get(key)
        if known is not None and known[0] == digest:
            first = await asyncio.shield(known[1])  # a copy is never promised what the first was not
            return _taken("duplicate", trace_id) if first.status == 202 else first
        future = self._memory.begin(key, digest)
        try:
            answer = await self._append(inlet, envelope, headers, body, now, trace_id)
        except BaseException as error:
            future.set_result(_retry(trace_id))
            self._memory.forget(key, future)
            raise error
        future.set_result(answer)
        if answer.status != 202:
            self._memory.forget(key, future)
        return answer

    async def _append(self, inlet: Inlet, envelope: Envelope, headers: Mapping[str, str], body: bytes, now: int, trace_id: str) -> Answer:
        own, beside = kept(headers, inlet.vendor.name), ""
        try:
            if len(body) > self._limits.logged_bytes:
                body, beside = b"", await asyncio.to_thread(keep_beside, self._bodies, body)
        except OSError:
            return refused(_log_down(self._limits), trace_id)
        delivery = Delivery(
            source=inlet.source, delivery=envelope.delivery, at=now, topic=envelope.topic, body=body, headers=own, beside=beside
        )
        key = f"{inlet.source}/{envelope.delivery}".encode()
        try:
            async with asyncio.timeout(self._limits.append_s):
                await self._sink.append("deliveries", [(key, encode_delivery(delivery))])
        except (LogDown, TimeoutError):
            return refused(_log_down(self._limits), trace_id)
        return _taken("accepted", trace_id)


def kept(headers: Mapping[str, str], vendor: str) -> dict[str, str]:
    """What of the headers tells about the delivery: the vendor's own, and no other (an `authorization` is nobody's business)."""
    own = [(name, value) for name, value in headers.items() if vendor in name and len(value) <= KEPT_HEADER_CHARS]
    return dict(own[:KEPT_HEADERS])


def _taken(outcome: str, trace_id: str) -> Answer:
    return Answer(status=202, body=encode_json(Taken(outcome, trace_id)), outcome=outcome)


def _log_down(limits: Limits) -> Refusal:
    return Refusal(503, "log_down", "nothing was promised; send it again later", retry_after_s=limits.retry_after_s)


def _retry(trace_id: str) -> Answer:
    return refused(Refusal(503, "retry", "the first copy of this delivery failed", retry_after_s=1), trace_id)
