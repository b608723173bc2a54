"""A node's HTTP API with canned data on a real port: what the verbs are tested against.

It follows docs/reference/http-api.md in form; what it says is set by the test. Watchers are woken by `change`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

COMMIT = "4f1c2d3e4f1c2d3e4f1c2d3e4f1c2d3e4f1c2d3e"
OLDER = "0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d"
UID = "9a8b7c6d5e4f3a2b"
KINDS = ("fleet", "nodes", "deployments", "cards", "placements", "runners")
GIB = 1024**3
KEEP_ALIVE_SECONDS = 0.3

# Two hours, five and a half minutes: prints as 2h5m for half a minute to both sides.
AGE_SECONDS = 2 * 3600 + 5 * 60 + 30


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "commit": COMMIT,
        "since": time.time() - AGE_SECONDS,
    }


def resource(kind: str, name: str, status: dict[str, Any], *conditions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "spec": more.get("spec", {}),
        "status": status,
        "conditions": list(conditions),
        "waiting": more.get("waiting", []),
    }


def ready(message: str = "serving") -> dict[str, Any]:
    return condition("Ready", "True", "AllReplicasReady", message)


def fox(*conditions: dict[str, Any], commit: str = COMMIT) -> dict[str, Any]:
    status = {
        "model": "fox-tiny",
        "replicas": 1,
        "readyReplicas": 1,
        "phase": "ready",
        "message": "1 of 1 replicas ready",
        "commit": commit,
    }
    spec = {"model": "fox-tiny", "replicas": 1, "contextTokens": 2048}
    return resource("deployments", "fox-tiny", status, *(conditions or (ready(),)), spec=spec)


def resources() -> dict[str, list[dict[str, Any]]]:
    """A fleet of one node with a deployment that serves and one that does not."""
    since = time.time() - AGE_SECONDS
    bear = resource(
        "deployments",
        "bear",
        {"model": "bear-70b", "replicas": 2, "readyReplicas": 0, "phase": "waiting", "commit": COMMIT},
        condition("Ready", "False", "InsufficientMemory", "demo: needs 40GiB, 12GiB are free"),
        waiting=[
            {
                "subject": "bear/0",
                "on": "memory on demo",
                "reason": "InsufficientMemory",
                "message": "needs 40GiB, 12GiB are free",
            }
        ],
    )
    fleet = {
        "attempted": COMMIT,
        "accepted": COMMIT,
        "inForce": COMMIT,
        "nodes": 1,
        "liveNodes": 1,
        "coordinator": "demo",
        "deployments": 2,
        "readyDeployments": 1,
    }
    node = {
        "ready": True,
        "backends": ["mlx", "mlx-cpu"],
        "memoryBytes": 24 * GIB,
        "placedBytes": int(1.5 * GIB),
        "accepted": COMMIT,
        "version": "0.1.0",
        "os": "linux",
        "arch": "x86_64",
        "participation": "full",
        "presence": "live",
        "problems": [],
        "health": {
            "state": "degraded",
            "findings": [
                {
                    "reason": "DiskNearlyFull",
                    "message": "1.5 GiB are free at /models",
                    "remediation": "remove models that no deployment needs, or other files there",
                }
            ],
        },
        "readings": readings(),
    }
    placement = {
        "deployment": "fox-tiny",
        "replica": 0,
        "model": "fox-tiny",
        "node": "demo",
        "backend": "mlx-cpu",
        "phase": "ready",
        "since": since,
        "contextTokens": 2048,
        "concurrency": 1,
        "memoryBytes": 64 * 1024**2,
        "failures": 0,
        "message": "",
    }
    runner = {
        "placement": UID,
        "node": "demo",
        "pid": 4242,
        "phase": "ready",
        "link": "connected",
        "adopted": False,
        "running": 1,
        "waiting": 0,
        "steps": 77,
        "residentBytes": 300 * 1024**2,
        "startedAt": since,
        "loadShare": 1.0,
    }
    return {
        "fleet": [resource("fleet", "demo", fleet, ready("1 of 2 deployments ready"))],
        "nodes": [resource("nodes", "demo", node, ready())],
        "deployments": [bear, fox()],
        "cards": [
            resource(
                "cards",
                "fox-tiny",
                {
                    "modelId": "skulk/fox-tiny-4bit",
                    "bytes": 1775783,
                    "present": True,
                    "nodes": ["demo"],
                    "deployments": ["fox-tiny"],
                },
            ),
            resource(
                "cards",
                "bear-70b",
                {"modelId": "big/bear", "bytes": 40 * GIB, "present": False, "fetchedBytes": 10 * GIB},
            ),
        ],
        "placements": [resource("placements", UID, placement, condition("Ready", "True", "Serving", "serving"))],
        "runners": [resource("runners", UID, runner)],
    }


def readings() -> dict[str, Any]:
    """Readings of a machine with one card of its own memory."""
    card = {
        "name": "NVIDIA GeForce RTX 3090",
        "vendor": "nvidia",
        "utilisation": 0.97,
        "memoryTotalBytes": 24 * GIB,
        "memoryUsedBytes": 22 * GIB,
        "temperatureCelsius": 71.0,
        "powerWatts": 348.12,
        "unified": False,
    }
    disks = [
        {"purpose": "state", "path": "/state", "totalBytes": 100 * GIB, "freeBytes": 64 * GIB},
        {"purpose": "models", "path": "/models", "totalBytes": 50 * GIB, "freeBytes": int(1.5 * GIB)},
        {"purpose": "old models", "path": "/old", "totalBytes": None, "freeBytes": None},
    ]
    return {
        "memory": {"ageSeconds": 1.2, "totalBytes": 24 * GIB, "usedBytes": 10 * GIB, "availableBytes": 14 * GIB},
        "system": {"ageSeconds": 1.2, "cpuUtilisation": 0.123, "powerWatts": 51.9, "temperatureCelsius": None},
        "accelerator": {"ageSeconds": 1.3, "devices": [card]},
        "disk": {"ageSeconds": 20.0, "disks": disks},
    }


def event(number: int, subject: str, reason: str, message: str) -> dict[str, Any]:
    at = time.time() - AGE_SECONDS
    return {"number": number, "at": at, "subject": subject, "reason": reason, "message": message}


def sse(value: object) -> str:
    return f"data: {json.dumps(value)}\n\n"


def chunk(finish: str | None = None, usage: dict[str, int] | None = None, **delta: str) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return sse({"object": "chat.completion.chunk", "choices": choices, "usage": usage})


class FakeNode:
    """One node. `start` and `stop` as often as wanted; the port stays."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.generation = 1
        self.accepted: str | None = COMMIT
        self.resources = resources()
        self.events = [
            event(1, "fleet/demo", "CommitAccepted", "accepted 4f1c2d3e"),
            event(2, "deployment/fox-tiny", "Serving", "replica 0 is ready"),
        ]
        self.bodies: list[dict[str, Any]] = []
        self.resets: list[str] = []
        self.polls = 0
        self.cancelled = threading.Event()
        self.answering = threading.Event()
        self.watchers = 0
        self.watched = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.watched.clear()
        config = uvicorn.Config(self._app(), lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        server = self._server

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._changed = asyncio.Event()
            await server.serve(sockets=[listener])

        # the socket listens already, so nobody has to wait for the thread
        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()
        self._server = self._thread = self._loop = None

    def change(self, **attributes: Any) -> None:
        """Set attributes, count the generation up and wake every watcher."""
        for name, value in attributes.items():
            setattr(self, name, value)
        self.generation += 1
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def status(self) -> dict[str, Any]:
        return {
            "node": "demo",
            "version": "0.1.0",
            "generation": self.generation,
            "attempted": self.accepted,
            "accepted": self.accepted,
            "inForce": self.accepted,
            "closing": False,
            "conditions": [],
            "waiting": [],
        }

    # --- routes ---------------------------------------------------------------------------------------------

    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.middleware("http")(self._guard)
        app.get("/fleet/v1/status")(self.status)
        app.get("/fleet/v1/watch")(self._watch)
        app.get("/fleet/v1/events")(self._events)
        app.get("/fleet/v1/why/{name}")(self._why)
        app.get("/fleet/v1/logs/{name}")(self._logs)
        app.post("/fleet/v1/reset/{name}")(self._reset)
        app.post("/fleet/v1/poll", status_code=202)(self._poll)
        app.get("/fleet/v1/{kind}")(self._list)
        app.get("/fleet/v1/{kind}/{name}")(self._one)
        app.post("/v1/chat/completions")(self._chat)
        return app

    async def _guard(self, request: Request, call_next: Any) -> Response:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            if "authorization" in request.headers:
                return _error(403, "the API key lacks the scope read", "insufficient_scope")
            return _error(401, "no valid API key was sent", "invalid_api_key")
        response: Response = await call_next(request)
        return response

    async def _watch(self, after: int = -1) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            self.watchers += 1
            seen = after
            yield ": keep-alive\n\n"
            server = self._server
            while server is not None and not server.should_exit:
                changed = self._changed
                if self.generation > seen:
                    seen = self.generation
                    view = {"generation": seen, "status": self.status(), "resources": self.resources}
                    yield f"event: view\nid: {seen}\ndata: {json.dumps(view)}\n\n"
                    self.watched.set()
                # keep-alives without end: a client with a deadline must not rely on silence
                try:
                    await asyncio.wait_for(changed.wait(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield ": keep-alive\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _events(self, after: int = 0) -> dict[str, Any]:
        return {"items": [e for e in self.events if e["number"] > after]}

    async def _why(self, name: str) -> Response:
        if name not in ("bear", "fox-tiny"):
            return _error(404, f"nothing is called {name}; deployments: bear, fox-tiny")
        return JSONResponse({"name": name, "lines": ["bear is not placed", "  demo: needs 40GiB, 12GiB are free"]})

    async def _logs(self, name: str, lines: int = 200, follow: bool = False) -> Response:
        if name != "fox-tiny":
            return _error(404, f"no placement or deployment {name}")
        return PlainTextResponse("".join(f"line {n} \x1b]0;title\x07\n" for n in range(1, 4)[-lines:]))

    async def _poll(self) -> dict[str, bool]:
        self.polls += 1
        return {"polling": True}

    async def _reset(self, name: str) -> dict[str, int]:
        self.resets.append(name)
        return {"cleared": 1}

    async def _list(self, kind: str) -> Response:
        if kind not in KINDS:
            return _error(404, f"no kind {kind}")
        items = self.resources[kind]
        return JSONResponse({"kind": kind, "generation": self.generation, "commit": self.accepted, "items": items})

    async def _one(self, kind: str, name: str) -> Response:
        found = next((r for r in self.resources[kind] if r["name"] == name), None)
        return JSONResponse(found) if found else _error(404, f"no {kind} {name}; there are bear, fox-tiny")

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        model = body["model"]
        if model == "unknown":
            return _error(404, "the model unknown is not served; models: fox-tiny", "model_not_found")
        if model == "loading":
            return _error(503, "no replica of loading is ready: loading 40 %", "model_not_ready")
        if not body["stream"]:
            return JSONResponse({"object": "chat.completion", "choices": [{"message": {"content": "Paris"}}]})
        return StreamingResponse(self._answer(model), media_type="text/event-stream")

    async def _answer(self, model: str) -> AsyncIterator[str]:
        yield ": command_id 1\n\n"
        yield chunk(role="assistant", content="")
        if model == "endless":
            try:
                while True:
                    yield chunk(content="la ")
                    self.answering.set()
                    await asyncio.sleep(0.01)
            finally:
                self.cancelled.set()
        yield chunk(reasoning_content="France? ")
        yield chunk(reasoning_content="Easy.")
        yield chunk(content="Par")
        if model == "failing":
            yield sse({"error": {"message": "the runner was lost", "type": "server_error", "code": "runner_lost"}})
            yield "data: [DONE]\n\n"
            return
        if model == "cut":
            return
        yield chunk(content="is\x1b[31m")
        yield chunk(finish="length" if model == "long" else "stop", usage={"completion_tokens": 4})
        yield "data: [DONE]\n\n"


def _error(status: int, message: str, slug: str | None = None) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": slug}
    return JSONResponse({"error": error, "detail": message}, status_code=status)


@contextlib.contextmanager
def running() -> Iterator[FakeNode]:
    node = FakeNode()
    node.start()
    try:
        yield node
    finally:
        node.stop()
