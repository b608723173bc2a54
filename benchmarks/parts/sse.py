"""A client for streamed answers that reads bytes and counts: it must cost less than what it measures.

HTTP/1.1 with one connection for each request. Speaks to a gateway and to the bare server alike.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

_EVENT = b'data: {"'
_DONE = b"data: [DONE]"
READ_SECONDS_MAX = 60.0
"""Without a byte for so long a stream hangs."""


class StreamFailed(Exception):
    """No 200, an error event, or an end without [DONE]."""


@dataclass(slots=True)
class Timed:
    """One answer. `arrivals` has the time of every event, those that came in one read with the same."""

    began: float
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0

    @property
    def first_seconds(self) -> float:
        return self.arrivals[0] - self.began

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


def chat_body(model: str, **more: object) -> bytes:
    messages = [{"role": "user", "content": "Tell me about foxes, please."}]
    return json.dumps({"model": model, "messages": messages, "stream": True, **more}).encode()


async def ask(port: int, body: bytes, path: str = "/v1/chat/completions", keep: bytearray | None = None) -> Timed:
    """Stream one answer from 127.0.0.1. `keep` gets the raw response. Raises StreamFailed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    timed = Timed(time.perf_counter())
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    head_bytes, tail = bytearray(), b""
    try:
        while data := await asyncio.wait_for(reader.read(1 << 18), READ_SECONDS_MAX):
            timed.ended = time.perf_counter()
            if not timed.arrivals:
                head_bytes += data
            if keep is not None:
                keep += data
            # What is carried over is shorter than the marker, so an event that is cut by two reads counts once.
            timed.arrivals += [timed.ended] * (tail[1 - len(_EVENT) :] + data).count(_EVENT)
            tail = (tail + data)[-64:]
    finally:
        writer.close()
    if not head_bytes.startswith(b"HTTP/1.1 200") or _DONE not in tail or len(timed.arrivals) < 2:
        raise StreamFailed(bytes(head_bytes[-600:] + tail).decode("utf-8", "replace"))
    return timed


def events_of(raw: bytes) -> list[bytes]:
    """The server-sent events of a chunked response, as the server wrote them."""
    body, rest = bytearray(), raw.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        rest = rest[length + 2 :]
    return [event + b"\n\n" for event in bytes(body).split(b"\n\n") if event]
