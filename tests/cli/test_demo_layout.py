"""What the demo lays out before it starts anything: ports that are free, a directory of its own, three nodes."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from skulk.cli.demo import layout
from skulk.cli.worktree import read_worktree
from skulk.core.domain import CommitId
from skulk.core.errors import CFG_PORT_TAKEN, CFG_STATE_LOCKED, CLI_USAGE, SkulkError
from skulk.core.manifests import load
from skulk.core.planner import declared_members, plan
from skulk.node.config import NodeConfig, load_config

STEPS = [(step, side) for step in (0, 10, 20) for side in (0, 1)]


def free_ports() -> int:
    """A number from which on the six ports of a demo are free."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            first = int(one.getsockname()[1])
        with ExitStack() as stack:
            try:
                for step, side in STEPS:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", first + step + side))
            except (OSError, OverflowError):
                continue
            return first


@pytest.mark.parametrize(("step", "side"), STEPS)
def test_a_taken_port_is_named_with_what_it_is_for(tmp_path: Path, step: int, side: int) -> None:
    place = layout.site(tmp_path, free_ports())
    layout.refuse_taken(place)
    node = place.nodes[step // 10]
    with socket.socket() as other:
        other.bind(("127.0.0.1", place.desk.port + step + side))
        other.listen()
        with pytest.raises(SkulkError) as caught:
            layout.refuse_taken(place)
    assert caught.value.code is CFG_PORT_TAKEN
    what = "planes" if side else "gateway"
    assert caught.value.message == f"port {place.desk.port + step + side} ({what} of {node.name}) is in use"
    assert "PORT=" in str(caught.value)


@pytest.mark.parametrize("port", [0, -1, 65515, 70000])
def test_ports_that_no_machine_has_are_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(SkulkError) as caught:
        layout.site(tmp_path, port)
    assert caught.value.code is CLI_USAGE


def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    with layout.held(tmp_path / "demo"):
        with pytest.raises(SkulkError) as caught, layout.held(tmp_path / "demo"):
            pass
        assert caught.value.code is CFG_STATE_LOCKED
    with layout.held(tmp_path / "demo"):
        pass


def test_what_lies_there_from_an_earlier_demo_is_gone(tmp_path: Path) -> None:
    work = tmp_path / "demo"
    (work / "state" / "run").mkdir(parents=True)
    (work / "node.toml").write_text("nonsense")
    (work / "desk").mkdir()
    (work / "desk" / "node.toml").write_text("older")
    (work / "link").symlink_to(tmp_path)
    place = layout.site(work, layout.PORT)
    with layout.held(work):
        assert [path.parent.name for path in layout.earlier_configs(work)] == ["desk", "demo"]
        layout.prepare(place)
        with pytest.raises(SkulkError), layout.held(work):
            pass
    assert {path.name for path in work.iterdir() if path.name[0] != "."} == {
        *("desk", "studio", "tower", "fleet", "remote.git"),
    }
    assert place.desk.config.read_text() != "older"


def test_each_node_has_its_own_state_port_engines_and_address(tmp_path: Path) -> None:
    place = layout.site(tmp_path, 40_000)
    layout.prepare(place)
    configs = [load_config(node.config, {}) for node in place.nodes]
    assert [config.name for config in configs] == ["desk", "studio", "tower"]
    assert [config.engines for config in configs] == [(), ("mlx",), ("llama_cpp",)]
    assert [config.install_engines for config in configs] == [True, True, False]
    assert [config.listen.port for config in configs] == [40_000, 40_010, 40_020]
    endpoints = [f"tcp/127.0.0.1:{port}" for port in (40_001, 40_011, 40_021)]
    assert [config.planes.listen for config in configs] == [(endpoint,) for endpoint in endpoints]
    assert len({config.state_dir for config in configs}) == 3
    layout.write_config(place, place.tower, install=True)
    assert load_config(place.tower.config, {}).install_engines


def test_the_checkout_is_the_fleet_of_the_repository_at_other_ports(tmp_path: Path) -> None:
    place = layout.site(tmp_path, 40_000)
    layout.prepare(place)
    loaded = load(read_worktree(place.checkout), CommitId("0" * 40))
    assert loaded.fleet is not None, loaded.errors
    nodes = loaded.fleet.nodes
    assert {name: (node.ordinal, str(node.address)) for name, node in nodes.items()} == {
        node.name: (index, f"127.0.0.1:{node.planes_port}") for index, node in enumerate(place.nodes, 1)
    }
    assert loaded.fleet.namespace == load_config(place.desk.config, {}).namespace
    assert set(loaded.fleet.deployments) == {"chat", "chat-gguf"}


def test_the_repository_of_manifests_is_valid_and_plans_offline_to_two_nodes() -> None:
    loaded = load(read_worktree(layout.ROOT), CommitId("0" * 40))
    assert loaded.fleet is not None, loaded.errors
    assert loaded.warnings == ()
    declared = declared_members(loaded.fleet)
    assert (declared.left_out, declared.assumed) == ((), ())
    blueprint = plan(loaded.fleet, (), declared.members, (), ())
    assert {p.deployment: p.ranks[0].node for p in blueprint.placements} == {"chat": "studio", "chat-gguf": "tower"}
    assert {member.memory_bytes for member in declared.members} == {memory_cap()}


def memory_cap() -> int:
    """The cap that the demo gives each node."""
    return (
        NodeConfig.model_validate({"name": "n", "memoryCap": layout.MEMORY_CAP, "source": {"url": "/r"}}).memory_cap
        or 0
    )
