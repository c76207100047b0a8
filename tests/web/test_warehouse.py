"""What a clerk sees and tells: pick lists, picked, short, packed, labels, handed over; and what is refused."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orders.fact import Fact, ItemsPicked, ParcelScanned, Quantity, Tracking
from orders.plan import turn
from orders.view import view
from tests.orders.lives import hold, packed, scanned
from tests.web.conftest import Site
from tests.web.fake_floor import CABLE, HOUR, ready
from tests.web.fake_reader import NOW, PERSON
from web import identity
from web.warehouse import FolderLabels

ORDER = "lumi:7001"


@pytest.fixture
def clerk(site: Site) -> Site:
    """One order of two lamps, a shade and three cables, ready to be picked."""
    site.floor.take(*ready(7001, *_lines()))
    return site


def _lines() -> tuple[Any, ...]:
    from tests.orders.lives import LAMP, SHADE

    return LAMP, SHADE, CABLE


async def tell(site: Site, act: str, order: str = ORDER, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await site.client.post(f"/v1/warehouse/{order}:{act}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def press(site: Site, act: str, order: str = ORDER, **fields: str) -> Any:
    return await site.client.post(f"/warehouse/orders/{order}/{act}", data=fields)


def stages(standing: dict[str, Any]) -> list[str]:
    return [job["stage"] for job in standing["jobs"]]


def some(line: str, quantity: int) -> dict[str, Any]:
    return {"line": line, "quantity": quantity}


# --- what is to be done
async def test_the_list_is_in_the_order_of_turns_and_what_is_held_is_not_in_it(site: Site) -> None:
    for n in range(40):
        facts = ready(n + 100, at=NOW - (n * 37 % 41) * HOUR)
        site.floor.take(*facts, *([hold(object="h") and msgspec.structs.replace(hold(), order=f"lumi:{n + 100}")] if n % 7 == 0 else ()))
    answer = await site.client.get("/v1/warehouse", params={"limit": 200})
    listed = [job["order"] for job in answer.json()["jobs"]]
    free = [order for n in range(40) if n % 7 and (order := f"lumi:{n + 100}")]
    turns = {order: turn(view(its), site.floor.policy) for order, its in site.floor.orders.items()}
    assert listed == sorted(free, key=lambda order: (turns[order], order))
    page = (await site.client.get("/warehouse")).text
    assert re.findall(r"/warehouse/orders/(lumi%3A\d+)\"", page) == [order.replace(":", "%3A") for order in listed]
    assert answer.json()["total"] == len(free)


async def test_locations_have_lists_of_their_own(site: Site) -> None:
    site.floor.take(*ready(1), *ready(2, location="north hall"))
    page = (await site.client.get("/warehouse", params={"location": "north hall"})).text
    assert "#2" in page and "#1<" not in page and "location=main" in page
    empty = await site.client.get("/warehouse", params={"location": "<nowhere>"})
    assert "Nothing is to be picked here now" in empty.text and "<nowhere>" not in empty.text


async def test_the_printed_list_sums_up_and_names_every_order(site: Site) -> None:
    for n in range(5):
        site.floor.take(*ready(200 + n, service="express" if n == 2 else "standard"))
    page = (await site.client.get("/warehouse/pick-list", params={"location": "main", "limit": 4})).text
    assert "4 of 5 orders" in page
    assert re.findall(r"<b>#(\d+)</b>", page) == ["200", "201", "202", "203"]
    assert re.search(r"Desk lamp</th><td class=\"text\">LAMP-1</td><td>4</td><td><b>8</b>", page)
    assert page.count('aria-label="Barcode of lumi:20') == 4 and page.count("Express") == 1
    assert PERSON.email not in page and PERSON.address.lines[0] not in page, "a pick list needs no name"


async def test_a_scan_of_a_printed_order_says_that_it_was_held_since(clerk: Site) -> None:
    assert "#7001" in (await clerk.client.get("/warehouse/pick-list")).text
    clerk.floor.take(msgspec.structs.replace(hold(), order=ORDER))
    scan = await clerk.client.get("/warehouse/find", params={"id": f" {ORDER} "})
    assert scan.status_code == 303
    page = (await clerk.client.get(scan.headers["location"])).text
    assert "on hold: put it aside" in page and "Picked</button>" not in page
    refused = await press(clerk, "picked", location="main", stage="to_pick")
    assert refused.status_code == 409 and "on hold: put it aside" in refused.text
    assert clerk.floor.told() == []


# --- picked, packed, handed over
async def test_an_order_is_picked_packed_in_two_parcels_and_handed_over(clerk: Site) -> None:
    assert stages(await tell(clerk, "picked")) == ["to_pack"]
    standing = await tell(clerk, "packed", parcel="P1", lines=[some("1", 2)])
    assert stages(standing) == ["packed", "to_pack"] and standing["jobs"][1]["next_parcel"] == "P2"
    assert [t["line"] for t in standing["jobs"][1]["tasks"]] == ["2", "3"]
    assert stages(await tell(clerk, "packed", parcel="P2")) == ["packed"]
    await tell(clerk, "handed_over", parcel="P1")
    assert view(clerk.floor.orders[ORDER]).status == "partially_shipped"
    assert stages(await tell(clerk, "handed_over", parcel="P2")) == []
    v = view(clerk.floor.orders[ORDER])
    assert v.status == "shipped" and list(v.parcels) == ["P1", "P2"]
    assert {q.line: q.quantity for q in v.parcels["P2"].lines} == {"2": 1, "3": 3}
    story = {fact.text: fact.by for key, (fact, *_) in clerk.floor.orders[ORDER].facts.items() if key[0] == "NoteAdded"}  # type: ignore[attr-defined]
    assert story.keys() == {"Picked at main", "Packed P1", "Packed P2", "Handed P1 to its carrier", "Handed P2 to its carrier"}
    assert set(story.values()) == {"local"}


async def test_a_double_click_tells_nothing_new(clerk: Site) -> None:
    acts: list[tuple[str, dict[str, Any]]] = [
        ("picked", {"short": [some("3", 1)]}),
        ("packed", {"parcel": "P1", "lines": [some("1", 2)]}),
        ("packed", {"parcel": "P2"}),
        ("handed_over", {"parcel": "P1"}),
    ]
    for act, body in acts:
        first = await tell(clerk, act, **body)
        count = len(clerk.log.records)
        assert await tell(clerk, act, **body) == first
        assert len(clerk.log.records) == count, act


async def test_two_clerks_at_once_make_one_parcel(clerk: Site) -> None:
    await tell(clerk, "picked")
    clerk.log.gate = asyncio.Event()  # both have looked before either is heard
    one = asyncio.create_task(clerk.client.post(f"/v1/warehouse/{ORDER}:packed", json={"parcel": "P1", "lines": [some("1", 2)]}))
    other = asyncio.create_task(clerk.client.post(f"/v1/warehouse/{ORDER}:packed", json={"parcel": "P1"}))
    async with asyncio.timeout(5):
        while clerk.log.asked < 3:
            await asyncio.sleep(0.01)
    clerk.log.gate.set()
    answers = await asyncio.gather(one, other)
    assert {a.status_code for a in answers} == {200}
    assert list(view(clerk.floor.orders[ORDER]).parcels) == ["P1"]
    late = await tell(clerk, "packed", parcel="P1", lines=[some("2", 1)], status=409)
    assert late["code"] == "already_packed" and "P1" in late["message"]


async def test_what_is_short_is_shown_and_may_be_found_later(clerk: Site) -> None:
    answer = await press(
        clerk, "picked", location="main", stage="to_pick", **{"wanted:1": "2", "found:1": "1", "wanted:3": "3", "found:3": "3"}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/warehouse?location=main&stage=to_pick")
    (told,) = clerk.floor.told()
    assert isinstance(told, ItemsPicked) and told.short == (Quantity(line="1", quantity=1),)
    await tell(clerk, "packed", parcel="P1")
    assert {q.line: q.quantity for q in view(clerk.floor.orders[ORDER]).parcels["P1"].lines} == {"1": 1, "2": 1, "3": 3}
    missing = (await clerk.client.get("/warehouse", params={"stage": "missing"})).text
    assert "1 ×" in missing and "Desk lamp" in missing and "Found all of it" in missing
    await tell(clerk, "picked", short=[some("2", 1)], status=409)  # not more is missing than before
    clerk.clock.move_to(clerk.clock.now() + 1000)
    assert stages(await tell(clerk, "picked")) == ["packed", "to_pack"]
    assert stages(await tell(clerk, "packed", parcel="P2")) == ["packed"]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("picked", {"short": [some("9", 1)]}, "short[0].line"),
    ("picked", {"short": [some("1", 3)]}, "short[0].quantity"),
    ("picked", {"short": [some("1", 1), some("1", 2)]}, "short[1].quantity"),
    ("picked", {"short": [some("1", -1)]}, "short[0].quantity"),
    ("picked", {"location": "moon"}, "location"),
    ("picked", {"short": [{"line": "1"}]}, "short[0].quantity"),
    ("picked", {"surprise": 1}, "surprise"),
    ("packed", {}, "parcel"),
    ("packed", {"parcel": "P1", "lines": [some("1", 3)]}, "lines[0].quantity"),
    ("packed", {"parcel": "P1", "lines": [some("x", 1)]}, "lines[0].line"),
    ("packed", {"parcel": "P1", "lines": []}, "lines"),
    ("packed", {"parcel": 1}, "parcel"),
]


async def test_bad_input_is_refused_and_the_field_is_named(clerk: Site) -> None:
    for now in ("picked", "packed"):
        before = len(clerk.log.records)
        for act, body, field in BAD:
            if act == now:
                problem = await tell(clerk, act, status=422, **body)
                assert problem["field"] == field, (problem, body)
        assert len(clerk.log.records) == before
        if now == "picked":
            await tell(clerk, "picked")


HELD = msgspec.structs.replace(hold(), order=ORDER)
GONE = [msgspec.structs.replace(f, order=ORDER) for f in (packed(), scanned(Tracking.IN_TRANSIT, NOW))]


@pytest.mark.parametrize(
    ("act", "first", "body", "code"),
    [
        ("picked", [HELD], {}, "held"),
        ("picked", GONE, {}, "not_pickable"),
        ("packed", [], {"parcel": "P1"}, "not_picked"),
        ("packed", ["picked", HELD], {"parcel": "P1"}, "held"),
        ("packed", ["picked"], {"parcel": "P2"}, "not_next"),
        ("packed", ["picked", "packed"], {"parcel": "P2"}, "nothing_left"),
        ("handed_over", ["picked", "packed", HELD], {"parcel": "P1"}, "held"),
    ],
)
async def test_what_is_too_late_or_too_early_is_refused_with_the_reason(
    clerk: Site, act: str, first: list[str | Fact], body: dict[str, Any], code: str
) -> None:
    for step in first:
        if isinstance(step, str):
            await tell(clerk, step, **({"parcel": "P1"} if step == "packed" else {}))
        else:
            clerk.floor.take(step)
    before = len(clerk.log.records)
    problem = await tell(clerk, act, status=409, **body)
    assert (problem["code"], len(clerk.log.records)) == (code, before)
    assert "_" not in problem["message"]


async def test_nothing_is_told_of_orders_and_parcels_that_are_not_there(clerk: Site) -> None:
    for act in ("picked", "packed", "handed_over", "sung"):
        await tell(clerk, act, order="lumi:0", status=404, **({} if act == "picked" else {"parcel": "P1"}))
    await tell(clerk, "handed_over", parcel="P7", status=404)
    assert (await clerk.client.get("/warehouse/orders/lumi:0")).status_code == 404
    assert (await clerk.client.post(f"/v1/warehouse/{ORDER}:picked", content=b"{")).status_code == 400


async def test_while_the_log_takes_nothing_the_clerk_is_told_so(clerk: Site) -> None:
    clerk.log.down = True
    assert (await press(clerk, "picked", location="main")).status_code == 503
    clerk.log.down = False
    assert (await press(clerk, "picked", location="main")).status_code == 303


@pytest.mark.parametrize(
    ("fields", "status"), [({"found:1": "x"}, 422), ({"found:1": "-1"}, 422), ({"wanted:1": "2", "found:1": "3"}, 422)]
)
async def test_a_form_with_bad_numbers_comes_back_with_a_word(clerk: Site, fields: dict[str, str], status: int) -> None:
    answer = await press(clerk, "picked", location="main", **fields)
    assert answer.status_code == 422 and 'role="alert"' in answer.text
    assert clerk.floor.told() == []


# --- labels
async def test_a_parcel_without_a_label_gets_an_address_label_and_a_number_by_hand(clerk: Site) -> None:
    await tell(clerk, "picked")
    await tell(clerk, "packed", parcel="P1")
    page = await clerk.client.get(f"/warehouse/label/{ORDER}/P1")
    assert "Rua das Flores 12" in page.text and "4050-265 Porto" in page.text and "<script>alert" not in page.text
    assert page.headers["cache-control"] == "no-store" and "Barcode of lumi:7001" in page.text
    assert (await clerk.client.get(f"/warehouse/label/{ORDER}/P1/file")).status_code == 404
    answer = await press(clerk, "labelled", parcel="P1", carrier=" UPS ", tracking="1z 999 aa1 0123456784")
    assert answer.status_code == 303
    v = view(clerk.floor.orders[ORDER])
    (parcel,) = v.parcels.values()
    assert (parcel.id, parcel.carrier, parcel.tracking) == ("1Z999AA10123456784", "UPS", "1Z999AA10123456784")
    assert not parcel.shipped_at and sum(q.quantity for q in parcel.lines) == 6
    assert not v.contradictions

    clerk.floor.take(msgspec.structs.replace(scanned(Tracking.IN_TRANSIT, NOW, parcel.id, tracking=parcel.id), order=ORDER))
    assert list(view(clerk.floor.orders[ORDER]).parcels) == [parcel.id], "its carrier calls it the same"
    assert view(clerk.floor.orders[ORDER]).status == "shipped"


async def test_a_number_that_is_typed_after_the_carrier_took_the_parcel_or_typed_wrongly_leaves_one_parcel(clerk: Site) -> None:
    await tell(clerk, "picked")
    await tell(clerk, "packed", parcel="P1")
    await tell(clerk, "handed_over", parcel="P1")
    for number in ("WRONG-1", "RIGHT-2"):
        clerk.clock.move_to(clerk.clock.now() + 1000)
        current = next(iter(view(clerk.floor.orders[ORDER]).parcels))
        assert (await press(clerk, "labelled", parcel=current, carrier="GLS", tracking=number)).status_code == 303
    assert (await press(clerk, "labelled", parcel="P1", carrier="GLS", tracking="RIGHT-2")).status_code == 303  # by its first name
    v = view(clerk.floor.orders[ORDER])
    assert {p.id: (p.tracking, p.shipped_at > 0) for p in v.parcels.values()} == {"RIGHT-2": ("RIGHT-2", True)}
    assert v.status == "shipped" and not v.contradictions


async def test_a_label_without_carrier_or_number_is_refused(clerk: Site) -> None:
    await tell(clerk, "picked")
    await tell(clerk, "packed", parcel="P1")
    before = len(clerk.log.records)
    for carrier, tracking in (("", "1Z999"), ("UPS", "1"), ("UPS", "<b>1234"), ("U" * 65, "1Z999"), ("UPS", "1" * 65)):
        assert (await press(clerk, "labelled", parcel="P1", carrier=carrier, tracking=tracking)).status_code == 422
    assert len(clerk.log.records) == before


async def test_a_carriers_own_number_is_not_overwritten(clerk: Site) -> None:
    await tell(clerk, "picked")
    await tell(clerk, "packed", parcel="P1")
    label = ParcelScanned(
        order=ORDER, system="ups", object="l", at=NOW, parcel="P1", tag=Tracking.LABEL_CREATED, carrier="UPS", tracking="1ZX"
    )
    clerk.floor.take(label)
    assert (await press(clerk, "labelled", parcel="P1", carrier="GLS", tracking="OTHER1")).status_code == 409


LABELS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF89a": "image/gif",
    b"%PDF-1.7": "application/pdf",
    b"\n^XA^FO": "text/plain; charset=utf-8",
    b"<script>": "application/octet-stream",
}


async def test_a_labels_kind_is_known_by_its_bytes(clerk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await tell(clerk, "picked")
    await tell(clerk, "packed", parcel="P1")
    monkeypatch.setattr("web.warehouse.label_of", lambda parcel: "p1.gif")
    for label, media in LABELS.items():
        clerk.labels.files["p1.gif"] = label
        answer = await clerk.client.get(f"/warehouse/label/{ORDER}/P1/file")
        assert (answer.content, answer.headers["content-type"]) == (label, media)
        page = (await clerk.client.get(f"/warehouse/label/{ORDER}/P1")).text
        assert ('<img class="label"' in page) == media.startswith("image/")
    clerk.floor.take(HELD)
    assert "the file" not in (await clerk.client.get(f"/warehouse/label/{ORDER}/P1")).text


async def test_labels_are_read_from_their_folder_and_from_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"no")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "p1.gif").write_bytes(b"GIF89a")
    labels = FolderLabels(tmp_path / "labels")
    assert [await labels.read(name) for name in ("p1.gif", "../secret", "", "..", "none")] == [b"GIF89a", None, None, None, None]


# --- stock
async def test_stock_is_listed_the_emptiest_first_found_and_counted(site: Site) -> None:
    for sku, count in (("LAMP-1", 5), ("SHADE-2", 0), ("CABLE-2M", 90)):
        site.floor.level(sku, count, version=7)
    page = (await site.client.get("/stock")).text
    assert re.findall(r'scope="row">([A-Z0-9-]+)', page) == ["SHADE-2", "LAMP-1", "CABLE-2M"]
    assert re.findall(r'scope="row">([A-Z0-9-]+)', (await site.client.get("/stock", params={"q": "lamp"})).text) == ["LAMP-1"]
    answer = await site.client.post("/stock/count", data={"sku": "LAMP-1", "location": "main", "on_hand": "3", "reason": "recount"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/stock?q=LAMP-1")
    ((topic, key, value),) = site.log.told
    assert site.log.audited == [("local", "stock.count", "LAMP-1@main")]
    told = msgspec.json.decode(value)
    assert (topic, key) == ("stock", b"LAMP-1@main")
    assert (told["on_hand"], told["by"], told["reason"], told["system"], told["version"]) == (3, "local", "recount", "staff", 7)
    (row,) = (await site.client.get("/v1/stock", params={"q": "lamp"})).json()["rows"]
    assert (row["on_hand"], row["available"], row["counted_by"]) == (3, 3, "staff"), "a count outranks a versioned level"


BAD_COUNTS = [
    {"sku": "", "location": "main", "on_hand": "1"},
    {"sku": "A", "location": "", "on_hand": "1"},
    {"sku": "A", "location": "main", "on_hand": "many"},
    {"sku": "A", "location": "main", "on_hand": "-1"},
    {"sku": "A", "location": "main", "on_hand": "9999999999"},
    {"sku": "A\n", "location": "ma\x00in", "on_hand": "1"},
    {"sku": "A", "location": "main"},
]


async def test_a_count_that_cannot_be_is_refused(site: Site) -> None:
    for fields in BAD_COUNTS:
        assert (await site.client.post("/stock/count", data=fields)).status_code == 422, fields
    assert site.log.records == []


async def test_stock_has_pages(site: Site) -> None:
    for n in range(120):
        site.floor.level(f"SKU-{n:03}", n)
    last = (await site.client.get("/stock", params={"page": 3})).text
    assert re.findall(r'scope="row">(SKU-\d+)', last) == [f"SKU-{n:03}" for n in range(100, 120)]
    assert "Page 3 of 3" in last and "page=2" in last and "Next" not in last


# --- roles
@pytest.mark.parametrize("role", ["viewer", "warehouse"])
async def test_the_warehouse_needs_its_role_and_stock_is_for_every_eye(clerk: Site, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.door.LOCAL", identity.Actor("x", frozenset({role})))
    clerk.floor.level("LAMP-1", 5)
    may = role == "warehouse"
    for path in ("/warehouse", "/warehouse/pick-list", f"/warehouse/orders/{ORDER}", "/v1/warehouse"):
        assert (await clerk.client.get(path)).status_code == (200 if may else 403), path
    stock = await clerk.client.get("/stock")
    assert stock.status_code == 200 and ("/stock/count" in stock.text) == may
    count = await clerk.client.post("/stock/count", data={"sku": "LAMP-1", "location": "main", "on_hand": "4"})
    assert count.status_code == (303 if may else 403)
    assert (await press(clerk, "picked", location="main")).status_code == (303 if may else 403)
    await tell(clerk, "picked", status=200 if may else 403)
    assert bool(clerk.log.records) == may
