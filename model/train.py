"""Training: rows from facts as they were known at each decision, labels from what became of the orders, weights from both.

A row is taken when serving would have taken it (placed, paid in full, handed to a carrier) from the facts that had
*arrived* by then, by the same `features`. What a row already knows is no label for it: an order that was disputed before
the carrier got it teaches nothing about fraud at hand-over. Later orders measure what earlier ones taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from model import artefact, rules
from model.features import FEATURES, WIDTH, features, scaled
from model.measure import average_precision, brier, roc_area
from model.network import PRECISION, RISING, SPAN, Network
from model.score import HEADS, Rows, unpack
from orders.fact import Fact, PaymentDisputed, StockReserved, StockShort
from orders.merge import merge
from orders.state import Order
from orders.view import View, view

TOLD_EVERY = 20_000  # facts between two words of progress
LEAST = 20  # rows of each kind without which nothing is learned
LEARN_SHARE, STOP_SHARE = 0.7, 0.1  # of the orders, by time: to learn from, to know when to stop; the rest measures
MOMENTS = ("placed", "paid", "handed_over")

Tell = Callable[[str], None]


class TrainingRefused(Exception):
    """There is not enough to learn from; the text says what is missing."""


class Examples(msgspec.Struct):
    """Rows of the same index belong together. A label is 1, 0, or NaN where nobody knows (yet) or the row knew already."""

    rows: Rows  # [n, WIDTH]
    labels: NDArray[np.float32]  # [n, HEADS]
    placed: NDArray[np.int64]  # [n] when the row's order was placed, ms: rows of one order are never on two sides


class Trained(msgspec.Struct, frozen=True):
    version: str
    rows: int
    metrics: dict[str, float]
    promoted: bool  # it is the champion now


class _Life:
    """What is folded of one order, and the rows taken of it."""

    __slots__ = ("moments", "order", "rows", "short", "stocked")

    def __init__(self, order: str) -> None:
        self.order = Order(order)
        self.rows: list[tuple[tuple[float, ...], tuple[bool, bool, bool]]] = []  # row, and which heads' answers it knew
        self.moments: set[str] = set()
        self.short = self.stocked = False

    def take(self, fact: Fact) -> None:
        self.short = self.short or type(fact) is StockShort
        self.stocked = self.stocked or type(fact) is StockReserved
        self.order = merge(self.order, fact)
        now = view(self.order)
        if now.placed is None:
            return
        for moment, reached in zip(MOMENTS, (True, now.paid_in_full, now.shipped_at > 0), strict=True):
            if reached and moment not in self.moments:
                self.moments.add(moment)
                self.rows.append((features(now), self.knows(now)))

    def knows(self, now: View) -> tuple[bool, bool, bool]:
        disputed = bool(now.disputed or now.dispute_lost or now.person_verdict)
        return disputed, now.delivered_at > 0, self.short or self.stocked or now.shipped_at > 0

    def labels(self, until: int, mature_ms: int) -> tuple[float, float, float]:
        """What became of it, as far as was known at `until`."""
        now = view(self.order)
        assert now.placed is not None
        nobody_knows = float("nan")
        disputed = any(key[0] == PaymentDisputed.__name__ for key in self.order.facts)
        if now.person_verdict == "decline" or now.dispute_lost or now.disputed:
            fraud = 1.0
        elif now.person_verdict == "approve" or (now.ended and not disputed and until - now.placed.at >= mature_ms):
            fraud = 0.0
        else:
            fraud = nobody_knows
        promised = now.placed.promised
        if not promised or now.cancelled:
            late = nobody_knows
        elif now.all_delivered:
            late = float(now.delivered_at > promised)
        else:
            late = 1.0 if now.shipped_at and until > promised else nobody_knows
        shortage = 1.0 if self.short else 0.0 if self.stocked or now.picked or now.shipped_at else nobody_knows
        return fraud, late, shortage


def collect(facts: Iterable[Fact], *, mature_ms: int = 0, tell: Tell = lambda word: None) -> Examples:
    """Folds facts in the order in which they arrived. `mature_ms`: how long after its placement an order that ended well counts
    as honest (chargebacks take weeks). Memory: about two kilobytes per order."""
    lives: dict[str, _Life] = {}
    until = 0
    for count, fact in enumerate(facts, 1):
        until = max(until, fact.at)
        life = lives.get(fact.order)
        if life is None:
            life = lives[fact.order] = _Life(fact.order)
        life.take(fact)
        if count % TOLD_EVERY == 0:
            tell(f"{count:,} facts of {len(lives):,} orders read")
    rows: list[tuple[float, ...]] = []
    labels: list[list[float]] = []
    placed: list[int] = []
    for life in lives.values():
        if not life.rows:
            continue
        became = life.labels(until, mature_ms)
        at = view(life.order).placed
        assert at is not None
        for row, knew in life.rows:
            rows.append(row)
            labels.append([float("nan") if known else label for label, known in zip(became, knew, strict=True)])
            placed.append(at.at)
    tell(f"{len(rows):,} rows of {len(lives):,} orders")
    return Examples(
        np.array(rows, np.float32).reshape(-1, WIDTH), np.array(labels, np.float32).reshape(-1, len(HEADS)), np.array(placed, np.int64)
    )


def train(examples: Examples, *, seed: int = 0, epochs: int = 40, tell: Tell = lambda word: None) -> tuple[Network, dict[str, float]]:
    """The network that did best on the orders it was stopped by, and its metrics on the latest ones, which it never saw.

    The same examples and seed give the same weights on one kind of processor. Raises TrainingRefused.
    """
    learn, stop, test = _by_time(examples.placed)
    fraud = examples.labels[learn, HEADS.index("fraud")]  # the others may stay as ignorant as their labels
    if min((fraud == 1).sum(), (fraud == 0).sum()) < LEAST:
        raise TrainingRefused(f"among the earlier {LEARN_SHARE:.0%} of orders fewer than {LEAST} rows turned out fraudulent, or honest")
    rows = torch.from_numpy(scaled(examples.rows)).to(PRECISION)
    labels = torch.from_numpy(examples.labels).T.to(PRECISION)
    network = Network(seed)
    prior = _prior()
    with torch.no_grad():
        network.standardise(rows[learn])
        network.rising.copy_(torch.log(torch.expm1(prior)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)
    best, kept, patience = float("inf"), network.state_dict(), 0
    earlier, between = torch.from_numpy(learn), torch.from_numpy(stop)
    for epoch in range(1, epochs + 1):
        network.train()
        for batch in torch.split(earlier[torch.randperm(len(earlier), generator=generator)], 512):
            loss = _loss(network(rows[batch]), labels[:, batch])
            loss = loss + 1e-3 * (torch.nn.functional.softplus(network.rising) - prior).square().sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        with torch.no_grad():
            now = float(_loss(network(rows[between]), labels[:, between]))
        tell(f"epoch {epoch}: {now:.4f}")
        patience += 1
        if now < best - 1e-5:
            best, kept, patience = now, {name: tensor.clone() for name, tensor in network.state_dict().items()}, 0
        if patience == 4:
            break
    network.load_state_dict(kept)
    return network.eval(), _metrics(network, examples, test)


def train_from_archive(
    facts: Iterable[Fact],
    out: Path,
    *,
    created_from: str,
    mature_ms: int = 0,
    seed: int = 0,
    tell: Tell = lambda word: None,
) -> Trained:
    """Reads, trains, writes a new version into `out` and makes it the champion unless the rules find fraud better than it.

    `facts` come in the order in which they arrived. Raises TrainingRefused.
    """
    examples = collect(facts, mature_ms=mature_ms, tell=tell)
    if not len(examples.rows):
        raise TrainingRefused("no order was placed in these facts")
    network, metrics = train(examples, seed=seed, tell=tell)
    first, last = int(examples.placed.min()), int(examples.placed.max())
    data = (first, last, len(examples.rows))
    version = artefact.save(out, network, _canary(examples.rows, seed), created_from=created_from, data=data, metrics=metrics)
    promoted = metrics["fraud_ap"] >= metrics["fraud_ap_rules"]
    if promoted:
        artefact.promote(out, version)
    tell(f"{version}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    return Trained(version, len(examples.rows), metrics, promoted)


def _by_time(placed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indexes of rows to learn from, to stop by and to measure with; every order on one side."""
    orders = np.unique(placed)
    from_stop = orders[int(len(orders) * LEARN_SHARE)]
    from_test = orders[min(int(len(orders) * (LEARN_SHARE + STOP_SHARE)), len(orders) - 1)]
    return (
        np.nonzero(placed < from_stop)[0],
        np.nonzero((placed >= from_stop) & (placed < from_test))[0],
        np.nonzero(placed >= from_test)[0],
    )


def _prior() -> torch.Tensor:
    """What the rules say of the rising signals: where training starts, and what little data does not move far from."""
    weights = rules.LINES["fraud"][1]
    return torch.tensor([weights[FEATURES[column].name] * span for column, span in zip(RISING, SPAN, strict=True)], dtype=PRECISION)


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the labels that are known."""
    known = ~labels.isnan()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known]) if known.any() else logits.sum() * 0


def _metrics(network: Network, examples: Examples, test: NDArray[np.int64]) -> dict[str, float]:
    rows = examples.rows[test]
    ours, theirs = unpack(network.score(rows, "")), unpack(rules.score(rows))
    found: dict[str, float] = {}
    for head, name in enumerate(HEADS):
        labels = examples.labels[test, head]
        known = ~np.isnan(labels)
        labels, scores, by_rules = labels[known], getattr(ours, name)[known], getattr(theirs, name)[known]
        found |= {
            f"{name}_rows": float(len(labels)),
            f"{name}_rate": float(labels.mean()) if len(labels) else 0.0,
            f"{name}_ap": average_precision(labels, scores),
            f"{name}_ap_rules": average_precision(labels, by_rules),
            f"{name}_auc": roc_area(labels, scores),
            f"{name}_brier": brier(labels, scores),
        }
    return {name: round(value, 4) for name, value in found.items()}


def _canary(rows: Rows, seed: int) -> Rows:
    """Rows that never were anybody's order: each column drawn for itself between what is usual in it."""
    low, high = np.quantile(rows, (0.02, 0.98), axis=0)
    drawn: Rows = np.random.default_rng(seed).uniform(low, high, (16, WIDTH)).astype(np.float32)
    return drawn
