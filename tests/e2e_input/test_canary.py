"""A customer whom nobody must find again: driven through every path, and in no log, metric, probe or list afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from actors.ray_local import process_tree
from connectors.delivery import Delivery, encode_delivery
from connectors.stand_ins import PASSWORD
from orders.fact import Address, Person, encode_fact
from orders.request import MessageRequested, ProfileReported
from orders.state import STATE_VERSION
from tests.e2e_input.conftest import Installation, until
from tests.orders.lives import captured, placed

NAME, EMAIL, PHONE = "Canary Nachtigall", "canary.nachtigall@example.invalid", "+491511234567"
STREET, TOKEN, NOTE = "Zeisigweg 77", "canary-push-token", "canary wrote this"
CANARIES = ("canary", "nachtigall", "zeisigweg", PHONE, PHONE[1:])
CANARY = Person(
    name=NAME,
    email=EMAIL,
    phone=PHONE,
    push_token=TOKEN,
    locale="en_GB",
    zone="UTC",
    address=Address(lines=(STREET,), city="Canary", country="DE"),
)


def test_personal_data_is_in_no_log_metric_probe_or_list(installation: Installation) -> None:
    at = installation.clock.now()
    order = installation.new_order()
    number = order.rpartition(":")[2]
    good = placed(at=at, order=order, object=number, number=number, customer=f"lumi:c{number}", person=CANARY, promised=0, signals={})

    # the gateway: refused bodies with personal data in every place of them, and in paths and headers
    person = msgspec.to_builtins(CANARY)
    tree = msgspec.json.decode(encode_fact(good))
    for bad in (
        encode_fact(good)[:-5],
        msgspec.json.encode(tree | {"total": EMAIL}),
        msgspec.json.encode(tree | {EMAIL: 1}),
        msgspec.json.encode(tree | {"type": EMAIL}),
        msgspec.json.encode(tree | {"currency": NAME}),
        msgspec.json.encode(tree | {"person": person | {"address": {STREET: PHONE}}}),
        msgspec.json.encode(tree | {"order": EMAIL}),
    ):
        answer = installation.web.post("/v1/facts", content=bad, headers={"content-type": "application/json", "idempotency-key": EMAIL})
        assert answer.status_code in (400, 422)
    for path in (f"/v1/orders/{EMAIL}", f"/v1/parked?reason={EMAIL}", f"/v1/orders?tag={NAME}", f"/{EMAIL}"):
        assert installation.web.get(path).status_code in (404, 422)

    # parked: unreadable in the topics, and as deliveries
    for bad in (
        msgspec.json.encode(tree | {"total": EMAIL}),
        msgspec.json.encode(tree | {"type": EMAIL}),
        encode_fact(good) + EMAIL.encode(),
    ):
        installation.append("facts", [(order.encode(), bad)])
        installation.append(
            "deliveries", [(EMAIL.encode(), encode_delivery(Delivery(source="canonical", delivery=EMAIL, at=at, body=bad)))]
        )
    installation.append("deliveries", [(b"x", encode_delivery(Delivery(source=EMAIL, delivery="d", at=at, body=b"{}")))])
    profile = ProfileReported(at=at, customer=f"lumi:c{number}", system="shop", person=CANARY)
    installation.append("customers", [(b"lumi:somebody", encode_fact(profile))])
    missing = MessageRequested(
        at=at, effect=f"canary-{number}", order=order, customer=f"lumi:c{number}", template="shipped",
        channel="email", kind="transactional", fields={"customer_name": NAME}, person=CANARY, milestone_at=at, expires=at + 10**9,
    )  # fmt: skip

    # a bug meets the order: a state that cannot be read, with the facts that come for it
    broken = installation.new_order()
    lane = installation.lane_of(broken)
    installation.ask(lambda store: store._call("HSET", f"{lane.prefix}:s", broken, bytes([STATE_VERSION]) + b"\xc1" + EMAIL.encode()))
    installation.append("facts", [(broken.encode(), encode_fact(msgspec.structs.replace(good, order=broken)))])

    # the providers refuse, ask for patience, and break off
    installation.cli("go-live", "email", "--yes")
    installation.cli("go-live", "sms", "--yes")
    until(lambda: installation.metric("channel_mode", channel="sms", mode="live") == 1)
    installation.append("customers", [(missing.customer.encode(), encode_fact(missing))])
    for fault in ("refuse", "try_later", "drop"):
        for channel in ("email", "sms"):
            body = {"channel": channel, "faults": {fault: 1.0}}
            assert installation.worker.post(f"{installation.providers}/faults", json=body).status_code == 200
        again = installation.new_order()
        digits = again.rpartition(":")[2]
        fact = msgspec.structs.replace(good, order=again, object=digits, number=digits, customer=f"lumi:c{digits}")
        installation.post(fact, captured(order=again, at=at, object=f"pi-{digits}"))
        installation.rest()
    for reason in ("rejected", "retryable"):
        until(lambda reason=reason: installation.metric("connector_requests_total", vendor="email", outcome=reason) > 0, 30, reason)
    for channel in ("email", "sms"):
        installation.worker.post(f"{installation.providers}/faults", json={"channel": channel, "faults": {}})

    assert "1 orders cannot be read" in installation.cli("go-live", "email", code=1).stdout.decode(), "a broken state stops no command"
    reasons = {row.reason for row in installation.parked().values()}
    assert {"schema", "malformed", "unknown_source", "wrong_key", "processor_error", "template_missing_field"} <= reasons
    places = {
        "logs": installation.logs(),
        "worker's metrics": installation.worker.get("/metrics").text,
        "gateway's metrics": installation.web.get("/metrics").text,
        "worker's probe": installation.worker.get("/readyz").text,
        "gateway's probe": installation.web.get("/readyz").text,
        "parked, over HTTP": installation.web.get("/v1/parked", params={"limit": 500}).text,
        "parked, on the command line": installation.cli("parked", "list").stdout.decode(),
        "orders": installation.web.get("/v1/orders", params={"limit": 500}).text,
        "counters": installation.web.get("/v1/counters").text,
    }
    found = [(place, canary) for place, text in places.items() for canary in CANARIES if canary in text.lower()]
    assert found == [], found
    assert "processor failed" in places["logs"] and "request refused" in places["logs"], "the logs are those of the faults"
    for line in places["logs"].splitlines():
        assert {"event", "level", "timestamp"} <= set(json.loads(line)), line


def test_no_secret_is_in_the_arguments_of_our_processes_or_what_they_say(installation: Installation) -> None:
    pids = process_tree(installation.serving.pid)
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in pids]
    assert len(shown) >= 4, "serve, worker, gateway, store"
    assert any(str(installation.config) in arguments for arguments in shown)
    assert not any(PASSWORD in arguments for arguments in shown) and PASSWORD not in installation.logs()
