"""The machine's own kernel settings, to see that hosts leave them alone."""

from __future__ import annotations

import os
from pathlib import Path

# Settings that change by themselves while a machine runs; `net` belongs to a namespace.
_MOVING = ("net/", "fs/dentry", "fs/file-nr", "fs/inode", "kernel/ns_last_pid", "kernel/random/", "kernel/pty/nr")


def settings() -> dict[str, str]:
    """Every setting that can be written, by its path below /proc/sys."""
    root = Path("/proc/sys")
    found = {}
    for directory, _, names in os.walk(root):
        for path in (Path(directory) / name for name in names):
            name = str(path.relative_to(root))
            if name.startswith(_MOVING) or not path.stat().st_mode & 0o200:
                continue
            try:
                found[name] = path.read_text("utf-8", "replace")
            except OSError:  # some can only be written, some need a feature that is off
                continue
    return found
