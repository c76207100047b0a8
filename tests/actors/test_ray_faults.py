"""What breaks a whole cluster, each in a process of its own: signals, `kill -9` of the starter, of Ray's own processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.ray_local import process_tree

ROOT = Path(__file__).parents[2]


class Role:
    """A running ray_role.py."""

    def __init__(self, folder: Path, weights: Path) -> None:
        command = [sys.executable, str(ROOT / "tests" / "actors" / "ray_role.py"), "serve", str(folder), str(weights)]
        # its own environment: a cluster of this test process must not be mistaken for it
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
        self.errors = (folder / f"errors-{id(self)}.txt").open("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment)

    def hear(self, **wanted: Any) -> dict[str, Any]:
        """The next line that says so; the test's own time-out ends a wait in vain."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if wanted.items() <= said.items():
                return dict(said)
        pytest.fail(f"ended with {self.process.wait()} before saying {wanted}: {self.stderr()[-2000:]}")

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        tree = process_tree(self.process.pid) if self.process.poll() is None else []
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture
def start(tmp_path: Path, weights: Path) -> Iterator[Any]:
    roles: list[Role] = []

    def one() -> Role:
        roles.append(Role(tmp_path, weights))
        return roles[-1]

    yield one
    for role in roles:
        role.end()
    with contextlib.suppress(OSError):  # the last one may have been killed too, and nobody comes after it
        shutil.rmtree(json.loads((tmp_path / "ray" / "address").read_bytes())["scratch"], ignore_errors=True)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                while not gone(pid):
                    select.select([descriptor], [], [], 1.0)
            finally:
                os.close(descriptor)


@pytest.mark.timeout(180)
def test_a_lost_cluster_leaves_the_rules_answering_then_comes_back_and_sigterm_still_exits_cleanly(start: Any) -> None:
    role = start()
    ready = role.hear(ready=True, started=True)
    role.hear(fallback=False)
    for pid in ready["processes"]:
        os.kill(pid, signal.SIGKILL)
    role.hear(fallback=True)
    back = role.hear(fallback=False)
    assert back["generation"] == 2
    tree = process_tree(role.process.pid)
    role.process.send_signal(signal.SIGTERM)
    assert role.hear(stopped=True)["torch"] is False
    assert role.process.wait() == 0
    assert "Traceback" not in role.stderr()
    wait_until_gone(tree)


@pytest.mark.timeout(180)
def test_sigterm_after_ray_started_ends_cleanly_and_leaves_nothing_behind(start: Any) -> None:
    role = start()
    scratch = Path(role.hear(ready=True)["scratch"])
    tree = process_tree(role.process.pid)
    assert len(tree) >= 6
    role.process.send_signal(signal.SIGTERM)
    assert role.process.wait() == 0
    wait_until_gone(tree)
    assert not scratch.exists()
    assert role.stderr() == ""


@pytest.mark.timeout(180)
def test_when_the_starter_is_killed_its_cluster_ends_and_the_other_role_starts_one(start: Any) -> None:
    starter = start()
    first = starter.hear(ready=True, started=True)
    other = start()
    joined = other.hear(ready=True, started=False)
    assert joined["processes"] == first["processes"]
    other.hear(fallback=False)
    tree = process_tree(starter.process.pid)
    starter.process.kill()
    other.hear(fallback=True)
    assert other.hear(fallback=False)["generation"] == 2
    wait_until_gone(first["processes"])
    assert not Path(first["scratch"]).exists(), "whoever comes next clears up"
    other.process.send_signal(signal.SIGTERM)
    assert other.process.wait() == 0
    wait_until_gone([pid for pid in tree if pid != starter.process.pid])
