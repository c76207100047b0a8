"""The document of modes in the store, and what was only observed under them: one for `run.py go-live`, pages and API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from connectors.store import LaneId, Store
from orders.plan import CHANNELS, MESSAGE_CHANNELS
from orders.state import NewerState, parts
from orders.state import decode as decode_order
from streams.clock import Clock
from streams.dispatch import Modes

MODED = (
    "email",
    "sms",
    "push",
    "webhook",
    "systems",
    "stock",
)  # stock is asked of our own lanes, but only where they are the stock's truth
MODES = {channel: ("observe", "live") if channel == "stock" else ("observe", "sandbox", "live", "stopped") for channel in MODED}
_decode = msgspec.json.Decoder(Modes).decode


class Outdated(Exception):
    """Somebody changed the modes since whoever asks looked at them."""


class ModesDocument:
    """`before`: channel -> mode until somebody changes one."""

    def __init__(self, store: Store, clock: Clock, before: Mapping[str, str]) -> None:
        self._store, self._clock, self._before = store, clock, dict(before)

    async def read(self) -> Modes:
        version, body = await self._store.document()
        return msgspec.structs.replace(_decode(body), version=version) if body else Modes(channels=self._before)

    async def change(self, by: str, change: Callable[[Modes], Modes], seen: int | None = None) -> Modes:
        """Replaces the document by what `change` makes of it, whatever others change meanwhile; counts in all workers within 2 s.

        `seen`: the version that whoever asks has looked at; raises Outdated when it is not the stored one any more.
        """
        while True:
            modes = await self.read()
            if seen is not None and seen != modes.version:
                raise Outdated
            new = msgspec.structs.replace(change(modes), by=by, at=self._clock.now())
            if await self._store.put_document(modes.version, msgspec.json.encode(new)):
                return msgspec.structs.replace(new, version=modes.version + 1)


def with_mode(modes: Modes, channel: str, mode: str) -> Modes:
    """Pure. Raises ValueError for what this channel cannot be in."""
    if mode not in MODES[channel]:
        raise ValueError(f"{channel} can be in {', '.join(MODES[channel])}; a stop of everything stops it too")
    return msgspec.structs.replace(modes, channels={**modes.channels, channel: mode})


def in_words(modes: Modes) -> str:
    """As the audit keeps them: "stopped", or each channel with its mode."""
    return "stopped" if modes.stop else ", ".join(f"{channel} {mode}" for channel, mode in sorted(modes.channels.items()))


class Observed(msgspec.Struct, frozen=True):
    """What a channel would have sent, by what it was. None of it is ever sent later."""

    kinds: dict[str, int]
    orders: int = 0  # looked at
    unread: int = 0  # a newer version wrote them
    whole: bool = True  # False: there are more orders than were looked at


async def observed(store: Store, lanes: Sequence[LaneId], channel: str, served: Mapping[str, str], at_most: int = 0) -> Observed:
    """Reads the states of these lanes, seconds per million; at most so many, 0: all. `served`: `Policy.served`."""
    kinds: Counter[str] = Counter()
    orders = unread = 0
    for lane in lanes:
        async for _, blob in store.states(lane):
            if at_most and orders >= at_most:
                return Observed(_sorted(kinds), orders, unread, whole=False)
            orders += 1
            try:
                closed = decode_order(blob).closed
            except (NewerState, msgspec.DecodeError):
                unread += 1
                continue
            for name in closed:
                action, milestone, _ = parts(name)
                if served.get(action, CHANNELS.get(action)) == channel:
                    kinds[milestone if action in MESSAGE_CHANNELS else f"{action} {milestone}"] += 1
    return Observed(_sorted(kinds), orders, unread)


def _sorted(kinds: Counter[str]) -> dict[str, int]:
    return dict(sorted(kinds.items()))
