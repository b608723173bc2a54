"""A checkout whose playbooks are its own, the program run on it as a process, and an sshd that belongs to the test."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"
RECORDED = Path(__file__).with_name("recorded")
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
# It ends a hang; nothing is measured.
DEADLINE_SECONDS = 120.0
# Discovery would find whatever this machine has first on PATH.
PYTHON = f"ansible_python_interpreter={sys.executable}"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text("utf-8"))


@dataclass
class Checkout:
    """A fleet of nodes at 127.0.0.1, and `skulk bootstrap` in it."""

    root: Path
    home: Path
    temporary: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def hold(self) -> Path:
        return self.root / "hold"

    @property
    def waiting(self) -> str:
        """A task that goes on until the test is over; what a node is in the middle of outlives a cancelled run."""
        return f"- name: Wait\n  ansible.builtin.shell: while [ -e {self.hold} ]; do sleep 0.2; done\n"

    def declare(self, *names: str) -> None:
        for number, name in enumerate(names, start=1):
            path = self.root / "fleet" / "nodes" / f"{name}.yaml"
            path.write_text(
                HEAD.format(kind="Node", name=name) + f"  ordinal: {number}\n  address: 127.0.0.1:{number}\n"
            )

    def play(self, tasks: str, name: str = "bootstrap", head: str = "") -> None:
        indented = "".join(f"    {line}\n" for line in tasks.strip("\n").splitlines())
        text = f"- name: Play\n  hosts: skulk_nodes\n  gather_facts: false\n{head}  tasks:\n{indented}"
        (self.root / "playbooks" / f"{name}.yml").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "skulk.cli.main", "bootstrap", *arguments, "-e", PYTHON]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_SECONDS,
            start_new_session=True,
        )

    def left_behind(self) -> list[str]:
        """Private directories and processes of runs that are over."""
        processes = [p for p in psutil.process_iter() if any(str(self.temporary) in word for word in _words(p))]
        return [*map(str, self.temporary.iterdir()), *map(str, processes)]

    def local(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.run(*arguments, "-e", "ansible_connection=local", stdin=stdin)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    root, home = tmp_path / "fleet-of-a-test", tmp_path / "home"
    (root / "fleet" / "nodes").mkdir(parents=True)
    (root / "playbooks").mkdir()
    home.mkdir()
    (root / "fleet" / "fleet.yaml").write_text(HEAD.format(kind="Fleet", name="home") + "  namespace: home\n")
    # short, as sockets need it
    with tempfile.TemporaryDirectory(prefix="sk-", dir="/tmp") as temporary:
        unset = ("SKULK_", "ANSIBLE_", "SSH_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
        environment |= {"HOME": str(home), "TMPDIR": temporary, "ANSIBLE_HOME": str(home / ".ansible")}
        made = Checkout(root, home, Path(temporary), environment)
        made.hold.touch()
        try:
            yield made
        finally:
            made.hold.unlink()
        assert made.left_behind() == []


def _words(process: psutil.Process) -> list[str]:
    """The arguments of a process; and its environment, by which those are found that Ansible detached."""
    try:
        return [*process.cmdline(), *process.environ().values()]
    except (psutil.Error, OSError):
        return []


def wait_until(reached: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """For what another process does, and tells nobody."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


# --- sshd ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """An sshd for the current user, on a port of its own; keys in `base`: host, client (allowed), stranger."""

    port: int
    base: Path

    @property
    def host_key(self) -> str:
        return " ".join((self.base / "host.pub").read_text().split()[:2])

    @property
    def other_key(self) -> str:
        return " ".join((self.base / "stranger.pub").read_text().split()[:2])

    def arguments(self, key: str = "client") -> list[str]:
        user = pwd.getpwuid(os.getuid()).pw_name
        variables: Mapping[str, object] = {"ansible_port": self.port, "ansible_user": user}
        extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        # the login of this machine's own user must not depend on an agent or on keys in its home
        return [*extra, "--ssh-key", str(self.base / key), "-e", "ansible_ssh_common_args=-o IdentitiesOnly=yes"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if SSHD is None:
        pytest.skip("the program sshd (package openssh-server) is missing")
    base = tmp_path / "ssh"
    base.mkdir(mode=0o700)
    for name in ("host", "client", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    (base / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {base}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {base}/client.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin yes\nLogLevel ERROR\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root sshd separates privileges
    log = (base / "log").open("wb")
    sshd = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(base / "sshd_config")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )

    def listens() -> bool:
        assert sshd.poll() is None, (base / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, "sshd listening")
        yield Server(port, base)
    finally:
        children = psutil.Process(sshd.pid).children(recursive=True) if sshd.poll() is None else []
        sshd.kill()
        sshd.wait()
        for child in children:
            if child.is_running():
                child.kill()
        log.close()
