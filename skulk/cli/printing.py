"""Resources to the screen in the five forms of `-o`. JSON and YAML carry the whole resource, tables what is useful."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from skulk.cli import table
from skulk.cli.kinds import headings, row, singular
from skulk.cli.options import Output

Json = Mapping[str, Any]


def to_json(value: object) -> str:
    """Indented, keys as given, text unescaped: for people and for `jq` alike."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_yaml(value: object) -> str:
    # not at the top: most listings are tables
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=115).rstrip("\n")


def listing(kind: str, items: Sequence[Json], output: Output, now: float, *, single: bool) -> str:
    """All of `items` in one form. `single`: exactly one was asked for by name, so no list is put around it."""
    if output is Output.NAME:
        return "\n".join(f"{singular(kind)}/{item.get('name')}" for item in items)
    if output in (Output.JSON, Output.YAML):
        value: object = items[0] if single else {"kind": kind, "items": list(items)}
        return to_json(value) if output is Output.JSON else to_yaml(value)
    wide = output is Output.WIDE
    if not items:
        return f"no {kind}"
    return "\n".join(table.lines([headings(kind, wide=wide), *(row(kind, i, now, wide=wide) for i in items)]))
