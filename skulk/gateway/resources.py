"""The view as JSON for `/fleet/v1`: camelCase, times in seconds of the epoch, nothing left out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

from skulk.core.domain import KINDS, Condition, Event, FleetView, Resource, Waiting


def plain(value: object) -> object:
    """A value of spec or status as JSON has it: mappings, lists, enums resolved; NaN and infinity as null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def resource_json(resource: Resource) -> dict[str, object]:
    return {
        "kind": resource.kind,
        "name": resource.name,
        "spec": plain(resource.spec),
        "status": plain(resource.status),
        "conditions": [condition_json(condition) for condition in resource.conditions],
        "waiting": [waiting_json(waiting) for waiting in resource.waiting],
    }


def condition_json(condition: Condition) -> dict[str, object]:
    return {
        "type": condition.type.value,
        "status": condition.status.value,
        "reason": condition.reason.value,
        "message": condition.message,
        "commit": condition.commit,
        "since": condition.since,
    }


def waiting_json(waiting: Waiting) -> dict[str, object]:
    return {
        "subject": waiting.subject,
        "on": waiting.on,
        "reason": waiting.reason.value,
        "message": waiting.message,
    }


def event_json(event: Event) -> dict[str, object]:
    return {
        "number": event.number,
        "at": event.at,
        "subject": event.subject,
        "reason": event.reason,
        "message": event.message,
    }


def status_json(view: FleetView) -> dict[str, object]:
    return {
        "node": view.node,
        "version": view.version,
        "generation": view.generation,
        "attempted": view.attempted,
        "accepted": view.accepted,
        "inForce": view.in_force,
        "closing": view.closing,
        "conditions": [condition_json(condition) for condition in view.conditions],
        "waiting": [waiting_json(waiting) for waiting in view.waiting],
    }


def watch_json(view: FleetView) -> dict[str, object]:
    return {
        "generation": view.generation,
        "status": status_json(view),
        "resources": {kind: [resource_json(resource) for resource in view.resources.get(kind, ())] for kind in KINDS},
    }
