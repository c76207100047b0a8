"""The store: the states of all lanes, each written only by whoever holds its lane, one commit at a time, all or nothing.

A lane is one partition of one processor. `acquire` gives its holder a token (an epoch and 128 random bits); `commit` writes
only while that token and the sequence it expects are the stored ones and the chunk goes on where the last one ended. So
two holders cannot both write, a chunk cannot count twice, and a store that was put back is noticed (`StoreWentBack`).

All keys of a lane begin with "{orders.0.3}": m (fence and position), s (states), d (what is due), o (outbox), p (parked), b (bodies of
attempts), c (counters), t (names of tags), t:<tag> (keys with that tag by score). Redis or Valkey of 7.2 or later, one
primary, `appendonly yes`, `appendfsync always`, `noeviction`: `start` reads that back and refuses anything else.

Every method may block for as long as the store is away, at most `patience_s`, then raises StoreDown.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]  # not msgspec: the server's cmsgpack knows no msgpack type `bin`, only `raw`
import msgspec
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from connectors.valkey import OLDEST

DUE_HEAD = 1024  # entries that acquire returns; a lane that has used them up asks `due` for more
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError)
_SETTINGS = {  # wanted, and what to do about any other
    "appendonly": ("yes", "start it with --appendonly yes, or nothing survives a restart"),
    "appendfsync": ("always", "start it with --appendfsync always, or a power cut forgets what was acknowledged"),
    "no-appendfsync-on-rewrite": ("no", "set it to no, or nothing is synced while the append-only file is rewritten"),
    "maxmemory-policy": ("noeviction", "set it to noeviction, or orders vanish when memory runs out"),
}
_STORE_ID = "orderflow:store"
_DOCUMENT = "orderflow:document"
_CLAIM = "orderflow:claim:"
_pack = msgpack.Packer(use_bin_type=False, buf_size=1 << 20).pack


class StoreRefused(Exception):
    """This server, or what is in it, cannot be a store; the text says what is wrong and what to do."""


class StoreDown(Exception):
    """The store did not answer. After a commit it is open whether it was made: acquire the lane again and look at the sequence."""


class StoreWentBack(Exception):
    """The store has forgotten commits it had acknowledged: the partition goes to recovery."""


class LaneLost(Exception):
    """Somebody else holds the lane, or it stands elsewhere than its holder thinks: drop the lane and acquire it again."""


class SendsClosed(LaneLost):
    """The commit claimed an attempt while the lane's sends are closed (`run.py recover --open`). Nothing was written."""


class LaneId(NamedTuple):
    """One partition of one processor under one partition layout."""

    processor: str
    layout: int
    partition: int

    def __str__(self) -> str:
        return f"{self.processor}.{self.layout}.{self.partition}"

    @classmethod
    def parse(cls, text: str) -> LaneId:
        """The reverse of str(). Raises ValueError."""
        processor, layout, partition = text.rsplit(".", 2)
        return cls(processor, int(layout), int(partition))

    @property
    def prefix(self) -> str:
        return f"{{{self}}}"


class Commit(msgspec.Struct, kw_only=True):
    """What one turn of a lane writes. Every part may be empty; a commit with a key in two opposite parts is a bug of the caller."""

    first: int = -1  # offset where the chunk begins, must be the stored one; -1: no chunk
    next: int = -1  # offset stored afterwards
    states: dict[str, bytes] = {}
    gone: list[str] = []  # keys whose state is removed
    due: dict[str, int] = {}  # key -> earliest time something is due in it, ms; 0 removes the entry
    outbox: bytes = b""  # what is to be published; kept under the new sequence until trimmed
    trim: int = 0  # outbox entries of sequences <= this have been published
    parked: dict[str, bytes] = {}  # ID -> row; an ID begins with its reason: "malformed/facts/3/1207"
    unparked: list[str] = []
    bodies: dict[str, bytes] = {}  # "effect:number" -> rendered bytes of a claimed attempt
    spent: list[str] = []  # bodies no longer needed
    index: Sequence[tuple[str, tuple[str, ...], tuple[str, ...], int]] = ()  # key, tags lost, tags gained, score
    counts: dict[str, int] = {}  # added to the lane's counters
    mark: str | None = None  # the lane's own word beside its position ("rebuilding"); None leaves it as it is


class Held(msgspec.Struct):
    """A lane as its holder knows it; `commit` keeps it up to date, and only a commit that was made changes it."""

    lane: LaneId
    token: str
    epoch: int
    sequence: int
    offset: int | None  # the next record to read; None: never placed, or emptied
    log: str  # the log that the offset belongs to
    sends: bool  # False: attempts may not be claimed until `recover --open`
    mark: str
    counts: dict[str, int]
    outbox: list[tuple[int, bytes]]  # oldest first: not yet trimmed
    due_head: list[tuple[str, int]]  # as of acquire: key and ms, earliest first, at most DUE_HEAD


class Standing(msgspec.Struct, frozen=True):
    """Where a lane stands, for pages, KPIs and `run.py lag`; read without holding it."""

    lane: LaneId
    epoch: int
    sequence: int
    offset: int | None
    log: str
    sends: bool
    mark: str
    counts: dict[str, int]
    states: int
    due: int
    next_due: int  # ms; 0: nothing
    parked: int
    outbox: int  # commits whose outbox is not trimmed yet


class Store:
    """One client of the store, for all lanes of a process. Made by `from_url`."""

    def __init__(self, client: Redis, patience_s: float) -> None:
        self._client = client
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._patience_s = patience_s
        self.id = ""  # of this store, made once and kept in it; known after start

    @classmethod
    def from_url(cls, url: str, patience_s: float = 15.0, timeout_s: float = 10.0, connections: int = 32) -> Store:
        """`url`: redis://, rediss:// or unix:///path. `timeout_s` is per command; a command without an answer is sent again."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=patience_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_read_size=1 << 18,
            protocol=2,
            retry=Retry(NoBackoff(), 0),  # redis-py's own default sends a write up to 11 times
        )
        return cls(Redis.from_pool(pool), patience_s)

    async def start(self) -> None:
        """Connects, checks the settings and learns the store's ID. Raises StoreDown or StoreRefused."""
        await self.check()
        await self._call("SET", _STORE_ID, os.urandom(16).hex(), "NX")
        self.id = (await self._call("GET", _STORE_ID)).decode()

    async def close(self) -> None:
        await self._client.aclose()

    async def check(self) -> None:
        """Reads back what the promises rest on. Raises StoreRefused with all that is wrong, and what to do about it."""
        try:
            info: dict[str, Any] = await self._call("INFO", "everything")
            config = {_text(name): _text(value) for name, value in (await self._call("CONFIG GET", *_SETTINGS)).items()}
        except StoreRefused as error:
            raise StoreRefused(f"the store does not tell its settings ({error}): allow INFO and CONFIG GET to this user") from None
        told = [(name, config.get(name, "unknown"), *wish) for name, wish in _SETTINGS.items()]
        wrong = [f"{name} is {value}: {remedy}" for name, value, wanted, remedy in told if value != wanted]
        version = str(info.get("valkey_version") or info.get("redis_version", ""))
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
            wrong.append(f"the server is version {version or 'unknown'}: use Redis or Valkey 7.2 or later")
        if info.get("role") != "master":
            wrong.append("the server is a replica: give the URL of the primary")
        if int(info.get("connected_slaves", 0)) > 0:
            wrong.append("the server has replicas, one of which a failover could make the store, short of the last commits: detach them")
        if int(info.get("cluster_enabled", 0)):
            wrong.append("the server is a cluster, which is not supported yet: use a single primary")
        if info.get("aof_last_write_status", "ok") != "ok":
            wrong.append("the server cannot write its append-only file: look at its disk and log")
        if wrong:
            raise StoreRefused("the store cannot be used: " + "; ".join(wrong))

    # --- holding a lane

    async def acquire(self, lane: LaneId, token: str | None = None, sequence: int = -1) -> Held:
        """Takes the lane from whoever holds it. A token that is still the stored one is kept, and with it the caller's cache
        if the sequence is the same too.

        `token` and `sequence`: as held so far, if at all. Raises StoreWentBack when the store stands before `sequence`.
        """
        answer = await self._run(_ACQUIRE, lane.prefix, token or "", os.urandom(16).hex(), sequence, DUE_HEAD)
        if answer[0] == b"back":
            raise StoreWentBack(f"lane {lane}: the store is at commit {int(answer[1])}, {sequence} was acknowledged")
        if answer[0] == b"foreign":
            raise StoreRefused(f"key {answer[1].decode()} of the store is not ours: use an empty database")
        _, stored, epoch, at, offset, log, sends, mark, counts, outbox, due = answer
        return Held(
            lane=lane,
            token=stored.decode(),
            epoch=int(epoch),
            sequence=int(at),
            offset=None if offset is None else int(offset),
            log=(log or b"").decode(),
            sends=sends == b"open",
            mark=mark.decode(),
            counts={name.decode(): int(count) for name, count in _pairs(counts)},
            outbox=sorted((int(number), entry) for number, entry in _pairs(outbox)),
            due_head=[(key.decode(), int(at)) for key, at in _pairs(due)],
        )

    async def commit(self, held: Held, commit: Commit) -> None:
        """Writes all of it or nothing, and returns when it is on disk; `held` then shows the new sequence, offset, counts and outbox.

        One commit per lane at a time. A lost answer is told from the stored sequence and commit ID: the commit counts
        once. Raises LaneLost, SendsClosed, StoreWentBack, StoreRefused (nothing was written), StoreDown (open).
        Cancelled: open as well.
        """
        await self._write(held, commit, None)

    async def wipe(self, held: Held, offset: int, log: str, mark: str = "", sequence: int = 0) -> None:
        """Recovery: forgets all of the partition but its fence, closes its sends and places it at `offset` of `log`.

        `sequence`: the greatest one that the lost store is known to have reached; the lane goes on above it. Raises as `commit`.
        """
        await self._write(held, Commit(next=offset, mark=mark), log, sequence)

    async def _write(self, held: Held, commit: Commit, wipe_log: str | None, reached: int = 0) -> None:
        sequence = max(held.sequence, reached) + 1
        commit_id = os.urandom(12).hex()
        counts = {name: held.counts.get(name, 0) + added for name, added in commit.counts.items()}
        trimmed = [number for number, _ in held.outbox if number <= commit.trim]
        wiped = wipe_log is not None
        if (commit.first < 0) != (commit.next < 0) and not wiped:
            raise ValueError("a chunk has both a first and a next offset")
        answer = await self._run(_COMMIT, held.lane.prefix, _packed(held, commit, sequence, commit_id, counts, trimmed, wipe_log))
        if answer[0] == b"ok":
            held.sends = answer[1] == b"open"
        else:
            self._refused(held, commit, sequence, commit_id, answer)
        held.sequence = sequence
        if commit.next >= 0:
            held.offset = commit.next
        if commit.mark is not None:
            held.mark = commit.mark
        if wiped:
            held.log, held.sends = wipe_log or "", False
            held.counts, held.outbox, held.due_head = {}, [], []
            return
        held.counts.update(counts)
        if trimmed:
            held.outbox = held.outbox[len(trimmed) :]
        if commit.outbox:
            held.outbox.append((sequence, commit.outbox))

    def _refused(self, held: Held, commit: Commit, sequence: int, commit_id: str, answer: list[bytes]) -> None:
        """Returns when the refused commit is our own, made before its answer was lost."""
        why, stored, detail = answer[0].decode(), int(answer[1]), answer[3].decode()
        if why == "foreign":
            raise StoreRefused(f"key {detail} of the store is not ours: use an empty database")
        if why == "sequence" and stored == sequence and answer[2].decode() == commit_id:
            return
        if stored < held.sequence:
            raise StoreWentBack(f"lane {held.lane}: the store is at commit {stored}, {held.sequence} was acknowledged")
        if why == "closed":
            raise SendsClosed(f"lane {held.lane}: sends are closed until `run.py recover --open`")
        if why == "position":
            raise LaneLost(f"lane {held.lane}: the chunk begins at {commit.first}, the lane stands at {detail}")
        raise LaneLost(f"lane {held.lane}: held by somebody else, or at commit {stored} and not {held.sequence}")

    async def place(self, lane: LaneId, offset: int, log: str, sends: bool) -> bool:
        """Writes the lane's first position, once, at `init`; False when it has one already, which stays. `sends`: may it claim attempts?"""
        meta = f"{lane.prefix}:m"
        placed = False
        for field, value in (("sends", "open" if sends else "closed"), ("log", log), ("offset", offset)):  # the offset says it is complete
            placed = await self._call("HSETNX", meta, field, value) == 1
        return placed

    async def set_sends(self, lanes: Iterable[LaneId], sends: bool) -> None:
        """Opens (`recover --open`) or closes the sends of these lanes; their holders learn of it with their next commit or `standing`."""
        for lane in lanes:
            await self._call("HSET", f"{lane.prefix}:m", "sends", "open" if sends else "closed")

    async def unpark(self, lane: LaneId, record: str) -> bool:
        """A person dealt with this parked record: its row goes; False when it had gone before."""
        return bool(await self._call("HDEL", f"{lane.prefix}:p", record))

    # --- what a holder reads

    async def load(self, lane: LaneId, keys: Sequence[str]) -> list[bytes | None]:
        """The states of these keys, in their order; None where there is none."""
        return await self._fields(lane, "s", keys)

    async def bodies(self, lane: LaneId, attempts: Sequence[str]) -> list[bytes | None]:
        """The rendered bytes of attempts "effect:number"."""
        return await self._fields(lane, "b", attempts)

    async def parked(self, lane: LaneId, ids: Sequence[str]) -> list[bytes | None]:
        """The rows of these parked records."""
        return await self._fields(lane, "p", ids)

    async def due(self, lane: LaneId, limit: int) -> list[tuple[str, int]]:
        """Key and ms of what is due first."""
        found = await self._call("ZRANGE", f"{lane.prefix}:d", 0, limit - 1, "WITHSCORES")
        return [(key.decode(), int(at)) for key, at in _pairs(found)]

    # --- what anybody reads

    async def state(self, lane: LaneId, key: str) -> bytes | None:
        return (await self._fields(lane, "s", (key,)))[0]

    async def states(self, lane: LaneId) -> AsyncIterator[tuple[str, bytes]]:
        """All states of a lane in no order; one that changes meanwhile may come twice."""
        async for key, state in self._scan(f"{lane.prefix}:s", "*"):
            yield key, state

    async def by_tag(
        self, lanes: Sequence[LaneId], tag: str, limit: int, before: tuple[int, str] | None = None
    ) -> list[tuple[int, str, LaneId]]:
        """Score, key and lane of what has this tag, greatest score first; `before`: score and key of the last one seen."""
        pages = await asyncio.gather(*(self._tagged(lane, tag, limit, before) for lane in lanes))
        return list(islice(heapq.merge(*pages, reverse=True), limit))

    async def _tagged(self, lane: LaneId, tag: str, limit: int, before: tuple[int, str] | None) -> list[tuple[int, str, LaneId]]:
        page: list[tuple[int, str, LaneId]] = []
        below = "+inf" if before is None else before[0]
        for start in range(0, 1 << 31, limit):  # further than once only where many keys share the score of `before`
            found = await self._call("ZREVRANGEBYSCORE", f"{lane.prefix}:t:{tag}", below, "-inf", "WITHSCORES", "LIMIT", start, limit)
            entries = [(int(score), key.decode(), lane) for key, score in _pairs(found)]
            page += [entry for entry in entries if before is None or entry[:2] < before]
            if len(page) >= limit or len(entries) < limit:
                break
        return page[:limit]

    async def first_by_tag(self, lane: LaneId, tag: str, start: int, limit: int) -> list[tuple[int, str]]:
        """Score and key of what has this tag in a lane, least score first, from the `start`-th on."""
        found = await self._call("ZRANGE", f"{lane.prefix}:t:{tag}", start, start + limit - 1, "WITHSCORES")
        return [(int(score), key.decode()) for key, score in _pairs(found)]

    async def oldest(self, lanes: Sequence[LaneId], tag: str, limit: int) -> list[tuple[int, str, LaneId]]:
        """Score, key and lane of what has this tag, least score first."""
        pages = await self._calls([("ZRANGE", f"{lane.prefix}:t:{tag}", 0, limit - 1, "WITHSCORES") for lane in lanes])
        found = [(int(score), key.decode(), lane) for lane, page in zip(lanes, pages, strict=True) for key, score in _pairs(page)]
        return sorted(found)[:limit]

    async def tag_counts(self, lanes: Sequence[LaneId]) -> dict[str, int]:
        """How many keys have each tag, over these lanes."""
        counts: dict[str, int] = {}
        for lane in lanes:
            tags = [name.decode() for name in await self._call("SMEMBERS", f"{lane.prefix}:t")]
            for tag, count in zip(tags, await self._calls([("ZCARD", f"{lane.prefix}:t:{tag}") for tag in tags]), strict=True):
                counts[tag] = counts.get(tag, 0) + count
        return {tag: count for tag, count in sorted(counts.items()) if count}

    async def tagged_before(self, lanes: Sequence[LaneId], tags: Sequence[str], before: int) -> dict[str, int]:
        """How many keys have each of these tags with a score (ms) below `before`, over these lanes. Costs no look at the keys."""
        counts = dict.fromkeys(tags, 0)
        for lane in lanes:
            found = await self._calls([("ZCOUNT", f"{lane.prefix}:t:{tag}", "-inf", f"({before}") for tag in tags])
            for tag, count in zip(tags, found, strict=True):
                counts[tag] += count
        return counts

    async def parked_list(self, lanes: Sequence[LaneId], reason: str = "", limit: int = 100) -> list[tuple[LaneId, str, bytes]]:
        """Lane, ID and row of parked records in no order; `reason` "": any, `limit` 0: all."""
        rows: list[tuple[LaneId, str, bytes]] = []
        for lane in lanes:
            async for name, row in self._scan(f"{lane.prefix}:p", f"{reason}/*" if reason else "*"):
                rows.append((lane, name, row))
                if len(rows) == limit:
                    return rows
        return rows

    async def standing(self, lanes: Sequence[LaneId]) -> list[Standing]:
        """Where these lanes stand; each line of it is of one moment."""
        return await asyncio.gather(*(self._standing(lane) for lane in lanes))

    async def _standing(self, lane: LaneId) -> Standing:
        prefix = lane.prefix
        meta, counts, states, due, head, parked, outbox = await self._calls(
            [
                ("HMGET", f"{prefix}:m", "epoch", "sequence", "offset", "log", "sends", "mark"),
                ("HGETALL", f"{prefix}:c"),
                ("HLEN", f"{prefix}:s"),
                ("ZCARD", f"{prefix}:d"),
                ("ZRANGE", f"{prefix}:d", 0, 0, "WITHSCORES"),
                ("HLEN", f"{prefix}:p"),
                ("HLEN", f"{prefix}:o"),
            ]
        )
        epoch, sequence, offset, log, sends, mark = meta
        return Standing(
            lane=lane,
            epoch=int(epoch or 0),
            sequence=int(sequence or 0),
            offset=None if offset is None else int(offset),
            log=(log or b"").decode(),
            sends=sends == b"open",
            mark=(mark or b"").decode(),
            counts={name.decode(): int(count) for name, count in counts.items()},
            states=states,
            due=due,
            next_due=int(head[1]) if head else 0,
            parked=parked,
            outbox=outbox,
        )

    async def used_bytes(self) -> int:
        """Memory of the server."""
        return int((await self._call("INFO", "memory"))["used_memory"])

    async def counters(self, lanes: Sequence[LaneId]) -> dict[str, int]:
        """The sum of these lanes' counters."""
        totals: dict[str, int] = {}
        for counts in await self._calls([("HGETALL", f"{lane.prefix}:c") for lane in lanes]):
            for name, count in counts.items():
                totals[name.decode()] = totals.get(name.decode(), 0) + int(count)
        return totals

    # --- what is no lane's: tallies, times, and who does what only one should do

    async def tally(self, name: str, counts: Mapping[str, int]) -> None:
        """Adds to the tally of that name. StoreDown: open whether it was added."""
        for what, count in counts.items():
            await self._call("HINCRBY", f"orderflow:tally:{name}", what, count)

    async def tallies(self, name: str) -> dict[str, int]:
        return {_text(what): int(count) for what, count in (await self._call("HGETALL", f"orderflow:tally:{name}")).items()}

    async def remember(self, name: str, times: Mapping[str, int], first: bool = False) -> None:
        """Keeps a time (ms) per entry; `first`: only where there is none yet."""
        for what, at in times.items():
            await self._call("HSETNX" if first else "HSET", f"orderflow:times:{name}", what, at)

    async def forget(self, name: str, whats: Collection[str]) -> None:
        """The reverse of `remember`."""
        if whats:
            await self._call("HDEL", f"orderflow:times:{name}", *whats)

    async def times(self, name: str) -> dict[str, int]:
        return {_text(what): int(at) for what, at in (await self._call("HGETALL", f"orderflow:times:{name}")).items()}

    async def lease(self, name: str, holder: str, ms: int) -> bool:
        """Whether `holder` has the lease for the next `ms`: it was free, has run out, or was the holder's and is renewed."""
        return bool(await self._call("EVAL", _LEASE, 1, f"orderflow:lease:{name}", holder, ms))

    # --- the one document: modes, stops, flags

    async def document(self) -> tuple[int, bytes]:
        """Version and body; (0, b"") before the first. Small: every process reads it once a second."""
        version, body = await self._call("HMGET", _DOCUMENT, "version", "body")
        return int(version or 0), body or b""

    async def put_document(self, expected: int, body: bytes) -> bool:
        """Replaces version `expected` by the next one; False when it is not the stored one any more. StoreDown: open, read it again."""
        try:
            async with self._client.pipeline(transaction=True) as change:
                await change.watch(_DOCUMENT)
                version = await change.hget(_DOCUMENT, "version")
                if int(version or 0) != expected:
                    return False
                change.multi()  # type: ignore[no-untyped-call]
                change.hset(_DOCUMENT, mapping={"version": expected + 1, "body": body})
                await change.execute()
                return True
        except exceptions.WatchError:
            return False
        except exceptions.ResponseError as error:
            raise StoreRefused(f"the store refuses a command: {error}") from error
        except _AWAY as error:
            raise StoreDown(f"the store does not answer: {type(error).__name__}") from error

    # --- who works on what now, so that two people do not; it expires, and no lane looks at it

    async def claim(self, name: str, by: str, ttl_ms: int) -> tuple[str, int]:
        """Takes or prolongs a claim: who has it now, which is somebody else where it was taken, and for how many ms."""
        holder, left = await self._run(_CLAIMED, f"{_CLAIM}{name}", by, ttl_ms)
        return holder.decode(), int(left)

    async def unclaim(self, name: str, by: str) -> tuple[str, int]:
        """Lets go of one's own claim: who has it now, "" for nobody."""
        return await self.claim(name, by, 0)

    async def claims(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Who has each of these, "" for nobody, and for how many ms."""
        keys = [f"{_CLAIM}{name}" for name in names]
        found = await self._calls([(word, key) for key in keys for word in ("GET", "PTTL")])
        return [((holder or b"").decode(), max(0, int(left))) for holder, left in _pairs(found)]

    # --- calls: each may be repeated, so each is patient

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """Raises StoreDown when the store stays away, StoreRefused when it answers with an error."""
        give_up = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                return await attempt()
            except _AWAY as error:
                if asyncio.get_running_loop().time() >= give_up:
                    raise StoreDown(f"the store does not answer ({type(error).__name__})") from error
                await asyncio.sleep(0.05)
            except exceptions.ResponseError as error:
                raise StoreRefused(f"the store refuses a command: {error}") from error

    async def _call(self, *words: str | bytes | int) -> Any:
        return await self._patiently(lambda: self._execute(*words))

    async def _calls(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        """Several reads at one moment."""

        async def once() -> list[Any]:
            async with self._client.pipeline(transaction=True) as batch:
                for command in commands:
                    batch.execute_command(*command)
                return await batch.execute()

        found: list[Any] = await self._patiently(once) if commands else []
        return found

    async def _run(self, script: _Script, key: str, *arguments: str | bytes | int) -> Any:
        async def once() -> Any:
            try:
                return await self._execute("EVALSHA", script.sha, 1, key, *arguments)
            except exceptions.NoScriptError:  # the server was started anew
                return await self._execute("EVAL", script.text, 1, key, *arguments)

        return await self._patiently(once)

    async def _fields(self, lane: LaneId, suffix: str, names: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = await self._call("HMGET", f"{lane.prefix}:{suffix}", *names) if names else []
        return found

    async def _scan(self, key: str, pattern: str) -> AsyncIterator[tuple[str, bytes]]:
        cursor = 0
        while True:
            cursor, found = await self._call("HSCAN", key, cursor, "MATCH", pattern, "COUNT", 1000)
            for name, value in found.items():
                yield name.decode(), value
            if not cursor:
                return


class _Script:
    """One of the Lua scripts beside this file."""

    def __init__(self, name: str) -> None:
        self.text = Path(__file__).with_name(f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _packed(
    held: Held, commit: Commit, sequence: int, commit_id: str, counts: Mapping[str, int], trimmed: Sequence[int], wipe_log: str | None
) -> bytes:
    """The one argument of commit.lua: few large arguments, because packing and parsing many small ones cost more than all the rest.

    Numbers go as text, so that Lua's doubles never meet them; ":d" also stops a NaN here, where nothing is written yet.
    """
    due: list[str] = []
    undue: list[str] = []
    for key, at in commit.due.items():
        if at:
            due += (f"{at:d}", key)
        else:
            undue.append(key)
    gained: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    for key, less, more, score in commit.index:
        for tag in less:
            lost.setdefault(tag, []).append(key)
        for tag in more:
            gained.setdefault(tag, []).extend((f"{score:d}", key))
    packed: bytes = _pack(
        [
            held.token,
            f"{held.sequence:d}",
            f"{sequence:d}",
            commit_id,
            "" if commit.first < 0 else f"{commit.first:d}",
            None if commit.next < 0 else f"{commit.next:d}",
            wipe_log,
            commit.mark,
            "" if wipe_log is None else "wipe",
            _flat(commit.states),
            commit.gone,
            due,
            undue,
            commit.outbox,
            [f"{number:d}" for number in trimmed],
            _flat(commit.parked),
            commit.unparked,
            _flat(commit.bodies),
            commit.spent,
            _flat(gained),
            _flat(lost),
            [text for name, count in counts.items() for text in (name, f"{count:d}")],
        ]
    )
    return packed


def _flat(items: Mapping[str, Any]) -> list[Any]:
    return list(chain.from_iterable(items.items()))


def _text(word: str | bytes) -> str:
    return word.decode() if isinstance(word, bytes) else word


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


_LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_ACQUIRE = _Script("acquire")
_COMMIT = _Script("commit")
_CLAIMED = _Script("claim")
