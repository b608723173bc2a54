"""What the other nodes ask of this one over the planes (port `PlaneHost`), and what this one asks of all of them."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from skulk.core.coordination.planes_report import Question, decode_question, encode_question
from skulk.core.domain import GenerationRequest, NodeName, Owner, PlacementUid
from skulk.core.errors import REQ_INVALID, RequestError, SkulkError
from skulk.core.ports import ControlPlane, Generation
from skulk.core.wire.planes_messages import MessageError
from skulk.node.coordination import Coordination
from skulk.node.exchange import CommitExchange

_log = structlog.get_logger(component="host")

# A person waits for it.
RESET_SECONDS = 3.0


class Served(Protocol):
    """The part of `NodeServing` that other nodes reach."""

    async def take(self, placement: PlacementUid, request: GenerationRequest, owner: Owner) -> Generation: ...

    def reset_here(self, name: str) -> int: ...


class Host:
    """Answers for this node."""

    def __init__(self, serving: Served, coordination: Coordination, exchange: CommitExchange) -> None:
        self._serving = serving
        self._coordination = coordination
        self._exchange = exchange

    async def take(self, placement: PlacementUid, request: GenerationRequest, owner: Owner) -> Generation:
        return await self._serving.take(placement, request, owner)

    def answer(self, asker: NodeName, question: bytes) -> bytes:
        """Raises RequestError for what is no question."""
        try:
            asked = decode_question(question)
            if asked.reset is not None:
                return str(self._serving.reset_here(asked.reset)).encode()
            return self._exchange.answer(asked) if asked.commit is not None else self._coordination.answer()
        except MessageError as error:
            raise RequestError(REQ_INVALID, str(error), status=400) from error


async def reset_elsewhere(control: ControlPlane | None, name: str) -> int:
    """Have every other live node clear what is stuck of a deployment or placement; return how many were. A node that
    does not answer has nothing to say."""
    if control is None:
        return 0

    async def ask(node: NodeName) -> int:
        try:
            answer = await control.ask(node, encode_question(Question(reset=name)), deadline_seconds=RESET_SECONDS)
            return int(answer)
        except (SkulkError, RequestError, ValueError) as error:
            _log.warning("reset_not_answered", of=node, error=str(error))
            return 0

    view = control.observe()
    return sum(await asyncio.gather(*(ask(node) for node in sorted(view.live() - {view.me.node}))))
