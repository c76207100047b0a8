"""The gateway's bench in small: what it sends is believed, arrives once and is seen. Nothing here looks at a clock."""

from __future__ import annotations

import shutil

import pytest
from rich.console import Console

from bench import gateway


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk (Debian package wrk)")
async def test_every_webhook_is_taken_once_and_every_order_is_seen_on_both_pages(capsys: pytest.CaptureFixture[str]) -> None:
    rows, visible, lost = await gateway.measure([100], seconds=1.0, rounds=1, visible_at=100)
    (row,) = rows
    assert row.errors == 0 and row.got > 0 and 0 < row.p50_ms <= row.p99_ms <= row.worst_ms
    assert lost == 0, "a delivery that is sent twice is in the log once, and counts as lost too"
    assert visible.orders > 5 and visible.missed == 0 and visible.got > 0
    assert 0 < visible.p50_ms <= visible.p99_ms <= visible.worst_ms
    gateway.report(rows, visible, lost, Console(soft_wrap=True))
    shown = capsys.readouterr().out
    assert "accepted and lost: 0" in shown and f"of {visible.orders} orders" in shown


def test_the_crossing_is_that_of_the_medians() -> None:
    def row(rate: int, p99: float) -> gateway.Row:
        return gateway.Row(rate, rate, 1.0, p99, p99, 2.0, 0)

    slow = [row(1000, 10.0), row(2000, 40.0), row(1000, 90.0), row(2000, 70.0), row(1000, 11.0), row(2000, 60.0)]
    assert gateway.crossing(slow) == "ours crosses 50 ms at 2,000/s"
    assert gateway.crossing(slow[:1]) == "ours stays below 50 ms up to 1,000/s"
