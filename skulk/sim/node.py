"""One simulated node: the real source loop, node loop and coordination on fake ports, with a daemon that can die and
return. Several of them on one simulated network are a fleet: there the planes are the real ones as well, and only the
transport below them, the repository and the machines are not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from skulk.core.domain import (
    BootId,
    CommitId,
    ConditionType,
    GenerationRequest,
    Life,
    NodeName,
    Owner,
    PlacementUid,
    Status,
)
from skulk.core.errors import RUN_LOST, RequestError
from skulk.core.ports import Generation
from skulk.core.reconcile.acceptance import SourcePolicy
from skulk.node.coordination import Coordination
from skulk.node.exchange import CommitExchange
from skulk.node.host import Host
from skulk.node.loop import NodeLoop, Ports
from skulk.node.network import FleetPlanes, Network
from skulk.node.source import SourceLoop
from skulk.sim.clock import VirtualClock
from skulk.sim.fakes import FakeHost, FakeJournal, FakeProbe, FakeRepo, FakeWeights
from skulk.sim.planes import SimNetwork, sim_planes


class _Serving:
    """Simulated runners answer no requests."""

    async def take(self, placement: PlacementUid, request: GenerationRequest, owner: Owner) -> Generation:
        raise RequestError(RUN_LOST, "simulated runners answer no requests", status=502, kind="server_error")

    def reset_here(self, name: str) -> int:
        return 0


class SimNode:
    """Start with `boot()`; `kill_daemon()` leaves processes, files and journal as a real kill does."""

    def __init__(
        self,
        name: str = "demo",
        *,
        memory_bytes: int = 16 * 2**30,
        seed: int = 0,
        network: SimNetwork | None = None,
        repo: FakeRepo | None = None,
    ) -> None:
        """`network`: what it shares with the other nodes, none for a node alone. `repo`: a remote of its own unless
        given."""
        self.name = NodeName(name)
        self.clock = VirtualClock()
        self.repo = repo if repo is not None else FakeRepo()
        self.sim_network = network
        self.network: Network | None = None
        self.host = FakeHost(self.clock, memory_bytes)
        self.weights = FakeWeights(self.clock, self._wake)
        self.probe = FakeProbe(memory_bytes)
        self.journal = FakeJournal()
        self.random = random.Random(seed)
        self.lost_wakes = 0.0
        """Share of wake-ups that never arrive."""
        self.repeated_wakes = False
        self.allow_force_push = False
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
        policy = SourcePolicy(namespace="demo", node=self.name, allow_force_push=self.allow_force_push)
        self.coordination = coordination = Coordination(
            self.name, self.journal, self.clock, self._wake, obtain=self._obtain
        )
        exchange = CommitExchange(self.repo, self.clock, hold=coordination.hold_bundles)
        self.source = SourceLoop(
            self.repo,
            self.journal,
            self.clock,
            policy,
            jitter=self.random.random,
            wake=self._wake,
            poll_seconds=1.0,
            in_force=lambda: coordination.in_force,
            announce=exchange.announce,
            bundle_of=exchange.bundle_of,
        )
        source = self.source
        if self.sim_network is not None:
            self._join(self.sim_network, coordination, exchange)
        ports = Ports(self.host, self.weights, self.probe, self.clock)
        self.loop = NodeLoop(self.name, BootId(f"boot-{self._boots}"), ports, lambda: source.state, self.coordination)
        await self.source.restore()
        self.loop.stock_taken = True
        self._tasks = [asyncio.create_task(self.loop.run()), asyncio.create_task(self.source.run())]
        if self.network is not None:
            self._tasks.append(asyncio.create_task(self.network.run()))

    def _obtain(self, commit: CommitId, holders: tuple[NodeName, ...]) -> None:
        if self.source is not None:
            self.source.obtain(commit, holders)

    def _join(self, network: SimNetwork, coordination: Coordination, exchange: CommitExchange) -> None:
        life = Life(self.name, BootId(f"boot-{self._boots}"), self._boots)
        source = self.source
        assert source is not None, "boot() makes it first"

        async def opener(dial: tuple[str, ...], keys: Mapping[NodeName, bytes]) -> FleetPlanes:
            host = Host(_Serving(), coordination, exchange)

            def wake() -> None:
                for commit in exchange.hints():
                    source.hint(commit)
                self._wake()

            planes = sim_planes(network, life, namespace="demo", clock=self.clock, host=host, wake=wake)
            planes.trust(keys)
            await planes.open()
            return planes

        def joined(planes: FleetPlanes) -> None:
            assert self.loop is not None, "the network runs beside the loop"
            self.loop.join(planes)
            exchange.join(planes)

        self.network = Network(
            self.name,
            opener,
            self.clock,
            lambda: source.state.fleet,
            tls=True,
            joined=joined,
            left=lambda: self.loop.part() if self.loop is not None else None,
        )

    async def silence(self) -> FleetPlanes:
        """Its loops end and its planes stay open: whoever holds them speaks in this node's name, with its key."""
        assert self.network is not None, "boot() first"
        assert self.network.planes is not None, "nothing is open yet"
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.network.planes

    async def kill_daemon(self) -> None:
        if self.sim_network is not None:
            self.sim_network.crash(self.name)
        network, self.network = self.network, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.loop = None
        if network is not None:
            # Its tasks are of this process, and must not speak for a dead daemon.
            await network.close(0.1)

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
