"""SMTP: certain up to the final dot, unknown after it; one header is one line."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Answer, Done, Reason, Refused, Secret, SettingsError, TryLater, Unknown
from connectors.smtp import SIZE_CAP, Smtp, SmtpSettings, render, stuffed, verdict
from orders.effect import Claim

NOW = 1_795_000_000_000
SAMPLES = Path(__file__).parents[1] / "samples" / "smtp"
MAIL: dict[str, Any] = {
    "to": "zoe@example.invalid",
    "from": "Lumi Zone <orders@lumi.example>",
    "reply_to": "care@lumi.example",
    "subject": "Your order",
    "text": "Hello.\n",
    "html": "<p>Hello.</p>",
    "headers": {"Message-ID": f"<{'e' * 16}.{'c' * 60}.{'s' * 22}@lumi.example>", "Auto-Submitted": "auto-generated"},
}


def claim(**changes: Any) -> Claim:
    body = msgspec.json.encode({**MAIL, **changes})
    return Claim(lane="l", key="k", effect="e" * 16, channel="email", attempt=1, deadline=NOW, body=body)


def settings(**changes: Any) -> SmtpSettings:
    return SmtpSettings(host="127.0.0.1", tls="off", **changes)


# --- what is written


def test_a_mail_reads_back_as_it_was_meant() -> None:
    one = claim(subject="Grüße, Zoë", text="Zoë,\n.dots\n..stay\n", to="Zoë <zoe@exämple.invalid>")
    envelope = render(one, settings(), NOW)
    message = message_from_bytes(envelope.data, policy=policy.default)
    assert (envelope.sender, envelope.recipient) == ("orders@lumi.example", "zoe@xn--exmple-cua.invalid")
    assert message["Subject"] == "Grüße, Zoë"
    assert message["To"].addresses[0].display_name == "Zoë"
    assert message["Message-ID"] == MAIL["headers"]["Message-ID"], "a long one is not folded apart"
    assert message.get_body(("plain",)).get_content().replace("\r\n", "\n") == "Zoë,\n.dots\n..stay\n"
    assert message.get_body(("html",)).get_content().strip() == "<p>Hello.</p>"
    assert max(len(line) for line in envelope.data.split(b"\r\n")) < 998
    assert b"\n" not in envelope.data.replace(b"\r\n", b"")


def test_the_same_claim_gives_the_same_bytes() -> None:
    assert render(claim(), settings(), NOW) == render(claim(), settings(), NOW)


def test_without_a_message_id_the_effect_becomes_one() -> None:
    message = message_from_bytes(render(claim(headers={}), settings(), NOW).data, policy=policy.default)
    assert message["Message-ID"] == f"<{'e' * 16}@lumi.example>"
    assert message["Date"].datetime == dt.datetime.fromtimestamp(NOW / 1000, dt.UTC)


def test_the_envelope_carries_the_effect_home_when_asked_to() -> None:
    assert render(claim(), settings(return_path="bounces@lumi.example"), NOW).sender == "bounces@lumi.example"
    assert render(claim(), settings(return_path="bounces@lumi.example", verp=True), NOW).sender == f"bounces+{'e' * 16}@lumi.example"


def test_a_sandbox_redirects_everything_to_one_address() -> None:
    envelope = render(claim(), settings(redirect_to="qa@lumi.example"), NOW)
    assert envelope.recipient == "qa@lumi.example"
    assert b"zoe@" not in envelope.data


@pytest.mark.parametrize("place", ["subject", "to", "from", "reply_to", "header"])
@pytest.mark.parametrize("poison", ["\r\nBcc: all@evil.example", "\nX: y", "\r", "\0"])
async def test_a_line_break_in_a_header_is_refused(place: str, poison: str) -> None:
    wrong = claim(headers={"X-Tag": "a" + poison}) if place == "header" else claim(**{place: MAIL[place] + poison})
    assert await Smtp({"host": "127.0.0.1", "tls": "off"}).call(wrong, NOW, 1.0) == Refused(Reason.MALFORMED)


@pytest.mark.parametrize("name", ["Bcc", "to", "From", "Content-Type", "Subject", "X Y", "X:Y", "", "Received"])
def test_headers_that_follow_from_the_message_cannot_be_set_beside_it(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        render(claim(headers={name: "x"}), settings(), NOW)


@pytest.mark.parametrize(
    "to", ["", "zoe", "a@b@c", "a@x.example, b@x.example", "@x.example", "zoe@", "a b@x.example", "<a@x.example> <b@x.example>"]
)
def test_anything_but_one_address_is_refused(to: str) -> None:
    with pytest.raises(ValueError, match="address"):
        render(claim(to=to), settings(), NOW)


@given(st.text(), st.text(max_size=80))
def test_no_text_can_end_the_message_early_or_add_a_header(text: str, subject: str) -> None:
    try:
        envelope = render(claim(text=text, subject=subject), settings(), NOW)
    except ValueError:
        return
    wire = stuffed(envelope.data)
    assert wire.endswith(b"\r\n.\r\n")
    assert wire.count(b"\r\n.\r\n") == 1
    head = envelope.data.partition(b"\r\n\r\n")[0]
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n") if not line[:1].isspace()}
    assert names == {b"from", b"to", b"subject", b"reply-to", b"message-id", b"date", b"auto-submitted", b"mime-version", b"content-type"}


# --- what is answered


@pytest.mark.parametrize("case", json.loads((SAMPLES / "replies.json").read_text()), ids=lambda case: f"{case['at']}-{case['code']}")
async def test_a_reply_has_one_meaning_at_its_stage(case: dict[str, Any]) -> None:
    word, reason, *_ = case["means"]
    expected: Answer = TryLater(Reason(reason)) if word == "TryLater" else Refused(Reason(reason))
    line = f"{case['code']} {case['text']}".encode()
    async with scripted({case["at"]: line}) as port, connected(port) as connector:
        assert await connector.call(claim(), NOW, 5.0) == expected


def test_a_code_without_words_still_has_a_meaning() -> None:
    assert verdict(550, "", Reason.RECIPIENT) == Refused(Reason.RECIPIENT)
    assert verdict(999, "", Reason.OTHER) == TryLater(Reason.PROVIDER)
    assert verdict(250, "", Reason.OTHER) == TryLater(Reason.PROVIDER)


@asynccontextmanager
async def scripted(answers: dict[str, bytes | None]) -> AsyncIterator[int]:
    """A server that says yes, but for the given stages: another line, or None to close the connection there."""
    tasks: set[asyncio.Task[Any] | None] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        stage, line = "greeting", b""
        try:
            while True:
                usual = {b"data": b"354 go", b"": b"220 hi", b"quit": b"221 bye"}.get(line[:4].lower().strip(), b"250 ok")
                answer = answers.get(stage, usual)
                if answer is None:
                    return
                writer.write(answer + b"\r\n")
                if stage == "data" and answer.startswith(b"354"):
                    await reader.readuntil(b"\r\n.\r\n")
                    stage, line = "dot", b"dot"
                    continue
                line = await reader.readuntil(b"\r\n")
                stage = line[:4].decode().lower().strip()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)


@asynccontextmanager
async def connected(port: int, **changes: Any) -> AsyncIterator[Smtp]:
    connector = Smtp({"host": "127.0.0.1", "port": port, "tls": "off", **changes})
    await connector.start()
    yield connector
    await connector.close()


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data"])
async def test_a_connection_lost_before_the_message_is_try_later(stage: str) -> None:
    async with scripted({stage: None}) as port, connected(port) as connector:
        assert isinstance(await connector.call(claim(), NOW, 5.0), TryLater)


async def test_a_connection_lost_after_the_dot_is_unknown() -> None:
    async with scripted({"dot": None}) as port, connected(port) as connector:
        assert await connector.call(claim(), NOW, 5.0) == Unknown(Reason.DROPPED)


async def test_a_refusal_stands_although_the_connection_is_lost_right_after_it() -> None:
    async with scripted({"rcpt": b"550 5.1.1 no such user", "rset": None}) as port, connected(port) as connector:
        assert await connector.call(claim(), NOW, 5.0) == Refused(Reason.RECIPIENT)


async def test_garbage_after_the_dot_is_unknown_and_before_it_try_later() -> None:
    async with scripted({"dot": b"what?"}) as port, connected(port) as connector:
        assert await connector.call(claim(), NOW, 5.0) == Unknown(Reason.DROPPED)
    async with scripted({"rcpt": b"what?"}) as port, connected(port) as connector:
        assert isinstance(await connector.call(claim(), NOW, 5.0), TryLater)


@pytest.mark.parametrize(
    ("stage", "line"), [("greeting", b"554 no service"), ("greeting", b"421 busy"), ("ehlo", b"550 go away"), ("data", b"451 no")]
)
async def test_a_server_that_will_not_talk_to_us_says_nothing_about_the_message(stage: str, line: bytes) -> None:
    async with scripted({stage: line, "helo": line}) as port, connected(port) as connector:
        assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.PROVIDER)


async def test_a_mail_that_is_too_large_does_not_leave() -> None:
    async with connected(9) as connector:
        assert await connector.call(claim(text="x" * SIZE_CAP), NOW, 1.0) == Refused(Reason.TOO_LARGE)


# --- connections


class Sink:
    """Keeps what it takes and counts sessions."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, bytes]] = []
        self.sessions: list[SMTP] = []

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.taken.append((envelope.mail_from, envelope.rcpt_tos[0], envelope.content))
        return "250 2.0.0 Ok: queued as 4Ft8Z"


@asynccontextmanager
async def sinking(sink: Sink, make: Callable[[Sink], SMTP]) -> AsyncIterator[int]:
    def session() -> SMTP:
        sink.sessions.append(make(sink))
        return sink.sessions[-1]

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for each in sink.sessions:
        if each.transport is not None:
            each.transport.abort()
        each._handler_coroutine.cancel()
    await asyncio.gather(*(each._handler_coroutine for each in sink.sessions), return_exceptions=True)


def plain(sink: Sink) -> SMTP:
    return SMTP(sink, enable_SMTPUTF8=True, hostname="sink.invalid", loop=asyncio.get_running_loop())


async def test_one_connection_serves_many_messages_and_names_the_queue_id() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port) as connector:
        assert [await connector.call(claim(), NOW, 5.0) for _ in range(5)] == [Done("4Ft8Z")] * 5
        assert (len(sink.taken), len(sink.sessions)) == (5, 1)


async def test_a_refused_message_does_not_cost_the_connection() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port) as connector:
        assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
        assert await connector.call(claim(to="nobody@example.invalid"), NOW, 5.0) == Refused(Reason.RECIPIENT)
        assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
        assert len(sink.sessions) == 1


async def test_a_connection_that_died_at_rest_is_replaced_within_the_same_attempt() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port) as connector:
        assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
        sink.sessions[0].transport.abort()
        assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
        assert (len(sink.taken), len(sink.sessions)) == (2, 2)


async def test_calls_at_once_use_connections_of_their_own() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port) as connector:
        answers = await asyncio.gather(*(connector.call(claim(), NOW, 5.0) for _ in range(4)))
        assert {type(answer) for answer in answers} == {Done}
        assert len(sink.sessions) == 4
        assert len(connector.idle) == 4


async def test_a_line_that_begins_with_a_dot_arrives_with_one_dot() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port) as connector:
        assert isinstance(await connector.call(claim(text=".\n.one\n..two\n", html=""), NOW, 5.0), Done)
    message = message_from_bytes(sink.taken[0][2], policy=policy.default)
    assert message.get_content().replace("\r\n", "\n") == ".\n.one\n..two\n"


async def test_an_address_beyond_ascii_goes_only_to_a_server_that_takes_it() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port) as connector:
        assert isinstance(await connector.call(claim(to="zoë@example.invalid"), NOW, 5.0), Done)
        assert sink.taken[0][1] == "zoë@example.invalid"
    old = Sink()
    async with (
        sinking(old, lambda sink: SMTP(sink, hostname="old.invalid", loop=asyncio.get_running_loop())) as port,
        connected(port) as connector,
    ):
        assert await connector.call(claim(to="zoë@example.invalid"), NOW, 5.0) == Refused(Reason.RECIPIENT)
        assert isinstance(await connector.call(claim(), NOW, 5.0), Done)


# --- TLS and credentials


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, str(file)


async def test_starttls_protects_the_password_and_a_wrong_one_waits_for_the_operator(tls: tuple[ssl.SSLContext, str]) -> None:
    context, ca_file = tls
    seen: list[bool] = []

    def authenticate(server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        seen.append(session.ssl is not None)
        return AuthResult(success=data.password == b"right", handled=False)

    def secure(sink: Sink) -> SMTP:
        loop = asyncio.get_running_loop()
        return SMTP(
            sink, tls_context=context, require_starttls=True, auth_required=True, authenticator=authenticate, hostname="x", loop=loop
        )

    sink = Sink()
    async with sinking(sink, secure) as port:
        login = {"host": "localhost", "tls": "starttls", "ca_file": ca_file, "username": "shop"}
        async with connected(port, **login, password=Secret("right")) as connector:
            assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
        async with connected(port, **login, password=Secret("wrong")) as connector:
            assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.CREDENTIALS)
        async with connected(port, **{**login, "ca_file": ""}, password=Secret("right")) as connector:
            assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.TLS), "an unknown certificate"
    assert set(seen) == {True}
    assert len(sink.taken) == 1


async def test_a_server_without_starttls_gets_nothing() -> None:
    sink = Sink()
    async with sinking(sink, plain) as port, connected(port, tls="starttls") as connector:
        assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.TLS)
    assert sink.taken == []


def test_plain_text_to_another_machine_must_be_insisted_on() -> None:
    with pytest.raises(SettingsError, match="tls is off"):
        Smtp({"host": "mail.example", "tls": "off"})
    Smtp({"host": "mail.example", "tls": "off", "allow_plaintext": True})
    with pytest.raises(SettingsError, match="username and password"):
        Smtp({"host": "mail.example", "username": "shop"})
