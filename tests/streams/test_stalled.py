"""Orders that stay where they are are counted by what they wait for, from the index and without reading one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.valkey import EmbeddedValkey
from meter import WAITS_FOR, Meter, Repairs
from metrics import OTHER, STALLED, Metrics
from orders.status import Status
from streams.reconcile import REPAIRS
from tests.connectors.toy_vendors import CARRIER, GATEWAY, SHOP, pushed
from tests.streams.test_reconcile import NOW, T0, Installation, installed, parcel, payment, sale

HOUR = 3_600_000


@pytest.fixture
async def installation(valkey_server: EmbeddedValkey) -> AsyncIterator[Installation]:
    async with installed(valkey_server) as made:
        yield made


async def test_they_are_counted_by_status_and_move_on_with_the_next_report(installation: Installation) -> None:
    made, metrics = installation, Metrics()
    meter = Meter(metrics, made.clock)
    worker: Any = SimpleNamespace(lanes={lane: SimpleNamespace(id=lane) for lane in made.known.lanes("orders")})
    await made.tell(*(pushed(SHOP, {"sold": [sale(n)]}, T0) for n in range(3)), pushed(CARRIER, parcel(2, 1), T0))

    async def stalled(hours: float) -> dict[tuple[str, str], float]:
        await meter.stalled(made.store, worker, int(hours * HOUR))
        samples = [s for family in metrics.registry.collect() for s in family.samples if s.name == "orderflow_stalled_orders"]
        return {(s.labels["status"], s.labels["reason"]): s.value for s in samples if s.value}

    assert await stalled(49) == {}
    assert await stalled(45) == {("order_placed", "payment"): 2.0, ("shipped", "carrier"): 1.0}
    await made.tell(pushed(GATEWAY, {"paid": [{**payment(0), "at": NOW}]}, NOW))
    second = await stalled(1)
    assert second["order_placed", "payment"] == 1.0, "the payment that came took it out of there"
    await made.tell(pushed(CARRIER, parcel(2, 3), NOW))
    assert ("shipped", "carrier") not in await stalled(1), "what has arrived does not stall"


def test_every_status_either_waits_for_something_or_has_ended() -> None:
    ended = {Status.DELIVERED, Status.RETURNED, Status.REFUNDED, Status.CANCELLED}
    assert set(Status) - set(WAITS_FOR) == ended
    assert all(STALLED(reason) != OTHER for reason in WAITS_FOR.values())


async def test_every_process_shows_the_same_tally_of_repairs(installation: Installation) -> None:
    made = installation
    here, there = Metrics(), Metrics()
    await made.store.tally(REPAIRS, {"missed_paid": 2, "missed_order": 1})
    one = Repairs(here)
    await one.look(made.store)
    await made.store.tally(REPAIRS, {"missed_paid": 1})
    await one.look(made.store)
    await one.look(made.store)
    await Repairs(there).look(made.store)
    for metrics in (here, there):
        assert 'orderflow_reconcile_repairs_total{kind="missed_paid"} 3.0' in metrics.expose().decode()
        assert 'orderflow_reconcile_repairs_total{kind="missed_order"} 1.0' in metrics.expose().decode()
