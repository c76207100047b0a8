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
- The tracking API's later version (v3r2) answers with a list, in which a parcel may have an error of its own: it is passed over, and
  a list of nothing else is a refusal. Its specification is not held by us: it is read as public integrations read it.

USPS can push too (subscriptions for tracking, signed in a header), which is another API and not read here.

What we ask of USPS, by its Domestic Labels, Addresses, Tracking and Payments APIs:

- A label is asked for with `X-Idempotency-Key`, made from the effect's ID. A second request with the key would buy a second label, so
  it makes nothing safe by itself; but a reprint asked for by the key gives the label that was bought, or 160412: there is none with a
  mailing date within a week. That is a look-up. Neither stands in the specification of version 3.9.8; both are in use, in production,
  where the key of an earlier label was found at once. A reprint counts: USPS gives three of a label.
- Labels, reprints and cancellations want a payment authorisation beside the access token. It comes from the Payments API, lives for
  eight hours, and names who pays: the account's options `crid`, `mid`, `manifest_mid`, `account_type` (EPS), `account_number`.
- The answer is asked for as one JSON document. The default, several parts, is read as well, with what is wrong in it: its headers
  claim encodings that are not there, the picture is always Base64, and a part may have no name.
- Which mail class: standard is Ground Advantage, express Priority Mail Express. The options `standard` and `express` say otherwise.
  `label_format` is PDF or ZPL203DPI. Pounds and inches, hundredths rounded up.
- The mailing date is the day of asking in the option `time_zone` (America/New_York, which is never behind the mainland's other zones).
- To military addresses and the far territories a label needs a customs form, and so an account of the goods that an ask does not
  give; abroad is another API. Both are refused.
- Cancelling a cancelled label cancels nothing more, and checking an address twice costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5
from zoneinfo import ZoneInfo

import msgspec

from connectors import parcel
from connectors.base import Ability, Answer, Done, Reason, Refused, TryLater, Unknown
from connectors.delivery import DECODING, Ignored, Record, Unreadable
from connectors.http import Reply, Request
from connectors.vendor import Account, Action, Ask, Envelope, Guide, Login, Question, Topic, Vendor
from orders.fact import AT_MAX, AT_MIN, Address, Tracking
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
    (r"^delivered", Tracking.DELIVERED),
    (r"return(ed|ing)? to|being returned|return notice|refused|unclaimed|missent|dead mail|alert|exception", Tracking.EXCEPTION),
    (r"undeliverable|unable to deliver|insufficient address|no such number|left no address|forward expired|vacant", Tracking.EXCEPTION),
    (r"awaiting item|label created|pre-shipment|acceptance pending", Tracking.LABEL_CREATED),
    (r"arriv|depart|in.transit|accept|process|in possession|forwarded|customs|dispatched|picked up", Tracking.IN_TRANSIT),
)
TO_SENDER = re.compile(r"\bto (the )?(original )?sender\b", re.IGNORECASE)
SETTLED = frozenset({Tracking.DELIVERED, Tracking.RETURNED, Tracking.PICKUP})  # nothing more is expected of it


# --- bodies
class Event(msgspec.Struct, rename="camel"):
    event_type: str | None = None
    event_code: parcel.Word = None
    event_timestamp: str | None = None  # local
    gmt_timestamp: str | None = msgspec.field(default=None, name="GMTTimestamp")
    gmt_offset: str | None = msgspec.field(default=None, name="GMTOffset")  # "-05:00" or "-7:00"


class Source(msgspec.Struct):
    parameter: str | None = None


class Wrong(msgspec.Struct):
    status: parcel.Word = None
    code: parcel.Word = None
    title: str | None = None
    detail: str | None = None
    source: Source | str | None = None


class Refusal(msgspec.Struct):
    code: parcel.Word = None
    message: str | None = None
    errors: list[Wrong] | Wrong | None = None


class Cause(msgspec.Struct):
    errorcode: str | None = None


class Fault(msgspec.Struct):
    detail: Cause | None = None


class Failed(msgspec.Struct):
    error: Refusal | str | None = None  # text: OAuth's own way (RFC 6749)
    errors: list[Wrong] | Wrong | None = None  # without the wrapping
    fault: Fault | None = None  # of the gateway before the API


Answers: TypeAlias = list[Failed] | Failed


class Expectation(Failed, rename="camel"):
    """When a parcel is expected, by the names of all versions."""

    expected_delivery_time_stamp: str | None = None
    expected_delivery_date: str | None = None
    predicted_delivery_time_stamp: str | None = None
    predicted_delivery_date: str | None = None
    guaranteed_delivery_time_stamp: str | None = None
    guaranteed_delivery_date: str | None = None

    def days(self) -> list[str | None]:
        return [
            *(self.expected_delivery_time_stamp, self.expected_delivery_date),
            *(self.predicted_delivery_date, self.predicted_delivery_time_stamp),
            *(self.guaranteed_delivery_time_stamp, self.guaranteed_delivery_date),
        ]


class Details(Expectation, rename="camel"):
    """`TrackingDetails`, and of `TrackingSummary` what tells the two apart; or, in a list, why there are none of this parcel."""

    tracking_number: parcel.Word = None
    tracking_events: list[Event] | Event | None = None
    event_summaries: list[str] | None = None
    status_category: str | None = None
    delivery_date_expectation: Expectation | None = None  # since v3r2, which answers with a list


# --- scans
def tracked(account: Account, answer: list[Details] | Details, at: int) -> Iterator[Record]:
    told = parcel.many(answer)
    if told and all(map(_summary, told)):
        raise Ignored("only a summary, in words: ask for details (expand=DETAIL)")
    for place, details in enumerate(told):
        if not _failed(details) and not _summary(details):
            yield from _history(account, details, f"$[{place}]" if isinstance(answer, list) else "$")


def _summary(details: Details) -> bool:
    return details.tracking_events is None and (details.event_summaries is not None or details.status_category is not None)


def _history(account: Account, details: Details, where: str) -> Iterator[Record]:
    tracking = number(details.tracking_number)
    if not tracking:
        raise Unreadable("schema", f"{where}.trackingNumber")
    if details.tracking_events is None:
        raise Unreadable("schema", f"{where}.trackingEvents")
    latest = 0
    settled = False
    for event in parcel.many(details.tracking_events):
        moment = when(event)
        if moment is None:
            continue
        tag = meaning(event)
        latest = max(latest, moment.at)
        settled = settled or tag in SETTLED
        yield parcel.scanned(account, "usps", tracking, f"{moment.key}:{parcel.code(event.event_code)}", moment.at, tag)
    if latest and not settled:
        nested = details.delivery_date_expectation
        yield from _estimate(account, tracking, latest, details.days() + (nested.days() if nested else []))


def meaning(event: Event) -> Tracking:
    words = event.event_type or ""
    tag = CODES.get(parcel.code(event.event_code)) or next(
        (tag for pattern, tag in WORDS if re.search(pattern, words, re.IGNORECASE)), Tracking.UNKNOWN
    )
    return Tracking.RETURNED if tag is Tracking.DELIVERED and TO_SENDER.search(words) else tag


def number(text: parcel.Word) -> str:
    """A tracking number as we keep it; "" for what is none. Domestic ones have 20 to 34 digits, international ones 13 characters."""
    found = re.sub(r"\s", "", str(text or "")).upper()
    return found if re.fullmatch(r"[0-9A-Z]{10,34}", found) else ""


def when(event: Event) -> parcel.Moment | None:
    """None for what cannot be read or lies outside of 2000 to 2099."""
    gmt, local, ahead = _instant(event.gmt_timestamp), _instant(event.event_timestamp), _ahead(event.gmt_offset)
    meant = local - ahead if local is not None and ahead is not None else gmt
    at = gmt + round((meant - gmt) / DAY_MS) * DAY_MS if gmt is not None and meant is not None else meant
    at, mark = (local, "L") if at is None else (at, "Z")
    if at is None or not AT_MIN <= at < AT_MAX:
        return None
    return parcel.Moment(at, f"{datetime.fromtimestamp(at // 1000, UTC):%Y%m%dT%H%M%S}{mark}")


def _estimate(account: Account, tracking: str, at: int, days: Iterable[str | None]) -> Iterator[FactWaiting]:
    day = next((found for found in map(_day, days) if found), None)
    if day:
        begins = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
        yield parcel.scanned(account, "usps", tracking, f"eta:{day:%Y%m%d}", at, Tracking.UNKNOWN, begins, begins + DAY_MS - 1)


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


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    """Nothing is pushed: no body has a topic."""
    return Envelope("", "")


# --- complaints
_CREDENTIALS = "USPS refuses our credentials: check client ID and secret (consumer key and secret of the app at USPS)"
_SCOPE = "USPS refuses our access token or its scope: check that the app at USPS has the tracking product, then client ID and secret"
_FAULT = "USPS has a fault of its own: it is tried again later"
_OURS = "USPS does not take the request: check the tracking number at the order"
_ADDRESS = "USPS does not take an address as it stands: correct it at the order, or in the account's origin"
_UNKNOWN_YET = "USPS has no tracking information of this number yet: nothing is wrong, it is asked again later"
_RATE = "USPS is asked too often: it is tried again later; if it lasts, ask less often or have USPS raise the quota"
KEY_NOT_FOUND, REPRINT_OF_CANCELLED = "160412", "160979"
EXACT = {  # codes that say more than the status above them
    KEY_NOT_FOUND: "USPS has no label under this key: none was bought, and it is asked for again",
    REPRINT_OF_CANCELLED: "the label was cancelled before: ask for a new one if the parcel is still to go",
    "-2147219283": _UNKNOWN_YET,  # these four are those of the API before this one
    "-2147219284": _UNKNOWN_YET,
    "-2147219301": _UNKNOWN_YET,
    "-2147219302": _UNKNOWN_YET,
}
COMPLAINTS: dict[str, str] = {
    **EXACT,
    "400": _OURS,
    "401": _SCOPE,
    "403": "USPS does not let our app ask this: have USPS add the API, and the mailer ID that the labels carry, to the app",
    "404": _UNKNOWN_YET,
    "429": _RATE,
    "QuotaViolation": _RATE,
    "SpikeArrestViolation": _RATE,
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
    "invalid_access_token": _SCOPE,
    "InvalidAccessToken": _SCOPE,
    "temporarily_unavailable": _FAULT,
    "server_error": _FAULT,
    "invalid_request": "USPS does not understand our request: report it to the developers",
    "unsupported_grant_type": "USPS does not understand our request: report it to the developers",
}


def complaint(body: bytes) -> str:
    """Of a list, where nothing in it is anything else."""
    try:
        told = parcel.many(msgspec.json.decode(body, type=Answers))
    except DECODING:
        return ""
    if not told or not all(map(_failed, told)):
        return ""
    failed = told[0]
    cause = failed.fault.detail.errorcode if failed.fault and failed.fault.detail else None
    codes: list[parcel.Word] = [failed.error.code if isinstance(failed.error, Refusal) else failed.error, (cause or "").rpartition(".")[2]]
    for wrong in _wrongs(failed):
        codes += [wrong.title, wrong.code, wrong.status]
    words = [code for code in map(_code, codes) if code]
    code = (
        next((code for code in words if code in EXACT), "")
        or next((code for code in words if code in COMPLAINTS), "")
        or next(iter(words), "")
    )
    named = f" (code {code})" if code else ""
    if code in ("400", "404") and re.search(r"\b(address|city|state code)\b", _said(failed)):
        return f"{_ADDRESS}{named}"
    return f"{COMPLAINTS.get(code, 'USPS refuses the request: its reference explains the code')}{named}"


def _failed(told: Failed) -> bool:
    return bool(told.error or told.errors or told.fault)


def _wrongs(told: Failed | None) -> list[Wrong]:
    """The errors of an answer, wrapped or not."""
    if told is None:
        return []
    return [*parcel.many(told.error.errors if isinstance(told.error, Refusal) else None), *parcel.many(told.errors)]


def _said(told: Failed | None) -> str:
    """All its words, small: what is wrong has a code of its own only rarely."""
    message = told.error.message if told and isinstance(told.error, Refusal) else None
    return " ".join([message or "", *(wrong.detail or "" for wrong in _wrongs(told))]).casefold()


def _code(text: parcel.Word) -> str:
    found = "" if text is None else str(text)
    return found if re.fullmatch(r"[0-9A-Za-z_-]{1,40}", found) else ""


# --- what we ask for
URL = "https://apis.usps.com"
JSON = (("Content-Type", "application/json"),)
LABEL_JSON = (*JSON, ("Accept", "application/vnd.usps.labels+json"))
CLASSES = {"standard": "USPS_GROUND_ADVANTAGE", "express": "PRIORITY_MAIL_EXPRESS"}
KNOWN_CLASSES = frozenset(
    {"USPS_GROUND_ADVANTAGE", "PRIORITY_MAIL", "PRIORITY_MAIL_EXPRESS", "PARCEL_SELECT", "MEDIA_MAIL", "LIBRARY_MAIL"}
)
NEAR = frozenset({"PR", "VI"})  # territories to which a parcel needs no customs form
STATES = frozenset(
    (
        *("AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN", "IA", "KS", "KY", "LA", "ME"),
        *("MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM", "NY", "NC", "ND", "OH", "OK", "OR", "PA", "RI"),
        *("SC", "SD", "TN", "TX", "UT", "VT", "VA", "WA", "WV", "WI", "WY"),
        *parcel.TERRITORIES,
        *parcel.MILITARY,
    )
)
HEAVIEST_G = 31_751  # 70 pounds
CUBIC_FOOT = 1728 * 100**3  # in cubed hundredths of an inch
LABEL_LIFE_S = 6 * 86_400  # "not found" speaks of a week: it is believed a day less
AGAIN = Ability("keyed", 28 * 86_400)  # asked twice it does no more than once
ENDED = ("CANCELED", "DISPUTED")  # what becomes of a label: DISPUTED is a refund asked for
PAYMENT_LIFE_S = 8 * 3600.0


def key(ask: Ask) -> str:
    """What a label of ours is found by: a UUID, as others use."""
    return str(uuid5(NAMESPACE_URL, f"orderflow:{ask.id}"))


# --- labels
def label(account: Account, ask: Ask) -> Request:
    data = parcel.asked(ask, parcel.Label)
    to = _address(data.to.address, "$.data.to.address")
    if to["state"] in (parcel.TERRITORIES - NEAR) | parcel.MILITARY:
        raise Unreadable("bounds", "$.data.to.address.region")
    home = account.origin
    body = {
        "imageInfo": {**_image(account), "receiptOption": "NONE"},
        "toAddress": {**_who(data.to.name, "$.data.to.name"), **to, **_phone(data.to.phone), "ignoreBadAddress": False},
        "fromAddress": {
            **_who(home.name, "account.origin.name"),
            **_address(home.address, "account.origin.address"),
            **_phone(home.phone),
            "ignoreBadAddress": False,
        },
        "packageDescription": _package(account, data, ask.at),
    }
    return Request("POST", _at(account, "/labels/v3/label"), (*LABEL_JSON, ("X-Idempotency-Key", key(ask))), msgspec.json.encode(body))


def _at(account: Account, path: str) -> str:
    return (account.url or URL) + path


def _named(ask: Ask) -> tuple[tuple[str, str], ...]:
    """Headers of what is harmless twice: its name is for whoever compares logs."""
    return (("Accept", "application/json"), ("X-Request-ID", ask.id))


def _address(address: Address, field: str) -> dict[str, str]:
    """Raises Unreadable for what is not in the US, or is no whole address there."""
    code = parcel.country(address, field)
    if code != "US" and code not in parcel.TERRITORIES:
        raise parcel.wrong("bounds", f"{field}.country")
    state = parcel.state("US", address.region).upper() if code == "US" else code
    if not state:
        raise parcel.wrong("schema", f"{field}.region")
    if state not in STATES:
        raise parcel.wrong("bounds", f"{field}.region")
    lines = parcel.street(address.lines, 50, 2, f"{field}.lines")
    zip5, zip4 = _zip(address.postcode, f"{field}.postcode")
    found = {"streetAddress": lines[0], "city": parcel.needed(address.city, 28, f"{field}.city"), "state": state, "ZIPCode": zip5}
    if lines[1:]:
        found["secondaryAddress"] = lines[1]
    if zip4:
        found["ZIPPlus4"] = zip4
    return found


def _zip(text: str, field: str) -> tuple[str, str]:
    whole = parcel.plain(text)
    if not whole:
        raise parcel.wrong("schema", field)
    found = re.fullmatch(r"([0-9]{5})(?:[- ]?([0-9]{4}))?", whole)
    if not found:
        raise parcel.wrong("bounds", field)
    return found.group(1), found.group(2) or ""


def _who(text: str, field: str) -> dict[str, str]:
    """First and last name; what has but one word is a firm."""
    whole = parcel.name(text, 100, field)
    first, _, last = whole.rpartition(" ")
    return {"firstName": first[:50].strip(), "lastName": last[:50]} if first else {"firm": whole[:50]}


def _phone(text: str) -> dict[str, str]:
    found = parcel.digits(text)
    return {"phone": found} if re.fullmatch(r"[0-9]{6,15}", found) else {}


def _image(account: Account) -> dict[str, str]:
    found = account.options.get("label_format", "PDF").upper()
    if found not in ("PDF", "ZPL203DPI"):
        raise parcel.Unset("account.options.label_format")
    return {"imageType": found, "labelType": "4X6LABEL"}


def _package(account: Account, data: parcel.Label, at: int) -> dict[str, Any]:
    """Raises Unset for what USPS does not carry: over 70 pounds, or 130 inches of length and girth."""
    service = "express" if data.service == "express" else "standard"
    mail = account.options.get(service, "") or CLASSES[service]
    if mail not in KNOWN_CLASSES:
        raise parcel.Unset(f"account.options.{service}")
    grams, size = parcel.weight(account, data, HEAVIEST_G), parcel.sides(account)
    pounds, (long, middle, short) = parcel.pounds(grams, 100), (parcel.inches(side, 100) for side in size)
    if long + 2 * (middle + short) > 130 * 100:
        raise parcel.Unset("account.origin.size_mm")
    machine = 600 <= long <= 2200 and 300 <= middle <= 1800 and 25 <= short <= 1500 and pounds <= 2500
    bulky = long * middle * short > CUBIC_FOOT
    return {
        "mailClass": mail,
        "rateIndicator": "PA" if mail == "PRIORITY_MAIL_EXPRESS" else "DR" if bulky else "SP",
        "processingCategory": "MACHINABLE" if machine else "NONSTANDARD",
        "destinationEntryFacilityType": "NONE",
        "weightUOM": "lb",
        "weight": pounds / 100,
        "dimensionsUOM": "in",
        "length": long / 100,
        "width": middle / 100,
        "height": short / 100,
        "mailingDate": _day_of(account, at),
        **_shown(data.number),
    }


def _shown(text: str) -> dict[str, Any]:
    shown = parcel.plain(text)[:30].strip()
    return {"customerReference": [{"referenceNumber": shown, "printReferenceNumber": True}]} if shown else {}


def _day_of(account: Account, at: int) -> str:
    if not AT_MIN <= at < AT_MAX:
        raise Unreadable("schema", "$.at")
    try:
        zone = ZoneInfo(account.options.get("time_zone", "America/New_York"))
    except (KeyError, ValueError, OSError):
        raise parcel.Unset("account.options.time_zone") from None
    return f"{datetime.fromtimestamp(at // 1000, zone):%Y-%m-%d}"


class Metadata(msgspec.Struct, rename="camel"):
    tracking_number: str | None = None


class Labelled(Metadata):
    """One document: its metadata on top, as the specification has it, or inside."""

    label_metadata: Metadata | None = None
    label_image: str | None = None


class Bought(Labelled):
    return_label_metadata: Metadata | None = None
    postage: Any = None


def bought(answer: Bought) -> str:
    """What is no label may have a tracking number too: that of a cancelled one has neither picture nor price."""
    inside = answer.label_metadata or answer.return_label_metadata
    if not inside and answer.label_image is None and answer.postage is None:
        raise Unreadable("schema", "$.labelMetadata")
    if not number((inside or answer).tracking_number or answer.tracking_number):
        raise Unreadable("schema", "$.labelMetadata.trackingNumber" if inside else "$.trackingNumber")
    return "a label was bought: it names no order, and whoever bought it links the tracking number"


def labelled(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status in (200, 201):
        return _bought(reply)
    return parcel.failed(reply, harmless=False, code=_by_word(reply))


def _bought(reply: Reply) -> Answer:
    """A label was bought: what it is. One that cannot be read is in doubt."""
    tracking, file = _in_parts(reply.body) if reply.body.lstrip()[:2] == b"--" else _in_one(reply.body)
    return Done(f"USPS {tracking}", file) if tracking and file else Unknown(Reason.DROPPED)


def _in_one(body: bytes) -> tuple[str, bytes]:
    found = parcel.answered(body, Labelled)
    if found is None:
        return "", b""
    inside = found.label_metadata.tracking_number if found.label_metadata else None
    return number(inside or found.tracking_number), parcel.image(found.label_image)


def _in_parts(body: bytes) -> tuple[str, bytes]:
    """The first tracking number and the first picture: what the parts are called is not to be relied on.

    A part counts when the boundary after it has arrived, so that half a picture is none.
    """
    boundary = body.lstrip().split(b"\n", 1)[0].strip()
    tracking, file = "", b""
    for piece in (b"\n" + body.lstrip()).split(b"\n" + boundary)[1:-1]:
        content = piece.replace(b"\r\n", b"\n").lstrip(b"\n").partition(b"\n\n")[2]
        if found := parcel.answered(content, Metadata):
            tracking = tracking or number(found.tracking_number)
        else:
            file = file or parcel.image(content)
    return tracking, file


def _by_word(reply: Reply) -> Answer | None:
    """Which part of a label's request is wrong: USPS names it in `source`, its codes are not published."""
    for wrong in _wrongs(parcel.answered(reply.body, Failed)):
        place = (wrong.source.parameter if isinstance(wrong.source, Source) else wrong.source) or ""
        if "toAddress" in place:
            return Refused(Reason.RECIPIENT)
        if re.search("fromAddress|senderAddress|Payment-Authorization", place):
            return TryLater(Reason.CONFIGURATION)
    return None


def reprint(account: Account, ask: Ask) -> Request:
    body = msgspec.json.encode({"imageInfo": _image(account)})
    return Request("POST", _at(account, "/labels/v3/label-reprint"), (*LABEL_JSON, ("X-Idempotency-Key", key(ask))), body)


def reprinted(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status in (200, 201):
        return _bought(reply)
    codes = {str(wrong.code) for wrong in _wrongs(parcel.answered(reply.body, Failed))}
    if reply.status == 400 and KEY_NOT_FOUND in codes:
        return TryLater(Reason.NOT_FOUND)
    if reply.status == 400 and REPRINT_OF_CANCELLED in codes:
        return Refused(Reason.GONE)
    return parcel.failed(reply, harmless=False)


def cancel(account: Account, ask: Ask) -> Request:
    tracking = number(parcel.asked(ask, parcel.Void).tracking)
    if not tracking:
        raise Unreadable("schema", "$.data.tracking")
    return Request("DELETE", _at(account, f"/labels/v3/label/{tracking}"), _named(ask))


class Cancelled(msgspec.Struct):
    status: str | None = None


def gone(answer: Cancelled) -> str:
    if answer.status not in ENDED:
        raise Unreadable("schema", "$.status")
    return "a label was cancelled or its refund asked for: its parcel will not move, nothing of an order changes by it"


def cancelled(account: Account, ask: Ask, reply: Reply) -> Answer:
    """Refusals have no code of their own, only words."""
    done = Done(f"USPS {number(parcel.asked(ask, parcel.Void).tracking)}")
    if reply.status == 200:
        found = parcel.answered(reply.body, Cancelled)
        return done if found and found.status in ENDED else TryLater(Reason.PROVIDER)
    words = _said(parcel.answered(reply.body, Failed))
    if reply.status == 400 and re.search(r"already been (submitted|cancell?ed)", words):
        return done
    if reply.status == 400 and re.search(r"not found|cannot be submitted", words):
        return Refused(Reason.GONE)
    return parcel.failed(reply, harmless=True)


# --- addresses
def check(account: Account, ask: Ask) -> Request:
    address = _address(parcel.asked(ask, parcel.Check).to.address, "$.data.to.address")
    return Request("GET", _at(account, f"/addresses/v3/address?{urlencode(address)}"), _named(ask))


class Additional(msgspec.Struct):
    confirmation: str | None = msgspec.field(default=None, name="DPVConfirmation")


class Standardised(msgspec.Struct, rename="camel"):
    address: dict[str, msgspec.Raw]
    additional_info: Additional | None = None


def checked(account: Account, ask: Ask, reply: Reply) -> Answer:
    """Its reference is "valid", "ambiguous" (a flat is missing, or unknown in a known house) or "unknown": nothing of the address."""
    if reply.status == 200:
        found = parcel.answered(reply.body, Standardised)
        if found is None:
            return TryLater(Reason.PROVIDER)
        word = found.additional_info.confirmation if found.additional_info else None
        return Done({"Y": "valid", "D": "ambiguous", "S": "ambiguous"}.get(word or "", "unknown"))
    said = _said(parcel.answered(reply.body, Failed))
    if reply.status in (400, 404) and "more than one address" in said:
        return Done("ambiguous")
    if reply.status in (400, 404) and re.search("not found|no match|(address|city|state).*(insufficient|invalid|unverifiable)", said):
        return Done("unknown")
    return parcel.failed(reply, harmless=True)


# --- tracking
def track(account: Account, value: str, cursor: str) -> Request:
    tracking = number(value)
    if not tracking:
        raise Unreadable("schema", "tracking")
    return Request("GET", _at(account, f"/tracking/v3/tracking/{tracking}?expand=DETAIL"), (("Accept", "application/json"),))


# --- credentials
def ask_for_token(account: Account) -> Request:
    body = {
        "client_id": parcel.credential(account, "client_id"),
        "client_secret": parcel.credential(account, "client_secret"),
        "grant_type": "client_credentials",
    }
    return Request("POST", _at(account, "/oauth2/v3/token"), JSON, msgspec.json.encode(body))


def bearer(account: Account, token: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {token}"),)


def ask_for_payment(account: Account) -> Request:
    owner = {name: parcel.option(account, option) for name, option in (("CRID", "crid"), ("MID", "mid"), ("manifestMID", "manifest_mid"))}
    payer = {
        "roleName": "PAYER",
        **owner,
        "accountType": account.options.get("account_type", "EPS"),
        "accountNumber": parcel.option(account, "account_number"),
    }
    body = msgspec.json.encode({"roles": [payer, {"roleName": "LABEL_OWNER", **owner}]})
    return Request("POST", _at(account, "/payments/v3/payment-authorization"), JSON, body)


class Payment(msgspec.Struct, rename="camel"):
    payment_authorization_token: str = ""


def payment(reply: Reply) -> tuple[str, float]:
    found = parcel.answered(reply.body, Payment)
    if found is None or not found.payment_authorization_token:
        raise Unreadable("schema", "$.paymentAuthorizationToken")
    return found.payment_authorization_token, PAYMENT_LIFE_S


def paid(account: Account, token: str) -> tuple[tuple[str, str], ...]:
    return (("X-Payment-Authorization-Token", token),)


PAYMENT = Login(paid, ask_for_payment, payment)
BOUGHT, GONE = parcel.done(Bought, bought), parcel.done(Cancelled, gone)


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
        "tracking": Topic(list[Details] | Details, tracked),
        "shipment": BOUGHT,  # by each of the words that people have for it
        "label": BOUGHT,
        "cancel": GONE,
        "void": GONE,
        "address": parcel.done(Standardised, lambda answer: "an address was checked: nothing of an order changes by it"),
    },
    url=URL,
    questions={"tracking": Question("tracking", track, lambda reply: "")},
    actions={
        "carrier.label": Action(Ability("lookup", LABEL_LIFE_S), label, labelled, reprint, reprinted, login=PAYMENT),
        "carrier.void": Action(AGAIN, cancel, cancelled, login=PAYMENT),
        "address.check": Action(AGAIN, check, checked),
    },
    login=Login(bearer, ask_for_token, parcel.token),
    complaint=complaint,
)
