"""Stand-ins for vendors that do things for us and are asked: Shopify, Stripe, a warehouse like DHL's, UPS and USPS, on the listener of
`stand_ins`.

They check what they are sent by the rules of the vendors' specifications, honour keys where the vendor does and nowhere else, and
misbehave like the other stand-ins do: what changes something as the channel "systems", what only asks as "questions". What they
accepted is in the same ledger, by what the vendor would know it by.

What they know of, besides what they did, is what their webhooks would have told (`POST /known`): whether those were ever sent or not.
"""

from __future__ import annotations

import hmac
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from connectors.base import Secret
from connectors.systems import Connected
from connectors.vendor import Account, Origin
from orders.fact import Address

if TYPE_CHECKING:
    from connectors.stand_ins import StandIns

CHANNEL, QUESTIONS = "systems", "questions"
PASSWORD = "stand-in-not-a-secret"  # noqa: S105
TOKEN = "stand-in-token-not-a-secret"  # noqa: S105
PAYMENT = "stand-in-payment-not-a-secret"
FACILITY = {"facilityId": "GB_0044", "customerId": "CID005233"}
OPTIONS: dict[str, dict[str, str]] = {
    "wms": {"facility": FACILITY["facilityId"], "customer": FACILITY["customerId"]},
    "ups": {"shipper_number": "A1B2C3"},
    "usps": {"crid": "11111111", "mid": "222222222", "manifest_mid": "333333333", "account_number": "4444444444"},
}
CREDENTIALS = {
    "stripe": ("key",),
    "wms": ("user", "password"),
    "shopify": ("client_id", "client_secret"),
    "ups": ("client_id", "client_secret"),
    "usps": ("client_id", "client_secret"),
}
ORIGIN = Origin(
    name="Lumi Zone",
    phone="+15125550100",
    address=Address(lines=("1 Example Street",), city="Austin", region="TX", postcode="78701", country="US"),
)


def accounts(url: str) -> list[Connected]:
    """Accounts of the shop "lumi" with these; each may do all that its vendor can."""
    from connectors.registry import VENDORS  # which lists the channels that these stand in for

    return [
        Connected(
            vendor=vendor,
            account=Account(
                source=f"{vendor}-lumi",
                shop="lumi",
                url=f"{url}/{vendor}",
                credentials={name: Secret(PASSWORD) for name in names},
                options=OPTIONS.get(vendor, {}),
                origin=ORIGIN,
            ),
            does=tuple(VENDORS[vendor].actions),
        )
        for vendor, names in CREDENTIALS.items()
    ]


class Web(msgspec.Struct, frozen=True):
    """An HTTP answer."""

    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """An HTTP request."""

    method: str
    path: list[str]  # below the vendor's own
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    query: Mapping[str, str]

    def json(self) -> dict[str, Any] | None:
        """None for what is none."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except msgspec.MsgspecError:
            return None

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(errors="replace")))

    def bears(self, token: str, header: str = "authorization", scheme: str = "Bearer ") -> bool:
        return hmac.compare_digest(self.headers.get(header, "").encode(), f"{scheme}{token}".encode())


class Known(msgspec.Struct, frozen=True):
    """Something a vendor knows: a webhook of its, by its topic."""

    vendor: str
    body: dict[str, Any]
    topic: str = ""


class VendorStandIn:
    """What all of them do: take, misbehave, write down, remember."""

    name: ClassVar[str]

    def __init__(self, home: StandIns) -> None:
        self.home = home

    async def respond(self, asked: Asked) -> Web | None:
        raise NotImplementedError

    def problem(self, status: int, code: str = "", message: str = "") -> Web:
        """The vendor's way to say no."""
        raise NotImplementedError

    def know(self, topic: str, body: dict[str, Any]) -> None:
        """What a webhook of its would say."""

    def remember(self, what: str, key: str, text: str) -> None:
        """Something it took before it was restarted."""

    async def tried(self, channel: str, key: str, refusal: Web, do: Callable[[], Web]) -> Web | None:
        """The answer to one try, with what goes wrong with it; None to close the connection instead."""
        fault = self.home.fault(channel, key)
        match fault:
            case "refuse":
                return refusal
            case "try_later":
                wait = ("Retry-After", str(self.home.faults[channel].retry_after_s))
                return msgspec.structs.replace(self.problem(429), headers=(wait,))
            case "error":
                return self.problem(503)
            case "hang":
                await self.home.closing.wait()
                return None
        answer = do()
        return answer if await self.home.after_accepting(channel, fault) else None

    async def told(self, asked: Asked, answer: Callable[[], Web]) -> Web | None:
        """The answer to what changes nothing."""
        key = f"{self.name} {asked.method} {'/'.join(asked.path)}"
        return await self.tried(QUESTIONS, key, self.problem(400, message="Bad Request"), answer)

    def accept(self, key: str, what: str, text: str) -> None:
        self.home.accept(CHANNEL, key, "", f"{self.name} {what}", text)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.home.clock() / 1000, UTC)


class VendorStandIns:
    def __init__(self, home: StandIns) -> None:
        self.shopify, self.stripe, self.wms = ShopifyStandIn(home), StripeStandIn(home), WmsStandIn(home)
        self.ups, self.usps = UpsStandIn(home), UspsStandIn(home)
        self.all: dict[str, VendorStandIn] = {its.name: its for its in (self.shopify, self.stripe, self.wms, self.ups, self.usps)}

    async def respond(self, vendor: str, asked: Asked) -> Web | None:
        return await self.all[vendor].respond(asked)

    def know(self, things: list[Known]) -> None:
        for thing in things:
            if thing.vendor in self.all:
                self.all[thing.vendor].know(thing.topic, thing.body)

    def remember(self, title: str, key: str, text: str) -> None:
        vendor, _, what = title.partition(" ")
        self.all[vendor].remember(what, key, text)


# --- Stripe
class StripeStandIn(VendorStandIn):
    """Payment intents, refunds, disputes, checkout sessions. It keeps keys for good."""

    name = "stripe"
    NEEDED: ClassVar[dict[str, tuple[str, ...]]] = {
        "refunds": ("payment_intent", "amount"),
        "checkout/sessions": ("mode", "success_url", "line_items[0][quantity]"),
    }

    def __init__(self, home: StandIns) -> None:
        super().__init__(home)
        self.made: dict[str, tuple[str, Any]] = {}  # idempotency key -> what was asked under it, and the answer
        self.things: dict[str, dict[str, dict[str, Any]]] = {"payment_intents": {}, "refunds": {}, "disputes": {}}

    async def respond(self, asked: Asked) -> Web | None:
        if not asked.bears(PASSWORD):
            return self.problem(401, message="Invalid API Key provided")
        match asked.method, asked.path:
            case "POST", ["v1", *what] if "/".join(what) in self.NEEDED:
                return await self.post("/".join(what), asked)
            case "GET", ["v1", kind] if kind in self.things:
                return await self.told(asked, lambda: self.listed(kind, asked.query))
            case "GET", ["v1", kind, id] if kind in self.things:
                found = self.things[kind].get(id)
                missing = self.problem(404, "resource_missing", "No such object")
                return await self.told(asked, lambda: missing if found is None else Web(200, found))
        return self.problem(404, message="Unrecognized request URL")

    async def post(self, what: str, asked: Asked) -> Web | None:
        key, form = asked.headers.get("idempotency-key", ""), asked.form()
        if missing := [name for name in self.NEEDED[what] if not form.get(name)]:
            return self.problem(400, "parameter_missing", f"Missing required param: {missing[0]}.")
        declined = Web(402, {"error": {"type": "card_error", "code": "card_declined", "message": "The bank refused."}})
        return await self.tried(CHANNEL, key, declined, lambda: self.once(what, key, asked.body.decode(errors="replace")))

    def once(self, what: str, key: str, body: str) -> Web:
        before, answer = self.made.get(key, (body, None))
        if before != body:
            said = "Keys for idempotent requests can only be used with the same parameters."
            return Web(400, {"error": {"type": "idempotency_error", "message": said}})
        if answer is not None:
            self.home.repeats += 1
            return Web(200, answer)
        form = dict(parse_qsl(body))
        if what == "refunds" and form["payment_intent"] in self.things["payment_intents"]:
            intent = self.things["payment_intents"][form["payment_intent"]]
            back = sum(refund["amount"] for refund in self.things["refunds"].values() if refund.get("payment_intent") == intent["id"])
            if back >= intent["amount"]:
                return self.problem(400, "charge_already_refunded", "The payment has already been refunded.")
        self.remember(what, key, body)
        self.accept(key, what, body)
        return Web(200, self.made[key][1])

    def remember(self, what: str, key: str, text: str) -> None:
        answer = self.refund(key, dict(parse_qsl(text))) if what == "refunds" else self.session(key)
        self.made[key] = text, answer

    def refund(self, key: str, form: dict[str, str]) -> dict[str, Any]:
        intent = self.things["payment_intents"].get(form["payment_intent"], {})
        made = {
            "id": f"re_{_hash(key)}",
            "object": "refund",
            "amount": int(form["amount"]),
            "currency": intent.get("currency", "eur"),
            "created": self.home.clock() // 1000,
            "payment_intent": form["payment_intent"],
            "metadata": {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")},
            "status": "succeeded",
        }
        self.things["refunds"][made["id"]] = made
        return made

    def session(self, key: str) -> dict[str, Any]:
        id = f"cs_test_{_hash(key)}"
        return {"id": id, "object": "checkout.session", "url": f"https://checkout.example/c/pay/{id}"}

    def know(self, topic: str, body: dict[str, Any]) -> None:
        thing = body["data"]["object"]
        kept = self.things.get(f"{thing['object']}s")
        if kept is not None and kept.get(thing["id"], {}).get("status") != "succeeded":  # news may come in any order
            kept[thing["id"]] = thing

    def listed(self, kind: str, query: Mapping[str, str]) -> Web:
        """The latest first."""
        since, limit, after = int(query.get("created[gte]", "0")), int(query.get("limit", "10")), query.get("starting_after", "")
        found = sorted(self.things[kind].values(), key=lambda thing: (-int(thing["created"]), thing["id"]))
        found = [thing for thing in found if thing["created"] >= since]
        begin = next((at for at, thing in enumerate(found, 1) if thing["id"] == after), 0)
        page = found[begin : begin + limit]
        if query.get("expand[]") == "data.payment_intent":
            intents = self.things["payment_intents"]
            page = [{**thing, "payment_intent": intents.get(thing["payment_intent"], thing["payment_intent"])} for thing in page]
        return Web(200, {"object": "list", "has_more": begin + limit < len(found), "data": page})

    def problem(self, status: int, code: str = "", message: str = "") -> Web:
        if status == 429:
            code, message = "rate_limit", "Too many requests."
        kind = "api_error" if status >= 500 else "invalid_request_error"
        return Web(status, {"error": {"type": kind, "message": message, **({"code": code} if code else {})}})


# --- the warehouse
class WmsStandIn(VendorStandIn):
    """Outbound orders by their number, and what lies on its shelves. It knows no keys, but takes no number twice."""

    name = "wms"

    def __init__(self, home: StandIns) -> None:
        super().__init__(home)
        self.orders: dict[str, dict[str, Any]] = {}  # by number
        self.levels: dict[str, int] = {}  # SKU -> on hand

    async def respond(self, asked: Asked) -> Web | None:
        basic = b64encode(f"{PASSWORD}:{PASSWORD}".encode()).decode()
        if not asked.bears(basic, scheme="Basic "):
            return self.problem(401)
        said = asked.json() if asked.method == "POST" else dict(asked.query)
        if said is None:
            return self.problem(400)
        if {name: said.get(name) for name in FACILITY} != FACILITY:
            return self.problem(403)
        number = str(said.get("orderNumber", ""))
        match asked.method, asked.path:
            case "POST", ["order"]:
                if not number or not all(said.get(name) for name in ("orderLines", "orderType", "shipTo", "billTo")):
                    return self.problem(400)
                return await self.tried(CHANNEL, number, self.problem(400), lambda: self.outbound(number, said))
            case "DELETE", ["order"]:
                return await self.tried(CHANNEL, f"cancel {number}", self.problem(409), lambda: self.cancel(number))
            case "GET", ["order"]:
                return await self.told(asked, lambda: Web(200, self.orders[number]) if number in self.orders else self.problem(404))
            case "GET", ["order", "list"]:
                return await self.told(asked, lambda: self.listed(int(asked.query["offset"]), int(asked.query["limit"])))
            case "GET", ["inventory", "summary"]:
                return await self.told(asked, lambda: self.inventory(asked.query.get("itemNumber", "")))
        return self.problem(404)

    def outbound(self, number: str, said: dict[str, Any]) -> Web:
        if number in self.orders:
            self.home.repeats += 1
            return self.problem(409)
        text = msgspec.json.encode(said).decode()
        self.remember("order", number, text)
        self.accept(number, "order", text)
        return Web(200, self.orders[number])

    def cancel(self, number: str) -> Web:
        known = self.orders.get(number)
        if known is None:
            return self.problem(404)
        if known["cancelledFlag"]:
            self.home.repeats += 1
        else:
            self.remember("cancel", f"cancel {number}", number)
            self.accept(f"cancel {number}", "cancel", number)
        return Web(200, {**FACILITY, "status": "Order cancelled successfully", "detail": f"order/{number}"})

    def remember(self, what: str, key: str, text: str) -> None:
        if what == "order":
            self.orders[key] = {**msgspec.json.decode(text), "orderStatus": "Unallocated", "cancelledFlag": False}
        elif text in self.orders:
            self.orders[text].update(cancelledFlag=True, orderStatus="Cancelled")

    def know(self, topic: str, body: dict[str, Any]) -> None:
        for level in body["data"].get("levels", ()):
            self.levels[level["sku"]] = level["on_hand"]

    def listed(self, offset: int, limit: int) -> Web:
        page = list(self.orders.values())[offset : offset + limit]
        return Web(200, {**FACILITY, "offset": offset, "limit": limit, "totalOrderCount": len(self.orders), "orderNumberList": page})

    def inventory(self, sku: str) -> Web:
        if sku not in self.levels:
            return self.problem(404)
        line = {"inventoryStatus": "Available", "totalStockOnHandQuantity": self.levels[sku], "blockedQuantity": 0}
        return Web(200, {**FACILITY, "itemNumber": sku, "InventorySummaryLines": [line]})

    def problem(self, status: int, code: str = "", message: str = "") -> Web:
        title = {
            400: "Bad Request",
            401: "Unauthorized",
            403: "Forbidden",
            404: "Not Found",
            409: "Request Could not be processed",
            429: "Too Many Requests",
        }.get(status, "Down")
        return Web(status, {"title": title, "detail": title, "status": status})


# --- UPS
class UpsStandIn(VendorStandIn):
    """Labels by our reference, which it prints and does not hold against a second one; scans by tracking number."""

    name = "ups"
    SHIPMENT = ("Shipper", "ShipTo", "ShipFrom", "Service", "PaymentInformation", "Package")

    def __init__(self, home: StandIns) -> None:
        super().__init__(home)
        self.labels: dict[str, list[str]] = {}  # reference -> tracking numbers
        self.voided: dict[str, bool] = {}  # tracking number -> whether it is
        self.followed: set[str] = set()
        self.scans: dict[str, list[dict[str, Any]]] = {}  # tracking number -> pushes about it

    async def respond(self, asked: Asked) -> Web | None:
        if asked.path == ["security", "v1", "oauth", "token"]:
            pair = b64encode(f"{PASSWORD}:{PASSWORD}".encode()).decode()
            if not asked.bears(pair, scheme="Basic ") or asked.form().get("grant_type") != "client_credentials":
                return self.problem(401, "10401")
            return Web(200, {"token_type": "Bearer", "access_token": TOKEN, "expires_in": "14399"})
        if not asked.bears(TOKEN) or not asked.headers.get("transid"):
            return self.problem(401, "250002")
        if asked.method == "POST" and asked.json() is None:
            return self.problem(400, "10007")
        its = asked.headers["transid"]
        match asked.method, asked.path:
            case "POST", ["api", "shipments", "v2409", "ship"]:
                return await self.ship(asked.json() or {})
            case "POST", ["api", "labels", "v1", "recovery"]:
                return await self.told(asked, lambda: self.recovered(asked.json() or {}))
            case "DELETE", ["api", "shipments", "v2409", "void", "cancel", number]:
                return await self.tried(CHANNEL, f"void {number}", self.problem(400, "190102"), lambda: self.void(number))
            case "POST", ["api", "track", "v2", "subscription", "standard", "package"]:
                return await self.tried(CHANNEL, its, self.problem(400, "VSS210"), lambda: self.subscribed(its, asked.json() or {}))
            case "POST", ["api", "rating", "v2409", "Rate"]:
                price = {"CurrencyCode": "USD", "MonetaryValue": "13.10"}
                answer = Web(200, {"RateResponse": {"RatedShipment": [{"TotalCharges": price}]}})
                return await self.tried(CHANNEL, its, self.problem(400, "111210"), lambda: answer)
            case "POST", ["api", "addressvalidation", "v2", "1"]:
                answer = Web(200, {"XAVResponse": {"ValidAddressIndicator": ""}})
                return await self.tried(CHANNEL, its, self.problem(400, "264002"), lambda: answer)
            case "GET", ["api", "track", "v1", "details", number]:
                return await self.told(asked, lambda: self.details(number))
        return self.problem(404, "404")

    async def ship(self, said: dict[str, Any]) -> Web | None:
        shipment = said.get("ShipmentRequest", {}).get("Shipment", {})
        if not all(shipment.get(name) for name in self.SHIPMENT):
            return self.problem(400, "120001")
        printed = [*shipment["Package"][0].get("ReferenceNumber", ()), *shipment.get("ReferenceNumber", ())]
        reference = next((one["Value"] for one in printed if one["Code"] == "TN"), "")
        return await self.tried(CHANNEL, reference, self.problem(400, "120206"), lambda: self.shipped(reference))

    def shipped(self, reference: str) -> Web:
        number = "1Z" + _hash(f"{reference}:{len(self.labels.get(reference, ()))}").upper()[:16]
        self.remember("label", reference, number)
        self.accept(reference, "label", number)
        package = {"TrackingNumber": number, "ShippingLabel": _picture(number)}
        results = {"ShipmentIdentificationNumber": number, "PackageResults": [package]}
        return Web(200, {"ShipmentResponse": {"Response": {"ResponseStatus": {"Code": "1"}}, "ShipmentResults": results}})

    def recovered(self, said: dict[str, Any]) -> Web:
        reference = said["LabelRecoveryRequest"]["ReferenceValues"]["ReferenceNumber"]["Value"]
        numbers = self.labels.get(reference, [])
        if not numbers:
            return self.problem(400, "9801031")
        if all(self.voided[number] for number in numbers):
            return self.problem(400, "9801040")
        results = [{"TrackingNumber": number, "LabelImage": _picture(number)} for number in numbers]
        return Web(200, {"LabelRecoveryResponse": {"LabelResults": results}})

    def void(self, number: str) -> Web:
        if number not in self.voided:
            return self.problem(400, "190102")
        if self.voided[number]:
            self.home.repeats += 1
            return self.problem(400, "190117")
        self.remember("void", f"void {number}", number)
        self.accept(f"void {number}", "void", number)
        return Web(200, {"VoidShipmentResponse": {"SummaryResult": {"Status": {"Code": "1", "Description": "Voided"}}}})

    def subscribed(self, key: str, said: dict[str, Any]) -> Web:
        numbers = said.get("trackingNumberList", [])
        if set(numbers) <= self.followed:
            self.home.repeats += 1
        else:
            self.remember("subscription", key, " ".join(numbers))
            self.accept(key, "subscription", " ".join(numbers))
        return Web(200, {"validTrackingNumbers": numbers, "invalidTrackingNumbers": []})

    def remember(self, what: str, key: str, text: str) -> None:
        match what:
            case "label":
                self.labels.setdefault(key, []).append(text)
                self.voided[text] = False
            case "void":
                self.voided[text] = True
            case "subscription":
                self.followed.update(text.split())

    def know(self, topic: str, body: dict[str, Any]) -> None:
        self.scans.setdefault(body["trackingNumber"], []).append(body)

    def details(self, number: str) -> Web:
        """A label that nobody scanned is known by its data only."""
        if number not in self.scans and number not in self.voided:
            return self.problem(404, "TW0001")
        scans = sorted(self.scans.get(number, ()), key=lambda scan: scan["gmtActivityDate"] + scan["gmtActivityTime"], reverse=True)
        activity = [
            {
                "status": scan["activityStatus"],
                "gmtDate": scan["gmtActivityDate"],
                "gmtTime": ":".join(scan["gmtActivityTime"][at : at + 2] for at in (0, 2, 4)),
                "gmtOffset": scan["gmtOffset"].replace(".", ":"),
                "date": scan["localActivityDate"],
                "time": scan["localActivityTime"],
            }
            for scan in scans
        ]
        return Web(
            200, {"trackResponse": {"shipment": [{"inquiryNumber": number, "package": [{"trackingNumber": number, "activity": activity}]}]}}
        )

    def problem(self, status: int, code: str = "", message: str = "") -> Web:
        code = code or {429: "10429", 503: "503"}.get(status, "10007")
        return Web(status, {"response": {"errors": [{"code": code, "message": message or "No."}]}})


# --- USPS
class UspsStandIn(VendorStandIn):
    """Labels by the key they were asked for with, which finds one and does not keep a second from being bought."""

    name = "usps"
    NEEDED = ("imageInfo", "toAddress", "fromAddress", "packageDescription")

    def __init__(self, home: StandIns) -> None:
        super().__init__(home)
        self.labels: dict[str, list[str]] = {}  # key -> tracking numbers
        self.cancelled: dict[str, bool] = {}  # tracking number -> whether it is
        self.details: dict[str, dict[str, Any]] = {}  # tracking number -> what there is to say of it

    async def respond(self, asked: Asked) -> Web | None:
        said = asked.json() if asked.method == "POST" else {}
        if said is None:
            return self.problem(400)
        if asked.path == ["oauth2", "v3", "token"]:
            if (said.get("client_id"), said.get("client_secret"), said.get("grant_type")) != (PASSWORD, PASSWORD, "client_credentials"):
                return Web(401, {"error": "invalid_client"})
            return Web(200, {"token_type": "Bearer", "access_token": TOKEN, "expires_in": 28_799})
        if not asked.bears(TOKEN):
            return self.problem(401)
        if asked.path == ["payments", "v3", "payment-authorization"]:
            roles = {role.get("roleName") for role in said.get("roles", ())}
            return Web(200, {"paymentAuthorizationToken": PAYMENT}) if roles == {"PAYER", "LABEL_OWNER"} else self.problem(400)
        if asked.path[:1] == ["labels"] and not asked.bears(PAYMENT, "x-payment-authorization-token", ""):
            return self.problem(401)
        key = asked.headers.get("x-idempotency-key", "")
        match asked.method, asked.path:
            case "POST", ["labels", "v3", "label"]:
                if missing := [name for name in self.NEEDED if not said.get(name)]:
                    return self.problem(400, missing[0])
                return await self.tried(CHANNEL, key, self.problem(400, "toAddress.ZIPCode"), lambda: self.labelled(key))
            case "POST", ["labels", "v3", "label-reprint"]:
                return await self.told(asked, lambda: self.reprinted(key))
            case "DELETE", ["labels", "v3", "label", number]:
                refusal = self.problem(400, "trackingNumber", "A refund request for this order cannot be submitted")
                return await self.tried(CHANNEL, f"cancel {number}", refusal, lambda: self.cancel(number))
            case "GET", ["addresses", "v3", "address"]:
                answer = Web(200, {"address": dict(asked.query), "additionalInfo": {"DPVConfirmation": "Y"}})
                return await self.tried(CHANNEL, asked.headers.get("x-request-id", ""), self.problem(400), lambda: answer)
            case "GET", ["tracking", "v3", "tracking", number]:
                return await self.told(asked, lambda: self.tracked(number))
        return self.problem(404)

    def labelled(self, key: str) -> Web:
        number = "94001" + str(int(_hash(f"{key}:{len(self.labels.get(key, ()))}"), 16))[-17:].zfill(17)
        self.remember("label", key, number)
        self.accept(key, "label", number)
        return Web(201, _document(number))

    def reprinted(self, key: str) -> Web:
        numbers = self.labels.get(key, [])
        if not numbers:
            return self.problem(400, "Header: X-Idempotency-Key", "no label under this key", inner="160412")
        if self.cancelled[numbers[-1]]:
            return self.problem(400, "trackingNumber", "cancelled", inner="160979")
        return Web(200, {**_document(numbers[-1]), "reprintInfo": {"reprintNumber": 1, "reprintLimit": 3}})

    def cancel(self, number: str) -> Web:
        if number not in self.cancelled:
            return self.problem(400, "trackingNumber", "Order not found")
        if self.cancelled[number]:
            self.home.repeats += 1
            return self.problem(400, "trackingNumber", "A refund request for this order has already been submitted today")
        self.remember("cancel", f"cancel {number}", number)
        self.accept(f"cancel {number}", "cancel", number)
        return Web(200, {"trackingNumber": number, "status": "CANCELED"})

    def remember(self, what: str, key: str, text: str) -> None:
        if what == "label":
            self.labels.setdefault(key, []).append(text)
        self.cancelled[text] = what == "cancel"

    def know(self, topic: str, body: dict[str, Any]) -> None:
        """It pushes nothing: the body is what its tracking API says, and newer ones say all that older ones did."""
        self.details[body["trackingNumber"]] = body

    def tracked(self, number: str) -> Web:
        found = self.details.get(number)
        if found is None and number in self.cancelled:
            found = {"trackingNumber": number, "trackingEvents": []}
        return self.problem(404) if found is None else Web(200, found)

    def problem(self, status: int, code: str = "", message: str = "", inner: str = "") -> Web:
        """`code`: the place of what is wrong, which is what USPS tells; `inner`: its number, where it has one that says more."""
        wrong = {"title": "Bad Request", "detail": message or "No.", "code": inner or str(status), "source": {"parameter": code}}
        return Web(status, {"apiVersion": "v3", "error": {"code": str(status), "message": "No.", "errors": [wrong] if code else []}})


# --- Shopify
class ShopifyStandIn(VendorStandIn):
    """Orders with what was fulfilled of them. It knows no keys; what is fulfilled cannot be fulfilled again, and a tag is there once."""

    name = "shopify"

    def __init__(self, home: StandIns) -> None:
        super().__init__(home)
        self.orders: dict[int, dict[str, Any]] = {}
        self.customers: dict[int, dict[str, Any]] = {}
        self.refunds: dict[int, dict[int, dict[str, Any]]] = {}  # of each order, by ID
        self.fulfillments: dict[int, list[dict[str, Any]]] = {}  # of each order
        self.tags: dict[int, set[str]] = {}  # of each order

    async def respond(self, asked: Asked) -> Web | None:
        if asked.path == ["admin", "oauth", "access_token"]:
            form = asked.form()
            if (form.get("client_id"), form.get("client_secret"), form.get("grant_type")) != (PASSWORD, PASSWORD, "client_credentials"):
                return Web(401, {"error": "invalid_client"})
            return Web(200, {"access_token": TOKEN, "scope": "read_orders,write_fulfillments", "expires_in": 86_399})
        if not asked.bears(TOKEN, "x-shopify-access-token", ""):
            return self.problem(401, message="[API] Invalid API key or access token (unrecognized login or wrong password)")
        if asked.method == "POST" and asked.json() is None:
            return self.problem(400)
        match asked.method, asked.path:
            case "GET", ["admin", "api", _, "orders.json"]:
                return await self.told(asked, lambda: self.listed("orders", [self.order(id) for id in self.orders], asked))
            case "GET", ["admin", "api", _, "customers.json"]:
                return await self.told(asked, lambda: self.listed("customers", list(self.customers.values()), asked))
            case "GET", ["admin", "api", _, "orders", *rest] if rest[0].removesuffix(".json").isdigit():
                id, what = int(rest[0].removesuffix(".json")), "".join(rest[1:]).removesuffix(".json")
                return await self.told(asked, lambda: self.of_order(id, what) if id in self.orders else self.problem(404))
            case "POST", ["admin", "api", _, "fulfillments.json"]:
                return await self.fulfil((asked.json() or {}).get("fulfillment", {}))
            case "POST", ["admin", "api", _, "graphql.json"]:
                return await self.graphql(asked.json() or {})
        return self.problem(404)

    def of_order(self, id: int, what: str) -> Web:
        found: dict[str, Callable[[], Any]] = {
            "": lambda: self.order(id),
            "transactions": list,  # the gateway of these shops is connected itself
            "fulfillments": lambda: self.fulfillments.get(id, []),
            "refunds": lambda: list(self.refunds.get(id, {}).values()),
            "fulfillment_orders": lambda: [self.open(id)],
        }
        return Web(200, {what or "order": found[what]()}) if what in found else self.problem(404)

    def order(self, id: int) -> dict[str, Any]:
        tags = ", ".join(filter(None, (self.orders[id].get("tags"), *sorted(self.tags.get(id, ())))))
        more = {"refunds": list(self.refunds.get(id, {}).values()), "fulfillments": self.fulfillments.get(id, [])}
        return {**self.orders[id], **more, "tags": tags}

    def open(self, id: int) -> dict[str, Any]:
        """The one fulfillment order: what is left of the order. Its lines have IDs of their own."""
        done: dict[int, int] = {}
        for fulfillment in self.fulfillments.get(id, ()):
            for line in fulfillment["line_items"]:
                done[line["id"]] = done.get(line["id"], 0) + line["quantity"]
        lines = [
            {"id": line["id"] * 10, "line_item_id": line["id"], "fulfillable_quantity": max(0, line["quantity"] - done.get(line["id"], 0))}
            for line in self.orders[id]["line_items"]
        ]
        left = any(line["fulfillable_quantity"] for line in lines)
        status = "cancelled" if self.orders[id].get("cancelled_at") else "closed" if not left else "in_progress" if done else "open"
        able = ["create_fulfillment"] if status in ("open", "in_progress") else []
        return {
            "id": id * 10 + 1,
            "order_id": id,
            "status": status,
            "assigned_location_id": 1,
            "supported_actions": able,
            "line_items": lines,
        }

    async def fulfil(self, said: dict[str, Any]) -> Web | None:
        taken, tracking = said.get("line_items_by_fulfillment_order") or [{}], said.get("tracking_info") or {}
        id = int(taken[0].get("fulfillment_order_id", 0)) // 10
        if id not in self.orders or not tracking.get("number"):
            return self.problem(404)
        refusal = self.problem(422, message="The fulfillment order is not in an open state.")
        return await self.tried(CHANNEL, f"{id} {tracking['number']}", refusal, lambda: self.fulfilled(id, taken[0], tracking))

    def fulfilled(self, id: int, taken: dict[str, Any], tracking: dict[str, Any]) -> Web:
        its = self.open(id)
        left = {line["id"]: line for line in its["line_items"]}
        items = taken.get("fulfillment_order_line_items") or [
            {"id": i, "quantity": line["fulfillable_quantity"]} for i, line in left.items()
        ]
        if not its["supported_actions"] or any(
            item["id"] not in left or not 0 < item["quantity"] <= left[item["id"]]["fulfillable_quantity"] for item in items
        ):
            return self.problem(422, message="Invalid fulfillment order line item quantity requested.")
        number = tracking["number"]
        made = {
            "id": int(_hash(f"{id} {number}"), 16) % 10**12,
            "order_id": id,
            "status": "success",
            "created_at": self.now.isoformat(),
            "tracking_company": tracking.get("company"),
            "tracking_number": number,
            "tracking_numbers": [number],
            "line_items": [{"id": left[item["id"]]["line_item_id"], "quantity": item["quantity"]} for item in items],
        }
        text = msgspec.json.encode(made).decode()
        self.remember("fulfillment", f"{id} {number}", text)
        self.accept(f"{id} {number}", "fulfillment", text)
        return Web(201, {"fulfillment": made})

    async def graphql(self, said: dict[str, Any]) -> Web | None:
        its = said.get("variables") or {}
        own, tags = str(its.get("id", "")).rpartition("/")[2], its.get("tags") or []
        if "tagsAdd(" not in said.get("query", "") or not own.isdigit() or not tags:
            return Web(200, {"errors": [{"message": "Parse error", "extensions": {"code": "undefinedField"}}]})
        gone = Web(200, {"data": {"tagsAdd": {"node": None, "userErrors": [{"field": ["id"], "message": "Order does not exist"}]}}})
        return await self.tried(
            CHANNEL, f"{own} {' '.join(tags)}", gone, lambda: self.tagged(int(own), tags) if int(own) in self.orders else gone
        )

    def tagged(self, id: int, tags: list[str]) -> Web:
        new = [tag for tag in tags if tag not in self.tags.get(id, ())]
        self.home.repeats += not new
        for tag in new:
            self.remember("tag", f"{id} {tag}", tag)
            self.accept(f"{id} {tag}", "tag", tag)
        return Web(200, {"data": {"tagsAdd": {"node": {"id": f"gid://shopify/Order/{id}"}, "userErrors": []}}})

    def remember(self, what: str, key: str, text: str) -> None:
        id = int(key.partition(" ")[0])
        if what == "tag":
            self.tags.setdefault(id, set()).add(text)
        else:
            self.fulfillments.setdefault(id, []).append(msgspec.json.decode(text))

    def know(self, topic: str, body: dict[str, Any]) -> None:
        if topic.startswith("orders/") and "line_items" in body:
            before = self.orders.get(body["id"], {})
            newer = body if body["updated_at"] >= before.get("updated_at", "") else before  # news may come in any order
            cancelled = {name: value for name, value in (*before.items(), *body.items()) if name.startswith("cancel")}
            self.orders[body["id"]] = {**newer, **cancelled}
        elif topic.startswith("customers/"):
            self.customers[body["id"]] = body
        elif topic == "refunds/create":
            self.refunds.setdefault(body["order_id"], {})[body["id"]] = body

    def listed(self, what: str, things: list[dict[str, Any]], asked: Asked) -> Web:
        """The earliest change first; a page's cursor holds what was asked with the first."""
        query = asked.query
        since, _, offset = (
            urlsafe_b64decode(query["page_info"]).decode().partition(" ")
            if "page_info" in query
            else (query.get("updated_at_min", ""), "", "0")
        )
        begin, limit = int(offset), int(query.get("limit", "50"))
        floor = datetime.fromisoformat(since or "2000-01-01T00:00:00+00:00")
        found = sorted(things, key=lambda thing: (datetime.fromisoformat(thing["updated_at"]), thing["id"]))
        found = [thing for thing in found if datetime.fromisoformat(thing["updated_at"]) >= floor]
        page = Web(200, {what: found[begin : begin + limit]})
        if begin + limit >= len(found):
            return page
        cursor = urlsafe_b64encode(f"{since} {begin + limit}".encode()).decode()
        link = f'<https://shop.example/{"/".join(asked.path)}?{urlencode({"limit": limit, "page_info": cursor})}>; rel="next"'
        return msgspec.structs.replace(page, headers=(("Link", link),))

    def problem(self, status: int, code: str = "", message: str = "") -> Web:
        words = {404: "Not Found", 429: "Exceeded 2 calls per second for api client.", 503: "Service Unavailable"}
        return Web(status, {"errors": message or words.get(status, "Bad Request")})


# --- labels
def _hash(text: str) -> str:
    """What a vendor calls a thing: the same for the same thing, after a restart too."""
    return blake2b(text.encode(), digest_size=12).hexdigest()


def _picture(number: str) -> dict[str, Any]:
    return {"ImageFormat": {"Code": "GIF"}, "GraphicImage": b64encode(gif(number)).decode()}


def _document(number: str) -> dict[str, Any]:
    return {"trackingNumber": number, "postage": 8.4, "labelImage": b64encode(pdf(number)).decode()}


def gif(text: str, height: int = 24) -> bytes:
    """A text as black and white bars, a bit each."""
    row = [int(bit) for byte in text.encode() for bit in f"{byte:08b}" for _ in range(2)]
    bits = ""
    for at, pixel in enumerate(row * height):
        if at % 2 == 0:
            bits = "100" + bits  # "clear", so often that no code ever grows longer than three bits
        bits = f"{pixel:03b}" + bits
    bits = "101" + bits  # "end"
    data = int(bits, 2).to_bytes(-(-len(bits) // 8), "little")
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    size = len(row).to_bytes(2, "little") + height.to_bytes(2, "little")
    colours = b"\xff\xff\xff\x00\x00\x00"
    return b"GIF89a" + size + b"\x80\x00\x00" + colours + b"," + bytes(4) + size + b"\x00\x02" + blocks + b"\x00;"


def pdf(text: str) -> bytes:
    """A page that says it."""
    drawn = f"BT /F1 18 Tf 20 200 Td ({text}) Tj ET".encode()
    parts = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 288 432] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    made, places = b"%PDF-1.4\n", []
    for nth, part in enumerate(parts, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (nth, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return made + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (table, len(made))
