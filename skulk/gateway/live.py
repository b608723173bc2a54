"""Answers without an end: written piece by piece until the source ends, the client goes, or the daemon closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from skulk.gateway.calls import stop, watch_client

FIRST_PIECE_SECONDS = 1.0
"""An unknown name fails within this time and gets its real status; a silent source gets its headers after it."""
TICK_SECONDS = 1.0
"""How soon an idle stream notices that the daemon is closing."""


class LiveReply(Response):
    """Streams `source`. After `idle_seconds` of silence `idle` is written, if it is not empty.

    Headers go out with the first piece, or after `first_seconds`; a source that fails before has its own status.
    """

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        media_type: str,
        closing: Callable[[], bool],
        *,
        idle: bytes = b"",
        idle_seconds: float = 10.0,
        first_seconds: float = FIRST_PIECE_SECONDS,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self._source = source
        self._closing = closing
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._first_seconds = first_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watcher = asyncio.ensure_future(watch_client(receive, lambda: gone.set_result(None)))
        step = asyncio.ensure_future(self._next())
        try:
            await _either(step, gone, self._first_seconds)
            if step.done():
                step.result()
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            silent_seconds, tick = 0.0, min(TICK_SECONDS, self._idle_seconds)
            while not gone.done():
                await _either(step, gone, tick)
                if step.done():
                    piece = step.result()
                    if piece is None:
                        break
                    await _write(send, piece)
                    silent_seconds, step = 0.0, asyncio.ensure_future(self._next())
                else:
                    silent_seconds += tick
                    if self._idle and silent_seconds >= self._idle_seconds:
                        await _write(send, self._idle)
                        silent_seconds = 0.0
                if self._closing():
                    break
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await stop(step)
            await stop(watcher)
            await self._source.aclose()

    async def _next(self) -> bytes | None:
        return await anext(self._source, None)


async def _either(step: asyncio.Future[Any], gone: asyncio.Future[Any], seconds: float) -> None:
    await asyncio.wait({step, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def _write(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})
