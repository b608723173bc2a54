"""Whole answers: JSON, plain text, and the error envelope that every failure on every route has."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from skulk.core.dialects.openai_encode import error_json, json_bytes
from skulk.core.errors import REQ_INTERNAL, RequestError, SkulkError, Transient

JSON = "application/json"


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, JSON)


def error_reply(error: RequestError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The envelope with the error's true status, and the headers that belong to it."""
    all_headers = dict(headers or {})
    if error.retry_after_seconds is not None:
        all_headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401:
        all_headers["WWW-Authenticate"] = 'Bearer realm="skulk"'
    if error.status in (408, 413):
        # The rest of the body may still be on its way: this connection cannot carry another request.
        all_headers["Connection"] = "close"
    return json_reply(error_json(error, request_id), status=error.status, headers=all_headers)


def as_request_error(error: Exception) -> RequestError:
    """Any failure as something to tell a client; what is not ours is told without its inner words."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, SkulkError):
        status = 503 if isinstance(error, Transient) else 500
        return RequestError(error.code, error.message, status=status, kind="server_error", fix=error.fix)
    return RequestError(
        REQ_INTERNAL,
        "an internal error happened; the log has it under this request id",
        status=500,
        kind="server_error",
    )
