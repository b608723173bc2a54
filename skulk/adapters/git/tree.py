"""Reads the manifests of one commit out of the mirror, without a work tree: `ls-tree`, then `cat-file --batch`.

Raw blobs: no filters, no line-ending conversion, no LFS smudge. Links and submodules are reported, never followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.git.command import git
from skulk.adapters.git.failures import mirror_error
from skulk.adapters.git.selection import FILE_BYTES_MAX, FOLDERS, check_volume, display, in_folders, is_manifest
from skulk.core.domain import CommitId
from skulk.core.errors import SRC_CORRUPT, SRC_NO_PATH, InvalidInput, Transient
from skulk.core.ports import FileKind, TreeFile

_MODE_SYMLINK = b"120000"
_MODE_SUBMODULE = b"160000"
_SHORT = 12


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    kind: FileKind
    object_id: bytes
    size: int


async def read_tree(
    mirror: Path, commit: CommitId, path: str, label: str, timeout_seconds: float
) -> tuple[TreeFile, ...]:
    """The manifest files of `commit` below `path` (`""`: the root), sorted by path.

    Raises InvalidInput SRC_NO_PATH (the commit has no directory `path`) or SRC_INVALID (too many, too large
    together), Transient SRC_CORRUPT (objects missing or damaged).
    """
    root = await _root(mirror, commit, path, label, timeout_seconds)
    listing = await git(
        "ls-tree", "-r", "-z", "-l", "--full-tree", root, "--", *FOLDERS,
        mirror=mirror, timeout_seconds=timeout_seconds,
    )  # fmt: skip
    if not listing.ok:
        raise mirror_error(listing, label)
    try:
        entries = [entry for record in listing.stdout.split(b"\0") if record and (entry := _parse(record))]
    except ValueError:
        # git prints BAD for the size of an object that it cannot read.
        raise Transient(SRC_CORRUPT, f"the mirror of {label} lacks objects of commit {commit[:_SHORT]}") from None
    wanted = [entry for entry in entries if entry.kind is FileKind.FILE]
    check_volume(len(wanted), sum(entry.size for entry in wanted), f"commit {commit[:_SHORT]}")
    blobs = await _blobs(mirror, {entry.object_id for entry in wanted}, label, timeout_seconds)
    files = [
        TreeFile(entry.path, blobs.get(entry.object_id, b""), entry.kind, entry.size)
        if entry.kind is FileKind.FILE
        else TreeFile(entry.path, kind=entry.kind, size=entry.size)
        for entry in entries
    ]
    return tuple(sorted(files, key=lambda file: file.path))


async def _root(mirror: Path, commit: CommitId, path: str, label: str, timeout_seconds: float) -> str:
    """The object id of the tree at `path`. A link or a file there is not a directory."""
    found = await git(
        "rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}",
        mirror=mirror, timeout_seconds=timeout_seconds,
    )  # fmt: skip
    if not found.ok:
        raise Transient(SRC_CORRUPT, f"commit {commit[:_SHORT]} is not in the mirror of {label}")
    tree = found.stdout.decode("ascii").strip()
    if not path:
        return tree
    # Not `commit:path`: that resolves through the raw string; entry by entry there is nothing to misread.
    for part in path.split("/"):
        below = await git(
            "ls-tree", "-z", "--full-tree", tree, "--", part, mirror=mirror, timeout_seconds=timeout_seconds
        )
        if not below.ok:
            raise mirror_error(below, label)
        header = below.stdout.partition(b"\t")[0].split()
        if len(header) != 3 or header[1] != b"tree":
            raise InvalidInput(SRC_NO_PATH, f"commit {commit[:_SHORT]} of {label} has no directory {path!r}")
        tree = header[2].decode("ascii")
    return tree


def _parse(record: bytes) -> _Entry | None:
    """One `mode type object size<TAB>path` of ls-tree -l; None for what is no manifest. Raises ValueError."""
    header, _, raw = record.partition(b"\t")
    mode, _, object_id, size = header.split()
    path = display(raw)
    if not in_folders(path):
        return None
    if mode == _MODE_SYMLINK:
        return _Entry(path, FileKind.SYMLINK, object_id, int(size))
    if mode == _MODE_SUBMODULE:
        return _Entry(path, FileKind.SUBMODULE, object_id, 0)
    if not is_manifest(path):
        return None
    length = int(size)
    return _Entry(path, FileKind.TOO_LARGE if length > FILE_BYTES_MAX else FileKind.FILE, object_id, length)


async def _blobs(mirror: Path, wanted: set[bytes], label: str, timeout_seconds: float) -> dict[bytes, bytes]:
    if not wanted:
        return {}
    output = await git(
        "cat-file", "--batch", "--buffer",
        mirror=mirror, timeout_seconds=timeout_seconds, stdin=b"".join(i + b"\n" for i in sorted(wanted)),
    )  # fmt: skip
    if not output.ok:
        raise mirror_error(output, label)
    found: dict[bytes, bytes] = {}
    data, at = output.stdout, 0
    while at < len(data):
        end = data.index(b"\n", at)
        header = data[at:end].split()
        if len(header) != 3 or header[1] != b"blob":
            raise Transient(SRC_CORRUPT, f"the mirror of {label} lacks object {header[0].decode('ascii')}")
        size = int(header[2])
        found[header[0]] = data[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    if found.keys() != wanted:
        raise Transient(SRC_CORRUPT, f"the mirror of {label} lacks objects of the commit")
    return found
