"""Changes to the manifests of a checkout: made as text, checked as every node would, shown, and written if asked.

What a verb changes is a commit that a person makes: nothing here calls git, and no node is asked. A change that would
make the fleet invalid is never written.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skulk.cli.worktree import read_worktree
from skulk.core.domain.desired import Fleet
from skulk.core.domain.ids import CommitId
from skulk.core.errors import CLI_EXISTS, CLI_USAGE, SRC_INVALID, InvalidInput
from skulk.core.ports import TreeFile

# A checkout has no commit yet; nothing that is printed shows this.
UNCOMMITTED = CommitId("uncommitted")
_DIAGNOSTICS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One file's text before and after; `before` is None for a new file. `path` is relative to the checkout."""

    path: str
    before: str | None
    after: str

    @property
    def is_empty(self) -> bool:
        return self.before == self.after


@dataclass(frozen=True, slots=True)
class Checkout:
    """The manifests below `root`, all valid."""

    root: Path
    files: tuple[TreeFile, ...]
    fleet: Fleet

    def edit(self, key: str, fields: Sequence[tuple[Sequence[str], str | int | bool]]) -> Change:
        """The change that sets these fields of the manifest `Kind/name`; checked. Raises InvalidInput: CLI_EDIT for a
        layout that cannot be edited, SRC_INVALID when the fleet would be invalid."""
        from skulk.core.manifests.edit import set_scalar

        path = self.fleet.places[key].rpartition(":")[0]
        (before,) = (file.data.decode() for file in self.files if file.path == path)
        after = before
        for steps, value in fields:
            after = set_scalar(after, steps, value)
        return self.checked(Change(path, before, after))

    def checked(self, change: Change) -> Change:
        """The same. Raises InvalidInput SRC_INVALID when the fleet would be invalid with it."""
        data = change.after.encode()
        others = (file for file in self.files if file.path != change.path)
        changed = (*others, TreeFile(change.path, data, size=len(data)))
        _load(changed, "nothing was changed: the fleet would be invalid", "give other values")
        return change


def read_checkout(root: Path) -> Checkout:
    """Raises InvalidInput: CLI_USAGE when there is nothing to read, SRC_INVALID when the manifests are invalid."""
    files = read_worktree(root)
    return Checkout(
        root, files, _load(files, f"the fleet in {root} is invalid", f"correct it first; `skulk validate {root}`")
    )


def _load(files: Sequence[TreeFile], what: str, fix: str) -> Fleet:
    from skulk.core.manifests import load, render_text

    loaded = load(files, UNCOMMITTED)
    if loaded.fleet is None:
        shown = render_text(loaded.errors[:_DIAGNOSTICS_SHOWN])
        raise InvalidInput(SRC_INVALID, f"{what}:\n{shown}", fix=fix)
    return loaded.fleet


def diff(change: Change) -> str:
    """A unified diff that `git apply` takes at the checkout's root; empty when nothing changes."""
    before = [] if change.before is None else _lines(change.before)
    old = "/dev/null" if change.before is None else f"a/{change.path}"
    lines = difflib.unified_diff(before, _lines(change.after), old, f"b/{change.path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Lines as git counts them: only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def write(root: Path, change: Change) -> None:
    """Put the change on disk, whole or not at all. Raises InvalidInput: CLI_EXISTS when a new file exists meanwhile,
    CLI_USAGE when the file was changed meanwhile or cannot be written."""
    path = root / change.path
    try:
        if change.before is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(change.after.encode())
            return
        if path.read_bytes() != change.before.encode():
            raise InvalidInput(CLI_USAGE, f"{path} was changed meanwhile", fix="try again")
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        part.write_bytes(change.after.encode())
        part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    except FileExistsError:
        raise InvalidInput(CLI_EXISTS, f"{path} exists", fix="choose another name, or edit that file") from None
    except OSError as error:
        raise InvalidInput(CLI_USAGE, f"{path} cannot be written: {error.strerror}", fix="check the path") from error


def git_lines(root: Path, change: Change, message: str) -> list[str]:
    """The commands that make the change a commit and push it."""
    return commit_lines(root, [change.path], message)


def commit_lines(root: Path, paths: Sequence[str], message: str) -> list[str]:
    """The commands that make what is changed in these files a commit and push it."""
    git = "git" if root == Path() else f"git -C {shlex.quote(str(root))}"
    add = f"{git} add {shlex.join(paths)}"
    return [add, f"{git} commit -m {shlex.quote(message)}", f"{git} push"]


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path` lies in the checkout: in `root`, or in the git work tree around it."""
    root = root.resolve()
    top = next((folder for folder in (root, *root.parents) if os.path.lexists(folder / ".git")), root)
    return path.resolve().is_relative_to(top)
