"""A parcel is asked about often when something is about to happen, seldom when nothing is, and never before the carrier allows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.polling import DAY, HOUR, LEAST, MINUTE, MOST, USUAL, next_poll

NOW = 1_795_464_000_000
times = st.one_of(st.just(0), st.integers(NOW - 60 * DAY, NOW + 60 * DAY))


@pytest.mark.parametrize(
    ("last_scan", "eta_from", "eta_until", "shipped_at", "wait"),
    [
        (0, 0, 0, 0, USUAL),  # nothing is known
        (NOW - HOUR, 0, 0, NOW - DAY, USUAL),
        (NOW - HOUR, NOW + 5 * DAY, NOW + 6 * DAY, NOW - DAY, USUAL),  # far off
        (NOW - HOUR, NOW + 10 * HOUR, NOW + 34 * HOUR, NOW - DAY, 2 * HOUR),
        (NOW - HOUR, NOW + HOUR, NOW + 25 * HOUR, NOW - DAY, LEAST),
        (NOW - HOUR, NOW - HOUR, NOW + HOUR, NOW - DAY, LEAST),  # today
        (NOW - HOUR, 0, NOW + 10 * HOUR, NOW - DAY, 2 * HOUR),  # only an end is known
        (NOW - 2 * DAY, NOW - 2 * DAY, NOW - DAY + 1, NOW - 3 * DAY, LEAST),  # it is late
        (NOW - 2 * DAY, NOW - 3 * DAY, NOW - 2 * DAY, NOW - 3 * DAY, USUAL),  # later still
        (NOW - 6 * DAY, 0, 0, NOW - 9 * DAY, 12 * HOUR),  # silent
        (NOW - 40 * DAY, 0, 0, NOW - 41 * DAY, MOST),
    ],
)
def test_how_long_until_the_next_question(last_scan: int, eta_from: int, eta_until: int, shipped_at: int, wait: int) -> None:
    assert next_poll(NOW, last_scan, eta_from, eta_until, shipped_at, 0, 0) == NOW + wait


@given(last=times, begins=times, until=times, shipped=times, failures=st.integers(0, 10_000), after=times)
def test_it_is_asked_again_within_a_day_and_never_at_once_or_before_it_is_allowed(
    last: int, begins: int, until: int, shipped: int, failures: int, after: int
) -> None:
    due = next_poll(NOW, last, begins, until, shipped, failures, after)
    assert due >= max(NOW + LEAST, after)
    assert due <= max(NOW + MOST, after)
    assert isinstance(due, int)


@given(left=st.integers(0, 20 * DAY), nearer=st.integers(0, 20 * DAY))
def test_the_nearer_the_delivery_the_shorter_the_wait(left: int, nearer: int) -> None:
    near, far = sorted((left, nearer))
    waits = [next_poll(NOW, NOW - HOUR, NOW + ahead, NOW + ahead + DAY, NOW - DAY, 0, 0) for ahead in (near, far)]
    assert waits == sorted(waits)


@given(silent=st.integers(0, 90 * DAY), longer=st.integers(0, 90 * DAY))
def test_the_longer_nobody_scanned_it_the_longer_the_wait(silent: int, longer: int) -> None:
    short, long = sorted((silent, longer))
    waits = [next_poll(NOW, NOW - ago, 0, 0, 0, 0, 0) for ago in (short, long)]
    assert waits == sorted(waits)


def test_failures_space_questions_out_and_retry_after_is_obeyed() -> None:
    today = (NOW - HOUR, NOW - HOUR, NOW + HOUR, NOW - DAY)
    assert [next_poll(NOW, *today, failures, 0) - NOW for failures in (0, 1, 2, 3, 4, 99)] == [
        LEAST,
        LEAST,
        2 * LEAST,
        4 * LEAST,
        8 * LEAST,
        MOST,
    ]
    assert next_poll(NOW, *today, 1, NOW + 90 * MINUTE) == NOW + 90 * MINUTE
    assert next_poll(NOW, *today, 0, NOW + 3 * DAY) == NOW + 3 * DAY
    assert next_poll(NOW, *today, 0, NOW - DAY) == NOW + LEAST
