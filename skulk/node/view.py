"""The snapshot that gateway and CLI read, built from what the loop knows: of this node by itself, of the others
by the shares they publish. Pure; it looks at nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from skulk.core.domain import (
    Access,
    Card,
    CardName,
    Condition,
    ConditionType,
    Deployment,
    Event,
    FleetView,
    NodeName,
    Route,
    ServedModel,
    Status,
)
from skulk.core.formats.content import content_key
from skulk.core.reconcile.summary import Since, fleet_conditions
from skulk.node import resources
from skulk.node.picture import Picture
from skulk.node.placed import Placed, absence_subjects, gather


def build(picture: Picture, since: Since, events: tuple[Event, ...], generation: int) -> FleetView:
    """The whole view. Only `since` has memory: when each condition last changed."""
    placed = gather(picture, since)
    deployments, deployment_states = resources.deployments(picture, placed, since)
    fleet = picture.fleet
    suspended = frozenset(str(n) for n, d in fleet.deployments.items() if d.suspend) if fleet else frozenset()
    cautions = tuple(
        stamped
        for c in picture.cautions
        for stamped in since.stamp(f"coordination/{c.reason.value}", [c], picture.wall)
    )
    said = (*picture.source, *cautions)
    conditions = since.stamp(
        "fleet",
        fleet_conditions(said, deployment_states, suspended, picture.accepted if fleet else None),
        picture.wall,
    )
    shown = {
        "fleet": resources.fleet(picture, conditions, deployment_states),
        "nodes": resources.nodes(picture, placed),
        "deployments": deployments,
        "cards": resources.cards(picture),
        "placements": placed.placements,
        "runners": placed.runners,
    }
    since.forget_all_but(
        frozenset(("fleet", f"source/{picture.node}"))
        | {f"coordination/{c.reason.value}" for c in cautions}
        | {f"placement/{uid}" for uid in picture.ledger.records}
        | {f"deployment/{name}" for name in deployment_states}
        | absence_subjects(picture, placed.absences)
    )
    return FleetView(
        generation=generation,
        node=picture.node,
        version=picture.version,
        attempted=picture.attempted,
        accepted=picture.accepted,
        in_force=picture.blueprint.commit if picture.blueprint else None,
        resources=shown,
        models=_models(picture, placed, deployment_states),
        access=fleet.access if fleet else Access(),
        conditions=(*conditions, *(c for c in said if c.reason not in {k.reason for k in conditions})),
        waiting=(*picture.waiting, *picture.notes),
        events=events,
        checks=picture.checks,
        closing=picture.closing,
        why=_why(picture, placed),
    )


def _models(
    picture: Picture, placed: Placed, deployments: Mapping[str, tuple[Condition, ...]]
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
    fetching = _fetching(picture)
    active = [d for _, d in sorted(fleet.deployments.items()) if not d.suspend]
    for deployment in active:
        names = (str(deployment.name), *deployment.aliases)
        routes = placed.routes.get(deployment.name, ())
        card = fleet.cards[deployment.model]
        models.append(
            _served(card, [deployment], names, routes, deployments, _progress(placed, card, routes, fetching))
        )
        taken.update(names)
    users: dict[CardName, list[Deployment]] = {}
    for deployment in active:
        users.setdefault(deployment.model, []).append(deployment)
    for name, card in sorted(fleet.cards.items()):
        owners = users.get(name, [])
        names = tuple(n for n in dict.fromkeys((str(name), card.model_id)) if n not in taken)
        if owners and names:
            routes = tuple(r for d in owners for r in placed.routes.get(d.name, ()) if r.model == name)
            models.append(_served(card, owners, names, routes, deployments, _progress(placed, card, routes, fetching)))
    return tuple(models)


def _served(
    card: Card,
    owners: Sequence[Deployment],
    names: tuple[str, ...],
    routes: tuple[Route, ...],
    deployments: Mapping[str, tuple[Condition, ...]],
    progress: str,
) -> ServedModel:
    problems = [deployments[str(d.name)][0].message for d in owners if str(d.name) in deployments]
    return ServedModel(
        card=card,
        deployments=tuple(d.name for d in owners),
        names=names,
        routes=routes,
        not_ready="" if any(r.ready for r in routes) else "; ".join(problems),
        progress=progress,
        max_context_tokens=max((r.context_tokens for r in routes), default=0),
    )


def _fetching(picture: Picture) -> dict[str, str]:
    """Content key → how far its files are: here, or on the first node that is fetching them."""
    found = {}
    for name, share in sorted(picture.shares.items(), reverse=True):
        if picture.live(name):
            for content, f in share.fetching.items():
                found[content] = f"fetching {f.done_bytes}/{f.total_bytes} bytes on {name}"
    for content, facts in picture.weights.items():
        if facts.active:
            found[content] = f"fetching {facts.done_bytes}/{facts.total_bytes} bytes"
    return found


def _progress(placed: Placed, card: Card, routes: Sequence[Route], fetching: Mapping[str, str]) -> str:
    found = fetching.get(content_key(card)) if fetching else None
    if found is not None:
        return found
    for route in routes:
        if route.uid in placed.loading:
            return placed.loading[route.uid]
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


def _why(picture: Picture, placed: Placed) -> Mapping[str, tuple[str, ...]]:
    reasons: dict[str, list[str]] = {}
    for placement in placed.placements:
        if not placement.conditions:
            continue
        status = placement.status
        where = "" if status["node"] == picture.node else f" on {status['node']}"
        line = f"placement {placement.name}{where}: {status['phase']}: {placement.conditions[0].message}"
        reasons.setdefault(placement.name, []).append(line)
        if status["deployment"] is not None:
            reasons.setdefault(str(status["deployment"]), []).append(line)
    said = (*picture.source, *picture.cautions)
    stalled = [c.message for c in said if c.type is ConditionType.STALLED and c.status is Status.TRUE]
    reasons.setdefault(picture.node, []).extend(stalled or [f"commit {picture.accepted or 'none'} is accepted"])
    if picture.fleet is not None:
        mine = stalled or reasons[picture.node][-1:]
        notes = [f"waits for {n.on}: {n.message}" for n in picture.notes]
        reasons.setdefault(picture.fleet.name, []).extend((*mine, *notes))
        for name in picture.fleet.nodes.keys() - {picture.node}:
            reasons.setdefault(name, []).append(_why_node(picture, placed, name))
    known = {name: tuple(lines) for name, lines in reasons.items()}
    return Reasons(picture.why, map(str, picture.fleet.deployments) if picture.fleet else (), known)


def _why_node(picture: Picture, placed: Placed, name: NodeName) -> str:
    absence, share = placed.absences.get(name), picture.shares.get(name)
    if absence is not None:
        return absence[0].message
    if share is None:
        return f"node {name} is there, and nothing that can be read was heard of it"
    stalled = [
        c.message for c in share.machine.conditions if c.type is ConditionType.STALLED and c.status is Status.TRUE
    ]
    return "; ".join(stalled) or f"commit {share.accepted or 'none'} is accepted"
