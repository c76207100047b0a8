"""How the rooms are put together: one function per role, and what several roles share.

`run.py` reads the configuration and calls these. Each role is a process of its own: worker, gateway, and in the demo the
stand-ins. Whoever comes first on a data folder starts its embedded store; the others connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import heapq
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
import structlog

from connectors.base import Secret, is_loopback
from connectors.client import TRACKING, Client, askable
from connectors.delivery import Unreadable
from connectors.store import LaneId, Standing, Store, StoreDown, StoreRefused
from connectors.valkey import EmbeddedValkey, FolderInUse, ServerFailed, url
from connectors.vendor import Account, Ask, Origin, Vendor, reader
from messages.render import Brand, Renderer
from messages.way_back import LEAST_KEY, WayBack
from meter import Meter, Repairs, own_stats, write_stats
from metrics import Metrics
from orders import sourcing
from orders.effect import effect_id
from orders.fact import Address, Fact, decode_fact
from orders.plan import OUTSIDE, SHOP, SYSTEMS, signed, unsigned
from orders.policy import DAY, Policy
from settings import Ref, Settings, SettingsError, resolve
from streams.clock import Clock, WallClock
from streams.dispatch import Dispatcher, Modes
from streams.lane import decode_parked
from streams.modes import MODED, ModesDocument, in_words, observed, with_mode
from streams.parking import KEYED_TOPICS, NoSuchRecord, NotParked, Parking, StillUnreadable
from streams.processor import VERSION, Parked, Processor
from streams.sqlite_log import LogTaken
from streams.transport import Log, LogDown, LogMismatch
from streams.worker import Worker

if TYPE_CHECKING:
    import faust

    from actors.ray_local import LocalRay
    from connectors.archive import Archived
    from connectors.http import Http
    from connectors.systems import Connected
    from streams.archiver import Archiver
    from streams.reconcile import Reconciler, Result
    from web.health import Health
    from web.heard import Watched
    from web.identity import People
    from web.ingest import Inlet
    from web.pay import Checkout, Till
    from web.reader import OrderDetail, Received
    from web.tracking import Front
    from web.warehouse import Warehouse

log = structlog.get_logger("wire")

LOG_WAIT_S = 2.0  # how long a stop of everything waits for the audit
TOPICS = ("deliveries", *KEYED_TOPICS, "journal", "audit")
PROCESSOR_OF = {"deliveries": "intake", "facts": "orders", "references": "references", "stock": "stock", "customers": "customers"}
CHANNELS = ("email", "sms", "push", "webhook", "systems")
WEAKEST_FIRST = ("neither", "lookup", "keyed")  # what can be done about an unknown outcome
REPLICAS, IN_SYNC = 3, 2
# Seconds. Half of what a reading and a turn cost at 5,000 facts/s is that they happen, so those of a partition meet every 30 ms.
PACES = {"intake": 0.03, "orders": 0.06, "references": 0.3, "stock": 0.3, "customers": 0.18}
BODIES = "bodies"  # in the data folder: deliveries that are too large for the log
LABELS = "labels"  # in the data folder: what carriers gave us and we must keep
STALLED_EVERY_S = 60.0
REPAIRS_EVERY_S = 2.0
CIRCUITS_EVERY_S = 2.0
CALM_S, TAKEN_S = 15.0, 30.0  # how long `reconcile` waits for the lanes, before and after
DRAIN_S = 25.0  # of the 30 s that a stop may take
RESTARTS = 5  # of a role that fails in a row
STEADY_S = 60.0  # one that ran for so long begins to count anew
WRONG_USAGE = 2  # exit code of a role that another start cannot help


def set_up_logging() -> None:
    """JSON lines on standard error: level, event, fields, whoever logs. Third parties below warning are quiet.

    An exception is its type and where it was raised: its text, like a local, may hold what belongs to a customer.
    """
    stamp: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    show: list[Any] = [_without_text, structlog.processors.JSONRenderer(default=_type_name)]
    structlog.configure(
        processors=[*stamp, *show],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*stamp, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *show],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_exceptions)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("orderflow").setLevel(logging.INFO)


def _type_name(thing: object) -> str:
    return type(thing).__name__


def _without_exceptions(record: logging.LogRecord) -> bool:
    """Exceptions among the arguments of a third party's message lose their texts."""
    if isinstance(record.args, tuple):
        record.args = tuple(_type_name(arg) if isinstance(arg, BaseException) else arg for arg in record.args)
    return True


def _without_text(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else sys.exception() if given is True else given
    if isinstance(error, BaseException):
        event["error"], event["where"] = _type_name(error), trail(error)
    return {name: value for name, value in event.items() if name != "stack_info" and not name.startswith("_")}  # Ray adds its own


def trail(error: BaseException) -> str:
    """File, line and function of each step to an error, without its text."""
    return " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__))


def quiet_loop() -> None:
    """What a loop has to say of its tasks' exceptions goes the same way; called on the loop."""

    def say(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        told = {"error": _type_name(error), "where": trail(error)} if error is not None else {}
        log.error("event loop reports", what=str(context.get("message")), **told)

    asyncio.get_running_loop().set_exception_handler(say)


def secret(ref: Ref | None, environment: Mapping[str, str], field: str) -> Secret | None:
    return None if ref is None else Secret(resolve(ref, environment, field))


def lanes(settings: Settings, processors: Sequence[str] = tuple(PROCESSOR_OF.values())) -> list[LaneId]:
    return [LaneId(name, settings.layout.id, p) for name in processors for p in range(settings.layout.partitions)]


def names(settings: Settings) -> dict[str, str]:
    """By topic, whose lanes read it; with the retailer's own topics."""
    return PROCESSOR_OF | {source.topic: f"intake-{source.name}" for source in settings.sources}


async def source_lanes(settings: Settings) -> list[LaneId]:
    """Those that read the retailer's own topics, which have as many partitions as he likes."""
    if not settings.sources:
        return []
    async with opened(log_of(settings)) as log_:
        return [LaneId(f"intake-{s.name}", settings.layout.id, p) for s in settings.sources for p in await log_.bounds(s.topic)]


# --- the store
@contextlib.asynccontextmanager
async def store_of(settings: Settings, start: bool = True, lock_wait_s: float = 1.0) -> AsyncIterator[Store]:
    """A started client of the configured store; the embedded server is started if nobody has, and stopped by whoever did.

    `lock_wait_s`: for a server whose parent was killed and which is just leaving; a command need not be so patient as a role.
    """
    server: EmbeddedValkey | None = None
    where = settings.store
    if where == "embedded":
        folder = settings.folder / "store"
        where = url(folder)
        if start:
            server = EmbeddedValkey(folder)
            try:
                await server.start(lock_wait_s=lock_wait_s)
            except FolderInUse:
                server = None
            where = url(folder)
    elif not settings.insecure and where.startswith("redis://") and not _loopback(where):
        raise SettingsError(
            f"store: {where.split('@')[-1]} is not on this machine and not encrypted: use rediss://, or set `insecure: true`"
        )
    store = Store.from_url(where)
    try:
        await store.start()
        yield store
    finally:
        await store.close()
        if server is not None:
            await server.stop()


def _loopback(address: str) -> bool:
    return is_loopback(urlsplit(address if "://" in address else f"//{address}").hostname or "")


def modes_of(settings: Settings, store: Store) -> ModesDocument:
    """The modes in the store; before the first change those of the configuration."""
    return ModesDocument(store, WallClock(), {name: getattr(settings.channels, name).mode for name in MODED})


# --- the log
def log_of(settings: Settings) -> Log:
    if settings.log == "embedded":
        from streams.sqlite_log import EmbeddedLog

        return EmbeddedLog(settings.folder / "log")
    from streams.kafka import KafkaLog

    if not settings.insecure and not all(_loopback(server) for server in settings.log.removeprefix("kafka://").split(",")):
        raise SettingsError("log: this Kafka is not on this machine: set up TLS at a local proxy, or set `insecure: true`")
    servers = settings.log.removeprefix("kafka://")
    if settings.replicated:
        return KafkaLog(servers, replication=REPLICAS, topic_config={"min.insync.replicas": str(IN_SYNC)})
    return KafkaLog(servers)


async def check_layout(settings: Settings, log_: Log) -> list[str]:
    """What of the log may lose what it acknowledged, in words. Raises Failed when its topics are not those of `init`."""
    ids = await log_.topic_ids(TOPICS)
    missing = [topic for topic in TOPICS if topic not in ids]
    if missing:
        raise Failed(f"the log has no topics {', '.join(missing)}: `run.py init` makes them")
    counts = {topic: len(await log_.bounds(topic)) for topic in TOPICS}
    wrong = [f"{topic} has {count}" for topic, count in counts.items() if count != settings.layout.partitions]
    if wrong:
        raise Failed(
            f"layout.partitions is {settings.layout.partitions}, but {', '.join(wrong)}: it is fixed at init, correct the configuration"
        )
    if settings.log == "embedded":
        return []
    from streams.kafka import KafkaLog

    assert isinstance(log_, KafkaLog)
    replicas, in_sync = await log_.replication(TOPICS)
    if replicas >= REPLICAS and in_sync >= IN_SYNC:
        return []
    return [f"Kafka keeps {replicas} replicas, {in_sync} of which acknowledge: {REPLICAS} and {IN_SYNC} outlive the loss of a broker"]


def log_url(settings: Settings) -> str:
    """The log as Faust takes it."""
    if settings.log == "embedded":
        return f"orderflow-log://{(settings.folder / 'log').resolve()}"
    return settings.log.replace("kafka://", "orderflow-kafka://")


async def lay_out(settings: Settings, store: Store, log_: Log, start_at: str = "earliest") -> None:
    """`init`: topics with their partition counts, and each lane's first position, written once. A second call changes nothing."""
    try:
        await log_.create(dict.fromkeys(TOPICS, settings.layout.partitions))
    except LogDown as error:
        hint = f"; {REPLICAS} brokers are needed, or `replicated: false`" if settings.log != "embedded" and settings.replicated else ""
        raise Failed(f"{error}{hint}") from error
    ids = await log_.topic_ids(list(names(settings)))
    for topic, processor in names(settings).items():
        if topic not in ids:
            raise Failed(f"the log has no topic {topic}, which `sources` names: correct the name, or make the topic first")
        for partition, (first, end) in (await log_.bounds(topic)).items():
            lane = LaneId(processor, settings.layout.id, partition)
            await store.place(lane, end if start_at == "now" else first, ids[topic], sends=True)


def only_here(settings: Settings, port: int) -> None:
    """Raises Failed when this process, or Ray below it, can be reached from elsewhere, other than at a `port` that was meant to be."""
    from actors.ray_local import Exposed, assert_loopback

    try:
        assert_loopback(os.getpid(), () if _loopback(settings.http.host) else (port,))
    except Exposed as error:
        raise Failed(f"{error}. Nothing of ours should: is RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER set to something else?") from None


def calm_collector() -> None:
    """What was loaded stays: the collector need not look at it again (+17 % on the bare job)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 1000, 1000)


async def stop_signal() -> None:
    """Returns at the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            os._exit(130)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    await asked.wait()


async def heard(stop: Callable[[], Awaitable[None]]) -> asyncio.Future[Any]:
    """Listens from now on, so that a signal in the middle of a start is not the end of the process but of its work."""
    stopping = asyncio.ensure_future(stop())
    await asyncio.sleep(0)
    return stopping


def data_folder(settings: Settings) -> Path:
    settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return settings.folder


class Failed(Exception):
    """What a command could not do, and what to do next; shown without a trace."""


FAILURES: dict[type[Exception], str] = {  # their texts are written for people; what to do next, where they do not say it
    Failed: "",
    StoreRefused: "",
    ServerFailed: "",
    LogMismatch: "",
    LogTaken: "",
    NoSuchRecord: "`run.py parked list` shows them",
    NotParked: "`run.py parked list` shows what is",
    StillUnreadable: "repair it and replay with --body FILE",
    StoreDown: "start it (the embedded one comes with `run.py worker`), or correct `store` in the configuration; see `run.py doctor`",
    LogDown: "start it, or correct `log` in the configuration; `run.py doctor` looks at everything",
    OSError: "look at rights and free space of the folder that `data` names, or name another one; `run.py doctor` looks at everything",
}


def said(error: Exception) -> str:
    """A failure in words, with what to do next."""
    hint = next(hint for kind, hint in FAILURES.items() if isinstance(error, kind))
    return ": ".join(filter(None, (str(error) or _type_name(error), hint)))


@contextlib.contextmanager
def listening(settings: Settings, field: str) -> Iterator[None]:
    """Raises Failed or SettingsError with the field to change, where something cannot listen."""
    host, port = settings.http.host, getattr(settings.http, field)
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"http.host: {error}") from None
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
        raise Failed(f"{host}:{port} {why}: stop what listens there, or change http.{field}") from None


# --- roles
def start_ray(settings: Settings, environment: MutableMapping[str, str]) -> LocalRay | None:
    """Before the loop and its signal handlers. None when configuration says `off`; a Ray that does not come up is tried again."""
    from actors.ray_local import LocalRay, RayUnavailable, prepare_environment

    if settings.ray == "off":
        return None
    folder = data_folder(settings)
    prepare_environment(environment, folder)
    ray = LocalRay(folder, "" if settings.ray == "local" else settings.ray)
    try:
        ray.start()
    except RayUnavailable as error:
        log.warning("ray does not start, the rules score until it does", why=str(error))
    return ray


def weights_folder(settings: Settings) -> Path:
    return Path(settings.model.weights) if settings.model.weights else Path(__file__).parent / "model" / "weights"


def sender_settings(settings: Settings, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Per channel what its connector takes, secrets resolved. Channels that nobody configured are left out. Raises SettingsError."""
    from connectors.base import SettingsError as Unfit
    from connectors.registry import connect

    c = settings.channels
    found: dict[str, dict[str, Any]] = {
        "email": {
            "host": c.email.host,
            "port": c.email.port,
            "tls": c.email.tls,
            "username": c.email.username,
            "password": secret(c.email.password, environment, "channels.email.password"),
            "rate": c.email.rate,
        }
    }
    if c.sms.account:
        found["sms"] = {
            "url": c.sms.url,
            "account": c.sms.account,
            "token": secret(c.sms.token, environment, "channels.sms.token") or Secret(""),
            "sender": c.sms.sender,
            "status_callback": c.sms.status_callback,
            "rate": c.sms.rate,
        }
    if c.push.project:
        token = secret(c.push.token, environment, "channels.push.token")
        account = secret(c.push.service_account, environment, "channels.push.service_account")
        found["push"] = {"url": c.push.url, "project": c.push.project, "token": token, "service_account": account, "rate": c.push.rate}
    if c.webhook.url:
        found["webhook"] = {
            "url": c.webhook.url,
            "secret": secret(c.webhook.secret, environment, "channels.webhook.secret"),
            "private": c.webhook.private,
            "rate": c.webhook.rate,
        }
    if able := [one for one in connected(settings, environment) if one.does]:
        folder = str(settings.folder / LABELS)
        found["systems"] = {"accounts": able, "folder": folder, "private": c.systems.private, "rate": c.systems.rate}
    for channel, its in found.items():
        try:
            connect(channel, its)
        except Unfit as error:
            raise SettingsError(f"channels.{error}") from None
    return found


def connected(settings: Settings, environment: Mapping[str, str] | None = None) -> list[Connected]:
    """What each account does for us; with the environment, with credentials and ready to. Raises SettingsError naming the field."""
    from connectors.systems import Connected

    found = []
    for index, (its, (vendor, account)) in enumerate(zip(settings.accounts, accounts(settings), strict=True)):
        if unknown := [name for name in its.does if name not in vendor.actions]:
            known = ", ".join(vendor.actions) or "nothing"
            raise SettingsError(f"accounts[{index}].does: {vendor.name} cannot do {unknown[0]!r}; it can do: {known}")
        does = tuple(name for name in its.does or vendor.actions if its.credentials and (its.writes_back or name not in SHOP))
        if its.writes_back and not SHOP.intersection(does):
            raise SettingsError(f"accounts[{index}].writes_back: needs credentials of a shop that can be told; {vendor.name} cannot")
        if environment is not None:
            credentials = {
                name: Secret(resolve(ref, environment, f"accounts[{index}].credentials.{name}")) for name, ref in its.credentials.items()
            }
            account = msgspec.structs.replace(account, credentials=credentials)
        found.append(Connected(vendor=vendor.name, account=account, does=does))
    return found


def served(settings: Settings) -> dict[str, Literal["keyed", "lookup", "neither"]]:
    """The actions that accounts do for us, each with the weakest ability of those that do it."""
    from connectors.registry import VENDORS

    found: dict[str, Literal["keyed", "lookup", "neither"]] = {}
    for one in connected(settings):
        for name in OUTSIDE.intersection(one.does):
            found[name] = min(found.get(name, "keyed"), VENDORS[one.vendor].actions[name].ability.kind, key=WEAKEST_FIRST.index)
    return found


def signing_key(settings: Settings, environment: Mapping[str, str]) -> str:
    """Signs links and what messages carry back. Without a configured key one is made and kept in the data folder. Raises SettingsError."""
    if settings.signing is not None:
        key = resolve(settings.signing, environment, "signing")
        if len(key.encode()) < LEAST_KEY:
            raise SettingsError(f"signing: a key has at least {LEAST_KEY} bytes; `openssl rand -hex 32` makes one")
        return key
    path = data_folder(settings) / "signing.key"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # readable by us alone
            file.write(secrets.token_hex(32))
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)  # whole or not at all: roles that start together must not differ
    return path.read_text()


def processors(settings: Settings, environment: Mapping[str, str], abilities: Mapping[str, str]) -> dict[str, Callable[[], Processor]]:
    """By topic: what makes the processor of one lane of it."""
    from connectors import canonical
    from model.features import features
    from streams.customers import CustomersProcessor, Timing
    from streams.intake import IntakeProcessor
    from streams.orders import OrdersProcessor
    from streams.references import ReferencesProcessor
    from streams.stock import StockProcessor

    readers = {account.source: reader(vendor, account, settings.folder / BODIES) for vendor, account in accounts(settings)}
    policy, renderer = order_policy(settings, environment), renderer_of(settings, environment)
    abilities = {**abilities, **served(settings)}
    timing = Timing(lease=policy.lease_ms, grace=policy.grace_ms)
    made: dict[str, Callable[[], Processor]] = {
        "deliveries": lambda: IntakeProcessor("deliveries", {"canonical": canonical.read_delivery, **readers}),
        "references": ReferencesProcessor,
        "facts": lambda: OrdersProcessor(features, policy, abilities, settings.layout.id),
        "stock": StockProcessor,
        "customers": lambda: CustomersProcessor(renderer, timing=timing, abilities=abilities, layout=settings.layout.id),
    }
    for source in settings.sources:
        made[source.topic] = partial(IntakeProcessor, source.topic, {source.name: canonical.read_delivery}, source.name)
    return made


def accounts(settings: Settings) -> list[tuple[Vendor, Account]]:
    """Each configured account and its vendor. Raises SettingsError."""
    from connectors.registry import VENDORS

    found = []
    for index, its in enumerate(settings.accounts):
        if its.vendor not in VENDORS:
            raise SettingsError(f"accounts[{index}].vendor: no vendor {its.vendor!r}; known: {', '.join(VENDORS)}")
        if its.name == "canonical" or its.name in [other.name for other in settings.accounts[:index]]:
            raise SettingsError(f"accounts[{index}].name: {its.name!r} is taken; each account has a name of its own")
        account = Account(
            source=its.name,
            shop=its.shop or settings.shop,
            authority=its.authority,
            reports_payments=its.reports_payments,
            reports_parcels=its.reports_parcels,
            order_field=its.order_field,
            location=its.location,
            url=its.url,
            options=its.options,
            services=its.services,
            origin=origin(settings),
        )
        found.append((VENDORS[its.vendor], account))
    return found


def origin(settings: Settings) -> Origin:
    o = settings.origin
    address = Address(lines=o.lines, city=o.city, region=o.region, postcode=o.postcode, country=o.country)
    return Origin(name=o.name, phone=o.phone, address=address, weight_g=o.weight_g, size_mm=o.size_mm)


def front(settings: Settings, environment: Mapping[str, str]) -> Front:
    from web.tracking import Front

    policy, brand = order_policy(settings, environment), settings.brand
    return Front(brand.name, brand.colour, brand.zone, lambda token: unsigned(token, "track", policy))


CHECKOUT = "payment.checkout"  # the action of a gateway by which a customer pays
CHECKOUT_S = 10.0  # a customer waits for it
CHECKOUTS = 16  # at once


@contextlib.asynccontextmanager
async def till(settings: Settings, environment: Mapping[str, str], clock: Clock) -> AsyncIterator[Till]:
    """The retry-payment page's: each shop's own gateway, where there is one that makes checkouts and that we have credentials for."""
    from connectors.http import Http
    from connectors.registry import VENDORS
    from web.pay import Till

    policy, http = order_policy(settings, environment), Http(connections=CHECKOUTS)
    able = [one for one in connected(settings, environment) if CHECKOUT in one.does]
    checkouts = {one.account.shop: checkout(VENDORS[one.vendor], one.account, http, policy, clock) for one in reversed(able)}
    await http.start()
    try:
        yield Till(
            order_of=lambda token: unsigned(token, "pay", policy),
            followed=lambda order_id: signed(order_id, "track", policy),
            contact=settings.brand.reply_to,
            life_ms=policy.pay_link_ms,
            checkout=lambda order_id: checkouts.get(order_id.partition(":")[0]),
        )
    finally:
        await http.close()


def checkout(vendor: Vendor, account: Account, http: Http, policy: Policy, clock: Clock) -> Checkout:
    """Asks the gateway for a page on which the order can be paid.

    The key is the same while nothing has changed, so that pressing twice leads to one page; it changes with the day, because such
    a page lives for one, and with what is due and how often it failed.
    """
    from connectors.base import Done
    from connectors.http import Reply, require_https
    from web.pay import due
    from web.problem import Refusal

    action, login = vendor.actions[CHECKOUT], vendor.login

    async def made(order: OrderDetail) -> str:
        amount, now = due(order), clock.now()
        links = {"success_url": f"/track/{signed(order.id, 'track', policy)}", "cancel_url": f"/pay/{signed(order.id, 'pay', policy)}"}
        data = {"amount": amount, "currency": order.currency, "number": order.number, "order": order.id}
        data |= {name: policy.tracking_base + path for name, path in links.items()}
        key = effect_id(order.id, "payment", f"{order.failures} {amount} {order.currency} {now // DAY}", CHECKOUT)
        ask = Ask(event=CHECKOUT, id=key, order=order.id, data=msgspec.Raw(msgspec.json.encode(data)))
        reason = ""
        try:
            request = action.render(account, ask).with_headers(*(login.headers(account, "") if login is not None else ()))
            reply = await http.send(request, CHECKOUT_S, now)
            answer = action.read(account, ask, reply) if isinstance(reply, Reply) else reply
            if isinstance(answer, Done):
                require_https(account.source, answer.reference)
                return answer.reference
            reason = answer.reason
        except (Unreadable, ValueError, KeyError) as error:
            reason = type(error).__name__
        log.warning("no checkout for an order", order_id=order.id, account=account.source, reason=str(reason))
        raise Refusal(503, "no_checkout", "The payment cannot be taken now; try again in a minute", retry_after_s=60)

    return made


def warehouse(settings: Settings, environment: Mapping[str, str], store: Store) -> Warehouse:
    from web.floor import StoreFloor
    from web.warehouse import FolderLabels, Warehouse

    policy = order_policy(settings, environment)
    floor = StoreFloor(store, settings.layout.id, settings.layout.partitions, policy)
    return Warehouse(floor, FolderLabels(settings.folder / LABELS), policy)


def inlets(settings: Settings, environment: Mapping[str, str]) -> list[Inlet]:
    """The accounts that push, with their secrets. Raises SettingsError for one without."""
    from web.ingest import Inlet

    found = []
    for index, (its, (vendor, account)) in enumerate(zip(settings.accounts, accounts(settings), strict=True)):
        if vendor.scheme is None or (not its.secrets and askable(vendor, its.url, its.credentials)):  # it is asked, and pushes nothing
            continue
        secrets = [Secret(resolve(ref, environment, f"accounts[{index}].secrets")) for ref in its.secrets]
        if not all(secret.reveal() for secret in secrets) or not secrets:
            raise SettingsError(f"accounts[{index}].secrets: {vendor.name} signs its webhooks; name the signing secret: {{env: NAME}}")
        found.append(Inlet(source=account.source, vendor=vendor, secrets=secrets, rate=its.rate))
    return found


def watched(settings: Settings, inlets: Sequence[Inlet]) -> dict[str, Watched]:
    """By source, how long those that push may be silent."""
    from web.heard import Watched

    silent = {its.name: its.silent_after_minutes * 60 for its in settings.accounts}
    return {inlet.source: Watched(inlet.vendor.name, silent[inlet.source]) for inlet in inlets}


def clients(settings: Settings, environment: Mapping[str, str]) -> list[Client]:
    """The accounts that can be asked for something, with their credentials; not started. Raises SettingsError."""
    found = []
    for index, (its, (vendor, account)) in enumerate(zip(settings.accounts, accounts(settings), strict=True)):
        if not askable(vendor, its.url, its.credentials):
            continue
        field = f"accounts[{index}]"
        base = account.url or vendor.url
        private = settings.channels.systems.private
        if not (base.startswith("https://") or private or _loopback(base)):
            raise SettingsError(f"{field}.url: credentials travel over https (http only on this machine): give an https URL")
        credentials = {name: Secret(resolve(ref, environment, f"{field}.credentials.{name}")) for name, ref in its.credentials.items()}
        account = msgspec.structs.replace(account, credentials=credentials)
        found.append(Client(vendor, account, WallClock().now, private=private))
    return found


def pushing(settings: Settings) -> set[str]:
    """Sources that send webhooks."""
    return {its.name for its, (vendor, _) in zip(settings.accounts, accounts(settings), strict=True) if vendor.scheme and its.secrets}


class Role(NamedTuple):
    """A process that `serve` keeps running."""

    name: str  # no two have one
    command: tuple[str, ...]  # of run.py
    port: int  # of its health and metrics; 0: any free one
    field: str  # whence the port is


def roles(settings: Settings, environment: Mapping[str, str]) -> list[Role]:
    """What `serve` starts. Raises SettingsError."""
    http = settings.http
    first, *further = settings.worker_ports
    found = [Role("worker", ("worker",), first, "http.worker_port")]
    for number, port in enumerate(further, start=2):
        found.append(Role(f"worker {number}", ("worker", "--port", str(port)), port, f"http.worker_port of worker {number}"))
    found.append(Role("gateway", ("gateway",), http.port, "http.port"))
    if settings.archive:
        found.append(Role("archive", ("archive",), http.archive_port, "http.archive_port"))
    if any(client.by_time or client.can(TRACKING) for client in clients(settings, environment)):
        found.append(Role("poller", ("poller",), http.poller_port, "http.poller_port"))
    return found


def own_ports(its: Iterable[Role]) -> None:
    """Raises SettingsError where two roles that run on one machine have one port."""
    taken: dict[int, str] = {}
    for one in its:
        if one.port and (other := taken.setdefault(one.port, one.field)) != one.field:
            raise SettingsError(f"{one.field}: {one.port} is {other} as well: give each role a port of its own")


def people(settings: Settings, environment: Mapping[str, str]) -> People:
    """Who may come in at pages and API. Raises SettingsError."""
    from web.identity import TOKEN_NAME, Known, People, password_parts

    machines = []
    if settings.http.token is not None:
        machines.append(Known(TOKEN_NAME, frozenset({"admin"}), resolve(settings.http.token, environment, "http.token")))
    for index, its in enumerate(settings.tokens):
        machines.append(Known(its.name, frozenset(its.roles), resolve(its.secret, environment, f"tokens[{index}].secret")))
    staff = []
    for index, person in enumerate(settings.people):
        found = resolve(person.password, environment, f"people[{index}].password")
        try:
            password_parts(found)
        except ValueError as error:
            raise SettingsError(f"people[{index}].password: {error}") from None
        staff.append(Known(person.name, frozenset(person.roles), found.strip()))
    names = [known.name for known in (*staff, *machines)]
    if taken := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"people, tokens: {', '.join(sorted(taken))} is there twice (`http.token` is called {TOKEN_NAME})")
    if not all(machine.secret for machine in machines):
        raise SettingsError("tokens, http.token: a token is empty; take a long random one")
    return People(staff, machines, signing_key(settings, environment).encode() if staff or machines else b"")


def order_policy(settings: Settings, environment: Mapping[str, str]) -> Policy:
    w = settings.workflow
    return Policy(
        approve_below=settings.model.approve_below,
        review_above=settings.model.approve_below,
        decline_above=settings.model.decline_above,
        settle_ms=int(w.settle_minutes * 60_000),
        feedback_after_ms=int(w.feedback_after_hours * 3_600_000),
        finance_after_failures=w.finance_after_failures,
        review_sla_ms=int(w.review_sla_minutes * 60_000),
        review_expiry=w.review_expiry,
        lease_ms=int(w.lease_seconds * 1000),
        grace_ms=int(w.grace_seconds * 1000),
        default_location=w.location,
        sourcing=table_of_rates(settings),
        brand=settings.brand.name,
        tracking_base=settings.brand.tracking_base,
        link_key=signing_key(settings, environment),
        served=dict.fromkeys(served(settings), SYSTEMS),
        writes_back=tuple(its.name for its in settings.accounts if its.writes_back),
    )


def table_of_rates(settings: Settings) -> sourcing.Table:
    """Raises SettingsError for a rate by which no label could ever be bought."""
    its = settings.sourcing
    able = [one for one in connected(settings) if "carrier.label" in one.does]
    for index, rate in enumerate(its.rates):
        sells = [one for one in able if one.vendor == rate.carrier and rate.service in (one.account.services or (rate.service,))]
        if able and not sells:  # without any the signed webhook buys labels, whosever they are
            raise SettingsError(f"sourcing.rates[{index}]: no account buys {rate.carrier} {rate.service} labels")
    return sourcing.Table(
        currency=its.currency,
        split_minor=its.split_minor,
        unit_g=its.unit_g,
        weights_g=its.weights_g,
        locations=tuple(sourcing.Location(one.name, int(one.handling_hours * 3_600_000)) for one in its.locations),
        rates=tuple(
            sourcing.Rate(
                carrier=rate.carrier,
                service=rate.service,
                location=rate.location,
                to=rate.to,
                base_minor=rate.base_minor,
                per_kg_minor=rate.per_kg_minor,
                transit_ms=int(rate.days * DAY),
            )
            for rate in its.rates
        ),
    )


def renderer_of(settings: Settings, environment: Mapping[str, str]) -> Renderer:
    b = settings.brand
    brand = Brand(name=b.name, hashtag=b.hashtag, sender=b.sender, reply_to=b.reply_to, domain=b.domain, locale=b.locale, zone=b.zone)
    return Renderer(brand, WayBack([signing_key(settings, environment).encode()]))


class Crash:
    """What ended a role before anybody asked it to stop."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.happened = asyncio.Event()

    def __call__(self, error: BaseException) -> None:
        self.errors.append(error)
        self.happened.set()

    def of(self, app: faust.App) -> BaseException | None:
        """For the watchdog: the first that was told, or the app's own."""
        return self.errors[0] if self.errors else app.crash_reason if app.crashed else None

    def of_tasks(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done() and (error := task.exception()):
                self(error)

    def code(self, words: str) -> int:
        """The role's exit code; says why it is not 0, after `words`."""
        if not self.errors:
            return 0
        log.error(words, error=type(self.errors[0]).__name__, where=trail(self.errors[0]))
        return 70


def show_health(stack: contextlib.AsyncExitStack, settings: Settings, environment: Mapping[str, str], health: Health, field: str) -> int:
    """Health and metrics of a role without pages, at `http.<field>` until the stack ends; the port. Raises as `listening` does."""
    from web.health import HealthServer

    with listening(settings, field):
        server = HealthServer(health, getattr(settings.http, field), settings.http.host, people=people(settings, environment))
        server.start()
    stack.callback(server.close)
    health.start()
    stack.push_async_callback(health.close)
    return server.port


async def worker(
    settings: Settings, environment: Mapping[str, str], ray: LocalRay | None, stop: Callable[[], Awaitable[None]] = stop_signal
) -> int:
    """The stream processors until SIGTERM; returns the exit code."""
    from actors.handles import LocalScorer, ScorerPool, SenderHandle
    from actors.sender import Sender
    from connectors.registry import ABILITIES
    from streams.app import PIPELINE, make_app
    from streams.driver import reposition
    from streams.watchdog import Watchdog
    from web.health import Health

    clock, metrics = WallClock(), Metrics()
    metrics.build_info(VERSION).set(1)
    meter = Meter(metrics, clock)
    folder = data_folder(settings)
    crash = Crash()
    stopping = await heard(stop)
    async with contextlib.AsyncExitStack() as stack:
        if ray is not None:
            stack.push_async_callback(asyncio.to_thread, ray.stop)
        store = await stack.enter_async_context(store_of(settings))
        log_ = await stack.enter_async_context(opened(log_of(settings)))
        weak = await check_layout(settings, log_)
        weights, deadline_s = weights_folder(settings), settings.model.deadline_ms / 1000
        scorer: ScorerPool | LocalScorer
        if ray is not None:
            scorer = ScorerPool(ray, weights, size=settings.model.scorers, deadline_s=deadline_s)
        else:
            scorer = LocalScorer(weights, deadline_s=deadline_s)
        await scorer.start()
        stack.push_async_callback(scorer.close)
        senders: dict[str, Any] = {}
        for channel, its in sender_settings(settings, environment).items():
            senders[channel] = SenderHandle(ray, channel, its) if ray is not None else Sender(channel, its)
            stack.push_async_callback(senders[channel].close)  # before Ray goes: nobody then wonders where its actors are
            try:
                await senders[channel].start()
            except Exception as error:  # noqa: BLE001 - the others go on; its claims wait in the schedule
                log.error("channel cannot start", channel=channel, error=type(error).__name__)
        dispatcher = Dispatcher(senders, clock, await modes_of(settings, store).read(), meter)
        apps: list[faust.App] = []  # of one, which is made of the worker that is made with it
        w = Worker(
            processors(settings, environment, ABILITIES),
            layout=settings.layout.id,
            store=store,
            log=log_,
            clock=clock,
            dispatcher=dispatcher,
            scorer=scorer,
            paces=PACES,
            meters=meter,
            crash=crash,
            reposition=lambda tp: reposition(apps[0], tp),
        )
        address = log_url(settings)
        topics = (*PIPELINE, *(source.topic for source in settings.sources))
        session = settings.kafka.session_timeout_s
        apps.append(make_app(settings.group, address, w, w.offer, topics=topics, folder=folder, session_timeout_s=session))
        health = Health(
            metrics,
            lambda: [*not_ready(w), *(weak if settings.replicated else ())],
            lambda: [*degraded(settings, scorer.health()), *(() if settings.replicated else weak)],
        )
        port = show_health(stack, settings, environment, health, "worker_port")
        await asyncio.to_thread(only_here, settings, port)
        watchdog = Watchdog(w, lambda: crash.of(apps[0]))
        stack.callback(watchdog.close)
        background = [
            watchdog.start(),
            asyncio.create_task(keep_modes(store, settings, dispatcher, w)),
            asyncio.create_task(keep_stalled(meter, w, store, settings)),
            asyncio.create_task(keep_repairs(store, metrics)),
            asyncio.create_task(keep_circuits(meter, senders)),
        ]
        await apps[0].start()
        background.append(asyncio.create_task(keep_stats(meter, w, dispatcher, store, folder)))  # not before: another worker may run here
        calm_collector()
        log.info("worker runs", port=port)
        await asyncio.wait([stopping, asyncio.ensure_future(crash.happened.wait()), *background], return_when=asyncio.FIRST_COMPLETED)
        crash.of_tasks(background)  # nobody looks at modes any more
        health.drain()
        log.info("worker drains")
        watchdog.close()
        try:
            async with asyncio.timeout(DRAIN_S):
                await dispatcher.close(DRAIN_S / 2)  # first: the lanes commit what the last calls brought
                await w.close()
                await apps[0].stop()
        except TimeoutError:
            log.warning("drain took too long; what is under way is read again")
        for task in background:
            task.cancel()
        write_stats(folder, {**meter.stats(), "stages": w.stages(), "ready": False})
        own_stats(folder).unlink()
    return crash.code("worker ends")


def not_ready(worker: Worker) -> list[str]:
    why = [f"{s.tp.topic}.{s.tp.partition}: {s.reason}: {s.detail}" for s in worker.stopped.values()]
    if not worker.is_ready() and not why:
        why.append("partitions are being acquired")
    return why


def degraded(settings: Settings, scorer: Mapping[str, Any]) -> list[str]:
    why = []
    if scorer.get("scorer") != "model":
        why.append("the rules score: no model answers")
    if settings.ray == "off":
        why.append("Ray is off: the model runs inside the worker")
    if settings.insecure:
        why.append("insecure: Kafka or the store is reached without TLS")
    return why


async def keep_modes(store: Store, settings: Settings, dispatcher: Dispatcher, w: Worker) -> None:
    """A stop or a change of mode counts within two seconds; while the store is silent the last known modes do."""
    while True:
        try:
            modes = await modes_of(settings, store).read()
        except (StoreDown, StoreRefused):
            modes = dispatcher.modes
        if modes.version != dispatcher.modes.version:
            log.info("modes changed", version=modes.version, stop=bool(modes.stop), channels=modes.channels)
            dispatcher.modes = modes
            w.nudge()
        await asyncio.sleep(1.0)


async def keep_stats(meter: Meter, w: Worker, dispatcher: Dispatcher, store: Store, folder: Path) -> None:
    for turn in count():
        meter.look(w, dispatcher)
        stats = {**meter.stats(), "stages": w.stages(), "ready": w.is_ready()}
        await asyncio.to_thread(write_stats, folder, stats)  # a disk that is being synced holds up even a rename
        if turn % 5 == 0:
            with contextlib.suppress(StoreDown, StoreRefused):
                await meter.ask(store, w)
            meter.metrics.log_bytes.set(sum(file.stat().st_size for file in (folder / "log").glob("*")))
        await asyncio.sleep(1.0)


async def keep_stalled(meter: Meter, w: Worker, store: Store, settings: Settings) -> None:
    while True:
        with contextlib.suppress(StoreDown, StoreRefused):
            await meter.stalled(store, w, int(settings.workflow.stalled_after_hours * 3_600_000))
        await asyncio.sleep(STALLED_EVERY_S if w.is_ready() else 1.0)


async def keep_circuits(meter: Meter, senders: Mapping[str, Any]) -> None:
    while True:
        await meter.circuits(senders)
        await asyncio.sleep(CIRCUITS_EVERY_S)


async def keep_held(archiver: Archiver, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(1.0)
        metrics.backpressure("archive").inc(archiver.held)


async def keep_repairs(store: Store, metrics: Metrics) -> None:
    repairs = Repairs(metrics)
    while True:
        with contextlib.suppress(StoreDown, StoreRefused):
            await repairs.look(store)
        await asyncio.sleep(REPAIRS_EVERY_S)


async def archive(settings: Settings, environment: Mapping[str, str], stop: Callable[[], Awaitable[None]] = stop_signal) -> int:
    """Every record of the log into files until SIGTERM; returns the exit code."""
    from connectors.archive import Archive
    from streams.app import make_app
    from streams.archiver import Archiver
    from streams.driver import reposition
    from streams.watchdog import Watchdog
    from web.health import Health

    metrics, folder = Metrics(), data_folder(settings)
    metrics.build_info(VERSION).set(1)
    crash = Crash()
    stopping = await heard(stop)
    async with contextlib.AsyncExitStack() as stack:
        log_ = await stack.enter_async_context(opened(log_of(settings)))
        await check_layout(settings, log_)
        apps: list[faust.App] = []
        archiver = Archiver(
            Archive(folder / "archive"),
            log_,
            WallClock(),
            crash,
            lambda tp: reposition(apps[0], tp),
            gather_s=settings.archive_gather_s,
        )
        app = make_app(
            f"{settings.group}-archive",
            log_url(settings),
            archiver,
            archiver.offer,
            topics=TOPICS,
            folder=folder,
            session_timeout_s=settings.kafka.session_timeout_s,
        )
        apps.append(app)
        health = Health(metrics, lambda: () if archiver.ready else ("partitions are being opened",))
        port = show_health(stack, settings, environment, health, "archive_port")
        watchdog = Watchdog(archiver, lambda: crash.of(app))
        stack.callback(watchdog.close)
        watching = watchdog.start()
        counting = asyncio.create_task(keep_held(archiver, metrics))
        await app.start()
        calm_collector()
        log.info("archive runs", port=port)
        await asyncio.wait([stopping, asyncio.ensure_future(crash.happened.wait())], return_when=asyncio.FIRST_COMPLETED)
        health.drain()
        watchdog.close()
        watching.cancel()
        counting.cancel()
        try:
            async with asyncio.timeout(DRAIN_S):
                await app.stop()
                await archiver.close()
        except TimeoutError:
            log.warning("drain took too long; what is not in a file is read again")
    return crash.code("archive ends")


async def gateway(settings: Settings, environment: Mapping[str, str]) -> int:
    """HTTP until SIGTERM; returns the exit code."""
    from connectors.registry import ABILITIES
    from web.app import WebServer, make_app
    from web.gateway import Limits
    from web.health import Health
    from web.heard import Heard
    from web.store_reader import StoreReader
    from web.store_switch import StoreSwitch

    clock, metrics, layout, policy = WallClock(), Metrics(), settings.layout, order_policy(settings, environment)
    metrics.build_info(VERSION).set(1)
    stopping = await heard(stop_signal)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(settings, start=False))
        log_ = await stack.enter_async_context(opened(log_of(settings)))
        weak = await check_layout(settings, log_)
        why: list[str] = ["store and log were not asked yet"]
        health = Health(metrics, lambda: [*why, *(weak if settings.replicated else ())], lambda: () if settings.replicated else weak)
        health.start()
        asking = asyncio.create_task(keep_asking(store, log_, settings, why))
        stack.callback(asking.cancel)
        stack.push_async_callback(health.close)
        doors = inlets(settings, environment)
        heard_ = Heard(watched(settings, doors), store, clock, metrics)
        for task in (asyncio.create_task(heard_.keep()), asyncio.create_task(keep_repairs(store, metrics))):
            stack.callback(task.cancel)
        known = people(settings, environment)
        ledger = settings.folder / "received.jsonl"
        app = make_app(
            sink=log_,
            reader=StoreReader(
                store,
                log_,
                layout.id,
                layout.partitions,
                {f"intake-{s.name}": s.topic for s in settings.sources},
                shops={settings.shop, *(its.shop or settings.shop for its in settings.accounts)},
                policy=policy,
            ),
            claims=store,
            clock=clock,
            metrics=metrics,
            health=health,
            mailbox=LedgerMailbox(ledger) if ledger.exists() else None,
            people=known,
            inlets=doors,
            bodies=settings.folder / BODIES,
            front=front(settings, environment),
            heard=heard_.note,
            till=await stack.enter_async_context(till(settings, environment, clock)),
            warehouse=warehouse(settings, environment, store),
            parking=parking(settings, store, log_, processors(settings, environment, ABILITIES)),
            limits=Limits(rate=settings.http.rate),
            switch=StoreSwitch(store, modes_of(settings, store), layout.id, layout.partitions, policy, renderer_of(settings, environment)),
        )
        with listening(settings, "port"):
            server = WebServer(app, settings.http.host, settings.http.port, guarded=known.guarded)
            await server.start()
        log.info("gateway runs", port=server.port)
        await stopping
        health.drain()
        await server.close()
    return 0


async def keep_asking(store: Store, log_: Log, settings: Settings, why: list[str]) -> None:
    """The gateway is ready while the store answers and the log has its topics; `why` says what is missing."""
    while True:
        found = []
        try:
            await store.standing(lanes(settings, ["orders"])[:1])
        except (StoreDown, StoreRefused) as error:
            found.append(f"store: {error}")
        try:
            if len(await log_.bounds("facts")) != settings.layout.partitions:
                found.append("log: the topic facts does not have layout.partitions partitions: `run.py doctor`")
        except (LogDown, LogMismatch, OSError) as error:
            found.append(f"log: {type(error).__name__}")
        why[:] = found
        await asyncio.sleep(2.0)


async def serve(settings: Settings, config: Path | None, environment: Mapping[str, str]) -> int:
    """Workers, gateway and perhaps archive and poller as processes, each started again when it fails, until SIGTERM or it is given up."""
    stopping = await heard(stop_signal)
    its = roles(settings, environment)
    own_ports(its)
    async with store_of(settings):
        running: dict[str, asyncio.subprocess.Process] = {}
        kept = [asyncio.create_task(keep(one.name, one.command, config, environment, running)) for one in its]
        await asyncio.wait([stopping, *kept], return_when=asyncio.FIRST_COMPLETED)
        codes = [task.result() for task in kept if task.done()]
        for task in kept:
            task.cancel()
        await end_roles(list(running.values()))
        return 0 if stopping.done() else next((code for code in codes if code), 1)


async def keep(
    name: str,
    command: Sequence[str],
    config: Path | None,
    environment: Mapping[str, str],
    running: MutableMapping[str, asyncio.subprocess.Process],
    stderr: IO[bytes] | None = None,
) -> int:
    """Runs a role and starts it again, after a growing pause, when it fails. Returns its code when it ended well or is given up.

    `running` shows the process of now under `name`, for whoever ends it; cancel this first.
    """
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began = loop.time()
        running[name] = await role(command[0], config, environment, *command[1:], stderr=stderr)
        code = await running[name].wait()
        failures = 1 if loop.time() - began > STEADY_S else failures + 1
        if code in (0, WRONG_USAGE) or failures > RESTARTS:
            return code
        wait_s = min(0.5 * 2 ** (failures - 1), 30.0)
        log.error("role failed, starting it again", role=name, code=code, failures=failures, wait_s=wait_s)
        await asyncio.sleep(wait_s)


async def role(
    name: str, config: Path | None, environment: Mapping[str, str], *arguments: str, stderr: IO[bytes] | None = None
) -> asyncio.subprocess.Process:
    """Another role of ours as a process; it gets no signal that is meant for us."""
    command = [sys.executable, str(Path(__file__).with_name("run.py"))]
    if config is not None:
        command += ["--config", str(config)]
    return await asyncio.create_subprocess_exec(
        *command, name, *arguments, env=dict(environment), stdin=asyncio.subprocess.DEVNULL, stderr=stderr, start_new_session=True
    )


async def end_roles(processes: Sequence[asyncio.subprocess.Process], wait_s: float = 32.0) -> None:
    for process in processes:
        if process.returncode is None:
            process.terminate()
    waits = [asyncio.ensure_future(process.wait()) for process in processes]
    _, late = await asyncio.wait(waits, timeout=wait_s)
    if late:
        for process in processes:
            if process.returncode is None:
                process.kill()
        await asyncio.wait(waits)


async def stand_ins(folder: Path, seed: int, faults: bool) -> int:
    from connectors.stand_ins import Faults, StandIns

    misbehave = Faults(seed=seed, refuse=0.005, try_later=0.03, error=0.03, drop=0.005, slow=0.05, slow_s=0.3) if faults else Faults()
    made = StandIns(faults=dict.fromkeys(CHANNELS, misbehave), ledger=folder / "received.jsonl", clock=WallClock().now)
    await made.start()
    ports = folder / "stand_ins.json"
    new = ports.with_suffix(".new")
    new.write_text(json.dumps({"http": made.http_port, "smtp": made.smtp_port}))
    new.replace(ports)
    await stop_signal()
    await made.close()
    return 0


class LedgerMailbox:
    """What the stand-ins received, read from the file they write."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    async def received(self, limit: int) -> Sequence[Received]:
        return await asyncio.to_thread(self._tail, limit)

    def _tail(self, limit: int) -> list[Received]:
        from connectors.stand_ins import Receipt
        from web.reader import Received

        with self._ledger.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit * 2048))
            lines = file.read().splitlines()
        found = []
        for line in reversed(lines):
            with contextlib.suppress(msgspec.DecodeError):
                r = msgspec.json.decode(line, type=Receipt)
                found.append(Received(at=r.at, channel=r.channel, to=r.to, subject=r.title, text=r.text, effect=r.effect))
            if len(found) >= limit:
                break
        return found


# --- commands
async def initialise(settings: Settings, start_at: str) -> None:
    data_folder(settings)
    async with store_of(settings) as store, opened(log_of(settings)) as log_:
        await lay_out(settings, store, log_, start_at)


@contextlib.asynccontextmanager
async def opened(log_: Log) -> AsyncIterator[Log]:
    await log_.start()
    try:
        yield log_
    finally:
        await log_.close()


async def lag(settings: Settings) -> list[dict[str, Any]]:
    """By lane how far it is behind: in records, and in seconds the age of the oldest that is not committed (None: it cannot be read)."""
    rows, now = [], WallClock().now()
    async with store_of(settings, lock_wait_s=0.1) as store, opened(log_of(settings)) as log_:
        for topic, processor in names(settings).items():
            bounds = await log_.bounds(topic)
            for standing in await store.standing([LaneId(processor, settings.layout.id, partition) for partition in bounds]):
                first, end = bounds[standing.lane.partition]
                at = standing.offset or 0
                seconds: float | None = 0.0
                if at < end:
                    seconds = await age_s(log_, topic, standing.lane.partition, max(first, at), now)
                row = {"lane": str(standing.lane), "topic": topic, "position": at, "end": end, "behind": max(0, end - at)}
                rows.append({**row, "seconds": seconds})
    return rows


def behind(row: Mapping[str, Any]) -> str:
    """A row of `lag` as a line."""
    age = "" if not row["behind"] else ", nobody can read since when" if row["seconds"] is None else f" for {row['seconds']:.1f} s"
    return f"{row['lane']:24} at {row['position']:>10} of {row['end']:>10}, {row['behind']} behind{age}"


async def age_s(log_: Log, topic: str, partition: int, at: int, now: int) -> float | None:
    """Of the record at this offset, by the log's time; None where the log cannot be read there."""
    try:
        head: Sequence[Any] = await log_.read(topic, partition, at, 1)
    except LogMismatch:
        return None
    return max(0.0, round((now - head[0].timestamp) / 1000, 1)) if head else None


async def parked_list(settings: Settings, reason: str, limit: int) -> list[dict[str, Any]]:
    async with store_of(settings, lock_wait_s=0.1) as store:
        found = await store.parked_list([*lanes(settings), *await source_lanes(settings)], reason, limit)
    rows = [(name, decode_parked(row)) for _, name, row in found]
    return [
        {"id": name, "reason": r.reason, "detail": r.detail, "at": r.at, "bytes": len(r.value), "version": r.version}
        for name, r in sorted(rows, key=lambda x: -x[1].at)
    ]


def parking(settings: Settings, store: Store, log_: Log, made: Mapping[str, Callable[[], Processor]]) -> Parking:
    bodies = settings.folder / BODIES
    return Parking(store, log_, WallClock(), names=names(settings), layout=settings.layout.id, bodies=bodies, processors=made)


async def parked_show(settings: Settings, record: str) -> tuple[Parked, bytes]:
    """The row, and what was to be read."""
    async with store_of(settings, lock_wait_s=0.1) as store:
        found = await parking(settings, store, log_of(settings), {}).find(record)
        return found.row, found.content


async def parked_settle(
    settings: Settings,
    record: str,
    by: str,
    body: bytes | None,
    *,
    replay: bool,
    why: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Replay: the record, or its repaired content, goes to its topic again; either way audit and order learn it and the row goes."""
    from connectors.registry import ABILITIES
    from web.audit import write
    from web.identity import Actor

    async with store_of(settings, lock_wait_s=0.1) as store, opened(log_of(settings)) as log_:
        its = parking(settings, store, log_, processors(settings, environment or {}, ABILITIES) if replay else {})
        row = (await its.find(record)).row
        if replay:
            await its.check(record, body)
        action, after = ("parked.replay", "as it was" if body is None else "repaired") if replay else ("parked.discard", "gone")
        who = Actor(by, frozenset())
        await write(log_, WallClock().now(), who, action, record, before=row.reason, after=after, reason=why)
        said = f"{by}: {why}" if why else by
        if replay:
            await its.replay(record, body, said)
        else:
            await its.discard(record, said)


async def set_modes(settings: Settings, channel: str | None, mode: str, stop: str, start: bool, by: str) -> tuple[Modes, bool]:
    """The modes now, and whether the audit was told first: a stop of everything works without it, nothing else does.

    Raises LogDown.
    """
    from web.audit import write
    from web.identity import Actor

    def changed(modes: Modes) -> Modes:
        new = with_mode(modes, channel, mode) if channel else modes
        return msgspec.structs.replace(new, stop=stop if stop or start else modes.stop)

    async with store_of(settings, lock_wait_s=0.1) as store:
        document = modes_of(settings, store)
        before = await document.read()
        words = {"before": in_words(before), "after": in_words(changed(before)), "reason": stop}
        try:
            async with asyncio.timeout(LOG_WAIT_S if stop else None), opened(log_of(settings)) as log_:
                await write(log_, WallClock().now(), Actor(by, frozenset()), "modes.change", "sending", **words)
        except (LogDown, OSError):  # OSError: TimeoutError is one
            if not stop:
                raise
            return await document.change(by, changed), False
        return await document.change(by, changed), True


async def recover(settings: Settings, environment: Mapping[str, str], open_: bool) -> dict[str, Any]:
    """Rebuilds every lane that does not fit the log: emptied, behind its journal, of another log, or stopped half-way.

    With `open_` allows sending again. Raises Failed while a worker reads the embedded log.
    """
    from connectors.archive import Archive
    from connectors.registry import ABILITIES
    from streams.recovery import rebuild

    async with store_of(settings) as store, opened(log_of(settings)) as log_, alone(settings):
        made = {topic: make() for topic, make in processors(settings, environment, ABILITIES).items()}
        every = {
            LaneId(processor.name, settings.layout.id, partition): processor
            for topic, processor in made.items()
            for partition in sorted(await log_.bounds(topic))
        }
        ids = await log_.topic_ids(list(made))
        if open_:
            half = [str(s.lane) for s in await store.standing(list(every)) if await misfit(s, every[s.lane], ids, log_)]
            if half:
                raise Failed(f"these lanes are not rebuilt yet: {', '.join(half)}; `run.py recover` first")
            await store.set_sends(every, sends=True)
            return {"open": True, "lanes": len(every)}
        archive = Archive(settings.folder / "archive") if settings.archive else None
        rebuilt = []
        for standing in await store.standing(list(every)):
            processor = every[standing.lane]
            if await misfit(standing, processor, ids, log_):
                rebuilt.append(await rebuild(standing.lane, processor, store=store, log=log_, archive=archive, clock=WallClock()))
        return {
            "lanes": len(rebuilt),
            "records": sum(r.records for r in rebuilt),
            "entries": sum(r.entries for r in rebuilt),
            "states": sum(r.states for r in rebuilt),
            "parked": sum(r.parked for r in rebuilt),
            "next": "look at the pages and `run.py parked list`, then `run.py recover --open`" if rebuilt else "nothing to rebuild",
        }


async def misfit(standing: Standing, processor: Processor, ids: Mapping[str, str], log_: Log) -> bool:
    """Whether a worker would refuse to go on from here."""
    from streams.worker import journal_sequence

    if standing.offset is None or standing.mark or standing.log != ids[processor.topic]:
        return True
    first, end = (await log_.bounds(processor.topic))[standing.lane.partition]
    if not first <= standing.offset <= end:
        return True
    return not processor.stateless and await journal_sequence(log_, standing.lane) > standing.sequence


@contextlib.asynccontextmanager
async def alone(settings: Settings) -> AsyncIterator[None]:
    """No worker reads the embedded log meanwhile; on Kafka the tokens of the lanes keep a worker from writing."""
    if settings.log != "embedded":
        yield
        return
    from streams.sqlite_log import GroupLock, LogTaken

    lock = GroupLock(settings.folder / "log", settings.group)
    try:
        lock.take()
    except LogTaken as error:
        raise Failed(f"stop the worker first: {error}") from None
    try:
        yield
    finally:
        lock.release()


async def poller(settings: Settings, environment: Mapping[str, str], stop: Callable[[], Awaitable[None]] = stop_signal) -> int:
    """Asks vendors until SIGTERM; returns the exit code."""
    from streams.poller import Paces, Poller
    from web.health import Health

    clock, metrics = WallClock(), Metrics()
    metrics.build_info(VERSION).set(1)
    crash = Crash()
    stopping = await heard(stop)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(settings, start=False))
        log_ = await stack.enter_async_context(opened(log_of(settings)))
        await check_layout(settings, log_)
        asked = await started(stack, clients(settings, environment))
        if not asked:
            raise SettingsError(NOBODY)
        polling = settings.polling
        made = Poller(
            asked,
            pushing(settings),
            reconciler(settings, store, log_),
            store,
            clock,
            Paces(int(polling.warehouse_minutes * 60_000), int(polling.reconcile_minutes * 60_000)),
            lambda vendor, outcome: metrics.polls(vendor, outcome).inc(),
        )
        why: list[str] = ["store and log were not asked yet"]
        health = Health(metrics, lambda: why)
        port = show_health(stack, settings, environment, health, "poller_port")
        tasks = [
            asyncio.create_task(made.run()),
            asyncio.create_task(keep_asking(store, log_, settings, why)),
            asyncio.create_task(keep_repairs(store, metrics)),
        ]
        log.info("poller runs", port=port, accounts=len(asked))
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        health.drain()
        crash.of_tasks(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return crash.code("poller ends")


NOBODY = "accounts: none can be asked: give one `credentials` (and `url`, where its vendor has none of its own)"


def reconciler(settings: Settings, store: Store, log_: Log) -> Reconciler:
    from streams.reconcile import Known, Reconciler

    known = Known(store, settings.layout.id, settings.layout.partitions)
    return Reconciler(known, log_, store, settings.folder / BODIES, WallClock())


async def started(stack: contextlib.AsyncExitStack, asked: list[Client]) -> list[Client]:
    for client in asked:
        await client.start()
        stack.push_async_callback(client.close)
    return asked


async def reconcile(settings: Settings, environment: Mapping[str, str], since_ms: int, source: str) -> list[Result]:
    """What the vendors know since so long ago and we do not, taken in. Raises Failed while the lanes are behind, SettingsError."""
    from streams.reconcile import reconcile as repair

    if source and source not in [its.name for its in settings.accounts]:
        known = ", ".join(its.name for its in settings.accounts) or "none"
        raise SettingsError(f"accounts: no account is called {source!r}; known: {known}")
    async with contextlib.AsyncExitStack() as stack:
        every = clients(settings, environment)
        chosen = [client for client in every if source in ("", client.account.source)]
        if not chosen:
            raise SettingsError(NOBODY if not source else f"accounts: {source} cannot be asked: give it `credentials` (and a `url`)")
        store = await stack.enter_async_context(store_of(settings, lock_wait_s=0.1))
        log_ = await stack.enter_async_context(opened(log_of(settings)))
        await started(stack, chosen)
        made = reconciler(settings, store, log_)
        if not await made.calm(CALM_S):
            raise Failed(
                "the lanes are behind, so nobody can tell what is missing: start a worker, wait until `run.py lag` is 0, try again"
            )
        carriers = [client for client in every if client.can(TRACKING)]
        return await repair(made, chosen, carriers, WallClock().now() - since_ms, TAKEN_S)


def reconciled(results: Sequence[Result]) -> Iterator[str]:
    """What `reconcile` found, as lines."""
    for result in results:
        if result.stopped:
            again = f"; ask again in {result.after_s:.0f} s" if result.after_s else ""
            yield f"{result.source:24} not asked: {result.said or result.stopped.replace('_', ' ')}{again}; nothing was changed"
            continue
        found = ", ".join(f"{kind.replace('_', ' ')} {number}" for kind, number in sorted(result.found.items())) or "nothing was missing"
        late = f"; {result.waiting} records of it are not taken in yet: see `run.py lag`" if result.waiting else ""
        yield f"{result.source:24} {result.asked} answers: {found}{late}"


async def would_have_sent(settings: Settings, channel: str) -> list[str]:
    """What this channel only observed so far, by what it was, and what became of the rest. Reads every order: seconds per million."""
    async with store_of(settings, lock_wait_s=0.1) as store:
        found = await observed(store, lanes(settings, ["orders"]), channel, dict.fromkeys(served(settings), SYSTEMS))
        counters = await store.counters(lanes(settings, ["customers"]))
    said = f"message.{channel}."
    told = [f"{name.removeprefix(said)} {count}" for name, count in sorted(counters.items()) if name.startswith(said)]
    lines = [f"observed and never sent later: {what}: {count}" for what, count in found.kinds.items()]
    if found.unread:
        lines.append(f"{found.unread} orders cannot be read by this version")
    return [*(lines or [f"nothing has been observed on {channel} yet"]), *([f"messages so far: {', '.join(told)}"] if told else [])]


def train(settings: Settings, out: Path, mature_days: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """New weights from the facts in the archive, in the order in which each partition received them."""
    from connectors.archive import Archive
    from model.train import TrainingRefused, train_from_archive

    archive = Archive(settings.folder / "archive")
    parts = [archive.read(tp) for tp in archive.partitions() if tp[0] == "facts"]
    if not parts:
        raise Failed(f"there is no archive in {settings.folder}: run `run.py archive` (with `archive: true`, `serve` does) first")
    try:
        made = train_from_archive(
            _archived_facts(parts), out, created_from=f"archive of {settings.shop}", mature_ms=mature_days * 86_400_000, tell=tell
        )
    except TrainingRefused as error:
        raise Failed(str(error)) from None
    return {"version": made.version, "rows": made.rows, "metrics": made.metrics, "promoted": made.promoted}


def _archived_facts(parts: Sequence[Iterator[list[Archived]]]) -> Iterator[Fact]:
    """Merged by the log's time: orders of different partitions happened side by side. What was parked is left out."""
    for record in heapq.merge(*(chain.from_iterable(part) for part in parts), key=lambda record: record.at):
        with contextlib.suppress(msgspec.DecodeError):
            yield decode_fact(record.value)
