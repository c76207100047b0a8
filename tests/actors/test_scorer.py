"""The plain scorer, and the one that runs inside the worker where there is no Ray."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from actors.handles import MOST_PENDING, LocalScorer
from actors.scorer import Scorer
from model.artefact import ArtefactRefused, promote, save
from model.features import WIDTH
from model.network import Network
from model.score import CHUNK, Rows, Scores, unpack


def rows(count: int, seed: int = 1) -> Rows:
    return np.random.default_rng(seed).random((count, WIDTH), np.float32)


def same(a: Scores, b: Scores) -> bool:
    names = ("fraud", "late", "shortage", "loss", "priority")
    return all(np.allclose(getattr(a, name), getattr(b, name), atol=1e-6) for name in names) and a.reasons == b.reasons


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "weights"
    promote(where, save(where, Network(1), rows(4), created_from="made up", data=(0, 0, 0), metrics={}))
    return where


def challenger(folder: Path) -> str:
    return save(folder, Network(2), rows(4), created_from="made up", data=(0, 0, 0), metrics={})


def test_more_rows_than_a_chunk_are_answered_in_order(weights: Path) -> None:
    scorer = Scorer(weights)
    many = rows(CHUNK + 3)
    whole = scorer.score(many)
    assert len(whole.fraud) == len(whole.reasons) == CHUNK + 3
    assert whole.version == scorer.version
    assert not whole.fallback
    assert np.allclose(whole.fraud[-3:], scorer.score(many[-3:]).fraud, atol=1e-6)


def test_bytes_get_the_answers_that_rows_get(weights: Path) -> None:
    scorer = Scorer(weights)
    assert same(unpack(scorer.score_bytes(rows(9).tobytes())), scorer.score(rows(9)))


def test_reload_takes_what_the_alias_names_now(folder: Path) -> None:
    scorer = Scorer(folder)
    first = scorer.version
    second = challenger(folder)
    assert scorer.reload() == first
    promote(folder, second)
    assert scorer.reload() == second == scorer.score(rows(2)).version == scorer.health()["version"]


def test_a_refused_reload_keeps_the_weights_that_serve(folder: Path) -> None:
    scorer = Scorer(folder)
    before = scorer.score(rows(5))
    (folder / scorer.version / "weights.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ArtefactRefused):
        scorer.reload()
    assert same(scorer.score(rows(5)), before)


def test_two_scorers_in_one_process_do_not_know_each_other(folder: Path, weights: Path) -> None:
    one, other = Scorer(folder), Scorer(weights)
    assert one.version != other.version
    assert one.score(rows(2)).version == one.version


async def test_without_ray_the_model_answers_in_this_process(weights: Path) -> None:
    scorer = LocalScorer(weights, deadline_s=30)
    assert await scorer.start()
    assert same(await scorer.score(rows(20)), Scorer(weights).score(rows(20)))
    health = scorer.health()
    assert health["scorer"] == "model"
    assert "degraded" in health["ray"]
    await scorer.close()


async def test_without_a_model_the_rules_answer_and_say_so(tmp_path: Path) -> None:
    scorer = LocalScorer(tmp_path / "nothing")
    assert not await scorer.start()
    found = await scorer.score(rows(20))
    assert (found.fallback, found.version) == (True, "rules-1")
    assert (scorer.health()["scorer"], scorer.fallbacks) == ("rules", 1)
    await scorer.close()


async def test_a_model_that_hangs_costs_the_deadline_and_never_piles_up(weights: Path) -> None:
    scorer = LocalScorer(weights, deadline_s=0.01)
    await scorer.start()
    go_on = threading.Event()
    inner = scorer._scorer.score

    def hang(asked: Rows) -> Scores:
        go_on.wait()
        return inner(asked)  # type: ignore[no-any-return]

    scorer._scorer.score = hang
    for _ in range(MOST_PENDING):
        assert (await scorer.score(rows(2))).fallback
    scorer.deadline_s = 3600  # nobody would wait for this: there is no room for another call
    assert (await scorer.score(rows(2))).fallback
    go_on.set()
    del scorer._scorer.score
    while (await scorer.score(rows(2))).fallback:
        await asyncio.sleep(0.01)
    await scorer.close()


async def test_rows_the_model_cannot_take_are_an_error_and_no_fallback(weights: Path) -> None:
    scorer = LocalScorer(weights)
    await scorer.start()
    with pytest.raises(ValueError, match="float32 of shape"):
        await scorer.score(np.zeros((2, 3), np.float32))
    await scorer.close()


def test_the_shipped_folder_may_be_read_only(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(weights, copy)
    for path in copy.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert Scorer(copy).version == Scorer(weights).version
