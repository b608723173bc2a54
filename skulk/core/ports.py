"""The ports: all that the node loop and the gateway know of the outside world.

Each has a real adapter (`skulk.adapters`) and a fake (`skulk.sim`); both pass the same conformance tests. A port
is idempotent where it can be, raises only `SkulkError`s, and reports by facts that can be read again at any time:
events only wake the loop, they carry nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from skulk.core.domain import (
    Accepted,
    Card,
    CommitId,
    Document,
    EngineBuild,
    FleetView,
    GenerationRequest,
    Launch,
    NodeName,
    Owner,
    PlacementUid,
    PlanesView,
    RunnerFacts,
    Tokens,
    Topic,
    VerifyMode,
    WeightsFacts,
)
from skulk.core.readings import Kind


class Clock(Protocol):
    """Time. `now` is monotonic seconds, `wall` seconds of the epoch (UTC)."""

    def now(self) -> float: ...

    def wall(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class FileKind(StrEnum):
    FILE = "file"
    SYMLINK = "symlink"
    SUBMODULE = "submodule"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One manifest path of a commit. `data` is empty unless `kind` is FILE; `path` uses `/`, below source.path."""

    path: str
    data: bytes = b""
    kind: FileKind = FileKind.FILE
    size: int = 0


class Signature(StrEnum):
    """Result of checking one commit's signature against the allowed signers."""

    GOOD = "good"
    UNTRUSTED = "untrusted"
    """Valid, but by a key that is not allowed; or it cannot be checked."""
    BAD = "bad"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class CommitFacts:
    """What the source knows of a commit, relative to the one that was accepted before it.

    `unsigned` lists the commits of accepted..commit (or only the head, by mode) whose signature is not GOOD,
    newest first, with what was found instead.
    """

    commit: CommitId
    subject: str = ""
    author: str = ""
    committed_at: float = 0.0
    descends: bool = True
    """The accepted commit is an ancestor of this one (or there is none yet, or the source has no history)."""
    is_ancestor: bool = False
    """This commit is a proper ancestor of the accepted one."""
    unsigned: tuple[tuple[CommitId, Signature], ...] = ()


class Repo(Protocol):
    """The source of desired state: a git remote or a watched directory."""

    @property
    def has_history(self) -> bool:
        """Whether commits have an order and can be handed on. Without one, every state may follow every other one,
        and only the source itself says which one holds."""
        ...

    async def head(self) -> CommitId:
        """Ask the source and return its newest commit, its objects now local. Raises SRC_* errors."""
        ...

    async def facts(self, commit: CommitId, accepted: CommitId | None, verify: VerifyMode) -> CommitFacts: ...

    async def tree(self, commit: CommitId) -> tuple[TreeFile, ...]:
        """The manifest files (`*.yaml`, `*.yml` under `fleet/` and `cards/`) of a commit that is local."""
        ...

    async def changed(self) -> None:
        """Return when the source hints at a change. A git remote never hints: polling finds it."""
        ...

    async def bundle(self, commit: CommitId, have: frozenset[CommitId]) -> bytes:
        """The objects of a local commit without those reachable from `have`, for another node's `unbundle`.
        Commits of `have` that are not local are ignored. Raises SRC_UNREACHABLE, SRC_BUNDLE_SIZE, SRC_NO_OBJECTS."""
        ...

    async def unbundle(self, commit: CommitId, data: bytes) -> None:
        """Take in what another node's `bundle` gave: `facts` and `tree` then work on `commit`, and on nothing else
        that was not local before. The data is not trusted: whatever is wrong with it, nothing has changed. Does
        nothing when the commit is local. Raises SRC_BUNDLE, SRC_BUNDLE_SIZE, SRC_NO_OBJECTS."""
        ...

    async def older(self, commits: Collection[CommitId], than: CommitId) -> frozenset[CommitId]:
        """Those of `commits` that are proper ancestors of `than`. What is not local is not in the answer."""
        ...


class RunnerHost(Protocol):
    """The runner processes of this node. `observe` never blocks; the others may take as long as their deadline."""

    def observe(self) -> Mapping[PlacementUid, RunnerFacts]: ...

    async def start(self, launch: Launch) -> None:
        """Spawn a runner and begin to connect. A runner of that uid that exists already is left alone."""
        ...

    async def adopt(self, uid: PlacementUid) -> None:
        """Connect to a live runner that an earlier daemon left."""
        ...

    async def drain(self, uid: PlacementUid) -> None:
        """Queued requests are refused (retriable), running ones go on. Idempotent."""
        ...

    async def stop(self, uid: PlacementUid, *, force: bool) -> None:
        """Ask the runner to end, or kill its process group at once. Returns when asked, not when dead."""
        ...

    async def clear(self, uid: PlacementUid) -> None:
        """Remove what a dead runner left; it disappears from `observe`. A live one is left alone."""
        ...


class Weights(Protocol):
    """Model files on this node's disk. `content` names a card's exact file list (see `content_key`)."""

    def observe(self) -> Mapping[str, WeightsFacts]: ...

    async def fetch(self, card: Card, content: str, *, keep_free_bytes: int) -> None:
        """Bring all files of the card here, verified. Returns when done or failed; progress is in `observe`.
        Never raises for a failed fetch: the facts carry code, message and whether to retry."""
        ...

    def files(self) -> frozenset[str]:
        """sha256 of every file of the models that are whole here. Never blocks for long: it is read every round."""
        ...

    async def forget(self, content: str) -> None:
        """Drop a recorded failure, so that the next fetch starts afresh."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """Static facts of the machine and what its engine environments can do."""

    memory_bytes: int
    os: str
    arch: str
    builds: tuple[EngineBuild, ...] = ()
    disk_bytes: int | None = None
    engine_problems: tuple[str, ...] = ()
    """Environments that are there and do not work, one line each."""


class Probe(Protocol):
    """What this machine is and how much of it is free now."""

    async def machine(self) -> Machine: ...

    def free_memory_bytes(self) -> int:
        """Memory that a new runner could take now, the local cap considered."""
        ...

    def free_disk_bytes(self) -> int: ...


class Sampler(Protocol):
    """What can be measured of this machine and its daemon now (`skulk.core.readings`)."""

    async def sample(self, kind: Kind) -> Mapping[str, object]:
        """One reading, as JSON values with every name of that kind; what was not measured is None. Returns within
        seconds, whatever hangs, and raises nothing for what is absent or forbidden."""
        ...


@dataclass(frozen=True, slots=True)
class Persisted:
    """What must survive the daemon: read once at start, written before it is acted on."""

    accepted: CommitId | None = None
    """The newest commit this node validated."""
    promised: int = 0
    """It accepts no blueprint document of a lower epoch."""
    document: bytes | None = None
    """The body of the blueprint document it acts on."""
    proof: bytes = b""
    """Its author's signed announcement, to be passed on."""
    life: int = 0
    """Number of the last daemon of this node (see `Life`)."""


class Journal(Protocol):
    """Durable facts of this node: small, written atomically."""

    def load(self) -> Persisted: ...

    def save(self, persisted: Persisted) -> None:
        """Durable when it returns. Raises Transient (SRC_DISK)."""
        ...


TakeTokens = Callable[[Tokens], bool]
"""Takes one frame of a generation, without waiting, and says whether more are wanted."""


class Generation(Protocol):
    """One accepted request. `follow` it to its end or call `cancel`; both are safe twice."""

    accepted: Accepted
    placement: PlacementUid

    async def follow(self, take: TakeTokens) -> None:
        """Call `take` with every frame in order, in the very turn of the loop in which it came, to the last one, which
        carries `finish`, or until `take` returns False. Raises RequestError when the runner is lost, and what `take`
        raises."""
        ...

    def cancel(self, reason: str) -> None: ...


class ControlPlane(Protocol):
    """Membership, documents and readings of the fleet. `observe` never blocks; a callback given to the adapter wakes
    whoever reads it. Everything published is signed and kept: who joins later, or was away, gets the newest."""

    def observe(self) -> PlanesView: ...

    def publish(self, topic: Topic, body: bytes) -> bytes:
        """Replace this node's document on that topic. Publishing equal bytes again does nothing. Returns the document
        as it travels, signed: whoever gets it from somebody else can check it (`believed`)."""
        ...

    def believed(self, topic: Topic, author: NodeName, sealed: bytes) -> Document | None:
        """A document that somebody passed on: None unless `author`, trusted now, signed it for that topic."""
        ...

    def report(self, kind: str, values: Mapping[str, object]) -> None:
        """Send a reading: droppable, ages at the others. A value that was not measured is None, never 0."""
        ...

    def hold(self, bodies: Collection[bytes]) -> None:
        """Answer for exactly these bodies, each known by the sha256 of its bytes (hex)."""
        ...

    async def fetch(self, digest: str, *, deadline_seconds: float) -> bytes:
        """The body with that sha256, from any member that holds it. Raises PLN_BODY at the deadline."""
        ...

    async def ask(self, node: NodeName, question: bytes, *, deadline_seconds: float) -> bytes:
        """A signed question to one node and its signed answer. Raises PLN_UNREACHABLE at the deadline."""
        ...


class DataPlane(Protocol):
    """Requests to placements of other nodes. What comes back is the same as from a local one."""

    async def submit(self, node: NodeName, placement: PlacementUid, request: GenerationRequest) -> Generation:
        """Return when the runner there accepted. Raises its refusal, or RetriableRefusal when the node is lost."""
        ...

    def streams(self) -> int:
        """Requests on their way over the planes, owned or served by this node."""
        ...


class PlaneHost(Protocol):
    """What the planes ask of the node behind them."""

    async def take(self, placement: PlacementUid, request: GenerationRequest, owner: Owner) -> Generation:
        """Submit another node's request to a local placement. Raises RequestError; may be cancelled while it waits."""
        ...

    def answer(self, asker: NodeName, question: bytes) -> bytes:
        """Answer a question of another node at once. It may be put twice."""
        ...


class PlaneAccess(Protocol):
    """What changes for the planes with a commit, and their end."""

    def trust(self, keys: Mapping[NodeName, bytes]) -> None:
        """Public keys (Ed25519, 32 raw bytes) by node. Documents of nodes that are not among them are dropped."""
        ...

    async def redial(self, endpoints: tuple[str, ...], *, anew: bool = False) -> bool:
        """Open the connection anew if the list has an entry that it was not opened with, or when told to; whether that
        was done.
        Documents and streams survive; the others see this node gone for a moment. Raises PLN_OPEN."""
        ...

    async def close(self, deadline_seconds: float) -> bool:
        """Say goodbye and close. False when the deadline passed first: then only ending the process helps."""
        ...


class Serving(Protocol):
    """What the gateway sees of its node."""

    def view(self) -> FleetView: ...

    def changes(self, after: int) -> AsyncIterator[FleetView]:
        """Snapshots with a generation above `after`, coalesced; never ends by itself."""
        ...

    async def submit(self, request: GenerationRequest) -> Generation:
        """Route and send; return when the runner accepted. Raises RequestError with the status to answer."""
        ...

    def logs(self, name: str, lines: int, follow: bool) -> AsyncIterator[str]:
        """Log lines of a placement or deployment. Raises RequestError 404 for an unknown name."""
        ...

    async def reset(self, name: str) -> int:
        """Clear breaker, wedge and backoff of a deployment or placement; return how many were cleared."""
        ...

    def poke(self) -> None:
        """Look at the source now instead of at the next poll. Never waits; asking twice is asking once."""
        ...
