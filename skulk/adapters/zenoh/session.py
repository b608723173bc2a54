"""The transport of the planes on a Zenoh session: the only code that calls the library.

Every call that may wait runs on a thread of its own; every callback only hands over to the event loop. An open
session cannot learn endpoints, so a longer dial list means closing it and opening another: what is retained is
published again, what is subscribed declared again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import zenoh
from zenoh import ext

from skulk.adapters.planes import Inbox, Traffic, Wiring
from skulk.adapters.zenoh.bridge import Bridge
from skulk.adapters.zenoh.settings import PlaneSettings, checked, session_config, use_threads
from skulk.adapters.zenoh.writer import Writer
from skulk.core.errors import PLN_OPEN, Transient
from skulk.core.wire.planes_keys import must_reopen

HEARTBEAT_SECONDS = 0.5
"""After a retained message its number is repeated for late detection of a loss."""
ANSWER_GRACE_SECONDS = 0.5
"""Beyond a query's own timeout, for the library to say that it is over."""
LARGE_BYTES = 64 * 1024
"""Above this a message travels in several parts, and loses all of them with one."""
CLOSE_SECONDS = 3.0
"""For closing the old session before a new one is opened."""

_SOURCE_PLACE = re.compile(r" at \S+\.rs:\d+\.?")

_PRIORITY = {
    Traffic.CONTROL: zenoh.Priority.INTERACTIVE_HIGH,
    Traffic.SIGNAL: zenoh.Priority.DATA_HIGH,
    Traffic.DATA: zenoh.Priority.DATA,
    Traffic.TELEMETRY: zenoh.Priority.BACKGROUND,
}
_CONGESTION = {
    Traffic.CONTROL: zenoh.CongestionControl.BLOCK,
    Traffic.SIGNAL: zenoh.CongestionControl.DROP,
    Traffic.DATA: zenoh.CongestionControl.DROP,
    Traffic.TELEMETRY: zenoh.CongestionControl.DROP,
}


@dataclass(eq=False, slots=True)
class _Open:
    """A session with what is declared on it, kept alive as long as the session: dropping one undeclares it."""

    session: zenoh.Session
    declared: list[Any] = field(default_factory=list)
    publishers: dict[str, ext.AdvancedPublisher] = field(default_factory=dict)


class ZenohTransport:
    """Implements `skulk.adapters.planes.Transport`."""

    def __init__(self, settings: PlaneSettings) -> None:
        self._settings = checked(settings)
        self._open: _Open | None = None
        self._retained: dict[str, tuple[bytes, Traffic]] = {}
        self._opening = asyncio.Lock()

    async def open(self, wiring: Wiring, inbox: Inbox) -> None:
        use_threads()
        self._wiring = wiring
        self._inbox = inbox
        self._bridge = Bridge(asyncio.get_running_loop())
        # What may block for seconds is kept apart from what is dropped after a moment.
        self._slow = Writer("skulk-planes-control")
        self._fast = Writer("skulk-planes-data")
        try:
            await self._start()
        except BaseException:
            # A port that is taken is tried every few seconds, for hours: nothing may be left of an attempt.
            self._slow.end()
            self._fast.end()
            raise

    def retain(self, key: str, payload: bytes, traffic: Traffic) -> None:
        self._retained[key] = (payload, traffic)
        self._writer(traffic).do(lambda: self._put_retained(key, payload, traffic))

    def send(self, key: str, payload: bytes, traffic: Traffic) -> None:
        self._writer(traffic).do(lambda: self._put(key, payload, traffic))

    async def query(
        self, key: str, payload: bytes, timeout_seconds: float, *, large: bool = False
    ) -> tuple[bytes, ...]:
        large = large or len(payload) > LARGE_BYTES
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        answers: list[bytes] = []

        def finish() -> None:
            if not over.done():
                over.set_result(None)

        def ended() -> None:
            self._bridge.post(finish, must=True)

        def answered(reply: zenoh.Reply) -> None:
            if reply.ok is not None:
                data = reply.ok.payload.to_bytes()
                self._bridge.post(lambda: answers.append(data), len(data), must=True)

        def get() -> None:
            opened = self._open
            if opened is None:
                ended()
                return
            try:
                opened.session.get(
                    key,
                    zenoh.handlers.Callback(answered, ended),
                    payload=payload,
                    timeout=timeout_seconds,
                    priority=zenoh.Priority.INTERACTIVE_LOW,
                    # A large message would be dropped again and again by a slow network: it waits.
                    congestion_control=zenoh.CongestionControl.BLOCK if large else zenoh.CongestionControl.DROP,
                )
            except zenoh.ZError:
                ended()

        if self._sized(large).do(get):
            # When the library forgets to say that it is over, what has come is all there is.
            with contextlib.suppress(TimeoutError):
                # Not wait_for: Python 3.11 swallows a cancellation that comes together with the result.
                async with asyncio.timeout(timeout_seconds + ANSWER_GRACE_SECONDS):
                    await over
        return tuple(answers)

    async def redial(self, endpoints: tuple[str, ...]) -> bool:
        async with self._opening:
            # Without a session an earlier attempt has failed half-way: the list is the new one already.
            if self._open is not None and not must_reopen(self._settings.dial, endpoints):
                return False
            self._settings = checked(replace(self._settings, dial=endpoints))
            closed = await self._stop(CLOSE_SECONDS)
            # Until there is another session nobody can be reached, whatever becomes of the attempt.
            self._inbox.on_reset()
            if not closed:
                raise Transient(PLN_OPEN, "the planes' old session does not close", fix="restart the node")
            await self._start()
            return True

    async def close(self, deadline_seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):  # a goodbye that does not get out is no reason to stay
            async with asyncio.timeout(deadline_seconds / 2):
                await self._slow.flush()
        async with self._opening:
            closed = await self._stop(deadline_seconds / 2)
        self._slow.end()
        self._fast.end()
        return closed

    # --- the session ----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        config = zenoh.Config.from_json5(json.dumps(session_config(self._settings)))
        try:
            self._open = opened = _Open(await asyncio.to_thread(zenoh.open, config))
            await asyncio.to_thread(self._declare, opened)
        except zenoh.ZError as error:
            # A session that is declared in part holds the port, and nobody would ever close it.
            await self._stop(CLOSE_SECONDS)
            where = ", ".join(self._settings.listen)
            raise Transient(PLN_OPEN, f"the planes cannot be opened on {where}: {_cause(error)}") from error

    def _declare(self, opened: _Open) -> None:
        """Runs on a thread: declarations may wait for the session's own threads."""
        wiring, keep, session = self._wiring, opened.declared, opened.session
        self._post(opened, self._inbox.on_reset)
        for query in wiring.queries:
            keep.append(session.declare_queryable(query, functools.partial(self._on_query, opened)))
        for message in wiring.messages:
            keep.append(session.declare_subscriber(message, functools.partial(self._on_sample, opened)))
        for retained in wiring.retained:
            keep.append(
                ext.declare_advanced_subscriber(
                    session,
                    retained,
                    functools.partial(self._on_sample, opened),
                    history=ext.HistoryConfig(detect_late_publishers=True, max_samples=1),
                    recovery=ext.RecoveryConfig(periodic_queries=None, heartbeat=True),
                )
            )
        keep.append(
            session.liveliness().declare_subscriber(
                wiring.tokens, functools.partial(self._on_token, opened), history=True
            )
        )
        # Seen by the others only when everything above can be reached.
        keep.append(session.liveliness().declare_token(wiring.token))
        for key, (payload, traffic) in list(self._retained.items()):
            self._writer(traffic).do(functools.partial(self._put_retained, key, payload, traffic))

    async def _stop(self, deadline_seconds: float) -> bool:
        """Close on a thread: it can hang, and it can panic. Whether it ended in time."""
        opened, self._open = self._open, None
        if opened is None:
            return True
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def close() -> None:
            with contextlib.suppress(BaseException):  # a panic of the library arrives as one
                opened.session.close()  # type: ignore[no-untyped-call]
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(over.set)

        threading.Thread(target=close, name="skulk-planes-close", daemon=True).start()
        try:
            async with asyncio.timeout(deadline_seconds):
                await over.wait()
        except TimeoutError:
            return False
        return True

    # --- on the writers' threads ----------------------------------------------------------------------------

    def _put(self, key: str, payload: bytes, traffic: Traffic) -> None:
        opened = self._open
        if opened is not None:
            opened.session.put(
                key,
                payload,
                priority=_PRIORITY[traffic],
                congestion_control=_CONGESTION[traffic],
                express=traffic is not Traffic.TELEMETRY,
            )

    def _put_retained(self, key: str, payload: bytes, traffic: Traffic) -> None:
        opened = self._open
        if opened is None:
            return
        publisher = opened.publishers.get(key)
        if publisher is None:
            publisher = opened.publishers[key] = ext.declare_advanced_publisher(
                opened.session,
                key,
                priority=_PRIORITY[traffic],
                congestion_control=_CONGESTION[traffic],
                cache=ext.CacheConfig(1),
                publisher_detection=True,
                sample_miss_detection=ext.MissDetectionConfig(
                    heartbeat=None, sporadic_heartbeat=HEARTBEAT_SECONDS if traffic is Traffic.CONTROL else None
                ),
            )
        publisher.put(payload)

    def _writer(self, traffic: Traffic) -> Writer:
        return self._slow if traffic is Traffic.CONTROL else self._fast

    def _sized(self, large: bool) -> Writer:
        """For a query or its answer: small ones must not wait behind a blocked one."""
        return self._slow if large else self._fast

    # --- on the library's threads ---------------------------------------------------------------------------

    def _post(self, opened: _Open, act: Callable[[], None], size: int = 0, *, must: bool = True) -> None:
        """Hand over, unless the session was replaced meanwhile: the end of an old one says nothing."""

        def current() -> None:
            if self._open is opened:
                act()

        self._bridge.post(current, size, must=must)

    def _on_token(self, opened: _Open, sample: zenoh.Sample) -> None:
        key, alive = str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT
        self._post(opened, lambda: self._inbox.on_token(key, alive))

    def _on_sample(self, opened: _Open, sample: zenoh.Sample) -> None:
        if sample.kind == zenoh.SampleKind.PUT:
            key, payload = str(sample.key_expr), sample.payload.to_bytes()
            self._post(opened, lambda: self._inbox.on_message(key, payload), len(payload), must=False)

    def _on_query(self, opened: _Open, query: zenoh.Query) -> None:
        key = str(query.key_expr)
        payload = b"" if query.payload is None else query.payload.to_bytes()

        def answer(data: bytes | None) -> None:
            if data is not None:
                query.reply(key, data)  # with the query's own priority and patience
            query.drop()  # type: ignore[no-untyped-call]

        def reply(data: bytes | None) -> None:
            self._sized(data is not None and len(data) > LARGE_BYTES).do(functools.partial(answer, data))

        self._post(opened, lambda: self._inbox.on_query(key, payload, reply), len(payload), must=False)


def _cause(error: zenoh.ZError) -> str:
    """What the library says, without the places in its source that it says it at."""
    return _SOURCE_PLACE.sub("", str(error))
