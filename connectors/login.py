"""How requests to a vendor's API are authorised: one session per account, which keeps the tokens that the vendor gives."""

from __future__ import annotations

import asyncio

import msgspec

from connectors.base import Reason, Secret, TryLater
from connectors.delivery import Unreadable
from connectors.http import Http, Reply, Request
from connectors.vendor import Account, Login, Vendor

MARGIN_S = 60.0  # a token is renewed so long before it ends, or after half its life where that is shorter
STUMBLES = (Unreadable, msgspec.MsgspecError, ValueError)  # what reading an answer raises for what cannot be read


class Token:
    """What one login was given; `text` is None while there is none."""

    def __init__(self) -> None:
        self.text: Secret | None = None
        self.until_ms = 0
        self.lock = asyncio.Lock()


class Session:
    """Shared by all requests to one account; one of them fetches a token, the others wait within their own budgets."""

    def __init__(self, vendor: Vendor, account: Account, http: Http) -> None:
        self.vendor, self.account, self.http = vendor, account, http
        self._tokens: dict[Login, Token] = {}

    async def authorized(self, request: Request, now_ms: int, budget_s: float, also: Login | None = None) -> Request | TryLater:
        """The request with credentials; `also`: with those of a second login, too. What fails here fails before its first byte."""
        try:
            async with asyncio.timeout(budget_s):
                for login, first in ((self.vendor.login, None), (also, self.vendor.login)):
                    if login is not None:
                        signed = await self._signed(login, request, now_ms, budget_s, first)
                        if isinstance(signed, TryLater):
                            return signed
                        request = signed
            return request
        except TimeoutError:
            return TryLater(Reason.CONNECT)
        except (KeyError, ValueError):
            return TryLater(Reason.CREDENTIALS)  # one is missing in the configuration, or is none that could be one

    def refused(self, request: Request) -> None:
        """The vendor did not believe this request (401): its token is fetched anew; one that was fetched since stays."""
        for token in self._tokens.values():
            if token.text is not None and any(token.text.reveal() in value for _, value in request.headers):
                token.text = None

    async def _signed(self, login: Login, request: Request, now_ms: int, budget_s: float, first: Login | None) -> Request | TryLater:
        """`first`: the login by which this one's token is asked for."""
        asking = login.render(self.account) if login.render is not None else None
        text = Secret("")
        if asking is not None:
            token = self._tokens.setdefault(login, Token())
            async with token.lock:
                if token.text is None or now_ms >= token.until_ms:
                    ready = asking if first is None else await self._signed(first, asking, now_ms, budget_s, None)
                    failed = ready if isinstance(ready, TryLater) else await self._fetch(login, token, ready, now_ms, budget_s)
                    if failed is not None:
                        return failed
                assert token.text is not None
                text = token.text
        return request.with_headers(*login.headers(self.account, text.reveal()))

    async def _fetch(self, login: Login, token: Token, asking: Request, now_ms: int, budget_s: float) -> TryLater | None:
        """Why there is no token; None when there is."""
        assert login.token is not None
        reply = await self.http.send(asking, budget_s, now_ms)
        if not isinstance(reply, Reply):
            return TryLater(reply.reason)  # whatever became of it, nothing was asked for yet
        if not 200 <= reply.status < 300:
            if reply.status == 401:
                self.refused(asking)
            reason = Reason.RATE if reply.status == 429 else Reason.CREDENTIALS if reply.status < 500 else Reason.PROVIDER
            return TryLater(reason, reply.retry_after_s)
        try:
            text, life_s = login.token(reply)
        except STUMBLES:
            return TryLater(Reason.PROVIDER)
        token.text = Secret(text)
        token.until_ms = now_ms + int(max(life_s - MARGIN_S, life_s / 2) * 1000)
        return None
