"""What a client takes is written where it is put, what it does not take is bounded; silence is told when it has lasted.

On virtual time: `run` moves the clock on whenever nobody has anything to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from skulk.core.errors import RequestError
from skulk.gateway.outbox import BATCH_BYTES, Outbox
from skulk.sim.clock import run

LOOK_SECONDS = 10.0
QUIET = b":"


class Client:
    """Keeps what it is written, and when. From `closes` until `opens` nothing can be written."""

    def __init__(self, bytes_max: int = 1000) -> None:
        self.got: list[tuple[float, bytes]] = []
        self.fails: Exception | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.outbox = Outbox(bytes_max, self._write)

    async def _write(self, data: bytes) -> None:
        await self._open.wait()
        if self.fails is not None:
            raise self.fails
        self.got.append((asyncio.get_running_loop().time(), data))

    def closes(self) -> None:
        self._open.clear()

    def opens(self) -> None:
        self._open.set()

    async def reads_all(self) -> None:
        await self.outbox.write_all(b"head", QUIET, LOOK_SECONDS)

    def at(self, second: float, act: Callable[..., object], *arguments: bytes) -> None:
        asyncio.get_running_loop().call_at(second, act, *arguments)


def told(tell: Callable[[Client], Awaitable[None]], bytes_max: int = 1000) -> Client:
    """The client at the end of a story that `tell` began, when all is written."""

    async def story() -> Client:
        client = Client(bytes_max)
        writing = asyncio.ensure_future(client.reads_all())
        await asyncio.sleep(0)
        await tell(client)
        await writing
        return client

    return run(story())


def test_an_event_is_written_in_the_turn_of_the_loop_in_which_it_is_put() -> None:
    async def tell(client: Client) -> None:
        client.outbox.put(b"a")
        client.outbox.put(b"b")
        assert client.got == [(0, b"head"), (0, b"a"), (0, b"b")], "before anybody else had a turn"
        client.outbox.close(b"end")

    assert told(tell).got[-1] == (0, b"end")


def test_what_a_client_does_not_take_at_once_comes_later_in_order_and_together() -> None:
    async def tell(client: Client) -> None:
        client.closes()
        for event in (b"a", b"b", b"c"):
            client.outbox.put(event)
        client.at(5, client.opens)
        client.at(6, client.outbox.put, b"d")
        client.at(7, client.outbox.close, b"end")

    assert told(tell).got == [(0, b"head"), (5, b"a"), (5, b"bc"), (6, b"d"), (7, b"end")]


def test_a_client_that_is_too_far_behind_is_refused_more_and_told_the_end() -> None:
    async def tell(client: Client) -> None:
        client.closes()
        client.outbox.put(b"begun" * 100)
        for _ in range(10):
            client.outbox.put(b"x" * 100)
        with pytest.raises(RequestError, match="1000 bytes behind") as caught:
            client.outbox.put(b"x")
        assert caught.value.status == 503
        client.outbox.close(b"end")
        client.opens()

    got = b"".join(data for _, data in told(tell).got)
    assert got == b"head" + b"begun" * 100 + b"x" * 1000 + b"end"


def test_what_has_gathered_is_written_in_pieces_that_a_socket_takes() -> None:
    async def tell(client: Client) -> None:
        client.closes()
        client.outbox.put(b"a")
        for _ in range(5):
            client.outbox.put(b"x" * (BATCH_BYTES // 2))
        client.outbox.close()
        client.opens()

    got = told(tell, bytes_max=10 * BATCH_BYTES).got
    assert [len(data) for _, data in got] == [4, 1, BATCH_BYTES, BATCH_BYTES, BATCH_BYTES // 2]


@pytest.mark.parametrize("slow", [False, True])
def test_a_broken_connection_ends_the_writing_and_not_whoever_puts(slow: bool) -> None:
    async def tell(client: Client) -> None:
        if slow:
            client.closes()
        client.fails = ConnectionResetError("reset")
        client.outbox.put(b"a")
        client.outbox.put(b"b")
        client.opens()

    with pytest.raises(ConnectionResetError):
        told(tell)


def test_a_writer_that_is_ended_in_the_middle_of_a_write_leaves_nothing() -> None:
    async def story() -> None:
        client = Client()
        writing = asyncio.ensure_future(client.reads_all())
        await asyncio.sleep(0)
        client.closes()
        client.outbox.put(b"a")
        await asyncio.sleep(1)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        client.opens()
        await asyncio.sleep(1)
        assert client.got == [(0, b"head")]

    run(story())


def test_silence_is_told_each_time_it_has_lasted() -> None:
    async def tell(client: Client) -> None:
        client.at(25, client.outbox.close)

    assert told(tell).got == [(0, b"head"), (10, QUIET), (20, QUIET)]


def test_what_came_meanwhile_puts_silence_off() -> None:
    async def tell(client: Client) -> None:
        for second in (4, 8, 12):
            client.at(second, client.outbox.put, b"%d" % second)
        client.at(23, client.outbox.close)

    assert told(tell).got == [(0, b"head"), (4, b"4"), (8, b"8"), (12, b"12"), (22, QUIET)]


def test_silence_begins_when_all_is_written() -> None:
    """A client that was slow to take the last event is not told of a silence that it made itself."""

    async def tell(client: Client) -> None:
        client.at(1, client.closes)
        client.at(2, client.outbox.put, b"a")
        client.at(31, client.opens)
        client.at(45, client.outbox.close)

    assert told(tell).got == [(0, b"head"), (31, b"a"), (41, QUIET)]


def test_the_end_needs_no_timer() -> None:
    async def story() -> None:
        client = Client()
        client.at(3, client.outbox.close, b"last")
        await client.reads_all()
        assert client.got == [(0, b"head"), (3, b"last")]
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == 3

    run(story())
