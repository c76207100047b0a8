"""What every action of every vendor promises. A new line in a vendor's `actions` is tested here at once.

What it is tested with lies in `tests/samples/actions/<vendor>.json`, written by hand from the vendor's specification: credentials that
are none, the account's options, what each action is asked for, and replies with what they give: `["done", reference]`,
`["try_later", reason, after_s?]`, `["refused", reason]` or `["unknown", reason]`. A reply of `"lookup": true` answers the look-up.
"""

from __future__ import annotations

import contextlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.base import Answer, Done, Reason, Refused, Secret, TryLater, Unknown
from connectors.delivery import Unreadable
from connectors.http import Reply, Request
from connectors.login import STUMBLES
from connectors.registry import VENDORS
from connectors.systems import read
from connectors.vendor import Account, Action, Ask, Login, Origin, Vendor
from orders.fact import Address
from tests.connectors.vendors.test_contract import places, put

SAMPLES = Path(__file__).parents[2] / "samples" / "actions"
NOW = 1_795_000_000_000
KEY = "effect-16-chars_"
URL = "https://api.vendor.example/base"
GARBAGE = (b"", b"null", b"[]", b"{}", b"<html>busy</html>", b"\xff\xfe", b'{"error":5}', b"[" * 10_000)


@cache
def sample(vendor: str) -> dict[str, Any]:
    file = SAMPLES / f"{vendor}.json"
    if not file.exists():
        assert not VENDORS[vendor].actions, f"{vendor} does things for us: write {file.name} by hand from its specification"
        return {"credentials": {}, "options": {}, "asks": {}, "replies": []}  # it is only asked questions
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@cache
def account(vendor: str, url: str = URL) -> Account:
    its = sample(vendor)
    home = Address(lines=("1 Example Street",), city="Austin", region="TX", postcode="78701", country="US")
    return Account(
        source=f"{vendor}-lumi",
        shop="lumi",
        url=url,
        credentials={name: Secret(value) for name, value in its["credentials"].items()},
        options=its["options"],
        origin=Origin(name="Lumi Zone", phone="+15125550100", address=home),
    )


def ask(vendor: str, action: str, data: Any = None) -> Ask:
    its = json.dumps(sample(vendor)["asks"][action] if data is None else data).encode()
    return Ask(action, KEY, "lumi:1001", msgspec.Raw(its), at=NOW)


def rendered(vendor: Vendor, action: str) -> list[Request]:
    its = vendor.actions[action]
    renders = [its.render, *([its.look] if its.look else [])]
    return [render(account(vendor.name), ask(vendor.name, action)) for render in renders]


def answer(vendor: Vendor, action: str, reply: Reply, lookup: bool = False) -> Answer:
    return read(vendor.actions[action], account(vendor.name), ask(vendor.name, action), reply, lookup)


def in_words(given: Answer) -> list[Any]:
    match given:
        case Done(reference=reference):
            return ["done", reference]
        case TryLater(reason=reason, after_s=after_s):
            return ["try_later", str(reason), *([] if after_s is None else [after_s])]
        case Refused(reason=reason):
            return ["refused", str(reason)]
        case Unknown(reason=reason):
            return ["unknown", str(reason)]


def body(reply: dict[str, Any]) -> bytes:
    return b"" if reply["body"] is None else json.dumps(reply["body"]).encode()


ACTIONS = [(vendor, action) for vendor in VENDORS.values() for action in vendor.actions]
each_action = pytest.mark.parametrize(("vendor", "action"), ACTIONS, ids=[f"{v.name}/{a}" for v, a in ACTIONS])
ABLE = [vendor for vendor in VENDORS.values() if vendor.actions]
each_vendor = pytest.mark.parametrize("vendor", ABLE, ids=[vendor.name for vendor in ABLE])
REPLIES = [(vendor, n, reply) for vendor in ABLE for n, reply in enumerate(sample(vendor.name)["replies"])]
each_reply = pytest.mark.parametrize(
    ("vendor", "reply"),
    [(vendor, reply) for vendor, _, reply in REPLIES],
    ids=[f"{v.name}/{reply['action']}-{'look-' * reply.get('lookup', False)}{reply['status']}-{n}" for v, n, reply in REPLIES],
)


def secrets(vendor: str) -> list[str]:
    return list(sample(vendor)["credentials"].values())


# --- what is asked
@each_action
def test_an_action_has_a_sample_of_what_it_is_asked_and_of_what_it_answers(vendor: Vendor, action: str) -> None:
    its = sample(vendor.name)
    assert action in its["asks"]
    done = [reply for reply in its["replies"] if reply["action"] == action and reply["gives"][0] == "done"]
    assert done, f"no hand-written reply in which {action} is done"


@each_action
def test_a_render_is_pure_and_knows_no_credentials(vendor: Vendor, action: str) -> None:
    assert rendered(vendor, action) == rendered(vendor, action)
    bare = msgspec.structs.replace(account(vendor.name), credentials={})
    for request in rendered(vendor, action):
        shown = f"{request.url} {request.headers} {request.body!r}"
        assert not [hidden for hidden in secrets(vendor.name) if hidden in shown]
        assert "authorization" not in {name.lower() for name, _ in request.headers}
    assert vendor.actions[action].render(bare, ask(vendor.name, action)) == rendered(vendor, action)[0]


@each_action
def test_a_request_goes_to_the_account_s_address_or_else_to_the_vendor_s(vendor: Vendor, action: str) -> None:
    usual = account(vendor.name, "")
    its = vendor.actions[action]
    for render in filter(None, (its.render, its.look)):
        assert render(account(vendor.name), ask(vendor.name, action)).url.startswith(URL + "/")
        if not vendor.url:
            continue  # each account has an address of its own, which the configuration must give
        assert vendor.url.startswith("https://") and not vendor.url.endswith("/")
        assert render(usual, ask(vendor.name, action)).url.startswith(vendor.url + "/")


@each_action
def test_its_ability_is_what_it_says(vendor: Vendor, action: str) -> None:
    its = vendor.actions[action]
    assert (its.look is not None) == (its.found is not None) == (its.ability.kind == "lookup")
    if its.ability.kind == "keyed":
        assert its.ability.life_s > 0
        request = its.render(account(vendor.name), ask(vendor.name, action))
        assert KEY in f"{request.headers} {request.body!r}", "a key that is not sent is none"


@each_action
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_cannot_be_asked_is_refused_in_words_before_anything_leaves(vendor: Vendor, action: str, data: st.DataObject) -> None:
    whole = sample(vendor.name)["asks"][action]
    place = data.draw(st.sampled_from(list(places(whole))))
    value = data.draw(st.sampled_from([None, "", "x", -1, 0, 2**70, 1.5, True, [], {}, [None], "9" * 400, "\x00"]))
    with contextlib.suppress(*STUMBLES):
        request = vendor.actions[action].render(account(vendor.name), ask(vendor.name, action, put(whole, place, value)))
        assert isinstance(request, Request)


# --- what is answered
@each_reply
def test_a_reply_gives_what_its_sample_says(vendor: Vendor, reply: dict[str, Any]) -> None:
    given = answer(
        vendor, reply["action"], Reply(reply["status"], {}, body(reply), reply.get("retry_after_s")), bool(reply.get("lookup", False))
    )
    assert in_words(given) == reply["gives"]
    if isinstance(given, Done) and reply["action"] == "carrier.label":
        assert len(given.reference.split(" ")) == 2, "carrier and tracking number; the file is added when it is kept"
        assert given.keep, "the label"


@each_action
@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_a_status_gives_the_right_word_whatever_came_with_it(vendor: Vendor, action: str, content: bytes) -> None:
    keyed = vendor.actions[action].ability.kind == "keyed"
    for status in range(200, 600):
        given = answer(vendor, action, Reply(status, {}, content, 7.0))
        assert isinstance(given, Done | TryLater | Refused | Unknown)
        if status == 200 and not keyed:
            assert isinstance(given, Done | Unknown), "it may have happened"
        if status == 401:
            assert given == TryLater(Reason.CREDENTIALS)
        if status == 429:
            assert given == TryLater(Reason.RATE, 7.0)
        if status >= 500:
            assert isinstance(given, TryLater | Unknown), "an accident is no answer"
        if status in (502, 504) and not keyed:
            assert isinstance(given, Unknown), "something in between answered: nobody can tell"


@each_action
def test_a_look_up_frees_only_what_the_vendor_says_it_never_had(vendor: Vendor, action: str) -> None:
    if vendor.actions[action].ability.kind != "lookup":
        return
    for content in GARBAGE:
        for status in (200, 301, 400, 401, 403, 404, 405, 429, 500, 502, 503, 504):
            given = answer(vendor, action, Reply(status, {}, content), lookup=True)
            assert given != TryLater(Reason.NOT_FOUND), f"{status} {content[:20]!r}"
            assert not isinstance(given, Done), f"{status} {content[:20]!r}"


@each_reply
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_reply_that_is_damaged_anywhere_is_read_all_the_same(vendor: Vendor, reply: dict[str, Any], data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(list(places(reply["body"]))))
    value = data.draw(st.sampled_from([None, "", "x", -1, 2**70, 1.5, True, [], {}, [None], "9" * 400]))
    content = json.dumps(put(reply["body"], place, value)).encode()
    cut = data.draw(st.integers(0, len(content)))
    for raw in (content, content[:cut]):
        given = answer(vendor, reply["action"], Reply(reply["status"], {}, raw), bool(reply.get("lookup", False)))
        assert isinstance(given, Done | TryLater | Refused | Unknown)
        assert isinstance(given, Done) or given.reason in Reason


# --- how requests are authorised
@each_vendor
def test_the_credentials_come_with_the_login_and_a_missing_one_is_noticed(vendor: Vendor) -> None:
    login = vendor.login
    assert isinstance(login, Login)
    assert (login.render is None) == (login.token is None)
    its = account(vendor.name)
    headers = login.headers(its, "the-token")
    assert headers and all(isinstance(name, str) and isinstance(value, str) for name, value in headers)
    if login.render is not None:
        request = login.render(its)
        assert request.url.startswith(URL + "/")
        assert any("the-token" in value for _, value in headers)
        assert "the-token" not in repr(request)
    bare = msgspec.structs.replace(its, credentials={})
    with pytest.raises(KeyError):
        login.headers(bare, "") if login.render is None else login.render(bare)


@each_vendor
def test_a_token_that_cannot_be_read_is_said_to_be_unreadable(vendor: Vendor) -> None:
    if vendor.login is None or vendor.login.token is None:
        return
    for content in GARBAGE:
        with pytest.raises(Unreadable):
            vendor.login.token(Reply(200, {}, content))


# --- what it is asked
QUESTIONS = [(vendor, name) for vendor in VENDORS.values() for name in vendor.questions]


@pytest.mark.parametrize(("vendor", "name"), QUESTIONS, ids=[f"{v.name}/{n}" for v, n in QUESTIONS])
def test_a_question_is_pure_knows_no_credentials_and_its_answer_can_be_read(vendor: Vendor, name: str) -> None:
    question = vendor.questions[name]
    assert question.answer in vendor.answers
    its = account(vendor.name)
    for value, cursor in ((str(NOW), ""), (str(NOW), "next")):
        request = question.render(its, value, cursor)
        assert request == question.render(its, value, cursor)
        assert request.url.startswith(URL + "/")
        assert not [hidden for hidden in secrets(vendor.name) if hidden in f"{request.url} {request.headers} {request.body!r}"]
    for content in GARBAGE:
        assert question.next(Reply(200, {}, content)) == "", "a page that cannot be read is the last"


def test_the_suite_sees_an_action() -> None:
    assert ("stripe", "payment.refund") in [(vendor.name, action) for vendor, action in ACTIONS]
    assert all(isinstance(vendor.actions[action], Action) for vendor, action in ACTIONS)
