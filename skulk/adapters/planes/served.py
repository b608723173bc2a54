"""Requests of other nodes that a placement of this node serves: the sending side of their streams.

Every entry is kept until its owner has it. The generation is cancelled when the owner takes it back, is lost for
longer than its patience, or leaves too much unacknowledged; the batch never waits for an owner.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field

import structlog

from skulk.adapters.planes.owned import lost_because
from skulk.adapters.planes.transport import Traffic, Transport
from skulk.core.domain import BootId, Life, NodeName, Owner, Peer, PlacementUid, Tokens
from skulk.core.errors import REQ_INTERNAL, REQ_RESTARTING, RequestError, RetriableRefusal
from skulk.core.ports import Clock, Generation, PlaneHost
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.planes_messages import (
    Entry,
    Numbered,
    Receipt,
    Submit,
    encode_frames,
    encode_gone,
    failed_of,
)
from skulk.core.wire.planes_streams import FORGET, Outgoing

OWNER_PATIENCE_SECONDS = 15.0
"""An owner that disappears may come back for its streams within this."""
SERVED_MAX = 4096
"""Streams at once; far more than the queues of any node's runners hold."""
SECRETS_KEPT = 4096
"""Streams of the past that a repeated submission must not start again."""


log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Served:
    owner: Life
    placement: PlacementUid
    outgoing: Outgoing[Entry]
    task: asyncio.Task[None] | None = None
    generation: Generation | None = None
    over: bool = False
    """Nothing more is wanted: what the generation still yields is dropped."""


@dataclass(slots=True)
class ServedStreams:
    """All streams that this node sends."""

    me: Life
    transport: Transport
    clock: Clock
    host: PlaneHost
    _served: dict[str, _Served] = field(default_factory=dict)
    _past: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _armed: bool = False
    _closing: bool = False

    def __len__(self) -> int:
        return len(self._served)

    def take(self, submit: Submit, owner: Life) -> None:
        """Begin; the verdict is the stream's first entry. A repetition changes nothing. Raises RequestError."""
        if submit.stream in self._served or submit.stream in self._past:
            return
        if self._closing or len(self._served) >= SERVED_MAX:
            why = "is about to end" if self._closing else f"serves {SERVED_MAX} requests already"
            raise RetriableRefusal(REQ_RESTARTING, f"node {self.me.node} {why}", status=503, kind="server_error")
        served = _Served(owner, submit.placement, Outgoing(self.clock.now()))
        self._served[submit.stream] = served
        self._past[submit.stream] = None
        while len(self._past) > SECRETS_KEPT:
            self._past.popitem(last=False)
        served.task = asyncio.get_running_loop().create_task(self._run(submit, served))

    def withdraw(self, stream: str, owner: NodeName, reason: str) -> None:
        """The owner's cancel: the slot is freed within a step."""
        served = self._served.get(stream)
        if served is not None and served.owner.node == owner:
            self._drop(stream, reason)

    def on_receipts(self, owner: NodeName, boot: BootId, receipts: tuple[Receipt, ...]) -> None:
        now = self.clock.now()
        unknown: list[str] = []
        for receipt in receipts:
            served = self._served.get(receipt.stream)
            if served is None or (served.owner.node, served.owner.boot) != (owner, boot):
                if receipt.number != FORGET:
                    unknown.append(receipt.stream)
            elif receipt.number == FORGET:
                self._drop(receipt.stream, "the owner does not know the request")
            else:
                served.outgoing.acknowledge(receipt.number, now, again=receipt.again)
                self._forget_finished(receipt.stream, served)
        if unknown:
            self.transport.send(keys.gone(owner, boot), encode_gone(unknown), Traffic.SIGNAL)
        self._arm()

    def tick(self) -> None:
        """About once a second: resend what got stuck."""
        now = self.clock.now()
        for served in self._served.values():
            served.outgoing.tick(now)
        self._arm()

    def watch(self, peers: dict[NodeName, Peer]) -> None:
        """Free what lost owners asked for."""
        for stream, served in list(self._served.items()):
            why = lost_because(served.owner, peers.get(served.owner.node), OWNER_PATIENCE_SECONDS)
            if why:
                self._drop(stream, f"the owner {served.owner.node} {why}")

    async def close(self) -> None:
        """End all of them."""
        self._closing = True
        tasks = [served.task for served in self._served.values() if served.task is not None]
        for stream in list(self._served):
            self._drop(stream, "the serving node is about to end")
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, submit: Submit, served: _Served) -> None:
        owner = Owner(served.owner.node, served.owner.boot)
        try:
            generation = served.generation = await self.host.take(submit.placement, submit.request, owner)
            if served.over:
                generation.cancel("the owner does not want it any longer")
            self._append(served, generation.accepted)
            await generation.follow(lambda tokens: self._pass_on(served, generation, tokens))
        except RequestError as error:
            self._append(served, failed_of(error), last=True)
        except Exception:  # noqa: BLE001  (told in the log; the asker gets its end)
            log.error("remote_request_failed", request_id=submit.request.id, exception=traceback.format_exc())
        finally:
            self._append(served, failed_of(_unexplained(submit.placement)), last=True)

    def _pass_on(self, served: _Served, generation: Generation, tokens: Tokens) -> bool:
        self._append(served, tokens, last=tokens.finish is not None)
        if served.outgoing.overfull and not served.over:
            # The owner is alive, else `watch` had dropped it: its network cannot keep up.
            generation.cancel("the owner does not acknowledge what it was sent")
        return True

    def _append(self, served: _Served, entry: Entry, *, last: bool = False) -> None:
        if not served.over and not served.outgoing.ended:
            served.outgoing.append(entry, last=last)
            self._arm()

    def _arm(self) -> None:
        """Send in the next turn of the loop: what one engine step gave to several requests goes as one message."""
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._armed = False
        now = self.clock.now()
        messages: dict[tuple[NodeName, str, PlacementUid], tuple[Life, list[Numbered]]] = {}
        more = False
        for stream, served in self._served.items():
            burst = served.outgoing.due(now)
            if burst:
                where = (served.owner.node, served.owner.boot, served.placement)
                _, entries = messages.setdefault(where, (served.owner, []))
                entries.extend(Numbered(stream, number, entry) for number, entry in burst)
                more = more or served.outgoing.waiting
        for (_, _, placement), (owner, entries) in messages.items():
            self.transport.send(keys.frames(owner, self.me.node, placement), encode_frames(entries), Traffic.DATA)
        if more:
            self._arm()

    def _forget_finished(self, stream: str, served: _Served) -> None:
        if served.outgoing.finished:
            served.over = True
            del self._served[stream]

    def _drop(self, stream: str, reason: str) -> None:
        served = self._served.pop(stream, None)
        if served is None:
            return
        served.over = True
        if served.generation is not None:
            # Its frames are read to their end by the task, which then ends too.
            served.generation.cancel(reason)
        elif served.task is not None:
            served.task.cancel(reason)


def _unexplained(placement: PlacementUid) -> RequestError:
    """A stream never ends without a reason, whatever happened to the task that fed it."""
    return RequestError(
        REQ_INTERNAL, f"placement {placement} ended the request without a reason", status=500, kind="server_error"
    )
