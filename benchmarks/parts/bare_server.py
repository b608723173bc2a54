"""The peer: a FastAPI server that streams given events at a given pace, and nothing else.

`python bare_server.py PORT EVENTS`; EVENTS is a JSON list of the events as text. `/replay?step=SECONDS` sends them as
they are, `/encode` makes each from its parts first, as every server has to that does not know its answer beforehand.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def server(events: list[str]) -> FastAPI:
    ready = [event.encode() for event in events]
    parts = [_parsed(event) for event in events]
    app = FastAPI()

    async def paced(make: Callable[[int], bytes], step: float) -> AsyncIterator[bytes]:
        # A step per token whatever sending costs: it starts late and not never, when there is too much to do.
        clock = asyncio.get_running_loop().time
        due = clock()
        for number in range(len(ready)):
            due += step
            await asyncio.sleep(max(0.0, due - clock()))
            yield make(number)

    @app.post("/replay")
    async def replay(step: float) -> StreamingResponse:
        return StreamingResponse(paced(ready.__getitem__, step), media_type="text/event-stream", headers=HEADERS)

    @app.post("/encode")
    async def encode(step: float) -> StreamingResponse:
        def make(number: int) -> bytes:
            part = parts[number]
            text = json.dumps(part, ensure_ascii=False, separators=(",", ":")) if part is not None else "[DONE]"
            return b"data: " + text.encode() + b"\n\n"

        return StreamingResponse(paced(make, step), media_type="text/event-stream", headers=HEADERS)

    return app


def _parsed(event: str) -> object:
    text = event.removeprefix("data: ").strip()
    return None if text == "[DONE]" else json.loads(text)


if __name__ == "__main__":
    port, file = sys.argv[1:]
    app = server(json.loads(Path(file).read_text()))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False, timeout_keep_alive=75)
