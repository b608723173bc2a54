"""Commits from node to node: a hint that there is a new one, and the objects of one that a node cannot get from its
remote, as a git bundle.

A hint is sent before its sender has judged the commit, so that all look at the same time; each fetches and verifies
for itself. Who has the objects prepares the bundle when asked and says its digest as soon as it is ready; the bytes
travel as any other body. What arrives is verified and judged like everything that comes from the source.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import structlog

from skulk.core.coordination.planes_report import Question, encode_question
from skulk.core.domain import CommitId, NodeName, Topic
from skulk.core.errors import RequestError, SkulkError
from skulk.core.ports import Clock, ControlPlane, Repo

_log = structlog.get_logger(component="exchange")

ASK_SECONDS = 2.0
# Packing manifests takes a fraction of a second; a holder that needs longer is asked again by the next look.
PREPARE_ATTEMPTS = 10
PREPARE_PAUSE_SECONDS = 0.3
BODY_SECONDS = 30.0
# Prepared bundles that are kept: several members may be behind by the same commit.
BUNDLES_MAX = 4
_Key = tuple[CommitId, frozenset[CommitId]]


class CommitExchange:
    """Both sides of it for one node."""

    def __init__(self, repo: Repo, clock: Clock, *, hold: Callable[[tuple[bytes, ...]], None]) -> None:
        """`hold` is told which bundles this node answers for."""
        self._repo = repo
        self._clock = clock
        self._hold = hold
        self._control: ControlPlane | None = None
        self._hinted: dict[NodeName, bytes] = {}
        self._ready: dict[_Key, bytes] = {}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}

    def join(self, control: ControlPlane) -> None:
        self._control = control

    def part(self) -> None:
        """The planes are closed: there is nobody to ask or to tell."""
        self._control = None

    def announce(self, commit: CommitId) -> None:
        """Tell the others that the source has this commit."""
        if self._control is not None:
            self._control.publish(Topic.COMMIT, commit.encode())

    def hints(self) -> tuple[CommitId, ...]:
        """Commits that other nodes have announced since the last call."""
        if self._control is None:
            return ()
        view = self._control.observe()
        documents = view.documents.get(Topic.COMMIT, {})
        new = {n: d.body for n, d in documents.items() if n != view.me.node and self._hinted.get(n) != d.body}
        self._hinted |= new
        return tuple(CommitId(body.decode("ascii", "replace")) for body in new.values())

    async def bundle_of(self, commit: CommitId, holder: NodeName, have: frozenset[CommitId]) -> bytes | None:
        """The objects of `commit` beyond those of `have`, from `holder`; None when it does not deliver."""
        if self._control is None:
            return None
        question = encode_question(Question(commit, have))
        try:
            for _ in range(PREPARE_ATTEMPTS):
                digest = (await self._control.ask(holder, question, deadline_seconds=ASK_SECONDS)).decode("ascii")
                if digest:
                    return await self._control.fetch(digest, deadline_seconds=BODY_SECONDS)
                await self._clock.sleep(PREPARE_PAUSE_SECONDS)
        except (SkulkError, RequestError, UnicodeDecodeError) as error:
            _log.debug("bundle_not_delivered", commit=commit, holder=holder, error=str(error))
        return None

    def answer(self, question: Question) -> bytes:
        """The digest of the bundle that was asked for; empty while it is being prepared, or cannot be."""
        assert question.commit is not None, "the caller tells the two kinds apart"
        key = (question.commit, question.have)
        ready = self._ready.get(key)
        if ready is not None:
            return hashlib.sha256(ready).hexdigest().encode()
        if key not in self._tasks and len(self._tasks) < BUNDLES_MAX:
            self._tasks[key] = asyncio.create_task(self._prepare(key), name="bundle")
        return b""

    async def _prepare(self, key: _Key) -> None:
        try:
            self._ready[key] = await self._repo.bundle(*key)
            while len(self._ready) > BUNDLES_MAX:
                del self._ready[next(iter(self._ready))]
            self._hold(tuple(self._ready.values()))
        except SkulkError as error:
            _log.debug("bundle_not_made", commit=key[0], code=error.code.id, error=error.message)
        finally:
            del self._tasks[key]

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
