"""A node's vetoes: placements that it was given, cannot serve, and that another node might.

The coordinator plans them elsewhere, and does not give them back while the veto stands. Where no other node offers
the backend nothing is refused: the placement waits here, and says for what.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from skulk.core.domain import DeploymentName, LaunchHash, NodeName, Placement, PlacementUid, Reason, Refusal, Waiting
from skulk.core.reconcile import limits
from skulk.core.reconcile.decide import Decision
from skulk.core.reconcile.fold import STUCK
from skulk.core.reconcile.ledger import Ledger
from skulk.core.reconcile.machine import Phase

_Key = tuple[DeploymentName, LaunchHash]
_SECONDS: Mapping[Reason, float] = {
    Reason.WAITING_FOR_MEMORY: limits.MEMORY_REFUSAL_SECONDS,
    Reason.FETCH_FAILED: limits.FETCH_REFUSAL_SECONDS,
}


@dataclass(frozen=True, slots=True)
class Vetoes:
    """What this node refuses, and since when (monotonic seconds)."""

    made: Mapping[_Key, tuple[Refusal, float]] = field(default_factory=dict)

    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(refusal for _, (refusal, _) in sorted(self.made.items()))

    def without(self, deployments: Collection[DeploymentName]) -> Vetoes:
        """A person reset these."""
        return Vetoes({key: entry for key, entry in self.made.items() if key[0] not in deployments})


def veto(
    before: Vetoes,
    node: NodeName,
    placements: Iterable[Placement],
    decision: Decision,
    offered_elsewhere: Collection[str],
    now: float,
) -> Vetoes:
    """The vetoes after this decision: expired ones go, new ones come.

    A veto for memory or files runs out, because both change by themselves; one for crashes or a hang stands until a
    person resets it or the launch hash is another one.
    """
    made = {k: (r, at) for k, (r, at) in before.made.items() if now - at < _SECONDS.get(r.reason, float("inf"))}
    lines: Mapping[PlacementUid, Waiting] = {PlacementUid(w.subject): w for w in decision.waiting}
    for placement in placements:
        key = placement.deployment, placement.launch_hash
        line = lines.get(placement.uid)
        if key in made or line is None or placement.backend not in offered_elsewhere:
            continue
        if _hopeless(decision.ledger, placement.uid, line, now):
            made[key] = Refusal(node, *key, line.reason, line.message), now
    return Vetoes(made)


def _hopeless(ledger: Ledger, uid: PlacementUid, line: Waiting, now: float) -> bool:
    """It will not come up here soon."""
    record = ledger.record(uid)
    if line.reason is Reason.WAITING_FOR_MEMORY:
        since = record.refused_since
        return since is not None and now - since >= limits.MEMORY_PATIENCE_SECONDS
    return line.reason is Reason.FETCH_FAILED or record.phase in STUCK - {Phase.BACKOFF}
