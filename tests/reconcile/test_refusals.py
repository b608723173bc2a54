"""When a node hands a placement on, and when it keeps it and waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from worlds import NODE, part, placement

from skulk.core.domain import Placement, PlacementUid, Reason, Waiting
from skulk.core.reconcile import limits
from skulk.core.reconcile.decide import Decision
from skulk.core.reconcile.ledger import Ledger, Record
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.refusals import Vetoes, veto

UID = PlacementUid("a")
ELSEWHERE = frozenset({"mlx-cpu"})


def decision(reason: Reason, record: Record) -> Decision:
    line = Waiting("a", "something", reason, "needs 2.00 GiB, 1.00 GiB are free now")
    return Decision((), (line,), Ledger({UID: record}), frozenset(), False)


def refused(given: Decision, now: float = 100.0, elsewhere: frozenset[str] = ELSEWHERE) -> Vetoes:
    placements: tuple[Placement, ...] = part(placement()).placements
    return veto(Vetoes(), NODE, placements, given, elsewhere, now)


def short_of_memory(since: float) -> Decision:
    return decision(Reason.WAITING_FOR_MEMORY, replace(Record(UID), refused_since=since))


def test_memory_is_waited_for_a_while_and_then_the_placement_is_handed_on_with_the_arithmetic():
    assert refused(short_of_memory(95.0)).refusals() == ()
    (refusal,) = refused(short_of_memory(90.0)).refusals()
    assert (refusal.node, refusal.deployment, refusal.launch_hash) == (NODE, "chat", "hash-a")
    assert refusal.reason is Reason.WAITING_FOR_MEMORY
    assert refusal.message == "needs 2.00 GiB, 1.00 GiB are free now"


def test_nothing_is_refused_that_no_other_node_could_serve():
    assert refused(short_of_memory(0.0), elsewhere=frozenset({"llama_cpp-cpu"})).refusals() == ()
    assert refused(short_of_memory(0.0), elsewhere=frozenset()).refusals() == ()


@pytest.mark.parametrize("phase", [Phase.BROKEN, Phase.WEDGED])
def test_what_keeps_failing_is_handed_on(phase: Phase):
    reason = Reason.BREAKER_OPEN if phase is Phase.BROKEN else Reason.WEDGED
    assert len(refused(decision(reason, replace(Record(UID), phase=phase))).refusals()) == 1


def test_one_failure_is_tried_again_here():
    assert refused(decision(Reason.BACKOFF, replace(Record(UID), phase=Phase.BACKOFF))).refusals() == ()
    assert refused(decision(Reason.FETCHING, Record(UID))).refusals() == ()


def test_a_model_that_cannot_be_fetched_is_handed_on():
    assert len(refused(decision(Reason.FETCH_FAILED, Record(UID))).refusals()) == 1


def test_a_veto_for_memory_runs_out_and_one_for_crashes_stays_until_somebody_resets_it():
    nothing = Decision((), (), Ledger(), frozenset(), True)
    later = 100.0 + limits.MEMORY_REFUSAL_SECONDS
    memory = refused(short_of_memory(0.0))
    assert veto(memory, NODE, (), nothing, ELSEWHERE, later - 1).refusals() == memory.refusals()
    assert veto(memory, NODE, (), nothing, ELSEWHERE, later).refusals() == ()
    broken = refused(decision(Reason.BREAKER_OPEN, replace(Record(UID), phase=Phase.BROKEN)))
    assert veto(broken, NODE, (), nothing, ELSEWHERE, 1e9).refusals() == broken.refusals()
    assert broken.without({"other"}).refusals() == broken.refusals()  # type: ignore[arg-type]
    assert broken.without({"chat"}).refusals() == ()  # type: ignore[arg-type]
