"""Conditions of placements, deployments, the node and the fleet, derived from decisions. Pure reading: it decides
nothing. `since` is carried over from the previous snapshot while status and reason stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from skulk.core.domain import (
    CommitId,
    Condition,
    ConditionType,
    Deployment,
    Placement,
    PlacementUid,
    Reason,
    Status,
    Unplaced,
    Waiting,
)
from skulk.core.reconcile.ledger import Record
from skulk.core.reconcile.machine import Phase

_PHASE_REASON: Mapping[Phase, Reason] = {
    Phase.STARTING: Reason.STARTING,
    Phase.LOADING: Reason.LOADING,
    Phase.WARMING: Reason.WARMING_UP,
    Phase.READY: Reason.SERVING,
    Phase.DRAINING: Reason.DRAINING,
    Phase.STOPPING: Reason.STOPPING,
    Phase.BACKOFF: Reason.BACKOFF,
    Phase.BROKEN: Reason.BREAKER_OPEN,
    Phase.WEDGED: Reason.WEDGED,
    Phase.GONE: Reason.STOPPED,
}
_STALLED_PHASES = frozenset({Phase.BROKEN, Phase.WEDGED})


def _trio(
    ready: bool, reconciling: bool, stalled: bool, reason: Reason, message: str, commit: CommitId | None
) -> tuple[Condition, ...]:
    """The three conditions with one reason: what is true carries it, what is false repeats it."""

    def status(value: bool) -> Status:
        return Status.TRUE if value else Status.FALSE

    return (
        Condition(ConditionType.READY, status(ready), reason, message, commit),
        Condition(ConditionType.RECONCILING, status(reconciling), reason, message, commit),
        Condition(ConditionType.STALLED, status(stalled), reason, message, commit),
    )


def placement_conditions(record: Record, waiting: Iterable[Waiting], commit: CommitId | None) -> tuple[Condition, ...]:
    """Conditions of one placement from its phase and the nearest obstacle."""
    obstacle = next((line for line in waiting if line.subject == record.uid), None)
    reason = _PHASE_REASON.get(record.phase)
    if reason is None:
        reason = obstacle.reason if obstacle is not None else Reason.STARTING
    message = f"{obstacle.message} (waits for: {obstacle.on})" if obstacle is not None else _message(record)
    ready = record.phase is Phase.READY
    stalled = record.phase in _STALLED_PHASES or (
        obstacle is not None and obstacle.reason in (Reason.FETCH_FAILED, Reason.ENGINE_MISSING)
    )
    return _trio(ready, not ready and not stalled, stalled, reason, message, commit)


def _message(record: Record) -> str:
    if record.phase is Phase.READY:
        return "it answers requests"
    return record.phase.value


def deployment_conditions(
    deployment: Deployment,
    placements: Sequence[Placement],
    unplaced: Sequence[Unplaced],
    states: Mapping[PlacementUid, tuple[Condition, ...]],
    serving_before: int,
    commit: CommitId | None,
) -> tuple[Condition, ...]:
    """Ready means: every replica of *this* version serves. `serving_before` counts replicas of an earlier
    version that still answer meanwhile."""
    if deployment.suspend:
        return _trio(False, False, False, Reason.SUSPENDED, "suspended by its manifest", commit)
    wanted = deployment.replicas
    ready = sum(1 for p in placements if p.uid in states and is_true(states[p.uid], ConditionType.READY))
    if ready >= wanted:
        return _trio(True, False, False, Reason.ALL_REPLICAS_READY, f"{ready} of {wanted} replicas ready", commit)
    meanwhile = f"; {serving_before} of the previous version still serving" if serving_before else ""
    count = f"{ready} of {wanted} replicas ready{meanwhile}"
    if unplaced:
        first = unplaced[0]
        return _trio(False, True, False, first.reason, f"{count}; {first.message}", commit)
    for placement in placements:
        conditions = states.get(placement.uid, ())
        if conditions and not is_true(conditions, ConditionType.READY):
            worst = conditions[0]
            stalled = is_true(conditions, ConditionType.STALLED)
            return _trio(False, not stalled, stalled, worst.reason, f"{count}; {worst.message}", commit)
    return _trio(False, True, False, Reason.REPLICAS_UNAVAILABLE, count, commit)


def fleet_conditions(
    source: Sequence[Condition],
    deployments: Mapping[str, tuple[Condition, ...]],
    suspended: frozenset[str],
    commit: CommitId | None,
) -> tuple[Condition, ...]:
    """The fleet is Ready when the newest commit is accepted and every deployment that is not suspended is."""
    stalled = [c for c in source if c.type is ConditionType.STALLED and c.status is Status.TRUE]
    if stalled:
        first = stalled[0]
        return _trio(False, False, True, first.reason, first.message, commit)
    if commit is None:
        reason, message = Reason.NO_COMMIT, "no commit was accepted yet"
        waiting = [c for c in source if c.type is ConditionType.READY and c.status is Status.FALSE]
        if waiting:
            reason, message = waiting[0].reason, waiting[0].message
        return _trio(False, True, False, reason, message, commit)
    behind = sorted(
        name for name, cs in deployments.items() if name not in suspended and not is_true(cs, ConditionType.READY)
    )
    if behind:
        return _trio(False, True, False, Reason.CONVERGING, f"not ready: {', '.join(behind)}", commit)
    return _trio(True, False, False, Reason.CONVERGED, "every deployment is as declared", commit)


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    return any(c.type is type_ and c.status is Status.TRUE for c in conditions)


class Since:
    """Carries `since` of conditions from snapshot to snapshot, by subject and type."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ConditionType], Condition] = {}

    def stamp(self, subject: str, conditions: Iterable[Condition], wall: float) -> tuple[Condition, ...]:
        stamped = []
        for condition in conditions:
            before = self._known.get((subject, condition.type))
            same = before is not None and (before.status, before.reason) == (condition.status, condition.reason)
            new = replace(condition, since=before.since if same and before is not None else wall)
            self._known[(subject, condition.type)] = new
            stamped.append(new)
        return tuple(stamped)

    def forget_all_but(self, subjects: frozenset[str]) -> None:
        self._known = {key: value for key, value in self._known.items() if key[0] in subjects}
