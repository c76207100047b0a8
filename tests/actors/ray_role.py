"""Small programs that tests start, kill and break: `python ray_role.py NAME FOLDER WEIGHTS [ADDRESS]`. Each prints JSON lines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from actors.handles import ScorerPool
from actors.ray_local import LocalRay, assert_loopback, prepare_environment
from model.features import WIDTH

FOREVER_S = 300.0
ROWS = np.ones((64, WIDTH), np.float32)


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


async def adopt(ray: LocalRay, weights: Path) -> None:
    """Joins, scores once, goes."""
    pool = ScorerPool(ray, weights, deadline_s=FOREVER_S)
    await pool.start()
    scores = await pool.score(ROWS)
    pid = int((await pool.actors[0].ask("hello", deadline_s=FOREVER_S)).split()[0])
    await pool.close()
    say(started=ray.started, pid=pid, fallback=scores.fallback, torch="torch" in sys.modules)


async def serve(ray: LocalRay, weights: Path) -> None:
    """Scores until SIGTERM, saying whenever another one answers."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pool = ScorerPool(ray, weights, deadline_s=FOREVER_S)
    await pool.start()
    assert_loopback(os.getpid())
    address = json.loads((ray.folder / "address").read_bytes())
    say(ready=True, started=ray.started, processes=address["processes"], scratch=address["scratch"])
    answered_by = None
    while not stop.is_set():
        scores = await pool.score(ROWS)
        if scores.fallback is not answered_by:
            answered_by = scores.fallback
            say(fallback=scores.fallback, generation=ray.generation, processes=address["processes"])
        await asyncio.sleep(0.005)
    await pool.close()
    say(stopped=True, torch="torch" in sys.modules)


def main() -> None:
    name, folder, weights = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    prepare_environment(os.environ, folder)
    ray = LocalRay(folder, *sys.argv[4:5])
    ray.start()
    asyncio.run({"adopt": adopt, "serve": serve}[name](ray, weights))
    ray.stop()


if __name__ == "__main__":
    main()
