"""One fetch: all files of a card verified into the store, then its model directory. Runs in a thread.

Order: everything that can be wrong without reading is checked first; then what can be cloned is cloned; then the
space for the rest is checked; then bytes flow. A failure leaves complete blobs (they count next time) and no
drafts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from skulk.adapters.weights.blobs import CHUNK_BYTES, COMPLETE, BlobStore, digest_of
from skulk.adapters.weights.cloning import clone
from skulk.adapters.weights.sources import SourceFile, find_files, plain_path
from skulk.core.domain import Card
from skulk.core.errors import WGT_DIGEST, WGT_ESCAPE, WGT_IO, WGT_NO_SPACE, Terminal, Transient

LOCK_CHECK_SECONDS = 0.2
"""How soon a cancel is noticed by a fetch that waits for another one."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Cancelled(Exception):
    """The fetch was told to stop."""


class BlobLocks:
    """One lock per sha256, so that two cards that share a file do not both write it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def held(self, sha256: str, check: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of a content; `check` is called while waiting and may raise."""
        with self._guard:
            lock = self._locks.setdefault(sha256, threading.Lock())
        while not lock.acquire(timeout=LOCK_CHECK_SECONDS):
            check()
        try:
            yield
        finally:
            lock.release()


class Fetch:
    """`done_bytes` and `total_bytes` may be read from any thread while `run` works in another."""

    def __init__(
        self,
        card: Card,
        content: str,
        *,
        roots: Sequence[Path],
        store: BlobStore,
        locks: BlobLocks,
        free_disk: Callable[[], int],
        keep_free_bytes: int,
        known_bad: dict[str, tuple[int, ...]],
        progressed: Callable[[], None],
    ) -> None:
        self.card = card
        self.content = content
        self.total_bytes = sum(file.bytes for file in card.files)
        self.done_bytes = 0
        self._roots = roots
        self._store = store
        self._locks = locks
        self._free_disk = free_disk
        self._keep_free_bytes = keep_free_bytes
        self._known_bad = known_bad
        self._progressed = progressed
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Make `run` raise Cancelled at its next chunk."""
        self._cancelled.set()

    def run(self) -> Path:
        """The complete model directory. Raises Cancelled, Terminal or Transient (WGT_*)."""
        try:
            return self._run()
        except OSError as error:
            if error.errno in _FULL:
                raise Transient(
                    WGT_NO_SPACE,
                    f"card {self.card.name}: the disk became full after {self.done_bytes} of {self.total_bytes} bytes",
                ) from error
            place = f" ({error.filename})" if error.filename else ""
            raise Transient(WGT_IO, f"card {self.card.name}: {error.strerror or error}{place}") from error

    def _run(self) -> Path:
        self._check()
        for file in self.card.files:
            if plain_path(self.card, file.path).parts[0] == COMPLETE:
                raise Terminal(WGT_ESCAPE, f"card {self.card.name}: {COMPLETE} is a reserved file name")
        if self._all_here():
            return self._store.link(self.content, self.card)
        self.done_bytes = 0
        sources = {source.file.sha256: source for source in find_files(self.card, self._roots)}
        clones: dict[str, Path] = {}
        missing: list[SourceFile] = []
        try:
            for source in sources.values():
                if self._store.holds(source.file):
                    self._advance(source.file.bytes)
                    continue
                missing.append(source)
                draft = self._draft(source, "clone")
                if self._clone(source, draft):
                    clones[source.file.sha256] = draft
            self._reserve(sum(s.file.bytes for s in missing if s.file.sha256 not in clones))
            for source in missing:
                with self._locks.held(source.file.sha256, self._check):
                    self._bring(source, clones.get(source.file.sha256))
        finally:
            for draft in clones.values():
                draft.unlink(missing_ok=True)
        self.done_bytes = self.total_bytes
        return self._store.link(self.content, self.card)

    def _all_here(self) -> bool:
        """Every blob is in the store: then the sources need not exist any more."""
        for file in self.card.files:
            if not self._store.holds(file, self._advance):
                return False
        self.done_bytes = self.total_bytes
        return True

    def _reserve(self, needed: int) -> None:
        free = self._free_disk() - self._keep_free_bytes
        if needed > free:
            raise Transient(
                WGT_NO_SPACE,
                f"card {self.card.name}: needs {needed} bytes, {max(0, free)} are free"
                f" beside the {self._keep_free_bytes} that are kept",
            )

    def _bring(self, source: SourceFile, cloned: Path | None) -> None:
        if self._store.holds(source.file):  # another fetch has brought it meanwhile
            self._advance(source.file.bytes)
            return
        before = self.done_bytes
        draft = cloned if cloned is not None else self._draft(source, "copy")
        try:
            if cloned is not None:
                found, changed = digest_of(cloned, self._advance), False
            else:
                found, changed = self._copy(source, draft)
            if changed:
                raise source.problem(WGT_IO, "it changed while it was copied")
            if found != source.file.sha256:
                self._known_bad[str(source.path)] = _identity(source.path)
                raise source.problem(WGT_DIGEST, f"its sha256 is {found}, the card says {source.file.sha256}")
            self._store.keep(draft, source.file.sha256)
        except BaseException:
            self.done_bytes = before
            raise
        finally:
            draft.unlink(missing_ok=True)

    def _clone(self, source: SourceFile, draft: Path) -> bool:
        if self._known_bad.get(str(source.path)) == _identity(source.path):
            # Hashing 100 GB again at every attempt would find the same; a changed file is read again.
            raise source.problem(WGT_DIGEST, "its sha256 differs from the card's, and it has not changed since")
        draft.unlink(missing_ok=True)
        descriptor = source.open()
        try:
            return clone(descriptor, source.path, draft)
        finally:
            os.close(descriptor)

    def _copy(self, source: SourceFile, draft: Path) -> tuple[str, bool]:
        """(sha256 of what was copied, the source changed meanwhile)."""
        digest = hashlib.sha256()
        copied = 0
        descriptor = source.open()
        with os.fdopen(descriptor, "rb", buffering=0) as reader, draft.open("xb", buffering=0) as writer:
            before = os.fstat(reader.fileno())
            while chunk := reader.read(CHUNK_BYTES):
                copied += len(chunk)
                if copied > source.file.bytes:
                    return "", True
                digest.update(chunk)
                _write_all(writer.fileno(), chunk)
                self._advance(len(chunk))
            after = os.fstat(reader.fileno())
        changed = copied != source.file.bytes or (before.st_mtime_ns, before.st_size, before.st_ctime_ns) != (
            after.st_mtime_ns,
            after.st_size,
            after.st_ctime_ns,
        )
        return digest.hexdigest(), changed

    def _draft(self, source: SourceFile, kind: str) -> Path:
        return self._store.draft(f"{self.content}.{source.file.sha256}.{kind}")

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _advance(self, size: int) -> None:
        self._check()
        self.done_bytes += size
        self._progressed()


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _identity(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except OSError:
        return ()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
