"""The customers lane: one state per person, so that one place decides what is said to them, when and how.

It answers the orders lane with `MessageReported` facts and hands claims to the channels. Decisions are journal entries.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from messages import customer as state
from messages.customer import Content, Customer, Message
from messages.journal import Answered, AnyEntry, Claimed, Closed, Forgotten, decode_entry, encode_entry
from messages.policy import Policy, decide, expiry, reach, spares
from messages.render import Rendered, Renderer, Unrenderable, body_hash, missing
from orders.effect import OUTCOMES, Attempt, Claim, Outcome
from orders.fact import MessageReported, encode_fact
from orders.request import AnyCustomer, MessageRequested
from streams.processor import Asked, Channels, Inputs, Outgoing, Parked, Record, Result, Scores
from streams.reading import park, park_later, read

SYSTEM = "customers"
FORGET_EVERY_MS = 24 * 3_600_000
MOST_ACCEPTED = 100_000  # between two looks at them
_decode = msgspec.json.Decoder(AnyCustomer).decode
_encode_request = msgspec.json.Encoder(order="deterministic").encode


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How the customers lane tries, in ms."""

    lease: int = 30_000  # a claim's call must have begun by then
    grace: int = 30_000  # and what became of it be told so long after, or it is unknown; longer than any call takes
    backoff: int = 5_000  # after a retryable outcome, doubled each time
    backoff_max: int = 15 * 60_000
    attempts: int = 20
    key_life: int = 24 * 3_600_000  # keyed channels: how long the provider knows our key
    look_up_for: int = 3_600_000


class Turn(msgspec.Struct):
    """What one turn knows of one customer."""

    old: Customer
    new: Customer
    touched: dict[str, Record | None] = {}  # effect -> the record that asked for it, if one did in this turn
    asked: dict[str, MessageRequested] = {}  # what was asked for in this turn, perhaps again: answered again
    entries: list[AnyEntry] = []
    closed: list[str] = []  # "message.<channel>.<word>" of what ended in this turn


class Work(msgspec.Struct):
    """What one turn of the lane shares among its customers."""

    inputs: Inputs
    now: int
    channels: Channels
    result: Result
    full: set[str] = set()  # channels that had no room in this turn


class CustomersProcessor:
    """`abilities`: channel -> "keyed", "lookup" or "neither" (the default): what can be done about an unknown outcome."""

    name = "customers"
    topic = "customers"
    stateless = False
    encode = staticmethod(state.encode)
    decode = staticmethod(state.decode)

    def __init__(
        self,
        renderer: Renderer,
        policy: Policy | None = None,
        timing: Timing | None = None,
        abilities: Mapping[str, str] | None = None,
        layout: int = 0,
    ) -> None:
        self._renderer = renderer
        self._policy = policy or Policy(zone=renderer.brand.zone)
        self._timing = timing or Timing()
        self._abilities = dict(abilities or {})
        self._layout = layout
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """(channel, template, outcome) -> how often decided by this process; a commit that is repeated counts again."""
        self.accepted: deque[tuple[str, str, float]] = deque(maxlen=MOST_ACCEPTED)
        """Channel, class and latency in seconds of messages that providers took since somebody looked."""

    # --- first half: take in
    def ask(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Asked:
        turns: dict[str, Turn] = {}
        parked: list[Parked] = []

        def turn_of(key: str) -> Turn:
            turn = turns.get(key)
            if turn is None:
                old = states.get(key)
                turn = turns[key] = Turn(old, old.copy()) if old is not None else Turn(Customer(), Customer())
            return turn

        for record, key, request in read(inputs, _decode, _key_of, now, parked):
            turn = turn_of(key)
            effect = state.merge(turn.new, request)
            if not effect:
                continue
            if isinstance(request, MessageRequested):
                turn.touched[effect] = record
                turn.asked[effect] = request
            else:
                turn.touched.setdefault(effect, None)
        for blob in inputs.adopted:
            entry = decode_entry(blob)
            turn = turn_of(entry.key)
            effect = state.adopt(turn.new, entry)
            if effect:
                turn.touched.setdefault(effect, None)
        for outcome in inputs.outcomes:
            self._enter(turn_of(outcome.key), _answered(outcome))
        for key in inputs.due:
            if key in states:
                turn_of(key)
        return Asked(questions=None, work=(inputs, turns), parked=parked)

    # --- second half: decide
    def answer(self, asked: Asked, scores: Scores | None, now: int, channels: Channels) -> Result:
        inputs, turns = asked.work
        work = Work(inputs, now, channels, Result(states={}, due={}))
        for key, turn in turns.items():
            self._turn(key, turn, work)
            for name in turn.closed:
                work.result.counts[name] = work.result.counts.get(name, 0) + 1
        return work.result

    def rebuild(self, states: Mapping[str, Any], inputs: Inputs, now: int) -> Result:
        asked = self.ask(states, inputs, now)
        turns: dict[str, Turn] = asked.work[1]
        result = Result(states={}, due={}, parked=asked.parked)
        for key, turn in turns.items():
            _index(key, turn, now, result)
            if turn.new != turn.old:
                result.states[key] = turn.new
            if inputs.adopted:
                for effect in turn.touched:
                    result.outbox.extend(_reports(turn, effect))
        for entry in map(decode_entry, inputs.adopted):
            if isinstance(entry, Closed) and entry.word == "render_error":
                message = turns[entry.key].old.messages.get(entry.effect)
                if message is not None and message.content is not None:
                    detail = next(iter(_lacking(message, message.content)), "")
                    result.parked.append(_unsaid(inputs, entry.key, entry.effect, message, message.content, entry.reason, detail, entry.at))
        return result

    def keys_of(self, adopted: Sequence[bytes]) -> set[str]:
        return {decode_entry(blob).key for blob in adopted}

    def mark(self, record: Record) -> None:
        return None

    def _turn(self, key: str, turn: Turn, work: Work) -> None:
        new, result = turn.new, work.result
        due = 0
        for effect, message in list(new.messages.items()):
            if message.ended is None or effect in turn.touched:
                again = self._advance(key, turn, effect, work)
                due = min(due, again) if due and again else due or again
        self._forget(key, turn, work.now)
        for effect in turn.touched:
            result.outbox.extend(_reports(turn, effect))
        _index(key, turn, work.now, result)
        result.journal.extend(map(encode_entry, turn.entries))
        result.due[key] = due
        if new != turn.old:
            result.states[key] = new

    def _advance(self, key: str, turn: Turn, effect: str, work: Work) -> int:
        """One step for one message; says when to look again, 0: not by the clock."""
        message, now = turn.new.messages[effect], work.now
        known = _known(message)
        if message.ended is not None:
            if known and message.ended.word in ("unknown", "expired", "suppressed", "observed"):  # told after all
                self._close(key, turn, effect, known, "", now)
            return 0
        if known:
            if known == "sent" and message.content is not None:
                self._accepted(message, message.content)
            reason = "blocked_after_claim" if known == "sent" and message.blocked else message.attempts[-1].reason
            return self._close(key, turn, effect, known, reason, now)
        content = message.content
        if content is None:
            return 0  # blocks, receipts or attempts of a request that is yet to come
        if message.attempts:
            last = message.attempts[-1]
            if not last.outcome:
                until = last.deadline + self._timing.grace
                if now < until:
                    return until
                self._enter(turn, Answered(key=key, at=until, effect=effect, number=last.number, outcome="unknown", reason="deadline"))
                message = turn.new.messages[effect]
            if message.unknown is not None:
                return self._resolve(key, turn, effect, message, content, message.unknown, work)
        return self._offer(key, turn, effect, message, content, work)

    def _offer(self, key: str, turn: Turn, effect: str, message: Message, content: Content, work: Work) -> int:
        now, attempts = work.now, message.attempts
        if not attempts and message.channel and work.channels.mode(message.channel) == "observe":  # most often: no rule is asked
            return self._close(key, turn, effect, "observed", "", now, work.channels.version)
        choice = decide(message, turn.new, self._policy, now)
        ends = expiry(content, self._policy)
        if not attempts and choice.channels and work.channels.mode(choice.channels[0]) == "observe":
            return self._close(key, turn, effect, "observed", "", now, work.channels.version)
        if message.blocked:
            return self._close(key, turn, effect, "suppressed", "blocked", now) if now >= ends else 0
        if choice.word:
            if choice.word == "render_error":
                self._park(key, turn, effect, message, content, choice.reason, work)
            return self._close(key, turn, effect, choice.word, choice.reason, now, rule=choice.rules[-1])
        earliest = choice.earliest
        if attempts:
            if len(attempts) >= self._timing.attempts:
                return self._close(key, turn, effect, "rejected", "attempts", now)
            earliest = max(earliest, attempts[-1].after, attempts[-1].outcome_at + self._backoff(len(attempts)))
        if now < earliest:
            return min(earliest, ends)
        number = attempts[-1].number + 1 if attempts else 1
        try:
            return self._claim(key, turn, effect, message, content, choice.channels[0], number, now, work)
        except Unrenderable as error:
            word = {"outdated": "expired", "no_contact": "suppressed"}.get(error.reason, "render_error")
            if word == "render_error":
                self._park(key, turn, effect, message, content, error.reason, work, error.field)
            return self._close(key, turn, effect, word, error.reason, now)

    def _resolve(self, key: str, turn: Turn, effect: str, message: Message, content: Content, unknown: Attempt, work: Work) -> int:
        """Nobody knows whether the customer got it. Never sent again blindly: by its key, or asked for, or held and shown."""
        now, timing, last = work.now, self._timing, message.attempts[-1]
        ability = self._abilities.get(message.via, "neither")
        ends = expiry(content, self._policy)
        try:
            if ability == "lookup" and now < unknown.claimed_at + timing.look_up_for:
                again = last.deadline + timing.grace
                if now < again:
                    return again
                return self._claim(key, turn, effect, message, content, message.via, last.number + 1, unknown.claimed_at, work, lookup=True)
            if ability == "keyed" and not message.blocked and now < min(ends, unknown.claimed_at + timing.key_life):
                again = max(last.outcome_at + self._backoff(len(message.attempts)), last.after)
                if now < again:
                    return again
                if len(message.attempts) < timing.attempts:
                    return self._claim(key, turn, effect, message, content, message.via, last.number + 1, unknown.claimed_at, work)
        except Unrenderable:
            pass  # what was rendered once no longer is: not the same bytes, so it is held
        return self._close(key, turn, effect, "unknown", unknown.reason, now) if now >= ends else 0

    def _claim(
        self,
        key: str,
        turn: Turn,
        effect: str,
        message: Message,
        content: Content,
        channel: str,
        number: int,
        as_of: int,
        work: Work,
        lookup: bool = False,
    ) -> int:
        """Write the attempt and hand it over, if the channel has room. Raises Unrenderable."""
        channels, now = work.channels, work.now
        mode = channels.mode(channel)
        if mode not in ("live", "sandbox") or channel in work.full:
            return channels.retry_at(channel, now)
        rendered = self._rendered(key, turn, effect, message, content, channel, as_of, now)
        digest = body_hash(rendered.body)
        if not channels.take(channel):
            work.full.add(channel)
            return channels.retry_at(channel, now)
        deadline = now + self._timing.lease
        self._enter(
            turn,
            Claimed(
                key=key,
                at=now,
                effect=effect,
                number=number,
                channel=channel,
                deadline=deadline,
                body_hash=digest,
                lookup=lookup,
                sandbox=mode == "sandbox",
                modes=channels.version,
            ),
        )
        work.result.claims.append(
            Claim(
                lane=f"{self.name}.{self._layout}.{work.inputs.partition}",
                key=key,
                effect=effect,
                channel=channel,
                attempt=number,
                deadline=deadline,
                body=rendered.body,
                sandbox=mode == "sandbox",
                lookup=lookup,
            )
        )
        return deadline + self._timing.grace

    def _rendered(
        self, key: str, turn: Turn, effect: str, message: Message, content: Content, channel: str, as_of: int, now: int
    ) -> Rendered:
        """What the message says now or, where an attempt of then is made again or asked for, what that said: the bytes it claimed,
        whatever was asked for since. Raises Unrenderable where those bytes cannot be made any more."""
        claimed = {attempt.body_hash for attempt in message.attempts if attempt.claimed_at == as_of} if as_of != now else set()
        contents = [content, *(earlier for _, earlier in reversed(message.earlier))] if claimed else [content]
        for said in contents:
            try:
                rendered = self._renderer.render(
                    message.template,
                    channel,
                    said.fields,
                    reach(turn.new, said),
                    customer=key,
                    effect=effect,
                    order=message.order,
                    milestone_at=said.milestone_at,
                    as_of=as_of,
                    variant=spares(said, self._policy, as_of),
                )
            except Unrenderable:
                if not claimed:
                    raise
                continue
            if not claimed or body_hash(rendered.body) in claimed:
                return rendered
        raise Unrenderable("changed")

    def _backoff(self, attempts: int) -> int:
        return min(self._timing.backoff << (attempts - 1), self._timing.backoff_max)

    def _close(self, key: str, turn: Turn, effect: str, word: str, reason: str, now: int, modes: int = 0, rule: str = "") -> int:
        message = turn.new.messages[effect]
        channel = message.via or message.channel
        at = now if message.ended is None else max(now, message.ended.at + 1)
        self._enter(turn, Closed(key=key, at=at, effect=effect, word=word, channel=channel, reason=reason, rule=rule, modes=modes))
        self.counts[channel, message.template, word] += 1
        turn.closed.append(f"message.{channel}.{word}")
        return 0

    def _accepted(self, message: Message, content: Content) -> None:
        """What is asked for again before it was answered counts from its first attempt at the latest."""
        since = min(max(message.asked, content.not_before), message.attempts[0].claimed_at)
        at = max(attempt.outcome_at for attempt in message.attempts if attempt.outcome == "sent")
        self.accepted.append((message.via or message.channel, content.kind, max(0, at - since) / 1000))

    def _park(
        self, key: str, turn: Turn, effect: str, message: Message, content: Content, reason: str, work: Work, field: str = ""
    ) -> None:
        detail = field or next(iter(_lacking(message, content)), "")
        record = turn.touched.get(effect)
        if record is not None:
            work.result.parked.append(park(work.inputs, record, reason, detail, work.now))
            return
        work.result.parked.append(_unsaid(work.inputs, key, effect, message, content, reason, detail, work.now))

    def _forget(self, key: str, turn: Turn, now: int) -> None:
        before, new = now - self._policy.remember, turn.new
        if before < new.horizon + FORGET_EVERY_MS:
            return
        if any(m.ended is not None and m.ended.at + state.SPAN_MS < before for m in new.messages.values()):
            before = state.horizon(new, before)
            if before > new.horizon:
                self._enter(turn, Forgotten(key=key, at=now, before=before))

    @staticmethod
    def _enter(turn: Turn, entry: AnyEntry) -> None:
        """Journal and merge what was decided; what changes nothing was known already."""
        if isinstance(entry, Forgotten):
            state.adopt(turn.new, entry)
        else:
            before = turn.new.messages.get(entry.effect)
            state.adopt(turn.new, entry)
            if turn.new.messages.get(entry.effect) == before:
                return
            turn.touched.setdefault(entry.effect, None)
        turn.entries.append(entry)


def _key_of(request: AnyCustomer) -> str:
    return request.customer


def _answered(outcome: Outcome) -> Answered:
    return Answered(
        key=outcome.key,
        at=outcome.at,
        effect=outcome.effect,
        number=outcome.attempt,
        outcome=outcome.kind if outcome.kind in OUTCOMES else "unknown",
        after=outcome.after,
        reference=outcome.reference,
        reason=outcome.reason,
    )


def _known(message: Message) -> str:
    """What the attempts tell for certain: "sent", "rejected" or ""."""
    outcomes = {attempt.outcome for attempt in message.attempts}
    return "sent" if "sent" in outcomes else "rejected" if "rejected" in outcomes else ""


def _lacking(message: Message, content: Content) -> tuple[str, ...]:
    try:
        return missing(message.template, message.via or message.channel, content.fields, variant=True)
    except Unrenderable as error:
        return (error.field,)


def _request(key: str, effect: str, message: Message, content: Content) -> MessageRequested:
    return MessageRequested(
        at=message.asked,
        effect=effect,
        order=message.order,
        customer=key,
        template=message.template,
        channel=message.channel,
        kind=content.kind,
        fields=content.fields,
        person=content.person,
        milestone_at=content.milestone_at,
        expires=content.expires,
        not_before=content.not_before,
    )


def _unsaid(inputs: Inputs, key: str, effect: str, message: Message, content: Content, reason: str, detail: str, now: int) -> Parked:
    """A message that cannot be written, parked as the request that asked for it."""
    return park_later(inputs, effect, key, _encode_request(_request(key, effect, message, content)), reason, detail, now)


def _index(key: str, turn: Turn, now: int, result: Result) -> None:
    lost, gained = _tags(turn.old), _tags(turn.new)
    if lost != gained:
        result.index.append((key, tuple(lost - gained), tuple(gained - lost), now))


def _tags(customer: Customer) -> set[str]:
    for message in customer.messages.values():
        if message.ended is not None:
            if message.ended.word == "unknown":
                return {"unknown"}
        elif message.attempts and message.unknown is not None:
            return {"unknown"}
    return set()


def _sayings(message: Message) -> dict[str, tuple[int, str, str]]:
    """Outcome -> (at, channel, reason): what the order is told about a message. Never changes once said."""
    said: dict[str, tuple[int, str, str]] = {}
    if message.ended is not None:
        said[message.ended.word] = message.ended.at, message.ended.channel, message.ended.reason
    for attempt in reversed(message.attempts):
        if attempt.outcome == "unknown":
            said["unknown"] = attempt.claimed_at, message.via, "unknown"
    for receipt in message.receipts:
        said[receipt.word] = receipt.at, message.via or message.channel, ""
    return said


def _reports(turn: Turn, effect: str) -> Iterator[Outgoing]:
    """What the order does not know yet, or asks for again. A request from before the horizon is too late for ever."""
    old, new, asked = turn.old.messages.get(effect), turn.new.messages.get(effect), turn.asked.get(effect)
    if new is None:
        if asked is not None:
            yield _report(asked.order, effect, "expired", asked.at, asked.channel, "too_late")
        return
    if not new.order:
        return
    told = _sayings(old) if old is not None and old.order and asked is None else {}
    for outcome, (at, channel, reason) in _sayings(new).items():
        if outcome not in told:
            yield _report(new.order, effect, outcome, at, channel, reason)


def _report(order: str, effect: str, outcome: str, at: int, channel: str, reason: str) -> Outgoing:
    fact = MessageReported(
        order=order,
        system=SYSTEM,
        object=f"{effect}:{outcome}",
        at=at,
        effect=effect,
        channel=channel,
        outcome=outcome,
        reason=reason,
    )
    return Outgoing("facts", order, encode_fact(fact))
