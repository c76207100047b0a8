"""A warehouse: its own system that pushes to us in our words, or DHL Supply Chain's WMS API, which is polled.

Pushed: Standard Webhooks (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`), body
`{"type": ..., "timestamp": <ISO 8601, when it happened>, "data": {...}}`:

    stock.level    {"levels": [{"sku", "on_hand", "location"?, "lot"?, "version"?}]}
    order.picked   {"order", "location"?, "pick"?, "short"?: [{"line", "quantity"}]}
    order.packed   {"order", "parcel", "lines"?: [{"line", "quantity"}], "carrier"?, "tracking"?}
    order.shipped  the same: the carrier has it

`order` and `line` are the shop's IDs, `pick` and `parcel` the warehouse's; `lines` left out are the whole order, and are told
again when it ships. `location` left out is the account's. A pick that is told in parts has an ID for each part. What is kept in
lots is told with all of them at once, and they are added up. A quantity may be told as 5, 5.0 or "5": stock is counted in whole
pieces, and half of one is refused. A `timestamp` without an offset is UTC.

A parcel is called by its tracking number as soon as there is one, as its carrier will call it: a report with the number is a
newer version of the one without, and shipping says again what was packed. Packed with a number it has its label.

Polled: DHL's lists of orders have a status and no times, its single orders have the time of shipping. What has no time counts
from when we first saw it. The specification leaves statuses to the system behind a facility and names a few in examples; of
those known the table below has what each implies, and others say nothing. An order is one parcel under its own number: the
API knows of no tracking numbers, and its line numbers are not the shop's. An order cancelled there is not cancelled by that.

On hand is what lies there and may be sold: the total less what is blocked or in quarantine, of stock that is neither damaged
nor held; where the system behind tells no total, its available quantity. What is promised to orders is still on hand: taking
reservations off is our stock lane's business. One account is one facility, called by the account's location.

Done for us, by the same API: a pick is an outbound order under the shop's number, and is cancelled as such. The API knows no keys, so
an order is looked up by its number before it is asked for again; one that is there already is taken for ours. Options: `facility`
and `customer` as DHL calls them, `service_express` and the like where a service of ours has a name of theirs. A warehouse without
that API is told by the signed webhook.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, Any, Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec

from connectors.base import Ability, Answer, Done, Reason, Refused, TryLater, Unknown
from connectors.delivery import DECODING, Ignored, Record, Unreadable, stumbled
from connectors.http import Reply, Request, decode
from connectors.signature import StandardWebhooks
from connectors.vendor import Account, Action, Ask, Envelope, Guide, Login, Question, Topic, Vendor, ms, order_id, within
from orders.bounds import violation
from orders.fact import AT_MAX, AnyFact, ItemsPicked, ParcelPacked, ParcelScanned, Person, Quantity, Tracking
from orders.request import ReferenceLinked, StockLevelReported

MOST = 1_000_000_000  # of one item in one place; below zero is a count gone wrong, and is said as such

Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\S", max_length=255)]
Own: TypeAlias = Id | int  # an ID that may be a number
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=255)]
Whole: TypeAlias = (
    int | Annotated[float, msgspec.Meta(multiple_of=1)] | Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,12}(\.0{1,6})?$", max_length=20)]
)


# --- what is pushed
class Head(msgspec.Struct):
    type: Id


class Level(msgspec.Struct):
    sku: Own
    on_hand: Whole
    location: Text | None = None
    lot: Own | None = None
    version: int | None = None


class Levels(msgspec.Struct):
    levels: list[Level]


class Some(msgspec.Struct):
    line: Own
    quantity: Whole


class Picked(msgspec.Struct):
    order: Own
    location: Text | None = None
    pick: Own | None = None
    short: list[Some] | None = None


class Packed(msgspec.Struct):
    order: Own
    parcel: Own
    lines: list[Some] | None = None
    carrier: Text | None = None
    tracking: Text | int | None = None


T = TypeVar("T")


class Message(msgspec.Struct, Generic[T]):
    timestamp: str
    data: T


_head = msgspec.json.Decoder(Head).decode


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    try:
        return Envelope(_head(body).type, headers.get("webhook-id", ""))
    except DECODING as error:
        raise stumbled(error) from None


def stock_level(account: Account, levels: Levels, at: int) -> Iterator[Record]:
    """Of one lot told twice the greater version counts, or the later word. A sum of lots has no version: its time says what is newer."""
    told: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for level in levels.levels:
        lots = told.setdefault((str(level.sku), level.location or account.location), {})
        lot, version = "" if level.lot is None else str(level.lot), level.version or 0
        if lot not in lots or version >= lots[lot][0]:
            lots[lot] = version, _whole(level.on_hand)
    for (sku, location), lots in told.items():
        yield _level(account, sku, location, sum(n for _, n in lots.values()), at, lots[""][0] if lots.keys() == {""} else 0)


def order_picked(account: Account, picked: Picked, at: int) -> Iterator[Record]:
    about = _about(account, picked.order, str(picked.order if picked.pick is None else picked.pick), at)
    short = tuple(some for some in _quantities(picked.short) if some.quantity)
    yield _sound(ItemsPicked(**about, location=picked.location or account.location, short=short))


def order_packed(account: Account, packed: Packed, at: int) -> Iterator[Record]:
    tracking = _tracking(packed.tracking)
    if tracking:  # told first: nobody is to buy a label for what has one
        yield _scan(account, packed, tracking, "labelled", Tracking.LABEL_CREATED, at)
    yield from _parcel(account, packed, tracking, at, itself=True)


def order_shipped(account: Account, shipped: Packed, at: int) -> Iterator[Record]:
    tracking = _tracking(shipped.tracking)
    yield from _parcel(account, shipped, tracking, at, itself=False)
    yield _scan(account, shipped, tracking, "shipped", Tracking.IN_TRANSIT, at)


def _scan(account: Account, packed: Packed, tracking: str, what: str, tag: Tracking, at: int) -> Record:
    return _sound(
        ParcelScanned(
            **_about(account, packed.order, f"{packed.parcel}:{what}", at),
            parcel=tracking or str(packed.parcel),
            tag=tag,
            carrier=packed.carrier or "",
            tracking=tracking,
            lines=_quantities(packed.lines),
        )
    )


def _parcel(account: Account, packed: Packed, tracking: str, at: int, itself: bool) -> Iterator[Record]:
    """What names the tracking number outranks what does not; of two that do, the packing itself knows when it was."""
    about = _about(account, packed.order, str(packed.parcel), at)
    version = 2 * bool(tracking) + itself
    yield _sound(ParcelPacked(**about, version=version, parcel=tracking or str(packed.parcel), lines=_quantities(packed.lines)))
    if tracking:
        yield ReferenceLinked(kind="tracking", value=tracking, order=about["order"], since=at, at=at)


def _about(account: Account, order: int | str, object: str, at: int) -> dict[str, Any]:
    return {"order": order_id(account, order), "system": account.source, "object": object, "at": at, "authority": account.authority}


def _sound(fact: AnyFact) -> AnyFact:
    if problem := violation(fact):
        raise Unreadable(*problem)
    return fact


def _quantities(some: list[Some] | None) -> tuple[Quantity, ...]:
    """Each line once: what is picked from two lots is told as two of them."""
    found: Counter[str] = Counter()
    for one in some or ():
        found[str(one.line)] += _whole(one.quantity)
    return tuple(Quantity(line=line, quantity=quantity) for line, quantity in found.items())


def _whole(told: float | str) -> int:
    return int(Decimal(told))


def _tracking(text: str | int | None) -> str:
    """As the carrier writes it."""
    return "".join(str(text or "").split()).upper()


def _level(account: Account, sku: str, location: str | None, on_hand: int, at: int, version: int = 0) -> StockLevelReported:
    if abs(on_hand) > MOST or not 0 <= version < AT_MAX:
        raise Unreadable("bounds", "on_hand" if abs(on_hand) > MOST else "version")
    return StockLevelReported(
        sku=sku, location=location or account.location, on_hand=on_hand, system=account.source, version=version, at=at
    )


# --- what DHL answers
class Stage(IntEnum):
    """How far an order is; each implies those before it."""

    PICKED = 1
    PACKED = 2
    SHIPPED = 3


STAGES = {
    "picked": Stage.PICKED,
    "picking complete": Stage.PICKED,
    "picking completed": Stage.PICKED,
    "packed": Stage.PACKED,
    "packing complete": Stage.PACKED,
    "packing completed": Stage.PACKED,
    "weighed": Stage.PACKED,
    "manifested": Stage.PACKED,
    "staged": Stage.PACKED,
    "loaded": Stage.PACKED,
    "shipped": Stage.SHIPPED,
}


class Listed(msgspec.Struct, rename="camel"):
    order_number: Text | int | None = None
    order_status: str | None = None
    actual_shipment_date: str | int | None = None  # yyyymmddhhmmss; the specification's examples have it as a number too
    carrier_name: Text | None = None
    cancelled_flag: bool | None = None


class Orders(msgspec.Struct, rename="camel"):
    order_number_list: list[Listed]


class Removed(msgspec.Struct):
    """The answer to a cancellation."""

    status: str
    detail: str


class Stock(msgspec.Struct, rename="camel"):
    item_number: Text | None = None  # a summary has it once, above its lines
    inventory_status: str | None = None
    available_quantity: Whole | None = None
    blocked_quantity: Whole | None = None
    quarantine_quantity: Whole | None = None
    total_stock_on_hand_quantity: Whole | None = None


class Inventory(msgspec.Struct):
    item: Text | None = msgspec.field(name="itemNumber", default=None)
    summary: list[Stock] | None = msgspec.field(name="InventorySummaryLines", default=None)
    detail: list[Stock] | None = msgspec.field(name="InventoryDetailLines", default=None)


SELLABLE = frozenset({"available", "release"})


def orders(account: Account, listing: Orders, at: int) -> Iterator[Record]:
    for listed in listing.order_number_list:
        yield from order(account, listed, at)


def single(account: Account, listed: Listed, at: int) -> Iterator[Record]:
    if not listed.order_number:
        raise Unreadable("schema", "$.orderNumber")
    return order(account, listed, at)


def order(account: Account, listed: Listed, at: int) -> Iterator[Record]:
    number = str(listed.order_number or "")
    stage = STAGES.get(" ".join((listed.order_status or "").lower().split()), 0)
    if not number or not stage or listed.cancelled_flag:
        return
    shipped_at = _when(listed.actual_shipment_date) if stage == Stage.SHIPPED and listed.actual_shipment_date else 0
    seen = min(at, shipped_at or at)
    first = AT_MAX - seen  # as a version: the first sight is nearest to when it happened
    yield _sound(ItemsPicked(**_about(account, number, number, seen), version=first, location=account.location))
    if stage >= Stage.PACKED:
        yield _sound(ParcelPacked(**_about(account, number, number, seen), version=first, parcel=number))
    if stage == Stage.SHIPPED:
        scan = ParcelScanned(
            **_about(account, number, f"{number}:shipped", seen),
            version=AT_MAX if shipped_at else first,  # what the warehouse says is better than any sight
            parcel=number,
            tag=Tracking.IN_TRANSIT,
            carrier=listed.carrier_name or "",
        )
        yield _sound(scan)


def _when(date: str | int) -> int:
    text = str(date)
    if not re.fullmatch(r"[0-9]{14}", text):
        raise Unreadable("schema", "$.actualShipmentDate")
    try:
        time = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise Unreadable("schema", "$.actualShipmentDate") from None
    return within(int(time.timestamp()) * 1000, "$.actualShipmentDate")


def inventory(account: Account, found: Inventory, at: int) -> Iterator[Record]:
    lines = found.summary if found.summary is not None else found.detail
    if lines is None:
        raise Unreadable("schema", "$.InventorySummaryLines")
    levels = Counter({found.item: 0} if found.item else {})  # asked for by its number, and nothing of it lies there
    for line in lines:
        if sku := line.item_number or found.item:
            levels[sku] += _on_hand(line)  # one that is not to be sold still says that there is none
    for sku, on_hand in levels.items():
        yield _level(account, sku, None, on_hand, at)


def _on_hand(line: Stock) -> int:
    if line.inventory_status and line.inventory_status.strip().casefold() not in SELLABLE:
        return 0
    if line.total_stock_on_hand_quantity is None:
        return _whole(line.available_quantity or 0)
    return _whole(line.total_stock_on_hand_quantity) - _whole(line.blocked_quantity or 0) - _whole(line.quarantine_quantity or 0)


# --- what it does for us
URL = "https://dsc.api.dhl.com/dhllink/wms/v2"
LOOKUP = Ability("lookup")
LISTED = 50  # orders that a list gives at most


class Item(msgspec.Struct):
    line: str
    sku: Id
    quantity: int


class Picking(msgspec.Struct):
    placed: int  # when the order was, ms
    lines: list[Item]
    to: Person
    number: str = ""
    service: str = ""


class Found(msgspec.Struct, rename="camel"):
    order_number: str | None = None
    cancelled_flag: bool | None = None


def headers(account: Account, token: str) -> tuple[tuple[str, str], ...]:
    user, password = (account.credentials[name].reveal() for name in ("user", "password"))
    return (("Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode()),)


def pick(account: Account, ask: Ask) -> Request:
    its = _asked(ask)
    where = _contact(its.to)
    body: dict[str, Any] = {
        **_whose(account),
        "orderNumber": _number(ask),
        "orderType": "CustomerOrder",
        "orderDate": datetime.fromtimestamp(its.placed / 1000, UTC).strftime("%Y%m%d%H%M%S"),
        "customerPurchaseOrderNumber": its.number,
        "shipTo": where,
        "billTo": where,
        "orderLines": [
            {
                "lineNumber": number,
                "itemNumber": item.sku,
                "orderedQuantity": item.quantity,
                "unitOfMeasure": "EA",
                "inventoryStatus": "Available",
            }
            for number, item in enumerate(its.lines, start=1)
        ],
    }
    if level := account.options.get(f"service_{its.service}"):
        body["carrierServiceLevel"] = level
    return Request("POST", f"{account.url or URL}/order", (("Content-Type", "application/json"),), msgspec.json.encode(body))


def picked(account: Account, ask: Ask, reply: Reply) -> Answer:
    return Done(_number(ask)) if reply.status in (200, 201, 409) else _declined(reply)  # 409: it is there already


def cancel(account: Account, ask: Ask) -> Request:
    return Request("DELETE", _order(account, _number(ask)))


def cancelled(account: Account, ask: Ask, reply: Reply) -> Answer:
    if reply.status in (404, 409):
        return Refused(Reason.GONE)  # unknown there, or too far: somebody has to look
    return Done(_number(ask)) if reply.status == 200 else _declined(reply)


def look(account: Account, ask: Ask) -> Request:
    return Request("GET", _order(account, _number(ask)))


def pick_found(account: Account, ask: Ask, reply: Reply) -> Answer:
    found = _found(ask, reply)
    return Done(_number(ask)) if isinstance(found, Found) else found


def cancel_found(account: Account, ask: Ask, reply: Reply) -> Answer:
    found = _found(ask, reply)
    if isinstance(found, Found):
        return Done(_number(ask)) if found.cancelled_flag else TryLater(Reason.NOT_FOUND)
    return Done(_number(ask)) if found == TryLater(Reason.NOT_FOUND) else found


def _found(ask: Ask, reply: Reply) -> Found | Answer:
    """The order as it lies there. That it does not is certain only where the warehouse's system itself says so."""
    if reply.status == 404 and decode(reply.body, Problem) is not None:
        return TryLater(Reason.NOT_FOUND)
    if reply.status != 200:
        return Unknown(Reason.GATEWAY) if reply.status in (404, 500, 502, 504) else _declined(reply)
    found = decode(reply.body, Found)
    return found if found is not None and found.order_number == _number(ask) else Unknown(Reason.GATEWAY)


def _asked(ask: Ask) -> Picking:
    try:
        its = msgspec.json.decode(ask.data, type=Picking)
    except DECODING as error:
        raise stumbled(error) from None
    if not its.lines:
        raise Unreadable("schema", "data.lines")
    if any(not 0 < item.quantity <= MOST for item in its.lines):
        raise Unreadable("bounds", "data.lines.quantity")
    within(its.placed, "data.placed")
    return its


def _number(ask: Ask) -> str:
    """The order as the shop calls it: so what is read of it is of the same order."""
    return ask.order.partition(":")[2]


def _whose(account: Account) -> dict[str, str]:
    return {"facilityId": account.options["facility"], "customerId": account.options["customer"]}


def _order(account: Account, number: str) -> str:
    return f"{account.url or URL}/order?{urlencode({**_whose(account), 'orderNumber': number})}"


def _contact(to: Person) -> dict[str, str]:
    a = to.address
    found = dict(zip(("addressLine1", "addressLine2", "addressLine3"), a.lines, strict=False))
    needed = {"addressLine1": found.get("addressLine1", ""), "postCode": a.postcode, "city": a.city, "countryCode": a.country}
    if missing := next((name for name, value in needed.items() if not value), ""):
        raise Unreadable("schema", f"data.to.address: {missing}")
    more = {"addressType": "CST", "state": a.region, "name": to.name, "phoneNumber": to.phone, "email": to.email}
    return {name: value for name, value in {**found, **needed, **more}.items() if value}


def _declined(reply: Reply) -> Answer:
    told = decode(reply.body, Problem) is not None
    match reply.status:
        case 401:
            return TryLater(Reason.CREDENTIALS)
        case 429:
            return TryLater(Reason.RATE, reply.retry_after_s)
        case 503 if told:
            return TryLater(Reason.PROVIDER, reply.retry_after_s)
        case status if status >= 500 or status == 200:
            return Unknown(Reason.GATEWAY)
        case 400 | 422 if told:
            return Refused(Reason.CONTENT)
        case 413:
            return Refused(Reason.TOO_LARGE)
        case _:
            return TryLater(
                Reason.CONFIGURATION
            )  # 403: facility, customer and user do not belong together; 404, 405: the address is not the API's


# --- what it is asked
class Listing(msgspec.Struct, rename="camel"):
    order_number_list: list[msgspec.Raw]
    total_order_count: int = 0
    offset: int = 0


def _listing(account: Account, value: str, cursor: str) -> Request:
    query = {**_whose(account), "offset": cursor or "0", "limit": str(LISTED)}
    return Request("GET", f"{account.url or URL}/order/list?{urlencode(query)}")


def _following(reply: Reply) -> str:
    page = decode(reply.body, Listing)
    if page is None or not page.order_number_list:
        return ""
    end = page.offset + len(page.order_number_list)
    return str(end) if end < page.total_order_count else ""


def _stock(account: Account, value: str, cursor: str) -> Request:
    return Request("GET", f"{account.url or URL}/inventory/summary?{urlencode({**_whose(account), 'itemNumber': value})}")


# --- errors
class Problem(msgspec.Struct):
    title: str
    detail: str
    status: int | None = None


_problem = msgspec.json.Decoder(Problem).decode

STATUS = {
    400: "did not understand the request: check facility, customer and item or order number",
    401: "refuses our user: check name and password in the account's configuration",
    403: "refuses our user: check that it may use this facility, customer and kind of message",
    404: "knows no such order or item: check its number, and that facility and customer are the right ones",
    409: "has it already, or in a state that forbids this: look at the order in the warehouse's own system",
    429: "asks us to slow down: it is tried again later",
    503: "is not available: it is tried again later",
}


def complaint(body: bytes) -> str:
    try:
        status = _problem(body).status
    except DECODING:
        return ""
    if status is None:
        return "The warehouse's system answers with an error of no number: look at its log at the time of the request"
    what = STATUS[503] if status >= 500 else STATUS.get(status, "refuses the request: ask whoever runs it what its number means")
    return f"The warehouse's system {what} (status {status})"


Reading: TypeAlias = Callable[[Account, Any, int], Iterable[Record]]  # account, what is said, when it happened


def _pushed(kind: Any, read: Reading) -> Topic:
    return Topic(Message[kind], lambda account, message, received: read(account, message.data, ms(message.timestamp, "$.timestamp")))


def _fetched(kind: Any, read: Reading, nothing: str) -> Topic:
    def found(account: Account, answer: Any, received: int) -> list[Record]:
        records = list(read(account, answer, received))
        if not records:
            raise Ignored(nothing)
        return records

    return Topic(kind, found)


VENDOR = Vendor(
    name="wms",
    guide=Guide(
        title="your warehouse",
        where="wherever your warehouse's system sends its events; they are signed after Standard Webhooks",
        signed_with="choose one: whsec_ and at least 24 random bytes in base64",
    ),
    kind="warehouse",
    scheme=StandardWebhooks(),
    envelope=envelope,
    topics={
        "stock.level": _pushed(Levels, stock_level),
        "order.picked": _pushed(Picked, order_picked),
        "order.packed": _pushed(Packed, order_packed),
        "order.shipped": _pushed(Packed, order_shipped),
    },
    ignored={"order.cancelled": "an order cancelled in the warehouse is not cancelled by that: the shop says so"},
    answers={
        "orders": _fetched(Orders, orders, "none of these orders is picked, packed or shipped"),
        "order": _fetched(Listed, single, "the order is not picked, packed or shipped"),
        "inventory": _fetched(Inventory, inventory, "no item lies there"),
        "cancel": _fetched(
            Removed, lambda account, answer, at: (), "the warehouse cancelled its order: the shop's is not cancelled by that"
        ),
    },
    url=URL,
    questions={
        "orders": Question("orders", _listing, _following),
        "order": Question("order", lambda account, value, cursor: Request("GET", _order(account, value)), lambda reply: ""),
        "inventory": Question("inventory", _stock, lambda reply: ""),
    },
    actions={
        "warehouse.pick": Action(LOOKUP, pick, picked, look, pick_found),
        "warehouse.cancel": Action(LOOKUP, cancel, cancelled, look, cancel_found),
    },
    login=Login(headers),
    complaint=complaint,
)
