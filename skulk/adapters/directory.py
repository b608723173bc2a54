"""`DirectorySource`: the `Repo` port over a directory that something else keeps up to date.

git-sync, ansible-pull, a shared disk or an editor writes; this reads a consistent state of it and gives that
state a commit id, the digest of its manifests. The root may be a symbolic link that is swapped as a whole; it is
resolved once per read, and no link below it is followed. There is no history and there are no signatures here:
with verification on, every state counts as unsigned. Watching lives in `directory_watch`, reading in
`directory_read`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
from collections.abc import Collection
from pathlib import Path

from skulk.adapters.directory_read import Snapshot, fingerprint, read_snapshot
from skulk.adapters.directory_watch import wait_for_events
from skulk.core.domain import CommitId, VerifyMode
from skulk.core.errors import (
    SRC_DISK,
    SRC_EMPTY,
    SRC_NO_OBJECTS,
    SRC_TIMEOUT,
    SRC_UNREACHABLE,
    Terminal,
    Transient,
)
from skulk.core.ports import CommitFacts, FileKind, Signature, TreeFile

# A directory that was not touched for this long is taken as complete. A writer that pauses longer inside one file
# leaves a state that validation refuses, and the last good one stays in force.
SETTLE_SECONDS = 0.25
# Attempts to read a state that holds still, SETTLE_SECONDS apart: 15 s of uninterrupted writing.
READ_ATTEMPTS_MAX = 60
# Events can be lost (network file systems, a root made anew): this bounds how late a change is seen.
RESCAN_SECONDS = 10.0
# States kept in memory and on disk: the newest, the accepted one, and one under judgement.
STATES_KEPT_MAX = 3
# States kept on disk while it is not known which one is accepted: far more than a restart finds.
STATES_UNTOLD_MAX = 64

_COMMIT = re.compile(r"dir-[0-9a-f]{40}")


class DirectorySource:
    """The directory `root` that holds `fleet/` and `cards/`.

    `keep_dir`, when given, is where states are kept across restarts: a daemon that starts while the directory is
    broken still has the last good state. `settle_seconds` and `rescan_seconds` are for tests.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep_dir: Path | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        rescan_seconds: float = RESCAN_SECONDS,
    ) -> None:
        self._root = root.absolute()
        self._keep_dir = keep_dir
        self._settle_seconds = settle_seconds
        self._rescan_seconds = rescan_seconds
        self._states: dict[CommitId, Snapshot] = {}
        self._seen: str | None = None
        """Fingerprint of the directory at the last read: what `changed` compares with."""
        self._accepted: CommitId | None = None

    @property
    def has_history(self) -> bool:
        return False

    async def head(self) -> CommitId:
        """Read the directory and return the id of its state.

        Raises Transient SRC_UNREACHABLE (no such directory, not readable), SRC_EMPTY (no manifest in it),
        SRC_TIMEOUT (it never holds still), InvalidInput SRC_INVALID (too many or too large).
        """
        # Should reading fail, `changed` waits for something else than what failed.
        self._seen = await asyncio.to_thread(fingerprint, self._root)
        snapshot = await self._stable()
        self._seen = snapshot.fingerprint
        if not snapshot.files:
            raise Transient(
                SRC_EMPTY,
                f"{self._root} holds no manifest",
                fix="put manifests under fleet/ and cards/, or correct source.directory in node.toml",
            )
        self._states.pop(snapshot.commit, None)
        self._states[snapshot.commit] = snapshot
        await asyncio.to_thread(self._keep, snapshot)
        await asyncio.to_thread(self._trim)
        return snapshot.commit

    async def facts(self, commit: CommitId, accepted: CommitId | None, verify: VerifyMode) -> CommitFacts:
        """Every state may follow every other one; none is signed. Raises SRC_UNREACHABLE for an unknown state."""
        snapshot = await self._state(commit)
        self._accepted = accepted or self._accepted
        unsigned = () if verify is VerifyMode.OFF else ((commit, Signature.NONE),)
        return CommitFacts(
            commit, subject=f"directory {self._root}", committed_at=snapshot.modified_at, unsigned=unsigned
        )

    async def tree(self, commit: CommitId) -> tuple[TreeFile, ...]:
        """The manifests of a state that was read or kept. Raises SRC_UNREACHABLE for an unknown one."""
        return (await self._state(commit)).files

    async def changed(self) -> None:
        """Return once the directory differs from what `head` last read and has held still, or `head` would raise
        where it did not before. Never polls faster than SETTLE_SECONDS."""
        while True:
            # Watch first, look second: a change between the two wakes the watch.
            async with wait_for_events(self._root) as event:
                current = await asyncio.to_thread(fingerprint, self._root)
                if current != self._seen:
                    break
                await event(self._rescan_seconds)
            await asyncio.sleep(self._settle_seconds)
        for _ in range(READ_ATTEMPTS_MAX):
            await asyncio.sleep(self._settle_seconds)
            previous, current = current, await asyncio.to_thread(fingerprint, self._root)
            if previous == current:
                break
        # Should it be back to what it was (an editor's temporary file), reading once more is cheap and harmless.
        self._seen = current

    async def bundle(self, commit: CommitId, have: frozenset[CommitId]) -> bytes:
        """Raises Terminal SRC_NO_OBJECTS: a state is not signed, so it is worth nothing from somebody else."""
        raise _no_objects()

    async def unbundle(self, commit: CommitId, data: bytes) -> None:
        """Raises Terminal SRC_NO_OBJECTS."""
        raise _no_objects()

    async def older(self, commits: Collection[CommitId], than: CommitId) -> frozenset[CommitId]:
        """None: states have no order."""
        return frozenset()

    async def _stable(self) -> Snapshot:
        """Read until a state held still: either nothing was touched lately, or two reads agree."""
        last: Snapshot | None = None
        for _ in range(READ_ATTEMPTS_MAX):
            snapshot = await asyncio.to_thread(read_snapshot, self._root)
            quiet = snapshot.whole and time.time() - snapshot.modified_at > self._settle_seconds
            agree = last is not None and snapshot.whole and snapshot.commit == last.commit
            if quiet or agree:
                return snapshot
            last = snapshot
            await asyncio.sleep(self._settle_seconds)
        raise Transient(SRC_TIMEOUT, f"{self._root} is being written to without a pause")

    async def _state(self, commit: CommitId) -> Snapshot:
        snapshot = self._states.get(commit)
        if snapshot is None:
            snapshot = await asyncio.to_thread(self._kept, commit)
        if snapshot is None:
            raise Transient(
                SRC_UNREACHABLE,
                f"the state {commit} of {self._root} was not kept",
                fix="bring the directory back to a valid state",
            )
        return snapshot

    def _trim(self) -> None:
        """Forget the oldest states, never the accepted one."""
        names = [name for name in self._states if name != self._accepted]
        for name in names[: max(0, len(self._states) - STATES_KEPT_MAX)]:
            del self._states[name]
        if self._keep_dir is None:
            return
        with contextlib.suppress(OSError):
            kept = sorted(self._keep_dir.glob("dir-*.json"), key=lambda file: file.stat().st_mtime)
            spare = [f for f in kept if f.stem != self._accepted and f.stem not in self._states]
            # After a restart nobody has said yet which one is accepted: it may be the oldest.
            most = STATES_KEPT_MAX if self._accepted is not None else STATES_UNTOLD_MAX
            for file in spare[: max(0, len(kept) - most)]:
                file.unlink(missing_ok=True)

    def _keep(self, snapshot: Snapshot) -> None:
        if self._keep_dir is None:
            return
        target = self._keep_dir / f"{snapshot.commit}.json"
        if target.exists():
            return
        document = {
            "modifiedAt": snapshot.modified_at,
            "files": [
                {
                    "path": file.path,
                    "kind": file.kind.value,
                    "size": file.size,
                    "data": base64.b64encode(file.data).decode("ascii"),
                }
                for file in snapshot.files
            ],
        }
        try:
            self._keep_dir.mkdir(parents=True, exist_ok=True)
            half = target.with_suffix(".half")
            half.write_text(json.dumps(document), encoding="utf-8")
            half.replace(target)
        except OSError as error:
            raise Transient(SRC_DISK, f"{target} cannot be written: {error.strerror}") from error

    def _kept(self, commit: CommitId) -> Snapshot | None:
        if self._keep_dir is None or not _COMMIT.fullmatch(commit):
            return None
        try:
            document = json.loads((self._keep_dir / f"{commit}.json").read_bytes())
            files = tuple(
                TreeFile(entry["path"], base64.b64decode(entry["data"]), FileKind(entry["kind"]), entry["size"])
                for entry in document["files"]
            )
            snapshot = Snapshot(files, "", True, float(document["modifiedAt"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A damaged or exchanged file must not pass for the state it is named after.
        return snapshot if snapshot.commit == commit else None


def _no_objects() -> Terminal:
    return Terminal(SRC_NO_OBJECTS, "a directory source has no objects to give or to take")
