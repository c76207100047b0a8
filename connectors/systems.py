"""What vendors' accounts do for us: labels, refunds, picks, what a shop is told. One channel for all of them.

A claim's body is an `Ask`; the account that serves it is found by what is asked (`serving`), the vendor's pure functions render
and read, and this adds credentials (`connectors.login`), makes the one attempt and puts what is to be kept into a file. What can
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

from connectors.base import Ability, Answer, ChannelSettings, Done, Reason, Refused, SettingsError, TryLater, Unknown, read_settings
from connectors.delivery import keep_beside
from connectors.http import Guard, Http, Reply, Request
from connectors.login import STUMBLES, Session
from connectors.vendor import Account, Action, Ask
from orders.effect import Claim

log = logging.getLogger("orderflow.systems")

REPLY_CAP = 2 << 20  # bytes: a label is an image


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


class Systems:
    ability: ClassVar[Ability] = Ability("neither")  # of what no account declares
    pace_per_s: ClassVar[float] = 4.0
    width: ClassVar[int] = 16

    def __init__(self, settings: dict[str, Any], guard: Guard | None = None) -> None:
        from connectors.registry import VENDORS  # which lists this channel too

        self.settings: SystemsSettings = read_settings(SystemsSettings, "systems", settings)
        guard = guard or Guard(private=self.settings.private)
        self.http = Http(connections=self.settings.concurrency or self.width, guard=guard, reply_cap=REPLY_CAP)
        self.sessions: dict[str, Session] = {}
        for one in self.settings.accounts:
            if one.vendor not in VENDORS:
                raise SettingsError(f"systems: account {one.account.source} is of no vendor that we know: {one.vendor}")
            url = one.account.url or VENDORS[one.vendor].url
            if not (url.startswith("https://") or self.settings.private):
                raise SettingsError(f"systems: url of account {one.account.source} must be https (channels.systems.private allows others)")
            self.sessions[one.account.source] = Session(VENDORS[one.vendor], one.account, self.http)

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
        try:
            ask = asked(claim, now_ms)
            session = self.serving(ask)
            if session is None:
                return TryLater(Reason.CONFIGURATION)
            action = session.vendor.actions[ask.event]
            render = action.look if claim.lookup else action.render
            if render is None:
                return Unknown(Reason.NO_LOOKUP)
            request = render(session.account, ask)
        except STUMBLES:
            return Refused(Reason.MALFORMED)
        except KeyError:
            return TryLater(Reason.CONFIGURATION)  # an option of the account that the vendor needs is missing
        answer = await self.tried(session, action, ask, request, claim.lookup, now_ms, budget_s)
        return await self.kept(answer) if isinstance(answer, Done) else answer

    async def tried(
        self, session: Session, action: Action, ask: Ask, request: Request, lookup: bool, now_ms: int, budget_s: float
    ) -> Answer:
        """One attempt within the budget: one request or, where the first only prepares the second (`Action.then`), two."""
        ends = asyncio.get_running_loop().time() + budget_s
        reply = await self.sent(session, action, request, now_ms, ends)
        if not lookup and action.then is not None:
            if not isinstance(reply, Reply):
                return TryLater(reply.reason)  # nothing was asked for yet
            step = action.then(session.account, ask, reply)
            if not isinstance(step, Request):
                return step
            reply = await self.sent(session, action, step, now_ms, ends)
        if not isinstance(reply, Reply):
            return reply
        return read(action, session.account, ask, reply, lookup)

    async def sent(
        self, session: Session, action: Action, request: Request, now_ms: int, ends: float
    ) -> Reply | TryLater | Refused | Unknown:
        """The reply to a request with the account's credentials; `ends` is the loop's time of the budget's end."""
        time = asyncio.get_running_loop().time
        ready = await session.authorized(request, now_ms, max(0.0, ends - time()), action.login)
        if isinstance(ready, TryLater):
            return ready
        reply = await self.http.send(ready, max(0.0, ends - time()), now_ms)
        if isinstance(reply, Reply) and reply.status == 401:
            session.refused(ready)
        return reply

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


def asked(claim: Claim, now_ms: int = 0) -> Ask:
    """What a claim asks for, under the effect's own key. Raises msgspec.MsgspecError."""
    ask = msgspec.json.decode(claim.body, type=Ask)
    return msgspec.structs.replace(ask, id=claim.effect, at=now_ms)


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
