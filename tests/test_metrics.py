"""The list of metrics: conventions, closed labels, and a number of series that has a ceiling."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from metrics import OTHER, Family, Metrics
from orders.status import Status

UNITS = ("_seconds", "_bytes", "_total", "_info", "_records", "_size")
BARE = {  # gauges that count things, or say yes or no
    f"orderflow_{name}"
    for name in (
        "partitions", "sender_queue_depth", "sends_stopped", "channel_mode", "unknown_effects", "connector_circuit_state", "parked_waiting",
        "parked_orders", "stalled_orders", "ready", "degradation_level", "process_open_fds", "process_max_fds",
    )
}  # fmt: skip
FORBIDDEN_LABELS = {"order", "order_id", "customer", "email", "phone", "effect", "error", "message", "key"}


def families(metrics: Metrics) -> list[tuple[str, Family[object]]]:  # type: ignore[type-var]
    return [(name, value) for name, value in vars(metrics).items() if isinstance(value, Family)]


def touch_all(metrics: Metrics, value: str) -> None:
    for _, family in families(metrics):
        child = family(*[value] * len(family._labels))
        (getattr(child, "inc", None) or child.observe)(1)  # type: ignore[attr-defined]


def test_every_metric_follows_the_conventions() -> None:
    metrics = Metrics()
    touch_all(metrics, "x")
    for family in text_string_to_metric_families(metrics.expose().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name.startswith("orderflow_"), name
        assert name.endswith(UNITS) or name in BARE, name
        assert (family.type == "counter") == name.endswith("_total"), name
        assert len(family.documentation) > 15, name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", name), name
        for sample in family.samples:
            assert not FORBIDDEN_LABELS & sample.labels.keys(), name


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.text(min_size=1, max_size=80) | st.emails(), min_size=1, max_size=60, unique=True))
def test_no_value_from_outside_can_make_series_without_end(values: list[str]) -> None:
    metrics = Metrics()
    for value in values:
        touch_all(metrics, value)
    text = metrics.expose().decode()
    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(series) < 4000
    for value in values:
        if "@" in value:
            assert value not in text


def test_many_strange_values_stay_within_the_budget() -> None:
    metrics = Metrics()
    touch_all(metrics, "x")
    for n in range(2000):
        touch_all(metrics, f"lumi:{n}")
    series = [line for line in metrics.expose().decode().splitlines() if not line.startswith("#")]
    assert len(series) < 4000
    assert all(len(family._children) < 200 for _, family in families(metrics))  # nor is what came from outside remembered


def test_an_unknown_value_counts_as_other_and_is_not_lost() -> None:
    metrics = Metrics()
    metrics.parked_records("anna@example.invalid").inc(2)
    metrics.parked_records("malformed").inc()
    text = metrics.expose().decode()
    assert f'orderflow_parked_records_total{{reason="{OTHER}"}} 2.0' in text
    assert 'orderflow_parked_records_total{reason="malformed"} 1.0' in text


def test_a_set_that_a_release_makes_takes_the_first_few() -> None:
    metrics = Metrics()
    for n in range(40):
        metrics.model_info(f"m-{n}", "champion").set(1)
    text = metrics.expose().decode()
    assert text.count("orderflow_model_info{") == 17  # sixteen and "other"


def test_a_partition_that_left_has_no_lag() -> None:
    metrics = Metrics()
    metrics.consumer_lag("facts", "3").set(42)
    metrics.consumer_lag("facts", "4").set(1)
    assert 'orderflow_consumer_lag_seconds{partition="3",topic="facts"} 42.0' in metrics.expose().decode()
    metrics.consumer_lag.remove("facts", "3")
    assert 'partition="3"' not in metrics.expose().decode()
    metrics.consumer_lag("facts", "3").set(7)
    assert 'orderflow_consumer_lag_seconds{partition="3",topic="facts"} 7.0' in metrics.expose().decode()


def test_every_status_is_a_label() -> None:
    metrics = Metrics()
    for status in Status:
        metrics.transitions("", status.value, "applied").inc()
    assert OTHER not in metrics.expose().decode()


def test_a_full_turn_is_told_from_a_great_one() -> None:
    metrics = Metrics()
    metrics.model_batch_size.observe(5000)
    text = metrics.expose().decode()
    assert 'orderflow_model_batch_size_bucket{le="4096.0"} 0.0' in text and 'orderflow_model_batch_size_bucket{le="8192.0"} 1.0' in text


def test_two_in_one_process_do_not_share_anything() -> None:
    a, b = Metrics(), Metrics()
    a.unknown_effects.set(3)
    assert "orderflow_unknown_effects 0.0" in b.expose().decode()
