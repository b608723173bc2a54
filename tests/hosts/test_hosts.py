"""What tests may rely on when they use these hosts, and what the machine may: that it is as it was before."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from claim import cgroup_root, run
from hosts import Host, Hosts
from settings import settings

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent


def left_of(name: str) -> list[str]:
    """Everything on this machine that carries a session's name."""
    return [
        *(group.name for group in cgroup_root().glob(f"{name}-*")),
        *(line for line in run("ip", "netns", "list").splitlines() if line.startswith(f"{name}-")),
        *(line for line in run("ip", "-o", "link").splitlines() if f" {name}:" in line or f" {name}v" in line),
        *(line for line in run("nft", "list", "tables").splitlines() if line.endswith(f" {name}")),
        *(str(path) for path in Path("/run/skulk-testhosts").glob(f"{name.removeprefix('skhosts')}.json")),
    ]


def answers(host: Host, asking: Host, seconds: int = 20) -> bool:
    script = f"exec 3<>/dev/tcp/{host.ip}/22 && read -r banner <&3 && [[ $banner == SSH-2.0* ]]"
    return asking.run("timeout", str(seconds), "bash", "-c", script, check=False).returncode == 0


# --- a host -------------------------------------------------------------------------------------------------


def test_a_host_runs_its_own_systemd_without_a_failed_unit(booted: dict[str, Host]) -> None:
    for host in booted.values():
        assert host.read("/proc/1/comm") == "systemd\n"
        assert host.run("hostname").stdout.strip() == host.name
        assert host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout == ""
        assert host.run("systemctl", "is-system-running").stdout == "running\n"
    assert "bookworm" in booted["one"].read("/etc/os-release")
    assert "trixie" in booted["two"].read("/etc/os-release")


def test_ops_logs_in_and_becomes_root_without_a_password(one: Host) -> None:
    assert one.ssh("id", "-un").stdout == "ops\n"
    assert one.ssh("sudo", "-n", "id", "-un").stdout == "root\n"
    assert one.ssh("echo", "two words", "$HOME").stdout == "two words $HOME\n"


def test_sudo_can_be_taken_from_ops(one: Host) -> None:
    rule = one.read("/etc/sudoers.d/ops")
    one.run("rm", "/etc/sudoers.d/ops")
    try:
        assert one.ssh("sudo", "-n", "true", check=False).returncode != 0
    finally:
        one.write("/etc/sudoers.d/ops", rule, 0o440)
    assert one.ssh("sudo", "-n", "true").returncode == 0


def test_a_service_can_be_installed_sandboxed_and_supervised(one: Host) -> None:
    unit = "[Service]\nType=exec\nDynamicUser=yes\nProtectSystem=strict\nPrivateTmp=yes\nRestart=always\nRestartSec=0\n"
    one.write("/etc/systemd/system/probe.service", f"{unit}ExecStart=/usr/bin/sleep infinity\n")
    one.run("systemctl", "start", "probe")
    (first,) = one.run("systemctl", "show", "-P", "MainPID", "probe").stdout.split()
    one.run("bash", "-c", f"kill -KILL {first}; while [ -e /proc/{first} ]; do :; done; systemctl start probe")
    (second,) = one.run("systemctl", "show", "-P", "MainPID", "probe").stdout.split()
    one.run("systemctl", "stop", "probe")
    assert second not in ("0", first)


def test_a_layer_is_seen_without_a_copy_and_not_changed(one: Host, two: Host, layer: Path) -> None:
    assert one.read("/srv/wheel") == "from the layer\n"
    one.write("/srv/wheel", "changed in the host\n")
    assert (layer / "srv" / "wheel").read_text("utf-8") == "from the layer\n"
    assert two.run("test", "-e", "/srv/wheel", check=False).returncode == 1


def test_package_lists_look_old_so_that_they_are_fetched_when_asked(one: Host) -> None:
    assert one.run("find", "/var/lib/apt/lists", "-maxdepth", "0", "-mtime", "+365").stdout == "/var/lib/apt/lists\n"
    assert one.run("find", "/var/lib/apt/periodic", "-name", "update-success-stamp", check=False).stdout == ""


# --- cable and power ----------------------------------------------------------------------------------------


def test_hosts_see_each_other_until_the_cable_is_cut(one: Host, two: Host) -> None:
    assert answers(two, one)
    assert answers(one, two)
    two.cut()
    assert not answers(two, one, seconds=1)
    assert not answers(one, two, seconds=1)
    two.plug()
    assert answers(two, one)


def test_files_survive_a_power_failure_and_processes_do_not(two: Host) -> None:
    two.write("/etc/survives/secret", "kept\n", 0o600)
    two.write("/run/lost", "gone\n")
    identity = two.read("/etc/machine-id")
    started = two.run("systemctl", "show", "-P", "UserspaceTimestampMonotonic").stdout
    two.kill()
    two.boot()
    assert two.read("/etc/survives/secret") == "kept\n"
    assert two.run("stat", "-c", "%a %U", "/etc/survives/secret").stdout == "600 root\n"
    assert two.run("test", "-e", "/run/lost", check=False).returncode == 1
    assert two.run("systemctl", "show", "-P", "UserspaceTimestampMonotonic").stdout != started
    assert two.read("/etc/machine-id") == identity
    assert two.ssh("true").returncode == 0


# --- the machine --------------------------------------------------------------------------------------------


def test_no_setting_of_the_machine_is_changed_by_booting(
    booted: dict[str, Host], kernel_settings: dict[str, str]
) -> None:
    now = settings()
    assert {name: (value, now.get(name)) for name, value in kernel_settings.items() if now.get(name) != value} == {}


def test_a_host_cannot_change_the_kernel_but_its_own_network(one: Host) -> None:
    assert one.run("sh", "-c", "echo 1 > /proc/sys/vm/overcommit_memory", check=False).returncode != 0
    one.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert one.read("/proc/sys/net/ipv4/ip_forward") == "1\n"


def test_a_second_session_has_its_own_subnet_and_takes_nothing_from_the_first(
    hosts: Hosts, one: Host, testhosts_dir: Path
) -> None:
    with Hosts(testhosts_dir) as other:
        assert other.net != hosts.net
        assert other.up("one").ip != one.ip
    assert left_of(other.name) == []
    assert not other.state.exists()
    assert one.ssh("true").returncode == 0
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_a_session_is_broken_off(testhosts_dir: Path, error: type[BaseException]) -> None:
    broken = Hosts(testhosts_dir)

    def session() -> None:
        with broken:
            broken.start("half")
            raise error

    with pytest.raises(error):
        session()
    assert left_of(broken.name) == []
    assert not broken.state.exists()


def test_what_a_killed_session_left_is_removed_by_the_next_one(one: Host, testhosts_dir: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from pathlib import Path; from hosts import Hosts; import signal\n"
        f"hosts = Hosts(Path({str(testhosts_dir)!r})); hosts.up('left')\n"
        "print(hosts.name, hosts.state, flush=True); signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        name, state = session.stdout.readline().split()
        session.send_signal(signal.SIGKILL)
    assert len(left_of(name)) >= 5
    with Hosts(testhosts_dir):
        assert not Path(state).exists()
    assert left_of(name) == []
    assert one.ssh("true").returncode == 0


def test_a_host_that_does_not_boot_says_what_its_console_said(hosts: Hosts, tmp_path: Path) -> None:
    broken = tmp_path / "usr" / "lib" / "systemd"
    broken.mkdir(parents=True)
    (broken / "systemd").write_text("#!/bin/sh\necho no such luck\n", "utf-8")
    (broken / "systemd").chmod(0o755)
    with pytest.raises(RuntimeError, match="no such luck"):
        hosts.up("broken", overlay=[tmp_path])
