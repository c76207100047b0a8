"""A bench that is told to end takes everything it has started with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HELD = """
import asyncio, sys
from pathlib import Path
from bench.installation import Plan, installation, to_its_end

async def hold():
    async with installation(Plan(log="embedded", ray=False), Path(sys.argv[1])) as its:
        await its.start_workers()
        print("up", flush=True)
        await asyncio.sleep(600)

to_its_end(hold())
"""


def started_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line:
                found.append(line)
    return found


def test_a_bench_that_is_ended_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as bench:
        try:
            assert bench.stdout is not None and bench.stdout.readline() == "up\n"
            assert len(started_in(tmp_path)) >= 4, "the bench, its store, its worker and its archive"
            bench.send_signal(signal.SIGTERM)
            assert bench.wait(60) == 128 + signal.SIGTERM
        finally:
            bench.kill()
    for _ in range(50):  # a store that was told to end may take its time
        if not started_in(tmp_path):
            break
        time.sleep(0.1)
    assert started_in(tmp_path) == []
