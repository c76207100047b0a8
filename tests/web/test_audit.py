"""The audit over the embedded log: what was written is there after a restart, newest first, and can be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.clock import VirtualClock
from streams.sqlite_log import EmbeddedLog
from tests.web.fake_reader import NOW
from web import audit as audit_module
from web.audit import TOPIC, Audit
from web.identity import Actor

ANNA, KIM = Actor("anna", frozenset({"operator"})), Actor("kim", frozenset({"reviewer", "warehouse"}))


async def test_the_newest_entries_of_all_partitions_come_first_and_a_repeated_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock(NOW)
    for turn in range(2):
        log = EmbeddedLog(tmp_path)
        await log.start()
        if turn == 0:
            await log.create({TOPIC: 3})
            audit = Audit(log, clock)
            assert await audit.newest(10) == []
            for n in range(12):
                clock.move_to(NOW + n)
                await audit.tell(ANNA if n % 2 else KIM, f"thing.{n % 3}", f"lumi:{n}", before="a", after="b", reason="because", id=f"i{n}")
            await audit.tell(KIM, "thing.0", "lumi:0", after="b", id="i0")
            await log.append(TOPIC, [(b"x", b"not an entry")])
        newest = await Audit(log, clock).newest(5)
        assert [entry.subject for entry in newest] == ["lumi:0", "lumi:11", "lumi:10", "lumi:9", "lumi:8"]
        assert len(await Audit(log, clock).newest(100)) == 12
        assert {entry.who for entry in await Audit(log, clock).newest(100, who="anna")} == {"anna"}
        assert {entry.action for entry in await Audit(log, clock).newest(100, action="thing.2")} == {"thing.2"}
        first = (await Audit(log, clock).newest(100))[-1]
        assert (first.roles, first.before, first.after, first.reason) == (("operator",), "a", "b", "because")
        await log.close()
    monkeypatch.setattr(audit_module, "LOOKED_AT", 1)
    log = EmbeddedLog(tmp_path)
    await log.start()
    assert len(await Audit(log, clock).newest(100)) <= 3, "only so far back"
    await log.close()
