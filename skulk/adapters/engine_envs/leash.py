"""A program on a leash: it ends, with everything it started, when the process that holds the other end does.

    python -I -S leash.py NICENESS SCRATCH PROGRAM ARGUMENT…

Runs PROGRAM in a process group of its own until it ends; the exit code is its. Standard input is the leash: at its end
(whoever held it closed it, exited or was killed) the group gets SIGTERM, after a while SIGKILL, and the directory
SCRATCH is removed if one is named. Standard library only; imported by nobody.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

TERM_SECONDS = 5.0
"""A build tool that gets SIGTERM ends its compilers, which are in groups of their own, and goes: at once, or never."""
POLL_SECONDS = 0.1
LET_GO = 125
"""The exit code after the leash was let go."""


def main(argv: list[str]) -> int:
    niceness, scratch, command = int(argv[1]), argv[2], argv[3:]
    os.nice(niceness)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    while process.poll() is None:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        if readable and not os.read(0, 4096):
            _end(process)
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
            return LET_GO
    # What it left running would go on without anybody knowing.
    _signal(process.pid, signal.SIGKILL)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + TERM_SECONDS
    while time.monotonic() < deadline and _signal(process.pid, 0):
        process.poll()  # its zombie would count as a member of the group
        time.sleep(POLL_SECONDS)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> bool:
    """Signal the group; False when it has no member any more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv))
