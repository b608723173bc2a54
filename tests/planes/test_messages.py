"""Messages of the planes: out what went in, and MessageError for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.coordination import Version
from skulk.core.coordination import planes_report as reports
from skulk.core.domain import (
    Accepted,
    BootId,
    CommitId,
    EngineBuild,
    Finish,
    Life,
    Member,
    NodeName,
    PlacementUid,
    Tokens,
)
from skulk.core.errors import REQ_INTERNAL, REQ_QUEUE_FULL, RequestError, RetriableRefusal
from skulk.core.wire import planes_documents as documents
from skulk.core.wire import planes_messages as messages
from skulk.core.wire.fields import Fields
from skulk.core.wire.planes_messages import Failed, MessageError, Numbered, Receipt, Submit, Withdraw
from tests.planes.planeworlds import a_request

ME = Life(NodeName("a"), BootId("boot"), 7)
ENTRIES = (
    Numbered("s1", 1, Accepted((1, 2), 2, 1, True, 50)),
    Numbered("s1", 2, Tokens(1, (5, 6), "🦊".encode()[:3])),
    Numbered("s2", 9, Tokens(8, (), b"", Finish.ERROR, "why")),
    Numbered("s3", 1, Failed("SK-REQ-006", "full", 503, "server_error", "queue_full", None, 3, True)),
)
DECODERS: list[Callable[[bytes], Any]] = [
    messages.decode_submit,
    messages.decode_withdraw,
    messages.decode_frames,
    messages.decode_receipts,
    messages.decode_gone,
    messages.decode_reading,
    messages.decode_failed,
    reports.decode_announcement,
    lambda data: reports.decode_report(data, ME.node),
]


def test_out_comes_what_went_in():
    submit = Submit(PlacementUid("p"), "secret", a_request())
    assert messages.decode_submit(messages.encode_submit(submit)) == submit
    withdraw = Withdraw("secret", "gone \ud800 away")
    assert messages.decode_withdraw(messages.encode_withdraw(withdraw)) == withdraw
    assert messages.decode_frames(messages.encode_frames(ENTRIES)) == ENTRIES
    receipts = (Receipt("s", 4), Receipt("t", -1, True))
    assert messages.decode_receipts(messages.encode_receipts(receipts)) == receipts
    assert messages.decode_gone(messages.encode_gone(["s", "t"])) == ("s", "t")
    measured = messages.decode_reading(messages.encode_reading(ME, 3, 1.5, {"x": None}))
    assert (measured.boot, measured.life, measured.seq, measured.taken_at) == ("boot", 7, 3, 1.5)
    assert measured.values == {"x": None}


def test_records_survive_the_way():
    announcement = Version(3, 4, NodeName("b"), CommitId("c" * 40), "d" * 64)
    assert reports.decode_announcement(reports.encode_announcement(announcement)) == announcement
    build = EngineBuild("mlx-cpu", "mlx", "0.32", "digest", "cpu", False, 2**30)
    member = Member(ME.node, ME.boot, 2**34, (build,), frozenset("xy"), "linux", "arm64", "0.1", CommitId("c"), 5)
    assert documents.member_from_json(Fields(documents.member_to_json(member))) == member


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 2**63},
        {"epoch": -1},
        {"seq": 2**70},
        {"digest": "d" * 63},
        {"digest": "*/" * 32},
        {"digest": "D" * 64},
    ],
    ids=str,
)
def test_an_announcement_that_could_not_be_fetched_or_ordered_is_none(wrong: dict[str, object]):
    announcement = Version(3, 4, NodeName("b"), CommitId("c" * 40), "d" * 64)
    data = json.loads(reports.encode_announcement(announcement)) | wrong
    with pytest.raises(MessageError):
        reports.decode_announcement(json.dumps(data).encode())


def test_an_error_is_the_same_at_the_owner():
    error = RetriableRefusal(
        REQ_QUEUE_FULL, "full", status=503, kind="server_error", slug="queue_full", retry_after_seconds=2
    )
    back = messages.error_of(messages.decode_failed(messages.encode_failed(messages.failed_of(error))))
    assert (type(back), back.code, back.message, back.status, back.slug, back.retry_after_seconds) == (
        RetriableRefusal,
        REQ_QUEUE_FULL,
        "full",
        503,
        "queue_full",
        2,
    )


def test_an_error_of_a_newer_version_is_still_an_error():
    back = messages.error_of(Failed("SK-NEW-999", "new", 200, "server_error"))
    assert (type(back), back.code, back.status) == (RequestError, REQ_INTERNAL, 502)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"ids": []},
        {"n": 1, "ids": [True]},
        {"n": 1, "ids": [], "finish": "tired"},
        {"n": 1, "ids": [], "data": "?"},
    ],
    ids=str,
)
def test_tokens_of_a_wrong_shape_are_a_message_error(wrong: object):
    data = json.dumps({"e": [{"s": "s", "#": 1, "t": wrong}]}).encode()
    with pytest.raises(MessageError):
        messages.decode_frames(data)


@pytest.mark.parametrize("decode", DECODERS)
@given(st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[]", b"null", b'{"e":[{}]}', b"[" * 100_000])))
def test_garbage_is_a_message_error(decode: Callable[[bytes], Any], data: bytes):
    try:
        read = decode(data)
    except MessageError:
        return
    assert read == (), "an object without the key is an empty list, nothing else is a message"
