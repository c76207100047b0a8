"""People as shops send them: mostly whole, with now and then a field that is empty, too long, or anything at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

from orders.fact import Address, Person

T = TypeVar("T")
texts = st.text(max_size=60)
words = st.from_regex(r"[A-Za-zäéß '.\-]{1,50}", fullmatch=True)


def mostly(good: T, *others: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """The good one in about six of seven."""
    return st.integers(0, 6).flatmap(lambda turn: st.one_of(*others) if turn == 6 else st.just(good))


def living_near(whole: Address) -> st.SearchStrategy[Address]:
    return st.builds(
        Address,
        lines=mostly(whole.lines, st.lists(st.one_of(texts, words), max_size=4).map(tuple)),
        city=mostly(whole.city, texts, words),
        region=mostly(whole.region, texts, st.sampled_from(["", "CA", "new york", "PR", "Ontario", "AE", "GU", "Dublin", "VN-44"])),
        postcode=mostly(whole.postcode, texts, st.sampled_from(["", "94107", "94107-1234", "941071234", "K1A 0B1", "00901", "SW1A 1AA"])),
        country=mostly(whole.country, texts, st.sampled_from(["US", "us", "PR", "GU", "CA", "DE", "IE", "VN", "AE", "JP"])),
    )


def people(places: Sequence[Address]) -> st.SearchStrategy[Person]:
    return st.builds(
        Person,
        name=mostly("Ann Marie Example", texts, words),
        phone=mostly("+14155550101", texts, st.sampled_from(["", "+493012345678", "call me"])),
        address=st.sampled_from(places).flatmap(living_near),
    )
