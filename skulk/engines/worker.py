"""The engine thread: the only one that touches the engine. Takes orders, reports events, knows no socket.

Between two steps it looks at its orders, so a cancel takes effect within one step. What is begun is rendered in another
thread first (`skulk.engines.preparing`). Every request that is begun gets exactly one `Released` at the end, whatever
happened to it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Accepted, RunnerRefusal
from skulk.core.domain.runners import RunnerReport
from skulk.core.errors import (
    ENG_GENERATE,
    ENG_MODEL,
    RUN_MEMORY,
    ErrorCode,
    RequestError,
    SkulkError,
)
from skulk.core.formats.memory_errors import is_out_of_memory
from skulk.engines.admission import accepted
from skulk.engines.engine import Emission, Engine, Job
from skulk.engines.flight import FlightRecorder, Phase
from skulk.engines.preparing import Begin, Declined, Prepared, Preparer, refusal_of
from skulk.engines.watchdog import Activity, Pulse

log = logging.getLogger(__name__)

GATHER_SECONDS_MAX = 0.04
"""How long a step waits for prompts that are being prepared, when the engine had nothing to do: rendering one takes a
millisecond or two, a step many times that. Whoever comes alone waits for nobody."""
COMPANY_SECONDS_MAX = 0.02
"""How long it waits for the next one that may be on its way to this process, while fewer are here than ran at once the
last time: who asks for many things at once does it again, and a gateway takes milliseconds for each."""
FAILED_STEPS_MAX = 3
"""One failed step may be one request's fault. Three in a row without a token between are the engine's."""


@dataclass(frozen=True, slots=True)
class Drop:
    request: RequestId


Order = Begin | Drop
_Inbox = Prepared | Declined | Drop


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    phase: RunnerReport
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Took:
    request: RequestId
    accepted: Accepted
    at: float
    """Monotonic seconds."""


class Stepped(NamedTuple):
    emissions: tuple[Emission, ...]
    at: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The requests that were running when a step failed; none of them goes on."""

    requests: tuple[RequestId, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Released:
    """The engine holds nothing of the request any longer: its slot is free."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class Broken:
    """The engine thread has ended: the process has to."""

    code: ErrorCode
    message: str


WorkerEvent = PhaseChanged | Took | Declined | Stepped | StepFailed | Released | Broken


class EngineGaveUp(SkulkError):
    """Too many steps in a row failed."""

    def __init__(self, message: str) -> None:
        super().__init__(ENG_GENERATE, message)


class Worker(threading.Thread):
    """`report` is called in this thread and must only hand the event over."""

    def __init__(
        self,
        engine: Engine,
        context_tokens: int,
        pulse: Pulse,
        preparing: Pulse,
        flight: FlightRecorder,
        report: Callable[[WorkerEvent], None],
        max_tokens_default: int,
    ) -> None:
        super().__init__(name="engine", daemon=True)
        self._engine = engine
        self._context_tokens = context_tokens
        self._pulse = pulse
        self._flight = flight
        self._report = report
        self._inbox: queue.SimpleQueue[_Inbox] = queue.SimpleQueue()
        self._preparer = Preparer(
            engine, context_tokens, max_tokens_default, preparing, flight, self._is_wanted, self._inbox.put
        )
        self._coming: set[RequestId] = set()
        """Begun and not in the inbox yet. Whoever orders adds to it, only this thread takes away."""
        self._unwanted: set[RequestId] = set()
        """Those of `_coming` that were dropped meanwhile. Only this thread changes it."""
        self._running: list[RequestId] = []
        self._decoding: set[RequestId] = set()
        self._company = 0
        """How many ran at once since the engine last had nothing to do."""
        self._failed_steps = 0

    def order(self, order: Order) -> None:
        """Hand over an order; safe from any thread."""
        match order:
            case Begin(request):
                self._coming.add(request.id)
                self._preparer.order(order)
            case Drop():
                self._inbox.put(order)

    def run(self) -> None:
        """Load, warm up, then work until the process ends. The last event is `Broken`, if there is one."""
        try:
            self._bring_up()
            while True:
                self._take_orders()
                if self._running:
                    self._step()
        except SkulkError as error:
            self._broken(error.code, error.message)
        except BaseException as error:  # noqa: BLE001  # whatever an engine raises ends in last words, never in silence
            code = ENG_GENERATE if self._pulse.activity is Activity.STEPPING else ENG_MODEL
            message = f"{type(error).__name__}: {error}"
            if is_out_of_memory(error):  # not all libraries have a type for it
                code, message = RUN_MEMORY, f"not enough memory: {str(error) or 'allocation failed'}"
            self._broken(code, message)

    def _bring_up(self) -> None:
        self._flight.note(Phase.LOAD_MODEL)
        self._pulse.beat(Activity.LOADING)
        self._report(PhaseChanged(RunnerReport.LOADING))
        self._engine.load(self._loaded)
        self._flight.note(Phase.WARMUP)
        self._pulse.beat(Activity.WARMING)
        self._report(PhaseChanged(RunnerReport.WARMING))
        self._engine.warm_up(lambda: self._pulse.beat(Activity.WARMING))
        self._rest()
        self._preparer.start()
        self._report(PhaseChanged(RunnerReport.READY))
        self._flight.note(Phase.IDLE)

    def _loaded(self, share: float) -> None:
        self._pulse.beat(Activity.LOADING)
        self._report(PhaseChanged(RunnerReport.LOADING, share))

    def _rest(self) -> None:
        self._pulse.memory_bytes = self._engine.memory_bytes()
        self._pulse.beat(Activity.IDLE)

    def _take_orders(self) -> None:
        """All there are; without work, wait for one."""
        if not self._running:
            self._carry_out(self._inbox.get())
            if self._engine.reads_together:
                self._gather()
        while not self._inbox.empty():  # only this thread takes from it
            self._carry_out(self._inbox.get_nowait())

    def _gather(self) -> None:
        """Wait for those that come with the first one."""
        until = time.monotonic() + GATHER_SECONDS_MAX
        expected, self._company = self._company, len(self._running)
        while self._running:
            patience = until - time.monotonic()
            if not self._coming:
                patience = min(patience, COMPANY_SECONDS_MAX) if len(self._running) < expected else 0.0
            if patience <= 0:
                return
            try:
                order = self._inbox.get(timeout=patience)
            except queue.Empty:
                return
            self._carry_out(order)

    def _carry_out(self, order: _Inbox) -> None:
        match order:
            case Drop(request):
                self._drop(request)
            case Declined(request, refusal):
                if self._arrives(request):
                    self._decline(request, refusal)
            case Prepared(begin):
                if self._arrives(begin.request.id):
                    self._begin(order)

    def _is_wanted(self, request: RequestId) -> bool:
        return request not in self._unwanted

    def _arrives(self, request: RequestId) -> bool:
        """Is it still wanted? If not, that was all of it."""
        self._coming.discard(request)
        if self._is_wanted(request):
            return True
        self._unwanted.discard(request)
        self._report(Released(request))
        return False

    def _begin(self, prepared: Prepared) -> None:
        request, prompt = prepared.begin.request, prepared.prompt
        self._pulse.beat(Activity.STEPPING)
        try:
            sampling, most = request.sampling, prepared.max_tokens
            job = Job(request.id, prompt.ids, sampling, most, request.logprobs, prompt.constraint)
            cached_tokens = self._engine.start(job)
        except RequestError as error:
            self._decline(request.id, refusal_of(error))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            log.exception("request %s could not be started", request.id)
            refusal = RunnerRefusal(ENG_GENERATE.id, f"{type(error).__name__} while starting: {error}", 500)
            self._engine.cancel(request.id)
            self._decline(request.id, refusal)
        else:
            self._running.append(request.id)
            self._company = max(self._company, len(self._running))
            answer = accepted(prompt, self._context_tokens, cached_tokens, prepared.begin.queue_seconds)
            self._report(Took(request.id, answer, time.monotonic()))
            detail = f"{len(prompt.ids)} tokens, {cached_tokens} of them cached"
            self._flight.note(Phase.PREFILL_STREAM, detail, request.id)
        if not self._running:
            self._rest()

    def _decline(self, request: RequestId, refusal: RunnerRefusal) -> None:
        self._flight.note(Phase.ERROR, refusal.code, request)
        self._report(Declined(request, refusal))
        self._report(Released(request))

    def _drop(self, request: RequestId) -> None:
        if request in self._coming:
            self._unwanted.add(request)
        if request not in self._running:
            return
        self._flight.note(Phase.CANCEL_OBSERVED, request=request)
        self._engine.cancel(request)
        self._release(request)

    def _step(self) -> None:
        try:
            emissions = self._engine.step()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            log.exception("a step failed")
            self._fail_step(error)
            return
        self._pulse.steps += 1
        self._pulse.memory_bytes = self._engine.memory_bytes()
        self._pulse.beat(Activity.STEPPING)
        if emissions:
            self._report(Stepped(emissions, time.monotonic()))
        failed = bool(emissions)
        for emission in emissions:
            failed = failed and emission.engine_failed
            if emission.ids:
                self._failed_steps = 0
            if emission.request not in self._decoding and emission.finish is None:
                self._decoding.add(emission.request)
                self._flight.note(Phase.DECODE_STREAM, request=emission.request)
            if emission.finish is not None:
                self._flight.note(Phase.COMPLETION, emission.finish.value, emission.request)
                self._release(emission.request)
        if failed:
            self._count_failure(str(emissions[-1].error))

    def _fail_step(self, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        failed = tuple(self._running)
        self._report(StepFailed(failed, message))
        for request in failed:
            self._flight.note(Phase.ERROR, type(error).__name__, request)
            self._engine.cancel(request)
            self._release(request)
        self._count_failure(message)

    def _count_failure(self, message: str) -> None:
        self._failed_steps += 1
        if self._failed_steps >= FAILED_STEPS_MAX:
            raise EngineGaveUp(f"{FAILED_STEPS_MAX} steps in a row failed, the last with {message}")

    def _release(self, request: RequestId) -> None:
        self._running.remove(request)
        self._decoding.discard(request)
        if not self._running:
            self._rest()
        self._report(Released(request))

    def _broken(self, code: ErrorCode, message: str) -> None:
        log.exception("the engine ended: %s %s", code.id, message)
        self._pulse.activity = Activity.IDLE  # the process ends by this error, not by the watchdog
        self._flight.note(Phase.ERROR, code.id)
        self._report(Broken(code, message))
