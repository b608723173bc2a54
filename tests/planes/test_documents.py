"""Documents: only an author's own, newest word counts, whoever brings it."""

from __future__ import annotations

import itertools

import pytest

from skulk.core.domain import BootId, Life, NodeName, Topic
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.envelope import Envelope, Verify, seal
from skulk.core.wire.planes_documents import Documents, document_envelope

FLEET = "skulk/f"
A, B = NodeName("a"), NodeName("b")
A1, A2 = Life(A, BootId("a1"), 1), Life(A, BootId("a2"), 2)
B1 = Life(B, BootId("b1"), 1)


def trusting(*nodes: str) -> Verify:
    return lambda author, data, signature: author in nodes and signature == author.encode()


def sealed(life: Life, seq: int, body: bytes, *, by: str | None = None, fleet: str = FLEET) -> bytes:
    envelope = document_envelope(fleet, Topic.STATUS, life, seq, body)
    return seal(envelope, lambda data: (life.node if by is None else by).encode())


def current(documents: Documents, node: NodeName = A) -> bytes | None:
    document = documents.view()[Topic.STATUS].get(node)
    return None if document is None else document.body


STATUS_A = keys.document(Topic.STATUS, A)
STATUS_B = keys.document(Topic.STATUS, B)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_newest_by_life_and_number_wins_in_every_order(order: tuple[int, ...]):
    versions = [(A1, 1), (A1, 9), (A2, 1), (A2, 3)]
    documents = Documents(FLEET)
    for index in order:
        life, seq = versions[index]
        documents.take(STATUS_A, sealed(life, seq, f"{life.number}.{seq}".encode()), trusting("a"))
    assert current(documents) == b"2.3"


def test_an_old_one_that_is_repeated_changes_nothing_and_is_counted():
    documents = Documents(FLEET)
    old, new = sealed(A1, 1, b"old"), sealed(A1, 2, b"new")
    assert documents.take(STATUS_A, old, trusting("a")) is not None
    assert documents.take(STATUS_A, new, trusting("a")) is not None
    assert documents.take(STATUS_A, new, trusting("a")) is None
    assert documents.refused == {}, "the same one again is ordinary"
    assert documents.take(STATUS_A, old, trusting("a")) is None
    assert current(documents) == b"new"
    assert documents.refused == {"older than what is known": 1}


def test_a_member_cannot_write_for_another():
    documents = Documents(FLEET)
    both = trusting("a", "b")
    assert documents.take(STATUS_A, sealed(A1, 5, b"forged", by="b"), both) is None
    assert documents.take(STATUS_A, sealed(B1, 5, b"on the wrong key"), both) is None
    assert documents.take(keys.document(Topic.MEMBER, A), sealed(A1, 5, b"wrong topic"), both) is None
    assert documents.take(STATUS_A, sealed(A1, 5, b"wrong fleet", fleet="skulk/g"), both) is None
    assert current(documents) is None
    assert sum(documents.refused.values()) == 4


def test_a_stranger_is_not_believed_until_a_commit_names_it():
    documents = Documents(FLEET)
    assert documents.take(STATUS_B, sealed(B1, 1, b"hello"), trusting("a")) is None
    assert documents.judge_again({A, B}, trusting("a", "b"))
    assert current(documents, B) == b"hello"
    assert not documents.judge_again({A, B}, trusting("a", "b"))
    assert documents.judge_again({A}, trusting("a"))
    assert current(documents, B) is None


def test_a_snapshot_does_not_change_any_more():
    documents = Documents(FLEET)
    documents.take(STATUS_A, sealed(A1, 1, b"one"), trusting("a"))
    before = documents.view()
    documents.take(STATUS_A, sealed(A1, 2, b"two"), trusting("a"))
    assert before[Topic.STATUS][A].body == b"one"


def test_an_envelope_for_one_reader_is_no_document():
    documents = Documents(FLEET)
    private = seal(Envelope(FLEET, "doc/status", A1, 1, b"", to="b/b1"), lambda data: b"a")
    assert documents.take(STATUS_A, private, trusting("a")) is None
