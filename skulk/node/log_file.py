"""The daemon's own log file: lines are appended, and the file is renamed by size before it grows too large.

For machines without a journal. Nothing that happens to the file ends the daemon or a request: what cannot be written
is dropped, which is said once on stderr, and again when it works (with the number of lines that are missing). A file
that somebody else renamed or removed, or whose directory is gone, is made anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Lock


class LogFile:
    """A text stream for structlog. `file` is followed by `file.1` (the newest of the renamed) to `file.<keep>`."""

    def __init__(self, file: Path, bytes_max: int, keep: int) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._keep = keep
        self._lock = Lock()
        self._open: int | None = None
        self._missing = 0

    def write(self, text: str) -> int:
        """Append whole lines. Never raises OSError."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                self._append(data)
            except OSError as error:
                self._close()
                self._missing += 1
                if self._missing == 1:
                    _say(f"log.file: {self._file} cannot be written, lines are dropped: {error.strerror or error}")
            else:
                if self._missing:
                    _say(f"log.file: {self._file} can be written again, {self._missing} lines are missing")
                self._missing = 0
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _append(self, data: bytes) -> None:
        size = self._size()
        if size and size + len(data) > self._bytes_max:
            self._rotate()
            size = self._size()
        assert self._open is not None
        try:
            written = os.write(self._open, data)
            if written < len(data):
                raise OSError(f"only {written} of {len(data)} bytes fit")
        except OSError:
            # Not half a line: what reads it afterwards takes every line for a JSON document.
            os.ftruncate(self._open, size)
            raise

    def _size(self) -> int:
        """Bytes of the open file; it is opened if it is not, or is not the one that stands there now."""
        if self._open is not None:
            mine = os.fstat(self._open)
            try:
                there = self._file.stat()
            except FileNotFoundError:
                there = None
            if there is not None and os.path.samestat(mine, there):
                return mine.st_size
            self._close()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._open = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return os.fstat(self._open).st_size

    def _rotate(self) -> None:
        self._close()
        for number in range(self._keep, 0, -1):
            older = self._renamed(number - 1) if number > 1 else self._file
            if older.exists():
                older.replace(self._renamed(number))

    def _renamed(self, number: int) -> Path:
        return self._file.with_name(f"{self._file.name}.{number}")

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # stderr may be on the same full disk, or closed; there is nowhere left to say it
