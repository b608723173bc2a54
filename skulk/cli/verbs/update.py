"""`skulk node update` and `skulk node wheelhouse`: a node brings itself to the Fleet's version, and what from."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from skulk.cli.exits import ExitCode
from skulk.cli.options import DEFAULT_CONFIG, ConfigOption, Report
from skulk.cli.printing import to_json
from skulk.cli.verbs.machines import OutputOption, releases_dir
from skulk.core.errors import CLI_USAGE, REL_INSTALL, InvalidInput, Terminal

UPDATE_EXAMPLES = (
    "skulk node update --config /etc/skulk/node.toml --check",
    "skulk node update --config /etc/skulk/node.toml",
)
WHEELHOUSE_EXAMPLES = (
    "skulk node wheelhouse wheels",
    "skulk node wheelhouse wheels --wheel skulk-0.1.0-py3-none-any.whl --python 3.12 --platform linux/x86_64",
    "skulk node wheelhouse wheels --platform macos/arm64 --engines mlx",
)
_KICKSTART = ("launchctl", "kickstart", "-k", "system/dev.skulk.node")
RESTART_SECONDS_MAX = 120.0


def update(
    config: ConfigOption = DEFAULT_CONFIG,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what would be done; exit code 1 when something would.")
    ] = False,
    boot: Annotated[
        bool,
        typer.Option("--boot", help="As at a boot: only with update.onBoot; on macOS the node is restarted after it."),
    ] = False,
) -> None:
    """Bring this node to the version that the Fleet of its last accepted commit names. Run it as root.

    Releases and packages come from update.wheelhouse of node.toml and from nowhere else. A failure leaves the release
    that runs.
    """
    from skulk.node.config import load_config
    from skulk.node.updating import update as bring

    local = load_config(config)
    if boot and not local.update.on_boot:
        print("nothing to do: update.onBoot is not set in node.toml")
        return
    done = bring(config, local, check=check, progress=lambda line: print(line, file=sys.stderr))
    if done.release is None:
        print(f"nothing to do: {done.reason}")
        return
    if check:
        print(f"would go from {done.before.name} to {done.release.name}: {done.reason}")
        raise typer.Exit(ExitCode.FINDINGS)
    print(f"changed  {done.before.name} to {done.release.name}: {done.reason}")
    if not boot:
        print("restart the node to run it: " + _restart_command())
    elif sys.platform == "darwin":
        _restart()


def _restart_command() -> str:
    return " ".join(_KICKSTART) if sys.platform == "darwin" else "systemctl restart skulk-node"


def _restart() -> None:
    try:
        done = subprocess.run(
            _KICKSTART, capture_output=True, text=True, errors="replace", timeout=RESTART_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Terminal(REL_INSTALL, f"the node was not restarted: {error}", fix=_restart_command()) from error
    if done.returncode:
        raise Terminal(REL_INSTALL, f"the node was not restarted: {done.stderr.strip()}", fix=_restart_command())


def wheelhouse(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Made if it is not there.")],
    wheel: Annotated[
        Path | None,
        typer.Option("--wheel", metavar="FILE", show_default="built from this source tree", help="A wheel of Skulk."),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option("--python", metavar="VERSION", show_default="3.11 to 3.14", help="Of the nodes; repeatable."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            "--platform",
            metavar="SYSTEM/MACHINE",
            show_default="all",
            help="linux/x86_64, linux/aarch64 or macos/arm64; repeatable.",
        ),
    ] = None,
    engines: Annotated[
        str, typer.Option("--engines", metavar="NAMES", show_default="none", help="Engines too: mlx,llama_cpp.")
    ] = "",
    output: OutputOption = Report.TEXT,
) -> None:
    """Fill a directory with everything that nodes install, for nodes without a package index.

    Every package is fetched by pip, with pip's own settings, and compared with the hash that the release pins. Repeat
    it after an interruption, or with another release: what is there is not fetched again.
    """
    from skulk.adapters.release import make_release, read_wheel
    from skulk.adapters.release.wheelhouse import fill
    from skulk.core.wheelhouse import PLATFORMS, PYTHONS, target

    try:
        targets = [target(*pair) for pair in product(python or PYTHONS, platform or PLATFORMS)]
    except ValueError as error:
        raise InvalidInput(CLI_USAGE, str(error)) from None
    release, made = make_release(releases_dir(), wheel)
    (file,) = made.glob("*.whl")
    done = fill(
        directory,
        read_wheel(file),
        list(dict.fromkeys(targets)),
        engines=[name.strip() for name in engines.split(",") if name.strip()],
        progress=lambda line: print(line, file=sys.stderr),
    )
    if output is Report.JSON:
        facts = {"release": release.name, "wheels": sorted(done.needed), "fetched": sorted(done.fetched)}
        print(to_json({**facts, "mustBeCompiled": sorted(done.compile), "directory": str(directory.absolute())}))
        return
    print(f"release    {release.name}")
    print(f"wheels     {len(done.needed)}, of which {len(done.fetched)} were fetched now")
    print(f"directory  {directory}")
    for package in sorted(done.compile):
        print(f"note       {package} must be compiled: nobody publishes wheels of it, and none is here")
