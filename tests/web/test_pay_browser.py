"""The retry-payment page in a real browser: the button leads to the gateway, it fits a phone, and axe finds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.web.test_browser import axe, browser, pytestmark
from tests.web.till import PAGE, Shop, link, open_shop

__all__ = ["browser", "pytestmark"]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as opened:
        opened.unpaid()
        yield opened


async def test_the_button_leads_to_the_gateway_without_a_script(shop: Shop, browser: Any) -> None:
    context = await browser.new_context(base_url=f"http://127.0.0.1:{shop.port}", java_script_enabled=False)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    await page.goto(f"/pay/{link()}")
    async with page.expect_request(PAGE, timeout=5000):  # the content security policy would stop it here
        await page.get_by_role("button", name="Pay").click(no_wait_after=True)
    assert [order.number for order in shop.cashier.asked] == ["1004"]
    assert not [text for text in complaints if "Content Security Policy" in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_and_it_fits_a_phone(shop: Shop, browser: Any, scheme: str) -> None:
    size = {"width": 320, "height": 640}
    context = await browser.new_context(base_url=f"http://127.0.0.1:{shop.port}", color_scheme=scheme, bypass_csp=True, viewport=size)
    page = await context.new_page()
    for has_checkout in (True, False):
        shop.has_checkout = has_checkout
        await page.goto(f"/pay/{link()}")
        found = await axe.Axe().run(page)
        assert found.response["violations"] == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if has_checkout:
            assert (await page.get_by_role("button").bounding_box())["height"] >= 48
