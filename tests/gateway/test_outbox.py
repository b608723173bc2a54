"""Silence is told when it has lasted, and only then; one timer serves a whole stream. On virtual time."""

from __future__ import annotations

import asyncio

from skulk.gateway.outbox import Outbox
from skulk.sim.clock import run


def test_silence_is_told_each_time_it_has_lasted() -> None:
    async def story() -> None:
        outbox, loop = Outbox(1000), asyncio.get_running_loop()
        assert await outbox.take(10) == b""
        assert loop.time() == 10
        assert await outbox.take(10) == b""
        assert loop.time() == 20

    run(story())


def test_what_came_meanwhile_puts_silence_off() -> None:
    async def story() -> None:
        outbox, loop = Outbox(1000), asyncio.get_running_loop()
        for second in (4, 8, 12):
            loop.call_at(second, outbox.put, f"{second}".encode())
        assert [await outbox.take(10) for _ in range(3)] == [b"4", b"8", b"12"]
        assert await outbox.take(10) == b""
        assert loop.time() == 22

    run(story())


def test_silence_begins_when_somebody_waits() -> None:
    """A client that was slow to take the last event is not told of a silence that it made itself."""

    async def story() -> None:
        outbox, loop = Outbox(1000), asyncio.get_running_loop()
        loop.call_at(1, outbox.put, b"a")
        assert await outbox.take(10) == b"a"
        await asyncio.sleep(30)
        outbox.put(b"b")
        assert await outbox.take(10) == b"b"
        assert await outbox.take(10) == b""
        assert loop.time() == 41

    run(story())


def test_the_end_needs_no_timer() -> None:
    async def story() -> None:
        outbox, loop = Outbox(1000), asyncio.get_running_loop()
        loop.call_at(3, outbox.close, b"last")
        assert await outbox.take(10) == b"last"
        assert await outbox.take(10) is None
        assert loop.time() == 3

    run(story())
