"""The full story of one deployment, for `skulk why` and previews: what was decided and what each node said.

The blueprint carries one line per unplaced replica; this works out the rest on request, with the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skulk.core.domain import (
    Blueprint,
    Deployment,
    DeploymentName,
    Fleet,
    Member,
    Refusal,
    RunningPlacement,
)
from skulk.core.memory import shown
from skulk.core.planner.eligibility import Rejection, Wanted
from skulk.core.planner.offers import by_refused
from skulk.core.planner.planning import plan
from skulk.core.planner.search import Market
from skulk.core.planner.survey import Site, pools_of, survey


def why(
    fleet: Fleet,
    members: Sequence[Member],
    running: Sequence[RunningPlacement],
    refusals: Sequence[Refusal],
    deployment: DeploymentName,
) -> tuple[str, ...]:
    """Lines for people: first the replicas, then what retires, then every node in order of its ordinal."""
    wanted = fleet.deployments.get(deployment)
    blueprint = plan(fleet, (), members, running, refusals)
    if wanted is None:
        names = ", ".join(sorted(fleet.deployments)) or "none"
        return (
            f"deployment {deployment} is not in commit {fleet.commit[:12]}; there are: {names}",
            *_retiring(blueprint, deployment),
        )
    if wanted.suspend:
        return ("suspended: spec.suspend is true", *_retiring(blueprint, deployment))
    return (
        *_replicas(blueprint, wanted, running),
        *_retiring(blueprint, deployment),
        *(f"without service: {out.message}" for out in blueprint.outages if out.deployment == deployment),
        *_nodes(fleet, members, refusals, blueprint, wanted),
    )


def _replicas(blueprint: Blueprint, wanted: Deployment, running: Sequence[RunningPlacement]) -> Iterator[str]:
    if not wanted.replicas:
        yield "no replicas: spec.replicas is 0"
    now = {(entry.uid, entry.node): entry for entry in running}
    for placement in blueprint.placements:
        if placement.deployment != wanted.name:
            continue
        rank = placement.ranks[0]
        entry = now.get((placement.uid, rank.node))
        state = "new" if entry is None else "ready" if entry.complete and not entry.draining else "on its way"
        yield (
            f"replica {placement.replica}: {placement.uid} on {rank.node}, {placement.backend},"
            f" {placement.context_tokens} tokens × {placement.concurrency}, {shown(rank.memory_bytes, up=True)},"
            f" {state}"
        )
    for line in blueprint.unplaced:
        if line.deployment == wanted.name:
            yield f"replica {line.replica}: not placed, {line.reason.value}: {line.message}"


def _retiring(blueprint: Blueprint, deployment: DeploymentName) -> Iterator[str]:
    for entry in blueprint.retiring:
        if entry.deployment != deployment:
            continue
        how = "serves on" if entry.keep else f"goes when {entry.until} is ready" if entry.until else "goes now"
        yield f"{entry.uid} on {entry.node} {how}, {entry.reason.value}: {entry.message}"


def _nodes(
    fleet: Fleet,
    members: Sequence[Member],
    refusals: Sequence[Refusal],
    blueprint: Blueprint,
    wanted: Deployment,
) -> Iterator[str]:
    """What each node would say to one replica more, with the blueprint's placements in place."""
    card = fleet.cards.get(wanted.model)
    if card is None:
        return
    state = survey(fleet, members, ())
    market = Market(Wanted(wanted, card), state, by_refused(refusals))
    for placement in blueprint.placements:
        for rank in placement.ranks:
            pools = pools_of(state.by_name.get(rank.node), placement.backend)
            state.room.take(rank.node, pools, rank.memory_bytes)
            if placement.deployment == wanted.name:
                market.occupy(rank.node, placement.replica)
    for entry in blueprint.retiring:
        state.room.take(entry.node, pools_of(state.by_name.get(entry.node), entry.backend), entry.memory_bytes)
    for site in state.sites:
        yield f"node {site.name}: {_verdict(market, site)}"


def _verdict(market: Market, site: Site) -> str:
    # An index that no replica has: what is asked is room for one more.
    found = market.offer(site, replica=-1)
    if isinstance(found, Rejection):
        return f"{found.reason.value}: {found.message}"
    return f"could take one more on {found.build.backend}: {found.need.explain()}"
