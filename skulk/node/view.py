"""The snapshot that gateway and CLI read, built from what the loop knows. Pure; it looks at nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from skulk.core.domain import (
    Access,
    Blueprint,
    Card,
    CardName,
    Check,
    CommitId,
    Condition,
    Deployment,
    Event,
    Fleet,
    FleetView,
    Link,
    NodeName,
    Placement,
    PlacementUid,
    Resource,
    Route,
    RunnerFacts,
    ServedModel,
    Waiting,
    WeightsFacts,
)
from skulk.core.formats.content import content_key
from skulk.core.ports import Machine
from skulk.core.reconcile.ledger import Ledger
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.summary import (
    Since,
    deployment_conditions,
    fleet_conditions,
    placement_conditions,
)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything known at one tick. Times of facts are monotonic; `wall_offset` turns them into epoch seconds."""

    node: NodeName
    version: str
    fleet: Fleet | None
    attempted: CommitId | None
    accepted: CommitId | None
    leaving: bool
    source: tuple[Condition, ...]
    machine: Machine
    blueprint: Blueprint | None
    ledger: Ledger
    waiting: tuple[Waiting, ...]
    routable: frozenset[PlacementUid]
    runners: Mapping[PlacementUid, RunnerFacts]
    weights: Mapping[str, WeightsFacts]
    why: Callable[[str], tuple[str, ...]]
    """The planner's reasons for one deployment, computed on request."""
    checks: tuple[Check, ...]
    wall: float
    wall_offset: float
    closing: bool = False


def build(picture: Picture, since: Since, events: tuple[Event, ...], generation: int) -> FleetView:
    """The whole view. Only `since` has memory: when each condition last changed."""
    states = _placement_states(picture, since)
    placements = _placements(picture, states)
    deployments, deployment_states = _deployments(picture, states, since)
    fleet = picture.fleet
    suspended = frozenset(str(n) for n, d in fleet.deployments.items() if d.suspend) if fleet else frozenset()
    conditions = since.stamp(
        "fleet",
        fleet_conditions(picture.source, deployment_states, suspended, picture.accepted),
        picture.wall,
    )
    resources = {
        "fleet": _fleet(picture, conditions, deployment_states),
        "nodes": _nodes(picture),
        "deployments": deployments,
        "cards": _cards(picture),
        "placements": placements,
        "runners": _runners(picture),
    }
    return FleetView(
        generation=generation,
        node=picture.node,
        version=picture.version,
        attempted=picture.attempted,
        accepted=picture.accepted,
        in_force=picture.blueprint.commit if picture.blueprint else None,
        resources=resources,
        models=_models(picture, states, deployment_states),
        access=fleet.access if fleet else Access(),
        conditions=(*conditions, *(c for c in picture.source if c.reason not in {k.reason for k in conditions})),
        waiting=picture.waiting,
        events=events,
        checks=picture.checks,
        closing=picture.closing,
        why=_why(picture, states),
    )


States = Mapping[PlacementUid, tuple[Condition, ...]]


def _placement_states(picture: Picture, since: Since) -> dict[PlacementUid, tuple[Condition, ...]]:
    return {
        uid: since.stamp(
            f"placement/{uid}", placement_conditions(record, picture.waiting, picture.accepted), picture.wall
        )
        for uid, record in picture.ledger.records.items()
    }


def _known_placements(picture: Picture) -> dict[PlacementUid, Placement]:
    blueprint = picture.blueprint
    return {p.uid: p for p in blueprint.placements} if blueprint else {}


def _placements(picture: Picture, states: States) -> tuple[Resource, ...]:
    planned = _known_placements(picture)
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


def _deployments(
    picture: Picture, states: States, since: Since
) -> tuple[tuple[Resource, ...], dict[str, tuple[Condition, ...]]]:
    if picture.fleet is None:
        return (), {}
    resources, all_conditions = [], {}
    for name, deployment in sorted(picture.fleet.deployments.items()):
        placements = [p for p in _known_placements(picture).values() if p.deployment == name]
        unplaced = [u for u in picture.blueprint.unplaced if u.deployment == name] if picture.blueprint else []
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


def _fleet(
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


def _nodes(picture: Picture) -> tuple[Resource, ...]:
    fleet = picture.fleet
    names = sorted({*(fleet.nodes if fleet else ()), picture.node})
    resources = []
    for name in names:
        declared = fleet.nodes.get(name) if fleet else None
        status: dict[str, object] = {"ready": False, "problems": ["not this node: no telemetry yet"]}
        if name == picture.node:
            machine = picture.machine
            status = {
                "ready": picture.accepted is not None and declared is not None,
                "backends": [b.backend for b in machine.builds],
                "engines": [f"{b.backend} {b.version} ({b.device})" for b in machine.builds],
                "memoryBytes": machine.memory_bytes,
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


def _cards(picture: Picture) -> tuple[Resource, ...]:
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


def _runners(picture: Picture) -> tuple[Resource, ...]:
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


def _models(
    picture: Picture, states: States, deployments: Mapping[str, tuple[Condition, ...]]
) -> tuple[ServedModel, ...]:
    """What clients may put in `model`: first every deployment by name and aliases, then every deployed card.

    A deployment's name reaches whatever version of it serves at the moment, also while its model is being
    replaced; a card's name reaches only runners of that card.
    """
    fleet = picture.fleet
    if fleet is None:
        return ()
    models: list[ServedModel] = []
    taken: set[str] = set()
    active = [d for _, d in sorted(fleet.deployments.items()) if not d.suspend]
    for deployment in active:
        names = (str(deployment.name), *deployment.aliases)
        models.append(_served(picture, fleet.cards[deployment.model], [deployment], names, deployments, None))
        taken.update(names)
    for name, card in sorted(fleet.cards.items()):
        owners = [d for d in active if d.model == name]
        names = tuple(n for n in dict.fromkeys((str(name), card.model_id)) if n not in taken)
        if owners and names:
            models.append(_served(picture, card, owners, names, deployments, name))
    return tuple(models)


def _served(
    picture: Picture,
    card: Card,
    owners: Sequence[Deployment],
    names: tuple[str, ...],
    deployments: Mapping[str, tuple[Condition, ...]],
    only: CardName | None,
) -> ServedModel:
    routes = tuple(route for d in owners for route in _routes(picture, d, only))
    problems = [deployments[str(d.name)][0].message for d in owners if str(d.name) in deployments]
    return ServedModel(
        card=card,
        deployments=tuple(d.name for d in owners),
        names=names,
        routes=routes,
        not_ready="" if any(r.ready for r in routes) else "; ".join(problems),
        progress=_progress(picture, routes, content_key(card)),
        max_context_tokens=max((r.context_tokens for r in routes), default=0),
    )


def _routes(picture: Picture, deployment: Deployment, only: CardName | None) -> list[Route]:
    routes = []
    for uid, facts in sorted(picture.runners.items()):
        if facts.launch.deployment != deployment.name or only not in (None, facts.launch.model):
            continue
        routes.append(
            Route(
                uid=uid,
                deployment=deployment.name,
                node=picture.node,
                ready=uid in picture.routable and facts.link is Link.CONNECTED,
                running=facts.running,
                waiting=facts.waiting,
                concurrency=facts.launch.concurrency,
                context_tokens=facts.launch.context_tokens,
                content_hash=facts.launch.content_hash,
                queue_max=facts.launch.queue_max,
            )
        )
    return routes


def _progress(picture: Picture, routes: Sequence[Route], content: str) -> str:
    weights = picture.weights.get(content)
    if weights is not None and weights.active:
        return f"fetching {weights.done_bytes}/{weights.total_bytes} bytes"
    for route in routes:
        record = picture.ledger.record(route.uid)
        if record.phase in (Phase.LOADING, Phase.WARMING, Phase.STARTING):
            return f"{record.phase.value} {picture.runners[route.uid].load_share:.0%}"
    return ""


class Reasons(Mapping[str, tuple[str, ...]]):
    """Full reasons by name: the planner's, worked out when somebody asks, then what each placement is doing.

    The planner's part costs a plan per deployment, so it must not be paid at every snapshot.
    """

    def __init__(self, planned: Callable[[str], tuple[str, ...]], names: Iterable[str], known: _Lines) -> None:
        self._planned = planned
        self._names = frozenset(names)
        self._known = {**dict.fromkeys(sorted(self._names), ()), **known}

    def __getitem__(self, name: str) -> tuple[str, ...]:
        lines = self._known[name]
        return (*self._planned(name), *lines) if name in self._names else lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reasons) and (self._planned, self._known) == (other._planned, other._known)

    __hash__ = None  # type: ignore[assignment]  # a mapping, compared by value


_Lines = Mapping[str, tuple[str, ...]]


def _why(picture: Picture, states: States) -> _Lines:
    reasons: dict[str, list[str]] = {}
    for uid, conditions in states.items():
        placement = _known_placements(picture).get(uid)
        facts = picture.runners.get(uid)
        owner = placement.deployment if placement else facts.launch.deployment if facts else None
        if not conditions:
            continue
        line = f"placement {uid}: {picture.ledger.record(uid).phase.value}: {conditions[0].message}"
        reasons.setdefault(uid, []).append(line)
        if owner is not None:
            reasons.setdefault(owner, []).append(line)
    stalled = [c.message for c in picture.source if c.type.value == "Stalled" and c.status.value == "True"]
    reasons.setdefault(picture.node, []).extend(stalled or [f"commit {picture.accepted or 'none'} is accepted"])
    if picture.fleet is not None:
        reasons.setdefault(picture.fleet.name, []).extend(stalled or reasons[picture.node][-1:])
    known = {name: tuple(lines) for name, lines in reasons.items()}
    return Reasons(picture.why, map(str, picture.fleet.deployments) if picture.fleet else (), known)
