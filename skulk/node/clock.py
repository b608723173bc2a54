"""Real time, behind the port."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Port `Clock` on the operating system's clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
