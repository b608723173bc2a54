"""Apply actions: one small coroutine per type, never two of the same key at once.

An action that fails is not retried here: the next decision sees the facts and decides again. Only a start that
failed before there was a process leaves no fact behind, so that failure is kept for the decision to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from skulk.core.domain import PlacementUid
from skulk.core.errors import SkulkError
from skulk.core.ports import RunnerHost, Weights
from skulk.core.reconcile.actions import Action, Adopt, Clear, Drain, Fetch, Forget, Kill, Start, Stop, key
from skulk.core.reconcile.ledger import Blame

_log = structlog.get_logger(component="apply")

KILL_AGAIN_SECONDS = 0.25
"""The kernel takes a killed process apart in its own time: until then the rules order the same again at every look."""


class Applier:
    """Runs actions as tasks. `in_flight` and `failed_starts` are facts for the next decision."""

    def __init__(self, runners: RunnerHost, weights: Weights, wake: Callable[[], None]) -> None:
        self._runners = runners
        self._weights = weights
        self._wake = wake
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failed_starts: dict[PlacementUid, Blame] = {}

    @property
    def in_flight(self) -> frozenset[str]:
        return frozenset(self._tasks)

    def apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            name = key(action)
            if name in self._tasks:
                continue
            if isinstance(action, Start):
                self.failed_starts.pop(action.launch.uid, None)
            _log.info("action_begun", action=type(action).__name__, subject=name.partition("/")[2])
            self._tasks[name] = asyncio.create_task(self._run(name, action), name=name)

    async def _run(self, name: str, action: Action) -> None:
        try:
            await self._one(action)
        except SkulkError as error:
            _log.warning("action_failed", action=name, code=error.code.id, error=error.message)
            if isinstance(action, Start):
                self.failed_starts[action.launch.uid] = Blame(error.code.id, error.message)
        finally:
            del self._tasks[name]
            self._wake()

    async def _one(self, action: Action) -> None:
        match action:
            case Adopt():
                await self._runners.adopt(action.uid)
            case Clear():
                await self._runners.clear(action.uid)
            case Kill():
                _log.warning("runner_killed", placement=action.uid, code=action.code, reason=action.message)
                await self._runners.stop(action.uid, force=True)
                await asyncio.sleep(KILL_AGAIN_SECONDS)
            case Drain():
                await self._runners.drain(action.uid)
            case Stop():
                await self._runners.stop(action.uid, force=False)
            case Fetch():
                await self._weights.fetch(action.card, action.content, keep_free_bytes=action.keep_free_bytes)
            case Forget():
                await self._weights.forget(action.content)
            case Start():
                await self._runners.start(action.launch)

    async def close(self) -> None:
        """Cancel what is being applied (a fetch cleans up after itself) and wait for it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
