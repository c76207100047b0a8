"""A warehouse's own pushes and DHL Supply Chain's answers, samples beside their golden records."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_schema_validator import OAS30Validator

from connectors.delivery import Ignored, Unreadable
from connectors.http import Reply, Request
from connectors.stand_in_vendors import accounts
from connectors.stand_ins import StandIns
from connectors.vendor import Account, Ask, understood
from connectors.wms import STAGES, VENDOR, Stage
from orders.fact import Fact, ReviewDecided, decode_fact
from orders.merge import merge
from orders.plan import plan
from orders.policy import Policy
from orders.state import Order
from orders.view import view
from tests.connectors.published import published
from tests.orders.lives import placed

ACCOUNT = Account(source="wms-lumi", shop="lumi")
AT = 1_795_464_000_000
DAY_MS = 86_400_000
SAMPLES = Path(__file__).parents[2] / "samples" / "vendors" / "wms"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.json") if not path.name.endswith(".golden.json"))


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_bytes())
    return found


def told(sample: dict[str, Any], account: Account = ACCOUNT, at: int = AT) -> Any:
    try:
        return msgspec.json.decode(msgspec.json.encode(understood(VENDOR, account, json.dumps(sample).encode(), at)))
    except Ignored as ignored:
        return {"ignored": str(ignored)}
    except Unreadable as unreadable:
        return {"unreadable": [unreadable.reason, unreadable.detail]}


def facts(sample: dict[str, Any], at: int = AT) -> list[Fact]:
    return [decode_fact(msgspec.json.encode(record)) for record in told(sample, at=at) if "object" in record]


def push(topic: str, **fields: Any) -> dict[str, Any]:
    """A sample's push with other data."""
    found = sample(topic)
    found["body"]["data"].update(fields)
    return found


def listed(status: str | None, number: str | int | None = "5001", **fields: Any) -> dict[str, Any]:
    return {"answer": "orders", "body": {"orderNumberList": [{"orderNumber": number, "orderStatus": status, **fields}]}}


def stock(*lines: dict[str, Any]) -> dict[str, Any]:
    return {"answer": "inventory", "body": {"itemNumber": "LAMP-1", "InventorySummaryLines": list(lines)}}


def kinds(sample: dict[str, Any]) -> list[str]:
    found = told(sample)
    return [record["type"] for record in found] if isinstance(found, list) else []


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_gives_its_golden_records(name: str) -> None:
    assert told(sample(name)) == json.loads((SAMPLES / f"{name}.golden.json").read_bytes())


# --- against the published specification
def specification() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(published("custom-wms", "spec", "dhl-supply-chain-wms-2.0.0.json"))
    return found


SCHEMAS = {
    "orders": "order_list",
    "order": "order",
    "inventory.summary": "inventory_summary",
    "inventory.detail": "inventory_detail",
    "cancel": "order_delete_response",
}
ANSWERS = [name for name in NAMES if "answer" in sample(name)]


def schema_of(name: str) -> str:
    body = sample(name)["body"]
    if "title" in body:
        return "problem_detail"
    kind = sample(name)["answer"]
    if kind == "inventory":
        kind += ".summary" if "InventorySummaryLines" in body else ".detail"
    return SCHEMAS[kind]


@pytest.mark.parametrize("name", ANSWERS)
def test_hand_written_answers_fit_the_specification(name: str) -> None:
    found = specification()
    schema = {"$ref": f"#/components/schemas/{schema_of(name)}", "components": found["components"]}
    assert list(OAS30Validator(schema).iter_errors(sample(name)["body"])) == []
    assert list(OAS30Validator(schema).iter_errors([]))  # the check can fail


@pytest.mark.parametrize(
    ("schema", "answer", "gives"),
    [
        ("order_list", "orders", {"ignored": "none of these orders is picked, packed or shipped"}),
        ("order", "order", {"ignored": "the order is not picked, packed or shipped"}),
        ("inventory_summary_response", "inventory", [("SER_0001", 1)]),
        ("inventory_detail_response", "inventory", [("SER_0001", 1)]),
    ],
)
def test_the_specification_s_examples_are_read(schema: str, answer: str, gives: Any) -> None:
    found = told({"answer": answer, "body": specification()["components"]["schemas"][schema]["example"]})
    if isinstance(found, list):
        found = [(record["sku"], record["on_hand"]) for record in found]
    assert found == gives


def test_the_specification_s_other_answers_are_no_orders() -> None:
    for schema in ("order_list", "asn_receipt", "item_response", "order_delete_response", "inventory_summary_response"):
        found = told({"answer": "order", "body": specification()["components"]["schemas"][schema]["example"]})
        assert found == {"unreadable": ["schema", "$.orderNumber"]}, schema
    deleted = specification()["components"]["schemas"]["order_delete_response"]["example"]
    assert "is not cancelled by that" in told({"answer": "cancel", "body": deleted})["ignored"]


PROBLEMS = {
    "order_not_found": "knows no such order or item",
    "item_not_found": "knows no such order or item",
    "order_input_invalid": "did not understand the request",
    "order_permission_refused": "check that it may use this facility",
    "order_conflict": "has it already",
    "order_service_unavailable": "tried again later",
}


@pytest.mark.parametrize("schema", PROBLEMS)
def test_the_specification_s_problems_are_complaints(schema: str) -> None:
    example = specification()["components"]["schemas"][schema]["example"]
    assert PROBLEMS[schema] in VENDOR.complaint(json.dumps(example).encode())


# --- what is pushed
def test_a_parcel_takes_the_name_its_carrier_uses_whatever_comes_first() -> None:
    reports = [*facts(sample("order.packed")), *facts(sample("order.shipped"))]
    for order in (reports, reports[::-1]):
        state = Order("lumi:5001")
        for fact in order:
            state = merge(state, fact)
        known = view(state)
        assert list(known.parcels) == ["00340434161094021501"]
        assert known.shipped_at and not known.contradictions


def test_packing_is_when_it_was_packed_where_both_name_the_tracking_number() -> None:
    state = Order("lumi:5001")
    for fact in (*facts(sample("order.packed.labelled")), *facts(sample("order.shipped")), *facts(sample("order.packed"))):
        state = merge(state, fact)
    (parcel,) = view(state).parcels.values()
    label, packed = facts(sample("order.packed.labelled"))
    assert parcel.packed_at == packed.at == label.at


def test_a_parcel_that_has_its_label_wants_none() -> None:
    def wanted(name: str) -> list[str]:
        state = Order("lumi:5001")
        for fact in (placed(order="lumi:5001", prepaid=True), *facts(sample(name))):
            state = merge(state, fact)
        approved = ReviewDecided(order="lumi:5001", system="staff", object="r", at=1_795_427_000_000, approve=True, by="kim", reason="fine")
        return [effect for effect in plan(view(merge(state, approved)), state, Policy()).effects if effect.startswith("carrier.label")]

    assert wanted("order.packed") == ["carrier.label packed P-1"]
    assert wanted("order.packed.labelled") == []


def test_one_parcel_packed_and_shipped_has_one_natural_key() -> None:
    keys = {fact.object for name in ("order.packed", "order.packed.labelled", "order.shipped") for fact in facts(sample(name))}
    assert keys == {"P-1", "P-1:labelled", "P-1:shipped"}


def test_a_parcel_that_the_warehouse_has_labelled_has_its_number_before_it_is_packed() -> None:
    """Else a label would be wanted for it, and bought: its second."""
    state, numbers = Order("lumi:5001"), []
    for fact in facts(sample("order.packed.labelled")):
        state = merge(state, fact)
        numbers += [(parcel.carrier, parcel.tracking) for parcel in view(state).parcels.values()]
    assert numbers == [("dhl", "00340434161094021501")] * 2


@pytest.mark.parametrize(("text", "is_"), [("1z 999 aa1", "1Z999AA1"), (" ", ""), (None, "")])
def test_tracking_numbers_are_as_carriers_write_them(text: str | None, is_: str) -> None:
    found = told(push("order.shipped", tracking=text))
    assert [record["value"] for record in found if record["type"] == "ReferenceLinked"] == ([is_] if is_ else [])
    assert found[-1].get("tracking", "") == is_


def test_an_order_may_be_named_by_a_number_of_any_size() -> None:
    assert told(push("order.picked", order=9007199254740993))[0]["order"] == "lumi:9007199254740993"
    assert facts(push("order.picked", order="5001")) == facts(push("order.picked", order=5001))
    assert facts(listed("Shipped", 5001)) == facts(listed("Shipped", "5001"))


def test_a_warehouse_s_own_ids_may_be_numbers_too() -> None:
    for topic, name in (("order.picked", "pick"), ("order.packed", "parcel"), ("order.shipped", "tracking")):
        assert told(push(topic, **{name: 1234567890})) == told(push(topic, **{name: "1234567890"})), name


@pytest.mark.parametrize("order", ["", "  ", None])
def test_what_names_no_order_is_nobody_s(order: str | None) -> None:
    assert told(push("order.picked", order=order)) == {"unreadable": ["schema", "$.data.order"]}


def test_one_line_told_twice_is_added_up() -> None:
    """Else who counts what a parcel holds by its lines loses one of them."""
    twice = [{"line": 1, "quantity": 1}, {"line": "2", "quantity": 5}, {"line": "1", "quantity": "2"}]
    for topic, name in (("order.picked", "short"), ("order.packed", "lines"), ("order.shipped", "lines")):
        found = told(push(topic, **{name: twice}))
        assert {"line": "1", "quantity": 3} in found[-1].get(name, found[0].get(name)), topic
    assert "short" not in told(push("order.picked", short=[{"line": "1", "quantity": 0}]))[0]


# --- quantities
@pytest.mark.parametrize("on_hand", [5, 5.0, "5", "5.0", "5.000"])
def test_a_quantity_is_whole_however_it_is_told(on_hand: Any) -> None:
    assert [level["on_hand"] for level in told(push("stock.level", levels=[{"sku": "A", "on_hand": on_hand}]))] == [5]
    assert [level["on_hand"] for level in told(stock({"totalStockOnHandQuantity": on_hand, "blockedQuantity": "0"}))] == [5]
    assert told(push("order.packed", lines=[{"line": "1", "quantity": on_hand}]))[0]["lines"] == [{"line": "1", "quantity": 5}]


@pytest.mark.parametrize("on_hand", [5.5, "5.5", "many", "", True, None, "9" * 30])
def test_half_of_one_is_refused(on_hand: Any) -> None:
    assert told(push("stock.level", levels=[{"sku": "A", "on_hand": on_hand}])) == {"unreadable": ["schema", "$.data.levels[0].on_hand"]}


def test_lots_of_one_item_in_one_place_are_added_up_and_the_later_word_on_one_counts() -> None:
    def levels(*told_of: dict[str, Any]) -> list[tuple[str, int, int]]:
        found = told(push("stock.level", levels=[{"sku": "A", **level} for level in told_of]))
        return [(level["location"], level["on_hand"], level.get("version", 0)) for level in found]

    assert levels({"on_hand": 5, "lot": "L1"}, {"on_hand": 2, "lot": 7}, {"on_hand": 1, "lot": None}) == [("main", 8, 0)]
    assert levels({"on_hand": 5, "version": 3}, {"on_hand": 2, "version": 2}) == [("main", 5, 3)]
    assert levels({"on_hand": 5}, {"on_hand": 2}) == [("main", 2, 0)]
    assert levels({"on_hand": 5, "lot": 0}, {"on_hand": 7}) == [("main", 12, 0)]
    used_up = levels({"on_hand": 5, "lot": "L1", "version": 10}, {"on_hand": 7, "lot": "L2", "version": 3})
    assert used_up == [("main", 12, 0)], "a lot that is told no more must not outrank what is told of the others"
    assert levels({"on_hand": 5, "location": "a"}, {"on_hand": -2, "location": "b"}) == [("a", 5, 0), ("b", -2, 0)]


def test_what_names_no_place_is_at_the_account_s() -> None:
    account = msgspec.structs.replace(ACCOUNT, location="leipzig", authority=3)
    (picked,) = told(push("order.picked", location=None), account)
    assert (picked["location"], picked["authority"]) == ("leipzig", 3)
    assert [level["location"] for level in told(sample("stock.level"), account)] == ["berlin", "leipzig"]
    assert {level["location"] for level in told(sample("answer.inventory.detail"), account)} == {"leipzig"}


@pytest.mark.parametrize("quantity", [-1, 10**9, 2**70])
def test_silly_quantities_are_out_of_bounds(quantity: int) -> None:
    assert told(push("order.packed", lines=[{"line": "1", "quantity": quantity}])) == {"unreadable": ["bounds", "$.lines[...].quantity"]}
    assert told(push("order.picked", short=[{"line": "1", "quantity": quantity}])) == {"unreadable": ["bounds", "$.short[...].quantity"]}


@pytest.mark.parametrize("on_hand", [-(10**10), 10**10, 2**70])
def test_silly_levels_are_out_of_bounds(on_hand: int) -> None:
    assert told(push("stock.level", levels=[{"sku": "LAMP-1", "on_hand": on_hand}])) == {"unreadable": ["bounds", "on_hand"]}


@pytest.mark.parametrize("version", [-1, 2**70])
def test_silly_versions_are_out_of_bounds(version: int) -> None:
    assert told(push("stock.level", levels=[{"sku": "A", "on_hand": 1, "version": version}])) == {"unreadable": ["bounds", "version"]}


@pytest.mark.parametrize("time", ["1999-12-31T23:59:59Z", "2100-01-01T00:00:00Z"])
def test_silly_times_are_out_of_bounds(time: str) -> None:
    silly = sample("order.picked")
    silly["body"]["timestamp"] = time
    assert told(silly) == {"unreadable": ["bounds", "$.timestamp"]}


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"type": ""}', b'{"type": 5}', b"\xff", b"[" * 9999])
def test_what_has_no_type_has_no_envelope(body: bytes) -> None:
    with pytest.raises(Unreadable):
        VENDOR.envelope({"webhook-id": "msg_1"}, body)


def test_a_delivery_is_called_by_its_header() -> None:
    assert VENDOR.envelope({"webhook-id": "msg_1"}, b'{"type": "order.picked"}') == ("order.picked", "msg_1")


# --- what DHL answers
@pytest.mark.parametrize(
    ("status", "gives"),
    [
        ("Unallocated", []),
        ("Picking Begun", []),
        ("Picked", ["ItemsPicked"]),
        ("Packed", ["ItemsPicked", "ParcelPacked"]),
        ("Shipped", ["ItemsPicked", "ParcelPacked", "ParcelScanned"]),
        ("  SHIPPED ", ["ItemsPicked", "ParcelPacked", "ParcelScanned"]),
        ("Partially Shipped", []),
        ("Cancelled", []),
        ("Brand New Status", []),
        ("", []),
        (None, []),
    ],
)
def test_a_status_implies_what_comes_before_it(status: str, gives: list[str]) -> None:
    assert kinds(listed(status)) == gives
    assert kinds({"answer": "order", "body": {"orderNumber": "5001", "orderStatus": status}}) == gives


def test_every_stage_has_a_word() -> None:
    assert set(STAGES.values()) == set(Stage)
    assert all(word == word.lower() for word in STAGES)


@pytest.mark.parametrize("number", ["", None])
def test_an_order_without_number_is_nobody_s(number: str | None) -> None:
    assert kinds(listed("Shipped", number)) == []


def test_a_cancelled_order_s_stage_counts_no_more() -> None:
    assert kinds(listed("Packed", cancelledFlag=False)) != []
    assert kinds(listed("Packed", cancelledFlag=True)) == []


def test_the_same_answer_later_moves_nothing() -> None:
    state = Order("lumi:5001")
    for later in (3, 0, 7, 1):
        for fact in facts(listed("Shipped"), AT + later * DAY_MS):
            state = merge(state, fact)
    known = view(state)
    assert (known.shipped_at, known.picked["main"], known.contradictions) == (AT, AT, ())


def test_the_time_of_shipping_is_better_than_any_sight_of_it() -> None:
    shipped = sample("answer.order.shipped")
    early, late = facts(listed("Shipped", "5005"), AT - 30 * DAY_MS), facts(shipped)
    for order in ([*early, *late], [*late, *early]):
        state = Order("lumi:5005")
        for fact in order:
            state = merge(state, fact)
        assert view(state).shipped_at == 1_795_443_300_000  # 2026-11-23 14:15 UTC
    assert {fact.object for fact in early} == {fact.object for fact in late}


@pytest.mark.parametrize("date", ["", None])
def test_shipped_without_a_date_counts_from_when_it_was_seen(date: str | None) -> None:
    assert {fact.at for fact in facts(listed("Shipped", actualShipmentDate=date))} == {AT}


@pytest.mark.parametrize(
    ("date", "says"), [("2026", "schema"), ("20261323141500", "schema"), ("19991123141500", "bounds"), (20261, "schema")]
)
def test_dates_that_are_none_are_named(date: str | int, says: str) -> None:
    assert told(listed("Shipped", actualShipmentDate=date)) == {"unreadable": [says, "$.actualShipmentDate"]}


def test_dates_may_be_numbers() -> None:
    assert told(listed("Shipped", actualShipmentDate=20261123141500)) == told(listed("Shipped", actualShipmentDate="20261123141500"))


@pytest.mark.parametrize(
    ("line", "on_hand"),
    [
        ({"inventoryStatus": "Available", "totalStockOnHandQuantity": 9, "availableQuantity": 5, "quantityCommittedToOrder": 4}, 9),
        ({"totalStockOnHandQuantity": 9, "blockedQuantity": 2, "quarantineQuantity": 1}, 6),
        ({"inventoryStatus": "Available", "availableQuantity": 5, "availableQuantityToPromise": 1}, 5),
        ({"inventoryStatus": "Release", "totalStockOnHandQuantity": 9}, 9),
        ({"inventoryStatus": "AVAILABLE ", "totalStockOnHandQuantity": 9, "lotNumber": None}, 9),
        ({"inventoryStatus": "Damaged", "totalStockOnHandQuantity": 9}, 0),
        ({"inventoryStatus": "PutAside", "totalStockOnHandQuantity": 9}, 0),
        ({}, 0),
    ],
)
def test_on_hand_is_what_lies_there_and_may_be_sold(line: dict[str, Any], on_hand: int) -> None:
    assert [level["on_hand"] for level in told(stock(line))] == [on_hand]
    assert [level["on_hand"] for level in told(stock(line, {"availableQuantity": 2}))] == [on_hand + 2]


def test_an_answer_that_is_no_inventory_is_not_an_empty_one() -> None:
    assert told({"answer": "inventory", "body": {"facilityId": "GB_0044"}}) == {"unreadable": ["schema", "$.InventorySummaryLines"]}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"title": "x"}', b'{"orderNumberList": []}'])
def test_what_is_no_problem_is_no_complaint(body: bytes) -> None:
    assert VENDOR.complaint(body) == ""


@pytest.mark.parametrize("status", [None, 400, 401, 403, 404, 409, 418, 429, 500, 502, 503])
def test_a_complaint_says_what_to_do_and_repeats_no_words(status: int | None) -> None:
    text = VENDOR.complaint(json.dumps({"title": "Anna Example", "detail": "anna@example.com", "status": status}).encode())
    assert text.startswith("The warehouse's system ") and ": " in text
    assert "nna" not in text
    assert status is None or str(status) in text
    assert ("tried again" in text) == (status is not None and (status == 429 or status >= 500))


# --- whatever comes
def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from _paths(child, (*path, key))


BODIES = {name: list(_paths(sample(name)["body"])) for name in NAMES}


@given(data=st.data(), name=st.sampled_from(NAMES))
def test_reading_is_total(data: st.DataObject, name: str) -> None:
    broken = copy.deepcopy(sample(name))
    *parents, last = data.draw(st.sampled_from(BODIES[name]))
    place: Any = broken["body"]
    for key in parents:
        place = place[key]
    change: Any = data.draw(st.sampled_from(["drop", None, "", -1, 10**30, 1.5, [], {}, "\x00", "20261323141500", True]))
    if change == "drop":
        del place[last]
    else:
        place[last] = change
    assert told(broken)  # facts, or why there are none; anything else would have been raised


@pytest.mark.parametrize("name", NAMES)
def test_fields_that_nobody_knows_yet_change_nothing(name: str) -> None:
    more = sample(name)
    for path in [(), *BODIES[name]]:
        thing: Any = more["body"]
        for key in path:
            thing = thing[key]
        if isinstance(thing, dict):
            thing["brand_new_field"] = {"with": ["anything", 1.5, None]}
    assert told(more) == told(sample(name))


# --- what it does for us
WAREHOUSE = msgspec.structs.replace(ACCOUNT, options={"facility": "GB_0044", "customer": "CID005233", "service_express": "EXP"})


PICK: dict[str, Any] = {
    "number": "#1001",
    "placed": 1_790_000_000_000,
    "service": "express",
    "lines": [{"line": "7", "sku": "LAMP-1", "quantity": 2}],
    "to": {"name": "Anna", "address": {"lines": ["Hauptstr. 5"], "city": "Berlin", "postcode": "10115", "country": "DE"}},
}


def pick(**data: Any) -> Request:
    return VENDOR.actions["warehouse.pick"].render(
        WAREHOUSE, Ask("warehouse.pick", "e", "lumi:5005", msgspec.Raw(json.dumps(PICK | data).encode()))
    )


def test_a_pick_is_an_outbound_order_as_the_specification_draws_it() -> None:
    body = json.loads(pick().body)
    assert (body["orderNumber"], body["customerPurchaseOrderNumber"], body["orderDate"]) == ("5005", "#1001", "20260921141320")
    assert (body["carrierServiceLevel"], body["orderLines"][0]["itemNumber"]) == ("EXP", "LAMP-1")
    assert "carrierServiceLevel" not in json.loads(pick(service="standard").body)
    found = specification()
    schema = {"$ref": "#/components/schemas/order_create", "components": found["components"]}
    assert list(OAS30Validator(schema).iter_errors(body)) == []
    assert list(OAS30Validator(schema).iter_errors({**body, "shipTo": {}})), "the check can fail"
    assert (pick().method, "post" in found["paths"]["/order"]) == ("POST", True)


def test_its_order_is_found_again_by_what_is_read_of_it() -> None:
    body = json.loads(pick().body) | {"orderStatus": "Picked"}
    assert {record["order"] for record in told({"answer": "order", "body": body})} == {"lumi:5005"}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"lines": []}, "data.lines"),
        ({"lines": [{"line": "7", "sku": "LAMP-1", "quantity": 0}]}, "data.lines.quantity"),
        ({"lines": [{"line": "7", "sku": "", "quantity": 1}]}, "$.lines[0].sku"),
        ({"placed": 5}, "data.placed"),
        ({"to": {"name": "Anna", "address": {"lines": ["x"], "city": "Berlin", "country": "DE"}}}, "data.to.address: postCode"),
    ],
)
def test_a_pick_that_the_warehouse_could_not_make_names_the_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(Unreadable) as unreadable:
        pick(**data)
    assert unreadable.value.detail == field


@pytest.mark.parametrize(("name", "path"), [("orders", "/order/list"), ("order", "/order"), ("inventory", "/inventory/summary")])
def test_what_we_fetch_names_all_that_the_specification_wants(name: str, path: str) -> None:
    request = VENDOR.questions[name].render(WAREHOUSE, "5005", "")
    parts = urlsplit(request.url)
    described = specification()["paths"][path]["get"]["parameters"]
    asked = dict(parse_qsl(parts.query))
    assert parts.path.endswith(path)
    assert {one["name"] for one in described if one.get("required")} <= asked.keys() <= {one["name"] for one in described}


def test_a_list_is_fetched_page_by_page() -> None:
    following = VENDOR.questions["orders"].next
    page = {"orderNumberList": [{}] * 50, "totalOrderCount": 120, "offset": 50, "limit": 50}
    assert following(Reply(200, {}, json.dumps(page).encode())) == "100"
    assert following(Reply(200, {}, json.dumps(page | {"offset": 100, "orderNumberList": [{}] * 20}).encode())) == ""
    assert following(Reply(200, {}, json.dumps(page | {"orderNumberList": []}).encode())) == ""
    assert "offset=100" in VENDOR.questions["orders"].render(WAREHOUSE, "", "100").url


async def test_the_stand_in_answers_as_the_specification_describes() -> None:
    found = specification()
    stand_ins = StandIns(clock=lambda: AT)
    [account] = [one.account for one in accounts("http://127.0.0.1:1") if one.vendor == "wms"]
    asked = Ask("warehouse.pick", "e", "lumi:5005", msgspec.Raw(json.dumps({**PICK}).encode()))
    made, back = VENDOR.actions["warehouse.pick"], VENDOR.actions["warehouse.cancel"]
    assert made.look is not None
    asks = [
        (made.look, "get", 404),
        (made.render, "post", 200),
        (made.render, "post", 409),
        (made.look, "get", 200),
        (back.render, "delete", 200),
    ]
    for render, method, status in asks:
        request = render(account, asked)
        parts = urlsplit(request.url)
        answer = await stand_ins.respond(request.method, f"{parts.path}?{parts.query}", dict(basic(account)), request.body)
        assert answer is not None and answer.status == status
        described = found["paths"]["/order"][method]["responses"][str(status)]["content"]["application/json"]["schema"]
        assert list(OAS30Validator({**described, "components": found["components"]}).iter_errors(answer.body)) == []


def basic(account: Account) -> list[tuple[str, str]]:
    assert VENDOR.login is not None
    return [(name.lower(), value) for name, value in VENDOR.login.headers(account, "")]
