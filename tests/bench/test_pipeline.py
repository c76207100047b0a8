"""The benches in small: they start what they say, count what they claim and notice what is wrong. Nothing here looks at a clock."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from bench import latency, pipeline
from bench.installation import Plan, stage_rows, workers_of
from bench.machine import NOTHING, folder_bytes, machine, speed, usage, usages, versions
from connectors.fake_shop import FakeShop
from meter import Latencies
from streams.lane import STAGES

PLAN = Plan(log="embedded", partitions=2)


async def test_the_pipeline_bench_carries_every_fact_and_checks_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    run = await pipeline.measure(PLAN, 60, 7, Console(quiet=True))
    assert run.faults == []
    assert (run.orders, run.done, run.parked) == (60, run.facts, 0)
    assert run.checked_statuses >= 55
    assert run.wrong_statuses == 0
    assert 0 < run.scores <= run.facts
    assert run.rows_per_call >= 1
    assert run.records_per_fact["orders"] == 1.0
    assert run.records_per_fact["references"] > 0
    assert run.messages_wanted_per_fact > 0
    assert run.store_bytes_per_order > 500
    assert {"worker", "archive", "ray", "store", "feeder"} <= run.cpu_seconds.keys()
    assert min(run.memory_pss_mb[name] for name in ("worker", "ray", "store")) > 0
    assert run.disk_mb.keys() == {"store", "log", "archive"}
    assert run.stage_seconds["orders"].keys() == set(STAGES)
    pipeline.report(PLAN, [run], Console(soft_wrap=True))
    shown = capsys.readouterr().out
    assert "| facts/s, median of runs |" in shown
    assert "60 states" in shown


async def test_the_latency_bench_measures_each_fact_of_its_pace_and_no_other() -> None:
    rows = await latency.measure(PLAN, [200], seconds=1.0, warm_up=0.5, rounds=2, seed=7)
    assert len(rows) == 2
    for row in rows:
        assert 200 <= row.facts < 220  # those that named only a tracking number come back as facts of their own
        assert 0 < row.p50 <= row.p95 <= row.p99 <= row.worst
        assert row.worker_cores > 0
        assert row.other_cores.keys() == {"archive", "ray", "store", "broker", "feeder"}
    assert latency.medians(rows) == {200: pytest.approx((rows[0].p99 + rows[1].p99) / 2)}


def test_the_median_call_is_read_off_the_histogram() -> None:
    assert pipeline.median_of({1.0: 1, 8.0: 4, 16.0: 9, float("inf"): 10}) == 16
    assert pipeline.median_of({1.0: 5, 8.0: 9, float("inf"): 10}) == 1
    assert pipeline.median_of({1.0: 0, float("inf"): 0}) == 0


def test_a_run_whose_facts_were_done_before_it_began_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(plan: Plan, orders: int, seed: int, console: Console) -> Any:
        return SimpleNamespace(facts=100, measured=49)

    monkeypatch.setattr(pipeline, "measure", measured)
    answer = CliRunner().invoke(pipeline.main, ["--orders", "10"])
    assert (answer.exit_code, "take more --orders" in answer.output) == (1, True)


@pytest.mark.parametrize("bench", [pipeline, latency])
def test_the_embedded_log_is_not_measured_with_two_workers(bench: Any) -> None:
    answer = CliRunner().invoke(bench.main, ["--log", "embedded", "--workers", "2"])
    assert (answer.exit_code, "one worker process" in answer.output) == (2, True)
    assert (workers_of("embedded", None), workers_of("kafka", None), workers_of("kafka", 3)) == (1, 2, 3)


def test_a_kafka_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = CliRunner().invoke(pipeline.main, ["--kafka", str(tmp_path), "--orders", "1"])
    assert answer.exit_code == 1
    assert str(tmp_path / "kafka") in answer.output


def test_all_lives_of_the_measured_shop_have_ended() -> None:
    until = 1_795_464_000_000
    shop = pipeline.shop_of(300, 7, until)
    assert isinstance(shop, FakeShop)
    reports = list(shop.reports(300))
    assert max(report.arrives for report in reports) < until
    assert len({r.key for r in reports if r.topic == "facts"}) == 300


def test_a_window_of_latencies_is_what_was_added_in_it() -> None:
    measured = Latencies()
    measured.add(5.0, times=1000)
    before = json.loads(json.dumps(measured.bins))
    for ms in range(1, 101):
        measured.add(ms / 1000)
    window = Latencies.between(before, json.loads(json.dumps(measured.bins)))
    assert window.count == 100
    assert window.quantile(0.5) == pytest.approx(0.05, rel=0.05)
    assert window.quantile(1.0) == pytest.approx(0.1, rel=0.05)


def test_stages_are_counted_from_the_moment_the_measuring_began() -> None:
    one = dict.fromkeys(STAGES, 1.0)
    assert stage_rows({"orders": one}, {"orders": dict.fromkeys(STAGES, 1.5), "stock": one}) == {
        "orders": dict.fromkeys(STAGES, 0.5),
        "stock": one,
    }


def test_usage_is_of_processes_and_one_that_ended_used_nothing(tmp_path: Path) -> None:
    ours = usage(os.getpid())
    assert 0 < ours.pss <= ours.rss
    assert ours.cpu_s > 0
    assert usage(2**22 + 1) == NOTHING
    both = usages({"twice": [os.getpid(), os.getpid()], "none": []})
    assert both["twice"].rss >= 1.5 * ours.rss
    assert both["none"] == NOTHING
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert folder_bytes(tmp_path) >= 100_000
    assert "cores" in machine()
    assert re.fullmatch(r"a fixed piece of work just now: \d\.\d\d s on one core, \d+\.\d\d s on all at once", speed())
    assert "msgspec " + msgspec.__version__ in versions()
