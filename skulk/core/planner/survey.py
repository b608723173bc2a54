"""What the planner has to place things on: nodes as declared and as they report, and the room on each.

`Site` pairs a Node manifest with its member record. Sites that cannot be told apart by any rule share a `kind`
number, so that a verdict is worked out once per kind. `Room` is the account of memory: everything that runs counts
until it is gone, so whatever the planner adds fits beside it. No decisions here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from skulk.core.domain import (
    DeploymentName,
    EngineBuild,
    Fleet,
    Member,
    Node,
    NodeName,
    Participation,
    RunningPlacement,
)
from skulk.core.memory import capacity
from skulk.core.planner.digests import canonical

# Labels that every node has without declaring them; a manifest's own label of that name would win.
LABEL_NODE = "skulk.dev/node"
LABEL_OS = "skulk.dev/os"
LABEL_ARCH = "skulk.dev/arch"


@dataclass(frozen=True, slots=True)
class Site:
    """One declared node with what it reports; `member` is None while it is absent."""

    node: Node
    member: Member | None
    kind: int
    """Equal for sites that differ in name, ordinal, address, boot and files only."""

    @property
    def name(self) -> NodeName:
        return self.node.name

    @property
    def builds(self) -> tuple[EngineBuild, ...]:
        return self.member.builds if self.member is not None else ()

    def label(self, key: str) -> str | None:
        """The value of a label, declared or built in; None when the node has none."""
        declared = self.node.labels.get(key)
        if declared is not None:
            return declared
        if key == LABEL_NODE:
            return self.node.name
        if key == LABEL_OS:
            return self.node.os or (self.member.os if self.member is not None else "") or None
        if key == LABEL_ARCH:
            return self.node.arch or (self.member.arch if self.member is not None else "") or None
        return None

    def reports(self) -> bool:
        """Whether the node is among the members."""
        return self.member is not None


class Pool(StrEnum):
    """Where a backend's memory comes from. All devices with memory of their own on a node count as one pool,
    because builds of several engines may share one of them."""

    MACHINE = "machine"
    DEVICE = "device"


def pool_of(build: EngineBuild) -> Pool:
    return Pool.MACHINE if build.unified else Pool.DEVICE


def pools_of(site: Site | None, backend: str) -> tuple[Pool, ...]:
    """The pools that a running placement occupies: both when its build is no longer reported, to be safe."""
    found = {pool_of(build) for build in (site.builds if site is not None else ()) if build.backend == backend}
    return tuple(sorted(found)) or (Pool.MACHINE, Pool.DEVICE)


class Room:
    """The memory account of one planning run: bytes in use per node and pool."""

    def __init__(self) -> None:
        self._used: dict[tuple[NodeName, Pool], int] = defaultdict(int)
        self._leaving: dict[tuple[NodeName, Pool], int] = defaultdict(int)

    def take(self, name: NodeName, pools: Iterable[Pool], size_bytes: int) -> None:
        for pool in pools:
            self._used[name, pool] += size_bytes

    def leave(self, name: NodeName, pools: Iterable[Pool], size_bytes: int) -> None:
        """Note that this much of what is in use is on its way out. It still counts."""
        for pool in pools:
            self._leaving[name, pool] += size_bytes

    def used_bytes(self, name: NodeName, pool: Pool) -> int:
        return self._used[name, pool]

    def leaving_bytes(self, name: NodeName, pool: Pool) -> int:
        return self._leaving[name, pool]


@dataclass(frozen=True, slots=True)
class Survey:
    """Sites in the order that settles ties (ordinal, then name), and their room."""

    sites: tuple[Site, ...]
    by_name: Mapping[NodeName, Site]
    room: Room
    running: Mapping[NodeName, tuple[RunningPlacement, ...]]
    _usable: dict[tuple[int, EngineBuild], int] = field(default_factory=dict)

    def pools(self, running: RunningPlacement) -> tuple[Pool, ...]:
        return pools_of(self.by_name.get(running.node), running.backend)

    def usable_bytes(self, site: Site, build: EngineBuild) -> int:
        """0 for an absent node."""
        if site.member is None:
            return 0
        key = (site.kind, build)
        found = self._usable.get(key)
        if found is None:
            found = self._usable[key] = capacity(site.member, site.node, build).usable_bytes
        return found

    def serving_bytes(self, name: NodeName, pool: Pool, but: DeploymentName) -> int:
        """What the serving placements of all other deployments hold: the least that is in use for certain."""
        return sum(
            entry.memory_bytes
            for entry in self.running.get(name, ())
            if entry.deployment != but and entry.complete and not entry.draining and pool in self.pools(entry)
        )


def survey(fleet: Fleet, members: Sequence[Member], running: Sequence[RunningPlacement]) -> Survey:
    """The state before anything is placed: all that runs is in the account."""
    reported = {member.node: member for member in sorted(members, key=canonical)}
    kinds: dict[object, int] = {}
    sites = tuple(
        Site(node, reported.get(node.name), kinds.setdefault(_kind(node, reported.get(node.name)), len(kinds)))
        for node in sorted(fleet.nodes.values(), key=lambda node: (node.ordinal, node.name))
    )
    by_node: dict[NodeName, list[RunningPlacement]] = {}
    for entry in running:
        by_node.setdefault(entry.node, []).append(entry)
    found = Survey(
        sites,
        {site.name: site for site in sites},
        Room(),
        {name: tuple(entries) for name, entries in by_node.items()},
    )
    for entry in running:
        found.room.take(entry.node, found.pools(entry), entry.memory_bytes)
    return found


def _kind(node: Node, member: Member | None) -> object:
    facts = None if member is None else (member.memory_bytes, member.builds, member.os, member.arch)
    return (
        facts,
        node.os,
        node.arch,
        tuple(sorted(node.labels.items())),
        node.backends,
        node.participation is Participation.FULL,
        node.reserve_memory_bytes,
        node.cordon,
        node.drain,
    )
