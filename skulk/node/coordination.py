"""The effects around `coordinate`: what reached this node becomes its facts, what it wants done is done.

One step per round of the node loop. Promise and document are on disk before anybody hears of them. Without planes
the node is a fleet of its own and the same rules apply: there is one path from a commit to a blueprint, not two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

import structlog

from skulk.core.coordination import (
    Announce,
    Ask,
    Document,
    DocumentError,
    Durable,
    FetchBody,
    Heard,
    Local,
    Observed,
    Obtain,
    Outputs,
    Persist,
    Plan,
    Report,
    State,
    Version,
    coordinate,
    read,
    report_of,
)
from skulk.core.coordination.planes_report import (
    Question,
    Told,
    decode_told,
    encode_announcement,
    encode_question,
    encode_told,
)
from skulk.core.domain import (
    Blueprint,
    CommitId,
    DeploymentName,
    Fleet,
    NodeName,
    PlacementUid,
    PlanesView,
    Presence,
    RunningPlacement,
    Topic,
)
from skulk.core.errors import SkulkError
from skulk.core.planner import plan, why
from skulk.core.ports import Clock, ControlPlane, Journal
from skulk.core.wire.planes_messages import MessageError
from skulk.node.hearing import Hearing
from skulk.node.source import SourceState

_log = structlog.get_logger(component="coordination")

# An answer takes milliseconds; a question that is lost is put again by the next round.
ASK_SECONDS = 2.0
# Long enough for a document of some megabytes over a slow link; after that it is asked for again.
BODY_SECONDS = 15.0


class Coordination:
    """This node's part in who publishes blueprints and which one it follows."""

    def __init__(
        self,
        node: NodeName,
        journal: Journal,
        clock: Clock,
        wake: Callable[[], None],
        *,
        obtain: Callable[[CommitId, tuple[NodeName, ...]], None] = lambda _commit, _holders: None,
        planner: Plan = plan,
    ) -> None:
        self._node = node
        self._journal = journal
        self._clock = clock
        self._obtain = obtain
        self._plan = planner
        self._control: ControlPlane | None = None
        self.hearing = Hearing(node, wake)
        self._bundles: tuple[bytes, ...] = ()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._number = 0
        self._told: Report | None = None
        self._encoded: tuple[Told, bytes] | None = None
        self._not_kept = ""
        """Why the last document could not be written: told once, and tried again with every round."""
        self._local: Local | None = None
        self._live_now: frozenset[NodeName] = frozenset()
        """Who else was live in the last round: its decision goes by the same picture as its coordination."""
        self._source = SourceState()
        self.outputs = Outputs()
        self.state = self._restored()

    def _restored(self) -> State:
        """What the last daemon promised and acted on."""
        kept = self._journal.load()
        document = None
        if kept.document is not None:
            try:
                document = read(kept.document)
            except DocumentError as error:
                _log.warning("document_unreadable", error=str(error))
        if document is not None and self._node not in document.members:
            # The node has another name now: what was made for the old one orders nothing here.
            _log.warning("document_of_another_node", members=sorted(document.members))
            document = None
        if document is not None and kept.proof:
            self.hearing.proofs[document.version.digest] = kept.proof
        return State(Durable(kept.promised, document))

    # --- what the node asks ---------------------------------------------------------------------------------

    def join(self, control: ControlPlane) -> None:
        """The planes are open. Bodies are answered for from now on."""
        self._control = control
        self._hold()
        document = self.state.durable.document
        if document is not None:
            # On disk already: who missed it in an earlier life of this daemon can have it.
            self._announce(document.version)

    def part(self) -> None:
        """The planes are closed: this node goes on with what it has."""
        self._control = None

    @property
    def blueprint(self) -> Blueprint | None:
        """What this node acts on."""
        document = self.state.durable.document
        return document.blueprint if document is not None else None

    @property
    def busy(self) -> bool:
        """Deadlines of fractions of a second are running, or an answer is on its way."""
        newest = self._source.commits[-1].commit if self._source.commits else None
        lags = newest is not None and newest != self.in_force
        return lags or bool(self.outputs.waiting or self.outputs.actions or self._tasks)

    @property
    def joined(self) -> bool:
        """There are planes, and so deadlines of seconds that concern other nodes."""
        return self._control is not None

    @property
    def in_force(self) -> CommitId | None:
        blueprint = self.blueprint
        return blueprint.commit if blueprint is not None else None

    @property
    def planes(self) -> PlanesView | None:
        return self._control.observe() if self._control is not None else None

    def elsewhere(self) -> tuple[RunningPlacement, ...]:
        """What the other live members work on."""
        live = self._live_now
        heard = sorted((name, told) for name, (told, _) in self.hearing.told.items() if name in live)
        return tuple(running for _, told in heard for running in told.report.running)

    def sighted(self) -> frozenset[NodeName]:
        """Whom the live members see."""
        live = self._live(self.planes)
        told = [told.report for name, (told, _) in self.hearing.told.items() if name in live]
        return frozenset(name for report in told for name in report.live)

    def offered_elsewhere(self) -> frozenset[str]:
        """Backends of the other live members."""
        live = self._live_now
        return frozenset(
            b.backend for n, (told, _) in self.hearing.told.items() if n in live for b in told.report.member.builds
        )

    def why(self, name: str) -> tuple[str, ...]:
        """The planner's reasons for one deployment, from what is known here now."""
        fleet = self.fleet_in_force(self._source) or self._source.fleet
        if fleet is None or self._local is None:
            return ()
        live = self._live(self.planes)
        told = [t.report for n, (t, _) in sorted(self.hearing.told.items()) if n in live and n in fleet.nodes]
        members = (self._local.member, *(report.member for report in told))
        running = (*self._local.running, *(r for report in told for r in report.running))
        refusals = (*self._local.refusals, *(r for report in told for r in report.refusals))
        return why(fleet, members, running, refusals, DeploymentName(name))

    def fleet_in_force(self, source: SourceState) -> Fleet | None:
        """The manifests that the blueprint was made from, None while this node has not read them."""
        commit = self.in_force
        return next((v.fleet for v in source.commits if v.commit == commit), None)

    # --- one round ------------------------------------------------------------------------------------------

    def step(self, source: SourceState, local: Local) -> None:
        """Look at everything that reached this node, and do what follows from it."""
        self._source, self._local = source, local
        view = self.planes
        self._live_now = self._live(view)
        if view is not None and self._control is not None:
            self.hearing.take_in(view, self._control)
            self.hearing.forget_proofs(self.state.durable.document)
        observed = self._observed(view, source, local)
        new, outputs = coordinate(self.state, observed, self._clock.now(), self._plan)
        before = self.state
        for action in outputs.actions:
            if isinstance(action, Persist):
                try:
                    self._persist(action.durable)
                except SkulkError as error:
                    # Nobody may hear of what is not on disk: this round did not happen.
                    if error.message != self._not_kept:
                        _log.warning("document_not_kept", code=error.code.id, error=error.message)
                    self._not_kept = error.message
                    self.state = before
                    return
                self._not_kept = ""
                self.state = replace(self.state, durable=action.durable)
            else:
                self._do(action)
        self.state, self.outputs = new, outputs
        self._publish(observed)

    def _observed(self, view: PlanesView | None, source: SourceState, local: Local) -> Observed:
        live = self._live(view)
        departed = {n for n, p in view.peers.items() if p.presence is Presence.LEFT} if view is not None else set()
        return Observed(
            local=replace(local, invalid=source.invalid),
            live=live | {self._node},
            changes=view.changes if view is not None else 0,
            commits=_since(source, self.in_force),
            ancestors=source.older,
            heard={name: Heard(told.report, question) for name, (told, question) in self.hearing.told.items()},
            announced=tuple(self.hearing.announced.values()),
            bodies=self.hearing.bodies,
            departed=frozenset(departed - {self._node}),
        )

    def _live(self, view: PlanesView | None) -> frozenset[NodeName]:
        return view.live() - {self._node} if view is not None else frozenset()

    # --- what is to be done ---------------------------------------------------------------------------------

    def _persist(self, durable: Durable) -> None:
        document = durable.document
        kept = self._journal.load()
        self._journal.save(
            replace(
                kept,
                promised=durable.promised,
                document=document.body if document is not None else None,
                proof=self.hearing.proofs.get(document.version.digest, b"") if document is not None else b"",
            )
        )
        if document is not None:
            blueprint = document.blueprint
            _log.info(
                "document_accepted",
                version=f"{document.version.epoch}.{document.version.seq}",
                author=document.version.author,
                commit=document.commit,
                placements=len(blueprint.placements),
            )
        self._hold(document)

    def hold_bundles(self, bundles: tuple[bytes, ...]) -> None:
        """Answer for these as well."""
        self._bundles = bundles
        self._hold()

    def _hold(self, newest: Document | None = None) -> None:
        if self._control is None:
            return
        document = newest if newest is not None else self.state.durable.document
        held = [document.body] if document is not None else []
        self._control.hold([*held, *(d.body for d in self.hearing.bodies.values()), *self._bundles])

    def _do(self, action: Announce | Ask | FetchBody | Obtain) -> None:
        match action:
            case Announce():
                self._announce(action.version)
            case Ask():
                for node in action.nodes:
                    self._start(f"ask/{node}", self._ask(node, action.question))
            case FetchBody():
                if action.version.digest in self.hearing.proofs or self._is_plain():
                    self._start(f"body/{action.version.digest}", self._fetch(action.version))
            case Obtain():
                self._obtain(action.commit, action.holders)

    def _is_plain(self) -> bool:
        view = self.planes
        return view is not None and view.plain

    def _announce(self, version: Version) -> None:
        if self._control is None or version.author != self._node:
            return
        self.hearing.proofs[version.digest] = self._control.publish(Topic.ANNOUNCEMENT, encode_announcement(version))

    async def _ask(self, node: NodeName, question: int) -> None:
        if self._control is None:
            return
        answer = await self._control.ask(node, encode_question(Question()), deadline_seconds=ASK_SECONDS)
        self.hearing.hear(node, decode_told(answer, node), question, self._control)

    async def _fetch(self, version: Version) -> None:
        if self._control is None:
            return
        body = await self._control.fetch(version.digest, deadline_seconds=BODY_SECONDS)
        self.hearing.keep(version, body)

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """One at a time of each name; what fails is wanted again by a later round."""
        if name in self._tasks:
            work.close()
            return

        async def run() -> None:
            try:
                await work
            except (SkulkError, MessageError) as error:
                _log.debug("coordination_step_failed", step=name, error=str(error))
            finally:
                self._tasks.pop(name, None)

        self._tasks[name] = asyncio.create_task(run(), name=name)

    # --- what is told ---------------------------------------------------------------------------------------

    def _publish(self, observed: Observed) -> None:
        if self._control is not None:
            self._control.publish(Topic.STATUS, self._report(observed))

    def _report(self, observed: Observed) -> bytes:
        report = report_of(self.state, observed, self._clock.now())
        if report != self._told:
            self._number += 1
            self._told = report
        proof = self.hearing.proofs.get(report.accepted.digest, b"") if report.accepted is not None else b""
        told = Told(self._number, proof, report)
        if self._encoded is None or self._encoded[0] != told:
            # Wanted several times a second, and the same for hours.
            self._encoded = told, encode_told(told)
        return self._encoded[1]

    def answer(self) -> bytes:
        """This node's report, for a member that asks. Raises MessageError before the first round."""
        if self._local is None:
            raise MessageError("nothing is known here yet")
        return self._report(self._observed(self.planes, self._source, self._local))

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ready(running: Iterable[RunningPlacement]) -> frozenset[PlacementUid]:
    """Placements that are complete and take requests."""
    return frozenset(r.uid for r in running if r.complete and not r.draining)


def _since(source: SourceState, in_force: CommitId | None) -> tuple[Any, ...]:
    """The commits from the one in force on; all when that one is not among them."""
    index = next((i for i, v in enumerate(source.commits) if v.commit == in_force), 0)
    return source.commits[index:]
