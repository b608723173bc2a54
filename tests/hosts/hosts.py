"""Throw-away hosts for tests: real systemd as PID 1, real sshd, an address of their own, in about a second.

    with Hosts(cache) as hosts:
        one, two = hosts.start("one"), hosts.start("two", "trixie")
        for host in (one, two):
            host.wait_up()
        one.ssh("sudo", "systemctl", "is-system-running")

A host is a set of namespaces and an overlay over a base root file system (`rootfs.py`) on a bridge of this session
(`claim.py`); `boot.sh` is what happens inside. What is real and what is not: README.md beside this file. Not a security
boundary, and not for more than tests.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from claim import Claim, cgroup_root, hardware_address, kill_group, remove_network, run
from rootfs import base, missing_programs, remove_tree

HERE = Path(__file__).parent
FAKEMAC = HERE / "fakemac"
BOOT_SECONDS = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Where packages come from on this machine, if it says so: a host asks there, too.
_PASSED_ON = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL"),
)


def why_not() -> str:
    """Why no test host can be made here; empty when it can."""
    if os.geteuid() != 0:
        return "test hosts need root"
    if missing := missing_programs():
        return f"test hosts need the packages {', '.join(missing)}"
    unshare = ["unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--fork", "true"]
    if subprocess.run(unshare, capture_output=True, check=False).returncode != 0:
        return "test hosts need namespaces, which this machine does not allow"
    if not (cgroup_root() / "cgroup.procs").exists():
        return f"test hosts need cgroup v2 at {cgroup_root()}"
    return ""


class Host:
    """One host. It is made by `Hosts.start` or `Hosts.up`, and everything of it is gone with `down`."""

    def __init__(self, hosts: Hosts, name: str, number: int, lower: Sequence[Path], routed: bool) -> None:
        self.name = name
        self.ip = f"{hosts.net}.{number}"
        self._hosts = hosts
        self._lower = lower
        self._routed = routed
        self._full = f"{hosts.name}-{name}"
        self._link = f"{hosts.name}v{number}"
        self._base = hosts.state / name
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    # --- power ----------------------------------------------------------------------------------------------

    def boot(self, wait: bool = True) -> None:
        """Switch it on, on the files that it has."""
        assert self._process is None, f"{self.name} runs"
        self._plug_in()
        group = cgroup_root() / self._full
        group.mkdir()
        remove_tree(self._base / "work")
        for directory in ("upper", "work", "root"):
            (self._base / directory).mkdir(parents=True, exist_ok=True)
        first = self._base / "first.tar"
        environment = {
            "PATH": _PATH,
            "NAME": self.name,
            "LOWER": ":".join(str(path) for path in self._lower),
            "UPPER": str(self._base / "upper"),
            "WORK": str(self._base / "work"),
            "ROOT": str(self._base / "root"),
            "FIRST": str(first) if first.exists() else "",
        }
        # In its own cgroup before the cgroup namespace is made, which makes that cgroup the root that systemd sees.
        enter = f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))} && exec " + shlex.join(
            [
                *("nsenter", f"--net=/run/netns/{self._full}"),
                *("unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--cgroup"),
                *("--pid", "--fork", "--kill-child=KILL", str(HERE / "boot.sh")),
            ]
        )
        with (self._base / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", enter],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
                start_new_session=True,
            )
        # From here on whoever ends what is in the cgroup ends the host; before, it would be missed.
        while "populated 1" not in (group / "cgroup.events").read_text() and self._process.poll() is None:
            time.sleep(0.001)
        if wait:
            self.wait_up()

    def wait_up(self) -> None:
        """Wait until sshd answers and systemd has started everything; a failed unit is an error."""
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            assert self._process is not None, f"{self.name} is off"
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"host {self.name} does not come up:\n{self.console()}")
            try:
                socket.create_connection((self.ip, 22), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        self._init = self._find_init()
        (self._base / "first.tar").unlink(missing_ok=True)
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if state != "running":
            failed = self.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", check=False).stdout
            raise RuntimeError(f"host {self.name} is {state}:\n{failed}")

    def kill(self) -> None:
        """Power failure: off the network without a farewell, every process gone; the files stay."""
        if self._process is None:
            return
        self.cut()
        kill_group(self._full)
        self._process.wait()
        self._process, self._init = None, 0
        remove_network(self._full, self._link)

    def down(self) -> None:
        """Remove it with everything it has."""
        self.kill()
        # Also what a boot left that did not come to starting a process.
        kill_group(self._full)
        remove_network(self._full, self._link)
        remove_tree(self._base)
        self._hosts._forget(self)

    def console(self) -> str:
        """The end of what the host said on its console."""
        return (self._base / "console.log").read_text("utf-8", "replace")[-4000:]

    # --- cable ----------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull its network cable."""
        run("ip", "link", "set", self._link, "down")

    def plug(self) -> None:
        run("ip", "link", "set", self._link, "up")

    # --- inside ---------------------------------------------------------------------------------------------

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, past sshd and the network."""
        assert self._init, f"{self.name} is not up"
        enter = ["nsenter", "--target", str(self._init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        environment = [f"PATH={_PATH}", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb", *self._hosts.passed_on]
        return self._finished(
            [*enter, "--root", "--wd=/", "--", "env", "-i", *environment, *command], check, stdin, timeout
        )

    def ssh(
        self, *command: str, check: bool = True, stdin: str | None = None, timeout: float = 120.0, user: str = "ops"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user who logs in from the controller."""
        login = ["ssh", "-F", "none", *self._hosts.ssh_options, f"{user}@{self.ip}"]
        return self._finished([*login, shlex.join(command)], check, stdin, timeout)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file as root, and the directories above it if they are missing."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self.run("sh", "-c", script, "write", path, f"{mode:o}", stdin=text)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def _finished(
        self, command: Sequence[str], check: bool, stdin: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            said = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
            raise AssertionError(f"{self.name}: {shlex.join(command)}: exit {done.returncode}\n{said}")
        return done

    def _find_init(self) -> int:
        """The number that PID 1 of the host has out here: the one child of `unshare`."""
        assert self._process is not None
        for directory in (cgroup_root() / self._full).rglob("cgroup.procs"):
            for pid in directory.read_text().split():
                status = Path(f"/proc/{pid}/stat")
                if status.exists() and status.read_text().rpartition(")")[2].split()[1] == str(self._process.pid):
                    return int(pid)
        raise RuntimeError(f"host {self.name} has no first process:\n{self.console()}")

    def _plug_in(self) -> None:
        run("ip", "netns", "add", self._full)
        address = hardware_address(self._hosts.number, int(self.ip.rpartition(".")[2]))
        peer = ("peer", "name", "eth0", "address", address, "netns", self._full)
        run("ip", "link", "add", self._link, "type", "veth", *peer)
        run("ip", "link", "set", self._link, "master", self._hosts.name, "up")
        inside = ("ip", "-n", self._full)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{self.ip}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        if self._routed:
            run(*inside, "route", "add", "default", "via", self._hosts.address)


class Hosts:
    """The hosts of one session, on a bridge of their own. A context manager: at its end nothing of them is left."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._hosts: dict[str, Host] = {}
        self._made = 0
        self.passed_on = [f"{name}={os.environ[name]}" for name in _PASSED_ON if os.environ.get(name)]
        self._claim = Claim()
        self.number = self._claim.number
        self.name = self._claim.name
        self.net = self._claim.net
        self.address = f"{self.net}.1"
        self.state = self._claim.state
        self.key = self.state / "id"
        self.known_hosts = self.state / "known_hosts"
        try:
            self._new_key(self.key)
            self.known_hosts.touch()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove all hosts, the bridge, NAT and the session's files."""
        # What carries the claim's name is what is removed, so a host that failed halfway is no special case.
        processes = [host._process for host in self._hosts.values() if host._process is not None]
        self._claim.release()
        for process in processes:
            process.wait()
        self._hosts.clear()

    @property
    def ssh_options(self) -> list[str]:
        """What `ssh` and Ansible's `ansible_ssh_common_args` need beside user and address."""
        return [
            *("-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"),
        ]

    def up(
        self,
        name: str,
        suite: str = "bookworm",
        *,
        overlay: Sequence[Path] = (),
        layers: Sequence[Path] = (),
        files: Mapping[str, Path] | None = None,
        packages: Sequence[str] = (),
        routed: bool = True,
    ) -> Host:
        """A new host, running. `overlay`: trees copied over its root; `files`: single files, by their place in it;
        `layers`: directories below its root that it sees without a copy and cannot change, upper ones first;
        `packages`: of the distribution, that its image has. One that is not `routed` reaches the bridge only."""
        host = self.start(name, suite, overlay=overlay, layers=layers, files=files, packages=packages, routed=routed)
        host.wait_up()
        return host

    def start(
        self,
        name: str,
        suite: str = "bookworm",
        *,
        overlay: Sequence[Path] = (),
        layers: Sequence[Path] = (),
        files: Mapping[str, Path] | None = None,
        packages: Sequence[str] = (),
        routed: bool = True,
    ) -> Host:
        """As `up`, without waiting: start several, then call `wait_up` of each."""
        assert name not in self._hosts, f"there is a host {name}"
        self._made += 1
        number = 10 + self._made
        host = Host(self, name, number, [*layers, base(suite, self._cache, packages)], routed)
        self._hosts[name] = host
        host._base.mkdir()
        self._pack(host, overlay, files or {})
        host.boot(wait=False)
        return host

    def up_mac(self, name: str, uv: Path, suite: str = "bookworm", *, layers: Sequence[Path] = ()) -> Host:
        """A host that answers as a Mac; `uv` is the program that `brew install uv` installs there."""
        return self.up(name, suite, overlay=(FAKEMAC,), layers=layers, files={"usr/local/fakemac/uv": uv})

    def _pack(self, host: Host, overlay: Sequence[Path], files: Mapping[str, Path]) -> None:
        """What the host finds on its disk at its first boot, as one archive owned by root."""
        key = host._base / "ssh_host_ed25519_key"
        self._new_key(key)
        public = key.with_suffix(".pub").read_text("utf-8").split()
        with self.known_hosts.open("a", encoding="utf-8") as known:
            known.write(f"{host.ip} {public[0]} {public[1]}\n")
        with tarfile.open(host._base / "first.tar", "w") as archive:
            for tree in overlay:
                for path in sorted(path for path in tree.rglob("*") if "__pycache__" not in path.parts):
                    self._add(archive, path, str(path.relative_to(tree)))
            for place, path in files.items():
                self._add(archive, path, place)
            self._add(archive, key, "etc/ssh/ssh_host_ed25519_key", mode=0o600)
            self._add(archive, key.with_suffix(".pub"), "etc/ssh/ssh_host_ed25519_key.pub")
            for home, owner in (("root", 0), ("home/ops", 1000)):
                directory = tarfile.TarInfo(f"{home}/.ssh")
                directory.type, directory.mode, directory.uid, directory.gid = tarfile.DIRTYPE, 0o700, owner, owner
                archive.addfile(directory)
                self._add(archive, self.key.with_suffix(".pub"), f"{home}/.ssh/authorized_keys", 0o600, owner)
            self._add_text(archive, "etc/hostname", f"{host.name}\n")
            self._add_text(archive, "etc/hosts", f"127.0.0.1 localhost\n{host.ip} {host.name}\n")
            self._add_text(archive, "etc/resolv.conf", _resolv_conf())
            if self.passed_on:
                self._add_text(archive, "etc/environment", "".join(f"{line}\n" for line in self.passed_on))

    def _add(self, archive: tarfile.TarFile, path: Path, name: str, mode: int | None = None, owner: int = 0) -> None:
        info = archive.gettarinfo(path, name)
        info.uid = info.gid = owner
        info.uname = info.gname = ""
        # The modes of a checkout are its umask's; only "can be run" is kept of them.
        info.mode = mode if mode is not None else 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        if info.isfile():
            with path.open("rb") as content:
                archive.addfile(info, content)
        else:
            archive.addfile(info)

    def _add_text(self, archive: tarfile.TarFile, name: str, text: str) -> None:
        file = self.state / "text"
        file.write_text(text, "utf-8")
        self._add(archive, file, name, mode=0o644)

    def _new_key(self, path: Path) -> None:
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path))

    def _forget(self, host: Host) -> None:
        self._hosts.pop(host.name, None)


def _resolv_conf() -> str:
    """This machine's name servers; a resolver on its loopback address cannot be asked from a host."""
    text = Path("/etc/resolv.conf").read_text("utf-8")
    behind = Path("/run/systemd/resolve/resolv.conf")
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    if behind.exists() and any(ipaddress.ip_address(server.split("%")[0]).is_loopback for server in servers):
        return behind.read_text("utf-8")
    return text
