"""Weights and lengths are rounded up exactly, and texts fit a carrier's fields or are refused by name."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import parcel
from connectors.base import Secret
from connectors.delivery import Unreadable
from connectors.http import Reply
from connectors.vendor import Account

POUND, INCH = Fraction(45_359_237, 100_000), Fraction(254, 10)


@given(grams=st.integers(1, 10**6), parts=st.sampled_from([1, 10, 16, 100]))
def test_a_parcel_is_never_lighter_than_its_label_says_and_never_a_whole_part_heavier(grams: int, parts: int) -> None:
    assert 0 <= parcel.pounds(grams, parts) * POUND / parts - grams < POUND / parts


@given(mm=st.integers(1, 10**5), parts=st.sampled_from([1, 4, 100]))
def test_nor_shorter(mm: int, parts: int) -> None:
    assert 0 <= parcel.inches(mm, parts) * INCH / parts - mm < INCH / parts


def test_what_is_whole_stays_whole() -> None:
    assert [parcel.inches(mm, 1) for mm in (254, 255, 25, 26)] == [10, 11, 1, 2]
    assert [parcel.pounds(grams, 100) for grams in (226, 227, 453, 454)] == [50, 51, 100, 101]  # half a pound is 226.8 g


@given(lines=st.lists(st.text(max_size=60), max_size=5))
def test_a_street_fits_or_is_refused_and_no_word_of_it_is_lost(lines: list[str]) -> None:
    try:
        found = parcel.street(lines, 35, 3, "lines")
    except Unreadable as error:
        found = []
        said = (error.reason, error.detail)
    if not found:
        assert said in {("schema", "lines"), ("bounds", "lines")}
        return
    assert 1 <= len(found) <= 3 and all(1 <= len(line) <= 35 for line in found)
    assert " ".join(found).split() == " ".join(map(parcel.plain, lines)).split()


def test_a_state_is_known_by_its_name() -> None:
    assert [parcel.state("US", text) for text in ("California", " ca ", "CA", "Armed Forces (AE)", "Atlantis", "")] == [
        "CA",
        "CA",
        "CA",
        "AE",
        "Atlantis",
        "",
    ]
    assert parcel.state("CA", "Québec") == parcel.state("CA", "quebec") == "QC"
    assert parcel.state("??", "X") == "X"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"access_token":"","expires_in":1}',
        b'{"access_token":"a","expires_in":"inf"}',
        b'{"access_token":"a","expires_in":"x"}',
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(body: bytes) -> None:
    with pytest.raises(Unreadable):
        parcel.token(Reply(200, {}, body))


def test_a_life_may_be_text() -> None:
    assert parcel.token(Reply(200, {}, b'{"access_token":"t","expires_in":"14399"}')) == ("t", 14_399.0)
    assert parcel.token(Reply(200, {}, b'{"access_token":"t","expires_in":28799}')) == ("t", 28_799.0)


def test_what_an_account_lacks_is_named() -> None:
    account = Account(source="ups-lumi", shop="lumi", credentials={"client_id": Secret("")})
    with pytest.raises(parcel.Unset, match=r"account\.credentials\.client_id"):
        parcel.credential(account, "client_id")
    with pytest.raises(parcel.Unset, match=r"account\.options\.crid"):
        parcel.option(account, "crid")


@given(text=st.one_of(st.none(), st.text(max_size=40), st.binary(max_size=40)))
def test_any_text_is_a_picture_or_none(text: str | bytes | None) -> None:
    assert isinstance(parcel.image(text), bytes)
