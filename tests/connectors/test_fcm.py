"""FCM: messages as the discovery document draws them, errors with one meaning, tokens fetched and kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from connectors.base import Answer, Done, Reason, Refused, Secret, SettingsError, TryLater, Unknown
from connectors.fcm import Fcm
from connectors.http import Reply
from connectors.stand_ins import PROJECT, Faults, StandIns
from orders.effect import Claim
from tests.connectors.published import published

NOW = 1_795_000_000_000
SAMPLES = Path(__file__).parents[1] / "samples" / "fcm"


def fcm(**settings: Any) -> Fcm:
    return Fcm({"project": "shop", "token": Secret("hidden"), **settings})


def claim(n: int = 0, **body: Any) -> Claim:
    known = {"token": "device", "title": "Your order", "body": "On its way.", "data": {"order": "lumi:1"}, **body}
    return Claim(lane="l", key="lumi:c1", effect=f"{n:016d}", channel="push", attempt=1, deadline=NOW, body=msgspec.json.encode(known))


def means(word: list[Any]) -> Answer:
    match word:
        case ["Done", reference]:
            return Done(reference)
        case ["Refused", reason]:
            return Refused(Reason(reason))
        case ["Unknown", reason]:
            return Unknown(Reason(reason))
        case ["TryLater", reason, after]:
            return TryLater(Reason(reason), after)
    raise AssertionError(word)


@pytest.mark.parametrize(
    "case", json.loads((SAMPLES / "replies.json").read_text()), ids=lambda case: f"{case['status']}-{case['means'][1]}"
)
def test_a_reply_has_one_meaning(case: dict[str, Any]) -> None:
    body = json.dumps(case["body"]).encode() if "body" in case else case["text"].encode()
    assert fcm().read(Reply(case["status"], {}, body, case.get("retry_after_s"))) == means(case["means"])


def test_the_vendors_own_sample_of_an_invalid_token_refuses_the_recipient() -> None:
    assert fcm().read(Reply(400, {}, published("fcm", "samples", "error-invalid-token.json"))) == Refused(Reason.RECIPIENT)


def test_the_effect_travels_in_the_data_and_the_sandbox_flag_only_when_asked_for() -> None:
    body = json.loads(fcm().render(claim()).body)
    assert body["message"]["data"] == {"order": "lumi:1", "effect": "0" * 16}
    assert "validateOnly" not in body
    assert json.loads(fcm(validate_only=True).render(claim()).body)["validateOnly"] is True


@pytest.mark.parametrize("name", ["from", "message_type", "google.x", "gcm.notification.a"])
async def test_reserved_names_in_data_are_malformed(name: str) -> None:
    assert await fcm().call(claim(data={name: "x"}), NOW, 1.0) == Refused(Reason.MALFORMED)


def test_what_we_send_is_what_the_discovery_document_describes() -> None:
    document = json.loads(published("fcm", "spec", "fcm.v1.discovery.json"))
    schema = {"$ref": "#/$defs/SendMessageRequest", "$defs": {name: closed(kind) for name, kind in document["schemas"].items()}}
    for request in (fcm().render(claim()), fcm(validate_only=True, priority="NORMAL").render(claim())):
        jsonschema.validate(json.loads(request.body), schema)
        assert request.url == document["baseUrl"] + "v1/projects/shop/messages:send"
        assert document["resources"]["projects"]["resources"]["messages"]["methods"]["send"]["httpMethod"] == request.method
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"message": {"tokn": "x"}}, schema)


def closed(kind: Any) -> Any:
    """Google's discovery schema as JSON Schema that lets no unknown field pass."""
    if isinstance(kind, list):
        return [closed(each) for each in kind]
    if not isinstance(kind, dict):
        return kind
    made = {
        name: closed(value) for name, value in kind.items() if name not in ("id", "format", "type" if kind.get("type") == "any" else "id")
    }
    if "$ref" in made:
        return {"$ref": f"#/$defs/{made['$ref']}"}
    if kind.get("type") == "object" and "properties" in kind:
        made["additionalProperties"] = False
    return made


# --- service accounts


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
async def stand_ins(key: rsa.RSAPrivateKey) -> AsyncIterator[StandIns]:
    servers = StandIns(clock=lambda: NOW, public_key=key.public_key())
    await servers.start()
    yield servers
    await servers.close()


def account(key: rsa.RSAPrivateKey, port: int) -> Secret:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    known = {"type": "service_account", "client_email": "push@shop.iam.example", "private_key": pem, "private_key_id": "1"}
    return Secret(json.dumps({**known, "token_uri": f"http://127.0.0.1:{port}/token"}))


async def test_one_token_is_fetched_for_many_messages_and_renewed_before_it_ends(stand_ins: StandIns, key: rsa.RSAPrivateKey) -> None:
    connector = Fcm(
        {"project": PROJECT, "service_account": account(key, stand_ins.http_port), "url": f"http://127.0.0.1:{stand_ins.http_port}"}
    )
    await connector.start()
    answers = await asyncio.gather(*(connector.call(claim(n), NOW, 5.0) for n in range(10)))
    assert all(isinstance(answer, Done) for answer in answers)
    assert stand_ins.fcm.tokens_granted == 1
    assert isinstance(await connector.call(claim(11), NOW + 3_500_000, 5.0), Done)
    assert stand_ins.fcm.tokens_granted == 1
    assert isinstance(await connector.call(claim(12), NOW + 3_545_000, 5.0), Done)
    assert stand_ins.fcm.tokens_granted == 2
    await connector.close()


async def test_a_refused_token_is_forgotten_and_fetched_again(stand_ins: StandIns, key: rsa.RSAPrivateKey) -> None:
    connector = Fcm(
        {"project": PROJECT, "service_account": account(key, stand_ins.http_port), "url": f"http://127.0.0.1:{stand_ins.http_port}"}
    )
    await connector.start()
    connector.tokens.held, connector.tokens.until_ms = Secret("revoked"), NOW + 1_000_000  # type: ignore[attr-defined]
    assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.CREDENTIALS)
    assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
    await connector.close()


async def test_a_token_that_cannot_be_had_is_try_later_because_no_message_left(stand_ins: StandIns, key: rsa.RSAPrivateKey) -> None:
    other = rsa.generate_private_key(65537, 2048)
    url = f"http://127.0.0.1:{stand_ins.http_port}"
    connector = Fcm({"project": PROJECT, "service_account": account(other, stand_ins.http_port), "url": url})
    await connector.start()
    assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.CREDENTIALS)
    await connector.close()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    connector = Fcm({"project": PROJECT, "service_account": account(key, server.sockets[0].getsockname()[1]), "url": url})
    await connector.start()
    answers = await asyncio.gather(*(connector.call(claim(n), NOW, 0.2) for n in range(3)))
    assert all(isinstance(answer, TryLater) for answer in answers), "a silent token server is no unknown message"
    await connector.close()
    server.close()

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    connector = Fcm({"project": PROJECT, "service_account": account(key, server.sockets[0].getsockname()[1]), "url": url})
    await connector.start()
    assert await connector.call(claim(), NOW, 5.0) == TryLater(Reason.DROPPED)
    await connector.close()
    server.close()


async def test_a_validated_message_is_not_delivered(stand_ins: StandIns) -> None:
    connector = Fcm({**stand_ins.settings("push"), "validate_only": True})
    await connector.start()
    assert isinstance(await connector.call(claim(), NOW, 5.0), Done)
    assert stand_ins.received("push") == []
    stand_ins.faults["push"] = Faults()
    await connector.close()


def test_settings_without_a_usable_account_are_refused_without_showing_it() -> None:
    for bad in ("not json", "{}", json.dumps({"client_email": "hidden", "private_key": "hidden", "token_uri": "https://t.example"})):
        with pytest.raises(SettingsError, match="service_account") as error:
            Fcm({"project": "shop", "service_account": Secret(bad)})
        assert "hidden" not in str(error.value)
    with pytest.raises(SettingsError, match="service_account or token"):
        Fcm({"project": "shop", "token": Secret("")})
    with pytest.raises(SettingsError, match="project"):
        Fcm({"project": "", "token": Secret("x")})
