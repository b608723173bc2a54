"""From the library's threads to the event loop: one bounded queue, one wake-up per burst.

Callbacks of the library must never block and never raise; they only append here. What does not fit is dropped and
counted: documents are sent again by their authors, entries of streams on a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable

import structlog

WAITING_MAX = 65_536
"""Messages between two turns of a loop that has stopped for many seconds."""
WAITING_BYTES_MAX = 256 * 1024 * 1024
"""Their payloads together."""
TURN_MAX = 256
"""Handled before other coroutines get their turn."""

log = structlog.get_logger(__name__)


class Bridge:
    """Runs functions on the loop in the order in which they were posted from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.dropped = 0
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._bytes = 0
        self._armed = False

    def post(self, act: Callable[[], None], size: int = 0, *, must: bool = False) -> None:
        """Run `act` on the loop. `must`: even when the queue is full (rare things, such as liveliness)."""
        with self._lock:
            full = len(self._waiting) >= WAITING_MAX or self._bytes + size > WAITING_BYTES_MAX
            if full and not must:
                self.dropped += 1
                return
            self._waiting.append((size, act))
            self._bytes += size
            arm = not self._armed
            self._armed = True
        if arm:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any longer
                self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        for _ in range(TURN_MAX):
            with self._lock:
                if not self._waiting:
                    self._armed = False
                    return
                size, act = self._waiting.popleft()
                self._bytes -= size
            try:
                act()
            except Exception:  # noqa: BLE001  (told in the log; later messages must come through)
                log.error("plane_message_failed", exception=traceback.format_exc())
        self._loop.call_soon(self._turn)
