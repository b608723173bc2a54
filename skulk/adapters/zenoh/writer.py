"""A thread that makes the library's calls: sending may wait for room, and the event loop must not.

Bounded: what does not fit is dropped and counted, never queued without limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable

import structlog

QUEUE_MAX = 8192
"""Calls waiting while a full network is given its moment; streams and documents are sent again by their owners."""

log = structlog.get_logger(__name__)


class Writer:
    """Runs functions one after the other on its own thread."""

    def __init__(self, name: str) -> None:
        self.dropped = 0
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE_MAX)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, act: Callable[[], None]) -> bool:
        """Run `act` soon; False when the queue is full and it will never run."""
        try:
            self._queue.put_nowait(act)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    async def flush(self) -> None:
        """Return when everything handed in so far has run."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        if self.do(lambda: _tell(loop, done)):
            await done.wait()

    def end(self) -> None:
        """Let the thread end after what is queued; one that is stuck in a call is left to the process's end."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def _run(self) -> None:
        while True:
            act = self._queue.get()
            if act is None:
                return
            try:
                act()
            except Exception as error:  # noqa: BLE001 - a closing session raises; what is lost is sent again
                log.warning("planes_send_failed", error=str(error))


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(done.set)
