"""The node loop: observe → coordinate → decide → apply → publish, level-triggered.

Events (a runner spoke, a fetch ended, a commit was accepted) only wake it; every round reads everything again and
decides again, so lost, repeated and reordered events change nothing but latency. It runs on ports alone: the
simulator runs this very loop on a virtual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import structlog

from skulk import __version__
from skulk.core.coordination import Local
from skulk.core.domain import (
    BootId,
    Check,
    DeploymentName,
    FleetView,
    Launch,
    Link,
    Member,
    NodeName,
    PlacementUid,
    Presence,
    Reading,
    RunnerFacts,
    RunningPlacement,
    Share,
    Topic,
    begun,
)
from skulk.core.formats.content import content_key
from skulk.core.ports import Clock, ControlPlane, Machine, Probe, RunnerHost, Weights
from skulk.core.readings import Steady
from skulk.core.reconcile import limits
from skulk.core.reconcile.actions import Forget
from skulk.core.reconcile.decide import Decision, decide
from skulk.core.reconcile.fold import STUCK
from skulk.core.reconcile.ledger import Ledger
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.observed import Observed, part_for
from skulk.core.reconcile.refusals import Vetoes, veto
from skulk.core.reconcile.summary import Since
from skulk.node.apply import Applier
from skulk.node.coordination import Coordination, ready
from skulk.node.events import EventLog
from skulk.node.picture import Picture
from skulk.node.placed import LOAD_KIND
from skulk.node.share import Shares, Sharing, runner_load, share_of
from skulk.node.source import SourceState
from skulk.node.view import build

_log = structlog.get_logger(component="loop")

# While something is under way: often enough that no step waits on us, rarely enough to cost nothing.
BUSY_SECONDS = 0.25
# Nothing is under way in a fleet of several: what is due by the clock (15 s of patience, a comparison of documents
# every 2 s) may be late by this, and whatever happens wakes the loop anyway.
CALM_SECONDS = 1.0
# Events that arrive together are looked at together.
COALESCE_SECONDS = 0.01
# Rounds come at least every RESYNC_SECONDS; one that is missing for this long means that the daemon itself stood still.
STALL_SECONDS = 1.5 * limits.RESYNC_SECONDS
# The queues of this node's runners are told to the others when they change, not more often than this,
LOAD_SECONDS_MIN = 0.25
# and otherwise so often that they never look old.
LOAD_SECONDS_MAX = 2.0
# The engine environments are looked at again this often (and whenever a person asks).
MACHINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world of one node."""

    runners: RunnerHost
    weights: Weights
    probe: Probe
    clock: Clock


class _Others(TypedDict, total=False):
    """The fields of `Picture` that come over the planes."""

    shares: Mapping[NodeName, Share]
    presence: Mapping[NodeName, Presence]
    absent_seconds: Mapping[NodeName, float]
    readings: Mapping[NodeName, Mapping[str, Reading]]
    gauges: Mapping[NodeName, Mapping[str, Mapping[str, object]]]
    rivals: tuple[BootId, ...]


class NodeLoop:
    """One node's life. `view` is always the newest snapshot."""

    def __init__(
        self,
        node: NodeName,
        boot: BootId,
        ports: Ports,
        source: Callable[[], SourceState],
        coordination: Coordination,
        *,
        orphan_seconds: float = 600.0,
        publish: Callable[[FleetView], None] = lambda _view: None,
        problems: Callable[[], tuple[str, ...]] = lambda: (),
        readings: Callable[[], Mapping[str, Reading]] = dict,
        plain: bool = False,
    ) -> None:
        """`problems`: what is wrong with this node beyond its engines, one line each. `readings`: its telemetry.
        `plain`: its planes leave loopback without certificates, which every status shows."""
        self._node = node
        self._boot = boot
        self._ports = ports
        self._source = source
        self._coordination = coordination
        self._orphan_seconds = orphan_seconds
        self._publish = publish
        self._problems = problems
        self._readings = readings
        self._plain = plain
        self._woken = asyncio.Event()
        self._machine_changed = asyncio.Event()
        self._applier = Applier(ports.runners, ports.weights, self.wake)
        self._vetoes = Vetoes()
        self._control: ControlPlane | None = None
        self._sharing: Sharing | None = None
        self._shares = Shares()
        self._steady = Steady()
        self._load_seen: Mapping[str, object] = {}
        """Of the last round."""
        self._load_told: Mapping[str, object] = {}
        self._load_at = float("-inf")
        self._since = Since()
        self._machine: Machine | None = None
        self._events = EventLog()
        self._ledger = Ledger()
        self._beat_at = self._awake_since = ports.clock.now()
        self.stock_taken = False
        self.closing = False
        """Nothing is decided any more; runners stay as they are."""
        self.stopping = False
        """Everything here is drained and stopped, as if the node had left the fleet."""
        self.view = FleetView(0, node, __version__)

    def join(self, control: ControlPlane) -> None:
        """The planes are open: this node coordinates with the others and tells them of itself."""
        self._control = control
        self._sharing = Sharing(lambda body: control.publish(Topic.SHARE, body))
        self._coordination.join(control)
        self.wake()

    def part(self) -> None:
        """The planes are closed: this node goes on with what it has."""
        self._control = self._sharing = None
        self._coordination.part()

    def wake(self) -> None:
        """Something may have changed. Callable from anywhere on the loop's thread, as often as one likes."""
        self._woken.set()

    def look_at_load(self) -> None:
        """The load of a runner changed some time ago. When all is as the last round saw it, there is nothing to tell:
        a short request has come and gone."""
        if runner_load(self._ports.runners.observe()) != self._load_seen:
            self.wake()

    def reset(self, uids: frozenset[PlacementUid], deployments: frozenset[DeploymentName] = frozenset()) -> int:
        """Clear breaker, wedge, backoff and failed fetches of the given placements, and have the files of those that
        do not run looked at again; take back vetoes against `deployments`. Returns how many were stuck."""
        before, vetoes = self._ledger, self._vetoes
        self._vetoes = vetoes.without(deployments)
        files = self._files_of(uid for uid in uids if before.record(uid).phase in {Phase.PENDING, *STUCK})
        self._ledger = before.reset(uids, self._ports.clock.now(), frozenset(files.values()))
        self._applier.apply(Forget(content) for content in sorted(set(files.values())))
        for uid in uids:
            self._applier.failed_starts.pop(uid, None)
        self.wake()
        stuck = {uid for uid, record in self._ledger.records.items() if before.records[uid] is not record}
        stuck |= {uid for uid, content in files.items() if content in before.fetches}
        return len(stuck) + len(vetoes.made) - len(self._vetoes.made)

    def _files_of(self, uids: Iterable[PlacementUid]) -> dict[PlacementUid, str]:
        """Placement → content key of its card, for those that are planned here."""
        fleet, blueprint = self._coordination.fleet_in_force(self._source()), self._coordination.blueprint
        if fleet is None or blueprint is None:
            return {}
        models = {placement.uid: placement.model for placement in blueprint.on_node(self._node)}
        return {uid: content_key(fleet.cards[models[uid]]) for uid in uids if models.get(uid) in fleet.cards}

    @property
    def beat_age_seconds(self) -> float:
        """How long ago the last round began: the liveness of the daemon."""
        return self._ports.clock.now() - self._beat_at

    @property
    def empty(self) -> bool:
        """No runner lives here."""
        return all(facts.link is Link.DEAD for facts in self._ports.runners.observe().values())

    async def run(self) -> None:
        """Rounds until cancelled."""
        probing = asyncio.create_task(self._watch_machine())
        try:
            while True:
                decision = self.round()
                await self._pause(self._until_next(decision))
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            await self._applier.close()
            await self._coordination.close()

    def _until_next(self, decision: Decision | None) -> float:
        """Seconds until the next look when nothing wakes the loop. Deadlines of coordination (settling, an answer
        that is missing) are fractions of a second, and so is what a fleet of several has to be looked at."""
        if self._coordination.busy or (decision is not None and not decision.settled):
            return BUSY_SECONDS
        return CALM_SECONDS if self._coordination.joined else limits.RESYNC_SECONDS

    def round(self) -> Decision | None:
        """One round. Returns None while nothing may be decided (machine unknown, or closing)."""
        now = self._ports.clock.now()
        if now - self._beat_at > STALL_SECONDS:
            # We were stopped or starved, and read no heartbeat meanwhile: that is nobody else's fault.
            self._awake_since = now
        self._beat_at = now
        source = self._source()
        runners = dict(self._ports.runners.observe())
        self._load_seen = runner_load(runners)
        decision: Decision | None = None
        if self._machine is not None and not self.closing:
            self._coordination.step(source, self._local(source, self._machine, runners))
            decision = self._decide(source, self._machine, runners, now)
            self._note_phases(self._ledger, decision.ledger)
            self._ledger = decision.ledger
            self._applier.apply(decision.actions)
        self._show(source, runners, decision)
        return decision

    def _local(self, source: SourceState, machine: Machine, runners: Mapping[PlacementUid, RunnerFacts]) -> Local:
        """What this node says of itself to whoever plans."""
        member = self._member(source, machine)
        if self.stopping:
            # It goes on until everything has drained, and takes nothing new.
            member = replace(member, builds=())
        running = () if self.stopping and not runners else self._running(runners)
        return Local(member, running, self._vetoes.refusals(), self.stock_taken)

    def _decide(
        self,
        source: SourceState,
        machine: Machine,
        runners: Mapping[PlacementUid, RunnerFacts],
        now: float,
    ) -> Decision:
        leaving = self.stopping or (source.leaving and source.fleet is not None)
        coordination = self._coordination
        fleet, blueprint = coordination.fleet_in_force(source), coordination.blueprint
        part = part_for(self._node, fleet, blueprint, leaving=leaving)
        elsewhere = coordination.elsewhere()
        observed = Observed(
            runners=runners,
            weights=self._ports.weights.observe(),
            builds=machine.builds,
            memory_bytes=machine.memory_bytes,
            free_memory_bytes=self._ports.probe.free_memory_bytes(),
            stock_taken=self.stock_taken,
            ready_elsewhere=ready(elsewhere),
            alive_elsewhere=frozenset(running.uid for running in elsewhere),
            in_flight=self._applier.in_flight,
            failed_starts=dict(self._applier.failed_starts),
            orphan_seconds=self._orphan_seconds,
            awake_since=self._awake_since,
        )
        decision = decide(part, observed, self._ledger, now)
        offered = coordination.offered_elsewhere()
        self._vetoes = veto(self._vetoes, self._node, part.placements, decision, offered, now)
        return decision

    def _member(self, source: SourceState, machine: Machine) -> Member:
        return Member(
            node=self._node,
            boot=self._boot,
            memory_bytes=machine.memory_bytes,
            builds=machine.builds,
            files=self._ports.weights.files(),
            os=machine.os,
            arch=machine.arch,
            skulk_version=__version__,
            validated=source.accepted,
            disk_bytes=machine.disk_bytes,
        )

    def _running(self, runners: Mapping[PlacementUid, RunnerFacts]) -> tuple[RunningPlacement, ...]:
        """What this node works on: its live runners, and what it has begun but has no process for (fetching,
        backing off), so that a re-plan does not look elsewhere or change its mind about an open context."""
        blueprint = self._coordination.blueprint
        planned = blueprint.on_node(self._node) if blueprint is not None else ()
        placements = [begun(p, self._node) for p in planned if p.uid not in runners]
        for uid, facts in runners.items():
            if facts.link is Link.DEAD:
                continue
            phase = self._ledger.record(uid).phase
            reported = self._reported(facts.launch)
            draining = phase in (Phase.DRAINING, Phase.STOPPING)
            placements.append(replace(reported, complete=phase is Phase.READY, draining=draining))
        return tuple(sorted(placements, key=lambda p: p.uid))

    def _reported(self, launch: Launch) -> RunningPlacement:
        return RunningPlacement(
            uid=launch.uid,
            deployment=launch.deployment,
            replica=launch.replica,
            model=launch.model,
            node=self._node,
            backend=launch.backend,
            context_tokens=launch.context_tokens,
            concurrency=launch.concurrency,
            launch_hash=launch.launch_hash,
            content_hash=launch.content_hash,
            memory_bytes=launch.memory_bytes,
        )

    def _note_phases(self, before: Ledger, after: Ledger) -> None:
        wall = self._ports.clock.wall()
        for uid, record in after.records.items():
            known = before.records.get(uid)
            if known is not None and known.phase is record.phase:
                continue
            message = f"{record.blame.code} {record.blame.message}" if record.blame else ""
            # The planner reads phases as they were before this decision: look again at once.
            self.wake()
            self._events.add(wall, f"placement/{uid}", record.phase.value, message)
            _log.info("placement_phase_changed", placement=uid, phase=record.phase.value, cause=message or None)
        for uid in before.records.keys() - after.records.keys():
            self._events.add(wall, f"placement/{uid}", "Forgotten", "nothing of it is left on this node")

    def _show(
        self, source: SourceState, runners: Mapping[PlacementUid, RunnerFacts], decision: Decision | None
    ) -> None:
        clock = self._ports.clock
        wall = clock.wall()
        for condition in source.conditions:
            self._events.add(wall, f"node/{self._node}", condition.reason.value, condition.message)
        picture = Picture(
            node=self._node,
            version=__version__,
            fleet=source.fleet,
            attempted=source.attempted,
            accepted=source.accepted,
            leaving=source.leaving,
            source=self._since.stamp(f"source/{self._node}", source.conditions, wall),
            machine=self._machine or Machine(0, "", ""),
            blueprint=self._coordination.blueprint,
            ledger=self._ledger,
            waiting=decision.waiting if decision else self.view.waiting,
            routable=decision.routable if decision else frozenset(),
            runners=runners,
            weights=self._ports.weights.observe(),
            files=self._ports.weights.files(),
            why=self._coordination.why,
            checks=(*self._checks(source), *self._settled(source)),
            wall=wall,
            wall_offset=wall - clock.now(),
            closing=self.closing,
            problems=self._problems(),
            plain=self._plain,
            **self._others(),
            coordinator=self._coordination.outputs.coordinator,
            notes=self._coordination.outputs.waiting,
            cautions=self._coordination.outputs.conditions,
        )
        new = build(picture, self._since, self._events.snapshot(), self.view.generation)
        if new != self.view:
            self.view = replace(new, generation=self.view.generation + 1)
            self._publish(self.view)
        self._tell(picture)

    def _others(self) -> _Others:
        """What the planes say of the other nodes, and this node's own readings beside theirs."""
        own = {self._node: self._readings()}
        planes = self._coordination.planes
        readings = {**planes.readings, **own} if planes is not None else own
        now = self._ports.clock.now()
        gauges = {name: self._steady.status(name, found, now) for name, found in readings.items()}
        if planes is None:
            return _Others(readings=readings, gauges=gauges)
        return _Others(
            shares=self._shares.read(planes.documents.get(Topic.SHARE, {}), self._node),
            presence={name: peer.presence for name, peer in planes.peers.items()},
            absent_seconds={n: p.absent_seconds for n, p in planes.peers.items() if p.absent_seconds},
            readings=readings,
            gauges=gauges,
            rivals=planes.rivals,
        )

    def _tell(self, picture: Picture) -> None:
        """This node's part of the picture, to the others."""
        if self._control is None or self._sharing is None:
            return
        now = self._ports.clock.now()
        self._sharing.offer(share_of(picture, self.view), now)
        load, quiet_seconds = self._load_seen, now - self._load_at
        if (load != self._load_told and quiet_seconds >= LOAD_SECONDS_MIN) or quiet_seconds >= LOAD_SECONDS_MAX:
            self._control.report(LOAD_KIND, load)
            self._load_told, self._load_at = load, now

    def _checks(self, source: SourceState) -> tuple[Check, ...]:
        accepted = source.fleet is not None
        stock = "runners of an earlier daemon are known" if self.stock_taken else "looking for earlier runners"
        return (
            Check("commit", accepted, f"commit {source.accepted}" if accepted else source.conditions[0].message),
            Check("stock", self.stock_taken, stock),
            Check("machine", self._machine is not None, "the machine was probed" if self._machine else "probing"),
            Check("open", not self.closing, "closing" if self.closing else "taking requests"),
        )

    def _settled(self, source: SourceState) -> tuple[Check, ...]:
        """Whether the node is in its place: what a rolling upgrade waits for before it goes on to the next."""
        others = len(source.fleet.nodes) - 1 if source.fleet is not None else 0
        planes = self._coordination.planes
        peers = {name: peer.presence for name, peer in planes.peers.items()} if planes is not None else {}
        seen = sum(presence is Presence.LIVE for name, presence in peers.items() if name != self._node)
        document = self._coordination.blueprint
        mine = [p.uid for p in document.placements if self._node in p.nodes] if document is not None else []
        ready = sum(self._ledger.record(uid).phase is Phase.READY for uid in mine)
        return (
            Check("planes", not others or seen > 0, f"{seen} of {others} other nodes are seen", settling=True),
            Check(
                "placements",
                document is not None and ready == len(mine),
                f"{ready} of {len(mine)} placements are ready" if document is not None else "no document yet",
                settling=True,
            ),
        )

    def look_at_machine(self) -> None:
        """Something about the machine changed (an engine was installed): do not wait for the next look."""
        self._machine_changed.set()

    async def _watch_machine(self) -> None:
        while True:
            self._machine_changed.clear()
            machine = await self._ports.probe.machine()
            if machine != self._machine:
                self._machine = machine
                self.wake()
            await self._either(MACHINE_SECONDS, self._machine_changed)

    async def _pause(self, seconds: float) -> None:
        await self._ports.clock.sleep(COALESCE_SECONDS)
        await self._either(seconds, self._woken)
        self._woken.clear()

    async def _either(self, seconds: float, event: asyncio.Event) -> None:
        """Until `event`, for at most `seconds`."""
        sleep = asyncio.ensure_future(self._ports.clock.sleep(seconds))
        happened = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({sleep, happened}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in (sleep, happened):
                waiter.cancel()
            await asyncio.gather(sleep, happened, return_exceptions=True)
