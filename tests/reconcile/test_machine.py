"""The table of a placement's life: total, closed, and the only way to move."""

import pytest

from skulk.core.reconcile.machine import TRANSITIONS, IllegalTransition, Phase, RunnerEvent, allows, diagram, step


def test_every_phase_has_a_row_and_every_target_is_a_phase():
    assert set(TRANSITIONS) == set(Phase)
    for edges in TRANSITIONS.values():
        assert set(edges) <= set(RunnerEvent)
        assert set(edges.values()) <= set(Phase)


def test_every_event_is_used():
    assert {event for edges in TRANSITIONS.values() for event in edges} == set(RunnerEvent)


def test_every_phase_can_be_reached_and_can_end():
    reached = {Phase.PENDING}
    while True:
        more = {target for phase in reached for target in TRANSITIONS[phase].values()} - reached
        if not more:
            break
        reached |= more
    assert reached == set(Phase)
    ends = {Phase.GONE}
    while True:
        more = {p for p, edges in TRANSITIONS.items() if ends & set(edges.values())} - ends
        if not more:
            break
        ends |= more
    assert ends == set(Phase)


def test_an_unlisted_pair_is_an_error_that_names_both():
    with pytest.raises(IllegalTransition, match=r"ready seen.*Wedged"):
        step(Phase.WEDGED, RunnerEvent.READY_SEEN)
    assert not allows(Phase.WEDGED, RunnerEvent.READY_SEEN)


def test_a_wedge_leads_nowhere_but_to_a_reset_or_the_end():
    assert set(TRANSITIONS[Phase.WEDGED]) == {RunnerEvent.RESET, RunnerEvent.ENDED}


def test_the_diagram_shows_every_edge():
    text = diagram()
    for phase, edges in TRANSITIONS.items():
        for event, target in edges.items():
            assert any(
                line.strip().startswith(f"{phase.value} --> {target.value}:") and event.value in line
                for line in text.splitlines()
            )
