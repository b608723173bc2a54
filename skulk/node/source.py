"""The source side of a node: look at the repository, judge what is there, keep the last good commit.

It only ever replaces its `state`; the node loop reads that. Polls with jitter and backoff; a directory source or
`poke()` makes it look at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from skulk.core.domain import CommitId, Condition, ConditionType, Fleet, Reason, Status
from skulk.core.errors import SkulkError
from skulk.core.manifests import load
from skulk.core.ports import Clock, Journal, Persisted, Repo
from skulk.core.reconcile.acceptance import Accept, Reject, SourcePolicy, judge, required_verification
from skulk.core.reconcile.polling import is_stale, next_poll

_log = structlog.get_logger(component="source")

# Before the first accepted commit no Fleet says how often to look.
POLL_SECONDS_DEFAULT = 30.0


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the source has led to so far. `fleet` is the last accepted one, whatever came after it."""

    fleet: Fleet | None = None
    attempted: CommitId | None = None
    accepted: CommitId | None = None
    standing: Reason = Reason.COMMIT_ACCEPTED
    """How this node stands in the accepted commit: in it, leaving, or not in the fleet."""
    misses: int = 0
    conditions: tuple[Condition, ...] = (
        Condition(ConditionType.READY, Status.FALSE, Reason.NO_COMMIT, "the source was not looked at yet"),
    )

    @property
    def leaving(self) -> bool:
        """Nothing may run here: the accepted commit has no manifest of this node."""
        return self.standing is not Reason.COMMIT_ACCEPTED


class SourceLoop:
    """Owns the port `Repo` and the journal's accepted commit."""

    def __init__(
        self,
        repo: Repo,
        journal: Journal,
        clock: Clock,
        policy: SourcePolicy,
        *,
        jitter: Callable[[], float],
        wake: Callable[[], None],
        poll_seconds: float | None = None,
    ) -> None:
        self._repo = repo
        self._journal = journal
        self._clock = clock
        self._policy = policy
        self._jitter = jitter
        self._wake = wake
        self._poll_seconds = poll_seconds
        self._poked = asyncio.Event()
        self.state = SourceState()

    async def restore(self) -> None:
        """Take up the last accepted commit from the local mirror, without the network. A node that comes back
        while the remote is down goes on with what it had."""
        accepted = self._journal.load().accepted
        if accepted is None:
            return
        # Known even when its manifests cannot be read any more: it still bars the way back.
        self.state = replace(self.state, accepted=accepted)
        try:
            loaded = load(await self._repo.tree(accepted), accepted)
        except SkulkError as error:
            _log.warning("restore_failed", commit=accepted, code=error.code.id, error=error.message)
            message = f"commit {accepted[:12]} was accepted but cannot be read here: {error}"
            lost = Condition(ConditionType.READY, Status.FALSE, Reason.NO_COMMIT, message, accepted)
            self.state = replace(self.state, conditions=(lost,))
            return
        if loaded.fleet is not None:
            present = self._policy.node in loaded.fleet.nodes
            standing = Reason.COMMIT_ACCEPTED if present else Reason.NODE_NOT_IN_FLEET
            conditions = _accepted(accepted, standing)
            self.state = SourceState(loaded.fleet, accepted, accepted, standing, conditions=conditions)

    def poke(self) -> None:
        """Look now instead of at the next poll."""
        self._poked.set()

    async def run(self) -> None:
        while True:
            await self.look()
            await self._wait()

    async def look(self) -> None:
        """One look at the source; every outcome ends in a new `state`."""
        try:
            head = await self._repo.head()
            if head != self.state.attempted or self.state.misses:
                await self._consider(head)
        except SkulkError as error:
            self._miss(error)
        self._wake()

    async def _consider(self, head: CommitId) -> None:
        before = self.state
        if head == before.accepted and before.fleet is not None:
            conditions = _accepted(head, before.standing)
            self.state = replace(before, attempted=head, misses=0, conditions=conditions)
            return
        verify = required_verification(self._policy, before.fleet)
        facts = await self._repo.facts(head, before.accepted, verify)
        loaded = load(await self._repo.tree(head), head)
        verdict = judge(facts, loaded, before.fleet, self._policy, remembered=before.accepted)
        match verdict:
            case Accept():
                # Durable before it is acted on: a daemon that dies now must not come back older than it was.
                self._journal.save(Persisted(accepted=head))
                conditions = _accepted(head, verdict.reason)
                self.state = SourceState(verdict.fleet, head, head, verdict.reason, conditions=conditions)
                _log.info("commit_accepted", commit=head, subject=facts.subject, warnings=list(verdict.warnings))
            case Reject():
                message = f"{verdict.code.id} {verdict.message} ({verdict.code.fix})"
                self.state = replace(
                    before,
                    attempted=head,
                    misses=0,
                    conditions=(
                        Condition(ConditionType.STALLED, Status.TRUE, verdict.reason, message, head),
                        Condition(ConditionType.READY, Status.FALSE, verdict.reason, message, head),
                    ),
                )
                _log.warning("commit_refused", commit=head, code=verdict.code.id, error=verdict.message)

    def _miss(self, error: SkulkError) -> None:
        misses = self.state.misses + 1
        reason = Reason.SOURCE_STALE if is_stale(misses) else Reason.SOURCE_UNREACHABLE
        message = f"{error} [{misses} looks in a row failed]"
        kept = tuple(c for c in self.state.conditions if c.type is ConditionType.STALLED and c.reason not in _UNREACHED)
        stale = Condition(ConditionType.RECONCILING, Status.TRUE, reason, message, self.state.accepted)
        ready = Condition(ConditionType.READY, Status.FALSE, reason, message, self.state.accepted)
        self.state = replace(self.state, misses=misses, conditions=(*kept, stale, ready))
        _log.warning("source_missed", code=error.code.id, error=error.message, misses=misses)

    async def _wait(self) -> None:
        interval = self._poll_seconds
        if interval is None:
            interval = self.state.fleet.poll_seconds if self.state.fleet else POLL_SECONDS_DEFAULT
        pause = next_poll(interval, self.state.misses, self._jitter())
        waits = [
            asyncio.ensure_future(self._clock.sleep(pause)),
            asyncio.ensure_future(self._repo.changed()),
            asyncio.ensure_future(self._poked.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._poked.clear()


_UNREACHED = frozenset({Reason.SOURCE_STALE, Reason.SOURCE_UNREACHABLE})


def _accepted(commit: CommitId, reason: Reason) -> tuple[Condition, ...]:
    if reason is Reason.COMMIT_ACCEPTED:
        return (Condition(ConditionType.READY, Status.TRUE, reason, f"commit {commit[:12]} is accepted", commit),)
    removed = "removed the manifest of this node" if reason is Reason.LEAVING else "has no manifest of this node"
    message = f"commit {commit[:12]} {removed}: nothing runs here until there is one"
    return (Condition(ConditionType.READY, Status.FALSE, reason, message, commit),)
