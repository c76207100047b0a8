"""What a person who decides gets to see, from the state alone."""

from __future__ import annotations

from typing import Any

import msgspec

from orders import fact as facts
from orders.decision import Decision
from orders.fact import Address, Fact
from orders.journal import Closed, Decided, TimerFired, adopt
from orders.state import Order
from tests.orders.lives import ANNA, HOUR, LIFE, ORDER, T0, cancel, captured, failed, hold, paid, placed, refunded, release, review
from tests.orders.test_view import order_of
from web.evidence import evidence, waiting
from web.explain import detail
from web.reader import Waiting

SLA = 2 * HOUR


def in_review(*known: Fact, **fired: int) -> Order:
    decision = Decision(1, T0, "review", "model", b"k", T0, fraud=6200, priority=8300, loss=420, model="m", reasons=("avs_mismatch",))
    order = adopt(order_of(*known), Decided(at=T0, decision=decision))
    for timer, at in fired.items():
        order = adopt(order, TimerFired(at=at, timer=f"{timer} {T0}"))
    return order


def waits(order: Order, queue: str = "review") -> Waiting | None:
    its = waiting(order, queue, SLA)
    assert evidence(order, queue, SLA).waiting == its
    return its


def test_an_order_in_review_waits_since_its_decision_and_is_due_when_its_time_is_over() -> None:
    its = waits(in_review(placed(), captured()))
    assert its is not None
    assert (its.since, its.due, its.escalated, its.loss, its.fraud, its.priority) == (T0, T0 + SLA, False, 420, 0.62, 0.83)
    assert its.reasons == ("the billing address was not confirmed (AVS)",)
    late = waits(in_review(placed(), captured(), review_late=T0 + SLA))
    assert late is not None and late.escalated and "escalated" in late.flags


def test_who_needs_no_review_any_more_does_not_wait() -> None:
    for over in ((review(True),), (review(False),), (release("review"),), (cancel(),), LIFE[5:6]):
        assert waits(in_review(placed(), captured(), *over)) is None
    assert waits(in_review(placed(backfilled=True), captured())) is None
    assert waits(order_of(placed(), hold(), verdict="approve")) is None


def test_what_is_odd_about_an_order_is_said_and_its_holds_have_the_names_that_release_them() -> None:
    nowhere = msgspec.structs.replace(ANNA, address=Address(country="DE"))
    found = evidence(in_review(placed(person=nowhere, signals={"ship_bill_mismatch": 1.0, "ip_far": 0.0}), hold()), "review", SLA)
    assert "the shipping address differs from the billing address" in found.checks
    assert any(text.startswith("the address lacks") for text in found.checks) and "ordered from far away" not in found.checks
    assert {hold.id for hold in found.holds} == {"review", "address_incomplete", "h1"}


def test_both_sides_of_a_contradiction_are_shown_with_what_they_differ_in_and_which_counts() -> None:
    found = evidence(order_of(placed(), captured(4999), captured(4000), verdict="approve"), "finance", SLA)
    (trouble,) = found.troubles
    assert trouble.title == "stripe:lumi reported “payment captured” twice, differently"
    assert [(v.said, v.counts) for v in trouble.variants] == [(("Amount: 49.99\u00a0EUR",), True), (("Amount: 40.00\u00a0EUR",), False)]


def test_an_order_reported_differently_shows_no_personal_data_in_what_differs() -> None:
    other = msgspec.structs.replace(ANNA, name="Someone Else", email="else@example.invalid")
    more = (facts.Line(line="1", sku="OTHER", quantity=3),)
    found = evidence(order_of(placed(), placed(person=other, promised=0, lines=more, tier="vip"), verdict="approve"), "finance", SLA)
    said = {text for variant in found.troubles[0].variants for text in variant.said}
    assert {"Customer: other details", "Promised: none", "Lines: 3 × OTHER", "Lines: 2 × LAMP-1, 1 × SHADE-2", "Tier: vip"} <= said
    assert "Else" not in repr(found.troubles)


def titles(order: Order) -> list[str]:
    its = waits(order, "finance")
    found = [trouble.title for trouble in evidence(order, "finance", SLA).troubles]
    assert list(its.reasons if its is not None else ()) == found
    return found


def test_every_kind_of_problem_has_its_words() -> None:
    base: dict[str, Any] = {"order": ORDER, "system": "stripe:lumi", "object": "dp_1", "at": T0 + HOUR}
    dispute = facts.PaymentDisputed(**base, amount=4999, currency="EUR")
    lost = facts.DisputeClosed(**{**base, "at": T0 + 2 * HOUR}, won=False)
    twice = order_of(placed(), failed(), failed(at=T0 + HOUR, object="pi_x"), verdict="approve")
    told = adopt(twice, Closed(at=T0, effects=("team.notice payment_problem",)))
    assert titles(order_of(placed(), captured(), verdict="approve")) == []
    assert titles(order_of(placed(), captured(), dispute, verdict="approve")) == ["the customer disputes 49.99\u00a0EUR"]
    assert titles(order_of(placed(), captured(), dispute, lost)) == ["a dispute is lost: the bank has taken the money back"]
    assert titles(order_of(placed(), paid(100, currency="USD"))) == ["1.00\u00a0USD is in another currency than the order and not counted"]
    assert titles(told) == ["payment has failed 2 times"]
    assert len(evidence(told, "finance", SLA).troubles[0].variants) == 2


def test_what_is_owed_of_a_cancelled_order_is_said_until_it_is_refunded() -> None:
    assert evidence(order_of(placed(), captured(), verdict="approve"), "finance", SLA).owed == 0
    assert evidence(order_of(placed(), captured(), cancel(), verdict="approve"), "finance", SLA).owed == 4999
    assert evidence(order_of(placed(), captured(), cancel(), refunded(4999), verdict="approve"), "finance", SLA).owed == 0


def test_the_timeline_says_when_nobody_came_and_what_finance_settled() -> None:
    order = in_review(placed(), captured(), release("finance:dispute:dp_1"), review_late=T0 + SLA, review_expired=T0 + 2 * SLA)
    told = [moment.title for moment in detail(order).timeline]
    assert {"Nobody has reviewed it in time", "Still nobody has reviewed it", "Settled by finance"} <= set(told)
