"""The engine's thread writes into the same socket as the event loop's: whole messages, in order, never waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from skulk.core.wire.runner import Decoder, Report
from skulk.engines.connection import Connection

LONG = "x" * 1_000_000
"""More than the kernel takes at once."""


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, writer = await asyncio.open_connection(sock=ours)
    connection = Connection(writer)
    try:
        yield connection, theirs
    finally:
        connection.close()
        theirs.close()


async def details(peer: socket.socket, count: int) -> list[str]:
    """So many messages, as they were sent."""
    decoder, found = Decoder(), list[str]()
    while len(found) < count:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 65536), 30)
        assert data, f"the connection ended after {len(found)} messages"
        for message in decoder.feed(data):
            assert isinstance(message, Report)
            found.append(message.detail)
    return found


def test_a_message_is_there_without_the_event_loop() -> None:
    async def story() -> None:
        async with pair() as (connection, peer):
            assert connection.can_send_at_once()
            assert connection.send_at_once(Report("ready", "a"))
            assert Decoder().feed(peer.recv(1000)) == [Report("ready", "a")]

    asyncio.run(story())


def test_what_the_kernel_does_not_take_comes_first() -> None:
    async def story() -> None:
        async with pair() as (connection, peer):
            assert not connection.send_at_once(Report("ready", LONG))
            assert not connection.can_send_at_once()
            # Before the rest was asked for: a heartbeat, say.
            connection.send(Report("ready", "b"))
            connection.send_rest()
            assert not connection.can_send_at_once()
            assert await details(peer, 2) == [LONG, "b"]
            # The transport may have more to do after the last byte was read.
            await asyncio.sleep(0)
            assert connection.can_send_at_once()
            assert connection.send_at_once(Report("ready", "c"))
            assert await details(peer, 1) == ["c"]

    asyncio.run(story())


def test_nothing_goes_past_what_the_event_loop_has_not_sent() -> None:
    async def story() -> None:
        async with pair() as (connection, _):
            connection.send(Report("ready", LONG))
            assert not connection.can_send_at_once()

    asyncio.run(story())


def test_a_full_socket_takes_nothing_and_loses_nothing() -> None:
    async def story() -> None:
        async with pair() as (connection, peer):
            sent = 0
            while connection.send_at_once(Report("ready", f"{sent}")):
                sent += 1
            connection.send_rest()
            assert await details(peer, sent + 1) == [f"{number}" for number in range(sent + 1)]

    asyncio.run(story())


def test_a_rest_is_sent_before_the_end() -> None:
    async def story() -> None:
        async with pair() as (connection, peer):
            connection.send_at_once(Report("ready", LONG))
            connection.close()
            assert await details(peer, 1) == [LONG]

    asyncio.run(story())


def test_a_peer_that_is_gone_is_nobodys_error_here() -> None:
    async def story() -> None:
        async with pair() as (connection, peer):
            peer.close()
            assert connection.send_at_once(Report("ready", "a"))

    asyncio.run(story())
