"""Training: what is known when, what became of it, and that the past is measured on what came later."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from connectors.fake_shop import FakeShop
from model import artefact
from model.artefact import load_alias
from model.features import NAMES
from model.measure import average_precision, brier, roc_area
from model.score import HEADS
from model.train import Examples, TrainingRefused, collect, train, train_from_archive
from orders.fact import (
    CancelRequested,
    DisputeClosed,
    Fact,
    OrderPlaced,
    ParcelScanned,
    PaymentCaptured,
    PaymentDisputed,
    ReviewDecided,
    StockReserved,
    StockShort,
    Tracking,
)
from tests.model.made import examples

DAY = 86_400_000
START = 1_770_000_000_000


def place(at: int = START, order: str = "s:1", promised: int = START + 5 * DAY) -> OrderPlaced:
    return OrderPlaced(
        order=order, system="shop", object=order, at=at, number="1", customer="c", currency="EUR", total=5_000, lines=(), promised=promised
    )


def scan(tag: Tracking, at: int) -> ParcelScanned:
    return ParcelScanned(order="s:1", system="carrier", object=f"s-{at}", at=at, parcel="p", tag=tag)


def stock(kind: type[StockReserved] | type[StockShort], at: int) -> Fact:
    return kind(order="s:1", system="stock", object="r", at=at, line="1", sku="x", location="l", quantity=1)


PAID = PaymentCaptured(order="s:1", system="pay", object="p", at=START + 1000, amount=5_000, currency="EUR")
SHIPPED = scan(Tracking.IN_TRANSIT, START + 2 * DAY)
DELIVERED = scan(Tracking.DELIVERED, START + 4 * DAY)
TOO_LATE = scan(Tracking.DELIVERED, START + 6 * DAY)
DISPUTED = PaymentDisputed(order="s:1", system="pay", object="d", at=START + 20 * DAY, amount=5_000, currency="EUR")
SOLD = place()


def labels(*facts: Fact, mature_ms: int = 0) -> dict[str, list[float]]:
    """Per head the labels of the rows that were taken, None where nobody knows."""
    found = collect(facts, mature_ms=mature_ms)
    return {head: [float(x) for x in found.labels[:, column]] for column, head in enumerate(HEADS)}


def unknown(values: list[float]) -> list[bool]:
    return [math.isnan(value) for value in values]


def test_a_row_is_taken_at_placement_payment_and_hand_over() -> None:
    found = collect([SOLD, PAID, SHIPPED, DELIVERED])
    shipped, paid = NAMES.index("handed_over"), NAMES.index("paid_share")
    assert [(row[paid], row[shipped]) for row in found.rows] == [(0, 0), (1, 0), (1, 1)]
    assert set(found.placed) == {START}


def test_a_row_holds_what_had_arrived_by_then_and_no_more() -> None:
    """The payment happened before the hand-over but was heard of after it."""
    found = collect([SOLD, SHIPPED, PAID])
    assert [row[NAMES.index("paid_share")] for row in found.rows] == [0, 0, 1]


def test_repeated_reports_add_no_rows() -> None:
    assert len(collect([SOLD, SOLD, PAID, PAID, SOLD, SHIPPED, SHIPPED]).rows) == 3


def test_a_dispute_says_fraud_and_a_good_end_says_honest() -> None:
    assert labels(SOLD, PAID, SHIPPED, DELIVERED, DISPUTED)["fraud"] == [1, 1, 1]
    assert labels(SOLD, PAID, SHIPPED, DELIVERED)["fraud"] == [0, 0, 0]
    assert unknown(labels(SOLD, PAID, SHIPPED)["fraud"]) == [True] * 3


def test_a_dispute_that_was_won_says_nothing() -> None:
    won = DisputeClosed(order="s:1", system="pay", object="d", at=START + 30 * DAY, won=True)
    assert unknown(labels(SOLD, PAID, SHIPPED, DELIVERED, DISPUTED, won)["fraud"]) == [True] * 3


def test_a_persons_verdict_says_so_for_the_rows_before_it_only() -> None:
    def verdict(approve: bool) -> ReviewDecided:
        return ReviewDecided(order="s:1", system="staff", object="v", at=START + DAY, approve=approve, by="r", reason="x")

    refused = labels(SOLD, PAID, verdict(False), SHIPPED)["fraud"]
    assert refused[:2] == [1, 1]
    assert math.isnan(refused[2])
    assert labels(SOLD, verdict(True), PAID)["fraud"][0] == 0


def test_an_order_that_ended_lately_is_not_called_honest_yet() -> None:
    assert unknown(labels(SOLD, PAID, SHIPPED, DELIVERED, mature_ms=45 * DAY)["fraud"]) == [True] * 3
    later = place(START + 60 * DAY, order="s:2")
    assert labels(SOLD, PAID, SHIPPED, DELIVERED, later, mature_ms=45 * DAY)["fraud"][:3] == [0, 0, 0]


def test_late_means_after_the_promised_time() -> None:
    assert labels(SOLD, SHIPPED, DELIVERED)["late"] == [0, 0]
    assert labels(SOLD, SHIPPED, TOO_LATE)["late"] == [1, 1]
    assert unknown(labels(SOLD, SHIPPED)["late"]) == [True, True]
    assert unknown(labels(place(promised=0), SHIPPED, DELIVERED)["late"]) == [True, True]


def test_a_parcel_still_out_after_the_promised_time_is_late_and_a_cancelled_order_is_not() -> None:
    much_later = place(START + 30 * DAY, order="s:2")
    assert labels(SOLD, SHIPPED, much_later)["late"][:2] == [1, 1]
    cancelled = CancelRequested(order="s:1", system="shop", object="c", at=START + DAY)
    assert math.isnan(labels(SOLD, cancelled, much_later)["late"][0])


def test_a_shortage_is_a_label_until_it_is_known() -> None:
    found = labels(SOLD, stock(StockShort, START + 500), PAID)["shortage"]
    assert found[0] == 1
    assert math.isnan(found[1])
    assert labels(SOLD, PAID, stock(StockReserved, START + DAY))["shortage"] == [0, 0]


def test_what_a_row_knows_already_is_no_label_for_it() -> None:
    found = labels(SOLD, DELIVERED, DISPUTED, PAID)  # placed; handed over and delivered in one; paid after all of it was known
    assert found["fraud"][0] == 1
    assert math.isnan(found["fraud"][-1])
    assert math.isnan(found["late"][-1])


def test_training_again_gives_the_same_weights_and_learns_more_than_the_base_rate() -> None:
    network, metrics = train(examples(), seed=3, epochs=8)
    again, _ = train(examples(), seed=3, epochs=8)
    batch = examples().rows[:100]
    assert network.score(batch, "v") == again.score(batch, "v")
    assert metrics["fraud_ap"] > 5 * metrics["fraud_rate"]
    assert metrics["fraud_auc"] > 0.9
    assert metrics["late_auc"] > 0.52


def test_the_metrics_come_from_later_orders_that_training_never_saw() -> None:
    """Later labels are turned round: what was learned from the earlier ones must look wrong there, and must not have changed."""
    honest = examples()
    boundary = np.quantile(np.unique(honest.placed), 0.8)
    turned = msgspec.structs.replace(honest, labels=np.where((honest.placed >= boundary)[:, None], 1 - honest.labels, honest.labels))
    network, metrics = train(honest, seed=3, epochs=4)
    same, worse = train(turned, seed=3, epochs=4)
    batch = honest.rows[:100]
    assert network.score(batch, "v") == same.score(batch, "v")
    assert worse["fraud_auc"] < 0.2 < metrics["fraud_auc"]


def test_all_rows_of_an_order_are_on_one_side_of_time() -> None:
    seen: dict[int, set[str]] = {}
    from model.train import _by_time

    placed = examples().placed
    parts = _by_time(placed)
    for name, part in zip(("learn", "stop", "test"), parts, strict=True):
        for at in placed[part]:
            seen.setdefault(int(at), set()).add(name)
    assert all(len(sides) == 1 for sides in seen.values())
    assert sum(len(part) for part in parts) == len(placed)
    assert placed[parts[0]].max() < placed[parts[1]].min() < placed[parts[2]].min()


def test_too_little_to_learn_from_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="fraudulent, or honest"):
        train_from_archive(FakeShop(1, reserves=True).stream(40), tmp_path, created_from="x")
    with pytest.raises(TrainingRefused, match="no order was placed"):
        train_from_archive([PAID], tmp_path, created_from="x")
    assert not list(tmp_path.iterdir())


def test_training_from_facts_writes_a_version_that_serves(tmp_path: Path) -> None:
    words: list[str] = []
    trained = train_from_archive(FakeShop(5, reserves=True).stream(1500), tmp_path, created_from="a made-up shop", tell=words.append)
    network, manifest = artefact.load(tmp_path, trained.version)
    assert manifest.created_from == "a made-up shop"
    assert manifest.rows == trained.rows
    assert 0 < manifest.data_from < manifest.data_until
    assert manifest.metrics == trained.metrics
    assert any("orders" in word for word in words)
    if trained.promoted:
        assert load_alias(tmp_path)[1].version == trained.version
    assert len(network.score(examples().rows[:3], "v").reasons) == 9


def test_weights_worse_than_the_rules_are_kept_but_do_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model import train as training

    def poor(made: Examples, **_: object) -> object:
        network, metrics = train(made, epochs=1)
        return network, metrics | {"fraud_ap": metrics["fraud_ap_rules"] - 0.01}

    monkeypatch.setattr(training, "train", poor)
    trained = train_from_archive(FakeShop(5, reserves=True).stream(1000), tmp_path, created_from="x")
    assert not trained.promoted
    assert not (tmp_path / "aliases.json").exists()


def test_no_canary_row_is_anybodys_order(tmp_path: Path) -> None:
    trained = train_from_archive(FakeShop(5, reserves=True).stream(1000), tmp_path, created_from="x")
    manifest = artefact.load(tmp_path, trained.version)[1]
    orders = {tuple(row) for row in collect(FakeShop(5, reserves=True).stream(1000)).rows.tolist()}
    assert not orders & {tuple(row) for row in manifest.canary_rows}


# --- measures, against values worked out by hand
def test_average_precision_of_known_rankings() -> None:
    def ap(labels: list[int], scores: list[float]) -> float:
        return average_precision(np.array(labels, np.float32), np.array(scores, np.float32))

    assert ap([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1]) == pytest.approx(1.0)
    assert ap([0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6]) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert ap([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]) == pytest.approx(0.25)
    assert ap([0, 0], [0.1, 0.2]) == 0.0
    assert ap([], []) == 0.0


def test_roc_area_and_brier_of_known_rankings() -> None:
    labels, scores = np.array([0, 0, 1, 1], np.float32), np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    assert roc_area(labels, scores) == pytest.approx(0.75)
    assert roc_area(labels, np.full(4, 0.5, np.float32)) == pytest.approx(0.5)
    assert roc_area(labels * 0, scores) == 0.5
    assert brier(labels, scores) == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
