"""The resources of `skulk get`, kind by kind, from a picture. Pure; JSON values with camelCase keys.

Placements and runners are in `skulk.node.placed`.
"""

from __future__ import annotations

from collections.abc import Mapping

from skulk.core.domain import (
    CardName,
    Condition,
    DeploymentName,
    EngineBuild,
    Fleet,
    Link,
    NodeName,
    PlacementUid,
    Presence,
    Resource,
    Unplaced,
    Waiting,
)
from skulk.core.domain import Node as Declared
from skulk.core.formats.content import content_key
from skulk.core.health import health_of
from skulk.core.reconcile.summary import Since, deployment_conditions
from skulk.core.release import other_version
from skulk.node.picture import Picture
from skulk.node.placed import Placed, presence_of


def deployments(
    picture: Picture, placed: Placed, since: Since
) -> tuple[tuple[Resource, ...], dict[str, tuple[Condition, ...]]]:
    if picture.fleet is None:
        return (), {}
    blueprint = picture.blueprint
    unplaced: dict[DeploymentName, list[Unplaced]] = {}
    for one in blueprint.unplaced if blueprint else ():
        unplaced.setdefault(one.deployment, []).append(one)
    outages = {o.deployment: o.message for o in reversed(blueprint.outages)} if blueprint else {}
    waits: dict[str, list[Waiting]] = {}
    for placement in placed.placements:
        if not placement.status["retiring"]:
            waits.setdefault(str(placement.status["deployment"]), []).extend(placement.waiting)
    resources, all_conditions = [], {}
    for name, deployment in sorted(picture.fleet.deployments.items()):
        placements = placed.planned.get(name, ())
        current = frozenset(p.uid for p in placements)
        serving = placed.serving.get(name, frozenset[PlacementUid]())
        conditions = since.stamp(
            f"deployment/{name}",
            deployment_conditions(
                deployment,
                placements,
                unplaced.get(name, ()),
                placed.states,
                len(serving - current),
                picture.accepted,
            ),
            picture.wall,
        )
        all_conditions[str(name)] = conditions
        status = {
            "model": deployment.model,
            "replicas": deployment.replicas,
            "readyReplicas": len(serving & current),
            "previousReplicas": len(serving - current),
            "phase": conditions[0].reason.value,
            "message": conditions[0].message,
            "outage": outages.get(name),
            "commit": picture.accepted,
        }
        spec = _spec(picture.fleet, f"Deployment/{name}")
        resources.append(Resource("Deployment", name, spec, status, conditions, tuple(waits.get(name, ()))))
    return tuple(resources), all_conditions


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
        "document": f"{picture.blueprint.epoch}.{picture.blueprint.seq}" if picture.blueprint else None,
        "nodes": len(fleet.nodes) if fleet else 0,
        "liveNodes": sum(1 for name in fleet.nodes if picture.live(name)) if fleet else 0,
        "coordinator": picture.coordinator,
        "deployments": len(deployments),
        "readyDeployments": sum(1 for cs in deployments.values() if cs[0].status.value == "True"),
        "source": [
            {"type": c.type.value, "status": c.status.value, "reason": c.reason.value, "message": c.message}
            for c in picture.source
        ],
    }
    name = fleet.name if fleet else "fleet"
    spec = _spec(fleet, f"Fleet/{name}") if fleet else {}
    return (Resource("Fleet", name, spec, status, conditions, picture.notes),)


def nodes(picture: Picture, placed: Placed) -> tuple[Resource, ...]:
    """Every declared node, and this one: as it tells itself, and whether it is there."""
    fleet = picture.fleet
    resources = []
    for name in sorted({*(fleet.nodes if fleet else ()), picture.node}):
        declared = fleet.nodes.get(name) if fleet else None
        told = own_machine(picture) if name == picture.node else _told(picture, name)
        status: dict[str, object] = {
            **(told.status if told is not None else _manifest(declared)),
            "presence": presence_of(picture, name),
            "readings": dict(picture.gauges.get(name, {})),
        }
        accepted = status.get("accepted") is not None
        status["ready"] = accepted and declared is not None and picture.live(name)
        if declared is not None:
            status["participation"] = declared.participation.value
        spec = _spec(fleet, f"Node/{name}") if fleet and declared else {}
        conditions = placed.absences.get(name) or (told.conditions if told is not None else ())
        status["health"] = _health(picture, name, told)
        resources.append(Resource("Node", name, spec, status, conditions))
    return tuple(resources)


def own_machine(picture: Picture) -> Resource:
    """This node as it tells the others: what it is and has. What they see of it themselves is not in it."""
    machine = picture.machine
    status = {
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
        "problems": [*picture.problems, *other_version(picture.fleet, picture.version), *machine.engine_problems],
    }
    return Resource("Node", picture.node, {}, status, picture.source)


def _told(picture: Picture, name: NodeName) -> Resource | None:
    share = picture.shares.get(name)
    return None if share is None else share.machine


def _manifest(declared: Declared | None) -> dict[str, object]:
    hardware = declared.hardware if declared is not None else None
    return {
        "memoryBytes": hardware.memory_bytes if hardware is not None else None,
        "problems": ["nothing was heard of it: only its manifest is known"],
    }


def _health(picture: Picture, name: NodeName, told: Resource | None) -> dict[str, object]:
    own = name == picture.node
    problems = told.status.get("problems", ()) if told is not None else ()
    return health_of(
        picture.readings.get(name, {}),
        presence=Presence.LIVE if own else picture.presence.get(name),
        absent_seconds=picture.absent_seconds.get(name, 0.0),
        problems=[str(line) for line in problems] if isinstance(problems, list | tuple) else (),
        conditions=told.conditions if told is not None else (),
        rivals=picture.rivals if own else (),
        plain=picture.plain and own,
    ).status()


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
    users: dict[CardName, list[str]] = {}
    for deployment in picture.fleet.deployments.values():
        users.setdefault(deployment.model, []).append(deployment.name)
    holders: dict[str, list[NodeName]] = {}
    for node in sorted({*picture.shares, picture.node}):
        for content in _present(picture, node):
            holders.setdefault(content, []).append(node)
    resources = []
    for name, card in sorted(picture.fleet.cards.items()):
        content = content_key(card)
        facts = picture.weights.get(content)
        status = {
            "modelId": card.model_id,
            "bytes": card.storage_bytes,
            "present": facts is not None and facts.ready,
            "nodes": holders.get(content, []),
            "fetchedBytes": facts.done_bytes if facts else 0,
            "error": facts.error if facts and facts.error_code else None,
            "deployments": sorted(users.get(name, ())),
        }
        resources.append(Resource("ModelCard", name, _spec(picture.fleet, f"ModelCard/{name}"), status))
    return tuple(resources)


def _present(picture: Picture, node: NodeName) -> frozenset[str]:
    """Content keys of the cards whose files are whole there."""
    if node != picture.node:
        return picture.shares[node].present
    return frozenset(content for content, facts in picture.weights.items() if facts.ready)
