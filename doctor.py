"""`run.py doctor`: looks at everything an installation stands on and says what is wrong and what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping, MutableMapping

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

import wire
from connectors.store import LaneId, Store
from settings import Settings, SettingsError
from streams.transport import Log
from web.door import LOOPBACK

CONNECT_S = 5.0
FREE_BYTES = 2 << 30


class Finding(msgspec.Struct, frozen=True):
    what: str
    ok: bool
    says: str
    do: str = ""


async def examine(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """Never raises for what it looks at; changes no data, but starts the embedded store if nobody has."""
    disk = _disk(settings)
    found = [disk, _secrets(settings, environment)]
    async with contextlib.AsyncExitStack() as stack:
        store = log = None
        modes = {name: getattr(settings.channels, name).mode for name in wire.CHANNELS}
        try:
            store = await stack.enter_async_context(wire.store_of(settings))
            modes = (await wire.modes_of(settings, store).read()).channels
            found.append(Finding("store", True, f"answers, settings are right, ID {store.id[:8]}"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            found.append(Finding("store", False, _says(error), "start it, or correct `store` in the configuration"))
        try:
            log = await stack.enter_async_context(wire.opened(wire.log_of(settings)))
            found += await _log(settings, log)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            found.append(
                Finding("log", False, _says(error), "run.py init makes the embedded log; for Kafka check address, network and `log`")
            )
        if store is not None and log is not None and found[-1].ok:
            found.append(await _positions(settings, store, log))
    found += [*_channels(settings, environment, modes), await _smtp(settings, modes["email"])]
    return found


def _says(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]


def _disk(settings: Settings) -> Finding:
    try:
        folder = wire.data_folder(settings)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("data folder", False, f"{settings.folder}: {error.strerror}", "point `data` to a folder that this user can write to")
    if not os.access(folder, os.W_OK):
        return Finding("data folder", False, f"{folder} cannot be written to", "give this user the folder, or point `data` to another one")
    ok = free > FREE_BYTES
    return Finding("data folder", ok, f"{folder}, {free / 2**30:.1f} GiB free", "" if ok else "make room, or point `data` to another disk")


def _secrets(settings: Settings, environment: Mapping[str, str]) -> Finding:
    try:
        channels = wire.sender_settings(settings, environment)
        guarded = wire.people(settings, environment).guarded
        wire.order_policy(settings, environment)
        wire.inlets(settings, environment)
        wire.clients(settings, environment)
    except SettingsError as error:
        return Finding("secrets", False, str(error), "set it, or correct the reference")
    except OSError as error:
        return Finding("secrets", False, f"no signing key: {error.strerror}", "make the data folder writable, or set `signing`")
    if not guarded and settings.http.host not in LOOPBACK:
        return Finding(
            "secrets",
            False,
            f"http.host {settings.http.host} can be reached by others, and nobody has to sign in",
            "set people, tokens or http.token",
        )
    return Finding("secrets", True, f"all references resolve; channels configured: {', '.join(channels)}")


def _channels(settings: Settings, environment: Mapping[str, str], modes: Mapping[str, str]) -> list[Finding]:
    try:
        configured = wire.sender_settings(settings, environment)
    except SettingsError:
        return []  # said already
    idle = [name for name in wire.CHANNELS if modes.get(name) in ("live", "sandbox") and name not in configured]
    said = ", ".join(f"{name} {modes.get(name, 'observe')}" for name in wire.CHANNELS)
    if idle:
        return [
            Finding(
                "channels",
                False,
                f"{said}; not configured: {', '.join(idle)}",
                f"fill in channels.{idle[0]}, or run.py go-live {idle[0]} --mode observe",
            )
        ]
    return [Finding("channels", True, said)]


async def _log(settings: Settings, log: Log) -> list[Finding]:
    try:
        weak = await wire.check_layout(settings, log)
    except wire.Failed as error:
        return [Finding("log", False, str(error), "run.py init for a new log; else correct the configuration")]
    ok = not (weak and settings.replicated)
    found = [Finding("log", ok, "; ".join(weak), "" if ok else "add brokers, or set `replicated: false`")] if weak else []
    return [*found, Finding("log", True, f"{len(wire.TOPICS)} topics of {settings.layout.partitions} partitions")]


async def _positions(settings: Settings, store: Store, log: Log) -> Finding:
    topics = wire.names(settings)
    ids = await log.topic_ids(list(topics))
    its = {LaneId(name, settings.layout.id, partition): topic for topic, name in topics.items() for partition in await log.bounds(topic)}
    standing = await store.standing(list(its))
    unplaced = [s for s in standing if s.offset is None]
    if unplaced:
        return Finding(
            "positions", False, f"{len(unplaced)} lanes have none", "run.py init for a new store, run.py recover for an emptied one"
        )
    moved = [s for s in standing if s.log != ids[its[s.lane]]]
    if moved:
        return Finding(
            "positions", False, f"{len(moved)} belong to another log", "point `log` to the log this store belongs to, or run.py recover"
        )
    closed = [s for s in standing if not s.sends]
    if closed:
        return Finding(
            "positions",
            False,
            f"{len(closed)} lanes were rebuilt and send nothing",
            "look at the pages and parked records, then run.py recover --open",
        )
    return Finding("positions", True, "all lanes are placed")


async def _smtp(settings: Settings, mode: str) -> Finding:
    email = settings.channels.email
    needed = mode in ("live", "sandbox")
    place = f"{email.host}:{email.port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(email.host, email.port)
            greeting = b"220" if email.tls == "implicit" else await reader.readline()  # under TLS it would not speak first
            writer.close()
    except (OSError, TimeoutError) as error:
        says = f"{place} does not answer ({type(error).__name__})"
    else:
        if greeting.startswith(b"220"):
            return Finding("mail server", True, f"{place} answers")
        says = f"{place} answers, but not as a mail server does"
    return Finding(
        "mail server",
        not needed,
        says if needed else f"{says}; not needed while e-mail is in {mode}",
        "correct channels.email.host and port" if needed else "",
    )


def ray(settings: Settings, environment: MutableMapping[str, str]) -> Finding:
    if settings.ray == "off":
        return Finding("ray", True, "off by configuration: degraded, the model runs inside the worker")
    try:
        started = wire.start_ray(settings, environment)
    except OSError as error:
        return Finding("ray", False, f"no folder for it: {error.strerror}", "make the data folder writable")
    assert started is not None
    try:
        return Finding(
            "ray",
            started.ready,
            "starts and answers on loopback" if started.ready else started.why,
            "" if started.ready else "pip install ray, or `ray: off`",
        )
    finally:
        started.stop()


def sockets() -> Finding:
    from actors.ray_local import Exposed, assert_loopback

    try:
        assert_loopback(os.getpid())
    except Exposed as error:
        return Finding("sockets", False, str(error), "stop what listens there; nothing of ours should")
    return Finding("sockets", True, "nothing of ours listens beyond this machine")


def show(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False)
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("!!", "red")
        table.add_row(mark, finding.what, Text(finding.says), Text(finding.do, "bold"))
    Console().print(table)
