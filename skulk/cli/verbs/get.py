"""`skulk get`: list resources, once or as they change."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from skulk.cli import table
from skulk.cli.client import FleetClient, part
from skulk.cli.kinds import headings, kind_of, row, singular
from skulk.cli.options import DEFAULT_URL, KeyOption, KindArgument, Output, UrlOption
from skulk.cli.printing import listing, to_yaml
from skulk.cli.watching import views
from skulk.core.errors import CLI_USAGE, InvalidInput

EXAMPLES = ("skulk get deployments", "skulk get node/mac-1 -o yaml", "skulk get placements --watch")

Json = Mapping[str, Any]


def get(
    kind: KindArgument,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", show_default=False, help="Only these.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the listing.")] = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on and print what changes.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """List resources of one kind.

    Tables show ids whole, or with an ellipsis where they are shortened; `-o wide` shows everything.
    """
    kind, wanted = _target(kind, names or [])
    with FleetClient(url, key) as client:
        if watch:
            _watch(client, kind, wanted, output)
            return
        if wanted:
            items = [client.get(f"/fleet/v1/{kind}/{part(name)}") for name in wanted]
        else:
            items = _items(client.get(f"/fleet/v1/{kind}").get("items"))
    text = listing(kind, items, output, time.time(), single=len(wanted) == 1)
    if text:
        print(text)


def _target(kind: str, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """`KIND NAME…` or `KIND/NAME` → the kind and the names."""
    word, slash, name = kind.partition("/")
    if slash and (names or not name):
        raise InvalidInput(CLI_USAGE, f'"{kind}" names one resource', fix="write KIND/NAME or KIND NAME…, not both")
    return kind_of(word), ((name,) if slash else tuple(dict.fromkeys(names)))


def _items(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _watch(client: FleetClient, kind: str, wanted: tuple[str, ...], output: Output) -> None:
    """Print the listing, then every resource whose shown form changed, until Ctrl-C."""
    shown: dict[str, str] = {}
    wide = output is Output.WIDE
    columns: tuple[int, ...] = ()
    with closing(views(client, None)) as stream:
        for view in stream:
            items = _items((view.get("resources") or {}).get(kind))
            found = {str(i.get("name")): i for i in items if not wanted or str(i.get("name")) in wanted}
            if output in (Output.TABLE, Output.WIDE) and not columns:
                rows = [headings(kind, wide=wide), *(row(kind, i, time.time(), wide=wide) for i in found.values())]
                columns = table.widths(rows)
                print(table.line(rows[0], columns, heading=True))
            for name, item in found.items():
                # ages grow by themselves, so they are left out of the comparison
                mark = json.dumps(item, sort_keys=True) if _is_data(output) else str(row(kind, item, 0.0, wide=wide))
                if shown.get(name) != mark:
                    shown[name] = mark
                    print(_changed(kind, item, output, columns), flush=True)
            for name in [name for name in shown if name not in found]:
                del shown[name]
                print(_gone(kind, name, output), flush=True)


def _is_data(output: Output) -> bool:
    return output in (Output.JSON, Output.YAML)


def _changed(kind: str, item: Json, output: Output, columns: Sequence[int]) -> str:
    """One resource as it is now: a row, a line of JSON, a YAML document or a name."""
    match output:
        case Output.JSON:
            return json.dumps(item, ensure_ascii=False)
        case Output.YAML:
            return "---\n" + to_yaml(item)
        case Output.NAME:
            return f"{singular(kind)}/{item.get('name')}"
        case _:
            return table.line(row(kind, item, time.time(), wide=output is Output.WIDE), columns)


def _gone(kind: str, name: str, output: Output) -> str:
    if output is Output.JSON:
        return json.dumps({"kind": kind, "name": name, "deleted": True}, ensure_ascii=False)
    if output is Output.YAML:
        return "---\n" + to_yaml({"kind": kind, "name": name, "deleted": True})
    return f"{singular(kind)}/{name} deleted"
