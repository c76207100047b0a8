"""The stock lane: one state per SKU and location, the only place that gives units away.

It answers each request with a fact to its order: reserved, short (and queued), released. Decisions are journal entries. A check
of what is there, before anything is reserved, changes nothing and is answered only where there is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from orders import stock as state
from orders.fact import AnyFact, StockReleased, StockReserved, StockScarce, StockShort, encode_fact
from orders.request import AnyStock, StockCheckRequested, StockLevelReported, StockReleaseRequested, StockRequested
from orders.stock import AnyEntry, Forgotten, Queued, Reservation, Reserved, Stock, decode_entry, encode_entry
from streams.processor import Asked, Channels, Inputs, Outgoing, Parked, Record, Result, Scores
from streams.reading import park, read

SYSTEM = "stock"
DAY_MS = 24 * 3_600_000
REMEMBER_MS = 8 * DAY_MS  # longer than the topic's retention
MOST = 1_000_000_000  # of one line; more is somebody's mistake
_decode = msgspec.json.Decoder(AnyStock).decode


class Turn(msgspec.Struct):
    """What one turn knows of one key."""

    new: Stock
    asked: dict[str, StockRequested] = {}  # answered in this turn, again if they were before
    undone: dict[str, StockReleaseRequested] = {}
    checked: list[StockCheckRequested] = []
    entries: list[AnyEntry] = []


class StockProcessor:
    """`assume`: units where no level is known; None gives away without limit until one is, which oversells."""

    name = "stock"
    topic = "stock"
    stateless = False
    encode = staticmethod(state.encode)
    decode = staticmethod(state.decode)

    def __init__(self, assume: int | None = 0, remember: int = REMEMBER_MS) -> None:
        self._assume, self._remember = assume, remember

    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        turns: dict[str, Turn] = {}
        parked: list[Parked] = []

        def turn_of(key: str) -> Turn:
            turn = turns.get(key)
            if turn is None:
                old = states.get(key)
                turn = turns[key] = Turn(old.copy() if old is not None else Stock())
            return turn

        for record, key, request in read(inputs, _decode, _key_of, now, parked):
            if not isinstance(request, StockLevelReported) and not 0 < request.quantity <= MOST:
                parked.append(park(inputs, record, "bounds", "$.quantity", now))
                continue
            turn = turn_of(key)
            if isinstance(request, StockCheckRequested):
                turn.checked.append(request)
                continue
            state.merge(turn.new, request)
            if isinstance(request, StockRequested):
                turn.asked[request.effect] = request
            elif isinstance(request, StockReleaseRequested):
                turn.undone[request.request] = request
        for blob in inputs.adopted:
            entry = decode_entry(blob)
            state.adopt(turn_of(entry.key).new, entry)
        for key in inputs.due:
            if key in states:
                turn_of(key)
        return Asked(questions=None, work=turns, parked=parked)

    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result:
        result = Result(states={}, due={})
        for key, turn in asked.work.items():
            self._turn(key, turn, now, result)
        return result

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        asked = self.ask(states, inputs, now)
        turns: dict[str, Turn] = asked.work
        result = Result(states={}, due={}, parked=asked.parked)
        result.states = {key: turn.new for key, turn in turns.items() if turn.new.changed}
        for entry in map(decode_entry, inputs.adopted):
            if isinstance(entry, Forgotten):
                continue
            r = turns[entry.key].new.requests.get(entry.request)
            if r is not None and r.order:
                result.outbox.append(Outgoing("facts", r.order, encode_fact(_answer(entry.key, entry.request, r))))
        return result

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        return {decode_entry(blob).key for blob in adopted}

    def mark(self, record: Record) -> None:
        return None

    def _turn(self, key: str, turn: Turn, now: int, result: Result) -> None:
        new = turn.new
        answers: dict[str, AnyFact] = {}
        for request, quantity in list(state.allocate(new, self._assume)):
            _enter(turn, Reserved(key=key, at=now, request=request, quantity=quantity))
            answers[request] = _answer(key, request, new.requests[request])
        for request in sorted(new.waiting):
            if not new.requests[request].queued_at:
                _enter(turn, Queued(key=key, at=now, request=request))
                answers[request] = _answer(key, request, new.requests[request])
        for request, asked in turn.asked.items():
            if request not in answers:
                answers[request] = _answer(key, request, new.requests[request]) if request in new.requests else _too_late(asked)
        for request, undo in turn.undone.items():
            answers[request] = _released(undo, new.requests.get(request))
        if turn.checked:
            left = state.available(new, self._assume)
            for check in turn.checked:
                if left is not None and left < check.quantity:
                    answers[check.effect] = _in_its_words(StockScarce, check)
        self._forget(key, turn, now)
        result.outbox.extend(Outgoing("facts", fact.order, encode_fact(fact)) for fact in answers.values())
        result.journal.extend(map(encode_entry, turn.entries))
        result.due[key] = 0
        if new.changed:
            result.states[key] = new

    def _forget(self, key: str, turn: Turn, now: int) -> None:
        before = now - self._remember
        if before < turn.new.horizon + DAY_MS:
            return
        before = state.horizon(turn.new, before)
        if before >= turn.new.horizon + DAY_MS:
            _enter(turn, Forgotten(key=key, at=now, before=before))


def _key_of(request: AnyStock) -> str:
    return f"{request.sku}@{request.location}"


def _enter(turn: Turn, entry: AnyEntry) -> None:
    state.adopt(turn.new, entry)
    turn.entries.append(entry)


def _answer(key: str, request: str, r: Reservation) -> AnyFact:
    """What became of a request, always in the same words."""
    sku, _, location = key.rpartition("@")
    if r.reserved_at:
        return StockReserved(
            order=r.order, system=SYSTEM, object=request, at=r.reserved_at, line=r.line, sku=sku, location=location, quantity=r.reserved
        )
    if r.wanted:
        return StockShort(
            order=r.order, system=SYSTEM, object=request, at=r.queued_at, line=r.line, sku=sku, location=location, quantity=r.wanted
        )
    return StockReleased(
        order=r.order,
        system=SYSTEM,
        object=request,
        at=max((release.at for release in r.releases), default=r.shipped_at),
        version=r.released,
        line=r.line,
        sku=sku,
        location=location,
        quantity=min(r.released, r.quantity),
    )


def _released(undo: StockReleaseRequested, r: Reservation | None) -> StockReleased:
    """`object` is the request that was undone, `quantity` all that was given back of it so far; nothing once it was shipped."""
    gone = r is None or bool(r.shipped_at)
    released = 0 if r is None or gone else r.released
    return StockReleased(
        order=undo.order,
        system=SYSTEM,
        object=undo.request,
        at=undo.at if r is None else max((release.at for release in r.releases), default=undo.at),
        version=released,
        line=undo.line,
        sku=undo.sku,
        location=undo.location,
        quantity=min(released, r.quantity) if r is not None and r.requested_at else released,
    )


def _too_late(asked: StockRequested) -> AnyFact:
    """Older than what is remembered: nobody can tell whether it was served and closed, so nothing is given again."""
    return _in_its_words(StockShort, asked, queued=False)


def _in_its_words(kind: Callable[..., AnyFact], asked: StockRequested | StockCheckRequested, **more: bool) -> AnyFact:
    """The answer to a request of which nothing is remembered: with its own time, so that the same answer again is the same fact."""
    return kind(
        order=asked.order,
        system=SYSTEM,
        object=asked.effect,
        at=asked.at,
        line=asked.line,
        sku=asked.sku,
        location=asked.location,
        quantity=asked.quantity,
        **more,
    )
