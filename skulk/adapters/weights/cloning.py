"""Copy-on-write copies of a file where the file system has them: no space, no time, and a stable snapshot.

Linux: the FICLONE ioctl (ioctl_ficlone(2): btrfs, XFS, bcachefs); macOS: clonefile(2) on APFS. Elsewhere `clone`
is False and the caller copies.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import fcntl
import os
import sys
from pathlib import Path

FICLONE = 0x40049409
"""_IOW(0x94, 9, int) from linux/fs.h."""


def clone(source: int, source_path: Path, target: Path) -> bool:
    """Make `target` (which must not exist) a clone of the open file `source`; False when that cannot be done here.

    macOS clones by path (`source_path`); the caller compares the open file with what it hashes anyway.
    """
    done = _ficlone(source, target) if sys.platform == "linux" else _clonefile(source_path, target)
    if not done:
        target.unlink(missing_ok=True)
    return done


def _ficlone(source: int, target: Path) -> bool:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.ioctl(descriptor, FICLONE, source)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _clonefile(source: Path, target: Path) -> bool:
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        return bool(library.clonefile(os.fsencode(source), os.fsencode(target), 0) == 0)
    return False
