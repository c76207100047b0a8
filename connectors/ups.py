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
- What there is one of may stand alone where the specification has a list, and a push may be a list of events; a code, a day or an
  hour may be a number.

Track Alert signs nothing: the credential given at subscription comes back in the header `credential`, which is what the first
version's `destination` describes. The second version keeps it under "Manage Webhook Credentials", and may be set to fetch an OAuth
token instead, which we do not offer. A subscription ends after 14 days and brings nothing from before it: hence the polling.

What we ask of UPS, by its Shipping, Rating, Address Validation, Track and Track Alert APIs:

- A label cannot be bought twice by accident, though UPS honours no key: each carries a reference of ours, made from the effect's ID,
  and Label Recovery finds a label, its number and its image by reference and shipper number, at once and before any scan. An answer
  of 9801031 says that there is none (the specification lists no codes: they are as others have met them in production). Tracking by
  reference would do less: it knows a parcel from its manifest on and has no image.
  The reference stands at the package for parcels within the US or within Puerto Rico, at the shipment for all others, first of two;
  the second is the order's number.
- Which service: `SERVICES`, by where the parcel starts and ends. The account's options `standard`, `express`, `standard_abroad` and
  `express_abroad` say otherwise, by UPS's codes. `label_format` is GIF or ZPL.
- A parcel that crosses a border carries what `goods` calls it ("Merchandise") and, from the US to Canada and Puerto Rico, its value.
  Customs papers are the shipper's to enclose: an ask names no tariff numbers.
- Pounds and inches from the US and Puerto Rico, kilograms and centimetres from elsewhere; tenths and whole ones, rounded up.
- Voiding a voided shipment voids nothing more, and asking for a price, an address or a subscription twice costs nothing.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import msgspec

from connectors import parcel
from connectors.base import Ability, Answer, Done, Reason, Refused, TryLater, Unknown
from connectors.delivery import DECODING, Ignored, Record, Unreadable, stumbled
from connectors.http import Reply, Request
from connectors.signature import SharedSecret
from connectors.vendor import Account, Action, Ask, Envelope, Guide, Login, Question, Topic, Vendor, minor
from orders import money
from orders.fact import AT_MAX, AT_MIN, Address, Tracking
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
    "VN": Tracking.PICKUP,  # held at a UPS location, as the customer wanted
    # Moving, whatever the type says: the example in the Track API's specification (SR, released by customs, of type X); the table
    # (LX, handed to the local post office; ER and VK, customs are at work); public integrations (the rest).
    "SR": Tracking.IN_TRANSIT,
    "LX": Tracking.IN_TRANSIT,
    "ER": Tracking.IN_TRANSIT,
    "VK": Tracking.IN_TRANSIT,
    "YI": Tracking.IN_TRANSIT,  # on its way to an Access Point: nobody should wait at home for it
    "ZA": Tracking.IN_TRANSIT,  # will go to the Access Point that the customer chose
    "ZC": Tracking.IN_TRANSIT,
    # Attempts: UPS's own test parcel has L1, the place was closed at the second attempt, of type X. Other codes of failed attempts,
    # of damage and of loss stand in no list that we could find: they are exceptions, as their type says.
    "L1": Tracking.ATTEMPT_FAILED,
    "H8": Tracking.EXCEPTION,  # on its way back to the sender, by the same table
    # Paper: public integrations.
    "MP": Tracking.LABEL_CREATED,
    "VP": Tracking.UNKNOWN,  # voided
}
FIRM = frozenset({"M", "MV", "U", "RS"})  # types that no code makes into something else: paper, and what is back
SETTLED = frozenset({Tracking.DELIVERED, Tracking.RETURNED, Tracking.PICKUP})  # nothing more is expected of it


# --- bodies
class Status(msgspec.Struct):
    type: parcel.Word = None
    code: parcel.Word = None


class Event(msgspec.Struct, rename="camel"):
    """Track Alert's `TrackingEvent`."""

    tracking_number: str | int
    activity_status: Status
    gmt_activity_date: parcel.Word = None
    gmt_activity_time: parcel.Word = None
    gmt_offset: str | None = None  # "-04.00"
    local_activity_date: parcel.Word = None
    local_activity_time: parcel.Word = None
    scheduled_delivery_date: parcel.Word = None


class Activity(msgspec.Struct, rename="camel"):
    status: Status | None = None
    gmt_date: parcel.Word = None
    gmt_time: parcel.Word = None  # seen without its leading zero
    gmt_offset: str | None = None  # "-05:00"
    date: parcel.Word = None
    time: parcel.Word = None


class DeliveryDate(msgspec.Struct):
    type: str | None = None  # SDD scheduled, RDD rescheduled, DEL delivered
    date: parcel.Word = None


class Package(msgspec.Struct, rename="camel"):
    tracking_number: parcel.Word = None
    activity: list[Activity] | Activity | None = None
    delivery_date: list[DeliveryDate] | DeliveryDate | None = None


class Shipment(msgspec.Struct, rename="camel"):
    inquiry_number: parcel.Word = None
    package: list[Package] | Package | None = None


class TrackResponse(msgspec.Struct):
    shipment: list[Shipment] | Shipment


class Tracked(msgspec.Struct, rename="camel"):
    """An answer of the Track API."""

    track_response: TrackResponse


Push: TypeAlias = list[Event] | Event  # one event, as the specification has it, or several


# --- scans
def pushed(account: Account, push: Push, at: int) -> Iterator[Record]:
    for event, tracking, moment in _told(push):
        tag = meaning(event.activity_status)
        yield _scan(account, tracking, moment, event.activity_status, tag)
        if tag not in SETTLED:
            yield from _estimate(account, tracking, moment.at, event.scheduled_delivery_date)


def tracked(account: Account, answer: Tracked, at: int) -> Iterator[Record]:
    shipments = parcel.many(answer.track_response.shipment)
    if not any(shipment.package for shipment in shipments):
        raise Ignored("UPS has no tracking information of it yet")
    for shipment in shipments:
        packages = parcel.many(shipment.package)
        for package in packages:
            asked = shipment.inquiry_number if len(packages) == 1 else None
            tracking = number(package.tracking_number) or number(asked)
            if tracking:
                yield from _history(account, tracking, package)


def _history(account: Account, tracking: str, package: Package) -> Iterator[Record]:
    latest = 0
    settled = False
    for activity in parcel.many(package.activity):
        moment = _moment(activity.gmt_date, activity.gmt_time, activity.gmt_offset, activity.date, activity.time)
        if moment is None:
            continue
        status = activity.status or Status()
        tag = meaning(status)
        latest = max(latest, moment.at)
        settled = settled or tag in SETTLED
        yield _scan(account, tracking, moment, status, tag)
    if latest and not settled:
        days = {day.type: day.date for day in parcel.many(package.delivery_date)}
        yield from _estimate(account, tracking, latest, days.get("RDD"), days.get("SDD"))


def _told(push: Push) -> Iterator[tuple[Event, str, parcel.Moment]]:
    """The events of a push with their parcels and times. Raises Unreadable."""
    if not push:
        raise Unreadable("schema", "$[0]")
    for place, event in enumerate(parcel.many(push)):
        where = f"$[{place}]" if isinstance(push, list) else "$"
        tracking = number(event.tracking_number)
        if not tracking:
            raise Unreadable("schema", f"{where}.trackingNumber")
        moment = _moment(
            event.gmt_activity_date, event.gmt_activity_time, event.gmt_offset, event.local_activity_date, event.local_activity_time
        )
        if moment is None:
            raise Unreadable("schema", f"{where}.gmtActivityDate")
        yield event, tracking, moment


def meaning(status: Status) -> Tracking:
    kind, code = parcel.code(status.type), parcel.code(status.code)
    if code in CODES and kind not in FIRM:
        return CODES[code]
    return TYPES.get(kind, Tracking.UNKNOWN)


def number(text: parcel.Word) -> str:
    """A tracking number as we keep it; "" for what is none. UPS takes 7 to 34 characters."""
    found = re.sub(r"\s", "", str(text or "")).upper()
    return found if re.fullmatch(r"[0-9A-Z]{7,34}", found) else ""


def _scan(account: Account, tracking: str, moment: parcel.Moment, status: Status, tag: Tracking) -> FactWaiting:
    return parcel.scanned(account, "ups", tracking, _what(moment, status), moment.at, tag)


def _what(moment: parcel.Moment, status: Status) -> str:
    return f"{moment.key}:{parcel.code(status.type)}/{parcel.code(status.code)}"


def _estimate(account: Account, tracking: str, at: int, *days: parcel.Word) -> Iterator[FactWaiting]:
    """By the first day that is one."""
    for day in days:
        begins = _instant(day, "0")
        if begins is not None and _bounded(begins) and _bounded(begins + DAY_MS):
            yield parcel.scanned(account, "ups", tracking, f"eta:{_digits(day)}", at, Tracking.UNKNOWN, begins, begins + DAY_MS - 1)
            return


# --- times
def _moment(gmt_date: parcel.Word, gmt_time: parcel.Word, offset: str | None, date: parcel.Word, time: parcel.Word) -> parcel.Moment | None:
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
    return parcel.Moment(at, f"{datetime.fromtimestamp(at // 1000, UTC):%Y%m%d%H%M%S}{mark}")


def _instant(date: parcel.Word, time: parcel.Word) -> int | None:
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


def _digits(text: parcel.Word) -> str:
    found = f"{text}" if isinstance(text, int) else re.sub(r"[-:]", "", text or "")
    return found if re.fullmatch(r"[0-9]{1,8}", found) else ""


# --- deliveries
def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    """UPS gives a delivery no ID: what it tells is its ID, so that a repeated push is known."""
    try:
        push = msgspec.json.decode(body, type=Push)
    except DECODING as error:
        raise stumbled(error) from None
    told = [f"{tracking}:{_what(moment, event.activity_status)}" for event, tracking, moment in _told(push)]
    return Envelope(EVENT, told[0] if len(told) == 1 else blake2b(" ".join(told).encode(), digest_size=16).hexdigest())


# --- complaints
class Wrong(msgspec.Struct):
    code: parcel.Word = None


class Refusal(msgspec.Struct):
    errors: list[Wrong] | Wrong | None = None


class Shape(msgspec.Struct, rename="pascal"):
    pass


class Primary(Shape):
    code: parcel.Word = None


class ErrorDetail(Shape):
    primary_error_code: Primary | None = None


class ErrorDetails(Shape):
    error_detail: list[ErrorDetail] | ErrorDetail | None = None


class FaultDetail(Shape):
    errors: ErrorDetails | None = None


class Fault(msgspec.Struct):
    detail: FaultDetail | None = None


class Failed(msgspec.Struct):
    response: Refusal | None = None
    errors: list[Wrong] | Wrong | None = None  # some gateways of UPS leave the wrapping out
    error: Wrong | str | None = None  # text: OAuth's own way (RFC 6749)
    fault: Fault | None = msgspec.field(default=None, name="Fault")  # the API before OAuth


_CREDENTIALS = "UPS refuses our credentials: check client ID and secret, and that the app at UPS may use this API"
_EXPIRED = "UPS no longer takes our access token: a new one is fetched; if it lasts, check client ID and secret"
_UNKNOWN_YET = "UPS has no tracking information of this number yet: nothing is wrong, it is asked again later"
_FAULT = "UPS has a fault of its own: it is tried again later"
_NUMBERS = "UPS takes none of these tracking numbers: check that they are UPS's (1Z and 16 characters)"
_RATE = "UPS is asked too often: it is tried again later; if it lasts, ask less often or have UPS raise the quota"
_ADDRESS = "UPS does not take the address for its pushes: check the public URL of this installation"
_OURS = "UPS does not understand our request: report it to the developers"
_NO_NUMBER = "UPS says that this is no tracking number: check it at the order"
_SERVICE = "UPS does not offer this service between these places: check the address, and which services the account's options name"
_SENDER = "UPS does not take where the parcel comes from: check the account's origin"
_RECIPIENT = "UPS does not take where the parcel goes to: correct the address at the order"
NOT_FOUND, VOIDED, ALREADY_VOIDED, TOO_OLD_TO_VOID = "9801031", "9801040", "190117", "190102"
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
    "151044": _UNKNOWN_YET,
    "TV1002": _NO_NUMBER,
    "151018": _NO_NUMBER,
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
    "VSS500": _ADDRESS,
    "VSS600": _ADDRESS,
    "VSS610": _ADDRESS,
    "VSS700": "UPS wants a credential to send along with its pushes: set the source's secret",
    "VSS800": "UPS wants a credential to send along with its pushes: set the source's secret",
    "120100": "UPS does not know the shipper number: check the account's option shipper_number, and that the app at UPS may use it",
    "111100": _SERVICE,
    "111210": _SERVICE,
    "111217": _SERVICE,
    "121100": _SERVICE,
    "121210": _SERVICE,
    "111285": "UPS does not take a postal code: check those at the order and in the account's origin",
    "120801": _SENDER,
    "120802": _RECIPIENT,
    NOT_FOUND: "UPS has no label under this reference: none was bought, and it is asked for again",
    VOIDED: "the label was voided before: ask for a new one if the parcel is still to go",
    ALREADY_VOIDED: "the label was voided before: nothing is left to do",
    TOO_OLD_TO_VOID: "UPS finds no label that may still be voided: have it refund what was never handed over",
    "405": _OURS,
    "10007": _OURS,
    "invalid_request": _OURS,
    "unsupported_grant_type": _OURS,
}
# What other codes begin with: `PARTS` says whence; the subscription's codes are listed in its specification.
BEGINNINGS = {
    "1201": _SENDER,
    "1202": _RECIPIENT,
    "1203": _SENDER,
    "1205": "UPS does not take who pays: check the account's option shipper_number",
    "VSS": _OURS,
}


def complaint(body: bytes) -> str:
    try:
        failed = msgspec.json.decode(body, type=Failed)
    except DECODING:
        return ""
    wrong = _wrongs(failed)
    if not wrong and failed.fault is None:
        return ""
    code = next(filter(None, wrong), "")
    named = f" (code {code})" if code else ""
    begun = next((words for beginning, words in BEGINNINGS.items() if code.startswith(beginning)), "")
    return f"{COMPLAINTS.get(code) or begun or 'UPS refuses the request: its reference explains the code'}{named}"


def _codes(body: bytes) -> list[str]:
    """All error codes of an answer, wrapped or not."""
    found = parcel.answered(body, Failed)
    return _wrongs(found) if found else []


def _wrongs(failed: Failed) -> list[str]:
    """The code of each error, "" for one without."""
    details = failed.fault.detail.errors.error_detail if failed.fault and failed.fault.detail and failed.fault.detail.errors else None
    return [
        *(_code(wrong.code) for wrong in parcel.many(failed.response.errors if failed.response else None)),
        *(_code(wrong.code) for wrong in parcel.many(failed.errors)),
        *(_code(error.code if isinstance(error, Wrong) else error) for error in [failed.error] if error),
        *(_code(detail.primary_error_code.code) for detail in parcel.many(details) if detail.primary_error_code),
    ]


def _code(text: parcel.Word) -> str:
    found = "" if text is None else str(text)
    return found if re.fullmatch(r"[0-9A-Za-z_]{1,40}", found) else ""


# --- what we ask for
URL = "https://onlinetools.ups.com"
EUROPE = frozenset(
    (
        *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"),
        *("IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"),
    )
)  # the Union: Standard goes by road
STATES = frozenset({"US", "CA", "VN"})  # where UPS wants a state or province
AMERICAN = frozenset({"US", "PR"})  # one country to UPS's services and measures
AREA_CODES = frozenset({"US", "PR", "CA", "VI"})  # where a phone number starts with its area code
TEN_DIGITS = re.compile(r"[0-9]{5}([0-9]{4})?")
CANADIAN = re.compile(r"([A-Z][0-9]){3}")
SERVICES: dict[str, tuple[str, str]] = {  # route -> standard, express
    "within US": ("03", "01"),  # Ground, Next Day Air
    "within CA": ("11", "01"),  # Standard, Express
    "within": ("11", "65"),  # Standard, Saver: within another country, or within the European Union
    "US to neighbours": ("11", "65"),  # to Canada and Mexico Standard goes by road
    "abroad": ("08", "65"),  # Expedited, Saver
}
HEAVIEST_G = 68_038  # 150 pounds
RENEW_S = 13 * 86_400  # a subscription lives for 14 days: a day to try again
LABEL_LIFE_S = 6 * 86_400  # how long Label Recovery's "could not be found" is believed; UPS names no limit
AGAIN = Ability("keyed", 28 * 86_400)  # asked twice it does no more than once; UPS voids for 28 days
ONE_Z = re.compile(r"1Z[0-9A-Z]{16}")
PUSHED = re.compile(r"1Z[0-9A-Z]{16}|1R[0-9A-Z]{14}|1R[0-9A-Z]{26}")
MOST_SUBSCRIBED = 100
# The errors of a shipment begin with the part that is wrong, as public integrations have met them: 1201 shipper, 1202 receiver,
# 1203 origin, 1205 payment. The specification lists none. Any other is a refusal of the request as it is.
PARTS: dict[str, Answer] = {
    "1201": TryLater(Reason.CONFIGURATION),
    "1202": Refused(Reason.RECIPIENT),
    "1203": TryLater(Reason.CONFIGURATION),
    "1205": TryLater(Reason.CONFIGURATION),
}


def reference(ask: Ask) -> str:
    """What a label of ours is found by: 24 letters and digits, as UPS prints and compares them."""
    return blake2b(ask.id.encode(), digest_size=12).hexdigest().upper()


def _request(account: Account, method: str, path: str, transaction: str, body: Any = None) -> Request:
    headers = (("transId", transaction), ("transactionSrc", "orderflow"))
    url = (account.url or URL) + path
    if body is None:
        return Request(method, url, headers)
    return Request(method, url, (*headers, ("Content-Type", "application/json")), msgspec.json.encode(body))


# --- labels
class Route(NamedTuple):
    """A parcel's way: countries as UPS counts them."""

    start: str
    end: str

    @property
    def home(self) -> bool:
        """Whether it stays within one country, or what UPS's services take for one."""
        return self.start == self.end or {self.start, self.end} <= AMERICAN or {self.start, self.end} <= EUROPE

    @property
    def name(self) -> str:
        if not self.home:
            return "US to neighbours" if self.start == "US" and self.end in ("CA", "MX") else "abroad"
        return "within US" if self.start in AMERICAN else "within CA" if self.start == "CA" else "within"


def label(account: Account, ask: Ask) -> Request:
    data = parcel.asked(ask, parcel.Label)
    route, shipment = _shipment(account, data)
    ours = [{"Code": "TN", "Value": reference(ask)}]
    if shown := parcel.plain(data.number)[:35]:
        ours.append({"Code": "PO", "Value": shown})
    shipment["Service"] = {"Code": _service(account, route, data.service)}
    shipment["PaymentInformation"] = {"ShipmentCharge": [{"Type": "01", "BillShipper": {"AccountNumber": _shipper_number(account)}}]}
    package = {"Packaging": {"Code": "02"}, **_measures(account, data, route)}
    if route.start == route.end and route.start in AMERICAN:
        package["ReferenceNumber"] = ours
    else:
        shipment["ReferenceNumber"] = ours
    if route.start != route.end:
        shipment["Description"] = parcel.name(account.options.get("goods", "Merchandise"), 50, "account.options.goods")
    if route.start == "US" and route.end in ("CA", "PR"):
        shipment["InvoiceLineTotal"] = _worth(data)
    shipment["Package"] = [package]
    specification = {**_format(account), "LabelStockSize": {"Height": "6", "Width": "4"}}
    body = {"ShipmentRequest": {"Request": {"RequestOption": "nonvalidate"}, "Shipment": shipment, "LabelSpecification": specification}}
    return _request(account, "POST", "/api/shipments/v2409/ship", ask.id, body)


def _shipment(account: Account, data: parcel.Label) -> tuple[Route, dict[str, Any]]:
    """Who sends and who receives. Raises Unreadable naming what is missing."""
    home, there = account.origin, data.to
    route = Route(_country(home.address, "account.origin.address"), _country(there.address, "$.data.to.address"))
    abroad = route.start != route.end
    sender = {
        "Name": parcel.name(home.name, 35, "account.origin.name"),
        "AttentionName": parcel.name(home.name, 35, "account.origin.name"),
        **_phone(home.phone, route.start, abroad, "account.origin.phone"),
        "Address": _place(home.address, route.start, "account.origin.address"),
    }
    receiver = {
        "Name": parcel.name(there.name, 35, "$.data.to.name"),
        "AttentionName": parcel.name(there.name, 35, "$.data.to.name"),
        **_phone(there.phone, route.end, abroad, "$.data.to.phone"),
        "Address": _place(there.address, route.end, "$.data.to.address"),
    }
    return route, {"Shipper": {**sender, "ShipperNumber": _shipper_number(account)}, "ShipTo": receiver, "ShipFrom": sender}


def _shipper_number(account: Account) -> str:
    found = parcel.option(account, "shipper_number").upper()
    if not re.fullmatch(r"[0-9A-Z]{6}", found):
        raise parcel.Unset("account.options.shipper_number")
    return found


def _country(address: Address, field: str) -> str:
    """A US territory is a country of its own to UPS, however it is written."""
    code = parcel.country(address, field)
    region = parcel.state(code, address.region)
    return region if code == "US" and region in parcel.TERRITORIES else code


def _place(address: Address, code: str, field: str) -> dict[str, Any]:
    place: dict[str, Any] = {
        "AddressLine": parcel.street(address.lines, 35, 3, f"{field}.lines"),
        "City": parcel.needed(address.city, 30, f"{field}.city"),
        "CountryCode": code,
    }
    region = parcel.state(code, address.region)
    if code in STATES and not region:
        raise parcel.wrong("schema", f"{field}.region")
    if code in STATES and len(region) > (5 if code == "VN" else 2):
        raise parcel.wrong("bounds", f"{field}.region")
    if region and len(region) <= 5 and code not in parcel.TERRITORIES:  # where UPS does not want one, a county may be longer than its field
        place["StateProvinceCode"] = region
    if postcode := _postcode(address.postcode, code, f"{field}.postcode"):
        place["PostalCode"] = postcode
    return place


def _postcode(text: str, code: str, field: str) -> str:
    found = "".join(c for c in parcel.plain(text).upper() if c.isascii() and c.isalnum())
    if code in AMERICAN or code == "CA":
        if not found:
            raise parcel.wrong("schema", field)
        if not (CANADIAN if code == "CA" else TEN_DIGITS).fullmatch(found):
            raise parcel.wrong("bounds", field)
    if len(found) > 9:
        raise parcel.wrong("bounds", field)
    return found


def _phone(text: str, code: str, must: bool, field: str) -> dict[str, Any]:
    found = parcel.digits(text)
    if code in AREA_CODES and len(found) == 11:
        found = found.removeprefix("1")
    if 1 <= len(found) <= 15:
        return {"Phone": {"Number": found}}
    if must:
        raise parcel.wrong("schema", field)
    return {}


def _service(account: Account, route: Route, service: str) -> str:
    express = service == "express"
    name = ("express" if express else "standard") + ("" if route.home else "_abroad")
    code = account.options.get(name, "") or SERVICES[route.name][express]
    if not re.fullmatch(r"[0-9A-Z]{2}", code):
        raise parcel.Unset(f"account.options.{name}")
    return code


def _measures(account: Account, data: parcel.Label, route: Route) -> dict[str, Any]:
    """Raises Unset for what UPS does not carry: over 150 pounds or 70 kg, 108 inches, or 165 inches of length and girth."""
    grams, size = parcel.weight(account, data, HEAVIEST_G), parcel.sides(account)
    american = route.start in AMERICAN
    tenths = parcel.pounds(grams, 10) if american else parcel.up(grams, 100)
    long, middle, short = (parcel.inches(side, 1) if american else parcel.up(side, 10) for side in size)
    if long > (108 if american else 270) or long + 2 * (middle + short) > (165 if american else 330):
        raise parcel.Unset("account.origin.size_mm")
    length, mass = (("IN", "Inches"), ("LBS", "Pounds")) if american else (("CM", "Centimeters"), ("KGS", "Kilograms"))
    return {
        "Dimensions": {"UnitOfMeasurement": _unit(*length), "Length": str(long), "Width": str(middle), "Height": str(short)},
        "PackageWeight": {"UnitOfMeasurement": _unit(*mass), "Weight": f"{tenths // 10}.{tenths % 10}"},
    }


def _unit(code: str, words: str) -> dict[str, str]:
    return {"Code": code, "Description": words}


def _worth(data: parcel.Label) -> dict[str, str]:
    if not money.known(data.currency):
        raise Unreadable("currency", "$.data.currency")
    amount = money.decimal(data.value, data.currency)
    if not 1 <= data.value // 10 ** money.EXPONENTS[data.currency] <= 99_999_999 or len(amount) > 11:
        raise Unreadable("bounds", "$.data.value")
    return {"CurrencyCode": data.currency, "MonetaryValue": amount}


def _format(account: Account) -> dict[str, Any]:
    code = account.options.get("label_format", "GIF").upper()
    if code not in ("GIF", "ZPL"):
        raise parcel.Unset("account.options.label_format")
    return {"LabelImageFormat": {"Code": code}, "HTTPUserAgent": "Mozilla/4.5"}


class Picture(Shape):
    graphic_image: str | None = None


class PackageResult(Shape):
    tracking_number: str | None = None
    shipping_label: Picture | None = None


class ShipmentResults(Shape):
    package_results: list[PackageResult] | PackageResult | None = None


class ShipmentResponse(Shape):
    shipment_results: ShipmentResults


class Shipped(Shape):
    shipment_response: ShipmentResponse


def bought(answer: Shipped) -> str:
    results = parcel.many(answer.shipment_response.shipment_results.package_results)
    if not any(result.tracking_number for result in results):
        raise Unreadable("schema", "$.ShipmentResponse.ShipmentResults.PackageResults")
    return "a label was bought: it names no order, and whoever bought it links the tracking number"


def labelled(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status != 200:
        return parcel.failed(reply, harmless=False, code=_by_part(reply))
    found = parcel.answered(reply.body, Shipped)
    results = parcel.many(found.shipment_response.shipment_results.package_results) if found else []
    return _bought([(result.tracking_number, result.shipping_label) for result in results])


def _bought(results: list[tuple[str | None, Picture | None]]) -> Answer:
    """A label was bought: what it is. One that cannot be read, or that is not one, is in doubt."""
    if len(results) != 1:
        return Unknown(Reason.DROPPED)
    tracking, file = number(results[0][0]), parcel.image(results[0][1].graphic_image if results[0][1] else None)
    return Done(f"UPS {tracking}", file) if tracking and file else Unknown(Reason.DROPPED)


def _by_part(reply: Reply) -> Answer | None:
    return next((PARTS[code[:4]] for code in _codes(reply.body) if len(code) == 6 and code[:4] in PARTS), None)


def recover(account: Account, ask: Ask) -> Request:
    specification = _format(account)
    if specification["LabelImageFormat"]["Code"] == "ZPL":  # with GIF UPS does not take a size here
        specification["LabelStockSize"] = {"Height": "6", "Width": "4"}
    body = {
        "LabelRecoveryRequest": {
            "Request": {},
            "LabelSpecification": specification,
            "ReferenceValues": {"ReferenceNumber": {"Value": reference(ask)}, "ShipperNumber": _shipper_number(account)},
        }
    }
    return _request(account, "POST", "/api/labels/v1/recovery", ask.id, body)


class LabelResult(Shape):
    tracking_number: str | None = None
    label_image: Picture | None = None


class LabelRecoveryResponse(Shape):
    label_results: list[LabelResult] | LabelResult | None = None


class Recovered(Shape):
    label_recovery_response: LabelRecoveryResponse


def recovered(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status == 200:
        found = parcel.answered(reply.body, Recovered)
        results = parcel.many(found.label_recovery_response.label_results) if found else []
        return _bought([(result.tracking_number, result.label_image) for result in results])
    codes = _codes(reply.body)
    if reply.status == 400 and NOT_FOUND in codes:
        return TryLater(Reason.NOT_FOUND)
    if reply.status == 400 and VOIDED in codes:
        return Refused(Reason.GONE)
    return parcel.failed(reply, harmless=False)


def void(account: Account, ask: Ask) -> Request:
    tracking = number(parcel.asked(ask, parcel.Void).tracking)
    if not ONE_Z.fullmatch(tracking):
        raise Unreadable("schema", "$.data.tracking")
    return _request(account, "DELETE", f"/api/shipments/v2409/void/cancel/{tracking}", ask.id)


class VoidStatus(Shape):
    code: str | None = None


class SummaryResult(Shape):
    status: VoidStatus


class VoidShipmentResponse(Shape):
    summary_result: SummaryResult


class Voided(Shape):
    void_shipment_response: VoidShipmentResponse


def gone(answer: Voided) -> str:
    code = answer.void_shipment_response.summary_result.status.code
    if code is None:
        raise Unreadable("schema", "$.VoidShipmentResponse.SummaryResult.Status.Code")
    if code != "1":
        return "no label was voided: its parcel may still move, and nothing of an order changes by it"
    return "a label was voided: its parcel will not move, and nothing of an order changes by it"


def voided(account: Account, ask: Ask, reply: Reply) -> Answer:
    codes = _codes(reply.body)
    if reply.status == 400 and TOO_OLD_TO_VOID in codes:
        return Refused(Reason.GONE)
    if reply.status != 200 and not (reply.status == 400 and ALREADY_VOIDED in codes):
        return parcel.failed(reply, harmless=True)
    if reply.status == 200:
        found = parcel.answered(reply.body, Voided)
        if found is None:
            return TryLater(Reason.PROVIDER)
        if found.void_shipment_response.summary_result.status.code != "1":
            return Refused(Reason.OTHER)
    return Done(f"UPS {number(parcel.asked(ask, parcel.Void).tracking)}")


# --- prices and addresses
def rate(account: Account, ask: Ask) -> Request:
    data = parcel.asked(ask, parcel.Label)
    route, shipment = _shipment(account, data)
    for party in shipment.values():
        party.pop("Phone", None)
        if len(party["Address"].get("StateProvinceCode", "XX")) != 2:  # Rating takes two letters only
            del party["Address"]["StateProvinceCode"]
    charge = {"Type": "01", "BillShipper": {"AccountNumber": _shipper_number(account)}}
    shipment["PaymentDetails"] = {"ShipmentCharge": [charge]}
    shipment["ShipmentRatingOptions"] = {"NegotiatedRatesIndicator": "Y"}
    shipment["Service"] = {"Code": _service(account, route, data.service)}
    shipment["Package"] = [{"PackagingType": {"Code": "02"}, **_measures(account, data, route)}]
    return _request(
        account,
        "POST",
        "/api/rating/v2409/Rate",
        ask.id,
        {"RateRequest": {"Request": {"RequestOption": "Rate"}, "Shipment": shipment}},
    )


class Amount(Shape):
    currency_code: str
    monetary_value: str


class Negotiated(Shape):
    total_charge: Amount | None = None


class Rated(Shape):
    total_charges: Amount
    negotiated_rate_charges: Negotiated | None = None


class RateResponse(Shape):
    rated_shipment: list[Rated] | Rated


class Rates(Shape):
    rate_response: RateResponse


def priced(answer: Rates) -> str:
    if not answer.rate_response.rated_shipment:
        raise Unreadable("schema", "$.RateResponse.RatedShipment")
    return "a price was asked for: nothing of an order changes by it"


def rated(account: Account, ask: Ask, reply: Reply) -> Answer:
    """The price: its reference is currency and minor units, "USD 1234"; the account's own price where UPS names it."""
    if reply.status != 200:
        return parcel.failed(reply, harmless=True, code=_by_part(reply))
    found = parcel.answered(reply.body, Rates)
    first = next(iter(parcel.many(found.rate_response.rated_shipment)), None) if found else None
    if first is None:
        return TryLater(Reason.PROVIDER)
    price = (first.negotiated_rate_charges and first.negotiated_rate_charges.total_charge) or first.total_charges
    try:
        return Done(f"{price.currency_code} {minor(price.monetary_value, price.currency_code, 'MonetaryValue')}")
    except Unreadable:
        return TryLater(Reason.PROVIDER)


def check(account: Account, ask: Ask) -> Request:
    """Only addresses in the US and Puerto Rico can be checked."""
    address = parcel.asked(ask, parcel.Check).to.address
    field = "$.data.to.address"
    code = _country(address, field)
    if code not in AMERICAN:
        raise parcel.wrong("bounds", f"{field}.country")
    postcode = _postcode(address.postcode, code, f"{field}.postcode")
    key = {
        "AddressLine": parcel.street(address.lines, 100, 3, f"{field}.lines"),
        "PoliticalDivision2": parcel.needed(address.city, 30, f"{field}.city"),
        "PoliticalDivision1": parcel.needed(parcel.state("US", address.region) or ("PR" if code == "PR" else ""), 30, f"{field}.region"),
        "PostcodePrimaryLow": postcode[:5],
        "CountryCode": code,
    }
    if postcode[5:]:
        key["PostcodeExtendedLow"] = postcode[5:]
    return _request(account, "POST", "/api/addressvalidation/v2/1", ask.id, {"XAVRequest": {"AddressKeyFormat": key}})


class Found(Shape):
    valid_address_indicator: str | None = None
    ambiguous_address_indicator: str | None = None
    no_candidates_indicator: str | None = None


class Validated(msgspec.Struct):
    found: Found = msgspec.field(name="XAVResponse")


def checked(account: Account, ask: Ask, reply: Reply) -> Answer:
    """Its reference is "valid", "ambiguous" or "unknown": nothing of the address."""
    if reply.status != 200:
        return parcel.failed(reply, harmless=True)
    answer = parcel.answered(reply.body, Validated)
    if answer is None:
        return TryLater(Reason.PROVIDER)
    if answer.found.valid_address_indicator is not None:  # an empty text, when it is there
        return Done("valid")
    return Done("ambiguous" if answer.found.ambiguous_address_indicator is not None else "unknown")


# --- tracking
def track(account: Account, value: str, cursor: str) -> Request:
    tracking = number(value)
    if not tracking:
        raise Unreadable("schema", "tracking")
    return _request(
        account, "GET", f"/api/track/v1/details/{tracking}?locale=en_US", blake2b(tracking.encode(), digest_size=16).hexdigest()
    )


def subscribe(account: Account, ask: Ask) -> Request:
    """For at most 100 parcels; where the pushes go is kept at UPS ("Manage Webhook Credentials")."""
    trackings = [number(text) for text in parcel.asked(ask, parcel.Subscribe).trackings]
    if not 1 <= len(trackings) <= MOST_SUBSCRIBED:
        raise Unreadable("bounds", "$.data.trackings")
    for place, tracking in enumerate(trackings):
        if not PUSHED.fullmatch(tracking):
            raise Unreadable("schema", f"$.data.trackings[{place}]")
    body = {"locale": "en_US", "countryCode": "US", "trackingNumberList": trackings}
    return _request(account, "POST", "/api/track/v2/subscription/standard/package", ask.id, body)


class Subscribed(msgspec.Struct, rename="camel"):
    valid_tracking_numbers: list[str] | None = None
    invalid_tracking_numbers: list[str] | None = None


def followed(answer: Subscribed) -> str:
    if answer.valid_tracking_numbers is None:
        raise Unreadable("schema", "$.validTrackingNumbers")
    return "parcels were subscribed to: what becomes of them is pushed"


def subscribed(account: Account, ask: Ask, reply: Reply) -> Answer:
    """Its reference names the parcels, parted by spaces, that UPS will say nothing of: they are to be asked about."""
    if reply.status != 200:
        return parcel.failed(reply, harmless=True)
    found = parcel.answered(reply.body, Subscribed)
    if found is None or found.valid_tracking_numbers is None:
        return TryLater(Reason.PROVIDER)
    told = {number(text) for text in found.valid_tracking_numbers}
    return Done(" ".join(t for t in map(number, parcel.asked(ask, parcel.Subscribe).trackings) if t not in told))


# --- credentials
def ask_for_token(account: Account) -> Request:
    pair = f"{parcel.credential(account, 'client_id')}:{parcel.credential(account, 'client_secret')}"
    headers = (
        ("Authorization", f"Basic {b64encode(pair.encode()).decode()}"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    )
    return Request("POST", (account.url or URL) + "/security/v1/oauth/token", headers, b"grant_type=client_credentials")


BOUGHT, GONE, PRICED = parcel.done(Shipped, bought), parcel.done(Voided, gone), parcel.done(Rates, priced)


def bearer(account: Account, token: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {token}"),)


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
    topics={EVENT: Topic(Push, pushed)},
    answers={
        "tracking": Topic(Tracked, tracked),
        "shipment": BOUGHT,  # as UPS calls it; beside it, here and below, as people do
        "label": BOUGHT,
        "void": GONE,
        "cancel": GONE,
        "rate": PRICED,
        "rates": PRICED,
        "subscription": parcel.done(Subscribed, followed),
        "address": parcel.done(Validated, lambda answer: "an address was checked: nothing of an order changes by it"),
    },
    url=URL,
    questions={"tracking": Question("tracking", track, lambda reply: "")},
    actions={
        "carrier.label": Action(Ability("lookup", LABEL_LIFE_S), label, labelled, recover, recovered),
        "carrier.void": Action(AGAIN, void, voided),
        "carrier.rate": Action(AGAIN, rate, rated),
        "address.check": Action(AGAIN, check, checked),
        "tracking.subscribe": Action(Ability("keyed", RENEW_S), subscribe, subscribed),
    },
    login=Login(bearer, ask_for_token, parcel.token),
    complaint=complaint,
)
