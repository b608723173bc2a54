"""One daemon per state directory: an advisory lock with the daemon's pid inside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from skulk.core import errors

# `holder` takes the lock for a moment to find out whether it is free; a daemon that starts just then waits it out.
GLANCE_SECONDS = 0.5


class StateLock:
    """Held for the life of the daemon. The kernel frees it however the process ends."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "daemon.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises Terminal CFG_STATE_LOCKED naming the other daemon's pid."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + GLANCE_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                os.close(fd)
                raise errors.Terminal(
                    errors.CFG_STATE_LOCKED, f"{self._path.parent} is used by the daemon with pid {self.holder()}"
                ) from None
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._fd = fd

    def holder(self) -> int | None:
        """The pid of the daemon that holds the lock now, or None when nobody does."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            with contextlib.suppress(ValueError):
                return int(os.read(fd, 32) or b"0") or None
            return None
        finally:
            os.close(fd)
        return None

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
