"""`skulk reconcile NAME --reset`: let a node try again what it has given up."""

from __future__ import annotations

from typing import Annotated

import typer

from skulk.cli.client import FleetClient, part
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption
from skulk.core.errors import CLI_USAGE, InvalidInput

EXAMPLES = ("skulk reconcile fox-tiny --reset",)


def reconcile(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A deployment or a placement.")],
    reset: Annotated[bool, typer.Option("--reset", help="Clear breaker, wedge and backoff.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Clear what keeps a placement from being tried again: an open breaker, a wedge, a running backoff.

    Nodes converge by themselves all the time, so nothing else needs to be asked for.
    """
    if not reset:
        raise InvalidInput(CLI_USAGE, "nodes converge by themselves; say what to do", fix="add --reset")
    with FleetClient(url, key) as client:
        cleared = client.post(f"/fleet/v1/reset/{part(name.rpartition('/')[2] or name)}").get("cleared", 0)
    print(f"{name}: {cleared} cleared" if cleared else f"{name}: nothing was held back")
