"""The queues: who waits, who has it, what a decision becomes, and what is refused in words."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.store import StoreDown
from metrics import Metrics
from orders.bounds import violation
from orders.fact import HoldReleased, NoteAdded, ReviewDecided, decode_fact
from streams.clock import VirtualClock
from tests.web.fake_reader import NOW, FakeClaims, FakeReader, ListLog, looked, waits
from web.acts import Acts
from web.app import make_app
from web.desk import CLAIM_MS, HIDE_MS, Desk
from web.evidence import urgency
from web.health import Health
from web.identity import Known, People

ROLES = {"kim": "reviewer", "sam": "reviewer", "olga": "operator", "vic": "viewer"}
APPROVE = {"decision": "approve", "reason": "known customer"}


class Office:
    """The whole application, asked by people with names."""

    def __init__(self) -> None:
        self.log, self.reader, self.claims, self.clock, self.metrics = ListLog(), FakeReader(), FakeClaims(), VirtualClock(NOW), Metrics()
        self.people = People([], [Known(name, frozenset({role}), f"token-{name}") for name, role in ROLES.items()], b"a key of the tests")
        self.app: Any = make_app(
            sink=self.log,  # type: ignore[arg-type]
            reader=self.reader,
            clock=self.clock,
            metrics=self.metrics,
            health=Health(self.metrics),
            claims=self.claims,
            people=self.people,
        )

    def csrf(self, by: str) -> str:
        who = self.people.machine(f"Bearer token-{by}".encode())
        assert who is not None
        return who.csrf

    async def ask(self, by: str, method: str, path: str, **more: Any) -> httpx.Response:
        if "data" in more:
            more["data"] = {"csrf": self.csrf(by), **more["data"]}
        headers = {"authorization": f"Bearer token-{by}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost", headers=headers) as client:
            return await client.request(method, path, **more)

    async def post(self, by: str, target: str, body: Any = None) -> httpx.Response:
        return await self.ask(by, "POST", f"/v1/reviews{target}", **({} if body is None else {"json": body}))

    async def ids(self, queue: str = "review") -> list[str]:
        return [row["id"] for row in (await self.ask("vic", "GET", f"/v1/reviews?queue={queue}")).json()]

    @property
    def facts(self) -> list[Any]:
        assert all(topic == "facts" for topic, _, _ in self.log.told)
        return [decode_fact(value) for _, _, value in self.log.told]


@pytest.fixture
def office() -> Office:
    return Office()


# --- looking
async def test_a_queue_says_who_waits_why_until_when_and_who_has_it(office: Office) -> None:
    await office.post("kim", "/lumi:1001:claim")
    rows = (await office.ask("vic", "GET", "/v1/reviews?limit=2")).json()
    assert [row["id"] for row in rows] == ["lumi:1000", "lumi:1001"]
    assert rows[0]["escalated"] and rows[0]["due"] < NOW and rows[0]["reasons"]
    assert (rows[0]["claimed_by"], rows[1]["claimed_by"], rows[1]["claimed_until"]) == ("", "kim", NOW + CLAIM_MS)
    assert "ana.lima" not in repr(rows)
    assert await office.ids("finance") == ["lumi:1000", "lumi:1001", "lumi:1002", "lumi:1003"]


def test_what_was_escalated_goes_first_then_what_may_cost_most_then_what_waited_longest() -> None:
    def its(name: str, **changed: Any) -> Any:
        return msgspec.structs.replace(waits(3), id=name, escalated=False, priority=0.0, since=NOW, currency="EUR", loss=100, **changed)

    rows = [
        its("escalated"), its("urgent"), its("yen"), its("old"), its("new"), its("cheap"),
    ]  # fmt: skip
    change = msgspec.structs.replace
    rows[0] = change(rows[0], escalated=True, loss=0)
    rows[1] = change(rows[1], priority=0.9)
    rows[2] = change(rows[2], currency="JPY", loss=150)  # 150 yen are more of a number than 1.00 EUR: amounts are compared in major units
    rows[3] = change(rows[3], since=NOW - 9)
    rows[5] = change(rows[5], loss=99)
    rows.reverse()
    assert [r.id for r in sorted(rows, key=urgency)] == ["escalated", "yen", "urgent", "old", "new", "cheap"]


async def test_the_oldest_of_each_queue_is_measured(office: Office) -> None:
    desk = Desk(office.reader, office.claims, Acts(office.log, office.clock), office.metrics)  # type: ignore[arg-type]
    await desk.measure()
    assert 'orderflow_review_age_seconds{queue="review"} 7300.0' in office.metrics.expose().decode()
    office.reader.waiting["review"] = []
    await desk.measure()
    assert 'orderflow_review_age_seconds{queue="review"} 0.0' in office.metrics.expose().decode()


# --- claiming
async def test_a_second_claim_is_409_and_names_who_has_it_and_until_when(office: Office) -> None:
    first = await office.post("kim", "/lumi:1001:claim")
    assert first.json() == {"order": "lumi:1001", "claimed_by": "kim", "claimed_until": NOW + CLAIM_MS}
    second = await office.post("sam", "/lumi:1001:claim")
    assert (second.status_code, second.json()["code"], second.json()["order_id"]) == (409, "claimed", "lumi:1001")
    assert "kim has this order until 18 Nov 11:36:40 UTC" in second.json()["message"]
    assert (await office.post("sam", "/lumi:1001:release")).status_code == 409
    assert (await office.post("sam", "/lumi:1001:decide", APPROVE)).status_code == 409
    assert office.facts == []
    assert (await office.post("kim", "/lumi:1001:release")).json()["claimed_by"] == ""
    assert (await office.post("sam", "/lumi:1001:claim")).status_code == 200


async def test_looking_at_what_one_has_claimed_prolongs_it_and_only_that(office: Office) -> None:
    office.claims.by = {"lumi:1000": ("kim", 60_000), "lumi:1001": ("sam", 60_000)}
    for order in office.claims.by:
        assert (await office.ask("kim", "GET", f"/reviews?at={order}")).status_code == 200
    assert office.claims.by == {"lumi:1000": ("kim", CLAIM_MS), "lumi:1001": ("sam", 60_000)}


# --- deciding
async def test_a_decision_is_a_fact_with_its_person_and_reason_and_the_order_leaves_the_list(office: Office) -> None:
    answer = await office.post("kim", "/lumi:1001:decide", {"decision": "decline", "reason": "stolen card"})
    assert answer.json() == {"order": "lumi:1001", "outcome": "decided", "message": ""}
    (fact,) = office.facts
    assert isinstance(fact, ReviewDecided) and violation(fact) is None
    assert (fact.order, fact.system, fact.at, fact.approve, fact.by, fact.reason) == (
        "lumi:1001",
        "staff",
        NOW,
        False,
        "kim",
        "stolen card",
    )
    assert "lumi:1001" not in await office.ids()
    assert "lumi:1001" in await office.ids("finance"), "about its money nothing was decided"
    assert (await office.post("kim", "/lumi:1001:decide", APPROVE)).json()["code"] == "not_waiting"
    office.clock.move_to(NOW + HIDE_MS)  # its lane has not taken the decision in: it is shown again
    assert "lumi:1001" in await office.ids()


async def test_other_holds_go_only_when_they_are_named(office: Office) -> None:
    await office.post("kim", "/lumi:1000:decide", APPROVE)
    await office.post("kim", "/lumi:1001:decide", {**APPROVE, "release": ["h1"]})
    assert [type(fact) for fact in office.facts] == [ReviewDecided, ReviewDecided, HoldReleased]
    assert (office.facts[2].order, office.facts[2].holds, office.facts[2].by) == ("lumi:1001", ("h1",), "kim")


@pytest.mark.parametrize("why", ["unscored", "incomplete"])
async def test_what_nobody_scored_or_is_incomplete_is_approved_only_when_confirmed(office: Office, why: str) -> None:
    its = office.reader.files["review", "lumi:1001"]
    changed: dict[str, Any] = {"decision": None} if why == "unscored" else {"flags": ("held", "incomplete")}
    office.reader.files["review", "lumi:1001"] = looked(waits(1), order=msgspec.structs.replace(its.order, **changed))
    page = (await office.ask("kim", "GET", "/reviews?at=lumi:1001")).text
    assert 'name="confirm"' in page
    answer = await office.post("kim", "/lumi:1001:decide", APPROVE)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "needs_confirm", "confirm")
    assert office.facts == [] and office.claims.by == {}
    assert (await office.post("kim", "/lumi:1001:decide", {**APPROVE, "confirm": True})).status_code == 200
    assert [fact.approve for fact in office.facts] == [True]


async def test_many_are_decided_at_once_and_each_says_what_became_of_it(office: Office) -> None:
    office.claims.by["lumi:1002"] = ("sam", 60_000)
    office.reader.files["review", "lumi:1003"] = looked(waits(3), holds=(), waiting=None)
    orders = ["lumi:1000", "lumi:1001", "lumi:1000", "lumi:1002", "lumi:1003", "lumi:404"]
    answer = await office.post("kim", ":decide", {**APPROVE, "orders": orders})
    told = {row["order"]: row["outcome"] for row in answer.json()}
    assert told == {
        "lumi:1000": "decided",
        "lumi:1001": "decided",
        "lumi:1002": "claimed",
        "lumi:1003": "not_waiting",
        "lumi:404": "not_found",
    }
    assert [fact.order for fact in office.facts] == ["lumi:1000", "lumi:1001"]
    assert len({fact.object for fact in office.facts}) == 2
    assert office.log.audited == [("kim", "review.decide", "lumi:1000"), ("kim", "review.decide", "lumi:1001")]
    assert office.log.asked == 3, "the facts go together"


async def test_nothing_is_decided_while_the_log_is_down(office: Office) -> None:
    office.log.down = True
    for target, body in (("/lumi:1001:decide", APPROVE), (":decide", {**APPROVE, "orders": ["lumi:1001"]})):
        answer = await office.post("kim", target, body)
        assert (answer.status_code, answer.json()["code"]) == (503, "log_down")
    assert "lumi:1001" in await office.ids()


BAD = [
    ("/lumi:1001:decide", {"decision": "maybe", "reason": "x"}, 422, "decision"),
    ("/lumi:1001:decide", {"decision": "approve"}, 422, "reason"),
    ("/lumi:1001:decide", {"decision": "approve", "reason": " "}, 422, "reason"),
    ("/lumi:1001:decide", {"decision": "approve", "reason": "x" * 501}, 422, "reason"),
    ("/lumi:1001:decide", {**APPROVE, "confirm": "yes"}, 422, "confirm"),
    ("/lumi:1001:decide", {**APPROVE, "release": ["h9"]}, 422, "release"),
    ("/lumi:1001:decide", {**APPROVE, "colour": 1}, 422, "colour"),
    (":decide", {**APPROVE, "orders": []}, 422, "orders"),
    (":decide", {**APPROVE, "orders": [f"lumi:{n}" for n in range(101)]}, 422, "orders"),
    ("/lumi:1001:settle", {"problems": ["finance:none"], "reason": "x"}, 422, "problems"),
    ("/lumi:404:claim", None, 404, ""),
    ("/lumi:404:release", None, 404, ""),
    ("/lumi:404:decide", APPROVE, 404, ""),
    ("/lumi:404:settle", {"problems": ["x"], "reason": "x"}, 404, ""),
    ("/lumi:1001:forget", None, 404, ""),
    ("/lumi", None, 404, ""),
]


@pytest.mark.parametrize(("target", "body", "status", "field"), BAD, ids=[f"{target} {field}" for target, _, _, field in BAD])
async def test_what_cannot_be_is_refused_with_the_field(office: Office, target: str, body: Any, status: int, field: str) -> None:
    answer = await office.post("olga" if "settle" in target else "kim", target, body)
    assert (answer.status_code, answer.json().get("field", "")) == (status, field)
    assert office.facts == []


@pytest.mark.parametrize("by", ["vic", "olga"])
async def test_only_reviewers_review(office: Office, by: str) -> None:
    for target in ("/lumi:1001:claim", "/lumi:1001:release", "/lumi:1001:decide", ":decide"):
        answer = await office.post(by, target, APPROVE)
        assert answer.status_code == 403 and "the role reviewer" in answer.json()["message"]
    assert (await office.ask(by, "POST", "/reviews", data={"do": "claim", "order": "lumi:1001"})).status_code == 403
    assert (await office.post("kim", "/lumi:1001:settle", {"problems": ["x"], "reason": "x"})).status_code == 403
    assert office.facts == [] and office.claims.by == {}
    page = await office.ask(by, "GET", "/reviews")
    assert page.status_code == 200 and 'name="decision"' not in page.text


async def test_a_store_that_is_away_is_503(office: Office) -> None:
    office.reader.fail = StoreDown("at redis://user:secret@host")
    for method, path in (("GET", "/v1/reviews"), ("POST", "/v1/reviews/lumi:1001:claim")):
        answer = await office.ask("kim", method, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_down") and "secret" not in answer.text


# --- pages
async def test_a_form_leads_to_the_next_order_and_what_went_wrong_is_said_on_the_page(office: Office) -> None:
    form = {"order": "lumi:1001", "next": "lumi:1002", "do": "decide", "decision": "approve", "reason": "fine"}
    page = await office.ask("kim", "GET", "/reviews?at=lumi:1001")
    assert 'name="next" value="lumi:1002"' in page.text and f'name="csrf" value="{office.csrf("kim")}"' in page.text
    refused = await office.ask("kim", "POST", "/reviews", data={**form, "reason": " "})
    assert refused.status_code == 422 and "Say why" in refused.text and office.facts == []
    office.claims.by["lumi:1001"] = ("sam", 60_000)
    taken = await office.ask("kim", "POST", "/reviews", data=form)
    assert taken.status_code == 409 and "sam has this order until" in taken.text
    office.claims.by.clear()
    done = await office.ask("kim", "POST", "/reviews", data=form)
    assert (done.status_code, done.headers["location"]) == (303, "/reviews?at=lumi%3A1002")
    assert [fact.order for fact in office.facts] == ["lumi:1001"]


async def test_an_order_that_left_the_queue_meanwhile_says_so(office: Office) -> None:
    office.reader.files["review", "lumi:1001"] = looked(waits(1), holds=(), waiting=None)
    page = await office.ask("kim", "GET", "/reviews?at=lumi:1001")
    assert "not held any more" in page.text and 'name="decision"' not in page.text
    assert "no order with this ID" in (await office.ask("kim", "GET", "/reviews?at=lumi:404")).text


async def test_finance_sees_who_said_what_and_settles_the_problems_it_names(office: Office) -> None:
    page = (await office.ask("olga", "GET", "/finance")).text
    assert "54.00\u00a0EUR" in page and "shopify:lumi" in page and 'name="problem.finance:dispute:dp_1"' in page
    form = {"order": "lumi:1000", "next": "lumi:1001", "reason": "accepted the loss"}
    noted = await office.ask("olga", "POST", "/finance", data={**form, "do": "note"})
    assert noted.headers["location"] == "/finance?at=lumi%3A1000"
    settled = await office.ask("olga", "POST", "/finance", data={**form, "do": "settle", "problem.finance:dispute:dp_1": "on"})
    assert settled.headers["location"] == "/finance?at=lumi%3A1001"
    note, release = office.facts
    assert isinstance(note, NoteAdded) and (note.text, note.by) == ("accepted the loss", "olga")
    assert isinstance(release, HoldReleased) and release.holds == ("finance:dispute:dp_1",)
    assert (await office.ask("olga", "POST", "/finance", data={**form, "do": "settle"})).status_code == 422


FEW = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
WORDS = st.sampled_from(["approve", "decline", "decide", "note", "lumi:1001", "x", ""]) | st.text(max_size=8)
VALUES = st.recursive(WORDS | st.booleans() | st.none() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)
FIELDS = st.sampled_from(
    ["decision", "reason", "confirm", "release", "orders", "problems", "do", "order", "next", "also.lumi:1", "hold.h1"]
)
TARGETS = st.sampled_from([":decide", "/lumi:1001:decide", "/lumi:1001:settle", "/a:claim"])


@FEW
@given(body=st.dictionaries(FIELDS, VALUES, max_size=7), target=TARGETS)
def test_any_body_is_taken_or_refused_in_words(office: Office, body: dict[str, Any], target: str) -> None:
    async def ask() -> None:
        by = "olga" if "settle" in target else "kim"
        answer = await office.post(by, target, body)
        form = {name: str(value).encode("utf-8", "replace").decode() for name, value in body.items()}
        page = await office.ask(by, "POST", "/finance" if by == "olga" else "/reviews", data=form)
        for its in (answer, page):
            assert its.status_code < 500 and "Traceback" not in its.text
        for fact in office.facts:
            assert violation(fact) is None and (fact.text if isinstance(fact, NoteAdded) else fact.reason).strip()

    asyncio.run(ask())
