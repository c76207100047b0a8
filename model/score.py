"""What a scorer answers, whoever scored: the network or the rules. One row per question, same order.

A score also travels between processes, as one bytes object without pickle: `pack` and `unpack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.features import NAMES, REASON_OF, WIDTH, natural

Rows: TypeAlias = NDArray[np.float32]  # [n, WIDTH], as model.features lays them out

HEADS = ("fraud", "late", "shortage")
CHUNK = 4096  # rows scored at a time: bounds memory and the wait, whatever is asked
REASONS_KEPT = 3
NO_REASON = 255  # a row has fewer than REASONS_KEPT reasons
NOTICEABLE = 0.05  # a column that moves the answer less than this is no reason

# What it costs when it happens, as a share of the order's total: goods and fees are gone; goodwill and a second journey;
# goodwill and lost margin. Documented in docs/model-card.md.
COST_FRAUD, COST_LATE, COST_SHORTAGE = 1.0, 0.10, 0.15

_TOTAL, _VALUE, _EXPRESS, _VIP, _PROMISE = (NAMES.index(name) for name in ("total_minor", "value", "express", "vip", "promise_days"))


class Scores(msgspec.Struct):
    """One row per question, same order."""

    fraud: NDArray[np.float32]  # [n] probability
    late: NDArray[np.float32]  # [n] probability
    shortage: NDArray[np.float32]  # [n] probability
    loss: NDArray[np.float32]  # [n] expected loss, minor units of the order's currency
    priority: NDArray[np.float32]  # [n] 0..1
    reasons: list[tuple[str, ...]]  # per row: codes from model.features.REASONS, strongest first
    version: str  # of the model; rules have one too
    fallback: bool  # the rules answered, not the model

    def part(self, first: int, end: int) -> Scores:
        """The answers of rows `first` to `end`, the last not included."""
        if first == 0 and end == len(self.reasons):
            return self
        fraud, late, shortage, loss, urgent = (c[first:end] for c in (self.fraud, self.late, self.shortage, self.loss, self.priority))
        return Scores(fraud, late, shortage, loss, urgent, self.reasons[first:end], self.version, self.fallback)


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """Scores on their way between processes: a kilobyte of rows is about 23 kB, no object per row."""

    version: str
    fallback: bool
    numbers: bytes  # [5, n] float32, in the order of Scores' fields
    reasons: bytes  # [n, REASONS_KEPT] uint8: columns of FEATURES, NO_REASON where there is none


pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Packed).decode


def check_rows(rows: Rows) -> None:
    """Raises ValueError unless this is what a scorer takes."""
    if rows.ndim != 2 or rows.shape[1] != WIDTH or rows.dtype != np.float32:
        raise ValueError(f"rows must be float32 of shape [n, {WIDTH}], not {rows.dtype} of shape {list(rows.shape)}")


def packed(rows: Rows, probabilities: NDArray[np.float32], moves: NDArray[np.float32], version: str, *, fallback: bool) -> Packed:
    """Completes what a model found out about `rows`.

    `probabilities` is [3, n] in the order of HEADS, `moves` [3, n, WIDTH]: by how much each column moved each head's logit.
    """
    rows = natural(rows)
    numbers = np.empty((5, len(rows)), np.float32)
    numbers[:3] = probabilities
    numbers[3] = expected_loss(rows, probabilities)
    numbers[4] = priority(rows, probabilities)
    return Packed(version, fallback, numbers.tobytes(), strongest(rows, probabilities, moves).tobytes())


def expected_loss(rows: Rows, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Total times what each mishap costs times how likely it is."""
    fraud, late, shortage = probabilities
    loss: NDArray[np.float32] = rows[:, _TOTAL] * (COST_FRAUD * fraud + COST_LATE * late + COST_SHORTAGE * shortage)
    return loss


def priority(rows: Rows, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Who is served first, 0..1: 40 % urgency, 20 % loyalty, 20 % value, 20 % danger of being late or short, less what is suspicious.

    Urgency is express service (half) and a tight promise (half: 1 at none left, 0.5 at three days, 0 without a promise).
    """
    fraud, late, shortage = probabilities
    promise = rows[:, _PROMISE]
    urgency = 0.5 * rows[:, _EXPRESS] + np.where(promise > 0, 0.5 * 3.0 / (3.0 + promise), 0.0)
    value = np.minimum(np.log1p(rows[:, _VALUE]) / np.log1p(np.float32(10_000)), 1.0)
    wanted = 0.4 * urgency + 0.2 * rows[:, _VIP] + 0.2 * value + 0.2 * np.maximum(late, shortage)
    result: NDArray[np.float32] = (wanted * (1.0 - 0.5 * fraud)).astype(np.float32)
    return result


def strongest(rows: Rows, probabilities: NDArray[np.float32], moves: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The columns that raised the heads most, each head counting as much as it is likely; [n, REASONS_KEPT], strongest first.

    A column that is 0 is no reason: people ask for what was there, not for what was not.
    """
    strength = np.einsum("kn,knw->nw", probabilities, np.maximum(moves, 0.0))
    strength[rows == 0.0] = 0.0
    strength[:, _NEVER] = 0.0
    picked = np.empty((len(strength), REASONS_KEPT), np.uint8)
    every = np.arange(len(strength))
    for place in range(REASONS_KEPT):
        best = strength.argmax(axis=1)
        picked[:, place] = np.where(strength[every, best] >= NOTICEABLE, best, NO_REASON)
        strength[every, best] = 0.0
    return picked


def unpack(data: bytes | Packed) -> Scores:
    """Raises msgspec.DecodeError or ValueError for what `pack` did not make."""
    found = data if isinstance(data, Packed) else _decode(data)
    numbers = np.frombuffer(found.numbers, np.float32).reshape(5, -1)
    flat = found.reasons
    if len(flat) != REASONS_KEPT * numbers.shape[1]:
        raise ValueError("reasons and numbers differ in length")
    reasons = [_CODES[flat[at : at + REASONS_KEPT]] for at in range(0, len(flat), REASONS_KEPT)]
    fraud, late, shortage, loss, urgent = numbers
    return Scores(fraud, late, shortage, loss, urgent, reasons, found.version, found.fallback)


def joined(parts: Sequence[Scores]) -> Scores:
    """The answers for consecutive parts of one question, all by one version, as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Scores(
        np.concatenate([part.fraud for part in parts]),
        np.concatenate([part.late for part in parts]),
        np.concatenate([part.shortage for part in parts]),
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.priority for part in parts]),
        [reason for part in parts for reason in part.reasons],
        first.version,
        first.fallback,
    )


class _Codes(dict[bytes, tuple[str, ...]]):
    """Reason columns to codes, each combination worked out once: few combinations cover nearly all rows, WIDTH**3 bounds them."""

    def __missing__(self, columns: bytes) -> tuple[str, ...]:
        found = self[columns] = tuple(REASON_OF[column] for column in columns if column != NO_REASON)
        return found


_CODES = _Codes()
_NEVER = [column for column in range(WIDTH) if not REASON_OF[column]]
