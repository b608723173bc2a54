"""No process of a run outlives it: Ansible detaches its workers from their parent, and ssh its connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "BOOTSTRAP_OF_SKULK"
"""An environment variable that every process of a run inherits; its value is the run's private directory. Not
`SKULK_…`: those are keys of node.toml."""

# ssh answers its own socket at once; longer means that nobody is there.
SSH_SECONDS_MAX = 5.0
# A killed process is gone as soon as the kernel says so; one in an uninterruptible read of a dead disk may not be.
END_SECONDS_MAX = 5.0
LOOK_SECONDS = 0.05


def end_connections(sockets: Path) -> None:
    """Ask the connections that ssh keeps open to close."""
    ssh = shutil.which("ssh")
    if ssh is None or not sockets.is_dir():
        return
    for socket in sockets.iterdir():
        command = [ssh, "-o", f"ControlPath={socket}", "-O", "exit", "skulk"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=SSH_SECONDS_MAX, check=False)


def end_processes(root: Path) -> None:
    """Kill what is left of the run in `root`, again and again until nothing is: a process may just have forked.

    Waits without reaping: a child's exit status belongs to whoever started it.
    """
    deadline = time.monotonic() + END_SECONDS_MAX
    while (found := list(_processes(root))) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(LOOK_SECONDS)


def _processes(root: Path) -> Iterator[psutil.Process]:
    """By the mark in the environment, or by the private directory in the arguments: ssh overwrites its environment with
    its title, which names its socket."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(str(root) in word for word in process.cmdline()) or process.environ().get(MARK) == str(root):
                yield process
