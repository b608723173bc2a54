"""What one node tells all others about itself, for people and for routing: its part of everybody's picture.

It changes nothing that runs. Planning and agreement read member records and reports, never this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.domain.ids import CommitId, NodeName
from skulk.core.domain.view import Resource, Route


@dataclass(frozen=True, slots=True)
class Fetching:
    """Model files on their way to a node."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """The newest word of one node. Times in it are seconds of the epoch on its own clock."""

    node: NodeName
    version: str
    attempted: CommitId | None
    accepted: CommitId | None
    machine: Resource
    """The node as a resource: what it is and has. Its presence and readiness are the reader's to say."""
    placements: tuple[Resource, ...] = ()
    """Everything it has begun to work on, until it is gone."""
    runners: tuple[Resource, ...] = ()
    routes: tuple[Route, ...] = ()
    fetching: Mapping[str, Fetching] = field(default_factory=dict)
    """Content key of a card → how far its files are, for those that are being fetched now."""
    present: frozenset[str] = frozenset()
    """Content keys of the cards whose files are whole on it."""
    closing: bool = False
    """Its daemon is about to end and takes no new requests."""
