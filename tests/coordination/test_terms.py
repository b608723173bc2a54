"""Who coordinates, what it asks first, and when it begins again."""

from __future__ import annotations

from dataclasses import replace

from coordination_worlds import C1, Desk, document, report, validated

from skulk.core.coordination import Announce, Ask, Durable, Local, State
from skulk.core.coordination.limits import (
    ANTI_ENTROPY_SECONDS,
    ASK_RETRY_SECONDS,
    DISCOVERY_SECONDS_MAX,
    EPOCH_MAX,
    EPOCHS_PER_ROUND,
    SETTLE_SECONDS,
)
from skulk.core.domain import NodeName, Reason


def n(*names):
    return tuple(NodeName(name) for name in names)


def test_without_an_incumbent_the_lowest_live_ordinal_coordinates():
    assert Desk().round().coordinator == "n1"
    assert Desk(observed=replace(Desk().observed, local=replace(Desk().observed.local))).lives("n2 n3 n1").round()
    assert Desk().sees(live=frozenset(n("n2", "n3"))).round().coordinator == "n1"


def test_the_incumbent_stays_although_a_lower_ordinal_is_there():
    desk = Desk().hears(report("n2", accepted=document("n3", 1).version))
    assert desk.round().coordinator == "n3"
    desk.lives("n1 n2")
    assert desk.round().coordinator == "n1"


def test_a_node_without_any_commit_or_outside_the_fleet_does_not_coordinate():
    assert Desk().sees(commits=()).round(SETTLE_SECONDS).coordinator is None
    desk = Desk().sees(commits=(validated(C1, replace(validated(C1).fleet, nodes={})),))
    assert desk.round(SETTLE_SECONDS).coordinator is None
    assert desk.state.term is None


def test_nothing_is_asked_or_published_before_the_membership_has_settled():
    desk = Desk()
    desk.round()
    assert desk.round(SETTLE_SECONDS - 0.1).actions == ()
    assert desk.reasons == {Reason.SETTLING}
    desk.lives("n1 n3").round(0.1)
    assert desk.round(SETTLE_SECONDS - 0.1).actions == ()
    desk.round(0.2)
    assert desk.want(Ask) == [Ask(n("n3"), 1)]


def test_every_live_member_is_asked_until_it_answers_and_nothing_is_published_before():
    desk = Desk().starts_term()
    assert desk.want(Ask) == [Ask(n("n2", "n3"), 1)]
    assert desk.hears(report("n2")).round(ASK_RETRY_SECONDS / 2).actions == ()
    desk.round(ASK_RETRY_SECONDS / 2)
    assert desk.outputs.actions == (Ask(n("n3"), 1),)
    assert desk.reasons == {Reason.DISCOVERING}
    desk.hears(report("n3")).round()
    assert desk.published is not None
    assert desk.published.members == {"n1", "n2", "n3"}


def test_an_answer_to_an_earlier_question_is_no_answer():
    desk = Desk().hears(report("n2"), report("n3")).starts_term()
    desk.round(ASK_RETRY_SECONDS)
    assert desk.outputs.actions == (Ask(n("n2", "n3"), 1),)


def test_a_member_that_does_not_know_yet_what_it_runs_has_not_answered():
    desk = Desk().starts_term().hears(report("n2"), report("n3", stock_taken=False))
    desk.round()
    assert desk.published is None
    own = Desk()
    own.sees(local=Local(own.observed.local.member, stock_taken=False)).starts_term().hears(report("n2"), report("n3"))
    own.round(DISCOVERY_SECONDS_MAX)
    assert own.published is None


def test_the_epoch_is_above_every_promise_also_of_those_that_are_away():
    desk = Desk().hears(report("n3", promised=3 * EPOCHS_PER_ROUND + 3)).lives("n1 n2").starts_term()
    desk.sees(local=desk.observed.local).hears(report("n2", promised=EPOCHS_PER_ROUND + 2, graced=True)).round()
    assert desk.published is not None
    assert desk.published.version.epoch == 4 * EPOCHS_PER_ROUND + 1
    restarted = Desk(state=State(Durable(2 * EPOCHS_PER_ROUND + 1))).publishes()
    assert restarted.published is not None
    assert restarted.published.version.epoch == 3 * EPOCHS_PER_ROUND + 1


def test_a_silent_member_is_left_out_after_a_while_asked_again_and_taken_in_when_it_answers():
    desk = Desk().starts_term().hears(report("n2"))
    desk.round(DISCOVERY_SECONDS_MAX - 0.1)
    assert desk.published is None
    desk.round(0.2)
    assert desk.published is not None
    assert desk.published.members == {"n1", "n2"}
    assert Reason.MEMBER_SILENT in desk.reasons
    desk.round(ANTI_ENTROPY_SECONDS)
    assert desk.want(Ask) == [Ask(n("n2", "n3"), 1)]
    desk.hears(report("n3")).round()
    assert desk.published is not None
    assert desk.published.members == {"n1", "n2", "n3"}
    assert desk.published.version.seq == 1


def test_any_membership_event_begins_a_new_term_even_when_the_set_is_the_same():
    desk = Desk().publishes()
    first = desk.state.durable.document.version
    desk.lives("n1 n2 n3").round()
    assert desk.state.term is None
    desk.round(SETTLE_SECONDS)
    assert desk.want(Ask) == [Ask(n("n2", "n3"), 2)]
    desk.hears(report("n2"), report("n3")).round()
    assert desk.published is not None
    assert (desk.published.version.epoch, desk.published.version.seq) == (first.epoch + EPOCHS_PER_ROUND, 0)


def test_a_promise_above_the_own_epoch_begins_a_new_term():
    desk = Desk().publishes()
    outbid = desk.state.durable.promised + 2
    desk.hears(report("n3", promised=outbid)).round()
    assert desk.want(Ask)
    desk.hears(report("n2"), report("n3", promised=outbid)).round()
    assert desk.published is not None
    assert desk.published.version.epoch > outbid


def test_a_coordinator_that_hears_of_a_newer_document_of_another_steps_down():
    desk = Desk().publishes()
    newer = document("n2", 2)
    desk.hears(report("n3", accepted=newer.version, promised=newer.version.epoch)).round()
    assert desk.state.term is None
    assert desk.outputs.coordinator == "n2"


def test_what_members_hold_is_compared_and_a_lost_announcement_is_made_again():
    desk = Desk().publishes()
    version = desk.state.durable.document.version
    assert desk.round(ANTI_ENTROPY_SECONDS - 0.1).actions == ()
    assert desk.round(0.1).actions == (Ask(n("n2", "n3"), 1), Announce(version))
    desk.hears(report("n2", accepted=version), report("n3", accepted=version))
    assert desk.round(ANTI_ENTROPY_SECONDS).actions == (Ask(n("n2", "n3"), 1),)


def test_a_node_that_is_not_declared_is_nobody():
    desk = Desk().lives("n1 n2 n3 n9").publishes()
    assert desk.published is not None
    assert "n9" not in desk.published.members


def test_a_promise_that_leaves_no_epoch_ends_nothing_and_is_named():
    """A member may claim any number: the coordinator's daemon must live through it."""
    desk = Desk().starts_term().hears(report("n2", promised=EPOCH_MAX), report("n3"))
    desk.round()
    assert desk.published is None
    (line,) = [line for line in desk.outputs.waiting if line.reason is Reason.DISCOVERING]
    assert "n2" in line.on
    assert str(EPOCH_MAX) in line.message
    desk.hears(report("n2")).round()
    assert desk.published is not None
