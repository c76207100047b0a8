"""`GET /v1/…` and the document that describes it."""

from __future__ import annotations

import re

import pytest

from connectors.store import StoreDown
from tests.web.conftest import Site


async def test_an_order_shows_its_status_money_parcels_and_timeline(site: Site) -> None:
    answer = await site.client.get("/v1/orders/lumi:1004")
    assert answer.status_code == 200
    order = answer.json()
    assert (order["id"], order["status"], order["total"], order["currency"]) == ("lumi:1004", "out_for_delivery", 12990, "EUR")
    assert order["parcels"][0]["tracking"] == "1Z999AA10123456784"
    assert order["decision"]["decided_by"] == "model" and order["decision"]["reasons"]
    timeline = (await site.client.get("/v1/orders/lumi:1004/timeline")).json()
    assert timeline == order["timeline"]
    assert [m["at"] for m in timeline] == sorted(m["at"] for m in timeline)


async def test_an_id_may_be_percent_encoded(site: Site) -> None:
    assert (await site.client.get("/v1/orders/lumi%3A1004")).status_code == 200


async def test_an_unknown_order_is_404_in_the_one_shape(site: Site) -> None:
    for path in ("/v1/orders/lumi:9", "/v1/orders/lumi:9/timeline"):
        answer = await site.client.get(path)
        assert answer.status_code == 404
        assert {"code", "message", "trace_id"} == answer.json().keys()


async def test_orders_are_listed_by_status_or_flag(site: Site) -> None:
    every = (await site.client.get("/v1/orders")).json()
    shipped = (await site.client.get("/v1/orders", params={"tag": "shipped", "limit": 2})).json()
    assert len(every) == 30 and len(shipped) == 2 and {row["status"] for row in shipped} == {"shipped"}


async def test_lists_hold_no_personal_data(site: Site) -> None:
    for path in ("/v1/orders", "/v1/parked", "/v1/counters", "/"):
        text = (await site.client.get(path)).text
        assert "ana.lima" not in text and "+3519" not in text and "Rua das" not in text


async def test_parked_records_are_listed_by_reason(site: Site) -> None:
    (row,) = (await site.client.get("/v1/parked", params={"reason": "malformed"})).json()
    assert (row["topic"], row["partition"], row["offset"], row["size"]) == ("facts", 3, 17, 12)
    assert (await site.client.get("/v1/parked", params={"reason": "schema"})).json() == []


async def test_counters_add_up(site: Site) -> None:
    n = (await site.client.get("/v1/counters")).json()
    assert n["accepted"] == n["done"] + n["parked"] + n["waiting"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "tag=UPPER", "tag=a%20b", "tag=" + "x" * 65])
async def test_a_parameter_out_of_bounds_is_422_and_named(site: Site, query: str) -> None:
    answer = await site.client.get(f"/v1/orders?{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == query.partition("=")[0]


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/orders/lumi:1004", "/v1/parked", "/v1/counters"])
async def test_a_store_that_is_away_is_503_with_retry_after(site: Site, path: str) -> None:
    site.reader.fail = StoreDown("at redis://user:secret@host")
    answer = await site.client.get(path)
    assert answer.status_code == 503 and "retry-after" in answer.headers
    assert answer.json()["code"] == "store_down" and "secret" not in answer.text


async def test_a_bug_shows_no_trace_of_itself(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.reader.fail = RuntimeError("ana.lima@example.invalid")
    answer = await site.client.get("/v1/orders")
    assert answer.status_code == 500 and answer.json()["code"] == "internal"
    said = capfd.readouterr()
    assert answer.json()["trace_id"] in said.out + said.err
    for text in (answer.text, said.out, said.err):
        assert "Traceback" not in text and "ana.lima" not in text


async def test_nothing_else_is_there(site: Site) -> None:
    answer = await site.client.get("/v1/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await site.client.delete("/v1/orders")).status_code == 405


async def test_the_process_says_how_it_is(site: Site) -> None:
    assert (await site.client.get("/healthz")).status_code == 200
    assert (await site.client.get("/readyz")).json()["ready"] is True
    assert "orderflow_ready 1.0" in (await site.client.get("/metrics")).text
    site.health.drain()
    assert (await site.client.get("/readyz")).status_code == 503


async def test_the_document_describes_every_kind_of_fact_and_every_path(site: Site) -> None:
    from openapi_spec_validator import validate

    document = (await site.client.get("/openapi.json")).json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {
        "/v1/facts", "/v1/orders", "/v1/orders/{order_id}", "/v1/orders/{order_id}/timeline", "/v1/parked", "/v1/counters",
        "/v1/warehouse", "/v1/warehouse/{order_id}:picked", "/v1/warehouse/{order_id}:packed", "/v1/warehouse/{order_id}:handed_over",
        "/v1/stock",
        "/v1/parked/{record}", "/v1/parked/{record}:replay", "/v1/modes", "/v1/modes/{channel}", "/v1/stop",
        "/v1/reviews", "/v1/reviews:decide",
        "/v1/reviews/{order_id}:claim", "/v1/reviews/{order_id}:release", "/v1/reviews/{order_id}:decide", "/v1/reviews/{order_id}:settle",
        "/v1/orders/{order_id}/actions", "/v1/orders/{order_id}/notifications:resend", "/v1/audit",
    }  # fmt: skip
    text = re.sub(r"\s", "", (await site.client.get("/openapi.json")).text)
    for kind in ("OrderPlaced", "PaymentCaptured", "ParcelScanned", "FeedbackGiven"):
        assert f'"const":"{kind}"' in text or f'"enum":["{kind}"]' in text
