"""The Node manifests as Ansible reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    nodes = tmp_path / "fleet" / "nodes"
    nodes.mkdir(parents=True)
    (tmp_path / "fleet" / "fleet.yaml").write_text(HEAD.format(kind="Fleet", name="home") + "  namespace: home\n")
    (nodes / "mac-1.yaml").write_text(
        HEAD.format(kind="Node", name="mac-1")
        + "  ordinal: 1\n  address: 10.0.0.11\n  platform: {os: macos, arch: arm64}\n  backends: [mlx-metal]\n"
        "  labels:\n    rack: top-left\n"
    )
    (nodes / "box.yaml").write_text(
        HEAD.format(kind="Node", name="box")
        + "  ordinal: 2\n  address: box.lan:7000\n  platform: {os: linux, arch: x86_64}\n"
        "  participation: management\n  cordon: true\n"
    )
    (nodes / "laptop.yaml").write_text(HEAD.format(kind="Node", name="laptop") + "  ordinal: 3\n")
    return tmp_path


def test_every_node_is_in_its_groups_and_has_its_variables(checkout: Path, skulk):
    done = skulk("inventory", str(checkout), "--list")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    hosts = {group: entry["hosts"] for group, entry in found.items() if "hosts" in entry}
    assert hosts == {
        "skulk_nodes": ["box", "laptop", "mac-1"],
        "role_full": ["laptop", "mac-1"],
        "role_management": ["box"],
        "os_macos": ["mac-1"],
        "platform_macos_arm64": ["mac-1"],
        "os_linux": ["box"],
        "platform_linux_x86_64": ["box"],
        "backend_mlx_metal": ["mac-1"],
        "label_rack_top_left": ["mac-1"],
        "cordoned": ["box"],
    }
    assert found["all"]["children"] == sorted(hosts)
    variables = found["_meta"]["hostvars"]
    assert (variables["box"]["ansible_host"], variables["box"]["skulk_planes_port"]) == ("box.lan", 7000)
    assert variables["mac-1"]["skulk_node_spec"]["labels"] == {"rack": "top-left"}
    assert "ansible_host" not in variables["laptop"]


def test_the_variables_of_one_host_are_those_of_the_list(checkout: Path, skulk):
    everything = json.loads(skulk("inventory", str(checkout), "--list").stdout)["_meta"]["hostvars"]
    assert json.loads(skulk("inventory", str(checkout), "--host", "mac-1").stdout) == everything["mac-1"]


def test_ssh_engines_and_version_are_variables(checkout: Path, skulk):
    def variables(name: str) -> dict[str, object]:
        return json.loads(skulk("inventory", str(checkout), "--host", name).stdout)

    assert not {"ansible_user", "ansible_port"} & variables("mac-1").keys(), "then ssh's own settings hold"
    assert [variables(name)["skulk_node_engines"] for name in ("mac-1", "box", "laptop")] == [["mlx"], [], ["mlx"]]
    assert variables("mac-1")["skulk_fleet_version"] == ""
    with (checkout / "fleet" / "nodes" / "laptop.yaml").open("a") as file:
        file.write("  address: 10.0.0.13\n  ssh: {host: laptop.lan, port: 2222, user: admin}\n")
        file.write("  backends: [llama_cpp-cuda, mlx-cpu, llama_cpp-cpu]\n")
    with (checkout / "fleet" / "fleet.yaml").open("a") as file:
        file.write('  version: "0.1.0"\n')
    laptop = variables("laptop")
    assert [laptop[f"ansible_{key}"] for key in ("host", "port", "user")] == ["laptop.lan", 2222, "admin"]
    assert laptop["skulk_node_engines"] == ["llama_cpp", "mlx"]
    assert laptop["skulk_fleet_version"] == "0.1.0"
    assert laptop["skulk_node_place"] == "fleet/nodes/laptop.yaml:1"
    assert (laptop["skulk_fleet_name"], laptop["skulk_fleet_namespace"]) == ("home", "home")


@pytest.mark.parametrize(
    ("access", "open_"),
    [
        ("", False),
        ("{anonymous: true}", True),
        ("{keys: [{name: a, sha256: '" + "0" * 64 + "', scopes: [read]}]}", True),
    ],
)
def test_a_gateway_is_open_only_with_keys_or_for_everybody(checkout: Path, skulk, access: str, open_: bool):
    if access:
        with (checkout / "fleet" / "fleet.yaml").open("a") as file:
            file.write(f"  access: {access}\n")
    done = skulk("inventory", str(checkout), "--host", "box")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["skulk_fleet_open"] is open_


def test_invalid_manifests_are_named_by_file_and_line_and_nothing_is_listed(checkout: Path, skulk):
    with (checkout / "fleet" / "nodes" / "box.yaml").open("a") as file:
        file.write("  ordinal: 1\n")
    done = skulk("inventory", str(checkout), "--list")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "fleet/nodes/box.yaml:" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--list", "--host", "box"), ("--host", "nobody")])
def test_what_is_wrong_with_the_call_is_said(checkout: Path, skulk, arguments: tuple[str, ...]):
    done = skulk("inventory", str(checkout), *arguments)
    assert done.exit_code == 2
    assert "fix:" in done.stderr


# --- by Ansible ---------------------------------------------------------------------------------------------


@pytest.fixture
def with_playbooks(checkout: Path) -> Path:
    """The checkout as an operator has it: the playbooks beside its manifests."""
    shutil.copytree(Path(__file__).resolve().parents[2] / "playbooks", checkout / "playbooks")
    return checkout


def ansible_inventory(checkout: Path, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    bin_ = Path(sys.executable).parent
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SKULK_", "ANSIBLE_"))}
    own |= {"PATH": f"{bin_}:{os.environ['PATH']}", "ANSIBLE_HOME": str(checkout / ".ansible"), "LC_ALL": "C.UTF-8"}
    own |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(checkout / "playbooks" / "ansible.cfg")}
    command = [str(bin_ / "ansible-inventory"), "--list"]
    return subprocess.run(command, cwd=where, env=own | environment, capture_output=True, text=True, check=False)


def test_ansible_reads_the_checkout_around_the_playbooks(with_playbooks: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    done = ansible_inventory(with_playbooks, tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["skulk_nodes"]["hosts"] == ["box", "laptop", "mac-1"]
    assert found["_meta"]["hostvars"]["box"]["ansible_host"] == "box.lan"
    assert found["role_management"]["hosts"] == ["box"]


def test_ansible_reads_the_checkout_that_is_named(with_playbooks: Path, tmp_path: Path):
    other = tmp_path / "other"
    (other / "fleet" / "nodes").mkdir(parents=True)
    shutil.copy(with_playbooks / "fleet" / "fleet.yaml", other / "fleet")
    shutil.copy(with_playbooks / "fleet" / "nodes" / "box.yaml", other / "fleet" / "nodes")
    done = ansible_inventory(with_playbooks, tmp_path, SKULK_FLEET=str(other))
    assert json.loads(done.stdout)["skulk_nodes"]["hosts"] == ["box"]


def test_ansible_shows_the_place_of_a_mistake_and_does_not_go_on_without_hosts(with_playbooks: Path, tmp_path: Path):
    with (with_playbooks / "fleet" / "nodes" / "box.yaml").open("a") as file:
        file.write("  adress: 10.0.0.1\n")
    done = ansible_inventory(with_playbooks, tmp_path)
    assert done.returncode != 0
    assert "fleet/nodes/box.yaml:11:3" in done.stderr, done.stderr
    assert "adress" in done.stderr


def test_a_program_that_is_not_there_is_named(with_playbooks: Path, tmp_path: Path):
    done = ansible_inventory(with_playbooks, tmp_path, SKULK_PROGRAM="/nowhere/skulk")
    assert done.returncode != 0
    assert "/nowhere/skulk" in done.stderr
