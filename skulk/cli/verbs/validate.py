"""`skulk validate`: everything that is wrong with the manifests of a checkout, all at once, before the push."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli.exits import ExitCode
from skulk.cli.printing import to_json
from skulk.cli.worktree import read_revision, read_worktree
from skulk.core.domain.ids import CommitId

if TYPE_CHECKING:
    from skulk.core.domain.desired import Fleet
    from skulk.core.manifests import Diagnostic

EXAMPLES = ("skulk validate", "skulk validate ../fleet -o json", "skulk validate --rev main")

# A checkout has no commit yet; nothing that is printed shows this.
UNCOMMITTED = CommitId("uncommitted")


class Form(StrEnum):
    """Forms of the report; `github` is for workflow annotations."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def validate(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder that holds fleet/ and cards/.")] = Path(),
    revision: Annotated[
        str | None, typer.Option("--rev", show_default=False, help="A commit, branch or tag instead of the files.")
    ] = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="Form of the report.")] = Form.TEXT,
) -> None:
    """Check manifests offline, as every node will. Exit code 3 when a commit of them would be refused."""
    # pydantic and the YAML reader load only for the verbs that read manifests
    from skulk.core.manifests import load, render_dicts, render_github, render_text

    if revision is None:
        commit, files = UNCOMMITTED, read_worktree(path)
    else:
        commit, files = read_revision(path, revision)
    loaded = load(files, commit)
    diagnostics = _placed(loaded.diagnostics, path)
    errors = sum(d.is_error for d in diagnostics)
    counts = _counts(loaded.fleet)
    summary = _summary(counts, len(files), errors, len(diagnostics) - errors)
    match output:
        case Form.JSON:
            report = {"ok": loaded.fleet is not None, "files": len(files), "counts": counts}
            print(to_json(report | {"errors": errors, "diagnostics": render_dicts(diagnostics)}))
        case Form.GITHUB:
            print("\n".join(filter(None, (render_github(diagnostics), summary))))
        case _:
            print("\n".join(filter(None, (render_text(diagnostics), summary))))
    if loaded.fleet is None:
        raise typer.Exit(int(ExitCode.INVALID))


def _placed(diagnostics: Sequence[Diagnostic], root: Path) -> tuple[Diagnostic, ...]:
    """With file names relative to where the person stands, so that editors and annotations find them."""
    if root == Path():
        return tuple(diagnostics)
    return tuple(replace(d, file=(root / d.file).as_posix()) for d in diagnostics)


def _counts(fleet: Fleet | None) -> dict[str, int]:
    if fleet is None:
        return {}
    return {
        "fleet": 1,
        "node": len(fleet.nodes),
        "deployment": len(fleet.deployments),
        "card": len(fleet.cards),
    }


def _summary(counts: dict[str, int], files: int, errors: int, warnings: int) -> str:
    noted = f", {_number(warnings, 'warning')}" if warnings else ""
    if not counts:
        return f"invalid: {_number(errors, 'error')}{noted} in {_number(files, 'file')}"
    return "ok: " + ", ".join(_number(count, word) for word, count in counts.items()) + noted


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
