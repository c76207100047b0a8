"""Logs: one JSON object a line, whoever says it, and no exception's text in any of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wire

CANARY = "canary@example.invalid"
PROGRAM = f"""
import asyncio, logging, sys
import structlog
import wire

wire.set_up_logging()
canary = {CANARY!r}
structlog.get_logger("lane").info("turn", lane="orders.0.1", number=3)
structlog.get_logger("lane").debug("unheard")
logging.getLogger("orderflow.sender").info("not sent", extra={{"event": "not_sent", "order": "lumi:1", "reason": "refused"}})
logging.getLogger("aiokafka").info("unheard")
logging.getLogger("aiokafka").warning("Unable connect to %r: %s", "127.0.0.1:1", ConnectionError(canary))
logging.getLogger("ray.worker").error("odd", extra={{"thing": object(), "many": ("a", 1), "_ray_timestamp_ns": 1}})
structlog.get_logger("x").info("odd", thing=ValueError(canary))

def stumble():
    raise ValueError(canary)

try:
    stumble()
except ValueError as error:
    logging.getLogger("faust.app").exception("Crashed reason=%r", error, stack_info=True)
    structlog.get_logger("worker").error("failed", exc_info=True)

async def main():
    wire.quiet_loop()
    async def forgotten():
        stumble()
    task = asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    import gc
    gc.collect()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def said() -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True, cwd=Path(wire.__file__).parent
    )
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def lines(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def by_event(lines: list[dict[str, Any]], event: str) -> dict[str, Any]:
    (line,) = (line for line in lines if line["event"] == event)
    return line


def test_every_line_is_an_object_with_level_event_and_time(lines: list[dict[str, Any]]) -> None:
    assert all({"level", "event", "timestamp"} <= set(line) and line["timestamp"].endswith("Z") for line in lines)
    assert "unheard" not in {line["event"] for line in lines}


def test_our_lines_carry_their_fields_whatever_library_they_go_through(lines: list[dict[str, Any]]) -> None:
    assert by_event(lines, "turn") | {"lane": "orders.0.1", "number": 3, "level": "info"} == by_event(lines, "turn")
    actor = by_event(lines, "not_sent")
    assert (actor["logger"], actor["level"], actor["order"], actor["reason"]) == ("orderflow.sender", "info", "lumi:1", "refused")


def test_third_parties_are_heard_from_warning_on(lines: list[dict[str, Any]]) -> None:
    kafka = next(line for line in lines if line.get("logger") == "aiokafka")
    assert (kafka["level"], kafka["event"]) == ("warning", "Unable connect to '127.0.0.1:1': ConnectionError")


def test_an_exception_is_its_type_and_place_and_never_its_text(said: str, lines: list[dict[str, Any]]) -> None:
    assert CANARY not in said and "Traceback" not in said
    faust = next(line for line in lines if line.get("logger") == "faust.app")
    assert faust["event"] == "Crashed reason='ValueError'" and faust["error"] == "ValueError" and faust["where"].endswith("stumble")
    ours = by_event(lines, "failed")
    assert ours["error"] == "ValueError" and ours["where"].endswith("stumble")


def test_a_task_that_nobody_waited_for_is_reported_without_its_exceptions_text(lines: list[dict[str, Any]]) -> None:
    loop = by_event(lines, "event loop reports")
    assert loop["error"] == "ValueError" and loop["where"].endswith("stumble") and "never retrieved" in loop["what"]


def test_what_is_no_json_is_named_by_its_type(lines: list[dict[str, Any]]) -> None:
    first, second = (line for line in lines if line["event"] == "odd")
    assert (first["thing"], first["many"], second["thing"]) == ("object", ["a", 1], "ValueError")
    assert "_ray_timestamp_ns" not in first
