"""`skulk version`: what runs here."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

import skulk
from skulk.cli.options import Report
from skulk.cli.printing import to_json

EXAMPLES = ("skulk version", "skulk version -o json")


def version(
    output: Annotated[Report, typer.Option("-o", "--output", help="Form of the report.")] = Report.TEXT,
) -> None:
    """Print the version of this program, of Python and of the machine."""
    facts = {
        "version": skulk.__version__,
        "python": platform.python_version(),
        "os": {"Darwin": "macos"}.get(platform.system(), platform.system().lower()),
        "arch": platform.machine(),
    }
    if output is Report.JSON:
        print(to_json(facts))
    else:
        print(f"skulk {facts['version']} (Python {facts['python']}, {facts['os']} {facts['arch']})")
