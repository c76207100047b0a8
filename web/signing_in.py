"""`/sign-in` and `/sign-out`: a name and a password become a session, see `web.identity`."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from litestar import MediaType, Request, Response, get, post
from litestar.types import ControllerRouterHandler

from streams.clock import Clock
from web.audit import Audit
from web.identity import COOKIE, SESSION_MS, Attempts, People, form
from web.pages import Pages

WRONG = "Name or password is not right. Passwords are made with `run.py people hash` by whoever runs this installation."
AT_ONCE = 2  # passwords that are looked at side by side: each takes 16 MiB and a core
FORM_BYTES = 64 * 1024
_LOCAL = re.compile(r"/(?![/\\])[^\s\\\x00-\x20\x7f]*")
NOT_KEPT = {"cache-control": "no-store"}


def local(path: str) -> str:
    """Where to go after signing in: a path of ours, whatever the link said."""
    return path if _LOCAL.fullmatch(path) and not path.startswith(("/sign-in", "/sign-out")) else "/"


def signing_in_routes(
    people: People, audit: Audit, pages: Pages, clock: Clock, attempts: Attempts | None = None
) -> list[ControllerRouterHandler]:
    tried = attempts or Attempts()
    looking = asyncio.Semaphore(AT_ONCE)

    def answer(status: int, wanted: str, name: str = "", problem: str = "", wait_s: int = 0) -> Response[str]:
        html = pages.render("sign_in.html", page="sign_in", wanted=wanted, name=name, problem=problem)
        headers = NOT_KEPT | ({"retry-after": str(wait_s)} if wait_s else {})
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=headers)

    def onward(path: str, request: Request[Any, Any, Any], session: str, age_s: int) -> Response[str]:
        encrypted = request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "") == "https"
        cookie = f"{COOKIE}={session}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{'; Secure' if encrypted else ''}"
        return Response("", status_code=303, media_type=MediaType.HTML, headers={"location": path, "set-cookie": cookie, **NOT_KEPT})

    @get("/sign-in")
    async def ask(request: Request[Any, Any, Any]) -> Response[str]:
        wanted = local(request.query_params.get("next", "/"))
        if not people.sign_in:
            return Response("", status_code=303, media_type=MediaType.HTML, headers={"location": wanted})
        return answer(200, wanted)

    @post("/sign-in", request_max_body_size=FORM_BYTES)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[str]:
        fields = {name: str(value) for name, value in (await request.form()).items()}  # nobody has a session to check it with yet
        name, wanted = fields.get("name", "")[:64], local(fields.get("next", "/"))
        address = request.client.host if request.client else ""
        now = clock.now()
        wait_s = tried.wait_s(name, address, now)
        if wait_s:
            return answer(429, wanted, name, f"Too many attempts: wait {-(-wait_s // 60)} minutes, then try again.", wait_s)
        async with looking:
            right = people.sign_in and await asyncio.to_thread(people.password, name, fields.get("password", "")[:1024])
        who = people.named(name)
        await audit.tell(who, "sign_in", "pages", after="signed in" if right else "refused")
        if not right:
            return answer(403, wanted, name, WRONG)
        tried.right(name, address)
        return onward(wanted, request, people.begin(name, now), SESSION_MS // 1000)

    @post("/sign-out", request_max_body_size=FORM_BYTES)
    async def sign_out(request: Request[Any, Any, Any]) -> Response[str]:
        await form(request)
        await audit(request, "sign_out", "pages")
        return onward("/sign-in", request, "", 0)

    return [ask, sign_in, sign_out]
