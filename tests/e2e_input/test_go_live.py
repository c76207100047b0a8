"""Going live, stopping and starting on a running worker: within five seconds, nothing lost, nothing observed sent later."""

from __future__ import annotations

import msgspec

from orders.fact import Person
from tests.e2e_input.conftest import Installation, until
from tests.orders.lives import placed

AT_ONCE_S = 5.0  # how soon a stop counts


def ordered(installation: Installation, count: int) -> list[str]:
    """Orders of as many customers, each of whom is owed an e-mail."""
    orders = [installation.new_order() for _ in range(count)]
    now = installation.clock.now()
    numbers = [order.rpartition(":")[2] for order in orders]
    ada = Person(name="Ada Example", locale="en_GB", zone="UTC")
    installation.post(
        *(
            placed(
                at=now,
                order=order,
                object=number,
                number=number,
                customer=f"lumi:c{number}",
                promised=0,
                signals={},
                person=msgspec.structs.replace(ada, email=f"ada-{number}@example.invalid"),
            )
            for order, number in zip(orders, numbers, strict=True)
        )
    )
    installation.rest()
    return orders


def told(installation: Installation, orders: list[str]) -> list[str]:
    return [order for order in orders if installation.received(order)]


def test_live_stop_and_start_count_within_five_seconds_and_what_was_stopped_is_queued_not_lost(installation: Installation) -> None:
    installation.cli("go-live", "email", "--mode", "observe")
    until(lambda: installation.metric("channel_mode", channel="email", mode="observe") == 1, AT_ONCE_S)
    observed = ordered(installation, 3)
    assert all("observed" in {m["outcome"] for m in installation.order(order)["messages"]} for order in observed)

    shown = installation.cli("go-live", "email", code=1).stdout.decode()  # nobody says yes
    assert "observed and never sent later: order_placed: " in shown
    count = next(
        int(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith("observed and never sent later: order_placed:")
    )
    assert count >= len(observed)
    assert installation.metric("channel_mode", channel="email", mode="observe") == 1

    installation.cli("go-live", "email", "--yes")
    until(lambda: installation.metric("channel_mode", channel="email", mode="live") == 1, AT_ONCE_S)
    live = ordered(installation, 2)
    until(lambda: told(installation, live) == live, 20, installation.log_tail())

    installation.cli("go-live", "--stop", "wrong prices")
    until(lambda: installation.metric("sends_stopped", channel="email") == 1, AT_ONCE_S)
    before = len(installation.received())
    stopped = ordered(installation, 3)
    installation.rest()
    assert len(installation.received()) == before and told(installation, stopped) == []

    installation.cli("go-live", "--start")
    until(lambda: told(installation, stopped) == stopped, 40, "what was stopped was lost")
    until(lambda: installation.metric("sends_stopped", channel="email") == 0, AT_ONCE_S)

    installation.cli("go-live", "email", "--mode", "stopped")
    until(lambda: installation.metric("sends_stopped", channel="email") == 1, AT_ONCE_S)
    held = ordered(installation, 1)
    assert told(installation, held) == []
    installation.cli("go-live", "email", "--yes")
    until(lambda: told(installation, held) == held, 40, "what was stopped was lost")

    assert told(installation, observed) == [], "what was observed is never sent"
    sent = installation.received()
    assert len({row["effect"] for row in sent}) == len(sent), "and nothing twice"
    assert "messages so far: " in installation.cli("go-live", "email", code=1).stdout.decode()
