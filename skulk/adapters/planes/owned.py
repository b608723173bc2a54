"""Requests of this node that a placement of another node serves: the owner's side of their streams.

Feeds the same `Stream` as a local runner does, so that the gateway cannot tell the difference. What is missing is
asked for again; a serving node that is lost ends its streams with a reason, in time and never silently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from skulk.adapters.planes.transport import Traffic, Transport
from skulk.adapters.runners.streams import RunnerGeneration, Stream
from skulk.core.domain import (
    Accepted,
    GenerationRequest,
    Life,
    NodeName,
    Peer,
    PlacementUid,
    Presence,
    Tokens,
)
from skulk.core.ports import Clock
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.planes_messages import Failed, Numbered, Receipt, encode_receipts, error_of
from skulk.core.wire.planes_streams import FORGET, Incoming
from skulk.core.wire.runner import Cancel, ToRunner

ABSENT_SECONDS = 2.0
"""Without a token for so long beyond the lease (2 s): the client hears of it within 5 s. A shorter cut is bridged."""
WITHDRAW_SECONDS = 10.0
"""How long a cancel is repeated; after it every entry of the stream is answered with FORGET."""
STALLED_SECONDS = 20.0
"""Connected, but its loop has not turned for so long: as good as lost, however loaded the machine is."""


@dataclass(slots=True)
class _Owned:
    server: Life
    stream: Stream
    incoming: Incoming = field(default_factory=Incoming)
    confirmed: bool = False
    """The serving node has the request: before that, an acknowledgement would look like one of a lost stream."""


class OwnedStreams:
    """All streams that this node receives."""

    def __init__(
        self, me: Life, transport: Transport, clock: Clock, withdraw: Callable[[NodeName, str, str], None]
    ) -> None:
        self._me = me
        self._transport = transport
        self._clock = clock
        self._withdraw = withdraw
        """Tell (node) that (stream) is not wanted any longer, for (reason)."""
        self._owned: dict[str, _Owned] = {}
        self._withdrawn: dict[str, float] = {}
        """Streams whose cancel is on its way, and until when: it carries the reason, a FORGET would not."""

    def __len__(self) -> int:
        return len(self._owned)

    def open(self, secret: str, server: Life, placement: PlacementUid, request: GenerationRequest) -> Stream:
        """Expect entries under that secret. The stream removes itself when it ends."""

        def send(message: ToRunner) -> None:
            if isinstance(message, Cancel):
                self._withdrawn[secret] = self._clock.now() + WITHDRAW_SECONDS
                self._withdraw(server.node, secret, message.reason)

        stream = Stream(placement, request.id, send, lambda: self._over(secret))
        self._owned[secret] = _Owned(server, stream)
        return stream

    async def generation(self, secret: str, stream: Stream) -> RunnerGeneration:
        """The serving node has the request: wait for the verdict. Raises the refusal; cancels the request when the
        wait itself is cancelled."""
        if secret in self._owned:
            self._owned[secret].confirmed = True
        try:
            return RunnerGeneration(stream, await stream.accepted())
        except BaseException:
            stream.cancel("the owner waits no longer")
            raise

    def on_frames(self, server: NodeName, entries: tuple[Numbered, ...]) -> None:
        """Entries from a serving node; those of unknown streams are answered, so that it can forget them."""
        now = self._clock.now()
        receipts: list[Receipt] = []
        for item in entries:
            owned = self._owned.get(item.stream)
            if owned is None or owned.server.node != server:
                known = now < self._withdrawn.get(item.stream, now)
                if not known and not any(r.stream == item.stream for r in receipts):
                    receipts.append(Receipt(item.stream, FORGET))
                continue
            if owned.incoming.take(item.number):
                self._deliver(owned, item)
                if item.stream not in self._owned:
                    # The last entry: the serving node may forget at once.
                    receipts.append(Receipt(item.stream, item.number))
            elif owned.incoming.ask_again(now):
                receipts.append(Receipt(item.stream, owned.incoming.received, again=True))
        self._send(server, receipts)

    def _deliver(self, owned: _Owned, item: Numbered) -> None:
        match item.entry:
            case Accepted():
                owned.stream.on_accepted(item.entry)
            case Failed():
                owned.stream.fail(error_of(item.entry))
            case Tokens():
                owned.stream.on_tokens(item.entry)

    def on_gone(self, streams: tuple[str, ...]) -> None:
        """The serving node does not know these: it was restarted, or gave them up."""
        for secret in streams:
            owned = self._owned.get(secret)
            if owned is not None:
                owned.stream.lose(f"node {owned.server.node} does not have the request any longer")

    def acknowledge(self) -> None:
        """Once a second: say how far every stream is."""
        now = self._clock.now()
        for secret in [secret for secret, until in self._withdrawn.items() if until <= now]:
            del self._withdrawn[secret]
        by_server: dict[NodeName, list[Receipt]] = {}
        for secret, owned in self._owned.items():
            if owned.confirmed:
                by_server.setdefault(owned.server.node, []).append(Receipt(secret, owned.incoming.received))
        for server, receipts in by_server.items():
            self._send(server, receipts)

    def watch(self, peers: dict[NodeName, Peer]) -> None:
        """End what a lost node served."""
        for owned in list(self._owned.values()):
            why = lost_because(owned.server, peers.get(owned.server.node), ABSENT_SECONDS)
            if why:
                owned.stream.lose(f"node {owned.server.node} {why}")

    def fail_all(self, why: str) -> None:
        for owned in list(self._owned.values()):
            owned.stream.lose(why)

    def _over(self, secret: str) -> None:
        self._owned.pop(secret, None)

    def _send(self, server: NodeName, receipts: list[Receipt]) -> None:
        if receipts:
            self._transport.send(keys.ack(server, self._me), encode_receipts(receipts), Traffic.SIGNAL)


def lost_because(life: Life, peer: Peer | None, absent_seconds: float) -> str:
    """Why that life of a node is lost for a stream; empty while it is not."""
    if peer is None:
        return "is not connected"
    if peer.life != life:
        return "was restarted"
    if peer.presence is Presence.LEFT:
        return "went away"
    if peer.presence is Presence.LOST and peer.absent_seconds >= absent_seconds:
        return f"has been unreachable for {peer.absent_seconds:.0f} s"
    if peer.presence is Presence.SUSPECT and (peer.age_seconds or 0.0) >= STALLED_SECONDS:
        return f"has been silent for {peer.age_seconds:.0f} s"
    return ""
