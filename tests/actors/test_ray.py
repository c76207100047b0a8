"""Ray on this machine: who can reach it, what travels, and what happens when the actor at the other end does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.handles import Lost, NotMade, Remote, ScorerPool, SenderHandle
from actors.ray_local import Exposed, LocalRay, RayUnavailable, assert_loopback, listening_sockets, prepare_environment, process_tree
from actors.scorer import Scorer
from connectors.base import Secret, SettingsError
from connectors.stand_ins import Faults, StandIns
from model.artefact import promote, save
from model.features import WIDTH
from model.network import Network
from model.score import CHUNK, Rows, Scores
from orders.effect import Claim

NOW = 1_795_000_000_000
FOREVER_S = 300.0  # a deadline that no test waits for: an answer before it came for another reason
ROOT = Path(__file__).parents[2]


def rows(count: int) -> Rows:
    return np.random.default_rng(1).random((count, WIDTH), np.float32)


WAYS = pytest.mark.parametrize("way", ["line", "ray"])  # rows go to a scorer on this machine by a line, to others through Ray


class FarPool(ScorerPool):
    """As if its scorers were on another machine."""

    async def _connect(self, actor: Remote) -> None: ...


@contextlib.asynccontextmanager
async def pool_of(ray: LocalRay, weights: Path, way: str = "line", **settings: Any) -> AsyncIterator[ScorerPool]:
    pool = (ScorerPool if way == "line" else FarPool)(ray, weights, **{"deadline_s": FOREVER_S, **settings})
    assert await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def pid_of(pool: ScorerPool) -> int:
    return int((await pool.actors[0].ask("hello", deadline_s=FOREVER_S)).split()[0])


async def under_way(pool: ScorerPool) -> None:
    while not pool.health()["in_flight"]:
        await asyncio.sleep(0)


async def until_model(pool: ScorerPool) -> Scores:
    while (scores := await pool.score(rows(4))).fallback:
        await asyncio.sleep(0.02)
    return scores


# --- who can reach it
def test_everything_ray_listens_on_is_loopback(ray_cluster: LocalRay) -> None:
    sockets = listening_sockets(os.getpid())
    assert len({found.pid for found in sockets}) >= 4  # this process, the cluster's two, an agent
    assert_loopback(os.getpid())


def test_a_socket_that_others_can_reach_is_found_and_named(ray_cluster: LocalRay) -> None:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_STREAM) as exposed:
            exposed.bind((address, 0))
            exposed.listen()
            port = exposed.getsockname()[1]
            with pytest.raises(Exposed, match=f"{address} port {port} .process {os.getpid()}"):
                assert_loopback(os.getpid())
            assert_loopback(os.getpid(), allowed=[port])


def test_the_token_is_ours_alone_and_stays(tmp_path: Path) -> None:
    environment = {"RAY_ADDRESS": "elsewhere:6379"}
    prepare_environment(environment, tmp_path)
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64
    assert "RAY_ADDRESS" not in environment
    before = token.read_text()
    token.chmod(0o644)
    prepare_environment(environment, tmp_path)
    assert token.read_text() == before
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_the_scratch_folder_of_ray_lies_inside_a_private_one(ray_cluster: LocalRay) -> None:
    address = msgspec.json.decode((ray_cluster.folder / "address").read_bytes())
    assert stat.S_IMODE(Path(address["scratch"]).stat().st_mode) == 0o700


def test_no_cluster_is_joined_without_its_token(ray_cluster: LocalRay) -> None:
    address = msgspec.json.decode((ray_cluster.folder / "address").read_bytes())["gcs"]
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined')"
    stranger = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64, "RAY_NUM_REDIS_GET_RETRIES": "1"}
    stranger.pop("RAY_AUTH_TOKEN_PATH")
    done = subprocess.run([sys.executable, "-c", code], env=stranger, capture_output=True, text=True, timeout=120, check=False)
    assert "joined" not in done.stdout
    assert done.returncode != 0


def test_a_cluster_that_does_not_answer_is_said_so_at_once() -> None:
    ray = LocalRay(Path("/nonexistent"), "127.0.0.1:9")
    with pytest.raises(RayUnavailable, match=r"nothing answers at 127\.0\.0\.1:9"):
        ray.start()
    assert not ray.ready
    ray.stop()
    ray.stop()


# --- scoring
@WAYS
async def test_the_actor_gives_the_answers_of_the_plain_class(ray_cluster: LocalRay, weights: Path, way: str) -> None:
    plain = Scorer(weights)
    async with pool_of(ray_cluster, weights, way) as pool:
        assert bool(pool._lines) == (way == "line")
        for count in (0, 1, 1024, CHUNK + 5):
            expected, found = plain.score(rows(count)), await pool.score(rows(count))
            for name in ("fraud", "late", "shortage", "loss", "priority"):
                assert np.allclose(getattr(found, name), getattr(expected, name), atol=1e-6), name
            assert found.reasons == expected.reasons
            assert (found.version, found.fallback) == (plain.version, False)
        with pytest.raises(ValueError, match="float32 of shape"):
            await pool.score(np.zeros((2, 3), np.float32))
        assert pool.health() == {
            "scorer": "model",
            "ray": "ready",
            "versions": [plain.version],
            "actors": 1,
            "healthy": 1,
            "in_flight": 0,
            "fallbacks": 0,
        }


async def test_another_process_adopts_cluster_and_actor_and_never_imports_torch(ray_cluster: LocalRay, weights: Path) -> None:
    async with pool_of(ray_cluster, weights) as pool:
        pid = await pid_of(pool)
        done = await asyncio.to_thread(role, "adopt", ray_cluster.folder.parent, weights)
        assert done == {"started": False, "pid": pid, "fallback": False, "torch": False}
        assert not (await pool.score(rows(3))).fallback, "it went away without taking anything with it"


async def test_a_cluster_elsewhere_is_used_by_its_address_and_never_stopped(ray_cluster: LocalRay, weights: Path, tmp_path: Path) -> None:
    address = msgspec.json.decode((ray_cluster.folder / "address").read_bytes())["gcs"]
    async with pool_of(ray_cluster, weights) as pool:
        done = await asyncio.to_thread(role, "adopt", tmp_path, weights, address)
        assert done == {"started": False, "pid": await pid_of(pool), "fallback": False, "torch": False}
        assert not (tmp_path / "ray" / "address").exists()


def role(name: str, folder: Path, weights: Path, *address: str) -> dict[str, Any]:
    """Runs one of the small programs in ray_role.py to its end; what it printed last."""
    command = [sys.executable, str(ROOT / "tests" / "actors" / "ray_role.py"), name, str(folder), str(weights), *address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, Any])


@WAYS
async def test_a_killed_actor_is_replaced_by_the_rules_at_once_and_comes_back(
    ray_cluster: LocalRay, weights: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline is out of reach, so whoever answers by the rules was told of the death: by the kernel, not a second later by Ray."""
    async with pool_of(ray_cluster, weights, way) as pool:
        first = await pid_of(pool)
        os.kill(first, signal.SIGSTOP)  # so that calls are certainly under way
        calls = [asyncio.create_task(pool.score(rows(256))) for _ in range(4)]
        await under_way(pool)
        os.kill(first, signal.SIGKILL)
        for scores in await asyncio.gather(*calls):
            assert scores.fallback
            assert scores.version == "rules-1"
            assert len(scores.fraud) == 256
        assert [record.why for record in caplog.records if getattr(record, "event", "") == "scorer_lost"] == ["died"]
        assert (await pool.score(rows(2))).fallback
        assert pool.health()["scorer"] == "rules"
        assert not (await until_model(pool)).fallback
        assert await pid_of(pool) != first


@WAYS
async def test_an_actor_that_hangs_costs_one_deadline_and_its_calls_count_as_in_flight(
    ray_cluster: LocalRay, weights: Path, way: str
) -> None:
    async with pool_of(ray_cluster, weights, way, deadline_s=0.05, most_pending=2) as pool:
        pid = await pid_of(pool)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert (await pool.score(rows(8))).fallback
            await under_way(pool)  # the call that was given up, or the question how it is
            pool.deadline_s = FOREVER_S
            assert (await pool.score(rows(8))).fallback, "it is in doubt: nobody waits for it again"
        finally:
            os.kill(pid, signal.SIGCONT)
        await until_model(pool)
        while pool.actors[0].calls:
            await asyncio.sleep(0.01)
        assert await pid_of(pool) == pid


@WAYS
async def test_what_is_asked_while_a_call_is_under_way_travels_together_in_the_next(ray_cluster: LocalRay, weights: Path, way: str) -> None:
    plain = Scorer(weights)
    async with pool_of(ray_cluster, weights, way) as pool:
        pid = await pid_of(pool)
        os.kill(pid, signal.SIGSTOP)
        asked = [rows(count) for count in (8, 1, 300, 40)]
        calls = [asyncio.create_task(pool.score(asked[0]))]
        await under_way(pool)
        calls += [asyncio.create_task(pool.score(some)) for some in asked[1:]]
        for _ in range(5):
            await asyncio.sleep(0)
            assert pool.health()["in_flight"] == 1
        sent: list[int] = []
        carrier: Any = pool._lines[pool.actors[0]] if way == "line" else pool.actors[0]
        ask = carrier.ask

        async def counted(*what: Any, **how: Any) -> Any:
            sent.append(len(what[0 if way == "line" else 1]) // asked[0][0].nbytes)
            return await ask(*what, **how)

        carrier.ask = counted
        os.kill(pid, signal.SIGCONT)
        for some, scores in zip(asked, await asyncio.gather(*calls), strict=True):
            alone = plain.score(some)
            assert not scores.fallback
            assert scores.reasons == alone.reasons
            np.testing.assert_allclose(scores.fraud, alone.fraud, atol=1e-6)
            np.testing.assert_allclose(scores.priority, alone.priority, atol=1e-6)
        assert sent == [341]


async def test_more_calls_than_ray_takes_are_refused_before_they_leave(ray_cluster: LocalRay, weights: Path) -> None:
    async with pool_of(ray_cluster, weights, most_pending=2, name="tight") as pool:
        actor = pool.actors[0]
        pid = int((await actor.ask("hello", deadline_s=FOREVER_S)).split()[0])
        os.kill(pid, signal.SIGSTOP)
        calls = [asyncio.create_task(actor.ask("hello", deadline_s=FOREVER_S)) for _ in range(8)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(call.exception(), NotMade) for call in done)
        os.kill(pid, signal.SIGCONT)
        await asyncio.wait(calls)
        assert sum(call.exception() is None for call in calls) == 3
        remove(actor)


@WAYS
async def test_a_promoted_version_serves_after_a_reload_without_a_mixed_answer(ray_cluster: LocalRay, tmp_path: Path, way: str) -> None:
    versions = [save(tmp_path, Network(seed), rows(4), created_from="made up", data=(0, 0, 0), metrics={}) for seed in (1, 2)]
    promote(tmp_path, versions[0])
    async with pool_of(ray_cluster, tmp_path, way, name=f"swapped-{way}") as pool:
        plain = {}
        for version in versions:
            promote(tmp_path, version)
            plain[version] = Scorer(tmp_path).score(rows(300))
        promote(tmp_path, versions[0])
        await pool.reload()
        seen: list[Scores] = []
        swaps = asyncio.Event()

        async def ask() -> None:
            while not swaps.is_set():
                seen.append(await pool.score(rows(300)))

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for turn in range(10):
            promote(tmp_path, versions[turn % 2])
            assert await pool.reload() == [versions[turn % 2]]
        swaps.set()
        await asyncio.gather(*asking)
        assert {scores.version for scores in seen} == set(versions)
        for scores in seen:
            assert np.allclose(scores.fraud, plain[scores.version].fraud, atol=1e-6)
        remove(pool.actors[0])


async def test_weights_that_are_refused_leave_the_rules_answering_until_there_are_good_ones(
    ray_cluster: LocalRay, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.handles.REBIRTH_S", 0.1)
    folder = tmp_path / "weights"
    pool = ScorerPool(ray_cluster, folder, deadline_s=FOREVER_S, name="unarmed")
    starting = asyncio.create_task(pool.start())
    while not (why := [record.why for record in caplog.records if getattr(record, "event", "") == "actor_refused"]):
        await asyncio.sleep(0.05)
    assert "ArtefactRefused: aliases.json: No such file" in why[0]
    assert (await pool.score(rows(5))).fallback
    health = pool.health()
    assert (health["scorer"], health["healthy"], health["ray"]) == ("rules", 0, "ready")
    shutil.copytree(weights, folder)
    assert await starting
    assert not (await pool.score(rows(5))).fallback
    remove(pool.actors[0])
    await pool.close()


async def test_without_a_cluster_the_pool_answers_by_the_rules(tmp_path: Path, weights: Path) -> None:
    pool = ScorerPool(LocalRay(tmp_path), weights)
    assert not await pool.start()
    assert (await pool.score(rows(5))).version == "rules-1"
    assert pool.health()["ray"] == "not started"
    await pool.close()


def remove(actor: Remote) -> None:
    import ray

    actor.close()
    ray.kill(actor._handle)


# --- sending
def claim(n: int, channel: str = "webhook") -> Claim:
    body = b'{"event":"order.shipped","data":{"n":%d}}' % n
    return Claim(lane="orders.0.1", key="s:1", effect=f"{n:016d}", channel=channel, attempt=1, deadline=NOW + 30_000, body=body)


async def test_a_sender_actor_sends_as_the_plain_class_does(ray_cluster: LocalRay) -> None:
    stand_ins = StandIns()
    await stand_ins.start()
    handle = SenderHandle(ray_cluster, "webhook", stand_ins.settings("webhook"))
    await handle.start()
    outcomes = await handle.send([claim(n) for n in range(20)], NOW)
    assert [(o.kind, o.effect, o.key, o.attempt) for o in outcomes] == [("sent", f"{n:016d}", "s:1", 1) for n in range(20)]
    assert sum(stand_ins.accepted().values()) == 20
    assert await handle.send([], NOW) == []
    assert await handle.circuit() == "closed"
    remove(handle._actor)
    handle._actor.doubt()
    assert await handle.circuit() == "", "nobody knows"
    await handle.close()
    await stand_ins.close()


async def test_what_a_sender_had_in_its_hands_when_it_died_is_unknown_and_the_next_is_sent(ray_cluster: LocalRay) -> None:
    stand_ins = StandIns(faults={"webhook": Faults(stall=1.0)})
    await stand_ins.start()
    handle = SenderHandle(ray_cluster, "webhook", stand_ins.settings("webhook"), call_s=FOREVER_S)
    await handle.start()
    pid = int((await handle._actor.ask("hello", deadline_s=FOREVER_S)).split()[0])
    under_way = asyncio.create_task(handle.send([claim(1), claim(2)], NOW))
    while sum(stand_ins.accepted().values()) < 2:
        await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    outcomes = await under_way
    assert [(o.kind, o.reason, o.effect) for o in outcomes] == [("unknown", "sender_lost", claim(n).effect) for n in (1, 2)]
    assert all(o.at >= NOW for o in outcomes)
    assert sum(stand_ins.accepted().values()) == 2, "nobody made the call again"

    stand_ins.faults["webhook"] = Faults()
    while (outcome := (await handle.send([claim(3)], NOW))[0]).kind == "retryable":
        assert outcome.reason == "sender_gone"
        assert outcome.after > NOW
    assert outcome.kind == "sent"
    assert stand_ins.duplicates().get("webhook", 0) == 0
    remove(handle._actor)
    await handle.close()
    await stand_ins.close()


async def test_while_there_is_no_cluster_a_handle_sends_from_this_process(tmp_path: Path) -> None:
    stand_ins = StandIns()
    await stand_ins.start()
    handle = SenderHandle(LocalRay(tmp_path), "webhook", stand_ins.settings("webhook"))
    await handle.start()
    assert (await handle.send([claim(7)], NOW))[0].kind == "sent"
    assert await handle.circuit() == "closed"
    await handle.close()
    await stand_ins.close()


def test_a_wrong_setting_is_refused_where_it_was_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="webhook"):
        SenderHandle(LocalRay(tmp_path), "webhook", {"colour": "red"})


async def test_a_secret_reaches_the_actor_and_shows_itself_nowhere(ray_cluster: LocalRay) -> None:
    """The stand-in checks the signature made with it; Ray's own logs and listings must not know it."""
    stand_ins = StandIns()
    await stand_ins.start()
    settings = stand_ins.settings("webhook")
    secret = settings["secret"]
    assert isinstance(secret, Secret)
    handle = SenderHandle(ray_cluster, "webhook", settings)
    await handle.start()
    assert (await handle.send([claim(9)], NOW))[0].kind == "sent"
    scratch = Path(msgspec.json.decode((ray_cluster.folder / "address").read_bytes())["scratch"])
    logs = [path for path in scratch.rglob("logs/*") if path.is_file()]
    assert logs
    assert not any(secret.reveal().encode() in path.read_bytes() for path in logs)
    remove(handle._actor)
    await handle.close()
    await stand_ins.close()


async def test_a_call_nobody_answers_is_lost_and_one_to_nobody_was_not_made(ray_cluster: LocalRay, weights: Path) -> None:
    async with pool_of(ray_cluster, weights) as pool:
        with pytest.raises(Lost):
            await pool.actors[0].ask("score", b"not rows", deadline_s=FOREVER_S)
        with pytest.raises(NotMade):
            await pool.actors[0].ask("no_such_method", deadline_s=FOREVER_S)
        assert not (await pool.score(rows(3))).fallback


def test_the_tree_of_a_process_holds_its_grandchildren() -> None:
    script = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        assert {parent.pid, grandchild} <= set(process_tree(os.getpid()))
        os.kill(grandchild, signal.SIGKILL)
