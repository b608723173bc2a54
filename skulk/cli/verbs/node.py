"""`skulk node`: the daemon of this machine. Imported late, because nothing else needs the whole daemon."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from skulk.cli.options import DEFAULT_CONFIG, ConfigOption
from skulk.cli.scaffold.model import name_from
from skulk.core.errors import CLI_USAGE, InvalidInput

RUN_EXAMPLES = ("skulk node run --config node.toml",)
STOP_EXAMPLES = ("skulk node stop --config node.toml",)
PROBE_EXAMPLES = ("skulk node probe", "skulk node probe --name mac-1 --ordinal 3 > fleet/nodes/mac-1.yaml")


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the daemon in the foreground until Ctrl-C or SIGTERM; its runners live on for the next one."""
    from skulk.node.daemon import main

    raise typer.Exit(main(config))


def stop(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Drain and stop the runners and the daemon of this configuration's state directory."""
    from skulk.node.control import stop as stop_node

    raise typer.Exit(stop_node(config))


def probe(
    name: Annotated[
        str | None, typer.Option("--name", show_default="from the host name", help="The node's name.")
    ] = None,
    ordinal: Annotated[int, typer.Option("--ordinal", min=1, help="Unique, ever growing number of the node.")] = 1,
) -> None:
    """Print this machine's Node manifest: platform and hardware as measured here."""
    from skulk.core.manifests import to_yaml
    from skulk.node.probe import node_manifest

    if name is not None and name != name_from(name):
        fix = "use lower-case letters, digits, dots and dashes, at most 63"
        raise InvalidInput(CLI_USAGE, f'--name "{name}" is no resource name', fix=fix)
    print("# yaml-language-server: $schema=../../schemas/node.schema.json")
    manifest = node_manifest(name or name_from(platform.node().partition(".")[0] or "node"), ordinal)
    print(to_yaml(manifest), end="")
