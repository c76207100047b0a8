"""One running installation for all tests of this folder: `run.py serve` on embedded defaults, with stand-ins for the providers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import httpx
import pytest
import yaml

import run
import settings as settings_module
import wire
from connectors.stand_ins import ACCOUNT, PASSWORD, PROJECT
from connectors.store import LaneId, Store
from connectors.valkey import url
from orders.fact import Fact, encode_fact
from streams.clock import WallClock
from streams.lane import decode_parked
from streams.partition import partition_of
from streams.processor import Parked
from streams.sqlite_log import EmbeddedLog

T = TypeVar("T")
PARTITIONS = 2
PROGRAM = Path(run.__file__)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(true: Callable[[], T], within_s: float = 20.0, what: str = "") -> T:
    """What it answers as soon as it is true."""
    end = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < end, what or "it did not happen"
        time.sleep(0.05)
    return found


class Done(NamedTuple):
    stdout: bytes
    stderr: bytes


class Installation:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.worker_port = free_ports(2)
        self.said = (folder / "roles.log").open("ab")
        self.environment = {
            **os.environ,
            "STAND_IN": PASSWORD,
            "SHOPIFY_SECRET": "of-shopify",
            "STRIPE_SECRET": "whsec_of-stripe",
            "UPS_SECRET": "of-ups",
        }
        self.numbers = itertools.count()
        self.clock = WallClock()
        self.stand_ins = self._start("stand-ins", "--folder", str(folder), "--no-faults")
        until(lambda: (folder / "stand_ins.json").exists(), what="no stand-ins")
        ports = json.loads((folder / "stand_ins.json").read_text())
        self.providers = f"http://127.0.0.1:{ports['http']}"
        self.config = folder / "orderflow.yaml"
        self.config.write_text(yaml.safe_dump(self._tree(ports)))
        self.settings = settings_module.load(self.config)
        self.cli("init")
        self.serving = self._start("--config", str(self.config), "serve")
        self.web = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)
        self.worker = httpx.Client(base_url=f"http://127.0.0.1:{self.worker_port}", timeout=20, trust_env=False)
        until(lambda: self._ready(self.worker) and self._ready(self.web), 90, "the installation did not come up")

    def _tree(self, ports: Mapping[str, int]) -> dict[str, Any]:
        hook = f"http://127.0.0.1:{ports['http']}"
        token = {"env": "STAND_IN"}
        return {
            "data": str(self.folder / "data"),
            "ray": "off",
            "archive": False,
            "layout": {"partitions": PARTITIONS},
            "http": {"port": self.port, "worker_port": self.worker_port},
            "accounts": [
                {"name": "shopify-lumi", "vendor": "shopify", "secrets": [{"env": "SHOPIFY_SECRET"}], "reports_payments": False},
                {"name": "stripe-lumi", "vendor": "stripe", "secrets": [{"env": "STRIPE_SECRET"}]},
                {"name": "ups-lumi", "vendor": "ups", "secrets": [{"env": "UPS_SECRET"}]},
            ],
            "channels": {
                "email": {"port": ports["smtp"], "tls": "off"},
                "sms": {"url": hook, "account": ACCOUNT, "token": token, "sender": "+15005550006"},
                "push": {"url": hook, "project": PROJECT, "token": token},
            },
        }

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAM), *arguments]
        return subprocess.Popen(command, env=self.environment, stderr=self.said, stdin=subprocess.DEVNULL, start_new_session=True)

    @staticmethod
    def _ready(client: httpx.Client) -> bool:
        try:
            return client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> int:
        """The exit code of `serve`."""
        self.web.close()
        self.worker.close()
        self.serving.send_signal(signal.SIGTERM)
        self.stand_ins.send_signal(signal.SIGTERM)
        try:
            self.stand_ins.wait(15)
            return self.serving.wait(35)
        finally:
            for process in (self.serving, self.stand_ins):
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self.said.close()

    # --- the command line
    def cli(self, *arguments: str, code: int = 0) -> Done:
        with (
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as out,
            contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO())) as err,
        ):
            ended = run.command(["--config", str(self.config), *arguments])
        shown = []
        for stream in (out, err):
            stream.flush()
            shown.append(cast(io.BytesIO, stream.buffer).getvalue())
        done = Done(*shown)
        assert ended == code, (done.stdout + done.stderr).decode()
        return done

    # --- records in
    def append(self, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int | None = None) -> None:
        async def append() -> None:
            async with wire.opened(EmbeddedLog(self.folder / "data" / "log")) as log:
                await log.append(topic, records, partition)

        asyncio.run(append())

    def post(self, *facts: Fact) -> None:
        body = b"\n".join(map(encode_fact, facts))
        answer = self.web.post("/v1/facts", content=body, headers={"content-type": "application/x-ndjson"})
        assert answer.status_code == 202, answer.text

    def new_order(self) -> str:
        return f"lumi:{next(self.numbers) + 1000}"

    # --- looking
    def ask(self, question: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        async def ask() -> T:
            store = Store.from_url(url(self.folder / "data" / "store"))
            await store.start()
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(ask())

    def lag(self) -> int:
        async def behind() -> int:
            async with wire.opened(EmbeddedLog(self.folder / "data" / "log")) as log:
                store = Store.from_url(url(self.folder / "data" / "store"))
                await store.start()
                total = 0
                for topic, processor in wire.PROCESSOR_OF.items():
                    ends = await log.bounds(topic)
                    for standing in await store.standing(wire.lanes(self.settings, [processor])):
                        total += ends[standing.lane.partition][1] - (standing.offset or 0)
                await store.close()
                return total

        return asyncio.run(behind())

    def rest(self) -> None:
        """Until everything that was written is read, and what followed from it too."""
        quiet = 0
        while quiet < 2:
            until(lambda: self.lag() == 0, 30, f"it does not come to rest: {self.log_tail()}")
            quiet += 1
            time.sleep(0.1)

    def parked(self) -> dict[str, Parked]:
        rows = self.ask(lambda store: store.parked_list(wire.lanes(self.settings), limit=0))
        return {name: decode_parked(row) for _, name, row in rows}

    def order(self, order: str) -> dict[str, Any]:
        answer = self.web.get(f"/v1/orders/{order}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def lane_of(self, key: str, processor: str = "orders") -> LaneId:
        return LaneId(processor, 0, partition_of(key.encode(), PARTITIONS))

    def received(self, order: str = "") -> list[dict[str, Any]]:
        """What the stand-ins accepted; of one order, by its number in the text: a time in milliseconds that holds these digits is none."""
        path = self.folder / "received.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        number = order.rpartition(":")[2]
        return [row for row in rows if not order or re.search(rf"(?<!\d){number}(?!\d)", row["title"] + row["text"])]

    def metric(self, name: str, **labels: str) -> float:
        for line in self.worker.get("/metrics").text.splitlines():
            if line.startswith(f"orderflow_{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rpartition(" ")[2])
        return -1.0

    def logs(self) -> str:
        return (self.folder / "roles.log").read_text(errors="replace")

    def log_tail(self) -> str:
        return "\n".join(self.logs().splitlines()[-8:])


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("installation"))
    yield made
    assert made.close() == 0, made.log_tail()
