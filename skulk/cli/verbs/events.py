"""`skulk events`: what happened lately, oldest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from skulk.cli import table, values
from skulk.cli.client import FleetClient
from skulk.cli.options import DEFAULT_URL, KeyOption, Report, UrlOption
from skulk.cli.printing import to_json
from skulk.cli.watching import views

EXAMPLES = ("skulk events", "skulk events -f", "skulk events --subject fox-tiny")

Json = Mapping[str, Any]
_HEADINGS = ("TIME", "SUBJECT", "REASON", "MESSAGE")


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")] = False,
    subject: Annotated[str | None, typer.Option("--subject", show_default=False, help="Only events of this.")] = None,
    output: Annotated[Report, typer.Option("-o", "--output", help="Form of the listing.")] = Report.TEXT,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """List recent events of the node that answers."""
    with FleetClient(url, key) as client:
        items = _items(client, 0, subject)
        if output is Report.TEXT:
            rows = [_HEADINGS, *map(_cells, items)]
            columns = table.widths(rows)
            print("\n".join(table.lines(rows)) if items or follow else "no events", flush=True)
        elif follow:
            _print_json_lines(items)
        else:
            print(to_json({"items": items}))
        if follow:
            _follow(client, items, subject, columns if output is Report.TEXT else None)


def _follow(client: FleetClient, shown: Sequence[Json], subject: str | None, columns: tuple[int, ...] | None) -> None:
    """Print what is new at every change of the view. `columns` None: one JSON object per line."""
    newest = max((int(e.get("number", 0)) for e in shown), default=0)
    generation = 0
    with closing(views(client, None)) as stream:
        for view in stream:
            if int(view.get("generation", 0)) < generation:
                newest = 0  # the daemon started anew, and with it the count of its events
            generation = int(view.get("generation", 0))
            fresh = _items(client, newest, None)
            newest = max((int(e.get("number", 0)) for e in fresh), default=newest)
            mine = [e for e in fresh if _is_about(e, subject)]
            if columns is None:
                _print_json_lines(mine)
            else:
                for event in mine:
                    print(table.line(_cells(event), columns), flush=True)


def _items(client: FleetClient, after: int, subject: str | None) -> list[Json]:
    items = client.get("/fleet/v1/events", after=after).get("items") or []
    return [item for item in items if _is_about(item, subject)]


def _is_about(event: Json, subject: str | None) -> bool:
    found = str(event.get("subject"))
    return subject is None or subject.rpartition("/")[2] == found.rpartition("/")[2]


def _cells(event: Json) -> tuple[str, ...]:
    rest = (values.plain(event.get(key)) for key in ("subject", "reason", "message"))
    return (values.moment(event.get("at")), *rest)


def _print_json_lines(items: Sequence[Json]) -> None:
    import json

    for item in items:
        print(json.dumps(item, ensure_ascii=False), flush=True)
