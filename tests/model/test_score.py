"""Expected loss, priority, and the way of scores between processes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from model.features import NAMES, WIDTH
from model.score import CHUNK, NO_REASON, Packed, Rows, joined, pack, packed, unpack
from tests.model.made import some_rows


def row(**values: float) -> Rows:
    made = np.zeros((1, WIDTH), np.float32)
    for name, value in values.items():
        made[0, NAMES.index(name)] = value
    return made


def priority(fraud: float = 0.0, late: float = 0.0, shortage: float = 0.0, **values: float) -> float:
    return float(unpack(packed(row(**values), chances(fraud, late, shortage), moves(), "v", fallback=False)).priority[0])


def chances(fraud: float, late: float, shortage: float) -> Rows:
    return np.array([[fraud], [late], [shortage]], np.float32)


def moves(rows: int = 1) -> Rows:
    return np.zeros((3, rows, WIDTH), np.float32)


def test_expected_loss_is_the_total_times_what_each_mishap_costs() -> None:
    found = unpack(packed(row(total_minor=10_000), chances(0.5, 0.2, 0.1), moves(), "v", fallback=False))
    assert found.loss[0] == pytest.approx(10_000 * (0.5 + 0.2 * 0.10 + 0.1 * 0.15), rel=1e-6)


def test_the_loss_of_a_large_total_keeps_its_digits() -> None:
    found = unpack(packed(row(total_minor=123_456_789), chances(1, 0, 0), moves(), "v", fallback=False))
    assert found.loss[0] == pytest.approx(123_456_789, rel=1e-6)


def test_urgency_loyalty_value_and_danger_raise_the_priority_and_suspicion_lowers_it() -> None:
    plain = priority(promise_days=5, value=50)
    assert priority(promise_days=5, value=50, express=1) > plain
    assert priority(promise_days=1, value=50) > plain
    assert priority(promise_days=5, value=50, vip=1) > plain
    assert priority(promise_days=5, value=500) > plain
    assert priority(promise_days=5, value=50, late=0.5) > plain
    assert priority(promise_days=5, value=50, fraud=0.9) < plain
    assert priority(promise_days=0.5, value=50, express=1, vip=1) > priority(promise_days=5, value=5_000)


def test_the_strongest_moves_of_the_likeliest_heads_are_the_reasons() -> None:
    moved = moves()
    moved[0, 0, NAMES.index("avs_mismatch")] = 1.0
    moved[0, 0, NAMES.index("velocity")] = 2.0
    moved[1, 0, NAMES.index("trouble")] = 2.0
    moved[0, 0, NAMES.index("express")] = -3.0
    there = row(avs_mismatch=1, velocity=3, trouble=1, express=1)
    likely_fraud = unpack(packed(there, chances(0.9, 0.1, 0), moved, "v", fallback=False))
    assert likely_fraud.reasons == [("velocity", "avs_mismatch", "delivery_trouble")]
    likely_late = unpack(packed(there, chances(0.05, 0.9, 0), moved, "v", fallback=False))
    assert likely_late.reasons == [("delivery_trouble", "velocity", "avs_mismatch")]


def test_a_column_that_hardly_moved_anything_is_no_reason_and_the_total_never_is() -> None:
    moved = moves()
    moved[0, 0, NAMES.index("velocity")] = 0.001
    moved[0, 0, NAMES.index("total_minor")] = 9.0
    assert unpack(packed(row(velocity=3, total_minor=5_000), chances(1, 0, 0), moved, "v", fallback=False)).reasons == [()]


def test_what_calms_one_head_may_still_be_the_reason_of_another() -> None:
    moved = moves()
    moved[0, 0, NAMES.index("express")], moved[1, 0, NAMES.index("express")] = -5.0, 2.0
    assert unpack(packed(row(express=1), chances(0.9, 0.5, 0), moved, "v", fallback=False)).reasons == [("express",)]


def test_what_was_not_there_is_no_reason() -> None:
    moved = moves()
    moved[0, 0, NAMES.index("velocity")] = moved[0, 0, NAMES.index("trouble")] = 1.0
    assert unpack(packed(row(velocity=2), chances(1, 0, 0), moved, "v", fallback=False)).reasons == [("velocity",)]


def test_scores_survive_the_way_between_processes() -> None:
    rows = some_rows(300)
    rng = np.random.default_rng(2)
    made = packed(rows, rng.random((3, 300), np.float32), rng.normal(size=(3, 300, WIDTH)).astype(np.float32), "net-1", fallback=False)
    sent = pack(made)
    assert len(sent) < 300 * 24
    here, there = unpack(made), unpack(sent)
    assert (here.fraud == there.fraud).all()
    assert (here.priority == there.priority).all()
    assert here.reasons == there.reasons
    assert there.version == "net-1"


@pytest.mark.parametrize("data", [b"", b"\x80", b"junk", pack(["v", False, b"\0" * 20, b"\0"]), pack(["v", False, b"\0" * 7, b""])])
def test_bytes_that_are_no_scores_are_refused(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, ValueError)):
        unpack(data)


def test_parts_are_joined_in_their_order() -> None:
    def part(fraud: list[float], version: str = "v") -> Packed:
        count = len(fraud)
        return packed(some_rows(count), np.array([fraud, [0] * count, [0] * count], np.float32), moves(count), version, fallback=False)

    whole = joined([unpack(part([0.1, 0.2])), unpack(part([0.3]))])
    assert whole.fraud == pytest.approx([0.1, 0.2, 0.3])
    assert len(whole.reasons) == 3
    assert CHUNK >= 1024
    assert NO_REASON > WIDTH
