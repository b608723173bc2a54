"""What `decide` reads: this node's part of the blueprint, and the facts of the moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.domain import (
    Blueprint,
    Card,
    CardName,
    Deployment,
    DeploymentName,
    EngineBuild,
    Fleet,
    NodeName,
    Placement,
    PlacementUid,
    Retiring,
    RunnerFacts,
    WeightsFacts,
)
from skulk.core.reconcile.ledger import Blame


@dataclass(frozen=True, slots=True)
class Part:
    """This node's share of an accepted blueprint.

    `authoritative` is false while no blueprint was accepted: then nothing is started and nothing is stopped,
    because something that is missing is never a reason to stop a runner.
    """

    placements: tuple[Placement, ...] = ()
    retiring: tuple[Retiring, ...] = ()
    cards: Mapping[CardName, Card] = field(default_factory=dict)
    deployments: Mapping[DeploymentName, Deployment] = field(default_factory=dict)
    authoritative: bool = False
    reserve_memory_bytes: int = 0
    reserve_disk_bytes: int = 0


def part_for(node: NodeName, fleet: Fleet | None, blueprint: Blueprint | None, *, leaving: bool) -> Part:
    """The part of `blueprint` that concerns `node`. Leaving (own manifest gone, or told to stop): nothing is
    wanted here any more, and that is an order."""
    if leaving:
        return Part(authoritative=True)
    if fleet is None or blueprint is None:
        return Part()
    declared = fleet.nodes.get(node)
    return Part(
        placements=blueprint.on_node(node),
        retiring=tuple(r for r in blueprint.retiring if r.node == node),
        cards=fleet.cards,
        deployments=fleet.deployments,
        authoritative=True,
        reserve_memory_bytes=declared.reserve_memory_bytes if declared else 0,
        reserve_disk_bytes=declared.reserve_disk_bytes if declared else 0,
    )


@dataclass(frozen=True, slots=True)
class Observed:
    """Facts of this node now."""

    runners: Mapping[PlacementUid, RunnerFacts] = field(default_factory=dict)
    weights: Mapping[str, WeightsFacts] = field(default_factory=dict)
    builds: tuple[EngineBuild, ...] = ()
    memory_bytes: int = 0
    """Total of the machine, or the local cap."""
    free_memory_bytes: int = 0
    stock_taken: bool = False
    """What an earlier daemon left is known. Nothing is started before."""
    ready_elsewhere: frozenset[PlacementUid] = frozenset()
    """Placements of other live nodes that serve."""
    alive_elsewhere: frozenset[PlacementUid] = frozenset()
    """Placements that other live nodes still work on."""
    in_flight: frozenset[str] = frozenset()
    """Keys of the actions that are being applied."""
    failed_starts: Mapping[PlacementUid, Blame] = field(default_factory=dict)
    """Starts that failed before there was a process."""
    orphan_seconds: float = 600.0
    awake_since: float = 0.0
    """Since when the daemon has been looking without a gap: silence before that proves nothing."""
