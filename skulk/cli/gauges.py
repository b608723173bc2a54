"""What `skulk top` shows: nodes with their readings and health, runners with their load. Pure; `-` stands for unknown.

Reads the resources of `/fleet/v1`; whatever is missing or of another shape in them is unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skulk.cli import table, values
from skulk.core.readings import entries, number, text

Json = Mapping[str, Any]

# Wide enough to see a change of a tenth at a glance, narrow enough for eighty columns.
BAR_CELLS = 10

_NODES = ("NODE", "PRESENCE", "HEALTH", "CPU", "MEMORY", "ACCELERATOR", "POWER", "DISK-FREE", "AGE")
_TOLD = ("reason", "message", "remediation")
_RUNNERS = ("RUNNER", "DEPLOYMENT", "NODE", "PHASE", "RUNNING", "WAITING", "TOKENS/S", "RESIDENT")


def screen(nodes: Sequence[Json], runners: Sequence[Json], placements: Sequence[Json]) -> list[str]:
    """All lines: the nodes, what is wrong with them, the runners."""
    lines = table.lines([_NODES, *map(_node, nodes)]) if nodes else ["no nodes"]
    findings = [line for node in nodes for line in _findings(node)]
    lines += ["", *findings] if findings else []
    places = {str(p.get("name")): p for p in placements}
    lines.append("")
    lines += table.lines([_RUNNERS, *(_runner(r, places) for r in runners)]) if runners else ["no runners"]
    return lines


def belongs(resource: Json, node: str, placements: Sequence[Json]) -> bool:
    """Whether a runner is one of that node."""
    return _known(resource, {str(p.get("name")): p for p in placements}, "node") == node


# --- nodes --------------------------------------------------------------------------------------------------


def health(resource: Json) -> str:
    """`ok`, or the state with its first reason: `degraded (DiskNearlyFull)`."""
    found = _mapping(_status(resource).get("health"))
    state = text(found, "state")
    if state is None:
        return values.MISSING
    reasons = [reason for finding in entries(found, "findings") if (reason := text(finding, "reason"))]
    if state == "ok" or not reasons:
        return values.plain(state)
    more = f" +{len(reasons) - 1}" if len(reasons) > 1 else ""
    return values.plain(f"{state} ({reasons[0]}{more})")


def memory(resource: Json) -> str:
    """`9.8/24GiB` in use, as last measured."""
    found = reading(resource, "memory")
    return part(number(found, "usedBytes"), number(found, "totalBytes"))


def reading(resource: Json, kind: str) -> Json:
    """The values of one kind, with `ageSeconds`; empty when there are none."""
    return _mapping(_mapping(_status(resource).get("readings")).get(kind))


def part(used: float | None, total: float | None) -> str:
    """Two sizes with one unit where they share it: `9.8/24GiB`, `512MiB/24GiB`."""
    if total is None:
        return values.MISSING
    whole, some = values.size(total), values.MISSING if used is None else values.size(used)
    unit = whole.lstrip("0123456789.")
    return f"{some.removesuffix(unit)}/{whole}"


def bar(share: float | None) -> str:
    """`[######....]`: the same in every terminal, font and log."""
    if share is None:
        return ""
    filled = round(min(1.0, max(0.0, share)) * BAR_CELLS)
    return f"[{'#' * filled}{'.' * (BAR_CELLS - filled)}] "


def percent(share: float | None) -> str:
    return values.MISSING if share is None else f"{100 * share:.0f}%"


def _node(resource: Json) -> tuple[str, ...]:
    status, system = _status(resource), reading(resource, "system")
    held = reading(resource, "memory")
    used, total = number(held, "usedBytes"), number(held, "totalBytes")
    age = number(held, "ageSeconds")
    return (
        values.plain(resource.get("name")),
        values.plain(status.get("presence")),
        health(resource),
        percent(number(system, "cpuUtilisation")),
        bar(used / total if used is not None and total else None) + memory(resource),
        ", ".join(map(_device, _devices(resource))) or values.MISSING,
        _watts(resource),
        _disk_free(resource),
        values.MISSING if age is None else values.duration(age),
    )


def _devices(resource: Json) -> tuple[Json, ...]:
    return entries(reading(resource, "accelerator"), "devices")


def _device(device: Json) -> str:
    """Utilisation, and memory where the device has its own."""
    busy = percent(number(device, "utilisation"))
    if device.get("unified") is not False:
        return busy
    return f"{busy} {part(number(device, 'memoryUsedBytes'), number(device, 'memoryTotalBytes'))}"


def _watts(resource: Json) -> str:
    """What was measured of processors and accelerators. A unified accelerator's share is part of the chip's."""
    chip = number(reading(resource, "system"), "powerWatts")
    devices = [d for d in _devices(resource) if chip is None or d.get("unified") is not True]
    known = [watts for d in devices if (watts := number(d, "powerWatts")) is not None]
    known += [] if chip is None else [chip]
    return f"{sum(known):.0f}W" if known else values.MISSING


def _disk_free(resource: Json) -> str:
    """The scarcest of the disks that were measured."""
    disks = entries(reading(resource, "disk"), "disks")
    free = [amount for disk in disks if (amount := number(disk, "freeBytes")) is not None]
    return values.size(min(free, default=None))


def _findings(resource: Json) -> list[str]:
    name = values.plain(resource.get("name"))
    found = entries(_mapping(_status(resource).get("health")), "findings")
    told = (tuple(values.plain(finding.get(key)) for key in _TOLD) for finding in found)
    return [f"{name}: {reason}: {message}; {remedy}" for reason, message, remedy in told]


# --- runners ------------------------------------------------------------------------------------------------


def _runner(resource: Json, places: Mapping[str, Json]) -> tuple[str, ...]:
    status = _status(resource)
    return (
        values.plain(resource.get("name")),
        values.plain(_known(resource, places, "deployment")),
        values.plain(_known(resource, places, "node")),
        values.plain(status.get("phase")),
        values.plain(status.get("running")),
        values.plain(status.get("waiting")),
        values.plain(status.get("tokensPerSecond")),
        values.size(status.get("residentBytes")),
    )


def _known(resource: Json, places: Mapping[str, Json], key: str) -> object:
    """What a runner says of itself, or else its placement, which has the same name."""
    return _status(resource).get(key) or _status(places.get(str(resource.get("name")), {})).get(key)


def _status(resource: Json) -> Json:
    return _mapping(resource.get("status"))


def _mapping(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}
