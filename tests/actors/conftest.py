"""One local Ray for all tests of this folder; tests that break a cluster start their own, in a process of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.ray_local import LocalRay, prepare_environment


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRay]:
    folder = tmp_path_factory.mktemp("data")
    prepare_environment(os.environ, folder)
    ray = LocalRay(folder)
    ray.start()
    yield ray
    ray.stop()


@pytest.fixture(scope="session")
def weights() -> Path:
    """Those that ship."""
    return Path(__file__).parents[2] / "model" / "weights"
