"""A program that is started, spoken to and waited for on the event loop.

Not by the event loop's own ways. To start a program libuv forks, and copying the page tables of a daemon costs three
times what starting git does; `subprocess` starts by vfork. Of a pipe it was given, libuv closes the number and uvloop
closes that once more, and by then it may be somebody else's: here the loop only says when a pipe is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

LOOK_SECONDS_MAX = 0.05
"""How late an end is noticed that did not come with the end of the outputs."""


class Pipe:
    """Our end of one. Only who waits for it reads it: what nobody wants stays with the program."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        os.set_blocking(file.fileno(), False)

    async def read(self, bytes_max: int) -> bytes:
        """What there is, as soon as there is something; empty at the end."""
        while True:
            # Also where much is there already: others have their turn between two pieces of a flood.
            await self._ready(self._loop.add_reader, self._loop.remove_reader)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._file.fileno(), bytes_max)

    async def write(self, data: bytes) -> None:
        """Write all of it. Raises BrokenPipeError when nobody reads any more."""
        rest = memoryview(data)
        while rest:
            await self._ready(self._loop.add_writer, self._loop.remove_writer)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._file.fileno(), rest) :]

    def close(self) -> None:
        """Nobody may be reading or writing."""
        self._file.close()

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        number, ready = self._file.fileno(), asyncio.Event()
        add(number, ready.set)
        try:
            await ready.wait()
        finally:
            remove(number)


class Child:
    """A running program in a session of its own, so that one signal reaches all that it started. Made by `start`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self.pid = process.pid
        self.stdin = None if process.stdin is None else Pipe(process.stdin)
        self.stdout = Pipe(process.stdout)
        self.stderr = Pipe(process.stderr)

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
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()


def start(
    command: Sequence[str], *, environment: Mapping[str, str], cwd: str | None = None, feeds: bool = False
) -> Child:
    """Start `command`, on the running event loop. `feeds`: it is given something to read. Returns when the program
    runs, which takes a millisecond. Raises OSError when it cannot be started."""
    return Child(
        subprocess.Popen(
            list(command),
            bufsize=0,
            stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
        )
    )
