"""The store put back, under another model: no effect with two bodies, no contradictory pair, nothing made twice.

And killed at every step of every commit, before and after every call: the end is that of the clean run.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from connectors.store import Commit, Held, LaneId, Store
from connectors.valkey import EmbeddedValkey
from messages.render import Brand, Renderer
from messages.way_back import WayBack
from model.features import features
from orders.effect import effect_id
from orders.fact import Fact, encode_fact
from orders.policy import Policy, Trigger
from orders.status import status_of
from orders.view import view
from streams.clock import VirtualClock
from streams.customers import CustomersProcessor
from streams.dispatch import Modes
from streams.orders import OrdersProcessor
from streams.recovery import rebuild, refold
from tests.orders.lives import LAMP, ORDER, SHADE, T0, cancel, captured, hold, packed, placed, release, reserved
from tests.streams.town import Killed, Opinion, Provider, Town
from tests.streams.toy import MemoryLog

LIVE = Modes(channels={"email": "live", "webhook": "live", "stock": "live", "references": "live"})
MINUTE, DAY = 60_000, 86_400_000
PICK, LABEL = "warehouse.pick in_progress main", "carrier.label packed P1"
UNDO = ("payment.refund cancelled pi_1", "carrier.void cancelled P1")

Life = tuple[tuple[str, ...], tuple[tuple[Fact, ...], ...]]  # milestones told by e-mail, and what is reported, turn by turn


def answered(line: Any) -> Fact:
    """The stock lane's answer to the order's own request."""
    return reserved(line, object=effect_id(ORDER, "paid", line.line, "stock.reserve"), at=T0 + 2 * MINUTE)


STOCK = (answered(LAMP), answered(SHADE))
LIVES: dict[str, Life] = {
    "labelled, then cancelled": (
        ("order_placed",),
        ((placed(), captured()), STOCK, (packed(at=T0 + 3 * MINUTE),), (cancel(at=T0 + 4 * MINUTE),)),
    ),
    "held, picked, cancelled": (
        ("cancelled",),
        ((placed(), captured(), hold()), STOCK, (release("h1", at=T0 + 3 * MINUTE),), (cancel(at=T0 + 4 * MINUTE),)),
    ),
}


def processors(told: tuple[str, ...], email: str = "neither") -> dict[str, Callable[[], Any]]:
    policy = Policy(
        triggers=tuple(Trigger(milestone, "email", milestone) for milestone in told),
        link_key="key",
        retire_after_ms=0,
        repeat_ms=30 * DAY,  # there is no stock lane that would answer
        repeat_most_ms=30 * DAY,
    )
    renderer = Renderer(
        Brand(
            name="Lumi",
            hashtag="#x",
            sender="orders@shop.invalid",
            reply_to="service@shop.invalid",
            domain="shop.invalid",
            locale="en_GB",
            zone="UTC",
        ),
        WayBack([b"0" * 32]),
    )
    abilities = {"email": email, "webhook": "keyed"}
    return {
        "facts": lambda: OrdersProcessor(features, policy, abilities),
        "customers": lambda: CustomersProcessor(renderer, abilities=abilities),
    }


MODEL = Opinion(0.05, 0.0)
OTHERS = (Opinion(0.95, 0.0), Opinion(0.05, 0.9))  # one declines what was approved; of the other the order is more urgent: other bytes


def town(
    store: Store,
    told: tuple[str, ...],
    model: Opinion = MODEL,
    email: str = "neither",
    failpoint: Callable[[str], None] = lambda step: None,
) -> Town:
    clock = VirtualClock(T0 + 5 * MINUTE)
    providers = {"email": Provider(email, failpoint), "webhook": Provider("keyed", failpoint)}
    log: Any = MemoryLog(now=clock.now)
    return Town(store, log, clock, processors(told, email), providers, LIVE, model, failpoint=failpoint)


def memory(town: Town) -> MemoryLog:
    assert isinstance(town.log, MemoryLog)
    return town.log


async def tell(town: Town, reports: tuple[Fact, ...]) -> None:
    await town.report("facts", *[(fact.order, encode_fact(fact)) for fact in reports])


# --- what was, at one moment
class Moment(NamedTuple):
    """All that outlives a process: the store's keys, the log, what the providers remember; and how far the life was told."""

    keys: dict[bytes, bytes]
    records: dict[tuple[str, int], list[Any]]
    providers: dict[str, Provider]
    now: int
    told: int


class Recording:
    """The store, and a moment for each commit: just after it, and as late as just before the next."""

    def __init__(self, store: Store, of: Town) -> None:
        self.store, self.town, self.told = store, of, 0
        self.moments: list[Moment] = []
        self.commits = 0

    async def look(self) -> Moment:
        return Moment(
            await dumped(self.store),
            {tp: list(records) for tp, records in memory(self.town).records.items()},
            {name: provider.copy() for name, provider in self.town.providers.items()},
            self.town.clock.now(),
            self.told,
        )

    async def commit(self, held: Held, commit: Commit) -> None:
        if self.commits:
            self.moments.append(await self.look())
        await self.store.commit(held, commit)
        self.commits += 1
        self.moments.append(await self.look())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


async def dumped(store: Store) -> dict[bytes, bytes]:
    keys: list[Any] = await store._client.keys("{*")
    batch = store._client.pipeline()
    for key in keys:
        batch.dump(key)
    return dict(zip(keys, await batch.execute(), strict=True))


async def put_back(store: Store, keys: dict[bytes, bytes]) -> None:
    batch = store._client.pipeline()
    for key in await store._client.keys("{*"):
        batch.delete(key)
    for key, blob in keys.items():
        batch.restore(key, 0, blob)
    await batch.execute()


async def recorded(store: Store, life: Life) -> tuple[Town, list[Moment]]:
    """A clean run, and its moments."""
    its = town(store, life[0])
    await its.begin()
    recording = Recording(store, its)
    its.store = recording  # type: ignore[assignment]
    assert await its.wake() == {}
    for reports in life[1]:
        recording.told += 1
        await tell(its, reports)
        await its.rest(until=MINUTE)
    await its.rest(until=5 * DAY)
    recording.moments.append(await recording.look())
    assert recording.commits <= 12, [m.told for m in recording.moments[::2]]
    return its, recording.moments


async def recover(its: Town, open_: bool = True) -> None:
    """`run.py recover`, then `--open`."""
    for make in its.processors.values():
        await rebuild(LaneId(make().name, 0, 0), make(), store=its.store, log=its.log, archive=None, clock=its.clock)
    if open_:
        await its.store.set_sends(its.ids, True)


async def go_on(its: Town, life: Life, then: Moment) -> bool:
    """From this moment on: a new process, recovery if it asks for it, the rest of the life. Whether it asked."""
    stopped = await its.wake()
    if stopped:
        assert {s.reason for s in stopped.values()} == {"store_went_back"}
        calls = {name: len(provider.calls) for name, provider in its.providers.items()}
        await recover(its, open_=False)
        assert await its.wake() == {}
        await its.rest(until=MINUTE)
        assert calls == {name: len(provider.calls) for name, provider in its.providers.items()}, "a rebuilt lane sent before it was opened"
        await its.store.set_sends(its.ids, True)
    for reports in life[1][then.told :]:
        await tell(its, reports)
        await its.rest(until=MINUTE)
    await its.rest(until=5 * DAY)
    return bool(stopped)


async def check(its: Town, where: str) -> None:
    assert its.twice == [], f"{where}: made twice, or with two bodies"
    bodies: dict[str, set[bytes]] = {}
    for provider in its.providers.values():
        for claim in provider.calls:
            bodies.setdefault(claim.effect, set()).add(claim.body)
    assert all(len(each) == 1 for each in bodies.values()), f"{where}: an effect left with two bodies"
    journal = await its.journal()
    claimed = [e["effect"] for e in journal if e["type"] == "Claimed" and e["lane"] == "orders.0.0" and not e.get("lookup")]
    undone = [n for n, name in enumerate(claimed) if name in UNDO]
    if undone:
        later = claimed[undone[0] :]
        assert not {PICK, LABEL} & set(later), f"{where}: picked or labelled after it was undone: {claimed}"
    if UNDO[1] in claimed:
        assert LABEL in claimed[: claimed.index(UNDO[1])], f"{where}: voids a label that was never bought"
    made = {claim.effect for claim in its.providers["webhook"].calls}
    assert made <= {e["id"] for e in journal if e["type"] == "Claimed" and e["lane"] == "orders.0.0"}, f"{where}: a call without its claim"
    placed_mail, cancelled_mail = (effect_id(ORDER, milestone, "", "notify.email") for milestone in ("order_placed", "cancelled"))
    mails = [claim.effect for claim in its.providers["email"].calls]
    if cancelled_mail in mails:
        assert placed_mail not in mails[mails.index(cancelled_mail) :], f"{where}: placed, said after cancelled"


@pytest.fixture
async def hasty(store: Store) -> AsyncIterator[Store]:
    """The store without its fsyncs: what happens to a disk is not the question where only keys are put back."""
    await store._client.config_set("appendfsync", "no")
    yield store
    await store._client.config_set("appendfsync", "always")


@pytest.fixture(params=LIVES)
def life(request: pytest.FixtureRequest) -> Life:
    return LIVES[request.param]


async def test_a_store_put_back_to_any_boundary_at_any_boundary(hasty: Store, life: Life) -> None:
    clean, moments = await recorded(hasty, life)
    assert {PICK, UNDO[0]} <= {e["effect"] for e in await clean.journal() if e["type"] == "Claimed" and e["lane"] == "orders.0.0"}
    noticed = unnoticed = 0
    boundaries = [moment.keys for n, moment in enumerate(moments) if n % 2 == 0]
    assert len(boundaries) > 8
    for n, then in enumerate(moments):
        for back, keys in enumerate(boundaries[: n // 2 + 1]):
            its = town(hasty, life[0], OTHERS[(n + back) % 2])
            its.clock.move_to(then.now)
            memory(its).records = {tp: list(records) for tp, records in then.records.items()}
            its.providers = {name: provider.copy() for name, provider in then.providers.items()}
            await put_back(hasty, keys)
            if await go_on(its, life, then):
                noticed += 1
            else:
                unnoticed += 1
            await check(its, f"at moment {n} back to commit {back + 1}")
            standing = await hasty.standing(its.ids)
            assert all(s.outbox <= 1 and s.mark == "" for s in standing)
    assert noticed > 20 and unnoticed >= len(moments) // 2, "both ways were gone"


async def test_a_server_restarted_on_an_older_folder_at_three_boundaries(tmp_path: Path) -> None:
    """The same with the real server: stopped, its folder replaced by an older copy, started."""
    life = LIVES["labelled, then cancelled"]
    server = EmbeddedValkey(tmp_path / "valkey")
    await server.start()
    store = Store.from_url(server.url)
    try:
        await store.start()
        its = town(store, life[0])
        await its.begin()
        await its.wake()
        for n, reports in enumerate(life[1]):
            await server.stop()
            shutil.copytree(server.folder / "appendonlydir", tmp_path / f"copy-{n}")
            await server.start()
            await its.wake()
            await tell(its, reports)
            await its.rest(until=MINUTE)
        for n in range(3):
            await server.stop()
            shutil.rmtree(server.folder / "appendonlydir")
            shutil.copytree(tmp_path / f"copy-{n}", server.folder / "appendonlydir")
            await server.start()
            twin = town(store, life[0], OTHERS[n % 2])
            twin.clock.move_to(its.clock.now())
            twin.log = its.log
            twin.providers = its.providers
            then = Moment({}, {}, {}, 0, len(life[1]))
            assert await go_on(twin, life, then), "a store that went back was not noticed"
            await check(twin, f"back to copy {n}")
    finally:
        await store.close()
        await server.stop()


# --- killed at every step
STEPS = ("before_commit", "after_commit", "after_publish", "before_call", "after_call")


class Death:
    """Kills at the n-th time of a step, once."""

    def __init__(self, step: str, nth: int) -> None:
        self.step, self.nth, self.seen = step, nth, 0

    def __call__(self, step: str) -> None:
        if step == self.step:
            self.seen += 1
            if self.seen == self.nth:
                raise Killed


async def lived(store: Store, life: Life, death: Death) -> Town:
    its = town(store, life[0], email="lookup", failpoint=death)
    await store._client.flushdb()
    await its.begin()
    await its.wake()

    async def rest(until: int) -> None:
        try:
            await its.rest(until)
        except Killed:
            assert await its.wake() == {}, "a worker that was killed may go on at once"
            await its.rest(until)

    for reports in life[1]:
        await tell(its, reports)
        await rest(2 * MINUTE)  # past every lease: what the dead knew is unknown, and looked up
    await rest(5 * DAY)
    return its


async def ending(its: Town) -> dict[str, Any]:
    """What came of it all, without times and attempts; that something was unknown for a while is told and no difference."""
    order = OrdersProcessor.decode((await its.store.state(LaneId("orders", 0, 0), ORDER)) or b"")
    v = view(order)
    return {
        "status": str(status_of(v)),
        "facts": {(kind, object) for kind, _, object in order.facts if not object.endswith(":unknown")},
        "messages": v.messages,
        "effects": {name: (effect.closed, effect.attempts[-1].outcome if effect.attempts else "") for name, effect in order.ledger.items()},
        "done": set(order.closed),
        "taken": {name: set(provider.taken) for name, provider in its.providers.items()},
    }


@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_the_end_is_that_of_the_clean_run(hasty: Store, life: Life, step: str) -> None:
    clean_death = Death(step, 0)
    clean = await ending(await lived(hasty, life, clean_death))
    assert clean_death.seen >= 3
    for nth in range(1, clean_death.seen + 1):
        its = await lived(hasty, life, Death(step, nth))
        found = await ending(its)
        assert its.twice == [], f"{step} {nth}"
        assert found == clean, f"{step} {nth}"
        for topic, make in its.processors.items():
            lane = LaneId(make().name, 0, 0)
            assert await refold(lane, make(), its.log) == {key: blob async for key, blob in hasty.states(lane)}, f"{step} {nth} {topic}"
