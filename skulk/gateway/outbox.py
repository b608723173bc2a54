"""What waits to be written to one slow client: a bounded buffer between a generation and a socket.

The side that fills it never waits, so a client that reads slowly cannot hold up the engine's batch.
"""

from __future__ import annotations

import asyncio
from collections import deque

from skulk.core.errors import REQ_SLOW_CLIENT, RequestError

BATCH_BYTES = 64 * 1024
"""Written at once: what sockets take in one go. More would leave the bound without its meaning."""


class Outbox:
    """Events of one stream in order. One task puts, another takes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._wake = asyncio.Event()
        self._silent_since = 0.0
        """When somebody began to wait, on the loop's clock."""
        self._alarm: asyncio.TimerHandle | None = None

    def put(self, event: bytes) -> None:
        """Raises RequestError when the client is too far behind."""
        if self._bytes + len(event) > self._bytes_max:
            raise RequestError(
                REQ_SLOW_CLIENT,
                f"the client is {self._bytes} bytes behind; the request was cancelled",
                status=503,
                kind="server_error",
            )
        self.keep(event)

    def keep(self, event: bytes) -> None:
        """Like `put`, but however full the box is: for the end of a choice, which is one small event."""
        self._events.append(event)
        self._bytes += len(event)
        self._wake.set()

    def close(self, *last: bytes) -> None:
        """Nothing comes after `last`, which is kept however full the box is."""
        for event in last:
            self.keep(event)
        self._closed = True
        self._wake.set()
        if self._alarm is not None:
            self._alarm.cancel()

    async def take(self, wait_seconds: float) -> bytes | None:
        """The next bytes to write; empty after `wait_seconds` of silence; None when all is written."""
        if not self._events and not self._closed:
            self._wake.clear()
            loop = asyncio.get_running_loop()
            self._silent_since = loop.time()
            if self._alarm is None:
                self._alarm = loop.call_later(wait_seconds, self._ring, loop, wait_seconds)
            await self._wake.wait()
        if not self._events:
            return None if self._closed else b""
        batch = bytearray()
        while self._events and len(batch) < BATCH_BYTES:
            batch += self._events.popleft()
        self._bytes -= len(batch)
        return bytes(batch)

    def _ring(self, loop: asyncio.AbstractEventLoop, wait_seconds: float) -> None:
        """One timer for a whole stream: one for each token would cost more than the token's way."""
        self._alarm = None
        left = self._silent_since + wait_seconds - loop.time()
        if self._wake.is_set():
            return  # nobody waits; who does next sets it again
        if left > 0:
            self._alarm = loop.call_later(left, self._ring, loop, wait_seconds)
        else:
            self._wake.set()
