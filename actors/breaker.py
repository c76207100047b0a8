"""Stops asking a provider that fails, and asks again carefully.

closed: everything passes. After `failures` in a row it is open: nothing passes for `open_s`. Then it is half-open: one
call passes, and its end decides. Seconds come from the caller's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    def __init__(self, failures: int, open_s: float, clock: Callable[[], float]) -> None:
        self.failures = failures
        self.open_s = open_s
        self.clock = clock
        self.in_a_row = 0
        self.until = 0.0  # nothing passes before
        self.probing = False

    @property
    def state(self) -> str:
        if self.in_a_row < self.failures:
            return "closed"
        return "open" if self.clock() < self.until else "half_open"

    def left_s(self) -> float:
        """How long nothing passes; asking changes nothing."""
        return max(0.0, self.until - self.clock())

    def wait_s(self) -> float:
        """0: go, and say `succeeded`, `failed` or `neither` afterwards. Else: nothing passes for so long."""
        if left := self.left_s():
            return left
        if self.in_a_row >= self.failures:
            if self.probing:
                return self.open_s / 10  # the probe is out; its answer is near
            self.probing = True
        return 0.0

    def succeeded(self) -> None:
        self.in_a_row, self.probing = 0, False

    def failed(self) -> None:
        self.in_a_row, self.probing = self.in_a_row + 1, False
        if self.in_a_row >= self.failures:
            self.until = self.clock() + self.open_s

    def neither(self) -> None:
        """The call never started or says nothing about the provider's health."""
        self.probing = False

    def rest(self, seconds: float) -> None:
        """The provider asked for patience: nothing passes until then, whatever the count."""
        self.until = max(self.until, self.clock() + seconds)
