"""Money is integer minor units beside an ISO 4217 code; how many digits the minor unit has is the currency's own business."""

from __future__ import annotations

_TWO = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP
COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IRR
JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK
NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT
TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG ZWL
"""
_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
_FOUR = "CLF UYW"

EXPONENTS: dict[str, int] = {
    code: exponent for exponent, codes in ((2, _TWO), (0, _ZERO), (3, _THREE), (4, _FOUR)) for code in codes.split()
}


def known(currency: str) -> bool:
    """Whether ISO 4217 has such a currency."""
    return currency in EXPONENTS


def decimal(amount: int, currency: str) -> str:
    """The amount in major units, exactly and without grouping: (12345, "EUR") -> "123.45". Raises KeyError."""
    exponent = EXPONENTS[currency]
    sign = "-" if amount < 0 else ""
    digits = str(abs(amount)).rjust(exponent + 1, "0")
    if not exponent:
        return sign + digits
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def minor(text: str, currency: str) -> int:
    """Minor units of a decimal number as vendors write it: ("123.4", "EUR") -> 12340.

    Raises KeyError for an unknown currency, ValueError for what is no plain number or finer than the minor unit.
    """
    exponent = EXPONENTS[currency]
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text)
    whole, _, fraction = body.partition(".")
    fraction = fraction.rstrip("0")
    if not whole.isascii() or not whole.isdigit() or (fraction and not (fraction.isascii() and fraction.isdigit())):
        raise ValueError("not a decimal number")
    if len(fraction) > exponent:
        raise ValueError("finer than the currency's minor unit")
    return sign * int(whole + fraction.ljust(exponent, "0"))


def show(amount: int, currency: str) -> str:
    """For staff and logs: "EUR 123.45". What customers read is formatted for their locale by `messages`."""
    return f"{currency} {decimal(amount, currency)}"
