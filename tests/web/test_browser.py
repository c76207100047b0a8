"""The pages in a real browser: they move, keep the focus, fit a phone, and axe finds nothing to complain about."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orders.fact import decode_fact
from orders.merge import absorb
from orders.state import Order
from tests.web.conftest import Site, link
from tests.web.facts import body, placed
from tests.web.staff import PASSWORD, everybody
from web.explain import detail
from web.identity import People
from web.reader import OrderDetail

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed: pages are not looked at")
axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe is not installed: pages are not looked at")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: pages are not looked at")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PAGES = (
    "/",
    "/?status=shipped",
    "/orders",
    "/orders?q=pi_shared",
    "/orders/lumi:1004",
    "/orders/nobody",
    "/messages",
    "/audit",
    f"/track/{link('lumi:1004')}",
    "/track/nobody",
)


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as p:
        made = await p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        await made.close()


async def test_the_overview_moves_by_itself_and_whoever_reads_it_keeps_the_focus(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto("/")
    await page.locator("#link", has_text="Live").wait_for()
    await page.focus("#orders a")
    moved = site.reader.rows.pop()
    site.reader.rows.insert(0, moved)
    await page.locator(f"#orders tbody tr:first-child[data-id='{moved.id}']").wait_for()
    assert await page.evaluate("document.activeElement.getAttribute('href')") == "/orders/lumi%3A1000"
    assert complaints == []  # the content security policy would complain here


async def test_times_are_shown_in_the_readers_own_zone(site: Site, browser: Any) -> None:
    context = await browser.new_context(base_url=f"http://127.0.0.1:{site.port}", timezone_id="Asia/Tokyo", locale="en-GB")
    page = await context.new_page()
    await page.goto("/orders/lumi:1004")
    shown = await page.inner_text(".line time >> nth=0")
    assert "20:05:00" in shown  # 11:05 UTC


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(site: Site, browser: Any, scheme: str) -> None:
    context = await browser.new_context(base_url=f"http://127.0.0.1:{site.port}", color_scheme=scheme, bypass_csp=True)
    page = await context.new_page()
    for path in PAGES:
        await page.goto(path)
        found = await axe.Axe().run(page)
        assert found.response["violations"] == [], path


async def test_pages_fit_a_phone(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}", viewport={"width": 360, "height": 740})
    for path in PAGES:
        await page.goto(path)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


class TestWherePeopleSignIn:
    """The orders are what the log says of them."""

    @pytest.fixture
    def people(self) -> People:
        return everybody()

    async def test_an_operator_cancels_an_order_and_finds_it_in_timeline_and_audit(self, site: Site, browser: Any) -> None:
        async def order(order_id: str) -> OrderDetail:
            merged = Order(order_id)
            for value in (body(placed()), *(value for topic, _, value in site.log.records if topic == "facts")):
                absorb(merged, decode_fact(value))
            return detail(merged)

        site.reader.order = order  # type: ignore[method-assign, assignment]
        context = await browser.new_context(base_url=f"http://127.0.0.1:{site.port}", bypass_csp=True)
        page = await context.new_page()
        await page.goto("/orders/lumi:1001")
        await page.get_by_label("Name").fill("operator")
        await page.get_by_label("Password").fill(PASSWORD)
        assert (await axe.Axe().run(page)).response["violations"] == []
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_text("Cancel", exact=True).click()
        await page.locator("#cancel").get_by_label("Reason").fill("she ordered twice")
        assert (await axe.Axe().run(page)).response["violations"] == []
        await page.set_viewport_size({"width": 360, "height": 740})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("button", name="Cancel the order").click()
        await page.get_by_role("status").filter(has_text="The cancellation is on its way").wait_for()
        told = page.locator(".line li", has_text="Cancellation asked for")
        await told.filter(has_text="she ordered twice").filter(has_text="by operator").first.wait_for()
        await page.get_by_role("link", name="Audit").click()
        line = await page.locator("tr", has_text="order.cancel").inner_text()
        assert all(word in line for word in ("operator", "lumi:1001", "she ordered twice", "cancellation asked for"))
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Password").wait_for()
        await page.goto("/audit")
        assert page.url.endswith("/sign-in?next=%2Faudit")
