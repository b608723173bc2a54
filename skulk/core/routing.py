"""Which replica takes a request: pure, over the snapshot that a node shows.

Only ready replicas are ever chosen. Prefix affinity and continuation on equal content are not part of this version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum

from skulk.core.domain import FleetView, PlacementUid, Route, ServedModel


class Unroutable(Enum):
    """Why `route` found nothing: what the client should be told differs."""

    NOT_READY = "not ready"
    QUEUE_FULL = "queue full"


def resolve(name: str, models: Iterable[ServedModel]) -> ServedModel | None:
    """The model that clients mean by `name`: a canonical name wins over another model's alias."""
    alias: ServedModel | None = None
    for model in models:
        if model.names and model.names[0] == name:
            return model
        if alias is None and name in model.names:
            alias = model
    return alias


def route(
    model: ServedModel, view: FleetView, tried: Collection[PlacementUid] = (), *, crowded: bool = False
) -> Route | None:
    """The ready replica with the least load per slot; ties go to the local node, then to the lowest uid.

    `tried` holds replicas that refused this request already; `crowded`: full ones too, where the runner may give its
    place in the queue to another tenant. None: `unroutable` says why.
    """
    ready = [route for route in model.routes if route.ready and route.uid not in tried]
    usable = [route for route in ready if crowded or _has_room(route)]
    return min(usable, key=lambda route: (_load(route), route.node != view.node, route.uid), default=None)


def unroutable(model: ServedModel, tried: Collection[PlacementUid] = ()) -> Unroutable:
    """Why there is no route: full queues are worth a short wait, everything else takes as long as it takes."""
    ready = [route for route in model.routes if route.ready and route.uid not in tried]
    return Unroutable.QUEUE_FULL if ready else Unroutable.NOT_READY


def _has_room(route: Route) -> bool:
    """A free slot, or a place in the queue."""
    return route.running < route.concurrency or route.waiting < route.queue_max


def _load(route: Route) -> float:
    return (route.running + route.waiting) / max(1, route.concurrency)
