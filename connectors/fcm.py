"""Push messages through Firebase Cloud Messaging (HTTP v1).

It knows neither an idempotency key nor a way to ask what became of a message: an unknown stays one. The effect ID
travels in `data`, so that an app can drop a message it has shown already.

Credentials are a service account (its JSON, as Google hands it out), for which an access token is fetched and kept
until shortly before it ends, or a ready access token.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from typing import Any, ClassVar, Literal
from urllib.parse import quote, urlencode

import msgspec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connectors.base import (
    Ability,
    Answer,
    ChannelSettings,
    Done,
    Reason,
    Refused,
    Secret,
    SettingsError,
    TryLater,
    Unknown,
    read_settings,
)
from connectors.http import Http, HttpConnector, Reply, Request, decode, require_https
from orders.effect import Claim

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
JSON = ("Content-Type", "application/json")


class FcmSettings(ChannelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    project: str
    service_account: Secret | None = None  # the JSON key file's content
    token: Secret | None = None  # a ready access token
    priority: Literal["NORMAL", "HIGH"] = "HIGH"
    validate_only: bool = False  # FCM checks the message and delivers nothing: meant for `sandbox`
    url: str = "https://fcm.googleapis.com"


class Push(msgspec.Struct):
    """What messages/ renders."""

    token: str
    title: str
    body: str
    data: dict[str, str] = {}


class ServiceAccount(msgspec.Struct):
    client_email: str
    private_key: str
    token_uri: str
    private_key_id: str = ""


class Granted(msgspec.Struct):
    access_token: str
    expires_in: int = 3600


class Sent(msgspec.Struct):
    name: str = ""


class Violation(msgspec.Struct):
    field: str = ""


class Detail(msgspec.Struct):
    errorCode: str = ""  # noqa: N815 - Google's spelling
    fieldViolations: list[Violation] = []  # noqa: N815


class Error(msgspec.Struct):
    status: str = ""
    message: str = ""
    details: list[Detail] = []


class Problem(msgspec.Struct):
    error: Error


class Fcm(HttpConnector):
    ability: ClassVar[Ability] = Ability("neither")
    pace_per_s: ClassVar[float] = 500.0
    width: ClassVar[int] = 32

    # FCM's error codes, then Google's status words -> ours.
    CODES: ClassVar[dict[str, Answer]] = {
        "UNREGISTERED": Refused(Reason.RECIPIENT),
        "SENDER_ID_MISMATCH": Refused(Reason.RECIPIENT),
        "INVALID_ARGUMENT": Refused(Reason.CONTENT),
        "QUOTA_EXCEEDED": TryLater(Reason.RATE, 60.0),  # "back off at least a minute" where it names no time
        "UNAVAILABLE": TryLater(Reason.PROVIDER),
        "INTERNAL": TryLater(Reason.PROVIDER),  # documented as an error of theirs to be tried again
        "THIRD_PARTY_AUTH_ERROR": TryLater(Reason.CONFIGURATION),
        "UNAUTHENTICATED": TryLater(Reason.CREDENTIALS),
        "PERMISSION_DENIED": TryLater(Reason.CREDENTIALS),
        "NOT_FOUND": TryLater(Reason.CONFIGURATION),  # without UNREGISTERED: the project, not the device
        "RESOURCE_EXHAUSTED": TryLater(Reason.RATE, 60.0),
    }
    RESERVED = frozenset({"from", "message_type", "notification"})

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings: FcmSettings = read_settings(FcmSettings, "push", settings)
        if not self.settings.project:
            raise SettingsError("push: project is needed")
        base = self.settings.url.rstrip("/")
        require_https("push", base)
        self.url = f"{base}/v1/projects/{quote(self.settings.project, safe='')}/messages:send"
        self.tokens = tokens_for(self.settings)
        super().__init__(Http(connections=self.settings.concurrency or self.width))

    def render(self, claim: Claim) -> Request:
        push = msgspec.json.decode(claim.body, type=Push)
        if any(name in self.RESERVED or name.startswith(("google.", "gcm.")) for name in push.data):
            raise ValueError("data uses a reserved name")
        message = {
            "token": push.token,
            "notification": {"title": push.title, "body": push.body},
            "data": {**push.data, "effect": claim.effect},
            "android": {"priority": self.settings.priority},
        }
        body = {"message": message, "validateOnly": True} if self.settings.validate_only else {"message": message}
        return Request("POST", self.url, (JSON,), msgspec.json.encode(body))

    def read(self, reply: Reply) -> Answer:
        if 200 <= reply.status < 300:
            sent = decode(reply.body, Sent) or Sent()
            return Done(sent.name.rpartition("/")[2])
        problem = decode(reply.body, Problem)
        if problem is None:
            return self.read_status(reply)
        error = problem.error
        code = next((detail.errorCode for detail in error.details if detail.errorCode), error.status)
        if code == "INVALID_ARGUMENT":
            fields = [violation.field for detail in error.details for violation in detail.fieldViolations]
            if "message.token" in fields or "registration token" in error.message:
                return Refused(Reason.RECIPIENT)
        answer = self.CODES.get(code)
        if isinstance(answer, TryLater):
            return TryLater(answer.reason, answer.after_s if reply.retry_after_s is None else reply.retry_after_s)
        return answer or self.read_status(reply)

    def read_status(self, reply: Reply) -> Answer:
        """A reply that is not FCM's JSON comes from something in between."""
        match reply.status:
            case 401 | 403:
                return TryLater(Reason.CREDENTIALS, reply.retry_after_s)
            case 404:
                return TryLater(Reason.CONFIGURATION, reply.retry_after_s)
            case 429:
                return TryLater(Reason.RATE, reply.retry_after_s)
            case 503:
                return TryLater(Reason.PROVIDER, reply.retry_after_s)
            case status if status >= 500:
                return Unknown(Reason.GATEWAY)
            case _:
                return Refused(Reason.OTHER)

    async def authorize(self, request: Request, claim: Claim, now_ms: int, budget_s: float) -> Request | TryLater:
        token = await self.tokens.get(self.http, now_ms, budget_s)
        return token if isinstance(token, TryLater) else request.with_headers(("Authorization", f"Bearer {token.reveal()}"))

    async def call(self, claim: Claim, now_ms: int, budget_s: float) -> Answer:
        answer = await super().call(claim, now_ms, budget_s)
        if answer == TryLater(Reason.CREDENTIALS):
            self.tokens.forget()
        return answer


class Tokens:
    """A ready access token."""

    def __init__(self, token: Secret) -> None:
        self.token = token

    async def get(self, http: Http, now_ms: int, budget_s: float) -> Secret | TryLater:
        return self.token

    def forget(self) -> None:
        """A refused token is asked for again; a ready one has no other."""


class AccountTokens(Tokens):
    """Access tokens of a service account (RFC 7523), one fetched at a time, renewed a minute before they end."""

    def __init__(self, account: ServiceAccount) -> None:
        self.account = account
        key = load_pem_private_key(account.private_key.encode(), None)
        if not isinstance(key, RSAPrivateKey):
            raise ValueError("not an RSA key")
        self.key = key
        self.held: Secret | None = None
        self.until_ms = 0
        self.lock = asyncio.Lock()

    async def get(self, http: Http, now_ms: int, budget_s: float) -> Secret | TryLater:
        try:
            async with asyncio.timeout(budget_s), self.lock:  # those who wait for the one fetching spend their own budget
                if self.held and now_ms < self.until_ms:
                    return self.held
                return await self.fetch(http, now_ms, budget_s)
        except TimeoutError:
            return TryLater(Reason.CONNECT)

    async def fetch(self, http: Http, now_ms: int, budget_s: float) -> Secret | TryLater:
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": self.assertion(now_ms)}
        form = ("Content-Type", "application/x-www-form-urlencoded")
        reply = await http.send(Request("POST", self.account.token_uri, (form,), urlencode(grant).encode()), budget_s, now_ms)
        if not isinstance(reply, Reply):
            return TryLater(reply.reason)  # whatever became of it, no message was written
        granted = decode(reply.body, Granted) if reply.status == 200 else None
        if granted is None:
            return TryLater(Reason.CREDENTIALS if reply.status < 500 else Reason.PROVIDER, reply.retry_after_s)
        self.held, self.until_ms = Secret(granted.access_token), now_ms + (granted.expires_in - 60) * 1000
        return self.held

    def forget(self) -> None:
        self.held = None

    def assertion(self, now_ms: int) -> str:
        """A signed JWT that asks for a token."""
        issued = now_ms // 1000
        claims = {"iss": self.account.client_email, "scope": SCOPE, "aud": self.account.token_uri, "iat": issued, "exp": issued + 3600}
        header = {"alg": "RS256", "typ": "JWT", "kid": self.account.private_key_id}
        signed = ".".join(base64url(msgspec.json.encode(part)) for part in (header, claims))
        return f"{signed}.{base64url(self.key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def tokens_for(settings: FcmSettings) -> Tokens:
    if settings.token is not None and settings.token.reveal():
        return Tokens(settings.token)
    if settings.service_account is None:
        raise SettingsError("push: service_account or token is needed")
    try:
        account = msgspec.json.decode(settings.service_account.reveal(), type=ServiceAccount)
        require_https("push", account.token_uri)
        return AccountTokens(account)
    except (msgspec.MsgspecError, ValueError, TypeError):
        raise SettingsError("push: service_account is not the JSON key of a service account") from None


def base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
