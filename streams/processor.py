"""What a lane runs: two pure halves, and between them the machine asks the Scorer.

    ask(states, inputs, now)       -> Asked    merge what came in, say what must be known
    answer(asked, answers, now, …) -> Result   decide, plan, and say what to write

A processor does no I/O and reads no clock. Keys are the records' keys (UTF-8), so a lane loads states before anything
is decoded. What a processor cannot read it parks; it raises only for a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.score import Scores as Scores  # noqa: PLC0414 - a word of this interface: whoever implements it finds it here
from orders.effect import Claim, Outcome

VERSION = "0.1.0"  # of this program


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as a transport hands it over."""

    offset: int
    key: bytes | None
    value: bytes
    timestamp: int = 0  # ms, by the log; named as in aiokafka's compiled records, which processors also get
    headers: tuple[tuple[str, bytes], ...] = ()


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive records of one partition; `next` is where reading goes on (gaps in offsets are legal)."""

    topic: str
    partition: int
    first: int
    next: int
    records: Sequence[Record]  # or the transport's own compiled records with .offset .key .value .timestamp .headers


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A record for another topic; published when the commit that made it is durable."""

    topic: str  # logical name: "facts", "stock", "customers", "references"
    key: str
    value: bytes


class Parked(msgspec.Struct, frozen=True, gc=False):
    """A record that could not be read, with its original bytes."""

    reason: str  # closed list: "malformed" "schema" "version" "null_key" "wrong_partition" "too_large" "bounds" ...
    detail: str  # names the field, never its value
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    at: int  # ms
    version: str = ""  # of the program that could not read it; "": a row of before it was kept


class Inputs(msgspec.Struct):
    """What one turn of a lane takes in. Any part may be empty."""

    topic: str
    partition: int
    records: Sequence[Record] = ()
    due: Sequence[str] = ()  # keys whose due time has come
    outcomes: Sequence[Outcome] = ()
    adopted: Sequence[bytes] = ()  # recovery: journal entries of this lane, merged like facts


class Questions(msgspec.Struct):
    """One row per state that has to be scored, as `model.features` lays it out."""

    keys: list[str]
    rows: NDArray[np.float32]  # [len(keys), features]


class Scorer(Protocol):
    async def score(self, rows: NDArray[np.float32]) -> Scores:
        """Answers within its deadline, by the rules if need be; never raises for a missing model."""


class Asked(msgspec.Struct):
    """What `ask` hands over to `answer`; `work` is the processor's own."""

    questions: Questions | None
    work: Any
    parked: list[Parked] = []


class Result(msgspec.Struct):
    """What one commit writes, all or nothing."""

    states: dict[str, Any]  # key -> new state; the lane encodes it with `Processor.encode`
    due: dict[str, int]  # key -> earliest time something is due in it, ms; 0: nothing
    outbox: list[Outgoing] = []
    journal: list[bytes] = []  # encoded entries, each naming its key
    claims: list[Claim] = []
    parked: list[Parked] = []
    index: list[tuple[str, tuple[str, ...], tuple[str, ...], int]] = []  # key, tags it lost, tags it gained, score (ms)
    unparked: list[str] = []  # parked IDs that a person dealt with
    express: set[bytes] = set()  # keys of orders with express service among the states
    counts: dict[str, int] = {}  # added to the partition's counters, exact across crashes


class Channels(Protocol):
    """What may leave now. One per worker; lanes take slots from it, the sender side gives them back."""

    @property
    def version(self) -> int:
        """Of the document of modes, stops and flags; journal entries name it."""

    def mode(self, channel: str) -> str:
        """ "observe" | "sandbox" | "live" | "stopped"."""

    def take(self, channel: str) -> bool:
        """One slot, if there is one (at most 64 in flight per channel and worker, breaker closed)."""

    def retry_at(self, channel: str, now: int) -> int:
        """When asking again for a slot makes sense, ms."""


class Processor(Protocol):
    name: str  # "orders"
    topic: str  # "facts"
    stateless: bool  # keeps nothing, journals nothing: after a loss of the store its input is simply read again

    @property
    def encode(self) -> Callable[[Any], bytes]: ...

    @property
    def decode(self) -> Callable[[bytes], Any]: ...

    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        """`states` has an entry per known key of the inputs; a missing one is new."""

    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result: ...

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        """Recovery: records, or adopted journal entries after all records, are merged; nothing is decided, offered or claimed.

        Of the Result: the changed states and their index rows, what was parked and unparked with these inputs, and as outbox
        what these entries once asked or told others, in the same words. `due` stays empty: every rebuilt state is looked at.
        """

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        """Whose states these journal entries are pieces of."""

    def mark(self, record: Record) -> Outgoing | None:
        """A record for its own topic that tells the state of one it could not take in, for a bug; None where no state would show it."""
