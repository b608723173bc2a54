"""What holds for every plan, on drawn fleets and drawn histories."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from planner_worlds import GIB, LLAMA_CPU, METAL, MLX, VULKAN, World, card, deployment, fleet, member, node

from skulk.core.domain import (
    Deployment,
    Fleet,
    LaunchHash,
    Member,
    Node,
    NodeName,
    Reason,
    Refusal,
    Spread,
    UpdateStrategy,
)
from skulk.core.memory import capacity
from skulk.core.planner import check, from_json, plan, to_json

CARDS = (
    card("fox", compatible_backends=("mlx", "llama_cpp")),
    card("wolf", storage_bytes=3 * GIB),
    card("bear", compatible_backends=("llama_cpp",), backend_preference=("llama_cpp-cpu",)),
)
QUICK = settings(deadline=None, max_examples=60)

BUILDS = st.sampled_from([(MLX,), (METAL, MLX), (VULKAN, LLAMA_CPU), (MLX, LLAMA_CPU), ()])
NODES = st.builds(
    lambda cordon, tier: {"cordon": cordon, "labels": tier},
    st.sampled_from([False, False, False, True]),
    st.sampled_from([{}, {"tier": "gold"}]),
)


@st.composite
def deployments(draw: st.DrawFn, *, strategy: UpdateStrategy | None = None, calm: bool = False) -> list[Deployment]:
    """Up to four deployments. `calm`: nothing that asks for fewer replicas than one."""
    wanted = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True, max_size=4)):
        wanted.append(
            deployment(
                name,
                draw(st.sampled_from(["fox", "wolf", "bear"])),
                replicas=draw(st.integers(1 if calm else 0, 3)),
                context_tokens=draw(st.sampled_from([None, 512, 1024, 4096])),
                concurrency=draw(st.sampled_from([1, 2])),
                spread=draw(st.sampled_from(list(Spread))),
                strategy=strategy or draw(st.sampled_from(list(UpdateStrategy))),
                priority=draw(st.integers(0, 2)),
                selector=draw(st.sampled_from([{}, {}, {"tier": "gold"}])),
                suspend=False if calm else draw(st.sampled_from([False, False, True])),
            )
        )
    return wanted


@st.composite
def worlds(draw: st.DrawFn, **kwargs: object) -> World:
    count = draw(st.integers(1, 4))
    nodes = [node(f"n{i}", i, **draw(NODES)) for i in range(count)]
    members = [member(n.name, draw(st.sampled_from([2, 4, 6, 9, 16])), draw(BUILDS)) for n in nodes]
    return World(fleet(nodes, draw(deployments(**kwargs)), CARDS), members)  # type: ignore[arg-type]


def sometimes(seed: int) -> Callable[[str], bool]:
    """Holds up four of ten things that could happen in a round."""
    rng = random.Random(seed)
    return lambda _: rng.random() < 0.6


def over_capacity(world: World) -> list[str]:
    """Nodes whose processes hold more than the largest of their devices allows, per pool."""
    out = []
    for m in world.members:
        the_node = world.fleet.nodes[m.node]
        for unified in (True, False):
            limits = [capacity(m, the_node, b).usable_bytes for b in m.builds if b.unified is unified]
            backends = {b.backend for b in m.builds if b.unified is unified}
            held = sum(
                r.memory_bytes
                for r in world.running.values()
                if r.node == m.node and r.uid in world.started and r.backend in backends
            )
            if held > max(limits, default=0):
                out.append(m.node)
    return out


@QUICK
@given(worlds(), st.data())
def test_any_history_of_pushes_stays_within_memory_and_comes_to_rest(world: World, data: st.DataObject) -> None:
    for number in range(data.draw(st.integers(1, 4))):
        world.push(*data.draw(deployments()), commit=f"c{number}")
        drains = data.draw(st.sets(st.sampled_from(sorted(world.fleet.nodes)), max_size=1))
        nodes = {name: replace(n, drain=name in drains) for name, n in world.fleet.nodes.items()}
        world.fleet = replace(world.fleet, nodes=nodes)
        happens = sometimes(data.draw(st.integers(0, 1000)))
        for _ in range(data.draw(st.integers(0, 4))):
            world.step(happens)
            assert over_capacity(world) == []
    for _ in range(40):
        before = dict(world.running), set(world.started)
        blueprint = world.step()
        assert over_capacity(world) == []
        if before == (world.running, world.started):
            break
    else:
        raise AssertionError("the world does not come to rest")
    # At rest: what is placed serves, and whatever else serves is there because its replacement has no place.
    assert {p.uid for p in blueprint.placements} == {r.uid for r in world.running.values()} - {
        r.uid for r in blueprint.retiring
    }
    assert all(r.complete for r in world.running.values())
    assert all(r.keep for r in blueprint.retiring)


@QUICK
@given(worlds(strategy=UpdateStrategy.START_FIRST, calm=True), st.data())
def test_start_first_never_takes_the_last_serving_replica_away(world: World, data: st.DataObject) -> None:
    world.settle(40)
    for number in range(data.draw(st.integers(1, 3))):
        wanted = data.draw(deployments(strategy=UpdateStrategy.START_FIRST, calm=True))
        world.push(*wanted, commit=f"c{number}")
        happens = sometimes(data.draw(st.integers(0, 1000)))
        for _ in range(data.draw(st.integers(0, 6))):
            served = [d.name for d in wanted if world.serving(d.name)]
            blueprint = world.step(happens)
            assert [name for name in served if not world.serving(name)] == []
            assert [o for o in blueprint.outages if o.deployment in served] == []


@QUICK
@given(worlds(), st.data())
def test_a_plan_after_a_push_is_sound(world: World, data: st.DataObject) -> None:
    """The linter finds nothing, memory included, whatever the commit changes."""
    world.settle(40)
    world.push(*data.draw(deployments()))
    running = tuple(world.running.values())
    found = plan(world.fleet, (), world.members, running, ())
    assert check(found, world.fleet, world.members) == ()
    for name, wanted in world.fleet.deployments.items():
        placed = [p.replica for p in found.placements if p.deployment == name]
        unplaced = [u for u in found.unplaced if u.deployment == name]
        assert len(placed) + len(unplaced) == (0 if wanted.suspend else wanted.replicas)
        assert all(u.message and u.reason for u in unplaced)


def shuffled(the_fleet: Fleet, rng: random.Random) -> Fleet:
    def mixed(mapping):  # type: ignore[no-untyped-def]
        items = list(mapping.items())
        rng.shuffle(items)
        return dict(items)

    return replace(
        the_fleet,
        nodes=mixed(the_fleet.nodes),
        cards=mixed(the_fleet.cards),
        deployments=mixed(the_fleet.deployments),
    )


@QUICK
@given(worlds(), st.data())
def test_equal_inputs_in_any_order_give_equal_bytes(world: World, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 4))):
        world.step()
    world.push(*data.draw(deployments()))
    running = list(world.running.values())
    refusals = [Refusal(r.node, r.deployment, r.launch_hash, Reason.WEDGED, f"m{i}") for i, r in enumerate(running[:2])]
    refusals += [replace(r, message=r.message + "x") for r in refusals]
    refusals.append(Refusal(NodeName("gone"), world.members[0].node, LaunchHash("0"), Reason.WEDGED, "m"))  # type: ignore[arg-type]
    members = [replace(m, files=frozenset("abc")) for m in world.members]
    first = to_json(plan(world.fleet, (), members, running, refusals))
    rng = random.Random(data.draw(st.integers(0, 1000)))
    for _ in range(3):
        for values in (members, running, refusals):
            rng.shuffle(values)  # type: ignore[arg-type]
        again = plan(shuffled(world.fleet, rng), (), members, running, refusals)
        assert to_json(again) == first
        assert from_json(first) == again


@QUICK
@given(worlds(), BUILDS, st.sampled_from([2, 16, 64]), st.sampled_from([-1, 99]), st.data())
def test_nothing_moves_when_a_node_is_added(
    world: World, builds: tuple, gib: int, ordinal: int, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(0, 12))):
        world.step()
    running = tuple(world.running.values())
    before = plan(world.fleet, (), world.members, running, ())
    new_node: Node = node("new", ordinal, labels={"tier": "gold"})
    new_member: Member = member("new", gib, builds, files=frozenset(f.sha256 for c in CARDS for f in c.files))
    larger = replace(world.fleet, nodes={**world.fleet.nodes, new_node.name: new_node})
    after = plan(larger, (), [*world.members, new_member], running, ())
    there = {r.uid for r in running}
    assert [p for p in before.placements if p.uid in there] == [p for p in after.placements if p.uid in there]


@QUICK
@given(worlds(), st.data())
def test_an_absent_member_changes_nothing_of_what_it_runs(world: World, data: st.DataObject) -> None:
    world.settle(40)
    gone = data.draw(st.sampled_from(sorted(world.fleet.nodes)))
    running = tuple(world.running.values())
    members = [m for m in world.members if m.node != gone]
    found = plan(world.fleet, (), members, running, ())
    there = {r.uid for r in running if r.node == gone}
    before = plan(world.fleet, (), world.members, running, ())
    kept = {p.uid for p in before.placements} & there
    assert kept <= {p.uid for p in found.placements}
    assert not [p for p in found.placements if p.nodes == (gone,) and p.uid not in there]
