"""`/healthz`, `/readyz` and `/metrics` of one process, on a port of their own, answered from a thread of their own.

The thread is the point: when the event loop is stuck, something has to be left that can say so. Ten times a second the
loop leaves a beat and what it knows of its readiness; `/healthz` answers 503 when the last beat is older than `stuck_s`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from metrics import CONTENT_TYPE, Metrics
from web.door import LOOPBACK, OPEN
from web.identity import People

BEAT_S = 0.1
READ_S = 5.0  # a client that drips its request is let go


class Health:
    """What a process knows of its own state. Its answers may be asked for from any thread."""

    def __init__(
        self,
        metrics: Metrics,
        not_ready: Callable[[], Sequence[str]] = lambda: (),
        degraded: Callable[[], Sequence[str]] = lambda: (),
        *,
        stuck_s: float = 5.0,
    ) -> None:
        """`not_ready` and `degraded` give reasons in words, none meaning all is well. They are called on the loop and only look."""
        self.metrics = metrics
        self._not_ready, self._degraded, self._stuck_s = not_ready, degraded, stuck_s
        self._draining = False
        self._why: tuple[str, ...] = ("starting",)
        self._missing: tuple[str, ...] = ()
        self._last_beat: float | None = None
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Called on the loop that is to be watched."""
        self._look()
        self._beating = asyncio.get_running_loop().create_task(self._beat(), name="health beat")

    def drain(self) -> None:
        """From now on not ready: new work should go elsewhere. Called at once on SIGTERM."""
        self._draining = True
        self.metrics.ready.set(0)

    async def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    def alive(self) -> tuple[int, dict[str, Any]]:
        silent_s = time.monotonic() - self._last_beat if self._last_beat is not None else 0.0
        stuck = silent_s > self._stuck_s
        return (503 if stuck else 200), {"alive": not stuck, "loop_silent_seconds": round(silent_s, 3)}

    def readiness(self) -> tuple[int, dict[str, Any]]:
        why = ["draining"] if self._draining else list(self._why)
        status, _ = self.alive()
        if status != 200:
            why.append("the event loop is stuck")
        self.metrics.ready.set(0 if why else 1)
        return (503 if why else 200), {"ready": not why, "why": why, "degraded": list(self._missing)}

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """(status, content type, body) for one of the three paths; 404 for any other."""
        if path == "/metrics":
            self.readiness()  # the gauge says what /readyz would say now
            return 200, CONTENT_TYPE, self.metrics.expose()
        if path == "/healthz":
            status, said = self.alive()
        elif path == "/readyz":
            status, said = self.readiness()
        else:
            status, said = 404, {"code": "not_found", "message": "only /healthz, /readyz and /metrics are here"}
        return status, "application/json", json.dumps(said).encode()

    async def _beat(self) -> None:
        while True:
            planned = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._look()
            self.metrics.loop_lag.set(max(0.0, time.monotonic() - planned))

    def _look(self) -> None:
        self._why, self._missing = tuple(self._not_ready()), tuple(self._degraded())
        self.metrics.degradation.set(len(self._missing))
        self._last_beat = time.monotonic()


class HealthServer:
    """Serves a Health over HTTP from its own threads."""

    def __init__(self, health: Health, port: int, host: str = "127.0.0.1", *, people: People | None = None) -> None:
        """Where somebody is configured `/metrics` asks for a token; probes never do. Raises ValueError for an address that others
        reach where nobody is."""
        self._people = people or People()
        if host not in LOOPBACK and not self._people.guarded:
            raise ValueError(f"listening on {host} needs a token: set one, or listen on 127.0.0.1")
        self._health, self._address = health, (host, port)
        self._server: ThreadingHTTPServer | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """The one it listens on: useful when it was asked for port 0. Only between start and close."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Raises OSError when the port is taken."""
        health, people = self._health, self._people

        class Handler(BaseHTTPRequestHandler):
            timeout = READ_S
            server_version, sys_version = "orderflow", ""

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                status, content_type, body = health.answer(path)
                shown = self.headers.get("authorization", "").encode("latin-1")
                if people.guarded and path not in OPEN and people.machine(shown) is None:
                    status, content_type, body = 401, "application/json", b'{"code": "unauthorized", "message": "a token is needed"}'
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Silent: probes are not news."""

        self._server = ThreadingHTTPServer(self._address, Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """May block for a tenth of a second."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None
