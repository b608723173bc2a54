"""One core for what computes, another one for client and gateway; for both sides of a comparison alike."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LOOKS = 3
"""A thread that another one starts while they are being moved is found by the next look."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Numbers of processors. None: this system cannot bind, or has one only."""

    front: int | None
    engine: int | None

    def __str__(self) -> str:
        if self.engine is None:
            return "nothing is bound to a core"
        shared = ", threads of one core" if self.engine in _siblings(self.front) else ""
        return f"engines on processor {self.engine}, clients and gateways on {self.front}{shared}"


def divide() -> Cores:
    """Take two processors, and bind this process to the first: what it starts stays there until it is moved."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return Cores(None, None)
    usable = sorted(os.sched_getaffinity(0))
    cores = Cores(usable[0], usable[-1])
    os.sched_setaffinity(0, {usable[0]})
    return cores


@contextlib.contextmanager
def on_all_cores() -> Iterator[None]:
    """For what is made before anything is measured."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


def move(pid: int, core: int | None, where: Callable[[int], bool] = lambda thread: True) -> None:
    """Bind those threads of a process to a core for which `where` is true. Later threads follow their makers."""
    if core is None:
        return
    for _ in range(LOOKS):
        for entry in Path(f"/proc/{pid}/task").iterdir():
            thread = int(entry.name)
            with contextlib.suppress(ProcessLookupError):
                if where(thread):
                    os.sched_setaffinity(thread, {core})


def _siblings(core: int | None) -> set[int]:
    """Processors that are the same physical core as this one."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return set()
    found: set[int] = set()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found
