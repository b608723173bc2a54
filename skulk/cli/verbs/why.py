"""`skulk why`: the reasons behind a deployment's, placement's or node's state, as the node holds them."""

from __future__ import annotations

from typing import Annotated

import typer

from skulk.cli.client import FleetClient, part
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption
from skulk.cli.terminal import printable

EXAMPLES = ("skulk why fox-tiny",)


def why(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A deployment, placement or node.")],
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Explain a state: what holds it back, which nodes were considered and why they were not taken."""
    with FleetClient(url, key) as client:
        # `KIND/NAME` is what other verbs print; here names are enough
        lines = client.get(f"/fleet/v1/why/{part(name.rpartition('/')[2] or name)}").get("lines")
    for line in lines or ["nothing to explain"]:
        print(printable(str(line)))
