"""One connection to a runner: attach, check the hello, then whole messages until it ends.

Knows nothing of locks, deadlines or what the messages mean: `link.py` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from skulk.core.domain import LastWords, Launch
from skulk.core.errors import RUN_PROTOCOL, ErrorCode
from skulk.core.wire.runner import (
    PROTOCOL,
    AnyMessage,
    Attach,
    Decoder,
    Hello,
    ToRunner,
    Unknown,
    WireError,
    encode,
)


class Mute(Exception):
    """The runner gives no hello, a wrong one, or bytes that are no message: nobody can work with it."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.words = LastWords(None, code.id, why)


class Connection(asyncio.Protocol):
    """An attached connection. Belongs to one event loop.

    A protocol and no stream: a token goes on in the very callback that read it, without a task in between.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._unwritten: list[bytes] = []
        """Written to the socket at the end of this turn of the loop."""
        self._decoder = Decoder()
        self._waiting: list[AnyMessage] = []
        """Messages that nobody takes yet."""
        self._take: Callable[[AnyMessage], None] | None = None
        self._came = asyncio.Event()
        self._ended = asyncio.Event()
        self._error: Exception | None = None

    @classmethod
    async def open(cls, address: str, attach: Attach, launch: Launch) -> tuple[Connection, Hello]:
        """Connect to the socket at `address` and attach to the runner that was started with `launch`.

        Raises OSError when there is no connection, Mute when what answers is not that runner. Waits for a hello
        without a limit: the caller has the deadline.
        """
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, address)
        try:
            return connection, await connection._greet(attach, launch)
        except BaseException:
            connection.drop()
            raise

    def send(self, message: ToRunner) -> None:
        """Raises WireError for a message above the protocol's limit."""
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        """Bytes of an encoded message. On a connection that has ended they go nowhere; `follow` ends too.

        What is written in one turn of the loop goes out in one piece: requests that came together reach the engine
        together, and it reads their prompts in one pass. The first alone would wake the runner, on a busy machine
        before the second is written.
        """
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._unwritten.append(data)

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() + sum(map(len, self._unwritten))

    async def follow(self, take: Callable[[AnyMessage], None]) -> None:
        """Call `take` with every message until the connection ends. Raises Mute on bytes that are no message, and
        what `take` raises."""
        waiting, self._waiting = self._waiting, []
        self._take = take
        self._pass_on(waiting)
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    def drop(self) -> None:
        """End it at once. What is unsent is not worth waiting for, and a frozen peer would never take it."""
        self._transport.abort()

    # --- called by the event loop ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except WireError as error:
            self._end(Mute(RUN_PROTOCOL, f"it sent what is no message: {error}"))
        else:
            self._pass_on(messages)

    def connection_lost(self, error: Exception | None) -> None:
        # A reset is an end like any other: the lock tells what it means.
        self._end(None)

    # --- small parts ----------------------------------------------------------------------------------------

    def _write_out(self) -> None:
        data, self._unwritten = b"".join(self._unwritten), []
        if not self._transport.is_closing():
            self._transport.write(data)

    def _pass_on(self, messages: list[AnyMessage]) -> None:
        if self._ended.is_set():
            return
        if self._take is None:
            self._waiting += messages
            self._came.set()
            return
        try:
            for message in messages:
                self._take(message)
        except Exception as error:  # noqa: BLE001  (raised where the connection is followed)
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        """The first reason counts."""
        if not self._ended.is_set():
            self._error = error
        self._ended.set()
        self._came.set()

    async def _greet(self, attach: Attach, launch: Launch) -> Hello:
        self.send(attach)
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting and isinstance(self._waiting[0], Unknown):
                del self._waiting[0]
            if self._waiting:
                break
            if self._ended.is_set():
                raise self._error or ConnectionResetError("the runner closed the connection")
        hello = self._waiting.pop(0)
        if not isinstance(hello, Hello):
            raise Mute(RUN_PROTOCOL, f"its first message is {type(hello).__name__} instead of a hello")
        if hello.protocol != PROTOCOL:
            raise Mute(RUN_PROTOCOL, f"it speaks protocol {hello.protocol}, this version {PROTOCOL}")
        if (hello.uid, hello.launch_hash) != (launch.uid, launch.launch_hash):
            found = f"{hello.uid} with launch hash {hello.launch_hash}"
            raise Mute(RUN_PROTOCOL, f"it says that it is {found}")
        return hello
