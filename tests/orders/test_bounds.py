"""Impossible reports are named by their field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orders.bounds import violation
from orders.fact import AT_MAX, Fact, Quantity, Tracking
from tests.orders.lives import EACH, LAMP, T0, captured, packed, placed, reserved, scanned


@pytest.mark.parametrize("fact", EACH, ids=lambda f: type(f).__name__)
def test_sound_reports_pass(fact: Fact) -> None:
    assert violation(fact) is None


def _line(**more: Any) -> Any:
    return msgspec.structs.replace(LAMP, **more)


@pytest.mark.parametrize(
    ("fact", "reason", "field"),
    [
        (captured(at=0), "bounds", "$.at"),
        (captured(at=T0 // 1000), "bounds", "$.at"),  # seconds
        (captured(at=AT_MAX), "bounds", "$.at"),
        (captured(v=0), "version", "$.v"),
        (captured(v=3), "version", "$.v"),
        (captured(version=-1), "bounds", "$.version"),
        (captured(object=""), "bounds", "$.object"),
        (captured(object="x" * 2000), "bounds", "$.object"),
        (captured(system=""), "bounds", "$.system"),
        (captured(-1), "bounds", "$.amount"),
        (captured(1 << 53), "bounds", "$.amount"),
        (captured(currency="EURO"), "currency", "$.currency"),
        (placed(currency="XXQ"), "currency", "$.currency"),
        (placed(total=-1), "bounds", "$.total"),
        (placed(lines=()), "bounds", "$.lines"),
        (placed(lines=(_line(),) * 1001), "bounds", "$.lines"),
        (placed(lines=(_line(quantity=0),)), "bounds", "$.lines[...].quantity"),
        (placed(lines=(_line(price=1 << 53),)), "bounds", "$.lines[...].price"),
        (placed(promised=5), "bounds", "$.promised"),
        (placed(signals={"velocity": float("nan")}), "bounds", "$.signals[...]"),
        (placed(signals={"velocity": float("inf")}), "bounds", "$.signals[...]"),
        (reserved(quantity=-1), "bounds", "$.quantity"),
        (packed(lines=(Quantity(line="1", quantity=-1),)), "bounds", "$.lines[...].quantity"),
        (scanned(Tracking.IN_TRANSIT, T0, eta_from=T0 + 2, eta_until=T0 + 1), "bounds", "$.eta_until"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_field(fact: Fact, reason: str, field: str) -> None:
    assert violation(fact) == (reason, field)


def test_the_next_version_of_a_fact_is_read_too() -> None:
    assert violation(captured(v=2)) is None
