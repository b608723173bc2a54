"""The probe itself, by the shells that are here, on directories of the test and with stand-ins for a Mac's tools."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from skulk.core.preflight import Probe, read_probe

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "playbooks/roles/skulk_preflight/files/probe.sh"
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]
EVERYBODY = 'case "$1" in -u) echo 1000;; -un) echo ops;; -gn) echo staff;; esac'
SUPERUSER = 'case "$1" in -u) echo 0;; -un) echo root;; -gn) echo wheel;; esac'


@dataclass
class Machine:
    """`programs`: stand-ins that come first on PATH, name → what the shell script says."""

    base: Path
    # Interpreters take long to start, and one test looks at them.
    programs: dict[str, str] = field(
        default_factory=lambda: {"id": EVERYBODY, **{f"python3{n}": "exit 1" for n in ("", ".14", ".13", ".12", ".11")}}
    )
    ports: tuple[int, ...] = ()

    @property
    def program_dir(self) -> Path:
        return self.base / "opt" / "skulk"

    @property
    def config_dir(self) -> Path:
        return self.base / "etc with a space"

    @property
    def state_dir(self) -> Path:
        return self.base / "state with a space"

    def text(self, shell: str = "sh", **settings: str) -> str:
        stands_in = self.base / "bin"
        shutil.rmtree(stands_in, ignore_errors=True)
        stands_in.mkdir()
        for name, script in self.programs.items():
            (stands_in / name).write_text(f"#!/bin/sh\n{script}\n")
            (stands_in / name).chmod(0o755)
        known = {
            "ports": " ".join(map(str, self.ports)),
            "program_dir": str(self.program_dir),
            "config_dir": str(self.config_dir),
            "state_dir": str(self.state_dir),
            **settings,
        }
        before = "".join(f"{name}={shlex.quote(value)}\n" for name, value in known.items())
        # As Ansible brings it: as one argument, by a login without a terminal.
        done = subprocess.run(
            [shell, "-c", before + PROBE.read_text()],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": f"{stands_in}:{os.environ['PATH']}", "HOME": str(self.base), "LC_ALL": "C"},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert all(re.match(r"[a-z_]+=", line) for line in done.stdout.splitlines())
        return done.stdout

    def look(self, shell: str = "sh", **settings: str) -> Probe:
        return read_probe(self.text(shell, **settings))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def calling_port(port: int) -> Iterator[int]:
    """Of a connection: nobody listens on it."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        yield client.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="this is no Linux")
@pytest.mark.parametrize("shell", SHELLS)
def test_this_machine_is_described(machine: Machine, shell: str, port: int, calling_port: int) -> None:
    machine.ports = (calling_port, port)
    probe = machine.look(shell)
    assert (probe.os, probe.machine, probe.bits) == ("linux", os.uname().machine, 64)
    assert abs(probe.epoch - time.time()) < 60
    assert (probe.user, probe.group, probe.privileged) == ("ops", "staff", False)
    assert probe.listening == {port}
    assert probe.distribution
    assert probe.libc in ("glibc", "musl")
    assert probe.git == (shutil.which("git") is not None)
    assert (probe.program_dir, probe.state_dir) == (str(machine.program_dir), str(machine.state_dir))
    # Neither directory is there yet: it is the disk below that counts.
    assert set(probe.free_bytes) == {str(machine.program_dir), str(machine.state_dir)}
    assert all(free > 0 for free in probe.free_bytes.values())
    assert not machine.program_dir.exists()
    assert (probe.node_name, probe.certificate, probe.releases, probe.current) == ("", "", (), "")


@pytest.mark.skipif(sys.platform != "linux", reason="this is no Linux")
def test_a_port_counts_on_ipv6_too(machine: Machine) -> None:
    try:
        with socket.socket(socket.AF_INET6) as server:
            server.bind(("::1", 0))
            server.listen()
            machine.ports = (server.getsockname()[1],)
            assert machine.look().listening == set(machine.ports)
    except OSError:
        pytest.skip("there is no IPv6 here")


def test_directories_that_nobody_set_are_those_of_the_system(machine: Machine) -> None:
    assert machine.look(config_dir="", state_dir="").state_dir == "/var/lib/skulk"
    machine.programs["uname"] = 'case "$1" in -s) echo Darwin;; -m) echo arm64;; esac'
    assert machine.look(config_dir="", state_dir="").state_dir == "/Library/Application Support/Skulk/state"


def test_every_python_is_named_with_its_version(machine: Machine) -> None:
    # They are asked in Python, and answer what such an interpreter would.
    machine.programs["python3"] = "echo 3.9.2 /usr/bin/python3"
    machine.programs["python3.14"] = "echo 'xcode-select: no tools' >&2; exit 1"
    machine.programs["python3.13"] = "echo 3.13.1 '/with a space/python3.13'"
    found = {python.path: python.version for python in machine.look().pythons}
    assert next(iter(found)) == "/usr/bin/python3"
    assert found["/usr/bin/python3"] == (3, 9, 2)
    assert found["/with a space/python3.13"] == (3, 13, 1)
    assert not any(version[:2] == (3, 14) for version in found.values())
    machine.programs["python3"] = f'exec {shlex.quote(sys.executable)} "$@"'
    assert machine.look().pythons[0].version == sys.version_info[:3]


def left_by_an_earlier_run(machine: Machine) -> None:
    machine.config_dir.mkdir()
    (machine.config_dir / "node.toml").write_text('# written\nname = "box"\nnamespace = "home"\n[log]\nname = "no"\n')
    planes = machine.state_dir / "planes"
    planes.mkdir(parents=True)
    for name, text in {"ca.pem": "authority", "box.pem": "A\nB\n", "box.csr": "C\nD\n", "box.key": "secret"}.items():
        (planes / name).write_text(text)
    for release, whole in {"0.1.0-aaaaaaaaaaaa": True, "0.2.0-bbbbbbbbbbbb": True, "0.3.0-cccccccccccc": False}.items():
        directory = machine.program_dir / "releases" / release
        directory.mkdir(parents=True)
        if whole:
            (directory / "release.json").touch()
    (machine.program_dir / "current").symlink_to(machine.program_dir / "releases" / "0.2.0-bbbbbbbbbbbb")
    (machine.program_dir / "previous").symlink_to("releases/0.1.0-aaaaaaaaaaaa")
    uv = machine.program_dir / "uv" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\necho 'uv 0.13.9 (abc 2026-01-01)'\n")
    uv.chmod(0o755)


@pytest.mark.parametrize("shell", SHELLS)
def test_root_sees_what_an_earlier_run_left_and_nothing_secret(machine: Machine, shell: str) -> None:
    left_by_an_earlier_run(machine)
    hidden = machine.look(shell)
    assert (hidden.node_name, hidden.releases) == ("", ())
    machine.programs["id"] = SUPERUSER
    probe = machine.look(shell)
    assert (probe.privileged, probe.user) == (True, "root")
    assert probe.node_name == "box"
    assert (probe.certificate, probe.request) == ("A\nB\n", "C\nD\n")
    assert probe.releases == ("0.1.0-aaaaaaaaaaaa", "0.2.0-bbbbbbbbbbbb")
    assert probe.unfinished == ("0.3.0-cccccccccccc",)
    assert (probe.current, probe.previous) == ("0.2.0-bbbbbbbbbbbb", "0.1.0-aaaaaaaaaaaa")
    assert probe.uv == "0.13.9"
    assert "secret" not in machine.text(shell)


def test_root_on_a_bare_machine_finds_nothing_and_stumbles_over_nothing(machine: Machine) -> None:
    machine.programs["id"] = SUPERUSER
    probe = machine.look()
    assert probe.privileged
    assert (probe.node_name, probe.certificate, probe.request, probe.uv) == ("", "", "", "")
    assert (probe.releases, probe.unfinished, probe.current, probe.previous) == ((), (), "", "")


def test_musl_and_a_32_bit_system_are_noticed(machine: Machine) -> None:
    machine.programs |= {
        "getconf": '[ "$1" = LONG_BIT ] && echo 32 || exit 1',
        "ldd": "echo 'musl libc (x86_64)' >&2; exit 1",
    }
    probe = machine.look()
    assert (probe.libc, probe.libc_version, probe.bits) == ("musl", (), 32)


@pytest.fixture
def mac(machine: Machine) -> Machine:
    machine.programs |= {
        "uname": 'case "$1" in -s) echo Darwin;; -m) echo arm64;; esac',
        "sw_vers": '[ "$1" = -productVersion ] && echo 15.1',
        "date": '[ "$1" = +%s ] && echo 1800000000',
        "launchctl": "exit 113",
        "netstat": "cat <<'END'\nActive Internet connections (including servers)\n"
        "Proto Recv-Q Send-Q  Local Address          Foreign Address        (state)\n"
        "tcp4       0      0  *.52415                *.*                    LISTEN\n"
        "tcp6       0      0  fe80::1%lo0.7000       *.*                    LISTEN\n"
        "tcp4       0      0  10.0.0.1.52416         10.0.0.2.52417         ESTABLISHED\nEND",
        "git": "echo 'xcode-select: error: no developer tools' >&2; exit 1",
    }
    return machine


@pytest.mark.parametrize("shell", SHELLS)
def test_a_mac_is_described(mac: Machine, shell: str) -> None:
    mac.ports = (52415, 2415, 52416, 52417, 7000)
    probe = mac.look(shell)
    assert (probe.os, probe.machine, probe.distribution, probe.epoch) == ("macos", "arm64", "15.1", 1_800_000_000)
    assert (probe.systemd, probe.libc, probe.family, probe.dpkg) == (None, "", "", "")
    assert probe.listening == {52415, 7000}
    assert not probe.git
    assert probe.service == "absent"
    mac.programs["launchctl"] = '[ "$*" = "print system/dev.skulk.node" ]'
    assert mac.look(shell).service == "active"


def test_on_a_mac_without_developer_tools_nothing_is_run_that_would_ask_for_them(
    mac: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
    del mac.programs["git"]
    mac.programs["xcode-select"] = "exit 0"
    assert mac.look().git, "the test's own git is not in /usr/bin"
    mac.programs["xcode-select"] = "echo 'xcode-select: error: unable to get active developer directory' >&2; exit 2"
    probe = mac.look()
    assert not probe.git
    assert [python.path for python in probe.pythons if python.path.startswith("/usr/bin/")] == []


def test_it_leaves_nothing_behind(machine: Machine) -> None:
    left_by_an_earlier_run(machine)
    machine.programs["id"] = SUPERUSER
    machine.text()
    before = sorted((path, path.lstat().st_mtime_ns) for path in machine.base.rglob("*") if "bin" not in path.parts)
    machine.text()
    assert before == sorted(
        (path, path.lstat().st_mtime_ns) for path in machine.base.rglob("*") if "bin" not in path.parts
    )
