"""Everything the loop knows at one tick: what snapshots are built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from skulk.core.domain import (
    Blueprint,
    Check,
    CommitId,
    Condition,
    Fleet,
    NodeName,
    PlacementUid,
    RunnerFacts,
    Waiting,
    WeightsFacts,
)
from skulk.core.ports import Machine
from skulk.core.reconcile.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything known at one tick. Times of facts are monotonic; `wall_offset` turns them into epoch seconds."""

    node: NodeName
    version: str
    fleet: Fleet | None
    attempted: CommitId | None
    accepted: CommitId | None
    leaving: bool
    source: tuple[Condition, ...]
    machine: Machine
    blueprint: Blueprint | None
    ledger: Ledger
    waiting: tuple[Waiting, ...]
    routable: frozenset[PlacementUid]
    runners: Mapping[PlacementUid, RunnerFacts]
    weights: Mapping[str, WeightsFacts]
    files: frozenset[str]
    """sha256 of the model files that are whole on this node."""
    why: Callable[[str], tuple[str, ...]]
    """The planner's reasons for one deployment, computed on request."""
    checks: tuple[Check, ...]
    wall: float
    wall_offset: float
    closing: bool = False
