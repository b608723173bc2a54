"""The files of a card below the node's model roots: found, measured, and never outside a root.

Nothing is read beyond the first bytes here and nothing is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from skulk.core.domain import Card, CardFile, HubSource
from skulk.core.errors import (
    WGT_ESCAPE,
    WGT_IO,
    WGT_LFS_POINTER,
    WGT_MISSING,
    WGT_NO_ROOT,
    WGT_SIZE,
    ErrorCode,
    SkulkError,
    Terminal,
    Transient,
)

LFS_MARK = b"version https://git-lfs.github.com/spec/"
"""First bytes of a git-lfs pointer file (git-lfs specification, version 1)."""
LFS_POINTER_BYTES_MAX = 1024
"""A pointer is smaller than this by the same specification."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a card where it lies: `path` is resolved, `root` the model root that holds it."""

    file: CardFile
    path: Path
    root: Path

    def problem(self, code: ErrorCode, what: str) -> Transient:
        """An error about this file. Transient: whoever mends the file tells nobody, so it is tried again."""
        return Transient(code, f"{self.file.path} in {self.root}: {what}")

    def open(self) -> int:
        """A descriptor to read from. Raises Transient(WGT_IO or WGT_MISSING)."""
        try:
            # Resolved before: a link that appears now is a change under our hands, a FIFO must not block.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.path, flags)
        except FileNotFoundError as error:
            raise self.problem(WGT_MISSING, "it is not there") from error
        except OSError as error:
            raise self.problem(WGT_IO, f"it cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self.problem(WGT_IO, "it is not a regular file")
        return descriptor


def find_files(card: Card, roots: Sequence[Path]) -> tuple[SourceFile, ...]:
    """Every file of the card in the first root that has the source's directory, sizes checked.

    Raises Terminal for what only another card or policy can change (a Hub source, a path that leaves its root),
    Transient for what may be mended on disk (no root has it, missing, wrong size, git-lfs pointer, unreadable).
    """
    if isinstance(card.source, HubSource):
        raise Terminal(
            WGT_NO_ROOT,
            f"card {card.name}: this version fetches local sources only",
            fix="give the card `source: {local: NAME}` and put the files under a modelRoots directory",
        )
    root, directory = _find_directory(card, card.source.name, roots)
    return tuple(_find_file(card, file, root, directory) for file in card.files)


def _find_directory(card: Card, name: str, roots: Sequence[Path]) -> tuple[Path, Path]:
    relative = plain_path(card, name)
    for root in roots:
        try:
            resolved_root = root.resolve(strict=True)
            directory = (resolved_root / relative).resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop of symlinks
            continue
        if not directory.is_dir():
            continue
        if not directory.is_relative_to(resolved_root):
            raise _escape(card, name, resolved_root)
        return resolved_root, directory
    looked = ", ".join(str(root) for root in roots) or "none is configured"
    raise Transient(WGT_NO_ROOT, f"card {card.name}: no model root holds {name!r} (modelRoots: {looked})")


def _find_file(card: Card, file: CardFile, root: Path, directory: Path) -> SourceFile:
    source = SourceFile(file, directory / plain_path(card, file.path), root)
    try:
        resolved = source.path.resolve(strict=True)
        facts = resolved.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise source.problem(WGT_MISSING, "it is not there") from error
    except (OSError, RuntimeError) as error:
        raise source.problem(WGT_IO, f"it cannot be read: {error}") from error
    if not resolved.is_relative_to(root):
        raise _escape(card, file.path, root)
    source = SourceFile(file, resolved, root)
    if stat.S_ISREG(facts.st_mode) and facts.st_size != file.bytes:
        raise _wrong_size(source, facts.st_size)
    os.close(source.open())
    return source


def _wrong_size(source: SourceFile, size: int) -> Transient:
    if size <= LFS_POINTER_BYTES_MAX:
        descriptor = source.open()
        try:
            if os.read(descriptor, len(LFS_MARK)) == LFS_MARK:
                return source.problem(WGT_LFS_POINTER, "it is a git-lfs pointer, not the content")
        finally:
            os.close(descriptor)
    return source.problem(WGT_SIZE, f"it has {size} bytes, the card says {source.file.bytes}")


def plain_path(card: Card, text: str) -> PurePosixPath:
    """`text` as a plain relative path. Raises Terminal(WGT_ESCAPE) for anything else."""
    parts = text.split("/")
    plain = text.isprintable() and "\\" not in text and not any(part in ("", ".", "..") for part in parts)
    if not plain:
        raise Terminal(WGT_ESCAPE, f"card {card.name}: {text!r} is not a plain relative path")
    return PurePosixPath(text)


def _escape(card: Card, name: str, root: Path) -> SkulkError:
    return Terminal(WGT_ESCAPE, f"card {card.name}: {name} is a link that leads out of {root}")
