"""The runner's own code, placed beside the engine environments: one immutable copy per content.

A runner imports `skulk.engines` and the part of `skulk.core` that it needs from such a copy and nothing from the
daemon's installation, so upgrading the daemon changes nothing under a runner that lives on.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import skulk

_PARTS = ("__init__.py", "core/__init__.py", "core/errors.py", "core/domain", "core/formats", "core/wire", "engines")
"""Below the package: what engine processes may import."""


def place_runner_code(engines_dir: Path, package_dir: Path | None = None) -> Path:
    """Copy the code to `<engines_dir>/runner-<digest>/skulk/` and return `<engines_dir>/runner-<digest>`.

    A copy that is there and intact is reused; a damaged one is replaced. `package_dir` is the `skulk` package to
    copy from, by default the running one. Raises OSError when it cannot be written.
    """
    source = _sources(package_dir if package_dir is not None else Path(skulk.__file__).parent)
    digest = _digest(source)
    target = engines_dir / f"runner-{digest}"
    if _is_intact(target, digest):
        return target
    engines_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".runner-", dir=engines_dir))
    try:
        for name, data in source.items():
            path = draft / "skulk" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o444)
        _replace(draft, target, digest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _replace(draft: Path, target: Path, digest: str) -> None:
    try:
        draft.rename(target)
        return
    except OSError:
        if _is_intact(target, digest):  # another process was faster
            return
    damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=target.parent))
    try:
        target.rename(damaged / "old")
        draft.rename(target)
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _sources(package: Path) -> dict[str, bytes]:
    """Relative path → bytes of every module that belongs to the runner's code, sorted by path."""
    files: dict[str, bytes] = {}
    for part in _PARTS:
        path = package / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            files[file.relative_to(package).as_posix()] = file.read_bytes()
    return dict(sorted(files.items()))


def _digest(files: dict[str, bytes]) -> str:
    """16 hex digits over names and contents."""
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def _is_intact(target: Path, digest: str) -> bool:
    package = target / "skulk"
    if not package.is_dir() or target.is_symlink():
        return False
    found = {file.relative_to(package).as_posix(): file.read_bytes() for file in package.rglob("*.py")}
    return _digest(dict(sorted(found.items()))) == digest
