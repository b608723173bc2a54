"""Update stories: what stays, what is replaced beside or after the old one, what waits, what is without service."""

from dataclasses import replace

import pytest
from planner_worlds import (
    GIB,
    LLAMA_CPU,
    METAL,
    MLX,
    VULKAN,
    World,
    as_running,
    card,
    deployment,
    fleet,
    member,
    node,
    one_node,
)

from skulk.core.domain import (
    CardFile,
    Deployment,
    LaunchHash,
    NodeName,
    Participation,
    PlacementUid,
    Reason,
    Reasoning,
    Refusal,
    Spread,
    UpdateStrategy,
)
from skulk.core.planner import plan

STOP = UpdateStrategy.STOP_FIRST
BOTH = [UpdateStrategy.START_FIRST, STOP]


def two_nodes(*wanted: Deployment, gib: float = 16) -> World:
    return World(fleet([node("a", 1), node("b", 2)], wanted or (deployment(),)), [member("a", gib), member("b", gib)])


# --- what stays -------------------------------------------------------------------------------------------------


def test_a_placement_stays_when_a_better_node_appears() -> None:
    world = one_node()
    (uid,) = [p.uid for p in world.settle().placements]
    better = member("b", 128, (METAL,), files=frozenset({card().files[0].sha256}))
    world.fleet = replace(world.fleet, nodes={**world.fleet.nodes, NodeName("b"): node("b", 0)})
    world.members = [*world.members, better]
    found = world.settle()
    assert [p.uid for p in found.placements] == [uid]
    assert not found.retiring


def test_a_placement_stays_when_its_own_node_gets_a_better_backend() -> None:
    world = one_node()
    world.settle()
    world.members = [member("a", builds=(METAL, MLX))]
    assert [p.backend for p in world.settle().placements] == ["mlx-cpu"]


@pytest.mark.parametrize(
    "change",
    [
        {"priority": 9},
        {"aliases": ("other",)},
        {"strategy": STOP},
        {"selector": {"skulk.dev/os": "linux"}},
        {"spread": Spread.NODE},
        {"context_tokens": None},
    ],
)
def test_fields_that_apply_live_replace_nothing(change: dict[str, object]) -> None:
    world = one_node()
    before = [p.uid for p in world.settle().placements]
    world.push(deployment(**change))
    found = world.plan()
    assert [p.uid for p in found.placements] == before
    assert not found.retiring


@pytest.mark.parametrize(
    "change",
    [
        {"context_tokens": 2048},
        {"concurrency": 2},
        {"engine_options": {"x": 1}},
        {"model": "wolf"},
    ],
)
def test_launch_fields_of_the_deployment_replace_the_runner(change: dict[str, object]) -> None:
    world = one_node(cards=(card(), card("wolf")))
    (before,) = world.settle().placements
    world.push(deployment(**change))
    (after,) = world.plan().placements
    assert after.replaces == before.uid
    assert after.launch_hash != before.launch_hash


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "r2"},
        {"files": (CardFile("model.safetensors", GIB, "9" * 64),)},
        {"gguf_file": "model.gguf"},
        {"reasoning": Reasoning("token_delimited")},
    ],
)
def test_launch_fields_of_the_card_replace_the_runner(change: dict[str, object]) -> None:
    world = one_node()
    (before,) = world.settle().placements
    world.push(deployment(), cards=(card(**change),))
    (after,) = world.plan().placements
    assert after.replaces == before.uid


def test_another_engine_build_replaces_the_runner_once_the_old_build_is_gone() -> None:
    world = one_node()
    (before,) = world.settle().placements
    newer = replace(MLX, version="0.33.0", digest="d-2")
    world.members = [member("a", builds=(MLX, newer))]
    assert [p.uid for p in world.plan().placements] == [before.uid]
    world.members = [member("a", builds=(newer,))]
    (after,) = world.plan().placements
    assert (after.replaces, after.engine_digest) == (before.uid, "d-2")


def test_an_open_context_does_not_follow_the_memory_once_it_runs() -> None:
    world = one_node(deployment(context_tokens=None), gib=2.09)
    (before,) = world.settle().placements
    world.members = [member("a", 64)]
    assert [p.uid for p in world.plan().placements] == [before.uid]
    world.push(deployment(context_tokens=None), cards=(card(context_length=1024),))
    (after,) = world.plan().placements
    assert (after.context_tokens, after.replaces) == (1024, before.uid)


def test_cordon_keeps_what_runs_and_takes_nothing_new() -> None:
    world = one_node(deployment())
    before = [p.uid for p in world.settle().placements]
    world.fleet = replace(world.fleet, nodes={NodeName("a"): node("a", cordon=True)})
    world.push(deployment(), deployment("more"))
    found = world.settle()
    assert [p.uid for p in found.placements] == before
    assert [(u.deployment, u.reason) for u in found.unplaced] == [("more", Reason.CORDONED)]


def test_what_drains_on_a_cordoned_node_is_not_started_there_again() -> None:
    world = two_nodes()
    (old,) = world.settle().placements
    world.running[old.uid] = replace(world.running[old.uid], draining=True)
    world.fleet = replace(world.fleet, nodes={**world.fleet.nodes, NodeName("a"): node("a", 1, cordon=True)})
    found = world.plan()
    assert [p.nodes for p in found.placements] == [("b",)]
    assert [(r.uid, r.reason, r.until) for r in found.retiring] == [(old.uid, Reason.CORDONED, None)]


def test_what_drains_is_not_counted_as_serving() -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.running[old.uid] = replace(world.running[old.uid], draining=True)
    world.push(deployment(context_tokens=2048))
    found = world.plan()
    assert [(p.replaces, p.after) for p in found.placements] == [(None, old.uid)]
    assert [(r.uid, r.until) for r in found.retiring] == [(old.uid, None)]
    assert len(found.outages) == 1


def test_placements_of_an_absent_node_stay_fixed_whatever_the_commit_says_about_launching() -> None:
    world = two_nodes()
    (before,) = world.settle().placements
    world.members = [member("b")]
    world.push(deployment(context_tokens=2048))
    found = world.plan()
    assert [(p.uid, p.context_tokens) for p in found.placements] == [(before.uid, 4096)]
    assert not found.retiring


# --- start-first ------------------------------------------------------------------------------------------------


def test_start_first_brings_the_new_one_up_beside_the_old_one() -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    found = world.step()
    (new,) = found.placements
    (going,) = found.retiring
    assert (new.replaces, new.after) == (old.uid, None)
    assert (going.uid, going.until, going.keep, going.reason) == (old.uid, new.uid, False, Reason.SUPERSEDED)
    assert going.message == "context 4096 → 2048"
    assert not found.unplaced
    assert not found.outages
    # In flight: the same plan again and again, never a third.
    for _ in range(3):
        again = world.plan()
        assert (again.placements, again.retiring) == (found.placements, found.retiring)
        world.step(lambda uid: uid != new.uid)
    assert [r.uid for r in world.serving()] == [old.uid]
    final = world.settle()
    assert [p.uid for p in final.placements] == [new.uid]
    assert final.placements[0].replaces is None
    assert not final.retiring


def test_once_the_new_one_serves_the_old_one_is_listed_until_it_is_gone() -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    world.until(lambda: len(world.serving()) == 2)
    found = world.plan()
    assert [(r.uid, r.until) for r in found.retiring] == [(old.uid, found.placements[0].uid)]


def test_start_first_may_use_another_node_when_its_own_is_full() -> None:
    world = two_nodes(gib=4)
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    (new,) = world.plan().placements
    assert (old.nodes, new.nodes, new.replaces) == (("a",), ("b",), old.uid)


def test_an_update_prefers_the_node_it_is_on() -> None:
    world = two_nodes(gib=16)
    world.settle()
    world.push(deployment(context_tokens=2048))
    assert world.plan().placements[0].nodes == ("a",)


def test_without_room_for_both_the_old_one_serves_on_and_the_reason_is_told() -> None:
    world = one_node(gib=4)
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    found = world.settle()
    assert not found.placements
    assert [(r.uid, r.keep, r.until) for r in found.retiring] == [(old.uid, True, None)]
    (line,) = found.unplaced
    assert line.reason is Reason.SURGE_DOES_NOT_FIT
    assert line.message.startswith("no room beside the running one (update.strategy stop-first needs none): a has")
    assert not found.outages
    assert [r.uid for r in world.serving()] == [old.uid]
    world.push(deployment(context_tokens=2048, strategy=STOP))
    assert world.settle().placements[0].context_tokens == 2048


def test_a_replacement_on_the_nodes_other_device_does_not_count_against_the_old_one() -> None:
    # The old one nearly fills the graphics card, the new one the machine's memory: they never compete.
    model = card(compatible_backends=("llama_cpp",), backend_preference=("llama_cpp-vulkan",), storage_bytes=8 * GIB)
    other = replace(model, backend_preference=("llama_cpp-cpu",), revision="r2")
    world = World(fleet([node("a")], [deployment()], [model]), [member("a", 16, (VULKAN, LLAMA_CPU))])
    (old,) = world.settle().placements
    world.push(deployment(), cards=(other,))
    (new,) = world.step().placements
    assert (old.backend, new.backend) == ("llama_cpp-vulkan", "llama_cpp-cpu")
    found = world.plan()
    assert [(r.uid, r.until) for r in found.retiring] == [(old.uid, new.uid)]


def test_what_can_run_nowhere_does_not_stop_what_serves() -> None:
    for strategy in BOTH:
        world = one_node(deployment(strategy=strategy), cards=(card(), card("huge", storage_bytes=99 * GIB)))
        (old,) = world.settle().placements
        world.push(deployment(model="huge", strategy=strategy))
        found = world.settle()
        assert [r.uid for r in world.serving()] == [old.uid]
        assert found.retiring[0].keep
        assert found.unplaced[0].reason is Reason.INSUFFICIENT_MEMORY


def test_a_revert_while_the_replacement_starts_turns_it_around() -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    (new,) = world.step().placements
    world.push(deployment(), commit="c3")
    found = world.plan()
    assert [(p.uid, p.replaces, p.after) for p in found.placements] == [(old.uid, None, None)]
    assert [(r.uid, r.until, r.keep) for r in found.retiring] == [(new.uid, None, False)]
    world.settle()
    assert [r.uid for r in world.running.values()] == [old.uid]


def test_a_revert_while_the_old_one_drains_starts_it_afresh_beside_the_new_one() -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    world.until(lambda: world.running[old.uid].draining)
    (new,) = world.serving()
    world.push(deployment(), commit="c3")
    found = world.plan()
    assert [(p.uid, p.replaces) for p in found.placements] == [(old.uid, new.uid)]
    assert [(r.uid, r.until) for r in found.retiring] == [(new.uid, old.uid)]
    world.until(lambda: [r.uid for r in world.running.values()] == [old.uid], least_serving=1)


def test_a_second_change_replaces_the_replacement_not_what_serves() -> None:
    # Room for two of the three: the new one waits for the half-started one to go, the old one serves throughout.
    world = one_node(gib=5.5)
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    (second,) = world.step().placements
    world.push(deployment(context_tokens=1024), commit="c3")
    found = world.plan()
    (third,) = found.placements
    assert (third.replaces, third.after) == (old.uid, second.uid)
    assert {(r.uid, r.until) for r in found.retiring} == {(old.uid, third.uid), (second.uid, None)}
    world.until(lambda: len(world.running) == 1, least_serving=1)
    assert list(world.running) == [third.uid]


def test_a_third_version_while_two_serve_holds_both_until_it_is_ready() -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048))
    world.until(lambda: len(world.serving()) == 2)
    (second,) = world.plan().placements
    world.push(deployment(context_tokens=1024), commit="c3")
    found = world.plan()
    (third,) = found.placements
    assert {(r.uid, r.until) for r in found.retiring} == {(old.uid, third.uid), (second.uid, third.uid)}
    world.settle()
    assert list(world.running) == [third.uid]


def test_with_room_for_one_surge_replicas_roll_one_by_one() -> None:
    world = one_node(deployment(replicas=2), gib=7)
    world.settle()
    world.push(deployment(replicas=2, context_tokens=2048))
    found = world.plan()
    assert [p.replica for p in found.placements] == [0]
    assert [(u.replica, u.reason) for u in found.unplaced] == [(1, Reason.ROLLING)]
    world.until(lambda: [r.context_tokens for r in world.running.values()] == [2048, 2048], least_serving=2)


def test_growing_and_changing_at_once_replaces_first_so_that_both_get_their_room() -> None:
    world = one_node(gib=5)
    world.settle()
    world.push(deployment(replicas=2, context_tokens=2048))
    world.until(lambda: [r.context_tokens for r in world.serving()] == [2048, 2048], least_serving=1)


# --- stop-first -------------------------------------------------------------------------------------------------


def test_stop_first_names_the_outage_and_needs_no_second_room() -> None:
    world = one_node(deployment(strategy=STOP), gib=4)
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048, strategy=STOP))
    found = world.plan()
    (new,) = found.placements
    assert (new.replaces, new.after) == (None, old.uid)
    assert [(r.uid, r.until, r.keep) for r in found.retiring] == [(old.uid, None, False)]
    assert [o.message for o in found.outages] == ["no replica serves until the new one is ready: context 4096 → 2048"]
    assert [p.uid for p in world.settle().placements] == [new.uid]


def test_stop_first_replaces_one_replica_at_a_time() -> None:
    world = one_node(deployment(replicas=3, strategy=STOP))
    world.settle()
    world.push(deployment(replicas=3, strategy=STOP, context_tokens=2048))
    found = world.plan()
    assert [p.replica for p in found.placements] == [0]
    assert [(u.replica, u.reason) for u in found.unplaced] == [(1, Reason.ROLLING), (2, Reason.ROLLING)]
    assert [r.keep for r in found.retiring].count(True) == 2
    assert not found.outages
    world.until(lambda: [r.context_tokens for r in world.serving()] == [2048] * 3, least_serving=2)


def test_stop_first_fills_a_gap_before_it_opens_one() -> None:
    world = one_node(deployment(replicas=2, strategy=STOP))
    world.settle()
    lost = next(r for r in world.running.values() if r.replica == 1)
    del world.running[lost.uid]
    world.push(deployment(replicas=2, strategy=STOP, context_tokens=2048))
    found = world.plan()
    assert [p.replica for p in found.placements] == [1]
    assert [(u.replica, u.reason) for u in found.unplaced] == [(0, Reason.ROLLING)]
    world.until(lambda: [r.context_tokens for r in world.serving()] == [2048, 2048], least_serving=1)


def test_stop_first_reuses_room_on_the_same_device_only() -> None:
    model = card(compatible_backends=("llama_cpp",), backend_preference=("llama_cpp-vulkan",), storage_bytes=8 * GIB)
    other = replace(model, backend_preference=("llama_cpp-cpu",), revision="r2")
    more = card("wolf", compatible_backends=("llama_cpp-cpu",), storage_bytes=6 * GIB)
    wanted = deployment(strategy=STOP)
    world = World(fleet([node("a")], [wanted], [model]), [member("a", 16, (VULKAN, LLAMA_CPU))])
    world.settle()
    world.push(wanted, deployment("more", "wolf"), cards=(other, more))
    found = world.plan()
    assert [(p.deployment, p.backend) for p in found.placements] == [("chat", "llama_cpp-cpu")]
    assert [(u.deployment, u.reason) for u in found.unplaced] == [("more", Reason.INSUFFICIENT_MEMORY)]


def test_a_replacement_that_never_gets_ready_stops_a_stop_first_rollout() -> None:
    world = one_node(deployment(replicas=2, strategy=STOP))
    world.settle()
    world.push(deployment(replicas=2, strategy=STOP, context_tokens=2048))
    new = world.plan().placements[0].uid
    for _ in range(8):
        world.step(lambda uid: uid != new or new not in world.running)
    assert [r.replica for r in world.serving()] == [1]
    assert not world.running[new].complete


def test_a_strategy_change_in_flight_never_puts_two_where_one_fits() -> None:
    world = one_node(deployment(strategy=STOP), gib=4)
    (old,) = world.settle().placements
    world.push(deployment(context_tokens=2048, strategy=STOP))
    (new,) = world.step(lambda uid: uid != old.uid).placements
    assert {old.uid, new.uid} == set(world.running)
    world.push(deployment(context_tokens=2048), commit="c3")
    found = world.plan()
    assert [(p.uid, p.after) for p in found.placements] == [(new.uid, old.uid)]
    assert [(r.uid, r.until) for r in found.retiring] == [(old.uid, None)]


# --- moving off nodes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"drain": True}, Reason.DRAINED),
        ({"participation": Participation.MANAGEMENT}, Reason.NOT_PARTICIPATING),
        ({"backends": ("llama_cpp",)}, Reason.NO_BACKEND),
    ],
)
def test_a_node_that_may_not_keep_it_hands_over_to_another_first(change: dict[str, object], reason: Reason) -> None:
    world = two_nodes()
    (old,) = world.settle().placements
    nodes = {**world.fleet.nodes, NodeName("a"): node("a", 1, **change)}
    world.fleet = replace(world.fleet, nodes=nodes)
    found = world.plan()
    (new,) = found.placements
    assert (new.nodes, new.replaces) == (("b",), old.uid)
    assert [(r.uid, r.until, r.reason) for r in found.retiring] == [(old.uid, new.uid, reason)]
    world.until(lambda: [r.node for r in world.running.values()] == ["b"], least_serving=1)


def test_a_drained_node_without_an_alternative_is_emptied_and_the_outage_named() -> None:
    world = one_node()
    world.settle()
    world.fleet = replace(world.fleet, nodes={NodeName("a"): node("a", drain=True)})
    found = world.plan()
    assert [(r.until, r.keep, r.reason) for r in found.retiring] == [(None, False, Reason.DRAINED)]
    assert [u.reason for u in found.unplaced] == [Reason.DRAINED]
    assert [o.message for o in found.outages] == ["no replica serves until it can be placed: a is drained"]
    world.settle()
    assert not world.running


def test_a_drained_replica_waits_for_room_that_is_being_freed_elsewhere() -> None:
    world = two_nodes(deployment("chat"), deployment("other"), gib=4)
    world.settle()
    home = next(r.node for r in world.running.values() if r.deployment == "chat")
    nodes = {**world.fleet.nodes, home: replace(world.fleet.nodes[home], drain=True)}
    world.fleet = replace(world.fleet, nodes=nodes)
    world.push(deployment("chat"))
    found = world.plan()
    assert {(r.deployment, r.keep) for r in found.retiring} == {("chat", True), ("other", False)}
    for _ in range(8):
        world.step()
        assert world.serving("chat")
    assert [r.node for r in world.running.values()] != [home]


@pytest.mark.parametrize("change", [{"excluded_nodes": (NodeName("a"),)}, {"selector": {"tier": "gold"}}])
def test_a_constraint_that_nothing_meets_does_not_stop_what_serves(change: dict[str, object]) -> None:
    world = one_node()
    (old,) = world.settle().placements
    world.push(deployment(**change))
    found = world.settle()
    assert [(r.uid, r.keep) for r in found.retiring] == [(old.uid, True)]
    assert len(found.unplaced) == 1
    assert world.serving()


def test_a_node_whose_manifest_is_gone_is_not_counted_on() -> None:
    world = two_nodes()
    (old,) = world.settle().placements
    world.fleet = replace(world.fleet, nodes={NodeName("b"): node("b", 2)})
    found = world.plan()
    assert [(p.nodes, p.replaces) for p in found.placements] == [(("b",), None)]
    assert [(r.uid, r.until, r.reason) for r in found.retiring] == [(old.uid, None, Reason.NODE_NOT_IN_FLEET)]
    assert len(found.outages) == 1


def test_spread_node_moves_the_second_replica_when_there_is_somewhere_to_go() -> None:
    world = one_node(deployment(replicas=2))
    world.settle()
    world.push(deployment(replicas=2, spread=Spread.NODE))
    stuck = world.plan()
    assert [(r.keep, r.reason) for r in stuck.retiring] == [(True, Reason.SPREAD)]
    world.fleet = replace(world.fleet, nodes={**world.fleet.nodes, NodeName("b"): node("b", 2)})
    world.members = [*world.members, member("b")]
    world.settle()
    assert sorted(r.node for r in world.serving()) == ["a", "b"]


def test_a_start_that_its_node_refused_is_tried_elsewhere() -> None:
    world = two_nodes()
    (first,) = world.step().placements
    world.refusals = (Refusal(first.nodes[0], first.deployment, first.launch_hash, Reason.WEDGED, "no progress"),)
    found = world.plan()
    assert [(p.nodes, p.replaces) for p in found.placements] == [(("b",), None)]
    assert [(r.uid, r.reason) for r in found.retiring] == [(first.uid, Reason.NODE_REFUSED)]


def test_a_refusal_does_not_stop_what_has_become_ready() -> None:
    world = one_node()
    (first,) = world.settle().placements
    world.refusals = (Refusal(first.nodes[0], first.deployment, first.launch_hash, Reason.WEDGED, "no progress"),)
    assert [p.uid for p in world.plan().placements] == [first.uid]


# --- fewer and none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ((), Reason.DEPLOYMENT_REMOVED),
        ((deployment(suspend=True),), Reason.SUSPENDED),
        ((deployment(replicas=0),), Reason.REPLICA_REMOVED),
    ],
)
def test_what_is_not_wanted_any_more_goes_at_once(wanted: tuple[Deployment, ...], reason: Reason) -> None:
    world = one_node()
    world.settle()
    world.push(*wanted)
    found = world.plan()
    assert [(r.reason, r.until, r.keep) for r in found.retiring] == [(reason, None, False)]
    assert (found.placements, found.unplaced, found.outages) == ((), (), ())
    world.settle()
    assert not world.running


def test_scaling_down_keeps_the_lowest_replicas_that_serve() -> None:
    world = one_node(deployment(replicas=3))
    world.settle()
    by_replica = {r.replica: r for r in world.running.values()}
    world.running[by_replica[0].uid] = replace(by_replica[0], complete=False)
    world.push(deployment(replicas=1))
    found = world.plan()
    assert [p.replica for p in found.placements] == [1]
    world.settle()
    assert [r.replica for r in world.serving()] == [1]
    world.push(deployment(replicas=2), commit="c3")
    world.settle()
    assert sorted(r.replica for r in world.serving()) == [0, 1]


def test_two_runners_for_one_replica_become_one() -> None:
    world = two_nodes()
    (first,) = world.settle().placements
    twin = as_running(replace(first, uid=PlacementUid("f" * 16), ranks=(replace(first.ranks[0], node=NodeName("b")),)))
    world.running[twin.uid] = twin
    found = world.plan()
    assert [p.uid for p in found.placements] == [first.uid]
    assert [(r.uid, r.reason) for r in found.retiring] == [(twin.uid, Reason.SUPERSEDED)]
    assert not found.outages


def test_a_deployment_without_its_card_is_left_alone() -> None:
    world = one_node()
    (first,) = world.settle().placements
    broken = replace(world.fleet, cards={})
    found = plan(broken, (), world.members, tuple(world.running.values()), ())
    assert [(r.uid, r.keep) for r in found.retiring] == [(first.uid, True)]
    assert [u.message for u in found.unplaced] == ["the fleet has no card fox"]


def test_a_running_placement_of_unknown_hash_is_told_in_general_terms() -> None:
    world = one_node()
    (first,) = world.settle().placements
    old = replace(world.running.pop(first.uid), uid=PlacementUid("0" * 16), launch_hash=LaunchHash("0" * 64))
    world.running[old.uid] = old
    message = world.plan().retiring[0].message
    assert message == "the files or revision of fox, engine options or engine build changed"
