"""Promise 2 on the whole product: the same bytes for any log, any number of workers, any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.fake_shop import FakeShop
from connectors.store import LaneId
from streams.clock import WallClock
from streams.processor import Inputs, Processor
from streams.recovery import merged
from streams.transport import Log
from tests.conftest import Kafka
from tests.kafka.installation import KEYED, Installation, empty, installation, parts, sink

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
ORDERS = 40
PARTITIONS = 4
POISON = [
    ("facts", b"lumi:100001", b'{"type":"PaymentCaptured","order":"lumi:100001","amount":"12,50"}'),
    ("facts", b"lumi:poison", b'{"type":"OrderPlaced"'),
    ("stock", b"LZ-001@berlin", b'{"type":"StockRequested","at":1}'),
    ("customers", b"lumi:c1", b"[]"),
]


class Entry(msgspec.Struct):
    entries: list[msgspec.Raw]


class Recorded(msgspec.Struct):
    """What one run read and journaled in one lane, and the states it ended with."""

    processor: Processor
    lane: LaneId
    topic: str
    records: list[Any]
    journal: list[list[bytes]]
    states: dict[str, bytes]


async def recorded(its: Installation) -> dict[tuple[str, int], Recorded]:
    found = {}
    made, lanes = its.made(), await its.lanes()
    for standing in await its.store.standing(list(lanes)):
        lane, topic = standing.lane, lanes[standing.lane]
        if topic in KEYED:
            journal = [r for r in await whole(its.log, "journal", lane.partition) if r.key == str(lane).encode()]
            found[topic, lane.partition] = Recorded(
                processor=made[topic](),
                lane=lane,
                topic=topic,
                records=(await whole(its.log, topic, lane.partition))[: standing.offset],
                journal=[[bytes(e) for e in msgspec.json.decode(r.value, type=Entry).entries] for r in journal],
                states={key: blob async for key, blob in its.store.states(lane)},
            )
    return found


async def whole(log: Log, topic: str, partition: int) -> list[Any]:
    first, end = (await log.bounds(topic))[partition]
    records: list[Any] = []
    while first < end:
        records += await log.read(topic, partition, first, end - first)
        first = records[-1].offset + 1
    return records


def folded(run: Recorded, like: Sequence[bytes], rng: random.Random) -> dict[str, bytes]:
    """The run's own inputs and entries, taken in another run's order, in other chunks, entries anywhere between the records."""
    place = {value: number / max(1, len(like)) for number, value in enumerate(like)}
    records = sorted(run.records, key=lambda r: place.get(r.value, rng.random()))
    entries = rng.sample([entry for group in run.journal for entry in group], sum(map(len, run.journal)))
    turns = [
        Inputs(topic=run.topic, partition=run.lane.partition, records=part) for part in parts(records, lambda: rng.choice((1, 1, 5, 60)))
    ]
    for part in parts(entries, lambda: rng.choice((1, 1, 5, 60))):
        turns.insert(rng.randint(0, len(turns)), Inputs(topic=run.topic, partition=run.lane.partition, adopted=part))
    states: dict[str, Any] = {}
    for turn in turns:
        for _, result in merged(run.processor, states, turn, 0, PARTITIONS):
            states |= result.states
    return {key: run.processor.encode(state) for key, state in states.items()}


async def run(
    folder: Path, log: str, workers: int, facts: list[tuple[str, bytes, bytes]]
) -> tuple[dict[tuple[str, int], Recorded], dict[str, str]]:
    async with sink() as stand_ins, installation(folder, log, partitions=PARTITIONS, stand_ins=stand_ins) as its:
        await its.append(facts)
        await its.start(workers)
        await its.rest()
        await its.stop()
        assert await its.check_states() > 4 * ORDERS
        sums = await its.check_sums()
        assert sums["waiting"] == 0
        assert sums["parked"] == len(POISON)
        assert sum(stand_ins.duplicates().values()) == 0
        return await recorded(its), await its.statuses()


async def test_one_worker_on_the_embedded_log_and_one_and_three_on_kafka_end_with_the_same_bytes(
    empty_kafka: Kafka, tmp_path: Path
) -> None:
    shop = FakeShop.demo(11, ORDERS, 6, WallClock().now() - 12_000)
    shop.duplicates, shop.late, shop.contradictions, shop.by_reference = 0.2, 0.2, 0.05, 0.2
    facts = [*shop.stream_bytes(ORDERS), *POISON]
    runs = []
    for name, log, workers in (("embedded", "embedded", 1), ("one", empty_kafka.bootstrap, 1), ("three", empty_kafka.bootstrap, 3)):
        runs.append(await run(tmp_path / name, log, workers, facts))
        if log != "embedded":
            await empty(empty_kafka)
    expected = {f"lumi:{100_000 + n}": shop.expected(n).status for n in range(ORDERS)}
    for _, statuses in runs:
        assert {key: statuses.get(key) for key in expected} == expected
    rng = random.Random(5)
    for its, _ in runs:
        for other, _ in runs:
            if its is other:
                continue
            for place, lane in its.items():
                again = folded(lane, [r.value for r in other[place].records], rng)
                differing = [key for key in again.keys() | lane.states.keys() if again.get(key) != lane.states.get(key)]
                assert not differing, f"{lane.lane}: {differing[:3]}"
