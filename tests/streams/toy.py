"""A processor simple enough to be checked by eye, and a log in memory: for tests of lanes, workers and recovery."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from orders.effect import Claim
from streams.processor import Asked, Channels, Chunk, Inputs, Outgoing, Parked, Record, Result, Scores
from streams.transport import LogDown


class Toy:
    """Counts records per key. A key's `n`-th record puts out `key n`; the value `send` wants an effect; `bad` is parked; `bug` raises."""

    name = "toy"
    topic = "facts"
    stateless = False
    encode = staticmethod(msgspec.msgpack.Encoder().encode)

    @staticmethod
    def decode(blob: bytes) -> Any:
        return msgspec.msgpack.decode(blob)

    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        new: dict[str, Any] = {}
        parked: list[Parked] = []
        out: list[Outgoing] = []
        journal: list[bytes] = []

        def state(key: str) -> Any:
            if key not in new:
                new[key] = json.loads(json.dumps(states.get(key) or {"n": 0, "fired": 0, "sends": {}}))
            return new[key]

        for record in inputs.records:
            if record.value == b"bug":
                raise ValueError("a bug")
            if record.value == b"bad":
                parked.append(Parked("malformed", "$", inputs.topic, inputs.partition, record.offset, record.key, record.value, now))
                continue
            assert record.key is not None
            key = record.key.decode()
            its = state(key)
            its["n"] += 1
            out.append(Outgoing("out", key, f"{key} {its['n']}".encode()))
            if record.value == b"send":
                its["sends"].setdefault(f"{key}-{record.offset}", {"state": "open"})
            if record.value == b"later":
                its["later"] = now + 200
        for key in inputs.due:
            its = state(key)
            if its.get("bug"):
                raise ValueError("a bug in a due state")
            if its.pop("later", None):
                its["fired"] += 1
        for outcome in inputs.outcomes:
            state(outcome.key)["sends"][outcome.effect]["state"] = outcome.kind
        return Asked(questions=None, work=(new, out, journal), parked=parked)

    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result:
        new, out, journal = asked.work
        claims: list[Claim] = []
        due: dict[str, int] = {}
        for key, its in new.items():
            due[key] = its.get("later", 0)
            for effect, its_send in its["sends"].items():
                if its_send["state"] != "open":
                    continue
                if channels.mode("email") == "live" and channels.take("email"):
                    its_send["state"] = "claimed"
                    claims.append(Claim(lane="", key=key, effect=effect, channel="email", attempt=1, deadline=now + 5000, body=b"body"))
                    journal.append(json.dumps({"key": key, "effect": effect}).encode())
                else:
                    due[key] = channels.retry_at("email", now)
        return Result(states=new, due=due, outbox=out, journal=journal, claims=claims)

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        asked = self.ask(states, inputs, now)
        new: dict[str, Any] = asked.work[0]
        for blob in inputs.adopted:
            entry = json.loads(blob)
            its = new.setdefault(entry["key"], json.loads(json.dumps(states[entry["key"]])))
            its["sends"][entry["effect"]]["state"] = "unknown"
        return Result(states=new, due={}, parked=asked.parked)

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        return {json.loads(blob)["key"] for blob in adopted}

    def mark(self, record: Record) -> Outgoing | None:
        return Outgoing("marks", (record.key or b"").decode(), record.value)


class MemoryLog:
    """`Publisher` and `Log` as lists; `down` refuses."""

    def __init__(self, partitions: int = 1, now: Callable[[], int] = lambda: 1) -> None:
        self.partitions, self.now = partitions, now
        self.records: dict[tuple[str, int], list[Record]] = {}
        self.down = False

    async def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None:
        if self.down:
            raise LogDown("down")
        its = self.records.setdefault((topic, partition or 0), [])
        its.extend([Record(offset, key, value, self.now()) for offset, (key, value) in enumerate(records, len(its))])

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {p: (0, len(self.records.get((topic, p), ()))) for p in range(self.partitions)}

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Record]:
        return self.records.get((topic, partition), [])[start : start + limit]

    async def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        return {topic: f"id-{topic}" for topic in topics}

    def values(self, topic: str) -> list[bytes]:
        return [record.value for record in self.records.get((topic, 0), [])]


def chunk(first: int, *values: bytes, key: bytes | None = None) -> Chunk:
    """Records from `first` on, keys k0, k1, k2, k0, … unless one is given."""
    records = [Record(first + n, key or b"k%d" % ((first + n) % 3), value, 1) for n, value in enumerate(values)]
    return Chunk("facts", 0, first, first + len(values), records)
