"""A program that is started, listened to and waited for on the event loop.

Not the event loop's own way to start programs: libuv's forks, and copying the page tables of a daemon costs three times
what starting git does. `subprocess` starts by vfork.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

LOOK_SECONDS_MAX = 0.05
"""How late an end is noticed that did not come with the end of the outputs."""


class Child:
    """A running program in a session of its own, so that one signal reaches all that it started. Made by `start`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self._transports: list[asyncio.BaseTransport] = []
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout = asyncio.StreamReader()
        self.stderr = asyncio.StreamReader()

    async def connect(self) -> None:
        """Have the event loop look after the pipes. Called by `start`."""
        loop = asyncio.get_running_loop()
        for reader, pipe in ((self.stdout, self._process.stdout), (self.stderr, self._process.stderr)):
            reading, _ = await loop.connect_read_pipe(functools.partial(asyncio.StreamReaderProtocol, reader), pipe)
            self._transports.append(reading)
        if self._process.stdin is not None:
            ended = functools.partial(asyncio.StreamReaderProtocol, asyncio.StreamReader())
            writing, protocol = await loop.connect_write_pipe(ended, self._process.stdin)
            self._transports.append(writing)
            self.stdin = asyncio.StreamWriter(writing, protocol, None, loop)

    async def wait(self) -> int:
        """The exit status (negative: the signal). Nearly always asked when both outputs have ended, a moment before
        the program."""
        seconds = 0.0
        while (status := self._process.poll()) is None:
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds + 0.0005, LOOK_SECONDS_MAX)
        return status

    def signal(self, number: signal.Signals) -> None:
        """To the whole group, if anything of it is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Listen no more: something that left the group may hold the outputs open for ever."""
        for transport in self._transports:
            transport.close()


async def start(
    command: Sequence[str], *, environment: Mapping[str, str], cwd: str | None = None, feeds: bool = False
) -> Child:
    """Start `command`. `feeds`: it is given something to read. Raises OSError when it cannot be started."""
    process = subprocess.Popen(  # noqa: ASYNC220  (back when the program runs, which takes a millisecond)
        list(command),
        stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=cwd,
        start_new_session=True,
    )
    child = Child(process)
    try:
        await child.connect()
    except BaseException:
        child.signal(signal.SIGKILL)
        child.close()
        process.wait()
        raise
    return child
