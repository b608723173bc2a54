"""The answer to one chat request, as a stream of events or in one piece.

The status of a stream is decided when all choices are accepted, or by the first token where some of them still wait for
a slot: until then every failure is a real HTTP error and nothing has been sent. A streamed answer that fails later ends
with an error event; an answer in one piece is buffered, so its status is always true. Text is assembled by
`skulk.core.dialects.text`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from skulk.core.dialects.openai import ChatRequest
from skulk.core.dialects.openai_encode import (
    DONE,
    KEEP_ALIVE,
    Answer,
    Choice,
    PieceEvents,
    Usage,
    command_id_comment,
    error_json,
    event,
    stats_comment,
)
from skulk.core.dialects.text import Shown, TextAssembly
from skulk.core.domain import Finish, ServedModel, Tokens
from skulk.core.errors import ENG_GENERATE, REQ_CANCELLED, RUN_LOST, RequestError
from skulk.core.ports import Generation, Serving
from skulk.gateway.calls import CANCELLED_STATUS, Call, Calls, ClientGone, all_of, stop
from skulk.gateway.edge import note_of, send_of, told
from skulk.gateway.metrics import Note, stats_of
from skulk.gateway.outbox import Outbox
from skulk.gateway.replies import json_reply
from skulk.gateway.settings import GatewaySettings

Show = Callable[[Shown], None]
"""Takes a piece of text, or a call, as soon as it may be seen."""
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Tells nginx not to collect the stream before passing it on.
    (b"x-accel-buffering", b"no"),
)


@dataclass(slots=True)
class _Growing:
    """One choice while it grows."""

    index: int
    assembly: TextAssembly
    generation: Generation


@dataclass(slots=True)
class _Progress:
    """The choices of one request that are accepted, and what is noted of it."""

    note: Note
    choices: list[_Growing] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """There is something to say, or nothing is left that could refuse the request."""

    def take_stock(self) -> Usage:
        """Note and return what was used until now. The prompt is one, however many choices share it."""
        if not self.choices:
            return Usage(0, 0, 0, 0)
        accepted = self.choices[0].generation.accepted
        assemblies = [choice.assembly for choice in self.choices]
        self.note.usage = usage = Usage(
            accepted.prompt_tokens,
            accepted.cached_tokens,
            sum(assembly.completion_tokens for assembly in assemblies),
            sum(assembly.reasoning_tokens for assembly in assemblies),
        )
        return usage


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
        self._answer = Answer(request.id, int(request.now), request.model, request.logprobs is not None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note = note_of(scope)
        request = self._chat.generation
        try:
            async with self._calls.open(request.id, self._chat.generations, receive) as call:
                call.expire_after(max(0.0, note.started + request.deadline_seconds - self._settings.monotonic()))
                note.choices = len(self._chat.generations)
                progress = _Progress(note)
                if self._chat.stream:
                    await self._stream(call, progress, scope, send)
                else:
                    await self._whole(call, progress, scope, receive, send)
        except ClientGone:
            note.error = note.error or "client_gone"

    async def _accepted(self, call: Call, index: int, progress: _Progress) -> _Growing:
        generation = await call.submit(self._serving, index)
        growing = _Growing(index, self._assembly(generation, self._chat.generations[index].id), generation)
        progress.choices.append(growing)
        progress.note.queue_seconds = max(progress.note.queue_seconds, generation.accepted.queue_seconds)
        if len(progress.choices) == progress.note.choices:
            progress.begun.set()
        return growing

    def _assembly(self, generation: Generation, request_id: str) -> TextAssembly:
        tools = self._chat.tools
        return TextAssembly(
            reasoning_format=self._served.card.reasoning.format,
            in_reasoning=generation.accepted.in_reasoning,
            stop=self._chat.generation.stop,
            tools=frozenset() if tools is None else tools.names,
            one_call=tools is not None and not tools.parallel,
            request_id=request_id,
            logprobs=self._answer.logprobs,
        )

    async def _whole(self, call: Call, progress: _Progress, scope: Scope, receive: Receive, send: Send) -> None:
        async def one(index: int) -> Choice:
            growing = await self._accepted(call, index, progress)
            shown: list[Shown] = []
            finish = await self._follow(call, growing, progress, shown.append)
            return Choice(growing.index, shown, finish)

        try:
            choices = await call.during(all_of([one(index) for index in range(progress.note.choices)]))
        finally:
            usage = progress.take_stock()
        reply = json_reply(self._answer.complete(choices, usage, stats_of(progress.note, usage)))
        await reply(scope, receive, send)

    async def _stream(self, call: Call, progress: _Progress, scope: Scope, send: Send) -> None:
        send_piece = send_of(scope)

        async def write(body: bytes) -> None:
            await send_piece({"type": "http.response.body", "body": body, "more_body": True})

        outbox = Outbox(self._settings.owner_buffer_bytes_max, write)
        writer = asyncio.ensure_future(self._write(progress.begun, outbox, send))
        writer.add_done_callback(lambda task: _report_broken(task, call))
        try:
            outbox.close(*await self._fill(call, progress, outbox))
            # The generation is over; what is left is the client's time to read. A socket that closes ends it too.
            await asyncio.wait({writer}, timeout=self._settings.drain_seconds_max)
            if not writer.done():
                progress.note.error = progress.note.error or "client_stalled"
        finally:
            progress.take_stock()
            await stop(writer)

    async def _fill(self, call: Call, progress: _Progress, outbox: Outbox) -> list[bytes]:
        """Put all choices into the outbox; return the events that end the stream. Raises ClientGone, and whatever
        fails before the stream has begun."""

        async def one(index: int) -> None:
            growing = await self._accepted(call, index, progress)
            events = PieceEvents(self._answer, index)

            def show(item: Shown) -> None:
                outbox.put(events.event(item))

            finish = await self._follow(call, growing, progress, show)
            called = growing.assembly.calls > 0
            outbox.keep(event(self._answer.chunk(finish=finish, index=growing.index, called=called)))

        try:
            await call.during(all_of([one(index) for index in range(progress.note.choices)]))
        except ClientGone:
            raise
        except Exception as error:
            if not progress.begun.is_set():
                raise
            failure = told(error, progress.note)
            progress.note.error = failure.code.id
            call.stop_all(failure.code.title)
            return [event(error_json(failure, progress.note.request_id)), DONE]
        usage = progress.take_stock()
        last = [event(self._answer.usage_chunk(usage))] if self._chat.include_usage else []
        return [*last, stats_comment(stats_of(progress.note, usage)), DONE]

    async def _follow(self, call: Call, growing: _Growing, progress: _Progress, show: Show) -> Finish:
        """Assemble frames until the choice ends; `show` gets every piece. Raises RequestError."""
        assembly, note = growing.assembly, progress.note
        monotonic, queued = self._settings.monotonic, growing.generation.accepted.queue_seconds

        def take(tokens: Tokens) -> bool:
            if tokens.ids:
                if note.first_token is None:
                    call.first_token()
                    progress.begun.set()
                note.token(monotonic(), queued, tokens.seconds)
            if tokens.finish is not None:
                call.complete(growing.index)
            for item in assembly.feed(tokens):
                show(item)
            return assembly.finish is None

        await growing.generation.follow(take)
        if assembly.early_end:
            call.stop_generation(growing.index, assembly.early_end)
        note.finish = assembly.finish.value if assembly.finish is not None else ""
        return _good_end(assembly)

    async def _write(self, begun: asyncio.Event, outbox: Outbox, send: Send) -> None:
        await begun.wait()
        await send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
        await outbox.write_all(
            KEEP_ALIVE + command_id_comment(self._chat.generation.id), KEEP_ALIVE, self._settings.keep_alive_seconds
        )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
