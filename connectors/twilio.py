"""SMS through Twilio's Messages API (2010-04-01).

It honours no idempotency key, but messages to a number can be listed, so an unknown can be **looked up**: a message of
ours to that number with exactly this text, created within `lookback_s`. Twilio returns neither callback URL nor any tag
of ours, so two effects with the same text to the same number cannot be told apart; our texts carry order and link.
"Not found" is only said when the whole listing was read and the look-up comes after the lane's lease and grace.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import msgspec

from connectors.base import (
    Ability,
    Answer,
    ChannelSettings,
    Done,
    Reason,
    Refused,
    Secret,
    SettingsError,
    TryLater,
    Unknown,
    read_settings,
)
from connectors.http import Http, HttpConnector, Reply, Request, decode, require_https
from orders.effect import Claim

PAGE = 1000  # the most one listing returns


class TwilioSettings(ChannelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    account: str  # account SID
    token: Secret
    sender: str  # a number in E.164, a short code, an alphanumeric name, or the SID of a messaging service
    status_callback: str = ""  # public URL for delivery receipts; effect and way back are added to its query
    url: str = "https://api.twilio.com"
    lookback_s: int = 24 * 3600


class Text(msgspec.Struct):
    """What messages/ renders."""

    to: str
    text: str
    way_back: str = ""  # signed: whose message this was


class Listed(msgspec.Struct):
    sid: str | None = None
    to: str | None = None
    body: str | None = None
    direction: str | None = None
    date_created: str | None = None


class Listing(msgspec.Struct):
    messages: list[Listed]
    next_page_uri: str | None = None


class Created(msgspec.Struct):
    sid: str | None = None
    status: str | None = None


class Problem(msgspec.Struct):
    code: int = 0


class Twilio(HttpConnector):
    ability: ClassVar[Ability] = Ability("lookup")
    pace_per_s: ClassVar[float] = 100.0
    width: ClassVar[int] = 32

    # Twilio's error codes -> ours. Those of the sender's side wait for the operator.
    CODES: ClassVar[dict[int, Answer]] = {
        **dict.fromkeys((21211, 21214, 21217, 21265, 21401, 21408, 21421, 21612, 21614), Refused(Reason.RECIPIENT)),
        21610: Refused(Reason.OPTED_OUT),
        **dict.fromkeys((21602, 21605, 21617, 21619, 30007), Refused(Reason.CONTENT)),
        **dict.fromkeys(
            (21212, 21603, 21606, 21609, 21611, 21618, 21659, 21660, 21701, 21703, 21704, 21705), TryLater(Reason.CONFIGURATION)
        ),
        **dict.fromkeys((20003, 20005, 20006, 20008, 20404), TryLater(Reason.CREDENTIALS)),
        20429: TryLater(Reason.RATE),
    }

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings: TwilioSettings = read_settings(TwilioSettings, "sms", settings)
        for name in ("account", "sender"):
            if not getattr(self.settings, name):
                raise SettingsError(f"sms: {name} is needed")
        if not self.settings.token.reveal():
            raise SettingsError("sms: token is needed")
        base = self.settings.url.rstrip("/")
        require_https("sms", base)
        self.url = f"{base}/2010-04-01/Accounts/{quote(self.settings.account, safe='')}/Messages.json"
        super().__init__(Http(connections=self.settings.concurrency or self.width))

    def render(self, claim: Claim) -> Request:
        text = msgspec.json.decode(claim.body, type=Text)
        ours = "MessagingServiceSid" if re.fullmatch(r"MG[0-9a-fA-F]{32}", self.settings.sender) else "From"
        form = {"To": text.to, "Body": text.text, ours: self.settings.sender}
        if self.settings.status_callback:
            join = "&" if "?" in self.settings.status_callback else "?"
            ours_back = {"effect": claim.effect} | ({"way_back": text.way_back} if text.way_back else {})
            form["StatusCallback"] = self.settings.status_callback + join + urlencode(ours_back)
        return Request("POST", self.url, (("Content-Type", "application/x-www-form-urlencoded"),), urlencode(form).encode())

    def render_lookup(self, claim: Claim) -> Request:
        text = msgspec.json.decode(claim.body, type=Text)
        return Request("GET", f"{self.url}?{urlencode({'To': text.to, 'PageSize': PAGE})}")

    async def authorize(self, request: Request, claim: Claim, now_ms: int, budget_s: float) -> Request | TryLater:
        pair = f"{self.settings.account}:{self.settings.token.reveal()}"
        return request.with_headers(("Authorization", "Basic " + b64encode(pair.encode()).decode()))

    def read(self, reply: Reply) -> Answer:
        if 200 <= reply.status < 300:
            created = decode(reply.body, Created) or Created()
            if created.status in ("failed", "undelivered", "canceled"):
                return Refused(Reason.OTHER)
            return Done(created.sid or "")
        problem = decode(reply.body, Problem)
        if problem and (answer := self.CODES.get(problem.code)):
            return TryLater(answer.reason, reply.retry_after_s) if isinstance(answer, TryLater) else answer
        match reply.status:
            case 401 | 403 | 404:
                return TryLater(Reason.CREDENTIALS, reply.retry_after_s)
            case 429:
                return TryLater(Reason.RATE, reply.retry_after_s)
            case 408 | 503:
                return TryLater(Reason.PROVIDER, reply.retry_after_s)
            case status if status >= 500:
                return Unknown(Reason.GATEWAY)  # it may have been taken before something broke; the look-up tells
            case _:
                return Refused(Reason.OTHER)

    def read_lookup(self, reply: Reply, claim: Claim, now_ms: int) -> Answer:
        listing = decode(reply.body, Listing)
        if reply.status != 200 or listing is None:
            return Unknown(Reason.PROVIDER)
        text = msgspec.json.decode(claim.body, type=Text)
        since_ms = now_ms - self.settings.lookback_s * 1000
        for message in listing.messages:
            ours = message.body == text.text and (message.direction or "").startswith("outbound")
            if ours and created_ms(message) >= since_ms:
                return Done(message.sid or "")
        if listing.next_page_uri:
            return Unknown(Reason.NOT_FOUND)  # not on the first thousand: we cannot say
        return TryLater(Reason.NOT_FOUND)


def created_ms(message: Listed) -> float:
    """When Twilio took it; a message without a date counts as new, so that a doubt never sends twice."""
    try:
        created = parsedate_to_datetime(message.date_created or "")
    except ValueError:
        return float("inf")
    return created.replace(tzinfo=created.tzinfo or UTC).timestamp() * 1000
