"""The pages in a real browser: they move, keep the focus, fit a phone, and axe finds nothing to complain about."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orders.fact import decode_fact, encode_fact
from orders.merge import absorb
from orders.state import Order
from tests.web.conftest import Site, link
from tests.web.facts import body, placed
from tests.web.fake_desk import PAYMENT
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
    "/reviews",
    "/finance",
    f"/track/{link('lumi:1004')}",
    "/track/nobody",
)
DESK = ("/parked", "/parked/schema~facts~3~1207", "/sending", "/sending/sms")


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
    for path in (*PAGES, *DESK):
        await page.goto(path)
        found = await axe.Axe().run(page)
        assert found.response["violations"] == [], path


async def test_pages_fit_a_phone(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}", viewport={"width": 360, "height": 740})
    for path in (*PAGES, *DESK):
        await page.goto(path)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


async def test_an_operator_repairs_a_record_and_replays_it(site: Site, browser: Any) -> None:
    site.reader.lying = site.store.listed
    context = await browser.new_context(base_url=f"http://127.0.0.1:{site.port}", bypass_csp=True)
    page = await context.new_page()
    await page.goto("/")
    await page.get_by_role("link", name="Parked 3").first.click()
    await page.get_by_role("link", name="A field is missing or has the wrong type").click()
    await page.get_by_role("button", name="Show the content").click()
    await page.get_by_role("button", name="Check").click()
    assert "would be parked again" in await page.inner_text("[role=alert]")
    found = await axe.Axe().run(page)
    assert found.response["violations"] == []
    await page.get_by_label("change what is wrong").fill(encode_fact(PAYMENT).decode())
    await page.get_by_role("button", name="Check").click()
    assert "It can be read now" in await page.inner_text("[role=status].notice")
    await page.get_by_label("Reason").fill("a comma")
    await page.get_by_role("button", name="Replay").click()
    assert "Replayed" in await page.inner_text("[role=status].notice")
    assert await page.get_by_role("link", name="A field is missing or has the wrong type").count() == 0
    assert [decode_fact(value) for _, _, value in site.log.told if b"PaymentCaptured" in value] == [PAYMENT]


async def test_a_channel_goes_live_by_page_and_everything_is_stopped(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}")
    await page.goto("/sending")
    await page.get_by_role("link", name="SMS").click()
    await page.get_by_role("radio", name="Live").check()
    await page.get_by_role("button", name="Change").click()
    assert "write sms to confirm" in await page.inner_text("[role=alert]")
    assert await page.get_by_role("radio", name="Live").is_checked(), "what was chosen stays chosen"
    await page.get_by_label("To go live, write").fill("sms")
    await page.get_by_role("button", name="Change").click()
    assert "Changed" in await page.inner_text("[role=status].notice")
    assert (await site.client.get("/v1/modes")).json()["channels"]["sms"] == "live"
    await page.get_by_label("Reason for the stop").fill("wrong prices")
    await page.get_by_role("button", name="Stop everything").click()
    assert "wrong prices" in await page.inner_text(".stop .said")
    await page.goto("/")
    await page.locator(".alarms", has_text="All sending is stopped: wrong prices").wait_for()  # with the next look at the store
    await page.goto("/sending")
    await page.get_by_role("button", name="Start again").click()
    assert (await site.client.get("/v1/modes")).json()["stop"] == ""


async def test_a_reviewer_clears_a_held_order_by_keyboard_alone(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto("/reviews")
    press = page.keyboard.press
    await press("j")
    await page.wait_for_url("**at=lumi%3A1001")
    await press("c")
    await page.locator("#claim", has_text="yours until").wait_for()
    assert site.claims.by["lumi:1001"][0] == "local"
    await press("?")
    assert await page.locator("#keys dl").is_visible()
    await press("a")
    assert await page.evaluate("document.activeElement.id") == "reason"
    await page.keyboard.type("jacks? known customer")  # no key of the page's own while one types
    await press("Enter")
    await page.wait_for_url("**at=lumi%3A1002")
    fact: Any = decode_fact(site.log.told[-1][2])
    assert (fact.order, fact.approve, fact.by, fact.reason) == ("lumi:1001", True, "local", "jacks? known customer")
    assert await page.locator("#queue [data-id='lumi:1001']").count() == 0
    assert complaints == []


async def test_ticked_orders_are_declined_together_and_stay_ticked_while_the_list_moves(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}")
    site.claims.by["lumi:1003"] = ("kim", 60_000)
    await page.goto("/reviews")
    press = page.keyboard.press
    await press("x")
    await page.check("[name='also.lumi:1002']")
    await page.check("[name='also.lumi:1003']")
    site.reader.waiting["review"].pop(1)
    await page.locator("#queue [data-id='lumi:1001']").wait_for(state="detached")
    assert await page.inner_text("#ticked") == "3 ticked"
    assert await page.evaluate("document.activeElement.name") == "also.lumi:1003"
    await press("d")
    await page.keyboard.type("stolen card")
    await press("Enter")
    await page.locator(".results").wait_for()
    declined = [decode_fact(value) for _, _, value in site.log.told]
    assert [(fact.order, fact.approve) for fact in declined] == [("lumi:1000", False), ("lumi:1002", False)]  # type: ignore[union-attr]
    assert "kim has this order" in await page.inner_text(".results")


async def test_the_clock_of_a_review_runs_on_the_servers_time(site: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{site.port}")
    await page.clock.install(time=1_000_000_000)  # a browser whose clock is years behind
    await page.goto("/reviews")
    assert await page.locator("#queue .sla").all_inner_texts() == ["48 min late", "1 min left", "51 min left", "1 h 41 min left"]
    await page.clock.run_for(52 * 60_000)
    assert (await page.locator("#queue .sla").all_inner_texts())[2:] == ["0 min late", "49 min left"]
    assert await page.locator("#queue .sla.late").count() == 3


class TestWherePeopleSignIn:
    """The orders are what the log says of them."""

    @pytest.fixture
    def people(self) -> People:
        return everybody()

    async def test_an_operator_cancels_an_order_and_finds_it_in_timeline_and_audit(self, site: Site, browser: Any) -> None:
        async def order(order_id: str) -> OrderDetail:
            merged = Order(order_id)
            for value in (body(placed()), *(value for topic, _, value in site.log.told if topic == "facts")):
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
