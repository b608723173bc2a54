"""Keeps this node on the planes: opens them after the first accepted commit (or at once, from seeds), says whose
signatures count, and opens them anew when a commit makes this node dial somebody else.

Opening anew is a moment without the others, so it waits until no stream goes through the planes, ten minutes at most,
and the nodes that a commit concerns do it one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from skulk.core.domain import Fleet, NodeName, PlanesView
from skulk.core.errors import PLN_EXPOSED, SkulkError
from skulk.core.ports import Clock, ControlPlane, DataPlane, PlaneAccess
from skulk.core.wire.planes_keys import Dialable, dial_list, must_reopen
from skulk.core.wire.planes_roster import endpoints, public_keys

_log = structlog.get_logger(component="network")

# How often the accepted commit is compared with what the planes were opened with.
LOOK_SECONDS = 0.5
# Streams are not cut for a new dial list, unless they never end.
REDIAL_WAIT_SECONDS = 600.0
# A node is back on the planes within a second or two; the next one waits for it.
REDIAL_STAGGER_SECONDS = 5.0
# A port that is taken or a file that cannot be read may be mended by somebody.
OPEN_RETRY_SECONDS = 5.0
# After a connection was made anew, tokens that are still there come within a moment.
OUTLIVED_SECONDS = 3.0
# For closing a session that is no longer allowed.
LEAVE_SECONDS = 3.0


def alone(fleet: Fleet | None) -> tuple[str, ...]:
    """What is wrong with a node without planes: nothing, unless the accepted commit declares others."""
    others = len(fleet.nodes) - 1 if fleet is not None else 0
    if others < 1:
        return ()
    return (f"node.toml has no [planes], and the fleet has {others} more node(s): this one plans for itself alone",)


class FleetPlanes(ControlPlane, DataPlane, PlaneAccess, Protocol):
    """All three sides of the planes, as one adapter implements them."""


Opener = Callable[[tuple[str, ...], Mapping[NodeName, bytes]], Awaitable[FleetPlanes]]
"""Opens the planes: the endpoints to dial, the public keys that count. Raises SkulkError."""


class Network:
    """This node's place on the planes. `planes` is None while they are not open."""

    def __init__(
        self,
        me: NodeName,
        opener: Opener,
        clock: Clock,
        fleet: Callable[[], Fleet | None],
        *,
        tls: bool,
        seeds: tuple[str, ...] = (),
        joined: Callable[[FleetPlanes], None] = lambda _planes: None,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """`fleet` is the newest accepted one; `joined` and `left` are told when the planes open and close."""
        self._me = me
        self._open = opener
        self._clock = clock
        self._fleet = fleet
        self._tls = tls
        self._seeds = seeds
        self._joined = joined
        self._left = left
        self._seen: Fleet | None = None
        self._dialled: tuple[str, ...] = ()
        self._redial_since: float | None = None
        self._outlived_since: float | None = None
        self.superseded = 0
        """Numbers of lives up to this one belong to another daemon of this name: the next life's is greater."""
        self.planes: FleetPlanes | None = None
        self.problem = ""
        """Why the planes are not open, for people."""

    async def run(self) -> None:
        while True:
            pause = LOOK_SECONDS
            try:
                await self.look()
            except SkulkError as error:
                if str(error) != self.problem:
                    _log.warning("planes_not_open", code=error.code.id, error=error.message)
                self.problem = str(error)
                pause = OPEN_RETRY_SECONDS
            await self._clock.sleep(pause)

    async def look(self) -> None:
        """Bring the planes in line with the newest accepted commit. Raises SkulkError."""
        fleet = self._fleet()
        if fleet is None and not self._seeds:
            return
        if fleet is not None and fleet.tls_required and not self._tls:
            await self._leave(f"{PLN_EXPOSED.id} Fleet {fleet.name!r} requires TLS, and node.toml names no certificate")
            return
        wanted = self._wanted(fleet)
        keys = public_keys(fleet) if fleet is not None else {}
        if self.planes is None:
            self.planes = await self._open(wanted, keys)
            self._seen, self._dialled, self.problem = fleet, wanted, ""
            _log.info("planes_opened", dial=list(wanted), tls=self._tls)
            self._joined(self.planes)
            return
        if fleet is not self._seen:
            self._seen = fleet
            self.planes.trust(keys)
        if self._outlived(self.planes.observe()):
            await self._leave("another daemon of this node's name was heard in its place, and has gone: joining anew")
            return
        await self._redial(self.planes, fleet, wanted)

    def _outlived(self, view: PlanesView) -> bool:
        """A later life of this name has ended. The others wait for a still later one, and this node has to be that."""
        if view.rivals or view.superseded <= view.me.number:
            self._outlived_since = None
            return False
        now = self._clock.now()
        self._outlived_since = now if self._outlived_since is None else self._outlived_since
        if now - self._outlived_since < OUTLIVED_SECONDS:
            return False
        self._outlived_since, self.superseded = None, view.superseded
        return True

    def _wanted(self, fleet: Fleet | None) -> tuple[str, ...]:
        # Seeds may name anybody, also who dials this node by the manifests, and two connections of one pair lose
        # messages: they end with the first accepted commit.
        return self._seeds if fleet is None else dial_list(self._me, endpoints(fleet, self._tls))

    async def _redial(self, planes: FleetPlanes, fleet: Fleet | None, wanted: tuple[str, ...]) -> None:
        if not must_reopen(self._dialled, wanted):
            self._redial_since = None
            return
        now = self._clock.now()
        if self._redial_since is None:
            self._redial_since = now
        waited = now - self._redial_since
        turn = REDIAL_STAGGER_SECONDS * self._place_in_line(fleet, wanted)
        if waited < turn or (planes.streams() and waited < REDIAL_WAIT_SECONDS):
            return
        _log.info("planes_redialled", dial=list(wanted), waited=round(waited, 1))
        await planes.redial(wanted)
        self._dialled, self._redial_since, self.problem = wanted, None, ""

    def _place_in_line(self, fleet: Fleet | None, wanted: tuple[str, ...]) -> int:
        """How many nodes open their planes anew for the same endpoints before this one does."""
        if fleet is None:
            return 0
        new = set(wanted) - set(self._dialled)
        everybody: tuple[Dialable, ...] = endpoints(fleet, self._tls)
        concerned = [d.node for d in everybody if new & set(dial_list(d.node, everybody))]
        return concerned.index(self._me) if self._me in concerned else 0

    async def _leave(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("planes_not_open", error=problem)
        self.problem = problem
        planes, self.planes = self.planes, None
        if planes is not None:
            self._left()
            await planes.close(LEAVE_SECONDS)

    async def close(self, deadline_seconds: float) -> bool:
        """Say goodbye. False when the deadline passed first: then only ending the process helps."""
        planes, self.planes = self.planes, None
        return planes is None or await planes.close(deadline_seconds)
