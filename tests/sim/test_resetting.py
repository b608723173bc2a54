"""What a person's reset clears: also a fetch that was given up, and what is believed of files on disk."""

from __future__ import annotations

from simworlds import card, deployment, tree

from skulk.core.domain import PlacementUid
from skulk.sim.clock import run
from skulk.sim.node import SimNode

CARDS = {"fox": card("fox")}
CHAT = {"chat": deployment("chat", "fox", contextTokens="2048")}


def placements(sim: SimNode) -> frozenset[PlacementUid]:
    assert sim.loop is not None
    return frozenset(PlacementUid(r.name) for r in sim.loop.view.resources["placements"])


def test_a_fetch_that_was_given_up_is_tried_again_after_a_reset():
    async def story() -> None:
        sim = SimNode()
        sim.weights.failing.add("fox")
        sim.weights.refused.add("fox")
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        sim.weights.failing.clear()
        await sim.run_for(3600)
        assert not sim.serving, "nobody said that the cause is gone"
        assert sim.loop is not None
        assert sim.loop.reset(placements(sim)) == 1
        assert sim.loop.reset(placements(sim)) == 0, "once is enough"
        await sim.run_for(30)
        assert sim.serving["chat"]

    run(story())


def test_a_reset_has_the_files_of_a_runner_that_cannot_load_looked_at_again():
    async def story() -> None:
        sim = SimNode()
        sim.repo.commit(tree(CHAT, CARDS))
        await sim.boot()
        await sim.run_for(30)
        (before,) = sim.weights.observe().values()
        assert sim.loop is not None
        assert sim.loop.reset(placements(sim)) == 0
        await sim.run_for(1)
        assert list(sim.weights.observe().values()) == [before], "a runner that serves proves its files"
        sim.host.crash_on_load.add("chat")
        sim.host.crash(next(iter(sim.host.processes)))
        await sim.run_for(300)
        # The fake's files are brought anew, which fails now: so the old ones were not taken on trust.
        sim.weights.failing.add("fox")
        assert sim.loop.reset(placements(sim)) == 1
        await sim.run_for(30)
        (after,) = sim.weights.observe().values()
        assert (after.ready, after.error_code) == (False, "SK-WGT-002")
        sim.weights.failing.clear()
        sim.host.crash_on_load.clear()
        await sim.run_for(300)
        assert sim.serving["chat"]

    run(story())
