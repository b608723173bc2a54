"""The HTTP application of one node: routes put together behind the edge. It neither listens nor knows the daemon."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from skulk import __version__
from skulk.core.errors import REQ_INVALID, REQ_NOT_FOUND, RequestError
from skulk.core.ports import Serving
from skulk.gateway.chat import chat_router
from skulk.gateway.edge import Edge, note_of
from skulk.gateway.fleet import fleet_router
from skulk.gateway.health import health_router
from skulk.gateway.metrics import Metrics
from skulk.gateway.models import models_router
from skulk.gateway.replies import error_reply
from skulk.gateway.settings import GatewaySettings
from skulk.gateway.webhook import webhook_router

OPENAPI_PATH = "/api/openapi.json"


def create_app(serving: Serving, settings: GatewaySettings) -> FastAPI:
    """The gateway over `serving`. Whoever runs it binds beyond loopback only while the Fleet allows it."""
    # No documentation pages: theirs load scripts from a foreign host. The description itself is complete.
    app = FastAPI(
        title="Skulk",
        version=__version__,
        openapi_url=OPENAPI_PATH,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(serving, settings.collectors)
    # Routes are tried in this order.
    app.include_router(chat_router(serving, settings))
    app.include_router(health_router(serving, metrics))
    app.include_router(models_router(serving, settings))
    app.include_router(fleet_router(serving, settings))
    app.include_router(webhook_router(serving, settings, metrics))
    app.add_exception_handler(HTTPException, _http_failure)
    app.add_exception_handler(RequestValidationError, _query_failure)
    app.add_middleware(Edge, serving=serving, settings=settings, metrics=metrics)
    return app


async def _http_failure(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"no such route: {request.method} {request.url.path[:200]} (see {OPENAPI_PATH})",
        405: f"{request.method} is not allowed here",
    }
    code = REQ_NOT_FOUND if error.status_code == 404 else REQ_INVALID
    message = messages.get(error.status_code, HTTPStatus(error.status_code).phrase)
    failure = RequestError(code, message, status=error.status_code)
    return _noted(request, failure, dict(error.headers or {}))


async def _query_failure(request: Request, error: Exception) -> Response:
    """A query parameter of the wrong type or size."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return _noted(request, RequestError(REQ_INVALID, f"{param}: {first['msg']}", status=400, param=param))


def _noted(request: Request, failure: RequestError, headers: dict[str, str] | None = None) -> Response:
    note = note_of(request.scope)
    note.error = failure.code.id
    return error_reply(failure, note.request_id, headers)
