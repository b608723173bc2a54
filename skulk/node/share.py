"""This node's share of the picture: made from its snapshot, published when it is worth it, read from the others.

after every round     sharing.offer(share_of(picture, view), now)
telemetry             planes.report(LOAD_KIND, runner_load(picture.runners))
before every round    shares.read(planes_view.documents[Topic.SHARE], me)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from skulk.core.domain import (
    Document,
    Fetching,
    FleetView,
    NodeName,
    PlacementUid,
    Resource,
    RunnerFacts,
    Share,
)
from skulk.core.wire.planes_messages import MessageError
from skulk.core.wire.planes_share import decode_share, encode_share
from skulk.node.picture import Picture
from skulk.node.placed import own_routes
from skulk.node.resources import own_machine

_log = structlog.get_logger(component="share")

SHARE_SECONDS = 2.0
"""Numbers that always change (steps, bytes fetched) are published so often: for progress that people watch. A share is
signed and goes to everybody, so not more often; whoever routes reads the load from telemetry."""
_NUMBERS = ("running", "waiting", "steps", "residentBytes", "loadShare")
"""Keys of a runner's status that change without anything having happened."""


def share_of(picture: Picture, view: FleetView) -> Share:
    """What this node says of itself; `view` is what `build` made of the same picture."""

    def mine(kind: str) -> tuple[Resource, ...]:
        return tuple(r for r in view.resources.get(kind, ()) if r.status["node"] == picture.node)

    return Share(
        node=picture.node,
        version=picture.version,
        attempted=picture.attempted,
        accepted=picture.accepted,
        machine=own_machine(picture),
        placements=tuple(p for p in mine("placements") if p.name in picture.ledger.records),
        runners=mine("runners"),
        routes=tuple(sorted(own_routes(picture), key=lambda route: route.uid)),
        fetching={
            content: Fetching(facts.done_bytes, facts.total_bytes)
            for content, facts in picture.weights.items()
            if facts.active
        },
        present=frozenset(content for content, facts in picture.weights.items() if facts.ready),
        closing=picture.closing,
    )


def runner_load(runners: Mapping[PlacementUid, RunnerFacts]) -> dict[str, list[int]]:
    """Values of the reading LOAD_KIND: placement → [running, waiting] requests."""
    return {uid: [facts.running, facts.waiting] for uid, facts in runners.items()}


def steady(share: Share) -> Share:
    """The share without the numbers and words that always change: another one is news, the same one is not."""
    placements = tuple(
        replace(
            p,
            status={**p.status, "message": ""},
            conditions=tuple(replace(c, message="") for c in p.conditions),
            waiting=tuple(replace(w, message="", on="") for w in p.waiting),
        )
        for p in share.placements
    )
    runners = tuple(replace(r, status={k: v for k, v in r.status.items() if k not in _NUMBERS}) for r in share.runners)
    routes = tuple(replace(route, running=0, waiting=0) for route in share.routes)
    fetching = {content: replace(f, done_bytes=0) for content, f in share.fetching.items()}
    return replace(share, placements=placements, runners=runners, routes=routes, fetching=fetching)


class Sharing:
    """Publishes this node's share: news at once, mere numbers every SHARE_SECONDS."""

    def __init__(self, publish: Callable[[bytes], object]) -> None:
        self._publish = publish
        self._told: Share | None = None
        self._steady: Share | None = None
        self._told_at = 0.0

    def offer(self, share: Share, now: float) -> bool:
        """Whether it was published. `now` in seconds on any clock that only goes forward."""
        if share == self._told:
            return False
        essence = steady(share)
        if essence == self._steady and now - self._told_at < SHARE_SECONDS:
            return False
        self._publish(encode_share(share))
        self._told, self._steady, self._told_at = share, essence, now
        return True


class Shares:
    """The shares of the other nodes, each document read once."""

    def __init__(self) -> None:
        self._read: dict[NodeName, tuple[Document, Share | None]] = {}
        self._shares: Mapping[NodeName, Share] = {}

    def read(self, documents: Mapping[NodeName, Document], me: NodeName) -> Mapping[NodeName, Share]:
        """The share of every other node that has published one that can be read. The same object until one is new."""
        read = {name: self._of(name, document) for name, document in documents.items() if name != me}
        if read != self._read:
            self._read = read
            self._shares = {name: share for name, (_, share) in read.items() if share is not None}
        return self._shares

    def _of(self, name: NodeName, document: Document) -> tuple[Document, Share | None]:
        known = self._read.get(name)
        if known is not None and known[0] == document:
            return known
        try:
            return document, decode_share(document.body, name)
        except MessageError as error:
            _log.warning("share_unreadable", of=name, cause=str(error))
            return document, None
