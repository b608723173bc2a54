"""`skulk card`: bring a model card from elsewhere into the form of this fleet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from skulk.cli.exits import ExitCode
from skulk.core.errors import CLI_EXISTS, CLI_USAGE, InvalidInput

EXAMPLES = ("skulk card import model.toml", "skulk card import model.toml -o cards/model/card.yaml")

# A TOML card is a page of text.
CARD_BYTES_MAX = 1024 * 1024


def import_card(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A model card in TOML.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", show_default=False, help="Write here instead of to stdout.")
    ] = None,
) -> None:
    """Turn a TOML model card into a ModelCard manifest; what a person must still add is reported on stderr."""
    from skulk.core.manifests import import_toml, render_text

    try:
        with file.open("rb") as stream:
            data = stream.read(CARD_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(CLI_USAGE, f"{file}: {error.strerror}", fix="give the path of a TOML card") from error
    if len(data) > CARD_BYTES_MAX:
        raise InvalidInput(CLI_USAGE, f"{file} is larger than {CARD_BYTES_MAX} bytes", fix="give a model card")
    if output is not None and output.exists():
        raise InvalidInput(CLI_EXISTS, f"{output} exists", fix="choose another file, or remove it first")
    text, diagnostics = import_toml(data, file.stem)
    if diagnostics:
        print(render_text(diagnostics), file=sys.stderr)
    if not text:
        raise typer.Exit(int(ExitCode.INVALID))
    if output is None:
        print(text, end="")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
        print(output)
