"""One person and one machine for every role, and how they come in."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import scrypt
from typing import Any

import httpx

from web.identity import ROLES, Known, People

PASSWORD = "a password of the tests"
KEY = b"a signing key of the tests"


def cheaply_hashed(password: str, salt: bytes = b"salt") -> str:
    """A sound hash that takes no time to make."""
    made = scrypt(password.encode(), salt=salt, n=2, r=1, p=1)
    return f"scrypt$2$1$1${b64encode(salt).decode()}${b64encode(made).decode()}"


def everybody(password: str = PASSWORD) -> People:
    """People are called like their role; the token of `machine-operator` is `token-operator`."""
    people = [Known(role, frozenset({role}), cheaply_hashed(password)) for role in ROLES]
    return People(people, [Known(f"machine-{role}", frozenset({role}), f"token-{role}") for role in ROLES], KEY)


def bearer(role: str) -> dict[str, str]:
    return {"authorization": f"Bearer token-{role}"}


async def sign_in(client: httpx.AsyncClient, name: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
    return await client.post("/sign-in", data={"name": name, "password": password, **more})


async def csrf(client: httpx.AsyncClient, path: str = "/orders/lumi:1004") -> str:
    """What the forms of a page carry."""
    found = re.search(r'name="csrf" value="([^"]*)"', (await client.get(path)).text)
    assert found is not None
    return found.group(1)
