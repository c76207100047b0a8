"""Vendors' accounts in the configuration: what is wrong is named, with its field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

import settings as settings_module
import wire
from connectors import registry
from connectors.http import Request
from connectors.signature import BodyHmac
from connectors.vendor import Envelope, Question, Vendor
from settings import Account, Ref, Settings, SettingsError


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    return Envelope("t", "d")


PUSHES = Vendor(name="pushes", kind="shop", scheme=BodyHmac("x"), envelope=envelope, topics={})
POLLED = Vendor(name="polled", kind="carrier", scheme=None, envelope=envelope, topics={})
SECRETS = (Ref(env="OLD"), Ref(env="NEW"))


@pytest.fixture(autouse=True)
def vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "VENDORS", {"pushes": PUSHES, "polled": POLLED})


def test_two_accounts_of_one_vendor_stay_apart_and_both_secrets_of_a_rotation_are_known() -> None:
    found = wire.inlets(
        Settings(
            accounts=(
                Account(name="a", vendor="pushes", secrets=SECRETS),
                Account(name="b", vendor="pushes", secrets=SECRETS[:1], shop="other"),
                Account(name="c", vendor="polled"),
            )
        ),
        {"OLD": "1", "NEW": "2"},
    )
    assert [(inlet.source, [s.reveal() for s in inlet.secrets]) for inlet in found] == [("a", ["1", "2"]), ("b", ["1"])]


@pytest.mark.parametrize(
    ("accounts", "named"),
    [
        ((Account(name="a", vendor="nobody"),), r"accounts\[0\].vendor: no vendor 'nobody'; known: pushes, polled"),
        ((Account(name="a", vendor="polled"), Account(name="a", vendor="polled")), r"accounts\[1\].name"),
        ((Account(name="canonical", vendor="polled"),), r"accounts\[0\].name"),
        ((Account(name="a", vendor="pushes"),), r"accounts\[0\].secrets"),
        ((Account(name="a", vendor="pushes", secrets=(Ref(env="MISSING"),)),), r"accounts\[0\].secrets: .* MISSING is not set"),
        ((Account(name="a", vendor="pushes", secrets=(Ref(env="EMPTY"),)),), r"accounts\[0\].secrets"),
    ],
)
def test_what_is_wrong_with_an_account_is_named(accounts: tuple[Account, ...], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        wire.inlets(Settings(accounts=accounts), {"EMPTY": ""})


def test_a_secret_written_in_the_file_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("accounts:\n  - name: a\n    vendor: pushes\n    secrets: [shpss_1]\n")
    with pytest.raises(SettingsError, match=r"o\.yaml:4: accounts\[0\]\.secrets\[0\]: .*\{env: NAME\}") as found:
        settings_module.load(file)
    assert "shpss" not in str(found.value)


# --- accounts that are asked
ASKED = msgspec.structs.replace(
    PUSHES, url="https://api.example", questions={"orders_since": Question("orders", lambda a, v, c: Request("GET", a.url), lambda r: "")}
)
KEY = {"token": Ref(env="KEY")}


def test_an_account_is_asked_where_it_has_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.VENDORS, "pushes", ASKED)
    asked = Settings(
        accounts=(
            Account(name="a", vendor="pushes", secrets=SECRETS, credentials=KEY, options={"zone": "1"}),
            Account(name="b", vendor="pushes", credentials=KEY, url="http://127.0.0.1:1"),  # asked, and pushes nothing
            Account(name="c", vendor="polled"),
        )
    )
    environment = {"OLD": "1", "NEW": "2", "KEY": "of-the-api"}
    first, second = wire.clients(asked, environment)
    assert (first.base, second.base) == ("https://api.example", "http://127.0.0.1:1")
    assert first.account.credentials["token"].reveal() == "of-the-api" and first.account.options == {"zone": "1"}
    assert [inlet.source for inlet in wire.inlets(asked, environment)] == ["a"] and wire.pushing(asked) == {"a"}
    assert wire.roles(asked, environment) == ("worker", "gateway", "poller")
    assert wire.watched(asked, wire.inlets(asked, environment))["a"].silent_after_s == 7200.0


def test_without_anything_to_ask_there_is_no_poller() -> None:
    assert wire.roles(Settings(accounts=(Account(name="c", vendor="polled"),)), {}) == ("worker", "gateway")


@pytest.mark.parametrize(
    ("account", "named"),
    [
        (Account(name="a", vendor="pushes", credentials=KEY), r"accounts\[0\].credentials.token: .* KEY is not set"),
        (
            Account(name="a", vendor="pushes", credentials=KEY, url="http://api.example"),
            r"accounts\[0\].url: credentials travel over https",
        ),
    ],
)
def test_what_keeps_an_account_from_being_asked_is_named(account: Account, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.VENDORS, "pushes", ASKED)
    with pytest.raises(SettingsError, match=named):
        wire.clients(Settings(accounts=(account,)), {})
