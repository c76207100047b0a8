"""What staff see."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator

import msgspec
import pytest

from connectors.store import StoreDown
from tests.web.conftest import Site
from tests.web.fake_reader import row
from web.pages import HERE


async def events(site: Site, url: str) -> AsyncIterator[tuple[str, str]]:
    """(event, data) of a stream of server-sent events."""
    async with site.client.stream("GET", url) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name, data = "", []
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data.append(line[6:])
            elif not line and name:
                yield name, "\n".join(data)
                name, data = "", []


async def test_the_overview_shows_counters_and_the_latest_orders(site: Site) -> None:
    text = (await site.client.get("/")).text
    for part in ("48\u202f211", "Out for Delivery", "#1000", "E-mail", "On hold", "49.90\u00a0EUR"):
        assert part in text, part


async def test_the_overview_can_be_narrowed_to_a_status(site: Site) -> None:
    text = (await site.client.get("/?status=shipped")).text
    assert "#1003" in text and "#1004" not in text and 'aria-current="true"' in text
    assert "No order is returned now" in (await site.client.get("/?status=returned")).text


async def test_counters_and_orders_move_by_themselves(site: Site) -> None:
    stream = events(site, "/live?status=")
    first = dict([await anext(stream), await anext(stream)])
    assert set(first) == {"numbers", "orders"}
    site.reader.totals = msgspec.structs.replace(site.reader.totals, accepted=99_999)
    async with asyncio.timeout(10):
        async for name, body in stream:
            if name == "numbers" and "99\u202f999" in body:
                break
    await stream.aclose()


async def test_an_order_page_follows_its_order(site: Site) -> None:
    stream = events(site, "/orders/lumi:1004/live")
    name, body = await anext(stream)
    assert name == "order" and "Parcel scanned: out for delivery" in body
    old = site.reader.details["lumi:1004"]
    site.reader.details["lumi:1004"] = msgspec.structs.replace(old, status="delivered", status_text="Delivered")
    async with asyncio.timeout(10):
        name, body = await anext(stream)
    assert "s-delivered" in body
    await stream.aclose()


async def test_an_order_page_says_where_it_is_sourced_from_and_why(site: Site) -> None:
    old, why = site.reader.details["lumi:1004"], ("From east by ups standard: 5.50 EUR", "Why: the cheapest <b>")
    assert "Why:" not in (await site.client.get("/orders/lumi:1004")).text
    site.reader.details["lumi:1004"] = msgspec.structs.replace(old, sourcing=why)
    text = (await site.client.get("/orders/lumi:1004")).text
    assert f"<li>{why[0]}</li><li>Why: the cheapest &lt;b&gt;</li>" in text
    assert (await site.client.get("/v1/orders/lumi:1004")).json()["sourcing"] == list(why)


async def test_what_customers_typed_is_text_and_not_markup(site: Site) -> None:
    text = (await site.client.get("/orders/lumi:1004")).text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


async def test_an_order_page_shows_reasons_messages_and_disagreements(site: Site) -> None:
    text = (await site.client.get("/orders/lumi:1004")).text
    for part in (
        "The address checks out",
        "Two reports disagree",
        "Nobody can tell whether it was sent",
        "1Z999AA10123456784",
        "129.90\u00a0EUR",
    ):
        assert part in text, part


async def test_the_messages_of_the_demo_can_be_read(site: Site) -> None:
    text = (await site.client.get("/messages")).text
    assert "Your Lumi Zone order #1004 has shipped!" in text


async def test_find_goes_to_the_order_that_fits_and_lists_them_when_several_do(site: Site) -> None:
    for text in (" lumi:1004 ", "1Z999AA10123456784"):
        answer = await site.client.get("/orders", params={"q": text})
        assert (answer.status_code, answer.headers["location"]) == (303, "/orders/lumi%3A1004")
    several = (await site.client.get("/orders", params={"q": "pi_shared"})).text
    assert "#1005" in several and "#1006" in several and "#1004" not in several
    nothing = (await site.client.get("/orders", params={"q": "ana.lima@example.invalid"})).text
    assert "No order is known by this" in nothing and "e-mail addresses are not indexed" in nothing


async def test_all_orders_are_listed_page_by_page(site: Site) -> None:
    site.reader.rows = [row(n) for n in range(120)]
    seen: list[str] = []
    url = "/orders"
    while url:
        text = (await site.client.get(url)).text
        seen += re.findall(r'data-id="([^"]*)"', text)
        more = re.search(r'href="(/orders\?[^"]*before[^"]*)"', text)
        url = html.unescape(more.group(1)) if more else ""
    assert seen == [r.id for r in site.reader.rows]
    held = (await site.client.get("/orders?tag=held")).text
    assert set(re.findall(r'data-id="([^"]*)"', held)) <= {r.id for r in site.reader.rows if "held" in r.flags}
    assert (await site.client.get("/orders?before=nonsense")).status_code == 422


async def test_what_is_not_there_is_a_page_for_people(site: Site) -> None:
    answer = await site.client.get("/orders/lumi:9", headers={"accept": "text/html"})
    assert answer.status_code == 404 and "No order with this ID" in answer.text and "<html" in answer.text


async def test_a_store_that_is_away_is_said_on_the_page_and_the_last_numbers_stay(site: Site) -> None:
    stream = events(site, "/live?status=")
    await anext(stream)
    await anext(stream)
    site.reader.fail = StoreDown("gone")
    async with asyncio.timeout(10):
        async for name, body in stream:
            if name == "numbers" and "does not answer" in body:
                assert "48\u202f211" in body
                break
    await stream.aclose()


async def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(site: Site) -> None:
    for path in ("/", "/orders/lumi:1004", "/messages"):
        text = (await site.client.get(path)).text
        assert "style=" not in text and "onclick" not in text and "//" not in text.replace("http://127.0.0.1:8080/t/", "")
        for line in text.splitlines():
            assert "<script" not in line or "/static/app.js?v=" in line


async def test_assets_are_kept_by_browsers_and_renamed_when_they_change(site: Site) -> None:
    answer = await site.client.get("/static/app.css")
    assert "immutable" in answer.headers["cache-control"] and answer.headers["content-type"].startswith("text/css")
    assert (await site.client.get("/static/..%2fpages.py")).status_code == 404


def test_our_own_script_stays_small() -> None:
    assert len((HERE / "static" / "app.js").read_text().splitlines()) <= 100


async def test_open_pages_are_bounded_and_one_that_closes_makes_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.live.MOST_WATCHERS", 1)
    stream = events(site, "/live?status=")
    await anext(stream)
    refused = await site.client.get("/live?status=")
    assert refused.status_code == 503 and "retry-after" in refused.headers
    await stream.aclose()
    async with asyncio.timeout(10):
        while True:
            async with site.client.stream("GET", "/live?status=") as answer:
                if answer.status_code == 200:
                    break
            await asyncio.sleep(0.05)
