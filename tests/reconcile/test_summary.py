"""Conditions say one thing at a time, name the nearest obstacle, and remember since when."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from skulk.core.domain import (
    CardName,
    CommitId,
    Condition,
    ConditionType,
    ContentHash,
    Deployment,
    DeploymentName,
    LaunchHash,
    NodeName,
    Placement,
    PlacementUid,
    Rank,
    Reason,
    Status,
    Unplaced,
    Waiting,
)
from skulk.core.reconcile.ledger import Record
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.summary import (
    Since,
    deployment_conditions,
    fleet_conditions,
    is_true,
    placement_conditions,
)

COMMIT = CommitId("c1")
UID = PlacementUid("p1")


def true_ones(conditions: Sequence[Condition]) -> list[str]:
    return [c.type.value for c in conditions if c.status is Status.TRUE]


def record(phase: Phase) -> Record:
    return Record(UID, phase)


def placement(uid: str = UID, replica: int = 0) -> Placement:
    return Placement(
        uid=PlacementUid(uid),
        deployment=DeploymentName("chat"),
        replica=replica,
        model=CardName("fox"),
        commit=COMMIT,
        backend="mlx-cpu",
        engine_version="1",
        ranks=(Rank(NodeName("a")),),
        context_tokens=1024,
        concurrency=1,
        launch_hash=LaunchHash("l"),
        content_hash=ContentHash("h"),
    )


def deployment(**changes: object) -> Deployment:
    return Deployment(DeploymentName("chat"), CardName("fox"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", Phase)
def test_a_placement_is_ready_stalled_or_under_way_and_never_two_of_them(phase: Phase) -> None:
    (only,) = true_ones(placement_conditions(record(phase), (), COMMIT))
    expected = {Phase.READY: "Ready", Phase.BROKEN: "Stalled", Phase.WEDGED: "Stalled"}
    assert only == expected.get(phase, "Reconciling")


@pytest.mark.parametrize("reason", [Reason.FETCH_FAILED, Reason.ENGINE_MISSING])
def test_a_placement_that_cannot_start_is_stalled_and_says_what_it_waits_for(reason: Reason) -> None:
    waiting = (
        Waiting(PlacementUid("other"), "x", Reason.DRAINING, "y"),
        Waiting(UID, "weights", reason, "no such file"),
    )
    conditions = placement_conditions(record(Phase.PENDING), waiting, COMMIT)
    assert true_ones(conditions) == ["Stalled"]
    assert {c.reason for c in conditions} == {reason}
    assert conditions[0].message == "no such file (waits for: weights)"


def test_a_placement_that_waits_shows_the_reason_of_the_wait() -> None:
    waiting = (Waiting(UID, "memory", Reason.WAITING_FOR_MEMORY, "needs 2 GiB"),)
    conditions = placement_conditions(record(Phase.PENDING), waiting, COMMIT)
    assert (true_ones(conditions), conditions[0].reason) == (["Reconciling"], Reason.WAITING_FOR_MEMORY)


def test_a_deployment_is_ready_when_every_replica_of_this_version_is() -> None:
    both = [placement("p1"), placement("p2", 1)]
    ready = placement_conditions(record(Phase.READY), (), COMMIT)
    loading = placement_conditions(record(Phase.LOADING), (), COMMIT)
    states = {PlacementUid("p1"): ready, PlacementUid("p2"): loading}
    behind = deployment_conditions(deployment(replicas=2), both, (), states, 1, COMMIT)
    assert true_ones(behind) == ["Reconciling"]
    assert (behind[0].reason, behind[0].message) == (
        Reason.LOADING,
        "1 of 2 replicas ready; 1 of the previous version still serving; Loading",
    )
    done = deployment_conditions(deployment(replicas=2), both, (), {**states, PlacementUid("p2"): ready}, 0, COMMIT)
    assert (true_ones(done), done[0].reason) == (["Ready"], Reason.ALL_REPLICAS_READY)


def test_a_stalled_replica_stalls_its_deployment() -> None:
    states = {UID: placement_conditions(record(Phase.BROKEN), (), COMMIT)}
    conditions = deployment_conditions(deployment(), [placement()], (), states, 0, COMMIT)
    assert (true_ones(conditions), conditions[0].reason) == (["Stalled"], Reason.BREAKER_OPEN)


def test_a_replica_without_a_place_shows_the_planners_reason() -> None:
    unplaced = [Unplaced(DeploymentName("chat"), 0, Reason.NO_BACKEND, "a offers nothing")]
    conditions = deployment_conditions(deployment(), (), unplaced, {}, 0, COMMIT)
    assert (true_ones(conditions), conditions[0].reason) == (["Reconciling"], Reason.NO_BACKEND)
    assert "a offers nothing" in conditions[0].message


def test_a_suspended_deployment_is_none_of_the_three() -> None:
    conditions = deployment_conditions(deployment(suspend=True), (), (), {}, 0, COMMIT)
    assert (true_ones(conditions), conditions[0].reason) == ([], Reason.SUSPENDED)


def stalled_source() -> tuple[Condition, ...]:
    return (Condition(ConditionType.STALLED, Status.TRUE, Reason.INVALID_MANIFESTS, "chat.yaml:3:1", COMMIT),)


@pytest.mark.parametrize(
    ("source", "ready", "commit", "expected", "reason"),
    [
        ((), True, COMMIT, ["Ready"], Reason.CONVERGED),
        ((), False, COMMIT, ["Reconciling"], Reason.CONVERGING),
        ((), True, None, ["Reconciling"], Reason.NO_COMMIT),
        # A refused commit stalls the fleet although everything serves.
        (stalled_source(), True, COMMIT, ["Stalled"], Reason.INVALID_MANIFESTS),
    ],
)
def test_the_fleet_sums_up_source_and_deployments(
    source: tuple[Condition, ...], ready: bool, commit: CommitId | None, expected: list[str], reason: Reason
) -> None:
    phase = Phase.READY if ready else Phase.LOADING
    deployments = {
        "chat": placement_conditions(record(phase), (), COMMIT),
        "idle": placement_conditions(record(Phase.GONE), (), COMMIT),
    }
    conditions = fleet_conditions(source, deployments, frozenset({"idle"}), commit)
    assert (true_ones(conditions), conditions[0].reason) == (expected, reason)


def test_since_stays_while_status_and_reason_do() -> None:
    since = Since()
    loading = placement_conditions(record(Phase.LOADING), (), COMMIT)
    assert {c.since for c in since.stamp("placement/p1", loading, 10.0)} == {10.0}
    assert {c.since for c in since.stamp("placement/p1", loading, 20.0)} == {10.0}
    ready = placement_conditions(record(Phase.READY), (), COMMIT)
    assert {c.since for c in since.stamp("placement/p1", ready, 30.0)} == {30.0}
    assert {c.since for c in since.stamp("placement/p2", ready, 40.0)} == {40.0}
    since.forget_all_but(frozenset({"placement/p2"}))
    assert {c.since for c in since.stamp("placement/p1", ready, 50.0)} == {50.0}
    assert is_true(ready, ConditionType.READY)
