"""A client for streamed chat answers of several servers. While they run it keeps what came and when; it is read later.

One connection for each request, opened beforehand where several are to begin at once: what is timed is answering.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from parts.sse import StreamFailed

CHAT = "/v1/chat/completions"
SILENCE_SECONDS_MAX = 300.0
"""Without a byte for so long a stream hangs. Long prompts of many clients take minutes on one core."""
COLLECTED_BYTES = 1 << 18
"""More than the answers have whose rest is collected."""


@dataclass(frozen=True)
class Answer:
    """One answer, by the clock of `time.perf_counter`."""

    sent: float
    reads: Sequence[tuple[float, bytes]] = field(repr=False)

    @cached_property
    def events(self) -> list[tuple[float, dict[str, Any]]]:
        """(when its last byte was here, what it says). Raises StreamFailed for anything but a whole answer."""
        found: list[tuple[float, dict[str, Any]]] = []
        body, ended = _Body(), False
        rest = b""
        for when, data in self.reads:
            rest += body.feed(data)
            *whole, rest = rest.split(b"\n\n")
            for event in whole:
                for line in event.splitlines():
                    if line == b"data: [DONE]":
                        ended = True
                    elif line.startswith(b"data: "):
                        found.append((when, json.loads(line[6:])))
        if not body.head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) or not ended:
            raw = b"".join(data for _, data in self.reads)
            raise StreamFailed(raw[-600:].decode("utf-8", "replace"))
        return found

    @cached_property
    def times(self) -> list[float]:
        """When each piece of text came."""
        return [when for when, event in self.events if any(_text(choice) for choice in event.get("choices") or ())]

    @cached_property
    def usage(self) -> dict[str, Any]:
        return next((event["usage"] for _, event in reversed(self.events) if event.get("usage")), {})

    @property
    def tokens(self) -> int:
        return int(self.usage["completion_tokens"])

    @property
    def prompt_tokens(self) -> int:
        return int(self.usage["prompt_tokens"])

    @property
    def first_seconds(self) -> float:
        return self.times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]

    @property
    def ended(self) -> float:
        return self.reads[-1][0]


@dataclass
class Running:
    """An answer on its way. `pieces` is counted roughly, to see whether it has begun."""

    reads: list[tuple[float, bytes]] = field(default_factory=list)
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `wanted` events were here."""
    wanted: int = 0
    collects: bool = False
    """What comes after `wanted` events is left to the system until the end: the client sleeps, like one on a machine of
    its own."""
    events: int = 0

    def took(self, when: float, data: bytes) -> None:
        self.reads.append((when, data))
        self.events += data.count(b"data: {")
        if self.events >= self.wanted:
            self.seen.set()


def chat(model: str, text: str, tokens: int, *, system: str = "", temperature: float = 0.0) -> bytes:
    """The body of a request for exactly so many tokens, usage included. A temperature above 0 draws from all tokens:
    servers differ in what they cut off by default."""
    messages = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": temperature,
        **({"top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 1} if temperature > 0 else {}),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


async def ask(
    port: int,
    body: bytes,
    *,
    together: asyncio.Barrier | None = None,
    after_seconds: float = 0.0,
    running: Running | None = None,
) -> Answer:
    """Stream one answer from 127.0.0.1; `together`: send only so long after all others are connected too."""
    running = running if running is not None else Running()
    loop = asyncio.get_running_loop()
    transport, reading = await loop.create_connection(lambda: _Reading(running), "127.0.0.1", port)
    try:
        if together is not None:
            await together.wait()
            await asyncio.sleep(after_seconds)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        sent = time.perf_counter()
        transport.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await reading.end()
    finally:
        transport.abort()
    return Answer(sent, running.reads)


async def burst(
    port: int, bodies: Sequence[bytes], *, apart_seconds: float = 0.0, first_only: bool = False
) -> list[Answer]:
    """One client for each body. All begin at once, or that far apart. `first_only`: when the first event came is all
    that is asked of the times."""
    together = asyncio.Barrier(len(bodies))

    def one(place: int, body: bytes) -> Coroutine[Any, Any, Answer]:
        running = Running(wanted=1, collects=first_only)
        return ask(port, body, together=together, after_seconds=place * apart_seconds, running=running)

    return await asyncio.gather(*(one(place, body) for place, body in enumerate(bodies)))


def check(answers: Sequence[Answer], tokens: int) -> None:
    """All have so many tokens. Raises StreamFailed: figures of different work compare nothing."""
    counts = {answer.tokens for answer in answers}
    if counts != {tokens}:
        raise StreamFailed(f"{tokens} tokens were asked for, answers have {sorted(counts)}")


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return delta.get("content") or delta.get("reasoning_content") or ""


class _Reading(asyncio.Protocol):
    """Keeps what comes, and does nothing else for it: the client is on the core of our gateway, and what it does
    between two tokens throws out of the caches what the gateway needs for the next one."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._transport: asyncio.BaseTransport
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._running.took(time.perf_counter(), data)
        if self._running.collects and self._running.seen.is_set():
            here = self._transport.get_extra_info("socket")
            here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, COLLECTED_BYTES)

    def connection_lost(self, error: Exception | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def end(self) -> None:
        """Wait until the server has closed the connection. Raises OSError when it broke, TimeoutError after so long a
        silence that the stream hangs."""
        while not self._ended.done():
            before = len(self._running.reads)
            await asyncio.wait({self._ended}, timeout=SILENCE_SECONDS_MAX)
            if not self._ended.done() and len(self._running.reads) == before:
                raise TimeoutError(f"nothing came for {SILENCE_SECONDS_MAX:g} s")
        self._ended.result()


class _Body:
    """What a response carries, without its head and the sizes of its chunks."""

    def __init__(self) -> None:
        self.head = b""
        self._raw = b""
        self._chunked = False
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        self._raw += data
        if not self._begun:
            head, found, rest = self._raw.partition(b"\r\n\r\n")
            if not found:
                return b""
            self.head, self._raw, self._begun = head, rest, True
            self._chunked = b"transfer-encoding: chunked" in head.lower()
        if not self._chunked:
            whole, self._raw = self._raw, b""
            return whole
        body = b""
        while True:
            line, found, rest = self._raw.partition(b"\r\n")
            size = int(line, 16) if found else 0
            if not found or len(rest) < size + 2:
                return body
            body, self._raw = body + rest[:size], rest[size + 2 :]
