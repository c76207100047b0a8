"""Which field of an address is missing depends on the country."""

from __future__ import annotations

import pytest

from orders.address import missing_fields
from orders.fact import Address

STREET = ("High Street 1",)


@pytest.mark.parametrize(
    ("address", "missing"),
    [
        (Address(lines=STREET, city="Berlin", postcode="10115", country="DE"), ()),
        (Address(lines=STREET, city="Berlin", country="DE"), ("postcode",)),
        (Address(lines=STREET, city="Berlin", postcode=" ", country="DE"), ("postcode",)),
        (Address(lines=("", " "), city="Berlin", postcode="10115", country="DE"), ("lines",)),
        (Address(lines=STREET, city="Dublin", country="IE"), ()),  # needs no postcode
        (Address(lines=STREET, city="Boston", postcode="02110", country="US"), ("region",)),
        (Address(lines=STREET, city="Boston", postcode="02110", region="MA", country="US"), ()),
        (Address(lines=STREET, region="Kowloon", country="HK"), ()),  # has neither city nor postcode
        (Address(country="GB"), ("lines", "city", "postcode")),
        (Address(lines=STREET, city="Nowhere", postcode="1"), ("country",)),
        (Address(lines=STREET, city="Nowhere", postcode="1", country="ZZ"), ("country",)),
        (Address(lines=STREET, city="Nowhere", postcode="1", country="Germany"), ("country",)),
        (Address(lines=STREET, city="Nowhere", postcode="1", country="../DE"), ("country",)),
    ],
)
def test_the_missing_fields_are_named(address: Address, missing: tuple[str, ...]) -> None:
    assert missing_fields(address) == missing
