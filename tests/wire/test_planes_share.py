"""Shares on the way to other nodes: nothing is lost, nobody speaks for another, rubbish is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import (
    CardName,
    CommitId,
    Condition,
    ConditionType,
    ContentHash,
    DeploymentName,
    Fetching,
    NodeName,
    PlacementUid,
    Reason,
    Resource,
    Route,
    Share,
    Status,
    Waiting,
)
from skulk.core.wire import planes_share as codec
from skulk.core.wire.fields import Fields
from skulk.core.wire.planes_messages import MessageError

ME = NodeName("a")
COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
COMMITS = st.none() | TEXTS.map(CommitId)
CONDITIONS = st.lists(
    st.builds(
        Condition,
        st.sampled_from(ConditionType),
        st.sampled_from(Status),
        st.sampled_from(Reason),
        TEXTS,
        COMMITS,
        FLOATS,
    ),
    max_size=2,
).map(tuple)
WAITS = st.lists(st.builds(Waiting, TEXTS, TEXTS, st.sampled_from(Reason), TEXTS), max_size=2).map(tuple)
BUILDS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("backend", "engine", "version", "digest", "device"), TEXTS),
        "unified": st.booleans(),
        "deviceMemoryBytes": st.none() | COUNTS,
    }
)


def values(table: codec.Table) -> st.SearchStrategy[dict[str, Any]]:
    """Status or spec by its table: every way of reading has its values."""
    made = {
        Fields.text: TEXTS,
        Fields.text_or_none: st.none() | TEXTS,
        Fields.count: COUNTS,
        Fields.count_or_none: st.none() | COUNTS,
        Fields.flag: st.booleans(),
        codec._list: st.lists(TEXTS, max_size=2),
        codec._builds: st.lists(BUILDS, max_size=2),
        codec._seconds: FLOATS,
        codec._seconds_or_none: st.none() | FLOATS,
    }
    return st.fixed_dictionaries({key: made[read] for key, read in table.items()})


@st.composite
def machines(draw: st.DrawFn, version: str, accepted: str | None) -> Resource:
    status = {**draw(values(codec._MACHINE)), "version": version, "accepted": accepted}
    return Resource("Node", ME, {}, status, draw(CONDITIONS))


@st.composite
def placements(draw: st.DrawFn) -> Resource:
    status = draw(values(codec._PLACEMENT))
    both = {key: status[key] for key in codec.PLACEMENT_BOTH}
    spec = {**both, "nodes": [ME], **draw(values(codec._PLACEMENT_SPEC))}
    return Resource("Placement", draw(TEXTS), spec, {**status, "node": ME}, draw(CONDITIONS), draw(WAITS))


@st.composite
def runners(draw: st.DrawFn) -> Resource:
    name = draw(TEXTS)
    spec = {"placement": name, **draw(values(codec._RUNNER_SPEC))}
    return Resource("Runner", name, spec, {"placement": name, "node": ME, **draw(values(codec._RUNNER))})


ROUTES = st.builds(
    Route,
    TEXTS.map(PlacementUid),
    TEXTS.map(DeploymentName),
    st.just(ME),
    st.booleans(),
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    TEXTS.map(ContentHash),
    COUNTS,
    TEXTS.map(CardName),
)


@st.composite
def shares(draw: st.DrawFn) -> Share:
    version, accepted = draw(TEXTS), draw(COMMITS)
    return Share(
        node=ME,
        version=version,
        attempted=draw(COMMITS),
        accepted=accepted,
        machine=draw(machines(version, accepted)),
        placements=tuple(draw(st.lists(placements(), max_size=2, unique_by=lambda r: r.name))),
        runners=tuple(draw(st.lists(runners(), max_size=2, unique_by=lambda r: r.name))),
        routes=tuple(draw(st.lists(ROUTES, max_size=2))),
        fetching=draw(st.dictionaries(TEXTS, st.builds(Fetching, COUNTS, COUNTS), max_size=2)),
        present=draw(st.frozensets(TEXTS, max_size=2)),
        closing=draw(st.booleans()),
    )


def full() -> dict[str, Any]:
    """A share as it is on the wire."""
    condition = {"type": "Ready", "status": "True", "reason": "Serving", "message": "m", "commit": "c", "since": 1.5}
    wait = {"subject": "u", "on": "memory", "reason": "WaitingForMemory", "message": "m"}
    build = {"backend": "mlx-cpu", "engine": "mlx", "version": "1", "digest": "d", "device": "cpu", "unified": True}
    launch = {"deployment": "chat", "model": "fox", "backend": "mlx-cpu", "contextTokens": 4096}
    return {
        "node": "a",
        "version": "1.0",
        "attempted": "c2",
        "accepted": "c1",
        "machine": {
            "backends": ["mlx-cpu"],
            "engines": [],
            "builds": [build],
            "memoryBytes": 5,
            "diskBytes": None,
            "files": ["f"],
            "placedBytes": 0,
            "os": "linux",
            "arch": "arm64",
            "problems": [],
            "conditions": [condition],
        },
        "placements": [
            {
                **launch,
                "name": "u",
                "replica": 0,
                "concurrency": 2,
                "phase": "Ready",
                "since": 2.5,
                "memoryBytes": 1,
                "failures": 0,
                "message": "",
                "retiring": False,
                "launchHash": "l",
                "contentHash": "h",
                "conditions": [condition],
                "waits": [wait],
            }
        ],
        "runners": [
            {
                **launch,
                "name": "u",
                "pid": 7,
                "phase": "Ready",
                "link": "connected",
                "adopted": False,
                "running": 1,
                "waiting": 0,
                "steps": 3,
                "residentBytes": None,
                "startedAt": 1.0,
                "loadShare": 1.0,
                "lastWords": None,
                "engine": "mlx",
            }
        ],
        "routes": [
            {
                "uid": "u",
                "deployment": "chat",
                "model": "fox",
                "ready": True,
                "running": 1,
                "waiting": 0,
                "concurrency": 2,
                "contextTokens": 4096,
                "contentHash": "h",
                "queueMax": 64,
            }
        ],
        "fetching": {"k": [1, 2]},
        "present": ["p"],
        "closing": False,
    }


def read(obj: object) -> Share:
    return codec.decode_share(json.dumps(obj).encode(), ME)


@given(shares())
def test_out_comes_what_went_in(share: Share):
    data = codec.encode_share(share)
    assert codec.decode_share(data, ME) == share
    assert codec.encode_share(codec.decode_share(data, ME)) == data


def test_a_share_of_another_node_is_refused():
    with pytest.raises(MessageError, match="another node"):
        codec.decode_share(json.dumps(full()).encode(), NodeName("b"))


def test_everything_in_a_share_is_at_its_author():
    obj = full()
    obj["machine"]["node"] = obj["machine"]["name"] = "b"
    for item in (*obj["placements"], *obj["runners"], *obj["routes"]):
        item["node"] = "b"
        item["nodes"] = ["b"]
    share = read(obj)
    assert share == read(full())
    assert share.machine.name == "a"
    assert {r.status["node"] for r in (*share.placements, *share.runners)} == {r.node for r in share.routes} == {"a"}
    assert share.placements[0].spec["nodes"] == ["a"]


def test_keys_and_reasons_of_a_newer_version_do_no_harm():
    obj = full()
    obj["extra"] = obj["machine"]["extra"] = obj["placements"][0]["extra"] = {"deep": [1]}
    obj["placements"][0]["conditions"][0] = {**obj["placements"][0]["conditions"][0], "reason": "MoonTooFull"}
    obj["placements"][0]["waits"][0]["reason"] = "MoonTooFull"
    (placement,) = read(obj).placements
    assert (placement.conditions[0].reason, placement.waiting[0].reason) == (Reason.NEWER_VERSION,) * 2
    assert placement.status == read(full()).placements[0].status


def test_text_that_is_no_text_does_not_keep_a_share_back():
    share = read(full())
    told = replace(share, machine=replace(share.machine, status={**share.machine.status, "problems": ["\udcff"]}))
    assert codec.decode_share(codec.encode_share(told), ME).machine.status["problems"] == ["?"]


def _set(path: str, value: object) -> Callable[[Any], None]:
    *parents, last = path.split(".")

    def change(obj: Any) -> None:
        for key in parents:
            obj = obj[int(key)] if isinstance(obj, list) else obj[key]
        obj[last] = value

    return change


def _without(path: str) -> Callable[[Any], None]:
    *parents, last = path.split(".")

    def change(obj: Any) -> None:
        for key in parents:
            obj = obj[int(key)] if isinstance(obj, list) else obj[key]
        del obj[last]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("node", None),
        _set("version", 1),
        _set("accepted", 1),
        _set("machine", []),
        _set("machine.files", [1]),
        _set("machine.files", "abc"),
        _set("machine.memoryBytes", "5"),
        _set("machine.memoryBytes", -5),
        _set("machine.builds", [{}]),
        _set("machine.conditions", [{"type": "Sad"}]),
        _set("machine.conditions.0.status", "Maybe"),
        _set("machine.conditions.0.type", "Sad"),
        _set("machine.conditions.0.since", None),
        _set("machine.conditions.0.since", 10**400),
        _set("placements", {}),
        _set("placements.0.phase", None),
        _set("placements.0.since", "now"),
        _set("placements.0.since", float("inf")),
        _set("placements.0.since", float("nan")),
        _set("placements.0.failures", 1.5),
        _set("placements.0.retiring", 1),
        _set("placements.0.name", 1),
        _set("placements.0.message", "\ud800"),
        _set("placements.0.waits", [1]),
        _set("placements", full()["placements"] * 2),
        _set("runners.0.running", -1),
        _set("runners.0.loadShare", True),
        _set("runners.0.contextTokens", None),
        _set("runners", full()["runners"] * 2),
        _set("routes.0.ready", "yes"),
        _set("routes.0.concurrency", 2**63),
        _set("routes.0.uid", []),
        _set("fetching", []),
        _set("fetching.k", [1]),
        _set("fetching.k", [1, -1]),
        _set("fetching.k", [1, 2**63]),
        _set("fetching.k", {"done": 1}),
        _set("present", [None]),
        _set("closing", 0),
        *(_without(key) for key in ("node", "version", "machine", "placements", "runners", "routes")),
        *(_without(key) for key in ("placements.0.phase", "runners.0.link", "routes.0.queueMax")),
    ],
)
def test_what_is_wrong_anywhere_is_a_message_error(change: Callable[[Any], None]):
    obj = full()
    change(obj)
    with pytest.raises(MessageError):
        read(obj)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"{}", b'{"node":"a"}', b"[" * 100_000, b"NaN"])
def test_rubbish_is_a_message_error(data: bytes):
    with pytest.raises(MessageError):
        codec.decode_share(data, ME)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_decoder(data: bytes):
    with pytest.raises(MessageError):
        codec.decode_share(data, ME)


def test_more_bytes_than_any_share_has_are_not_read():
    with pytest.raises(MessageError, match="more than"):
        codec.decode_share(json.dumps(full()).encode() + b" " * codec.SHARE_BYTES_MAX, ME)
