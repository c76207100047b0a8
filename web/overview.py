"""What the overview makes of the counters: where work waits, for whom, and what somebody should look at. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from web.live import Snapshot
from web.reader import Counters
from web.words import age, channel, count

LATE_MS = 60_000  # records should be read within seconds
FALLBACK = 0.05  # of the scores: more often the rules should not answer for the model
FEW_SCORES = 20
PROCESSORS = {"intake": "Intake", "orders": "Orders", "references": "References", "stock": "Stock", "customers": "Customers"}
Has = Callable[[str], bool]


class Alarm(NamedTuple):
    text: str
    href: str  # where it is dealt with
    label: str
    runbook: str


class Stage(NamedTuple):
    text: str
    orders: int
    href: str
    warn: bool = False


class Queue(NamedTuple):
    """Of one processor: records that nobody has read yet, and when the oldest was written (0: not known)."""

    text: str
    behind: int
    oldest: int


class Backlog(NamedTuple):
    queues: list[Queue]
    stages: list[Stage]


def backlog(n: Counters, has: Has) -> Backlog:
    """Records that wait to be read, by processor, and orders that wait for somebody, along their way."""

    def at(page: str, status: str) -> str:
        return page if has(page) else f"/?status={status}"

    picked = n.flags.get("to_pick")
    queues = [Queue(PROCESSORS.get(name, name), behind, n.oldest.get(name, 0)) for name, behind in n.behind.items()]
    stages = [
        Stage("Wait for payment", n.orders.get("order_placed", 0) + n.orders.get("payment_failed", 0), "/?status=order_placed"),
        Stage("In review", n.held, at("/reviews", "held")),
        Stage("Wait for stock", n.orders.get("backordered", 0), at("/stock", "backordered")),
        Stage("To pick and pack", n.orders.get("in_progress", 0) if picked is None else picked, at("/warehouse", "in_progress")),
        Stage("For finance", n.flags.get("finance", 0), at("/finance", "finance"), warn=True),
        Stage("Incomplete", n.flags.get("incomplete", 0), "/?status=incomplete", warn=True),
        Stage("Unknown outcome", n.unknown, "/?status=unknown", warn=True),
    ]
    return Backlog(queues, stages)


def alarms(now: Snapshot, at: int, has: Has) -> list[Alarm]:
    """In words, the gravest first."""
    n, modes, found = now.counters, now.modes, list[Alarm]()
    if modes is not None and modes.stop:
        found.append(Alarm(f"All sending is stopped: {modes.stop}", "/sending", "Sending", ""))
    late = {name: written for name, written in n.oldest.items() if at - written > LATE_MS}
    for name, written in late.items():
        what = f"{PROCESSORS.get(name, name)}: {many(n.behind.get(name, 0), 'record')} wait to be read, the oldest for {age(written, at)}"
        found.append(Alarm(what, "", "", "lag"))
    if n.parked_now:
        page = "/parked" if has("/parked") else "/v1/parked"
        found.append(Alarm(f"{many(n.parked_now, 'record')} cannot be read", page, "Parked", "parked-rising"))
    if n.unknown:
        page = "/?status=unknown"
        found.append(
            Alarm(f"Of {many(n.unknown, 'order')} nobody can tell whether something was sent", page, "Show them", "unknown-effects")
        )
    if n.scores >= FEW_SCORES and n.fallback_scores > n.scores * FALLBACK:
        found.append(Alarm("The rules often answer for the model", "", "", "fallback-scoring"))
    stopped = [channel(name) for name, mode in modes.channels.items() if mode == "stopped"] if modes is not None else []
    if stopped:
        found.append(Alarm(f"Stopped: {', '.join(stopped)}", "/sending", "Sending", ""))
    return found


def many(n: int, thing: str) -> str:
    return f"{count(n)} {thing}{'' if n == 1 else 's'}"
