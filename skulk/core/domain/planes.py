"""What a node sees of the others over the network planes: members, their documents, their readings.

Snapshots only. How they travel is `skulk.core.wire.planes_*`; what follows from them is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skulk.core.domain.ids import BootId, NodeName


@dataclass(frozen=True, slots=True)
class Life:
    """One run of one node's daemon. `number` grows with every start of that node; `boot` is random.

    `number` orders two lives of a node: a durable counter, or at least the seconds of the epoch at the start.
    """

    node: NodeName
    boot: BootId
    number: int


class Topic(StrEnum):
    """Which document of a node it is. Each node has at most one current document per topic."""

    MEMBER = "member"
    """Static facts about the node."""
    STATUS = "status"
    """What it runs, its conditions, its promise and the commit it validated."""
    ANNOUNCEMENT = "announcement"
    """Which blueprint it holds; the body is fetched by digest."""
    COMMIT = "commit"
    """A hint that the source has a new commit: whoever hears it fetches and verifies for itself."""
    SHARE = "share"
    """Its part of the picture that every node shows (`Share`): for people and for routing."""
    REFUSALS = "refusals"
    SESSIONS = "sessions"


class Presence(StrEnum):
    """Whether a node takes part right now."""

    LIVE = "live"
    """Its liveliness token is there and its readings are young."""
    SUSPECT = "suspect"
    """The token is there, the readings are old: connected, but its daemon does not get on."""
    LOST = "lost"
    """The token disappeared without a word: a crash, a cut, or a frozen machine."""
    LEFT = "left"
    """It said goodbye."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One node that was seen since this daemon started, this node itself included."""

    life: Life
    presence: Presence
    age_seconds: float | None
    """Of its last reading; None while none has arrived."""
    absent_seconds: float = 0.0
    """Since the token disappeared; 0 while it is there."""


@dataclass(frozen=True, slots=True)
class Document:
    """The newest document of one author on one topic, its signature checked. `body` is opaque here."""

    topic: Topic
    author: Life
    seq: int
    body: bytes
    sealed: bytes = b""
    """As it travels: what the author signed, and the signature."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Measured values of one kind (`memory`, `system`, …) from one node. A value nobody measured is None."""

    values: Mapping[str, object]
    age_seconds: float


@dataclass(frozen=True, slots=True)
class PlanesView:
    """Everything the planes know now. Read again after every wake-up; nothing in it is an event."""

    me: Life
    changes: int = 0
    """Grows with every event of the membership, also when the members are the same before and after."""
    peers: Mapping[NodeName, Peer] = field(default_factory=dict)
    documents: Mapping[Topic, Mapping[NodeName, Document]] = field(default_factory=dict)
    readings: Mapping[NodeName, Mapping[str, Reading]] = field(default_factory=dict)
    rivals: tuple[BootId, ...] = ()
    """Other daemons that are live under this node's name: one of them must be stopped."""
    superseded: int = 0
    """The number of the latest other life under this node's name, when it is above this one's: that is the one the
    others hear, also after its end. 0: there was none."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Why messages were not believed → how many, since the start."""
    plain: bool = False
    """Neither encrypted nor authenticated: loopback, or allowed by the operator."""

    def live(self) -> frozenset[NodeName]:
        return frozenset(name for name, peer in self.peers.items() if peer.presence is Presence.LIVE)
