"""Orders are found by what the warehouse has to do with them, whatever happens and in whatever order it is told."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from orders.fact import Fact
from orders.warehouse import queued_at, stages
from tests.orders.lives import EACH, ORDER, T0, hold, picked, release
from tests.streams.test_orders_processor import READY, Lane

STAFFED = [msgspec.structs.replace(fact, at=T0 + n * 1000) for n, fact in enumerate((hold(), release("h1"), hold(object="h2"), picked()))]
turns = st.lists(st.lists(st.sampled_from([*READY, *STAFFED, *EACH]), min_size=1, max_size=4), min_size=1, max_size=8)


@settings(deadline=None)
@given(turns, st.sampled_from([0.1, 0.5, 0.95]))
def test_the_index_says_what_the_order_says_and_never_to_pick_what_is_held(schedule: list[list[Fact]], fraud: float) -> None:
    lane = Lane(fraud=fraud)
    for some in schedule:
        lane.turn(*some)
        if ORDER not in lane.states:
            continue
        v = lane.view
        indexed = {tag for tag in lane.tags[ORDER] if ":" in tag}
        assert indexed == {f"{stage}:{location}" for stage, location in stages(v)}
        if v.holds or v.incomplete or v.cancelled or v.verdict != "approve":
            assert not [tag for tag in indexed if not tag.startswith("stopped:")], "promise 6"


def test_orders_to_pick_are_indexed_by_when_they_could_first_be_picked() -> None:
    lane = Lane()
    index = lane.turn(*READY).index
    assert [(lost, score) for _, lost, gained, score in index if "to_pick:main" in gained] == [((), queued_at(lane.view))]
    assert [score for _, _, gained, score in index if "in_progress" in gained] == [lane.view.last_at]
