"""The command line: help with examples, exit codes, and words instead of traces for whatever a user can meet."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import click
import pytest

import run
import settings
import wire
from connectors.valkey import EmbeddedValkey
from streams.clock import VirtualClock, WallClock
from streams.sqlite_log import EmbeddedLog, GroupLock
from web.audit import Audit, Audited

ROOT = Path(run.__file__).parent


HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(os.getpid(), file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def commands(group: click.Group = run.main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in sorted(group.commands.items()):
        if not command.hidden:
            yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


class Said:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Say(Protocol):
    def __call__(self, *arguments: str) -> Said: ...


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(place: Path, capfd: pytest.CaptureFixture[str]) -> Say:
    def say(*arguments: str) -> Said:
        code = run.command(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return say


def configured(place: Path, **more: object) -> str:
    """A quick installation's configuration: two partitions, no Ray, no archive."""
    path = place / "small.yaml"
    path.write_text(json.dumps({"data": str(place / "data"), "ray": "off", "archive": False, "layout": {"partitions": 2}, **more}))
    return str(path)


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as `init` leaves it, to be copied."""
    place = tmp_path_factory.mktemp("laid-out")
    assert run.command(["--config", configured(place), "init"]) == 0
    return place / "data"


# --- help and exit codes
@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(say: Say, path: tuple[str, ...]) -> None:
    said = say(*path, "--help")
    assert said.code == 0
    assert f"run.py {' '.join(path[:1])}" in said.out or f"run.py --config orderflow.yaml {path[0]}" in said.out
    assert "Example: " in said.out


def test_the_readme_of_the_command_names_its_exit_codes(say: Say) -> None:
    assert all(f" {code} " in say("--help").out for code in (0, 1, 2, 70))


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["lag", "--nonsense"], ["parked", "discard", "x"], ["go-live"], ["demo", "--orders", "0"]], ids=" ".join
)
def test_wrong_usage_is_2(say: Say, arguments: list[str]) -> None:
    said = say(*arguments)
    assert said.code == 2 and "Usage: " in said.err


def test_a_wrong_configuration_is_2_with_its_line(say: Say, place: Path) -> None:
    (place / "orderflow.yaml").write_text("shop: lumi\nchanels: {}\n")
    said = say("lag")
    assert (said.code, said.err) == (
        2,
        "configuration: orderflow.yaml:2: chanels: there is no such setting; docs/configuration.md lists them all\n",
    )
    assert say("--config", "gone.yaml", "lag").code == 2


@pytest.mark.parametrize("role", ["worker", "gateway"])
def test_what_cannot_be_used_together_is_2_with_its_line_and_no_bug(say: Say, place: Path, role: str) -> None:
    (place / "orderflow.yaml").write_text("ray: off\nmodel:\n  approve_below: 0.95\n  decline_above: 0.9\n")
    said = say(role)
    assert said.code == 2 and "orderflow.yaml:3: model.approve_below: must not be greater" in said.err and "bug" not in said.err


def test_a_channel_that_no_connector_takes_is_2_with_its_field(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    config = configured(place, http={"worker_port": 0}, channels={"webhook": {"url": "https://erp.example"}})
    said = say("--config", config, "worker")
    assert (said.code, said.err) == (2, "configuration: channels.webhook: url needs a secret\n")


def test_a_bug_is_70_and_says_where_but_not_what(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stumble(settings: object) -> None:
        raise ZeroDivisionError("canary@example.org")

    monkeypatch.setattr(wire, "lag", stumble)
    said = say("lag")
    assert said.code == 70
    assert "ZeroDivisionError at run.py" in said.err and "test_run.py" in said.err and "canary" not in said.err


def test_it_is_started_as_a_program(place: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "run.py", "go-live"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "name a channel" in done.stderr


# --- what commands say
def test_the_schemas_are_printed(say: Say) -> None:
    assert say("schema", "--config").out == (ROOT / "docs" / "configuration.md").read_text() == settings.reference()
    kinds = json.loads(say("schema").out)["$defs"]
    assert {"OrderPlaced", "PaymentCaptured", "FactUnparked"} <= set(kinds)


def test_init_twice_changes_nothing_and_says_what_is_next(say: Say, place: Path) -> None:
    first = say("init")
    assert first.code == 0 and "wrote orderflow.yaml" in first.out and "next: run.py doctor" in first.out
    written = (place / "orderflow.yaml").read_text()
    ids = sqlite3.connect(place / "data/log/log.sqlite").execute("SELECT name, id FROM topics").fetchall()
    (place / "orderflow.yaml").write_text(written + "# mine\n")
    second = say("init")
    assert second.code == 0 and "wrote" not in second.out
    assert (place / "orderflow.yaml").read_text().endswith("# mine\n")
    assert sqlite3.connect(place / "data/log/log.sqlite").execute("SELECT name, id FROM topics").fetchall() == ids
    rows = json.loads(say("lag", "--json").out.splitlines()[-1])
    assert rows["records"] == 0 and len(rows["lanes"]) == 5 * 4 and {row["position"] for row in rows["lanes"]} == {0}


def test_json_is_one_object_on_the_last_line(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    config = configured(place)
    for arguments in (["lag"], ["parked", "list"], ["doctor"], ["recover"]):
        lines = say("--config", config, *arguments, "--json").out.splitlines()
        assert isinstance(json.loads(lines[-1]), dict)
    assert say("--config", config, "parked", "list").out == "nothing is parked\n"


def test_modes_are_changed_with_their_version_and_what_was_never_observed_is_said(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    config = configured(place)
    said = say("--config", config, "go-live", "email", "--yes")
    assert (
        said.code == 0 and said.out == "version 1: email live, sms observe, push observe, webhook observe, systems observe, stock observe\n"
    )
    assert say("--config", config, "go-live", "--stop", "wrong prices").out == "version 2: stopped: wrong prices\n"
    assert say("--config", config, "go-live", "--start").out.startswith("version 3: email live")
    assert "nothing has been observed on sms yet" in say("--config", config, "go-live", "sms").out  # and nobody said yes
    assert say("--config", config, "go-live", "email", "--mode", "observe").out.startswith("version 4: email observe")
    assert "From now on stock is really reserved" in say("--config", config, "go-live", "stock").out
    assert "stock live" in say("--config", config, "go-live", "stock", "--yes").out
    assert "observe or live" in failing(say, "--config", config, "go-live", "stock", "--mode", "sandbox", code=2)


def test_the_audit_hears_of_it_before_anything_goes_live_and_a_stop_works_without_it(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    config = configured(place)
    say("--config", config, "go-live", "email", "--yes", "--by", "anna")
    say("--config", config, "go-live", "--stop", "wrong prices", "--by", "ben")

    async def heard() -> list[Audited]:
        async with wire.opened(wire.log_of(settings.load(Path(config)))) as log:
            return await Audit(log, WallClock()).newest(10)

    newest, first = asyncio.run(heard())
    assert (first.who, first.action, "email live" in first.after, "email observe" in first.before) == ("anna", "modes.change", True, True)
    assert (newest.who, newest.after, newest.reason) == ("ben", "stopped", "wrong prices")

    config = configured(place, log="kafka://127.0.0.1:1")  # nobody listens there
    assert "no broker answers" in failing(say, "--config", config, "go-live", "sms", "--yes")
    stopped = say("--config", config, "go-live", "--stop", "on fire")
    assert (stopped.code, stopped.out) == (0, "version 3: stopped: on fire\n")  # and nothing went live in between
    assert "the audit does not know of it" in stopped.err


async def fill(folder: Path, partition: int, age_s: int) -> None:
    """Facts that nobody reads, written so long ago."""
    async with wire.opened(EmbeddedLog(folder, VirtualClock(WallClock().now() - age_s * 1000))) as log:
        await log.append("facts", [(b"lumi:1", b"{")] * 3, partition)


def test_lag_says_how_old_the_oldest_record_is_that_nobody_has_taken_in(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    config = configured(place)
    asyncio.run(fill(place / "data" / "log", 1, 42))
    found = json.loads(say("--config", config, "lag", "--json").out.splitlines()[-1])
    rows = {row["lane"]: row for row in found["lanes"]}
    behind = {name: (row["behind"], row["seconds"]) for name, row in rows.items() if row["behind"] or row["seconds"]}
    assert behind == {"orders.0.1": (3, pytest.approx(42, abs=1))}
    assert found["records"] == 3 and found["seconds"] == pytest.approx(42, abs=1)
    said = say("--config", config, "lag").out
    assert re.search(r"orders\.0\.1 .* 3 behind for 4[12]\.\d s\n", said) and re.search(r"orders\.0\.0 .* 0 behind\n", said)


# --- what a user can meet
def failing(say: Say, *arguments: str, code: int = 1) -> str:
    said = say(*arguments)
    assert said.code == code, said.err
    return said.err


def test_a_log_without_topics_says_init(say: Say, place: Path) -> None:
    assert "`run.py init` makes them" in failing(say, "--config", configured(place), "worker")


def test_another_partition_count_than_at_init_is_named(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    said = failing(say, "--config", configured(place, layout={"partitions": 3}), "worker")
    assert "layout.partitions is 3, but deliveries has 2" in said and "correct the configuration" in said


def test_two_roles_that_serve_starts_on_one_port_are_named_and_others_are_nobodys_business(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    said = say("--config", configured(place, http={"port": 9000, "worker_port": 9000}), "serve")
    assert said.code == 2 and "http.port: 9000 is http.worker_port as well" in said.err
    for free in ({"port": 8083}, {"port": 0, "worker_port": 0}):  # no archive runs here
        wire.own_ports(wire.roles(settings.load(Path(configured(place, http=free))), {}))
    three = settings.load(Path(configured(place, log="kafka://127.0.0.1:1", workers=3, http={"port": 8281})))
    workers = [role.command for role in wire.roles(three, {}) if role.command[0] == "worker"]
    assert workers == [("worker",), ("worker", "--port", "8181"), ("worker", "--port", "8281")]
    with pytest.raises(settings.SettingsError, match=r"http\.port: 8281 is http\.worker_port of worker 3 as well"):
        wire.own_ports(wire.roles(three, {}))


def test_a_data_folder_that_cannot_be_written_is_named(say: Say, place: Path) -> None:
    (place / "file").write_text("")
    for arguments in (["init"], ["lag"], ["worker"]):
        said = failing(say, "--config", configured(place, data=str(place / "file" / "data")), *arguments)
        assert "file/data" in said and "the folder that `data` names" in said


def test_a_second_worker_on_the_embedded_log_is_told_who_has_it(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    lock = GroupLock(place / "data" / "log", "orderflow")
    (place / "data" / "stats.json").write_text('{"of": "the worker that runs"}')
    held = subprocess.Popen([sys.executable, "-c", HOLD, place / "data/log/orderflow.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert held.stdout is not None and held.stdout.readline() == b"held\n"
        said = failing(say, "--config", configured(place, http={"worker_port": 0}), "worker")
        assert f"another worker (process {held.pid})" in said and "use Kafka for more, or stop the other one" in said
        assert (place / "data" / "stats.json").read_text() == '{"of": "the worker that runs"}'
        assert "stop the worker first" in failing(say, "--config", configured(place), "recover")
    finally:
        held.communicate()
    lock.take()
    lock.release()


@pytest.fixture
def store_runs(place: Path, laid_out: Path) -> Iterator[None]:
    shutil.copytree(laid_out, place / "data")
    server = EmbeddedValkey(place / "data" / "store")
    asyncio.run(server.start())
    yield
    asyncio.run(server.stop())


@pytest.mark.usefixtures("store_runs")
@pytest.mark.parametrize(("role", "field"), [("worker", "worker_port"), ("gateway", "port")])
def test_a_port_that_is_taken_is_named_with_its_field(say: Say, place: Path, role: str, field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configured(place, http={field: port})
        assert f"127.0.0.1:{port} is taken: stop what listens there, or change http.{field}" in failing(say, "--config", config, role)


@pytest.mark.usefixtures("store_runs")
def test_one_more_worker_of_a_machine_listens_where_it_is_told(say: Say, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failing(say, "--config", configured(place, http={"worker_port": 0}), "worker", "--port", str(port))
        assert f"127.0.0.1:{port} is taken" in said


@pytest.mark.usefixtures("store_runs")
@pytest.mark.parametrize("role", ["worker", "gateway"])
def test_an_address_for_everybody_needs_a_token(say: Say, place: Path, role: str) -> None:
    config = configured(place, http={"host": "0.0.0.0", "port": 0, "worker_port": 0})
    assert "configuration: http.host: listening on 0.0.0.0 needs a token" in failing(say, "--config", config, role, code=2)


@pytest.mark.usefixtures("store_runs")
def test_a_worker_that_others_could_reach_does_not_start(say: Say, place: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:
        said = failing(say, "--config", configured(place, http={"worker_port": 0}), "worker")
        assert f"listening beyond this machine: 0.0.0.0 port {open_to_all.getsockname()[1]}" in said


def test_a_kafka_that_does_not_answer_is_said_with_what_to_do(say: Say, place: Path) -> None:
    said = failing(say, "--config", configured(place, log="kafka://127.0.0.1:1"), "init")
    assert "no broker answers" in said and "start it, or correct `log`" in said


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ({"log": "kafka://10.0.0.1:9092"}, "log"),
        ({"log": "kafka://127.0.0.1:9092,10.0.0.1:9092"}, "log"),
        ({"store": "redis://10.0.0.1:6379"}, "store"),
        ({"store": "redis://127.example.org:6379"}, "store"),
    ],
)
def test_plain_text_to_another_machine_is_refused(say: Say, place: Path, where: dict[str, str], field: str) -> None:
    said = failing(say, "--config", configured(place, **where), "init", code=2)
    assert said.startswith(f"configuration: {field}: ") and "insecure: true" in said


def test_a_log_file_that_is_no_log_is_said(say: Say, place: Path) -> None:
    (place / "data" / "log").mkdir(parents=True)
    (place / "data" / "log" / "log.sqlite").write_bytes(b"not a database at all" * 100)
    said = failing(say, "--config", configured(place), "init")
    assert f"{place}/data/log cannot be opened: file is not a database" in said and "correct `log`" in said


def test_parked_records_that_are_not_there_are_said(say: Say, place: Path, laid_out: Path) -> None:
    shutil.copytree(laid_out, place / "data")
    config = configured(place)
    assert "`run.py parked list` shows them" in failing(say, "--config", config, "parked", "show", "nonsense")
    assert "is not parked (any more)" in failing(say, "--config", config, "parked", "show", "schema/facts/0/1")


def test_no_secret_is_an_argument_of_a_process(place: Path) -> None:
    """`serve` and the demo hand configuration files and the environment on, never values."""
    source = (ROOT / "wire.py").read_text()
    started = re.search(r"async def role\(.*?\n\n\n", source, re.DOTALL)
    assert started is not None and "resolve(" not in started[0] and "env=dict(environment)" in started[0]
