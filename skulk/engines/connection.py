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
    """`owner` is set once the daemon has attached. Used under the runner's lock, by the event loop's thread, except
    `send_at_once`, which is for another one."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._transport = writer.transport
        # One of our own: the transport closes its socket when it likes, and the number may be somebody else's then.
        self._socket = writer.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        self._rest = b""
        """What of a message was not sent at once, before everything else."""
        self.owner: Owner | None = None
        self.cut_off = False
        """We closed it because it did not read; its requests may still be resumed."""

    def send(self, message: FromRunner) -> None:
        """Never blocks and never fails: a broken connection is noticed by its reader."""
        self._write(encode(message))

    def can_send_at_once(self) -> bool:
        """Nothing waits to be sent."""
        return not (self._rest or self._transport.is_closing() or self._transport.get_write_buffer_size())

    def send_at_once(self, message: FromRunner) -> bool:
        """Like `send`, in a thread that is not the event loop's, and after `can_send_at_once`. False: `send_rest` has
        to be called in the loop's thread."""
        data = encode(message)
        try:
            self._rest = data[self._socket.send(data) :]
        except BlockingIOError:
            self._rest = data
        except OSError:
            return True  # noticed by its reader
        return not self._rest

    def send_rest(self) -> None:
        self._write(b"")

    def _write(self, data: bytes) -> None:
        if self._writer.is_closing():
            return
        rest, self._rest = self._rest, b""
        self._writer.write(rest + data)
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            log.warning("the daemon does not read: connection closed")
            self.cut_off = True
            self._transport.abort()

    def close(self) -> None:
        self.send_rest()
        self._socket.close()
        self._writer.close()

    async def flush(self, seconds: float) -> None:
        """Wait until everything is sent, at most `seconds`."""
        self._transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self._writer.drain()
