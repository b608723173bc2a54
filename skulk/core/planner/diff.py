"""What a commit changes in a fleet, for people who decide about it: from what runs to what will run.

Reads a rehearsal against what it began with: every replica's fate, downloads, the memory of every node before, at
its peak and after, who is without service meanwhile, what finds no place. It plans nothing itself and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from skulk.core.domain import (
    CardName,
    DeploymentName,
    Fleet,
    Member,
    NodeName,
    Outage,
    Placement,
    PlacementUid,
    Reason,
    Retiring,
    RunningPlacement,
    Unplaced,
    UpdateStrategy,
)
from skulk.core.planner.check import Note, check, held_bytes, usable_bytes
from skulk.core.planner.digests import content_hash
from skulk.core.planner.rehearsal import Rehearsal, Step
from skulk.core.planner.room import Pool
from skulk.core.planner.survey import survey


class Action(StrEnum):
    """What happens to one replica."""

    START = "start"
    REPLACE = "replace"
    """Another runner takes its place: it is started with something else (and may be on another node)."""
    MOVE = "move"
    """The same on another node."""
    STOP = "stop"
    HOLD = "hold"
    """It is out of date and serves on, because what should take its place has none."""
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Change:
    """The fate of one replica. `before` is None for a start, `after` for a stop."""

    action: Action
    deployment: DeploymentName
    replica: int
    before: RunningPlacement | None
    after: RunningPlacement | None
    strategy: UpdateStrategy | None = None
    """How a replacement goes: side by side, or one after the other."""
    reason: Reason | None = None
    message: str = ""
    step: int = 0
    """The first step in which something is done about it; from 1. 0: nothing is done."""


@dataclass(frozen=True, slots=True)
class Download:
    """What one node fetches: files that it does not have, each counted once."""

    node: NodeName
    bytes: int
    files: int
    models: tuple[CardName, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What placements hold of one pool of a node, as the memory model predicts. Bytes."""

    node: NodeName
    pool: Pool
    usable_bytes: int | None
    """None: nobody knows, the node has no engine that uses it."""
    before_bytes: int
    peak_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Without:
    """A deployment that no replica serves for a while, and the step in which that begins."""

    outage: Outage
    step: int


@dataclass(frozen=True, slots=True)
class Edit:
    """One manifest that differs. `fields` are paths below `spec`, empty when the manifest was added or removed."""

    kind: str
    name: str
    how: str
    """`added`, `removed` or `changed`."""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything there is to say about a change. All sequences are in an order of their own."""

    edits: tuple[Edit, ...]
    changes: tuple[Change, ...]
    downloads: tuple[Download, ...]
    outages: tuple[Without, ...]
    unplaced: tuple[Unplaced, ...]
    """In the end."""
    memory: tuple[Memory, ...]
    notes: tuple[Note, ...]
    """What the plan linter found in any step."""
    steps: int
    """Rounds of work until the fleet has come to rest."""
    settled: bool

    @property
    def changed(self) -> bool:
        """Whether the commit makes any difference: to a manifest's spec, or to what runs."""
        return bool(self.edits) or any(change.action is not Action.STAY for change in self.changes)

    def count(self, action: Action) -> int:
        return sum(1 for change in self.changes if change.action is action)


def diff(base: Fleet, target: Fleet, members: Sequence[Member], rehearsal: Rehearsal) -> Diff:
    """Compare what ran when `rehearsal` (of `target`, over `members`) began with what will run in the end.

    `base` is the commit that what runs came from: its manifests are compared, and its cards tell which files the
    nodes have besides those that their members report.
    """
    return Diff(
        edits=tuple(_edits(base, target)),
        changes=tuple(_changes(rehearsal)),
        downloads=tuple(_downloads(base, target, members, rehearsal)),
        outages=tuple(_outages(rehearsal)),
        unplaced=rehearsal.last.unplaced,
        memory=tuple(_memory(base, target, members, rehearsal)),
        notes=tuple(dict.fromkeys(n for s in rehearsal.steps for n in check(s.blueprint, target, members))),
        steps=sum(1 for step in rehearsal.steps if _busy(step)),
        settled=rehearsal.settled,
    )


def _busy(step: Step) -> bool:
    there = {entry.uid for entry in step.before if entry.complete}
    starts = any(placement.uid not in there for placement in step.blueprint.placements)
    return starts or any(not entry.keep for entry in step.blueprint.retiring)


# --- manifests ------------------------------------------------------------------------------------------------


def _edits(base: Fleet, target: Fleet) -> Iterator[Edit]:
    for key in sorted({*base.documents, *target.documents}):
        kind, _, name = key.partition("/")
        old, new = base.documents.get(key), target.documents.get(key)
        if old is None or new is None:
            yield Edit(kind, name, "added" if old is None else "removed")
        elif fields := tuple(_different(old.get("spec"), new.get("spec"), "")):
            yield Edit(kind, name, "changed", fields)


def _different(old: object, new: object, path: str) -> Iterator[str]:
    """Paths of what differs: mappings are entered, lists are taken as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            yield from _different(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path


# --- replicas -------------------------------------------------------------------------------------------------

_Replica = tuple[DeploymentName, int]


def _changes(rehearsal: Rehearsal) -> Iterator[Change]:
    before, after = _by_replica(rehearsal.steps[0].before), _by_replica(rehearsal.running)
    retiring = _first(entry for step in rehearsal.steps for entry in step.blueprint.retiring)
    placed = _first(placement for step in rehearsal.steps for placement in step.blueprint.placements)
    steps = _first_steps(rehearsal)
    for replica in sorted({*before, *after}):
        for old, new in _pairs(before.get(replica, []), after.get(replica, [])):
            subject = old or new
            assert subject is not None
            left = retiring.get(old.uid) if old is not None else None
            action = _action(old, new, rehearsal)
            if action is Action.HOLD:
                left = next((r for r in rehearsal.last.retiring if old is not None and r.uid == old.uid), left)
            begun = [steps[entry.uid] for entry in (old, new) if entry is not None and entry.uid in steps]
            yield Change(
                action,
                subject.deployment,
                subject.replica,
                old,
                new,
                strategy=_strategy(action, new, placed),
                reason=left.reason if left is not None and action is not Action.STAY else None,
                message=left.message if left is not None and action is not Action.STAY else "",
                step=0 if action in (Action.STAY, Action.HOLD) else min(begun, default=0),
            )


def _by_replica(running: Sequence[RunningPlacement]) -> dict[_Replica, list[RunningPlacement]]:
    found: dict[_Replica, list[RunningPlacement]] = {}
    for entry in sorted(running, key=lambda e: (not e.complete, e.draining, e.node, e.uid)):
        found.setdefault((entry.deployment, entry.replica), []).append(entry)
    return found


_Pair = tuple[RunningPlacement | None, RunningPlacement | None]


def _pairs(before: Sequence[RunningPlacement], after: Sequence[RunningPlacement]) -> Iterator[_Pair]:
    """The same placement with itself; of the rest, what served best with what comes."""
    same = {entry.uid for entry in before} & {entry.uid for entry in after}
    for old in before:
        if old.uid in same:
            yield old, next(entry for entry in after if entry.uid == old.uid)
    gone = [entry for entry in before if entry.uid not in same]
    new = [entry for entry in after if entry.uid not in same]
    for number in range(max(len(gone), len(new))):
        yield gone[number] if number < len(gone) else None, new[number] if number < len(new) else None


def _action(old: RunningPlacement | None, new: RunningPlacement | None, rehearsal: Rehearsal) -> Action:
    if old is None:
        return Action.START
    if new is None:
        return Action.STOP
    if old.uid == new.uid:
        kept = any(entry.uid == old.uid and entry.keep for entry in rehearsal.last.retiring)
        return Action.HOLD if kept else Action.STAY
    return Action.MOVE if old.launch_hash == new.launch_hash else Action.REPLACE


def _strategy(
    action: Action, new: RunningPlacement | None, placed: Mapping[PlacementUid, Placement]
) -> UpdateStrategy | None:
    placement = placed.get(new.uid) if new is not None else None
    if action not in (Action.REPLACE, Action.MOVE) or placement is None:
        return None
    if placement.replaces is not None:
        return UpdateStrategy.START_FIRST
    return UpdateStrategy.STOP_FIRST if placement.after is not None else None


_Listed = TypeVar("_Listed", Placement, Retiring)


def _first(entries: Iterator[_Listed]) -> dict[PlacementUid, _Listed]:
    found: dict[PlacementUid, _Listed] = {}
    for entry in entries:
        found.setdefault(entry.uid, entry)
    return found


def _first_steps(rehearsal: Rehearsal) -> dict[PlacementUid, int]:
    """When each placement is first started or sent away."""
    found: dict[PlacementUid, int] = {}
    for number, step in enumerate(rehearsal.steps, 1):
        there = {entry.uid for entry in step.before}
        new = [placement.uid for placement in step.blueprint.placements if placement.uid not in there]
        going = [entry.uid for entry in step.blueprint.retiring if not entry.keep]
        for uid in (*new, *going):
            found.setdefault(uid, number)
    return found


# --- what it costs --------------------------------------------------------------------------------------------


def _downloads(base: Fleet, target: Fleet, members: Sequence[Member], rehearsal: Rehearsal) -> Iterator[Download]:
    here = {member.node: set(member.files) for member in members}
    for entry in rehearsal.steps[0].before:
        card = base.cards.get(entry.model)
        if card is not None and entry.complete and content_hash(card) == entry.content_hash:
            here.setdefault(entry.node, set()).update(file.sha256 for file in card.files)
    sizes: dict[NodeName, dict[str, int]] = {}
    models: dict[NodeName, set[CardName]] = {}
    for step in rehearsal.steps:
        there = {entry.uid for entry in step.before}
        for placement in step.blueprint.placements:
            card = target.cards.get(placement.model)
            if placement.uid in there or card is None:
                continue
            for node in placement.nodes:
                missing = {file.sha256: file.bytes for file in card.files if file.sha256 not in here.get(node, ())}
                if missing:
                    sizes.setdefault(node, {}).update(missing)
                    models.setdefault(node, set()).add(card.name)
    for node, files in sorted(sizes.items()):
        yield Download(node, sum(files.values()), len(files), tuple(sorted(models[node])))


def _outages(rehearsal: Rehearsal) -> Iterator[Without]:
    seen: set[DeploymentName] = set()
    for number, step in enumerate(rehearsal.steps, 1):
        for outage in step.blueprint.outages:
            if outage.deployment not in seen:
                seen.add(outage.deployment)
                yield Without(outage, number)


def _memory(base: Fleet, target: Fleet, members: Sequence[Member], rehearsal: Rehearsal) -> Iterator[Memory]:
    """Every pool that a node has or uses, in order of ordinals; nodes that the target drops come with it."""
    nodes = replace(target, nodes={**base.nodes, **target.nodes})
    before, after = survey(nodes, members, rehearsal.steps[0].before), survey(nodes, members, rehearsal.running)
    peaks = [held_bytes(step.blueprint, before) for step in rehearsal.steps]
    for site in before.sites:
        for pool in Pool:
            usable = usable_bytes(site, pool)
            was, will = before.room.used_bytes(site.name, pool), after.room.used_bytes(site.name, pool)
            peak = max(was, will, *(held.get((site.name, pool), 0) for held in peaks))
            if usable is not None or peak:
                yield Memory(site.name, pool, usable, was, peak, will)
