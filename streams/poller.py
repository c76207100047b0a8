"""Who asks where nobody pushes: carriers for parcels on the way, warehouses for orders and stock; and everybody else, now and then,
for what a lost webhook would have said.

One poller at a time, by a lease in the store; two would do no harm but to the vendors' patience. What it knows of when to ask
lives in memory and follows from the orders: a new poller asks about a parcel as if it had been asked at its last scan.

Where a carrier pushes what was subscribed to, parcels on the way are subscribed to, and again before that ends (`Ability.life_s` of the
action). It pushes nothing from before, so each is asked about once; what it will not push is polled like others.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import structlog

from connectors.base import Done, TryLater
from connectors.client import INVENTORY, SUBSCRIBE, TRACKING, Client
from connectors.delivery import Record
from connectors.polling import next_poll
from connectors.store import Store, StoreDown, StoreRefused
from orders.view import Parcel
from streams.clock import Clock
from streams.reconcile import Reconciler, carried_by, distinct, kind_of, number_of, only_this
from streams.transport import LogDown

log = structlog.get_logger("poller")
MINUTE_MS = 60_000
LOOK_MS = 5 * MINUTE_MS  # between two looks at which parcels are on the way
RECENT_MS = 120 * MINUTE_MS  # so far back reaches what is asked every few minutes
UNDER_WAY_MS = 5 * MINUTE_MS  # a webhook may take so long: what is found before that was not missed
CALLS = 20  # of one account in one turn
SUBSCRIBED = "subscribed:"  # before a source: when each of its parcels was subscribed to
AT_ONCE = 100  # parcels in one subscription
TURN_S = 1.0
OUTAGE_S = 15.0  # while the store or the log is away no vendor is asked for what could not be kept
LEASE_MS = 30_000
RELEASE_S = 2.0
PAUSE_MS, LONGEST_PAUSE_MS = 30_000, 15 * MINUTE_MS  # for an account that does not answer


class Paces(msgspec.Struct, frozen=True):
    warehouse_ms: int = 5 * MINUTE_MS
    reconcile_ms: int = 60 * MINUTE_MS


class Job(msgspec.Struct):
    """One question that is asked again and again."""

    question: str
    value: str  # tracking number or SKU; "" for what is asked by time
    due: int  # ms
    parcel: Parcel | None = None
    failures: int = 0
    asked: int = 0  # when it was answered last, ms


class Poller:
    def __init__(
        self,
        clients: Sequence[Client],
        pushing: Collection[str],
        reconciler: Reconciler,
        store: Store,
        clock: Clock,
        paces: Paces,
        told: Callable[[str, str], None] = lambda vendor, outcome: None,
    ) -> None:
        """`pushing`: sources that send webhooks too. `told` is given each asking's vendor and outcome, for the metrics."""
        self._clients, self._pushing, self._reconciler, self._store = clients, pushing, reconciler, store
        self._clock, self._paces, self._told = clock, paces, told
        self._holder = secrets.token_hex(8)
        self.ours = False  # we hold the lease
        self._looked = 0
        self._carriers = [client for client in clients if client.can(TRACKING)]
        self._unpushed: dict[str, set[str]] = {}  # source -> parcels of which it will push nothing
        self._resume: dict[str, int] = {}  # source -> not before
        self._faults: Counter[str] = Counter()
        now = clock.now()
        self.jobs: dict[str, dict[tuple[str, str], Job]] = {
            client.account.source: {(name, ""): Job(name, "", now) for name in client.by_time} for client in clients
        }

    async def run(self) -> None:
        """Until cancelled. What the store or the log does not take now is asked for again."""
        renewing = asyncio.create_task(self._renew(), name="poller lease")
        try:
            while True:
                if self.ours:
                    try:
                        await self.turn()
                    except (StoreDown, StoreRefused, LogDown, OSError) as error:
                        log.warning("polling waits", error=type(error).__name__)
                        await asyncio.sleep(OUTAGE_S)
                await asyncio.sleep(TURN_S)
        finally:
            renewing.cancel()
            if self.ours:  # the next poller need not wait until it runs out
                with contextlib.suppress(StoreDown, StoreRefused, TimeoutError):
                    async with asyncio.timeout(RELEASE_S):
                        await self._store.lease("poller", self._holder, 1)

    async def _renew(self) -> None:
        while True:
            try:
                ours = await self._store.lease("poller", self._holder, LEASE_MS)
            except (StoreDown, StoreRefused):
                ours = False
            if ours != self.ours:
                log.info("polling" if ours else "another poller polls")
            self.ours = ours
            await asyncio.sleep(LEASE_MS / 3000)

    async def turn(self) -> None:
        """Asks what is due now, of each account at most `CALLS` questions. Raises StoreDown, LogDown, OSError."""
        now = self._clock.now()
        if now >= self._looked + LOOK_MS:
            await self._look(now)
            self._looked = now
        ended = await asyncio.gather(*(self._ask(client) for client in self._clients), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _look(self, now: int) -> None:
        """Which parcels are on the way, and whose turn comes sooner than was thought; which goods a warehouse has."""
        warehouses = [client for client in self._clients if client.can(INVENTORY) and client.vendor.kind == "warehouse"]
        if warehouses:
            async for sku, location in self._reconciler.known.skus():
                for client in warehouses:
                    if client.account.location == location:
                        self.jobs[client.account.source].setdefault((INVENTORY, sku), Job(INVENTORY, sku, now))
        under_way: dict[str, dict[str, Parcel]] = {client.account.source: {} for client in self._carriers}
        if under_way:
            async for order, parcel in self._reconciler.known.on_the_way():
                for client in self._carriers:
                    if carried_by(client, order, parcel, self._carriers):
                        under_way[client.account.source][number_of(parcel)] = parcel
        for client in self._carriers:
            source, parcels = client.account.source, under_way[client.account.source]
            if source not in self._pushing:
                self._follow(source, parcels, now)
            elif SUBSCRIBE in client.vendor.actions:
                self._follow(source, await self._subscribe(client, parcels, now), now)

    def _follow(self, source: str, parcels: Mapping[str, Parcel], now: int) -> None:
        """These are polled, no others."""
        jobs = self.jobs[source]
        for number, parcel in parcels.items():
            job = jobs.get((TRACKING, number))
            if job is None:
                begun = max(parcel.tag_at, parcel.shipped_at, parcel.packed_at)
                due = max(now, _next(parcel, begun, 0, 0)) if begun else now
                jobs[TRACKING, number] = Job(TRACKING, number, due=due, parcel=parcel)
            else:
                job.parcel = parcel
                if not job.failures and job.asked:
                    job.due = min(job.due, _next(parcel, job.asked, 0, 0))
        for key in [key for key in jobs if key[0] == TRACKING and key[1] not in parcels]:
            del jobs[key]

    async def _subscribe(self, client: Client, parcels: Mapping[str, Parcel], now: int) -> dict[str, Parcel]:
        """Those that the carrier pushes nothing of, or nothing yet: they are to be asked about."""
        source = client.account.source
        name, life_ms = SUBSCRIBED + source, client.vendor.actions[SUBSCRIBE].ability.life_s * 1000
        since = await self._store.times(name)
        await self._store.forget(name, since.keys() - parcels.keys())
        wanted = [number for number in parcels if now >= since.get(number, 0) + life_ms]
        asked = {number for number in wanted if number not in since} | self._unpushed.setdefault(source, set())
        for begin in range(0, len(wanted), AT_ONCE):
            some = wanted[begin : begin + AT_ONCE]
            answer = await client.does(SUBSCRIBE, {"trackings": some})
            if not isinstance(answer, Done):
                self._told(client.vendor.name, "later" if isinstance(answer, TryLater) else "refused")
                log.warning("not subscribed", source=source, parcels=len(wanted) - begin, why=str(answer.reason))
                asked.update(wanted[begin:])  # polled until it can be
                break
            self._unpushed[source].update(answer.reference.split())
            asked.update(answer.reference.split())
            await self._store.remember(name, dict.fromkeys(some, now))
            self._told(client.vendor.name, "subscribed")
        self._unpushed[source] &= parcels.keys()
        return {number: parcel for number, parcel in parcels.items() if number in asked}

    async def _ask(self, client: Client) -> None:
        source = client.account.source
        now = self._clock.now()
        if now < self._resume.get(source, 0):
            return
        due = sorted((job for job in self.jobs[source].values() if job.due <= now), key=lambda job: job.due)
        for job in due[:CALLS]:
            if not await self._one(client, job):
                return
            await asyncio.sleep(1 / client.vendor.pace_per_s)

    async def _one(self, client: Client, job: Job) -> bool:
        """Asks, takes in what is new, and says when to ask again; False when the account is to be left alone for a while."""
        source, began = client.account.source, self._clock.now()
        value = job.value or str((job.asked or began) - RECENT_MS)
        asked = await client.ask(job.question, value)
        now, stopped = self._clock.now(), asked.stopped
        if stopped is not None and job.value and only_this(stopped):
            job.failures += 1
            job.due = self._again(client, job, now, 0)
            self._told(client.vendor.name, "not_found")
            return True
        result, lacking = await self._reconciler.repair(client, asked)
        if result.failed:
            job.failures += 1
            self._faults[source] += 1
            after_s = stopped.after_s if isinstance(stopped, TryLater) else None
            pause = min(PAUSE_MS << min(self._faults[source] - 1, 10), LONGEST_PAUSE_MS)
            resume = now + (pause if after_s is None else int(after_s * 1000))
            if stopped is not None:
                self._resume[source] = resume
            job.due = self._again(client, job, now, resume)
            self._told(client.vendor.name, "unreadable" if stopped is None else "later" if isinstance(stopped, TryLater) else "refused")
            log.warning("polling stopped", source=source, question=job.question, why=result.stopped, said=result.said)
            return False
        self._faults[source] = job.failures = 0
        job.asked = began
        job.due = self._again(client, job, now, 0)
        self._told(client.vendor.name, "new" if result.appended else "known")
        if source in self._pushing:
            await self._reconciler.count(missed(lacking, now - UNDER_WAY_MS))
        return True

    def _again(self, client: Client, job: Job, now: int, after: int) -> int:
        if job.parcel is not None:
            return _next(job.parcel, now, job.failures, after)
        pace = self._paces.warehouse_ms if client.vendor.kind == "warehouse" else self._paces.reconcile_ms
        return after or now + pace


def missed(lacking: Sequence[Record], before: int) -> dict[str, int]:
    """By kind, what should have been told before then (ms)."""
    return dict(Counter(kind_of(fact) for fact in distinct(lacking) if fact.at < before))


def _next(parcel: Parcel, now: int, failures: int, after: int) -> int:
    return next_poll(now, parcel.tag_at, parcel.eta_from, parcel.eta_until, parcel.shipped_at, failures, after)
