"""Between the library's threads and the event loop: in order, bounded, and one failure is not the end."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.planes import Planes
from skulk.adapters.zenoh import PlaneSettings, ZenohTransport, identity, open_planes
from skulk.adapters.zenoh import bridge as bridges
from skulk.adapters.zenoh import session as sessions
from skulk.adapters.zenoh import writer as writers
from skulk.adapters.zenoh.bridge import Bridge
from skulk.adapters.zenoh.writer import Writer
from skulk.core.domain import BootId, Life, NodeName, Topic
from skulk.core.errors import InvalidInput, Transient
from skulk.node.clock import SystemClock
from tests.planes.fleetca import Authority
from tests.planes.planeworlds import CountingHost, free_port


def test_posts_of_another_thread_run_on_the_loop_in_order():
    async def main() -> None:
        bridge, seen, done = Bridge(asyncio.get_running_loop()), [], asyncio.Event()

        def post() -> None:
            for number in range(5 * bridges.TURN_MAX):
                bridge.post(lambda n=number: seen.append((n, threading.current_thread())))  # type: ignore[misc]
            bridge.post(lambda: 1 / 0)
            bridge.post(done.set)

        threading.Thread(target=post).start()
        await asyncio.wait_for(done.wait(), 30)
        assert [n for n, _ in seen] == list(range(5 * bridges.TURN_MAX))
        assert {thread for _, thread in seen} == {threading.current_thread()}

    asyncio.run(main())


def test_a_loop_that_stands_still_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bridges, "WAITING_MAX", 10)
    monkeypatch.setattr(bridges, "WAITING_BYTES_MAX", 100)

    async def main() -> None:
        bridge, seen = Bridge(asyncio.get_running_loop()), []
        for number in range(20):
            bridge.post(lambda n=number: seen.append(n))  # type: ignore[misc]
        bridge.post(lambda: seen.append(99), must=True)
        await asyncio.sleep(0)
        assert (seen, bridge.dropped) == ([*range(10), 99], 10)
        bridge.post(lambda: seen.append(100), 90)
        bridge.post(lambda: seen.append(101), 20)
        await asyncio.sleep(0)
        assert (seen[-1], bridge.dropped) == (100, 11)

    asyncio.run(main())


def test_posting_to_a_loop_that_is_closed_is_harmless():
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop)
    loop.close()
    bridge.post(lambda: None)


def test_a_writer_that_is_stuck_drops_what_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writers, "QUEUE_MAX", 3)

    async def main() -> None:
        writer, hold, running, done = Writer("test"), threading.Event(), threading.Event(), []
        writer.do(lambda: (running.set(), hold.wait(30)))
        await asyncio.to_thread(running.wait, 30)
        writer.do(lambda: 1 / 0)
        assert [writer.do(lambda n=n: done.append(n)) for n in range(4)] == [True, True, False, False]  # type: ignore[misc]
        assert writer.dropped == 2
        hold.set()
        while not done:
            await writer.flush()
        await writer.flush()
        assert done == [0, 1]
        writer.end()

    asyncio.run(main())


def test_a_session_that_does_not_close_is_reported_at_the_deadline():
    async def main() -> None:
        transport = ZenohTransport(PlaneSettings("n", (f"tcp/127.0.0.1:{free_port()}",)))
        hold = threading.Event()

        class Hanging:
            def close(self) -> None:
                hold.wait(30)

        transport._slow, transport._fast = Writer("slow"), Writer("fast")
        transport._open = sessions._Open(Hanging())  # type: ignore[arg-type]
        assert not await transport.close(0.2)
        hold.set()
        assert await transport.close(0.2), "nothing is open any longer"

    asyncio.run(main())


def test_attempts_to_open_on_a_taken_port_leave_nothing_behind():
    async def main() -> None:
        clock, port = SystemClock(), free_port()
        life = Life(NodeName("a"), BootId("boota"), 1)

        async def join() -> Planes:
            settings = PlaneSettings("demo", (f"tcp/127.0.0.1:{port}",))
            return await open_planes(settings, life, keys={}, clock=clock, host=CountingHost(clock), wake=lambda: None)

        with socket.create_server(("127.0.0.1", port)):
            for _ in range(3):
                with pytest.raises(Transient, match="cannot be opened") as caught:
                    await join()
        assert ".rs" not in caught.value.message
        assert "in use" in caught.value.message
        writers_left = [t for t in threading.enumerate() if t.name.startswith("skulk-planes")]
        for thread in writers_left:
            await asyncio.to_thread(thread.join, 30)
        assert not any(t.is_alive() for t in writers_left)
        assert await (await join()).close(5.0)

    asyncio.run(main())


def test_a_new_dial_list_that_cannot_be_opened_at_first_is_opened_by_the_next_attempt():
    async def main() -> None:
        clock, port, other = SystemClock(), free_port(), free_port()
        settings = PlaneSettings("demo", (f"tcp/127.0.0.1:{port}",))
        life = Life(NodeName("a"), BootId("boota"), 1)
        a = await open_planes(settings, life, keys={}, clock=clock, host=CountingHost(clock), wake=lambda: None)
        full = (f"tcp/127.0.0.1:{other}",)
        transport = a._transport
        assert isinstance(transport, ZenohTransport)
        transport._settings = replace(settings, listen=(f"tcp/127.0.0.1:{other}",))
        with socket.create_server(("127.0.0.1", other)), pytest.raises(Transient, match="cannot be opened"):
            await a.redial(full)
        transport._settings = replace(transport._settings, listen=settings.listen)
        assert await a.redial(full), "nothing was open"
        assert not await a.redial(full)
        assert await a.close(5.0)

    asyncio.run(main())


def test_plain_planes_on_loopback_work_and_show_it():
    woken = asyncio.Event()

    async def join(name: str, port: int, *dial: str) -> Planes:
        settings = PlaneSettings("demo", (f"tcp/127.0.0.1:{port}",), dial)
        life = Life(NodeName(name), BootId(f"boot{name}"), 1)
        clock = SystemClock()
        return await open_planes(settings, life, keys={}, clock=clock, host=CountingHost(clock), wake=woken.set)

    async def main() -> None:
        port = free_port()
        a = await join("a", port)
        b = await join("b", free_port(), f"tcp/127.0.0.1:{port}")
        try:
            b.publish(Topic.STATUS, b"here")
            async with asyncio.timeout(30):
                while "b" not in a.observe().documents[Topic.STATUS] or "b" not in a.observe().live():
                    woken.clear()
                    await woken.wait()
            assert a.observe().plain
            assert await a.ask(NodeName("b"), b"?", deadline_seconds=10.0) == b"to a: ?"
        finally:
            assert await b.close(5.0)
            assert await a.close(5.0)

    asyncio.run(main())


def test_unusable_certificates_are_an_error_before_anything_is_opened(tmp_path: Path):
    files = Authority(tmp_path).files("b")
    settings = PlaneSettings("demo", ("tls/127.0.0.1:1",), tls=files)
    opened: list[Any] = []
    with pytest.raises(InvalidInput, match="not for node a"):
        opened.append(identity(settings, Life(NodeName("a"), BootId("x"), 1)))
    assert opened == []
