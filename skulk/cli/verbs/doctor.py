"""`skulk doctor`: what on this machine would keep a node from working, each finding with its fix."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skulk.cli.checkup import Level, checkup
from skulk.cli.exits import ExitCode
from skulk.cli.options import DEFAULT_CONFIG, Report
from skulk.cli.printing import to_json
from skulk.cli.terminal import Ink, paint

EXAMPLES = ("skulk doctor", "skulk doctor --config node.toml -o json")

_INK = {Level.OK: Ink.GOOD, Level.WARNING: Ink.CAUTION, Level.PROBLEM: Ink.BAD}


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="SKULK_CONFIG",
            show_default="node.toml if it is there",
            help="The node's local configuration.",
        ),
    ] = None,
    output: Annotated[Report, typer.Option("-o", "--output", help="Form of the report.")] = Report.TEXT,
) -> None:
    """Check this machine: programs, node.toml, state directory, disk, engines, port, schemas.

    Changes nothing. Exit code 1 when there is a problem; warnings alone exit 0.
    """
    findings = checkup(config or DEFAULT_CONFIG, config_is_needed=config is not None)
    problems = sum(f.level is Level.PROBLEM for f in findings)
    if output is Report.JSON:
        print(to_json({"ok": problems == 0, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            word = paint(f"{finding.level:<8}", _INK[finding.level])
            print(f"{word}{finding.check:<10} {finding.message}" + (f"; {finding.fix}" if finding.fix else ""))
    if problems:
        raise typer.Exit(int(ExitCode.FINDINGS))
