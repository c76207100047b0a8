"""What `run.py init` writes for whatever systems somebody has, and what it says they must do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import run
import wire
from connect import HOST, Choice, chosen, configuration, next_steps, source, variable
from connectors.registry import VENDORS
from connectors.vendor import Vendor
from settings import load

some_vendors = st.lists(st.sampled_from(list(VENDORS)), unique=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=some_vendors,
    shop=st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True),
    public=st.sampled_from([HOST, "https://orders.lumi.example"]),
)
def test_every_choice_is_a_configuration_that_works_and_sends_nothing(tmp_path: Path, names: list[str], shop: str, public: str) -> None:
    file = tmp_path / "orderflow.yaml"
    choice = Choice(shop, public, chosen(names))
    file.write_text(configuration(choice))
    made = load(file)
    assert made.shop == shop and made.brand.tracking_base == public
    assert {getattr(made.channels, name).mode for name in made.channels.__struct_fields__} == {"observe"}
    assert [(vendor.name, account.shop) for vendor, account in wire.accounts(made)] == [(name, shop) for name in names]
    both = {VENDORS[name].kind for name in names} >= {"shop", "payments"}
    assert all(account.reports_payments != both for vendor, account in wire.accounts(made) if vendor.kind == "shop")
    environment = {variable(VENDORS[name]): "whsec_" + "c2VjcmV0" * 5 for name in names}
    inlets = wire.inlets(made, environment)
    told = "\n".join(next_steps(choice))
    for inlet in inlets:
        assert f"{public}/v1/ingest/{inlet.source}" in told and f"export {variable(inlet.vendor)}=" in told
    assert [inlet.source for inlet in inlets] == [source(choice, v) for v in choice.vendors if v.scheme is not None]


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=list(VENDORS))
def test_a_guide_says_where_what_is_found(vendor: Vendor) -> None:
    guide = vendor.guide
    assert guide.title
    assert bool(guide.signed_with) == bool(guide.where) == (vendor.scheme is not None), "what pushes is signed, and set up somewhere"
    assert set(guide.subscribe) <= vendor.topics.keys()
    assert all(re.fullmatch(r"[a-z_]+", name) and where for name, where in guide.credentials.items())


def test_on_a_terminal_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    monkeypatch.chdir(tmp_path)
    answers = "lumi\nshopify\nstripe\nnone\ny\nn\nhttps://orders.lumi.example/\n"
    result = CliRunner().invoke(run.main, ["init"], input=answers)
    assert result.exit_code == 0, result.output
    made = load(tmp_path / "orderflow.yaml")
    assert [its.name for its in made.accounts] == ["shopify-lumi", "stripe-lumi", "ups-lumi"]
    assert "webhooks to https://orders.lumi.example/v1/ingest/shopify-lumi" in result.output
    assert "Traceback" not in result.output


def test_an_unknown_vendor_is_named_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(run.main, ["init", "--with", "shopfy"])
    assert result.exit_code == 2 and "no vendor 'shopfy'" in result.output and "shopify" in result.output
    assert not (tmp_path / "orderflow.yaml").exists()


def test_a_slug_that_cannot_be_part_of_an_id_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(run.main, ["init", "--shop", "Lumi Zone"])
    assert result.exit_code == 2 and "--shop 'Lumi Zone'" in result.output
    assert not (tmp_path / "orderflow.yaml").exists()


def test_where_a_configuration_is_it_stays_and_what_to_add_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = CliRunner().invoke(run.main, ["init"])
    assert plain.exit_code == 0 and "--with VENDOR" in plain.output
    before = (tmp_path / "orderflow.yaml").read_text()
    result = CliRunner().invoke(run.main, ["init", "--with", "shopify", "--with", "stripe", "--public", "https://orders.lumi.example"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "orderflow.yaml").read_text() == before and "stays as it is" in result.output
    assert "- name: shopify-lumi" in result.output and "https://orders.lumi.example/v1/ingest/stripe-lumi" in result.output
    wrong = CliRunner().invoke(run.main, ["init", "--with", "shopfy"])
    assert wrong.exit_code == 2 and "no vendor 'shopfy'" in wrong.output


def test_what_is_there_says_the_shop_and_where_it_is_reached_and_is_told_what_else_must_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = CliRunner().invoke(run.main, ["init", "--with", "shopify", "--shop", "berlin", "--public", "https://orders.lumi.example"])
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(run.main, ["init", "--with", "stripe"])
    assert second.exit_code == 0, second.output
    assert "https://orders.lumi.example/v1/ingest/stripe-berlin" in second.output
    assert "and of shopify-berlin, or its payments count twice:\n    reports_payments: false" in second.output
    (tmp_path / "orderflow.yaml").unlink()
    CliRunner().invoke(run.main, ["init", "--with", "stripe"])
    third = CliRunner().invoke(run.main, ["init", "--with", "shopify"])
    assert "reports_payments: false" in third.output and "count twice:" not in third.output
