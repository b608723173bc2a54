"""One simulated node: the real source loop and node loop on fake ports, with a daemon that can die and return."""

from __future__ import annotations

import asyncio
import random

from skulk.core.domain import BootId, ConditionType, NodeName, PlacementUid, Status
from skulk.core.reconcile.acceptance import SourcePolicy
from skulk.node.coordination import Coordination
from skulk.node.loop import NodeLoop, Ports
from skulk.node.source import SourceLoop
from skulk.sim.clock import VirtualClock
from skulk.sim.fakes import FakeHost, FakeJournal, FakeProbe, FakeRepo, FakeWeights


class SimNode:
    """Start with `boot()`; `kill_daemon()` leaves processes, files and journal as a real kill does."""

    def __init__(self, name: str = "demo", *, memory_bytes: int = 16 * 2**30, seed: int = 0) -> None:
        self.name = NodeName(name)
        self.clock = VirtualClock()
        self.repo = FakeRepo()
        self.host = FakeHost(self.clock, memory_bytes)
        self.weights = FakeWeights(self.clock, self._wake)
        self.probe = FakeProbe(memory_bytes)
        self.journal = FakeJournal()
        self.random = random.Random(seed)
        self.lost_wakes = 0.0
        """Share of wake-ups that never arrive."""
        self.repeated_wakes = False
        self._boots = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.loop: NodeLoop | None = None
        self.source: SourceLoop | None = None

    def _wake(self) -> None:
        if self.loop is None or self.random.random() < self.lost_wakes:
            return
        self.loop.wake()
        if self.repeated_wakes:
            asyncio.get_running_loop().call_later(self.random.random(), self.loop.wake)

    async def boot(self) -> None:
        """A new daemon: everything it knows comes from ports."""
        self._boots += 1
        self.host.attach()
        policy = SourcePolicy(namespace="demo", node=self.name)
        self.coordination = coordination = Coordination(self.name, self.journal, self.clock, self._wake)
        self.source = SourceLoop(
            self.repo,
            self.journal,
            self.clock,
            policy,
            jitter=self.random.random,
            wake=self._wake,
            poll_seconds=1.0,
            in_force=lambda: coordination.in_force,
        )
        source = self.source
        ports = Ports(self.host, self.weights, self.probe, self.clock)
        self.loop = NodeLoop(self.name, BootId(f"boot-{self._boots}"), ports, lambda: source.state, self.coordination)
        await self.source.restore()
        self.loop.stock_taken = True
        self._tasks = [asyncio.create_task(self.loop.run()), asyncio.create_task(self.source.run())]

    async def kill_daemon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.loop = None

    async def run_for(self, seconds: float) -> None:
        """Let virtual time pass; an error of a loop comes out here instead of being lost."""
        await self.clock.sleep(seconds)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    @property
    def serving(self) -> dict[str, list[str]]:
        """Deployment → launch hashes of its ready, live, connected runners, sorted: the state that matters."""
        assert self.loop is not None, "boot() first"
        routable = {
            PlacementUid(r.name)
            for r in self.loop.view.resources.get("placements", ())
            if any(c.type is ConditionType.READY and c.status is Status.TRUE for c in r.conditions)
        }
        found: dict[str, list[str]] = {}
        for uid, process in self.host.processes.items():
            if process.alive and uid in routable:
                found.setdefault(process.launch.deployment, []).append(process.launch.launch_hash)
        return {name: sorted(hashes) for name, hashes in sorted(found.items())}

    def condition(self, type_: ConditionType) -> tuple[Status, str, str]:
        """Status, reason and message of one of the fleet's conditions."""
        assert self.loop is not None, "boot() first"
        for condition in self.loop.view.conditions:
            if condition.type is type_:
                return condition.status, condition.reason.value, condition.message
        return Status.UNKNOWN, "", ""
