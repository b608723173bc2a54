"""`skulk inventory`: the Node manifests as an Ansible inventory, for playbooks of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skulk.cli.changes import read_checkout
from skulk.cli.printing import to_json
from skulk.core.domain.ids import NodeName
from skulk.core.errors import CLI_USAGE, InvalidInput

EXAMPLES = ("skulk inventory --list", "skulk inventory --host mac-1", "skulk inventory ../fleet --list")


def inventory(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder that holds fleet/ and cards/.")] = Path(),
    list_: Annotated[bool, typer.Option("--list", help="All groups, hosts and their variables.")] = False,
    host: Annotated[
        str | None, typer.Option("--host", show_default=False, help="The variables of this node alone.")
    ] = None,
) -> None:
    """Print the declared nodes as Ansible's dynamic inventory: groups by platform, backend, role and label.

    Invalid manifests end it with exit code 3, file and line, and nothing on stdout.
    """
    from skulk.core.inventory import host_variables
    from skulk.core.inventory import inventory as made

    if list_ == (host is not None):
        raise InvalidInput(CLI_USAGE, "exactly one of --list and --host is needed", fix="add --list")
    fleet = read_checkout(path).fleet
    if host is None:
        print(to_json(made(fleet)))
        return
    if host not in fleet.nodes:
        known = ", ".join(sorted(fleet.nodes)) or "none"
        raise InvalidInput(CLI_USAGE, f"no node is called {host!r}", fix=f"declared are: {known}")
    print(to_json(host_variables(fleet, NodeName(host))))
