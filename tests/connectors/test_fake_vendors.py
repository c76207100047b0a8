"""What the fake vendors say, read by the real connectors, is what the shop knows to be true."""

from __future__ import annotations

from collections import Counter

from msgspec import Raw
from msgspec.json import encode

from connectors.base import Secret
from connectors.delivery import Record
from connectors.fake_shop import FIRST_NUMBER, SCENARIOS, FakeShop
from connectors.fake_vendors import OWN_EVERY, SOURCES, FakeVendors, Webhook
from connectors.registry import VENDORS
from connectors.signature import Sent, Verdict
from connectors.vendor import Account, Ask
from orders.fact import Fact, OrderPlaced, PaymentAuthorized, PaymentCaptured, PaymentFailed, decode_fact, encode_fact
from orders.merge import absorb
from orders.request import FactWaiting, ReferenceLinked
from orders.state import Order
from orders.view import View, view

NOW = 1_795_464_000_000
SECRETS = {name: Secret(f"of-{name}-and-long-enough-to-sign") for name in SOURCES}
BY_SOURCE = {source: VENDORS[name] for name, source in SOURCES.items()}


def shop() -> FakeShop:
    return FakeShop(11, start_ms=NOW)


def read(webhook: Webhook) -> list[Record]:
    vendor = BY_SOURCE[webhook.source]
    assert vendor.scheme is not None
    secret = SECRETS[vendor.name]
    assert vendor.scheme.check(Sent(webhook.headers, webhook.body), [secret], NOW) is Verdict.GOOD
    account = Account(source=webhook.source, shop="lumi", reports_payments=False, location="berlin")
    topic = vendor.envelope(webhook.headers, webhook.body).topic
    return vendor.read(account, topic, webhook.body, NOW)


def as_told(n: int) -> tuple[View, View]:
    """One order as the vendors tell it, and as the shop tells it in our own words."""
    its, order_id = shop(), f"lumi:{FIRST_NUMBER + n}"
    vendors = FakeVendors(its, SECRETS, lambda: NOW)
    theirs, ours = Order(order_id), Order(order_id)
    links: dict[str, str] = {}
    waiting: list[FactWaiting] = []
    for report in its.told(n):
        record = report.record
        fact = decode_fact(record.fact) if isinstance(record, FactWaiting) else record
        if not isinstance(fact, Fact):
            continue
        absorb(ours, decode_fact(encode_fact(fact).replace(b'"order":""', f'"order":"{order_id}"'.encode())))
        webhooks = vendors.tell(record)
        if webhooks is None:
            absorb(theirs, fact)
        if (check := vendors.checked(record)) is not None:
            absorb(theirs, check)
        for webhook in webhooks or ():
            for found in read(webhook):
                if isinstance(found, ReferenceLinked):
                    assert found.order == order_id
                    links[f"{found.kind}:{found.value}"] = found.order
                elif isinstance(found, FactWaiting):
                    waiting.append(found)
                else:
                    assert isinstance(found, Fact) and found.order == order_id
                    absorb(theirs, found)
    for found in waiting:
        of = links.get(f"{found.kind}:{found.value}")
        assert of == order_id, "nobody linked this parcel"
        absorb(theirs, decode_fact(bytes(found.fact).replace(b'"order":""', f'"order":"{of}"'.encode())))
    return view(theirs), view(ours)


def test_status_and_money_are_the_same_as_the_shop_knows_them() -> None:
    seen = Counter[str]()
    for n in range(900):
        if (FIRST_NUMBER + n) % OWN_EVERY == 0:
            continue
        expected = shop().expected(n)
        told, truth = as_told(n)
        seen[expected.scenario] += 1
        assert told.placed is not None and truth.placed is not None
        assert told.status == truth.status, (n, expected)
        for name in ("total", "currency", "captured", "refunded", "authorized", "failures", "disputed", "dispute_lost", "cancelled"):
            assert getattr(told, name) == getattr(truth, name), (n, expected, name)
        assert [(x.line, x.sku, x.quantity, x.price) for x in told.lines] == [(x.line, x.sku, x.quantity, x.price) for x in truth.lines]
        assert told.person.address == truth.person.address and told.person.email == truth.person.email
        if truth.captured or truth.authorized:
            assert told.signals == truth.signals, (n, expected)
        assert (told.placed.service, told.placed.tier) == (truth.placed.service, truth.placed.tier)
        assert told.placed.customer == FakeVendors.as_shopify_knows(truth.placed.customer)
        assert len(told.parcels) == len(truth.parcels), (n, expected)
    assert seen.keys() == SCENARIOS.keys(), "every story was told"


def test_the_same_thing_told_again_is_the_same_delivery() -> None:
    vendors = FakeVendors(shop(), SECRETS, lambda: NOW)
    for report in shop().told(1):
        first, second = vendors.tell(report.record) or [], vendors.tell(report.record) or []
        for one, other in zip(first, second, strict=True):
            vendor = BY_SOURCE[one.source]
            assert vendor.envelope(one.headers, one.body) == vendor.envelope(other.headers, other.body)


def test_orders_of_the_shop_that_speaks_our_words_are_left_to_it() -> None:
    vendors = FakeVendors(shop(), SECRETS, lambda: NOW)
    own = next(n for n in range(OWN_EVERY) if (FIRST_NUMBER + n) % OWN_EVERY == 0)
    assert all(vendors.tell(report.record) is None for report in shop().told(own) if report.topic != "stock")


def test_money_of_the_shop_that_speaks_our_words_can_be_given_back_at_stripe() -> None:
    its = shop()
    n = next(n for n in range(200) if (n + FIRST_NUMBER) % OWN_EVERY == 0 and any(isinstance(f, PaymentCaptured) for f in its.life(n)))
    told = [FakeVendors.in_own_words(fact) for fact in its.life(n)]
    capture = next(fact for fact in told if isinstance(fact, PaymentCaptured))
    data = Raw(encode({"payment": capture.object, "amount": capture.amount, "currency": capture.currency}))
    ask = Ask("payment.refund", "e" * 16, capture.order, data)
    assert VENDORS["stripe"].actions["payment.refund"].render(Account(source=SOURCES["stripe"], shop="lumi"), ask)
    others = (PaymentCaptured, PaymentAuthorized, PaymentFailed)
    assert [fact for fact in told if not isinstance(fact, others)] == [fact for fact in its.life(n) if not isinstance(fact, others)]


def test_orders_of_runs_before_are_told_again_as_shopify_knows_them() -> None:
    vendors = FakeVendors(shop(), SECRETS, lambda: NOW)
    told = [webhook for webhook in vendors.orders(range(9)) if webhook.headers["x-shopify-topic"] == "orders/create"]
    assert len(told) == 6 and {record.order for webhook in told for record in read(webhook) if isinstance(record, OrderPlaced)} == {
        f"lumi:{FIRST_NUMBER + n}" for n in range(9) if (FIRST_NUMBER + n) % OWN_EVERY
    }
