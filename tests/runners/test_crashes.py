"""What is read from the log of a runner that crashed: logs as they were written, and real signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.runners import RunnerProcesses
from skulk.adapters.runners.crashes import crash_told
from skulk.adapters.runners.last_words import LOG_TAIL_BYTES, last_words
from skulk.adapters.runners.places import Place
from skulk.core.domain import Link

STARTED = "2026-11-29 11:06:29,607 INFO runner 0123456789abcdef of fox, engine llama_cpp\n"
STACKS = """
Current thread 0x00007f98293fd6c0 (most recent call first):
  File "/opt/engines/runner-33836572f4cb3142/skulk/engines/llama_cpp/decoder.py", line 152 in run
  File "/opt/engines/runner-33836572f4cb3142/skulk/engines/batching.py", line 337 in _run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007f9829bfe6c0 (most recent call first):
  File "/opt/engines/runner-33836572f4cb3142/skulk/engines/watchdog.py", line 82 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Extension modules: numpy._core._multiarray_umath, numpy.linalg._umath_linalg, markupsafe._speedups (total: 3)
"""
NATIVE_STACKS = STACKS.replace("Current thread", "Thread")
"""The thread that crashed is a library's."""
DEBUGGER = """[New LWP 19791]
warning: File "/opt/python3.11-gdb.py" auto-loading has been declined by your `auto-load safe-path' set to "$debugdir".
To enable execution of this file add
\tadd-auto-load-safe-path /opt/python3.11-gdb.py
[Thread debugging using libthread_db enabled]
__futex_abstimed_wait_common64 (private=<optimized out>, op=393) at ./nptl/futex-internal.c:57
57\t./nptl/futex-internal.c: No such file or directory.
#0  __futex_abstimed_wait_common64 (private=<optimized out>, op=393) at ./nptl/futex-internal.c:57
57\tin ./nptl/futex-internal.c
#15 PyEval_EvalCode (co=co@entry=0x56146214cab0) at Python/ceval.c:1148
[Inferior 1 (process 19788) detached]
"""
IN_RUN = " (in run, decoder.py:152)"

CRASHES = {
    "a pointer that leads nowhere": (
        STARTED + "Fatal Python error: Segmentation fault\n" + STACKS,
        "Fatal Python error: Segmentation fault" + IN_RUN,
    ),
    "in a thread of the library": (
        STARTED + "Fatal Python error: Segmentation fault\n" + NATIVE_STACKS,
        "Fatal Python error: Segmentation fault",
    ),
    "an assertion of ggml": (
        STARTED
        + "/src/ggml/src/ggml.c:3184: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed\n"
        + DEBUGGER
        + "Fatal Python error: Aborted\n"
        + STACKS,
        "/src/ggml/src/ggml.c:3184: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed" + IN_RUN,
    ),
    "a GPU without memory": (
        STARTED
        + "2026-11-29 11:06:40,100 ERROR CUDA error: out of memory\n"
        + "2026-11-29 11:06:40,100 ERROR   current device: 0, in function alloc at /src/ggml-cuda/ggml-cuda.cu:467\n"
        + "2026-11-29 11:06:40,100 ERROR   cuMemCreate(&handle, reserve_size, &prop, 0)\n"
        + "/src/ggml-cuda/ggml-cuda.cu:88: CUDA error\n"
        + "Fatal Python error: Aborted\n"
        + STACKS,
        "CUDA error: out of memory; current device: 0, in function alloc at /src/ggml-cuda/ggml-cuda.cu:467; "
        "cuMemCreate(&handle, reserve_size, &prop, 0); /src/ggml-cuda/ggml-cuda.cu:88: CUDA error" + IN_RUN,
    ),
    "an exception of C++": (
        STARTED
        + "terminate called after throwing an instance of 'std::bad_alloc'\n"
        + "  what():  std::bad_alloc\n"
        + "Fatal Python error: Aborted\n"
        + STACKS,
        "terminate called after throwing an instance of 'std::bad_alloc'; what():  std::bad_alloc" + IN_RUN,
    ),
    "an exception in a handler of Metal": (
        STARTED
        + "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer "
        + "execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
        + "Fatal Python error: Aborted\n"
        + NATIVE_STACKS,
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer "
        "execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ),
    "a damaged heap": (
        STARTED + "malloc(): corrupted top size\nFatal Python error: Aborted\n" + STACKS,
        "malloc(): corrupted top size" + IN_RUN,
    ),
    "an error of before has nothing to do with it": (
        STARTED
        + "2026-11-29 11:06:40,100 ERROR a step failed\n"
        + "Traceback (most recent call last):\n"
        + '  File "/opt/decoder.py", line 3, in run\n'
        + "ValueError: no\n"
        + "free(): invalid pointer\n"
        + "Fatal Python error: Aborted\n"
        + STACKS,
        "free(): invalid pointer" + IN_RUN,
    ),
    "a crash of before is another life's": (
        "malloc(): corrupted top size\nFatal Python error: Aborted\n"
        + STACKS
        + STARTED
        + "Fatal Python error: Segmentation fault\n"
        + STACKS,
        "Fatal Python error: Segmentation fault" + IN_RUN,
    ),
}
MEMORY = {"a GPU without memory", "an exception of C++", "an exception in a handler of Metal"}


@pytest.mark.parametrize("name", CRASHES)
def test_the_line_that_says_why_is_found(name: str, tmp_path: Path) -> None:
    log, told = CRASHES[name]
    assert crash_told(log.splitlines()) == told
    (tmp_path / "log").write_text(log)
    words = last_words(Place(tmp_path, ""), -signal.SIGABRT)
    assert words.code == ("SK-RUN-007" if name in MEMORY else "SK-RUN-001")
    assert words.message == f"it was ended by SIGABRT, without last words; its log says: {told}"


def test_a_crash_is_no_kill(tmp_path: Path) -> None:
    """Of a runner that an earlier daemon started, nobody knows the signal."""
    (tmp_path / "log").write_text(CRASHES["a damaged heap"][0])
    words = last_words(Place(tmp_path, ""), None, Path("/proc/vmstat"))
    assert words.code == "SK-RUN-001"
    assert "the kernel" not in words.message


@pytest.mark.parametrize("log", ["", "\n", STARTED, CRASHES["a damaged heap"][0] + STARTED])
def test_a_log_that_does_not_end_with_a_crash_tells_none(log: str) -> None:
    assert crash_told(log.splitlines()) is None


def test_the_stacks_of_many_threads_do_not_hide_the_cause(tmp_path: Path) -> None:
    threads = "\n".join(STACKS.splitlines()[6:9] * 60)
    log = "x" * LOG_TAIL_BYTES + "\nfree(): invalid pointer\nFatal Python error: Aborted\n" + STACKS + threads
    assert len(log) > LOG_TAIL_BYTES + 8192
    (tmp_path / "log").write_text(log)
    assert "free(): invalid pointer" in last_words(Place(tmp_path, ""), -signal.SIGABRT).message


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGSEGV, "Fatal Python error: Segmentation fault"), (signal.SIGABRT, "Fatal Python error: Aborted")],
)
def test_a_runner_that_crashes_shows_why(site: Any, number: signal.Signals, says: str) -> None:
    async def story(host: RunnerProcesses) -> None:
        await host.start(site.launch())
        facts = await site.ready(host)
        os.kill(facts.pid, number)
        dead = await site.linked(host, Link.DEAD)
        assert dead.last_words is not None
        assert dead.last_words.exit_code == -number
        assert dead.last_words.code == "SK-RUN-001"
        assert f"it was ended by {number.name}, without last words; its log says: {says}" in dead.last_words.message
        assert "(in " in dead.last_words.message, "the thread that took the signal is one of Python's"

    site.run(story)
