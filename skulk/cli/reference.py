"""docs/reference/cli.md, generated from the commands themselves; a test compares the committed page.

`python -m skulk.cli.reference > docs/reference/cli.md` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from skulk.cli.main import app

# Fixed, so that the page does not depend on the terminal it is generated in.
WIDTH_CHARACTERS = 100

_INTRODUCTION = """\
# Command line

Generated from the program (`python -m skulk.cli.reference`); do not edit.

Verbs that ask a node take its address from `--url` or `SKULK_URL` and a key from `--key` or `SKULK_API_KEY`. Output
has colour only on a terminal and never with `NO_COLOR`. Tables never cut an id without showing it: a shortened commit
ends in `…`, and `-o wide` shows it whole. What a command's exit code means stands in [exit-codes.md](exit-codes.md).
Completion for the shell in use: `skulk --install-completion`.
"""


def reference() -> str:
    """The whole page."""
    root = get_command(app)
    context = typer.Context(root, info_name="skulk", terminal_width=WIDTH_CHARACTERS)
    return "\n".join([_INTRODUCTION, *_sections(root, context)])


def _sections(group: Any, context: Any) -> Iterator[str]:
    """One section per verb, in the program's own order; the verbs of a group one level deeper."""
    for name, command in group.commands.items():
        below = typer.Context(command, info_name=name, parent=context, terminal_width=WIDTH_CHARACTERS)
        depth = "#" * (2 + below.command_path.count(" ") - 1)
        text = "\n".join(line.rstrip() for line in command.get_help(below).splitlines()).strip()
        yield f"{depth} {below.command_path}\n\n```text\n{text}\n```\n"
        if hasattr(command, "commands"):
            yield from _sections(command, below)


if __name__ == "__main__":
    print(reference(), end="")
