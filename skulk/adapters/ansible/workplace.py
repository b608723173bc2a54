"""The private directory of one run: inventory, known hosts, variables, sockets. For its user alone, and removed after.

Whatever may be secret goes through here and nowhere else: not into arguments, which every user of the machine sees.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The path of a socket must fit 104 bytes on macOS; ssh adds some 30 to the directory's.
DIRECTORY_CHARACTERS_MAX = 60


@dataclass(frozen=True, slots=True)
class Workplace:
    root: Path

    @property
    def inventory(self) -> Path:
        return self.root / "inventory"

    @property
    def program(self) -> Path:
        """Runs this very program, whatever is on PATH: for the inventory, and for roles that work on the checkout."""
        return self.root / "skulk"

    @property
    def sockets(self) -> Path:
        """Of the connections that ssh keeps open between tasks."""
        return self.root / "cp"

    @property
    def scratch(self) -> Path:
        return self.root / "tmp"

    def write_program(self) -> None:
        # -P: a directory called skulk in the working directory is not this package
        _script(self.program, f'exec {shlex.quote(sys.executable)} -P -m skulk.cli.main "$@"')

    def write_inventory(self, checkout: Path, host_keys: Mapping[str, str], accept_new: tuple[str, ...]) -> None:
        """The Node manifests by `skulk inventory`, and how ssh is to know each host."""
        self.inventory.mkdir()
        command = f"{shlex.quote(str(self.program))} inventory {shlex.quote(str(checkout))}"
        _script(self.inventory / "fleet", f'exec {command} "$@"')
        # Variables of the user's own: Ansible looks for them beside the inventory.
        for name in ("group_vars", "host_vars"):
            if (own := checkout.resolve() / "playbooks" / "inventory" / name).is_dir():
                (self.inventory / name).symlink_to(own)
        known = self.root / "known_hosts"
        # By an alias instead of host and port, so that an alias or a port of the user's own ssh configuration does not
        # lead around the recorded key.
        known.write_text("".join(f"{alias(name)} {key}\n" for name, key in sorted(host_keys.items())))
        strict = {name: _strict(name, known) for name in host_keys}
        trusting = dict.fromkeys(accept_new, "-o StrictHostKeyChecking=accept-new")
        # The variables for extra arguments, so that ansible_ssh_common_args (jump hosts) stays the user's.
        hosts = {
            name: {f"ansible_{program}_extra_args": options for program in ("ssh", "sftp", "scp")}
            for name, options in sorted((strict | trusting).items())
        }
        (self.inventory / "ssh.json").write_text(json.dumps({"all": {"hosts": hosts}}))

    def write_variables(self, name: str, variables: Mapping[str, object]) -> Path:
        path = self.root / f"{name}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(variables))
        return path


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A new one, for this user alone; gone at the end, however that comes."""
    base = tempfile.gettempdir()
    root = Path(tempfile.mkdtemp(prefix="skulk-", dir=base if len(base) <= DIRECTORY_CHARACTERS_MAX else "/tmp"))
    try:
        place = Workplace(root)
        place.sockets.mkdir()
        place.scratch.mkdir()
        place.write_program()
        yield place
    finally:
        shutil.rmtree(root, ignore_errors=True)


def alias(node: str) -> str:
    """Under which name ssh looks up the recorded key of a node."""
    return f"skulk-node-{node}"


def _strict(node: str, known: Path) -> str:
    options = {
        "HostKeyAlias": alias(node),
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "VerifyHostKeyDNS": "no",
        "UpdateHostKeys": "no",
    }
    return " ".join(f"-o {key}={shlex.quote(value)}" for key, value in options.items())


def _script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o700)
