"""A paid and reserved order on a running worker: it appears in the warehouse, is picked, packed, handed over, and is shipped."""

from __future__ import annotations

from typing import Any

from orders.fact import HoldPlaced, ReviewDecided
from tests.e2e_input.conftest import Installation
from tests.orders.lives import LAMP, SHADE, captured, placed, reserved


def told(installation: Installation, order: str, act: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = installation.web.post(f"/v1/warehouse/{order}:{act}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_order_goes_through_the_warehouse_without_a_wms(installation: Installation) -> None:
    now, hall = installation.clock.now(), "hall-7"
    orders = [installation.new_order() for _ in range(3)]
    for n, order in enumerate(orders):
        its: dict[str, Any] = {"order": order, "object": order}
        installation.post(
            placed(at=now - 9_000 + n, number=order, promised=0, signals={}, **its),
            captured(at=now - 8_000 + n, **its),
            ReviewDecided(order=order, system="staff", object="r", at=now - 7_000, approve=True, by="kim", reason="a test"),
            *(reserved(line, at=now - 6_000, location=hall, order=order, object=f"{order}-{line.line}") for line in (LAMP, SHADE)),
        )
    installation.post(HoldPlaced(order=orders[1], system="staff", object="h", at=now - 5_000, reason="call back"))
    installation.rest()

    listed = installation.web.get("/v1/warehouse", params={"location": hall}).json()
    assert sorted(job["order"] for job in listed["jobs"]) == sorted([orders[0], orders[2]]) and listed["total"] == 2
    assert told(installation, orders[1], "picked", 409, location=hall)["code"] == "held"

    first = orders[0]
    standing = told(installation, first, "picked", location=hall)
    assert [job["stage"] for job in standing["jobs"]] == ["to_pack"], "the answer knows what was told"
    told(installation, first, "packed", location=hall, parcel="P1", lines=[{"line": "1", "quantity": 2}])
    told(installation, first, "packed", location=hall, parcel="P2")
    told(installation, first, "handed_over", parcel="P1")
    assert installation.order(first)["status"] == "partially_shipped"
    assert told(installation, first, "handed_over", parcel="P2")["jobs"] == []
    assert installation.order(first)["status"] == "shipped"
    assert installation.web.get("/v1/warehouse", params={"location": hall}).json()["total"] == 1

    count = installation.web.post("/stock/count", data={"sku": "E2E-LAMP", "location": hall, "on_hand": "12"})
    assert count.status_code == 303
    (row,) = installation.web.get("/v1/stock", params={"q": "e2e-lamp"}).json()["rows"]
    assert (row["on_hand"], row["available"], row["location"]) == (12, 12, hall)
