"""Weights as files: `<folder>/<version>/weights.safetensors` beside `manifest.json`, and `<folder>/aliases.json` saying which serves.

Nothing here unpickles. A file that is not what its manifest says, was trained on another layout of features, or does not
give the answers it gave when it was made is refused before it scores anything.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from model.features import SCHEMA_HASH, WIDTH
from model.network import Network
from model.score import HEADS, Rows

WEIGHTS, MANIFEST, ALIASES = "weights.safetensors", "manifest.json", "aliases.json"
CHAMPION = "champion"
ARCHITECTURE = "trunk-32-16-rising-1"
MOST_BYTES = 16 * 2**20
CANARY_TOLERANCE = 1e-4  # other processors round otherwise

_VERSION = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


class ArtefactRefused(Exception):
    """These weights must not score; the text says why, and names no content."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must be known of weights before they are trusted."""

    version: str
    architecture: str
    schema_hash: str  # model.features.SCHEMA_HASH of the rows it was trained on
    sha256: str  # of the weights file
    created_from: str  # in words: which data
    data_from: int  # ms, of the first and last order it saw
    data_until: int
    rows: int
    metrics: dict[str, float]  # on the later part of the data, which training did not see
    canary_rows: list[list[float]]
    canary: list[list[float]]  # their probabilities when it was made, in the order of HEADS


_manifest = msgspec.json.Decoder(Manifest).decode


def save(folder: Path, network: Network, canary: Rows, *, created_from: str, data: tuple[int, int, int], metrics: dict[str, float]) -> str:
    """Writes a new version and returns its name, made of its content. `data` is (from, until, rows)."""
    blob = save_tensors({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    digest = sha256(blob).hexdigest()
    version = f"net-{digest[:8]}"
    manifest = Manifest(
        version=version,
        architecture=ARCHITECTURE,
        schema_hash=SCHEMA_HASH,
        sha256=digest,
        created_from=created_from,
        data_from=data[0],
        data_until=data[1],
        rows=data[2],
        metrics=metrics,
        canary_rows=[[float(x) for x in row] for row in canary],
        canary=[[float(p) for p in row] for row in _probabilities(network, canary)],
    )
    target = folder / version
    target.mkdir(parents=True, exist_ok=True)
    (target / WEIGHTS).write_bytes(blob)
    _write(target / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))  # last: without it nothing is there
    return version


def load(folder: Path, version: str) -> tuple[Network, Manifest]:
    """Raises ArtefactRefused unless all is as the manifest says and the canary rows score as they did."""
    if not _VERSION.fullmatch(version):
        raise ArtefactRefused("that is no name of a version")
    try:
        manifest = _manifest(_read(folder / version / MANIFEST))
    except msgspec.DecodeError as error:
        raise ArtefactRefused(f"{MANIFEST} cannot be read: {error}") from None
    if manifest.version != version:
        raise ArtefactRefused(f"{MANIFEST} is of another version")
    if manifest.schema_hash != SCHEMA_HASH:
        raise ArtefactRefused(f"trained on features {manifest.schema_hash[:16]}, this program has {SCHEMA_HASH}: train it again")
    if manifest.architecture != ARCHITECTURE:
        raise ArtefactRefused(f"architecture {manifest.architecture[:32]} is not {ARCHITECTURE}")
    blob = _read(folder / version / WEIGHTS)
    if sha256(blob).hexdigest() != manifest.sha256:
        raise ArtefactRefused(f"{WEIGHTS} does not match the SHA-256 of its manifest")
    network = _network(blob)
    _check_canary(network, manifest)
    return network, manifest


def _network(blob: bytes) -> Network:
    try:
        tensors = load_tensors(blob)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtefactRefused(f"{WEIGHTS} is no safetensors file ({type(error).__name__})") from None
    network = Network()
    wanted = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if found != wanted:
        wrong = sorted(name for name in wanted if found.get(name) != wanted[name]) or ["a tensor too many"]
        raise ArtefactRefused(f"wrong shape or type: {', '.join(wrong)}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ArtefactRefused("a weight is not a finite number")
    network.load_state_dict(tensors)
    return network.eval()


def _check_canary(network: Network, manifest: Manifest) -> None:
    rows, expected = manifest.canary_rows, manifest.canary
    if not rows or len(rows) != len(expected) or {len(row) for row in rows} != {WIDTH} or {len(row) for row in expected} != {len(HEADS)}:
        raise ArtefactRefused("the manifest has no canary rows that fit")
    got = _probabilities(network, np.array(rows, np.float32))
    if not np.allclose(got, np.array(expected, np.float32), rtol=0, atol=CANARY_TOLERANCE):
        raise ArtefactRefused("the canary rows do not score as they did when these weights were made")


def _probabilities(network: Network, rows: Rows) -> Rows:
    numbers = np.frombuffer(network.score(rows, "").numbers, np.float32)
    return numbers.reshape(5, -1)[: len(HEADS)].T


def aliases(folder: Path) -> dict[str, str]:
    """Alias -> version; empty where nothing was published yet."""
    try:
        return msgspec.json.decode(_read(folder / ALIASES), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ArtefactRefused(f"{ALIASES} cannot be read: {error}") from None


def promote(folder: Path, version: str, alias: str = CHAMPION) -> None:
    """From now on (a scorer's next reload) `alias` means this version. Loads it first: what is refused is not promoted."""
    load(folder, version)
    named = aliases(folder) if (folder / ALIASES).exists() else {}
    _write(folder / ALIASES, msgspec.json.format(msgspec.json.encode(named | {alias: version}), indent=1))


def load_alias(folder: Path, alias: str = CHAMPION) -> tuple[Network, Manifest]:
    version = aliases(folder).get(alias)
    if version is None:
        raise ArtefactRefused(f"no version is {alias}")
    return load(folder, version)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ArtefactRefused(f"{path.name} is too large")
        return path.read_bytes()
    except OSError as error:
        raise ArtefactRefused(f"{path.name}: {error.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
