"""A clerk's morning in a real browser: print the list, pick and pack what is at its top; axe and a phone have no complaint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from orders.view import view
from tests.orders.lives import hold
from tests.web.conftest import Site
from tests.web.fake_floor import CABLE, HOUR, ready
from tests.web.fake_reader import NOW
from tests.web.test_browser import CHROMIUM, FLAGS, axe, playwright

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: pages are not looked at")]
PAGES = {
    "light": (
        "/warehouse",
        "/warehouse?location=main&stage=stopped",
        "/warehouse/orders/lumi:3",  # to be packed, packed and not found
        "/warehouse/pick-list",
        "/warehouse/label/lumi:3/P1",
        "/stock",
    ),
    "dark": ("/warehouse", "/warehouse?location=main&stage=stopped"),
}


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as p:
        made = await p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        await made.close()


@pytest.fixture
async def busy(site: Site) -> Site:
    """Something in every stage."""
    for n in range(1, 6):
        site.floor.take(*ready(n, at=NOW - (9 - n) * HOUR, service="express" if n == 1 else "standard"))
    site.floor.take(*ready(9, CABLE, location="north"))
    site.floor.level("A-VERY-LONG-SKU-THAT-SOMEBODY-THOUGHT-OF-BRASS", 0)
    site.floor.level("LAMP-1", 7)

    async def tell(n: int, act: str, **body: Any) -> None:
        answer = await site.client.post(f"/v1/warehouse/lumi:{n}:{act}", json=body)
        assert answer.status_code == 200, answer.text

    await tell(3, "picked", short=[{"line": "1", "quantity": 1}])
    await tell(3, "packed", parcel="P1", lines=[{"line": "1", "quantity": 1}])
    await tell(4, "picked")
    site.floor.take(msgspec.structs.replace(hold(at=NOW), order="lumi:4"))
    return site


async def test_a_clerk_prints_picks_and_packs_the_top_of_the_list(busy: Site, browser: Any) -> None:
    page = await browser.new_page(base_url=f"http://127.0.0.1:{busy.port}")
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto("/warehouse")
    await page.click("text=Pick list to print")
    await page.evaluate("window.print = () => { document.title = 'printed'; }")
    await page.click("text=Print")
    assert await page.title() == "printed"
    await page.emulate_media(media="print")
    assert not await page.is_visible("header") and not await page.is_visible("text=Back")
    assert await page.locator("svg.code:visible").count() == 3
    assert len(await page.pdf(prefer_css_page_size=True)) > 5_000
    await page.emulate_media(media="screen")

    await page.click("text=Back")
    top = page.locator("article >> nth=0")
    assert "#1" in await top.inner_text() and "Express" in await top.inner_text()
    await top.locator("button", has_text="Picked").first.click()
    await page.locator("article >> nth=0 >> text=#2").wait_for()
    await page.click("nav[aria-label=Stages] >> text=To pack")
    top = page.locator("article >> nth=0")
    await top.locator("summary").click()
    await top.locator("input[name='inside:2']").fill("0")
    await top.locator("details button").click()
    await page.locator("article >> nth=0 >> text=Packed as P2").first.wait_for()
    await page.locator("article >> nth=0").locator("button", has_text="Packed as P2").first.click()
    await page.locator("article[aria-label^='Order 1,']").wait_for(state="detached")
    parcels = {p.id: {q.line: q.quantity for q in p.lines} for p in view(busy.floor.orders["lumi:1"]).parcels.values()}
    assert parcels == {"P1": {"1": 2}, "P2": {"2": 1}}
    assert complaints == []


@pytest.mark.parametrize("scheme", PAGES)
async def test_axe_finds_nothing_and_a_phone_has_room(busy: Site, browser: Any, scheme: str) -> None:
    context = await browser.new_context(
        base_url=f"http://127.0.0.1:{busy.port}", color_scheme=scheme, bypass_csp=True, viewport={"width": 360, "height": 740}
    )
    page = await context.new_page()
    for path in PAGES[scheme]:
        answer = await page.goto(path)
        assert answer.status == 200, path
        for summary in await page.locator("summary").all():
            await summary.click()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        found = await axe.Axe().run(page)
        assert found.response["violations"] == [], path
