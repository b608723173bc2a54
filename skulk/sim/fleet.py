"""A fleet of nodes in one process on virtual time: the real coordination and the real planner on a faulty network.

Faults are methods and switches of `SimFleet`, `FleetNode` and `Network`. What must never happen is watched while it
runs (`Watch.violations`); what must happen in the end is asked with `SimFleet.unsettled`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from skulk.core.coordination import Plan, Validated
from skulk.core.domain import CommitId, Fleet, NodeName, PlacementUid
from skulk.core.planner import plan
from skulk.sim.clock import VirtualClock
from skulk.sim.member import FleetNode
from skulk.sim.network import Network
from skulk.sim.watch import Watch

# Every node looks at everything this often.
TICK_SECONDS = 0.1


class SimFleet:
    """The nodes that a first commit declares, its history of commits, the network, and the watch over all of it."""

    def __init__(self, first: Fleet, *, memory_bytes: int = 16 * 2**30, seed: int = 0, planner: Plan = plan) -> None:
        self.clock = VirtualClock()
        self.rng = random.Random(seed)
        self.network = Network(self.rng)
        self.watch = Watch()
        self.plan = planner
        self.history: list[Validated] = []
        self.nodes: dict[NodeName, FleetNode] = {}
        self.now = 0.0
        self.commit(first)
        for name in sorted(first.nodes):
            self.add(name, memory_bytes)

    def add(self, name: str, memory_bytes: int = 16 * 2**30) -> FleetNode:
        """A machine, not started yet."""
        node = FleetNode(self, name, memory_bytes)
        self.nodes[node.name] = node
        self.network.endpoints[node.name] = node
        return node

    def __getitem__(self, name: str) -> FleetNode:
        return self.nodes[NodeName(name)]

    def commit(self, fleet: Fleet) -> CommitId:
        """Push. Commit ids count up, whatever the given one says."""
        commit = CommitId(f"{len(self.history):040x}")
        self.history.append(Validated(commit, replace(fleet, commit=commit)))
        return commit

    def place(self, commit: CommitId) -> int:
        return int(commit, 16)

    def boot(self, *names: str) -> None:
        """Start these daemons, or all."""
        for name in names or tuple(self.nodes):
            self[name].boot()

    async def run_for(self, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        """Let virtual time pass; `check` is called after every round of all nodes."""
        until = self.clock.now() + seconds
        while self.clock.now() < until - TICK_SECONDS / 2:
            self.now = self.clock.now()
            order = list(self.nodes.values())
            self.rng.shuffle(order)
            for node in order:
                node.tick()
            check()
            await self.clock.sleep(TICK_SECONDS)
        self.now = self.clock.now()

    async def until(self, reached: Callable[[], bool], seconds: float) -> float:
        """Run until `reached`, and return how long that took. Raises TimeoutError after `seconds`."""
        began = self.clock.now()
        while not reached():
            if self.clock.now() - began > seconds:
                raise TimeoutError(f"not within {seconds} s of virtual time: {self.unsettled()}")
            await self.run_for(TICK_SECONDS)
        return self.clock.now() - began

    # --- questions ----------------------------------------------------------------------------------------------

    @property
    def coordinators(self) -> list[NodeName]:
        """Nodes that publish, as they believe."""
        return [n.name for n in self.nodes.values() if n.up and not n.frozen and n.state.coordinates]

    def serving(self, names: Sequence[str] = ()) -> dict[str, set[PlacementUid]]:
        """Deployment → its ready runners on these nodes, or on all."""
        found: dict[str, set[PlacementUid]] = {}
        for node in self.nodes.values():
            for uid, runner in node.runners.items():
                ready = runner.gone_at is None and self.now >= runner.ready_at
                if ready and (not names or node.name in names):
                    found.setdefault(runner.placement.deployment, set()).add(uid)
        return found

    def unsettled(self) -> list[str]:
        """What is missing from: one document of the newest commit on every node, and everything placed once."""
        wanted = self.history[-1]
        members = [n for n in self.nodes.values() if n.name in wanted.fleet.nodes and n.up]
        return self._disagreements(members, wanted) + self._misplaced(members, wanted)

    def _disagreements(self, members: list[FleetNode], wanted: Validated) -> list[str]:
        held = {n.name: n.document.version if n.document is not None else None for n in members}
        faults = [f"{n} holds commit {v and v.commit}" for n, v in held.items() if not v or v.commit != wanted.commit]
        if len({v and v.digest for v in held.values()}) != 1:
            faults.append(f"documents { ({name: v and v.key for name, v in held.items()}) }")
        faults += [f"{n.name} leaves one out" for n in members if n.document and held.keys() - n.document.members]
        return faults

    def _misplaced(self, members: list[FleetNode], wanted: Validated) -> list[str]:
        running = [runner for node in members for runner in node.runners.values()]
        deployments = wanted.fleet.deployments
        faults = []
        for name, deployment in deployments.items():
            here = [r for r in running if r.placement.deployment == name]
            ready = [r for r in here if r.gone_at is None and self.now >= r.ready_at]
            if not len(here) == len(ready) == deployment.replicas:
                faults.append(f"{name}: {len(here)} runners, {len(ready)} ready, {deployment.replicas} wanted")
        names = {r.placement.deployment for r in running}
        return faults + [f"{name} still runs" for name in sorted(names - deployments.keys())]

    def settled(self) -> bool:
        return not self.unsettled()
