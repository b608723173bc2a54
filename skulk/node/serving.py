"""What the gateway sees of this node: the view, its changes, and a way to have a request answered.

Routing is a pure function; this module keeps trying it while nothing has been sent to the client: a replica that
drains or whose queue is full refuses retriably, one that dies before it accepted costs patience, not the request.
A placement here is reached directly, one on another node over the data plane; requests that other nodes send here
are served beside this node's own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Protocol

from skulk.core import errors
from skulk.core.domain import (
    Accepted,
    Check,
    DeploymentName,
    Finish,
    FleetView,
    GenerationRequest,
    Owner,
    PlacementUid,
    Route,
    ServedModel,
    Tokens,
)
from skulk.core.errors import RequestError, RetriableRefusal
from skulk.core.ports import Clock, DataPlane, Generation, TakeTokens
from skulk.core.reconcile import limits
from skulk.core.routing import Unroutable, resolve, route, unroutable

# How long a client should wait before it asks again for a model that is being loaded.
RETRY_AFTER_SECONDS = 5
# The loop turns at least every RESYNC_SECONDS; six missed turns mean that it hangs.
BEAT_SECONDS_MAX = 6 * limits.RESYNC_SECONDS


class Streams(Protocol):
    """The data side of the runner host."""

    async def generate(self, uid: PlacementUid, request: GenerationRequest, owner: Owner) -> Generation: ...


class Logs(Protocol):
    """Log lines of placements."""

    def lines(self, uid: PlacementUid, lines: int, follow: bool) -> AsyncIterator[str]: ...

    def known(self) -> tuple[PlacementUid, ...]: ...


class NodeServing:
    """Port `Serving` of one node."""

    def __init__(
        self,
        owner: Owner,
        streams: Streams,
        logs: Logs,
        clock: Clock,
        *,
        reset: Callable[[frozenset[PlacementUid], frozenset[DeploymentName]], int],
        beat_age: Callable[[], float],
        data: Callable[[], DataPlane | None] = lambda: None,
        poke: Callable[[], None] = lambda: None,
        reset_elsewhere: Callable[[str], Awaitable[int]] | None = None,
    ) -> None:
        """`data`: the way to other nodes, None while there is none. `reset_elsewhere`: has them reset a deployment or
        placement, and returns how many were stuck there."""
        self._owner = owner
        self._streams = streams
        self._logs = logs
        self._clock = clock
        self._reset = reset
        self._beat_age = beat_age
        self._data = data
        self._poke = poke
        self._reset_elsewhere = reset_elsewhere if reset_elsewhere is not None else _nowhere
        self._view = self._seen = FleetView(0, owner.node, "")
        self._beat: Check | None = None
        """What `_seen` says of the loop, which every request looks at several times; None: it is out of date."""
        self._changed = asyncio.Event()
        self._closing = False
        self._open: set[_Tracked] = set()
        self._sent: Counter[PlacementUid] = Counter()

    # --- the view -------------------------------------------------------------------------------------------

    def publish(self, view: FleetView) -> None:
        self._view = view
        self._announce()

    def _announce(self) -> None:
        self._beat = None
        self._changed.set()
        self._changed = asyncio.Event()

    def view(self) -> FleetView:
        """The newest snapshot, with what only this moment knows: whether the loop still turns, and closing."""
        age = self._beat_age()
        beat = Check("loop", age < BEAT_SECONDS_MAX, f"the node loop turned {age:.0f} s ago")
        if beat != self._beat:
            closing = self._closing or self._view.closing
            self._beat, self._seen = beat, replace(self._view, checks=(*self._view.checks, beat), closing=closing)
        return self._seen

    async def changes(self, after: int) -> AsyncIterator[FleetView]:
        told_closing = False
        while True:
            changed = self._changed
            view = self.view()
            if view.generation > after or (view.closing and not told_closing):
                after, told_closing = max(after, view.generation), view.closing
                yield view
            else:
                await changed.wait()

    # --- requests -------------------------------------------------------------------------------------------

    async def submit(self, request: GenerationRequest) -> Generation:
        """Route and send; return once a runner accepted. Raises RequestError with the status to answer."""
        refused: set[PlacementUid] = set()
        end = self._clock.now() + request.deadline_seconds
        patience = limits.REROUTE_SECONDS_MAX
        lost: RequestError | None = None
        while True:
            model = self._fresh(self._model(request.model))
            chosen = route(model, self._view, refused)
            full = chosen is None and unroutable(model) is Unroutable.QUEUE_FULL and route(model, self._view) is None
            if full and request.tenant:
                # By somebody else, maybe: then the runner makes room.
                chosen = route(model, self._view, refused, crowded=True)
            if chosen is None:
                if full:
                    raise _queue_full(model)
                if lost is None:
                    raise _not_ready(model)
                now = self._clock.now()
                if patience <= 0 or now > end:
                    lost.retry_after_seconds = lost.retry_after_seconds or RETRY_AFTER_SECONDS
                    raise lost
                refused.clear()
                await self._next_view()
                # Only the time without a replica counts, not how long the request had waited at one.
                patience -= self._clock.now() - now
                continue
            try:
                return await self._send(chosen, request)
            except RetriableRefusal as error:
                lost = error
                refused.add(chosen.uid)

    def _model(self, name: str) -> ServedModel:
        view = self.view()
        if view.closing:
            raise RequestError(
                errors.REQ_RESTARTING,
                "the node is restarting",
                status=503,
                kind="server_error",
                slug="node_restarting",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        model = resolve(name, view.models)
        if model is None:
            suspended = [d for d in view.resources.get("deployments", ()) if d.name == name and d.spec.get("suspend")]
            if suspended:
                raise RequestError(
                    errors.REQ_MODEL,
                    f"deployment {name!r} is suspended by its manifest",
                    status=404,
                    param="model",
                    slug="model_not_found",
                )
            available = ", ".join(sorted({n for m in view.models for n in m.names})) or "none yet"
            raise RequestError(
                errors.REQ_MODEL,
                f"no deployment serves the model {name!r}; available: {available}",
                status=404,
                param="model",
                slug="model_not_found",
            )
        return model

    def _fresh(self, model: ServedModel) -> ServedModel:
        """The model with the load of this moment as far as this node knows it: all of a placement here, because other
        nodes' requests pass through here too; of others at least what it caused itself."""

        def fresh(r: Route) -> Route:
            sent = self._sent[r.uid]
            running, waiting = min(sent, r.concurrency), max(0, sent - r.concurrency)
            if r.node != self._owner.node:
                running, waiting = max(r.running, running), max(r.waiting, waiting)
            if (running, waiting) == (r.running, r.waiting):
                return r
            return replace(r, running=running, waiting=waiting)

        routes = tuple(map(fresh, model.routes))
        return model if routes == model.routes else replace(model, routes=routes)

    async def _send(self, chosen: Route, request: GenerationRequest) -> Generation:
        self._sent[chosen.uid] += 1
        try:
            if chosen.node == self._owner.node:
                generation = await self._streams.generate(chosen.uid, request, self._owner)
            else:
                generation = await self._over_the_network(chosen, request)
        except BaseException:
            self._done(chosen.uid)
            raise
        return self._track(generation)

    async def _over_the_network(self, chosen: Route, request: GenerationRequest) -> Generation:
        data = self._data()
        if data is None:
            raise RetriableRefusal(
                errors.PLN_UNREACHABLE,
                f"node {chosen.node} is not connected",
                status=503,
                kind="server_error",
                slug="node_unreachable",
            )
        return await data.submit(chosen.node, chosen.uid, request)

    def _track(self, generation: Generation) -> Generation:
        tracked = _Tracked(generation, self._forget)
        self._open.add(tracked)
        return tracked

    async def take(self, placement: PlacementUid, request: GenerationRequest, owner: Owner) -> Generation:
        """Serve another node's request on a placement of this node. Raises RequestError, retriable while closing."""
        if self._closing:
            raise RetriableRefusal(
                errors.REQ_RESTARTING,
                f"node {self._owner.node} is restarting",
                status=503,
                kind="server_error",
                slug="node_restarting",
            )
        self._sent[placement] += 1
        try:
            generation = await self._streams.generate(placement, request, owner)
        except BaseException:
            self._done(placement)
            raise
        return self._track(generation)

    def _forget(self, tracked: _Tracked) -> None:
        if tracked in self._open:
            self._open.discard(tracked)
            self._done(tracked.placement)

    def _done(self, uid: PlacementUid) -> None:
        self._sent[uid] -= 1
        if self._sent[uid] <= 0:
            del self._sent[uid]

    async def _next_view(self) -> None:
        changed = self._changed
        sleep = asyncio.ensure_future(self._clock.sleep(0.25))
        woken = asyncio.ensure_future(changed.wait())
        try:
            await asyncio.wait({sleep, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in (sleep, woken):
                waiter.cancel()

    # --- for people -----------------------------------------------------------------------------------------

    def _placements_of(self, name: str) -> tuple[PlacementUid, ...]:
        """The placements that `name` means: none for a deployment that is not placed. Raises RequestError 404."""
        found = [
            PlacementUid(resource.name)
            for resource in self._view.resources.get("placements", ())
            if name in (resource.name, resource.status.get("deployment"))
        ]
        found += [uid for uid in self._logs.known() if uid == name and uid not in found]
        if not found and all(name != d.name for d in self._view.resources.get("deployments", ())):
            raise _not_found(f"no deployment or placement is called {name!r}")
        return tuple(found)

    async def logs(self, name: str, lines: int, follow: bool) -> AsyncIterator[str]:
        uids = self._placements_of(name)
        here = [uid for uid in uids if self._node_of(uid) in (None, self._owner.node)]
        if not uids:
            raise _not_found(f"deployment {name!r} has no placement (see `skulk why {name}`)")
        if not here:
            nodes = ", ".join(sorted({self._node_of(uid) or "" for uid in uids}))
            raise _not_found(f"{name!r} runs on {nodes}, which keeps its logs: ask that node (`--url`)")
        for uid in here[:-1]:
            async for line in self._logs.lines(uid, lines, False):
                yield f"{uid} {line}"
        async for line in self._logs.lines(here[-1], lines, follow):
            yield f"{here[-1]} {line}"

    def _node_of(self, uid: PlacementUid) -> str | None:
        """Where a placement is; None for one that only its logs remember."""
        placements = self._view.resources.get("placements", ())
        node = next((r.status.get("node") for r in placements if r.name == uid), None)
        return None if node is None else str(node)

    async def reset(self, name: str) -> int:
        """Here, and on every other node that can be reached."""
        uids = self._placements_of(name)
        return self.reset_here(name, uids) + await self._reset_elsewhere(name)

    def reset_here(self, name: str, uids: Iterable[PlacementUid] | None = None) -> int:
        """What this node has of it; a name that it does not know clears nothing."""
        if uids is None:
            try:
                uids = self._placements_of(name)
            except RequestError:
                return 0
        return self._reset(frozenset(uids), frozenset((DeploymentName(name),)))

    def poke(self) -> None:
        self._poke()

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """No new requests from now on."""
        self._closing = True
        self._announce()

    async def finish(self, seconds: float) -> int:
        """Let open streams end within `seconds`, then end the rest with `node_restarting`; return how many."""
        deadline = self._clock.now() + seconds
        while self._open and self._clock.now() < deadline:
            await self._clock.sleep(0.05)
        rest = list(self._open)
        for tracked in rest:
            tracked.interrupt(
                RequestError(
                    errors.REQ_RESTARTING,
                    "the node is restarting: the answer was cut off",
                    status=503,
                    kind="server_error",
                    slug="node_restarting",
                )
            )
        return len(rest)


async def _nowhere(_name: str) -> int:
    return 0


def _not_found(message: str) -> RequestError:
    return RequestError(errors.REQ_NOT_FOUND, message, status=404, kind="not_found_error", slug="not_found")


def _queue_full(model: ServedModel) -> RequestError:
    return RequestError(
        errors.REQ_QUEUE_FULL,
        f"every queue of {model.names[0]} is full",
        status=503,
        kind="server_error",
        slug="queue_full",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _not_ready(model: ServedModel) -> RequestError:
    progress = f" ({model.progress})" if model.progress else ""
    return RequestError(
        errors.REQ_NOT_READY,
        f"{model.names[0]} is not ready: {model.not_ready or 'no replica is ready'}{progress}",
        status=503,
        kind="server_error",
        slug="model_not_ready",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


class _Tracked:
    """A generation that its node knows to be open, and can interrupt."""

    def __init__(self, inner: Generation, done: Callable[[_Tracked], None]) -> None:
        self._inner = inner
        self._done = done
        self._interrupted: RequestError | None = None
        self.accepted: Accepted = inner.accepted
        self.placement: PlacementUid = inner.placement

    async def follow(self, take: TakeTokens) -> None:
        def pass_on(tokens: Tokens) -> bool:
            if self._interrupted is not None and tokens.finish is Finish.CANCELLED:
                raise self._interrupted
            return take(tokens)

        try:
            await self._inner.follow(pass_on)
        finally:
            self._done(self)

    def cancel(self, reason: str) -> None:
        self._inner.cancel(reason)
        self._done(self)

    def interrupt(self, error: RequestError) -> None:
        """End the answer with an error event: the cancelled generation ends its frames at once."""
        self._interrupted = error
        self._inner.cancel("node_restarting")
