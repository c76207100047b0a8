"""The stock of one key as a join: any order, any repetition, any split between live merging and adopting the journal."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orders.request import AnyStock, StockLevelReported, StockReleaseRequested, StockRequested, StockShipped
from orders.stock import (
    AnyEntry,
    Forgotten,
    NewerState,
    Queued,
    Reserved,
    Stock,
    adopt,
    allocate,
    available,
    decode,
    decode_entry,
    encode,
    encode_entry,
    horizon,
    merge,
    on_hand,
)

KEY = "lamp@main"


def level(on_hand: int, at: int = 1, version: int = 0) -> StockLevelReported:
    return StockLevelReported(at=at, sku="lamp", location="main", on_hand=on_hand, system="wms", version=version)


def asked(request: str, quantity: int = 1, at: int = 10, priority: float = 0.0) -> StockRequested:
    return StockRequested(
        at=at, effect=request, order=f"lumi:{request}", line="1", sku="lamp", location="main", quantity=quantity, priority=priority
    )


def undone(request: str, quantity: int = 1, at: int = 20, effect: str = "") -> StockReleaseRequested:
    return StockReleaseRequested(
        at=at,
        effect=effect or f"{request}-undo",
        request=request,
        order=f"lumi:{request}",
        line="1",
        sku="lamp",
        location="main",
        quantity=quantity,
    )


def shipped(request: str, quantity: int = 1, at: int = 30) -> StockShipped:
    return StockShipped(at=at, request=request, sku="lamp", location="main", quantity=quantity)


def reserved(request: str, quantity: int = 1, at: int = 11) -> Reserved:
    return Reserved(key=KEY, at=at, request=request, quantity=quantity)


Part = AnyStock | AnyEntry


def fold(parts: list[Part]) -> Stock:
    stock = Stock()
    for part in parts:
        take(stock, part)
    return stock


def take(stock: Stock, part: Part) -> None:
    if isinstance(part, Reserved | Queued | Forgotten):
        adopt(stock, decode_entry(encode_entry(part)))
    else:
        merge(stock, part)


def test_what_is_available_is_what_was_counted_less_what_left_since_and_what_is_kept() -> None:
    stock = fold([level(10, at=5), asked("a", 3), reserved("a", 3), asked("b", 2), reserved("b", 2), shipped("b", 2, at=30)])
    assert (on_hand(stock), available(stock)) == (8, 5)
    take(stock, level(8, at=40))  # counted after b had left
    assert (on_hand(stock), available(stock)) == (8, 5)
    take(stock, undone("a", 1))
    assert available(stock) == 6
    take(stock, undone("a", 1))  # the same release again
    assert available(stock) == 6


def test_the_latest_version_then_the_latest_time_is_the_level() -> None:
    rows: list[Part] = [level(1, at=9, version=1), level(2, at=1, version=2), level(3, at=2, version=2)]
    for order in (rows, rows[::-1], rows[1:] + rows[:1]):
        assert on_hand(fold(order)) == 3


def test_without_a_level_the_assumption_counts() -> None:
    stock = fold([asked("a", 3)])
    assert available(stock) == 0
    assert available(stock, 5) == 5
    assert available(stock, None) is None
    assert list(allocate(stock)) == []
    assert list(allocate(stock, 3)) == [("a", 3)]
    assert list(allocate(stock, None)) == [("a", 3)]


def test_stock_never_shows_less_than_nothing() -> None:
    stock = fold([level(5), asked("a", 5), reserved("a", 5), level(-2, at=2)])
    assert (on_hand(stock), available(stock)) == (0, 0)


def test_the_more_important_then_the_longer_waiting_is_served_and_a_smaller_one_may_pass() -> None:
    waiting: list[Part] = [
        asked("late", at=30),
        asked("early", at=10),
        asked("big", 5, at=1, priority=0.9),
        asked("vip", at=40, priority=0.9),
    ]
    assert [r for r, _ in allocate(fold([level(2), *waiting]))] == ["vip", "early"]
    assert [r for r, _ in allocate(fold([level(9), *waiting]))] == ["big", "vip", "early", "late"]


def test_a_repeat_of_a_request_does_not_lose_its_place_in_the_queue() -> None:
    queue: list[Part] = [asked("a", at=10), Queued(key=KEY, at=11, request="a"), asked("b", at=12), Queued(key=KEY, at=13, request="b")]
    assert [r for r, _ in allocate(fold([level(1), *queue, asked("a", at=99)]))] == ["a"]


def test_a_release_before_its_request_cancels_it() -> None:
    stock = fold([level(5), undone("a", 2), asked("a", 2)])
    assert list(allocate(stock)) == []
    assert list(allocate(fold([level(5), undone("a", 1), asked("a", 2)]))) == [("a", 1)]


# --- the join
REQUESTS = ["a", "b", "c"]
PARTS = st.one_of(
    st.builds(level, st.integers(0, 9), st.integers(1, 60), st.integers(0, 2)),
    st.builds(lambda r, at: asked(r, 2, at, REQUESTS.index(r) / 2), st.sampled_from(REQUESTS), st.integers(1, 60)),
    st.builds(
        lambda r, q, at, n: undone(r, q, at, f"{r}-{n}"),
        st.sampled_from(REQUESTS),
        st.integers(1, 2),
        st.integers(1, 60),
        st.integers(0, 1),
    ),
    st.builds(lambda r, at: shipped(r, 2, at), st.sampled_from(REQUESTS), st.integers(1, 60)),
    st.builds(lambda r, q, at: reserved(r, q, at), st.sampled_from(REQUESTS), st.integers(1, 2), st.integers(1, 60)),
    st.builds(lambda r, at: Queued(key=KEY, at=at, request=r), st.sampled_from(REQUESTS), st.integers(1, 60)),
    st.builds(lambda before: Forgotten(key=KEY, at=99, before=before), st.integers(1, 60)),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(PARTS, max_size=14), st.randoms(use_true_random=False))
def test_any_order_any_repetition_any_stop_and_restart_gives_the_same_bytes(parts: list[Part], rng: random.Random) -> None:
    expected = encode(fold(parts))
    shuffled = parts + [rng.choice(parts) for _ in range(rng.randrange(6)) if parts]
    rng.shuffle(shuffled)
    stock = Stock()
    for part in shuffled:
        take(stock, part)
        if rng.random() < 0.3:
            stock = decode(encode(stock))
        if rng.random() < 0.3:
            stock = stock.copy()
    assert encode(stock) == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=14))
def test_what_is_counted_along_is_what_counting_anew_gives(parts: list[Part]) -> None:
    stock = fold(parts)
    anew = decode(encode(stock))
    assert (stock.held, stock.left, stock.waiting) == (anew.held, anew.left, anew.waiting)


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=14), PARTS)
def test_a_copy_shares_nothing_that_changes_and_no_change_is_overlooked(parts: list[Part], more: Part) -> None:
    stock = fold(parts)
    before = encode(stock)
    twin = stock.copy()
    take(twin, more)
    assert encode(stock) == before
    assert twin.changed == (encode(twin) != before)


def test_forgetting_keeps_what_is_open_and_what_lies_across() -> None:
    stock = fold(
        [
            level(9, at=1000),
            asked("a", at=100),
            reserved("a", at=101),
            asked("b", at=200),
            undone("b", at=300),
            undone("c", at=10),
            asked("c", at=20),
        ]
    )
    assert horizon(stock, 500) == 100  # a is still reserved; nothing of it may go
    take(stock, shipped("a", at=400))
    assert horizon(stock, 500) == 500
    assert horizon(stock, 350) == 100  # a lies across
    assert horizon(stock, 5000) == 1000  # what left after the level was counted is still needed
    take(stock, Forgotten(key=KEY, at=600, before=500))
    assert stock.requests == {}
    take(stock, asked("b", at=200))
    assert stock.requests == {}
    take(stock, asked("new", at=501))
    assert list(stock.requests) == ["new"]


def test_a_state_of_a_later_version_is_refused() -> None:
    blob = encode(fold([level(1)]))
    assert encode(decode(blob)) == blob
    with pytest.raises(NewerState, match="version 2"):
        decode(b"\x02" + blob[1:])
