"""What runs where, over all nodes: this one from what it observes, the others from the shares they publish. Pure.

A node that does not take part right now keeps what it runs, as far as anybody knows: its placements are shown as they
were last heard of, with unknown conditions, and take no requests.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from skulk.core.domain import (
    Condition,
    ConditionType,
    DeploymentName,
    Launch,
    Link,
    NodeName,
    Placement,
    PlacementUid,
    Presence,
    Reading,
    Reason,
    Resource,
    Route,
    Share,
    Status,
)
from skulk.core.reconcile.ledger import Record
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.summary import Since, placement_conditions
from skulk.node.picture import Picture

LOAD_KIND = "runners"
"""Kind of the reading with the load of a node's runners: {uid: [running, waiting]}."""
LOAD_SECONDS_MAX = 5.0
"""An older reading of the load says less than the node's share, which comes when something changes."""
UNSEEN = "unseen"
"""Word for a declared node that never appeared while this daemon runs."""

_ABSENT: Mapping[str, str] = {
    Presence.SUSPECT.value: "it is connected, but its daemon does not get on",
    Presence.LOST.value: "it went without a word: a crash, a cut, or a frozen machine",
    Presence.LEFT.value: "it said goodbye",
}

_ON_THE_WAY = frozenset(phase.value for phase in (Phase.STARTING, Phase.LOADING, Phase.WARMING))

States = Mapping[PlacementUid, tuple[Condition, ...]]


@dataclass(frozen=True, slots=True)
class Placed:
    """The placements of the whole fleet, worked out once per snapshot."""

    planned: Mapping[DeploymentName, tuple[Placement, ...]]
    """As the blueprint in force has them."""
    absences: Mapping[NodeName, tuple[Condition, ...]]
    """Nodes whose placements take no requests now, and why; the conditions of all they run."""
    states: States
    """Only of placements that somebody works on, or whose node is absent."""
    placements: tuple[Resource, ...]
    runners: tuple[Resource, ...]
    loading: Mapping[PlacementUid, str]
    """Phase and share of the runners that are on their way to ready, on nodes that take part."""
    routes: Mapping[DeploymentName, tuple[Route, ...]]
    serving: Mapping[DeploymentName, frozenset[PlacementUid]]
    """Placements that answer requests, whatever version of the deployment they are."""


def presence_of(picture: Picture, name: NodeName) -> str:
    """`live`, `suspect`, `lost`, `left` or `unseen`."""
    if name == picture.node:
        return Presence.LIVE.value
    found = picture.presence.get(name)
    return UNSEEN if found is None else found.value


def gather(picture: Picture, since: Since) -> Placed:
    """Everything of it. Only `since` has memory: since when a node is absent, and each condition as it is."""
    blueprint = picture.blueprint
    planned = {p.uid: p for p in blueprint.placements} if blueprint else {}
    by_deployment: defaultdict[DeploymentName, list[Placement]] = defaultdict(list)
    for placement in planned.values():
        by_deployment[placement.deployment].append(placement)
    absences = _absences(picture, since)
    owners = _owners(picture, planned)
    placements = [*_own(picture, planned, since), *_elsewhere(picture, planned, absences, owners)]
    routes: defaultdict[DeploymentName, list[Route]] = defaultdict(list)
    serving: defaultdict[DeploymentName, set[PlacementUid]] = defaultdict(set)
    for route in _routes(picture, absences, owners):
        routes[route.deployment].append(route)
        if route.uid in picture.routable if route.node == picture.node else route.ready:
            serving[route.deployment].add(route.uid)
    runners = [*_own_runners(picture), *_runners_elsewhere(picture, owners)]
    return Placed(
        planned={name: tuple(group) for name, group in by_deployment.items()},
        absences=absences,
        states={PlacementUid(p.name): p.conditions for p in placements if p.conditions},
        placements=tuple(sorted(placements, key=_name)),
        runners=tuple(sorted(runners, key=_name)),
        loading={PlacementUid(r.name): _loaded(r) for r in runners if _is_loading(r, absences)},
        routes={name: tuple(sorted(group, key=lambda r: r.uid)) for name, group in routes.items()},
        serving={name: frozenset(uids) for name, uids in serving.items()},
    )


def _name(resource: Resource) -> str:
    return resource.name


# --- absence ----------------------------------------------------------------------------------------------------


def _absences(picture: Picture, since: Since) -> dict[NodeName, tuple[Condition, ...]]:
    declared = picture.fleet.nodes.keys() if picture.fleet else frozenset[NodeName]()
    found = {}
    for name in sorted({*declared, *picture.shares, *picture.presence} - {picture.node}):
        share, word = picture.shares.get(name), presence_of(picture, name)
        if word != Presence.LIVE or (share is not None and share.closing):
            found[name] = _absence(name, word, since, picture.wall)
    return found


def _absence(name: NodeName, word: str, since: Since, wall: float) -> tuple[Condition, ...]:
    """Unknown in every respect. The word is part of the subject, so that lost after suspect counts anew."""
    nothing = Condition(ConditionType.READY, Status.UNKNOWN, Reason.NODE_ABSENT, "")
    (stamped,) = since.stamp(f"absent/{name}/{word}", [nothing], wall)
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stamped.since))
    if word == UNSEEN:
        message = f"node {name} was not seen since this daemon started"
    elif word == Presence.LIVE:
        message = f"node {name} is about to end its daemon since {at}"
    else:
        message = f"node {name} is {word} since {at}: {_ABSENT[word]}"
    return tuple(replace(stamped, type=type_, message=message) for type_ in ConditionType)


def absence_subjects(picture: Picture, absences: Mapping[NodeName, object]) -> frozenset[str]:
    """The subjects that `since` must not forget."""
    return frozenset(f"absent/{name}/{presence_of(picture, name)}" for name in absences)


# --- placements -------------------------------------------------------------------------------------------------


def _owners(picture: Picture, planned: Mapping[PlacementUid, Placement]) -> dict[PlacementUid, NodeName]:
    """Whose word counts, should two nodes speak of one placement: this node's own, then that of the planned node."""
    owners: dict[PlacementUid, NodeName] = {}
    for name, share in _others(picture):
        for uid in (PlacementUid(p.name) for p in (*share.placements, *share.runners)):
            placement = planned.get(uid)
            if uid not in owners or (placement is not None and name in placement.nodes):
                owners[uid] = name
    return {**owners, **dict.fromkeys((*picture.ledger.records, *picture.runners), picture.node)}


def _others(picture: Picture) -> Iterator[tuple[NodeName, Share]]:
    return ((name, share) for name, share in sorted(picture.shares.items()) if name != picture.node)


def _own(picture: Picture, planned: Mapping[PlacementUid, Placement], since: Since) -> Iterator[Resource]:
    retiring = {r.uid: r.message for r in picture.blueprint.retiring} if picture.blueprint else {}
    for uid, record in picture.ledger.records.items():
        conditions = since.stamp(
            f"placement/{uid}", placement_conditions(record, picture.waiting, picture.accepted), picture.wall
        )
        facts = picture.runners.get(uid)
        yield _placement(
            picture,
            uid,
            planned.get(uid) or (facts.launch if facts else None),
            picture.node,
            record=record,
            conditions=conditions,
            message=retiring.get(uid) or conditions[0].message,
            retiring=uid in retiring or uid not in planned,
        )


def _elsewhere(
    picture: Picture,
    planned: Mapping[PlacementUid, Placement],
    absences: Mapping[NodeName, tuple[Condition, ...]],
    owners: Mapping[PlacementUid, NodeName],
) -> Iterator[Resource]:
    """What others work on, as they say; then what is planned, here or there, and nobody works on yet."""
    told = set()
    for name, share in _others(picture):
        absence = absences.get(name)
        for resource in share.placements:
            if owners[PlacementUid(resource.name)] == name:
                told.add(resource.name)
                yield resource if absence is None else _unknown(resource, absence)
    for uid, placement in planned.items():
        if uid not in told and uid not in picture.ledger.records:
            absence = next((absences[n] for n in placement.nodes if n in absences), ())
            yield _placement(
                picture,
                uid,
                placement,
                picture.node if picture.node in placement.nodes else placement.nodes[0],
                conditions=absence,
                message=absence[0].message if absence else "",
            )


def _unknown(resource: Resource, absence: tuple[Condition, ...]) -> Resource:
    """The placement as it was last heard of."""
    status = {**resource.status, "message": absence[0].message}
    return replace(resource, status=status, conditions=absence, waiting=())


def _placement(
    picture: Picture,
    uid: PlacementUid,
    source: Placement | Launch | None,
    node: NodeName,
    *,
    record: Record | None = None,
    conditions: tuple[Condition, ...] = (),
    message: str = "",
    retiring: bool = False,
) -> Resource:
    """`source`: how it is planned; or, when it is not any more, how its runner was started. None when neither is
    known: only the ledger has it."""
    both: dict[str, object] = {
        "deployment": source.deployment if source else None,
        "replica": source.replica if source else None,
        "model": source.model if source else None,
        "backend": source.backend if source else None,
        "contextTokens": source.context_tokens if source else None,
        "concurrency": source.concurrency if source else None,
    }
    spec = {
        **both,
        "nodes": [*source.nodes] if isinstance(source, Placement) else [node],
        "launchHash": source.launch_hash if source else None,
        "contentHash": source.content_hash if source else None,
    }
    status = {
        **both,
        "node": node,
        "phase": record.phase.value if record else "Planned",
        "since": epoch_seconds(picture, record.since) if record else None,
        "memoryBytes": _memory(source),
        "failures": record.attempts if record else 0,
        "message": message,
        "retiring": retiring,
    }
    lines = tuple(w for w in picture.waiting if w.subject == uid) if node == picture.node else ()
    return Resource("Placement", uid, spec, status, conditions, lines)


def _memory(source: Placement | Launch | None) -> int | None:
    if source is None:
        return None
    return source.memory_bytes if isinstance(source, Launch) else source.ranks[0].memory_bytes


def epoch_seconds(picture: Picture, at: float) -> float:
    """A monotonic time in seconds of the epoch. Two clocks are never read at one instant: without rounding, the same
    time would differ from snapshot to snapshot."""
    return round(at + picture.wall_offset, 1)


# --- runners and routes -----------------------------------------------------------------------------------------


def _own_runners(picture: Picture) -> Iterator[Resource]:
    for uid, facts in picture.runners.items():
        words = facts.last_words
        status = {
            "placement": uid,
            "node": picture.node,
            "deployment": facts.launch.deployment,
            "pid": facts.pid,
            "phase": picture.ledger.record(uid).phase.value,
            "link": facts.link.value,
            "adopted": facts.adopted,
            "running": facts.running,
            "waiting": facts.waiting,
            "steps": facts.steps,
            "residentBytes": facts.resident_bytes,
            "startedAt": epoch_seconds(picture, facts.started_at),
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
        yield Resource("Runner", uid, spec, status)


def _runners_elsewhere(picture: Picture, owners: Mapping[PlacementUid, NodeName]) -> Iterator[Resource]:
    for name, share in _others(picture):
        yield from (r for r in share.runners if owners[PlacementUid(r.name)] == name)


def _is_loading(runner: Resource, absences: Mapping[NodeName, object]) -> bool:
    return runner.status["phase"] in _ON_THE_WAY and runner.status["node"] not in absences


def _loaded(runner: Resource) -> str:
    share = runner.status["loadShare"]
    return f"{runner.status['phase']} {share if isinstance(share, float) else 0.0:.0%}"


def own_routes(picture: Picture) -> Iterator[Route]:
    """The runners of this node, ready for requests or not."""
    for uid, facts in picture.runners.items():
        yield Route(
            uid=uid,
            deployment=facts.launch.deployment,
            node=picture.node,
            ready=uid in picture.routable and facts.link is Link.CONNECTED,
            running=facts.running,
            waiting=facts.waiting,
            concurrency=facts.launch.concurrency,
            context_tokens=facts.launch.context_tokens,
            content_hash=facts.launch.content_hash,
            queue_max=facts.launch.queue_max,
            model=facts.launch.model,
        )


def _routes(
    picture: Picture, absences: Mapping[NodeName, object], owners: Mapping[PlacementUid, NodeName]
) -> Iterator[Route]:
    yield from own_routes(picture)
    for name, share in _others(picture):
        load = _load(picture.readings.get(name, {}).get(LOAD_KIND))
        for route in share.routes:
            if owners.get(route.uid, name) != name:
                continue
            running, waiting = load.get(route.uid, (route.running, route.waiting))
            ready = route.ready and name not in absences
            if (ready, running, waiting) == (route.ready, route.running, route.waiting):
                yield route
            else:
                yield replace(route, ready=ready, running=running, waiting=waiting)


def _load(reading: Reading | None) -> dict[str, tuple[int, int]]:
    """(running, waiting) by uid, of a young reading. Readings are not checked on their way: what is no pair of
    counts is left out."""
    if reading is None or reading.age_seconds > LOAD_SECONDS_MAX:
        return {}
    pairs = {}
    for uid, value in reading.values.items():
        if isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value):
            pairs[uid] = (value[0], value[1])
    return pairs
