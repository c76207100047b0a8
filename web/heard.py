"""How long each source that pushes has been silent, across restarts: a dead webhook is noticed although nothing fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from connectors.store import Store, StoreDown, StoreRefused
from metrics import Metrics
from streams.clock import Clock

HEARD = "heard"  # the store's times of the latest delivery, by source
KEEP_S = 1.0


class Watched(NamedTuple):
    vendor: str
    silent_after_s: float


class Heard:
    """When each source was last believed. A source that never spoke is silent since the first gateway knew of it."""

    def __init__(self, sources: Mapping[str, Watched], store: Store, clock: Clock, metrics: Metrics) -> None:
        self._sources, self._store, self._clock, self._metrics = sources, store, clock, metrics
        self._latest: dict[str, int] = {}
        self._unkept: dict[str, int] = {}
        for source, its in sources.items():
            metrics.source_silent_after(its.vendor, source).set(its.silent_after_s)

    def note(self, source: str) -> None:
        """A delivery of this source was believed just now."""
        self._unkept[source] = self._latest[source] = self._clock.now()

    async def keep(self) -> None:
        """Until cancelled; while the store is away the last known times count."""
        while True:
            await self.look()
            await asyncio.sleep(KEEP_S)

    async def look(self) -> None:
        """Writes what is new, learns what other gateways heard, and shows it."""
        unkept, self._unkept = self._unkept, {}
        try:
            stored = await self._store.times(HEARD)
            await self._store.remember(HEARD, {source: at for source, at in unkept.items() if at > stored.get(source, 0)})
            unknown = {source: self._clock.now() for source in self._sources if source not in stored and source not in unkept}
            if unknown:
                await self._store.remember(HEARD, unknown, first=True)
                stored = unknown | stored
        except (StoreDown, StoreRefused):
            self._unkept = unkept | self._unkept
            stored = {}
        now = self._clock.now()
        for source, its in self._sources.items():
            latest = self._latest[source] = max(stored.get(source, 0), self._latest.get(source, 0))
            if latest:
                self._metrics.source_silence(its.vendor, source).set(max(0.0, (now - latest) / 1000))
