"""What coordination reads: reports of the members, commits this node validated, and what came over the planes.

All of it can be read again at any time; messages that were lost, doubled or reordered show up as facts that are
older or newer, nothing else. Whoever fills these in has checked signatures and keeps only the newest report of each
node; nothing here is trusted to be complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.coordination.document import Document, Version
from skulk.core.domain import BootId, CommitId, Fleet, Member, NodeName, Refusal, RunningPlacement


@dataclass(frozen=True, slots=True)
class Validated:
    """A commit that this node verified and found valid, with what it says."""

    commit: CommitId
    fleet: Fleet


@dataclass(frozen=True, slots=True)
class Invalid:
    """A commit that a node refused, and the message that names file and place."""

    commit: CommitId
    message: str


@dataclass(frozen=True, slots=True)
class Local:
    """This node's own facts, as a report tells them to the others."""

    member: Member
    running: tuple[RunningPlacement, ...] = ()
    """Everything it has begun to work on, until it is gone."""
    refusals: tuple[Refusal, ...] = ()
    stock_taken: bool = True
    """What an earlier daemon left is known. Before that an empty `running` means nothing."""
    invalid: tuple[Invalid, ...] = ()

    @property
    def node(self) -> NodeName:
        return self.member.node


@dataclass(frozen=True, slots=True)
class Report:
    """What one member says of itself: published when it changes, and sent as the answer to a question."""

    node: NodeName
    boot: BootId
    promised: int
    """It accepts no document of a lower epoch."""
    accepted: Version | None
    validated: frozenset[CommitId]
    invalid: tuple[Invalid, ...]
    member: Member
    running: tuple[RunningPlacement, ...]
    refusals: tuple[Refusal, ...]
    stock_taken: bool
    graced: bool
    """Declared nodes had their time to come up while this daemon was there."""
    live: frozenset[NodeName] = frozenset()
    """Whom it sees itself. Two nodes may not see each other while a third one sees both."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest report of a node and the greatest number of a question of ours that it has answered."""

    report: Report
    question: int = 0
    """0: none. Questions of an earlier daemon of this node do not count."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that is known at this moment."""

    local: Local
    live: frozenset[NodeName]
    """Members by liveliness and the age of their last sign, this node included."""
    changes: int
    """Grows with every membership event, also when the set is the same before and after (a thaw, a quick restart)."""
    commits: tuple[Validated, ...] = ()
    """Commits this node validated, oldest first: the one in force up to the newest accepted one."""
    ancestors: frozenset[CommitId] = frozenset()
    """Commits others named that are not among `commits` and that the source knows to be older than the newest one:
    nobody waits for those."""
    heard: Mapping[NodeName, Heard] = field(default_factory=dict)
    """Of other nodes, also of those that are not live any more."""
    announced: tuple[Version, ...] = ()
    """The newest announcement of each author."""
    bodies: Mapping[str, Document] = field(default_factory=dict)
    """Digest → document that was fetched, its digest and its author's signature checked."""
    departed: frozenset[NodeName] = frozenset()
    """Not live, and said so when they left: nobody needs to be patient with them."""

    @property
    def me(self) -> NodeName:
        return self.local.node

    @property
    def newest(self) -> Fleet | None:
        """What the newest commit accepted here says."""
        return self.commits[-1].fleet if self.commits else None

    def validated(self, commit: CommitId) -> Validated | None:
        return next((v for v in self.commits if v.commit == commit), None)

    def place(self, commit: CommitId) -> int:
        """Where the commit stands in this node's history; -1 when it is not there (any more)."""
        return next((i for i, v in enumerate(self.commits) if v.commit == commit), -1)
