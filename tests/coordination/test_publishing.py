"""When a document is published, which commit it names, and what it is planned from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from coordination_worlds import C1, C2, C3, Desk, deployment, document, fleet, member, report, running, validated

from skulk.core.coordination import Announce, Ask, Durable, Invalid, Local, Persist, State
from skulk.core.coordination.limits import (
    COMMIT_UNSEEN_SECONDS_MAX,
    DISCOVERY_SECONDS_MAX,
    GRACE_SECONDS,
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
)
from skulk.core.domain import ConditionType, NodeName, Quorum, Reason

BOTH = frozenset({C1, C2})


def in_force(*, wanted=None, second=None):
    """A desk with C1 in force on all three, and C2 accepted on n1 alone."""
    desk = Desk().sees(commits=(validated(C1, wanted),)).publishes()
    version = desk.state.durable.document.version
    for name in ("n2", "n3"):
        desk.hears(report(name, accepted=version, promised=version.epoch))
    return desk.sees(commits=(validated(C1, wanted), validated(C2, second)))


def commit_of(desk):
    return desk.state.durable.document.commit


def test_a_document_is_on_disk_before_it_is_announced():
    desk = Desk().publishes()
    held = desk.state.durable.document
    kinds = [type(action) for action in desk.outputs.actions if not isinstance(action, Ask)]
    assert kinds == [Persist, Announce]
    assert desk.want(Persist) == [Persist(Durable(held.version.epoch, held))]


def test_the_same_inputs_are_not_planned_twice_and_the_same_answer_is_not_published_twice():
    desk = Desk().publishes()
    desk.round()
    version, planned = desk.state.durable.document.version, len(desk.planned)
    desk.round(1.0)
    assert len(desk.planned) == planned
    placement = next(p for p in desk.state.durable.document.blueprint.placements if p.nodes == ("n2",))
    done = report("n2", accepted=version, running=(running(placement, "n2"),))
    desk.hears(done).round()
    assert len(desk.planned) == planned + 1
    assert desk.published is None


def test_a_change_within_the_term_is_a_complete_document_with_the_next_seq():
    desk = Desk().publishes()
    first = desk.state.durable.document
    desk.hears(report("n3", member=replace(member("n3"), builds=()))).round()
    second = desk.published
    assert second is not None
    assert second.version.key == (first.version.epoch, first.version.seq + 1)
    assert {p.deployment for p in second.blueprint.placements} == {"chat", "code"}


# --- how a commit comes into force ------------------------------------------------------------------------------


def test_a_commit_comes_into_force_when_every_live_member_has_validated_it():
    desk = in_force()
    desk.hears(report("n2", validated=BOTH)).round()
    assert commit_of(desk) == C1
    assert Reason.COMMIT_NOT_SEEN in desk.reasons
    desk.hears(report("n3", validated=BOTH)).round()
    assert commit_of(desk) == C2


def test_a_member_that_calls_the_commit_invalid_blocks_it_by_name_however_long():
    desk = in_force()
    refused = Invalid(C2, "fleet/deployments/chat.yaml:7:3 unknown field")
    desk.hears(report("n2", validated=BOTH), report("n3", invalid=(refused,)))
    for _ in range(4):
        desk.round(COMMIT_UNSEEN_SECONDS_MAX / 2)
        assert commit_of(desk) == C1
        (condition,) = desk.outputs.conditions
        assert (condition.type, condition.reason, condition.commit) == (
            ConditionType.STALLED,
            Reason.COMMIT_BLOCKED,
            C2,
        )
        assert "n3: fleet/deployments/chat.yaml:7:3" in condition.message
    desk.sees(commits=(*desk.observed.commits, validated(C3)))
    desk.hears(report("n2", validated=frozenset({C1, C3})), report("n3", validated=frozenset({C1, C3}))).round()
    assert commit_of(desk) == C3
    assert desk.outputs.conditions == ()


def test_a_blocked_commit_does_not_keep_an_earlier_valid_one_from_coming_into_force():
    desk = in_force()
    desk.sees(commits=(*desk.observed.commits, validated(C3)))
    desk.hears(report("n2", validated=BOTH), report("n3", validated=BOTH, invalid=(Invalid(C3, "a.yaml:1:1"),))).round()
    assert commit_of(desk) == C2


def test_members_that_have_not_seen_the_commit_are_passed_over_after_a_while_and_keep_what_they_have():
    more = fleet(3, deployment("chat", replicas=2), deployment("code"), deployment("new", replicas=3))
    desk = in_force(second=more)
    before = {p.uid for p in desk.state.durable.document.blueprint.on_node(NodeName("n3"))}
    assert before
    desk.hears(report("n2", validated=BOTH)).round()
    desk.round(COMMIT_UNSEEN_SECONDS_MAX - 0.1)
    assert commit_of(desk) == C1
    desk.round(0.2)
    after = desk.state.durable.document
    assert after.commit == C2
    assert after.members == {"n1", "n2"}
    assert {p.uid for p in after.blueprint.on_node(NodeName("n3"))} <= before
    assert "new" not in {p.deployment for p in after.blueprint.on_node(NodeName("n3"))}
    desk.hears(report("n3", validated=BOTH)).round()
    assert desk.state.durable.document.members == {"n1", "n2", "n3"}


def test_a_commit_in_force_is_not_blocked_any_more_by_a_member_that_comes_later():
    desk = Desk().starts_term()
    desk.hears(report("n2"), report("n3", validated=frozenset(), invalid=(Invalid(C1, "a.yaml:1:1"),)))
    desk.hears(report("n2", accepted=document("n1", 1).version)).round()
    assert desk.published is not None
    assert desk.published.members == {"n1", "n2"}
    assert [c.reason for c in desk.outputs.conditions] == [Reason.COMMIT_BLOCKED]


def test_no_document_names_an_older_commit_than_one_a_live_member_acts_on():
    desk = Desk().starts_term()
    newer = document("n9", 1, commit=C2).version
    desk.hears(report("n2", validated=BOTH, accepted=newer), report("n3")).round()
    assert desk.published is None
    assert Reason.COMMIT_NOT_SEEN in desk.reasons
    desk.sees(commits=(validated(C1), validated(C2))).round()
    assert desk.published is not None
    assert desk.published.commit == C2


def test_a_commit_that_cannot_be_had_delays_for_a_while_only():
    desk = Desk().starts_term()
    desk.hears(report("n2", accepted=document("n9", 1, commit=C2).version), report("n3")).round()
    desk.round(COMMIT_UNSEEN_SECONDS_MAX + 0.1)
    assert desk.published is not None
    assert desk.published.commit == C1


# --- gates --------------------------------------------------------------------------------------------------------


def test_declared_nodes_have_their_grace_before_anything_is_planned_without_them():
    desk = Desk().lives("n1 n2").starts_term().hears(report("n2"))
    desk.round(GRACE_SECONDS - SETTLE_SECONDS - 0.1)
    assert desk.published is None
    assert Reason.WAITING_FOR_NODES in desk.reasons
    desk.round(0.2)
    assert desk.published is not None


def test_a_member_that_was_there_before_vouches_that_the_others_had_their_grace():
    desk = Desk().lives("n1 n2").starts_term().hears(report("n2", graced=True))
    desk.round()
    assert desk.published is not None


def test_a_fresh_node_that_sees_only_itself_never_publishes_that_nothing_is_placed():
    desk = Desk().lives("n1")
    desk.sees(local=Local(replace(member("n1"), builds=()))).starts_term()
    for _ in range(20):
        desk.round(GRACE_SECONDS / 5)
        assert desk.published is None
    assert desk.reasons == {Reason.NOTHING_TO_PUBLISH}


def test_a_fleet_of_one_node_says_at_once_that_nothing_can_be_placed():
    desk = Desk().sees(commits=(validated(C1, fleet(1)),)).lives("n1")
    desk.sees(local=Local(replace(member("n1"), builds=()))).starts_term()
    assert desk.published is not None
    assert desk.published.blueprint.unplaced


@pytest.mark.parametrize(("count", "publishes"), [(3, True), (4, False)])
def test_majority_counts_the_node_manifests(count, publishes):
    desk = Desk().sees(commits=(validated(C1, fleet(count, quorum=Quorum.MAJORITY)),)).lives("n1 n2")
    desk.starts_term().hears(report("n2", graced=True)).round()
    assert (desk.published is not None) is publishes
    assert (Reason.NO_MAJORITY in desk.reasons) is not publishes


def test_a_silent_member_does_not_count_for_the_majority():
    desk = Desk().sees(commits=(validated(C1, fleet(3, quorum=Quorum.MAJORITY)),)).starts_term()
    desk.round(DISCOVERY_SECONDS_MAX)
    assert desk.published is None
    assert Reason.NO_MAJORITY in desk.reasons


# --- what it is planned from --------------------------------------------------------------------------------------


def placed(desk, name):
    return {p.uid for p in desk.state.durable.document.blueprint.on_node(NodeName(name))}


def served(desk, name):
    """The report of a node that runs what the last document gives it."""
    held = desk.state.durable.document
    return tuple(running(p, name) for p in held.blueprint.on_node(NodeName(name)))


def test_what_a_lost_node_ran_is_not_placed_elsewhere_while_one_is_patient_with_it():
    desk = Desk().publishes()
    version = desk.state.durable.document.version
    ran = placed(desk, "n3")
    assert ran
    desk.hears(report("n3", running=served(desk, "n3"), accepted=version))
    desk.hears(report("n2", running=served(desk, "n2"), accepted=version)).round()
    desk.lives("n1 n2").starts_term()
    desk.hears(report("n2", running=served(desk, "n2"), accepted=version)).round()
    assert desk.published is not None
    assert placed(desk, "n3") == ran
    desk.round(PATIENCE_SECONDS)
    assert placed(desk, "n3") == set()
    assert len(desk.state.durable.document.blueprint.placements) == 3


def test_nobody_is_patient_with_a_node_that_said_goodbye():
    desk = Desk().publishes()
    desk.lives("n1 n2", departed=frozenset({NodeName("n3")})).starts_term().hears(report("n2")).round()
    assert desk.published is not None
    assert placed(desk, "n3") == set()


def test_what_a_silent_member_runs_is_kept_however_long():
    desk = Desk().publishes()
    ran = placed(desk, "n3")
    desk.lives("n1 n2 n3").starts_term().hears(report("n2"))
    desk.round(DISCOVERY_SECONDS_MAX)
    assert desk.published is not None
    assert desk.published.members == {"n1", "n2"}
    desk.round(10 * PATIENCE_SECONDS)
    assert placed(desk, "n3") == ran


def test_what_was_given_to_a_member_is_not_given_to_another_before_it_had_time_to_say_so():
    desk = Desk().publishes()
    given = {name: placed(desk, name) for name in ("n1", "n2", "n3")}
    desk.sees(local=replace(desk.observed.local, member=replace(member("n1"), memory_bytes=2 * 2**40))).round()
    assert {name: placed(desk, name) for name in given} == given


def test_a_node_nobody_heard_of_since_the_restart_is_known_from_the_document():
    first = Desk().publishes()
    ran = placed(first, "n3")
    again = Desk(state=State(first.state.durable)).lives("n1 n2").starts_term()
    again.hears(report("n2", graced=True)).round()
    assert again.published is not None
    assert placed(again, "n3") == ran
    kept = [entry for entry in again.planned[-1][2] if entry.node == "n3"]
    assert [entry.complete for entry in kept] == [False] * len(kept)
