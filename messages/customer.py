"""A customer: profile, consent, and every message that was asked for, tried, blocked or ended.

The state is a join: records and journal entries may come in any order, any number of times, in any chunks, and give the
same bytes. Each part of it carries its own time; parts dated before `horizon` are forgotten, and ignored when they come
again, so that the same set of inputs still gives the same bytes.

`Customer` is changed in place by `merge` and `adopt`: callers work on a `copy()` and keep it when its commit stands.
"""

from __future__ import annotations

import msgspec

from messages.journal import Answered, AnyEntry, Claimed, Closed, Forgotten
from orders.effect import FINAL, Attempt, join_attempts
from orders.fact import Person
from orders.request import (
    AnyCustomer,
    ConsentReported,
    MessageBlocked,
    MessageFreed,
    MessageRequested,
    ProfileReported,
    ReceiptReported,
)
from orders.state import NewerState

STATE_VERSION = 2  # 1: without what else a message was asked to say
EARLIER = 16  # contents of a message that are kept beside the newest
SPAN_MS = 24 * 3_600_000  # what was asked up to a day after a message ended is not kept: a repeat of what is over


class Content(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a message needs to be written. Personal data; gone when the message has ended."""

    kind: str
    fields: dict[str, str]
    person: Person
    milestone_at: int
    expires: int
    not_before: int = 0


class Ending(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """Compared as it stands: the latest ending is the one in force."""

    at: int
    word: str
    channel: str = ""
    reason: str = ""


class Block(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    id: str
    at: int
    reason: str = ""


class Stamp(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """A word and when it was said: a lifted block's ID, a receipt."""

    word: str
    at: int


class Message(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    asked: int = 0  # of the latest request; 0: not asked for yet
    order: str = ""
    template: str = ""
    channel: str = ""  # as asked for; "": the default one
    content: Content | None = None
    via: str = ""  # the channel of its attempts; once tried, a message stays on its channel
    attempts: tuple[Attempt, ...] = ()  # by number
    ended: Ending | None = None
    blocks: tuple[Block, ...] = ()
    frees: tuple[Stamp, ...] = ()
    receipts: tuple[Stamp, ...] = ()
    earlier: tuple[tuple[int, Content], ...] = ()  # what else it was asked to say, and when last: an attempt may have said it

    @property
    def blocked(self) -> str:
        """The reason of a block that nothing lifted, or ""."""
        if not self.blocks:
            return ""
        lifted = {free.word for free in self.frees}
        return next((block.reason or "blocked" for block in self.blocks if block.id not in lifted), "")

    @property
    def unknown(self) -> Attempt | None:
        """The first attempt of which nobody knows what became of it, unless another was accepted or refused since, or
        a look-up found that the provider never had it."""
        found = None
        for attempt in self.attempts:
            if attempt.outcome in FINAL:
                return None
            if attempt.outcome == "unknown":
                found = found or attempt
            elif attempt.lookup and attempt.outcome == "retryable":
                found = None
        return found


class Profile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    at: int
    system: str
    person: Person


class Consent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    at: int
    granted: bool


class Customer(msgspec.Struct, array_like=True):
    profile: Profile | None = None
    consents: dict[str, Consent] = {}  # "channel/kind"
    messages: dict[str, Message] = {}  # effect ID
    horizon: int = 0

    def copy(self) -> Customer:
        return Customer(self.profile, dict(self.consents), dict(self.messages), self.horizon)


_pack = msgspec.msgpack.Encoder(order="sorted").encode
_unpack = msgspec.msgpack.Decoder(Customer).decode


def encode(customer: Customer) -> bytes:
    return bytes((STATE_VERSION,)) + _pack(customer)


def decode(blob: bytes) -> Customer:
    """Raises NewerState for a state of a later version."""
    if blob[0] > STATE_VERSION:
        raise NewerState(blob[0], STATE_VERSION)
    return _unpack(memoryview(blob)[1:])


def merge(customer: Customer, record: AnyCustomer) -> str:
    """Take in one record; says which effect it is about, or ""."""
    if isinstance(record, MessageRequested):
        return _put(customer, record.effect, _asked(record))
    if isinstance(record, MessageBlocked):
        return _put(customer, record.effect, Message(blocks=(Block(record.block, record.at, record.reason),)))
    if isinstance(record, MessageFreed):
        if not record.blocks:
            return record.effect
        return _put(customer, record.effect, Message(frees=tuple(Stamp(block, record.at) for block in sorted(set(record.blocks)))))
    if isinstance(record, ReceiptReported):
        return _put(customer, record.effect, Message(receipts=(Stamp(record.receipt, record.at),)))
    if isinstance(record, ConsentReported):
        name = f"{record.channel}/{record.kind}"
        new, known = Consent(record.at, record.granted), customer.consents.get(name)
        if known is None or (new.at, not new.granted) > (known.at, not known.granted):
            customer.consents[name] = new
        return ""
    if isinstance(record, ProfileReported):
        profile, held = Profile(record.version, record.at, record.system, record.person), customer.profile
        if held is None or _newer(profile, held):
            customer.profile = profile
        return ""
    raise TypeError(type(record).__name__)


def adopt(customer: Customer, entry: AnyEntry) -> str:
    """Take in one journal entry; says which effect it is about, or ""."""
    if isinstance(entry, Claimed):
        attempt = Attempt(entry.number, entry.at, entry.deadline, entry.body_hash, lookup=entry.lookup)
        return _put(customer, entry.effect, Message(via=entry.channel, attempts=(attempt,)))
    if isinstance(entry, Answered):
        attempt = Attempt(entry.number, 0, 0, "", entry.outcome, entry.at, entry.after, entry.reference, entry.reason)
        return _put(customer, entry.effect, Message(attempts=(attempt,)))
    if isinstance(entry, Closed):
        return _put(customer, entry.effect, Message(ended=Ending(entry.at, entry.word, entry.channel, entry.reason)))
    if isinstance(entry, Forgotten):
        _forget(customer, entry.before)
        return ""
    raise TypeError(type(entry).__name__)


def consented(customer: Customer, channel: str, kind: str) -> bool:
    """An opt-out, however wide or narrow, beats every opt-in; who never said anything did not opt out."""
    consents = customer.consents
    if not consents:
        return True
    names = (f"{channel}/{kind}", f"{channel}/*", f"*/{kind}", "*/*")
    return all(consents[name].granted for name in names if name in consents)


def horizon(customer: Customer, before: int) -> int:
    """The latest time up to `before` that no message lies across: what is dated earlier has altogether ended."""
    spans = sorted((_times(message) for message in customer.messages.values()), key=lambda span: -span[1])
    for first, last in spans:
        if first < before <= last:
            before = first
    return before


# --- joining
def _put(customer: Customer, effect: str, part: Message) -> str:
    if customer.horizon:
        kept = _since(part, customer.horizon)
        if kept is None:
            return effect
        part = kept
    known = customer.messages.get(effect)
    customer.messages[effect] = part if known is None else join(known, part)
    return effect


def join(a: Message, b: Message) -> Message:
    """Commutative, associative, idempotent."""
    newest = _later_request(a, b)
    ended = a.ended if b.ended is None else b.ended if a.ended is None else max(a.ended, b.ended)
    content = newest.content
    if content is not None and ended is not None and newest.asked <= ended.at + SPAN_MS:
        content = None
    return Message(
        newest.asked,
        newest.order,
        newest.template,
        newest.channel,
        content,
        max(a.via, b.via),
        _join_attempts(a.attempts, b.attempts),
        ended,
        _union_blocks(a.blocks, b.blocks),
        _union_stamps(a.frees, b.frees),
        _union_stamps(a.receipts, b.receipts),
        _join_earlier(a, b, newest, 0 if ended is None else ended.at + SPAN_MS),
    )


def _asked(record: MessageRequested) -> Message:
    fields = {name: value for name, value in record.fields.items() if value}
    content = Content(record.kind, fields, record.person, record.milestone_at, record.expires, record.not_before)
    return Message(record.at, record.order, record.template, record.channel, content)


def _later_request(a: Message, b: Message) -> Message:
    if a.asked != b.asked:
        return a if a.asked > b.asked else b
    if a.content is None or b.content is None:
        return b if a.content is None else a
    return max(a, b, key=lambda m: _pack((m.order, m.template, m.channel, m.content)))


def _join_earlier(a: Message, b: Message, newest: Message, over: int) -> tuple[tuple[int, Content], ...]:
    """The latest contents but the newest, each by its latest request; none of a request up to `over`, when it had ended.

    Which are kept is decided with the newest among them, so that it does not matter in which order they come.
    """
    if not a.earlier and not b.earlier and (a.content is None or b.content is None or a.content == b.content):
        return ()
    latest: dict[bytes, tuple[int, Content]] = {}
    for message in (a, b):
        for asked, content in (*message.earlier, (message.asked, message.content)):
            if content is not None and asked > over:
                packed = _pack(content)
                if packed not in latest or latest[packed][0] < asked:
                    latest[packed] = asked, content
    kept = sorted(latest, key=lambda packed: (latest[packed][0], packed))[-EARLIER - 1 :]
    now = None if newest.content is None else _pack(newest.content)
    return tuple(latest[packed] for packed in kept if packed != now)


def _join_attempts(a: tuple[Attempt, ...], b: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    if not a or not b:
        return a or b
    joined = {attempt.number: attempt for attempt in a}
    for attempt in b:
        known = joined.get(attempt.number)
        joined[attempt.number] = attempt if known is None else join_attempts(known, attempt)
    return tuple(joined[number] for number in sorted(joined))


def _union_blocks(a: tuple[Block, ...], b: tuple[Block, ...]) -> tuple[Block, ...]:
    if not a or not b or a == b:
        return a or b
    return tuple({block.id: block for block in sorted(a + b)}.values())


def _union_stamps(a: tuple[Stamp, ...], b: tuple[Stamp, ...]) -> tuple[Stamp, ...]:
    if not a or not b or a == b:
        return a or b
    return tuple({stamp.word: stamp for stamp in sorted(a + b)}.values())


def _newer(profile: Profile, held: Profile) -> bool:
    mine, theirs = (profile.version, profile.at), (held.version, held.at)
    return mine > theirs or (mine == theirs and _pack(profile) > _pack(held))


# --- forgetting
def _forget(customer: Customer, before: int) -> None:
    if before <= customer.horizon:
        return
    customer.horizon = before
    kept = {effect: _since(message, before) for effect, message in customer.messages.items()}
    customer.messages = {effect: message for effect, message in kept.items() if message is not None}


def _since(message: Message, before: int) -> Message | None:
    """What of a message is dated `before` or later, part by part."""
    attempts = tuple(kept for attempt in message.attempts if (kept := _attempt_since(attempt, before)) is not None)
    asked = message.asked >= before
    part = Message(
        message.asked if asked else 0,
        message.order if asked else "",
        message.template if asked else "",
        message.channel if asked else "",
        message.content if asked else None,
        message.via if any(attempt.claimed_at for attempt in attempts) else "",
        attempts,
        message.ended if message.ended is not None and message.ended.at + SPAN_MS >= before else None,
        tuple(block for block in message.blocks if block.at >= before),
        tuple(free for free in message.frees if free.at >= before),
        tuple(receipt for receipt in message.receipts if receipt.at >= before),
        tuple(pair for pair in message.earlier if pair[0] >= before),
    )
    return None if part == _NOTHING else part


def _attempt_since(attempt: Attempt, before: int) -> Attempt | None:
    claimed = attempt.claimed_at >= before
    answered = attempt.outcome_at >= before
    if claimed and (answered or not attempt.outcome):
        return attempt
    if claimed:
        return Attempt(attempt.number, attempt.claimed_at, attempt.deadline, attempt.body_hash, lookup=attempt.lookup)
    if answered:
        return msgspec.structs.replace(attempt, claimed_at=0, deadline=0, body_hash="", lookup=False)
    return None


def _times(message: Message) -> tuple[int, int]:
    """From the first to the last date of a message's parts; one that has not ended reaches into the future."""
    times = [at for at in (message.asked, *(asked for asked, _ in message.earlier)) if at]
    for attempt in message.attempts:  # more may have been told of it, within a day, than the join keeps
        times += [at for at in (attempt.claimed_at, attempt.deadline, attempt.outcome_at) if at]
        times.append(times[-1] + SPAN_MS)
    times += [part.at for parts in (message.blocks, message.frees, message.receipts) for part in parts]
    if message.ended is not None:
        times += [message.ended.at, message.ended.at + SPAN_MS]
    elif message.content is not None:
        times.append(1 << 62)
    return min(times), max(times)


_NOTHING = Message()
