"""How requests to a vendor's API are authorised: one session per account, which keeps the token where the vendor gives one."""

from __future__ import annotations

import asyncio

from connectors.base import Reason, Secret, TryLater
from connectors.delivery import Unreadable
from connectors.http import Http, Reply, Request
from connectors.vendor import Account, Login, Vendor

MARGIN_S = 60.0  # a token is renewed so long before it ends, or after half its life where that is shorter


class Session:
    """Shared by all requests to one account; one of them fetches the token, the others wait within their own budgets."""

    def __init__(self, vendor: Vendor, account: Account, http: Http) -> None:
        self.vendor, self.account, self.http = vendor, account, http
        self._token: Secret | None = None
        self._until_ms = 0
        self._lock = asyncio.Lock()

    async def authorized(self, request: Request, now_ms: int, budget_s: float) -> Request | TryLater:
        """The request with credentials. What fails here fails before the request's first byte."""
        login = self.vendor.login
        if login is None:
            return request
        token = Secret("")
        try:
            asking = login.render(self.account) if login.render is not None else None
            if asking is not None:
                try:
                    async with asyncio.timeout(budget_s), self._lock:
                        held = self._token if self._token and now_ms < self._until_ms else None
                        found = held or await self._fetch(login, asking, now_ms, budget_s)
                except TimeoutError:
                    return TryLater(Reason.CONNECT)
                if isinstance(found, TryLater):
                    return found
                token = found
            return request.with_headers(*login.headers(self.account, token.reveal()))
        except KeyError:  # a credential that the configuration does not name
            return TryLater(Reason.CREDENTIALS)

    def dropped(self) -> None:
        """The vendor refused the token (401): the next request fetches another."""
        self._token = None

    async def _fetch(self, login: Login, asking: Request, now_ms: int, budget_s: float) -> Secret | TryLater:
        assert login.token is not None
        reply = await self.http.send(asking, budget_s, now_ms)
        if not isinstance(reply, Reply):
            return TryLater(reply.reason)  # whatever became of it, nothing was asked yet
        if not 200 <= reply.status < 300:
            reason = Reason.RATE if reply.status == 429 else Reason.CREDENTIALS if reply.status < 500 else Reason.PROVIDER
            return TryLater(reason, reply.retry_after_s)
        try:
            token, life_s = login.token(reply)
        except Unreadable:
            return TryLater(Reason.PROVIDER)
        self._token = Secret(token)
        self._until_ms = now_ms + int(max(life_s - MARGIN_S, life_s / 2) * 1000)
        return self._token
