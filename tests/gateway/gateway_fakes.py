"""An in-memory `Serving` whose generations are scripted, and a gateway over it, with our protocol, on a free port."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace

import httpx2
import openai
import uvicorn

from skulk.core.domain import (
    Accepted,
    Card,
    CardFile,
    CardName,
    CommitId,
    ContentHash,
    DeploymentName,
    Finish,
    FleetView,
    GenerationRequest,
    KvShape,
    LocalSource,
    NodeName,
    PlacementUid,
    Reasoning,
    Resource,
    Route,
    ServedModel,
    Tokens,
    Tooling,
)
from skulk.core.errors import REQ_NOT_FOUND, RequestError
from skulk.core.ports import TakeTokens
from skulk.gateway import GatewaySettings, create_app
from skulk.node.http_protocol import HttpProtocol

DEADLINE_SECONDS = 20.0
"""For what must happen; a failing test waits so long, a passing one never."""

CARD = Card(
    name=CardName("tiny"),
    model_id="org/tiny",
    source=LocalSource("tiny"),
    revision="1",
    files=(CardFile("model.safetensors", 10, "0" * 64),),
    storage_bytes=5 * 1024 * 1024,
    layers=2,
    hidden_size=64,
    kv=KvShape(),
    context_length=512,
    compatible_backends=("mlx",),
    capabilities=("text", "thinking"),
    reasoning=Reasoning("token_delimited", supports_toggle=True),
    tooling=Tooling(supports_calls=True),
    described={"tooling": {"supportsToolCalling": True}},
)
COMMIT = CommitId("c" * 40)
ROUTE = Route(
    uid=PlacementUid("a" * 16),
    deployment=DeploymentName("chat"),
    node=NodeName("one"),
    ready=True,
    running=1,
    waiting=2,
    concurrency=1,
    context_tokens=512,
    content_hash=ContentHash("h"),
)
MODEL = ServedModel(
    card=CARD,
    deployments=(DeploymentName("chat"),),
    names=("tiny", "org/tiny", "chat"),
    routes=(ROUTE,),
    max_context_tokens=512,
)
VIEW = FleetView(
    generation=7,
    node=NodeName("one"),
    version="0.1.0",
    attempted=COMMIT,
    accepted=COMMIT,
    in_force=COMMIT,
    models=(MODEL,),
    resources={
        "deployments": (Resource("deployments", "chat", {"model": "tiny"}, {"ready": 1}),),
        "runners": (Resource("runners", "a" * 16, {"deployment": "chat"}, {"phase": "ready"}),),
    },
)

Script = Callable[["FakeGeneration"], AsyncGenerator[Tokens, None]]


class Gate:
    """Opened by the test's thread, awaited on the server's loop."""

    def __init__(self) -> None:
        self._future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def open(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def passed(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._future))


class FakeGeneration:
    def __init__(self, request: GenerationRequest, accepted: Accepted, script: Script) -> None:
        self.request = request
        self.accepted = accepted
        self.placement = ROUTE.uid
        self.cancelled: concurrent.futures.Future[str] = concurrent.futures.Future()
        self.stopped = asyncio.Event()
        self.sent = 0
        self._script = script

    async def follow(self, take: TakeTokens) -> None:
        async with contextlib.aclosing(self._script(self)) as frames:
            async for tokens in frames:
                if not take(tokens):
                    break

    def cancel(self, reason: str) -> None:
        if not self.cancelled.done():
            self.cancelled.set_result(reason)
            self.stopped.set()

    def why_cancelled(self) -> str:
        return self.cancelled.result(DEADLINE_SECONDS)


def says(*texts: str | bytes, finish: Finish = Finish.STOP, error: str | None = None) -> Script:
    """One frame and one token per text, then an empty frame with the finish."""

    async def script(generation: FakeGeneration) -> AsyncGenerator[Tokens, None]:
        for number, text in enumerate(texts, 1):
            data = text.encode() if isinstance(text, str) else text
            generation.sent = number
            # A second from one to the next, by the clock of the runner.
            yield Tokens(number, (100 + number,), data, seconds=float(number))
        yield Tokens(len(texts) + 1, (), b"", finish, error)

    return script


def says_then_waits(*texts: str, gate: Gate) -> Script:
    """Frames, then nothing until the gate opens, then the end."""

    async def script(generation: FakeGeneration) -> AsyncGenerator[Tokens, None]:
        for number, text in enumerate(texts, 1):
            yield Tokens(number, (100 + number,), text.encode())
        await gate.passed()
        yield Tokens(len(texts) + 1, (), b"", Finish.STOP)

    return script


def says_until_cancelled(*texts: str) -> Script:
    """Frames, then nothing until it is cancelled, which it says at once: in the turn of the loop that cancelled it."""

    async def script(generation: FakeGeneration) -> AsyncGenerator[Tokens, None]:
        for number, text in enumerate(texts, 1):
            yield Tokens(number, (100 + number,), text.encode())
        await generation.stopped.wait()
        yield Tokens(len(texts) + 1, (), b"", Finish.CANCELLED)

    return script


def never_ends(text: str) -> Script:
    """The same token for ever, as fast as the loop allows; it looks at nothing, like a runner that lags."""

    async def script(generation: FakeGeneration) -> AsyncGenerator[Tokens, None]:
        number = 0
        while True:
            number += 1
            generation.sent = number
            yield Tokens(number, (1,), text.encode())
            await asyncio.sleep(0)

    return script


def fails(error: Exception, *texts: str) -> Script:
    async def script(generation: FakeGeneration) -> AsyncGenerator[Tokens, None]:
        for number, text in enumerate(texts, 1):
            yield Tokens(number, (100 + number,), text.encode())
        raise error

    return script


class FakeServing:
    """Answers with `script`; `refusal` is raised by submit instead; `accept_gate` holds the acceptance back."""

    def __init__(self, view: FleetView = VIEW, script: Script | None = None) -> None:
        self._view = view
        self._watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.script = script or says("Hel", "lo")
        self.accepted = Accepted((1, 2, 3), 3, 1, in_reasoning=False, context_left=100)
        self.refusal: Exception | None = None
        self.accept_gate: Gate | None = None
        self.submitted: concurrent.futures.Future[GenerationRequest] = concurrent.futures.Future()
        self.generations: list[FakeGeneration] = []
        self.log_lines: tuple[str, ...] = ("first", "second")
        self.log_gate: Gate | None = None
        self.log_closed: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.resets: list[str] = []
        self.pokes = 0

    def view(self) -> FleetView:
        return self._view

    def publish(self, **changes: object) -> None:
        """Replace fields of the view; the generation grows by one."""
        self._view = replace(self._view, generation=self._view.generation + 1, **changes)  # type: ignore[arg-type]
        for loop, event in self._watchers:
            loop.call_soon_threadsafe(event.set)

    async def changes(self, after: int) -> AsyncIterator[FleetView]:
        event = asyncio.Event()
        self._watchers.append((asyncio.get_running_loop(), event))
        while True:
            event.clear()
            if self._view.generation > after:
                after = self._view.generation
                yield self._view
            else:
                await event.wait()

    async def submit(self, request: GenerationRequest) -> FakeGeneration:
        if not self.submitted.done():
            self.submitted.set_result(request)
        if self.accept_gate is not None:
            await self.accept_gate.passed()
        if self.refusal is not None:
            raise self.refusal
        generation = FakeGeneration(request, self.accepted, self.script)
        self.generations.append(generation)
        return generation

    async def logs(self, name: str, lines: int, follow: bool) -> AsyncIterator[str]:
        if name not in ("chat", "a" * 16):
            raise RequestError(REQ_NOT_FOUND, f"no placement {name}", status=404)
        try:
            for line in self.log_lines[-lines:] if lines else ():
                yield line
            if follow and self.log_gate is not None:
                await self.log_gate.passed()
                yield "later"
                await Gate().passed()
        finally:
            if not self.log_closed.done():
                self.log_closed.set_result(None)

    async def reset(self, name: str) -> int:
        self.resets.append(name)
        return 2

    def poke(self) -> None:
        self.pokes += 1


class Listener:
    """A gateway on a free loopback port, served by uvicorn in a thread of its own."""

    def __init__(self, serving: FakeServing, **settings: object) -> None:
        self.app = create_app(serving, GatewaySettings(**settings))  # type: ignore[arg-type]
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        # It listens before the thread runs: a client that comes early waits in the backlog.
        self._socket.listen()
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self.app,
            http=HttpProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    def http(self, **kwargs: object) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=DEADLINE_SECONDS, **kwargs)  # type: ignore[arg-type]

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=DEADLINE_SECONDS)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)

    def reads_no_more(self) -> bool:
        """It has given up on what a client sends."""
        return any(getattr(connection, "_unreadable", False) for connection in self._server.server_state.connections)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_SECONDS)
        self._socket.close()


def wait_for(condition: Callable[[], object]) -> None:
    """Poll until true; fails at the deadline."""
    pause = threading.Event()
    for _ in range(int(DEADLINE_SECONDS * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen in time")
