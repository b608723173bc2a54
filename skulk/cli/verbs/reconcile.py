"""`skulk reconcile`: look at the source now; `skulk reconcile NAME --reset`: try again what was given up."""

from __future__ import annotations

from typing import Annotated

import typer

from skulk.cli.client import FleetClient, part
from skulk.cli.options import DEFAULT_URL, KeyOption, UrlOption
from skulk.core.errors import CLI_USAGE, InvalidInput

EXAMPLES = ("skulk reconcile", "skulk reconcile fox-tiny --reset")


def reconcile(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", show_default=False, help="A deployment or a placement.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Clear breaker, wedge and backoff.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Have the node look at its source now instead of at the next poll; the others hear of what is new there.

    With NAME and --reset: clear what keeps a placement from being tried again, on whatever node it is: an open breaker,
    a wedge, a running backoff.

    Nodes converge by themselves all the time, so nothing else needs to be asked for.
    """
    if name is None:
        if reset:
            raise InvalidInput(CLI_USAGE, "--reset of what?", fix="name a deployment or a placement")
        with FleetClient(url, key) as client:
            client.post("/fleet/v1/poll")
        print("the node looks at its source now")
        return
    if not reset:
        raise InvalidInput(CLI_USAGE, "nodes converge by themselves; say what to do", fix="add --reset")
    with FleetClient(url, key) as client:
        cleared = client.post(f"/fleet/v1/reset/{part(name.rpartition('/')[2] or name)}").get("cleared", 0)
    print(f"{name}: {cleared} cleared" if cleared else f"{name}: nothing was held back")
