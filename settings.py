"""The one configuration: what a retailer writes in `orderflow.yaml`, read once by `run.py` into frozen structs.

Secrets are never written in the file: a field of type `Ref` names an environment variable or a file that holds one.
`docs/configuration.md` is generated from this module (`run.py schema --config`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
import yaml
from babel import Locale, UnknownLocaleError
from msgspec import Meta

GREATEST = 1e12  # of any number: times in milliseconds must fit into 64 bits
TOPICS = ("deliveries", "facts", "references", "stock", "customers", "journal", "audit")  # ours
_ONE_LINE = r"[^\x00-\x1f\x7f\u2028\u2029]"
_ADDRESS = rf"^{_ONE_LINE}+@{_ONE_LINE}+\Z"


class SettingsError(Exception):
    """A configuration that cannot be used: names file, line and field, and says what to write instead."""


class Ref(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a secret is kept: `{env: NAME}` or `{file: path}`."""

    env: Annotated[str, Meta(pattern="^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    file: str = ""

    def __post_init__(self) -> None:
        if bool(self.env) == bool(self.file):
            raise ValueError("a secret is a reference: either {env: NAME} or {file: path}")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are errors: a misspelt setting must not be silently its default."""


class Brand(Section, frozen=True):
    name: Annotated[str, Meta(description="what customers know the shop as; used in messages", pattern=rf"^{_ONE_LINE}+\Z")] = "Lumi Zone"
    colour: Annotated[str, Meta(description="of the tracking page", pattern="^#[0-9a-fA-F]{6}$")] = "#4f46e5"
    hashtag: Annotated[str, Meta(description="in the delivery confirmation")] = "#YourBrand"
    sender: Annotated[str, Meta(description="From address of e-mails", pattern=_ADDRESS)] = "orders@shop.invalid"
    reply_to: Annotated[str, Meta(description="where customers' replies go", pattern=_ADDRESS)] = "service@shop.invalid"
    domain: Annotated[str, Meta(description="right half of Message-IDs", pattern=r"^[A-Za-z0-9.-]+\Z")] = "shop.invalid"
    locale: Annotated[str, Meta(description="for customers of whom none is known")] = "en_GB"
    zone: Annotated[str, Meta(description="time zone for customers of whom none is known")] = "UTC"
    tracking_base: Annotated[
        str, Meta(description="where the tracking pages are; no slash at the end", pattern=r"^https?://[^\s<>\"'\\{}]*[^\s<>\"'\\{}/]\Z")
    ] = "https://shop.invalid"

    def __post_init__(self) -> None:
        try:
            Locale.parse(self.locale)
        except (ValueError, UnknownLocaleError):
            raise _misplaced("there is no such locale; write it as in en_GB", "brand.locale") from None
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            raise _misplaced("there is no such time zone; write it as in Europe/Berlin", "brand.zone") from None


class EmailChannel(Section, frozen=True):
    mode: Annotated[str, Meta(description="observe, sandbox, live or stopped", pattern="^(observe|sandbox|live|stopped)$")] = "observe"
    host: Annotated[str, Meta(description="SMTP server")] = "127.0.0.1"
    port: Annotated[int, Meta(description="its port", ge=1, le=65535)] = 25
    tls: Annotated[str, Meta(description="off, starttls or implicit", pattern="^(off|starttls|implicit)$")] = "starttls"
    username: Annotated[str, Meta(description="SMTP user; empty: no login")] = ""
    password: Annotated[Ref | None, Meta(description="SMTP password, by reference")] = None
    rate: Annotated[float, Meta(description="most messages per second", gt=0)] = 50.0

    def __post_init__(self) -> None:
        if bool(self.username) != (self.password is not None):
            raise _misplaced("username and password belong together", "channels.email.username")


class SmsChannel(Section, frozen=True):
    mode: Annotated[str, Meta(description="observe, sandbox, live or stopped", pattern="^(observe|sandbox|live|stopped)$")] = "observe"
    url: Annotated[str, Meta(description="Twilio's API, or a stand-in's")] = "https://api.twilio.com"
    account: Annotated[str, Meta(description="account SID")] = ""
    token: Annotated[Ref | None, Meta(description="auth token, by reference")] = None
    sender: Annotated[str, Meta(description="From number or messaging service SID")] = ""
    status_callback: Annotated[str, Meta(description="URL for receipts; empty: none are asked for")] = ""
    rate: Annotated[float, Meta(description="most messages per second", gt=0)] = 50.0


class PushChannel(Section, frozen=True):
    mode: Annotated[str, Meta(description="observe, sandbox, live or stopped", pattern="^(observe|sandbox|live|stopped)$")] = "observe"
    url: Annotated[str, Meta(description="FCM's API, or a stand-in's")] = "https://fcm.googleapis.com"
    project: Annotated[str, Meta(description="Firebase project ID")] = ""
    token: Annotated[Ref | None, Meta(description="OAuth access token, by reference")] = None
    service_account: Annotated[Ref | None, Meta(description="service account JSON, by reference")] = None
    rate: Annotated[float, Meta(description="most messages per second", gt=0)] = 200.0


class WebhookChannel(Section, frozen=True):
    mode: Annotated[str, Meta(description="observe, sandbox, live or stopped", pattern="^(observe|sandbox|live|stopped)$")] = "observe"
    url: Annotated[str, Meta(description="your warehouse's, ERP's or n8n's endpoint")] = ""
    secret: Annotated[Ref | None, Meta(description="signing secret, by reference")] = None
    private: Annotated[bool, Meta(description="allow an endpoint in a private network or on this machine")] = False
    rate: Annotated[float, Meta(description="most calls per second", gt=0)] = 100.0


class SystemsChannel(Section, frozen=True):
    """Vendors' accounts that do things for us: labels, refunds, picks, what a shop is told. Which ones, their `accounts` say."""

    mode: Annotated[str, Meta(description="observe, sandbox, live or stopped", pattern="^(observe|sandbox|live|stopped)$")] = "observe"
    private: Annotated[bool, Meta(description="allow an account's `url` in a private network or on this machine")] = False
    rate: Annotated[float, Meta(description="most calls per second, of all accounts together", gt=0)] = 4.0


class StockChannel(Section, frozen=True):
    """`live` reserves in stock lanes of our own, from the levels that warehouses report; in `observe` only a warehouse's word counts."""

    mode: Annotated[str, Meta(description="observe or live", pattern="^(observe|live)$")] = "observe"


class Channels(Section, frozen=True):
    """Everything starts in `observe`: decided and recorded, nothing leaves. `run.py go-live CHANNEL` changes that."""

    email: EmailChannel = EmailChannel()
    sms: SmsChannel = SmsChannel()
    push: PushChannel = PushChannel()
    webhook: WebhookChannel = WebhookChannel()
    systems: SystemsChannel = SystemsChannel()
    stock: StockChannel = StockChannel()


class Kafka(Section, frozen=True):
    """How a worker is a member of its consumer group; nothing of it matters on the embedded log."""

    session_timeout_s: Annotated[
        float,
        Meta(
            description="a worker silent for so long loses its partitions; not below the brokers' group.min.session.timeout.ms", ge=1, le=15
        ),
    ] = 10.0


class Source(Section, frozen=True):
    """A topic of the retailer's own that speaks canonical facts."""

    name: Annotated[str, Meta(description="names the source in records and metrics", pattern="^[a-z0-9-]+$")]
    topic: Annotated[str, Meta(description="Kafka topic to read", pattern=r"^[A-Za-z0-9._-]{1,249}\Z")]


class Account(Section, frozen=True):
    """One account of a vendor: what it sends comes in at `/v1/ingest/NAME`, signed."""

    name: Annotated[str, Meta(description="names the source in its URL, in facts and in metrics", pattern="^[a-z0-9-]+$")]
    vendor: Annotated[str, Meta(description="shopify, stripe, ups, ...: `run.py connector list`")]
    secrets: Annotated[
        tuple[Ref, ...], Meta(description="what its webhooks are signed with, by reference; several while one is exchanged for another")
    ] = ()
    shop: Annotated[str, Meta(description="slug of the shop whose orders it speaks of; empty: `shop`", pattern="^[a-z0-9-]*$")] = ""
    authority: Annotated[int, Meta(description="whose word counts more where two systems tell the same thing", ge=0, le=100)] = 0
    reports_payments: Annotated[bool, Meta(description="false for a shop whose payment gateway is connected itself")] = True
    reports_parcels: Annotated[bool, Meta(description="false for a shop whose parcels we tell it ourselves")] = True
    order_field: Annotated[str, Meta(description="metadata field in which the gateway's payments name the shop's order")] = "order_id"
    location: Annotated[str, Meta(description="stock location, for a vendor that has only one")] = "main"
    rate: Annotated[float, Meta(description="deliveries a second that are taken, as many again at once", gt=0)] = 200.0
    url: Annotated[str, Meta(description="base of its API where it is not the vendor's usual one", pattern="^(https?://.*[^/])?$")] = ""
    credentials: Annotated[
        dict[str, Ref], Meta(description="what its API asks for, by the vendor's names, by reference; without any it does nothing for us")
    ] = {}
    options: Annotated[dict[str, str], Meta(description="what else its API wants to know of the account, by the vendor's names")] = {}
    services: Annotated[
        tuple[str, ...], Meta(description="of a carrier: services whose labels it makes, the first match does; all if empty")
    ] = ()
    does: Annotated[tuple[str, ...], Meta(description="actions it may do, such as `payment.refund`; empty: all that its vendor can")] = ()
    writes_back: Annotated[bool, Meta(description="of a shop: its orders are told of parcels and statuses")] = False
    silent_after_minutes: Annotated[float, Meta(description="an account that pushes and is silent for so long raises an alert", gt=0)] = (
        120.0
    )


Millimetres = Annotated[int, Meta(ge=1, le=10_000)]


class Origin(Section, frozen=True):
    """Where parcels come from, for labels; and what one weighs and measures where nobody says."""

    name: Annotated[str, Meta(description="sender on labels")] = ""
    phone: Annotated[str, Meta(description="its phone, with country code")] = ""
    lines: Annotated[tuple[str, ...], Meta(description="street and number")] = ()
    city: Annotated[str, Meta(description="city")] = ""
    region: Annotated[str, Meta(description="state or province, where the country has them")] = ""
    postcode: Annotated[str, Meta(description="postcode")] = ""
    country: Annotated[str, Meta(description="ISO 3166-1, two letters", pattern="^([A-Z]{2})?$")] = ""
    weight_g: Annotated[int, Meta(description="weight of a parcel in grams", ge=1, le=100_000)] = 500
    size_mm: Annotated[tuple[Millimetres, Millimetres, Millimetres], Meta(description="its length, width and height in millimetres")] = (
        300,
        200,
        100,
    )


Role = Annotated[str, Meta(pattern="^(viewer|reviewer|warehouse|operator|admin)$")]


class Staff(Section, frozen=True):
    """Somebody who signs in at the pages; what they do is kept under their name."""

    name: Annotated[str, Meta(description="what they sign in with", pattern="^[A-Za-z0-9._@+-]{1,64}$")]
    roles: Annotated[tuple[Role, ...], Meta(description="of viewer, reviewer, warehouse, operator, admin")]
    password: Annotated[Ref, Meta(description="what `run.py people hash` made of their password, by reference")]


class Machine(Section, frozen=True):
    """Somebody who shows a token instead: a script, a scraper, a system of yours that reports facts (role operator)."""

    name: Annotated[str, Meta(description="what it does is kept under this name", pattern="^[A-Za-z0-9._@+-]{1,64}$")]
    roles: Annotated[tuple[Role, ...], Meta(description="of viewer, reviewer, warehouse, operator, admin")]
    secret: Annotated[Ref, Meta(description="its token, by reference")]


class Layout(Section, frozen=True):
    """Fixed at `run.py init`; never changed under data."""

    id: Annotated[int, Meta(description="number of the layout, part of every key in the store", ge=0)] = 0
    partitions: Annotated[int, Meta(description="partitions of every topic that is keyed", ge=1, le=512)] = 4


class Http(Section, frozen=True):
    host: Annotated[str, Meta(description="address to listen on; another than loopback needs people or a token")] = "127.0.0.1"
    port: Annotated[int, Meta(description="gateway, API and pages", ge=0, le=65535)] = 8080
    worker_port: Annotated[
        int,
        Meta(
            description="health and metrics of the worker; each further one of `workers` has the next hundred (8181, 8281, …)",
            ge=0,
            le=65535,
        ),
    ] = 8081
    poller_port: Annotated[int, Meta(description="health and metrics of the poller", ge=0, le=65535)] = 8082
    archive_port: Annotated[int, Meta(description="health and metrics of the archive", ge=0, le=65535)] = 8083
    token: Annotated[Ref | None, Meta(description="a machine's bearer token that may do everything, by reference")] = None
    rate: Annotated[float, Meta(description="requests a second of one caller to `POST /v1/facts`, twice as many at once", gt=0)] = 500.0


class Model(Section, frozen=True):
    scorers: Annotated[int, Meta(description="Ray actors that score", ge=0, le=64)] = 1
    deadline_ms: Annotated[int, Meta(description="after so long the rules answer instead", ge=10)] = 500
    weights: Annotated[str, Meta(description="folder of weights; empty: those that ship")] = ""
    approve_below: Annotated[float, Meta(description="fraud probability under which nobody is asked", ge=0, le=1)] = 0.3
    decline_above: Annotated[float, Meta(description="fraud probability above which an order is declined", ge=0, le=1)] = 0.9

    def __post_init__(self) -> None:
        if self.approve_below > self.decline_above:
            raise _misplaced("must not be greater than `model.decline_above`", "model.approve_below")


class Workflow(Section, frozen=True):
    settle_minutes: Annotated[float, Meta(description="a decline by the model alone waits so long before anything follows", ge=0)] = 15.0
    feedback_after_hours: Annotated[float, Meta(description="delivery to feedback request", ge=0)] = 72.0
    finance_after_failures: Annotated[int, Meta(description="failed payments before finance looks at it", ge=1)] = 2
    review_sla_minutes: Annotated[float, Meta(description="a review that nobody has made by then is escalated", ge=1)] = 120.0
    review_expiry: Annotated[
        str,
        Meta(
            description="what follows after as long again: `hold` tells the team once more, `cancel` cancels the order",
            pattern="^(hold|cancel)$",
        ),
    ] = "hold"
    location: Annotated[str, Meta(description="stock location of lines that name none")] = "main"
    stalled_after_hours: Annotated[float, Meta(description="an order that stays in a status for longer counts as stalled", gt=0)] = 72.0
    lease_seconds: Annotated[float, Meta(description="a claimed call that has not begun by then is not begun any more", ge=1)] = 30.0
    grace_seconds: Annotated[
        float, Meta(description="what became of a call is unknown so long after its lease; longer than any call takes", ge=1)
    ] = 30.0


class Location(Section, frozen=True):
    """A stock location that orders may be sent from."""

    name: Annotated[str, Meta(description="as stock levels and warehouse accounts name it", pattern="^[^/~@%]{1,64}$")]
    handling_hours: Annotated[float, Meta(description="from when an order may be picked to when its parcel leaves", ge=0, le=8760)] = 24.0


Goal = Annotated[str, Meta(pattern="^[A-Z]{2}(-[A-Z0-9]+)?$")]


class Rate(Section, frozen=True):
    """What a carrier takes for a parcel. Of several that fit, the one for a postcode counts, then for a country, then for a location."""

    carrier: Annotated[str, Meta(description="as its vendor is called: ups, usps, ...", pattern="^[a-z0-9-]+$")]
    base_minor: Annotated[int, Meta(description="for a parcel, in minor units (cents)", ge=0, le=10_000_000)]
    days: Annotated[float, Meta(description="from leaving the location to arrival, weekends included", ge=0, le=365)]
    service: Annotated[str, Meta(description="standard or express", pattern="^(standard|express)$")] = "standard"
    location: Annotated[str, Meta(description="a parcel leaves from; empty: any of `sourcing.locations`")] = ""
    to: Annotated[tuple[Goal, ...], Meta(description="`DE`, or `DE-10` for postcodes that begin so; empty: anywhere")] = ()
    per_kg_minor: Annotated[int, Meta(description="for each kilogram, counted by the gram", ge=0, le=10_000_000)] = 0


class Sourcing(Section, frozen=True):
    """Where orders are sent from and what takes their parcels: the cheapest that keeps the promised date, by the rates below.

    Without any everything comes from `workflow.location`, unless the shop says otherwise, and goes by the service that was ordered.
    """

    currency: Annotated[str, Meta(description="of all prices here; they are only compared with each other", pattern="^[A-Z]{3}$")] = "EUR"
    split_minor: Annotated[
        int, Meta(description="what each parcel beyond an order's first costs besides its rate", ge=0, le=10_000_000)
    ] = 0
    unit_g: Annotated[int, Meta(description="grams of a unit whose SKU is not in `weights_g`", ge=0, le=10_000_000)] = 500
    weights_g: Annotated[dict[str, int], Meta(description="grams of a unit, by SKU")] = {}
    locations: Annotated[tuple[Location, ...], Meta(description="what may be sent from")] = ()
    rates: Annotated[tuple[Rate, ...], Meta(description="what carriers take")] = ()

    def __post_init__(self) -> None:
        names = [location.name for location in self.locations]
        for n, name in enumerate(names):
            if name in names[:n]:
                raise _misplaced(f"{name!r} stands here twice", f"sourcing.locations[{n}].name")
        for sku, grams in self.weights_g.items():
            if not 0 <= grams <= 10_000_000:
                raise _misplaced("grams of a unit lie between 0 and 10,000,000", f"sourcing.weights_g.{sku}")
        seen: set[tuple[str, ...]] = set()
        for n, rate in enumerate(self.rates):
            if not names:
                raise _misplaced("rates need `sourcing.locations`", f"sourcing.rates[{n}]")
            if rate.location and rate.location not in names:
                raise _misplaced("there is no such location in `sourcing.locations`", f"sourcing.rates[{n}].location")
            for goal in rate.to or ("",):
                key = (rate.location, rate.carrier, rate.service, goal)
                if key in seen:
                    raise _misplaced(
                        "another rate of this location, carrier and service goes there too", f"sourcing.rates[{n}]{'.to' if goal else ''}"
                    )
                seen.add(key)


def _misplaced(what: str, field: str) -> ValueError:
    """An error that names its own field."""
    return ValueError(f"{what} - at `$.{field}`")


class Polling(Section, frozen=True):
    """How often vendors are asked; parcels are asked about the oftener the nearer they are."""

    warehouse_minutes: Annotated[float, Meta(description="between two askings for a warehouse's orders and stock", gt=0)] = 5.0
    reconcile_minutes: Annotated[float, Meta(description="between two askings of shops and gateways for what a webhook missed", gt=0)] = (
        60.0
    )


class Settings(Section, frozen=True):
    shop: Annotated[str, Meta(description="slug of the shop, first part of every order ID", pattern="^[a-z0-9-]+$")] = "lumi"
    data: Annotated[str, Meta(description="folder for the embedded log and store, the archive and Ray")] = "data"
    log: Annotated[str, Meta(description="`embedded`, or kafka://host:port[,host:port]", pattern="^(embedded|kafka://[^@/]+)$")] = (
        "embedded"
    )
    store: Annotated[
        str,
        Meta(
            description="`embedded`, or a redis:// or rediss:// URL, a user in it if need be, never a password",
            pattern="^(embedded|unix://.+|rediss?://.+)$",
        ),
    ] = "embedded"
    store_password: Annotated[Ref | None, Meta(description="the store's password, by reference")] = None
    ray: Annotated[str, Meta(description="`local`, `off`, or the address of a cluster")] = "local"
    workers: Annotated[
        int, Meta(description="worker processes that `serve` starts: one a core; more than one read a Kafka only", ge=1, le=64)
    ] = 1
    group: Annotated[str, Meta(description="consumer group and Faust app", pattern=r"^[A-Za-z0-9._-]{1,200}\Z")] = "orderflow"
    archive: Annotated[bool, Meta(description="write all topics to Parquet")] = True
    archive_gather_s: Annotated[float, Meta(description="how long records wait for others of their file, seconds", ge=0.5, le=3600)] = 10.0
    insecure: Annotated[bool, Meta(description="accept Kafka or Redis elsewhere without TLS; shown by /readyz")] = False
    signing: Annotated[
        Ref | None, Meta(description="key that signs the way back in messages; empty: one made at init, in the data folder")
    ] = None
    replicated: Annotated[
        bool,
        Meta(description="insist on 3 replicas of our Kafka topics, 2 of which acknowledge; false: fewer will do, and /readyz says so"),
    ] = True
    kafka: Kafka = Kafka()
    layout: Layout = Layout()
    brand: Brand = Brand()
    channels: Channels = Channels()
    sources: Annotated[tuple[Source, ...], Meta(description="topics of your own that speak canonical facts")] = ()
    accounts: Annotated[tuple[Account, ...], Meta(description="vendors' accounts: shops, gateways, warehouses, carriers")] = ()
    origin: Origin = Origin()
    people: Annotated[
        tuple[Staff, ...], Meta(description="who may sign in; with nobody, whoever is on this machine may do everything")
    ] = ()
    tokens: Annotated[tuple[Machine, ...], Meta(description="machines that may ask, beside the one of `http.token`")] = ()
    http: Http = Http()
    model: Model = Model()
    workflow: Workflow = Workflow()
    sourcing: Sourcing = Sourcing()
    polling: Polling = Polling()

    def __post_init__(self) -> None:
        names, topics = [source.name for source in self.sources], [source.topic for source in self.sources]
        for n, (name, topic) in enumerate(zip(names, topics, strict=True)):
            if name in names[:n]:
                raise _misplaced(f"{name!r} stands here twice", f"sources[{n}].name")
            if topic in topics[:n] or topic in TOPICS:
                raise _misplaced("this topic is read already: name one of your own, once", f"sources[{n}].topic")
        if self.workers > 1 and self.log == "embedded":
            raise _misplaced("the embedded log serves one worker: write 1, or name a Kafka in `log`", "workers")
        if self.worker_ports[-1] > 65535:
            raise _misplaced(
                f"{self.workers} workers, each a hundred ports on, end at {self.worker_ports[-1]}: begin lower", "http.worker_port"
            )

    @property
    def worker_ports(self) -> list[int]:
        """Of the workers that `serve` starts; 0 is any free one."""
        first = self.http.worker_port
        return [first and first + 100 * number for number in range(self.workers)]

    @property
    def folder(self) -> Path:
        return Path(self.data)


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a file (or all defaults), with overrides such as `{"layout.partitions": 8}`. Raises SettingsError."""
    tree: dict[str, Any] = {}
    lines: dict[str, int] = {}
    name = "defaults" if path is None else str(path)
    if path is not None:
        tree = _read(path, lines)
    for dotted, value in (overrides or {}).items():
        place = tree
        *parents, last = dotted.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(name, str(error), lines)) from None
    for field, value in _values(tree, "$"):
        if isinstance(value, str) and _PASSWORD.match(value):
            raise SettingsError(_explain(name, f"a secret is never written in the file, nor in a URL - at `{field}`", lines))
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= GREATEST):
            raise SettingsError(_explain(name, f"no number here is that great - at `{field}`", lines))
    return settings


def _read(path: Path, lines: dict[str, int]) -> dict[str, Any]:
    try:
        node = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
        tree = {} if node is None else _tree(node, "$", lines)
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such file; `run.py init` writes one") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise SettingsError(f"{path}: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        raise SettingsError(f"{path}{at}: not YAML: {getattr(error, 'problem', None) or 'not text in UTF-8'}") from None
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}:1: a configuration is a mapping of settings")
    return tree


def _tree(node: yaml.Node, path: str, lines: dict[str, int]) -> Any:
    """Plain data of a YAML node; remembers the line of every field. Raises YAMLError."""
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a field's name is a word", problem_mark=key.start_mark)
            if key.value in found:
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` stands here twice", problem_mark=key.start_mark)
            found[key.value] = _tree(value, f"{path}.{key.value}", lines)
            lines[f"{path}.{key.value}"] = key.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, f"{path}[{index}]", lines) for index, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() not in ("true", "false"):
        return node.value  # `off` is a word of ours (ray, tls), as in YAML 1.2
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise yaml.MarkedYAMLError(problem="a value that is neither text nor a number", problem_mark=node.start_mark) from None


def _values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and value of every leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _values(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _values(inner, f"{path}[{index}]")
    else:
        yield path, value


_PASSWORD = re.compile(r"[a-z+]+://[^/@]*:[^/@]*@")


def _explain(name: str, message: str, lines: Mapping[str, int]) -> str:
    """`file:line: field: what is wrong`. Never quotes a value."""
    text, _, place = message.partition(" - at `")
    place = place.partition("`")[0] or "$"  # the first is the most exact
    if "unknown field" in text:
        place = f"{place}.{text.split('`')[1]}"
        text = "there is no such setting; docs/configuration.md lists them all"
    elif "missing required field" in text:
        text = f"`{text.split('`')[1]}` is missing"
    elif text.startswith("Expected `str`, got `") and "array" not in text and "object" not in text:
        text += "; put it in quotes"
    wanted = place
    while wanted not in lines and ("." in wanted or "[" in wanted):
        wanted = wanted[: max(wanted.rfind("."), wanted.rfind("["))]
    at = f":{lines[wanted]}" if wanted in lines else ""
    field = place.removeprefix("$").removeprefix(".") or "(the whole file)"
    if _is_reference(place) and "reference" not in text:
        text = "a secret is never written in the file"
    if "a secret is never" in text:
        text += ": write {env: NAME} or {file: path}" if _is_reference(place) else "; there is a field of its own for it"
    return f"{name}{at}: {field}: {text}"


def _is_reference(place: str) -> bool:
    """Whether this field, or the one it lies in, is a `Ref`."""
    struct: Any = Settings
    for name in place.removeprefix("$").replace("[", ".[").split("."):
        if name.startswith("["):  # an item of a list
            struct = get_args(struct)[0] if get_args(struct) else struct
        hints = get_type_hints(struct) if isinstance(struct, type) and issubclass(struct, msgspec.Struct) else {}
        struct = hints.get(name, struct)
        if Ref in (struct, *get_args(struct)):
            return True
    return False


def resolve(ref: Ref | None, environment: Mapping[str, str], field: str) -> str:
    """The secret itself. Raises SettingsError naming the field and what is missing, never the value."""
    if ref is None:
        return ""
    if ref.env:
        if ref.env not in environment:
            raise SettingsError(f"{field}: the environment variable {ref.env} is not set")
        return environment[ref.env]
    try:
        return Path(ref.file).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{field}: the file {ref.file} cannot be read: {error.strerror}") from None


def with_password(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The same with the store's password in its URL, as clients take it; that URL is not to be shown. Raises SettingsError."""
    if settings.store_password is None or "://" not in settings.store:
        return settings
    password = quote(resolve(settings.store_password, environment, "store_password"), safe="")
    scheme, _, rest = settings.store.partition("://")
    user, at, place = rest.rpartition("@")
    return msgspec.structs.replace(settings, store=f"{scheme}://{user if at else ''}:{password}@{place}")


def reference() -> str:
    """`docs/configuration.md`, made from the structs above."""
    head = "# Configuration\n\nGenerated by `run.py schema --config`; do not edit. "
    return head + "Every field has a default: an empty file is a working one.\n" + "".join(_section(Settings, "", "orderflow.yaml"))


def _section(struct: type[msgspec.Struct], prefix: str, title: str) -> Iterator[str]:
    hints = get_type_hints(struct, include_extras=True)
    nested: list[tuple[str, type[msgspec.Struct]]] = []
    yield f"\n## {title}\n\n"
    if prefix and struct.__doc__:
        yield struct.__doc__.strip().split("\n")[0] + "\n\n"
    yield "| field | default | meaning |\n|---|---|---|\n"
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Section):
            nested.append((field.name, hint))
            continue
        items = get_args(get_args(hint)[0]) if get_args(hint) else ()
        nested += [(f"{field.name}[]", item) for item in items if isinstance(item, type) and issubclass(item, Section)]
        meta = next((m for m in get_args(hint)[1:] if isinstance(m, Meta)), None)
        usual = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        default = "required" if usual is msgspec.NODEFAULT else f"`{msgspec.json.encode(usual).decode()}`"
        yield f"| `{prefix}{field.name}` | {default} | {meta.description if meta else ''} |\n"
    for name, hint in nested:
        yield from _section(hint, f"{prefix}{name}.", f"{prefix}{name}")
