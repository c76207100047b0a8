"""A warehouse floor in memory: what is told to the log is true at once."""

from __future__ import annotations

from orders import stock
from orders.fact import AnyFact, Fact, Line, ReviewDecided, decode_fact
from orders.merge import merge
from orders.policy import Policy
from orders.request import StockLevelReported
from orders.state import Order
from orders.stock import Stock
from orders.view import view
from orders.warehouse import jobs, stages
from streams.stock import _decode as decode_stock
from tests.orders import lives
from tests.web.fake_reader import NOW, PERSON, ListLog
from web.floor import Queue, Shelves, by_location, page_of, shelf

HOUR = 3_600_000
CABLE = Line(line="3", sku="CABLE-2M", quantity=3, price=300, title="Textile cable 2 m, black and white")


def ready(n: int, *lines: Line, at: int = 0, location: str = "main", **more: object) -> list[Fact]:
    """An order that is paid, approved and reserved."""
    order, at = f"lumi:{n}", at or NOW - (60 - n % 50) * HOUR // 4
    its = {"order": order, "object": str(n)}
    wanted = lines or (lives.LAMP, lives.SHADE)
    return [
        lives.placed(at, number=str(n), lines=wanted, person=PERSON, promised=0, **its, **more),
        lives.captured(4999, at + 60_000, **its),
        ReviewDecided(order=order, system="staff", object="r", at=at + 61_000, approve=True, by="kim", reason="ok"),
        *(lives.reserved(line, at + 120_000, location, **its | {"object": f"{order}-{line.line}"}) for line in wanted),
    ]  # fmt: skip


class FakeFloor:
    def __init__(self, log: ListLog, *facts: Fact, policy: Policy | None = None) -> None:
        self._log, self.policy, self._read = log, policy or Policy(), 0
        self.orders: dict[str, Order] = {}
        self.stocks: dict[str, Stock] = {}
        self.take(*facts)

    def take(self, *facts: Fact) -> None:
        for fact in facts:
            self.orders[fact.order] = merge(self.orders.get(fact.order) or Order(fact.order), fact)

    def level(self, sku: str, on_hand: int, location: str = "main", version: int = 0) -> None:
        told = StockLevelReported(at=NOW - HOUR, sku=sku, location=location, on_hand=on_hand, system="wms", version=version)
        stock.merge(self.stocks.setdefault(f"{sku}@{location}", Stock()), told)

    def told(self, order: str = "") -> list[AnyFact]:
        """The facts in the log, notes left out."""
        facts = [decode_fact(value) for topic, _, value in self._log.records if topic == "facts"]
        return [fact for fact in facts if order in ("", fact.order) and type(fact).__name__ != "NoteAdded"]

    def _catch_up(self) -> None:
        for topic, key, value in self._log.records[self._read :]:
            if topic == "facts":
                self.take(decode_fact(value))
            elif topic == "stock":
                stock.merge(self.stocks.setdefault((key or b"").decode(), Stock()), decode_stock(value))
        self._read = len(self._log.records)

    async def counts(self) -> dict[str, dict[str, int]]:
        self._catch_up()
        tags: dict[str, int] = {}
        for order in self.orders.values():
            for stage, location in stages(view(order)):
                tags[f"{stage}:{location}"] = tags.get(f"{stage}:{location}", 0) + 1
        return by_location(tags.items())

    async def queue(self, stage: str, location: str, limit: int) -> Queue:
        self._catch_up()
        every = [job for order in self.orders.values() for job in jobs(order, self.policy)]
        found = sorted((j for j in every if (j.stage, j.location) == (stage, location)), key=lambda job: (job.turn, job.order))
        return Queue(location=location, stage=stage, jobs=tuple(found[:limit]), total=len(found))

    async def order(self, order_id: str) -> Order | None:
        self._catch_up()
        return self.orders.get(order_id)

    async def stock(self, sku: str, location: str) -> Stock | None:
        self._catch_up()
        return self.stocks.get(f"{sku}@{location}")

    async def shelves(self, search: str, start: int, limit: int) -> Shelves:
        self._catch_up()
        found = [shelf(key, its) for key, its in self.stocks.items() if search.casefold() in key.rpartition("@")[0].casefold()]
        return page_of(found, start, limit)


class FakeLabels:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def read(self, name: str) -> bytes | None:
        return self.files.get(name)
