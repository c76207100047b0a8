"""What the overview says is waiting, and what somebody should look at."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dispatch import Modes
from tests.web.conftest import Site
from tests.web.fake_reader import NOW, FakeReader
from web.live import Snapshot
from web.overview import alarms, backlog
from web.reader import Counters
from web.runbook import blocks


def everything(path: str) -> bool:
    return True


def nothing(path: str) -> bool:
    return False


def said(counters: Counters, modes: Modes | None = None) -> list[str]:
    return [alarm.text for alarm in alarms(Snapshot(counters, modes), NOW, everything)]


def test_where_all_is_well_nothing_is_said() -> None:
    calm = Counters(accepted=9, done=9, behind={"orders": 3}, oldest={"orders": NOW - 5_000}, scores=1000, fallback_scores=9)
    assert said(calm, Modes(channels={"email": "live", "sms": "observe"})) == []


@pytest.mark.parametrize(
    ("counters", "modes", "text"),
    [
        (Counters(parked_now=3), None, "3 records cannot be read"),
        (Counters(parked_now=1), None, "1 record cannot be read"),
        (Counters(unknown=2), None, "Of 2 orders nobody can tell whether something was sent"),
        (Counters(scores=100, fallback_scores=6), None, "The rules often answer for the model"),
        (
            Counters(behind={"orders": 5000}, oldest={"orders": NOW - 600_000}),
            None,
            "Orders: 5\u202f000 records wait to be read, the oldest for 10 min",
        ),
        (Counters(), Modes(stop="wrong prices"), "All sending is stopped: wrong prices"),
        (Counters(), Modes(channels={"sms": "stopped"}), "Stopped: SMS"),
    ],
)
def test_what_somebody_should_look_at_is_said_in_words(counters: Counters, modes: Modes | None, text: str) -> None:
    assert said(counters, modes) == [text]


def test_every_alarm_leads_somewhere_and_every_runbook_is_there(site_paths: set[str]) -> None:
    from web.pages import RUNBOOKS

    n = msgspec.structs.replace(FakeReader().totals, oldest={"orders": 1}, fallback_scores=10_000)
    found = alarms(Snapshot(n, Modes(stop="x", channels={"sms": "stopped"})), NOW, everything)
    assert len(found) == 6
    for alarm in found:
        assert alarm.href or alarm.runbook
        assert not alarm.runbook or (RUNBOOKS / f"{alarm.runbook}.md").exists()
        assert not alarm.href or alarm.href.partition("?")[0] in site_paths


@pytest.fixture
def site_paths() -> set[str]:
    return {"/", "/parked", "/sending"}


def test_a_stage_leads_to_its_page_where_there_is_one_and_to_the_list_of_its_orders_elsewhere() -> None:
    n = FakeReader().totals
    assert {stage.text: stage.href for stage in backlog(n, everything).stages}["In review"] == "/reviews"
    assert {stage.text: stage.href for stage in backlog(n, nothing).stages}["In review"] == "/?status=held"
    queues = {queue.text: queue.behind for queue in backlog(n, nothing).queues}
    assert queues == {"Intake": 0, "Orders": 26, "References": 0, "Stock": 2, "Customers": 0}


async def test_the_overview_shows_alarms_backlog_and_modes(site: Site) -> None:
    text = (await site.client.get("/")).text
    for part in ("3 records cannot be read", "/runbooks/parked-rising", "Wait for stock", "oldest 4 s", "observe", 'href="/sending/sms"'):
        assert part in text, part


async def test_only_pages_that_are_there_are_linked_to_and_say_how_many_wait(site: Site) -> None:
    text = (await site.client.get("/")).text
    nav = text[text.index("<nav") : text.index("</nav>")]
    assert 'href="/parked">Parked <span class="badge">3<' in nav and 'href="/sending"' in nav
    for line in nav.splitlines():
        if "href=" in line:
            href = line.split('href="')[1].split('"')[0]
            assert (await site.client.get(href, follow_redirects=True)).status_code == 200, href


async def test_a_runbook_is_read_here(site: Site) -> None:
    text = (await site.client.get("/runbooks/lag")).text
    for part in (
        "<h3>What customers notice</h3>",
        "<li><code>run.py lag</code>: which lanes",
        '<a href="/runbooks/parked-rising">parked-rising</a>',
    ):
        assert part in text, part
    assert "..</a>" not in (await site.client.get("/runbooks/not-ready")).text
    for name in ("nothing", "..%2findex", "../index"):
        assert (await site.client.get(f"/runbooks/{name}")).status_code == 404


async def test_whoever_is_signed_in_is_named_and_can_leave(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from web.identity import Actor

    assert "Sign out" not in (await site.client.get("/")).text
    monkeypatch.setattr("web.pages.actor", lambda request: Actor("anna", frozenset({"viewer"}), csrf="abc"))
    text = (await site.client.get("/")).text
    assert "anna" in text and 'action="/sign-out"' in text and 'value="abc"' in text


@given(st.text(max_size=200))
def test_whatever_a_runbook_says_is_text(text: str) -> None:
    for block in blocks(text, {"lag"}):
        for line in block.lines:
            plain = re.sub(r'</?(code|i)>|<a href="/runbooks/lag">|</a>', "", line)
            assert "<" not in plain and ">" not in plain
