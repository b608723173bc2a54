"""The difference that a commit makes: every replica's fate, what it costs, and that a rehearsal tells the truth."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from planner_worlds import GIB, LLAMA_CPU, VULKAN, World, as_running, card, deployment, fleet, member, node
from test_properties import CARDS, deployments, worlds

from skulk.core.domain import (
    CardFile,
    Deployment,
    Fleet,
    Hardware,
    Member,
    NodeName,
    Participation,
    Reason,
    UpdateStrategy,
)
from skulk.core.planner import Action, Diff, check, declared_members, diff, plan, rehearse
from skulk.core.planner.room import Pool

STOP_FIRST = UpdateStrategy.STOP_FIRST
TWO = [node("a", 1), node("b", 2)]


def change(base: Fleet, target: Fleet, members: list[Member]) -> Diff:
    """The base carried out, then the target proposed."""
    running = rehearse(base, members, ()).running
    return diff(base, target, members, rehearse(target, members, running))


def fates(found: Diff) -> list[tuple[str, str, int]]:
    return [(c.action.value, c.deployment, c.replica) for c in found.changes]


def one(found: Diff, action: Action) -> tuple[str | None, str | None, str]:
    (only,) = [c for c in found.changes if c.action is action]
    return only.before and only.before.node, only.after and only.after.node, only.message


def test_the_same_manifests_change_nothing() -> None:
    base = fleet(TWO, [deployment(), deployment("two", replicas=2)])
    found = change(base, replace(base, commit="c2"), [member("a"), member("b")])  # type: ignore[arg-type]
    assert (found.changed, found.steps, found.settled) == (False, 0, True)
    assert {c.action for c in found.changes} == {Action.STAY}
    assert found.downloads == found.outages == found.unplaced == found.notes == ()
    assert all(m.before_bytes == m.peak_bytes == m.after_bytes for m in found.memory)


def test_what_is_new_starts_and_what_is_gone_stops() -> None:
    members = [member("a")]
    found = change(fleet(TWO[:1], [deployment("old")]), fleet(TWO[:1], [deployment("new")]), members)
    assert fates(found) == [("start", "new", 0), ("stop", "old", 0)]
    assert one(found, Action.STOP) == ("a", None, "the deployment was removed")
    assert found.downloads == (), "the model is there already, by the base's own runner"


def test_a_changed_context_replaces_side_by_side_and_the_peak_says_so() -> None:
    members = [member("a", 16)]
    base, target = fleet(TWO[:1], [deployment()]), fleet(TWO[:1], [deployment(context_tokens=8192)])
    found = change(base, target, members)
    (only,) = found.changes
    assert (only.action, only.strategy, only.reason) == (Action.REPLACE, UpdateStrategy.START_FIRST, Reason.SUPERSEDED)
    assert only.message == "context 4096 → 8192"
    (memory,) = found.memory
    assert memory.peak_bytes == memory.before_bytes + memory.after_bytes
    assert memory.usable_bytes == 12 * GIB
    assert found.outages == ()


def test_stop_first_is_an_outage_and_needs_no_surge() -> None:
    members = [member("a", 16)]
    base = fleet(TWO[:1], [deployment(strategy=STOP_FIRST)])
    target = fleet(TWO[:1], [deployment(strategy=STOP_FIRST, context_tokens=8192)])
    found = change(base, target, members)
    assert [c.strategy for c in found.changes] == [STOP_FIRST]
    assert [(w.outage.deployment, w.step) for w in found.outages] == [("chat", 1)]
    assert found.memory[0].peak_bytes == found.memory[0].after_bytes


def test_stop_first_goes_replica_by_replica_and_every_one_is_told() -> None:
    members = [member("a"), member("b")]
    base = fleet(TWO, [deployment(strategy=STOP_FIRST, replicas=3)])
    target = fleet(TWO, [deployment(strategy=STOP_FIRST, replicas=3, context_tokens=2048)])
    found = change(base, target, members)
    assert [c.step for c in found.changes] == [1, 2, 3]
    assert found.steps == 3
    assert (found.outages, found.unplaced) == ((), ())


def test_a_drained_node_moves_what_it_has_and_the_other_fetches_it() -> None:
    files = (
        CardFile("a.safetensors", GIB, "1" * 64),
        CardFile("copy.safetensors", GIB, "1" * 64),
        CardFile("t", 5, "2" * 64),
    )
    cards = [card(files=files)]
    base = fleet(TWO, [deployment()], cards)
    target = fleet([replace(TWO[0], drain=True), TWO[1]], [deployment()], cards)
    found = change(base, target, [member("a"), member("b")])
    assert one(found, Action.MOVE) == ("a", "b", "a is drained")
    assert [(d.node, d.bytes, d.files, d.models) for d in found.downloads] == [("b", GIB + 5, 2, ("fox",))]
    members = [member("a"), member("b", files=frozenset({"1" * 64}))]
    running = rehearse(base, [member("a"), member("b")], ()).running
    present = diff(base, target, members, rehearse(target, members, running))
    assert [(d.node, d.bytes, d.files) for d in present.downloads] == [("b", 5, 1)]


def test_a_replacement_without_room_is_held_with_the_reason() -> None:
    members = [member("a", 4)]
    found = change(fleet(TWO[:1], [deployment()]), fleet(TWO[:1], [deployment(context_tokens=8192)]), members)
    assert fates(found) == [("hold", "chat", 0)]
    assert "no room beside the running one" in found.changes[0].message
    assert [(u.deployment, u.reason) for u in found.unplaced] == [("chat", Reason.SURGE_DOES_NOT_FIT)]
    assert found.changed


def test_a_setting_that_touches_no_runner_is_still_a_change() -> None:
    base = fleet(TWO[:1], [deployment()])
    documents = {"Deployment/chat": {"spec": {"model": "fox", "placement": {"spread": "node"}, "aliases": ["x"]}}}
    other = {"Deployment/chat": {"spec": {"model": "fox", "placement": {"spread": "prefer"}}}, "Node/z": {"spec": {}}}
    found = change(replace(base, documents=documents), replace(base, documents=other), [member("a")])
    assert [(e.kind, e.name, e.how, e.fields) for e in found.edits] == [
        ("Deployment", "chat", "changed", ("aliases", "placement.spread")),
        ("Node", "z", "added", ()),
    ]
    assert found.changed
    assert fates(found) == [("stay", "chat", 0)]


def test_a_removed_node_stands_in_the_memory_of_before() -> None:
    members = [member("a"), member("b")]
    base = fleet(TWO, [deployment(replicas=2)])
    found = change(base, fleet(TWO[:1], [deployment(replicas=2)]), members)
    assert [(m.node, m.after_bytes > 0) for m in found.memory if m.before_bytes] == [("a", True), ("b", False)]
    assert one(found, Action.MOVE)[:2] == ("b", "a")


def test_a_devices_memory_is_told_apart_from_the_machines() -> None:
    wolf = card(compatible_backends=("llama_cpp",))
    both = [member("a", builds=(VULKAN, LLAMA_CPU))]
    base = fleet(TWO[:1], [], [wolf])
    found = change(base, fleet(TWO[:1], [deployment()], [wolf]), both)
    assert [(m.pool, m.after_bytes > 0) for m in found.memory] == [(Pool.MACHINE, False), (Pool.DEVICE, True)]


def test_a_rehearsal_begins_with_what_is_on_its_way() -> None:
    """A replacement in flight: the old one goes, the new one stays, nothing starts a third."""
    members = [member("a")]
    base, target = fleet(TWO[:1], [deployment()]), fleet(TWO[:1], [deployment(context_tokens=8192)])
    old = rehearse(base, members, ()).running
    first = plan(target, (), members, old, ())
    new = as_running(first.placements[0], complete=False)
    found = diff(base, target, members, rehearse(target, members, [*old, new]))
    assert sorted(c.action.value for c in found.changes) == ["stay", "stop"]


@settings(deadline=None, max_examples=60)
@given(worlds(), st.data())
def test_a_rehearsal_ends_where_the_world_does(world: World, data: st.DataObject) -> None:
    """The members of a world do the same things one at a time; both come to the same rest."""
    world.settle(40)
    wanted: list[Deployment] = data.draw(deployments())
    world.push(*wanted)
    rehearsal = rehearse(world.fleet, world.members, tuple(world.running.values()))
    assert rehearsal.settled
    found = diff(world.fleet, world.fleet, world.members, rehearsal)
    accounted = {c.after.uid for c in found.changes if c.after is not None}
    assert accounted == {entry.uid for entry in rehearsal.running}
    assert {c.before.uid for c in found.changes if c.before is not None} == set(world.running)
    for step in rehearsal.steps:
        assert check(step.blueprint, world.fleet, world.members) == ()
    for memory in found.memory:
        assert memory.peak_bytes >= max(memory.before_bytes, memory.after_bytes)
        assert memory.usable_bytes is None or memory.peak_bytes <= memory.usable_bytes
    after = plan(world.fleet, (), world.members, rehearsal.running, ())
    assert {p.uid for p in after.placements} | {r.uid for r in after.retiring if r.keep} == accounted
    assert all(r.keep for r in after.retiring)


def test_declared_hardware_makes_members_and_names_what_it_assumes() -> None:
    def declared(name: str, ordinal: int, **changes: object) -> object:
        return node(name, ordinal, hardware=Hardware(32 * GIB), **changes)

    nodes = [
        declared("mac", 1, os="macos", arch="arm64"),
        declared("linux", 2, os="linux", backends=("mlx-cpu", "llama_cpp-cuda")),
        replace(declared("gpu", 3, os="linux"), hardware=Hardware(32 * GIB, "RTX", 24 * GIB)),  # type: ignore[type-var]
        declared("bare", 4, os="linux", backends=("llama_cpp",)),
        declared("unknown", 5),
        node("none", 6, os="linux"),
        node("desk", 7, participation=Participation.MANAGEMENT),
    ]
    found = declared_members(fleet(nodes, [deployment()], CARDS))  # type: ignore[arg-type]
    builds = {m.node: [(b.backend, b.unified, b.device_memory_bytes) for b in m.builds] for m in found.members}
    assert builds == {
        "mac": [("mlx-metal", True, None), ("llama_cpp-metal", True, None)],
        "linux": [("mlx-cpu", True, None), ("llama_cpp-cuda", True, None)],
        "gpu": [("mlx-cpu", True, None), ("llama_cpp-vulkan", False, 24 * GIB), ("llama_cpp-cpu", True, None)],
        "bare": [("llama_cpp-cpu", True, None)],
    }
    assert [r.node for r in found.assumed] == ["mac", "gpu", "bare"]
    assert [(r.node, r.message.split()[1]) for r in found.left_out] == [
        (NodeName("unknown"), "neither"),
        ("none", "no"),
    ]
