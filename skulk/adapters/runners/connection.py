"""One connection to a runner: attach, check the hello, then whole messages until it ends.

Knows nothing of locks, deadlines or what the messages mean: `link.py` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

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

READ_BYTES = 64 * 1024
"""One read of the socket: many steps of a busy batch."""


class Mute(Exception):
    """The runner gives no hello, a wrong one, or bytes that are no message: nobody can work with it."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.words = LastWords(None, code.id, why)


class Connection:
    """An attached connection. Belongs to one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._rest: list[AnyMessage] = []
        """What came together with the hello."""

    @classmethod
    async def open(cls, address: str, attach: Attach, launch: Launch) -> tuple[Connection, Hello]:
        """Connect to the socket at `address` and attach to the runner that was started with `launch`.

        Raises OSError when there is no connection, Mute when what answers is not that runner. Waits for a hello
        without a limit: the caller has the deadline.
        """
        connection = cls(*await asyncio.open_unix_connection(address))
        try:
            return connection, await connection._greet(attach, launch)
        except BaseException:
            connection.drop()
            raise

    def send(self, message: ToRunner) -> None:
        """Raises WireError for a message above the protocol's limit."""
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        """Bytes of an encoded message. On a connection that has ended they go nowhere; `messages` ends too."""
        if not self._writer.transport.is_closing():
            self._writer.write(data)

    def unsent_bytes(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    async def messages(self) -> AsyncGenerator[AnyMessage, None]:
        """Whole messages until the connection ends. Raises Mute on bytes that are no message."""
        rest, self._rest = self._rest, []
        for message in rest:
            yield message
        while data := await self._read():
            for message in self._decode(data):
                yield message

    def drop(self) -> None:
        """End it at once. What is unsent is not worth waiting for, and a frozen peer would never take it."""
        self._writer.transport.abort()

    async def _greet(self, attach: Attach, launch: Launch) -> Hello:
        self.send(attach)
        while True:
            data = await self._read()
            if not data:
                raise ConnectionResetError("the runner closed the connection")
            messages = self._decode(data)
            while messages and isinstance(messages[0], Unknown):
                del messages[0]
            if messages:
                break
        hello, self._rest = messages[0], messages[1:]
        if not isinstance(hello, Hello):
            raise Mute(RUN_PROTOCOL, f"its first message is {type(hello).__name__} instead of a hello")
        if hello.protocol != PROTOCOL:
            raise Mute(RUN_PROTOCOL, f"it speaks protocol {hello.protocol}, this version {PROTOCOL}")
        if (hello.uid, hello.launch_hash) != (launch.uid, launch.launch_hash):
            found = f"{hello.uid} with launch hash {hello.launch_hash}"
            raise Mute(RUN_PROTOCOL, f"it says that it is {found}")
        return hello

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except OSError:
            return b""  # a reset is an end like any other: the lock tells what it means

    def _decode(self, data: bytes) -> list[AnyMessage]:
        try:
            return self._decoder.feed(data)
        except WireError as error:
            raise Mute(RUN_PROTOCOL, f"it sent what is no message: {error}") from error
