"""The telemetry loop: every kind of reading at its own pace, kept here, reported to the other nodes.

Nothing is decided by readings, and nothing waits for them. Each kind has a task of its own, so one that hangs holds
up no other: its reading just grows old, which health tells. The node loop is woken when a person would see a
difference, and no more often than WAKE_SECONDS. Works on ports alone.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping

import structlog

from skulk.core.domain import Reading
from skulk.core.ports import Clock, Sampler
from skulk.core.readings import INTERVAL_SECONDS, Kind, Values, is_seen

_log = structlog.get_logger(component="telemetry")

# A view is built and sent to every watcher after a wake-up: no person reads faster than this.
WAKE_SECONDS = 2.0
# How late the event loop is, is measured by sleeping this long; the worst since the last reading is told.
LAG_PROBE_SECONDS = 0.5

Report = Callable[[str, Mapping[str, object]], None]


class Telemetry:
    """`report(kind, values)` is `ControlPlane.report`, None on a node without planes; `wake` is the node loop's."""

    def __init__(
        self,
        sampler: Sampler,
        clock: Clock,
        *,
        report: Report | None = None,
        wake: Callable[[], None] = lambda: None,
        intervals: Mapping[Kind, float] = INTERVAL_SECONDS,
    ) -> None:
        self._sampler = sampler
        self._clock = clock
        self._report = report
        self._wake = wake
        self._intervals = intervals
        self._kept: dict[Kind, tuple[float, Values]] = {}
        self._shown: dict[Kind, Values] = {}
        self._news = asyncio.Event()
        self._failed: set[Kind] = set()
        self._lag_seconds = 0.0

    def readings(self) -> dict[str, Reading]:
        """The newest reading of each kind with its age now. A kind that was never measured is absent."""
        now = self._clock.now()
        return {kind.value: Reading(values, max(0.0, now - at)) for kind, (at, values) in self._kept.items()}

    async def run(self) -> None:
        """Measure until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe_lag())
            tasks.create_task(self._wake_when_seen())
            for kind in Kind:
                tasks.create_task(self._follow(kind))

    async def _follow(self, kind: Kind) -> None:
        while True:
            begun = self._clock.now()
            try:
                values = await self._sampler.sample(kind)
            except Exception:  # noqa: BLE001  (logged; a broken sensor must not end the daemon)
                # Logged once and not every two seconds: the reading's age tells that it goes on.
                if kind not in self._failed:
                    self._failed.add(kind)
                    _log.error("telemetry_failed", kind=kind.value, exception=traceback.format_exc())
            else:
                self._failed.discard(kind)
                self._keep(kind, begun, values)
            await self._clock.sleep(self._intervals[kind])

    def _keep(self, kind: Kind, at: float, values: Values) -> None:
        if kind is Kind.DAEMON:
            values = {**values, "loopLagSeconds": round(self._lag_seconds, 3)}
            self._lag_seconds = 0.0
        self._kept[kind] = (at, values)
        if is_seen(self._shown.get(kind, {}), values):
            self._news.set()
        if self._report is not None:
            self._report(kind.value, values)

    async def _wake_when_seen(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            self._shown = {kind: values for kind, (_, values) in self._kept.items()}
            self._wake()
            await self._clock.sleep(WAKE_SECONDS)

    async def _probe_lag(self) -> None:
        while True:
            before = self._clock.now()
            await self._clock.sleep(LAG_PROBE_SECONDS)
            self._lag_seconds = max(self._lag_seconds, self._clock.now() - before - LAG_PROBE_SECONDS)
