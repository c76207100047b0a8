"""The document and the application say the same: schemathesis asks what the one allows and checks what the other answers."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from metrics import Metrics
from streams.clock import VirtualClock
from tests.web.fake_desk import FakeStore, FakeSwitch, parking
from tests.web.fake_floor import FakeFloor, FakeLabels, ready
from tests.web.fake_reader import NOW, FakeClaims, FakeReader, ListLog
from web.app import make_app
from web.health import Health
from web.warehouse import Warehouse


@schemathesis.serializer("application/x-ndjson")
def as_lines(ctx: Any, value: Any) -> bytes:
    return str(value).encode(errors="replace")


_metrics, _clock, _store, _log = Metrics(), VirtualClock(NOW), FakeStore(), ListLog()
_floor = FakeFloor(_log, *ready(1001), *ready(1002))
_app = make_app(
    sink=_log,  # type: ignore[arg-type]
    reader=FakeReader(),
    clock=_clock,
    metrics=_metrics,
    health=Health(_metrics),
    warehouse=Warehouse(_floor, FakeLabels(), _floor.policy),
    parking=parking(_store, _log, _clock),
    switch=FakeSwitch(_store, _clock),
    claims=FakeClaims(),
)


async def _at_home(scope: Any, receive: Any, send: Any) -> None:
    """Its client calls itself "testserver", whom the door would not let in."""
    if scope["type"] == "http":
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"host"] + [(b"host", b"localhost")]
    await _app(scope, receive, send)


schema = schemathesis.openapi.from_asgi("/openapi.json", _at_home)


@schema.parametrize()
@settings(max_examples=10, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_document_allows_is_answered_as_it_says(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=(not_a_server_error, status_code_conformance, response_schema_conformance))
