"""What a model may look at: one layout, in natural units, nothing a head is asked to foresee."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given

from connectors.fake_shop import SIGNALS as SHOP_SIGNALS
from connectors.fake_shop import FakeShop
from model.features import FEATURES, NAMES, REASON_OF, REASONS, SCHEMA_HASH, SIGNALS, WIDTH, WORDS, arrow_schema, features, natural, scaled
from orders.fact import Fact, MessageReported, NoteAdded, OrderPlaced, ParcelScanned, PaymentDisputed, RiskReported, StockShort, Tracking
from tests.model.made import fold, wild_rows

SHOP = FakeShop(11, reserves=True)


def placed(n: int = 0) -> OrderPlaced:
    return next(fact for fact in SHOP.life(n) if isinstance(fact, OrderPlaced))


def row(*facts: Fact) -> dict[str, float]:
    return dict(zip(NAMES, features(fold(facts)), strict=True))


def test_a_row_has_every_column_as_a_number_within_its_bounds() -> None:
    for n in range(60):
        values = features(fold(SHOP.life(n)))
        assert len(values) == WIDTH
        for feature, value in zip(FEATURES, values, strict=True):
            assert feature.low <= value <= feature.high, feature.name


def test_names_and_reasons_are_unique_and_every_reason_has_words() -> None:
    assert len(set(NAMES)) == WIDTH
    assert len(set(REASONS)) == len(REASONS) == len(WORDS)
    assert set(REASONS) == {code for code in REASON_OF if code}
    assert all(WORDS.values())


def test_the_signals_that_a_shop_reports_are_columns() -> None:
    assert set(SHOP_SIGNALS) == set(SIGNALS) <= set(NAMES)
    fact = msgspec.structs.replace(placed(), signals={"avs_mismatch": 1.0, "velocity": 4.0, "unheard_of": 9.0})
    values = row(fact)
    assert values["avs_mismatch"] == 1.0
    assert values["velocity"] == 4.0
    assert values["cvc_mismatch"] == 0.0


def test_of_several_that_report_signals_each_ones_greatest_counts() -> None:
    checked = RiskReported(
        order=placed().order, system="stripe:lumi", object="ch_1", at=placed().at, signals={"cvc_mismatch": 1.0, "velocity": 2.0}
    )
    first = msgspec.structs.replace(placed(), signals={"avs_mismatch": 1.0, "velocity": 4.0})
    values = row(first, checked, msgspec.structs.replace(checked, object="ch_2", signals={"cvc_mismatch": 0.0}))
    assert (values["avs_mismatch"], values["cvc_mismatch"], values["velocity"]) == (1.0, 1.0, 4.0)
    assert row(checked, first) == row(first, checked), "a check may be told before the order"


@pytest.mark.parametrize(("currency", "total", "major"), [("EUR", 12_345, 123.45), ("JPY", 12_345, 12_345), ("KWD", 12_345, 12.345)])
def test_value_is_in_major_units_of_the_orders_currency(currency: str, total: int, major: float) -> None:
    values = row(msgspec.structs.replace(placed(), currency=currency, total=total))
    assert values["value"] == pytest.approx(major)
    assert values["total_minor"] == total


def test_shares_of_the_promised_time_do_not_depend_on_how_fast_a_shop_lives() -> None:
    before = placed()
    for promise in (5 * 86_400_000, 5_000):
        order = msgspec.structs.replace(before, promised=before.at + promise)
        scan = ParcelScanned(
            order=order.order,
            system="c",
            object="s1",
            at=order.at + promise // 2,
            parcel="p",
            tag=Tracking.IN_TRANSIT,
            eta_until=order.at + promise,
        )
        values = row(order, scan)
        assert values["handover_share"] == pytest.approx(0.5)
        assert values["eta_share"] == pytest.approx(1.0)
        assert values["handed_over"] == 1


@pytest.mark.parametrize("n", range(8))
def test_what_a_head_is_asked_to_foresee_never_changes_the_row(n: int) -> None:
    life = SHOP.life(n)
    before = features(fold(life))
    order, at = life[0].order, life[-1].at + 1
    answers: list[Fact] = [
        PaymentDisputed(order=order, system="pay", object="d", at=at, amount=100, currency=placed(n).currency),
        StockShort(order=order, system="stock", object="r", at=at, line="1", sku="x", location="l", quantity=1),
        NoteAdded(order=order, system="staff", object="n", at=at, text="looks bad", by="me"),
        MessageReported(order=order, system="customers", object="m", at=at, effect="m", channel="email", outcome="sent"),
    ]
    assert features(fold([*life, *answers])) == before


def test_personal_data_never_changes_the_row() -> None:
    fact = placed()
    assert fact.person is not None
    other = msgspec.structs.replace(fact, person=msgspec.structs.replace(fact.person, name="N", email="x@example.invalid", phone="+1"))
    assert features(fold([fact])) == features(fold([other]))


@given(wild_rows)
def test_what_is_no_number_or_out_of_bounds_is_brought_within_them(wild: np.ndarray) -> None:
    tame = natural(wild)
    assert np.isfinite(tame).all()
    assert np.isfinite(scaled(wild)).all()
    low = np.array([feature.low for feature in FEATURES], np.float32)
    high = np.array([feature.high for feature in FEATURES], np.float32)
    assert (tame >= low).all()
    assert (tame <= high).all()


def test_the_arrow_schema_names_the_columns_and_the_layout() -> None:
    schema = arrow_schema()
    assert tuple(schema.names) == NAMES
    assert schema.metadata[b"schema_hash"].decode() == SCHEMA_HASH


def test_the_hot_path_imports_neither_torch_nor_pyarrow_nor_ray() -> None:
    code = (
        "import sys, model.features, model.rules, streams.processor, actors.handles\n"
        "print([name for name in ('torch', 'pyarrow', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
