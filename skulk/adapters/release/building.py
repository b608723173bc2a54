"""Building the wheel from the source tree that this program runs from, and laying out what nodes install.

A build from the same files gives the same bytes, so that a second run of the bootstrap finds nothing to change.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import skulk
from skulk.adapters.release.wheel import Wheel, read_wheel
from skulk.core.errors import REL_BUILD, InvalidInput, Terminal
from skulk.core.release import Release

BUILD_SECONDS_MAX = 300.0
"""A build takes two seconds; the first one fetches the build backend over a line that may be slow."""
MANIFEST = "release.json"
RELEASES_KEPT = 5
"""Less than a megabyte each; who goes back to an older one builds it again."""
_TAIL_LINES = 5


def source_tree() -> Path | None:
    """The checkout of Skulk that this program runs from; None for an installed one."""
    root = Path(skulk.__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "uv.lock").is_file() else None


def make_release(parent: Path, wheel: Path | None = None) -> tuple[Release, Path]:
    """A release and its directory, `parent`/NAME: the wheel (`wheel`, or built now), `daemon.txt`, `uv.txt`, and
    `release.json`. The name says what is in it, so one that is there is taken; of older ones the newest few stay.

    Raises InvalidInput: REL_WHEEL for a file that is no wheel of Skulk, REL_BUILD when none is given and there is no
    source tree; Terminal REL_BUILD when building failed.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".") as scratch:
        found = read_wheel(wheel if wheel is not None else _build(Path(scratch)))
        directory = parent / found.release.name
        if not (directory / MANIFEST).is_file():
            _lay_out(found, Path(scratch) / "release", directory)
    os.utime(directory)
    for old in _newest_first(parent)[RELEASES_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return found.release, directory


def _lay_out(wheel: Wheel, draft: Path, directory: Path) -> None:
    draft.mkdir()
    shutil.copyfile(wheel.path, draft / wheel.path.name)
    for name, text in wheel.requirements.items():
        (draft / name).write_text(text, encoding="utf-8")
    release = wheel.release
    facts = {"name": release.name, "version": release.version, "digest": release.digest, "wheel": wheel.path.name}
    (draft / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if directory.exists() and not (directory / MANIFEST).is_file():
        # What is left of one that somebody was removing.
        shutil.rmtree(directory, ignore_errors=True)
    try:
        draft.rename(directory)
    except OSError as error:
        # Somebody else laid out the same release meanwhile.
        if not (directory / MANIFEST).is_file():
            raise Terminal(REL_BUILD, f"{directory} cannot be written: {error.strerror}") from error


def _newest_first(parent: Path) -> list[Path]:
    there = [path for path in parent.iterdir() if (path / MANIFEST).is_file()]
    return sorted(there, key=lambda path: path.stat().st_mtime, reverse=True)


def _build(into: Path) -> Path:
    root = source_tree()
    if root is None:
        raise InvalidInput(REL_BUILD, "this program is installed, so there is no source to build a wheel from")
    uv = shutil.which("uv") or (str(own) if os.access(own := root / ".uv/bin/uv", os.X_OK) else None)
    if uv is not None:
        command = [uv, "build", "--wheel", "--quiet", "--out-dir", str(into), str(root)]
    else:
        # An environment that uv made has no pip of its own; the interpreter below it does.
        python = getattr(sys, "_base_executable", None) or sys.executable
        command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(root)]
    _run(command)
    made = sorted(into.glob("*.whl"))
    if len(made) != 1:
        raise Terminal(REL_BUILD, f"{' '.join(command)} made {len(made)} wheels")
    return made[0]


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=BUILD_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Terminal(REL_BUILD, f"{command[0]}: {error}") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_TAIL_LINES:])
        raise Terminal(REL_BUILD, f"{' '.join(command[:3])} ended with {done.returncode}:\n{tail}")
