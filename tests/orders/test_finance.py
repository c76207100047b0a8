"""What finance has to look at, and what stays settled."""

from __future__ import annotations

import random

from hypothesis import given, settings

from orders import fact as facts
from orders.fact import Fact
from orders.finance import problems, suspicious
from orders.journal import Closed, adopt
from orders.merge import merge
from orders.state import Order
from orders.view import view
from tests.orders.lives import DAY, HOUR, ORDER, T0, cancel, captured, failed, paid, placed, release, reports, retract
from tests.orders.test_view import order_of

DISPUTE = facts.PaymentDisputed(order=ORDER, system="stripe:lumi", object="dp_1", at=T0 + 9 * DAY, amount=4999, currency="EUR")
LOST = facts.DisputeClosed(order=ORDER, system="stripe:lumi", object="dp_1", at=T0 + 20 * DAY, won=False)
WON = facts.DisputeClosed(order=ORDER, system="stripe:lumi", object="dp_1", at=T0 + 20 * DAY, won=True)


def kinds(*known: Fact) -> list[str]:
    return [problem.kind for problem in of(order_of(*known))]


def of(order: Order) -> list[object]:
    return list(problems(view(order), order))


def told(*known: Fact) -> Order:
    """Payments have failed as often as the shop bears, so finance was told."""
    return adopt(order_of(*known), Closed(at=T0, effects=("team.notice payment_problem",)))


def test_a_dispute_is_a_problem_until_it_is_won() -> None:
    assert kinds(placed(), captured()) == []
    assert kinds(placed(), captured(), DISPUTE) == ["dispute"]
    assert kinds(placed(), captured(), DISPUTE, LOST) == ["dispute_lost"]
    assert kinds(placed(), captured(), DISPUTE, WON) == []


def test_money_in_another_currency_and_reports_that_differ_are_problems() -> None:
    assert kinds(placed(), captured(currency="USD")) == ["currency"]
    assert kinds(placed(), paid(currency="USD"), captured()) == ["currency"]
    assert kinds(placed(), captured(), captured(4000)) == ["contradiction"]
    assert kinds(placed(), captured(currency="USD"), retract("PaymentCaptured", "stripe:lumi", "pi_1")) == []


def test_failed_payments_are_a_problem_once_finance_was_told_and_until_they_are_made() -> None:
    twice = (placed(), failed(), failed(at=T0 + HOUR, object="pi_x"))
    assert kinds(*twice) == []
    (problem,) = of(told(*twice))
    assert (problem.kind, problem.at, len(problem.keys)) == ("payment_failed", T0 + HOUR, 2)
    assert of(told(*twice, captured(at=T0 + DAY))) == of(told(*twice, cancel(at=T0 + DAY))) == []


def test_what_is_settled_stays_settled_and_what_grows_is_a_new_problem() -> None:
    twice = (placed(), failed(), failed(at=T0 + HOUR, object="pi_x"))
    known = [*twice, DISPUTE, captured(10, object="a"), captured(11, object="a")]
    settled = release(*(problem.id for problem in of(told(*known))), at=T0 + 10 * DAY)
    assert len(of(told(*known))) == 3
    assert of(told(*known, settled)) == []
    assert [p.kind for p in of(told(*known, settled, captured(12, object="a")))] == ["contradiction"]
    assert [p.kind for p in of(told(*known, settled, failed(at=T0 + DAY, object="pi_y")))] == ["payment_failed"]
    assert [p.kind for p in of(told(*known, settled, LOST))] == ["dispute_lost"]
    assert view(told(*known, settled)).person_verdict == ""  # settling money decides nothing about the order


@settings(max_examples=200, deadline=None)
@given(known=reports)
def test_the_quick_look_misses_nothing_and_the_order_of_arrival_does_not_matter(known: list[Fact]) -> None:
    one, other = Order(ORDER), Order(ORDER)
    for fact in known:
        one = merge(one, fact)
    for fact in random.Random(len(known)).sample(known, len(known)):
        other = merge(other, fact)
    assert of(one) == of(other)
    assert suspicious(view(one)) or not of(one)
