"""Bad input through the whole product: refused with the name of the field, or parked with reason and bytes; neighbours go on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

import demo
import wire
from connectors.delivery import Delivery, encode_delivery
from connectors.store import Store
from orders.fact import OrderPlaced, PaymentCaptured, encode_fact
from orders.request import ConsentReported, StockLevelReported
from streams.partition import partition_of
from streams.processor import VERSION
from tests.e2e_input.conftest import PARTITIONS, Installation, until
from tests.orders.lives import captured, placed

BIG = 10**30  # decoded by every JSON reader, written by no msgpack


def changed(fact: Any, **more: Any) -> bytes:
    tree = msgspec.json.decode(encode_fact(fact))
    return msgspec.json.encode({name: value for name, value in (tree | more).items() if value is not ...})


def now(installation: Installation, order: str, **more: Any) -> OrderPlaced:
    return placed(
        at=installation.clock.now(), order=order, object=order.rpartition(":")[2], number=order.rpartition(":")[2], promised=0, **more
    )


def paid(installation: Installation, order: str, **more: Any) -> PaymentCaptured:
    return captured(at=installation.clock.now(), order=order, object=f"pi-{order}", **more)


def add_up(installation: Installation) -> None:
    """Every fact is done, parked or waiting, whatever somebody did about it since."""

    async def looked(store: Store) -> demo.Picture:
        async with wire.opened(wire.log_of(installation.settings)) as log:
            return await demo.look(installation.settings, store, log)

    found = installation.ask(looked)
    assert found.done + found.parked + found.waiting == found.facts_in and found.parked > 0


GOOD = encode_fact(captured())
REFUSED = [
    (b'{"type":', 400, None),
    (b"", 400, None),
    (b"\xff\xfe", 400, None),
    (b"[" * 100_000, 400, None),
    (GOOD.replace(b"4999", b"NaN"), 400, None),
    (GOOD.replace(b"4999", b'"49,99"'), 422, "amount"),
    (changed(captured(), amount=...), 422, "amount"),
    (changed(captured(), amount=-1), 422, "amount"),
    (changed(captured(), amount=2**60), 422, "amount"),
    (changed(captured(), authority=BIG), 422, "authority"),
    (changed(captured(), type="ParcelTeleported"), 422, "type"),
    (changed(captured(), v=9), 422, "v"),
    (changed(captured(), currency="EURO"), 422, "currency"),
    (changed(captured(), at=0), 422, "at"),
    (changed(captured(), at=99_999_999_999_999), 422, "at"),
    (changed(captured(), order=""), 422, "order"),
    (changed(captured(), amuont=1), 422, "amuont"),
    (changed(placed(), lines=[{"line": "1", "sku": "x", "quantity": 0}]), 422, "lines[...].quantity"),
    (changed(placed(), lines=[{"line": "1", "sku": "x", "quantity": "two"}]), 422, "lines[0].quantity"),
]


@pytest.mark.parametrize(("body", "status", "field"), REFUSED, ids=lambda x: x[:40].decode("latin-1") if isinstance(x, bytes) else str(x))
def test_a_bad_fact_is_refused_with_the_name_of_its_field(installation: Installation, body: bytes, status: int, field: str | None) -> None:
    answer = installation.web.post("/v1/facts", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json().get("field")) == (status, field)


def test_ten_megabytes_are_too_many(installation: Installation) -> None:
    for kind in ("application/json", "application/x-ndjson"):
        answer = installation.web.post("/v1/facts", content=b" " * (10 << 20), headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_one_bad_line_refuses_all_lines_and_is_named(installation: Installation) -> None:
    order = installation.new_order()
    lines = [encode_fact(now(installation, order)), changed(paid(installation, order), amount="x")]
    answer = installation.web.post("/v1/facts", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 422 and (answer.json()["line"], answer.json()["field"]) == (2, "amount")
    installation.rest()
    assert installation.web.get(f"/v1/orders/{order}").status_code == 404


def poison(at: int) -> list[tuple[str, bytes | None, bytes, str]]:
    """Topic, key, value, and the reason for which it is parked. Keys name orders that are otherwise unknown."""
    fact = captured(at=at)

    def of(order: str, **more: Any) -> bytes:
        return changed(fact, order=order, **more)

    facts: list[tuple[bytes | None, bytes, str]] = [
        (b"lumi:malformed", b'{"type":"PaymentCaptured","v":1', "malformed"),
        (b"lumi:empty", b"", "malformed"),
        (b"lumi:nan", of("lumi:nan").replace(b"4999", b"NaN"), "malformed"),
        (b"lumi:deep", b'{"type":"NoteAdded","x":' + b"[" * 100_000, "malformed"),
        (b"lumi:bytes", bytes(range(256)), "malformed"),
        (b"lumi:type", of("lumi:type", amount="49,99"), "schema"),
        (b"lumi:missing", of("lumi:missing", amount=...), "schema"),
        (b"lumi:kind", of("lumi:kind", type="ParcelTeleported"), "schema"),
        (b"lumi:version", of("lumi:version", v=9), "version"),
        (b"lumi:currency", of("lumi:currency", currency="EURO"), "currency"),
        (b"lumi:past", of("lumi:past", at=0), "bounds"),
        (b"lumi:seconds", of("lumi:seconds", at=at // 1000), "bounds"),
        (b"lumi:future", of("lumi:future", at=at + 500 * 86_400_000), "bounds"),
        (b"lumi:huge", of("lumi:huge", authority=BIG), "bounds"),
        (b"lumi:large", of("lumi:large", pad="x" * (10 << 20)), "too_large"),
        (b"lumi:other", of("lumi:another"), "wrong_key"),
        (None, of("lumi:null"), "null_key"),
        (b"", of(""), "null_key"),
        (b"\xff\xfe", of("lumi:utf8"), "malformed"),
        (b"k" * 600, of("k" * 600), "bounds"),
    ]
    level = StockLevelReported(at=at, sku="S", location="main", on_hand=1, system="wms")
    consent = ConsentReported(at=at, customer="lumi:c", channel="sms", granted=True)

    def delivery(body: bytes, source: str = "canonical") -> bytes:
        return encode_delivery(Delivery(source=source, delivery="d", at=at, body=body))

    good, bad = of("lumi:half"), of("lumi:half", amount="x")
    others: list[tuple[str, bytes | None, bytes, str]] = [
        ("stock", b"S@main", b"{", "malformed"),
        ("stock", b"S@main", changed(level, on_hand="many"), "schema"),
        ("stock", b"S@main", changed(level, on_hand=BIG), "bounds"),
        ("stock", b"S@main", changed(level, v=2), "version"),
        ("stock", b"T@main", encode_fact(level), "wrong_key"),
        ("customers", b"lumi:c", changed(consent, at=-5), "bounds"),
        ("customers", None, encode_fact(consent), "null_key"),
        ("references", b"payment:pi", b'{"type":"FactWaiting","at":1}', "schema"),
        ("deliveries", b"a", b"not an envelope", "malformed"),
        ("deliveries", b"b", delivery(b"{}", source="nobody"), "unknown_source"),
        ("deliveries", b"c", delivery(of("lumi:nan").replace(b"4999", b"NaN")), "malformed"),
        ("deliveries", b"d", delivery(b"[" * 100_000), "malformed"),
        ("deliveries", b"e", delivery(b"x" * (10 << 20)), "too_large"),
        ("deliveries", b"f", delivery(of("lumi:pad", pad="x" * (1 << 20))), "too_large"),
        ("deliveries", b"g", delivery(b"[" + good + b"," + bad + b"]"), "schema"),
        ("deliveries", b"h", delivery(of("")), "null_key"),
        (
            "deliveries",
            b"i",
            delivery(b'{"type":"MessageBlocked","at":1,"effect":"e","order":"o","customer":"c","block":"b","reason":"r"}'),
            "schema",
        ),
        ("deliveries", None, b"", "malformed"),
    ]
    return [*(("facts", *row) for row in facts), *others]


def test_poison_in_every_topic_is_parked_with_reason_and_bytes_and_its_neighbours_go_on(installation: Installation) -> None:
    at = installation.clock.now()
    bad = poison(at)
    neighbours = [installation.new_order() for _ in bad]
    for (topic, key, value, _), order in zip(bad, neighbours, strict=True):
        installation.append(topic, [(key, value)], 0 if key is None else None)
        installation.append("facts", [(order.encode(), encode_fact(now(installation, order)))])
    stray = next(key for key in (f"lumi:stray-{n}" for n in range(99)) if partition_of(key.encode(), PARTITIONS) == 1)
    installation.append("facts", [(stray.encode(), encode_fact(now(installation, stray)))], 0)
    installation.rest()

    rows = {(row.topic, row.key, row.value): row.reason for row in installation.parked().values()}
    for topic, key, value, reason in bad:
        assert rows.pop((topic, key, value), None) == reason, (topic, key, value[:80])
    assert rows.pop(("facts", stray.encode(), encode_fact(now_as(rows, stray)))) == "wrong_partition"
    assert not rows
    for order in neighbours:
        assert installation.order(order)["flags"] == [] or "incomplete" not in installation.order(order)["flags"]
    assert installation.web.get("/v1/orders/lumi:half").status_code == 404, "a delivery is taken whole or not at all"
    assert "starting it again" not in installation.logs() and "lane failed" not in installation.logs()
    for reason in {reason for *_, reason in bad}:
        assert installation.metric("parked_records_total", reason=reason) >= 1, reason


def now_as(rows: dict[tuple[str, bytes | None, bytes], str], order: str) -> Any:
    """The stray as it was written: its own time is in its bytes."""
    return next(msgspec.json.decode(value, type=OrderPlaced) for _, key, value in rows if key == order.encode())


def test_contradictory_money_is_shown_to_finance_and_parks_nothing(installation: Installation) -> None:
    order = installation.new_order()
    before = len(installation.parked())
    first = paid(installation, order)
    installation.post(now(installation, order), first)
    installation.append("facts", [(order.encode(), encode_fact(msgspec.structs.replace(first, amount=1)))])
    installation.rest()
    found = installation.order(order)
    assert "finance" in found["flags"] and found["contradictions"]
    assert len(installation.parked()) == before


def test_a_repaired_record_is_replayed_once_and_its_order_is_whole_again(installation: Installation, tmp_path: Any) -> None:
    order = installation.new_order()
    payment = paid(installation, order)
    broken = changed(payment, amount="49,99")
    installation.append("facts", [(order.encode(), encode_fact(now(installation, order))), (order.encode(), broken)])
    installation.rest()
    found = installation.order(order)
    assert "incomplete" in found["flags"] and found["captured"] == 0

    listed = json.loads(installation.cli("parked", "list", "--reason", "schema", "--json").stdout.splitlines()[-1])["parked"]
    names = {name for name, row in installation.parked().items() if row.reason == "schema"}
    assert {row["id"] for row in listed} == names
    shown = installation.web.get("/v1/parked", params={"reason": "schema", "limit": 500}).json()
    assert {row["id"] for row in shown} == names
    (name,) = (name for name, row in installation.parked().items() if row.value == broken)
    assert next(row for row in listed if row["id"] == name)["detail"] == "$.amount"

    done = installation.cli("parked", "show", name)
    assert f", parked by version {VERSION})" in done.stderr.decode()
    assert done.stdout == broken and b"schema: $.amount" in done.stderr
    again = installation.cli("parked", "replay", name, "--by", "anna", code=1)
    assert b"it would be parked again, schema: $.amount" in again.stderr
    assert "incomplete" in installation.order(order)["flags"]

    repaired = tmp_path / "repaired.json"
    repaired.write_bytes(encode_fact(payment))
    installation.cli("parked", "replay", name, "--body", str(repaired), "--by", "anna")
    installation.rest()
    until(lambda: "incomplete" not in installation.order(order)["flags"], 10)
    assert b"is not parked (any more)" in installation.cli("parked", "replay", name, "--body", str(repaired), "--by", "anna", code=1).stderr
    installation.append("facts", [(order.encode(), encode_fact(payment))])  # somebody else repaired it too
    installation.rest()
    found = installation.order(order)
    assert found["captured"] == payment.amount and name not in installation.parked()
    said = [message["template"] for message in found["messages"]]
    assert len(said) == len(set(said))


def test_a_record_without_its_key_is_replayed_to_the_order_it_names(installation: Installation) -> None:
    order = installation.new_order()
    value = encode_fact(now(installation, order))
    installation.append("facts", [(None, value)], 0)
    installation.rest()
    (name,) = (name for name, row in installation.parked().items() if row.value == value)
    installation.cli("parked", "replay", name, "--by", "anna")
    installation.rest()
    add_up(installation)
    assert installation.order(order)["number"] == order.rpartition(":")[2]


def test_a_delivery_is_shown_and_repaired_by_its_body(installation: Installation, tmp_path: Any) -> None:
    order = installation.new_order()
    body = changed(now(installation, order), total="a lot")
    envelope = encode_delivery(Delivery(source="canonical", delivery=order, at=1, body=body))
    installation.append("deliveries", [(b"x", envelope)])
    installation.rest()
    (name,) = (name for name, row in installation.parked().items() if row.value == envelope)
    assert installation.cli("parked", "show", name).stdout == body
    repaired = tmp_path / "repaired.json"
    repaired.write_bytes(encode_fact(now(installation, order)))
    installation.cli("parked", "replay", name, "--body", str(repaired), "--by", "anna")
    installation.rest()
    assert installation.order(order)["id"] == order


def test_a_record_is_discarded_only_with_a_reason_which_the_order_keeps(installation: Installation) -> None:
    order = installation.new_order()
    broken = changed(paid(installation, order), amount="49,99")
    installation.append("facts", [(order.encode(), encode_fact(now(installation, order))), (order.encode(), broken)])
    installation.rest()
    (name,) = (name for name, row in installation.parked().items() if row.value == broken)
    installation.cli("parked", "discard", name, "--by", "anna", code=2)
    assert name in installation.parked()
    installation.cli("parked", "discard", name, "--by", "anna", "--why", "a test of ours")
    installation.rest()
    found = installation.order(order)
    assert name not in installation.parked() and "incomplete" not in found["flags"]
    assert "anna: a test of ours" in json.dumps(found["timeline"])
    add_up(installation)
