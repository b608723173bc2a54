"""The chat requests that are open, and everything that can end one early.

A `Call` lives from the parsed request to the last byte. Client gone, cancelled by its id, deadline passed: all of
them are `end`, the first reason wins, and it reaches the runner at once. How an answer is written is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.types import Receive

from skulk.core.domain import GenerationRequest
from skulk.core.errors import REQ_CANCELLED, REQ_DEADLINE, RequestError
from skulk.core.ports import Generation, Serving

T = TypeVar("T")
CANCELLED_STATUS = 499
"""Not retried by clients, unlike 409 and 5xx: somebody asked for the end."""


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Call:
    """One open request. Made by `Calls.open`."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.generation: Generation | None = None
        self._ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._complete = False
        self._deadline: asyncio.TimerHandle | None = None

    def end(self, reason: Exception) -> None:
        """Stop the work on this call because of `reason`. Later reasons are ignored."""
        if not self._ended.done():
            self._ended.set_result(reason)
            self._cancel_generation(str(reason) or type(reason).__name__)

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or the reason raised when the call is ended before."""
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self._ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise self._ended.result()
        finally:
            await stop(task)

    async def submit(self, serving: Serving) -> Generation:
        """Route and send the request; the generation is cancelled with the call from here on."""
        return await self.during(self._submit(serving))

    async def _submit(self, serving: Serving) -> Generation:
        self.generation = await serving.submit(self.request)
        return self.generation

    def expire_after(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self.end(
            RequestError(
                REQ_DEADLINE,
                f"no token came within {self.request.deadline_seconds:g} s",
                status=504,
                kind="server_error",
            )
        )

    def first_token(self) -> None:
        """The deadline is met."""
        if self._deadline is not None:
            self._deadline.cancel()

    def complete(self) -> None:
        """The generation ended by itself: nothing is left to cancel."""
        self._complete = True

    def stop_generation(self, reason: str) -> None:
        """The answer is whole although the runner would go on: a stop string was found."""
        self._cancel_generation(reason)

    def close(self) -> None:
        self.first_token()
        self._cancel_generation("the request is over")

    def _cancel_generation(self, reason: str) -> None:
        if self.generation is not None and not self._complete:
            self._complete = True
            self.generation.cancel(reason)


class Calls:
    """All open calls of one app, by command id."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}

    @asynccontextmanager
    async def open(self, request: GenerationRequest, receive: Receive) -> AsyncIterator[Call]:
        """A call that ends when the client goes. `receive` must have given the whole body already."""
        call = Call(request)
        self._open[request.id] = call
        watcher = asyncio.ensure_future(watch_client(receive, lambda: call.end(ClientGone("the client is gone"))))
        try:
            yield call
        finally:
            del self._open[request.id]
            call.close()
            await stop(watcher)

    def cancel(self, command_id: str) -> bool:
        """End an open call for a person; False when there is none of that id."""
        call = self._open.get(command_id)
        if call is None:
            return False
        call.end(RequestError(REQ_CANCELLED, "the request was cancelled by its command id", status=CANCELLED_STATUS))
        return True


async def watch_client(receive: Receive, gone: Callable[[], None]) -> None:
    """Call `gone` when the connection closes. Returns then; cancel it otherwise."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone()


async def stop(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over; its outcome is of no interest any more."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
