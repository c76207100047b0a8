"""What the configuration says reaches the policy that orders are planned by."""

from __future__ import annotations

from pathlib import Path

import pytest

import settings
import wire
from orders.policy import Policy


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
