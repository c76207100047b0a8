"""Vendors' accounts in the configuration: what is wrong is named, with its field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import settings as settings_module
import wire
from connectors import registry
from connectors.signature import BodyHmac
from connectors.vendor import Envelope, Vendor
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


def test_what_an_account_reports_reaches_its_connector() -> None:
    settings = Settings(accounts=(Account(name="a", vendor="polled", reports_parcels=False), Account(name="b", vendor="polled")))
    assert [account.reports_parcels for _, account in wire.accounts(settings)] == [False, True]


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
