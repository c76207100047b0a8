"""A shop that does not exist: seeded orders and their lives, as canonical facts.

The demo sells from it, the shipped weights are trained on it, benches measure with it. Order `n` of seed `s` is always
the same order, however many others are drawn before or beside it: `life(n)` is what really happens to it, `expected(n)`
where that must end, and `stream(...)` what a busy shop reports of many of them at once: interleaved in time, some
twice, some late, some contradicting each other, some carrier scans naming only the tracking number.

Durations are those of a real shop (minutes to weeks); `compress` divides them, so that a demo sees lives of seconds.
Everybody lives at example.invalid and answers telephone numbers that regulators reserve for fiction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from itertools import accumulate
from math import exp
from operator import attrgetter
from random import Random
from typing import Any, NamedTuple, TypeVar

import msgspec

from orders.address import required
from orders.fact import (
    Address,
    AddressCorrected,
    CancelRequested,
    DisputeClosed,
    Fact,
    FeedbackGiven,
    ItemsPicked,
    Line,
    OrderPlaced,
    ParcelPacked,
    ParcelScanned,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    Person,
    Quantity,
    ReturnReceived,
    ReviewDecided,
    StockReserved,
    StockShort,
    Tracking,
    encode_fact,
)
from orders.request import ConsentReported, FactWaiting, ProfileReported, Request, StockLevelReported

Item = TypeVar("Item")

FIRST_DAY = 1_767_571_200_000  # 2026-01-05 00:00 UTC: a Monday
HOUR_MS = 3_600_000
FIRST_NUMBER = 100_000
VIP_EVERY = 19  # one customer in so many is a VIP
NEW_CUSTOMERS = 0.55  # share of orders by somebody who has not bought before
IN_STOCK = 100_000_000  # of ordinary goods: what may run out here does so on purpose
LOCATIONS = ("berlin", "lyon")
FAR_EVERY = 8  # one in so many lives where parcels take long


class Expected(NamedTuple):
    """The ground truth of one order: `status` is what its reports, taken together, say when all have arrived.

    A hold of ours may keep an order from being shipped; this world does not wait for it (its warehouse works on its own).
    """

    scenario: str
    status: str


class Report(NamedTuple):
    """One record as it reaches us. `arrives` is never before the time the record speaks of."""

    arrives: int  # ms
    topic: str  # "facts" | "references" | "stock" | "customers"
    key: str
    record: Fact | Request


class _Country(NamedTuple):
    code: str
    weight: float
    currency: str
    rate: float  # minor units of the currency per euro cent
    locale: str
    zone: str
    phone: str  # of a range reserved for fiction, {} = its free digits
    free: int  # how many numbers that range has
    transit_h: float
    location: str
    names: tuple[str, ...]
    families: tuple[str, ...]
    towns: tuple[tuple[str, str, str], ...]  # city, region, postcode
    streets: tuple[str, ...]


class _Product(NamedTuple):
    sku: str
    title: str
    price: int  # euro cents


_US, _GB, _FR, _DE, _SE = "+12025550{:03d}", "+447700900{:03d}", "+336399800{:02d}", "+493023125{:03d}", "+467017406{:02d}"

COUNTRIES = (
    _Country(
        "DE", 26, "EUR", 1, "de-DE", "Europe/Berlin", _DE, 1000, 26, "berlin",
        ("Anna", "Jonas", "Mia", "Emre", "Lena", "Paul"), ("Weber", "Schäfer", "Yılmaz", "Hoffmann", "Groß"),
        (("Berlin", "", "10115"), ("Hamburg", "", "20095"), ("München", "", "80331"), ("Leipzig", "", "04109")),
        ("Lindenstraße", "Am Markt", "Bahnhofstraße", "Gartenweg"),
    ),
    _Country(
        "FR", 15, "EUR", 1, "fr-FR", "Europe/Paris", _FR, 100, 30, "lyon",
        ("Chloé", "Hugo", "Inès", "Louis", "Zoé"), ("Martin", "Lefèvre", "Dubois", "Moreau", "N'Diaye"),
        (("Paris", "", "75011"), ("Lyon", "", "69002"), ("Nantes", "", "44000")),
        ("rue des Lilas", "avenue de la Gare", "rue Victor-Hugo"),
    ),
    _Country(
        "GB", 12, "GBP", 0.86, "en-GB", "Europe/London", _GB, 1000, 44, "lyon",
        ("Olivia", "Harry", "Aisha", "George", "Siân"), ("Taylor", "O'Connor", "Khan", "Evans", "Wright"),
        (("London", "", "SW1A 1AA"), ("Leeds", "", "LS1 1UR"), ("Cardiff", "", "CF10 1EP")),
        ("Church Lane", "Station Road", "High Street"),
    ),
    _Country(
        "US", 14, "USD", 1.08, "en-US", "America/New_York", _US, 100, 96, "lyon",
        ("Emma", "Noah", "Sofia", "Liam", "Maya"), ("Johnson", "Garcia", "Nguyen", "Miller", "St. John"),
        (("New York", "NY", "10001"), ("Austin", "TX", "73301"), ("Portland", "OR", "97201"), ("Honolulu", "HI", "96813")),
        ("Maple Avenue", "2nd Street", "Oak Drive"),
    ),
    _Country(
        "NL", 7, "EUR", 1, "nl-NL", "Europe/Amsterdam", _DE, 1000, 24, "berlin",
        ("Daan", "Sanne", "Lotte", "Bram"), ("de Vries", "Jansen", "van den Berg", "Bakker"),
        (("Amsterdam", "", "1012 AB"), ("Utrecht", "", "3511 AD")),
        ("Kerkstraat", "Dorpsstraat"),
    ),
    _Country(
        "SE", 5, "SEK", 11.3, "sv-SE", "Europe/Stockholm", _SE, 95, 58, "berlin",
        ("Elsa", "Oskar", "Åsa", "Björn"), ("Lindström", "Nilsson", "Öberg"),
        (("Stockholm", "", "111 20"), ("Göteborg", "", "411 03")),
        ("Storgatan", "Skolgatan"),
    ),
    _Country(
        "PL", 5, "PLN", 4.3, "pl-PL", "Europe/Warsaw", _DE, 1000, 40, "berlin",
        ("Zofia", "Jakub", "Łucja"), ("Nowak", "Wiśniewska", "Zieliński"),
        (("Warszawa", "", "00-001"), ("Kraków", "", "30-001")),
        ("ulica Polna", "ulica Leśna"),
    ),
    _Country(
        "CH", 5, "CHF", 0.95, "de-CH", "Europe/Zurich", _DE, 1000, 40, "lyon",
        ("Urs", "Nina", "Reto"), ("Müller", "Keller", "Brunner"),
        (("Zürich", "", "8001"), ("Genève", "", "1201")),
        ("Seestrasse", "Dorfstrasse"),
    ),
    _Country(
        "BR", 5, "BRL", 5.9, "pt-BR", "America/Sao_Paulo", _US, 100, 200, "lyon",
        ("Ana", "João", "Beatriz"), ("Silva", "Souza", "Araújo"),
        (("São Paulo", "SP", "01001-000"), ("Recife", "PE", "50010-000")),
        ("Rua das Flores", "Avenida Central"),
    ),
    _Country(
        "JP", 4, "JPY", 1.62, "ja-JP", "Asia/Tokyo", _US, 100, 150, "berlin",
        ("結衣", "蓮", "葵"), ("佐藤", "鈴木", "高橋"),
        (("千代田区", "東京都", "100-0001"), ("中央区", "大阪府", "540-0008")),
        ("千代田", "大手前"),
    ),
    _Country(
        "KW", 2, "KWD", 3.3, "ar-KW", "Asia/Kuwait", _US, 100, 170, "lyon",
        ("Fatima", "Yousef"), ("Al-Sabah", "Al-Mutairi"),
        (("Kuwait City", "", "13001"),),
        ("Arabian Gulf Street", "Fahad Al-Salem Street"),
    ),
)  # fmt: skip

_THINGS = (
    "Desk Lamp", "Floor Lamp", "Wool Blanket", "Ceramic Vase", "Linen Cushion", "Oak Shelf", "Wall Clock", "Espresso Cups",
    "Bedside Light", "String Lights", "Garden Lantern", "Smart Bulb", "Reading Chair", "Side Table", "Kitchen Scale",
)  # fmt: skip
_STYLES = ("Aurora", "Fjord", "Luna", "Nimbus", "Petal", "Quarry", "Solstice", "Tide")
CARRIERS = (("NorthPost", "northpost", 1.0), ("SwiftVan", "swiftvan", 0.85), ("Island Cargo", "islandcargo", 1.25))


def _catalogue() -> tuple[_Product, ...]:
    rng = Random(20)
    products = []
    for index, title in enumerate(f"{style} {thing}" for thing in _THINGS for style in _STYLES):
        price = round(exp(rng.gauss(8.2, 0.9)) / 10) * 10 - 1 + 10  # median about 36 euro, a long way up
        products.append(_Product(f"LZ-{index:03d}", title, price))
    rng.shuffle(products)
    return tuple(products)


CATALOGUE = _catalogue()
SOLD_OUT = tuple(_Product(f"LZ-OUT-{index}", f"{style} Pendant Light", 12_900) for index, style in enumerate(_STYLES))


class _Weighted:
    """Draws an index with given weights from one uniform number."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        total = sum(weights)
        self.bounds = [w / total for w in accumulate(weights)]

    def draw(self, uniform: float) -> int:
        for index, bound in enumerate(self.bounds):
            if uniform < bound:
                return index
        return len(self.bounds) - 1


# signal, share of honest orders that have it, how much more of the fraudulent ones ("velocity" is a count beside them)
_LOOKS = (
    ("avs_mismatch", 0.03, 0.50),
    ("cvc_mismatch", 0.01, 0.35),
    ("ship_bill_mismatch", 0.06, 0.45),
    ("ip_far", 0.05, 0.50),
    ("new_device", 0.20, 0.60),
    ("disposable_email", 0.02, 0.35),
)
SIGNALS = (*(name for name, _, _ in _LOOKS), "velocity")
_KNOWN_BY_ORDER = (Tracking.LABEL_CREATED, Tracking.IN_TRANSIT)  # the scans that first link a tracking number to an order
_CARRIER = _Weighted((0.6, 0.3, 0.1))
_COUNTRY = _Weighted(tuple(country.weight for country in COUNTRIES))
_FAR = _Weighted(tuple(country.weight * country.transit_h**1.5 for country in COUNTRIES))  # where parcels tend to be late


class Customer(NamedTuple):
    """Somebody who buys here, the same whenever they come back."""

    id: str
    person: Person
    country: _Country
    vip: bool
    sms: bool  # what they agreed to, beside e-mail about their orders
    push: bool
    feedback: bool


class FakeShop:
    """Order `n` has number 100,000 + n and is placed about `n * interval_ms` after `start_ms`.

    `mix`: only these scenarios, in these shares (normalised). `duplicates`, `late`, `contradictions` and `by_reference`
    are shares of reports. `reserves`: this shop's warehouse says itself what it reserved and what was short (else our
    stock lane does). `brief`: only the reports most shops send (placed, captured, in transit, delivered and what goes
    wrong): 4 to 5 facts an order instead of 9 to 10.
    """

    def __init__(
        self,
        seed: int = 7,
        *,
        shop: str = "lumi",
        start_ms: int = FIRST_DAY,
        interval_ms: int = 60_000,
        compress: float = 1.0,
        mix: Mapping[str, float] | None = None,
        duplicates: float = 0.05,
        late: float = 0.04,
        contradictions: float = 0.01,
        by_reference: float = 0.05,
        reserves: bool = False,
        brief: bool = False,
    ) -> None:
        unknown = set(mix or ()) - set(SCENARIOS)
        if unknown:
            raise ValueError(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
        if compress <= 0 or interval_ms < 0 or seed < 0:
            raise ValueError("compress must be above 0, interval_ms and seed not below 0")
        self.seed = seed
        self.shop = shop
        self.start_ms = start_ms
        self.interval_ms = interval_ms
        self.hour_ms = HOUR_MS / compress
        self.duplicates = duplicates
        self.late = late
        self.contradictions = contradictions
        self.by_reference = by_reference
        self.reserves = reserves
        self.brief = brief
        self.systems = {name: f"{name}:{shop}" for name in ("shop", "pay", "wms", "staff", *(slug for _, slug, _ in CARRIERS))}
        shares = dict(mix or {name: share for name, (share, _) in SCENARIOS.items()})
        self._plots = tuple((name, SCENARIOS[name][1]) for name in shares)
        self._plot = _Weighted(tuple(shares.values()))
        self.lives, self._people = Random(), Random()  # seeded anew for each use: not for several threads

    @classmethod
    def demo(cls, seed: int, orders: int, seconds: float, start_ms: int) -> FakeShop:
        """Paced so that `orders` orders are placed in the first 60 % of `seconds` and nearly all lives end within the rest."""
        placing_ms = seconds * 600
        return cls(
            seed, start_ms=start_ms, interval_ms=max(1, int(placing_ms / max(1, orders))), compress=14 * 24 * HOUR_MS / (seconds * 350)
        )

    # --- what there is
    def life(self, n: int) -> list[Fact]:
        """What happens to order `n`, each thing told once, in time order."""
        return self._live(n).facts

    def expected(self, n: int) -> Expected:
        life = self._live(n)
        return Expected(life.scenario, life.status)

    def customer(self, index: int) -> Customer:
        u = _seeded(self._people, self.seed, 1, index)
        country = COUNTRIES[(_FAR if index % FAR_EVERY == 1 else _COUNTRY).draw(u())]
        given, family = _pick(country.names, u()), _pick(country.families, u())
        city, region, postcode = _pick(country.towns, u())
        person = Person(
            name=f"{given} {family}",
            email=f"customer.{index}@example.invalid",
            phone=country.phone.format(int(u() * country.free) + (5 if country.code == "SE" else 0)) if u() < 0.85 else "",
            push_token=f"app-{self.seed:x}-{index:x}" if u() < 0.4 else "",
            locale=country.locale,
            zone=country.zone,
            address=Address(
                lines=(f"{_pick(country.streets, u())} {int(u() * 140) + 1}",),
                city=city,
                region=region,
                postcode=postcode,
                country=country.code,
            ),
        )
        return Customer(
            id=f"{self.shop}:c{index}",
            person=person,
            country=country,
            vip=index % VIP_EVERY == 0,
            sms=bool(person.phone) and u() < 0.6,
            push=bool(person.push_token),
            feedback=u() < 0.8,
        )

    def levels(self) -> list[StockLevelReported]:
        """What the warehouses count on the first day."""
        counts = [(product.sku, IN_STOCK) for product in CATALOGUE] + [(product.sku, 0) for product in SOLD_OUT]
        return [self.level(sku, place, count, self.start_ms) for place in LOCATIONS for sku, count in counts]

    # --- what is reported
    def stream(self, orders: int, first: int = 0) -> Iterator[Fact]:
        """The facts of so many orders, noise included, in order of arrival; those that name only a tracking number are left out."""
        for report in self.reports(orders, first):
            if isinstance(report.record, Fact):
                yield report.record

    def stream_bytes(self, orders: int, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        """(topic, key, value) of everything reported, in order of arrival, ready for the log."""
        for report in self.reports(orders, first):
            yield report.topic, report.key.encode(), encode_fact(report.record)

    def reports(self, orders: int, first: int = 0) -> Iterator[Report]:
        """Everything reported of orders `first` to `first + orders`, in order of arrival; stock levels come first.

        Memory is bounded by the orders alive at one time: the length of a life divided by `interval_ms`.
        """
        for level in self.levels():
            yield Report(self.start_ms, "stock", f"{level.sku}@{level.location}", level)
        waiting: list[tuple[int, int, Report]] = []
        count = 0
        for n in range(first, first + orders):
            placed = self.start_ms + n * self.interval_ms
            while waiting and waiting[0][0] < placed:
                yield heappop(waiting)[2]
            for report in self.told(n):
                heappush(waiting, (report.arrives, count, report))
                count += 1
        while waiting:
            yield heappop(waiting)[2]

    def told(self, n: int) -> list[Report]:
        """All reports of order `n` with their times of arrival: its life, and what networks and people make of it."""
        life = self._live(n)
        order = life.order
        told = [Report(request.at, topic, key, request) for topic, key, request in life.requests]
        u = _seeded(self.lives, self.seed, 2, n)
        hour = self.hour_ms
        twice, wrong = self.late + self.duplicates, self.late + self.duplicates + self.contradictions
        for fact in life.facts:
            fate = u()
            arrives = fact.at
            if fate < self.late:
                arrives += int((1 + 30 * u()) * hour)
            elif fate < twice:
                told.append(Report(arrives + int((0.01 + 3 * u() ** 3) * hour), "facts", order, fact))
            elif fate < wrong and (error := _error(fact, u())) is not None:  # it may come before the truth or after it
                told.append(Report(arrives + int(2 * u() * hour), "facts", order, error))
                arrives += int(2 * u() * hour)
                fact = msgspec.structs.replace(fact, version=fact.version + 1)
            if type(fact) is ParcelScanned and fact.tag not in _KNOWN_BY_ORDER and u() < self.by_reference:
                told.append(_by_tracking(fact, arrives))
            else:
                told.append(Report(arrives, "facts", order, fact))
        return told

    def _live(self, n: int) -> _Life:
        life = _Life(self, n)
        life.scenario, plot = self._plots[self._plot.draw(life.u())]
        life.status = plot(life)
        if self.brief:
            life.facts = [fact for fact in life.facts if not _is_detail(fact)]
        life.facts.sort(key=attrgetter("at"))
        return life

    def level(self, sku: str, location: str, on_hand: int, at: int, version: int = 1) -> StockLevelReported:
        return StockLevelReported(at=at, sku=sku, location=location, on_hand=on_hand, system=self.systems["wms"], version=version)


class _Life:
    """One order being told. Methods are steps of a story; `now` moves on with each."""

    def __init__(self, shop: FakeShop, n: int) -> None:
        self.shop = shop
        self.n = n
        self.u = _seeded(shop.lives, shop.seed, 0, n)
        self.number = str(FIRST_NUMBER + n)
        self.order = f"{shop.shop}:{self.number}"
        self.now = shop.start_ms + n * shop.interval_ms + int(self.u() * shop.interval_ms)
        self.facts: list[Fact] = []
        self.requests: list[tuple[str, str, Request]] = []
        self.scenario = self.status = ""
        self.lines: tuple[Line, ...] = ()
        self.total = self.promised = self.payments = self.parcels = 0
        self.express = False
        self.carrier = 0
        self.reserved: set[str] = set()
        self.contents: dict[str, tuple[Quantity, ...]] = {}  # by parcel; empty: the whole order
        self.customer: Customer

    def wait(self, low: float, high: float) -> None:
        """Hours pass."""
        self.now += int((low + (high - low) * self.u()) * self.shop.hour_ms)

    def tell(self, kind: type[Fact], system: str, thing: str, **fields: Any) -> None:
        self.facts.append(kind(order=self.order, system=self.shop.systems[system], object=thing, at=self.now, **fields))

    # --- buying
    def place(
        self,
        *,
        vip: bool = False,
        express: float = 0.12,
        risk: float = 0.0,
        far: bool = False,
        kinds: int = 0,
        extra: tuple[_Product, ...] = (),
        lacking: str = "",
    ) -> None:
        """The customer clicks "buy". `risk` 0..1: how much it looks like fraud; `lacking`: the part the address lacks."""
        u = self.u
        customer = self.customer = self._buyer(vip, far)
        country = customer.country
        self.express = u() < express
        self.carrier = _CARRIER.draw(u()) if not far else 2 - int(1.4 * u())
        goods = [*extra]
        drawn = u()
        for _ in range(kinds or (1 if drawn < 0.62 else 2 if drawn < 0.86 else 3 if drawn < 0.96 else 4)):
            product = CATALOGUE[int(len(CATALOGUE) * u() ** 2)]
            if risk and u() < risk:  # what sells again easily
                product = max(product, CATALOGUE[int(len(CATALOGUE) * u())], CATALOGUE[int(len(CATALOGUE) * u())], key=attrgetter("price"))
            if product not in goods:
                goods.append(product)
        self.lines = tuple(
            Line(
                line=str(index + 1),
                sku=product.sku,
                quantity=1 if u() < 0.85 - 0.4 * risk else 2 + int(4 * u() ** 3),
                price=max(1, round(product.price * country.rate)),
                title=product.title,
                location=country.location,
            )
            for index, product in enumerate(goods)
        )
        self.total = sum(line.price * line.quantity for line in self.lines)
        promise_h = 30 + 0.7 * country.transit_h if self.express else 72 + 1.7 * country.transit_h
        self.promised = self.now + int(promise_h * self.shop.hour_ms)
        self.tell(
            OrderPlaced,
            "shop",
            self.number,
            number=self.number,
            customer=customer.id,
            currency=country.currency,
            total=self.total,
            lines=self.lines,
            person=_without(customer.person, lacking) if lacking else customer.person,
            service="express" if self.express else "standard",
            tier="vip" if customer.vip else "regular",
            promised=self.promised,
            signals=self._signals(risk),
        )

    def _buyer(self, vip: bool, far: bool) -> Customer:
        """Somebody new, or somebody who was here before: few of them often, most of them rarely."""
        u = self.u
        returning = u() >= NEW_CUSTOMERS
        index = int(self.n * u() ** 0.5) if returning else self.n
        if vip:
            index -= index % VIP_EVERY
        elif far:
            index -= index % FAR_EVERY - 1
        customer = self.shop.customer(index)
        if not returning or u() < 0.25:
            self._consents(customer)
        return customer

    def _consents(self, customer: Customer) -> None:
        """What the checkout's form said, where it is not the usual; a few send STOP later."""
        profile = ProfileReported(at=self.now, customer=customer.id, system=self.shop.systems["shop"], person=customer.person, version=1)
        self.ask("customers", customer.id, profile)
        said = (
            [("sms", "*", True)] * customer.sms
            + [("push", "*", True)] * customer.push
            + [("email", "feedback", False)] * (not customer.feedback)
        )
        for channel, kind, granted in said:
            self.ask(
                "customers", customer.id, ConsentReported(at=self.now, customer=customer.id, channel=channel, kind=kind, granted=granted)
            )
        if customer.sms and self.u() < 0.03:
            stop = self.now + int(30 * self.shop.hour_ms)
            self.ask("customers", customer.id, ConsentReported(at=stop, customer=customer.id, channel="sms", granted=False))

    def ask(self, topic: str, key: str, request: Request) -> None:
        self.requests.append((topic, key, request))

    def _signals(self, risk: float) -> dict[str, float]:
        u = self.u
        signals = {name: 1.0 for name, honest, added in _LOOKS if u() < honest + added * risk}
        velocity = int(7 * risk * u()) + (u() < 0.08)
        return signals | {"velocity": float(velocity)} if velocity else signals

    # --- paying
    def attempt(self) -> str:
        self.payments += 1
        return f"p-{self.number}-{self.payments}"

    def fail(self, reason: str) -> None:
        self.wait(0.005, 0.05)
        self.tell(PaymentFailed, "pay", self.attempt(), **self.money(), reason=reason)

    def authorize(self) -> str:
        self.wait(0.005, 0.05)
        payment = self.attempt()
        self.tell(PaymentAuthorized, "pay", payment, **self.money())
        return payment

    def pay(self) -> None:
        payment = self.authorize()
        self.wait(*(0.01, 0.1) if self.u() < 0.9 else (6, 50))  # cards at once, bank transfers in days
        self.tell(PaymentCaptured, "pay", payment, **self.money())

    def refund(self, amount: int = 0) -> None:
        self.wait(0.5, 30)
        self.tell(
            PaymentRefunded, "pay", f"r-{self.number}-{self.payments}", amount=amount or self.total, currency=self.customer.country.currency
        )

    def money(self) -> dict[str, Any]:
        return {"amount": self.total, "currency": self.customer.country.currency}

    # --- fulfilling
    def reserve(self, short: str = "") -> None:
        """The warehouse's own answers, if it is the stock's truth: reserved, but for the SKU that is short."""
        if not self.shop.reserves:
            return
        self.wait(0.01, 0.1)
        for line in self.lines:
            if line.line in self.reserved:
                continue
            kind, mark = (StockShort, "w") if line.sku == short else (StockReserved, "s")
            thing = f"{mark}-{self.number}-{line.line}"
            self.tell(kind, "wms", thing, line=line.line, sku=line.sku, location=line.location, quantity=line.quantity)
            if line.sku != short:
                self.reserved.add(line.line)

    def pack(self, lines: tuple[Line, ...] = ()) -> str:
        """Picked, packed, labelled. Without lines: all of them."""
        self.wait(*(1, 7) if self.express else (3, 26))
        self.parcels += 1
        parcel = f"{self.number}-{self.parcels}"
        self.contents[parcel] = tuple(Quantity(line=line.line, quantity=line.quantity) for line in lines)
        self.tell(ItemsPicked, "wms", f"pick-{parcel}", location=self.customer.country.location)
        self.wait(0.3, 2)
        self.tell(ParcelPacked, "wms", f"pack-{parcel}", parcel=parcel, lines=self.contents[parcel])
        self.wait(0.05, 0.4)
        self.scan(parcel, Tracking.LABEL_CREATED)
        return parcel

    def scan(self, parcel: str, tag: Tracking, eta_from: int = 0, eta_until: int = 0) -> None:
        carrier, slug, _ = CARRIERS[self.carrier]
        tracking = f"{slug[:2].upper()}{self.shop.seed % 1000:03d}{parcel.replace('-', '')}"
        self.tell(
            ParcelScanned,
            slug,
            f"{tracking}/{tag.value}/{self.now}",
            parcel=parcel,
            tag=tag,
            carrier=carrier,
            tracking=tracking,
            lines=self.contents[parcel],
            eta_from=eta_from,
            eta_until=eta_until,
        )

    def hand_over(self, parcel: str) -> None:
        self.wait(2, 13)
        self.scan(parcel, Tracking.IN_TRANSIT, self.promised - int(24 * self.shop.hour_ms), self.promised)

    def travel(self, slower: float = 1.0) -> None:
        usual = self.customer.country.transit_h * CARRIERS[self.carrier][2] * (0.35 if self.express else 1.0) * slower
        self.wait(0.55 * usual, 1.25 * usual)
        if self.u() < 0.04:
            self.wait(usual, 2 * usual)

    def deliver(self, parcel: str) -> None:
        """The last day: out for delivery, perhaps nobody at home, delivered; some say later how it was."""
        hour = self.shop.hour_ms
        self.scan(parcel, Tracking.OUT_FOR_DELIVERY, self.now + int(1 * hour), self.now + int(8 * hour))
        self.wait(1.5, 7)
        if self.u() < 0.04:
            self.scan(parcel, Tracking.ATTEMPT_FAILED)
            self.wait(18, 28)
        self.scan(parcel, Tracking.DELIVERED)

    def praise(self, best: int = 5) -> None:
        if self.u() < 0.15:
            self.wait(20, 90)
            self.tell(FeedbackGiven, "shop", f"f-{self.number}", score=max(1, best - int(3 * self.u() ** 2)))

    def fulfil(self) -> None:
        """All goes well, in one parcel."""
        self.reserve()
        parcel = self.pack()
        self.hand_over(parcel)
        self.travel()
        self.deliver(parcel)

    def review(self, approve: bool) -> None:
        self.wait(0.5, 8)
        reviewer = f"reviewer-{1 + int(3 * self.u())}"
        reason = "customer confirmed by phone" if approve else "signals confirmed"
        self.tell(ReviewDecided, "staff", f"v-{self.number}", approve=approve, by=reviewer, reason=reason)

    def cancel(self, reason: str) -> None:
        self.tell(CancelRequested, "shop", f"c-{self.number}", reason=reason, by="customer")


# --- stories: what may become of an order. Each returns the status that all its reports together mean.
def _regular(o: _Life) -> str:
    o.place()
    o.pay()
    o.fulfil()
    o.praise()
    return "delivered"


def _express(o: _Life) -> str:
    o.place(express=1)
    o.pay()
    o.fulfil()
    o.praise()
    return "delivered"


def _vip(o: _Life) -> str:
    o.place(vip=True, express=0.5, kinds=1 + int(4 * o.u()))
    o.pay()
    o.fulfil()
    o.praise()
    return "delivered"


def _fraud(o: _Life) -> str:
    """Some are stopped by a person; of the others the card's owner hears weeks later."""
    o.place(risk=1.0, express=0.55)
    o.pay()
    if o.u() < 0.35:
        o.review(approve=False)
        o.refund()
        return "refunded"
    o.fulfil()
    o.wait(4 * 24, 9 * 24)
    o.tell(PaymentDisputed, "pay", f"d-{o.number}", **o.money())
    if o.u() < 0.85:
        o.wait(48, 96)
        o.tell(DisputeClosed, "pay", f"d-{o.number}", won=o.u() < 0.1)
    return "delivered"


def _cleared(o: _Life) -> str:
    """Looks like fraud, is not: a person lets it go."""
    o.place(risk=0.55)
    o.pay()
    o.review(approve=True)
    o.fulfil()
    return "delivered"


def _out_of_stock(o: _Life) -> str:
    """Comes back and is sent, is given up by the customer, or goes on waiting."""
    end = o.u()
    if end < 0.5:
        limited = _Product(f"LZ-LTD-{o.n}", "Limited Edition Lamp", 19_900)
        o.place(extra=(limited,))
        line = o.lines[0]
        key = f"{line.sku}@{line.location}"
        o.ask("stock", key, o.shop.level(line.sku, line.location, 0, o.now))
        o.pay()
        o.reserve(short=line.sku)
        o.wait(24, 72)
        o.ask("stock", key, o.shop.level(line.sku, line.location, line.quantity + 3, o.now, version=2))
        o.fulfil()
        return "delivered"
    o.place(extra=(_pick(SOLD_OUT, o.u()),))
    o.pay()
    o.reserve(short=o.lines[0].sku)
    if end < 0.8:
        o.wait(24, 96)
        o.cancel("takes too long")
        o.refund()
        return "refunded"
    return "backordered"


def _payment_retry(o: _Life) -> str:
    o.place()
    o.fail("card_declined")
    o.wait(0.5, 20)
    o.pay()
    o.fulfil()
    return "delivered"


def _payment_failed(o: _Life) -> str:
    o.place()
    o.fail("card_declined")
    if o.u() < 0.4:
        o.wait(0.2, 5)
        o.fail("insufficient_funds")
    return "payment_failed"


def _delayed(o: _Life) -> str:
    """Delivered after the promised date; often already late when it leaves the house."""
    o.place(far=o.u() < 0.5)
    o.pay()
    o.reserve()
    if o.u() < 0.6:
        o.wait(60, 160)
    parcel = o.pack()
    o.hand_over(parcel)
    o.travel(slower=1.6)
    if o.u() < 0.5:
        o.scan(parcel, Tracking.EXCEPTION)
    o.now = max(o.now, o.promised)
    o.wait(6, 120)
    o.deliver(parcel)
    o.praise(best=3)
    return "delivered"


def _lost(o: _Life) -> str:
    o.place()
    o.pay()
    o.reserve()
    parcel = o.pack()
    o.hand_over(parcel)
    o.travel()
    o.scan(parcel, Tracking.EXCEPTION)
    o.wait(48, 120)
    o.scan(parcel, Tracking.LOST)
    if o.u() < 0.5:
        return "exception"
    o.refund()
    return "refunded"


def _split(o: _Life) -> str:
    """Two parcels; of a few orders the second has not left the house yet."""
    o.place(kinds=3, extra=(CATALOGUE[int(len(CATALOGUE) * o.u())],))
    o.pay()
    o.reserve()
    first, rest = o.lines[:1], o.lines[1:]
    parcel = o.pack(first)
    o.hand_over(parcel)
    other = o.pack(rest) if rest else ""
    o.travel()
    o.deliver(parcel)
    if not other:
        return "delivered"
    if o.u() < 0.15:
        return "partially_delivered"
    o.hand_over(other)
    o.travel()
    o.deliver(other)
    return "delivered"


def _cancelled(o: _Life) -> str:
    """The customer thinks again: before the money moved, or after."""
    o.place()
    if o.u() < 0.5:
        o.authorize()
        o.wait(0.1, 1)
        o.cancel("ordered by mistake")
        return "cancelled"
    o.pay()
    o.wait(0.05, 1)
    o.cancel("found it cheaper")
    o.refund()
    return "refunded"


def _refunded(o: _Life) -> str:
    """Delivered, sent back, refunded; some get a part of their money and keep the goods."""
    o.place()
    o.pay()
    o.fulfil()
    o.wait(24, 100)
    if o.u() < 0.3:
        o.refund(max(1, o.total // 4))
        return "delivered"
    o.tell(ReturnReceived, "wms", f"b-{o.number}")
    o.refund()
    return "refunded"


def _address_incomplete(o: _Life) -> str:
    """Nothing can be labelled until the customer says where to; a few never do."""
    o.place(lacking="postcode" if o.u() < 0.6 else "lines")
    o.pay()
    if o.u() < 0.25:
        return "on_hold"
    o.wait(1, 40)
    o.tell(AddressCorrected, "shop", f"a-{o.number}", person=o.customer.person)
    o.fulfil()
    return "delivered"


SCENARIOS: dict[str, tuple[float, Callable[[_Life], str]]] = {
    "regular": (0.55, _regular),
    "express": (0.10, _express),
    "vip": (0.06, _vip),
    "fraud": (0.03, _fraud),
    "cleared": (0.01, _cleared),
    "out_of_stock": (0.04, _out_of_stock),
    "payment_retry": (0.03, _payment_retry),
    "payment_failed": (0.02, _payment_failed),
    "delayed": (0.05, _delayed),
    "lost": (0.01, _lost),
    "split": (0.04, _split),
    "cancelled": (0.02, _cancelled),
    "refunded": (0.02, _refunded),
    "address_incomplete": (0.02, _address_incomplete),
}
"""Share and story by name."""


def _without(person: Person, part: str) -> Person:
    if part not in required(person.address.country):
        part = "lines"  # which every country needs
    address = msgspec.structs.replace(person.address, **{part: () if part == "lines" else ""})
    return msgspec.structs.replace(person, address=address)


def _error(fact: Fact, uniform: float) -> Fact | None:
    """The same thing told wrongly by the same system; None where an error would change who the order belongs to."""
    if isinstance(fact, PaymentAuthorized | PaymentCaptured):
        return msgspec.structs.replace(fact, amount=fact.amount + 1 + int(500 * uniform))
    if isinstance(fact, ParcelScanned):
        return msgspec.structs.replace(fact, tag=Tracking.UNKNOWN)
    if isinstance(fact, OrderPlaced):
        first = fact.lines[0]
        more = msgspec.structs.replace(first, quantity=first.quantity + 1)
        return msgspec.structs.replace(fact, lines=(more, *fact.lines[1:]), total=fact.total + first.price)
    return None


def _by_tracking(fact: ParcelScanned, arrives: int) -> Report:
    """The same scan from a carrier that knows its tracking number and nothing else."""
    bare = msgspec.Raw(encode_fact(msgspec.structs.replace(fact, order="")))
    waiting = FactWaiting(at=fact.at, kind="tracking", value=fact.tracking, fact=bare)
    return Report(arrives, "references", f"tracking:{fact.tracking}", waiting)


def _is_detail(fact: Fact) -> bool:
    if isinstance(fact, ParcelScanned):
        return fact.tag in (Tracking.LABEL_CREATED, Tracking.OUT_FOR_DELIVERY)
    return isinstance(fact, PaymentAuthorized | ItemsPicked | ParcelPacked | FeedbackGiven)


def _pick(of: tuple[Item, ...], uniform: float) -> Item:
    return of[int(uniform * len(of))]


def _seeded(generator: Random, seed: int, purpose: int, index: int) -> Callable[[], float]:
    """Uniform numbers that depend on (seed, purpose, index) alone; seeding anew is cheaper than a new generator."""
    generator.seed((seed << 64) | (index << 4) | purpose)
    return generator.random
