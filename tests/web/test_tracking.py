"""What a customer sees: one order, for whoever holds the signed link, and nobody else's."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.plan import signed, unsigned
from orders.policy import Policy
from orders.status import Status
from tests.web.conftest import POLICY, Site, link
from web.reader import OrderDetail
from web.tracking import SAID, tracked

HOUR = 3_600_000


async def detail(site: Site) -> OrderDetail:
    found = await site.reader.order("lumi:1004")
    assert found is not None
    return found


async def test_the_page_says_where_the_order_is_and_nothing_about_the_person(site: Site) -> None:
    answer = await site.client.get(f"/track/{link('lumi:1004')}")
    assert answer.status_code == 200
    order = await detail(site)
    assert "Order #1004" in answer.text and "Your order comes today" in answer.text
    for item in order.lines:
        assert item.title in answer.text
    person = order.person
    assert person is not None
    private = [person.name, person.email, person.phone, *person.address.lines, person.address.postcode, str(order.total)]
    assert not [text for text in private if text and text in answer.text], "links are forwarded"
    assert answer.headers["cache-control"] == "no-store" and "noindex" in answer.headers["x-robots-tag"]
    assert "<script" not in answer.text


@pytest.mark.parametrize("token", ["lumi:1004", "lumi:1004.", "lumi:1004.0123456789abcdef", "x", "lumi:1004.%00", "%F0%9F%98%80.1"])
async def test_a_wrong_link_is_404_without_a_hint(site: Site, token: str) -> None:
    unknown = await site.client.get(f"/track/{link('lumi:no-such-order')}")
    for page in ("track", "t"):
        answer = await site.client.get(f"/{page}/{token}")
        assert answer.status_code == 404
        if answer.headers["content-type"].startswith("text/html"):
            assert answer.text == unknown.text, "whether the order exists is not to be learnt"


async def test_the_short_link_leads_to_the_page(site: Site) -> None:
    answer = await site.client.get(f"/t/{link('lumi:1004')}")
    assert (answer.status_code, answer.headers["location"]) == (302, f"/track/{link('lumi:1004')}")


async def test_customers_come_by_our_public_name_and_staff_pages_do_not_open_there(site: Site) -> None:
    public = {"host": "shop.example"}
    assert (await site.client.get(f"/track/{link('lumi:1004')}", headers=public)).status_code == 200
    assert (await site.client.get("/brand.css", headers=public)).text == ":root { --brand: #0a7d5a; }\n"
    for path in ("/", "/orders/lumi:1004", "/v1/orders/lumi:1004"):
        assert (await site.client.get(path, headers=public)).status_code == 421
    assert (await site.client.post(f"/track/{link('lumi:1004')}", headers=public)).status_code in (405, 421)


@pytest.mark.parametrize(
    "path",
    [
        "/track/../v1/orders",
        "/track/..%2fv1/orders",
        "/t/../",
        "/v1/ingest/../orders",
        "/track//../v1/orders",
        "//v1/orders",
        "/brand.css/../v1/orders",
    ],
)
async def test_what_is_open_to_customers_is_no_way_around_the_door(site: Site, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    assert answer.split(" ")[1] in ("404", "405", "421"), answer[:200]
    assert "lumi:10" not in answer


async def test_every_status_that_a_placed_order_can_have_is_said_in_plain_words(site: Site) -> None:
    order = await detail(site)
    assert SAID.keys() == {status.value for status in Status} - {"announced"}
    for status in SAID:
        said = tracked(msgspec.structs.replace(order, status=status), "UTC")
        assert said.headline and "_" not in said.headline + said.said
    held = tracked(msgspec.structs.replace(order, status="on_hold", holds=("the address is incomplete",)), "UTC")
    assert "full address" in held.headline


async def test_times_are_those_of_the_customers_zone(site: Site) -> None:
    order = await detail(site)
    assert order.person is not None

    def placed(zone: str, shop: str = "UTC") -> str:
        person = msgspec.structs.replace(order.person, zone=zone)
        return tracked(msgspec.structs.replace(order, person=person, reached={"order_placed": 1_795_464_000_000}), shop).steps[0].at

    assert [placed("UTC"), placed("Asia/Tokyo"), placed("", "America/New_York"), placed("Mars/Base", "../../etc/passwd")] == [
        "23 November, 20:00",
        "24 November, 05:00",
        "23 November, 15:00",
        "23 November, 20:00",
    ]


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_link_opens_its_own_order_only(one: str, other: str) -> None:
    token = signed(one, "track", POLICY)
    assert unsigned(token, "track", POLICY) == one
    assert unsigned(token, "feedback", POLICY) is None
    assert unsigned(token, "track", Policy(link_key="another key")) is None
    if one != other:
        assert unsigned(other + token[len(one) :], "track", POLICY) is None
    for place in range(len(token)):
        assert unsigned(token[:place] + ("x" if token[place] != "x" else "y") + token[place + 1 :], "track", POLICY) is None
