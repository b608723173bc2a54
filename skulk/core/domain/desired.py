"""The desired state, as the rest of the core sees it: validated, defaults filled in, units resolved.

`skulk.core.manifests` makes these values from YAML; nothing else does outside tests. Sizes are bytes, times are
seconds. Mappings are never mutated after construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from skulk.core.domain.ids import CardName, CommitId, DeploymentName, NodeName

OptionValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A directory `name` below one of the node's `modelRoots`."""

    name: str


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository `org/name` on the Hugging Face Hub (or what HF_ENDPOINT names)."""

    repo: str


@dataclass(frozen=True, slots=True)
class CardFile:
    """One file of a model: path relative to the source, size and sha256 (64 lower-case hex)."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one sequence costs in KV cache; see `skulk.core.memory` for the formulas.

    `full_layers` attend over the whole context, `windowed_layers` over `window_tokens`; an MLA model stores
    `mla_rank + mla_rope_dim` elements per token and layer instead of heads; `recurrent_bytes` is the constant
    state per sequence of recurrent or SSM layers. All zero means: unknown, no KV cost is predicted.
    """

    full_layers: int = 0
    windowed_layers: int = 0
    window_tokens: int = 0
    kv_heads: int = 0
    head_dim: int = 128
    mla_rank: int = 0
    mla_rope_dim: int = 0
    recurrent_bytes: int = 0
    element_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How the model marks its reasoning. `format` is `none` or `token_delimited` in this version."""

    format: str = "none"
    supports_toggle: bool = False
    default_effort: str | None = None
    disabled_effort: str | None = None


@dataclass(frozen=True, slots=True)
class Tooling:
    """How the model calls tools. `format` is `generic` (`<tool_call>` and JSON) where this version can read it."""

    supports_calls: bool = False
    format: str = "generic"


@dataclass(frozen=True, slots=True)
class Card:
    """What a model is, its files, sizes and capabilities, and where it may run."""

    name: CardName
    model_id: str
    source: LocalSource | HubSource
    revision: str
    files: tuple[CardFile, ...]
    storage_bytes: int
    layers: int
    hidden_size: int
    kv: KvShape
    context_length: int
    compatible_backends: tuple[str, ...]
    backend_preference: tuple[str, ...] = ()
    min_vram_bytes: int = 0
    max_context_tokens: int = 0
    gguf_file: str | None = None
    supports_tensor: bool = False
    trust_remote_code: bool = False
    tasks: tuple[str, ...] = ("TextGeneration",)
    family: str = ""
    quantization: str = ""
    base_model: str = ""
    capabilities: tuple[str, ...] = ()
    reasoning: Reasoning = Reasoning()
    tooling: Tooling = Tooling()
    described: Mapping[str, object] = field(default_factory=dict)
    """Fields only shown to clients (`tooling`, `modalities`, `runtime`, …), camelCase, as written."""
    license: str = ""


class Participation(StrEnum):
    FULL = "full"
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class Hardware:
    """Totals for offline planning, as `skulk node probe` writes them."""

    memory_bytes: int
    accelerator: str | None = None
    accelerator_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SshAccess:
    """How the operator's machine logs in. None: what `address` says, and what the operator's ssh is set to."""

    host: str | None = None
    port: int = 22
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the fleet as declared. Optional facts are None: then what the node reports holds."""

    name: NodeName
    ordinal: int
    address: str | None = None
    """HOST or HOST:PORT where others reach its planes; see `skulk.core.wire.planes_roster`."""
    os: str | None = None
    arch: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    backends: tuple[str, ...] | None = None
    participation: Participation = Participation.FULL
    reserve_memory_bytes: int = 0
    reserve_disk_bytes: int = 0
    cordon: bool = False
    drain: bool = False
    hardware: Hardware | None = None
    public_key: str | None = None
    """`ed25519:BASE64`: what it says on the planes counts only under this key."""
    ssh: SshAccess = SshAccess()
    ssh_host_key: str | None = None
    """`ssh-ed25519 BASE64`, without comment: of its sshd, and what secrets are encrypted to."""


class UpdateStrategy(StrEnum):
    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class Spread(StrEnum):
    """`node`: two replicas never share a node. `prefer`: they share one only when nothing else fits."""

    NODE = "node"
    PREFER = "prefer"


@dataclass(frozen=True, slots=True)
class Deployment:
    """This card, so many replicas, with these constraints."""

    name: DeploymentName
    model: CardName
    replicas: int = 1
    context_tokens: int | None = None
    """None: as much as the card and the memory allow."""
    concurrency: int = 1
    engine: str | None = None
    """None: by the card's backend preference."""
    engine_options: Mapping[str, OptionValue] = field(default_factory=dict)
    selector: Mapping[str, str] = field(default_factory=dict)
    excluded_nodes: tuple[NodeName, ...] = ()
    spread: Spread = Spread.PREFER
    strategy: UpdateStrategy = UpdateStrategy.START_FIRST
    priority: int = 0
    aliases: tuple[str, ...] = ()
    suspend: bool = False


class Scope(StrEnum):
    """What an API key may do."""

    INFERENCE = "inference"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class AccessKey:
    name: str
    sha256: str
    """Lower-case hex digest of the key; the key itself never enters git."""
    scopes: tuple[Scope, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call the gateway. No keys: loopback only, unless `anonymous` is written."""

    keys: tuple[AccessKey, ...] = ()
    anonymous: bool = False


class Quorum(StrEnum):
    NONE = "none"
    MAJORITY = "majority"


class VerifyMode(StrEnum):
    OFF = "off"
    HEAD = "head"
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class Prune:
    max_share: float = 0.5
    allow_removal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything a commit says, complete and consistent."""

    name: str
    namespace: str
    commit: CommitId
    nodes: Mapping[NodeName, Node] = field(default_factory=dict)
    cards: Mapping[CardName, Card] = field(default_factory=dict)
    deployments: Mapping[DeploymentName, Deployment] = field(default_factory=dict)
    poll_seconds: float = 30.0
    prune: Prune = Prune()
    quorum: Quorum = Quorum.NONE
    access: Access = Access()
    verify: VerifyMode = VerifyMode.OFF
    """The fleet can only make a node's own verification stricter, never looser."""
    tls_required: bool = False
    """No planes without certificates, whatever a node's own configuration allows."""
    log_level: str = "info"
    version: str | None = None
    """Of Skulk, that nodes should run. None: whichever they have."""
    documents: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """`Kind/name` → the manifest as written (for `get -o yaml`), camelCase."""
    places: Mapping[str, str] = field(default_factory=dict)
    """`Kind/name` → `file:line` where it stands."""
