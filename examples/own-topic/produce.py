"""A shop that writes canonical facts to its own Kafka topic: all that a retailer's side has to do.

It knows nothing of orderflow but the facts' JSON (`run.py schema` prints it), and needs aiokafka alone:

    python produce.py [BOOTSTRAP] [TOPIC] [ORDERS]        127.0.0.1:9092  shop-orders  3

Keys are free: orderflow keys what it reads by order itself. Sending a fact twice, late or before another does no harm,
so after a crash simply send everything again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from aiokafka import AIOKafkaProducer

MINUTE = 60_000


def life(number: int, now: int) -> list[dict[str, Any]]:
    """What three systems of the shop report about one order. Times in ms, money in minor units (cents)."""
    order = f"lumi:{number}"

    def fact(kind: str, system: str, thing: str, minutes: int, **fields: Any) -> dict[str, Any]:
        """`system` + `object` + type is a fact's identity: what has the same three is the same fact."""
        return {"type": kind, "order": order, "system": system, "object": thing, "at": now + minutes * MINUTE, **fields}

    parcel = {"parcel": f"{number}-1", "carrier": "NorthPost", "tracking": f"NP{number}"}
    return [
        fact(
            "OrderPlaced", "shop:lumi", str(number), -60,
            number=str(number), customer="lumi:c17", currency="EUR", total=4980, service="express", promised=now + 2880 * MINUTE,
            lines=[{"line": "1", "sku": "LZ-001", "quantity": 2, "price": 2490, "title": "Aurora Desk Lamp", "location": "main"}],
            person={
                "name": "Anna Weber", "email": "anna.weber@example.invalid", "phone": "+4930231250017", "locale": "de-DE",
                "zone": "Europe/Berlin",
                "address": {"lines": ["Lindenstraße 5"], "city": "Berlin", "postcode": "10115", "country": "DE"},
            },
        ),
        fact("PaymentCaptured", "pay:lumi", f"pay-{number}", -58, amount=4980, currency="EUR"),
        fact("ItemsPicked", "wms:lumi", f"pick-{number}", -30, location="main"),
        fact("ParcelScanned", "northpost:lumi", f"NP{number}/1", -10, tag="in_transit", **parcel),
        fact("ParcelScanned", "northpost:lumi", f"NP{number}/2", 0, tag="delivered", **parcel),
    ]  # fmt: skip


def stock(now: int) -> dict[str, Any]:
    """What the warehouse counts; without it orders wait for stock."""
    return {
        "type": "StockLevelReported",
        "system": "wms:lumi",
        "at": now,
        "sku": "LZ-001",
        "location": "main",
        "on_hand": 500,
        "version": now,
    }


async def main(bootstrap: str = "127.0.0.1:9092", topic: str = "shop-orders", orders: str = "3") -> None:
    now = time.time_ns() // 1_000_000
    records = [stock(now), *(fact for n in range(int(orders)) for fact in life(10_000 + n, now))]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        for record in records:
            await producer.send_and_wait(topic, json.dumps(record).encode(), key=str(record.get("order", "")).encode())
    finally:
        await producer.stop()
    print(f"{len(records)} records of {orders} orders are in {topic}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
