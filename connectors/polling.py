"""When a parcel's carrier is asked again: often when something is about to happen, seldom when nothing is."""

from __future__ import annotations

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
NEAR_MS, AWAY_MS, LOST_MS = 12 * HOUR_MS, 4 * HOUR_MS, DAY_MS


def next_poll(now: int, last_scan: int, eta_from: int, eta_until: int, shipped_at: int, failures: int, after: int) -> int:
    """When a parcel that was asked about at `now` is asked about again. All times in ms; 0: not known.

    `failures`: askings in a row that brought no answer. `after`: not before, as the vendor said.
    """
    latest = max(last_scan, shipped_at)
    begins, ends = eta_from or eta_until, eta_until or eta_from
    if ends and begins - NEAR_MS <= now <= ends + NEAR_MS:
        wait = 20 * MINUTE_MS if begins <= now <= ends else HOUR_MS
    elif latest and now - latest > 7 * DAY_MS:
        wait = LOST_MS
    else:
        wait = AWAY_MS
        if ends and now < begins - NEAR_MS:  # halving the way there, so that no window is slept through
            wait = min(wait, max((begins - NEAR_MS - now) // 2, HOUR_MS))
    return max(now + min(wait << min(failures, 6), LOST_MS), after)
