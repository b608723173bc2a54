"""`/livez`, `/readyz`, `/healthz`, `/health` and `/metrics`: for probes, which look at the status alone.

The plain answers are open to everybody and say one word. `?verbose` lists the checks with their reasons and needs
the `read` scope, because reasons name files and models.
"""

from __future__ import annotations

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse, Response

from skulk.core.domain import Check
from skulk.core.ports import Serving
from skulk.gateway.metrics import CONTENT_TYPE, Metrics
from skulk.gateway.readiness import LOOP_CHECK, checks, is_alive, is_ready


def health_router(serving: Serving, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["health"])

    async def live(verbose: str | None = Query(None)) -> Response:
        """The process answers and its loop ticks."""
        view = serving.view()
        found = tuple(check for check in view.checks if check.name == LOOP_CHECK)
        return _reply("livez", is_alive(view), found, asked(verbose))

    async def ready(verbose: str | None = Query(None), settled: str | None = Query(None)) -> Response:
        """A commit is in force, every check is good; with `?settled` also: runners ready, others in sight."""
        view = serving.view()
        return _reply("readyz", is_ready(view, settled=asked(settled)), checks(view), asked(verbose))

    async def scrape() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    for path, probe in (("/livez", live), ("/readyz", ready), ("/healthz", ready), ("/health", ready)):
        router.add_api_route(path, probe, methods=["GET"], response_class=PlainTextResponse)
        router.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/metrics", scrape, methods=["GET"], response_class=PlainTextResponse)
    return router


def asked(verbose: str | None) -> bool:
    """`?verbose`, `?verbose=1`; not `?verbose=false`."""
    return verbose is not None and verbose.lower() not in ("0", "false", "no")


def _reply(name: str, good: bool, found: tuple[Check, ...], verbose: bool) -> Response:
    lines = [f"[{'+' if check.ok else '-'}]{check.name} {check.message}".rstrip() for check in found]
    text = "\n".join([*lines, f"{name} {'passed' if good else 'failed'}"]) if verbose else _word(good)
    return PlainTextResponse(text + "\n", 200 if good else 503, {"Cache-Control": "no-store"})


def _word(good: bool) -> str:
    return "ok" if good else "not ready"
