"""Everything the loop knows at one tick, of this node and of the others: what snapshots are built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from skulk.core.domain import (
    Blueprint,
    BootId,
    Check,
    CommitId,
    Condition,
    Fleet,
    NodeName,
    PlacementUid,
    Presence,
    Reading,
    RunnerFacts,
    Share,
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
    problems: tuple[str, ...] = ()
    """What is wrong with this node beyond its engines, one line each."""
    shares: Mapping[NodeName, Share] = field(default_factory=dict)
    """The newest share of every other node that was seen, also of those that are gone. The same objects as at the
    tick before, as long as they say the same."""
    presence: Mapping[NodeName, Presence] = field(default_factory=dict)
    """Of every node that was seen since this daemon started; this node needs no entry."""
    readings: Mapping[NodeName, Mapping[str, Reading]] = field(default_factory=dict)
    """Telemetry by node and kind, this node's own included."""
    gauges: Mapping[NodeName, Mapping[str, Mapping[str, object]]] = field(default_factory=dict)
    """The readings as they are shown (`core.readings.Steady`): node → kind → `ageSeconds` and values."""
    absent_seconds: Mapping[NodeName, float] = field(default_factory=dict)
    """Since when nodes that were seen are gone."""
    rivals: tuple[BootId, ...] = ()
    """Other daemons that are live under this node's name."""
    plain: bool = False
    """Its planes reach beyond loopback without certificates, as its node.toml allows."""
    coordinator: NodeName | None = None
    """Who publishes the blueprints, as far as this node knows."""
    notes: tuple[Waiting, ...] = ()
    """What the coordination waits for."""
    cautions: tuple[Condition, ...] = ()
    """What the coordination has to say of the fleet."""

    def live(self, name: NodeName) -> bool:
        """It takes part right now."""
        return name == self.node or self.presence.get(name) is Presence.LIVE
