"""Questions to things that may hang: drivers, tools, network disks.

Each lane asks with a thread of its own and at most one at a time. A question that is not answered by its deadline
is left alone, and the lane answers None until it comes back: threads never pile up, the event loop never waits, and,
the threads being daemons, neither does the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger(component="telemetry")


class Lane:
    """One line of questions. `seconds`: the deadline of each."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._busy = False
        self._missed = False

    async def ask(self, question: Callable[[], T]) -> T | None:
        """The answer, or None when it is late or an earlier question still waits. Raises what the question raises."""
        if self._busy:
            return None
        self._busy = True
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=self._work, args=(loop, answer, question), name=self._name, daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                value = await answer
        except TimeoutError:
            if not self._missed:
                self._missed = True
                _log.warning("telemetry_missed", question=self._name, seconds=self._seconds)
            return None
        self._missed = False
        return value

    def _work(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], question: Callable[[], T]) -> None:
        value: T | None = None
        error: Exception | None = None
        try:
            value = question()
        except Exception as raised:  # noqa: BLE001  (raised again where it was asked)
            error = raised

        def deliver() -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        self._busy = False
        # The loop may be closed by now: then nobody asks any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver)
