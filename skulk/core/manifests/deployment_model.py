"""The shape of a `Deployment` manifest: this card, so many replicas, with these constraints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from skulk.core.manifests.fields import ContextTokens, Manifest, ModelNames, Name, Names, Options, Selector
from skulk.core.manifests.metadata import Envelope

# More replicas than nodes of the largest fleet we mean to serve (about 50) is a typing error.
REPLICAS_MAX = 64
# Above this no engine gains throughput, and the KV cache of one placement would rule out every machine.
CONCURRENCY_MAX = 256
PRIORITY_MAX = 1000
NODES_MAX = 64
IDLE_SECONDS_MAX = 7 * 24 * 3600


class Placement(Manifest):
    """Where replicas may run."""

    min_nodes: int = Field(default=1, ge=1, le=NODES_MAX, description="Fewest nodes that share one replica.")
    max_nodes: int = Field(default=1, ge=1, le=NODES_MAX, description="Most nodes that share one replica.")
    sharding: Literal["pipeline", "tensor"] = Field(
        default="pipeline", description="How a replica on several nodes is split: by layers or within them."
    )
    selector: Selector = Field(default_factory=dict, description="Labels that a node must have, all of them.")
    excluded_nodes: Names = Field(default_factory=list, description="Nodes that must not run replicas.")
    spread: Literal["node", "prefer"] = Field(
        default="prefer",
        description="node: replicas never share a node. prefer: only when nothing else fits.",
    )


class Engine(Manifest):
    """What runs the model."""

    name: Literal["mlx", "llama_cpp", "llama_server", "scripted"] | None = Field(
        default=None, description="Engine; absent: by the card's backend preference. scripted is for tests."
    )
    options: Options = Field(default_factory=dict, description="Options of that engine, by name.")


class Update(Manifest):
    """How a changed deployment replaces its replicas."""

    strategy: Literal["start-first", "stop-first"] = Field(
        default="start-first",
        description="start-first: the new replica serves before the old one drains. stop-first: needs no second "
        "place in memory, but leaves a gap.",
    )


class OnDemand(Manifest):
    """Load the model when somebody asks for it."""

    enabled: bool = Field(default=False, description="Load on the first request instead of at once.")
    idle_seconds: int | None = Field(
        default=None, ge=1, le=IDLE_SECONDS_MAX, description="Seconds without a request until it is unloaded."
    )


class DeploymentSpec(Manifest):
    """This card, so many replicas, with these constraints."""

    model: Name = Field(description="Name of the card (metadata.name of a ModelCard).")
    replicas: int = Field(default=1, ge=0, le=REPLICAS_MAX, description="Placements that should serve at once.")
    placement: Placement = Field(default_factory=Placement, description="Where replicas may run.")
    context_tokens: ContextTokens | None = Field(
        default=None,
        description="Context per sequence, in tokens; absent: Fleet.spec.defaults, else as much as card and "
        "memory allow.",
    )
    concurrency: int = Field(
        default=1,
        ge=1,
        le=CONCURRENCY_MAX,
        description="Sequences that one replica serves at once; absent: Fleet.spec.defaults.",
    )
    engine: Engine = Field(default_factory=Engine, description="What runs the model.")
    update: Update = Field(default_factory=Update, description="How a changed deployment replaces its replicas.")
    on_demand: OnDemand = Field(default_factory=OnDemand, description="Load the model when somebody asks for it.")
    priority: int = Field(
        default=0,
        ge=-PRIORITY_MAX,
        le=PRIORITY_MAX,
        description="Deployments of higher priority are placed first when memory is short.",
    )
    aliases: ModelNames = Field(default_factory=list, description="Further names that clients may put into `model`.")
    suspend: bool = Field(default=False, description="Run nothing for now, keep the manifest.")
    on_disconnect: Literal["keep", "stop"] = Field(
        default="keep", description="What replicas do when their node loses contact with the fleet."
    )


class DeploymentManifest(Envelope):
    """A model to serve: one document in fleet/deployments/."""

    kind: Literal["Deployment"] = Field(description="Always Deployment.")
    spec: DeploymentSpec = Field(description="This card, so many replicas, with these constraints.")
