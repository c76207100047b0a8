"""The network: batches, seeds, documented directions, reasons. The rules keep the same promises where they apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import rules
from model.artefact import load_alias
from model.features import FEATURES, NAMES, REASONS, WIDTH, scaled
from model.network import FREE, PRECISION, RISING, Network
from model.score import HEADS, Packed, Rows, Scores, unpack
from tests.model.made import rows, some_rows, wild_rows

SHIPPED = load_alias(Path(__file__).parents[2] / "model" / "weights")[0]


def made_up(seed: int) -> Network:
    """Weights of a size that nobody trained, signals included."""
    network = Network(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed), dtype=PRECISION))
    return network


def by(network: Network) -> Callable[[Rows], Scores]:
    return lambda rows: unpack(network.score(rows, "v"))


SCORERS = {"shipped": by(SHIPPED), "random-1": by(made_up(1)), "random-2": by(made_up(2)), "rules": lambda rows: unpack(rules.score(rows))}


@pytest.fixture(params=SCORERS)
def score(request: pytest.FixtureRequest) -> Callable[[Rows], Scores]:
    return SCORERS[request.param]


def test_a_batch_scores_as_its_rows_do_alone(score: Callable[[Rows], Scores]) -> None:
    batch = some_rows(257)
    together = score(batch)
    for at in range(0, 257, 8):
        alone = score(batch[at : at + 1])
        for name in (*HEADS, "priority"):
            assert abs(getattr(alone, name)[0] - getattr(together, name)[at]) <= 1e-6
        assert alone.loss[0] == pytest.approx(together.loss[at], rel=1e-5, abs=1e-3)


@settings(max_examples=60)
@given(rows, st.sampled_from(RISING), st.floats(0, 1e6, width=32))
def test_raising_one_documented_signal_alone_never_lowers_the_fraud_score(row: Rows, column: int, to: float) -> None:
    raised = row.copy()
    raised[0, column] = max(np.float32(to), row[0, column])
    for name, scorer in SCORERS.items():
        assert scorer(raised).fraud[0] >= scorer(row).fraud[0] - 1e-6, f"{name}: {NAMES[column]}"


@pytest.mark.parametrize("column", RISING, ids=lambda column: NAMES[column])
def test_each_documented_signal_moves_the_shipped_fraud_score(column: int) -> None:
    quiet = np.zeros((1, WIDTH), np.float32)
    loud = quiet.copy()
    loud[0, column] = min(FEATURES[column].high, 4)
    for name in ("shipped", "rules"):
        assert SCORERS[name](loud).fraud[0] > SCORERS[name](quiet).fraud[0] * 1.1


@given(wild_rows)
def test_every_row_gets_probabilities_a_finite_loss_and_a_priority(wild: Rows) -> None:
    for scorer in SCORERS.values():
        found = scorer(wild)
        for name in (*HEADS, "priority"):
            values = getattr(found, name)
            assert values.dtype == np.float32
            assert ((values >= 0) & (values <= 1)).all()
        assert np.isfinite(found.loss).all()
        assert (found.loss >= 0).all()


def test_no_rows_get_no_answers(score: Callable[[Rows], Scores]) -> None:
    found = score(np.empty((0, WIDTH), np.float32))
    assert len(found.fraud) == len(found.reasons) == 0


@pytest.mark.parametrize("wrong", [np.zeros((2, WIDTH + 1), np.float32), np.zeros((2, WIDTH)), np.zeros(WIDTH, np.float32)])
def test_rows_of_another_shape_or_type_are_refused(score: Callable[[Rows], Scores], wrong: Rows) -> None:
    with pytest.raises(ValueError, match="float32 of shape"):
        score(wrong)


def test_a_seed_gives_the_same_network_and_another_seed_another() -> None:
    batch = some_rows(16)
    assert Network(3).score(batch, "v") == Network(3).score(batch, "v")
    assert Network(3).score(batch, "v") != Network(4).score(batch, "v")


def test_making_a_network_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    Network(1)
    assert torch.equal(torch.rand(3), expected)


def test_reasons_come_from_the_closed_list_and_never_repeat(score: Callable[[Rows], Scores]) -> None:
    for reasons in score(some_rows(200)).reasons:
        assert set(reasons) <= set(REASONS)
        assert len(set(reasons)) == len(reasons) <= 3


def test_the_signals_that_were_raised_are_the_reasons_strongest_first() -> None:
    row = np.zeros((1, WIDTH), np.float32)
    row[0, NAMES.index("cvc_mismatch")] = row[0, NAMES.index("avs_mismatch")] = row[0, NAMES.index("new_device")] = 1
    assert unpack(rules.score(row)).reasons == [("cvc_mismatch", "avs_mismatch", "new_device")]
    assert {"cvc_mismatch", "avs_mismatch"} <= set(SCORERS["shipped"](row).reasons[0])


def test_explanations_are_the_gradient_times_the_distance_from_the_average() -> None:
    batch = torch.from_numpy(scaled(some_rows(9))).to(PRECISION).requires_grad_()
    network = made_up(3)
    logits, moves, raised = network.explain(batch)
    for head in range(len(HEADS)):
        (gradient,) = torch.autograd.grad(logits[head].sum(), batch, retain_graph=True)
        free = gradient[:, FREE] * (batch[:, FREE] - network.center)
        assert torch.allclose(free, moves[head], atol=1e-9)
    (gradient,) = torch.autograd.grad(logits[0].sum(), batch, retain_graph=True)
    assert torch.allclose(gradient[:, RISING] * batch[:, RISING], raised, atol=1e-9)


def test_scoring_does_not_change_the_rows_it_was_given(score: Callable[[Rows], Scores]) -> None:
    batch = some_rows(5)
    before = batch.copy()
    batch.flags.writeable = False
    score(batch)
    assert (batch == before).all()


def test_what_is_packed_is_what_arrives() -> None:
    packed: Packed = made_up(1).score(some_rows(4), "v7")
    found = unpack(packed)
    assert (found.version, found.fallback) == ("v7", False)
    assert unpack(rules.score(some_rows(4))).fallback is True
