"""Asking one vendor's account: a question's pages, one attempt each, and a clear word where the vendor does not answer.

Nothing is retried here: whoever asks has a schedule. What a vendor answers is kept as raw bytes and goes the way that its
webhooks go (`Page.delivery`), so that an answer and a webhook about one thing are read by the same functions into the same facts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from connectors.base import Answer, Reason, Refused, TryLater, is_loopback
from connectors.delivery import DECODING, Delivery, Unreadable, keep_beside
from connectors.http import Guard, Http, Reply, Request
from connectors.login import Session
from connectors.vendor import ANSWER, Account, Ask, Vendor

PAGE_CAP = 8 << 20  # bytes of one answer
ASKING_CAP = 64 << 20  # bytes of all pages of one asking
PAGES = 500
BUDGET_S = 15.0  # for one page, login included
LOGGED_BYTES = 960 * 1024  # larger bodies lie beside the log, as the gateway's do

# asked for what happened since a time, of those that a vendor of this kind declares
BY_TIME = {
    "shop": ("orders_since",),
    "payments": ("payment_intents", "refunds"),
    "warehouse": ("orders",),
    "carrier": (),
}
TRACKING = "tracking"  # asked for one parcel by its tracking number
SUBSCRIBE = "tracking.subscribe"  # the action by which a carrier pushes what becomes of parcels
INVENTORY = "inventory"  # asked for one SKU


class Page(msgspec.Struct, frozen=True):
    """One answer, as it came."""

    kind: str  # in `Vendor.answers`
    body: bytes
    at: int  # when it came, ms

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.body, digest_size=16).hexdigest()

    def delivery(self, source: str, bodies: Path) -> Delivery:
        """As it goes into the log. Blocks where the body is too large for that and goes to a file. Raises OSError."""
        body, beside = (self.body, "") if len(self.body) <= LOGGED_BYTES else (b"", keep_beside(bodies, self.body))
        return Delivery(source=source, delivery=f"poll:{self.digest}", at=self.at, topic=f"{ANSWER}{self.kind}", body=body, beside=beside)


class Asked(msgspec.Struct, frozen=True):
    """The pages of one asking up to its end, or up to where it stopped."""

    pages: tuple[Page, ...] = ()
    stopped: TryLater | Refused | None = None
    said: str = ""  # why, in words for a person, where the vendor gave any


class Client:
    """Asks one account. `start` and `close` are its Http's."""

    def __init__(self, vendor: Vendor, account: Account, now: Callable[[], int], *, private: bool = False, connections: int = 2) -> None:
        """`private`: the account's API is in a private network or on this machine."""
        self.vendor, self.account, self._now = vendor, account, now
        self.base = account.url or vendor.url
        private = private or is_loopback(urlsplit(self.base).hostname or "")
        self.http = Http(connections=connections, guard=Guard(private=private), reply_cap=PAGE_CAP)
        self.session = Session(vendor, account, self.http)

    async def start(self) -> None:
        await self.http.start()

    async def close(self) -> None:
        await self.http.close()

    def can(self, question: str) -> bool:
        return question in self.vendor.questions

    @property
    def by_time(self) -> tuple[str, ...]:
        """The questions whose value is a time since when."""
        return tuple(name for name in BY_TIME[self.vendor.kind] if self.can(name))

    async def ask(self, question: str, value: str, budget_s: float = BUDGET_S) -> Asked:
        """All pages. Stops at the first that does not come whole; `Asked.stopped` says when it may be asked again.

        `question`: a name in `Vendor.questions`. `value`: an ID, or a time in ms, as text. `budget_s`: for one page.
        """
        its = self.vendor.questions[question]
        pages: list[Page] = []
        seen: set[str] = set()
        cursor, size = "", 0
        while True:
            if cursor in seen or len(seen) >= PAGES:
                circle = cursor in seen
                return Asked(tuple(pages), _later(), "its pages lead back to one that was read" if circle else f"more than {PAGES} pages")
            seen.add(cursor)
            try:
                request = its.render(self.account, value, cursor)
            except Unreadable as error:
                return Asked(tuple(pages), Refused(Reason.MALFORMED), f"it cannot be asked: {error.detail}")
            except KeyError as error:
                return Asked(tuple(pages), TryLater(Reason.CONFIGURATION), f"its account has no {error.args[0]}: add it to `accounts`")
            reply = await self._page(request, budget_s)
            if not isinstance(reply, Reply):
                return Asked(tuple(pages), reply)
            stopped, said = self._fault(reply)
            if stopped is None:
                try:
                    following = its.next(reply)
                except (Unreadable, *DECODING):
                    stopped, said = _later(), "its answer does not say whether there is more"
            if stopped is not None:
                return Asked(tuple(pages), stopped, said)
            page = Page(its.answer, reply.body, self._now())
            if pages and page.body == pages[-1].body:
                return Asked(tuple(pages), _later(), "it gives the same page again")
            size += len(page.body)
            if size > ASKING_CAP:
                return Asked(tuple(pages), Refused(Reason.TOO_LARGE), f"more than {ASKING_CAP >> 20} MiB: ask for a shorter time")
            pages.append(page)
            if not following:
                return Asked(tuple(pages))
            cursor = following
            await asyncio.sleep(1 / self.vendor.pace_per_s)

    async def does(self, action: str, data: object, budget_s: float = BUDGET_S) -> Answer:
        """One attempt at what no order owns, such as a subscription; `data`: of the ask. What it does twice does no harm."""
        body = msgspec.json.encode(data)
        ask = Ask(action, hashlib.blake2b(body, digest_size=12).hexdigest(), "", msgspec.Raw(body), self._now())
        its = self.vendor.actions[action]
        try:
            request = its.render(self.account, ask)
        except Unreadable:
            return Refused(Reason.MALFORMED)
        except KeyError:
            return TryLater(Reason.CONFIGURATION)
        reply = await self._page(request, budget_s)
        return its.read(self.account, ask, reply) if isinstance(reply, Reply) else reply

    async def _page(self, request: Request, budget_s: float) -> Reply | TryLater | Refused:
        if _origin(request.url) != _origin(self.base):  # a cursor is a vendor's word: our credentials follow it nowhere else
            return Refused(Reason.BLOCKED_ADDRESS)
        loop = asyncio.get_running_loop()
        began, now = loop.time(), self._now()
        ready = await self.session.authorized(request, now, budget_s)
        if isinstance(ready, TryLater):
            return ready
        reply = await self.http.send(ready, max(0.0, budget_s - (loop.time() - began)), now)
        if isinstance(reply, Reply) and reply.status in (401, 403):
            self.session.refused(ready)
        if isinstance(reply, (Reply, TryLater, Refused)):
            return reply
        return TryLater(reply.reason)  # a question that was asked twice does no harm

    def _fault(self, reply: Reply) -> tuple[TryLater | Refused | None, str]:
        """None for a whole answer; else what it means, and the vendor's complaint in our words."""
        status, after_s = reply.status, reply.retry_after_s
        if len(reply.body) >= PAGE_CAP:
            return Refused(Reason.TOO_LARGE), f"an answer of more than {PAGE_CAP >> 20} MiB: ask for a shorter time"
        said = self.vendor.complaint(reply.body)
        if 200 <= status < 300:
            if not _whole(reply):
                return _later(), "its answer came cut short"
            return (TryLater(Reason.PROVIDER, after_s), said) if said else (None, "")
        if status in (401, 403):
            return TryLater(Reason.CREDENTIALS, after_s), said or "it refuses our credentials: look at `credentials` of the account"
        if status == 404:
            return TryLater(Reason.NOT_FOUND, after_s), said
        if status == 429:
            return TryLater(Reason.RATE, after_s), said
        if status >= 500:
            return TryLater(Reason.PROVIDER, after_s), said
        return Refused(Reason.OTHER), said or f"it answers with status {status}"


def askable(vendor: Vendor, url: str, credentials: Collection[str]) -> bool:
    """Whether an account can be asked at all: there are questions, a place to ask (`url`, else the vendor's) and what to show there."""
    return bool(vendor.questions and (url or vendor.url) and (credentials or vendor.login is None))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _whole(reply: Reply) -> bool:
    """Whether a body is the JSON that was sent, not the beginning of it."""
    length = reply.headers.get("content-length", "")
    if length.isdigit() and int(length) != len(reply.body):
        return False
    try:
        msgspec.json.decode(reply.body)
    except DECODING:
        return False
    return True


def _later() -> TryLater:
    return TryLater(Reason.GATEWAY)
