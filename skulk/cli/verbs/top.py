"""`skulk top`: the fleet's machines and runners at a glance, drawn anew every second on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from skulk.cli import gauges, values
from skulk.cli.client import FleetClient, part
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption
from skulk.cli.printing import to_json
from skulk.core.errors import CLI_UNREACHABLE, SkulkError

EXAMPLES = ("skulk top", "skulk top --node mac-1", "skulk top --once -o json")

# Readings are two seconds apart; a second shows each soon and asks a node for what it has in memory.
REDRAW_SECONDS = 1.0

Json = Mapping[str, Any]


class Form(StrEnum):
    """Forms of the overview."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Overview:
    """The resources of one moment."""

    nodes: Sequence[Json]
    runners: Sequence[Json]
    placements: Sequence[Json]

    def lines(self) -> list[str]:
        return gauges.screen(self.nodes, self.runners, self.placements)


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once, also on a terminal.")] = False,
    node: Annotated[str | None, typer.Option("--node", show_default=False, help="Only this node.")] = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="Form; json is printed once.")] = Form.TABLE,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Watch machines and runners: health, load, memory, accelerators, disks.

    On a terminal it is drawn anew every second until Ctrl-C; in a pipe it is printed once. `-` is what nobody measured.
    """
    with FleetClient(url, key) as client:
        seen = _ask(client, node)
        if output is Form.JSON:
            print(to_json({"nodes": list(seen.nodes), "runners": list(seen.runners)}))
        elif once or not sys.stdout.isatty():
            print("\n".join(seen.lines()))
        else:
            _live(client, node, seen)


def _ask(client: FleetClient, node: str | None) -> Overview:
    """Raises what FleetClient raises; RequestError 404 with the names for an unknown node."""
    nodes = _items(client, "nodes") if node is None else [client.get(f"/fleet/v1/nodes/{part(node)}")]
    runners, placements = _items(client, "runners"), _items(client, "placements")
    if node is not None:
        runners = [runner for runner in runners if gauges.belongs(runner, node, placements)]
    return Overview(nodes, runners, placements)


def _items(client: FleetClient, kind: str) -> list[Json]:
    found = client.get(f"/fleet/v1/{kind}").get("items")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _live(client: FleetClient, node: str | None, seen: Overview) -> None:
    """Draw until Ctrl-C. A node that does not answer for a while is waited for; what it said last stays."""
    answered = time.monotonic()
    trouble = ""
    with _whole_terminal():
        try:
            while True:
                _draw([*seen.lines(), *(["", trouble] if trouble else [])])
                time.sleep(REDRAW_SECONDS)
                try:
                    seen, answered, trouble = _ask(client, node), time.monotonic(), ""
                except SkulkError as error:
                    if error.code is not CLI_UNREACHABLE:
                        raise
                    trouble = f"no answer for {values.duration(time.monotonic() - answered)}: {error.message}"
        except KeyboardInterrupt:
            return


def _draw(lines: Sequence[str]) -> None:
    size = os.get_terminal_size(sys.stdout.fileno())
    text = "\r\n".join(fitting(lines, size.columns, size.lines))
    # From the top corner, each line to its end, then whatever is left below: nothing flickers.
    sys.stdout.write("\x1b[H" + text.replace("\r\n", "\x1b[K\r\n") + "\x1b[K\x1b[J")
    sys.stdout.flush()


def fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """As many lines as the window has room for; wrapped ones count as often as they wrap. What is left out is said."""
    shown: list[str] = []
    room = rows
    for number, line in enumerate(lines):
        needed = 1 if columns <= 0 else max(1, -(-_width(line) // columns))
        # One row is kept for the remark, unless this is the end.
        if needed > room - (number < len(lines) - 1):
            return [
                *shown,
                f"… {len(lines) - number} more lines: enlarge the window, or use --node or --once"[:columns],
            ]
        shown.append(line)
        room -= needed
    return shown


def _width(line: str) -> int:
    """Cells on the screen: colours take none."""
    width, inside = 0, False
    for character in line:
        if character == "\x1b":
            inside = True
        elif inside:
            inside = character != "m"
        else:
            width += 1
    return width


@contextmanager
def _whole_terminal() -> Iterator[None]:
    """The terminal's second screen, without a cursor; the first one comes back as it was."""
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
