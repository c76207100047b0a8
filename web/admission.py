"""What `POST /v1/facts` lets in: the same facts that intake makes, with stricter manners.

Readers ignore unknown fields so that a newer writer is understood; a person or script that writes one here has most
likely mistyped, and is told. Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from connectors.delivery import too_deep
from orders.bounds import violation
from orders.fact import AnyFact, Fact, decode_fact
from orders.policy import Policy
from web.problem import Refusal

DEPTH = 16  # a fact needs 4
ORDER_ID = re.compile(r"[^\s:]{1,64}:[^\s]{1,128}")
AHEAD_MS = Policy().future_ms  # how far a reporting system's clock may run ahead
LARGEST_INT = 2**53 - 1  # what every JSON reader keeps exactly
LONGEST_TEXT = 10_000
EXPECTED = {
    "version": "this version of orderflow does not know facts of that version",
    "bounds": "out of bounds",
    "currency": "expected an ISO 4217 currency code in capitals",
}

_decode_any = msgspec.json.Decoder().decode
_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED = re.compile(r"(?:required|unknown) field `([^`]*)`")
_SUSPICIOUS = re.compile(rb"[0-9]{16}|\\u0000")  # a number that may be too large, a character that must not be


def admit(body: bytes, now: int) -> AnyFact:
    """The fact in `body`, checked. Raises Refusal: 400 what is not JSON, 422 what is not a fact we can take."""
    if too_deep(body, DEPTH):
        raise Refusal(400, "too_deep", f"nested more than {DEPTH} levels deep")
    try:
        raw = _decode_any(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refusal(400, "malformed", "the body is not JSON") from None
    try:
        fact: AnyFact = decode_fact(body)
    except msgspec.ValidationError as error:
        raise invalid(str(error), _order_id(raw)) from None
    order_id = _order_id(raw)
    unknown = unknown_field(raw, fact, outer=True)
    if unknown:
        raise Refusal(422, "unknown_field", "no such field in this fact", field=unknown, order_id=order_id)
    problem = out_of_bounds(fact, now)
    if problem is None and (len(body) > LONGEST_TEXT or _SUSPICIOUS.search(body)):
        problem = _oddity(fact, "")
    if problem is not None:
        code, field, message = problem
        raise Refusal(422, code, message, field=field, order_id=order_id)
    return fact


def unknown_field(raw: Any, value: Any, outer: bool = False) -> str:
    """Path of the first field in `raw` that the decoded `value` has no place for; "" when there is none."""
    if isinstance(value, msgspec.Struct):
        known = value.__struct_fields__
        for name, inner in raw.items():
            if name not in known:
                if outer and name == "type":
                    continue
                return name if len(name) <= 64 and name.isprintable() else "?"
            if isinstance(inner, (dict, list)):
                found = unknown_field(inner, getattr(value, name))
                if found:
                    return f"{name}{found}" if found.startswith("[") else f"{name}.{found}"
    elif isinstance(value, tuple):
        for place, (inner, item) in enumerate(zip(raw, value, strict=True)):
            found = unknown_field(inner, item)
            if found:
                return f"[{place}].{found}"
    return ""


def out_of_bounds(fact: Fact, now: int) -> tuple[str, str, str] | None:
    """(code, field, what is wrong with it) of the first value that no real order has. Nothing is let in that a lane would park."""
    if not ORDER_ID.fullmatch(fact.order):
        return "invalid", "order", "expected the shop's slug, a colon and the shop's own ID"
    if fact.at - now > AHEAD_MS:
        return "invalid", "at", "expected milliseconds since 1970, not in the future"
    found = violation(fact)
    if found is not None:
        reason, path = found
        return {"bounds": "invalid"}.get(reason, reason), path.removeprefix("$."), EXPECTED[reason]
    return None


def _oddity(value: Any, path: str) -> tuple[str, str, str] | None:
    """The same for what cannot be kept exactly or be meant, at any depth. Slow: asked only when the bytes give reason to."""
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            return "invalid", path, "too long"
        if "\x00" in value:
            return "invalid", path, "must not contain the character NUL"
    elif isinstance(value, int):
        if abs(value) > LARGEST_INT:
            return "invalid", path, "the number is too large"
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            found = _oddity(getattr(value, name), f"{path}.{name}" if path else name)
            if found:
                return found
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            found = _oddity(item, f"{path}[{place}]")
            if found:
                return found
    elif isinstance(value, dict):
        for key, item in value.items():
            found = _oddity(key, path) or _oddity(item, path)
            if found:
                return found
    return None


def invalid(why: str, order_id: str = "") -> Refusal:
    """msgspec's words without the values in them, and the path by itself."""
    at = _AT.search(why)
    path = at.group(1) if at else ""
    what = why[: at.start()] if at else why
    named = _NAMED.search(what)
    if named:
        path = f"{path}.{named.group(1)}" if path else named.group(1)
        what = "the field is required"
    elif what.startswith("Invalid"):
        what = "not one of the known values"
    return Refusal(422, "unknown_kind" if path == "type" and not named else "invalid", what, field=path, order_id=order_id)


def _order_id(raw: Any) -> str:
    """The order a body speaks of, if it says so readably."""
    order = raw.get("order") if isinstance(raw, dict) else None
    return order if isinstance(order, str) and ORDER_ID.fullmatch(order) else ""


T = TypeVar("T")


def read_as(decode: Callable[[], T]) -> T:
    """What `decode` makes of a request. Raises Refusal: 400 what is not JSON, 422 with the field that is missing, unknown or wrong."""
    try:
        return decode()
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "malformed", "the body is not JSON") from None
