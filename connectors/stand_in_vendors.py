"""Stand-ins for vendors that do things for us: a gateway like Stripe and a warehouse like DHL's, on the listener of `stand_ins`.

They check what they are sent by the rules of the vendors' specifications, honour keys where the vendor does, and misbehave like the
other stand-ins do, as the channel "systems". What they accepted is in the same ledger, by effect.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from connectors.base import Secret
from connectors.systems import Connected
from connectors.vendor import Account

if TYPE_CHECKING:
    from connectors.stand_ins import StandIns, Web

CHANNEL = "systems"
PASSWORD = "stand-in-not-a-secret"  # noqa: S105
FACILITY = {"facilityId": "GB_0044", "customerId": "CID005233"}


def accounts(url: str) -> list[Connected]:
    """Accounts of the shop "lumi" with these."""
    known: dict[str, Any] = {"shop": "lumi"}
    stripe = Account(source="stripe-lumi", url=f"{url}/stripe", credentials={"key": Secret(PASSWORD)}, **known)
    wms = Account(
        source="wms-lumi",
        url=f"{url}/wms",
        credentials={"user": Secret("lumi"), "password": Secret(PASSWORD)},
        options={"facility": FACILITY["facilityId"], "customer": FACILITY["customerId"]},
        **known,
    )
    return [
        Connected(vendor="stripe", account=stripe, does=("payment.refund", "payment.checkout")),
        Connected(vendor="wms", account=wms, does=("warehouse.pick", "warehouse.cancel")),
    ]


class VendorStandIns:
    def __init__(self, home: StandIns, web: type[Web]) -> None:
        self.home, self.web = home, web
        self.made: dict[str, tuple[bytes, Any]] = {}  # idempotency key -> what was asked under it, and the answer
        self.orders: dict[str, dict[str, Any]] = {}  # the warehouse's, by number

    async def respond(self, method: str, path: list[str], headers: dict[str, str], body: bytes, query: dict[str, str]) -> Web | None:
        match method, path:
            case "POST", ["stripe", "v1", *what]:
                return await self.stripe("/".join(what), headers, body)
            case _, ["wms", "order"]:
                return await self.wms(method, headers, body, query)
        return self.web(404, {"error": "not found"})

    async def misbehave(self, key: str, refusal: Web, later: Web, down: Web) -> tuple[str, Web | None]:
        """The fault of this try, and the answer where it is one; "hang" never answers."""
        fault = self.home.fault(CHANNEL, key)
        if fault == "hang":
            await self.home.closing.wait()
        return fault, {"refuse": refusal, "try_later": later, "error": down}.get(fault)

    def patience(self) -> tuple[tuple[str, str], ...]:
        return (("Retry-After", str(self.home.faults[CHANNEL].retry_after_s)),)

    # --- Stripe
    async def stripe(self, what: str, headers: dict[str, str], body: bytes) -> Web | None:
        if not hmac.compare_digest(headers.get("authorization", ""), f"Bearer {PASSWORD}"):
            return self.error(401, "invalid_request_error", "", "Invalid API Key provided")
        key, form = headers.get("idempotency-key", ""), dict(parse_qsl(body.decode(errors="replace")))
        needed = {"refunds": ("payment_intent", "amount"), "checkout/sessions": ("mode", "success_url", "line_items[0][quantity]")}
        if what not in needed:
            return self.error(404, "invalid_request_error", "", "Unrecognized request URL")
        if missing := [name for name in needed[what] if not form.get(name)]:
            return self.error(400, "invalid_request_error", "parameter_missing", f"Missing required param: {missing[0]}.")
        fault, wrong = await self.misbehave(
            key,
            self.error(402, "card_error", "card_declined", "The bank refused."),
            self.error(429, "invalid_request_error", "rate_limit", "Too many requests.", *self.patience()),
            self.error(503, "api_error", "", "An unknown error occurred."),
        )
        if wrong is not None or fault == "hang":
            return wrong
        asked, answer = self.made.get(key, (body, None))
        if asked != body:
            return self.error(400, "idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters.")
        if answer is None:
            answer = self.session(len(self.made)) if what != "refunds" else self.refund(len(self.made), form)
            self.made[key] = body, answer
            self.home.accept(CHANNEL, key, "", what, body.decode())
        else:
            self.home.repeats += 1
        return self.web(200, answer) if await self.home.after_accepting(CHANNEL, fault) else None

    def refund(self, nth: int, form: dict[str, str]) -> dict[str, Any]:
        return {
            "id": f"re_{nth:024d}",
            "object": "refund",
            "amount": int(form["amount"]),
            "currency": "eur",
            "created": self.home.clock() // 1000,
            "payment_intent": form["payment_intent"],
            "status": "succeeded",
        }

    def session(self, nth: int) -> dict[str, Any]:
        return {"id": f"cs_test_{nth:024d}", "object": "checkout.session", "url": f"https://checkout.example/c/pay/cs_test_{nth:024d}"}

    def error(self, status: int, kind: str, code: str, message: str, *headers: tuple[str, str]) -> Web:
        return self.web(status, {"error": {"type": kind, "message": message, **({"code": code} if code else {})}}, headers)

    # --- the warehouse
    async def wms(self, method: str, headers: dict[str, str], body: bytes, query: dict[str, str]) -> Web | None:
        expected = "Basic " + b64encode(f"lumi:{PASSWORD}".encode()).decode()
        if not hmac.compare_digest(headers.get("authorization", ""), expected):
            return self.problem(401, "Unauthorized")
        try:
            asked: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any]) if method == "POST" else dict(query)
        except msgspec.MsgspecError:
            return self.problem(400, "Bad Request")
        if {name: asked.get(name) for name in FACILITY} != FACILITY:
            return self.problem(403, "Forbidden")
        number = str(asked.get("orderNumber", ""))
        if method == "POST":
            return await self.outbound(number, asked)
        known = self.orders.get(number)
        if known is None:
            return self.problem(404, "Not Found")
        if method == "DELETE":
            known.update(cancelledFlag=True, orderStatus="Cancelled")
            return self.web(200, {**FACILITY, "status": "Order cancelled successfully", "detail": f"order/{number}"})
        return self.web(200, known)

    async def outbound(self, number: str, asked: dict[str, Any]) -> Web | None:
        lines = asked.get("orderLines")
        if not number or not lines or not all(asked.get(name) for name in ("orderType", "shipTo", "billTo")):
            return self.problem(400, "Bad Request")
        fault, wrong = await self.misbehave(
            number, self.problem(400, "Bad Request"), self.problem(429, "Too Many Requests", *self.patience()), self.problem(503, "Down")
        )
        if wrong is not None or fault == "hang":
            return wrong
        if number in self.orders:
            self.home.repeats += 1
            return self.problem(409, "Request Could not be processed")
        self.orders[number] = {**asked, "orderStatus": "Unallocated", "cancelledFlag": False}
        self.home.accept(CHANNEL, number, "", "order", msgspec.json.encode(asked).decode())
        return self.web(200, self.orders[number]) if await self.home.after_accepting(CHANNEL, fault) else None

    def problem(self, status: int, title: str, *headers: tuple[str, str]) -> Web:
        return self.web(status, {"title": title, "detail": title, "status": status}, headers)
