from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from bench.olist import NOT_APPLICABLE, batches, facts, main
from orders.fact import Fact, OrderPlaced, ParcelScanned, PaymentCaptured, Tracking, decode_fact, encode_fact

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "olist"
real = pytest.mark.skipif(not (REAL / "orders.parquet").is_file(), reason="Olist's orders are not at ../shared/data/olist")

TABLES = {
    "orders": """select * from (values
        ('whole', 'c1', '2017-03-01 10:00:00', '2017-03-01 10:20:00', '2017-03-03 09:00:00', '2017-03-09 18:30:00', '2017-03-20'),
        ('backwards', 'c2', '2017-03-02 10:00:00', '2017-03-05 10:00:00', '2017-03-04 09:00:00', '2017-03-03 18:30:00', '2017-03-20'),
        ('bare', 'c3', '2017-03-02 11:00:00', null, null, null, null),
        ('summer', 'c4', '2017-01-15 10:00:00', '2017-01-15 10:00:00', '2017-01-16 10:00:00', null, '2017-01-20')
    ) t(order_id, customer_id, p, a, c, d, e)""",
    "order_items": """select * from (values
        ('whole', 1, 'lamp', 's1', 19.99, 5.01), ('whole', 2, 'lamp', 's1', 19.99, 5.01), ('backwards', 1, 'vase', 's2', 0.85, 0.0),
        ('summer', 1, 'gone', 's2', 10.0, 0.0)
    ) t(order_id, order_item_id, product_id, seller_id, price, freight_value)""",
    "order_payments": """select * from (values
        ('whole', 2, 'voucher', 0.0), ('whole', 1, 'credit_card', 50.00), ('backwards', 1, 'boleto', 0.85), ('bare', 1, 'boleto', 12.34),
        ('summer', 1, 'boleto', 10.0)
    ) t(order_id, payment_sequential, payment_type, payment_value)""",
    "customers": """select * from (values
        ('c1', 'person1', 1310, 'sao paulo', 'SP'), ('c2', 'person1', 1310, 'sao paulo', 'SP'),
        ('c3', 'person3', 99025, 'passo fundo', 'RS'), ('c4', 'person4', 99025, 'passo fundo', 'RS')
    ) t(customer_id, customer_unique_id, customer_zip_code_prefix, customer_city, customer_state)""",
    "products": "select * from (values ('lamp', 'moveis_decoracao'), ('vase', null)) t(product_id, product_category_name)",
}
TIMES = {
    "order_purchase_timestamp": "p",
    "order_approved_at": "a",
    "order_delivered_carrier_date": "c",
    "order_delivered_customer_date": "d",
    "order_estimated_delivery_date": "e",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Olist's tables in small, made up here."""
    with duckdb.connect() as connection:
        for name, query in TABLES.items():
            if name == "orders":
                times = ", ".join(f"{short}::timestamp as {long}" for long, short in TIMES.items())
                query = f"select order_id, customer_id, {times} from ({query})"
            connection.execute(f"copy ({query}) to '{tmp_path}/{name}.parquet' (format parquet)")
    return tmp_path


def of(order: str, folder: Path) -> list[Fact]:
    return [fact for fact in facts(folder) if fact.order == f"olist:{order}"]


def utc(fact: Fact) -> str:
    return datetime.fromtimestamp(fact.at / 1000, UTC).isoformat(sep=" ", timespec="minutes")[:16]


def test_each_timestamp_is_one_fact_and_each_payment_one_at_approval(folder: Path) -> None:
    placed, *paid, handed_over, delivered = of("whole", folder)
    assert isinstance(placed, OrderPlaced)
    assert [line.quantity for line in placed.lines] == [1, 1]
    assert [line.title for line in placed.lines] == ["moveis decoracao"] * 2
    assert placed.total == 5_000
    assert placed.customer == "olist:person1"
    assert [(type(fact), fact.amount) for fact in paid if isinstance(fact, PaymentCaptured)] == [
        (PaymentCaptured, 5_000),
        (PaymentCaptured, 0),
    ]
    assert {fact.at for fact in paid} == {placed.at + 20 * 60_000}
    assert isinstance(handed_over, ParcelScanned)
    assert isinstance(delivered, ParcelScanned)
    assert (handed_over.tag, delivered.tag) == (Tracking.IN_TRANSIT, Tracking.DELIVERED)


def test_local_times_become_utc_with_the_summer_time_of_their_day(folder: Path) -> None:
    assert utc(of("whole", folder)[0]) == "2017-03-01 13:00"
    assert utc(of("summer", folder)[0]) == "2017-01-15 12:00"


def test_a_promise_for_a_day_is_kept_until_the_day_ends(folder: Path) -> None:
    placed = of("whole", folder)[0]
    assert isinstance(placed, OrderPlaced)
    assert datetime.fromtimestamp(placed.promised / 1000, UTC) == datetime(2017, 3, 21, 3, tzinfo=UTC) - timedelta(milliseconds=1)


def test_faults_of_the_data_are_kept(folder: Path) -> None:
    kinds = [getattr(fact, "tag", None) for fact in of("backwards", folder)]
    assert kinds == [None, Tracking.DELIVERED, Tracking.IN_TRANSIT, None]
    (bare,) = of("bare", folder)
    assert isinstance(bare, OrderPlaced)
    assert bare.lines == ()
    assert bare.total == 1_234
    assert bare.promised == 0


def test_nobody_real_is_written_to_and_what_is_not_known_is_declared(folder: Path) -> None:
    for fact in facts(folder):
        if isinstance(fact, OrderPlaced):
            assert fact.person is not None
            assert fact.person.email.endswith("@example.invalid")
            assert fact.person.address.postcode in ("01310", "99025")
            assert fact.not_applicable == tuple(NOT_APPLICABLE)


def test_facts_are_sorted_readable_and_limited_by_orders(folder: Path) -> None:
    told = list(facts(folder))
    assert all(one.at <= other.at for one, other in pairwise(told))
    assert [decode_fact(encode_fact(fact)) for fact in told] == told
    assert {fact.order for fact in facts(folder, limit=2)} == {"olist:summer", "olist:whole"}


def test_history_is_paced_and_at_full_speed_it_is_not(folder: Path) -> None:
    told = list(facts(folder))
    hourly = list(batches(told, speed=3600))
    assert [fact for _, batch in hourly for fact in batch] == told
    for due, batch in hourly:
        assert all(due <= (fact.at - told[0].at) / 3_600_000 <= due + 0.05 for fact in batch)
    assert [len(batch) for _, batch in batches(told, speed=None, most=4)] == [4] * (len(told) // 4) + [len(told) % 4] * bool(len(told) % 4)
    assert {due for due, _ in batches(told, speed=None, most=4)} == {0.0}


def test_a_folder_without_the_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no orders\.parquet"):
        next(facts(tmp_path))


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "nan", "inf"])
def test_a_speed_that_is_none_is_refused(folder: Path, speed: str) -> None:
    answer = CliRunner().invoke(main, [str(folder), "--speed", speed])
    assert answer.exit_code == 2
    assert "above 0" in answer.output


@real
def test_the_real_orders_are_all_there_faults_included() -> None:
    told = list(facts(REAL))
    kinds = Counter(type(fact) for fact in told)
    assert kinds[OrderPlaced] == 69_418
    assert kinds[PaymentCaptured] == 72_680  # of 72,774 payments those whose order was approved
    assert kinds[ParcelScanned] == 135_009
    times: dict[str, dict[object, int]] = {}
    for fact in told:
        times.setdefault(fact.order, {})[getattr(fact, "tag", type(fact))] = fact.at
    handed = [life for life in times.values() if Tracking.IN_TRANSIT in life]
    assert sum(life[Tracking.IN_TRANSIT] < life.get(PaymentCaptured, 0) for life in handed) == 123
    assert sum(life.get(Tracking.DELIVERED, 1 << 60) < life[Tracking.IN_TRANSIT] for life in handed) == 23
    assert sum(isinstance(fact, OrderPlaced) and not fact.lines for fact in told) == 647
    assert len({fact.customer for fact in told if isinstance(fact, OrderPlaced)}) < 69_418


def test_history_runs_through_the_whole_pipeline_and_its_faults_are_parked_not_lost(folder: Path) -> None:
    answer = CliRunner().invoke(main, [str(folder), "--json"])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout.splitlines()[-1])
    assert result["reported_orders"] == result["orders"] == 4
    assert result["orders_by_status"]["delivered"] == 2
    assert result["done"] + result["parked"] == result["facts_in"] >= result["reported_facts"] == len(list(facts(folder)))
    assert result["parked"] == 1  # the order without items
    assert result["waiting"] == 0
    assert (result["messages"], result["duplicate_messages"]) == ({}, 0)  # years old: recorded, not sent
    assert result["not_applicable"] == dict.fromkeys(NOT_APPLICABLE, 4)
    assert result["scores"] >= 3
    assert result["latency_ms"].keys() == {"p50", "p95", "p99"}
