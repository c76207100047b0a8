from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orders.reference import (
    TOLERANCE_MS,
    AnyEntry,
    NewerState,
    Reference,
    Seen,
    Settled,
    adopt,
    decode,
    decode_entry,
    encode,
    encode_entry,
    fact_id,
    merge,
    orders_at,
)
from orders.request import AnyReference, FactWaiting, ReferenceLinked

KEY = "tracking:N1"
DAY = TOLERANCE_MS


def link(order: str, since: int, until: int = 0, at: int = 1) -> ReferenceLinked:
    return ReferenceLinked(at=at, kind="tracking", value="N1", order=order, since=since, until=until)


def raw(name: str) -> bytes:
    return b'{"name":"' + name.encode() + b'"}'


def waiting(name: str) -> FactWaiting:
    return FactWaiting(at=1, kind="tracking", value="N1", fact=msgspec.Raw(raw(name)))


Part = AnyReference | AnyEntry
NAMES = ["x", "y"]
PARTS = st.one_of(
    st.builds(link, st.sampled_from(["o1", "o2"]), st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)),
    st.builds(waiting, st.sampled_from(NAMES)),
    st.builds(lambda n, at: Seen(key=KEY, at=at, fact=fact_id(raw(n))), st.sampled_from(NAMES), st.integers(1, 9)),
    st.builds(
        lambda n, at, o: Settled(key=KEY, at=at, fact=fact_id(raw(n)), order=o),
        st.sampled_from(NAMES),
        st.integers(1, 9),
        st.sampled_from(["", "o1"]),
    ),
)


def take(reference: Reference, part: Part) -> None:
    if isinstance(part, Seen | Settled):
        adopt(reference, decode_entry(encode_entry(part)))
    else:
        merge(reference, part)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=12), st.randoms(use_true_random=False))
def test_any_order_any_repetition_gives_the_same_bytes(parts: list[Part], rng: random.Random) -> None:
    first, second = Reference(), Reference()
    for part in parts:
        take(first, part)
    shuffled = parts + [rng.choice(parts) for _ in range(rng.randrange(5)) if parts]
    rng.shuffle(shuffled)
    for part in shuffled:
        take(second, part)
        if rng.random() < 0.3:
            second = decode(encode(second))
    assert encode(first) == encode(second)


def test_a_reference_means_one_order_at_a_time() -> None:
    reference = Reference()
    for each in (link("o1", 10 * DAY, 20 * DAY), link("o2", 40 * DAY)):
        merge(reference, each)
    assert orders_at(reference, 9 * DAY - 1) == []
    assert orders_at(reference, 9 * DAY) == ["o1"]  # a day of tolerance before
    assert orders_at(reference, 20 * DAY) == ["o1"]
    assert orders_at(reference, 20 * DAY + 1) == []
    assert orders_at(reference, 400 * DAY) == ["o2"]
    merge(reference, link("o2", 15 * DAY, at=2))
    assert orders_at(reference, 16 * DAY) == ["o1", "o2"]


def test_a_state_of_a_later_version_is_refused() -> None:
    blob = encode(Reference())
    with pytest.raises(NewerState, match="version 9"):
        decode(b"\x09" + blob[1:])
