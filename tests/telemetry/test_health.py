"""Health of a node: each reason, what does not count, and which state a node is in with several findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import BootId, Condition, ConditionType, Presence, Reading, Reason, Status
from skulk.core.health import HealthReason, HealthState, health_of, stale_after_seconds
from skulk.core.readings import SHOWN_SECONDS, Kind, Steady, is_seen

GIB = 2**30
MEMORY = {"totalBytes": 64 * GIB, "availableBytes": 40 * GIB, "swapUsedBytes": 0, "pressure": "normal"}
DISK = {"path": "/state", "totalBytes": 1000 * GIB, "freeBytes": 500 * GIB}


def young(**kinds: Mapping[str, object]) -> dict[str, Reading]:
    return {kind: Reading(values, 1.0) for kind, values in kinds.items()}


def reasons(*arguments: Any, **more: Any) -> list[tuple[str, str]]:
    health = health_of(*arguments, **more)
    assert all(finding.message and finding.remediation for finding in health.findings)
    assert health.state == (health.findings[0].state if health.findings else HealthState.OK)
    return [(finding.reason.value, finding.state.value) for finding in health.findings]


def test_a_node_at_ease_has_no_findings() -> None:
    healthy = young(
        memory=MEMORY,
        disk={"disks": [DISK]},
        system={"temperatureCelsius": 60.0, "thermalPressure": "nominal"},
        accelerator={"devices": [{"name": "gpu", "temperatureCelsius": 70.0}]},
        daemon={"loopLagSeconds": 0.01},
    )
    assert reasons(healthy) == []
    assert health_of(healthy).status() == {"state": "ok", "findings": []}


def test_a_node_that_measures_nothing_is_not_called_ill() -> None:
    assert reasons({}) == []
    unknown: dict[str, object] = dict.fromkeys(("totalBytes", "availableBytes", "swapUsedBytes", "pressure"))
    assert reasons(young(memory=unknown, disk={"disks": [{"path": "/", "totalBytes": None, "freeBytes": None}]})) == []


@pytest.mark.parametrize(
    ("presence", "found"),
    [
        (None, ("NodeUnseen", "failing")),
        (Presence.LOST, ("NodeLost", "failing")),
        (Presence.LEFT, ("NodeLeft", "failing")),
        (Presence.SUSPECT, ("NodeSuspect", "degraded")),
    ],
)
def test_a_node_that_is_not_there_has_one_finding_whatever_it_said_last(
    presence: Presence | None, found: tuple[str, str]
) -> None:
    old = {"memory": Reading({**MEMORY, "pressure": "critical"}, 500.0)}
    assert reasons(old, presence=presence, absent_seconds=12.0, plain=presence is None) == [found]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"pressure": "warning"}, [("MemoryPressure", "degraded")]),
        ({"pressure": "critical"}, [("MemoryPressure", "failing")]),
        ({"pressure": None, "availableBytes": 1 * GIB}, [("MemoryPressure", "degraded")]),
        ({"pressure": "normal", "availableBytes": 1 * GIB}, []),
        ({"swapUsedBytes": 20 * GIB}, []),
        ({"swapUsedBytes": 20 * GIB, "availableBytes": 4 * GIB}, [("Swapping", "degraded")]),
    ],
)
def test_memory_is_judged_by_the_systems_word_and_swap_only_when_little_is_left(
    changed: dict[str, object], found: list[tuple[str, str]]
) -> None:
    assert reasons(young(memory=MEMORY | changed)) == found


@pytest.mark.parametrize(
    ("total", "free", "found"),
    [
        (1000 * GIB, 60 * GIB, []),
        (1000 * GIB, 30 * GIB, []),
        (1000 * GIB, 18 * GIB, [("DiskNearlyFull", "degraded")]),
        (20 * GIB, 5 * GIB, []),
        (20 * GIB, GIB, [("DiskNearlyFull", "degraded")]),
        (20 * GIB, GIB // 4, [("DiskNearlyFull", "failing")]),
        (None, GIB, [("DiskNearlyFull", "degraded")]),
    ],
)
def test_a_disk_is_nearly_full_by_what_still_fits(total: int | None, free: int, found: list[tuple[str, str]]) -> None:
    assert reasons(young(disk={"disks": [DISK, {"path": "/m", "totalBytes": total, "freeBytes": free}]})) == found


def test_heat_is_told_with_the_device_and_its_temperature() -> None:
    devices = [{"name": "one", "temperatureCelsius": 70}, {"name": "two", "temperatureCelsius": 99.0}]
    health = health_of(young(accelerator={"devices": devices}, system={"temperatureCelsius": 101.0}))
    assert [f.message for f in health.findings] == ["the processor is at 101 °C", "two is at 99 °C"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("moderate", []),
        ("heavy", [("Overheating", "degraded")]),
        ("trapping", [("Overheating", "failing")]),
        ("sleeping", [("Overheating", "failing")]),
        ("molten", []),
    ],
)
def test_thermal_pressure_counts_from_heavy_on(word: str, found: list[tuple[str, str]]) -> None:
    assert reasons(young(system={"thermalPressure": word})) == found


def test_a_late_loop_is_told() -> None:
    assert reasons(young(daemon={"loopLagSeconds": 2.5})) == [("DaemonSlow", "degraded")]


@pytest.mark.parametrize("kind", [Kind.MEMORY, Kind.DISK])
def test_old_readings_are_one_finding_and_prove_nothing_else(kind: Kind) -> None:
    worst = {"memory": MEMORY | {"pressure": "critical"}, "disk": {"disks": [DISK | {"freeBytes": 0}]}}[kind]
    limit = stale_after_seconds(kind)
    assert reasons({kind: Reading(worst, limit + 1)}) == [("TelemetryStale", "degraded")]
    assert reasons({kind: Reading(worst, limit - 1)}) != [("TelemetryStale", "degraded")]


def condition(type_: ConditionType, status: Status, reason: Reason) -> Condition:
    return Condition(type_, status, reason, "three looks failed")


def test_the_source_counts_when_it_is_stale_or_the_commit_is_refused() -> None:
    stale = condition(ConditionType.RECONCILING, Status.TRUE, Reason.SOURCE_STALE)
    blip = condition(ConditionType.RECONCILING, Status.TRUE, Reason.SOURCE_UNREACHABLE)
    refused = condition(ConditionType.STALLED, Status.TRUE, Reason.INVALID_MANIFESTS)
    unready = condition(ConditionType.READY, Status.FALSE, Reason.INVALID_MANIFESTS)
    assert reasons({}, conditions=(stale,)) == [("SourceStale", "degraded")]
    assert reasons({}, conditions=(blip,)) == []
    assert reasons({}, conditions=(refused, unready)) == [("CommitRefused", "degraded")]


def test_engines_rivals_and_plain_planes_are_told_the_worst_first() -> None:
    found = reasons({}, problems=("mlx: broken",), rivals=(BootId("b1"),), plain=True)
    assert found == [("RivalNode", "failing"), ("EngineProblem", "degraded"), ("PlainPlanes", "ok")]


def test_what_is_only_worth_knowing_leaves_a_node_ok() -> None:
    health = health_of({}, plain=True)
    assert health.state is HealthState.OK
    assert [finding.reason for finding in health.findings] == [HealthReason.PLAIN_PLANES]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["totalBytes", "availableBytes", "swapUsedBytes", "pressure", "disks", "devices", "freeBytes", "loopLagSeconds"]
)
VALUES = st.dictionaries(NAMES, JSON, max_size=6)


@given(values=VALUES, kind=st.sampled_from(list(Kind)))
def test_whatever_another_node_sends_is_taken_as_data(values: dict[str, Any], kind: Kind) -> None:
    health = health_of({kind: Reading(values, 0.0)})
    assert health.status()["state"] in {state.value for state in HealthState}


# --- what is seen -------------------------------------------------------------------------------------------


@given(values=VALUES)
def test_a_reading_never_differs_from_itself(values: dict[str, Any]) -> None:
    assert not is_seen(values, values)


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ({"a": None}, {"a": 0}, True),
        ({"a": 1}, {"b": 1}, True),
        ({"utilisation": 0.50}, {"utilisation": 0.54}, False),
        ({"utilisation": 0.50}, {"utilisation": 0.56}, True),
        ({"totalBytes": 100, "usedBytes": 50}, {"totalBytes": 100, "usedBytes": 54}, False),
        ({"totalBytes": 100, "usedBytes": 50}, {"totalBytes": 100, "usedBytes": 56}, True),
        ({"temperatureCelsius": 60.0}, {"temperatureCelsius": 62.0}, False),
        ({"temperatureCelsius": 60.0}, {"temperatureCelsius": 64.0}, True),
        ({"powerWatts": 100.0}, {"powerWatts": 110.0}, False),
        ({"powerWatts": 100.0}, {"powerWatts": 150.0}, True),
        ({"pressure": "normal"}, {"pressure": "warning"}, True),
        ({"devices": [{"utilisation": 0.1}]}, {"devices": [{"utilisation": 0.9}]}, True),
        ({"devices": []}, {"devices": [{}]}, True),
        ({"uptimeSeconds": 1}, {"uptimeSeconds": 1e9}, False),
        ({"load1": math.nan}, {"load1": 0.1}, True),
        ({"totalBytes": 10**400, "usedBytes": 10**400}, {"totalBytes": 10**400, "usedBytes": 1}, True),
    ],
)
def test_a_change_counts_when_a_person_would_see_it(before: Any, after: Any, seen: bool) -> None:
    assert is_seen(before, after) is seen


def test_a_view_keeps_what_it_shows_until_a_person_would_see_a_difference() -> None:
    steady = Steady()

    def shown(percent: float, age: float, now: float) -> dict[str, dict[str, object]]:
        return steady.status("one", {"system": Reading({"cpuUtilisation": percent}, age)}, now)

    assert shown(0.50, 0.3, 0.0) == {"system": {"ageSeconds": 0.0, "cpuUtilisation": 0.50}}
    assert shown(0.52, 1.9, 2.0) == {"system": {"ageSeconds": 0.0, "cpuUtilisation": 0.50}}
    assert shown(0.60, 0.1, 4.0) == {"system": {"ageSeconds": 0.0, "cpuUtilisation": 0.60}}
    assert shown(0.60, 13.0, 17.0) == {"system": {"ageSeconds": 10.0, "cpuUtilisation": 0.60}}
    assert shown(0.61, 0.0, 4.0 + SHOWN_SECONDS) == {"system": {"ageSeconds": 0.0, "cpuUtilisation": 0.61}}


def test_a_view_keeps_nodes_apart_and_forgets_what_is_gone() -> None:
    steady = Steady()
    load, other = Reading({"load1": 1.0}, 0.0), Reading({"load1": 1.1}, 0.0)
    assert steady.status("one", {"system": load, "pulse": Reading({}, 0.0)}, 0.0) == {
        "system": {"ageSeconds": 0.0, "load1": 1.0}
    }
    assert steady.status("two", {"system": other}, 0.0)["system"]["load1"] == 1.1
    assert steady.status("one", {}, 1.0) == {}
    assert steady.status("one", {"system": other}, 2.0)["system"]["load1"] == 1.1
