"""Following a runner whose every word is chosen by the test: a server in this process that holds the lock."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.runners.link import RunnerLink
from skulk.adapters.runners.places import Places
from skulk.core.domain import Accepted, Finish, Link, RequestId, RunnerFacts, RunnerReport, Tokens
from skulk.core.errors import RequestError
from skulk.core.wire.runner import (
    AcceptedFrame,
    Ack,
    Attach,
    Cancel,
    Decoder,
    Drain,
    Generate,
    Heartbeat,
    Hello,
    Report,
    Step,
    encode,
)
from tests.runners.reading import frames_of

UID = "0123456789abcdef"


class Puppet:
    """The runner's side. `hello` answers every attach; `None` stays silent."""

    def __init__(self, site: Any, tmp_path: Path) -> None:
        self.place = Places(site.run_dir).place(UID)
        self.place.path.mkdir()
        self.lock = self.place.take_lock()
        self.hello: bytes | None = encode(Hello(UID, "launch-1", 7, "ready"))
        self.heard: list[Any] = []
        self.changed = asyncio.Condition()
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        self.writer = writer
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for message in decoder.feed(data):
                    if isinstance(message, Attach) and self.hello is not None:
                        writer.write(self.hello)
                    async with self.changed:
                        self.heard.append(message)
                        self.changed.notify_all()
        writer.close()

    async def hears(self, kind: type, count: int = 1) -> Any:
        async with self.changed, asyncio.timeout(30):
            await self.changed.wait_for(lambda: sum(isinstance(m, kind) for m in self.heard) >= count)
        return [m for m in self.heard if isinstance(m, kind)][count - 1]

    def say(self, message: Any) -> None:
        assert self.writer is not None
        self.writer.write(encode(message))

    def die(self) -> None:
        """Close the socket, then release the lock, as the kernel does."""
        assert self.writer is not None
        self.writer.transport.abort()
        os.close(self.lock)
        self.lock = -1


@contextlib.asynccontextmanager
async def puppet_and_link(site: Any, tmp_path: Path) -> AsyncIterator[tuple[Puppet, RunnerLink]]:
    puppet = Puppet(site, tmp_path)
    server = await asyncio.start_unix_server(puppet.serve, puppet.place.address)
    loop = asyncio.get_running_loop()
    link = RunnerLink(
        puppet.place,
        RunnerFacts(site.launch(), Link.CONNECTING),
        site.owner,
        clock=loop.time,
        wake=lambda: site.wakes.append(None),
        load_changed=lambda: site.loads.append(None),
        hello_seconds=5.0,
    )
    try:
        yield puppet, link
    finally:
        await link.close()
        server.close()
        if puppet.lock >= 0:
            os.close(puppet.lock)


def story(site: Any, tmp_path: Path, tell: Callable[[Puppet, RunnerLink], Awaitable[None]]) -> None:
    async def main() -> None:
        async with puppet_and_link(site, tmp_path) as (puppet, link):
            await tell(puppet, link)

    asyncio.run(main())


async def accepted(site: Any, puppet: Puppet, link: RunnerLink, name: str = "r1") -> Any:
    waiting = asyncio.create_task(link.generate(site.request(name), site.owner))
    await puppet.hears(Generate)
    assert (link.facts.running, link.facts.waiting) == (0, 1), "counted as soon as it is sent"
    puppet.say(AcceptedFrame(RequestId(name), Accepted((1,), 1, 0, False, 9)))
    generation = await waiting
    assert (link.facts.running, link.facts.waiting) == (1, 0), "before any heartbeat says so"
    return generation


def step(number: int, finish: Finish | None = None) -> Step:
    return Step(((RequestId("r1"), Tokens(number, (number,), b"x", finish)),))


def test_a_stream_goes_on_over_a_new_connection_without_repeat_or_gap(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        frames = frames_of(await accepted(site, puppet, link))
        puppet.say(step(1))
        puppet.say(step(2))
        assert [(await anext(frames)).number, (await anext(frames)).number] == [1, 2]
        puppet.hello = encode(Hello(UID, "launch-1", 7, "ready", open={"r1": 3}))
        assert puppet.writer is not None
        puppet.writer.transport.abort()
        attach = await puppet.hears(Attach, 2)
        assert attach.resume == {"r1": 2}, "to be replayed from the next"
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        for message in (step(2), step(3), step(4, Finish.STOP)):
            puppet.say(message)
        assert [frame.number async for frame in frames] == [3, 4]
        assert (await puppet.hears(Ack)).numbers == {"r1": 4}

    story(site, tmp_path, tell)


def test_a_request_that_the_runner_no_longer_knows_after_a_new_connection_is_lost(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        frames = frames_of(await accepted(site, puppet, link))
        assert puppet.writer is not None
        puppet.writer.transport.abort()
        with pytest.raises(RequestError, match="no longer knows"):
            await anext(frames)
        await site.until(lambda: (link.facts.running, link.facts.link) == (0, Link.CONNECTED))

    story(site, tmp_path, tell)


def test_received_frames_are_acknowledged_while_the_stream_goes_on(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        await accepted(site, puppet, link)
        puppet.say(step(1))
        assert (await puppet.hears(Ack)).numbers == {"r1": 1}
        puppet.say(step(2))
        assert (await puppet.hears(Ack, 2)).numbers == {"r1": 2}

    story(site, tmp_path, tell)


def test_a_gap_cancels_the_request_in_the_runner(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        frames = frames_of(await accepted(site, puppet, link))
        puppet.say(step(2))
        with pytest.raises(RequestError):
            await anext(frames)
        assert (await puppet.hears(Cancel)).request == "r1"

    story(site, tmp_path, tell)


def test_a_drain_ordered_without_a_connection_is_sent_at_the_next_hello(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.drain()
        link.follow(5.0)
        await puppet.hears(Drain)

    story(site, tmp_path, tell)


def test_changes_of_load_within_a_while_are_told_once_and_wake_nobody(
    site: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        monkeypatch.setattr("skulk.adapters.runners.link.LOAD_SECONDS", 3.0)
        before = len(site.wakes)
        generation = await accepted(site, puppet, link)
        puppet.say(step(1, Finish.STOP))
        assert [frame.number async for frame in frames_of(generation)] == [1]
        assert (link.facts.running, link.facts.waiting, len(site.loads)) == (0, 0, 0)
        await site.until(lambda: len(site.loads) > 0)
        assert len(site.loads) == 1
        puppet.say(Heartbeat(link.facts.report.value, 3, 2, 5, 99))
        await site.until(lambda: len(site.loads) > 1)
        assert (link.facts.running, link.facts.waiting, len(site.wakes)) == (2, 5, before)

    story(site, tmp_path, tell)


def test_the_last_end_while_draining_wakes_the_node_at_once(site: Any, tmp_path: Path, monkeypatch: Any) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        monkeypatch.setattr("skulk.adapters.runners.link.LOAD_SECONDS", 1000.0)
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        generation = await accepted(site, puppet, link)
        link.drain()
        before = len(site.wakes)
        puppet.say(step(1, Finish.STOP))
        assert [frame.number async for frame in frames_of(generation)] == [1]
        assert len(site.wakes) > before

    story(site, tmp_path, tell)


def test_heartbeats_and_reports_become_facts(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        puppet.hello = encode(Hello(UID, "launch-1", 7, "starting"))
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        assert link.facts.pid == 7
        puppet.say(Report("loading", "", 0.4))
        await site.until(lambda: link.facts.load_share == 0.4)
        puppet.say(Report("loading", "", 7.0))
        await site.until(lambda: link.facts.load_share == 1.0)
        since = link.facts.report_since
        puppet.say(Report("dreaming"))  # of a newer version
        puppet.say(Heartbeat("warming", 3, 2, 5, 99))
        await site.until(lambda: link.facts.resident_bytes == 99)
        facts = link.facts
        assert (facts.report, facts.running, facts.waiting, facts.steps) == (RunnerReport.WARMING, 2, 5, 3)
        assert facts.report_since > since
        progress = facts.last_progress_at
        puppet.say(Heartbeat("warming", 3, 0, 0, 100))
        await site.until(lambda: link.facts.resident_bytes == 100)
        assert link.facts.last_progress_at == progress, "no step, no progress"
        assert link.facts.last_heartbeat_at > facts.last_heartbeat_at
        idle_until = link.facts.last_heartbeat_at
        puppet.say(Heartbeat("warming", 3, 1, 0, 101))
        await site.until(lambda: link.facts.resident_bytes == 101)
        begun = link.facts.last_progress_at
        assert begun > idle_until, "having had nothing to do is not being stuck"
        puppet.say(Heartbeat("warming", 3, 2, 0, 102))
        await site.until(lambda: link.facts.resident_bytes == 102)
        assert link.facts.last_progress_at == begun, "a further request does not excuse the first"
        puppet.say(Report("failed", "no such tensor", code="SK-ENG-003"))
        await site.until(lambda: link.facts.last_words is not None)
        assert link.facts.report is RunnerReport.FAILED

    story(site, tmp_path, tell)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "SK-RUN-002"),
        (encode(Hello("another", "launch-1", 7, "ready")), "SK-RUN-009"),
        (encode(Hello(UID, "launch-1", 7, "ready", protocol=99)), "SK-RUN-009"),
        (encode(Report("ready")), "SK-RUN-009"),
        (b"HTTP/1.1 200 OK\r\n\r\n" * 9, "SK-RUN-009"),
        (b"\0\0\0\2[]", "SK-RUN-009"),
    ],
)
def test_no_hello_and_a_wrong_hello_make_a_runner_silent(
    site: Any, tmp_path: Path, answer: bytes | None, code: str
) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        puppet.hello = answer
        link.follow(0.3)
        await site.until(lambda: link.facts.link is Link.SILENT)
        assert link.facts.last_words is not None
        assert link.facts.last_words.code == code
        puppet.die()
        await site.until(lambda: link.facts.link is Link.DEAD)

    story(site, tmp_path, tell)


def test_garbage_after_the_hello_ends_the_streams_and_makes_it_silent(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        frames = frames_of(await accepted(site, puppet, link))
        assert puppet.writer is not None
        puppet.writer.write(b"\xff" * 100)
        with pytest.raises(RequestError, match="no message"):
            await anext(frames)
        assert link.facts.link is Link.SILENT

    story(site, tmp_path, tell)


def test_a_socket_that_nobody_serves_under_a_held_lock_is_silent(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        puppet.place.socket.unlink()
        link.follow(0.3)
        await site.until(lambda: link.facts.link is Link.SILENT)

    story(site, tmp_path, tell)


def test_the_end_of_the_socket_and_the_lock_is_the_end_of_the_runner(site: Any, tmp_path: Path) -> None:
    async def tell(puppet: Puppet, link: RunnerLink) -> None:
        link.follow(5.0)
        await site.until(lambda: link.facts.link is Link.CONNECTED)
        waiting = asyncio.create_task(link.generate(site.request(), site.owner))
        await puppet.hears(Generate)
        puppet.die()
        with pytest.raises(RequestError):
            await waiting
        await site.until(lambda: link.facts.link is Link.DEAD)
        assert (link.facts.running, link.facts.waiting) == (0, 0)

    story(site, tmp_path, tell)
