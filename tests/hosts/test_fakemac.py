"""The stand-in for a Mac: Ansible takes it for one, and launchd's rules hold there."""

from __future__ import annotations

import json
import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Host, Hosts

pytestmark = pytest.mark.e2e

LABEL = "dev.skulk.probe"
TARGET = f"system/{LABEL}"
PLIST = f"/Library/LaunchDaemons/{LABEL}.plist"
BREW = "/opt/homebrew/bin/brew"
# Says what it was started with, then waits.
PROBE = "env; ulimit -n; umask; pwd; id -un; uname -s; exec sleep infinity"


def launchctl(mac: Host, *arguments: str) -> tuple[int, str]:
    done = mac.run("launchctl", *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


def install(mac: Host, mode: int = 0o644, **keys: object) -> None:
    """Write the plist of a daemon that is not loaded."""
    launchctl(mac, "bootout", TARGET)
    launchctl(mac, "enable", TARGET)
    job = {"Label": LABEL, "ProgramArguments": ["/bin/sleep", "infinity"], "RunAtLoad": True, **keys}
    mac.write(PLIST, plistlib.dumps(job).decode(), mode)


def pid(mac: Host) -> str:
    """Of the running job, or nothing."""
    lines = launchctl(mac, "print", TARGET)[1].splitlines()
    return next((line.split(" = ")[1] for line in lines if line.startswith("\tpid = ")), "")


def ended(mac: Host, pid: str) -> None:
    """Wait until a process is gone."""
    mac.run("timeout", "20", "tail", f"--pid={pid}", "-f", "/dev/null")


# --- what Ansible sees --------------------------------------------------------------------------------------


def test_ansible_takes_it_for_a_mac(mac: Host, hosts: Hosts, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.json"
    variables = {
        "ansible_host": mac.ip,
        "ansible_user": "ops",
        "ansible_ssh_common_args": " ".join(hosts.ssh_options),
        "ansible_python_interpreter": "/usr/local/fakemac/python3",
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"mac": variables}}}), "utf-8")
    ansible = [str(Path(sys.executable).with_name("ansible")), "mac", "--inventory", str(inventory), "--become"]
    facts = ["--module-name", "ansible.builtin.setup", "--args", "gather_subset=!all,hardware,pkg_mgr,distribution"]
    environment = {
        **os.environ,
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(hosts.state / "cp"),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run([*ansible, *facts], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.partition("=>")[2])["ansible_facts"]
    names = ("system", "architecture", "distribution", "distribution_version", "os_family", "pkg_mgr", "model")
    assert {name: found[f"ansible_{name}"] for name in names} == {
        "system": "Darwin",
        "architecture": "arm64",
        "distribution": "MacOSX",
        "distribution_version": "26.2",
        "os_family": "Darwin",
        "pkg_mgr": "homebrew",
        "model": "Mac16,9",
    }
    assert found["ansible_memtotal_mb"] == 128 * 1024


def test_a_shell_is_told_darwin_and_a_service_the_truth(mac: Host) -> None:
    assert mac.ssh("sh", "-c", "uname -s; uname -m").stdout == "Darwin\narm64\n"
    assert mac.ssh("sudo", "sh", "-c", "uname -s; uname -m").stdout == "Darwin\narm64\n"
    assert mac.ssh("env", "SKULK_REAL=1", "uname").stdout == "Linux\n"
    assert mac.run("systemd-run", "--pipe", "--quiet", "uname").stdout == "Linux\n"
    started = "import os, subprocess; print(os.uname().sysname, flush=True); subprocess.run(['/usr/bin/python3', '-c', "
    started += "'import os; print(os.uname().sysname)'])"
    assert mac.ssh("/usr/local/fakemac/python3", "-c", started).stdout == "Darwin\nLinux\n"


def test_brew_refuses_root_and_installs_for_the_user(mac: Host) -> None:
    assert mac.ssh(BREW, "list", "--versions", "uv", check=False).returncode == 1
    refused = mac.ssh("sudo", BREW, "install", "uv", check=False)
    assert refused.returncode == 1
    assert "as root" in refused.stderr
    mac.ssh(BREW, "install", "uv")
    assert mac.ssh(BREW, "list", "--versions", "uv").stdout.startswith("uv ")
    assert mac.ssh("/opt/homebrew/bin/uv").stdout == "uv 0.0.0\n"


def test_settings_are_shown_and_kept(mac: Host) -> None:
    assert mac.ssh("/usr/sbin/sysctl", "-n", "hw.memsize").stdout == "137438953472\n"
    assert mac.ssh("/usr/sbin/sysctl", "hw.no_such_key", check=False).returncode == 1
    assert mac.ssh("/usr/sbin/sysctl", "iogpu.wired_limit_mb=1", check=False).returncode == 1
    mac.ssh("sudo", "/usr/sbin/sysctl", "iogpu.wired_limit_mb=110000")
    assert mac.ssh("/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb").stdout == "110000\n"
    mac.ssh("sudo", "pmset", "-a", "sleep", "0", "disksleep", "0")
    assert " sleep                0\n" in mac.ssh("pmset", "-g").stdout
    assert mac.ssh("dscl", ".", "-read", "/Users/ops", "NFSHomeDirectory").stdout == "NFSHomeDirectory: /home/ops\n"
    assert mac.ssh("dscl", ".", "-read", "/Users/nobody-here", check=False).returncode == 56


# --- launchd ------------------------------------------------------------------------------------------------


def test_loading_and_unloading_end_as_launchctl_does(mac: Host) -> None:
    install(mac)
    assert launchctl(mac, "print", TARGET)[0] == 113
    assert launchctl(mac, "kickstart", TARGET)[0] == 113
    assert launchctl(mac, "bootout", TARGET)[0] == 3
    assert mac.ssh("launchctl", "bootstrap", "system", PLIST, check=False).returncode == 5, "only root may"
    assert launchctl(mac, "bootstrap", "system", PLIST)[0] == 0
    assert "state = running" in launchctl(mac, "print", TARGET)[1]
    assert launchctl(mac, "bootstrap", "system", PLIST)[0] == 5, "it is loaded"
    first = pid(mac)
    assert launchctl(mac, "bootout", TARGET)[0] == 0
    ended(mac, first)
    assert launchctl(mac, "print", TARGET)[0] == 113


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        (0o664, {}),
        (0o644, {"EnvironmentVariables": {"PORT": 52415}}),
        (0o644, {"ProgramArguments": []}),
        (0o644, {"UserName": "nobody-here"}),
    ],
    ids=["group may write", "a number in the environment", "no program", "no such user"],
)
def test_a_plist_that_launchd_would_not_take_is_refused(mac: Host, mode: int, keys: dict[str, object]) -> None:
    install(mac, mode, **keys)
    assert launchctl(mac, "bootstrap", "system", PLIST)[0] == 5


def test_text_that_is_no_plist_is_refused_and_found_by_plutil(mac: Host) -> None:
    install(mac)
    assert mac.run("plutil", "-lint", PLIST).stdout == f"{PLIST}: OK\n"
    mac.write(PLIST, "<plist><dict><key>a & b</key></dict></plist>")
    assert mac.run("plutil", "-lint", PLIST, check=False).returncode == 1
    assert launchctl(mac, "bootstrap", "system", PLIST)[0] == 5


def test_a_job_gets_what_its_plist_says_and_nothing_else(mac: Host) -> None:
    mac.run("install", "-d", "-o", "ops", "/usr/local/var/log/probe", "/var/probe")
    install(
        mac,
        ProgramArguments=["/bin/sh", "-c", PROBE],
        UserName="ops",
        WorkingDirectory="/var/probe",
        StandardOutPath="/usr/local/var/log/probe/out.log",
        EnvironmentVariables={"SPACES": "a $HOME %n 'b'"},
        SoftResourceLimits={"NumberOfFiles": 4321},
        Umask=0o027,
    )
    mac.run("launchctl", "bootstrap", "system", PLIST)
    mac.run("timeout", "10", "sh", "-c", "until grep -q Linux /usr/local/var/log/probe/out.log; do sleep 0.05; done")
    lines = mac.read("/usr/local/var/log/probe/out.log").splitlines()
    assert lines[-5:] == ["4321", "0027", "/var/probe", "ops", "Linux"]
    environment = dict(line.split("=", 1) for line in lines[:-5])
    assert environment.pop("SPACES") == "a $HOME %n 'b'"
    assert environment["PATH"] == "/usr/bin:/bin:/usr/sbin:/sbin"
    assert environment.keys() <= {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "XPC_SERVICE_NAME", "_"}


def test_a_log_that_the_user_cannot_write_is_a_configuration_error(mac: Host) -> None:
    install(mac, UserName="ops", StandardOutPath="/var/log/not-for-ops.log")
    mac.run("launchctl", "bootstrap", "system", PLIST)
    mac.run("timeout", "10", "sh", "-c", f"until launchctl print {TARGET} | grep -q 'code = 78'; do sleep 0.05; done")


def test_a_job_that_is_to_stay_alive_comes_back(mac: Host) -> None:
    install(mac, KeepAlive=True, ThrottleInterval=1)
    mac.run("launchctl", "bootstrap", "system", PLIST)
    first = pid(mac)
    mac.run("launchctl", "kill", "SIGKILL", TARGET)
    ended(mac, first)
    wait = f"until launchctl print {TARGET} | grep -q 'pid = '; do sleep 0.05; done"
    mac.run("timeout", "10", "sh", "-c", wait)
    second = pid(mac)
    assert second != first
    mac.run("launchctl", "kickstart", TARGET)
    assert pid(mac) == second, "it runs already"
    mac.run("launchctl", "kickstart", "-k", TARGET)
    assert pid(mac) != second


@pytest.mark.parametrize("abandons", [False, True])
def test_children_end_with_the_job_unless_it_abandons_them(mac: Host, abandons: bool) -> None:
    script = "sleep infinity & echo $! > /tmp/child; exec sleep infinity"
    mac.run("rm", "-f", "/tmp/child")
    install(mac, ProgramArguments=["/bin/sh", "-c", script], AbandonProcessGroup=abandons)
    mac.run("launchctl", "bootstrap", "system", PLIST)
    mac.run("timeout", "10", "sh", "-c", "until [ -s /tmp/child ]; do sleep 0.05; done")
    child = mac.read("/tmp/child").strip()
    mac.run("launchctl", "bootout", TARGET)
    alive = mac.run("kill", "-KILL" if abandons else "-0", child, check=False).returncode == 0
    assert alive == abandons


def test_daemons_are_loaded_at_boot_unless_they_are_disabled(mac: Host) -> None:
    install(mac)
    mac.kill()
    mac.boot()
    assert pid(mac) != ""
    mac.run("launchctl", "bootout", TARGET)
    mac.run("launchctl", "disable", TARGET)
    assert f'"{LABEL}" => disabled' in launchctl(mac, "print-disabled", "system")[1]
    assert launchctl(mac, "bootstrap", "system", PLIST)[0] == 5
    mac.kill()
    mac.boot()
    assert launchctl(mac, "print", TARGET)[0] == 113
    assert mac.ssh("/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb").stdout == "0\n"
    mac.run("launchctl", "enable", TARGET)
    assert f'"{LABEL}" => enabled' in launchctl(mac, "print-disabled", "system")[1]
    assert launchctl(mac, "bootstrap", "system", PLIST)[0] == 0
