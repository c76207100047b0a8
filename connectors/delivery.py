"""A delivery of an outside system, and what becomes of it: records for our topics, or a clear word why none."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from orders.fact import AnyFact, Fact
from orders.request import AnyCustomer, AnyReference, AnyStock

DECODING = (msgspec.DecodeError, ValueError, RecursionError)  # what a decoder raises for bytes it cannot read
UNPACKED_MAX = 64 << 20  # bytes of a recording
Record: TypeAlias = AnyFact | AnyStock | AnyCustomer | AnyReference


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the gateway appends to `deliveries` (msgpack): the raw bytes, and what is needed to read and audit them."""

    source: str  # configured account of a vendor
    delivery: str  # the vendor's delivery ID
    at: int  # received, ms
    body: bytes
    topic: str = ""  # what the vendor says that it is about; an answer that we fetched: "answer:" and its kind
    headers: dict[str, str] = {}
    beside: str = ""  # name of the file that holds a body too large for the log; `body` is empty then


encode_delivery = msgspec.msgpack.Encoder().encode
decode_delivery = msgspec.msgpack.Decoder(Delivery).decode


class Recorded(msgspec.Struct, frozen=True):
    """A delivery or an answer as a file keeps it, with `topic` or `answer` where no header says it; what else it names is passed over.

    `body` is JSON, or a text: then the bytes that were signed.
    """

    body: msgspec.Raw
    headers: dict[str, Any] | list[tuple[str, str]] = {}
    topic: str | None = None
    answer: str | None = None


class Documented(msgspec.Struct, frozen=True):
    """A topic's page in a collection of a vendor's documentation: its name, and an example."""

    name: str
    response: msgspec.Raw


def recorded(raw: bytes) -> tuple[bytes, dict[str, str], str, str]:
    """Body, headers (names in lower case), topic and kind of answer of a recorded delivery; of anything else, it is the body.

    Raises Unreadable, naming the field, for what would be a recording but for its headers, topic or answer.
    """
    raw = _plain(raw)
    try:
        names = set(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    except DECODING:
        names = set()
    try:
        if "body" in names and ("headers" in names or names <= {"body", "topic", "answer"}):
            found = msgspec.json.decode(raw, type=Recorded)
        elif names >= {"name", "response"}:
            page = msgspec.json.decode(raw, type=Documented)
            found = Recorded(page.response, topic=page.name)
        else:
            return raw, {}, "", ""
    except DECODING as error:
        raise stumbled(error) from None
    headers = {}
    for name, value in found.headers.items() if isinstance(found.headers, dict) else found.headers:
        if value is not None:
            headers[name.lower()] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    body = bytes(found.body)
    if body.startswith(b'"'):
        body = msgspec.json.decode(body, type=str).encode()
    return body, headers, found.topic or "", found.answer or ""


def _plain(raw: bytes) -> bytes:
    """Without what tools put around a file: compression, a mark of its encoding. Raises Unreadable."""
    if raw.startswith(b"\x1f\x8b"):
        unpacking = zlib.decompressobj(31)  # gzip
        try:
            raw = unpacking.decompress(raw, UNPACKED_MAX)
        except zlib.error:
            raise Unreadable("malformed", "it is compressed, and damaged") from None
        if not unpacking.eof:
            raise Unreadable("too_large" if unpacking.unconsumed_tail else "malformed", "it is compressed, and does not end")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16").encode()
        except UnicodeDecodeError:
            raise Unreadable("malformed", "it is marked as UTF-16 and is not") from None
    return raw.removeprefix(b"\xef\xbb\xbf")


class Routed(NamedTuple):
    """Where a record goes: topic, key, and its bytes."""

    topic: str
    key: str
    value: bytes


class Unreadable(Exception):
    """A delivery that cannot be read: `reason` from the closed list of parking reasons, `detail` names the field."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Ignored(Exception):
    """A delivery that was understood and holds nothing for us; the text says why, in words fit for a person."""


_FIELD = re.compile(r"(?:field `([^`]*)`)?(?: - at `\$([^`]*)`)?$")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]')
_encode = msgspec.json.Encoder().encode


def stumbled(error: Exception) -> Unreadable:
    """What a decoder met, and where: the field, or the byte; never what stands there."""
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        found = _FIELD.search(text)
        missing, path = (found.group(1), found.group(2)) if found else (None, None)
        return Unreadable("schema", "$" + (path or "") + (f".{missing}" if missing else ""))
    byte = re.search(r"\(byte \d+\)$", text)
    return Unreadable("malformed", byte.group(0) if byte else "value")


def keep_beside(folder: Path, body: bytes) -> str:
    """Writes a body that is too large for the log to a file of its own, durable when this returns; its name. Blocks. Raises OSError."""
    name = hashlib.blake2b(body, digest_size=16).hexdigest()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = folder / f"{name}.{os.getpid()}.tmp"
    with open(unfinished, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / name)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return name


def body_of(delivery: Delivery, folder: Path) -> bytes:
    """The raw body, from beside the log if need be. Raises Unreadable when its file is gone, or is not what was written."""
    if not delivery.beside:
        return delivery.body
    try:
        body = (folder / Path(delivery.beside).name).read_bytes()
    except OSError:
        raise Unreadable("missing_body", "the file beside the log") from None
    if hashlib.blake2b(body, digest_size=16).hexdigest() != delivery.beside:
        raise Unreadable("missing_body", "the file beside the log was changed")
    return body


def too_deep(body: bytes, limit: int) -> bool:
    """Whether JSON nests deeper. Looked at before parsing; cheap for what is flat: so few brackets cannot nest deeper."""
    if body.count(b"{") + body.count(b"[") <= limit:
        return False
    depth = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def place_of(record: Record) -> tuple[str, str]:
    """Topic and key that a record belongs to: its type says it."""
    if isinstance(record, Fact):
        return "facts", record.order
    if isinstance(record, AnyReference):
        return "references", f"{record.kind}:{record.value}"
    if isinstance(record, AnyStock):
        return "stock", f"{record.sku}@{record.location}"
    return "customers", record.customer


def routed(record: Record) -> Routed:
    topic, key = place_of(record)
    return Routed(topic, key, _encode(record))
