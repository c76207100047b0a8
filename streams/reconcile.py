"""What a vendor knows and we do not: asked for, compared with the lanes' states, and taken in by the way of every delivery.

A webhook may never come: lost on its way, sent to another address, switched off by the vendor after a bad day. Whoever
reconciles asks the vendor, reads the answers with the functions that read its webhooks, and appends those pages in which
something is missing to `deliveries`. What a page says again is known by its natural key. Nothing is changed in a vendor's system.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from connectors.base import Reason, Refused, TryLater
from connectors.client import TRACKING, Asked, Client, Page
from connectors.delivery import Ignored, Record, Unreadable, encode_delivery, place_of
from connectors.store import LaneId, Store
from connectors.vendor import ANSWER
from orders import reference as references
from orders import stock as stocks
from orders.fact import Fact, OrderPaid, OrderPlaced, ParcelScanned, PaymentCaptured, PaymentRefunded, Tracking, decode_fact
from orders.known import knows, knows_level, knows_link, waits_for
from orders.request import FactWaiting, ReferenceLinked, StockLevelReported
from orders.state import Order, decode
from orders.status import Status
from orders.view import Parcel, view
from streams.clock import Clock
from streams.partition import partition_of
from streams.transport import Log

REPAIRS = "repairs"  # the store's tally of what was found missing and taken in, by kind
MOVING = (
    Status.IN_PROGRESS,
    Status.PARTIALLY_SHIPPED,
    Status.SHIPPED,
    Status.OUT_FOR_DELIVERY,
    Status.PARTIALLY_DELIVERED,
    Status.EXCEPTION,
)
PAGE = 500  # orders looked at before others on this loop get their turn
PARCELS = 50_000  # the latest so many on the way are asked about
LOOK_S = 0.1  # between two looks at whether the lanes have taken something in

KINDS: dict[type[Fact], str] = {
    OrderPlaced: "missed_order",
    OrderPaid: "missed_paid",
    PaymentCaptured: "missed_paid",
    PaymentRefunded: "missed_refund",
}


def kind_of(fact: Fact) -> str:
    if isinstance(fact, ParcelScanned) and fact.tag is Tracking.DELIVERED:
        return "missed_delivery"
    return KINDS.get(type(fact), "missed_other")


class Answer(msgspec.Struct, frozen=True):
    """A page with what it says."""

    page: Page
    records: Sequence[Record]


class Known:
    """The states of all lanes, read only."""

    def __init__(self, store: Store, layout: int, partitions: int) -> None:
        self._store, self._layout, self._partitions = store, layout, partitions

    def lanes(self, processor: str) -> list[LaneId]:
        return [LaneId(processor, self._layout, p) for p in range(self._partitions)]

    async def _states(self, processor: str, keys: Iterable[str], decode: Any) -> dict[str, Any]:
        by_lane: dict[LaneId, list[str]] = {}
        for key in dict.fromkeys(keys):
            by_lane.setdefault(LaneId(processor, self._layout, partition_of(key.encode(), self._partitions)), []).append(key)
        found: dict[str, Any] = {}
        for lane, its in by_lane.items():
            for start in range(0, len(its), PAGE):
                some = its[start : start + PAGE]
                blobs = await self._store.load(lane, some)
                found.update((key, decode(blob)) for key, blob in zip(some, blobs, strict=True) if blob is not None)
        return found

    async def missing(self, records: Sequence[Record]) -> list[Record]:
        """Those that would change a state. A customer's profile never is: it rides along with what is."""
        waiting = [r for r in records if isinstance(r, FactWaiting)]
        links = [r for r in records if isinstance(r, ReferenceLinked)]
        levels = [r for r in records if isinstance(r, StockLevelReported)]
        facts = [r for r in records if isinstance(r, Fact)]
        keys = [place_of(record)[1] for record in records if isinstance(record, (FactWaiting, ReferenceLinked))]
        named = await self._states("references", keys, references.decode)
        placed = [(r, waits_for(named.get(place_of(r)[1]), r)) for r in waiting]
        names = [fact.order for fact in facts] + [order for _, order in placed if isinstance(order, str)]
        orders: dict[str, Order] = await self._states("orders", names, decode)
        counted = await self._states("stock", (place_of(level)[1] for level in levels), stocks.decode)
        found: list[Record] = [fact for fact in facts if not knows(orders.get(fact.order), fact)]
        for record, order in placed:
            known = order if isinstance(order, bool) else knows(orders.get(order), addressed(record, order))
            if not known:
                found.append(record)
        found += [link for link in links if not knows_link(named.get(place_of(link)[1]), link)]
        found += [level for level in levels if not knows_level(counted.get(place_of(level)[1]), level)]
        return found

    async def skus(self) -> AsyncIterator[tuple[str, str]]:
        """SKU and location of whatever was ever counted or wanted."""
        for lane in self.lanes("stock"):
            async for key, _ in self._store.states(lane):
                sku, _, location = key.rpartition("@")
                yield sku, location

    async def on_the_way(self) -> AsyncIterator[tuple[str, Parcel]]:
        """Order ID and parcel of what is packed and has not arrived, the latest reports first, at most `PARCELS`."""
        count = 0
        for status in MOVING:
            last: tuple[int, str] | None = None
            while count < PARCELS:
                page = await self._store.by_tag(self.lanes("orders"), status.value, PAGE, last)
                for key, order in (await self._states("orders", (key for _, key, _ in page), decode)).items():
                    for parcel in view(order).parcels.values():
                        if not (parcel.delivered_at or parcel.returned_at or parcel.tag is Tracking.LOST):
                            count += 1
                            yield key, parcel
                if len(page) < PAGE:
                    break
                last = page[-1][:2]


def addressed(waiting: FactWaiting, order: str) -> Fact:
    fact: Fact = msgspec.structs.replace(decode_fact(waiting.fact), order=order)
    return fact


def only_this(stopped: TryLater | Refused) -> bool:
    """Whether it is about the one thing that was asked for: a label nobody scanned yet, a number that is none of the vendor's."""
    return isinstance(stopped, Refused) or stopped.reason is Reason.NOT_FOUND


def carried_by(client: Client, order: str, parcel: Parcel, carriers: Sequence[Client]) -> bool:
    """Whether this account's carrier has the parcel; where nobody said whose it is, the only carrier of its shop has it."""
    if not order.startswith(f"{client.account.shop}:"):
        return False
    if parcel.carrier:
        return parcel.carrier.lower().split()[0] == client.vendor.name
    return [each for each in carriers if each.account.shop == client.account.shop] == [client]


def number_of(parcel: Parcel) -> str:
    return parcel.tracking or parcel.id


def reading(client: Client, asked: Asked) -> list[Answer] | Asked:
    """What the pages say; `Asked` with why not, when one cannot be read: nothing of a half-understood answer is taken in."""
    found = []
    for page in asked.pages:
        try:
            records = client.vendor.read(client.account, f"{ANSWER}{page.kind}", page.body, page.at)
        except Ignored:
            continue
        except Unreadable as error:
            return Asked(stopped=Refused(Reason.MALFORMED), said=f"its answer cannot be read: {error.reason}: {error.detail}")
        found.append(Answer(page, records))
    return found


class Result(msgspec.Struct, kw_only=True):
    """What became of one account."""

    source: str
    asked: int = 0  # pages
    found: dict[str, int] = {}  # by kind: what was missing
    appended: int = 0  # pages
    waiting: int = 0  # records of them that no lane has taken in yet
    stopped: str = ""  # why it could not be asked, a word
    said: str = ""  # and in words
    after_s: float | None = None  # it may be asked again then

    @property
    def failed(self) -> bool:
        return bool(self.stopped)


class Reconciler:
    def __init__(self, known: Known, log: Log, store: Store, bodies: Path, clock: Clock) -> None:
        """`bodies`: folder for answers that are too large for the log."""
        self.known, self._log, self._store, self._bodies, self._clock = known, log, store, bodies, clock

    async def ask(self, client: Client, since: int, carriers: Sequence[Client]) -> Asked:
        """Everything that this account tells of what happened since then (ms), and of its parcels that are on the way."""
        pages: list[Page] = []
        for question in client.by_time:
            asked = await client.ask(question, str(since))
            pages += asked.pages
            if asked.stopped is not None:
                return msgspec.structs.replace(asked, pages=tuple(pages))
        refused: Asked | None = None
        if client.can(TRACKING):
            async for order, parcel in self.known.on_the_way():
                if not carried_by(client, order, parcel, carriers):
                    continue
                asked = await client.ask(TRACKING, number_of(parcel))
                pages += asked.pages
                if asked.stopped is not None and not only_this(asked.stopped):
                    return msgspec.structs.replace(asked, pages=tuple(pages))
                if isinstance(asked.stopped, Refused) and asked.stopped.reason is not Reason.MALFORMED:
                    refused = asked
                await asyncio.sleep(1 / client.vendor.pace_per_s)
        return refused if refused is not None and not pages else Asked(tuple(pages))  # all of them: it is not the parcels

    async def repair(self, client: Client, asked: Asked) -> tuple[Result, list[Record]]:
        """Appends the pages in which something is missing; what was, is returned. A stopped asking changes nothing."""
        result = Result(source=client.account.source, asked=len(asked.pages))
        answers = reading(client, asked) if asked.stopped is None else asked
        if isinstance(answers, Asked):
            stopped = answers.stopped
            assert stopped is not None
            result.stopped, result.said = stopped.reason.value, answers.said
            result.after_s = stopped.after_s if isinstance(stopped, TryLater) else None
            return result, []
        lacking: list[Record] = []
        for answer in answers:
            missing = await self.known.missing(answer.records)
            if missing:
                lacking += missing
                await self.append(client, answer.page)
                result.appended += 1
        result.found = dict(Counter(map(kind_of, distinct(lacking))))
        return result, lacking

    async def append(self, client: Client, page: Page) -> None:
        """Raises LogDown, OSError."""
        delivery = await asyncio.to_thread(page.delivery, client.account.source, self._bodies)
        await self._log.append("deliveries", [(f"{delivery.source}/{delivery.delivery}".encode(), encode_delivery(delivery))])

    async def taken(self, records: Sequence[Record], within_s: float) -> list[Record]:
        """Waits until the lanes have taken these in; what they have not by then."""
        end = asyncio.get_running_loop().time() + within_s
        while True:
            left = await self.known.missing(records)
            if not left or asyncio.get_running_loop().time() >= end:
                return left
            await asyncio.sleep(LOOK_S)

    async def count(self, found: Mapping[str, int]) -> None:
        await self._store.tally(REPAIRS, found)

    async def calm(self, within_s: float) -> bool:
        """Whether the lanes read, in time, what was appended before: only then does "missing" mean that it never came."""
        end = asyncio.get_running_loop().time() + within_s
        for topic, processor in (("deliveries", "intake"), ("references", "references"), ("facts", "orders"), ("stock", "stock")):
            ends = {partition: bound[1] for partition, bound in (await self._log.bounds(topic)).items()}
            while True:
                standings = await self._store.standing(
                    [LaneId(processor, lane.layout, lane.partition) for lane in self.known.lanes(processor)]
                )
                if all((standing.offset or 0) >= ends[standing.lane.partition] for standing in standings):
                    break
                if asyncio.get_running_loop().time() >= end:
                    return False
                await asyncio.sleep(LOOK_S)
        return True


def distinct(records: Iterable[Record]) -> list[Fact]:
    """Facts, those that wait for a reference too, each thing once."""
    found: dict[tuple[str, ...], Fact] = {}
    for record in records:
        fact = decode_fact(record.fact) if isinstance(record, FactWaiting) else record
        if isinstance(fact, Fact):
            found.setdefault((type(fact).__name__, fact.system, fact.object), fact)
    return list(found.values())


async def reconcile(
    reconciler: Reconciler, clients: Sequence[Client], carriers: Sequence[Client], since: int, wait_s: float = 30.0
) -> list[Result]:
    """Each account in turn; one that cannot be asked keeps none of the others from being repaired.

    `carriers`: all accounts that can be asked for a parcel, those that are not reconciled now too.
    """
    done: list[tuple[Result, list[Record]]] = []
    for client in clients:
        result, lacking = await reconciler.repair(client, await reconciler.ask(client, since, carriers))
        await reconciler.count(result.found)
        done.append((result, lacking))
    for result, lacking in done:
        result.waiting = len(await reconciler.taken(lacking, wait_s)) if lacking else 0
    return [result for result, _ in done]
