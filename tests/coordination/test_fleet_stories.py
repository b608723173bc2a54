"""Stories of a simulated fleet: real coordination, real planner, a network that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from coordination_worlds import deployment, fleet

from skulk.core.coordination import Durable
from skulk.core.coordination.limits import COMMIT_UNSEEN_SECONDS_MAX, GRACE_SECONDS, PATIENCE_SECONDS
from skulk.core.domain import NodeName, Quorum, Reason
from skulk.sim.clock import run
from skulk.sim.fleet import SimFleet

# Start to one document with everything ready, on five nodes: settle, discovery, loading.
START_SECONDS = 10.0
# A new document after a kill, after a cut, and one document after the heal.
KILL_SECONDS = 3.0
CUT_SECONDS = 5.0
HEAL_SECONDS = 5.0


async def started(nodes: int = 5, quorum: Quorum = Quorum.NONE) -> SimFleet:
    sim = SimFleet(fleet(nodes, quorum=quorum))
    sim.boot()
    await sim.until(sim.settled, START_SECONDS)
    return sim


def runners(sim: SimFleet) -> dict[str, set[str]]:
    return {name: set(node.runners) for name, node in sim.nodes.items() if node.runners}


def author(sim: SimFleet, name: str) -> str:
    return sim[name].document.version.author


def test_nodes_that_start_together_come_to_one_document_of_the_lowest_ordinal():
    async def story() -> None:
        sim = await started()
        assert sim.coordinators == ["n1"]
        assert len(sim.watch.published) == 1
        assert sim.watch.stops == []

    run(story())


def test_a_coordinators_death_moves_no_complete_placement_and_is_followed_by_a_document_in_time():
    async def story() -> None:
        sim = await started()
        before = runners(sim)
        sim["n1"].crash()
        await sim.until(lambda: author(sim, "n5") == "n2", KILL_SECONDS)
        await sim.run_for(PATIENCE_SECONDS - KILL_SECONDS)
        assert runners(sim) == before
        await sim.run_for(30.0)
        assert all(before[name] <= runners(sim)[name] for name in before)
        assert sim.watch.stops == []
        assert sim.watch.violations == []

    run(story())


def test_a_coordinator_that_returns_with_an_empty_memory_does_not_take_over_and_moves_nothing():
    async def story() -> None:
        sim = await started()
        sim["n1"].crash()
        sim["n1"].durable = Durable()
        await sim.until(lambda: author(sim, "n5") == "n2", KILL_SECONDS)
        before = runners(sim)
        sim.boot("n1")
        await sim.until(sim.settled, START_SECONDS)
        assert sim.coordinators == ["n2"]
        assert runners(sim) == before
        assert {d.version.author for _, d in sim.watch.published[1:]} == {"n2"}

    run(story())


def test_a_daemon_that_restarts_quickly_keeps_its_office_and_its_runners():
    async def story() -> None:
        sim = await started()
        before = runners(sim)
        sim["n1"].crash()
        sim.boot("n1")
        await sim.run_for(0.3)
        assert sim["n1"].document is not None
        await sim.until(sim.settled, START_SECONDS)
        assert runners(sim) == before

    run(story())


def test_both_sides_of_a_partition_keep_serving_and_fold_back_into_one_document():
    async def story() -> None:
        sim = await started()
        served = sim.serving()
        sides = ["n1", "n2"], ["n3", "n4", "n5"]
        sim.network.part(*sides)
        await sim.until(lambda: author(sim, "n3") == "n3" and author(sim, "n2") == "n1", CUT_SECONDS)
        assert sim.serving() == served
        await sim.run_for(PATIENCE_SECONDS + 5.0)
        for side in sides:
            assert {name: len(uids) for name, uids in sim.serving(side).items()} == {"chat": 2, "code": 1}
        assert sorted(sim.coordinators) == ["n1", "n3"]
        assert sim.watch.stops == []
        sim.network.heal()
        await sim.until(lambda: len({n.document.version for n in sim.nodes.values()}) == 1, HEAL_SECONDS)
        await sim.until(sim.settled, START_SECONDS)
        assert len(sim.coordinators) == 1
        assert sim.watch.violations == []

    run(story())


def test_a_newer_commit_seen_on_one_side_wins_after_the_partition():
    async def story() -> None:
        sim = await started()
        sides = ["n1", "n2"], ["n3", "n4", "n5"]
        sim.network.part(*sides)
        for name in sides[1]:
            sim[name].source_up = False
        await sim.run_for(PATIENCE_SECONDS + 5.0)
        newest = sim.commit(fleet(5, deployment("chat", replicas=3), deployment("code")))
        await sim.until(lambda: all(sim[name].document.commit == newest for name in sides[0]), HEAL_SECONDS)
        assert all(sim[name].document.commit != newest for name in sides[1])
        sim.network.heal()
        await sim.until(sim.settled, START_SECONDS)
        assert sim.watch.violations == []

    run(story())


def test_a_frozen_coordinator_is_succeeded_and_a_thawed_one_does_not_keep_a_document_of_its_own():
    async def story() -> None:
        sim = await started()
        before = runners(sim)
        sim["n1"].frozen = True
        await sim.until(lambda: author(sim, "n5") == "n2", CUT_SECONDS)
        sim["n1"].frozen = False
        await sim.until(sim.settled, HEAL_SECONDS)
        assert sim.coordinators == ["n2"]
        assert runners(sim) == before

    run(story())


def test_a_freeze_that_nobody_noticed_changes_nothing_for_good():
    async def story() -> None:
        sim = await started()
        before = runners(sim)
        sim["n1"].frozen = True
        await sim.run_for(1.5)
        sim["n1"].frozen = False
        await sim.run_for(10.0)
        assert sim.settled()
        assert runners(sim) == before

    run(story())


def test_a_node_that_starts_alone_publishes_nothing_in_its_grace_and_joins_without_moving_anything():
    async def story() -> None:
        sim = await started()
        sim["n5"].power_off()
        await sim.run_for(PATIENCE_SECONDS + 10.0)
        before, published = runners(sim), len(sim.watch.published)
        sim["n5"].durable = Durable()
        sim.network.part(["n5"], ["n1", "n2", "n3", "n4"])
        sim.boot("n5")
        await sim.run_for(GRACE_SECONDS - 2.0)
        assert [d for _, d in sim.watch.published[published:] if d.version.author == "n5"] == []
        sim.network.heal()
        await sim.until(sim.settled, START_SECONDS)
        assert runners(sim) == before
        assert sim.coordinators == ["n1"]

    run(story())


def test_a_node_that_can_run_nothing_and_sees_nobody_never_publishes():
    async def story() -> None:
        sim = SimFleet(fleet(3))
        sim["n1"].builds = ()
        sim.boot("n1")
        await sim.run_for(10 * GRACE_SECONDS)
        assert sim.watch.published == []

    run(story())


def test_a_live_member_that_answers_nothing_keeps_what_it_runs():
    async def story() -> None:
        sim = await started()
        kept = set(sim["n3"].runners)
        assert kept
        sim["n3"].mute = True
        sim.boot("n2")
        sim["n2"].crash()
        await sim.run_for(60.0)
        assert set(sim["n3"].runners) == kept
        assert kept <= {p.uid for p in sim["n1"].document.blueprint.on_node(NodeName("n3"))}
        assert "n3" not in sim["n1"].document.members
        sim["n3"].mute = False
        sim.boot("n2")
        await sim.until(sim.settled, START_SECONDS)
        assert set(sim["n3"].runners) == kept

    run(story())


def test_a_member_that_cannot_see_the_commit_delays_it_and_then_keeps_what_it_has():
    async def story() -> None:
        sim = await started(3)
        kept = set(sim["n3"].runners)
        sim["n3"].verifies = False
        newest = sim.commit(fleet(3, deployment("chat", replicas=2), deployment("code", replicas=2), revision="r2"))
        took = await sim.until(lambda: sim["n1"].document.commit == newest, COMMIT_UNSEEN_SECONDS_MAX + 2.0)
        assert took > COMMIT_UNSEEN_SECONDS_MAX - 2.0
        await sim.run_for(30.0)
        assert set(sim["n3"].runners) == kept
        assert sim["n3"].document.commit != newest
        assert sim.watch.violations == []

    run(story())


def test_an_invalid_commit_on_one_member_is_in_force_on_none_until_it_is_mended():
    async def story() -> None:
        sim = await started(3)
        before = runners(sim)
        broken = sim.commit(fleet(3, deployment("chat", replicas=3)))
        sim["n2"].refuses[broken] = "fleet/deployments/chat.yaml:7:3 unknown field"
        await sim.run_for(2 * COMMIT_UNSEEN_SECONDS_MAX)
        assert runners(sim) == before
        assert {n.document.commit for n in sim.nodes.values()} == {sim.history[0].commit}
        (condition,) = sim["n1"].outputs.conditions
        assert condition.reason is Reason.COMMIT_BLOCKED
        assert "n2: fleet/deployments/chat.yaml:7:3" in condition.message
        sim["n2"].crash()
        await sim.run_for(5.0)
        sim.boot("n2")
        sim.commit(fleet(3, deployment("chat", replicas=3)))
        await sim.until(sim.settled, START_SECONDS)

    run(story())


def test_a_coordinator_that_cannot_write_announces_nothing():
    async def story() -> None:
        sim = await started(3)
        sim["n1"].disk_full = True
        held = {name: node.document for name, node in sim.nodes.items()}
        sim.commit(fleet(3, deployment("chat", replicas=3)))
        await sim.run_for(20.0)
        assert {name: node.document for name, node in sim.nodes.items()} == held
        sim["n1"].disk_full = False
        await sim.until(sim.settled, START_SECONDS)

    run(story())


def test_a_coordinator_that_dies_between_disk_and_announcement_never_uses_the_number_again():
    async def story() -> None:
        sim = await started(3)
        sim["n1"].torn = True
        sim.commit(fleet(3, deployment("chat", replicas=3)))
        await sim.until(lambda: not sim["n1"].up, START_SECONDS)
        lost = sim["n1"].document.version
        sim.boot("n1")
        await sim.until(sim.settled, START_SECONDS)
        assert sim["n3"].document.version.epoch > lost.epoch
        assert sim.watch.violations == []

    run(story())


def test_a_whole_fleet_that_lost_power_comes_back_with_what_it_had():
    async def story() -> None:
        sim = await started()
        before = runners(sim)
        for node in sim.nodes.values():
            node.power_off()
        await sim.run_for(5.0)
        for name in ("n3", "n5", "n1", "n4", "n2"):
            sim.boot(name)
            await sim.run_for(3.0)
        await sim.until(sim.settled, START_SECONDS)
        assert runners(sim) == before

    run(story())


def test_a_node_added_by_a_commit_moves_nothing_and_a_removed_one_is_replaced():
    async def story() -> None:
        sim = await started(3)
        before = runners(sim)
        sim.commit(fleet(4))
        await sim.run_for(5.0)
        sim.add("n4").boot()
        await sim.until(sim.settled, START_SECONDS)
        assert runners(sim) == before
        sim.commit(fleet(("n1", "n2", "n4")))
        await sim.until(sim.settled, 2 * START_SECONDS)
        assert sim["n3"].runners == {}
        assert all(before[name] <= runners(sim)[name] for name in ("n1", "n2"))

    run(story())


def test_under_majority_the_smaller_side_publishes_nothing_and_serves_on():
    async def story() -> None:
        sim = await started(5, Quorum.MAJORITY)
        kept = {name: set(sim[name].runners) for name in ("n1", "n2")}
        sim.network.part(["n1", "n2"], ["n3", "n4", "n5"])
        published = len(sim.watch.published)
        await sim.run_for(120.0)
        assert {d.version.author for _, d in sim.watch.published[published:]} == {"n3"}
        assert {name: set(sim[name].runners) for name in ("n1", "n2")} == kept
        sim.network.heal()
        await sim.until(sim.settled, START_SECONDS)

    run(story())


def test_messages_that_are_lost_doubled_and_overtaken_only_cost_time():
    async def story() -> None:
        sim = SimFleet(fleet(5), seed=3)
        sim.network.loss, sim.network.doubling, sim.network.delay_seconds_max = 0.5, 0.5, 0.5
        sim.boot()
        await sim.until(sim.settled, 60.0)
        sim.commit(fleet(5, deployment("chat", replicas=4)))
        await sim.until(sim.settled, 90.0)
        assert sim.watch.violations == []

    run(story())


def test_a_long_isolation_of_every_node_stops_nothing():
    async def story() -> None:
        sim = await started()
        before = runners(sim)
        names = list(sim.nodes)
        sim.network.part(*[[name] for name in names])
        for name in names:
            sim[name].source_up = False
        await sim.run_for(300.0)
        assert all(before[name] <= runners(sim)[name] for name in before)
        assert sim.watch.stops == []

    run(story())


@pytest.mark.parametrize("nodes", [1, 2])
def test_small_fleets_work_alike(nodes):
    async def story() -> None:
        sim = await started(nodes)
        sim[f"n{nodes}"].crash()
        await sim.run_for(3.0)
        sim.boot()
        await sim.until(sim.settled, START_SECONDS)

    run(story())


def test_a_new_ordinal_of_the_coordinator_gives_it_an_epoch_of_its_own_again():
    async def story() -> None:
        sim = await started(2)
        first = fleet(2)
        changed = replace(first, nodes={**first.nodes, NodeName("n1"): replace(first.nodes[NodeName("n1")], ordinal=7)})
        sim.commit(changed)
        await sim.until(sim.settled, START_SECONDS)
        assert sim.watch.violations == []

    run(story())
