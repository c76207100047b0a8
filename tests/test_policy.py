"""What the configuration says reaches the policy that orders are planned by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import settings
import wire
from orders.policy import DAY, HOUR, Policy
from orders.sourcing import Location, Rate, Table


def test_how_long_a_review_may_take_and_what_follows_come_from_the_configuration(tmp_path: Path) -> None:
    base = {"data": str(tmp_path)}
    made = wire.order_policy(settings.load(None, base), {})
    assert (made.review_sla_ms, made.review_expiry) == (Policy().review_sla_ms, "hold")
    chosen = {**base, "workflow.review_sla_minutes": 45, "workflow.review_expiry": "cancel"}
    made = wire.order_policy(settings.load(None, chosen), {})
    assert (made.review_sla_ms, made.review_expiry) == (45 * 60_000, "cancel")


def test_nobody_can_configure_that_what_was_not_reviewed_is_approved() -> None:
    with pytest.raises(settings.SettingsError, match=r"workflow\.review_expiry"):
        settings.load(None, {"workflow.review_expiry": "approve"})


EXAMPLE = """
sourcing:
  currency: EUR
  split_minor: 150                 # packing a second parcel
  unit_g: 400
  weights_g: {LAMP-1: 1200}
  locations:
  - {name: east, handling_hours: 4}
  - {name: west}
  rates:
  - {carrier: ups, to: [DE, AT], base_minor: 490, per_kg_minor: 60, days: 2}
  - {carrier: ups, location: east, to: [DE-10, DE-12], base_minor: 390, days: 1}
  - {carrier: ups, service: express, to: [DE], base_minor: 1490, per_kg_minor: 90, days: 0.5}
"""


def loaded(folder: Path, text: str) -> settings.Settings:
    file = folder / "orderflow.yaml"
    file.write_text(f"data: {folder}\n{text}")
    return settings.load(file)


def test_a_table_of_rates_comes_from_the_configuration_and_none_is_the_default(tmp_path: Path) -> None:
    assert wire.order_policy(settings.load(None, {"data": str(tmp_path)}), {}).sourcing == Policy().sourcing == Table()
    table = wire.order_policy(loaded(tmp_path, EXAMPLE), {}).sourcing
    assert (table.split_minor, table.grams("LAMP-1"), table.grams("SHADE-2")) == (150, 1200, 400)
    assert table.locations == (Location("east", 4 * HOUR), Location("west", DAY))
    assert table.rates[1] == Rate(carrier="ups", location="east", to=("DE-10", "DE-12"), base_minor=390, transit_ms=DAY)
    assert table.rates[2].transit_ms == 12 * HOUR


def test_the_example_in_the_manual_is_one_that_loads(tmp_path: Path) -> None:
    page = (Path(wire.__file__).parent / "docs" / "sourcing.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    table = wire.order_policy(loaded(tmp_path, example), {}).sourcing
    assert len(table.rates) >= 3 and len(table.locations) == 2


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        ("location: east, to", "location: est, to", "orderflow.yaml:13: sourcing.rates[1].location: there is no such location"),
        ("to: [DE-10, DE-12]", "to: [de-10]", "orderflow.yaml:13: sourcing.rates[1].to[0]: Expected `str` matching"),
        ("name: west", "name: east", "orderflow.yaml:10: sourcing.locations[1].name: 'east' stands here twice"),
        ("to: [DE]", "to: [DE, DE]", "orderflow.yaml:14: sourcing.rates[2].to: another rate of this location, carrier and service"),
        ("service: express", "service: overnight", "orderflow.yaml:14: sourcing.rates[2].service: Expected `str` matching"),
        ("days: 0.5", "days: -1", "orderflow.yaml:14: sourcing.rates[2].days: Expected `float` >= 0"),
        ("base_minor: 390, ", "", "orderflow.yaml:13: sourcing.rates[1]: `base_minor` is missing"),
        ("LAMP-1: 1200", "LAMP-1: -1", "orderflow.yaml:7: sourcing.weights_g.LAMP-1: grams of a unit"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_told_by_file_line_and_field(tmp_path: Path, wrong: str, right: str, says: str) -> None:
    assert EXAMPLE.count(wrong) == 1
    with pytest.raises(settings.SettingsError) as raised:
        loaded(tmp_path, EXAMPLE.replace(wrong, right))
    assert str(raised.value).removeprefix(f"{tmp_path}/").startswith(says)


def test_rates_need_locations(tmp_path: Path) -> None:
    with pytest.raises(settings.SettingsError, match=r"sourcing\.rates\[0\]: rates need `sourcing\.locations`"):
        settings.load(None, {"sourcing.rates": [{"carrier": "ups", "base_minor": 1, "days": 1}]})


def test_a_rate_by_which_no_account_could_buy_a_label_is_refused_where_accounts_buy_them(tmp_path: Path) -> None:
    account = (
        "accounts:\n- {name: ups-lumi, vendor: ups, credentials: {client_id: {env: A}, client_secret: {env: B}}, services: [standard]}\n"
    )
    with pytest.raises(settings.SettingsError, match=r"sourcing\.rates\[2\]: no account buys ups express labels"):
        wire.order_policy(loaded(tmp_path, EXAMPLE + account), {})
    assert wire.order_policy(loaded(tmp_path, EXAMPLE + account.replace("[standard]", "[]")), {}).sourcing.rates
