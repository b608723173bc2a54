"""Member records from what the manifests declare, so that a fleet can be planned while none of it is there.

What a Node manifest leaves open is assumed as far as its platform tells, and every assumption is named. Engine
versions are unknown offline: two plans over declared hardware compare, a launch hash from here means nothing to a
live node.
"""

from __future__ import annotations

from dataclasses import dataclass

from skulk.core.domain import BootId, EngineBuild, Fleet, Member, Node, NodeName, Participation
from skulk.core.memory import engine_of

UNKNOWN = "declared"
"""Stands for version and digest of an engine build that nobody has looked at."""

# What an engine computes on where a manifest names the engine alone. Vulkan drives every vendor's device.
_COMPUTE = {"macos": "metal", "linux": "cpu"}
_COMPUTE_OF_DEVICE = {"llama_cpp": "vulkan", "llama_server": "vulkan"}
# The engines that a node is taken to have when its manifest does not restrict them.
_ENGINES = ("mlx", "llama_cpp")
# These computes use the machine's own memory, whatever else is in the machine.
_ALWAYS_UNIFIED = frozenset({"cpu", "metal"})


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to know about one node. `message` continues a sentence that begins with the node's name."""

    node: NodeName
    message: str


@dataclass(frozen=True, slots=True)
class Declared:
    """The members that manifests tell of, in order of ordinals."""

    members: tuple[Member, ...]
    left_out: tuple[Remark, ...]
    """Nodes that cannot be planned for, and what their manifest would have to say."""
    assumed: tuple[Remark, ...]


def declared_members(fleet: Fleet) -> Declared:
    """One member per node that declares its hardware. Not declaring it is remarked on, unless the node runs nothing."""
    members: list[Member] = []
    left_out: list[Remark] = []
    assumed: list[Remark] = []
    for node in sorted(fleet.nodes.values(), key=lambda node: (node.ordinal, node.name)):
        if node.hardware is None and node.participation is Participation.MANAGEMENT:
            # Nothing would be put there, so nothing is missing.
            continue
        if node.hardware is None:
            left_out.append(Remark(node.name, "declares no hardware (`skulk node probe` prints it)"))
            continue
        backends = _backends(node)
        if not backends:
            left_out.append(Remark(node.name, "declares neither platform.os nor full backends such as mlx-metal"))
            continue
        if node.backends is None or set(backends) != set(node.backends):
            assumed.append(Remark(node.name, f"is taken to offer {', '.join(backends)}, from its platform"))
        members.append(
            Member(
                node=node.name,
                boot=BootId(UNKNOWN),
                memory_bytes=node.hardware.memory_bytes,
                builds=tuple(_build(node, backend) for backend in backends),
                os=node.os or "",
                arch=node.arch or "",
            )
        )
    return Declared(tuple(members), tuple(left_out), tuple(assumed))


def _backends(node: Node) -> tuple[str, ...]:
    """Full backends, `<engine>-<compute>`, in the order of the manifest; without those that nothing tells of."""
    tags = node.backends if node.backends is not None else _ENGINES
    found: dict[str, None] = {}
    for tag in tags:
        if "-" in tag:
            found[tag] = None
            continue
        device = _COMPUTE_OF_DEVICE.get(tag) if _device(node) is not None and node.os != "macos" else None
        for compute in (device, _COMPUTE.get(node.os or "")):
            if compute is not None:
                found[f"{tag}-{compute}"] = None
    return tuple(found)


def _device(node: Node) -> str | None:
    return node.hardware.accelerator if node.hardware is not None else None


def _build(node: Node, backend: str) -> EngineBuild:
    assert node.hardware is not None
    compute = backend.partition("-")[2]
    memory = None if compute in _ALWAYS_UNIFIED else node.hardware.accelerator_memory_bytes
    return EngineBuild(
        backend=backend,
        engine=engine_of(backend),
        version=UNKNOWN,
        digest=UNKNOWN,
        device="" if compute == "cpu" else node.hardware.accelerator or "",
        # A device that does not say how much memory it has shares the machine's.
        unified=memory is None,
        device_memory_bytes=memory,
    )
