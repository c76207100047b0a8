"""Modes and the stop of everything by page and by API: one document, confirmed by name, never changed behind anybody's back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from messages.customer import Customer
from messages.render import Brand, Renderer
from messages.way_back import WayBack
from orders.policy import Policy
from orders.state import Order
from orders.view import view
from streams.modes import MODES
from tests.orders.lives import captured, placed
from tests.web.conftest import Site
from tests.web.fake_reader import NOW, PERSON
from web.identity import Actor
from web.preview import preview


async def modes(site: Site) -> dict[str, str]:
    found: dict[str, str] = (await site.client.get("/v1/modes")).json()["channels"]
    return found


@pytest.fixture
def as_viewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    viewer = Actor("vera", frozenset({"viewer"}))
    monkeypatch.setattr("web.identity.actor", lambda request: viewer)
    monkeypatch.setattr("web.sending.actor", lambda request: viewer)
    return


async def test_every_channel_is_shown_with_its_mode_and_what_it_said(site: Site) -> None:
    text = (await site.client.get("/sending")).text
    for channel in MODES:
        assert f'href="/sending/{channel}"' in text
    assert "8\u202f120" in text and "as configured" in text


async def test_a_channel_shows_what_it_only_observed_and_how_that_would_have_read(site: Site) -> None:
    answer = await site.client.get("/sending/sms")
    for part in ("Delivery reminder", "312", "has shipped! Track it here", "+351910000001"):
        assert part in answer.text, part
    assert answer.headers["cache-control"] == "no-store"
    assert "How it would have read" not in (await site.client.get("/sending/stock")).text
    assert (await site.client.get("/sending/fax")).status_code == 404


async def test_going_live_is_confirmed_by_the_name_of_the_channel(site: Site) -> None:
    for confirm in ("", "yes", "email"):
        refused = await site.client.post("/sending/sms", data={"mode": "live", "confirm": confirm, "version": "0"})
        assert refused.status_code == 422 and "write sms to confirm" in refused.text
    assert (await modes(site))["sms"] == "observe"
    done = await site.client.post("/sending/sms", data={"mode": "live", "confirm": "sms", "version": "0"})
    assert (done.status_code, done.headers["location"]) == (303, "/sending?done=changed")
    changed = (await site.client.get("/v1/modes")).json()
    assert (changed["channels"]["sms"], changed["version"], changed["by"], changed["at"]) == ("live", 1, "local", NOW)
    assert (await site.client.post("/sending/sms", data={"mode": "observe"})).status_code == 303, "only going live is confirmed"


async def test_a_page_that_is_out_of_date_changes_nothing(site: Site) -> None:
    await site.client.post("/sending/push", data={"mode": "stopped", "version": "0"})
    late = await site.client.post("/sending/sms", data={"mode": "live", "confirm": "sms", "version": "0"})
    assert late.status_code == 409 and "look again" in late.text
    assert (await modes(site))["sms"] == "observe"
    late = await site.client.put("/v1/modes/sms", json={"mode": "live", "version": 0})
    assert (late.status_code, late.json()["code"]) == (409, "outdated")
    assert (await site.client.put("/v1/modes/sms", json={"mode": "live", "version": 1})).status_code == 200


async def test_everything_is_stopped_with_a_reason_and_started_again(site: Site) -> None:
    refused = await site.client.post("/sending", data={"do": "stop", "reason": ""})
    assert refused.status_code == 422 and "Say why" in refused.text
    assert (await site.client.post("/sending", data={"do": "stop", "reason": "wrong prices"})).status_code == 303
    text = (await site.client.get("/sending")).text
    assert "Everything is stopped" in text and "wrong prices" in text and "118 customers" in text
    assert (await site.client.get("/v1/modes")).json()["stop"] == "wrong prices"
    assert (await site.client.post("/sending", data={"do": "start"})).status_code == 303
    assert (await site.client.get("/v1/modes")).json()["stop"] == ""
    assert (await site.client.put("/v1/stop", json={"reason": "again"})).json()["stop"] == "again"
    assert (await site.client.delete("/v1/stop")).json()["stop"] == ""


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/modes/email", {"mode": "on"}, 422, "mode"),
        ("/v1/modes/stock", {"mode": "sandbox"}, 422, "mode"),
        ("/v1/modes/email", {}, 422, "mode"),
        ("/v1/modes/email", {"mode": "live", "versoin": 1}, 422, "versoin"),
        ("/v1/modes/fax", {"mode": "live"}, 404, None),
        ("/v1/stop", {"reason": "x"}, 422, "reason"),
        ("/v1/stop", {}, 422, "reason"),
    ],
)
async def test_what_cannot_be_is_refused_and_named(site: Site, path: str, body: dict[str, object], status: int, field: str | None) -> None:
    answer = await site.client.put(path, json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field)
    assert site.store.version == 0


async def test_a_viewer_looks_and_changes_nothing(site: Site, as_viewer: None) -> None:
    page = await site.client.get("/sending/sms")
    assert page.status_code == 200 and "<fieldset" not in page.text and "+351910000001" not in page.text
    assert 'name="do"' not in (await site.client.get("/sending")).text
    for path in ("/sending", "/sending/sms"):
        assert (await site.client.post(path, data={"do": "stop", "reason": "wrong"})).status_code == 403
    assert (await site.client.put("/v1/stop", json={"reason": "wrong"})).status_code == 403
    assert (await site.client.delete("/v1/stop")).status_code == 403
    assert (await site.client.put("/v1/modes/sms", json={"mode": "live"})).status_code == 403
    assert site.store.version == 0


async def test_a_store_that_is_away_is_said(site: Site) -> None:
    site.store.fail = True
    assert (await site.client.get("/v1/modes")).status_code == 503
    assert (await site.client.put("/v1/stop", json={"reason": "wrong"})).status_code == 503


# --- the preview
RENDERER = Renderer(Brand(), WayBack([b"a key of the tests"]))


def lived(*closed: str) -> Order:
    from orders.merge import merge

    order = Order("lumi:1001")
    for fact in (placed(person=PERSON), captured()):
        order = merge(order, fact)
    order.closed = dict.fromkeys(closed, NOW)
    return order


def test_a_preview_is_what_the_functions_that_send_would_have_made() -> None:
    found = preview(lived("notify.email order_placed", "notify.email payment_confirmed"), Customer(), "email", Policy(), RENDERER)
    assert found is not None and found.word == ""
    assert found.template in ("order_placed", "payment_confirmed") and found.to == PERSON.email
    assert "Ana" in found.text and view(lived()).placed is not None


def test_a_preview_says_when_consent_would_have_kept_it_back() -> None:
    from messages.customer import Consent

    customer = Customer(consents={"*/*": Consent(1, granted=False)})
    found = preview(lived("notify.email order_placed"), customer, "email", Policy(), RENDERER)
    assert found is not None and (found.word, found.reason, found.text) == ("suppressed", "preference", "")


def test_there_is_no_preview_of_what_was_not_observed() -> None:
    assert preview(lived(), Customer(), "email", Policy(), RENDERER) is None
    assert preview(lived("notify.email order_placed"), Customer(), "sms", Policy(), RENDERER) is None
    assert preview(lived("stock.ship main"), Customer(), "email", Policy(), RENDERER) is None
