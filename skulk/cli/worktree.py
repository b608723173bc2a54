"""The manifest files of a checkout, or of one commit of a local repository, as `skulk validate` reads them.

Both readers are the node's own, so that what passes here passes there. Added is only what a person needs who
stands in a checkout: revisions by name, and a checked-out submodule seen as what it is. No network, no hooks.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from skulk.core.domain import CommitId
from skulk.core.errors import CLI_USAGE, InvalidInput
from skulk.core.ports import FileKind, TreeFile

# git reads a local object database; a minute means a broken disk or a lock that will not go away.
GIT_SECONDS_MAX = 60.0

# In a patch, block or flow style; nine digits hold every ordinal that a manifest may have.
_ORDINAL = re.compile(r"^[-+][^#\n]*\bordinal[\"']?\s*:\s*([0-9]{1,9})\b", re.MULTILINE)


def read_worktree(root: Path) -> tuple[TreeFile, ...]:
    """The manifest files below `root`, in path order.

    Raises InvalidInput (CLI_USAGE) when there is nothing to read, and what `read_snapshot` raises.
    """
    # not at the top: verbs that read no checkout start without it
    from skulk.adapters.directory_read import read_snapshot

    if not root.is_dir():
        raise InvalidInput(CLI_USAGE, f"{root} is no directory", fix="give the folder that holds fleet/ and cards/")
    found = read_snapshot(root).files
    if not found:
        raise _nothing_in(str(root))
    # In a commit a submodule is one entry; in the checkout its files stand there like any others.
    submodules = _submodules(root, found)
    kept = [file for file in found if not any(file.path.startswith(f"{name}/") for name in submodules)]
    reported = [TreeFile(name, kind=FileKind.SUBMODULE) for name in submodules]
    return tuple(sorted((*kept, *reported), key=lambda file: file.path))


def _submodules(root: Path, files: Sequence[TreeFile]) -> set[str]:
    """The outermost folders with manifests in them that are repositories of their own."""
    folders = {str(folder) for file in files for folder in PurePosixPath(file.path).parents if folder.name}
    own = {folder for folder in folders if os.path.lexists(root / folder / ".git")}
    return {folder for folder in own if not any(folder.startswith(f"{other}/") for other in own)}


def read_revision(root: Path, revision: str, option: str = "--rev") -> tuple[CommitId, tuple[TreeFile, ...]]:
    """The commit that `revision` names and its manifest files below `root` (a folder of a git repository); `option` is
    how the person gave it.

    Raises InvalidInput: CLI_USAGE when git is missing, `root` is in no repository, the revision does not exist or
    has no manifests there; what `read_tree` raises.
    """
    from skulk.adapters.git.tree import read_tree

    commit = commit_of(root, revision, option)
    store = Path(_git(root, "rev-parse", "--absolute-git-dir", about=str(root)))
    prefix = _git(root, "rev-parse", "--show-prefix", about=str(root)).strip("/")
    files = asyncio.run(read_tree(store, commit, prefix, str(root), GIT_SECONDS_MAX))
    if not files:
        raise _nothing_in(f"{root} at {revision}")
    return commit, files


def commit_of(root: Path, revision: str, option: str = "--rev") -> CommitId:
    """The commit that `revision` names in the repository of `root`. Raises InvalidInput (CLI_USAGE)."""
    if revision.startswith("-"):
        raise InvalidInput(CLI_USAGE, f'{option} "{revision}" is no revision', fix="give a branch, tag or commit")
    named = f"{revision}^{{commit}}"
    return CommitId(_git(root, "rev-parse", "--verify", "--quiet", named, about=f'{option} "{revision}"'))


def first_parent(root: Path, commit: CommitId) -> CommitId | None:
    """The commit before `commit` on its own line; None for the first of the repository.

    Raises InvalidInput (CLI_USAGE) when a shallow clone ends there, so that nobody can tell.
    """
    _, *parents = _git(root, "rev-list", "--parents", "--max-count=1", commit, about=commit).split()
    if parents:
        return CommitId(parents[0])
    if _git(root, "rev-parse", "--is-shallow-repository", about=str(root)) == "true":
        message = f"what was before {commit[:12]} is not in this shallow clone"
        raise InvalidInput(CLI_USAGE, message, fix="fetch one commit more (fetch-depth: 2), or name --base")
    return None


def ordinals_of_history(root: Path) -> set[int]:
    """Every node ordinal that a commit of this repository ever added or removed below `root`; empty without git or
    without a repository."""
    if shutil.which("git") is None:
        return set()
    command = ("log", "--all", "--format=", "--patch", "--unified=0", "--no-renames", "--no-ext-diff", "--no-color")
    try:
        patches = _git(root, *command, "--", "fleet/nodes", about=str(root))
    except InvalidInput:
        return set()
    return {int(number) for number in _ORDINAL.findall(patches)}


def _git(root: Path, *arguments: str, about: str) -> str:
    """One line that git prints about a local repository."""
    # no lazy fetch: a partial clone must not go to the network for a check
    environment = os.environ | {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=GIT_SECONDS_MAX, check=False)
    except FileNotFoundError as error:
        raise InvalidInput(CLI_USAGE, "git is not installed", fix="install git, or work without revisions") from error
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(CLI_USAGE, f"git did not answer within {GIT_SECONDS_MAX:g} s", fix="try again") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        why = said[-1] if said else "no such revision in this repository"
        raise InvalidInput(CLI_USAGE, f"{about}: {why}", fix="check the path and the revision")
    return done.stdout.decode("utf-8", errors="surrogateescape").rstrip("\n")


def _nothing_in(place: str) -> InvalidInput:
    return InvalidInput(
        CLI_USAGE, f"no manifests in {place}: nothing below fleet/ or cards/", fix="`skulk init DIR` makes a fleet"
    )
