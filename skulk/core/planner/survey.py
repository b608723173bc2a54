"""What the planner has to place things on: nodes as declared and as they report, and the room on each.

`Site` pairs a Node manifest with its member record. Sites that cannot be told apart by any rule share a `kind`
number, so that a verdict is worked out once per kind; those that offer the same builds under the same policy share
a `group`, within which only labels and memory differ. The account of memory is in `room`. No decisions here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skulk.core.domain import (
    Card,
    CardName,
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
from skulk.core.planner.room import Entry, Pool, Room, pool_of

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
    index: int
    """Place in `Survey.sites`."""
    group: int
    """Equal for sites that differ in labels, platform, memory and reserve besides."""

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


def pools_of(site: Site | None, backend: str) -> tuple[Pool, ...]:
    """The pools that a running placement occupies: both when its build is no longer reported, to be safe."""
    found = {pool_of(build) for build in (site.builds if site is not None else ()) if build.backend == backend}
    return tuple(sorted(found)) or (Pool.MACHINE, Pool.DEVICE)


@dataclass(frozen=True, slots=True)
class Survey:
    """Sites in the order that settles ties (ordinal, then name), and their room."""

    sites: tuple[Site, ...]
    by_name: Mapping[NodeName, Site]
    room: Room
    running: Mapping[NodeName, tuple[RunningPlacement, ...]]
    groups: tuple[tuple[Site, ...], ...]
    """Sites by their `group` number, each in the order of `sites`."""
    _usable: dict[tuple[int, EngineBuild], int] = field(default_factory=dict)
    _labelled: dict[str, dict[str | None, tuple[int, ...]]] = field(default_factory=dict)
    _present: dict[CardName, Mapping[int, int]] = field(default_factory=dict)
    _holders: dict[str, list[int]] = field(default_factory=dict)

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

    def by_free(self, group: int, build: EngineBuild) -> Sequence[Entry]:
        """The sites of a group by what is free for one of its builds, kept up to date as room is taken."""
        key = (group, build)
        found = self.room.order(key)
        if found is None:
            usable = ((site.name, site.index, self.usable_bytes(site, build)) for site in self.groups[group])
            found = self.room.make_order(key, pool_of(build), usable)
        return found

    def labelled(self, key: str, value: str) -> Sequence[int]:
        """Indices of the sites that have this label, declared or built in."""
        values = self._labelled.get(key)
        if values is None:
            found: dict[str | None, list[int]] = {}
            for site in self.sites:
                found.setdefault(site.label(key), []).append(site.index)
            values = self._labelled[key] = {label: tuple(indices) for label, indices in found.items()}
        return values.get(value, ())

    def present(self, card: Card) -> Mapping[int, int]:
        """Site index → bytes of the card's files that are there already; sites without any are left out."""
        found = self._present.get(card.name)
        if found is None:
            if not self._holders:
                for site in self.sites:
                    for sha256 in site.member.files if site.member is not None else ():
                        self._holders.setdefault(sha256, []).append(site.index)
            sums: dict[int, int] = {}
            for file in card.files:
                for index in self._holders.get(file.sha256, ()):
                    sums[index] = sums.get(index, 0) + file.bytes
            found = self._present[card.name] = sums
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
    sites = _sites(fleet, reported)
    groups: dict[int, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.group, []).append(site)
    by_node: dict[NodeName, list[RunningPlacement]] = {}
    for entry in running:
        by_node.setdefault(entry.node, []).append(entry)
    found = Survey(
        sites,
        {site.name: site for site in sites},
        Room(),
        {name: tuple(entries) for name, entries in by_node.items()},
        tuple(tuple(alike) for _, alike in sorted(groups.items())),
    )
    for entry in running:
        found.room.take(entry.node, found.pools(entry), entry.memory_bytes)
    return found


def _sites(fleet: Fleet, reported: Mapping[NodeName, Member]) -> tuple[Site, ...]:
    kinds: dict[object, int] = {}
    groups: dict[object, int] = {}
    sites = []
    for index, node in enumerate(sorted(fleet.nodes.values(), key=lambda node: (node.ordinal, node.name))):
        member = reported.get(node.name)
        kind = kinds.setdefault(_kind(node, member), len(kinds))
        group = groups.setdefault(_group(node, member), len(groups))
        sites.append(Site(node, member, kind, index, group))
    return tuple(sites)


def _group(node: Node, member: Member | None) -> object:
    builds = None if member is None else member.builds
    return (builds, node.backends, node.participation is Participation.FULL, node.cordon, node.drain)


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
