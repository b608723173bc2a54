"""`skulk schema`: the JSON Schemas that editors check manifests with, written or compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from skulk.core.errors import CLI_DRIFT, Terminal

EXAMPLES = ("skulk schema", "skulk schema --check --dir schemas")


def schema(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 when a file differs.")] = False,
    directory: Annotated[Path, typer.Option("--dir", help="Where the schema files are.")] = Path("schemas"),
) -> None:
    """Write the JSON Schemas of all manifest kinds, or check that the files there are those of this version."""
    texts = schema_files()
    if check:
        if different := differing(directory):
            raise Terminal(CLI_DRIFT, f"not as generated in {directory}: {', '.join(different)}")
        print(f"ok: {len(texts)} schemas in {directory}")
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
        print(directory / name)


def differing(directory: Path) -> list[str]:
    """The schema files in `directory` that are missing or not as this version generates them."""
    return [name for name, text in schema_files().items() if _content(directory / name) != text]


def schema_files() -> Mapping[str, str]:
    """File name → content, as committed."""
    from skulk.core.manifests import generate, schema_text

    return {name: schema_text(schema) for name, schema in generate().items()}


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
