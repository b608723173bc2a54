"""Programs that are started without forking, on both event loops: uvloop's, which daemons have, and Python's own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from skulk.adapters import child

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Any:
    def on_loop(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(work)

    return on_loop


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


async def started(command: list[str]) -> child.Child:
    return child.start(command, environment={})


async def fed(pipe: child.Pipe, data: bytes) -> None:
    await pipe.write(data)
    pipe.close()


async def heard(pipe: child.Pipe) -> bytes:
    said = b""
    while piece := await pipe.read(65536):
        said += piece
    return said


async def ended(process: child.Child) -> int:
    status = await process.wait()
    process.close()
    return status


def test_it_is_fed_and_heard_to_its_end(run: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096  # more than pipes hold
    program = python(
        "import os, sys",
        "while data := sys.stdin.buffer.read(99_999): sys.stdout.buffer.write(data)",
        "sys.stderr.write(os.getcwd() + os.environ['WORD'])",
        "sys.exit(3)",
    )

    async def talk() -> tuple[bytes, bytes, int]:
        process = child.start(program, environment={"WORD": "word"}, cwd=str(tmp_path), feeds=True)
        assert process.stdin is not None
        _, said, complained = await asyncio.gather(
            fed(process.stdin, data), heard(process.stdout), heard(process.stderr)
        )
        return said, complained, await ended(process)

    assert run(talk()) == (data, f"{tmp_path}word".encode(), 3)


def test_nothing_to_read_is_the_end_of_input(run: Any) -> None:
    async def talk() -> bytes:
        process = child.start(python("import sys; print(len(sys.stdin.read()))"), environment={})
        said = await heard(process.stdout)
        await ended(process)
        return said

    assert run(talk()) == b"0\n"


def test_a_program_that_is_missing_is_said_at_once(run: Any) -> None:
    with pytest.raises(FileNotFoundError):
        run(started(["/nonexistent/program"]))


def test_a_signal_ends_all_that_it_started_and_is_its_status(run: Any) -> None:
    program = python(
        "import subprocess, sys, time",
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        "print(inner.pid, flush=True)",
        "time.sleep(600)",
    )

    async def end() -> tuple[int, int]:
        process = child.start(program, environment={})
        inner = int(await process.stdout.read(99))
        process.signal(signal.SIGKILL)
        # The outputs end when the last of the group does.
        await asyncio.gather(heard(process.stdout), heard(process.stderr))
        return inner, await ended(process)

    inner, status = run(end())
    assert status == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while _lives(inner):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_left_the_group_and_holds_the_outputs_is_not_waited_for(run: Any) -> None:
    program = python(
        "import subprocess, sys",
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)",
        "print(inner.pid, flush=True)",
    )

    async def end() -> tuple[int, int]:
        process = child.start(program, environment={})
        inner = int(await process.stdout.read(99))
        return inner, await ended(process)

    inner, status = run(end())
    assert status == 0
    os.kill(inner, signal.SIGKILL)


def test_a_flood_leaves_the_others_their_turn_and_its_program_what_nobody_reads(run: Any) -> None:
    async def flooded() -> tuple[int, int]:
        process = child.start(python("import os", "while True: os.write(1, bytes(65536))"), environment={})
        begun = len(await process.stdout.read(1))
        reading = asyncio.ensure_future(heard(process.stdout))
        await asyncio.sleep(0.05)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        process.signal(signal.SIGKILL)
        left = len(await heard(process.stdout))
        await ended(process)
        return begun, left

    begun, left = run(flooded())
    assert begun == 1
    assert left <= 2**20  # what a pipe holds


def test_input_that_is_not_read_is_said(run: Any) -> None:
    async def talk() -> int:
        process = child.start(python("import sys; sys.exit(4)"), environment={}, feeds=True)
        assert process.stdin is not None
        with pytest.raises(BrokenPipeError):
            await process.stdin.write(bytes(2**20))
        return await ended(process)

    assert run(talk()) == 4


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
