"""The doctor finds each fault by itself, says what to do about it, and leaves everything as it was."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import doctor
import wire
from connectors.stand_ins import StandIns
from connectors.valkey import EmbeddedValkey
from doctor import Finding, examine
from settings import (
    Account,
    Channels,
    EmailChannel,
    Http,
    Kafka,
    Layout,
    Location,
    Rate,
    Ref,
    Settings,
    SmsChannel,
    Sourcing,
    WebhookChannel,
)
from streams.sqlite_log import EmbeddedLog

WORD = "hunter2"


def settings_of(folder: Path, **more: Any) -> Settings:
    base = Settings(data=str(folder), ray="off", archive=False, layout=Layout(partitions=2), kafka=Kafka())
    return msgspec.structs.replace(base, **more)


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laid-out") / "data"
    asyncio.run(wire.initialise(settings_of(folder), "earliest"))
    return folder


@pytest.fixture
def folder(laid_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(laid_out, tmp_path / "data"))


async def findings(settings: Settings, environment: dict[str, str] | None = None) -> dict[str, Finding]:
    found = await examine(settings, environment or {})
    assert all(f.do for f in found if not f.ok), "every fault says what to do"
    assert all(WORD not in f"{f.says} {f.do}" for f in found)
    return {f.what: f for f in found}


def wrong(found: dict[str, Finding]) -> list[str]:
    return [what for what, finding in found.items() if not finding.ok]


async def test_a_fresh_installation_is_well_and_stays_as_it_is(folder: Path) -> None:
    before = await _standing(folder)
    found = await findings(settings_of(folder))
    assert wrong(found) == []
    assert found["positions"].says == "all lanes are placed" and "not needed while e-mail is in observe" in found["mail server"].says
    assert await _standing(folder) == before


async def _standing(folder: Path) -> list[Any]:
    settings = settings_of(folder)
    async with wire.store_of(settings) as store:
        return await store.standing(wire.lanes(settings))


async def test_a_log_without_topics(tmp_path: Path) -> None:
    found = await findings(settings_of(tmp_path / "new"))
    assert wrong(found) == ["log"]
    assert "no topics deliveries" in found["log"].says and "run.py init" in found["log"].do


async def test_another_partition_count_than_at_init(folder: Path) -> None:
    found = await findings(settings_of(folder, layout=Layout(partitions=3)))
    assert wrong(found) == ["log"] and "layout.partitions is 3" in found["log"].says and "correct the configuration" in found["log"].do


async def test_another_log_than_the_store_s(folder: Path) -> None:
    shutil.rmtree(folder / "log")
    log = EmbeddedLog(folder / "log")
    async with wire.opened(log):
        await log.create(dict.fromkeys(wire.TOPICS, 2))
    found = await findings(settings_of(folder))
    assert (
        wrong(found) == ["positions"] and "belong to another log" in found["positions"].says and "run.py recover" in found["positions"].do
    )


async def test_an_emptied_store(folder: Path) -> None:
    shutil.rmtree(folder / "store")
    found = await findings(settings_of(folder))
    assert wrong(found) == ["positions"] and "10 lanes have none" in found["positions"].says and "run.py recover" in found["positions"].do


async def test_a_rebuilt_store_that_nobody_has_opened(folder: Path) -> None:
    settings = settings_of(folder)
    async with wire.store_of(settings) as store:
        await store.set_sends(wire.lanes(settings, ["customers"]), sends=False)
    found = await findings(settings)
    assert wrong(found) == ["positions"] and found["positions"].do.endswith("run.py recover --open")


@pytest.fixture
def loose_store(tmp_path: Path) -> Iterator[str]:
    """A server that may forget what it acknowledged."""
    server = EmbeddedValkey(tmp_path / "loose", settings=("--appendfsync", "everysec", "--maxmemory-policy", "allkeys-lru"))
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


async def test_a_store_that_forgets_or_evicts_is_refused_with_the_settings_to_change(folder: Path, loose_store: str) -> None:
    found = await findings(settings_of(folder, store=loose_store))
    assert wrong(found) == ["store"]
    assert "--appendfsync always" in found["store"].says and "set it to noeviction" in found["store"].says
    assert found["log"].ok, "what has nothing to do with it is looked at all the same"


async def test_a_store_on_another_machine_without_tls(folder: Path) -> None:
    found = await findings(settings_of(folder, store=f"redis://:{WORD}@10.0.0.1:6379"))
    assert wrong(found) == ["store"] and "rediss://" in found["store"].says


async def test_a_kafka_that_is_not_there(folder: Path) -> None:
    found = await findings(settings_of(folder, log="kafka://127.0.0.1:1"))
    assert wrong(found) == ["log"] and "no broker answers" in found["log"].says and "`log`" in found["log"].do


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (
            {"channels": Channels(email=EmailChannel(username="anna", password=Ref(env="GONE")))},
            "channels.email.password: the environment variable GONE",
        ),
        ({"channels": Channels(sms=SmsChannel(account="AC1", token=Ref(file="/gone")))}, "channels.sms.token: the file /gone"),
        ({"http": Http(token=Ref(env="GONE"))}, "http.token: the environment variable GONE"),
        ({"signing": Ref(env="GONE")}, "signing: the environment variable GONE"),
        ({"signing": Ref(env="OTHER")}, "signing: a key has at least 16 bytes"),
        (
            {"accounts": (Account(name="s", vendor="shopify", secrets=(Ref(env="GONE"),)),)},
            "accounts[0].secrets: the environment variable GONE",
        ),
        ({"http": Http(host="0.0.0.0")}, "nobody has to sign in"),
        ({"channels": Channels(webhook=WebhookChannel(url="https://erp.example"))}, "channels.webhook: url needs a secret"),
        ({"channels": Channels(email=EmailChannel(host="0.0.0.0", tls="off"))}, "channels.email: tls is off but host is another"),
        (
            {
                "accounts": (Account(name="u", vendor="ups", secrets=(Ref(env="OTHER"),), credentials={"client_id": Ref(env="OTHER")}),),
                "sourcing": Sourcing(locations=(Location(name="main"),), rates=(Rate(carrier="usps", base_minor=1, days=1),)),
                "signing": Ref(file="/proc/version"),
            },
            "sourcing.rates[0]: no account buys usps standard labels",
        ),
    ],
    ids=["email", "sms", "http", "signing", "guessable", "account", "open", "webhook", "plaintext", "rates"],
)
async def test_a_missing_secret_is_named_by_its_field(folder: Path, more: dict[str, Any], names: str) -> None:
    found = await findings(settings_of(folder, **more), {"OTHER": WORD})
    assert wrong(found) == ["secrets"] and names in found["secrets"].says


async def test_a_channel_that_is_live_without_being_configured(folder: Path) -> None:
    found = await findings(settings_of(folder, channels=Channels(sms=SmsChannel(mode="live"), webhook=WebhookChannel(mode="sandbox"))))
    assert wrong(found) == ["channels"] and "not configured: sms, webhook" in found["channels"].says
    assert "channels.sms" in found["channels"].do


async def test_a_mail_server_that_is_missing_matters_when_mail_is_live(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = await findings(settings_of(folder, channels=Channels(email=EmailChannel(mode="live", port=port))))
    assert wrong(found) == ["mail server"] and f"127.0.0.1:{port} does not answer" in found["mail server"].says


async def test_a_mail_server_is_told_from_something_else_that_listens(folder: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400\r\n")
        writer.close()

    made = StandIns()
    await made.start()
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as other:
        try:
            for port, well in ((made.smtp_port, True), (other.sockets[0].getsockname()[1], False)):
                found = await findings(settings_of(folder, channels=Channels(email=EmailChannel(mode="live", port=port))))
                assert found["mail server"].ok is well, found["mail server"].says
        finally:
            await made.close()


async def test_a_data_folder_that_cannot_be_is_said_and_the_rest_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = await findings(settings_of(tmp_path / "file" / "data"))
    assert set(wrong(found)) == {"data folder", "secrets", "store", "log"} and "point `data`" in found["data folder"].do


def test_ray_that_is_off_is_no_fault_but_said(folder: Path) -> None:
    assert doctor.ray(settings_of(folder), {}) == Finding("ray", True, "off by configuration: degraded, the model runs inside the worker")


def test_what_was_found_is_shown_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show([Finding("store", True, "answers"), Finding("log", False, "no topics", "run.py init")])
    out = capsys.readouterr().out
    assert "ok" in out and "!!" in out and "run.py init" in out


def test_markup_in_what_is_said_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show([Finding("log", False, "[/bold] [red]x", "y")])
    assert "[/bold] [red]x" in capsys.readouterr().out
