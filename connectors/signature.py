"""Who sent a delivery: signature schemes of incoming webhooks, checked on the raw bytes before anything is parsed.

A scheme is data of a connector's declaration; secrets come from configuration, several at once while one is exchanged for
another. Every candidate is compared with every expected signature, each in constant time and as the text that was sent: two
texts that decode to the same bytes are not the same signature.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

import msgspec

from connectors.base import Secret
from connectors.webhook import sign, signing_key

TOLERANCE_S = 300  # how far the time in a signature may lie from ours, as Stripe and Standard Webhooks have it
CANDIDATES = 16  # signatures looked at in one header
MAX_HEADER = 4096


class Verdict(StrEnum):
    """What a check found; a closed set, fit for metric labels. To the sender all but GOOD sound alike."""

    GOOD = "good"
    MISSING = "missing"  # a header that the scheme needs is not there
    MALFORMED = "malformed"
    STALE = "stale"  # signed too long ago, or ahead of our clock
    WRONG = "wrong"


class Sent(NamedTuple):
    """What a scheme looks at. Names of headers are lower case."""

    headers: Mapping[str, str]
    body: bytes


class Scheme(Protocol):
    def check(self, sent: Sent, secrets: Sequence[Secret], now: int) -> Verdict:
        """`now` in ms. Without secrets nothing is good."""


class BodyHmac(msgspec.Struct, frozen=True):
    """HMAC-SHA256 of the body in a header: Shopify and WooCommerce in base64, EasyPost's kind in hex behind a prefix."""

    header: str
    encoding: Literal["base64", "hex"] = "base64"
    prefix: str = ""

    def check(self, sent: Sent, secrets: Sequence[Secret], now: int) -> Verdict:
        given = sent.headers.get(self.header, "")
        if not given:
            return Verdict.MISSING
        if len(given) > MAX_HEADER or not given.startswith(self.prefix):
            return Verdict.MALFORMED
        encode = _hex if self.encoding == "hex" else _base64
        return _compared([given.removeprefix(self.prefix)], (encode(_hmac(s.reveal().encode(), sent.body)) for s in secrets))


class StripeSignature(msgspec.Struct, frozen=True):
    """`t=<seconds>,v1=<hex of HMAC-SHA256 of "<t>.<body>">`, several `v1` while a secret is exchanged; other versions are not looked at."""

    header: str = "stripe-signature"

    def check(self, sent: Sent, secrets: Sequence[Secret], now: int) -> Verdict:
        given = sent.headers.get(self.header, "")
        if not given:
            return Verdict.MISSING
        pairs = [part.partition("=") for part in given[:MAX_HEADER].split(",")]
        times = [value for name, _, value in pairs if name == "t"]
        candidates = [value for name, _, value in pairs if name == "v1"]
        if len(given) > MAX_HEADER or len(times) != 1 or not candidates or not _is_time(times[0]):
            return Verdict.MALFORMED
        signed = times[0].encode() + b"." + sent.body
        found = _compared(candidates, (_hex(_hmac(s.reveal().encode(), signed)) for s in secrets))
        return _fresh(times[0], now) if found is Verdict.GOOD else found


class StandardWebhooks(msgspec.Struct, frozen=True):
    """`webhook-signature: v1,<base64> ...` over "<webhook-id>.<webhook-timestamp>.<body>": what we ask of custom systems."""

    def check(self, sent: Sent, secrets: Sequence[Secret], now: int) -> Verdict:
        message, seconds, given = (sent.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
        if not (message and seconds and given):
            return Verdict.MISSING
        if not _is_time(seconds) or max(len(given), len(message)) > MAX_HEADER:
            return Verdict.MALFORMED
        found = _compared(given.split(" "), (sign(signing_key(s), message, seconds, sent.body) for s in secrets))
        return _fresh(seconds, now) if found is Verdict.GOOD else found


class SharedSecret(msgspec.Struct, frozen=True):
    """A word that we gave the vendor and that comes back in a header, as in UPS Track Alert and DHL's push: no proof of the body."""

    header: str

    def check(self, sent: Sent, secrets: Sequence[Secret], now: int) -> Verdict:
        given = sent.headers.get(self.header, "")
        if not given:
            return Verdict.MISSING
        return Verdict.MALFORMED if len(given) > MAX_HEADER else _compared([given], (s.reveal() for s in secrets if s.reveal()))


def _compared(candidates: Iterable[str], expected: Iterable[str]) -> Verdict:
    """All with all, however early one fits."""
    given = [candidate.encode() for candidate in candidates][:CANDIDATES]
    fits = [hmac.compare_digest(candidate, text.encode()) for text in expected for candidate in given]
    return Verdict.GOOD if any(fits) else Verdict.WRONG


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def _fresh(seconds: str, now: int) -> Verdict:
    return Verdict.GOOD if abs(now // 1000 - int(seconds)) <= TOLERANCE_S else Verdict.STALE


def _hmac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, hashlib.sha256).digest()


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()


_hex: Callable[[bytes], str] = bytes.hex
