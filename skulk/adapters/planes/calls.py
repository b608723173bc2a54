"""Signed calls from node to node: a query with an envelope, answered with an envelope.

A call is meant for one life of one node and is heard once: a copy of it is refused. An attempt after a lost answer
is a new call, so what a verb does must bear being done twice. Knows no verb's meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from skulk.adapters.planes.transport import Reply, Transport
from skulk.core.domain import Life, NodeName
from skulk.core.errors import PLN_UNREACHABLE, RequestError, Transient
from skulk.core.ports import Clock
from skulk.core.wire import planes_keys as keys
from skulk.core.wire.envelope import (
    Envelope,
    EnvelopeError,
    ReplayWindow,
    Sign,
    Verify,
    recipient,
    seal,
    unseal,
)
from skulk.core.wire.planes_messages import (
    MessageError,
    decode_failed,
    encode_failed,
    error_of,
    failed_of,
)

ATTEMPT_SECONDS = 1.5
"""One query: long for any network of a fleet, and two of them still fit into the 5 s in which a client hears."""
PAUSE_SECONDS = 0.1
"""Between attempts; a node that has just appeared may not have declared itself everywhere."""
Handler = Callable[[Envelope], bytes]
"""Acts on a call and answers at once. May raise RequestError."""


class Calls:
    """Both sides of signed calls of one node."""

    def __init__(
        self,
        fleet: str,
        me: Life,
        sign: Sign,
        transport: Transport,
        clock: Clock,
        refused: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._me = me
        self._sign = sign
        self._transport = transport
        self._clock = clock
        self._refused = refused
        self._heard: dict[NodeName, ReplayWindow] = {}
        self._seq = 0

    async def call(
        self,
        node: NodeName,
        verb: str,
        body: bytes,
        *,
        life_of: Callable[[NodeName], Life | None],
        verify: Callable[[], Verify],
        deadline_seconds: float,
    ) -> bytes:
        """The answer's body. Tries again until the deadline, then raises Transient PLN_UNREACHABLE; an error that
        the other node answered with is raised as the RequestError that it is."""
        until = self._clock.now() + deadline_seconds
        while True:
            life = life_of(node)
            left = until - self._clock.now()
            if left <= 0:
                raise Transient(PLN_UNREACHABLE, f"node {node} did not answer {verb} within {deadline_seconds:g} s")
            if life is not None:
                self._seq = seq = self._seq + 1
                sealed = seal(Envelope(self._fleet, f"call/{verb}", self._me, seq, body, recipient(life)), self._sign)
                timeout = min(ATTEMPT_SECONDS, left)
                for data in await self._transport.query(keys.call(node, verb), sealed, timeout):
                    answer = self._answer(data, life, verb, seq, verify())
                    if answer is not None:
                        return answer
            await self._clock.sleep(min(PAUSE_SECONDS, max(0.0, until - self._clock.now())))

    def _answer(self, data: bytes, life: Life, verb: str, seq: int, verify: Verify) -> bytes | None:
        try:
            answer = unseal(data, fleet=self._fleet, purpose=f"answer/{verb}", verify=verify, to=recipient(self._me))
        except EnvelopeError as error:
            self._refused(str(error))
            return None
        if answer.author != life or answer.re != seq:
            self._refused("an answer to something else")
            return None
        if answer.body[:1] == b"+":
            return answer.body[1:]
        try:
            failed = decode_failed(answer.body[1:])
        except MessageError:
            return None
        raise error_of(failed)

    def serve(self, key: str, payload: bytes, reply: Reply, verify: Verify, handlers: Mapping[str, Handler]) -> None:
        """Answer a query on `call/ME/VERB`. What is not believed is counted and left unanswered."""
        chunks = keys.split(key, "call", 2)
        handler = handlers.get(chunks[1]) if chunks is not None else None
        if chunks is None or handler is None:
            reply(None)
            return
        verb = chunks[1]
        try:
            call = unseal(payload, fleet=self._fleet, purpose=f"call/{verb}", verify=verify, to=recipient(self._me))
        except EnvelopeError as error:
            self._refused(str(error))
            reply(None)
            return
        if not self._heard.setdefault(call.author.node, ReplayWindow()).is_new(call.version):
            self._refused("a call that was heard before")
            reply(None)
            return
        try:
            body = b"+" + handler(call)
        except RequestError as error:
            body = b"-" + encode_failed(failed_of(error))
        answer = Envelope(self._fleet, f"answer/{verb}", self._me, 0, body, recipient(call.author), call.seq)
        reply(seal(answer, self._sign))


def digest_of(body: bytes) -> str:
    """The name of a body: sha256 in hex."""
    return hashlib.sha256(body).hexdigest()
