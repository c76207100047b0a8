"""One real Valkey for the tests of lanes, emptied for each; a log in memory, and a processor simple enough to be checked by eye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from connectors.store import Store
from connectors.valkey import EmbeddedValkey


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def store(valkey_server: EmbeddedValkey) -> AsyncIterator[Store]:
    store = Store.from_url(valkey_server.url)
    await store._client.flushall()
    await store.start()
    yield store
    await store.close()
