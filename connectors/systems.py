"""What vendors' accounts do for us: labels, refunds, picks, what a shop is told. One channel for all of them.

A claim's body is an `Ask`; the account that serves it is found by what is asked (`serving`), the vendor's pure functions render
and read, and this adds credentials, keeps fetched tokens, makes the one attempt and puts what is to be kept into a file. What can
be done about an unknown outcome is each action's own (`Action.ability`).

An API's address is the vendor's or the operator's choice, so it is called through the Guard: public and https, unless the channel
says `private`.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from connectors.base import Ability, Answer, ChannelSettings, Done, Reason, Refused, Secret, SettingsError, TryLater, Unknown, read_settings
from connectors.delivery import Unreadable, keep_beside
from connectors.http import Guard, Http, Reply, Request
from connectors.vendor import Account, Action, Ask, Login, Vendor
from orders.effect import Claim

log = logging.getLogger("orderflow.systems")

REPLY_CAP = 2 << 20  # bytes: a label is an image
EARLY_MS = 60_000  # a token is renewed so long before its end
STUMBLES = (Unreadable, msgspec.MsgspecError, ValueError)  # what a render raises for what cannot be asked


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """One account, and what it may do."""

    vendor: str
    account: Account
    does: tuple[str, ...]


class SystemsSettings(ChannelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    accounts: list[Connected] = []  # where several could do it, the first does
    folder: str = ""  # for what is kept, such as labels; empty: nothing is
    private: bool = False  # accounts in a private network or on this machine


class About(msgspec.Struct):
    """What of an action's data says whose it is."""

    service: str = ""
    carrier: str = ""
    system: str = ""
    location: str = ""


class Session:
    """How one account's requests are authorised. A fetched token is kept until a minute before its end."""

    def __init__(self, vendor: Vendor, account: Account) -> None:
        self.vendor, self.account = vendor, account
        self.token: Secret | None = None
        self.until_ms = 0
        self.lock = asyncio.Lock()

    async def authorize(self, http: Http, request: Request, now_ms: int, budget_s: float) -> Request | TryLater:
        """The request with credentials. What fails here fails before the request's first byte."""
        login = self.vendor.login
        if login is None:
            return request
        try:
            if login.render is not None:
                async with asyncio.timeout(budget_s), self.lock:  # those who wait for the one fetching spend their own budget
                    if self.token is None or now_ms >= self.until_ms:
                        failed = await self._fetch(http, login, login.render(self.account), now_ms, budget_s)
                        if failed is not None:
                            return failed
            token = "" if self.token is None else self.token.reveal()
            return request.with_headers(*login.headers(self.account, token))
        except TimeoutError:
            return TryLater(Reason.CONNECT)
        except (KeyError, ValueError):
            return TryLater(Reason.CREDENTIALS)  # one is missing, or is none that could be one

    async def _fetch(self, http: Http, login: Login, request: Request, now_ms: int, budget_s: float) -> TryLater | None:
        """Why there is no token; None when there is."""
        assert login.token is not None
        reply = await http.send(request, budget_s, now_ms)
        if not isinstance(reply, Reply):
            return TryLater(reply.reason)  # whatever became of it, nothing was asked for
        if reply.status != 200:
            slow = reply.status == 429
            reason = Reason.RATE if slow else Reason.CREDENTIALS if reply.status < 500 else Reason.PROVIDER
            return TryLater(reason, reply.retry_after_s)
        try:
            text, life_s = login.token(reply)
        except STUMBLES:
            return TryLater(Reason.PROVIDER)
        self.token, self.until_ms = Secret(text), now_ms + int(life_s * 1000) - EARLY_MS
        return None

    def refused(self, used: Secret | None) -> None:
        """A token that was refused is asked for again; one that was fetched since is not."""
        if self.token is used:
            self.token = None


class Systems:
    ability: ClassVar[Ability] = Ability("neither")  # of what no account declares
    pace_per_s: ClassVar[float] = 4.0
    width: ClassVar[int] = 16

    def __init__(self, settings: dict[str, Any], guard: Guard | None = None) -> None:
        from connectors.registry import VENDORS  # which lists this channel too

        self.settings: SystemsSettings = read_settings(SystemsSettings, "systems", settings)
        self.sessions: dict[str, Session] = {}
        for one in self.settings.accounts:
            if one.vendor not in VENDORS:
                raise SettingsError(f"systems: account {one.account.source} is of no vendor that we know: {one.vendor}")
            url = one.account.url or VENDORS[one.vendor].url
            if not (url.startswith("https://") or self.settings.private):
                raise SettingsError(f"systems: url of account {one.account.source} must be https (channels.systems.private allows others)")
            self.sessions[one.account.source] = Session(VENDORS[one.vendor], one.account)
        guard = guard or Guard(private=self.settings.private)
        self.http = Http(connections=self.settings.concurrency or self.width, guard=guard, reply_cap=REPLY_CAP)

    async def start(self) -> None:
        await self.http.start()

    async def close(self) -> None:
        await self.http.close()

    def route(self, claim: Claim) -> str:
        """The account: each has a breaker of its own."""
        try:
            session = self.serving(asked(claim))
        except STUMBLES:
            return ""
        return "" if session is None else session.account.source

    def serving(self, ask: Ask) -> Session | None:
        """The session of the first account that can do it; None: there is none. Raises msgspec.MsgspecError for data that is none."""
        about = msgspec.json.decode(ask.data, type=About)
        able = [self.sessions[one.account.source] for one in self.settings.accounts if ask.event in one.does]
        able = [session for session in able if fits(session, ask, about)]
        told = [session for session in able if session.account.source == about.system]  # the gateway that took the money gives it back
        return next(iter(told or able), None)

    async def call(self, claim: Claim, now_ms: int, budget_s: float) -> Answer:
        began = asyncio.get_running_loop().time()
        try:
            ask = asked(claim)
            session = self.serving(ask)
            if session is None:
                return TryLater(Reason.CONFIGURATION)
            vendor, account = session.vendor, session.account
            action = vendor.actions[ask.event]
            render = action.look if claim.lookup else action.render
            if render is None:
                return Unknown(Reason.NO_LOOKUP)
            request = render(account, ask)
        except STUMBLES:
            return Refused(Reason.MALFORMED)
        except KeyError:
            return TryLater(Reason.CONFIGURATION)  # an option of the account that the vendor needs is missing
        ready = await session.authorize(self.http, request, now_ms, budget_s)
        if isinstance(ready, TryLater):
            return ready
        used = session.token
        left_s = budget_s - (asyncio.get_running_loop().time() - began)
        reply = await self.http.send(ready, left_s, now_ms)
        if not isinstance(reply, Reply):
            return reply
        if reply.status == 401:
            session.refused(used)
        answer = read(action, account, ask, reply, claim.lookup)
        return await self.kept(answer) if isinstance(answer, Done) else answer

    async def kept(self, done: Done) -> Done:
        """What is to be kept lies in a file that the reference names. It was made whether or not it can be kept: then no file is named."""
        if not done.keep or not self.settings.folder:
            return Done(done.reference)
        try:
            name = await asyncio.to_thread(keep_beside, Path(self.settings.folder), done.keep)
        except OSError as error:
            log.error("cannot be kept", extra={"event": "keep_failed", "channel": "systems", "error": type(error).__name__})
            return Done(done.reference)
        return Done(f"{done.reference} {name}")


def asked(claim: Claim) -> Ask:
    """What a claim asks for, under the effect's own key. Raises msgspec.MsgspecError."""
    ask = msgspec.json.decode(claim.body, type=Ask)
    return msgspec.structs.replace(ask, id=claim.effect)


def read(action: Action, account: Account, ask: Ask, reply: Reply, lookup: bool) -> Answer:
    if lookup:
        return Unknown(Reason.NO_LOOKUP) if action.found is None else action.found(account, ask, reply)
    return action.read(account, ask, reply)


def fits(session: Session, ask: Ask, about: About) -> bool:
    """Whether an account that can do such a thing is the one to do this one."""
    vendor, account = session.vendor, session.account
    match vendor.kind:
        case "shop" if ask.event.startswith("shop."):
            return account.source == about.system
        case "shop" | "payments":
            return ask.order.startswith(account.shop + ":")
        case "warehouse":
            return account.location == about.location and ask.order.startswith(account.shop + ":")
        case "carrier":
            served = not account.services or not about.service or about.service in account.services
            return served and (not about.carrier or about.carrier.lower() == vendor.name)
