"""Why a dead runner died: its own last words, the exit code when it was our child, the end of its log.

A runner that an earlier daemon started is not our child: its exit code cannot be known, only what it wrote.
"""

from __future__ import annotations

import json
import os
import signal

from skulk.adapters.runners.places import Place, read_record
from skulk.core.domain import LastWords
from skulk.core.errors import RUN_EXITED

LOG_TAIL_BYTES = 4096
"""Where the last line of a log is looked for: a traceback's last line is what a person wants first."""
LOG_LINE_CHARACTERS_MAX = 300
"""A line of a log that goes into a condition's message."""
MESSAGE_CHARACTERS_MAX = 2000
"""Last words go into conditions and events: long enough for arithmetic, short enough for a table."""


def last_words(place: Place, exit_code: int | None) -> LastWords:
    """Put together what is known. `exit_code` is the child's (negative: the signal), None when unknown."""
    told = _told(place)
    if told is not None:
        return LastWords(told.exit_code if exit_code is None else exit_code, told.code, told.message)
    if exit_code == 0:
        return LastWords(0, None, "it ended by itself")
    how = _how(exit_code)
    line = _last_log_line(place)
    message = f"{how}, without last words" + (f"; its log ends: {line}" if line else "")
    return LastWords(exit_code, RUN_EXITED.id, message)


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


def _last_log_line(place: Place) -> str:
    for path in reversed(place.logs):
        try:
            with path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            if line.strip():
                return line.strip()[:LOG_LINE_CHARACTERS_MAX]
    return ""
