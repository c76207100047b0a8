"""UPS: scans of parcels, pushed by Track Alert and told by the Track API when we ask.

A scan names its parcel by tracking number and no order, so every fact waits for that number. One scan is one fact, pushed or
fetched: its ID is tracking number, time in GMT, and the type and code of its status, which both carry. What it means is read
from these two alone: descriptions are translated and reworded, and a scan that meant one thing pushed and another fetched would
contradict itself.

- When a parcel is expected is a statement of its own: a fact per parcel and day with the tag UNKNOWN, which moves nothing. It
  changes without a scan, so it is no part of one. UPS names the day in the place of delivery and no time zone: the whole day
  counts, in UTC. It is dated by the latest scan; of two told with the same scan the later day speaks. Nothing is expected of a
  parcel that is delivered, returned or waits to be fetched. A rescheduled day speaks before the scheduled one.
- A fetched activity without GMT is placed by its local time and offset. Without an offset the local time is taken for UTC, and
  the ID says so ("L"), since a push of the same scan could not be recognised. One whose time cannot be read is left out.
- UPS's examples hold placeholders such as "string": no tracking number is as short. A package without one goes by the number we
  asked for, unless the answer holds several packages.
- "Loaded" counts as out for delivery, as others read it: UPS tells both on the same morning.
- A label made is not shipped, and a label voided moves nothing. A return that has begun is trouble; RETURNED is what came back.
- Bought and voided labels name no order and no time: whoever bought one knows both, and links the tracking number.

Track Alert signs nothing: the credential given at subscription comes back in the header `credential`, which is what the first
version's `destination` describes. The second version keeps it under "Manage Webhook Credentials", and may be set to fetch an OAuth
token instead, which we do not offer. A subscription ends after 14 days and brings nothing from before it: hence the polling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from connectors.delivery import DECODING, Ignored, Record, Unreadable, stumbled
from connectors.signature import SharedSecret
from connectors.vendor import Account, Envelope, Guide, Topic, Vendor, waiting
from orders.fact import AT_MAX, AT_MIN, ParcelScanned, Tracking
from orders.request import FactWaiting

EVENT = "TrackingEvent"  # Track Alert has one kind of event and no header for it; its specification calls it so
DAY_MS = 86_400_000

# What a status means. Its code speaks before its type, since "D" is also said of what is only on its way, and "X" of what goes well.
TYPES: dict[str, Tracking] = {
    # Track Alert's specification explains D, I, M, MV, U and X; UPS's guides to the Track API list the others.
    "M": Tracking.LABEL_CREATED,  # manifest: UPS knows of it by data only
    "MV": Tracking.UNKNOWN,  # manifest voided: any other tag would count as moved, or as trouble
    "U": Tracking.UNKNOWN,  # the day of delivery was updated, nobody scanned anything
    "P": Tracking.IN_TRANSIT,  # picked up by UPS
    "I": Tracking.IN_TRANSIT,
    "W": Tracking.IN_TRANSIT,  # warehousing, freight only
    "DO": Tracking.IN_TRANSIT,  # delivered to the freight station of the origin, not to anybody
    "DD": Tracking.IN_TRANSIT,  # the same, of the destination
    "O": Tracking.OUT_FOR_DELIVERY,
    "OT": Tracking.OUT_FOR_DELIVERY,  # a code; some integrations have met it as a type
    "D": Tracking.DELIVERED,
    "X": Tracking.EXCEPTION,  # out of the normal, though it may still come in time
    "RS": Tracking.RETURNED,  # returned to the shipper
    "NA": Tracking.UNKNOWN,  # not available
}
CODES: dict[str, Tracking] = {
    # Out for delivery: the example in Track Alert's specification (OT); the table of codes quoted in UPS's issue tracker (76);
    # public integrations (OF, loaded on the vehicle).
    "OT": Tracking.OUT_FOR_DELIVERY,
    "76": Tracking.OUT_FOR_DELIVERY,
    "OF": Tracking.OUT_FOR_DELIVERY,
    # Counter: the same table has ZP as delivered to an Access Point and awaiting the customer, ZQ as held for pickup.
    "ZP": Tracking.PICKUP,
    "ZQ": Tracking.PICKUP,
    # Moving, whatever the type says: the example in the Track API's specification (SR, released by customs, of type X); the table
    # (LX, handed to the local post office); public integrations (the rest).
    "SR": Tracking.IN_TRANSIT,
    "LX": Tracking.IN_TRANSIT,
    "YI": Tracking.IN_TRANSIT,  # on its way to an Access Point: nobody should wait at home for it
    "ZA": Tracking.IN_TRANSIT,  # will go to the Access Point that the customer chose
    "ZC": Tracking.IN_TRANSIT,
    # Attempts: UPS's own test parcel has L1, the place was closed at the second attempt, of type X. Other codes of failed attempts,
    # of damage and of loss stand in no list that we could find: they are exceptions, as their type says.
    "L1": Tracking.ATTEMPT_FAILED,
    # Paper: public integrations.
    "MP": Tracking.LABEL_CREATED,
    "VP": Tracking.UNKNOWN,  # voided
}
FIRM = frozenset({"M", "MV", "U", "RS"})  # types that no code makes into something else: paper, and what is back
SETTLED = frozenset({Tracking.DELIVERED, Tracking.RETURNED, Tracking.PICKUP})  # nothing more is expected of it


# --- bodies
class Status(msgspec.Struct):
    type: str | None = None
    code: str | None = None


class Event(msgspec.Struct, rename="camel"):
    """Track Alert's `TrackingEvent`."""

    tracking_number: str
    activity_status: Status
    gmt_activity_date: str | None = None
    gmt_activity_time: str | None = None
    gmt_offset: str | None = None  # "-04.00"
    local_activity_date: str | None = None
    local_activity_time: str | None = None
    scheduled_delivery_date: str | None = None


class Activity(msgspec.Struct, rename="camel"):
    status: Status | None = None
    gmt_date: str | None = None
    gmt_time: str | None = None  # seen without its leading zero
    gmt_offset: str | None = None  # "-05:00"
    date: str | None = None
    time: str | None = None


class DeliveryDate(msgspec.Struct):
    type: str | None = None  # SDD scheduled, RDD rescheduled, DEL delivered
    date: str | None = None


class Package(msgspec.Struct, rename="camel"):
    tracking_number: str | None = None
    activity: list[Activity] | None = None
    delivery_date: list[DeliveryDate] | None = None


class Shipment(msgspec.Struct, rename="camel"):
    inquiry_number: str | None = None
    package: list[Package] | None = None


class TrackResponse(msgspec.Struct):
    shipment: list[Shipment]


class Tracked(msgspec.Struct, rename="camel"):
    """An answer of the Track API."""

    track_response: TrackResponse


# --- scans
class Moment(NamedTuple):
    """When a scan was made: in ms, and as its ID has it."""

    at: int
    key: str


def pushed(account: Account, event: Event, at: int) -> Iterator[Record]:
    tracking, moment = _told(event)
    tag = meaning(event.activity_status)
    yield _scan(account, tracking, moment, event.activity_status, tag)
    if tag not in SETTLED:
        yield from _estimate(account, tracking, moment.at, event.scheduled_delivery_date)


def tracked(account: Account, answer: Tracked, at: int) -> Iterator[Record]:
    shipments = answer.track_response.shipment
    if not any(shipment.package for shipment in shipments):
        raise Ignored("UPS has no tracking information of it yet")
    for shipment in shipments:
        packages = shipment.package or []
        for package in packages:
            asked = shipment.inquiry_number if len(packages) == 1 else None
            tracking = number(package.tracking_number) or number(asked)
            if tracking:
                yield from _history(account, tracking, package)


def _history(account: Account, tracking: str, package: Package) -> Iterator[Record]:
    latest = 0
    settled = False
    for activity in package.activity or ():
        moment = _moment(activity.gmt_date, activity.gmt_time, activity.gmt_offset, activity.date, activity.time)
        if moment is None:
            continue
        status = activity.status or Status()
        tag = meaning(status)
        latest = max(latest, moment.at)
        settled = settled or tag in SETTLED
        yield _scan(account, tracking, moment, status, tag)
    if latest and not settled:
        days = {day.type: day.date for day in package.delivery_date or ()}
        yield from _estimate(account, tracking, latest, days.get("RDD") or days.get("SDD"))


def _told(event: Event) -> tuple[str, Moment]:
    """Parcel and time of a push. Raises Unreadable."""
    tracking = number(event.tracking_number)
    if not tracking:
        raise Unreadable("schema", "$.trackingNumber")
    moment = _moment(
        event.gmt_activity_date, event.gmt_activity_time, event.gmt_offset, event.local_activity_date, event.local_activity_time
    )
    if moment is None:
        raise Unreadable("schema", "$.gmtActivityDate")
    return tracking, moment


def meaning(status: Status) -> Tracking:
    kind, code = _word(status.type), _word(status.code)
    if code in CODES and kind not in FIRM:
        return CODES[code]
    return TYPES.get(kind, Tracking.UNKNOWN)


def number(text: str | None) -> str:
    """A tracking number as we keep it; "" for what is none. UPS takes 7 to 34 characters."""
    found = re.sub(r"\s", "", text or "").upper()
    return found if re.fullmatch(r"[0-9A-Z]{7,34}", found) else ""


def _scan(account: Account, tracking: str, moment: Moment, status: Status, tag: Tracking) -> FactWaiting:
    return _waiting(account, tracking, _what(moment, status), moment.at, tag)


def _what(moment: Moment, status: Status) -> str:
    return f"{moment.key}:{_word(status.type)}/{_word(status.code)}"


def _estimate(account: Account, tracking: str, at: int, day: str | None) -> Iterator[FactWaiting]:
    begins = _instant(day, "0")
    if begins is not None and _bounded(begins) and _bounded(begins + DAY_MS):
        yield _waiting(account, tracking, f"eta:{_digits(day)}", at, Tracking.UNKNOWN, begins, begins + DAY_MS - 1)


def _waiting(account: Account, tracking: str, what: str, at: int, tag: Tracking, eta_from: int = 0, eta_until: int = 0) -> FactWaiting:
    scan = ParcelScanned(
        order="",
        system=account.source,
        object=f"{tracking}:{what}",
        at=at,
        authority=account.authority,
        parcel=tracking,
        tag=tag,
        carrier="ups",
        tracking=tracking,
        eta_from=eta_from,
        eta_until=eta_until,
    )
    return waiting(scan, "tracking", tracking)


# --- times
def _moment(gmt_date: str | None, gmt_time: str | None, offset: str | None, date: str | None, time: str | None) -> Moment | None:
    """None for what cannot be read or lies outside of 2000 to 2099."""
    at = _instant(gmt_date, gmt_time)
    mark = ""
    if at is None:
        at = _instant(date, time)
        ahead = _ahead(offset)
        if at is not None and ahead is not None:
            at -= ahead
        else:
            mark = "L"
    if at is None or not _bounded(at):
        return None
    return Moment(at, f"{datetime.fromtimestamp(at // 1000, UTC):%Y%m%d%H%M%S}{mark}")


def _instant(date: str | None, time: str | None) -> int | None:
    """Milliseconds of YYYYMMDD and HHMMSS, taken for UTC; a time may have lost its leading zeros."""
    digits = _digits(time)
    if len(_digits(date)) != 8 or not 1 <= len(digits) <= 6:
        return None
    try:
        read = datetime.strptime(_digits(date) + digits.zfill(6), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(read.timestamp()) * 1000


def _ahead(offset: str | None) -> int | None:
    """Milliseconds that a local time is ahead of GMT: "-04.00" in pushes, "-05:00" in answers."""
    found = re.fullmatch(r"([+-])([0-9]{1,2})[.:]([0-9]{2})", offset or "")
    if not found:
        return None
    sign, hours, minutes = found.groups()
    return int(timedelta(hours=int(hours), minutes=int(minutes)) / timedelta(milliseconds=1)) * (-1 if sign == "-" else 1)


def _bounded(at: int) -> bool:
    return AT_MIN <= at < AT_MAX


def _digits(text: str | None) -> str:
    found = re.sub(r"[-:]", "", text or "")
    return found if re.fullmatch(r"[0-9]{1,8}", found) else ""


def _word(text: str | None) -> str:
    """A type or code; "" for what could be anything else."""
    found = (text or "").strip().upper()
    return found if re.fullmatch(r"[0-9A-Z]{1,4}", found) else ""


# --- answers that hold nothing for us
def nothing(why: str) -> Topic:
    def read(account: Account, answer: msgspec.Raw, at: int) -> Iterable[Record]:
        raise Ignored(why)

    return Topic(msgspec.Raw, read)


# --- deliveries
def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    """UPS gives a delivery no ID: what it tells is its ID, so that a repeated push is known."""
    try:
        event = msgspec.json.decode(body, type=Event)
    except DECODING as error:
        raise stumbled(error) from None
    tracking, moment = _told(event)
    return Envelope(EVENT, f"{tracking}:{_what(moment, event.activity_status)}")


# --- complaints
class Wrong(msgspec.Struct):
    code: str | int | None = None


class Refusal(msgspec.Struct):
    errors: list[Wrong] | None = None


class Failed(msgspec.Struct):
    response: Refusal | None = None
    errors: list[Wrong] | None = None  # some gateways of UPS leave the wrapping out
    error: str | None = None  # OAuth's own way (RFC 6749)


_CREDENTIALS = "UPS refuses our credentials: check client ID and secret, and that the app at UPS may use this API"
_EXPIRED = "UPS no longer takes our access token: a new one is fetched; if it lasts, check client ID and secret"
_UNKNOWN_YET = "UPS has no tracking information of this number yet: nothing is wrong, it is asked again later"
_FAULT = "UPS has a fault of its own: it is tried again later"
_NUMBERS = "UPS takes none of these tracking numbers: check that they are UPS's (1Z and 16 characters)"
_RATE = "UPS is asked too often: it is tried again later; if it lasts, ask less often or have UPS raise the quota"
_ADDRESS = "UPS does not take the address for its pushes: check the public URL of this installation"
_OURS = "UPS does not understand our request: report it to the developers"
COMPLAINTS: dict[str, str] = {
    "250002": _CREDENTIALS,
    "250003": _CREDENTIALS,
    "10400": _CREDENTIALS,
    "10401": _CREDENTIALS,
    "invalid_client": _CREDENTIALS,
    "unauthorized_client": _CREDENTIALS,
    "invalid_grant": _CREDENTIALS,
    "invalid_scope": _CREDENTIALS,
    "access_denied": _CREDENTIALS,
    "251004": _EXPIRED,
    "UJ0001": _EXPIRED,
    "invalid_token": _EXPIRED,
    "10403": "UPS has blocked the account or the app: ask UPS why",
    "10429": _RATE,
    "429": _RATE,
    "TW0001": _UNKNOWN_YET,
    "404": "UPS knows no such thing: check the address of its API in the configuration",
    "151018": "UPS says that this is no tracking number: check it at the order",
    "10004": _FAULT,
    "500": _FAULT,
    "503": _FAULT,
    "VSS100": _FAULT,
    "temporarily_unavailable": _FAULT,
    "server_error": _FAULT,
    "VSS200": _NUMBERS,
    "VSS210": _NUMBERS,
    "VSS215": "UPS's test system takes its own test numbers only: use the production address for real parcels",
    "VSS220": "UPS takes at most 100 tracking numbers at once: report it to the developers",
    "VSS600": _ADDRESS,
    "VSS610": _ADDRESS,
    "VSS700": "UPS wants a credential to send along with its pushes: set the source's secret",
    "VSS800": "UPS wants a credential to send along with its pushes: set the source's secret",
    "405": _OURS,
    "10007": _OURS,
    "invalid_request": _OURS,
    "unsupported_grant_type": _OURS,
}


def complaint(body: bytes) -> str:
    try:
        failed = msgspec.json.decode(body, type=Failed)
    except DECODING:
        return ""
    wrong = [*(failed.response.errors or () if failed.response else ()), *(failed.errors or ())]
    if not wrong and not failed.error:
        return ""
    code = next((code for code in (_code(w.code) for w in wrong) if code), "") or _code(failed.error)
    named = f" (code {code})" if code else ""
    return f"{COMPLAINTS.get(code, 'UPS refuses the request: its reference explains the code')}{named}"


def _code(text: str | int | None) -> str:
    found = "" if text is None else str(text)
    return found if re.fullmatch(r"[0-9A-Za-z_]{1,40}", found) else ""


VENDOR = Vendor(
    name="ups",
    guide=Guide(
        title="UPS",
        where="nowhere: we subscribe with each tracking number (Track Alert)",
        signed_with="choose one: a word that UPS sends back with each push",
        credentials={
            "client_id": "developer.ups.com > your app",
            "client_secret": "beside it",
        },
    ),
    kind="carrier",
    scheme=SharedSecret("credential"),
    envelope=envelope,
    topics={EVENT: Topic(Event, pushed)},
    answers={
        "tracking": Topic(Tracked, tracked),
        "shipment": nothing("a label was bought: it names no order, and whoever bought it links the tracking number"),
        "void": nothing("a label was voided: its parcel will not move, and nothing of an order changes by it"),
    },
    complaint=complaint,
)
