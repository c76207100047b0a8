"""The OpenAPI 3.1 document of `/v1`. Schemas come from the structs that are really decoded and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from orders.fact import AnyFact
from web.admission import LARGEST_INT, ORDER_ID
from web.desk import QUEUES, Decided, Held, Settlement, Verdict, Verdicts
from web.gateway import Accepted
from web.problem import Problem
from web.reader import Counters, Moment, OrderDetail, ParkedRow, Row, Waiting

Json = dict[str, Any]
_TYPES = (AnyFact, Accepted, Problem, OrderDetail, Sequence[Moment], Sequence[Row], Sequence[ParkedRow], Counters)
_REVIEWS = (Sequence[Waiting], Held, Decided, Sequence[Decided], Verdict, Verdicts, Settlement)
_WHY = {
    "400": "not JSON",
    "403": "this needs another role",
    "404": "no order with this ID",
    "408": "the body did not arrive in time",
    "409": "somebody else has it, or nobody has to decide about it (any more)",
    "413": "too large",
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
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The first answer to a key is given again; another body under the same key is refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def document(version: str) -> Json:
    described, schemas = msgspec.json.schema_components((*_TYPES, *_REVIEWS), ref_template="#/components/schemas/{name}")
    fact, accepted, problem, order, moments, rows, parked, counters = described[: len(_TYPES)]
    waiting, held, decided, all_decided, verdict, verdicts, settlement = described[len(_TYPES) :]
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

    def post(name: str, summary: str, answer: Json, problems: str, parameters: list[Json], body: Json | None = None) -> Json:
        takes = {} if body is None else {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}
        return {"post": operation(name, summary, "200", answer, problems, parameters, **takes)}

    one = "400 403 404 409 413 422 503"
    queue = {"name": "queue", "in": "query", "schema": {"type": "string", "enum": list(QUEUES), "default": QUEUES[0]}}
    reviews = {
        "/v1/reviews": {
            "get": operation("listReviews", "What waits for a person, the most urgent first", "200", waiting, "422 503", [queue, _LIMIT])
        },
        "/v1/reviews:decide": post(
            "decideAll", "Decide about many; says of each what became of it", all_decided, "400 403 413 422 503", [], verdicts
        ),
        "/v1/reviews/{order_id}:claim": post(
            "claimReview", "Claim an order, or prolong one's claim: half an hour", held, "403 404 409 503", [_ORDER_ID]
        ),
        "/v1/reviews/{order_id}:release": post("releaseReview", "Let a claimed order go", held, "403 404 409 503", [_ORDER_ID]),
        "/v1/reviews/{order_id}:decide": post(
            "decideReview", "Approve or decline a held order; no later score takes that back", decided, one, [_ORDER_ID], verdict
        ),
        "/v1/reviews/{order_id}:settle": post(
            "settleProblems", "Take problems of money off finance's list", decided, "400 403 404 413 422 503", [_ORDER_ID], settlement
        ),
    }
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
            "/v1/parked": {
                "get": operation(
                    "listParked", "Records that could not be read, newest first", "200", parked, "422 503", [_code("reason"), _LIMIT]
                )
            },
            "/v1/counters": {"get": operation("getCounters", "Totals; accepted = done + parked + waiting", "200", counters, "503", [])},
            **reviews,
        },
        "components": {"schemas": schemas},
    }


def _code(name: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "description": "empty: all",
        "schema": {"type": "string", "pattern": "^[a-z_]*$", "maxLength": 64, "default": ""},
    }
