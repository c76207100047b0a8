"""The weights that ship: small, trained on the seeded generator only, better than the rules, and their card says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from connectors.fake_shop import FIRST_NUMBER, FakeShop
from connectors.fake_vendors import OWN_EVERY
from model import rules
from model.artefact import WEIGHTS, aliases, load_alias
from model.features import features
from model.measure import average_precision
from model.score import unpack
from model.train import collect
from tests.connectors.test_fake_vendors import as_told, shop

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "model" / "weights"


def test_the_champion_loads_and_is_small() -> None:
    _, manifest = load_alias(FOLDER)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000
    assert (FOLDER / manifest.version / WEIGHTS).exists()
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(aliases(FOLDER).values())


def test_manifest_and_card_say_that_no_real_data_was_used() -> None:
    _, manifest = load_alias(FOLDER)
    assert "connectors.fake_shop" in manifest.created_from
    assert "no real data" in manifest.created_from
    card = (ROOT / "docs" / "model-card.md").read_text()
    assert manifest.version in card
    assert "seeded generator only" in card
    assert f"{manifest.metrics['fraud_ap']:.2f}" in card


def test_on_a_shop_they_never_saw_they_beat_the_rules() -> None:
    fresh = collect(FakeShop(987_654, reserves=True).stream(1500))
    network, _ = load_alias(FOLDER)
    ours, theirs = unpack(network.score(fresh.rows, "v")), unpack(rules.score(fresh.rows))
    known = ~np.isnan(fresh.labels[:, 0])
    labels = fresh.labels[known, 0]
    assert average_precision(labels, ours.fraud[known]) > average_precision(labels, theirs.fraud[known])


def test_honest_orders_mostly_pass_and_fraud_is_mostly_seen() -> None:
    fresh = collect(FakeShop(123_123, reserves=True).stream(1500))
    network, _ = load_alias(FOLDER)
    fraud = unpack(network.score(fresh.rows, "v")).fraud
    assert np.mean(fraud[fresh.labels[:, 0] == 0] < 0.30) > 0.97
    assert np.mean(fraud[fresh.labels[:, 0] == 1] >= 0.30) > 0.6


def test_fraud_is_seen_as_well_when_vendors_tell_of_it() -> None:
    """Shopify has two addresses, Stripe the bank's checks, the shop its own: each tells what it can see, and it is enough."""
    frauds = [n for n in range(1200) if (FIRST_NUMBER + n) % OWN_EVERY and shop().expected(n).scenario == "fraud"]
    rows = np.array([features(as_told(n)[0]) for n in frauds], np.float32)
    network, _ = load_alias(FOLDER)
    assert len(frauds) >= 15
    assert np.mean(unpack(network.score(rows, "v")).fraud >= 0.30) > 0.6
