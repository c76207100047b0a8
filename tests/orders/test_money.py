"""Money is exact in every currency."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.money import EXPONENTS, decimal, known, minor, show


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (12345, "EUR", "123.45"),
        (5, "EUR", "0.05"),
        (-5, "EUR", "-0.05"),
        (0, "USD", "0.00"),
        (12345, "JPY", "12345"),
        (0, "JPY", "0"),
        (12345, "KWD", "12.345"),
        (12345, "CLF", "1.2345"),
        (10**17, "USD", "1000000000000000.00"),
    ],
)
def test_an_amount_is_written_with_the_digits_of_its_currency(amount: int, currency: str, text: str) -> None:
    assert decimal(amount, currency) == text
    assert show(amount, currency) == f"{currency} {text}"


@given(st.integers(-(10**18), 10**18), st.sampled_from(sorted(EXPONENTS)))
def test_writing_and_reading_an_amount_gives_it_back_in_all_currencies(amount: int, currency: str) -> None:
    assert minor(decimal(amount, currency), currency) == amount
    assert Decimal(decimal(amount, currency)) == Decimal(amount).scaleb(-EXPONENTS[currency])


@pytest.mark.parametrize(("text", "amount"), [("123.4", 12340), ("7", 700), ("-0.5", -50), ("1.100", 110)])
def test_a_vendor_may_leave_out_or_add_zeros(text: str, amount: int) -> None:
    assert minor(text, "EUR") == amount


@pytest.mark.parametrize("text", ["", ".", "1,5", "1e3", "NaN", "0.001", "--1", "1.-5", "٣", "1 "])
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimal number|minor unit"):
        minor(text, "EUR")


def test_unknown_currencies_are_unknown() -> None:
    assert known("EUR")
    assert not known("EURO")
    assert not known("eur")
    with pytest.raises(KeyError):
        decimal(1, "XXQ")
