"""`skulk node`: the daemon of this machine. Imported late, because nothing else needs the whole daemon."""

from __future__ import annotations

import platform
import pwd
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli.options import DEFAULT_CONFIG, ConfigOption
from skulk.cli.scaffold.model import name_from
from skulk.core.errors import CLI_USAGE, InvalidInput

if TYPE_CHECKING:
    from skulk.node.config import NodeConfig

RUN_EXAMPLES = ("skulk node run --config node.toml",)
STOP_EXAMPLES = ("skulk node stop --config node.toml",)
SERVICE_EXAMPLES = (
    "skulk node service --config /etc/skulk/node.toml > skulk-node.service",
    "skulk node service --config /etc/skulk/node.toml --user skulk --group render --group video",
    "skulk node service --format launchd --user me --log-dir /usr/local/var/log/skulk > dev.skulk.node.plist",
    "skulk node service --part update --config /etc/skulk/node.toml > skulk-update.service",
)
SHIPPER_EXAMPLES = (
    "skulk node shipper --program /usr/bin/vector --config /etc/skulk/vector.yaml > skulk-logs.service",
    "skulk node shipper --program /usr/bin/vector --config /etc/skulk/vector.yaml"
    " --token-file /etc/skulk/secrets/logs-token",
)
PROBE_EXAMPLES = ("skulk node probe", "skulk node probe --name mac-1 --ordinal 3 > fleet/nodes/mac-1.yaml")


class ServiceManagerName(StrEnum):
    """Who starts daemons on a machine."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"


class ServicePart(StrEnum):
    """The services of a node."""

    NODE = "node"
    UPDATE = "update"


FormOption = Annotated[
    ServiceManagerName | None,
    typer.Option("--format", show_default="this machine's", help="Service manager: systemd or launchd."),
]
LogDirOption = Annotated[
    Path | None,
    typer.Option("--log-dir", show_default="/usr/local/var/log/skulk", help="For stdout and stderr; launchd only."),
]


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


def service(
    config: ConfigOption = DEFAULT_CONFIG,
    form: FormOption = None,
    part: Annotated[
        ServicePart, typer.Option("--part", help="The daemon, or the update before it, which runs as root.")
    ] = ServicePart.NODE,
    user: Annotated[
        str | None, typer.Option("--user", show_default="skulk", help="Whom the daemon runs as; part node only.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", show_default=False, help="Further group, such as an accelerator's; systemd only."),
    ] = None,
    program: Annotated[
        Path | None, typer.Option("--program", show_default="this one", help="The installed skulk.")
    ] = None,
    log_dir: LogDirOption = None,
) -> None:
    """Print the service of this node, a systemd unit or a launchd plist; it leaves runners to the next daemon."""
    from skulk.core.service import Service, launchd_plist, systemd_unit
    from skulk.node.config import load_config

    found = load_config(config)
    chosen = form or _this_machines()
    if chosen is ServiceManagerName.SYSTEMD and log_dir is not None:
        raise InvalidInput(CLI_USAGE, "--log-dir has no effect with systemd", fix="leave it out: the journal has it")
    if part is ServicePart.UPDATE:
        for option, value in (("--user", user), ("--group", group)):
            if value:
                raise InvalidInput(CLI_USAGE, f"{option} has no effect on the update", fix="leave it out: it is root's")
        _print_update(found, config, program, log_dir, chosen)
        return
    user = user or "skulk"
    source, planes = found.source, found.planes
    reads = (*found.model_roots, source.allowed_signers, source.gpg_home, source.directory)
    reads += (planes.ca, planes.certificate, planes.key, found.webhook.secret_file)
    # Rotating renames files, so that the log's whole directory is written.
    writes = (found.state_dir, found.engines_path, *((found.log.file.parent,) if found.log.file else ()))
    made = Service(
        name=found.name,
        program=str((program or Path(sys.argv[0])).absolute()),
        config=str(config.absolute()),
        writes=tuple(str(path) for path in writes),
        reads=tuple(str(path) for path in reads if path is not None),
        user=_account(user, "--user", chosen),
        groups=tuple(_account(name, "--group", chosen) for name in group or ()),
        home=_home(user),
        log_dir=str(log_dir.absolute()) if log_dir is not None else None,
    )
    if chosen is ServiceManagerName.LAUNCHD and made.groups:
        raise InvalidInput(CLI_USAGE, "--group has no effect with launchd", fix="leave it out")
    _print(lambda: launchd_plist(made) if chosen is ServiceManagerName.LAUNCHD else systemd_unit(made))


def _print_update(
    found: NodeConfig, config: Path, program: Path | None, log_dir: Path | None, chosen: ServiceManagerName
) -> None:
    from skulk.core.service import UpdateService, update_plist, update_unit

    supply = found.update.wheelhouse
    made = UpdateService(
        program=str((program or Path(sys.argv[0])).absolute()),
        config=str(config.absolute()),
        program_dir=str(found.update.program_dir),
        reads=(str(found.state_dir), *((supply,) if supply is not None and supply.startswith("/") else ())),
    )
    if log_dir is not None:
        made = replace(made, log_dir=str(log_dir.absolute()))
    _print(lambda: update_plist(made) if chosen is ServiceManagerName.LAUNCHD else update_unit(made))


def shipper(
    program: Annotated[Path, typer.Option("--program", help="Vector or an OpenTelemetry collector.")],
    config: Annotated[Path, typer.Option("--config", help="Its configuration.")],
    form: FormOption = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", show_default=False, help="Passed on as credential logs-token; systemd only."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", show_default=False, help="Whom it runs as; launchd only.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", show_default=False, help="For what is not sent yet; launchd only.")
    ] = None,
    log_dir: LogDirOption = None,
) -> None:
    """Print the service of a log shipper beside a node, a systemd unit or a launchd plist."""
    from skulk.core.service import LogShipper, shipper_plist, shipper_unit

    chosen = form or _this_machines()
    launchd = chosen is ServiceManagerName.LAUNCHD
    others = {"--token-file": token_file} if launchd else {"--user": user, "--data-dir": data_dir, "--log-dir": log_dir}
    for option, value in others.items():
        if value is not None:
            raise InvalidInput(CLI_USAGE, f"{option} has no effect with {chosen}", fix="leave it out")
    if launchd and (user is None or data_dir is None):
        raise InvalidInput(CLI_USAGE, "launchd needs --user and --data-dir", fix="name both")
    made = LogShipper(
        str(program.absolute()), str(config.absolute()), str(token_file.absolute()) if token_file else None
    )
    if user is not None and data_dir is not None:
        made = replace(made, user=_account(user, "--user", chosen), data_dir=str(data_dir.absolute()))
    if log_dir is not None:
        made = replace(made, log_dir=str(log_dir.absolute()))
    _print(lambda: shipper_plist(made) if launchd else shipper_unit(made))


def _print(make: Callable[[], str]) -> None:
    try:
        text = make()
    except ValueError as error:
        raise InvalidInput(CLI_USAGE, str(error), fix="rename the file or directory") from None
    print(text, end="")


def _this_machines() -> ServiceManagerName:
    return ServiceManagerName.LAUNCHD if sys.platform == "darwin" else ServiceManagerName.SYSTEMD


def _home(user: str) -> str | None:
    """Where the account lives on this machine; None when it is not there (yet)."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return None


def _account(name: str, option: str, manager: ServiceManagerName) -> str:
    # Login names of macOS may have capitals and dots, which systemd refuses.
    form = r"[a-z_][a-z0-9_-]{0,30}" if manager is ServiceManagerName.SYSTEMD else r"[A-Za-z_][A-Za-z0-9_.-]{0,62}"
    if re.fullmatch(form, name) is None:
        raise InvalidInput(CLI_USAGE, f'{option} "{name}" is no name of an account', fix="name an existing one")
    return name
