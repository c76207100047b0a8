"""Shopify's bodies: what each gives, and that however a thing is told it is one thing."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.base import Secret
from connectors.delivery import Ignored, Record, Unreadable
from connectors.shopify import SHIPMENT, VENDOR, complaint
from connectors.signature import Sent, Verdict
from connectors.vendor import ANSWER, Account, understood
from orders.bounds import violation
from orders.fact import (
    CancelRequested,
    Fact,
    HoldPlaced,
    HoldReleased,
    LinesCancelled,
    OrderPaid,
    OrderPlaced,
    ParcelScanned,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    Tracking,
    decode_fact,
)
from orders.merge import merge
from orders.request import FactWaiting, ReferenceLinked
from orders.state import Order
from orders.view import View, view
from tests.connectors.published import CONTRACTS, published

SAMPLES = Path(__file__).parents[2] / "samples" / "vendors" / "shopify"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.json") if not path.name.endswith(".golden.json"))
ACCOUNT = Account(source="shopify-lumi", shop="lumi")
GATEWAY = Account(source="shopify-lumi", shop="lumi", reports_payments=False)
AT = 1_795_464_000_000
ORDER = "lumi:5900000000000001"


def raw(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


def sample(name: str, /, **changed: Any) -> tuple[str, dict[str, Any]]:
    """Topic (or answer) and body, some of its fields changed."""
    whole = json.loads(raw(name))
    topic = ANSWER + whole["answer"] if "answer" in whole else whole.get("topic") or whole["headers"]["x-shopify-topic"]
    return topic, {**whole["body"], **changed}


def read(name: str, account: Account = ACCOUNT, /, **changed: Any) -> list[Record]:
    topic, body = sample(name, **changed)
    return VENDOR.read(account, topic, json.dumps(body).encode(), AT)


def only(kind: type[Any], name: str, /, **changed: Any) -> Any:
    (found,) = [record for record in read(name, **changed) if isinstance(record, kind)]
    return found


def keys(records: list[Record]) -> set[tuple[str, str, str]]:
    return {(type(f).__name__, f.system, f.object) for f in records if isinstance(f, Fact)}


def seen(*deliveries: list[Record]) -> View:
    """The order after these deliveries, its waiting facts sent on to it."""
    facts = []
    for record in (record for records in deliveries for record in records):
        if isinstance(record, FactWaiting):
            record = msgspec.structs.replace(decode_fact(record.fact), order=ORDER)
        if isinstance(record, Fact):
            facts.append(msgspec.structs.replace(record, order=ORDER))
    views = [view(reduce(merge, order, Order(ORDER))) for order in (facts, facts[::-1])]
    assert views[0] == views[1], "the order of arrival matters"
    return views[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_gives_its_golden_records(name: str) -> None:
    found: Any
    try:
        found = json.loads(msgspec.json.encode(understood(VENDOR, ACCOUNT, raw(name), AT)))
    except Ignored as why:
        found = {"ignored": str(why)}
    except Unreadable as error:
        found = {"unreadable": [error.reason, error.detail]}
    assert found == json.loads((SAMPLES / f"{name}.golden.json").read_text())


def test_every_topic_and_answer_has_a_sample() -> None:
    told = {sample(name)[0] for name in NAMES}
    assert {*VENDOR.topics, *(ANSWER + kind for kind in VENDOR.answers)} <= told


# --- the envelope
def test_the_event_names_the_delivery_and_the_webhook_where_there_is_no_event() -> None:
    headers = {"x-shopify-topic": "orders/create", "x-shopify-webhook-id": "w", "x-shopify-event-id": "e"}
    assert VENDOR.envelope(headers, b"{}") == ("orders/create", "e")
    del headers["x-shopify-event-id"]
    assert VENDOR.envelope(headers, b"{}") == ("orders/create", "w")
    with pytest.raises(Unreadable, match="schema: x-shopify-topic"):
        VENDOR.envelope({"x-shopify-webhook-id": "w"}, b"{}")


def test_the_published_signature_is_good_and_a_changed_body_is_not() -> None:
    case = json.loads(published("shopify", "vectors", "x-shopify-hmac-sha256.json"))["cases"][0]
    headers, secrets = {"x-shopify-hmac-sha256": case["header"]}, [Secret(case["secret"])]
    assert VENDOR.scheme is not None
    assert VENDOR.scheme.check(Sent(headers, case["body"].encode()), secrets, AT) is Verdict.GOOD
    assert VENDOR.scheme.check(Sent(headers, case["body"].encode() + b" "), secrets, AT) is Verdict.WRONG


# --- topics that hold nothing for us
DOCUMENTED = """
app: scopes_update uninstalled
app_purchases_one_time: update
app_subscriptions: approaching_capped_amount update
audit_events: admin_api_activity
bulk_operations: finish
carts: create update
channels: delete
checkout_and_accounts_configurations: update
checkouts: create delete update
collection_listings: add remove update
collection_publications: create delete update
collections: create delete update
companies: create delete update
company_contact_roles: assign revoke
company_contacts: create delete update
company_locations: create delete update
customer_account_settings: update
customer_groups: create delete update
customer_payment_methods: create revoke update
customers: create data_request delete disable enable merge purchasing_summary redact update
customers_email_marketing_consent: update
customers_marketing_consent: update
customers_whats_app_marketing_consent: update
delivery_promise_settings: update
discounts: create delete redeemcode_added redeemcode_removed update
disputes: create update
domains: create destroy update
draft_orders: create delete update
finance_app_staff_member: delete grant revoke update
finance_kyc_information: update
fulfillment_events: create delete
fulfillment_holds: added released
fulfillment_orders: cancellation_request_accepted cancellation_request_rejected cancellation_request_submitted cancelled
fulfillment_orders: fulfillment_request_accepted fulfillment_request_rejected fulfillment_request_submitted hold_released merged moved
fulfillment_orders: fulfillment_service_failed_to_complete line_items_prepared_for_local_delivery line_items_prepared_for_pickup
fulfillment_orders: manually_reported_progress_stopped order_routing_complete placed_on_hold progress_reported rescheduled split
fulfillment_orders: scheduled_fulfillment_order_ready
fulfillments: create update
inventory_items: create delete update
inventory_levels: connect disconnect update
inventory_shipments: add_items create delete mark_in_transit receive_items remove_items update_item_quantities update_tracking
inventory_transfers: add_items cancel complete ready_to_ship remove_items update_item_quantities updated
locales: create destroy update
locations: activate create deactivate delete update
markets: create delete update
markets_backup_region: update
metafield_definitions: create delete update
metaobjects: create delete update
order_transactions: create
orders: cancelled create delete edited fulfilled link_requested paid partially_fulfilled risk_assessment_changed updated
orders: shopify_protect_eligibility_changed
payment_schedules: due
payment_terms: create delete update
product_feeds: create full_sync full_sync_finish incremental_sync update
product_listings: add remove update
product_publications: create delete update
products: create delete update
profiles: create delete update
refunds: create
returns: approve cancel close decline process reopen request update
reverse_deliveries: attach_deliverable
reverse_fulfillment_orders: dispose
scheduled_product_listings: add remove update
segments: create delete update
selling_plan_groups: create delete update
shipping_addresses: create update
shop: redact update
subscription_billing_attempts: challenged failure success
subscription_billing_cycle_edits: create delete update
subscription_billing_cycles: skip unskip
subscription_contracts: activate cancel create expire fail pause update
tax_services: create update
tender_transactions: create
themes: create delete publish update
variants: in_stock out_of_stock
"""


def test_every_documented_topic_is_read_or_says_why_not() -> None:
    families = (line.split(": ") for line in DOCUMENTED.strip().splitlines())
    topics = [f"{family}/{name}" for family, names in families for name in names.split()]
    topics += [f"customer.{what}" for what in ("tags_added", "tags_removed", "joined_segment", "left_segment")]
    assert len(topics) == len(set(topics)) == 222
    assert [topic for topic in topics if topic not in VENDOR.topics and topic not in VENDOR.ignored] == []


def test_every_published_topic_is_read_or_says_why_not() -> None:
    published("shopify", "SOURCE.md")
    places = CONTRACTS / "shopify"
    topics = {json.loads(path.read_text())["name"] for path in places.glob("samples/docs-*/*.json")}
    topics |= {"/".join(path.name.split(".")[:2]) for path in places.glob("spec/webhook-schemas-*/*.json")}
    assert len(topics) > 12
    assert {topic for topic in topics if topic not in VENDOR.topics and topic not in VENDOR.ignored} == set()


@pytest.mark.parametrize("topic", ["orders/archived", "customers/dreamt", "weather/changed", "customer", "", "/", "*", "carts.create"])
def test_a_topic_of_which_nobody_told_us_is_called_unknown(topic: str) -> None:
    with pytest.raises(Ignored, match="no topic"):
        VENDOR.read(ACCOUNT, topic, b"{}", AT)


def test_a_family_gives_its_reason_where_the_topic_has_none_of_its_own() -> None:
    assert VENDOR.ignored["shop/redact"] != VENDOR.ignored["shop/update"] == VENDOR.ignored["shop/*"]
    assert dict(VENDOR.ignored).keys() == set(VENDOR.ignored) and len(VENDOR.ignored) == len(set(VENDOR.ignored))


# --- one thing told twice
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("orders.paid", "orders.updated"),
        ("orders.create", "answer.order"),
        ("order_transactions.refund", "refunds.create"),
        ("order_transactions.refund", "orders.updated"),
        ("order_transactions.capture", "answer.transaction"),
        ("refunds.create", "orders.updated"),
        ("fulfillments.create", "orders.updated"),
        ("fulfillments.create", "orders.partially_fulfilled"),
        ("fulfillment_events.out", "fulfillments.update.out"),
        ("disputes.create", "disputes.update.won"),
    ],
)
def test_what_two_topics_tell_has_one_natural_key(one: str, other: str) -> None:
    assert keys(read(one)) <= keys(read(other))


def test_nothing_that_is_told_of_one_order_contradicts_itself() -> None:
    names = [name for name in NAMES if name.startswith(("order", "refunds", "fulfillment", "answer")) and "cancelled" not in name]
    told = []
    for name in names:
        try:
            told.append([x for x in read(name) if not isinstance(x, Fact) or x.order in (ORDER, "")])
        except (Ignored, Unreadable):
            continue
    assert len(told) > 20
    assert seen(*told).contradictions == ()


def test_the_earliest_report_of_a_status_stands_and_the_event_speaks_before_the_fulfillment() -> None:
    event, update = only(ParcelScanned, "fulfillment_events.out"), read("fulfillments.update.out")
    repeated = read("fulfillments.update.out", updated_at="2026-11-22T20:00:00-05:00")
    parcel = seen(read("fulfillments.create"), [event], update, repeated).parcels["4500000000001"]
    assert parcel.out_at == event.at < parcel.eta_until
    assert (parcel.tracking, parcel.carrier, [q.quantity for q in parcel.lines]) == ("1Z999AA10123456784", "UPS", [2])
    same = read("fulfillments.update.out", updated_at="2026-11-22T09:15:00-05:00")
    assert seen([event], same).contradictions == (), "told in the same second"


def test_a_later_update_that_repeats_a_status_does_not_move_the_parcel_back() -> None:
    transit = read("fulfillments.update.out", shipment_status="in_transit", updated_at="2026-11-22T08:00:00-05:00")
    stale = read("fulfillments.update.out", shipment_status="in_transit", updated_at="2026-11-22T21:00:00-05:00")
    out = read("fulfillment_events.out")
    assert seen(transit, out, stale).parcels["4500000000001"].tag is Tracking.OUT_FOR_DELIVERY


def test_amounts_as_numbers_and_ids_as_texts_say_the_same() -> None:
    assert read("orders.updated.resent") == read("orders.updated")


@pytest.mark.parametrize(("amount", "minor"), [(b"10.0", 1000), (b"10", 1000), (b"10.10", 1010), (b"70000000000000.07", 7000000000000007)])
def test_a_number_is_read_digit_by_digit(amount: bytes, minor: int) -> None:
    topic, body = sample("order_transactions.capture", amount="here")
    (captured,) = VENDOR.read(ACCOUNT, topic, json.dumps(body).encode().replace(b'"here"', amount), AT)
    assert isinstance(captured, PaymentCaptured) and captured.amount == minor


@pytest.mark.parametrize("amount", [1e30, 10.001, 1e-7, True, [], {}, None, -1, "1\\u0030", '"10"'])
def test_what_is_no_amount_is_refused(amount: Any) -> None:
    with pytest.raises(Unreadable, match=r"(schema|bounds): \$\.amount"):
        read("order_transactions.capture", amount=amount)


ALIKE: dict[str, dict[str, Any]] = {
    "orders.create": {"id": "gid://shopify/Order/5900000000000001"},
    "orders.delete": {"id": None, "admin_graphql_api_id": "gid://shopify/Order/5900000000000001"},
    "orders.risk.high": {"order_id": None, "admin_graphql_api_order_id": "gid://shopify/Order/5900000000000001"},
    "order_transactions.capture": {"id": None, "order_id": "5900000000000001"},
    "refunds.create": {"id": None, "order_id": "gid://shopify/Order/5900000000000001"},
    "fulfillments.create": {"id": "4500000000001", "order_id": "5900000000000001"},
    "fulfillment_events.out": {"fulfillment_id": "gid://shopify/Fulfillment/4500000000001", "order_id": "5900000000000001"},
    "disputes.create": {"id": "310000000001", "order_id": "5900000000000001"},
    "customers.update": {"id": "gid://shopify/Customer/7200100000001"},
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_number_its_digits_and_a_global_id_name_one_thing(name: str) -> None:
    changed = ALIKE[name]
    if changed.get("id", "") is None and "admin_graphql_api_id" not in changed:
        changed = {**changed, "admin_graphql_api_id": f"gid://shopify/Any/{sample(name)[1]['id']}"}
    assert read(name, **changed) == read(name)


@pytest.mark.parametrize("id", ["", "gid://shopify/Order/", "x", "1.0", "-1", -1, "\u0661", "9" * 30, None])
def test_what_is_no_id_is_refused(id: Any) -> None:
    with pytest.raises(Unreadable, match=r"schema: \$\.id"):
        read("orders.delete", id=id)


# --- what it comes to
def test_a_cancelled_and_a_returned_line_count_once_however_often_they_are_told() -> None:
    v = seen(read("orders.create"), read("refunds.create"), read("orders.updated"), read("order_transactions.refund"))
    assert {line.line: line.quantity for line in v.lines} == {"14500000000000011": 2, "14500000000000012": 1}
    assert (v.cancelled_lines, v.returned_lines) == ({"14500000000000012": 1}, {"14500000000000011": 1})
    assert (v.total, v.refunded, v.cancelled) == (5500, 3000, False)


def test_a_capture_and_the_statement_that_the_order_is_paid_count_once() -> None:
    v = seen(read("orders.create"), read("order_transactions.capture"), read("orders.paid"), read("orders.updated"))
    assert (v.captured, v.stated_paid, v.paid, v.refunded, v.paid_in_full) == (5500, 5500, 5500, 3000, True)
    assert v.paid_at == only(PaymentCaptured, "order_transactions.capture").at


def test_what_is_cancelled_before_the_capture_leaves_an_order_that_less_pays() -> None:
    lines = sample("orders.create")[1]["line_items"]
    lines[1]["current_quantity"] = 0
    items = [{"line_item_id": lines[1]["id"], "quantity": 1, "restock_type": "cancel"}]
    refunds = [{"id": 1, "created_at": "2026-11-20T05:00:30-05:00", "refund_line_items": items, "transactions": []}]
    less = {"updated_at": "2026-11-20T05:00:30-05:00", "current_total_price": "45.00", "current_total_price_set": None}
    v = seen(read("orders.create"), read("orders.create", **less, refunds=refunds, line_items=lines))
    assert (v.total, v.cancelled_lines) == (4500, {"14500000000000012": 1})
    captured = read("order_transactions.capture", amount="45.00")
    assert seen(read("orders.create", **less, refunds=refunds, line_items=lines), captured).paid_in_full


def test_a_refund_in_another_currency_is_not_added_to_the_total() -> None:
    refunds = sample("orders.updated")[1]["refunds"]
    assert only(OrderPlaced, "orders.updated", refunds=refunds).total == 5500
    refunds[0]["transactions"][0]["currency"] = "EUR"
    assert only(OrderPlaced, "orders.updated", refunds=refunds).total == 2500


def test_a_transaction_without_a_currency_is_in_that_of_what_is_unsettled_or_tells_nothing() -> None:
    rest = {"presentment_money": {"amount": "0.00", "currency": "CAD"}, "shop_money": {"amount": "0.00", "currency": "USD"}}
    told = only(PaymentCaptured, "order_transactions.capture", currency=None, total_unsettled_set=rest)
    assert (told.amount, told.currency) == (5500, "CAD")
    nobody = {"presentment_money": {"amount": "0.0", "currency": "XXX"}}
    for unsettled in (None, {}, nobody):
        with pytest.raises(Ignored, match="names no currency"):
            read("order_transactions.capture", currency=None, total_unsettled_set=unsettled)
    assert read("order_transactions.authorization", GATEWAY, currency=None), "whose the payment is does not depend on it"
    with pytest.raises(Unreadable, match=r"currency: \$\.currency"):
        read("order_transactions.capture", currency="ABC")


def test_answers_pass_over_a_transaction_without_a_currency() -> None:
    capture = sample("order_transactions.capture")[1]
    told = [{**capture, "id": 1, "currency": None}, capture]
    records = VENDOR.read(ACCOUNT, ANSWER + "transactions", json.dumps({"transactions": told}).encode(), AT)
    assert [record.object for record in records if isinstance(record, PaymentCaptured)] == ["6700000000002"]


def test_a_refund_is_in_the_customers_currency_by_whatever_amount_it_tells() -> None:
    euros = {"shop_money": {"amount": "5.00", "currency_code": "USD"}, "presentment_money": {"amount": "4.50", "currency_code": "EUR"}}
    none: dict[str, Any] = {"total_duties_set": None, "refund_line_items": [], "order_adjustments": []}
    transactions = sample("refunds.create")[1]["transactions"]
    transactions[0]["currency"] = None
    line = {"line_item_id": 1, "quantity": 1, "restock_type": "no_restock", "subtotal_set": euros}
    for by in ({"total_duties_set": euros}, {"order_adjustments": [{"amount_set": euros}]}, {"refund_line_items": [line]}):
        told = only(PaymentRefunded, "refunds.create", **{**none, **by}, transactions=transactions)
        assert (told.amount, told.currency) == (3000, "EUR")
    with pytest.raises(Ignored, match="names no currency"):
        read("refunds.create", **none, transactions=transactions)
    goods = read("refunds.create", total_duties_set=None, transactions=transactions)
    assert [type(record).__name__ for record in goods] == ["ReturnReceived", "LinesCancelled"], "what came back needs no currency"


def test_an_order_refunded_in_another_currency_was_paid_if_nothing_is_outstanding() -> None:
    (whole,) = [x for x in read("orders.paid.yen") if isinstance(x, OrderPaid)]
    back = {"financial_status": "partially_refunded", "total_outstanding": "0.00"}
    assert only(OrderPaid, "orders.paid.yen", **back).amount == whole.amount
    back["financial_status"] = "pending"
    assert not [x for x in read("orders.paid.yen", **back) if isinstance(x, OrderPaid)]


def test_an_amount_in_the_shops_currency_is_never_taken_for_the_customers() -> None:
    with pytest.raises(Unreadable, match=r"currency: \$\.current_total_price"):
        read("orders.paid.yen", current_total_price="55", current_total_price_set=None)


def test_a_card_at_the_shops_terminal_is_an_authorization() -> None:
    assert only(PaymentAuthorized, "order_transactions.capture", kind="emv_authorization").amount == 5500


def test_an_order_without_a_name_is_called_by_its_number() -> None:
    assert only(OrderPlaced, "orders.create", name=None).number == "1001"
    assert only(OrderPlaced, "orders.create", name=None, order_number=None).number == "5900000000000001"


def test_where_only_a_tip_and_a_gift_card_are_left_nothing_is_to_be_sent() -> None:
    placed = only(OrderPlaced, "orders.create.mixed")
    assert [line.sku for line in placed.lines] == ["LAMP-01", "GIFT-25", "14500000000000113"]
    assert (placed.total, placed.not_applicable) == (7300, ())
    lines = sample("orders.create.mixed")[1]["line_items"]
    left = only(OrderPlaced, "orders.create.mixed", line_items=[{**lines[0], "current_quantity": 0}, *lines[1:]])
    assert (left.lines, left.not_applicable) == (placed.lines[1:], ("address", "stock"))


def test_a_gift_card_is_still_paid_for_when_the_goods_beside_it_are_cancelled() -> None:
    items = [{"line_item_id": 14500000000000111, "quantity": 2, "restock_type": "cancel"}]
    cancelled = read("refunds.create", id=1, order_id=5900000000000011, refund_line_items=items, transactions=[])
    assert not seen(read("orders.create.mixed"), cancelled).cancelled


def test_a_gift_card_that_was_mailed_is_no_parcel() -> None:
    with pytest.raises(Ignored, match="nothing of it is sent"):
        read("fulfillments.create.gift_card")
    told = read("fulfillments.create.gift_card", tracking_number="1Z999AA10123456784")
    assert "ParcelPacked" in {type(record).__name__ for record in told}, "what has a number is on its way, whatever the shop calls it"


def test_only_a_way_of_shipping_that_still_stands_is_express() -> None:
    for removed, service in ((True, "standard"), (None, "express")):
        lines = [{"title": "DHL Express", "code": None, "is_removed": removed}]
        assert only(OrderPlaced, "orders.create", shipping_lines=lines).service == service


def test_an_order_of_which_nothing_is_left_is_not_sent() -> None:
    v = seen(read("orders.updated.removed"))
    assert v.cancelled and v.lines
    shipped = sample("fulfillments.create")[1]
    assert not [x for x in read("orders.updated.removed", fulfillments=[shipped]) if isinstance(x, LinesCancelled)]


def test_a_cancellation_is_one_fact_and_names_its_time() -> None:
    asked = only(CancelRequested, "orders.cancelled")
    assert (asked.reason, asked.at) == ("inventory", 1795170600000)
    assert seen(read("orders.cancelled")).cancelled


def test_partial_payment_is_the_total_less_what_is_outstanding() -> None:
    paid = {"financial_status": "partially_paid", "total_outstanding": "35.00"}
    assert only(OrderPaid, "orders.create", **paid).amount == 2000
    yen = {"financial_status": "partially_paid", "total_outstanding": "25.00"}
    assert not [x for x in read("orders.paid.yen", **yen) if isinstance(x, OrderPaid)], "outstanding is in dollars, the order in yen"
    for nothing in (None, "", "0.00", 0, 0.0):
        assert only(OrderPaid, "orders.create", financial_status="refunded", total_outstanding=nothing).amount == 5500


def test_more_outstanding_than_the_total_is_no_payment_and_costs_no_order() -> None:
    told = read("orders.create", financial_status="partially_refunded", total_outstanding="99.00")
    assert keys(told) == {("OrderPlaced", "shopify-lumi", "5900000000000001")}


def test_an_unpaid_order_states_nothing_about_payment() -> None:
    for status in ("pending", "authorized", "voided", None):
        assert not [x for x in read("orders.create", financial_status=status) if isinstance(x, OrderPaid)]


@pytest.mark.parametrize(
    ("currency", "amount", "minor"), [("JPY", "8250", 8250), ("JPY", "8250.00", 8250), ("KWD", "12.345", 12345), ("usd", "0.5", 50)]
)
def test_amounts_are_exact_in_every_currency(currency: str, amount: str, minor: int) -> None:
    assert only(PaymentCaptured, "order_transactions.capture", currency=currency, amount=amount).amount == minor
    placed = only(OrderPlaced, "orders.create", currency=currency, total_price=amount, total_price_set=None, current_total_price=None)
    assert (placed.total, placed.currency) == (minor, currency.upper())


@pytest.mark.parametrize("amount", ["-1.00", "1e5", "NaN", "Infinity", "", " 1", "0.001", "9" * 5000, "9" * 30, "1,00", "１"])
def test_amounts_that_cannot_be_are_refused_and_not_repeated(amount: str) -> None:
    for name, field in (("order_transactions.capture", "amount"), ("orders.create", "total_price"), ("disputes.create", "amount")):
        with pytest.raises(Unreadable) as refused:
            read(name, **{field: amount, "total_price_set": None})
        assert refused.value.reason in ("schema", "bounds")
        assert refused.value.detail == f"$.{field}"


def test_a_cancelled_fulfillment_never_was_a_parcel_unless_it_had_moved() -> None:
    packed = [read("orders.create"), read("fulfillments.create")]
    assert seen(*packed).parcels.keys() == {"4500000000001"}
    assert not seen(*packed, read("fulfillments.update.cancelled")).parcels
    moved = seen(*packed, read("fulfillments.update.cancelled_late"))
    assert moved.shipped_at and moved.parcels["4500000000001"].packed_at


def test_a_label_is_not_a_parcel_on_its_way() -> None:
    for status in (None, "label_printed", "label_purchased", "confirmed"):
        v = seen(read("orders.create"), read("fulfillments.create", shipment_status=status))
        assert v.parcels["4500000000001"].tag is Tracking.LABEL_CREATED and not v.shipped_at


def test_every_status_of_a_shipment_has_its_meaning_and_an_unknown_one_does_no_harm() -> None:
    for status, tag in SHIPMENT.items():
        assert only(ParcelScanned, "fulfillment_events.out", status=status).tag is tag
    assert {SHIPMENT[s] for s in ("delivered", "picked_up")} == {Tracking.DELIVERED}
    v = seen(read("fulfillment_events.unknown"))
    assert not v.shipped_at


def test_tracking_numbers_are_written_as_carriers_write_them() -> None:
    told = read("fulfillments.create", tracking_numbers=["ab 12\n34", None, "", "AB1234", "x" * 5000], tracking_number="cd 56")
    assert [x.value for x in told if isinstance(x, ReferenceLinked)] == ["AB1234", "CD56"]


def test_a_corrected_tracking_number_replaces_the_first() -> None:
    corrected = {"tracking_number": "EX2", "tracking_numbers": ["EX2"], "updated_at": "2026-11-21T09:30:00-05:00"}
    v = seen(read("fulfillments.create"), read("fulfillments.update.out", shipment_status=None, **corrected))
    assert [parcel.tracking for parcel in v.parcels.values()] == ["EX2"]


# --- holds
def test_a_hold_waits_for_its_order_and_the_release_lifts_it() -> None:
    placed, released = read("fulfillment_orders.placed_on_hold"), read("fulfillment_orders.hold_released")
    (link,) = (x for x in read("answer.fulfillment_orders") if isinstance(x, ReferenceLinked))
    for (waits,) in (placed, released):
        assert isinstance(waits, FactWaiting)
        assert (waits.kind, waits.value) == (link.kind, link.value) == ("fulfillment_order", "7100000000001")
    assert link.order == ORDER
    assert seen(read("orders.create"), placed).holds == {"fulfillment_order:7100000000001": "shop_inventory_out_of_stock"}
    assert not seen(read("orders.create"), placed, released).holds


def test_the_same_hold_pushed_and_fetched_is_one() -> None:
    (pushed,) = read("fulfillment_orders.placed_on_hold")
    assert isinstance(pushed, FactWaiting)
    fetched = only(HoldPlaced, "answer.fulfillment_orders")
    waited = decode_fact(pushed.fact)
    assert isinstance(waited, HoldPlaced)
    assert (waited.object, waited.reason) == (fetched.object, fetched.reason)


def test_a_hold_without_a_readable_id_is_refused() -> None:
    with pytest.raises(Unreadable, match=r"schema: \$\.fulfillment_order\.id"):
        read("fulfillment_orders.hold_released", fulfillment_order={"id": "gid://shopify/FulfillmentOrder/"})


def test_a_high_risk_holds_even_when_a_lower_one_was_told_before() -> None:
    with pytest.raises(Ignored):
        read("orders.risk.low")
    v = seen(read("orders.create"), read("orders.risk.high"))
    assert v.holds == {"risk:5900000000000001": "shop_risk_high"}
    assert not [x for x in read("orders.risk.high") if isinstance(x, HoldReleased)]


def test_a_deleted_order_is_held_for_a_person() -> None:
    assert "deleted:5900000000000001" in seen(read("orders.create"), read("orders.delete")).holds


# --- where the gateway itself reports payments
def test_then_the_shop_only_says_whose_the_payments_are() -> None:
    links = read("order_transactions.authorization", GATEWAY)
    assert [(x.kind, x.value, x.order) for x in links if isinstance(x, ReferenceLinked)] == [
        ("payment", "pi_3ExampleIntent000001", ORDER),
        ("payment", "ch_3ExampleCharge000001", ORDER),
    ]
    assert len(links) == 2


def test_then_no_fact_speaks_of_money() -> None:
    spoken = set()
    for name in NAMES:
        try:
            spoken |= {type(record).__name__ for record in read(name, GATEWAY)}
        except (Ignored, Unreadable):
            continue
    assert not {kind for kind in spoken if kind.startswith(("Payment", "Dispute")) or kind == "OrderPaid"}
    assert {"OrderPlaced", "ReturnReceived", "LinesCancelled", "ParcelPacked"} <= spoken


@pytest.mark.parametrize(
    ("authorization", "links"),
    [
        ("8AC7A4A1EXAMPLE1", ["8AC7A4A1EXAMPLE1"]),
        ("1001", []),
        (None, []),
        ("two words 12345", []),
        ("ch_3ExampleCharge000009#req", ["ch_3ExampleCharge000009"]),
    ],
)
def test_another_gateways_reference_is_its_authorization(authorization: str | None, links: list[str]) -> None:
    try:
        found = read("order_transactions.capture", GATEWAY, authorization=authorization)
    except Ignored:
        found = []
    assert [x.value for x in found if isinstance(x, ReferenceLinked)] == links


def test_a_refund_that_failed_is_no_failed_payment() -> None:
    with pytest.raises(Ignored):
        read("order_transactions.refund", status="failure")
    assert isinstance(only(PaymentFailed, "order_transactions.failed", status="error", error_code=None), PaymentFailed)


# --- people
def test_a_guest_is_known_by_the_email_whatever_its_letters() -> None:
    one, other = (only(OrderPlaced, "orders.create.guest", email=email).customer for email in ("CY@example.com", "cy@Example.com "))
    assert one == other
    assert "example" not in one
    shops = {VENDOR.read(Account(source="s", shop=shop), *_guest(), AT)[0].customer for shop in ("lumi", "other")}  # type: ignore[union-attr]
    assert len({customer.partition(":")[2] for customer in shops}) == 2, "two shops share no customers"


def _guest() -> tuple[str, bytes]:
    topic, body = sample("orders.create.guest")
    return topic, json.dumps(body).encode()


def test_an_app_without_access_to_people_still_reads_the_order() -> None:
    withheld = dict.fromkeys(("customer", "email", "contact_email", "phone", "shipping_address", "billing_address", "customer_locale"))
    placed = only(OrderPlaced, "orders.create", **withheld)
    assert placed.person is None and placed.customer == "lumi:order-5900000000000001"


def test_the_customer_who_fetches_needs_no_address() -> None:
    assert only(OrderPlaced, "orders.create", shipping_address=None).not_applicable == ("address",)
    assert only(OrderPlaced, "orders.create", shipping_address=None, shipping_lines=[]).not_applicable == ()


def test_personal_data_is_in_persons_alone() -> None:
    """Staff's notes, guests' addresses and cards' holders stay out of everything that is kept longer than a person."""
    for name in NAMES:
        golden = json.loads((SAMPLES / f"{name}.golden.json").read_text())
        for record in golden if isinstance(golden, list) else []:
            text = json.dumps({field: value for field, value in record.items() if field != "person"}).lower()
            assert not [word for word in ("example.com", "ada", "albany", "555", "words of the staff") if word in text], name


def test_privacy_requests_say_who_must_act() -> None:
    for topic in ("customers/redact", "customers/data_request", "shop/redact"):
        with pytest.raises(Ignored, match="someone must"):
            VENDOR.read(ACCOUNT, topic, b"{}", AT)


# --- complaints
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"errors": "[API] Invalid API key or access token (unrecognized login or wrong password)"}, "refuses our access token"),
        ({"errors": "[API] This action requires merchant approval for read_orders scope."}, "the scope read_orders"),
        ({"errors": "Exceeded 2 calls per second for api client. Reduce request rates to resume uninterrupted service."}, "too often"),
        ({"errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]}, "too often"),
        ({"errors": [{"message": "Access denied for orders field.", "extensions": {"code": "ACCESS_DENIED"}}]}, "denies the app"),
        ({"errors": "Unavailable Shop"}, "closed the shop"),
        ({"errors": "Not Found"}, "does not know"),
        ({"error": "Internal Server Error"}, "trouble of its own"),
        ({"errors": {"order": ["Required parameter missing or invalid"], "a b@example.com": []}}, "check order"),
        ({"errors": {"a b@example.com": ["x"]}}, "check the request"),
        ({"errors": ["ada@example.com"]}, "check the request"),
    ],
)
def test_an_error_answer_is_put_into_our_words(answer: Any, words: str) -> None:
    said = complaint(json.dumps(answer).encode())
    assert words in said and "example.com" not in said


@pytest.mark.parametrize("body", [b'{"orders":[]}', b'{"errors":null}', b'{"errors":[]}', b"[]", b"1", b"<html>", b"", b"\xff"])
def test_what_is_no_error_is_no_complaint(body: bytes) -> None:
    assert complaint(body) == ""


# --- anything at all
def test_unknown_fields_change_nothing() -> None:
    def extended(value: Any) -> Any:
        if isinstance(value, dict):
            return {**{name: extended(inner) for name, inner in value.items()}, "x_new": {"deep": [1]}}
        return [extended(inner) for inner in value] if isinstance(value, list) else value

    for name in NAMES:
        topic, body = sample(name)
        assert kinds(topic, extended(body)) == kinds(topic, body)
        if isinstance(kinds(topic, body), list):
            assert VENDOR.read(ACCOUNT, topic, json.dumps(extended(body)).encode(), AT) == read(name)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_without_any_field_it_is_read_or_refused_in_words(name: str, data: st.DataObject) -> None:
    topic, body = sample(name)
    where = data.draw(st.sampled_from(list(_objects(body))))
    field = data.draw(st.sampled_from(sorted(where) or ["x"]))
    if data.draw(st.booleans()):
        where.pop(field, None)
    else:
        where[field] = data.draw(st.sampled_from([None, -1, 0, "", "x", [], {}, "1970-01-01T00:00:00Z", 2**63 - 1]))
    found = kinds(topic, body)
    if isinstance(found, tuple):
        assert found[0] in ("malformed", "schema", "bounds", "currency", "version")
    elif isinstance(found, list):
        records = VENDOR.read(ACCOUNT, topic, json.dumps(body).encode(), AT)
        wrong = {violation(record) for record in records if isinstance(record, Fact)}
        assert wrong <= {None, ("bounds", "$.lines[...].quantity")}, "that many are refused by the lanes"


def _objects(value: Any) -> Any:
    if isinstance(value, dict) and value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(inner)


# --- what Shopify and others have published
PLACED = ["OrderPlaced", "CancelRequested"]
LINKED = ["ReferenceLinked"]
PACKED = ["ReferenceLinked", "ParcelPacked", "ParcelScanned"]
DOCS: dict[str, Any] = {
    "disputes.create": ["PaymentDisputed"],
    "fulfillment_orders.cancelled": Ignored,
    "fulfillment_orders.placed_on_hold": ["FactWaiting"],
    "fulfillments.create": LINKED,
    "order_transactions.create": ["PaymentAuthorized"],
    "orders.cancelled": PLACED,
    "orders.create": PLACED,
    "orders.fulfilled": PLACED,
    "orders.paid": PLACED,
    "orders.risk_assessment_changed": Ignored,
    "refunds.create": ["PaymentRefunded", "PaymentRefunded"],
    "returns.request": Ignored,
}
RECORDED: dict[str, Any] = {"fulfillments.create": LINKED, "orders.create": PLACED, "orders.paid": PLACED}
REAL: dict[str, Any] = {  # anonymised: texts are "example string", so no currency is one
    "2024-01.orders.1": ("currency", "$.currency"),
    "2024-01.orders.3": ("currency", "$.currency"),
    "2025-04.orders.1": ("currency", "$.currency"),
    "2024-01.order_transactions.1": Ignored,
    "2025-04.refunds.1": Ignored,
    "2024-01.fulfillments.1": LINKED,
    "2025-04.fulfillments.1": ["ReferenceLinked", "ParcelScanned"],
}
TOPICS = {
    "orders": "orders/updated",
    "order_transactions": "order_transactions/create",
    "refunds": "refunds/create",
    "fulfillments": "fulfillments/update",
}
REFUNDED = ["OrderPlaced", "OrderPaid", "PaymentRefunded"]
PARTIAL = ("schema", "$.orders[0].updated_at")  # only some fields were asked for
REST: dict[str, list[Any]] = {  # in the order of the examples; None: an answer that we do not ask for
    "order": [
        REFUNDED,
        PARTIAL,
        ["OrderPlaced", "PaymentRefunded"],
        ["OrderPlaced", "OrderPaid"],
        REFUNDED,
        None,
    ],
    "fulfillment": [Ignored, PACKED, Ignored, PACKED, PACKED],
    "fulfillment_event": [["ParcelScanned"], ["ParcelScanned"]],
    "fulfillment_order": [LINKED] * 5,
    "refund": [["PaymentRefunded"], ["PaymentRefunded"], None, None],
    "transaction": [
        ["PaymentRefunded", "PaymentAuthorized", "PaymentCaptured"],
        ["PaymentCaptured"],
        ["PaymentCaptured"],
        Ignored,
        ["PaymentAuthorized"],
    ],
}


def kinds(topic: str, body: Any) -> Any:
    try:
        return [type(record).__name__ for record in VENDOR.read(ACCOUNT, topic, json.dumps(body).encode(), AT)]
    except Ignored:
        return Ignored
    except Unreadable as error:
        return error.reason, error.detail


@pytest.mark.parametrize("name", DOCS)
def test_the_documentations_examples_are_understood(name: str) -> None:
    page = json.loads(published("shopify", "samples", "docs-2026-04", f"{name}.json"))
    assert kinds(page["name"], page["response"]) == DOCS[name]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_deliveries_are_understood(name: str) -> None:
    body = published("shopify", "samples", "with-headers", f"{name}.json")
    assert [type(record).__name__ for record in understood(VENDOR, ACCOUNT, body, AT)] == RECORDED[name]


@pytest.mark.parametrize("name", REAL)
def test_real_bodies_whose_texts_were_replaced_fail_only_for_that(name: str) -> None:
    body = json.loads(published("shopify", "samples", "real-anonymised", f"{name}.json"))
    assert kinds(TOPICS[name.split(".")[1]], body) == REAL[name]


@pytest.mark.parametrize("name", [name for name in REAL if ".orders." in name])
def test_such_an_order_is_read_once_its_money_is_money(name: str) -> None:
    text = published("shopify", "samples", "real-anonymised", f"{name}.json").decode()
    amounts = dict.fromkeys(("amount", "price", "total_price", "current_total_price", "total_outstanding"), "1.00")
    for field, value in {"currency": "USD", "currency_code": "USD", **amounts}.items():
        text = text.replace(f'"{field}": "example string"', f'"{field}": "{value}"')
    assert kinds("orders/updated", json.loads(text))[0] == "OrderPlaced"


@pytest.mark.parametrize("name", REST)
def test_answers_of_the_rest_api_are_understood(name: str) -> None:
    found = []
    for call in json.loads(published("shopify", "samples", "admin-rest-2026-07", f"{name}.json")):
        kind = next(iter(call["response"]))
        asked = not call["path"].endswith(("/calculate.json", "/count.json"))
        found.append(kinds(ANSWER + kind, call["response"]) if asked else None)
    assert found == REST[name]


def test_nothing_that_was_published_is_left_out() -> None:
    published("shopify", "SOURCE.md")
    folder = CONTRACTS / "shopify" / "samples"
    looked_at = {"docs-2026-04": DOCS, "with-headers": RECORDED, "real-anonymised": REAL, "admin-rest-2026-07": REST}
    assert {f"{path.parent.name}/{path.stem}" for path in folder.rglob("*.json")} == {
        f"{place}/{name}" for place, names in looked_at.items() for name in names
    }


@pytest.mark.parametrize(
    ("billed", "signals"),
    [
        ({"zip": "12207", "country_code": "US"}, {}),
        ({"zip": "122 07", "country_code": "us"}, {}),
        ({"zip": "99501", "country_code": "US"}, {"ship_bill_mismatch": 1.0}),
        ({"zip": "12207", "country_code": "CA"}, {"ship_bill_mismatch": 1.0}),
        ({"zip": None, "country_code": "US"}, {}),
        (None, {}),
    ],
)
def test_an_order_that_goes_elsewhere_than_its_bill_is_a_signal(billed: dict[str, Any] | None, signals: dict[str, float]) -> None:
    assert only(OrderPlaced, "orders.create", billing_address=billed).signals == signals
