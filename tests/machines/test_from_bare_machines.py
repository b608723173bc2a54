"""From three bare machines to a fleet, through its life, and back: over real SSH, with real systemd.

One story, because each chapter begins with what the one before it left: a Debian 12 host, a Debian 13 host, and a host
that answers as a Mac. What is real and what a stand-in: tests/hosts/README.md.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import FAKEMAC, Host, Hosts
from load import Load
from operator_machine import API_KEY, NEXT_VERSION, ROOT, Operator, deployment, fleet_files, models_layer, until

LINUX_12, LINUX_13, MAC = "linux-12", "linux-13", "mac"
MAC_DIR = "/Library/Application Support/Skulk"
MODELS = {LINUX_12: "var/lib/skulk/models", MAC: f"{MAC_DIR.lstrip('/')}/models"}
CARDS = {LINUX_12: "fox-tiny-gguf", MAC: "fox-tiny"}
QUESTION, ANSWER = "What is 9 * 7?", "9 * 7 = 63"
# The unit's own minute would be most of this test.
WATCHDOG = "[Service]\nWatchdogSec=5\n"


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_bare_machines_become_a_fleet_and_bare_machines_again(
    machines: Hosts,
    engines_dir: Path,
    llama_engines_dir: Path,
    next_wheel: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    began = time.monotonic()

    def chapter(text: str) -> None:
        with capsys.disabled():
            print(f"\n  [{time.monotonic() - began:4.0f} s] {text}", end="", flush=True)

    uv = shutil.which("uv")
    assert uv is not None, "uv is not on PATH"
    started = {
        LINUX_12: machines.start(
            LINUX_12, "bookworm", layers=[models_layer(tmp_path / "models-12", MODELS[LINUX_12], CARDS[LINUX_12])]
        ),
        LINUX_13: machines.start(LINUX_13, "trixie"),
        MAC: machines.start(
            MAC,
            "bookworm",
            overlay=[FAKEMAC],
            layers=[models_layer(tmp_path / "models-mac", MODELS[MAC], CARDS[MAC])],
            files={"usr/local/fakemac/uv": Path(uv)},
        ),
    }
    for host in started.values():
        host.wait_up()
    with Operator(tmp_path / "operator", machines, llama_engines_dir / "wheels") as operator:
        story = Story(operator, started)
        chapter("three bare machines; one dies while it is set up")
        story.first_run_loses_a_machine()
        chapter("the next run completes it, and changes nothing elsewhere")
        story.next_run_completes_it()
        chapter("a push makes models answer, through every gateway")
        story.models_answer()
        chapter("runners outlive the daemon")
        story.runners_outlive_the_daemon()
        chapter("drift is shown, healed, and gone")
        story.drift_is_shown_and_healed()
        chapter("the next version, under load")
        story.upgrade_loses_no_request(next_wheel)
        chapter("nothing but models is left")
        story.uninstalled()
        chapter("done\n")


class Story:
    """The chapters. Each leaves the machines as the next one expects them."""

    def __init__(self, operator: Operator, hosts: dict[str, Host]) -> None:
        self.operator = operator
        self.hosts = hosts

    def first_run_loses_a_machine(self) -> None:
        platforms = {
            LINUX_12: ("{os: linux, arch: x86_64}", "llama_cpp-cpu"),
            LINUX_13: ("{os: linux, arch: x86_64}", "mlx-cpu"),
            MAC: ("{os: macos, arch: arm64}", "mlx-cpu"),
        }
        self.operator.write(
            fleet_files({name: (self.hosts[name].ip, *platforms[name]) for name in self.hosts})
            | {
                # Ansible's own interpreter there is what makes its modules see a Mac.
                f"playbooks/inventory/host_vars/{MAC}.yml": "ansible_python_interpreter: /usr/local/fakemac/python3\n",
                # 13 takes no model: it answers for the others.
                **{
                    f"cards/{card}/card.yaml": (ROOT / f"cards/{card}/card.yaml").read_text() for card in CARDS.values()
                },
            }
        )
        self.operator.push("Declare three machines")
        with self.operator.running("--new-ca") as run:
            run.until_said(f"{LINUX_13}  skulk_release : Make its environment")
            self.hosts[LINUX_13].kill()
            done = run.outcome()
        assert done.nodes[LINUX_13]["status"] == "unreachable", done.nodes[LINUX_13]
        assert {done.nodes[name]["status"] for name in (LINUX_12, MAC)} == {"changed"}, done.nodes
        assert done.exit_code == 4, done.said
        assert done.changed_manifests == [f"fleet/nodes/{LINUX_12}.yaml", f"fleet/nodes/{MAC}.yaml"]
        self.operator.push("Enrol two machines")

    def next_run_completes_it(self) -> None:
        self.hosts[LINUX_13].boot()
        done = self.operator.bootstrap()
        assert (done.exit_code, list(done.changed())) == (0, [LINUX_13]), done
        assert done.changed_manifests == [f"fleet/nodes/{LINUX_13}.yaml"]
        self.operator.push("Enrol the third")
        # A second run changes nothing: told of two machines by this one, of all by the check of the drift.

    def models_answer(self) -> None:
        for host in self.hosts.values():
            until(lambda ip=host.ip: self.operator.settled(ip), f"{host.name} is in its place")
        for host in self.hosts.values():
            until(lambda ip=host.ip: self._live_nodes(ip) == 3, f"{host.name} sees all three")
        for host in self.hosts.values():
            # Certificates on all planes: nobody says that they are plain.
            nodes = self.operator.get(host.ip, "/fleet/v1/nodes")["items"]
            assert all("PlainPlanes" not in str(node) for node in nodes), nodes
        self.operator.write(
            {
                f"fleet/deployments/{name}.yaml": deployment(name, CARDS[node], node)
                for name, node in (("gguf", LINUX_12), ("mlx", MAC))
            }
        )
        self.operator.push("Deploy two models")
        for host in self.hosts.values():
            for model in ("gguf", "mlx"):
                until(lambda ip=host.ip, m=model: self.operator.serves(ip, m), f"{model} answers through {host.name}")
                assert self.operator.ask(host.ip, model, QUESTION) == ANSWER

    def _live_nodes(self, ip: str) -> int:
        (fleet,) = self.operator.get(ip, "/fleet/v1/fleet")["items"]
        return int(fleet["status"]["liveNodes"])

    # --- the daemon dies --------------------------------------------------------------------------------------

    def runners_outlive_the_daemon(self) -> None:
        linux, mac = self.hosts[LINUX_12], self.hosts[MAC]
        linux.write("/run/systemd/system/skulk-node.service.d/watchdog.conf", WATCHDOG)
        linux.run("systemctl", "daemon-reload")
        before = runners(linux)
        assert len(before) == 1

        def exchanged(deed: Callable[[str], object]) -> None:
            old = main_pid(linux)
            deed(old)
            until(lambda: main_pid(linux) not in ("0", old) and self.operator.settled(linux.ip), "the next daemon")
            assert runners(linux) == before
            assert self.operator.ask(self.hosts[LINUX_13].ip, "gguf", QUESTION) == ANSWER

        exchanged(lambda _pid: linux.run("systemctl", "restart", "skulk-node"))
        exchanged(lambda pid: linux.run("kill", "-KILL", pid))
        # Stopped in the middle of everything: only the watchdog can see that.
        exchanged(lambda pid: linux.run("kill", "-STOP", pid))
        assert linux.run("systemctl", "show", "--property=NRestarts", "--value", "skulk-node").stdout.strip() == "2"
        linux.run("rm", "-r", "/run/systemd/system/skulk-node.service.d")
        linux.run("systemctl", "daemon-reload")

        there = runners(mac)
        assert len(there) == 1
        mac.run("kill", "-KILL", daemon_pid(mac))
        until(lambda: self.operator.settled(mac.ip), "launchd starts the next daemon")
        assert runners(mac) == there
        assert self.operator.ask(linux.ip, "mlx", QUESTION) == ANSWER

    # --- drift ------------------------------------------------------------------------------------------------

    def drift_is_shown_and_healed(self) -> None:
        self.hosts[LINUX_12].run("systemctl", "stop", "skulk-node")
        thirteen = self.hosts[LINUX_13]
        thirteen.run("sed", "-i", "s/^Restart=on-failure/Restart=no/", "/etc/systemd/system/skulk-node.service")
        thirteen.run("dpkg", "--remove", "--force-depends", "libgomp1")
        self.hosts[MAC].run("launchctl", "bootout", "system/dev.skulk.node")
        shown = self.operator.bootstrap("--check")
        drift = {
            LINUX_12: ["skulk_service : Run the service, now and at every boot"],
            LINUX_13: [
                "skulk_base : See which packages are missing",
                "skulk_service : Write the unit",
                "skulk_service : Restart the systemd service",
            ],
            MAC: ["skulk_service : Say in a check that it would be loaded"],
        }
        assert (shown.exit_code, shown.changed()) == (1, drift), shown
        assert self.hosts[LINUX_12].run("systemctl", "is-active", "skulk-node", check=False).stdout.strip() != "active"
        healed = self.operator.bootstrap()
        drift[LINUX_13][0] = "skulk_base : Install the system's packages"
        drift[MAC] = ["skulk_service : Load it"]
        assert (healed.exit_code, healed.changed()) == (0, drift), healed
        again = self.operator.bootstrap()
        assert (again.exit_code, again.changed()) == (0, {}), again
        for host in self.hosts.values():
            until(lambda ip=host.ip: self.operator.settled(ip), f"{host.name} is in its place again")

    # --- the next version -------------------------------------------------------------------------------------

    def upgrade_loses_no_request(self, wheel: Path) -> None:
        fleet = self.operator.checkout / "fleet/fleet.yaml"
        fleet.write_text(fleet.read_text().replace("spec:\n", f"spec:\n  version: {NEXT_VERSION}\n"))
        self.operator.push("The next version")
        kept = {name: runners(self.hosts[name]) for name in (LINUX_12, MAC)}
        urls = [f"http://{host.ip}:52415" for host in self.hosts.values()]
        with Load(urls, ("gguf", "mlx"), API_KEY) as load:
            done = self.operator.bootstrap("--playbook", "upgrade", "--wheel", str(wheel))
        assert done.exit_code == 0, done
        assert load.lost == []
        assert load.answered >= 20, load
        for host in self.hosts.values():
            status = self.operator.get(host.ip, "/fleet/v1/status")
            assert status["version"] == NEXT_VERSION
            assert host.run("readlink", "/opt/skulk/previous").stdout.strip().startswith("/opt/skulk/releases/0.1.0-")
        assert {name: runners(self.hosts[name]) for name in kept} == kept, "no model was loaded anew"

    # --- the end ----------------------------------------------------------------------------------------------

    def uninstalled(self) -> None:
        done = self.operator.bootstrap("--playbook", "uninstall", *self.hosts)
        assert done.exit_code == 0, done
        for name, host in self.hosts.items():
            assert processes(host) == [], name
            found = host.run("find", "/", "-xdev", "-iname", "*skulk*", "-not", "-path", "/proc/*").stdout.splitlines()
            mine = {f"/{MODELS[name]}".removesuffix("/models")} if name in MODELS else set()
            assert {path for path in found if not path.startswith(("/usr/local/fakemac", "/tmp/"))} == mine, name
            if name in MODELS:
                kept = host.run("find", f"/{MODELS[name]}", "-type", "f").stdout.splitlines()
                assert len(kept) == len([p for p in (ROOT / "cards" / CARDS[name] / "files").rglob("*") if p.is_file()])
            users = host.read("/etc/passwd")
            assert "skulk" not in users


def processes(host: Host) -> list[str]:
    """`PID command` of everything that runs from /opt/skulk or an engine environment of it."""
    listed = host.run("ps", "-eo", "pid=,args=").stdout.splitlines()
    return [line.strip() for line in listed if "/opt/skulk/" in line or "/engines/" in line]


def runners(host: Host) -> list[str]:
    return sorted(line.split()[0] for line in processes(host) if "/engines/" in line)


def daemon_pid(host: Host) -> str:
    (line,) = [line for line in processes(host) if "node run" in line]
    return line.split()[0]


def main_pid(host: Host) -> str:
    return host.run("systemctl", "show", "--property=MainPID", "--value", "skulk-node").stdout.strip()
