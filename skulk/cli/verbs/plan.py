"""`skulk plan`: what a change of the manifests would do to the fleet, before it is pushed."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli.exits import ExitCode, exit_code
from skulk.cli.options import KeyOption
from skulk.cli.printing import to_json
from skulk.core.errors import CLI_UNREACHABLE, SkulkError, Transient

if TYPE_CHECKING:
    from skulk.cli.live import Live
    from skulk.cli.proposal import Side

EXAMPLES = (
    "skulk plan",
    "skulk plan my-branch --base main",
    "skulk plan --live http://127.0.0.1:52415",
    "skulk plan HEAD -o markdown",
)


class Form(StrEnum):
    """Forms of the report; `markdown` is for comments under a proposed change."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def plan(
    revision: Annotated[
        str | None,
        typer.Argument(
            metavar="REV", show_default="the files as they are", help="The commit, branch or tag that is proposed."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            show_default="HEAD; with REV its parent; with --live the commit in force",
            help="What to compare with; none: an empty fleet.",
        ),
    ] = None,
    path: Annotated[Path, typer.Option("--path", help="The folder that holds fleet/ and cards/.")] = Path(),
    live: Annotated[
        str | None,
        typer.Option("--live", metavar="URL", show_default=False, help="A node to take facts and what runs from."),
    ] = None,
    key: KeyOption = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="Form of the report.")] = Form.TEXT,
) -> None:
    """Show what a change would do: what starts, stops, moves and downloads, and the memory of every node.

    Offline, by the hardware that the Node manifests declare, or by the facts of a running fleet. Exit code 0 when
    nothing changes, 1 when something does, 3 when either side is invalid. Changes nothing.
    """
    # the planner and the YAML reader load only when they are needed
    from skulk.cli.proposal import NOTHING, propose, read_base, read_target

    facts = _live(live, key) if live is not None else None
    target = read_target(path, revision)
    before = read_base(path, base, target, facts.commit if facts is not None else None)
    _refuse_invalid(target, path)
    if before.name != NOTHING or before.commit is not None:
        _refuse_invalid(before, path)
    proposal = propose(before, target, facts, live)
    match output:
        case Form.JSON:
            from skulk.cli.proposal_json import as_json

            print(to_json(as_json(proposal)))
        case Form.MARKDOWN:
            from skulk.cli.proposal_markdown import as_markdown

            print(as_markdown(proposal), end="")
        case _:
            from skulk.cli.proposal_text import as_text

            print(as_text(proposal))
    if proposal.diff.changed:
        raise typer.Exit(int(ExitCode.FINDINGS))


def _live(url: str, key: str | None) -> Live:
    from skulk.cli.client import FleetClient
    from skulk.cli.live import read_live

    try:
        with FleetClient(url, key) as client:
            return read_live(client)
    except SkulkError as error:
        if exit_code(error) is not ExitCode.FINDINGS:
            raise
        # Exit code 1 is for changes, and for nothing else.
        raise Transient(CLI_UNREACHABLE, f"no facts from {url}: {error.message}") from error


def _refuse_invalid(side: Side, root: Path) -> None:
    """End with the diagnostics of a side that no node would accept. They go to stderr: there is no plan."""
    from skulk.core.manifests import render_text

    if side.fleet is not None:
        return
    found = side.diagnostics
    if root != Path():
        found = tuple(replace(d, file=(root / d.file).as_posix()) for d in found)
    print(render_text(found), file=sys.stderr)
    errors = sum(d.is_error for d in found)
    print(f"{side.name} is invalid: {errors} {'error' if errors == 1 else 'errors'}", file=sys.stderr)
    raise typer.Exit(int(ExitCode.INVALID))
