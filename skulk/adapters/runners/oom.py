"""Whether the kernel killed a runner because memory ran out: SIGKILL alone does not say whose it was.

Linux counts such kills (`oom_kill`) per control group of version 2, kills for want of memory in the whole machine
included, and per machine in `/proc/vmstat`, which is what remains where groups have no memory controller. Others share
the count, so only a kill shortly before a runner's death is its own. Elsewhere there is no count and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

WINDOW_SECONDS = 30.0
"""A kill counts when it was at most one to two of these before the death: a daemon on a machine without memory may be
slow to notice."""


@dataclass(frozen=True, slots=True)
class _Count:
    source: Path
    kills: int
    at: float


class OomWatch:
    """The count of one runner's place, as it was a moment ago. `clock` gives monotonic seconds."""

    def __init__(
        self, clock: Callable[[], float], *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._clock = clock
        self._proc = proc
        self._cgroups = cgroups
        self._before: _Count | None = None
        self._latest: _Count | None = None

    def look(self, pid: int | None) -> None:
        """The runner lives: remember its count. To be called often; it reads once per WINDOW_SECONDS."""
        now = self._clock()
        if pid is None or (self._latest is not None and now - self._latest.at < WINDOW_SECONDS):
            return
        source = self._source(pid)
        kills = _kills(source)
        if kills is None:
            return
        moved = self._latest is not None and self._latest.source != source
        self._before = None if moved else self._latest
        self._latest = _Count(source, kills, now)

    def forget(self) -> None:
        """Its death is our doing from here on."""
        self._before = self._latest = None

    def risen(self) -> Path | None:
        """The file whose count has risen since a moment ago."""
        then = self._before or self._latest
        now = None if then is None else _kills(then.source)
        return then.source if then is not None and now is not None and now > then.kills else None

    def _source(self, pid: int) -> Path:
        """Of the nearest group that has a memory controller, else of the machine."""
        try:
            group = group_of((self._proc / str(pid) / "cgroup").read_text(encoding="utf-8"))
        except OSError:
            group = None
        if group is not None:
            for part in (group, *group.parents):
                events = self._cgroups / part.relative_to("/") / "memory.events"
                if events.is_file():
                    return events
        return self._proc / "vmstat"


def group_of(text: str) -> PurePosixPath | None:
    """The group of version 2 in `/proc/PID/cgroup`; None when there is none, or none that can be seen from here."""
    for line in text.splitlines():
        if line.startswith("0::/"):
            group = PurePosixPath(line.removeprefix("0::"))
            return None if ".." in group.parts else group
    return None


def oom_kills(text: str) -> int | None:
    """The count in `memory.events` or `vmstat`."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def _kills(source: Path) -> int | None:
    try:
        return oom_kills(source.read_text(encoding="utf-8"))
    except OSError:
        return None
