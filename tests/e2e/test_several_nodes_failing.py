"""Three nodes under load while one of them joins, leaves, restarts, dies or freezes: what clients of the others see.

The engine is the scripted one: only time and failure matter here. Every test leaves the fleet whole. The planes are in
peer mode: between routers the library can lose the token of a node that returns for good.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_harness import (
    Answer,
    Fleet,
    Load,
    Loopback,
    document,
    fleet_status,
    measured,
    only_on,
    wait_new_document,
    wait_one_document,
)
from harness import Node, alive, deployment, seconds_of, until

pytestmark = pytest.mark.e2e

NAMES = ("a", "b", "c")
TEXT = "abcdefghij" * 2
# Two seconds long: at any moment most of them are in the middle.
STREAM = {"name": "scripted", "options": {"step_seconds": 0.1, "tokens": len(TEXT), "echo": "abcdefghij"}}
MANY = {"engine": STREAM, "concurrency": 16, "contextTokens": 512}


def pinned(name: str) -> str:
    return deployment(f"on-{name}", "parrot", placement=only_on(name, (*NAMES, "d")), **MANY)


def everywhere(replicas: int) -> str:
    return deployment("everywhere", "parrot", replicas=replicas, placement={"spread": "node"}, **MANY)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, engines_dir: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), engines_dir, ground=Loopback("peer")) as fleet:
        for name in NAMES:
            fleet.add(name, engines=[])
        fleet.start()
        fleet.wait_whole(fleet.push_base(everywhere=everywhere(3), **{f"on-{name}": pinned(name) for name in NAMES}))
        yield fleet


@pytest.fixture
def fleet(shared: Fleet) -> Fleet:
    shared.wait_whole()
    return shared


def others(fleet: Fleet, name: str) -> list[Node]:
    return [fleet[other] for other in NAMES if other != name]


def full_load(fleet: Fleet) -> Load:
    models = ("everywhere", *(f"on-{name}" for name in NAMES))
    return Load((fleet[name], model) for name in NAMES for model in models)


def check_only_its_own_failed(answers: list[Answer], lost: str, then: float) -> None:
    """No request failed except those that the lost node owned or served; whoever can still be told was told."""
    for answer in answers:
        whole = answer.error is None
        if whole:
            assert answer.text == TEXT, answer
        elif answer.gateway == lost:
            assert answer.ended >= then, answer
        elif answer.began < then:
            assert answer.model in ("everywhere", f"on-{lost}"), answer
            assert answer.kind == "told", answer
        else:
            assert (answer.model, answer.kind) == (f"on-{lost}", "refused"), answer


def told_seconds(answers: list[Answer], then: float) -> float:
    """How long the last client waited to be told that its stream broke at `then`."""
    broken = [answer for answer in answers if answer.kind == "told" and answer.began < then]
    assert broken, "no stream went through the lost node"
    return max(answer.ended for answer in broken) - then


def test_a_node_comes_and_goes_by_commit_and_no_stream_breaks(fleet: Fleet):
    pids = fleet.pids()
    with full_load(fleet) as load:
        load.wait_flowing()
        fleet.add("d", engines=[])
        pushed = time.time()
        commit = fleet.origin.push({"fleet/deployments/everywhere.yaml": everywhere(4)}, "Add d")
        fleet.start("d")
        fleet.wait_whole(commit)
        print(f"measured: from the push of a new node to its replica being Ready: {time.time() - pushed:.1f} s")
        assert {p["status"]["node"] for p in fleet["a"].items("placements")} == {*NAMES, "d"}
        assert fleet["d"].ask("on-a", "hello") == TEXT
        with Load([(fleet["d"], "on-b"), (fleet["d"], "everywhere")]) as through_d:
            through_d.wait_flowing()
        load.wait_flowing()
        gone = fleet.pids().keys() - pids.keys()
        files = {"fleet/nodes/d.yaml": None, "fleet/deployments/everywhere.yaml": everywhere(3)}
        commit = fleet.origin.push(files, "Remove d")
        until(
            lambda: (
                not any(r["status"]["node"] == "d" for r in fleet["d"].items("runners"))
                and any(c["reason"] == "Leaving" for c in fleet["d"].get("/fleet/v1/status")["conditions"])
            ),
            "d has left",
            context=fleet.story,
        )
        assert fleet["d"].end(signal.SIGTERM) == 0
        fleet.wait_whole(commit)
        load.wait_flowing()
    assert len(gone) == 1
    assert load.failed() == []
    assert through_d.failed() == []
    assert {answer.text for answer in load.answers} == {TEXT}
    assert fleet.pids() == pids
    fleet.nodes.pop("d").__exit__(None, None, None)


def test_a_restarted_daemon_keeps_its_runners_and_breaks_no_stream(fleet: Fleet):
    pids = fleet.pids()
    mine = [(node, model) for node in others(fleet, "b") for model in ("everywhere", "on-a", "on-c")]
    with Load(mine) as load:
        load.wait_flowing()
        served_by_b, owned_by_b = fleet["a"].stream("on-b", "hello"), fleet["b"].stream("on-a", "hello")
        begun = [next(served_by_b), next(owned_by_b)]
        assert fleet["b"].end(signal.SIGTERM) == 0
        assert [begun[0] + "".join(served_by_b), begun[1] + "".join(owned_by_b)] == [TEXT, TEXT]
        until(lambda: all(fleet_status(n)["liveNodes"] == 2 for n in others(fleet, "b")), "its end is seen")
        load.wait_flowing()
        fleet.start("b")
        fleet.wait_whole()
        load.wait_flowing()
    assert load.failed() == []
    assert fleet.pids() == pids


def test_a_killed_daemon_costs_only_what_went_through_it(fleet: Fleet):
    victim = next(name for name in NAMES if name != fleet_status(fleet["a"])["coordinator"])
    kill_under_load(fleet, victim)


def test_the_coordinator_can_be_killed_under_load(fleet: Fleet):
    kill_under_load(fleet, fleet_status(fleet["a"])["coordinator"])


def kill_under_load(fleet: Fleet, victim: str) -> None:
    pids, survivors = fleet.pids(), others(fleet, victim)
    before = document(survivors[0])
    with full_load(fleet) as load:
        load.wait_flowing()
        load.wait_midstream({(node.base.name, f"on-{victim}") for node in survivors})
        then, moment = time.monotonic(), time.time()
        os.kill(fleet[victim].daemon.pid, signal.SIGKILL)
        measured("new document after a kill", wait_new_document(survivors, moment), 3)
        until(
            lambda: any(a.kind == "told" for a in list(load.answers)),
            "somebody is told",
            context=lambda: load.story(then),
        )
        load.wait_flowing_but(victim)
        assert all(alive(pid) for pid in pids.values())
        fleet[victim].daemon.wait()
        fleet.start(victim)
        fleet.wait_whole()
        back = seconds_of(fleet[victim].log("planes_opened")[-1]["ts"])
        measured("one document after the return", wait_one_document(list(fleet.nodes.values()), back), 5)
        load.wait_flowing()
    check_only_its_own_failed(load.answers, victim, then)
    measured("error event after a kill", told_seconds(load.answers, then), 5)
    assert document(survivors[0]) != before
    assert fleet.pids() == pids


def test_a_frozen_daemon_is_missed_and_returns_by_itself(fleet: Fleet):
    victim = fleet_status(fleet["a"])["coordinator"]
    pids, survivors = fleet.pids(), others(fleet, victim)
    with full_load(fleet) as load:
        load.wait_flowing()
        load.wait_midstream({(node.base.name, f"on-{victim}") for node in survivors})
        then, moment = time.monotonic(), time.time()
        os.kill(fleet[victim].daemon.pid, signal.SIGSTOP)
        try:
            measured("new document after a freeze", wait_new_document(survivors, moment), 5)
            load.wait_flowing_but(victim)
        finally:
            os.kill(fleet[victim].daemon.pid, signal.SIGCONT)
        thawed = time.time()
        measured("one document after the thaw", wait_one_document(list(fleet.nodes.values()), thawed), 5)
        fleet.wait_whole()
        load.wait_flowing()
    check_only_its_own_failed(load.answers, victim, then)
    measured("error event after a freeze", told_seconds(load.answers, then), 5)
    assert fleet.pids() == pids
