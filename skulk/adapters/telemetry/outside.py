"""What the sampler asks: files of /proc and /sys, and programs of the system. Blocking; called by lanes alone.

Nothing here raises for what is absent, forbidden, too slow or broken: the answer is None, and the value stays unknown.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# /proc/cpuinfo of a machine with many cores is longer; what is read from it stands at its beginning.
READ_BYTES_MAX = 64 * 1024
# Every program that is asked answers within a second on a healthy machine.
COMMAND_SECONDS_MAX = 5.0
# Found here as well when a service's PATH is short.
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


class Outside:
    """The machine's files below `root`, and its programs by `path` (default: PATH and the system's directories)."""

    def __init__(self, root: Path = Path("/"), path: str | None = None) -> None:
        self._root = root
        self._path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}" if path is None else path

    def read(self, *parts: str) -> str | None:
        """Text of one file, cut at READ_BYTES_MAX and without white space around it."""
        try:
            with self._root.joinpath(*parts).open("rb") as file:
                return file.read(READ_BYTES_MAX).decode("utf-8", "replace").strip("\0 \t\n")
        except OSError:
            return None

    def names(self, *parts: str) -> tuple[str, ...]:
        """Names in a directory, sorted; none where there is no such directory."""
        try:
            return tuple(sorted(os.listdir(self._root.joinpath(*parts))))  # noqa: PTH208  (names are wanted)
        except OSError:
            return ()

    def run(self, program: str, *arguments: str) -> bytes | None:
        """What a program writes, when it is there and ends with 0 in time. It gets no input, none of our settings."""
        found = shutil.which(program, path=self._path)
        if found is None:
            return None
        own = {name: value for name, value in os.environ.items() if not name.startswith("SKULK_")}
        try:
            done = subprocess.run(
                [found, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**own, "LC_ALL": "C"},
                timeout=COMMAND_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout if done.returncode == 0 else None
