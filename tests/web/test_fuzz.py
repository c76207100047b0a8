"""Nothing that comes in over the wire makes a 5xx, a stack trace, or a record that a lane would park."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics import Metrics
from orders.bounds import violation
from orders.fact import decode_fact
from streams.clock import VirtualClock
from tests.web.facts import body, captured, placed
from tests.web.fake_desk import FakeStore, FakeSwitch, parking
from tests.web.fake_reader import NOW, FakeClaims, FakeReader, ListLog
from web.app import make_app
from web.gateway import Limits
from web.health import Health
from web.openapi import document

FEW = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from([*placed(), *captured(), "v", "version", "authority", "backfilled", "reason", "tag", "eta_until", "", "$", "a`b"])
raw_bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(keys, json_values, max_size=6).map(lambda changed: body(placed(**changed)))
    | st.dictionaries(keys, json_values, max_size=3).map(lambda changed: body(captured(**changed)))
    | st.builds(  # right types, and values that may be impossible
        lambda **changed: body(captured(**changed)),
        amount=st.integers(),
        at=st.integers(NOW - 10**12, NOW + 10**12),
        currency=st.sampled_from(["EUR", "JPY", "XXX", "eur", ""]),
        object=st.text(max_size=3),
        v=st.sampled_from([0, 1, 2, 99]),
        version=st.integers(),
    )
    | st.tuples(st.integers(0, 400), st.binary(max_size=4)).map(lambda cut: body(placed())[: cut[0]] + cut[1] + body(placed())[cut[0] :])
)
DESCRIBED = [(method, path) for path, known in document("0")["paths"].items() for method in known]
PAGES = [
    "/",
    "/orders",
    "/audit",
    "/sign-in",
    "/reviews",
    "/finance",
    "/warehouse",
    "/stock",
    "/parked",
    "/parked/{}",
    "/sending",
    "/sending/{}",
    "/runbooks/{}",
]
PLACE = re.compile(r"\{[a-z_]*\}")
names = (
    st.text(min_size=1, max_size=30) | st.sampled_from(["schema~facts~3~1207", "malformed~facts~1~12", "email", "stock", "lumi:1004"])
).map(lambda text: quote(text, safe="", errors="surrogatepass"))
known_bodies = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.sampled_from(["live", "wrong prices", "{}", 0]) for name in ("body", "reason", "by", "mode", "version")
    },
).map(lambda value: json.dumps(value).encode())

header_text = st.text(st.characters(min_codepoint=1, max_codepoint=255, blacklist_characters="\r\n\0"), max_size=30)


class Bench:
    """The whole application, called without a socket."""

    def __init__(self) -> None:
        self.log, self.metrics, clock, store = ListLog(), Metrics(), VirtualClock(NOW), FakeStore()
        app = make_app(
            sink=self.log,  # type: ignore[arg-type]
            reader=FakeReader(),
            clock=clock,
            metrics=self.metrics,
            health=Health(self.metrics),
            parking=parking(store, self.log, clock),
            switch=FakeSwitch(store, clock),
            claims=FakeClaims(),
            limits=Limits(remembered=50),
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")  # type: ignore[arg-type]

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.loop.run_until_complete(self.client.request(method, path, **more))

    loop = asyncio.new_event_loop()


@pytest.fixture(scope="module")
def bench() -> Any:
    made = Bench()
    yield made
    made.loop.run_until_complete(made.client.aclose())
    made.loop.close()


def fine(answer: httpx.Response) -> bool:
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text and 'File "' not in answer.text
    if answer.status_code >= 400:
        problem = answer.json()
        assert {"code", "message", "trace_id"} <= problem.keys()
        assert problem.keys() <= {"code", "message", "trace_id", "field", "order_id", "line"}
    return answer.status_code == 202


@FEW
@given(raw=raw_bodies, lines=st.booleans())
def test_any_body_is_taken_or_refused_in_words_and_what_is_taken_is_sound(bench: Bench, raw: bytes, lines: bool) -> None:
    before = len(bench.log.records)
    media = "application/x-ndjson" if lines else "application/json"
    taken = fine(bench.ask("POST", "/v1/facts", content=raw, headers={"content-type": media}))
    assert taken == (len(bench.log.records) > before)
    for _, key, value in bench.log.records[before:]:
        fact = decode_fact(value)
        assert violation(fact) is None and fact.order.encode() == key


@FEW
@given(
    headers=st.dictionaries(
        st.sampled_from(["idempotency-key", "content-type", "content-length", "accept", "x-y"]), header_text, max_size=4
    )
)
def test_any_header_is_understood_or_refused(bench: Bench, headers: dict[str, str]) -> None:
    given_headers = {name: value.encode("latin-1") for name, value in headers.items()}
    fine(bench.ask("POST", "/v1/facts", content=body(captured()), headers=given_headers))


@FEW
@given(
    path=st.sampled_from([path for method, path in DESCRIBED if method == "get"] + PAGES),
    name=names,
    query=st.dictionaries(st.sampled_from(["tag", "limit", "reason", "status", "q", "before", "who", "done", "next"]), st.text(max_size=8)),
)
def test_any_path_and_query_is_answered(bench: Bench, path: str, name: str, query: dict[str, str]) -> None:
    fine(bench.ask("GET", PLACE.sub(name, path), params=query))


@FEW
@given(
    asked=st.sampled_from([(method, path) for method, path in DESCRIBED if method != "get"]),
    name=names,
    raw=raw_bodies | known_bodies,
    media=st.sampled_from(["application/json", "application/json", "text/plain", "application/x-www-form-urlencoded"]),
)
def test_any_body_to_whatever_changes_something_is_answered(
    bench: Bench, asked: tuple[str, str], name: str, raw: bytes, media: str
) -> None:
    method, path = asked
    fine(bench.ask(method.upper(), PLACE.sub(name, path), content=raw, headers={"content-type": media}))


@FEW
@given(
    path=st.sampled_from(["/parked/schema~facts~3~1207", "/parked/malformed~facts~1~12", "/sending", "/sending/sms", "/sending/stock"]),
    fields=st.dictionaries(
        st.sampled_from(["do", "body", "reason", "mode", "confirm", "version", "csrf"]),
        st.sampled_from(["show", "check", "discard", "start", "stop", "live", "observe", "sms", "0", "9" * 30, "", "\u00b2"])
        | st.text(max_size=20),
    ),
)
def test_any_form_is_answered(bench: Bench, path: str, fields: dict[str, str]) -> None:
    answer = bench.ask("POST", path, data=fields)
    assert answer.status_code < 500 and "Traceback" not in answer.text, answer.text


def test_fuzzing_made_a_bounded_number_of_series(bench: Bench) -> None:
    series = [line for line in bench.metrics.expose().decode().splitlines() if not line.startswith("#")]
    assert len(series) < 400
