"""What a session of test hosts takes from the machine: a number, and with it a bridge, a subnet, NAT and names.

The kernel is shared with other sessions and with everything else on the machine. Each session claims a number N, and
whatever it makes carries the name `skhostsN`; the claim is recorded below /run together with the process that owns it.
A claim whose owner is dead is cleared away by the next session, down to the last cgroup. Nothing else is ever touched.
Forwarding is the one setting that belongs to everybody: the first session switches it on, the last one back.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rootfs import remove_tree

_REGISTRY = Path("/run/skulk-testhosts")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_HYBRID_CGROUPS = Path("/sys/fs/cgroup/unified")
_NUMBERS = range(1, 255)
# Processes that were killed are gone at once but for one that is inside the kernel (a write to a slow disk).
_GONE_SECONDS = 20.0


def run(*command: str, check: bool = True, stdin: str | None = None) -> str:
    """The output of a command on this machine."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def cgroup_root() -> Path:
    """Where the cgroup-v2 tree is: beside the old one on machines that have both."""
    return _HYBRID_CGROUPS if _HYBRID_CGROUPS.is_dir() else Path("/sys/fs/cgroup")


class Claim:
    """A number of our own, until `release`."""

    def __init__(self) -> None:
        with _locked():
            clear_dead()
            _keep_forwarding_setting()
            self.number = _free_number()
            self.name = f"skhosts{self.number}"
            self.net = f"10.77.{self.number}"
            self.state = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
            record: dict[str, object] = {"pid": os.getpid(), "started": _started(os.getpid()), "state": str(self.state)}
            _write_record(self.number, record)
            try:
                self._open()
            except BaseException:
                _clear(self.number)
                _restore_forwarding()
                raise

    def _open(self) -> None:
        # An address of its own: otherwise it borrows one of its ports', and changes it as hosts come and go.
        address = hardware_address(self.number, 1)
        run("ip", "link", "add", self.name, "address", address, "type", "bridge")
        run("ip", "address", "add", f"{self.net}.1/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        rule = f'ip saddr {self.net}.0/24 oifname != "{self.name}" masquerade'
        lines = [f"table ip {self.name} {{", "chain out {", "type nat hook postrouting priority 100;", rule, "}", "}"]
        run("nft", "-f", "-", stdin="\n".join([*lines, ""]))
        if _FORWARD.read_text().strip() != "1":
            _FORWARD.write_text("1\n")

    def release(self) -> None:
        with _locked():
            _clear(self.number)
            _restore_forwarding()


def clear_dead() -> None:
    """Remove what sessions left whose process is gone."""
    for record in _REGISTRY.glob("*.json"):
        claim = json.loads(record.read_text("utf-8"))
        if _started(claim["pid"]) != claim["started"]:
            _clear(int(record.stem))
    _restore_forwarding()


def hardware_address(session: int, number: int) -> str:
    """Of the interface with the address 10.77.session.number. A host keeps it when it boots again, as machines do."""
    return f"02:77:00:00:{session:02x}:{number:02x}"


def kill_group(name: str) -> None:
    """End everything in a host's cgroup at once, and remove the cgroup."""
    group = cgroup_root() / name
    if not group.is_dir():
        return
    deadline = time.monotonic() + _GONE_SECONDS
    (group / "cgroup.kill").write_text("1")
    while "populated 0" not in (group / "cgroup.events").read_text():
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of {group} do not end")
        time.sleep(0.01)
    for directory, _, _ in os.walk(group, topdown=False):
        Path(directory).rmdir()


def remove_network(namespace: str, link: str) -> None:
    """Take a host's network away. The link first, since its name is free at once only when it goes by itself."""
    run("ip", "link", "delete", link, check=False)
    run("ip", "netns", "delete", namespace, check=False)


@contextmanager
def _locked() -> Iterator[None]:
    _REGISTRY.mkdir(mode=0o755, exist_ok=True)
    lock = os.open(_REGISTRY / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks: a number that was given anew is another process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _write_record(number: int, record: dict[str, object]) -> None:
    """Whole or not at all: half a record would stop every session that comes after."""
    new = _REGISTRY / f"{number}.new"
    new.write_text(json.dumps(record), "utf-8")
    new.rename(new.with_suffix(".json"))


def _free_number() -> int:
    """The first number that no other session, link, address or route of this machine uses."""
    listed = (("link", "show"), ("-4", "address", "show"), ("-4", "route", "show", "table", "all"))
    used = "".join(run("ip", "-o", *what) for what in listed)
    for number in _NUMBERS:
        taken = f"10.77.{number}." in used or f" skhosts{number}:" in used
        if not taken and not (_REGISTRY / f"{number}.json").exists():
            return number
    raise RuntimeError("no subnet of 10.77.0.0/16 is free")


def _clear(number: int) -> None:
    """Remove what carries the number. Works on half of it as well, and last forgets the claim."""
    name, record = f"skhosts{number}", _REGISTRY / f"{number}.json"
    for group in cgroup_root().glob(f"{name}-*"):
        kill_group(group.name)
    for line in run("ip", "netns", "list", check=False).splitlines():
        if line.startswith(f"{name}-"):
            run("ip", "netns", "delete", line.split()[0], check=False)
    for link in json.loads(run("ip", "-json", "link", "show", check=False) or "[]"):
        if link.get("ifname", "").startswith(f"{name}v"):
            run("ip", "link", "delete", link["ifname"], check=False)
    run("ip", "link", "delete", name, check=False)
    run("nft", "delete", "table", "ip", name, check=False)
    if record.exists():
        remove_tree(Path(json.loads(record.read_text("utf-8"))["state"]))
        record.unlink()


def _keep_forwarding_setting() -> None:
    kept = _REGISTRY / "ip_forward"
    if not kept.exists():
        kept.write_text(_FORWARD.read_text())


def _restore_forwarding() -> None:
    kept = _REGISTRY / "ip_forward"
    if kept.exists() and not list(_REGISTRY.glob("*.json")):
        if kept.read_text() != _FORWARD.read_text():
            _FORWARD.write_text(kept.read_text())
        kept.unlink()
