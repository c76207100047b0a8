"""Ray on this machine: one small cluster per data folder, on loopback only, started by the first role that needs it.

`prepare_environment` must have run before anything imports ray: Ray reads the environment while it is imported. All calls
that start, join or leave a cluster are made on one thread of our own: a lost cluster is replaced without holding up the
process, and the kernel ends a cluster when the thread that started it ends (so that a `kill -9` leaves nothing behind),
which must not be a passing one. Signal handlers are as they were after each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import msgspec

log = logging.getLogger("orderflow.ray")

NAMESPACE = "orderflow"
LOOPBACK = "127.0.0.1"
SCRATCH = "orderflow-ray-"
OBJECT_STORE_BYTES = 80 * 2**20  # our calls travel inline: the store is Ray's own minimum
LOOK_S = 1.0  # how often the keeper looks whether the cluster lives
JOIN_S = 20.0  # how long a role waits for another one that is just starting the cluster
PAUSES_S = (2.0, 4.0, 8.0, 16.0, 30.0)  # between attempts to start a lost cluster again

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every server listens on 127.0.0.1, on Linux too
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a call without a cluster is an error, never a second cluster
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",  # no history of calls: nobody reads it
    "RAY_memory_monitor_refresh_ms": "0",  # other programs' memory is no reason to kill our actors
    "RAY_max_direct_call_object_size": str(2**20),  # a chunk of rows travels inside the call, past the object store
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(10**6),  # Ray would end our process 60 s after losing its cluster
    "RAY_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 lets every decision wait whenever both cores are busy: p99 at 5,000 facts/s tripled
    "OMP_NUM_THREADS": "1",
}


class RayUnavailable(Exception):
    """No cluster could be started or joined; the text says why. Scoring goes on by the rules."""


class Exposed(Exception):
    """Something of ours listens where others can reach it."""


def prepare_environment(environ: MutableMapping[str, str], folder: Path) -> None:
    """Sets what Ray reads at import, and makes the token (0600) that its servers ask for. Call before anything imports ray."""
    token = folder / "ray" / "token"
    token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        token.chmod(0o600)
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    environ.update(ENVIRONMENT)
    root = str(Path(__file__).parents[1])  # Ray's workers inherit this, and look nowhere else for our rooms
    if root not in environ.get("PYTHONPATH", "").split(os.pathsep):
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    environ.setdefault("RAY_AUTH_TOKEN_PATH", str(token))  # a foreign cluster has its own
    environ.pop("RAY_ADDRESS", None)  # configuration says where, as an argument


class Address(msgspec.Struct, frozen=True):
    """What the starter writes into the data folder for the others."""

    gcs: str  # host:port
    processes: tuple[int, ...]  # without these there is no cluster
    agents: tuple[tuple[int, int], ...]  # (process, when it started, in ticks): they outlive a killed cluster by a minute
    scratch: str  # Ray's sockets and logs


class LocalRay:
    """This process's way into the folder's cluster, or into the one at `address`.

    A lost cluster is left and started (or joined) again by itself; `generation` grows with each, so that holders of actors
    know theirs are gone. `ready` may be read from any thread.
    """

    def __init__(self, folder: Path, address: str = "", *, cpus: int = 1) -> None:
        self.folder = folder / "ray"
        self.foreign = address
        self.cpus = cpus
        self.ready = False
        self.generation = 0
        self.started = False  # by us: we stop it
        self.why = "not started"
        self._address: Address | None = None
        self._node: Any = None
        self._scratch = ""
        self._joined = False  # or half so
        self._lock: int | None = None
        self._orders: SimpleQueue[tuple[str, Future[None]]] = SimpleQueue()
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Blocks 1 to 3 s. Raises RayUnavailable; then the keeper goes on trying behind the scenes until `stop`."""
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="ray-keeper", daemon=True)
            self._keeper.start()
        self._ask("start")

    def stop(self) -> None:
        """Leaves the cluster, and ends it if we started it. Blocks 1 to 6 s; safe to call twice."""
        if self._keeper is not None:
            self._ask("stop")
            self._keeper.join()
            self._keeper = None

    def _ask(self, what: str) -> None:
        done: Future[None] = Future()
        self._orders.put((what, done))
        done.result()

    @property
    def scratch(self) -> str:
        """The private folder (0700) of a cluster on this machine; "" without one, and for one elsewhere."""
        address = self._address
        return address.scratch if address is not None else ""

    # --- on the keeper's thread
    def _keep(self) -> None:
        failures = 0
        wanted = False
        pause = LOOK_S
        while True:
            try:
                what, done = self._orders.get(timeout=pause)
            except Empty:
                if not wanted:
                    continue
                if self.ready and not self._alive():
                    log.error("ray is gone", extra={"event": "ray_gone"})
                    self._leave()
                if not self.ready:
                    failures = 0 if self._try() is None else failures + 1
                pause = LOOK_S if self.ready else PAUSES_S[min(failures, len(PAUSES_S) - 1)]
                continue
            if what == "stop":
                self._leave()
                done.set_result(None)
                return
            wanted = True
            problem = None if self.ready else self._try()
            if problem is None:
                done.set_result(None)
            else:
                pause = PAUSES_S[0]
                done.set_exception(problem)

    def _try(self) -> RayUnavailable | None:
        try:
            self._enter()
        except Exception as error:  # noqa: BLE001 - whatever Ray throws, the answer is the same: without it
            self._leave()
            self.why = type(error).__name__ if not isinstance(error, RayUnavailable) else str(error)
            return error if isinstance(error, RayUnavailable) else RayUnavailable(f"{type(error).__name__}: {error}")
        self.ready, self.why = True, ""
        self.generation += 1
        return None

    def _enter(self) -> None:
        if self.foreign:
            if not _answers(self.foreign):
                raise RayUnavailable(f"nothing answers at {self.foreign}")
            self._join(self.foreign)
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        until = time.monotonic() + JOIN_S
        while not self._take_lock():
            address = self._read_address()
            if address is not None and all(map(_runs, address.processes)) and _answers(address.gcs):
                self._join(address.gcs)
                self._address = address
                return
            if time.monotonic() > until:
                raise RayUnavailable("another process holds the cluster's lock, but its cluster does not answer")
            time.sleep(0.05)
        self._start_cluster()

    def _start_cluster(self) -> None:
        where = self.folder / "address"
        left_behind = self._read_address()
        where.unlink(missing_ok=True)
        if left_behind is not None:
            _clear(left_behind)
        # Not in the data folder: socket paths have 107 bytes, Ray takes 60 of them. It makes its own folder writable for all,
        # so it gets one inside a private one.
        self._scratch = tempfile.mkdtemp(prefix=SCRATCH)
        self._node = _start_node(f"{self._scratch}/r", self.cpus)
        self.started = True
        self._join(self._node.gcs_address)
        processes = tuple(info.process.pid for infos in self._node.all_processes.values() for info in infos)
        agents = tuple((pid, _started(pid)) for process in processes for pid in process_tree(process)[1:])
        self._address = Address(self._node.gcs_address, processes, agents, self._scratch)
        fresh = where.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self._address))
        fresh.replace(where)

    def _join(self, gcs: str) -> None:
        import ray

        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it warns that it leaves our signal handlers alone
        ray._private.worker.print_to_stdstream = _log_it
        self._joined = True
        with _sigterm_kept():
            ray.init(address=gcs, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)

    def _leave(self) -> None:
        self.ready, self.why = False, "not connected"
        if self._joined:
            self._joined = False
            import ray

            try:
                with _sigterm_kept():
                    ray.shutdown()
            except Exception:
                log.warning("leaving ray failed", exc_info=True, extra={"event": "ray_leave_failed"})
        if self._node is not None:
            self._node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
            self._node = None
            _clear(self._address or Address("", (), (), self._scratch))
        self.started, self._address = False, None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _alive(self) -> bool:
        if self._address is None:
            return _answers(self.foreign)
        return all(map(_runs, self._address.processes))

    def _take_lock(self) -> bool:
        """The lock is held as long as our cluster lives, and falls with our process."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def _read_address(self) -> Address | None:
        try:
            return msgspec.json.decode((self.folder / "address").read_bytes(), type=Address)
        except (OSError, msgspec.DecodeError):
            return None


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's native part sets SIGTERM beneath Python, from any thread: its own handler with every init, the default with every
    shutdown. A process that lost a cluster would die of SIGTERM instead of draining. Python could put its handler back only on
    the main thread."""
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(256)  # struct sigaction has 152 bytes
    libc.sigaction(int(signal.SIGTERM), None, before)
    try:
        yield
    finally:
        libc.sigaction(int(signal.SIGTERM), before, None)


def _log_it(data: dict[str, Any], ignore_prefix: bool) -> None:
    """In place of Ray's own: what its processes report belongs into our log, not on our standard output."""
    log.warning("ray reports", extra={"event": "ray_reports", "lines": data["lines"]})


def _clear(left: Address) -> None:
    """Removes what a cluster that has ended leaves behind."""
    for pid, started in left.agents:
        if _runs(pid) and _started(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if os.path.basename(left.scratch).startswith(SCRATCH):
        shutil.rmtree(left.scratch, ignore_errors=True)


def _start_node(scratch: str, cpus: int) -> Any:
    """The two processes we need and Ray's two agents. `ray.init` would start a dashboard, an autoscaler monitor and a log
    monitor beside them, 160 MB and a second of start that nothing here uses, and has no switch for it."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class QuietNode(Node):
        def start_api_server(self, **_: object) -> None:
            self._webui_url = ""

    parameters = RayParams(
        num_cpus=cpus,
        num_gpus=0,
        resources={},
        node_ip_address=LOOPBACK,
        dashboard_host=LOOPBACK,
        include_dashboard=False,
        include_log_monitor=False,  # type: ignore[arg-type]  # read as a truth value, declared as a string
        no_monitor=True,
        object_store_memory=OBJECT_STORE_BYTES,
        temp_dir=scratch,
    )
    return QuietNode(parameters, head=True, shutdown_at_exit=False, spawn_reaper=True)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=1.0):
            return True
    except (OSError, ValueError):
        return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on. Raises OSError when there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _runs(pid: int) -> bool:
    """Alive and not merely unburied."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def _started(pid: int) -> int:
    try:
        return int(_stat(pid)[19])
    except OSError:
        return 0


# --- who can reach us
class Listening(NamedTuple):
    address: str
    port: int
    pid: int


def process_tree(root: int) -> list[int]:
    """The process and all that descend from it, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def listening_sockets(root: int) -> list[Listening]:
    """Every TCP socket on which the process or a descendant listens."""
    found: list[Listening] = []
    for pid in process_tree(root):
        inodes = _socket_inodes(pid)
        for table in ("tcp", "tcp6"):
            try:
                lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                local, state, inode = (line.split()[at] for at in (1, 3, 9))
                if state == "0A" and inode in inodes:
                    address, _, port = local.partition(":")
                    found.append(Listening(_address(address), int(port, 16), pid))
    return found


def assert_loopback(root: int, allowed: Iterable[int] = ()) -> None:
    """Raises Exposed when the process or a descendant listens anywhere but on loopback, other than on the allowed ports."""
    ports = frozenset(allowed)
    exposed = [s for s in listening_sockets(root) if s.port not in ports and not ipaddress.ip_address(s.address).is_loopback]
    if exposed:
        raise Exposed("listening beyond this machine: " + ", ".join(f"{s.address} port {s.port} (process {s.pid})" for s in exposed))


def _address(hexadecimal: str) -> str:
    """/proc/net writes addresses as little-endian words of four bytes."""
    raw = bytes.fromhex(hexadecimal)
    parsed = ipaddress.ip_address(b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4)))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found
