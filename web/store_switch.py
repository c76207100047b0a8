"""The Switch over the store: the document of modes, and what orders only observed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from connectors.store import LaneId, Store
from messages.customer import Customer
from messages.customer import decode as decode_customer
from messages.render import Renderer
from orders.plan import MESSAGE_CHANNELS, customer_of
from orders.policy import Policy
from orders.state import decode
from orders.status import Status
from orders.view import view
from streams.dispatch import Modes
from streams.modes import ModesDocument, Observed, observed
from streams.partition import partition_of
from web.preview import Preview, preview

LOOKED_AT = 200_000  # orders, of which what was observed is counted: about a second
LATEST = 40  # orders among which a preview is looked for


class StoreSwitch:
    def __init__(self, store: Store, modes: ModesDocument, layout: int, partitions: int, policy: Policy, renderer: Renderer) -> None:
        self._store, self._document, self._policy, self._renderer = store, modes, policy, renderer
        self._orders = [LaneId("orders", layout, p) for p in range(partitions)]
        self._customers = [LaneId("customers", layout, p) for p in range(partitions)]

    async def modes(self) -> Modes:
        return await self._document.read()

    async def change(self, by: str, change: Callable[[Modes], Modes], seen: int | None = None) -> Modes:
        return await self._document.change(by, change, seen)

    async def observed(self, channel: str) -> Observed:
        return await observed(self._store, self._orders, channel, self._policy.served, LOOKED_AT)

    async def preview(self, channel: str) -> Preview | None:
        if channel not in MESSAGE_CHANNELS.values():
            return None
        pages = await asyncio.gather(*(self._store.by_tag(self._orders, status.value, LATEST) for status in Status))
        for _, key, lane in sorted((entry for page in pages for entry in page), reverse=True)[:LATEST]:
            blob = await self._store.state(lane, key)
            order = decode(blob) if blob is not None else None
            if order is None or not order.closed:
                continue
            v = view(order)
            if v.placed is None:
                continue
            customer = customer_of(v)
            known = await self._store.state(self._customers[partition_of(customer.encode(), len(self._customers))], customer)
            found = preview(order, decode_customer(known) if known is not None else Customer(), channel, self._policy, self._renderer)
            if found is not None:
                return found
        return None
