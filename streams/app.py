"""The Faust apps. Reading `make_app` is reading the pipeline: topic by topic, in the order an order meets them.

A function and no module-level app: a test makes two of them in one process and hands in what it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faust
from faust.types import StreamT

from streams.driver import ChunkSchema, check_start, worker_conf
from streams.processor import Chunk
from streams.transport import Assignments

PIPELINE = ("deliveries", "references", "facts", "stock", "customers")


def make_app(
    group: str,
    log_url: str,
    assignments: Assignments,
    offer: Callable[[Chunk], None],
    *,
    topics: Iterable[str] = PIPELINE,
    folder: Path,
    **conf: Any,
) -> faust.App:
    """An app that moves each topic's chunks to `offer`, which must not block. Not started: `await app.start()`."""
    app = faust.App(group, broker=log_url, **(worker_conf(**conf) | {"datadir": str(folder / f"faust-{group}")}))
    vars(app).update(assignments=assignments)  # where our consumer finds them
    for topic in topics:
        _move(app, topic, offer)
    check_start(app)
    return app


def _move(app: faust.App, topic: str, offer: Callable[[Chunk], None]) -> None:
    async def move(stream: StreamT[Any]) -> None:
        async for chunk in stream:
            offer(chunk)

    app.agent(app.topic(topic, schema=ChunkSchema(), acks=False), name=f"move-{topic}")(move)
