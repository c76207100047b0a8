"""Thin Ray shells round the plain classes, and what stands in for them when they do not answer.

`ScorerPool` and `LocalScorer` answer `score` within a deadline, by the rules if need be, and never raise for a missing model.
`SenderHandle` answers `send` with one outcome per claim, whatever became of the actor. Rows, scores, claims and outcomes
travel as bytes of our own encoding, never pickled. Nothing here imports torch or ray before it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from actors.line import Line, listen
from actors.ray_local import LocalRay
from actors.sender import Sender
from model import rules
from model.score import CHUNK, Rows, Scores, check_rows, joined, unpack
from orders.effect import Claim, Outcome

log = logging.getLogger("orderflow.handles")

DEADLINE_S = 0.5  # per call; then the rules answer
PROBE_S = 0.5  # how often an actor that did not answer is asked how it is
LOAD_S = 60.0  # an actor's start: a process, torch, the weights
REBIRTH_S = 10.0  # between attempts to start an actor whose constructor failed: each is a process
HELLO_S = 2.0  # for an answer to "how are you"; asked again after it
MOST_PENDING = 8  # calls per scorer, those that timed out included


# --- any actor
class NotMade(Exception):
    """The call never left this process."""


class Lost(Exception):
    """The call left, and no answer came: it may or may not have been executed."""

    def __init__(self, kind: str, why: str = "") -> None:
        super().__init__(kind)
        self.for_good = kind == "ActorDiedError"  # Ray will not start this one again
        self.why = why


def end_with_parent() -> None:
    """The kernel ends this actor's process with its raylet: an orphan would go on holding 250 MB that nobody can reach."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Remote:
    """One named actor of the cluster, as this process knows it. Used on one event loop.

    The actor's class must have `hello() -> "<pid> <anything>"`. It is `usable` from its hello until its process ends, its
    cluster is lost or the owner says so (`doubt`). The actor belongs to the cluster: other roles adopt it by its name.
    """

    def __init__(
        self, ray: LocalRay, name: str, shell: type, arguments: tuple[Any, ...], *, pending: int, concurrency: int | None = None
    ) -> None:
        self.ray = ray
        self.name = name
        self.calls: set[asyncio.Future[Any]] = set()  # that have not ended, those nobody waits for any more included
        self.said = ""  # in its hello, after the pid
        self.died: Callable[[], None] = lambda: None
        self._shell, self._arguments = shell, arguments
        self._options: dict[str, Any] = {
            "name": name,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_task_retries": 0,  # a retry would execute it twice
            "max_pending_calls": pending + 1,  # one more, so that asking how it is does not need the room of a call
            "num_cpus": 0,
        }
        if concurrency is not None:
            self._options["max_concurrency"] = concurrency
        self._handle: Any = None
        self._generation = -1  # of the cluster the handle belongs to
        self._well = False
        self._reborn_at = 0.0  # not to be started before
        self._watch = -1  # a file that becomes readable when the actor's process ends

    @property
    def usable(self) -> bool:
        return self._well and self.ray.ready and self._generation == self.ray.generation

    def doubt(self) -> None:
        """Not to be used until it has said hello again."""
        self._well = False

    async def revive(self, patience_s: float = HELLO_S) -> bool:
        """Adopts or starts it if need be and waits for its hello. Never raises; True when it is usable."""
        generation = self.ray.generation
        if not self.ray.ready or asyncio.get_running_loop().time() < self._reborn_at:
            return False
        try:
            if self._generation != generation:
                # off the loop: it asks the cluster, and must not hold up the lanes
                self._handle = await asyncio.to_thread(_adopt, self._shell, self._options, self._arguments)
                self._generation, self.calls = generation, set()
            pid, _, self.said = (await self.ask("hello", deadline_s=patience_s)).partition(" ")
        except Exception as error:  # noqa: BLE001 - Lost, NotMade, or whatever Ray raises while its cluster goes
            log.debug("no hello", extra={"event": "actor_silent", "actor": self.name, "error": type(error).__name__})
            if isinstance(error, Lost) and error.for_good:
                self._generation = -1
                self._reborn_at = asyncio.get_running_loop().time() + REBIRTH_S
                log.error("actor cannot start", extra={"event": "actor_refused", "actor": self.name, "why": error.why})
            return False
        self._well = self._keep_watch(int(pid))
        return self.usable

    async def ask(self, method: str, *arguments: Any, deadline_s: float) -> Any:
        """The actor's answer. Raises NotMade or Lost. Giving up does not stop a call: a late one counts until it ends."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        calls = self.calls
        try:
            reply = getattr(self._handle, method).remote(*arguments).future()
        except Exception as error:  # noqa: BLE001 - PendingCallsLimitExceeded, a cluster that just went: Ray raises what it likes
            raise NotMade(type(error).__name__) from None
        calls.add(answer)
        reply.add_done_callback(lambda done: _on_loop(loop, _land, calls, answer, done))
        timer = loop.call_later(deadline_s, _expire, answer, reply)
        try:
            found = await answer
        finally:
            timer.cancel()
        if isinstance(found, Lost):
            raise found
        return found

    def close(self) -> None:
        """Forgets the actor."""
        self._well = False
        if self._watch >= 0:
            asyncio.get_running_loop().remove_reader(self._watch)
            os.close(self._watch)
            self._watch = -1

    def _keep_watch(self, pid: int) -> bool:
        """Has us told when the actor's process ends: Ray takes more than a second to say so. False: it is gone already."""
        self.close()
        if self.ray.foreign:
            return True  # its processes may be on another machine
        try:
            self._watch = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        asyncio.get_running_loop().add_reader(self._watch, self._gone)
        return True

    def _gone(self) -> None:
        self.close()
        log.warning("actor died", extra={"event": "actor_died", "actor": self.name})
        for answer in self.calls:
            _settle(answer, Lost("died"))
        self.died()


def _adopt(shell: type, options: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    import ray

    return ray.remote(shell).options(**options).remote(*arguments)


def _on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    """From Ray's thread to ours; a loop that has closed meanwhile wants to know nothing."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def _land(calls: set[asyncio.Future[Any]], answer: asyncio.Future[Any], done: Future[Any]) -> None:
    calls.discard(answer)
    error = done.exception()
    if error is None:
        _settle(answer, done.result())
    else:
        lines = str(error).strip().splitlines() or [""]  # Ray puts the constructor's own words last
        _settle(answer, Lost(type(error).__name__, lines[-1][:200]))


def _expire(answer: asyncio.Future[Any], reply: Future[Any]) -> None:
    if not reply.done():  # else it came in time and this loop was busy: it is on its way
        _settle(answer, Lost("deadline"))


def _settle(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)


# --- scorers
class ScorerShell:
    """Runs inside the actor's process."""

    def __init__(self, weights: str) -> None:
        end_with_parent()
        from actors.scorer import Scorer  # torch comes in here, and only here

        self.scorer = Scorer(weights)
        self._turn = threading.Lock()  # Ray's thread and those of the lines: one calls it at a time
        self._listens = ""

    def hello(self) -> str:
        """Waits for the call under way: one that hangs is no reason to be called well."""
        with self._turn:
            return f"{os.getpid()} {self.scorer.version}"

    def listen(self, path: str) -> None:
        """Takes rows by `actors.line` too. Raises OSError."""
        if self._listens != path:
            listen(path, self.score)
            self._listens = path

    def score(self, rows: bytes) -> bytes:
        with self._turn:
            return self.scorer.score_bytes(rows)

    def reload(self) -> str:
        with self._turn:
            return self.scorer.reload()


class ScorerPool:
    """Scorer actors, shared by all roles of one cluster. All methods are called on one event loop."""

    def __init__(
        self,
        ray: LocalRay,
        weights: Path,
        *,
        size: int = 1,
        deadline_s: float = DEADLINE_S,
        most_pending: int = MOST_PENDING,
        name: str = "scorer",
    ) -> None:
        self.ray = ray
        self.deadline_s = deadline_s
        self.most_pending = most_pending
        folder = str(weights.resolve())
        self.actors = [Remote(ray, f"{name}-{number}", ScorerShell, (folder,), pending=most_pending) for number in range(size)]
        self.fallbacks = 0  # questions answered by the rules
        self._waiting: deque[tuple[Rows, asyncio.Future[Scores | None]]] = deque()
        self._lines: dict[Remote, Line] = {}  # to those on this machine; rows for the others go through Ray
        self._asking: dict[Remote, asyncio.Task[None]] = {}  # the one call under way with each
        self._prober: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()  # one was lost
        self._answering = asyncio.Event()  # one answered at least once

    async def start(self, wait_s: float = LOAD_S) -> bool:
        """Starts or adopts the actors. True when one answers; False when none did in time: the rules answer until one does."""
        for actor in self.actors:
            actor.died = self._wake.set
        self._prober = asyncio.create_task(self._probe())
        if self.ray.ready:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answering.wait(), wait_s)
        return self._answering.is_set()

    async def close(self) -> None:
        """Stops looking after the actors. They belong to the cluster and end with it."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
            self._prober = None
        for actor in self.actors:
            self._cut(actor)
            actor.close()

    async def score(self, rows: Rows) -> Scores:
        """One answer per row, in order, all by one version. Raises ValueError for rows of another shape."""
        check_rows(rows)
        parts = await asyncio.gather(*(self._asked(rows[at : at + CHUNK]) for at in range(0, max(len(rows), 1), CHUNK)))
        answered = [part for part in parts if part is not None]
        if len(answered) < len(parts) or len({part.version for part in answered}) > 1:
            return self._by_rules(rows)
        return joined(answered)

    def _by_rules(self, rows: Rows) -> Scores:
        self.fallbacks += 1
        return unpack(rules.score(rows))

    def _asked(self, rows: Rows) -> asyncio.Future[Scores | None]:
        """None when no actor answers in time, for whatever reason."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Scores | None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._submit)
        self._waiting.append((rows, answer))
        return answer

    def _submit(self) -> None:
        """What waits leaves in one call per actor that has none under way: a call costs a millisecond however few rows it carries."""
        while self._waiting:
            usable = [actor for actor in self.actors if actor.usable and len(actor.calls) < self.most_pending]
            if not usable:
                for _, answer in self._waiting:
                    _settle(answer, None)
                self._waiting.clear()
                return
            actor = next((actor for actor in usable if actor not in self._asking), None)
            if actor is None:
                return
            together: list[tuple[Rows, asyncio.Future[Scores | None]]] = []
            count = 0
            while self._waiting and (not together or count + len(self._waiting[0][0]) <= CHUNK):
                together.append(self._waiting.popleft())
                count += len(together[-1][0])
            self._asking[actor] = asyncio.create_task(self._call(actor, together))

    async def _call(self, actor: Remote, together: list[tuple[Rows, asyncio.Future[Scores | None]]]) -> None:
        scores: Scores | None = None
        try:
            rows = together[0][0] if len(together) == 1 else np.concatenate([rows for rows, _ in together])
            line = self._lines.get(actor)
            if line is None:
                answer = await actor.ask("score", rows.tobytes(), deadline_s=self.deadline_s)
            else:
                answer = await line.ask(rows.tobytes(), self.deadline_s)
            scores = unpack(answer)
        except (NotMade, Lost, OSError) as error:
            log.warning("scorer does not answer", extra={"event": "scorer_lost", "actor": actor.name, "why": str(error)})
            self._doubt(actor)
        finally:
            del self._asking[actor]
            at = 0
            for rows, answer in together:
                _settle(answer, None if scores is None else scores.part(at, at + len(rows)))
                at += len(rows)
            self._submit()

    def _doubt(self, actor: Remote) -> None:
        self._cut(actor)
        actor.doubt()
        self._wake.set()

    def _cut(self, actor: Remote) -> None:
        line = self._lines.pop(actor, None)
        if line is not None:
            line.close()

    async def _connect(self, actor: Remote) -> None:
        """The short way to one that has just said hello. Without it rows go through Ray, more slowly."""
        self._cut(actor)
        if not self.ray.scratch:
            return  # another machine's, or it may be
        path = f"{self.ray.scratch}/{actor.name}"
        try:
            await actor.ask("listen", path, deadline_s=HELLO_S)
            line = await Line.to(path)
        except (NotMade, Lost, OSError) as error:
            log.warning("no line to scorer", extra={"event": "scorer_line", "actor": actor.name, "why": str(error)})
            return
        line.died = lambda: self._doubt(actor)
        self._lines[actor] = line

    async def _probe(self) -> None:
        """Brings back actors that do not answer, and starts those that no cluster has."""
        while True:
            for actor in self.actors:
                if not actor.usable and await actor.revive():
                    await self._connect(actor)
                    log.info("scorer answers", extra={"event": "scorer_ready", "actor": actor.name, "version": actor.said})
                    self._answering.set()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), PROBE_S)
                await asyncio.sleep(PROBE_S / 5)  # lost just now: give it a moment, so that a dead one is not asked in a circle

    async def reload(self) -> list[str]:
        """Makes every usable actor take what the alias names now; their versions. One that refuses keeps the old one."""
        for actor in self.actors:
            if actor.usable:
                with contextlib.suppress(NotMade, Lost):
                    actor.said = await actor.ask("reload", deadline_s=LOAD_S)
        return [actor.said for actor in self.actors]

    def health(self) -> dict[str, Any]:
        """For /readyz and the page: without a usable actor scoring is degraded, not down."""
        usable = [actor for actor in self.actors if actor.usable]
        return {
            "scorer": "model" if usable else "rules",
            "ray": "ready" if self.ray.ready else self.ray.why,
            "versions": sorted({actor.said for actor in usable}),
            "actors": len(self.actors),
            "healthy": len(usable),
            "in_flight": sum(len(actor.calls) for actor in self.actors) + sum(line.busy for line in self._lines.values()),
            "fallbacks": self.fallbacks,
        }


class LocalScorer:
    """The scorer in this process, on a thread of its own: for machines without Ray. It costs this process torch's 200 MB."""

    def __init__(self, weights: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self.weights = weights
        self.deadline_s = deadline_s
        self.fallbacks = 0
        self.why = "not started"
        self._scorer: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._in_flight = 0

    async def start(self) -> bool:
        """False when the weights cannot be used: the rules answer, and `health` says why."""
        try:
            self._scorer = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except Exception as error:  # noqa: BLE001 - ArtefactRefused, or torch itself
            self.why = f"{type(error).__name__}: {error}"
            log.error("no model", extra={"event": "model_refused", "error": self.why})
        return self._scorer is not None

    def _load(self) -> Any:
        from actors.scorer import Scorer

        return Scorer(self.weights)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def score(self, rows: Rows) -> Scores:
        if self._scorer is None or self._in_flight >= MOST_PENDING:
            return self._by_rules(rows)
        self._in_flight += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._scorer.score, rows)
        future.add_done_callback(self._landed)
        await asyncio.wait((future,), timeout=self.deadline_s)
        if not future.done() or future.cancelled() or future.exception() is not None:
            return self._by_rules(rows)
        return future.result()  # type: ignore[no-any-return]  # the scorer is loaded late, and untyped for it

    def _landed(self, future: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        if not future.cancelled():
            future.exception()

    def _by_rules(self, rows: Rows) -> Scores:
        self.fallbacks += 1
        return unpack(rules.score(rows))

    def health(self) -> dict[str, Any]:
        loaded = self._scorer is not None
        return {
            "scorer": "model" if loaded else "rules",
            "ray": "absent: degraded, the model runs inside the worker",
            "versions": [self._scorer.version] if loaded else [],
            "fallbacks": self.fallbacks,
        }


# --- senders
_encode = msgspec.msgpack.Encoder().encode
_decode_claims = msgspec.msgpack.Decoder(list[Claim]).decode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode

CALL_S = 22.0  # beyond the last claim's deadline: a call that started just before it, and the way there and back
SENDER_PENDING = 256


class SenderShell:
    """Runs inside the actor's process, on its event loop."""

    def __init__(self, channel: str, settings: dict[str, Any]) -> None:
        end_with_parent()
        self.sender = Sender(channel, settings)
        self.started: asyncio.Task[None] | None = None

    async def hello(self) -> str:
        if self.started is None:
            self.started = asyncio.create_task(self.sender.start())
        await asyncio.shield(self.started)
        return str(os.getpid())

    async def send(self, claims: bytes, now_ms: int) -> bytes:
        return _encode(await self.sender.send(_decode_claims(claims), now_ms))

    async def circuit(self) -> str:
        return await self.sender.circuit()


class SenderHandle:
    """A channel's one sender in the cluster, with the interface of `actors.sender.Sender`.

    While there is no cluster it sends from this process: degraded, and one rate limit per process instead of one. The
    constructor raises SettingsError like `Sender`; `send` never raises.
    """

    def __init__(self, ray: LocalRay, channel: str, settings: dict[str, Any], *, call_s: float = CALL_S) -> None:
        self.ray = ray
        self.channel = channel
        self.call_s = call_s
        self._here = Sender(channel, settings)
        self._here_started = False
        self._actor = Remote(
            ray, f"sender-{channel}", SenderShell, (channel, settings), pending=SENDER_PENDING, concurrency=SENDER_PENDING + 1
        )
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Starts or adopts the actor, so that the first claim does not wait for it. It is tried again with each `send`."""
        await self._reach(LOAD_S)

    async def send(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        """One outcome per claim, in order. What an actor had in its hands when it died, or never answers for, is unknown; what
        did not reach it is retryable."""
        if not claims:
            return []
        loop = asyncio.get_running_loop()
        began = loop.time()

        def now() -> int:
            return now_ms + int((loop.time() - began) * 1000)

        if not await self._reach(HELLO_S):
            if not self.ray.ready:
                return await self._send_here(claims, now())
            return _all(claims, "retryable", "sender_gone", now(), after=now() + 1000)
        patience_s = max(0, max(claim.deadline for claim in claims) - now()) / 1000 + self.call_s
        try:
            return _decode_outcomes(await self._actor.ask("send", _encode(claims), now(), deadline_s=patience_s))
        except NotMade:
            return _all(claims, "retryable", "sender_gone", now(), after=now() + 1000)
        except Lost as error:
            log.warning("sender lost", extra={"event": "sender_lost", "channel": self.channel, "why": str(error)})
            self._actor.doubt()
            return _all(claims, "unknown", "sender_lost", now())

    async def circuit(self) -> str:
        """As `Sender.circuit`; "" while its actor does not answer. Never raises."""
        if not self._actor.usable:
            return "" if self.ray.ready else await self._here.circuit()
        try:
            return str(await self._actor.ask("circuit", deadline_s=HELLO_S))
        except (NotMade, Lost):
            return ""

    async def close(self) -> None:
        """The actor belongs to the cluster: it goes on for other roles and ends with it."""
        self._actor.close()
        if self._here_started:
            await self._here.close()

    async def _reach(self, patience_s: float) -> bool:
        if self._actor.usable:
            return True
        async with self._turn:  # one asks, the others find it answered
            if not self._actor.usable:
                await self._actor.revive(patience_s)
            return self._actor.usable

    async def _send_here(self, claims: list[Claim], now_ms: int) -> list[Outcome]:
        try:
            async with self._turn:
                if not self._here_started:
                    await self._here.start()
                    self._here_started = True
        except Exception as error:  # noqa: BLE001 - a connector that cannot start has sent nothing
            log.error("channel cannot start", extra={"event": "sender_start", "channel": self.channel, "error": type(error).__name__})
            return _all(claims, "retryable", "sender_gone", now_ms, after=now_ms + 1000)
        return await self._here.send(claims, now_ms)


def _all(claims: Sequence[Claim], kind: str, reason: str, at: int, after: int = 0) -> list[Outcome]:
    return [Outcome(key=c.key, effect=c.effect, attempt=c.attempt, kind=kind, at=at, after=after, reason=reason) for c in claims]
