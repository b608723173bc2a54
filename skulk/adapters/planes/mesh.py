"""One node on the planes: what it publishes, what it believes of the others, and the streams between them.

Implements the ports ControlPlane, DataPlane and PlaneAccess over any `Transport`. Level-triggered: `observe` gives
a snapshot, the `wake` callback says that a new one is worth reading. Decides nothing about the fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from skulk.adapters.planes.calls import Calls, Handler, digest_of
from skulk.adapters.planes.owned import WITHDRAW_SECONDS, OwnedStreams
from skulk.adapters.planes.served import ServedStreams
from skulk.adapters.planes.transport import Reply, Traffic, Transport, Wiring
from skulk.core.coordination.planes_report import decode_announcement
from skulk.core.domain import (
    BootId,
    Document,
    GenerationRequest,
    Life,
    NodeName,
    PlacementUid,
    PlanesView,
    Presence,
    Topic,
)
from skulk.core.errors import PLN_BODY, PLN_UNREACHABLE, REQ_INVALID, RequestError, RetriableRefusal, Transient
from skulk.core.ports import Clock, Generation, PlaneHost
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.envelope import Envelope, Sign, Verify, seal
from skulk.core.wire.planes_documents import (
    GOODBYE,
    Documents,
    document_envelope,
    document_purpose,
)
from skulk.core.wire.planes_members import PULSE, READING_SECONDS, Membership
from skulk.core.wire.planes_messages import (
    MessageError,
    Submit,
    Withdraw,
    decode_frames,
    decode_gone,
    decode_reading,
    decode_receipts,
    decode_submit,
    decode_withdraw,
    encode_reading,
    encode_submit,
    encode_withdraw,
)
from skulk.core.wire.planes_streams import ACK_SECONDS

SUBMIT_SECONDS = 4.0
"""Until the serving node has confirmed a request: a client hears within 5 s. The verdict itself may take longer."""
REPEAT_SECONDS = 10.0
"""Everything published is sent again so often: whatever got lost on the way heals by itself."""
FETCH_ATTEMPT_SECONDS = 3.0
"""One holder's time to deliver a body before the next one is asked."""
TICK_SECONDS = ACK_SECONDS / 4
"""The planes' own clock: presence, acknowledgements, resends."""


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is on the planes, how it signs, and how it checks others.

    `verifier` makes a check from the public keys of the nodes that are trusted now. `plain`: nothing is signed.
    """

    namespace: str
    life: Life
    sign: Sign
    verifier: Callable[[Mapping[NodeName, bytes]], Verify]
    secret: Callable[[], str]
    """A new secret of at least 128 random bits, in characters that a key may hold."""
    plain: bool = False


class Planes:
    """Ports ControlPlane, DataPlane and PlaneAccess of one node."""

    def __init__(
        self, identity: Identity, transport: Transport, clock: Clock, host: PlaneHost, wake: Callable[[], None]
    ) -> None:
        self._me = me = identity.life
        self._identity = identity
        self._transport = transport
        self._clock = clock
        self._host = host
        self._wake = wake
        self._fleet = keys.fleet_prefix(identity.namespace)
        self._verify: Verify = identity.verifier({})
        self._members = Membership(me)
        self._documents = Documents(self._fleet)
        self._published: dict[Topic, tuple[bytes, bytes]] = {}
        self._reported: dict[str, bytes] = {}
        self._changes = 0
        self._seq = 0
        self._held: dict[str, bytes] = {}
        self._calls = Calls(self._fleet, me, identity.sign, transport, clock, self._refuse)
        self._owned = OwnedStreams(me, transport, clock, self._withdraw)
        self._served = ServedStreams(me, transport, clock, host)
        self._ticker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[str, Handler] = {
            "submit": self._on_submit,
            "withdraw": self._on_withdraw,
            "ask": lambda call: self._host.answer(call.author.node, call.body),
        }

    # --- life -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Join. Raises PLN_OPEN."""
        me = self._me
        wiring = Wiring(
            token=keys.live(me),
            tokens="live/**",
            retained=("doc/**", "reading/**"),
            messages=("bye/*", f"frames/{me.node}/{me.boot}/**", f"ack/{me.node}/**", keys.gone(me.node, me.boot)),
            queries=(f"body/{me.node}/*", f"call/{me.node}/*"),
        )
        await self._transport.open(wiring, self)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def redial(self, endpoints: tuple[str, ...], *, anew: bool = False) -> bool:
        return await self._transport.redial(endpoints, anew=anew)

    async def close(self, deadline_seconds: float) -> bool:
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        await self._served.close()
        self._owned.fail_all(f"node {self._me.node} is about to end")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        goodbye = Envelope(self._fleet, GOODBYE, self._me, self._next(), b"")
        self._transport.send(keys.bye(self._me.node), seal(goodbye, self._identity.sign), Traffic.CONTROL)
        return await self._transport.close(deadline_seconds)

    def trust(self, keys: Mapping[NodeName, bytes]) -> None:
        self._verify = self._identity.verifier(dict(keys))
        if not self._identity.plain and self._documents.judge_again(keys, self._verify):
            self._wake()

    # --- control and telemetry ------------------------------------------------------------------------------

    def observe(self) -> PlanesView:
        now = self._clock.now()
        return PlanesView(
            me=self._me,
            changes=self._changes,
            peers=self._members.peers(now),
            documents=self._documents.view(),
            readings=self._members.readings(now),
            rivals=self._members.rivals(),
            superseded=self._members.superseded(),
            refused=dict(self._documents.refused),
            plain=self._identity.plain,
        )

    def publish(self, topic: Topic, body: bytes) -> bytes:
        known = self._published.get(topic)
        if known is not None and known[0] == body:
            return known[1]
        envelope = document_envelope(self._fleet, topic, self._me, self._next(), body)
        sealed = seal(envelope, self._identity.sign)
        self._published[topic] = (body, sealed)
        self._transport.retain(keys.document(topic, self._me.node), sealed, Traffic.CONTROL)
        return sealed

    def believed(self, topic: Topic, author: NodeName, sealed: bytes) -> Document | None:
        found = self._documents.believed(sealed, key=document_purpose(topic), node=author, verify=self._verify)
        return None if found is None else Document(topic, found.author, found.seq, found.body, sealed)

    def report(self, kind: str, values: Mapping[str, object]) -> None:
        key = keys.reading(self._me.node, kind)
        payload = encode_reading(self._me, self._next(), self._clock.now(), values)
        if kind != PULSE:
            self._reported[kind] = payload
        self._transport.retain(key, payload, Traffic.TELEMETRY)

    def hold(self, bodies: Collection[bytes]) -> None:
        self._held = {digest_of(body): body for body in bodies}

    async def fetch(self, digest: str, *, deadline_seconds: float) -> bytes:
        until = self._clock.now() + deadline_seconds
        while digest not in self._held:
            for node in self._holders(digest):
                left = until - self._clock.now()
                if left <= 0:
                    break
                answers = await self._transport.query(
                    keys.body(node, digest), b"", min(FETCH_ATTEMPT_SECONDS, left), large=True
                )
                for body in answers:
                    if digest_of(body) == digest:
                        return body
                    self._refuse("a body with another digest")
            if self._clock.now() >= until:
                raise Transient(PLN_BODY, f"no member delivered {digest[:12]} within {deadline_seconds:g} s")
            await self._clock.sleep(min(TICK_SECONDS, until - self._clock.now()))
        return self._held[digest]

    async def ask(self, node: NodeName, question: bytes, *, deadline_seconds: float) -> bytes:
        return await self._call(node, "ask", question, deadline_seconds)

    # --- data -----------------------------------------------------------------------------------------------

    async def submit(self, node: NodeName, placement: PlacementUid, request: GenerationRequest) -> Generation:
        life = self._members.life_of(node)
        if life is None:
            raise _unreachable(f"node {node} is not connected")
        secret = self._identity.secret()
        stream = self._owned.open(secret, life, placement, request)
        body = encode_submit(Submit(placement, secret, request))
        try:
            await self._call(node, "submit", body, SUBMIT_SECONDS)
        except Transient as error:
            stream.cancel("the node does not answer")
            raise _unreachable(error.message) from error
        except BaseException:
            stream.cancel("the owner waits no longer")
            raise
        return await self._owned.generation(secret, stream)

    def streams(self) -> int:
        return len(self._owned) + len(self._served)

    def _on_submit(self, call: Envelope) -> bytes:
        try:
            submit = decode_submit(call.body)
        except MessageError as error:
            raise RequestError(REQ_INVALID, str(error), status=400) from error
        self._served.take(submit, call.author)
        return b""

    def _on_withdraw(self, call: Envelope) -> bytes:
        try:
            withdraw = decode_withdraw(call.body)
        except MessageError as error:
            raise RequestError(REQ_INVALID, str(error), status=400) from error
        self._served.withdraw(withdraw.stream, call.author.node, withdraw.reason)
        return b""

    def _withdraw(self, node: NodeName, stream: str, reason: str) -> None:
        async def tell() -> None:
            with contextlib.suppress(Transient, RequestError):
                await self._call(node, "withdraw", encode_withdraw(Withdraw(stream, reason)), WITHDRAW_SECONDS)

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- inbox ----------------------------------------------------------------------------------------------

    def on_reset(self) -> None:
        self._members.reset(self._clock.now())

    def on_token(self, key: str, alive: bool) -> None:
        life = keys.live_of(key)
        if life is not None and self._members.token(life, alive, self._clock.now()):
            self._changes += 1
            self._wake()

    def on_message(self, key: str, payload: bytes) -> None:
        """Whatever comes, this never raises: what cannot be read is counted."""
        try:
            self._route(key.split("/"), key, payload)
        except ValueError:  # MessageError, or a name that cannot be part of a key
            self._refuse("malformed")

    def on_query(self, key: str, payload: bytes, reply: Reply) -> None:
        chunks = keys.split(key, "body", 2)
        if chunks is not None:
            reply(self._held.get(chunks[1]))
        else:
            self._calls.serve(key, payload, reply, self._verify, self._handlers)

    def _route(self, chunks: list[str], key: str, payload: bytes) -> None:
        match chunks:
            case ["doc", _, _]:
                if self._documents.take(key, payload, self._verify) is not None:
                    self._wake()
            case ["reading", node, kind]:
                self._on_reading(NodeName(node), kind, payload)
            case ["bye", node]:
                bye = self._documents.believed(payload, key=GOODBYE, node=NodeName(node), verify=self._verify)
                if bye is not None and self._members.goodbye(bye.author):
                    self._changes += 1
                    self._wake()
            case ["frames", _, _, server, _]:
                self._owned.on_frames(NodeName(server), decode_frames(payload))
            case ["ack", _, owner, boot]:
                self._served.on_receipts(NodeName(owner), BootId(boot), decode_receipts(payload))
            case ["gone", _, _]:
                self._owned.on_gone(decode_gone(payload))
            case _:
                self._refuse("on an unknown key")

    def _on_reading(self, node: NodeName, kind: str, payload: bytes) -> None:
        measured = decode_reading(payload)
        life = Life(node, measured.boot, measured.life)
        taken = self._members.reading(life, kind, measured.seq, measured.taken_at, measured.values, self._clock.now())
        if taken and kind != PULSE:
            self._wake()

    # --- inside ---------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        seen: dict[NodeName, Presence] = {}
        pulse_at = ack_at = self._clock.now()
        repeat_at = pulse_at + REPEAT_SECONDS
        while True:
            now = self._clock.now()
            try:
                if now >= pulse_at:
                    pulse_at = now + READING_SECONDS
                    self.report(PULSE, {})
                if now >= ack_at:
                    ack_at = now + ACK_SECONDS
                    self._owned.acknowledge()
                    self._served.tick()
                if now >= repeat_at:
                    repeat_at = now + REPEAT_SECONDS
                    self._repeat()
                seen = self._watch(seen, now)
            except Exception:  # noqa: BLE001  (told in the log; the planes must go on)
                log.error("planes_upkeep_failed", exception=traceback.format_exc())
            await self._clock.sleep(TICK_SECONDS)

    def _repeat(self) -> None:
        """Send everything again as it is: whoever has it sees by its number that it is nothing new."""
        for topic, (_, sealed) in self._published.items():
            self._transport.retain(keys.document(topic, self._me.node), sealed, Traffic.CONTROL)
        for kind, payload in self._reported.items():
            self._transport.retain(keys.reading(self._me.node, kind), payload, Traffic.TELEMETRY)

    def _watch(self, seen: dict[NodeName, Presence], now: float) -> dict[NodeName, Presence]:
        """End what lost nodes own or serve; wake whoever reads the view when a presence is another one."""
        peers = self._members.peers(now)
        self._owned.watch(peers)
        self._served.watch(peers)
        presence = {name: peer.presence for name, peer in peers.items()}
        if presence != seen:
            self._changes += 1
            self._wake()
        return presence

    async def _call(self, node: NodeName, verb: str, body: bytes, deadline_seconds: float) -> bytes:
        return await self._calls.call(
            node,
            verb,
            body,
            life_of=self._members.life_of,
            verify=lambda: self._verify,
            deadline_seconds=deadline_seconds,
        )

    def _holders(self, digest: str) -> list[NodeName]:
        """Who may have a body: first those that announce it, then all other members."""
        announced: list[NodeName] = []
        for node, document in self._documents.view()[Topic.ANNOUNCEMENT].items():
            with contextlib.suppress(MessageError):
                if decode_announcement(document.body).digest == digest:
                    announced.append(node)
        live = self.observe().live()
        others = sorted(live - set(announced))
        return [node for node in [*(n for n in announced if n in live), *others] if node != self._me.node]

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _refuse(self, reason: str) -> None:
        self._documents.refused[reason] += 1


def _unreachable(message: str) -> RetriableRefusal:
    return RetriableRefusal(PLN_UNREACHABLE, message, status=503, kind="server_error", slug="node_unreachable")
