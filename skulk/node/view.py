"""The snapshot that gateway and CLI read, built from what the loop knows. Pure; it looks at nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from skulk.core.domain import (
    Access,
    Card,
    CardName,
    Condition,
    Deployment,
    Event,
    FleetView,
    Link,
    Route,
    ServedModel,
)
from skulk.core.formats.content import content_key
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.summary import Since, fleet_conditions
from skulk.node import resources
from skulk.node.picture import Picture
from skulk.node.resources import States


def build(picture: Picture, since: Since, events: tuple[Event, ...], generation: int) -> FleetView:
    """The whole view. Only `since` has memory: when each condition last changed."""
    states = resources.placement_states(picture, since)
    placements = resources.placements(picture, states)
    deployments, deployment_states = resources.deployments(picture, states, since)
    fleet = picture.fleet
    suspended = frozenset(str(n) for n, d in fleet.deployments.items() if d.suspend) if fleet else frozenset()
    conditions = since.stamp(
        "fleet",
        fleet_conditions(picture.source, deployment_states, suspended, picture.accepted if fleet else None),
        picture.wall,
    )
    shown = {
        "fleet": resources.fleet(picture, conditions, deployment_states),
        "nodes": resources.nodes(picture),
        "deployments": deployments,
        "cards": resources.cards(picture),
        "placements": placements,
        "runners": resources.runners(picture),
    }
    since.forget_all_but(
        frozenset(("fleet", f"source/{picture.node}"))
        | {f"placement/{uid}" for uid in states}
        | {f"deployment/{name}" for name in deployment_states}
    )
    return FleetView(
        generation=generation,
        node=picture.node,
        version=picture.version,
        attempted=picture.attempted,
        accepted=picture.accepted,
        in_force=picture.blueprint.commit if picture.blueprint else None,
        resources=shown,
        models=_models(picture, states, deployment_states),
        access=fleet.access if fleet else Access(),
        conditions=(*conditions, *(c for c in picture.source if c.reason not in {k.reason for k in conditions})),
        waiting=picture.waiting,
        events=events,
        checks=picture.checks,
        closing=picture.closing,
        why=_why(picture, states),
    )


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
        placement = resources.known_placements(picture).get(uid)
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
