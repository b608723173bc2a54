"""Why a dead runner died: its own last words, the exit code when it was our child, the end of its log.

A runner that an earlier daemon started is not our child: its exit code cannot be known, only what it wrote.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from skulk.adapters.runners.crashes import crash_told
from skulk.adapters.runners.places import Place, read_record
from skulk.core.domain import LastWords
from skulk.core.errors import RUN_EXITED, RUN_MEMORY
from skulk.core.formats.memory_errors import tells_of_memory

LOG_TAIL_BYTES = 64 * 1024
"""Where the reason is looked for: the last line of a traceback, or what stands before the stacks of all threads (and
those that a debugger wrote, 10 KB with one thread)."""
LOG_CHARACTERS_MAX = 400
"""What of a log goes into a condition's message."""
MESSAGE_CHARACTERS_MAX = 2000
"""Last words go into conditions and events: long enough for arithmetic, short enough for a table."""


def last_words(place: Place, exit_code: int | None, oom_source: Path | None = None) -> LastWords:
    """Put together what is known. `exit_code` is the child's (negative: the signal), None when unknown; `oom_source`
    is the file by which the kernel killed a process for want of memory when this one ended."""
    own = _told(place)
    if own is not None:
        return LastWords(own.exit_code if exit_code is None else exit_code, own.code, own.message)
    if exit_code == 0:
        return LastWords(0, None, "it ended by itself")
    lines = _log_end(place)
    crash = crash_told(lines)
    how = _how(exit_code)
    killed = oom_source is not None and crash is None  # who is killed writes no stacks
    if killed:
        how += f": the kernel killed it because memory ran out (by oom_kill in {oom_source})"
    message = f"{how}, without last words"
    if crash is not None:
        message += f"; its log says: {crash[:LOG_CHARACTERS_MAX]}"
    elif lines:
        message += f"; its log ends: {lines[-1][:LOG_CHARACTERS_MAX]}"
    no_memory = killed or (crash is not None and tells_of_memory(crash))
    return LastWords(exit_code, (RUN_MEMORY if no_memory else RUN_EXITED).id, message)


def _told(place: Place) -> LastWords | None:
    data = read_record(place.last_words)
    if data is None:
        return None
    try:
        obj = json.loads(data)
    except ValueError:
        return None
    if not isinstance(obj, dict):
        return None
    exit_code, code, message = obj.get("exitCode"), obj.get("code"), obj.get("message")
    return LastWords(
        exit_code if isinstance(exit_code, int) and not isinstance(exit_code, bool) else None,
        code if isinstance(code, str) else None,
        message[:MESSAGE_CHARACTERS_MAX] if isinstance(message, str) else "",
    )


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "it ended, how is unknown (an earlier daemon started it)"
    if exit_code >= 0:
        return f"it ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"it was ended by {name}"


def _log_end(place: Place) -> list[str]:
    """The last lines of its log that are not empty."""
    for path in reversed(place.logs):
        try:
            with path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            continue
        if found := [line.strip() for line in lines if line.strip()]:
            return found
    return []
