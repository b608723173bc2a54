"""Reads the manifests below a directory as one state, and takes its fingerprint, without following links.

Every step opens relative to a directory descriptor with O_NOFOLLOW, so a link that is put in place while the read
is under way leads nowhere. Blocking: callers use a thread. Does not wait for writers: that is `directory`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from skulk.adapters.git.selection import (
    FILE_BYTES_MAX,
    FOLDERS,
    check_volume,
    display,
    in_folders,
    is_manifest,
)
from skulk.core.domain import CommitId
from skulk.core.errors import SRC_INVALID, SRC_UNREACHABLE, InvalidInput, Transient
from skulk.core.ports import FileKind, TreeFile

# Directories inside each other below fleet/ or cards/. People use three or four.
DEPTH_MAX = 32

# Entries looked at below fleet/ and cards/, manifests or not, so that a fingerprint stays cheap.
ENTRIES_MAX = 100_000

_COMMIT_HEX = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Not blocking: somebody may put a named pipe there.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Snapshot:
    """One state. `whole`: nothing changed while it was read. `modified_at`: newest change, in epoch seconds."""

    files: tuple[TreeFile, ...]
    fingerprint: str
    whole: bool
    modified_at: float

    @cached_property
    def commit(self) -> CommitId:
        """`dir-` and the first 40 hex digits of SHA-256 over kind, path and content of every file."""
        digest = hashlib.sha256()
        for file in self.files:
            for part in (file.kind.value.encode(), file.path.encode(), str(file.size).encode(), file.data):
                digest.update(len(part).to_bytes(8, "big") + part)
        return CommitId(f"dir-{digest.hexdigest()[:_COMMIT_HEX]}")


@dataclass(slots=True)
class _Walk:
    """What one pass over the directory found."""

    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    entries: int = 0
    newest: float = 0.0
    files: list[TreeFile] = field(default_factory=list)
    total_bytes: int = 0
    whole: bool = True

    def note(self, path: bytes, status: os.stat_result) -> None:
        self.entries += 1
        if self.entries > ENTRIES_MAX:
            raise InvalidInput(SRC_INVALID, f"more than {ENTRIES_MAX} files below fleet/ and cards/")
        facts = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self.digest.update(path + b"\0" + repr(facts).encode())
        self.touched(status)

    def touched(self, status: os.stat_result) -> None:
        self.newest = max(self.newest, status.st_mtime, status.st_ctime)


def read_snapshot(root: Path) -> Snapshot:
    """Read all manifests below `root`. Raises Transient SRC_UNREACHABLE, InvalidInput SRC_INVALID."""
    with _opened(root) as descriptor:
        walk = _pass(descriptor, root, read=True)
        # On the same descriptor: a swapped link makes the next read different, not this one torn.
        again = _pass(descriptor, root, read=False)
    files = tuple(sorted(walk.files, key=lambda file: file.path))
    mark = again.digest.hexdigest()
    return Snapshot(files, mark, walk.whole and walk.digest.digest() == again.digest.digest(), walk.newest)


def fingerprint(root: Path) -> str:
    """A value that differs whenever the manifests below `root` may differ. Never raises."""
    try:
        with _opened(root) as descriptor:
            return _pass(descriptor, root, read=False).digest.hexdigest()
    except (Transient, InvalidInput) as error:
        # Reading will say what is wrong; here it only has to be something else than a good state.
        return f"unreadable: {error.message}"


@contextmanager
def _opened(root: Path) -> Iterator[int]:
    try:
        descriptor = os.open(root, _DIRECTORY)
    except OSError as error:
        raise _unreadable(root, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pass(root: int, where: Path, *, read: bool) -> _Walk:
    walk = _Walk()
    status = os.fstat(root)
    walk.digest.update(f"{status.st_dev}:{status.st_ino}".encode())
    walk.touched(status)
    try:
        for name in FOLDERS:
            _visit(walk, root, name.encode(), name.encode(), 0, read=read)
    except OSError as error:
        raise _unreadable(where, error) from error
    return walk


def _visit(walk: _Walk, parent: int, name: bytes, path: bytes, depth: int, *, read: bool) -> None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        # Gone since it was listed (or a folder that is not there): the two passes differ if it matters.
        return
    shown = display(path)
    if not in_folders(shown):
        return
    if stat.S_ISLNK(status.st_mode):
        walk.note(path, status)
        walk.files.append(TreeFile(shown, kind=FileKind.SYMLINK, size=status.st_size))
    elif stat.S_ISDIR(status.st_mode):
        # A removal shows in the directory's times only. They stay out of the fingerprint, because they also
        # change with files that are no manifests.
        walk.touched(status)
        _descend(walk, parent, name, path, depth, read=read)
    elif stat.S_ISREG(status.st_mode) and is_manifest(shown):
        walk.note(path, status)
        _take(walk, parent, name, shown, status, read=read)


def _descend(walk: _Walk, parent: int, name: bytes, path: bytes, depth: int, *, read: bool) -> None:
    if depth >= DEPTH_MAX:
        raise InvalidInput(SRC_INVALID, f"{display(path)}: more than {DEPTH_MAX} directories inside each other")
    try:
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if _raced(error):
            walk.whole = False
            return
        raise
    try:
        for child in sorted(os.fsencode(entry) for entry in os.listdir(descriptor)):  # noqa: PTH208 -- by descriptor
            _visit(walk, descriptor, child, path + b"/" + child, depth + 1, read=read)
    finally:
        os.close(descriptor)


def _take(walk: _Walk, parent: int, name: bytes, shown: str, status: os.stat_result, *, read: bool) -> None:
    """Add one regular file, with its content when `read`."""
    if status.st_size > FILE_BYTES_MAX:
        walk.files.append(TreeFile(shown, kind=FileKind.TOO_LARGE, size=status.st_size))
        return
    if not read:
        return
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except OSError as error:
        if _raced(error):
            walk.whole = False
            return
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            walk.whole = False
            return
        data = file.read(FILE_BYTES_MAX + 1)
    walk.total_bytes += len(data)
    walk.files.append(TreeFile(shown, data, FileKind.FILE, len(data)))
    check_volume(len(walk.files), walk.total_bytes, "the directory")


def _raced(error: OSError) -> bool:
    """The entry was removed or became something else after it was listed."""
    return error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)


def _unreadable(root: Path, error: OSError) -> Transient:
    return Transient(
        SRC_UNREACHABLE,
        f"the directory {root} cannot be read: {error.strerror}"
        + (f" ({display(os.fsencode(error.filename))})" if isinstance(error.filename, bytes | str) else ""),
        fix="bring it back, or correct source.directory in node.toml",
    )
