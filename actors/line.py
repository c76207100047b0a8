"""The short way to a scorer on this machine: rows go to its process through a socket of our own, and scores come back.

A call through Ray passes four threads, and those on our side wait for the interpreter whenever lanes work: 8 ms at 5,000 facts/s, of
which the model takes half of one. So Ray starts the scorer, watches it and starts it again, and rows go past it. The socket is a
file in the cluster's private folder: who may not read our data folder cannot reach it.

A frame is its length in 4 bytes, the greatest first, then that many bytes. A line carries one call at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

SIZE = 4
FRAME_MAX = 64 << 20
GRACE_S = 0.01  # after a deadline: an answer that came while this loop was busy is read first


# --- at the scorer
def listen(path: str, answer: Callable[[bytes], bytes]) -> None:
    """Answers frames at `path` from now on, each caller on a thread of its own. A frame that `answer` raises for ends that caller's line.

    Raises OSError when the path cannot be listened at.
    """
    Path(path).unlink(missing_ok=True)  # left by one that was killed
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(path)
        server.listen()
    except OSError:
        server.close()
        raise
    threading.Thread(target=_accept, args=(server, answer), name="line", daemon=True).start()


def _accept(server: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    while True:
        caller, _ = server.accept()
        threading.Thread(target=_serve, args=(caller, answer), name="line", daemon=True).start()


def _serve(caller: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    with caller, contextlib.suppress(OSError, EOFError, ValueError):
        while True:
            asked = _read(caller, int.from_bytes(_read(caller, SIZE)))
            said = answer(asked)
            caller.sendall(len(said).to_bytes(SIZE) + said)


def _read(caller: socket.socket, size: int) -> bytes:
    """Raises EOFError when the caller has gone, ValueError for a frame that is none of ours."""
    if size > FRAME_MAX:
        raise ValueError(f"a frame of {size} bytes")
    found = bytearray()
    while len(found) < size:
        part = caller.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


# --- at the worker
class Line(asyncio.Protocol):
    """Our end. Used on one event loop; once lost it stays so."""

    def __init__(self) -> None:
        self.lost = False
        self.died: Callable[[], None] = lambda: None  # called when the other end goes, not when `close` is
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._read = bytearray()

    @classmethod
    async def to(cls, path: str) -> Line:
        """Raises OSError when nobody listens there."""
        _, line = await asyncio.get_running_loop().create_unix_connection(cls, path)
        return line

    @property
    def busy(self) -> bool:
        return self._answer is not None

    async def ask(self, frame: bytes, deadline_s: float) -> bytes:
        """The answer. Raises ConnectionError when the other end goes, TimeoutError at the deadline: then the line is lost, so that a
        late answer is nobody's."""
        assert not self.busy, "one call at a time"
        if self.lost or self._transport is None:
            raise ConnectionError("gone")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._answer = answer
        self._transport.writelines((len(frame).to_bytes(SIZE), frame))
        timer = loop.call_later(deadline_s, lambda: loop.call_later(GRACE_S, self._expire, answer))
        try:
            found: bytes = await answer
            return found
        finally:
            timer.cancel()
            self._answer = None
            if answer.cancelled():
                self.close()  # whoever asked has gone: what comes is nobody's

    def close(self) -> None:
        self._end(ConnectionError("closed"))

    def _expire(self, answer: asyncio.Future[bytes]) -> None:
        if not answer.done():
            self._end(TimeoutError("deadline"))

    def _end(self, error: OSError) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        read = self._read
        read += data
        if len(read) >= SIZE and len(read) >= SIZE + int.from_bytes(read[:SIZE]):
            found = bytes(memoryview(read)[SIZE:])
            read.clear()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        by_them = not self.lost
        self._end(ConnectionError("died"))
        if by_them:
            self.died()
