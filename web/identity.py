"""Who asks: the person or machine behind a request, and what their roles let them do.

Roles: `viewer` sees; `reviewer` decides about held orders; `warehouse` picks and packs; `operator` cancels, holds, repairs, resends and
changes modes; `admin` may do everything. Every other role sees too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Guard

from web.problem import Refusal

ROLES = ("viewer", "reviewer", "warehouse", "operator", "admin")


class Actor(NamedTuple):
    name: str  # kept with whatever they do
    roles: frozenset[str]
    csrf: str = ""  # what forms of theirs carry

    def may(self, role: str) -> bool:
        return role == "viewer" or role in self.roles or "admin" in self.roles


LOCAL = Actor("local", frozenset({"admin"}))  # whoever is on this machine, where nobody has to sign in


def actor(request: ASGIConnection[Any, Any, Any, Any]) -> Actor:
    """Who makes this request, as the door found out."""
    found = request.scope.get("actor", LOCAL)
    assert isinstance(found, Actor)
    return found


def needs(role: str) -> Guard:
    """Refuses (403) whoever does not have the role."""

    def check(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if not actor(connection).may(role):
            raise Refusal(403, "forbidden", f"This needs the role {role}")

    return check


async def form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The fields of a form that one of our own pages sent. Raises Refusal for one that was not."""
    return {name: str(value) for name, value in (await request.form()).items()}
