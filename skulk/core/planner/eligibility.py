"""May this deployment be on that node at all: one small filter per rule, in the order people reason in.

A filter answers None (passes) or a Rejection with a reason and the facts. Filters look at declared and reported
facts only; memory, refusals and spread depend on the state of the plan and live in `offers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from skulk.core.domain import (
    Card,
    Deployment,
    EngineBuild,
    LaunchHash,
    NodeName,
    Participation,
    Reason,
)
from skulk.core.memory import engine_of, shown
from skulk.core.planner.digests import launch_hash
from skulk.core.planner.survey import LABEL_ARCH, LABEL_NODE, LABEL_OS, Site

STAGES = (
    Reason.NODE_ABSENT,
    Reason.NOT_PARTICIPATING,
    Reason.CORDONED,
    Reason.DRAINED,
    Reason.EXCLUDED,
    Reason.SELECTOR_MISMATCH,
    Reason.NO_BACKEND,
    Reason.INSUFFICIENT_MEMORY,
    Reason.CONTEXT_TOO_LARGE,
    Reason.NODE_REFUSED,
    Reason.SPREAD,
)
"""The order of the filters. The later a node drops out, the closer it was: that decides which reasons lead."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one node is out. `message` continues a sentence that begins with the node's name."""

    reason: Reason
    message: str


class Wanted:
    """One deployment and its card, with the launch hashes worked out so far (they repeat over equal nodes)."""

    def __init__(self, deployment: Deployment, card: Card) -> None:
        self.deployment = deployment
        self.card = card
        self.shas = frozenset(file.sha256 for file in card.files)
        self._hashes: dict[tuple[str, str, str, int], LaunchHash] = {}

    def launch_hash(self, build: EngineBuild, context_tokens: int) -> LaunchHash:
        key = (build.backend, build.version, build.digest, context_tokens)
        found = self._hashes.get(key)
        if found is None:
            found = self._hashes[key] = launch_hash(self.card, self.deployment, build, context_tokens)
        return found


Filter = Callable[[Wanted, Site], Rejection | None]


def present(_: Wanted, site: Site) -> Rejection | None:
    if not site.reports():
        return Rejection(Reason.NODE_ABSENT, "is not in the fleet's live set")
    return None


def participating(_: Wanted, site: Site) -> Rejection | None:
    if site.node.participation is not Participation.FULL:
        return Rejection(Reason.NOT_PARTICIPATING, f"has participation {site.node.participation.value}")
    return None


def uncordoned(_: Wanted, site: Site) -> Rejection | None:
    return Rejection(Reason.CORDONED, "is cordoned") if site.node.cordon else None


def undrained(_: Wanted, site: Site) -> Rejection | None:
    return Rejection(Reason.DRAINED, "is drained") if site.node.drain else None


def unexcluded(wanted: Wanted, site: Site) -> Rejection | None:
    if site.name in wanted.deployment.excluded_nodes:
        return Rejection(Reason.EXCLUDED, "is in placement.excludedNodes")
    return None


def selected(wanted: Wanted, site: Site) -> Rejection | None:
    """Every label of the selector. What only an absent node could tell is not held against it."""
    for key, value in sorted(wanted.deployment.selector.items()):
        found = site.label(key)
        if found is None and not site.reports() and key in (LABEL_OS, LABEL_ARCH):
            continue
        if found != value:
            has = f"has {key}={found}" if found is not None else f"has no label {key}"
            return Rejection(Reason.SELECTOR_MISMATCH, f"{has}, the selector asks for {value}")
    return None


def matches(tag: str, backend: str) -> bool:
    """Whether a tag of a card, node or deployment (`mlx` or `mlx-metal`) covers a backend (`mlx-metal`)."""
    return tag in (backend, engine_of(backend))


def backends(wanted: Wanted, site: Site) -> tuple[EngineBuild, ...] | Rejection:
    """The builds of a node that can serve the card, the preferred one first."""
    card, deployment, node = wanted.card, wanted.deployment, site.node
    if not site.builds:
        return Rejection(Reason.NO_BACKEND, "has no usable engine")
    able = [b for b in site.builds if any(matches(tag, b.backend) for tag in card.compatible_backends)]
    offered = ", ".join(sorted({build.backend for build in site.builds}))
    if not able:
        return Rejection(Reason.NO_BACKEND, f"offers {offered}, the card needs {' or '.join(card.compatible_backends)}")
    if deployment.engine is not None:
        able = [build for build in able if matches(deployment.engine, build.backend)]
        if not able:
            return Rejection(Reason.NO_BACKEND, f"offers {offered}, the deployment asks for {deployment.engine}")
    if node.backends is not None:
        able = [build for build in able if any(matches(tag, build.backend) for tag in node.backends)]
        if not able:
            declared = ", ".join(node.backends) or "none"
            return Rejection(Reason.NO_BACKEND, f"offers {offered}, its manifest allows only {declared}")
    return tuple(sorted(able, key=lambda build: _build_key(card, build)))


def backend_rank(card: Card, backend: str) -> tuple[int, bool]:
    """Smaller is better: place in the card's preference list, then accelerators before CPUs."""
    preference = card.backend_preference
    place = next((i for i, tag in enumerate(preference) if matches(tag, backend)), len(preference))
    return place, backend.endswith("-cpu")


def _build_key(card: Card, build: EngineBuild) -> tuple[object, ...]:
    """By rank; of several builds of one backend the newest version first."""
    numbers = "".join(char if char.isdigit() else " " for char in build.version).split()
    return (
        backend_rank(card, build.backend),
        build.backend,
        tuple(-int(number) for number in numbers),
        build.version,
        build.digest,
    )


def enough_vram(card: Card, site: Site, build: EngineBuild) -> Rejection | None:
    """The card's minimum, against the device's memory, or the machine's where the device shares it."""
    assert site.member is not None
    shared = site.member.memory_bytes if build.unified else 0
    total = shared if build.device_memory_bytes is None else build.device_memory_bytes
    if total < card.min_vram_bytes:
        return Rejection(
            Reason.INSUFFICIENT_MEMORY,
            f"has {shown(total)} for {build.backend}, the card's minVramGib asks for"
            f" {shown(card.min_vram_bytes, up=True)}",
        )
    return None


BEFORE_NAMES: tuple[Filter, ...] = (present, participating, uncordoned, undrained)
STAYING: tuple[Filter, ...] = (participating, undrained, unexcluded, selected)
"""What a running placement must still pass: cordon and absence keep what is there."""


class Eligibility:
    """The static filters for one deployment, remembered per kind of site (engines: per group)."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._early: dict[int, Rejection | None] = {}
        self._late: dict[int, tuple[EngineBuild, ...] | Rejection] = {}
        self._engines: dict[int, tuple[EngineBuild, ...] | Rejection] = {}
        # The built-in node label differs within a kind.
        self._selector_by_name = LABEL_NODE in wanted.deployment.selector

    def builds(self, site: Site) -> tuple[EngineBuild, ...] | Rejection:
        """The builds on which a new placement may be put, best first, or why there are none."""
        kind = site.kind
        if kind not in self._early:
            self._early[kind] = next(
                (no for rule in BEFORE_NAMES if (no := rule(self._wanted, site)) is not None), None
            )
        early = self._early[kind]
        if early is not None:
            return early
        if (no := unexcluded(self._wanted, site)) is not None:
            return no
        if self._selector_by_name and (no := selected(self._wanted, site)) is not None:
            return no
        if kind not in self._late:
            self._late[kind] = self._late_verdict(site)
        return self._late[kind]

    def engines(self, site: Site) -> tuple[EngineBuild, ...] | Rejection:
        """`backends`, for this site and all of its group."""
        if site.group not in self._engines:
            self._engines[site.group] = backends(self._wanted, site)
        return self._engines[site.group]

    def _late_verdict(self, site: Site) -> tuple[EngineBuild, ...] | Rejection:
        if (no := selected(self._wanted, site)) is not None:
            return no
        able = self.engines(site)
        if isinstance(able, Rejection):
            return able
        if not self._wanted.card.min_vram_bytes:
            return able
        verdicts = [(build, enough_vram(self._wanted.card, site, build)) for build in able]
        large = tuple(build for build, no in verdicts if no is None)
        return large or next(no for _, no in verdicts if no is not None)


def summarise(
    reasons: Sequence[tuple[NodeName, Reason]], message: Callable[[int], str], needed: str
) -> tuple[Reason, str]:
    """One line for a replica that found no node: the nodes that came closest first, the rest counted.

    `reasons` are in node order; `message` is asked for the few positions in them that are shown; `needed` names the
    backends, for the case that nobody has them.
    """
    if not reasons:
        return Reason.NO_ELIGIBLE_NODE, "the fleet declares no nodes"
    counts = Counter(reason for _, reason in reasons)
    reason = max(counts, key=STAGES.index)
    if reason is Reason.NO_BACKEND and counts[reason] == len(reasons) > SHOWN_NODES_MAX:
        return reason, f"none of {len(reasons)} nodes offers {needed}"
    leading = (position for position, (_, other) in enumerate(reasons) if other is reason)
    parts = [f"{reasons[position][0]} {message(position)}" for position in islice(leading, SHOWN_NODES_MAX)]
    if counts[reason] > SHOWN_NODES_MAX:
        parts.append(f"and {counts[reason] - SHOWN_NODES_MAX} more {reason.value}")
    passed = sorted((other, count) for other, count in counts.items() if other is not reason)
    if passed:
        parts.append("other nodes: " + ", ".join(f"{count} {other.value}" for other, count in passed))
    return reason, "; ".join(parts)


SHOWN_NODES_MAX = 3
"""Nodes named in a one-line reason; `skulk why` names them all."""
