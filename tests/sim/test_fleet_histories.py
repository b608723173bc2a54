"""Random histories of three nodes: daemons die, machines are cut off, commits come; in the end everything is as the
last commit says, on one document, and nothing ran twice over a node's memory meanwhile."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from simfleets import CHAT, NAMES, Fleet, apart

from skulk.sim.clock import run

SEEDS = range(200) if os.environ.get("SKULK_EXPLORE") else range(12)
STEPS = 12
# Grace of declared nodes, patience, discovery, backoff: the longest chain of them ends within this.
QUIET_SECONDS = 180.0


async def disturb(fleet: Fleet, rng: random.Random) -> None:
    """One thing happens."""
    name = rng.choice(NAMES)
    sim = fleet[name]
    match rng.choice(("crash", "boot", "cut", "heal", "commit", "kill runner", "remote", "wait")):
        case "crash" if sim.loop is not None:
            await sim.kill_daemon()
        case "boot" if sim.loop is None:
            await sim.boot()
        case "cut":
            fleet.network.partition((name,), [n for n in NAMES if n != name])
        case "heal":
            fleet.network.heal()
        case "commit":
            fleet.repo.commit(rng.choice((CHAT, apart(rng.randint(1, 3), contextTokens=str(rng.choice((1024, 2048)))))))
        case "kill runner" if sim.host.processes:
            sim.host.crash(rng.choice(sorted(sim.host.processes)))
        case "remote":
            fleet.repo.down = not fleet.repo.down
    await fleet.pass_time(rng.choice((0.1, 1.0, 5.0, 20.0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_after_the_last_fault_everything_becomes_ready_again(seed: int):
    async def story() -> None:
        fleet, rng = Fleet(seed), random.Random(seed)
        fleet.repo.commit(CHAT)
        await fleet.boot()
        for _ in range(STEPS):
            await disturb(fleet, rng)
        fleet.network.heal()
        fleet.repo.down = False
        last = fleet.repo.commit(apart(2, contextTokens="512"))
        for sim in fleet.nodes.values():
            if sim.loop is None:
                await sim.boot()
        await fleet.until(lambda: fleet.agreed(last) and fleet.ready(2), QUIET_SECONDS)
        assert len(set(fleet.alive().values())) == 2
        assert all(sim.host.violations == [] for sim in fleet.nodes.values())
        for sim in fleet.nodes.values():
            await sim.kill_daemon()
        await asyncio.sleep(0)

    run(story())
