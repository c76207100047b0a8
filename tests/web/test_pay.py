"""Where a customer pays after a payment failed: for whoever holds the signed link, as long as something is due."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from orders.plan import signed
from orders.policy import DAY
from orders.status import Status
from tests.web.conftest import POLICY
from tests.web.fake_reader import NOW, detail
from tests.web.till import ORDER, PAGE, Shop, link, open_shop
from web.pay import OFF, PAID, owed
from web.reader import Decision, OrderDetail
from web.tracking import SAID

PUBLIC = {"host": "shop.example"}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as opened:
        yield opened


def declined() -> Decision:
    decision = detail().decision
    assert decision is not None
    return msgspec.structs.replace(decision, decision="decline")


async def test_what_is_due_is_paid_at_the_gateway(shop: Shop) -> None:
    shop.unpaid(total=12990)
    page = await shop.client.get(f"/pay/{link()}", headers=PUBLIC)
    assert page.status_code == 200
    assert "Order #1004" in page.text and "did not go through" in page.text and "Pay 129.90\u00a0EUR" in page.text
    assert not shop.cashier.asked, "looking asks the gateway for nothing"
    pressed = await shop.client.post(f"/pay/{link()}", headers=PUBLIC)
    assert (pressed.status_code, pressed.headers["location"]) == (303, PAGE)
    assert [order.id for order in shop.cashier.asked] == [ORDER]
    assert not shop.log.records, "the gateway reports what was paid"


async def test_a_part_that_was_paid_is_not_due_again(shop: Shop) -> None:
    shop.unpaid(total=12990)
    shop.change(captured=2990)
    assert "Pay 100.00\u00a0EUR" in (await shop.client.get(f"/pay/{link()}")).text


async def test_once_paid_the_link_only_says_so(shop: Shop) -> None:
    shop.unpaid()
    assert (await shop.client.post(f"/pay/{link()}")).status_code == 303
    shop.change(status="payment_confirmed", captured=12990, reached={"order_placed": 1, "payment_confirmed": 2})
    for page in (await shop.client.get(f"/pay/{link()}"), await shop.client.post(f"/pay/{link()}")):
        assert page.status_code == 200 and "Already paid" in page.text and "<form" not in page.text
        assert f"/track/{signed(ORDER, 'track', POLICY)}" in page.text
    assert (await shop.client.get(f"/track/{signed(ORDER, 'track', POLICY)}")).status_code == 200
    assert len(shop.cashier.asked) == 1


async def test_where_nothing_is_to_be_paid_here_it_says_why_and_takes_nothing(shop: Shop) -> None:
    told: list[tuple[dict[str, Any], str]] = [
        ({"status": "cancelled"}, "Your order is cancelled"),
        ({"status": "refunded"}, "We have paid you back"),
        ({"status": "on_hold", "decision": declined()}, "We are checking your order"),
        ({"placed_at": NOW - 30 * DAY - 1}, "This link has expired"),
        ({"total": 0}, "Please write to us"),
        ({"currency": ""}, "Please write to us"),
    ]
    for fields, words in told:
        shop.unpaid(**fields)
        for page in (await shop.client.get(f"/pay/{link()}"), await shop.client.post(f"/pay/{link()}")):
            assert page.status_code == 200 and words in page.text and "<form" not in page.text
            assert ("mailto:service@shop.invalid" in page.text) == words.startswith(("This link", "Please"))
    assert not shop.cashier.asked


async def test_a_link_is_good_for_thirty_days(shop: Shop) -> None:
    shop.unpaid(placed_at=NOW)
    shop.clock.move_to(NOW + 30 * DAY)
    assert "<form" in (await shop.client.get(f"/pay/{link()}")).text
    assert owed(shop.reader.details[ORDER], NOW + 30 * DAY + 1, POLICY.pay_link_ms, True).due == ""


async def test_without_a_gateway_that_can_do_it_the_page_says_whom_to_write_to(shop: Shop) -> None:
    shop.unpaid()
    shop.has_checkout = False
    for page in (await shop.client.get(f"/pay/{link()}"), await shop.client.post(f"/pay/{link()}")):
        assert page.status_code == 200 and "mailto:service@shop.invalid?subject=Order%201004" in page.text and "<form" not in page.text


async def test_a_gateway_that_does_not_answer_leaves_the_customer_with_a_button_and_an_address(shop: Shop) -> None:
    shop.unpaid()
    shop.cashier.down = True
    page = await shop.client.post(f"/pay/{link()}")
    assert page.status_code == 503
    assert "That did not work" in page.text and "<form" in page.text and "mailto:" in page.text


async def test_the_page_says_nothing_about_the_person(shop: Shop) -> None:
    shop.unpaid()
    page = await shop.client.get(f"/pay/{link()}")
    person = shop.reader.details[ORDER].person
    assert person is not None
    private = [person.name, person.email, person.phone, *person.address.lines, person.address.postcode, "Lumi lamp"]
    assert not [text for text in private if text in page.text], "links are forwarded"
    assert page.headers["cache-control"] == "no-store" and "noindex" in page.headers["x-robots-tag"]
    assert "<script" not in page.text


async def test_a_wrong_link_is_404_without_a_hint(shop: Shop) -> None:
    shop.unpaid()
    unknown = await shop.client.get(f"/pay/{link('lumi:no-such-order')}")
    for token in (ORDER, f"{ORDER}.", f"{ORDER}.0123456789abcdef", "x", signed(ORDER, "track", POLICY), "lumi:1004.%00"):
        for answer in (await shop.client.get(f"/pay/{token}"), await shop.client.post(f"/pay/{token}")):
            assert answer.status_code == 404
            if answer.headers["content-type"].startswith("text/html"):
                assert answer.text == unknown.text, "whether the order exists is not to be learnt"
    assert not shop.cashier.asked
    assert (await shop.client.get(f"/track/{link()}")).status_code == 404, "and a pay link opens nothing else"


async def test_customers_send_the_form_by_our_public_name_and_whatever_origin_a_browser_says(shop: Shop) -> None:
    shop.unpaid()
    for origin in ("null", "https://shop.example", "https://mail.example"):  # it moves no money: at worst the customer sees the gateway
        assert (await shop.client.post(f"/pay/{link()}", headers={**PUBLIC, "origin": origin})).status_code == 303
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await shop.client.request(method, f"/pay/{link()}", headers=PUBLIC)).status_code in (401, 405, 421)
    assert (await shop.client.get("/v1/orders", headers=PUBLIC)).status_code == 401


async def test_what_is_open_to_customers_is_no_way_around_the_door(shop: Shop) -> None:
    for path in ("/pay/../v1/facts", "/pay/..%2fv1/facts", "/pay//../v1/facts", "/pay/x/../../v1/facts", "/payx", "/pay"):
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        head = [f"POST {path} HTTP/1.1", "Host: shop.example", "Content-Type: application/json", "Content-Length: 2", "Connection: close"]
        writer.write("\r\n".join([*head, "", "{}"]).encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        assert answer.split(" ")[1] in ("401", "404", "405"), answer[:200]
    assert not shop.log.records


async def test_only_this_page_lets_a_form_lead_elsewhere(shop: Shop) -> None:
    shop.unpaid()
    assert "form-action 'self' https:;" in (await shop.client.get(f"/pay/{link()}")).headers["content-security-policy"]
    followed = await shop.client.get(f"/track/{signed(ORDER, 'track', POLICY)}")
    assert "form-action 'self';" in followed.headers["content-security-policy"]


def test_every_status_has_an_answer_and_a_button_stands_only_where_something_is_due() -> None:
    whole = detail()

    def said(status: str, paid: bool) -> Any:
        order: OrderDetail = msgspec.structs.replace(whole, status=status, reached={"payment_confirmed": 1} if paid else {}, captured=0)
        return owed(order, NOW, POLICY.pay_link_ms, True)

    assert SAID.keys() == {status.value for status in Status} - {"announced"}
    for status in SAID:
        assert not said(status, paid=True).due
        assert bool(said(status, paid=False).due) == (status not in OFF)
        assert (said(status, paid=True).headline == PAID[0]) == (status not in OFF)
