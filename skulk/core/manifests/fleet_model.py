"""The shape of a `Fleet` manifest: what holds for all nodes at once. Rules across fields are in `rules`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skulk.core.manifests.fields import (
    ContextTokens,
    Digest,
    Manifest,
    Name,
    Names,
    Quantity,
    RelativePath,
    Texts,
    Unique,
    Version,
)
from skulk.core.manifests.metadata import Envelope

# Keys are checked one by one for every request; a fleet with more people than this needs a real identity provider.
ACCESS_KEYS_MAX = 1000


class Source(Manifest):
    """How the repository is watched. Where it is stands in node.toml: a repository cannot move its readers."""

    poll_seconds: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds between two looks at the git remote, before jitter and backoff.",
    )
    verify: Literal["off", "head", "every"] = Field(
        default="off",
        description="Which commits must carry a trusted signature. Only makes node.toml's own setting stricter.",
    )


class Prune(Manifest):
    """Protection against a commit that removes too much at once."""

    max_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Largest share of the deployments, or of the nodes, that one commit may remove (two or more).",
    )
    allow_removal: Names = Field(
        default_factory=list,
        description="Names whose removal by this very commit is meant, so that the protection lets it pass.",
    )


class Coordination(Manifest):
    """How nodes agree on who publishes blueprints."""

    quorum: Literal["none", "majority"] = Field(
        default="none",
        description="How many declared nodes must have answered before a blueprint is published.",
    )


class Store(Manifest):
    """The nodes that download model files once for the rest."""

    nodes: Names = Field(default_factory=list, description="Nodes that have the store role.")
    path: RelativePath | None = Field(default=None, description="Directory of the store below the state directory.")
    upstream: bool = Field(default=True, description="Whether the store may download from the Hub.")
    keep_recent: Quantity | None = Field(default=None, description="Disk budget for files that no card pins any more.")


class Key(Manifest):
    """One API key, known by its digest only."""

    name: Name = Field(description="Who uses the key; shown in logs and metrics.")
    sha256: Digest = Field(description="Lower-case hex SHA-256 of the key. The key itself never enters git.")
    scopes: Annotated[list[Literal["inference", "read", "admin"]], *Unique] = Field(
        min_length=1, description="What the key may do: ask models, read the fleet's state, change it."
    )


class Access(Manifest):
    """Who may call the gateway."""

    anonymous: bool = Field(
        default=False, description="Allow calls without a key, even where the gateway listens beyond loopback."
    )
    keys: list[Key] = Field(
        default_factory=list,
        max_length=ACCESS_KEYS_MAX,
        description="API keys. Without any the gateway listens on loopback only.",
    )


class Network(Manifest):
    """How nodes reach each other."""

    interface_preference: Texts = Field(
        default_factory=list, description="Network interfaces to prefer between nodes, best first."
    )
    tls_required: bool = Field(
        default=False, description="Refuse planes without certificates, even where node.toml allows them."
    )


class Defaults(Manifest):
    """What deployments get that do not say otherwise."""

    context_tokens: ContextTokens | None = Field(
        default=None,
        description="Context tokens per sequence for deployments without contextTokens; never above the card's.",
    )
    concurrency: int = Field(
        default=1, ge=1, le=256, description="Sequences at once for deployments without concurrency."
    )
    strategy: Literal["start-first", "stop-first"] = Field(
        default="start-first", description="Update strategy for deployments without update.strategy."
    )


class Tracing(Manifest):
    """Traces of requests across nodes."""

    enabled: bool = Field(default=False, description="Record traces of requests.")


class Logging(Manifest):
    """What nodes log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that nodes log."
    )


class FleetSpec(Manifest):
    """What holds for all nodes at once."""

    namespace: Name = Field(
        description="Name that keeps fleets on one network apart; must equal node.toml's, else the commit is refused."
    )
    source: Source = Field(default_factory=Source, description="How the repository is watched.")
    prune: Prune = Field(default_factory=Prune, description="Protection against removing too much at once.")
    coordination: Coordination = Field(
        default_factory=Coordination, description="How nodes agree on who publishes blueprints."
    )
    store: Store = Field(default_factory=Store, description="The nodes that download model files for the rest.")
    access: Access = Field(default_factory=Access, description="Who may call the gateway.")
    network: Network = Field(default_factory=Network, description="How nodes reach each other.")
    defaults: Defaults = Field(default_factory=Defaults, description="What deployments get that do not say otherwise.")
    version: Version | None = Field(
        default=None,
        description="Version of Skulk that nodes should run: the bootstrap installs no other, and a node that runs "
        "another says so.",
    )
    requests: Literal["session", "deny"] = Field(
        default="deny", description="Whether imperative requests make session placements."
    )
    tracing: Tracing = Field(default_factory=Tracing, description="Traces of requests across nodes.")
    logging: Logging = Field(default_factory=Logging, description="What nodes log.")


class FleetManifest(Envelope):
    """The fleet as a whole: one document, in fleet/fleet.yaml."""

    kind: Literal["Fleet"] = Field(description="Always Fleet.")
    spec: FleetSpec = Field(description="What holds for all nodes at once.")
