"""Weights as files: what is not exactly what its manifest says never scores, and nothing in a file is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from model import artefact
from model.artefact import ALIASES, MANIFEST, WEIGHTS, ArtefactRefused, load_alias, promote
from model.features import SCHEMA_HASH, WIDTH
from model.network import Network
from tests.model.made import some_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def version(folder: Path) -> str:
    return artefact.save(folder, Network(1), some_rows(4), created_from="made up", data=(1, 2, 3), metrics={"fraud_ap": 0.5})


def edit(folder: Path, version: str, changes: dict[str, Any]) -> None:
    path = folder / version / MANIFEST
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | changes))


Change = Callable[[dict[str, torch.Tensor]], None]


def change_weights(folder: Path, version: str, change: Change) -> None:
    """A careful forger: the manifest's SHA-256 fits."""
    path = folder / version / WEIGHTS
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))
    edit(folder, version, {"sha256": sha256(path.read_bytes()).hexdigest()})


def test_what_was_saved_scores_the_same_when_loaded(folder: Path, version: str) -> None:
    network, manifest = artefact.load(folder, version)
    assert network.score(some_rows(50), "v") == Network(1).score(some_rows(50), "v")
    assert (manifest.schema_hash, manifest.rows, manifest.metrics) == (SCHEMA_HASH, 3, {"fraud_ap": 0.5})


def test_the_version_is_made_of_the_content(folder: Path, version: str) -> None:
    def again(seed: int) -> str:
        return artefact.save(folder, Network(seed), some_rows(4), created_from="x", data=(0, 0, 0), metrics={})

    assert again(1) == version
    assert again(2) != version


def test_an_alias_names_what_serves(folder: Path, version: str) -> None:
    with pytest.raises(ArtefactRefused, match=ALIASES):
        load_alias(folder)
    promote(folder, version)
    assert load_alias(folder)[1].version == version
    with pytest.raises(ArtefactRefused, match="shadow"):
        load_alias(folder, "shadow")
    promote(folder, version, "shadow")
    assert artefact.aliases(folder) == {"champion": version, "shadow": version}


def test_what_is_refused_is_not_promoted(folder: Path, version: str) -> None:
    promote(folder, version)
    broken = artefact.save(folder, Network(2), some_rows(4), created_from="x", data=(0, 0, 0), metrics={})
    edit(folder, broken, {"schema_hash": "0" * 16})
    with pytest.raises(ArtefactRefused):
        promote(folder, broken)
    assert load_alias(folder)[1].version == version


def nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["first.weight"][0, 0] = float("nan")


def other_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["first.weight"] = tensors["first.weight"][:, :-1].contiguous()


def other_type(tensors: dict[str, torch.Tensor]) -> None:
    tensors["heads.bias"] = tensors["heads.bias"].to(torch.float16)


def one_missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["rising"]


def one_too_many(tensors: dict[str, torch.Tensor]) -> None:
    tensors["backdoor"] = torch.zeros(1)


def poisoned(tensors: dict[str, torch.Tensor]) -> None:
    tensors["heads.bias"][0] -= 3  # all finite, all shapes right, and fraud goes unseen


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (nan, "not a finite number"),
        (other_shape, "wrong shape or type: first.weight"),
        (other_type, "wrong shape or type: heads.bias"),
        (one_missing, "wrong shape or type: rising"),
        (one_too_many, "a tensor too many"),
        (poisoned, "canary"),
    ],
)
def test_weights_that_were_changed_are_refused(
    folder: Path, version: str, change: Callable[[dict[str, torch.Tensor]], None], why: str
) -> None:
    change_weights(folder, version, change)
    with pytest.raises(ArtefactRefused, match=why):
        artefact.load(folder, version)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema_hash": "feedfeedfeedfeed"}, "train it again"),
        ({"architecture": "resnet"}, "architecture"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"version": "net-other"}, "another version"),
        ({"canary": []}, "no canary rows"),
        ({"canary_rows": [[0.0] * (WIDTH - 1)] * 4}, "no canary rows"),
        ({"canary": [[0.5, 0.5, 0.5]] * 4}, "canary rows do not score"),
        ({"surprise": 1}, "cannot be read"),
        ({"rows": "many"}, "cannot be read"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, version: str, changes: dict[str, Any], why: str) -> None:
    edit(folder, version, changes)
    with pytest.raises(ArtefactRefused, match=why):
        artefact.load(folder, version)


def test_one_changed_byte_is_refused(folder: Path, version: str) -> None:
    path = folder / version / WEIGHTS
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ArtefactRefused, match="SHA-256"):
        artefact.load(folder, version)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["pickle", "torch", "zeros", "empty", "huge_header"])
def test_a_file_that_is_no_safetensors_is_refused_and_nothing_in_it_runs(folder: Path, version: str, tmp_path: Path, how: str) -> None:
    went_off = tmp_path / "went_off"
    path = folder / version / WEIGHTS
    if how == "torch":
        torch.save({"first.weight": Bomb(went_off)}, path)
    else:
        hostile = {"pickle": pickle.dumps(Bomb(went_off)), "zeros": b"\0" * 64, "empty": b"", "huge_header": b"\xff" * 7 + b"\x7f" + b"{}"}
        path.write_bytes(hostile[how])
    edit(folder, version, {"sha256": sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(ArtefactRefused, match="no safetensors"):
        artefact.load(folder, version)
    assert not went_off.exists()


def test_a_file_of_absurd_size_is_refused_unread(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact, "MOST_BYTES", 20_000)
    with (folder / version / WEIGHTS).open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(ArtefactRefused, match="too large"):
        artefact.load(folder, version)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "", "a/b", "..", "A", "x" * 65])
def test_a_version_is_a_name_and_no_path(folder: Path, name: str) -> None:
    with pytest.raises(ArtefactRefused, match="no name of a version"):
        artefact.load(folder, name)


def test_a_version_that_does_not_exist_is_refused_in_words(folder: Path) -> None:
    with pytest.raises(ArtefactRefused, match="No such file"):
        artefact.load(folder, "net-none")


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"champion": 3}'])
def test_an_alias_file_that_cannot_be_read_is_refused(folder: Path, version: str, content: bytes) -> None:
    (folder / ALIASES).write_bytes(content)
    with pytest.raises(ArtefactRefused, match=ALIASES):
        load_alias(folder)


def test_canary_rows_are_kept_exactly(folder: Path, version: str) -> None:
    manifest = artefact.load(folder, version)[1]
    assert (np.array(manifest.canary_rows, np.float32) == some_rows(4)).all()
