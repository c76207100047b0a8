"""The way back: a signed token in every message, so that receipts, replies and bounces find the customer and the effect."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Sequence
from hashlib import sha256

LEAST_KEY = 16  # bytes


class WayBack:
    """Signs with the first key and reads with any, so that keys can be rotated. Raises ValueError for a key below `LEAST_KEY`."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < LEAST_KEY for key in keys):
            raise ValueError(f"a way back needs at least one key, each of {LEAST_KEY} bytes or more")
        self._keys = tuple(keys)

    def token(self, customer: str, effect: str) -> str:
        """`effect.customer.signature`, of letters, digits, `-`, `_` and two dots; the effect is readable as it is."""
        named = f"{effect}.{_pack(customer.encode())}"
        return f"{named}.{_sign(self._keys[0], named)}"

    def read(self, token: str) -> tuple[str, str] | None:
        """(customer, effect), or None for what we did not sign."""
        named, _, signature = token.rpartition(".")
        given = signature.encode("utf-8", "replace")
        if not any(hmac.compare_digest(_sign(key, named).encode(), given) for key in self._keys):
            return None
        effect, _, packed = named.rpartition(".")
        try:
            return urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode(), effect
        except (NotBase64, UnicodeDecodeError):
            return None


def _pack(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _sign(key: bytes, named: str) -> str:
    return _pack(hmac.digest(key, named.encode("utf-8", "replace"), sha256)[:16])
