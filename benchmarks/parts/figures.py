"""Percentiles, and the CPU time of processes."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, by the kernel's ticks (10 ms on Linux)."""
    return _seconds_in(Path(f"/proc/{pid}/stat"))


def thread_seconds(pid: int) -> dict[int, float]:
    """The same of each of its threads, by thread id."""
    return {int(task.name): _seconds_in(task / "stat") for task in Path(f"/proc/{pid}/task").iterdir()}


def _seconds_in(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def row(name: str, *cells: str) -> str:
    return f"{name:<34}" + "".join(f"{cell:>14}" for cell in cells)


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def conditions() -> str:
    """What the figures were taken on."""
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
