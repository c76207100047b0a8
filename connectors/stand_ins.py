"""Stand-ins for Twilio, FCM, an SMTP server and a webhook receiver: they take messages, count them, and misbehave on request.

They check what they are sent as strictly as the vendor's specification does, and they are the judge of duplicates: every
acceptance is written down (and flushed to the ledger's file, if there is one) before it is answered. What happens to a
request depends on nothing but the seed, the effect and how often the effect was tried, so a run can be repeated.

One HTTP listener serves Twilio (`/2010-04-01/...`), FCM (`/v1/projects/...`, `/token`), webhooks (`/hooks/...`), vendors that do
things for us (`stand_in_vendors`: `/shopify/...`, `/stripe/...` and so on) and the judge: `GET /received?channel=&limit=`,
`GET /counts`, `POST /faults {"channel": ..., "faults": {...}}`, `POST /known [{"vendor", "topic", "body"}]`. Loopback only.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.utils import format_datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from urllib.parse import parse_qs, parse_qsl, urlsplit

import h11
import msgspec
from aiosmtpd.smtp import SMTP
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from connectors.base import Secret
from connectors.stand_in_vendors import QUESTIONS, Asked, Known, VendorStandIns, Web, accounts

HOST = "127.0.0.1"
BODY_CAP = 1 << 20

# Credentials that open nothing but these stand-ins.
ACCOUNT = "AC" + "0" * 32
MESSAGING_SERVICE = "MG" + "0" * 32
PROJECT = "stand-in"
PASSWORD = "stand-in-not-a-secret"  # noqa: S105
SIGNING = "whsec_" + b64encode(b"a stand-in's signing key").decode()

CHANNELS = ("email", "sms", "push", "webhook", "systems")
E164 = re.compile(r"\+[1-9]\d{6,14}")


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of tries that go wrong, each 0..1, together at most 1."""

    seed: int = 0
    refuse: float = 0.0  # a final no
    try_later: float = 0.0  # too fast; names retry_after_s where the protocol can
    error: float = 0.0  # the provider is down, and says so
    hang: float = 0.0  # takes nothing, never answers
    drop: float = 0.0  # takes it, then closes the connection without a word
    stall: float = 0.0  # takes it, never answers
    slow: float = 0.0  # takes it, answers after slow_s
    retry_after_s: int = 1
    slow_s: float = 0.5

    def draw(self, effect: str, nth: int) -> str:
        """The fault of one try, or "" for none."""
        digest = hashlib.blake2b(f"{self.seed}:{effect}:{nth}".encode(), digest_size=8).digest()
        left = int.from_bytes(digest) / 2**64
        for fault in ("refuse", "try_later", "error", "hang", "drop", "stall", "slow"):
            left -= getattr(self, fault)
            if left < 0:
                return fault
        return ""


class Receipt(msgspec.Struct, frozen=True):
    """One accepted message."""

    channel: str
    effect: str
    at: int  # ms
    to: str
    title: str
    text: str


class Ledger:
    """Everything accepted: counted for good, the latest `keep` to be looked at."""

    def __init__(self, file: Path | None, keep: int) -> None:
        self.file = file
        self.latest: deque[Receipt] = deque(maxlen=keep)
        self.counts: dict[str, Counter[str]] = {}
        self.out: BinaryIO | None = None

    def open(self) -> None:
        if self.file is None:
            return
        self.out = self.file.open("ab")
        written = self.file.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]  # a torn last line was not answered either
        self.out.truncate(len(whole))
        for line in whole.splitlines():
            self.count(msgspec.json.decode(line, type=Receipt))

    def close(self) -> None:
        if self.out is not None:
            self.out.close()
            self.out = None

    def count(self, receipt: Receipt) -> None:
        self.latest.append(receipt)
        self.counts.setdefault(receipt.channel, Counter())[receipt.effect] += 1

    def accept(self, receipt: Receipt) -> None:
        self.count(receipt)
        if self.out is not None:
            self.out.write(msgspec.json.encode(receipt) + b"\n")
            self.out.flush()


class StandIns:
    """All of them, on one event loop. `port` 0 picks a free one; both are known after `start`."""

    def __init__(
        self,
        *,
        faults: dict[str, Faults] | None = None,
        http_port: int = 0,
        smtp_port: int = 0,
        ledger: Path | None = None,
        keep: int = 10_000,
        clock: Callable[[], int] = lambda: 0,
        public_key: RSAPublicKey | None = None,
    ) -> None:
        self.faults = {channel: (faults or {}).get(channel, Faults()) for channel in (*CHANNELS, QUESTIONS)}
        self.script: dict[str, deque[str]] = {channel: deque() for channel in self.faults}  # faults of the next tries, before any drawn
        self.tries: dict[str, Counter[str]] = {channel: Counter() for channel in self.faults}
        self.http_port, self.smtp_port = http_port, smtp_port
        self.ledger = Ledger(ledger, keep)
        self.clock = clock
        self.public_key = public_key
        self.repeats = 0  # webhooks that came again under a known key, and changed nothing
        self.closing = asyncio.Event()
        self.servers: list[asyncio.Server] = []
        self.connections: set[asyncio.Task[None]] = set()
        self.sessions: set[SMTP] = set()
        self.twilio, self.fcm, self.hooks = TwilioStandIn(self), FcmStandIn(self), WebhookStandIn(self)
        self.vendors = VendorStandIns(self)

    async def start(self) -> None:
        logging.getLogger("mail.log").setLevel(logging.ERROR)  # it would write every address down
        self.ledger.open()
        for receipt in self.ledger.latest:  # a provider remembers what it took before it was restarted
            if receipt.channel == "sms":
                self.twilio.keep(receipt.to, receipt.text, receipt.at)
            elif receipt.channel == "webhook":
                self.hooks.bodies[receipt.effect] = digest(receipt.text.encode())
            elif receipt.channel == "systems":
                self.vendors.remember(receipt.title, receipt.effect, receipt.text)
        loop = asyncio.get_running_loop()
        http = await asyncio.start_server(self.serve, HOST, self.http_port)
        smtp = await loop.create_server(self.session, HOST, self.smtp_port)
        self.servers = [http, smtp]
        self.http_port, self.smtp_port = (server.sockets[0].getsockname()[1] for server in self.servers)

    async def close(self) -> None:
        self.closing.set()
        for server in self.servers:
            server.close()
        handlers = [session._handler_coroutine for session in self.sessions if session._handler_coroutine]  # aiosmtpd's own tasks
        for session in self.sessions:
            abort(session)
        for task in (*self.connections, *handlers):
            task.cancel()
        await asyncio.gather(*self.connections, *handlers, return_exceptions=True)
        for server in self.servers:
            await server.wait_closed()
        self.ledger.close()

    # --- what was received

    def received(self, channel: str = "", limit: int = 100) -> list[Receipt]:
        """The latest first."""
        chosen = (receipt for receipt in reversed(self.ledger.latest) if not channel or receipt.channel == channel)
        return [receipt for _, receipt in zip(range(limit), chosen, strict=False)]

    def accepted(self) -> dict[str, int]:
        """Messages accepted, by channel."""
        return {channel: counts.total() for channel, counts in self.ledger.counts.items()}

    def duplicates(self) -> dict[str, int]:
        """Acceptances beyond the first of each effect, by channel."""
        return {channel: counts.total() - len(counts) for channel, counts in self.ledger.counts.items()}

    def settings(self, channel: str) -> dict[str, Any]:
        """What a Sender needs to talk to these."""
        return settings_for(self.http_port, self.smtp_port)[channel]

    # --- misbehaving

    def fault(self, channel: str, effect: str) -> str:
        """What goes wrong with this try; "" for nothing."""
        self.tries[channel][effect] += 1
        if self.script[channel]:
            return self.script[channel].popleft()
        return self.faults[channel].draw(effect, self.tries[channel][effect])

    def accept(self, channel: str, effect: str, to: str, title: str, text: str) -> None:
        self.ledger.accept(Receipt(channel, effect, self.clock(), to, title, text))

    async def after_accepting(self, channel: str, fault: str) -> bool:
        """Waits as the fault wants; False: close without an answer."""
        if fault == "slow":
            await asyncio.sleep(self.faults[channel].slow_s)
        if fault == "stall":
            await self.closing.wait()
        return fault not in ("drop", "stall")

    # --- HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self.connections.add(task)
            task.add_done_callback(self.connections.discard)
        try:
            await self.converse(reader, writer)
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass  # the client went away or spoke no HTTP, or we are closing: nobody is there to be told
        finally:
            writer.transport.abort()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after another."""
        connection = h11.Connection(h11.SERVER)
        while True:
            request: h11.Request | None = None
            body = bytearray()
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > BODY_CAP:
                        return
                else:
                    break
            if request is None:
                return
            headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
            answer = await self.respond(request.method.decode(), request.target.decode(), headers, bytes(body))
            if answer is None:
                return
            content = b"" if answer.body is None else msgspec.json.encode(answer.body)
            lines = [("Content-Type", "application/json"), ("Content-Length", str(len(content))), *answer.headers]
            head = h11.Response(status_code=answer.status, headers=lines)
            parts = [connection.send(event) for event in (head, h11.Data(data=content), h11.EndOfMessage())]
            writer.write(b"".join(part for part in parts if part))
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def respond(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Web | None:
        """The answer, or None to close the connection instead."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        match method, parts.path.strip("/").split("/"):
            case method, ["2010-04-01", "Accounts", account, "Messages.json"]:
                return await self.twilio.respond(method, account, headers, body, query)
            case "POST", ["v1", "projects", project, "messages:send"]:
                return await self.fcm.respond(project, headers, body)
            case "POST", ["token"]:
                return self.fcm.token(body)
            case "POST", ["hooks", *_]:
                return await self.hooks.respond(headers, body)
            case method, [vendor, *rest] if vendor in self.vendors.all:
                return await self.vendors.respond(vendor, Asked(method, rest, headers, body, query))
            case "POST", ["known"]:
                return self.know(body)
            case "GET", ["received"]:
                limit = int(query["limit"]) if query.get("limit", "").isdigit() else 100
                return Web(200, self.received(query.get("channel", ""), limit))
            case "GET", ["counts"]:
                return Web(200, {"accepted": self.accepted(), "duplicates": self.duplicates(), "webhook_repeats": self.repeats})
            case "POST", ["faults"]:
                return self.set_faults(body)
        return Web(404, {"error": "not found"})

    def know(self, body: bytes) -> Web:
        try:
            self.vendors.know(msgspec.json.decode(body, type=list[Known]))
        except (msgspec.MsgspecError, KeyError) as error:
            return Web(422, {"error": str(error)})
        return Web(200, {})

    def set_faults(self, body: bytes) -> Web:
        try:
            wanted = msgspec.json.decode(body, type=SetFaults)
        except msgspec.MsgspecError as error:
            return Web(422, {"error": str(error)})
        if wanted.channel not in self.faults:
            return Web(422, {"error": "unknown channel"})
        self.faults[wanted.channel] = wanted.faults
        return Web(200, {})

    # --- SMTP

    def session(self) -> SMTP:
        handler = SmtpStandIn(self)
        session = SMTP(handler, hostname="stand-in.invalid", ident="stand-in", enable_SMTPUTF8=True, loop=asyncio.get_running_loop())
        self.sessions = {known for known in self.sessions if known.transport is not None}
        self.sessions.add(session)
        return session


class SetFaults(msgspec.Struct, forbid_unknown_fields=True):
    channel: str
    faults: Faults


def settings_for(http_port: int, smtp_port: int) -> dict[str, dict[str, Any]]:
    """Sender settings per channel for stand-ins that listen on these ports, perhaps in another process."""
    url = f"http://{HOST}:{http_port}"
    return {
        "email": {"host": HOST, "port": smtp_port, "tls": "off"},
        "sms": {
            "account": ACCOUNT,
            "token": Secret(PASSWORD),
            "sender": "+15005550006",
            "url": url,
            "status_callback": "https://shop.invalid/receipts/twilio",
        },
        "push": {"project": PROJECT, "token": Secret(PASSWORD), "url": url},
        "webhook": {"url": f"{url}/hooks/events", "secret": Secret(SIGNING), "private": True},
        "systems": {"accounts": accounts(url), "private": True},
    }


class TwilioStandIn:
    """`POST` and `GET /2010-04-01/Accounts/{AccountSid}/Messages.json`."""

    # Form fields of CreateMessageRequest that we have a use for; a field nobody documents is a typing error of ours.
    FIELDS = frozenset({"To", "From", "MessagingServiceSid", "Body", "StatusCallback", "ValidityPeriod", "SmartEncoded", "ShortenUrls"})
    MAGIC: ClassVar[dict[str, tuple[int, str]]] = {  # as with Twilio's own test credentials
        "+15005550001": (21211, "Invalid 'To' Phone Number"),
        "+15005550002": (21612, "The 'To' phone number is not currently reachable via SMS"),
        "+15005550004": (21610, "Attempt to send to unsubscribed recipient"),
        "+15005550009": (21614, "'To' number is not a valid mobile number"),
    }

    def __init__(self, home: StandIns) -> None:
        self.home = home
        self.messages: deque[dict[str, Any]] = deque(maxlen=home.ledger.latest.maxlen)
        self.made = 0

    async def respond(self, method: str, account: str, headers: dict[str, str], body: bytes, query: dict[str, str]) -> Web | None:
        expected = "Basic " + b64encode(f"{ACCOUNT}:{PASSWORD}".encode()).decode()
        if account != ACCOUNT or not hmac.compare_digest(headers.get("authorization", ""), expected):
            return problem(401, 20003, "Authenticate")
        if method == "GET":
            return self.listing(query)
        if method != "POST":
            return problem(405, 20004, "Method not allowed")
        form = {name: values[-1] for name, values in parse_qs(body.decode(errors="replace"), keep_blank_values=True).items()}
        if wrong := self.check(headers.get("content-type", ""), form):
            return problem(400, *wrong)
        effect = dict(parse_qsl(urlsplit(form.get("StatusCallback", "")).query)).get("effect") or digest_of(form["To"], form["Body"])
        fault = self.home.fault("sms", effect)
        match fault:
            case "refuse":
                return problem(400, 21614, "'To' number is not a valid mobile number")
            case "try_later":
                return problem(429, 20429, "Too Many Requests", ("Retry-After", str(self.home.faults["sms"].retry_after_s)))
            case "error":
                return problem(503, 20503, "Service unavailable")
            case "hang":
                await self.home.closing.wait()
                return None
        message = self.keep(form["To"], form["Body"], self.home.clock(), form.get("From"), form.get("MessagingServiceSid"))
        self.home.accept("sms", effect, form["To"], "", form["Body"])
        return Web(201, message) if await self.home.after_accepting("sms", fault) else None

    def check(self, content_type: str, form: dict[str, str]) -> tuple[int, str] | None:
        """Twilio's code and words for what is wrong with a request."""
        if not content_type.startswith("application/x-www-form-urlencoded"):
            return 20001, "Unsupported content type"
        if unknown := form.keys() - self.FIELDS:
            return 20001, f"Unknown parameter {min(unknown)}"
        if not form.get("To"):
            return 21604, "A 'To' phone number is required"
        if not E164.fullmatch(form["To"]):
            return 21211, "Invalid 'To' Phone Number"
        if form["To"] in self.MAGIC:
            return self.MAGIC[form["To"]]
        if not form.get("From") and not form.get("MessagingServiceSid"):
            return 21603, "A 'From' phone number is required"
        if form.get("From") and not (E164.fullmatch(form["From"]) or re.fullmatch(r"\d{3,8}|[A-Za-z0-9 &_+-]{1,11}", form["From"])):
            return 21212, "Invalid From Number"
        if form.get("MessagingServiceSid") and not re.fullmatch(r"MG[0-9a-fA-F]{32}", form["MessagingServiceSid"]):
            return 21701, "The Messaging Service does not exist"
        if not form.get("Body"):
            return 21602, "Message body is required"
        if len(form["Body"]) > 1600:
            return 21617, "The concatenated message body exceeds the 1600 character limit"
        callback = form.get("StatusCallback")
        if callback is not None and not re.match(r"https?://[^/_?#]+(?:[/?#]|$)", callback):
            return 21609, "Invalid 'StatusCallback' URL"
        return None

    def keep(self, to: str, text: str, at: int, sender: str | None = None, service: str | None = None) -> dict[str, Any]:
        """Remembers a Message resource, as the specification draws it."""
        self.made += 1
        message = self.resource(to, text, at, sender, service)
        self.messages.appendleft(message)
        return message

    def resource(self, to: str, text: str, at: int, sender: str | None, service: str | None) -> dict[str, Any]:
        sid = "SM" + hashlib.blake2b(f"{to}:{self.made}".encode(), digest_size=16).hexdigest()
        uri = f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}"
        now = format_datetime(datetime.fromtimestamp(at / 1000, UTC))
        return {
            "sid": sid,
            "account_sid": ACCOUNT,
            "api_version": "2010-04-01",
            "to": to,
            "from": sender,
            "messaging_service_sid": service,
            "body": text,
            "status": "queued",
            "direction": "outbound-api",
            "date_created": now,
            "date_updated": now,
            "date_sent": None,
            "error_code": None,
            "error_message": None,
            "num_media": "0",
            "num_segments": "1",
            "price": None,
            "price_unit": None,
            "uri": uri + ".json",
            "subresource_uris": {"media": uri + "/Media.json"},
        }

    def listing(self, query: dict[str, str]) -> Web:
        size = min(int(query.get("PageSize", "50")), 1000)
        chosen = [message for message in self.messages if query.get("To") in (None, message["to"])]
        uri = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json?PageSize={size}&Page="
        more = len(chosen) > size
        return Web(
            200,
            {
                "messages": chosen[:size],
                "page": 0,
                "page_size": size,
                "start": 0,
                "end": max(0, min(size, len(chosen)) - 1),
                "uri": uri + "0",
                "first_page_uri": uri + "0",
                "previous_page_uri": None,
                "next_page_uri": uri + "1" if more else None,
            },
        )


def problem(status: int, code: int, message: str, *headers: tuple[str, str]) -> Web:
    """Twilio's way to say no."""
    return Web(
        status, {"code": code, "message": message, "more_info": f"https://www.twilio.com/docs/errors/{code}", "status": status}, headers
    )


class FcmStandIn:
    """`POST /v1/projects/{project}/messages:send`, and the token endpoint of service accounts."""

    def __init__(self, home: StandIns) -> None:
        self.home = home
        self.sent = 0
        self.tokens_granted = 0

    async def respond(self, project: str, headers: dict[str, str], body: bytes) -> Web | None:
        if not hmac.compare_digest(headers.get("authorization", ""), f"Bearer {PASSWORD}"):
            return fcm_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if project != PROJECT:
            return fcm_error(404, "NOT_FOUND", "Requested entity was not found.")
        try:
            request = msgspec.json.decode(body)
        except msgspec.MsgspecError:
            return fcm_error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.")
        if wrong := self.check(request):
            return fcm_error(400, "INVALID_ARGUMENT", wrong[1], field=wrong[0])
        message = request["message"]
        if message["token"].startswith("unregistered"):
            return fcm_error(404, "NOT_FOUND", "Requested entity was not found.", code="UNREGISTERED")
        if message["token"].startswith("invalid"):
            text = "The registration token is not a valid FCM registration token"
            return fcm_error(400, "INVALID_ARGUMENT", text, code="INVALID_ARGUMENT", field="message.token")
        effect = message.get("data", {}).get("effect") or digest_of(message["token"], str(message.get("notification")))
        fault = self.home.fault("push", effect)
        match fault:
            case "refuse":
                return fcm_error(404, "NOT_FOUND", "Requested entity was not found.", code="UNREGISTERED")
            case "try_later":
                wait = ("Retry-After", str(self.home.faults["push"].retry_after_s))
                return fcm_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", wait, code="QUOTA_EXCEEDED")
            case "error":
                return fcm_error(503, "UNAVAILABLE", "The service is currently unavailable.", code="UNAVAILABLE")
            case "hang":
                await self.home.closing.wait()
                return None
        self.sent += 1
        name = f"projects/{PROJECT}/messages/0:{self.sent:016d}"
        if not request.get("validateOnly"):
            notification = message.get("notification", {})
            self.home.accept("push", effect, message["token"], notification.get("title", ""), notification.get("body", ""))
        return Web(200, {"name": name}) if await self.home.after_accepting("push", fault) else None

    def check(self, request: Any) -> tuple[str, str] | None:
        """Field and words for what is wrong with a SendMessageRequest."""
        if not isinstance(request, dict) or not isinstance(message := request.get("message"), dict):
            return "message", "Request must contain a message."
        for name in request.keys() - {"message", "validateOnly"}:
            return name, f'Unknown name "{name}": Cannot find field.'
        for name in message.keys() - {"token", "notification", "data", "android", "apns", "webpush", "fcmOptions", "topic", "condition"}:
            return f"message.{name}", f"Unknown name \"{name}\" at 'message': Cannot find field."
        if [isinstance(message.get(name), str) and bool(message[name]) for name in ("token", "topic", "condition")] != [True, False, False]:
            return "message", "Exactly one of token, topic or condition is required; this stand-in wants a token."
        notification = message.get("notification", {})
        if not isinstance(notification, dict) or notification.keys() - {"title", "body", "image"}:
            return "message.notification", "Unknown name at 'message.notification': Cannot find field."
        if not all(isinstance(value, str) for value in notification.values()):
            return "message.notification", "Invalid value at 'message.notification' (TYPE_STRING)."
        data = message.get("data", {})
        if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
            return "message.data", "Invalid value at 'message.data' (TYPE_STRING)."
        if any(name in ("from", "message_type") or name.startswith(("google.", "gcm.")) for name in data):
            return "message.data", "Invalid data payload key."
        android = message.get("android", {})
        if not isinstance(android, dict) or android.get("priority", "NORMAL") not in ("NORMAL", "HIGH"):
            return "message.android", "Invalid value at 'message.android.priority'."
        if len(msgspec.json.encode([notification, data])) > 4096:
            return "message", "Message is too big."
        return None

    def token(self, body: bytes) -> Web:
        """RFC 7523: a signed assertion for an access token."""
        form = dict(parse_qsl(body.decode(errors="replace")))
        signed, _, signature = form.get("assertion", "").rpartition(".")
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" or self.public_key is None:
            return Web(400, {"error": "unsupported_grant_type"})
        try:
            self.public_key.verify(from_base64url(signature), signed.encode(), PKCS1v15(), SHA256())
        except (InvalidSignature, ValueError):
            return Web(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        claims = msgspec.json.decode(from_base64url(signed.rpartition(".")[2]))
        if claims.get("aud") != f"http://{HOST}:{self.home.http_port}/token" or claims["exp"] - claims["iat"] > 3600:
            return Web(400, {"error": "invalid_grant", "error_description": "Invalid JWT claims."})
        self.tokens_granted += 1
        return Web(200, {"access_token": PASSWORD, "expires_in": 3599, "token_type": "Bearer"})

    @property
    def public_key(self) -> RSAPublicKey | None:
        return self.home.public_key


def fcm_error(status: int, word: str, message: str, *headers: tuple[str, str], code: str = "", field: str = "") -> Web:
    """Google's way to say no."""
    details: list[dict[str, Any]] = []
    if code:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
    if field:
        violation = {"field": field, "description": message}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    return Web(status, {"error": {"code": status, "message": message, "status": word, "details": details}}, headers)


class WebhookStandIn:
    """A receiver that checks signatures and honours keys: what comes again under one changes nothing."""

    def __init__(self, home: StandIns) -> None:
        self.home = home
        self.bodies: dict[str, bytes] = {}  # digest per key, so that other bytes under a known key are noticed

    async def respond(self, headers: dict[str, str], body: bytes) -> Web | None:
        key, seconds = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not key or not seconds.isdigit() or not self.signed(key, seconds, headers.get("webhook-signature", ""), body):
            return Web(401, {"error": "signature"})
        if self.home.clock() and abs(self.home.clock() / 1000 - int(seconds)) > 300:
            return Web(401, {"error": "timestamp"})
        try:
            event = msgspec.json.decode(body, type=HookEvent)
        except msgspec.MsgspecError:
            return Web(400, {"error": "not an event"})
        fault = self.home.fault("webhook", key)
        match fault:
            case "refuse":
                return Web(422, {"error": "refused"})
            case "try_later":
                return Web(429, {"error": "slow down"}, (("Retry-After", str(self.home.faults["webhook"].retry_after_s)),))
            case "error":
                return Web(503, {"error": "down"})
            case "hang":
                await self.home.closing.wait()
                return None
        if self.bodies.get(key, digest(body)) != digest(body):
            return Web(409, {"error": "another body under a known key"})
        if key in self.bodies:
            self.home.repeats += 1
        else:
            self.bodies[key] = digest(body)
            self.home.accept("webhook", key, "", event.type, body.decode())
        return Web(200, {}) if await self.home.after_accepting("webhook", fault) else None

    def signed(self, key: str, seconds: str, signatures: str, body: bytes) -> bool:
        secret = b64decode(SIGNING.removeprefix("whsec_"))
        expected = "v1," + b64encode(hmac.digest(secret, f"{key}.{seconds}.".encode() + body, "sha256")).decode()
        return any(hmac.compare_digest(expected.encode(), given.encode()) for given in signatures.split(" "))


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


class HookEvent(msgspec.Struct):
    type: str
    data: msgspec.Raw
    timestamp: str = ""


class SmtpStandIn:
    """An SMTP sink, one per session. `nobody@...` does not exist, `full@...` has no room."""

    def __init__(self, home: StandIns) -> None:
        self.home = home

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        if address.startswith("nobody@"):
            return "550 5.1.1 No such mailbox"
        if address.startswith("full@"):
            return "452 4.2.2 Mailbox full"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        message = message_from_bytes(envelope.content, policy=policy.default)
        named = re.match(r"<([A-Za-z0-9_-]+)[.@]", str(message["Message-ID"]).strip())
        if named is None or not message["Date"] or not message["From"]:
            return "554 5.6.0 Message-ID, Date and From are required"
        effect = named[1]
        fault = self.home.fault("email", effect)
        match fault:
            case "refuse":
                return "550 5.7.1 Refused"
            case "try_later":
                return "451 4.7.1 Try again later"
            case "error":
                return "421 4.3.2 Shutting down"
            case "hang":
                await self.home.closing.wait()
                return "421 4.3.2 Shutting down"
        part = message.get_body(preferencelist=("plain",))
        text = part.get_content().replace("\r\n", "\n") if part is not None else ""
        self.home.accept("email", effect, envelope.rcpt_tos[0], str(message["Subject"]), text)
        if not await self.home.after_accepting("email", fault):
            abort(server)
            await asyncio.Event().wait()  # the lost connection cancels this; an answer would go nowhere
        return f"250 2.0.0 Ok: queued as {digest_of(effect, str(self.home.tries['email'][effect]))}"


def abort(session: SMTP) -> None:
    if isinstance(session.transport, asyncio.WriteTransport):
        session.transport.abort()


def digest_of(*parts: str) -> str:
    """Names what carries no effect ID."""
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def from_base64url(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
