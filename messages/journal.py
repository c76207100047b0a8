"""What a customer's lane decides, one JSON entry each. An entry is merged like a record: any order, any repetition."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    key: str  # customer ID
    at: int  # ms, by the lane's clock


class Claimed(Entry, frozen=True, tag=True):
    """An attempt begins: a call that makes the message, or with `lookup` one that asks what became of an earlier attempt."""

    effect: str
    number: int
    channel: str
    deadline: int
    body_hash: str
    lookup: bool = False
    sandbox: bool = False
    modes: int = 0  # version of the document of modes, stops and flags


class Answered(Entry, frozen=True, tag=True):
    """What became of an attempt; by the sender, or "unknown" because its deadline passed."""

    effect: str
    number: int
    outcome: str
    after: int = 0
    reference: str = ""
    reason: str = ""


class Closed(Entry, frozen=True, tag=True):
    """Nothing more happens with this message; the latest wins."""

    effect: str
    word: str  # "sent" "rejected" "unknown" "observed" "suppressed" "expired" "render_error"
    channel: str = ""
    reason: str = ""
    rule: str = ""  # the rule of `messages.policy` that decided, or ""
    modes: int = 0


class Forgotten(Entry, frozen=True, tag=True):
    """Whatever is dated before `before` is no longer remembered, and ignored when it comes again."""

    before: int


AnyEntry: TypeAlias = Claimed | Answered | Closed | Forgotten

encode_entry = msgspec.json.Encoder().encode
decode_entry = msgspec.json.Decoder(AnyEntry).decode
