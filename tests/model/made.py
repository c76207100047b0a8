"""Orders, rows and examples that the model's tests make up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from connectors.fake_shop import FakeShop
from model.features import FEATURES, WIDTH
from model.score import Rows
from model.train import Examples, collect
from orders.fact import Fact
from orders.merge import merge
from orders.state import Order
from orders.view import View, view


def fold(facts: Sequence[Fact]) -> View:
    order = Order(facts[0].order)
    for fact in facts:
        order = merge(order, fact)
    return view(order)


def some_rows(count: int, seed: int = 1) -> Rows:
    """Rows within the bounds, most values small."""
    rng = np.random.default_rng(seed)
    high = np.array([min(feature.high, 2_000) for feature in FEATURES])
    return (rng.random((count, WIDTH)) ** 2 * high).astype(np.float32)


rows = arrays(np.float32, (1, WIDTH), elements=st.floats(0, 1e6, width=32))
wild_rows = arrays(np.float32, (3, WIDTH), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


@cache
def examples(orders: int = 1500, seed: int = 5) -> Examples:
    return collect(FakeShop(seed, reserves=True).stream(orders))
