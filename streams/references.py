"""The references lane: facts that name a payment or a parcel wait here for the order they belong to.

Links and waiting facts travel the same key, so neither can miss the other. A fact goes on as soon as exactly one order
covers its time; when several do, or none in time, it is parked with its bytes and never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orders import reference as state
from orders.fact import AnyFact, decode_fact, encode_fact
from orders.reference import AnyEntry, Reference, Seen, Settled, decode_entry, encode_entry, fact_id
from orders.request import AnyReference, FactWaiting
from streams.processor import Asked, Channels, Inputs, Outgoing, Parked, Record, Result, Scores
from streams.reading import park, park_later, read

HOUR_MS = 3_600_000
_decode = msgspec.json.Decoder(AnyReference).decode
_encode = msgspec.json.Encoder().encode


class Turn(msgspec.Struct):
    """What one turn knows of one key."""

    old: Reference | None
    new: Reference
    arrived: dict[str, tuple[Record, FactWaiting]] = {}  # tried at once, whatever was done with them before
    entries: list[AnyEntry] = []


class ReferencesProcessor:
    """`wait`: how long a fact waits for its link, from when the lane first saw it, ms."""

    name = "references"
    topic = "references"
    stateless = False
    encode = staticmethod(state.encode)
    decode = staticmethod(state.decode)

    def __init__(self, wait: int = 24 * HOUR_MS) -> None:
        self._wait = wait

    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        turns: dict[str, Turn] = {}
        parked: list[Parked] = []

        def turn_of(key: str) -> Turn:
            turn = turns.get(key)
            if turn is None:
                old = states.get(key)
                turn = turns[key] = Turn(old, old.copy() if old is not None else Reference())
            return turn

        for record, key, request in read(inputs, _decode, _key_of, now, parked):
            if isinstance(request, FactWaiting):
                problem = _problem(bytes(request.fact))
                if problem:
                    parked.append(park(inputs, record, "schema", problem, now))
                    continue
                turn_of(key).arrived[fact_id(bytes(request.fact))] = record, request
            state.merge(turn_of(key).new, request)
        for blob in inputs.adopted:
            entry = decode_entry(blob)
            state.adopt(turn_of(entry.key).new, entry)
        for key in inputs.due:
            if key in states:
                turn_of(key)
        return Asked(questions=None, work=(inputs, turns), parked=parked)

    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result:
        inputs, turns = asked.work
        result = Result(states={}, due={})
        for key, turn in turns.items():
            self._turn(key, turn, inputs, now, result)
        return result

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        asked = self.ask(states, inputs, now)
        turns: dict[str, Turn] = asked.work[1]
        result = Result(states={}, due={}, parked=asked.parked)
        result.states = {key: turn.new for key, turn in turns.items() if turn.new != turn.old}
        for entry in map(decode_entry, inputs.adopted):
            before: Reference | None = states.get(entry.key)
            waited = before.waiting.get(entry.fact) if before is not None else None
            if not isinstance(entry, Settled) or before is None or waited is None or not waited.fact:
                continue
            fact = decode_fact(waited.fact)
            if entry.order:
                result.outbox.append(Outgoing("facts", entry.order, encode_fact(msgspec.structs.replace(fact, order=entry.order))))
            else:
                reason = _reason(state.orders_at(before, fact.at))
                result.parked.append(_park_later(inputs, entry.key, entry.fact, waited.fact, reason, entry.at))
        return result

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        return {decode_entry(blob).key for blob in adopted}

    def mark(self, record: Record) -> None:
        return None

    def _turn(self, key: str, turn: Turn, inputs: Inputs, now: int, result: Result) -> None:
        new, due = turn.new, 0
        for name, (record, request) in turn.arrived.items():
            settled = new.settled.get(name)
            if settled is not None:  # it came again, or a person replays what was parked
                fact = decode_fact(request.fact)
                orders = [settled.order] if settled.order else state.orders_at(new, fact.at)
                if len(orders) == 1:
                    self._send(key, turn, name, fact, orders[0], now, result)
                else:
                    result.parked.append(park(inputs, record, _reason(orders), "fact", now))
        for name, waiting in sorted(new.waiting.items()):
            if not waiting.fact:
                continue  # seen in the journal, not read yet
            fact = decode_fact(waiting.fact)
            orders = state.orders_at(new, fact.at)
            if len(orders) == 1:
                self._send(key, turn, name, fact, orders[0], now, result)
                continue
            if not orders and not waiting.seen:
                _enter(turn, Seen(key=key, at=now, fact=name))
            until = new.waiting[name].seen + self._wait
            if orders or until <= now:
                result.parked.append(_park(key, turn, name, waiting.fact, _reason(orders), inputs, now))
                _enter(turn, Settled(key=key, at=now, fact=name))
            else:
                due = min(due, until) if due else until
        result.journal.extend(map(encode_entry, turn.entries))
        result.due[key] = due
        if new != turn.old:
            result.states[key] = new

    @staticmethod
    def _send(key: str, turn: Turn, name: str, fact: AnyFact, order: str, now: int, result: Result) -> None:
        result.outbox.append(Outgoing("facts", order, encode_fact(msgspec.structs.replace(fact, order=order))))
        settled = turn.new.settled.get(name)
        if settled is None or settled.order != order:
            _enter(turn, Settled(key=key, at=now, fact=name, order=order))


def _key_of(request: AnyReference) -> str:
    return f"{request.kind}:{request.value}"


def _enter(turn: Turn, entry: AnyEntry) -> None:
    state.adopt(turn.new, entry)
    turn.entries.append(entry)


def _reason(orders: list[str]) -> str:
    return "ambiguous_reference" if orders else "unknown_reference"


def _problem(raw: bytes) -> str:
    """Which field keeps the fact inside from being one; "" if none does."""
    try:
        fact = decode_fact(raw)
    except msgspec.MsgspecError:
        return "$.fact"
    return "$.fact.order" if fact.order else ""


def _park(key: str, turn: Turn, name: str, fact: bytes, reason: str, inputs: Inputs, now: int) -> Parked:
    if name in turn.arrived:
        return park(inputs, turn.arrived[name][0], reason, "fact", now)
    return _park_later(inputs, key, name, fact, reason, now)


def _park_later(inputs: Inputs, key: str, name: str, fact: bytes, reason: str, now: int) -> Parked:
    kind, _, value = key.partition(":")
    waiting = FactWaiting(at=decode_fact(fact).at, kind=kind, value=value, fact=msgspec.Raw(fact))
    return park_later(inputs, name, key, _encode(waiting), reason, "fact", now)
