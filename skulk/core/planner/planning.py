"""The pure function at the centre: from what is wanted, there and running to one complete blueprint.

Deployments are taken by priority, then name, so that room goes to the important first; nothing that runs is
evicted for another deployment. No clock, no randomness, no order of inputs: equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from skulk.core.domain import (
    Blueprint,
    Deployment,
    DeploymentName,
    Fleet,
    Member,
    Reason,
    Refusal,
    RunningPlacement,
    SessionPlacement,
    Unplaced,
)
from skulk.core.planner.digests import canonical, digest_unordered, fleet_digest
from skulk.core.planner.eligibility import Wanted
from skulk.core.planner.offers import Refusals, by_refused
from skulk.core.planner.rollout import Outcome, keep_serving, retire_now, roll_out
from skulk.core.planner.survey import Survey, survey


def plan(
    fleet: Fleet,
    sessions: Sequence[SessionPlacement],
    members: Sequence[Member],
    running: Sequence[RunningPlacement],
    refusals: Sequence[Refusal],
) -> Blueprint:
    """Who runs what for this commit.

    `running` holds every placement that a member has begun to work on (files included) until it is gone;
    those of nodes that are not in `members` stay fixed. `refusals` holds vetoes still in force. `sessions` enter
    the digest of the inputs and have no other effect in this version. Epoch and sequence are left to the caller.
    """
    entries = _ordered(running)
    state = survey(fleet, members, entries)
    vetoes = by_refused(refusals)
    by_deployment: dict[DeploymentName, list[RunningPlacement]] = {}
    for entry in entries:
        by_deployment.setdefault(entry.deployment, []).append(entry)
    outcomes = [
        _unwanted(fleet.deployments.get(name), present, state)
        for name, present in sorted(by_deployment.items())
        if name not in fleet.deployments or fleet.deployments[name].suspend
    ]
    for deployment in sorted(fleet.deployments.values(), key=lambda d: (-d.priority, d.name)):
        if not deployment.suspend:
            outcomes.append(_wanted(fleet, deployment, by_deployment.get(deployment.name, []), state, vetoes))
    return Blueprint(
        commit=fleet.commit,
        placements=tuple(
            sorted((p for o in outcomes for p in o.placements), key=lambda p: (p.deployment, p.replica, p.uid))
        ),
        retiring=tuple(sorted((r for o in outcomes for r in o.retiring), key=lambda r: (r.deployment, r.uid, r.node))),
        unplaced=tuple(sorted((u for o in outcomes for u in o.unplaced), key=lambda u: (u.deployment, u.replica))),
        outages=tuple(sorted((o for out in outcomes for o in out.outages), key=lambda o: o.deployment)),
        inputs={
            "fleet": fleet_digest(fleet),
            "sessions": digest_unordered(sessions),
            "members": digest_unordered(members),
            "running": digest_unordered(running),
            "refusals": digest_unordered(refusals),
        },
    )


def _ordered(running: Sequence[RunningPlacement]) -> list[RunningPlacement]:
    """One entry per placement and node, in an order of its own. Of two reports the more advanced one counts."""
    found: dict[tuple[str, str], RunningPlacement] = {}
    for entry in sorted(running, key=lambda e: (e.node, e.uid, e.complete, e.draining, canonical(e))):
        found[entry.node, entry.uid] = entry
    return list(found.values())


def _unwanted(deployment: Deployment | None, present: Sequence[RunningPlacement], state: Survey) -> Outcome:
    """Everything goes: the deployment was removed or is suspended."""
    reason = Reason.DEPLOYMENT_REMOVED if deployment is None else Reason.SUSPENDED
    message = "the deployment was removed" if deployment is None else "the deployment is suspended"
    return Outcome(retiring=[retire_now(entry, reason, message, state) for entry in present])


def _wanted(
    fleet: Fleet,
    deployment: Deployment,
    present: Sequence[RunningPlacement],
    state: Survey,
    vetoes: Refusals,
) -> Outcome:
    card = fleet.cards.get(deployment.model)
    if card is None:
        # Validation refuses such a commit; planning it must still not stop what serves.
        message = f"the fleet has no card {deployment.model}"
        return Outcome(
            unplaced=[
                Unplaced(deployment.name, index, Reason.NO_ELIGIBLE_NODE, message)
                for index in range(deployment.replicas)
            ],
            retiring=[keep_serving(entry, Reason.NO_ELIGIBLE_NODE, message) for entry in present],
        )
    return roll_out(Wanted(deployment, card), present, state, vetoes, fleet.commit)
