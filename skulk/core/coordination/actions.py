"""What coordination wants done, as values. The order of a round's actions is their meaning.

`Persist` comes before everything that tells others of what it holds. When it fails (a full disk), the rest of the
round is not done and the state from before the round stays: promise and acceptance exist on disk or not at all.
Every action may be wanted again before its effect is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.coordination.document import Version
from skulk.core.coordination.state import Durable
from skulk.core.domain import CommitId, NodeName


@dataclass(frozen=True, slots=True)
class Persist:
    """Write promise and document, body included, atomically, and return when they are on disk."""

    durable: Durable


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell all members that this document is there. Bodies are fetched."""

    version: Version


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask these nodes for their report. Numbers of questions grow while the daemon lives."""

    nodes: tuple[NodeName, ...]
    question: int


@dataclass(frozen=True, slots=True)
class FetchBody:
    """Get the body of this document from any of the holders, its author first; check digest and signature."""

    version: Version
    holders: tuple[NodeName, ...]


@dataclass(frozen=True, slots=True)
class Obtain:
    """Get the objects of this commit: ask the source now, else a holder; then verify and validate it as usual."""

    commit: CommitId
    holders: tuple[NodeName, ...]


Action = Persist | Announce | Ask | FetchBody | Obtain
