"""What no honest report contains: impossible dates, amounts, currencies, quantities. Checked wherever facts come in."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from orders import fact as facts
from orders.fact import AT_MAX, AT_MIN, FACT_VERSION, Fact
from orders.money import EXPONENTS

AMOUNT_MAX = 1 << 53  # so that every JSON reader on the way keeps it exact
QUANTITY_MAX = 1_000_000
TEXT_MAX = 1024  # of IDs and names
LINES_MAX = 1000

# Of versions of the fact schema the one before and the one after ours are read: unknown fields are ignored.
VERSIONS = range(max(1, FACT_VERSION - 1), FACT_VERSION + 2)


def violation(fact: Fact) -> tuple[str, str] | None:
    """(reason, field) of the first thing that cannot be: "version", "bounds" or "currency"; None for a sound fact."""
    if fact.v not in VERSIONS:
        return "version", "$.v"
    at = fact.at
    if at < AT_MIN or at >= AT_MAX:
        return "bounds", "$.at"
    if not fact.object or len(fact.object) > TEXT_MAX:
        return "bounds", "$.object"
    if not fact.system or len(fact.system) > TEXT_MAX:
        return "bounds", "$.system"
    if not 0 <= fact.version < AMOUNT_MAX:
        return "bounds", "$.version"
    if not -AMOUNT_MAX < fact.authority < AMOUNT_MAX:
        return "bounds", "$.authority"
    check = _CHECKS.get(type(fact))
    return None if check is None else check(fact)


def _placed(fact: Any) -> tuple[str, str] | None:
    if fact.currency not in EXPONENTS:
        return "currency", "$.currency"
    if not 0 <= fact.total < AMOUNT_MAX:
        return "bounds", "$.total"
    if not fact.lines or len(fact.lines) > LINES_MAX:
        return "bounds", "$.lines"
    for line in fact.lines:
        if not 0 < line.quantity <= QUANTITY_MAX:
            return "bounds", "$.lines[...].quantity"
        if not -AMOUNT_MAX < line.price < AMOUNT_MAX:
            return "bounds", "$.lines[...].price"
    if fact.promised and not AT_MIN <= fact.promised < AT_MAX:
        return "bounds", "$.promised"
    return _signalled(fact)


def _signalled(fact: Any) -> tuple[str, str] | None:
    for value in fact.signals.values():
        if not isfinite(value):
            return "bounds", "$.signals[...]"
    return None


def _money(fact: Any) -> tuple[str, str] | None:
    if fact.currency not in EXPONENTS:
        return "currency", "$.currency"
    if not 0 <= fact.amount < AMOUNT_MAX:
        return "bounds", "$.amount"
    return None


def _quantity(fact: Any) -> tuple[str, str] | None:
    return None if 0 <= fact.quantity <= QUANTITY_MAX else ("bounds", "$.quantity")


def _lines(fact: Any) -> tuple[str, str] | None:
    for line in fact.lines:
        if not 0 <= line.quantity <= QUANTITY_MAX:
            return "bounds", "$.lines[...].quantity"
    return None


def _short(fact: Any) -> tuple[str, str] | None:
    for line in fact.short:
        if not 0 <= line.quantity <= QUANTITY_MAX:
            return "bounds", "$.short[...].quantity"
    return None


def _rated(fact: Any) -> tuple[str, str] | None:
    return None if -QUANTITY_MAX <= fact.score <= QUANTITY_MAX else ("bounds", "$.score")


def _scanned(fact: Any) -> tuple[str, str] | None:
    if fact.eta_from and not AT_MIN <= fact.eta_from < AT_MAX:
        return "bounds", "$.eta_from"
    if fact.eta_until and not AT_MIN <= fact.eta_from <= fact.eta_until < AT_MAX:
        return "bounds", "$.eta_until"
    return _lines(fact)


_CHECKS: dict[type[Fact], Callable[[Any], tuple[str, str] | None]] = {
    facts.OrderPlaced: _placed,
    facts.PaymentAuthorized: _money,
    facts.PaymentCaptured: _money,
    facts.PaymentFailed: _money,
    facts.PaymentRefunded: _money,
    facts.OrderPaid: _money,
    facts.PaymentDisputed: _money,
    facts.StockReserved: _quantity,
    facts.StockShort: _quantity,
    facts.StockScarce: _quantity,
    facts.StockReleased: _quantity,
    facts.LinesCancelled: _lines,
    facts.ItemsPicked: _short,
    facts.FeedbackGiven: _rated,
    facts.ParcelPacked: _lines,
    facts.ParcelScanned: _scanned,
    facts.ReturnReceived: _lines,
    facts.RiskReported: _signalled,
}
