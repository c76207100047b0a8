"""The document of modes: one for everybody who changes it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from streams.clock import VirtualClock
from streams.dispatch import Modes
from streams.modes import MODES, ModesDocument, Outdated, with_mode
from tests.web.fake_desk import FakeStore


@pytest.fixture
def document() -> ModesDocument:
    store: Any = FakeStore()
    return ModesDocument(store, VirtualClock(5_000), dict.fromkeys(MODES, "observe"))


async def test_before_the_first_change_the_configuration_counts(document: ModesDocument) -> None:
    modes = await document.read()
    assert (modes.version, modes.by, modes.channels["email"]) == (0, "", "observe")


async def test_a_change_says_who_made_it_and_when_and_leaves_the_rest_alone(document: ModesDocument) -> None:
    await document.change("anna", lambda modes: with_mode(modes, "email", "live"))
    await document.change("ben", lambda modes: msgspec.structs.replace(modes, stop="wrong prices"))
    modes = await document.read()
    assert (modes.version, modes.by, modes.at, modes.stop) == (2, "ben", 5_000, "wrong prices")
    assert (modes.channels["email"], modes.channels["sms"]) == ("live", "observe")


async def test_changes_side_by_side_are_all_kept(document: ModesDocument) -> None:
    await asyncio.gather(*(document.change(name, lambda modes, name=name: with_mode(modes, name, "live")) for name in MODES))  # type: ignore[misc]
    modes = await document.read()
    assert modes.version == len(MODES) and set(modes.channels.values()) == {"live"}


async def test_whoever_looked_at_an_older_version_is_told(document: ModesDocument) -> None:
    await document.change("anna", lambda modes: with_mode(modes, "email", "live"), seen=0)
    with pytest.raises(Outdated):
        await document.change("ben", lambda modes: with_mode(modes, "email", "observe"), seen=0)
    assert (await document.read()).channels["email"] == "live"


@pytest.mark.parametrize(("channel", "mode"), [("stock", "stopped"), ("stock", "sandbox"), ("email", "on"), ("email", "")])
def test_a_channel_is_only_in_modes_that_it_knows(channel: str, mode: str) -> None:
    with pytest.raises(ValueError, match="can be in"):
        with_mode(Modes(), channel, mode)


def test_a_document_of_the_version_before_is_read() -> None:
    old = b'{"version":3,"stop":"","default":"observe","channels":{"email":"live"}}'
    assert msgspec.json.decode(old, type=Modes).by == ""
