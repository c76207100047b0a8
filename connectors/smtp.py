"""E-mail over SMTP submission.

SMTP knows neither a key nor a way to ask: **neither**. What is certain up to the final dot stays certain: refused or
lost before it means not sent; lost after it means unknown. Connections are kept and used again, a few per sender.

Message-ID comes from the renderer, is the same for every attempt and begins with the effect ID. With `verp` the envelope
sender carries the effect ID too, so that a bounce finds its way back.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as CRLF
from email.utils import formatdate, getaddresses
from typing import Any, ClassVar, Literal

import aiosmtplib
import msgspec

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
    is_loopback,
    read_settings,
)
from orders.effect import Claim

CONNECT_S = 5.0
IDLE_S = 20.0  # a connection that rested longer is not trusted: many servers close after 30 s
USES = 100  # messages per connection, below the usual limits
SIZE_CAP = 1 << 20  # bytes of a whole message

# Headers a renderer may not set by itself: they follow from the envelope and the parts.
OURS = frozenset({"to", "cc", "bcc", "from", "sender", "reply-to", "subject", "mime-version", "return-path", "received"})


class SmtpSettings(ChannelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    port: int = 587
    tls: Literal["starttls", "implicit", "off"] = "starttls"
    allow_plaintext: bool = False  # tls: off, to another machine
    ca_file: str = ""
    username: str = ""
    password: Secret | None = None
    hello: str = "localhost"  # our name in EHLO
    return_path: str = ""  # envelope sender; empty: the From address
    verp: bool = False  # return_path "bounces@x" becomes "bounces+<effect>@x"
    redirect_to: str = ""  # every message goes to this address instead: meant for `sandbox`


class Mail(msgspec.Struct):
    """What messages/ renders."""

    to: str
    sender: str = msgspec.field(name="from")
    subject: str
    text: str
    html: str = ""
    reply_to: str = ""
    headers: dict[str, str] = {}


class Envelope(msgspec.Struct, frozen=True):
    """What goes over the wire: CR LF lines, no stuffing yet."""

    sender: str
    recipient: str
    data: bytes

    def __repr__(self) -> str:
        return f"Envelope({len(self.data)} bytes)"


class Smtp:
    ability: ClassVar[Ability] = Ability("neither")
    pace_per_s: ClassVar[float] = 100.0
    width: ClassVar[int] = 8

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings: SmtpSettings = read_settings(SmtpSettings, "email", settings)
        if self.settings.tls == "off" and not is_loopback(self.settings.host) and not self.settings.allow_plaintext:
            raise SettingsError("email: tls is off but host is another machine; set allow_plaintext to insist")
        if bool(self.settings.username) != (self.settings.password is not None):
            raise SettingsError("email: username and password belong together")
        self.idle: deque[Connection] = deque()
        self.context: ssl.SSLContext | None = None

    async def start(self) -> None:
        if self.settings.tls != "off":
            self.context = ssl.create_default_context(cafile=self.settings.ca_file or None)

    async def close(self) -> None:
        while self.idle:
            await self.idle.pop().quit()

    def route(self, claim: Claim) -> str:
        return ""

    async def call(self, claim: Claim, now_ms: int, budget_s: float) -> Answer:
        if claim.lookup:
            return Unknown(Reason.NO_LOOKUP)
        try:
            envelope = render(claim, self.settings, now_ms)
        except (msgspec.MsgspecError, MessageError, ValueError):
            return Refused(Reason.MALFORMED)
        if len(envelope.data) > SIZE_CAP:
            return Refused(Reason.TOO_LARGE)
        stage = Stage()
        try:
            async with asyncio.timeout(budget_s):
                return await self.deliver(envelope, stage)
        except TimeoutError:
            return Unknown(Reason.TIMEOUT) if stage.dotted else TryLater(Reason.CONNECT if stage.connecting else Reason.PROVIDER)

    async def deliver(self, envelope: Envelope, stage: Stage) -> Answer:
        while True:
            connection = self.rested()
            fresh = connection is None
            if connection is None:
                made = await self.connect()
                if isinstance(made, TryLater):
                    return made
                connection = made
            stage.connecting = False
            try:
                answer = await connection.send(envelope, stage)
            except (aiosmtplib.SMTPException, OSError):
                if stage.dotted:
                    return Unknown(Reason.DROPPED)
                if fresh:
                    return TryLater(Reason.PROVIDER)
                continue  # it had died while it rested, before it took anything: a fresh one is the same attempt
            finally:
                if connection.reusable:
                    self.idle.append(connection)
                else:
                    connection.client.close()
            return answer

    def rested(self) -> Connection | None:
        """The connection used last, if it is still good."""
        now = asyncio.get_running_loop().time()
        while self.idle:
            connection = self.idle.pop()
            if connection.client.is_connected and now - connection.used_at < IDLE_S and connection.uses < USES:
                connection.reusable = False  # until it has come through a whole message
                return connection
            connection.client.close()
        return None

    async def connect(self) -> Connection | TryLater:
        client = aiosmtplib.SMTP(
            hostname=self.settings.host,
            port=self.settings.port,
            local_hostname=self.settings.hello,
            timeout=CONNECT_S,
            use_tls=self.settings.tls == "implicit",
            start_tls=False,
            tls_context=self.context,
        )
        try:
            await client.connect()
            refusal = await self.greet(client)
        except aiosmtplib.SMTPAuthenticationError:
            refusal = TryLater(Reason.CREDENTIALS)
        except aiosmtplib.SMTPResponseException:
            refusal = TryLater(Reason.PROVIDER)
        except aiosmtplib.SMTPNotSupported:
            refusal = TryLater(Reason.CONFIGURATION)
        except (aiosmtplib.SMTPException, OSError) as error:
            refusal = TryLater(connect_reason(error))
        except asyncio.CancelledError:
            client.close()
            raise
        if refusal:
            client.close()
            return refusal
        return Connection(client)

    async def greet(self, client: aiosmtplib.SMTP) -> TryLater | None:
        """EHLO, then what must come before the first message."""
        await client.ehlo()
        if self.settings.tls == "starttls":
            if not client.supports_extension("starttls"):
                return TryLater(Reason.TLS)
            await client.starttls()
            await client.ehlo()
        if self.settings.password is not None:
            await client.login(self.settings.username, self.settings.password.reveal())
        return None


class Stage:
    """How far one call has come; looked at when it ends badly."""

    def __init__(self) -> None:
        self.connecting = True
        self.dotted = False  # the message and its final dot were handed to the socket


class Connection:
    """One open submission session."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        self.client = client
        self.uses = 0
        self.used_at = 0.0
        self.reusable = False

    async def send(self, envelope: Envelope, stage: Stage) -> Answer:
        """One message. Raises SMTPException or OSError when the connection is lost; `stage` tells how far it was."""
        utf8 = not (envelope.sender.isascii() and envelope.recipient.isascii())
        if utf8 and not self.client.supports_extension("smtputf8"):
            return self.rest(Refused(Reason.RECIPIENT))
        options, encoding = (["SMTPUTF8", "BODY=8BITMIME"], "utf-8") if utf8 else ([], "ascii")
        try:
            await self.client.mail(envelope.sender, options=options, encoding=encoding, timeout=None)
            await self.client.rcpt(envelope.recipient, encoding=encoding, timeout=None)
        except aiosmtplib.SMTPRecipientRefused as refused:
            return await self.reset(verdict(refused.code, refused.message, Reason.RECIPIENT))
        except aiosmtplib.SMTPResponseException as refused:
            return await self.reset(verdict(refused.code, refused.message, Reason.OTHER))
        ready = await self.client.execute_command(b"DATA", timeout=None)
        if ready.code != 354:
            return await self.reset(verdict(ready.code, ready.message, Reason.OTHER))
        protocol = self.client.protocol
        if protocol is None:
            raise aiosmtplib.SMTPServerDisconnected("lost")
        # Once this is written the server may take it. aiosmtplib's own `data` would not say whether it came so far.
        protocol.write(stuffed(envelope.data))
        stage.dotted = True
        final = await protocol.read_response(timeout=None)
        if final.code == 250:
            queued = re.search(r"queued as ([\w.-]{1,64})", final.message)
            return self.rest(Done(queued[1] if queued else ""))
        return self.rest(verdict(final.code, final.message, Reason.CONTENT))

    async def reset(self, answer: Answer) -> Answer:
        """Clears the envelope for the next message; the answer stands, whatever becomes of the connection."""
        try:
            if self.client.is_connected:
                await self.client.rset(timeout=CONNECT_S)
        except (aiosmtplib.SMTPException, OSError):
            self.client.close()
        return self.rest(answer)

    def rest(self, answer: Answer) -> Answer:
        self.uses += 1
        self.used_at = asyncio.get_running_loop().time()
        self.reusable = self.client.is_connected
        return answer

    async def quit(self) -> None:
        try:
            await self.client.quit(timeout=1.0)
        except (aiosmtplib.SMTPException, OSError):
            self.client.close()


def verdict(code: int, text: str, refused: Reason) -> Answer:
    """A reply code -> a word; the enhanced code (RFC 3463), if any, tells an address from a content problem."""
    if not 500 <= code < 600:
        # A full mailbox or a grey list says nothing about the server's health.
        about_one = refused is Reason.RECIPIENT and code in (450, 451, 452)
        return TryLater(Reason.RECIPIENT if about_one else Reason.PROVIDER)
    match re.match(r"5\.(\d)\.(\d{1,3})", text):
        case re.Match() as enhanced:
            refused = {("1", "8"): Reason.OTHER, ("3", "4"): Reason.TOO_LARGE, ("2", "3"): Reason.TOO_LARGE}.get(
                (enhanced[1], enhanced[2]), {"1": Reason.RECIPIENT, "2": Reason.RECIPIENT, "6": Reason.CONTENT}.get(enhanced[1], refused)
            )
        case _:
            refused = Reason.TOO_LARGE if code == 552 else refused
    return Refused(refused)


def connect_reason(error: BaseException | None) -> Reason:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return Reason.TLS
        if isinstance(error, socket.gaierror):
            return Reason.DNS
        error = error.__cause__ or error.__context__
    return Reason.CONNECT


def stuffed(data: bytes) -> bytes:
    """The message as DATA wants it: lines that begin with a dot get a second one, a lone dot ends it."""
    body = re.sub(rb"(?m)^\.", b"..", data)
    return body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def render(claim: Claim, settings: SmtpSettings, now_ms: int) -> Envelope:
    """Pure: the same claim at the same time gives the same bytes. Raises ValueError or MsgspecError for a bad body."""
    mail = msgspec.json.decode(claim.body, type=Mail)
    sender, recipient = mailbox(mail.sender), mailbox(settings.redirect_to or mail.to)
    message = EmailMessage(policy=CRLF)
    message["From"], message["To"] = sender, recipient
    message["Subject"] = line(mail.subject)
    if mail.reply_to:
        message["Reply-To"] = mailbox(mail.reply_to)
    for name, value in mail.headers.items():
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name) or name.lower() in OURS or name.lower().startswith("content-"):
            raise ValueError("a header that is not the renderer's to set")
        message[name] = line(value)
    if "Date" not in message:
        message["Date"] = formatdate(now_ms / 1000, usegmt=True)
    if "Message-ID" not in message:
        message["Message-ID"] = f"<{claim.effect}@{sender.domain}>"
    message.set_content(mail.text, cte="quoted-printable")
    if mail.html:
        message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
        message.set_boundary(f"=_{claim.effect}")  # the library would draw a random one
    return Envelope(return_path(claim, settings, sender), recipient.addr_spec, message.as_bytes())


def return_path(claim: Claim, settings: SmtpSettings, sender: Address) -> str:
    if not settings.return_path:
        return sender.addr_spec
    local, _, domain = settings.return_path.rpartition("@")
    return f"{local}+{claim.effect}@{domain}" if settings.verp else settings.return_path


def line(value: str) -> str:
    """A header value on one line: whoever can add a line can add a recipient."""
    if any(character in value for character in "\r\n\0"):
        raise ValueError("a line break in a header")
    return value


def mailbox(value: str) -> Address:
    """Exactly one address, its domain in ASCII."""
    found = getaddresses([line(value)])
    if len(found) != 1 or found[0][1].count("@") != 1:
        raise ValueError("not one address")
    name, address = found[0]
    local, _, domain = address.rpartition("@")
    if not local or not domain or re.search(r"[\s<>\x00-\x1f\x7f]", address):
        raise ValueError("not an address")
    return Address(display_name=name, username=local, domain=domain.encode("idna").decode() if not domain.isascii() else domain)
