"""Who may come in: people with a session, machines with a token, and what either may do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import Metrics
from streams.clock import VirtualClock
from tests.web.conftest import Site
from tests.web.facts import body, captured
from tests.web.fake_reader import NOW, FakeReader, ListLog
from tests.web.staff import KEY, PASSWORD, bearer, cheaply_hashed, csrf, everybody, sign_in
from web.app import WebServer, make_app
from web.audit import TOPIC
from web.health import Health
from web.identity import COOKIE, ROLES, SESSION_MS, Actor, Attempts, Known, People, hashed, only, verify
from web.signing_in import local

PAGE = {"accept": "text/html"}


@pytest.fixture
def people() -> People:
    return everybody()


# --- passwords and sessions
def test_a_password_is_kept_as_a_salted_hash() -> None:
    secret = hashed(PASSWORD)
    assert secret.startswith("scrypt$16384$8$1$") and PASSWORD not in secret and hashed(PASSWORD) != secret
    assert verify(PASSWORD, secret) and not verify(PASSWORD + " ", secret)


NO_HASHES = ("", "secret", "scrypt$3$1$1$c2FsdA==$c2FsdA==", "scrypt$1048576$64$1$c2FsdA==$" + "A" * 44, "md5$2$1$1$a$b")


@pytest.mark.parametrize("secret", NO_HASHES)
def test_what_is_no_password_hash_is_said_to_be_none(secret: str) -> None:
    with pytest.raises(ValueError, match="people hash"):
        People([Known("anna", frozenset({"admin"}), secret)], key=KEY)


@given(bit=st.integers(0), name=st.sampled_from(ROLES))
def test_a_session_with_any_bit_changed_is_none(bit: int, name: str) -> None:
    people = everybody()
    cookie = people.begin(name, NOW)
    assert people.session(cookie, NOW) is not None
    raw = bytearray(cookie.encode())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    assert people.session(raw.decode("latin-1"), NOW) is None


@given(st.text())
def test_no_text_is_taken_for_a_session(text: str) -> None:
    assert everybody().session(text, NOW) is None


def test_a_session_ends_by_time_by_another_password_and_with_its_person() -> None:
    cookie = everybody().begin("operator", NOW)
    assert everybody().session(cookie, NOW + SESSION_MS - 1) == everybody().session(cookie, NOW)
    assert everybody().session(cookie, NOW + SESSION_MS) is None
    assert everybody("another password").session(cookie, NOW) is None
    assert People([], [], KEY).session(cookie, NOW) is None
    others = People([Known("operator", frozenset({"operator"}), cheaply_hashed(PASSWORD))], key=b"another installation")
    assert others.session(cookie, NOW) is None


def test_roles_are_those_of_now_and_not_of_when_the_session_began() -> None:
    cookie = everybody().begin("operator", NOW)
    fewer = People([Known("operator", frozenset({"viewer"}), cheaply_hashed(PASSWORD))], key=KEY)
    assert fewer.session(cookie, NOW) is not None and fewer.session(cookie, NOW).roles == {"viewer"}  # type: ignore[union-attr]


def test_an_unknown_name_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def watched(password: str, secret: str) -> bool:
        looked.append(secret)
        return verify(password, secret)

    monkeypatch.setattr("web.identity.verify", watched)
    people = everybody()
    assert people.password("operator", PASSWORD) and not people.password("nobody", PASSWORD)
    assert len(looked) == 2 and looked[0] == looked[1]


# --- the page
async def test_whoever_is_not_signed_in_is_sent_to_the_page_and_back(site: Site) -> None:
    away = await site.client.get("/orders?tag=held", headers=PAGE)
    assert (away.status_code, away.headers["location"]) == (303, "/sign-in?next=%2Forders%3Ftag%3Dheld")
    page = await site.client.get(away.headers["location"])
    assert page.status_code == 200 and 'name="next" value="/orders?tag=held"' in page.text and "/static/people.css" in page.text
    assert (await site.client.get("/static/people.css")).status_code == 200
    back = await sign_in(site.client, "viewer", next="/orders?tag=held")
    assert (back.status_code, back.headers["location"]) == (303, "/orders?tag=held")
    cookie = back.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=") and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Max-Age=43200" in cookie
    assert "Secure" not in cookie
    shown = await site.client.get("/orders?tag=held", headers=PAGE)
    assert shown.status_code == 200 and "Sign out" in shown.text


async def test_behind_tls_the_cookie_is_for_tls_only(site: Site) -> None:
    answer = await site.client.post("/sign-in", data={"name": "viewer", "password": PASSWORD}, headers={"x-forwarded-proto": "https"})
    assert "; Secure" in answer.headers["set-cookie"]


async def test_without_a_session_machines_and_scripts_are_told_so_and_nothing_is_shown(site: Site) -> None:
    for path in ("/", "/orders", "/orders/lumi:1004", "/live", "/audit", "/metrics", "/openapi.json", "/v1/orders", "/v1/audit"):
        answer = await site.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/healthz", "/readyz", "/sign-in"):
        assert (await site.client.get(path)).status_code == 200
    refused = await site.client.post("/v1/facts", content=body(captured()))
    assert refused.status_code == 401 and not site.log.records


async def test_a_wrong_password_and_an_unknown_name_are_answered_alike_and_written_down_without_what_was_typed(site: Site) -> None:
    wrong, unknown = await sign_in(site.client, "viewer", "wrong"), await sign_in(site.client, "hunter2", "wrong")
    assert wrong.status_code == unknown.status_code == 403 and COOKIE not in str(wrong.headers) + str(unknown.headers)
    assert wrong.text.replace('value="viewer"', "") == unknown.text.replace('value="hunter2"', "")
    await sign_in(site.client, "viewer")
    entries = [value.decode() for topic, _, value in site.log.records if topic == TOPIC]
    assert [("refused" in entry, '"who":"viewer"' in entry) for entry in entries] == [(True, True), (True, False), (False, True)]
    assert not any("hunter2" in entry or "wrong" in entry or PASSWORD in entry for entry in entries)


async def test_whoever_guesses_has_to_wait_whether_the_name_is_known_or_not(site: Site) -> None:
    for name in ("operator", "nobody"):
        answers = [(await sign_in(site.client, name, f"guess {n}")).status_code for n in range(11)]
        assert answers == [403] * 10 + [429]
        late = await sign_in(site.client, name)
        assert late.status_code == 429 and 0 < int(late.headers["retry-after"]) <= 901
    assert (await sign_in(site.client, "viewer")).status_code == 303, "others are not kept waiting"
    site.clock.move_to(NOW + 901_000)
    assert (await sign_in(site.client, "operator")).status_code == 303


def test_attempts_count_per_address_too_and_take_bounded_room() -> None:
    attempts = Attempts(per_name=3, per_address=5, remembered=8)
    assert [attempts.wait_s(f"n{n}", "10.0.0.1", NOW) > 0 for n in range(7)] == [False] * 5 + [True] * 2
    assert attempts.wait_s("n9", "10.0.0.2", NOW) == 0
    for n in range(100):
        attempts.wait_s(f"m{n}", f"10.0.1.{n}", NOW)
    assert len(attempts._tried) <= 8


def test_a_right_password_forgets_what_was_mistyped() -> None:
    attempts = Attempts(per_name=2)
    for _ in range(5):
        assert attempts.wait_s("anna", "a", NOW) == 0
        attempts.right("anna", "a")


ELSEWHERE = ("//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "/\t/evil.example", "javascript:alert(1)", "evil", "")


@pytest.mark.parametrize("link", [*ELSEWHERE, "/%0d\r\nx: y", "/sign-in"])
def test_signing_in_never_leads_elsewhere(link: str) -> None:
    assert local(link) == "/"
    assert local("/orders/lumi%3A1?x=/y") == "/orders/lumi%3A1?x=/y"


@given(st.text(st.sampled_from("/\\:.eh? \t\n%@"), max_size=8))
def test_wherever_a_link_leads_it_is_a_path_of_ours(link: str) -> None:
    url = httpx.URL("https://us.example/sign-in").join("".join(local(link).split()))
    assert url.host == "us.example"


async def test_signing_out_takes_the_cookie_away(site: Site) -> None:
    await sign_in(site.client, "operator")
    answer = await site.client.post("/sign-out", data={"csrf": await csrf(site.client)})
    assert answer.headers["location"] == "/sign-in" and "Max-Age=0" in answer.headers["set-cookie"]
    assert (await site.client.get("/", headers=PAGE)).status_code == 303


# --- forms
async def test_a_form_without_or_with_another_sessions_secret_changes_nothing(site: Site) -> None:
    await sign_in(site.client, "operator")
    mine = await csrf(site.client)
    async with httpx.AsyncClient(base_url=site.client.base_url) as other:
        await sign_in(other, "operator")
        theirs = await csrf(other)
    before = len(site.log.records)
    assert theirs != mine
    for wrong in ({}, {"csrf": ""}, {"csrf": theirs}, {"csrf": mine[:-1]}):
        data = {"action": "cancel", "reason": "because", **wrong}
        answer = await site.client.post("/orders/lumi:1004/actions", data=data)
        assert answer.status_code == 403 and len(site.log.records) == before
        assert (await site.client.post("/sign-out", data=wrong)).status_code == 403
    good = await site.client.post("/orders/lumi:1004/actions", data={"action": "cancel", "reason": "because", "csrf": mine})
    assert good.status_code == 303 and len(site.log.records) == before + 2


async def test_a_page_of_another_site_cannot_use_a_session(site: Site) -> None:
    await sign_in(site.client, "admin")
    data = {"action": "cancel", "reason": "because", "csrf": await csrf(site.client)}
    answer = await site.client.post("/orders/lumi:1004/actions", data=data, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    json = {"action": "cancel", "reason": "because"}
    sent_as_a_form = await site.client.post("/v1/orders/lumi:1004/actions", json=json, headers={"content-type": "text/plain"})
    assert sent_as_a_form.status_code == 415


# --- machines
@pytest.mark.parametrize("role", ROLES)
async def test_a_machine_with_any_role_reads_and_only_an_operator_reports(site: Site, role: str) -> None:
    for path in ("/v1/orders", "/v1/counters", "/metrics", "/v1/parked", "/v1/orders/lumi:1004"):
        assert (await site.client.get(path, headers=bearer(role))).status_code == 200, path
    told = await site.post(body(captured()), **bearer(role))
    assert told.status_code == (202 if role in ("operator", "admin") else 403)
    if told.status_code == 403:
        assert "operator" in told.json()["message"]


async def test_a_wrong_token_is_refused_even_beside_a_session(site: Site) -> None:
    await sign_in(site.client, "admin")
    assert (await site.client.get("/v1/counters", headers={"authorization": "Bearer nonsense"})).status_code == 401
    assert (await site.client.get("/v1/counters")).status_code == 200


def test_an_empty_token_opens_nothing() -> None:
    assert People(machines=[Known("m", frozenset({"admin"}), "")]).machine(b"Bearer ") is None
    assert not only("").guarded and only("x").machine(b"Bearer x") is not None


def test_an_admin_may_everything_and_a_viewer_sees() -> None:
    assert all(Actor("a", frozenset({"admin"})).may(role) for role in ROLES)
    viewer = Actor("v", frozenset({"viewer"}))
    assert [role for role in ROLES if viewer.may(role)] == ["viewer"] and not viewer.acts
    assert Actor("w", frozenset({"warehouse"})).acts


async def test_with_people_only_those_links_that_customers_hold_stay_open() -> None:
    metrics = Metrics()
    sink: Any = ListLog()
    app: Any = make_app(
        sink=sink, reader=FakeReader(), clock=VirtualClock(NOW), metrics=metrics, health=Health(metrics), people=everybody()
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://any.example") as client:
        assert (await client.get("/v1/counters")).status_code == 401
        assert (await client.get("/v1/counters", headers=bearer("viewer"))).status_code == 200
        assert (await client.get("/track/nobody")).status_code == 404
    WebServer(app, "0.0.0.0", 0, guarded=everybody().guarded)
