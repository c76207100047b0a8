"""The orders lane: facts are merged, scores asked for, decisions made, and what is wanted is offered, claimed, withdrawn.

A state is looked at once per turn, however many facts of it the turn brought. Whatever the lane decides is a journal
entry, and it takes in its own entries exactly as a rebuilt lane would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from struct import pack
from typing import Any

import msgspec
import numpy as np

from orders import state
from orders.allocation import carried
from orders.bounds import violation
from orders.decision import Score, decide, knowledge
from orders.effect import OUTCOMES, Claim, Effect, Outcome, doubtful, effect_id, made
from orders.fact import AT_MIN, Fact, FactParked, FactUnparked, decode_fact, encode_fact
from orders.finance import problems, suspicious
from orders.journal import (
    Answered,
    AnyEntry,
    Claimed,
    Closed,
    Decided,
    Ended,
    JournalRecord,
    Offered,
    Retired,
    TimerFired,
    Withdrawn,
    decode_record,
    encode_record,
    take_in,
)
from orders.merge import APPLIED, CONTRADICTION, LATE, absorb, key_hash
from orders.plan import (
    KEPT,
    MESSAGE_CHANNELS,
    OUTSIDE,
    RETIRE,
    UNANSWERED,
    Wanted,
    answered,
    blocked,
    body,
    channel_of,
    customer_of,
    freed,
    guard,
    plan,
    repeat_at,
    request,
    requestable,
    retry_at,
    turn,
    undoes,
)
from orders.policy import Policy
from orders.state import Order, effect_name, parts
from orders.status import ENDED
from orders.view import View, awaits_review, conclude, derive, review_timer, view
from orders.warehouse import queued_at, stages
from streams.convergence import SHARE, Sampler
from streams.processor import Asked, Channels, Inputs, Outgoing, Parked, Questions, Record, Result, Scores
from streams.reading import MAX_RECORD_BYTES, park, unreadable

KEY_MAX = 512  # bytes of an order ID
SYSTEM = "orderflow"  # who reports what the lane itself noticed
_encode_request = msgspec.json.Encoder().encode


class Counts(msgspec.Struct):
    """What this process has seen and done; a turn that is repeated after a failed commit counts again. Read by metrics."""

    facts: Counter[str] = msgspec.field(default_factory=Counter)  # "applied", "late", "superseded", "contradiction", "duplicate"
    parked: Counter[str] = msgspec.field(default_factory=Counter)  # by reason
    transitions: Counter[tuple[str, str, str]] = msgspec.field(default_factory=Counter)
    """(from, to, "applied" | "late" | "contradiction"); from "" for a new order. Of the last two both are the status as it is."""
    decisions: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)  # (verdict, "model" | "fallback")
    convergence: Counter[str] = msgspec.field(default_factory=Counter)  # "checks", "violations"
    effects: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)  # (action, "observed" | "offered" | "withdrawn" | ...)


class Turn(msgspec.Struct):
    """One order in one turn of the lane."""

    order: Order  # a fork: what is committed when all goes well
    before: Order | None  # as it was; never touched
    entries: list[AnyEntry] = []
    view: View | None = None
    knew: bytes = b""  # digest of all it knows, when it is to be scored
    due: bool = False  # its due time has come
    odd: tuple[str, ...] = ()  # "late" and "contradiction", once for each such report


class Work(msgspec.Struct):
    turns: dict[str, Turn]
    asked: list[Turn]  # in the order of the questions
    partition: int
    unparked: list[str]
    duplicates: int = 0  # records that told what was known already


class OrdersProcessor:
    """`features` lays a view out as the model's row; `abilities` says per action, or per channel, what can be done about an unknown:
    "keyed" (again with the same key and bytes), "lookup" (ask what became of it) or "neither" (a person looks at it).
    One finished order in `sampled` is folded again (`streams.convergence`)."""

    name = "orders"
    topic = "facts"
    stateless = False
    encode = staticmethod(state.encode)
    decode = staticmethod(state.decode)

    def __init__(
        self,
        features: Callable[[View], Sequence[float]],
        policy: Policy | None = None,
        abilities: Mapping[str, str] | None = None,
        layout: int = 0,
        sampled: int = SHARE,
    ) -> None:
        self._features = features
        self._policy = policy or Policy()
        self._abilities = dict(abilities or {})
        self._layout = layout
        self.counts = Counts()
        self._sampler = Sampler(self.counts.convergence, sampled)

    # --- first half: take in what came, say what must be scored
    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        work = Work({}, [], inputs.partition, [])
        parked: list[Parked] = []
        rows: list[bytes] = []
        features = self._features
        known = self.counts.facts["duplicate"]
        for its in self._take_in(states, inputs, now, parked, work.unparked):
            order = its.order
            work.turns[order.id] = its
            v = its.view = derive(order)
            decision = order.decision
            if (order.learned or its.due or decision is None) and v.placed is not None and order.remnant is None:
                values = features(v)
                row = pack(f"{len(values)}f", *values)  # float32, as the model reads it
                its.knew = knowledge(row)
                if decision is None or decision.knew != its.knew:
                    work.asked.append(its)
                    rows.append(row)
        work.duplicates = self.counts.facts["duplicate"] - known
        questions = None
        if rows:
            table = np.frombuffer(bytearray().join(rows), np.float32).reshape(len(rows), -1)
            questions = Questions([its.order.id for its in work.asked], table)
        return Asked(questions=questions, work=work, parked=parked)

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        result = Result(states={}, due={})
        turns = {its.order.id: its for its in self._take_in(states, inputs, now, result.parked, result.unparked)}
        for key, its in turns.items():
            its.view = view(its.order)
            result.states[key] = its.order
            self._index(key, its, result)
        for record in map(decode_record, inputs.adopted):
            if record.key in turns:
                self._repeat(turns[record.key], record.entries, result)
        return result

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        return {decode_record(blob).key for blob in adopted}

    def mark(self, record: Record) -> Outgoing | None:
        """Its order is incomplete until somebody has dealt with the record. A mark that is itself stumbled over is not marked."""
        try:
            key = (record.key or b"").decode()
            of_a_mark = isinstance(decode_fact(record.value or b""), FactParked)
        except (ValueError, msgspec.DecodeError, RecursionError):
            return None  # `_take_in` parks it for a reason of its own
        if not key or of_a_mark:
            return None
        return Outgoing(self.topic, key, encode_fact(_mark(record, key, "processor_error")))

    def _repeat(self, its: Turn, entries: Sequence[AnyEntry], result: Result) -> None:
        """What these entries asked of other lanes, as far as it is still wanted, in the words of then."""
        order, v = its.order, its.view
        assert v is not None
        wanted = set(plan(v, order, self._policy).effects)
        for entry in entries:
            if isinstance(entry, Closed):
                for name in entry.effects:
                    if parts(name)[0] in UNANSWERED and name in wanted:
                        result.outbox.append(self._record(name, "", v, order, entry.at))
            elif isinstance(entry, Offered) and entry.action not in OUTSIDE:
                name = effect_name(entry.action, entry.milestone, entry.instance)
                if name in wanted and requestable(name, v):
                    if entry.turns:
                        result.outbox.append(_outgoing("customers", v, freed(order.ledger[name], v, entry.at)))
                    result.outbox.append(self._record(name, entry.id, v, order, entry.at))
            elif isinstance(entry, Withdrawn) and parts(entry.effect)[0] in MESSAGE_CHANNELS and v.placed is not None:
                result.outbox.append(_outgoing("customers", v, blocked(order.ledger[entry.effect], v, entry.at)))

    def _take_in(self, states: Mapping[str, Any], inputs: Inputs, now: int, parked: list[Parked], unparked: list[str]) -> Iterator[Turn]:
        """One turn per order that changed or is due, each as soon as all that came for it is merged (its memory is warm then)."""
        turns: dict[str, Turn] = {}
        for blob in inputs.adopted:
            adopted = decode_record(blob)
            its = _turn(turns, states, adopted.key)
            its.order.learned = True
            for entry in adopted.entries:
                take_in(its.order, entry)
        for outcome in inputs.outcomes:
            its = _turn(turns, states, outcome.key)
            if (ended := _ended(its.order, outcome)) is not None:
                its.entries.append(ended)
                take_in(its.order, ended)
        for key in inputs.due:
            if key in states:
                _turn(turns, states, key).due = True

        by_key: dict[bytes | None, list[Record]] = {}
        for record in inputs.records:
            same = by_key.get(record.key)
            if same is None:
                by_key[record.key] = [record]
            else:
                same.append(record)
        seen: list[str] = []
        future = self._policy.future_ms
        for raw, records in by_key.items():
            try:
                key = raw.decode() if raw is not None and 0 < len(raw) <= KEY_MAX else ""
            except UnicodeDecodeError:
                key = ""
            order: Order | None = None
            if key:
                before = states.get(key)
                waiting = turns.pop(key, None)
                its = waiting if waiting is not None else Turn(Order(key) if before is None else before.fork(), before)
                order = its.order
            told: list[Fact] = []
            for record in records:
                try:
                    if len(record.value) > MAX_RECORD_BYTES:
                        raise ValueError
                    fact = decode_fact(record.value)
                    at = record.timestamp
                    if order is None or fact.order != key or violation(fact) is not None or (at and fact.at - at > future):
                        raise ValueError
                except (ValueError, TypeError, msgspec.DecodeError, RecursionError):
                    reason, detail = self._trouble(record)
                    parked.append(park(inputs, record, reason, detail, now))
                    self.counts.parked[reason] += 1
                    if order is not None:
                        told.append(_mark(record, key, reason))
                        absorb(order, told[-1])
                    continue
                assert order is not None
                told.append(fact)
                found = absorb(order, fact)
                seen.append(found)
                if found is not APPLIED and found in (LATE, CONTRADICTION):
                    its.odd += (found,)
                if type(fact) is FactUnparked and fact.record:
                    unparked.append(fact.record)
            if order is not None and raw is not None:
                if self._sampler.sampled(raw):
                    self._sampler.saw(its.before, order, told)
                if its.due or its.entries or _changed(its):
                    yield its
        self.counts.facts.update(seen)
        for its in turns.values():
            if its.due or its.entries or _changed(its):
                yield its

    def _trouble(self, record: Record) -> tuple[str, str]:
        """Why a record could not be taken in: reason and the name of the field."""
        if not record.key:
            return "null_key", "key"
        if len(record.key) > KEY_MAX:
            return "bounds", "key"
        if len(record.value or b"") > MAX_RECORD_BYTES:
            return "too_large", "value"
        try:
            key = record.key.decode()
            fact = decode_fact(record.value or b"")
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            return unreadable(error)
        if (found := violation(fact)) is not None:
            return found
        return ("wrong_key", "key") if fact.order != key else ("bounds", "$.at")

    # --- second half: decide, plan, and say what to write
    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result:
        work: Work = asked.work
        result = Result(states={}, due={}, parked=asked.parked, unparked=work.unparked, counts={"duplicate": work.duplicates})
        if scores is not None and work.asked:
            self._decide(work.asked, scores, now)
        modes: dict[str, str] = {}  # by action
        claimable: list[tuple[int, str, Turn, Effect]] = []
        for key, its in work.turns.items():
            self._advance(key, its, now, channels, modes, result, claimable)
        if claimable:
            self._claim(claimable, work.partition, now, channels, result)
        for key, its in work.turns.items():
            if its.entries:
                result.journal.append(encode_record(JournalRecord(key, its.entries)))
        return result

    def _decide(self, asked: list[Turn], scores: Scores, now: int) -> None:
        policy = self._policy
        count = self.counts.decisions
        share = np.float32(10_000)
        columns = [
            np.rint(np.nan_to_num(c) * share).astype(np.int64).tolist()
            for c in (scores.fraud, scores.late, scores.shortage, scores.priority)
        ]
        losses = np.rint(np.nan_to_num(scores.loss)).astype(np.int64).tolist()
        model, fallback = scores.version, scores.fallback
        for its, fraud, late, shortage, priority, loss, reasons in zip(asked, *columns, losses, scores.reasons, strict=True):
            order = its.order
            decision = decide(its.knew, Score(fraud, late, shortage, priority, loss, reasons, model, fallback), order.decision, policy, now)
            entry = Decided(at=now, decision=decision)
            its.entries.append(entry)
            take_in(order, entry)
            count[(decision.verdict, decision.by)] += 1

    def _advance(
        self,
        key: str,
        its: Turn,
        now: int,
        channels: Channels,
        modes: dict[str, str],
        result: Result,
        claimable: list[tuple[int, str, Turn, Effect]],
    ) -> None:
        order, v, policy = its.order, its.view, self._policy
        assert v is not None
        if order.ledger:
            self._expire(its, now)
        conclude(v, order)
        wants = plan(v, order, policy, now)
        while self._turns(its, wants, now):
            v = its.view
            assert v is not None
            conclude(v, order)
            wants = plan(v, order, policy, now)
        for timer, at in wants.rung.items():
            fired = TimerFired(at=at, timer=timer)
            its.entries.append(fired)
            take_in(order, fired)
        self._offer(key, its, wants, now, channels, modes, result)
        due = min(wants.timers.values(), default=0)
        if order.ledger:
            due = self._tend(key, its, wants, due, now, result, claimable)
        result.states[key] = order
        result.due[key] = due
        if v.placed is not None and v.placed.service == "express":
            result.express.add(key.encode())
        self._index(key, its, result)

    def _expire(self, its: Turn, now: int) -> None:
        """Attempts past their deadline of which nobody has told are unknown from then on."""
        for name, effect in list(its.order.ledger.items()):
            if effect.attempts and not effect.attempts[-1].outcome:
                last = effect.attempts[-1]
                at = last.deadline + self._policy.grace_ms
                if at <= now:
                    ended = Ended(at=at, id=effect.id, effect=name, attempt=last.number, kind="unknown", reason="no_answer")
                    its.entries.append(ended)
                    take_in(its.order, ended)

    def _turns(self, its: Turn, wants: Wanted, now: int) -> bool:
        """Fires what is due and makes another order of it: what it wants must then be asked again."""
        due = [(timer, at) for timer, at in wants.timers.items() if at <= now]
        if not due:
            return False
        order = its.order
        fired: list[AnyEntry] = [TimerFired(at=at, timer=timer) for timer, at in due if timer != RETIRE]
        retire_at = wants.timers.get(RETIRE)
        if retire_at is not None and retire_at <= now:
            assert its.view is not None
            for name, effect in order.ledger.items():
                if effect.open:
                    fired.append(Answered(at=retire_at, id=effect.id, effect=name, turns=effect.turns))
            covered = tuple(sorted(key_hash(key) for key in order.facts))
            fired.append(Retired(at=retire_at, status=its.view.status.value, covered=covered))
        for entry in fired:
            its.entries.append(entry)
            take_in(order, entry)
        if order.remnant is not None:
            its.view = view(order)
        return True

    def _offer(self, key: str, its: Turn, wants: Wanted, now: int, channels: Channels, modes: dict[str, str], result: Result) -> None:
        """What is wanted and was not offered yet: asked for, opened, or closed at once as observed."""
        order, v = its.order, its.view
        assert v is not None
        closed, ledger = order.closed, order.ledger
        fresh = [name for name in wants.effects if name not in closed]
        if not fresh:
            return
        closing: dict[str, None] = {}
        count = self.counts.effects
        for name in fresh:
            known = ledger.get(name) if ledger else None
            if (known is not None and known.closed != "withdrawn") or name in closing:
                continue
            action = name[: name.index(" ")]
            mode = modes.get(action)
            if mode is None:
                channel = channel_of(action, self._policy)
                mode = modes[action] = channels.mode(channel) if channel else "live"
            if mode == "observe":
                if known is None:
                    closing[name] = None
                    count[(action, "observed")] += 1
                    if action in MESSAGE_CHANNELS:
                        said = f"message.{action.removeprefix('notify.')}.observed"
                        result.counts[said] = result.counts.get(said, 0) + 1
                continue
            if action in UNANSWERED:
                closing[name] = None
                result.outbox.append(self._request(name, "", its, now))
                count[(action, "done")] += 1
                continue
            _, milestone, instance = parts(name)
            id = known.id if known is not None else effect_id(key, milestone, instance, action)
            offered = Offered(
                at=now,
                id=id,
                action=action,
                milestone=milestone,
                instance=instance,
                undoes=undoes(name, key),
                turns=known.turns + 1 if known is not None else 0,
                channels=channels.version,
            )
            its.entries.append(offered)
            take_in(order, offered)
            ledger = order.ledger
            if known is not None and action in MESSAGE_CHANNELS:
                result.outbox.append(_outgoing("customers", v, freed(ledger[name], v, now)))
            if action not in OUTSIDE:
                result.outbox.append(self._request(name, id, its, now))
            count[(action, "offered")] += 1
        if closing:
            entry = Closed(at=now, effects=tuple(closing), channels=channels.version)
            its.entries.append(entry)
            take_in(order, entry)

    def _tend(
        self, key: str, its: Turn, wants: Wanted, due: int, now: int, result: Result, claimable: list[tuple[int, str, Turn, Effect]]
    ) -> int:
        """What was offered and is not over: withdrawn, repeated, or ready to be claimed. Returns when to look again."""
        order, v, policy = its.order, its.view, self._policy
        assert v is not None
        wanted = set(wants.effects)
        times = [due] if due else []
        for name, effect in list(order.ledger.items()):
            if not effect.open or answered(effect, v):
                continue
            last = effect.attempts[-1] if effect.attempts else None
            if name not in wanted and effect.action not in KEPT and (last is None or last.outcome == "retryable" or not made(effect, v)):
                self._withdraw(name, effect, its, now, result)
            elif effect.action not in OUTSIDE:
                if effect.offered_at < now and self._asks_again(name, effect, its, now):
                    result.outbox.append(self._request(name, effect.id, its, now))
                times.append(repeat_at(effect, policy, now))
            elif last is not None and not last.outcome:
                times.append(last.deadline + policy.grace_ms)
            elif name in wanted and not guard(effect, v, order):
                at = self._claim_at(effect, v)
                if at and at <= now:
                    claimable.append((turn(v, policy), name, its, effect))
                elif at:
                    times.append(at)
        return min(times, default=0)

    def _withdraw(self, name: str, effect: Effect, its: Turn, now: int, result: Result) -> None:
        entry = Withdrawn(at=now, id=effect.id, effect=name, turns=effect.turns + 1)
        its.entries.append(entry)
        take_in(its.order, entry)
        if effect.action in MESSAGE_CHANNELS:
            v = its.view
            assert v is not None
            if v.placed is None and its.before is not None:
                v = view(its.before)  # the order itself was retracted: only the past knows whom to tell
            result.outbox.append(_outgoing("customers", v, blocked(its.order.ledger[name], v, now)))
        self.counts.effects[(effect.action, "withdrawn")] += 1

    def _asks_again(self, name: str, effect: Effect, its: Turn, now: int) -> bool:
        """An open request is repeated when its time has come, and when what it would say has changed."""
        v, before = its.view, its.before
        assert v is not None
        if not requestable(name, v):
            return False
        if its.due and now >= effect.offered_at + self._policy.repeat_ms:
            return True
        if effect.action not in MESSAGE_CHANNELS or before is None:
            return False
        earlier = view(before)
        return requestable(name, earlier) and self._record(name, effect.id, earlier, before, now) != self._record(
            name, effect.id, v, its.order, now
        )

    def _claim_at(self, effect: Effect, view: View) -> int:
        """When an effect may be tried (1: at once); 0: not before a person has looked at it."""
        if not effect.attempts:
            return 1
        if len(effect.attempts) >= self._policy.max_attempts:
            return 0
        if self._ability(effect) == "neither" and doubtful(effect, view):
            return 0
        return retry_at(effect, self._policy)

    def _claim(
        self,
        claimable: list[tuple[int, str, Turn, Effect]],
        partition: int,
        now: int,
        channels: Channels,
        result: Result,
    ) -> None:
        """Writes attempts for what the channel can start now, those whose turn comes first first; the others wait."""
        claimable.sort(key=lambda c: (c[0], c[2].order.id, c[1]))
        policy = self._policy
        for _, name, its, effect in claimable:
            order, v = its.order, its.view
            assert v is not None
            key = order.id
            channel = channel_of(effect.action, policy)
            if sent := {a.body_hash for a in doubtful(effect, v)}:
                again = {_digest(body(effect, v, order, policy), channel, _asked_of(effect, v, order, policy))}
                if self._ability(effect) == "lookup":  # whatever the bytes were
                    sent, again = {_by(digest) for digest in sent}, {_by(digest) for digest in again}
                if sent != again:
                    continue  # it may have been taken with other bytes, or by another system: held, and shown as unknown
            mode = channels.mode(channel)
            if mode not in ("live", "sandbox") or not channels.take(channel):
                self._due(result, key, channels.retry_at(channel, now))
                continue
            last = effect.attempts[-1] if effect.attempts else None
            unknown = last is not None and last.outcome == "unknown"
            rendered = body(effect, v, order, policy)
            lookup = unknown and self._ability(effect) == "lookup"
            number = last.number + 1 if last is not None else 1
            claimed = Claimed(
                at=now,
                id=effect.id,
                effect=name,
                attempt=number,
                deadline=now + policy.lease_ms,
                body_hash=_digest(rendered, channel, _asked_of(effect, v, order, policy)),
                mode=mode,
                lookup=lookup,
                channels=channels.version,
            )
            its.entries.append(claimed)
            take_in(order, claimed)
            result.claims.append(
                Claim(
                    lane=f"{self.name}.{self._layout}.{partition}",
                    key=key,
                    effect=effect.id,
                    channel=channel,
                    attempt=number,
                    deadline=claimed.deadline,
                    body=rendered,
                    sandbox=mode == "sandbox",
                    lookup=lookup,
                )
            )
            self.counts.effects[(effect.action, "claimed")] += 1
            self._due(result, key, claimed.deadline + policy.grace_ms)

    @staticmethod
    def _due(result: Result, key: str, at: int) -> None:
        result.due[key] = min(result.due[key] or at, at)

    def _ability(self, effect: Effect) -> str:
        return self._abilities.get(effect.action) or self._abilities.get(channel_of(effect.action, self._policy), "neither")

    def _record(self, name: str, id: str, v: View, order: Order, now: int) -> Outgoing:
        topic, key, record = request(name, id, v, order, self._policy, now)
        return Outgoing(topic, key, _encode_request(record))

    def _request(self, name: str, id: str, its: Turn, now: int) -> Outgoing:
        assert its.view is not None
        return self._record(name, id, its.view, its.order, now)

    def _index(self, key: str, its: Turn, result: Result) -> None:
        order, v, before = its.order, its.view, its.before
        assert v is not None
        had: tuple[str, ...] = ()
        if before is not None:
            had = before.seen if before.seen is not None else tags(view(before), before)
        has = tags(v, order)
        order.seen = has
        order.learned = False
        if has != had:
            lost = tuple([tag for tag in had if tag not in has])
            gained = tuple([tag for tag in has if tag not in had])
            result.index.append((key, lost, tuple([tag for tag in gained if ":" not in tag]), v.last_at))
            if queued := tuple([tag for tag in gained if ":" in tag]):
                result.index.append((key, (), queued, queued_at(v)))
            if not had or had[0] != has[0]:
                self.counts.transitions[(had[0] if had else "", has[0], APPLIED)] += 1
                if v.status in ENDED:
                    self._sampler.ended(order)
        for odd in its.odd:
            self.counts.transitions[(has[0], has[0], odd)] += 1


def tags(v: View, order: Order) -> tuple[str, ...]:
    """Under what an order is found: its status first, then what applies of held, incomplete, review, escalated, finance, unknown.

    Where the warehouse has to do with it: "to_pick:main" and the like (`orders.warehouse.stages`), in the order of `queued_at`.
    """
    found = [v.status._value_]
    if v.holds:
        found.append("held")
    if v.incomplete:
        found.append("incomplete")
    if awaits_review(v):
        assert v.decision is not None
        found.append("review")
        if review_timer("late", v.decision) in order.fired:
            found.append("escalated")
    if suspicious(v) and problems(v, order):
        found.append("finance")
    if order.ledger or v.messages:
        unknown = any(e.open and not answered(e, v) and e.attempts[-1] in doubtful(e, v) for e in order.ledger.values() if e.attempts)
        if unknown or "unknown" in v.messages.values():
            found.append("unknown")
    if v.reserved or v.parcels or v.picked:
        found += [f"{stage}:{location}" for stage, location in stages(v)]
    return tuple(found)


def _mark(record: Record, key: str, reason: str) -> FactParked:
    """Makes the order whose report could not be read incomplete, until somebody has dealt with the record."""
    mark = mark_id(key.encode(), record.value or b"")
    return FactParked(order=key, system=SYSTEM, object=mark, at=record.timestamp or AT_MIN, reason=reason)


def mark_id(key: bytes, value: bytes) -> str:
    """The `object` of the `FactParked` that marks an order: the unreadable bytes name themselves, wherever they lay."""
    return blake2b(key + b"\x1f" + value, digest_size=12).hexdigest()


def _turn(turns: dict[str, Turn], states: Mapping[str, Any], key: str) -> Turn:
    its = turns.get(key)
    if its is None:
        before = states.get(key)
        its = turns[key] = Turn(Order(key) if before is None else before.fork(), before)
    return its


def _changed(its: Turn) -> bool:
    order, before = its.order, its.before
    if before is None:
        return bool(order.facts or order.closed or order.ledger or order.fired or order.decision or order.remnant)
    return (
        order.facts is not before.facts
        or order.ledger is not before.ledger
        or order.closed is not before.closed
        or order.decision is not before.decision
        or order.fired is not before.fired
        or order.remnant is not before.remnant
    )


def _ended(order: Order, outcome: Outcome) -> Ended | None:
    """The entry for what became of a claim; None for a claim this order never made, or for old news."""
    for name, effect in order.ledger.items():
        if effect.id == outcome.effect:
            attempt = next((a for a in effect.attempts if a.number == outcome.attempt), None)
            if attempt is None or OUTCOMES[outcome.kind] <= OUTCOMES[attempt.outcome]:
                return None
            return Ended(
                at=outcome.at,
                id=effect.id,
                effect=name,
                attempt=outcome.attempt,
                kind=outcome.kind,
                after=outcome.after,
                reference=outcome.reference,
                reason=outcome.reason,
            )
    return None


def _digest(rendered: bytes, channel: str, asked_of: str = "") -> str:
    """Of what leaves, and by which channel, where it is another than the webhook; and whom a table of rates chose for it."""
    hash = blake2b(rendered, digest_size=12).hexdigest()
    return f"{hash}@{channel}/{asked_of}" if asked_of else hash if channel == "webhook" else f"{hash}@{channel}"


def _asked_of(effect: Effect, v: View, order: Order, policy: Policy) -> str:
    by = carried(v, order, policy, v.parcels[effect.instance]) if effect.action == "carrier.label" else None
    return "" if by is None else " ".join(by)


def _by(digest: str) -> str:
    """The channel, and whom else, that a digest's bytes left by; "" for the webhook."""
    return digest.partition("@")[2]


def _outgoing(topic: str, v: View, record: msgspec.Struct) -> Outgoing:
    return Outgoing(topic, customer_of(v), _encode_request(record))
