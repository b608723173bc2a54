"""`skulk logs`: what the runners of a deployment or placement wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from skulk.cli.client import ANSWER_SECONDS, FleetClient, part
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption
from skulk.cli.terminal import printable

EXAMPLES = ("skulk logs fox-tiny", "skulk logs fox-tiny -f -n 50")

LINES_DEFAULT = 200
# What the node gives at most; the whole file is on the node.
LINES_MAX = 10_000


def logs(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A deployment or a placement.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=LINES_MAX, help="Newest lines to start with.")] = (
        LINES_DEFAULT
    ),
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print a runner's log."""
    path = f"/fleet/v1/logs/{part(name.rpartition('/')[2] or name)}"
    # a followed log may rightly be silent for hours
    silence = None if follow else ANSWER_SECONDS
    flag = "true" if follow else "false"
    with (
        FleetClient(url, key) as client,
        client.stream("GET", path, silence=silence, lines=lines, follow=flag) as response,
    ):
        for line in response.iter_lines():
            print(printable(line), flush=follow)
