"""Signed webhooks to customers' systems, by the Standard Webhooks convention.

**Keyed**: the effect ID is the `webhook-id` (and `Idempotency-Key`) of every attempt, the body's bytes are the same, so
a receiver that remembers IDs takes it once. Signatures are made with each active secret, newest first, so that a secret
can be changed without a gap. The URL is the customer's, so it is called through the Guard.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from typing import Any, ClassVar

import msgspec

from connectors.base import Ability, Answer, ChannelSettings, Done, Reason, Refused, Secret, SettingsError, TryLater, read_settings
from connectors.http import Guard, Http, HttpConnector, Reply, Request
from orders.effect import Claim


class Subscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One receiver. Secrets newest first: "whsec_" + base64, or any text of 24 bytes or more."""

    url: str
    secrets: list[Secret]


class WebhookSettings(ChannelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str = ""  # the receiver of claims that name no subscription
    secret: Secret | None = None
    older_secrets: list[Secret] = []  # still signed with, until the receiver knows the newer one
    subscriptions: dict[str, Subscription] = {}
    private: bool = False  # receivers in a private network or on this machine


class Event(msgspec.Struct):
    """What messages/ renders."""

    event: str
    data: msgspec.Raw
    url: str = ""  # the subscription's name
    timestamp: str = ""  # when what it tells of happened


class Webhook(HttpConnector):
    ability: ClassVar[Ability] = Ability("keyed", life_s=24 * 3600)
    pace_per_s: ClassVar[float] = 100.0
    width: ClassVar[int] = 32

    def __init__(self, settings: dict[str, Any], guard: Guard | None = None) -> None:
        self.settings: WebhookSettings = read_settings(WebhookSettings, "webhook", settings)
        self.subscriptions = dict(self.settings.subscriptions)
        if self.settings.url:
            secrets = [] if self.settings.secret is None else [self.settings.secret]
            self.subscriptions[""] = Subscription(self.settings.url, secrets + self.settings.older_secrets)
        self.keys: dict[str, tuple[bytes, ...]] = {}
        for name, subscription in self.subscriptions.items():
            label = f"subscription {name}" if name else "url"
            if not subscription.secrets:
                raise SettingsError(f"webhook: {label} needs a secret")
            try:
                self.keys[name] = tuple(signing_key(secret) for secret in subscription.secrets)
            except ValueError:
                raise SettingsError(f"webhook: a secret of {label} is neither whsec_ + base64 nor 24 bytes long") from None
            if not (subscription.url.startswith("https://") or self.settings.private):
                raise SettingsError(f"webhook: {label} must be an https URL")
        guard = guard or Guard(private=self.settings.private)
        super().__init__(Http(connections=self.settings.concurrency or self.width, guard=guard))

    def route(self, claim: Claim) -> str:
        return self.subscription(claim) or ""

    def subscription(self, claim: Claim) -> str | None:
        """The name of the receiver a claim is for; None: we know no such receiver."""
        try:
            name = msgspec.json.decode(claim.body, type=Event).url
        except msgspec.MsgspecError:
            return None
        return name if name in self.keys else None

    def render(self, claim: Claim) -> Request:
        event = msgspec.json.decode(claim.body, type=Event)
        name = self.subscription(claim)
        payload: dict[str, Any] = {"type": event.event, "data": event.data}
        if event.timestamp:
            payload["timestamp"] = event.timestamp
        headers = (
            ("Content-Type", "application/json"),
            ("User-Agent", "orderflow-webhook"),
            ("webhook-id", claim.effect),
            ("Idempotency-Key", claim.effect),
        )
        return Request("POST", "" if name is None else self.subscriptions[name].url, headers, msgspec.json.encode(payload))

    async def authorize(self, request: Request, claim: Claim, now_ms: int, budget_s: float) -> Request | TryLater:
        name = self.subscription(claim)
        if name is None:
            return TryLater(Reason.CONFIGURATION)
        seconds = str(now_ms // 1000)
        return request.with_headers(
            ("webhook-timestamp", seconds),
            ("webhook-signature", " ".join(sign(key, claim.effect, seconds, request.body) for key in self.keys[name])),
        )

    def read(self, reply: Reply) -> Answer:
        """The convention: 2xx took it, 410 wants no more; a receiver that read the body and will not have it says 4xx."""
        match reply.status:
            case status if 200 <= status < 300:
                return Done()
            case 410:
                return Refused(Reason.GONE)
            case 413:
                return Refused(Reason.TOO_LARGE)
            case 400 | 415 | 422:
                return Refused(Reason.CONTENT)
            case 429:
                return TryLater(Reason.RATE, reply.retry_after_s)
            case 401 | 403 | 404 | 405:
                return TryLater(Reason.CONFIGURATION, reply.retry_after_s)
            case _:
                return TryLater(Reason.PROVIDER, reply.retry_after_s)  # 5xx and redirects: the key makes asking again safe


def signing_key(secret: Secret) -> bytes:
    """Raises ValueError for what is no key."""
    text = secret.reveal()
    key = b64decode(text.removeprefix("whsec_"), validate=True) if text.startswith("whsec_") else text.encode()
    if len(key) < 24:
        raise ValueError("too short")
    return key


def sign(key: bytes, message_id: str, seconds: str, body: bytes) -> str:
    signed = b".".join((message_id.encode(), seconds.encode(), body))
    return "v1," + b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
