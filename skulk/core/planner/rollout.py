"""The update story of one deployment: which replicas stand, which are replaced and in what order, which are new.

    start-first   the new one starts beside the old one, which serves until the new one is ready; when there is no
                  room for both, the old one serves on and the new one is reported as unplaced
    stop-first    the old one goes, then the new one starts; one replica at a time, and only when there is a place

A replacement in flight needs no memory of earlier plans: the new placement reports the wanted launch hash, so it
stands; the old one does not, so it makes way as soon as the new one serves. A revert turns that around by itself.
Members report a placement from the moment they begin to work on it, files included: before that a change of the
inputs may still choose another node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from skulk.core.domain import (
    CommitId,
    NodeName,
    Outage,
    Placement,
    PlacementUid,
    Rank,
    Reason,
    Retiring,
    RunningPlacement,
    Unplaced,
    UpdateStrategy,
)
from skulk.core.planner.digests import content_hash, placement_uid
from skulk.core.planner.eligibility import Wanted
from skulk.core.planner.offers import Offer, Refusals, Releasing
from skulk.core.planner.room import pool_of
from skulk.core.planner.search import Market
from skulk.core.planner.standing import Falls, Hold, Stands, serves, standing
from skulk.core.planner.survey import Site, Survey


@dataclass(slots=True)
class Outcome:
    """What one deployment adds to the blueprint."""

    placements: list[Placement] = field(default_factory=list)
    retiring: list[Retiring] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Replica:
    """One wanted replica: the running placement that stands for it, and those that make way."""

    index: int
    chosen: Stands | None
    falling: tuple[Falls, ...]

    @property
    def serving(self) -> tuple[Falls, ...]:
        return tuple(falls for falls in self.falling if falls.serves)


def retire_now(running: RunningPlacement, reason: Reason, message: str, survey: Survey) -> Retiring:
    """A retiring entry without a condition, its memory noted as on its way out."""
    survey.room.leave(running.node, survey.pools(running), running.memory_bytes)
    return _retiring(running, reason, message)


def keep_serving(running: RunningPlacement, reason: Reason, message: str) -> Retiring:
    """A retiring entry that serves on: what should take its place has none."""
    return _retiring(running, reason, message, keep=True)


def _retiring(
    running: RunningPlacement,
    reason: Reason,
    message: str,
    until: PlacementUid | None = None,
    *,
    keep: bool = False,
) -> Retiring:
    return Retiring(
        uid=running.uid,
        deployment=running.deployment,
        node=running.node,
        reason=reason,
        message=message,
        until=until,
        keep=keep,
        backend=running.backend,
        memory_bytes=running.memory_bytes,
    )


def roll_out(
    wanted: Wanted,
    running: Sequence[RunningPlacement],
    survey: Survey,
    refusals: Refusals,
    commit: CommitId,
) -> Outcome:
    """Plan all replicas of one deployment. `running`: its placements, in a fixed order; room is taken as it goes."""
    return _Rollout(wanted, running, survey, refusals, commit).outcome()


class _Rollout:
    def __init__(
        self,
        wanted: Wanted,
        running: Sequence[RunningPlacement],
        survey: Survey,
        refusals: Refusals,
        commit: CommitId,
    ) -> None:
        self._wanted = wanted
        self._running = running
        self._survey = survey
        self._commit = commit
        self._refusals = refusals
        self._market = Market(wanted, survey, refusals)
        self._out = Outcome()
        self._content = content_hash(wanted.card)
        self._in_transit = 0
        """Placements of this blueprint that do not serve yet."""

    @property
    def _stop_first(self) -> bool:
        return self._wanted.deployment.strategy is UpdateStrategy.STOP_FIRST

    def outcome(self) -> Outcome:
        for entry in self._running:
            self._market.occupy(entry.node, entry.replica)
        replicas = self._judge()
        for replica in replicas:
            if replica.chosen is not None:
                self._keep(replica, replica.chosen)
        # Stop-first fills every gap before it opens one. Start-first replaces first: a new replica could take the
        # very room that the replacement needs, and both would wait for ever.
        gaps_first = self._stop_first
        missing = [replica for replica in replicas if replica.chosen is None]
        for replica in sorted(missing, key=lambda r: (bool(r.serving) if gaps_first else not r.falling, r.index)):
            self._replace(replica)
        self._note_outage()
        return self._out

    def _judge(self) -> list[_Replica]:
        """Choose which replica indices are wanted, and sort out what runs for each."""
        by_index: dict[int, list[Stands | Falls]] = {}
        taken: set[NodeName] = set()
        for entry in sorted(self._running, key=lambda e: (e.replica, e.uid, e.node)):
            verdict = standing(self._wanted, entry, self._survey, self._refusals, taken)
            by_index.setdefault(entry.replica, []).append(verdict)
            if isinstance(verdict, Stands):
                taken.add(entry.node)
        indices = self._wanted_indices(by_index)
        for index in sorted(set(by_index) - set(indices)):
            for verdict in by_index[index]:
                count = self._wanted.deployment.replicas
                self._retire_now(verdict.running, Reason.REPLICA_REMOVED, f"{count} replicas are wanted")
        return [self._sort_out(index, by_index.get(index, [])) for index in indices]

    def _wanted_indices(self, by_index: dict[int, list[Stands | Falls]]) -> list[int]:
        """The replicas to have: 0, 1, 2, …, except that after scaling down those that serve are preferred."""
        count = self._wanted.deployment.replicas
        if all(index < count for index in by_index):
            return list(range(count))

        def key(index: int) -> tuple[bool, bool, bool, int]:
            here = by_index.get(index, [])
            return (
                not any(isinstance(verdict, Stands) and verdict.serves for verdict in here),
                not any(verdict.serves for verdict in here),
                not any(not verdict.running.draining for verdict in here),
                index,
            )

        return sorted(sorted({*range(count), *by_index}, key=key)[:count])

    def _sort_out(self, index: int, verdicts: list[Stands | Falls]) -> _Replica:
        stand = [verdict for verdict in verdicts if isinstance(verdict, Stands)]
        chosen = min(
            stand,
            key=lambda s: (not s.serves, s.running.draining, self._ordinal(s.running), s.running.uid),
            default=None,
        )
        extra = [
            Falls(s.running, Reason.SUPERSEDED, f"runs on {chosen.running.node} as well", Hold.UNTIL_REPLACED)
            for s in stand
            if chosen is not None and s is not chosen
        ]
        falling = [verdict for verdict in verdicts if isinstance(verdict, Falls)]
        return _Replica(index, chosen, (*falling, *extra))

    def _ordinal(self, running: RunningPlacement) -> int:
        return self._survey.by_name[running.node].node.ordinal

    # --- a replica that has its placement -------------------------------------------------------------------

    def _keep(self, replica: _Replica, chosen: Stands) -> None:
        uid = chosen.running.uid
        held, leaving = self._split(replica)
        if chosen.serves:
            held = replica.serving
        elif held and self._crowded(chosen, held):
            held, leaving = (), replica.falling
        self._hold(held, uid)
        self._let_go(replica.falling, held)
        after = None if chosen.serves else self._predecessor(leaving, self._site(chosen))
        self._out.placements.append(self._kept(chosen, _first(held), after))
        self._in_transit += not chosen.serves

    def _crowded(self, chosen: Stands, held: Sequence[Falls]) -> bool:
        """Whether the one that starts has no room beside those that serve: it was planned to come after them
        (stop-first, and the strategy changed meanwhile)."""
        running, build, site = chosen.running, chosen.build, self._site(chosen)
        if build is None:
            return False
        pool = pool_of(build)
        here = [
            falls.running
            for falls in held
            if falls.running.node == running.node and pool in self._survey.pools(falls.running)
        ]
        needed = running.memory_bytes + sum(entry.memory_bytes for entry in here)
        serving = self._survey.serving_bytes(site.name, pool, self._wanted.deployment.name)
        return bool(here) and needed + serving > self._survey.usable_bytes(site, build)

    def _kept(self, chosen: Stands, replaces: Falls | None, after: Falls | None) -> Placement:
        running, build = chosen.running, chosen.build
        return Placement(
            uid=running.uid,
            deployment=running.deployment,
            replica=running.replica,
            model=running.model,
            commit=self._commit,
            backend=running.backend,
            engine_version=build.version if build is not None else "",
            ranks=(Rank(running.node, running.rank, running.port, running.memory_bytes),),
            context_tokens=running.context_tokens,
            concurrency=running.concurrency,
            launch_hash=running.launch_hash,
            content_hash=running.content_hash,
            replaces=_uid(replaces),
            after=_uid(after),
            engine_digest=build.digest if build is not None else "",
        )

    def _site(self, chosen: Stands) -> Site:
        return self._survey.by_name[chosen.running.node]

    # --- a replica that needs a placement -------------------------------------------------------------------

    def _replace(self, replica: _Replica) -> None:
        if self._stop_first and replica.serving and self._in_transit:
            self._defer(replica)
            return
        held, leaving = self._split(replica)
        found = self._market.best(replica.index, self._releasing(leaving))
        if isinstance(found, Offer):
            placement = self._place(replica, found, held, leaving)
            self._hold(held, placement.uid)
            self._let_go(replica.falling, held)
            return
        self._leave_unplaced(replica, *found)

    def _place(self, replica: _Replica, offer: Offer, held: Sequence[Falls], leaving: Sequence[Falls]) -> Placement:
        deployment, name = self._wanted.deployment, offer.site.name
        after = self._predecessor(leaving, offer.site)
        placement = Placement(
            uid=placement_uid(deployment.name, replica.index, (name,), offer.launch_hash),
            deployment=deployment.name,
            replica=replica.index,
            model=deployment.model,
            commit=self._commit,
            backend=offer.build.backend,
            engine_version=offer.build.version,
            ranks=(Rank(name, memory_bytes=offer.need.total_bytes),),
            context_tokens=offer.need.context_tokens,
            concurrency=deployment.concurrency,
            launch_hash=offer.launch_hash,
            content_hash=self._content,
            replaces=_uid(_first(held)),
            after=_uid(after),
            engine_digest=offer.build.digest,
        )
        # The two never run together, so only what exceeds the predecessor's room is taken.
        released = offer.released.memory_bytes if offer.released is not None else 0
        shared = offer.released is not None and pool_of(offer.build) in self._survey.pools(offer.released)
        extra = max(0, offer.need.total_bytes - released) if shared else offer.need.total_bytes
        self._survey.room.take(name, (pool_of(offer.build),), extra)
        self._market.occupy(name, replica.index)
        self._out.placements.append(placement)
        self._in_transit += 1
        return placement

    def _defer(self, replica: _Replica) -> None:
        """Stop-first, and another replica is on its way: this one waits for its turn."""
        message = "waits until the other replicas are ready (stop-first replaces one at a time)"
        held = tuple(falls for falls in replica.falling if falls.serves)
        for falls in held:
            self._out.retiring.append(keep_serving(falls.running, Reason.ROLLING, message))
        self._let_go(replica.falling, held)
        self._out.unplaced.append(Unplaced(self._wanted.deployment.name, replica.index, Reason.ROLLING, message))

    def _leave_unplaced(self, replica: _Replica, reason: Reason, message: str) -> None:
        """No place. What serves goes on serving if it may; one of several, so that their room can be used."""
        serving = replica.serving
        if serving and not self._stop_first:
            alone = self._market.best(replica.index, self._releasing(serving))
            if isinstance(alone, Offer) and self._in_transit:
                reason, message = Reason.ROLLING, f"waits for the room of other replicas: {message}"
            elif isinstance(alone, Offer):
                reason = Reason.SURGE_DOES_NOT_FIT
                message = f"no room beside the running one (update.strategy stop-first needs none): {message}"
        may_stay = [falls for falls in serving if falls.hold is Hold.UNTIL_REPLACED]
        if not may_stay and serving and self._market.could_later(replica.index):
            may_stay = list(serving)
        for falls in may_stay[:1]:
            why = f"{falls.message}; {message}"
            self._out.retiring.append(keep_serving(falls.running, falls.reason, why))
        self._let_go(replica.falling, may_stay[:1])
        self._out.unplaced.append(Unplaced(self._wanted.deployment.name, replica.index, reason, message))

    # --- those that make way --------------------------------------------------------------------------------

    def _split(self, replica: _Replica) -> tuple[tuple[Falls, ...], tuple[Falls, ...]]:
        """(those that serve until the new one does, those that go at once)."""
        held = () if self._stop_first else replica.serving
        return held, tuple(falls for falls in replica.falling if falls not in held)

    def _releasing(self, leaving: Sequence[Falls]) -> Releasing:
        def releasing(site: Site) -> RunningPlacement | None:
            predecessor = self._predecessor(leaving, site)
            same = predecessor is not None and predecessor.running.node == site.name
            return predecessor.running if predecessor is not None and same else None

        return releasing

    def _predecessor(self, leaving: Sequence[Falls], site: Site) -> Falls | None:
        """Whom a new placement on `site` waits for: under stop-first the one that serves, wherever it is; else
        the largest on the same node, so that two never share the room of one."""
        serving = [falls for falls in leaving if falls.serves]
        if self._stop_first and serving:
            return serving[0]
        here = [falls for falls in leaving if falls.running.node == site.name]
        return max(here, key=lambda f: (f.running.memory_bytes, f.running.uid), default=None)

    def _hold(self, held: Sequence[Falls], until: PlacementUid) -> None:
        for falls in held:
            self._out.retiring.append(_retiring(falls.running, falls.reason, falls.message, until))

    def _let_go(self, falling: Sequence[Falls], held: Sequence[Falls]) -> None:
        for falls in falling:
            if falls not in held:
                self._retire_now(falls.running, falls.reason, falls.message)

    def _retire_now(self, running: RunningPlacement, reason: Reason, message: str) -> None:
        self._out.retiring.append(retire_now(running, reason, message, self._survey))

    def _note_outage(self) -> None:
        """Name it when something that serves (or just did) goes and nothing is left that serves."""
        if not self._wanted.deployment.replicas:
            return
        now = {(entry.uid, entry.node): entry for entry in self._running}
        going = [r for r in self._out.retiring if r.until is None and not r.keep]
        if not any(now[r.uid, r.node].complete or now[r.uid, r.node].draining for r in going):
            return
        left = any(r.until is not None or r.keep for r in self._out.retiring) or any(
            (entry := now.get((p.uid, p.ranks[0].node))) is not None and serves(entry) for p in self._out.placements
        )
        if not left:
            causes = "; ".join(sorted({r.message for r in going}))
            ahead = "until the new one is ready" if self._out.placements else "until it can be placed"
            self._out.outages.append(Outage(self._wanted.deployment.name, f"no replica serves {ahead}: {causes}"))


def _first(falling: Sequence[Falls]) -> Falls | None:
    return falling[0] if falling else None


def _uid(falls: Falls | None) -> PlacementUid | None:
    return falls.running.uid if falls is not None else None
