"""`skulk node release`, `preflight` and `engines`: the steps of the playbooks that are more than a module of Ansible.

People can call them too; each says what it did in a line, and in JSON to a playbook.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skulk.cli.changes import read_checkout
from skulk.cli.options import DEFAULT_CONFIG, ConfigOption, Report
from skulk.cli.printing import to_json
from skulk.cli.verbs.enrol import CaOption, authority_dir, is_enrolled
from skulk.cli.verbs.states import PathOption
from skulk.core.domain.ids import NodeName
from skulk.core.errors import CLI_USAGE, REL_MACHINE, REL_PROBE, REL_VERSION, InvalidInput, Refused, Terminal

if TYPE_CHECKING:
    from skulk.core.preflight import Probe

RELEASE_EXAMPLES = (
    "skulk node release",
    "skulk node release --wheel skulk-0.1.0-py3-none-any.whl --path ../fleet",
)
PREFLIGHT_EXAMPLES = ("skulk node preflight box-1 --probe found.txt",)
ENGINES_EXAMPLES = ("skulk node engines --config /etc/skulk/node.toml",)

OutputOption = Annotated[Report, typer.Option("-o", "--output", help="Form of the report.")]


def release(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", show_default="~/.cache/skulk/releases", help="Where releases are kept."),
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option("--wheel", metavar="FILE", show_default="built from this source tree", help="A wheel of Skulk."),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option("--path", metavar="DIR", show_default=False, help="A checkout whose spec.version must be this."),
    ] = None,
    output: OutputOption = Report.TEXT,
) -> None:
    """Lay out what nodes install: the wheel, its requirements pinned by hash, and a description."""
    from skulk.adapters.release import make_release

    parent = out if out is not None else releases_dir()
    made, directory = make_release(parent, wheel)
    if path is not None:
        fleet = read_checkout(path).fleet
        if fleet.version not in (None, made.version):
            place = fleet.places.get(f"Fleet/{fleet.name}", "fleet/fleet.yaml")
            message = f"the wheel is Skulk {made.version}, but {place} (spec.version) wants {fleet.version}"
            raise Refused(REL_VERSION, message)
    facts = json.loads((directory / "release.json").read_text("utf-8"))
    if output is Report.JSON:
        print(to_json({**facts, "directory": str(directory.absolute())}))
    else:
        print(f"release    {made.name}")
        print(f"sha256     {made.digest}")
        print(f"directory  {directory}")


def releases_dir() -> Path:
    """Where releases are laid out on the operator's machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "skulk" / "releases"


def preflight(
    name: Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="The node that it shall be.")],
    probe: Annotated[Path, typer.Option("--probe", metavar="FILE", help="What the probe printed; - for stdin.")],
    path: PathOption = Path(),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the gateway.")] = 52415,
    planes_port: Annotated[int, typer.Option("--planes-port", min=1, max=65535, help="Of the planes.")] = 52416,
    ca: CaOption = None,
    managed_python: Annotated[
        bool, typer.Option("--managed-python", help="uv may download a Python where none fits.")
    ] = False,
    output: OutputOption = Report.TEXT,
) -> None:
    """Judge a machine by what the bootstrap's probe found on it. Exit code 6 when it cannot be this node.

    The probe is `playbooks/roles/skulk_preflight/files/probe.sh`; it changes nothing.
    """
    from skulk.adapters.certificates import common_name
    from skulk.core.preflight import Level, Plan, judge, read_probe, report

    checkout = read_checkout(path)
    fleet = checkout.fleet
    if name not in fleet.nodes:
        known = ", ".join(sorted(fleet.nodes)) or "none"
        raise InvalidInput(CLI_USAGE, f"no Node manifest has the name {name!r}", fix=f"declared are: {known}")
    try:
        printed = sys.stdin.buffer.read() if str(probe) == "-" else probe.read_bytes()
    except OSError as error:
        message = f"--probe: {probe} cannot be read: {error.strerror}"
        raise InvalidInput(CLI_USAGE, message, fix="name the file with what the probe printed") from error
    text = printed.decode("utf-8", errors="replace")
    try:
        found = read_probe(text)
    except ValueError as error:
        raise Terminal(REL_PROBE, f"{name}: {error}: {text.strip()[-200:]!r}") from error
    plan = Plan(
        now=time.time(),
        ports=(port, planes_port),
        certificate_node=common_name(found.certificate.encode()) if found.certificate else "",
        managed_python=managed_python,
    )
    findings = judge(fleet, NodeName(name), found, plan)
    refused = any(finding.level is Level.PROBLEM for finding in findings)
    if output is Report.JSON:
        listed = [asdict(finding) for finding in findings]
        enrolled = is_enrolled(checkout, NodeName(name), found, authority_dir(ca, checkout, path))
        print(to_json({"ok": not refused, "findings": listed, "facts": _facts(found) | {"enrolled": enrolled}}))
    elif findings:
        print(report(NodeName(name), findings))
    if refused:
        raise Refused(REL_MACHINE, f"{name}: {REL_MACHINE.title}")


def _facts(found: Probe) -> dict[str, object]:
    """What the roles go by."""
    return {
        "os": found.os,
        "arch": found.machine,
        "distribution": found.distribution,
        "family": found.family,
        "python": found.python.path if found.python is not None else "",
        "user": found.user,
        "group": found.group,
        "brew": found.brew,
        "git": found.git,
        "uv": found.uv,
        "releases": list(found.releases),
        "unfinished": list(found.unfinished),
        "current": found.current,
        "previous": found.previous,
        "service": found.service,
        "request": found.request,
        "certificate": found.certificate,
        "sshHostKey": found.ssh_host_key,
    }


def engines(
    config: ConfigOption = DEFAULT_CONFIG,
    check: Annotated[bool, typer.Option("--check", help="Say what is missing, and install nothing.")] = False,
) -> None:
    """Install the engines that node.toml names and that are not there yet, each into an environment of its own.

    A running daemon takes what is new at its next look. Where the packages come from: uv's or pip's own settings.
    """
    from skulk.adapters.engine_envs import discover, ensure, wanted_environment
    from skulk.node.config import load_config

    local = load_config(config)
    there = {found.path.name for found in discover(local.engines_path).environments}
    for engine in local.engines:
        try:
            wanted = wanted_environment(local.engines_path, engine)
        except ValueError as error:
            raise InvalidInput(CLI_USAGE, f"{config}: engines: {error}", fix="correct `engines`") from error
        if wanted.path.name in there:
            print(f"there    {engine}: {wanted.path}")
        elif check:
            print(f"missing  {engine}: {wanted.path}")
        else:
            ensure(engine, local.engines_path, progress=lambda line: print(f"         {line}", file=sys.stderr))
            print(f"changed  {engine}: {wanted.path}")
