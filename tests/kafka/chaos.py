"""Workers that leave, die and freeze, and a broker that dies, while a shop goes on selling; and what must be true afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from connectors.fake_shop import FakeShop
from connectors.stand_ins import Faults, StandIns
from model import rules
from model.features import features
from model.score import unpack
from orders.decision import APPROVE, SHARE, verdict_of
from orders.fact import encode_fact
from orders.plan import answered
from orders.policy import Policy
from orders.status import STATUS, Status
from orders.view import View, view
from streams.clock import WallClock
from streams.transport import LogDown
from tests.conftest import Kafka
from tests.kafka.installation import Installation, installation, sink

LEASE_S = 3.0
MESSAGES = ("email", "sms", "push")
BEFORE_SHIPPING = [status for _, status in STATUS[[status for _, status in STATUS].index(Status.ON_HOLD) :]]


class Shop:
    """Appends what the shop reports, at its times. What the log did not acknowledge is appended again."""

    def __init__(self, shop: FakeShop, orders: int, its: Installation) -> None:
        self.shop, self.orders, self.its = shop, orders, its
        self.acknowledged = self.failed = 0
        self._task = asyncio.create_task(self._run())

    async def done(self) -> None:
        await self._task

    async def _run(self) -> None:
        batch: list[tuple[str, bytes, bytes]] = []
        for report in self.shop.reports(self.orders):
            while report.arrives > WallClock().now() or len(batch) > 2000:
                await self._append(batch)
                batch = []
                if report.arrives > WallClock().now():
                    await asyncio.sleep(0.05)
            batch.append((report.topic, report.key.encode(), encode_fact(report.record)))
        await self._append(batch)

    async def _append(self, batch: list[tuple[str, bytes, bytes]]) -> None:
        while batch:
            try:
                await self.its.append(batch)
                break
            except LogDown:
                self.failed += 1
                await asyncio.sleep(0.2)
        self.acknowledged += sum(topic == "facts" for topic, _, _ in batch)


async def run(
    seed: int,
    kafka: Kafka,
    folder: Path,
    *,
    seconds: float,
    every: float,
    orders: int,
    live: bool = True,
    breaks: bool = True,
    workers: int = 3,
    archive: bool = False,
) -> dict[str, Any]:
    """One seed: each fault at least once, then by chance. `breaks`: the broker is killed in the middle and started again.

    `live`: messages leave, to stand-ins that misbehave; otherwise they are observed. Returns what happened.
    """
    rng = random.Random(seed)
    wobbly = Faults(seed=seed, try_later=0.02, error=0.02, drop=0.02, slow=0.05, slow_s=0.4)
    workflow = {"settle_minutes": 0.02, "feedback_after_hours": 0.001, "lease_seconds": LEASE_S, "grace_seconds": LEASE_S}
    async with contextlib.AsyncExitStack() as stack:
        judge = await stack.enter_async_context(sink(faults=dict.fromkeys((*MESSAGES, "webhook"), wobbly))) if live else None
        its = await stack.enter_async_context(installation(folder, kafka.bootstrap, stand_ins=judge, workflow=workflow, archive=archive))
        await its.start(workers)
        await its.ready()
        shop = Shop(FakeShop.demo(seed, orders, seconds, WallClock().now() + 500), orders, its)
        happened = await _faults(rng, its, kafka, seconds, every, breaks and kafka.ours)
        await shop.done()
        began = asyncio.get_running_loop().time()
        await its.rest(90 + seconds, soon_s=2 * LEASE_S + 1, revive=True)
        caught_up = asyncio.get_running_loop().time() - began
        await its.stop()
        return {
            "seed": seed,
            **happened,
            "ended by themselves": its.ended,
            "failed_appends": shop.failed,
            "caught_up_s": round(caught_up, 1),
            **await verdict(its, shop, judge),
        }


async def _faults(rng: random.Random, its: Installation, kafka: Kafka, seconds: float, every: float, breaks: bool) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    began, happened = loop.time(), Counter[str]()
    plan = ["leave", "kill", "freeze", *(["archive killed"] if its.archive is not None else [])]
    rng.shuffle(plan)
    while loop.time() - began < seconds or plan or breaks:
        await asyncio.sleep(every * rng.uniform(0.5, 1.5))
        await its.revive()
        if breaks and loop.time() - began > seconds / 2:
            breaks = False
            happened["broker killed"] += 1
            await asyncio.to_thread(kafka.kill)
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            await asyncio.to_thread(kafka.revive)
            continue
        fault = plan.pop() if plan else rng.choice(["leave", "kill", "freeze"])
        happened[fault] += 1
        if fault == "archive killed":
            await its.end_archive(signal.SIGKILL)
            await its.start(0)
            continue
        victim = rng.choice(its.workers)
        if fault == "freeze":
            victim.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(1.5, 3.0))  # longer than the session time-out: it wakes as a zombie
            victim.send_signal(signal.SIGCONT)
            continue
        code = await its.end(victim, signal.SIGTERM if fault == "leave" else signal.SIGKILL)
        # one that is still starting has nothing to lay down, and dies of the signal
        assert code in ((0, -signal.SIGTERM) if fault == "leave" else (-signal.SIGKILL,)), f"{fault}: exit code {code}\n{its.said()}"
        await its.start()
    return dict(happened)


async def verdict(its: Installation, shop: Shop, judge: StandIns | None) -> dict[str, Any]:
    """Raises AssertionError for whatever was lost, doubled or differs from a run in which nothing happened."""
    sums = await its.check_sums()
    assert sums["waiting"] == sums["parked"] == 0
    ends = await its.log.bounds("facts")
    assert sum(end for _, end in ends.values()) >= shop.acknowledged
    views = {key: view(order) for key, order in (await its.decoded("facts")).items()}
    expected = {f"{shop.shop.shop}:{100_000 + n}": shop.shop.expected(n).status for n in range(shop.orders)}
    assert views.keys() == expected.keys()
    true = {key: "on_hold" if status in BEFORE_SHIPPING and suspicious(views[key]) else status for key, status in expected.items()}
    differing = {key: (status, views[key].status.value) for key, status in true.items() if views[key].status != status}
    assert not differing, f"{len(differing)} of {shop.orders} orders: {dict(list(differing.items())[:5])}"
    states = await its.check_states()
    found = {"orders": len(views), "states": states, **sums}
    if its.settings.archive:
        found["archived"] = await its.check_archive()
        assert found["archived"] > shop.acknowledged
    if judge is not None:
        found |= await check_messages(its, judge)
    return found


def suspicious(v: View) -> bool:
    """Whether the rules, which score here, send an order to a person by all that is known in the end: the shop's truth leaves that out."""
    (fraud,) = unpack(rules.score(np.array([features(v)], np.float32))).fraud
    return verdict_of(round(float(fraud) * SHARE), Policy()) != APPROVE


async def check_messages(its: Installation, judge: StandIns) -> dict[str, Any]:
    """What the lanes say of their messages against what the providers took. Raises AssertionError for a doubled or a lost one."""
    duplicates = sum(judge.duplicates().values())
    assert duplicates == 0, judge.duplicates()
    said = Counter[str]()
    customers = list((await its.decoded("customers")).values())
    references = Counter(m.attempts[-1].reference for c in customers for m in c.messages.values() if m.attempts)
    for customer in customers:
        for effect, message in customer.messages.items():
            taken = judge.ledger.counts.get(message.via, {}).get(effect, 0)
            last = message.attempts[-1] if message.attempts else None
            if message.ended is not None and message.ended.word == "sent":
                assert last is not None
                # a look-up that finds the same words at the same number takes them for its own: the customer has them
                same = last.lookup and references[last.reference] > 1
                assert taken == 1 or same, f"{effect} on {message.via} is said to be sent, and was taken {taken} times"
                said["sent" if taken else "found in the same words"] += 1
            elif message.unknown is not None:
                said[f"unknown.{message.via}"] += 1
                said["unknown but taken"] += taken
            else:
                assert taken == 0, f"{effect} on {message.via} was taken, and its lane knows nothing of it: {last}, {message.ended}"
                assert last is None or last.outcome in ("retryable", "rejected"), f"{effect} rests with an open attempt: {last}"
                said[message.ended.word if message.ended is not None else "open"] += 1
    for order in (await its.decoded("facts")).values():
        for name, effect in order.ledger.items():
            if effect.attempts and name.split(" ")[0] not in ("stock.reserve", "stock.release"):
                taken = judge.ledger.counts.get("webhook", {}).get(effect.id, 0)
                outcome = effect.attempts[-1].outcome
                assert outcome or answered(effect, view(order)), f"{name} rests with an open attempt"
                assert taken == 1 or outcome != "sent", f"{name} is said to be sent, and was taken {taken} times"
                said[f"webhook.{outcome or 'answered'}"] += 1
    return {
        "messages": judge.accepted(),
        "duplicate_messages": duplicates,
        "webhook_repeats": judge.repeats,
        "said": dict(sorted(said.items())),
    }
