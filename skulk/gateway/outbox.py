"""What waits to be written to one slow client: a bounded buffer between a generation and a socket.

The side that fills it never waits, so a client that reads slowly cannot hold up the engine's batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from skulk.core.errors import REQ_SLOW_CLIENT, RequestError

Writing = Coroutine[Any, Any, None]
BATCH_BYTES = 64 * 1024
"""Written at once: what sockets take in one go. More would leave the bound without its meaning."""


class Outbox:
    """Events of one stream in order. Whoever has one puts it; one task is in `write_all`, whose only work is what the
    client does not take at once."""

    def __init__(self, bytes_max: int, write: Callable[[bytes], Writing]) -> None:
        self._bytes_max = bytes_max
        self._write = write
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._idle = False
        """All is written, and `write_all` waits."""
        self._rest: Writing | None = None
        """A write that the client did not take at once."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._silent_since = 0.0
        """When the last write was over, on the loop's clock."""
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
        if self._idle:
            self._rest = begun(self._write(event))
            if self._rest is None:
                self._silent_since = self._loop.time()
                return
            self._idle = False
        else:
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

    async def write_all(self, first: bytes, keep_alive: bytes, keep_alive_seconds: float) -> None:
        """Write `first` and all events to the last, and `keep_alive` after so many seconds of silence. Raises what
        writing raises."""
        await self._write(first)
        while self._events or not self._closed:
            if self._events:
                await self._write(self._batch())
            elif not await self._something(keep_alive_seconds):
                await self._write(keep_alive)

    async def _something(self, seconds: float) -> bool:
        """Wait until there is something to do; False when nothing came in so many seconds."""
        self._wake.clear()
        self._silent_since = self._loop.time()
        if self._alarm is None:
            self._alarm = self._loop.call_later(seconds, self._ring, seconds)
        self._idle = True
        await self._wake.wait()
        self._idle = False
        rest, self._rest = self._rest, None
        if rest is not None:
            await rest
        return rest is not None or bool(self._events) or self._closed

    def _batch(self) -> bytes:
        batch = bytearray()
        while self._events and len(batch) < BATCH_BYTES:
            batch += self._events.popleft()
        self._bytes -= len(batch)
        return bytes(batch)

    def _ring(self, seconds: float) -> None:
        """One timer for a whole stream: one for each token would cost more than the token's way."""
        self._alarm = None
        left = self._silent_since + seconds - self._loop.time()
        if not self._idle:
            return  # somebody writes; who waits next sets it again
        if left > 0:
            self._alarm = self._loop.call_later(left, self._ring, seconds)
        else:
            self._wake.set()


def begun(work: Writing) -> Writing | None:
    """Run `work` as far as it need not wait: to its end (None), or else the rest of it, to be awaited by a task.

    What an eager task is in Python 3.12: nearly every write is over at once, and a turn of the loop for each would cost
    more than the write. A `work` that fails fails where the rest is awaited.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    except Exception as error:  # noqa: BLE001  (see above)
        return _failed(error)
    return _rest(work, awaited)


@coroutine
def _failed(error: Exception) -> Generator[Any, Any, None]:
    yield from ()
    raise error


@coroutine
def _rest(work: Writing, awaited: Any) -> Generator[Any, Any, None]:
    try:
        yield awaited
        yield from work
    finally:
        work.close()
