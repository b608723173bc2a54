"""Stories of one simulated node: the real loops, an hour of virtual time in a moment."""

from __future__ import annotations

import pytest
from simworlds import card, deployment, fleet, node, tree

from skulk.core.domain import ConditionType, LastWords, PlacementUid, Status
from skulk.gateway.readiness import is_ready
from skulk.sim.clock import Deadlock, VirtualClock, run
from skulk.sim.node import SimNode

CARDS = {"fox": card("fox"), "owl": card("owl")}
CHAT = {"chat": deployment("chat", "fox", contextTokens="2048")}


def the_runner(sim: SimNode) -> PlacementUid:
    (uid,) = [u for u, p in sim.host.processes.items() if p.alive]
    return uid


def test_virtual_time_jumps_and_a_deadlock_is_an_error():
    async def hour() -> float:
        clock = VirtualClock()
        await clock.sleep(3600.0)
        return clock.now()

    assert run(hour()) == pytest.approx(3600.0)

    async def stuck() -> None:
        import asyncio

        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(stuck())


def test_a_commit_becomes_ready():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        assert list(sim.serving) == ["chat"]
        assert sim.condition(ConditionType.READY)[:2] == (Status.TRUE, "Converged")
        assert sim.host.violations == []

    run(story())


def test_a_node_is_in_its_place_when_a_document_says_what_runs_and_all_of_it_runs():
    def settling(sim: SimNode) -> dict[str, tuple[bool, str]]:
        return {check.name: (check.ok, check.message) for check in sim.loop.view.checks if check.settling}

    async def story() -> None:
        sim = SimNode()
        await sim.boot()
        await sim.run_for(5)
        assert settling(sim)["placements"] == (False, "no document yet")
        assert settling(sim)["planes"] == (True, "0 of 0 other nodes are seen"), "a single node waits for nobody"
        sim.host.crash_on_load.add("chat")
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.run_for(30)
        assert settling(sim)["placements"] == (False, "0 of 1 placements are ready")
        assert is_ready(sim.loop.view), "it can serve"
        assert not is_ready(sim.loop.view, settled=True)
        sim.host.crash_on_load.clear()
        sim.loop.reset(frozenset(PlacementUid(r.name) for r in sim.loop.view.resources["placements"]))
        await sim.run_for(30)
        assert settling(sim)["placements"] == (True, "1 of 1 placements are ready")
        assert is_ready(sim.loop.view, settled=True)

    run(story())


def test_a_change_of_load_is_shown_but_what_came_and_went_is_no_reason_for_a_round():
    def shown(sim: SimNode) -> int:
        (runner,) = sim.loop.view.resources["runners"]
        return runner.status["running"]

    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        while sim.loop.beat_age_seconds > 0.1:
            await sim.run_for(0.05)
        await sim.run_for(0.2)
        sim.loop.look_at_load()
        await sim.run_for(0.1)
        assert sim.loop.beat_age_seconds > 0.3
        assert shown(sim) == 0
        sim.host.requests = 2
        sim.loop.look_at_load()
        await sim.run_for(0.1)
        assert sim.loop.beat_age_seconds < 0.2
        assert shown(sim) == 2

    run(story())


def test_an_invalid_commit_changes_nothing_and_is_named_by_file_and_line():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        before, starts = the_runner(sim), len(sim.host.starts)
        sim.repo.commit(tree({"chat": deployment("chat", "fox", replicaz="3")}, CARDS))
        await sim.run_for(30)
        assert (the_runner(sim), len(sim.host.starts)) == (before, starts)
        status, reason, message = sim.condition(ConditionType.STALLED)
        assert (status, reason) == (Status.TRUE, "InvalidManifests")
        assert "fleet/deployments/chat.yaml:7:3" in message
        sim.repo.commit(tree(CHAT, CARDS, fleet=fleet(defaults="{concurrency: 1}")))
        await sim.run_for(30)
        assert sim.condition(ConditionType.READY)[0] is Status.TRUE
        assert the_runner(sim) == before

    run(story())


def test_start_first_never_leaves_a_moment_without_a_ready_runner():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        old = the_runner(sim)
        sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="1024")}, CARDS))
        for _ in range(300):
            await sim.run_for(0.1)
            assert sim.serving.get("chat"), f"nothing serves at {sim.clock.now():.1f}"
        assert the_runner(sim) != old
        assert sim.host.violations == []

    run(story())


def test_stop_first_stops_before_it_starts():
    async def story() -> None:
        sim = SimNode()
        strategy = {"update": "{strategy: stop-first}"}
        sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="2048", **strategy)}, CARDS))
        await sim.boot()
        await sim.run_for(30)
        sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="1024", **strategy)}, CARDS))
        most = 0
        for _ in range(300):
            await sim.run_for(0.1)
            most = max(most, sum(1 for p in sim.host.processes.values() if p.alive))
        assert most == 1
        assert sim.condition(ConditionType.READY)[0] is Status.TRUE

    run(story())


def test_start_first_without_room_for_both_keeps_the_old_one_and_says_so():
    async def story() -> None:
        sim = SimNode(memory_bytes=4 * 2**30)
        cards = {"fox": card("fox", gib=1.5)}
        sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="2048")}, cards))
        await sim.boot()
        await sim.run_for(30)
        old = the_runner(sim)
        sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="1024")}, cards))
        await sim.run_for(60)
        assert the_runner(sim) == old
        assert sim.serving["chat"]
        assert sim.condition(ConditionType.READY)[1] == "Converging"
        (chat,) = sim.loop.view.resources["deployments"]
        assert chat.conditions[0].reason.value == "SurgeDoesNotFit"
        assert "GiB" in chat.conditions[0].message

    run(story())


def test_a_crashed_runner_comes_back_with_growing_pauses_and_the_breaker_opens_on_a_loop():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        sim.host.crash(the_runner(sim))
        await sim.run_for(10)
        assert sim.serving["chat"]
        sim.host.crash_on_load.add("chat")
        sim.host.crash(the_runner(sim))
        await sim.run_for(300)
        starts = len(sim.host.starts)
        (chat,) = sim.loop.view.resources["deployments"]
        assert chat.conditions[0].reason.value == "BreakerOpen"
        await sim.run_for(3600)
        assert len(sim.host.starts) == starts
        sim.host.crash_on_load.clear()
        placements = frozenset(PlacementUid(r.name) for r in sim.loop.view.resources["placements"])
        assert sim.loop.reset(placements) == 1
        await sim.run_for(30)
        assert sim.serving["chat"]

    run(story())


def test_a_wedged_runner_is_not_retried_even_by_the_next_daemon_until_the_inputs_change():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        sim.host.crash(the_runner(sim), LastWords(86, "SK-RUN-005", "no step for 120 s"))
        await sim.run_for(60)
        starts = len(sim.host.starts)
        await sim.kill_daemon()
        await sim.boot()
        await sim.run_for(600)
        assert len(sim.host.starts) == starts
        (chat,) = sim.loop.view.resources["deployments"]
        assert chat.conditions[0].reason.value == "Wedged"
        sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="1024")}, CARDS))
        await sim.run_for(30)
        assert sim.serving["chat"]

    run(story())


def test_a_frozen_runner_is_killed_and_replaced():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        first = sim.host.processes[the_runner(sim)].pid
        sim.host.freeze(the_runner(sim))
        await sim.run_for(60)
        assert sim.host.processes[the_runner(sim)].pid != first
        assert sim.serving["chat"]

    run(story())


def test_a_killed_daemon_leaves_runners_that_the_next_one_adopts_without_a_start():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        starts = len(sim.host.starts)
        await sim.kill_daemon()
        sim.repo.down = True
        await sim.boot()
        await sim.run_for(1)
        assert sim.serving["chat"]
        await sim.run_for(600)
        assert len(sim.host.starts) == starts
        assert sim.condition(ConditionType.READY)[0] is Status.TRUE

    run(story())


def test_without_a_remote_and_without_a_journal_nothing_is_stopped():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        await sim.kill_daemon()
        sim.journal.persisted = type(sim.journal.persisted)()
        sim.repo.down = True
        await sim.boot()
        await sim.run_for(3600)
        assert the_runner(sim)

    run(story())


def test_a_node_whose_manifest_goes_drains_and_leaves_and_returns_with_it():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        elsewhere = {**tree(CHAT, CARDS), "fleet/nodes/other.yaml": node("other")}
        del elsewhere["fleet/nodes/demo.yaml"]
        sim.repo.commit(elsewhere)
        await sim.run_for(60)
        assert [p for p in sim.host.processes.values() if p.alive] == []
        assert any(c.reason.value == "Leaving" for c in sim.loop.view.conditions)
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.run_for(60)
        assert sim.serving["chat"]

    run(story())


def test_a_failing_fetch_is_retried_until_the_files_are_there():
    async def story() -> None:
        sim = SimNode()
        sim.weights.failing.add("fox")
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(120)
        (chat,) = sim.loop.view.resources["deployments"]
        assert chat.conditions[0].reason.value == "FetchFailed"
        sim.weights.failing.clear()
        await sim.run_for(400)
        assert sim.serving["chat"]

    run(story())


def test_deleting_a_deployment_drains_then_stops_it():
    async def story() -> None:
        sim = SimNode()
        sim.host.busy_for = 5.0
        two = {"chat": CHAT["chat"], "other": deployment("other", "owl")}
        sim.repo.commit(tree(two, CARDS))
        await sim.boot()
        await sim.run_for(30)
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.run_for(3)
        assert list(sim.serving) == ["chat"]
        assert len([p for p in sim.host.processes.values() if p.alive]) == 2
        await sim.run_for(10)
        assert len([p for p in sim.host.processes.values() if p.alive]) == 1

    run(story())


def test_a_commit_that_removes_much_is_held_back_and_names_what_it_would_remove():
    async def story() -> None:
        sim = SimNode()
        names = ("a", "b", "c")
        sim.repo.commit(tree({n: deployment(n, "fox", contextTokens="512") for n in names}, CARDS))
        await sim.boot()
        await sim.run_for(40)
        assert list(sim.serving) == list(names)
        sim.repo.commit(tree({"a": deployment("a", "fox", contextTokens="512")}, CARDS))
        await sim.run_for(40)
        assert list(sim.serving) == list(names)
        status, reason, message = sim.condition(ConditionType.STALLED)
        assert (status, reason) == (Status.TRUE, "PruneProtected")
        assert "b, c" in message
        allowed = fleet(prune="{allowRemoval: [b, c]}")
        sim.repo.commit(tree({"a": deployment("a", "fox", contextTokens="512")}, CARDS, fleet=allowed))
        await sim.run_for(40)
        assert list(sim.serving) == ["a"]

    run(story())


def test_history_never_goes_backwards():
    async def story() -> None:
        sim = SimNode()
        first = sim.repo.commit(tree(CHAT, CARDS))
        second = sim.repo.commit(tree({"chat": deployment("chat", "fox", contextTokens="1024")}, CARDS))
        await sim.boot()
        await sim.run_for(30)
        serving = sim.serving
        sim.repo.branch = first
        await sim.run_for(30)
        assert sim.condition(ConditionType.STALLED)[1] == "StaleCommit"
        sim.repo.commit(tree({"chat": deployment("chat", "owl")}, CARDS), parent=first, rewrite=True)
        await sim.run_for(30)
        assert sim.condition(ConditionType.STALLED)[1] == "HistoryRewritten"
        assert sim.serving == serving
        sim.repo.branch = second
        await sim.run_for(30)
        assert sim.condition(ConditionType.READY)[0] is Status.TRUE

    run(story())


def test_a_fleet_that_demands_signatures_judges_the_next_commit_by_it():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS, fleet=fleet(source="{verify: head}")))
        await sim.boot()
        await sim.run_for(30)
        serving = sim.serving
        unsigned = sim.repo.commit(tree({"chat": deployment("chat", "owl")}, CARDS))
        sim.repo.unsigned.add(unsigned)
        await sim.run_for(30)
        assert sim.condition(ConditionType.STALLED)[1] == "SignatureRefused"
        assert sim.serving == serving

    run(story())


def test_a_lost_mirror_does_not_open_the_way_back():
    async def story() -> None:
        sim = SimNode()
        first = sim.repo.commit(tree(CHAT, CARDS))
        sim.repo.commit(tree({"chat": deployment("chat", "owl", contextTokens="1024")}, CARDS))
        await sim.boot()
        await sim.run_for(30)
        serving = sim.serving
        await sim.kill_daemon()
        newest, sim.repo.branch = sim.repo.branch, first
        sim.repo.unreadable.add(newest)
        await sim.boot()
        await sim.run_for(30)
        assert sim.condition(ConditionType.STALLED)[1] == "StaleCommit"
        sim.repo.unreadable.clear()
        sim.repo.branch = newest
        await sim.run_for(30)
        assert sim.condition(ConditionType.READY)[0] is Status.TRUE
        assert sim.serving == serving

    run(story())
