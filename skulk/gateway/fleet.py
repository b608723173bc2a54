"""`/fleet/v1`: what the node knows, for the command line, dashboards and scripts.

Everything is read from one immutable view, so an answer is never a mix of two moments. The only thing that changes
anything are `reset` and `poll`; desired state changes by commits alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from skulk.core.dialects.fields import shown
from skulk.core.dialects.openai_encode import KEEP_ALIVE, json_bytes
from skulk.core.domain import KINDS, FleetView, Resource
from skulk.core.errors import REQ_NOT_FOUND, RequestError
from skulk.core.ports import Serving
from skulk.gateway.live import LiveReply
from skulk.gateway.replies import json_reply
from skulk.gateway.resources import event_json, resource_json, status_json, watch_json
from skulk.gateway.settings import GatewaySettings

LOG_LINES_MAX = 10_000
"""More than anybody reads in one go; the files are on the node."""
LISTED_MAX = 50
NUMBER_MAX = 2**63 - 1


def fleet_router(serving: Serving, settings: GatewaySettings) -> APIRouter:
    router = APIRouter(prefix="/fleet/v1", tags=["fleet"])
    # Generations begin anew with every daemon; this prefix keeps an old ETag from matching a new life.
    life = settings.new_id()[:8]

    def closing() -> bool:
        return serving.view().closing

    @router.get("/status")
    async def status() -> Response:
        """This node: version, commits, conditions, and what it waits for."""
        return json_reply(status_json(serving.view()))

    @router.get("/events")
    async def events(after: int = Query(0, ge=0, le=NUMBER_MAX)) -> Response:
        """What happened, oldest first; `after` is the number of the last event already known."""
        items = [event_json(event) for event in serving.view().events if event.number > after]
        return json_reply({"items": items})

    @router.get("/watch")
    async def watch(request: Request, after: int = Query(-1, ge=-1, le=NUMBER_MAX)) -> Response:
        """Server-sent events: the whole view at every change, coalesced."""
        last = request.headers.get("last-event-id", "")
        known = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else after
        if known > serving.view().generation:
            # A cursor from an earlier life of the daemon: everything is new.
            known = -1
        return LiveReply(
            _views(serving.changes(known)),
            "text/event-stream",
            # Ends by itself with the view that says closing.
            _never,
            idle=KEEP_ALIVE,
            idle_seconds=settings.keep_alive_seconds,
            first_seconds=0,
        )

    @router.get("/why/{name}")
    async def why(name: str) -> Response:
        """The full reasons for the state of a deployment, placement or node, one per line."""
        known = serving.view().why
        if name not in known:
            raise _unknown("subject", name, known)
        return json_reply({"name": name, "lines": list(known[name])})

    @router.get("/logs/{name}")
    async def logs(name: str, lines: int = Query(200, ge=0, le=LOG_LINES_MAX), follow: bool = Query(False)) -> Response:
        """The last lines of a placement's or deployment's log; `follow` goes on with new ones."""
        source = _log_lines(serving.logs(name, lines, follow))
        return LiveReply(source, "text/plain", closing if follow else _never)

    @router.post("/reset/{name}")
    async def reset(name: str) -> Response:
        """Clear breaker, wedge and backoff of a deployment or placement, so that it is tried again now."""
        resources = serving.view().resources
        known = [item.name for kind in ("deployments", "placements") for item in resources.get(kind, ())]
        if name not in known:
            raise _unknown("deployment or placement", name, known)
        return json_reply({"cleared": await serving.reset(name)})

    @router.post("/poll")
    async def poll() -> Response:
        """Look at the source now; the other nodes hear of what is new there."""
        serving.poke()
        return json_reply({"polling": True}, status=202)

    @router.get("/{kind}")
    async def list_kind(request: Request, kind: str) -> Response:
        """All resources of a kind, with the generation as ETag."""
        view = serving.view()
        tag = f'"{life}-{view.generation}"'
        items = _resources(view, kind)
        if tag in (part.strip() for part in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers={"ETag": tag})
        value = {
            "kind": kind,
            "generation": view.generation,
            "commit": view.in_force,
            "items": [resource_json(item) for item in items],
        }
        return json_reply(value, headers={"ETag": tag, "Cache-Control": "no-cache"})

    @router.get("/{kind}/{name}")
    async def one_resource(kind: str, name: str) -> Response:
        """One resource by kind and name."""
        items = _resources(serving.view(), kind)
        for item in items:
            if item.name == name:
                return json_reply(resource_json(item))
        raise _unknown(kind, name, (item.name for item in items))

    return router


def _resources(view: FleetView, kind: str) -> tuple[Resource, ...]:
    if kind not in KINDS:
        raise _unknown("kind", kind, KINDS)
    return view.resources.get(kind, ())


def _unknown(what: str, name: str, there: Iterable[str]) -> RequestError:
    names = sorted(set(there))
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    listed = ", ".join(names[:LISTED_MAX]) + more if names else "none"
    return RequestError(REQ_NOT_FOUND, f"no {what} is called {shown(name)}; there are: {listed}", status=404)


def _never() -> bool:
    return False


async def _views(changes: AsyncIterator[FleetView]) -> AsyncGenerator[bytes, None]:
    try:
        async for view in changes:
            yield b"event: view\nid: %d\ndata: %s\n\n" % (view.generation, json_bytes(watch_json(view)))
            if view.closing:
                return
    finally:
        if isinstance(changes, AsyncGenerator):
            await changes.aclose()


async def _log_lines(lines: AsyncIterator[str]) -> AsyncGenerator[bytes, None]:
    try:
        async for line in lines:
            yield line.rstrip("\r\n").encode("utf-8", "replace") + b"\n"
    finally:
        if isinstance(lines, AsyncGenerator):
            await lines.aclose()
