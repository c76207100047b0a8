"""A store that was emptied, exchanged or put back: found out, rebuilt to the byte, and silent until somebody says so."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import settings as settings_module
import wire
from connectors.archive import Archive
from connectors.delivery import Delivery, encode_delivery
from connectors.fake_shop import FakeShop
from connectors.registry import ABILITIES
from connectors.store import LaneId, Store
from connectors.valkey import EmbeddedValkey
from orders.fact import AT_MIN, PaymentCaptured, encode_fact
from orders.request import FactWaiting, MessageRequested
from streams import recovery
from streams.clock import VirtualClock, WallClock
from streams.dispatch import Modes
from streams.lane import decode_parked
from streams.orders import OrdersProcessor
from streams.processor import Inputs, Processor, Record, Result
from streams.recovery import rebuild, refold
from streams.sqlite_log import EmbeddedLog, GroupLock
from streams.transport import LogMismatch
from tests.streams.town import Opinion, Provider, Town
from tests.streams.toy import MemoryLog, Toy
from web.audit import Audit

DAY = 86_400_000
LIVE = Modes(channels=dict.fromkeys(("email", "sms", "push", "webhook", "stock", "references"), "live"))
PARTITIONS = 2


class Place:
    """One installation's folder, its settings and its town, on the session's server."""

    def __init__(self, folder: Path, store: Store, url: str) -> None:
        config = folder / "orderflow.yaml"
        config.write_text(json.dumps({"data": str(folder), "store": url, "ray": "off", "layout": {"partitions": PARTITIONS}}))
        self.settings = settings_module.load(config)
        self.store, self.log = store, EmbeddedLog(folder / "log")
        self.archive = Archive(folder / "archive")
        self.clock = VirtualClock(WallClock().now())
        self.town = Town(
            store,
            self.log,
            self.clock,
            wire.processors(self.settings, {}, ABILITIES),
            {channel: Provider(ability) for channel, ability in ABILITIES.items()},
            LIVE,
            Opinion(0.05, 0.5),
            PARTITIONS,
        )

    async def live(self) -> None:
        """A dozen orders of every sort, what cannot be read, and what waits for ever; then rest."""
        await wire.lay_out(self.settings, self.store, self.log)
        assert await self.town.wake() == {}
        shop = FakeShop.demo(7, 12, 30, self.clock.now())
        rows = [(report.topic, report.key, encode_fact(report.record)) for report in shop.reports(12)]
        for begin in range(0, len(rows), 60):
            for topic in {topic for topic, _, _ in rows[begin : begin + 60]}:
                await self.town.report(topic, *[(key, value) for its, key, value in rows[begin : begin + 60] if its == topic])
            await self.town.rest(until=5_000)
        await self.town.report("facts", ("lumi:1", b"{"), ("lumi:2", b'{"type":"ParcelTeleported","order":"lumi:2"}'))
        body = encode_fact(shop.life(3)[0])
        for n, raw in enumerate((body, b"no fact")):
            delivery = Delivery(source="canonical", delivery=str(n), at=self.clock.now(), body=raw)
            await self.town.report("deliveries", (f"canonical/{n}", encode_delivery(delivery)))
        lost = PaymentCaptured(order="", system="pay:lumi", object="nobody's", at=self.clock.now(), amount=1, currency="EUR")
        waiting = FactWaiting(at=lost.at, kind="payment", value="nobody's", fact=msgspec.Raw(encode_fact(lost)))
        await self.town.report("references", ("payment:nobody's", encode_fact(waiting)))
        nothing = MessageRequested(
            at=self.clock.now(), effect="e" * 16, order="lumi:1000", customer="lumi:c1", template="shipped", channel="email",
            kind="transactional", fields={}, person=shop.customer(1).person, milestone_at=self.clock.now(), expires=self.clock.now() + DAY,
        )  # fmt: skip
        await self.town.report("customers", ("lumi:c1", encode_fact(nothing)))
        await self.town.rest(until=5 * DAY)

    async def shelve(self, share: float) -> None:
        """So much of every partition goes to the archive."""
        for topic in wire.TOPICS:
            for p, (_, end) in (await self.log.bounds(topic)).items():
                at = int(end * share)
                records = await self.log.read(topic, p, 0, at) if at else []
                await asyncio.to_thread(self.archive.append, (topic, p), records, at)

    async def parked(self) -> set[tuple[str, str, str]]:
        rows = [decode_parked(row) for _, _, row in await self.store.parked_list(self.town.ids, limit=0)]
        return {(row.reason, row.topic, (row.key or b"").decode()) for row in rows}

    def sent(self) -> dict[str, int]:
        return {name: len(provider.calls) for name, provider in self.town.providers.items()}

    async def tags(self) -> dict[str, int]:
        return await self.store.tag_counts(self.town.ids)


@pytest.fixture
async def place(tmp_path: Path, store: Store, valkey_server: EmbeddedValkey) -> AsyncIterator[Place]:
    its = Place(tmp_path, store, valkey_server.url)
    await its.log.start()
    yield its
    await its.log.close()


async def test_an_emptied_store_is_found_out_rebuilt_to_the_byte_and_silent_until_opened(place: Place) -> None:
    await place.live()
    before, parked, sent, tags = await place.town.states(), await place.parked(), place.sent(), await place.tags()
    assert sum(sent.values()) > 50
    assert all(before[str(lane)] for lane in place.town.ids if lane.processor in ("orders", "customers", "stock"))
    assert {reason for reason, _, _ in parked} == {"malformed", "schema", "unknown_reference", "template_missing_field"}
    await place.shelve(0.6)

    await place.store._client.flushall()
    await place.store.start()
    stopped = await place.town.wake()
    assert {s.reason for s in stopped.values()} == {"log_mismatch"} and len(stopped) == len(place.town.ids)
    assert all("run.py recover" in s.detail for s in stopped.values())
    await place.town.rest(until=DAY)
    assert place.sent() == sent, "a lane without a store must not send"
    with pytest.raises(wire.Failed, match="not rebuilt yet"):
        await wire.recover(place.settings, {}, open_=True)

    result = await wire.recover(place.settings, {}, open_=False)
    assert result["lanes"] == len(place.town.ids)
    assert await place.town.states() == before
    assert await place.tags() == tags, "an order is found under what it was found under before"
    deliveries = {row for row in parked if row[1] == "deliveries"}
    assert await place.parked() | deliveries == parked, "an intake lane reads its deliveries again"

    assert await place.town.wake() == {}
    await place.town.rest(until=DAY)
    assert place.sent() == sent, "nothing leaves before `recover --open`"
    assert await place.parked() == parked
    assert (await wire.recover(place.settings, {}, open_=True))["lanes"] == len(place.town.ids)
    assert await place.town.wake() == {}
    await place.town.rest(until=5 * DAY)
    assert place.town.twice == []
    assert place.sent() == sent, "all that was to be sent had been sent"


async def test_states_are_the_fold_of_facts_and_journal_byte_for_byte(place: Place) -> None:
    await place.live()
    await place.shelve(0.3)
    for topic, make in place.town.processors.items():
        for p in range(PARTITIONS):
            lane = LaneId(make().name, 0, p)
            states = {key: blob async for key, blob in place.store.states(lane)}
            assert await refold(lane, make(), place.log) == states, f"{topic} {p}"
            assert await refold(lane, make(), place.log, place.archive) == states, f"{topic} {p}, the first of it from the archive"


async def test_a_store_of_another_installation_is_found_out_and_replaced(
    place: Place, tmp_path: Path, valkey_server: EmbeddedValkey
) -> None:
    await place.live()
    before, sent = await place.town.states(), place.sent()
    other = Place(_made(tmp_path / "other"), place.store, valkey_server.url)
    await other.log.start()
    try:
        await place.store._client.flushall()
        await place.store.start()
        await wire.lay_out(other.settings, other.store, other.log)
        assert await other.town.wake() == {}
        await other.town.report("facts", ("lumi:9", encode_fact(FakeShop.demo(7, 1, 30, other.clock.now()).life(0)[0])))
        await other.town.rest(until=5_000)
    finally:
        await other.log.close()
    ends = {topic: await place.log.bounds(topic) for topic in wire.TOPICS}
    stopped = await place.town.wake()
    assert {s.reason for s in stopped.values()} == {"log_mismatch"} and len(stopped) == len(place.town.ids)
    assert all("connect the right ones" in s.detail for s in stopped.values())
    assert ends == {topic: await place.log.bounds(topic) for topic in wire.TOPICS}, "nothing of the other one's outbox came into this log"
    await wire.recover(place.settings, {}, open_=False)
    assert await place.town.states() == before
    assert place.sent() == sent


async def test_a_rebuild_that_was_cut_short_is_no_state_to_go_on_from(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.live()
    before = await place.town.states()
    await place.store._client.flushall()
    await place.store.start()
    cut = LaneId("orders", 0, 0)
    real = OrdersProcessor.rebuild
    monkeypatch.setattr(recovery, "PART", 32)

    def dies(self: OrdersProcessor, states: Any, inputs: Inputs, now: int) -> Result:
        if inputs.adopted:
            raise KeyboardInterrupt
        return real(self, states, inputs, now)

    monkeypatch.setattr(OrdersProcessor, "rebuild", dies)
    with pytest.raises(KeyboardInterrupt):
        await rebuild(cut, place.town.processors["facts"](), store=place.store, log=place.log, archive=None, clock=place.clock)
    monkeypatch.setattr(OrdersProcessor, "rebuild", real)
    stopped = {s.tp.topic: s.reason for s in (await place.town.wake()).values() if s.tp.partition == 0}
    assert stopped["facts"] == "rebuilding"
    await wire.recover(place.settings, {}, open_=False)
    assert await place.town.states() == before


async def test_what_the_last_commits_had_still_to_tell_is_told_again(place: Place) -> None:
    """The log took the journal, the store was lost before the rest was published: requests and answers are not lost with it."""
    await wire.lay_out(place.settings, place.store, place.log)
    await place.town.wake()
    real, cut = place.log.append, {"facts", "stock", "customers", "references"}

    async def half(topic: str, records: Any, partition: int | None = None) -> None:
        if topic not in cut:
            await real(topic, records, partition)

    shop = FakeShop.demo(7, 3, 30, place.clock.now())
    levels = [(f"{level.sku}@{level.location}", encode_fact(level)) for level in shop.levels()]
    await place.town.report("stock", *levels)
    facts = [fact for n in range(3) for fact in shop.life(n)[:3]]
    await place.town.report("facts", *[(fact.order, encode_fact(fact)) for fact in facts])
    place.log.append = half  # type: ignore[method-assign]
    for tp, lane in place.town.lanes.items():
        while await place.town.step(tp, lane):
            pass
    place.log.append = real  # type: ignore[method-assign]
    offered = [entry for entry in await place.town.journal() if entry["type"] == "Offered"]
    asked = {entry["id"] for entry in offered if entry["action"].startswith(("stock", "notify"))}
    assert asked
    await place.store._client.flushall()
    await place.store.start()
    await wire.recover(place.settings, {}, open_=False)
    asking = [(topic, p) for topic in ("stock", "customers") for p in range(PARTITIONS)]
    told = b"".join([record.value for topic, p in asking for record in await place.log.read(topic, p, 0, 10_000)])
    assert all(effect.encode() in told for effect in asked)


async def test_a_worker_at_work_keeps_recover_away(place: Place) -> None:
    await wire.lay_out(place.settings, place.store, place.log)
    lock = GroupLock(place.settings.folder / "log", place.settings.group)
    script = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('has it', flush=True); sys.stdin.read()"
    its, pipe = str(place.settings.folder / "log" / f"{place.settings.group}.lock"), asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, its, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        with pytest.raises(wire.Failed, match="stop the worker first"):
            await wire.recover(place.settings, {}, open_=False)
    finally:
        process.kill()
        await process.wait()
    assert (await wire.recover(place.settings, {}, open_=False))["lanes"] == 0
    lock.take()
    lock.release()


async def test_a_log_that_is_shorter_than_its_archive_rebuilds_nothing(place: Place) -> None:
    await place.live()
    await place.shelve(1.0)
    before = await place.town.states()
    lane = LaneId("orders", 0, 0)
    fresh = MemoryLog()
    await fresh.append("facts", [(b"lumi:1", b"{}")])
    with pytest.raises(LogMismatch, match="it is the log that is another one"):
        await rebuild(lane, place.town.processors["facts"](), store=place.store, log=fresh, archive=place.archive, clock=place.clock)  # type: ignore[arg-type]
    assert await place.town.states() == before


async def test_what_neither_archive_nor_log_holds_any_more_cannot_be_rebuilt(store: Store) -> None:
    log = MemoryLog()
    await log.append("facts", [(b"k0", b"x")] * 10)
    real = log.bounds

    async def expired(topic: str) -> dict[int, tuple[int, int]]:
        return {p: (4 if topic == "facts" else 0, end) for p, (_, end) in (await real(topic)).items()}

    log.bounds = expired  # type: ignore[method-assign]
    with pytest.raises(LogMismatch, match="what lies between is gone"):
        await rebuild(LaneId("toy", 0, 0), Toy(), store=store, log=log, archive=None, clock=VirtualClock(AT_MIN))  # type: ignore[arg-type]
    assert (await store.standing([LaneId("toy", 0, 0)]))[0].mark == "rebuilding", "and no worker takes it for whole"


async def test_a_record_the_processor_stumbles_over_is_parked_again_and_holds_up_nothing(store: Store) -> None:
    log, lane = MemoryLog(), LaneId("toy", 0, 0)
    values = [b"x", b"bug", b"x", b"bad", b"x", b"bug", b"x"]
    await log.append("facts", [(b"k%d" % (n % 3), value) for n, value in enumerate(values)])
    rebuilt = await rebuild(lane, Toy(), store=store, log=log, archive=None, clock=VirtualClock(AT_MIN))  # type: ignore[arg-type]
    assert (rebuilt.records, rebuilt.states, rebuilt.parked) == (7, 3, 3)
    rows = [decode_parked(row) for _, _, row in await store.parked_list([lane])]
    assert {(r.reason, r.offset) for r in rows} == {("processor_error", 1), ("malformed", 3), ("processor_error", 5)}
    assert {key: Toy.decode(blob)["n"] async for key, blob in store.states(lane)} == {"k0": 2, "k1": 1, "k2": 1}
    assert (await store.standing([lane]))[0].counts == {"accepted": 7, "done": 4, "parked": 3}


async def test_a_parked_record_that_was_dealt_with_stays_dealt_with(place: Place) -> None:
    await wire.lay_out(place.settings, place.store, place.log)
    await place.town.wake()
    await place.town.report("facts", ("lumi:1", b"{"), ("lumi:2", b"["))
    await place.town.rest(until=5_000)
    rows = sorted(name for _, name, _ in await place.store.parked_list(place.town.ids))
    assert len(rows) == 2 and (await place.tags())["incomplete"] == 2
    done = next(name for _, name, row in await place.store.parked_list(place.town.ids) if decode_parked(row).key == b"lumi:1")
    await wire.parked_settle(place.settings, done, "anna", None, replay=False, why="a test of ours")
    (entry,) = await Audit(place.log, place.clock).newest(10)
    assert (entry.who, entry.action, entry.subject, entry.before) == ("anna", "parked.discard", done, "malformed")
    assert (entry.after, entry.reason) == ("gone", "a test of ours")
    await place.town.rest(until=5_000)
    left = [name for name in rows if name != done]
    assert (await place.tags()) == {"announced": 2, "incomplete": 1}, "the order is complete again"
    await place.store._client.flushall()
    await place.store.start()
    await wire.recover(place.settings, {}, open_=False)
    assert [name for _, name, _ in await place.store.parked_list(place.town.ids)] == left
    assert (await place.tags()) == {"announced": 2, "incomplete": 1}


def test_every_processor_can_be_rebuilt(place: Place) -> None:
    for make in place.town.processors.values():
        processor: Processor = make()
        empty = processor.rebuild({}, Inputs(topic=processor.topic, partition=0), 0)
        assert (empty.states, empty.outbox, empty.parked, empty.journal, empty.claims) == ({}, [], [], [], [])
        unreadable = processor.rebuild({}, Inputs(topic=processor.topic, partition=0, records=[Record(0, None, b"")]), 0)
        assert len(unreadable.parked) == 1 and unreadable.states == {}
        assert processor.keys_of([]) == set()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
