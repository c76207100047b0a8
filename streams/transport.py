"""What the Kafka transport and the embedded log have in common.

Both are Faust drivers (entry-point group `faust.transports`, schemes `orderflow-kafka` and `orderflow-log`) that hand
an agent whole chunks. They ask `Assignments`, which the worker sets on its Faust app, where to read and whether there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec


class TP(NamedTuple):
    topic: str
    partition: int


class LogMismatch(Exception):
    """A stored position does not fit the log: missing, beyond its end, before its start, or of another log. Nothing is reset."""


class Position(msgspec.Struct, frozen=True):
    offset: int  # the next record to read


class Assignments(Protocol):
    """The worker's side of consuming, called on the app's event loop."""

    def assigned(self, partitions: frozenset[TP]) -> None:
        """All partitions now ours. Starts acquiring those that are new, returns at once."""

    async def revoked(self, partitions: frozenset[TP]) -> None:
        """Quiesce these (at most 5 s), then forget them. The driver commits `witness` before and after."""

    def position(self, tp: TP) -> int | None:
        """The offset to read from, explicitly sought to (0 too); None while the partition is unpositioned: offer nothing."""

    def room(self, tp: TP) -> bool:
        """Back-pressure by count, bytes and age: may a chunk of this partition be handed over now?"""

    def next_reading(self, tp: TP, after: float) -> float:
        """When a partition that was read to its end at `after` is to be read again, loop time; 0.0: whenever records come.

        Every reading costs, however little it brings: what is worked on every 60 ms need not be read more often.
        """

    def witness(self) -> Mapping[TP, tuple[int, str]]:
        """What to commit to the group: next offset and metadata (store ID, epoch, offset), only of what is finished."""

    def mismatch(self, tp: TP, why: str) -> None:
        """The log cannot be read at our position: the partition stops, the worker is not ready, nothing is reset."""


class Log(Protocol):
    """Appending and looking at a log, without consuming it. Kafka: idempotent, acks=all. Embedded: fsynced."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None:
        """Returns when all are durable. Without a partition each goes to murmur2(key) mod n, as Kafka's Java clients do.

        Raises LogDown when the log does not take them; some may have been written (duplicates are harmless by ID).
        """

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """partition -> (first offset, next offset to be written)."""

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[object]:
        """Records from `start` on, for recovery, the archive's tests and `run.py lag`; empty at the end."""

    async def create(self, topics: Mapping[str, int]) -> None:
        """Topics with their partition counts; existing ones must have the same count."""

    async def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """The log's own IDs of topics, so that another log is not taken for this one."""


class LogDown(Exception):
    """The log did not acknowledge; try again later."""
