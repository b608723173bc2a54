"""Reports on the way to other members: nothing is lost, nobody speaks for another, rubbish is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from coordination_worlds import C1, C2, GIB, member, report
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.coordination import Invalid, Report, Version
from skulk.core.coordination import planes_report as codec
from skulk.core.domain import (
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    EngineBuild,
    LaunchHash,
    Member,
    NodeName,
    PlacementUid,
    Reason,
    Refusal,
    RunningPlacement,
)
from skulk.core.wire.planes_messages import MessageError

ME = NodeName("n1")
COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(max_size=12)
VERSIONS = st.builds(
    Version,
    st.integers(1, 2**63 - 1),
    COUNTS,
    TEXTS.map(NodeName),
    TEXTS.map(CommitId),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
RUNNING = st.builds(
    RunningPlacement,
    TEXTS.map(PlacementUid),
    TEXTS.map(DeploymentName),
    COUNTS,
    TEXTS.map(CardName),
    st.just(ME),
    TEXTS,
    COUNTS,
    COUNTS,
    TEXTS.map(LaunchHash),
    TEXTS.map(ContentHash),
    COUNTS,
    rank=COUNTS,
    port=st.none() | COUNTS,
    complete=st.booleans(),
    draining=st.booleans(),
)
REFUSALS = st.builds(
    Refusal, st.just(ME), TEXTS.map(DeploymentName), TEXTS.map(LaunchHash), st.sampled_from(Reason), TEXTS
)
BUILDS = st.builds(EngineBuild, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, st.booleans(), st.none() | COUNTS)
MEMBERS = st.builds(
    Member,
    st.just(ME),
    st.just(member("n1").boot),
    COUNTS,
    st.lists(BUILDS, max_size=2).map(tuple),
    st.frozensets(TEXTS, max_size=2),
    TEXTS,
    TEXTS,
    TEXTS,
    st.none() | TEXTS.map(CommitId),
    st.none() | COUNTS,
)
REPORTS = st.builds(
    Report,
    st.just(ME),
    st.just(member("n1").boot),
    COUNTS,
    st.none() | VERSIONS,
    st.frozensets(TEXTS.map(CommitId), max_size=3),
    st.lists(st.builds(Invalid, TEXTS.map(CommitId), TEXTS), max_size=2).map(tuple),
    MEMBERS,
    st.lists(RUNNING, max_size=2).map(tuple),
    st.lists(REFUSALS, max_size=2).map(tuple),
    st.booleans(),
    st.booleans(),
)


def full() -> Report:
    return report(
        "n1",
        promised=7,
        accepted=Version(7, 2, NodeName("n2"), C1, "d" * 64),
        validated=frozenset({C1, C2}),
        invalid=(Invalid(CommitId("3" * 40), "fleet/fleet.yaml:3:1: no"),),
        member=replace(member("n1"), files=frozenset({"f" * 64}), disk_bytes=GIB, validated=C2),
        running=(
            RunningPlacement(
                PlacementUid("u1"),
                DeploymentName("chat"),
                0,
                CardName("fox"),
                ME,
                "mlx-cpu",
                4096,
                4,
                LaunchHash("l"),
                ContentHash("c"),
                GIB,
                port=53000,
                complete=True,
            ),
        ),
        refusals=(Refusal(ME, DeploymentName("code"), LaunchHash("m"), Reason.INSUFFICIENT_MEMORY, "3 of 2 GiB"),),
        graced=True,
    )


@given(REPORTS)
def test_out_comes_what_went_in(given_report: Report):
    data = codec.encode_report(given_report)
    assert codec.decode_report(data, ME) == given_report
    assert codec.encode_report(codec.decode_report(data, ME)) == data


@pytest.mark.parametrize(
    "question",
    [
        codec.Question(),
        codec.Question(reset="chat"),
        codec.Question(CommitId("c" * 40), frozenset({CommitId("a" * 40), CommitId("b" * 40)})),
    ],
)
def test_a_question_reads_as_it_was_put(question: codec.Question):
    assert codec.decode_question(codec.encode_question(question)) == question


@given(COUNTS, st.binary(max_size=200))
def test_what_is_told_keeps_its_number_and_its_proof(number: int, proof: bytes):
    told = codec.Told(number, proof, full())
    assert codec.decode_told(codec.encode_told(told), ME) == told
    with pytest.raises(MessageError, match="another node"):
        codec.decode_told(codec.encode_told(told), NodeName("n2"))


def test_a_report_of_another_node_is_refused():
    with pytest.raises(MessageError, match="another node"):
        codec.decode_report(codec.encode_report(full()), NodeName("n2"))


def test_nobody_reports_runners_or_vetoes_of_another_node():
    stranger = NodeName("n9")
    told = full()
    forged = replace(
        told,
        running=tuple(replace(r, node=stranger) for r in told.running),
        refusals=tuple(replace(r, node=stranger) for r in told.refusals),
    )
    obj = json.loads(codec.encode_report(forged))
    for item in (*obj["running"], *obj["refusals"]):
        item["node"] = stranger
    assert codec.decode_report(json.dumps(obj).encode(), ME) == told


def test_keys_and_reasons_of_a_newer_version_do_no_harm():
    obj = json.loads(codec.encode_report(full()))
    obj["extra"] = obj["member"]["extra"] = obj["running"][0]["extra"] = [1]
    obj["refusals"][0]["reason"] = "MoonTooFull"
    read = codec.decode_report(json.dumps(obj).encode(), ME)
    assert read.refusals[0].reason is Reason.NODE_REFUSED
    assert replace(read, refusals=()) == replace(full(), refusals=())


def test_a_message_that_is_no_text_does_not_keep_a_report_back():
    told = replace(full(), invalid=(Invalid(C2, "file \udcff.yaml"),))
    assert codec.decode_report(codec.encode_report(told), ME).invalid == (Invalid(C2, "file ?.yaml"),)


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    *parents, last = path.split(".")

    def change(obj: Any) -> None:
        for key in parents:
            obj = obj[int(key)] if isinstance(obj, list) else obj[key]
        obj[last] = value

    return change


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda obj: obj.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        _set("node", "n2"),
        _set("member.node", "n2"),
        _set("member.boot", "other"),
        _set("member.files", [1]),
        _set("member.memoryBytes", -1),
        _set("member.builds", [None]),
        _set("member", None),
        _set("boot", 3),
        _set("promised", True),
        _set("promised", -1),
        _set("promised", 2**63),
        _set("promised", 1.5),
        _set("accepted", []),
        _set("accepted.digest", "d" * 63),
        _set("accepted.digest", "D" * 64),
        _set("accepted.epoch", 0),
        _set("accepted.seq", -1),
        _set("validated", "abc"),
        _set("validated", [None]),
        _set("invalid", [{"commit": "c"}]),
        _set("running", {}),
        _set("running.0.rank", -1),
        _set("running.0.complete", 1),
        _set("running.0.uid", None),
        _set("running.0.uid", "\ud800"),
        _set("refusals.0.message", 5),
        _set("refusals.0.reason", {}),
        _set("stockTaken", "yes"),
        _set("graced", None),
        _without("promised"),
        _without("member"),
        _without("running"),
        _without("refusals"),
        _without("accepted"),
        _without("stockTaken"),
        _without("node"),
    ],
)
def test_what_is_wrong_anywhere_is_a_message_error(change: Callable[[dict[str, Any]], None]):
    obj = json.loads(codec.encode_report(full()))
    change(obj)
    with pytest.raises(MessageError):
        codec.decode_report(json.dumps(obj).encode(), ME)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"null", b"{}", b'{"bundle":NaN}', b'{"bundle":{"commit":1}}', b"[" * 100_000]
)
def test_rubbish_is_a_message_error(data: bytes):
    with pytest.raises(MessageError):
        codec.decode_report(data, ME)
    with pytest.raises(MessageError):
        codec.decode_question(data)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_decoders(data: bytes):
    for decode in (codec.decode_question, lambda d: codec.decode_report(d, ME)):
        try:
            decode(data)
        except MessageError:
            continue


def test_more_bytes_than_any_report_has_are_not_read():
    padded = codec.encode_report(full()) + b" " * codec.REPORT_BYTES_MAX
    with pytest.raises(MessageError, match="more than"):
        codec.decode_report(padded, ME)
    with pytest.raises(MessageError, match="more than"):
        codec.decode_question(codec.encode_question(codec.Question()) + b" " * codec.QUESTION_BYTES_MAX)
