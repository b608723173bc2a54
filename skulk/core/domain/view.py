"""What a node shows: an immutable snapshot that gateway, dashboard and CLI read. Replaced, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skulk.core.domain.conditions import Condition, Waiting
from skulk.core.domain.desired import Access, Card
from skulk.core.domain.ids import CardName, CommitId, ContentHash, DeploymentName, NodeName, PlacementUid

KINDS = ("fleet", "nodes", "deployments", "cards", "placements", "runners")
"""Resource kinds of `skulk get` and `/fleet/v1/{kind}`."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing for people and scripts: spec as declared, status as observed. JSON values, camelCase keys."""

    kind: str
    name: str
    spec: Mapping[str, object]
    status: Mapping[str, object]
    conditions: tuple[Condition, ...] = ()
    waiting: tuple[Waiting, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One placement that a request can be sent to. `ready` false: known, not usable yet."""

    uid: PlacementUid
    deployment: DeploymentName
    node: NodeName
    ready: bool
    running: int
    waiting: int
    concurrency: int
    context_tokens: int
    content_hash: ContentHash
    queue_max: int = 64
    model: CardName = CardName("")
    """The card its runner was started with: while a deployment changes its model, two are under way."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A name clients may put in `model`, what stands behind it, and why it is not ready when it is not."""

    card: Card
    deployments: tuple[DeploymentName, ...]
    names: tuple[str, ...]
    """Card name, model id, deployment names and aliases; the first is canonical."""
    routes: tuple[Route, ...]
    not_ready: str = ""
    progress: str = ""
    max_context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `/readyz?verbose`."""

    name: str
    ok: bool
    message: str
    settling: bool = False
    """It counts for `/readyz?settled` only: the node serves without it, but is not in its place yet."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for `skulk events`. `at` is seconds of the epoch; numbers grow by one."""

    number: int
    at: float
    subject: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole snapshot. `generation` grows with every change: it is the cursor of the watch stream."""

    generation: int
    node: NodeName
    version: str
    attempted: CommitId | None = None
    accepted: CommitId | None = None
    in_force: CommitId | None = None
    resources: Mapping[str, tuple[Resource, ...]] = field(default_factory=dict)
    models: tuple[ServedModel, ...] = ()
    access: Access = Access()
    conditions: tuple[Condition, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    events: tuple[Event, ...] = ()
    checks: tuple[Check, ...] = ()
    closing: bool = False
    """The daemon is about to end: no new requests."""
    why: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Deployment, placement or node name → full reasons, one per line."""
