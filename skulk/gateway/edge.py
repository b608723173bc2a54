"""The outermost layer: request id, access, one log line and one count per request, and no failure without envelope.

An ASGI middleware and not a FastAPI one, because it must see streams unbuffered and judge paths that no route
knows. It logs heads and counts, never bodies.
"""

from __future__ import annotations

import traceback
from typing import cast

import structlog
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skulk.core.errors import RequestError, SkulkError
from skulk.core.ports import Serving
from skulk.gateway.access import check_access, is_loopback, scope_of
from skulk.gateway.health import asked
from skulk.gateway.metrics import Metrics, Note, stats_of
from skulk.gateway.replies import as_request_error, error_reply
from skulk.gateway.settings import GatewaySettings

REQUEST_ID_CHARS_MAX = 128
"""Longer than any tracing system's id; it appears in every log line of the request."""
PATH_CHARS_MAX = 200
"""How much of a path is logged."""
GONE_STATUS = 499
"""nginx's number for a client that closed the connection: only in logs and metrics, nobody receives it."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_NOTE = "skulk.note"
_SEND = "skulk.send"

log = structlog.get_logger("skulk.gateway")


def note_of(scope: Scope) -> Note:
    """The note of the request that this ASGI scope belongs to."""
    return cast(Note, scope[_NOTE])


def send_of(scope: Scope) -> Send:
    """Sends past the layers between here and the route. For the pieces of an answer that has begun: what these layers
    look at is how answers begin, and each would be called for each token."""
    return cast(Send, scope[_SEND])


def told(error: Exception, note: Note) -> RequestError:
    """A failure as the client is told it; what nobody raised on purpose is logged with its traceback.

    The traceback is plain text and not `exc_info`, because renderers may print local variables: prompts.
    """
    if not isinstance(error, SkulkError):
        text = "".join(traceback.format_exception(error))
        log.error("request_crashed", component="gateway", request_id=note.request_id, exception=text)
    return as_request_error(error)


class Edge:
    """Wraps the app; see the module."""

    def __init__(self, app: ASGIApp, serving: Serving, settings: GatewaySettings, metrics: Metrics) -> None:
        self._app = app
        self._serving = serving
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        note = Note(self._request_id(headers), self._settings.monotonic())
        scope[_NOTE], scope[_SEND] = note, send

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = note.request_id
                note.status = message["status"]
            await send(message)

        try:
            note.tenant = self._check_access(scope, headers)
            await self._app(scope, receive, send_marked)
        except Exception as error:  # noqa: BLE001  (told and logged; a client is owed an answer)
            failure = told(error, note)
            note.error = failure.code.id
            if note.status == 0:
                await error_reply(failure, note.request_id)(scope, receive, send_marked)
        finally:
            self._account(scope, note)

    def _request_id(self, headers: Headers) -> str:
        given = headers.get("x-request-id", "")[: REQUEST_ID_CHARS_MAX * 2]
        kept = "".join(char for char in given if "!" <= char <= "~")[:REQUEST_ID_CHARS_MAX]
        return kept or self._settings.new_id()

    def _check_access(self, scope: Scope, headers: Headers) -> str:
        query = scope["query_string"]
        verbose = bool(query) and asked(QueryParams(query).get("verbose"))
        needed = scope_of(scope["method"], scope["path"], verbose=verbose)
        return check_access(self._serving.view().access, needed, headers, loopback=self._over_loopback(scope))

    def _over_loopback(self, scope: Scope) -> bool:
        if self._settings.loopback is not None:
            return self._settings.loopback
        # The local end of the connection: on a wildcard listener it tells local callers from the network's.
        server = scope.get("server")
        return server is not None and is_loopback(str(server[0]))

    def _account(self, scope: Scope, note: Note) -> None:
        now = self._settings.monotonic()
        status = note.status or GONE_STATUS
        method = scope["method"] if scope["method"] in _METHODS else "other"
        template = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.count_http(template, method, status)
        if note.command_id:
            self._metrics.count_generation(note, now)
        facts: dict[str, object] = {
            "component": "gateway",
            "request_id": note.request_id,
            "method": method,
            "path": scope["path"][:PATH_CHARS_MAX],
            "status": status,
            "seconds": round(now - note.started, 6),
        }
        if note.error:
            facts["error"] = note.error
        if note.command_id:
            facts |= _generation_facts(note)
        # Looking is not news: dashboards and scripts poll, and must not drown what the node does.
        quiet = method in ("GET", "HEAD") and status < 400
        (log.debug if quiet else log.info)("request_finished", **facts)


def _generation_facts(note: Note) -> dict[str, object]:
    facts: dict[str, object] = {"model": note.model, "command_id": note.command_id, "finish": note.finish}
    if note.usage is not None:
        facts |= {"prompt_tokens": note.usage.prompt, "completion_tokens": note.usage.completion}
        stats = stats_of(note, note.usage)
        facts["queue_seconds"] = round(stats.queue_seconds, 6)
        if stats.prompt_tps is not None:
            facts["prompt_tps"] = round(stats.prompt_tps, 1)
        if stats.generation_tps is not None:
            facts["generation_tps"] = round(stats.generation_tps, 1)
    if note.first_token is not None:
        facts["ttft_seconds"] = round(note.first_token - note.started, 6)
    return facts
