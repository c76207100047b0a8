"""What vendors have published, read where it lies beside the project; nothing of it is copied."""

from __future__ import annotations

from pathlib import Path

import pytest

CONTRACTS = Path(__file__).parents[2].parent / "shared" / "contracts"


def published(*place: str) -> bytes:
    """The bytes of a vendor's specification, sample or vector; skips the test where the folder is absent."""
    if not CONTRACTS.exists():
        pytest.skip("../shared/contracts is not here")
    return CONTRACTS.joinpath(*place).read_bytes()
