"""Ends the process when the engine makes no progress: a wedge, exit code 86.

Only the engine's own progress counts. The I/O thread answers the daemon even while the engine hangs, so heartbeats
prove nothing; and a computation that never returns cannot be interrupted, only left together with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum

STEP_DEADLINE_SECONDS = 120.0
"""One step is a chunk of prompt or one token each: on the slowest machine seconds, never minutes."""
CHECK_SECONDS = 0.25
"""How often the watchdog looks; also the most by which it is late."""


class Activity(StrEnum):
    """What a thread is in the middle of."""

    IDLE = "idle"
    LOADING = "loading"
    """Without deadline here: only the daemon knows how large the files are and how slow the disk may be."""
    WARMING = "warming"
    PREPARING = "preparing a prompt"
    STEPPING = "stepping"


class Pulse:
    """A thread's sign of life: what it does, and how far it got. Written by that thread only."""

    def __init__(self) -> None:
        self.activity = Activity.IDLE
        self.progress = 0
        self.steps = 0
        self.memory_bytes: int | None = None

    def beat(self, activity: Activity) -> None:
        """Progress was made, and `activity` is what comes next."""
        self.activity = activity
        self.progress += 1


class Patience:
    """How long there was no progress, counted in the watchdog's own time only.

    A machine that slept or a process that was stopped did not hang: a look that comes late counts as one look.
    """

    def __init__(self, deadlines: Mapping[Activity, float]) -> None:
        self._deadlines = deadlines
        self._seen: tuple[Activity, int] = (Activity.IDLE, -1)
        self._waited = 0.0

    def look(self, activity: Activity, progress: int, elapsed: float) -> str | None:
        """`elapsed`: seconds since the last look. A message once the deadline of the activity has passed."""
        if (activity, progress) != self._seen:
            self._seen = (activity, progress)
            self._waited = 0.0
            return None
        self._waited += min(elapsed, 2 * CHECK_SECONDS)
        deadline = self._deadlines.get(activity)
        if deadline is None or self._waited < deadline:
            return None
        return f"no progress for {deadline:g} s while {activity.value}"


class Watchdog(threading.Thread):
    """Calls `wedged(message)` from a thread of its own, once."""

    def __init__(self, pulse: Pulse, deadlines: Mapping[Activity, float], wedged: Callable[[str], None]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._pulse = pulse
        self._patience = Patience(deadlines)
        self._wedged = wedged

    def run(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(CHECK_SECONDS)
            now = time.monotonic()
            message = self._patience.look(self._pulse.activity, self._pulse.progress, now - last)
            last = now
            if message is not None:
                self._wedged(message)
                return
