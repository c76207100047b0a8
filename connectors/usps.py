"""USPS: scans of parcels, told by the tracking API when we ask for their details.

An event names its parcel by tracking number and no order, so every fact waits for that number. Its ID is tracking number, time in
GMT and event code. The number stands in the answer: the specification of version 3.2.6 has it, in summaries and in details. An
answer without it cannot be placed, since nothing else in it is known to us: `uniqueMailPieceID` is USPS's own.

- What an event means follows from its code and, where the code is not in our table, from the words of its type. The answer's
  `statusCategory` speaks of the parcel as it is now, not of one event: an event read by it would say something else at the next
  asking, so it is not used.
- A delivery to the original sender carries the code of any delivery; its words tell it apart. A return that has begun is trouble,
  RETURNED is what came back: nothing more is expected of an order then.
- GMT times have been seen with the local day where that differs. Local time and offset stand beside them: they say which day.
  Without GMT they say the time too. Without an offset the local time is taken for UTC, and the ID says so ("L"). An event whose
  time cannot be read is left out.
- When a parcel is expected is a statement of its own: a fact per parcel and day with the tag UNKNOWN, which moves nothing. It
  changes without a scan, so it is no part of one. The whole day counts, in UTC, whatever time or window is predicted: none comes
  with a time zone. It is dated by the latest event; of two told with the same event the later day speaks. Nothing is expected of a
  parcel that is delivered, returned or waits to be fetched.
- A summary has one line of text an event and no codes: it is to be asked for with `expand=DETAIL`.
- Labels bought and cancelled name no order of ours and no time: whoever bought one knows both, and links the tracking number.

USPS can push too (subscriptions for tracking, signed in a header), which is another API and not read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import msgspec

from connectors.delivery import DECODING, Ignored, Record, Unreadable
from connectors.vendor import Account, Envelope, Guide, Topic, Vendor, waiting
from orders.fact import AT_MAX, AT_MIN, ParcelScanned, Tracking
from orders.request import FactWaiting

DAY_MS = 86_400_000

# What an event code means. Publication 199 lists them, in its appendix on scan events. The list is quoted from public integrations
# that carry it (Web Tools in Perl, Shopify's active_shipping, a tracking aggregator's documentation) and from recorded answers.
CODES: dict[str, Tracking] = {
    # Paper: the parcel itself was not scanned yet.
    "GX": Tracking.LABEL_CREATED,  # shipping label created, USPS awaits the item
    "MA": Tracking.LABEL_CREATED,  # manifest acknowledged: shipment information sent to USPS
    "89": Tracking.LABEL_CREATED,  # the merchant's notice, USPS awaits the item
    "TM": Tracking.LABEL_CREATED,  # a truckload was received, the acceptance of the parcel is pending
    # Moving.
    "03": Tracking.IN_TRANSIT,  # accepted or picked up
    "OA": Tracking.IN_TRANSIT,  # accepted at the origin
    "UA": Tracking.IN_TRANSIT,  # accepted at a facility
    "AD": Tracking.IN_TRANSIT,  # accepted at the destination
    "80": Tracking.IN_TRANSIT,  # picked up by a shipping partner: no longer with the shop, though USPS still awaits it
    "81": Tracking.IN_TRANSIT,  # arrived at the partner's facility
    "82": Tracking.IN_TRANSIT,  # departed from there
    "83": Tracking.IN_TRANSIT,  # tendered to USPS
    "10": Tracking.IN_TRANSIT,  # processed
    "A1": Tracking.IN_TRANSIT,  # arrived at a regional facility
    "T1": Tracking.IN_TRANSIT,  # departed from there
    "TL": Tracking.IN_TRANSIT,  # in transit to the next facility
    "SF": Tracking.IN_TRANSIT,  # departed from a post office
    "EF": Tracking.IN_TRANSIT,  # departed from a sort facility
    "07": Tracking.IN_TRANSIT,  # arrived at the post office that delivers
    "PC": Tracking.IN_TRANSIT,  # sorted there
    "06": Tracking.IN_TRANSIT,  # forwarded
    "41": Tracking.IN_TRANSIT,  # received at an opening unit
    "42": Tracking.IN_TRANSIT,  # handed to a shipping partner
    "71": Tracking.IN_TRANSIT,  # a day later
    "OF": Tracking.OUT_FOR_DELIVERY,
    "DX": Tracking.UNKNOWN,  # out for delivery, and not scanned since: it says nothing new of where the parcel is
    # At the door.
    "01": Tracking.DELIVERED,  # see `meaning` for what was delivered to its sender
    "02": Tracking.ATTEMPT_FAILED,  # attempted, notice left
    "30": Tracking.ATTEMPT_FAILED,  # no access to the place
    "51": Tracking.ATTEMPT_FAILED,  # business closed
    "52": Tracking.ATTEMPT_FAILED,  # notice left
    "53": Tracking.ATTEMPT_FAILED,  # receptacle blocked
    "54": Tracking.ATTEMPT_FAILED,  # receptacle full, or item too large
    "55": Tracking.ATTEMPT_FAILED,  # no secure place to leave it
    "56": Tracking.ATTEMPT_FAILED,  # nobody there who may take it
    "H0": Tracking.ATTEMPT_FAILED,  # in no list: found by active_shipping among recorded answers
    "14": Tracking.PICKUP,  # arrived at the counter
    "16": Tracking.PICKUP,  # waits there
    # Trouble.
    "04": Tracking.EXCEPTION,  # refused
    "05": Tracking.EXCEPTION,  # undeliverable as addressed
    "08": Tracking.EXCEPTION,  # missent
    "15": Tracking.EXCEPTION,  # mis-shipped
    "11": Tracking.EXCEPTION,  # dead letter: at the mail recovery centre
    "44": Tracking.EXCEPTION,  # recalled by the sender
    "09": Tracking.EXCEPTION,  # on its way back to the sender, and why:
    "21": Tracking.EXCEPTION,  # no such number
    "22": Tracking.EXCEPTION,  # insufficient address
    "23": Tracking.EXCEPTION,  # moved, left no address
    "24": Tracking.EXCEPTION,  # forwarding has expired
    "25": Tracking.EXCEPTION,  # addressee unknown
    "26": Tracking.EXCEPTION,  # vacant
    "27": Tracking.EXCEPTION,  # unclaimed
    "28": Tracking.EXCEPTION,  # deceased
    "29": Tracking.EXCEPTION,  # another reason
    "31": Tracking.EXCEPTION,  # not picked up
}
# The words of an event's type, for codes that are not in the table; the first that fit.
WORDS: tuple[tuple[str, Tracking], ...] = (
    (r"out for delivery", Tracking.OUT_FOR_DELIVERY),
    (r"attempt|notice left|no access|business closed|no authorized recipient|no secure location", Tracking.ATTEMPT_FAILED),
    (r"available for pickup|ready for pickup|held at", Tracking.PICKUP),
    (r"damaged", Tracking.DAMAGED),
    (
        r"return(ed|ing)? to|refused|undeliverable|unclaimed|insufficient address|no such number|vacant|missent|dead mail|alert",
        Tracking.EXCEPTION,
    ),
    (r"^delivered", Tracking.DELIVERED),
    (r"awaiting item|label created|pre-shipment|acceptance pending", Tracking.LABEL_CREATED),
    (r"arriv|depart|in.transit|accept|process|in possession|forwarded|customs|dispatched|picked up", Tracking.IN_TRANSIT),
)
TO_SENDER = re.compile(r"\bto (the )?(original )?sender\b", re.IGNORECASE)
SETTLED = frozenset({Tracking.DELIVERED, Tracking.RETURNED, Tracking.PICKUP})  # nothing more is expected of it


# --- bodies
class Event(msgspec.Struct, rename="camel"):
    event_type: str | None = None
    event_code: str | None = None
    event_timestamp: str | None = None  # local
    gmt_timestamp: str | None = msgspec.field(default=None, name="GMTTimestamp")
    gmt_offset: str | None = msgspec.field(default=None, name="GMTOffset")  # "-05:00" or "-7:00"


class Details(msgspec.Struct, rename="camel"):
    """`TrackingDetails`, and of `TrackingSummary` what tells the two apart."""

    tracking_number: str | None = None
    tracking_events: list[Event] | None = None
    event_summaries: list[str] | None = None
    expected_delivery_time_stamp: str | None = None
    predicted_delivery_date: str | None = None
    guaranteed_delivery_time_stamp: str | None = None


# --- scans
class Moment(NamedTuple):
    """When an event happened: in ms, and as its ID has it."""

    at: int
    key: str


def tracked(account: Account, answer: Details, at: int) -> Iterator[Record]:
    tracking = number(answer.tracking_number)
    if not tracking:
        raise Unreadable("schema", "$.trackingNumber")
    if answer.tracking_events is None and answer.event_summaries is not None:
        raise Ignored("only a summary, in words: ask for details (expand=DETAIL)")
    latest = 0
    settled = False
    for event in answer.tracking_events or ():
        moment = when(event)
        if moment is None:
            continue
        tag = meaning(event)
        latest = max(latest, moment.at)
        settled = settled or tag in SETTLED
        yield _waiting(account, tracking, f"{moment.key}:{_word(event.event_code)}", moment.at, tag)
    if latest and not settled:
        days = (answer.expected_delivery_time_stamp, answer.predicted_delivery_date, answer.guaranteed_delivery_time_stamp)
        yield from _estimate(account, tracking, latest, days)


def meaning(event: Event) -> Tracking:
    words = event.event_type or ""
    tag = CODES.get(_word(event.event_code)) or next(
        (tag for pattern, tag in WORDS if re.search(pattern, words, re.IGNORECASE)), Tracking.UNKNOWN
    )
    return Tracking.RETURNED if tag is Tracking.DELIVERED and TO_SENDER.search(words) else tag


def number(text: str | None) -> str:
    """A tracking number as we keep it; "" for what is none. Domestic ones have 20 to 34 digits, international ones 13 characters."""
    found = re.sub(r"\s", "", text or "").upper()
    return found if re.fullmatch(r"[0-9A-Z]{10,34}", found) else ""


def when(event: Event) -> Moment | None:
    """None for what cannot be read or lies outside of 2000 to 2099."""
    gmt, local, ahead = _instant(event.gmt_timestamp), _instant(event.event_timestamp), _ahead(event.gmt_offset)
    meant = local - ahead if local is not None and ahead is not None else gmt
    at = gmt + round((meant - gmt) / DAY_MS) * DAY_MS if gmt is not None and meant is not None else meant
    at, mark = (local, "L") if at is None else (at, "Z")
    if at is None or not AT_MIN <= at < AT_MAX:
        return None
    return Moment(at, f"{datetime.fromtimestamp(at // 1000, UTC):%Y%m%dT%H%M%S}{mark}")


def _estimate(account: Account, tracking: str, at: int, days: Iterable[str | None]) -> Iterator[FactWaiting]:
    day = next((found for found in map(_day, days) if found), None)
    if day:
        begins = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
        yield _waiting(account, tracking, f"eta:{day:%Y%m%d}", at, Tracking.UNKNOWN, begins, begins + DAY_MS - 1)


def _waiting(account: Account, tracking: str, what: str, at: int, tag: Tracking, eta_from: int = 0, eta_until: int = 0) -> FactWaiting:
    scan = ParcelScanned(
        order="",
        system=account.source,
        object=f"{tracking}:{what}",
        at=at,
        authority=account.authority,
        parcel=tracking,
        tag=tag,
        carrier="usps",
        tracking=tracking,
        eta_from=eta_from,
        eta_until=eta_until,
    )
    return waiting(scan, "tracking", tracking)


# --- times
def _instant(text: str | None) -> int | None:
    """Milliseconds, whole seconds only; a time without an offset is taken for UTC."""
    try:
        read = datetime.fromisoformat(text or "")
        return int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()) * 1000
    except (ValueError, OverflowError):
        return None


def _ahead(offset: str | None) -> int | None:
    """Milliseconds that a local time is ahead of GMT."""
    found = re.fullmatch(r"([+-]?)([0-9]{1,2}):([0-9]{2})", offset or "")
    if not found:
        return None
    sign, hours, minutes = found.groups()
    return int(timedelta(hours=int(hours), minutes=int(minutes)) / timedelta(milliseconds=1)) * (-1 if sign == "-" else 1)


def _day(text: str | None) -> date | None:
    """The day of a date, or of a local time."""
    try:
        found = date.fromisoformat((text or "")[:10])
    except ValueError:
        return None
    return found if 2000 <= found.year < 2100 else None


def _word(text: str | None) -> str:
    """An event code; "" for what could be anything else."""
    found = (text or "").strip().upper()
    return found if re.fullmatch(r"[0-9A-Z]{1,4}", found) else ""


# --- answers that hold nothing for us
def nothing(why: str) -> Topic:
    def read(account: Account, answer: msgspec.Raw, at: int) -> Iterable[Record]:
        raise Ignored(why)

    return Topic(msgspec.Raw, read)


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    """Nothing is pushed: no body has a topic."""
    return Envelope("", "")


# --- complaints
class Wrong(msgspec.Struct):
    code: str | int | None = None
    title: str | None = None


class Refusal(msgspec.Struct):
    code: str | int | None = None
    errors: list[Wrong] | None = None


class Failed(msgspec.Struct):
    error: Refusal | str | None = None  # text: OAuth's own way (RFC 6749)


_CREDENTIALS = "USPS refuses our credentials: check client ID and secret (consumer key and secret of the app at USPS)"
_SCOPE = "USPS refuses our access token or its scope: check that the app at USPS has the tracking product, then client ID and secret"
_FAULT = "USPS has a fault of its own: it is tried again later"
_OURS = "USPS does not take the request: check the tracking number at the order"
COMPLAINTS: dict[str, str] = {
    "400": _OURS,
    "401": _SCOPE,
    "403": "USPS does not let our app ask this: have USPS add the API, and the mailer ID that the labels carry, to the app",
    "404": "USPS has no tracking information of this number yet: nothing is wrong, it is asked again later",
    "429": "USPS is asked too often: it is tried again later; if it lasts, ask less often or have USPS raise the quota",
    "500": _FAULT,
    "502": _FAULT,
    "503": _FAULT,
    "504": _FAULT,
    "invalid_client": _CREDENTIALS,
    "unauthorized_client": _CREDENTIALS,
    "invalid_grant": _CREDENTIALS,
    "access_denied": _CREDENTIALS,
    "invalid_scope": _SCOPE,
    "invalid_oauth_scope": _SCOPE,
    "invalid_token": _SCOPE,
    "temporarily_unavailable": _FAULT,
    "server_error": _FAULT,
    "invalid_request": "USPS does not understand our request: report it to the developers",
    "unsupported_grant_type": "USPS does not understand our request: report it to the developers",
}


def complaint(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=Failed).error
    except DECODING:
        return ""
    if not error:
        return ""
    codes: list[str | int | None] = [error] if isinstance(error, str) else [error.code]
    for wrong in () if isinstance(error, str) else error.errors or ():
        codes += [wrong.title, wrong.code]
    words = [code for code in map(_code, codes) if code]
    code = next((code for code in words if code in COMPLAINTS), "") or next(iter(words), "")
    named = f" (code {code})" if code else ""
    return f"{COMPLAINTS.get(code, 'USPS refuses the request: its reference explains the code')}{named}"


def _code(text: str | int | None) -> str:
    found = "" if text is None else str(text)
    return found if re.fullmatch(r"[0-9A-Za-z_-]{1,40}", found) else ""


VENDOR = Vendor(
    name="usps",
    guide=Guide(
        title="USPS",
        credentials={
            "client_id": "developers.usps.com > your app > consumer key",
            "client_secret": "beside it: consumer secret",
        },
    ),
    kind="carrier",
    scheme=None,
    envelope=envelope,
    topics={},
    answers={
        "tracking": Topic(Details, tracked),
        "shipment": nothing("a label was bought: it names no order, and whoever bought it links the tracking number"),
        "cancel": nothing("a label was cancelled or its refund asked for: its parcel will not move, nothing of an order changes by it"),
    },
    complaint=complaint,
)
