"""A running fleet as one of its nodes shows it, in the planner's terms: members and running placements.

Reads only. What a node says is taken as data: a value of the wrong type is an answer that no node gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from skulk.cli.client import FleetClient
from skulk.core.domain import (
    BootId,
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    EngineBuild,
    LaunchHash,
    Member,
    NodeName,
    PlacementUid,
    RunningPlacement,
)
from skulk.core.errors import CLI_ANSWER, Transient
from skulk.core.planner import Remark

_T = TypeVar("_T")

# Phases in which a placement serves, or is on its way out; in all others it is on its way in.
_SERVING = "Ready"
_ENDING = frozenset({"Draining", "Stopping"})
# The blueprint lists it and nobody has begun to work on it; or it is over.
_NOT_THERE = frozenset({"Planned", "Gone"})


@dataclass(frozen=True, slots=True)
class Live:
    """The fleet at one moment. `commit` is the one in force, None before the first."""

    commit: CommitId | None
    members: tuple[Member, ...]
    running: tuple[RunningPlacement, ...]
    silent: tuple[Remark, ...]
    """Nodes that are known and tell nothing that can be planned with."""


def read_live(client: FleetClient) -> Live:
    """Ask one node. Raises what FleetClient raises, and Transient (CLI_ANSWER) for values of no node."""
    nodes, placements = client.get("/fleet/v1/nodes"), client.get("/fleet/v1/placements")
    members: list[Member] = []
    silent: list[Remark] = []
    for item in _items(nodes):
        name, status = NodeName(_value(item, "name", str)), _value(item, "status", dict)
        presence = status.get("presence", "live")
        if presence != "live":
            silent.append(Remark(name, f"is {presence}: it keeps what it runs and takes nothing new"))
        elif isinstance(status.get("builds"), list):
            members.append(_member(name, status))
        else:
            silent.append(Remark(name, "reports no facts: it keeps what it runs and takes nothing new"))
    commit = nodes.get("commit")
    return Live(
        commit=CommitId(commit) if isinstance(commit, str) and commit else None,
        members=tuple(members),
        running=tuple(entry for item in _items(placements) if (entry := _running(item)) is not None),
        silent=tuple(silent),
    )


def _member(name: NodeName, status: Mapping[str, Any]) -> Member:
    return Member(
        node=name,
        boot=BootId("live"),
        memory_bytes=_value(status, "memoryBytes", int),
        builds=tuple(_build(build) for build in _value(status, "builds", list)),
        files=frozenset(map(str, _value(status, "files", list, []))),
        os=_value(status, "os", str, ""),
        arch=_value(status, "arch", str, ""),
        skulk_version=_value(status, "version", str, ""),
        disk_bytes=None if status.get("diskBytes") is None else _value(status, "diskBytes", int),
    )


def _build(build: object) -> EngineBuild:
    fields = _mapping(build)
    memory = fields.get("deviceMemoryBytes")
    return EngineBuild(
        backend=_value(fields, "backend", str),
        engine=_value(fields, "engine", str),
        version=_value(fields, "version", str),
        digest=_value(fields, "digest", str),
        device=_value(fields, "device", str, ""),
        unified=_value(fields, "unified", bool, True),
        device_memory_bytes=None if memory is None else _value(fields, "deviceMemoryBytes", int),
    )


def _running(item: Mapping[str, Any]) -> RunningPlacement | None:
    spec, status = _value(item, "spec", dict), _value(item, "status", dict)
    phase = _value(status, "phase", str)
    if phase in _NOT_THERE or status.get("deployment") is None:
        return None
    return RunningPlacement(
        uid=PlacementUid(_value(item, "name", str)),
        deployment=DeploymentName(_value(status, "deployment", str)),
        replica=_value(status, "replica", int),
        model=CardName(_value(status, "model", str)),
        node=NodeName(_value(status, "node", str)),
        backend=_value(status, "backend", str),
        context_tokens=_value(status, "contextTokens", int),
        concurrency=_value(status, "concurrency", int),
        launch_hash=LaunchHash(_value(spec, "launchHash", str)),
        content_hash=ContentHash(_value(spec, "contentHash", str)),
        memory_bytes=_value(status, "memoryBytes", int, 0),
        complete=phase == _SERVING,
        draining=phase in _ENDING,
    )


def _items(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [_mapping(item) for item in _value(answer, "items", list)]


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Transient(CLI_ANSWER, "the node answered with something else than its resources")
    return value


def _value(fields: Mapping[str, Any], key: str, kind: type[_T], default: _T | None = None) -> _T:
    value = fields.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Transient(CLI_ANSWER, f"the node answered with a {key} that is no {kind.__name__}")
    return value
