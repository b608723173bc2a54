"""`skulk explain`: what a manifest field means, offline, from the same model that validates it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli import table
from skulk.cli.values import MISSING

if TYPE_CHECKING:
    from skulk.core.manifests import FieldDoc

EXAMPLES = ("skulk explain deployment", "skulk explain deployment.spec.replicas")


def explain(
    path: Annotated[
        str, typer.Argument(metavar="KIND[.FIELD...]", show_default=False, help="For example node.spec.reserve.")
    ],
) -> None:
    """Document a manifest field: type, default, meaning, and the fields below it."""
    from skulk.core.manifests import explain as documentation

    print("\n".join(_page(documentation(path))))


def _page(doc: FieldDoc) -> list[str]:
    lines = [f"{doc.path}  <{doc.type}>{'  required' if doc.required and '.' in doc.path else ''}", ""]
    lines.append(doc.description or "No description.")
    if doc.default is not None:
        lines.append(f"Default: {_default(doc)}")
    if doc.allowed:
        lines.append(f"Allowed: {', '.join(doc.allowed)}")
    if doc.not_yet:
        lines.append(f"Not yet: {doc.not_yet}")
    if doc.children:
        rows = [(child.name, f"<{child.type}>", _default(child), child.description) for child in doc.children]
        lines += ["", *table.lines([("FIELD", "TYPE", "DEFAULT", "DESCRIPTION"), *rows])]
    return lines


def _default(doc: FieldDoc) -> str:
    if doc.required:
        return "required"
    return MISSING if doc.default is None else json.dumps(doc.default, ensure_ascii=False)
