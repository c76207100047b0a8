"""Which weights does the product ship with? Trains them on the seeded shop, the only data they ever see, and writes them.

    python -m bench.train_shipped [--orders 60000] [--out model/weights]

Lives are told at three speeds (a real shop's, and two of the demo's), because the demo squeezes days into seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from connectors.fake_shop import FIRST_DAY, FakeShop
from model.train import train_from_archive
from orders.fact import Fact

SEED = 20_261
SPEEDS = (1.0, 2_000.0, 40_000.0)  # the last: 60 s for two weeks of lives
DAY_MS = 86_400_000


def facts(orders: int) -> Iterator[Fact]:
    """Slices of each speed in turn, so that every part of the data has all of them; times of placement go on from slice to slice."""
    slices = 30
    each = max(1, orders // slices)
    for number in range(slices):
        shop = FakeShop(
            SEED + number,
            shop=f"s{number}",
            start_ms=FIRST_DAY + number * 7 * DAY_MS,
            interval_ms=7 * DAY_MS // each,
            compress=SPEEDS[number % len(SPEEDS)],
            reserves=True,
        )
        yield from shop.stream(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path("model/weights"))
    arguments = parser.parse_args()
    trained = train_from_archive(
        facts(arguments.orders),
        arguments.out,
        created_from=f"{arguments.orders} orders of connectors.fake_shop, seed {SEED}; no real data",
        tell=lambda word: print(word, flush=True),
    )
    print(f"{trained.version}: {'champion' if trained.promoted else 'not promoted: the rules are better'}")


if __name__ == "__main__":
    main()
