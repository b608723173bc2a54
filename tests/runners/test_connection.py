"""What a connection to a runner puts on the wire, and when: driven as the event loop drives it, with a transport that
keeps what is written."""

import asyncio

from skulk.adapters.runners.connection import Connection
from skulk.core.domain import RequestId
from skulk.core.wire.runner import Cancel, Describe, Drain, encode


class Kept(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 1000


def connected() -> tuple[Connection, Kept]:
    connection, transport = Connection(), Kept()
    connection.connection_made(transport)
    return connection, transport


def test_what_is_sent_in_one_turn_of_the_loop_is_one_piece_in_its_order() -> None:
    first, second, third = Describe(), Cancel(RequestId("a"), "why"), Drain()

    async def talk() -> list[bytes]:
        connection, transport = connected()
        connection.send(first)
        connection.write(encode(second))
        assert transport.pieces == []
        assert connection.unsent_bytes() == 1000 + len(encode(first)) + len(encode(second))
        await asyncio.sleep(0)
        assert connection.unsent_bytes() == 1000
        connection.send(third)
        await asyncio.sleep(0)
        return transport.pieces

    assert asyncio.run(talk()) == [encode(first) + encode(second), encode(third)]


def test_nothing_is_written_to_a_connection_that_ends_in_the_same_turn() -> None:
    async def talk() -> list[bytes]:
        connection, transport = connected()
        connection.send(Drain())
        transport.closing = True
        await asyncio.sleep(0)
        return transport.pieces

    assert asyncio.run(talk()) == []
