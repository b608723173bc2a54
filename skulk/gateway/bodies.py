"""A request's body: read with a limit, and decoded as one JSON object. No field is interpreted here."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request

from skulk.core.errors import REQ_DEADLINE, REQ_INVALID, REQ_TOO_LARGE, RequestError
from skulk.gateway.settings import GatewaySettings

DISCARD_FACTOR = 2
"""Up to this many times the limit is read and thrown away, so that the client gets to read the refusal instead
of a reset connection; what announces more is answered at once."""


async def read_object(request: Request, settings: GatewaySettings) -> dict[str, object]:
    """The body as a JSON object, whatever its content type says.

    Raises RequestError 400 (not JSON, with the position; not an object), 413 (too large) or 408 (too slow).
    """
    return _object(await read_bytes(request, settings.body_bytes_max, settings.body_seconds_max))


async def read_bytes(request: Request, bytes_max: int, seconds_max: float) -> bytes:
    """The body as it came. Raises RequestError 413 (too large) or 408 (too slow)."""
    try:
        async with asyncio.timeout(seconds_max):
            return await _read(request, bytes_max)
    except TimeoutError:
        raise RequestError(REQ_DEADLINE, f"the body did not arrive within {seconds_max:g} s", status=408) from None


async def _read(request: Request, bytes_max: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > bytes_max * DISCARD_FACTOR:
        raise _too_large(bytes_max)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > bytes_max * DISCARD_FACTOR:
            break
        if size <= bytes_max:
            pieces.append(piece)
        else:
            pieces.clear()
    if size > bytes_max:
        raise _too_large(bytes_max)
    return b"".join(pieces)


def _too_large(bytes_max: int) -> RequestError:
    return RequestError(REQ_TOO_LARGE, f"the body is larger than {bytes_max} bytes", status=413)


def _object(data: bytes) -> dict[str, object]:
    if not data.strip():
        raise _bad("the body is empty; a JSON object is expected")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8: byte {error.start} is invalid") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise _bad("the body is nested too deeply") from error
    except ValueError as error:
        # Python refuses to convert integers of thousands of digits: the time would grow with their square.
        raise _bad("the body holds a number with too many digits") from error
    if not isinstance(value, dict):
        raise _bad("the body must be a JSON object")
    return value


def _bad(message: str) -> RequestError:
    return RequestError(REQ_INVALID, message, status=400)
