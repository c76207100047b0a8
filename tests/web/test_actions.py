"""What is done with an order: by whom, with which words, once, and written down."""

from __future__ import annotations

import re
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orders.bounds import violation
from orders.fact import (
    Address,
    AddressCorrected,
    CancelRequested,
    EffectSettled,
    Fact,
    HoldPlaced,
    HoldReleased,
    NoteAdded,
    Person,
    ResendRequested,
    ReviewDecided,
    decode_fact,
)
from tests.web.conftest import Site
from tests.web.fake_reader import NOW, PERSON, detail
from tests.web.staff import bearer, csrf, everybody, sign_in
from web.actions import ROLES, Act, meant, understood
from web.audit import TOPIC, Audited
from web.identity import ROLES as EVERY_ROLE
from web.identity import People
from web.problem import Refusal
from web.reader import Doubt

HELD = msgspec.structs.replace(
    detail(),
    flags=("held",),
    holds=("a person has to look at it",),
    hold_ids=("review", "h1"),
    doubts=(Doubt(effect="e1", title="Refund", at=NOW),),
)
UNSCORED = msgspec.structs.replace(HELD, id="lumi:2", decision=None, hold_ids=("h1",))
INCOMPLETE = msgspec.structs.replace(HELD, id="lumi:3", flags=("held", "incomplete"))
WHY = "she called us"
BODIES: dict[str, dict[str, Any]] = {
    "cancel": {"reason": WHY},
    "hold": {"reason": WHY},
    "release": {"reason": WHY},
    "approve": {"reason": WHY},
    "decline": {"reason": WHY},
    "note": {"text": "called, all is well"},
    "settle": {"reason": WHY, "effect": "e1", "happened": True},
    "resend": {"reason": WHY, "effect": "a"},
    "correct_address": {"reason": WHY, "person": {"address": {"lines": ["Rua Nova 1"], "city": "Lisboa", "country": "PT"}}},
}
MAY = {
    "operator": {"cancel", "hold", "resend", "settle", "correct_address", "note"},
    "reviewer": {"approve", "decline", "release", "note"},
    "warehouse": {"note"},
    "viewer": set(),
    "admin": set(BODIES),
}


@pytest.fixture
def people() -> People:
    return everybody()


@pytest.fixture
def orders(site: Site) -> Site:
    site.reader.details |= {order.id: order for order in (msgspec.structs.replace(HELD, id="lumi:1"), UNSCORED, INCOMPLETE)}
    return site


async def act(site: Site, action: str, order: str = "lumi:1", role: str = "admin", key: str = "", **more: Any) -> httpx.Response:
    headers = bearer(role) | ({"idempotency-key": key} if key else {})
    return await site.client.post(f"/v1/orders/{order}/actions", json={"action": action, **BODIES.get(action, {}), **more}, headers=headers)


def told(site: Site) -> list[Fact]:
    return [decode_fact(value) for topic, _, value in site.log.records if topic == "facts"]


def audited(site: Site) -> list[Audited]:
    return [msgspec.json.decode(value, type=Audited) for topic, _, value in site.log.records if topic == TOPIC]


# --- by whom
@pytest.mark.parametrize("role", EVERY_ROLE)
async def test_every_action_by_every_role(orders: Site, role: str) -> None:
    for action in BODIES:
        before = len(orders.log.records)
        answer = await act(orders, action, role=role)
        if action in MAY[role]:
            assert answer.status_code == 202, (action, answer.text)
            assert (audited(orders)[-1].who, audited(orders)[-1].action) == (f"machine-{role}", f"order.{action}")
        else:
            assert answer.status_code == 403 and len(orders.log.records) == before, action
            assert (ROLES[_kind(action)] or "other than viewer") in answer.json()["message"]


def _kind(action: str) -> type[Act]:
    return next(kind for kind in ROLES if kind.__struct_config__.tag == action)


# --- what it is
async def test_every_action_is_a_fact_by_whoever_did_it_with_the_reason(orders: Site) -> None:
    for action in BODIES:
        assert (await act(orders, action)).status_code == 202
    cancel, hold, release, approve, decline, note, settle, resend, address, said = told(orders)
    assert isinstance(cancel, CancelRequested) and (cancel.reason, cancel.by, cancel.at) == (WHY, "machine-admin", NOW)
    assert isinstance(hold, HoldPlaced) and hold.reason == WHY
    assert isinstance(release, HoldReleased) and release.holds == ("review", "h1")
    assert isinstance(approve, ReviewDecided) and approve.approve and isinstance(decline, ReviewDecided) and not decline.approve
    assert isinstance(note, NoteAdded) and note.text == "called, all is well"
    assert isinstance(settle, EffectSettled) and (settle.effect, settle.happened) == ("e1", True)
    assert isinstance(resend, ResendRequested) and resend.effect == "a"
    assert isinstance(address, AddressCorrected) and address.person.address.city == "Lisboa"
    assert (address.person.name, address.person.email) == (PERSON.name, PERSON.email), "what was not given stays"
    assert isinstance(said, NoteAdded) and WHY in said.text and said.by == "machine-admin"
    assert all(fact.order == "lumi:1" and fact.system == "staff" and violation(fact) is None for fact in told(orders))


async def test_the_audit_has_who_when_before_after_and_why_and_no_address(orders: Site) -> None:
    await act(orders, "release", role="reviewer")
    await act(orders, "correct_address", role="operator")
    released, corrected = audited(orders)
    assert released == Audited(
        id=released.id,
        at=NOW,
        who="machine-reviewer",
        roles=("reviewer",),
        action="order.release",
        subject="lumi:1",
        before="out_for_delivery, held, hold review, hold h1",
        after="released review, h1",
        reason=WHY,
    )
    assert corrected.after == "changed address" and "Lisboa" not in str(corrected)


async def test_what_cannot_be_written_down_is_not_done(orders: Site) -> None:
    orders.log.down = True
    answer = await act(orders, "cancel")
    assert answer.status_code == 503 and "retry-after" in answer.headers and not orders.log.records


# ---
@pytest.mark.parametrize(("order", "why"), [("lumi:2", "no score"), ("lumi:3", "could not be read")])
@pytest.mark.parametrize("action", ["release", "approve"])
async def test_what_nobody_has_scored_or_fully_read_is_let_go_only_after_a_warning(orders: Site, order: str, why: str, action: str) -> None:
    warned = await act(orders, action, order)
    assert (warned.status_code, warned.json()["code"], warned.json()["field"]) == (409, "confirm", "confirm")
    assert why in warned.json()["message"] and not orders.log.records
    assert (await act(orders, action, order, confirm=True)).status_code == 202


def test_the_release_of_an_unscored_order_is_for_good() -> None:
    (release,) = meant(understood(b'{"action":"release","reason":"I know her","confirm":true}'), UNSCORED, "x", NOW, "kim").facts
    assert isinstance(release, HoldReleased) and set(release.holds) == {"h1", "review", "decline"}


async def test_what_cannot_be_done_is_refused_with_the_reason(orders: Site) -> None:
    orders.reader.details["lumi:4"] = msgspec.structs.replace(HELD, id="lumi:4", holds=(), hold_ids=())
    for answer, status, field in (
        (await act(orders, "release", "lumi:4"), 409, ""),
        (await act(orders, "resend", effect="c"), 409, "effect"),  # only observed
        (await act(orders, "resend", effect="b"), 409, "effect"),  # nobody has told of it yet
        (await act(orders, "resend", effect="z"), 422, "effect"),
        (await act(orders, "settle", effect="z"), 422, "effect"),
        (await act(orders, "correct_address", person={}), 422, "person"),
        (await act(orders, "cancel", "lumi:99"), 404, ""),
    ):
        assert (answer.status_code, answer.json().get("field", "")) == (status, field), answer.text
    assert not orders.log.records


MISUNDERSTOOD: list[tuple[Any, str]] = [
    ({"action": "explode", "reason": WHY}, "action"),
    ({"reason": WHY}, "action"),
    ({"action": "cancel"}, "reason"),
    ({"action": "cancel", "reason": "no"}, "reason"),
    ({"action": "cancel", "reason": "   "}, "reason"),
    ({"action": "cancel", "reason": "x" * 501}, "reason"),
    ({"action": "cancel", "reason": 7}, "reason"),
    ({"action": "cancel", "reason": WHY, "happened": True}, "happened"),
    ({"action": "note", "text": ""}, "text"),
    ({"action": "note", "text": " "}, "text"),
    ({"action": "settle", "reason": WHY, "effect": "e1"}, "happened"),
    ({"action": "correct_address", "reason": WHY, "person": {"nick": "x"}}, "person.nick"),
    ({"action": "correct_address", "reason": WHY, "person": {"address": {"city": 1}}}, "person.address.city"),
    ([], ""),
]


async def test_what_is_not_understood_is_refused_naming_the_field(orders: Site) -> None:
    for body, field in MISUNDERSTOOD:
        answer = await orders.client.post("/v1/orders/lumi:1/actions", json=body, headers=bearer("admin"))
        assert (answer.status_code, answer.json().get("field", "")) == (422, field), (body, answer.text)
    assert not orders.log.records


# --- once
async def test_the_same_key_is_one_fact_and_another_body_under_it_is_refused(orders: Site) -> None:
    key = "k-1"
    first, again = await act(orders, "hold", key=key), await act(orders, "hold", key=key)
    assert first.content == again.content and first.status_code == 202 and len(told(orders)) == 1
    other = await act(orders, "hold", key=key, reason="another reason")
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    elsewhere = await act(orders, "hold", "lumi:2", key=key)
    assert elsewhere.status_code == 422
    somebody = await act(orders, "hold", role="operator", key=key)
    assert somebody.status_code == 202 and len({fact.object for fact in told(orders)}) == 2, "keys of one are not those of another"


async def test_a_process_that_has_forgotten_a_key_still_makes_the_same_fact_of_it(orders: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.gateway.Memory.get", lambda memory, key: None)
    for _ in range(2):
        assert (await act(orders, "cancel", key="k-1")).status_code == 202
    assert len({fact.object for fact in told(orders)}) == 1 and len({entry.id for entry in audited(orders)}) == 1
    assert len((await orders.client.get("/v1/audit", headers=bearer("admin"))).json()) == 1


async def test_what_was_refused_may_be_asked_again_under_its_key(orders: Site) -> None:
    key = "k-1"
    assert (await act(orders, "cancel", "lumi:5", key=key)).status_code == 404
    orders.reader.details["lumi:5"] = msgspec.structs.replace(HELD, id="lumi:5")
    assert (await act(orders, "cancel", "lumi:5", key=key)).status_code == 202


# --- resend
async def test_a_message_is_resent_by_its_own_path_too(orders: Site) -> None:
    url = "/v1/orders/lumi:1/notifications:resend"
    answer = await orders.client.post(url, json={"effect": "a", "reason": WHY}, headers=bearer("operator"))
    assert answer.status_code == 202 and answer.json()["action"] == "resend"
    assert isinstance(told(orders)[0], ResendRequested)
    assert (await orders.client.post(url, json={"effect": "a"}, headers=bearer("operator"))).json()["field"] == "reason"
    assert (await orders.client.post(url, json={"effect": "a", "reason": WHY}, headers=bearer("reviewer"))).status_code == 403


# --- by hand
async def test_the_page_offers_what_its_reader_may_do(orders: Site) -> None:
    for role in EVERY_ROLE:
        await sign_in(orders.client, role)
        text = (await orders.client.get("/orders/lumi:1")).text
        assert set(re.findall(r'name="action" value="([a-z_]*)"', text)) == MAY[role], role
        assert ('href="/audit"' in text) == (role in ("operator", "admin"))


async def test_a_form_does_it_once_and_the_page_says_so(orders: Site) -> None:
    await sign_in(orders.client, "operator")
    data = {"csrf": await csrf(orders.client, "/orders/lumi:1"), "once": "abc", "action": "cancel", "reason": WHY}
    for _ in range(2):  # a double click
        answer = await orders.client.post("/orders/lumi:1/actions", data=data)
        assert (answer.status_code, answer.headers["location"]) == (303, "/orders/lumi%3A1?done=cancel")
    assert len({fact.object for fact in told(orders)}) == 1
    assert "The cancellation is on its way" in (await orders.client.get(answer.headers["location"])).text
    assert "<script" not in (await orders.client.get("/orders/lumi:1?done=<script>")).text.replace('<script src="/static', "")


async def test_a_form_that_is_refused_says_why_and_keeps_what_was_typed(orders: Site) -> None:
    await sign_in(orders.client, "admin")
    secret = await csrf(orders.client, "/orders/lumi:2")
    for data, status, words in (
        ({"action": "release", "reason": "I know her", "holds": "h1"}, 409, "This order has no score yet"),
        ({"action": "cancel", "reason": "no"}, 422, "at least 3 characters (reason)"),
        ({"action": "cancel", "reason": "x" * 501}, 422, "at most 500 characters (reason)"),
        ({"action": "explode"}, 422, "known are"),
    ):
        answer = await orders.client.post("/orders/lumi:2/actions", data={"csrf": secret, **data})
        assert answer.status_code == status and words in answer.text and data.get("reason", "") in answer.text
    good = {"action": "release", "reason": "I know her", "holds": "h1\r\nh2", "confirm": "yes"}
    assert (await orders.client.post("/orders/lumi:2/actions", data={"csrf": secret, **good})).status_code == 303
    (release,) = told(orders)
    assert isinstance(release, HoldReleased) and release.holds == ("h1", "h2", "review", "decline")


async def test_an_address_is_corrected_by_hand(orders: Site) -> None:
    await sign_in(orders.client, "operator")
    data = {"csrf": await csrf(orders.client, "/orders/lumi:1"), "action": "correct_address", "reason": WHY, "lines": "Rua Nova 1\r\n2 E"}
    data |= {"city": "Lisboa", "postcode": "1100", "region": "", "country": "PT"}
    assert (await orders.client.post("/orders/lumi:1/actions", data=data)).status_code == 303
    corrected = told(orders)[0]
    assert isinstance(corrected, AddressCorrected)
    assert corrected.person.address == Address(lines=("Rua Nova 1", "2 E"), city="Lisboa", postcode="1100", country="PT")


# --- the audit
async def test_the_audit_is_for_operators_and_can_be_narrowed(orders: Site) -> None:
    for role in ("viewer", "reviewer", "warehouse"):
        refused = await orders.client.get("/v1/audit", headers=bearer(role))
        assert refused.status_code == 403 and "operator" in refused.json()["message"]
    for n in range(3):
        orders.clock.move_to(NOW + n)
        await act(orders, "note", role="reviewer", text=f"note {n}")
    await act(orders, "cancel", role="operator")
    entries = (await orders.client.get("/v1/audit", headers=bearer("operator"))).json()
    assert [entry["action"] for entry in entries].count("order.note") == 3 and entries[0]["at"] >= entries[-1]["at"]
    mine = (await orders.client.get("/v1/audit?who=machine-operator&action=order.cancel", headers=bearer("admin"))).json()
    assert [entry["who"] for entry in mine] == ["machine-operator"]
    await sign_in(orders.client, "operator")
    text = (await orders.client.get("/audit")).text
    assert "machine-reviewer" in text and "order.cancel" in text and "sign_in" in text
    assert "machine-reviewer" not in (await orders.client.get("/audit?who=machine-operator")).text


# --- whatever comes
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["address", "city", "name", "x"]), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(["action", "reason", "confirm", "holds", "effect", "happened", "person", "text", "x"])
bodies = st.one_of(
    st.binary(max_size=40),
    values.map(msgspec.json.encode),
    st.builds(
        lambda action, changed: msgspec.json.encode({"action": action, **BODIES[action], **changed}),
        st.sampled_from(sorted(BODIES)),
        st.dictionaries(fields, values, max_size=3),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_any_body_is_an_action_or_refused_in_words_and_what_it_means_is_sound(body: bytes) -> None:
    try:
        facts = meant(understood(body), HELD, "x", NOW, "kim").facts
    except Refusal as error:
        refusal = error
    else:
        assert all(violation(fact) is None and decode_fact(msgspec.json.encode(fact)) == fact for fact in facts)
        return
    assert refusal.status in (409, 422) and refusal.message


def test_what_is_known_of_a_person_is_kept_where_nothing_is_given() -> None:
    given_person = b'{"action":"correct_address","reason":"typed wrongly","person":{"phone":"+351910000002"}}'
    corrected, _ = meant(understood(given_person), HELD, "x", NOW, "kim").facts
    assert isinstance(corrected, AddressCorrected)
    assert corrected.person == msgspec.structs.replace(PERSON, phone="+351910000002") != Person()
