"""The OpenAPI 3.1 document of `/v1`. Schemas come from the structs that are really decoded and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from orders.fact import AnyFact
from web.actions import Again, AnyAct, Done
from web.admission import LARGEST_INT, ORDER_ID
from web.audit import Audited
from web.gateway import Accepted
from web.problem import Problem
from web.reader import Counters, Moment, OrderDetail, ParkedRow, Row

Json = dict[str, Any]
_TYPES = (AnyFact, Accepted, Problem, OrderDetail, Sequence[Moment], Sequence[Row], Sequence[ParkedRow], Counters)
_MORE_TYPES = (AnyAct, Again, Done, Sequence[Audited])
_WHY = {
    "400": "not JSON",
    "401": "neither a token nor a session",
    "403": "not with these roles: the message names the one that is needed",
    "404": "no order with this ID",
    "408": "the body did not arrive in time",
    "409": "the order does not let it be done, or only with `confirm`: the message says why",
    "413": "too large",
    "415": "not application/json",
    "422": "not something we can take; `field` names what is wrong",
    "503": "the store or the log does not answer now; ask again after `Retry-After`",
}
_ORDER_ID = {
    "name": "order_id",
    "in": "path",
    "required": True,
    "description": "shop slug, a colon, the shop's own ID",
    "schema": {"type": "string", "minLength": 1},
}
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}}
_NEWEST: Json = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 200}}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The first answer to a key is given again; another body under the same key is refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def document(version: str) -> Json:
    described, schemas = msgspec.json.schema_components((*_TYPES, *_MORE_TYPES), ref_template="#/components/schemas/{name}")
    fact, accepted, problem, order, moments, rows, parked, counters, act, again, done, audited = described
    for schema in schemas.values():
        properties = schema.get("properties", {})
        if {"order", "system", "object", "at", "type"} <= properties.keys():  # a fact: stricter on write than when read
            schema["additionalProperties"] = False
            properties["order"] = {"type": "string", "pattern": f"^{ORDER_ID.pattern}$", "examples": ["lumi:1001"]}
            properties["at"] = {"type": "integer", "maximum": LARGEST_INT, "description": "milliseconds since 1970, UTC"}

    def operation(name: str, summary: str, status: str, answer: Json, problems: str, parameters: list[Json], **more: Any) -> Json:
        responses = {status: {"description": "as asked", "content": {"application/json": {"schema": answer}}}}
        for code in problems.split():
            responses[code] = {"description": _WHY[code], "content": {"application/json": {"schema": problem}}}
        return {"operationId": name, "summary": summary, "parameters": parameters, **more, "responses": responses}

    facts = operation(
        "postFacts",
        "Report facts: one as JSON, or many as NDJSON, all of them or none",
        "202",
        accepted,
        "400 408 413 422 503",
        [_KEY],
        description="202: every fact is durably in the log. Sending one twice is harmless: its identity is (system, object, type).",
        requestBody={
            "required": True,
            "content": {
                "application/json": {"schema": fact},
                "application/x-ndjson": {"schema": {"type": "string", "description": "one fact per line"}},
            },
        },
    )

    def acting(name: str, summary: str, asked: Json) -> Json:
        body = {"required": True, "content": {"application/json": {"schema": asked}}}
        why = "202: it is written down and in the log; the order shows it a moment later."
        parameters: list[Json] = [_ORDER_ID, _KEY]
        return operation(name, summary, "202", done, "401 403 404 409 413 415 422 503", parameters, description=why, requestBody=body)

    return {
        "openapi": "3.1.0",
        "info": {"title": "orderflow", "version": version, "description": "Facts in, orders out. Errors have one shape: Problem."},
        "paths": {
            "/v1/facts": {"post": facts},
            "/v1/orders": {
                "get": operation(
                    "listOrders", "Orders with a status or flag, the last moved first", "200", rows, "422 503", [_code("tag"), _LIMIT]
                )
            },
            "/v1/orders/{order_id}": {
                "get": operation("getOrder", "One order with all that is known of it", "200", order, "404 422 503", [_ORDER_ID])
            },
            "/v1/orders/{order_id}/timeline": {
                "get": operation("getTimeline", "What happened to it and why, oldest first", "200", moments, "404 422 503", [_ORDER_ID])
            },
            "/v1/orders/{order_id}/actions": {"post": acting("actOnOrder", "Do something with an order, with a reason", act)},
            "/v1/orders/{order_id}/notifications:resend": {"post": acting("resendMessage", "Say a message once more, as a new one", again)},
            "/v1/audit": {
                "get": operation(
                    "listAudit",
                    "What people and machines did, newest first",
                    "200",
                    audited,
                    "401 403 422 503",
                    [
                        _word("who"),
                        _word("action"),
                        _NEWEST,
                    ],
                )
            },
            "/v1/parked": {
                "get": operation(
                    "listParked", "Records that could not be read, newest first", "200", parked, "422 503", [_code("reason"), _LIMIT]
                )
            },
            "/v1/counters": {"get": operation("getCounters", "Totals; accepted = done + parked + waiting", "200", counters, "503", [])},
        },
        "components": {"schemas": schemas},
    }


def _word(name: str) -> Json:
    return {"name": name, "in": "query", "description": "empty: all", "schema": {"type": "string", "maxLength": 64, "default": ""}}


def _code(name: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "description": "empty: all",
        "schema": {"type": "string", "pattern": "^[a-z_]*$", "maxLength": 64, "default": ""},
    }
