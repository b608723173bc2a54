"""What a node remembers between two rounds of coordination, as a value.

Only `Durable` survives the daemon. Everything else is rebuilt: a daemon that restarts acts on its own last document
and begins without a term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.coordination.document import Document
from skulk.core.domain import CommitId, Fleet, Member, NodeName, Refusal, RunningPlacement


@dataclass(frozen=True, slots=True)
class Durable:
    """What must be on disk before anybody is told of it."""

    promised: int = 0
    """No document of a lower epoch is accepted any more."""
    document: Document | None = None
    """The last one accepted: what this node acts on."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a blueprint was or would be made from; equal inputs are not planned twice."""

    fleet: Fleet
    members: tuple[Member, ...]
    running: tuple[RunningPlacement, ...]
    refusals: tuple[Refusal, ...]

    @property
    def names(self) -> tuple[NodeName, ...]:
        return tuple(member.node for member in self.members)


@dataclass(frozen=True, slots=True)
class Term:
    """This node coordinates, or is finding out whether it can. Times are seconds on the monotonic clock."""

    question: int
    """The number its discovery asks with: only answers to it count."""
    began_at: float
    asked_at: float
    epoch: int | None = None
    """None until discovery is over."""
    seq: int = -1
    """Of the last document published in this term."""
    inputs: Inputs | None = None
    compared_at: float = 0.0
    """When what the members hold was compared last."""


@dataclass(frozen=True, slots=True)
class State:
    """One node's memory. Begin with `State(Durable(…))` after every start."""

    durable: Durable = Durable()
    born_at: float | None = None
    """When the first round of this daemon was."""
    changes: int = -1
    changed_at: float = 0.0
    """When the membership changed last."""
    absent_since: Mapping[NodeName, float] = field(default_factory=dict)
    """Declared nodes that are not live, and since when this daemon has missed them."""
    seen: frozenset[NodeName] = frozenset()
    """Nodes that were live at some time since this daemon began."""
    commit_since: Mapping[CommitId, float] = field(default_factory=dict)
    """When a commit was first known here, valid or only named by another node."""
    wanted_at: Mapping[str, float] = field(default_factory=dict)
    """When a body (by digest) or a commit was asked for last."""
    question: int = 0
    """The last number used."""
    term: Term | None = None

    @property
    def coordinates(self) -> bool:
        """It has finished discovery and publishes."""
        return self.term is not None and self.term.epoch is not None
