"""`skulk describe`: everything known of one resource, for a person."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from skulk.cli import table, values
from skulk.cli.client import FleetClient, part
from skulk.cli.kinds import kind_of, singular
from skulk.cli.options import DEFAULT_URL, KeyOption, KindArgument, UrlOption
from skulk.cli.printing import to_yaml
from skulk.core.errors import CLI_USAGE, InvalidInput

EXAMPLES = ("skulk describe deployment fox-tiny", "skulk describe node/mac-1", "skulk describe fleet")

# The newest of the subject's events: what a person reads to understand the present state.
EVENTS_SHOWN = 10

Json = Mapping[str, Any]


def describe(
    kind: KindArgument,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, help="Not for the fleet.")] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Show one resource in full: spec, status, conditions with their age, what it waits for, its recent events."""
    word, _, tail = kind.partition("/")
    plural = kind_of(word)
    name = name or tail or None
    with FleetClient(url, key) as client:
        if name is None and plural != "fleet":
            raise InvalidInput(CLI_USAGE, f"which {singular(plural)}?", fix=f"list them: `skulk get {plural}`")
        if name is None:
            items = client.get("/fleet/v1/fleet").get("items") or []
            if not items:
                raise InvalidInput(
                    CLI_USAGE, "no commit is accepted yet, so there is no fleet", fix="`skulk get nodes`"
                )
            resource = items[0]
        else:
            resource = client.get(f"/fleet/v1/{plural}/{part(name)}")
        events = client.get("/fleet/v1/events", after=0).get("items") or []
    print("\n".join(_page(plural, resource, events, time.time())))


def _page(kind: str, resource: Json, events: Sequence[Json], now: float) -> list[str]:
    lines = [f"Name:  {resource.get('name')}", f"Kind:  {singular(kind)}"]
    lines += _block("Spec", to_yaml(resource.get("spec")).splitlines() if resource.get("spec") else [])
    lines += _block("Status", _status(resource.get("status") or {}, now))
    lines += _block("Conditions", _conditions(resource.get("conditions") or (), now))
    lines += _block("Waiting", _waiting(resource.get("waiting") or ()))
    lines += _block("Events", _events(kind, str(resource.get("name")), events, now))
    return lines


def _block(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines or [values.MISSING])]


def _status(status: Json, now: float) -> list[str]:
    """One line per field; sizes and times get a readable form beside the exact one."""
    lines = []
    for key, value in status.items():
        if key.lower().endswith("bytes") and isinstance(value, int):
            lines.append(f"{key}: {value} ({values.size(value)})")
        elif key in ("since", "startedAt") and isinstance(value, int | float):
            lines.append(f"{key}: {values.moment(value)} ({values.age(value, now)} ago)")
        elif isinstance(value, dict | list) and value:
            lines += to_yaml({key: value}).splitlines()
        else:
            lines.append(f"{key}: {values.plain(value)}")
    return lines


def _conditions(conditions: Sequence[Json], now: float) -> list[str]:
    rows = [
        (
            values.plain(c.get("type")),
            values.plain(c.get("status")),
            values.plain(c.get("reason")),
            values.age(c.get("since"), now),
            values.commit(c.get("commit")),
            values.plain(c.get("message")),
        )
        for c in conditions
    ]
    return table.lines([("TYPE", "STATUS", "REASON", "AGE", "COMMIT", "MESSAGE"), *rows]) if rows else []


def _waiting(waiting: Sequence[Json]) -> list[str]:
    rows = [tuple(values.plain(w.get(key)) for key in ("subject", "on", "reason", "message")) for w in waiting]
    return table.lines([("SUBJECT", "ON", "REASON", "MESSAGE"), *rows]) if rows else []


def _events(kind: str, name: str, events: Sequence[Json], now: float) -> list[str]:
    """The newest events whose subject is this resource (`name` or `…/name`); for the fleet, of anything."""
    own = [e for e in events if kind == "fleet" or str(e.get("subject")).rpartition("/")[2] == name]
    rows = [
        (values.age(e.get("at"), now), values.plain(e.get("reason")), values.plain(e.get("message")))
        for e in own[-EVENTS_SHOWN:]
    ]
    return table.lines([("AGE", "REASON", "MESSAGE"), *rows]) if rows else []
