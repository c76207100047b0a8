"""The OpenAPI 3.1 document of `/v1`. Schemas come from the structs that are really decoded and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from orders.fact import AnyFact
from orders.warehouse import STAGES, TO_PICK
from streams.dispatch import Modes
from streams.modes import MODES
from web.actions import Again, AnyAct, Done
from web.admission import LARGEST_INT, ORDER_ID
from web.audit import Audited
from web.desk import QUEUES, Decided, Held, Settlement, Verdict, Verdicts
from web.floor import Queue, Shelves
from web.gateway import Accepted
from web.parked import ParkedContent, ParkedDetail, Repair, Settled
from web.problem import Problem
from web.reader import Counters, Moment, OrderDetail, ParkedRow, Row, Waiting
from web.sending import ModeWanted, StopWanted
from web.warehouse import HandedOver, Packed, Picked, Standing

Json = dict[str, Any]
_TYPES = (AnyFact, Accepted, Problem, OrderDetail, Sequence[Moment], Sequence[Row], Sequence[ParkedRow], Counters)
_DESK = (ParkedDetail, ParkedContent, Repair, Settled, Modes, ModeWanted, StopWanted)
_REVIEWS = (Sequence[Waiting], Held, Decided, Sequence[Decided], Verdict, Verdicts, Settlement)
_CLERK = (Queue, Shelves, Standing, Picked, Packed, HandedOver)
_ACTS = (AnyAct, Again, Done, Sequence[Audited])
_WHY = {
    "400": "not JSON",
    "401": "neither a token nor a session",
    "403": "the role that this needs is missing",
    "404": "nothing with this ID",
    "408": "the body did not arrive in time",
    "409": "somebody else was faster, or the order does not let it be done (without `confirm`); `message` says which",
    "413": "too large",
    "415": "not application/json",
    "422": "not something we can take; `field` names what is wrong",
    "429": "more requests than one caller may make; ask again after `Retry-After`",
    "503": "the store or the log does not answer now; ask again after `Retry-After`",
}
_ORDER_ID = {
    "name": "order_id",
    "in": "path",
    "required": True,
    "description": "shop slug, a colon, the shop's own ID",
    "schema": {"type": "string", "minLength": 1},
}
_RECORD = {
    "name": "record",
    "in": "path",
    "required": True,
    "description": "ID of a parked record, its slashes written as ~",
    "schema": {"type": "string", "pattern": "^[a-z_]+~[A-Za-z0-9._-]+~[0-9]+~-?[0-9]+$", "maxLength": 200},
    "example": "schema~facts~3~1207",
}
_CHANNEL = {"name": "channel", "in": "path", "required": True, "schema": {"type": "string", "enum": list(MODES)}}
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}}
_NEWEST: Json = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 200}}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The first answer to a key is given again; another body under the same key is refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def document(version: str) -> Json:
    kinds = (*_TYPES, *_DESK, *_REVIEWS, *_ACTS, *_CLERK)
    every, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    kind = iter(every)
    fact, accepted, problem, order, moments, rows, parked, counters = islice(kind, len(_TYPES))
    record, content, repair, settled, modes, mode, stop = islice(kind, len(_DESK))
    waiting, held, decided, all_decided, verdict, verdicts, settlement = islice(kind, len(_REVIEWS))
    act, again, done, audited = islice(kind, len(_ACTS))
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

    def change(name: str, summary: str, answer: Json, problems: str, parameters: list[Json], body: Json | None = None) -> Json:
        """Something that operators do."""
        more: Json = {} if body is None else {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}
        return operation(
            name, summary, "200", answer, f"403 {problems} 503" + (" 400 408 413 415" if body is not None else ""), parameters, **more
        )

    facts = operation(
        "postFacts",
        "Report facts: one as JSON, or many as NDJSON, all of them or none",
        "202",
        accepted,
        "400 408 413 422 429 503",
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
            **_warehouse(operation),
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
            "/v1/parked/{record}": {
                "get": operation("getParked", "One of them, without its bytes", "200", record, "404 422 503", [_RECORD])
            },
            "/v1/parked/{record}:show": {
                "post": change("showParked", "Its bytes; that they were looked at is noted", content, "404 422", [_RECORD])
            },
            "/v1/parked/{record}:check": {
                "post": change(
                    "checkParked", "Whether it, or its repaired content, could be read now", settled, "404 422", [_RECORD], repair
                )
            },
            "/v1/parked/{record}:replay": {
                "post": change("replayParked", "Puts it back; the second time answers already", settled, "404 422", [_RECORD], repair)
            },
            "/v1/parked/{record}:discard": {
                "post": change("discardParked", "Takes it off the list; needs a reason", settled, "404 422", [_RECORD], repair)
            },
            "/v1/modes": {"get": operation("getModes", "What is sent, observed or stopped", "200", modes, "503", [])},
            "/v1/modes/{channel}": {
                "put": change("putMode", "Lets a channel send, observe or stop, within seconds", modes, "404 409 422", [_CHANNEL], mode)
            },
            "/v1/stop": {
                "put": change("stop", "Stops every channel within seconds; what is wanted waits", modes, "422", [], stop),
                "delete": change("start", "Ends the stop of every channel", modes, "422", []),
            },
            "/v1/counters": {"get": operation("getCounters", "Totals; accepted = done + parked + waiting", "200", counters, "503", [])},
            **reviews,
        },
        "components": {"schemas": schemas},
    }


def _warehouse(operation: Any) -> Json:
    """What scanners' machines read and tell."""
    (queue, shelves, standing, picked, packed, handed_over), _ = msgspec.json.schema_components(
        _CLERK, ref_template="#/components/schemas/{name}"
    )
    many = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}}
    where = {"name": "location", "in": "query", "description": "empty: the default one", "schema": {"type": "string", "maxLength": 255}}
    stage = {"name": "stage", "in": "query", "schema": {"type": "string", "enum": list(STAGES), "default": TO_PICK}}
    sku = {"name": "q", "in": "query", "description": "part of a SKU", "schema": {"type": "string", "maxLength": 64}}
    start = {"name": "start", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0}}

    def told(name: str, summary: str, body: Json) -> Json:
        content = {"required": True, "content": {"application/json": {"schema": body}}}
        said = operation(name, summary, "200", standing, "400 403 404 409 422 503", [_ORDER_ID], requestBody=content)
        return {"post": said}

    return {
        "/v1/warehouse": {"get": operation("listJobs", "What is to be done, in turn", "200", queue, "403 422 503", [where, stage, many])},
        "/v1/warehouse/{order_id}:picked": told("postPicked", "All was found but `short`; with less of it: found later", picked),
        "/v1/warehouse/{order_id}:packed": told("postPacked", "A parcel was packed; `parcel` is the `next_parcel` of the job", packed),
        "/v1/warehouse/{order_id}:handed_over": told("postHandedOver", "The carrier has the parcel, and does not tell itself", handed_over),
        "/v1/stock": {"get": operation("listStock", "Stock, the emptiest first", "200", shelves, "422 503", [sku, start, many])},
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
