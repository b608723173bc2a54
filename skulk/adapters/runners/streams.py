"""One request's frames between a runner's connection and the gateway: numbers checked, buffer bounded.

A stream ends in exactly one of three ways: the runner's last frame, a local cancel, or a RequestError that says
why. Nothing is passed on twice, out of order, or past a gap. Knows no socket: it sends through a callable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from skulk.core.domain import Accepted, Finish, PlacementUid, RequestId, RunnerRefusal, Tokens
from skulk.core.errors import (
    CODES,
    ENG_GENERATE,
    REQ_CONTEXT,
    REQ_SLOW_CLIENT,
    RUN_LOST,
    RUN_PROTOCOL,
    ErrorCode,
    RequestError,
    RetriableRefusal,
)
from skulk.core.ports import TakeTokens
from skulk.core.wire.runner import Ack, Cancel, ToRunner

BUFFER_BYTES_MAX = 8 * 1024 * 1024
"""Per slow client: some hundred thousand tokens. Beyond it the request is cancelled with a reason, because the
batch never waits for one reader."""
FRAME_BYTES_OVERHEAD = 128
"""What a frame costs in memory beside its tokens, so that empty frames count too."""
ID_BYTES = 8
"""A token id in a tuple."""


class Stream:
    """The receiving end of one request, fed by the runner's reader."""

    def __init__(
        self, uid: PlacementUid, request: RequestId, send: Callable[[ToRunner], None], over: Callable[[], None]
    ) -> None:
        self.uid = uid
        self.request = request
        self.received = 0
        """Number of the last frame that came in order."""
        self.acknowledged = 0
        self.answer: Accepted | None = None
        self._send = send
        self._over = over
        self._error: RequestError | None = None
        self._open = True
        self._frames: deque[Tokens] = deque()
        self._buffered_bytes = 0
        self._delivered = 0
        self._take: TakeTokens | None = None
        self._failure: Exception | None = None
        """What `_take` raised."""
        self._changed = asyncio.Event()

    # --- from the runner ------------------------------------------------------------------------------------

    def on_accepted(self, accepted: Accepted) -> None:
        if self._open and self.answer is None:
            self.answer = accepted
            self._changed.set()

    def on_refused(self, refusal: RunnerRefusal) -> None:
        if self._open:
            self._end(error_of(refusal))

    def on_tokens(self, tokens: Tokens) -> None:
        """Take one frame. A repeated number is dropped; a gap ends the stream with RUN_PROTOCOL."""
        if not self._open or tokens.number <= self.received:
            return
        if self.answer is None or tokens.number != self.received + 1:
            expected = f"frame {self.received + 1}" if self.answer is not None else "an answer"
            self.fail(self._lost(f"sent frame {tokens.number} where {expected} was due", RUN_PROTOCOL))
            self._send(Cancel(self.request, "frames are missing"))
            return
        self.received = tokens.number
        if tokens.finish is not None:
            # Acknowledging the last frame lets the runner forget the request.
            self._acknowledge()
        if tokens.finish is Finish.CANCELLED:
            # Not by us: a cancel of ours closes the stream before the runner hears of it.
            self.fail(self._lost(f"cancelled the request: {tokens.error or 'it gave no reason'}"))
            return
        if tokens.finish is None and not self._frames and self._take is not None:
            self._give(tokens)  # nearly always
            return
        self._frames.append(tokens)
        self._buffered_bytes += _bytes_of(tokens)
        if tokens.finish is not None:
            self._end(None)
            return
        self._pass_on()
        if self._buffered_bytes > BUFFER_BYTES_MAX:
            self._frames.clear()
            self.fail(
                RequestError(
                    REQ_SLOW_CLIENT,
                    f"the client left {self._buffered_bytes} bytes unread; the limit is {BUFFER_BYTES_MAX}",
                    status=408,
                    kind="server_error",
                    slug="slow_client",
                )
            )
            self._send(Cancel(self.request, "the client reads too slowly"))

    # --- from this side -------------------------------------------------------------------------------------

    def acknowledgement(self) -> int | None:
        """The number to acknowledge now; None when there is nothing new."""
        return self.received if self._open and self.received > self.acknowledged else None

    def fail(self, error: RequestError) -> None:
        """End with an error. What came in order before is still delivered."""
        if self._open:
            self._end(error)

    def lose(self, why: str) -> None:
        """The runner cannot go on. A request that it had not accepted may be sent to another replica."""
        if self.answer is None:
            self.fail(RetriableRefusal(RUN_LOST, f"runner {self.uid}: {why}", status=502, kind="server_error"))
        else:
            self.fail(self._lost(why))

    def cancel(self, reason: str) -> None:
        """End now, here and in the runner. Who follows gets a last frame with Finish.CANCELLED and the reason."""
        if not self._open:
            return
        self._send(Cancel(self.request, reason))
        self._frames.clear()
        last = Tokens(self._delivered + 1, (), b"", Finish.CANCELLED, reason)
        self._frames.append(last)
        self._end(None)

    async def accepted(self) -> Accepted:
        """Wait for the runner's first frame. Raises RequestError when it is a refusal or never comes."""
        while self.answer is None:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise self._lost("the request was cancelled before it was accepted")
            await self._wait()
        return self.answer

    async def follow(self, take: TakeTokens) -> None:
        """See `Generation.follow`. Who follows again goes on where the one before stopped."""
        self._take = take
        try:
            self._pass_on()
            while self._open and self._take is not None:
                await self._wait()
            self._pass_on()
        finally:
            wanted, self._take = self._take is not None, None
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if wanted and self._error is not None:
            raise self._error

    def _pass_on(self) -> None:
        """Give what is here to who follows."""
        while self._take is not None and self._frames:
            frame = self._frames.popleft()
            self._buffered_bytes -= _bytes_of(frame)
            self._give(frame)

    def _give(self, frame: Tokens) -> None:
        """To who follows. It is called by the runner's reader, which one reader's failure must not reach: that ends the
        following alone."""
        assert self._take is not None
        self._delivered = frame.number
        try:
            more = self._take(frame)
        except Exception as error:  # noqa: BLE001  (raised by `follow`)
            self._failure, more = error, False
        if not more:
            self._take = None
            self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _end(self, error: RequestError | None) -> None:
        self._open = False
        self._error = error
        self._changed.set()
        self._over()

    def _acknowledge(self) -> None:
        self.acknowledged = self.received
        self._send(Ack({self.request: self.received}))

    def _lost(self, why: str, code: ErrorCode = RUN_LOST) -> RequestError:
        return RequestError(
            code,
            f"runner {self.uid}: {why}",
            status=502,
            kind="server_error",
            slug="runner_lost",
        )


class RunnerGeneration:
    """One accepted request (the port `Generation`)."""

    def __init__(self, stream: Stream, accepted: Accepted) -> None:
        self.accepted: Accepted = accepted
        self.placement: PlacementUid = stream.uid
        self._stream = stream

    async def follow(self, take: TakeTokens) -> None:
        """See the port. Raises RequestError: 502 when the runner is lost or ended the request by itself, 408 when
        frames were left unread for too long."""
        await self._stream.follow(take)

    def cancel(self, reason: str) -> None:
        """Free the slot within one engine step; who follows gets a last frame with Finish.CANCELLED."""
        self._stream.cancel(reason)


def error_of(refusal: RunnerRefusal) -> RequestError:
    """The error that a refusal means to the gateway; a retriable one may go to another replica."""
    code = CODES.get(refusal.code, ENG_GENERATE)
    kind = "invalid_request_error" if 400 <= refusal.status < 500 else "server_error"
    slug = "context_length_exceeded" if code is REQ_CONTEXT else None
    error = RetriableRefusal if refusal.retriable else RequestError
    status = refusal.status if 400 <= refusal.status < 600 else 502
    return error(code, refusal.message, status=status, kind=kind, param=refusal.param, slug=slug)


def _bytes_of(tokens: Tokens) -> int:
    return FRAME_BYTES_OVERHEAD + len(tokens.data) + ID_BYTES * len(tokens.ids)
