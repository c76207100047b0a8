"""An operator at the pages of a running installation: a record is repaired and replayed, a channel goes live, everything stops."""

from __future__ import annotations

import json

from orders.fact import encode_fact
from tests.e2e_input.conftest import Installation, until
from tests.e2e_input.test_bad_input import changed, now, paid
from tests.e2e_input.test_go_live import AT_ONCE_S, ordered, told


def test_a_record_is_repaired_by_page_and_its_order_is_whole_again(installation: Installation) -> None:
    order, web = installation.new_order(), installation.web
    payment = paid(installation, order)
    broken = changed(payment, amount="49,99")
    installation.append("facts", [(order.encode(), encode_fact(now(installation, order))), (order.encode(), broken)])
    installation.rest()
    assert "incomplete" in installation.order(order)["flags"]
    (record,) = (name for name, row in installation.parked().items() if row.value == broken)
    page = "/parked/" + record.replace("/", "~")
    assert page in web.get("/parked", params={"reason": "schema"}).text
    assert "49,99" in web.post(page, data={"do": "show"}).text
    assert web.post(page, data={"do": "replay", "body": broken.decode()}).status_code == 422
    repaired = {"do": "replay", "body": encode_fact(payment).decode(), "reason": "a comma"}
    assert web.post(page, data=repaired).headers["location"] == "/parked?done=replayed"
    installation.rest()
    until(lambda: "incomplete" not in installation.order(order)["flags"], 10)
    assert web.post(page, data=repaired).headers["location"] == "/parked?done=already"
    installation.rest()
    found = installation.order(order)
    assert found["captured"] == payment.amount
    story = json.dumps(found["timeline"])
    assert "local: a comma" in story and f"opened the parked record {record}" in story


def test_a_delivery_that_nobody_can_read_is_repaired_by_the_api(installation: Installation) -> None:
    from connectors.delivery import Delivery, encode_delivery

    order, web = installation.new_order(), installation.web
    body = changed(now(installation, order), total="a lot")
    envelope = encode_delivery(Delivery(source="canonical", delivery=order, at=1, body=body))
    installation.append("deliveries", [(b"x", envelope)])
    installation.rest()
    (record,) = (name for name, row in installation.parked().items() if row.value == envelope)
    path = "/v1/parked/" + record.replace("/", "~")
    assert web.get(path).json()["processor"] == "intake"
    assert web.post(f"{path}:show").json()["text"] == body.decode()
    whole = encode_fact(now(installation, order)).decode()
    assert web.post(f"{path}:check", json={"body": whole}).json()["outcome"] == "readable"
    assert web.post(f"{path}:replay", json={"body": whole}).json()["outcome"] == "replayed"
    installation.rest()
    assert installation.order(order)["id"] == order
    assert web.post(f"{path}:replay", json={"body": whole}).json()["outcome"] == "already"


def test_a_channel_goes_live_and_everything_stops_by_page_within_five_seconds(installation: Installation) -> None:
    web = installation.web
    assert web.post("/sending/email", data={"mode": "observe"}).status_code == 303
    until(lambda: installation.metric("channel_mode", channel="email", mode="observe") == 1, AT_ONCE_S)
    observed = ordered(installation, 1)
    page = web.get("/sending/email").text
    number = observed[0].rpartition(":")[2]
    assert "How it would have read" in page and "Hi Ada Example, thank you for your order!" in page and f"#{number}" in page
    assert web.post("/sending/email", data={"mode": "live", "confirm": ""}).status_code == 422

    assert web.post("/sending/email", data={"mode": "live", "confirm": "email"}).status_code == 303
    until(lambda: installation.metric("channel_mode", channel="email", mode="live") == 1, AT_ONCE_S)
    live = ordered(installation, 1)
    until(lambda: told(installation, live) == live, 20, installation.log_tail())

    assert web.put("/v1/stop", json={"reason": "wrong prices"}).json()["stop"] == "wrong prices"
    until(lambda: installation.metric("sends_stopped", channel="email") == 1, AT_ONCE_S)
    assert "All sending is stopped: wrong prices" in until(lambda: text if "wrong prices" in (text := web.get("/").text) else "")
    stopped = ordered(installation, 1)
    assert told(installation, stopped) == []
    assert web.post("/sending", data={"do": "start"}).status_code == 303
    until(lambda: told(installation, stopped) == stopped, 40, "what was stopped was lost")
    assert told(installation, observed) == []
