"""What a commit would lead to: plan, take the plan as done, plan again, until nothing is left to do.

One plan is only the next step: stop-first replaces replica by replica, and room that is freed is used by the next
plan. The rehearsal assumes that everything works at once: downloads arrive, runners start, nobody vetoes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from skulk.core.domain import Blueprint, Fleet, Member, Placement, RunningPlacement, begun
from skulk.core.planner.planning import plan

STEPS_MAX = 64
"""Stop-first takes a step per replica; a fleet that has not come to rest by then is reported as it is."""


@dataclass(frozen=True, slots=True)
class Step:
    """One plan and what ran when it was made."""

    before: tuple[RunningPlacement, ...]
    blueprint: Blueprint


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The way from what runs to what will run. There is at least one step; the last one changes nothing, unless the
    fleet has not come to rest within STEPS_MAX."""

    steps: tuple[Step, ...]
    running: tuple[RunningPlacement, ...]
    """What runs in the end."""
    settled: bool

    @property
    def last(self) -> Blueprint:
        return self.steps[-1].blueprint


def rehearse(fleet: Fleet, members: Sequence[Member], running: Sequence[RunningPlacement]) -> Rehearsal:
    """Plan `fleet` over `members`, beginning with what runs, until a plan asks for nothing more."""
    now = tuple(running)
    steps: list[Step] = []
    while len(steps) < STEPS_MAX:
        blueprint = plan(fleet, (), members, now, ())
        steps.append(Step(now, blueprint))
        then = done(now, blueprint)
        if set(then) == set(now):
            return Rehearsal(tuple(steps), then, settled=True)
        now = then
    return Rehearsal(tuple(steps), now, settled=False)


def done(running: Sequence[RunningPlacement], blueprint: Blueprint) -> tuple[RunningPlacement, ...]:
    """What runs when a blueprint has been carried out: its placements, complete, and what it keeps."""
    kept = {entry.uid for entry in blueprint.retiring if entry.keep}
    stay = (entry for entry in running if entry.uid in kept)
    known = {(entry.uid, entry.node): entry for entry in running}
    return (*(_complete(p, known.get((p.uid, p.nodes[0]))) for p in blueprint.placements), *stay)


def _complete(placement: Placement, known: RunningPlacement | None) -> RunningPlacement:
    if known is not None:
        return replace(known, complete=True, draining=False)
    return replace(begun(placement, placement.nodes[0]), complete=True)
