"""Installing an engine environment: once, completely, and from hash-pinned requirements only.

A virtual environment cannot be moved, so it is built where it stays and becomes real by its marker, which is
written last. Whatever ends the build before that leaves a directory that the next build removes.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from skulk.adapters.engine_envs.environments import (
    MARKER,
    EngineEnvironment,
    discover,
    marker_text,
    requirements_file,
    wanted_environment,
)
from skulk.core.errors import ENG_INSTALL, ENG_MISSING, Terminal, Transient

INSTALL_SECONDS_MAX = 1800.0
"""Some 300 MB over a slow line and unpacking them on a small machine: half an hour is ten times what was seen."""
LOCK_POLL_SECONDS = 0.2
"""How often a builder that waits for another one looks again."""
STOP_POLL_SECONDS = 0.2
"""How soon an installer ends after it was told to: a person who pressed Ctrl-C does not notice."""
TAIL_LINES = 12
"""Of the installer's output in an error: enough for its own message, which comes last."""

Progress = Callable[[str], None]


def ensure(
    engine: str,
    engines_dir: Path,
    *,
    progress: Progress = lambda line: None,
    uv: str | None = None,
    deadline_seconds: float = INSTALL_SECONDS_MAX,
    stop: threading.Event | None = None,
) -> EngineEnvironment:
    """The complete environment of `engine`, installed now when it is not there. Blocks until then, or until another
    thread sets `stop`; may be called by several processes at once, one builds. `progress` gets one line at a time.
    `uv` is the program to use, by default the one on PATH; without it (or with an empty text) pip does the work.

    Raises Terminal(ENG_MISSING) for an engine that has no environment, Transient(ENG_INSTALL) when building failed.
    """
    try:
        wanted = wanted_environment(_resolved(engines_dir), engine)
    except ValueError as error:
        raise Terminal(ENG_MISSING, str(error)) from error
    end = time.monotonic() + deadline_seconds
    stop = stop or threading.Event()
    with _building(wanted, end, stop, progress):
        there = [found for found in discover(wanted.path.parent).environments if found == wanted]
        if there:
            return there[0]
        program = shutil.which("uv") if uv is None else uv
        try:
            shutil.rmtree(wanted.path, ignore_errors=True)
            _build(wanted, program or None, end, stop, progress)
        except OSError as error:
            shutil.rmtree(wanted.path, ignore_errors=True)
            raise Transient(ENG_INSTALL, f"{wanted.path.name}: {error}") from error
        except BaseException:
            shutil.rmtree(wanted.path, ignore_errors=True)
            raise
    return wanted


def _resolved(engines_dir: Path) -> Path:
    engines_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return engines_dir.resolve()


def _build(wanted: EngineEnvironment, uv: str | None, end: float, stop: threading.Event, progress: Progress) -> None:
    requirements = str(requirements_file(wanted.engine))
    progress(f"installing {wanted.engine} {wanted.version} into {wanted.path}")
    if uv is not None:
        commands = [
            [uv, "venv", "--no-project", "--python", _base_python(), str(wanted.path)],
            [uv, "pip", "install", "--python", str(wanted.python), "--require-hashes", "-r", requirements],
        ]
    else:
        pip = [str(wanted.python), "-I", "-m", "pip", "--disable-pip-version-check"]
        commands = [
            [_base_python(), "-I", "-m", "venv", str(wanted.path)],
            [*pip, "install", "--no-input", "--require-hashes", "-r", requirements],
        ]
    for command in commands:
        _run(command, wanted, end, stop, progress)
    if not os.access(wanted.python, os.X_OK):
        raise Transient(ENG_INSTALL, f"{wanted.path.name}: the installer made no {wanted.python}")
    draft = wanted.path / f".{MARKER}"
    with draft.open("w", encoding="utf-8") as file:
        file.write(marker_text(wanted))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(wanted.path / MARKER)
    progress(f"installed {wanted.path.name}")


def _base_python() -> str:
    """The interpreter below the daemon's own virtual environment: an environment in an environment would break
    when the outer one goes."""
    return getattr(sys, "_base_executable", None) or sys.executable


def _run(
    command: Sequence[str], wanted: EngineEnvironment, end: float, stop: threading.Event, progress: Progress
) -> None:
    """Run one command, its output line by line to `progress`. Raises Transient(ENG_INSTALL)."""
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        # Not the caller's directory: a project file there must not change what is installed.
        cwd=wanted.path.parent,
        env={**{k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own: what the installer starts holds its output open and must end with it.
        start_new_session=True,
    ) as process:
        watcher = threading.Thread(target=_end_in_time, args=(process, end, stop), daemon=True)
        watcher.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    tail.append(line.rstrip())
                    progress(line.rstrip())
            code = process.wait()
        except BaseException:
            _kill_group(process)
            raise
    watcher.join()
    if stop.is_set():
        raise Transient(ENG_INSTALL, f"{wanted.path.name}: the installation was stopped")
    if code != 0:
        late = " at its deadline" if time.monotonic() >= end else ""
        name = Path(command[0]).name
        raise Transient(
            ENG_INSTALL,
            f"{wanted.path.name}: {name} ended{late} with exit code {code}; its last lines:\n" + "\n".join(tail),
        )


def _end_in_time(process: subprocess.Popen[str], end: float, stop: threading.Event) -> None:
    """Until the process has ended: end it at the deadline, or when that is asked for."""
    while process.poll() is None:
        if stop.wait(STOP_POLL_SECONDS) or time.monotonic() >= end:
            _kill_group(process)
            process.wait()


def _kill_group(process: subprocess.Popen[str]) -> None:
    # Unreaped, its pid, and so its group, is nobody else's.
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _building(wanted: EngineEnvironment, end: float, stop: threading.Event, progress: Progress) -> Iterator[None]:
    """Hold the right to build this environment; the kernel takes it back however the process ends."""
    path = wanted.path.parent / f".{wanted.path.name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Transient(
                        ENG_INSTALL, f"{wanted.path.name}: another process has been building it for too long"
                    ) from None
                if not told:
                    progress(f"another process builds {wanted.path.name}; waiting for it")
                    told = True
                if stop.wait(LOCK_POLL_SECONDS):
                    raise Transient(ENG_INSTALL, f"{wanted.path.name}: the installation was stopped") from None
        yield
    finally:
        os.close(descriptor)
