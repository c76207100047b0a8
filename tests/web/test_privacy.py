"""Planted personal data comes out of no log line and no metric, whatever goes wrong on its way in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from connectors.store import StoreDown
from tests.web.conftest import Site
from tests.web.facts import body, captured, placed

PLANTED = ("canary.person@example.invalid", "+15555550123", "Canary Personova", "Canary Lane 7")
E_MAIL, PHONE, NAME, STREET = PLANTED
PERSON = {"name": NAME, "email": E_MAIL, "phone": PHONE, "address": {"lines": [STREET], "city": "X", "country": "PT"}}

PATHS: dict[str, dict[str, Any]] = {
    "accepted": {"content": body(placed(person=PERSON))},
    "wrong type": {"content": body(placed(person={**PERSON, "phone": [PHONE]}))},
    "unknown field named by a person": {"content": body(placed(person={**PERSON, E_MAIL: 1}))},
    "unknown kind": {"content": body(captured(type=NAME))},
    "out of bounds": {"content": body(placed(person=PERSON, at=1))},
    "order ID that is an address": {"content": body(captured(order=f"lumi:{E_MAIL}", amount="x"))},
    "currency that is a name": {"content": body(captured(currency=NAME))},
    "not JSON": {"content": body(placed(person=PERSON))[:-3]},
    "key": {"content": body(captured()), "headers": {"idempotency-key": E_MAIL}},
    "key again, other body": {"content": body(captured(amount=1)), "headers": {"idempotency-key": E_MAIL}},
    "too large": {"content": body(placed(person={**PERSON, "name": NAME * 50_000}))},
    "foreign origin": {"content": body(captured()), "headers": {"origin": f"https://{NAME.replace(' ', '')}.example"}},
    "user agent": {"content": b"{", "headers": {"user-agent": E_MAIL, "referer": f"https://x/{E_MAIL}"}},
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("broken", ["", "log down", "log bug"])
async def test_no_path_of_the_gateway_writes_personal_data_down(
    site: Site, name: str, broken: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    site.log.down = broken == "log down"
    if broken == "log bug":

        async def explode(topic: str, records: list[tuple[bytes, bytes]], partition: int | None = None) -> None:
            raise RuntimeError(records[0][1].decode())

        monkeypatch.setattr(site.log, "append", explode)
    await site.client.post("/v1/facts", **PATHS[name])
    assert_clean(site, capfd, caplog)


@pytest.mark.parametrize("error", [StoreDown, RuntimeError, KeyError])
async def test_no_path_of_the_pages_writes_personal_data_down(
    site: Site, error: Callable[[str], Exception], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.reader.fail = error(f"{NAME} {E_MAIL}")
    for path in (
        "/",
        "/v1/orders",
        f"/v1/orders/lumi:{E_MAIL}",
        f"/orders/{PHONE}",
        f"/?status={E_MAIL}",
        f"/orders?q={E_MAIL}",
        f"/reviews?at={E_MAIL}",
    ):
        answer = await site.client.get(path)
        if not path.startswith("/orders?"):
            assert NAME not in answer.text and E_MAIL not in answer.text
    assert_clean(site, capfd, caplog)


def assert_clean(site: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    said = capfd.readouterr()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]  # the client's own
    for text in (said.out, said.err, *ours, site.metrics.expose().decode()):
        for planted in PLANTED:
            assert planted not in text
            assert planted.replace(" ", "") not in text
