"""What the store promises its callers, over each server it may run on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.store import Commit, Held, LaneId, LaneLost, SendsClosed, Store, StoreRefused
from connectors.valkey import EmbeddedValkey

EVERYTHING = Commit(
    first=0,
    next=10,
    states={"a": b"one", "b": b"\x00\xff\r\n"},
    due={"a": 50, "b": 40},
    outbox=b"records",
    parked={"malformed/facts/3/7": b"row"},
    bodies={"e:1": b"body"},
    index=[("a", (), ("placed", "late"), 7), ("b", (), ("placed",), 8)],
    counts={"done": 9, "parked": 1},
    mark="rebuilding",
)


async def contents(store: Store) -> dict[bytes, Any]:
    """Everything in the store, by key."""
    client = store._client
    reads = {b"hash": client.hgetall, b"set": client.smembers, b"string": client.get}
    found: dict[bytes, Any] = {}
    for key in await client.keys("*"):
        kind = await client.type(key)
        found[key] = await client.zrange(key, 0, -1, withscores=True) if kind == b"zset" else await reads[kind](key)
    return found


async def placed(store: Store, lane: LaneId, sends: bool = True) -> Held:
    await store.place(lane, 0, "log-1", sends=sends)
    return await store.acquire(lane)


async def test_a_commit_is_read_back_whole(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)

    assert await store.load(lane, ["b", "none", "a"]) == [b"\x00\xff\r\n", None, b"one"]
    assert await store.state(lane, "a") == b"one"
    assert {key: state async for key, state in store.states(lane)} == EVERYTHING.states
    assert await store.due(lane, 5) == [("b", 40), ("a", 50)]
    assert await store.parked(lane, ["malformed/facts/3/7"]) == [b"row"]
    assert await store.parked_list([lane], "malformed") == [(lane, "malformed/facts/3/7", b"row")]
    assert await store.parked_list([lane], "schema") == []
    assert await store.bodies(lane, ["e:1", "e:2"]) == [b"body", None]
    assert await store.tag_counts([lane]) == {"late": 1, "placed": 2}
    assert await store.by_tag([lane], "placed", 10) == [(8, "b", lane), (7, "a", lane)]
    assert (held.sequence, held.offset, held.mark, held.outbox) == (1, 10, "rebuilding", [(1, b"records")])
    standing = (await store.standing([lane]))[0]
    assert (standing.offset, standing.sequence, standing.counts, standing.mark) == (10, 1, {"done": 9, "parked": 1}, "rebuilding")
    assert (standing.states, standing.due, standing.next_due, standing.parked, standing.outbox) == (2, 2, 40, 1, 1)


async def test_whoever_acquires_next_finds_what_was_committed(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)
    other = await store.acquire(lane)
    assert other.token != held.token
    assert other.epoch == held.epoch + 1
    assert other.due_head == [("b", 40), ("a", 50)]
    mine = msgspec.structs.replace(held, token=other.token, epoch=other.epoch, due_head=other.due_head)
    assert other == mine


async def test_a_commit_takes_away_what_it_names(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)
    await store.commit(
        held,
        Commit(
            gone=["a"],
            due={"a": 0, "b": 0},
            trim=held.sequence,
            unparked=["malformed/facts/3/7"],
            spent=["e:1"],
            index=[("a", ("placed", "late"), (), 0), ("b", ("placed",), ("shipped",), 9)],
            counts={"parked": -1},
            mark="",
        ),
    )
    standing = (await store.standing([lane]))[0]
    assert (standing.states, standing.due, standing.parked, standing.outbox, standing.mark) == (1, 0, 0, 0, "")
    assert standing.counts == {"done": 9, "parked": 0}
    assert await store.tag_counts([lane]) == {"shipped": 1}
    assert await store.bodies(lane, ["e:1"]) == [None]
    assert (await store.acquire(lane)).outbox == []


async def test_the_outbox_keeps_what_was_not_trimmed_in_the_order_of_commits(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    for number in range(1, 13):
        await store.commit(held, Commit(outbox=b"%d" % number))
    await store.commit(held, Commit(trim=9))
    assert held.outbox == [(10, b"10"), (11, b"11"), (12, b"12")]
    assert (await store.acquire(lane)).outbox == held.outbox


@pytest.mark.parametrize(
    ("change", "commit"),
    [
        ({"token": "1.wrong"}, Commit(states={"a": b"2"})),
        ({"sequence": 0}, Commit(states={"a": b"2"})),
        ({}, Commit(first=9, next=20, states={"a": b"2"})),
        ({}, Commit(first=11, next=20, states={"a": b"2"})),
        ({}, Commit(first=0, next=10, states={"a": b"2"})),
    ],
    ids=["wrong token", "wrong sequence", "overlapping chunk", "chunk after a gap", "same chunk twice"],
)
async def test_a_commit_that_does_not_continue_writes_nothing(store: Store, lane: LaneId, change: dict[str, Any], commit: Commit) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)
    before = await contents(store)
    claimed = msgspec.structs.replace(held, **change)
    with pytest.raises(LaneLost):
        await store.commit(claimed, commit)
    assert await contents(store) == before
    assert (claimed.offset, claimed.counts, claimed.outbox) == (held.offset, held.counts, held.outbox)


async def test_a_zombie_cannot_commit_once_another_has_acquired(store: Store, lane: LaneId) -> None:
    zombie = await placed(store, lane)
    owner = await store.acquire(lane)
    await store.commit(owner, Commit(first=0, next=5, counts={"done": 5}))
    before = await contents(store)
    with pytest.raises(LaneLost):
        await store.commit(zombie, Commit(first=0, next=5, counts={"done": 5}))
    zombie.sequence = owner.sequence  # even if it knew where the lane stands
    with pytest.raises(LaneLost):
        await store.commit(zombie, Commit(first=5, next=9))
    assert await contents(store) == before


async def test_a_token_is_kept_as_long_as_it_is_the_stored_one(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)
    assert (await store.acquire(lane, held.token, held.sequence)).token == held.token
    other = await store.acquire(lane)
    again = await store.acquire(lane, held.token, held.sequence)
    assert len({held.token, other.token, again.token}) == 3
    assert again.epoch == 3


async def test_lanes_do_not_see_each_other(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)
    for other in (LaneId("orders", 0, 33), LaneId("stock", 0, 3), LaneId("orders", 1, 3)):
        assert (await store.standing([other]))[0].offset is None
        assert await store.load(other, ["a"]) == [None]


async def test_a_position_is_written_once(store: Store, lane: LaneId) -> None:
    assert (await store.acquire(lane)).offset is None
    assert await store.place(lane, 17, "log-1", sends=True)
    assert not await store.place(lane, 99, "log-2", sends=False)
    held = await store.acquire(lane)
    assert (held.offset, held.log, held.sends) == (17, "log-1", True)


async def test_a_lane_that_was_never_placed_takes_no_chunk_and_no_claim(store: Store, lane: LaneId) -> None:
    held = await store.acquire(lane)
    with pytest.raises(LaneLost):
        await store.commit(held, Commit(first=0, next=5))
    with pytest.raises(SendsClosed):
        await store.commit(held, Commit(bodies={"e:1": b"body"}))


async def test_while_sends_are_closed_no_attempt_can_be_claimed(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane, sends=False)
    before = await contents(store)
    with pytest.raises(SendsClosed):
        await store.commit(held, Commit(states={"a": b"claimed"}, bodies={"e:1": b"body"}))
    assert await contents(store) == before
    await store.set_sends([lane], True)
    await store.commit(held, Commit(states={"a": b"1"}))
    assert held.sends
    await store.commit(held, Commit(bodies={"e:1": b"body"}))
    await store.set_sends([lane], False)
    with pytest.raises(SendsClosed):
        await store.commit(held, Commit(bodies={"e:2": b"body"}))


async def test_a_wiped_lane_keeps_its_fence_and_nothing_else(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.commit(held, EVERYTHING)
    await store.wipe(held, 4, "log-2", "rebuilding")
    assert [key for key in await contents(store) if key.startswith(lane.prefix.encode())] == [b"{orders.0.3}:m"]
    assert await store.acquire(lane, held.token, held.sequence) == held
    assert (held.sequence, held.offset, held.log, held.mark, held.sends, held.counts, held.outbox) == (
        2,
        4,
        "log-2",
        "rebuilding",
        False,
        {},
        [],
    )
    await store.commit(held, Commit(first=4, next=6))


async def test_a_wiped_lane_goes_on_above_what_the_lost_store_had_reached(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store.wipe(held, 0, "log-1", sequence=41)
    assert held.sequence == 42
    await store.commit(held, Commit(first=0, next=1))
    assert (await store.acquire(lane, held.token, 43)).sequence == 43


async def test_a_key_of_another_type_is_refused_before_anything_is_written(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    tagged = msgspec.structs.replace(EVERYTHING, index=[("a", ("lost",), ("gained",), 1)])
    for suffix in ("s", "d", "o", "p", "b", "c", "t", "t:gained", "t:lost"):
        await store._client.set(f"{lane.prefix}:{suffix}", "foreign")
        before = await contents(store)
        with pytest.raises(StoreRefused, match="not ours"):
            await store.commit(held, tagged)
        assert await contents(store) == before
        await store._client.delete(f"{lane.prefix}:{suffix}")
    await store.commit(held, tagged)


async def test_a_commit_may_be_larger_than_lua_can_unpack(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    states = {f"größe:{number}": b"%d" % number for number in range(20_000)}
    due = {key: 1_800_000_000_000 + number for number, key in enumerate(states)}
    index = [(key, (), ("all",), number) for number, key in enumerate(states)]
    await store.commit(held, Commit(states=states, due=due, index=index))
    await store.commit(held, Commit(due=dict.fromkeys(list(states)[:15_000], 0), gone=list(states)[:15_000]))
    assert {key: state async for key, state in store.states(lane)} == dict(list(states.items())[15_000:])
    assert await store.due(lane, 1) == [("größe:15000", 1_800_000_015_000)]
    assert await store.tag_counts([lane]) == {"all": 20_000}


async def test_offsets_and_counters_are_exact_beyond_the_reach_of_doubles(store: Store, lane: LaneId) -> None:
    big = 2**62 + 1
    await store.place(lane, big, "log-1", sends=True)
    held = await store.acquire(lane)
    await store.commit(held, Commit(first=big, next=big + 1, counts={"done": big}))
    with pytest.raises(LaneLost):
        await store.commit(held, Commit(first=big, next=big + 2))
    await store.commit(held, Commit(first=big + 1, next=big + 2, counts={"done": 1}))
    found = await store.acquire(lane)
    assert (found.offset, found.counts) == (big + 2, {"done": big + 1})


async def test_what_is_not_a_number_is_stopped_before_it_is_sent(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    before = await contents(store)
    with pytest.raises(ValueError, match="format code"):
        await store.commit(held, Commit(states={"a": b"1"}, due={"a": float("nan")}))  # type: ignore[dict-item]
    with pytest.raises(UnicodeEncodeError):
        await store.commit(held, Commit(states={"b": b"1", "\ud800": b"1"}))
    assert await contents(store) == before
    await store.commit(held, Commit(states={"a": b"2"}))
    assert await store.load(lane, ["a", "b"]) == [b"2", None]


async def test_pages_of_a_tag_hold_each_key_once_though_scores_are_equal(store: Store) -> None:
    lanes = [LaneId("orders", 0, partition) for partition in range(3)]
    expected = []
    for lane in lanes:
        held = await placed(store, lane)
        rows = [(f"{lane.partition}-{number}", (), ("placed",), 5 if number < 9 else number) for number in range(12)]
        await store.commit(held, Commit(index=rows))
        expected += [(score, key, lane) for key, _, _, score in rows]
    seen: list[tuple[int, str, LaneId]] = []
    while page := await store.by_tag(lanes, "placed", 4, seen[-1][:2] if seen else None):
        seen += page
    assert seen == sorted(expected, reverse=True)
    assert await store.tag_counts(lanes) == {"placed": 36}


async def test_counters_are_summed_over_lanes(store: Store) -> None:
    lanes = [LaneId("orders", 0, partition) for partition in range(3)]
    for lane in lanes:
        held = await placed(store, lane)
        await store.commit(held, Commit(counts={"done": 2, "parked": lane.partition}))
        await store.commit(held, Commit(counts={"done": 5}))
    assert await store.counters(lanes) == {"done": 21, "parked": 3}


async def test_of_two_changes_to_one_version_of_the_document_one_wins(store: Store) -> None:
    assert await store.document() == (0, b"")
    assert await store.put_document(0, b"first")
    assert not await store.put_document(0, b"late")
    outcomes = await asyncio.gather(*(store.put_document(1, b"%d" % number) for number in range(8)))
    assert sum(outcomes) == 1
    assert await store.document() == (2, b"%d" % outcomes.index(True))


async def test_of_a_hundred_who_claim_at_once_one_wins_and_all_learn_who(store: Store) -> None:
    answers = await asyncio.gather(*(store.claim("lumi:1", f"reviewer {number}", 60_000) for number in range(100)))
    (winner,) = {holder for holder, _ in answers}
    assert all(0 < left <= 60_000 for _, left in answers)
    assert [holder for holder, _ in await store.claims(["lumi:1", "lumi:2"])] == [winner, ""]


async def test_a_claim_is_prolonged_and_let_go_only_by_whoever_has_it(store: Store) -> None:
    assert await store.claim("lumi:1", "kim", 1_000) == ("kim", 1_000)
    assert (await store.claim("lumi:1", "kim", 90_000))[1] > 60_000
    assert (await store.claim("lumi:1", "sam", 1_000))[0] == "kim"
    assert (await store.unclaim("lumi:1", "sam"))[0] == "kim"
    assert (await store.claims(["lumi:1"]))[0][1] > 60_000
    assert (await store.unclaim("lumi:1", "kim"))[0] == ""
    assert (await store.claim("lumi:1", "sam", 1_000))[0] == "sam"


async def test_a_claim_ends_by_itself(store: Store) -> None:
    await store.claim("lumi:1", "kim", 1)
    async with asyncio.timeout(5):
        while (await store.claims(["lumi:1"]))[0][0]:
            await asyncio.sleep(0)
    assert (await store.claim("lumi:1", "sam", 1_000))[0] == "sam"


async def test_what_waits_longest_comes_first(store: Store, lane: LaneId) -> None:
    other = LaneId("orders", 0, 4)
    for its, rows in ((lane, (("a", 5), ("b", 2))), (other, (("c", 3), ("d", 9)))):
        await store.commit(await placed(store, its), Commit(index=[(key, (), ("review",), score) for key, score in rows]))
    assert [(score, key) for score, key, _ in await store.oldest([lane, other], "review", 3)] == [(2, "b"), (3, "c"), (5, "a")]
    assert await store.oldest([lane], "none", 3) == []


async def test_the_store_has_one_id_for_all_its_clients(store: Store, shared_server: EmbeddedValkey) -> None:
    await store.start()
    other = Store.from_url(shared_server.url)
    await other.start()
    assert len(store.id) == 32
    assert other.id == store.id
    await other.close()


async def test_scripts_forgotten_by_the_server_are_sent_again(store: Store, lane: LaneId) -> None:
    held = await placed(store, lane)
    await store._client.script_flush()
    await store.commit(held, Commit(counts={"done": 1}))
    await store._client.script_flush()
    assert (await store.acquire(lane)).counts == {"done": 1}


async def test_contenders_for_a_lane_apply_each_commit_once(store: Store, lane: LaneId) -> None:
    await store.place(lane, 0, "log-1", sends=True)
    made = 0

    async def contend(name: int) -> None:
        nonlocal made
        for _ in range(10):
            held = await store.acquire(lane)
            for _ in range(3):
                assert held.offset is not None
                try:
                    await store.commit(held, Commit(first=held.offset, next=held.offset + 1, counts={"done": 1, f"by {name}": 1}))
                    made += 1
                except LaneLost:
                    break

    await asyncio.gather(*(contend(name) for name in range(6)))
    standing = (await store.standing([lane]))[0]
    assert made >= 3  # whoever acquired last was not disturbed
    assert (standing.offset, standing.sequence, standing.counts["done"]) == (made, made, made)
    assert sum(count for name, count in standing.counts.items() if name.startswith("by ")) == made


async def test_lanes_commit_at_the_same_time(store: Store) -> None:
    async def live(lane: LaneId) -> None:
        held = await placed(store, lane)
        for number in range(20):
            await store.commit(held, Commit(first=number, next=number + 1, states={"k": b"%d" % number}, counts={"done": 1}))

    lanes = [LaneId("orders", 0, partition) for partition in range(40)]
    await asyncio.gather(*map(live, lanes))
    assert await store.counters(lanes) == {"done": 800}
    assert [await store.state(lane, "k") for lane in lanes] == [b"19"] * 40


def test_a_lane_id_is_read_back_from_its_text() -> None:
    assert str(LaneId("orders", 0, 3)) == "orders.0.3"
    assert LaneId.parse("orders.0.3") == LaneId("orders", 0, 3)


# --- against a model: what a dict would hold

KEYS = st.sampled_from(["a", "b", "c", "d/é"])
TAGS = st.sampled_from(["placed", "shipped", "late"])


@st.composite
def turns(draw: st.DrawFn) -> list[tuple[str, Commit, int]]:
    """What happens to one lane: (kind, commit, how far its chunk goes)."""
    history = []
    for _ in range(draw(st.integers(1, 8))):
        changed = draw(st.sets(KEYS))
        gone = draw(st.sets(KEYS)) - changed
        parked, unparked = draw(st.sets(st.sampled_from(["m/1", "m/2", "s/3"]))), draw(st.sets(st.sampled_from(["m/1", "m/2"])))
        commit = Commit(
            states={key: draw(st.binary(max_size=8)) for key in changed},
            gone=sorted(gone),
            due=draw(st.dictionaries(KEYS, st.one_of(st.just(0), st.integers(1, 2**45)))),
            outbox=draw(st.binary(max_size=4)),
            trim=draw(st.integers(0, 8)),
            parked={name: draw(st.binary(max_size=4)) for name in parked},
            unparked=sorted(unparked - parked),
            bodies=draw(st.dictionaries(st.sampled_from(["e:1", "e:2"]), st.binary(max_size=4))),
            index=[
                (key, tuple(sorted(draw(st.sets(TAGS)) - {tag})), (tag,), draw(st.integers(0, 99)))
                for key in changed
                for tag in [draw(TAGS)]
            ],
            counts=draw(st.dictionaries(st.sampled_from(["done", "parked"]), st.integers(-5, 5))),
        )
        history.append((draw(st.sampled_from(["commit", "commit", "chunk", "acquire", "zombie", "wipe"])), commit, draw(st.integers(1, 5))))
    return history


class Model:
    def __init__(self) -> None:
        self.sequence, self.offset, self.log, self.sends = 0, 0, "log-1", True
        self.empty()

    def empty(self) -> None:
        self.states: dict[str, bytes] = {}
        self.due: dict[str, int] = {}
        self.outbox: dict[int, bytes] = {}
        self.parked: dict[str, bytes] = {}
        self.bodies: dict[str, bytes] = {}
        self.tags: dict[tuple[str, str], int] = {}
        self.counts: dict[str, int] = {}

    def commit(self, commit: Commit) -> None:
        self.sequence += 1
        self.offset = commit.next if commit.next >= 0 else self.offset
        self.states = {key: state for key, state in (self.states | commit.states).items() if key not in commit.gone}
        self.due = {key: at for key, at in (self.due | commit.due).items() if at}
        self.outbox = {number: entry for number, entry in self.outbox.items() if number > commit.trim}
        if commit.outbox:
            self.outbox[self.sequence] = commit.outbox
        self.parked = {name: row for name, row in (self.parked | commit.parked).items() if name not in commit.unparked}
        self.bodies |= commit.bodies
        for key, lost, gained, score in commit.index:
            for tag in lost:
                self.tags.pop((tag, key), None)
            for tag in gained:
                self.tags[tag, key] = score
        for name, added in commit.counts.items():
            self.counts[name] = self.counts.get(name, 0) + added

    async def check(self, store: Store, lane: LaneId, held: Held) -> None:
        assert {key: state async for key, state in store.states(lane)} == self.states
        assert await store.due(lane, 9) == sorted(self.due.items(), key=lambda row: (row[1], row[0].encode()))
        assert {name: row for _, name, row in await store.parked_list([lane])} == self.parked
        for tag in ("placed", "shipped", "late"):
            tagged = [(score, key, lane) for (name, key), score in self.tags.items() if name == tag]
            assert await store.by_tag([lane], tag, 9) == sorted(tagged, reverse=True)
        assert [body for body in await store.bodies(lane, ["e:1", "e:2"]) if body is not None] == [
            self.bodies[name] for name in ("e:1", "e:2") if name in self.bodies
        ]
        stored = await store.acquire(lane, held.token, held.sequence)
        assert stored.token == held.token
        for side in (stored, held):
            assert (side.sequence, side.offset, side.counts, dict(side.outbox), side.log, side.sends) == (
                self.sequence,
                self.offset,
                self.counts,
                self.outbox,
                self.log,
                self.sends,
            )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=turns())
def test_any_history_of_a_lane_reads_as_a_dict_would(shared_server: EmbeddedValkey, history: list[tuple[str, Commit, int]]) -> None:
    async def run() -> None:
        store = Store.from_url(shared_server.url)
        await store.start()
        await store._client.flushall()
        lane, model = LaneId("orders", 0, 1), Model()
        held = await placed(store, lane)
        for kind, commit, length in history:
            if kind == "acquire":
                held = await store.acquire(lane)
            elif kind == "zombie":
                other = await store.acquire(lane)
                with pytest.raises(LaneLost):
                    await store.commit(held, commit)
                held = other
            elif kind == "wipe":
                await store.wipe(held, length, f"log-{length}")
                model.empty()
                model.sequence, model.offset, model.log, model.sends = model.sequence + 1, length, f"log-{length}", False
                await store.set_sends([lane], True)
                await store.commit(held, Commit())
                model.commit(Commit())
                model.sends = True
            else:
                if kind == "chunk":
                    commit = msgspec.structs.replace(commit, first=model.offset, next=model.offset + length)
                await store.commit(held, commit)
                model.commit(commit)
        await model.check(store, lane, held)
        await store.close()

    asyncio.run(run())
