"""When a node publishes its share, and how the others' shares are read."""

from __future__ import annotations

from dataclasses import replace

from structlog.testing import capture_logs

from skulk.core.domain import BootId, Document, Life, NodeName, Share, Topic
from skulk.core.reconcile.machine import Phase
from skulk.core.wire.planes_share import decode_share, encode_share
from skulk.node.share import SHARE_SECONDS, Shares, Sharing, runner_load
from tests.node.fleetworld import GIB, A, B, C, World, fetching, world


def document(name: NodeName, body: bytes, seq: int = 1) -> Document:
    return Document(Topic.SHARE, Life(name, BootId("boot"), 1), seq, body)


def loading(made: World, share: float) -> Share:
    made.start(B, Phase.LOADING, load_share=share)
    return made.share(B)


def test_news_is_published_at_once_and_nothing_twice() -> None:
    made, sent = world("b c"), list[bytes]()
    sharing = Sharing(sent.append)
    first = made.share(B)
    assert sharing.offer(first, 0.0)
    assert not sharing.offer(made.share(B), 100.0)
    made.start(B)
    assert sharing.offer(made.share(B), 100.0)
    assert [decode_share(body, B) for body in sent] == [first, made.share(B)]


def test_mere_numbers_are_published_now_and_then() -> None:
    made, sent = world("b c"), list[bytes]()
    sharing = Sharing(sent.append)
    assert sharing.offer(loading(made, 0.1), 10.0)
    assert not sharing.offer(loading(made, 0.2), 10.0 + SHARE_SECONDS / 2)
    assert sharing.offer(loading(made, 0.3), 10.0 + SHARE_SECONDS)
    made.weights[B] = fetching(1)
    assert sharing.offer(made.share(B), 10.1 + SHARE_SECONDS), "a fetch began"
    made.weights[B] = fetching(2)
    assert not sharing.offer(made.share(B), 10.2 + SHARE_SECONDS)
    made.start(B)
    assert sharing.offer(made.share(B), 10.3 + SHARE_SECONDS), "it is ready: whoever waits must not wait longer"


def test_a_share_is_of_its_own_node_alone() -> None:
    made = world("b c")
    assert made.share(B).placements == (), "what is planned for it and not begun"
    on_b, on_c = made.start(B), made.start(C)
    share = made.share(B, lambda p: replace(p, shares={C: made.share(C)}))
    assert [p.name for p in share.placements] == [r.name for r in share.runners] == [on_b]
    assert on_c not in [r.uid for r in share.routes]
    assert made.share(A).placements == (), "what is planned elsewhere is not its word"


def test_the_load_of_runners_as_a_reading() -> None:
    made = world("b c")
    uid = made.start(B, running=2, waiting=1)
    assert runner_load(made.picture(B).runners) == {uid: [2, 1]}


def test_a_document_is_read_once_and_unchanged_shares_stay_the_same_objects() -> None:
    made, shares = world("b c"), Shares()
    documents = {name: document(name, encode_share(made.share(name))) for name in (A, B, C)}
    first = shares.read(documents, A)
    assert set(first) == {B, C}
    assert shares.read(dict(documents), A) is first
    documents[C] = document(C, encode_share(replace(made.share(C), closing=True)), 2)
    second = shares.read(documents, A)
    assert second[B] is first[B]
    assert second[C].closing
    del documents[C]
    assert set(shares.read(documents, A)) == {B}


def test_a_share_that_cannot_be_read_is_told_once_and_hides_no_other() -> None:
    made, shares = world("b c"), Shares()
    forged = document(C, encode_share(made.share(B)))
    documents = {B: document(B, encode_share(made.share(B))), C: forged}
    with capture_logs() as logs:
        assert set(shares.read(documents, A)) == {B}
        assert set(shares.read(documents, A)) == {B}
    assert [(entry["event"], entry["of"]) for entry in logs] == [("share_unreadable", "c")]


def test_a_share_of_many_placements_stays_small() -> None:
    made = world("b c")
    made.start(B)
    share = made.share(B)
    many = replace(
        share,
        placements=tuple(replace(share.placements[0], name=f"{i:016x}") for i in range(20)),
        runners=tuple(replace(share.runners[0], name=f"{i:016x}") for i in range(20)),
    )
    assert len(encode_share(many)) < 20 * 3_000 < GIB
