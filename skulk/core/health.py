"""Whether a node is well: its readings, presence, conditions and problems become findings with something to do.

Tells people, decides nothing: neither the planner nor the node acts on it. Readings age; what is too old proves
nothing, so it yields one finding about its age and none about its values. Thresholds are the constants below, each
with its reason, and in docs/reference/limits.md; the reasons are in docs/reference/health.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from skulk.core.domain import BootId, Condition, ConditionType, Presence, Reading, Reason, Status
from skulk.core.readings import Kind, Values, entries, interval_seconds, number, text

# Two intervals may be missed by a busy machine; a third one, and a lost message, mean that measuring does not work.
STALE_INTERVALS = 4.0
# Nobody worries about telemetry that is less old than this, however short its interval.
STALE_SECONDS_MIN = 15.0
# Without a word from the system on pressure: less than this share available, and the next allocation may fail.
MEMORY_AVAILABLE_SHARE_MIN = 0.03
# Swap in use of this share of the memory, while little is available: memory is being traded for disk.
SWAP_SHARE_MAX = 0.05
# What counts as little: below it, a machine that also swaps is short of memory and not merely tidy.
SWAP_AVAILABLE_SHARE_MAX = 0.10
# The journal, the mirror and logs cannot be written on a full disk; this is room for a last few of them.
DISK_FREE_BYTES_FAILING = 500e6
# A fetch or a log burst takes this much within minutes.
DISK_FREE_BYTES_LOW = 2e9
# Less than this share of a disk is worth a word, unless it is still much room for models (DISK_FREE_BYTES_ROOMY).
DISK_FREE_SHARE_LOW = 0.05
# A quantised model of 30 billion parameters: with less room than this, the next one may not fit.
DISK_FREE_BYTES_ROOMY = 20e9
# Processors slow themselves down at 95 to 105 °C; some are built to work at 95.
CPU_CELSIUS_MAX = 100.0
# Accelerators slow themselves down from 85 °C (NVIDIA's largest) to 100 °C (AMD's edge sensor).
ACCELERATOR_CELSIUS_MAX = 95.0
# Heartbeats and token frames pass through the daemon's loop: a second of delay is felt by every client.
LOOP_LAG_SECONDS_MAX = 1.0


class HealthState(StrEnum):
    """The worst of a node's findings."""

    OK = "ok"
    DEGRADED = "degraded"
    """It serves, and somebody should have a look."""
    FAILING = "failing"
    """It does not serve, or is about to stop."""


class HealthReason(StrEnum):
    """Why a node is not well. Each has a paragraph in docs/reference/health.md."""

    NODE_UNSEEN = "NodeUnseen"
    NODE_LOST = "NodeLost"
    NODE_LEFT = "NodeLeft"
    NODE_SUSPECT = "NodeSuspect"
    RIVAL_NODE = "RivalNode"
    SOURCE_STALE = "SourceStale"
    COMMIT_REFUSED = "CommitRefused"
    ENGINE_PROBLEM = "EngineProblem"
    DISK_NEARLY_FULL = "DiskNearlyFull"
    MEMORY_PRESSURE = "MemoryPressure"
    SWAPPING = "Swapping"
    OVERHEATING = "Overheating"
    DAEMON_SLOW = "DaemonSlow"
    TELEMETRY_STALE = "TelemetryStale"
    PLAIN_PLANES = "PlainPlanes"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `state` OK: worth knowing, and nothing is wrong."""

    reason: HealthReason
    message: str
    remediation: str
    state: HealthState = HealthState.DEGRADED


@dataclass(frozen=True, slots=True)
class Health:
    """Findings, the worst first."""

    state: HealthState
    findings: tuple[Finding, ...] = ()

    def status(self) -> dict[str, object]:
        """`status.health` of a Node resource, as JSON values."""
        return {
            "state": self.state.value,
            "findings": [
                {"reason": f.reason.value, "message": f.message, "remediation": f.remediation} for f in self.findings
            ],
        }


def health_of(
    readings: Mapping[str, Reading],
    *,
    presence: Presence | None = Presence.LIVE,
    absent_seconds: float = 0.0,
    problems: Sequence[str] = (),
    conditions: Sequence[Condition] = (),
    rivals: Collection[BootId] = (),
    plain: bool = False,
) -> Health:
    """The health of one node.

    `presence` None: never seen by who asks. `problems`: engine environments that do not work, a line each.
    `conditions`: the node's own, on its source. `rivals`: other daemons of its name. `plain`: its planes reach beyond
    loopback without certificates. A node that is not there gets one finding; old values are not held against it.
    """
    found = [*_of_presence(presence, absent_seconds)]
    if presence in (Presence.LIVE, Presence.SUSPECT):
        found += _of_rivals(rivals)
        found += _of_conditions(conditions)
        found += [
            Finding(HealthReason.ENGINE_PROBLEM, line, "run `skulk doctor` there; its log has the whole story")
            for line in problems
        ]
        # Of a node that reports nothing, every reading is old: its presence has said so.
        found += _of_readings(readings) if presence is Presence.LIVE else ()
        if plain:
            found.append(_PLAIN)
    order = list(reversed(HealthState))
    found.sort(key=lambda finding: order.index(finding.state))
    return Health(found[0].state if found else HealthState.OK, tuple(found))


_PLAIN = Finding(
    HealthReason.PLAIN_PLANES,
    "messages between nodes are neither encrypted nor authenticated, as node.toml allows",
    "give the node a certificate, unless the network between the nodes is private",
    HealthState.OK,
)


# --- who is there -------------------------------------------------------------------------------------------


def _of_presence(presence: Presence | None, absent_seconds: float) -> Iterator[Finding]:
    match presence:
        case Presence.LIVE:
            return
        case None:
            yield Finding(
                HealthReason.NODE_UNSEEN,
                "declared, and not seen since this node's daemon started",
                "start its daemon, check address and certificate, or remove its manifest",
                HealthState.FAILING,
            )
        case Presence.LOST:
            yield Finding(
                HealthReason.NODE_LOST,
                f"its connection ended without a goodbye {absent_seconds:.0f} s ago",
                "look at its power, network and daemon; it comes back by itself",
                HealthState.FAILING,
            )
        case Presence.LEFT:
            yield Finding(
                HealthReason.NODE_LEFT,
                f"its daemon was ended {absent_seconds:.0f} s ago",
                "start its daemon, or remove its manifest",
                HealthState.FAILING,
            )
        case Presence.SUSPECT:
            yield Finding(
                HealthReason.NODE_SUSPECT,
                "connected, but its daemon reports nothing",
                "look whether the machine is overloaded, asleep or out of memory",
            )


def _of_rivals(rivals: Collection[BootId]) -> Iterator[Finding]:
    if rivals:
        yield Finding(
            HealthReason.RIVAL_NODE,
            f"{len(rivals)} more daemon(s) run under this node's name: {', '.join(sorted(rivals))}",
            "stop them, or give each its own name in node.toml",
            HealthState.FAILING,
        )


def _of_conditions(conditions: Sequence[Condition]) -> Iterator[Finding]:
    for condition in conditions:
        if condition.status is not Status.TRUE:
            continue
        if condition.reason is Reason.SOURCE_STALE:
            yield Finding(
                HealthReason.SOURCE_STALE,
                f"it does not learn of new commits: {condition.message}",
                "check that the node reaches the repository; what was accepted stays in force",
            )
        elif condition.type is ConditionType.STALLED:
            yield Finding(
                HealthReason.COMMIT_REFUSED,
                f"{condition.reason.value}: {condition.message}",
                "mend the commit or revert it; the last accepted one stays in force",
            )


# --- what was measured --------------------------------------------------------------------------------------


def _of_readings(readings: Mapping[str, Reading]) -> Iterator[Finding]:
    for kind, judge in _JUDGES.items():
        reading = readings.get(kind)
        if reading is None:
            continue
        if reading.age_seconds > stale_after_seconds(kind):
            yield Finding(
                HealthReason.TELEMETRY_STALE,
                f"the last {kind.value} reading is {reading.age_seconds:.0f} s old",
                "the tool or disk that is asked may hang: see `telemetry_missed` in the daemon's log",
            )
        else:
            yield from judge(reading.values)


def stale_after_seconds(kind: Kind) -> float:
    """Age beyond which a reading says nothing about now."""
    return max(STALE_SECONDS_MIN, STALE_INTERVALS * interval_seconds(kind))


def _of_memory(values: Values) -> Iterator[Finding]:
    total, available = number(values, "totalBytes"), number(values, "availableBytes")
    swapped = number(values, "swapUsedBytes")
    share = available / total if total and available is not None else None
    pressure = text(values, "pressure")
    remedy = "stop what else runs there, or give its deployments less memory (`contextTokens`, `reserve`)"
    room = "" if share is None else f", {100 * share:.0f} % available"
    if pressure in ("warning", "critical"):
        state = HealthState.FAILING if pressure == "critical" else HealthState.DEGRADED
        yield Finding(
            HealthReason.MEMORY_PRESSURE, f"the system reports memory pressure: {pressure}{room}", remedy, state
        )
    elif pressure is None and share is not None and share < MEMORY_AVAILABLE_SHARE_MIN:
        yield Finding(HealthReason.MEMORY_PRESSURE, f"memory is all but used up{room}", remedy)
    swaps = total is not None and swapped is not None and swapped >= SWAP_SHARE_MAX * total
    if swaps and swapped is not None and share is not None and share < SWAP_AVAILABLE_SHARE_MAX:
        yield Finding(HealthReason.SWAPPING, f"{_gib(swapped)} are swapped out{room}: answers become slow", remedy)


def _of_disk(values: Values) -> Iterator[Finding]:
    for disk in entries(values, "disks"):
        total, free = number(disk, "totalBytes"), number(disk, "freeBytes")
        if free is None:
            continue
        scarce = total is not None and free < min(DISK_FREE_SHARE_LOW * total, DISK_FREE_BYTES_ROOMY)
        if free >= DISK_FREE_BYTES_LOW and not scarce:
            continue
        failing = free < DISK_FREE_BYTES_FAILING
        yield Finding(
            HealthReason.DISK_NEARLY_FULL,
            f"{_gib(free)} are free at {text(disk, 'path') or 'a disk'}",
            "remove models that no deployment needs, or other files there",
            HealthState.FAILING if failing else HealthState.DEGRADED,
        )


def _of_system(values: Values) -> Iterator[Finding]:
    yield from _heat("the processor", number(values, "temperatureCelsius"), CPU_CELSIUS_MAX)
    thermal = text(values, "thermalPressure")
    if thermal in ("heavy", "trapping", "sleeping"):
        yield Finding(
            HealthReason.OVERHEATING,
            f"the system slows itself down: thermal pressure {thermal}",
            _COOLER,
            HealthState.DEGRADED if thermal == "heavy" else HealthState.FAILING,
        )


def _of_accelerator(values: Values) -> Iterator[Finding]:
    for device in entries(values, "devices"):
        name = text(device, "name") or "an accelerator"
        yield from _heat(name, number(device, "temperatureCelsius"), ACCELERATOR_CELSIUS_MAX)


def _heat(name: str, celsius: float | None, most: float) -> Iterator[Finding]:
    if celsius is not None and celsius >= most:
        yield Finding(HealthReason.OVERHEATING, f"{name} is at {celsius:.0f} °C", _COOLER)


def _of_daemon(values: Values) -> Iterator[Finding]:
    lag = number(values, "loopLagSeconds")
    if lag is not None and lag >= LOOP_LAG_SECONDS_MAX:
        yield Finding(
            HealthReason.DAEMON_SLOW,
            f"the daemon's loop was late by {lag:.1f} s",
            "the machine is overloaded: move deployments away, or stop what else runs there",
        )


_COOLER = "look at fans, dust and airflow, or move deployments away"
_JUDGES: Mapping[Kind, Callable[[Values], Iterator[Finding]]] = {
    Kind.MEMORY: _of_memory,
    Kind.SYSTEM: _of_system,
    Kind.ACCELERATOR: _of_accelerator,
    Kind.DAEMON: _of_daemon,
    Kind.DISK: _of_disk,
}


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"
