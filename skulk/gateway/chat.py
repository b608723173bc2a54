"""`POST /v1/chat/completions` and `POST /v1/cancel/{command_id}`.

The status is decided when the runner has accepted: until then every failure is a real HTTP error and nothing has
been sent. A streamed answer that fails later ends with an error event; an answer in one piece is buffered, so its
status is always true. Fields are judged by `skulk.core.dialects.openai`, text is assembled by `…dialects.text`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from skulk.core.dialects.openai import HONOURED, TRIVIAL, ChatRequest, check_against_model, parse_chat
from skulk.core.dialects.openai_encode import (
    DONE,
    KEEP_ALIVE,
    Answer,
    PieceEvents,
    Usage,
    command_id_comment,
    error_json,
    event,
)
from skulk.core.dialects.text import Channel, Piece, TextAssembly
from skulk.core.domain import Finish, RequestId, ServedModel, Tokens
from skulk.core.errors import (
    ENG_GENERATE,
    REQ_CANCELLED,
    REQ_INVALID,
    REQ_NOT_FOUND,
    RUN_LOST,
    RequestError,
)
from skulk.core.ports import Generation, Serving
from skulk.gateway.bodies import read_object
from skulk.gateway.calls import CANCELLED_STATUS, Call, Calls, ClientGone, stop
from skulk.gateway.edge import note_of, told
from skulk.gateway.metrics import UNKNOWN_MODEL, Note
from skulk.gateway.models import ready_model
from skulk.gateway.outbox import Outbox
from skulk.gateway.replies import json_reply
from skulk.gateway.settings import GatewaySettings

DEADLINE_HEADER = "X-Skulk-Deadline-Seconds"
DEADLINE_SECONDS_MAX = 86_400.0
"""A day: whoever waits longer for a first token has forgotten the request."""
Show = Callable[[Piece], None]
"""Takes a piece of text as soon as it may be seen."""
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Tells nginx not to collect the stream before passing it on.
    (b"x-accel-buffering", b"no"),
)


def chat_router(serving: Serving, settings: GatewaySettings) -> APIRouter:
    router = APIRouter(tags=["inference"])
    calls = Calls()

    @router.post("/v1/chat/completions", openapi_extra={"requestBody": _request_body()})
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, as a stream of events or in one piece."""
        note = note_of(request.scope)
        # A random id, set before anything can fail: refused requests are counted too.
        note.command_id = settings.new_id()
        note.model = UNKNOWN_MODEL
        deadline = _deadline(request, settings)
        body = await read_object(request, settings)
        chat = parse_chat(
            body,
            request_id=RequestId(note.command_id),
            seed=settings.new_seed(),
            now=settings.wall(),
            deadline_seconds=deadline,
        )
        served = ready_model(serving.view(), chat.generation.model, note, settings)
        check_against_model(chat, served)
        return ChatReply(serving, settings, calls, chat, served)

    @router.post("/v1/cancel/{command_id}")
    async def cancel(command_id: str) -> Response:
        """End a running request of this node by the id that its stream announced."""
        if not calls.cancel(command_id):
            raise RequestError(REQ_NOT_FOUND, "Command not found or already completed", status=404, param="command_id")
        return json_reply({"message": "Command cancelled.", "command_id": command_id})

    return router


def _deadline(request: Request, settings: GatewaySettings) -> float:
    text = request.headers.get(DEADLINE_HEADER)
    if text is None:
        return settings.first_token_seconds
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= DEADLINE_SECONDS_MAX:
        raise RequestError(
            REQ_INVALID,
            f"{DEADLINE_HEADER} must be a number of seconds above 0 and at most {DEADLINE_SECONDS_MAX:g}",
            status=400,
            param=DEADLINE_HEADER,
        )
    return seconds


def _request_body() -> dict[str, object]:
    properties: dict[str, object] = {name: {"description": text} for name, text in HONOURED.items()}
    for name, values in TRIVIAL.items():
        properties[name] = {"enum": [*values, None], "description": "accepted with these values only"}
    schema = {
        "type": "object",
        "required": ["model", "messages"],
        "properties": properties,
        "additionalProperties": False,
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


@dataclass(slots=True)
class _Progress:
    """One answer while it grows: what was assembled, and when."""

    assembly: TextAssembly
    generation: Generation
    note: Note

    @property
    def usage(self) -> Usage:
        accepted = self.generation.accepted
        return Usage(
            accepted.prompt_tokens,
            accepted.cached_tokens,
            self.assembly.completion_tokens,
            self.assembly.reasoning_tokens,
        )


class ChatReply(Response):
    """Runs one chat request inside the response phase, where the client's connection is in hand."""

    def __init__(
        self,
        serving: Serving,
        settings: GatewaySettings,
        calls: Calls,
        chat: ChatRequest,
        served: ServedModel,
    ) -> None:
        super().__init__()
        self._serving = serving
        self._settings = settings
        self._calls = calls
        self._chat = chat
        self._served = served
        request = chat.generation
        self._answer = Answer(request.id, int(request.now), request.model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note = note_of(scope)
        request = self._chat.generation
        try:
            async with self._calls.open(request, receive) as call:
                call.expire_after(max(0.0, note.started + request.deadline_seconds - self._settings.monotonic()))
                generation = await call.submit(self._serving)
                progress = _Progress(self._assembly(generation), generation, note)
                if self._chat.stream:
                    await self._stream(call, progress, send)
                else:
                    await self._whole(call, progress, scope, receive, send)
        except ClientGone:
            note.error = note.error or "client_gone"

    def _assembly(self, generation: Generation) -> TextAssembly:
        return TextAssembly(
            reasoning_format=self._served.card.reasoning.format,
            in_reasoning=generation.accepted.in_reasoning,
            stop=self._chat.generation.stop,
        )

    async def _whole(self, call: Call, progress: _Progress, scope: Scope, receive: Receive, send: Send) -> None:
        pieces: list[Piece] = []
        try:
            finish = await call.during(self._follow(call, progress, pieces.append))
        finally:
            progress.note.usage = progress.usage
        content = "".join(piece.text for piece in pieces if piece.channel is Channel.CONTENT)
        reasoning = "".join(piece.text for piece in pieces if piece.channel is Channel.REASONING)
        reply = json_reply(self._answer.complete(content, reasoning, finish, progress.usage))
        await reply(scope, receive, send)

    async def _stream(self, call: Call, progress: _Progress, send: Send) -> None:
        outbox = Outbox(self._settings.owner_buffer_bytes_max)
        writer = asyncio.ensure_future(self._write(outbox, send))
        writer.add_done_callback(lambda task: _report_broken(task, call))
        try:
            outbox.close(*await self._fill(call, progress, outbox))
            # The generation is over; what is left is the client's time to read. A socket that closes ends it too.
            await asyncio.wait({writer}, timeout=self._settings.drain_seconds_max)
            if not writer.done():
                progress.note.error = progress.note.error or "client_stalled"
        finally:
            progress.note.usage = progress.usage
            await stop(writer)

    async def _fill(self, call: Call, progress: _Progress, outbox: Outbox) -> list[bytes]:
        """Put all pieces into the outbox; return the events that end the stream. Raises ClientGone."""

        events = PieceEvents(self._answer)

        def put(piece: Piece) -> None:
            outbox.put(events.event(piece))

        try:
            finish = await call.during(self._follow(call, progress, put))
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001  (told and logged; a client is owed an answer)
            failure = told(error, progress.note)
            progress.note.error = failure.code.id
            call.stop_generation(failure.code.title)
            return [event(error_json(failure, progress.note.request_id)), DONE]
        last = [event(self._answer.chunk(finish=finish))]
        if self._chat.include_usage:
            last.append(event(self._answer.usage_chunk(progress.usage)))
        return [*last, DONE]

    async def _follow(self, call: Call, progress: _Progress, show: Show) -> Finish:
        """Assemble frames until the answer ends; `show` gets every piece. Raises RequestError."""
        assembly, note = progress.assembly, progress.note
        async with aclosing(_closable(progress.generation.frames())) as frames:
            async for tokens in frames:
                if tokens.ids:
                    note.last_token = self._settings.monotonic()
                    if note.first_token is None:
                        note.first_token = note.last_token
                        call.first_token()
                if tokens.finish is not None:
                    call.complete()
                for piece in assembly.feed(tokens):
                    show(piece)
                if assembly.finish is not None:
                    break
        if assembly.matched_stop is not None:
            call.stop_generation("a stop string was found")
        note.finish = assembly.finish.value if assembly.finish is not None else ""
        return _good_end(assembly)

    async def _write(self, outbox: Outbox, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
        batch: bytes | None = KEEP_ALIVE + command_id_comment(self._chat.generation.id)
        while batch is not None:
            await send({"type": "http.response.body", "body": batch or KEEP_ALIVE, "more_body": True})
            batch = await outbox.take(self._settings.keep_alive_seconds)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _closable(frames: AsyncIterator[Tokens]) -> AsyncGenerator[Tokens, None]:
    """An iterator as a generator, so that leaving it early closes it at once and not when it is collected."""
    try:
        async for tokens in frames:
            yield tokens
    finally:
        if isinstance(frames, AsyncGenerator):
            await frames.aclose()


def _report_broken(writer: asyncio.Future[None], call: Call) -> None:
    if not writer.cancelled() and writer.exception() is not None:
        call.end(ClientGone("the connection broke"))


def _good_end(assembly: TextAssembly) -> Finish:
    """STOP or LENGTH; anything else is raised as the error that it is."""
    match assembly.finish:
        case Finish.STOP | Finish.LENGTH:
            return assembly.finish
        case Finish.CANCELLED:
            reason = assembly.error or "the request was cancelled"
            raise RequestError(REQ_CANCELLED, reason, status=CANCELLED_STATUS)
        case Finish.ERROR:
            reason = assembly.error or "generation failed inside the engine"
            raise RequestError(ENG_GENERATE, reason, status=500, kind="server_error")
        case None:
            reason = "the answer broke off without a reason"
            raise RequestError(RUN_LOST, reason, status=502, kind="server_error")
