"""Where a new replica could go: what each node can offer now, and how offers compare.

An offer says exactly how the replica would run there. Ranking: backend preference, files already present, few
replicas of the same deployment, the node it is on already, most room left, lowest ordinal.
Which node's offer is the best is found in `search`.
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
    kv_cache_of,
    shown,
)
from skulk.core.planner.eligibility import (
    Eligibility,
    Rejection,
    Wanted,
    backend_rank,
)
from skulk.core.planner.room import pool_of
from skulk.core.planner.survey import Site, Survey

Vetoed = tuple[NodeName, DeploymentName, LaunchHash]


@dataclass(frozen=True, slots=True)
class Refusals:
    """The vetoes in force, by what they refuse."""

    by_vetoed: Mapping[Vetoed, Refusal]
    by_deployment: Mapping[DeploymentName, frozenset[NodeName]]

    def get(self, vetoed: Vetoed) -> Refusal | None:
        return self.by_vetoed.get(vetoed)

    def nodes(self, deployment: DeploymentName) -> frozenset[NodeName]:
        """Nodes that refused something of this deployment."""
        return self.by_deployment.get(deployment, frozenset())


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


class Offers:
    """What each node says to one deployment while its replicas are placed one by one."""

    def __init__(self, wanted: Wanted, survey: Survey, refusals: Refusals) -> None:
        self.wanted = wanted
        self._survey = survey
        self._refusals = refusals
        self._eligibility = Eligibility(wanted)
        self._occupied: dict[NodeName, set[int]] = {}
        self._refused = refusals.nodes(wanted.deployment.name)
        self._present = survey.present(wanted.card)

    def occupy(self, name: NodeName, replica: int) -> None:
        """Note that a replica of this deployment is, or will be, on that node."""
        self._occupied.setdefault(name, set()).add(replica)

    def neighbours(self, name: NodeName, replica: int) -> list[int]:
        """The other replicas of this deployment on that node."""
        return sorted(self._occupied.get(name, set()) - {replica})

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
                if self.wanted.deployment.spread is Spread.NODE and (neighbours := self.neighbours(site.name, replica)):
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
        kv_cache = kv_cache_of(deployment)
        limit = card_context_limit(card)
        asked = deployment.context_tokens
        if asked is not None:
            if limit is not None and asked > limit:
                return Rejection(
                    Reason.CONTEXT_TOO_LARGE, f"could give {limit} tokens by the card, {asked} are asked for"
                )
            need = footprint(card, build.backend, asked, deployment.concurrency, kv_cache)
            if need.total_bytes <= free:
                return need
        fits = context_limit(card, build.backend, free, deployment.concurrency, kv_cache)
        least = min(CONTEXT_USEFUL_TOKENS_MIN, limit or CONTEXT_UNKNOWN_TOKENS)
        if asked is None:
            need = footprint(card, build.backend, max(fits, least), deployment.concurrency, kv_cache)
            if need.total_bytes <= free:
                return need
        has = f"has {shown(max(0, free))} free of {shown(usable)}, needed are {need.explain()}"
        if asked is not None and fits >= least:
            return Rejection(Reason.CONTEXT_TOO_LARGE, f"{has}; {fits} tokens would fit")
        return Rejection(Reason.INSUFFICIENT_MEMORY, has)

    def key(self, offer: Offer, replica: int) -> tuple[object, ...]:
        site = offer.site
        here = self._occupied.get(site.name, set())
        return (
            backend_rank(self.wanted.card, offer.build.backend),
            -self._present.get(site.index, 0),
            len(here) - (replica in here),
            replica not in here,
            -offer.left_bytes,
            site.index,
        )


def by_refused(refusals: Sequence[Refusal]) -> Refusals:
    """Refusals by what they refuse; of several for one thing the alphabetically first message is shown."""
    found: dict[Vetoed, Refusal] = {}
    nodes: dict[DeploymentName, set[NodeName]] = {}
    for refusal in sorted(refusals, key=lambda r: (r.reason.value, r.message), reverse=True):
        found[refusal.node, refusal.deployment, refusal.launch_hash] = refusal
        nodes.setdefault(refusal.deployment, set()).add(refusal.node)
    return Refusals(found, {name: frozenset(refused) for name, refused in nodes.items()})
