"""The checks behind `skulk doctor`: each looks at one thing of this machine and returns findings, nothing else.

A check never changes anything and never raises for what it finds. A `problem` keeps a node from working, a
`warning` does not.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from skulk.cli import values
from skulk.cli.client import FleetClient
from skulk.core.domain.ids import NodeName
from skulk.core.errors import CFG_PORT_TAKEN, CLI_DRIFT, CLI_UNREACHABLE, RequestError, SkulkError

if TYPE_CHECKING:
    from skulk.node.config import NodeConfig

PYTHON_MIN = (3, 11)
# Signatures by SSH keys are understood from this version on.
GIT_MIN = (2, 34)
# An engine environment takes about 2 GiB, a small model as much again.
DISK_FREE_BYTES_MIN = 5 * 1024**3
# Earlier than this program: certificates and `since` fields would be wrong.
CLOCK_SECONDS_MIN = 1_735_689_600.0  # 2025-01-01
# Programs print their version at once.
VERSION_SECONDS_MAX = 10.0


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix` is empty exactly when there is nothing to do."""

    check: str
    level: Level
    message: str
    fix: str = ""


def checkup(config_file: Path, *, config_is_needed: bool) -> list[Finding]:
    """All findings. Without node.toml only the machine is looked at; a missing one is a problem if it is needed."""
    findings = [*_python(), *_git(), *_ssh(), *_uv(), *_clock(), *_schemas(Path("schemas"))]
    config, about = _config(config_file, config_is_needed)
    findings.append(about)
    if config is not None:
        for check in _OF_CONFIG:
            findings.extend(check(config))
        from skulk.node.config import effective_environment

        findings.extend(_webhook(config, effective_environment(config_file, os.environ)[0]))
    return findings


def _python() -> Iterable[Finding]:
    version = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        yield Finding("python", Level.PROBLEM, f"Python {version}", f"use Python {wanted} or newer")
    else:
        yield Finding("python", Level.OK, f"Python {version}")


def _git() -> Iterable[Finding]:
    found = _version("git", "--version")
    wanted = ".".join(map(str, GIT_MIN))
    if found is None:
        yield Finding("git", Level.PROBLEM, "git is not installed", f"install git {wanted} or newer")
    elif found < GIT_MIN:
        shown = ".".join(map(str, found))
        yield Finding(
            "git", Level.WARNING, f"git {shown} cannot check SSH signatures", f"install git {wanted} or newer"
        )
    else:
        yield Finding("git", Level.OK, f"git {'.'.join(map(str, found))}")


def _version(program: str, argument: str) -> tuple[int, ...] | None:
    """The first dotted number a program prints, or None when it is not there or does not work."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run(
            [program, argument], capture_output=True, text=True, timeout=VERSION_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", done.stdout + done.stderr)
    return tuple(int(part) for part in match.groups(default="0")) if match else None


def _ssh() -> Iterable[Finding]:
    if shutil.which("ssh") is None:
        yield Finding("ssh", Level.WARNING, "ssh is not installed", "install OpenSSH if the source is an ssh remote")
    else:
        yield Finding("ssh", Level.OK, "ssh is there")


def _uv() -> Iterable[Finding]:
    if shutil.which("uv") is None:
        yield Finding(
            "uv", Level.WARNING, "uv is not installed", "install uv; engines install by pip until then, slower"
        )
    else:
        yield Finding("uv", Level.OK, "uv is there")


def _clock() -> Iterable[Finding]:
    now = time.time()
    if now < CLOCK_SECONDS_MIN:
        yield Finding(
            "clock", Level.PROBLEM, f"the clock says {values.moment(now)}", "set the clock, for example by NTP"
        )
    else:
        yield Finding("clock", Level.OK, values.moment(now))


def _schemas(directory: Path) -> Iterable[Finding]:
    """Only in a fleet repository: are its schemas those of this version?"""
    if not directory.is_dir():
        return
    from skulk.cli.verbs.schema import differing

    different = differing(directory)
    if different:
        message = f"{CLI_DRIFT.title} in {directory}: {', '.join(different)}"
        yield Finding("schemas", Level.WARNING, message, CLI_DRIFT.fix)
    else:
        yield Finding("schemas", Level.OK, f"{directory} is of this version")


def _config(file: Path, needed: bool) -> tuple[NodeConfig | None, Finding]:
    if not file.exists() and not needed:
        message = f"no {file} here: the node's own settings were not checked"
        return None, Finding("node.toml", Level.OK, message)
    from skulk.node.config import load_config

    try:
        config = load_config(file)
    except SkulkError as error:
        return None, Finding("node.toml", Level.PROBLEM, f"{error.code.id} {error.message}", error.fix)
    return config, Finding("node.toml", Level.OK, f"{file} is valid: node {config.name}, namespace {config.namespace}")


def _state_dir(config: NodeConfig) -> Iterable[Finding]:
    directory = config.state_dir
    place = _existing(directory)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fix = f"make {directory} writable for this user, or set stateDir in node.toml"
        yield Finding("state", Level.PROBLEM, f"{place} is not writable", fix)
        return
    yield Finding("state", Level.OK, str(directory) if place == directory else f"{directory} will be made")
    free = shutil.disk_usage(place).free
    if free < DISK_FREE_BYTES_MIN:
        fix = f"free space: {values.size(DISK_FREE_BYTES_MIN)} is little enough for an engine and a model"
        yield Finding("disk", Level.WARNING, f"{values.size(free)} free at {place}", fix)
    else:
        yield Finding("disk", Level.OK, f"{values.size(free)} free at {place}")


def _existing(directory: Path) -> Path:
    """The directory, or its nearest parent that exists."""
    while not directory.exists() and directory.parent != directory:
        directory = directory.parent
    return directory


def _model_roots(config: NodeConfig) -> Iterable[Finding]:
    for root in config.model_roots:
        if root.is_dir():
            yield Finding("models", Level.OK, str(root))
        else:
            yield Finding(
                "models", Level.PROBLEM, f"{root} is no directory", "make it, or correct modelRoots in node.toml"
            )


def _engines(config: NodeConfig) -> Iterable[Finding]:
    """Is an environment of each engine there? Whether it works is probed by the node, in a process of its own."""
    for engine in config.engines:
        found = sorted(path.parent.name for path in config.engines_path.glob(f"{engine}-*/engine.json"))
        if found:
            yield Finding("engines", Level.OK, f"{engine}: {', '.join(found)}")
        elif config.install_engines:
            message = f"{engine}: not installed yet; `skulk node run` installs it"
            yield Finding("engines", Level.OK, message)
        else:
            fix = "set installEngines = true in node.toml, or put an environment there"
            yield Finding("engines", Level.PROBLEM, f"{engine}: no environment in {config.engines_path}", fix)


def _webhook(config: NodeConfig, environment: Mapping[str, str]) -> Iterable[Finding]:
    """Can the webhook secret be read? Nothing to say where none is configured."""
    # Not at the top: only this check needs it, and the program starts faster without.
    from skulk.node.webhook_secret import webhook_secret

    try:
        secret = webhook_secret(config.webhook, dict(environment))
    except SkulkError as error:
        yield Finding("webhook", Level.PROBLEM, error.message, error.fix)
    else:
        if secret is not None:
            yield Finding("webhook", Level.OK, "the secret can be read")


def _planes(config: NodeConfig) -> Iterable[Finding]:
    """Are the files of the planes what they must be, and for how long?"""
    table = config.planes
    if not table.listen:
        yield Finding("planes", Level.OK, "planes.listen is empty: this node is alone")
        return
    tls = config.plane_settings().tls
    if tls is None:
        yield Finding("planes", Level.WARNING if table.allow_plain else Level.OK, *_PLAIN[table.allow_plain])
        return
    from skulk.adapters.certificates import RENEWAL_DAYS, valid_until
    from skulk.adapters.zenoh.certificates import load_key

    try:
        load_key(tls, NodeName(config.name))
        days = int((valid_until(tls.certificate).timestamp() - time.time()) // 86_400)
    except SkulkError as error:
        yield Finding("planes", Level.PROBLEM, f"{error.code.id} {error.message}", error.fix)
        return
    message = f"{tls.certificate} is valid for {days} days"
    if days < RENEWAL_DAYS:
        fix = f"`skulk node sign {config.name}.csr --renew` where the authority is, then copy it here"
        yield Finding("planes", Level.WARNING, message, fix)
    else:
        yield Finding("planes", Level.OK, message)


_PLAIN = {
    True: ("planes without certificates beyond loopback, as planes.allowPlain says", "`skulk node key` makes a key"),
    False: ("planes without certificates, on loopback", ""),
}


def _port(config: NodeConfig) -> Iterable[Finding]:
    """Free, or answered by this node's own daemon."""
    host = "127.0.0.1" if config.listen.host in ("0.0.0.0", "::", "") else config.listen.host
    address = f"{host}:{config.listen.port}"
    shown = f"[{host}]:{config.listen.port}" if ":" in host else address
    with FleetClient(f"http://{shown}") as client:
        try:
            answer = client.get("/fleet/v1/status")
        except RequestError:
            yield Finding("port", Level.OK, f"a daemon answers on {shown} and asks for a key")
        except SkulkError as error:
            if error.code is CLI_UNREACHABLE and _is_free(host, config.listen.port):
                yield Finding("port", Level.OK, f"{shown} is free: no daemon runs")
            else:
                fix = "stop it, or set listen.port in node.toml"
                yield Finding("port", Level.PROBLEM, f"{CFG_PORT_TAKEN.title}: {shown}", fix)
        else:
            if answer.get("node") == config.name:
                yield Finding("port", Level.OK, f"the daemon answers on {shown}")
            else:
                message = f"another node, {values.plain(answer.get('node'))}, answers on {shown}"
                yield Finding("port", Level.PROBLEM, message, "stop it, or set listen.port in node.toml")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


_OF_CONFIG: tuple[Callable[[NodeConfig], Iterable[Finding]], ...] = (
    _state_dir,
    _model_roots,
    _engines,
    _planes,
    _port,
)
