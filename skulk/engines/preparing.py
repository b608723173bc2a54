"""Requests become prompts in a thread of their own, in the order in which they come.

A chat template and a tokeniser take seconds for a document of megabytes. Beside the engine they hold up nobody's next
token; whoever is behind the document in the queue for a slot waits for it, and nobody else does.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import GenerationRequest, RunnerRefusal
from skulk.core.errors import ENG_GENERATE, RequestError
from skulk.engines.admission import budget
from skulk.engines.engine import Engine, Prompt
from skulk.engines.flight import FlightRecorder, Phase
from skulk.engines.watchdog import Activity, Pulse

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begin:
    """`queue_seconds`: how long it waited for its slot, and behind the prompts before it."""

    request: GenerationRequest
    queue_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as token ids, and how many tokens it may generate; or why there are none."""

    begin: Begin
    prompt: Prompt
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Declined:
    """A request that is not begun, and why."""

    request: RequestId
    refusal: RunnerRefusal


class Preparer(threading.Thread):
    """`wanted` says whether anybody still waits for a request; `hand_over` gets the outcome of every one that is
    begun. Both are called in this thread. `start` it when the engine has loaded: it calls `Engine.render`."""

    def __init__(
        self,
        engine: Engine,
        context_tokens: int,
        max_tokens_default: int,
        pulse: Pulse,
        flight: FlightRecorder,
        wanted: Callable[[RequestId], bool],
        hand_over: Callable[[Prepared | Declined], None],
    ) -> None:
        super().__init__(name="preparing", daemon=True)
        self._engine = engine
        self._context_tokens = context_tokens
        self._max_tokens_default = max_tokens_default
        self._pulse = pulse
        self._flight = flight
        self._wanted = wanted
        self._hand_over = hand_over
        self._orders: queue.SimpleQueue[tuple[Begin, float]] = queue.SimpleQueue()
        """With the moment of each, in monotonic seconds."""

    def order(self, begin: Begin) -> None:
        """Hand over a request; safe from any thread."""
        self._orders.put((begin, time.monotonic()))

    def run(self) -> None:
        while True:
            begin, ordered = self._orders.get()
            self._pulse.beat(Activity.PREPARING)
            waited = begin.queue_seconds + time.monotonic() - ordered
            self._hand_over(self._prepared(replace(begin, queue_seconds=waited)))
            self._pulse.beat(Activity.IDLE)

    def _prepared(self, begin: Begin) -> Prepared | Declined:
        request = begin.request
        if not self._wanted(request.id):
            return Declined(request.id, RunnerRefusal(ENG_GENERATE.id, "nobody waits for it", 500))
        self._flight.note(Phase.PROMPT_BUILD, request=request.id)
        try:
            prompt = self._engine.render(request)
            most = budget(prompt, request.max_tokens, self._context_tokens, self._max_tokens_default)
        except RequestError as error:
            return Declined(request.id, refusal_of(error))
        except Exception as error:
            log.exception("request %s could not be rendered", request.id)
            text = f"{type(error).__name__} while rendering: {error}"
            return Declined(request.id, RunnerRefusal(ENG_GENERATE.id, text, 500))
        return Prepared(begin, prompt, most)


def refusal_of(error: RequestError) -> RunnerRefusal:
    return RunnerRefusal(error.code.id, error.message, error.status, param=error.param)
