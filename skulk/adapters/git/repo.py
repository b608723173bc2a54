"""`GitRepo`: the `Repo` port over a git remote and its bare mirror.

Whoever calls races `changed()` against the poll interval: a remote never hints. Judging a commit is not done here
but in `skulk.core.reconcile.acceptance`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from pathlib import Path

from skulk.adapters.git.bundles import known_commits, read_bundle, write_bundle
from skulk.adapters.git.command import git
from skulk.adapters.git.failures import mirror_error
from skulk.adapters.git.location import check_branch, check_path, locate
from skulk.adapters.git.mirror import Mirror
from skulk.adapters.git.selection import display
from skulk.adapters.git.signatures import Keys, unsigned_commits
from skulk.adapters.git.tree import read_tree
from skulk.core.domain import CommitId, VerifyMode
from skulk.core.errors import SRC_BUNDLE, SRC_CORRUPT, SRC_UNREACHABLE, Refused, SkulkError, Transient
from skulk.core.ports import CommitFacts, TreeFile

# Architecture §10: a fetch of a few manifests takes a tenth of a second, so 30 s means that something hangs.
TIMEOUT_SECONDS = 30.0
# Subject and author are shown in tables.
SUBJECT_CHARACTERS_MAX = 200

_COMMIT = re.compile(r"[0-9a-f]{40}")


class GitRepo:
    """A branch of a git remote.

    `url` is a URL (file, git, http, https, ssh), `user@host:path` or an absolute path; `path` the directory inside
    the repository that holds `fleet/` and `cards/`; `mirror_dir` a path that belongs to this object alone (nothing
    needs to be there; its neighbours `.NAME.lock` and `.NAME-new-*` are used too). `timeout_seconds` bounds each
    git command. Raises InvalidInput CFG_INVALID for a URL, branch or path that git must not see.
    """

    def __init__(
        self,
        url: str,
        branch: str,
        mirror_dir: Path,
        path: str = "",
        *,
        allowed_signers: Path | None = None,
        gpg_home: Path | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._location = locate(url)
        self._path = check_path(path)
        self._keys = Keys(allowed_signers, gpg_home)
        self._timeout_seconds = timeout_seconds
        self._mirror = Mirror(self._location, check_branch(branch), mirror_dir.absolute(), timeout_seconds)

    @property
    def has_history(self) -> bool:
        return True

    @property
    def label(self) -> str:
        """The remote as people may see it: without credentials."""
        return self._location.label

    async def head(self) -> CommitId:
        """Fetch, and return the branch's commit.

        Raises Transient SRC_UNREACHABLE, SRC_AUTH, SRC_EMPTY, SRC_NO_BRANCH, SRC_TIMEOUT, SRC_DISK. A damaged
        mirror is replaced on the way.
        """
        return await self._mirror.update()

    async def facts(self, commit: CommitId, accepted: CommitId | None, verify: VerifyMode) -> CommitFacts:
        """Ancestry, signatures and description of a local commit. Raises SRC_UNREACHABLE (not
        local), SRC_CORRUPT, SRC_TIMEOUT, CFG_INVALID."""
        try:
            await self._require(commit)
            return await self._facts(commit, accepted, verify)
        except SkulkError as error:
            raise self._noted(error) from error.__cause__

    async def tree(self, commit: CommitId) -> tuple[TreeFile, ...]:
        """The manifests of a local commit. Raises SRC_UNREACHABLE (not local), SRC_NO_PATH,
        SRC_INVALID, SRC_CORRUPT, SRC_TIMEOUT."""
        try:
            await self._require(commit)
            return await read_tree(self._mirror.directory, commit, self._path, self.label, self._timeout_seconds)
        except SkulkError as error:
            raise self._noted(error) from error.__cause__

    async def changed(self) -> None:
        """Never returns: only polling finds a push."""
        await asyncio.get_running_loop().create_future()

    async def bundle(self, commit: CommitId, have: frozenset[CommitId]) -> bytes:
        """The objects of a local commit that a holder of `have` lacks. Raises SRC_UNREACHABLE (not local),
        SRC_BUNDLE_SIZE, SRC_CORRUPT, SRC_TIMEOUT."""
        try:
            await self._require(commit)
            known = await known_commits(self._mirror.directory, _ids(have), self.label, self._timeout_seconds)
            return await write_bundle(self._mirror.directory, commit, known, self.label, self._timeout_seconds)
        except SkulkError as error:
            raise self._noted(error) from error.__cause__

    async def unbundle(self, commit: CommitId, data: bytes) -> None:
        """Take in another node's bundle. It also works before the remote was ever reached, with a bundle of the whole
        history. Raises SRC_BUNDLE (not usable; nothing has changed), SRC_BUNDLE_SIZE, SRC_TIMEOUT, SRC_DISK."""
        if not _COMMIT.fullmatch(commit):
            raise Refused(SRC_BUNDLE, f"{commit!r} is no commit of a git source")

        async def put(repository: Path) -> None:
            if not await known_commits(repository, (commit,), self.label, self._timeout_seconds):
                await read_bundle(repository, commit, data, self.label, self._timeout_seconds)

        try:
            await self._mirror.fill(put)
        except SkulkError as error:
            raise self._noted(error) from error.__cause__

    async def older(self, commits: Collection[CommitId], than: CommitId) -> frozenset[CommitId]:
        """Proper ancestors of `than` among `commits`. Raises SRC_CORRUPT, SRC_TIMEOUT."""
        try:
            known = await known_commits(
                self._mirror.directory, _ids({*commits, than}), self.label, self._timeout_seconds
            )
            if than not in known:
                return frozenset()
            return frozenset([c for c in known if c != than and await self._is_ancestor(c, than)])
        except SkulkError as error:
            raise self._noted(error) from error.__cause__

    async def _facts(self, commit: CommitId, accepted: CommitId | None, verify: VerifyMode) -> CommitFacts:
        subject, author, committed_at = await self._describe(commit)
        descends, is_ancestor, since = True, False, None
        # A `dir-…` commit means that the source was a directory before: it has no place in this history.
        if accepted is not None and accepted != commit and _COMMIT.fullmatch(accepted):
            descends = False
            if await self._has(accepted):
                since = accepted
                descends = await self._is_ancestor(accepted, commit)
                is_ancestor = not descends and await self._is_ancestor(commit, accepted)
        unsigned = await unsigned_commits(
            self._mirror.directory, commit, since, verify, self._keys, self.label, self._timeout_seconds
        )
        return CommitFacts(commit, subject, author, committed_at, descends, is_ancestor, unsigned)

    async def _describe(self, commit: CommitId) -> tuple[str, str, float]:
        output = await git(
            "log", "-1", "--no-color", "--encoding=UTF-8", "--format=%ct%x00%an <%ae>%x00%s", commit, "--",
            mirror=self._mirror.directory, timeout_seconds=self._timeout_seconds,
        )  # fmt: skip
        if not output.ok:
            raise mirror_error(output, self.label)
        time, author, subject = output.stdout.removesuffix(b"\n").split(b"\0", 2)
        # A commit object can be written by hand, without a date.
        committed_at = float(time) if time else 0.0
        return display(subject)[:SUBJECT_CHARACTERS_MAX], display(author)[:SUBJECT_CHARACTERS_MAX], committed_at

    async def _require(self, commit: CommitId) -> None:
        # Nothing but a full object id reaches a command line.
        if not _COMMIT.fullmatch(commit) or not await self._has(commit):
            raise Transient(
                SRC_UNREACHABLE,
                f"commit {commit} is not in the mirror of {self.label}",
                fix="it is no longer part of the branch; push a commit that this node can accept",
            )

    async def _has(self, commit: CommitId) -> bool:
        output = await git(
            "cat-file", "-e", commit, mirror=self._mirror.directory, timeout_seconds=self._timeout_seconds
        )
        # 1 and silence: not there. Anything else is damage.
        if output.status not in (0, 1):
            raise mirror_error(output, self.label)
        return output.ok

    async def _is_ancestor(self, old: CommitId, new: CommitId) -> bool:
        output = await git(
            "merge-base", "--is-ancestor", old, new,
            mirror=self._mirror.directory, timeout_seconds=self._timeout_seconds,
        )  # fmt: skip
        if output.status not in (0, 1):
            raise mirror_error(output, self.label)
        return output.ok

    def _noted(self, error: SkulkError) -> SkulkError:
        if error.code is SRC_CORRUPT:
            self._mirror.suspect()
        return error


def _ids(commits: Collection[CommitId]) -> tuple[CommitId, ...]:
    """Without what is no git commit id: nothing else reaches git."""
    return tuple(sorted(commit for commit in commits if _COMMIT.fullmatch(commit)))
