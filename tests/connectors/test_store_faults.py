"""The store when answers are lost, the server dies, it comes back older or emptied, or it is not what it must be."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.store import Commit, Held, LaneId, LaneLost, SendsClosed, Store, StoreDown, StoreRefused, StoreWentBack
from connectors.valkey import EmbeddedValkey

COMMIT = Commit(
    first=10,
    next=20,
    states={f"order-{number}": b"x" * 1000 for number in range(300)},
    due={f"order-{number}": number + 1 for number in range(300)},
    outbox=b"second",
    bodies={"e:1": b"body"},
    index=[(f"order-{number}", (), ("placed",), number) for number in range(300)],
    counts={"done": 10},
)


class Proxy:
    """Stands between a client and the server, and looks for the commit among what passes through."""

    def __init__(self, server: EmbeddedValkey, folder: Path) -> None:
        self.path = folder / "proxy.sock"
        self.url = f"unix://{self.path}"
        self.commits = 0  # requests seen that are a commit
        self.on_request: Callable[[bytes], Awaitable[bytes | None]] | None = None  # what to pass on; None cuts the line
        self.on_reply: Callable[[bytes], Awaitable[bytes | None]] | None = None
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._listener = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 22)

    async def stop(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            replies, upstream = await asyncio.open_unix_connection(self._server.url.removeprefix("unix://"))
            while request := await self._request(reader):
                committing = b"order-299" in request
                self.commits += committing
                if committing and self.on_request:
                    passed = await self.on_request(request)
                    if passed is None:
                        return
                    request = passed
                upstream.write(request)
                await upstream.drain()
                reply = await replies.read(1 << 20)  # commands of these tests have small answers
                if committing and self.on_reply:
                    kept = await self.on_reply(reply)
                    if kept is None:
                        return
                    reply = kept
                if not reply:
                    return
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, FileNotFoundError):
            return
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.close()
            self._tasks.discard(task)

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        """One whole command."""
        head = await reader.readline()
        parts = [head]
        for _ in range(int(head[1:] or 0)):
            size = await reader.readline()
            parts += [size, await reader.readexactly(int(size[1:]) + 2)]
        return b"".join(parts)


@pytest.fixture
async def proxy(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxy]:
    proxy = Proxy(valkey, tmp_path_factory.mktemp("p"))
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def direct(valkey: EmbeddedValkey) -> AsyncIterator[Store]:
    store = Store.from_url(valkey.url)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
async def through(direct: Store, proxy: Proxy) -> AsyncIterator[Store]:
    """A client whose commands pass through the proxy."""
    store = Store.from_url(proxy.url)
    await store.start()
    yield store
    await store.close()


async def begun(store: Store, lane: LaneId) -> Held:
    """A lane after its first commit."""
    await store.place(lane, 0, "log-1", sends=True)
    held = await store.acquire(lane)
    await store.commit(held, Commit(first=0, next=10, states={"order-0": b"first"}, outbox=b"first", counts={"done": 10}))
    return held


async def wholly(store: Store, lane: LaneId) -> bool:
    """Is COMMIT in the store? Fails when it is there in parts."""
    standing = (await store.standing([lane]))[0]
    seen = (
        standing.offset,
        standing.sequence,
        standing.counts,
        standing.states,
        standing.due,
        standing.outbox,
        await store.tag_counts([lane]),
        await store.bodies(lane, ["e:1"]),
    )
    nothing = (10, 1, {"done": 10}, 1, 0, 1, {}, [None])
    everything = (20, 2, {"done": 20}, 300, 300, 2, {"placed": 300}, [b"body"])
    assert seen in (nothing, everything)
    return seen == everything


# --- lost answers


async def test_a_commit_whose_answer_is_lost_counts_once(direct: Store, through: Store, proxy: Proxy, lane: LaneId) -> None:
    held = await begun(through, lane)

    async def lose(reply: bytes) -> None:
        proxy.on_reply = None

    proxy.on_reply = lose
    await through.commit(held, COMMIT)
    assert proxy.commits == 2
    assert await wholly(direct, lane)
    assert (held.sequence, held.offset, held.counts) == (2, 20, {"done": 20})
    await through.commit(held, Commit(first=20, next=21, counts={"done": 1}))


async def test_a_commit_that_never_arrived_is_made(direct: Store, through: Store, proxy: Proxy, lane: LaneId) -> None:
    held = await begun(through, lane)

    async def lose(request: bytes) -> None:
        proxy.on_request = None

    proxy.on_request = lose
    await through.commit(held, COMMIT)
    assert await wholly(direct, lane)


async def test_a_commit_that_arrives_after_its_repetition_counts_once(
    direct: Store, valkey: EmbeddedValkey, proxy: Proxy, lane: LaneId
) -> None:
    through = Store.from_url(proxy.url, timeout_s=0.2)
    held = await begun(direct, lane)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def delay(request: bytes) -> bytes:
        proxy.on_request = None
        await go_on.wait()
        return request

    async def note(reply: bytes) -> bytes:
        if go_on.is_set():
            arrived.set()
        return reply

    proxy.on_request, proxy.on_reply = delay, note
    await through.commit(held, COMMIT)
    assert await wholly(direct, lane)
    go_on.set()
    await arrived.wait()
    assert await wholly(direct, lane)
    await through.close()


async def test_a_lost_answer_is_not_taken_for_done_when_another_holder_went_on(
    direct: Store, through: Store, proxy: Proxy, lane: LaneId
) -> None:
    held = await begun(through, lane)

    async def lose(request: bytes) -> None:
        proxy.on_request = None
        other = await direct.acquire(lane)
        await direct.commit(other, Commit(first=10, next=11, counts={"done": 1}))

    proxy.on_request = lose
    with pytest.raises(LaneLost):
        await through.commit(held, COMMIT)
    assert (held.sequence, held.offset) == (1, 10)
    assert (await direct.standing([lane]))[0].counts == {"done": 11}


async def test_a_store_that_stays_away_is_said_to_be_down(direct: Store, valkey: EmbeddedValkey, lane: LaneId) -> None:
    hasty = Store.from_url(valkey.url, patience_s=0.2)
    held = await begun(direct, lane)
    valkey.kill()
    for call in (hasty.commit(held, COMMIT), hasty.acquire(lane), hasty.load(lane, ["a"]), hasty.put_document(0, b"x"), hasty.start()):
        with pytest.raises(StoreDown):
            await call
    await valkey.start()
    again = await hasty.acquire(lane, held.token, held.sequence)
    assert (again.token, again.sequence) == (held.token, held.sequence)
    await hasty.close()


async def test_a_cancelled_commit_is_whole_or_nothing_and_the_client_goes_on(
    direct: Store, through: Store, proxy: Proxy, lane: LaneId
) -> None:
    held = await begun(through, lane)
    reached = asyncio.Event()

    async def hang(reply: bytes) -> bytes:
        reached.set()
        await asyncio.Event().wait()
        return reply

    proxy.on_reply = hang
    task = asyncio.create_task(through.commit(held, COMMIT))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await through.acquire(lane, held.token, held.sequence)
    assert again.sequence == (2 if await wholly(direct, lane) else 1)


# --- the server is killed around a commit


@pytest.mark.parametrize("sent", [0.0, 0.001, 0.5, 1.0], ids=["nothing sent", "a little sent", "half sent", "all sent"])
async def test_a_server_killed_in_a_commit_holds_all_of_it_or_nothing(
    valkey: EmbeddedValkey, lane: LaneId, direct: Store, sent: float
) -> None:
    held = await begun(direct, lane)
    _, writer = await asyncio.open_unix_connection(valkey.url.removeprefix("unix://"))
    request = bytearray()

    async def record(*words: Any) -> None:
        request.extend(b"*%d\r\n" % len(words))
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode()
            request.extend(b"$%d\r\n%s\r\n" % (len(raw), raw))
        raise StoreDown

    execute, direct._execute = direct._execute, record
    with pytest.raises(StoreDown):
        await direct.commit(held, COMMIT)
    direct._execute = execute
    writer.write(bytes(request[: int(len(request) * sent)]))
    await writer.drain()
    valkey.kill()
    writer.close()
    await valkey.start()
    assert await wholly(direct, lane) in ((False,) if sent < 1 else (False, True))
    assert (await direct.acquire(lane, held.token, held.sequence)).token == held.token


@pytest.mark.parametrize("moment", ["before", "cut", "sent", "answered"])
async def test_a_commit_survives_the_death_of_its_server_and_counts_once(
    direct: Store, through: Store, valkey: EmbeddedValkey, proxy: Proxy, lane: LaneId, moment: str
) -> None:
    held = await begun(through, lane)

    async def restart() -> None:
        valkey.kill()
        await valkey.start()

    async def request(data: bytes) -> bytes | None:
        proxy.on_request = None
        if moment == "sent":
            restarting.append(asyncio.create_task(restart()))  # while the server has it
            return data
        await restart()
        return None

    async def reply(data: bytes) -> None:
        proxy.on_reply = None
        await restart()

    restarting: list[asyncio.Task[None]] = []
    if moment == "answered":
        proxy.on_reply = reply
    else:
        proxy.on_request = request
    await through.commit(held, COMMIT)
    await asyncio.gather(*restarting)
    assert await wholly(direct, lane)
    await through.commit(held, Commit(first=20, next=30, counts={"done": 10}))
    assert (await direct.standing([lane]))[0].counts == {"done": 30}


async def test_an_append_only_file_torn_anywhere_in_a_commit_holds_none_of_it(valkey: EmbeddedValkey, direct: Store, lane: LaneId) -> None:
    held = await begun(direct, lane)
    journal = next((valkey.folder / "appendonlydir").glob("*.incr.aof"))
    before = journal.stat().st_size
    await direct.commit(held, COMMIT)
    valkey.kill()
    whole = journal.read_bytes()
    assert len(whole) > before + 300_000
    for cut in [before + 1, before + 40, *range(before + 5_000, len(whole), 60_000), len(whole) - 60, len(whole) - 1]:
        journal.write_bytes(whole[:cut])
        await valkey.start()
        assert not await wholly(direct, lane)
        valkey.kill()
    journal.write_bytes(whole)
    await valkey.start()
    assert await wholly(direct, lane)


async def test_what_was_acknowledged_survives_rewrites_and_kills(valkey: EmbeddedValkey, direct: Store, lane: LaneId) -> None:
    held = await begun(direct, lane)
    for number in range(12):
        if number % 3 == 0 and not (await direct._client.info("persistence"))["aof_rewrite_in_progress"]:
            await direct._client.bgrewriteaof()
        if number % 4 == 3:
            valkey.kill()
            await valkey.start()
        await direct.commit(held, Commit(states={f"order-{number}": b"%d" % number}, counts={"done": 1}))
    valkey.kill()
    await valkey.start()
    assert await direct.counters([lane]) == {"done": 22}
    assert await direct.load(lane, [f"order-{number}" for number in range(12)]) == [b"%d" % number for number in range(12)]


async def test_a_full_memory_refuses_a_commit_whole(valkey: EmbeddedValkey, direct: Store, lane: LaneId) -> None:
    held = await begun(direct, lane)
    await direct._client.config_set("maxmemory", "1mb")
    gone = Commit(gone=["order-0"], due={"order-0": 0}, outbox=b"second", trim=1)
    with pytest.raises(StoreRefused, match="memory"):
        await direct.commit(held, gone)
    assert await direct.load(lane, ["order-0"]) == [b"first"]
    assert held.outbox == [(1, b"first")]
    await direct._client.config_set("maxmemory", "0")
    await direct.commit(held, gone)


# --- a store that was put back


async def snapshot_keys(store: Store, lane: LaneId) -> dict[bytes, bytes]:
    return {key: await store._client.dump(key) for key in await store._client.keys(f"{lane.prefix}:*")}


async def restore_keys(store: Store, lane: LaneId, snapshot: dict[bytes, bytes]) -> None:
    for key in await store._client.keys(f"{lane.prefix}:*"):
        await store._client.delete(key)
    for key, dumped in snapshot.items():
        await store._client.restore(key, 0, dumped)


async def life(store: Store, held: Held, lane: LaneId) -> list[dict[bytes, bytes]]:
    """Ten commits of a life and the lane's keys before each."""
    boundaries = []
    for number in range(10):
        boundaries.append(await snapshot_keys(store, lane))
        claim = {f"e:{number}": b"body"} if number % 3 == 1 else {}
        await store.commit(held, Commit(states={"order-0": b"%d" % number}, outbox=b"%d" % number, bodies=claim, counts={"done": 1}))
    return boundaries


async def test_a_store_put_back_to_any_earlier_commit_is_noticed(direct: Store, lane: LaneId) -> None:
    held = await begun(direct, lane)
    newest = await snapshot_keys(direct, lane)
    for boundary in [*await life(direct, held, lane), {}]:
        newest = newest if boundary else {}
        await restore_keys(direct, lane, boundary)
        before = await snapshot_keys(direct, lane)
        with pytest.raises(StoreWentBack):
            await direct.commit(held, Commit(states={"order-0": b"again"}))
        with pytest.raises(StoreWentBack):
            await direct.acquire(lane, held.token, held.sequence)
        assert await snapshot_keys(direct, lane) == before


async def test_an_emptied_store_claims_nothing_until_its_sends_are_opened(direct: Store, lane: LaneId) -> None:
    held = await begun(direct, lane)
    await direct._client.flushall()
    with pytest.raises(StoreWentBack):
        await direct.commit(held, Commit())
    found = await direct.acquire(lane)
    assert (found.offset, found.sends) == (None, False)
    await direct.wipe(found, 0, "log-1", "rebuilding")
    await direct.commit(found, Commit(first=0, next=20, states={"order-0": b"rebuilt"}, mark=""))
    with pytest.raises(SendsClosed):
        await direct.commit(found, Commit(bodies={"e:1": b"body"}))
    await direct.set_sends([lane], True)
    await direct.commit(found, Commit(bodies={"e:1": b"body"}))


async def test_a_server_restarted_on_an_older_folder_is_noticed(
    valkey: EmbeddedValkey, direct: Store, lane: LaneId, tmp_path: Path
) -> None:
    held = await begun(direct, lane)
    for number in range(3):
        await valkey.stop()
        shutil.copytree(valkey.folder / "appendonlydir", tmp_path / f"copy-{number}")
        await valkey.start()
        await direct.commit(held, Commit(states={"order-0": b"%d" % number}, counts={"done": 1}))
    for number in range(3):
        await valkey.stop()
        shutil.rmtree(valkey.folder / "appendonlydir")
        shutil.copytree(tmp_path / f"copy-{number}", valkey.folder / "appendonlydir")
        await valkey.start()
        with pytest.raises(StoreWentBack):
            await direct.commit(held, Commit(states={"order-0": b"again"}))
        assert (await direct.standing([lane]))[0].sequence == 1 + number


# --- a server that must not be the store


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("appendfsync", "everysec", "appendfsync always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendonly", "no", "appendonly yes"),
        ("no-appendfsync-on-rewrite", "yes", "rewritten"),
    ],
)
async def test_a_server_that_could_forget_is_refused(valkey: EmbeddedValkey, direct: Store, setting: str, value: str, word: str) -> None:
    await direct._client.config_set(setting, value)
    with pytest.raises(StoreRefused, match=word) as refused:
        await direct.start()
    assert f"{setting} is {value}" in str(refused.value)


async def test_a_primary_with_a_replica_is_refused_and_so_is_the_replica(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    primary = EmbeddedValkey(tmp_path / "primary", settings=("--port", port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"))
    replica = EmbeddedValkey(tmp_path / "replica", settings=("--replicaof", "127.0.0.1", port))
    await primary.start()
    await replica.start()
    try:
        with pytest.raises(StoreRefused, match="is a replica: give the URL of the primary"):
            await checked(replica.url)
        async with asyncio.timeout(30):
            while not (await info(primary.url))["connected_slaves"]:
                await asyncio.sleep(0.02)
        with pytest.raises(StoreRefused, match="has replicas"):
            await checked(primary.url)
    finally:
        await replica.stop()
        await primary.stop()


async def test_a_server_that_hides_its_settings_is_refused(valkey: EmbeddedValkey, direct: Store) -> None:
    await direct._client.acl_setuser("default", commands=["-config"])
    with pytest.raises(StoreRefused, match="allow INFO and CONFIG GET"):
        await direct.start()


async def checked(url: str) -> None:
    store = Store.from_url(url)
    try:
        await store.start()
    finally:
        await store.close()


async def info(url: str) -> dict[str, Any]:
    store = Store.from_url(url)
    try:
        found: dict[str, Any] = await store._client.info("replication")
        return found
    finally:
        await store.close()
