"""The senders' bench counts each message in the phase in which it became wanted. The whole of it starts a demo and takes minutes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

from click.testing import CliRunner
from rich.console import Console

from bench import senders
from streams.processor import Record
from streams.transport import Log


class Journal:
    """A log of one partition of the journal."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.value = json.dumps({"lane": "orders.0.0", "entries": [{"key": "lumi:1", "entries": entries}, {"type": "Forgotten"}]}).encode()

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, 1)}

    async def read(self, topic: str, partition: int, start: int, limit: int) -> list[Record]:
        return [Record(0, b"orders.0.0", self.value)]


def offered(id: str, at: int, action: str = "notify.sms") -> dict[str, Any]:
    return {"type": "Offered", "id": id, "at": at, "action": action}


async def test_a_message_counts_in_the_phase_in_which_it_became_wanted(tmp_path: Path) -> None:
    received = [
        ("sms", "a", 1_100),
        ("sms", "b", 2_900),
        ("sms", "c", 3_050),
        ("email", "d", 2_500),
        ("systems", "e", 2_000),
        ("sms", "f", 9),
    ]
    lines = [json.dumps({"channel": channel, "effect": effect, "at": at}) for channel, effect, at in received]
    (tmp_path / "received.jsonl").write_text("\n".join(lines) + "\n")
    wanted = [
        offered("a", 1_000),
        offered("b", 1_900),
        offered("c", 3_000),
        offered("d", 2_400, "notify.email"),
        offered("e", 1, "shop.tag"),
    ]
    starts = {"before": 1_000, "stalled": 2_000, "after": 3_000}
    rows = await senders._rows(tmp_path, cast(Log, Journal(*wanted)), starts, Counter({("email", "stalled"): 64}))
    found = {(row.channel, row.phase): row for row in rows}
    assert {place: row.messages for place, row in found.items() if row.messages} == {
        ("sms", "before"): 2,
        ("sms", "after"): 1,
        ("email", "stalled"): 1,
    }
    assert abs(found["sms", "before"].p99_ms - 1_000) < 20 and abs(found["sms", "after"].p99_ms - 50) < 1
    assert found["email", "stalled"].deepest_queue == 64


def test_what_was_found_is_shown_and_a_channel_that_is_none_is_named() -> None:
    found = senders.Found([senders.Row("sms", "before", 3, 1.0, 2.0, 0)], dict.fromkeys(senders.PHASES, 200), {"claims": 3.0}, 0, 0, 0, 9)
    console = Console(record=True, soft_wrap=True)
    senders.report(found, ["email"], console)
    assert "| sms | before | 3 | 1.0 | 2.0 | 0 |" in (shown := console.export_text()) and "claims 3 s" in shown
    wrong = CliRunner().invoke(senders.main, ["--channels", "email,fax"])
    assert wrong.exit_code == 2 and "'fax'" in wrong.output
