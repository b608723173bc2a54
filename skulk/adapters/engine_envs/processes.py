"""Running an installer or compiler: output into a log, a deadline, and an end whenever we end (`leash.py`)."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skulk.core.errors import ENG_INSTALL, Transient

LEASH = Path(__file__).with_name("leash.py")
LOOK_SECONDS = 0.1
"""How often it is looked whether to stop; also the most by which that is late."""
TAIL_LINES = 12
"""Of the program's output in an error: enough for its own message, which comes last."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What all programs of one installation share. `end` is on the monotonic clock, seconds."""

    name: str
    log_file: Path
    end: float
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)

    def refuse_when_over(self) -> None:
        """Raise Transient(ENG_INSTALL) when it was stopped."""
        if self.stop.is_set():
            raise Transient(ENG_INSTALL, f"{self.name}: the installation was stopped")


def run_program(
    job: Job,
    command: Sequence[str],
    scratch: Path,
    *,
    cwd: Path,
    niceness: int = 0,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run one command, its output line by line to the log and to `progress`. When this process goes or the job is
    over, the command ends with all that it started and `scratch` is removed. Raises Transient(ENG_INSTALL)."""
    job.refuse_when_over()
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    leash = [sys.executable, "-I", "-S", str(LEASH), str(niceness), str(scratch)]
    own = os.environ if environment is None else environment
    done = threading.Event()
    with (
        job.log_file.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            [*leash, *command],
            # Not the caller's directory: a project file there must not change what is installed.
            cwd=cwd,
            env={**{k: v for k, v in own.items() if k != "VIRTUAL_ENV"}, "NO_COLOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        watcher = threading.Thread(target=_let_go, args=(job, process, done), daemon=True)
        watcher.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    tail.append(line.rstrip())
                    file.write(line)
                    file.flush()
                    job.progress(line.rstrip())
            code = process.wait()
        finally:
            done.set()
            watcher.join()
    if code != 0:
        job.refuse_when_over()
        late = " at its deadline" if time.monotonic() >= job.end else ""
        name = Path(command[0]).name
        message = f"{job.name}: {name} ended{late} with exit code {code}, log {job.log_file}; its last lines:\n"
        raise Transient(ENG_INSTALL, message + "\n".join(tail))


def _let_go(job: Job, process: subprocess.Popen[str], done: threading.Event) -> None:
    """Close the leash when the job is over before the program is."""
    while not done.wait(LOOK_SECONDS):
        if job.stop.is_set() or time.monotonic() >= job.end:
            assert process.stdin is not None
            process.stdin.close()
            return
