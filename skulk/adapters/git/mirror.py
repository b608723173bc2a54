"""The bare mirror of one remote branch: made, brought up to date, made anew when it is damaged.

A mirror directory exists only after a successful fetch: a new one is filled beside it and renamed into place, so a
crash at any moment leaves the old one, the new one, or none; never half of one. A lock file keeps the daemons and
commands of this machine from writing at the same time. Does not read what is in a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from skulk.adapters.git.command import git
from skulk.adapters.git.failures import corrupt, mirror_error, missing_ref, network_error
from skulk.adapters.git.location import Location
from skulk.core.domain import CommitId
from skulk.core.errors import SRC_DISK, SRC_EMPTY, SRC_NO_BRANCH, SRC_TIMEOUT, SkulkError, Transient

# The first fetch brings all of the history and cannot resume, so it gets a multiple of the usual deadline; a quick
# ls-remote before it keeps a remote that hangs from using it up.
FIRST_FETCH_FACTOR = 10

# Between two attempts to take the lock. flock() has no deadline of its own.
LOCK_POLL_SECONDS = 0.02

# Branches named in "no such branch": enough to see a typing error.
BRANCHES_SHOWN_MAX = 5


# One name whatever the branch, so that another branch in node.toml needs no cleaning up.
_REF = "refs/skulk/source"


class Mirror:
    """A local bare copy of `branch` at `location`, in `directory`."""

    def __init__(self, location: Location, branch: str, directory: Path, timeout_seconds: float) -> None:
        self.directory = directory
        self._location = location
        self._branch = branch
        self._timeout_seconds = timeout_seconds
        self._suspect = False

    def suspect(self) -> None:
        """Somebody found damage while reading: the next update makes the mirror anew."""
        self._suspect = True

    async def update(self) -> CommitId:
        """Fetch the branch and return its commit. Raises SRC_* errors; the mirror is then as it was."""
        async with self._lock():
            if not self._suspect and await self._usable():
                output = await self._fetch(self.directory, self._timeout_seconds)
                if output is None:
                    return await self._tip(self.directory)
                if not output.damage:
                    raise output.error
            return await self._make_anew()

    async def _usable(self) -> bool:
        if not self.directory.is_dir():
            return False
        output = await git(
            "rev-parse", "--is-bare-repository", mirror=self.directory, timeout_seconds=self._timeout_seconds
        )
        return output.ok and output.stdout.strip() == b"true"

    async def fill(self, put: Callable[[Path], Awaitable[None]]) -> None:
        """Let `put` bring objects into the mirror while nobody else writes. Where there is none yet, it fills a new
        one, which is put in place when it has succeeded. Raises what `put` raises, SRC_TIMEOUT, SRC_DISK."""
        async with self._lock():
            try:
                if await self._usable():
                    await put(self.directory)
                else:
                    async with self._fresh() as repository:
                        await put(repository)
            except OSError as error:
                raise self._disk_error(error) from error

    async def _make_anew(self) -> CommitId:
        await self._find_branch()
        async with self._fresh() as repository:
            failure = await self._fetch(repository, self._timeout_seconds * FIRST_FETCH_FACTOR)
            if failure is not None:
                raise failure.error
            commit = await self._tip(repository)
        self._suspect = False
        return commit

    @contextlib.asynccontextmanager
    async def _fresh(self) -> AsyncIterator[Path]:
        """An empty bare repository beside the mirror, which takes its place when the body ends without an error."""
        parent, name = self.directory.parent, self.directory.name
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left_over in parent.glob(f".{name}-new-*"):
                await asyncio.to_thread(shutil.rmtree, left_over, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(prefix=f".{name}-new-", dir=parent))
        except OSError as error:
            raise self._disk_error(error) from error
        try:
            repository = fresh / "mirror.git"
            # An empty template: no hooks, no info/ files of the machine's git installation.
            output = await git(
                "init", "--quiet", "--bare", "--template=", "--initial-branch=none", str(repository),
                timeout_seconds=self._timeout_seconds,
            )  # fmt: skip
            if not output.ok:
                raise network_error(output, self._location.label)
            yield repository
            if self.directory.is_symlink() or self.directory.exists():
                self.directory.replace(fresh / "damaged.git")
            repository.replace(self.directory)
        except OSError as error:
            raise self._disk_error(error) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)

    async def _find_branch(self) -> None:
        """Ask what branches there are. Raises SRC_EMPTY, SRC_NO_BRANCH, or why the remote gave no answer."""
        output = await git(
            "ls-remote", "--quiet", "--heads", "--", self._location.url,
            timeout_seconds=self._timeout_seconds, network=True,
            settings=self._location.settings, extra=self._location.secrets,
        )  # fmt: skip
        label = self._location.label
        if not output.ok:
            raise network_error(output, label)
        prefix = "refs/heads/"
        listed = (line.partition("\t")[2] for line in output.stdout.decode("utf-8", "replace").splitlines())
        branches = sorted(ref.removeprefix(prefix) for ref in listed if ref.startswith(prefix))
        if not branches:
            raise Transient(SRC_EMPTY, f"{label} has no branch yet")
        if self._branch not in branches:
            shown = ", ".join(branches[:BRANCHES_SHOWN_MAX])
            more = f" and {len(branches) - BRANCHES_SHOWN_MAX} more" if len(branches) > BRANCHES_SHOWN_MAX else ""
            raise Transient(SRC_NO_BRANCH, f"{label} has no branch {self._branch!r}; it has {shown}{more}")

    async def _fetch(self, repository: Path, timeout_seconds: float) -> _Failure | None:
        """Fetch the branch into the mirror. None when done, else why not; nothing has changed then."""
        output = await git(
            "fetch", "--quiet", "--no-tags", "--no-prune", "--no-recurse-submodules", "--no-write-fetch-head",
            "--refmap=", "--", self._location.url, f"+refs/heads/{self._branch}:{_REF}",
            mirror=repository, timeout_seconds=timeout_seconds, network=True,
            settings=self._location.settings, extra=self._location.secrets,
        )  # fmt: skip
        if output.ok:
            return None
        if missing_ref(output):
            await self._find_branch()
        return _Failure(network_error(output, self._location.label), damage=corrupt(output, repository))

    async def _tip(self, repository: Path) -> CommitId:
        output = await git(
            "rev-parse", "--verify", _REF,
            mirror=repository, timeout_seconds=self._timeout_seconds,
        )  # fmt: skip
        if not output.ok:
            self.suspect()
            raise mirror_error(output, self._location.label)
        return CommitId(output.stdout.decode("ascii").strip())

    @contextlib.asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        """Exclude other writers of this mirror, in this process and in others. Raises SRC_TIMEOUT, SRC_DISK."""
        path = self.directory.with_name(f".{self.directory.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._disk_error(error) from error
        try:
            await self._take(descriptor)
            yield
        finally:
            os.close(descriptor)

    async def _take(self, descriptor: int) -> None:
        try:
            # A first fetch of another process may take this long.
            async with asyncio.timeout(self._timeout_seconds * (FIRST_FETCH_FACTOR + 1)):
                while not _try_lock(descriptor):  # noqa: ASYNC110 -- the other side is another process
                    await asyncio.sleep(LOCK_POLL_SECONDS)
        except TimeoutError:
            raise Transient(SRC_TIMEOUT, f"another process holds the mirror {self.directory}") from None

    def _disk_error(self, error: OSError) -> SkulkError:
        return Transient(SRC_DISK, f"the mirror {self.directory} cannot be written: {error.strerror or error}")


class _Failure:
    """Why a fetch did not work, and whether the mirror may be the cause."""

    def __init__(self, error: SkulkError, *, damage: bool) -> None:
        self.error = error
        self.damage = damage


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
