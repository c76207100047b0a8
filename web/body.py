"""The JSON body of a request to change something: bounded, in time, and decoded with the wrong field named."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from connectors.delivery import too_deep
from web.admission import read_as
from web.gateway import Gone, Limits, read_body
from web.problem import Refusal

T = TypeVar("T")
BYTES = 512 * 1024
DEPTH = 8


async def json_body(request: Request[Any, Any, Any], kind: type[T], limits: Limits | None = None) -> T:
    """Raises Refusal: 415 for another media type, 413, 408, 400 for what is not JSON, 422 naming the field."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":  # what a form of another site can send is not this
        raise Refusal(415, "media_type", "expected content-type: application/json")
    try:
        raw = await read_body(dict(request.scope["headers"]), request.receive, BYTES, limits or Limits())
    except Gone:
        raise Refusal(400, "malformed", "the body is not complete") from None
    if too_deep(raw, DEPTH):
        raise Refusal(400, "too_deep", f"nested more than {DEPTH} levels deep")
    return read_as(lambda: msgspec.json.decode(raw, type=kind))


def text(value: str, field: str, most: int, least: int = 0) -> str:
    """What a person wrote, without the blanks around it. Raises Refusal naming the field."""
    said = value.strip()
    if not least <= len(said) <= most or not all(char.isprintable() or char in "\n\r\t" for char in said):
        raise Refusal(422, "invalid", f"expected {least} to {most} readable characters", field=field)
    return said
