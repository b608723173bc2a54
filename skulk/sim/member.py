"""One node of a simulated fleet: the real coordination on what reached it, obeying the document it accepted.

Runners are facts with a time at which they become ready. Left out: bytes, signatures, files, what is in a runner.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from skulk.core.coordination import (
    Action,
    Announce,
    Ask,
    Document,
    Durable,
    FetchBody,
    Heard,
    Invalid,
    Local,
    Observed,
    Obtain,
    Outputs,
    Persist,
    Plan,
    Report,
    State,
    Validated,
    Version,
    coordinate,
    read,
    report_of,
)
from skulk.core.domain import (
    BootId,
    CommitId,
    EngineBuild,
    Member,
    NodeName,
    Placement,
    PlacementUid,
    RunningPlacement,
    begun,
)
from skulk.sim.network import Liveness, Network
from skulk.sim.watch import Watch

# Reports are told again, as a publisher with a cache and a heartbeat does.
REPORT_SECONDS = 2.0
# A daemon knows what its predecessor left after this.
STOCK_SECONDS = 0.5
# The source is looked at this often.
POLL_SECONDS = 1.0
# A runner is ready after this, and gone this long after it was told to drain.
READY_SECONDS = 2.0
DRAIN_SECONDS = 0.5
# Fetched bodies that a node keeps.
BODIES_MAX = 8

BUILD = EngineBuild("mlx-cpu", "mlx", "1.0", "d1")


class DiskFull(OSError):
    """The simulated disk takes nothing."""


@dataclass(slots=True)
class SimRunner:
    """One process, as far as coordination can see."""

    placement: Placement
    ready_at: float
    gone_at: float | None = None
    """When a draining one ends."""


@dataclass(frozen=True, slots=True)
class _Question:
    boot: BootId
    number: int


@dataclass(frozen=True, slots=True)
class _Told:
    """A report. `number` orders those of one node over all its lives."""

    number: int
    report: Report
    answers: _Question | None = None


@dataclass(frozen=True, slots=True)
class _WantBody:
    digest: str


@dataclass(frozen=True, slots=True)
class _Body:
    data: bytes


class World(Protocol):
    """What a node knows of the simulation around it."""

    now: float
    rng: random.Random
    network: Network
    watch: Watch
    plan: Plan
    history: list[Validated]
    nodes: dict[NodeName, FleetNode]

    def place(self, commit: CommitId) -> int:
        """Where the commit stands in `history`."""
        ...


class FleetNode:
    """One node: a daemon that can die and return, and what outlives it."""

    def __init__(self, fleet: World, name: str, memory_bytes: int) -> None:
        self.name = NodeName(name)
        self.up = False
        self.frozen = False
        self.boots = 0
        # What outlives the daemon.
        self.durable = Durable()
        self.runners: dict[PlacementUid, SimRunner] = {}
        self.line: list[Validated] = []
        # Switches.
        self.memory_bytes = memory_bytes
        self.builds: tuple[EngineBuild, ...] = (BUILD,)
        self.source_up = True
        self.verifies = True
        """Off: no commit gets past its verification, wherever it comes from, and it cannot say why."""
        self.refuses: dict[CommitId, str] = {}
        """Commits that it finds invalid, with the message."""
        self.disk_full = False
        self.torn = False
        """Dies right after the next write to disk."""
        self.mute = False
        """Lives, and answers nothing."""
        self._fleet = fleet
        self._numbers = 0
        self._begin()

    # --- life ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.state = State(self.durable)
        self.outputs = Outputs()
        self.liveness = Liveness(self.name)
        self.heard: dict[NodeName, tuple[int, Heard]] = {}
        self.announced: dict[NodeName, Version] = {}
        self.bodies: dict[str, Document] = {}
        self.invalid: dict[CommitId, str] = {}
        self._inbox: list[tuple[NodeName, object]] = []
        self._told: Report | None = None
        self._told_at = 0.0
        self._polled_at = -POLL_SECONDS
        self._booted_at = self._fleet.now

    @property
    def boot_id(self) -> BootId:
        return BootId(f"{self.name}-{self.boots}")

    @property
    def document(self) -> Document | None:
        return self.durable.document

    def boot(self) -> None:
        """A new daemon: it has the disk and the runners of the last one, nothing else."""
        if not self.up:
            self.boots += 1
            self.up, self.frozen = True, False
            self._begin()

    def crash(self) -> None:
        """The daemon dies; runners go on."""
        self.up = self.frozen = False

    def power_off(self) -> None:
        """The machine dies with everything that runs on it."""
        self.crash()
        self.runners.clear()

    # --- the network --------------------------------------------------------------------------------------------

    def receive(self, sender: NodeName, message: object) -> None:
        """Messages wait while the process is frozen, as they do in a socket's buffer."""
        if self.frozen:
            self._inbox.append((sender, message))
        else:
            self._read(sender, message)

    def _read(self, sender: NodeName, message: object) -> None:
        match message:
            case _Question():
                if not self.mute:
                    self._tell(sender, message)
            case _Told():
                self._hear(sender, message)
            case Version():
                known = self.announced.get(sender)
                if known is None or message.key >= known.key:
                    self.announced[sender] = message
            case _WantBody():
                held = self.bodies.get(message.digest)
                if self.document is not None and self.document.version.digest == message.digest:
                    held = self.document
                if held is not None and not self.mute:
                    self._send(sender, _Body(held.body))
            case _Body():
                document = read(message.data)
                self.bodies[document.version.digest] = document
                for digest in sorted(self.bodies, key=lambda d: self.bodies[d].key)[:-BODIES_MAX]:
                    del self.bodies[digest]

    def _hear(self, sender: NodeName, told: _Told) -> None:
        answered = told.answers.number if told.answers is not None and told.answers.boot == self.boot_id else 0
        number, before = self.heard.get(sender, (0, None))
        question = max(answered, before.question if before is not None else 0)
        if before is None or told.number > number:
            self.heard[sender] = told.number, Heard(told.report, question)
        elif told.number == number:
            self.heard[sender] = number, Heard(before.report, question)

    def _send(self, receiver: NodeName, message: object) -> None:
        self._fleet.network.send(self.name, receiver, message)

    def _tell(self, receiver: NodeName, question: _Question | None) -> None:
        self._numbers += 1
        report = report_of(self.state, self._observed(), self._fleet.now)
        self._send(receiver, _Told(self._numbers, report, question))

    # --- one round ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look, coordinate, obey, tell."""
        if not self.up or self.frozen:
            return
        waiting, self._inbox = self._inbox, []
        for sender, message in waiting:
            self._read(sender, message)
        now = self._fleet.now
        self.liveness.refresh(self._fleet.network, {n.name: n.boots for n in self._fleet.nodes.values()}, now)
        self._poll(now)
        self._advance(now)
        new, outputs = coordinate(self.state, self._observed(), now, self._fleet.plan)
        try:
            for action in outputs.actions:
                self._apply(action)
                if not self.up:
                    return
        except DiskFull:
            return
        self.state, self.outputs = new, outputs
        self._obey(now)
        self._publish_report(now)

    def _observed(self) -> Observed:
        in_force = self._fleet.place(self.document.commit) if self.document is not None else -1
        commits = tuple(v for v in self.line if self._fleet.place(v.commit) >= in_force)
        newest = self._fleet.place(self.line[-1].commit) if self.line else -1
        return Observed(
            local=self._local(),
            live=frozenset(self.liveness.peers | {self.name}),
            changes=self.liveness.changes,
            commits=commits,
            ancestors=frozenset(v.commit for v in self._fleet.history[: max(0, newest)] if v not in commits),
            heard={name: heard for name, (_, heard) in self.heard.items()},
            announced=tuple(self.announced.values()),
            bodies=dict(self.bodies),
        )

    def _local(self) -> Local:
        now = self._fleet.now
        stock = now - self._booted_at >= STOCK_SECONDS
        member = Member(self.name, self.boot_id, self.memory_bytes, self.builds, os="linux", arch="x86_64")
        running = tuple(_running(r.placement, self.name, r, now) for _, r in sorted(self.runners.items()))
        planned = self.document.blueprint.on_node(self.name) if self.document is not None else ()
        begun = tuple(_running(p, self.name, None, now) for p in planned if p.uid not in self.runners)
        invalid = tuple(Invalid(commit, message) for commit, message in sorted(self.invalid.items()))
        return Local(member, running + begun if stock else (), stock_taken=stock, invalid=invalid)

    def _apply(self, action: Action) -> None:
        match action:
            case Persist(durable):
                self._persist(durable)
            case Announce(version):
                for peer in sorted(self.liveness.peers):
                    self._send(peer, version)
            case Ask(nodes, question):
                for peer in nodes:
                    self._send(peer, _Question(self.boot_id, question))
            case FetchBody(version, holders):
                self._send(self._fleet.rng.choice(holders), _WantBody(version.digest))
            case Obtain(commit, holders):
                for holder in holders:
                    other = self._fleet.nodes[holder]
                    if other.up and self._fleet.network.linked(self.name, holder):
                        self._take([v for v in other.line if v.commit == commit])

    def _persist(self, durable: Durable) -> None:
        if self.disk_full:
            raise DiskFull
        document = durable.document
        if document is not None and document != self.document:
            self._fleet.watch.accepted(self.name, document, self._fleet.place(document.commit))
            if document.version.author == self.name:
                self._fleet.watch.published.append((self._fleet.now, document))
        self.durable = durable
        if self.torn:
            self.torn = False
            self.crash()

    def _poll(self, now: float) -> None:
        if self.source_up and now - self._polled_at >= POLL_SECONDS and self._fleet.history:
            self._polled_at = now - self._fleet.rng.uniform(0.0, POLL_SECONDS / 2)
            self._take(self._fleet.history[-1:])

    def _take(self, commits: Sequence[Validated]) -> None:
        """Validate and accept, never an older one than the newest taken."""
        for commit in commits if self.verifies else ():
            newest = self._fleet.place(self.line[-1].commit) if self.line else -1
            if commit.commit in self.refuses:
                self.invalid[commit.commit] = self.refuses[commit.commit]
            elif self._fleet.place(commit.commit) > newest:
                self.line.append(commit)

    # --- runners ------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        for uid, runner in list(self.runners.items()):
            if runner.gone_at is not None and now >= runner.gone_at:
                del self.runners[uid]

    def _obey(self, now: float) -> None:
        """Make the accepted document true here. Without one nothing starts and nothing stops."""
        leaving = bool(self.line) and self.name not in self.line[-1].fleet.nodes
        document = self.document
        if (document is None and not leaving) or now - self._booted_at < STOCK_SECONDS:
            return
        blueprint = document.blueprint if document is not None and not leaving else None
        wanted = {p.uid: p for p in (blueprint.on_node(self.name) if blueprint is not None else ())}
        retiring = {r.uid: r for r in (blueprint.retiring if blueprint is not None else ()) if r.node == self.name}
        for uid, runner in sorted(self.runners.items()):
            order = retiring.get(uid)
            held = order is not None and (order.keep or (order.until is not None and not self._ready(order.until)))
            if uid not in wanted and not held and runner.gone_at is None:
                runner.gone_at = now + DRAIN_SECONDS
                self._fleet.watch.stopped(now, self.name, uid, document, leaving)
        for uid, placement in sorted(wanted.items()):
            used = sum(r.placement.ranks[0].memory_bytes for r in self.runners.values())
            fits = used + placement.ranks[0].memory_bytes <= self.memory_bytes
            if uid not in self.runners and fits and not self._exists(placement.after):
                self.runners[uid] = SimRunner(placement, now + READY_SECONDS)
                self._fleet.watch.starts.append((now, self.name, uid))

    def _elsewhere(self) -> list[RunningPlacement]:
        return [entry for _, heard in self.heard.values() for entry in heard.report.running]

    def _ready(self, uid: PlacementUid) -> bool:
        mine = self.runners.get(uid)
        ready = mine is not None and mine.gone_at is None and self._fleet.now >= mine.ready_at
        return ready or any(entry.uid == uid and entry.complete for entry in self._elsewhere())

    def _exists(self, uid: PlacementUid | None) -> bool:
        return uid is not None and (uid in self.runners or any(entry.uid == uid for entry in self._elsewhere()))

    def _publish_report(self, now: float) -> None:
        report = report_of(self.state, self._observed(), now)
        if report != self._told or now - self._told_at >= REPORT_SECONDS:
            self._told, self._told_at = report, now
            if not self.mute:
                for peer in sorted(self.liveness.peers):
                    self._tell(peer, None)


def _running(placement: Placement, node: NodeName, runner: SimRunner | None, now: float) -> RunningPlacement:
    return replace(
        begun(placement, node),
        complete=runner is not None and now >= runner.ready_at and runner.gone_at is None,
        draining=runner is not None and runner.gone_at is not None,
    )
