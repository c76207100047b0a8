"""Stripe's events and objects against what they have to say; samples beside their golden records."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_schema_validator import OAS30Validator

from connectors.base import Secret
from connectors.delivery import Ignored, Record, Unreadable
from connectors.http import Reply, Request
from connectors.stand_in_vendors import PASSWORD
from connectors.stand_ins import StandIns
from connectors.stripe import CODES, DIGITS, KINDS, VENDOR, _amount, _money, headers
from connectors.vendor import Account, Ask, understood
from orders.bounds import AMOUNT_MAX
from orders.fact import Fact
from orders.money import EXPONENTS
from orders.request import FactWaiting, ReferenceLinked
from tests.connectors.published import CONTRACTS, published

ACCOUNT = Account(source="stripe-lumi", shop="lumi")
AT = 1_795_464_000_000
SAMPLES = Path(__file__).parents[2] / "samples" / "vendors" / "stripe"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.json") if not path.name.endswith(".golden.json"))


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_bytes())
    return found


def records(sample: dict[str, Any], account: Account = ACCOUNT) -> list[Record]:
    found = understood(VENDOR, account, json.dumps(sample).encode(), AT)
    assert isinstance(found, list)
    return found


def told(sample: dict[str, Any], account: Account = ACCOUNT) -> Any:
    try:
        return msgspec.json.decode(msgspec.json.encode(understood(VENDOR, account, json.dumps(sample).encode(), AT)))
    except Ignored as ignored:
        return {"ignored": str(ignored)}
    except Unreadable as unreadable:
        return {"unreadable": [unreadable.reason, unreadable.detail]}


def facts(sample: dict[str, Any]) -> list[dict[str, Any]]:
    """Facts alone, those that wait included."""
    return [record.get("fact", record) for record in told(sample) if record["type"] != "ReferenceLinked"]


def keys(sample: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(fact["type"], fact["system"], fact["object"]) for fact in facts(sample)}


def event(topic: str, **fields: Any) -> dict[str, Any]:
    """A sample's event with other fields in its object."""
    found = sample(topic)
    found["body"]["data"]["object"].update(fields)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_gives_its_golden_records(name: str) -> None:
    assert told(sample(name)) == json.loads((SAMPLES / f"{name}.golden.json").read_bytes())


PUBLISHED: dict[str, Any] = {
    "events/charge.dispute.created.json": [("FactWaiting", "ch_000000000000000000000000", "PaymentDisputed", 100)],
    "events/charge.refunded.json": [("FactWaiting", "ch_000000000000000000000000", "PaymentRefunded", 100)],
    "events/charge.succeeded.json": [("FactWaiting", "pi_000000000000000000000000", "PaymentCaptured", 2000)],
    "events/checkout.session.completed.payment_mode.json": (
        "it names no order by the shop's own ID, neither in client_reference_id nor in metadata[order_id]"
    ),
    "events/payment_intent.created.json": "nothing has been paid yet",
    "events/payment_intent.payment_failed.json": [("FactWaiting", "pi_000000000000000000000000", "PaymentFailed", 2000)],
    "events/payment_intent.requires_action.json": "the customer has to confirm the payment: whether it succeeds is told later",
    "events/payment_intent.succeeded.json": [("FactWaiting", "pi_000000000000000000000000", "PaymentCaptured", 2000)],
    "with-headers/payment_method.attached.json": "how a customer can pay, not whether: nothing was paid by it",
}


@pytest.mark.parametrize("place", PUBLISHED)
def test_what_stripe_published_is_read(place: str) -> None:
    content = json.loads(published("stripe", "samples", *place.split("/")))
    found = told(content if "headers" in content else {"headers": {}, "body": content})
    if isinstance(found, list):
        found = [(record["type"], record["value"], record["fact"]["type"], record["fact"]["amount"]) for record in found]
    else:
        found = found["ignored"]
    assert found == PUBLISHED[place]


def test_no_published_sample_is_left_out() -> None:
    published("stripe", "SOURCE.md")
    root = CONTRACTS / "stripe" / "samples"
    assert {str(path.relative_to(root)) for path in root.rglob("*.json")} - set(PUBLISHED) == {
        f"cli-recipes/{path.name}" for path in root.glob("cli-recipes/*.json")
    }


def test_recipes_are_calls_not_events() -> None:
    published("stripe", "SOURCE.md")
    recipes = list((CONTRACTS / "stripe" / "samples" / "cli-recipes").glob("*.json"))
    assert recipes
    for path in recipes:
        with pytest.raises(Unreadable):
            VENDOR.envelope({}, path.read_bytes())


@pytest.mark.parametrize("kind", ["payment_intent", "charge", "refund", "dispute"])
def test_stripes_own_fixtures_can_be_fetched(kind: str) -> None:
    fixture = json.loads(published("stripe", "spec", "fixtures3.trimmed.json"))["resources"][kind]
    found = told({"answer": kind, "body": fixture})
    says: dict[str, Any] = {
        "payment_intent": {"ignored": "it says nothing that an order, a stock level or a customer would change by"},
        "charge": [("PaymentAuthorized", 100)],
        "refund": {"ignored": "no money has gone back: the refund is under way, or released what was never captured"},
        "dispute": [("PaymentDisputed", 1000)],
    }
    if isinstance(found, list):
        found = [(record["fact"]["type"], record["fact"]["amount"]) for record in found]
    assert found == says[kind]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("payment_intent.succeeded", "charge.succeeded"),
        ("payment_intent.succeeded", "charge.captured"),
        ("payment_intent.succeeded", "answer.payment_intent.captured"),
        ("payment_intent.amount_capturable_updated", "charge.succeeded.uncaptured"),
        ("payment_intent.payment_failed", "charge.failed"),
        ("payment_intent.canceled", "charge.expired"),
        ("payment_intent.canceled", "charge.refunded.uncaptured"),
        ("refund.created", "charge.refund.updated"),
        ("refund.created", "answer.refund"),
        ("charge.dispute.created", "charge.dispute.created.inquiry"),
    ],
)
def test_one_thing_told_twice_has_one_natural_key(one: str, other: str) -> None:
    assert keys(sample(one)) == keys(sample(other)) != set()


def test_a_listed_refund_is_the_one_told_by_itself() -> None:
    assert keys(sample("refund.created")) < keys(sample("charge.refunded.listed"))


def test_a_refund_that_failed_retracts_what_its_success_said() -> None:
    (retracted,) = facts(sample("refund.failed"))
    (told_before,) = facts(sample("refund.created"))
    said = told_before["system"], told_before["object"], told_before["type"]
    assert (retracted["target_system"], retracted["target_object"], retracted["target_type"]) == said


def test_a_cancelled_authorization_is_retracted_by_its_key() -> None:
    (retracted,) = facts(sample("payment_intent.canceled"))
    (authorized,) = facts(sample("payment_intent.amount_capturable_updated"))
    said = authorized["system"], authorized["object"], authorized["type"]
    assert (retracted["target_system"], retracted["target_object"], retracted["target_type"]) == said


def test_an_attempt_that_charged_nothing_is_not_the_one_before_it() -> None:
    assert not keys(sample("payment_intent.payment_failed")) & keys(sample("payment_intent.payment_failed.authentication"))


def test_the_bank_s_decline_code_outranks_what_the_charge_calls_it() -> None:
    (intent,), (charge,) = facts(sample("payment_intent.payment_failed")), facts(sample("charge.failed"))
    assert intent["version"] > charge.get("version", 0)


def test_a_later_capture_of_the_same_payment_is_a_newer_version() -> None:
    first, second = (event("charge.captured", amount_captured=amount) for amount in (1000, 3990))
    assert facts(first)[0]["version"] < facts(second)[0]["version"]
    assert keys(first) == keys(second)


def older(topic: str, **fields: Any) -> dict[str, Any]:
    """A charge from before there was `amount_captured`."""
    found = event(topic, **fields)
    del found["body"]["data"]["object"]["amount_captured"]
    return found


def test_an_older_capture_is_without_what_it_released() -> None:
    (fact,) = facts(older("charge.captured", amount=2000, amount_refunded=500))
    assert (fact["amount"], fact["version"]) == (1500, 1500)
    assert facts(event("charge.captured", amount=2000, amount_captured=1500, amount_refunded=500)) == [fact]


@pytest.mark.parametrize(("balance_transaction", "captured"), [(None, 1500), ("txn_1", 2000)])
def test_of_an_older_charge_only_what_was_released_is_taken_off(balance_transaction: str | None, captured: int) -> None:
    listed = {"id": "re_1", "amount": 500, "currency": "eur", "created": 1767312000, "balance_transaction": balance_transaction}
    charge = older("charge.captured", amount=2000, amount_refunded=500, refunds={"data": [listed]})["body"]["data"]["object"]
    found = facts({"answer": "charge", "body": charge})
    assert [fact["amount"] for fact in found if fact["type"] == "PaymentCaptured"] == [captured]
    assert [fact["amount"] for fact in found if fact["type"] == "PaymentRefunded"] == ([500] if balance_transaction else [])


@pytest.mark.parametrize(
    ("status", "paid", "kind"),
    [
        (None, True, "PaymentCaptured"),
        (None, False, "PaymentFailed"),
        ("paid", True, "PaymentCaptured"),
        ("failed", False, "PaymentFailed"),
    ],
)
def test_an_old_charge_that_is_fetched_says_by_paid_what_became_of_it(status: str | None, paid: bool, kind: str) -> None:
    charge = sample("charge.succeeded.oldest")["body"]["data"]["object"] | {"status": status, "paid": paid}
    assert [fact["type"] for fact in facts({"answer": "charge", "body": charge})] == [kind]


def test_a_charge_that_says_neither_status_nor_paid_cannot_be_read() -> None:
    charge = sample("charge.succeeded.oldest")["body"]["data"]["object"] | {"paid": None}
    assert told({"answer": "charge", "body": charge}) == {"unreadable": ["schema", "status"]}


def test_refunds_without_ids_hide_no_capture() -> None:
    charge = sample("charge.refunded.oldest")["body"]["data"]["object"]
    assert [(fact["type"], fact["amount"]) for fact in facts({"answer": "charge", "body": charge})] == [("PaymentCaptured", 2000)]


def test_a_refund_without_an_id_cannot_be_read() -> None:
    nameless = sample("refund.created")
    del nameless["body"]["data"]["object"]["id"]
    assert told(nameless) == {"unreadable": ["schema", "id"]}


def test_a_payment_that_succeeded_received_something() -> None:
    silent = sample("payment_intent.succeeded")
    del silent["body"]["data"]["object"]["amount_received"]
    assert told(silent) == {"unreadable": ["schema", "amount_received"]}


def test_what_is_captured_of_an_authorization_was_authorized_too() -> None:
    (fact,) = facts(event("payment_intent.amount_capturable_updated", amount_capturable=1000, amount_received=3990))
    assert (fact["amount"], fact["version"]) == (4990, 4990)


def test_nothing_to_capture_is_no_authorization() -> None:
    assert "ignored" in told(event("payment_intent.amount_capturable_updated", amount_capturable=0))


def test_whatever_names_an_order_links_its_payment_for_good() -> None:
    links = [record for record in records(sample("charge.succeeded")) if isinstance(record, ReferenceLinked)]
    assert [(link.kind, link.value, link.order, link.since) for link in links] == [
        ("payment", "pi_3SkExample0001", "lumi:5001", 0),
        ("payment", "ch_3SkExample0001", "lumi:5001", 0),
    ]


def test_api_versions_that_list_charges_link_them_too() -> None:
    old = event("payment_intent.succeeded", latest_charge=None, charges={"object": "list", "data": [{"id": "ch_old"}]})
    assert [record["value"] for record in told(old) if record["type"] == "ReferenceLinked"] == ["pi_3SkExample0001", "ch_old"]


@pytest.mark.parametrize("text", ["5001", " 5001\n", "gid://shopify/Order/5001", " gid://shopify/Order/5001 "])
def test_an_order_is_named_by_the_shops_own_id_however_it_is_written(text: str) -> None:
    assert told(event("charge.succeeded", metadata={"order_id": text})) == told(sample("charge.succeeded"))


@pytest.mark.parametrize("text", ["#1001", " #1001 ", "gid://shopify/DraftOrder/77", "gid://shopify/Order/", "gid://shopify/Order/x"])
def test_a_number_or_another_objects_id_names_no_order(text: str) -> None:
    (waits,) = records(event("charge.succeeded", metadata={"order_id": text}))
    assert isinstance(waits, FactWaiting)
    assert (waits.kind, waits.value) == ("payment", "pi_3SkExample0001")
    assert "ignored" in told(event("checkout.session.completed", client_reference_id=text, metadata={}))


def test_an_id_beside_a_number_names_the_order() -> None:
    (link,) = told(event("checkout.session.completed", client_reference_id="5001", metadata={"order_id": "#1001"}))
    assert link["order"] == "lumi:5001"


@pytest.mark.parametrize("metadata", [None, [], {}, {"order_id": ""}, {"order_id": " "}, {"other": "5001"}])
def test_what_names_no_order_waits_for_its_payment(metadata: object) -> None:
    (waits,) = records(event("charge.succeeded", metadata=metadata))
    assert isinstance(waits, FactWaiting)
    assert (waits.kind, waits.value) == ("payment", "pi_3SkExample0001")
    assert msgspec.json.decode(waits.fact)["order"] == ""


def test_the_account_says_which_field_names_the_order() -> None:
    found = told(
        event("charge.succeeded", metadata={"shop_order": "7", "order_id": "8"}), msgspec.structs.replace(ACCOUNT, order_field="shop_order")
    )
    assert found[0]["order"] == "lumi:7"


def test_an_expanded_payment_intent_may_name_the_order() -> None:
    expanded = {"id": "pi_3SkExample0001", "object": "payment_intent", "metadata": {"order_id": "5001"}}
    assert told(event("refund.created", payment_intent=expanded))[0]["order"] == "lumi:5001"


def test_a_charge_without_intent_stands_for_itself() -> None:
    assert keys(event("charge.succeeded", payment_intent=None)) == {("PaymentCaptured", "stripe-lumi", "ch_3SkExample0001")}
    assert keys(event("charge.failed", payment_intent=None)) == {("PaymentFailed", "stripe-lumi", "ch_3SkExample0000")}


@pytest.mark.parametrize("latest", ["ch_3SkExample0001", {"id": "ch_3SkExample0001", "object": "charge", "metadata": {}}])
def test_a_charge_may_be_named_or_expanded(latest: object) -> None:
    assert told(event("payment_intent.succeeded", latest_charge=latest)) == told(sample("payment_intent.succeeded"))


@pytest.mark.parametrize("topic", ["refund.created", "charge.dispute.created"])
def test_what_names_neither_order_nor_payment_is_ignored(topic: str) -> None:
    assert told(event(topic, payment_intent=None, charge=None)) == {"ignored": "it names neither an order nor a payment"}


def test_a_refund_that_moved_no_balance_returned_nothing() -> None:
    assert "ignored" in told(event("refund.created", balance_transaction=None))
    assert "ignored" in told(event("refund.created", reason="expired_uncaptured_charge"))
    oldest = event("refund.created")
    del oldest["body"]["data"]["object"]["balance_transaction"]
    assert keys(oldest) == keys(sample("refund.created"))  # left out is not none


@pytest.mark.parametrize(
    ("currency", "theirs", "ours"),
    [
        ("eur", 1050, 1050),
        ("jpy", 1050, 1050),
        ("kwd", 10500, 10500),
        ("isk", 105000, 1050),
        ("ugx", 105000, 1050),
        ("mga", 1050, 105000),
        ("huf", 105000, 105000),
        ("twd", 105000, 105000),
    ],
)
def test_amounts_become_the_minor_units_of_iso_4217(currency: str, theirs: int, ours: int) -> None:
    (fact,) = facts(event("payment_intent.succeeded", currency=currency, amount_received=theirs))
    assert (fact["amount"], fact["currency"]) == (ours, currency.upper())


@pytest.mark.parametrize("amount", [-1, 2**53, 2**70])
def test_silly_amounts_are_out_of_bounds(amount: int) -> None:
    assert told(event("payment_intent.succeeded", amount_received=amount)) == {"unreadable": ["bounds", "amount"]}


@pytest.mark.parametrize("created", [0, -5, 10**12, 2**70])
def test_silly_times_are_out_of_bounds(created: int) -> None:
    silly = sample("payment_intent.succeeded")
    silly["body"]["created"] = created
    assert told(silly) == {"unreadable": ["bounds", "created"]}


def test_a_listing_with_nothing_in_it_hides_nothing() -> None:
    listing = {"object": "list", "data": [sample("refund.created.pending")["body"]["data"]["object"]]}
    assert "ignored" in told({"answer": "refunds", "body": listing})
    listing["data"] = [*listing["data"], sample("refund.created")["body"]["data"]["object"]]
    assert keys({"answer": "refunds", "body": listing}) == keys(sample("refund.created"))


@pytest.mark.parametrize("kind", ["payment_intents", "charges", "refunds", "disputes", "checkout_sessions", "events"])
def test_an_empty_list_and_a_refusal_are_told_in_words(kind: str) -> None:
    assert told({"answer": kind, "body": {"object": "list", "data": []}}) == {"ignored": "the list is empty"}
    refusal = {"error": {"type": "invalid_request_error", "param": "starting_after"}}
    assert "in its parameter starting_after" in told({"answer": kind, "body": refusal})


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("answer.", "complaint.", "no_event"))])
def test_an_event_says_the_same_pushed_fetched_and_listed(name: str) -> None:
    body = sample(name)["body"]
    assert told({"answer": "event", "body": body}) == told(sample(name))
    listed = told({"answer": "events", "body": {"object": "list", "data": [body]}})
    assert listed == told(sample(name)) or "ignored" in told(sample(name))


def test_an_event_holds_no_answer() -> None:
    assert told({"answer": "event", "body": {"id": "evt_1", "type": "answer:event"}}) == {"unreadable": ["schema", "type"]}


@pytest.mark.parametrize("request_of_it", [None, "req_1", {"id": None, "idempotency_key": None}])
def test_what_surrounds_an_object_changes_nothing(request_of_it: object) -> None:
    surrounded = sample("payment_intent.succeeded")
    surrounded["body"] |= {"request": request_of_it, "api_version": None, "account": "acct_1", "pending_webhooks": 0}
    assert told(surrounded) == told(sample("payment_intent.succeeded"))


def test_test_mode_is_read_like_any_other() -> None:
    test = event("payment_intent.succeeded", livemode=False)
    test["body"]["livemode"] = False
    assert told(test) == told(sample("payment_intent.succeeded"))


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"x"', b"{}", b'{"id": 5, "type": "x"}', b'{"id": "", "type": "x"}', b"\xff", b"[" * 9999]
)
def test_what_is_no_event_has_no_envelope(body: bytes) -> None:
    with pytest.raises(Unreadable):
        VENDOR.envelope({}, body)


def test_nothing_is_both_read_and_ignored() -> None:
    assert not [topic for topic in VENDOR.topics if topic in VENDOR.ignored]


def test_every_event_type_of_the_specification_is_read_or_has_its_reason() -> None:
    subscribing = json.loads(published("stripe", "spec", "openapi-v1-2023-08-16.ids-only.json"))["paths"]["/v1/webhook_endpoints"]["post"]
    form = subscribing["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]["properties"]
    types = {*form["enabled_events"]["items"]["enum"]} - {"*"}
    assert len(types) > 200
    assert [name for name in sorted(types) if name not in VENDOR.topics and name not in VENDOR.ignored] == []


def test_a_family_covers_its_own_and_nobody_else() -> None:
    for topic in ("invoice.paid", "invoice.brand_new", "customer.subscription.updated", "v1.charge.succeeded", "v2.core.account.updated"):
        assert topic in VENDOR.ignored
    for topic in ("invoice", "invoices.paid", "charge.brand_new", "payment_intent.brand_new", "refund.brand_new", "brand.new", "", ".*"):
        assert topic not in VENDOR.ignored
    assert VENDOR.ignored["customer.subscription.deleted"] != VENDOR.ignored["customer.deleted"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ({"type": "invalid_request_error", "message": "Invalid API Key provided: sk_live_****abcd"}, "check the secret key"),
        ({"type": "invalid_request_error", "message": "The provided key 'rk_live_****abcd' does not have ..."}, "what it may do"),
        ({"type": "invalid_request_error", "code": "api_key_expired"}, "has expired"),
        ({"type": "invalid_request_error", "code": "resource_missing", "param": "intent"}, "knows no such object (resource_missing)"),
        ({"type": "invalid_request_error", "code": "parameter_invalid_integer", "param": "amount"}, "in its parameter amount"),
        ({"type": "invalid_request_error", "code": "charge_already_refunded"}, "nothing is left to give back"),
        ({"type": "card_error", "code": "card_declined", "decline_code": "do_not_honor"}, "(do_not_honor)"),
        ({"type": "api_error"}, "fault of its own"),
        ({"type": "idempotency_error"}, "other parameters"),
        ({"type": "invalid_request_error", "code": "rate_limit"}, "slow down"),
        ({"type": "brand_new_error"}, "does not accept the request"),
    ],
)
def test_a_complaint_says_what_is_wrong_and_what_to_do(error: dict[str, str], says: str) -> None:
    text = VENDOR.complaint(json.dumps({"error": error}).encode())
    assert says in text
    assert "abcd" not in text  # of the key


@pytest.mark.parametrize("text", [*CODES.values(), *KINDS.values()])
def test_complaints_are_sentences(text: str) -> None:
    assert ": " in text or ", " in text
    assert not text.endswith(".")


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"error": null}', b'{"id": "pi_1", "object": "payment_intent"}'])
def test_what_is_no_error_is_no_complaint(body: bytes) -> None:
    assert VENDOR.complaint(body) == ""


def test_words_of_strangers_stay_out_of_complaints() -> None:
    text = VENDOR.complaint(json.dumps({"error": {"type": "x", "code": "anna@example.com", "param": "Anna Example"}}).encode())
    assert "nna" not in text


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from _paths(child, (*path, key))


BODIES = {name: list(_paths(sample(name)["body"])) for name in NAMES}


@given(data=st.data(), name=st.sampled_from(NAMES))
def test_reading_is_total(data: st.DataObject, name: str) -> None:
    broken = copy.deepcopy(sample(name))
    *parents, last = data.draw(st.sampled_from(BODIES[name]))
    place: Any = broken["body"]
    for key in parents:
        place = place[key]
    change: Any = data.draw(st.sampled_from(["drop", None, "", -1, 10**30, 1.5, [], {}, "\x00", True]))
    if change == "drop":
        del place[last]
    else:
        place[last] = change
    assert told(broken)  # facts, or why there are none; anything else would have been raised


@pytest.mark.parametrize("name", NAMES)
def test_fields_that_nobody_knows_yet_change_nothing(name: str) -> None:
    more = sample(name)
    data = more["body"].get("data", {})
    for thing in (more["body"], data, data["object"] if isinstance(data, dict) and data else None):
        if isinstance(thing, dict):
            thing["brand_new_field"] = {"with": ["anything", 1.5, None]}
    assert told(more) == told(sample(name))


def test_every_fact_carries_the_account() -> None:
    account = msgspec.structs.replace(ACCOUNT, authority=7)
    for topic in ("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled", "charge.refund.updated"):
        found = [record for record in records(sample(topic), account) if isinstance(record, Fact)]
        assert [(fact.system, fact.authority) for fact in found] == [("stripe-lumi", 7)]


# --- what it does for us
def asking(action: str = "payment.refund", **data: Any) -> Ask:
    known = {
        "payment.refund": {"payment": "pi_1", "amount": 4999, "currency": "EUR"},
        "payment.checkout": {
            "number": "Order 1001",
            "amount": 4999,
            "currency": "EUR",
            "success_url": "https://track.lumi.example/track/x",
            "cancel_url": "https://track.lumi.example/pay/x",
        },
    }[action]
    return Ask(action, "effect-16-chars_", "lumi:1001", msgspec.Raw(json.dumps(known | data).encode()))


def render(action: str = "payment.refund", **data: Any) -> Request:
    return VENDOR.actions[action].render(ACCOUNT, asking(action, **data))


def form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode(), strict_parsing=True))


def test_a_refund_names_its_payment_effect_and_order() -> None:
    assert form(render()) == {
        "payment_intent": "pi_1",
        "amount": "4999",
        "metadata[orderflow_effect]": "effect-16-chars_",
        "metadata[order_id]": "1001",
    }
    assert form(render(payment="ch_1"))["charge"] == "ch_1"
    assert dict(render().headers)["Idempotency-Key"] == "effect-16-chars_"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"payment": "TX-9"}, "data.payment"),
        ({"payment": ""}, "data.payment"),
        ({"amount": 0}, "data.amount"),
        ({"amount": AMOUNT_MAX}, "data.amount"),
        ({"currency": "XXY"}, "data.currency"),
        ({"amount": "many"}, "$.amount"),
        ({"currency": "MGA", "amount": 150}, "data.amount"),  # Stripe counts whole ariary
    ],
)
def test_a_refund_that_stripe_could_not_make_names_the_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(Unreadable) as found:
        render(**data)
    assert found.value.detail == field


@given(currency=st.sampled_from(sorted(EXPONENTS)), amount=st.integers(1, 10**9))
def test_amounts_go_out_as_they_came_in(currency: str, amount: int) -> None:
    try:
        ours = _money(amount, currency)
    except Unreadable:
        return  # a fraction of a unit that has none any more
    if ours["amount"]:
        assert _amount(ours["amount"], currency) == amount


def test_three_currencies_are_counted_as_stripe_counts_them() -> None:
    assert DIGITS.keys() == {"ISK", "UGX", "MGA"}
    asked = {currency: form(render(currency=currency, amount=500))["amount"] for currency in ("ISK", "UGX", "MGA", "JPY", "KWD", "EUR")}
    assert asked == {"ISK": "50000", "UGX": "50000", "MGA": "5", "JPY": "500", "KWD": "500", "EUR": "500"}


def test_the_refund_that_was_made_is_read_as_one_of_this_order() -> None:
    sent = form(render())
    made = {"id": "re_9", "object": "refund", "amount": 4999, "currency": "eur", "created": AT // 1000, "status": "succeeded"}
    made |= {"payment_intent": "pi_1", "balance_transaction": "txn_1", "metadata": {"order_id": sent["metadata[order_id]"]}}
    facts_of_it = facts({"answer": "refund", "body": made})
    assert [(fact["type"], fact["order"], fact["object"]) for fact in facts_of_it] == [("PaymentRefunded", "lumi:1001", "re_9")]


def test_a_checkout_session_asks_for_what_is_owed_and_leads_back_to_the_order() -> None:
    sent = form(render("payment.checkout"))
    assert (sent["mode"], sent["line_items[0][quantity]"], sent["line_items[0][price_data][unit_amount]"]) == ("payment", "1", "4999")
    assert {sent["client_reference_id"], sent["metadata[order_id]"], sent["payment_intent_data[metadata][order_id]"]} == {"1001"}
    with pytest.raises(Unreadable):
        render("payment.checkout", success_url="")


# --- against what Stripe has published
def operation(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the specification says of a request's path and method, and the whole of it."""
    whole = json.loads(published("stripe", "spec", "openapi-v1-2023-08-16.ids-only.json"))
    path = urlsplit(request.url).path
    template = next(known for known in whole["paths"] if re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", known), path))
    return whole["paths"][template][request.method.lower()], whole


def nested(flat: list[tuple[str, str]]) -> dict[str, Any]:
    """Fields as Stripe reads them: `a[b][0]` and `a[]` are lists; what can only be a number is one."""
    tree: dict[str, Any] = {}
    for name, value in flat:
        *parents, last = re.findall(r"[^\[\]]+", name.replace("[]", "[0]"))
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = int(value) if last in ("amount", "quantity", "unit_amount", "gte", "limit") else value
    lists: dict[str, Any] = json.loads(json.dumps(tree), object_hook=lambda found: [*found.values()] if "0" in found else found)
    return lists


def faults(schema: dict[str, Any], whole: dict[str, Any], value: Any) -> list[Any]:
    return list(OAS30Validator({**schema, "components": whole["components"]}).iter_errors(value))


@pytest.mark.parametrize(("action", "path"), [("payment.refund", "/v1/refunds"), ("payment.checkout", "/v1/checkout/sessions")])
def test_what_we_ask_for_is_what_the_specification_describes(action: str, path: str) -> None:
    request = render(action)
    assert urlsplit(request.url).path == path
    described, whole = operation(request)
    schema = described["requestBody"]["content"][dict(request.headers)["Content-Type"]]["schema"]
    sent = nested([*form(request).items()])
    assert faults(schema, whole, sent) == []
    assert faults(schema, whole, {**sent, "colour": "red"}), "the check can fail"


@pytest.mark.parametrize(("key", "status"), [(PASSWORD, 200), ("wrong", 401)])
@pytest.mark.parametrize("action", ["payment.refund", "payment.checkout"])
async def test_the_stand_in_answers_as_the_specification_describes(action: str, key: str, status: int) -> None:
    request = render(action)
    described, whole = operation(request)
    headers = {name.lower(): value for name, value in request.headers} | {"authorization": f"Bearer {key}"}
    answer = await StandIns(clock=lambda: AT).respond("POST", "/stripe" + urlsplit(request.url).path, headers, request.body)
    assert answer is not None and answer.status == status
    content = described["responses"]["200" if status == 200 else "default"]["content"]["application/json"]["schema"]
    wrong = [fault for fault in faults(content, whole, answer.body) if "is a required property" not in fault.message]
    assert wrong == [], "it tells less than Stripe, and nothing else"


@pytest.mark.parametrize("name", VENDOR.questions)
@pytest.mark.parametrize("cursor", ["", "pi_9"])
def test_what_we_fetch_is_there_in_the_specification(name: str, cursor: str) -> None:
    request = VENDOR.questions[name].render(ACCOUNT, "1795000000000", cursor)
    described, whole = operation(request)
    query = nested(parse_qsl(urlsplit(request.url).query))
    parameters = {one["name"]: one["schema"] for one in described["parameters"] if one["in"] == "query"}
    assert query.keys() <= parameters.keys()
    assert [fault for field, value in query.items() for fault in faults(parameters[field], whole, value)] == []
    assert ("starting_after" in query) == bool(cursor and name.endswith("s"))
    assert query.get("created", {"gte": 1_795_000_000}) == {"gte": 1_795_000_000}


def test_pages_follow_one_another_until_there_is_no_more() -> None:
    page = {"data": [{"id": "pi_1"}, {"id": "pi_2"}], "has_more": True}
    following = VENDOR.questions["payment_intents"].next
    assert following(Reply(200, {}, json.dumps(page).encode())) == "pi_2"
    assert following(Reply(200, {}, json.dumps(page | {"has_more": False}).encode())) == ""


def test_the_key_and_the_version_of_the_api_come_last() -> None:
    account = Account(source="s", shop="lumi", credentials={"key": Secret("sk_test_1")})
    assert dict(headers(account, "")) == {"Authorization": "Bearer sk_test_1", "Stripe-Version": "2023-08-16"}


@pytest.mark.parametrize(
    ("checks", "signals"),
    [
        (
            {"cvc_check": "fail", "address_line1_check": "pass", "address_postal_code_check": "fail"},
            {"avs_mismatch": 1.0, "cvc_mismatch": 1.0},
        ),
        ({"cvc_check": "pass", "address_line1_check": "fail", "address_postal_code_check": None}, {"avs_mismatch": 1.0}),
        ({"cvc_check": "unchecked", "address_line1_check": "unavailable"}, None),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["charge.succeeded", "charge.succeeded.uncaptured"])
def test_the_banks_word_on_the_card_is_a_signal(name: str, checks: dict[str, str | None] | None, signals: dict[str, float] | None) -> None:
    found = facts(event(name, payment_method_details={"type": "card", "card": {"brand": "visa", "checks": checks}}))
    risks = [(fact["object"], fact["signals"]) for fact in found if fact["type"] == "RiskReported"]
    charge = sample(name)["body"]["data"]["object"]["id"]
    assert risks == [(f"{charge}:{name}", {name: value}) for name, value in (signals or {}).items()]
    assert len(found) == 1 + len(risks), "the payment is told beside it"


def test_a_payment_without_a_card_has_no_checks() -> None:
    found = facts(event("charge.succeeded", payment_method_details={"type": "sepa_debit", "sepa_debit": {"country": "DE"}}))
    assert [fact["type"] for fact in found] == ["PaymentCaptured"]
