"""The one place that reads the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Milliseconds since 1970, UTC."""


class WallClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000


class VirtualClock:
    """A clock that a test or a replay moves by hand."""

    def __init__(self, at: int) -> None:
        self.at = at

    def now(self) -> int:
        return self.at

    def move_to(self, at: int) -> None:
        self.at = max(self.at, at)
