"""Parked records by page and by API: looked at by operators only, repaired, replayed once, discarded with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.fact import FactUnparked, NoteAdded, decode_fact, encode_fact
from streams.lane import parked_id
from tests.web.conftest import Site
from tests.web.fake_desk import BINARY, BROKEN, ORDER, PARKED, PAYMENT, REPAIRABLE
from web.identity import Actor
from web.parked import REASONS, as_text, dump, name_of, record_of, repaired

NAME = name_of(parked_id(REPAIRABLE))
PAGE, API = f"/parked/{NAME}", f"/v1/parked/{NAME}"
GOOD = encode_fact(PAYMENT).decode()


@pytest.fixture
def as_viewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    viewer = Actor("vera", frozenset({"viewer"}))
    monkeypatch.setattr("web.identity.actor", lambda request: viewer)
    monkeypatch.setattr("web.parked.actor", lambda request: viewer)
    return


async def test_the_list_says_what_is_wrong_and_what_to_do_and_shows_no_content(site: Site) -> None:
    site.reader.lying = site.store.listed
    text = (await site.client.get("/parked")).text
    for part in (f'href="{PAGE}"', "A field is missing or has the wrong type", "$.amount", "Repair the field and replay", "It is not JSON"):
        assert part in text, part
    assert "129,90" not in text and 'href="/parked?reason=malformed"' in text
    narrowed = (await site.client.get("/parked?reason=malformed")).text
    assert f'href="{PAGE}"' not in narrowed and "It is not JSON" in narrowed
    assert "Nothing is parked for this reason" in (await site.client.get("/parked?reason=version")).text


async def test_the_content_is_shown_when_asked_for_and_that_is_noted_with_the_order(site: Site) -> None:
    first = await site.client.get(PAGE)
    assert first.status_code == 200 and "129,90" not in first.text and first.headers["cache-control"] == "no-store"
    assert not site.log.told
    shown = await site.client.post(PAGE, data={"do": "show"})
    assert "&#34;129,90&#34;" in shown.text and shown.headers["cache-control"] == "no-store"
    ((topic, key, value),) = site.log.told
    note = decode_fact(value)
    assert (topic, key) == ("facts", ORDER.encode()) and isinstance(note, NoteAdded)
    assert (note.by, note.system) == ("local", "staff") and parked_id(REPAIRABLE) in note.text


async def test_bytes_that_are_no_text_are_shown_as_hexadecimal(site: Site) -> None:
    shown = await site.client.post(f"/parked/{name_of(parked_id(BINARY))}", data={"do": "show"})
    assert "000020  20 21 22" in shown.text and "<textarea" not in shown.text


async def test_a_viewer_sees_neither_bytes_nor_buttons(site: Site, as_viewer: None) -> None:
    page = await site.client.get(PAGE)
    assert page.status_code == 200 and 'name="do"' not in page.text
    assert (await site.client.get(API)).json()["advice"]
    for path in (PAGE, f"{API}:show", f"{API}:replay", f"{API}:discard", f"{API}:check"):
        answer = await site.client.post(path, json={"reason": "because"})
        assert answer.status_code == 403, path
    assert not site.log.told and len(site.store.rows) == len(PARKED)


async def test_an_operator_repairs_checks_and_replays_by_page(site: Site) -> None:
    refused = await site.client.post(PAGE, data={"do": "check", "body": BROKEN.decode(), "reason": "a comma"})
    assert refused.status_code == 422 and "would be parked again" in refused.text and "<code>$.amount</code>" in refused.text
    assert "a comma" in refused.text, "nothing that was typed is lost"
    still = await site.client.post(PAGE, data={"do": "replay", "body": GOOD.replace("12990", '"x"')})
    assert still.status_code == 422 and "&#34;x&#34;" in still.text and not site.log.told
    checked = await site.client.post(PAGE, data={"do": "check", "body": GOOD})
    assert "It can be read now" in checked.text and not site.log.told
    done = await site.client.post(PAGE, data={"do": "replay", "body": GOOD, "reason": "a comma"})
    assert (done.status_code, done.headers["location"]) == (303, "/parked?done=replayed")
    assert decode_fact(site.log.told[0][2]) == PAYMENT
    told = decode_fact(site.log.told[1][2])
    assert isinstance(told, FactUnparked) and told.by == "local: a comma"
    again = await site.client.post(PAGE, data={"do": "replay", "body": GOOD})
    assert again.headers["location"] == "/parked?done=already" and len(site.log.told) == 2
    assert "dealt with this record already" in (await site.client.get(again.headers["location"])).text
    assert (await site.client.get(PAGE)).status_code == 404


async def test_discarding_needs_a_reason(site: Site) -> None:
    refused = await site.client.post(PAGE, data={"do": "discard", "reason": " "})
    assert refused.status_code == 422 and "Say why" in refused.text
    refused = await site.client.post(f"{API}:discard", json={"reason": "x"})
    assert (refused.status_code, refused.json()["field"]) == (422, "reason")
    assert parked_id(REPAIRABLE) in site.store.rows
    assert (await site.client.post(PAGE, data={"do": "discard", "reason": "a test of ours"})).status_code == 303
    assert parked_id(REPAIRABLE) not in site.store.rows


async def test_the_api_replays_once_and_says_already_from_then_on(site: Site) -> None:
    refused = await site.client.post(f"{API}:replay", json={})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, "still_unreadable", "$.amount")
    assert (await site.client.post(f"{API}:check", json={"body": GOOD})).json()["outcome"] == "readable"
    first = await site.client.post(f"{API}:replay", json={"body": GOOD, "by": "anna", "reason": "a comma"})
    assert first.json() == {"id": parked_id(REPAIRABLE), "outcome": "replayed"}
    before = list(site.log.told)
    for verb, body in (("replay", {"body": GOOD}), ("discard", {"reason": "rubbish"})):
        again = await site.client.post(f"{API}:{verb}", json=body)
        assert (again.status_code, again.json()["outcome"]) == (200, "already")
    assert site.log.told == before
    told = decode_fact(before[-1][2])
    assert isinstance(told, FactUnparked) and told.by == "anna: a comma"


async def test_replays_side_by_side_are_one_fact(site: Site) -> None:
    answers = await asyncio.gather(*(site.client.post(f"{API}:replay", json={"body": GOOD}) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    said = {
        (fact.order, fact.system, fact.object) for _, _, value in site.log.told if not isinstance(fact := decode_fact(value), FactUnparked)
    }
    assert said == {(PAYMENT.order, PAYMENT.system, PAYMENT.object)}, "duplicates are one by their natural key"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"reason": 1}', 422, "reason"),
        (b'{"reasom": "x"}', 422, "reasom"),
        (b'{"reason": "rubbish", "by": "' + b"x" * 65 + b'"}', 422, "by"),
        (b'{"reason": "a\\u0000b"}', 422, "reason"),
        (b"[]", 422, None),
        (b"{", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"body": "' + b"x" * 600_000 + b'"}', 413, None),
    ],
)
async def test_a_body_that_is_wrong_is_refused_and_its_field_named(site: Site, body: bytes, status: int, field: str | None) -> None:
    answer = await site.client.post(f"{API}:discard", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json().get("field")) == (status, field)
    assert parked_id(REPAIRABLE) in site.store.rows


async def test_what_a_form_of_another_site_can_send_is_refused(site: Site) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await site.client.post(f"{API}:discard", content=b'{"reason":"rubbish"}', headers={"content-type": media})
        assert answer.status_code == 415
    for origin in ("https://evil.example", "null"):
        answer = await site.client.post(PAGE, data={"do": "discard", "reason": "rubbish"}, headers={"origin": origin})
        assert answer.status_code == 403
    assert parked_id(REPAIRABLE) in site.store.rows


async def test_an_unknown_record_or_verb_is_404(site: Site) -> None:
    for name in ("schema~facts~3~9", "nonsense", "schema~nowhere~0~1", "%00"):
        assert (await site.client.get(f"/v1/parked/{name}")).status_code == 404
        assert (await site.client.get(f"/parked/{name}")).status_code == 404
    assert (await site.client.post(API, json={})).status_code == 404
    assert (await site.client.post(f"{API}:eat", json={})).status_code == 404
    assert (await site.client.post("/v1/parked/schema~nowhere~0~1:replay", json={})).status_code == 404
    assert (await site.client.post(PAGE, data={"do": "eat"})).status_code == 422


async def test_a_log_that_is_down_changes_nothing(site: Site) -> None:
    site.log.down = True
    answer = await site.client.post(f"{API}:replay", json={"body": GOOD})
    assert (answer.status_code, answer.json()["code"]) == (503, "log_down") and "retry-after" in answer.headers
    assert (await site.client.post(f"{API}:show")).status_code == 503, "what cannot be noted is not shown"
    assert parked_id(REPAIRABLE) in site.store.rows


async def test_no_log_line_and_no_address_holds_what_is_in_a_record(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    await site.client.post(PAGE, data={"do": "show"})
    await site.client.post(PAGE, data={"do": "replay", "body": GOOD.replace("12990", '"ana@example.invalid"')})
    await site.client.post(PAGE, data={"do": "replay", "body": GOOD})
    said = capfd.readouterr()
    assert [action for _, action, _ in site.log.audited] == ["parked.open", "parked.replay"]
    for planted in ("129,90", "ana@example.invalid", "pi_7", "12990"):
        assert planted not in said.out + said.err


# --- pure
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_what_a_browser_sends_back_unchanged_counts_as_unchanged(text: str) -> None:
    content = text.encode()
    if as_text(content) is not None:
        typed = text.replace("\r\n", "\n").replace("\n", "\r\n")
        assert repaired(typed, content) is None
        assert repaired(typed + "x", content) == (text.replace("\r\n", "\n") + "x").encode()


@given(st.binary(max_size=100))
def test_a_dump_holds_every_byte(content: bytes) -> None:
    shown = "".join(line[8:55].replace(" ", "") for line in dump(content).splitlines())
    assert bytes.fromhex(shown) == content


@given(st.from_regex(r"[a-z_]{1,9}/[A-Za-z0-9._-]{1,20}/[0-9]{1,3}/-?[0-9]{1,9}", fullmatch=True))
def test_an_id_is_the_same_after_an_address_carried_it(record: str) -> None:
    assert record_of(name_of(record)) == record and "/" not in name_of(record)


def test_every_reason_that_the_page_explains_is_in_the_runbook_too() -> None:
    from web.pages import RUNBOOKS

    told = (RUNBOOKS / "parked-rising.md").read_text()
    assert [reason for reason in REASONS if f"`{reason}`" not in told] == []
