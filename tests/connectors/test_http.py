"""One attempt, one budget, and nowhere we should not go."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Reason, Refused, SettingsError, TryLater, Unknown
from connectors.http import REPLY_CAP, REQUEST_CAP, Blocked, Guard, Http, Reply, Request, is_public, require_https, retry_after

NOW = 1_795_000_000_000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that hands each request's head to `answer`, then closes the connection."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)


@asynccontextmanager
async def client(guard: Guard | None = None, ca_file: str = "") -> AsyncIterator[Http]:
    http = Http(connections=4, guard=guard, ca_file=ca_file)
    await http.start()
    yield http
    await http.close()


def writing(data: bytes) -> Answer:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


async def get(http: Http, url: str, budget_s: float = 5.0) -> Reply | TryLater | Refused | Unknown:
    return await http.send(Request("GET", url, (("Authorization", "Bearer hidden"),)), budget_s, NOW)


async def test_a_reply_has_status_headers_and_body() -> None:
    async with serving(writing(b"HTTP/1.1 418 No\r\nX-One: 1\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nok")) as port, client() as http:
        reply = await get(http, f"http://127.0.0.1:{port}/")
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.headers["x-one"], reply.retry_after_s) == (418, b"ok", "1", 3.0)


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with serving(writing(OK)) as elsewhere:
        location = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(writing(location)) as port, client() as http:
            reply = await get(http, f"http://127.0.0.1:{port}/")
    assert isinstance(reply, Reply)
    assert reply.status == 302


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(writing(OK)) as port, client() as http:
        assert isinstance(await get(http, f"http://127.0.0.1:{port}/"), Reply)


async def test_a_reply_is_read_up_to_a_cap() -> None:
    size = REPLY_CAP * 3
    async with serving(writing(f"HTTP/1.1 201 Created\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size)) as port, client() as http:
        reply = await get(http, f"http://127.0.0.1:{port}/")
    assert isinstance(reply, Reply)
    assert (reply.status, len(reply.body)) == (201, REPLY_CAP)


async def test_a_request_that_is_too_large_does_not_leave() -> None:
    async with client() as http:
        assert await http.send(Request("POST", "http://127.0.0.1:9/", body=b"x" * (REQUEST_CAP + 1)), 1.0, NOW) == Refused(Reason.TOO_LARGE)


async def test_a_connection_lost_after_the_status_line_still_is_that_status() -> None:
    async with serving(writing(b"HTTP/1.1 201 Created\r\nContent-Length: 900\r\n\r\n{")) as port, client() as http:
        reply = await get(http, f"http://127.0.0.1:{port}/")
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (201, b"{")


async def test_a_body_that_never_ends_still_is_its_status_when_the_budget_is_spent() -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")
        await asyncio.Event().wait()

    async with serving(answer) as port, client() as http:
        reply = await get(http, f"http://127.0.0.1:{port}/", budget_s=0.2)
    assert isinstance(reply, Reply)
    assert reply.status == 200


async def test_silence_and_garbage_after_the_request_are_unknown() -> None:
    async def silent(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(silent) as port, client() as http:
        assert await get(http, f"http://127.0.0.1:{port}/", budget_s=0.2) == Unknown(Reason.TIMEOUT)
    async with serving(writing(b"SSH-2.0-OpenSSH\r\n\r\n")) as port, client() as http:
        assert await get(http, f"http://127.0.0.1:{port}/") == Unknown(Reason.DROPPED)
    async with serving(writing(b"")) as port, client() as http:
        assert await get(http, f"http://127.0.0.1:{port}/") == Unknown(Reason.DROPPED)


async def test_a_budget_spent_while_connecting_is_try_later() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with client(Guard(resolve=never)) as http:
        assert await get(http, "https://shop.example/", budget_s=0.1) == TryLater(Reason.CONNECT)


async def test_a_header_or_url_that_cannot_be_written_is_ours_to_mend() -> None:
    async with client() as http:
        wrong = Request("GET", "http://127.0.0.1:9/", (("Authorization", "Bearer a\r\nX: b"),))
        assert isinstance(await http.send(wrong, 1.0, NOW), TryLater)
        assert await http.send(Request("GET", ""), 1.0, NOW) == TryLater(Reason.CONFIGURATION)
        assert await http.send(Request("GET", "ftp://a.example/"), 1.0, NOW) == TryLater(Reason.CONFIGURATION)


async def test_a_client_that_was_not_started_or_is_closed_says_try_later() -> None:
    assert await Http(connections=1).send(Request("GET", "http://127.0.0.1:9/"), 1.0, NOW) == TryLater(Reason.CLOSED)


def test_reprs_show_no_path_no_header_and_no_body() -> None:
    request = Request("GET", "https://api.example/Messages.json?To=%2B15555550100", (("Authorization", "Basic hidden"),), b"body")
    assert repr(request) == "Request(GET api.example)"
    assert "hidden" not in repr(Reply(200, {"set-cookie": "hidden"}, b"hidden"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("999999999999", 24 * 3600.0),
        ("Wed, 18 Nov 2026 09:07:00 GMT", 340.0),
        ("Wed, 18 Nov 2020 09:07:00 GMT", 0.0),
        ("Wed, 18 Nov 2026 09:07:00 -0000", None),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
        ("\u0663", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    now = dt.datetime(2026, 11, 18, 9, 1, 20, tzinfo=dt.UTC)
    assert retry_after(value, int(now.timestamp() * 1000)) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_read_or_ignored(value: str) -> None:
    read = retry_after(value, NOW)
    assert read is None or 0 <= read <= 24 * 3600


# --- the guard


def resolving(*addresses: str) -> Guard:
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return Guard(resolve=resolve)


INSIDE = [
    *(
        "127.0.0.1",
        "127.8.8.8",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
    ),
    *("0.0.0.0", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.0.8", "198.18.0.1", "192.0.2.1", "203.0.113.9"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:169.254.169.254", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
    *("fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001:0:1::1", "100::1"),
    "not-an-address",
]


@pytest.mark.parametrize("address", INSIDE)
async def test_no_name_may_lead_inside(address: str) -> None:
    assert not is_public(address)
    for addresses in ([address], ["93.184.216.34", address]):
        with pytest.raises(Blocked):
            await resolving(*addresses).addresses(httpx.URL("https://shop.example/hook"))
        async with client(resolving(*addresses)) as http:
            assert await get(http, "https://shop.example/hook") == Refused(Reason.BLOCKED_ADDRESS)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "172.32.0.1", "100.128.0.1", "169.253.1.1"])
async def test_public_addresses_pass(address: str) -> None:
    assert await resolving(address).addresses(httpx.URL("https://shop.example/hook")) == [address]


@given(st.ip_addresses(v=4))
def test_what_passes_is_global_and_what_is_private_never_passes(address: ipaddress.IPv4Address) -> None:
    if is_public(str(address)):
        assert address.is_global
        assert not any((address.is_private, address.is_multicast, address.is_reserved, address.is_loopback, address.is_link_local))
    assert not is_public(f"::ffff:{address}")


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/hook",
        "https://user:pw@shop.example/hook",
        "https://shop.example:22/hook",
        "https://shop.example:6379/",
        "gopher://shop.example/",
        "file:///etc/passwd",
    ],
)
async def test_other_schemes_ports_and_userinfo_are_blocked(url: str) -> None:
    with pytest.raises(Blocked):
        await resolving("93.184.216.34").addresses(httpx.URL(url))


async def test_numeric_spellings_of_loopback_are_resolved_before_they_are_judged() -> None:
    for host in ("127.1", "2130706433", "0x7f000001", "017700000001"):
        with pytest.raises(Blocked):
            await Guard().addresses(httpx.URL(f"https://{host}/"))


async def test_private_receivers_are_reached_only_when_allowed_and_link_local_never() -> None:
    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def metadata(host: str, port: int) -> list[str]:
        return ["169.254.169.254"]

    async def mixed(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "93.184.216.34"]

    assert await Guard(private=True, resolve=loopback).addresses(httpx.URL("http://erp.lan:8080/")) == ["127.0.0.1"]
    for resolve in (metadata, mixed):
        with pytest.raises(Blocked):
            await Guard(private=True, resolve=resolve).addresses(httpx.URL("https://erp.lan/"))


async def test_a_name_that_changes_its_address_is_called_where_it_was_checked(tls: tuple[ssl.SSLContext, str]) -> None:
    """DNS rebinding: the name is resolved once, the checked address is called; Host and SNI keep the name."""
    context, ca_file = tls
    heads: list[bytes] = []
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    looked_up: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["127.0.0.2"]

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(OK)

    async with serving(answer, context) as port, client(Guard(private=True, resolve=rebinding), ca_file) as http:
        reply = await get(http, f"https://shop.example:{port}/hook")
    assert isinstance(reply, Reply)
    assert looked_up == ["shop.example"]
    assert names == ["shop.example"]
    assert f"Host: shop.example:{port}".encode() in heads[0]


async def test_a_certificate_for_another_name_is_not_accepted(tls: tuple[ssl.SSLContext, str]) -> None:
    context, ca_file = tls

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with serving(writing(OK), context) as port, client(Guard(private=True, resolve=resolve), ca_file) as http:
        assert await get(http, f"https://other.example:{port}/hook") == TryLater(Reason.TLS)


async def test_the_next_address_is_tried_when_one_does_not_connect() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    async with serving(writing(OK)) as port, client(Guard(private=True, resolve=resolve)) as http:
        assert isinstance(await get(http, f"http://erp.lan:{port}/hook"), Reply)


def test_credentials_travel_over_https_except_on_this_machine() -> None:
    require_https("sms", "https://api.example")
    require_https("sms", "http://127.0.0.1:8080")
    require_https("sms", "http://localhost:8080")
    for url in ("http://api.example", "http://10.0.0.1", "ftp://api.example", "https://u:p@api.example", "api.example"):
        with pytest.raises(SettingsError, match="url"):
            require_https("sms", url)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    return self_signed(tmp_path_factory.mktemp("tls"), "shop.example")


def self_signed(folder: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """A server's context for one name, and the file that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context, str(file)
