"""The planner's inputs about the world, and its answer: the blueprint.

A blueprint is immutable and complete: a node that reads it has no choice left to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.domain.conditions import Reason
from skulk.core.domain.ids import (
    BootId,
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    LaunchHash,
    NodeName,
    PlacementUid,
)


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """One usable backend of a node and the engine build behind it (part of the launch hash)."""

    backend: str
    """`<engine>-<compute>`, for example `mlx-cpu`."""
    engine: str
    version: str
    digest: str
    """Digest of the environment's lock: two equal digests are the same build."""
    device: str = ""
    unified: bool = True
    """The device shares the machine's memory (Apple, CPU, APU) rather than having its own."""
    device_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Static facts that a live node publishes about itself; republished when they change."""

    node: NodeName
    boot: BootId
    memory_bytes: int
    """Total memory of the machine, or the local cap when one is set."""
    builds: tuple[EngineBuild, ...] = ()
    files: frozenset[str] = frozenset()
    """sha256 of model files already present."""
    os: str = ""
    arch: str = ""
    skulk_version: str = ""
    validated: CommitId | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rank:
    node: NodeName
    rank: int = 0
    port: int | None = None
    memory_bytes: int = 0
    """What the memory model predicts for this rank."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One replica of a deployment on its node or nodes, with everything its runners are started with."""

    uid: PlacementUid
    deployment: DeploymentName
    replica: int
    model: CardName
    commit: CommitId
    backend: str
    engine_version: str
    ranks: tuple[Rank, ...]
    context_tokens: int
    concurrency: int
    launch_hash: LaunchHash
    content_hash: ContentHash
    replaces: PlacementUid | None = None
    """start-first: that placement stays until this one is ready, then drains."""
    after: PlacementUid | None = None
    """This one starts only when that placement is gone: stop-first, or there is no room for both. Independent of
    `replaces`; without effect on a runner that has started."""
    engine_digest: str = ""
    """Which engine build (`EngineBuild.digest`): two builds of one backend can be installed side by side."""

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        return tuple(rank.node for rank in self.ranks)


@dataclass(frozen=True, slots=True)
class Retiring:
    """A running placement that the blueprint lists for a while. It drains as soon as `until` is ready, or at
    once when `until` is None, unless `keep` is set: then it serves on until another blueprint says otherwise."""

    uid: PlacementUid
    deployment: DeploymentName
    node: NodeName
    reason: Reason
    message: str
    until: PlacementUid | None = None
    keep: bool = False
    """Its replacement has no place (yet): better the old one than none. `until` is None then."""
    backend: str = ""
    memory_bytes: int = 0
    """What it holds until it is gone."""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """One replica that has no place, and the one-line why."""

    deployment: DeploymentName
    replica: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Outage:
    """A deployment that is without any ready replica while it is replaced (stop-first)."""

    deployment: DeploymentName
    message: str


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The complete answer of the planner for one commit. Ordered, so that equal inputs give equal bytes."""

    commit: CommitId
    placements: tuple[Placement, ...] = ()
    retiring: tuple[Retiring, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    outages: tuple[Outage, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digest of each input: fleet, sessions, members, running, refusals."""
    epoch: int = 0
    seq: int = 0

    def on_node(self, node: NodeName) -> tuple[Placement, ...]:
        """The placements with a rank on `node`, in blueprint order."""
        return tuple(p for p in self.placements if node in p.nodes)


@dataclass(frozen=True, slots=True)
class RunningPlacement:
    """A placement as the member that runs it reports it: where the planner's stickiness comes from."""

    uid: PlacementUid
    deployment: DeploymentName
    replica: int
    model: CardName
    node: NodeName
    backend: str
    context_tokens: int
    concurrency: int
    launch_hash: LaunchHash
    content_hash: ContentHash
    memory_bytes: int
    rank: int = 0
    port: int | None = None
    complete: bool = False
    """All ranks are there and ready."""
    draining: bool = False


def begun(placement: Placement, node: NodeName) -> RunningPlacement:
    """The placement as `node`, which holds a rank of it, reports it from the moment it accepts it: not complete yet."""
    rank = next(rank for rank in placement.ranks if rank.node == node)
    return RunningPlacement(
        uid=placement.uid,
        deployment=placement.deployment,
        replica=placement.replica,
        model=placement.model,
        node=node,
        backend=placement.backend,
        context_tokens=placement.context_tokens,
        concurrency=placement.concurrency,
        launch_hash=placement.launch_hash,
        content_hash=placement.content_hash,
        memory_bytes=rank.memory_bytes,
        rank=rank.rank,
        port=rank.port,
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node's veto against a placement, with its arithmetic. The caller has dropped the expired ones."""

    node: NodeName
    deployment: DeploymentName
    launch_hash: LaunchHash
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class SessionPlacement:
    """A placement asked for imperatively (not in git). None exist before `POST /place_instance` does."""

    uid: str
    model: CardName
    owner: str
    expires_at: float
