"""The runner's I/O thread: the daemon's messages in, frames out, and nothing that could keep it from answering.

It owns queue, records and phase; the engine thread (`skulk.engines.worker`) owns the engine. The two exchange values,
with one exception: where nothing else waits to be sent, the engine thread writes the tokens of a step itself, because
waking this one for each of them takes three times as long. Everything here happens under one lock for its sake.
What ends the process is decided here, except a wedge, which is the watchdog's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVarTuple

import skulk
from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Finish, Owner, RunnerRefusal, Tokens
from skulk.core.domain.runners import LastWords, Launch, RunnerReport
from skulk.core.errors import ENG_GENERATE, RUN_LOST
from skulk.core.wire.runner import (
    AcceptedFrame,
    Ack,
    AnyMessage,
    Attach,
    Cancel,
    Decoder,
    Describe,
    Drain,
    Flight,
    FromRunner,
    Generate,
    Heartbeat,
    Hello,
    RefusedFrame,
    Report,
    Step,
    Stop,
    WireError,
)
from skulk.engines.admission import max_tokens_default
from skulk.engines.connection import Connection
from skulk.engines.engine import Engine
from skulk.engines.flight import FlightRecorder, Phase
from skulk.engines.preparing import Begin, Declined
from skulk.engines.queue import Queue, cancelled, draining, too_late
from skulk.engines.records import Records
from skulk.engines.resident import resident_bytes
from skulk.engines.watchdog import Pulse
from skulk.engines.worker import (
    Broken,
    Drop,
    PhaseChanged,
    Released,
    StepFailed,
    Stepped,
    Took,
    Worker,
    WorkerEvent,
)

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
"""A fifth of the daemon's patience (10 s): four may be late before it acts."""
TICK_SECONDS = 0.25
"""Resolution of queue deadlines and of the orphan deadline."""
ATTACH_SECONDS_MAX = 5.0
"""A connection that does not say who it is by then is closed."""
AWAY_SECONDS_MAX = 15.0
"""How long requests of other owners go on, and finished ones are kept, without a daemon: the architecture's
patience with a lost node."""
FLUSH_SECONDS_MAX = 1.0
"""The last frames go to a local process; one that does not read for a second will not."""
LOAD_REPORT_SHARE = 0.01
"""Progress finer than a percent is nobody's business."""
READ_BYTES = 256 * 1024

Values = TypeVarTuple("Values")


class Runner:
    """One process' worth of state. `run` returns the last words; the caller ends the process."""

    def __init__(self, launch: Launch, listener: socket.socket, engine: Engine) -> None:
        self._launch = launch
        self._listener = listener
        self._engine = engine
        self.pulse = Pulse()
        self.preparing = Pulse()
        """Of the thread that renders."""
        self.flight = FlightRecorder()
        self._phase = RunnerReport.STARTING
        self._share = 0.0
        self._queue = Queue(min(engine.slots, launch.concurrency), launch.queue_max)
        self._records = Records()
        self._begun: dict[RequestId, Owner] = {}
        """With the engine, neither accepted nor refused yet. Whoever leaves it early was cancelled meanwhile."""
        self._daemon: Connection | None = None
        self._alone_since: float | None = time.monotonic()
        self._lock = threading.RLock()
        """Held by this thread whenever it changes anything above."""
        self._reported = self._handled = 0
        """Events of the engine thread that came here, and those that were dealt with."""
        self._worker: Worker
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Future[LastWords]

    async def run(self) -> LastWords:
        """Listen, bring the engine up, work until something ends it."""
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        self.flight.note(Phase.CREATED, self._launch.uid)
        self._worker = Worker(
            self._engine,
            self._launch.context_tokens,
            self.pulse,
            self.preparing,
            self.flight,
            self._report,
            max_tokens_default(os.environ),
        )
        server = await asyncio.start_unix_server(self._converse, sock=self._listener)
        self._worker.start()
        background = [asyncio.ensure_future(self._beat()), asyncio.ensure_future(self._watch_clock())]
        words = await self._end
        for task in background:
            task.cancel()
        self.flight.note(Phase.SHUTDOWN_CLEANUP, words.message)
        if self._daemon is not None:
            with self._lock:
                self._daemon.send_rest()
            await self._daemon.flush(FLUSH_SECONDS_MAX)
        server.close()
        return words

    def stop(self, why: str) -> None:
        """End with exit code 0; what runs is cancelled."""
        with self._lock:
            self._refuse_waiting(draining())
            self._cancel_everything(why)
            self._finish(LastWords(0, None, why))

    # --- the daemon's side ----------------------------------------------------------------------------------

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        decoder = Decoder()
        try:
            while True:
                async with asyncio.timeout(ATTACH_SECONDS_MAX if connection.owner is None else None):
                    data = await reader.read(READ_BYTES)
                if not data:
                    break
                for message in decoder.feed(data):
                    with self._lock:
                        self._received(connection, message)
        except (WireError, OSError, TimeoutError) as error:
            log.warning("connection closed: %s", error or type(error).__name__)
        finally:
            with self._lock:
                connection.close()
                self._lost(connection)

    def _received(self, connection: Connection, message: AnyMessage) -> None:
        if isinstance(message, Attach):
            self._attach(connection, message)
            return
        if connection.owner is None:
            raise WireError("the first message is not an attach")
        if connection is not self._daemon:
            return  # a newer daemon has taken over; what this one still says does not count
        match message:
            case Generate():
                self._generate(message)
            case Cancel(request_id, reason):
                self._cancel(request_id, reason)
            case Ack(numbers):
                self._records.acknowledge(numbers)
            case Drain():
                self._drain()
            case Stop():
                self.stop("stopped by the daemon")
            case Describe():
                self._send(Flight(self.flight.records()))
            case _:
                log.info("ignored a message of type %s", type(message).__name__)

    def _attach(self, connection: Connection, attach: Attach) -> None:
        before, self._daemon = self._daemon, connection
        connection.owner = Owner(attach.node, attach.boot)
        self._alone_since = None
        if before is not None and before is not connection:
            log.info("a newer daemon has attached")
            before.close()
            if before.owner is not None and before.owner != connection.owner:
                self._abandon_owner(before.owner)
        self._send(
            Hello(
                uid=self._launch.uid,
                launch_hash=self._launch.launch_hash,
                pid=os.getpid(),
                phase=self._phase.value,
                engine_version=self._engine.version,
                skulk_version=skulk.__version__,
                open=self._records.open_numbers(),
            )
        )
        self._send_phase()
        for name, number in attach.resume.items():
            self._replay(RequestId(name), number)

    def _replay(self, request: RequestId, number: int) -> None:
        accepted = self._records.accepted(request)
        if accepted is None:
            if not self._queue.holds(request):
                lost = RunnerRefusal(RUN_LOST.id, "the runner holds nothing of this request", 502)
                self._send(RefusedFrame(request, lost))
            return
        if number < 1:
            self._send(AcceptedFrame(request, accepted))
        for tokens in self._records.frames_after(request, number):
            self._send(Step(((request, tokens),)))

    def _lost(self, connection: Connection) -> None:
        if connection is not self._daemon:
            return
        self._daemon = None
        self._alone_since = time.monotonic()
        log.info("the daemon is gone")
        if connection.owner is not None and not connection.cut_off:
            self._abandon_owner(connection.owner)

    def _abandon_owner(self, owner: Owner) -> None:
        """That life of a daemon is over: nobody will ever read what it asked for."""
        waiting = [w.request.id for w in self._queue.waiting if w.owner == owner]
        begun = [request for request, whose in self._begun.items() if whose == owner]
        for request in (*waiting, *begun, *self._records.owned_by(owner)):
            self._cancel(request, "its daemon is gone")

    # --- requests -------------------------------------------------------------------------------------------

    def _generate(self, message: Generate) -> None:
        request = message.request
        if request.id in self._records or self._queue.holds(request.id):
            log.warning("request %s is here already: ignored", request.id)
            return
        self.flight.note(Phase.TASK_SUBMISSION, request=request.id)
        self._queue, refusal, displaced = self._queue.offer(request, message.owner, self._phase, time.monotonic())
        if displaced is not None:
            self._refuse(displaced.request.id, self._queue.full())
        if refusal is None:
            self._admit()
        else:
            self._refuse(request.id, refusal)

    def _admit(self) -> None:
        self._queue, starting = self._queue.admit()
        now = time.monotonic()
        for waiting in starting:
            self._begun[waiting.request.id] = waiting.owner
            self._worker.order(Begin(waiting.request, now - waiting.since))

    def _cancel(self, request: RequestId, reason: str) -> None:
        """End a request wherever it is and forget it; unknown ones are ignored."""
        self._queue, waited = self._queue.withdraw(request)
        if waited or self._begun.pop(request, None) is not None:
            self._refuse(request, cancelled(reason))
        elif request in self._records:
            self._send_tokens(request, self._records.append(request, (), b"", Finish.CANCELLED, reason))
            self._records.drop([request])
        else:
            return
        self.flight.note(Phase.CANCEL_REQUESTED, reason, request)
        if not waited:
            self._worker.order(Drop(request))

    def _cancel_everything(self, reason: str) -> None:
        for request in (*self._begun, *self._records.all()):
            self._cancel(request, reason)

    def _drain(self) -> None:
        if self._phase is RunnerReport.DRAINING:
            return
        self._refuse_waiting(draining())
        self._enter(RunnerReport.DRAINING)

    def _refuse_waiting(self, refusal: RunnerRefusal) -> None:
        self._queue, waiting = self._queue.empty()
        for each in waiting:
            self._refuse(each.request.id, refusal)

    def _refuse(self, request: RequestId, refusal: RunnerRefusal) -> None:
        self._send(RefusedFrame(request, refusal))

    # --- the engine's side ----------------------------------------------------------------------------------

    def _report(self, event: WorkerEvent) -> None:
        """Called in the engine's thread."""
        if isinstance(event, Stepped) and self._sends_at_once(event):
            return
        self._reported += 1
        self._hand_over(self._happened, event)

    def _sends_at_once(self, event: Stepped) -> bool:
        """In the engine's thread: nothing waits, neither for the other thread nor for the daemon."""
        if self._reported != self._handled or not self._lock.acquire(blocking=False):
            return False
        try:
            daemon = self._daemon
            if daemon is not None and not daemon.can_send_at_once():
                return False
            step = self._recorded(event)
            if step is not None and daemon is not None and not daemon.send_at_once(step):
                self._hand_over(daemon.send_rest)
            return True
        finally:
            self._lock.release()

    def _hand_over(self, act: Callable[[*Values], None], *values: *Values) -> None:
        def locked() -> None:
            with self._lock:
                act(*values)

        with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending and nobody listens
            self._loop.call_soon_threadsafe(locked)

    def _happened(self, event: WorkerEvent) -> None:
        self._handled += 1
        match event:
            case PhaseChanged(phase, share):
                self._engine_phase(phase, share)
            case Took(request, accepted, at):
                owner = self._begun.pop(request, None)
                if owner is not None:
                    self._records.open(request, accepted, owner, at)
                    self._send(AcceptedFrame(request, accepted))
            case Declined(request, refusal):
                if self._begun.pop(request, None) is not None:
                    self._refuse(request, refusal)
            case Stepped():
                if (step := self._recorded(event)) is not None:
                    self._send(step)
            case StepFailed(requests, message):
                self._end_with_error(requests, f"{ENG_GENERATE.id} {message}")
            case Released(request):
                self._queue = self._queue.release(request)
                self._admit()
            case Broken(code, message):
                self._end_with_error(self._records.unfinished(), f"{code.id} {message}")
                self._phase = RunnerReport.FAILED
                self._send(Report(self._phase.value, message, code=code.id))
                self._finish(LastWords(1, code.id, message))

    def _engine_phase(self, phase: RunnerReport, share: float) -> None:
        if self._phase is RunnerReport.DRAINING:
            return
        if phase is self._phase and share < 1 and share - self._share < LOAD_REPORT_SHARE:
            return
        self._share = share
        self._enter(phase)

    def _enter(self, phase: RunnerReport) -> None:
        self._phase = phase
        self._send_phase()

    def _recorded(self, event: Stepped) -> Step | None:
        entries: list[tuple[RequestId, Tokens]] = []
        for e in event.emissions:
            error = f"{ENG_GENERATE.id} {e.error}" if e.error is not None else None
            tokens = self._records.append(e.request, e.ids, e.data, e.finish, error, e.logprobs, event.at)
            if tokens is not None:
                entries.append((e.request, tokens))
        return Step(tuple(entries)) if entries else None

    def _end_with_error(self, requests: tuple[RequestId, ...], message: str) -> None:
        for request in requests:
            self._send_tokens(request, self._records.append(request, (), b"", Finish.ERROR, message))

    # --- sending and time -----------------------------------------------------------------------------------

    def _send(self, message: FromRunner) -> None:
        if self._daemon is not None:
            self._daemon.send(message)

    def _send_tokens(self, request: RequestId, tokens: Tokens | None) -> None:
        if tokens is not None:
            self._send(Step(((request, tokens),)))

    def _send_phase(self) -> None:
        self._send(Report(self._phase.value, share=self._share))

    async def _beat(self) -> None:
        while True:
            with self._lock:
                self._send(
                    Heartbeat(
                        phase=self._phase.value,
                        progress=self.pulse.progress + self.preparing.progress,
                        running=len(self._queue.running),
                        waiting=len(self._queue.waiting),
                        resident_bytes=resident_bytes(self.pulse.memory_bytes),
                    )
                )
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            with self._lock:
                self._look_at_clock(time.monotonic())

    def _look_at_clock(self, now: float) -> None:
        self._queue, late = self._queue.expire(now)
        for waiting in late:
            self._refuse(waiting.request.id, too_late(waiting))
        if self._alone_since is not None:
            self._alone_for(now - self._alone_since)

    def _alone_for(self, seconds: float) -> None:
        if seconds >= AWAY_SECONDS_MAX:
            self._refuse_waiting(cancelled("no daemon came back"))
            self._cancel_everything("no daemon came back")
        if seconds >= self._launch.orphan_seconds:
            self.stop(f"orphaned: no daemon for {self._launch.orphan_seconds:g} s")

    def _finish(self, words: LastWords) -> None:
        if not self._end.done():
            self._end.set_result(words)
