"""The Node manifests as Ansible reads them."""

from __future__ import annotations

import json
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
