"""A machine that reaches no package index: set up from a wheelhouse, verified, and updated by itself at a boot.

It has no default route from its first boot on, only the operator's machine beside it. What such a machine needs of its
distribution is in its image.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hosts import Host, Hosts
from operator_machine import NEXT_VERSION, ROOT, Operator, Outcome, deployment, fleet_files, models_layer, until

from tests.conftest import kept_packages

NODE, CARD = "vault", "fox-tiny"
PYTHON = "3.13"  # of Debian 13
ENGINE = "mlx"
TARGET = ("--python", PYTHON, "--platform", "linux/x86_64", "--engines", ENGINE)
SYSTEM_PACKAGES = yaml.safe_load((ROOT / "playbooks/roles/skulk_base/defaults/main.yml").read_text())[
    "skulk_base_packages"
]["debian"]
CARRIED = "/opt/skulk/wheelhouse"
QUESTION, ANSWER = "What is 9 * 7?", "9 * 7 = 63"
# Fifty packages are installed before the node starts.
UPDATE_SECONDS_MAX = 300.0
# 192.0.2.1 is nobody's: whoever has a way out gets no further than a timeout, who has none is told at once.
TRY_WAYS_OUT = """
import socket, sys
for host in sys.argv[1:]:
    try:
        socket.create_connection((host, 443), timeout=5).close()
        print(host, "reached")
    except OSError as error:
        print(host, error.strerror or error)
"""


def is_cut_off(host: Host) -> None:
    assert host.run("ip", "route", "show", "default").stdout == ""
    index, nobody = host.run("python3", "-c", TRY_WAYS_OUT, "pypi.org", "192.0.2.1").stdout.splitlines()
    assert "name resolution" in index, index
    assert nobody == "192.0.2.1 Network is unreachable"


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_a_machine_without_an_index_is_set_up_verified_and_updates_itself(
    machines: Hosts, next_wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()

    def chapter(text: str) -> None:
        with capsys.disabled():
            print(f"\n  [{time.monotonic() - began:4.0f} s] {text}", end="", flush=True)

    layer = models_layer(tmp_path / "models", "var/lib/skulk/models", CARD)
    host = machines.up(NODE, "trixie", layers=[layer], packages=SYSTEM_PACKAGES, routed=False)
    is_cut_off(host)
    with Operator(tmp_path / "operator", machines) as operator:
        story = Story(operator, host, tmp_path / "wheels")
        chapter("a wheelhouse is filled")
        story.wheelhouse_is_filled()
        chapter("a machine without an index becomes a node, engine included")
        story.becomes_a_node()
        chapter("a second run changes nothing")
        story.second_run_changes_nothing()
        chapter("a push makes a model answer")
        story.model_answers()
        chapter("verify: all is well, then what is wrong")
        story.verify_tells()
        chapter("the next version is carried there, and the update defined")
        story.next_version_is_carried(next_wheel)
        chapter("a push, and a boot into the next version")
        story.boots_into_the_next_version()
        chapter("done\n")


class Story:
    """The chapters. Each leaves the machine as the next one expects it."""

    def __init__(self, operator: Operator, host: Host, wheels: Path) -> None:
        self.operator = operator
        self.host = host
        self.wheels = wheels

    def wheelhouse_is_filled(self) -> None:
        with kept_packages(self.wheels, PYTHON, [ENGINE]):
            said = self.operator.skulk("node", "wheelhouse", str(self.wheels), *TARGET)
        assert "must be compiled" not in said

    def bootstrap(self, *arguments: str) -> Outcome:
        return self.operator.bootstrap("--wheelhouse", str(self.wheels), *arguments)

    def becomes_a_node(self) -> None:
        card = f"cards/{CARD}/card.yaml"
        node = (self.host.ip, "{os: linux, arch: x86_64}", f"{ENGINE}-cpu")
        self.operator.write(fleet_files({NODE: node}) | {card: (ROOT / card).read_text()})
        self.operator.push("Declare a machine")
        done = self.bootstrap("--new-ca")
        assert (done.exit_code, done.nodes[NODE]["status"]) == (0, "changed"), done
        assert "skulk_engines : Install engines" in done.changed()[NODE]
        assert done.changed_manifests == [f"fleet/nodes/{NODE}.yaml"]
        self.operator.push("Enrol it")

    def second_run_changes_nothing(self) -> None:
        again = self.bootstrap()
        assert (again.exit_code, again.changed()) == (0, {}), again

    def model_answers(self) -> None:
        until(lambda: self.operator.settled(self.host.ip), "the node is in its place")
        self.operator.write({"fleet/deployments/fox.yaml": deployment("fox", CARD, NODE)})
        self.operator.push("Deploy a model")
        self.answers()

    def answers(self) -> None:
        until(lambda: self.operator.serves(self.host.ip, "fox"), "the model is ready")
        assert self.operator.ask(self.host.ip, "fox", QUESTION) == ANSWER

    def verify_tells(self) -> None:
        self.all_is_well()
        self.host.run("systemctl", "stop", "skulk-node")
        wrong = self.operator.bootstrap("--playbook", "verify")
        assert (wrong.exit_code, wrong.nodes[NODE]["status"], wrong.changed()) == (1, "failed", {}), wrong
        assert wrong.nodes[NODE]["failure"]["sentence"] == f"{NODE}: the service does not run", wrong

    def all_is_well(self) -> None:
        well = self.operator.bootstrap("--playbook", "verify")
        assert (well.exit_code, well.nodes[NODE]["status"], well.changed()) == (0, "ok", {}), well

    def next_version_is_carried(self, wheel: Path) -> None:
        self.operator.skulk("node", "wheelhouse", str(self.wheels), "--wheel", str(wheel), *TARGET)
        self.operator.write(
            {
                f"playbooks/inventory/host_vars/{NODE}.yml": "skulk_update_on_boot: true\n"
                f"skulk_update_wheelhouse: {CARRIED}\n"
            }
        )
        done = self.bootstrap()
        assert (done.exit_code, done.changed()) == (
            0,
            {
                NODE: [
                    "skulk_release : Bring the wheelhouse",
                    "skulk_enrol : Write node.toml",
                    "skulk_service : Restart the systemd service",
                    "skulk_update : Write the unit",
                    "skulk_update : Let it run at every boot",
                ]
            },
        ), done

    def boots_into_the_next_version(self) -> None:
        until(lambda: self.operator.settled(self.host.ip), "the node is in its place again")
        fleet = self.operator.checkout / "fleet/fleet.yaml"
        fleet.write_text(fleet.read_text().replace("spec:\n", f"spec:\n  version: {NEXT_VERSION}\n"))
        commit = self.operator.push("The next version")
        until(lambda: self.status()["accepted"] == commit, "the commit is accepted")
        before = self.link("current")
        assert (self.status()["version"], before.partition("-")[0]) == ("0.1.0", "0.1.0")
        self.host.kill()
        self.host.boot(wait=False)
        until(lambda: self.operator.settled(self.host.ip), "the node is back", UPDATE_SECONDS_MAX)
        self.host.wait_up()
        is_cut_off(self.host)
        assert self.status()["version"] == NEXT_VERSION
        assert self.link("current").startswith(f"{NEXT_VERSION}-")
        assert self.link("previous") == before
        said = self.host.run("journalctl", "--unit=skulk-update", "--output=cat").stdout
        assert f"changed  {before} to {self.link('current')}: commit {commit[:12]} wants {NEXT_VERSION}" in said
        self.answers()
        self.all_is_well()

    def status(self) -> dict[str, object]:
        found = self.operator.get(self.host.ip, "/fleet/v1/status")
        assert isinstance(found, dict)
        return found

    def link(self, name: str) -> str:
        return Path(self.host.run("readlink", f"/opt/skulk/{name}").stdout.strip()).name
