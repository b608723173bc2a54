"""Verified file contents on this node, one per sha256, and model directories made of links to them.

    blobs/<sha256>            the content, read-only
    records/<sha256>.json     its size, mtime and inode when it was verified
    models/<content>/…        hard links under the card's paths; `.skulk-complete` is written last
    tmp/                      what is being written; emptied at start

A blob is trusted as long as size, mtime and inode are as recorded; otherwise it is hashed again. Knows nothing of
where contents come from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from skulk.core.domain import Card, CardFile

COMPLETE = ".skulk-complete"
"""Marks a model directory whose links are all there. A card file of that name is refused."""
CHUNK_BYTES = 4 * 1024 * 1024
"""Read, hashed and written at a time: large enough for full disk speed, a cancel waits for one at most."""

_CONTENT = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """The store of one node. Methods block on the disk: call them from a thread. Raise OSError."""

    def __init__(self, root: Path) -> None:
        for name in ("blobs", "records", "models", "tmp"):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root.resolve()

    def clean(self) -> None:
        """Remove what a crash left half written. Only while nothing is being written."""
        for path in (self._root / "tmp").iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def draft(self, name: str) -> Path:
        """A path to write to before `keep`; `name` makes it unique among what is written at the same time."""
        return self._root / "tmp" / name

    def blob(self, sha256: str) -> Path:
        assert _SHA256.fullmatch(sha256), sha256
        return self._root / "blobs" / sha256

    def model_dir(self, content: str) -> Path:
        assert _CONTENT.fullmatch(content), content
        return self._root / "models" / content

    def holds(self, file: CardFile, progress: Callable[[int], None] | None = None) -> bool:
        """The content is here and is what its name says; one that has changed since is hashed again."""
        path = self.blob(file.sha256)
        try:
            facts = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != file.bytes:
            return False
        if self._recorded(file.sha256) == _identity(facts):
            return True
        if digest_of(path, progress) != file.sha256:
            return False
        self._record(file.sha256)
        return True

    def keep(self, draft: Path, sha256: str) -> None:
        """Make a draft, whose content has been verified, the blob. It is on disk when this returns."""
        draft.chmod(0o444)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(self.blob(sha256))
        _sync_directory(self._root / "blobs")
        self._record(sha256)

    def link(self, content: str, card: Card) -> Path:
        """The model directory of a card whose blobs are all here: missing and damaged links are made anew."""
        directory = self.model_dir(content)
        for file in card.files:
            target = directory / file.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _same_file(target, self.blob(file.sha256)):
                self._link_one(target, file, content)
        marker = directory / COMPLETE
        draft = self.draft(f"{content}.complete")
        files = [[file.path, file.bytes, file.sha256] for file in card.files]
        draft.write_text(json.dumps({"model": card.name, "files": files}), encoding="utf-8")
        draft.replace(marker)
        _sync_directory(directory)
        return directory

    def complete(self) -> Iterable[tuple[str, str, int]]:
        """(content, card name, bytes) of every model directory that is whole by its marker and its files' facts."""
        for directory in sorted((self._root / "models").iterdir()):
            if _CONTENT.fullmatch(directory.name):
                found = self.whole(directory.name)
                if found is not None:
                    yield directory.name, *found

    def whole(self, content: str) -> tuple[str, int] | None:
        """(card name, bytes) when every file of the model directory is there and unchanged; reads no content."""
        directory = self.model_dir(content)
        marker = self._marker(content)
        if marker is None:
            return None
        name, files = marker
        for path, _, sha256 in files:
            blob = self.blob(sha256)
            try:
                intact = self._recorded(sha256) == _identity(blob.lstat())
            except OSError:
                return None
            if not intact or not _same_file(directory / path, blob):
                return None
        return name, sum(size for _, size, _ in files)

    def digests(self, contents: Iterable[str]) -> frozenset[str]:
        """sha256 of every file that the markers of these model directories name."""
        markers = (self._marker(content) for content in contents)
        return frozenset(sha256 for marker in markers if marker is not None for _, _, sha256 in marker[1])

    def _marker(self, content: str) -> tuple[str, list[tuple[str, int, str]]] | None:
        """(card name, files as (path, bytes, sha256)); None when there is no marker or it is damaged."""
        try:
            marker = json.loads((self.model_dir(content) / COMPLETE).read_text(encoding="utf-8"))
            files = [(str(path), int(size), str(sha256)) for path, size, sha256 in marker["files"]]
            name = str(marker["model"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sound = all(_SHA256.fullmatch(sha256) for _, _, sha256 in files)
        return (name, files) if sound else None

    def _link_one(self, target: Path, file: CardFile, content: str) -> None:
        blob = self.blob(file.sha256)
        draft = self.draft(f"{content}.{file.sha256}.link")
        draft.unlink(missing_ok=True)
        try:
            os.link(blob, draft)
        except OSError:
            # A file system without hard links: a symlink is as good, and still one content on disk.
            draft.symlink_to(blob)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        draft.replace(target)
        # Replacing a hard link by another one of the same file does nothing and leaves the draft.
        draft.unlink(missing_ok=True)

    def _record(self, sha256: str) -> None:
        draft = self.draft(f"{sha256}.{threading.get_ident()}.record")
        draft.write_text(json.dumps(_identity(self.blob(sha256).lstat())), encoding="utf-8")
        draft.replace(self._root / "records" / f"{sha256}.json")

    def _recorded(self, sha256: str) -> list[int] | None:
        try:
            value = json.loads((self._root / "records" / f"{sha256}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, list) else None


def digest_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """sha256 of a file as lower-case hex; `progress` is called with the bytes of every chunk and may raise."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def _identity(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _same_file(path: Path, blob: Path) -> bool:
    try:
        return path.samefile(blob)
    except OSError:
        return False


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can; the content itself has been synced
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
