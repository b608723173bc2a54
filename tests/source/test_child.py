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


async def ended(process: child.Child) -> int:
    status = await process.wait()
    process.close()
    return status


def test_it_is_fed_and_heard_to_its_end(run: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096  # more than pipes hold
    program = python(
        "import os, sys",
        "sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])",
        "sys.stderr.write(os.getcwd() + os.environ['WORD'])",
        "sys.exit(3)",
    )

    async def talk() -> tuple[bytes, bytes, int]:
        process = await child.start(program, environment={"WORD": "word"}, cwd=str(tmp_path), feeds=True)
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.close()
        said, complained = await asyncio.gather(process.stdout.read(), process.stderr.read())
        return said, complained, await ended(process)

    assert run(talk()) == (data[::-1], f"{tmp_path}word".encode(), 3)


def test_nothing_to_read_is_the_end_of_input(run: Any) -> None:
    async def talk() -> bytes:
        process = await child.start(python("import sys; print(len(sys.stdin.read()))"), environment={})
        said = await process.stdout.read()
        await ended(process)
        return said

    assert run(talk()) == b"0\n"


def test_a_program_that_is_missing_is_said_at_once(run: Any) -> None:
    with pytest.raises(FileNotFoundError):
        run(child.start(["/nonexistent/program"], environment={}))


def test_a_signal_ends_all_that_it_started_and_is_its_status(run: Any) -> None:
    program = python(
        "import subprocess, sys, time",
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        "print(inner.pid, flush=True)",
        "time.sleep(600)",
    )

    async def end() -> tuple[int, int]:
        process = await child.start(program, environment={})
        inner = int(await process.stdout.readline())
        process.signal(signal.SIGKILL)
        # The outputs end when the last of the group does.
        await asyncio.gather(process.stdout.read(), process.stderr.read())
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
        process = await child.start(program, environment={})
        inner = int(await process.stdout.readline())
        return inner, await ended(process)

    inner, status = run(end())
    assert status == 0
    os.kill(inner, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
