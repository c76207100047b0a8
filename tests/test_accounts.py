"""Vendors' accounts in the configuration: what is wrong is named, with its field."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

import settings as settings_module
import wire
from connectors import registry
from connectors.base import Ability, Done, Secret
from connectors.http import Request
from connectors.signature import BodyHmac
from connectors.vendor import Action, Envelope, Question, Vendor
from orders.plan import SYSTEMS
from orders.state import Order, encode
from settings import Account, Channels, Origin, Ref, Settings, SettingsError, SystemsChannel


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    return Envelope("t", "d")


PUSHES = Vendor(name="pushes", kind="shop", scheme=BodyHmac("x"), envelope=envelope, topics={})
POLLED = Vendor(name="polled", kind="carrier", scheme=None, envelope=envelope, topics={})
KEYED, WEAK = (Action(Ability(kind), lambda a, q: Request("GET", ""), lambda a, q, r: Done()) for kind in ("keyed", "neither"))
SHOP = Vendor(name="shop", kind="shop", scheme=None, envelope=envelope, topics={}, actions={"shop.tag": KEYED, "payment.refund": WEAK})
GATEWAY = Vendor(name="gateway", kind="payments", scheme=None, envelope=envelope, topics={}, actions={"payment.refund": KEYED})
SECRETS = (Ref(env="OLD"), Ref(env="NEW"))


@pytest.fixture(autouse=True)
def vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "VENDORS", {vendor.name: vendor for vendor in (PUSHES, POLLED, SHOP, GATEWAY)})


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
        ((Account(name="a", vendor="nobody"),), r"accounts\[0\].vendor: no vendor 'nobody'; known: pushes, polled, shop, gateway"),
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


# --- what accounts do for us
KEY = {"key": Ref(env="KEY")}


def test_an_account_does_what_its_vendor_can_and_the_configuration_lets_it() -> None:
    made = Settings(
        data="d",
        accounts=(
            Account(name="quiet", vendor="gateway"),
            Account(name="g", vendor="gateway", credentials=KEY, url="https://g.example", options={"a": "b"}, services=("express",)),
            Account(name="s", vendor="shop", credentials=KEY),
            Account(name="t", vendor="shop", credentials=KEY, does=("shop.tag",), writes_back=True),
        ),
        origin=Origin(name="Lumi", city="Berlin", country="DE"),
        channels=Channels(systems=SystemsChannel(private=True)),
    )
    its = wire.sender_settings(made, {"KEY": "hush"})["systems"]
    assert [(one.account.source, one.does) for one in its["accounts"]] == [
        ("g", ("payment.refund",)),
        ("s", ("payment.refund",)),
        ("t", ("shop.tag",)),
    ]
    account = its["accounts"][0].account
    assert (account.credentials, account.url, account.options, account.services) == (
        {"key": Secret("hush")},
        "https://g.example",
        {"a": "b"},
        ("express",),
    )
    assert (account.origin.name, account.origin.address.city) == ("Lumi", "Berlin")
    assert (its["folder"], its["private"], "hush" in repr(its)) == ("d/labels", True, False)
    assert wire.served(made) == {"payment.refund": "neither", "shop.tag": "keyed"}, "the weakest of those that do it counts"
    assert "systems" not in wire.sender_settings(Settings(accounts=made.accounts[:1]), {})


def test_the_policy_sends_what_accounts_do_by_their_channel(tmp_path: Path) -> None:
    made = Settings(data=str(tmp_path), accounts=(Account(name="t", vendor="shop", credentials=KEY, writes_back=True),))
    policy = wire.order_policy(made, {})
    assert policy.served == {"shop.tag": SYSTEMS, "payment.refund": SYSTEMS}
    assert policy.writes_back == ("t",)
    assert wire.order_policy(Settings(data=str(tmp_path)), {}).served == {}


# --- accounts that are asked
ASKED = msgspec.structs.replace(
    PUSHES, url="https://api.example", questions={"orders_since": Question("orders", lambda a, v, c: Request("GET", a.url), lambda r: "")}
)
TOKEN = {"token": Ref(env="KEY")}


def test_an_account_is_asked_where_it_has_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.VENDORS, "pushes", ASKED)
    asked = Settings(
        accounts=(
            Account(name="a", vendor="pushes", secrets=SECRETS, credentials=TOKEN, options={"zone": "1"}),
            Account(name="b", vendor="pushes", credentials=TOKEN, url="http://127.0.0.1:1"),  # asked, and pushes nothing
            Account(name="c", vendor="polled"),
        )
    )
    environment = {"OLD": "1", "NEW": "2", "KEY": "of-the-api"}
    first, second = wire.clients(asked, environment)
    assert (first.base, second.base) == ("https://api.example", "http://127.0.0.1:1")
    assert first.account.credentials["token"].reveal() == "of-the-api" and first.account.options == {"zone": "1"}
    assert [inlet.source for inlet in wire.inlets(asked, environment)] == ["a"] and wire.pushing(asked) == {"a"}
    assert [role.command for role in wire.roles(asked, environment)] == [("worker",), ("gateway",), ("archive",), ("poller",)]
    assert wire.watched(asked, wire.inlets(asked, environment))["a"].silent_after_s == 7200.0


def test_without_anything_to_ask_there_is_no_poller() -> None:
    found = wire.roles(Settings(accounts=(Account(name="c", vendor="polled"),)), {})
    assert [role.command for role in found] == [("worker",), ("gateway",), ("archive",)]


@pytest.mark.parametrize(
    ("account", "named"),
    [
        (Account(name="a", vendor="pushes", credentials=TOKEN), r"accounts\[0\].credentials.token: .* KEY is not set"),
        (
            Account(name="a", vendor="pushes", credentials=TOKEN, url="http://api.example"),
            r"accounts\[0\].url: credentials travel over https",
        ),
    ],
)
def test_what_keeps_an_account_from_being_asked_is_named(account: Account, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.VENDORS, "pushes", ASKED)
    with pytest.raises(SettingsError, match=named):
        wire.clients(Settings(accounts=(account,)), {})


@pytest.mark.parametrize(
    ("account", "named"),
    [
        (Account(name="a", vendor="gateway", credentials=KEY), r"accounts\[0\].credentials.key: .* KEY is not set"),
        (Account(name="a", vendor="gateway", does=("fly",)), r"accounts\[0\].does: gateway cannot do 'fly'; it can do: payment.refund"),
        (Account(name="a", vendor="gateway", credentials=KEY, writes_back=True), r"accounts\[0\].writes_back: .* gateway cannot"),
        (Account(name="a", vendor="shop", writes_back=True), r"accounts\[0\].writes_back: needs credentials"),
    ],
)
def test_what_an_account_cannot_do_is_named(account: Account, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        wire.connected(Settings(accounts=(account,)), {})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("credentials: {key: sk_live_1}", r"o\.yaml:4: accounts\[0\]\.credentials.*\{env: NAME\}"),
        ("url: https://x.example/", r"o\.yaml:4: accounts\[0\]\.url"),
        ("writes_back: 5", r"o\.yaml:4: accounts\[0\]\.writes_back"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "o.yaml"
    file.write_text(f"accounts:\n  - name: a\n    vendor: gateway\n    {line}\n")
    with pytest.raises(SettingsError, match=says) as found:
        settings_module.load(file)
    assert "sk_live" not in str(found.value)


def test_the_orders_lane_knows_what_can_be_done_about_an_unknown_of_each_action(tmp_path: Path) -> None:
    made = Settings(data=str(tmp_path), accounts=(Account(name="g", vendor="gateway", credentials=KEY),))
    lane = wire.processors(made, {}, {"webhook": "neither"})["facts"]()
    assert vars(lane)["_abilities"] == {"webhook": "neither", "payment.refund": "keyed"}


async def test_going_live_shows_what_accounts_would_have_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order("lumi:1")
    order.closed = {"payment.refund cancelled pi_1": 1, "carrier.label packed P1": 1}

    class Kept:
        async def states(self, lane: object) -> AsyncIterator[tuple[str, bytes]]:
            if lane == wire.lanes(made, ["orders"])[0]:
                yield "lumi:1", encode(order)

        async def counters(self, lanes: object) -> dict[str, int]:
            return {}

    @contextlib.asynccontextmanager
    async def store_of(settings: Settings, **more: object) -> AsyncIterator[Kept]:
        yield Kept()

    monkeypatch.setattr(wire, "store_of", store_of)
    made = Settings(data=str(tmp_path), accounts=(Account(name="g", vendor="gateway", credentials=KEY),))
    assert await wire.would_have_sent(made, "systems") == ["observed and never sent later: payment.refund cancelled: 1"]
    assert await wire.would_have_sent(made, "webhook") == ["observed and never sent later: carrier.label packed: 1"]


def test_roles_that_start_together_sign_with_one_key(tmp_path: Path) -> None:
    made = Settings(data=str(tmp_path))
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: wire.signing_key(made, {}), range(64)))
    assert keys == {(tmp_path / "signing.key").read_text()} and len(keys.pop()) == 64
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]
