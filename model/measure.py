"""How good probabilities are, on labels they never saw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def average_precision(labels: Array, scores: Array) -> float:
    """Area under precision over recall; ties count as one step. 0 without a positive."""
    if not labels.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    labels, scores = labels[order], scores[order]
    hits = np.cumsum(labels)
    last = np.append(np.nonzero(np.diff(scores))[0], len(scores) - 1)  # of each run of equal scores
    precision = hits[last] / (last + 1)
    gained = np.diff(hits[last], prepend=0)
    return float((precision * gained).sum() / hits[-1])


def roc_area(labels: Array, scores: Array) -> float:
    """The chance that a positive scores above a negative; ties count half. 0.5 without both kinds."""
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return 0.5
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((rank[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def brier(labels: Array, scores: Array) -> float:
    """Mean squared distance from what happened."""
    return float(np.mean((scores - labels) ** 2)) if len(labels) else 0.0
