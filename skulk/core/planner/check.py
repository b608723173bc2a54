"""The plan linter: reads a finished blueprint against its inputs and says what looks wrong.

It shares no code with the decisions but the memory model and the filters, and trusts none of them: it runs after
every plan in tests and before a plan is shown. It changes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from skulk.core.domain import Blueprint, Deployment, Fleet, Member, NodeName, Placement
from skulk.core.memory import capacity, card_context_limit, shown
from skulk.core.planner.eligibility import STAYING, Wanted, matches
from skulk.core.planner.room import Pool, pool_of
from skulk.core.planner.survey import Site, Survey, pools_of, survey


class Finding(StrEnum):
    """What kind of thing is wrong."""

    OVERCOMMITTED = "Overcommitted"
    DUPLICATE_UID = "DuplicateUid"
    UNKNOWN_NODE = "UnknownNode"
    INELIGIBLE_NODE = "IneligibleNode"
    BACKEND_NOT_OFFERED = "BackendNotOffered"
    CONTEXT_ABOVE_CARD = "ContextAboveCard"
    REPLICA_COUNT = "ReplicaCount"
    DANGLING = "Dangling"


@dataclass(frozen=True, slots=True)
class Note:
    """One finding: about which placement, deployment or node, and what is wrong with it."""

    finding: Finding
    subject: str
    message: str


def check(blueprint: Blueprint, fleet: Fleet, members: Sequence[Member]) -> tuple[Note, ...]:
    """Everything that looks wrong, in a fixed order. Empty for a sound plan.

    A node that was given less room after its placements started is reported as overcommitted: nothing is stopped
    for it, and nothing is added either.
    """
    state = survey(fleet, members, ())
    notes = [
        *_uids(blueprint),
        *_links(blueprint),
        *_counts(blueprint, fleet),
        *_memory(blueprint, state),
        *(note for placement in blueprint.placements for note in _placement(placement, fleet, state)),
    ]
    return tuple(sorted(notes, key=lambda note: (note.finding, note.subject, note.message)))


def _uids(blueprint: Blueprint) -> Iterator[Note]:
    counts = Counter([p.uid for p in blueprint.placements] + [r.uid for r in blueprint.retiring])
    for uid, count in counts.items():
        if count > 1:
            yield Note(Finding.DUPLICATE_UID, uid, f"is listed {count} times")


def _links(blueprint: Blueprint) -> Iterator[Note]:
    retiring = {entry.uid: entry for entry in blueprint.retiring}
    placed = {placement.uid for placement in blueprint.placements}
    for placement in blueprint.placements:
        for field, uid in (("replaces", placement.replaces), ("after", placement.after)):
            if uid is not None and uid not in retiring:
                yield Note(Finding.DANGLING, placement.uid, f"{field} {uid}, which is not retiring")
        if placement.after is not None and placement.after in retiring:
            before = retiring[placement.after]
            if before.until is not None or before.keep:
                yield Note(Finding.DANGLING, placement.uid, f"waits for {before.uid}, which does not go")
    for entry in blueprint.retiring:
        if entry.until is not None and entry.until not in placed:
            yield Note(Finding.DANGLING, entry.uid, f"stays until {entry.until}, which is not placed")
        if entry.until is not None and entry.keep:
            yield Note(Finding.DANGLING, entry.uid, "has both until and keep")


def _counts(blueprint: Blueprint, fleet: Fleet) -> Iterator[Note]:
    found: dict[str, list[int]] = defaultdict(list)
    for placement in blueprint.placements:
        found[placement.deployment].append(placement.replica)
    for line in blueprint.unplaced:
        found[line.deployment].append(line.replica)
        if not line.message:
            yield Note(Finding.REPLICA_COUNT, line.deployment, f"replica {line.replica} is unplaced without reason")
    for name in sorted({*found, *fleet.deployments}):
        deployment = fleet.deployments.get(name)  # type: ignore[call-overload]  # names of both kinds are text
        wanted = 0 if deployment is None or deployment.suspend else deployment.replicas
        replicas = found.get(name, [])
        if len(replicas) != wanted or len(set(replicas)) != len(replicas):
            listed = ", ".join(map(str, sorted(replicas))) or "none"
            yield Note(Finding.REPLICA_COUNT, name, f"{wanted} replicas are wanted, placed or unplaced: {listed}")


def held_bytes(blueprint: Blueprint, state: Survey) -> dict[tuple[NodeName, Pool], int]:
    """What every node holds at most while a blueprint is carried out: everything present counts; a placement that
    comes after another on its node reuses that one's room."""
    used: dict[tuple[NodeName, Pool], int] = defaultdict(int)
    retiring = {entry.uid: entry for entry in blueprint.retiring}
    for entry in blueprint.retiring:
        for pool in pools_of(state.by_name.get(entry.node), entry.backend):
            used[entry.node, pool] += entry.memory_bytes
    for placement in blueprint.placements:
        before = retiring.get(placement.after) if placement.after is not None else None
        for rank in placement.ranks:
            site = state.by_name.get(rank.node)
            for pool in pools_of(site, placement.backend):
                reused = 0
                if before is not None and before.node == rank.node and pool in pools_of(site, before.backend):
                    reused = min(before.memory_bytes, rank.memory_bytes)
                used[rank.node, pool] += rank.memory_bytes - reused
    return used


def usable_bytes(site: Site, pool: Pool) -> int | None:
    """The most that any build of a node may take of a pool; None when it has no build that uses it."""
    builds = [build for build in site.builds if pool_of(build) is pool]
    if site.member is None or not builds:
        return None
    return max(capacity(site.member, site.node, build).usable_bytes for build in builds)


def _memory(blueprint: Blueprint, state: Survey) -> Iterator[Note]:
    used = held_bytes(blueprint, state)
    for site in state.sites:
        for pool in Pool:
            limit = usable_bytes(site, pool)
            if limit is not None and used[site.name, pool] > limit:
                message = f"{pool.value} memory: {shown(used[site.name, pool], up=True)} of {shown(limit)}"
                yield Note(Finding.OVERCOMMITTED, site.name, message)


def _placement(placement: Placement, fleet: Fleet, state: Survey) -> Iterator[Note]:
    deployment = fleet.deployments.get(placement.deployment)
    for rank in placement.ranks:
        site = state.by_name.get(rank.node)
        if site is None:
            yield Note(Finding.UNKNOWN_NODE, placement.uid, f"is on {rank.node}, which the fleet does not declare")
            continue
        if deployment is not None and (card := fleet.cards.get(deployment.model)) is not None:
            for rule in STAYING:
                if (no := rule(Wanted(deployment, card), site)) is not None:
                    yield Note(Finding.INELIGIBLE_NODE, placement.uid, f"{site.name} {no.message}")
        # An absent node cannot say what it offers, and what it runs stays as it is.
        if site.reports():
            yield from _launch(placement, site.member, deployment, fleet)


def _launch(placement: Placement, member: Member | None, deployment: Deployment | None, fleet: Fleet) -> Iterator[Note]:
    offered = {build.backend for build in member.builds} if member is not None else set()
    if placement.backend not in offered:
        yield Note(Finding.BACKEND_NOT_OFFERED, placement.uid, f"needs {placement.backend}")
    card = fleet.cards.get(placement.model)
    if card is None:
        yield Note(Finding.DANGLING, placement.uid, f"is of model {placement.model}, which has no card")
        return
    if not any(matches(tag, placement.backend) for tag in card.compatible_backends):
        yield Note(Finding.BACKEND_NOT_OFFERED, placement.uid, f"{card.name} does not run on {placement.backend}")
    limit = card_context_limit(card)
    if limit is not None and placement.context_tokens > limit:
        message = f"{placement.context_tokens} tokens, the card allows {limit}"
        yield Note(Finding.CONTEXT_ABOVE_CARD, placement.uid, message)
