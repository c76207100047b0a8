"""One look at the store per second, however many pages are open, and the last minute's flow.

A page opens a stream of server-sent events and gets whole regions of HTML, rendered by the templates that rendered the
page; a region that did not change is not sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
import structlog

from connectors.store import StoreDown, StoreRefused
from streams.dispatch import Modes
from web.reader import Counters, OrderDetail, Reader, Row

log = structlog.get_logger("live")
TICK_S = 1.0
ORDER_TICK_S = 0.5
REMEMBERED = 90  # ticks of flow
LATEST = 40  # orders on the overview
MOST_WATCHERS = 200
AWAY = (StoreDown, StoreRefused, ConnectionError, TimeoutError)


class Snapshot(msgspec.Struct, frozen=True):
    """What the overview shows at one moment. `stale` says in words why it is old."""

    counters: Counters
    modes: Modes | None = None  # None: nobody told us where they lie
    rates: tuple[float, ...] = ()  # facts per second, the newest last
    stale: str = ""


class Live:
    def __init__(self, reader: Reader, tick_s: float = TICK_S, modes: Callable[[], Awaitable[Modes]] | None = None) -> None:
        self._reader, self._tick_s, self._modes = reader, tick_s, modes
        self.now = Snapshot(Counters())
        self.watchers = 0
        self._rates: deque[float] = deque([0.0] * REMEMBERED, maxlen=REMEMBERED)
        self._last: tuple[float, int] | None = None
        self._ticked = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._look()
        self._task = asyncio.create_task(self._run(), name="live")

    async def close(self) -> None:
        """Ends all streams too."""
        self._closing = True
        self._ticked.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def orders(self, tag: str) -> Sequence[Row]:
        return await self._reader.orders(tag, LATEST)

    @property
    def full(self) -> bool:
        return self.watchers >= MOST_WATCHERS

    async def overview(self, tag: str, render: Callable[[Snapshot, Sequence[Row]], dict[str, str]]) -> AsyncIterator[tuple[str, str]]:
        """(region, HTML) whenever one changed. `render` turns what is known into regions."""
        sent: dict[str, str] = {}
        rows: Sequence[Row] = ()
        self.watchers += 1
        try:
            while not self._closing:
                try:
                    rows = await self.orders(tag)
                except AWAY:
                    pass  # the counters say so
                for region, html in render(self.now, rows).items():
                    if sent.get(region) != html:
                        sent[region] = html
                        yield region, html
                await self._ticked.wait()
        finally:
            self.watchers -= 1

    async def order(self, order_id: str, render: Callable[[OrderDetail], str]) -> AsyncIterator[tuple[str, str]]:
        sent = ""
        self.watchers += 1
        try:
            while not self._closing:
                try:
                    found = await self._reader.order(order_id)
                except AWAY:
                    found = None
                if found is not None:
                    html = render(found)
                    if html != sent:
                        sent = html
                        yield "order", html
                await asyncio.sleep(ORDER_TICK_S)
        finally:
            self.watchers -= 1

    async def region(self, name: str, render: Callable[[], Awaitable[str]]) -> AsyncIterator[tuple[str, str]]:
        """One region, rendered each tick and sent when it changed; while the store is away the last one stands."""
        sent = ""
        self.watchers += 1
        try:
            while not self._closing:
                with contextlib.suppress(*AWAY):
                    html = await render()
                    if html != sent:
                        sent = html
                        yield name, html
                await self._ticked.wait()
        finally:
            self.watchers -= 1

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            await self._look()
            ticked, self._ticked = self._ticked, asyncio.Event()
            ticked.set()

    async def _look(self) -> None:
        try:
            counters = await self._reader.counters()
            modes = await self._modes() if self._modes is not None else None
        except AWAY as error:
            log.warning("store cannot be asked", error=type(error).__name__)
            self.now = msgspec.structs.replace(self.now, stale="The store does not answer. What you see is the last that was known.")
            return
        at = time.monotonic()
        if self._last is not None and at > self._last[0]:
            self._rates.append(max(0, counters.facts - self._last[1]) / (at - self._last[0]))
        self._last = (at, counters.facts)
        self.now = Snapshot(counters, modes, tuple(self._rates))
