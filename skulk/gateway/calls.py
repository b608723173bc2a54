"""The chat requests that are open, and everything that can end one early.

A `Call` lives from the parsed request to the last byte and has one generation per choice. Client gone, cancelled by its
id, deadline passed: all of them are `end`, the first reason wins, and it reaches the runners at once. How an answer is
written is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
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

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self._requests = tuple(requests)
        self._running: dict[int, Generation] = {}
        """By choice: what was accepted and has not ended."""
        self._ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._deadline: asyncio.TimerHandle | None = None

    def end(self, reason: Exception) -> None:
        """Stop the work on this call because of `reason`. Later reasons are ignored."""
        if not self._ended.done():
            self._ended.set_result(reason)
            self.stop_all(str(reason) or type(reason).__name__)

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or the reason raised when the call is ended before."""
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self._ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():  # first: it makes the work fail, perhaps in the same turn of the loop
                raise self._ended.result()
            return task.result()
        finally:
            await stop(task)

    async def submit(self, serving: Serving, index: int) -> Generation:
        """Route and send the request of one choice, and wait until it is accepted; it is cancelled with the call from
        here on. Raises what refuses it."""
        self._running[index] = generation = await serving.submit(self._requests[index])
        return generation

    def expire_after(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self.end(
            RequestError(
                REQ_DEADLINE,
                f"no token came within {self._requests[0].deadline_seconds:g} s",
                status=504,
                kind="server_error",
            )
        )

    def first_token(self) -> None:
        """The deadline is met."""
        if self._deadline is not None:
            self._deadline.cancel()

    def complete(self, index: int) -> None:
        """The generation of a choice ended by itself: nothing is left to cancel."""
        self._running.pop(index, None)

    def stop_generation(self, index: int, reason: str) -> None:
        """The answer is whole although the runner would go on: a stop string was found."""
        generation = self._running.pop(index, None)
        if generation is not None:
            generation.cancel(reason)

    def stop_all(self, reason: str) -> None:
        for index in tuple(self._running):
            self.stop_generation(index, reason)

    def close(self) -> None:
        self.first_token()
        self.stop_all("the request is over")


class Calls:
    """All open calls of one app, by command id."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}

    @asynccontextmanager
    async def open(
        self, command_id: str, requests: Sequence[GenerationRequest], receive: Receive
    ) -> AsyncIterator[Call]:
        """A call that ends when the client goes. `receive` must have given the whole body already."""
        call = Call(requests)
        self._open[command_id] = call
        watcher = asyncio.ensure_future(watch_client(receive, lambda: call.end(ClientGone("the client is gone"))))
        try:
            yield call
        finally:
            del self._open[command_id]
            call.close()
            await stop(watcher)

    def cancel(self, command_id: str) -> bool:
        """End an open call for a person; False when there is none of that id."""
        call = self._open.get(command_id)
        if call is None:
            return False
        call.end(RequestError(REQ_CANCELLED, "the request was cancelled by its command id", status=CANCELLED_STATUS))
        return True


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first failure is raised, and the others are ended before."""
    if len(works) == 1:  # nearly always
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            await stop(task)


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
