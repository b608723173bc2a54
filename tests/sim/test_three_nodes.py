"""Stories of three simulated nodes: the real loops and the real planes, on virtual time and a network that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from simfleets import CHAT, NAMES, TWICE, Fleet, apart
from simworlds import fleet

from skulk.core.coordination import compose
from skulk.core.coordination.limits import EPOCHS_PER_ROUND
from skulk.core.coordination.planes_report import Told, encode_announcement, encode_told
from skulk.core.domain import CommitId, ConditionType, NodeName, Status, Topic
from skulk.sim.clock import run
from skulk.sim.fakes import FakeRepo


def story(body: Callable[[Fleet], object]) -> None:
    async def whole() -> None:
        fleet = Fleet()
        await body(fleet)  # type: ignore[misc]
        assert all(sim.host.violations == [] for sim in fleet.nodes.values())
        for sim in fleet.nodes.values():
            if sim.loop is not None:
                await sim.kill_daemon()
        await asyncio.sleep(0)

    run(whole())


def test_one_of_three_gets_the_replica_and_all_follow_one_document():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(CHAT)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(1))
        assert fleet.coordinator == "a"
        again = fleet.repo.commit(TWICE)
        await fleet.until(lambda: fleet.agreed(again) and fleet.ready(2))
        assert len(set(fleet.alive().values())) == 2

    story(body)


def test_the_death_of_the_coordinator_moves_nothing_and_another_one_goes_on():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(TWICE)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(2))
        before = fleet.alive()
        await fleet["a"].kill_daemon()
        left = [n for n in NAMES if n != "a"]
        await fleet.until(lambda: fleet["b"].coordination.outputs.coordinator == "b", 10)
        again = fleet.repo.commit(apart(3))
        await fleet.until(lambda: fleet.agreed(again, *left), 30)
        assert before.items() <= fleet.alive().items()
        await fleet["a"].boot()
        await fleet.until(lambda: fleet.agreed(again) and fleet.ready(3))
        assert before.items() <= fleet.alive().items()
        assert fleet.coordinator == "b"

    story(body)


def test_a_node_is_in_its_place_when_it_sees_another_one():
    def seen(fleet: Fleet, name: str) -> tuple[bool, str]:
        (check,) = [check for check in fleet[name].loop.view.checks if check.name == "planes"]
        assert check.settling
        return check.ok, check.message

    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(TWICE)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(2))
        await fleet.until(lambda: seen(fleet, "a") == (True, "2 of 2 other nodes are seen"))
        fleet.network.partition(("a",), ("b", "c"))
        await fleet.until(lambda: seen(fleet, "a") == (False, "0 of 2 other nodes are seen"))
        await fleet.until(lambda: seen(fleet, "b") == (True, "1 of 2 other nodes are seen"))
        fleet.network.heal()
        await fleet.until(lambda: seen(fleet, "a")[0])

    story(body)


def test_two_sides_of_a_cut_go_on_and_fold_back_into_one_document():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(TWICE)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(2))
        before = fleet.alive()
        fleet.network.partition(("a",), ("b", "c"))
        await fleet.until(lambda: fleet["c"].coordination.outputs.coordinator == "b", 10)
        again = fleet.repo.commit(apart(2, priority="1"))
        await fleet.until(lambda: fleet.agreed(again, "b", "c") and fleet.agreed(again, "a"), 60)
        fleet.network.heal()
        await fleet.until(lambda: fleet.agreed(again) and fleet.ready(2), 60)
        assert before.keys() & fleet.alive().keys(), "somebody kept serving throughout"

    story(body)


def test_a_node_whose_remote_is_away_gets_the_commit_from_another_member():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(CHAT)
        own = FakeRepo()
        own.commit(CHAT)
        fleet["c"].repo = own
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(1))
        own.down = True
        again = fleet.repo.commit(TWICE)
        took = await fleet.until(lambda: fleet.agreed(again) and fleet.ready(2))
        assert took < 25, "earlier than a member that has not seen a commit is passed over"
        assert any(c.reason.value.startswith("Source") for c in fleet["c"].source.state.conditions)  # type: ignore[union-attr]

    story(body)


def test_a_commit_that_one_node_finds_invalid_blocks_it_by_name():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(CHAT)
        own = FakeRepo()
        own.commit(CHAT)
        fleet["c"].repo = own
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(1))
        again = fleet.repo.commit(TWICE)
        own.trees[again] = tuple(f for f in fleet.repo.trees[again] if "owl" not in f.path and "fox" not in f.path)
        own.parents[again], own.branch = commit, again
        for sim in fleet.nodes.values():
            await sim.run_for(40)
        assert fleet.agreed(commit)
        status, reason, message = fleet["a"].condition(ConditionType.STALLED)
        assert (status, reason) == (Status.TRUE, "CommitBlocked")
        assert "on c:" in message
        assert "fleet/deployments/chat.yaml" in message

    story(body)


def test_a_node_that_cannot_take_a_replica_hands_it_on():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(CHAT)
        fleet["a"].probe.used = lambda: 16 * 2**30
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(1), 90)
        assert set(fleet.alive().values()) != {"a"}

    story(body)


def test_a_node_removed_by_a_commit_drains_and_its_replica_goes_elsewhere():
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(CHAT)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(1))
        (place,) = fleet.alive().values()
        without = {path: text for path, text in CHAT.items() if path != f"fleet/nodes/{place}.yaml"}
        again = fleet.repo.commit(without)
        left = [n for n in NAMES if n != place]
        await fleet.until(lambda: fleet.agreed(again, *left) and place not in fleet.alive().values(), 60)
        await fleet.until(lambda: fleet.ready(1), 60)

    story(body)


@pytest.mark.parametrize("quorum", ["none", "majority"])
def test_a_minority_publishes_nothing_under_quorum_majority(quorum: str):
    async def body(fleet_: Fleet) -> None:
        extra = {"fleet/fleet.yaml": fleet(coordination=f"{{quorum: {quorum}}}")}
        commit = fleet_.repo.commit({**CHAT, **extra})
        await fleet_.boot()
        await fleet_.until(lambda: fleet_.agreed(commit) and fleet_.ready(1))
        await fleet_["b"].kill_daemon()
        await fleet_["c"].kill_daemon()
        again = fleet_.repo.commit({**TWICE, **extra})
        await fleet_["a"].run_for(60)
        assert fleet_.agreed(again, "a") is (quorum == "none")

    story(body)


@pytest.mark.parametrize("proof", ["none", "its own", "of another document"])
def test_a_member_cannot_put_a_document_into_another_ones_mouth(proof: str):
    async def body(fleet: Fleet) -> None:
        commit = fleet.repo.commit(CHAT)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(1))
        true = fleet["c"].coordination.state.durable.document
        assert true is not None
        assert true.version.author == "a"
        planes = await fleet["c"].silence()
        # Nothing placed, by "a", newer than the true one: whoever believed it would stop the runner.
        empty = replace(true.blueprint, placements=(), seq=true.version.seq + 1)
        forged = compose(NodeName("a"), tuple(true.members), empty)
        planes.hold([forged.body])
        own = planes.publish(Topic.ANNOUNCEMENT, encode_announcement(forged.version))
        told, _ = fleet["b"].coordination.hearing.told[NodeName("c")]
        proofs = {"none": b"", "its own": own, "of another document": told.proof}
        lie = replace(told.report, accepted=forged.version)
        planes.publish(Topic.STATUS, encode_told(Told(told.number + 1, proofs[proof], lie)))
        for name in ("a", "b"):
            await fleet[name].run_for(10)
        assert fleet["b"].coordination.hearing.told[NodeName("c")][0].report.accepted == forged.version, "it was heard"
        assert all(fleet[n].coordination.state.durable.document != forged for n in ("a", "b"))
        assert len(fleet.alive()) == 1

    story(body)


def test_an_old_document_that_is_told_again_changes_nothing():
    async def body(fleet: Fleet) -> None:
        first = fleet.repo.commit(CHAT)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(first) and fleet.ready(1))
        old = fleet["c"].coordination.state.durable.document
        assert old is not None
        told, _ = fleet["b"].coordination.hearing.told[NodeName("c")]
        second = fleet.repo.commit(TWICE)
        await fleet.until(lambda: fleet.agreed(second) and fleet.ready(2))
        now = fleet.documents()["b"]
        planes = await fleet["c"].silence()
        planes.hold([old.body])
        planes.publish(Topic.STATUS, encode_told(replace(told, number=told.number + 1000)))
        for name in ("a", "b"):
            await fleet[name].run_for(10)
        assert fleet.documents()["b"] == now
        assert len(fleet.alive()) >= 2

    story(body)


async def followed(fleet: Fleet, seconds: float) -> dict[str, list[str]]:
    """The commits that each node acts on during that time, every change once."""
    seen: dict[str, list[str]] = {name: [] for name in NAMES}
    began = fleet["a"].clock.now()
    while fleet["a"].clock.now() - began < seconds:
        for name, document in fleet.documents().items():
            if document is not None and seen[name][-1:] != [document[2]]:
                seen[name].append(document[2])
        for sim in fleet.nodes.values():
            await sim.run_for(0.02)
    return seen


@pytest.mark.parametrize("history", [True, False], ids=["force push with allowance", "directories"])
def test_what_replaced_an_earlier_state_is_not_undone_by_a_node_that_still_has_it(history: bool):
    async def body(fleet: Fleet) -> None:
        own = FakeRepo()
        fleet["c"].repo = own
        own.trees, own.parents = fleet.repo.trees, fleet.repo.parents
        fleet.repo.history = own.history = history
        for sim in fleet.nodes.values():
            sim.allow_force_push = True
        first = fleet.repo.commit(CHAT)
        own.branch = first
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(first) and fleet.ready(1))
        second = fleet.repo.commit(TWICE)
        own.branch = second
        await fleet.until(lambda: fleet.agreed(second) and fleet.ready(2))
        fleet.network.partition(("a", "b"), ("c",))
        third = fleet.repo.commit(apart(2, priority="1"), parent=first, rewrite=True)
        await fleet.until(lambda: fleet.agreed(third, "a", "b"))
        fourth = fleet.repo.commit(apart(2, priority="2"))
        await fleet.until(lambda: fleet.agreed(fourth, "a", "b"))
        fleet.network.heal()
        seen = await followed(fleet, 60)
        assert (seen["a"], seen["b"]) == ([fourth], [fourth])
        own.branch = fourth
        await fleet.until(lambda: fleet.agreed(fourth) and fleet.ready(2), 90)

    story(body)


def test_commits_that_only_some_nodes_may_take_are_reported_by_name_and_do_not_busy_the_others():
    """One node refuses a rewritten history that the others are allowed to follow."""

    async def body(fleet: Fleet) -> None:
        for name in ("a", "b"):
            fleet[name].allow_force_push = True
        first = fleet.repo.commit(CHAT)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(first) and fleet.ready(1))
        before = fleet.alive()
        second = fleet.repo.commit(TWICE, rewrite=True)
        for sim in fleet.nodes.values():
            await sim.run_for(10)
        third = fleet.repo.commit(apart(3), parent=second)
        looks = 0
        head = fleet.repo.head

        async def counted() -> CommitId:
            nonlocal looks
            looks += 1
            return await head()

        fleet.repo.head = counted  # type: ignore[method-assign]
        for sim in fleet.nodes.values():
            await sim.run_for(20)
        assert fleet["a"].source is not None
        assert fleet["a"].source.state.accepted == third
        assert fleet.agreed(first), "what one node refuses is not in force"
        assert fleet.alive() == before
        status, reason, message = fleet["a"].condition(ConditionType.STALLED)
        assert (status, reason) == (Status.TRUE, "CommitBlocked")
        assert "on c:" in message
        assert looks < 3 * 60 * 2, "a poll a second on each node, and a few more"

    story(body)


def test_two_nodes_that_do_not_see_each_other_neither_fight_nor_move_anything():
    async def body(fleet: Fleet) -> None:
        fleet.network.relay = False
        commit = fleet.repo.commit(TWICE)
        await fleet.boot()
        await fleet.until(lambda: fleet.agreed(commit) and fleet.ready(2))
        before = fleet.alive()
        fleet.network.cut("a", "b")
        await fleet.pass_time(10.0)
        epoch = max(d[0] for d in fleet.documents().values() if d is not None)
        await fleet.pass_time(60.0)
        later = max(d[0] for d in fleet.documents().values() if d is not None)
        assert later - epoch <= EPOCHS_PER_ROUND * 3, "they outbid one another"
        assert fleet.alive() == before
        again = fleet.repo.commit(apart(3))
        fleet.network.heal()
        await fleet.until(lambda: fleet.agreed(again) and fleet.ready(3))
        assert before.items() <= fleet.alive().items()

    story(body)
