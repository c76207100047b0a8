"""Who asks: the person or machine behind a request, and what their roles let them do.

Roles: `viewer` sees; `reviewer` decides about held orders; `warehouse` picks and packs; `operator` cancels, holds, repairs, resends and
changes modes; `admin` may do everything. Every other role sees too.

People sign in with a password, machines show a token. A session is a signed cookie and nothing on our side: what signs it is derived
from the key of this installation and from the person's password hash, so another password ends every session begun with the old one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b, scrypt, sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Guard

from web.problem import Refusal

ROLES = ("viewer", "reviewer", "warehouse", "operator", "admin")
COOKIE = "orderflow_session"
SESSION_MS = 12 * 3_600_000
TOKEN_NAME = "token"  # noqa: S105 - what the one token of `http.token` is called
LOG_N, BLOCK, LANES = 14, 8, 1  # of scrypt: 16 MiB and some 50 ms for one password
MOST_MEMORY = 64 << 20


class Actor(NamedTuple):
    name: str  # kept with whatever they do
    roles: frozenset[str]
    csrf: str = ""  # what forms of theirs carry

    def may(self, role: str) -> bool:
        return role == "viewer" or role in self.roles or "admin" in self.roles

    @property
    def acts(self) -> bool:
        """Does anything at all, and not only look."""
        return not self.roles <= {"viewer"}


LOCAL = Actor("local", frozenset({"admin"}))  # whoever is on this machine, where nobody has to sign in


class Known(NamedTuple):
    """A person or a machine as configured."""

    name: str
    roles: frozenset[str]
    secret: str  # a person's password hash, a machine's token


class People:
    """Everybody who may come in; with nobody configured, whoever is on this machine."""

    def __init__(self, people: Sequence[Known] = (), machines: Sequence[Known] = (), key: bytes = b"") -> None:
        """`key` signs sessions. Raises ValueError for a password hash that cannot be one."""
        self._people = {known.name: known for known in people}
        self._machines = tuple(machines)
        self._key = key
        for known in people:
            password_parts(known.secret)
        self._nobody = people[0].secret if people else ""  # what an unknown name is compared with: it takes as long

    @property
    def guarded(self) -> bool:
        """Somebody has to say who they are."""
        return bool(self._people or self._machines)

    @property
    def sign_in(self) -> bool:
        """There are people, so there is a page to sign in at."""
        return bool(self._people)

    def password(self, name: str, password: str) -> bool:
        """Whether this is their password; takes as long for a name that nobody has. Blocks for some 50 ms: call it in a thread."""
        known = self._people.get(name)
        right = verify(password, known.secret if known is not None else self._nobody)
        return right and known is not None

    def named(self, name: str) -> Actor:
        """Whom a name means. One that nobody has is not repeated: it may be a password that was typed into the wrong field."""
        known = self._people.get(name)
        return Actor(known.name, known.roles) if known is not None else Actor("somebody unknown", frozenset())

    def begin(self, name: str, now: int) -> str:
        """The cookie of a new session, for somebody whose password was right."""
        text = f"{name.encode().hex()}.{now + SESSION_MS}.{secrets.token_hex(8)}"
        return f"{text}.{self._sign(self._people[name], 'session', text)}"

    def session(self, cookie: str, now: int) -> Actor | None:
        """Whose session this is; None for one that is over, was changed, or was begun with another password."""
        text, _, signature = cookie.rpartition(".")
        with contextlib.suppress(ValueError):  # not three parts, not hexadecimal, not text
            name, until, _ = text.split(".")
            known = self._people.get(bytes.fromhex(name).decode())
            if known is None or not hmac.compare_digest(self._sign(known, "session", text).encode(), signature.encode()):
                return None
            if int(until) > now:
                return Actor(known.name, known.roles, self._sign(known, "csrf", text))
        return None

    def machine(self, authorization: bytes) -> Actor | None:
        """Whose token the header carries, as bearer or as the password that a browser asked for; each is compared, in constant time."""
        scheme, _, value = authorization.partition(b" ")
        shown = b""
        if scheme.lower() == b"bearer":
            shown = value.strip()
        elif scheme.lower() == b"basic":
            with contextlib.suppress(binascii.Error):
                shown = base64.b64decode(value, validate=True).partition(b":")[2]
        right = [known for known in self._machines if hmac.compare_digest(shown, known.secret.encode())]
        if not right or not shown:
            return None
        return Actor(right[0].name, right[0].roles, self._sign(right[0], "csrf", "token"))

    def _sign(self, known: Known, purpose: str, text: str) -> str:
        key = blake2b(f"{purpose}\x1f{known.name}\x1f{known.secret}".encode(), key=sha256(self._key).digest()).digest()
        return hmac.new(key, text.encode(), sha256).hexdigest()


def only(token: str) -> People:
    """Nobody but machines with this one token; for "" nobody at all."""
    return People(machines=[Known(TOKEN_NAME, frozenset({"admin"}), token)] if token else ())


class Attempts:
    """How often somebody tried to sign in lately, per name and per address: whoever guesses has to wait."""

    def __init__(self, per_name: int = 10, per_address: int = 50, window_ms: int = 900_000, remembered: int = 10_000) -> None:
        self._limits = {"name": per_name, "address": per_address}
        self._window_ms, self._remembered = window_ms, remembered
        self._tried: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()  # (since, how often)

    def wait_s(self, name: str, address: str, now: int) -> int:
        """Counts an attempt before it is made; more than 0: it must not be made for so many seconds."""
        waits = []
        for kind, value in (("name", blake2b(name.encode(), digest_size=16).hexdigest()), ("address", address)):
            since, count = self._tried.pop((kind, value), (now, 0))
            if since + self._window_ms <= now:
                since, count = now, 0
            self._tried[kind, value] = since, min(count + 1, self._limits[kind] + 1)
            if count >= self._limits[kind]:
                waits.append((since + self._window_ms - now) // 1000 + 1)
        while len(self._tried) > self._remembered:
            self._tried.popitem(last=False)
        return max(waits, default=0)

    def right(self, name: str, address: str) -> None:
        """It was them: what they mistyped before is forgotten."""
        self._tried.pop(("name", blake2b(name.encode(), digest_size=16).hexdigest()), None)
        if ("address", address) in self._tried:
            since, count = self._tried["address", address]
            self._tried["address", address] = since, count - 1


# --- passwords
def hashed(password: str) -> str:
    """As a configuration's secret holds it: `scrypt$n$r$p$salt$hash`."""
    salt = secrets.token_bytes(16)
    made = scrypt(password.encode(), salt=salt, n=1 << LOG_N, r=BLOCK, p=LANES, maxmem=MOST_MEMORY)
    return f"scrypt${1 << LOG_N}${BLOCK}${LANES}${base64.b64encode(salt).decode()}${base64.b64encode(made).decode()}"


def verify(password: str, secret: str) -> bool:
    n, r, p, salt, made = password_parts(secret)
    return hmac.compare_digest(scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=MOST_MEMORY, dklen=len(made)), made)


def password_parts(secret: str) -> tuple[int, int, int, bytes, bytes]:
    """Raises ValueError for what `hashed` did not make."""
    try:
        scheme, *numbers, salt, made = secret.strip().split("$")
        n, r, p = map(int, numbers)
        parts = n, r, p, base64.b64decode(salt, validate=True), base64.b64decode(made, validate=True)
        sound = n > 1 and n & (n - 1) == 0 and r > 0 and 0 < p <= 16 and 128 * r * (n + p + 2) <= MOST_MEMORY
        if scheme == "scrypt" and sound and len(parts[4]) >= 16:
            return parts
    except ValueError:
        pass
    raise ValueError("not a password hash: make one with `run.py people hash`")


# --- requests
def actor(request: ASGIConnection[Any, Any, Any, Any]) -> Actor:
    """Who makes this request, as the door found out."""
    found = request.scope.get("actor", LOCAL)
    assert isinstance(found, Actor)
    return found


def cookie_of(header: bytes) -> str:
    """The session in a Cookie header; "" without one."""
    try:
        found = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def must(who: Actor, role: str) -> None:
    """Raises Refusal (403), naming the role, for whoever does not have it."""
    if not who.may(role):
        raise Refusal(403, "forbidden", f"This needs the role {role}")


def needs(role: str) -> Guard:
    """Refuses (403) whoever does not have the role."""

    def check(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        must(actor(connection), role)

    return check


async def form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The fields of a form that one of our own pages sent. Raises Refusal for one that was not."""
    fields = {name: str(value) for name, value in (await request.form()).items()}
    if not hmac.compare_digest(fields.pop("csrf", "").encode(), actor(request).csrf.encode()):
        raise Refusal(403, "foreign_form", "This form was not made for you, or you have signed in anew since: load the page again")
    return fields
