"""Runner processes as the operating system sees them: spawn detached, prove a pid, kill a group, collect the dead.

A runner outlives the daemon that started it, so nothing here ends one implicitly. A pid is only ever signalled
while the runner's lock is held and the process behind the pid is recognised: a recycled pid is never touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from skulk.adapters.runners.places import Place, read_record, write_private
from skulk.core.errors import RUN_NO_HELLO, RUN_START, Terminal, Transient

BACKLOG = 8
"""Connections that wait for accept: one daemon, one that takes over, a few reconnects to a frozen runner."""
RUN_SCRIPT = Path("skulk", "engines", "run.py")
"""What an engine environment's interpreter is told to run, below the directory of the runner code."""

_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""Children of this interpreter by pid. They belong to the process and not to any object: only the parent can
collect them, however often the objects above are made anew."""


def spawn(command: Sequence[str], place: Place, environment: Mapping[str, str]) -> int:
    """Start a detached runner in `place` and return its pid.

    Lock and listening socket exist before the process does, so there is no moment in which a daemon could take
    it for dead or find nothing to connect to. Raises BlockingIOError when the lock is held, OSError otherwise.
    """
    lock = place.take_lock()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            place.socket.unlink(missing_ok=True)
            listener.bind(place.address)
            place.socket.chmod(0o600)
            listener.listen(BACKLOG)
            log = place.open_log()
            try:
                child = subprocess.Popen(
                    list(command),
                    cwd=place.path,
                    env={
                        **environment,
                        "SKULK_SOCKET_FD": str(listener.fileno()),
                        "SKULK_LOCK_FD": str(lock),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(listener.fileno(), lock),
                    start_new_session=True,
                    umask=0o077,
                )
            finally:
                os.close(log)
    finally:
        # Our copies would keep the lock held and the socket listening after the runner's death.
        os.close(lock)
    _CHILDREN[child.pid] = child
    write_private(place.pid, f"{child.pid}\n".encode())
    return child.pid


def command_line(python: Path, code_dir: Path, place: Place) -> list[str]:
    """How a runner is called: isolated from the user's site packages and environment, writing no bytecode."""
    return [str(python), "-I", "-B", str(code_dir / RUN_SCRIPT), str(place.path)]


def exit_code(pid: int) -> int | None:
    """The exit code of an ended child of ours (negative: the signal), now collected. None: alive, or not ours."""
    child = _CHILDREN.get(pid)
    if child is None:
        return None
    code = child.poll()
    if code is not None:
        del _CHILDREN[pid]
    return code


def is_child(pid: int) -> bool:
    """The process was started by this interpreter and has not been collected yet."""
    return pid in _CHILDREN


def collect_dead() -> None:
    """Collect every ended child, so that none stays a zombie whatever became of the object that started it."""
    for pid in list(_CHILDREN):
        exit_code(pid)


def recorded_pid(place: Place) -> int | None:
    """The pid that the daemon wrote after spawning, when it is there and a number."""
    data = read_record(place.pid)
    if data is None or not data.strip().isdigit():
        return None
    return int(data) or None


def signal_group(place: Place, candidates: Iterable[int | None], number: signal.Signals) -> bool:
    """Signal the process group of a live runner; False when its lock is free, or about to be: nothing to signal.

    `candidates` are pids that may be it, likeliest first. Raises Transient(RUN_NO_HELLO) when the lock is held and
    its holder is not recognised: killing a stranger would be worse than waiting.
    """
    if not place.is_held():
        return False
    known = [pid for pid in candidates if pid is not None and pid > 1]
    group = _proven_group(place, known)
    if group is None and any(_is_ending(pid) for pid in known):
        return False
    if group is None:
        raise Transient(
            RUN_NO_HELLO,
            f"runner {place.uid}: {place.lock} is held by a process that is not recognised as this runner",
            fix="find it with `lsof` on the lock file and end it",
        )
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    return True


def _proven_group(place: Place, candidates: Sequence[int]) -> int | None:
    for pid in candidates:
        if is_child(pid) or _is_runner(pid, place, exact=False):
            return pid
        if not _is_running(pid) and _group_exists(pid):
            # The runner is gone and something that it started still holds the lock. A group keeps its number
            # reserved, so this is its group and nobody else's.
            return pid
    # The daemon died between spawning and writing the pid: look for the process by its command line.
    for process in psutil.process_iter():
        if _is_runner(process.pid, place, exact=True):
            return process.pid
    return None


def _is_runner(pid: int, place: Place, *, exact: bool) -> bool:
    """The process's command line is that of this runner: `exact` compares the whole path, otherwise its name (the
    state directory may have been moved, or be reached by another path)."""
    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    if len(arguments) < 2 or not arguments[-2].endswith(str(RUN_SCRIPT)):
        return False
    return arguments[-1] == str(place.path) if exact else Path(arguments[-1]).name == place.path.name


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_ending(pid: int) -> bool:
    """The kernel is taking the process apart: its memory is gone, and the command line with it, its files (the lock
    among them) are about to be."""
    try:
        return not psutil.Process(pid).cmdline()
    except psutil.ZombieProcess:
        return True
    except psutil.Error:
        return False


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def start_error(place: Place, error: OSError) -> Terminal:
    """The error to raise for a spawn that failed, naming the file that is at fault."""
    what = f" ({error.filename})" if error.filename else ""
    return Terminal(RUN_START, f"runner {place.uid} could not be started: {error.strerror or error}{what}")
