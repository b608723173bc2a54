"""One daemon's connection to the runner: messages out, bounded; who is on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from skulk.core.domain.requests import Owner
from skulk.core.wire.runner import FromRunner, encode

log = logging.getLogger(__name__)

UNSENT_BYTES_MAX = 64 * 1024 * 1024
"""A daemon that reads nothing while this much piles up hangs: it is cut off and may come back and resume."""


class Connection:
    """`owner` is set once the daemon has attached."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.owner: Owner | None = None
        self.cut_off = False
        """We closed it because it did not read; its requests may still be resumed."""

    def send(self, message: FromRunner) -> None:
        """Never blocks and never fails: a broken connection is noticed by its reader."""
        if self._writer.is_closing():
            return
        self._writer.write(encode(message))
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            log.warning("the daemon does not read: connection closed")
            self.cut_off = True
            self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    async def flush(self, seconds: float) -> None:
        """Wait until everything is sent, at most `seconds`."""
        self._writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self._writer.drain()
