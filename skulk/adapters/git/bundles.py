"""Commits from node to node: writes a git bundle of what the other one lacks, and takes one in without trusting it.

A bundle is a short header and a pack (gitformat-bundle(5)). Both are handled here and not by `git bundle`: that
would need a ref for every commit that is asked for, and `git fetch` from a bundle leaves objects behind when it
fails. What comes in goes through a quarantine directory that sees the mirror's objects: git checks each object and
each link there, then the commit must be complete and nothing else may have come along; only then the pack moves
into the mirror, in one rename that counts. Who may follow the commit is decided elsewhere, as for any commit.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from skulk.adapters.git.command import AnswerTooLong, Output, git
from skulk.adapters.git.failures import essence, mirror_error
from skulk.adapters.git.packs import BadPack, LargePack, check_pack
from skulk.core.domain import CommitId
from skulk.core.errors import SRC_BUNDLE, SRC_BUNDLE_SIZE, SRC_DISK, Refused, SkulkError, Terminal, Transient

# Half of the manifests that a commit may have, compressed: far above real fleets, and a message that nodes can hold.
BUNDLE_BYTES_MAX = 32 * 1024 * 1024
# Commits that the asker says it has, one per member in sensible use.
HAVE_MAX = 1_000

_SIGNATURE = b"# v2 git bundle\n"
_HEADER_BYTES_MAX = 128 * 1024
_HEADER_LINE = re.compile(r"(?P<needed>-?)(?P<commit>[0-9a-f]{40})(?: (?P<name>[^\n]*))?")
_BUNDLE_REF = "refs/skulk/commit"
# One name for all: it keeps the newest one reachable, so that the next fetch from the remote builds on it.
_RECEIVED_REF = "refs/skulk/received"
# git itself ignores and cleans up directories that are called so.
_QUARANTINE = "tmp_objdir-skulk-"
_SHORT = 12
# A node that helps another one must not take all cores from its engines.
_GENTLE = ("pack.threads=1",)


@dataclass(frozen=True, slots=True)
class _Bundle:
    """What the header says, and the pack after it."""

    tips: tuple[CommitId, ...]
    needs: tuple[CommitId, ...]
    pack: bytes


async def known_commits(
    mirror: Path, commits: Collection[CommitId], label: str, timeout_seconds: float
) -> tuple[CommitId, ...]:
    """Those of `commits` (full ids) that are commits in the mirror, sorted; at most HAVE_MAX are looked at."""
    if not commits or not mirror.is_dir():
        return ()
    asked = sorted(commits)[:HAVE_MAX]
    kinds = await _kinds(mirror, asked, label, timeout_seconds)
    return tuple(commit for commit in asked if kinds.get(commit) == "commit")


async def write_bundle(
    mirror: Path, commit: CommitId, have: Collection[CommitId], label: str, timeout_seconds: float
) -> bytes:
    """A bundle of `commit` for a holder of `have`; all of them are in the mirror.

    Raises Terminal SRC_BUNDLE_SIZE, Transient SRC_CORRUPT, SRC_TIMEOUT.
    """
    needs = sorted(have)
    wanted = "".join([f"{commit}\n", *(f"^{known}\n" for known in needs)])
    header = "".join([*(f"-{known}\n" for known in needs), f"{commit} {_BUNDLE_REF}\n\n"])
    try:
        output = await git(
            "pack-objects", "--revs", "--thin", "--stdout", "--delta-base-offset", "-q",
            mirror=mirror, timeout_seconds=timeout_seconds, settings=_GENTLE,
            stdin=wanted.encode("ascii"), stdout_bytes_max=BUNDLE_BYTES_MAX - _HEADER_BYTES_MAX,
        )  # fmt: skip
    except AnswerTooLong:
        raise Terminal(
            SRC_BUNDLE_SIZE, f"commit {commit[:_SHORT]} of {label} needs more than {BUNDLE_BYTES_MAX} bytes"
        ) from None
    if not output.ok:
        raise mirror_error(output, label)
    return _SIGNATURE + header.encode("ascii") + output.stdout


async def read_bundle(repository: Path, commit: CommitId, data: bytes, label: str, timeout_seconds: float) -> None:
    """Put the objects of `commit` into the bare `repository`, which nobody else writes meanwhile.

    Raises Refused SRC_BUNDLE (not usable) or SRC_BUNDLE_SIZE, Transient SRC_TIMEOUT, SRC_DISK; then the repository
    is as it was.
    """
    if len(data) > BUNDLE_BYTES_MAX:
        raise Refused(SRC_BUNDLE_SIZE, f"a bundle of {len(data)} bytes; at most {BUNDLE_BYTES_MAX} are taken")
    bundle = _parse(commit, data)
    try:
        await asyncio.to_thread(check_pack, bundle.pack)
    except BadPack as error:
        raise _unusable(commit, str(error)) from None
    except LargePack as error:
        raise Refused(SRC_BUNDLE_SIZE, f"the bundle of commit {commit[:_SHORT]}: {error}") from None
    there = await known_commits(repository, bundle.needs, label, timeout_seconds)
    if missing := set(bundle.needs) - set(there):
        raise _unusable(commit, f"it builds on commits that are not here: {min(missing)[:_SHORT]}")
    objects = repository / "objects"
    for left_over in objects.glob(f"{_QUARANTINE}*"):
        await asyncio.to_thread(shutil.rmtree, left_over, ignore_errors=True)
    quarantine = Path(tempfile.mkdtemp(prefix=_QUARANTINE, dir=objects))
    try:
        await _Quarantine(repository, quarantine, commit, label, timeout_seconds).check(bundle)
        _move(quarantine / "pack", objects / "pack")
    finally:
        await asyncio.to_thread(shutil.rmtree, quarantine, ignore_errors=True)
    output = await git("update-ref", _RECEIVED_REF, commit, mirror=repository, timeout_seconds=timeout_seconds)
    if not output.ok:
        raise mirror_error(output, label)


def _parse(commit: CommitId, data: bytes) -> _Bundle:
    """The bundle of exactly this commit. Raises Refused SRC_BUNDLE."""
    head, blank, _ = data[:_HEADER_BYTES_MAX].partition(b"\n\n")
    if not data.startswith(_SIGNATURE) or not blank:
        raise _unusable(commit, "it is no bundle of version 2")
    needs: list[CommitId] = []
    tips: list[CommitId] = []
    for line in head[len(_SIGNATURE) :].decode("latin-1").split("\n"):
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise _unusable(commit, "its header cannot be read")
        (needs if match["needed"] else tips).append(CommitId(match["commit"]))
    if tips != [commit]:
        raise _unusable(commit, "it holds another commit")
    if len(needs) > HAVE_MAX:
        raise _unusable(commit, f"it builds on {len(needs)} commits")
    return _Bundle(tuple(tips), tuple(needs), data[len(head) + len(blank) :])


class _Quarantine:
    """Objects that are not part of the repository yet, but see those that are."""

    def __init__(self, repository: Path, directory: Path, commit: CommitId, label: str, timeout_seconds: float) -> None:
        self._repository = repository
        self._directory = directory
        self._commit = commit
        self._label = label
        self._timeout_seconds = timeout_seconds

    async def check(self, bundle: _Bundle) -> None:
        """Unpack the bundle here. Raises SRC_BUNDLE unless it completes the commit and brings nothing else."""
        # Strict: every object is well-formed, and what it points to is there.
        packed = await self._git("index-pack", "--stdin", "--fix-thin", "--strict", stdin=bundle.pack)
        self._good(packed, "git refuses its pack")
        kind = await self._git("cat-file", "-t", self._commit)
        if kind.stdout.strip() != b"commit":
            raise _unusable(self._commit, "it does not hold the commit")
        # With all of its history, as far as it is not connected to what is here already.
        connected = await self._git("rev-list", "--objects", "--quiet", self._commit, "--not", "--all")
        self._good(connected, "it is not complete")
        await self._nothing_else(bundle)

    async def _nothing_else(self, bundle: _Bundle) -> None:
        """Every object that came in belongs to the commit, or was here before (git adds what deltas build on)."""
        arrived: set[str] = set()
        for index in (self._directory / "pack").glob("*.idx"):
            listed = await self._git("show-index", stdin=index.read_bytes())
            self._good(listed, "its index cannot be read")
            arrived |= {line.split()[1] for line in listed.stdout.decode("ascii").splitlines()}
        not_ours = [f"^{known}" for known in bundle.needs]
        reached = await self._git("rev-list", "--objects", "--no-object-names", self._commit, *not_ours, "--")
        self._good(reached, "it is not complete")
        foreign = arrived - set(reached.stdout.decode("ascii").split())
        there = await _kinds(self._repository, sorted(foreign), self._label, self._timeout_seconds)
        if foreign - there.keys():
            raise _unusable(self._commit, "it holds objects that do not belong to the commit")

    async def _git(self, *arguments: str, stdin: bytes | None = None) -> Output:
        try:
            return await git(
                *arguments,
                mirror=self._repository,
                timeout_seconds=self._timeout_seconds,
                settings=_GENTLE,
                extra={
                    "GIT_OBJECT_DIRECTORY": str(self._directory),
                    "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(self._repository / "objects"),
                },
                stdin=stdin,
            )
        except AnswerTooLong:
            raise Refused(
                SRC_BUNDLE_SIZE, f"commit {self._commit[:_SHORT]} of {self._label} has too many objects"
            ) from None

    def _good(self, output: Output, why: str) -> None:
        if output.ok:
            return
        line = essence(output.stderr)
        if re.search(r"No space left|quota exceeded|Read-only file system", line, re.IGNORECASE):
            raise Transient(SRC_DISK, f"the mirror of {self._label} could not be written: {line}")
        raise _unusable(self._commit, f"{why}: {line}")


async def _kinds(repository: Path, ids: Collection[str], label: str, timeout_seconds: float) -> Mapping[str, str]:
    """The type of each of these objects that is in the repository."""
    if not ids:
        return {}
    output = await git(
        "cat-file", "--batch-check=%(objectname) %(objecttype)",
        mirror=repository, timeout_seconds=timeout_seconds, stdin="".join(f"{id_}\n" for id_ in ids).encode("ascii"),
    )  # fmt: skip
    if not output.ok:
        raise mirror_error(output, label)
    pairs = (line.split(" ", 1) for line in output.stdout.decode("ascii").splitlines())
    return {id_: kind for id_, kind in pairs if kind in ("commit", "tree", "blob", "tag")}


def _move(source: Path, target: Path) -> None:
    """The index last: git sees a pack by its index. Raises OSError."""
    target.mkdir(exist_ok=True)
    for file in sorted(source.iterdir(), key=lambda file: (file.suffix == ".idx", file.name)):
        file.replace(target / file.name)


def _quoted(path: Path) -> str:
    """A path as an entry of a list that is divided by colons."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unusable(commit: CommitId, why: str) -> SkulkError:
    return Refused(SRC_BUNDLE, f"the bundle of commit {commit[:_SHORT]} cannot be used: {why}")
