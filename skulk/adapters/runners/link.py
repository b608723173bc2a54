"""One runner as this daemon follows it: the connection, what is known of it, and the requests that run in it.

A task per runner connects, says hello, reads until the connection ends, and decides by the lock whether the runner
died (then its last words are read) or only the connection did (then it connects again). It never starts or kills
anything: a runner that stays silent is reported as such and the node's rules order what follows.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace

from skulk.adapters.runners.connection import Connection, Mute
from skulk.adapters.runners.facts import after_count, after_heartbeat, after_hello, after_report
from skulk.adapters.runners.last_words import last_words
from skulk.adapters.runners.oom import OomWatch
from skulk.adapters.runners.places import Place
from skulk.adapters.runners.processes import exit_code, is_child
from skulk.adapters.runners.streams import RunnerGeneration, Stream
from skulk.core.domain import (
    GenerationRequest,
    LastWords,
    Link,
    Owner,
    RequestId,
    RunnerFacts,
)
from skulk.core.errors import (
    REQ_DEADLINE,
    REQ_INTERNAL,
    REQ_RESTARTING,
    REQ_TOO_LARGE,
    RUN_LOST,
    RUN_NO_HELLO,
    RUN_PROTOCOL,
    RequestError,
    RetriableRefusal,
)
from skulk.core.wire.runner import (
    FRAME_BYTES_MAX,
    AcceptedFrame,
    Ack,
    AnyMessage,
    Attach,
    Describe,
    Drain,
    Flight,
    FlightRecord,
    Generate,
    Heartbeat,
    Hello,
    RefusedFrame,
    Report,
    Step,
    Stop,
    ToRunner,
    WireError,
    encode,
)

ACK_SECONDS = 1.0
"""How often received frames are acknowledged; the runner keeps what was not."""
DESCRIBE_SECONDS_MAX = 5.0
"""The I/O thread answers at once; a runner that does not is frozen."""
RECONNECT_SECONDS_MIN = 0.05
RECONNECT_SECONDS_MAX = 1.0
"""Pauses between attempts double from the first to the second: prompt, without a busy loop."""
STEADY_SECONDS = 10.0
"""A connection that lasted this long was a good one: the next pause starts small again."""
SETTLE_SECONDS = 0.25
"""A process that exits closes its socket before its lock; this long after the end of the connection a lock that
is still held means that the runner lives."""
LOCK_POLL_SECONDS_MIN = 0.005
LOCK_POLL_SECONDS_MAX = 0.1
"""How often the lock of a runner without a connection is looked at: often where its end is near, seldom later.
Nothing announces the release of a lock."""
COLLECT_SECONDS_MAX = 1.0
"""The kernel reports a child's exit code a moment after it released the lock."""
UNSENT_BYTES_MAX = FRAME_BYTES_MAX
"""A runner that leaves this much unread is frozen: no further request is put in front of it."""
LOAD_SECONDS = 1.0
"""How late a change of load is told. Each request changes it several times, and a look at everything takes
milliseconds, in which no token would be passed on. Who routes knows the load of its own runners without it."""


class RunnerLink:
    """Follows one runner. `facts` is replaced at every change; `wake` is called for those that a decision needs
    (not for every step), `load_changed` some time after requests came or ended. All methods belong to one event
    loop."""

    def __init__(
        self,
        place: Place,
        facts: RunnerFacts,
        owner: Owner,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        load_changed: Callable[[], None],
        hello_seconds: float,
    ) -> None:
        self.place = place
        self.facts = facts
        self._owner = owner
        self._clock = clock
        self._wake = wake
        self._load_changed = load_changed
        self._hello_seconds = hello_seconds
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._streams: dict[RequestId, Stream] = {}
        self._told: tuple[int, int] = (0, 0)
        """(running, waiting) of the last heartbeat, less what has ended since."""
        self._draining = False
        self._stopping = False
        self._flight: asyncio.Future[tuple[FlightRecord, ...]] | None = None
        self._poked = asyncio.Event()
        self._load_told: asyncio.TimerHandle | None = None
        """When the newest change of load will have been told."""
        self._oom = OomWatch(clock)

    # --- orders ---------------------------------------------------------------------------------------------

    def follow(self, hello_seconds: float) -> None:
        """Connect, and stay connected until the runner is dead. `hello_seconds` holds for the first hello."""
        self._oom.look(self.facts.pid)
        self._restart_task(self._follow(hello_seconds))

    def watch(self) -> None:
        """Only notice its death; for a runner that has been found and is not adopted yet."""
        self._oom.look(self.facts.pid)
        self._restart_task(self._await_death())

    def mark_adopted(self) -> None:
        """An earlier daemon started it."""
        self._set(replace(self.facts, adopted=True, link=Link.CONNECTING))

    def drain(self) -> None:
        """Ask for a drain, now or as soon as there is a connection."""
        self._draining = True
        self._send(Drain())

    def stop(self) -> bool:
        """Ask for the end over the connection; False when there is none (it is asked at the next hello)."""
        self._stopping = True
        return self._send(Stop())

    def poke(self) -> None:
        """Look at the lock now: the process has just been signalled."""
        self._oom.forget()
        self._poked.set()

    async def generate(self, request: GenerationRequest, owner: Owner) -> RunnerGeneration:
        """Send a request and wait until the runner accepted it, at most `request.deadline_seconds`."""
        uid, connection = self.place.uid, self._connection
        if connection is None or connection.unsent_bytes() > UNSENT_BYTES_MAX:
            state = self.facts.link.value if connection is None else "frozen"
            raise RetriableRefusal(RUN_LOST, f"runner {uid} is {state}", status=503, kind="server_error")
        if request.id in self._streams:
            raise RequestError(REQ_INTERNAL, f"request {request.id} runs already", status=500, kind="server_error")
        try:
            data = encode(Generate(request, owner))
        except WireError as error:
            raise RequestError(REQ_TOO_LARGE, f"the request is too large: {error}", status=413) from error
        stream = Stream(uid, request.id, self._send_quietly, lambda: self._forget(request.id))
        self._streams[request.id] = stream
        connection.write(data)
        self._count()
        try:
            async with asyncio.timeout(request.deadline_seconds):
                accepted = await stream.accepted()
        except TimeoutError:
            stream.cancel("the deadline passed")
            raise RequestError(
                REQ_DEADLINE,
                f"no first token within {request.deadline_seconds:g} s",
                status=504,
                kind="server_error",
                slug="deadline_exceeded",
            ) from None
        except asyncio.CancelledError:
            stream.cancel("the client is gone")
            raise
        self._count()
        return RunnerGeneration(stream, accepted)

    async def describe(self) -> tuple[FlightRecord, ...]:
        """The flight recorder, oldest first. Raises RequestError 502 when the runner does not answer."""
        if self._connection is None:
            message = f"runner {self.place.uid} is {self.facts.link.value}"
            raise RequestError(RUN_LOST, message, status=502, kind="server_error")
        if self._flight is None:
            self._flight = asyncio.get_running_loop().create_future()
            self._send(Describe())
        flight = self._flight
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS_MAX):
                return await asyncio.shield(flight)
        except TimeoutError:
            raise RequestError(
                RUN_LOST,
                f"runner {self.place.uid} did not answer within {DESCRIBE_SECONDS_MAX:g} s",
                status=502,
                kind="server_error",
            ) from None
        finally:
            if self._flight is flight:
                self._flight = None

    async def close(self) -> None:
        """Let go of the runner, which lives on. Open streams end with REQ_RESTARTING."""
        for stream in list(self._streams.values()):
            stream.fail(
                RequestError(
                    REQ_RESTARTING,
                    "the node is restarting",
                    status=503,
                    kind="server_error",
                    slug="node_restarting",
                )
            )
        if self._load_told is not None:
            self._load_told.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- following ------------------------------------------------------------------------------------------

    def _restart_task(self, work: Coroutine[object, object, None]) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.get_running_loop().create_task(work, name=f"runner {self.place.uid}")
        self._task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A defect here must not leave a runner that looks well and is followed by nobody."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        task.get_loop().call_exception_handler({"message": f"following {task.get_name()}", "exception": error})
        self._lose(f"the daemon failed to follow it: {error!r}")
        words = LastWords(None, RUN_PROTOCOL.id, f"the daemon failed to follow it: {error!r}")
        self._set(replace(self.facts, link=Link.SILENT, last_words=words))
        if task is self._task:
            self.watch()

    async def _follow(self, hello_seconds: float) -> None:
        pause = RECONNECT_SECONDS_MIN
        try:
            while self.place.is_held():
                self._set(replace(self.facts, link=Link.CONNECTING))
                connection = await self._say_hello(hello_seconds)
                since = self._clock()
                await self._read(connection)
                self._fail_unaccepted()
                hello_seconds = self._hello_seconds
                if self._clock() - since > STEADY_SECONDS:
                    pause = RECONNECT_SECONDS_MIN
                if await self._is_free_within(SETTLE_SECONDS):
                    break
                self._set(replace(self.facts, link=Link.CONNECTING))
                await asyncio.sleep(pause)
                pause = min(2 * pause, RECONNECT_SECONDS_MAX)
        except Mute as error:
            if self.place.is_held():
                self._lose(str(error))
                self._set(replace(self.facts, link=Link.SILENT, last_words=error.words))
        await self._await_death()

    async def _say_hello(self, seconds: float) -> Connection:
        """Connect until a right hello came. Raises Mute at the deadline or when the hello is wrong."""
        resume: dict[str, int] = {request: stream.received for request, stream in self._streams.items()}
        attach = Attach(self._owner.node, self._owner.boot, resume=resume)
        pause = RECONNECT_SECONDS_MIN
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        connection, hello = await Connection.open(self.place.address, attach, self.facts.launch)
                        break
                    except OSError:
                        if not self.place.is_held():
                            raise Mute(RUN_LOST, "it ended before its hello") from None
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RECONNECT_SECONDS_MAX)
        except TimeoutError:
            raise Mute(RUN_NO_HELLO, f"no hello within {seconds:g} s") from None
        self._connection = connection
        self._on_hello(hello)
        return connection

    async def _read(self, connection: Connection) -> None:
        """Take messages until the connection ends. Raises Mute on bytes that are no message."""
        acknowledging = asyncio.get_running_loop().create_task(self._acknowledge())
        try:
            await connection.follow(self._take)
        finally:
            acknowledging.cancel()
            self._connection = None
            connection.drop()

    async def _acknowledge(self) -> None:
        while True:
            await asyncio.sleep(ACK_SECONDS)
            numbers: dict[str, int] = {}
            for request, stream in self._streams.items():
                number = stream.acknowledgement()
                if number is not None:
                    numbers[request] = stream.acknowledged = number
            if numbers:
                self._send(Ack(numbers))

    async def _await_death(self) -> None:
        await self._is_free_within(None)
        await self._bury()

    async def _is_free_within(self, seconds: float | None) -> bool:
        """The lock became free in that time (None: wait for it)."""
        end = None if seconds is None else self._clock() + seconds
        pause = LOCK_POLL_SECONDS_MIN
        while self.place.is_held():
            if end is not None and self._clock() >= end:
                return False
            self._poked.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._poked.wait()
                pause = LOCK_POLL_SECONDS_MIN
            except TimeoutError:
                pause = min(2 * pause, LOCK_POLL_SECONDS_MAX)
        return True

    async def _bury(self) -> None:
        self._lose("it ended")
        pid = self.facts.pid
        code = None if pid is None else exit_code(pid)
        end = self._clock() + COLLECT_SECONDS_MAX
        while pid is not None and code is None and is_child(pid) and self._clock() < end:
            await asyncio.sleep(LOCK_POLL_SECONDS_MIN)
            code = exit_code(pid)
        killed = code is None or code == -signal.SIGKILL
        words = last_words(self.place, code, self._oom.risen() if killed else None)
        self._set(replace(self.facts, link=Link.DEAD, last_words=words, running=0, waiting=0))

    # --- messages -------------------------------------------------------------------------------------------

    def _take(self, message: AnyMessage) -> None:
        match message:
            case Step():
                # That it made progress is for the next heartbeat to say: nobody waits for less than seconds.
                for request, tokens in message.entries:
                    if (stream := self._streams.get(request)) is not None:
                        stream.on_tokens(tokens)
            case AcceptedFrame():
                if (stream := self._streams.get(message.request)) is not None:
                    stream.on_accepted(message.accepted)
                    self._count()
            case RefusedFrame():
                if (stream := self._streams.get(message.request)) is not None:
                    stream.on_refused(message.refusal)
            case Heartbeat():
                self._on_heartbeat(message)
            case Report():
                self._set(after_report(self.facts, message, self._clock()))
            case Flight():
                if self._flight is not None and not self._flight.done():
                    self._flight.set_result(message.records)
            case _:
                pass

    def _on_hello(self, hello: Hello) -> None:
        for request, stream in list(self._streams.items()):
            if request not in hello.open:
                stream.lose("it no longer knows the request")
        self._set(after_hello(self.facts, hello, self._clock()))
        if self._draining:
            self._send(Drain())
        if self._stopping:
            self._send(Stop())

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        before = self.facts
        self._oom.look(before.pid)
        self._told = (beat.running, beat.waiting)
        self.facts = after_heartbeat(before, beat, self._clock())
        self._count()
        if self.facts.report is not before.report:
            self._wake()

    # --- small parts ----------------------------------------------------------------------------------------

    def _set(self, facts: RunnerFacts, wake: Callable[[], None] | None = None) -> None:
        if facts != self.facts:
            self.facts = facts
            (wake or self._wake)()

    def _count(self) -> None:
        """Running and waiting: what the last heartbeat said or what was sent since, whichever is more."""
        running = sum(1 for stream in self._streams.values() if stream.answer is not None)
        waiting = len(self._streams) - running
        running, waiting = max(running, self._told[0]), max(waiting, self._told[1])
        # The last that ends while draining is what the node waits for.
        wake = self._wake if self._draining else self._wake_later
        self._set(after_count(self.facts, running, waiting, self._clock()), wake)

    def _wake_later(self) -> None:
        if self._load_told is None:
            self._load_told = asyncio.get_running_loop().call_later(LOAD_SECONDS, self._tell_load)

    def _tell_load(self) -> None:
        self._load_told = None
        self._load_changed()

    def _forget(self, request: RequestId) -> None:
        stream = self._streams.pop(request, None)
        if stream is not None:
            running, waiting = self._told
            ended_running = stream.answer is not None
            self._told = (max(0, running - ended_running), max(0, waiting - (not ended_running)))
            self._count()

    def _lose(self, why: str) -> None:
        for stream in list(self._streams.values()):
            stream.lose(why)
        self._told = (0, 0)

    def _fail_unaccepted(self) -> None:
        for stream in list(self._streams.values()):
            if stream.answer is None:
                stream.lose("the connection to it ended")

    def _send(self, message: ToRunner) -> bool:
        if self._connection is None:
            return False
        self._connection.send(message)
        return True

    def _send_quietly(self, message: ToRunner) -> None:
        self._send(message)
