"""Where runners live on disk, and the lock that says whether one is alive.

One directory per runner, `<state>/run/<uid>`, private to the user:

    launch.json       what it was started with          lock    held by the process for life
    socket            it listens here                   pid     of the process that the daemon spawned
    last_words.json   why it ended, when it could say   log     its stdout and stderr (log.1: the part before)

The lock is `flock`: it belongs to the open file, passes to the child with the descriptor, and is released by the
kernel however the process ends. Nothing here starts, stops or talks to a process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from skulk.core.domain import PlacementUid

SOCKET_ADDRESS_BYTES_MAX = 100
"""`sockaddr_un` holds 108 bytes on Linux and 104 on macOS, the final zero included; a little is left unused."""
LOG_BYTES_MAX = 5 * 1024 * 1024
"""A log above this is set aside as log.1 when its runner starts anew: enough for days of one line per request."""
KEPT_LOGS_MAX = 32
"""Logs of runners that are gone are kept for people; beyond this many the oldest go."""
RECORD_BYTES_MAX = 64 * 1024
"""pid and last words are a few hundred bytes; a larger file is damage and is not read into memory."""

_LOGS = ("log", "log.1")
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one runner. `address` is a path to its socket that is short enough to bind and connect."""

    path: Path
    address: str

    @property
    def uid(self) -> PlacementUid:
        return PlacementUid(self.path.name)

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def socket(self) -> Path:
        return self.path / "socket"

    @property
    def launch(self) -> Path:
        return self.path / "launch.json"

    @property
    def pid(self) -> Path:
        return self.path / "pid"

    @property
    def last_words(self) -> Path:
        return self.path / "last_words.json"

    @property
    def logs(self) -> tuple[Path, ...]:
        """The log files that exist, oldest first."""
        return tuple(path for path in (self.path / "log.1", self.path / "log") if path.is_file())

    def is_held(self) -> bool:
        """A process holds the lock: the runner lives."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            # Shared, so that two that look at the same time do not take each other for the runner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def take_lock(self) -> int:
        """Create and lock the file; return the descriptor for the child. Raises BlockingIOError when held."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def sweep(self) -> None:
        """Remove everything but the logs; without logs the directory goes too."""
        try:
            entries = list(self.path.iterdir())
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name in _LOGS:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def open_log(self) -> int:
        """A descriptor that appends to the log; a log above LOG_BYTES_MAX becomes log.1 first."""
        log = self.path / "log"
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(self.path / "log.1")
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


class Places:
    """All runner directories below one root, and the short way to their sockets."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The resolved path is what a runner's command line carries, so a later daemon recognises it.
        self.root = root.resolve()
        self.root.chmod(0o700)
        self._short: Path | None = None

    def place(self, uid: str) -> Place:
        """The place of `uid`. Raises ValueError for a name that is no plain identifier."""
        if not _UID.fullmatch(uid):
            raise ValueError(f"{uid!r} is not a placement uid")
        path = self.root / uid
        address = str(path / "socket")
        if len(os.fsencode(address)) > SOCKET_ADDRESS_BYTES_MAX:
            address = str(self._short_root() / uid / "socket")
        return Place(path, address)

    def all(self) -> tuple[Place, ...]:
        """Every runner directory on disk, sorted. Names that are no uid are somebody else's and left alone."""
        names = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and not entry.is_symlink())
        return tuple(self.place(name) for name in names if _UID.fullmatch(name))

    def prune_logs(self) -> None:
        """Keep the newest KEPT_LOGS_MAX directories of those that hold nothing but logs."""
        leftovers = []
        for place in self.all():
            names = {entry.name for entry in place.path.iterdir()}
            if names and names <= set(_LOGS):
                leftovers.append((max(path.stat().st_mtime for path in place.logs), place.path))
        for _, path in sorted(leftovers, reverse=True)[KEPT_LOGS_MAX:]:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove the short link when one was made; a later daemon makes it again."""
        if self._short is not None:
            shutil.rmtree(self._short.parent, ignore_errors=True)
            self._short = None

    def _short_root(self) -> Path:
        if self._short is None:
            self._short = _short_link(self.root)
        return self._short


def write_private(path: Path, data: bytes) -> None:
    """Write a small file atomically, readable by its owner only. A crash leaves the old one or the new one."""
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    draft.replace(path)


def read_record(path: Path) -> bytes | None:
    """A small file's bytes; None when it is missing, unreadable or above RECORD_BYTES_MAX."""
    try:
        with path.open("rb") as file:
            data = file.read(RECORD_BYTES_MAX + 1)
    except OSError:
        return None
    return data if len(data) <= RECORD_BYTES_MAX else None


def _short_link(root: Path) -> Path:
    """A symlink to `root` inside a directory that only this user can enter, with a short path."""
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > 50:  # the rest of the address (name, link, uid, "socket") takes up to 50
        base = "/tmp"
    directory = Path(base) / f"skulk-{os.geteuid()}-{digest}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if not _is_private(directory):
        # Somebody else has taken the name: use one that nobody can guess.
        directory = Path(tempfile.mkdtemp(prefix="skulk-", dir=base))
    link = directory / "r"
    if not (link.is_symlink() and link.readlink() == root):
        draft = directory / f"r.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(root)
        draft.replace(link)
    return link


def _is_private(directory: Path) -> bool:
    facts = directory.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
