"""A shop, a gateway, a carrier and a warehouse that do not exist, and the server that answers for all of them, or misbehaves.

What they push and what they answer tells the same things by the same IDs, as real ones do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from connectors.base import Secret
from connectors.client import Client
from connectors.delivery import Delivery, Record, Unreadable
from connectors.http import Reply, Request
from connectors.signature import BodyHmac
from connectors.vendor import Account, Envelope, Login, Question, Topic, Vendor, order_id, waiting
from orders.fact import Line, OrderPlaced, ParcelScanned, PaymentCaptured, PaymentRefunded, Tracking
from orders.request import ReferenceLinked, StockLevelReported

PAGE = 2  # things on a page of the server's
TOKEN_LIFE_S = 600.0


class Sold(msgspec.Struct):
    id: str
    at: int
    total: int = 1000


class Paid(msgspec.Struct):
    id: str
    order: str
    at: int
    amount: int
    refund: int = 0
    refunded_at: int = 0


class Scan(msgspec.Struct):
    at: int
    tag: str


class Moved(msgspec.Struct):
    tracking: str
    scans: list[Scan]
    order: str = ""


class Counted(msgspec.Struct):
    sku: str
    on_hand: int


class Listing(msgspec.Struct):
    sold: list[Sold] = []
    paid: list[Paid] = []
    counted: list[Counted] = []
    next: str = ""


class More(msgspec.Struct):
    next: str = ""


def sold(account: Account, its: Sold, at: int) -> Iterable[Record]:
    line = Line(line="1", sku="mug", quantity=1, price=its.total)
    yield OrderPlaced(
        order=order_id(account, its.id), system=account.source, object=its.id, at=its.at, number=its.id, customer="lumi:c1", currency="EUR",
        total=its.total, lines=(line,), not_applicable=("address", "stock", "fraud"),
    )  # fmt: skip


def paid(account: Account, its: Paid, at: int) -> Iterable[Record]:
    about = {"order": "", "system": account.source, "currency": "EUR"}
    yield ReferenceLinked(at=its.at, kind="payment", value=its.id, order=order_id(account, its.order), since=its.at)
    yield waiting(PaymentCaptured(**about, object=its.id, at=its.at, amount=its.amount, version=its.amount), "payment", its.id)
    if its.refund:
        yield waiting(PaymentRefunded(**about, object=f"{its.id}-r", at=its.refunded_at, amount=its.refund), "payment", its.id)


def moved(account: Account, its: Moved, at: int) -> Iterable[Record]:
    if its.order:
        yield ReferenceLinked(at=its.scans[0].at, kind="tracking", value=its.tracking, order=order_id(account, its.order), since=1)
    for scan in its.scans:
        fact = ParcelScanned(
            order="", system=account.source, object=f"{its.tracking}:{scan.at}:{scan.tag}", at=scan.at, parcel=its.tracking,
            tag=Tracking(scan.tag), carrier="TOYPOST", tracking=its.tracking,
        )  # fmt: skip
        yield waiting(fact, "tracking", its.tracking)


def counted(account: Account, its: Counted, at: int) -> Iterable[Record]:
    yield StockLevelReported(at=at, sku=its.sku, location=account.location, on_hand=its.on_hand, system=account.source)


def each(name: str, read: Callable[[Account, Any, int], Iterable[Record]]) -> Topic:
    return Topic(Listing, lambda account, listing, at: (record for its in getattr(listing, name) for record in read(account, its, at)))


def envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    return Envelope(headers.get("x-toy-topic", ""), "")


def asking(path: str) -> Callable[[Account, str, str], Request]:
    return lambda account, value, cursor: Request("GET", f"{account.url}/{path}?value={value}&cursor={cursor}")


def following(reply: Reply) -> str:
    return msgspec.json.decode(reply.body, type=More).next


def granted(reply: Reply) -> tuple[str, float]:
    token = json.loads(reply.body).get("token", "")
    if not token:
        raise Unreadable("schema", "token")
    return token, TOKEN_LIFE_S


LOGIN = Login(
    headers=lambda account, token: (("authorization", f"Bearer {token}"),),
    render=lambda account: Request("POST", f"{account.url}/token", (), account.credentials["secret"].reveal().encode()),
    token=granted,
)


def complaint(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    return f"The toy says: {said['complaint']}" if isinstance(said, dict) and "complaint" in said else ""


def vendor(name: str, kind: Any, topic: Topic, question: str, path: str, pushes: bool = True) -> Vendor:
    return Vendor(
        name=name,
        kind=kind,
        scheme=BodyHmac("x-toy-signature") if pushes else None,
        envelope=envelope,
        topics={"told": topic},
        answers={"listing": topic},
        questions={question: Question("listing", asking(path), following if path != "parcel" else lambda reply: "")},
        login=LOGIN,
        pace_per_s=1000.0,
        complaint=complaint,
    )


SHOP = vendor("toyshop", "shop", each("sold", sold), "orders_since", "sold")
GATEWAY = vendor("toypay", "payments", each("paid", paid), "payment_intents", "paid")
CARRIER = vendor("toypost", "carrier", Topic(Moved, moved), "tracking", "parcel", pushes=False)
WAREHOUSE = vendor("toystore", "warehouse", each("counted", counted), "orders", "counted", pushes=False)
SHELVES = msgspec.structs.replace(
    WAREHOUSE, questions={**WAREHOUSE.questions, "inventory": Question("listing", asking("level"), lambda reply: "")}
)  # can be asked for each SKU too
VENDORS = (SHOP, GATEWAY, CARRIER, WAREHOUSE)


class Stub:
    """One server for all toys. `raw` may answer a request with bytes of its own, or None."""

    def __init__(self) -> None:
        self.things: dict[str, list[dict[str, Any]]] = {"sold": [], "paid": [], "counted": []}
        self.parcels: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []  # paths with their queries
        self.tokens = 0
        self.valid: set[str] = set()
        self.raw: Callable[[str], bytes | None] = lambda path: None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            self.asked.append(target)
            answer = self.raw(target) or self.answer(method, target, head)
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def answer(self, method: str, target: str, head: str) -> bytes:
        if method == "POST":
            self.tokens += 1
            self.valid.add(f"t{self.tokens}")
            return ok({"token": f"t{self.tokens}"})
        if not any(f"Bearer {token}\r" in head for token in self.valid):
            return http(401, b"{}")
        parts = urlsplit(target)
        name, query = parts.path.strip("/").split("/")[-1], parse_qs(parts.query)
        value, cursor = query.get("value", [""])[0], int(query.get("cursor", ["0"])[0])
        if name == "parcel":
            return ok(self.parcels[value]) if value in self.parcels else http(404, b'{"complaint": "no such parcel"}')
        if name == "level":
            there = [thing for thing in self.things["counted"] if thing["sku"] == value]
            return ok({"counted": there}) if there else http(404, b"{}")
        things = [thing for thing in self.things[name] if thing.get("at", 1 << 62) >= int(value)]
        more = str(cursor + PAGE) if cursor + PAGE < len(things) else ""
        return ok({name: things[cursor : cursor + PAGE], "next": more})

    def paths(self) -> list[str]:
        return [urlsplit(target).path for target in self.asked]


def http(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body) if length is None else length}", "connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def ok(answer: Any) -> bytes:
    return http(200, json.dumps(answer).encode())


@asynccontextmanager
async def stub() -> AsyncIterator[Stub]:
    made = Stub()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


def account(vendor: Vendor, url: str, secret: str = "of-the-toy") -> Account:
    return Account(source=f"{vendor.name}-lumi", shop="lumi", url=url, credentials={"secret": Secret(secret)} if secret else {})


@asynccontextmanager
async def clients(url: str, now: Callable[[], int], *vendors: Vendor) -> AsyncIterator[list[Client]]:
    made = [Client(vendor, account(vendor, url), now) for vendor in vendors or VENDORS]
    for client in made:
        await client.start()
    try:
        yield made
    finally:
        for client in made:
            await client.close()


def pushed(vendor: Vendor, told: dict[str, Any], at: int) -> Delivery:
    """What the vendor's webhook would have brought."""
    return Delivery(source=f"{vendor.name}-lumi", delivery="", at=at, topic="told", body=json.dumps(told).encode())
