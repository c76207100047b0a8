"""When to ask a carrier about a parcel again: often when something is about to happen, seldom when nothing is.

Far from the expected delivery a fifth of the time that is left passes between two questions, within bounds; in its window and for
a day after it the shortest time that is fair to a carrier. A parcel that nobody scans is asked about ever less often.
"""

from __future__ import annotations

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LEAST = 15 * MINUTE  # between two questions about one parcel
USUAL = 4 * HOUR  # nothing is known of when it comes
MOST = DAY
SILENT = 3 * DAY  # without a scan: it is asked about less often from then on


def next_poll(now: int, last_scan: int, eta_from: int, eta_until: int, shipped_at: int, failures: int, after: int) -> int:
    """When to ask next, after `now`. All in ms; 0 for what is not known.

    `failures` counts the questions without an answer since the last answer. `after` is when the carrier allows the next one: nothing
    is asked before it, however near the parcel is.
    """
    wait = _wait(now, last_scan, eta_from, eta_until, shipped_at)
    if failures > 0:
        wait = max(wait, min(LEAST << min(failures - 1, 16), MOST))
    return max(now + wait, after)


def _wait(now: int, last_scan: int, eta_from: int, eta_until: int, shipped_at: int) -> int:
    until = max(eta_from, eta_until)
    begins = min(eta_from or until, until)
    if until and now < until + DAY:
        return min(max((begins - now) // 5, LEAST), USUAL)
    heard = max(last_scan, shipped_at, until)
    if not heard or now - heard < SILENT:
        return USUAL
    return min((now - heard) // 12, MOST)
