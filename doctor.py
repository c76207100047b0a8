"""`run.py doctor`: looks at everything an installation stands on and says what is wrong and what to do about it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, MutableMapping

import msgspec
from rich.console import Console
from rich.table import Table

import wire
from settings import Settings, SettingsError

CONNECT_S = 5.0
FREE_BYTES = 2 << 30


class Finding(msgspec.Struct, frozen=True):
    what: str
    ok: bool
    says: str
    do: str = ""


async def examine(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """Never raises for what it looks at; changes nothing but starts the embedded store if nobody has."""
    found = [_disk(settings), _secrets(settings, environment)]
    try:
        async with wire.store_of(settings) as store:
            found.append(Finding("store", True, f"answers, settings are right, ID {store.id[:8]}"))
            found += await _log(settings, store)
    except Exception as error:
        found.append(Finding("store", False, _says(error), "start it, or correct `store` in the configuration"))
    found.append(await _smtp(settings))
    return found


def _says(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _disk(settings: Settings) -> Finding:
    folder = wire.data_folder(settings)
    free = shutil.disk_usage(folder).free
    ok = free > FREE_BYTES and os.access(folder, os.W_OK)
    return Finding("data folder", ok, f"{folder}, {free / 2**30:.1f} GiB free", "" if ok else "make room, or point `data` to another disk")


def _secrets(settings: Settings, environment: Mapping[str, str]) -> Finding:
    try:
        channels = wire.sender_settings(settings, environment)
    except SettingsError as error:
        return Finding("secrets", False, str(error), "set it, or correct the reference")
    return Finding("secrets", True, f"all references resolve; channels configured: {', '.join(channels)}")


async def _log(settings: Settings, store: wire.Store) -> list[Finding]:
    try:
        async with wire.opened(wire.log_of(settings)) as log:
            ids = await log.topic_ids(wire.TOPICS)
            missing = [topic for topic in wire.TOPICS if topic not in ids]
            if missing:
                return [Finding("log", False, f"reachable, without the topics {', '.join(missing)}", "run.py init")]
            counts = {topic: len(await log.bounds(topic)) for topic in wire.TOPICS}
            wrong = {topic: n for topic, n in counts.items() if n != settings.layout.partitions}
            if wrong:
                return [Finding("log", False, f"partitions differ from layout.partitions: {wrong}", "the layout is fixed at init: correct the configuration")]
            found = [Finding("log", True, f"{len(ids)} topics of {settings.layout.partitions} partitions")]
            unplaced = [s.lane for s in await store.standing(wire.lanes(settings)) if s.offset is None]
            if unplaced:
                found.append(Finding("positions", False, f"{len(unplaced)} lanes have none", "run.py init for a new store, run.py recover for an emptied one"))
            else:
                moved = [s.lane for s in await store.standing(wire.lanes(settings)) if s.log != ids[_topic(s.lane.processor)]]
                found.append(Finding("positions", not moved, "all lanes are placed" if not moved else f"{len(moved)} belong to another log",
                                     "" if not moved else "point `log` to the log this store belongs to, or run.py recover"))
            return found
    except Exception as error:
        return [Finding("log", False, _says(error), "run.py init makes the embedded log; for Kafka check address, network and `log`")]


def _topic(processor: str) -> str:
    return next(topic for topic, name in wire.PROCESSOR_OF.items() if name == processor)


async def _smtp(settings: Settings) -> Finding:
    email = settings.channels.email
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(email.host, email.port), CONNECT_S)
        writer.close()
    except (OSError, TimeoutError) as error:
        needed = email.mode in ("live", "sandbox")
        return Finding("mail server", not needed, f"{email.host}:{email.port} does not answer ({type(error).__name__})"
                       + ("" if needed else "; not needed while e-mail is in observe"), "correct channels.email.host and port" if needed else "")
    return Finding("mail server", True, f"{email.host}:{email.port} answers")


def ray(settings: Settings, environment: MutableMapping[str, str]) -> Finding:
    if settings.ray == "off":
        return Finding("ray", True, "off by configuration: degraded, the model runs inside the worker")
    started = wire.start_ray(settings, environment)
    assert started is not None
    try:
        return Finding("ray", started.ready, "starts and answers on loopback" if started.ready else started.why, "" if started.ready else "pip install ray, or `ray: off`")
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
        table.add_row("[green]ok[/]" if finding.ok else "[red]!![/]", finding.what, finding.says, f"[bold]{finding.do}[/]" if finding.do else "")
    Console().print(table)
