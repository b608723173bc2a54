"""Which documents a node takes, and what it does before and after."""

from __future__ import annotations

import pytest
from coordination_worlds import C1, C2, C3, Desk, document, fleet, report, validated

from skulk.core.coordination import (
    DocumentError,
    Durable,
    FetchBody,
    Invalid,
    Local,
    Obtain,
    Persist,
    State,
    compose,
    epoch_after,
    objection,
    read,
)
from skulk.core.coordination.limits import EPOCHS_PER_ROUND, FETCH_RETRY_SECONDS
from skulk.core.domain import Blueprint, CommitId, NodeName, Reason
from skulk.core.manifests.node_model import ORDINAL_MAX


def holding(*documents, promised=0):
    """A desk of n1, coordinated by others, with these fetched."""
    desk = Desk()
    desk.state = State(Durable(promised, None))
    return desk.sees(bodies={d.version.digest: d for d in documents}).hears(report("n2"), report("n3"))


def accepted(desk):
    desk.round()
    return desk.state.durable.document


def test_a_document_survives_its_bytes_and_the_digest_is_over_them():
    made = document("n2", 3, 4)
    assert read(made.body) == made
    assert read(made.body.replace(b'"author"', b'"later":1,"author"')).version.digest != made.version.digest


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"author":"n1","members":["n1"]}',
        document("n2", 1).body.replace(b'"n2"', b"7", 1),
        document("n2", 1).body.replace(b'["n1","n2","n3"]', b"[1]"),
        document("n2", 1).body.replace(b'"seq":0', b'"seq":-1'),
        document("n2", 1).body.replace(b'"epoch":2', b'"epoch":0'),
        document("n2", 1).body.replace(b'"epoch":2', b'"epoch":99999999999999999999'),
    ],
)
def test_bytes_that_are_no_document_are_an_error_of_that_name(body):
    with pytest.raises(DocumentError):
        read(body)


def test_epochs_of_two_nodes_never_meet_and_the_next_one_is_above_the_highest_promise():
    assert EPOCHS_PER_ROUND > ORDINAL_MAX
    mine = [epoch_after(highest, 2) for highest in (0, 1, 2, 3, EPOCHS_PER_ROUND + 1)]
    assert mine == [2, 2, EPOCHS_PER_ROUND + 2, EPOCHS_PER_ROUND + 2, EPOCHS_PER_ROUND + 2]
    theirs = {epoch_after(highest, 3) for highest in range(10)}
    assert theirs.isdisjoint(mine)


def test_the_newest_document_by_epoch_and_seq_is_taken_and_is_on_disk_before_anything_else():
    desk = holding(document("n2", 1), document("n3", 2), document("n2", 1, 5))
    assert accepted(desk) == document("n3", 2)
    assert desk.outputs.actions[0] == Persist(Durable(document("n3", 2).version.epoch, document("n3", 2)))


def test_a_document_that_was_not_made_for_this_node_is_not_taken():
    assert accepted(holding(document("n2", 1, members="n2 n3"))) is None


def test_a_document_of_an_epoch_below_the_promise_is_not_taken():
    assert accepted(holding(document("n2", 1), promised=3)) is None
    assert accepted(holding(document("n2", 1), promised=2)) == document("n2", 1)


def test_a_replayed_older_document_is_not_taken():
    desk = holding(document("n2", 1, 3))
    desk.round()
    desk.sees(bodies={d.version.digest: d for d in (document("n2", 1, 2), document("n2", 1, 3))})
    assert accepted(desk) == document("n2", 1, 3)
    assert desk.outputs.actions == ()


def test_an_epoch_has_one_coordinator():
    desk = holding(document("n2", 1))
    desk.round()
    number = document("n2", 1).version.epoch
    forged = compose(NodeName("n3"), [NodeName("n1")], Blueprint(C1, epoch=number, seq=9))
    said = objection(forged, desk.state, desk.observed)
    assert said is not None
    assert "epoch 2 is n2's" in said.message


def test_an_epoch_that_is_not_the_authors_is_not_taken():
    forged = compose(NodeName("n3"), [NodeName("n1")], Blueprint(C1, epoch=EPOCHS_PER_ROUND + 2))
    assert accepted(holding(forged)) is None
    unknown = compose(NodeName("n9"), [NodeName("n1")], Blueprint(C1, epoch=9))
    assert accepted(holding(unknown)) is None


def test_a_document_with_an_older_commit_is_not_taken_whatever_its_epoch():
    desk = holding(document("n2", 1, commit=C2)).sees(commits=(validated(C1), validated(C2)))
    desk.round()
    newer = document("n3", 5, commit=C1)
    desk.sees(bodies={newer.version.digest: newer})
    assert accepted(desk) == document("n2", 1, commit=C2)


def test_the_order_is_that_of_documents_not_of_commits():
    desk = holding(document("n2", 1, commit=C2), document("n3", 2, commit=C1))
    assert accepted(desk.sees(commits=(validated(C1), validated(C2)))) == document("n3", 2, commit=C1)


def test_a_document_whose_commit_was_not_validated_here_waits_and_the_commit_is_got_from_who_has_it():
    newer = document("n2", 1, commit=C2)
    desk = holding(newer).sees(announced=(newer.version,)).hears(report("n2", accepted=newer.version))
    assert accepted(desk) is None
    assert desk.reasons == {Reason.COMMIT_NOT_SEEN}
    assert desk.want(Obtain) == [Obtain(C2, (NodeName("n2"),))]
    assert accepted(desk.sees(commits=(validated(C1), validated(C2)))) == newer


def test_a_commit_known_to_be_older_or_invalid_is_not_got():
    desk = holding().hears(report("n2", validated=frozenset({C1, C2, C3})))
    desk.sees(ancestors=frozenset({C2}), local=Local(desk.observed.local.member, invalid=(Invalid(C3, "x.yaml:1:1"),)))
    desk.round()
    assert desk.want(Obtain) == []


def test_a_body_is_fetched_from_its_author_or_any_holder_and_asked_for_again():
    version = document("n2", 1).version
    desk = holding().sees(announced=(version,)).hears(report("n3", accepted=version))
    desk.round()
    assert desk.want(FetchBody) == [FetchBody(version, (NodeName("n2"), NodeName("n3")))]
    assert desk.round(FETCH_RETRY_SECONDS / 2).actions == ()
    desk.round(FETCH_RETRY_SECONDS / 2)
    assert desk.want(FetchBody) == [FetchBody(version, (NodeName("n2"), NodeName("n3")))]
    desk.lives("n1 n3").round(FETCH_RETRY_SECONDS)
    assert desk.want(FetchBody) == [FetchBody(version, (NodeName("n3"),))]


def test_an_announcement_without_its_body_promises_nothing():
    desk = holding().sees(announced=(document("n2", 7).version,))
    desk.round()
    assert desk.state.durable == Durable()


def test_a_daemon_that_restarts_holds_its_own_last_document():
    kept = Durable(2, document("n2", 1))
    desk = Desk(state=State(kept))
    assert desk.round().coordinator == "n2"
    assert desk.state.durable == kept


def test_a_commit_that_is_not_in_this_nodes_history_any_more_does_not_hold_documents_back():
    desk = Desk(state=State(Durable(2, document("n2", 1, commit=CommitId("0" * 40)))))
    newer = document("n2", 1, 1, commit=C1)
    assert accepted(desk.sees(bodies={newer.version.digest: newer}, commits=(validated(C1, fleet()),))) == newer
