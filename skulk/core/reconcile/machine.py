"""The life of one placement on its node, as one table.

Everything that may move a placement from one phase to another is in `TRANSITIONS`; a pair that is not listed is
a mistake in our code and raises `IllegalTransition`. The diagram in docs/reference/runner-states.md is drawn from
the table. This module knows nothing of how events are observed or what is done about a phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Phase(StrEnum):
    PENDING = "Pending"
    """Nothing runs; files, memory or a predecessor are waited for."""
    STARTING = "Starting"
    LOADING = "Loading"
    WARMING = "WarmingUp"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPING = "Stopping"
    BACKOFF = "Backoff"
    """It failed and is tried again at a known time."""
    BROKEN = "BreakerOpen"
    """It failed too often: inputs must change or a person resets."""
    WEDGED = "Wedged"
    """It hung: never tried again here with these inputs."""
    GONE = "Gone"


class RunnerEvent(StrEnum):
    START_ORDERED = "start ordered"
    LOADING_SEEN = "loading seen"
    WARMING_SEEN = "warm-up seen"
    READY_SEEN = "ready seen"
    DRAINING_SEEN = "draining seen"
    DRAIN_ORDERED = "drain ordered"
    STOP_ORDERED = "stop ordered"
    FAILED = "failed"
    FAILED_TOO_OFTEN = "failed too often"
    HUNG = "hung"
    RETRY_DUE = "retry due"
    RESET = "reset"
    ENDED = "ended"


_LIVE_END: Mapping[RunnerEvent, Phase] = {
    RunnerEvent.STOP_ORDERED: Phase.STOPPING,
    RunnerEvent.FAILED: Phase.BACKOFF,
    RunnerEvent.FAILED_TOO_OFTEN: Phase.BROKEN,
    RunnerEvent.HUNG: Phase.WEDGED,
}
_DEAD_END: Mapping[RunnerEvent, Phase] = {
    RunnerEvent.RESET: Phase.PENDING,
    RunnerEvent.ENDED: Phase.GONE,
}

TRANSITIONS: Mapping[Phase, Mapping[RunnerEvent, Phase]] = {
    Phase.PENDING: {
        RunnerEvent.START_ORDERED: Phase.STARTING,
        # A runner that an earlier daemon started is met in whatever phase it has reached.
        RunnerEvent.LOADING_SEEN: Phase.LOADING,
        RunnerEvent.WARMING_SEEN: Phase.WARMING,
        RunnerEvent.READY_SEEN: Phase.READY,
        RunnerEvent.DRAINING_SEEN: Phase.DRAINING,
        RunnerEvent.ENDED: Phase.GONE,
        **_LIVE_END,
    },
    Phase.STARTING: {
        RunnerEvent.LOADING_SEEN: Phase.LOADING,
        RunnerEvent.WARMING_SEEN: Phase.WARMING,
        RunnerEvent.READY_SEEN: Phase.READY,
        RunnerEvent.DRAINING_SEEN: Phase.DRAINING,
        **_LIVE_END,
    },
    Phase.LOADING: {
        RunnerEvent.WARMING_SEEN: Phase.WARMING,
        RunnerEvent.READY_SEEN: Phase.READY,
        RunnerEvent.DRAINING_SEEN: Phase.DRAINING,
        **_LIVE_END,
    },
    Phase.WARMING: {
        RunnerEvent.READY_SEEN: Phase.READY,
        RunnerEvent.DRAINING_SEEN: Phase.DRAINING,
        **_LIVE_END,
    },
    Phase.READY: {
        RunnerEvent.DRAIN_ORDERED: Phase.DRAINING,
        RunnerEvent.DRAINING_SEEN: Phase.DRAINING,
        **_LIVE_END,
    },
    # Whatever ends a runner that is on its way out, it has ended.
    Phase.DRAINING: {RunnerEvent.STOP_ORDERED: Phase.STOPPING, RunnerEvent.ENDED: Phase.GONE},
    Phase.STOPPING: {RunnerEvent.ENDED: Phase.GONE},
    Phase.BACKOFF: {
        RunnerEvent.RETRY_DUE: Phase.PENDING,
        # It was given up on facts that came late, and lives after all.
        RunnerEvent.LOADING_SEEN: Phase.LOADING,
        RunnerEvent.WARMING_SEEN: Phase.WARMING,
        RunnerEvent.READY_SEEN: Phase.READY,
        RunnerEvent.DRAINING_SEEN: Phase.DRAINING,
        **_DEAD_END,
    },
    Phase.BROKEN: _DEAD_END,
    Phase.WEDGED: _DEAD_END,
    # A placement that is wanted again after it had gone (a revert of a revert) starts afresh.
    Phase.GONE: {RunnerEvent.RESET: Phase.PENDING},
}


class IllegalTransition(AssertionError):
    """An event in a phase that the table does not allow."""


def step(phase: Phase, event: RunnerEvent) -> Phase:
    """The next phase. Raises IllegalTransition for a pair that is not in the table."""
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise IllegalTransition(f"{event.value!r} cannot happen in phase {phase.value}") from None


def allows(phase: Phase, event: RunnerEvent) -> bool:
    return event in TRANSITIONS[phase]


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> Pending"]
    for phase, edges in TRANSITIONS.items():
        by_target: dict[Phase, list[str]] = {}
        for event, target in edges.items():
            by_target.setdefault(target, []).append(event.value)
        lines += [f"    {phase.value} --> {target.value}: {', '.join(by_target[target])}" for target in by_target]
    lines.append("    Gone --> [*]")
    return "\n".join(lines) + "\n"
