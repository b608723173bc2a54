"""What must never happen in a fleet, checked at the moment it would. It changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from skulk.core.coordination import Document
from skulk.core.domain import NodeName, PlacementUid


@dataclass
class Watch:
    """What must never happen, checked at the moment it would."""

    violations: list[str] = field(default_factory=list)
    digests: dict[tuple[int, int], str] = field(default_factory=dict)
    authors: dict[int, NodeName] = field(default_factory=dict)
    keys: dict[NodeName, tuple[int, int]] = field(default_factory=dict)
    places: dict[NodeName, int] = field(default_factory=dict)
    published: list[tuple[float, Document]] = field(default_factory=list)
    starts: list[tuple[float, NodeName, PlacementUid]] = field(default_factory=list)
    stops: list[tuple[float, NodeName, PlacementUid]] = field(default_factory=list)

    def accepted(self, node: NodeName, document: Document, place: int) -> None:
        """`node` has this document on disk from now on; `place` is its commit's place in history."""
        version = document.version
        if self.digests.setdefault(version.key, version.digest) != version.digest:
            self.violations.append(f"{node}: two documents {version.key}")
        if self.authors.setdefault(version.epoch, version.author) != version.author:
            self.violations.append(f"{node}: two coordinators in epoch {version.epoch}")
        if version.key <= self.keys.get(node, (0, 0)):
            self.violations.append(f"{node}: {version.key} after {self.keys[node]}")
        if place < self.places.get(node, -1):
            self.violations.append(f"{node}: commit {version.commit} after a newer one")
        self.keys[node], self.places[node] = version.key, place

    def stopped(self, now: float, node: NodeName, uid: PlacementUid, document: Document | None, leaving: bool) -> None:
        """A runner was told to stop."""
        self.stops.append((now, node, uid))
        listed = document is not None and node in document.members
        named = document is not None and uid in {p.uid for p in document.blueprint.on_node(node)}
        if not leaving and (not listed or named):
            self.violations.append(f"{node}: {uid} stopped without an order")
