"""The resources of `skulk get`, kind by kind, from a picture. Pure; JSON values with camelCase keys."""

from __future__ import annotations

from collections.abc import Mapping

from skulk.core.domain import (
    Condition,
    EngineBuild,
    Fleet,
    Link,
    Placement,
    PlacementUid,
    Resource,
    RunnerFacts,
)
from skulk.core.formats.content import content_key
from skulk.core.reconcile.summary import Since, deployment_conditions, placement_conditions
from skulk.node.picture import Picture

States = Mapping[PlacementUid, tuple[Condition, ...]]


def placement_states(picture: Picture, since: Since) -> dict[PlacementUid, tuple[Condition, ...]]:
    return {
        uid: since.stamp(
            f"placement/{uid}", placement_conditions(record, picture.waiting, picture.accepted), picture.wall
        )
        for uid, record in picture.ledger.records.items()
    }


def known_placements(picture: Picture) -> dict[PlacementUid, Placement]:
    blueprint = picture.blueprint
    return {p.uid: p for p in blueprint.placements} if blueprint else {}


def placements(picture: Picture, states: States) -> tuple[Resource, ...]:
    planned = known_placements(picture)
    retiring = {r.uid: r for r in picture.blueprint.retiring} if picture.blueprint else {}
    resources = []
    for uid in sorted({*planned, *picture.ledger.records}):
        record = picture.ledger.records.get(uid)
        placement, facts = planned.get(uid), picture.runners.get(uid)
        if record is None and placement is None:
            continue
        launch = facts.launch if facts else None
        source: Placement | None = placement
        spec: dict[str, object] = {
            "deployment": source.deployment if source else launch.deployment if launch else None,
            "replica": source.replica if source else launch.replica if launch else None,
            "model": source.model if source else launch.model if launch else None,
            "nodes": list(source.nodes) if source else [picture.node],
            "backend": source.backend if source else launch.backend if launch else None,
            "contextTokens": source.context_tokens if source else launch.context_tokens if launch else None,
            "concurrency": source.concurrency if source else launch.concurrency if launch else None,
            "launchHash": source.launch_hash if source else launch.launch_hash if launch else None,
            "contentHash": source.content_hash if source else launch.content_hash if launch else None,
        }
        conditions = states.get(uid, ())
        leaving = retiring.get(uid)
        status: dict[str, object] = {
            **{k: spec[k] for k in ("deployment", "replica", "model", "backend", "contextTokens", "concurrency")},
            "node": picture.node,
            "phase": record.phase.value if record else "Planned",
            "since": (record.since + picture.wall_offset) if record else None,
            "memoryBytes": _memory(placement, facts),
            "failures": record.attempts if record else 0,
            "message": leaving.message if leaving else conditions[0].message if conditions else "",
            "retiring": leaving is not None or placement is None,
        }
        lines = tuple(w for w in picture.waiting if w.subject == uid)
        resources.append(Resource("Placement", uid, spec, status, conditions, lines))
    return tuple(resources)


def _memory(placement: Placement | None, facts: RunnerFacts | None) -> int | None:
    if placement is not None:
        return placement.ranks[0].memory_bytes
    return facts.launch.memory_bytes if facts is not None else None


def deployments(
    picture: Picture, states: States, since: Since
) -> tuple[tuple[Resource, ...], dict[str, tuple[Condition, ...]]]:
    if picture.fleet is None:
        return (), {}
    resources, all_conditions = [], {}
    for name, deployment in sorted(picture.fleet.deployments.items()):
        placements = [p for p in known_placements(picture).values() if p.deployment == name]
        unplaced = [u for u in picture.blueprint.unplaced if u.deployment == name] if picture.blueprint else []
        outages = picture.blueprint.outages if picture.blueprint else ()
        current = {p.uid for p in placements}
        before = sum(1 for uid in picture.routable - current if _deployment_of(picture, uid) == name)
        conditions = since.stamp(
            f"deployment/{name}",
            deployment_conditions(deployment, placements, unplaced, states, before, picture.accepted),
            picture.wall,
        )
        all_conditions[str(name)] = conditions
        status = {
            "model": deployment.model,
            "replicas": deployment.replicas,
            "readyReplicas": len(picture.routable & current),
            "previousReplicas": before,
            "phase": conditions[0].reason.value,
            "message": conditions[0].message,
            "outage": next((o.message for o in outages if o.deployment == name), None),
            "commit": picture.accepted,
        }
        spec = _spec(picture.fleet, f"Deployment/{name}")
        lines = tuple(w for w in picture.waiting if w.subject in current)
        resources.append(Resource("Deployment", name, spec, status, conditions, lines))
    return tuple(resources), all_conditions


def _deployment_of(picture: Picture, uid: PlacementUid) -> str | None:
    facts = picture.runners.get(uid)
    return facts.launch.deployment if facts is not None else None


def _spec(fleet: Fleet, key: str) -> Mapping[str, object]:
    spec = fleet.documents.get(key, {}).get("spec", {})
    return spec if isinstance(spec, Mapping) else {}


def fleet(
    picture: Picture, conditions: tuple[Condition, ...], deployments: Mapping[str, tuple[Condition, ...]]
) -> tuple[Resource, ...]:
    fleet = picture.fleet
    status = {
        "attempted": picture.attempted,
        "accepted": picture.accepted,
        "inForce": picture.blueprint.commit if picture.blueprint else None,
        "nodes": len(fleet.nodes) if fleet else 0,
        "deployments": len(deployments),
        "readyDeployments": sum(1 for cs in deployments.values() if cs[0].status.value == "True"),
        "source": [
            {"type": c.type.value, "status": c.status.value, "reason": c.reason.value, "message": c.message}
            for c in picture.source
        ],
    }
    name = fleet.name if fleet else "fleet"
    return (Resource("Fleet", name, _spec(fleet, f"Fleet/{name}") if fleet else {}, status, conditions),)


def nodes(picture: Picture) -> tuple[Resource, ...]:
    fleet = picture.fleet
    names = sorted({*(fleet.nodes if fleet else ()), picture.node})
    resources = []
    for name in names:
        declared = fleet.nodes.get(name) if fleet else None
        hardware = declared.hardware if declared is not None else None
        status: dict[str, object] = {
            "ready": False,
            "memoryBytes": hardware.memory_bytes if hardware is not None else None,
            "problems": ["not this node: nothing is known of it beyond its manifest"],
        }
        if name == picture.node:
            machine = picture.machine
            status = {
                "ready": picture.accepted is not None and declared is not None,
                "backends": [b.backend for b in machine.builds],
                "engines": [f"{b.backend} {b.version} ({b.device})" for b in machine.builds],
                "builds": [_build(build) for build in machine.builds],
                "memoryBytes": machine.memory_bytes,
                "diskBytes": machine.disk_bytes,
                "files": sorted(picture.files),
                "placedBytes": sum(f.launch.memory_bytes for f in picture.runners.values() if f.link is not Link.DEAD),
                "accepted": picture.accepted,
                "version": picture.version,
                "os": machine.os,
                "arch": machine.arch,
                "problems": list(machine.engine_problems),
            }
        if declared is not None:
            status["participation"] = declared.participation.value
        spec = _spec(fleet, f"Node/{name}") if fleet and declared else {}
        resources.append(Resource("Node", name, spec, status, picture.source if name == picture.node else ()))
    return tuple(resources)


def _build(build: EngineBuild) -> dict[str, object]:
    """Everything that planning needs to know of an engine build (`skulk plan --live`)."""
    return {
        "backend": build.backend,
        "engine": build.engine,
        "version": build.version,
        "digest": build.digest,
        "device": build.device,
        "unified": build.unified,
        "deviceMemoryBytes": build.device_memory_bytes,
    }


def cards(picture: Picture) -> tuple[Resource, ...]:
    if picture.fleet is None:
        return ()
    resources = []
    for name, card in sorted(picture.fleet.cards.items()):
        facts = picture.weights.get(content_key(card))
        status = {
            "modelId": card.model_id,
            "bytes": card.storage_bytes,
            "present": facts is not None and facts.ready,
            "fetchedBytes": facts.done_bytes if facts else 0,
            "error": facts.error if facts and facts.error_code else None,
            "deployments": sorted(d.name for d in picture.fleet.deployments.values() if d.model == name),
        }
        resources.append(Resource("ModelCard", name, _spec(picture.fleet, f"ModelCard/{name}"), status))
    return tuple(resources)


def runners(picture: Picture) -> tuple[Resource, ...]:
    resources = []
    for uid, facts in sorted(picture.runners.items()):
        record = picture.ledger.record(uid)
        words = facts.last_words
        status = {
            "placement": uid,
            "deployment": facts.launch.deployment,
            "pid": facts.pid,
            "phase": record.phase.value,
            "link": facts.link.value,
            "adopted": facts.adopted,
            "running": facts.running,
            "waiting": facts.waiting,
            "steps": facts.steps,
            "residentBytes": facts.resident_bytes,
            "startedAt": facts.started_at + picture.wall_offset,
            "loadShare": facts.load_share,
            "lastWords": words.message if words else None,
        }
        spec = {
            "placement": uid,
            "engine": facts.launch.engine,
            "backend": facts.launch.backend,
            "model": facts.launch.model,
            "contextTokens": facts.launch.context_tokens,
        }
        resources.append(Resource("Runner", uid, spec, status))
    return tuple(resources)
