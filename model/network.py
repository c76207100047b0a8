"""The network: a shared trunk with three heads, and beside it the documented signals, which only ever raise the fraud score.

Imported by training and by the scorer's own process; the worker never imports it (torch costs 200 MB).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.features import FEATURES, WIDTH, scaled
from model.score import HEADS, Packed, Rows, check_rows, packed

torch.set_num_threads(1)  # rows are few and the machine is shared: more threads only cost switching

RISING = [column for column, feature in enumerate(FEATURES) if feature.rises]
FREE = [column for column, feature in enumerate(FEATURES) if not feature.rises and feature.name != "total_minor"]
SPAN = [float(np.log1p(FEATURES[c].high)) if FEATURES[c].scale == "log" else FEATURES[c].high for c in RISING]

FIRST, SECOND = 32, 16
PRECISION = torch.float64  # in float32 a row scored in a batch differs from the same row alone by more than 1e-6


class Network(nn.Module):
    """Scaled rows (PRECISION) in, logits [3, n] out (HEADS).

    The trunk never sees the rising signals: each adds its own non-negative weight to fraud's logit, so that raising one
    alone cannot lower the score, whatever was learned.
    """

    center: Tensor  # of the free columns, from training data
    spread: Tensor
    span: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(len(FREE), FIRST, dtype=PRECISION)
            self.second = nn.Linear(FIRST, SECOND, dtype=PRECISION)
            self.heads = nn.Linear(SECOND, len(HEADS), dtype=PRECISION)
            self.rising = nn.Parameter(torch.zeros(len(RISING), dtype=PRECISION))  # softplus of it is the weight
        self.register_buffer("center", torch.zeros(len(FREE), dtype=PRECISION))
        self.register_buffer("spread", torch.ones(len(FREE), dtype=PRECISION))
        self.register_buffer("span", torch.tensor(SPAN, dtype=PRECISION), persistent=False)

    def standardise(self, rows: Tensor) -> None:
        """Learns center and spread from the training rows (scaled)."""
        free = rows[:, FREE]
        self.center.copy_(free.mean(0))
        self.spread.copy_(free.std(0, correction=0).clamp(min=0.05))

    def forward(self, rows: Tensor) -> Tensor:
        return self.explain(rows)[0]

    def explain(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [3, n], and what moved them: gradient x (input - average) of the free columns [3, n, free], exact parts of
        the rising ones [n, rising] for fraud."""
        free = (rows[:, FREE] - self.center) / self.spread
        first = torch.tanh(self.first(free))
        second = torch.tanh(self.second(first))
        raised = rows[:, RISING] / self.span * nn.functional.softplus(self.rising)
        logits = self.heads(second).T
        logits = torch.cat((logits[:1] + raised.sum(1), logits[1:]))
        bend, turn = 1 - first * first, 1 - second * second  # of the two tanh
        moves = torch.stack([(((head * turn) @ self.second.weight) * bend) @ self.first.weight for head in self.heads.weight]) * free
        return logits, moves, raised

    def score(self, rows: Rows, version: str) -> Packed:
        """Scores natural rows; ValueError for anything else."""
        check_rows(rows)
        with torch.inference_mode():
            logits, free, raised = self.explain(torch.from_numpy(scaled(rows)).to(PRECISION))
            moves: NDArray[np.float32] = np.zeros((len(HEADS), len(rows), WIDTH), np.float32)
            moves[:, :, FREE] = free.numpy()
            moves[0, :, RISING] = raised.T.numpy()
            return packed(rows, torch.sigmoid(logits).numpy(), moves, version, fallback=False)
