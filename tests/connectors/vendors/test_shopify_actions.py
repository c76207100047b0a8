"""What we ask Shopify and tell it: the requests, and what becomes of each answer."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.base import Answer, Done, Reason, Refused, Secret, TryLater, Unknown
from connectors.delivery import Ignored, Unreadable
from connectors.http import Reply, Request
from connectors.shopify import VENDOR
from connectors.vendor import ANSWER, Account, Ask
from orders.fact import Fact
from orders.request import ReferenceLinked
from tests.connectors.published import published
from tests.connectors.vendors.test_shopify import NAMES, read, sample

ACCOUNT = Account(source="shopify-lumi", shop="lumi", url="https://lumi.example", credentials={"token": Secret("shpat_not_a_real_one")})
TELLING = msgspec.structs.replace(ACCOUNT, reports_parcels=False)
FULFIL, TAG = VENDOR.actions["shop.fulfil"], VENDOR.actions["shop.tag"]
BASE = "https://lumi.example/admin/api/2026-07"
AT = 1_795_464_000_000


def ask(event: str = "shop.fulfil", **data: Any) -> Ask:
    given = {"shop_order": "59", "parcel": "p1", "carrier": "ups", "tracking": "1z 999", "tracking_link": "https://t.example/1", **data}
    return Ask(event=event, id="e", order="lumi:59", data=msgspec.Raw(json.dumps(given).encode()))


def reply(status: int, body: Any = None, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode())


def item(line: int, quantity: int = 1) -> dict[str, int]:
    return {"id": line * 10, "line_item_id": line, "fulfillable_quantity": quantity, "quantity": quantity}


def order(id: int, *items: dict[str, int], **more: Any) -> dict[str, Any]:
    usual = {"status": "open", "assigned_location_id": 1, "supported_actions": ["create_fulfillment", "hold"]}
    return {"id": id, "line_items": list(items), **usual, **more}


def told(answer: Request | Answer) -> dict[str, Any]:
    assert isinstance(answer, Request), answer
    assert (answer.method, answer.url) == ("POST", f"{BASE}/fulfillments.json")
    found: dict[str, Any] = json.loads(answer.body)["fulfillment"]
    return found


def then(orders: list[dict[str, Any]], *lines: tuple[int, int], **data: Any) -> Request | Answer:
    assert FULFIL.then is not None
    wanted = [{"line": str(line), "quantity": quantity} for line, quantity in lines]
    return FULFIL.then(ACCOUNT, ask(lines=wanted, **data), reply(200, {"fulfillment_orders": orders}))


class Shop:
    """Does what Shopify does with the requests for one order: counts what is left, and makes as many parcels as it is told of."""

    def __init__(self, quantities: dict[int, int]) -> None:
        self.left = dict(quantities)
        self.made: list[dict[str, Any]] = []

    def answer(self, request: Request) -> Reply:
        path = urlsplit(request.url).path
        if path.endswith("/fulfillment_orders.json"):
            items = [item(line, quantity) for line, quantity in self.left.items()]
            return reply(200, {"fulfillment_orders": [order(7, *items)]})
        if path.endswith("/orders/59/fulfillments.json"):
            return reply(200, {"fulfillments": self.made})
        body = json.loads(request.body)["fulfillment"]
        for entry in body["line_items_by_fulfillment_order"]:
            for taken in entry["fulfillment_order_line_items"]:
                assert 0 < taken["quantity"] <= self.left[taken["id"] // 10]
                self.left[taken["id"] // 10] -= taken["quantity"]
        self.made.append({"id": 100 + len(self.made), "status": "success", "tracking_numbers": [body["tracking_info"]["number"]]})
        return reply(201, {"fulfillment": self.made[-1]})

    def told(self, what: Ask, lost: bool = False) -> Answer:
        """One attempt; the answer to the request that acts may get lost."""
        assert FULFIL.then is not None
        request = FULFIL.then(ACCOUNT, what, self.answer(FULFIL.render(ACCOUNT, what)))
        if not isinstance(request, Request):
            return request
        answer = self.answer(request)
        return Unknown(Reason.DROPPED) if lost else FULFIL.read(ACCOUNT, what, answer)

    def found(self, what: Ask) -> Answer:
        assert FULFIL.look is not None and FULFIL.found is not None
        return FULFIL.found(ACCOUNT, what, self.answer(FULFIL.look(ACCOUNT, what)))


# --- a parcel
def test_a_parcel_is_told_with_its_lines_its_number_and_its_carrier_and_the_customer_hears_nothing_of_the_shop() -> None:
    asked = FULFIL.render(ACCOUNT, ask())
    assert (asked.method, asked.url, asked.body) == ("GET", f"{BASE}/orders/59/fulfillment_orders.json", b"")
    assert told(then([order(7, item(1, 2), item(2))], (1, 1))) == {
        "line_items_by_fulfillment_order": [{"fulfillment_order_id": 7, "fulfillment_order_line_items": [{"id": 10, "quantity": 1}]}],
        "notify_customer": False,
        "tracking_info": {"number": "1Z999", "company": "UPS", "url": "https://t.example/1"},
    }


def test_lines_are_taken_from_as_many_fulfillment_orders_of_one_location_as_it_needs() -> None:
    entries = told(then([order(7, item(1, 2)), order(8, item(1, 2), item(2))], (1, 3), (2, 1)))["line_items_by_fulfillment_order"]
    taken = {e["fulfillment_order_id"]: [i["quantity"] for i in e["fulfillment_order_line_items"]] for e in entries}
    assert taken == {7: [2], 8: [1, 1]}


def test_the_location_that_has_all_the_lines_is_the_one() -> None:
    orders = [order(7, item(1), assigned_location_id=1), order(8, item(1), item(2), assigned_location_id=2)]
    entries = told(then(orders, (1, 1), (2, 1)))["line_items_by_fulfillment_order"]
    assert [entry["fulfillment_order_id"] for entry in entries] == [8]


def test_without_lines_it_is_all_that_is_left() -> None:
    entries = told(then([order(7, item(1, 3), item(2, 0))]))["line_items_by_fulfillment_order"]
    assert entries == [{"fulfillment_order_id": 7, "fulfillment_order_line_items": [{"id": 10, "quantity": 3}]}]


@pytest.mark.parametrize(
    ("orders", "answer"),
    [
        ([order(7, item(1), status="on_hold")], TryLater(Reason.CONFIGURATION)),
        ([order(7, item(1), status="scheduled")], TryLater(Reason.CONFIGURATION)),
        ([order(7, item(1), supported_actions=["cancel_fulfillment_order"])], TryLater(Reason.CONFIGURATION)),
        ([order(7, item(1)), order(8, item(2), assigned_location_id=2)], TryLater(Reason.CONFIGURATION)),
        ([order(7, item(1, 0), item(2))], Refused(Reason.GONE)),
        ([order(7, item(1), item(2), status="closed")], Refused(Reason.GONE)),
        ([order(7, item(1), item(2), status="cancelled")], Refused(Reason.GONE)),
        ([], Refused(Reason.GONE)),
    ],
)
def test_what_people_can_still_change_is_asked_again_and_what_is_over_is_not(orders: list[dict[str, Any]], answer: Answer) -> None:
    assert then(orders, (1, 1), *([(2, 1)] if len(orders) == 2 else [])) == answer


@pytest.mark.parametrize("link", ["http://t.example", "javascript:alert(1)", ""])
def test_a_link_that_is_none_is_left_to_the_shop(link: str) -> None:
    assert "url" not in told(then([order(7, item(1))], tracking_link=link, carrier="Postie"))["tracking_info"]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"shop_order": "1/../2"}, "$.shop_order|value"),
        ({"shop_order": 5}, r"\$\.shop_order"),
        ({"tracking": " "}, r"\$\.tracking"),
        ({"lines": [{"line": "1"}]}, r"\$\.lines"),
    ],
)
def test_what_cannot_be_told_names_its_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(Unreadable, match=field):
        FULFIL.render(ACCOUNT, ask(**data))


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 422, 423, 429, 430, 500, 502, 503, 200])
def test_whatever_fails_before_the_parcel_is_told_may_be_tried_again(status: int) -> None:
    assert FULFIL.then is not None
    assert isinstance(FULFIL.then(ACCOUNT, ask(), Reply(status, body=b"<html>")), TryLater)


@pytest.mark.parametrize(
    ("answer", "becomes"),
    [
        (reply(201, {"fulfillment": {"id": 4500, "status": "success"}}), Done("4500")),
        (Reply(201, body=b'{"fulfillment":{"id":4500,"line_it'), Done("")),
        (reply(401, {"errors": "[API] Invalid API key or access token"}), TryLater(Reason.CREDENTIALS)),
        (reply(403, {"errors": "[API] This action requires merchant approval"}), TryLater(Reason.CREDENTIALS)),
        (reply(402), TryLater(Reason.CONFIGURATION)),
        (reply(404, {"errors": "Not Found"}), TryLater(Reason.CONFIGURATION)),
        (reply(423), TryLater(Reason.CONFIGURATION)),
        (reply(301), TryLater(Reason.CONFIGURATION)),
        (reply(429), TryLater(Reason.RATE, 2.0)),
        (msgspec.structs.replace(reply(429), retry_after_s=7.0), TryLater(Reason.RATE, 7.0)),
        (reply(422, {"errors": ["cannot be fulfilled"]}), Refused(Reason.CONTENT)),
        (reply(400), Refused(Reason.CONTENT)),
        (reply(500), Unknown(Reason.GATEWAY)),
        (reply(502), Unknown(Reason.GATEWAY)),
    ],
)
def test_what_becomes_of_the_answer_to_a_parcel(answer: Reply, becomes: Answer) -> None:
    assert FULFIL.read(ACCOUNT, ask(), answer) == becomes


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.booleans()), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_each_parcel_is_told_once_however_often_its_answer_is_lost(parcels: list[tuple[int, int, bool]], most: int) -> None:
    """As the lane does it: a look before every attempt after an unknown one."""
    shop = Shop({1: most, 2: most, 3: most})
    for number, (line, quantity, lost) in enumerate(parcels):
        what = ask(tracking=f"n {number}", lines=[{"line": str(line), "quantity": quantity}])
        answer = shop.told(what, lost)
        while isinstance(answer, Unknown):
            answer = shop.found(what)
            if answer == TryLater(Reason.NOT_FOUND):
                answer = shop.told(what)
        assert isinstance(answer, Done) or answer == Refused(Reason.GONE)
    numbers = [made["tracking_numbers"][0] for made in shop.made]
    assert len(numbers) == len(set(numbers))
    assert sum(shop.left.values()) == 3 * most - sum(parcels[int(number[1:])][1] for number in numbers)


@pytest.mark.parametrize(
    ("known", "answer"),
    [
        ({"status": "success", "tracking_numbers": ["1z999"]}, Done("5")),
        ({"status": "success", "tracking_number": "1Z 999"}, Done("5")),
        ({"status": "cancelled", "tracking_numbers": ["1Z999"]}, Done("5")),  # whoever cancelled it does not want it back
        ({"status": "failure", "tracking_numbers": ["1Z999"]}, TryLater(Reason.NOT_FOUND)),
        ({"status": "success", "tracking_numbers": ["other"]}, TryLater(Reason.NOT_FOUND)),
        ({"status": "success"}, TryLater(Reason.NOT_FOUND)),
    ],
)
def test_a_parcel_is_known_by_its_number(known: dict[str, Any], answer: Answer) -> None:
    assert FULFIL.look is not None and FULFIL.found is not None
    assert parse_qs(urlsplit(FULFIL.look(ACCOUNT, ask()).url).query)["limit"] == ["250"]
    assert FULFIL.found(ACCOUNT, ask(), reply(200, {"fulfillments": [{"id": 5, **known}]})) == answer


def test_a_look_that_proves_nothing_says_so() -> None:
    assert FULFIL.found is not None
    for answer in (reply(500), reply(429), Reply(200, body=b"{")):
        assert FULFIL.found(ACCOUNT, ask(), answer) == Unknown(Reason.PROVIDER)
    more = {"link": f'<{BASE}/orders/59/fulfillments.json?limit=250&page_info=x>; rel="next"'}
    assert FULFIL.found(ACCOUNT, ask(), reply(200, {"fulfillments": []}, **more)) == Unknown(Reason.NOT_FOUND)


# --- tags
def test_a_tag_is_added_to_those_that_are_there() -> None:
    request = TAG.render(ACCOUNT, ask("shop.tag", tags=["orderflow:shipped", "two words"]))
    assert (request.method, request.url) == ("POST", f"{BASE}/graphql.json")
    body = json.loads(request.body)
    assert body["variables"] == {"id": "gid://shopify/Order/59", "tags": ["orderflow:shipped", "two words"]}
    assert "tagsAdd(" in body["query"], "tags are added, and none is replaced"
    assert (TAG.ability.kind, TAG.ability.life_s >= 30 * 86_400) == ("keyed", True)


@pytest.mark.parametrize("tags", [[], [""], ["a,b"], ["x" * 41], "orderflow:shipped", None])
def test_a_tag_that_is_none_names_its_field(tags: Any) -> None:
    with pytest.raises(Unreadable, match=r"\$\.tags"):
        TAG.render(ACCOUNT, ask("shop.tag", tags=tags))


def graph(added: Any = None, *codes: str, cost: Any = None) -> Reply:
    errors = [{"message": "m", "extensions": {"code": code}} for code in codes]
    body = {"data": None if added is None else {"tagsAdd": added}, **({"errors": errors} if errors else {})}
    return reply(200, {**body, **({"extensions": {"cost": cost}} if cost else {})})


NODE = {"node": {"id": "gid://shopify/Order/59"}, "userErrors": []}
COST = {"requestedQueryCost": 110, "throttleStatus": {"maximumAvailable": 2000.0, "currentlyAvailable": 10, "restoreRate": 20.0}}


@pytest.mark.parametrize(
    ("answer", "becomes"),
    [
        (graph(NODE), Done("59")),
        (graph(NODE, "ACCESS_DENIED"), Done("59")),  # a part of the answer was denied, not the tag
        (graph({"node": None, "userErrors": [{"field": ["id"], "message": "no such order"}]}), Refused(Reason.GONE)),
        (graph({"node": None, "userErrors": [{"field": ["tags"], "message": "too long"}]}), Refused(Reason.CONTENT)),
        (graph({"node": None, "userErrors": [{"field": None, "message": "?"}]}), Refused(Reason.CONTENT)),
        (graph(None, "THROTTLED", cost=COST), TryLater(Reason.RATE, 5.0)),
        (graph(None, "THROTTLED"), TryLater(Reason.RATE, 1.0)),
        (graph(None, "ACCESS_DENIED"), TryLater(Reason.CREDENTIALS)),
        (graph(None, "SHOP_INACTIVE"), TryLater(Reason.CONFIGURATION)),
        (graph(None, "undefinedField"), TryLater(Reason.CONFIGURATION)),
        (graph(None, "INTERNAL_SERVER_ERROR"), Unknown(Reason.GATEWAY)),
        (graph(), Unknown(Reason.GATEWAY)),
        (Reply(200, body=b"<html>"), Unknown(Reason.GATEWAY)),
        (reply(401), TryLater(Reason.CREDENTIALS)),
        (reply(429), TryLater(Reason.RATE, 2.0)),
        (reply(503), Unknown(Reason.GATEWAY)),
    ],
)
def test_what_becomes_of_the_answer_to_a_tag(answer: Reply, becomes: Answer) -> None:
    assert TAG.read(ACCOUNT, ask("shop.tag", tags=["t"]), answer) == becomes


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"data":1}', b'{"errors":"x"}', b'{"errors":[{"extensions":null}]}', b"\xff"])
def test_no_answer_makes_it_fail_in_another_way_than_in_words(body: bytes) -> None:
    for status in (200, 201, 404, 500):
        assert FULFIL.then is not None and FULFIL.found is not None
        for action in (FULFIL.then, FULFIL.read, FULFIL.found):
            assert isinstance(action(ACCOUNT, ask(), Reply(status, body=body)), (Done, TryLater, Refused, Unknown))
        assert isinstance(TAG.read(ACCOUNT, ask("shop.tag", tags=["t"]), Reply(status, body=body)), (TryLater, Refused, Unknown))


# --- credentials
def test_a_token_travels_in_its_header_and_shows_itself_nowhere_else() -> None:
    assert VENDOR.login is not None and VENDOR.login.render is not None
    assert VENDOR.login.headers(ACCOUNT, "") == (("X-Shopify-Access-Token", "shpat_not_a_real_one"),)
    assert VENDOR.login.render(ACCOUNT) is None
    requests = [FULFIL.render(ACCOUNT, ask()), TAG.render(ACCOUNT, ask("shop.tag", tags=["t"]))]
    requests += [question.render(ACCOUNT, "59", "") for question in VENDOR.questions.values()]
    assert not [request for request in requests if "shpat" in f"{request.url}{request.headers}{request.body!r}"]


def test_an_app_of_the_dev_dashboard_gets_a_token_for_its_id_and_secret() -> None:
    app = msgspec.structs.replace(ACCOUNT, credentials={"client_id": Secret("i"), "client_secret": Secret("s&s")})
    login = VENDOR.login
    assert login is not None and login.render is not None and login.token is not None
    request = login.render(app)
    assert request is not None and (request.method, request.url) == ("POST", "https://lumi.example/admin/oauth/access_token")
    wanted = {"grant_type": ["client_credentials"], "client_id": ["i"], "client_secret": ["s&s"]}
    assert parse_qs(request.body.decode()) == wanted
    assert login.token(reply(200, {"access_token": "t", "scope": "read_orders", "expires_in": 86399})) == ("t", 86399.0)
    assert login.headers(app, "t") == (("X-Shopify-Access-Token", "t"),)
    with pytest.raises(Unreadable, match="access_token"):
        login.token(reply(200, {"error": "invalid_client"}))


# --- what is asked, page by page
def test_orders_are_asked_since_a_time_and_then_by_the_cursor_alone() -> None:
    question = VENDOR.questions["orders_since"]
    first = urlsplit(question.render(ACCOUNT, str(AT), "").url)
    assert first.path == "/admin/api/2026-07/orders.json"
    asked = {"limit": ["50"], "updated_at_min": ["2026-11-23T20:00:00+00:00"], "order": ["updated_at asc"], "status": ["any"]}
    assert parse_qs(first.query) == asked
    link = f'<{BASE}/orders.json?page_info=p%3D1&limit=50>; rel="previous", <{BASE}/orders.json?limit=50&page_info=a%2Bb>; rel="next"'
    cursor = question.next(Reply(200, {"link": link}))
    assert cursor == "a+b"
    assert parse_qs(urlsplit(question.render(ACCOUNT, str(AT), cursor).url).query) == {"limit": ["50"], "page_info": ["a+b"]}


@pytest.mark.parametrize("link", ["", "x", f'<{BASE}/orders.json?page_info=p>; rel="previous"', f'<{BASE}/orders.json>; rel="next"'])
def test_the_last_page_has_no_next(link: str) -> None:
    assert VENDOR.questions["orders_since"].next(Reply(200, {"link": link} if link else {})) == ""


@pytest.mark.parametrize("name", VENDOR.questions)
def test_every_question_has_an_answer_that_is_read_and_refuses_what_is_no_value(name: str) -> None:
    question = VENDOR.questions[name]
    assert question.answer in VENDOR.answers
    for value in ("", "1/2", "x", "-1", "9" * 21, "١"):
        with pytest.raises(Unreadable):
            question.render(ACCOUNT, value, "")
    older = msgspec.structs.replace(ACCOUNT, options={"version": "2026-04"})
    assert "/admin/api/2026-04/" in question.render(older, str(AT), "").url


# --- where we tell the shop of its parcels
def test_then_what_comes_back_is_no_second_parcel() -> None:
    spoken = set()
    for name in NAMES:
        try:
            spoken |= {type(record).__name__ for record in read(name, TELLING)}
        except (Ignored, Unreadable):
            continue
    assert not {"ParcelPacked", "ParcelScanned", "FactRetracted"} & spoken
    assert {"OrderPlaced", "OrderPaid", "PaymentCaptured", "ReturnReceived", "ReferenceLinked", "HoldPlaced"} <= spoken


def test_then_a_fulfillment_only_says_whose_its_numbers_are() -> None:
    for name in ("fulfillments.create", "fulfillments.update.out"):
        assert [type(record) for record in read(name, TELLING)] == [ReferenceLinked]
    assert not [record for record in read("fulfillments.update.cancelled_late", TELLING) if isinstance(record, Fact)]
    for name in ("fulfillments.update.cancelled", "fulfillment_events.out", "fulfillments.create.pending"):
        with contextlib.suppress(Ignored):
            assert {type(record) for record in read(name, TELLING)} == {ReferenceLinked}
    with pytest.raises(Ignored, match="told of this parcel by us"):
        read("fulfillment_events.out", TELLING)
    assert [r for r in read("orders.partially_fulfilled", TELLING) if isinstance(r, ReferenceLinked)]


# --- what Shopify has published
def examples(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(published("shopify", "samples", "admin-rest-2026-07", f"{name}.json"))
    return found


def test_our_requests_are_those_of_the_published_examples() -> None:
    calls = {
        (call["method"], call["path"]) for name in ("order", "fulfillment", "fulfillment_order", "transaction") for call in examples(name)
    }
    what = ask(shop_order="450789469")
    assert FULFIL.look is not None
    ours = [FULFIL.render(ACCOUNT, what), FULFIL.look(ACCOUNT, what)]
    ours += [VENDOR.questions[name].render(ACCOUNT, "450789469", "") for name in ("order", "transactions", "fulfillments")]
    ours += [VENDOR.questions["orders_since"].render(ACCOUNT, str(AT), "")]
    assert {(request.method, urlsplit(request.url).path) for request in ours} <= calls


def test_a_published_fulfillment_order_is_fulfilled_with_fields_of_the_published_request() -> None:
    (answer, *_) = [call["response"] for call in examples("fulfillment_order") if "fulfillment_orders" in call["response"]]
    assert FULFIL.then is not None
    what = ask(lines=[{"line": "518995019", "quantity": 1}])
    assert FULFIL.then(ACCOUNT, what, reply(200, answer)) == TryLater(Reason.CONFIGURATION), "a fulfillment service has it"
    answer["fulfillment_orders"][0]["supported_actions"] = ["create_fulfillment"]
    body = told(FULFIL.then(ACCOUNT, what, reply(200, answer)))
    published_fields: set[str] = set()
    for call in examples("fulfillment"):
        if call["path"].endswith("/2026-07/fulfillments.json"):
            published_fields |= call["request"]["fulfillment"].keys()
            assert {"number", "url"} <= body["tracking_info"].keys() & call["request"]["fulfillment"]["tracking_info"].keys()
            assert FULFIL.read(ACCOUNT, what, reply(201, call["response"])) == Done(str(call["response"]["fulfillment"]["id"]))
    assert body.keys() <= published_fields


def test_a_published_list_is_looked_through() -> None:
    assert FULFIL.found is not None
    (first, second) = [call["response"] for call in examples("fulfillment") if "fulfillments" in call["response"]]
    assert FULFIL.found(ACCOUNT, ask(tracking="1Z1234512345123456"), reply(200, first)) == TryLater(Reason.NOT_FOUND), "that one failed"
    number = second["fulfillments"][0]["tracking_number"]
    assert FULFIL.found(ACCOUNT, ask(tracking=number), reply(200, second)) == Done(str(second["fulfillments"][0]["id"]))


def test_the_answers_to_our_questions_are_read() -> None:
    """The samples of `test_shopify` under the questions' names."""
    answered = {sample(name)[0] for name in NAMES}
    assert {ANSWER + question.answer for question in VENDOR.questions.values()} <= answered
