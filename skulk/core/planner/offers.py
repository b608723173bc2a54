"""Where a new replica could go: what each node can offer now, and which offer is best.

An offer says exactly how the replica would run there. Ranking: backend preference, files already present, few
replicas of the same deployment, the node it is on already, most room left, lowest ordinal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from skulk.core.domain import (
    DeploymentName,
    EngineBuild,
    LaunchHash,
    NodeName,
    Reason,
    Refusal,
    RunningPlacement,
    Spread,
)
from skulk.core.memory import (
    CONTEXT_UNKNOWN_TOKENS,
    CONTEXT_USEFUL_TOKENS_MIN,
    Footprint,
    card_context_limit,
    context_limit,
    footprint,
    shown,
)
from skulk.core.planner.eligibility import Eligibility, Rejection, Wanted, backend_rank, summarise
from skulk.core.planner.survey import Site, Survey, pool_of

Refusals = Mapping[tuple[NodeName, DeploymentName, LaunchHash], Refusal]
Releasing = Callable[[Site], RunningPlacement | None]
"""Which running placement would be gone before a new one starts on that site (its room may be reused)."""


def nothing(_: Site) -> None:
    """Everything that runs stays while the new one starts."""
    return


@dataclass(frozen=True, slots=True)
class Offer:
    """One node's way to run the replica."""

    site: Site
    build: EngineBuild
    need: Footprint
    launch_hash: LaunchHash
    left_bytes: int
    """Room left on the device with the replica there."""
    released: RunningPlacement | None


class Market:
    """All that decides offers for one deployment while its replicas are placed one by one."""

    def __init__(self, wanted: Wanted, survey: Survey, refusals: Refusals) -> None:
        self.wanted = wanted
        self._survey = survey
        self._refusals = refusals
        self._eligibility = Eligibility(wanted)
        self._occupied: dict[NodeName, set[int]] = {}

    def occupy(self, name: NodeName, replica: int) -> None:
        """Note that a replica of this deployment is, or will be, on that node."""
        self._occupied.setdefault(name, set()).add(replica)

    def neighbours(self, name: NodeName, replica: int) -> list[int]:
        """The other replicas of this deployment on that node."""
        return sorted(self._occupied.get(name, set()) - {replica})

    def best(
        self, replica: int, releasing: Releasing = nothing, *, optimistic: bool = False
    ) -> Offer | tuple[Reason, str]:
        """The best offer of all nodes, or the one-line reason that there is none.

        `optimistic` counts what is on its way out as gone already: not to place, but to know whether to wait.
        """
        chosen: Offer | None = None
        chosen_key: tuple[object, ...] = ()
        rejections: list[tuple[NodeName, Rejection]] = []
        for site in self._survey.sites:
            found = self.offer(site, replica, releasing(site), optimistic=optimistic)
            if isinstance(found, Rejection):
                rejections.append((site.name, found))
                continue
            key = self._key(found, replica)
            # Sites come in ordinal order, so that "strictly better" leaves ties with the lowest ordinal.
            if chosen is None or key < chosen_key:
                chosen, chosen_key = found, key
        if chosen is not None:
            return chosen
        return summarise(rejections, " or ".join(self.wanted.card.compatible_backends))

    def offer(
        self, site: Site, replica: int, released: RunningPlacement | None = None, *, optimistic: bool = False
    ) -> Offer | Rejection:
        """What one node offers. The first of its builds that works wins: they are in order of preference."""
        builds = self._eligibility.builds(site)
        if isinstance(builds, Rejection):
            return builds
        rejection: Rejection | None = None
        for build in builds:
            found = self._on_build(site, build, released, optimistic=optimistic)
            if isinstance(found, Offer):
                neighbours = self.neighbours(site.name, replica)
                if neighbours and self.wanted.deployment.spread is Spread.NODE:
                    return Rejection(Reason.SPREAD, f"holds replica {neighbours[0]} already (spread: node)")
                return found
            rejection = rejection or found
        assert rejection is not None, "an eligible site has at least one build"
        return rejection

    def _on_build(
        self, site: Site, build: EngineBuild, released: RunningPlacement | None, *, optimistic: bool
    ) -> Offer | Rejection:
        usable = self._survey.usable_bytes(site, build)
        room, pool = self._survey.room, pool_of(build)
        free = usable - room.used_bytes(site.name, pool)
        if released is not None and released.node == site.name and pool in self._survey.pools(released):
            free += released.memory_bytes
        if optimistic:
            free += room.leaving_bytes(site.name, pool)
        need = self._need(build, free, usable)
        if isinstance(need, Rejection):
            return need
        launch = self.wanted.launch_hash(build, need.context_tokens)
        refusal = self._refusals.get((site.name, self.wanted.deployment.name, launch))
        if refusal is not None:
            return Rejection(Reason.NODE_REFUSED, f"refused it ({refusal.reason.value}: {refusal.message})")
        return Offer(site, build, need, launch, free - need.total_bytes, released)

    def _need(self, build: EngineBuild, free: int, usable: int) -> Footprint | Rejection:
        """The footprint with the context this build would run with, or the arithmetic of why not."""
        card, deployment = self.wanted.card, self.wanted.deployment
        limit = card_context_limit(card)
        asked = deployment.context_tokens
        if asked is not None:
            if limit is not None and asked > limit:
                return Rejection(
                    Reason.CONTEXT_TOO_LARGE, f"could give {limit} tokens by the card, {asked} are asked for"
                )
            need = footprint(card, build.backend, asked, deployment.concurrency)
            if need.total_bytes <= free:
                return need
        fits = context_limit(card, build.backend, free, deployment.concurrency)
        least = min(CONTEXT_USEFUL_TOKENS_MIN, limit or CONTEXT_UNKNOWN_TOKENS)
        if asked is None:
            need = footprint(card, build.backend, max(fits, least), deployment.concurrency)
            if need.total_bytes <= free:
                return need
        has = f"has {shown(max(0, free))} free of {shown(usable)}, needed are {need.explain()}"
        if asked is not None and fits >= least:
            return Rejection(Reason.CONTEXT_TOO_LARGE, f"{has}; {fits} tokens would fit")
        return Rejection(Reason.INSUFFICIENT_MEMORY, has)

    def _key(self, offer: Offer, replica: int) -> tuple[object, ...]:
        site = offer.site
        assert site.member is not None
        here: frozenset[str] = frozenset()
        if not self.wanted.shas.isdisjoint(site.member.files):
            here = self.wanted.shas & site.member.files
        present = sum(file.bytes for file in self.wanted.card.files if file.sha256 in here)
        return (
            backend_rank(self.wanted.card, offer.build.backend),
            -present,
            len(self.neighbours(site.name, replica)),
            replica not in self._occupied.get(site.name, set()),
            -offer.left_bytes,
        )


def by_refused(refusals: Sequence[Refusal]) -> Refusals:
    """Refusals by what they refuse; of several for one thing the alphabetically first message is shown."""
    found: dict[tuple[NodeName, DeploymentName, LaunchHash], Refusal] = {}
    for refusal in sorted(refusals, key=lambda r: (r.reason.value, r.message), reverse=True):
        found[refusal.node, refusal.deployment, refusal.launch_hash] = refusal
    return found
