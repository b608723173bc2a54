"""From validated manifests to the domain's values: defaults of the fleet filled in, units resolved.

Nothing is checked here: by now everything is known to be right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from skulk.core.domain import (
    Access,
    AccessKey,
    Card,
    CardFile,
    CardName,
    CommitId,
    Deployment,
    DeploymentName,
    Fleet,
    Hardware,
    HubSource,
    KvShape,
    LocalSource,
    Node,
    NodeName,
    Participation,
    Prune,
    Quorum,
    Reasoning,
    Scope,
    Spread,
    SshAccess,
    Tooling,
    UpdateStrategy,
    VerifyMode,
)
from skulk.core.formats.ssh_key import without_comment
from skulk.core.manifests.card_model import ModelCardManifest, ModelCardSpec
from skulk.core.manifests.deployment_model import DeploymentManifest
from skulk.core.manifests.fields import GIB, parse_quantity
from skulk.core.manifests.fleet_model import Defaults, FleetManifest
from skulk.core.manifests.kinds import AnyManifest
from skulk.core.manifests.node_model import Hardware as HardwareModel
from skulk.core.manifests.node_model import NodeManifest

K = TypeVar("K")
V = TypeVar("V")

# Fields that are shown to clients as they were written.
DESCRIBED_FIELDS = ("reasoning", "modalities", "tooling", "runtime", "vision", "components")


@dataclass(frozen=True, slots=True)
class Written:
    """One valid manifest: the model, the mapping as written, and `file:line` of where it stands."""

    model: AnyManifest
    raw: Mapping[str, object]
    place: str

    @property
    def key(self) -> str:
        """`Kind/name`."""
        return f"{self.model.kind}/{self.model.metadata.name}"


def build_fleet(written: Sequence[Written], commit: CommitId) -> Fleet:
    """The fleet of a commit whose manifests are all valid, with exactly one Fleet among them."""
    [head] = [w.model for w in written if isinstance(w.model, FleetManifest)]
    spec = head.spec
    cards = {
        CardName(w.model.metadata.name): build_card(w.model, w.raw)
        for w in written
        if isinstance(w.model, ModelCardManifest)
    }
    deployments = [
        build_deployment(w.model, spec.defaults, cards) for w in written if isinstance(w.model, DeploymentManifest)
    ]
    nodes = [build_node(w.model) for w in written if isinstance(w.model, NodeManifest)]
    return Fleet(
        name=head.metadata.name,
        namespace=spec.namespace,
        commit=commit,
        nodes=_frozen({node.name: node for node in nodes}),
        cards=_frozen(cards),
        deployments=_frozen({deployment.name: deployment for deployment in deployments}),
        poll_seconds=float(spec.source.poll_seconds),
        prune=Prune(max_share=float(spec.prune.max_share), allow_removal=tuple(spec.prune.allow_removal)),
        quorum=Quorum(spec.coordination.quorum),
        access=Access(
            keys=tuple(
                AccessKey(key.name, key.sha256, tuple(Scope(scope) for scope in key.scopes)) for key in spec.access.keys
            ),
            anonymous=spec.access.anonymous,
        ),
        verify=VerifyMode(spec.source.verify),
        tls_required=spec.network.tls_required,
        log_level=spec.logging.level,
        version=spec.version,
        documents=MappingProxyType({w.key: w.raw for w in written}),
        places=MappingProxyType({w.key: w.place for w in written}),
    )


def _frozen(values: dict[K, V]) -> Mapping[K, V]:
    return MappingProxyType(values)


def build_node(manifest: NodeManifest) -> Node:
    """One declared machine; sizes in bytes."""
    spec = manifest.spec
    return Node(
        name=NodeName(manifest.metadata.name),
        ordinal=spec.ordinal,
        address=spec.address,
        os=spec.platform.os,
        arch=spec.platform.arch,
        labels=MappingProxyType(dict(spec.labels)),
        backends=None if spec.backends is None else tuple(spec.backends),
        participation=Participation(spec.participation),
        reserve_memory_bytes=parse_quantity(spec.reserve.memory),
        reserve_disk_bytes=parse_quantity(spec.reserve.disk),
        cordon=spec.cordon,
        drain=spec.drain,
        hardware=None if spec.hardware is None else _hardware(spec.hardware),
        public_key=spec.public_key,
        ssh=SshAccess(spec.ssh.host, spec.ssh.port, spec.ssh.user),
        ssh_host_key=None if spec.ssh_host_key is None else without_comment(spec.ssh_host_key),
    )


def _hardware(hardware: HardwareModel) -> Hardware:
    device = hardware.accelerator
    memory = device.memory if device else None
    return Hardware(
        memory_bytes=parse_quantity(hardware.memory),
        accelerator=device.name if device else None,
        accelerator_memory_bytes=None if memory is None else parse_quantity(memory),
    )


def build_deployment(manifest: DeploymentManifest, defaults: Defaults, cards: Mapping[CardName, Card]) -> Deployment:
    """One deployment, what it leaves open taken from the fleet's defaults."""
    spec = manifest.spec
    model = CardName(spec.model)
    context = spec.context_tokens
    if context is None and defaults.context_tokens is not None:
        # A default is meant for many models: where a card allows less, it means as much as the card allows.
        limit = context_limit(cards[model])
        context = min(defaults.context_tokens, limit) if limit else defaults.context_tokens
    concurrency = spec.concurrency if "concurrency" in spec.model_fields_set else defaults.concurrency
    update = spec.update
    strategy = update.strategy if "strategy" in update.model_fields_set else defaults.strategy
    return Deployment(
        name=DeploymentName(manifest.metadata.name),
        model=model,
        replicas=spec.replicas,
        context_tokens=context,
        concurrency=concurrency,
        engine=spec.engine.name,
        engine_options=MappingProxyType(dict(spec.engine.options)),
        selector=MappingProxyType(dict(spec.placement.selector)),
        excluded_nodes=tuple(NodeName(name) for name in spec.placement.excluded_nodes),
        spread=Spread(spec.placement.spread),
        strategy=UpdateStrategy(strategy),
        priority=spec.priority,
        aliases=tuple(spec.aliases),
        suspend=spec.suspend,
    )


def context_limit(card: Card) -> int:
    """Most context tokens that the card allows; 0 when it names no limit."""
    limits = [limit for limit in (card.context_length, card.max_context_tokens) if limit]
    return min(limits, default=0)


def build_card(manifest: ModelCardManifest, raw: Mapping[str, object]) -> Card:
    """One card. `raw` is the document as written, for the fields that are only shown."""
    spec = manifest.spec
    files = tuple(CardFile(file.path, file.bytes, file.sha256) for file in spec.files)
    written = raw["spec"]
    assert isinstance(written, dict)
    described = {key: written[key] for key in DESCRIBED_FIELDS if key in written}
    reasoning = Reasoning()
    if spec.reasoning is not None:
        reasoning = Reasoning(
            format=spec.reasoning.format,
            supports_toggle=spec.reasoning.supports_toggle,
            default_effort=spec.reasoning.default_effort,
            disabled_effort=spec.reasoning.disabled_effort,
        )
    tooling = Tooling()
    if spec.tooling is not None:
        tooling = Tooling(spec.tooling.supports_tool_calling, spec.tooling.tool_call_format)
    card = Card(
        name=CardName(manifest.metadata.name),
        model_id=spec.model_id,
        source=_source(spec),
        revision=spec.revision or "",
        files=files,
        storage_bytes=sum(file.bytes for file in files),
        layers=spec.n_layers,
        hidden_size=spec.hidden_size,
        kv=_kv(spec),
        context_length=spec.context_length,
        compatible_backends=tuple(spec.placement.compatible_backends),
        backend_preference=tuple(spec.placement.backend_preference),
        min_vram_bytes=int(spec.placement.min_vram_gib * GIB),
        max_context_tokens=spec.placement.max_context_tokens,
        gguf_file=spec.gguf_file,
        supports_tensor=spec.supports_tensor,
        trust_remote_code=spec.trust_remote_code,
        tasks=tuple(spec.tasks),
        family=spec.family,
        quantization=spec.quantization,
        base_model=spec.base_model,
        capabilities=tuple(spec.capabilities),
        reasoning=reasoning,
        tooling=tooling,
        described=MappingProxyType(described),
        license=spec.license,
    )
    return card if spec.storage_size is None else replace(card, storage_bytes=spec.storage_size.in_bytes)


def _source(spec: ModelCardSpec) -> LocalSource | HubSource:
    if spec.source.local is not None:
        return LocalSource(spec.source.local)
    assert spec.source.hub is not None
    return HubSource(spec.source.hub)


def _kv(spec: ModelCardSpec) -> KvShape:
    """The shape of the KV cache. Heads unknown and no MLA: no layer costs anything, only the recurrent state."""
    kv, window, mla = spec.kv, spec.kv.sliding_window, spec.kv.mla
    base = KvShape(head_dim=kv.head_dim, recurrent_bytes=kv.recurrent_bytes, element_bytes=kv.element_bytes)
    if spec.num_key_value_heads is None and mla is None:
        return base
    windowed = window.layers if window else 0
    return replace(
        base,
        full_layers=spec.n_layers - windowed,
        windowed_layers=windowed,
        window_tokens=window.tokens if window else 0,
        kv_heads=spec.num_key_value_heads or 0,
        mla_rank=mla.rank if mla else 0,
        mla_rope_dim=mla.rope_dim if mla else 0,
    )
